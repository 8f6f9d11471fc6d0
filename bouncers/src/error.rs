//! Why enforcement is not possible, or failed.

use std::io;
use std::path::PathBuf;

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
    /// The kernel refused something.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The process is stopping.
    #[error("the work was cut short: the process is stopping")]
    Stopping,
}
