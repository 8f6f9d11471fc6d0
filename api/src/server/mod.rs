//! The local API's server: listeners, routes, limits.
//!
//! Handlers translate between the wire and [`service::Service`], which decides. Whoever connects to the Unix
//! socket as root or as the server's own user is this host's administrator and needs no token.

mod alerts;
mod allowlists;
mod ask;
mod audit;
mod auth;
mod bouncers;
mod decisions;
mod error;
mod events;
#[cfg(test)]
mod identity_tests;
mod limits;
mod machines;
mod openapi;
mod patience;
pub mod service;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
mod tokens;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures_util::FutureExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tower::ServiceExt;
use tracing::{debug, error, info, warn};

use self::auth::{Peer, Proxies};
use self::limits::{Limits, Places};
use self::patience::Patient;
use self::service::Service;
use self::tls::{PeerCertificate, Tls, TlsError};
use self::tokens::Tokens;
use crate::config::ServerConfig;
use crate::metrics::{Answered, RouteLabels};

/// How many connections over the network may be open at once.
const MAX_CONNECTIONS: usize = 2048;
/// How many connections on the socket may be open at once: they are this host's, and must not wait for others.
const MAX_LOCAL_CONNECTIONS: usize = 512;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long nothing of an answer may be taken by whoever asked for it.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// How many requests one connection may have open at once.
const MAX_STREAMS: u32 = 64;
/// Largest head of a request in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long a connection may wait for the head of a request: longer than clients pause between two.
const HEAD_PATIENCE: Duration = Duration::from_secs(75);
/// How long open requests may go on after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Longest path of a socket.
const MAX_SOCKET_PATH: usize = 107;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is nothing to listen on.
    #[error("no listen_uri or listen_socket specified")]
    NoListener,
    /// Others could read keys and passwords on the way.
    #[error(
        "`{0}` can be reached from other hosts, and there is no TLS\nhint: set `tls` (`cordon pki` makes certificates), or listen on 127.0.0.1, or set `allow_plaintext: true` if the network is trusted"
    )]
    Plaintext(SocketAddr),
    /// The path of the socket is too long.
    #[error("the path of the socket is {len} bytes long, the system allows {MAX_SOCKET_PATH}: `{path}`", path = path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The address or path cannot be used.
    #[error("cannot listen on `{on}`: {source}")]
    Listen {
        /// What it is.
        on: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The keys that sign tokens cannot be read.
    #[error("cannot use the keys of tokens in `{path}`: {source}\nhint: without the file new ones are made, and machines log in again", path = path.display())]
    TokenKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The key that signs tokens is too short.
    #[error("CS_LAPI_SECRET not strong enough\nhint: at least 64 characters")]
    WeakSecret,
}

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    service: Service,
    tokens: Tokens,
    limits: Limits,
    proxies: Proxies,
    tls: Option<Arc<Tls>>,
    config: ServerConfig,
    status: Option<StatusSource>,
    more: Option<MetricsSource>,
    reload: Option<mpsc::Sender<Reload>>,
}

/// Reads a server's certificates again.
#[derive(Clone, Debug)]
pub struct Certificates(Option<Arc<Tls>>);

impl Certificates {
    /// Reads certificate, key, authorities and revocation list again. New connections and new requests see what the files
    /// say now; no connection is closed. If they cannot be used, what was in force stays. A server without TLS has none.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.0.as_ref().map_or(Ok(()), |tls| tls.reload())
    }
}

/// A request to read the configuration again, from this host's administrator: whoever does answers with what there is to
/// say, or why everything stays as it was.
#[derive(Debug)]
pub struct Reload(pub oneshot::Sender<Result<serde_json::Value, String>>);

/// Answers what else runs in this process and how it is, as JSON, for this host's administrator.
pub struct StatusSource(Box<dyn Fn() -> serde_json::Value + Send + Sync>);

impl StatusSource {
    /// `look` is called for each question.
    pub fn new(look: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        Self(Box::new(look))
    }
}

impl std::fmt::Debug for StatusSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StatusSource")
    }
}

/// Adds what else in this process is counted.
pub struct MetricsSource(Box<dyn Fn(&mut Registry) + Send + Sync>);

impl MetricsSource {
    /// `register` is called for each question.
    pub fn new(register: impl Fn(&mut Registry) + Send + Sync + 'static) -> Self {
        Self(Box::new(register))
    }
}

impl std::fmt::Debug for MetricsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsSource")
    }
}

/// A server that listens, but does not answer yet.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
    socket: Option<PathBuf>,
}

impl Server {
    /// Opens the listeners of `config`.
    pub async fn bind(config: ServerConfig, service: Service) -> Result<Self, ServerError> {
        let tokens = Tokens::open(config.token_secret.as_ref(), config.token_keys.as_deref(), jiff::Timestamp::now())?;
        let tls = match config.tls.clone().filter(|_| config.listen.is_some()) {
            Some(tls) => Some(Arc::new(Tls::open(tls)?)),
            None => None,
        };
        let app = Arc::new(App::new(config, service, tokens, tls));
        let mut server = Self { tcp: None, unix: None, socket: None, app };
        let config = &server.app.config;
        if let Some(address) = config.listen {
            let open = server.app.tls.is_none() && !config.allow_plaintext;
            if open && !address.ip().to_canonical().is_loopback() {
                return Err(ServerError::Plaintext(address));
            }
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| ServerError::Listen { on: address.to_string(), source })?;
            server.tcp = Some(listener);
        }
        if let Some(path) = &config.socket {
            server.unix = Some(bind_socket(path)?);
            server.socket = Some(path.clone());
        }
        if server.tcp.is_none() && server.unix.is_none() {
            return Err(ServerError::NoListener);
        }
        Ok(server)
    }

    /// The same, answering `/v1/status` with what `source` says.
    #[must_use]
    pub fn with_status(mut self, source: StatusSource) -> Self {
        // nobody else has it before `run`
        if let Some(app) = Arc::get_mut(&mut self.app) {
            app.status = Some(source);
        }
        self
    }

    /// The same, answering `/metrics` with what `source` counts as well.
    #[must_use]
    pub fn with_metrics(mut self, source: MetricsSource) -> Self {
        // nobody else has it before `run`
        if let Some(app) = Arc::get_mut(&mut self.app) {
            app.more = Some(source);
        }
        self
    }

    /// What reads its certificates again.
    pub fn certificates(&self) -> Certificates {
        Certificates(self.app.tls.clone())
    }

    /// The same, handing requests to read the configuration again to whoever receives them.
    #[must_use]
    pub fn with_reload(mut self, requests: mpsc::Sender<Reload>) -> Self {
        // nobody else has it before `run`
        if let Some(app) = Arc::get_mut(&mut self.app) {
            app.reload = Some(requests);
        }
        self
    }

    /// The address on which it listens, if it does on one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Answers until `shutdown` resolves, then lets open requests end.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopping) = watch::channel(());
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let local = Arc::new(Semaphore::new(MAX_LOCAL_CONNECTIONS));
        let routes = routes(Arc::clone(&self.app));
        let accept = Accept {
            routes,
            app: Arc::clone(&self.app),
            connections: Arc::clone(&connections),
            local: Arc::clone(&local),
            stopping,
        };
        let listen = async {
            let tcp = async {
                match &self.tcp {
                    Some(listener) => accept.tcp(listener).await,
                    None => std::future::pending().await,
                }
            };
            let unix = async {
                match &self.unix {
                    Some(listener) => accept.unix(listener).await,
                    None => std::future::pending().await,
                }
            };
            let certificates = watch_files(self.app.tls.clone());
            tokio::join!(tcp, unix, certificates)
        };
        if let Some(address) = self.local_addr() {
            info!(%address, tls = self.app.tls.is_some(), "local API listens");
        }
        if let Some(path) = &self.socket {
            info!(path = %path.display(), "local API listens");
        }
        tokio::select! {
            _ = listen => {}
            () = shutdown => {}
        }
        drop(stop);
        if let Some(path) = &self.socket {
            // Somebody else may have removed it: then there is nothing to do.
            let _ = std::fs::remove_file(path);
        }
        let drained = async {
            let _ = connections.acquire_many(MAX_CONNECTIONS as u32).await;
            let _ = local.acquire_many(MAX_LOCAL_CONNECTIONS as u32).await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            warn!("requests were still open when the local API stopped");
        }
    }
}

impl App {
    fn new(config: ServerConfig, service: Service, tokens: Tokens, tls: Option<Arc<Tls>>) -> Self {
        let proxies = Proxies { trusted: config.trusted_proxies.clone() };
        let limits = Limits::new(config.login_burst, config.requests_per_second, Arc::clone(service.metrics()));
        Self { limits, service, tokens, proxies, tls, config, status: None, more: None, reload: None }
    }
}

/// Reads certificates again when their files change.
async fn watch_files(tls: Option<Arc<Tls>>) -> Infallible {
    let Some(tls) = tls else { return std::future::pending().await };
    loop {
        tokio::time::sleep(tls::LOOK_EVERY).await;
        let tls = Arc::clone(&tls);
        // it says by itself what is wrong
        let _ = tokio::task::spawn_blocking(move || tls.reload_if_changed()).await;
    }
}

/// Takes connections.
#[derive(Clone)]
struct Accept {
    routes: Router,
    app: Arc<App>,
    connections: Arc<Semaphore>,
    local: Arc<Semaphore>,
    stopping: watch::Receiver<()>,
}

impl Accept {
    /// Waits while there are too many connections, and takes no more than a few from one address.
    async fn tcp(&self, listener: &TcpListener) -> Infallible {
        let places = Places::default();
        loop {
            let permit = match Arc::clone(&self.connections).acquire_owned().await {
                Ok(permit) => permit,
                Err(_) => std::future::pending().await,
            };
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            };
            let metrics = self.app.service.metrics();
            let Some(place) = places.take(address.ip()) else {
                metrics.refused_connections.inc();
                debug!(%address, "too many connections from one address");
                continue;
            };
            // A delta must not wait for a full packet.
            let _ = stream.set_nodelay(true);
            let this = self.clone();
            tokio::spawn(async move {
                let stream = Patient::new(stream, READ_PATIENCE);
                match &this.app.tls {
                    None => this.serve(stream, Peer::Tcp { address, certificate: None }).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                            let certificate = PeerCertificate::read(chain).map(Arc::new);
                            if certificate.is_some() || chain.is_empty() {
                                this.serve(stream, Peer::Tcp { address, certificate }).await;
                            } else {
                                warn!(%address, "refused a client certificate: it has no name");
                            }
                        }
                        Ok(Err(error)) => {
                            this.app.service.metrics().refused_connections.inc();
                            info!(%address, %error, "a TLS handshake failed");
                        }
                        Err(_) => {
                            this.app.service.metrics().refused_connections.inc();
                            debug!(%address, "a TLS handshake took too long");
                        }
                    },
                }
                drop((permit, place));
            });
        }
    }

    async fn unix(&self, listener: &UnixListener) -> Infallible {
        let own = rustix::process::geteuid().as_raw();
        loop {
            let permit = match Arc::clone(&self.local).acquire_owned().await {
                Ok(permit) => permit,
                Err(_) => std::future::pending().await,
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                    let admin = uid.is_some_and(|uid| uid == 0 || uid == own);
                    let this = self.clone();
                    tokio::spawn(async move {
                        this.serve(Patient::new(stream, READ_PATIENCE), Peer::Unix { admin }).await;
                        drop(permit);
                    });
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Serves a connection until it ends.
    async fn serve<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let gauge = &self.app.service.metrics().connections;
        gauge.inc();
        let who = peer.clone();
        let routes = self.routes.clone().map_request(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request
        });
        let mut stopping = self.stopping.clone();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(MAX_HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(HEAD_PATIENCE))
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32);
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            _ = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        gauge.dec();
        if let Err(error) = result {
            debug!(peer = ?who, error, "connection ended");
        }
    }
}

/// Out of file descriptors, most likely: it passes.
async fn pause(error: &std::io::Error) {
    error!(%error, "cannot take a connection");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn bind_socket(path: &Path) -> Result<UnixListener, ServerError> {
    let len = path.as_os_str().len();
    if len > MAX_SOCKET_PATH {
        return Err(ServerError::SocketPath { path: path.into(), len });
    }
    let failed = |source| ServerError::Listen { on: path.display().to_string(), source };
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        // A socket on which somebody still listens is not ours to take.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed(std::io::ErrorKind::AddrInUse.into()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// All routes (spec: local-api 3), and ours.
fn routes(app: Arc<App>) -> Router {
    let admin = Router::new()
        .route("/v1/audit", get(audit::list).post(audit::note))
        .route("/v1/forget", post(audit::forget))
        .route("/v1/audit/verify", get(audit::verify))
        .route("/v1/bouncers", get(bouncers::list).post(bouncers::add))
        .route("/v1/bouncers/{name}", delete(bouncers::remove))
        .route("/v1/bouncers/{name}/rotate", post(bouncers::rotate))
        .route("/v1/bouncers/prune", post(bouncers::prune))
        .route("/v1/machines", get(machines::list).post(machines::add))
        .route("/v1/machines/{name}", delete(machines::remove))
        .route("/v1/machines/prune", post(machines::prune))
        .route("/v1/machines/{name}/validate", post(machines::validate))
        .route("/v1/allowlists", post(allowlists::create))
        .route("/v1/allowlists/{name}", delete(allowlists::remove))
        .route("/v1/allowlists/{name}/items", post(allowlists::add).delete(allowlists::take))
        .route("/v1/forgive", post(allowlists::forgive))
        .route("/v1/alerts/flush", post(alerts::flush))
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), auth::admin_only));
    Router::new()
        .route("/v1/watchers", post(machines::register))
        .route("/v1/watchers/login", post(machines::login))
        .route("/v1/refresh_token", get(machines::refresh))
        .route("/v1/watchers/self", delete(machines::remove_self))
        .route("/v1/alerts", get(alerts::search).post(alerts::push).delete(alerts::erase))
        .route("/v1/alerts/{alert_id}", get(alerts::one).delete(alerts::erase_one))
        .route("/v1/decisions", get(decisions::query).delete(decisions::lift))
        .route("/v1/decisions/{decision_id}", delete(decisions::lift_one))
        .route("/v1/decisions/stream", get(decisions::stream))
        .route("/v1/decisions/events", get(events::events))
        .route("/v1/heartbeat", get(machines::heartbeat))
        .route("/v1/usage-metrics", post(machines::usage_metrics))
        .route("/v1/allowlists", get(allowlists::list))
        .route("/v1/allowlists/{name}", get(allowlists::one))
        .route("/v1/allowlists/check/{ip_or_range}", get(allowlists::check))
        .route("/v1/allowlists/check", post(allowlists::check_many))
        .merge(admin)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), count))
        .route("/v1/pki/crl", get(revocation_list))
        .route("/v1/openapi.json", get(openapi::serve))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(unmatched)
        .layer(middleware::from_fn(survive))
        .with_state(app)
}

async fn health() -> impl IntoResponse {
    json_text(r#"{"status":"up"}"#)
}

async fn status(State(app): State<Arc<App>>) -> Response {
    json(&app.status.as_ref().map(|source| (source.0)()))
}

/// What the site's authority revoked. It is signed, and secret to nobody.
async fn revocation_list(State(app): State<Arc<App>>) -> Response {
    match app.tls.as_ref().and_then(|tls| tls.revocation_list()) {
        Some(list) => ([(header::CONTENT_TYPE, "application/x-pem-file")], list.to_vec()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn reload(State(app): State<Arc<App>>, client: auth::Client) -> Response {
    let (answer, answered) = oneshot::channel();
    let asked = match &app.reload {
        Some(requests) => requests.send(Reload(answer)).await.is_ok(),
        None => false,
    };
    match answered.await {
        Ok(Ok(value)) if asked => {
            // What was read holds already: a store that cannot write must not deny it.
            if let Err(error) = ask::administered(&app, &client).note("config.reload", "").await {
                warn!(%error, "cannot put a reload into the audit trail");
            }
            json(&value)
        }
        Ok(Err(reason)) => error::ApiError::new(StatusCode::CONFLICT, reason).into_response(),
        Ok(Ok(_)) | Err(_) => error::ApiError::internal("nothing here can be read again").into_response(),
    }
}

/// The counters, which name machines and bouncers: not for everybody.
async fn metrics(State(app): State<Arc<App>>, client: auth::Client) -> Result<Response, error::ApiError> {
    alerts::trusted(&app, &client)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let snapshot = app.service.count().await?;
    let more = |registry: &mut Registry| app.more.iter().for_each(|more| more.0(registry));
    Ok(([(header::CONTENT_TYPE, kind)], app.service.metrics().text(&snapshot, more)).into_response())
}

/// A trailing slash is sent to where it belongs; everything else is unknown.
async fn unmatched(State(app): State<Arc<App>>, request: Request) -> Response {
    let method = known_method(request.method()).to_owned();
    app.service.metrics().requests.get_or_create(&RouteLabels { route: "invalid-endpoint".into(), method }).inc();
    let path = request.uri().path();
    match path.strip_suffix('/') {
        // Two slashes would name another host.
        Some(known) if !known.is_empty() && !known.starts_with("//") => {
            let status = if request.method() == Method::GET {
                StatusCode::MOVED_PERMANENTLY
            } else {
                StatusCode::TEMPORARY_REDIRECT
            };
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            (status, [(header::LOCATION, format!("{known}{query}"))]).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A handler that panics costs its own request alone.
async fn survive(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn count(State(app): State<Arc<App>>, route: MatchedPath, request: Request, next: Next) -> Response {
    let labels = RouteLabels { route: route_name(route.as_str()), method: known_method(request.method()).to_owned() };
    app.service.metrics().requests.get_or_create(&labels).inc();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let response = next.run(request).await;
    let labels = Answered { endpoint: labels.route, method: labels.method };
    app.service.metrics().durations.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
    debug!(%method, path, status = response.status().as_u16(), "request");
    response
}

/// A route as counters name it.
fn route_name(route: &str) -> String {
    route.replace('{', ":").replace('}', "")
}

/// The name of a method, unless somebody invented it.
fn known_method(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::DELETE | Method::PUT | Method::PATCH | Method::OPTIONS => {
            method.as_str()
        }
        _ => "other",
    }
}

/// An answer that is JSON already.
fn json_text(text: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], text.into()).into_response()
}

/// An answer to be made JSON.
fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => json_text(text),
        Err(error) => error::ApiError::internal(error.to_string()).into_response(),
    }
}

/// The parameters of a query, decoded, in order.
fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    let query = query.unwrap_or_default();
    let decode = |text: &str| percent_decode(&text.replace('+', " "));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = |digit: u8| (digit as char).to_digit(16);
        match (*first, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                let value = hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0);
                bytes.push(value as u8);
                rest = after;
            }
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
