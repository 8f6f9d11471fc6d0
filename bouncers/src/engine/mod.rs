//! The engine all bouncers share: what should be, what to change, what must never be, and the loop.
//!
//! A target is a [`Bouncer`]: a small driver that says what it can do ([`Caps`]) and carries out plans. Everything
//! else (rails, retries, limits, drift, what is saved) is done here once for all of them.

pub mod admins;
pub mod desired;
pub mod host;
pub mod journal;
pub mod ledger;
pub mod pace;
pub mod patience;
pub mod plan;
pub mod rails;
pub mod run;
pub mod select;
pub mod snapshot;
pub mod span;
pub mod status;

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use model::Scope;
use serde::Serialize;

use crate::engine::desired::{Desired, Key};
use crate::engine::plan::{Placed, Placement, Plan, Why};
use crate::engine::span::Span;
use crate::error::BouncerError;

pub use crate::engine::run::run;
pub use crate::engine::status::{Health, Status};

/// Which of several words something takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// These, in lower case.
    Only(&'static [&'static str]),
    /// Whatever there is.
    All,
}

impl Takes {
    /// Whether `word` is among them; upper and lower case are the same.
    pub fn takes(self, word: &str) -> bool {
        match self {
            Takes::Only(words) => words.iter().any(|known| known.eq_ignore_ascii_case(word)),
            Takes::All => true,
        }
    }
}

/// What a target can do. The engine asks once, when it starts.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about a target; any of them may go together"
)]
pub struct Caps {
    /// The remediations that it carries out.
    pub remediations: Takes,
    /// Whether it takes addresses and prefixes.
    pub addresses: bool,
    /// The other scopes that it takes: `country`, `identity`, ...
    pub scopes: Takes,
    /// How many entries it holds at the most. The most important ones go in.
    pub max_entries: usize,
    /// Whether it ends entries by itself. Where it does not, the engine removes them and keeps a journal.
    pub expires: bool,
    /// Whether it must hear when an entry ends later than it was told.
    pub refreshes: bool,
    /// Whether a prefix may be placed in pieces, around addresses that are never blocked. Where it may not, such a
    /// prefix is refused.
    pub splits: bool,
    /// Whether it can count what it would block.
    pub observes: bool,
    /// Whether it is elsewhere: news are gathered for a moment, calls are spaced, failures answered with patience.
    pub remote: bool,
    /// How many changes one call of [`Bouncer::apply`] takes at the most.
    pub batch: usize,
    /// How long news are gathered before they are written; zero writes at once.
    pub window: Duration,
    /// Pause between two writes at least.
    pub pause: Duration,
    /// How often it is looked at when nothing happens.
    pub look: Duration,
}

impl Caps {
    /// A target on this host that takes bans of addresses and ends them by itself, like the kernel.
    pub const LOCAL: Caps = Caps {
        remediations: Takes::Only(&["ban"]),
        addresses: true,
        scopes: Takes::Only(&[]),
        max_entries: usize::MAX,
        expires: true,
        refreshes: true,
        splits: true,
        observes: true,
        remote: false,
        batch: usize::MAX,
        window: Duration::ZERO,
        pause: Duration::ZERO,
        look: Duration::from_secs(10),
    };

    /// A target elsewhere that takes bans of addresses and never ends them by itself.
    pub const REMOTE: Caps = Caps {
        expires: false,
        refreshes: false,
        observes: false,
        remote: true,
        batch: 5000,
        window: Duration::from_secs(1),
        ..Caps::LOCAL
    };

    /// Whether the target is meant for entries of `key`.
    pub fn takes(&self, key: &Key) -> bool {
        self.remediations.takes(&key.remediation)
            && match key.scope() {
                Scope::Ip | Scope::Range => self.addresses,
                scope => self.scopes.takes(scope.as_str()),
            }
    }
}

/// Addresses that pass before any block, joined and in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Never {
    /// IPv4.
    pub v4: Vec<Span>,
    /// IPv6.
    pub v6: Vec<Span>,
}

/// Everything that a target should hold.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The entries, within the rails.
    pub placed: &'a Placement,
    /// What must pass before any block.
    pub never: &'a Never,
    /// The decisions behind the entries, where they are known.
    pub desired: Option<&'a Desired>,
}

impl<'a> Wanted<'a> {
    /// Entries whose decisions are not known.
    pub fn of(placed: &'a Placement, never: &'a Never) -> Self {
        Self { placed, never, desired: None }
    }

    /// Who decided on `key`, and why.
    pub fn why(&self, key: &Key) -> Option<Why> {
        self.desired?.entry(key).map(Why::of)
    }
}

/// What became of a call that the target took. The default: all of it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Entries that the target will never take as they are, and why. They are set aside; the rest is done.
    pub refused: Vec<(Key, String)>,
    /// Entries that are not done yet, and why; the engine comes back to them after the target's pause.
    pub pending: Vec<(Key, String)>,
    /// There is more to do than one call takes: [`Bouncer::rebuild`] is to be called again, with what is wanted then.
    pub more: bool,
}

/// How a target differs from what it should hold, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What is not there and should be.
    pub missing: Vec<String>,
    /// What is there, is ours, and should not be.
    pub surplus: Vec<String>,
    /// What around the entries is not as it should be: a rule, an alias, a table.
    pub structure: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty() && self.structure.is_empty()
    }
}

/// Who may write to a target of which several agents know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "holder")]
pub enum Right {
    /// We may.
    Ours,
    /// Somebody else does: his name.
    Others(String),
    /// Nobody has said yet.
    Unknown,
}

/// How much of a target a rebuild speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What is not wanted goes.
    Exactly,
    /// What is there stays: the state is an old one, read from disk.
    AtLeast,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a look at the target found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whether everything around the entries is as it was made.
    pub intact: bool,
    /// Whether blocks take effect: nobody has pulled the panic switch.
    pub armed: bool,
    /// How many entries were looked up.
    pub asked: usize,
    /// How many of them are not there.
    pub missing: usize,
}

impl Check {
    /// Whether nothing was found to be wrong.
    pub fn is_good(&self) -> bool {
        self.intact && self.missing == 0
    }
}

/// Somebody else changed what is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// Name of the process; empty when it is not known.
    pub process: String,
    /// Its id; 0 when it is not known.
    pub pid: u32,
    /// Whether single entries were removed, so that a sample may miss it.
    pub elements: bool,
}

/// What the engine hears about its own feed, for targets that answer by themselves while it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing has been heard yet, neither from disk nor from the API.
    Unknown,
    /// What holds is known, and new decisions arrive.
    Flowing,
    /// What holds was known; the API has been away for longer than `grace`.
    Lost,
}

/// Something that can enforce decisions. Every call may be repeated.
pub trait Bouncer: Send {
    /// What kind of target it is, for logs.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn caps(&self) -> Caps;

    /// Makes ready what entries need, and leaves the entries that are there.
    fn prepare(&mut self) -> impl Future<Output = Result<(), BouncerError>> + Send;

    /// Makes the target hold what is `wanted`, whatever it held before: at once where it can, else by reading what
    /// is there and writing what differs. What others change meanwhile may go unnoticed: look afterwards.
    fn rebuild(
        &mut self,
        wanted: Wanted<'_>,
        extent: Extent,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome, BouncerError>> + Send;

    /// Carries out `plan`. After an error only [`Bouncer::rebuild`] is sound.
    fn apply(&mut self, plan: &Plan, now: Timestamp) -> impl Future<Output = Result<Outcome, BouncerError>> + Send;

    /// Looks whether `keys` are really in place.
    fn check(&mut self, keys: Vec<(Key, Placed)>) -> impl Future<Output = Result<Check, BouncerError>> + Send;

    /// Reads all of ours back and says how it differs from what is `wanted`. Writes nothing.
    fn compare(
        &mut self,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Difference, BouncerError>> + Send;

    /// Waits until somebody else changes what is ours. Safe to drop while waiting. A target that cannot tell waits
    /// for ever.
    fn disturbance(&mut self) -> impl Future<Output = Result<Disturbance, BouncerError>> + Send {
        std::future::pending()
    }

    /// What has been dropped since the target was made, where it can be known.
    fn dropped(&mut self) -> impl Future<Output = Result<Traffic, BouncerError>> + Send {
        std::future::ready(Ok(Traffic::default()))
    }

    /// Hears how the engine's own feed is.
    fn hear(&mut self, _: News) {}

    /// Removes everything of ours.
    fn teardown(&mut self) -> impl Future<Output = Result<(), BouncerError>> + Send;
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
