//! What to change, as a value: the difference between what should be and what is.
//!
//! A plan can be printed, written as JSON and compared before anything is touched. Adding what is there prolongs
//! it and removing what is absent is success, so a plan may be applied twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use compact_str::CompactString;
use jiff::Timestamp;
use serde::Serialize;
use serde::ser::SerializeStruct;

use crate::config::Settings;
use crate::engine::Caps;
use crate::engine::desired::{Claim, Desired, Entry, Key};
use crate::engine::pace::Pace;
use crate::engine::rails::{Rails, Refusal};
use crate::engine::select::{Rank, Selection};
use crate::engine::span::{Family, Span};

/// One entry as a target holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// When it ends.
    pub until: Timestamp,
    /// The addresses in it if the rails cut some out; `None` is the key's whole prefix.
    pub pieces: Option<Box<[Span]>>,
}

/// What a target holds, or should hold.
pub type Placement = HashMap<Key, Placed>;

/// The decision behind an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Why {
    /// Number of the decision; 0 before it is stored.
    pub id: i64,
    /// Who decided.
    pub origin: CompactString,
    /// The scenario, or the reason of a manual decision.
    pub scenario: CompactString,
}

impl Why {
    /// The decision of `entry` that lasts longest.
    pub fn of(entry: &Entry) -> Self {
        let Claim { id, origin, scenario, .. } = entry.longest();
        Self { id: *id, origin: origin.clone(), scenario: scenario.clone() }
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub key: Key,
    /// How it is now.
    pub before: Option<Placed>,
    /// How it will be.
    pub after: Option<Placed>,
    /// The decision behind it, if it is still in force.
    pub why: Option<Why>,
}

impl Change {
    /// `add`, `refresh` or `remove`.
    pub fn op(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "add",
            (Some(_), Some(_)) => "refresh",
            (Some(_), None) => "remove",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op(), self.key)?;
        if let Some(after) = &self.after {
            write!(f, " until {}", after.until)?;
        }
        if let Some(Why { origin, scenario, .. }) = &self.why {
            write!(f, " ({origin}: {scenario})")?;
        }
        Ok(())
    }
}

impl Serialize for Change {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("Change", 8)?;
        json.serialize_field("op", self.op())?;
        json.serialize_field("remediation", &self.key.remediation)?;
        json.serialize_field("scope", &self.key.scope())?;
        json.serialize_field("value", &self.key.value())?;
        json.serialize_field("until", &self.after.as_ref().map(|after| after.until))?;
        let pieces = self.after.as_ref().and_then(|after| after.pieces.as_deref()).zip(self.key.net());
        let pieces =
            pieces.map(|(pieces, net)| pieces.iter().map(|piece| piece.display(Family::of(net))).collect::<Vec<_>>());
        json.serialize_field("pieces", &pieces)?;
        json.serialize_field("origin", &self.why.as_ref().map(|why| &why.origin))?;
        json.serialize_field("scenario", &self.why.as_ref().map(|why| &why.scenario))?;
        json.end()
    }
}

/// Everything that has to change, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The steps; they are applied together or not at all.
    pub changes: Vec<Change>,
}

impl Plan {
    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes what is beyond the first `most` changes out of the plan, and answers its keys. What blocks goes first,
    /// but for removals that make room for it.
    pub fn cut(&mut self, most: usize) -> Vec<Key> {
        if self.changes.len() <= most {
            return Vec::new();
        }
        let added: HashSet<&Key> =
            self.changes.iter().filter(|change| change.after.is_some()).map(|change| &change.key).collect();
        let mut wide: Vec<Span> = added.iter().filter_map(|key| key.net()).map(Span::of).collect();
        wide.sort_unstable();
        let makes_room = |key: &Key| {
            key.net().map(Span::of).is_some_and(|span| {
                let behind = wide.partition_point(|other| other.first <= span.last);
                wide.get(..behind)
                    .is_some_and(|before| before.iter().rev().take(64).any(|other| other.last >= span.first))
            })
        };
        let order = |change: &Change| match change.after {
            Some(_) => 1,
            None if makes_room(&change.key) => 0,
            None => 2,
        };
        let orders: HashMap<Key, u8> = self.changes.iter().map(|change| (change.key.clone(), order(change))).collect();
        self.changes.sort_by_key(|change| orders.get(&change.key).copied());
        self.changes.split_off(most).into_iter().map(|change| change.key).collect()
    }

    /// Notes in `applied` that the plan has been carried out.
    pub fn commit(self, applied: &mut Placement) {
        for change in self.changes {
            match change.after {
                Some(after) => applied.insert(change.key, after),
                None => applied.remove(&change.key),
            };
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

/// What became of an entry on its way through the rails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be enforced like this.
    Place(Placed),
    /// A rail holds it back.
    Refuse(Refusal),
    /// The target cannot enforce this scope or remediation; another bouncer may.
    Foreign,
}

/// Which decisions a target is told about, beside what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origins {
    /// Only decisions of these; empty is everybody's.
    pub only: Vec<String>,
    /// Not the decisions of these.
    pub except: Vec<String>,
}

impl Origins {
    /// Whether decisions of `origin` count.
    pub fn take(&self, origin: &str) -> bool {
        let among = |list: &[String]| list.iter().any(|known| known.eq_ignore_ascii_case(origin));
        (self.only.is_empty() || among(&self.only)) && !among(&self.except)
    }
}

/// Everything that an entry must pass on its way to a target.
#[derive(Clone, Debug)]
pub struct Gate {
    /// What the target can do.
    pub caps: Caps,
    /// Whose decisions count.
    pub origins: Origins,
    /// What must never be.
    pub rails: Rails,
    /// How much at once.
    pub pace: Pace,
    /// What goes in where there is not room for all.
    pub selection: Selection,
    /// What the target has refused for good, and why.
    pub quarantine: BTreeMap<Key, String>,
    /// Nothing goes in at all, because nobody has said for too long what holds.
    pub open: bool,
}

impl Gate {
    /// A gate for a target that can do `caps`.
    pub fn new(caps: Caps, rails: Rails) -> Self {
        let selection = Selection::new(caps.max_entries);
        Self {
            caps,
            origins: Origins::default(),
            rails,
            pace: Pace::default(),
            selection,
            quarantine: BTreeMap::new(),
            open: false,
        }
    }

    /// The same, as `settings` want it.
    pub fn for_target(mut caps: Caps, settings: &Settings, rails: Rails) -> Self {
        caps.max_entries = caps.max_entries.min(settings.room.unwrap_or(usize::MAX));
        caps.window = settings.batch_window.unwrap_or(caps.window);
        Self {
            origins: settings.origins.clone(),
            pace: Pace::new(settings.max_new_per_minute, settings.max_share, settings.limits.min_prefix4),
            ..Self::new(caps, rails)
        }
    }

    /// What should become of `entry`, whether or not there is room for it.
    pub fn judge(&self, key: &Key, entry: &Entry, now: Timestamp) -> Verdict {
        if !self.caps.takes(key) || self.open {
            return Verdict::Foreign;
        }
        let counts = |claim: &&Claim| claim.until > now && self.origins.take(&claim.origin);
        if let Some(reason) = self.quarantine.get(key) {
            return Verdict::Refuse(Refusal::Target(reason.clone()));
        }
        if let Some(refusal) = self.pace.holds(key) {
            return Verdict::Refuse(refusal);
        }
        let Some(net) = key.net() else {
            let until = entry.claims().iter().filter(counts).map(|claim| claim.until).max();
            return until.map_or(Verdict::Foreign, |until| Verdict::Place(Placed { until, pieces: None }));
        };
        // A network that stands for one address must not fall because that address is never to be blocked.
        let mut until = None;
        let mut spared = None;
        for claim in entry.claims().iter().filter(counts) {
            match claim.address.and_then(|address| self.rails.spares(address.into(), now)) {
                Some(refusal) => spared = Some(refusal),
                None => until = until.max(Some(claim.until)),
            }
        }
        match (self.rails.place(net, now), until, spared) {
            (_, None, None) => Verdict::Foreign,
            (Err(refusal), ..) | (_, None, Some(refusal)) => Verdict::Refuse(refusal),
            (Ok(spans), Some(until), _) => {
                let pieces = (spans[..] != [Span::of(net)]).then(|| spans.into());
                match pieces {
                    Some(_) if !self.caps.splits => Verdict::Refuse(Refusal::Whole),
                    pieces => Verdict::Place(Placed { until, pieces }),
                }
            }
        }
    }

    /// The same, after the one who has the most right to a place has got it. Others who lose or win theirs by this
    /// come out of [`Selection::moved`].
    fn admit(&mut self, key: &Key, entry: Option<&Entry>, now: Timestamp) -> Option<Verdict> {
        let verdict = entry.map(|entry| self.judge(key, entry, now));
        let rank = match (&verdict, entry) {
            (Some(Verdict::Place(placed)), Some(entry)) => Some(Rank::of(entry, placed.until)),
            _ => None,
        };
        self.selection.offer(key, rank);
        verdict
    }

    fn settle(&self, key: &Key, verdict: Option<Verdict>) -> Option<Verdict> {
        match verdict {
            Some(Verdict::Place(_)) if !self.selection.chose(key) => {
                Some(Verdict::Refuse(Refusal::Full(self.caps.max_entries)))
            }
            verdict => verdict,
        }
    }

    /// Whether a target that holds `before` must be told about `after`.
    fn differs(&self, before: Option<&Placed>, after: Option<&Placed>) -> bool {
        match (before, after) {
            (Some(before), Some(after)) if !self.caps.expires && !self.caps.refreshes => before.pieces != after.pieces,
            _ => before != after,
        }
    }
}

/// Entries that are not enforced here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// What the rails hold back, and why.
    pub held: BTreeMap<Key, Refusal>,
    /// What is for another bouncer.
    pub elsewhere: HashSet<Key>,
}

impl Refusals {
    fn note(&mut self, key: &Key, verdict: Option<Verdict>) -> Option<Placed> {
        self.held.remove(key);
        self.elsewhere.remove(key);
        match verdict? {
            Verdict::Place(placed) => return Some(placed),
            Verdict::Refuse(refusal) => drop(self.held.insert(key.clone(), refusal)),
            Verdict::Foreign => drop(self.elsewhere.insert(key.clone())),
        }
        None
    }

    /// Forgets what `desired` no longer holds.
    pub fn expire(&mut self, desired: &Desired) {
        self.held.retain(|key, _| desired.entry(key).is_some());
        self.elsewhere.retain(|key| desired.entry(key).is_some());
    }
}

/// The plan for `keys`, and for those whose place they take: makes `applied` follow `desired` there, as far as
/// `gate` allows. `refused` is brought up to date for the same keys.
pub fn diff<'a>(
    keys: impl IntoIterator<Item = &'a Key>,
    desired: &Desired,
    applied: &Placement,
    gate: &mut Gate,
    refused: &mut Refusals,
    now: Timestamp,
) -> Plan {
    let holds = |key: &Key| desired.entry(key).filter(|entry| entry.until() > now);
    let mut judged: HashMap<Key, Option<Verdict>> =
        keys.into_iter().map(|key| (key.clone(), gate.admit(key, holds(key), now))).collect();
    for key in gate.selection.moved() {
        judged.entry(key).or_insert_with_key(|key| holds(key).map(|entry| gate.judge(key, entry, now)));
    }
    let mut changes = Vec::new();
    for (key, verdict) in judged {
        let after = refused.note(&key, gate.settle(&key, verdict));
        let before = applied.get(&key).cloned();
        if gate.differs(before.as_ref(), after.as_ref()) {
            let why = holds(&key).map(Why::of);
            changes.push(Change { key, before, after, why });
        }
    }
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    Plan { changes }
}

/// Everything that should be in place at `now`; `refused` becomes what is held back.
pub fn place_all(desired: &Desired, gate: &mut Gate, refused: &mut Refusals, now: Timestamp) -> Placement {
    *refused = Refusals::default();
    gate.selection.clear();
    let mut placement = Placement::with_capacity(desired.len());
    for (key, entry) in desired.iter().filter(|(_, entry)| entry.until() > now) {
        let verdict = gate.admit(key, Some(entry), now);
        if let Some(placed) = refused.note(key, verdict) {
            placement.insert(key.clone(), placed);
        }
    }
    gate.selection.moved();
    if !gate.selection.unlimited() {
        placement.retain(|key, _| {
            let chosen = gate.selection.chose(key);
            if !chosen {
                refused.note(key, Some(Verdict::Refuse(Refusal::Full(gate.caps.max_entries))));
            }
            chosen
        });
    }
    placement
}

#[cfg(test)]
mod tests {
    use model::{AllowEntry, AllowSet, Decision, Delta, Scope};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::tests::{ban, second};
    use crate::engine::rails::Limits;

    fn gate() -> Gate {
        Gate::new(Caps::LOCAL, rails())
    }

    fn rails() -> Rails {
        let own = AllowEntry {
            net: "192.0.2.7/32".parse().expect("a valid test prefix"),
            list: "own addresses".into(),
            comment: String::new(),
            expires: None,
        };
        Rails::new(Limits::default(), &AllowSet::default(), &[own], second(0))
    }

    #[test]
    fn a_network_does_not_fall_for_an_address_that_is_never_blocked() {
        let own = AllowEntry {
            net: "2001:db8::1/128".parse().expect("a valid test prefix"),
            list: "own addresses".into(),
            comment: String::new(),
            expires: None,
        };
        let rails = Rails::new(Limits::default(), &AllowSet::default(), &[own], second(0));
        let mut gate = Gate::new(Caps::LOCAL, rails);
        let mut desired = Desired::new(64, 100);
        let mut refused = Refusals::default();
        let mut ends = |decision| {
            desired.apply(&Delta { add: vec![decision], remove: vec![] }, second(0));
            let placement = place_all(&desired, &mut gate, &mut refused, second(0));
            placement.values().map(|placed| placed.until.as_second()).collect::<Vec<_>>()
        };
        assert_eq!(ends(ban(1, "2001:db8::1", 90)), [] as [i64; 0]);
        assert_eq!(ends(ban(2, "2001:db8::2", 60)), [60], "its neighbour is another matter, but not for longer");
    }

    #[test]
    fn a_plan_reads_as_what_will_happen() {
        let mut desired = Desired::new(64, 100);
        let (mut gate, now) = (gate(), second(0));
        let (mut applied, mut refused) = (Placement::new(), Refusals::default());
        let captcha = Decision { remediation: "captcha".into(), ..ban(4, "203.0.113.5", 60) };
        let country = Decision { scope: Scope::Country, ..ban(5, "FR", 60) };
        let add =
            vec![ban(1, "203.0.113.9", 60), ban(2, "192.0.2.0/29", 60), ban(3, "192.0.2.7", 60), captcha, country];
        let changed = desired.apply(&Delta { add, remove: vec![] }, now);
        let plan = diff(&changed.keys, &desired, &applied, &mut gate, &mut refused, now);
        insta::assert_snapshot!(plan, @r"
        add ban Range 192.0.2.0/29 until 1970-01-01T00:01:00Z (cordon: test/scenario)
        add ban Ip 203.0.113.9 until 1970-01-01T00:01:00Z (cordon: test/scenario)
        ");
        insta::assert_snapshot!(serde_json::to_string(&plan.changes[0]).expect("plain data"), @r#"{"op":"add","remediation":"ban","scope":"Range","value":"192.0.2.0/29","until":"1970-01-01T00:01:00Z","pieces":["192.0.2.0-192.0.2.6"],"origin":"cordon","scenario":"test/scenario"}"#);
        assert_eq!((refused.held.len(), refused.elsewhere.len()), (1, 2));
        plan.commit(&mut applied);

        let delta = Delta { add: vec![ban(6, "203.0.113.9", 90)], remove: vec![ban(2, "192.0.2.0/29", 60)] };
        let changed = desired.apply(&delta, now);
        let plan = diff(&changed.keys, &desired, &applied, &mut gate, &mut refused, now);
        insta::assert_snapshot!(plan, @r"
        remove ban Range 192.0.2.0/29
        refresh ban Ip 203.0.113.9 until 1970-01-01T00:01:30Z (cordon: test/scenario)
        ");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_applied_equals_what_is_desired(
            // (decision, last octet, a range, seconds it lasts, lifted)
            steps in proptest::collection::vec((1..12i64, 0..16u8, any::<bool>(), 1..9i64, any::<bool>()), 1..40)
        ) {
            let mut gate = gate();
            let mut desired = Desired::new(64, 1000);
            let (mut applied, mut refused) = (Placement::new(), Refusals::default());
            for (at, (id, octet, range, seconds, lift)) in steps.into_iter().enumerate() {
                let now = second(at as i64);
                let value = if range { format!("192.0.2.{octet}/29") } else { format!("192.0.2.{octet}") };
                let decision = ban(id, &value, at as i64 + seconds);
                let (add, remove) = if lift { (vec![], vec![decision]) } else { (vec![decision], vec![]) };
                let delta = Delta { add, remove };
                let changed = desired.apply(&delta, now);
                let plan = diff(&changed.keys, &desired, &applied, &mut gate, &mut refused, now);
                let again = plan.clone();
                plan.commit(&mut applied);
                again.commit(&mut applied);
                desired.expire(now);
                applied.retain(|_, placed| placed.until > now);
                let mut expected_refusals = Refusals::default();
                prop_assert_eq!(&applied, &place_all(&desired, &mut gate, &mut expected_refusals, now));
                let keys: Vec<Key> = desired.iter().map(|(key, _)| key.clone()).collect();
                prop_assert!(diff(&keys, &desired, &applied, &mut gate, &mut refused, now).is_empty());
                refused.expire(&desired);
                prop_assert_eq!(&refused, &expected_refusals);
            }
        }
    }
}
