//! A Ziti network as its controllers show it: the routes that Cordon uses, with the behaviour of either family.
//!
//! Every request is checked against the API description, and so is every answer. Time, faults and what other people do
//! are in the hands of the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::schema::Schema;

/// Which line of controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// 1.x: routers hear nothing of a disable; a token lives on until it ends.
    Old,
    /// 2.x: routers close what a disabled identity has, and refuse it until they hear of an update.
    New,
}

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// An answer with this status, and nothing done.
    Status(u16),
    /// The same, asking to be left alone for so many seconds.
    Later(u16, u64),
    /// No answer at all, and nothing done.
    Hang,
    /// It is done, but no answer comes.
    Deaf,
    /// It is done, but the answer breaks off.
    Torn,
    /// It is done, but the answer is something else.
    Nonsense,
    /// It is done, slowly.
    Slow(u64),
    /// The session has ended.
    Expired,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) external: Option<String>,
    pub(crate) admin: bool,
    pub(crate) default_admin: bool,
    pub(crate) router: bool,
    pub(crate) disabled_at: Option<Timestamp>,
    pub(crate) disabled_until: Option<Timestamp>,
    /// How often anybody changed it.
    pub(crate) updates: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) identity: String,
    pub(crate) address: String,
    /// A token of the newer kind, in no list.
    pub(crate) token: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Circuit {
    pub(crate) identity: String,
    pub(crate) session: String,
    pub(crate) controller: usize,
}

/// Everything that there is.
pub(crate) struct Network {
    pub(crate) family: Family,
    pub(crate) identities: BTreeMap<String, Identity>,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) circuits: BTreeMap<String, Circuit>,
    /// Terminator and host.
    pub(crate) terminators: BTreeMap<String, String>,
    /// Kind, id, when.
    pub(crate) revocations: Vec<(String, String, Timestamp)>,
    /// Whom routers refuse (2.x).
    pub(crate) refused: BTreeSet<String>,
    /// Whom Cordon logs in as.
    pub(crate) me: String,
    /// What every clock here is ahead.
    pub(crate) ahead: SignedDuration,
    /// What goes wrong next.
    pub(crate) faults: VecDeque<Fault>,
    /// Every request that changes something, with its time.
    pub(crate) writes: Vec<(Timestamp, String)>,
    /// How many requests have been answered.
    pub(crate) requests: usize,
    /// Requests from this one on are not answered, and whether that one is still carried out.
    pub(crate) frozen: Option<(usize, bool)>,
    pub(crate) thaw: Arc<Notify>,
    /// What was not as described.
    pub(crate) violations: Vec<String>,
    pub(crate) logins: usize,
    /// Whether the password is wrong.
    pub(crate) locked_out: bool,
    admin_tokens: BTreeSet<String>,
    refresh_tokens: BTreeSet<String>,
    /// Logins of the newer kind that have begun: challenge and state.
    begun: BTreeMap<String, (String, String)>,
    codes: BTreeMap<String, String>,
    bases: Vec<String>,
    number: usize,
}

impl Network {
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now() + self.ahead
    }

    fn fresh(&mut self, what: &str) -> String {
        self.number += 1;
        format!("{what}-{}", self.number)
    }

    pub(crate) fn disabled(&self, id: &str) -> bool {
        self.identities.get(id).is_some_and(|identity| {
            identity.disabled_at.is_some() && identity.disabled_until.is_none_or(|until| until > self.now())
        })
    }

    /// A person or the controller itself disables an identity.
    pub(crate) fn disable(&mut self, id: &str, minutes: i64) {
        let now = self.now();
        let Some(identity) = self.identities.get_mut(id) else { return };
        let first = identity.disabled_at.is_none();
        identity.disabled_at = Some(now);
        identity.disabled_until = (minutes > 0).then(|| now + SignedDuration::from_secs(minutes * 60));
        identity.updates += 1;
        self.sessions.retain(|_, session| session.identity != id || session.token);
        if self.family == Family::New {
            if first {
                self.revocations.push(("IDENTITY".into(), id.to_owned(), now));
                self.sessions.retain(|_, session| session.identity != id);
            }
            self.refused.insert(id.to_owned());
            self.circuits.retain(|_, circuit| circuit.identity != id);
        } else {
            // What was opened by a session of the older kind ends with it.
            let sessions = &self.sessions;
            self.circuits.retain(|_, circuit| circuit.identity != id || sessions.contains_key(&circuit.session));
        }
    }

    pub(crate) fn enable(&mut self, id: &str) {
        let Some(identity) = self.identities.get_mut(id) else { return };
        (identity.disabled_at, identity.disabled_until) = (None, None);
        identity.updates += 1;
        self.refused.remove(id);
    }

    /// Somebody logs in from `address`.
    pub(crate) fn log_in(&mut self, id: &str, address: &str, token: bool) -> Option<String> {
        if self.disabled(id) {
            return None;
        }
        let session = self.fresh("session");
        self.sessions.insert(session.clone(), Session { identity: id.to_owned(), address: address.to_owned(), token });
        Some(session)
    }

    /// Somebody uses a service through controller number `controller`.
    pub(crate) fn dial(&mut self, session: &str, controller: usize) -> Option<String> {
        let identity = self.sessions.get(session)?.identity.clone();
        if self.refused.contains(&identity) {
            return None;
        }
        let circuit = self.fresh("circuit");
        self.circuits.insert(circuit.clone(), Circuit { identity, session: session.to_owned(), controller });
        Some(circuit)
    }

    /// Whether data still flows for `id`.
    pub(crate) fn flows(&self, id: &str) -> bool {
        self.circuits.values().any(|circuit| circuit.identity == id)
    }

    /// Every session of Cordon's own ends.
    pub(crate) fn expire_logins(&mut self) {
        self.admin_tokens.clear();
    }

    /// Changes by Cordon that are not logins.
    pub(crate) fn changes(&self) -> Vec<&str> {
        self.writes.iter().map(|(_, write)| write.as_str()).collect()
    }
}

/// The servers of one network.
pub(crate) struct Site {
    pub(crate) network: Arc<Mutex<Network>>,
    pub(crate) bases: Vec<String>,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
        if !std::thread::panicking() {
            assert_eq!(self.lock().violations, Vec::<String>::new(), "requests or answers that are not as described");
        }
    }
}

impl Site {
    /// A network of `family` with `controllers` controllers, an administrator, a router, and the users alice and bob.
    pub(crate) async fn start(family: Family, controllers: usize) -> Self {
        let user =
            |name: &str| Identity { name: name.into(), external: Some(format!("ext-{name}")), ..Identity::default() };
        let identities = BTreeMap::from([
            ("cordonId".to_owned(), Identity { admin: true, ..user("cordon") }),
            ("rootId".to_owned(), Identity { admin: true, default_admin: true, ..user("Default Admin") }),
            ("opsId".to_owned(), Identity { admin: true, ..user("ops") }),
            ("routerId".to_owned(), Identity { router: true, ..user("edge1") }),
            ("aliceId".to_owned(), user("alice")),
            ("bobId".to_owned(), user("bob")),
        ]);
        let network = Network {
            family,
            identities,
            sessions: BTreeMap::new(),
            circuits: BTreeMap::new(),
            terminators: BTreeMap::new(),
            revocations: Vec::new(),
            refused: BTreeSet::new(),
            me: "cordonId".into(),
            ahead: SignedDuration::ZERO,
            faults: VecDeque::new(),
            writes: Vec::new(),
            requests: 0,
            frozen: None,
            thaw: Arc::new(Notify::new()),
            violations: Vec::new(),
            logins: 0,
            locked_out: false,
            admin_tokens: BTreeSet::new(),
            refresh_tokens: BTreeSet::new(),
            begun: BTreeMap::new(),
            codes: BTreeMap::new(),
            bases: Vec::new(),
            number: 0,
        };
        let mut site = Self { network: Arc::new(Mutex::new(network)), bases: Vec::new(), servers: Vec::new() };
        for at in 0..controllers {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let base = format!("http://{}", listener.local_addr().expect("it is bound"));
            site.bases.push(base);
            let router = site.router(at);
            site.servers.push(tokio::spawn(async move {
                let _ = axum::serve(listener, router).await;
            }));
        }
        site.lock().bases.clone_from(&site.bases);
        site
    }

    /// What controller number `at` answers.
    pub(crate) fn router(&self, at: usize) -> Router {
        let network = Arc::clone(&self.network);
        Router::new().fallback(move |request: Request| answer(Arc::clone(&network), at, request))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends controller number `at`.
    pub(crate) fn stop(&mut self, at: usize) {
        self.servers[at].abort();
    }
}

fn schemas() -> &'static [Schema] {
    static SCHEMAS: OnceLock<Vec<Schema>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/spec/data");
        let files = ["ziti-edge-management.swagger.yml", "ziti-fabric.swagger.yml"];
        let schemas: Vec<Schema> = files.iter().filter_map(|file| Schema::load(&folder.join(file))).collect();
        if schemas.len() < files.len() {
            eprintln!("NOT CHECKED: the API descriptions of OpenZiti are not in {}", folder.display());
        }
        schemas
    })
}

async fn answer(network: Arc<Mutex<Network>>, at: usize, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let lock = || network.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut fault, frozen, thaw) = {
        let mut network = lock();
        network.requests += 1;
        let fault = network.faults.pop_front().unwrap_or(Fault::None);
        let frozen = network.frozen.filter(|(first, _)| network.requests >= *first);
        let first = network.frozen.is_some_and(|(first, _)| network.requests == first);
        (fault, frozen.map(|(_, carried)| carried && first), Arc::clone(&network.thaw))
    };
    if frozen == Some(false) {
        thaw.notify_one();
        return std::future::pending().await;
    }
    match fault {
        Fault::Status(status) => return refusal(status, "SOME_ERROR", "so it happens"),
        Fault::Later(status, seconds) => {
            let mut answer = refusal(status, "SERVER_TOO_MANY_REQUESTS", "too many requests");
            answer.headers_mut().insert("retry-after", seconds.into());
            return answer;
        }
        Fault::Hang => return std::future::pending().await,
        Fault::Expired => {
            lock().expire_logins();
            fault = Fault::None;
        }
        Fault::Slow(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        _ => {}
    }
    let method = parts.method.as_str();
    let path = parts.uri.path().to_owned();
    let query: Vec<(String, String)> = parts.uri.query().unwrap_or_default().split('&').filter_map(pair).collect();
    let answer = {
        let mut network = lock();
        let schema = schemas().iter().find(|schema| schema.owns(&path));
        if let Some(schema) = schema {
            let faults = schema.request(method, &path, &query, &body);
            network.violations.extend(faults);
        }
        let answer = network.serve(at, method, &path, &query, &parts.headers, &body);
        if let (Some(schema), Ok(body)) = (schema, &answer.1) {
            let faults = schema.answer(method, &path, answer.0, body);
            network.violations.extend(faults);
        }
        answer
    };
    if frozen.is_some() {
        thaw.notify_one();
        return std::future::pending().await;
    }
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&lock().now());
    let builder = Response::builder().status(answer.0).header("date", date.unwrap_or_default());
    let text = match answer.1 {
        Ok(body) => body.to_string(),
        Err(location) => {
            return builder.header("location", location).body(Body::empty()).expect("a redirection");
        }
    };
    match fault {
        Fault::Deaf => std::future::pending().await,
        Fault::Nonsense => builder.body(Body::from("<html>it works</html>")).expect("an answer"),
        Fault::Torn => {
            let half = Bytes::from(text[..text.len() / 2].to_owned());
            let torn = std::io::Error::other("torn");
            let stream = futures_util::stream::iter([Ok(half), Err(torn)]);
            builder.header("content-length", text.len()).body(Body::from_stream(stream)).expect("an answer")
        }
        _ => builder.body(Body::from(text)).expect("an answer"),
    }
}

/// A status, and a body or where to go.
type Answer = (u16, Result<Value, String>);

fn data(data: impl Into<Value>) -> Answer {
    let data = data.into();
    (200, Ok(json!({ "data": data, "meta": {} })))
}

fn no(status: u16, code: &str) -> Answer {
    (status, Ok(json!({ "error": { "code": code, "message": code.to_lowercase() }, "meta": {} })))
}

fn refusal(status: u16, code: &str, message: &str) -> Response<Body> {
    let body = json!({ "error": { "code": code, "message": message }, "meta": {} });
    let status = StatusCode::from_u16(status).expect("a status");
    Response::builder().status(status).body(Body::from(body.to_string())).expect("an answer")
}

impl Network {
    fn serve(
        &mut self,
        at: usize,
        method: &str,
        path: &str,
        query: &[(String, String)],
        headers: &HeaderMap,
        body: &[u8],
    ) -> Answer {
        let form: Vec<(String, String)> =
            std::str::from_utf8(body).unwrap_or_default().split('&').filter_map(pair).collect();
        if let Some(route) = path.strip_prefix("/oidc") {
            return self.oidc(method, route, query, &form);
        }
        let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let edge = path.strip_prefix("/edge/management/v1");
        match (method, edge) {
            ("GET", Some("/version")) => {
                let version = if self.family == Family::Old { "v1.6.3" } else { "v2.0.4" };
                return data(json!({ "version": version, "apiVersions": {} }));
            }
            ("POST", Some("/authenticate")) => return self.authenticate(query, &json, headers),
            _ => {}
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = header("authorization").strip_prefix("Bearer ").unwrap_or(header("zt-session"));
        if !self.admin_tokens.contains(token) {
            return no(401, "UNAUTHORIZED");
        }
        let bearer = header("zt-session").is_empty();
        if method != "GET" {
            let now = Timestamp::now();
            self.writes.push((now, format!("{method} {path}")));
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["edge", .., "current-identity"]) => {
                let me = self.me.clone();
                data(self.show(&me))
            }
            ("GET", ["edge", .., "controllers"]) => {
                let all: Vec<Value> = (0..self.bases.len()).map(|at| self.show_controller(at)).collect();
                page(query, if all.len() > 1 { all } else { Vec::new() })
            }
            ("GET", ["edge", .., "edge-routers"]) => page(query, vec![show_router()]),
            ("GET", ["edge", .., "identities"]) => {
                let ids: Vec<String> = self.identities.keys().cloned().collect();
                let all = ids.iter().map(|id| self.show(id)).collect();
                page(query, filtered(query, all, &[("name", "name"), ("externalId", "externalId")]))
            }
            ("GET", ["edge", .., "identities", id]) if self.identities.contains_key(*id) => data(self.show(id)),
            ("POST", ["edge", .., "identities", id, "disable"]) if self.identities.contains_key(*id) => {
                self.disable(id, json["durationMinutes"].as_i64().unwrap_or(0));
                data(json!({}))
            }
            ("POST", ["edge", .., "identities", id, "enable"]) if self.identities.contains_key(*id) => {
                self.enable(id);
                data(json!({}))
            }
            ("GET", ["edge", .., "api-sessions"]) => {
                let all = self.sessions.iter().filter(|(_, session)| !session.token);
                let all = all.map(|(id, session)| show_session(id, session)).collect();
                page(query, filtered(query, all, &[("identity", "identityId"), ("ipAddress", "ipAddress")]))
            }
            ("GET", ["edge", .., "api-sessions", id]) => {
                match self.sessions.get(*id).filter(|session| !session.token) {
                    Some(session) => data(show_session(id, session)),
                    None => no(404, "NOT_FOUND"),
                }
            }
            ("DELETE", ["edge", .., "api-sessions", id]) => {
                if bearer && self.family == Family::Old {
                    return no(401, "UNAUTHORIZED");
                }
                match self.sessions.remove(*id) {
                    Some(_) => {
                        self.circuits.retain(|_, circuit| circuit.session != *id);
                        data(json!({}))
                    }
                    None => no(404, "NOT_FOUND"),
                }
            }
            ("POST", ["edge", .., "revocations"]) if self.family == Family::New => {
                if !self.identities[&self.me].admin {
                    return no(401, "UNAUTHORIZED");
                }
                let id = json["id"].as_str().unwrap_or_default().to_owned();
                let kind = json["type"].as_str().unwrap_or_default().to_owned();
                self.sessions.retain(|session, _| *session != id);
                self.circuits.retain(|_, circuit| circuit.session != id);
                self.revocations.push((kind, id.clone(), self.now()));
                (201, Ok(json!({ "data": { "id": id }, "meta": {} })))
            }
            ("GET", ["fabric", "v1", "circuits"]) => {
                let all = self.circuits.iter().filter(|(_, circuit)| circuit.controller == at);
                let all: Vec<Value> = all.map(|(id, circuit)| show_circuit(id, circuit)).collect();
                // The older family knows neither pages nor filters here.
                if self.family == Family::Old { data(all) } else { page(query, all) }
            }
            ("DELETE", ["fabric", "v1", "circuits", id]) => {
                if self.circuits.get(*id).is_some_and(|circuit| circuit.controller == at) {
                    self.circuits.remove(*id);
                    return data(json!({}));
                }
                no(404, "NOT_FOUND")
            }
            ("GET", ["fabric", "v1", "terminators"]) => {
                let all = self.terminators.iter().map(|(id, host)| show_terminator(id, host)).collect();
                page(query, filtered(query, all, &[("hostId", "hostId")]))
            }
            ("DELETE", ["fabric", "v1", "terminators", id]) => match self.terminators.remove(*id) {
                Some(_) => data(json!({})),
                None => no(404, "NOT_FOUND"),
            },
            _ => no(404, "NOT_FOUND"),
        }
    }

    fn authenticate(&mut self, query: &[(String, String)], body: &Value, headers: &HeaderMap) -> Answer {
        self.logins += 1;
        let good = match value(query, "method") {
            Some("password") => body["username"] == "cordon" && body["password"] == "secret",
            Some("ext-jwt") => headers.get("authorization").is_some_and(|value| value == "Bearer foreign"),
            // Behind TLS: the handshake has shown it.
            Some("cert") => true,
            _ => false,
        };
        if !good || self.locked_out || self.disabled(&self.me.clone()) {
            return no(401, "INVALID_AUTH");
        }
        let token = self.fresh("token");
        self.admin_tokens.insert(token.clone());
        let me = self.me.clone();
        let mut session = show_session("own", &Session { identity: me, address: "127.0.0.1".into(), token: false });
        let now = self.now();
        session["token"] = token.into();
        session["expiresAt"] = (now + SignedDuration::from_mins(30)).to_string().into();
        session["expirationSeconds"] = 1800.into();
        data(session)
    }

    fn oidc(&mut self, method: &str, route: &str, query: &[(String, String)], form: &[(String, String)]) -> Answer {
        let get = |key: &str| value(query, key).unwrap_or_default().to_owned();
        match (method, route) {
            ("GET", "/.well-known/openid-configuration") => (
                200,
                Ok(json!({
                    "authorization_endpoint": "https://ctrl.example.org:1280/oidc/authorize",
                    "token_endpoint": "https://ctrl.example.org:1280/oidc/oauth/token",
                })),
            ),
            ("GET", "/authorize") => {
                let id = self.fresh("request");
                self.begun.insert(id.clone(), (get("code_challenge"), get("state")));
                (302, Err(format!("/oidc/login/username?authRequestID={id}")))
            }
            ("POST", "/login/password" | "/login/cert") => {
                self.logins += 1;
                let known = route.ends_with("cert")
                    || (value(form, "username") == Some("cordon") && value(form, "password") == Some("secret"));
                let id = value(form, "id").unwrap_or_default();
                if !known || self.locked_out || !self.begun.contains_key(id) {
                    return no(401, "INVALID_AUTH");
                }
                (302, Err(format!("/oidc/authorize/callback?id={id}")))
            }
            ("GET", "/authorize/callback") => match self.begun.remove(&get("id")) {
                Some((challenge, state)) => {
                    let code = self.fresh("code");
                    self.codes.insert(code.clone(), challenge);
                    (302, Err(format!("http://localhost:8080/auth/callback?code={code}&state={state}")))
                }
                None => no(400, "NOT_FOUND"),
            },
            ("POST", "/oauth/token") => {
                let refresh = value(form, "refresh_token").is_some_and(|token| self.refresh_tokens.remove(token));
                let verifier = value(form, "code_verifier").unwrap_or_default();
                let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
                let code = value(form, "code").and_then(|code| self.codes.remove(code));
                if !refresh && code != Some(challenge) {
                    return no(400, "INVALID_GRANT");
                }
                let (access, refresh) = (self.fresh("access"), self.fresh("refresh"));
                self.admin_tokens.insert(access.clone());
                self.refresh_tokens.insert(refresh.clone());
                (200, Ok(json!({ "access_token": access, "refresh_token": refresh, "expires_in": 1800 })))
            }
            _ => no(404, "NOT_FOUND"),
        }
    }

    fn show(&self, id: &str) -> Value {
        let identity = &self.identities[id];
        let kind = if identity.router { "Router" } else { "Default" };
        let sessions = self.sessions.values().any(|session| session.identity == id && !session.token);
        let connected = self.flows(id);
        let status = if connected { "online" } else { "offline" };
        merge(
            entity(id),
            json!({
                "name": identity.name, "externalId": identity.external, "isAdmin": identity.admin,
                "isDefaultAdmin": identity.default_admin, "typeId": kind,
                "type": { "id": kind, "name": kind, "entity": "identity-types", "_links": {} },
                "disabled": self.disabled(id), "disabledAt": identity.disabled_at,
                "disabledUntil": identity.disabled_until, "hasApiSession": sessions,
                "hasEdgeRouterConnection": connected, "edgeRouterConnectionStatus": status,
                "authenticators": {}, "enrollment": {}, "envInfo": {}, "sdkInfo": {}, "roleAttributes": [],
                "isMfaEnabled": false, "serviceHostingPrecedences": {}, "serviceHostingCosts": {},
                "defaultHostingCost": 0, "authPolicyId": "default", "authPolicy": { "_links": {} }, "permissions": [],
            }),
        )
    }

    fn show_controller(&self, at: usize) -> Value {
        let address = json!([{ "url": self.bases[at], "version": "v1" }]);
        merge(
            entity(&format!("ctrl{at}")),
            json!({
                "name": format!("ctrl{at}"), "certPem": "", "fingerprint": "", "isOnline": true,
                "lastJoinedAt": "2026-01-01T00:00:00Z", "apiAddresses": { "edge-management": address },
            }),
        )
    }
}

fn show_session(id: &str, session: &Session) -> Value {
    let identity = json!({ "id": session.identity, "_links": {} });
    merge(
        entity(id),
        json!({
            "token": "secret-token", "identity": identity, "identityId": session.identity, "configTypes": [],
            "ipAddress": session.address, "authQueries": [], "isMfaRequired": false, "isMfaComplete": true,
            "authenticatorId": "updb", "isCertExtendable": false,
        }),
    )
}

fn show_terminator(id: &str, host: &str) -> Value {
    merge(
        entity(id),
        json!({
            "serviceId": "s", "service": { "_links": {} }, "routerId": "routerId", "router": { "_links": {} },
            "binding": "edge", "address": "a", "instanceId": "", "cost": 0, "precedence": "default",
            "dynamicCost": 0, "hostId": host,
        }),
    )
}

fn show_router() -> Value {
    let version = json!({ "version": "v1", "os": "linux", "arch": "amd64", "buildDate": "", "revision": "" });
    merge(
        entity("routerId"),
        json!({
            "name": "edge1", "hostname": "192.0.2.7", "isOnline": true, "syncStatus": "SYNC_DONE", "cost": 0,
            "noTraversal": false, "disabled": false, "supportedProtocols": { "tls": "tls://192.0.2.7:3022" },
            "isVerified": true, "roleAttributes": [], "isTunnelerEnabled": false, "os": "linux", "arch": "amd64",
            "version": "v1", "buildDate": "", "revision": "", "versionInfo": version,
        }),
    )
}

fn show_circuit(id: &str, circuit: &Circuit) -> Value {
    merge(
        entity(id),
        json!({
            "clientId": circuit.session, "tags": { "clientId": circuit.identity, "serviceId": "s" },
            "service": { "_links": {} }, "terminator": { "_links": {} }, "path": { "nodes": [], "links": [] },
        }),
    )
}

fn entity(id: &str) -> Value {
    json!({ "id": id, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z", "_links": {} })
}

fn merge(mut into: Value, from: Value) -> Value {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
    into
}

/// What the filter of the query picks; a filter that is not understood is a mistake of the client.
fn filtered(query: &[(String, String)], all: Vec<Value>, fields: &[(&str, &str)]) -> Vec<Value> {
    let filter = value(query, "filter").unwrap_or("true");
    let filter = filter.strip_suffix(" sort by id").unwrap_or(filter);
    if filter == "true" {
        return all;
    }
    let (_, field, wanted) = fields
        .iter()
        .find_map(|(name, field)| Some((name, field, filter.strip_prefix(&format!("{name}="))?)))
        .expect("a filter that is known");
    let wanted: String = serde_json::from_str(wanted).expect("a quoted value");
    all.into_iter().filter(|item| item[*field] == wanted.as_str()).collect()
}

/// A page of a list: ten entries unless more are asked for, never more than 500.
fn page(query: &[(String, String)], all: Vec<Value>) -> Answer {
    let number = |key: &str, default: usize| value(query, key).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (limit, offset) = (number("limit", 10).min(500), number("offset", 0));
    let total = all.len();
    let data: Vec<Value> = all.into_iter().skip(offset).take(limit).collect();
    let pagination = json!({ "limit": limit, "offset": offset, "totalCount": total });
    (200, Ok(json!({ "data": data, "meta": { "pagination": pagination, "filterableFields": [] } })))
}

fn value<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    Some((decode(key), decode(value)))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
            let digits = std::str::from_utf8(&digits).unwrap_or("00");
            bytes.push(u8::from_str_radix(digits, 16).unwrap_or(0));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
