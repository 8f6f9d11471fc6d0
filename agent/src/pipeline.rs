//! Read this first: the channels, in order.
//!
//! ```text
//! datasources ──batches──► engine ──reports──► report ──taken──► keep
//! (a thread each)          (a thread           (a task)          (a task)
//!                          and its pool)
//! ```
//!
//! Each arrow is one bounded channel, the first with a lane for each datasource. When a stage is slow the one before it waits, back to the datasource, whose file or
//! journal is the buffer: nothing is dropped. Stopping goes from left to right: datasources end, their channel closes, each
//! stage works off what it has and closes the next.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use model::AllowSet;
use serde::Serialize;
use tokio::sync::{mpsc as channel, watch};
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::acquisition::config::SourceConfig;
use crate::acquisition::lines::Lines;
use crate::acquisition::queue::{Lanes, Receiver, queue};
use crate::acquisition::{self, Batch, Outlet, Running};
use crate::backlog::Backlog;
use crate::engine::{Engine, EngineOptions, Parsing, ROUND, Round};
use crate::report::{Marks, Report, Target, keep, report};
use crate::ruleset::RuleSet;
use crate::state::{Journal, Kept, Places, Repeated, Rounds, State};
use crate::status::{EngineReport, SourceStatus, Status};
use crate::world::Outside;

/// Batches between the datasources and the engine.
const BATCHES: usize = 2 * ROUND;
/// Rounds between the engine and the reporting.
const REPORTS: usize = 256;
/// Rounds between the reporting and whoever keeps marks.
const TAKEN: usize = 1024;
/// The engine looks for new rules and timers at least this often.
const BREATH: Duration = Duration::from_millis(500);
/// It looks for answers that overflows wait for at least this often.
const SHORT_BREATH: Duration = Duration::from_millis(20);
/// How long the end waits for such answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How often the engine tells the status what it counted.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often a mark is made while lines flow, and at how many bytes of the journal.
const MARK_EVERY: Duration = Duration::from_secs(10);
const MARK_BYTES: u64 = 32 << 20;
/// How many bytes the journal may have while no mark can be kept.
const MOST_BYTES: u64 = 512 << 20;
/// How long a datasource that catches up may be silent before others stop waiting for it.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(10);
/// How long the start waits for datasources to find what there is to read.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// What a pipeline is made of.
#[derive(Debug)]
pub struct Parts {
    /// What is read.
    pub sources: Vec<SourceConfig>,
    /// The rules at the start.
    pub rules: Arc<RuleSet>,
    /// How the engine runs.
    pub options: EngineOptions,
    /// Who is never punished; changes in place.
    pub allow: Arc<ArcSwap<AllowSet>>,
    /// Who answers what neither rules nor lines say.
    pub outside: Outside,
    /// Who takes the alerts.
    pub target: Target,
    /// What survived the end of the last run.
    pub state: State,
    /// How old what was missed may be and still count.
    pub catch_up: SignedDuration,
    /// Where it is said how things are.
    pub status: Arc<Status>,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    sources: Vec<Source>,
    /// Where lanes for more datasources come from; gone when there will be none.
    lanes: Option<Lanes>,
    exchange: SyncSender<Exchange>,
    status: Arc<Status>,
    rules: Arc<ArcSwap<RuleSet>>,
    engine: thread::JoinHandle<()>,
    report: JoinHandle<()>,
    keep: JoinHandle<()>,
    stopping: watch::Sender<bool>,
}

/// A datasource that is being read.
#[derive(Debug)]
struct Source {
    config: SourceConfig,
    running: Running,
    status: Arc<SourceStatus>,
}

/// Other datasources for the engine, from now on.
#[derive(Debug)]
struct Exchange {
    /// Those that are new, which follow those that were there by number.
    added: Vec<(String, Arc<SourceStatus>)>,
    /// Takes the number of the first of them, and where reading stands when all that was read before is worked off.
    answer: SyncSender<(u32, Places)>,
}

/// What changed when a pipeline got other datasources: their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exchanged {
    /// They are read now, and were not, or otherwise.
    pub started: Vec<String>,
    /// They are not read any more, or otherwise.
    pub stopped: Vec<String>,
}

impl Pipeline {
    /// Starts everything, from right to left. To be called within a runtime. Fails when threads cannot be started.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let Parts { sources, rules, options, allow, outside, target, state, catch_up, status } = parts;
        let State { mut places, kept, rounds, journal, store, repeated, .. } = state;
        let names: Vec<String> = sources.iter().map(|source| source.id.clone()).collect();
        places.retain(&names);

        let (stopping, stops) = watch::channel(false);
        let (taken_in, taken_out) = channel::channel(TAKEN);
        let (reports_in, reports_out) = channel::channel(REPORTS);
        let (batches_in, batches_out) = queue(BATCHES);

        let counters: Vec<Arc<SourceStatus>> =
            sources.iter().map(|source| status.add_source(&source.id, source.input.module())).collect();
        let inputs: Vec<(SourceConfig, Arc<SourceStatus>)> =
            sources.into_iter().zip(counters.iter().cloned()).collect();
        // What they read before the engine runs waits in their lanes.
        let sources = start_sources(inputs, 0, &batches_in, &places)?;

        let (exchange, exchanges) = sync_channel(1);
        let marks = Arc::new(Marks::default());
        let keep = tokio::spawn(keep(taken_out, store, Arc::clone(&marks), Arc::clone(&status)));
        let report =
            tokio::spawn(report(target, reports_out, taken_in, stops, Arc::clone(&marks), Arc::clone(&status)));
        let rules = Arc::new(ArcSwap::new(rules));
        let stage = EngineStage {
            rules: Arc::clone(&rules),
            allow,
            outside,
            reports: reports_in,
            counters,
            status: Arc::clone(&status),
            exchanges,
            exchanging: None,
            told: None,
            names,
            places,
            journal,
            marks,
            marked: Instant::now(),
            changed: false,
            heard: Instant::now(),
        };
        let past = Past { kept, rounds, repeated, catch_up };
        let engine = thread::Builder::new().name("engine".into()).spawn(move || {
            if let Err(error) = stage.run(&batches_out, options, past) {
                error!(%error, "the engine cannot go on");
            }
        })?;
        wait_for_first_look(&sources);
        Ok(Self { sources, lanes: Some(batches_in), exchange, status, rules, engine, report, keep, stopping })
    }

    /// Puts other rules in force, from the next round on.
    pub fn set_rules(&self, rules: Arc<RuleSet>) {
        self.rules.store(rules);
    }

    /// Reads these datasources from now on. Those that stay as they are go on undisturbed; one that changed ends, and
    /// goes on where it stood. Blocks until what was read by those that end is worked off. Fails when threads cannot be
    /// started.
    pub fn set_sources(&mut self, wanted: Vec<SourceConfig>) -> io::Result<Exchanged> {
        let Some(lanes) = &self.lanes else { return Ok(Exchanged::default()) };
        let same = |a: &SourceConfig, b: &SourceConfig| a.id == b.id && format!("{a:?}") == format!("{b:?}");
        let stays = |source: &Source| wanted.iter().any(|config| same(config, &source.config));
        let (kept, ended): (Vec<Source>, Vec<Source>) = self.sources.drain(..).partition(stays);
        self.sources = kept;
        for source in &ended {
            source.running.stop();
        }
        let mut exchanged = Exchanged::default();
        for Source { config, running, status } in ended {
            running.join();
            self.status.remove_source(&status);
            exchanged.stopped.push(config.id);
        }
        let new = wanted.into_iter().filter(|config| !self.sources.iter().any(|source| same(config, &source.config)));
        let new: Vec<(SourceConfig, Arc<SourceStatus>)> = new
            .map(|config| {
                let status = self.status.add_source(&config.id, config.input.module());
                (config, status)
            })
            .collect();
        exchanged.started = new.iter().map(|(config, _)| config.id.clone()).collect();
        if exchanged == Exchanged::default() {
            return Ok(exchanged);
        }
        let (answer, answered) = sync_channel(1);
        let added = new.iter().map(|(config, status)| (config.id.clone(), Arc::clone(status))).collect();
        let gone = || io::Error::other("the engine has ended");
        self.exchange.send(Exchange { added, answer }).map_err(|_| gone())?;
        let (first, places) = answered.recv().map_err(|_| gone())?;
        self.sources.extend(start_sources(new, first, lanes, &places)?);
        Ok(exchanged)
    }

    /// Whether it has come to its end by itself: every datasource has ended and all is worked off, or a stage broke.
    pub fn ended(&mut self) -> bool {
        if self.sources.iter().all(|source| source.running.ended()) {
            self.lanes = None;
        }
        self.engine.is_finished()
    }

    /// Ends it in order. What was read is worked off; places and alerts are safe when this returns.
    pub async fn stop(self) {
        // Nobody may be left to hear it.
        let _ = self.stopping.send(true);
        drop(self.lanes);
        for source in &self.sources {
            source.running.stop();
        }
        let threads = tokio::task::spawn_blocking(move || {
            for source in self.sources {
                source.running.join();
            }
            // It has said what broke it.
            let _ = self.engine.join();
        });
        for task in [threads, self.report, self.keep] {
            if let Err(error) = task.await {
                error!(%error, "a part of the pipeline broke");
            }
        }
        info!("the pipeline has ended");
    }
}

/// Waits until every datasource watches and will go on there after a sudden end, has ended, or has had its time: whoever is told that cordon watches may rely on it.
fn wait_for_first_look(sources: &[Source]) {
    let started = Instant::now();
    let settled =
        |source: &Source| source.status.is_watching() && source.status.is_remembered() || source.running.ended();
    while started.elapsed() < FIRST_LOOK && !sources.iter().all(settled) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Starts datasources, which get the numbers from `first` on, where `places` say.
fn start_sources(
    sources: Vec<(SourceConfig, Arc<SourceStatus>)>,
    first: u32,
    lanes: &Lanes,
    places: &Places,
) -> io::Result<Vec<Source>> {
    let start = |(number, (config, status)): (u32, (SourceConfig, Arc<SourceStatus>))| {
        let out = Outlet::new(number, lanes.add(), Arc::clone(&status));
        let out = out.transformed(config.transform.clone()).cutting(config.longest);
        let running = Running::start_with(acquisition::build(&config, places), out, config.voice.clone())?;
        Ok(Source { config, running, status })
    };
    (first..).zip(sources).map(start).collect()
}

/// What the engine's thread has beside the engine.
struct EngineStage {
    rules: Arc<ArcSwap<RuleSet>>,
    allow: Arc<ArcSwap<AllowSet>>,
    outside: Outside,
    reports: channel::Sender<Report>,
    counters: Vec<Arc<SourceStatus>>,
    status: Arc<Status>,
    exchanges: mpsc::Receiver<Exchange>,
    /// One that waits until what was there before is worked off, and how many batches that is at most.
    exchanging: Option<(Exchange, usize)>,
    told: Option<Instant>,
    /// Names of the datasources, by number.
    names: Vec<String>,
    /// Where reading stands behind the last round.
    places: Places,
    journal: Journal,
    marks: Arc<Marks>,
    /// When the last mark was made, and whether anything happened since.
    marked: Instant,
    changed: bool,
    /// When the last lines came that are caught up with.
    heard: Instant,
}

/// What the engine begins with.
struct Past {
    kept: Option<Kept>,
    rounds: Rounds,
    repeated: Repeated,
    catch_up: SignedDuration,
}

impl EngineStage {
    /// Takes what is there as a round, until the datasources and the channel are empty.
    fn run(mut self, batches: &Receiver, options: EngineOptions, past: Past) -> io::Result<()> {
        let mut engine = Engine::new(self.rules.load_full(), options)?;
        engine.set_outside(self.outside.clone());
        engine.set_allow(self.allow.load_full(), Timestamp::now());
        engine.track();
        self.recover(&mut engine, past);
        // A full round: its lines are parsed while the pours of the round before are applied.
        let mut ahead = None;
        loop {
            let taken = if ahead.is_some() {
                Some(batches.try_iter().take(ROUND).collect())
            } else {
                Self::take(&engine, batches)
            };
            let Some(mut taken) = taken else { break };
            let now = Timestamp::now();
            let (rules, allow) = (self.rules.load_full(), self.allow.load_full());
            // Rules change, and marks are made, between two rounds.
            let full = taken.len() == ROUND && !engine.is_other(&rules, &allow) && !self.wants_rest();
            if !full && !self.end(&mut engine, ahead.take()) {
                break;
            }
            if !Arc::ptr_eq(&rules, engine.rules()) {
                engine.adopt(rules, now)?;
                self.mark(&mut engine, true);
            }
            engine.set_allow(allow, now);
            self.stop_waiting(&engine, &mut taken, now);
            let count = taken.len();
            if full {
                self.write_down(&engine, &mut taken, now);
                let before = ahead.replace((engine.begin(taken), now));
                if !self.end(&mut engine, before) {
                    break;
                }
                self.hear_exchange();
            } else {
                if !self.round(&mut engine, taken, now) {
                    break;
                }
                self.exchange(&mut engine, count);
                self.mark_if_due(&mut engine);
            }
        }
        self.end(&mut engine, ahead);
        let end = Instant::now() + LAST_ANSWERS;
        while engine.doubts() && Instant::now() < end && self.round(&mut engine, Vec::new(), Timestamp::now()) {
            thread::sleep(SHORT_BREATH);
        }
        self.tell(&engine, true);
        if self.changed {
            self.mark(&mut engine, false);
        }
        Ok(())
    }

    /// What is there, as soon as anything is or something else is to be done; `None` when the datasources have ended.
    fn take(engine: &Engine, batches: &Receiver) -> Option<Vec<Batch>> {
        let now = Timestamp::now();
        let breath = if engine.doubts() { SHORT_BREATH } else { BREATH };
        let due = engine.deadline().map_or(breath, |deadline| {
            Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO).min(breath)
        });
        match batches.recv_timeout(due) {
            Ok(batch) => Some(std::iter::once(batch).chain(batches.try_iter().take(ROUND - 1)).collect()),
            Err(RecvTimeoutError::Timeout) => Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Goes on where the last run ended: from the last mark through everything that it worked on since.
    fn recover(&mut self, engine: &mut Engine, past: Past) {
        let Past { kept, rounds, repeated, catch_up } = past;
        if let Some(kept) = kept {
            let number = |name: &String| self.names.iter().position(|known| known == name);
            let lagging = kept.meta.lagging.iter().filter_map(|(name, at)| Some((number(name)? as u32, *at))).collect();
            engine.set_backlog(Backlog::kept(kept.meta.since, lagging));
            match engine.restore(&kept) {
                Ok(dropped) => {
                    let buckets = engine.buckets().buckets;
                    info!(buckets, dropped, at = %kept.meta.at, "going on where the engine stood");
                }
                Err(error) => error!(%error, "what the engine held is lost"),
            }
        }
        let mut again = 0;
        for recorded in rounds.iter() {
            let mut batches = recorded.batches;
            for batch in &mut batches {
                let name = recorded.names.get(batch.source as usize);
                let number = name.and_then(|name| self.names.iter().position(|known| known == name));
                // A datasource that is gone: its lines count, and nobody asks for its number.
                batch.source = number.map_or(u32::MAX, |number| number as u32);
                again += batch.lines.len();
            }
            let Round { mut alerts, .. } = engine.round(batches);
            alerts.extend(engine.expire(recorded.now));
            if !alerts.is_empty() && self.reports.blocking_send(Report { alerts, ..Report::default() }).is_err() {
                return;
            }
        }
        repeated.done();
        if again > 0 {
            info!(lines = again, "worked again on what the last run had not kept");
        }
        let now = Timestamp::now();
        if let Some(since) = self.places.written() {
            let known = (0..).zip(&self.names).filter(|(_, name)| self.places.knows(name));
            engine.set_backlog(Backlog::new(since, now, catch_up, known.map(|(number, _)| number)));
        }
        self.mark(engine, true);
    }

    /// Says of datasources that should catch up, and bring nothing, that they have.
    fn stop_waiting(&mut self, engine: &Engine, taken: &mut Vec<Batch>, now: Timestamp) {
        let lagging = engine.backlog().lagging();
        if lagging.is_empty() || taken.iter().any(|batch| batch.backlog) {
            self.heard = Instant::now();
        } else if self.heard.elapsed() > CATCH_UP_PATIENCE && taken.len() < ROUND {
            taken.extend(lagging.keys().map(|source| Batch {
                source: *source,
                sequence: u64::MAX,
                lines: Lines::default(),
                backlog: false,
                caught_up: true,
                steps: Vec::new(),
                read_at: now,
            }));
        }
    }

    /// Takes other datasources when what the old ones had read is worked off: when `count` batches of a round were all
    /// there was, or as many were taken as may have waited.
    fn exchange(&mut self, engine: &mut Engine, count: usize) {
        if self.exchanging.is_none() {
            self.hear_exchange();
            return;
        }
        let Some((exchange, left)) = self.exchanging.take() else { return };
        if count == ROUND && left > ROUND {
            self.exchanging = Some((exchange, left - ROUND));
            return;
        }
        let Exchange { added, answer } = exchange;
        let first = self.names.len() as u32;
        for (name, counters) in added {
            self.names.push(name);
            self.counters.push(counters);
        }
        // The names of the journal are those of its beginning.
        self.mark(engine, false);
        // Whoever asked may have ended.
        let _ = answer.send((first, self.places.clone()));
    }

    /// Looks whether somebody wants other datasources. What these had read before is in the rounds that come.
    fn hear_exchange(&mut self) {
        if self.exchanging.is_none()
            && let Ok(exchange) = self.exchanges.try_recv()
        {
            self.exchanging = Some((exchange, BATCHES.max(2 * self.names.len()) + ROUND));
        }
    }

    /// Whether something is to be done between two rounds, none of which has begun.
    fn wants_rest(&self) -> bool {
        self.exchanging.is_some() || self.is_mark_due()
    }

    fn is_mark_due(&self) -> bool {
        let due = self.marked.elapsed() >= MARK_EVERY || self.journal.bytes() >= MARK_BYTES;
        self.changed && due && !self.marks.on_the_way.load(Ordering::Acquire)
    }

    fn mark_if_due(&mut self, engine: &mut Engine) {
        // What a round leaves for the next one is not in a mark; a scenario that feeds itself must not hold it up for ever.
        if self.is_mark_due() && (!engine.is_unsettled() || self.marked.elapsed() >= 3 * MARK_EVERY) {
            self.mark(engine, false);
        }
    }

    /// Makes a mark of everything, or of what changed. What comes after it is journalled apart.
    fn mark(&mut self, engine: &mut Engine, everything: bool) {
        let everything = self.marks.whole.swap(false, Ordering::AcqRel) || everything;
        let mut mark = engine.keep(everything, Timestamp::now());
        mark.meta.round = self.journal.last();
        mark.meta.steps = self.places.take_changes(mark.head.is_some());
        let lagging = engine.backlog().lagging().iter();
        mark.meta.lagging =
            lagging.filter_map(|(number, at)| Some((self.names.get(*number as usize)?.clone(), *at))).collect();
        (self.marked, self.changed) = (Instant::now(), false);
        if let Err(error) = self.journal.begin(&self.names) {
            self.not_journalled(&error);
        }
        self.marks.on_the_way.store(true, Ordering::Release);
        // Whoever does not listen any more keeps no marks either.
        let _ = self.reports.blocking_send(Report { mark: Some(Box::new(mark)), ..Report::default() });
    }

    fn not_journalled(&self, error: &io::Error) {
        error!(%error, "what is read is not written down: a sudden end now costs half-full buckets");
        self.status.set_checkpoint(Some(format!("what is read is not written down: {error}")));
    }

    /// One round; false when nobody takes reports any more.
    fn round(&mut self, engine: &mut Engine, mut batches: Vec<Batch>, now: Timestamp) -> bool {
        self.write_down(engine, &mut batches, now);
        let round = engine.round(batches);
        self.hand_on(engine, round, now)
    }

    /// Ends a round that has begun.
    fn end(&mut self, engine: &mut Engine, begun: Option<(Parsing, Timestamp)>) -> bool {
        let Some((parsing, now)) = begun else { return true };
        let round = engine.end(parsing);
        self.hand_on(engine, round, now)
    }

    /// What comes before a round.
    fn write_down(&mut self, engine: &Engine, batches: &mut [Batch], now: Timestamp) {
        if !batches.is_empty() || engine.deadline().is_some_and(|deadline| deadline <= now) {
            self.changed = true;
            if let Err(error) = self.journal.append(now, batches, MOST_BYTES) {
                self.not_journalled(&error);
            }
        }
        for batch in batches {
            if let Some(counters) = self.counters.get(batch.source as usize) {
                counters.set_remembered();
            }
            if let Some(name) = self.names.get(batch.source as usize) {
                self.places.advance(name, std::mem::take(&mut batch.steps));
            }
        }
    }

    /// What comes after a round.
    fn hand_on(&mut self, engine: &mut Engine, round: Round, now: Timestamp) -> bool {
        let Round { mut alerts, fates } = round;
        alerts.extend(engine.expire(now));
        let revision = engine.revise(now);
        alerts.extend(revision.alerts);
        let lifts = revision.lifts;
        for (source, fates) in fates {
            if let Some(counters) = self.counters.get(source as usize) {
                counters.parsed.add(fates.parsed + fates.whitelisted);
                counters.unparsed.add(fates.unparsed);
                counters.dropped.add(fates.failed);
            }
        }
        self.tell(engine, false);
        if alerts.is_empty() && lifts.is_empty() {
            return !self.reports.is_closed();
        }
        self.reports.blocking_send(Report { alerts, lifts, mark: None }).is_ok()
    }

    fn tell(&mut self, engine: &Engine, last: bool) {
        if !last && self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        self.status.set_engine(EngineReport::new(engine));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::net::IpAddr;
    use std::path::Path;

    use api::profiles::{self, Profiles};
    use api::server::service::{Options, Service};
    use api::store::{AlertQuery, Sqlite};
    use scenarios::HashKey;
    use tempfile::TempDir;

    use super::*;
    use crate::acquisition::config;
    use crate::load::{Folders, RuleFiles};
    use crate::resolver::{Found, Lookup, Resolver};

    /// How long something may take on a machine that does other things too.
    const DEADLINE: Duration = Duration::from_secs(30);

    struct Host {
        folder: TempDir,
        rules: Arc<RuleSet>,
        service: Service,
        outside: Outside,
    }

    impl Host {
        fn new() -> Self {
            let folder = TempDir::new().expect("a temporary folder");
            fs::write(folder.path().join("auth.log"), "").expect("room on the disk");
            let rules = RuleSet::build(&RuleFiles::read(&Folders { shipped: true, folders: Vec::new() })).rules;
            let service = open(folder.path());
            Self { folder, rules: Arc::new(rules), service, outside: Outside::default() }
        }

        fn start(&self) -> (Pipeline, Arc<Status>) {
            let path = self.folder.path().join("acquis.yaml");
            let log = self.folder.path().join("auth.log");
            let text = format!("filename: {}\nlabels: {{type: syslog}}\n", log.display());
            let (sources, problems) = config::parse(&path, &text, &|_| None);
            assert_eq!(problems, []);
            let state = State::open(self.folder.path(), [1; 16]).expect("it is ours");
            assert!(state.losses.is_empty(), "{:?}", state.losses);
            let status = Arc::new(Status::default());
            let parts = Parts {
                sources,
                rules: Arc::clone(&self.rules),
                options: EngineOptions { threads: 2, ..EngineOptions::live(HashKey::new(state.key.0)) },
                allow: self.service.allow(),
                outside: self.outside.clone(),
                target: Target::Service { service: self.service.clone(), machine: "test".into() },
                state,
                catch_up: SignedDuration::from_hours(1),
                status: Arc::clone(&status),
            };
            (Pipeline::start(parts).expect("threads can be started"), status)
        }

        fn guesses(&self, address: &str, count: usize) {
            let mut log = OpenOptions::new().append(true).open(self.folder.path().join("auth.log")).expect("our file");
            for _ in 0..count {
                let now = Timestamp::now();
                let line = format!("{now} web1 sshd[811]: Failed password for root from {address} port 40000 ssh2\n");
                log.write_all(line.as_bytes()).expect("room on the disk");
            }
        }

        fn banned(&self) -> Vec<String> {
            let mut all: Vec<String> =
                self.service.table(|table, _| table.iter().map(|row| row.value().to_owned()).collect());
            all.sort();
            all.dedup();
            all
        }

        async fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
            let end = Instant::now() + DEADLINE;
            while !done(self) {
                assert!(Instant::now() < end, "{what}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    fn open(folder: &Path) -> Service {
        let store = Arc::new(Sqlite::open(&folder.join("cordon.db")).expect("the database opens"));
        let options = Options { bcrypt_cost: 4, ..Options::default() };
        let profiles =
            Profiles::parse(&[(Path::new("profiles.yaml"), profiles::DEFAULT)]).expect("what we ship is right");
        Service::open(store, profiles, options, Timestamp::now()).expect("the service starts")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_attack_is_banned_and_a_restart_goes_on() {
        let host = Host::new();
        let (pipeline, status) = host.start();
        host.guesses("198.51.100.1", 20);
        host.wait("the first ban", |host| host.banned() == ["198.51.100.1"]).await;
        pipeline.stop().await;
        assert!(status.is_green());
        assert_eq!(status.sources()[0].parsed, 20);
        assert!(status.engine().scenarios.iter().any(|scenario| scenario.overflowed > 0));

        // Written while nobody reads.
        host.guesses("198.51.100.2", 20);
        let (pipeline, status) = host.start();
        host.wait("the second ban", |host| host.banned() == ["198.51.100.1", "198.51.100.2"]).await;
        host.guesses("198.51.100.3", 20);
        host.wait("the third ban", |host| host.banned().len() == 3).await;
        pipeline.stop().await;
        assert_eq!(status.sources()[0].lines, 40, "nothing is read twice");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn new_rules_take_over() {
        let host = Host::new();
        let (pipeline, status) = host.start();
        let none = RuleSet::build(&RuleFiles::read(&Folders::default())).rules;
        pipeline.set_rules(Arc::new(none));
        host.wait("no scenario is left", |_| status.engine().scenarios.is_empty()).await;
        pipeline.set_rules(Arc::clone(&host.rules));
        host.wait("they are back", |_| !status.engine().scenarios.is_empty()).await;
        host.guesses("198.51.100.1", 20);
        host.wait("the ban", |host| host.banned() == ["198.51.100.1"]).await;
        pipeline.stop().await;
    }

    /// A search engine's machine, a machine that has another's name, and one without a name.
    #[derive(Debug)]
    struct Names;

    impl Lookup for Names {
        fn names(&self, ip: IpAddr) -> Found<'_, String> {
            let named = ip != IpAddr::from([198, 51, 100, 3]);
            Box::pin(async move {
                // Long enough for lines to be judged without the name.
                tokio::time::sleep(Duration::from_millis(50)).await;
                named.then(|| "one.bot.example.".to_owned()).into_iter().collect()
            })
        }

        fn addresses<'a>(&'a self, _name: &'a str) -> Found<'a, IpAddr> {
            Box::pin(async { vec![IpAddr::from([198, 51, 100, 1])] })
        }
    }

    /// A host whose rules, beside the shipped ones, are these files, and that asks [`Names`].
    fn asking(files: &[(&str, &str)]) -> Host {
        let mut host = Host::new();
        let rules = TempDir::new().expect("a temporary folder");
        for (name, text) in files {
            let path = rules.path().join(name);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(path, text).expect("room on the disk");
        }
        let folders = Folders { shipped: true, folders: vec![rules.path().to_path_buf()] };
        let built = RuleSet::build(&RuleFiles::read(&folders));
        assert_eq!(built.problems, []);
        assert!(built.rules.asks_names && !host.rules.asks_names);
        host.rules = Arc::new(built.rules);
        host.outside.resolver = Some(Resolver::new(Arc::new(Names)));
        host
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_ban_does_not_wait_for_the_name_that_lifts_it() {
        let host = asking(&[
            (
                "postoverflows/s00-enrich/a.yaml",
                "name: names\nonsuccess: next_stage\nstatics:\n  - method: reverse_dns\n    expression: evt.Overflow.Alert.Source.IP\n",
            ),
            (
                "postoverflows/s01-whitelist/a.yaml",
                "name: bots\nwhitelist:\n  reason: a bot\n  expression: [\"evt.Enriched.reverse_dns endsWith '.bot.example.'\"]\n",
            ),
        ]);
        let (pipeline, status) = host.start();
        for address in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
            host.guesses(address, 20);
        }
        host.wait("an alert was handed on and whitelisted later", |_| status.engine().whitelisted > 0).await;
        host.wait("only two are banned", |host| host.banned() == ["198.51.100.2", "198.51.100.3"]).await;
        pipeline.stop().await;
        assert_eq!(host.banned(), ["198.51.100.2", "198.51.100.3"]);
        let query = AlertQuery::default();
        let alerts = host.service.read(move |store| store.alerts(&query, Timestamp::now())).await.expect("the store");
        assert!(alerts.iter().any(|alert| alert.source.value == "198.51.100.1"), "the ban had not waited");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_whitelist_of_lines_lifts_what_they_led_to_before_the_name_was_known() {
        let host = asking(&[(
            "parsers/s02-enrich/zz-bots.yaml",
            "name: names\nstatics:\n  - method: reverse_dns\n    expression: evt.Meta.source_ip\n---\n\
             name: bots\nwhitelist:\n  reason: a bot\n  expression: [\"evt.Enriched.reverse_dns endsWith '.bot.example.'\"]\n",
        )]);
        let (pipeline, _) = host.start();
        host.wait("the file is open", |host| host.folder.path().join("checkpoint").exists()).await;
        for address in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
            host.guesses(address, 20);
        }
        host.wait("only two are banned", |host| host.banned() == ["198.51.100.2", "198.51.100.3"]).await;
        pipeline.stop().await;
        assert_eq!(host.banned(), ["198.51.100.2", "198.51.100.3"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_is_read_once_ends_the_pipeline() {
        let host = Host::new();
        host.guesses("198.51.100.1", 20);
        let text = format!(
            "filename: {}\nlabels: {{type: syslog}}\nmode: cat\n",
            host.folder.path().join("auth.log").display()
        );
        let (sources, _) = config::parse(Path::new("acquis.yaml"), &text, &|_| None);
        let state = State::open(host.folder.path(), [1; 16]).expect("it is ours");
        let parts = Parts {
            sources,
            rules: Arc::clone(&host.rules),
            options: EngineOptions::live(HashKey::new([1; 16])),
            allow: host.service.allow(),
            outside: Outside::default(),
            target: Target::Service { service: host.service.clone(), machine: "test".into() },
            state,
            catch_up: SignedDuration::from_hours(1),
            status: Arc::default(),
        };
        let mut pipeline = Pipeline::start(parts).expect("threads can be started");
        let end = Instant::now() + DEADLINE;
        while !pipeline.ended() {
            assert!(Instant::now() < end, "it does not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        pipeline.stop().await;
        assert_eq!(host.banned(), ["198.51.100.1"]);
    }
}
