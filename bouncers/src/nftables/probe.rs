//! What this kernel can do, found out by trying.
//!
//! Distributions carry newer parts into older kernels, so versions say little. A scratch table without any chain that
//! packets could enter is made, tried upon and removed; nothing else is touched.

use std::process;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::io::Errno;
use serde::Serialize;

use crate::engine::span::Span;
use crate::error::BouncerError;
use crate::nftables::layout::End;
use crate::nftables::netlink::{Batch, Connection, Kind, NetlinkError, attribute, text};
use crate::nftables::ruleset::{Chain, Hook, KeyType, Place, Ruleset, Set, SetRef, Shape};

/// What this host's kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is an answer of its own")]
pub struct Probe {
    /// Absent elements are removed without an error (6.3 and later).
    pub destroy: bool,
    /// Adding an element that is there prolongs it (6.12 and later).
    pub prolong: bool,
    /// Packets can be looked at where they arrive, within the same table (5.10 and later).
    pub ingress: bool,
    /// A table can belong to a process, and outlive it (6.9 and later).
    pub own: bool,
}

const TABLE_FLAGS: u16 = 2;
/// The flags `owner` and `persist`.
pub(crate) const OWNED: u32 = 2 | 4;

impl Probe {
    /// Tries it out. The error says what is missing and what to do.
    pub fn run() -> Result<Self, BouncerError> {
        let mut connection = Connection::open().map_err(unavailable)?;
        connection.generation().map_err(unavailable)?;
        let table = format!("cordon_probe_{}", process::id());
        let set = SetRef { stem: "s", key: KeyType::V4, shape: Shape::Single, second: false };
        let sets = vec![Set { set, timeout: true, counting: false, size: None }];
        let (now, one) = (Timestamp::now(), Span { first: 1, last: 1 });
        let end = |seconds| End { until: now + SignedDuration::from_secs(seconds), counter: 0 };
        let mut batch = Batch::new(&table);
        batch.message(Kind::NewTable, true, |_| {});
        Ruleset { sets, ..Ruleset::default() }.write_sets(&mut batch);
        batch.add(set, &[(one, end(SHORT))], None, now);
        connection.transact(batch).map_err(unavailable)?;

        let mut tried = |write: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new(&table);
            write(&mut batch);
            connection.transact(batch).is_ok()
        };
        let destroy = tried(&|batch| batch.remove(set, &[Span { first: 2, last: 2 }], true));
        let hook = Hook { place: Place::Ingress, priority: 0, devices: vec!["lo".to_owned()] };
        let chain = Chain { name: "i".to_owned(), hook: Some(hook), rules: Vec::new() };
        // a chain that is made and removed in one step never sees a packet
        let ingress = tried(&|batch| {
            Ruleset { chains: vec![chain.clone()], ..Ruleset::default() }.write_chains(batch, &[]);
            batch.message(Kind::DelChain, false, |bytes| text(bytes, 3, "i"));
        });
        let prolong = tried(&|batch| batch.add(set, &[(one, end(LONG))], None, now))
            && connection
                .timeout_of(&table, set, one.first)?
                .is_some_and(|left| left > Duration::from_secs(SHORT as u64));
        let mut removal = Batch::new(&table);
        removal.message(Kind::DelTable, false, |_| {});
        connection.transact(removal)?;
        Ok(Self { destroy, prolong, ingress, own: can_own(&format!("{table}_own"))? })
    }
}

const SHORT: i64 = 60;
const LONG: i64 = 600;

/// An owned table can only be removed by its owner, so it has a connection of its own.
fn can_own(table: &str) -> Result<bool, NetlinkError> {
    let mut connection = Connection::open()?;
    let mut batch = Batch::new(table);
    batch.message(Kind::NewTable, true, |bytes| attribute(bytes, TABLE_FLAGS, &OWNED.to_be_bytes()));
    if connection.transact(batch).is_err() {
        return Ok(false);
    }
    let mut removal = Batch::new(table);
    removal.message(Kind::DelTable, false, |_| {});
    connection.transact(removal)?;
    Ok(true)
}

/// What a refusal at the very start says about this host.
fn unavailable(error: NetlinkError) -> BouncerError {
    match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => BouncerError::NoPermission,
        Some(errno @ (Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP)) => {
            BouncerError::NoKernel(errno.into())
        }
        _ => error.into(),
    }
}
