//! Requests to a target elsewhere: bounded in time and size, and sorted by what an answer means for the next try.
//!
//! What may pass (no connection, 408, 425, 429, 5xx) and refused credentials (401, 403) are errors; every other answer
//! is for whoever asked. Nothing is followed, nothing is retried here: the engine is patient for all.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use crate::config::Fault;
use crate::error::BouncerError;

/// How long a connection may take.
pub const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take.
pub const TOTAL: Duration = Duration::from_secs(10);
/// How long an answer to a request about everything may take.
pub const WHOLE: Duration = Duration::from_secs(30);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// As much of an answer is shown in an error.
const SHOWN: usize = 200;
const AGENT: &str = concat!("cordon/", env!("CARGO_PKG_VERSION"));

/// Where a target is, and how it is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Addresses, without a slash at the end. When one does not answer, the next is asked.
    pub urls: Vec<String>,
    /// Certificates from which the target's own must come, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// The same as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEndpoint {
    /// One address, or several.
    pub url: Option<Spanned<String>>,
    /// Several.
    pub urls: Option<Vec<Spanned<String>>>,
    /// Certificates of the authority.
    pub ca: Option<PathBuf>,
}

impl RawEndpoint {
    /// The checked place. `line` is where the section begins.
    pub fn check(self, line: u64, faults: &mut Vec<Fault>) -> Endpoint {
        let mut urls = Vec::new();
        for found in self.url.into_iter().chain(self.urls.unwrap_or_default()) {
            match check_url(&found.value) {
                Ok(url) => urls.push(url),
                Err(message) => faults.push(Fault { line: found.referenced.line(), message }),
            }
        }
        if urls.is_empty() && faults.is_empty() {
            faults.push(Fault { line, message: "expected `url`, like `https://192.0.2.1`".to_owned() });
        }
        Endpoint { urls, ca: self.ca }
    }
}

/// The address in its one spelling. Without TLS only this host itself is spoken to: credentials are in every request.
pub fn check_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|_| format!("`{text}` is no address, expected one like `https://192.0.2.1`"))?;
    let host = url.host_str().unwrap_or_default();
    let local = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("an address with credentials in it ends up in logs, expected them in a file of their own".to_owned())
        }
        "https" => Ok(text.trim_end_matches('/').to_owned()),
        "http" if local => Ok(text.trim_end_matches('/').to_owned()),
        "http" => Err(format!("`{text}` would send credentials in the clear, expected `https://`")),
        scheme => Err(format!("`{scheme}` is no scheme for a target, expected `https`")),
    }
}

/// What a target has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    target: String,
    /// The HTTP status, never one of those that are errors by themselves.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the target has done what was asked.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, BouncerError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            BouncerError::unreachable(&self.target, format!("it answers something unexpected: {error}"))
        })
    }

    /// The same if the target has done what was asked, else what it says instead.
    pub fn expect<T: DeserializeOwned>(&self) -> Result<T, BouncerError> {
        if self.is_success() { self.json() } else { Err(BouncerError::unusable(&self.target, self.says())) }
    }

    /// Status and body for people, shortened.
    pub fn says(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let text: String = text.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        format!("{} {text}", self.status)
    }
}

/// A request that is not yet sent.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    /// Path and query, which begin with a slash.
    path: String,
    content: Option<(&'static str, Vec<u8>)>,
    headers: HeaderMap,
    patience: Duration,
}

impl Call {
    /// A request for `path`, which begins with a slash and carries its query.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), content: None, headers: HeaderMap::new(), patience: TOTAL }
    }

    /// `GET`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// The same with a body of JSON.
    #[must_use]
    pub fn json(self, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("plain data into memory");
        Self { content: Some(("application/json", body)), ..self }
    }

    /// The same with the body of a form.
    #[must_use]
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        Self { content: Some(("application/x-www-form-urlencoded", fields.join("&").into_bytes())), ..self }
    }

    /// The same with any body.
    #[must_use]
    pub fn body(self, kind: &'static str, body: Vec<u8>) -> Self {
        Self { content: Some((kind, body)), ..self }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same, for an answer that may take as long as `patience`.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// `text` as one part of a path or a query.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // writing to a String cannot fail
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Connections to one target.
pub struct Http {
    target: String,
    urls: Vec<String>,
    /// Which address answered last.
    at: usize,
    client: reqwest::Client,
    headers: HeaderMap,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("target", &self.target).field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl Http {
    /// Gets ready to ask `endpoint`; nothing is sent yet. `target` is its name in errors.
    pub fn open(target: &str, endpoint: &Endpoint) -> Result<Self, BouncerError> {
        Self::with_identity(target, endpoint, None)
    }

    /// The same, showing a certificate: PEM text with the certificate and its key.
    pub fn with_identity(target: &str, endpoint: &Endpoint, pem: Option<&[u8]>) -> Result<Self, BouncerError> {
        let unusable = |what: &str, error: &dyn fmt::Display| {
            BouncerError::Setup(format!("cannot use {what} of `{target}`: {error}"))
        };
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .user_agent(AGENT);
        if let Some(path) = &endpoint.ca {
            let what = format!("the certificates in `{}`", path.display());
            let pem = std::fs::read(path).map_err(|error| unusable(&what, &error))?;
            let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&what, &error))?;
            builder = builder.tls_certs_only(all);
        }
        if let Some(pem) = pem {
            let identity = reqwest::Identity::from_pem(pem)
                // the text of the error may quote what it read
                .map_err(|_| unusable("the certificate", &"expected PEM with a certificate and its key"))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|error| unusable("the connection", &error))?;
        Ok(Self { target: target.to_owned(), urls: endpoint.urls.clone(), at: 0, client, headers: HeaderMap::new() })
    }

    /// Sends `value` with every request, and shows it nowhere.
    pub fn set_secret(&mut self, name: HeaderName, value: &str) -> Result<(), BouncerError> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            BouncerError::Setup(format!("the secret of `{}` has characters that no header takes", self.target))
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(())
    }

    /// The address that is asked now.
    pub fn url(&self) -> &str {
        self.urls.get(self.at).map_or("", String::as_str)
    }

    /// Sends `call` and reads the answer. After a failed connection the next call goes to the next address.
    pub async fn send(&mut self, call: Call) -> Result<Answer, BouncerError> {
        let outcome = self.try_send(call).await;
        if matches!(outcome, Err(BouncerError::Unreachable { retry_after: None, .. })) && !self.urls.is_empty() {
            self.at = (self.at + 1) % self.urls.len();
        }
        outcome
    }

    async fn try_send(&self, call: Call) -> Result<Answer, BouncerError> {
        let failed = |error: &reqwest::Error| BouncerError::unreachable(&self.target, reason(error));
        let url = format!("{}{}", self.url(), call.path);
        let mut request = self.client.request(call.method, url).timeout(call.patience).headers(self.headers.clone());
        request = request.headers(call.headers);
        if let Some((kind, body)) = call.content {
            request = request.header(reqwest::header::CONTENT_TYPE, kind).body(body);
        }
        let mut answer = request.send().await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers(), Timestamp::now());
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| failed(&error))? {
            if body.len() + part.len() > MAX_ANSWER {
                return Err(BouncerError::unusable(
                    &self.target,
                    format!("its answer is longer than {MAX_ANSWER} bytes"),
                ));
            }
            body.extend_from_slice(&part);
        }
        let answer = Answer { target: self.target.clone(), status: status.as_u16(), body };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(BouncerError::unauthorised(&self.target, answer.says()))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(BouncerError::busy(&self.target, answer.says(), retry_after))
            }
            status if status.is_server_error() => Err(BouncerError::busy(&self.target, answer.says(), retry_after)),
            status if status.is_redirection() => Err(BouncerError::unusable(
                &self.target,
                format!("it sends us elsewhere ({status}), expected its own address"),
            )),
            _ => Ok(answer),
        }
    }
}

/// How long the answer asks to be left alone: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// An error with what caused it, without the URL, which may carry what is not for logs.
fn reason(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    match text.as_str() {
        _ if error.is_timeout() => "timed out".to_owned(),
        "" => "the request failed".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_travel_in_the_clear() {
        // (address, what becomes of it)
        let cases = [
            ("https://192.0.2.1/", Ok("https://192.0.2.1")),
            ("https://fw.example:8443", Ok("https://fw.example:8443")),
            ("http://127.0.0.1:80", Ok("http://127.0.0.1:80")),
            ("http://[::1]:80/x/", Ok("http://[::1]:80/x")),
            ("http://192.0.2.1", Err("`http://192.0.2.1` would send credentials in the clear, expected `https://`")),
            ("ftp://192.0.2.1", Err("`ftp` is no scheme for a target, expected `https`")),
            (
                "https://a:b@192.0.2.1",
                Err("an address with credentials in it ends up in logs, expected them in a file of their own"),
            ),
            ("fw", Err("`fw` is no address, expected one like `https://192.0.2.1`")),
        ];
        for (text, expected) in cases {
            assert_eq!(check_url(text).as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn pauses_are_asked_for_in_seconds_or_by_date() {
        let now = Timestamp::from_second(784_111_760).expect("a small number of seconds");
        // (header, seconds)
        let cases = [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(17)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn parts_of_a_path_cannot_leave_it() {
        assert_eq!(encode("192.0.2.0/24"), "192.0.2.0%2F24");
        assert_eq!(encode("../x?y=z&ö"), "..%2Fx%3Fy%3Dz%26%C3%B6");
    }
}
