//! The engine: rounds of batches in, alerts out.
//!
//! A round parses its batches on all threads, waits for the last, and applies the pours in the order of batches and lines on all
//! threads. So the result depends on the batches alone, and one small batch (a quiet log) never changes threads. Lines of the
//! next round may be parsed while the pours of this one are applied: parsing does not look at buckets. The live pipeline and
//! `replay` drive the same engine; only the clock differs.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::bytes::Writer;
use model::{Alert, AllowSet, RuntimeAlert};
use parsers::stash::StashEntry;
use parsers::{Stashes, YearRule};
use scenarios::metrics::{BucketMetrics, SelectMetrics};
use scenarios::snapshot::encode_head;
use scenarios::{HashKey, Remains, RestoreError};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::acquisition::Batch;
use crate::backlog::Backlog;
use crate::doubts::Doubts;
use crate::meter::{self, Spent};
use crate::parse::{Fates, Parsed, Scene, Worker, alerts_of};
use crate::partitions::{Partitions, Timed};
use crate::pool::{Pool, Started};
use crate::report::Lift;
use crate::ruleset::{InOrder, RuleSet};
use crate::state::checkpoint::Stash;
use crate::state::{Kept, Mark, Meta};
use crate::world::{Outside, Unknown};

/// Most batches of a round.
pub const ROUND: usize = 16;

/// How often overflows may cause overflows within a round. A scenario that feeds itself goes on in the next one.
const ECHOES: usize = 8;

/// How many overflows at most wait for an answer.
const MAX_DOUBTS: usize = 256;

/// How long an overflow waits for an answer.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);

/// How an engine runs.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How many threads work.
    pub threads: usize,
    /// Most bytes of all buckets together.
    pub memory: usize,
    /// What names the buckets.
    pub key: HashKey,
    /// Which year a date without one gets.
    pub year: YearRule,
    /// Whether buckets that wait for the clock get it: not in a replay.
    pub live: bool,
    /// Whether it is measured where the time goes.
    pub measure: bool,
}

impl EngineOptions {
    /// What fits this machine, for logs that are being written.
    pub fn live(key: HashKey) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, memory: 256 << 20, key, year: YearRule::Latest, live: true, measure: false }
    }
}

/// Rules, buckets and the threads that work on them.
#[derive(Debug)]
pub struct Engine {
    scene: Scene,
    partitions: Partitions,
    pool: Pool<Worker>,
    /// Pours that overflows of the last round caused.
    again: Vec<Timed>,
    live: bool,
    threads: usize,
    selected: SelectMetrics,
    whitelisted: u64,
    doubts: Vec<Doubt>,
    /// The same for lines.
    lines: Doubts,
    spent: Spent,
    backlog: Backlog,
    /// What the stashes held when they were last kept, in short.
    stashes_kept: Option<u64>,
}

/// An overflow that the postoverflow rules judged before they had an answer to what they asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Doubt {
    /// As it came out of its bucket.
    overflow: RuntimeAlert,
    unknown: Vec<Unknown>,
    /// What was handed on; nothing if a whitelist caught it.
    handed_on: Vec<Lift>,
    since: Timestamp,
}

/// What was judged otherwise once the answers were there.
#[derive(Debug, Default)]
pub struct Revision {
    /// Alerts that are handed on after all.
    pub alerts: Vec<Alert>,
    /// Alerts that should not have been.
    pub lifts: Vec<Lift>,
}

/// A round whose lines are being parsed.
#[derive(Debug)]
pub struct Parsing {
    facts: Vec<Fact>,
    started: Started<Parsed>,
}

/// What a round gave.
#[derive(Debug, Default)]
pub struct Round {
    /// The alerts, in the order of the lines that caused them.
    pub alerts: Vec<Alert>,
    /// What became of the lines, by datasource.
    pub fates: BTreeMap<u32, Fates>,
}

impl Engine {
    /// An engine without buckets. Fails when its threads cannot be started.
    pub fn new(rules: Arc<RuleSet>, options: EngineOptions) -> io::Result<Self> {
        Ok(Self {
            partitions: Partitions::new(Arc::clone(&rules), options.memory),
            pool: Pool::new(threads_for(&rules, options.threads), Worker::new)?,
            threads: options.threads,
            scene: Scene {
                stashes: Arc::new(rules.stashes()),
                rules,
                allow: Arc::new(AllowSet::new([])),
                key: options.key,
                year: options.year,
                outside: Outside::default(),
                measure: options.measure,
            },
            again: Vec::new(),
            live: options.live,
            selected: SelectMetrics::default(),
            whitelisted: 0,
            doubts: Vec::new(),
            lines: Doubts::default(),
            spent: Spent::default(),
            backlog: Backlog::default(),
            stashes_kept: None,
        })
    }

    /// Works on `batches`, at most [`ROUND`] of them, in this order.
    pub fn round(&mut self, batches: Vec<Batch>) -> Round {
        let (facts, jobs) = self.jobs(batches);
        let answers = self.pool.run(jobs);
        self.apply(facts, answers)
    }

    /// The first half of [`Engine::round`]: meanwhile the round before may be ended. Rounds are ended in the order in which they
    /// began.
    pub fn begin(&mut self, batches: Vec<Batch>) -> Parsing {
        let (facts, jobs) = self.jobs(batches);
        Parsing { facts, started: self.pool.start(jobs) }
    }

    /// The second half of [`Engine::round`].
    pub fn end(&mut self, parsing: Parsing) -> Round {
        let Parsing { facts, started } = parsing;
        let answers = self.pool.finish(started);
        self.apply(facts, answers)
    }

    fn jobs(&self, batches: Vec<Batch>) -> (Vec<Fact>, Vec<impl FnOnce(&mut Worker) -> Parsed + Send + use<>>) {
        // On several threads lines that want a stash wait until those before them are through.
        let waits = self.scene.rules.in_order == InOrder::Some && self.pool.threads() > 1;
        let with_fact = batches.into_iter().map(|batch| {
            let batch = Arc::new(batch);
            let fact = Fact::of(&batch, waits);
            let mut scene = self.scene.clone();
            if waits {
                scene.stashes = Arc::new(Stashes::closed());
            }
            (fact, move |worker: &mut Worker| worker.parse(&batch, &scene))
        });
        with_fact.unzip()
    }

    fn apply(&mut self, facts: Vec<Fact>, answers: Vec<Option<Parsed>>) -> Round {
        let mut round = Round::default();
        let mut pours: Vec<Timed> = std::mem::take(&mut self.again);
        let mut present = pours.iter().map(|(now, _)| *now).max().unwrap_or(Timestamp::UNIX_EPOCH);
        for (fact, parsed) in facts.into_iter().zip(answers) {
            let Fact { source, lines, now, backlog, caught_up, batch } = fact;
            let lost = || Parsed { fates: Fates { failed: lines, ..Fates::default() }, ..Parsed::default() };
            let mut parsed = parsed.unwrap_or_else(lost);
            if let Some(batch) = batch.filter(|_| !parsed.waiting.is_empty()) {
                self.pool.own().catch_up(&batch, &mut parsed, &self.scene);
            }
            round.fates.entry(source).or_default().merge(&parsed.fates);
            self.selected.merge(&parsed.metrics);
            parsed.doubtful.into_iter().for_each(|doubtful| self.lines.add(doubtful));
            self.spent.lines.merge(&parsed.spent.unwrap_or_default());
            present = present.max(now);
            if backlog {
                for pour in parsed.pours {
                    let Some(moment) = self.backlog.moment(source, pour.time(), now) else { continue };
                    match pours.last_mut() {
                        Some((then, those)) if *then == moment => those.push(pour),
                        _ => pours.push((moment, vec![pour])),
                    }
                }
            } else if !parsed.pours.is_empty() {
                pours.push((now, parsed.pours));
            }
            if caught_up {
                self.backlog.caught_up(source);
            }
        }
        self.settle(pours, present, &mut round.alerts);
        round
    }

    /// Ends the buckets whose time has come at `now`.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Alert> {
        let mut alerts = Vec::new();
        if self.live {
            let overflows = self.partitions.expire(self.backlog.clock(now), &self.scene);
            let again = self.finish(overflows, now, &mut alerts);
            self.settle(again, now, &mut alerts);
        }
        alerts
    }

    /// When [`Engine::expire`] has something to do, or an empty round has.
    pub fn deadline(&self) -> Option<Timestamp> {
        if !self.again.is_empty() {
            return Some(Timestamp::MIN);
        }
        // While somebody catches up, rounds come anyway.
        self.partitions.deadline().filter(|_| self.live && self.backlog.lagging().is_empty())
    }

    /// Whether the last round has left pours for the next one.
    pub fn is_unsettled(&self) -> bool {
        !self.again.is_empty()
    }

    /// What was written while nobody read, and is being caught up with.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Catches up with this from now on.
    pub fn set_backlog(&mut self, backlog: Backlog) {
        self.backlog = backlog;
    }

    /// From now on notes what changes, for [`Engine::keep`].
    pub fn track(&mut self) {
        self.partitions.track();
    }

    /// What it holds between two rounds: everything, or what changed since the last call. It does not know its datasources'
    /// names, nor the number of the round: these are left to the caller. Pours that a round has left for the next one are
    /// not in it, see [`Engine::is_unsettled`].
    pub fn keep(&mut self, everything: bool, now: Timestamp) -> Mark {
        let (buckets, everything) = self.partitions.encode(everything, &mut self.pool);
        let rules = &self.scene.rules;
        let head = everything.then(|| {
            let mut head = Writer::default();
            encode_head(&rules.scenarios, &rules.table, &self.scene.key, &mut head);
            head.into_bytes()
        });
        let stashes: Vec<Stash> = self.scene.stashes.entries(now).into_iter().map(Stash::from).collect();
        let mut hasher = DefaultHasher::new();
        stashes.hash(&mut hasher);
        let short = Some(hasher.finish());
        let stashes = (everything || self.stashes_kept != short).then_some(stashes);
        self.stashes_kept = short;
        let meta =
            Meta { at: now, since: self.backlog.since(), stashes, doubts: self.doubts.clone(), ..Meta::default() };
        Mark { head, meta, buckets }
    }

    /// Goes on where [`Engine::keep`] stood, as far as the rules still mean the same; answers how many buckets have no
    /// scenario any more. Nothing is taken over after an error.
    pub fn restore(&mut self, kept: &Kept) -> Result<usize, RestoreError> {
        let rules = Arc::clone(&self.scene.rules);
        let mut remains = Remains::new(&kept.head, &rules.scenarios, &rules.table, &self.scene.key)?;
        for (partition, bytes) in &kept.buckets {
            remains.apply(*partition, bytes)?;
        }
        let dropped = self.partitions.restore(&mut remains);
        let stashes = kept.meta.stashes.iter().flatten().cloned().map(StashEntry::from);
        self.scene.stashes.restore(stashes, kept.meta.at);
        self.doubts.clone_from(&kept.meta.doubts);
        Ok(dropped)
    }

    /// Asks this set from now on who is never punished. What those did who are in it is forgotten: it must not count when
    /// they are in it no longer.
    pub fn set_allow(&mut self, allow: Arc<AllowSet>, now: Timestamp) {
        if Arc::ptr_eq(&allow, &self.scene.allow) {
            return;
        }
        let forgotten = self.partitions.pardon(&|address| allow.covers_ip(address, now).is_some());
        if forgotten > 0 {
            info!(buckets = forgotten, "forgot what allowed addresses did");
        }
        self.scene.allow = allow;
    }

    /// Asks these from now on what neither rules nor lines say.
    pub fn set_outside(&mut self, outside: Outside) {
        self.scene.outside = outside;
    }

    /// Whether an overflow or a line waits for an answer: then [`Engine::revise`] should be called soon.
    pub fn doubts(&self) -> bool {
        !self.doubts.is_empty() || !self.lines.is_empty()
    }

    /// Judges again the lines and overflows to whose questions there is an answer now. Of those to which there is none in time, the
    /// first judgement stays.
    pub fn revise(&mut self, now: Timestamp) -> Revision {
        let mut revision = Revision::default();
        let outside = self.scene.outside.clone();
        let Self { lines, pool, scene, .. } = self;
        revision.lifts = lines.revise(now, &outside, |line, read_at| pool.own().judge(line, scene, read_at));
        self.whitelisted += revision.lifts.len() as u64;
        for mut doubt in std::mem::take(&mut self.doubts) {
            let late = now.duration_since(doubt.since) > PATIENCE;
            let open = doubt.unknown.iter().filter(|unknown| !outside.knows(unknown)).count();
            if open > 0 {
                if late {
                    warn!(scenario = doubt.overflow.alert.scenario, "a rule asked and got no answer in time");
                } else {
                    self.doubts.push(doubt);
                }
                continue;
            }
            let mut again = Vec::new();
            let overflow = doubt.overflow.clone();
            let (judged, unknown) = self.pool.own().finish(overflow, &self.scene, now, &mut again);
            match (judged, doubt.handed_on.is_empty()) {
                (None, false) => {
                    self.whitelisted += 1;
                    revision.lifts.append(&mut doubt.handed_on);
                }
                // One answer led to another question.
                _ if !unknown.is_empty() && !late => self.doubts.push(Doubt { unknown, ..doubt }),
                (Some(overflow), true) => {
                    self.whitelisted -= 1;
                    self.again.extend((!again.is_empty()).then_some((now, again)));
                    revision.alerts.extend(alerts_of(overflow));
                }
                (None, true) | (Some(_), false) => {}
            }
        }
        revision
    }

    /// Whether it works under other rules, or asks another set who is never punished.
    pub fn is_other(&self, rules: &Arc<RuleSet>, allow: &Arc<AllowSet>) -> bool {
        !Arc::ptr_eq(rules, &self.scene.rules) || !Arc::ptr_eq(allow, &self.scene.allow)
    }

    /// The rules in force.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.scene.rules
    }

    /// Goes on under new rules. Buckets of scenarios that still mean the same go on, stashes are carried over.
    pub fn adopt(&mut self, rules: Arc<RuleSet>, now: Timestamp) -> io::Result<()> {
        let threads = threads_for(&rules, self.threads);
        if threads != self.pool.threads() {
            self.pool = Pool::new(threads, Worker::new).or_else(|error| {
                warn!(%error, "cannot start threads, working on one");
                Pool::new(1, Worker::new)
            })?;
        }
        let stashes = rules.stashes();
        stashes.restore(self.scene.stashes.entries(now), now);
        // Their numbers speak of the old scenarios.
        self.again.clear();
        self.selected = SelectMetrics::default();
        let dropped = self.partitions.adopt(&rules);
        info!(scenarios = rules.scenarios.all().len(), dropped_buckets = dropped, "new rules are in force");
        self.scene.stashes = Arc::new(stashes);
        self.scene.rules = rules;
        Ok(())
    }

    /// What the scenarios said to events so far, since the rules are in force.
    pub fn selected(&self) -> &SelectMetrics {
        &self.selected
    }

    /// What happened in the buckets so far.
    pub fn buckets(&self) -> BucketMetrics {
        self.partitions.metrics()
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// What the time went into so far, if that is measured.
    pub fn spent(&self) -> Spent {
        Spent { pours: self.partitions.spent().clone(), ..self.spent.clone() }
    }

    /// Overflows that a postoverflow whitelist caught.
    pub fn whitelisted(&self) -> u64 {
        self.whitelisted
    }

    /// Applies pours, and those that their overflows cause.
    fn settle(&mut self, mut pours: Vec<Timed>, now: Timestamp, alerts: &mut Vec<Alert>) {
        for _ in 0..ECHOES {
            if pours.is_empty() {
                return;
            }
            let overflows = self.partitions.pour(pours, &self.scene, &mut self.pool);
            let started = self.scene.measure.then(meter::thread_time);
            pours = self.finish(overflows, now, alerts);
            self.spent.overflows +=
                started.map_or(Duration::ZERO, |started| meter::thread_time().saturating_sub(started));
        }
        self.again = pours;
    }

    /// Takes overflows through the postoverflow stages, and answers what they pour again.
    fn finish(&mut self, overflows: Vec<RuntimeAlert>, now: Timestamp, alerts: &mut Vec<Alert>) -> Vec<Timed> {
        let mut again = Vec::new();
        for overflow in overflows {
            // A replayed overflow happened when its log says.
            let now = if self.live { now } else { overflow.alert.stop_at.parse().unwrap_or(now) };
            let mut pours = Vec::new();
            let asks = self.scene.outside.may_answer_late(&self.scene.rules);
            let original = asks.then(|| overflow.clone());
            let (judged, unknown) = self.pool.own().finish(overflow, &self.scene, now, &mut pours);
            let judged =
                judged.map(alerts_of).map(|alerts| self.lines.passed(alerts)).filter(|alerts| !alerts.is_empty());
            if let Some(overflow) = original.filter(|_| !unknown.is_empty()) {
                let handed_on = judged.iter().flatten().map(Lift::of).collect();
                self.doubt(Doubt { overflow, unknown, handed_on, since: now });
            }
            match judged {
                Some(judged) => alerts.extend(judged),
                None => self.whitelisted += 1,
            }
            again.extend((!pours.is_empty()).then_some((now, pours)));
        }
        again
    }

    fn doubt(&mut self, doubt: Doubt) {
        if self.doubts.len() < MAX_DOUBTS {
            self.doubts.push(doubt);
        } else {
            warn!(scenario = doubt.overflow.alert.scenario, "too many overflows wait for names; this one does not");
        }
    }
}

/// What a round remembers of a batch whose lines are being parsed.
#[derive(Debug)]
struct Fact {
    source: u32,
    lines: u64,
    now: Timestamp,
    backlog: bool,
    caught_up: bool,
    /// The batch itself, where some of its lines may have to wait.
    batch: Option<Arc<Batch>>,
}

impl Fact {
    fn of(batch: &Arc<Batch>, waits: bool) -> Self {
        let Batch { source, lines, backlog, caught_up, read_at, .. } = &**batch;
        let (lines, batch) = (lines.len() as u64, waits.then(|| Arc::clone(batch)));
        Self { source: *source, lines, now: *read_at, backlog: *backlog, caught_up: *caught_up, batch }
    }
}

impl From<StashEntry> for Stash {
    fn from(StashEntry { cache, key, value, expires }: StashEntry) -> Self {
        Self { cache, key, value, expires }
    }
}

impl From<Stash> for StashEntry {
    fn from(Stash { cache, key, value, expires }: Stash) -> Self {
        Self { cache, key, value, expires }
    }
}

/// How many threads may parse: where lines depend on the lines before them, one.
fn threads_for(rules: &RuleSet, wanted: usize) -> usize {
    if rules.in_order != InOrder::All {
        return wanted.max(1);
    }
    info!("a scenario uses a stash: lines are parsed in order, on one thread");
    1
}
