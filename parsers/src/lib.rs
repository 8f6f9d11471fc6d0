//! From a line to an event that buckets understand.
//!
//! A parser is a YAML file: a tree of nodes with filters, grok patterns, statics. [`load`] compiles the files of one engine
//! (parsers of lines, or of overflows) into an immutable [`ParserSet`]; [`ParserSet::run`] takes an event through its stages.
//! No clock, no file, no socket: time, data and lookups come with the [`Context`].
//!
//! Public types: [`ParserFile`], [`Library`], [`Loaded`], [`ParserSet`], [`Context`], [`Outcome`], [`Stashes`], [`GeoIp`],
//! [`Trace`].

pub mod config;
mod dispatch;
pub mod enrich;
pub mod grok;
mod habit;
pub mod literals;
mod node;
pub mod patterns;
mod recent;
pub mod scanner;
mod stage;
pub mod stash;
mod statics;
pub mod trace;
mod whitelist;

use expr::memo::Memo;
use expr::{Env, Host, Value};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::{EventTime, Probe};

pub use enrich::date::YearRule;
pub use enrich::geoip::GeoIp;
pub use patterns::Library;
pub use stage::{Loaded, Outcome, ParserFile, ParserReport, ParserSet, Scratch, load};
pub use stash::Stashes;
pub use trace::Trace;

/// What a run needs beside the event.
pub struct Context<'w> {
    /// What expressions may ask. Its `stash` should answer from `stashes`, its `geo` from `geo`.
    pub host: &'w dyn Host,
    /// The current time: the time of an event whose date is not read, and the time by which stashes forget.
    pub now: Timestamp,
    /// Which year a date without one gets.
    pub year: YearRule,
    /// Zone in which unix timestamps are written out.
    pub zone: &'w TimeZone,
    /// Where `stash` writes.
    pub stashes: &'w Stashes,
    /// Geo databases, if there are any.
    pub geo: Option<&'w GeoIp>,
    /// Results shared between rules, forgotten whenever the event changes.
    pub memo: Option<&'w Memo>,
    /// Scratch space of this worker.
    pub scratch: &'w mut Scratch,
    /// Where to write down what each node did.
    pub trace: Option<&'w mut Trace>,
    /// What notes how long stages and nodes take.
    pub probe: Option<&'w Probe>,
}

impl Context<'_> {
    /// Says that the event changed, so that shared results no longer hold.
    fn changed(&self) {
        if let Some(memo) = self.memo {
            memo.next();
        }
    }

    fn env<'e>(&'e self, vars: &'e [Value<'e>]) -> Env<'e> {
        Env { vars, host: self.host, memo: self.memo }
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("now", &self.now).field("year", &self.year).finish_non_exhaustive()
    }
}
