//! What others are told when something changes, as a value and as JSON.

use std::collections::BTreeSet;

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Plan, Why};
use crate::engine::span::{Family, Span};
use crate::feed::cidr::prefixes;

/// The form of what is sent.
const SCHEMA: u8 = 1;

/// What becomes of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// It is to be enforced.
    Add,
    /// It is not to be enforced any more.
    Remove,
    /// It is enforced for longer or shorter than before.
    Refresh,
}

impl Op {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Op::Add => "add",
            Op::Remove => "remove",
            Op::Refresh => "refresh",
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What becomes of the value.
    pub op: Op,
    /// `ban`, ...
    pub action: CompactString,
    /// What kind of thing the value names.
    pub scope: CompactString,
    /// The address, prefix, name, in its one spelling.
    pub value: String,
    /// When it ends; not told of what is removed.
    pub until: Option<Timestamp>,
    /// Who decided.
    pub origin: Option<CompactString>,
    /// The scenario, or the reason of a manual decision.
    pub scenario: Option<CompactString>,
    /// Number of the decision.
    pub id: Option<i64>,
    /// What it belongs to, for whoever has to tell the engine what became of it.
    #[serde(skip)]
    pub key: Key,
}

/// Where a part of a full list stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Which part it is, from 1.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

/// Changes that are sent together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Batch {
    schema: u8,
    /// Its identity: who gets it twice need only look at it once.
    pub batch: String,
    /// Grows with each batch.
    pub seq: u64,
    /// Whether it is part of everything that holds. The receiver replaces what he has when the last part is there.
    pub full: bool,
    /// Which part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The steps.
    pub changes: Vec<Change>,
}

impl Batch {
    /// A batch with the identity `batch`.
    pub fn new(batch: String, seq: u64, changes: Vec<Change>) -> Self {
        Self { schema: SCHEMA, batch, seq, full: false, part: None, changes }
    }

    /// The same as one part of everything that holds.
    #[must_use]
    pub fn full(self, part: Part) -> Self {
        Self { full: true, part: Some(part), ..self }
    }
}

/// The steps of `plan`, in its order. What the rails have cut is told as the prefixes that are left.
pub fn changes(plan: &Plan) -> Vec<Change> {
    let mut changes = Vec::with_capacity(plan.changes.len());
    for change in &plan.changes {
        let why = change.why.as_ref();
        let Some(net) = change.key.net() else {
            let op = match (&change.before, &change.after) {
                (_, None) => Op::Remove,
                (None, Some(_)) => Op::Add,
                (Some(_), Some(_)) => Op::Refresh,
            };
            changes.push(step(op, &change.key, change.key.value(), change.after.as_ref(), why));
            continue;
        };
        let values = |placed: &Option<Placed>| placed.as_ref().map(|placed| values(net, placed)).unwrap_or_default();
        let (before, after) = (values(&change.before), values(&change.after));
        for gone in before.difference(&after) {
            changes.push(step(Op::Remove, &change.key, written(*gone), None, why));
        }
        for value in &after {
            let op = if before.contains(value) { Op::Refresh } else { Op::Add };
            changes.push(step(op, &change.key, written(*value), change.after.as_ref(), why));
        }
    }
    changes
}

/// The steps that make everything of one entry.
pub fn additions(key: &Key, placed: &Placed, why: Option<&Why>) -> Vec<Change> {
    let add = |value| step(Op::Add, key, value, Some(placed), why);
    match key.net() {
        Some(net) => values(net, placed).into_iter().map(written).map(add).collect(),
        None => vec![add(key.value())],
    }
}

fn step(op: Op, key: &Key, value: String, after: Option<&Placed>, why: Option<&Why>) -> Change {
    let why = why.filter(|_| after.is_some());
    let scope = match key.net() {
        Some(_) if value.contains('/') => "Range".into(),
        Some(_) => "Ip".into(),
        None => key.scope().as_str().into(),
    };
    Change {
        op,
        action: key.remediation.clone(),
        scope,
        value,
        until: after.map(|after| after.until),
        origin: why.map(|why| why.origin.clone()),
        scenario: why.map(|why| why.scenario.clone()),
        id: why.map(|why| why.id),
        key: key.clone(),
    }
}

/// The prefixes in which `placed` of `net` is told.
fn values(net: IpNet, placed: &Placed) -> BTreeSet<IpNet> {
    let family = Family::of(net);
    let whole = [Span::of(net)];
    let spans = placed.pieces.as_deref().unwrap_or(&whole);
    let prefixes = spans.iter().flat_map(|&span| prefixes(family, span));
    prefixes.filter_map(|prefix| IpNet::new(family.address(prefix.first), prefix.length).ok()).collect()
}

fn written(net: IpNet) -> String {
    model::allowlist::display_net(net)
}

#[cfg(test)]
pub(crate) mod tests {
    use model::Scope;

    use super::*;
    use crate::engine::desired::Subject;
    use crate::engine::desired::tests::second;
    use crate::engine::plan;

    pub(crate) fn key(net: &str) -> Key {
        Key {
            remediation: "ban".into(),
            subject: Subject::Net(model::scope::parse_net(net).expect("a valid test prefix")),
        }
    }

    pub(crate) fn placed(until: i64, pieces: &[&str]) -> Placed {
        let span = |net: &&str| Span::of(model::scope::parse_net(net).expect("a valid test prefix"));
        let pieces: Vec<Span> = pieces.iter().map(span).collect();
        Placed { until: second(until), pieces: (!pieces.is_empty()).then(|| pieces.into()) }
    }

    #[test]
    fn what_the_rails_have_cut_is_told_in_pieces() {
        let why = Some(Why { id: 7, origin: "cordon".into(), scenario: "test/scenario".into() });
        let user = Key { remediation: "ban".into(), subject: Subject::Named(Scope::new("Username"), "a \"b\"".into()) };
        let change = |key, before, after| plan::Change { key, before, after, why: why.clone() };
        let plan = Plan {
            changes: vec![
                change(key("192.0.2.0/30"), None, Some(placed(60, &["192.0.2.0", "192.0.2.2/31"]))),
                change(key("192.0.2.0/30"), Some(placed(60, &[])), Some(placed(90, &["192.0.2.0/31"]))),
                change(key("203.0.113.9"), Some(placed(60, &[])), Some(placed(90, &[]))),
                change(key("203.0.113.9"), Some(placed(60, &[])), None),
                change(user, None, Some(placed(60, &[]))),
            ],
        };
        let told = changes(&plan);
        let lines: Vec<String> =
            told.iter().map(|change| format!("{} {} {}", change.op.word(), change.scope, change.value)).collect();
        assert_eq!(
            lines,
            [
                "add Ip 192.0.2.0",
                "add Range 192.0.2.2/31",
                "remove Range 192.0.2.0/30",
                "add Range 192.0.2.0/31",
                "refresh Ip 203.0.113.9",
                "remove Ip 203.0.113.9",
                "add Username a \"b\"",
            ]
        );
        let batch = Batch::new("b1".into(), 5, told.into_iter().skip(5).collect());
        insta::assert_snapshot!(serde_json::to_string_pretty(&batch).expect("plain data"));
    }
}
