//! Step two: the live buckets of one partition.
//!
//! A pour finds its bucket by name, moves its state machine and may come out as an overflow. Memory has a budget in
//! bytes; when it is used up the fair share decides whose bucket goes ([`crate::quota`]). A live bucket ends on a timer or
//! when it is found too old; a replayed one only by what its own log says, since logs go backwards.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use expr::{Env, Host, Program, Value};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use jiff::Timestamp;
use model::{Record, RuntimeAlert};

use crate::blackhole::{self, Blackholes, Mute};
use crate::bucket::{Kind, Moment, Tally, conditional, timestamp, trigger};
use crate::key::BucketKey;
use crate::metrics::{BucketMetrics, ScenarioBuckets};
use crate::overflow::{Overflow, Sourceless};
use crate::quota::Quota;
use crate::scenario::Scenario;
use crate::select::Pour;
use crate::set::Scenarios;
use crate::slab::{Queue, Slab};
use crate::view::{LeakyView, QueueView};
use crate::wheel::Wheel;

/// How far behind the newest lines of a replayed log a bucket must lie before it is forgotten, in nanoseconds: a day.
const LATENESS: i64 = 86_400_000_000_000;
/// Of how many lines the oldest is taken for the time that a replayed log has reached.
const WINDOW: usize = 64;
/// What a bucket weighs beside its records: itself, and its entries in the table, the quota and the wheel, those of a group of
/// its own included.
const BUCKET: usize = size_of::<Option<Bucket>>() + 112;
/// What a remembered `distinct` value weighs.
const DISTINCT: usize = 20;

/// The buckets of one partition.
#[derive(Debug)]
pub struct Buckets {
    pub(crate) scenarios: Arc<Scenarios>,
    pub(crate) slots: Vec<Option<Bucket>>,
    free: Vec<u32>,
    names: HashTable<u32>,
    pub(crate) slab: Slab,
    pub(crate) quota: Quota,
    wheel: Wheel,
    pub(crate) blackholes: Blackholes,
    pub(crate) replay: ReplayClock,
    /// By scenario: few of them are seen in any one partition.
    counts: BTreeMap<usize, ScenarioBuckets>,
    blackholes_refused: u64,
    budget: usize,
    /// Bytes of buckets and their `distinct` values.
    own_bytes: usize,
    fired: Vec<u32>,
}

/// One bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) key: BucketKey,
    pub(crate) tally: Tally,
    pub(crate) queue: Queue,
    pub(crate) scenario: u32,
    /// Follows the time in its log instead of the clock.
    pub(crate) replay: bool,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What only some buckets need.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// What the bucket is keyed by, for those that overflow without a pour.
    pub(crate) group: Box<str>,
    /// Whether an allowlist was asked about the last event.
    pub(crate) checked: bool,
    pub(crate) seen: HashSet<u128>,
    pub(crate) fallen: Vec<bool>,
}

impl Extra {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.group.len() + self.seen.len() * DISTINCT + self.fallen.len()
    }
}

/// The time that a replayed log has reached: the oldest of its newest lines, so that one forged date moves nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplayClock {
    pub(crate) newest: Vec<i64>,
    next: usize,
    /// Buckets when the last were forgotten.
    swept: usize,
}

impl ReplayClock {
    fn tick(&mut self, at: i64) {
        if self.newest.len() < WINDOW {
            self.newest.push(at);
        } else {
            self.newest[self.next] = at;
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// What lies before this is over; `None` until enough lines were seen.
    fn passed(&self) -> Option<i64> {
        let full = self.newest.len() == WINDOW;
        let oldest = self.newest.iter().min().filter(|_| full)?;
        Some(oldest.saturating_sub(LATENESS))
    }
}

impl Buckets {
    /// No buckets yet, for one partition; `budget` is the most bytes they may occupy.
    pub fn new(scenarios: Arc<Scenarios>, budget: usize) -> Self {
        Self {
            scenarios,
            slots: Vec::new(),
            free: Vec::new(),
            names: HashTable::new(),
            slab: Slab::default(),
            quota: Quota::default(),
            wheel: Wheel::default(),
            blackholes: Blackholes::default(),
            replay: ReplayClock::default(),
            counts: BTreeMap::new(),
            blackholes_refused: 0,
            budget,
            own_bytes: 0,
            fired: Vec::new(),
        }
    }

    /// The rules that these buckets follow.
    pub fn scenarios(&self) -> &Arc<Scenarios> {
        &self.scenarios
    }

    /// The most bytes they may occupy.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Bytes they occupy.
    pub fn bytes(&self) -> usize {
        self.own_bytes + self.slab.bytes() + self.blackholes.len() * blackhole::ENTRY
    }

    /// What happened so far.
    pub fn metrics(&self) -> BucketMetrics {
        let mut scenarios = vec![ScenarioBuckets::default(); self.scenarios.list.len()];
        for (scenario, counts) in &self.counts {
            scenarios[*scenario] = *counts;
        }
        BucketMetrics {
            buckets: self.len() as u64,
            bytes: self.bytes() as u64,
            blackholes: self.blackholes.len() as u64,
            blackholes_refused: self.blackholes_refused,
            scenarios,
        }
    }

    /// When [`Buckets::expire`] should be called next, if nothing is poured before.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.wheel.deadline().map(timestamp)
    }

    /// Applies one pour at `now`, the wall clock or what stands for it, and appends the overflows.
    pub fn pour(&mut self, pour: &Pour, now: Timestamp, host: &dyn Host, overflows: &mut Vec<RuntimeAlert>) {
        let scenarios = Arc::clone(&self.scenarios);
        let round = &mut Round { scenarios: &scenarios, now: Moment::utc(now), host, overflows };
        if pour.record.time_machine()
            && let Some(time) = pour.time
        {
            self.replay.tick(time.nanos);
        }
        if scenarios.list[pour.scenario].kind == Kind::Trigger {
            self.trigger(pour, round);
            return;
        }
        let Some(index) = self.bucket_of(pour, round) else { return };
        self.fill(index, pour, round);
        self.forget_replayed();
        self.make_room();
    }

    /// Ends the live buckets whose time has come at `now`, and appends the overflows.
    pub fn expire(&mut self, now: Timestamp, host: &dyn Host, overflows: &mut Vec<RuntimeAlert>) {
        let scenarios = Arc::clone(&self.scenarios);
        let round = &mut Round { scenarios: &scenarios, now: Moment::utc(now), host, overflows };
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(round.now.nanos, &mut fired);
        // An order that a restart does not change.
        fired.sort_unstable_by_key(|index| {
            let bucket = self.slots[*index as usize].as_ref();
            bucket.map(|bucket| (bucket.tally.first, bucket.key))
        });
        for index in fired.drain(..) {
            let Some(bucket) = &self.slots[index as usize] else { continue };
            let Some(lifetime) = scenarios.list[bucket.scenario as usize].lifetime else { continue };
            if lifetime.over(&bucket.tally, round.now.nanos) {
                self.end(index, round);
            } else {
                // It was poured into since the timer was set.
                self.wheel.set(index, lifetime.deadline(&bucket.tally));
            }
        }
        self.fired = fired;
    }

    /// The bucket that a pour goes into: found, or new. `None` when the event only cancels what is not there.
    fn bucket_of(&mut self, pour: &Pour, round: &mut Round<'_>) -> Option<u32> {
        if let Some(index) = self.find(pour.key)
            && let Some(bucket) = &self.slots[index as usize]
        {
            let lifetime = round.scenarios.list[bucket.scenario as usize].lifetime;
            let over = lifetime.is_some_and(|lifetime| match (bucket.replay, pour.time) {
                (false, _) => lifetime.over(&bucket.tally, round.now.nanos),
                (true, Some(time)) => lifetime.passed(&bucket.tally, time.nanos),
                (true, None) => false,
            });
            if !over {
                return Some(index);
            }
            if bucket.replay {
                self.counts_of(bucket.scenario as usize).expired += 1;
                self.remove(index);
            } else {
                self.end(index, round);
            }
        }
        if pour.cancel {
            self.counts_of(pour.scenario).canceled += 1;
            return None;
        }
        Some(self.create(&round.scenarios.list[pour.scenario], pour))
    }

    fn fill(&mut self, index: u32, pour: &Pour, round: &mut Round<'_>) {
        let Some(bucket) = &mut self.slots[index as usize] else { return };
        let scenario = &round.scenarios.list[bucket.scenario as usize];
        let counts = self.counts.entry(bucket.scenario as usize).or_default();
        let mut weight = 0;
        if let (Some(value), Some(extra)) = (pour.distinct, &mut bucket.extra) {
            if !extra.seen.insert(value) {
                counts.repeated += 1;
                return;
            }
            weight += DISTINCT;
            self.own_bytes += DISTINCT;
        }
        if pour.cancel {
            counts.canceled += 1;
            self.quota.pour(index, weight);
            self.remove(index);
            return;
        }
        let at = if bucket.replay { pour.time } else { Some(round.now) };
        let mut full = false;
        if let Some(at) = at {
            let last = (bucket.tally.count > 0).then_some(bucket.tally.last);
            match scenario.limiter.take(bucket.tally.tokens, last, at.nanos) {
                Some(tokens) => bucket.tally.tokens = tokens,
                None => full = scenario.kind != Kind::Conditional,
            }
            let first = bucket.tally.count == 0;
            bucket.tally.count(at);
            counts.poured += 1;
            if let Some(extra) = &mut bucket.extra {
                extra.checked = pour.checked;
            }
            while bucket.queue.len() >= scenario.hold {
                let lighter = self.slab.pop(&mut bucket.queue);
                self.quota.lighten(index, lighter);
            }
            weight += self.slab.push(&mut bucket.queue, &pour.record);
            // An idle timer is moved when it fires; a pour costs nothing.
            if first
                && !bucket.replay
                && let Some(lifetime) = scenario.lifetime
            {
                self.wheel.set(index, lifetime.deadline(&bucket.tally));
            }
        } else {
            counts.untimed += 1;
        }
        self.quota.pour(index, weight);
        if let Some(at) = at.filter(|_| full) {
            self.overflow(index, at, Some(pour), round);
        } else if self.convinced(scenario, index, pour, round.host) {
            let last = self.slots[index as usize].as_ref().map_or(round.now, |bucket| bucket.tally.last());
            self.overflow(index, last, Some(pour), round);
        }
    }

    /// Whether the condition or the belief of a bucket asks for an overflow.
    fn convinced(&mut self, scenario: &Scenario, index: u32, pour: &Pour, host: &dyn Host) -> bool {
        if scenario.condition.is_none() && scenario.bayes.is_none() {
            return false;
        }
        let Some(bucket) = &mut self.slots[index as usize] else { return false };
        let counts = self.counts.entry(bucket.scenario as usize).or_default();
        let queue = QueueView::new(self.slab.iter(&bucket.queue).map(|record| &**record), scenario.queue_size);
        let leaky = LeakyView {
            scenario,
            group: &pour.group,
            tally: bucket.tally,
            overflowed: None,
            queue: &queue,
            replay: bucket.replay,
        };
        let vars = [Value::Object(&*pour.record), Value::Object(&queue), Value::Object(&leaky)];
        let env = Env { vars: &vars, host, memo: None };
        if let Some(condition) = &scenario.condition
            && conditional::holds(condition, &env, &mut counts.errors)
        {
            return true;
        }
        let (Some(bayes), Some(extra)) = (&scenario.bayes, &mut bucket.extra) else { return false };
        bayes.convinced(&mut extra.fallen, |condition| conditional::answer(condition, &env, &mut counts.errors))
    }

    fn trigger(&mut self, pour: &Pour, round: &mut Round<'_>) {
        let replay = pour.record.time_machine();
        let at = if replay { pour.time.unwrap_or(round.now) } else { round.now };
        let counts = self.counts.entry(pour.scenario).or_default();
        counts.created += 1;
        counts.poured += 1;
        let overflow = Overflow {
            scenario: &round.scenarios.list[pour.scenario],
            group: &pour.group,
            tally: trigger::overflow(at),
            events: &[&*pour.record],
            at,
            timed: false,
            checked: pour.checked,
        };
        let mut hooks = Hooks {
            key: pour.key,
            replay,
            passed: self.replay.passed(),
            most: most_blackholes(self.budget),
            blackholes: &mut self.blackholes,
            counts,
            refused: &mut self.blackholes_refused,
        };
        hooks.emit(&overflow, round);
    }

    /// Ends a live bucket whose time is over: with an overflow if it is timed, else silently.
    fn end(&mut self, index: u32, round: &mut Round<'_>) {
        let Some(bucket) = &self.slots[index as usize] else { return };
        let scenario = bucket.scenario as usize;
        if round.scenarios.list[scenario].lifetime.is_some_and(|lifetime| lifetime.timed) {
            self.overflow(index, round.now, None, round);
        } else {
            self.counts_of(scenario).expired += 1;
            self.remove(index);
        }
    }

    /// Ends a bucket with an overflow at `at`, which `pour` caused, or its time.
    fn overflow(&mut self, index: u32, at: Moment, pour: Option<&Pour>, round: &mut Round<'_>) {
        let Some(bucket) = &self.slots[index as usize] else { return };
        let number = bucket.scenario as usize;
        let events: Vec<&Record> = self.slab.iter(&bucket.queue).map(|record| &**record).collect();
        let (group, checked) = match (pour, &bucket.extra) {
            (Some(pour), _) => (&*pour.group, pour.checked),
            (None, Some(extra)) => (&*extra.group, extra.checked),
            (None, None) => ("", false),
        };
        let overflow = Overflow {
            scenario: &round.scenarios.list[number],
            group,
            tally: bucket.tally,
            events: &events,
            at,
            timed: pour.is_none(),
            checked,
        };
        let mut hooks = Hooks {
            key: bucket.key,
            replay: bucket.replay,
            passed: self.replay.passed(),
            most: most_blackholes(self.budget),
            blackholes: &mut self.blackholes,
            counts: self.counts.entry(number).or_default(),
            refused: &mut self.blackholes_refused,
        };
        hooks.emit(&overflow, round);
        self.remove(index);
    }

    fn counts_of(&mut self, scenario: usize) -> &mut ScenarioBuckets {
        self.counts.entry(scenario).or_default()
    }

    fn find(&self, key: BucketKey) -> Option<u32> {
        let found = self.names.find(key.0 as u64, |index| self.key_at(*index) == Some(key));
        found.copied()
    }

    fn key_at(&self, index: u32) -> Option<BucketKey> {
        self.slots[index as usize].as_ref().map(|bucket| bucket.key)
    }

    fn create(&mut self, scenario: &Scenario, pour: &Pour) -> u32 {
        let extra = scenario.needs_extra().then(|| {
            let conditions = scenario.bayes.as_ref().map_or(0, |bayes| bayes.conditions.len());
            let (group, fallen) = ((*pour.group).into(), vec![false; conditions]);
            Box::new(Extra { group, fallen, ..Extra::default() })
        });
        self.counts_of(pour.scenario).created += 1;
        self.insert(
            Bucket {
                key: pour.key,
                tally: Tally { tokens: scenario.limiter.full(), ..Tally::default() },
                queue: Queue::default(),
                scenario: pour.scenario as u32,
                replay: pour.record.time_machine(),
                extra,
            },
            pour.network,
        )
    }

    /// Takes in a bucket; its records are weighed by whoever pushes them.
    pub(crate) fn insert(&mut self, bucket: Bucket, network: crate::key::Network) -> u32 {
        let (key, scenario) = (bucket.key, bucket.scenario);
        let extra = bucket.extra.as_ref().map_or(0, |extra| extra.bytes());
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(bucket);
            index
        } else {
            self.slots.push(Some(bucket));
            self.slots.len() as u32 - 1
        };
        let slots = &self.slots;
        let hash = |index: &u32| slots[*index as usize].as_ref().map_or(0, |bucket| bucket.key.0 as u64);
        let same = |other: &u32| slots[*other as usize].as_ref().is_some_and(|bucket| bucket.key == key);
        match self.names.entry(key.0 as u64, same, hash) {
            Entry::Occupied(mut entry) => *entry.get_mut() = index,
            Entry::Vacant(entry) => {
                entry.insert(index);
            }
        }
        self.own_bytes += BUCKET + extra;
        self.quota.enter(index, scenario, network);
        self.quota.pour(index, BUCKET + extra);
        index
    }

    /// Puts a record into the bucket at `index`, which is being restored.
    /// `place` is where the record lies if another bucket holds it already.
    pub(crate) fn hold(&mut self, index: u32, record: &Arc<Record>, place: &mut Option<u32>) {
        let Some(bucket) = &mut self.slots[index as usize] else { return };
        let weight = self.slab.push_shared(&mut bucket.queue, record, place);
        self.quota.pour(index, weight);
    }

    /// Sets the timer of a live bucket that has been poured into.
    pub(crate) fn set_timer(&mut self, index: u32) {
        let Some(bucket) = self.slots[index as usize].as_ref().filter(|bucket| !bucket.replay) else { return };
        if let Some(lifetime) = self.scenarios.list[bucket.scenario as usize].lifetime
            && bucket.tally.count > 0
        {
            self.wheel.set(index, lifetime.deadline(&bucket.tally));
        }
    }

    fn remove(&mut self, index: u32) {
        let Some(mut bucket) = self.slots[index as usize].take() else { return };
        self.slab.clear(&mut bucket.queue);
        self.quota.leave(index);
        self.wheel.clear(index);
        // The bucket is out of its slot, so its own number is what is left to find it by.
        if let Ok(entry) = self.names.find_entry(bucket.key.0 as u64, |other| *other == index) {
            entry.remove();
        }
        let extra = bucket.extra.as_ref().map_or(0, |extra| extra.bytes());
        self.own_bytes = self.own_bytes.saturating_sub(BUCKET + extra);
        self.free.push(index);
    }

    /// Evicts buckets until the rest fits into the budget.
    pub(crate) fn make_room(&mut self) {
        while self.bytes() > self.budget
            && let Some(index) = self.quota.victim()
        {
            if let Some(bucket) = &self.slots[index as usize] {
                self.counts_of(bucket.scenario as usize).evicted += 1;
            }
            self.remove(index);
        }
    }

    /// Forgets replayed buckets that their log has left far behind, each time their number has doubled.
    fn forget_replayed(&mut self) {
        if self.replay.newest.is_empty() || self.len() < 2 * self.replay.swept.max(4096) {
            return;
        }
        if let Some(passed) = self.replay.passed() {
            for index in 0..self.slots.len() as u32 {
                let Some(bucket) = self.slots[index as usize].as_ref().filter(|bucket| bucket.replay) else { continue };
                let lifetime = self.scenarios.list[bucket.scenario as usize].lifetime;
                if lifetime.is_some_and(|lifetime| lifetime.passed(&bucket.tally, passed)) {
                    self.counts_of(bucket.scenario as usize).expired += 1;
                    self.remove(index);
                }
            }
        }
        self.replay.swept = self.len();
    }
}

/// Quiet times may take an eighth of the budget.
fn most_blackholes(budget: usize) -> usize {
    (budget / 8 / blackhole::ENTRY).max(16)
}

/// What one call of [`Buckets::pour`] or [`Buckets::expire`] works with.
struct Round<'a> {
    scenarios: &'a Scenarios,
    now: Moment,
    host: &'a dyn Host,
    overflows: &'a mut Vec<RuntimeAlert>,
}

/// What stands between an overflow and its alert.
struct Hooks<'a> {
    key: BucketKey,
    replay: bool,
    /// Log time before which quiet times are over.
    passed: Option<i64>,
    most: usize,
    blackholes: &'a mut Blackholes,
    counts: &'a mut ScenarioBuckets,
    refused: &'a mut u64,
}

impl Hooks<'_> {
    /// Runs the hooks in their order: alert, `overflow_filter`, `blackhole` (spec: scenarios 7).
    fn emit(&mut self, overflow: &Overflow<'_>, round: &mut Round<'_>) {
        let scenario = overflow.scenario;
        self.counts.overflowed += 1;
        let muted = scenario.blackhole > 0 && self.blackholes.muted(self.key, overflow.at.nanos);
        // Floods overflow into blackholes: no alert is made only to be thrown away.
        if muted && scenario.overflow_filter.is_none() {
            self.counts.muted += 1;
            return;
        }
        let alert = overflow.alert(&round.scenarios.context, round.host, &mut self.counts.errors);
        if let Some(filter) = &scenario.overflow_filter
            && self.refuses(filter, overflow, alert.as_ref().ok(), round.host)
        {
            self.counts.filtered += 1;
            return;
        }
        if muted {
            self.counts.muted += 1;
            return;
        }
        if scenario.blackhole > 0 {
            let mute = Mute { until: overflow.at.nanos.saturating_add(scenario.blackhole), replay: self.replay };
            if !self.blackholes.arm(self.key, mute, round.now.nanos, self.passed, self.most) {
                *self.refused += 1;
            }
        }
        match alert {
            Ok(alert) => round.overflows.push(alert),
            Err(Sourceless) => self.counts.sourceless += 1,
        }
    }

    /// Whether `overflow_filter` says no; what it cannot answer goes through.
    fn refuses(
        &mut self,
        filter: &Program,
        overflow: &Overflow<'_>,
        alert: Option<&RuntimeAlert>,
        host: &dyn Host,
    ) -> bool {
        let none = RuntimeAlert::default();
        let queue = QueueView::new(overflow.events.iter().copied(), overflow.scenario.queue_size);
        let leaky = LeakyView {
            scenario: overflow.scenario,
            group: overflow.group,
            tally: overflow.tally,
            overflowed: Some(overflow.at),
            queue: &queue,
            replay: self.replay,
        };
        let signal = Value::Object(alert.unwrap_or(&none));
        let vars = [Value::Nil, Value::Object(&queue), Value::Object(&leaky), signal];
        let env = Env { vars: &vars, host, memo: None };
        conditional::answer(filter, &env, &mut self.counts.errors) == Some(false)
    }
}
