//! What parsers did lately, by all that they read.
//!
//! A parser that looks at nothing but texts of the event, and writes nothing but such texts, does the same whenever it reads the
//! same. Logs repeat themselves: addresses, paths, seconds. So what it wrote is remembered with what it had read, and written again without
//! running it. Traces always run the parser.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use expr::FieldId;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::event::Span;
use model::{Event, EventTime, fields};

use crate::node::{Abort, Node, Run, Touches};
use crate::recent::Recent;
use crate::{Context, YearRule};

/// Longest that all texts that a parser reads may be together, in bytes.
const LONGEST: usize = 512;
/// Most that is remembered of what a parser wrote, in bytes.
const MOST: usize = 4 * LONGEST;
/// Patterns, and statics that compute something, from which on remembering pays.
const WORTH: usize = 3;
/// Looks after which a memory is judged.
const TRIALS: u32 = 1024;
/// Events for which a memory that was of no use rests.
const REST: u32 = 1 << 15;
/// Fields that hardly ever take the same value twice.
pub(crate) const FICKLE: [FieldId; 2] = [fields::LINE_RAW, fields::MESSAGE];

/// A parser that always does the same when it reads the same.
#[derive(Debug)]
pub(crate) struct Habit {
    /// What it reads, and what it may write: what stood there before tells whether it wrote.
    touches: Box<[FieldId]>,
    /// It reads a date, so that the present matters as well.
    dated: bool,
}

/// Neighbours that do nothing but trust somebody, for what texts of the event say: as long as none does, they are one.
#[derive(Debug)]
pub(crate) struct Row {
    reads: Box<[FieldId]>,
    len: usize,
}

/// What one worker remembers of one parser or row.
#[derive(Debug)]
pub(crate) struct Memory<T> {
    known: Recent<T, 1024, LONGEST>,
    /// What was read last.
    key: String,
    looks: u32,
    hits: u32,
    rests: u32,
}

/// What a parser did.
#[derive(Debug)]
pub(crate) struct Act {
    success: bool,
    /// All that it wrote.
    text: Arc<str>,
    /// In the order in which fields were written.
    writes: Box<[Write]>,
    present: Option<Box<Present>>,
}

/// A field and where its text begins and ends: small, since what is remembered is seldom near.
#[derive(Clone, Copy, Debug)]
struct Write {
    field: FieldId,
    from: u16,
    to: u16,
}

/// What decides about dates, and the time that the event got.
#[derive(Debug)]
struct Present {
    now: Timestamp,
    year: YearRule,
    zone: TimeZone,
    time_machine: bool,
    time: Option<EventTime>,
}

impl Habit {
    /// The habit of a parser that touches these, if it has one that is worth remembering.
    pub(crate) fn of(touches: &Touches) -> Option<Self> {
        let Touches { reads, writes, dated, steps, .. } = touches;
        if !only_texts(touches) || writes.contains(&fields::WHITELIST_REASON) || *steps < WORTH {
            return None;
        }
        Some(Self { touches: reads.union(writes).copied().collect(), dated: *dated })
    }

    /// Runs `node`, or does what it would do: whether it succeeds.
    pub(crate) fn run(
        &self,
        node: &Node,
        memory: &mut Memory<Act>,
        run: &mut Run<'_>,
        event: &mut Event,
        cx: &mut Context<'_>,
    ) -> Result<bool, Abort> {
        // a time that is there already is no text
        let timed = self.dated && event.time() != Some(EventTime::utc(cx.now));
        if timed || !memory.read(&self.touches, event) {
            return node.run(run, event, cx, None);
        }
        if let Some(act) = memory.recall(|act| act.holds(event, cx)) {
            act.repeat(event, cx);
            return Ok(act.success);
        }
        let (problems, count) = (run.problems.load(Ordering::Relaxed), event.touched_count());
        let before: Vec<Option<Span>> = self.touches.iter().map(|field| event.span(*field)).collect();
        let success = node.run(run, event, cx, None)?;
        // a mistake is counted each time
        if run.problems.load(Ordering::Relaxed) == problems
            && let Some(act) = self.act(success, event, cx, &before, count)
        {
            memory.remember(act);
        }
        Ok(success)
    }

    /// What the parser did to an event in which `before` said where what it touches lay, and which had `count` fields.
    /// `None` when that is too much to remember.
    fn act(
        &self,
        success: bool,
        event: &Event,
        cx: &Context<'_>,
        before: &[Option<Span>],
        count: usize,
    ) -> Option<Act> {
        let mut text = String::with_capacity(LONGEST);
        let mut writes = Vec::with_capacity(self.touches.len());
        let mut wrote = |field: FieldId| {
            let from = text.len() as u16;
            text.push_str(event.get(field).unwrap_or(""));
            writes.push(Write { field, from, to: text.len() as u16 });
        };
        for (field, before) in self.touches.iter().zip(before) {
            if before.is_some() && event.span(*field) != *before {
                wrote(*field);
            }
        }
        event.touched_since(count, wrote);
        let present = || Present {
            now: cx.now,
            year: cx.year,
            zone: cx.zone.clone(),
            time_machine: event.time_machine(),
            time: event.time(),
        };
        let present = self.dated.then(|| Box::new(present()));
        (text.len() <= MOST).then(|| Act { success, text: text.into(), writes: writes.into(), present })
    }
}

impl Row {
    /// Whether a parser that touches these, and only trusts, can stand in a row.
    pub(crate) fn admits(touches: &Touches) -> bool {
        only_texts(touches) && !touches.dated
    }

    /// A row of parsers that touch these.
    pub(crate) fn of<'t>(touches: impl Iterator<Item = &'t Touches>) -> Self {
        let mut reads = Vec::new();
        let mut len = 0;
        for touches in touches {
            reads.extend(&touches.reads);
            len += 1;
        }
        reads.sort_unstable();
        reads.dedup();
        Self { reads: reads.into(), len }
    }

    /// How many parsers stand in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether any of them succeeds, if it is known that none trusts the event.
    pub(crate) fn recall(&self, memory: &mut Memory<bool>, event: &Event) -> Option<bool> {
        if memory.read(&self.reads, event) { memory.recall(|_| true).copied() } else { None }
    }
}

/// Whether texts that may come again decide everything, and nothing but texts is written.
fn only_texts(touches: &Touches) -> bool {
    let Touches { reads, reads_all, writes, writes_all, beyond, .. } = touches;
    let known = !beyond && reads_all.is_empty() && writes_all.is_empty();
    known && !writes.contains(&fields::STAGE) && !FICKLE.iter().any(|field| reads.contains(field))
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { known: Recent::default(), key: String::new(), looks: 0, hits: 0, rests: 0 }
    }
}

impl<T> Memory<T> {
    /// Reads what decides. `false` when there is nothing to read, or too much, or looking for it has been of no use lately.
    fn read(&mut self, reads: &[FieldId], event: &Event) -> bool {
        self.key.clear();
        if self.worth_looking() && !self.read_all(reads, event) {
            self.key.clear();
        }
        !self.key.is_empty()
    }

    fn read_all(&mut self, reads: &[FieldId], event: &Event) -> bool {
        for (number, field) in reads.iter().enumerate() {
            let Some(span) = event.span(*field) else { continue };
            let text = event.text(span);
            if self.key.len() + text.len() > LONGEST {
                return false;
            }
            // with number and length first, so that no two lists of texts have the same key
            for count in [number, text.len()] {
                let Some(count) = char::from_u32(count as u32) else { return false };
                self.key.push(count);
            }
            self.key.push_str(text);
        }
        true
    }

    /// What is known of what was read last.
    fn recall(&mut self, good: impl FnOnce(&T) -> bool) -> Option<&T> {
        let known = self.known.get(&self.key).filter(|known| good(known));
        self.hits += u32::from(known.is_some());
        known
    }

    /// Remembers this for what was read last, if that can be remembered.
    pub(crate) fn remember(&mut self, known: T) {
        if !self.key.is_empty() {
            self.known.put(&self.key, known);
        }
    }

    /// Whether remembering has been of use lately: where nothing ever comes again it only costs.
    fn worth_looking(&mut self) -> bool {
        if let Some(rests) = self.rests.checked_sub(1) {
            self.rests = rests;
            return false;
        }
        if self.looks == TRIALS {
            if self.hits < TRIALS / 8 {
                self.rests = REST;
            }
            (self.looks, self.hits) = (0, 0);
        }
        self.looks += 1;
        true
    }
}

impl Act {
    fn holds(&self, event: &Event, cx: &Context<'_>) -> bool {
        self.present.as_ref().is_none_or(|present| {
            present.now == cx.now
                && present.year == cx.year
                && present.time_machine == event.time_machine()
                && present.zone == *cx.zone
        })
    }

    fn repeat(&self, event: &mut Event, cx: &Context<'_>) {
        if let Some(time) = self.present.as_ref().and_then(|present| present.time) {
            event.set_time(time);
        }
        if !self.writes.is_empty() {
            let text = event.keep_shared(&self.text);
            for Write { field, from, to } in &self.writes {
                event.set_span(*field, text.slice(usize::from(*from)..usize::from(*to)));
            }
        }
        cx.changed();
    }
}
