//! Results of pure subexpressions, shared across rules and computed at most once per event.
//!
//! The compiler gives structurally equal pure subexpressions the same slot; a slot holds the
//! result for the current generation. Starting a new event costs one increment.

use std::cell::{Cell, RefCell};

/// One slot's content.
#[derive(Clone, Debug)]
pub enum Cached {
    /// A truth value.
    Bool(bool),
    /// Text, shared.
    Text(std::rc::Rc<str>),
    /// An integer.
    Int(i64),
    /// Evaluation failed; the text of the error.
    Failed(std::rc::Rc<str>),
}

/// The shared results of one worker.
#[derive(Debug, Default)]
pub struct Memo {
    generation: Cell<u64>,
    slots: RefCell<Vec<(u64, Option<Cached>)>>,
}

impl Memo {
    /// Forgets everything: call it when the event changes.
    pub fn next(&self) {
        self.generation.set(self.generation.get() + 1);
    }

    /// What slot `index` holds for the current event.
    pub fn get(&self, index: usize) -> Option<Cached> {
        let slots = self.slots.borrow();
        match slots.get(index) {
            Some((generation, cached)) if *generation == self.generation.get() => cached.clone(),
            _ => None,
        }
    }

    /// Remembers the result of slot `index` for the current event.
    pub fn set(&self, index: usize, value: Cached) {
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= index {
            slots.resize(index + 1, (u64::MAX, None));
        }
        slots[index] = (self.generation.get(), Some(value));
    }
}
