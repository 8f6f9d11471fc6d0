//! A live decision, as small as it can be.
//!
//! What distinguishes few decisions from each other is stored once for all that share it. Rows lie in stretches of
//! ascending numbers, so that a million of them need no memory but their own, and can be read in pages.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;
use uuid::Uuid;

use model::{Decision, Scope};

use super::{from_micros, net_of, to_micros};

/// How many numbers one stretch spans.
const STRETCH: i64 = 256;

/// What distinguishes few decisions from each other.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    scope: Scope,
    origin: CompactString,
    remediation: CompactString,
    scenario: CompactString,
    simulated: bool,
}

impl Kind {
    fn of(decision: &Decision) -> Self {
        Self {
            scope: decision.scope.clone(),
            origin: decision.origin.clone(),
            remediation: decision.remediation.clone(),
            scenario: decision.scenario.clone(),
            simulated: decision.simulated,
        }
    }

    fn is_of(&self, decision: &Decision) -> bool {
        self.scope == decision.scope
            && self.origin == decision.origin
            && self.remediation == decision.remediation
            && self.scenario == decision.scenario
            && self.simulated == decision.simulated
    }
}

/// One live decision. It never changes.
#[derive(Clone, Debug)]
pub struct Row {
    id: i64,
    alert_id: i64,
    uuid: Uuid,
    created: i64,
    until: i64,
    value: CompactString,
    kind: Arc<Kind>,
}

impl Row {
    /// Number given by the store.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// When it was made.
    pub fn created_at(&self) -> Timestamp {
        from_micros(self.created)
    }

    /// When it ends.
    pub fn until(&self) -> Timestamp {
        from_micros(self.until)
    }

    /// When it ends, in microseconds.
    pub(super) fn end(&self) -> i64 {
        self.until
    }

    /// The alert it belongs to.
    pub fn alert_id(&self) -> i64 {
        self.alert_id
    }

    /// Identity across servers; nil if it has none.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The prefix it covers, if it is about addresses.
    pub fn net(&self) -> Option<IpNet> {
        net_of(&self.kind.scope, &self.value)
    }

    /// Whether what is shared with few others is the very same as that of `other`.
    pub fn is_kin(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.kind, &other.kind)
    }

    /// What kind of thing its value names.
    pub fn scope(&self) -> &Scope {
        &self.kind.scope
    }

    /// The address, prefix, name.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is done.
    pub fn remediation(&self) -> &str {
        &self.kind.remediation
    }

    /// Who decided.
    pub fn origin(&self) -> &str {
        &self.kind.origin
    }

    /// The scenario, or the reason of a manual decision.
    pub fn scenario(&self) -> &str {
        &self.kind.scenario
    }

    /// Recorded and shown, but never enforced.
    pub fn simulated(&self) -> bool {
        self.kind.simulated
    }

    /// The decision as everybody else knows it.
    pub fn decision(&self) -> Decision {
        Decision {
            id: self.id,
            uuid: if self.uuid.is_nil() { String::new() } else { self.uuid.to_string() },
            origin: self.kind.origin.clone(),
            remediation: self.kind.remediation.clone(),
            scope: self.kind.scope.clone(),
            value: self.value.clone(),
            scenario: self.kind.scenario.clone(),
            created_at: self.created_at(),
            until: self.until(),
            simulated: self.kind.simulated,
            alert_id: self.alert_id,
        }
    }
}

/// The kinds in use.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    all: HashSet<Arc<Kind>>,
    limit: usize,
    /// The last that was asked for: decisions of one kind mostly come together.
    last: Option<Arc<Kind>>,
}

impl Kinds {
    /// `decision` as a row.
    pub(super) fn row(&mut self, decision: &Decision) -> Row {
        let last = self.last.as_ref().filter(|kind| kind.is_of(decision)).cloned();
        let kind = last.unwrap_or_else(|| self.share(Kind::of(decision)));
        self.last = Some(Arc::clone(&kind));
        Row {
            id: decision.id,
            alert_id: decision.alert_id,
            uuid: Uuid::parse_str(&decision.uuid).unwrap_or_default(),
            created: to_micros(decision.created_at),
            until: to_micros(decision.until),
            value: decision.value.clone(),
            kind,
        }
    }

    fn share(&mut self, kind: Kind) -> Arc<Kind> {
        if let Some(kind) = self.all.get(&kind) {
            return Arc::clone(kind);
        }
        // The set stays within twice what is in use, whatever reasons people invent.
        if self.all.len() >= self.limit {
            self.all.retain(|kind| Arc::strong_count(kind) > 1);
            self.limit = (self.all.len() * 2).max(64);
        }
        let kind = Arc::new(kind);
        self.all.insert(Arc::clone(&kind));
        kind
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

/// Rows by number.
#[derive(Debug, Default)]
pub(super) struct Rows {
    stretches: BTreeMap<i64, Vec<Row>>,
    len: usize,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, id: i64) -> Option<&Row> {
        let stretch = self.stretches.get(&id.div_euclid(STRETCH))?;
        stretch.get(stretch.binary_search_by_key(&id, |row| row.id).ok()?)
    }

    /// Adds a row whose number is not there yet.
    pub(super) fn insert(&mut self, row: Row) {
        let stretch = self.stretches.entry(row.id.div_euclid(STRETCH)).or_default();
        let at = stretch.partition_point(|other| other.id < row.id);
        stretch.insert(at, row);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: i64) -> Option<Row> {
        let key = id.div_euclid(STRETCH);
        let stretch = self.stretches.get_mut(&key)?;
        let row = stretch.remove(stretch.binary_search_by_key(&id, |row| row.id).ok()?);
        if stretch.is_empty() {
            self.stretches.remove(&key);
        } else if stretch.len() * 4 < stretch.capacity() {
            stretch.shrink_to(stretch.len() * 2);
        }
        self.len -= 1;
        Some(row)
    }

    /// Those with numbers above `after`, ascending.
    pub(super) fn after(&self, after: i64) -> impl Iterator<Item = &Row> {
        let first = after.saturating_add(1).div_euclid(STRETCH);
        self.stretches.range(first..).flat_map(|(_, stretch)| stretch).skip_while(move |row| row.id <= after)
    }

    /// The highest number.
    pub(super) fn last_id(&self) -> Option<i64> {
        self.stretches.last_key_value()?.1.last().map(|row| row.id)
    }
}
