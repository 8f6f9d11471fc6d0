//! The loop: take what the feed says, change the target, look whether it is true.
//!
//! One transaction is in flight at a time. What arrives meanwhile goes into the next one, so there is no window
//! to wait for and no queue to grow: desired state is a map.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::{Feed, FeedError, Update};
use jiff::Timestamp;
use model::{AllowEntry, AllowSet, Delta};
use rand::seq::IteratorRandom;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, error, info, warn};

use crate::config::{Config, Mode, OnStop};
use crate::engine::desired::{Changed, Desired, Key};
use crate::engine::plan::{Placed, Placement, Plan, Refusals, diff, place_all};
use crate::engine::rails::Rails;
use crate::engine::snapshot::{self, SnapshotError};
use crate::engine::span::Family;
use crate::engine::status::{Heal, LISTED, Refused, Status, Verified};
use crate::engine::{Bouncer, Check, Disturbance, Extent, Never, Traffic};
use crate::error::BouncerError;
use crate::metrics::Metrics;

/// How often the target is looked at when nothing happens.
const LOOK: Duration = Duration::from_secs(10);
/// Looks at a sample between two looks at everything.
const FULL_LOOK: u32 = 90;
/// Entries in a sample.
const SAMPLE: usize = 256;
/// How often the state is saved at the most.
const SAVE: Duration = Duration::from_secs(5);
/// The clocks of two hosts, or of one before and after a jump, may differ by this.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Losing fewer entries than this at once is never suspicious.
const SMALL_LOSS: usize = 1000;
/// Refusals that are logged one by one in one transaction.
const LOGGED: usize = 20;
/// An entry this close to its end may be gone when it is looked up.
const NEAR_END: Duration = Duration::from_secs(3);

/// What connects the engine to the rest of the process.
pub struct Wiring {
    /// Who is never blocked, replaced whole when it changes.
    pub allow: watch::Receiver<Arc<AllowSet>>,
    /// Where the engine says how it is.
    pub status: watch::Sender<Status>,
    /// What it counts.
    pub metrics: Metrics,
    /// Asks this host for its own addresses: [`crate::engine::host::own_addresses`].
    pub own: fn() -> io::Result<Vec<AllowEntry>>,
}

/// Enforces what `feed` says at `bouncer` until `shutdown` is done. Errors of the target are retried and shown
/// in the status; only the last act, removing the table where that is wanted, can fail.
pub async fn run(
    mut feed: impl Feed,
    bouncer: impl Bouncer,
    config: Config,
    wiring: Wiring,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), BouncerError> {
    let mut shutdown = pin!(shutdown);
    if config.mode == Mode::Off {
        wiring.status.send_replace(Status::new(config.mode));
        shutdown.await;
        return Ok(());
    }
    let Wiring { mut allow, .. } = wiring;
    let first = allow.borrow_and_update().clone();
    let status = Status::new(config.mode);
    wiring.status.send_replace(status.clone());
    let mut engine = Engine::new(bouncer, config, status, wiring.status, wiring.metrics, wiring.own);
    engine.allow(&first);
    engine.rebuild = None;
    engine.restore().await;
    let mut look = every(LOOK);
    let mut save = every(SAVE);
    let (mut hears_allow, mut hears_target) = (true, true);
    loop {
        engine.work(&mut feed).await;
        let retry = engine.retry.filter(|_| engine.has_work());
        tokio::select! {
            () = &mut shutdown => break,
            update = feed.next(), if engine.feed_open => engine.take(update),
            disturbance = engine.bouncer.disturbance(), if hears_target && engine.touches_target() => match disturbance {
                Ok(disturbance) => engine.look(disturbance.elements, Some(disturbance)).await,
                Err(error) => {
                    warn!(%error, "cannot hear what others change, looking every ten seconds");
                    hears_target = false;
                }
            },
            changed = allow.changed(), if hears_allow => {
                hears_allow = changed.is_ok();
                let now = allow.borrow_and_update().clone();
                engine.allow(&now);
            }
            _ = look.tick() => {
                let now = allow.borrow().clone();
                engine.tick(&now).await;
            }
            _ = save.tick() => engine.save().await,
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
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
    /// Whether the feed has said what holds.
    known: bool,
    unsaved: bool,
    max_shrink: u8,
}

impl Wishes {
    fn take(&mut self, update: &Update, now: Timestamp) {
        match update {
            Update::Snapshot(decisions) => {
                self.known = true;
                let lost = self.desired.lost_by(decisions, now);
                let share = self.desired.len() * usize::from(self.max_shrink) / 100;
                if lost > share.max(SMALL_LOSS) && self.held == 0 {
                    error!(lost, of = self.desired.len(), "a snapshot takes too much away, waiting for a second one");
                    self.held = lost;
                    let add = Delta { add: decisions.clone(), remove: Vec::new() };
                    let changed = Arc::make_mut(&mut self.desired).apply(&add, now);
                    self.note(changed);
                } else {
                    self.held = 0;
                    self.malformed.clear();
                    let changed = Arc::make_mut(&mut self.desired).replace(decisions, now);
                    self.note(changed);
                }
            }
            Update::Delta(delta) => {
                let made = delta.add.iter().map(|decision| decision.created_at);
                self.created.extend(made.take(LISTED.saturating_sub(self.created.len())));
                let changed = Arc::make_mut(&mut self.desired).apply(delta, now);
                self.note(changed);
            }
        }
    }

    fn note(&mut self, changed: Changed) {
        self.unsaved |= !changed.keys.is_empty();
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
    config: Config,
    status: Status,
    shown: watch::Sender<Status>,
    metrics: Metrics,
    own_addresses: fn() -> io::Result<Vec<AllowEntry>>,
    wishes: Wishes,
    feed_open: bool,
    rails: Rails,
    own: Vec<AllowEntry>,
    never: Never,
    applied: Placement,
    refused: Refusals,
    /// The target must be made anew, and how far.
    rebuild: Option<Extent>,
    /// Whether the target has been made to hold exactly what the feed says.
    reconciled: bool,
    failures: u32,
    retry: Option<Instant>,
    looks: u32,
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
        config: Config,
        status: Status,
        shown: watch::Sender<Status>,
        metrics: Metrics,
        own_addresses: fn() -> io::Result<Vec<AllowEntry>>,
    ) -> Self {
        let wishes = Wishes {
            desired: Arc::new(Desired::new(config.ipv6_prefix, config.max_entries)),
            dirty: HashSet::new(),
            created: Vec::new(),
            malformed: BTreeMap::new(),
            held: 0,
            known: false,
            unsaved: false,
            max_shrink: config.max_shrink,
        };
        Self {
            bouncer,
            config,
            status,
            shown,
            metrics,
            own_addresses,
            wishes,
            feed_open: true,
            rails: Rails::default(),
            own: Vec::new(),
            never: Never::default(),
            applied: Placement::new(),
            refused: Refusals::default(),
            rebuild: None,
            reconciled: false,
            failures: 0,
            retry: None,
            looks: 0,
            clocks: (Timestamp::now(), Instant::now()),
            dropped: (Traffic::default(), Traffic::default()),
            saving: None,
            relist: false,
        }
    }

    /// Whether the target may be changed at all.
    fn touches_target(&self) -> bool {
        self.config.mode != Mode::DryRun
    }

    fn has_work(&self) -> bool {
        self.rebuild.is_some() || !self.wishes.dirty.is_empty()
    }

    /// Enforces the last known good state, before anybody is asked for news.
    async fn restore(&mut self) {
        let path = self.config.snapshot.clone().filter(|_| self.touches_target());
        let Some(path) = path else { return self.prepare().await };
        match snapshot::read(&path, self.bouncer.name()) {
            Ok(Some(decisions)) => {
                let now = Timestamp::now();
                let delta = Delta { add: decisions, remove: Vec::new() };
                let changed = Arc::make_mut(&mut self.wishes.desired).apply(&delta, now);
                self.wishes.note(changed);
                self.rebuild = Some(Extent::AtLeast);
                info!(entries = self.wishes.desired.len(), file = %path.display(), "enforcing the last known good state");
            }
            Ok(None) => self.prepare().await,
            Err(error) => {
                warn!(%error, "starting without the last known good state");
                self.prepare().await;
            }
        }
    }

    async fn prepare(&mut self) {
        if !self.touches_target() {
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

    fn take(&mut self, update: Result<Update, FeedError>) {
        match update {
            Ok(update) => {
                self.status.feed_error = None;
                self.wishes.take(&update, Timestamp::now());
            }
            Err(error) => {
                if self.status.feed_error.is_none() {
                    warn!(%error, "no news from the feed, what is in force stays");
                }
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
            if !self.has_work() || self.retry.is_some_and(|retry| retry > Instant::now()) {
                break;
            }
            let outcome = match self.rebuild {
                Some(extent) => self.rebuild_target(extent).await,
                None => self.apply(feed).await,
            };
            match outcome {
                Ok(()) => self.succeed(),
                Err(error) => {
                    self.fail(&error);
                    self.rebuild = Some(self.extent());
                }
            }
        }
        self.publish();
    }

    fn extent(&self) -> Extent {
        if self.wishes.known { Extent::Exactly } else { Extent::AtLeast }
    }

    async fn rebuild_target(&mut self, extent: Extent) -> Result<(), BouncerError> {
        let now = Timestamp::now();
        let refused_before = self.refused.held.len();
        let wanted = place_all(&self.wishes.desired, &self.rails, &mut self.refused, now);
        if self.refused.held.len() > refused_before {
            warn!(entries = self.refused.held.len(), "entries are not enforced, the status says why");
        }
        if self.touches_target() {
            let started = Instant::now();
            self.bouncer.rebuild(&wanted, &self.never, extent, now).await?;
            self.metrics.apply.observe(started.elapsed().as_secs_f64());
            info!(entries = wanted.len(), took = ?started.elapsed(), "the target was made anew");
        } else {
            let keys: HashSet<&Key> = self.applied.keys().chain(wanted.keys()).collect();
            let plan = diff(keys, &self.wishes.desired, &self.applied, &self.rails, &mut self.refused, now);
            say(&plan);
        }
        self.applied = wanted;
        self.relist = true;
        self.wishes.dirty.clear();
        self.rebuild = None;
        self.reconciled = extent == Extent::Exactly;
        if self.touches_target() {
            let check = self.bouncer.check(self.sample(SAMPLE)).await?;
            self.note_check(check);
        }
        Ok(())
    }

    /// Carries out what has changed, and takes news while that is under way.
    async fn apply(&mut self, feed: &mut impl Feed) -> Result<(), BouncerError> {
        let now = Timestamp::now();
        let keys = std::mem::take(&mut self.wishes.dirty);
        let created = std::mem::take(&mut self.wishes.created);
        let known: HashSet<&Key> = keys.iter().filter(|key| self.refused.held.contains_key(key)).collect();
        let plan = diff(&keys, &self.wishes.desired, &self.applied, &self.rails, &mut self.refused, now);
        let held = keys.iter().filter_map(|key| self.refused.held.get_key_value(key));
        let fresh: Vec<_> = held.filter(|(key, _)| !known.contains(key)).collect();
        for (key, reason) in fresh.iter().take(LOGGED) {
            warn!(entry = %key, %reason, "an entry is not enforced");
        }
        self.relist |= !fresh.is_empty() || !known.is_empty();
        if plan.is_empty() {
            return Ok(());
        }
        if self.config.mode == Mode::DryRun {
            say(&plan);
            plan.commit(&mut self.applied);
            return Ok(());
        }
        let started = Instant::now();
        let mut trouble = None;
        let outcome = {
            let mut applying = pin!(self.bouncer.apply(&plan, now));
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut applying => break outcome,
                    update = feed.next(), if self.feed_open && trouble.is_none() => match update {
                        Ok(update) => self.wishes.take(&update, Timestamp::now()),
                        Err(error) => trouble = Some(error),
                    },
                }
            }
        };
        if let Some(error) = trouble {
            self.take(Err(error));
        }
        outcome?;
        let took = started.elapsed();
        self.metrics.apply.observe(took.as_secs_f64());
        let done = Timestamp::now();
        for made in created {
            self.metrics.lag.observe(done.duration_since(made).as_secs_f64().max(0.0));
        }
        for change in &plan.changes {
            debug!(%change, "applied");
        }
        info!(changes = plan.changes.len(), ?took, "applied");
        plan.commit(&mut self.applied);
        Ok(())
    }

    fn succeed(&mut self) {
        self.failures = 0;
        self.retry = None;
        self.status.error = None;
    }

    fn fail(&mut self, error: &BouncerError) {
        self.metrics.errors.inc();
        // A transaction that failed is answered by a rebuild at once; a rebuild that failed is not.
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => FIRST_RETRY.saturating_mul(1 << (failures - 1).min(10)).min(LAST_RETRY),
        };
        error!(%error, retry_in = ?pause, "enforcement failed");
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(Instant::now() + pause);
        self.status.error = Some(error.to_string());
    }

    /// Takes another allow set, or another look at this host's addresses, and makes the target follow.
    fn allow(&mut self, allow: &AllowSet) {
        match (self.own_addresses)() {
            Ok(own) => self.own = own,
            Err(error) => warn!(%error, "cannot list this host's own addresses, keeping the last list"),
        }
        let now = Timestamp::now();
        self.rails = Rails::new(self.config.limits(), allow, &self.own, now);
        let never = Never { v4: self.rails.never(Family::V4, now), v6: self.rails.never(Family::V6, now) };
        if never != self.never {
            self.never = never;
            self.rebuild = Some(self.extent());
        }
    }

    async fn tick(&mut self, allow: &AllowSet) {
        let now = Timestamp::now();
        self.expire(now);
        let (wall, steady) = self.clocks;
        let jump = now.duration_since(wall).as_millis() - steady.elapsed().as_millis() as i128;
        if jump.unsigned_abs() > CLOCK_TOLERANCE.as_millis() {
            warn!(milliseconds = %jump, "the clock jumped, recomputing when entries end");
            self.rebuild = Some(self.extent());
        }
        self.clocks = (now, Instant::now());
        self.allow(allow);
        if !self.touches_target() || self.rebuild.is_some() {
            return;
        }
        self.looks = self.looks.wrapping_add(1);
        self.look(self.looks.is_multiple_of(FULL_LOOK), None).await;
        match self.bouncer.dropped().await {
            Ok(counted) => self.count(counted),
            Err(error) => debug!(%error, "cannot read the counters"),
        }
    }

    fn expire(&mut self, now: Timestamp) {
        let before = self.wishes.desired.len();
        if self.wishes.desired.iter().any(|(_, entry)| entry.claims().iter().any(|claim| claim.until <= now)) {
            Arc::make_mut(&mut self.wishes.desired).expire(now);
        }
        self.wishes.unsaved |= self.wishes.desired.len() != before;
        self.applied.retain(|_, placed| placed.until > now);
        self.refused.expire(&self.wishes.desired);
        self.relist = true;
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
        // A sample finds great damage at once; only what it misses is worth a look at everything.
        let mut check = self.bouncer.check(self.sample(SAMPLE)).await;
        if all && check.as_ref().is_ok_and(Check::is_good) && self.applied.len() > SAMPLE {
            check = self.bouncer.check(self.sample(usize::MAX)).await;
        }
        let check = match check {
            Ok(check) => check,
            Err(error) => {
                self.fail(&error);
                self.rebuild = Some(self.extent());
                return;
            }
        };
        self.note_check(check);
        if check.is_good() {
            return;
        }
        if let Err(error) = self.rebuild_target(self.extent()).await {
            self.fail(&error);
            self.rebuild = Some(self.extent());
            return;
        }
        self.succeed();
        self.metrics.heals.inc();
        self.status.heals += 1;
        let (process, pid) = cause.map(|cause| (cause.process, cause.pid)).unwrap_or_default();
        warn!(
            process,
            pid,
            rules_intact = check.intact,
            missing = check.missing,
            asked = check.asked,
            took = ?started.elapsed(),
            "somebody else changed the table, it is healed"
        );
        self.status.last_heal = Some(Heal { at: Timestamp::now(), process, pid });
    }

    fn sample(&self, entries: usize) -> Vec<(Key, Placed)> {
        let soon = Timestamp::now() + NEAR_END;
        let steady = self.applied.iter().filter(|(_, placed)| placed.until > soon);
        let chosen =
            if entries == usize::MAX { steady.collect() } else { steady.choose_multiple(&mut rand::rng(), entries) };
        chosen.into_iter().map(|(key, placed)| (key.clone(), placed.clone())).collect()
    }

    fn note_check(&mut self, check: Check) {
        if self.status.armed != check.armed {
            warn!(armed = check.armed, "the panic switch was used");
        }
        self.status.armed = check.armed;
        let missing = if check.intact { check.missing } else { check.asked.max(1) };
        self.status.verified = Some(Verified { at: Timestamp::now(), asked: check.asked, missing });
    }

    fn publish(&mut self) {
        let (held, malformed) = (&self.refused.held, &self.wishes.malformed);
        let status = &mut self.status;
        status.desired = self.wishes.desired.len();
        status.applied = self.applied.len();
        status.elsewhere = self.refused.elsewhere.len();
        status.wanted = status.desired.saturating_sub(status.elsewhere + held.len());
        status.held_removals = self.wishes.held;
        let refused = held.len() + malformed.len();
        if self.relist || status.refused_total != refused {
            self.relist = false;
            status.refused_total = refused;
            let held = held.iter().map(|(key, reason)| Refused { value: key.to_string(), reason: reason.to_string() });
            let malformed =
                malformed.iter().map(|(value, reason)| Refused { value: value.clone(), reason: reason.clone() });
            status.refused = malformed.chain(held).take(LISTED).collect();
        }
        self.metrics.observe(status);
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
        let Some(path) = self.config.snapshot.clone().filter(|_| wanted) else { return };
        self.wishes.unsaved = false;
        let (desired, name) = (Arc::clone(&self.wishes.desired), self.bouncer.name());
        self.saving =
            Some(tokio::task::spawn_blocking(move || snapshot::write(&path, &snapshot::encode(name, &desired))));
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
        if self.config.on_stop == OnStop::Remove && self.touches_target() {
            self.bouncer.teardown().await?;
        }
        Ok(())
    }
}

/// Says what would be done.
fn say(plan: &Plan) {
    for change in &plan.changes {
        info!(%change, "would be applied");
    }
}

/// A target that is not there: for dry runs on hosts where nothing may be changed.
#[derive(Debug, Default)]
pub struct Nowhere;

impl Bouncer for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        Ok(())
    }

    async fn rebuild(&mut self, _: &Placement, _: &Never, _: Extent, _: Timestamp) -> Result<(), BouncerError> {
        Ok(())
    }

    async fn apply(&mut self, _: &Plan, _: Timestamp) -> Result<(), BouncerError> {
        Ok(())
    }

    async fn check(&mut self, _: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        Ok(Check { intact: true, armed: false, asked: 0, missing: 0 })
    }

    async fn disturbance(&mut self) -> Result<Disturbance, BouncerError> {
        std::future::pending().await
    }

    async fn dropped(&mut self) -> Result<Traffic, BouncerError> {
        Ok(Traffic::default())
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        Ok(())
    }
}
