//! Results of pure subexpressions, shared across rules and computed at most once per event.
//!
//! A compiler gives structurally equal pure subexpressions the same slot; a slot holds the
//! result for the current generation. Starting a new event costs one increment. Programs of
//! several compilers may use one memo: each compiler has a space of its own. Answers about data
//! files depend on nothing but the text asked for, so they outlive the event.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::builtins::xml::Tree;

/// Most answers about data files that are kept.
const LOOKUPS: usize = 8192;
/// Longest text whose answer is kept, in bytes.
const LOOKUP_TEXT: usize = 1024;

/// Most compilers whose results are kept at a time; reloads leave old ones behind.
const SPACES: usize = 8;

/// One slot's content.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    /// A truth value.
    Bool(bool),
    /// Text, shared.
    Text(Rc<str>),
    /// An integer.
    Int(i64),
    /// Evaluation failed; the text of the error.
    Failed(Rc<str>),
}

/// The shared results of one worker.
#[derive(Debug, Default)]
pub struct Memo {
    generation: Cell<u64>,
    spaces: RefCell<Vec<Space>>,
    lookups: RefCell<HashMap<u64, HashMap<Box<str>, bool>>>,
    looked_up: Cell<usize>,
    xml: RefCell<Option<Rc<Tree>>>,
}

/// The results of one compiler's programs.
#[derive(Debug)]
struct Space {
    compiler: u64,
    slots: Vec<(u64, Option<Cached>)>,
}

impl Memo {
    /// Forgets what was computed for the event: call it when the event changes.
    pub fn next(&self) {
        self.generation.set(self.generation.get() + 1);
    }

    /// What slot `index` of `compiler` holds for the current event.
    pub(crate) fn get(&self, compiler: u64, index: usize) -> Option<Cached> {
        let spaces = self.spaces.borrow();
        let space = spaces.iter().find(|space| space.compiler == compiler)?;
        match space.slots.get(index) {
            Some((generation, cached)) if *generation == self.generation.get() => cached.clone(),
            _ => None,
        }
    }

    /// Remembers the result of slot `index` of `compiler` for the current event.
    pub(crate) fn set(&self, compiler: u64, index: usize, value: Cached) {
        let mut spaces = self.spaces.borrow_mut();
        let at = spaces.iter().position(|space| space.compiler == compiler).unwrap_or_else(|| {
            if spaces.len() >= SPACES {
                spaces.remove(0);
            }
            spaces.push(Space { compiler, slots: Vec::new() });
            spaces.len() - 1
        });
        let slots = &mut spaces[at].slots;
        if slots.len() <= index {
            slots.resize(index + 1, (u64::MAX, None));
        }
        slots[index] = (self.generation.get(), Some(value));
    }

    /// The answer of data file `file` for `text`, asked once for as long as there is room.
    pub(crate) fn lookup(&self, file: u64, text: &str, ask: impl FnOnce() -> bool) -> bool {
        if text.len() > LOOKUP_TEXT {
            return ask();
        }
        if let Some(answer) = self.lookups.borrow().get(&file).and_then(|answers| answers.get(text)) {
            return *answer;
        }
        let answer = ask();
        let mut lookups = self.lookups.borrow_mut();
        if self.looked_up.get() >= LOOKUPS {
            lookups.clear();
            self.looked_up.set(0);
        }
        self.looked_up.set(self.looked_up.get() + 1);
        lookups.entry(file).or_default().insert(text.into(), answer);
        answer
    }

    /// The tree of an XML text; the last one is kept, since rules ask one line for many paths.
    pub(crate) fn xml(&self, text: &str) -> Rc<Tree> {
        let mut kept = self.xml.borrow_mut();
        match &*kept {
            Some(tree) if tree.source() == text => Rc::clone(tree),
            _ => Rc::clone(kept.insert(Rc::new(Tree::parse(text)))),
        }
    }
}
