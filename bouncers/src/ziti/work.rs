//! Carries out what [`plan::next`](super::plan::next) says, and cuts what a disable leaves open.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::api::{Api, ApiError, Sessions};
use super::config::Options;
use super::events::Follower;
use super::index::{Index, Opened, address};
use super::journal::{Journal, JournalError, Record};
use super::name::{self, Name};
use super::plan::{Held, Lock, Seen, Standing, Step, Wish, next};
use super::wire::Identity;
use crate::engine::desired::{Key, Subject};
use crate::engine::plan::{Placed, Placement};
use crate::engine::span::number;

/// How long a name stands for the same identity.
const RESOLVED: Duration = Duration::from_mins(1);
/// How long the network is taken to be as it was.
const SETTLED: Duration = Duration::from_mins(1);
/// Names that are remembered.
const MAX_NAMES: usize = 10_000;
/// Steps for one identity in one go; the longest way has fewer.
const STEPS: usize = 16;
/// How long a token may live that a controller before 2.0 gave out, and some more.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_mins(35);
/// How often an identity with such a token is looked at.
const WATCH: Duration = Duration::from_secs(2);
/// How often everything is looked at.
const SYNC: Duration = Duration::from_mins(1);
/// New addresses up to which each is asked for by itself.
const FEW: usize = 16;

/// Why the work stopped.
#[derive(Debug, thiserror::Error)]
pub enum ZitiError {
    /// A controller did not do what it should.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What is ours cannot be written down, so nothing is done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// How one entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing more is to be done.
    Done(Standing),
    /// It is disabled, but something is not cut yet, and why.
    Partial(String),
    /// A rail or the controller keeps it from being done, and why.
    Refused(String),
}

/// What is known of the network.
#[derive(Clone, Debug)]
struct Network {
    me: String,
    admin: bool,
    /// The first number of the version; 0 where it is not told.
    major: u32,
    at: Instant,
}

/// One identity that is to be banned.
#[derive(Clone, Debug)]
struct Target {
    until: Timestamp,
    keys: Vec<Key>,
}

impl Target {
    fn values(&self) -> Vec<String> {
        self.keys.iter().map(Key::value).collect()
    }
}

/// One Ziti network, driven to what is wished.
#[derive(Debug)]
pub struct Work {
    options: Options,
    api: Api,
    journal: Journal,
    network: Option<Network>,
    names: HashMap<Name, (Option<String>, Instant)>,
    protected: BTreeSet<String>,
    index: Index,
    followers: Vec<Follower>,
    /// Until when each identity is to be banned, as decisions name it.
    identities: BTreeMap<Key, Timestamp>,
    sessions: BTreeMap<Key, Timestamp>,
    /// Sessions of the newer kind that are revoked: no list shows them.
    revoked: BTreeSet<String>,
    /// When a disable of somebody else ends that covers a ban of ours.
    covered: Option<Timestamp>,
}

impl Work {
    /// Nothing wished yet, and nobody asked.
    pub fn new(options: Options, api: Api, journal: Journal) -> Self {
        let followers = options.events.iter().cloned().map(Follower::new).collect();
        Self {
            options,
            api,
            journal,
            network: None,
            names: HashMap::new(),
            protected: BTreeSet::new(),
            index: Index::default(),
            followers,
            identities: BTreeMap::new(),
            sessions: BTreeMap::new(),
            revoked: BTreeSet::new(),
            covered: None,
        }
    }

    /// The controllers, for questions beside the work.
    pub fn api(&mut self) -> &mut Api {
        &mut self.api
    }

    /// What is ours.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whether something is ours that nobody wishes.
    pub fn has_surplus(&self) -> bool {
        let wished: BTreeSet<String> = self.identities.keys().map(Key::value).collect();
        self.journal.records().values().any(|record| !record.values.iter().any(|value| wished.contains(value)))
    }

    /// Learns who we are and whom we talk to, unless that is known.
    pub async fn connect(&mut self) -> Result<(), ZitiError> {
        if self.network.as_ref().is_some_and(|network| network.at.elapsed() < SETTLED) {
            return Ok(());
        }
        let me = self.api.me().await?;
        let version = self.api.version().await?;
        self.api.discover().await?;
        let major = major(&version.version);
        if self.network.is_none() {
            info!(version = version.version, identity = me.name, admin = me.is_admin, "connected to the Ziti network");
        }
        self.network = Some(Network { me: me.id, admin: me.is_admin, major, at: Instant::now() });
        let mut protected = BTreeSet::new();
        for name in self.options.protect.clone() {
            match self.resolve(&name).await {
                Ok(Some(id)) => drop(protected.insert(id)),
                Ok(None) => warn!(%name, "an identity to be protected is not there"),
                // A rail must not be lost because of a passing fault.
                Err(error) => return Err(error),
            }
        }
        self.protected = protected;
        Ok(())
    }

    /// Makes what `keys` say wished or not, until then; other keys are not for here.
    pub fn wish<'a>(&mut self, keys: impl IntoIterator<Item = (&'a Key, Option<Timestamp>)>) {
        for (key, until) in keys {
            let map = match kind(key) {
                Some(Kind::Identity) => &mut self.identities,
                Some(Kind::Session) => &mut self.sessions,
                None => continue,
            };
            match until {
                Some(until) => drop(map.insert(key.clone(), until)),
                None => drop(map.remove(key)),
            }
        }
    }

    /// Forgets every wish.
    pub fn wish_nothing(&mut self) {
        self.identities.clear();
        self.sessions.clear();
    }

    /// Brings the identities that `only` names, or all, and everything that is ours to what is wished. Answers how
    /// each value stands.
    pub async fn settle(&mut self, only: Option<&BTreeSet<Key>>) -> Result<BTreeMap<Key, Settled>, ZitiError> {
        self.journal.own()?;
        self.connect().await?;
        let mut settled = BTreeMap::new();
        let targets = self.targets(only, &mut settled).await?;
        let mut ids = self.concerned(only, &targets);
        // The longest ban first, lifts last: whoever waits in the queue should be the least harmful.
        ids.sort_by_key(|id| std::cmp::Reverse(targets.get(id).map(|target| target.until)));
        let mut diallers = None;
        self.covered = None;
        for id in ids {
            let target = targets.get(&id);
            let outcome = match self.settle_one(&id, target, &mut diallers).await {
                Ok(outcome) => outcome,
                Err(ZitiError::Api(error)) if error.is_of_item() => Settled::Refused(error.to_string()),
                Err(error) => return Err(error),
            };
            if let Settled::Done(Standing::Foreign(Some(until))) = outcome {
                self.covered = Some(self.covered.map_or(until, |covered| covered.min(until)));
            }
            for key in target.map(|target| target.keys.as_slice()).unwrap_or_default() {
                settled.insert(key.clone(), outcome.clone());
            }
        }
        Ok(settled)
    }

    /// The identities that `only` is about, or all that are wished or ours.
    fn concerned(&self, only: Option<&BTreeSet<Key>>, targets: &BTreeMap<String, Target>) -> Vec<String> {
        let wanted: Option<BTreeSet<String>> = only.map(|only| only.iter().map(Key::value).collect());
        let named = |record: &Record| {
            wanted.as_ref().is_none_or(|wanted| record.values.iter().any(|value| wanted.contains(value)))
        };
        let ours = self.journal.records().iter().filter(|(_, record)| named(record)).map(|(id, _)| id);
        let asked = |target: &Target| only.is_none_or(|only| target.keys.iter().any(|key| only.contains(key)));
        let wished = targets.iter().filter(|(_, target)| asked(target)).map(|(id, _)| id);
        ours.chain(wished).collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    /// Which identities the wishes mean. What means none is settled at once.
    async fn targets(
        &mut self,
        only: Option<&BTreeSet<Key>>,
        settled: &mut BTreeMap<Key, Settled>,
    ) -> Result<BTreeMap<String, Target>, ZitiError> {
        let mut targets: BTreeMap<String, Target> = BTreeMap::new();
        for (key, until) in self.identities.clone() {
            let value = key.value();
            let known = self.journal.records().iter().find(|(_, record)| record.values.contains(&value));
            let id = match known {
                Some((id, _)) => id.clone(),
                None if only.is_some_and(|only| !only.contains(&key)) => continue,
                None => match self.find(&value).await {
                    Ok(Some(id)) => id,
                    Ok(None) => {
                        settled.insert(key, Settled::Done(Standing::Gone));
                        continue;
                    }
                    Err(ZitiError::Api(error)) if error.is_of_item() => {
                        settled.insert(key, Settled::Refused(error.to_string()));
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let target = targets.entry(id).or_insert(Target { until, keys: Vec::new() });
            target.until = target.until.max(until);
            target.keys.push(key);
        }
        Ok(targets)
    }

    async fn find(&mut self, value: &str) -> Result<Option<String>, ZitiError> {
        let name = Name::parse(value).map_err(ApiError::from)?;
        self.resolve(&name).await
    }

    /// The id that `name` stands for; `None` if nobody has it.
    async fn resolve(&mut self, name: &Name) -> Result<Option<String>, ZitiError> {
        if let Name::Id(id) = name {
            return Ok(Some(id.clone()));
        }
        if let Some((id, at)) = self.names.get(name)
            && at.elapsed() < RESOLVED
        {
            return Ok(id.clone());
        }
        let found = match self.api.find(name).await {
            Ok(identity) => Some(identity.id),
            Err(ApiError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(name.clone(), (found.clone(), Instant::now()));
        Ok(found)
    }

    /// Whether `id` has circuits, asked once for all that `known` remembers. Without an answer nobody is thought to
    /// have any: the next look asks again.
    async fn dials(&mut self, id: &str, known: &mut Option<HashSet<String>>) -> bool {
        if known.is_none() {
            let diallers = match self.api.circuits().await {
                Ok((circuits, _)) => {
                    circuits.iter().filter_map(|(_, circuit)| circuit.dialler().map(str::to_owned)).collect()
                }
                Err(error) => {
                    debug!(%error, "cannot list circuits");
                    HashSet::new()
                }
            };
            *known = Some(diallers);
        }
        known.as_ref().is_some_and(|known| known.contains(id))
    }

    async fn settle_one(
        &mut self,
        id: &str,
        target: Option<&Target>,
        diallers: &mut Option<HashSet<String>>,
    ) -> Result<Settled, ZitiError> {
        let mut seen = None;
        let mut refusal = None;
        let mut done: Vec<Step> = Vec::new();
        for _ in 0..STEPS {
            let (look, open) = if let Some(known) = seen {
                known
            } else {
                let identity = self.look(id).await?;
                let wanted = target.is_some().then_some(identity.as_ref()).flatten();
                if refusal.is_none() {
                    refusal = wanted.and_then(|identity| self.refusal(id, identity));
                }
                let open = match wanted {
                    Some(identity) if identity.disabled => self.is_open(identity).await?,
                    _ => false,
                };
                let look = (identity.as_ref().map_or(Seen::Gone, Identity::seen), open);
                seen = Some(look);
                look
            };
            let (now, wish) = self.wish_for(target.filter(|_| refusal.is_none()));
            let held = self.journal.held(id);
            let mut step = next(now, wish, held, look, open);
            // Circuits are asked for last: a controller that hangs must not put off the disable.
            if banned(step) && !done.contains(&Step::Cut) && self.dials(id, diallers).await {
                step = next(now, wish, held, look, true);
            }
            match step {
                Step::Rest(standing) => {
                    return Ok(match (refusal, target) {
                        (Some(reason), Some(_)) => Settled::Refused(reason),
                        _ => Settled::Done(standing),
                    });
                }
                Step::Note(held) => self.note(id, held, target)?,
                call if done.contains(&call) => {
                    return Ok(Settled::Partial(match call {
                        Step::Cut => "it still has sessions or circuits".to_owned(),
                        _ => "the controller does not show the change yet".to_owned(),
                    }));
                }
                Step::Disable(minutes) => {
                    info!(identity = id, minutes, "disabling an identity");
                    found(self.api.disable(id, minutes).await)?;
                    seen = None;
                }
                Step::Renew => {
                    found(self.api.enable(id).await)?;
                    seen = None;
                }
                Step::Lift => {
                    info!(identity = id, "enabling an identity");
                    found(self.api.enable(id).await)?;
                    self.journal.note(id, None)?;
                    seen = None;
                }
                Step::Cut => {
                    if let Some(reason) = self.cut(id).await? {
                        return Ok(Settled::Partial(reason));
                    }
                    if let Some(Held::Ours { lock, .. }) = self.journal.held(id) {
                        self.note(id, Some(Held::Ours { lock, cut: true }), target)?;
                    }
                    seen = None;
                }
            }
            if !matches!(step, Step::Note(_)) {
                done.push(step);
            }
        }
        Ok(Settled::Partial("the controller changes faster than it can be followed".to_owned()))
    }

    /// What is wished of `target`, by the controller's clock, and what that shows.
    fn wish_for(&self, target: Option<&Target>) -> (Timestamp, Wish) {
        let shift = |at: Timestamp| at.checked_add(self.api.ahead()).unwrap_or(at);
        let until = target.map(|target| shift(target.until));
        (shift(Timestamp::now()), Wish { until, reassert: self.options.reassert })
    }

    async fn look(&mut self, id: &str) -> Result<Option<Identity>, ZitiError> {
        match self.api.identity(id).await {
            Ok(identity) => Ok(Some(identity)),
            Err(ApiError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an identity still has sessions of the older kind.
    async fn is_open(&mut self, identity: &Identity) -> Result<bool, ZitiError> {
        if !identity.has_api_session {
            return Ok(false);
        }
        Ok(!self.api.sessions(Sessions::Of(&identity.id)).await?.is_empty())
    }

    fn note(&mut self, id: &str, held: Option<Held>, target: Option<&Target>) -> Result<(), ZitiError> {
        let before = self.journal.held(id);
        if let Some(Held::Yielded { .. }) = held {
            warn!(
                identity = id,
                "a person enabled an identity that is banned; the ban gives way\nhint: lift the decision with `cordon decisions delete`, \
                 or set `reassert: true`"
            );
        }
        if let (None, Some(Held::Ours { lock, .. })) = (held, before) {
            warn!(identity = id, disabled_at = %lock.at, "somebody else changed an identity that we disabled; it is theirs now");
        }
        let known = self.journal.records().get(id).map(|record| record.values.clone());
        let values = target.map(Target::values).or(known).unwrap_or_default();
        self.journal.note(id, held.map(|held| Record { held, values }))?;
        Ok(())
    }

    /// Why `identity` must not be banned.
    fn refusal(&self, id: &str, identity: &Identity) -> Option<String> {
        if let Some(reason) = self.untouchable(id, identity) {
            return Some(reason);
        }
        let mine = self.journal.held(id).is_some_and(|held| held.counts());
        let banned = self.journal.records().values().filter(|record| record.held.counts()).count();
        (!mine && banned >= self.options.max_identity_bans)
            .then(|| format!("{banned} identities are banned already, see `max_identity_bans`"))
    }

    /// Why nothing of `identity` may be touched, whoever asks for it.
    fn untouchable(&self, id: &str, identity: &Identity) -> Option<String> {
        let network = self.network.as_ref()?;
        let reason = if identity.id != id {
            "the controller answered with another identity"
        } else if identity.id == network.me {
            "it is the identity that Cordon itself uses"
        } else if identity.is_default_admin {
            "it is the default administrator"
        } else if identity.is_admin && !self.options.allow_admin_ban {
            "it is an administrator, see `allow_admin_ban`"
        } else if identity.is_router() {
            "it is a router"
        } else if self.protected.contains(&identity.id) {
            "it is on the list `protect`"
        } else {
            return None;
        };
        Some(reason.to_owned())
    }

    /// Cuts sessions and circuits, and what is hosted where that is wanted. Answers what could not be cut.
    async fn cut(&mut self, id: &str) -> Result<Option<String>, ZitiError> {
        let mut left = None;
        for session in self.api.sessions(Sessions::Of(id)).await? {
            keep(&mut left, self.api.end_session(&session.id).await)?;
        }
        match self.api.circuits().await {
            Ok((circuits, silent)) => {
                for (at, circuit) in circuits.iter().filter(|(_, circuit)| circuit.is_of(id)) {
                    keep(&mut left, self.api.cut(*at, &circuit.id).await)?;
                }
                // From 2.0 on the routers close them by themselves.
                let old = self.network.as_ref().is_none_or(|network| network.major < 2);
                if let Some(reason) = silent.into_iter().next().filter(|_| old) {
                    left = Some(format!("its circuits may live on: {reason}"));
                }
            }
            Err(error) => keep(&mut left, Err(error))?,
        }
        if self.options.hosted {
            match self.api.terminators(id).await {
                Ok(terminators) => {
                    for terminator in terminators {
                        keep(&mut left, self.api.end_terminator(&terminator.id).await)?;
                    }
                }
                Err(error) => keep(&mut left, Err(error))?,
            }
        }
        if self.options.confirm_disconnect && left.is_none() {
            let connected = self.look(id).await?.is_some_and(|identity| identity.has_edge_router_connection);
            left = connected.then(|| "it is still connected to a router".to_owned());
        }
        Ok(left)
    }

    /// Ends the sessions that are wished to be ended, those that `only` names or all.
    pub async fn end_sessions(&mut self, only: Option<&BTreeSet<Key>>) -> Result<BTreeMap<Key, Settled>, ZitiError> {
        let mut settled = BTreeMap::new();
        let wanted: Vec<Key> = self.sessions.keys().cloned().collect();
        for key in wanted.into_iter().filter(|key| only.is_none_or(|only| only.contains(key))) {
            let outcome = match self.end_session(&key.value()).await {
                Ok(outcome) => outcome,
                Err(ZitiError::Api(error)) if error.is_of_item() => Settled::Refused(error.to_string()),
                Err(error) => return Err(error),
            };
            settled.insert(key, outcome);
        }
        Ok(settled)
    }

    async fn end_session(&mut self, value: &str) -> Result<Settled, ZitiError> {
        self.connect().await?;
        let id = name::id(value).map_err(ApiError::from)?;
        match self.api.session(&id).await {
            Ok(session) => {
                if let Some(reason) = self.spares(&session.identity_id).await? {
                    return Ok(Settled::Refused(reason));
                }
                self.api.end_session(&id).await?;
            }
            // One of the newer kind is in no list: it can only be revoked, and that once.
            Err(ApiError::NotFound) if self.revoked.contains(&id) => {}
            Err(ApiError::NotFound) => {
                if let Some(reason) = self.revoke(&id).await? {
                    return Ok(Settled::Refused(reason));
                }
            }
            Err(error) => return Err(error.into()),
        }
        let mut left = None;
        let (circuits, _) = self.api.circuits().await?;
        for (at, circuit) in circuits.iter().filter(|(_, circuit)| circuit.client_id.as_deref() == Some(&id)) {
            keep(&mut left, self.api.cut(*at, &circuit.id).await)?;
        }
        Ok(left.map_or(Settled::Done(Standing::InForce), Settled::Partial))
    }

    /// Revokes a session of the newer kind where that can be; answers why it cannot.
    async fn revoke(&mut self, session: &str) -> Result<Option<String>, ZitiError> {
        let Some(Network { admin, major, .. }) = self.network else { return Ok(None) };
        match (major, admin) {
            (..2, _) => Ok(Some("there is no such session, and this controller cannot revoke tokens".to_owned())),
            (_, false) => Ok(Some("only a full administrator may revoke a session of the newer kind".to_owned())),
            _ => {
                self.api.revoke_session(session).await?;
                self.revoked_now(session);
                Ok(None)
            }
        }
    }

    fn revoked_now(&mut self, session: &str) {
        if self.revoked.len() >= MAX_NAMES {
            self.revoked.clear();
        }
        self.revoked.insert(session.to_owned());
    }

    /// Why what `identity` has open is not touched.
    async fn spares(&mut self, identity: &str) -> Result<Option<String>, ZitiError> {
        let id = name::id(identity).map_err(ApiError::from)?;
        let Some(found) = self.look(&id).await? else { return Ok(None) };
        Ok(self.untouchable(&id, &found))
    }

    /// Ends what was opened from the addresses in `placed`. The block itself is the firewall's; no identity is
    /// disabled because of an address. Answers how much was ended.
    pub async fn assist(&mut self, placed: &Placement, now: Timestamp) -> Result<usize, ZitiError> {
        self.connect().await?;
        let hosts: Vec<IpNet> = placed.keys().filter_map(Key::net).take(FEW + 1).collect();
        if hosts.is_empty() {
            return Ok(0);
        }
        for follower in &mut self.followers {
            if let Err(error) = follower.read(&mut self.index, now) {
                warn!(%error, "cannot read the events of the controller");
            }
        }
        let single = hosts.len() <= FEW && hosts.iter().all(|net| net.prefix_len() == net.max_prefix_len());
        let sessions = if single {
            let mut found = Vec::new();
            for net in hosts {
                found.extend(self.api.sessions(Sessions::From(&net.addr().to_string())).await?);
            }
            found
        } else {
            self.api.sessions(Sessions::All).await?
        };
        let mut ended = 0;
        for session in sessions {
            let from = address(&session.ip_address);
            if from.is_some_and(|from| covers(placed, from)) && self.spares(&session.identity_id).await?.is_none() {
                passing(self.api.end_session(&session.id).await)?;
                ended += 1;
            }
        }
        let opened = self.index.opened(now, |from| covers(placed, from));
        let (circuits, _) = if opened.is_empty() { Default::default() } else { self.api.circuits().await? };
        for open in opened {
            match open {
                Opened::Circuit(id) => {
                    for (at, circuit) in circuits.iter().filter(|(_, circuit)| circuit.id == id) {
                        let spared = match circuit.dialler() {
                            Some(identity) => self.spares(identity).await?.is_some(),
                            None => false,
                        };
                        if !spared {
                            passing(self.api.cut(*at, &circuit.id).await)?;
                            ended += 1;
                        }
                    }
                }
                Opened::Session { id, identity } => {
                    let can = self.network.as_ref().is_some_and(|network| network.admin && network.major >= 2);
                    if can && !self.revoked.contains(&id) && self.spares(&identity).await?.is_none() {
                        passing(self.api.revoke_session(&id).await)?;
                        self.revoked_now(&id);
                        ended += 1;
                    }
                }
            }
        }
        if ended > 0 {
            info!(ended, "ended what was open from banned addresses");
        }
        Ok(ended)
    }

    /// What would be done for the identities and sessions that `only` names, or for all and everything that is ours.
    /// Writes nothing.
    pub async fn outlook(&mut self, only: Option<&BTreeSet<Key>>) -> Result<Vec<Pending>, ZitiError> {
        self.connect().await?;
        let mut settled = BTreeMap::new();
        let targets = self.targets(only, &mut settled).await?;
        let ids = self.concerned(only, &targets);
        let mut diallers = None;
        let mut pending = Vec::new();
        for id in ids {
            let target = targets.get(&id);
            let identity = self.look(&id).await?;
            let refused =
                target.is_some() && identity.as_ref().is_some_and(|identity| self.refusal(&id, identity).is_some());
            let open = match &identity {
                Some(identity) if target.is_some() && identity.disabled => self.is_open(identity).await?,
                _ => false,
            };
            let (now, wish) = self.wish_for(target.filter(|_| !refused));
            let seen = identity.as_ref().map_or(Seen::Gone, Identity::seen);
            let held = self.journal.held(&id);
            let mut step = next(now, wish, held, seen, open);
            if banned(step) && self.dials(&id, &mut diallers).await {
                step = next(now, wish, held, seen, true);
            }
            if !matches!(step, Step::Rest(_)) {
                let value = target.and_then(|target| target.keys.first().map(Key::value));
                pending.push(Pending {
                    value: value.unwrap_or_else(|| id.clone()),
                    wanted: wish.until.is_some(),
                    step,
                });
            }
        }
        let wanted: Vec<Key> = self.sessions.keys().cloned().collect();
        for key in wanted.into_iter().filter(|key| only.is_none_or(|only| only.contains(key))) {
            let Ok(id) = name::id(&key.value()) else { continue };
            match self.api.session(&id).await {
                Ok(_) => pending.push(Pending { value: key.value(), wanted: true, step: Step::Cut }),
                Err(ApiError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(pending)
    }

    /// When to look again without being asked to: soon while tokens of an older controller may live on, when another's
    /// disable ends, and every minute.
    pub fn wake(&self) -> Duration {
        let now = Timestamp::now().checked_add(self.api.ahead()).unwrap_or_else(|_| Timestamp::now());
        let old = self.network.as_ref().is_some_and(|network| network.major < 2);
        let young = |lock: &Lock| now.duration_since(lock.at) < TOKEN_LIFE;
        let watched = self.journal.records().values().any(|record| match &record.held {
            Held::Ours { lock, .. } => young(lock),
            _ => false,
        });
        if old && watched {
            return WATCH;
        }
        let until = self.covered.map(|until| until.duration_since(now));
        let until = until.and_then(|left| Duration::try_from(left).ok()).unwrap_or(if self.covered.is_some() {
            Duration::ZERO
        } else {
            SYNC
        });
        (until + Duration::from_millis(500)).min(SYNC)
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What it is about, as the decision says it, or the id.
    pub value: String,
    /// Whether it is to be banned.
    pub wanted: bool,
    /// What would be done next.
    pub step: Step,
}

/// What a scope means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identity.
    Identity,
    /// A session.
    Session,
}

/// What `key` means here.
pub fn kind(key: &Key) -> Option<Kind> {
    match &key.subject {
        Subject::Named(scope, _) if scope.as_str().eq_ignore_ascii_case("identity") => Some(Kind::Identity),
        Subject::Named(scope, _) if scope.as_str().eq_ignore_ascii_case("session") => Some(Kind::Session),
        _ => None,
    }
}

/// Whether nothing is left to be done about a ban but what circuits may show.
fn banned(step: Step) -> bool {
    matches!(step, Step::Rest(Standing::InForce | Standing::Foreign(_)))
}

/// Whether `placed` bans `address`.
fn covers(placed: &Placement, address: IpAddr) -> bool {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    (0..=bits).any(|length| {
        let Ok(net) = IpNet::new(address, length) else { return false };
        let key = Key { remediation: "ban".into(), subject: Subject::Net(net.trunc()) };
        let within = |placed: &Placed| {
            placed.pieces.as_ref().is_none_or(|pieces| pieces.iter().any(|piece| piece.contains(number(address))))
        };
        placed.get(&key).is_some_and(within)
    })
}

/// The first number of a version like `v1.6.3`; 0 where there is none.
fn major(version: &str) -> u32 {
    let digits: String = version.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// A call about an identity that has gone meanwhile is no error: the next look shows it.
fn found(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(ApiError::NotFound) => Ok(()),
        other => other,
    }
}

/// A single thing that cannot be ended does not keep the others from it.
fn keep(left: &mut Option<String>, result: Result<(), ApiError>) -> Result<(), ZitiError> {
    match result {
        Err(error) if error.is_of_item() => *left = Some(error.to_string()),
        other => other?,
    }
    Ok(())
}

fn passing(result: Result<(), ApiError>) -> Result<(), ZitiError> {
    let mut left = None;
    keep(&mut left, result)?;
    if let Some(error) = left {
        warn!(error, "cannot end what is open from a banned address");
    }
    Ok(())
}
