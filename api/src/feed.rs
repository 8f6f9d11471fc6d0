//! How a bouncer learns what to enforce.
//!
//! A feed yields whole states and differences in one sequence, so that an enforcer is one loop. A reader that
//! has fallen too far behind gets a new snapshot: nothing is queued for it without bound.

use std::future::Future;

use model::{Decision, Delta};

/// What a feed yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Everything that holds now: what is not in it no longer holds.
    Snapshot(Vec<Decision>),
    /// What changed since the update before. The same decision is never in both lists, and applying a delta
    /// twice equals applying it once. What is removed comes before what is added where both are about the same
    /// target. The end of a decision is in the decision: a delta says only what begins, and what ends before its
    /// time.
    Delta(Delta),
}

/// A source of decisions. Simulated ones never appear in it.
pub trait Feed: Send {
    /// Waits for the next update; the first one is a snapshot. Safe to drop while waiting: nothing is lost.
    ///
    /// After an error other than [`FeedError::Closed`] the feed is asked again as if nothing had happened; it
    /// waits by itself before it retries, longer each time.
    fn next(&mut self) -> impl Future<Output = Result<Update, FeedError>> + Send;
}

/// Why there is no update at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// The server in this process has stopped; there will be nothing more.
    #[error("the decision feed is closed")]
    Closed,
    /// The server does not know the key.
    #[error("the api at {url} refused the key\nhint: `cordon bouncers add NAME` makes a new one")]
    Refused {
        /// The server.
        url: String,
    },
    /// The server cannot be reached, or fails.
    #[error("the api at {url} does not answer: {reason}")]
    Unreachable {
        /// The server.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The answer makes no sense.
    #[error("the api at {url} sent something unexpected: {reason}")]
    Garbled {
        /// The server.
        url: String,
        /// What was wrong with it.
        reason: String,
    },
}
