//! Acquisition, and the runtime that moves lines through the pure crates.
//!
//! A shell: files, sockets, threads and the clock are here and nowhere below.

//!
//! Public types: [`pipeline::Pipeline`], [`engine::Engine`], [`ruleset::RuleSet`], [`acquisition::Datasource`], [`state::State`],
//! [`status::Status`].

pub mod acquisition;
pub mod backlog;
pub mod check;
pub mod crowdsec;
pub mod doubts;
pub mod engine;
pub mod explain;
pub mod hub;
pub mod hubtest;
pub mod load;
pub mod meter;
pub mod metrics;
pub mod own_addresses;
pub mod parse;
pub mod partitions;
pub mod pipeline;
mod pool;
pub mod remote;
pub mod replay;
pub mod report;
pub mod requests;
pub mod resolver;
pub mod ruleset;
pub mod shutdown;
pub mod spool;
pub mod state;
pub mod status;
pub mod tail;
pub mod world;
