//! The engine all bouncers share: what should be, what to change, what must never be, and the loop.

pub mod desired;
pub mod host;
pub mod plan;
pub mod rails;
pub mod run;
pub mod snapshot;
pub mod span;
pub mod status;

use std::future::Future;

use jiff::Timestamp;
use serde::Serialize;

use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::span::Span;
use crate::error::BouncerError;

pub use crate::engine::run::run;
pub use crate::engine::status::{Health, Status};

/// Addresses that pass before any block, joined and in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Never {
    /// IPv4.
    pub v4: Vec<Span>,
    /// IPv6.
    pub v6: Vec<Span>,
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

/// Something that can enforce decisions. Every call may be repeated.
pub trait Bouncer: Send {
    /// Its name, for logs and for the file of its last known good state.
    fn name(&self) -> &'static str;

    /// Makes ready what entries need, and leaves the entries that are there.
    fn prepare(&mut self) -> impl Future<Output = Result<(), BouncerError>> + Send;

    /// Makes the target hold `wanted`, and let `never` pass, in one step. What others change meanwhile may go
    /// unnoticed: look afterwards.
    fn rebuild(
        &mut self,
        wanted: &Placement,
        never: &Never,
        extent: Extent,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), BouncerError>> + Send;

    /// Carries out `plan`, all of it or nothing. After an error only [`Bouncer::rebuild`] is sound.
    fn apply(&mut self, plan: &Plan, now: Timestamp) -> impl Future<Output = Result<(), BouncerError>> + Send;

    /// Looks whether `keys` are really in place.
    fn check(&mut self, keys: Vec<(Key, Placed)>) -> impl Future<Output = Result<Check, BouncerError>> + Send;

    /// Waits until somebody else changes what is ours. Safe to drop while waiting.
    fn disturbance(&mut self) -> impl Future<Output = Result<Disturbance, BouncerError>> + Send;

    /// What has been dropped since the target was made.
    fn dropped(&mut self) -> impl Future<Output = Result<Traffic, BouncerError>> + Send;

    /// Removes everything of ours.
    fn teardown(&mut self) -> impl Future<Output = Result<(), BouncerError>> + Send;
}

#[cfg(test)]
mod tests;
