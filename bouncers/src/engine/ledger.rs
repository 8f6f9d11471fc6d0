//! What we have placed at a target that forgets nothing by itself, kept over restarts.
//!
//! A host may boot without an API and with bans that ended while it was down: the ledger alone knows that they are
//! still in the target. Steps that were begun and not marked as done count as placed, because they may be.

use std::io;
use std::path::Path;

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;
use model::Scope;
use serde::{Deserialize, Serialize};

use crate::engine::desired::{Key, Subject};
use crate::engine::journal::{Found, Journal};
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::span::Span;

/// One step as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    /// Whether the entry is there afterwards.
    add: bool,
    remediation: CompactString,
    scope: Scope,
    value: CompactString,
    until: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pieces: Option<Vec<String>>,
}

impl Step {
    fn new(add: bool, key: &Key, placed: &Placed) -> Self {
        let piece = |span: &Span| format!("{:x}-{:x}", span.first, span.last);
        Self {
            add,
            remediation: key.remediation.clone(),
            scope: key.scope(),
            value: key.value().into(),
            until: placed.until,
            pieces: placed.pieces.as_ref().map(|pieces| pieces.iter().map(piece).collect()),
        }
    }

    /// `None` for what no version of ours has written.
    fn read(&self) -> Option<(Key, Placed)> {
        let subject = match self.scope {
            Scope::Ip | Scope::Range => {
                let net: IpNet = model::scope::parse_net(&self.value).ok()?;
                Subject::Net(net)
            }
            ref scope => Subject::Named(scope.clone(), self.value.clone()),
        };
        let piece = |text: &String| {
            let (first, last) = text.split_once('-')?;
            let [first, last] = [first, last].map(|number| u128::from_str_radix(number, 16).ok());
            Some(Span { first: first?, last: last? })
        };
        let pieces = match &self.pieces {
            Some(pieces) => Some(pieces.iter().map(piece).collect::<Option<Vec<Span>>>()?.into()),
            None => None,
        };
        Some((Key { remediation: self.remediation.clone(), subject }, Placed { until: self.until, pieces }))
    }
}

/// The journal of one target's steps.
#[derive(Debug)]
pub struct Ledger {
    journal: Journal,
    open: Option<u64>,
}

impl Ledger {
    /// Opens the ledger at `path`, and says what may be in the target.
    pub fn open(path: &Path) -> io::Result<(Self, Placement)> {
        let (journal, found) = Journal::open::<Step>(path)?;
        let mut placed = Placement::new();
        for Found { steps, done } in found {
            for (step, (key, held)) in steps.iter().filter_map(|step| Some((step, step.read()?))) {
                if step.add {
                    placed.insert(key, held);
                } else if done {
                    placed.remove(&key);
                }
            }
        }
        Ok((Self { journal, open: None }, placed))
    }

    /// Notes what `plan` is about to do.
    pub fn begin(&mut self, plan: &Plan) -> io::Result<()> {
        let step = |change: &crate::engine::plan::Change| match (&change.before, &change.after) {
            (_, Some(after)) => Some(Step::new(true, &change.key, after)),
            (Some(before), None) => Some(Step::new(false, &change.key, before)),
            (None, None) => None,
        };
        self.open = Some(self.journal.begin(plan.changes.iter().filter_map(step).collect())?);
        Ok(())
    }

    /// Notes that it is done; `applied` is everything that is in the target now.
    pub fn done(&mut self, applied: &Placement) -> io::Result<()> {
        if let Some(number) = self.open.take() {
            self.journal.done(number)?;
        }
        if self.journal.is_long(applied.len()) { self.settle(applied) } else { Ok(()) }
    }

    /// Notes that `applied` is everything that is in the target.
    pub fn settle(&mut self, applied: &Placement) -> io::Result<()> {
        self.open = None;
        self.journal.compact(applied.iter().map(|(key, placed)| Step::new(true, key, placed)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::desired::tests::{ban, second};
    use crate::engine::plan::Change;

    #[test]
    fn a_crash_in_the_middle_leaves_nothing_forgotten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("fw.journal");
        let key = |value: &str| Key::of(&ban(1, value, 10), 64).expect("a valid test address");
        let pieces = Some([Span { first: 1, last: u128::MAX }].into());
        let placed = |pieces| Some(Placed { until: second(10), pieces });
        let plan =
            |value: &str, before, after| Plan { changes: vec![Change { key: key(value), before, after, why: None }] };
        let values = |placement: &Placement| {
            let mut values: Vec<String> = placement.keys().map(Key::value).collect();
            values.sort();
            values
        };
        let (mut ledger, held) = Ledger::open(&path).expect("a temporary folder");
        let mut applied = held;
        for step in [
            plan("192.0.2.1", None, placed(None)),
            plan("2001:db8::/48", None, placed(pieces.clone())),
            plan("192.0.2.1", placed(None), None),
            plan("192.0.2.2", None, placed(None)),
        ] {
            ledger.begin(&step).expect("there is room");
            step.commit(&mut applied);
            ledger.done(&applied).expect("there is room");
        }
        ledger.begin(&plan("192.0.2.3", None, placed(None))).expect("there is room");
        let (mut ledger, held) = Ledger::open(&path).expect("a temporary folder");
        assert_eq!(values(&held), ["192.0.2.2", "192.0.2.3", "2001:db8::/48"], "an add may have happened");
        assert_eq!(held.get(&key("2001:db8::/48")).and_then(|placed| placed.pieces.clone()), pieces);
        ledger.settle(&applied).expect("there is room");
        ledger.begin(&plan("192.0.2.2", placed(None), None)).expect("there is room");
        let (_, held) = Ledger::open(&path).expect("a temporary folder");
        assert_eq!(values(&held), ["192.0.2.2", "2001:db8::/48"], "a removal may not have happened");
    }
}
