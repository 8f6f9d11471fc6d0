//! Step two: the live buckets of one partition.
//!
//! A pour finds its bucket by name, moves its state machine and may come out as an overflow. Memory has a budget in
//! bytes; when it is used up the fair share decides whose buckets go ([`crate::quota`]). A live bucket ends on a timer or
//! when it is found too old; a replayed one only by what its own log says, since logs go backwards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use expr::{Env, Host, Program, Value};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use jiff::Timestamp;
use model::{Record, RuntimeAlert};

use crate::arena::Arena;
use crate::blackhole::{self, Blackholes, Mute};
use crate::bucket::{Kind, Moment, Tally, conditional, nanos, timestamp, trigger};
use crate::distinct::Seen;
use crate::key::{BucketKey, Network};
use crate::metrics::{BucketMetrics, ScenarioBuckets};
use crate::overflow::{Overflow, Sourceless};
use crate::quota::{self, Claim};
use crate::scenario::Scenario;
use crate::select::Pour;
use crate::set::Scenarios;
use crate::slab::{Queue, Slab};
use crate::touched::Touched;
use crate::view::{Events, LeakyView, QueueView};
use crate::wheel::Wheel;

/// How far behind the newest lines of a replayed log a bucket must lie before it is forgotten, in nanoseconds: a day.
const LATENESS: i64 = 86_400_000_000_000;
/// Of how many lines the oldest is taken for the time that a replayed log has reached.
const WINDOW: usize = 64;
/// What a bucket weighs beside its records: itself, and its entries in the table and the wheel.
const BUCKET: usize = size_of::<Option<Bucket>>() + 20;
/// Which part of the budget is freed at once when it is used up: all buckets are looked at for it.
const RESERVE: usize = 2;

/// The buckets of one partition.
#[derive(Debug)]
pub struct Buckets {
    pub(crate) scenarios: Arc<Scenarios>,
    pub(crate) slots: Arena<Bucket>,
    pub(crate) extras: Arena<Extra>,
    names: HashTable<u32>,
    pub(crate) slab: Slab,
    wheel: Wheel,
    pub(crate) blackholes: Blackholes,
    pub(crate) replay: ReplayClock,
    /// By scenario: few of them are seen in any one partition.
    counts: BTreeMap<usize, ScenarioBuckets>,
    blackholes_refused: u64,
    budget: usize,
    /// Bytes of buckets and what only some of them need.
    own_bytes: usize,
    fired: Vec<u32>,
    /// Buckets that changed since the last checkpoint, where checkpoints are made.
    pub(crate) touched: Option<Touched>,
}

/// One bucket, in 64 bytes.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) tally: Tally,
    pub(crate) key: BucketKey,
    pub(crate) network: Network,
    pub(crate) queue: Queue,
    /// Number of what only some buckets need, for those of a scenario that does.
    pub(crate) extra: u32,
    pub(crate) scenario: u16,
    /// Follows the time in its log instead of the clock.
    pub(crate) replay: bool,
    /// Whether an allowlist was asked about the last event.
    pub(crate) checked: bool,
}

/// What only some buckets need.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// The `distinct` values so far.
    pub(crate) seen: Seen,
    pub(crate) rare: Option<Box<Rare>>,
}

/// What few buckets need.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// What the bucket is keyed by, for those that overflow without a pour.
    pub(crate) group: Box<str>,
    /// Guillotines that have fallen, one entry a condition.
    pub(crate) fallen: Box<[bool]>,
}

impl Extra {
    fn bytes(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| size_of::<Rare>() + rare.group.len() + rare.fallen.len() + 32);
        size_of::<Option<Self>>() + self.seen.bytes() + rare
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

    /// The time reached; `None` until enough lines were seen.
    fn now(&self) -> Option<i64> {
        let full = self.newest.len() == WINDOW;
        self.newest.iter().min().filter(|_| full).copied()
    }

    /// What lies before this is over.
    fn passed(&self) -> Option<i64> {
        Some(self.now()?.saturating_sub(LATENESS))
    }
}

impl Buckets {
    /// No buckets yet, for one partition; `budget` is the most bytes they may occupy.
    pub fn new(scenarios: Arc<Scenarios>, budget: usize) -> Self {
        Self {
            scenarios,
            slots: Arena::default(),
            extras: Arena::default(),
            names: HashTable::new(),
            slab: Slab::default(),
            wheel: Wheel::default(),
            blackholes: Blackholes::default(),
            replay: ReplayClock::default(),
            counts: BTreeMap::new(),
            blackholes_refused: 0,
            budget,
            own_bytes: 0,
            fired: Vec::new(),
            touched: None,
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
        self.make_room(now);
    }

    /// Ends the live buckets whose time has come at `now`, and appends the overflows.
    pub fn expire(&mut self, now: Timestamp, host: &dyn Host, overflows: &mut Vec<RuntimeAlert>) {
        let scenarios = Arc::clone(&self.scenarios);
        let round = &mut Round { scenarios: &scenarios, now: Moment::utc(now), host, overflows };
        let mut fired = std::mem::take(&mut self.fired);
        let slots = &self.slots;
        let deadline = |index: u32| {
            let bucket = slots.get(index);
            let lifetime = bucket.and_then(|bucket| scenarios.list[usize::from(bucket.scenario)].lifetime);
            lifetime.zip(bucket).map_or(i64::MAX, |(lifetime, bucket)| lifetime.deadline(&bucket.tally))
        };
        self.wheel.advance(round.now.nanos, deadline, &mut fired);
        // An order that a restart does not change.
        fired.sort_unstable_by_key(|index| self.slots.get(*index).map(|bucket| (bucket.tally.first, bucket.key)));
        for index in fired.drain(..) {
            self.end(index, round);
        }
        self.fired = fired;
    }

    /// The bucket that a pour goes into: found, or new. `None` when the event only cancels what is not there.
    fn bucket_of(&mut self, pour: &Pour, round: &mut Round<'_>) -> Option<u32> {
        if let Some(index) = self.find(pour.key)
            && let Some(bucket) = self.slots.get(index)
        {
            let number = usize::from(bucket.scenario);
            let lifetime = round.scenarios.list[number].lifetime;
            let over = lifetime.is_some_and(|lifetime| match (bucket.replay, pour.time) {
                (false, _) => lifetime.over(&bucket.tally, round.now.nanos),
                (true, Some(time)) => lifetime.passed(&bucket.tally, time.nanos),
                (true, None) => false,
            });
            if !over {
                return Some(index);
            }
            if bucket.replay {
                self.counts_of(number).expired += 1;
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
        self.touch(index);
        let Some(bucket) = self.slots.get_mut(index) else { return };
        let scenario = &round.scenarios.list[usize::from(bucket.scenario)];
        let counts = self.counts.entry(bucket.scenario.into()).or_default();
        if let Some(value) = pour.distinct
            && let Some(extra) = self.extras.get_mut(bucket.extra)
        {
            let before = extra.seen.bytes();
            if !extra.seen.insert(value) {
                counts.repeated += 1;
                return;
            }
            self.own_bytes = self.own_bytes + extra.seen.bytes() - before;
        }
        if pour.cancel {
            counts.canceled += 1;
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
            bucket.checked = pour.checked;
            while bucket.queue.len() >= scenario.hold {
                self.slab.pop(&mut bucket.queue);
            }
            self.slab.push(&mut bucket.queue, &pour.record);
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
        if let Some(at) = at.filter(|_| full) {
            self.overflow(index, at, Some(pour), round);
        } else if self.convinced(scenario, index, pour, round.host) {
            let last = self.slots.get(index).map_or(round.now, |bucket| bucket.tally.last());
            self.overflow(index, last, Some(pour), round);
        }
    }

    /// Whether the condition or the belief of a bucket asks for an overflow.
    fn convinced(&mut self, scenario: &Scenario, index: u32, pour: &Pour, host: &dyn Host) -> bool {
        if scenario.condition.is_none() && scenario.bayes.is_none() {
            return false;
        }
        let Some(bucket) = self.slots.get(index) else { return false };
        let counts = self.counts.entry(bucket.scenario.into()).or_default();
        let queue = QueueView { events: Events::Held(self.slab.view(&bucket.queue)), size: scenario.queue_size };
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
        let rare = self.extras.get_mut(bucket.extra).and_then(|extra| extra.rare.as_mut());
        let (Some(bayes), Some(rare)) = (&scenario.bayes, rare) else { return false };
        bayes.convinced(&mut rare.fallen, |condition| conditional::answer(condition, &env, &mut counts.errors))
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
        let Some(bucket) = self.slots.get(index) else { return };
        let scenario = usize::from(bucket.scenario);
        if round.scenarios.list[scenario].lifetime.is_some_and(|lifetime| lifetime.timed) {
            self.overflow(index, round.now, None, round);
        } else {
            self.counts_of(scenario).expired += 1;
            self.remove(index);
        }
    }

    /// Ends a bucket with an overflow at `at`, which `pour` caused, or its time.
    fn overflow(&mut self, index: u32, at: Moment, pour: Option<&Pour>, round: &mut Round<'_>) {
        let Some(bucket) = self.slots.get(index) else { return };
        let number = usize::from(bucket.scenario);
        let events: Vec<&Record> = self.slab.iter(&bucket.queue).map(|record| &**record).collect();
        let rare = || self.extras.get(bucket.extra)?.rare.as_ref();
        let (group, checked) = match pour {
            Some(pour) => (&*pour.group, pour.checked),
            None => (rare().map_or("", |rare| &rare.group), bucket.checked),
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
        let same = |index: &u32| self.slots.get(*index).is_some_and(|bucket| bucket.key == key);
        self.names.find(key.hash(), same).copied()
    }

    fn create(&mut self, scenario: &Scenario, pour: &Pour) -> u32 {
        let extra = scenario.needs_extra().then(|| {
            let conditions = scenario.bayes.as_ref().map_or(0, |bayes| bayes.conditions.len());
            let rare = || Box::new(Rare { group: (*pour.group).into(), fallen: vec![false; conditions].into() });
            Extra { seen: Seen::default(), rare: scenario.needs_rare().then(rare) }
        });
        self.counts_of(pour.scenario).created += 1;
        let bucket = Bucket {
            tally: Tally { tokens: scenario.limiter.full(), ..Tally::default() },
            key: pour.key,
            network: pour.network,
            queue: Queue::default(),
            extra: 0,
            scenario: pour.scenario as u16,
            replay: pour.record.time_machine(),
            checked: pour.checked,
        };
        self.insert(bucket, extra)
    }

    /// Takes in a bucket.
    pub(crate) fn insert(&mut self, mut bucket: Bucket, extra: Option<Extra>) -> u32 {
        let key = bucket.key;
        self.own_bytes += BUCKET;
        if let Some(extra) = extra {
            self.own_bytes += extra.bytes();
            bucket.extra = self.extras.insert(extra);
        }
        let index = self.slots.insert(bucket);
        self.touch(index);
        let slots = &self.slots;
        let hash = |index: &u32| slots.get(*index).map_or(0, |bucket| bucket.key.hash());
        let same = |other: &u32| slots.get(*other).is_some_and(|bucket| bucket.key == key);
        match self.names.entry(key.hash(), same, hash) {
            Entry::Occupied(mut entry) => *entry.get_mut() = index,
            Entry::Vacant(entry) => {
                entry.insert(index);
            }
        }
        index
    }

    /// Puts a record into the bucket at `index`, which is being restored.
    /// `place` is where the record lies if another bucket holds it already.
    pub(crate) fn hold(&mut self, index: u32, record: &Arc<Record>, place: &mut Option<u32>) {
        let Some(bucket) = self.slots.get_mut(index) else { return };
        self.slab.push_shared(&mut bucket.queue, record, place);
    }

    /// What only some buckets need, if this one does.
    pub(crate) fn extra(&self, bucket: &Bucket) -> Option<&Extra> {
        let needs = self.scenarios.list[usize::from(bucket.scenario)].needs_extra();
        self.extras.get(bucket.extra).filter(|_| needs)
    }

    /// Sets the timer of a live bucket that has been poured into.
    pub(crate) fn set_timer(&mut self, index: u32) {
        let Some(bucket) = self.slots.get(index).filter(|bucket| !bucket.replay) else { return };
        if let Some(lifetime) = self.scenarios.list[usize::from(bucket.scenario)].lifetime
            && bucket.tally.count > 0
        {
            self.wheel.set(index, lifetime.deadline(&bucket.tally));
        }
    }

    /// Forgets the buckets that hold only what somebody did to whom nothing may happen any more; answers how many.
    pub fn pardon(&mut self, pardoned: &dyn Fn(IpAddr) -> bool) -> usize {
        let his = |record: &Arc<Record>| record.source_ip().is_some_and(pardoned);
        let found = self.slots.iter().filter(|(_, bucket)| {
            let mut records = self.slab.iter(&bucket.queue).peekable();
            records.peek().is_some() && records.all(his)
        });
        let found: Vec<u32> = found.map(|(index, _)| index).collect();
        for index in &found {
            self.remove(*index);
        }
        found.len()
    }

    fn touch(&mut self, index: u32) {
        if let Some(touched) = &mut self.touched {
            touched.touch(index);
        }
    }

    fn remove(&mut self, index: u32) {
        self.touch(index);
        let Some(mut bucket) = self.slots.take(index) else { return };
        self.slab.clear(&mut bucket.queue);
        self.wheel.clear(index);
        // The bucket is out of its place, so its own number is what is left to find it by.
        if let Ok(entry) = self.names.find_entry(bucket.key.hash(), |other| *other == index) {
            entry.remove();
        }
        self.own_bytes = self.own_bytes.saturating_sub(BUCKET);
        if self.scenarios.list[usize::from(bucket.scenario)].needs_extra()
            && let Some(extra) = self.extras.take(bucket.extra)
        {
            self.own_bytes = self.own_bytes.saturating_sub(extra.bytes());
        }
    }

    /// Evicts buckets when they do not fit into the budget: so many that there is room for a while.
    pub(crate) fn make_room(&mut self, now: Timestamp) {
        while self.bytes() > self.budget && !self.is_empty() {
            let excess = self.bytes() - self.budget + self.budget / RESERVE;
            let clocks = (nanos(now), self.replay.now());
            let claims: Vec<Claim> =
                self.slots.iter().map(|(index, bucket)| self.claim(index, bucket, clocks)).collect();
            for index in quota::yielding(&claims, excess) {
                if let Some(bucket) = self.slots.get(index) {
                    let scenario = usize::from(bucket.scenario);
                    self.counts_of(scenario).evicted += 1;
                }
                self.remove(index);
            }
        }
    }

    /// What a bucket says for itself when memory is short. Its events count for less the nearer its end is.
    fn claim(&self, index: u32, bucket: &Bucket, (live, replay): (i64, Option<i64>)) -> Claim {
        let clock = if bucket.replay { replay.unwrap_or(bucket.tally.last) } else { live };
        let left = self.scenarios.list[usize::from(bucket.scenario)].lifetime.map_or(1.0, |lifetime| {
            let left = lifetime.deadline(&bucket.tally).saturating_sub(clock) as f32 / lifetime.span as f32;
            left.clamp(0.0, 1.0)
        });
        let extra = self.extra(bucket).map_or(0, Extra::bytes);
        let bytes = BUCKET + extra + self.slab.weight(&bucket.queue);
        Claim {
            bucket: index,
            scenario: bucket.scenario,
            network: bucket.network,
            bytes: bytes.min(u32::MAX as usize) as u32,
            evidence: bucket.tally.count as f32 * left,
            name: bucket.key.0[2],
        }
    }

    /// Forgets replayed buckets that their log has left far behind, each time their number has doubled.
    fn forget_replayed(&mut self) {
        if self.replay.newest.is_empty() || self.len() < 2 * self.replay.swept.max(4096) {
            return;
        }
        if let Some(passed) = self.replay.passed() {
            let over = |bucket: &Bucket| {
                let lifetime = self.scenarios.list[usize::from(bucket.scenario)].lifetime;
                bucket.replay && lifetime.is_some_and(|lifetime| lifetime.passed(&bucket.tally, passed))
            };
            let old: Vec<(u32, u16)> = self
                .slots
                .iter()
                .filter(|(_, bucket)| over(bucket))
                .map(|(index, bucket)| (index, bucket.scenario))
                .collect();
            for (index, scenario) in old {
                self.counts_of(scenario.into()).expired += 1;
                self.remove(index);
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
        let queue = QueueView { events: Events::Listed(overflow.events), size: overflow.scenario.queue_size };
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
