//! Where alerts, decisions and accounts survive a restart.
//!
//! The state that answers questions is in memory; a store restores it at start, takes every change in the order
//! in which it was made, and answers what memory does not hold: alerts, and decisions that are over.

pub mod sqlite;
mod trail;
pub(crate) mod writer;

use std::net::IpAddr;
use std::path::PathBuf;

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use model::{Alert, Decision};

use crate::audit::{AuditQuery, Break, Entry, Head, Record};
use crate::decisions::{Epochs, Reach};
use crate::ladder::Strikes;

pub use sqlite::Sqlite;
pub use writer::Trouble;

/// A place for alerts, decisions and accounts. All calls block.
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Everything that is held in memory. Live decisions go to `decisions`, then remembered lifts; each in any order.
    fn restore(&self, now: Timestamp, decisions: &mut dyn FnMut(Remembered)) -> Result<Restored, StoreError>;

    /// The one connection that writes. It is taken once.
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError>;

    /// The alerts that `query` wants, with their decisions as of `now`.
    fn alerts(&self, query: &AlertQuery, now: Timestamp) -> Result<Vec<Alert>, StoreError>;

    /// The numbers of the alerts that `query` wants.
    fn alert_ids(&self, query: &AlertQuery, now: Timestamp) -> Result<Vec<i64>, StoreError>;

    /// How many alerts there are of each scenario, the most frequent `kinds` of them.
    fn alert_counts(&self, kinds: usize) -> Result<Vec<(String, i64)>, StoreError>;

    /// Decisions that ended before `before`, and at or after `after` if it is given; by number. What was erased while it held
    /// is among them for a day.
    fn ended(&self, after: Option<Timestamp>, before: Timestamp) -> Result<Vec<Decision>, StoreError>;

    /// The decision with this number, live or over.
    fn decision(&self, id: i64) -> Result<Option<Decision>, StoreError>;

    /// The alerts that mention `value`.
    fn mentions(&self, value: &str) -> Result<Mentions, StoreError>;

    /// The records of the audit trail that `query` wants, the oldest first.
    fn audit(&self, query: &AuditQuery) -> Result<Vec<Record>, StoreError>;

    /// Walks the whole audit trail, archives included; with `moved`, those that are not there are taken for moved elsewhere.
    /// The outer error is the store's.
    fn verify_audit(&self, moved: bool) -> Result<Result<Verified, Break>, StoreError>;

    /// How many decisions, live or over, cover `net`; those made at or after `since` if it is given.
    fn count_covering(&self, net: IpNet, since: Option<Timestamp>) -> Result<i64, StoreError>;
}

/// An audit trail that holds together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Its end.
    pub head: Head,
    /// How many of its subjects are forgotten, as far as could be seen.
    pub forgotten: u64,
    /// How many of its records lie in archives and were read there.
    pub archived: u64,
    /// How many lie in archives that are elsewhere, and were not seen.
    pub elsewhere: i64,
}

/// The connection that writes.
pub trait Writer: Send {
    /// Makes all of `jobs` durable in one transaction, each job whole or not at all. An error of a single job is
    /// in its place in the answer; an outer error means that nothing was written and that it may be tried again.
    fn commit(&mut self, jobs: &[&[Write]]) -> Result<Vec<Result<(), StoreError>>, StoreError>;
}

/// One change.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new alert with its decisions.
    Alert(Box<NewAlert>),
    /// Decisions that end before their time: their numbers and those of the changes.
    Lift {
        /// Which.
        lifted: Vec<Lift>,
        /// When they end.
        until: Timestamp,
    },
    /// Alerts to be erased with all that belongs to them.
    EraseAlerts {
        /// Their numbers.
        ids: Vec<i64>,
        /// The last change number: readers behind it cannot be told and get a snapshot.
        change: u64,
        /// When: what held until then is told to those who poll.
        at: Timestamp,
    },
    /// A machine, new or changed.
    PutMachine(Box<Machine>),
    /// A machine that is gone; its alerts stay without owner.
    DeleteMachine(String),
    /// A bouncer, new or changed.
    PutBouncer(Box<Bouncer>),
    /// A bouncer that is gone.
    DeleteBouncer(String),
    /// An allowlist, new or changed; its items are written apart.
    PutAllowlist(Allowlist),
    /// An allowlist that is gone with its items.
    DeleteAllowlist(String),
    /// An item of an allowlist, new or changed.
    PutAllowItem(String, AllowItem),
    /// An item that is gone: list and value.
    DeleteAllowItem(String, String),
    /// What a component reported about itself.
    Metrics {
        /// `LP` or `RC`.
        kind: &'static str,
        /// Name of the machine or bouncer.
        sender: String,
        /// When.
        at: Timestamp,
        /// JSON.
        body: String,
    },
    /// A visitor as it is remembered from now on.
    PutStrikes(IpNet, Strikes),
    /// A visitor that is forgiven.
    DeleteStrikes(IpNet),
    /// Erases what is too old or too much.
    Retain(Retention),
    /// Takes somebody out of everything that is stored.
    Forget(Box<Forget>),
    /// The next record of the audit trail.
    Audit(Box<Entry>),
}

/// Who is forgotten, and where he was found.
#[derive(Clone, Debug)]
pub struct Forget {
    /// Address, range or user name, as it is stored.
    pub value: String,
    /// Where he was found.
    pub found: Mentions,
    /// The last change number: readers behind it cannot be told and get a snapshot.
    pub change: u64,
    /// What goes into the audit trail; the store puts a pseudonym in the place of the subject.
    pub entry: Entry,
}

/// Alerts that mention somebody, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Those that are about him alone.
    pub own: Vec<i64>,
    /// Those that are about others, too.
    pub others: Vec<i64>,
}

/// A decision that ends before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lift {
    /// The decision's number.
    pub id: i64,
    /// The change's number; 0 when the decision was over already.
    pub change: u64,
    /// Whom it was about.
    pub target: CompactString,
}

/// An alert as it is stored.
#[derive(Clone, Debug)]
pub struct NewAlert {
    /// The alert with its number, identity and owner; its `decisions` are not looked at.
    pub alert: Alert,
    /// When the server took it.
    pub created_at: Timestamp,
    /// Its first event.
    pub started_at: Timestamp,
    /// Decisions, each with the number of its change; 0 when it was over already.
    pub decisions: Vec<(Decision, u64)>,
    /// Under which key to remember it, so that it is not taken twice.
    pub seen: Option<SeenKey>,
    /// Whether its decisions came with it, instead of from profiles.
    pub supplied: bool,
}

/// A machine and the identity it gave to an alert, condensed.
pub type SeenKey = [u8; 16];

/// What a retention run leaves.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// At most this many alerts, if it is set.
    pub max_alerts: Option<u64>,
    /// Alerts made before are erased.
    pub alerts_before: Option<Timestamp>,
    /// At most this many decisions that are over, if it is set; the oldest alerts go with theirs.
    pub max_ended: Option<u64>,
    /// Usage metrics received before are erased.
    pub metrics_before: Option<Timestamp>,
    /// Alerts made before lose their evidence.
    pub evidence_before: Option<Timestamp>,
    /// At most about so many records of the audit trail stay in the store, if it is set; older ones go into archives.
    pub max_audit: Option<u64>,
    /// Identities of alerts taken before are forgotten.
    pub seen_before: Option<Timestamp>,
    /// Visitors whose last ban ended then or before are forgotten.
    pub strikes_until: Option<Timestamp>,
    /// Alerts that own a decision that holds at this time stay in any case.
    pub now: Timestamp,
}

/// One decision as a store remembers it.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// The decision.
    pub decision: Decision,
    /// The number of its last change.
    pub change: u64,
    /// Whether it was ended before its time.
    pub lifted: bool,
}

/// What is held in memory beside decisions.
#[derive(Debug, Default)]
pub struct Restored {
    /// The runs of the server on this store; the present one is already begun.
    pub epochs: Epochs,
    /// The last change number that was given.
    pub last_change: u64,
    /// The last change number of which the remembered decisions may know nothing.
    pub floor: u64,
    /// The highest alert number ever given.
    pub last_alert: i64,
    /// The highest decision number ever given.
    pub last_decision: i64,
    /// Machines.
    pub machines: Vec<Machine>,
    /// Bouncers.
    pub bouncers: Vec<Bouncer>,
    /// Allowlists with their items.
    pub allowlists: Vec<(Allowlist, Vec<AllowItem>)>,
    /// Alerts that came with an identity of their own: key, number and when.
    pub seen: Vec<(SeenKey, i64, Timestamp)>,
    /// Visitors, and how often they came.
    pub strikes: Vec<(IpNet, Strikes)>,
}

/// An agent's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// bcrypt hash of its password.
    pub password: Hash,
    /// `password` or `tls`.
    pub auth_type: String,
    /// Whether it may log in.
    pub validated: bool,
    /// Address of its first or last login.
    pub ip: String,
    /// What it said about itself at login.
    pub version: String,
    /// Names of its scenarios, joined with commas.
    pub scenarios: String,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it was changed.
    pub updated_at: Timestamp,
    /// When it last sent alerts.
    pub last_push: Option<Timestamp>,
    /// When it last said that it lives.
    pub last_heartbeat: Option<Timestamp>,
    /// What it reported about its host.
    pub report: Report,
}

/// An enforcer's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bouncer {
    /// Its name.
    pub name: String,
    /// Lower-case hex SHA-512 of its key.
    pub key: Hash,
    /// `api-key` or `tls`.
    pub auth_type: String,
    /// Address of its first use.
    pub ip: String,
    /// First half of its `User-Agent`.
    pub kind: String,
    /// Second half of its `User-Agent`.
    pub version: String,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it was changed.
    pub updated_at: Timestamp,
    /// When it last asked for decisions.
    pub last_pull: Option<Timestamp>,
    /// The highest decision number there was when it last asked.
    pub last_decision: i64,
    /// Whether it was made for a further address that uses the same key.
    pub auto_created: bool,
    /// What its key allows.
    pub rights: Vec<Right>,
    /// Where its key may be used; everywhere if it is empty.
    pub ranges: Vec<IpNet>,
    /// The key before the present one, while it is still good.
    pub previous: Option<PreviousKey>,
    /// What it reported about its host.
    pub report: Report,
}

/// What a key or a certificate allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To ask for decisions.
    Read,
    /// To send alerts.
    Push,
    /// To do everything.
    Admin,
}

/// A key that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousKey {
    /// Lower-case hex SHA-512 of it.
    pub key: Hash,
    /// Until when it is still good.
    pub until: Timestamp,
}

/// What a component reported about the host it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Name of the operating system.
    pub os_name: String,
    /// Family of the operating system.
    pub os_family: String,
    /// Version of the operating system.
    pub os_version: String,
    /// Feature flags, joined with commas.
    pub feature_flags: String,
    /// How many datasources of each kind, as JSON.
    pub datasources: Option<serde_json::Value>,
    /// What is installed, as JSON.
    pub hub_items: Option<serde_json::Value>,
}

/// A hash of a secret. Not secret enough to be encrypted, too secret to be printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash(pub String);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash(..)")
    }
}

/// A named list of what is never punished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowlist {
    /// Its name, case-sensitive.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it or an item of it was changed.
    pub updated_at: Timestamp,
}

/// One item of an allowlist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowItem {
    /// Address or prefix, as it was given.
    pub value: String,
    /// What it is for.
    pub comment: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it stops counting; `None` is never.
    pub expires: Option<Timestamp>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            name: String::new(),
            password: Hash::default(),
            auth_type: "password".into(),
            validated: false,
            ip: String::new(),
            version: String::new(),
            scenarios: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            last_push: None,
            last_heartbeat: None,
            report: Report::default(),
        }
    }
}

impl Default for Bouncer {
    fn default() -> Self {
        Self {
            name: String::new(),
            key: Hash::default(),
            auth_type: "api-key".into(),
            ip: String::new(),
            kind: String::new(),
            version: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            last_pull: None,
            last_decision: 0,
            auto_created: false,
            rights: vec![Right::Read],
            ranges: Vec::new(),
            previous: None,
            report: Report::default(),
        }
    }
}

/// Which alerts are wanted. Everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertQuery {
    /// Exactly this alert.
    pub id: Option<i64>,
    /// Scope of the source.
    pub scope: Option<String>,
    /// Value of the source.
    pub value: Option<String>,
    /// Scenario of the alert or of one of its decisions.
    pub scenario: Option<String>,
    /// Addresses of a decision.
    pub net: Option<(IpNet, Reach)>,
    /// Started at or after.
    pub since: Option<Timestamp>,
    /// Started at or before.
    pub until: Option<Timestamp>,
    /// Taken at or before.
    pub created_before: Option<Timestamp>,
    /// Without simulated ones.
    pub hide_simulated: bool,
    /// `true`: with a decision that still holds; `false`: without any decision.
    pub active: Option<bool>,
    /// Remediation of a decision.
    pub remediation: Option<String>,
    /// Origin of a decision.
    pub origin: Option<String>,
    /// Without what comes from shared lists.
    pub hide_lists: bool,
    /// The alert's kind.
    pub kind: Option<String>,
    /// At most so many; `None` is all.
    pub limit: Option<usize>,
    /// In which order.
    pub order: Order,
    /// Leave out the decisions.
    pub without_decisions: bool,
}

/// In which order alerts come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    #[default]
    NewestFirst,
    /// The oldest first.
    OldestFirst,
}

/// First and last address of a prefix as the stores keep them: the family, then sixteen bytes.
pub(crate) fn bounds(net: IpNet) -> ([u8; 17], [u8; 17]) {
    (address(net.network()), address(net.broadcast()))
}

fn address(ip: IpAddr) -> [u8; 17] {
    let mut bytes = [0; 17];
    match ip {
        IpAddr::V4(ip) => {
            bytes[0] = 4;
            bytes[13..].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[0] = 6;
            bytes[1..].copy_from_slice(&ip.octets());
        }
    }
    bytes
}

/// Why a store cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file comes from a newer program. It was not touched.
    #[error(
        "{path}: schema {found} is newer than this program, which knows {known}\nhint: install the newer cordon again, or restore the copy made before the upgrade",
        path = path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema that is known.
        known: u32,
    },
    /// The file belongs to another program. It was not touched.
    #[error("{path}: not a database of cordon\nhint: name a file that does not exist yet, it will be made", path = path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// Another process uses the file.
    #[error("{path}: already in use by another cordon\nhint: one server at a time can use a database", path = path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The database answered with an error.
    #[error("the database failed: {0}")]
    Database(String),
    /// What is stored cannot be understood.
    #[error("the database holds something unexpected: {0}")]
    Garbled(String),
    /// The writer does not take what is to be written.
    #[error("the store does not answer")]
    Late,
    /// The writer has stopped.
    #[error("the store is closed")]
    Closed,
}
