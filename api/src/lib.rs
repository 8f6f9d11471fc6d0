//! The local API: what was decided, who may know it, and how it travels.
//!
//! [`decisions::Table`] is the one state: everything else fills it (profiles, people, imports) or reads it
//! (bouncers, queries). Without the feature `server` only the reading side is built.
//!
//! Public types: [`Feed`], [`Update`], [`decisions::Table`].

pub mod decisions;
pub mod feed;

pub use feed::{Feed, FeedError, Update};
