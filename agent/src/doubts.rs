//! Lines that were judged before a rule had the answer that it asked for.
//!
//! Nobody waits for a name: a whitelist that asks for one lets the line pass, and a real attacker is banned at once. When the name is
//! known the line is judged again; if it is whitelisted after all, what it led to is taken back, and it leads to nothing more.

use std::collections::VecDeque;

use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use model::alert::AlertEvent;
use model::{Alert, Line};
use parsers::Outcome;
use tracing::warn;

use crate::report::Lift;
use crate::world::{Outside, Unknown};

/// How many lines at most wait for an answer; those that find no room keep their first judgement.
const MOST: usize = 1024;
/// How long a line waits.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);
/// How many lines that were whitelisted late are remembered: they may lie in buckets that are not full yet.
const ACQUITTED: usize = 16_384;

/// A line that was taken as it is, although a rule asked something that is not known yet.
#[derive(Debug)]
pub struct Doubtful {
    /// The line.
    pub line: Line,
    /// When it was read.
    pub read_at: Timestamp,
    /// What was asked.
    pub unknown: Vec<Unknown>,
}

/// Where a line stands: its source and its offset there.
type Place = (CompactString, u64);

/// The lines that wait, and those that turned out to be harmless.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    open: Vec<Open>,
    acquitted: VecDeque<Place>,
}

#[derive(Debug)]
struct Open {
    doubtful: Doubtful,
    /// What it led to so far.
    handed_on: Vec<Lift>,
}

impl Doubts {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Lets a line wait.
    pub(crate) fn add(&mut self, doubtful: Doubtful) {
        if self.open.len() < MOST {
            self.open.push(Open { doubtful, handed_on: Vec::new() });
        } else {
            warn!(source = %doubtful.line.origin.src, "too many lines wait for names; this one does not");
        }
    }

    /// The alerts that may be handed on: not those about a line that was whitelisted late.
    pub(crate) fn passed(&mut self, mut alerts: Vec<Alert>) -> Vec<Alert> {
        alerts.retain(|alert| self.pass(alert));
        alerts
    }

    fn pass(&mut self, alert: &Alert) -> bool {
        if self.open.is_empty() && self.acquitted.is_empty() {
            return true;
        }
        if rests_on(alert, |(source, offset)| self.acquitted.iter().any(|place| place.0 == source && place.1 == offset))
        {
            return false;
        }
        for open in &mut self.open {
            let line = &open.doubtful.line;
            if rests_on(alert, |(source, offset)| line.origin.src == source && line.offset == offset) {
                open.handed_on.push(Lift::of(alert));
            }
        }
        true
    }

    /// Judges again, with `judge`, the lines whose answers are there: what they led to and should not have.
    pub(crate) fn revise(
        &mut self,
        now: Timestamp,
        outside: &Outside,
        mut judge: impl FnMut(&Line, Timestamp) -> (Outcome, Vec<Unknown>),
    ) -> Vec<Lift> {
        let mut lifts = Vec::new();
        for mut open in std::mem::take(&mut self.open) {
            let Doubtful { line, read_at, unknown } = &open.doubtful;
            let late = now.duration_since(*read_at) > PATIENCE;
            // Each is asked: what found no place in the queue before may find one now.
            if unknown.iter().filter(|unknown| !outside.knows(unknown)).count() > 0 {
                if !late {
                    self.open.push(open);
                }
                continue;
            }
            match judge(line, *read_at) {
                (Outcome::Whitelisted, _) => {
                    self.acquitted.push_back((line.origin.src.clone(), line.offset));
                    if self.acquitted.len() > ACQUITTED {
                        self.acquitted.pop_front();
                    }
                    lifts.append(&mut open.handed_on);
                }
                // One answer led to another question.
                (_, unknown) if !unknown.is_empty() && !late => {
                    open.doubtful.unknown = unknown;
                    self.open.push(open);
                }
                _ => {}
            }
        }
        lifts.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        lifts.dedup();
        lifts
    }
}

/// Whether an alert is about lines at certain places: one that its source wrote, or all where it is about no address.
fn rests_on(alert: &Alert, at: impl Fn((&str, u64)) -> bool) -> bool {
    let ip = &alert.source.ip;
    let wrote = |event: &&AlertEvent| {
        ip.is_empty() || event.meta.iter().any(|meta| meta.key == "source_ip" && meta.value == *ip)
    };
    let stands = |event: &AlertEvent| event.cordon.as_ref().is_some_and(|line| at((&line.source, line.offset)));
    let mut events = alert.events.iter().filter(wrote);
    if ip.is_empty() { !alert.events.is_empty() && events.all(stands) } else { events.any(stands) }
}
