//! Why enforcement is not possible, or failed.

use std::io;
use std::path::PathBuf;

use crate::nftables::netlink::NetlinkError;

/// An error of a bouncer. The message says what to do about it where a person can do something.
#[derive(Debug, thiserror::Error)]
pub enum BouncerError {
    /// The program that loads rules is not there.
    #[error("no `nft` program on this host\nhint: install the package `nftables`, or set enforcement to `dry-run`")]
    NoProgram,
    /// The program is there, but cannot read JSON.
    #[error("the program `{}` is built without JSON\nhint: install the distribution's full `nftables` package", program.display())]
    NoJson {
        /// Where it is.
        program: PathBuf,
    },
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
    /// The program refused a ruleset.
    #[error("`nft` refused the ruleset: {0}")]
    Ruleset(String),
    /// The program could not be run.
    #[error("cannot run `{}`: {source}", program.display())]
    Program {
        /// Where it is.
        program: PathBuf,
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
