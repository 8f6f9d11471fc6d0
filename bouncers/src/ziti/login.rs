//! How a controller learns who we are: two kinds of session behind one trait.
//!
//! The older kind is one request that answers a token for the header `zt-session`. The newer kind is `OpenID Connect`
//! at the controller's own `/oidc`: a code flow without a browser that answers a bearer token and a way to renew it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use reqwest::header::LOCATION;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::api::{ApiError, EDGE, refused, text, unreachable};
use super::name::encode;
use super::wire::{Envelope, NewSession};

/// A bearer token is renewed this long before its end.
const EARLY: Duration = Duration::from_mins(1);
/// As whom a program asks at the controller's `/oidc`.
const CLIENT: &str = "openziti";
/// Where a browser would be sent; nobody listens there, the address is only read.
const CALLBACK: &str = "http://localhost:8080/auth/callback";
/// Redirections between a login and its code.
const HOPS: usize = 6;

/// By what we show who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The client certificate of the connection.
    Certificate,
    /// A user name, and the file with the password.
    Password {
        /// The name.
        username: String,
        /// The file.
        file: PathBuf,
    },
    /// The file with a token that another issuer signed.
    Token(PathBuf),
}

impl Proof {
    /// What the controller calls it.
    fn method(&self) -> &'static str {
        match self {
            Self::Certificate => "cert",
            Self::Password { .. } => "password",
            Self::Token(_) => "ext-jwt",
        }
    }
}

/// What later requests show.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The header `zt-session`.
    Session(SecretString),
    /// The header `Authorization`.
    Bearer {
        /// The token.
        access: SecretString,
        /// What it is renewed with.
        refresh: Option<SecretString>,
        /// When it must be renewed.
        renew: Instant,
    },
}

impl Credential {
    /// `request`, shown to be ours.
    pub fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Session(token) => request.header("zt-session", token.expose_secret()),
            Self::Bearer { access, .. } => request.bearer_auth(access.expose_secret()),
        }
    }

    /// Whether it should be renewed before it is used.
    pub fn is_old(&self) -> bool {
        matches!(self, Self::Bearer { renew, .. } if *renew <= Instant::now())
    }
}

/// What a login yields, some time.
pub type LoggedIn<'a> = Pin<Box<dyn Future<Output = Result<Credential, ApiError>> + Send + 'a>>;

/// A way to open a session.
pub trait Login: Send + Sync {
    /// Opens one at the controller at `base`; `last` is one that ends soon or has ended.
    fn log_in<'a>(&'a self, http: &'a Client, base: &'a str, last: Option<&'a Credential>) -> LoggedIn<'a>;
}

/// The older kind of session.
#[derive(Debug)]
pub struct SessionLogin(pub Proof);

impl Login for SessionLogin {
    fn log_in<'a>(&'a self, http: &'a Client, base: &'a str, _: Option<&'a Credential>) -> LoggedIn<'a> {
        Box::pin(async move {
            let method = self.0.method();
            let mut request = http.post(format!("{base}{EDGE}/authenticate?method={method}"));
            request = match &self.0 {
                Proof::Certificate => request.json(&json!({})),
                Proof::Password { username, file } => {
                    let password = secret(file)?;
                    request.json(&json!({ "username": username, "password": password.expose_secret() }))
                }
                Proof::Token(file) => request.bearer_auth(secret(file)?.expose_secret()).json(&json!({})),
            };
            let answer = request.send().await.map_err(|error| unreachable(base, &error))?;
            let body = good(base, answer).await?;
            let session: Envelope<NewSession> = serde_json::from_slice(&body)
                .map_err(|_| ApiError::garbled(base, "the login was answered with something else than a session"))?;
            if !session.data.auth_queries.is_empty() {
                return Err(ApiError::SecondFactor);
            }
            Ok(Credential::Session(session.data.token.into()))
        })
    }
}

/// `OpenID Connect` at the controller.
#[derive(Debug)]
pub struct OidcLogin(pub Proof);

#[derive(Deserialize)]
struct Discovery {
    authorization_endpoint: String,
    token_endpoint: String,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

impl Login for OidcLogin {
    fn log_in<'a>(&'a self, http: &'a Client, base: &'a str, last: Option<&'a Credential>) -> LoggedIn<'a> {
        Box::pin(async move {
            let discovery = http.get(format!("{base}/oidc/.well-known/openid-configuration"));
            let answer = discovery.send().await.map_err(|error| unreachable(base, &error))?;
            let found: Discovery = serde_json::from_slice(&good(base, answer).await?)
                .map_err(|_| ApiError::garbled(base, "`/oidc` does not describe itself"))?;
            // Only the paths are taken: the host is the one that was asked, whatever name it gives itself.
            let authorize = path_of(&found.authorization_endpoint);
            let token = format!("{base}{}", path_of(&found.token_endpoint));
            if let Some(Credential::Bearer { refresh: Some(refresh), .. }) = last {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT),
                    ("refresh_token", refresh.expose_secret()),
                ];
                match tokens(http, base, &token, &form).await {
                    Err(ApiError::Unauthorised { .. } | ApiError::Refused { .. }) => {}
                    other => return other,
                }
            }
            let verifier = random();
            let state = random();
            let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
            let query = form(&[
                ("client_id", CLIENT),
                ("response_type", "code"),
                ("scope", "openid offline_access"),
                ("redirect_uri", CALLBACK),
                ("state", &state),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ]);
            let answer = http.get(format!("{base}{authorize}?{query}")).send().await;
            let answer = answer.map_err(|error| unreachable(base, &error))?;
            let request = request_id(&answer)
                .ok_or_else(|| ApiError::garbled(base, "`/oidc` did not begin a login: its answer names no request"))?;
            let code = self.show(http, base, &request, &state).await?;
            let form = [
                ("grant_type", "authorization_code"),
                ("client_id", CLIENT),
                ("code", &code),
                ("redirect_uri", CALLBACK),
                ("code_verifier", &verifier),
            ];
            tokens(http, base, &token, &form).await
        })
    }
}

impl OidcLogin {
    /// Shows who we are and follows the way back to the code.
    async fn show(&self, http: &Client, base: &str, request: &str, state: &str) -> Result<String, ApiError> {
        let method = self.0.method();
        let url = format!("{base}/oidc/login/{method}?id={}", encode(request));
        let post = http.post(url).header("content-type", "application/x-www-form-urlencoded");
        let post = match &self.0 {
            Proof::Certificate => post.body(form(&[("id", request)])),
            Proof::Password { username, file } => {
                let password = secret(file)?;
                post.body(form(&[("id", request), ("username", username), ("password", password.expose_secret())]))
            }
            Proof::Token(file) => post.bearer_auth(secret(file)?.expose_secret()).body(form(&[("id", request)])),
        };
        let mut answer = post.send().await.map_err(|error| unreachable(base, &error))?;
        for _ in 0..HOPS {
            if !answer.status().is_redirection() {
                let status = answer.status();
                let body = text(base, answer).await?;
                return Err(match status {
                    StatusCode::OK => ApiError::SecondFactor,
                    status => refused(base, status, None, &body),
                });
            }
            let location = location(&answer).ok_or_else(|| ApiError::garbled(base, "a redirection to nowhere"))?;
            if let Some(query) = location.strip_prefix(CALLBACK) {
                if parameter(query, "state").as_deref() != Some(state) {
                    return Err(ApiError::garbled(base, "the login came back with another state"));
                }
                return parameter(query, "code").ok_or_else(|| ApiError::Unauthorised {
                    url: base.to_owned(),
                    reason: "the login came back without a code".to_owned(),
                });
            }
            let next = format!("{base}{}", path_of(&location));
            answer = http.get(next).send().await.map_err(|error| unreachable(base, &error))?;
        }
        Err(ApiError::garbled(base, "the login goes in circles"))
    }
}

async fn tokens(http: &Client, base: &str, url: &str, fields: &[(&str, &str)]) -> Result<Credential, ApiError> {
    let request = http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form(fields));
    let answer = request.send().await.map_err(|error| unreachable(base, &error))?;
    let tokens: Tokens = serde_json::from_slice(&good(base, answer).await?)
        .map_err(|_| ApiError::garbled(base, "`/oidc` answered something else than a token"))?;
    let life = Duration::from_secs(tokens.expires_in.unwrap_or(300));
    Ok(Credential::Bearer {
        access: tokens.access_token.into(),
        refresh: tokens.refresh_token.map(SecretString::from),
        renew: Instant::now() + life.saturating_sub(EARLY),
    })
}

/// The body of an answer that is no refusal.
async fn good(base: &str, answer: Response) -> Result<Vec<u8>, ApiError> {
    let status = answer.status();
    let after = super::api::retry_after(&answer);
    let body = text(base, answer).await?;
    if status.is_success() { Ok(body) } else { Err(refused(base, status, after, &body)) }
}

/// Read at each login: whoever renews a secret need not restart us.
fn secret(path: &PathBuf) -> Result<SecretString, ApiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned().into()),
        Err(source) => Err(ApiError::Secret { path: path.clone(), source }),
    }
}

fn random() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    pairs.join("&")
}

/// Path and query of a URL, or of what is only a path.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if rest.starts_with('/') { rest } else { rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/") }
}

fn location(answer: &Response) -> Option<String> {
    answer.headers().get(LOCATION)?.to_str().ok().map(str::to_owned)
}

/// The name of a login that has begun, from its own header or from where it sends us.
fn request_id(answer: &Response) -> Option<String> {
    if let Some(id) = answer.headers().get("auth-request-id") {
        return id.to_str().ok().map(str::to_owned);
    }
    let location = location(answer)?;
    ["authRequestID", "authRequestId", "id"].iter().find_map(|key| parameter(&location, key))
}

/// The value of `key` in the query of `url`.
fn parameter(url: &str, key: &str) -> Option<String> {
    let query = url.split_once('?')?.1.split('#').next()?;
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == key)?;
    decode(value)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        // (url, path)
        let paths = [
            ("https://other.example.org:1280/oidc/authorize", "/oidc/authorize"),
            ("/oidc/login/cert?x=1", "/oidc/login/cert?x=1"),
            ("https://other.example.org", "/"),
        ];
        for (url, path) in paths {
            assert_eq!(path_of(url), path, "{url}");
        }
        // (url, value of `code`)
        let values = [
            ("http://localhost/x?state=1&code=a%2Fb+c", Some("a/b c")),
            ("http://localhost/x?code=%2", None),
            ("http://localhost/x?decode=1", None),
            ("http://localhost/x", None),
        ];
        for (url, value) in values {
            assert_eq!(parameter(url, "code").as_deref(), value, "{url}");
        }
    }
}
