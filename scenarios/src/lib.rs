//! The bucket engine: events fill buckets, buckets overflow into alerts.
//!
//! Two steps, so that cores share the work. Where lines are parsed a [`Selector`] asks the scenarios which of them want an
//! event and makes [`Pour`]s; a pour belongs to one of 256 partitions, whose [`Buckets`] apply it and yield overflows. Time is
//! an argument everywhere: a live log and a replayed one take the same path.
//!
//! Public types: [`Loader`], [`Scenarios`], [`Scenario`], [`Selector`], [`Pour`], [`Buckets`], [`Remains`].

mod arena;
mod blackhole;
mod bucket;
mod buckets;
mod config;
mod context;
mod dispatch;
mod distinct;
mod key;
pub mod metrics;
mod overflow;
mod quota;
mod scenario;
mod select;
mod set;
mod simulation;
mod slab;
pub mod snapshot;
mod touched;
mod view;
mod wheel;

pub use bucket::Kind;
pub use buckets::Buckets;
pub use context::AlertContext;
pub use key::{BucketKey, HashKey};
pub use scenario::{Identity, Needs, Scenario};
pub use select::{Pour, Selector, Surroundings};
pub use set::{Item, Loader, Scenarios};
pub use simulation::Simulation;
pub use snapshot::{Remains, RestoreError};

#[cfg(test)]
mod tests;
