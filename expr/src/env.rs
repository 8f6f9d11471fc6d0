//! What an expression can see and ask for while it runs.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};

use crate::error::EvalError;
use crate::types::{Class, FieldId, MapId, MemberId, MethodId};
use crate::value::Value;

/// A structure that expressions can look into. Everything takes `&self`: an object with
/// methods that change it (`evt.SetMeta`) keeps its storage append-only inside, so that
/// text handed out earlier stays valid.
pub trait Object: fmt::Debug {
    /// Its class.
    fn class(&self) -> &'static Class;

    /// The text in slot `field`; `None` when absent (which is not the same as empty).
    fn slot(&self, field: FieldId) -> Option<&str> {
        let _ = field;
        None
    }

    /// The text under `key` in a string map, for keys computed at run time.
    fn slot_named(&self, map: MapId, key: &str) -> Option<&str> {
        let _ = (map, key);
        None
    }

    /// The entries of a string map, sorted by key.
    fn slots(&self, map: MapId) -> Vec<(&str, &str)> {
        let _ = map;
        Vec::new()
    }

    /// The value under `key` of a map that the object answers for (`Map::Object`).
    fn entry(&self, map: MapId, key: &str) -> Option<Value<'_>> {
        let _ = (map, key);
        None
    }

    /// The keys of such a map, sorted.
    fn entries(&self, map: MapId) -> Vec<&str> {
        let _ = map;
        Vec::new()
    }

    /// How many elements a list has that the object answers for (`List::Object`).
    fn count(&self, list: MemberId) -> usize {
        let _ = list;
        0
    }

    /// The element of such a list at `index`.
    fn element(&self, list: MemberId, index: usize) -> Option<Value<'_>> {
        let _ = (list, index);
        None
    }

    /// Stores `value` under `key` of such a map (`UnmarshalJSON`, `ParseKV`).
    fn store(&self, map: MapId, key: &str, value: Stored) -> Result<(), EvalError> {
        let _ = (map, key, value);
        Err(EvalError::new("this map cannot be written"))
    }

    /// The value of a member.
    fn member(&self, member: MemberId) -> Value<'_>;

    /// Calls a method; arguments have the declared count and types.
    fn call<'a>(&'a self, method: MethodId, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        let _ = (method, args);
        Err(EvalError::new("no such method"))
    }
}

/// What the parsing helpers leave in `evt.Unmarshaled`.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// A JSON value.
    Json(serde_json::Value),
    /// Key-value pairs: missing keys read as `""`; merged into pairs already there.
    Pairs(Vec<(String, String)>),
}

/// What helpers ask of the world. The defaults say "not available", as the reference does
/// without a database or a data file.
pub trait Host {
    /// The current time: the only clock an expression can see.
    fn now(&self) -> Timestamp;

    /// The zone in which `now()` and `ParseUnix` show times.
    fn zone(&self) -> TimeZone {
        TimeZone::UTC
    }

    /// The data files known by name.
    fn files(&self) -> &crate::files::Files;

    /// `GetFromStash`.
    fn stash(&self, cache: &str, key: &str) -> Option<String> {
        let _ = (cache, key);
        None
    }

    /// The machine's name.
    fn hostname(&self) -> String {
        String::new()
    }

    /// Records of the geo databases for an address: `kind` is which helper asks.
    fn geo(&self, kind: Geo, ip: std::net::IpAddr) -> Option<serde_json::Value> {
        let _ = (kind, ip);
        None
    }

    /// Addresses of a host name.
    fn lookup_host(&self, name: &str) -> Vec<String> {
        let _ = name;
        Vec::new()
    }

    /// PTR names of an address, lower case, without the final dot.
    fn lookup_addr(&self, ip: std::net::IpAddr) -> Vec<String> {
        let _ = ip;
        Vec::new()
    }

    /// Counts or times decisions that cover an address or prefix; `None` without a database.
    fn decisions(&self, query: DecisionQuery, value: &str) -> Option<Result<i64, EvalError>> {
        let _ = (query, value);
        None
    }

    /// What the reputation service says of an address (`CrowdsecCTI`): its JSON item.
    fn reputation(&self, ip: &str) -> Result<serde_json::Value, EvalError> {
        let _ = ip;
        Err(EvalError::new("the reputation service is not available"))
    }

    /// Sends a request (`HTTPGet` and its like). Whoever answers bounds body and time.
    fn http(&self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Result<HttpAnswer, EvalError> {
        let _ = (method, url, headers, body);
        Err(EvalError::new("requests are not available"))
    }

    /// A message a rule wants logged (`LogInfo`), or a helper's warning.
    fn log(&self, message: &str) {
        let _ = message;
    }
}

/// What a request gave.
#[derive(Clone, Debug, Default)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The body, at most 10 MiB.
    pub body: String,
    /// Headers with their values, names in canonical form.
    pub headers: Vec<(String, Vec<String>)>,
}

/// Which geo helper asks (`GeoIPEnrich`, `GeoIPASNEnrich`, `GeoIPRangeEnrich`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geo {
    /// The city or country record.
    City,
    /// The autonomous-system record.
    Asn,
    /// The network of the record, as text.
    Range,
}

/// What a rule wants to know about decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionQuery {
    /// How many there ever were.
    Count,
    /// How many since this long ago, in nanoseconds.
    CountSince(i64),
    /// How many hold now.
    Active,
    /// Nanoseconds left of the longest one that holds now.
    TimeLeft,
}

/// One evaluation: the variables, in the order in which [`crate::Vars`] declared them, and the host.
pub struct Env<'a> {
    /// Values of the declared variables.
    pub vars: &'a [Value<'a>],
    /// The world outside.
    pub host: &'a dyn Host,
    /// Results shared between rules for the current event; `None` computes everything anew.
    pub memo: Option<&'a crate::memo::Memo>,
}

impl fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("vars", &self.vars).finish_non_exhaustive()
    }
}
