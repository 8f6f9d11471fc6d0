//! The one table of live decisions.
//!
//! Pure: `now` is an argument. A decision never changes after it is added; it ends by itself at `until`, or is
//! lifted. Every addition and every lift has a number, and a bounded log of them lets a reader who knows a
//! number catch up. What ends by itself is no change: every reader knows the end.

mod nets;
mod query;
mod row;
mod table;

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use jiff::Timestamp;

use model::Scope;

pub use query::{Query, Reach};
pub use row::Row;
pub use table::{Scan, Table};

/// How many changes are customarily remembered. Whoever is further behind gets a snapshot.
pub const LOG_LEN: usize = 1 << 18;

/// How many epochs a store remembers.
pub const MAX_EPOCHS: usize = 64;

/// A place in the sequence of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// The run of the server in which the number was given.
    pub epoch: u64,
    /// The number of the last change seen.
    pub number: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, self.number)
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a place in the sequence of changes")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (epoch, number) = text.split_once('-').ok_or(CursorError)?;
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| CursorError)?;
        Ok(Self { epoch, number: number.parse().map_err(|_| CursorError)? })
    }
}

/// The runs of the server on one store, oldest first: a number is only comparable with numbers of the same
/// history. Each start begins an epoch, so that a number given after the moment to which a store was restored
/// is recognised as foreign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Epoch, and the last number given before it began.
    began: Vec<(u64, u64)>,
}

impl Epochs {
    /// The epochs that a store remembers, oldest first, each with the last number given before it began.
    pub fn new(began: Vec<(u64, u64)>) -> Self {
        Self { began }
    }

    /// The epochs, oldest first, each with the last number given before it began.
    pub fn began(&self) -> &[(u64, u64)] {
        &self.began
    }

    /// Begins `epoch`; `last` is the last number the store knows.
    pub fn begin(&mut self, epoch: u64, last: u64) {
        self.began.push((epoch, last));
        let surplus = self.began.len().saturating_sub(MAX_EPOCHS);
        self.began.drain(..surplus);
    }

    /// The current epoch; 0 before the first.
    pub fn current(&self) -> u64 {
        self.began.last().map_or(0, |&(epoch, _)| epoch)
    }

    /// Whether `cursor` was given by this store and lies in its past.
    fn knows(&self, cursor: Cursor, last: u64) -> bool {
        let Some(at) = self.began.iter().rposition(|&(epoch, _)| epoch == cursor.epoch) else { return false };
        let end = self.began.get(at + 1).map_or(last, |&(_, before)| before);
        cursor.number <= end
    }
}

/// The prefix that a decision on `scope` and `value` covers, if it is about addresses.
pub fn net_of(scope: &Scope, value: &str) -> Option<IpNet> {
    match scope {
        Scope::Ip | Scope::Range => model::scope::parse_net(value).ok(),
        _ => None,
    }
}

/// `at` in the precision of tables and stores: whole microseconds.
pub fn to_micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The instant that [`to_micros`] gave; what lies outside of time is cut to its ends.
pub fn from_micros(micros: i64) -> Timestamp {
    let end = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(micros).unwrap_or(end)
}
