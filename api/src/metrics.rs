//! The counters of this crate.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
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

/// Which bouncer asked for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BouncerRequest {
    /// Its name.
    pub bouncer: String,
    /// The pattern, as `/v1/decisions/stream`.
    pub route: String,
    /// `GET`, `POST`, ...
    pub method: String,
}

/// Which machine asked for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MachineRequest {
    /// Its name.
    pub machine: String,
    /// The pattern, as `/v1/alerts`.
    pub route: String,
    /// `GET`, `POST`, ...
    pub method: String,
}

/// Which route was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// The pattern, as `/v1/alerts/:alert_id`.
    pub endpoint: String,
    /// `GET`, `POST`, ...
    pub method: String,
}

/// What decisions in force have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabels {
    /// Their scenario.
    pub reason: String,
    /// Where they come from.
    pub origin: String,
    /// What is done.
    pub action: String,
}

/// What alerts have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AlertLabels {
    /// Their scenario.
    pub reason: String,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MachineLabels {
    /// Its name.
    pub machine: String,
}

/// Upper bounds of the classes in which answers are counted, in seconds.
const CLASSES: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0];

fn classes() -> Histogram {
    Histogram::new(CLASSES)
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
    /// Requests by bouncer, route and method.
    pub bouncer_requests: Family<BouncerRequest, Counter>,
    /// Requests by machine, route and method.
    pub machine_requests: Family<MachineRequest, Counter>,
    /// How long answers took, in seconds.
    pub durations: Family<Answered, Histogram, fn() -> Histogram>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were turned away: too many, or a handshake that failed.
    pub refused_connections: Counter,
    /// Requests that were turned away because their sender sends too many.
    pub limited: Counter,
    /// Live queries that found a decision.
    pub decisions_ok: Family<BouncerLabels, Counter>,
    /// Live queries that found none.
    pub decisions_ko: Family<BouncerLabels, Counter>,
}

/// What is counted when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Decisions in force that are not simulated.
    pub decisions: Vec<(DecisionLabels, i64)>,
    /// Alerts by scenario.
    pub alerts: Vec<(String, i64)>,
    /// Machines, and the second of their last sign of life.
    pub heartbeats: Vec<(String, i64)>,
    /// Whether the store cannot be written to.
    pub store_failing: bool,
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
            bouncer_requests: Family::default(),
            machine_requests: Family::default(),
            durations: Family::new_with_constructor(classes),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            limited: Counter::default(),
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
        registry.register("cordon_api_connections", "Open connections", metrics.connections.clone());
        registry.register(
            "cordon_api_connections_refused",
            "Connections that were turned away",
            metrics.refused_connections.clone(),
        );
        registry.register(
            "cordon_api_requests_limited",
            "Requests that were turned away because there were too many",
            metrics.limited.clone(),
        );
        registry.register("cs_lapi_bouncer_requests", "Requests by bouncer", metrics.bouncer_requests.clone());
        registry.register("cs_lapi_machine_requests", "Requests by machine", metrics.machine_requests.clone());
        registry.register("cs_lapi_request_duration_seconds", "How long answers took", metrics.durations.clone());
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("cs", "What answers", version);
        registry.register("cs_lapi_decisions_ok", "Live queries that found one", metrics.decisions_ok.clone());
        registry.register("cs_lapi_decisions_ko", "Live queries that found none", metrics.decisions_ko.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Everything in the text format of Prometheus, with what `snapshot` says of this moment and what `more` adds.
    pub fn text(&self, snapshot: &Snapshot, more: impl FnOnce(&mut Registry)) -> String {
        let mut registry = Registry::default();
        let decisions = Family::<DecisionLabels, Gauge>::default();
        for (labels, count) in &snapshot.decisions {
            decisions.get_or_create(labels).set(*count);
        }
        let alerts = Family::<AlertLabels, Gauge>::default();
        for (reason, count) in &snapshot.alerts {
            alerts.get_or_create(&AlertLabels { reason: reason.clone() }).set(*count);
        }
        let heartbeats = Family::<MachineLabels, Gauge>::default();
        for (machine, at) in &snapshot.heartbeats {
            heartbeats.get_or_create(&MachineLabels { machine: machine.clone() }).set(*at);
        }
        registry.register("cs_active_decisions", "Decisions in force", decisions);
        registry.register("cs_alerts", "Alerts", alerts);
        let failing = Gauge::<i64>::default();
        failing.set(snapshot.store_failing.into());
        registry.register("cordon_store_failing", "1 while nothing can be written to the store", failing);
        registry.register("cs_machines_last_heartbeat_timestamp", "When machines last said that they live", heartbeats);
        more(&mut registry);
        let mut text = String::new();
        // Writing to a String cannot fail; a half would be worse than nothing.
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &registry))
            .and_then(|()| encode_eof(&mut text));
        if written.is_ok() { text } else { String::new() }
    }
}
