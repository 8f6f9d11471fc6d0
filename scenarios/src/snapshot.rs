//! The state of buckets as a checkpoint keeps it.
//!
//! A checkpoint begins with the numbering of the rules ([`encode_head`]) and goes on with what changed in each partition
//! ([`Buckets::encode`]): buckets and records by the places where they lie, so that a place that is written again
//! replaces what lay there. Read back, scenarios go by their identity and fields by their names: buckets outlive a change of
//! rules if their scenario still means the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use model::bytes::{Garbled, Reader, Writer};
use model::record::{self, Shared, Sharing};
use model::{FieldTable, Record};

use crate::blackhole::Mute;
use crate::bucket::Tally;
use crate::buckets::{Bucket, Buckets, Extra, Rare};
use crate::key::{BucketKey, HashKey, Network};
use crate::set::Scenarios;
use crate::slab::Queue;

/// The version of what [`encode_head`] and [`Buckets::encode`] write beside records, which have one of their own. Whoever
/// keeps it on disk keeps both.
pub const VERSION: u32 = 1;

/// Why what a checkpoint holds cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is not what was written.
    #[error(transparent)]
    Garbled(#[from] Garbled),
    /// Its bucket names were made with another key.
    #[error("the buckets were named with another key")]
    Key,
}

/// Writes what [`Remains::new`] needs to know about the rules. `key` is the one that names the buckets.
pub fn encode_head(scenarios: &Scenarios, table: &FieldTable, key: &HashKey, out: &mut Writer) {
    out.fixed64(key.check());
    out.number(scenarios.list.len() as u64);
    for scenario in &scenarios.list {
        out.text(&scenario.identity.hex());
    }
    out.part(|part| record::encode_fields(table, part));
}

/// What a checkpoint holds of the buckets of all partitions, on its way into [`Buckets`].
#[derive(Debug)]
pub struct Remains {
    /// By the writer's number: ours.
    scenarios: Vec<Option<u32>>,
    shared: Shared,
    partitions: BTreeMap<u8, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    records: HashMap<u32, Arc<Record>>,
    /// By the place where they lay, which is the order in which they are put back.
    buckets: BTreeMap<u32, Dump>,
    mutes: BTreeMap<BucketKey, Mute>,
    replay: Vec<i64>,
}

/// A bucket whose records lie elsewhere.
#[derive(Debug)]
struct Dump {
    bucket: Bucket,
    /// Places of records, oldest first.
    queue: Vec<u32>,
    seen: Vec<u64>,
    group: Box<str>,
    fallen: Vec<bool>,
}

impl Remains {
    /// Nothing yet; `head` is what [`encode_head`] wrote, `scenarios` and `table` are the rules of now.
    pub fn new(
        head: &[u8],
        scenarios: &Scenarios,
        table: &Arc<FieldTable>,
        key: &HashKey,
    ) -> Result<Self, RestoreError> {
        let mut reader = Reader::new(head);
        if reader.fixed64()? != key.check() {
            return Err(RestoreError::Key);
        }
        let present: HashMap<String, u32> =
            (0..).zip(&scenarios.list).map(|(index, scenario)| (scenario.identity.hex(), index)).collect();
        let count = reader.count()?;
        let known = (0..count).map(|_| Ok(present.get(reader.text()?).copied())).collect::<Result<_, Garbled>>()?;
        let shared = Shared::new(reader.bytes()?, Arc::clone(table))?;
        Ok(Self { scenarios: known, shared, partitions: BTreeMap::new() })
    }

    /// Takes in what [`Buckets::encode`] wrote of `partition`, after what it wrote before.
    pub fn apply(&mut self, partition: u8, bytes: &[u8]) -> Result<(), Garbled> {
        let mut reader = Reader::new(bytes);
        let into = self.partitions.entry(partition).or_default();
        self.shared.restart();
        for _ in 0..reader.count()? {
            let place = reader.number32()?;
            into.records.insert(place, Arc::new(Record::decode(&mut reader, &mut self.shared)?));
        }
        for _ in 0..reader.count()? {
            let place = reader.number32()?;
            if reader.flag()? {
                into.buckets.insert(place, decode_bucket(&mut reader)?);
            } else {
                into.buckets.remove(&place);
            }
        }
        for _ in 0..reader.count()? {
            let key = decode_key(&mut reader)?;
            into.mutes.insert(key, Mute { until: reader.signed()?, replay: reader.flag()? });
        }
        into.replay = (0..reader.count()?).map(|_| reader.signed()).collect::<Result<_, _>>()?;
        Ok(())
    }
}

impl Buckets {
    /// From now on notes what changes, for [`Buckets::encode`].
    pub fn track(&mut self) {
        self.touched = Some(crate::touched::Touched::default());
        self.slab.filled = Some(crate::touched::Touched::default());
        self.blackholes.armed = Some(Vec::new());
    }

    /// Writes what changed since the last call, or everything there is; `false` if that is nothing.
    pub fn encode(&mut self, everything: bool, out: &mut Writer) -> bool {
        let touched = self.touched.as_mut().map(crate::touched::Touched::take).unwrap_or_default();
        let filled = self.slab.filled.as_mut().map(crate::touched::Touched::take).unwrap_or_default();
        let armed = self.blackholes.armed.as_mut().map(std::mem::take).unwrap_or_default();
        let (places, records, mutes) = if everything {
            (self.slots.iter().map(|(place, _)| place).collect(), self.slab.occupied(), self.blackholes.dump())
        } else {
            (touched, filled, self.blackholes.some(armed))
        };
        if places.is_empty() && records.is_empty() && mutes.is_empty() {
            return false;
        }
        let held: Vec<(u32, &Arc<Record>)> =
            records.into_iter().filter_map(|place| Some((place, self.slab.record(place)?))).collect();
        out.number(held.len() as u64);
        let mut sharing = Sharing::default();
        for (place, record) in held {
            out.number(place.into());
            record.encode(out, &mut sharing);
        }
        out.number(places.len() as u64);
        for place in places {
            out.number(place.into());
            let bucket = self.slots.get(place);
            out.flag(bucket.is_some());
            if let Some(bucket) = bucket {
                self.encode_bucket(bucket, out);
            }
        }
        out.number(mutes.len() as u64);
        for (key, mute) in mutes {
            encode_key(key, out);
            out.signed(mute.until);
            out.flag(mute.replay);
        }
        out.number(self.replay.newest.len() as u64);
        for at in &self.replay.newest {
            out.signed(*at);
        }
        true
    }

    fn encode_bucket(&self, bucket: &Bucket, out: &mut Writer) {
        let Bucket { tally, key, network, queue, extra: _, scenario, replay, checked } = bucket;
        encode_key(*key, out);
        out.number((*scenario).into());
        out.number(network.0.into());
        out.flag(*replay);
        out.flag(*checked);
        out.number(tally.count.into());
        out.signed(tally.first);
        out.signed(tally.first_minutes.into());
        out.signed(tally.last);
        out.signed(tally.last_minutes.into());
        // As bits, since decimals would round.
        out.fixed64(tally.tokens.to_bits());
        out.number(queue.len() as u64);
        for place in self.slab.places(queue) {
            out.number(place.into());
        }
        let extra = self.extra(bucket);
        let seen = extra.map_or(Vec::new(), |extra| extra.seen.sorted());
        out.number(seen.len() as u64);
        for value in seen {
            out.fixed64(value);
        }
        let rare = extra.and_then(|extra| extra.rare.as_deref());
        out.text(rare.map_or("", |rare| &rare.group));
        let fallen = rare.map_or(&[][..], |rare| &rare.fallen);
        out.number(fallen.len() as u64);
        for fallen in fallen {
            out.flag(*fallen);
        }
    }

    /// Takes over the buckets of `partition` whose scenarios are still there. Returns how many were dropped.
    pub fn restore(&mut self, remains: &mut Remains, partition: u8) -> usize {
        let Some(Partition { records, buckets, mutes, replay }) = remains.partitions.remove(&partition) else {
            return 0;
        };
        let mut records: HashMap<u32, Thawed> =
            records.into_iter().map(|(place, record)| (place, (record, None))).collect();
        let mut dropped = 0;
        for dump in buckets.into_values() {
            match remains.scenarios.get(usize::from(dump.bucket.scenario)).copied().flatten() {
                Some(scenario) => self.thaw(dump, scenario, &mut records),
                None => dropped += 1,
            }
        }
        self.blackholes.restore(mutes);
        self.replay.newest = replay;
        // Without a clock nothing is near its end.
        self.make_room(Timestamp::MIN);
        dropped
    }

    /// The same buckets under new rules with the numbering of `table`, and how many were dropped.
    pub fn adopt(mut self, scenarios: &Arc<Scenarios>, old: &FieldTable, table: &Arc<FieldTable>) -> (Self, usize) {
        /// Stays within this function, so any key does.
        const KEY: [u8; 16] = [0; 16];
        let (mut head, mut body) = (Writer::default(), Writer::default());
        encode_head(&self.scenarios, old, &HashKey::new(KEY), &mut head);
        let any = self.encode(true, &mut body);
        let mut buckets = Self::new(Arc::clone(scenarios), self.budget());
        if self.touched.is_some() {
            buckets.track();
        }
        let before = self.len();
        drop(self);
        if !any {
            return (buckets, 0);
        }
        let remains = Remains::new(head.as_slice(), scenarios, table, &HashKey::new(KEY));
        let dropped = remains.and_then(|mut remains| {
            remains.apply(0, body.as_slice())?;
            Ok(buckets.restore(&mut remains, 0))
        });
        // What was written in the lines above reads back.
        (buckets, dropped.unwrap_or(before))
    }

    fn thaw(&mut self, dump: Dump, scenario: u32, records: &mut HashMap<u32, Thawed>) {
        let Dump { mut bucket, queue, seen, group, mut fallen } = dump;
        let rules = Arc::clone(&self.scenarios);
        let rule = &rules.list[scenario as usize];
        bucket.scenario = scenario as u16;
        let extra = rule.needs_extra().then(|| {
            fallen.resize(rule.bayes.as_ref().map_or(0, |bayes| bayes.conditions.len()), false);
            let rare = rule.needs_rare().then(|| Box::new(Rare { group, fallen: fallen.into() }));
            Extra { seen: seen.into_iter().collect(), rare }
        });
        let index = self.insert(bucket, extra);
        for place in queue {
            if let Some((record, held)) = records.get_mut(&place) {
                self.hold(index, record, held);
            }
        }
        self.set_timer(index);
    }
}

/// A record, and where it lies once a bucket holds it.
type Thawed = (Arc<Record>, Option<u32>);

fn encode_key(key: BucketKey, out: &mut Writer) {
    let [low, middle, high] = key.0;
    out.fixed64(u64::from(low) | u64::from(middle) << 32);
    out.number(high.into());
}

fn decode_key(reader: &mut Reader<'_>) -> Result<BucketKey, Garbled> {
    let low = reader.fixed64()?;
    Ok(BucketKey([low as u32, (low >> 32) as u32, reader.number32()?]))
}

fn decode_bucket(reader: &mut Reader<'_>) -> Result<Dump, Garbled> {
    let key = decode_key(reader)?;
    let scenario = u16::try_from(reader.number()?).map_err(|_| Garbled)?;
    let network = Network(reader.number32()?);
    let (replay, checked) = (reader.flag()?, reader.flag()?);
    let count = reader.number32()?;
    let minutes = |reader: &mut Reader<'_>| i16::try_from(reader.signed()?).map_err(|_| Garbled);
    let (first, first_minutes) = (reader.signed()?, minutes(reader)?);
    let (last, last_minutes) = (reader.signed()?, minutes(reader)?);
    let tokens = f64::from_bits(reader.fixed64()?);
    let queue = (0..reader.count()?).map(|_| reader.number32()).collect::<Result<_, _>>()?;
    let seen = (0..reader.count()?).map(|_| reader.fixed64()).collect::<Result<_, _>>()?;
    let group = reader.text()?.into();
    let fallen = (0..reader.count()?).map(|_| reader.flag()).collect::<Result<_, _>>()?;
    let tally = Tally { count, first, last, first_minutes, last_minutes, tokens };
    let bucket = Bucket { tally, key, network, queue: Queue::default(), extra: 0, scenario, replay, checked };
    Ok(Dump { bucket, queue, seen, group, fallen })
}
