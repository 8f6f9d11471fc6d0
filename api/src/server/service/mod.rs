//! The one piece of code that accepts alerts, bans, lifts and allowlist changes.
//!
//! Every change goes through [`Service::change`]: it takes effect in memory under one lock, so that subscribers
//! in this process act on it at once, and is queued for the store in the same order. Acknowledgements and readers
//! in other processes wait until it is durable.

mod accounts;
mod allow;
mod follow;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{debug, info, warn};
use uuid::Uuid;

use expr::{DecisionQuery, EvalError};
use model::alert::DecisionBody;
use model::{Alert, AllowEntry, AllowSet, Decision, Scope};

use crate::audit;
use crate::decisions::{LOG_LEN, Query, Reach, Row, Scan, Table, from_micros, net_of, to_micros};
use crate::history::{History, Past};
use crate::ladder::{self, Ladder, Rungs};
use crate::metrics::{DecisionLabels, Metrics, Snapshot};
use crate::places::Places;
use crate::privacy::Masks;
use crate::profiles::{self, Lookup, ProfileError, Profiles, Reputation, Reputations};
use crate::server::stream::{self, Last, Pull};
use crate::store::writer::{Durable, Job, Queue};
use crate::store::{
    AllowItem, Allowlist, Bouncer, Forget, Lift, Machine, NewAlert, Retention, SeenKey, Store, StoreError, Trouble,
    Write,
};
use crate::wire;

pub(crate) use accounts::shortened;
pub use accounts::{AccountError, Caller, Contact, KeyHash, KeyOwner, Login, NewBouncer, NewMachine};
pub use allow::{AllowError, FORGIVEN, Forgiven, Listed, NewItem};
pub use follow::{Batch, Follow, Shared, Subscription};

/// How long the identity of an alert is remembered: longer than an agent holds it back.
const SEEN_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How many identities are remembered at most.
const SEEN_MAX: usize = 1 << 20;
/// Longest text of a decision's field in bytes.
const MAX_FIELD: usize = 255;
/// How often what is merely nice to know (last pull, heartbeat) is written.
const TOUCH_EVERY: Duration = Duration::from_secs(2);
/// How long a question about what is stored waits for the store.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a bouncer that polls waits for the store: less than any of them has patience.
const PULL_PATIENCE: Duration = Duration::from_secs(3);
/// How long the end waits for the store.
const CLOSE_PATIENCE: Duration = Duration::from_secs(20);
/// How often some old records are erased: whoever writes meanwhile waits, so that it is done in small steps.
const RETAIN_EVERY: SignedDuration = SignedDuration::from_secs(2);
/// After how many new decisions those that are over are counted again.
const COUNT_EVERY: i64 = 5000;
/// Origin of what a person decides, as the field's tools know it.
const BY_HAND: &str = "cscli";
/// Up to how many decisions of one alert each has its line in the log.
const LOGGED: usize = 10;

/// What can be set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses that are never punished beside the built-in ones and the allowlists: own addresses, configured
    /// ones.
    pub allow: Vec<AllowEntry>,
    /// How many decisions may hold at once.
    pub max_decisions: usize,
    /// How many alerts are kept, if it is limited.
    pub max_alerts: Option<u64>,
    /// How long alerts are kept, if it is limited.
    pub max_age: Option<SignedDuration>,
    /// How many decisions that are over are kept, if it is limited.
    pub max_ended: Option<u64>,
    /// How long usage metrics are kept.
    pub metrics_max_age: SignedDuration,
    /// How long lines, user names and other evidence stay in alerts; the alerts themselves may stay longer.
    pub evidence_max_age: SignedDuration,
    /// What is masked in alerts before they are stored.
    pub masks: Masks,
    /// How many records of the audit trail are kept in the store; older ones are sealed in archives beside it.
    pub max_audit: u64,
    /// How many changes are remembered for readers that fall behind.
    pub log_len: usize,
    /// How long those are banned who come back.
    pub rungs: Rungs,
    /// Work factor of password hashes.
    pub bcrypt_cost: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            max_decisions: 4_000_000,
            max_alerts: Some(100_000),
            max_age: Some(SignedDuration::from_hours(7 * 24)),
            max_ended: Some(1_000_000),
            metrics_max_age: SignedDuration::from_hours(7 * 24),
            evidence_max_age: SignedDuration::from_hours(30 * 24),
            masks: Masks::default(),
            max_audit: 100_000,
            log_len: LOG_LEN,
            rungs: Rungs::default(),
            bcrypt_cost: 10,
        }
    }
}

/// The accepted state of the world and its store. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Service(Arc<Inner>, Arc<Author>);

/// Who makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// A machine, an administrator, or this program itself.
    pub name: String,
    /// Where from.
    pub from: Origin,
    /// How he proved who he is: `socket`, `key`, `certificate`, `token`; `none` if he did not, or need not.
    pub proof: &'static str,
}

/// Where a change comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This program itself.
    Inside,
    /// The Unix socket.
    Socket,
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside => f.write_str("inside"),
            Self::Socket => f.write_str("socket"),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

impl Author {
    /// Whether it is this program itself.
    pub fn is_inside(&self) -> bool {
        self.from == Origin::Inside
    }
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "cordon".into(), from: Origin::Inside, proof: "none" }
    }
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Origin::Inside => f.write_str(&self.name),
            from => write!(f, "{} from {from}", self.name),
        }
    }
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    queue: Queue,
    store: Arc<dyn Store>,
    profiles: ArcSwap<Profiles>,
    /// Whom profiles ask for reputations, if anybody.
    reputations: RwLock<Option<Arc<dyn Reputations>>>,
    /// Who knows whom a place spares, if anybody.
    places: RwLock<Option<Arc<dyn Places>>>,
    allow: Arc<ArcSwap<AllowSet>>,
    /// The same, for those who wait for a change.
    allow_changed: watch::Sender<Arc<AllowSet>>,
    applied: watch::Sender<u64>,
    closed: watch::Sender<bool>,
    /// What readers in other processes were last told.
    recent: Mutex<Option<follow::Recent>>,
    /// Ends the maintenance's sleep.
    wake: Notify,
    options: Options,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    last_alert: i64,
    last_decision: i64,
    /// Number of the last job queued for the store.
    job: u64,
    machines: BTreeMap<String, Machine>,
    bouncers: BTreeMap<String, Bouncer>,
    lists: BTreeMap<String, (Allowlist, BTreeMap<String, AllowItem>)>,
    seen: HashMap<SeenKey, i64>,
    seen_order: VecDeque<(Timestamp, SeenKey)>,
    touched_machines: BTreeSet<String>,
    touched_bouncers: BTreeSet<String>,
    /// How many decisions bouncers last said that they enforce, and when.
    enforced: BTreeMap<String, (i64, Timestamp)>,
    retained: Timestamp,
    /// The last decision when those that are over were last counted.
    counted: i64,
    /// Past decisions, if rules ask for them.
    history: Option<History>,
    ladder: Ladder,
    /// What is allowed by configuration.
    configured: Vec<AllowEntry>,
}

/// What was known about somebody who was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many alerts were erased.
    pub erased: usize,
    /// From how many alerts about others he was taken out.
    pub redacted: usize,
    /// How many decisions in force ended.
    pub ended: usize,
}

/// What became of alerts.
#[derive(Debug)]
pub struct Submission {
    /// Numbers of the alerts that are stored; of one that was there before, its number then.
    pub ids: Vec<i64>,
    /// Decisions that were not made because their target is allowed.
    pub refused: Vec<Refusal>,
    /// How many alerts were dropped because their source is allowed.
    pub dropped: usize,
    /// When it is durable.
    pub receipt: Receipt,
}

/// A decision that was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its target.
    pub value: String,
    /// The allow entry, as people read it.
    pub reason: String,
}

/// What a bouncer gets that polls.
#[derive(Debug)]
pub struct Pulled {
    /// What its next pull starts from.
    pub reached: Last,
    /// Decisions that are over, by number.
    pub deleted: Vec<Decision>,
    /// Whether that is all; if not, the store does not answer, and the bouncer must ask for the same again.
    pub complete: bool,
    service: Service,
    request: Pull,
    scan: Scan,
}

impl Pulled {
    /// Some of the decisions that hold, by number; `None` when these were all.
    pub fn step(&mut self) -> Option<Vec<Row>> {
        stream::step_of(&self.service.lock().table, &mut self.scan, &self.request)
    }
}

/// A walk through decisions.
#[derive(Debug)]
pub struct Walk {
    service: Service,
    scan: Scan,
    /// When it began: what is over then is not found.
    pub now: Timestamp,
}

impl Walk {
    /// Some of the decisions, by number; `None` when these were all.
    pub fn step(&mut self) -> Option<Vec<Row>> {
        self.service.0.step(&mut self.scan)
    }
}

/// A change that has taken effect, and becomes durable.
#[derive(Debug)]
#[must_use = "an acknowledgement must wait until the change is durable"]
pub struct Receipt(Pending);

#[derive(Debug)]
enum Pending {
    /// The store will say.
    Job(oneshot::Receiver<Result<(), StoreError>>),
    /// It depends on what was queued before.
    Reached(watch::Receiver<Durable>, u64),
}

impl Receipt {
    /// Waits until the change is durable.
    pub async fn durable(self) -> Result<(), StoreError> {
        match self.0 {
            Pending::Job(done) => done.await.map_err(|_| StoreError::Closed)?,
            Pending::Reached(mut durable, job) => {
                durable.wait_for(|durable| durable.job >= job).await.map(|_| ()).map_err(|_| StoreError::Closed)
            }
        }
    }
}

/// Why alerts were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// A duration makes no sense.
    #[error("`{0}` is not a duration: unable to parse duration")]
    Duration(String),
    /// A field is too long.
    #[error("`{field}` of a decision is longer than {MAX_FIELD} bytes")]
    TooLong {
        /// Its name on the wire.
        field: &'static str,
    },
    /// A profile failed.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// There are too many decisions.
    #[error("{max} decisions hold already\nhint: `retention: {{ decisions: N }}` sets how many may")]
    Full {
        /// How many may hold.
        max: usize,
    },
    /// Every decision's target is allowed, so that nothing is left to store.
    #[error("{}", refusals(.0))]
    Allowed(Vec<Refusal>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn refusals(refused: &[Refusal]) -> String {
    const SHOWN: usize = 5;
    let mut texts: Vec<String> = refused
        .iter()
        .take(SHOWN)
        .map(|refusal| format!("{} is allowlisted by item {}", refusal.value, refusal.reason))
        .collect();
    if refused.len() > SHOWN {
        texts.push(format!("and {} more", refused.len() - SHOWN));
    }
    texts.join("; ")
}

/// An alert that was looked at, but not yet accepted.
struct Prepared {
    alert: Alert,
    started: Timestamp,
    stopped: Timestamp,
    decisions: Vec<DecisionBody>,
    /// The bans that were taken out because of where their targets are.
    spared: Vec<Refusal>,
    /// The decisions came with it.
    supplied: bool,
    /// Bans get longer if their target comes back.
    ladder: bool,
    seen: Option<SeenKey>,
}

impl Service {
    /// The same, changed by `author`: every change goes through one place, which knows whose it is.
    pub fn by(&self, author: Author) -> Self {
        Self(Arc::clone(&self.0), Arc::new(author))
    }

    /// Restores everything from `store`. `now` is the time of the start.
    pub fn open(
        store: Arc<dyn Store>,
        profiles: Profiles,
        options: Options,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut table = Table::new(options.log_len);
        let restored = store.restore(now, &mut |one| {
            if one.lifted {
                table.restore_lifted(&one.decision, one.change);
            } else {
                table.restore(&one.decision, one.change);
            }
        })?;
        table.resume(restored.epochs, restored.floor, restored.last_change);
        let change = table.cursor().number;
        let mut state = State {
            table,
            last_alert: restored.last_alert,
            last_decision: restored.last_decision,
            machines: restored.machines.into_iter().map(|machine| (machine.name.clone(), machine)).collect(),
            bouncers: restored.bouncers.into_iter().map(|bouncer| (bouncer.name.clone(), bouncer)).collect(),
            retained: now,
            configured: options.allow.clone(),
            ladder: Ladder::new(options.rungs.clone()),
            ..State::default()
        };
        for (visitor, strikes) in restored.strikes {
            state.ladder.restore(visitor, strikes);
        }
        for (list, items) in restored.allowlists {
            let items = items.into_iter().map(|item| (item.value.clone(), item)).collect();
            state.lists.insert(list.name.clone(), (list, items));
        }
        for (key, alert, at) in restored.seen {
            state.remember(key, alert, at);
        }
        let allow = Arc::new(ArcSwap::from_pointee(state.allow_set()));
        let queue = Queue::start(store.writer()?, Durable { job: 0, change })?;
        let service = Self(
            Arc::new(Inner {
                state: Mutex::new(state),
                queue,
                store,
                profiles: ArcSwap::from_pointee(profiles),
                reputations: RwLock::default(),
                places: RwLock::default(),
                allow_changed: watch::channel(allow.load_full()).0,
                allow,
                applied: watch::channel(change).0,
                closed: watch::channel(false).0,
                recent: Mutex::default(),
                wake: Notify::new(),
                options,
                metrics: Arc::default(),
            }),
            Arc::default(),
        );
        let mut state = service.lock();
        let writes = state.lift_allowed(&service.0.allow.load(), now);
        service.queue_writes(&mut state, writes)?;
        drop(state);
        Ok(service)
    }

    /// Takes alerts from `machine`. What they decide holds when this returns; it waits only for a place in the
    /// store's queue.
    pub async fn submit(&self, machine: &str, alerts: Vec<Alert>) -> Result<Submission, SubmitError> {
        let arrived = Timestamp::now();
        let prepared = alerts
            .into_iter()
            .map(|alert| self.prepare(machine, alert, arrived))
            .collect::<Result<Vec<_>, SubmitError>>()?;
        let max = self.0.options.max_decisions;
        let (answer, receipt) = self
            .change(|state, now| {
                let wanted: usize = prepared.iter().map(|one| one.decisions.len()).sum();
                if wanted > 0 && state.table.len() + wanted > max {
                    return (Err(SubmitError::Full { max }), Vec::new());
                }
                let mut writes = Vec::with_capacity(prepared.len());
                let allow = self.0.allow.load();
                let (mut ids, mut refused, mut dropped) = (Vec::new(), Vec::new(), 0);
                for one in prepared {
                    match state.accept(one, &allow, now, &mut refused) {
                        Ok((id, more)) => {
                            ids.push(id);
                            writes.extend(more);
                        }
                        Err(Unaccepted::Allowed) => dropped += 1,
                        Err(Unaccepted::Empty) => {}
                    }
                }
                if let Some(owner) = state.machines.get_mut(machine) {
                    owner.last_push = Some(now);
                    state.touched_machines.insert(machine.to_owned());
                }
                (Ok((ids, refused, dropped)), writes)
            })
            .await?;
        let (ids, refused, dropped) = answer?;
        for refusal in &refused {
            warn!(machine, value = refusal.value, reason = refusal.reason, "refused to ban an allowed address");
        }
        self.0.metrics.alerts.inc_by(ids.len() as u64);
        self.0.metrics.alerts_dropped.inc_by(dropped as u64);
        self.0.metrics.decisions_refused.inc_by(refused.len() as u64);
        if ids.is_empty() && dropped == 0 && !refused.is_empty() {
            return Err(SubmitError::Allowed(refused));
        }
        Ok(Submission { ids, refused, dropped, receipt })
    }

    /// Ends every live decision that `query` wants; answers how many.
    pub async fn lift(&self, query: &Query) -> Result<(usize, Receipt), StoreError> {
        self.change(|state, now| {
            let rows = state.table.select(query, now);
            let writes = state.lift(rows.iter().map(Row::id), now);
            (rows.len(), writes)
        })
        .await
    }

    /// Ends one decision, also one that is over: its end moves to now. Answers whether there is such a decision.
    pub async fn lift_one(&self, id: i64) -> Result<(bool, Receipt), StoreError> {
        let live = self.lock().table.get(id).is_some();
        let known = live || self.read(move |store| store.decision(id)).await?.is_some();
        self.change(|state, now| {
            if !known {
                return (false, Vec::new());
            }
            let writes = state.lift([id], now);
            let writes = if writes.is_empty() {
                let over = Lift { id, change: 0, target: CompactString::const_new("that was over") };
                vec![Write::Lift { lifted: vec![over], until: now }]
            } else {
                writes
            };
            (true, writes)
        })
        .await
    }

    /// Ends what the alert that `machine` sent under the identity `uuid` decided about `value` and still holds; answers
    /// how many decisions that were.
    pub async fn lift_alert(&self, machine: &str, uuid: &str, value: &str) -> Result<(usize, Receipt), StoreError> {
        let query = Query { value: Some(value.to_owned()), simulated: true, ..Query::default() };
        self.change(|state, now| {
            let Some(&alert) = state.seen.get(&seen_key(machine, uuid)) else { return (0, Vec::new()) };
            let mut rows = state.table.select(&query, now);
            rows.retain(|row| row.alert_id() == alert);
            let writes = state.lift(rows.iter().map(Row::id), now);
            (rows.len(), writes)
        })
        .await
    }

    /// What is known about decisions that cover `value`, from memory alone. Counts of past ones are 0 before
    /// [`Service::keep_history`].
    pub fn recall(&self, query: DecisionQuery, value: &str, now: Timestamp) -> Result<i64, EvalError> {
        profiles::recall(&Knowledge { service: self, now, may_block: false }, query, value)
    }

    /// Keeps past decisions in memory from now on, for [`Service::recall`].
    pub async fn keep_history(&self) -> Result<(), StoreError> {
        let (now, last) = {
            let mut state = self.lock();
            if state.history.is_some() {
                return Ok(());
            }
            let now = present();
            let live = state.table.iter().filter(|row| row.until() >= now);
            let live =
                live.filter_map(|row| Some(Past::new(row.net()?, row.alert_id(), row.created_at(), row.until())));
            let history = History::new(live.collect());
            state.history = Some(history);
            (now, state.last_decision)
        };
        // What was made after this moment is in the history already, and what was made before it is then in the store.
        self.settle().await?;
        let ended = self.read(move |store| store.ended(None, now)).await?;
        let ended = ended.iter().filter(|decision| decision.id <= last).filter_map(|decision| {
            let net = net_of(&decision.scope, &decision.value)?;
            Some(Past::new(net, decision.alert_id, decision.created_at, decision.until))
        });
        let mut all: Vec<Past> = ended.collect();
        let mut state = self.lock();
        all.extend(state.history.iter().flat_map(History::iter));
        state.history = Some(History::new(all));
        Ok(())
    }

    /// Erases alerts with everything that belongs to them; their decisions no longer hold. Answers how many.
    pub async fn erase_alerts(&self, query: crate::store::AlertQuery) -> Result<(usize, Receipt), StoreError> {
        self.settle().await?;
        let now = Timestamp::now();
        let ids = self.read(move |store| store.alert_ids(&query, now)).await?;
        self.change(|state, now| {
            if ids.is_empty() {
                return (0, Vec::new());
            }
            let owners: std::collections::HashSet<i64> = ids.iter().copied().collect();
            let doomed: Vec<i64> =
                state.table.iter().filter(|row| owners.contains(&row.alert_id())).map(Row::id).collect();
            for id in doomed {
                state.table.lift(id, now);
            }
            if let Some(history) = &mut state.history {
                history.erase(&owners);
            }
            let change = state.table.cursor().number;
            (ids.len(), vec![Write::EraseAlerts { ids, change, at: now }])
        })
        .await
    }

    /// Forgets somebody: alerts and decisions about `value`, an address, range or user name, are erased (what holds ends),
    /// and it is taken out of the evidence of other alerts and out of the audit trail. Allowlists and logs stay.
    pub async fn forget(&self, value: &str) -> Result<(Forgotten, Receipt), StoreError> {
        let net = model::scope::parse_net(value).ok();
        let value = net.map_or_else(|| value.to_owned(), model::allowlist::display_net);
        self.settle().await?;
        let wanted = value.clone();
        let found = self.read(move |store| store.mentions(&wanted)).await?;
        self.change(|state, now| {
            let own: std::collections::HashSet<i64> = found.own.iter().copied().collect();
            let about = |row: &Row| own.contains(&row.alert_id()) || row.value() == value;
            let doomed: Vec<i64> = state.table.iter().filter(|row| about(row)).map(Row::id).collect();
            for id in &doomed {
                state.table.lift(*id, now);
            }
            if let Some(history) = &mut state.history {
                history.erase(&own);
            }
            let strikes = net.map(|net| state.ladder.forgive(net)).unwrap_or_default();
            let mut writes: Vec<Write> = strikes.into_iter().map(Write::DeleteStrikes).collect();
            let forgotten = Forgotten { erased: found.own.len(), redacted: found.others.len(), ended: doomed.len() };
            let change = state.table.cursor().number;
            let entry = self.1.did("forget", "", now);
            writes.push(Write::Forget(Box::new(Forget { value, found, change, entry })));
            (forgotten, writes)
        })
        .await
    }

    /// Erases all but the newest `newest` alerts, and those older than `age`, now and not when their time comes. Those with
    /// a decision that holds stay. Answers how many were erased.
    pub async fn flush(&self, newest: Option<u64>, age: Option<SignedDuration>) -> Result<usize, StoreError> {
        let count = async || {
            let query = crate::store::AlertQuery::default();
            Ok::<_, StoreError>(self.read(move |store| store.alert_ids(&query, Timestamp::now())).await?.len())
        };
        let before = count().await?;
        let mut left = before;
        loop {
            let ((), receipt) = self
                .change(|state, now| {
                    let alerts_before = age.and_then(|age| now.checked_sub(age).ok());
                    let below = newest.map(|newest| state.last_alert.saturating_sub_unsigned(newest));
                    if let Some(history) = &mut state.history {
                        history.forget(alerts_before, below, now);
                    }
                    let retention = Retention { max_alerts: newest, alerts_before, now, ..Retention::default() };
                    ((), vec![Write::Retain(retention)])
                })
                .await?;
            receipt.durable().await?;
            let now_left = count().await?;
            if now_left == left {
                return Ok(before - left);
            }
            left = now_left;
        }
    }

    /// A feed for a bouncer in this process. It sees changes before they are durable.
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(&self.0)
    }

    /// The durable changes after `cursor`, for readers in other processes.
    pub fn follow(&self, cursor: Option<crate::decisions::Cursor>) -> Follow {
        Follow::durable(&self.0, cursor)
    }

    /// Who is never punished: the set that everything asks. It changes in place.
    pub fn allow(&self) -> Arc<ArcSwap<AllowSet>> {
        Arc::clone(&self.0.allow)
    }

    /// The same set, for those who must do something when it changes.
    pub fn watch_allow(&self) -> watch::Receiver<Arc<AllowSet>> {
        self.0.allow_changed.subscribe()
    }

    /// Lets profiles ask for reputations.
    pub fn set_reputations(&self, reputations: Arc<dyn Reputations>) {
        *self.0.reputations.write().unwrap_or_else(PoisonError::into_inner) = Some(reputations);
    }

    /// Says who is spared because of where he is.
    pub fn set_places(&self, places: Arc<dyn Places>) {
        *self.0.places.write().unwrap_or_else(PoisonError::into_inner) = Some(places);
    }

    /// Replaces the profiles.
    pub fn set_profiles(&self, profiles: Profiles) {
        self.0.profiles.store(Arc::new(profiles));
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Counts decisions, alerts and signs of life, the most frequent kinds only.
    pub async fn count(&self) -> Result<Snapshot, StoreError> {
        const KINDS: usize = 1000;
        let mut counts: HashMap<DecisionLabels, i64> = HashMap::new();
        let heartbeats = {
            let state = self.lock();
            let now = present();
            for row in state.table.iter().filter(|row| !row.simulated() && row.until() > now) {
                let labels = DecisionLabels {
                    reason: row.scenario().into(),
                    origin: row.origin().into(),
                    action: row.remediation().into(),
                };
                *counts.entry(labels).or_default() += 1;
            }
            let second = |machine: &Machine| Some((machine.name.clone(), machine.last_heartbeat?.as_second()));
            state.machines.values().filter_map(second).collect()
        };
        let mut decisions: Vec<_> = counts.into_iter().collect();
        decisions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        decisions.truncate(KINDS);
        let alerts = self.read(|store| store.alert_counts(KINDS)).await?;
        Ok(Snapshot { decisions, alerts, heartbeats, store_failing: self.trouble().is_some() })
    }

    /// Looks at the table.
    pub fn table<T>(&self, look: impl FnOnce(&Table, Timestamp) -> T) -> T {
        let now = Timestamp::now();
        look(&self.lock().table, now)
    }

    /// Asks the store, on a thread that may block.
    pub async fn read<T, F>(&self, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    {
        let store = Arc::clone(&self.0.store);
        tokio::task::spawn_blocking(move || question(store.as_ref())).await.map_err(|_| StoreError::Closed)?
    }

    /// What a bouncer gets that asks for what is new (spec: local-api 12). Once it has it, [`Service::note_pull`]
    /// notes the time of the answer.
    pub async fn pull(&self, bouncer: &str, request: Pull) -> Result<Pulled, StoreError> {
        let now = present();
        let (reached, last, scan) = {
            let state = self.lock();
            let row = state.bouncers.get(bouncer).filter(|_| !request.startup);
            let last = row.and_then(|row| Some(Last { at: row.last_pull?, decision: row.last_decision }));
            let reached = Last { at: now, decision: state.last_decision };
            (reached, last, stream::walk(&state.table, last, &request, reached))
        };
        // What was changed before must be in the store: the decisions that ended are read from there.
        let complete = tokio::time::timeout(PULL_PATIENCE, self.settled()).await.is_ok_and(|settled| settled.is_ok());
        let after = last.and_then(|last| last.ended_after(now));
        let ended = self.read(move |store| store.ended(after, now)).await?;
        let deleted = stream::deleted(&self.lock().table, &ended, last, &request, reached);
        Ok(Pulled { reached, deleted, complete, service: self.clone(), request, scan })
    }

    /// A walk through the decisions that `query` wants, in steps, so that nobody waits for it.
    pub fn walk(&self, query: Query, after: i64) -> Walk {
        let now = Timestamp::now();
        let scan = self.lock().table.scan(query, now).after(after);
        Walk { service: self.clone(), scan, now }
    }

    /// Notes that a bouncer got an answer.
    pub fn note_pull(&self, bouncer: &str, reached: Last) {
        let mut state = self.lock();
        if let Some(row) = state.bouncers.get_mut(bouncer) {
            row.last_pull = Some(reached.at);
            row.last_decision = reached.decision;
            state.touched_bouncers.insert(bouncer.to_owned());
        }
    }

    /// Waits until everything that has taken effect is durable, but not for ever.
    pub async fn settle(&self) -> Result<(), StoreError> {
        tokio::time::timeout(STORE_PATIENCE, self.settled()).await.unwrap_or(Err(StoreError::Late))
    }

    /// Since when the store cannot be written to, if it cannot: nothing new is acknowledged then, or survives a restart.
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.queue.trouble()
    }

    async fn settled(&self) -> Result<(), StoreError> {
        let job = self.lock().job;
        Receipt(Pending::Reached(self.0.queue.durable(), job)).durable().await
    }

    /// Looks after what is due: ends, touches, retention. Returns after [`Service::close`].
    pub async fn maintain(&self) {
        loop {
            if *self.0.closed.borrow() {
                return;
            }
            if let Err(error) = self.tidy().await {
                warn!(%error, "cannot tidy up the store");
            }
            let deadline = self.lock().table.deadline();
            let until_due = deadline.map_or(TOUCH_EVERY, |at| {
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default().min(TOUCH_EVERY)
            });
            tokio::select! {
                () = tokio::time::sleep(until_due.max(Duration::from_millis(100))) => {}
                () = self.0.wake.notified() => {}
            }
        }
    }

    /// Writes what is left, and ends feeds. Everything that took effect is durable afterwards.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.0.closed.send_replace(true);
        self.0.wake.notify_one();
        let written = async {
            self.tidy().await?;
            self.0.applied.send_modify(|_| ());
            self.settled().await
        };
        let late = |_| Err(StoreError::Database("it did not take everything in time".into()));
        tokio::time::timeout(CLOSE_PATIENCE, written).await.unwrap_or_else(late)
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        let options = &self.0.options;
        let (expired_items, receipt) = self
            .change(|state, now| {
                let mut writes = state.touches();
                let expired = state.drop_expired_items(now, &mut writes);
                if now.duration_since(state.retained) >= RETAIN_EVERY {
                    state.retained = now;
                    let before = |age: SignedDuration| now.checked_sub(age).ok();
                    state.forget_seen(before(SEEN_FOR));
                    let below = options.max_alerts.map(|max| state.last_alert.saturating_sub_unsigned(max));
                    if let Some(history) = &mut state.history {
                        history.forget(options.max_age.and_then(before), below, now);
                    }
                    // Counting costs; it is worth it once there can be many more.
                    let many = state.last_decision - state.counted >= COUNT_EVERY;
                    if many {
                        state.counted = state.last_decision;
                    }
                    writes.push(Write::Retain(Retention {
                        max_ended: options.max_ended.filter(|_| many),
                        max_alerts: options.max_alerts,
                        alerts_before: options.max_age.and_then(before),
                        metrics_before: before(options.metrics_max_age),
                        evidence_before: before(options.evidence_max_age),
                        max_audit: Some(options.max_audit),
                        seen_before: before(SEEN_FOR),
                        strikes_until: state.ladder.forget(now),
                        now,
                    }));
                }
                if expired {
                    self.publish_allow(state);
                }
                (expired, writes)
            })
            .await?;
        if expired_items {
            info!("allowlist items ended");
        }
        receipt.durable().await
    }

    /// Makes a change: `work` alters the state and says what to write. Its effect is visible when this returns;
    /// the receipt says when it is durable, together with everything before it.
    async fn change<T>(
        &self,
        work: impl FnOnce(&mut State, Timestamp) -> (T, Vec<Write>),
    ) -> Result<(T, Receipt), StoreError> {
        let permit = self.0.queue.reserve().await?;
        let mut state = self.lock();
        let now = present();
        state.table.expire(now);
        let (answer, mut writes) = work(&mut state, now);
        let entries = audit::entries(&self.1, &writes, now);
        writes.extend(entries.into_iter().map(|entry| Write::Audit(Box::new(entry))));
        let change = state.table.cursor().number;
        let receipt = if writes.is_empty() {
            Receipt(Pending::Reached(self.0.queue.durable(), state.job))
        } else {
            state.job += 1;
            let (done, receiver) = oneshot::channel();
            debug!(by = %self.1, job = state.job, writes = writes.len(), "change");
            permit.send(Job { writes, reached: Durable { job: state.job, change }, done: Some(done) });
            Receipt(Pending::Job(receiver))
        };
        self.0.metrics.decisions.set(state.table.len() as i64);
        drop(state);
        self.0.applied.send_if_modified(|applied| std::mem::replace(applied, change.max(*applied)) < change);
        Ok((answer, receipt))
    }

    /// Puts into the audit trail that the author did `action` to `subject`: something that changes no decision or account.
    pub async fn note(&self, action: &'static str, subject: &str) -> Result<Receipt, StoreError> {
        let entry = |_: &mut State, now| ((), vec![Write::Audit(Box::new(self.1.did(action, subject, now)))]);
        Ok(self.change(entry).await?.1)
    }

    /// Queues writes at the start, when the queue is empty.
    fn queue_writes(&self, state: &mut State, mut writes: Vec<Write>) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let entries = audit::entries(&self.1, &writes, present());
        writes.extend(entries.into_iter().map(|entry| Write::Audit(Box::new(entry))));
        state.job += 1;
        let reached = Durable { job: state.job, change: state.table.cursor().number };
        self.0.queue.send(Job { writes, reached, done: None })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks an alert, and asks the profiles what to do unless it says so itself.
    fn prepare(&self, machine: &str, mut alert: Alert, now: Timestamp) -> Result<Prepared, SubmitError> {
        wire::normalise(&mut alert);
        let time = |text: &str| wire::parse_time(text).unwrap_or(now);
        let (started, stopped) = (time(&alert.start_at), time(&alert.stop_at));
        for (text, at) in [(&mut alert.start_at, started), (&mut alert.stop_at, stopped)] {
            if wire::parse_time(text).is_none() {
                *text = wire::seconds(at);
            }
        }
        let seen = (!alert.uuid.is_empty()).then(|| seen_key(machine, &alert.uuid));
        machine.clone_into(&mut alert.machine_id);
        let supplied = alert.decisions.take().unwrap_or_default();
        let is_supplied = !supplied.is_empty();
        let (mut decisions, ladder) = if is_supplied {
            (supplied, false)
        } else {
            let lookup = Knowledge { service: self, now, may_block: true };
            let verdict = self.0.profiles.load().judge(&alert, &lookup)?;
            (verdict.decisions, verdict.ladder)
        };
        for decision in &decisions {
            let fields = [
                ("origin", &decision.origin),
                ("type", &decision.remediation),
                ("scope", &decision.scope),
                ("value", &decision.value),
                ("scenario", &decision.scenario),
            ];
            if let Some((field, _)) = fields.into_iter().find(|(_, text)| text.len() > MAX_FIELD) {
                return Err(SubmitError::TooLong { field });
            }
            if model::duration::parse_with_days(&decision.duration).is_err() {
                return Err(SubmitError::Duration(decision.duration.clone()));
            }
        }
        let spared = self.spare(&mut decisions);
        if !is_supplied && let Some(first) = spared.first() {
            info!(value = first.value, scenario = alert.scenario, reason = first.reason, "spared because of its place");
            let evidence = alert.cordon.get_or_insert_default();
            evidence.allow_checks.push(format!("decide: not banned, see {}", first.reason));
        }
        // Only now: profiles may ask for what nobody shall read later.
        self.0.options.masks.apply(&mut alert);
        Ok(Prepared { alert, started, stopped, decisions, spared, supplied: is_supplied, ladder, seen })
    }

    /// Takes out the bans whose targets are spared because of where they are. What a person bans by hand stays.
    fn spare(&self, decisions: &mut Vec<DecisionBody>) -> Vec<Refusal> {
        let places = self.0.places.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(places) = places else { return Vec::new() };
        let mut spared = Vec::new();
        decisions.retain(|body| {
            let asked = body.remediation.eq_ignore_ascii_case("ban") && body.origin != BY_HAND;
            let reason = asked.then(|| places.spares(&Scope::new(&body.scope), &body.value)).flatten();
            let stays = reason.is_none();
            spared.extend(reason.map(|reason| Refusal { value: body.value.clone(), reason }));
            stays
        });
        spared
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}

/// The bans of one alert, and how long they last.
struct Climb<'a> {
    ladder: &'a mut Ladder,
    table: &'a Table,
    /// Visitors of this alert: how long they are banned, and what is to be written. An alert is one visit.
    done: Vec<(ipnet::IpNet, SignedDuration, Option<Write>)>,
    now: Timestamp,
}

impl Climb<'_> {
    /// How long a ban of `net` lasts that would last `own`.
    fn ban(&mut self, net: ipnet::IpNet, own: SignedDuration) -> SignedDuration {
        let visitor = ladder::visitor(net);
        if let Some((_, lasts, _)) = self.done.iter().find(|(known, ..)| *known == visitor) {
            return own.max(*lasts);
        }
        let query = Query { net: Some((visitor, Reach::Touches)), remediation: Some("ban".into()), ..Query::default() };
        let visiting = !self.table.select(&query, self.now).is_empty();
        let (lasts, strikes) = self.ladder.strike(net, own, visiting, self.now);
        self.done.push((visitor, lasts, strikes.map(|(visitor, strikes)| Write::PutStrikes(visitor, strikes))));
        lasts
    }
}

/// Why an alert is not stored.
enum Unaccepted {
    /// Its source is never punished.
    Allowed,
    /// None of its decisions could be made.
    Empty,
}

impl State {
    /// Gives an alert its number and makes its decisions. An alert that was here before only tells its number.
    fn accept(
        &mut self,
        prepared: Prepared,
        allow: &AllowSet,
        now: Timestamp,
        refused: &mut Vec<Refusal>,
    ) -> Result<(i64, Vec<Write>), Unaccepted> {
        let Prepared { mut alert, started, stopped, decisions: bodies, spared, supplied, ladder, seen } = prepared;
        if let Some(&id) = seen.as_ref().and_then(|key| self.seen.get(key)) {
            return Ok((id, Vec::new()));
        }
        if !supplied
            && let Some(net) = net_of(&Scope::new(&alert.source.scope), &alert.source.value)
            && let Some(entry) = allow.touches(net, now)
        {
            info!(
                value = alert.source.value,
                scenario = alert.scenario,
                reason = entry.reason(),
                "dropped an alert: its source is allowed"
            );
            return Err(Unaccepted::Allowed);
        }
        // What profiles decided leaves its alert behind; a list of which nothing is left does not.
        let asked = bodies.len() + if supplied { spared.len() } else { 0 };
        refused.extend(spared);
        let mut decisions: Vec<Decision> = Vec::with_capacity(bodies.len());
        let mut climb = Climb { ladder: &mut self.ladder, table: &self.table, done: Vec::new(), now };
        for body in bodies {
            let scope = Scope::new(&body.scope);
            let mut target = None;
            if matches!(scope, Scope::Ip | Scope::Range) {
                let Some(net) = net_of(&scope, &body.value) else {
                    warn!(value = body.value, scope = %scope, "dropped a decision: not an address");
                    continue;
                };
                if let Some(entry) = allow.touches(net, now) {
                    refused.push(Refusal { value: body.value, reason: entry.reason() });
                    continue;
                }
                target = Some(net);
            }
            let Ok(own) = model::duration::parse_with_days(&body.duration) else { continue };
            let simulated = alert.simulated || (!supplied && body.simulated == Some(true));
            let ends = |lasts| stopped.saturating_add(lasts).unwrap_or(Timestamp::MAX);
            let until = match target {
                Some(net) if ladder && !simulated && body.remediation == "ban" && ends(own) > now => {
                    ends(climb.ban(net, own))
                }
                _ => ends(own),
            };
            decisions.push(Decision {
                id: 0,
                uuid: Uuid::new_v4().to_string(),
                origin: CompactString::from(body.origin),
                remediation: body.remediation.into(),
                scope,
                value: body.value.into(),
                scenario: body.scenario.into(),
                created_at: now,
                until: from_micros(to_micros(until)),
                simulated,
                alert_id: self.last_alert + 1,
            });
        }
        let strikes: Vec<Write> = climb.done.into_iter().filter_map(|(_, _, write)| write).collect();
        if decisions.is_empty() && asked > 0 {
            return Err(Unaccepted::Empty);
        }
        self.last_alert += 1;
        alert.id = self.last_alert;
        if alert.uuid.is_empty() {
            alert.uuid = Uuid::new_v4().to_string();
        }
        if let Some(key) = seen {
            self.remember(key, alert.id, now);
        }
        let logged = decisions.len() <= LOGGED;
        if !logged {
            info!(machine = alert.machine_id, scenario = alert.scenario, count = decisions.len(), "decisions");
        }
        let decisions = decisions
            .into_iter()
            .map(|mut decision| {
                self.last_decision += 1;
                decision.id = self.last_decision;
                if logged {
                    info!(
                        machine = alert.machine_id, origin = %decision.origin, scenario = alert.scenario,
                        remediation = %decision.remediation, scope = %decision.scope, value = %decision.value,
                        until = %decision.until, simulated = decision.simulated, "decision"
                    );
                }
                if let Some(history) = &mut self.history
                    && let Some(net) = net_of(&decision.scope, &decision.value)
                {
                    history.add(Past::new(net, alert.id, now, decision.until));
                }
                let change = if decision.is_active(now) { self.table.add(&decision) } else { 0 };
                (decision, change)
            })
            .collect();
        let id = alert.id;
        wire::limit(&mut alert);
        let new = NewAlert { alert, created_at: now, started_at: started, decisions, seen, supplied };
        Ok((id, std::iter::once(Write::Alert(Box::new(new))).chain(strikes).collect()))
    }

    fn lift(&mut self, ids: impl IntoIterator<Item = i64>, now: Timestamp) -> Vec<Write> {
        let lift = |id| {
            let (change, decision) = self.table.lift(id, now)?;
            Some(Lift { id, change, target: decision.value })
        };
        let lifted: Vec<Lift> = ids.into_iter().filter_map(lift).collect();
        if lifted.is_empty() { Vec::new() } else { vec![Write::Lift { lifted, until: now }] }
    }

    fn remember(&mut self, key: SeenKey, alert: i64, at: Timestamp) {
        if self.seen.len() >= SEEN_MAX
            && let Some((_, oldest)) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(key, alert);
        self.seen_order.push_back((at, key));
    }

    fn forget_seen(&mut self, before: Option<Timestamp>) {
        while let Some(&(at, key)) = self.seen_order.front()
            && before.is_some_and(|before| at < before)
        {
            self.seen_order.pop_front();
            self.seen.remove(&key);
        }
    }

    /// Accounts whose last sign of life is not written yet.
    fn touches(&mut self) -> Vec<Write> {
        let machines = std::mem::take(&mut self.touched_machines);
        let bouncers = std::mem::take(&mut self.touched_bouncers);
        let machines = machines.iter().filter_map(|name| self.machines.get(name));
        let bouncers = bouncers.iter().filter_map(|name| self.bouncers.get(name));
        machines
            .map(|machine| Write::PutMachine(Box::new(machine.clone())))
            .chain(bouncers.map(|bouncer| Write::PutBouncer(Box::new(bouncer.clone()))))
            .collect()
    }
}

/// The present, in the precision of tables and stores.
fn present() -> Timestamp {
    from_micros(to_micros(Timestamp::now()))
}

/// Which identity of which machine: one machine cannot claim another's.
fn seen_key(machine: &str, uuid: &str) -> SeenKey {
    let digest = Sha256::new().chain_update(machine).chain_update([0]).chain_update(uuid).finalize();
    let mut key = [0; 16];
    key.copy_from_slice(digest.split_at(16).0);
    key
}

/// What profiles and rules may ask about decisions.
struct Knowledge<'a> {
    service: &'a Service,
    now: Timestamp,
    /// Whether the store may be asked for what is not in memory.
    may_block: bool,
}

impl Lookup for Knowledge<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn ever(&self, net: ipnet::IpNet, since: Option<Timestamp>) -> i64 {
        if let Some(history) = &self.service.lock().history {
            return history.count(net, since);
        }
        if !self.may_block {
            return 0;
        }
        // A look into an index; a thread of its own would cost more.
        self.service.0.store.count_covering(net, since).unwrap_or_else(|error| {
            warn!(%error, "cannot count decisions for a profile");
            0
        })
    }

    fn active(&self, net: ipnet::IpNet) -> (i64, Option<Timestamp>) {
        let query = Query { net: Some((net, Reach::Covers)), simulated: true, ..Query::default() };
        let rows = self.service.lock().table.select(&query, self.now);
        (rows.len() as i64, rows.iter().map(Row::until).max())
    }

    fn reputation(&self, ip: &str) -> Reputation {
        let known = self.service.0.reputations.read().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(reputations) => reputations.reputation(ip),
            None => Reputation::Failed("the configuration names no reputation service".into()),
        }
    }
}
