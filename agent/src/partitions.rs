//! The buckets, in 256 partitions.
//!
//! A pour's group value says which partition it belongs to, so that partitions can be worked on at the same time; each applies
//! its pours in the order of the batches. What comes out is put back into that order: nothing depends on how many
//! threads there are.

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use model::bytes::Writer;
use model::{Part, RuntimeAlert};
use scenarios::metrics::BucketMetrics;
use scenarios::{Buckets, Pour, Remains};

use crate::meter::{Meter, Sample};
use crate::parse::{Scene, Worker};
use crate::pool::Pool;
use crate::ruleset::RuleSet;
use crate::world::World;

/// How many partitions there are.
const PARTITIONS: usize = 256;

/// How many partitions change threads together.
const GROUP: usize = 16;

/// Fewer pours than this are not worth another thread.
const WORTH_SHARING: usize = 256;

/// All buckets.
#[derive(Debug)]
pub struct Partitions {
    groups: Vec<Group>,
    rules: Arc<RuleSet>,
    budget: usize,
    spent: Sample,
    /// Whether changes are noted, for [`Partitions::encode`].
    tracks: bool,
    /// Whether buckets were lost to a mistake of ours since then.
    lost: bool,
}

type Group = Vec<Buckets>;

/// The pours of a batch, where they lie since it was parsed, and its moment.
pub type Timed = (Timestamp, Vec<Pour>);

impl Partitions {
    /// Empty buckets of `rules` that may occupy `memory` bytes together.
    pub fn new(rules: Arc<RuleSet>, memory: usize) -> Self {
        let budget = memory / PARTITIONS;
        let groups = (0..PARTITIONS / GROUP).map(|_| empty(&rules, budget)).collect();
        Self { groups, rules, budget, tracks: false, lost: false, spent: Sample::default() }
    }

    /// From now on notes what changes, for [`Partitions::encode`].
    pub fn track(&mut self) {
        self.tracks = true;
        self.groups.iter_mut().flatten().for_each(Buckets::track);
    }

    /// By partition: its buckets, or what changed of them since the last call. Whether it is everything says the second: also
    /// when that was not asked for, but what changed is not known.
    pub fn encode(&mut self, everything: bool, pool: &mut Pool<Worker>) -> (Vec<(u8, Vec<u8>)>, bool) {
        let everything = mem::take(&mut self.lost) || everything;
        let groups = mem::take(&mut self.groups).into_iter().enumerate();
        let jobs = groups.map(|(number, mut group)| {
            move |_: &mut Worker| {
                let mut encoded = Vec::new();
                for (index, buckets) in group.iter_mut().enumerate() {
                    let mut out = Writer::default();
                    if buckets.encode(everything, &mut out) {
                        encoded.push(((number * GROUP + index) as u8, out.into_bytes()));
                    }
                }
                (group, encoded)
            }
        });
        let answers = pool.run(jobs.collect());
        let mut all = Vec::new();
        for answer in answers {
            let (group, mut encoded) = answer.unwrap_or_else(|| (self.replacement(), Vec::new()));
            self.groups.push(group);
            all.append(&mut encoded);
        }
        (all, everything)
    }

    /// Takes over the buckets that are left; answers how many have no scenario any more.
    pub fn restore(&mut self, remains: &mut Remains) -> usize {
        let buckets = self.groups.iter_mut().flatten();
        (0..=u8::MAX).zip(buckets).map(|(partition, buckets)| buckets.restore(remains, partition)).sum()
    }

    /// Empty buckets for a group that was lost.
    fn replacement(&mut self) -> Group {
        self.lost = true;
        let mut group = empty(&self.rules, self.budget);
        if self.tracks {
            group.iter_mut().for_each(Buckets::track);
        }
        group
    }

    /// Applies `pours` in order, and answers the overflows in the order of the pours that caused them.
    pub fn pour(&mut self, pours: Vec<Timed>, scene: &Scene, pool: &mut Pool<Worker>) -> Vec<RuntimeAlert> {
        if pool.threads() == 1 || pours.iter().map(|(_, pours)| pours.len()).sum::<usize>() < WORTH_SHARING {
            let mut meter = pool.own().pour_meter(scene);
            let mut overflows = Vec::new();
            for (now, pour) in pours.iter().flat_map(|(now, pours)| pours.iter().map(move |pour| (now, pour))) {
                let partition = usize::from(pour.partition);
                let buckets = &mut self.groups[partition / GROUP][partition % GROUP];
                let world = World::new(scene, *now);
                Meter::time(meter.as_deref_mut(), Part::Pour(pour.scenario), |_| {
                    buckets.pour(pour, *now, &world, &mut overflows);
                });
            }
            self.spent.merge(&meter.map(Meter::take).unwrap_or_default());
            return overflows;
        }
        let mut shares: Vec<Vec<[u32; 2]>> = self.groups.iter().map(|_| Vec::new()).collect();
        for (batch, (_, pours)) in (0..).zip(&pours) {
            for (place, pour) in (0..).zip(pours) {
                shares[usize::from(pour.partition) / GROUP].push([batch, place]);
            }
        }
        let pours = Arc::new(pours);
        let jobs = mem::take(&mut self.groups).into_iter().zip(shares).map(|(mut group, share)| {
            let (scene, pours) = (scene.clone(), Arc::clone(&pours));
            move |worker: &mut Worker| {
                let mut meter = worker.pour_meter(&scene);
                let mut found = Vec::new();
                let mut overflows = Vec::new();
                for place in share {
                    let [batch, number] = place.map(|part| part as usize);
                    let Some((now, some)) = pours.get(batch) else { continue };
                    let Some(pour) = some.get(number) else { continue };
                    let world = World::new(&scene, *now);
                    let buckets = &mut group[usize::from(pour.partition) % GROUP];
                    Meter::time(meter.as_deref_mut(), Part::Pour(pour.scenario), |_| {
                        buckets.pour(pour, *now, &world, &mut overflows);
                    });
                    found.extend(overflows.drain(..).map(|overflow| (place, overflow)));
                }
                (group, found, meter.map(Meter::take).unwrap_or_default())
            }
        });
        let answers = pool.run(jobs.collect());
        let mut found = Vec::new();
        for answer in answers {
            let (group, mut some, spent) =
                answer.unwrap_or_else(|| (self.replacement(), Vec::new(), Sample::default()));
            self.spent.merge(&spent);
            self.groups.push(group);
            found.append(&mut some);
        }
        // Stable: what one pour caused stays in its order.
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, overflow)| overflow).collect()
    }

    /// Ends the buckets whose time has come at `now`.
    pub fn expire(&mut self, now: Timestamp, scene: &Scene) -> Vec<RuntimeAlert> {
        let world = World::new(scene, now);
        let mut overflows = Vec::new();
        for buckets in self.groups.iter_mut().flatten() {
            if buckets.deadline().is_some_and(|deadline| deadline <= now) {
                buckets.expire(now, &world, &mut overflows);
            }
        }
        overflows
    }

    /// When [`Partitions::expire`] should be called next.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.groups.iter().flatten().filter_map(Buckets::deadline).min()
    }

    /// Goes on under new rules; answers how many buckets have no scenario any more.
    pub fn adopt(&mut self, rules: &Arc<RuleSet>) -> usize {
        let mut dropped = 0;
        for group in &mut self.groups {
            for buckets in mem::take(group) {
                let (buckets, lost) = buckets.adopt(&rules.scenarios, &self.rules.table, &rules.table);
                group.push(buckets);
                dropped += lost;
            }
        }
        self.rules = Arc::clone(rules);
        dropped
    }

    /// What pouring cost so far, if that is measured.
    pub fn spent(&self) -> &Sample {
        &self.spent
    }

    /// Forgets the buckets that hold only what somebody did to whom nothing may happen any more; answers how many.
    pub fn pardon(&mut self, pardoned: &dyn Fn(IpAddr) -> bool) -> usize {
        self.groups.iter_mut().flatten().map(|buckets| buckets.pardon(pardoned)).sum()
    }

    /// What happened so far, over all partitions.
    pub fn metrics(&self) -> BucketMetrics {
        let mut all = BucketMetrics::default();
        for buckets in self.groups.iter().flatten() {
            all.merge(&buckets.metrics());
        }
        all
    }
}

fn empty(rules: &Arc<RuleSet>, budget: usize) -> Group {
    (0..GROUP).map(|_| Buckets::new(Arc::clone(&rules.scenarios), budget)).collect()
}
