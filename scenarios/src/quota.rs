//! Who must yield when memory is short.
//!
//! Every bucket belongs to a group: its scenario and its network (a /24 or a /48). The scenario that weighs most
//! yields, in it a group that weighs at least as much as the average one, and of that the bucket that was poured
//! longest ago. So a flood from one network evicts itself, and not the slow attacker next to it.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::key::Network;

const NONE: u32 = u32::MAX;
/// How many groups are looked at before one is chosen.
const SAMPLES: usize = 16;

/// The weights of all buckets of one partition, by bucket number.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    members: Vec<Member>,
    groups: Vec<Group>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Those that have buckets. Ordered, so that every run chooses alike.
    scenarios: BTreeMap<u32, Share>,
    random: u64,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    group: u32,
    older: u32,
    newer: u32,
    weight: u32,
}

const NOBODY: Member = Member { group: NONE, older: NONE, newer: NONE, weight: 0 };

#[derive(Debug)]
struct Group {
    name: (u32, Network),
    weight: u64,
    oldest: u32,
    newest: u32,
    /// Where it stands in its scenario's list.
    place: u32,
}

#[derive(Debug, Default)]
struct Share {
    weight: u64,
    groups: Vec<u32>,
}

impl Quota {
    /// Takes in a bucket.
    pub(crate) fn enter(&mut self, bucket: u32, scenario: u32, network: Network) {
        if self.members.len() <= bucket as usize {
            self.members.resize(bucket as usize + 1, NOBODY);
        }
        let name = (scenario, network);
        let hash = self.hasher.hash_one(name);
        let known = self.by_name.find(hash, |group| self.groups[*group as usize].name == name).copied();
        let group = known.unwrap_or_else(|| self.found(name));
        self.members[bucket as usize] = Member { group, ..NOBODY };
        self.append(bucket, group);
    }

    /// Notes that a bucket was poured into and has become heavier.
    pub(crate) fn pour(&mut self, bucket: u32, weight: usize) {
        let group = self.members[bucket as usize].group;
        self.detach(bucket);
        self.append(bucket, group);
        let before = u64::from(self.members[bucket as usize].weight);
        let after = (before + weight as u64).min(u32::MAX.into());
        self.weigh(bucket, after as u32);
    }

    /// Notes that a bucket has become lighter.
    pub(crate) fn lighten(&mut self, bucket: u32, weight: usize) {
        let after = u64::from(self.members[bucket as usize].weight).saturating_sub(weight as u64);
        self.weigh(bucket, after as u32);
    }

    /// Lets a bucket go.
    pub(crate) fn leave(&mut self, bucket: u32) {
        self.weigh(bucket, 0);
        self.detach(bucket);
        let index = self.members[bucket as usize].group;
        self.members[bucket as usize] = NOBODY;
        let group = &self.groups[index as usize];
        if group.oldest != NONE {
            return;
        }
        let (name, place) = (group.name, group.place as usize);
        if let Ok(entry) = self.by_name.find_entry(self.hasher.hash_one(name), |group| *group == index) {
            entry.remove();
        }
        self.free.push(index);
        let Some(share) = self.scenarios.get_mut(&name.0) else { return };
        share.groups.swap_remove(place);
        if let Some(moved) = share.groups.get(place) {
            self.groups[*moved as usize].place = place as u32;
        }
        if share.groups.is_empty() {
            self.scenarios.remove(&name.0);
        }
    }

    /// The bucket that yields next.
    pub(crate) fn victim(&mut self) -> Option<u32> {
        let random = self.next_random();
        let share = self.scenarios.values().max_by_key(|share| share.weight)?;
        let count = share.groups.len();
        let start = (random % count as u64) as usize;
        let at = |offset: usize| share.groups[(start + offset) % count];
        let weight = |group: u32| self.groups[group as usize].weight;
        let sampled = (0..count.min(SAMPLES)).map(at).max_by_key(|group| weight(*group))?;
        // By the pigeonhole principle one of them weighs at least the average.
        let fair = |group: &u32| u128::from(weight(*group)) * count as u128 >= u128::from(share.weight);
        let group = Some(sampled).filter(fair).or_else(|| (0..count).map(at).find(fair))?;
        Some(self.groups[group as usize].oldest)
    }

    /// All buckets, those of a group in the order in which they were last poured into.
    pub(crate) fn in_order(&self) -> Vec<u32> {
        let mut all = Vec::new();
        for group in self.scenarios.values().flat_map(|share| &share.groups) {
            let mut bucket = self.groups[*group as usize].oldest;
            while bucket != NONE {
                all.push(bucket);
                bucket = self.members[bucket as usize].newer;
            }
        }
        all
    }

    /// What a bucket weighs, and the network it belongs to.
    pub(crate) fn of(&self, bucket: u32) -> (u32, Network) {
        let member = self.members[bucket as usize];
        (member.weight, self.groups[member.group as usize].name.1)
    }

    fn found(&mut self, name: (u32, Network)) -> u32 {
        let groups = &mut self.scenarios.entry(name.0).or_default().groups;
        let group = Group { name, weight: 0, oldest: NONE, newest: NONE, place: groups.len() as u32 };
        let index = if let Some(index) = self.free.pop() {
            self.groups[index as usize] = group;
            index
        } else {
            self.groups.push(group);
            self.groups.len() as u32 - 1
        };
        groups.push(index);
        let (groups, hasher) = (&self.groups, &self.hasher);
        let hash = |group: &u32| hasher.hash_one(groups[*group as usize].name);
        self.by_name.insert_unique(hasher.hash_one(name), index, hash);
        index
    }

    fn append(&mut self, bucket: u32, group: u32) {
        let newest = std::mem::replace(&mut self.groups[group as usize].newest, bucket);
        match newest {
            NONE => self.groups[group as usize].oldest = bucket,
            newest => self.members[newest as usize].newer = bucket,
        }
        let member = &mut self.members[bucket as usize];
        (member.older, member.newer) = (newest, NONE);
    }

    fn detach(&mut self, bucket: u32) {
        let member = self.members[bucket as usize];
        match member.older {
            NONE => self.groups[member.group as usize].oldest = member.newer,
            older => self.members[older as usize].newer = member.newer,
        }
        match member.newer {
            NONE => self.groups[member.group as usize].newest = member.older,
            newer => self.members[newer as usize].older = member.older,
        }
    }

    fn weigh(&mut self, bucket: u32, weight: u32) {
        let member = &mut self.members[bucket as usize];
        let before = std::mem::replace(&mut member.weight, weight);
        let group = &mut self.groups[member.group as usize];
        let share = self.scenarios.entry(group.name.0).or_default();
        for total in [&mut group.weight, &mut share.weight] {
            *total = *total - u64::from(before) + u64::from(weight);
        }
    }

    /// The generator `SplitMix64`: good enough to look at groups without favour.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn network(number: u32) -> Network {
        Network::of(Some(IpAddr::V4(Ipv4Addr::from(number << 8))))
    }

    #[test]
    fn a_flood_evicts_itself() {
        let mut quota = Quota::default();
        quota.enter(0, 0, network(1));
        quota.pour(0, 500);
        quota.enter(1, 1, network(1));
        quota.pour(1, 500);
        for bucket in 2..1000 {
            quota.enter(bucket, 0, network(2));
            quota.pour(bucket, 100);
        }
        let mut evicted = Vec::new();
        for _ in 0..980 {
            let victim = quota.victim().expect("there are buckets");
            quota.leave(victim);
            evicted.push(victim);
        }
        assert_eq!(evicted, (2..982).collect::<Vec<_>>(), "the flood's own buckets go, oldest first");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn nobody_below_its_share_yields(
            pours in prop::collection::vec((0..4_u32, 0..30_u32, 1..5_000_usize), 1..200)
        ) {
            let mut quota = Quota::default();
            let mut weights = BTreeMap::<u32, (u32, Network, u64)>::new();
            for (bucket, (scenario, net, weight)) in (0..).zip(pours) {
                quota.enter(bucket, scenario, network(net));
                quota.pour(bucket, weight);
                weights.insert(bucket, (scenario, network(net), weight as u64));
            }
            while let Some(victim) = quota.victim() {
                let (scenario, net, _) = weights[&victim];
                let of_scenario = |wanted: u32| -> u64 {
                    weights.values().filter(|(scenario, _, _)| *scenario == wanted).map(|(_, _, weight)| weight).sum()
                };
                let mine = of_scenario(scenario);
                prop_assert!((0..4).all(|other| of_scenario(other) <= mine));
                let mut groups = BTreeMap::<Network, u64>::new();
                for (_, net, weight) in weights.values().filter(|(other, _, _)| *other == scenario) {
                    *groups.entry(*net).or_default() += weight;
                }
                prop_assert!(groups[&net] * groups.len() as u64 >= mine, "a group below the average yielded");
                quota.leave(victim);
                weights.remove(&victim);
            }
            prop_assert!(weights.is_empty());
        }
    }
}
