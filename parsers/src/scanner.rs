//! The straight-line matcher: walks a text once, without going back.
//!
//! Most log patterns are runs of literals and classes in which every step is forced: a class ends where the next thing
//! begins. A scanner takes a step only when it can prove that no other choice could lead to a match; then the way it walks is the
//! only one, so its captures are those of any regex engine. Where a line leaves a choice open it says [`Verdict::Unsure`], and the
//! regex decides. It never looks further than a match that begins at the first byte.

use memchr::memmem::{Finder, FinderRev};
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Capture, Class, Hir, HirKind, Look, Repetition};

/// What a scanner says about a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A match begins at the first byte, the slots are filled.
    Match,
    /// No match begins at the first byte.
    NoMatch,
    /// More than one way was open.
    Unsure,
}

/// A matcher for one pattern.
#[derive(Debug)]
pub struct Scanner {
    steps: Box<[Step]>,
}

/// Most steps of a scanner.
const MAX_STEPS: usize = 400;
/// Bytes of the automaton of one token.
const MAX_DFA: usize = 96 << 10;
/// A repetition of a group is written out this often at most.
const MAX_UNROLLED: u32 = 16;

#[derive(Debug)]
enum Step {
    Literal(Box<[u8]>),
    /// Exactly so many bytes of a set.
    Fixed(Box<ByteSet>, usize),
    /// One character that begins with a byte of a set.
    Char(Box<ByteSet>),
    Run(Box<Run>),
    /// A run before a literal that could also lie within the run.
    Until(Box<Run>, Box<Finder<'static>>),
    /// A run before the last literal of its kind.
    UntilLast(Box<Run>, Box<FinderRev<'static>>),
    /// A run with nothing behind it.
    Rest(Box<Run>),
    Token(Box<Token>),
    Save(usize),
    End,
    Choice(Box<Choice>),
    Loop(Box<Choice>),
}

/// Bytes of a set, as many as there are.
#[derive(Debug)]
struct Run {
    set: ByteSet,
    stops: Stops,
    min: usize,
    max: usize,
    greedy: bool,
    /// Bytes of the set with which the next thing could begin as well.
    doubtful: Option<ByteSet>,
}

/// A piece without captures that ends where its alphabet does.
#[derive(Debug)]
struct Token {
    outside: Box<[bool; 256]>,
    dfa: dense::DFA<Vec<u32>>,
}

/// One byte decides which way to go.
#[derive(Debug)]
struct Choice {
    table: [u8; 256],
    at_end: u8,
    ways: Vec<Box<[Step]>>,
}

const NO_WAY: u8 = u8::MAX;
const UNSURE: u8 = u8::MAX - 1;
/// In a loop: what follows it.
const LEAVE: u8 = u8::MAX - 2;
const MAX_WAYS: usize = 64;

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByteSet([u64; 4]);

impl ByteSet {
    const ALL: Self = Self([u64::MAX; 4]);

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
#[derive(Clone, Debug)]
struct Next {
    bytes: ByteSet,
    /// It may be over at the end of the text.
    end: bool,
    /// It may be over anywhere.
    anywhere: bool,
    /// The literal that it begins with, if it can begin with nothing else.
    literal: Vec<u8>,
    /// Every byte that it can contain, if it goes on to the end of the text.
    tail: Option<ByteSet>,
    /// The same for what follows the literal.
    after_literal: Option<ByteSet>,
}

impl Scanner {
    /// A scanner for `hir`, if it is of the kind that leaves few choices. Groups are saved by their index.
    pub fn new(hir: &Hir) -> Option<Self> {
        let mut compiler = Compiler { steps: 0 };
        let over = Next { end: true, anywhere: true, tail: None, ..nothing() };
        let (steps, _) = compiler.sequence(without_start(hir)?, &over)?;
        Some(Self { steps })
    }

    /// Walks `text` from its first byte. The slots must be empty and enough.
    pub fn scan(&self, text: &str, slots: &mut [Option<NonMaxUsize>]) -> Verdict {
        let mut walk = Walk { text: text.as_bytes(), at: 0, slots };
        match walk.steps(&self.steps) {
            Ok(()) => {
                let end = walk.at;
                walk.save(0, 0);
                walk.save(1, end);
                Verdict::Match
            }
            Err(verdict) => verdict,
        }
    }
}

/// The parts of a concatenation without a leading `^`, which is where a scan begins anyway.
fn without_start(hir: &Hir) -> Option<Vec<&Hir>> {
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.iter().collect(),
        _ => vec![hir],
    };
    match parts.first()?.kind() {
        HirKind::Look(Look::Start) => Some(parts[1..].to_vec()),
        _ => Some(parts),
    }
}

struct Compiler {
    steps: usize,
}

impl Compiler {
    /// Compiles parts from the last to the first, since each must know what follows it.
    fn sequence(&mut self, parts: Vec<&Hir>, after: &Next) -> Option<(Box<[Step]>, Next)> {
        let mut steps = Vec::new();
        let mut next = after.clone();
        for part in parts.into_iter().rev() {
            next = self.part(part, next, &mut steps)?;
        }
        steps.reverse();
        Some((steps.into(), next))
    }

    fn push(&mut self, steps: &mut Vec<Step>, step: Step) -> Option<()> {
        self.steps += 1;
        steps.push(step);
        (self.steps <= MAX_STEPS).then_some(())
    }

    /// Adds the steps of one part in reverse order; says with what it and the remainder can begin.
    fn part(&mut self, hir: &Hir, next: Next, steps: &mut Vec<Step>) -> Option<Next> {
        match hir.kind() {
            HirKind::Empty => Some(next),
            HirKind::Literal(literal) => {
                self.push(steps, Step::Literal(literal.0.clone()))?;
                Some(begins_with(&literal.0, next))
            }
            HirKind::Class(class) => {
                let set = exact(class)?;
                let step = if set.has(0x80) { Step::Char(Box::new(set)) } else { Step::Fixed(Box::new(set), 1) };
                self.push(steps, step)?;
                Some(set_then(set, &next))
            }
            HirKind::Look(Look::End) => {
                self.push(steps, Step::End)?;
                Some(Next { end: true, ..nothing() })
            }
            HirKind::Look(_) => None,
            HirKind::Capture(Capture { index, sub, .. }) => {
                let slot = *index as usize * 2;
                self.push(steps, Step::Save(slot + 1))?;
                let next = self.part(sub, next, steps)?;
                self.push(steps, Step::Save(slot))?;
                Some(next)
            }
            HirKind::Repetition(repetition) if let HirKind::Class(class) = repetition.sub.kind() => {
                match self.run(class, repetition, &next, steps) {
                    Some(next) => Some(next),
                    None => self.token(hir, &next, steps),
                }
            }
            _ if hir.properties().explicit_captures_len() == 0
                && let Some(next) = self.token(hir, &next, steps) =>
            {
                Some(next)
            }
            HirKind::Concat(parts) => {
                let mut next = next;
                for part in parts.iter().rev() {
                    next = self.part(part, next, steps)?;
                }
                Some(next)
            }
            HirKind::Alternation(branches) => {
                let ways =
                    branches.iter().map(|branch| self.sequence(vec![branch], &next)).collect::<Option<Vec<_>>>()?;
                self.choice(ways, steps)
            }
            HirKind::Repetition(repetition) => self.group(repetition, &next, steps),
        }
    }

    /// A class that is repeated.
    fn run(&mut self, class: &Class, repetition: &Repetition, next: &Next, steps: &mut Vec<Step>) -> Option<Next> {
        let set = exact(class)?;
        let wide = set.has(0x80);
        let (min, max) = (repetition.min as usize, repetition.max.map_or(usize::MAX, |max| max as usize));
        // characters are counted, not bytes
        if wide && (min > 1 || max != usize::MAX) {
            return None;
        }
        if min == max {
            self.push(steps, Step::Fixed(Box::new(set), min))?;
            return if min == 0 { Some(next.clone()) } else { Some(set_then(set, next)) };
        }
        let mut run = Run { set, stops: Stops::of(&set), min, max, greedy: repetition.greedy, doubtful: None };
        let doubtful = set.and(&next.bytes);
        let step = if next.anywhere {
            if !next.bytes.is_empty() {
                return None;
            }
            Step::Rest(Box::new(run))
        } else if doubtful.is_empty() {
            Step::Run(Box::new(run))
        } else if !next.literal.is_empty() && max == usize::MAX {
            match &next.after_literal {
                // what follows cannot hold the literal again and goes on to the end
                Some(after) if next.literal.iter().any(|byte| !after.has(*byte)) => {
                    Step::UntilLast(Box::new(run), Box::new(FinderRev::new(&next.literal).into_owned()))
                }
                _ => Step::Until(Box::new(run), Box::new(Finder::new(&next.literal).into_owned())),
            }
        } else {
            run.doubtful = Some(doubtful);
            Step::Run(Box::new(run))
        };
        self.push(steps, step)?;
        let mut begins = set_then(set, next);
        if min == 0 {
            begins.bytes = begins.bytes.or(&next.bytes);
            begins.end = next.end;
            begins.anywhere = next.anywhere;
        }
        Some(begins)
    }

    /// A piece without captures whose alphabet does not contain what follows: it ends where the alphabet does, so an
    /// automaton over that stretch says whether it is there.
    fn token(&mut self, hir: &Hir, next: &Next, steps: &mut Vec<Step>) -> Option<Next> {
        if next.anywhere {
            return None;
        }
        let mut alphabet = ByteSet::default();
        collect(hir, &mut alphabet);
        if !alphabet.and(&next.bytes).is_empty() {
            return None;
        }
        let small = thompson::Config::new().nfa_size_limit(Some(MAX_DFA * 8));
        let nfa = thompson::Compiler::new().configure(small).build_from_hir(hir).ok()?;
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(MAX_DFA))
            .determinize_size_limit(Some(MAX_DFA * 8));
        let dfa = dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()?;
        self.push(
            steps,
            Step::Token(Box::new(Token {
                outside: Box::new(std::array::from_fn(|byte| !alphabet.has(byte as u8))),
                dfa,
            })),
        )?;
        let (mut bytes, nullable) = first(hir);
        if nullable {
            bytes = bytes.or(&next.bytes);
        }
        let tail = next.tail.map(|tail| tail.or(&alphabet));
        Some(Next { bytes, end: nullable && next.end, tail, ..nothing() })
    }

    fn choice(&mut self, ways: Vec<(Box<[Step]>, Next)>, steps: &mut Vec<Step>) -> Option<Next> {
        if ways.len() > MAX_WAYS {
            return None;
        }
        let begins = ways.iter().map(|(_, next)| next.clone()).reduce(|all, next| either(&all, &next))?;
        let table = std::array::from_fn(|byte| {
            decide(ways.iter().map(|(_, next)| next.anywhere || next.bytes.has(byte as u8)))
        });
        let at_end = decide(ways.iter().map(|(_, next)| next.anywhere || next.end));
        let ways = ways.into_iter().map(|(steps, _)| steps).collect();
        self.push(steps, Step::Choice(Box::new(Choice { table, at_end, ways })))?;
        Some(begins)
    }

    /// A group that is repeated.
    fn group(&mut self, repetition: &Repetition, next: &Next, steps: &mut Vec<Step>) -> Option<Next> {
        let sub = &repetition.sub;
        // an empty turn could be taken any number of times
        if sub.properties().minimum_len().is_none_or(|least| least == 0) {
            return None;
        }
        let mut next = if let Some(max) = repetition.max {
            if max > MAX_UNROLLED {
                return None;
            }
            let mut after = (Box::<[Step]>::default(), next.clone());
            for _ in repetition.min..max {
                let mut way = after.0.into_vec();
                way.reverse();
                let begins = self.part(sub, after.1, &mut way)?;
                way.reverse();
                let ways = vec![(way.into_boxed_slice(), begins), (Box::default(), next.clone())];
                let mut inner = Vec::new();
                let begins = self.choice(ways, &mut inner)?;
                after = (inner.into(), begins);
            }
            steps.extend(after.0.into_vec().into_iter().rev());
            after.1
        } else {
            // a turn is followed by another one or by what follows the loop
            let mut within = ByteSet::default();
            collect(sub, &mut within);
            let tail = next.tail.map(|tail| tail.or(&within));
            let begins = Next { bytes: first(sub).0, tail, ..nothing() };
            let around = either(&begins, next);
            let (turn, _) = self.sequence(vec![sub], &around)?;
            let decide_loop = |turn: bool, leave: bool| match (turn, leave) {
                (true, true) => UNSURE,
                (true, false) => 0,
                (false, true) => LEAVE,
                (false, false) => NO_WAY,
            };
            let leave = |byte: u8| next.anywhere || next.bytes.has(byte);
            let table = std::array::from_fn(|byte| decide_loop(begins.bytes.has(byte as u8), leave(byte as u8)));
            let at_end = decide_loop(false, next.anywhere || next.end);
            self.push(steps, Step::Loop(Box::new(Choice { table, at_end, ways: vec![turn] })))?;
            around
        };
        if repetition.min > MAX_UNROLLED {
            return None;
        }
        for _ in 0..repetition.min {
            next = self.part(sub, next, steps)?;
        }
        Some(next)
    }
}

/// What cannot begin at all, and contains nothing.
fn nothing() -> Next {
    Next {
        bytes: ByteSet::default(),
        end: false,
        anywhere: false,
        literal: Vec::new(),
        tail: Some(ByteSet::default()),
        after_literal: None,
    }
}

fn either(one: &Next, other: &Next) -> Next {
    Next {
        bytes: one.bytes.or(&other.bytes),
        end: one.end || other.end,
        anywhere: one.anywhere || other.anywhere,
        tail: one.tail.zip(other.tail).map(|(one, other)| one.or(&other)),
        ..nothing()
    }
}

/// At least one byte of `set`, maybe more of them, then `next`.
fn set_then(set: ByteSet, next: &Next) -> Next {
    Next { bytes: set, tail: next.tail.map(|tail| tail.or(&set)), ..nothing() }
}

fn begins_with(literal: &[u8], next: Next) -> Next {
    let Some(first) = literal.first() else { return next };
    let mut begins = nothing();
    begins.bytes.insert(*first);
    begins.tail = next.tail.map(|mut tail| {
        for byte in literal {
            tail.insert(*byte);
        }
        tail
    });
    begins.after_literal = if next.literal.is_empty() { next.tail } else { next.after_literal };
    begins.literal = [literal, &next.literal].concat();
    begins
}

/// The only way that is open, if there is one.
fn decide(open: impl Iterator<Item = bool>) -> u8 {
    let mut open = open.enumerate().filter(|(_, open)| *open);
    match (open.next(), open.next()) {
        (None, _) => NO_WAY,
        (Some((way, _)), None) => way as u8,
        (Some(_), Some(_)) => UNSURE,
    }
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
}

impl Walk<'_, '_> {
    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or(&[])
    }

    fn save(&mut self, slot: usize, at: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = NonMaxUsize::new(at);
        }
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), Verdict> {
        for step in steps {
            match step {
                Step::Literal(literal) => {
                    if !self.rest().starts_with(literal) {
                        return Err(Verdict::NoMatch);
                    }
                    self.at += literal.len();
                }
                Step::Fixed(set, count) => {
                    let fits = self.rest().get(..*count).is_some_and(|bytes| bytes.iter().all(|byte| set.has(*byte)));
                    if !fits {
                        return Err(Verdict::NoMatch);
                    }
                    self.at += count;
                }
                Step::Char(set) => {
                    if !self.rest().first().is_some_and(|byte| set.has(*byte)) {
                        return Err(Verdict::NoMatch);
                    }
                    self.at += self.char_len();
                }
                Step::Run(run) => self.run(run)?,
                Step::Until(run, finder) => self.until(run, finder)?,
                Step::UntilLast(run, finder) => self.until_last(run, finder)?,
                Step::Rest(run) => {
                    let length = run.stops.run(self.rest());
                    if length < run.min {
                        return Err(Verdict::NoMatch);
                    }
                    self.at += if run.greedy { length.min(run.max) } else { self.least(run) };
                }
                Step::Token(token) => self.token(token)?,
                Step::Save(slot) => self.save(*slot, self.at),
                Step::End => {
                    if self.at < self.text.len() {
                        return Err(Verdict::NoMatch);
                    }
                }
                Step::Choice(choice) => match self.way(choice) {
                    NO_WAY => return Err(Verdict::NoMatch),
                    UNSURE => return Err(Verdict::Unsure),
                    way => self.steps(&choice.ways[usize::from(way)])?,
                },
                Step::Loop(choice) => loop {
                    match self.way(choice) {
                        NO_WAY => return Err(Verdict::NoMatch),
                        UNSURE => return Err(Verdict::Unsure),
                        LEAVE => break,
                        way => self.steps(&choice.ways[usize::from(way)])?,
                    }
                },
            }
        }
        Ok(())
    }

    fn way(&self, choice: &Choice) -> u8 {
        self.text.get(self.at).map_or(choice.at_end, |byte| choice.table[usize::from(*byte)])
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

    fn run(&mut self, run: &Run) -> Result<(), Verdict> {
        let length = run.stops.run(self.rest());
        if length < run.min {
            return Err(Verdict::NoMatch);
        }
        if let Some(doubtful) = &run.doubtful {
            // any of these bytes could end the run as well
            let within = self.rest().get(run.min..length).unwrap_or(&[]);
            if length > run.max || within.iter().any(|byte| doubtful.has(*byte)) {
                return Err(Verdict::Unsure);
            }
        }
        if length > run.max {
            return Err(Verdict::NoMatch);
        }
        self.at += length;
        Ok(())
    }

    fn until(&mut self, run: &Run, finder: &Finder<'_>) -> Result<(), Verdict> {
        let rest = self.rest();
        let length = run.stops.run(rest);
        if length < run.min {
            return Err(Verdict::NoMatch);
        }
        let end = (length + finder.needle().len()).min(rest.len());
        let range = rest.get(run.min..end).unwrap_or(&[]);
        let Some(first) = finder.find(range) else { return Err(Verdict::NoMatch) };
        if finder.find(range.get(first + 1..).unwrap_or(&[])).is_some() {
            return Err(Verdict::Unsure);
        }
        self.at += run.min + first;
        Ok(())
    }

    fn until_last(&mut self, run: &Run, finder: &FinderRev<'_>) -> Result<(), Verdict> {
        let rest = self.rest();
        let length = run.stops.run(rest);
        if length < run.min {
            return Err(Verdict::NoMatch);
        }
        let literal = finder.needle().len();
        let range = rest.get(run.min..(length + literal).min(rest.len())).unwrap_or(&[]);
        let Some(last) = finder.rfind(range) else { return Err(Verdict::NoMatch) };
        // one that overlaps the last one could be followed by what is left of that
        let before = range.get(..last + literal - 1).unwrap_or(&[]);
        if literal > 1 && finder.rfind(before).is_some_and(|other| other + literal > last) {
            return Err(Verdict::Unsure);
        }
        self.at += run.min + last;
        Ok(())
    }

    fn token(&mut self, token: &Token) -> Result<(), Verdict> {
        let input = Input::new(self.text).span(self.at..self.text.len()).anchored(Anchored::Yes);
        let Ok(mut state) = token.dfa.start_state_forward(&input) else { return Err(Verdict::Unsure) };
        let mut at = self.at;
        while let Some(byte) = self.text.get(at).filter(|byte| !token.outside[usize::from(**byte)]) {
            state = token.dfa.next_state(state, *byte);
            if token.dfa.is_dead_state(state) {
                return Err(Verdict::NoMatch);
            }
            at += 1;
        }
        // automata learn of a match one byte late
        state = match self.text.get(at) {
            Some(byte) => token.dfa.next_state(state, *byte),
            None => token.dfa.next_eoi_state(state),
        };
        if token.dfa.is_quit_state(state) {
            return Err(Verdict::Unsure);
        }
        if !token.dfa.is_match_state(state) {
            return Err(Verdict::NoMatch);
        }
        self.at = at;
        Ok(())
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
        Some((Scanner::new(&hir)?, Regex::builder().build_from_hir(&hir).ok()?))
    }

    /// What the scanner says, and what the regex says of a match at the first byte.
    fn both(scanner: &Scanner, regex: &Regex, text: &str) -> (Verdict, Slots, Option<Slots>) {
        let empty: Slots = vec![None; regex.captures_len() * 2];
        let (mut own, mut theirs) = (empty.clone(), empty);
        let verdict = scanner.scan(text, &mut own);
        let found = regex.search_slots(&Input::new(text).anchored(Anchored::Yes), &mut theirs);
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
    fn what_is_forced_and_what_is_not() {
        use Verdict::{Match, NoMatch, Unsure};
        let cases: &[(&str, &str, Verdict)] = &[
            ("^([^ ]+) ([0-9]{3})$", "ab 200", Match),
            ("^([^ ]+) ([0-9]{3})$", "ab 20", NoMatch),
            ("^(.*?) from ([0-9.]+)", "root from 1.2.3.4", Match),
            ("^(.*) from ([0-9.]+)$", "root from 1.2.3.4", Match),
            ("^(.*) from ([0-9.]+)$", "a from b from 1.2.3.4", Match),
            ("^(.*) from ([0-9.]+)", "a from b from 1.2.3.4", Unsure),
            ("^(.*?) from (.*)$", "a from b from 1.2.3.4", Unsure),
            ("^(.*?) from ([0-9.]+)", "nobody", NoMatch),
            ("^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9]) x", "199 x", Match),
            ("^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9]) x", "256 x", NoMatch),
            ("^(?:<([0-9]+)>)?(a+)$", "<7>aa", Match),
            ("^(?:<([0-9]+)>)?(a+)$", "aa", Match),
            ("^((?:[a-z]+=[0-9]+;)+)END$", "a=1;b=2;END", Match),
            ("^(?:([a-z])=[0-9];)*$", "a=1;b=2;", Match),
            ("^a(b.*)?$", "abé", Match),
            ("^((?s:.*)/)([^/]*)$", "/a/b/c.txt", Match),
            ("^((?s:.*)/)([^/]*?)(\\.[^./]*|)$", "/a/b/c.txt", Unsure),
            ("^(.*)aa(b*)$", "xaaabb", Unsure),
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
