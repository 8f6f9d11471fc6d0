//! Why enforcement is not possible, or failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::snapshot::SnapshotError;
use crate::nftables::netlink::NetlinkError;

/// An error of a bouncer. The message says what to do about it where a person can do something.
#[derive(Debug, thiserror::Error)]
pub enum BouncerError {
    /// The process may not change the firewall.
    #[error(
        "no permission to change nftables (CAP_NET_ADMIN is missing)\nhint: run as root, or give the service \
         `AmbientCapabilities=CAP_NET_ADMIN`, or set enforcement to `dry-run`"
    )]
    NoPermission,
    /// The kernel has no nftables.
    #[error(
        "this kernel has no nftables ({0})\nhint: load the module with `modprobe nf_tables`, or set enforcement to `dry-run`"
    )]
    NoKernel(io::Error),
    /// A table that somebody else should have made is not there, or is not ours to change.
    #[error("the table `inet {0}` and its rules are somebody else's (`set_only`), and only they can change them")]
    NotOurs(String),
    /// A set that somebody else has made cannot hold what we would put in.
    #[error("the set `{set}` in the table `inet {table}` is missing or of another kind\nhint: make it as {wanted}")]
    UnfitSet {
        /// The table.
        table: String,
        /// The set.
        set: String,
        /// How it should be.
        wanted: String,
    },
    /// A file of ours cannot be written or removed.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The last known good state cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The kernel refused something.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The process is stopping.
    #[error("the work was cut short: the process is stopping")]
    Stopping,
    /// A target elsewhere does not answer, or fails in a way that may pass.
    #[error("`{target}` does not answer as it should: {reason}")]
    Unreachable {
        /// Name of the target.
        target: String,
        /// What went wrong.
        reason: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// A target elsewhere refuses our credentials, or they are not enough.
    #[error("`{target}` refuses our credentials: {reason}\nhint: `cordon bouncer setup` says which rights are needed")]
    Unauthorised {
        /// Name of the target.
        target: String,
        /// What it said.
        reason: String,
    },
    /// A target cannot be used as it is set up.
    #[error("`{target}` cannot be used: {reason}")]
    Unusable {
        /// Name of the target.
        target: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Something on this host that a target needs is missing or wrong: a key file, a program.
    #[error("{0}")]
    Setup(String),
}

/// What an error means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may pass by itself; the target may have said when.
    Passing(Option<Duration>),
    /// Our credentials are refused.
    Unauthorised,
    /// Somebody has to do something.
    Lasting,
}

impl BouncerError {
    /// `target` does not answer as it should.
    pub fn unreachable(target: &str, reason: impl Into<String>) -> Self {
        Self::busy(target, reason, None)
    }

    /// The same, and it wants to be left alone for a while.
    pub fn busy(target: &str, reason: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self::Unreachable { target: target.to_owned(), reason: reason.into(), retry_after }
    }

    /// `target` refuses our credentials.
    pub fn unauthorised(target: &str, reason: impl Into<String>) -> Self {
        Self::Unauthorised { target: target.to_owned(), reason: reason.into() }
    }

    /// `target` cannot be used as it is set up.
    pub fn unusable(target: &str, reason: impl Into<String>) -> Self {
        Self::Unusable { target: target.to_owned(), reason: reason.into() }
    }

    /// What it means for the next try.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { retry_after, .. } => Class::Passing(*retry_after),
            Self::Unauthorised { .. } => Class::Unauthorised,
            Self::Netlink(_) | Self::File { .. } | Self::Snapshot(_) | Self::Stopping => Class::Passing(None),
            Self::NoPermission
            | Self::NoKernel(_)
            | Self::NotOurs(_)
            | Self::UnfitSet { .. }
            | Self::Unusable { .. }
            | Self::Setup(_) => Class::Lasting,
        }
    }

    /// The same in one word, for metrics.
    pub fn label(&self) -> &'static str {
        match self.class() {
            Class::Passing(_) => "passing",
            Class::Unauthorised => "unauthorised",
            Class::Lasting => "lasting",
        }
    }
}
