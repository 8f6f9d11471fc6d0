//! The engine drives a Ziti network: how fast a decision cuts, and what a restart and a dry run do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::{Feed, FeedError, Update};
use bouncers::config::{Config, Kind, Mode, RawConfig, TargetConfig};
use bouncers::engine::run::Wiring;
use bouncers::engine::status::{Health, Status};
use bouncers::metrics::Metrics;
use bouncers::ziti::name::Name;
use bouncers::ziti::setup;
use jiff::Timestamp;
use model::{AllowSet, Decision, Delta, Scope};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::controller::{Family, Site};
use crate::support::in_minutes;

struct Channel(mpsc::Receiver<Update>);

impl Feed for Channel {
    async fn next(&mut self) -> Result<Update, FeedError> {
        self.0.recv().await.ok_or(FeedError::Closed)
    }
}

/// A running engine.
struct Engine {
    feed: mpsc::Sender<Update>,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Engine {
    fn start(target: &TargetConfig, name: &str) -> Self {
        let (feed, updates) = mpsc::channel(100);
        let (_, allow) = watch::channel(Arc::new(AllowSet::default()));
        let (shown, status) = watch::channel(Status::new(target.settings.mode));
        let (stop, stopped) = oneshot::channel();
        let wiring = Wiring::new(allow, shown, Metrics::default(), || Ok(Vec::new()));
        let settings = target.settings.clone();
        let open = target.open(&Metrics::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let task = tokio::spawn(async move {
            let done = async { drop(stopped.await) };
            Box::pin(open.run(Channel(updates), settings, wiring, done)).await.expect("it ends in order");
        });
        Self { feed, status, stop, task }
    }

    async fn tell(&self, update: Update) {
        self.feed.send(update).await.expect("the engine listens");
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("no panic");
    }
}

fn target(site: &Site, folder: &Path, mode: &str) -> TargetConfig {
    std::fs::write(folder.join("password"), "secret\n").expect("written");
    // The authority is asked for nothing on loopback, but it must be named.
    let ca = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("a certificate").cert.pem();
    std::fs::write(folder.join("ca.pem"), ca).expect("written");
    let text = format!(
        "mode: {mode}\ntargets:\n  - ziti:\n      controllers: [{}]\n      ca: {folder}/ca.pem\n      username: cordon\n      \
         password_file: {folder}/password\n",
        site.bases.join(", "),
        folder = folder.display()
    );
    let raw: RawConfig = serde_saphyr::from_str(&text).expect("a section");
    let config = raw.check(Config::default()).expect("a valid section");
    let mut all = config.all(folder);
    std::fs::create_dir_all(folder.join("bouncers")).expect("a folder");
    all.retain(|target| matches!(target.kind, Kind::Ziti(_)));
    all.remove(0)
}

fn decision(id: i64, value: &str) -> Decision {
    Decision {
        id,
        uuid: String::new(),
        origin: "cordon".into(),
        remediation: "ban".into(),
        scope: Scope::new("identity"),
        value: value.into(),
        scenario: "test/scenario".into(),
        created_at: Timestamp::now(),
        until: in_minutes(30),
        simulated: false,
        alert_id: 0,
    }
}

fn add(decision: Decision) -> Update {
    Update::Delta(Delta { add: vec![decision], remove: Vec::new() })
}

fn remove(decision: Decision) -> Update {
    Update::Delta(Delta { add: Vec::new(), remove: vec![decision] })
}

async fn until(what: &str, good: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !good() {
        assert!(start.elapsed() < Duration::from_secs(30), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn a_decision_cuts_within_two_seconds_and_its_end_lets_in() {
    for family in [Family::Old, Family::New] {
        let site = Site::start(family, 2).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = target(&site, folder.path(), "enforce");
        let engine = Engine::start(&target, "first");
        engine.tell(Update::Snapshot(Vec::new())).await;
        let mut cuts = Vec::new();
        for round in 1..=10 {
            {
                let mut network = site.lock();
                let session = network.log_in("aliceId", "203.0.113.9", true).expect("she may");
                network.dial(&session, 0).expect("she may");
                network.dial(&session, 1).expect("she may");
            }
            engine.tell(add(decision(round, "name:alice"))).await;
            cuts.push(until("cut", || site.lock().disabled("aliceId") && !site.lock().flows("aliceId")).await);
            engine.tell(remove(decision(round, "name:alice"))).await;
            let back = until("back", || !site.lock().disabled("aliceId") && site.lock().refused.is_empty()).await;
            assert!(back < Duration::from_secs(5), "let in after {back:?}");
        }
        cuts.sort();
        eprintln!("{family:?}: cut after {:?} at the median, {:?} at the worst of {}", cuts[5], cuts[9], cuts.len());
        assert!(cuts[9] < Duration::from_secs(2), "{cuts:?}");
        engine.stop().await;
    }
}

#[tokio::test]
async fn the_state_is_kept_over_a_restart_and_a_person_is_heard() {
    let site = Site::start(Family::New, 1).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(&site, folder.path(), "enforce");
    let engine = Engine::start(&target, "first");
    engine.tell(Update::Snapshot(vec![decision(1, "aliceId"), decision(2, "rootId"), decision(3, "bobId")])).await;
    let seen = engine.status.clone();
    let green = || seen.borrow().health(Timestamp::now()) == Health::Green;
    until("green", || green() && seen.borrow().applied == 2 && seen.borrow().refused.len() == 1).await;
    let refused: Vec<String> = seen.borrow().refused.iter().map(|refused| refused.reason.clone()).collect();
    assert!(refused[0].contains("default administrator"), "{refused:?}");
    site.lock().enable("bobId");
    engine.stop().await;
    assert!(site.lock().disabled("aliceId"), "what is banned stays so while nobody runs");

    let writes = site.lock().writes.len();
    let engine = Engine::start(&target, "second");
    // Bob's ban has ended meanwhile, and so has Alice's, and only the API knows.
    engine.tell(Update::Snapshot(vec![decision(2, "rootId")])).await;
    until("let in", || !site.lock().disabled("aliceId")).await;
    let seen = engine.status.clone();
    until("settled", || seen.borrow().applied == 0).await;
    engine.stop().await;
    let network = site.lock();
    assert_eq!(network.writes.len(), writes + 1, "one enable: bob was enabled by a person");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let site = Site::start(Family::New, 1).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(&site, folder.path(), "dry-run");
    assert_eq!(target.settings.mode, Mode::DryRun);
    let engine = Engine::start(&target, "dry");
    engine.tell(Update::Snapshot(vec![decision(1, "aliceId")])).await;
    let seen = engine.status.clone();
    until("planned", || seen.borrow().applied == 1).await;
    engine.stop().await;
    assert_eq!(site.lock().requests, 0, "nobody is even asked");
}

#[tokio::test]
async fn the_set_up_says_what_is_missing_and_writes_nothing() {
    let site = Site::start(Family::Old, 1).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(&site, folder.path(), "enforce");
    let Kind::Ziti(options) = &target.kind else { panic!("a Ziti network") };
    let mut options = options.as_ref().clone();
    options.protect = vec![Name::Name("nobody".into())];
    let findings = setup::examine(&options, |address| address.is_loopback()).await;
    let told: Vec<String> = findings.iter().map(|finding| format!("{} {}", finding.good, finding.found)).collect();
    let told = told.join("\n").replace(site.bases[0].trim_start_matches("http://127.0.0.1:"), "PORT");
    assert_eq!(
        told,
        "true the controllers run v1.6.3\n\
         true we are the identity `cordon`, an administrator\n\
         true the login is a password\n\
         true sessions can be listed\n\
         true circuits can be listed\n\
         false `name:nobody` is to be protected, but there is no such identity\n\
         true a controller at 127.0.0.1, port PORT/tcp is never blocked here\n\
         false the router `edge1` at 192.0.2.7, port 3022/tcp could be blocked here"
    );
    assert_eq!(site.lock().changes(), Vec::<&str>::new());

    site.lock().locked_out = true;
    let findings = setup::examine(&options, |_| true).await;
    assert!(findings.last().is_some_and(|last| last.found.contains("refuses the login")), "{findings:?}");
}
