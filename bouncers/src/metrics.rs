//! The counters of this crate, one of each kind for every target.

use std::fmt;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::engine::status::Status;
use crate::{feed, forward};

type Labels = Vec<(&'static str, String)>;

/// How a histogram of seconds begins.
#[derive(Clone, Debug)]
struct Seconds(f64);

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.0, 4.0, 9))
    }
}

/// What all targets of this process count. Clones share their counts.
#[derive(Clone)]
pub struct Metrics {
    desired: Family<Labels, Gauge>,
    applied: Family<Labels, Gauge>,
    refused: Family<Labels, Gauge>,
    dropped_packets: Family<Labels, Gauge>,
    dropped_bytes: Family<Labels, Gauge>,
    success_age: Family<Labels, Gauge>,
    circuit_open: Family<Labels, Gauge>,
    healthy: Family<Labels, Gauge>,
    apply: Family<Labels, Histogram, Seconds>,
    lag: Family<Labels, Histogram, Seconds>,
    errors: Family<Labels, Counter>,
    repairs: Family<Labels, Counter>,
    /// What forward-auth counts.
    pub(crate) forward: forward::metrics::Metrics,
    /// What feeds count.
    pub(crate) feed: feed::consumers::Metrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            desired: Family::default(),
            applied: Family::default(),
            refused: Family::default(),
            dropped_packets: Family::default(),
            dropped_bytes: Family::default(),
            success_age: Family::default(),
            circuit_open: Family::default(),
            healthy: Family::default(),
            apply: Family::new_with_constructor(Seconds(0.0001)),
            lag: Family::new_with_constructor(Seconds(0.001)),
            errors: Family::default(),
            repairs: Family::default(),
            forward: forward::metrics::Metrics::default(),
            feed: feed::consumers::Metrics::default(),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Makes them readable through `registry`, under `cordon_bouncer_` and the names of targets that are asked.
    pub fn register(&self, registry: &mut Registry) {
        self.forward.register(registry);
        self.feed.register(registry);
        let registry = registry.sub_registry_with_prefix("cordon_bouncer");
        registry.register("desired_entries", "entries that should be in force", self.desired.clone());
        registry.register("applied_entries", "entries that are in the target", self.applied.clone());
        registry.register("refused_entries", "entries that the rails or the target keep out", self.refused.clone());
        registry.register("dropped_packets", "packets dropped since the target was made", self.dropped_packets.clone());
        registry.register("dropped_bytes", "bytes dropped since the target was made", self.dropped_bytes.clone());
        let age = "seconds since the target last was as it should be; -1 before that";
        registry.register("last_success_age_seconds", age, self.success_age.clone());
        let open = "1 while the target fails so often that it is only tried";
        registry.register("api_circuit_open", open, self.circuit_open.clone());
        registry.register("healthy", "1 while look-ups show that blocks are in place", self.healthy.clone());
        registry.register("apply_duration_seconds", "how long changes take", self.apply.clone());
        registry.register("lag_seconds", "from the decision to its enforcement", self.lag.clone());
        registry.register("apply_errors", "calls that failed, by what that means", self.errors.clone());
        registry.register("drift_repairs", "changes by others that were undone, by cause", self.repairs.clone());
    }

    /// The counters of one target.
    pub(crate) fn of(&self, target: &str) -> TargetMetrics {
        TargetMetrics { all: self.clone(), target: target.to_owned() }
    }
}

/// The counters of one target.
#[derive(Clone, Debug)]
pub(crate) struct TargetMetrics {
    all: Metrics,
    target: String,
}

impl TargetMetrics {
    fn labels(&self) -> Labels {
        vec![("target", self.target.clone())]
    }

    fn labels_and(&self, name: &'static str, value: &str) -> Labels {
        vec![("target", self.target.clone()), (name, value.to_owned())]
    }

    pub(crate) fn took(&self, seconds: f64) {
        self.all.apply.get_or_create(&self.labels()).observe(seconds);
    }

    pub(crate) fn lagged(&self, seconds: f64) {
        self.all.lag.get_or_create(&self.labels()).observe(seconds.max(0.0));
    }

    pub(crate) fn failed(&self, class: &str) {
        self.all.errors.get_or_create(&self.labels_and("class", class)).inc();
    }

    pub(crate) fn repaired(&self, cause: &str) {
        self.all.repairs.get_or_create(&self.labels_and("cause", cause)).inc();
    }

    pub(crate) fn observe(&self, status: &Status, success_age: Option<u64>, healthy: bool) {
        let labels = self.labels();
        let set = |gauge: &Family<Labels, Gauge>, value: u64| {
            gauge.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.all.desired, status.desired as u64);
        set(&self.all.applied, status.applied as u64);
        set(&self.all.refused, status.refused_total as u64);
        set(&self.all.dropped_packets, status.dropped.packets);
        set(&self.all.dropped_bytes, status.dropped.bytes);
        set(&self.all.circuit_open, status.circuit_open.into());
        set(&self.all.healthy, healthy.into());
        let age = success_age.map_or(-1, |age| i64::try_from(age).unwrap_or(i64::MAX));
        self.all.success_age.get_or_create(&labels).set(age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    #[test]
    fn the_names_are_what_dashboards_ask_for() {
        let metrics = Metrics::default();
        let of = metrics.of("fw");
        of.observe(&Status { applied: 7, ..Status::new(Mode::Enforce) }, None, false);
        of.repaired("nft");
        of.failed("passing");
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text takes any length");
        for line in [
            "cordon_bouncer_applied_entries{target=\"fw\"} 7",
            "cordon_bouncer_drift_repairs_total{target=\"fw\",cause=\"nft\"} 1",
            "cordon_bouncer_apply_errors_total{target=\"fw\",class=\"passing\"} 1",
            "cordon_bouncer_last_success_age_seconds{target=\"fw\"} -1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
