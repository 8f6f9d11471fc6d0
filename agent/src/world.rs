//! What expressions may ask of this machine.

use std::net::IpAddr;

use expr::files::Files;
use expr::{Geo, Host};
use jiff::Timestamp;
use parsers::{GeoIp, Stashes};
use tracing::info;

use crate::ruleset::RuleSet;

/// The world at one moment, for one batch.
#[derive(Debug)]
pub struct World<'a> {
    rules: &'a RuleSet,
    stashes: &'a Stashes,
    now: Timestamp,
}

impl<'a> World<'a> {
    /// The world of `rules` at `now`.
    pub fn new(rules: &'a RuleSet, stashes: &'a Stashes, now: Timestamp) -> Self {
        Self { rules, stashes, now }
    }
}

impl Host for World<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn files(&self) -> &Files {
        &self.rules.files
    }

    fn stash(&self, cache: &str, key: &str) -> Option<String> {
        self.stashes.get(cache, key, self.now)
    }

    fn hostname(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn geo(&self, kind: Geo, ip: IpAddr) -> Option<serde_json::Value> {
        self.rules.geo.as_ref().and_then(|geo: &GeoIp| match kind {
            Geo::Range => geo.range(ip).map(serde_json::Value::String),
            Geo::City | Geo::Asn => geo.record(kind, ip),
        })
    }

    fn log(&self, message: &str) {
        info!(message, "a rule says");
    }
}
