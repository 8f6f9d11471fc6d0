//! The server as its clients see it: over a real address and a real socket.

use std::fmt::Debug;
use std::io::Write;

use jiff::SignedDuration;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::service::{KeyHash, NewBouncer, NewMachine, Options};
use super::*;
use crate::client::feed::PollOptions;
use crate::client::{Client, ClientError, Credentials, Endpoint, SseFeed};
use crate::config::AutoRegistration;
use crate::feed::{Feed, FeedError, Update};
use crate::profiles::{self, Profiles};
use crate::store::Sqlite;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A running server with a machine `edge` (password `pw`) and a bouncer `fw` (key `k1`).
pub(super) struct Running {
    pub(super) service: Service,
    pub(super) base: String,
    socket: PathBuf,
    http: reqwest::Client,
    token: String,
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<()>,
    folder: TempDir,
}

impl Running {
    pub(super) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(Sqlite::open(&folder.path().join("cordon.db")).expect("the database opens"));
        let profiles = Profiles::parse(&[(Path::new("profiles.yaml"), profiles::DEFAULT)]).expect("they are right");
        let options = Options { bcrypt_cost: 4, ..Options::default() };
        let service = Service::open(store, profiles, options, jiff::Timestamp::now()).expect("the service starts");
        let new =
            NewMachine { name: "edge".into(), password: "pw".into(), validated: true, force: false, ip: String::new() };
        let _ = service.add_machine(new).await.expect("a machine");
        let _ = service.add_bouncer(NewBouncer::reader("fw", Some("k1"))).await.expect("a bouncer");
        Self::serve(folder, service, change).await
    }

    async fn serve(folder: TempDir, service: Service, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let socket = folder.path().join("api.sock");
        let mut config = ServerConfig {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            socket: Some(socket.clone()),
            ..ServerConfig::default()
        };
        change(&mut config);
        let server = Server::bind(config, service.clone()).await.expect("it listens");
        let base = format!("http://{}", server.local_addr().expect("it listens on an address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let http = reqwest::Client::new();
        let mut running = Self { service, base, socket, http, token: String::new(), stop: Some(stop), done, folder };
        let login = json!({"machine_id": "edge", "password": "pw"});
        let (_, body) = running.send(Method::POST, "/v1/watchers/login", &[], &login.to_string()).await;
        let body: Value = serde_json::from_str(&body).expect("an answer to the login");
        running.token = format!("Bearer {}", body["token"].as_str().expect("a token"));
        running
    }

    /// Sends a request as it stands; answers status and body.
    pub(super) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    pub(super) async fn as_machine(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        self.send(method, path, &[("authorization", &self.token), ("user-agent", "crowdsec/v1.7")], body).await
    }

    pub(super) async fn as_bouncer(&self, path: &str) -> (u16, String) {
        self.send(Method::GET, path, &[("x-api-key", "k1"), ("user-agent", "fw/v1")], "").await
    }

    async fn push(&self, alert: &Value) {
        let (status, body) = self.as_machine(Method::POST, "/v1/alerts", &json!([alert]).to_string()).await;
        assert_eq!(status, 201, "{body}");
    }

    fn feed(&self, key: Option<&str>) -> SseFeed {
        let endpoint = key.map_or_else(|| Endpoint::Socket(self.socket.clone()), |_| Endpoint::new(&self.base));
        SseFeed::new(endpoint, key.map(Into::into), PollOptions::default()).expect("a feed")
    }

    async fn stop(mut self) -> (TempDir, Service) {
        self.service.close().await.expect("all is written");
        drop(self.stop.take());
        self.done.await.expect("it ends well");
        (self.folder, self.service)
    }
}

pub(super) fn alert(scope: &str, value: &str) -> Value {
    let now = jiff::Timestamp::now().to_string();
    json!({
        "scenario": "acme/ssh-bf", "scenario_hash": "", "scenario_version": "", "message": "m", "events_count": 6,
        "start_at": now, "stop_at": now, "capacity": 5, "leakspeed": "10s", "simulated": false, "remediation": true,
        "events": [], "source": {"scope": scope, "value": value},
    })
}

pub(super) fn decided(scope: &str, value: &str, duration: &str, origin: &str) -> Value {
    let mut alert = alert(scope, value);
    alert["decisions"] = json!([{
        "origin": origin, "type": "ban", "scope": scope, "value": value, "duration": duration, "scenario": "by hand",
    }]);
    alert
}

/// A request and its answer: method, path, headers, body, status, body of the answer.
type Row<'a> = (&'a Method, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

/// Values in the lists `new` and `deleted` of a stream's answer.
fn lists(body: &str) -> (Vec<String>, Vec<String>) {
    let body: Value = serde_json::from_str(body).expect("JSON");
    let values = |list: &Value| {
        list.as_array().expect("a list").iter().map(|row| row["value"].as_str().expect("text").to_owned()).collect()
    };
    (values(&body["new"]), values(&body["deleted"]))
}

fn none() -> Vec<String> {
    Vec::new()
}

#[tokio::test]
async fn every_refusal_has_the_customary_form() {
    let server = Running::start().await;
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let forbidden = r#"{"message":"access forbidden"}"#;
    let no_token = r#"{"code":401,"message":"cookie token is empty"}"#;
    let forged = [(
        "authorization",
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJpZCI6ImVkZ2UiLCJleHAiOjk5OTk5OTk5OTksIm9yaWdfaWF0IjowfQ.AAAA",
    )];
    let key = [("x-api-key", "k1")];
    let machine = [("authorization", server.token.as_str())];
    let cases: &[Row<'_>] = &[
        (&get, "/health", &[], "", 200, r#"{"status":"up"}"#),
        (&get, "/v1/nowhere", &[], "", 404, ""),
        (&post, "/v1/heartbeat", &machine, "", 405, ""),
        (&Method::HEAD, "/v1/allowlists/office", &machine, "", 405, ""),
        (&get, "/v1/decisions", &[], "", 403, forbidden),
        (&get, "/v1/decisions", &[("x-api-key", "wrong")], "", 403, forbidden),
        (&get, "/v1/decisions/stream", &machine, "", 403, forbidden),
        (&get, "/v1/decisions/events", &[("x-api-key", "wrong")], "", 403, forbidden),
        (&get, "/v1/alerts", &[], "", 401, no_token),
        (&get, "/v1/alerts", &key, "", 401, no_token),
        (&get, "/v1/heartbeat", &forged, "", 401, r#"{"code":401,"message":"InvalidSignature"}"#),
        (&get, "/v1/bouncers", &machine, "", 403, forbidden),
        (&post, "/v1/allowlists", &machine, r#"{"name":"x"}"#, 403, forbidden),
        (
            &post,
            "/v1/watchers/login",
            &[],
            "{",
            401,
            r#"{"code":401,"message":"missing: EOF while parsing an object at line 1 column 1"}"#,
        ),
        (
            &post,
            "/v1/watchers/login",
            &[],
            r#"{"machine_id":"edge"}"#,
            401,
            r#"{"code":401,"message":"validation failure list:\npassword in body is required"}"#,
        ),
        (
            &post,
            "/v1/watchers/login",
            &[],
            r#"{"machine_id":"no","password":"x"}"#,
            401,
            r#"{"code":401,"message":"ent: machine not found"}"#,
        ),
        (
            &post,
            "/v1/watchers/login",
            &[],
            r#"{"machine_id":"edge","password":"x"}"#,
            401,
            r#"{"code":401,"message":"incorrect Username or Password"}"#,
        ),
        (
            &post,
            "/v1/watchers",
            &[],
            r#"{"machine_id":"edge","password":"x"}"#,
            403,
            r#"{"message":"user 'edge': user already exist"}"#,
        ),
        (
            &post,
            "/v1/watchers",
            &[],
            r#"{"password":"x","registration_token":"short"}"#,
            422,
            r#"{"message":"validation failure list:\nmachine_id in body is required\nregistration_token in body should be at least 32 chars long"}"#,
        ),
        (&post, "/v1/alerts", &machine, "[{]", 400, r#"{"message":"key must be a string at line 1 column 3"}"#),
        (
            &post,
            "/v1/alerts",
            &machine,
            r#"[{"capacity":1,"events":[],"events_count":1,"leakspeed":"","message":"","scenario":"","scenario_hash":"","scenario_version":"","simulated":false,"start_at":"","source":{"scope":"","value":""}}]"#,
            500,
            r#"{"message":"validation failure list:\n0.stop_at in body is required"}"#,
        ),
        (&get, "/v1/alerts/x", &machine, "", 400, r#"{"message":"alert_id must be valid integer"}"#),
        (&get, "/v1/alerts/99", &machine, "", 404, r#"{"message":"object not found"}"#),
        (
            &get,
            "/v1/alerts?colour=red",
            &machine,
            "",
            500,
            r#"{"message":"filter parameter 'colour' is unknown (=red): invalid filter"}"#,
        ),
        (&get, "/v1/alerts?ip=x", &machine, "", 500, r#"{"message":"invalid ip address 'x'"}"#),
        (
            &get,
            "/v1/alerts?range=x%2F8",
            &machine,
            "",
            500,
            r#"{"message":"invalid ip range 'x/8': invalid CIDR address: x/8"}"#,
        ),
        (&delete, "/v1/alerts/99", &machine, "", 500, r#"{"message":"ent: alert not found"}"#),
        (&delete, "/v1/decisions/x", &machine, "", 400, r#"{"message":"decision_id must be valid integer"}"#),
        (
            &delete,
            "/v1/decisions/100",
            &machine,
            "",
            500,
            r#"{"message":"decision with id '100' doesn't exist: unable to delete"}"#,
        ),
        (
            &delete,
            "/v1/decisions?colour=red",
            &machine,
            "",
            500,
            r#"{"message":"'colour' doesn't exist: invalid filter"}"#,
        ),
        (
            &get,
            "/v1/decisions?ip=x",
            &key,
            "",
            500,
            r#"{"message":"unable to convert 'x' to int: invalid ip address 'x': invalid ip address / range"}"#,
        ),
        (&get, "/v1/decisions/stream?ip=x", &key, "", 200, r#"{"new": [], "deleted": []}"#),
        (&get, "/v1/allowlists/none", &machine, "", 500, r#"{"message":"allowlist 'none' not found"}"#),
        (&get, "/v1/allowlists/check/x", &machine, "", 500, r#"{"message":"invalid ip address 'x'"}"#),
        (
            &post,
            "/v1/allowlists/check",
            &machine,
            r#"{"targets":[]}"#,
            400,
            r#"{"message":"targets list cannot be empty"}"#,
        ),
        (
            &post,
            "/v1/usage-metrics",
            &machine,
            r#"{"log_processors":{}}"#,
            400,
            r#"{"message":"invalid type: map, expected a sequence at line 1 column 18"}"#,
        ),
        (
            &post,
            "/v1/usage-metrics",
            &machine,
            r#"{"log_processors":[]}"#,
            400,
            r#"{"message":"Missing log processor data"}"#,
        ),
        (
            &post,
            "/v1/usage-metrics",
            &key,
            r#"{"remediation_components":[{"version":"1","utc_startup_timestamp":1},{"version":"1","utc_startup_timestamp":1}]}"#,
            400,
            r#"{"message":"Payload has more than one remediation component"}"#,
        ),
        (
            &post,
            "/v1/usage-metrics",
            &machine,
            r#"{"log_processors":[{"version":"1","hub_items":{}}]}"#,
            422,
            r#"{"message":"validation failure list:\nlog_processors.0.utc_startup_timestamp in body is required\nlog_processors.0.datasources in body is required"}"#,
        ),
    ];
    for (method, path, headers, body, status, answer) in cases {
        let found = server.send((*method).clone(), path, headers, body).await;
        assert_eq!(found, (*status, (*answer).to_owned()), "{method} {path} {body}");
    }
}

#[tokio::test]
async fn nothing_is_null_or_an_empty_list_as_clients_expect_it() {
    let server = Running::start().await;
    // (path, body when there is nothing)
    let for_bouncers = [
        ("/v1/decisions?ip=192.0.2.4", "null"),
        ("/v1/decisions/stream?startup=true", r#"{"new": [], "deleted": []}"#),
        ("/v1/decisions/stream", r#"{"new": [], "deleted": []}"#),
    ];
    for (path, body) in for_bouncers {
        assert_eq!(server.as_bouncer(path).await, (200, body.into()), "{path}");
    }
    for (path, body) in [("/v1/alerts", "null"), ("/v1/allowlists", "[]"), ("/v1/allowlists/check/192.0.2.4", "{}")] {
        assert_eq!(server.as_machine(Method::GET, path, "").await, (200, body.into()), "{path}");
    }
    let (status, body) = server.as_machine(Method::POST, "/v1/alerts", "[]").await;
    assert_eq!((status, body.as_str()), (201, "[]"));
    let (status, body) = server.as_machine(Method::HEAD, "/v1/allowlists/check/192.0.2.4", "").await;
    assert_eq!((status, body.as_str()), (204, ""));
}

#[tokio::test]
async fn an_agents_alert_becomes_a_decision_that_bouncers_find() {
    let server = Running::start().await;
    let body = json!([alert("ip", "192.0.2.4"), alert("range", "198.51.100.0/24"), alert("Username", "eve")]);
    let answer = server.as_machine(Method::POST, "/v1/alerts", &body.to_string()).await;
    assert_eq!(answer, (201, r#"["1","2","3"]"#.into()));
    // (query, values found)
    let cases: &[(&str, &[&str])] = &[
        ("", &["192.0.2.4", "198.51.100.0/24"]),
        ("?ip=192.0.2.4", &["192.0.2.4"]),
        ("?ip=198.51.100.77", &["198.51.100.0/24"]),
        ("?range=198.51.100.2%2F28", &["198.51.100.0/24"]),
        ("?range=198.51.0.0%2F16&contains=false", &["198.51.100.0/24"]),
        ("?scopes=RANGE", &["198.51.100.0/24"]),
        ("?type=captcha", &[]),
        ("?scenarios_containing=SSH,none", &["192.0.2.4", "198.51.100.0/24"]),
        ("?scenarios_not_containing=ssh", &[]),
        ("?origins=cscli", &[]),
        ("?limit=1", &["192.0.2.4"]),
        ("?offset=1", &["198.51.100.0/24"]),
        ("?id_gt=1&whatever=else", &["198.51.100.0/24"]),
    ];
    for (query, values) in cases {
        let (status, body) = server.as_bouncer(&format!("/v1/decisions{query}")).await;
        let rows: Option<Vec<Value>> = serde_json::from_str(&body).expect("JSON");
        let found: Vec<_> = rows.iter().flatten().map(|row| row["value"].as_str().expect("text")).collect();
        assert_eq!((status, found.as_slice()), (200, *values), "{query}");
    }
    let (_, body) = server.as_bouncer("/v1/decisions?ip=192.0.2.4").await;
    let row: Vec<Value> = serde_json::from_str(&body).expect("JSON");
    assert_eq!(row[0]["origin"], "crowdsec");
    assert_eq!(row[0]["scenario"], "acme/ssh-bf");
    assert!(row[0].get("uuid").is_none());
    let left = row[0]["duration"].as_str().expect("text");
    assert!(left == "4h0m0s" || left.starts_with("3h59m5"), "{left}");

    let (_, body) = server.as_machine(Method::GET, "/v1/alerts/1", "").await;
    let stored: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(stored["machine_id"], "edge");
    assert_eq!(stored["source"]["scope"], "Ip");
    assert_eq!(stored["decisions"][0]["value"], "192.0.2.4");
    assert!(stored["uuid"].as_str().is_some_and(|uuid| uuid.len() == 36));
}

#[tokio::test]
async fn alerts_are_found_by_filters() {
    let server = Running::start().await;
    server.push(&alert("Ip", "192.0.2.1")).await;
    server.push(&decided("Ip", "192.0.2.2", "1h", "cscli")).await;
    server.push(&decided("Range", "198.51.100.0/24", "1h", "lists")).await;
    let mut simulated = alert("Ip", "192.0.2.3");
    simulated["simulated"] = json!(true);
    simulated["kind"] = json!("waf");
    server.push(&simulated).await;
    server.push(&alert("Username", "eve")).await;
    let (_, body) = server.as_machine(Method::DELETE, "/v1/decisions/2", "").await;
    assert_eq!(body, r#"{"nbDeleted":"1"}"#);
    // (filters, numbers found)
    let cases: &[(&str, &[i64])] = &[
        ("", &[5, 4, 3, 2, 1]),
        ("?sort=ASC&limit=2", &[1, 2]),
        ("?limit=0", &[5, 4, 3, 2, 1]),
        ("?scope=ip&value=192.0.2.1", &[1]),
        ("?scenario=by+hand", &[3, 2]),
        ("?ip=198.51.100.9", &[3]),
        ("?range=192.0.2.0%2F24&contains=false", &[4, 2, 1]),
        ("?simulated=false", &[5, 3, 2, 1]),
        ("?has_active_decision=true", &[4, 3, 1]),
        ("?has_active_decision=false", &[5]),
        ("?origin=cscli", &[2]),
        ("?include_capi=false", &[5, 4, 2, 1]),
        ("?kind=waf", &[4]),
        ("?decision_type=ban&since=1h&until=0s", &[4, 3, 2, 1]),
        ("?until=1h", &[]),
        ("?created_before=1d", &[]),
    ];
    for (filters, numbers) in cases {
        let (status, body) = server.as_machine(Method::GET, &format!("/v1/alerts{filters}"), "").await;
        let alerts: Option<Vec<Value>> = serde_json::from_str(&body).expect("JSON");
        let found: Vec<_> = alerts.iter().flatten().map(|alert| alert["id"].as_i64().expect("a number")).collect();
        assert_eq!((status, found.as_slice()), (200, *numbers), "{filters}");
    }
    let (_, body) = server.as_machine(Method::GET, "/v1/alerts?with_decisions=false&limit=1&value=192.0.2.1", "").await;
    let alerts: Value = serde_json::from_str(&body).expect("JSON");
    assert!(alerts[0]["decisions"].is_null());
    let (_, body) = server.as_machine(Method::DELETE, "/v1/alerts?scope=Ip", "").await;
    assert_eq!(body, r#"{"nbDeleted":"3"}"#);
    assert_eq!(server.as_bouncer("/v1/decisions?ip=192.0.2.1").await.1, "null");
}

#[tokio::test]
async fn a_stream_tells_what_is_new_and_what_is_over() {
    let server = Running::start().await;
    let full = "/v1/decisions/stream?startup=true";
    let delta = "/v1/decisions/stream?additional_pull=false&community_pull=false";
    server.push(&decided("Ip", "192.0.2.1", "1h", "cscli")).await;
    server.push(&decided("Username", "eve", "1h", "cscli")).await;
    assert_eq!(lists(&server.as_bouncer(full).await.1), (vec!["192.0.2.1".into()], none()), "addresses only");
    assert_eq!(lists(&server.as_bouncer(delta).await.1), (none(), none()), "nothing new");
    server.push(&decided("Range", "198.51.100.0/24", "1h", "cscli")).await;
    server.push(&decided("Ip", "192.0.2.1", "30m", "cscli")).await;
    let expected = (vec!["198.51.100.0/24".to_owned()], none());
    assert_eq!(lists(&server.as_bouncer(delta).await.1), expected, "a shorter one on the same target is not told");
    server.push(&decided("Ip", "192.0.2.1", "2h", "cscli")).await;
    assert_eq!(lists(&server.as_bouncer(delta).await.1), (vec!["192.0.2.1".into()], none()), "a longer one is");
    let (_, body) = server.as_machine(Method::DELETE, "/v1/decisions/5", "").await;
    assert_eq!(body, r#"{"nbDeleted":"1"}"#);
    assert_eq!(lists(&server.as_bouncer(delta).await.1), (none(), none()), "others still hold on the target");
    let (_, body) = server.as_machine(Method::DELETE, "/v1/decisions?ip=192.0.2.1", "").await;
    assert_eq!(body, r#"{"nbDeleted":"2"}"#);
    let (new, deleted) = lists(&server.as_bouncer(delta).await.1);
    assert_eq!((new, deleted.iter().all(|value| value == "192.0.2.1"), deleted.is_empty()), (none(), true, false));
    let (_, body) = server.as_bouncer("/v1/decisions/stream?startup=true&scopes=Username,range").await;
    assert_eq!(lists(&body).0, ["eve", "198.51.100.0/24"]);
    assert_eq!(lists(&server.as_bouncer("/v1/decisions/stream?startup=true&scopes=").await.1).0, none());

    let pulled = |service: &Service| service.bouncers()[0].last_pull;
    let before = pulled(&server.service);
    let answer = server.send(Method::HEAD, full, &[("x-api-key", "k1")], "").await;
    assert_eq!((answer, pulled(&server.service)), ((200, String::new()), before), "HEAD only checks the key");
    let other = server.send(Method::GET, delta, &[("x-api-key", "k1"), ("x-forwarded-for", "192.0.2.9")], "").await;
    assert_eq!(other.0, 200);
    assert_eq!(server.service.bouncers().len(), 1, "a forwarded address does not count without a trusted proxy");
}

#[tokio::test]
async fn the_clients_address_decides() {
    let server = Running::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")];
        config.trusted_ips = vec!["198.51.100.0/24".parse().expect("a net")];
    })
    .await;
    // (address, path, status)
    let cases = [
        ("192.0.2.9", "/v1/alerts", 403),
        ("192.0.2.9", "/v1/alerts/7", 403),
        ("198.51.100.9", "/v1/alerts", 200),
        ("127.0.0.1", "/v1/alerts", 200),
    ];
    for (ip, path, status) in cases {
        let headers = [("authorization", server.token.as_str()), ("x-forwarded-for", ip)];
        let (found, body) = server.send(Method::DELETE, path, &headers, "").await;
        assert_eq!(found, status, "{ip} {path}: {body}");
    }
    server.push(&decided("Ip", "192.0.2.1", "1h", "cscli")).await;
    let pull = async |ip| {
        let headers = [("x-api-key", "k1"), ("user-agent", "fw/v1"), ("x-forwarded-for", ip)];
        lists(&server.send(Method::GET, "/v1/decisions/stream", &headers, "").await.1).0
    };
    for (ip, found) in [("192.0.2.8", 1), ("192.0.2.9", 1), ("192.0.2.8", 0), ("192.0.2.9", 0)] {
        assert_eq!(pull(ip).await.len(), found, "each address has a stream of its own");
    }
    let names: Vec<_> = server.service.bouncers().into_iter().map(|bouncer| bouncer.name).collect();
    assert_eq!(names, ["fw", "fw@192.0.2.9"]);
    let (status, _) = server.send(Method::GET, "/metrics", &[("x-forwarded-for", "192.0.2.9")], "").await;
    assert_eq!(status, 403, "counters name bouncers");
    let (_, text) = server.send(Method::GET, "/metrics", &[], "").await;
    assert!(text.contains("cs_lapi_route_requests_total{route=\"/v1/decisions/stream\",method=\"GET\"} 4"), "{text}");
}

#[tokio::test]
async fn bodies_may_be_compressed_and_must_be_bounded() {
    let server = Running::start().await;
    let zip = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    };
    let good = json!([alert("Ip", "192.0.2.4")]).to_string();
    let bomb = zip(&vec![b' '; limits::LARGE_BODY + 1]);
    // (what, body, status)
    let cases = [("an alert", zip(good.as_bytes()), 201), ("no gzip", good.into_bytes(), 400), ("a bomb", bomb, 400)];
    for (what, body, status) in cases {
        let request = server.http.post(format!("{}/v1/alerts", server.base)).header("authorization", &server.token);
        let answer = request.header("content-encoding", "gzip").body(body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{what}");
    }
    let large = format!(r#"{{"machine_id":"{}"}}"#, "x".repeat(limits::SMALL_BODY));
    let (status, body) = server.send(Method::POST, "/v1/watchers/login", &[], &large).await;
    assert_eq!((status, body.as_str()), (401, r#"{"code":401,"message":"missing: http: request body too large"}"#));
}

#[tokio::test]
async fn machines_register_and_log_in() {
    let server = Running::start_with(|config| {
        let ranges = vec!["127.0.0.0/8".parse().expect("a net")];
        config.auto_registration = Some(AutoRegistration { token: TOKEN.into(), ranges });
    })
    .await;
    let register = async |body: Value| server.send(Method::POST, "/v1/watchers", &[], &body.to_string()).await;
    let login = async |name: &str| {
        let body = json!({"machine_id": name, "password": "pw", "scenarios": ["a", "b"]});
        let agent = [("user-agent", "crowdsec/v1.7-linux")];
        server.send(Method::POST, "/v1/watchers/login", &agent, &body.to_string()).await
    };
    assert_eq!(register(json!({"machine_id": "new", "password": "pw"})).await, (201, String::new()));
    assert_eq!(login("new").await, (401, r#"{"code":401,"message":"machine new not validated"}"#.into()));
    let _ = server.service.validate_machine("new").await.expect("it exists");
    let (status, body) = login("new").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["code"]), (200, &json!(200)));
    let expire = crate::wire::parse_time(body["expire"].as_str().expect("text")).expect("RFC 3339");
    let left = expire.duration_since(jiff::Timestamp::now());
    assert!(left > SignedDuration::from_mins(59) && left <= SignedDuration::from_hours(1));
    let machine = server.service.machines().into_iter().find(|machine| machine.name == "new").expect("it exists");
    assert_eq!((machine.scenarios.as_str(), machine.version.as_str()), ("a,b", "v1.7-linux"));

    let wrong = json!({"machine_id": "m", "password": "pw", "registration_token": "x".repeat(32)});
    let refused = r#"{"message":"invalid token for auto registration"}"#;
    assert_eq!(register(wrong).await, (401, refused.into()));
    let right = json!({"machine_id": "auto", "password": "pw", "registration_token": TOKEN});
    assert_eq!(register(right).await, (202, String::new()));
    assert_eq!(login("auto").await.0, 200);

    let token = format!("Bearer {}", body["token"].as_str().expect("a token"));
    let (status, _) = server.send(Method::GET, "/v1/refresh_token", &[("authorization", &token)], "").await;
    assert_eq!(status, 200);
    let cookie = format!("a=b; jwt={}", body["token"].as_str().expect("a token"));
    assert_eq!(server.send(Method::GET, "/v1/heartbeat", &[("cookie", &cookie)], "").await.0, 200);
    let gone = server.send(Method::DELETE, "/v1/watchers/self", &[("authorization", &token)], "").await;
    assert_eq!(gone, (204, String::new()));
    let gone = server.send(Method::DELETE, "/v1/watchers/self", &[("authorization", &token)], "").await;
    let answer = r#"{"code":401,"message":"ent: machine not found"}"#;
    assert_eq!(gone, (401, answer.into()), "a token ends with its machine");
}

#[tokio::test]
async fn passwords_cannot_be_tried_without_end() {
    let server = Running::start_with(|config| config.login_burst = std::num::NonZeroU32::MIN).await;
    // The login of the fixture was the one that is free.
    let body = r#"{"machine_id":"edge","password":"guess"}"#;
    assert_eq!(server.send(Method::POST, "/v1/watchers/login", &[], body).await.0, 429);
    assert_eq!(server.send(Method::POST, "/v1/watchers", &[], body).await.0, 429);
}

#[tokio::test]
async fn usage_metrics_are_taken() {
    let server = Running::start().await;
    let item = json!({"version": "v2", "utc_startup_timestamp": 1, "os": {"name": "debian", "version": "12"},
        "feature_flags": ["a", "b"], "datasources": {"file": 1}, "hub_items": {}, "type": "fw",
        "metrics": [{"meta": {"window_size_seconds": 1, "utc_now_timestamp": 2},
                     "items": [{"name": "dropped", "value": 1, "unit": "packet"}]}]});
    let body = json!({"log_processors": [item], "remediation_components": null}).to_string();
    assert_eq!(server.as_machine(Method::POST, "/v1/usage-metrics", &body).await, (201, String::new()));
    let body = json!({"log_processors": null, "remediation_components": [item]}).to_string();
    let answer = server.send(Method::POST, "/v1/usage-metrics", &[("x-api-key", "k1")], &body).await;
    assert_eq!(answer, (201, String::new()));
    assert_eq!(server.service.machines()[0].report.feature_flags, "a,b");
    assert_eq!(server.service.bouncers()[0].report.os_name, "debian");
}

#[tokio::test]
async fn slashes_and_methods_are_sorted_out() {
    let server = Running::start().await;
    let plain = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    // (method, path, status, where to)
    let cases = [
        (Method::GET, "/v1/decisions/?ip=192.0.2.1", 301, Some("/v1/decisions?ip=192.0.2.1")),
        (Method::POST, "/v1/alerts/", 307, Some("/v1/alerts")),
        (Method::GET, "//evil.example/", 404, None),
        (Method::GET, "/", 404, None),
    ];
    for (method, path, status, to) in cases {
        let answer = plain.request(method, format!("{}{path}", server.base)).send().await.expect("an answer");
        let location = answer.headers().get("location").map(|to| to.to_str().expect("text").to_owned());
        assert_eq!((answer.status().as_u16(), location.as_deref()), (status, to), "{path}");
    }
}

#[tokio::test]
async fn this_hosts_administrator_rules_through_the_socket() {
    let server = Running::start().await;
    let client = Client::new(Endpoint::Socket(server.socket.clone()), Credentials::Local).expect("a client");
    let (post, get, delete) = (Method::POST, Method::GET, Method::DELETE);
    let nothing = crate::client::NOTHING;
    let send = async |method: &Method, route: &str, body: Value| {
        let body = (!body.is_null()).then_some(body);
        client.send::<Value>(method.clone(), route, &[], body.as_ref()).await
    };
    let made = send(&post, "v1/bouncers", json!({"name": "proxy"})).await.expect("a bouncer");
    assert_eq!(made["key"].as_str().map(str::len), Some(43));
    let key = KeyHash::new(made["key"].as_str().expect("text"));
    assert_eq!(server.service.key_owner(&key, [127, 0, 0, 1].into()).map(|owner| owner.name).as_deref(), Some("proxy"));
    let taken = send(&post, "v1/bouncers", json!({"name": "proxy"})).await;
    let message = "bouncer proxy already exists".to_owned();
    assert_eq!(taken, Err(ClientError::Api { status: 403, message }));
    let rows = send(&get, "v1/bouncers", Value::Null).await.expect("bouncers");
    assert_eq!((rows[0]["name"].as_str(), rows[1]["name"].as_str()), (Some("fw"), Some("proxy")));
    send(&delete, "v1/bouncers/proxy", Value::Null).await.expect("it is gone");
    send(&post, "v1/machines", json!({"name": "m", "password": "pw"})).await.expect("a machine");
    let rows = send(&get, "v1/machines", Value::Null).await.expect("machines");
    assert_eq!(rows[1]["isValidated"], true);
    send(&delete, "v1/machines/m", Value::Null).await.expect("it is gone");

    client
        .push(&[serde_json::from_value(decided("Ip", "192.0.2.9", "1h", "cscli")).expect("an alert")])
        .await
        .expect("a ban");
    send(&post, "v1/allowlists", json!({"name": "office", "description": "d"})).await.expect("a list");
    let body = json!({"values": ["192.0.2.0/24"], "comment": "third floor", "expiration": "7d"});
    let counts = send(&post, "v1/allowlists/office/items", body).await.expect("an item");
    assert_eq!(counts, json!({"added": 1, "lifted": 1}));
    let refused =
        client.push(&[serde_json::from_value(decided("Ip", "192.0.2.9", "1h", "cscli")).expect("an alert")]).await;
    let message = "192.0.2.9 is allowlisted by item 192.0.2.0/24 from office (third floor)".to_owned();
    assert_eq!(refused, Err(ClientError::Api { status: 403, message }));
    let (_, body) = server.as_machine(Method::POST, "/v1/alerts", &json!([alert("Ip", "192.0.2.9")]).to_string()).await;
    assert_eq!(body, "[]", "an agent is not bothered with it");
    let found = client.check_allowed(vec!["192.0.2.7".into(), "203.0.113.1".into()]).await.expect("an answer");
    assert_eq!(found.len(), 1);
    let (_, body) = server.as_machine(Method::GET, "/v1/allowlists/check/192.0.2.0%2F28", "").await;
    assert_eq!(body, r#"{"allowlisted":true,"reason":"192.0.2.0/24 from office (third floor)"}"#);
    let (_, body) = server.as_machine(Method::GET, "/v1/allowlists?with_content=true", "").await;
    let lists: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(lists[0]["items"][0]["value"], "192.0.2.0/24");
    let removed = send(&delete, "v1/allowlists/office/items", json!({"values": ["192.0.2.0/24"]})).await;
    assert_eq!(removed, Ok(json!({"removed": 1})));
    client.send::<()>(delete, "v1/allowlists/office", &[], nothing).await.expect("it is gone");
    let missing = send(&post, "v1/allowlists/office/items", json!({"values": []})).await;
    assert_eq!(missing, Err(ClientError::Api { status: 404, message: "allowlist 'office' not found".into() }));
}

#[tokio::test]
async fn a_client_logs_in_by_itself_and_again_after_a_restart() {
    let server = Running::start().await;
    let credentials = Credentials::Machine { login: "edge".into(), password: "pw".into() };
    let client = Client::new(Endpoint::new(&server.base), credentials).expect("a client");
    client.heartbeat().await.expect("it logs in");
    let alerts = [serde_json::from_value(alert("Ip", "192.0.2.4")).expect("an alert")];
    assert_eq!(client.push(&alerts).await, Ok(vec![1]));
    assert_eq!(client.alerts(&[("ip", "192.0.2.4")]).await.map(|alerts| alerts.len()), Ok(1));
    assert_eq!(client.lift(&[("ip", "192.0.2.4")]).await, Ok(1));
    let address = server.base.trim_start_matches("http://").parse().expect("an address");
    let (folder, service) = server.stop().await;
    let _server = Running::serve(folder, service, |config| config.listen = Some(address)).await;
    client.heartbeat().await.expect("its token is worthless now, it gets another");

    let wrong = Credentials::Machine { login: "edge".into(), password: "guess".into() };
    let client = Client::new(Endpoint::Url(format!("http://{address}/")), wrong).expect("a client");
    let message = "incorrect Username or Password".to_owned();
    assert_eq!(client.heartbeat().await, Err(ClientError::Api { status: 401, message }));
}

fn values<'a>(decisions: impl IntoIterator<Item = &'a model::Decision>) -> Vec<&'a str> {
    decisions.into_iter().map(|decision| decision.value.as_str()).collect()
}

async fn snapshot(feed: &mut SseFeed) -> Vec<model::Decision> {
    match feed.next().await {
        Ok(Update::Snapshot(all)) => all,
        other => panic!("expected a snapshot, got {other:?}"),
    }
}

async fn delta(feed: &mut SseFeed) -> model::Delta {
    match feed.next().await {
        Ok(Update::Delta(delta)) => delta,
        other => panic!("expected a delta, got {other:?}"),
    }
}

#[tokio::test]
async fn a_feed_starts_with_everything_and_follows_changes() {
    let server = Running::start().await;
    server.push(&decided("Ip", "192.0.2.1", "1h", "cscli")).await;
    for key in [Some("k1"), None] {
        let mut feed = server.feed(key);
        let all = snapshot(&mut feed).await;
        assert_eq!(values(&all), ["192.0.2.1"]);
        let known = server.service.table(|table, now| table.select(&crate::decisions::Query::default(), now));
        assert_eq!(all[0], known[0].decision(), "instants are exact");
        server.push(&decided("Username", "eve", "1h", "cscli")).await;
        assert_eq!(values(&delta(&mut feed).await.add), ["eve"], "all scopes are told");
        let (status, _) = server.as_machine(Method::DELETE, "/v1/decisions?value=eve", "").await;
        assert_eq!(status, 200);
        assert_eq!(values(&delta(&mut feed).await.remove), ["eve"]);
    }
    let mut feed = server.feed(Some("wrong"));
    assert!(matches!(feed.next().await, Err(FeedError::Refused { .. })));
}

#[tokio::test]
async fn followers_are_told_what_they_ask_for() {
    let server = Running::start().await;
    for (scope, value, origin) in
        [("Ip", "192.0.2.1", "cscli"), ("Ip", "192.0.2.2", "lists"), ("Username", "eve", "cscli")]
    {
        server.push(&decided(scope, value, "1h", origin)).await;
    }
    // (filters, told of what was there, told of what comes)
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("", &["192.0.2.1", "192.0.2.2", "eve"], &["198.51.100.1", "198.51.100.2", "mallory"]),
        ("?origins=cscli", &["192.0.2.1", "eve"], &["198.51.100.1", "mallory"]),
        ("?scopes=ip,range&origins=cscli,CAPI", &["192.0.2.1"], &["198.51.100.1"]),
        ("?scopes=Username", &["eve"], &["mallory"]),
        ("?range=198.51.100.0/24&contains=false", &[], &["198.51.100.1", "198.51.100.2"]),
        ("?scenarios_not_containing=hand", &[], &[]),
        ("?type=captcha&simulated=true", &[], &["203.0.113.9"]),
    ];
    let mut answers = Vec::new();
    for (filters, there, _) in cases {
        let request = reqwest::Client::new().get(format!("{}/v1/decisions/events{filters}", server.base));
        let mut answer = request.header("x-api-key", "k1").send().await.expect("it answers");
        let mut text = String::new();
        while !text.contains("event: ready") {
            let part = answer.chunk().await.expect("it goes on").expect("it goes on");
            text.push_str(&String::from_utf8_lossy(&part));
        }
        for value in ["192.0.2.1", "192.0.2.2", "eve"] {
            assert_eq!(text.contains(&format!("\"{value}\"")), there.contains(&value), "{filters} {value}");
        }
        answers.push(answer);
    }
    for (scope, value, origin, remediation) in [
        ("Ip", "198.51.100.1", "cscli", "ban"),
        ("Ip", "198.51.100.2", "lists", "ban"),
        ("Username", "mallory", "cscli", "ban"),
        ("Ip", "203.0.113.9", "other", "captcha"),
    ] {
        let mut alert = decided(scope, value, "1h", origin);
        alert["decisions"][0]["type"] = remediation.into();
        server.push(&alert).await;
    }
    for ((filters, _, comes), mut answer) in cases.iter().zip(answers) {
        let mut text = String::new();
        while comes.iter().any(|value| !text.contains(value)) {
            let part = answer.chunk().await.expect("it goes on").expect("it goes on");
            text.push_str(&String::from_utf8_lossy(&part));
        }
        for value in ["198.51.100.1", "198.51.100.2", "mallory"] {
            assert_eq!(text.contains(value), comes.contains(&value), "{filters} {value}");
        }
    }
    let request = reqwest::Client::new().get(format!("{}/v1/decisions/events?ip=zz", server.base));
    assert_eq!(request.header("x-api-key", "k1").send().await.expect("it answers").status(), 500);
}

#[tokio::test]
async fn an_allow_entry_wins_over_every_input_and_is_told_to_every_reader() {
    let server = Running::start().await;
    // What holds before: from an agent, by hand, from a list, a range around, a range inside, an address of IPv6 around.
    let inputs = [
        alert("Ip", "192.0.2.1"),
        decided("Ip", "192.0.2.1", "1h", "cscli"),
        decided("Ip", "192.0.2.2", "1h", "cscli-import"),
        decided("Range", "192.0.0.0/16", "1h", "lists"),
        decided("Range", "192.0.2.128/25", "1h", "cscli"),
        decided("Ip", "::ffff:192.0.2.3", "1h", "cscli"),
    ];
    for input in &inputs {
        server.push(input).await;
    }
    server.push(&decided("Ip", "198.51.100.1", "1h", "cscli")).await;
    let mut feed = server.feed(Some("k1"));
    assert_eq!(snapshot(&mut feed).await.len(), 7);
    server.as_bouncer("/v1/decisions/stream?startup=true").await;

    let add = json!({"items": [{"value": "192.0.2.0/24", "comment": "us", "expiration": "1d"}]}).to_string();
    let socket = Endpoint::Socket(server.socket.clone());
    let admin = Client::new(socket, Credentials::Local).expect("a client");
    let made: Value =
        admin.send(Method::POST, "v1/allowlists", &[], Some(&json!({"name": "office"}))).await.expect("a list");
    assert!(made.is_null());
    let add: Value = serde_json::from_str(&add).expect("JSON");
    let grown: Value = admin.send(Method::POST, "v1/allowlists/office/items", &[], Some(&add)).await.expect("items");
    assert_eq!(grown, json!({"added": 1, "lifted": 6}));

    assert_eq!(delta(&mut feed).await.remove.len(), 6, "who follows is told at once");
    let (_, body) = server.as_bouncer("/v1/decisions/stream").await;
    assert_eq!(lists(&body).1.len(), 6, "who polls is told with the next pull");
    assert_eq!(server.as_bouncer("/v1/decisions?ip=192.0.2.1").await.1, "null");
    for input in &inputs {
        let (status, body) = server.as_machine(Method::POST, "/v1/alerts", &json!([input]).to_string()).await;
        match input.get("decisions") {
            None => assert_eq!((status, body.as_str()), (201, "[]"), "an agent's alert is dropped"),
            Some(_) => assert!(status == 403 && body.contains("192.0.2.0/24 from office (us)"), "{status} {body}"),
        }
    }
    let mut mixed = decided("Ip", "192.0.2.9", "1h", "cscli-import");
    let other = decided("Ip", "203.0.113.9", "1h", "cscli-import")["decisions"][0].clone();
    mixed["decisions"].as_array_mut().expect("a list").push(other);
    server.push(&mixed).await;
    assert_eq!(values(&delta(&mut feed).await.add), ["203.0.113.9"], "of an import the rest stays");
}

#[tokio::test]
async fn a_feed_resumes_where_it_was() {
    let server = Running::start().await;
    let address = server.base.trim_start_matches("http://").parse().expect("an address");
    server.push(&decided("Ip", "192.0.2.1", "1h", "cscli")).await;
    let mut feed = server.feed(Some("k1"));
    assert_eq!(values(&snapshot(&mut feed).await), ["192.0.2.1"]);
    let (folder, service) = server.stop().await;
    drop(service);
    let store = Arc::new(Sqlite::open(&folder.path().join("cordon.db")).expect("the database opens"));
    let service =
        Service::open(store, Profiles::default(), Options::default(), jiff::Timestamp::now()).expect("started");
    let ban = serde_json::from_value(decided("Ip", "192.0.2.2", "1h", "cscli")).expect("an alert");
    service.store("edge", vec![ban]).await;
    assert!(matches!(feed.next().await, Err(FeedError::Unreachable { .. })), "it says that it was cut off");
    let _server = Running::serve(folder, service, |config| config.listen = Some(address)).await;
    loop {
        match feed.next().await {
            Ok(Update::Delta(delta)) => break assert_eq!(values(&delta.add), ["192.0.2.2"], "only what it missed"),
            Ok(Update::Snapshot(_)) => panic!("it was known"),
            Err(FeedError::Unreachable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn large_snapshots_and_deltas_arrive_whole() {
    let server = Running::start().await;
    let many = |from: u32, count: u32| {
        let mut alert: model::Alert =
            serde_json::from_value(decided("Ip", "192.0.2.1", "1h", "cscli")).expect("an alert");
        let one = alert.decisions.clone().expect("it has one")[0].clone();
        let address = |index| std::net::Ipv4Addr::from(0x0a00_0000 + index).to_string();
        let all = (from..from + count).map(|index| model::alert::DecisionBody { value: address(index), ..one.clone() });
        alert.decisions = Some(all.collect());
        alert
    };
    server.service.store("edge", vec![many(0, 2500)]).await;
    let mut feed = server.feed(Some("k1"));
    assert_eq!(snapshot(&mut feed).await.len(), 2500);
    server.service.store("edge", vec![many(5000, 1700)]).await;
    let mut count = 0;
    while count < 1700 {
        count += delta(&mut feed).await.add.len();
    }
    let query = crate::decisions::Query::default();
    let (lifted, receipt) = server.service.lift(&query).await.expect("lifted");
    receipt.durable().await.expect("durable");
    let mut count = 0;
    while count < lifted {
        count += delta(&mut feed).await.remove.len();
    }
    assert_eq!((count, lifted), (4200, 4200));
}

#[tokio::test]
async fn a_foreign_server_is_polled() {
    let answers = [
        r#"{"new":[{"duration":"1h","id":7,"origin":"CAPI","scenario":"s","scope":"ip","type":"ban","value":"192.0.2.1"}],"deleted":null}"#,
        r#"{"new":null,"deleted":[]}"#,
        r#"{"new":null,"deleted":[{"duration":"-1s","id":7,"origin":"CAPI","scenario":"s","scope":"Ip","type":"ban","value":"192.0.2.1"}]}"#,
    ];
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let stream = move |request: Request| async move {
        let mut asked = log.lock().expect("no panic");
        asked.push(request.uri().query().unwrap_or_default().to_owned());
        answers[(asked.len() - 1).min(2)]
    };
    let router = Router::new().route("/v1/decisions/stream", get(stream));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let poll = PollOptions { every: Duration::from_millis(5), ..PollOptions::default() };
    let mut feed = SseFeed::new(Endpoint::new(&base), Some("k".into()), poll).expect("a feed");
    assert_eq!(values(&snapshot(&mut feed).await), ["192.0.2.1"]);
    assert_eq!(values(&delta(&mut feed).await.remove), ["192.0.2.1"]);
    let asked = asked.lock().expect("no panic");
    let scopes = "scopes=Ip%2CRange%2CCountry%2CAS%2Cidentity%2Csession";
    assert_eq!(asked[..2], [format!("{scopes}&startup=true"), format!("{scopes}&startup=false")]);
}

#[tokio::test]
async fn it_listens_where_it_is_safe() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Arc::new(Sqlite::open(&folder.path().join("cordon.db")).expect("the database opens"));
    let service =
        Service::open(store, Profiles::default(), Options::default(), jiff::Timestamp::now()).expect("started");
    let open = SocketAddr::from(([0, 0, 0, 0], 0));
    let none = ServerConfig { listen: None, ..ServerConfig::default() };
    // (what, configuration, what is wrong)
    let cases = [
        ("nowhere", none.clone(), Some("no listen_uri or listen_socket specified")),
        (
            "everywhere",
            ServerConfig { listen: Some(open), ..none.clone() },
            Some(
                "`0.0.0.0:0` can be reached from other hosts, and there is no TLS\nhint: set `tls` (`cordon pki` makes certificates), or listen on 127.0.0.1, or set `allow_plaintext: true` if the network is trusted",
            ),
        ),
        ("everywhere, on purpose", ServerConfig { listen: Some(open), allow_plaintext: true, ..none.clone() }, None),
        (
            "a weak secret",
            ServerConfig { token_secret: Some("short".into()), ..none.clone() },
            Some("CS_LAPI_SECRET not strong enough\nhint: at least 64 characters"),
        ),
    ];
    for (what, config, wrong) in cases {
        let result = Server::bind(config, service.clone()).await.map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(result.err().as_deref(), wrong, "{what}");
    }
    let socket = folder.path().join("api.sock");
    let config = ServerConfig { socket: Some(socket.clone()), ..none };
    let first = Server::bind(config.clone(), service.clone()).await.expect("it listens");
    assert!(matches!(Server::bind(config.clone(), service.clone()).await, Err(ServerError::Listen { .. })), "in use");
    drop(first);
    assert!(socket.exists(), "a killed server leaves it behind");
    Server::bind(config.clone(), service.clone()).await.expect("a stale one is replaced");
    let long = ServerConfig { socket: Some(folder.path().join("x".repeat(120))), ..config };
    assert!(matches!(Server::bind(long, service).await, Err(ServerError::SocketPath { .. })));
}

/// Secrets do not show in what is printed for debugging.
#[tokio::test]
async fn secrets_are_not_printed() {
    fn printed(thing: &impl Debug) -> String {
        format!("{thing:?}")
    }
    let server = Running::start().await;
    for text in [printed(&server.service.machines()), printed(&server.service.bouncers()), printed(&server.service)] {
        assert!(!text.contains("$2b$") && !text.contains("pw\""), "{text}");
    }
}
