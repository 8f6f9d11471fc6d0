//! Enforcement: decisions in, dropped packets out.
//!
//! What should be, what to change and what must never be are pure values; a bouncer carries out one plan at a
//! time, all of it or nothing.
//!
//! [`engine::run()`] is the loop; [`nftables::Nftables`] is what it drives on a Linux host, [`fleet`] lists what else
//! there is.
//!
//! Public types: [`Config`], [`config::TargetConfig`], [`fleet::Target`], [`engine::Status`], [`engine::Bouncer`],
//! [`engine::Caps`], [`engine::desired::Desired`], [`engine::plan::Plan`], [`engine::rails::Rails`],
//! [`nftables::Nftables`], [`Metrics`], [`BouncerError`].

pub mod config;
pub mod engine;
pub mod error;
pub mod exec;
pub mod feed;
pub mod fleet;
pub mod forward;
pub mod geo;
pub mod metrics;
pub mod nftables;
pub mod opnsense;
pub mod pfsense;
pub mod proxmox;
pub mod remote;
pub mod serve;
pub mod told;
pub mod webhook;
pub mod ziti;

pub use config::Config;
pub use error::BouncerError;
pub use metrics::Metrics;
