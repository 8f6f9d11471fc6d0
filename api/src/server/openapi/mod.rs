//! What the server understands, in the words of `OpenAPI`: made from one table of routes and the schemas of the wire types.
//!
//! A test compares the table with the routes that the server has, and the schemas with what the types read and write.

mod schemas;

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::json_text;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// A machine with a token.
    Machine,
    /// A key or certificate that allows to ask for decisions.
    Bouncer,
    /// A key that allows to send alerts.
    Pusher,
    /// An administrator: this host's, or with a key or certificate.
    Admin,
    /// Whoever asks from this host, or from `trusted_ips`.
    Host,
}

/// What a parameter looks like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    /// Several texts, separated by commas.
    List,
    Flag,
    Number,
    Address,
    Range,
    Duration,
}

/// One route and method.
#[derive(Debug)]
struct Route {
    method: &'static str,
    path: &'static str,
    says: &'static str,
    /// Nobody in particular means everybody.
    who: &'static [Who],
    query: &'static [(&'static str, Kind)],
    /// Schema of the body.
    body: Option<&'static str>,
    /// Statuses and the schemas of their bodies.
    answers: &'static [(u16, Option<&'static str>)],
    /// Whether 500 is also the answer to what cannot be understood or found, as clients of the field know it.
    blames_itself: bool,
}

const MACHINE: &[Who] = &[Who::Machine, Who::Admin];
const BOUNCER: &[Who] = &[Who::Bouncer, Who::Admin];
const ADMIN: &[Who] = &[Who::Admin];

const ROUTE: Route = Route {
    method: "get",
    path: "",
    says: "",
    who: &[],
    query: &[],
    body: None,
    answers: &[(200, None)],
    blames_itself: false,
};

const ALERT_FILTERS: &[(&str, Kind)] = &[
    ("scope", Kind::Text),
    ("value", Kind::Text),
    ("scenario", Kind::Text),
    ("ip", Kind::Address),
    ("range", Kind::Range),
    ("contains", Kind::Flag),
    ("since", Kind::Duration),
    ("until", Kind::Duration),
    ("created_before", Kind::Duration),
    ("simulated", Kind::Flag),
    ("has_active_decision", Kind::Flag),
    ("decision_type", Kind::Text),
    ("origin", Kind::Text),
    ("include_capi", Kind::Flag),
    ("kind", Kind::Text),
    ("limit", Kind::Number),
];

const DECISION_FILTERS: &[(&str, Kind)] = &[
    ("ip", Kind::Address),
    ("range", Kind::Range),
    ("contains", Kind::Flag),
    ("scopes", Kind::List),
    ("scope", Kind::List),
    ("value", Kind::Text),
    ("type", Kind::Text),
    ("origins", Kind::List),
    ("scenarios_containing", Kind::List),
    ("scenarios_not_containing", Kind::List),
    ("simulated", Kind::Flag),
];

/// Every route of the server.
const ROUTES: &[Route] = &[
    Route { path: "/health", says: "Whether the server lives", answers: &[(200, Some("Health"))], ..ROUTE },
    Route {
        path: "/metrics",
        says: "Counters for Prometheus; to this host, `trusted_ips` and administrators",
        who: &[Who::Admin, Who::Host],
        ..ROUTE
    },
    Route { path: "/v1/openapi.json", says: "This description", ..ROUTE },
    Route {
        path: "/v1/pki/crl",
        says: "The certificates that the site's authority revoked, in PEM",
        answers: &[(200, None), (404, None)],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/watchers",
        says: "Register a machine; it may log in once it is validated, at once with the right token (202)",
        body: Some("Registration"),
        answers: &[(201, None), (202, None), (401, Some("Message")), (403, Some("Message")), (422, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/watchers/login",
        says: "Get a token for a password, or for the certificate of the connection",
        body: Some("Login"),
        answers: &[(200, Some("Token")), (401, Some("CodedMessage"))],
        ..ROUTE
    },
    Route {
        path: "/v1/refresh_token",
        says: "Get another token for one that is less than an hour old",
        who: &[Who::Machine],
        answers: &[(200, Some("Token"))],
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/watchers/self",
        says: "Remove the machine that asks",
        who: MACHINE,
        answers: &[(204, None)],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        path: "/v1/alerts",
        says: "Search alerts; also `sort` (`ASC`, `DESC`) and `with_decisions`. Nothing is null",
        who: MACHINE,
        query: ALERT_FILTERS,
        answers: &[(200, Some("Alerts"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/alerts",
        says: "Send alerts; answers their numbers once they are durable",
        who: &[Who::Machine, Who::Pusher, Who::Admin],
        body: Some("NewAlerts"),
        answers: &[(201, Some("Numbers")), (403, Some("Message")), (507, Some("Message"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/alerts",
        says: "Erase alerts with their decisions; from this host, `trusted_ips` and by administrators",
        who: MACHINE,
        query: ALERT_FILTERS,
        answers: &[(200, Some("Deleted")), (403, Some("Message"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        path: "/v1/alerts/{alert_id}",
        says: "One alert",
        who: MACHINE,
        answers: &[(200, Some("Alert")), (400, Some("Message")), (404, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/alerts/{alert_id}",
        says: "Erase one alert with its decisions",
        who: MACHINE,
        answers: &[(200, Some("Deleted")), (400, Some("Message")), (403, Some("Message"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        path: "/v1/decisions",
        says: "Decisions in force; also `limit`, `offset` and `id_gt`. Nothing is null",
        who: BOUNCER,
        query: DECISION_FILTERS,
        answers: &[(200, Some("Decisions"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/decisions",
        says: "End decisions that are in force",
        who: MACHINE,
        query: &[
            ("ip", Kind::Address),
            ("range", Kind::Range),
            ("contains", Kind::Flag),
            ("scopes", Kind::Text),
            ("value", Kind::Text),
            ("type", Kind::Text),
            ("origin", Kind::Text),
            ("scenario", Kind::Text),
            ("uuid", Kind::Text),
        ],
        answers: &[(200, Some("Deleted"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/decisions/{decision_id}",
        says: "End one decision",
        who: MACHINE,
        answers: &[(200, Some("Deleted")), (400, Some("Message"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        path: "/v1/decisions/stream",
        says: "What changed since this bouncer last asked, or everything with `startup=true`; `dedup=false` tells all decisions of a target",
        who: BOUNCER,
        query: DECISION_FILTERS,
        answers: &[(200, Some("Stream"))],
        ..ROUTE
    },
    Route {
        path: "/v1/decisions/events",
        says: "Decisions as they happen, as `text/event-stream`; goes on after `Last-Event-ID`",
        who: BOUNCER,
        query: DECISION_FILTERS,
        blames_itself: true,
        ..ROUTE
    },
    Route { path: "/v1/heartbeat", says: "Say that the machine lives", who: MACHINE, ..ROUTE },
    Route {
        method: "post",
        path: "/v1/usage-metrics",
        says: "Tell what the sender did",
        who: &[Who::Machine, Who::Bouncer, Who::Admin],
        body: Some("UsageMetrics"),
        answers: &[(201, None), (422, Some("Message"))],
        ..ROUTE
    },
    Route {
        path: "/v1/allowlists",
        says: "Allowlists, with their items if `with_content` is true",
        who: &[Who::Machine, Who::Pusher, Who::Admin],
        query: &[("with_content", Kind::Flag)],
        answers: &[(200, Some("Allowlists"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/allowlists",
        says: "Make an allowlist",
        who: ADMIN,
        body: Some("NewAllowlist"),
        answers: &[(201, None), (409, Some("Message"))],
        ..ROUTE
    },
    Route {
        path: "/v1/allowlists/{name}",
        says: "One allowlist",
        who: MACHINE,
        query: &[("with_content", Kind::Flag)],
        answers: &[(200, Some("Allowlist"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/allowlists/{name}",
        says: "Remove an allowlist",
        who: ADMIN,
        answers: &[(204, None), (404, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/allowlists/{name}/items",
        says: "Allow addresses and ranges, and end decisions about them",
        who: ADMIN,
        body: Some("NewItems"),
        answers: &[(200, None), (201, None), (404, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/allowlists/{name}/items",
        says: "Take addresses and ranges off",
        who: ADMIN,
        body: Some("Items"),
        answers: &[(200, None), (404, Some("Message"))],
        ..ROUTE
    },
    Route {
        path: "/v1/allowlists/check/{ip_or_range}",
        says: "Whether an address or range is allowed",
        who: MACHINE,
        answers: &[(200, Some("Check"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/allowlists/check",
        says: "Which of many addresses and ranges are allowed",
        who: MACHINE,
        body: Some("Targets"),
        answers: &[(200, Some("Checked"))],
        blames_itself: true,
        ..ROUTE
    },
    Route {
        path: "/v1/audit",
        says: "Who changed what: the newest records, or those after a place",
        who: ADMIN,
        query: &[
            ("since", Kind::Duration),
            ("actor", Kind::Text),
            ("action", Kind::Text),
            ("after", Kind::Number),
            ("limit", Kind::Number),
        ],
        answers: &[(200, Some("AuditRecords")), (400, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/audit",
        says: "Put into the audit trail what was done beside the API",
        who: ADMIN,
        body: Some("AuditNote"),
        answers: &[(201, None)],
        ..ROUTE
    },
    Route {
        path: "/v1/audit/verify",
        says: "Whether the chain of the audit trail holds; if not, where it breaks (409)",
        who: ADMIN,
        query: &[("moved", Kind::Flag)],
        answers: &[(200, Some("AuditVerified")), (409, Some("Message"))],
        ..ROUTE
    },
    Route { path: "/v1/bouncers", says: "Accounts of those who enforce", who: ADMIN, ..ROUTE },
    Route {
        method: "post",
        path: "/v1/bouncers",
        says: "Make a key; it is told once",
        who: ADMIN,
        body: Some("NewBouncer"),
        answers: &[(201, Some("Key"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/bouncers/prune",
        says: "Remove bouncers that were silent for long",
        who: ADMIN,
        body: Some("Silent"),
        answers: &[(200, Some("Removed"))],
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/bouncers/{name}",
        says: "Remove a bouncer",
        who: ADMIN,
        answers: &[(204, None), (404, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/bouncers/{name}/rotate",
        says: "Make another key; the one before is good for `grace`",
        who: ADMIN,
        body: Some("Rotation"),
        answers: &[(200, Some("Key")), (404, Some("Message"))],
        ..ROUTE
    },
    Route { path: "/v1/machines", says: "Accounts of those who send alerts", who: ADMIN, ..ROUTE },
    Route {
        method: "post",
        path: "/v1/machines",
        says: "Make a machine that may log in",
        who: ADMIN,
        body: Some("NewMachine"),
        answers: &[(201, None)],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/machines/prune",
        says: "Remove machines that were silent for long",
        who: ADMIN,
        body: Some("Silent"),
        answers: &[(200, Some("Removed"))],
        ..ROUTE
    },
    Route {
        method: "delete",
        path: "/v1/machines/{name}",
        says: "Remove a machine; its alerts stay",
        who: ADMIN,
        answers: &[(204, None), (404, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/machines/{name}/validate",
        says: "Let a machine log in",
        who: ADMIN,
        answers: &[(204, None), (404, Some("Message"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/forgive",
        says: "End decisions about an address or range, clear its strikes, and spare it for a while",
        who: ADMIN,
        body: Some("Forgiveness"),
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/forget",
        says: "Erase what is stored about an address, range or user name; decisions about it end",
        who: ADMIN,
        body: Some("Forget"),
        answers: &[(200, Some("Forgotten"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/alerts/flush",
        says: "Erase old alerts that own no decision in force",
        who: ADMIN,
        body: Some("Flush"),
        answers: &[(200, Some("Deleted"))],
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/reload",
        says: "Read configuration, rules, datasources and certificates again; a mistake changes nothing (409)",
        who: ADMIN,
        answers: &[(200, None), (409, Some("Message"))],
        blames_itself: true,
        ..ROUTE
    },
    Route { path: "/v1/status", says: "What runs in this process, and how it is", who: ADMIN, ..ROUTE },
];

/// `GET /v1/openapi.json`.
pub(crate) async fn serve() -> Response {
    json_text(description().to_string())
}

/// The whole description.
fn description() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cordon local API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "CrowdSec's agents, bouncers and cscli talk to it unchanged; the routes for administrators and the event stream are Cordon's own.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
                "key": { "type": "apiKey", "in": "header", "name": "X-Api-Key" },
                "certificate": { "type": "mutualTLS" },
            },
            "schemas": schemas::all(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| {
        let schema = match name {
            "alert_id" | "decision_id" => json!({ "type": "integer", "minimum": 1 }),
            "ip_or_range" => json!({ "type": "string", "examples": ["192.0.2.4", "2001:db8::/32"] }),
            _ => json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
        };
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let in_query = route
        .query
        .iter()
        .map(|(name, kind)| json!({ "name": name, "in": "query", "required": false, "schema": kind.schema() }));
    let mut answers: Map<String, Value> =
        route.answers.iter().map(|(status, schema)| (status.to_string(), answer(*status, *schema))).collect();
    let mut add = |status: u16, schema| {
        answers.entry(status.to_string()).or_insert_with(|| answer(status, Some(schema)));
    };
    if route.who.contains(&Who::Machine) {
        add(401, "CodedMessage");
    }
    if !route.who.is_empty() {
        add(403, "Message");
        add(429, "Message");
    }
    if route.body.is_some() {
        for status in [400, 408, 429, 503] {
            add(status, "Message");
        }
    }
    if route.blames_itself {
        add(500, "Message");
    }
    let mut operation = json!({
        "summary": route.says,
        "operationId": format!("{}{}", route.method, route.path.replace(['/', '{', '}', '.'], "_")),
        "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
        "responses": answers,
        "security": security(route.who),
        "x-who": route.who.iter().map(|who| who.name()).collect::<Vec<_>>(),
    });
    if let Some(body) = route.body {
        let content = json!({ "application/json": { "schema": reference(body) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn answer(status: u16, schema: Option<&str>) -> Value {
    let says = match status {
        200..300 => "done",
        400 | 422 => "it cannot be understood",
        401 | 403 => "whoever asks may not",
        404 => "there is no such thing",
        408 => "the body did not arrive in time",
        409 => "it exists already",
        429 => "too many requests",
        500 => "it cannot be understood or found",
        503 => "the store does not answer",
        507 => "too many decisions are in force",
        _ => "something else",
    };
    match schema {
        None => json!({ "description": says }),
        Some(name) => {
            json!({ "description": says, "content": { "application/json": { "schema": reference(name) } } })
        }
    }
}

fn security(who: &[Who]) -> Vec<Value> {
    let mut ways = Vec::new();
    if who.contains(&Who::Host) {
        ways.push(json!({}));
    }
    if who.contains(&Who::Machine) {
        ways.push(json!({ "token": [] }));
    }
    if !who.is_empty() {
        ways.push(json!({ "key": [] }));
        ways.push(json!({ "certificate": [] }));
    }
    ways
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Bouncer => "bouncer",
            Self::Pusher => "pusher",
            Self::Admin => "admin",
            Self::Host => "host",
        }
    }
}

impl Kind {
    fn schema(self) -> Value {
        match self {
            Self::Text => json!({ "type": "string", "maxLength": 255 }),
            Self::List => json!({ "type": "string", "maxLength": 1024, "examples": ["Ip,Range"] }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Number => json!({ "type": "integer", "minimum": 0, "maximum": 1_000_000 }),
            Self::Address => json!({ "anyOf": [
                { "type": "string", "format": "ipv4" }, { "type": "string", "format": "ipv6" },
            ] }),
            Self::Range => json!({ "type": "string", "examples": ["198.51.100.0/24", "2001:db8::/48"] }),
            Self::Duration => json!({ "type": "string", "pattern": "^[0-9]{1,4}(s|m|h|d)$", "examples": ["4h"] }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Method and path of each `.route(...)` in the source of the server.
    fn routes_of_the_server() -> BTreeSet<(String, String)> {
        let source = include_str!("../mod.rs");
        let mut found = BTreeSet::new();
        for call in source.split(".route(\"").skip(1) {
            let (path, rest) = call.split_once('"').expect("a path");
            let handlers = rest.lines().next().expect("a line");
            for method in ["get", "post", "put", "patch", "delete"] {
                if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                    found.insert((method.to_owned(), path.to_owned()));
                }
            }
        }
        found
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let described: BTreeSet<_> =
            ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
        assert_eq!(described.len(), ROUTES.len(), "each once");
        let served = routes_of_the_server();
        let missing: Vec<_> = served.difference(&described).collect();
        assert!(missing.is_empty(), "describe these routes in ROUTES: {missing:?}");
        let invented: Vec<_> = described.difference(&served).collect();
        assert!(invented.is_empty(), "the server has no such routes: {invented:?}");
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let description = description();
        let text = description.to_string();
        let schemas = description["components"]["schemas"].as_object().expect("an object");
        let mut used = BTreeSet::new();
        for part in text.split("#/components/schemas/").skip(1) {
            used.insert(part.split('"').next().expect("a name").to_owned());
        }
        for name in &used {
            assert!(schemas.contains_key(name), "{name} is not described");
        }
        for name in schemas.keys() {
            assert!(used.contains(name), "{name} is used nowhere");
        }
    }
}
