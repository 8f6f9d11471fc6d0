//! The counters of this crate.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which route was asked, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The pattern, as `/v1/alerts/:alert_id`.
    pub route: String,
    /// `GET`, `POST`, ...
    pub method: String,
}

/// Which bouncer asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BouncerLabels {
    /// Its name.
    pub bouncer: String,
}

/// Everything that is counted here.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Alerts accepted.
    pub alerts: Counter,
    /// Alerts dropped because their source is allowed.
    pub alerts_dropped: Counter,
    /// Decisions refused because their target is allowed.
    pub decisions_refused: Counter,
    /// Decisions that hold.
    pub decisions: Gauge,
    /// Readers of the event stream.
    pub followers: Gauge,
    /// Requests by route and method.
    pub requests: Family<RouteLabels, Counter>,
    /// Live queries that found a decision.
    pub decisions_ok: Family<BouncerLabels, Counter>,
    /// Live queries that found none.
    pub decisions_ko: Family<BouncerLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            registry: Registry::default(),
            alerts: Counter::default(),
            alerts_dropped: Counter::default(),
            decisions_refused: Counter::default(),
            decisions: Gauge::default(),
            followers: Gauge::default(),
            requests: Family::default(),
            decisions_ok: Family::default(),
            decisions_ko: Family::default(),
        };
        registry.register("cordon_alerts", "Alerts accepted", metrics.alerts.clone());
        registry.register(
            "cordon_alerts_dropped",
            "Alerts dropped because their source is allowed",
            metrics.alerts_dropped.clone(),
        );
        registry.register(
            "cordon_decisions_refused",
            "Decisions refused because their target is allowed",
            metrics.decisions_refused.clone(),
        );
        registry.register("cordon_decisions", "Decisions that hold", metrics.decisions.clone());
        registry.register("cordon_event_followers", "Readers of the event stream", metrics.followers.clone());
        registry.register("cs_lapi_route_requests", "Requests by route", metrics.requests.clone());
        registry.register("cs_lapi_decisions_ok", "Live queries that found one", metrics.decisions_ok.clone());
        registry.register("cs_lapi_decisions_ko", "Live queries that found none", metrics.decisions_ko.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Everything in the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}
