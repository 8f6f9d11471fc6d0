//! Webhooks as they stand in the file, read loosely and checked once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};
use serde_saphyr::Spanned;

use super::batch::{Batch, additions};
use super::template::{Escape, Template};
use crate::config::{Fault, choose, limit};
use crate::engine::desired::{Key, Subject};
use crate::engine::plan::Placed;

/// A webhook, checked.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Where batches go.
    #[serde(serialize_with = "as_text")]
    pub url: Url,
    /// With what they are signed.
    #[serde(skip)]
    pub secret: SecretString,
    /// The whole value of the header `Authorization`, if there is to be one.
    #[serde(skip)]
    pub authorization: Option<SecretString>,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// Whose certificates count; `None` for those of the system.
    pub authority: Option<PathBuf>,
    /// Our certificate and its key in one PEM file, if one is asked for.
    pub identity: Option<PathBuf>,
    /// How bodies are written; `None` for our own form.
    #[serde(skip)]
    pub template: Option<Template>,
    /// What they are, as HTTP names it.
    pub content_type: String,
    /// Most changes in one batch.
    pub batch: usize,
    /// The scopes that are sent beside addresses; empty sends all.
    pub scopes: Vec<String>,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret;
        let open = |config: &Self| {
            let authorization = config.authorization.as_ref().map(|text| text.expose_secret().to_owned());
            (config.secret.expose_secret().to_owned(), authorization)
        };
        let rest = |config: &Self| {
            let Self { url, headers, authority, identity, content_type, batch, scopes, template, .. } = config.clone();
            (url, headers, authority, identity, content_type, batch, scopes, template)
        };
        open(self) == open(other) && rest(self) == rest(other)
    }
}

fn as_text<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(url)
}

/// The section as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    url: Spanned<String>,
    allow_plaintext: Option<bool>,
    secret_file: Spanned<PathBuf>,
    authorization_file: Option<Spanned<PathBuf>>,
    headers: Option<BTreeMap<String, Spanned<String>>>,
    ca: Option<PathBuf>,
    identity: Option<PathBuf>,
    template: Option<Spanned<PathBuf>>,
    escape: Option<Spanned<String>>,
    content_type: Option<String>,
    batch: Option<Spanned<i64>>,
    scopes: Option<Vec<String>>,
}

/// Fewest characters of a secret.
const SECRET: usize = 16;

impl RawConfig {
    /// The checked section, or everything that is wrong with it.
    pub fn check(self) -> Result<Config, Vec<Fault>> {
        let mut faults = Vec::new();
        let url = address(&self.url, self.allow_plaintext.unwrap_or(false), &mut faults);
        let secret = read(&self.secret_file, &mut faults).unwrap_or_default();
        if secret.len() < SECRET && faults.is_empty() {
            let message =
                format!("the secret is shorter than {SECRET} characters\nhint: `openssl rand -hex 32` makes one");
            faults.push(Fault { line: self.secret_file.referenced.line(), message });
        }
        let authorization = self.authorization_file.and_then(|path| read(&path, &mut faults)).map(SecretString::from);
        let mut headers = BTreeMap::new();
        for (name, value) in self.headers.into_iter().flatten() {
            let line = value.referenced.line();
            let good = name.parse::<reqwest::header::HeaderName>().is_ok()
                && value.value.parse::<reqwest::header::HeaderValue>().is_ok();
            if !good {
                faults.push(Fault { line, message: format!("`{name}: {}` is no header", value.value) });
            }
            headers.insert(name, value.value);
        }
        let mut escape = Escape::Json;
        choose(self.escape, "escape", &[("json", Escape::Json), ("url", Escape::Url)], &mut escape, &mut faults);
        let template = self.template.and_then(|path| {
            let text = read(&path, &mut faults)?;
            let mut fault = |message| faults.push(Fault { line: path.referenced.line(), message });
            let template = Template::parse(&text, escape).map_err(|error| fault(error.to_string())).ok()?;
            if escape == Escape::Json {
                for batch in [sample(0), sample(1), sample(3)] {
                    if let Err(error) = serde_json::from_str::<serde_json::Value>(&template.render(&batch)) {
                        let changes = batch.changes.len();
                        fault(format!("the template makes no JSON of a batch of {changes} changes: {error}"));
                    }
                }
            }
            Some(template)
        });
        let mut batch = 1000;
        limit(self.batch, "batch", 1..=10_000, &mut batch, &mut faults);
        let content_type = self.content_type.unwrap_or_else(|| match escape {
            Escape::Json => "application/json".to_owned(),
            Escape::Url => "application/x-www-form-urlencoded".to_owned(),
        });
        match url {
            Some(url) if faults.is_empty() => Ok(Config {
                url,
                secret: secret.into(),
                authorization,
                headers,
                authority: self.ca,
                identity: self.identity,
                template,
                content_type,
                batch,
                scopes: self.scopes.unwrap_or_default(),
            }),
            _ => Err(faults),
        }
    }
}

/// Where batches go. Others must not read on the way whom we know.
fn address(url: &Spanned<String>, plaintext: bool, faults: &mut Vec<Fault>) -> Option<Url> {
    let line = url.referenced.line();
    let message = match Url::parse(&url.value) {
        Ok(parsed) => {
            let local = parsed.host_str().is_some_and(|host| {
                let host = host.trim_matches(['[', ']']);
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            });
            match parsed.scheme() {
                _ if !parsed.username().is_empty() || parsed.password().is_some() => {
                    "an address with a password would be shown in logs, expected `authorization_file`".to_owned()
                }
                "https" => return Some(parsed),
                "http" if local || plaintext => return Some(parsed),
                "http" => format!(
                    "`{}` can be read on the way, expected `https://`\nhint: set `allow_plaintext: true` if the network is trusted",
                    url.value
                ),
                _ => format!("`{}` is no address of a web server, expected `https://...`", url.value),
            }
        }
        Err(error) => format!("`{}` is no address: {error}", url.value),
    };
    faults.push(Fault { line, message });
    None
}

fn read(path: &Spanned<PathBuf>, faults: &mut Vec<Fault>) -> Option<String> {
    match std::fs::read_to_string(&path.value) {
        Ok(text) => Some(text.trim_end().to_owned()),
        Err(error) => {
            let message = format!("cannot read `{}`: {error}", path.value.display());
            faults.push(Fault { line: path.referenced.line(), message });
            None
        }
    }
}

/// A batch with `changes` changes, one of them with a name that templates must not stumble over.
fn sample(changes: usize) -> Batch {
    let placed = Placed { until: Timestamp::UNIX_EPOCH + Duration::from_hours(1), pieces: None };
    let scope = model::Scope::new("identity");
    let keys = ["a", "\"}\\", "c"]
        .map(|name| Key { remediation: "ban".into(), subject: Subject::Named(scope.clone(), name.into()) });
    let changes = keys.iter().rev().take(changes).flat_map(|key| additions(key, &placed, None)).collect();
    Batch::new("00000000-0000-4000-8000-000000000000".to_owned(), 1, changes)
}
