//! The local API: what was decided, who may know it, and how it travels.
//!
//! [`decisions::Table`] is the one state: everything else fills it (profiles, people, imports) or reads it
//! (bouncers, queries). Without the feature `server` only the reading side is built.
//!
//! Public types: [`Feed`], [`Update`], [`Places`], [`client::Client`], [`client::SseFeed`], [`decisions::Table`]; with `server`: [`server::service::Service`],
//! [`store::Sqlite`], [`profiles::Profiles`].

#[cfg(feature = "server")]
pub mod audit;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
pub mod decisions;
pub mod feed;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
pub mod history;
#[cfg(feature = "server")]
pub mod ladder;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod pki;
pub mod places;
#[cfg(feature = "server")]
pub mod privacy;
#[cfg(feature = "server")]
pub mod profiles;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod store;
pub mod wire;

pub use feed::{Feed, FeedError, Update};
pub use places::Places;
