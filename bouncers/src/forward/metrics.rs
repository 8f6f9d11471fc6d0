//! What forward-auth counts.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::profile::Cause;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    profile: String,
    outcome: &'static str,
}

/// What becomes of requests. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    pub(super) unlisted: Counter,
    pub(super) loaded: Gauge,
}

impl Metrics {
    /// Makes them readable through `registry`, under `cordon_forward_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("cordon_forward");
        registry.register(
            "requests",
            "requests that proxies asked about, by what became of them",
            self.requests.clone(),
        );
        registry.register("unlisted_peers", "requests of peers that are no listed proxies", self.unlisted.clone());
        registry.register(
            "loaded",
            "whether decisions are known; 0 means that nobody is kept out",
            self.loaded.clone(),
        );
    }

    /// The counters of each of `profiles`.
    pub(super) fn of<'a>(&self, profiles: impl Iterator<Item = &'a String>) -> BTreeMap<String, Counts> {
        let one = |profile: &String| {
            let count = |outcome| self.requests.get_or_create_owned(&Labels { profile: profile.clone(), outcome });
            let counts = Counts {
                passed: count("passed"),
                unloaded: count("passed_unloaded"),
                malformed: count("malformed"),
                address: count("address"),
                country: count("country"),
                identity: count("identity"),
                path: count("path"),
                closed: count("closed"),
            };
            (profile.clone(), counts)
        };
        profiles.map(one).collect()
    }
}

/// The counters of one profile.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) passed: Counter,
    /// Passed because nothing is known.
    pub(super) unloaded: Counter,
    pub(super) malformed: Counter,
    address: Counter,
    country: Counter,
    identity: Counter,
    path: Counter,
    closed: Counter,
}

impl Counts {
    /// The counter of refusals for `cause`.
    pub(super) fn refused(&self, cause: Cause) -> &Counter {
        match cause {
            Cause::Address => &self.address,
            Cause::Country => &self.country,
            Cause::Identity => &self.identity,
            Cause::Path => &self.path,
            Cause::Closed => &self.closed,
        }
    }

    /// All refusals.
    pub(super) fn all_refused(&self) -> u64 {
        [&self.address, &self.country, &self.identity, &self.path, &self.closed].map(Counter::get).iter().sum()
    }
}
