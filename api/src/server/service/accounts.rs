//! Machines and bouncers: who may talk to the API.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use super::{Receipt, Service, State, Write, present};
use crate::store::{Bouncer, Hash, Machine, Report, StoreError};

/// How many addresses may share one key.
const MAX_SIBLINGS: usize = 1024;
/// How old a pull must be before a live query counts as a new one.
const PULL_GRAIN: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);

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

/// Who sends a request with a key.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The key.
    pub key: &'a str,
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
            machine.ip = login.ip;
            machine.version = login.agent.split_once('/').map_or(login.agent, |(_, version)| version).into();
            if !login.scenarios.is_empty() {
                machine.scenarios = shortened(&login.scenarios.join(","), 100_000);
            }
            machine.updated_at = now;
            state.touched_machines.insert(login.name.into());
        }
        Ok(())
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
    pub async fn add_bouncer(
        &self,
        name: &str,
        key: Option<SecretString>,
    ) -> Result<(SecretString, Receipt), AccountError> {
        usable("name", name, 255)?;
        let key = key.unwrap_or_else(|| STANDARD_NO_PAD.encode(rand::random::<[u8; 32]>()).into());
        usable("key", key.expose_secret(), 1024)?;
        let hash = hash_key(key.expose_secret());
        let (answer, receipt) = self
            .change(|state, now| {
                if state.bouncers.contains_key(name) {
                    return (Err(AccountError::BouncerExists(name.into())), Vec::new());
                }
                let bouncer = Bouncer {
                    name: name.into(),
                    key: Hash(hash),
                    created_at: now,
                    updated_at: now,
                    ..Bouncer::default()
                };
                state.bouncers.insert(name.into(), bouncer.clone());
                (Ok(()), vec![Write::PutBouncer(Box::new(bouncer))])
            })
            .await?;
        answer.map(|()| (key, receipt))
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
                let is_child = |other: &Bouncer| other.auto_created && other.key == key;
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

    /// Whether any bouncer has this key.
    pub fn knows_key(&self, key: &str) -> bool {
        let hash = hash_key(key);
        !with_key(&self.lock(), &hash).is_empty()
    }

    /// The bouncer that sends a request, by key and address (spec: local-api 4.1). A known key from a further
    /// address makes a further bouncer. `None` if nobody has the key.
    pub async fn identify(&self, caller: Caller<'_>) -> Result<Option<String>, StoreError> {
        let hash = hash_key(caller.key);
        let ip = caller.ip.to_string();
        let (kind, version) = match caller.agent.split_once('/') {
            Some((kind, version)) if !version.contains('/') => (kind, version),
            _ => (caller.agent, "N/A"),
        };
        let (kind, version) = (shortened(kind, 255), shortened(version, 255));
        {
            let state = self.lock();
            let rows = with_key(&state, &hash);
            if rows.is_empty() {
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
                let rows = with_key(state, &hash);
                let Some(first) = rows.first() else { return (None, Vec::new()) };
                let known = rows.iter().find(|row| row.ip == ip);
                let mut bouncer = match known {
                    Some(known) => (*known).clone(),
                    None if rows.len() == 1 && first.ip.is_empty() => Bouncer { ip: ip.clone(), ..(*first).clone() },
                    None if rows.len() > MAX_SIBLINGS => return (None, Vec::new()),
                    None => Bouncer {
                        name: format!("{}@{ip}", base_name(&first.name)),
                        key: first.key.clone(),
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
    ) -> Result<Receipt, StoreError> {
        let ((), receipt) = self
            .change(|state, now| {
                let kind = if bouncer { "RC" } else { "LP" };
                let mut writes = vec![Write::Metrics { kind, sender: name.into(), at: now, body: metrics }];
                if bouncer && let Some(row) = state.bouncers.get_mut(name) {
                    (row.version, row.report, row.updated_at) = (version.into(), report, now);
                    writes.push(Write::PutBouncer(Box::new(row.clone())));
                } else if let Some(row) = state.machines.get_mut(name) {
                    (row.version, row.report, row.updated_at) = (version.into(), report, now);
                    writes.push(Write::PutMachine(Box::new(row.clone())));
                }
                ((), writes)
            })
            .await?;
        Ok(receipt)
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

/// The bouncers with this key, the oldest first. Compares without telling by its duration how much agrees.
fn with_key<'a>(state: &'a State, hash: &str) -> Vec<&'a Bouncer> {
    let same = |row: &&Bouncer| row.auth_type == "api-key" && bool::from(row.key.0.as_bytes().ct_eq(hash.as_bytes()));
    let mut rows: Vec<&Bouncer> = state.bouncers.values().filter(same).collect();
    rows.sort_by_key(|row| (row.auto_created, row.created_at));
    rows
}

fn hash_key(key: &str) -> String {
    use std::fmt::Write;
    Sha512::digest(key).iter().fold(String::with_capacity(128), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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

fn shortened(text: &str, limit: usize) -> String {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text).to_owned()
}
