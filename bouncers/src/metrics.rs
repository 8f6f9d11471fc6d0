//! The counters of this crate.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::engine::status::Status;

/// What a bouncer counts. Clones share their counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    desired: Gauge,
    applied: Gauge,
    refused: Gauge,
    dropped_packets: Gauge,
    dropped_bytes: Gauge,
    pub(crate) apply: Histogram,
    pub(crate) lag: Histogram,
    pub(crate) errors: Counter,
    pub(crate) heals: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            desired: Gauge::default(),
            applied: Gauge::default(),
            refused: Gauge::default(),
            dropped_packets: Gauge::default(),
            dropped_bytes: Gauge::default(),
            apply: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            lag: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            errors: Counter::default(),
            heals: Counter::default(),
        }
    }
}

impl Metrics {
    /// Makes them readable through `registry`, under `cordon_bouncer_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("cordon_bouncer");
        registry.register("desired_entries", "entries that should be in force", self.desired.clone());
        registry.register("applied_entries", "entries that are in the target", self.applied.clone());
        registry.register("refused_entries", "entries that the rails keep out", self.refused.clone());
        registry.register("dropped_packets", "packets dropped since the table was made", self.dropped_packets.clone());
        registry.register("dropped_bytes", "bytes dropped since the table was made", self.dropped_bytes.clone());
        registry.register("apply_duration_seconds", "how long transactions take", self.apply.clone());
        registry.register("lag_seconds", "from the decision to its enforcement", self.lag.clone());
        registry.register("apply_errors", "transactions that failed", self.errors.clone());
        registry.register("drift_repairs", "changes by others that were undone", self.heals.clone());
    }

    pub(crate) fn observe(&self, status: &Status) {
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.desired, status.desired as u64);
        set(&self.applied, status.applied as u64);
        set(&self.refused, status.refused_total as u64);
        set(&self.dropped_packets, status.dropped.packets);
        set(&self.dropped_bytes, status.dropped.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    #[test]
    fn the_names_are_what_dashboards_ask_for() {
        let metrics = Metrics::default();
        metrics.observe(&Status { applied: 7, ..Status::new(Mode::Enforce) });
        metrics.heals.inc();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text takes any length");
        for line in ["cordon_bouncer_applied_entries 7", "cordon_bouncer_drift_repairs_total 1"] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
