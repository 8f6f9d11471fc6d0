//! Keeps policies in force: puts them into the kernel, renews their lease, follows databases and decisions.
//!
//! The kernel forgets policies by itself when nobody renews them. So does it with those that a person has yet to confirm: they
//! are held until a moment that is known beforehand, and nobody has to be alive to undo them.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use crate::engine::Status as EngineStatus;
use crate::engine::span::{TimedSpan, flatten};
use crate::engine::status::RegionBan;
use crate::geo::atlas::{Atlas, Wanted};
use crate::geo::config::Config;
use crate::geo::load::{Knowledge, Loaded};
use crate::geo::part::{Hold, counter, part};
use crate::geo::peers;
use crate::geo::policy::Policy;
use crate::geo::ranges::Ranges;
use crate::geo::status::{Force, PolicyStatus, RegionStatus, Status};
use crate::nftables::Parts;

/// How often is looked whether interfaces have appeared, somebody has confirmed, the lease is due.
const LOOK: Duration = Duration::from_secs(2);
/// How often counters are read.
const COUNT: Duration = Duration::from_secs(10);
/// As good as for ever, for policies without a lease.
const LASTING: Duration = Duration::from_hours(365 * 24);
/// The lease of policies that a person has yet to confirm is never without an end.
const FALLBACK_LEASE: SignedDuration = SignedDuration::from_secs(90);
/// Interfaces that are remembered, also while they are gone: a line that is dialled again has its old name.
const MAX_INTERFACES: usize = 4096;

/// The policies that hold, or held last.
const CONFIRMED: &str = "geo.confirmed";
/// Policies that wait for a person.
pub const PENDING: &str = "geo.pending";

/// What connects the keeper to the rest of the process.
pub struct Wiring {
    /// The way into the kernel; `None` where nothing may be changed.
    pub parts: Option<Parts>,
    /// The databases.
    pub knowledge: watch::Receiver<Knowledge>,
    /// What the engine says, decisions about regions among it.
    pub engine: watch::Receiver<EngineStatus>,
    /// Where the keeper says how it is.
    pub status: watch::Sender<Status>,
    /// The folder where is remembered what was confirmed.
    pub state: PathBuf,
}

/// Lets a person confirm the policies that wait in the folder `state`. False if none do.
pub fn confirm(state: &Path) -> io::Result<bool> {
    match std::fs::rename(state.join(PENDING), state.join(CONFIRMED)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Since when policies wait for a person, if any do.
pub fn pending_since(state: &Path) -> io::Result<Option<Timestamp>> {
    match std::fs::metadata(state.join(PENDING)).and_then(|metadata| metadata.modified()) {
        Ok(modified) => Ok(Timestamp::try_from(modified).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps what `config` wants in force until `shutdown` is done. What is in the kernel then stays until its lease ends.
pub async fn keep(config: Config, wiring: Wiring, shutdown: impl Future<Output = ()> + Send) {
    let mut shutdown = pin!(shutdown);
    let Wiring { parts, mut knowledge, mut engine, status, state } = wiring;
    let refusal = parts.as_ref().map(Parts::refusal);
    let mut keeper = Keeper::new(config, parts, status, state);
    keeper.bans = engine.borrow_and_update().regions.clone();
    keeper.knowledge = knowledge.borrow_and_update().clone();
    keeper.compose().await;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut hears_databases, mut hears_engine) = (true, true);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            changed = knowledge.changed(), if hears_databases => {
                hears_databases = changed.is_ok();
                let before = keeper.knowledge.loaded.clone();
                keeper.knowledge = knowledge.borrow_and_update().clone();
                let same = match (&before, &keeper.knowledge.loaded) {
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    (before, now) => before.is_none() && now.is_none(),
                };
                if !same {
                    keeper.compose().await;
                }
            }
            changed = engine.changed(), if hears_engine => {
                hears_engine = changed.is_ok();
                let bans = engine.borrow_and_update().regions.clone();
                if bans != keeper.bans {
                    keeper.bans = bans;
                    keeper.compose().await;
                }
            }
            _ = look.tick() => keeper.look().await,
        }
        keeper.refused = refusal.as_ref().and_then(|refusal| refusal.borrow().clone());
        keeper.publish();
    }
}

/// Whether the policies may be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consent {
    /// They may.
    Given,
    /// They hold until then, unless a person confirms them.
    Awaited(Timestamp),
    /// Nobody did: those from before hold again.
    Lapsed,
}

struct Keeper {
    config: Config,
    parts: Option<Parts>,
    shown: watch::Sender<Status>,
    status: Status,
    state: PathBuf,
    knowledge: Knowledge,
    bans: Vec<RegionBan>,
    consent: Consent,
    /// The policies that a person confirmed last.
    confirmed: Vec<Policy>,
    holds: Vec<Hold>,
    /// Every interface that was ever seen.
    interfaces: BTreeSet<String>,
    renewed: Option<Instant>,
    counted: Option<Instant>,
    /// Which of its two names each set has.
    second: bool,
    /// Why the kernel does not take what it was given.
    refused: Option<String>,
    /// Why the lease could not be renewed.
    unrenewed: Option<String>,
}

impl Keeper {
    fn new(config: Config, parts: Option<Parts>, shown: watch::Sender<Status>, state: PathBuf) -> Self {
        let confirmed = std::fs::read(state.join(CONFIRMED)).ok();
        let confirmed: Option<Vec<Policy>> = confirmed.and_then(|text| serde_json::from_slice(&text).ok());
        let wanted = confirmed.as_ref() == Some(&config.policies) || config.policies.is_empty();
        let mut keeper = Self {
            consent: Consent::Given,
            confirmed: confirmed.unwrap_or_default(),
            parts,
            shown,
            status: Status::default(),
            state,
            knowledge: Knowledge::default(),
            bans: Vec::new(),
            holds: Vec::new(),
            interfaces: BTreeSet::new(),
            renewed: None,
            counted: None,
            second: false,
            refused: None,
            unrenewed: None,
            config,
        };
        // a dry run changes nothing that a person could have to confirm
        if keeper.parts.is_some() {
            match keeper.config.confirm {
                Some(within) if !wanted => keeper.await_consent(within),
                _ => keeper.remember(CONFIRMED),
            }
        }
        keeper
    }

    fn await_consent(&mut self, within: SignedDuration) {
        let until = Timestamp::now().saturating_add(within).unwrap_or(Timestamp::MAX);
        self.consent = Consent::Awaited(until);
        self.remember(PENDING);
        warn!(%until, "geo policies have changed: they hold until then, unless `cordon geo confirm` keeps them");
    }

    /// Writes the wanted policies into the state folder.
    fn remember(&self, name: &str) {
        let text = serde_json::to_vec(&self.config.policies).unwrap_or_default();
        let new = self.state.join(format!("{name}.new"));
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, self.state.join(name)));
        if let Err(error) = written {
            warn!(%error, "cannot remember the geo policies");
        }
    }

    /// The policies that should hold.
    fn policies(&self) -> &[Policy] {
        if self.consent == Consent::Lapsed { &self.confirmed } else { &self.config.policies }
    }

    /// How long what is held now lasts.
    fn lease(&self, now: Timestamp) -> Duration {
        let of = |duration: SignedDuration| Duration::try_from(duration).unwrap_or_default();
        match self.consent {
            Consent::Awaited(until) => {
                of(until.duration_since(now)).min(of(self.config.lease.unwrap_or(FALLBACK_LEASE)))
            }
            _ => self.config.lease.map_or(LASTING, of),
        }
    }

    /// Works out everything anew and gives it to the kernel.
    async fn compose(&mut self) {
        let Some(loaded) = self.knowledge.loaded.clone() else { return };
        let (policies, bans, limit) = (self.policies().to_vec(), self.bans.clone(), self.config.max_country_ranges);
        let composing = tokio::task::spawn_blocking(move || Composed::of(&loaded, policies, &bans, limit));
        // an error means that the process is stopping
        let Ok(composed) = composing.await else { return };
        let composed = match composed {
            Ok(composed) => composed,
            Err(reason) => {
                error!(reason, "cannot work out the geo policies, what is in force stays");
                self.status.error = Some(reason);
                return;
            }
        };
        self.status.error = None;
        let dropped = std::mem::take(&mut self.status.policies);
        self.status.policies =
            composed.policies.iter().map(|(policy, ranges)| PolicyStatus::new(policy, ranges)).collect();
        for policy in &mut self.status.policies {
            let before = dropped.iter().find(|before| before.policy.name == policy.policy.name);
            policy.dropped = before.map(|before| before.dropped).unwrap_or_default();
            info!(policy = policy.policy.name, ranges = policy.ranges, in_kernel = self.parts.is_some(), "geo policy");
        }
        self.status.decisions = composed.decisions;
        let Some(parts) = &self.parts else { return };
        let leased = self.config.lease.is_some() || matches!(self.consent, Consent::Awaited(_));
        self.second = !self.second;
        let (part, holds) = part(&composed.policies, &composed.bans, leased, self.second);
        self.holds = holds;
        self.status.swaps += 1;
        parts.put(Some(part));
        self.renewed = None;
        self.look().await;
    }

    async fn look(&mut self) {
        self.consent_now().await;
        let before = self.interfaces.len();
        match peers::interfaces() {
            Ok(names) => {
                let fresh = names.into_iter().filter(|name| !self.interfaces.contains(name));
                let fresh: Vec<String> = fresh.take(MAX_INTERFACES.saturating_sub(before)).collect();
                self.interfaces.extend(fresh);
            }
            Err(error) => debug!(%error, "cannot list the interfaces of this host"),
        }
        let lease = self.lease(Timestamp::now());
        let due = self.renewed.is_none_or(|renewed| renewed.elapsed() >= lease / 3);
        if due || self.interfaces.len() != before {
            self.renew(lease).await;
        }
        if self.counted.is_none_or(|counted| counted.elapsed() >= COUNT) {
            self.counted = Some(Instant::now());
            self.count().await;
        }
    }

    /// Looks whether a person has confirmed, or whether it is too late for that.
    async fn consent_now(&mut self) {
        let Consent::Awaited(until) = self.consent else { return };
        let now = Timestamp::now();
        if matches!(pending_since(&self.state), Ok(None)) {
            info!("the geo policies were confirmed");
            self.consent = Consent::Given;
            self.confirmed.clone_from(&self.config.policies);
            self.renewed = None;
            if self.config.lease.is_none() {
                Box::pin(self.compose()).await;
            }
        } else if now >= until {
            error!("nobody confirmed the geo policies in time, those from before hold again");
            self.consent = Consent::Lapsed;
            // what was given up must not be confirmed later by mistake
            let _ = std::fs::remove_file(self.state.join(PENDING));
            Box::pin(self.compose()).await;
        }
    }

    /// Holds the interfaces for as long as the lease says.
    async fn renew(&mut self, lease: Duration) {
        let Some(parts) = self.parts.clone().filter(|_| !self.holds.is_empty() && !lease.is_zero()) else { return };
        let (holds, known) = (self.holds.clone(), self.interfaces.clone());
        let renewing = tokio::task::spawn_blocking(move || {
            holds.iter().try_for_each(|hold| {
                let names = hold.names(known.iter().map(String::as_str));
                if names.is_empty() { Ok(()) } else { parts.hold(hold.set, &names, lease) }
            })
        });
        match renewing.await {
            Ok(Ok(())) => {
                self.renewed = Some(Instant::now());
                self.unrenewed = None;
            }
            // The engine may not have made the sets yet; what is held is in them as soon as it does.
            Ok(Err(error)) => {
                debug!(%error, "cannot renew the lease of geo policies");
                self.unrenewed = Some(error.to_string());
            }
            // the process is stopping
            Err(_) => {}
        }
    }

    async fn count(&mut self) {
        let Some(parts) = self.parts.clone().filter(|_| !self.status.policies.is_empty()) else { return };
        let Ok(Ok(counters)) = tokio::task::spawn_blocking(move || parts.counters()).await else { return };
        for policy in &mut self.status.policies {
            let name = counter(&policy.policy.name);
            if let Some((_, traffic)) = counters.iter().find(|(found, _)| *found == name) {
                policy.dropped = *traffic;
            }
        }
    }

    fn publish(&mut self) {
        let now = Timestamp::now();
        self.status.database_error.clone_from(&self.knowledge.error);
        self.status.databases = self.knowledge.loaded.as_ref().map(|loaded| loaded.files.clone()).unwrap_or_default();
        let held = self.parts.is_some() && !self.status.policies.is_empty() && self.knowledge.loaded.is_some();
        let left = self.renewed.map(|renewed| self.lease(now).saturating_sub(renewed.elapsed()));
        let until = left.and_then(|left| now.checked_add(left).ok());
        self.status.force = match (self.consent, until) {
            (Consent::Lapsed, _) => Force::Lapsed,
            _ if !held => Force::Absent,
            (Consent::Awaited(until), Some(_)) => Force::Unconfirmed(until),
            _ if self.config.lease.is_none() && self.unrenewed.is_none() => Force::Lasting,
            (Consent::Given, Some(until)) => Force::Leased(until),
            (_, None) => Force::Absent,
        };
        let reason = self.refused.clone().or_else(|| self.unrenewed.clone());
        let status = Status { error: self.status.error.clone().or(reason), ..self.status.clone() };
        self.shown.send_if_modified(|shown| {
            let differs = *shown != status;
            if differs {
                *shown = status;
            }
            differs
        });
    }
}

/// What policies and decisions come to.
struct Composed {
    policies: Vec<(Policy, Ranges)>,
    bans: (Vec<TimedSpan>, Vec<TimedSpan>),
    decisions: Vec<RegionStatus>,
}

impl Composed {
    /// What `policies` and `bans` come to; bans with more than `limit` ranges together are refused, the later ones.
    fn of(loaded: &Loaded, policies: Vec<Policy>, bans: &[RegionBan], limit: usize) -> Result<Self, String> {
        let mut wanted = Wanted::default();
        for policy in &policies {
            policy.want(&mut wanted);
        }
        let more = bans.iter().any(|ban| loaded.atlas.region(ban.region).is_none())
            || wanted.regions.iter().any(|&region| loaded.atlas.region(region).is_none())
            || (wanted.known && loaded.atlas.known().is_empty());
        wanted.regions.extend(bans.iter().map(|ban| ban.region));
        let surveyed = if more {
            Some(Atlas::survey(&loaded.databases, &wanted).map_err(|error| error.to_string())?)
        } else {
            None
        };
        let atlas = surveyed.as_ref().unwrap_or(&loaded.atlas);
        let policies = policies.into_iter().map(|policy| {
            let dropped = policy.dropped(atlas);
            (policy, dropped)
        });
        let (mut decisions, mut used) = (Vec::new(), 0);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for ban in bans {
            let charted = atlas.region(ban.region).cloned().unwrap_or_default();
            let ranges = charted.ranges.len();
            let refused = match ranges {
                0 => Some("the databases have no networks for it".to_owned()),
                _ if used + ranges > limit => {
                    Some(format!("it would take more than {limit} ranges, see `geo.max_country_ranges`"))
                }
                _ => None,
            };
            if refused.is_none() {
                used += ranges;
                v4.extend(charted.ranges.v4.iter().map(|&span| (span, ban.until)));
                v6.extend(charted.ranges.v6.iter().map(|&span| (span, ban.until)));
            } else {
                warn!(region = %ban.region, ranges, "a decision about a region is not enforced");
            }
            decisions.push(RegionStatus { region: ban.region.to_string(), until: ban.until, ranges, refused });
        }
        Ok(Self { policies: policies.collect(), bans: (flatten(v4), flatten(v6)), decisions })
    }
}
