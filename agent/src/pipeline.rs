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
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use model::AllowSet;
use tokio::sync::{mpsc as channel, watch};
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::acquisition::config::SourceConfig;
use crate::acquisition::queue::{Receiver, queue};
use crate::acquisition::{self, Batch, Outlet, Running, Step};
use crate::engine::{Engine, EngineOptions, ROUND, Round};
use crate::report::{Report, Target, keep, report};
use crate::ruleset::RuleSet;
use crate::state::Checkpoint;
use crate::status::{EngineReport, SourceStatus, Status};
use crate::world::Outside;

/// Batches between the datasources and the engine.
const BATCHES: usize = 2 * ROUND;
/// Rounds between the engine and the reporting.
const REPORTS: usize = 256;
/// Rounds between the reporting and the checkpoint.
const TAKEN: usize = 1024;
/// The engine looks for new rules and timers at least this often.
const BREATH: Duration = Duration::from_millis(500);
/// It looks for answers that overflows wait for at least this often.
const SHORT_BREATH: Duration = Duration::from_millis(20);
/// How long the end waits for such answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How often the engine tells the status what it counted.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long the start waits for datasources to find what there is to read.
const FIRST_LOOK: Duration = Duration::from_millis(500);

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
    /// Where reading stood.
    pub checkpoint: Checkpoint,
    /// Where it is said how things are.
    pub status: Arc<Status>,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    sources: Vec<Running>,
    rules: Arc<ArcSwap<RuleSet>>,
    engine: thread::JoinHandle<()>,
    report: JoinHandle<()>,
    keep: JoinHandle<()>,
    stopping: watch::Sender<bool>,
}

impl Pipeline {
    /// Starts everything, from right to left. To be called within a runtime. Fails when threads cannot be started.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let Parts { sources, rules, options, allow, outside, target, mut checkpoint, status } = parts;
        let ids: Vec<String> = sources.iter().map(|source| source.id.clone()).collect();
        checkpoint.retain(&ids.iter().map(String::as_str).collect::<Vec<_>>());

        let (stopping, stops) = watch::channel(false);
        let (taken_in, taken_out) = channel::channel(TAKEN);
        let (reports_in, reports_out) = channel::channel(REPORTS);
        let (batches_in, batches_out) = queue(BATCHES);

        let mut inputs = Vec::new();
        let mut counters = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            let counts = status.add_source(&source.id, source.input.module());
            let out = Outlet::new(number as u32, batches_in.add(), Arc::clone(&counts));
            let out = out.transformed(source.transform.clone());
            inputs.push((acquisition::build(source, &checkpoint), out));
            counters.push(counts);
        }
        drop(batches_in);
        let looks = counters.clone();

        let keep = tokio::spawn(keep(taken_out, checkpoint, ids, Arc::clone(&status)));
        let report = tokio::spawn(report(target, reports_out, taken_in, stops, Arc::clone(&status)));
        let rules = Arc::new(ArcSwap::new(rules));
        let stage = EngineStage {
            rules: Arc::clone(&rules),
            allow,
            outside,
            reports: reports_in,
            counters,
            status,
            told: None,
        };
        let engine = thread::Builder::new().name("engine".into()).spawn(move || {
            if let Err(error) = stage.run(&batches_out, options) {
                error!(%error, "the engine cannot go on");
            }
        })?;
        let sources =
            inputs.into_iter().map(|(source, out)| Running::start(source, out)).collect::<io::Result<Vec<_>>>()?;
        wait_for_first_look(&sources, &looks);
        Ok(Self { sources, rules, engine, report, keep, stopping })
    }

    /// Puts other rules in force, from the next round on.
    pub fn set_rules(&self, rules: Arc<RuleSet>) {
        self.rules.store(rules);
    }

    /// Whether it has come to its end by itself: every datasource has ended and all is worked off, or a stage broke.
    pub fn ended(&self) -> bool {
        self.engine.is_finished()
    }

    /// Ends it in order. What was read is worked off; places and alerts are safe when this returns.
    pub async fn stop(self) {
        // Nobody may be left to hear it.
        let _ = self.stopping.send(true);
        for source in &self.sources {
            source.stop();
        }
        let threads = tokio::task::spawn_blocking(move || {
            for source in self.sources {
                source.join();
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

/// Waits until every datasource watches, has ended, or has had its time: whoever is told that cordon watches may rely on it.
fn wait_for_first_look(sources: &[Running], looks: &[Arc<SourceStatus>]) {
    let started = Instant::now();
    let settled = |(source, status): (&Running, &Arc<SourceStatus>)| status.is_watching() || source.ended();
    while started.elapsed() < FIRST_LOOK && !sources.iter().zip(looks).all(settled) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the engine's thread has beside the engine.
struct EngineStage {
    rules: Arc<ArcSwap<RuleSet>>,
    allow: Arc<ArcSwap<AllowSet>>,
    outside: Outside,
    reports: channel::Sender<Report>,
    counters: Vec<Arc<SourceStatus>>,
    status: Arc<Status>,
    told: Option<Instant>,
}

impl EngineStage {
    /// Takes what is there as a round, until the datasources and the channel are empty.
    fn run(mut self, batches: &Receiver, options: EngineOptions) -> io::Result<()> {
        let mut engine = Engine::new(self.rules.load_full(), options)?;
        engine.set_outside(self.outside.clone());
        loop {
            let now = Timestamp::now();
            let breath = if engine.doubts() { SHORT_BREATH } else { BREATH };
            let due = engine.deadline().map_or(breath, |deadline| {
                Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO).min(breath)
            });
            let mut taken = Vec::new();
            match batches.recv_timeout(due) {
                Ok(batch) => {
                    taken.push(batch);
                    taken.extend(batches.try_iter().take(ROUND - 1));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Timestamp::now();
            let rules = self.rules.load_full();
            if !Arc::ptr_eq(&rules, engine.rules()) {
                engine.adopt(rules, now)?;
            }
            engine.set_allow(self.allow.load_full(), now);
            if !self.round(&mut engine, taken, now) {
                break;
            }
        }
        let end = Instant::now() + LAST_ANSWERS;
        while engine.doubts() && Instant::now() < end && self.round(&mut engine, Vec::new(), Timestamp::now()) {
            thread::sleep(SHORT_BREATH);
        }
        self.tell(&engine, true);
        Ok(())
    }

    /// One round; false when nobody takes reports any more.
    fn round(&mut self, engine: &mut Engine, mut batches: Vec<Batch>, now: Timestamp) -> bool {
        let steps: Vec<(u32, Vec<Step>)> =
            batches.iter_mut().map(|batch| (batch.source, std::mem::take(&mut batch.steps))).collect();
        let Round { mut alerts, fates } = engine.round(batches);
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
        if alerts.is_empty() && lifts.is_empty() && steps.is_empty() {
            return !self.reports.is_closed();
        }
        self.reports.blocking_send(Report { alerts, lifts, steps }).is_ok()
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
            let (checkpoint, error) = Checkpoint::open(self.folder.path());
            assert!(error.is_none());
            let status = Arc::new(Status::default());
            let parts = Parts {
                sources,
                rules: Arc::clone(&self.rules),
                options: EngineOptions { threads: 2, ..EngineOptions::live(HashKey::new([1; 16])) },
                allow: self.service.allow(),
                outside: self.outside.clone(),
                target: Target::Service { service: self.service.clone(), machine: "test".into() },
                checkpoint,
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
        host.wait("the file is open", |host| host.folder.path().join("checkpoint").exists()).await;
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
            Box::pin(async move { named.then(|| "one.bot.example.".to_owned()).into_iter().collect() })
        }

        fn addresses<'a>(&'a self, _name: &'a str) -> Found<'a, IpAddr> {
            Box::pin(async { vec![IpAddr::from([198, 51, 100, 1])] })
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_ban_does_not_wait_for_the_name_that_lifts_it() {
        let mut host = Host::new();
        let rules = TempDir::new().expect("a temporary folder");
        let files = [
            (
                "s00-enrich",
                "name: names\nonsuccess: next_stage\nstatics:\n  - method: reverse_dns\n    expression: evt.Overflow.Alert.Source.IP\n",
            ),
            (
                "s01-whitelist",
                "name: bots\nwhitelist:\n  reason: a bot\n  expression: [\"evt.Enriched.reverse_dns endsWith '.bot.example.'\"]\n",
            ),
        ];
        for (stage, text) in files {
            let folder = rules.path().join("postoverflows").join(stage);
            fs::create_dir_all(&folder).expect("room on the disk");
            fs::write(folder.join("a.yaml"), text).expect("room on the disk");
        }
        let folders = Folders { shipped: true, folders: vec![rules.path().to_path_buf()] };
        let built = RuleSet::build(&RuleFiles::read(&folders));
        assert_eq!(built.problems, []);
        assert!(built.rules.asks_names && !host.rules.asks_names);
        host.rules = Arc::new(built.rules);
        host.outside.resolver = Some(Resolver::new(Arc::new(Names)));

        let (pipeline, status) = host.start();
        host.wait("the file is open", |host| host.folder.path().join("checkpoint").exists()).await;
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
    async fn a_log_that_is_read_once_ends_the_pipeline() {
        let host = Host::new();
        host.guesses("198.51.100.1", 20);
        let text = format!(
            "filename: {}\nlabels: {{type: syslog}}\nmode: cat\n",
            host.folder.path().join("auth.log").display()
        );
        let (sources, _) = config::parse(Path::new("acquis.yaml"), &text, &|_| None);
        let (checkpoint, _) = Checkpoint::open(host.folder.path());
        let parts = Parts {
            sources,
            rules: Arc::clone(&host.rules),
            options: EngineOptions::live(HashKey::new([1; 16])),
            allow: host.service.allow(),
            outside: Outside::default(),
            target: Target::Service { service: host.service.clone(), machine: "test".into() },
            checkpoint,
            status: Arc::default(),
        };
        let pipeline = Pipeline::start(parts).expect("threads can be started");
        let end = Instant::now() + DEADLINE;
        while !pipeline.ended() {
            assert!(Instant::now() < end, "it does not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        pipeline.stop().await;
        assert_eq!(host.banned(), ["198.51.100.1"]);
    }
}
