//! Who goes in where there is not room for all.
//!
//! What a person decided comes first, then what was detected here, then lists; among equals whoever stays longest,
//! then whoever came last. A target with room for all costs nothing.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use crate::engine::desired::{Entry, Key};

/// How much right to a place an entry has: the greater the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    importance: u8,
    until: Timestamp,
    /// The newest decision has the highest number.
    newest: i64,
}

impl Rank {
    /// The rank of `entry`, placed until `until`.
    pub fn of(entry: &Entry, until: Timestamp) -> Self {
        let importance = entry.claims().iter().map(|claim| importance(&claim.origin)).max().unwrap_or(0);
        let newest = entry.claims().iter().map(|claim| claim.id).max().unwrap_or(0);
        Self { importance, until, newest }
    }
}

pub(crate) fn importance(origin: &str) -> u8 {
    match origin.to_ascii_lowercase().as_str() {
        "cscli" | "manual" => 2,
        "capi" | "lists" | "list" | "cscli-import" => 0,
        _ => 1,
    }
}

/// The entries that have a place, and those that wait for one.
#[derive(Clone, Debug)]
pub struct Selection {
    room: usize,
    ranks: HashMap<Key, Rank>,
    chosen: BTreeSet<(Rank, Key)>,
    waiting: BTreeSet<(Rank, Key)>,
    moved: HashSet<Key>,
}

impl Selection {
    /// Nobody yet, for `room` places.
    pub fn new(room: usize) -> Self {
        Self { room, ranks: HashMap::new(), chosen: BTreeSet::new(), waiting: BTreeSet::new(), moved: HashSet::new() }
    }

    /// Whether there is room for everybody.
    pub fn unlimited(&self) -> bool {
        self.room == usize::MAX
    }

    /// Forgets everybody.
    pub fn clear(&mut self) {
        *self = Self::new(self.room);
    }

    /// Enters `key` with its rank, or takes it out.
    pub fn offer(&mut self, key: &Key, rank: Option<Rank>) {
        if self.unlimited() || self.ranks.get(key) == rank.as_ref() {
            return;
        }
        if let Some(before) = self.ranks.remove(key) {
            let held = (before, key.clone());
            if !self.chosen.remove(&held) {
                self.waiting.remove(&held);
            }
        }
        if let Some(rank) = rank {
            self.ranks.insert(key.clone(), rank);
            self.waiting.insert((rank, key.clone()));
        }
        self.fill();
    }

    /// Gives places to those with the most right to them.
    fn fill(&mut self) {
        while let Some(best) = self.waiting.last() {
            if self.chosen.len() >= self.room {
                let Some(worst) = self.chosen.first().filter(|worst| *worst < best) else { break };
                let worst = worst.clone();
                self.chosen.remove(&worst);
                self.moved.insert(worst.1.clone());
                self.waiting.insert(worst);
                continue;
            }
            let Some(best) = self.waiting.pop_last() else { break };
            self.moved.insert(best.1.clone());
            self.chosen.insert(best);
        }
    }

    /// Whether `key` has a place.
    pub fn chose(&self, key: &Key) -> bool {
        self.unlimited() || self.ranks.get(key).is_some_and(|rank| self.chosen.contains(&(*rank, key.clone())))
    }

    /// Those who may have won or lost a place since this was last asked.
    pub fn moved(&mut self) -> HashSet<Key> {
        std::mem::take(&mut self.moved)
    }

    /// How many wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use model::{Decision, Delta};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::Desired;
    use crate::engine::desired::tests::{ban, second};

    fn entries(decisions: Vec<Decision>) -> Vec<(Key, Rank)> {
        let mut desired = Desired::new(64, 1000);
        desired.apply(&Delta { add: decisions, remove: vec![] }, second(0));
        desired.iter().map(|(key, entry)| (key.clone(), Rank::of(entry, entry.until()))).collect()
    }

    #[test]
    fn a_person_comes_before_a_detection_and_both_before_a_list() {
        let origin = |origin: &str, id, value, until| Decision { origin: origin.into(), ..ban(id, value, until) };
        let mut selection = Selection::new(2);
        let offered = entries(vec![
            origin("lists", 1, "192.0.2.1", 900),
            origin("cordon", 2, "192.0.2.2", 100),
            origin("cscli", 3, "192.0.2.3", 10),
            origin("cordon", 4, "192.0.2.4", 200),
        ]);
        for (key, rank) in &offered {
            selection.offer(key, Some(*rank));
        }
        let chosen = |selection: &Selection| {
            let mut chosen: Vec<String> =
                offered.iter().filter(|(key, _)| selection.chose(key)).map(|(key, _)| key.value()).collect();
            chosen.sort();
            chosen
        };
        assert_eq!(chosen(&selection), ["192.0.2.3", "192.0.2.4"]);
        let (gone, _) = offered.iter().find(|(key, _)| key.value() == "192.0.2.3").expect("it was offered");
        selection.offer(gone, None);
        assert_eq!(chosen(&selection), ["192.0.2.2", "192.0.2.4"], "whoever waits moves up");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_best_have_the_places(room in 0..6usize, steps in proptest::collection::vec((0..12u8, 1..40i64, any::<bool>()), 1..60)) {
            let mut selection = Selection::new(room);
            let mut offered: HashMap<Key, Rank> = HashMap::new();
            for (octet, until, leave) in steps {
                let (key, rank) = entries(vec![ban(octet.into(), &format!("192.0.2.{octet}"), until)]).remove(0);
                let before: HashSet<Key> = offered.keys().filter(|key| selection.chose(key)).cloned().collect();
                if leave { offered.remove(&key) } else { offered.insert(key.clone(), rank) };
                selection.offer(&key, (!leave).then_some(rank));
                let after: HashSet<Key> = offered.keys().filter(|key| selection.chose(key)).cloned().collect();
                let moved = selection.moved();
                prop_assert!(before.symmetric_difference(&after).all(|other| *other == key || moved.contains(other)));
                let mut best: Vec<(Rank, Key)> = offered.iter().map(|(key, rank)| (*rank, key.clone())).collect();
                best.sort();
                let best: HashSet<Key> = best.into_iter().rev().take(room).map(|(_, key)| key).collect();
                prop_assert_eq!(after, best);
            }
        }
    }
}
