//! The loop under random histories, on a clock that is not real: decisions come, are lifted and end, the target fails,
//! others empty it, the process dies, the clock jumps, the feed goes silent. When all is quiet again, the target holds
//! what it should; and never, at no moment, what it must not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Feed, FeedError, Update};
use jiff::{SignedDuration, Timestamp};
use model::{AllowSet, Decision, Delta};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Settings;
use crate::engine::desired::Key;
use crate::engine::desired::tests::ban;
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::run::{Clock, Wiring, run};
use crate::engine::{Bouncer, Caps, Check, Difference, Extent, Health, Outcome, Right, Status, Wanted};
use crate::error::BouncerError;
use crate::metrics::Metrics;

/// What strangers have; the last ones must never be blocked, and `203.0.113.66` is refused by the target.
const POOL: [&str; 9] = [
    "203.0.113.1",
    "203.0.113.2",
    "203.0.113.3",
    "203.0.113.0/30",
    "2001:db8::7",
    "203.0.113.66",
    "10.1.2.3",
    "127.0.0.1",
    "0.0.0.0/0",
];
const REFUSED: &str = "203.0.113.66";

/// A clock that may jump.
#[derive(Clone)]
struct Time {
    start: Instant,
    offset: Arc<AtomicI64>,
}

impl Time {
    fn new() -> Self {
        Self { start: Instant::now(), offset: Arc::new(AtomicI64::new(1_800_000_000)) }
    }

    fn now(&self) -> Timestamp {
        let base = Timestamp::from_second(self.offset.load(Ordering::SeqCst)).expect("a number within reach");
        base + SignedDuration::try_from(self.start.elapsed()).expect("a short test")
    }

    fn jump(&self, seconds: i64) {
        self.offset.fetch_add(seconds, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct World {
    held: BTreeMap<Key, Placed>,
    /// Of a hundred calls, so many fail; half of those do part of their work first.
    failing: u32,
    calls: usize,
    violations: Vec<String>,
}

/// A target that outlives the engine.
#[derive(Clone)]
struct Target {
    world: Arc<Mutex<World>>,
    rng: Arc<Mutex<StdRng>>,
    caps: Caps,
    time: Time,
}

impl Target {
    fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn chance(&self, percent: u32) -> bool {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..100) < percent
    }

    /// What it holds now: a target that ends entries by itself has forgotten some.
    fn held(&self) -> BTreeMap<Key, Placed> {
        let (now, expires) = (self.time.now(), self.caps.expires);
        self.with(|world| {
            world.held.retain(|_, placed| !expires || placed.until > now);
            world.held.clone()
        })
    }

    /// Carries out single steps; fails before or in the middle of them, if its luck will have it.
    fn carry_out(&self, steps: Vec<(Key, Option<Placed>)>) -> Result<Outcome, BouncerError> {
        let fails = self.chance(self.with(|world| world.failing));
        let done = if fails && self.chance(50) { steps.len() / 2 } else { steps.len() };
        self.with(|world| {
            world.calls += 1;
            if fails && done == steps.len() {
                return Err(BouncerError::unreachable("model", "away"));
            }
            let mut outcome = Outcome::default();
            for (key, after) in steps.into_iter().take(done) {
                if key.value() == REFUSED && after.is_some() {
                    outcome.refused.push((key, "not that one".to_owned()));
                    continue;
                }
                let private = key.net().is_some_and(|net| {
                    let first = net.network().to_string();
                    first.starts_with("10.") || first.starts_with("127.") || net.prefix_len() < 12
                });
                if private && after.is_some() {
                    world.violations.push(key.to_string());
                }
                match after {
                    Some(placed) => world.held.insert(key, placed),
                    None => world.held.remove(&key),
                };
            }
            if fails {
                Err(BouncerError::busy("model", "in the middle", Some(Duration::from_secs(1))))
            } else {
                Ok(outcome)
            }
        })
    }
}

impl Bouncer for Target {
    fn name(&self) -> &'static str {
        "model"
    }

    fn caps(&self) -> Caps {
        self.caps.clone()
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        Ok(())
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, _: Timestamp) -> Result<Outcome, BouncerError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut steps: Vec<(Key, Option<Placed>)> =
            wanted.placed.iter().map(|(key, placed)| (key.clone(), Some(placed.clone()))).collect();
        if extent == Extent::Exactly {
            let surplus = self.held().into_keys().filter(|key| !wanted.placed.contains_key(key));
            steps.extend(surplus.map(|key| (key, None)));
        }
        self.carry_out(steps)
    }

    async fn apply(&mut self, plan: &Plan, _: Timestamp) -> Result<Outcome, BouncerError> {
        assert!(plan.changes.len() <= self.caps.batch, "no more than it takes");
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.carry_out(plan.changes.iter().map(|change| (change.key.clone(), change.after.clone())).collect())
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        if self.chance(self.with(|world| world.failing)) {
            return Err(BouncerError::unreachable("model", "does not say"));
        }
        let held = self.held();
        let missing = keys.iter().filter(|(key, _)| !held.contains_key(key)).count();
        Ok(Check { intact: true, armed: true, asked: keys.len(), missing })
    }

    async fn compare(&mut self, wanted: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        let held = self.held();
        let missing = wanted.placed.keys().filter(|key| !held.contains_key(*key)).map(Key::value).collect();
        let surplus = held.keys().filter(|key| !wanted.placed.contains_key(*key)).map(Key::value).collect();
        Ok(Difference { missing, surplus, structure: Vec::new() })
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.with(|world| world.held.clear());
        Ok(())
    }
}

struct Told(mpsc::Receiver<Result<Update, FeedError>>);

impl Feed for Told {
    async fn next(&mut self) -> Result<Update, FeedError> {
        self.0.recv().await.unwrap_or(Err(FeedError::Closed))
    }
}

/// A running engine.
struct Running {
    feed: mpsc::Sender<Result<Update, FeedError>>,
    status: watch::Receiver<Status>,
    right: watch::Sender<Right>,
    _allow: watch::Sender<Arc<AllowSet>>,
    engine: JoinHandle<Result<(), BouncerError>>,
}

impl Running {
    fn start(target: &Target, settings: &Settings) -> Self {
        let (feed, told) = mpsc::channel(64);
        let (allow, allowed) = watch::channel(Arc::new(AllowSet::new([])));
        let (shown, status) = watch::channel(Status::new(settings.mode));
        let (right, rights) = watch::channel(Right::Ours);
        let mut wiring = Wiring::new(allowed, shown, Metrics::default(), || Ok(Vec::new()));
        let time = target.time.clone();
        wiring.clock = Clock::new(move || time.now());
        wiring.right = rights;
        let engine = Box::pin(run(Told(told), target.clone(), settings.clone(), wiring, std::future::pending()));
        Self { feed, status, right, _allow: allow, engine: tokio::spawn(engine) }
    }

    async fn tell(&self, update: Update) {
        self.feed.send(Ok(update)).await.expect("the engine listens");
    }
}

fn settings(folder: &std::path::Path) -> Settings {
    Settings { name: "model".into(), snapshot: Some(folder.join("model.snapshot")), ..Settings::default() }
}

fn target(caps: Caps, seed: u64) -> Target {
    Target { world: Arc::default(), rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))), caps, time: Time::new() }
}

/// What the target should hold when all `decisions` are known.
fn expected(decisions: &BTreeMap<i64, Decision>, now: Timestamp) -> BTreeSet<String> {
    let held = decisions.values().filter(|decision| decision.until > now);
    let held = held.filter_map(|decision| Key::of(decision, 64).ok()).map(|key| key.value());
    held.filter(|value| value.starts_with("203") && value != REFUSED || value.starts_with("2001")).collect()
}

async fn history(caps: Caps, seed: u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = settings(folder.path());
    let target = target(caps, seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut decisions: BTreeMap<i64, Decision> = BTreeMap::new();
    let mut running = Running::start(&target, &settings);
    let all = |decisions: &BTreeMap<i64, Decision>, now: Timestamp| {
        Update::Snapshot(decisions.values().filter(|decision| decision.until > now).cloned().collect())
    };
    running.tell(all(&decisions, target.time.now())).await;
    for step in 0..60 {
        let now = target.time.now();
        match rng.random_range(0..100) {
            0..45 => {
                let value = POOL.choose(&mut rng).expect("it is not empty");
                let decision = ban(step + 1, value, now.as_second() + rng.random_range(5..400));
                decisions.insert(decision.id, decision.clone());
                running.tell(Update::Delta(Delta { add: vec![decision], remove: Vec::new() })).await;
            }
            45..65 => {
                let ids: Vec<i64> = decisions.keys().copied().collect();
                if let Some(lifted) = ids.choose(&mut rng).and_then(|id| decisions.remove(id)) {
                    running.tell(Update::Delta(Delta { add: Vec::new(), remove: vec![lifted] })).await;
                }
            }
            65..75 => target.with(|world| world.failing = 60),
            75..82 => target.with(|world| world.failing = 0),
            82..86 => target.with(|world| world.held.clear()),
            86..90 => {
                running.engine.abort();
                running = Running::start(&target, &settings);
                if rng.random_bool(0.7) {
                    running.tell(all(&decisions, target.time.now())).await;
                }
            }
            90..93 => target.time.jump(rng.random_range(-100..100)),
            93..96 => {
                let away = FeedError::Unreachable { url: "http://localhost".into(), reason: "refused".into() };
                running.feed.send(Err(away)).await.expect("the engine listens");
            }
            _ => running.tell(all(&decisions, target.time.now())).await,
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
    }
    target.with(|world| world.failing = 0);
    running.tell(all(&decisions, target.time.now())).await;
    // the longest pause after failures, and a look at everything
    tokio::time::sleep(Duration::from_mins(3)).await;
    let held: BTreeSet<String> = target.held().keys().map(Key::value).collect();
    assert_eq!(held, expected(&decisions, target.time.now()), "seed {seed}");
    let status = running.status.borrow().clone();
    assert_eq!(status.health(target.time.now()), Health::Green, "seed {seed}: {status:?}");
    assert_eq!(target.with(|world| std::mem::take(&mut world.violations)), [""; 0], "seed {seed}");
    // what is in force ends by itself, whoever ends it
    tokio::time::sleep(Duration::from_mins(15)).await;
    assert!(target.held().is_empty(), "seed {seed}: {:?}", target.held());
    running.engine.abort();
}

#[tokio::test(start_paused = true)]
async fn a_target_that_ends_entries_by_itself_holds_what_it_should() {
    for seed in 0..12 {
        history(Caps::LOCAL, seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_target_elsewhere_that_forgets_nothing_holds_what_it_should() {
    let caps = Caps { batch: 2, pause: Duration::from_millis(500), ..Caps::REMOTE };
    for seed in 0..12 {
        history(caps.clone(), seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn news_for_a_target_elsewhere_are_gathered_and_its_pause_is_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(Caps { pause: Duration::from_secs(10), ..Caps::REMOTE }, 1);
    let running = Running::start(&target, &settings(folder.path()));
    running.tell(Update::Snapshot(Vec::new())).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    target.with(|world| world.calls = 0);
    let until = target.time.now().as_second() + 3600;
    for octet in 1..=30 {
        let decision = ban(octet, &format!("203.0.113.{octet}"), until);
        running.tell(Update::Delta(Delta { add: vec![decision], remove: Vec::new() })).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(target.held().len(), 30);
    assert_eq!(target.with(|world| world.calls), 3, "at once, ten seconds later, ten seconds later");
}

#[tokio::test(start_paused = true)]
async fn a_failing_target_is_left_alone_longer_and_longer_and_recovery_costs_one_call() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(Caps::REMOTE, 3);
    let mut running = Running::start(&target, &settings(folder.path()));
    running.tell(Update::Snapshot(Vec::new())).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    target.with(|world| (world.failing, world.calls) = (100, 0));
    let until = target.time.now().as_second() + 36_000;
    for octet in 1..=60 {
        let decision = ban(octet, &format!("203.0.113.{octet}"), until);
        running.tell(Update::Delta(Delta { add: vec![decision], remove: Vec::new() })).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let calls = target.with(|world| world.calls);
    assert!((5..60).contains(&calls), "{calls} calls in ten minutes");
    let status = running.status.borrow_and_update().clone();
    assert!(status.circuit_open && status.desired == 60, "what is decided is still known: {status:?}");
    assert!(matches!(status.health(target.time.now()), Health::Red(_)));
    target.with(|world| (world.failing, world.calls) = (0, 0));
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!((target.held().len(), target.with(|world| world.calls)), (60, 1));
}

#[tokio::test(start_paused = true)]
async fn too_much_at_once_waits_for_a_person_also_over_a_rebuild() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(Caps::LOCAL, 4);
    let settings = Settings { max_new_per_minute: 3, ..settings(folder.path()) };
    let mut running = Running::start(&target, &settings);
    let until = target.time.now().as_second() + 3600;
    let bans = |octets: std::ops::Range<i64>| -> Vec<Decision> {
        octets.map(|octet| ban(octet, &format!("203.0.113.{octet}"), until)).collect()
    };
    running.tell(Update::Snapshot(bans(1..11))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(target.held().len(), 10, "what holds at the start is no flood");
    running.tell(Update::Delta(Delta { add: bans(11..31), remove: Vec::new() })).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(target.held().len(), 13);
    target.with(|world| world.held.clear());
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(target.held().len(), 13, "a rebuild lets nothing slip through");
    let status = running.status.borrow_and_update().clone();
    assert!(status.waiting == 17 && matches!(status.health(target.time.now()), Health::Red(_)), "{status:?}");
    running.tell(Update::Delta(Delta { add: Vec::new(), remove: bans(30..31) })).await;
    std::fs::write(settings.beside("acknowledged").expect("there is a folder"), "").expect("a temporary folder");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((target.held().len(), running.status.borrow().waiting), (29, 0));
    assert!(!settings.beside("acknowledged").expect("there is a folder").exists(), "it counts once");
}

#[tokio::test(start_paused = true)]
async fn without_news_for_too_long_everything_is_let_go_if_that_is_wanted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (on_loss, left) in [(crate::config::OnLoss::Keep, 1), (crate::config::OnLoss::Open, 0)] {
        let target = target(Caps::REMOTE, 5);
        let settings = Settings { on_loss, grace: Duration::from_mins(2), snapshot: None, ..settings(folder.path()) };
        let running = Running::start(&target, &settings);
        let decision = ban(1, "203.0.113.1", target.time.now().as_second() + 3600);
        running.tell(Update::Snapshot(vec![decision.clone()])).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let away = FeedError::Unreachable { url: "http://localhost".into(), reason: "refused".into() };
        running.feed.send(Err(away)).await.expect("the engine listens");
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(target.held().len(), 1, "{on_loss:?}: not yet");
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(target.held().len(), left, "{on_loss:?}");
        running.tell(Update::Snapshot(vec![decision])).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(target.held().len(), 1, "{on_loss:?}: news again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_of_somebody_elses_is_not_written_until_it_is_ours() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(Caps::REMOTE, 6);
    let running = Running::start(&target, &settings(folder.path()));
    running.right.send_replace(Right::Others("fw2".into()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    target.with(|world| world.calls = 0);
    running.tell(Update::Snapshot(vec![ban(1, "203.0.113.1", target.time.now().as_second() + 3600)])).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!((target.held().len(), target.with(|world| world.calls)), (0, 0));
    assert_eq!(running.status.borrow().health(target.time.now()), Health::Idle("`fw2` writes to this target".into()));
    running.right.send_replace(Right::Ours);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(target.held().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_nobody_was_there_is_removed_before_the_api_answers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(Caps::REMOTE, 7);
    let settings = settings(folder.path());
    let running = Running::start(&target, &settings);
    let now = target.time.now().as_second();
    running.tell(Update::Snapshot(vec![ban(1, "203.0.113.1", now + 60), ban(2, "203.0.113.2", now + 3600)])).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(target.held().len(), 2);
    running.engine.abort();
    target.time.jump(600);
    let by_hand = Key::of(&ban(3, "203.0.113.3", now), 64).expect("a valid test address");
    target.with(|world| world.held.insert(by_hand, Placed { until: Timestamp::MAX, pieces: None }));
    let _running = Running::start(&target, &settings);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let held: Vec<String> = target.held().keys().map(Key::value).collect();
    assert_eq!(held, ["203.0.113.2", "203.0.113.3"], "what is not known to be ours is left to the API");
}

#[tokio::test(start_paused = true)]
async fn a_small_target_holds_the_most_important_entries() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = target(Caps { max_entries: 2, ..Caps::REMOTE }, 8);
    let running = Running::start(&target, &settings(folder.path()));
    let now = target.time.now().as_second();
    let list = |id, value| Decision { origin: "lists".into(), ..ban(id, value, now + 9000) };
    running.tell(Update::Snapshot(vec![list(1, "203.0.113.1"), list(2, "203.0.113.2"), list(3, "203.0.113.3")])).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(target.held().len(), 2);
    running.tell(Update::Delta(Delta { add: vec![ban(4, "203.0.113.4", now + 60)], remove: Vec::new() })).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let held = |target: &Target| -> BTreeSet<String> { target.held().keys().map(Key::value).collect() };
    assert!(held(&target).contains("203.0.113.4") && held(&target).len() == 2, "{:?}", held(&target));
    tokio::time::sleep(Duration::from_mins(2)).await;
    let after = held(&target);
    assert!(!after.contains("203.0.113.4") && after.len() == 2, "its place goes back: {after:?}");
    let placement: Placement = target.held().into_iter().collect();
    assert_eq!(placement.len(), 2);
}
