//! The state of buckets as a checkpoint keeps it.
//!
//! Scenarios go by their identity and fields by their names, so that buckets outlive a change of rules: those whose
//! scenario still means the same go on, the others are dropped.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use model::record::RecordDump;
use model::{FieldTable, Record};
use serde::{Deserialize, Serialize};

use crate::blackhole::Mute;
use crate::bucket::Tally;
use crate::buckets::{Bucket, Buckets, Extra, Rare};
use crate::key::{BucketKey, HashKey, Network};
use crate::set::Scenarios;
use crate::slab::Queue;

/// The version that this program writes and reads.
const VERSION: u32 = 2;

/// The buckets of one partition, frozen. To be encoded as JSON or another format that names its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    /// Tells whether the same key made the names; 0 within one process.
    key: u64,
    scenarios: Vec<String>,
    records: Vec<RecordDump>,
    buckets: Vec<BucketDump>,
    mutes: Vec<(BucketKey, Mute)>,
    replay: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BucketDump {
    key: BucketKey,
    /// Index into `scenarios`.
    scenario: u32,
    network: Network,
    replay: bool,
    count: u32,
    first: (i64, i16),
    last: (i64, i16),
    /// As bits, since decimals would round.
    tokens: u64,
    /// Indices into `records`, oldest first.
    queue: Vec<u32>,
    group: String,
    checked: bool,
    seen: Vec<u64>,
    fallen: Vec<bool>,
}

/// A record, and where it lies once a bucket holds it.
type Thawed = (Arc<Record>, Option<u32>);

/// Why a snapshot cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Another program wrote it.
    #[error("the snapshot has version {0}, expected {VERSION}")]
    Version(u32),
    /// Its bucket names were made with another key.
    #[error("the snapshot was made with another key")]
    Key,
}

impl Buckets {
    /// The state as it is now. `key` is the one that names the buckets.
    pub fn snapshot(&self, key: &HashKey) -> Snapshot {
        Snapshot { key: key.check(), ..self.freeze() }
    }

    /// Takes over the buckets of a snapshot whose scenarios are still there; `table` is the numbering of the present
    /// rules. Returns how many buckets were dropped.
    pub fn restore(
        &mut self,
        snapshot: Snapshot,
        key: &HashKey,
        table: &Arc<FieldTable>,
    ) -> Result<usize, RestoreError> {
        if snapshot.version != VERSION {
            return Err(RestoreError::Version(snapshot.version));
        }
        if snapshot.key != key.check() {
            return Err(RestoreError::Key);
        }
        Ok(self.thaw(snapshot, table))
    }

    /// The same buckets under new rules with the numbering of `table`, and how many were dropped.
    pub fn adopt(self, scenarios: Arc<Scenarios>, table: &Arc<FieldTable>) -> (Self, usize) {
        let mut buckets = Self::new(scenarios, self.budget());
        let dropped = buckets.thaw(self.freeze(), table);
        (buckets, dropped)
    }

    fn freeze(&self) -> Snapshot {
        let mut numbers = HashMap::new();
        let mut records = Vec::new();
        let mut number = |record: &Arc<Record>| {
            *numbers.entry(Arc::as_ptr(record)).or_insert_with(|| {
                records.push(record.dump());
                records.len() as u32 - 1
            })
        };
        let buckets = self.slots.iter().map(|(_, bucket)| {
            let extra = self.extra(bucket);
            let rare = extra.and_then(|extra| extra.rare.as_deref());
            let tally = bucket.tally;
            BucketDump {
                key: bucket.key,
                scenario: bucket.scenario.into(),
                network: bucket.network,
                replay: bucket.replay,
                count: tally.count,
                first: (tally.first, tally.first_minutes),
                last: (tally.last, tally.last_minutes),
                tokens: tally.tokens.to_bits(),
                queue: self.slab.iter(&bucket.queue).map(&mut number).collect(),
                group: rare.map_or(String::new(), |rare| rare.group.to_string()),
                checked: bucket.checked,
                seen: extra.map_or(Vec::new(), |extra| extra.seen.sorted()),
                fallen: rare.map_or(Vec::new(), |rare| rare.fallen.to_vec()),
            }
        });
        let buckets = buckets.collect();
        Snapshot {
            version: VERSION,
            key: 0,
            scenarios: self.scenarios.list.iter().map(|scenario| scenario.identity.hex()).collect(),
            records,
            buckets,
            mutes: self.blackholes.dump(),
            replay: self.replay.newest.clone(),
        }
    }

    fn thaw(&mut self, snapshot: Snapshot, table: &Arc<FieldTable>) -> usize {
        let present: HashMap<String, u32> =
            (0..).zip(&self.scenarios.list).map(|(index, scenario)| (scenario.identity.hex(), index)).collect();
        let known: Vec<Option<u32>> = snapshot.scenarios.iter().map(|name| present.get(name).copied()).collect();
        let restore = |dump| Arc::new(Record::restore(dump, Arc::clone(table)));
        let mut records: Vec<Thawed> = snapshot.records.into_iter().map(|dump| (restore(dump), None)).collect();
        let mut dropped = 0;
        for dump in snapshot.buckets {
            match known.get(dump.scenario as usize).copied().flatten() {
                Some(scenario) => self.thaw_bucket(dump, scenario, &mut records),
                None => dropped += 1,
            }
        }
        self.blackholes.restore(snapshot.mutes);
        self.replay.newest = snapshot.replay;
        // Without a clock nothing is near its end.
        self.make_room(Timestamp::MIN);
        dropped
    }

    fn thaw_bucket(&mut self, dump: BucketDump, scenario: u32, records: &mut [Thawed]) {
        let rules = Arc::clone(&self.scenarios);
        let rule = &rules.list[scenario as usize];
        let extra = rule.needs_extra().then(|| {
            let mut fallen = dump.fallen;
            fallen.resize(rule.bayes.as_ref().map_or(0, |bayes| bayes.conditions.len()), false);
            let rare = rule.needs_rare().then(|| Box::new(Rare { group: dump.group.into(), fallen: fallen.into() }));
            Extra { seen: dump.seen.into_iter().collect(), rare }
        });
        let tally = Tally {
            count: dump.count,
            first: dump.first.0,
            first_minutes: dump.first.1,
            last: dump.last.0,
            last_minutes: dump.last.1,
            tokens: f64::from_bits(dump.tokens),
        };
        let bucket = Bucket {
            tally,
            key: dump.key,
            network: dump.network,
            queue: Queue::default(),
            extra: 0,
            scenario: scenario as u16,
            replay: dump.replay,
            checked: dump.checked,
        };
        let index = self.insert(bucket, extra);
        for number in dump.queue {
            if let Some((record, place)) = records.get_mut(number as usize) {
                self.hold(index, record, place);
            }
        }
        self.set_timer(index);
    }
}
