//! The scanner: walks a text from one byte, taking the ways that are open in the order in which the regex prefers them.
//!
//! Most log patterns are runs of literals and classes in which nearly every step is forced: a class ends where the next thing
//! begins. A step that is forced leaves nothing behind; one that is not leaves a mark to come back to. Ways are tried in the order of
//! preference, and left out only where no match can lie, so the first way that arrives is the one that any regex engine
//! reports, with the same captures. What would take too long, or cannot be ordered, is [`Verdict::Unsure`]: the regex decides.
//!
//! A match that begins at the first byte is the leftmost one. Where there is none, a literal that every match contains says where
//! else one could begin: an automaton walks back from it over what stands before it in the pattern.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use memchr::memmem::Finder;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::{NonMaxUsize, StateID};
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Capture, Class, Hir, HirKind, Look, Repetition};

/// What a scanner says about a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is a match, the slots tell of the leftmost one.
    Match,
    /// There is none.
    NoMatch,
    /// It would take too long to say, or the order of the ways is not known.
    Unsure,
}

/// A matcher for one pattern.
#[derive(Debug)]
pub struct Scanner {
    code: Box<[Op]>,
    entry: usize,
    starts: Starts,
}

/// An automaton as one table.
#[derive(Debug)]
struct Table {
    classes: [u8; 256],
    /// Entries of a state: one for each class of bytes, one for the end of the text.
    stride: usize,
    /// First entry of the next state, and marks.
    next: Box<[u32]>,
    /// By the byte before the first one; the last for none.
    starts: Box<[u32]>,
}

/// In an entry: a match ended before the byte that led there.
const MATCHED: u32 = 1 << 31;
/// In an entry: nothing more can match.
const DEAD: u32 = 1 << 30;
/// In an entry: the automaton cannot go on.
const STUCK: u32 = 1 << 29;
/// What is no mark in an entry.
const STATE: u32 = STUCK - 1;

/// Automata that are built already: addresses and dates occur in many patterns.
#[derive(Default)]
pub struct Automata {
    /// By regex and purpose; nothing where it would be too large.
    known: Mutex<HashMap<Purpose, Option<Arc<Table>>>>,
}

type Purpose = (String, Use);

/// What an automaton is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    /// To find every end of a piece.
    Ends,
    /// To find the end that the regex prefers.
    Preferred,
    /// To find where a piece could begin, if it ends where the automaton is put.
    Begins,
}

/// Where a match could begin.
#[derive(Debug)]
enum Starts {
    /// At the first byte.
    First,
    /// Before this literal, as far as what stands before it in the pattern reaches.
    Before(Box<Landmark>),
    /// Anywhere.
    Anywhere,
}

/// A literal that every match contains.
#[derive(Debug)]
struct Landmark {
    finder: Finder<'static>,
    /// Its step. What failed there once, fails there from every start.
    op: usize,
    /// What stands before it, relaxed; nothing if it comes first.
    before: Option<Hir>,
    backwards: OnceLock<Option<Arc<Table>>>,
    automata: Arc<Automata>,
}

/// What a scan writes down; kept so that its memory is used again.
#[derive(Debug, Default)]
pub struct Marks {
    ways: Vec<Mark>,
    /// Where the landmark stood when nothing came of it.
    failed: Vec<usize>,
    starts: Vec<usize>,
}

/// Most steps of a scanner.
const MAX_STEPS: usize = 1200;
/// Bytes of the automaton of one token.
const MAX_DFA: usize = 320 << 10;
/// A repetition of a group is written out this often at most.
const MAX_UNROLLED: u32 = 16;
/// Most ways of one choice.
const MAX_WAYS: usize = 64;
/// Most marks that a scan may leave.
const MAX_MARKS: usize = 2048;
/// Most places that are remembered as hopeless.
const MAX_FAILED: usize = 16;
/// Bytes that a scan may look at: so many for each byte of the text, and so many more.
const WORK: (usize, usize) = (12, 4096);
/// Shortest literal, but for a first one, that tells where a match could begin.
const MIN_LANDMARK: usize = 2;
/// With how many bytes of its own alphabet a token may be followed, for its ends to be worth counting.
const FEW: usize = 4;

/// One step and the number of what follows it.
#[derive(Debug)]
struct Op {
    step: Step,
    /// The slot that holds where the step ended, if it is the edge of a group.
    edge: Option<usize>,
    then: usize,
}

#[derive(Debug)]
enum Step {
    Literal(Box<[u8]>),
    /// Exactly so many bytes of a set.
    Fixed(Box<ByteSet>, usize),
    /// One character that begins with a byte of a set.
    Char(Box<ByteSet>),
    /// A run that ends where the set does: what follows begins with no byte of it.
    Run(Box<Run>),
    /// A run with nothing behind it that could fail.
    Rest(Box<Run>),
    /// A run that could end wherever what follows could begin.
    Ends(Box<Run>, Follow),
    /// A run before a literal that could also lie within the run.
    Until(Box<Run>, Box<Finder<'static>>),
    Token(Box<Token>),
    Save(usize),
    Look(Look),
    Choice(Box<Choice>),
    Match,
}

impl Step {
    /// Whether it goes on with one step only, in one or more places.
    fn ends_once(&self) -> bool {
        !matches!(self, Self::Choice(_) | Self::Match | Self::Save(_))
    }
}

/// Bytes of a set, as many as there are.
#[derive(Debug)]
struct Run {
    set: ByteSet,
    stops: Stops,
    min: usize,
    max: usize,
    greedy: bool,
}

/// Where something may end, by the byte behind it.
#[derive(Clone, Debug)]
struct Follow {
    bytes: ByteSet,
    end: bool,
}

/// A piece without captures, as an automaton.
#[derive(Debug)]
struct Token {
    follow: Follow,
    /// Knows every end.
    all: Option<Arc<Table>>,
    /// Knows the end that the regex prefers.
    preferred: Option<Arc<Table>>,
    /// What follows never fails.
    sure: bool,
}

/// The next byte says which ways are open.
#[derive(Debug)]
struct Choice {
    /// By byte the number of a mask.
    table: [u8; 256],
    at_end: u64,
    masks: Vec<u64>,
    ways: Box<[usize]>,
}

/// What a scan comes back to when a way ends nowhere.
#[derive(Clone, Copy, Debug)]
enum Mark {
    /// Other ways of a choice.
    Ways { op: usize, at: usize, mask: u64 },
    /// Other ends of a run: offsets that are left.
    Ends { op: usize, at: usize, from: usize, to: usize },
    /// What a slot held.
    Slot { slot: usize, held: Option<NonMaxUsize> },
    /// Other ways of which the order is not known.
    Unknown,
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByteSet([u64; 4]);

impl ByteSet {
    const ALL: Self = Self([u64::MAX; 4]);

    fn of(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        for byte in bytes {
            set.insert(*byte);
        }
        set
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|byte| self.has(*byte))
    }
}

/// How to find the end of a run.
#[derive(Debug)]
enum Stops {
    Nothing,
    One(u8),
    Two(u8, u8),
    Three(u8, u8, u8),
    Many(Box<[bool; 256]>),
}

impl Stops {
    fn of(set: &ByteSet) -> Self {
        let others: Vec<u8> = ByteSet(set.0.map(|word| !word)).bytes().take(4).collect();
        match others[..] {
            [] => Self::Nothing,
            [one] => Self::One(one),
            [one, two] => Self::Two(one, two),
            [one, two, three] => Self::Three(one, two, three),
            _ => Self::Many(Box::new(std::array::from_fn(|byte| !set.has(byte as u8)))),
        }
    }

    /// Offset of the first byte that is not in the set.
    fn run(&self, text: &[u8]) -> usize {
        let end = match self {
            Self::Nothing => None,
            Self::One(one) => memchr::memchr(*one, text),
            Self::Two(one, two) => memchr::memchr2(*one, *two, text),
            Self::Three(one, two, three) => memchr::memchr3(*one, *two, *three, text),
            Self::Many(stops) => text.iter().position(|byte| stops[usize::from(*byte)]),
        };
        end.unwrap_or(text.len())
    }
}

/// With what the remainder of a pattern can begin.
#[derive(Clone, Debug, Default)]
struct Next {
    bytes: ByteSet,
    /// It may be over at the end of the text.
    end: bool,
    /// It may be over anywhere.
    anywhere: bool,
    /// It never fails.
    sure: bool,
    /// The literal that it begins with, if it can begin with nothing else.
    literal: Vec<u8>,
}

/// A compiled remainder: its first step and with what it can begin.
#[derive(Clone, Debug)]
struct Tail {
    op: usize,
    next: Next,
}

impl Scanner {
    /// A scanner for `hir`, if it is of the kind that can be walked. Groups are saved by their index.
    pub fn new(hir: &Hir, automata: &Arc<Automata>) -> Option<Self> {
        let mut compiler = Compiler { code: Vec::new(), automata };
        let op = compiler.emit(Step::Match, 0)?;
        let mut tail = Tail { op, next: Next { end: true, anywhere: true, sure: true, ..Next::default() } };
        let parts = match hir.kind() {
            HirKind::Concat(parts) => &parts[..],
            _ => std::slice::from_ref(hir),
        };
        let landmark = parts.iter().enumerate().find_map(|(place, part)| match part.kind() {
            HirKind::Literal(literal) if literal.0.len() >= if place == 0 { 1 } else { MIN_LANDMARK } => {
                Some((place, literal.0.clone()))
            }
            _ => None,
        });
        let mut landmark_op = 0;
        for (place, part) in parts.iter().enumerate().rev() {
            tail = compiler.part(part, &tail)?;
            if landmark.as_ref().is_some_and(|(of, _)| *of == place) {
                landmark_op = tail.op;
            }
        }
        let starts = match landmark {
            _ if hir.properties().look_set_prefix().contains(Look::Start) => Starts::First,
            None => Starts::Anywhere,
            Some((place, literal)) => Starts::Before(Box::new(Landmark {
                finder: Finder::new(&literal).into_owned(),
                op: landmark_op,
                before: (place > 0).then(|| relaxed(&Hir::concat(parts[..place].to_vec()))),
                backwards: OnceLock::new(),
                automata: Arc::clone(automata),
            })),
        };
        Some(Self { code: compiler.code.into(), entry: tail.op, starts })
    }

    /// Looks for the leftmost match in `text`. The slots must be empty and enough.
    pub fn scan(&self, text: &str, slots: &mut [Option<NonMaxUsize>], marks: &mut Marks) -> Verdict {
        let work = text.len().saturating_mul(WORK.0).saturating_add(WORK.1);
        let Marks { ways, failed, starts } = marks;
        failed.clear();
        let landmark = if let Starts::Before(landmark) = &self.starts { landmark.op } else { usize::MAX };
        let mut walk = Walk { text: text.as_bytes(), at: 0, slots, marks: ways, work, landmark, failed };
        match (walk.run(&self.code, self.entry, 0), &self.starts) {
            (Verdict::NoMatch, Starts::Before(landmark)) => {
                if !landmark.starts(&mut walk, starts) {
                    return Verdict::Unsure;
                }
                let verdicts = starts.iter().map(|start| {
                    // What was saved on the way to nowhere is no capture of this way.
                    walk.slots.fill(None);
                    walk.run(&self.code, self.entry, *start)
                });
                verdicts.into_iter().find(|verdict| *verdict != Verdict::NoMatch).unwrap_or(Verdict::NoMatch)
            }
            (Verdict::NoMatch, Starts::Anywhere) => Verdict::Unsure,
            (verdict, _) => verdict,
        }
    }
}

impl Landmark {
    /// Finds where but at the first byte a match could begin, in order. `false` when that takes too long.
    fn starts(&self, walk: &mut Walk<'_, '_>, starts: &mut Vec<usize>) -> bool {
        starts.clear();
        let text = walk.text;
        let mut from = 0;
        while let Some(found) = text.get(from..).and_then(|rest| self.finder.find(rest)) {
            let end = from + found;
            if let Some(before) = &self.before {
                let table = self.backwards.get_or_init(|| self.automata.get(before, Use::Begins));
                let Some(table) = table else { return false };
                if !before_literal(table, end, walk, starts) {
                    return false;
                }
            } else {
                starts.extend((end > 0).then_some(end));
            }
            if !walk.spend(found) {
                return false;
            }
            from = end + 1;
        }
        starts.sort_unstable();
        starts.dedup();
        true
    }
}

/// Adds where a match of what `dfa` walks backwards could begin, if it ends at `end`. `false` when that takes too long.
fn before_literal(table: &Table, end: usize, walk: &mut Walk<'_, '_>, starts: &mut Vec<usize>) -> bool {
    let mut state = table.start(walk.text.get(end));
    let mut at = end;
    loop {
        let byte = at.checked_sub(1).and_then(|before| walk.text.get(before));
        state = table.next(state, byte);
        if state & DEAD != 0 {
            break;
        }
        if state & STUCK != 0 {
            return false;
        }
        if state & MATCHED != 0 && at > 0 {
            starts.push(at);
        }
        if byte.is_none() {
            break;
        }
        at -= 1;
    }
    walk.spend(end - at)
}

struct Compiler<'a> {
    code: Vec<Op>,
    automata: &'a Arc<Automata>,
}

impl Compiler<'_> {
    fn emit(&mut self, step: Step, then: usize) -> Option<usize> {
        let mut op = Op { step, edge: None, then };
        // the edge of a group is saved with the step before it
        if let Some(Op { step: Step::Save(slot), then, .. }) = self.code.get(then)
            && op.step.ends_once()
        {
            (op.edge, op.then) = (Some(*slot), *then);
        }
        self.code.push(op);
        (self.code.len() <= MAX_STEPS).then(|| self.code.len() - 1)
    }

    /// Compiles `hir`, which is followed by `after`; from the last part to the first, since each must know what follows it.
    fn part(&mut self, hir: &Hir, after: &Tail) -> Option<Tail> {
        match hir.kind() {
            HirKind::Empty => Some(after.clone()),
            HirKind::Literal(literal) => {
                std::str::from_utf8(&literal.0).ok()?;
                let op = self.emit(Step::Literal(literal.0.clone()), after.op)?;
                Some(Tail { op, next: begins_with(&literal.0, &after.next) })
            }
            HirKind::Class(class) => {
                let set = exact(class)?;
                let step = if set.has(0x80) { Step::Char(Box::new(set)) } else { Step::Fixed(Box::new(set), 1) };
                Some(Tail { op: self.emit(step, after.op)?, next: one_of(set) })
            }
            HirKind::Look(look) => {
                let next = match look {
                    Look::Start | Look::StartLF | Look::WordAscii | Look::WordAsciiNegate => {
                        Next { sure: false, ..after.next.clone() }
                    }
                    Look::End => Next { end: true, ..Next::default() },
                    Look::EndLF => Next { end: true, ..one_of(ByteSet::of(b"\n")) },
                    _ => return None,
                };
                Some(Tail { op: self.emit(Step::Look(*look), after.op)?, next })
            }
            HirKind::Capture(Capture { index, sub, .. }) => {
                let slot = *index as usize * 2;
                let op = self.emit(Step::Save(slot + 1), after.op)?;
                let inner = self.part(sub, &Tail { op, next: after.next.clone() })?;
                Some(Tail { op: self.emit(Step::Save(slot), inner.op)?, next: inner.next })
            }
            HirKind::Repetition(repetition) if let HirKind::Class(class) = repetition.sub.kind() => {
                self.class_run(class, repetition, after).or_else(|| self.token(hir, after))
            }
            _ if hir.properties().explicit_captures_len() == 0
                && is_token(hir, &after.next)
                && let Some(tail) = self.token(hir, after) =>
            {
                Some(tail)
            }
            HirKind::Concat(parts) => parts.iter().rev().try_fold(after.clone(), |after, part| self.part(part, &after)),
            HirKind::Alternation(branches) => {
                let ways = branches.iter().map(|branch| self.part(branch, after)).collect::<Option<Vec<_>>>()?;
                self.choice(&ways)
            }
            HirKind::Repetition(repetition) => self.group(repetition, after),
        }
    }

    /// A class that is repeated.
    fn class_run(&mut self, class: &Class, repetition: &Repetition, after: &Tail) -> Option<Tail> {
        let next = &after.next;
        let set = exact(class)?;
        let wide = set.has(0x80);
        let (min, max) = (repetition.min as usize, repetition.max.map_or(usize::MAX, |max| max as usize));
        // characters are counted, not bytes
        if wide && (min > 1 || max != usize::MAX) {
            return None;
        }
        if min == max {
            if min == 0 {
                return Some(after.clone());
            }
            return Some(Tail { op: self.emit(Step::Fixed(Box::new(set), min), after.op)?, next: one_of(set) });
        }
        let run = Box::new(Run { set, stops: Stops::of(&set), min, max, greedy: repetition.greedy });
        let step = if next.anywhere && next.sure {
            Step::Rest(run)
        } else if !next.anywhere && set.and(&next.bytes).is_empty() {
            Step::Run(run)
        } else if !next.anywhere && !next.literal.is_empty() && max == usize::MAX {
            Step::Until(run, Box::new(Finder::new(&next.literal).into_owned()))
        } else {
            Step::Ends(run, Follow::of(next))
        };
        let mut begins = one_of(set);
        if min == 0 {
            begins.bytes = begins.bytes.or(&next.bytes);
            begins.end = next.end;
            begins.anywhere = next.anywhere;
            begins.sure = next.sure && next.anywhere;
        }
        Some(Tail { op: self.emit(step, after.op)?, next: begins })
    }

    /// A piece without captures. Where it can end in one place only, given what follows, that place is forced.
    fn token(&mut self, hir: &Hir, after: &Tail) -> Option<Tail> {
        let next = &after.next;
        let mut alphabet = ByteSet::default();
        collect(hir, &mut alphabet);
        let doubtful = alphabet.and(&next.bytes);
        let all = (!next.anywhere && doubtful.len() <= FEW).then(|| self.automata.get(hir, Use::Ends));
        let preferred = (next.anywhere || !doubtful.is_empty()).then(|| self.automata.get(hir, Use::Preferred));
        let (all, preferred) = (wanted(all)?, wanted(preferred)?);
        let token = Token { follow: Follow::of(next), all, preferred, sure: next.sure };
        let (mut bytes, nullable) = first(hir);
        if nullable {
            bytes = bytes.or(&next.bytes);
        }
        let begins = Next { bytes, end: nullable && next.end, anywhere: nullable && next.anywhere, ..Next::default() };
        Some(Tail { op: self.emit(Step::Token(Box::new(token)), after.op)?, next: begins })
    }

    fn choice(&mut self, ways: &[Tail]) -> Option<Tail> {
        let begins = ways.iter().map(|way| way.next.clone()).reduce(|all, next| either(&all, &next))?;
        let choice = Choice::of(ways)?;
        Some(Tail { op: self.emit(Step::Choice(Box::new(choice)), 0)?, next: begins })
    }

    /// A group that is repeated.
    fn group(&mut self, repetition: &Repetition, after: &Tail) -> Option<Tail> {
        let sub = &repetition.sub;
        // an empty turn could be taken any number of times
        if repetition.max != Some(1) && sub.properties().minimum_len().is_none_or(|least| least == 0) {
            return None;
        }
        if repetition.min > MAX_UNROLLED || repetition.max.is_some_and(|max| max > MAX_UNROLLED) {
            return None;
        }
        let ordered = |turn: Tail| if repetition.greedy { [turn, after.clone()] } else { [after.clone(), turn] };
        let mut tail = after.clone();
        if let Some(max) = repetition.max {
            for _ in repetition.min..max {
                let turn = self.part(sub, &tail)?;
                tail = self.choice(&ordered(turn))?;
            }
        } else {
            // a turn is followed by another one or by what follows the loop
            let head = self.emit(Step::Match, 0)?;
            let begins = one_of(first(sub).0);
            let around = Tail { op: head, next: either(&begins, &after.next) };
            let turn = self.part(sub, &around)?;
            self.code[head].step = Step::Choice(Box::new(Choice::of(&ordered(turn))?));
            tail = around;
        }
        (0..repetition.min).try_fold(tail, |tail, _| self.part(sub, &tail))
    }
}

/// Whether a piece without captures is better walked by an automaton than step by step.
fn is_token(hir: &Hir, next: &Next) -> bool {
    let mut alphabet = ByteSet::default();
    collect(hir, &mut alphabet);
    if !next.anywhere && alphabet.and(&next.bytes).is_empty() {
        return true;
    }
    // where the first byte tells the branches apart, steps are as good
    let HirKind::Alternation(branches) = hir.kind() else { return false };
    let mut seen = ByteSet::default();
    branches.iter().any(|branch| {
        let (bytes, nullable) = first(branch);
        let again = nullable || !seen.and(&bytes).is_empty();
        seen = seen.or(&bytes);
        again
    })
}

/// A language that contains that of `hir` and has a small automaton: how often something is repeated is not counted.
fn relaxed(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Look(_) => Hir::empty(),
        HirKind::Repetition(repetition) => Hir::repetition(Repetition {
            min: repetition.min.min(1),
            max: repetition.max.filter(|max| *max < 2),
            greedy: true,
            sub: Box::new(relaxed(&repetition.sub)),
        }),
        HirKind::Capture(capture) => relaxed(&capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(relaxed).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(relaxed).collect()),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) => hir.clone(),
    }
}

impl Automata {
    /// The automaton of `hir`; none if it would be too large.
    fn get(&self, hir: &Hir, purpose: Use) -> Option<Arc<Table>> {
        // an automaton is whole or not there, whoever panicked elsewhere
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry((hir.to_string(), purpose)).or_insert_with(|| purpose.automaton(hir).map(Arc::new)).clone()
    }
}

impl fmt::Debug for Automata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Automata").finish_non_exhaustive()
    }
}

impl Use {
    fn automaton(self, hir: &Hir) -> Option<Table> {
        let backwards = self == Self::Begins;
        let config = thompson::Config::new()
            .which_captures(thompson::WhichCaptures::None)
            .nfa_size_limit(Some(MAX_DFA * 4))
            .reverse(backwards);
        let nfa = thompson::Compiler::new().configure(config).build_from_hir(hir).ok()?;
        let kind = if self == Self::Preferred { MatchKind::LeftmostFirst } else { MatchKind::All };
        let config = dense::Config::new()
            .match_kind(kind)
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(MAX_DFA))
            .determinize_size_limit(Some(MAX_DFA * 8));
        Table::of(&dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()?, backwards)
    }
}

impl Table {
    /// The states of `dfa` that can be reached.
    fn of(dfa: &dense::DFA<Vec<u32>>, backwards: bool) -> Option<Self> {
        let stride = dfa.byte_classes().alphabet_len();
        let classes = std::array::from_fn(|byte| dfa.byte_classes().get(byte as u8));
        let mut places: HashMap<StateID, u32> = HashMap::new();
        let mut states = Vec::new();
        let mut place = |state: StateID, states: &mut Vec<StateID>| {
            *places.entry(state).or_insert_with(|| {
                states.push(state);
                ((states.len() - 1) * stride) as u32
            })
        };
        let mut starts = Vec::with_capacity(257);
        for byte in 0..=256_u16 {
            let beside: &[u8] = if byte < 256 { &[byte as u8] } else { &[] };
            let at = if backwards { 0 } else { beside.len() };
            let input = Input::new(beside).span(at..at).anchored(Anchored::Yes);
            let start = if backwards { dfa.start_state_reverse(&input) } else { dfa.start_state_forward(&input) };
            starts.push(place(start.ok()?, &mut states));
        }
        let mut next = Vec::new();
        let mut known = 0;
        while let Some(state) = states.get(known).copied() {
            known += 1;
            let mut row = vec![DEAD; stride];
            let bytes =
                (0..=u8::MAX).map(|byte| (usize::from(dfa.byte_classes().get(byte)), dfa.next_state(state, byte)));
            for (class, to) in bytes.chain([(stride - 1, dfa.next_eoi_state(state))]) {
                row[class] = if dfa.is_dead_state(to) {
                    DEAD
                } else if dfa.is_quit_state(to) {
                    STUCK
                } else {
                    place(to, &mut states) | if dfa.is_match_state(to) { MATCHED } else { 0 }
                };
            }
            next.extend(row);
        }
        (next.len() <= STATE as usize).then(|| Self { classes, stride, next: next.into(), starts: starts.into() })
    }

    /// The state to start in, beside this byte.
    fn start(&self, beside: Option<&u8>) -> u32 {
        self.starts[beside.map_or(256, |byte| usize::from(*byte))]
    }

    /// Where a byte, or the end of the text, leads.
    fn next(&self, state: u32, byte: Option<&u8>) -> u32 {
        let class = byte.map_or(self.stride - 1, |byte| usize::from(self.classes[usize::from(*byte)]));
        self.next.get((state & STATE) as usize + class).copied().unwrap_or(DEAD)
    }
}

/// `None` if one was wanted and could not be had.
#[expect(clippy::option_option, reason = "the outer one says whether to go on, the inner one is kept")]
fn wanted<T>(made: Option<Option<T>>) -> Option<Option<T>> {
    match made {
        Some(None) => None,
        made => Some(made.flatten()),
    }
}

impl Choice {
    fn of(ways: &[Tail]) -> Option<Self> {
        if ways.len() > MAX_WAYS {
            return None;
        }
        let open = |test: &dyn Fn(&Next) -> bool| {
            let bits = ways.iter().enumerate().map(|(way, tail)| u64::from(test(&tail.next)) << way);
            bits.fold(0, |mask, bit| mask | bit)
        };
        let mut masks = Vec::new();
        let mut table = [0; 256];
        for (byte, entry) in table.iter_mut().enumerate() {
            let mask = open(&|next| next.anywhere || next.bytes.has(byte as u8));
            let known = masks.iter().position(|known| *known == mask);
            *entry = known.unwrap_or_else(|| {
                masks.push(mask);
                masks.len() - 1
            }) as u8;
        }
        let at_end = open(&|next| next.anywhere || next.end);
        Some(Self { table, at_end, masks, ways: ways.iter().map(|way| way.op).collect() })
    }

    fn open(&self, byte: Option<&u8>) -> u64 {
        byte.map_or(self.at_end, |byte| self.masks[usize::from(self.table[usize::from(*byte)])])
    }
}

impl Follow {
    fn of(next: &Next) -> Self {
        if next.anywhere { Self { bytes: ByteSet::ALL, end: true } } else { Self { bytes: next.bytes, end: next.end } }
    }

    fn admits(&self, byte: Option<&u8>) -> bool {
        byte.map_or(self.end, |byte| self.bytes.has(*byte))
    }
}

fn either(one: &Next, other: &Next) -> Next {
    Next {
        bytes: one.bytes.or(&other.bytes),
        end: one.end || other.end,
        anywhere: one.anywhere || other.anywhere,
        sure: one.sure || other.sure,
        literal: Vec::new(),
    }
}

fn one_of(bytes: ByteSet) -> Next {
    Next { bytes, ..Next::default() }
}

fn begins_with(literal: &[u8], next: &Next) -> Next {
    let Some(first) = literal.first() else { return next.clone() };
    Next { literal: [literal, &next.literal].concat(), ..one_of(ByteSet::of(&[*first])) }
}

/// The bytes of a class that treats all characters beyond ASCII alike.
fn exact(class: &Class) -> Option<ByteSet> {
    let Class::Unicode(class) = class else { return None };
    let mut set = ByteSet::default();
    let mut beyond = 0;
    for range in class.ranges() {
        let (start, end) = (range.start() as u32, range.end() as u32);
        for byte in start..=end.min(0x7f) {
            set.insert(byte as u8);
        }
        if end >= 0x80 {
            beyond += end - start.max(0x80) + 1;
            // the surrogates are no characters, and a range over them counts them
            if start < 0xd800 && end > 0xdfff {
                beyond -= 0x800;
            }
        }
    }
    match beyond {
        0 => {}
        count if count == 0x11_0000 - 0x80 - 0x800 => (0x80..=0xff).for_each(|byte| set.insert(byte)),
        _ => return None,
    }
    Some(set)
}

/// With which bytes a match of `hir` may begin, and maybe more; whether it may be empty.
fn first(hir: &Hir) -> (ByteSet, bool) {
    let mut bytes = ByteSet::default();
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => (bytes, true),
        HirKind::Literal(literal) => {
            literal.0.first().iter().for_each(|byte| bytes.insert(**byte));
            (bytes, literal.0.is_empty())
        }
        HirKind::Class(_) => {
            collect(hir, &mut bytes);
            (bytes, false)
        }
        HirKind::Repetition(repetition) => {
            let (bytes, nullable) = first(&repetition.sub);
            (bytes, nullable || repetition.min == 0)
        }
        HirKind::Capture(capture) => first(&capture.sub),
        HirKind::Concat(parts) => {
            for part in parts {
                let (more, nullable) = first(part);
                bytes = bytes.or(&more);
                if !nullable {
                    return (bytes, false);
                }
            }
            (bytes, true)
        }
        HirKind::Alternation(parts) => {
            let mut any = false;
            for (more, nullable) in parts.iter().map(first) {
                bytes = bytes.or(&more);
                any |= nullable;
            }
            (bytes, any)
        }
    }
}

/// Every byte that a match of `hir` may contain, and maybe more.
fn collect(hir: &Hir, bytes: &mut ByteSet) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => literal.0.iter().for_each(|byte| bytes.insert(*byte)),
        HirKind::Class(class @ Class::Unicode(ranges)) => {
            if let Some(set) = exact(class) {
                *bytes = bytes.or(&set);
                return;
            }
            for range in ranges.ranges() {
                for byte in range.start() as u32..=(range.end() as u32).min(0x7f) {
                    bytes.insert(byte as u8);
                }
            }
            (0x80..=0xff).for_each(|byte| bytes.insert(byte));
        }
        HirKind::Class(Class::Bytes(_)) => *bytes = ByteSet::ALL,
        HirKind::Repetition(repetition) => collect(&repetition.sub, bytes),
        HirKind::Capture(capture) => collect(&capture.sub, bytes),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().for_each(|part| collect(part, bytes)),
    }
}

struct Walk<'t, 's> {
    text: &'t [u8],
    at: usize,
    slots: &'s mut [Option<NonMaxUsize>],
    marks: &'s mut Vec<Mark>,
    work: usize,
    landmark: usize,
    failed: &'s mut Vec<usize>,
}

/// How a step went.
enum Went {
    On,
    To(usize),
    Nowhere,
    Astray,
}

impl Walk<'_, '_> {
    /// Whether a match begins at `start`.
    fn run(&mut self, code: &[Op], entry: usize, start: usize) -> Verdict {
        self.at = start;
        self.marks.clear();
        let mut op = entry;
        loop {
            let Op { step, edge, then } = &code[op];
            if let Step::Match = step {
                let end = self.at;
                self.save(0, start);
                self.save(1, end);
                return Verdict::Match;
            }
            let went = if op == self.landmark { self.landmark(step, op) } else { self.step(step, op) };
            op = match went {
                Went::On => match edge {
                    Some(slot) if !self.edge(*slot) => return Verdict::Unsure,
                    _ => *then,
                },
                Went::To(op) => op,
                Went::Astray => return Verdict::Unsure,
                Went::Nowhere => match self.back(code) {
                    Ok(op) => op,
                    Err(verdict) => return verdict,
                },
            };
        }
    }

    /// Goes back to the last mark: the step to go on with.
    fn back(&mut self, code: &[Op]) -> Result<usize, Verdict> {
        loop {
            match self.marks.pop() {
                None => return Err(Verdict::NoMatch),
                Some(Mark::Unknown) => return Err(Verdict::Unsure),
                Some(Mark::Slot { slot, held }) => {
                    if let Some(slot) = self.slots.get_mut(slot) {
                        *slot = held;
                    }
                }
                Some(Mark::Ways { op, at, mask }) => {
                    self.at = at;
                    if let Step::Choice(choice) = &code[op].step {
                        return self.way(choice, op, mask).ok_or(Verdict::Unsure);
                    }
                }
                Some(Mark::Ends { op, at, from, to }) => {
                    self.at = at;
                    let went = match &code[op].step {
                        Step::Ends(run, follow) => self.ends(run, follow, op, from, to),
                        Step::Until(run, finder) => self.until(run, finder, op, from.saturating_sub(1), from, to),
                        _ => Went::Nowhere,
                    };
                    match went {
                        Went::On => {
                            let Op { edge, then, .. } = &code[op];
                            return match edge {
                                Some(slot) if !self.edge(*slot) => Err(Verdict::Unsure),
                                _ => Ok(*then),
                            };
                        }
                        Went::Astray => return Err(Verdict::Unsure),
                        Went::To(_) | Went::Nowhere => {}
                    }
                }
            }
        }
    }

    /// The landmark is passed once on every way, so a place that was seen before has failed.
    fn landmark(&mut self, step: &Step, op: usize) -> Went {
        if self.failed.contains(&self.at) {
            return Went::Nowhere;
        }
        if self.failed.len() < MAX_FAILED {
            self.failed.push(self.at);
        }
        self.step(step, op)
    }

    fn step(&mut self, step: &Step, op: usize) -> Went {
        match step {
            Step::Literal(literal) => {
                if !self.rest().starts_with(literal) {
                    return Went::Nowhere;
                }
                self.at += literal.len();
            }
            Step::Fixed(set, count) => {
                let fits = self.rest().get(..*count).is_some_and(|bytes| bytes.iter().all(|byte| set.has(*byte)));
                if !fits {
                    return Went::Nowhere;
                }
                self.at += count;
            }
            Step::Char(set) => {
                if !self.rest().first().is_some_and(|byte| set.has(*byte)) {
                    return Went::Nowhere;
                }
                self.at += self.char_len();
            }
            Step::Run(run) => {
                let length = run.stops.run(self.rest());
                if !self.spend(length) {
                    return Went::Astray;
                }
                if length < run.min || length > run.max {
                    return Went::Nowhere;
                }
                self.at += length;
            }
            Step::Rest(run) => {
                let length = run.stops.run(self.rest());
                if !self.spend(length) {
                    return Went::Astray;
                }
                if length < run.min {
                    return Went::Nowhere;
                }
                self.at += if run.greedy { length.min(run.max) } else { self.least(run) };
            }
            Step::Ends(run, follow) => {
                let length = run.stops.run(self.rest());
                if !self.spend(length) {
                    return Went::Astray;
                }
                if length < run.min {
                    return Went::Nowhere;
                }
                return self.ends(run, follow, op, self.least(run), length.min(run.max));
            }
            Step::Until(run, finder) => {
                let to = if run.greedy { run.stops.run(self.rest()) } else { self.rest().len() };
                return self.until(run, finder, op, 0, self.least(run), to);
            }
            Step::Token(token) => return self.token(token),
            Step::Save(slot) => {
                if !self.edge(*slot) {
                    return Went::Astray;
                }
            }
            Step::Look(look) => {
                if !self.look(*look) {
                    return Went::Nowhere;
                }
            }
            Step::Choice(choice) => {
                let mask = choice.open(self.text.get(self.at));
                return match mask {
                    0 => Went::Nowhere,
                    _ => self.way(choice, op, mask).map_or(Went::Astray, Went::To),
                };
            }
            Step::Match => {}
        }
        Went::On
    }

    /// Takes the first way of `mask`, which has one, and marks the others. `None` when there are too many marks.
    fn way(&mut self, choice: &Choice, op: usize, mask: u64) -> Option<usize> {
        let others = mask & (mask - 1);
        if others != 0 && !(self.spend(1) && self.mark(Mark::Ways { op, at: self.at, mask: others })) {
            return None;
        }
        choice.ways.get(mask.trailing_zeros() as usize).copied()
    }

    /// Ends a run at the first of its ends between two offsets at which what follows may begin.
    fn ends(&mut self, run: &Run, follow: &Follow, op: usize, from: usize, to: usize) -> Went {
        let wide = run.set.has(0x80);
        let admits = |offset: &usize| {
            let byte = self.text.get(self.at + offset);
            follow.admits(byte) && !(wide && byte.is_some_and(|byte| byte & 0xc0 == 0x80))
        };
        let found = if run.greedy { (from..=to).rev().find(admits) } else { (from..=to).find(admits) };
        let Some(found) = found else {
            return if self.spend(to + 1 - from.min(to)) { Went::Nowhere } else { Went::Astray };
        };
        let (left, looked) = if run.greedy {
            ((found > from).then(|| (from, found - 1)), to - found)
        } else {
            ((found < to).then_some((found + 1, to)), found - from)
        };
        if !self.spend(looked + 1) {
            return Went::Astray;
        }
        if let Some((from, to)) = left
            && !self.mark(Mark::Ends { op, at: self.at, from, to })
        {
            return Went::Astray;
        }
        self.at += found;
        Went::On
    }

    /// Ends a run before the first literal (the last, if it is greedy) that begins between two offsets. A lazy run was not
    /// measured: it is known to be one up to `known` only.
    fn until(&mut self, run: &Run, finder: &Finder<'_>, op: usize, known: usize, from: usize, to: usize) -> Went {
        let rest = self.rest();
        let needle = finder.needle();
        let end = to.saturating_add(needle.len()).min(rest.len());
        let Some(range) = rest.get(from..end) else { return Went::Nowhere };
        let found = if run.greedy { rfind(range, needle) } else { finder.find(range) };
        let Some(found) = found.map(|found| found + from) else {
            return if self.spend(range.len()) { Went::Nowhere } else { Went::Astray };
        };
        let looked = if run.greedy { end - found } else { found - from };
        if !run.greedy {
            let before = rest.get(known..found).unwrap_or(&[]);
            if run.stops.run(before) < before.len() {
                return if self.spend(looked) { Went::Nowhere } else { Went::Astray };
            }
        }
        let left = if run.greedy { (found > from).then(|| (from, found - 1)) } else { Some((found + 1, to)) };
        if !self.spend(looked) {
            return Went::Astray;
        }
        if let Some((from, to)) = left
            && !self.mark(Mark::Ends { op, at: self.at, from, to })
        {
            return Went::Astray;
        }
        self.at += found;
        Went::On
    }

    fn token(&mut self, token: &Token) -> Went {
        if let Some(table) = &token.all {
            let mut ends = None;
            let mut several = false;
            let known = self.walk(table, |at, byte| {
                if token.follow.admits(byte) {
                    several = ends.is_some();
                    ends = Some(at);
                }
                !several
            });
            match ends {
                _ if !known => return Went::Astray,
                None => return Went::Nowhere,
                Some(end) if !several => {
                    self.at = end;
                    return Went::On;
                }
                Some(_) => {}
            }
        }
        let Some(table) = &token.preferred else { return Went::Astray };
        let mut end = None;
        let known = self.walk(table, |at, _| {
            end = Some(at);
            true
        });
        match end {
            _ if !known => Went::Astray,
            None => Went::Nowhere,
            Some(end) => {
                if !token.follow.admits(self.text.get(end)) || !token.sure && !self.mark(Mark::Unknown) {
                    return Went::Astray;
                }
                self.at = end;
                Went::On
            }
        }
    }

    /// Shows `ended` where a match of `table` that begins here ends, and the byte behind it, for as long as it wants to see more.
    /// `false` when the automaton cannot go on, or when it takes too long.
    fn walk(&mut self, table: &Table, mut ended: impl FnMut(usize, Option<&u8>) -> bool) -> bool {
        let mut state = table.start(self.at.checked_sub(1).and_then(|before| self.text.get(before)));
        let mut at = self.at;
        loop {
            let byte = self.text.get(at);
            state = table.next(state, byte);
            if state > STATE {
                if state & STUCK != 0 {
                    return false;
                }
                if state & DEAD != 0 || !ended(at, byte) {
                    break;
                }
            }
            if byte.is_none() {
                break;
            }
            at += 1;
        }
        self.spend(at - self.at)
    }

    fn look(&self, look: Look) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.text.get(at)).copied();
        let after = self.text.get(self.at).copied();
        let word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match look {
            Look::Start => before.is_none(),
            Look::StartLF => before.is_none_or(|byte| byte == b'\n'),
            Look::End => after.is_none(),
            Look::EndLF => after.is_none_or(|byte| byte == b'\n'),
            Look::WordAscii => word(before) != word(after),
            // no other one is compiled
            _ => word(before) == word(after),
        }
    }

    /// Counts bytes that were looked at in vain or again; `false` when there were too many.
    fn spend(&mut self, bytes: usize) -> bool {
        let left = self.work.checked_sub(bytes + 1);
        self.work = left.unwrap_or(0);
        left.is_some()
    }

    /// Leaves a mark; `false` when there are too many.
    fn mark(&mut self, mark: Mark) -> bool {
        self.marks.push(mark);
        self.marks.len() <= MAX_MARKS
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or(&[])
    }

    /// Saves the edge of a group, so that going back finds what was there; `false` when there are too many marks.
    fn edge(&mut self, slot: usize) -> bool {
        if !self.marks.is_empty() {
            let held = self.slots.get(slot).copied().flatten();
            if !self.mark(Mark::Slot { slot, held }) {
                return false;
            }
        }
        self.save(slot, self.at);
        true
    }

    fn save(&mut self, slot: usize, at: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = NonMaxUsize::new(at);
        }
    }

    /// Bytes of the character that begins here.
    fn char_len(&self) -> usize {
        1 + self.rest().iter().skip(1).take_while(|byte| **byte & 0xc0 == 0x80).count()
    }

    /// Bytes of the fewest characters that a run may have; more than one are counted only where they are ASCII.
    fn least(&self, run: &Run) -> usize {
        match (run.min, run.set.has(0x80)) {
            (1, true) => self.char_len(),
            (min, _) => min,
        }
    }
}

/// Offset of the last `needle` in `text`.
fn rfind(text: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle.first()?;
    let mut end = text.len();
    loop {
        let found = memchr::memrchr(*first, text.get(..end)?)?;
        if text.get(found..).is_some_and(|rest| rest.starts_with(needle)) {
            return Some(found);
        }
        end = found;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::meta::Regex;

    use super::*;

    type Slots = Vec<Option<NonMaxUsize>>;

    fn scanner(pattern: &str) -> Option<(Scanner, Regex)> {
        let hir = regex_syntax::parse(pattern).ok()?;
        Some((Scanner::new(&hir, &Arc::default())?, Regex::builder().build_from_hir(&hir).ok()?))
    }

    /// What the scanner says, and what the regex says.
    fn both(scanner: &Scanner, regex: &Regex, text: &str) -> (Verdict, Slots, Option<Slots>) {
        let empty: Slots = vec![None; regex.captures_len() * 2];
        let (mut own, mut theirs) = (empty.clone(), empty);
        let verdict = scanner.scan(text, &mut own, &mut Marks::default());
        let found = regex.search_slots(&Input::new(text), &mut theirs);
        (verdict, own, found.map(|_| theirs))
    }

    fn agree(scanner: &Scanner, regex: &Regex, text: &str) -> Result<(), String> {
        match both(scanner, regex, text) {
            (Verdict::Match, own, Some(theirs)) if own == theirs => Ok(()),
            (Verdict::NoMatch, _, None) | (Verdict::Unsure, ..) => Ok(()),
            (verdict, own, theirs) => Err(format!("{verdict:?} {own:?}, but {theirs:?}")),
        }
    }

    #[test]
    fn what_is_walked_and_what_is_not() {
        use Verdict::{Match, NoMatch, Unsure};
        let cases: &[(&str, &str, Verdict)] = &[
            ("^([^ ]+) ([0-9]{3})$", "ab 200", Match),
            ("^([^ ]+) ([0-9]{3})$", "ab 20", NoMatch),
            ("^(.*?) from ([0-9.]+)", "root from 1.2.3.4", Match),
            ("^(.*) from ([0-9.]+)$", "root from 1.2.3.4", Match),
            ("^(.*) from ([0-9.]+)$", "a from b from 1.2.3.4", Match),
            ("^(.*) from ([0-9.]+)", "a from b from 1.2.3.4", Match),
            ("^(.*?) from (.*)$", "a from b from 1.2.3.4", Match),
            ("^(.*?) from ([0-9.]+)", "nobody", NoMatch),
            ("^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9]) x", "199 x", Match),
            ("^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9]) x", "256 x", NoMatch),
            ("^(?:<([0-9]+)>)?(a+)$", "<7>aa", Match),
            ("^(?:<([0-9]+)>)?(a+)$", "aa", Match),
            ("^((?:[a-z]+=[0-9]+;)+)END$", "a=1;b=2;END", Match),
            ("^(?:([a-z])=[0-9];)*$", "a=1;b=2;", Match),
            ("^a(b.*)?$", "abé", Match),
            ("^((?s:.*)/)([^/]*)$", "/a/b/c.txt", Match),
            ("^((?s:.*)/)([^/]*?)(\\.[^./]*|)$", "/a/b/c.txt", Match),
            ("^(.*)aa(b*)$", "xaaabb", Match),
            ("^(?:(a.*)b)?a", "axc", Match),
            ("^(a|ab)(c|bcd)$", "abcd", Match),
            ("^(?:a|ab)(c|bcd)$", "abc", Unsure),
            ("^(?:([a-z]+) )?([a-z]+)!", "ab cd!", Match),
            ("^(?:([a-z]+) )?([a-z]+)!", "ab!", Match),
            ("^(?:([a-z]+) )?([a-z]+)!", "ab ", NoMatch),
            ("(?m)^(a)$", "a\nb", Match),
            ("b(a*)", "xbbaa", Match),
            ("(a+) - (b)", "a - aa - b", Match),
            ("(a+) - (b)", "a - aa - a", NoMatch),
            ("(a+) -(b)?", " aa -", Match),
            ("(?:(c)a)?  ", "ca c  ", Match),
            ("(?:((?:aa|bb|c)+)a)?  ", "a  ", Match),
            ("(a+)", "ba", Unsure),
            (r"^(a+)(?-u:\b)", "aab", NoMatch),
            ("^(.*) - ([^ ]+)$", "a - b - c", Match),
            ("(.+)$", "é", Match),
            ("^(.+?)", "éa", Match),
            ("^\"((?:[^\"\\\\]|\\\\.)*)\"$", r#""a\"b""#, Match),
            (r"^((?-u:\b)[0-9A-Za-z_]+(?-u:\b)) x", "ab x", Match),
        ];
        for (pattern, text, expected) in cases {
            let (scanner, regex) = scanner(pattern).unwrap_or_else(|| panic!("no scanner for {pattern}"));
            let (verdict, ..) = both(&scanner, &regex, text);
            assert_eq!(verdict, *expected, "{pattern} on {text}");
            agree(&scanner, &regex, text).unwrap_or_else(|problem| panic!("{pattern} on {text}: {problem}"));
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        let atom = prop_oneof![
            "[abc ]{1,2}",
            prop::sample::select(vec![
                ".",
                "[ab]",
                "[^a]",
                "[^ b]",
                "[a-c]",
                "[é]",
                "(?-u:\\b)",
                "a|b",
                "ab|a",
                "aa|bb|c"
            ])
            .prop_map(|atom| format!("(?:{atom})")),
        ];
        let piece = (atom, prop::sample::select(vec!["", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,2}?"]));
        let piece = piece.prop_map(|(atom, count)| format!("(?:{atom}){count}"));
        let grouped = prop_oneof![
            3 => piece.clone(),
            2 => piece.clone().prop_map(|piece| format!("({piece})")),
            1 => (piece.clone(), piece, prop::sample::select(vec!["", "?", "*", "+"]))
                .prop_map(|(one, two, count)| format!("(?:({one}){two}){count}")),
        ];
        let whole = prop::collection::vec(grouped, 1..5);
        (whole, prop::bool::ANY, prop::bool::ANY).prop_map(|(parts, start, end)| {
            format!("{}{}{}", if start { "^" } else { "" }, parts.concat(), if end { "$" } else { "" })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn a_scanner_agrees_with_the_regex(pattern in pattern(), texts in prop::collection::vec("[abcé \n]{0,9}", 12)) {
            if let Some((scanner, regex)) = scanner(&pattern) {
                for text in texts {
                    let agreed = agree(&scanner, &regex, &text);
                    prop_assert!(agreed.is_ok(), "{pattern:?} on {text:?}: {agreed:?}");
                }
            }
        }
    }
}
