//! The whole way from a decision to what a target elsewhere holds, also over a crash.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Feed, FeedError, Update};
use bouncers::BouncerError;
use bouncers::config::{Kind, Mode, OnStop, Settings, TargetConfig};
use bouncers::engine::run::Wiring;
use bouncers::engine::{Health, Status};
use bouncers::metrics::Metrics;
use bouncers::proxmox::Options;
use jiff::{SignedDuration, Timestamp};
use model::{Decision, Delta, Scope};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::lists::{at, secret};
use crate::proxmox::Proxmox;
use crate::schema::Schema;
use crate::server::{Contract, Fault};

struct Told(mpsc::Receiver<Update>);

impl Feed for Told {
    async fn next(&mut self) -> Result<Update, FeedError> {
        match self.0.recv().await {
            Some(update) => Ok(update),
            None => std::future::pending().await,
        }
    }
}

struct Running {
    feed: mpsc::Sender<Update>,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    engine: JoinHandle<Result<(), BouncerError>>,
}

async fn cluster() -> Contract<Proxmox> {
    let schema = Schema::load("proxmox-firewall-subset.openapi.yaml", "/api2/json");
    Contract::serve(Proxmox::new("cordon@pve!t=u-u-i-d"), schema).await
}

fn target(folder: &Path, url: &str, mode: Mode) -> TargetConfig {
    let settings = Settings {
        name: "pve".to_owned(),
        mode,
        snapshot: Some(folder.join("pve.snapshot")),
        batch_window: Some(Duration::from_millis(100)),
        ..Settings::default()
    };
    let options = Options {
        endpoint: at(url),
        token: secret(folder, "token", "cordon@pve!t=u-u-i-d"),
        set: "cordon-ban".to_owned(),
        rule: true,
        writes_per_second: 2,
    };
    TargetConfig { settings, writer: None, kind: Kind::Proxmox(options) }
}

impl Running {
    fn start(target: &TargetConfig) -> Self {
        let (feed, told) = mpsc::channel(16);
        let (shown, status) = watch::channel(Status::new(target.settings.mode));
        let (stop, stopped) = oneshot::channel();
        let (_, allow) = watch::channel(Arc::default());
        let metrics = Metrics::default();
        let wiring = Wiring::new(allow, shown, metrics.clone(), || Ok(Vec::new()));
        let opened = target.open(&metrics).expect("the token is there");
        let shutdown = async { drop(stopped.await) };
        let engine = Box::pin(opened.run(Told(told), target.settings.clone(), wiring, shutdown));
        Self { feed, status, stop, engine: tokio::spawn(engine) }
    }

    async fn tell(&self, update: Update) {
        self.feed.send(update).await.expect("the engine listens");
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&Status) -> bool) {
        let reached = tokio::time::timeout(Duration::from_secs(20), self.status.wait_for(reached)).await;
        reached.unwrap_or_else(|_| panic!("{what}")).expect("the engine lives");
    }
}

fn ban(id: i64, value: &str) -> Decision {
    Decision {
        id,
        uuid: String::new(),
        origin: "cordon".into(),
        remediation: "ban".into(),
        scope: Scope::Ip,
        value: value.into(),
        scenario: "test/scenario".into(),
        created_at: Timestamp::now(),
        until: Timestamp::now() + SignedDuration::from_hours(1),
        simulated: false,
        alert_id: 0,
    }
}

fn held(server: &Contract<Proxmox>) -> Vec<String> {
    server
        .api()
        .set("cordon-ban")
        .map(|entries| entries.iter().map(|entry| entry.cidr.clone()).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_decision_is_in_the_cluster_within_seconds_and_goes_with_its_lift() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = cluster().await;
    let mut running = Running::start(&target(folder.path(), &server.url, Mode::Enforce));
    running.tell(Update::Snapshot(Vec::new())).await;
    running.until("verified", |status| status.verified.is_some()).await;
    let mut slowest = Duration::ZERO;
    for id in 1..=4 {
        let begun = Instant::now();
        running.tell(Update::Delta(Delta { add: vec![ban(id, &format!("203.0.113.{id}"))], remove: Vec::new() })).await;
        running.until("applied", |status| status.applied == id as usize).await;
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("the slowest of four took {slowest:?}");
    assert!(slowest < Duration::from_secs(15), "with the ten seconds of the hosts within thirty: {slowest:?}");
    assert_eq!(held(&server).len(), 4);
    assert_eq!(running.status.borrow().health(Timestamp::now()), Health::Green);
    running.tell(Update::Delta(Delta { add: Vec::new(), remove: vec![ban(2, "203.0.113.2")] })).await;
    running.until("lifted", |status| status.applied == 3).await;
    assert_eq!(held(&server), ["203.0.113.1", "203.0.113.3", "203.0.113.4"]);
    server.assert_valid();
}

#[tokio::test]
async fn a_dry_run_asks_nothing_and_needs_no_credentials() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = cluster().await;
    let mut target = target(folder.path(), &server.url, Mode::DryRun);
    target.settings.on_stop = OnStop::Remove;
    std::fs::remove_file(folder.path().join("token")).expect("it was just written");
    let mut running = Running::start(&target);
    running.tell(Update::Snapshot(vec![ban(1, "203.0.113.1")])).await;
    running.until("followed", |status| status.applied == 1).await;
    drop(running.stop);
    running.engine.await.expect("no panic").expect("a clean stop");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_mode_that_a_target_cannot_do_is_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = cluster().await;
    let running = Running::start(&target(folder.path(), &server.url, Mode::Observe));
    let error = running.engine.await.expect("no panic").expect_err("it cannot count");
    assert!(error.to_string().contains("cannot count what it would block"), "{error}");
}

#[tokio::test]
async fn whoever_dies_between_the_call_and_its_answer_knows_what_to_clean_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = cluster().await;
    let target = target(folder.path(), &server.url, Mode::Enforce);
    let mut running = Running::start(&target);
    running.tell(Update::Snapshot(vec![ban(1, "203.0.113.1")])).await;
    running.until("in force", |status| status.applied == 1 && status.verified.is_some()).await;
    // let the state be saved
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.break_next([Some(Fault::Slow(5000))]);
    running.tell(Update::Delta(Delta { add: vec![ban(2, "203.0.113.2")], remove: Vec::new() })).await;
    let begun = Instant::now();
    while held(&server).len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the call arrives");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.engine.abort();
    let mut again = Running::start(&target);
    again.until("in force", |status| status.applied == 1 && status.behind_since.is_none()).await;
    assert_eq!(held(&server).len(), 2, "what was begun and has not ended stays until the API speaks");
    // it was never made durable
    again.tell(Update::Snapshot(vec![ban(1, "203.0.113.1")])).await;
    let begun = Instant::now();
    while held(&server) != ["203.0.113.1"] {
        assert!(begun.elapsed() < Duration::from_secs(20), "what nobody wants goes: {:?}", held(&server));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
