//! Talking to a local API: ours or any other of the field.

pub mod access;
mod events;
pub mod feed;

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Mutex;

use model::Alert;

use crate::wire::{self, Deleted, Message, TokenBody};

pub use access::{Access, ClientConfig};
pub use feed::SseFeed;
pub use reqwest::Method;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_mins(1);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 256 << 20;
/// Who we say we are.
const AGENT: &str = concat!("cordon/", env!("CARGO_PKG_VERSION"));
/// How often a request is repeated with a new token.
const LOGINS: usize = 2;
/// How often a request is repeated that the server was too busy for.
const PATIENCE: usize = 5;
/// How long before its end a token is renewed.
const RENEW: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);

/// Where an API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://127.0.0.1:8080/`, always with a slash at the end.
    Url(String),
    /// The same, with certificates of the site's own.
    Secure(String, Box<Transport>),
    /// A Unix socket.
    Socket(PathBuf),
}

/// By which certificates a server is recognised, and we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// The authority from which the server's certificate must come; without it those that the system trusts.
    pub authority: Option<PathBuf>,
    /// The certificate that we show, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Endpoint {
    /// A path that starts with a slash is a socket; a host without scheme is asked over HTTP.
    pub fn new(text: &str) -> Self {
        if text.starts_with('/') {
            return Self::Socket(text.into());
        }
        let scheme = if text.contains("://") { "" } else { "http://" };
        let slash = if text.ends_with('/') { "" } else { "/" };
        Self::Url(format!("{scheme}{text}{slash}"))
    }

    /// The same with certificates. A socket needs none.
    #[must_use]
    pub fn with(self, transport: Transport) -> Self {
        match self {
            Self::Url(base) | Self::Secure(base, _) if transport != Transport::default() => {
                Self::Secure(base, Box::new(transport))
            }
            other => other,
        }
    }

    /// The URL of `route`, which has no slash in front.
    pub(crate) fn route(&self, route: &str) -> String {
        match self {
            Self::Url(base) | Self::Secure(base, _) => format!("{base}{route}"),
            Self::Socket(_) => format!("http://localhost/{route}"),
        }
    }

    /// A connection pool to it.
    pub(crate) fn http(&self, agent: &str) -> Result<reqwest::Client, ClientError> {
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).user_agent(agent).tcp_nodelay(true);
        match self {
            Self::Url(_) => {}
            Self::Socket(path) => builder = builder.unix_socket(path.clone()),
            Self::Secure(_, transport) => builder = transport.apply(builder)?,
        }
        builder.build().map_err(|error| self.unreachable(&error))
    }

    /// The whole body of an answer, if it is not longer than `limit` bytes.
    async fn body(&self, mut answer: reqwest::Response, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + part.len() > limit {
                let reason = format!("the answer is longer than {limit} bytes");
                return Err(ClientError::Garbled { url: self.to_string(), reason });
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { url: self.to_string(), reason: reason(error) }
    }
}

impl Transport {
    fn apply(&self, mut builder: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, ClientError> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| ClientError::Certificate { path: path.clone(), reason: error.to_string() })
        };
        let wrong = |path: &PathBuf, error: &reqwest::Error| ClientError::Certificate {
            path: path.clone(),
            reason: reason(error),
        };
        if let Some(path) = &self.authority {
            let all = reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(|error| wrong(path, &error))?;
            builder = builder.tls_certs_only(all);
        }
        if let Some((certificate, key)) = &self.certificate {
            let mut both = read(certificate)?;
            both.push(b'\n');
            both.extend(read(key)?);
            let identity = reqwest::Identity::from_pem(&both).map_err(|error| wrong(certificate, &error))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(base) | Self::Secure(base, _) => f.write_str(base),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// An error with what caused it, without the URL, which may carry what is not for logs.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() {
        if error.is_timeout() { "timed out".into() } else { "the request failed".into() }
    } else {
        text
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// This host's administrator, through the socket.
    Local,
    /// A machine.
    Machine {
        /// Its name.
        login: String,
        /// Its password.
        password: SecretString,
    },
    /// A machine that shows the certificate of its endpoint.
    Certificate,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error("cannot reach the api at {url}: {reason}")]
    Unreachable {
        /// The server.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A certificate cannot be used.
    #[error("cannot use the certificate `{path}`: {reason}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The server said no.
    #[error("API error: {message}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The answer makes no sense.
    #[error("the api at {url} answered something unexpected: {reason}")]
    Garbled {
        /// The server.
        url: String,
        /// What was wrong with it.
        reason: String,
    },
}

/// A machine's connection to an API. It logs in by itself.
#[derive(Debug)]
pub struct Client {
    /// Made anew when nobody could be reached by certificates: they are renewed while we run.
    http: std::sync::Mutex<reqwest::Client>,
    endpoint: Endpoint,
    credentials: Credentials,
    scenarios: Vec<String>,
    token: Mutex<Option<(SecretString, Timestamp)>>,
}

impl Client {
    /// A client that has not yet connected.
    pub fn new(endpoint: Endpoint, credentials: Credentials) -> Result<Self, ClientError> {
        let http = endpoint.http(AGENT)?;
        let http = std::sync::Mutex::new(http);
        Ok(Self { http, endpoint, credentials, scenarios: Vec::new(), token: Mutex::new(None) })
    }

    /// The same, telling at login which scenarios run.
    #[must_use]
    pub fn with_scenarios(self, scenarios: Vec<String>) -> Self {
        Self { scenarios, ..self }
    }

    /// Logs in, whether there is a token or not.
    pub async fn log_in(&self) -> Result<(), ClientError> {
        *self.token.lock().await = None;
        self.token().await.map(|_| ())
    }

    /// Sends alerts; answers their numbers. Tried again while the server is busy; the same alerts may be sent
    /// again after an error, if they carry identities.
    pub async fn push(&self, alerts: &[Alert]) -> Result<Vec<i64>, ClientError> {
        let ids: Vec<String> = self.send(Method::POST, "v1/alerts", &[], Some(&alerts)).await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// The alerts that `filters` want, named as on the wire.
    pub async fn alerts(&self, filters: &[(&str, &str)]) -> Result<Vec<Alert>, ClientError> {
        let alerts: Option<Vec<Alert>> = self.send(Method::GET, "v1/alerts", filters, NOTHING).await?;
        Ok(alerts.unwrap_or_default())
    }

    /// Ends decisions; answers how many.
    pub async fn lift(&self, filters: &[(&str, &str)]) -> Result<u64, ClientError> {
        let deleted: Deleted = self.send(Method::DELETE, "v1/decisions", filters, NOTHING).await?;
        Ok(deleted.count.parse().unwrap_or(0))
    }

    /// Which of `targets` are allowed, and by what.
    pub async fn check_allowed(&self, targets: Vec<String>) -> Result<Vec<wire::CheckResult>, ClientError> {
        let body = wire::Targets { targets };
        let results: wire::CheckResults = self.send(Method::POST, "v1/allowlists/check", &[], Some(&body)).await?;
        Ok(results.results)
    }

    /// Says that the machine lives.
    pub async fn heartbeat(&self) -> Result<(), ClientError> {
        self.send(Method::GET, "v1/heartbeat", &[], NOTHING).await
    }

    /// Any other request: the route without a slash in front, filters, and a body to be sent as JSON. An empty
    /// answer reads as null.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        filters: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let url = format!("{}{}", self.endpoint.route(route), query(filters));
        let (mut logins, mut waits) = (0, 0);
        loop {
            let mut request = self.http().request(method.clone(), &url).timeout(ANSWER);
            if let Some(token) = self.token().await? {
                request = request.bearer_auth(token.expose_secret());
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = answer.status();
            match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if logins < LOGINS && self.has_token().await => {
                    logins += 1;
                    *self.token.lock().await = None;
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                    if waits < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_secs(7 + 2 * waits as u64)).await;
                    waits += 1;
                }
                _ => return self.read(answer).await,
            }
        }
    }

    async fn read<T: DeserializeOwned>(&self, answer: reqwest::Response) -> Result<T, ClientError> {
        let status = answer.status();
        let body = self.endpoint.body(answer, MAX_ANSWER).await?;
        if !status.is_success() {
            let message = match serde_json::from_slice::<Message>(&body) {
                Ok(message) => message.message,
                Err(_) => format!("http code {}, no response body", status.as_u16()),
            };
            return Err(ClientError::Api { status: status.as_u16(), message });
        }
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text)
            .map_err(|error| ClientError::Garbled { url: self.endpoint.to_string(), reason: error.to_string() })
    }

    /// The pool of connections; all clones are one.
    fn http(&self) -> reqwest::Client {
        self.http.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        if matches!(self.endpoint, Endpoint::Secure(..))
            && let Ok(http) = self.endpoint.http(AGENT)
        {
            *self.http.lock().unwrap_or_else(PoisonError::into_inner) = http;
        }
        self.endpoint.unreachable(error)
    }

    async fn has_token(&self) -> bool {
        self.token.lock().await.is_some()
    }

    /// A token that is good for a while; none for this host's administrator.
    async fn token(&self) -> Result<Option<SecretString>, ClientError> {
        let body = match &self.credentials {
            Credentials::Local => return Ok(None),
            Credentials::Machine { login, password } => {
                json!({ "machine_id": login, "password": password.expose_secret(), "scenarios": self.scenarios })
            }
            Credentials::Certificate => json!({ "scenarios": self.scenarios }),
        };
        let mut held = self.token.lock().await;
        if let Some((token, end)) = &*held
            && end.duration_since(Timestamp::now()) > RENEW
        {
            return Ok(Some(token.clone()));
        }
        let request = self.http().post(self.endpoint.route("v1/watchers/login")).timeout(ANSWER).json(&body);
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let body: TokenBody = self.read(answer).await?;
        let end = wire::parse_time(&body.expire).unwrap_or_else(Timestamp::now);
        let token = SecretString::from(body.token);
        *held = Some((token.clone(), end));
        Ok(Some(token))
    }
}

/// No body.
pub const NOTHING: Option<&()> = None;

fn query(filters: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in filters {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(byte.into());
            } else {
                // Writing to a String cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        let url = |text: &str| Endpoint::Url(text.into());
        // (text, endpoint, a route on it)
        let cases = [
            ("http://127.0.0.1:8080", url("http://127.0.0.1:8080/"), "http://127.0.0.1:8080/v1/x"),
            ("https://api.example/sub/", url("https://api.example/sub/"), "https://api.example/sub/v1/x"),
            ("localhost:8080", url("http://localhost:8080/"), "http://localhost:8080/v1/x"),
            ("/run/cordon/api.sock", Endpoint::Socket("/run/cordon/api.sock".into()), "http://localhost/v1/x"),
        ];
        for (text, endpoint, route) in cases {
            assert_eq!(Endpoint::new(text), endpoint);
            assert_eq!(endpoint.route("v1/x"), route);
        }
        assert_eq!(query(&[("range", "2001:db8::/32"), ("type", "ban")]), "?range=2001%3Adb8%3A%3A%2F32&type=ban");
    }
}
