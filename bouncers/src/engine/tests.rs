//! The loop against a target in memory.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Feed, FeedError, Update};
use jiff::{SignedDuration, Timestamp};
use model::{AllowEntry, AllowSet, Decision, Delta};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Mode, OnStop, Settings};
use crate::engine::desired::{Key, tests::ban};
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::run::{Wiring, run};
use crate::engine::{
    Bouncer, Caps, Check, Difference, Disturbance, Extent, Never, Outcome, Status, Traffic, Wanted, snapshot,
};
use crate::error::BouncerError;
use crate::metrics::Metrics;

/// What the target holds and what was asked of it.
#[derive(Debug, Default)]
struct State {
    held: Placement,
    calls: Vec<String>,
    /// How many of the next changes fail.
    failures: usize,
    disturbance: Option<Disturbance>,
    gone: bool,
}

#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<State>>);

impl Memory {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn values(&self) -> Vec<String> {
        let mut values: Vec<String> = self.with(|state| state.held.keys().map(Key::value).collect());
        values.sort();
        values
    }

    fn change(&self, call: String, change: impl FnOnce(&mut Placement)) -> Result<Outcome, BouncerError> {
        self.with(|state| {
            if state.failures > 0 {
                state.failures -= 1;
                state.calls.push(format!("{call} failed"));
                return Err(BouncerError::NotOurs("no room".into()));
            }
            state.calls.push(call);
            change(&mut state.held);
            Ok(Outcome::default())
        })
    }
}

impl Bouncer for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> Caps {
        Caps::LOCAL
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        self.change("prepare".into(), |_| {}).map(drop)
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, _: Timestamp) -> Result<Outcome, BouncerError> {
        self.change(format!("rebuild {extent:?}"), |held| {
            if extent == Extent::Exactly {
                held.clear();
            }
            held.extend(wanted.placed.clone());
        })
    }

    async fn apply(&mut self, plan: &Plan, _: Timestamp) -> Result<Outcome, BouncerError> {
        // Long enough that everything already sent arrives while this is in flight.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let changes: Vec<String> =
            plan.changes.iter().map(|change| format!("{} {}", change.op(), change.key.value())).collect();
        self.change(changes.join(", "), |held| plan.clone().commit(held))
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        let missing = self.with(|state| keys.iter().filter(|(key, _)| !state.held.contains_key(key)).count());
        Ok(Check { intact: true, armed: true, asked: keys.len(), missing })
    }

    async fn compare(&mut self, wanted: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        let missing = |state: &mut State| {
            wanted.placed.keys().filter(|key| !state.held.contains_key(key)).map(ToString::to_string).collect()
        };
        Ok(Difference { missing: self.with(missing), ..Difference::default() })
    }

    async fn disturbance(&mut self) -> Result<Disturbance, BouncerError> {
        loop {
            if let Some(disturbance) = self.with(|state| state.disturbance.take()) {
                return Ok(disturbance);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn dropped(&mut self) -> Result<Traffic, BouncerError> {
        Ok(Traffic { packets: 3, bytes: 180 })
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.with(|state| state.gone = true);
        Ok(())
    }
}

struct Told(mpsc::Receiver<Result<Update, FeedError>>);

impl Feed for Told {
    async fn next(&mut self) -> Result<Update, FeedError> {
        self.0.recv().await.unwrap_or(Err(FeedError::Closed))
    }
}

/// A running engine and both its ends.
struct Stage {
    target: Memory,
    feed: mpsc::Sender<Result<Update, FeedError>>,
    allow: watch::Sender<Arc<AllowSet>>,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    engine: tokio::task::JoinHandle<Result<(), BouncerError>>,
}

impl Stage {
    fn new(target: Memory, config: Settings) -> Self {
        let (feed, updates) = mpsc::channel(16);
        let (allow, allowed) = watch::channel(Arc::default());
        let (shown, status) = watch::channel(Status::new(config.mode));
        let (stop, stopped) = oneshot::channel();
        let wiring = Wiring::new(allowed, shown, Metrics::default(), || Ok(Vec::new()));
        let shutdown = async { drop(stopped.await) };
        let engine = tokio::spawn(run(Told(updates), target.clone(), config, wiring, shutdown));
        Self { target, feed, allow, status, stop, engine }
    }

    async fn tell(&self, update: Update) {
        self.feed.send(Ok(update)).await.expect("the engine listens");
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&Status) -> bool) -> Status {
        let reached = self.status.wait_for(reached);
        let status = tokio::time::timeout(Duration::from_secs(10), reached).await;
        status.unwrap_or_else(|_| panic!("{what}")).expect("the engine lives").clone()
    }

    async fn stop(self) -> Memory {
        drop(self.stop);
        self.engine.await.expect("no panic").expect("a clean stop");
        self.target
    }

    fn calls(&self) -> Vec<String> {
        self.target.with(|state| std::mem::take(&mut state.calls))
    }
}

fn settings() -> Settings {
    Settings { name: "memory".into(), ..Settings::default() }
}

/// Bans that hold for an hour.
fn bans(values: &[&str]) -> Vec<Decision> {
    let until = Timestamp::now().as_second() + 3600;
    let id = |value: &str| i64::from(crc32c::crc32c(value.as_bytes())) + 1;
    values.iter().map(|value| ban(id(value), value, until)).collect()
}

fn snapshot_of(values: &[&str]) -> Update {
    Update::Snapshot(bans(values))
}

fn delta(add: &[&str], remove: &[&str]) -> Update {
    Update::Delta(Delta { add: bans(add), remove: bans(remove) })
}

fn saved(path: &Path, values: &[&str]) {
    let mut desired = crate::engine::desired::Desired::new(64, 10_000);
    desired.replace(&bans(values), Timestamp::now());
    snapshot::write(path, &snapshot::encode("memory", &desired, &Never::default())).expect("a temporary folder");
}

#[tokio::test]
async fn the_saved_state_is_enforced_before_the_feed_says_anything() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state");
    saved(&path, &["203.0.113.1", "203.0.113.2"]);
    let target = Memory::default();
    // What an earlier run left in the target and did not save any more.
    target
        .change("left".into(), |held| {
            let key = Key::of(&ban(1, "203.0.113.3", 1), 64).expect("a valid test address");
            held.insert(key, Placed { until: Timestamp::MAX, pieces: None });
        })
        .expect("nothing fails");
    let config = Settings { snapshot: Some(path.clone()), ..settings() };
    let mut stage = Stage::new(target, config.clone());
    stage.until("enforced without a feed", |status| status.applied == 2).await;
    assert_eq!(stage.target.values(), ["203.0.113.1", "203.0.113.2", "203.0.113.3"]);
    stage.tell(snapshot_of(&["203.0.113.2", "203.0.113.9"])).await;
    stage.until("the feed's word counts", |status| status.verified.is_some() && status.desired == 2).await;
    stage.tell(delta(&["203.0.113.10"], &[])).await;
    stage.until("changes are applied", |status| status.applied == 3).await;
    assert_eq!(stage.target.values(), ["203.0.113.10", "203.0.113.2", "203.0.113.9"]);
    stage.stop().await;

    let mut again = Stage::new(Memory::default(), config);
    again.until("saved at the stop", |status| status.applied == 3).await;
    assert_eq!(again.target.values(), ["203.0.113.10", "203.0.113.2", "203.0.113.9"]);
}

#[tokio::test]
async fn a_torn_file_is_as_good_as_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state");
    std::fs::write(&path, b"CORDONBN and then nothing of use").expect("a temporary folder");
    let mut stage = Stage::new(Memory::default(), Settings { snapshot: Some(path), ..settings() });
    stage.tell(snapshot_of(&["203.0.113.1"])).await;
    stage.until("the feed's word counts", |status| status.applied == 1).await;
    assert_eq!(stage.calls(), ["prepare", "rebuild Exactly"]);
}

#[tokio::test]
async fn what_arrives_while_a_transaction_is_in_flight_goes_into_the_next() {
    let mut stage = Stage::new(Memory::default(), settings());
    stage.tell(snapshot_of(&[])).await;
    stage.until("verified", |status| status.verified.is_some()).await;
    stage.calls();
    stage.tell(delta(&["203.0.113.1"], &[])).await;
    stage.tell(delta(&["203.0.113.2"], &[])).await;
    stage.tell(delta(&["203.0.113.3"], &["203.0.113.1"])).await;
    stage.until("all applied", |status| status.desired == 2 && status.applied == 2).await;
    assert_eq!(stage.calls(), ["add 203.0.113.1", "remove 203.0.113.1, add 203.0.113.2, add 203.0.113.3"]);
}

#[tokio::test]
async fn a_failed_transaction_is_answered_by_a_rebuild_and_then_by_patience() {
    let mut stage = Stage::new(Memory::default(), settings());
    stage.tell(snapshot_of(&["203.0.113.1"])).await;
    stage.until("verified", |status| status.verified.is_some()).await;
    stage.calls();
    stage.target.with(|state| state.failures = 2);
    stage.tell(delta(&["203.0.113.2"], &[])).await;
    stage.until("the failure shows", |status| status.error.is_some()).await;
    stage.until("and goes", |status| status.error.is_none() && status.applied == 2).await;
    assert_eq!(stage.calls(), ["add 203.0.113.2 failed", "rebuild Exactly failed", "rebuild Exactly"]);
    assert_eq!(stage.target.values(), ["203.0.113.1", "203.0.113.2"]);
}

#[tokio::test]
async fn what_others_take_away_comes_back_and_is_counted() {
    let mut stage = Stage::new(Memory::default(), settings());
    stage.tell(snapshot_of(&["203.0.113.1", "203.0.113.2"])).await;
    stage.until("verified", |status| status.applied == 2).await;
    let disturbance = |elements| Disturbance { process: "nft".into(), pid: 7, elements };
    stage.target.with(|state| {
        state.held.clear();
        state.disturbance = Some(disturbance(true));
    });
    let status = stage.until("healed", |status| status.heals == 1).await;
    assert_eq!(status.last_heal.map(|heal| (heal.process, heal.pid)), Some(("nft".into(), 7)));
    assert_eq!(stage.target.values(), ["203.0.113.1", "203.0.113.2"]);
    assert_eq!(status.verified.map(|verified| (verified.asked, verified.missing)), Some((2, 0)));
    stage.calls();
    stage.target.with(|state| state.disturbance = Some(disturbance(false)));
    stage.tell(delta(&["203.0.113.3"], &[])).await;
    let status = stage.until("applied", |status| status.applied == 3).await;
    assert_eq!(
        (status.heals, stage.calls()),
        (1, vec!["add 203.0.113.3".to_owned()]),
        "harmless changes are left alone"
    );
}

#[tokio::test]
async fn a_snapshot_that_takes_too_much_away_needs_a_second_one() {
    let many: Vec<String> = (0..1500).map(|number| format!("203.0.{}.{}", number / 250, number % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut stage = Stage::new(Memory::default(), settings());
    stage.tell(snapshot_of(&many)).await;
    stage.until("all in force", |status| status.applied == 1500).await;
    stage.tell(snapshot_of(&["198.51.100.1"])).await;
    let status = stage.until("held", |status| status.held_removals == 1500).await;
    assert_eq!((status.desired, status.applied), (1501, 1501), "what is new is added at once");
    stage.tell(snapshot_of(&["198.51.100.1"])).await;
    stage.until("confirmed", |status| status.held_removals == 0 && status.applied == 1).await;
    assert_eq!(stage.target.values(), ["198.51.100.1"]);
}

#[tokio::test]
async fn refusals_show_and_follow_the_allow_set() {
    let mut stage = Stage::new(Memory::default(), settings());
    stage.tell(snapshot_of(&["203.0.113.1", "10.0.0.1", "nonsense"])).await;
    let status = stage.until("applied", |status| status.applied == 1).await;
    let reasons: Vec<String> =
        status.refused.iter().map(|refused| format!("{}: {}", refused.value, refused.reason)).collect();
    insta::assert_snapshot!(reasons.join("\n"), @r"
    nonsense: `nonsense` is not an IP address or a range, expected a form like `192.0.2.4` or `192.0.2.0/24`
    ban Ip 10.0.0.1: never blocked: 10.0.0.0/8 from private ranges (RFC 1918)
    ");
    let office = AllowEntry {
        net: "203.0.113.0/24".parse().expect("a valid test prefix"),
        list: "office".into(),
        comment: String::new(),
        expires: None,
    };
    stage.allow.send_replace(Arc::new(AllowSet::new([office])));
    stage.until("no longer in force", |status| status.applied == 0 && status.refused_total == 3).await;
    assert!(stage.target.values().is_empty());
    stage.allow.send_replace(Arc::default());
    stage.until("in force again", |status| status.applied == 1 && status.refused_total == 2).await;
}

#[tokio::test]
async fn a_dry_run_asks_nothing_of_the_target() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state");
    saved(&path, &["203.0.113.7"]);
    let before = std::fs::read(&path).expect("it was just written");
    let config = Settings { mode: Mode::DryRun, on_stop: OnStop::Remove, snapshot: Some(path.clone()), ..settings() };
    let mut stage = Stage::new(Memory::default(), config);
    stage.tell(snapshot_of(&["203.0.113.1"])).await;
    stage.tell(delta(&["203.0.113.2"], &[])).await;
    stage.until("followed", |status| status.applied == 2).await;
    let target = stage.stop().await;
    target.with(|state| assert!(state.calls.is_empty() && !state.gone, "{state:?}"));
    assert_eq!(std::fs::read(&path).expect("it is still there"), before);
}

#[tokio::test]
async fn stopping_keeps_or_removes() {
    for (on_stop, gone) in [(OnStop::Keep, false), (OnStop::Remove, true)] {
        let mut stage = Stage::new(Memory::default(), Settings { on_stop, ..settings() });
        stage.tell(snapshot_of(&["203.0.113.1"])).await;
        stage.until("in force", |status| status.applied == 1).await;
        assert_eq!(stage.stop().await.with(|state| state.gone), gone);
    }
}

#[tokio::test]
async fn without_news_everything_stays_in_force() {
    let mut stage = Stage::new(Memory::default(), settings());
    stage.tell(snapshot_of(&["203.0.113.1"])).await;
    stage.until("in force", |status| status.applied == 1).await;
    let away = FeedError::Unreachable { url: "http://localhost".into(), reason: "refused".into() };
    stage.feed.send(Err(away)).await.expect("the engine listens");
    let status = stage.until("it shows", |status| status.feed_error.is_some()).await;
    assert_eq!(status.applied, 1);
    assert_eq!(status.health(Timestamp::now() + SignedDuration::from_secs(1)), crate::engine::Health::Green);
    stage.tell(delta(&["203.0.113.2"], &[])).await;
    stage.until("news again", |status| status.feed_error.is_none() && status.applied == 2).await;
}
