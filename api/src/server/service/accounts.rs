//! Machines and bouncers: who may talk to the API.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;
use tracing::warn;

use super::{Receipt, Service, State, Write, present};
use crate::store::{Bouncer, Hash, Machine, PreviousKey, Report, Right, StoreError};

/// How many addresses may share one key.
const MAX_SIBLINGS: usize = 1024;
/// How old a pull must be before a live query counts as a new one.
const PULL_GRAIN: SignedDuration = SignedDuration::from_mins(1);

/// Why an account cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The machine's name is taken.
    #[error("user '{0}': user already exist")]
    MachineExists(String),
    /// The bouncer's name is taken.
    #[error("bouncer {0} already exists")]
    BouncerExists(String),
    /// There is no such machine.
    #[error("ent: machine not found")]
    NoMachine,
    /// There is no such bouncer.
    #[error("ent: bouncer not found")]
    NoBouncer,
    /// The bouncer was made for a further address of another one's key.
    #[error("bouncer {0} was created automatically\nhint: delete `{1}`, which it belongs to")]
    Automatic(String, String),
    /// The machine is not validated yet.
    #[error("machine {0} not validated")]
    NotValidated(String),
    /// The machine has no password.
    #[error("machine {0} attempted to auth with password but it is configured to use {1}")]
    WrongAuthType(String, String),
    /// The machine has no certificate.
    #[error("machine {0} attempted to auth with TLS but it is configured to use {1}")]
    CertificateRefused(String, String),
    /// The bouncer has a certificate instead.
    #[error("bouncer {0} has no key\nhint: `cordon pki renew` gives it another certificate")]
    NoKey(String),
    /// One certificate is used from very many addresses.
    #[error("too many machines use this certificate")]
    TooMany,
    /// The password is wrong.
    #[error("incorrect Username or Password")]
    WrongPassword,
    /// The password cannot be used.
    #[error("password too long (max 72 characters)")]
    PasswordTooLong,
    /// The name or key cannot be used.
    #[error("`{what}` is empty or longer than {max} bytes")]
    Unusable {
        /// What it is.
        what: &'static str,
        /// The longest that can be used.
        max: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A machine to be made.
#[derive(Debug)]
pub struct NewMachine {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: SecretString,
    /// Whether it may log in at once.
    pub validated: bool,
    /// Replace a machine of this name.
    pub force: bool,
    /// Where it registered from.
    pub ip: String,
}

/// What a machine says when it logs in.
#[derive(Debug)]
pub struct Login<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its password.
    pub password: SecretString,
    /// Where from.
    pub ip: String,
    /// Its `User-Agent`.
    pub agent: &'a str,
    /// Its scenarios.
    pub scenarios: &'a [String],
}

/// A bouncer to be made.
#[derive(Debug)]
pub struct NewBouncer {
    /// Its name.
    pub name: String,
    /// Its key; without one it gets a random one.
    pub key: Option<SecretString>,
    /// What the key allows.
    pub rights: Vec<Right>,
    /// Where the key may be used; everywhere if it is empty.
    pub ranges: Vec<IpNet>,
}

impl NewBouncer {
    /// One that asks for decisions, from anywhere.
    pub fn reader(name: &str, key: Option<&str>) -> Self {
        Self { name: name.into(), key: key.map(Into::into), rights: vec![Right::Read], ranges: Vec::new() }
    }
}

/// The hash of a key: all that is ever stored or compared.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    /// The hash of `key`.
    pub fn new(key: &str) -> Self {
        use std::fmt::Write;
        Self(Sha512::digest(key).iter().fold(String::with_capacity(128), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

/// Whose key it is, and what it allows.
#[derive(Clone, Debug)]
pub struct KeyOwner {
    /// The bouncer's name, without an address.
    pub name: String,
    /// What the key allows.
    pub rights: Vec<Right>,
}

impl KeyOwner {
    /// Whether the key allows `right`.
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right) || self.rights.contains(&Right::Admin)
    }
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Where from.
    pub ip: IpAddr,
    /// The `User-Agent`.
    pub agent: &'a str,
}

impl Service {
    /// Makes a machine.
    pub async fn add_machine(&self, new: NewMachine) -> Result<Receipt, AccountError> {
        usable("machine_id", &new.name, 255)?;
        let exists = |state: &State| state.machines.contains_key(&new.name) && !new.force;
        if exists(&self.lock()) {
            return Err(AccountError::MachineExists(new.name));
        }
        let password = self.hash(new.password).await?;
        let (answer, receipt) = self
            .change(|state, now| {
                if exists(state) {
                    return (Err(AccountError::MachineExists(new.name.clone())), Vec::new());
                }
                let machine = Machine {
                    name: new.name.clone(),
                    password,
                    validated: new.validated,
                    ip: new.ip,
                    created_at: now,
                    updated_at: now,
                    ..Machine::default()
                };
                state.machines.insert(new.name.clone(), machine.clone());
                (Ok(()), vec![Write::PutMachine(Box::new(machine))])
            })
            .await?;
        answer.map(|()| receipt)
    }

    /// Lets a machine log in.
    pub async fn validate_machine(&self, name: &str) -> Result<Receipt, AccountError> {
        let (answer, receipt) = self
            .change(|state, now| match state.machines.get_mut(name) {
                None => (Err(AccountError::NoMachine), Vec::new()),
                Some(machine) => {
                    machine.validated = true;
                    machine.updated_at = now;
                    (Ok(()), vec![Write::PutMachine(Box::new(machine.clone()))])
                }
            })
            .await?;
        answer.map(|()| receipt)
    }

    /// Removes a machine. Its alerts stay.
    pub async fn delete_machine(&self, name: &str) -> Result<Receipt, AccountError> {
        let (answer, receipt) = self
            .change(|state, _| match state.machines.remove(name) {
                None => (Err(AccountError::NoMachine), Vec::new()),
                Some(_) => (Ok(()), vec![Write::DeleteMachine(name.into())]),
            })
            .await?;
        answer.map(|()| receipt)
    }

    /// All machines by name.
    pub fn machines(&self) -> Vec<Machine> {
        self.lock().machines.values().cloned().collect()
    }

    /// Checks a password and notes what the machine says about itself.
    pub async fn log_in(&self, login: Login<'_>) -> Result<(), AccountError> {
        let machine = self.lock().machines.get(login.name).cloned().ok_or(AccountError::NoMachine)?;
        if machine.auth_type != "password" {
            return Err(AccountError::WrongAuthType(machine.name, machine.auth_type));
        }
        if !machine.validated {
            return Err(AccountError::NotValidated(machine.name));
        }
        let (password, hash) = (login.password, machine.password);
        let right = tokio::task::spawn_blocking(move || {
            bcrypt::non_truncating_verify(password.expose_secret(), &hash.0).unwrap_or(false)
        });
        if !right.await.unwrap_or(false) {
            return Err(AccountError::WrongPassword);
        }
        let (mut state, now) = (self.lock(), present());
        if let Some(machine) = state.machines.get_mut(login.name) {
            note_login(machine, login.ip, login.agent, login.scenarios, now);
            state.touched_machines.insert(login.name.into());
        }
        Ok(())
    }

    /// Takes note of a machine that logs in with a certificate, and makes its account at its first time.
    pub async fn log_in_certificate(&self, login: Login<'_>) -> Result<(), AccountError> {
        usable("machine_id", login.name, 255)?;
        let (answer, _) = self
            .change(|state, now| {
                let known = state.machines.get(login.name).cloned();
                if known.is_none() && machines_named(state, login.name) > MAX_SIBLINGS {
                    return (Err(AccountError::TooMany), Vec::new());
                }
                let mut machine = known.unwrap_or_else(|| Machine {
                    name: login.name.into(),
                    auth_type: "tls".into(),
                    validated: true,
                    created_at: now,
                    ..Machine::default()
                });
                if machine.auth_type != "tls" {
                    let refused = AccountError::CertificateRefused(machine.name, machine.auth_type);
                    return (Err(refused), Vec::new());
                }
                note_login(&mut machine, login.ip, login.agent, login.scenarios, now);
                state.machines.insert(machine.name.clone(), machine.clone());
                (Ok(()), vec![Write::PutMachine(Box::new(machine))])
            })
            .await?;
        answer
    }

    /// How a machine logs in, if there is one that may.
    pub fn machine_auth(&self, name: &str) -> Option<String> {
        self.lock().machines.get(name).filter(|machine| machine.validated).map(|machine| machine.auth_type.clone())
    }

    /// Removes machines that were never validated and, unless `only_pending`, those that gave no sign of life for
    /// `silent`; answers their names. Accounts that are younger than that stay.
    pub async fn prune_machines(
        &self,
        silent: SignedDuration,
        only_pending: bool,
    ) -> Result<(Vec<String>, Receipt), StoreError> {
        self.change(|state, now| {
            let seen = |machine: &Machine| {
                let signs = [machine.last_heartbeat, machine.last_push, Some(machine.created_at)];
                signs.into_iter().flatten().max().unwrap_or(machine.created_at)
            };
            let dead = |machine: &&Machine| {
                (!machine.validated || !only_pending) && now.duration_since(seen(machine)) >= silent
            };
            let doomed: Vec<String> =
                state.machines.values().filter(dead).map(|machine| machine.name.clone()).collect();
            for name in &doomed {
                state.machines.remove(name);
            }
            (doomed.clone(), doomed.into_iter().map(Write::DeleteMachine).collect())
        })
        .await
    }

    /// Notes that a machine lives. Answers whether there is such a machine.
    pub fn heartbeat(&self, name: &str) -> bool {
        let (mut state, now) = (self.lock(), present());
        let known = state.machines.get_mut(name).map(|machine| machine.last_heartbeat = Some(now)).is_some();
        if known {
            state.touched_machines.insert(name.into());
        }
        known
    }

    /// Makes a bouncer; answers its key, which is not stored and cannot be shown again.
    pub async fn add_bouncer(&self, new: NewBouncer) -> Result<(SecretString, Receipt), AccountError> {
        usable("name", &new.name, 255)?;
        let (key, hash) = choose_key(new.key)?;
        let (answer, receipt) = self
            .change(|state, now| {
                if state.bouncers.contains_key(&new.name) {
                    return (Err(AccountError::BouncerExists(new.name)), Vec::new());
                }
                let bouncer = Bouncer {
                    name: new.name.clone(),
                    key: Hash(hash.0),
                    rights: new.rights,
                    ranges: new.ranges,
                    created_at: now,
                    updated_at: now,
                    ..Bouncer::default()
                };
                state.bouncers.insert(new.name, bouncer.clone());
                (Ok(()), vec![Write::PutBouncer(Box::new(bouncer))])
            })
            .await?;
        answer.map(|()| (key, receipt))
    }

    /// Gives a bouncer, and those that share its key, another key; the present one is good for `grace` longer. Answers the
    /// new key.
    pub async fn rotate_bouncer(
        &self,
        name: &str,
        key: Option<SecretString>,
        grace: SignedDuration,
    ) -> Result<(SecretString, Receipt), AccountError> {
        let (key, hash) = choose_key(key)?;
        let (answer, receipt) = self
            .change(|state, now| {
                let Some(bouncer) = state.bouncers.get(name) else {
                    return (Err(AccountError::NoBouncer), Vec::new());
                };
                if bouncer.auth_type != "api-key" {
                    return (Err(AccountError::NoKey(name.into())), Vec::new());
                }
                let old = bouncer.key.clone();
                let until = now.saturating_add(grace).unwrap_or(now);
                let mut writes = Vec::new();
                for row in state.bouncers.values_mut().filter(|row| row.auth_type == "api-key" && row.key == old) {
                    row.previous = Some(PreviousKey { key: old.clone(), until });
                    row.key = Hash(hash.0.clone());
                    row.updated_at = now;
                    writes.push(Write::PutBouncer(Box::new(row.clone())));
                }
                (Ok(()), writes)
            })
            .await?;
        answer.map(|()| (key, receipt))
    }

    /// Removes bouncers that did not ask for `silent`; answers their names. One whose key others still use stays.
    pub async fn prune_bouncers(&self, silent: SignedDuration) -> Result<(Vec<String>, Receipt), StoreError> {
        self.change(|state, now| {
            let asks = |bouncer: &Bouncer| now.duration_since(bouncer.last_pull.unwrap_or(bouncer.created_at)) < silent;
            let needed =
                |bouncer: &Bouncer| state.bouncers.values().any(|other| asks(other) && other.key == bouncer.key);
            let dead = |bouncer: &&Bouncer| !asks(bouncer) && (bouncer.auto_created || !needed(bouncer));
            let doomed: Vec<String> =
                state.bouncers.values().filter(dead).map(|bouncer| bouncer.name.clone()).collect();
            for name in &doomed {
                state.bouncers.remove(name);
            }
            (doomed.clone(), doomed.into_iter().map(Write::DeleteBouncer).collect())
        })
        .await
    }

    /// Removes a bouncer and those that were made from it for further addresses.
    pub async fn delete_bouncer(&self, name: &str) -> Result<Receipt, AccountError> {
        let (answer, receipt) = self
            .change(|state, _| {
                let Some(bouncer) = state.bouncers.get(name) else {
                    return (Err(AccountError::NoBouncer), Vec::new());
                };
                let parent = base_name(name);
                if bouncer.auto_created && bouncer.auth_type == "api-key" && state.bouncers.contains_key(parent) {
                    return (Err(AccountError::Automatic(name.into(), parent.into())), Vec::new());
                }
                let key = bouncer.key.clone();
                let is_child = |other: &Bouncer| other.auto_created && !key.0.is_empty() && other.key == key;
                let doomed: Vec<String> = state
                    .bouncers
                    .values()
                    .filter(|other| other.name == name || is_child(other))
                    .map(|other| other.name.clone())
                    .collect();
                for name in &doomed {
                    state.bouncers.remove(name);
                }
                (Ok(()), doomed.into_iter().map(Write::DeleteBouncer).collect())
            })
            .await?;
        answer.map(|()| receipt)
    }

    /// All bouncers by name.
    pub fn bouncers(&self) -> Vec<Bouncer> {
        self.lock().bouncers.values().cloned().collect()
    }

    /// Whose key this is, if it may be used from `ip`.
    pub fn key_owner(&self, key: &KeyHash, ip: IpAddr) -> Option<KeyOwner> {
        let state = self.lock();
        let rows = with_key(&state, key, present());
        let first = rows.first().filter(|first| allows(first, ip))?;
        Some(KeyOwner { name: base_name(&first.name).to_owned(), rights: first.rights.clone() })
    }

    /// The bouncer that sends a request, by key and address (spec: local-api 4.1). A known key from a further
    /// address makes a further bouncer. `None` if nobody has the key, or it is not for this.
    pub async fn identify(&self, key: &KeyHash, caller: Caller<'_>) -> Result<Option<String>, StoreError> {
        let ip = caller.ip.to_string();
        let (kind, version) = product(caller.agent);
        {
            let state = self.lock();
            let rows = with_key(&state, key, present());
            let Some(first) = rows.first() else { return Ok(None) };
            if !allows(first, caller.ip) {
                warn!(bouncer = first.name, %ip, "refused a key: it may not be used from this address");
                return Ok(None);
            }
            if !first.rights.iter().any(|right| matches!(right, Right::Read | Right::Admin)) {
                warn!(bouncer = first.name, %ip, "refused a key: it may not ask for decisions");
                return Ok(None);
            }
            if let Some(known) = rows.iter().find(|row| row.ip == ip)
                && (&known.kind, &known.version) == (&kind, &version)
            {
                return Ok(Some(known.name.clone()));
            }
        }
        let (name, _) = self
            .change(|state, now| {
                let rows = with_key(state, key, now);
                let Some(first) = rows.first() else { return (None, Vec::new()) };
                let known = rows.iter().find(|row| row.ip == ip);
                let mut bouncer = match known {
                    Some(known) => (*known).clone(),
                    None if rows.len() == 1 && first.ip.is_empty() => Bouncer { ip: ip.clone(), ..(*first).clone() },
                    None if rows.len() > MAX_SIBLINGS => return (None, Vec::new()),
                    None => Bouncer {
                        name: format!("{}@{ip}", base_name(&first.name)),
                        key: first.key.clone(),
                        rights: first.rights.clone(),
                        ranges: first.ranges.clone(),
                        previous: first.previous.clone(),
                        ip: ip.clone(),
                        auto_created: true,
                        created_at: now,
                        ..Bouncer::default()
                    },
                };
                (bouncer.kind, bouncer.version, bouncer.updated_at) = (kind, version, now);
                let name = bouncer.name.clone();
                state.bouncers.insert(name.clone(), bouncer.clone());
                (Some(name), vec![Write::PutBouncer(Box::new(bouncer))])
            })
            .await?;
        Ok(name)
    }

    /// The bouncer that sends a request with a certificate for `name`, made at its first time. `None` if an account of
    /// another kind has its name.
    pub async fn identify_certificate(&self, name: &str, caller: Caller<'_>) -> Result<Option<String>, StoreError> {
        let ip = caller.ip.to_string();
        let full = format!("{name}@{ip}");
        let (kind, version) = product(caller.agent);
        if let Some(known) = self.lock().bouncers.get(&full) {
            if known.auth_type != "tls" {
                warn!(bouncer = full, "refused a client certificate: the account has a key");
                return Ok(None);
            }
            if (&known.kind, &known.version) == (&kind, &version) {
                return Ok(Some(full));
            }
        }
        let (name, _) = self
            .change(|state, now| {
                let known = state.bouncers.get(&full).cloned();
                let siblings = state.bouncers.keys().filter(|other| base_name(other) == name).count();
                if known.is_none() && siblings > MAX_SIBLINGS || full.len() > 255 {
                    return (None, Vec::new());
                }
                let new = || Bouncer {
                    name: full.clone(),
                    auth_type: "tls".into(),
                    ip,
                    auto_created: true,
                    created_at: now,
                    ..Bouncer::default()
                };
                let mut bouncer = known.unwrap_or_else(new);
                (bouncer.kind, bouncer.version, bouncer.updated_at) = (kind, version, now);
                state.bouncers.insert(full.clone(), bouncer.clone());
                (Some(full.clone()), vec![Write::PutBouncer(Box::new(bouncer))])
            })
            .await?;
        Ok(name)
    }

    /// Notes that a bouncer asked for live decisions.
    pub fn note_query(&self, bouncer: &str) {
        let (mut state, now) = (self.lock(), present());
        let last_decision = state.last_decision;
        if let Some(row) = state.bouncers.get_mut(bouncer)
            && row.last_pull.is_none_or(|last| now.duration_since(last) >= PULL_GRAIN)
        {
            row.last_pull = Some(now);
            row.last_decision = last_decision;
            state.touched_bouncers.insert(bouncer.into());
        }
    }

    /// Takes what a bouncer (`bouncer` is true) or a machine reports about itself.
    pub async fn report(
        &self,
        bouncer: bool,
        name: &str,
        version: &str,
        report: Report,
        metrics: String,
        enforced: Option<i64>,
    ) -> Result<Receipt, StoreError> {
        let ((), receipt) = self
            .change(|state, now| {
                let kind = if bouncer { "RC" } else { "LP" };
                let mut writes = vec![Write::Metrics { kind, sender: name.into(), at: now, body: metrics }];
                if bouncer && let Some(row) = state.bouncers.get_mut(name) {
                    (row.version, row.report, row.updated_at) = (version.into(), report, now);
                    writes.push(Write::PutBouncer(Box::new(row.clone())));
                    if let Some(count) = enforced {
                        state.enforced.retain(|name, _| state.bouncers.contains_key(name));
                        state.enforced.insert(name.to_owned(), (count, now));
                    }
                } else if let Some(row) = state.machines.get_mut(name) {
                    (row.version, row.report, row.updated_at) = (version.into(), report, now);
                    writes.push(Write::PutMachine(Box::new(row.clone())));
                }
                ((), writes)
            })
            .await?;
        Ok(receipt)
    }

    /// How each bouncer is: when it last asked, and how many decisions it said that it enforces.
    pub fn contacts(&self) -> Vec<Contact> {
        let state = self.lock();
        let contact = |row: &Bouncer| Contact {
            name: row.name.clone(),
            kind: row.kind.clone(),
            last_pull: row.last_pull,
            enforced: state.enforced.get(&row.name).map(|(count, _)| *count),
            enforced_at: state.enforced.get(&row.name).map(|(_, at)| *at),
        };
        state.bouncers.values().map(contact).collect()
    }

    async fn hash(&self, password: SecretString) -> Result<Hash, AccountError> {
        let cost = self.0.options.bcrypt_cost;
        let hashed =
            tokio::task::spawn_blocking(move || bcrypt::non_truncating_hash(password.expose_secret(), cost)).await;
        match hashed {
            Ok(Ok(hash)) => Ok(Hash(hash)),
            Ok(Err(_)) => Err(AccountError::PasswordTooLong),
            Err(_) => Err(AccountError::Store(StoreError::Closed)),
        }
    }
}

/// How a bouncer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contact {
    /// Its name.
    pub name: String,
    /// First half of its `User-Agent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it last asked for decisions.
    pub last_pull: Option<Timestamp>,
    /// How many decisions it last said that it enforces, if it did since the server started.
    pub enforced: Option<i64>,
    /// When it said so.
    pub enforced_at: Option<Timestamp>,
}

/// The bouncers with this key, the oldest first. Compares without telling by its duration how much agrees.
fn with_key<'a>(state: &'a State, key: &KeyHash, now: Timestamp) -> Vec<&'a Bouncer> {
    let equal = |known: &Hash| bool::from(known.0.as_bytes().ct_eq(key.0.as_bytes()));
    let same = |row: &&Bouncer| {
        let previous = row.previous.as_ref().is_some_and(|previous| equal(&previous.key) && previous.until > now);
        row.auth_type == "api-key" && (equal(&row.key) || previous)
    };
    let mut rows: Vec<&Bouncer> = state.bouncers.values().filter(same).collect();
    rows.sort_by_key(|row| (row.auto_created, row.created_at));
    rows
}

/// Whether a bouncer's key may be used from `ip`.
fn allows(bouncer: &Bouncer, ip: IpAddr) -> bool {
    bouncer.ranges.is_empty() || bouncer.ranges.iter().any(|net| net.contains(&ip))
}

/// The key that somebody chose, or a random one, with its hash.
fn choose_key(key: Option<SecretString>) -> Result<(SecretString, KeyHash), AccountError> {
    let key = key.unwrap_or_else(|| STANDARD_NO_PAD.encode(rand::random::<[u8; 32]>()).into());
    usable("key", key.expose_secret(), 1024)?;
    let hash = KeyHash::new(key.expose_secret());
    Ok((key, hash))
}

/// Kind and version in a `User-Agent`.
fn product(agent: &str) -> (String, String) {
    let (kind, version) = match agent.split_once('/') {
        Some((kind, version)) if !version.contains('/') => (kind, version),
        _ => (agent, "N/A"),
    };
    (shortened(kind, 255), shortened(version, 255))
}

fn note_login(machine: &mut Machine, ip: String, agent: &str, scenarios: &[String], now: Timestamp) {
    if !machine.ip.is_empty() && machine.ip != ip {
        warn!(machine = machine.name, before = machine.ip, now = ip, "a machine logs in from another address");
    }
    machine.ip = ip;
    machine.version = shortened(agent.split_once('/').map_or(agent, |(_, version)| version), 255);
    if !scenarios.is_empty() {
        machine.scenarios = shortened(&scenarios.join(","), 100_000);
    }
    machine.updated_at = now;
}

/// How many machines have the name in `name`, each from its address.
fn machines_named(state: &State, name: &str) -> usize {
    let base = base_name(name);
    state.machines.keys().filter(|other| base_name(other) == base).count()
}

/// A bouncer's name without the addresses that were added to it.
fn base_name(name: &str) -> &str {
    let mut base = name;
    while let Some((front, back)) = base.rsplit_once('@')
        && back.parse::<IpAddr>().is_ok()
    {
        base = front;
    }
    base
}

fn usable(what: &'static str, text: &str, max: usize) -> Result<(), AccountError> {
    if text.is_empty() || text.len() > max { Err(AccountError::Unusable { what, max }) } else { Ok(()) }
}

pub(crate) fn shortened(text: &str, limit: usize) -> String {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text).to_owned()
}
