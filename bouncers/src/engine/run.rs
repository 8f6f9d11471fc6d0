//! The loop: take what the feed says, change the target, look whether it is true.
//!
//! One transaction is in flight at a time. What arrives meanwhile goes into the next one, so there is no queue to
//! grow: desired state is a map. A target on this host is written at once; one elsewhere is given a moment to
//! gather news, and is left alone for longer and longer while it fails.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::{Feed, FeedError, Update};
use jiff::Timestamp;
use model::{AllowEntry, AllowSet, Delta};
use rand::Rng;
use rand::seq::IteratorRandom;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, error, info, warn};

use crate::config::{Mode, OnLoss, OnStop, Settings};
use crate::engine::desired::{Changed, Desired, Entry, Key};
use crate::engine::ledger::Ledger;
use crate::engine::pace::{Pace, addresses};
use crate::engine::patience::Patience;
use crate::engine::plan::{Change, Gate, Placed, Placement, Plan, Refusals, diff, place_all};
use crate::engine::rails::Rails;
use crate::engine::snapshot::{self, SnapshotError};
use crate::engine::span::Family;
use crate::engine::status::{Heal, Health, LISTED, Refused, RegionBan, Status, Verified};
use crate::engine::{
    Bouncer, Caps, Check, Difference, Disturbance, Extent, Never, News, Outcome, Right, Traffic, Wanted,
};
use crate::error::{BouncerError, Class};
use crate::metrics::{Metrics, TargetMetrics};

/// How often the engine looks after itself: clocks, ends, allow sets.
const TICK: Duration = Duration::from_secs(10);
/// Entries in a sample.
const SAMPLE: usize = 256;
/// How often the state is saved at the most.
const SAVE: Duration = Duration::from_secs(5);
/// The clocks of two hosts, or of one before and after a jump, may differ by this.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// Losing fewer entries than this at once is never suspicious.
const SMALL_LOSS: usize = 1000;
/// Refusals that are logged one by one in one transaction.
const LOGGED: usize = 20;
/// How long the name of who did it is waited for when a plan has failed.
const LAST_WORD: Duration = Duration::from_millis(100);
/// An entry this close to its end may be gone when it is looked up.
const NEAR_END: Duration = Duration::from_secs(3);
/// What is not done yet is tried again after this at the earliest.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the time; another one in tests.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Asks for the addresses that must never be blocked beside the allow set: this host's own, those of the API, ...
pub type OwnAddresses = Arc<dyn Fn() -> io::Result<Vec<AllowEntry>> + Send + Sync>;

/// What connects the engine to the rest of the process.
pub struct Wiring {
    /// Who is never blocked, replaced whole when it changes.
    pub allow: watch::Receiver<Arc<AllowSet>>,
    /// Where the engine says how it is.
    pub status: watch::Sender<Status>,
    /// What it counts.
    pub metrics: Metrics,
    /// Asks for the addresses that must never be blocked beside those.
    pub own: OwnAddresses,
    /// Whether we may write, where several agents know the same target.
    pub right: watch::Receiver<Right>,
    /// What time it is.
    pub clock: Clock,
}

impl Wiring {
    /// The wiring of a target that is ours alone. `own` asks this host for its own addresses:
    /// [`crate::engine::host::own_addresses`].
    pub fn new(
        allow: watch::Receiver<Arc<AllowSet>>,
        status: watch::Sender<Status>,
        metrics: Metrics,
        own: impl Fn() -> io::Result<Vec<AllowEntry>> + Send + Sync + 'static,
    ) -> Self {
        let (_, right) = watch::channel(Right::Ours);
        Self { allow, status, metrics, own: Arc::new(own), right, clock: Clock::default() }
    }
}

/// Enforces what `feed` says at `bouncer` until `shutdown` is done. Errors of the target are retried and shown
/// in the status; only the last act, removing what is ours where that is wanted, can fail.
pub async fn run(
    mut feed: impl Feed,
    bouncer: impl Bouncer,
    settings: impl Into<Settings>,
    wiring: Wiring,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), BouncerError> {
    let settings = settings.into();
    let mut shutdown = pin!(shutdown);
    let Wiring { mut allow, mut right, .. } = wiring;
    let mut status = Status::new(settings.mode);
    status.target.clone_from(&settings.name);
    status.kind = bouncer.name();
    if settings.mode == Mode::Off {
        wiring.status.send_replace(status);
        shutdown.await;
        return Ok(());
    }
    if settings.mode == Mode::Observe && !bouncer.caps().observes {
        let reason = "it cannot count what it would block\nhint: set its mode to `dry-run` or `enforce`";
        return Err(BouncerError::unusable(&settings.name, reason));
    }
    let first = allow.borrow_and_update().clone();
    status.right = right.borrow_and_update().clone();
    wiring.status.send_replace(status.clone());
    let mut engine = Engine::new(bouncer, settings, status, wiring.status, &wiring.metrics, wiring.own, wiring.clock);
    engine.allow(&first);
    engine.rebuild = None;
    engine.restore().await;
    let mut tick = every(TICK.min(engine.caps.look));
    let mut save = every(SAVE);
    let (mut hears_allow, mut hears_right, mut hears_target) = (true, true, true);
    loop {
        engine.work(&mut feed).await;
        let due = engine.due();
        let end = engine.next_end();
        tokio::select! {
            () = &mut shutdown => break,
            update = feed.next(), if engine.feed_open => engine.take(update),
            disturbance = engine.bouncer.disturbance(), if hears_target && engine.may_write() => match disturbance {
                Ok(disturbance) => engine.look(disturbance.elements, Some(disturbance)).await,
                Err(error) => {
                    warn!(target = engine.settings.name, %error, "cannot hear what others change, looking every ten seconds");
                    hears_target = false;
                }
            },
            changed = allow.changed(), if hears_allow => {
                hears_allow = changed.is_ok();
                let now = allow.borrow_and_update().clone();
                engine.allow(&now);
            }
            changed = right.changed(), if hears_right => {
                hears_right = changed.is_ok();
                let now = right.borrow_and_update().clone();
                engine.may(now);
            }
            _ = tick.tick() => {
                let now = allow.borrow().clone();
                engine.tick(&now).await;
            }
            _ = save.tick() => engine.save().await,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => engine.end(),
        }
    }
    engine.stop().await
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// What should be, as the feed tells it.
struct Wishes {
    /// Shared with the task that saves it; a change while that runs copies it.
    desired: Arc<Desired>,
    /// Keys whose entry may differ from the target.
    dirty: HashSet<Key>,
    /// When the decisions among them were made.
    created: Vec<Timestamp>,
    /// Values that could not be taken, and why.
    malformed: BTreeMap<String, String>,
    /// Removals held back by the shrink guard.
    held: usize,
    /// Whether decisions about regions may have changed.
    regions: bool,
    /// Whether the feed has said what holds.
    known: bool,
    unsaved: bool,
    max_shrink: u8,
    /// When entries end, for targets that do not end them by themselves. There may be older ends of the same key.
    ends: Option<BinaryHeap<Reverse<(Timestamp, Key)>>>,
}

impl Wishes {
    fn take(&mut self, update: &Update, pace: &mut Pace, now: Timestamp) {
        match update {
            Update::Snapshot(decisions) => {
                let first = !std::mem::replace(&mut self.known, true);
                let lost = self.desired.lost_by(decisions, now);
                let share = self.desired.len() * usize::from(self.max_shrink) / 100;
                let whole = self.desired.is_empty();
                let mut changed = if lost > share.max(SMALL_LOSS) && self.held == 0 {
                    error!(lost, of = self.desired.len(), "a snapshot takes too much away, waiting for a second one");
                    self.held = lost;
                    let add = Delta { add: decisions.clone(), remove: Vec::new() };
                    Arc::make_mut(&mut self.desired).apply(&add, now)
                } else {
                    self.held = 0;
                    self.malformed.clear();
                    Arc::make_mut(&mut self.desired).replace(decisions, now)
                };
                let mut fresh = std::mem::take(&mut changed.fresh);
                if whole && pace.is_too_much(self.desired.space()) {
                    let wide = self.desired.iter().map(|(key, _)| key).filter(|key| addresses(key, 0) > 1);
                    fresh = wide.cloned().collect();
                }
                self.note(changed);
                self.pass(&fresh, pace, !first, now);
            }
            Update::Delta(delta) => {
                let made = delta.add.iter().map(|decision| decision.created_at);
                self.created.extend(made.take(LISTED.saturating_sub(self.created.len())));
                let mut changed = Arc::make_mut(&mut self.desired).apply(delta, now);
                let fresh = std::mem::take(&mut changed.fresh);
                self.note(changed);
                self.pass(&fresh, pace, true, now);
            }
        }
    }

    /// Lets new entries pass the limits of what may come at once.
    fn pass(&mut self, fresh: &[Key], pace: &mut Pace, counts: bool, now: Timestamp) {
        let before = pace.waiting();
        let space = self.desired.space();
        for key in fresh.iter().filter(|key| self.desired.entry(key).is_some()) {
            pace.admit(key, space, counts, now);
        }
        if pace.waiting() > before {
            error!(
                waiting = pace.waiting(),
                "too much is to be blocked at once: it waits until a person acknowledges it (`cordon bouncer acknowledge`)"
            );
        }
    }

    fn note(&mut self, changed: Changed) {
        self.unsaved |= !changed.keys.is_empty();
        if let Some(ends) = &mut self.ends {
            let held = changed.keys.iter().filter_map(|key| Some((self.desired.entry(key)?.until(), key.clone())));
            ends.extend(held.map(Reverse));
            if ends.len() > 2 * self.desired.len() + 1000 {
                *ends = self.desired.iter().map(|(key, entry)| Reverse((entry.until(), key.clone()))).collect();
            }
        }
        self.regions |= changed.keys.iter().any(|key| key.region().is_some());
        self.dirty.extend(changed.keys);
        for (value, reason) in changed.refused {
            if self.malformed.len() < LISTED && !self.malformed.contains_key(&value) {
                warn!(value, reason, "a decision is not enforced");
                self.malformed.insert(value, reason);
            }
        }
    }
}

/// What is, beside what should be.
struct Engine<B> {
    bouncer: B,
    caps: Caps,
    settings: Settings,
    status: Status,
    shown: watch::Sender<Status>,
    metrics: TargetMetrics,
    own_addresses: OwnAddresses,
    clock: Clock,
    wishes: Wishes,
    feed_open: bool,
    /// Since when there are no news.
    silent_since: Option<Instant>,
    news: News,
    gate: Gate,
    own: Vec<AllowEntry>,
    never: Never,
    applied: Placement,
    refused: Refusals,
    /// What earlier runs have left in the target, and nobody wants any more.
    left: Placement,
    ledger: Option<Ledger>,
    /// The target must be made anew, and how far.
    rebuild: Option<Extent>,
    /// Whether the target has been made to hold exactly what the feed says.
    reconciled: bool,
    patience: Patience,
    /// The target is left alone until then, because it failed.
    retry: Option<Instant>,
    /// The target is left alone until then, because it was written just now.
    rest: Option<Instant>,
    /// News are gathered until then.
    gather: Option<Instant>,
    looked: Instant,
    looked_at_all: Instant,
    success: Option<Instant>,
    clocks: (Timestamp, Instant),
    /// What was dropped before the counter last began anew, and what it said last.
    dropped: (Traffic, Traffic),
    saving: Option<JoinHandle<Result<(), SnapshotError>>>,
    /// Whether the refusals in the status are out of date.
    relist: bool,
}

impl<B: Bouncer> Engine<B> {
    fn new(
        bouncer: B,
        settings: Settings,
        mut status: Status,
        shown: watch::Sender<Status>,
        metrics: &Metrics,
        own_addresses: OwnAddresses,
        clock: Clock,
    ) -> Self {
        let gate = Gate::for_target(bouncer.caps(), &settings, Rails::default());
        let caps = gate.caps.clone();
        let wishes = Wishes {
            desired: Arc::new(settings.nothing_desired()),
            dirty: HashSet::new(),
            created: Vec::new(),
            malformed: BTreeMap::new(),
            held: 0,
            regions: false,
            known: false,
            unsaved: false,
            max_shrink: settings.max_shrink,
            ends: (!caps.expires).then(BinaryHeap::new),
        };
        status.may_take = 3 * (caps.window + caps.pause).as_secs_f64().ceil() as u64;
        status.look = caps.look.as_secs().max(1);
        let (now, start) = (clock.now(), Instant::now());
        Self {
            metrics: metrics.of(&settings.name),
            bouncer,
            caps,
            settings,
            status,
            shown,
            own_addresses,
            clock,
            wishes,
            feed_open: true,
            silent_since: None,
            news: News::Unknown,
            gate,
            own: Vec::new(),
            never: Never::default(),
            applied: Placement::new(),
            refused: Refusals::default(),
            left: Placement::new(),
            ledger: None,
            rebuild: None,
            reconciled: false,
            patience: Patience::default(),
            retry: None,
            rest: None,
            gather: None,
            looked: start,
            looked_at_all: start,
            success: None,
            clocks: (now, start),
            dropped: (Traffic::default(), Traffic::default()),
            saving: None,
            relist: false,
        }
    }

    /// Whether the target may be changed at all.
    fn touches_target(&self) -> bool {
        self.settings.mode != Mode::DryRun
    }

    /// Whether it is we who change it.
    fn may_write(&self) -> bool {
        self.touches_target() && self.status.right == Right::Ours
    }

    fn has_work(&self) -> bool {
        self.rebuild.is_some() || !self.wishes.dirty.is_empty()
    }

    /// When there is something to do that must wait for its time.
    fn due(&self) -> Option<Instant> {
        let works = self.has_work() && (self.may_write() || !self.touches_target());
        let gather = self.gather.filter(|_| self.rebuild.is_none());
        works.then(|| [self.retry, self.rest, gather].into_iter().flatten().max().unwrap_or_else(Instant::now))
    }

    /// Takes part in writing, or leaves it to others.
    fn may(&mut self, right: Right) {
        if self.status.right == right {
            return;
        }
        match &right {
            Right::Ours => info!(target = self.settings.name, "we write to this target now"),
            Right::Others(name) => {
                info!(target = self.settings.name, writer = name, "somebody else writes to this target");
            }
            Right::Unknown => warn!(target = self.settings.name, "nobody knows any more who writes to this target"),
        }
        self.status.right = right;
        // who knows what others have done
        self.reconciled = false;
        self.rebuild = Some(self.extent());
    }

    /// Enforces the last known good state, before anybody is asked for news.
    async fn restore(&mut self) {
        let path = self.settings.snapshot.clone().filter(|_| self.touches_target());
        let Some(path) = path else { return self.prepare().await };
        let now = self.clock.now();
        match snapshot::read(&path, &self.settings.name) {
            Ok(Some(snapshot)) => {
                for decisions in snapshot.chunks() {
                    let delta = Delta { add: decisions, remove: Vec::new() };
                    let changed = Arc::make_mut(&mut self.wishes.desired).apply(&delta, now);
                    self.wishes.note(changed);
                }
                self.wishes.unsaved = false;
                self.rebuild = Some(Extent::AtLeast);
                self.tell(News::Flowing);
                info!(
                    target = self.settings.name,
                    entries = self.wishes.desired.len(),
                    file = %path.display(),
                    "enforcing the last known good state"
                );
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "starting without the last known good state"),
        }
        if !self.caps.expires {
            self.open_ledger();
        }
        if self.rebuild.is_none() {
            self.prepare().await;
        }
    }

    fn open_ledger(&mut self) {
        let Some(path) = self.settings.beside("journal") else { return };
        match Ledger::open(&path) {
            Ok((ledger, held)) => {
                self.ledger = Some(ledger);
                // what has not ended may be wanted by decisions that were not saved in time: the API will say
                let now = self.clock.now();
                let over =
                    |(key, placed): &(Key, Placed)| placed.until <= now && self.wishes.desired.entry(key).is_none();
                self.left = held.into_iter().filter(over).collect();
            }
            Err(error) => warn!(file = %path.display(), %error, "cannot use the journal, working without it"),
        }
    }

    async fn prepare(&mut self) {
        if !self.may_write() {
            return;
        }
        match self.bouncer.prepare().await {
            Ok(()) => self.succeed(),
            Err(error) => {
                self.fail(&error);
                self.rebuild = Some(Extent::AtLeast);
            }
        }
    }

    fn tell(&mut self, news: News) {
        if self.news != news {
            self.news = news;
            self.bouncer.hear(news);
        }
    }

    fn take(&mut self, update: Result<Update, FeedError>) {
        match update {
            Ok(update) => {
                self.status.feed_error = None;
                self.silent_since = None;
                let now = self.clock.now();
                self.wishes.take(&update, &mut self.gate.pace, now);
                self.tell(News::Flowing);
                if std::mem::take(&mut self.gate.open) {
                    info!(target = self.settings.name, "there are news again, enforcing them");
                    self.rebuild = Some(Extent::Exactly);
                }
            }
            Err(error) => {
                if self.status.feed_error.is_none() {
                    warn!(target = self.settings.name, %error, "no news from the feed, what is in force stays");
                }
                self.silent_since.get_or_insert_with(Instant::now);
                self.feed_open = error != FeedError::Closed;
                self.status.feed_error = Some(error.to_string());
            }
        }
    }

    /// Does what there is to do, unless the target needs a rest.
    async fn work(&mut self, feed: &mut impl Feed) {
        loop {
            if self.wishes.known && !self.reconciled {
                self.rebuild = Some(Extent::Exactly);
            }
            if self.wishes.dirty.is_empty() {
                self.gather = None;
            } else if self.gather.is_none() {
                self.gather = Some(Instant::now() + self.caps.window);
            }
            if self.due().is_none_or(|due| due > Instant::now()) {
                break;
            }
            let applying = self.rebuild.is_none();
            let outcome = match self.rebuild {
                Some(extent) => self.rebuild_target(extent).await,
                None => self.apply(feed).await,
            };
            if !self.caps.pause.is_zero() {
                self.rest = Some(Instant::now() + self.caps.pause).max(self.rest);
            }
            match outcome {
                Ok(()) => self.succeed(),
                Err(error) => {
                    self.fail(&error);
                    self.rebuild = Some(self.extent());
                    if applying && !self.caps.remote {
                        self.suspect().await;
                    }
                }
            }
        }
        self.publish();
    }

    /// A plan may have failed because somebody has taken away what it builds on: that is damage, which is healed and
    /// counted, and not only a failure.
    async fn suspect(&mut self) {
        if !self.examine(false).await.is_ok_and(|(check, _)| !check.is_good()) {
            return;
        }
        let cause = tokio::time::timeout(LAST_WORD, self.bouncer.disturbance()).await;
        self.look(false, cause.ok().and_then(Result::ok)).await;
    }

    fn extent(&self) -> Extent {
        if self.wishes.known { Extent::Exactly } else { Extent::AtLeast }
    }

    async fn rebuild_target(&mut self, extent: Extent) -> Result<(), BouncerError> {
        let now = self.clock.now();
        let refused_before = self.refused.held.len();
        let mut wanted = place_all(&self.wishes.desired, &mut self.gate, &mut self.refused, now);
        if self.refused.held.len() > refused_before {
            warn!(
                target = self.settings.name,
                entries = self.refused.held.len(),
                "entries are not enforced, the status says why"
            );
        }
        let mut outcome = Outcome::default();
        if self.touches_target() {
            self.note_begin(&wanted).await;
            let started = Instant::now();
            let everything =
                Wanted { placed: &wanted, never: &self.never, desired: Some(self.wishes.desired.as_ref()) };
            outcome = self.bouncer.rebuild(everything, extent, now).await?;
            self.metrics.took(started.elapsed().as_secs_f64());
            info!(
                target = self.settings.name,
                entries = wanted.len(),
                took = ?started.elapsed(),
                more = outcome.more,
                "the target was made anew"
            );
        } else {
            let keys: HashSet<Key> = self.applied.keys().chain(wanted.keys()).cloned().collect();
            let plan = diff(&keys, &self.wishes.desired, &self.applied, &mut self.gate, &mut self.refused, now);
            say(&self.settings.name, &plan);
        }
        // after a large list that is much memory
        self.wishes.dirty = HashSet::new();
        self.relist = true;
        if extent == Extent::AtLeast {
            for (key, placed) in self.left.drain() {
                self.wishes.dirty.insert(key.clone());
                wanted.entry(key).or_insert(placed);
            }
        }
        self.applied = wanted;
        self.set_aside(outcome.refused, outcome.pending);
        if outcome.more {
            // what is there now is known to the target alone
            self.rebuild = Some(extent);
            self.applied.clear();
            return Ok(());
        }
        self.rebuild = None;
        self.reconciled = extent == Extent::Exactly;
        if self.touches_target() {
            if self.reconciled {
                self.left.clear();
                self.note_settled().await;
            }
            let check = self.bouncer.check(self.sample(SAMPLE)).await?;
            self.looked = Instant::now();
            self.note_check(check);
        }
        Ok(())
    }

    /// Remembers what the target has refused, and what it could not do yet.
    fn set_aside(&mut self, refused: Vec<(Key, String)>, pending: Vec<(Key, String)>) {
        for (key, reason) in refused {
            warn!(target = self.settings.name, entry = %key, reason, "the target refuses an entry");
            self.applied.remove(&key);
            self.gate.quarantine.insert(key.clone(), reason);
            self.wishes.dirty.insert(key);
        }
        if !pending.is_empty() {
            self.rest = Some(Instant::now() + AGAIN.max(self.caps.pause));
        }
        for (key, reason) in pending {
            debug!(target = self.settings.name, entry = %key, reason, "not done yet");
            self.applied.remove(&key);
            self.wishes.dirty.insert(key);
        }
    }

    /// Carries out what has changed, and takes news while that is under way.
    async fn apply(&mut self, feed: &mut impl Feed) -> Result<(), BouncerError> {
        let now = self.clock.now();
        self.gather = None;
        let keys = std::mem::take(&mut self.wishes.dirty);
        let created = std::mem::take(&mut self.wishes.created);
        let known: HashSet<&Key> = keys.iter().filter(|key| self.refused.held.contains_key(key)).collect();
        let mut plan = diff(&keys, &self.wishes.desired, &self.applied, &mut self.gate, &mut self.refused, now);
        let held = keys.iter().filter_map(|key| self.refused.held.get_key_value(key));
        let fresh: Vec<_> = held.filter(|(key, _)| !known.contains(key)).collect();
        for (key, reason) in fresh.iter().take(LOGGED) {
            warn!(target = self.settings.name, entry = %key, %reason, "an entry is not enforced");
        }
        self.relist |= !fresh.is_empty() || !known.is_empty();
        if plan.is_empty() {
            return Ok(());
        }
        if self.settings.mode == Mode::DryRun {
            say(&self.settings.name, &plan);
            plan.commit(&mut self.applied);
            return Ok(());
        }
        let later = plan.cut(self.caps.batch);
        self.wishes.dirty.extend(later);
        self.note_steps(&plan).await;
        let started = Instant::now();
        let mut trouble = None;
        let outcome = {
            let mut applying = pin!(self.bouncer.apply(&plan, now));
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut applying => break outcome,
                    update = feed.next(), if self.feed_open && trouble.is_none() => match update {
                        Ok(update) => {
                            self.status.feed_error = None;
                            self.silent_since = None;
                            self.wishes.take(&update, &mut self.gate.pace, self.clock.now());
                        }
                        Err(error) => trouble = Some(error),
                    },
                }
            }
        };
        if let Some(error) = trouble {
            self.take(Err(error));
        }
        let Outcome { refused, pending, .. } = outcome?;
        let took = started.elapsed();
        self.metrics.took(took.as_secs_f64());
        let done = self.clock.now();
        for made in created {
            self.metrics.lagged(done.duration_since(made).as_secs_f64());
        }
        for change in &plan.changes {
            debug!(target = self.settings.name, %change, "applied");
        }
        info!(target = self.settings.name, changes = plan.changes.len(), ?took, "applied");
        plan.commit(&mut self.applied);
        self.set_aside(refused, pending);
        self.note_done().await;
        Ok(())
    }

    /// Runs `work` on the ledger, away from the asynchronous threads. Protection goes on without it.
    async fn with_ledger(&mut self, work: impl FnOnce(&mut Ledger) -> io::Result<()> + Send + 'static) {
        let Some(mut ledger) = self.ledger.take() else { return };
        let done = tokio::task::spawn_blocking(move || (work(&mut ledger), ledger)).await;
        let Ok((outcome, ledger)) = done else { return };
        self.ledger = Some(ledger);
        if let Err(error) = outcome {
            warn!(target = self.settings.name, %error, "cannot write the journal");
            self.status.snapshot_error = Some(error.to_string());
        }
    }

    async fn note_steps(&mut self, plan: &Plan) {
        if self.ledger.is_some() {
            let plan = plan.clone();
            self.with_ledger(move |ledger| ledger.begin(&plan)).await;
        }
    }

    async fn note_begin(&mut self, wanted: &Placement) {
        if self.ledger.is_none() {
            return;
        }
        let new = wanted.iter().filter(|(key, _)| !self.applied.contains_key(key));
        let changes =
            new.map(|(key, placed)| Change { key: key.clone(), before: None, after: Some(placed.clone()), why: None });
        let plan = Plan { changes: changes.collect() };
        if !plan.is_empty() {
            self.with_ledger(move |ledger| ledger.begin(&plan)).await;
        }
    }

    async fn note_done(&mut self) {
        if self.ledger.is_some() {
            let applied = self.applied.clone();
            self.with_ledger(move |ledger| ledger.done(&applied)).await;
        }
    }

    async fn note_settled(&mut self) {
        if self.ledger.is_some() {
            let applied = self.applied.clone();
            self.with_ledger(move |ledger| ledger.settle(&applied)).await;
        }
    }

    fn succeed(&mut self) {
        self.patience.succeed();
        self.retry = None;
        self.status.error = None;
        self.status.circuit_open = false;
        self.success = Some(Instant::now());
    }

    fn fail(&mut self, error: &BouncerError) {
        self.metrics.failed(error.label());
        // A transaction that failed here is answered by a rebuild at once; a rebuild that failed is not.
        let pause = self.patience.fail(error, self.caps.remote, rand::rng().random());
        error!(target = self.settings.name, %error, retry_in = ?pause, "enforcement failed");
        self.retry = Some(Instant::now() + pause);
        self.status.error = Some(error.to_string());
        self.status.circuit_open = self.patience.is_open() || error.class() == Class::Unauthorised;
    }

    /// Takes another allow set, or another look at this host's addresses, and makes the target follow.
    fn allow(&mut self, allow: &AllowSet) {
        match (self.own_addresses)() {
            Ok(own) => self.own = own,
            Err(error) => warn!(%error, "cannot list this host's own addresses, keeping the last list"),
        }
        let now = self.clock.now();
        let own: Vec<AllowEntry> = self.own.iter().chain(&self.settings.never).cloned().collect();
        self.gate.rails = Rails::new(self.settings.limits, allow, &own, now);
        let rails = &self.gate.rails;
        let never = Never { v4: rails.never(Family::V4, now), v6: rails.never(Family::V6, now) };
        if never != self.never {
            self.never = never;
            self.wishes.unsaved = true;
            self.rebuild = Some(self.extent());
        }
    }

    async fn tick(&mut self, allow: &AllowSet) {
        let now = self.clock.now();
        self.expire(now);
        let (wall, steady) = self.clocks;
        let jump = now.duration_since(wall).as_millis() - steady.elapsed().as_millis() as i128;
        if jump.unsigned_abs() > CLOCK_TOLERANCE.as_millis() {
            warn!(milliseconds = %jump, "the clock jumped, recomputing when entries end");
            self.rebuild = Some(self.extent());
        }
        self.clocks = (now, Instant::now());
        self.allow(allow);
        self.acknowledge();
        self.mourn();
        let quiet =
            self.has_work() || self.patience.is_open() || self.retry.is_some_and(|retry| retry > Instant::now());
        if !self.may_write() || quiet || self.looked.elapsed() < self.caps.look {
            return;
        }
        let all = self.looked_at_all.elapsed() >= self.settings.full_sync;
        if all {
            self.looked_at_all = Instant::now();
            // what was refused once may be taken now
            let again = std::mem::take(&mut self.gate.quarantine);
            self.wishes.dirty.extend(again.into_keys());
        }
        self.look(all, None).await;
        match self.bouncer.dropped().await {
            Ok(counted) => self.count(counted),
            Err(error) => debug!(%error, "cannot read the counters"),
        }
    }

    /// Lets what waits go on, if a person has said so.
    fn acknowledge(&mut self) {
        if self.gate.pace.waiting() == 0 {
            return;
        }
        let Some(path) = self.settings.beside("acknowledged").filter(|path| path.exists()) else { return };
        if let Err(error) = std::fs::remove_file(&path) {
            warn!(file = %path.display(), %error, "cannot take the acknowledgement");
            return;
        }
        let going_on = self.gate.pace.acknowledge(self.wishes.desired.space());
        info!(target = self.settings.name, entries = going_on.len(), "a person has acknowledged what waited");
        self.wishes.dirty.extend(going_on);
    }

    /// Does what is to be done when there have been no news for too long.
    fn mourn(&mut self) {
        let silent = self.silent_since.is_some_and(|since| since.elapsed() >= self.settings.grace);
        if !silent || self.news == News::Lost {
            return;
        }
        self.tell(News::Lost);
        if self.settings.on_loss == OnLoss::Open {
            warn!(target = self.settings.name, "no news for too long: letting everything go until there are");
            self.gate.open = true;
            self.rebuild = Some(Extent::Exactly);
        }
    }

    fn expire(&mut self, now: Timestamp) {
        let before = self.wishes.desired.len();
        if self.wishes.desired.iter().any(|(_, entry)| entry.claims().iter().any(|claim| claim.until <= now)) {
            Arc::make_mut(&mut self.wishes.desired).expire(now);
        }
        self.wishes.unsaved |= self.wishes.desired.len() != before;
        self.wishes.regions |= self.status.regions.iter().any(|ban| ban.until <= now);
        if self.caps.expires {
            self.applied.retain(|_, placed| placed.until > now);
        }
        let desired = &self.wishes.desired;
        self.refused.expire(desired);
        self.gate.pace.retain(|key| desired.entry(key).is_some());
        self.gate.quarantine.retain(|key, _| desired.entry(key).is_some());
        self.relist = true;
    }

    /// When the next entry ends that the target does not end by itself.
    fn next_end(&self) -> Option<Instant> {
        let Reverse((until, _)) = self.wishes.ends.as_ref()?.peek()?;
        let left = until.duration_since(self.clock.now());
        Some(Instant::now() + Duration::try_from(left).unwrap_or_default())
    }

    /// Removes what has ended from a target that does not do that by itself.
    fn end(&mut self) {
        let now = self.clock.now();
        let Some(ends) = &mut self.wishes.ends else { return };
        while let Some(Reverse((_, key))) =
            ends.peek_mut().filter(|next| next.0.0 <= now).map(std::collections::binary_heap::PeekMut::pop)
        {
            self.wishes.dirty.insert(key);
        }
    }

    fn count(&mut self, counted: Traffic) {
        let (before, last) = &mut self.dropped;
        if counted.packets < last.packets {
            before.packets += last.packets;
            before.bytes += last.bytes;
        }
        *last = counted;
        self.status.dropped = Traffic { packets: before.packets + last.packets, bytes: before.bytes + last.bytes };
    }

    /// Looks whether the target is as it should be, and makes it so. `cause` is what somebody else did.
    async fn look(&mut self, all: bool, cause: Option<Disturbance>) {
        let started = Instant::now();
        self.looked = started;
        let (check, difference) = match self.examine(all).await {
            Ok(found) => found,
            Err(error) => {
                self.fail(&error);
                self.rebuild = Some(self.extent());
                return;
            }
        };
        self.note_check(check);
        if check.is_good() && difference.is_empty() {
            self.succeed();
            return;
        }
        if let Err(error) = self.rebuild_target(self.extent()).await {
            self.fail(&error);
            self.rebuild = Some(self.extent());
            return;
        }
        self.succeed();
        self.status.heals += 1;
        let (process, pid) = cause.map(|cause| (cause.process, cause.pid)).unwrap_or_default();
        self.metrics.repaired(if process.is_empty() { "unknown" } else { &process });
        warn!(
            target = self.settings.name,
            process,
            pid,
            rules_intact = check.intact,
            missing = check.missing.max(difference.missing.len()),
            surplus = difference.surplus.len(),
            asked = check.asked,
            took = ?started.elapsed(),
            "somebody else changed the target, it is healed"
        );
        self.status.last_heal = Some(Heal { at: self.clock.now(), process, pid });
    }

    /// A look at a sample, or at everything.
    async fn examine(&mut self, all: bool) -> Result<(Check, Difference), BouncerError> {
        // A sample finds great damage at once; only what it misses is worth a look at everything.
        let check = self.bouncer.check(self.sample(SAMPLE)).await?;
        if !all || !check.is_good() {
            return Ok((check, Difference::default()));
        }
        if !self.caps.remote {
            let check =
                if self.applied.len() > SAMPLE { self.bouncer.check(self.sample(usize::MAX)).await? } else { check };
            return Ok((check, Difference::default()));
        }
        let everything =
            Wanted { placed: &self.applied, never: &self.never, desired: Some(self.wishes.desired.as_ref()) };
        Ok((check, self.bouncer.compare(everything, self.clock.now()).await?))
    }

    fn sample(&self, entries: usize) -> Vec<(Key, Placed)> {
        let soon = self.clock.now() + NEAR_END;
        let steady = self.applied.iter().filter(|(_, placed)| !self.caps.expires || placed.until > soon);
        let chosen =
            if entries == usize::MAX { steady.collect() } else { steady.choose_multiple(&mut rand::rng(), entries) };
        chosen.into_iter().map(|(key, placed)| (key.clone(), placed.clone())).collect()
    }

    fn note_check(&mut self, check: Check) {
        if self.status.armed != check.armed {
            warn!(target = self.settings.name, armed = check.armed, "the panic switch was used");
        }
        self.status.armed = check.armed;
        let missing = if check.intact { check.missing } else { check.asked.max(1) };
        self.status.verified = Some(Verified { at: self.clock.now(), asked: check.asked, missing });
    }

    fn publish(&mut self) {
        let (held, malformed) = (&self.refused.held, &self.wishes.malformed);
        let status = &mut self.status;
        status.desired = self.wishes.desired.len();
        status.applied = self.applied.len();
        status.elsewhere = self.refused.elsewhere.len();
        status.wanted = status.desired.saturating_sub(status.elsewhere + held.len());
        status.held_removals = self.wishes.held;
        status.waiting = self.gate.pace.waiting();
        status.let_go = self.gate.open;
        let behind = self.rebuild.is_some() || !self.wishes.dirty.is_empty() || status.applied != status.wanted;
        status.behind_since = match status.behind_since {
            Some(since) if behind => Some(since),
            None if behind => Some(self.clock.now()),
            _ => None,
        };
        let refused = held.len() + malformed.len();
        if self.relist || status.refused_total != refused {
            self.relist = false;
            status.refused_total = refused;
            let held = held.iter().map(|(key, reason)| Refused { value: key.to_string(), reason: reason.to_string() });
            let malformed =
                malformed.iter().map(|(value, reason)| Refused { value: value.clone(), reason: reason.clone() });
            status.refused = malformed.chain(held).take(LISTED).collect();
        }
        if std::mem::take(&mut self.wishes.regions) {
            let ban = |(key, entry): (&Key, &Entry)| Some(RegionBan { region: key.region()?, until: entry.until() });
            status.regions = self.wishes.desired.iter().filter_map(ban).collect();
            status.regions.sort_unstable_by_key(|ban| ban.region);
        }
        let healthy = matches!(status.health(self.clock.now()), Health::Green);
        let age = self.success.map(|success| success.elapsed().as_secs());
        self.metrics.observe(status, age, healthy);
        self.shown.send_if_modified(|shown| {
            let differs = shown != status;
            if differs {
                shown.clone_from(status);
            }
            differs
        });
    }

    /// Saves the state if it has changed and the last saving is done.
    async fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        self.finish_saving().await;
        let wanted = self.wishes.unsaved && self.touches_target();
        let Some(path) = self.settings.snapshot.clone().filter(|_| wanted) else { return };
        self.wishes.unsaved = false;
        let (desired, name) = (Arc::clone(&self.wishes.desired), self.settings.name.clone());
        let never = self.never.clone();
        let save = move || snapshot::write(&path, &snapshot::encode(&name, &desired, &never));
        self.saving = Some(tokio::task::spawn_blocking(save));
    }

    async fn finish_saving(&mut self) {
        let Some(saving) = self.saving.take() else { return };
        let outcome = match saving.await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &outcome {
            warn!(error, "cannot save the last known good state");
            self.wishes.unsaved = true;
        }
        self.status.snapshot_error = outcome.err();
    }

    async fn stop(mut self) -> Result<(), BouncerError> {
        self.finish_saving().await;
        self.save().await;
        self.finish_saving().await;
        self.publish();
        if self.settings.on_stop == OnStop::Remove && self.may_write() {
            self.bouncer.teardown().await?;
            if let Some(mut ledger) = self.ledger.take() {
                // a teardown that is done leaves nothing to remember
                let _ = ledger.settle(&Placement::new());
            }
        }
        Ok(())
    }
}

/// Says what would be done.
fn say(target: &str, plan: &Plan) {
    for change in &plan.changes {
        info!(target, %change, "would be applied");
    }
}

/// A target that is not there: for dry runs, in which nobody is asked anything.
#[derive(Debug)]
pub struct Nowhere {
    caps: Caps,
}

impl Nowhere {
    /// What stands in for a target that can do `caps`.
    pub fn new(caps: Caps) -> Self {
        Self { caps }
    }
}

impl Default for Nowhere {
    fn default() -> Self {
        Self::new(Caps::LOCAL)
    }
}

impl Bouncer for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }

    fn caps(&self) -> Caps {
        self.caps.clone()
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        Ok(())
    }

    async fn rebuild(&mut self, _: Wanted<'_>, _: Extent, _: Timestamp) -> Result<Outcome, BouncerError> {
        Ok(Outcome::default())
    }

    async fn apply(&mut self, _: &Plan, _: Timestamp) -> Result<Outcome, BouncerError> {
        Ok(Outcome::default())
    }

    async fn check(&mut self, _: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        Ok(Check { intact: true, armed: false, asked: 0, missing: 0 })
    }

    async fn compare(&mut self, _: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        Ok(Difference::default())
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        Ok(())
    }
}
