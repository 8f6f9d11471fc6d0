//! Webhooks: changes as signed requests to somebody else's program.
//!
//! One batch is under way at a time, and the same batch is sent again until it is answered: what arrives is in order and
//! at least once. Where that fails for good, the engine begins anew with everything that holds.

pub mod batch;
pub mod config;
pub mod sign;
pub mod template;

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tracing::{debug, warn};

use self::batch::{Batch, Change};
use self::config::Config;
use crate::engine::desired::Key;
use crate::error::BouncerError;
use crate::told::{Listener, Sequence};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a batch may take, and a part of everything.
const ANSWER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
/// How often the same batch is sent before the engine hears of it, and the first pause between two attempts.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that a receiver may ask for between two attempts; who asks for more is left to the engine.
const WAIT: Duration = Duration::from_secs(5);
/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// A target that is told by requests.
#[derive(Debug)]
pub struct Webhook {
    name: String,
    config: Config,
    http: Client,
    sequence: Sequence,
}

/// Why a batch did not go through.
enum Failure {
    /// It may later.
    Passing(BouncerError),
    /// This batch never will.
    Refused(String),
}

#[derive(Debug, Default, Deserialize)]
struct Answered {
    #[serde(default)]
    resync: bool,
}

impl Webhook {
    /// A target called `name`. Nothing is sent yet.
    pub fn open(name: &str, config: Config) -> Result<Self, BouncerError> {
        let http = client(&config).map_err(|reason| BouncerError::Setup(format!("`{name}`: {reason}")))?;
        Ok(Self { name: name.to_owned(), config, http, sequence: Sequence::default() })
    }

    /// Sends `batch` until it is answered or there is no use in going on.
    async fn deliver(&self, batch: &Batch) -> Result<(), Failure> {
        let body = match &self.config.template {
            Some(template) => template.render(batch),
            None => serde_json::to_string(batch).expect("texts, numbers and times are JSON"),
        };
        let mut attempt = 1;
        loop {
            let failure = match self.send(batch, body.clone()).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let wait = match &failure {
                Failure::Passing(BouncerError::Unreachable { retry_after, .. }) => {
                    let jitter = rand::random_range(0.5..1.0);
                    retry_after.unwrap_or_else(|| PAUSE.saturating_mul(1 << attempt).mul_f64(jitter))
                }
                _ => return Err(failure),
            };
            if attempt == ATTEMPTS || wait > WAIT {
                return Err(failure);
            }
            attempt += 1;
            debug!(target = self.name, batch = batch.batch, ?wait, "a batch is sent again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn send(&self, batch: &Batch, body: String) -> Result<(), Failure> {
        let signature = sign::signature(&self.config.secret, Timestamp::now(), body.as_bytes());
        let limit = if batch.full { ANSWER.1 } else { ANSWER.0 };
        let mut request = self.http.post(self.config.url.clone()).timeout(limit);
        for (name, value) in &self.config.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &self.config.authorization {
            request = request.header(AUTHORIZATION, authorization.expose_secret());
        }
        request = request
            .header(CONTENT_TYPE, &self.config.content_type)
            .header(sign::HEADER, signature)
            .header("idempotency-key", &batch.batch)
            .body(body);
        let passing = |reason: String, after| Failure::Passing(BouncerError::busy(&self.name, reason, after));
        let mut answer = request.send().await.map_err(|error| passing(told(&error), None))?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
        let after = after.map(Duration::from_secs);
        let mut text = Vec::new();
        while let Ok(Some(piece)) = answer.chunk().await {
            text.extend_from_slice(&piece);
            if text.len() > MAX_ANSWER {
                text.truncate(MAX_ANSWER);
                break;
            }
        }
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::CONFLICT | StatusCode::GONE if resync(&text) => {
                Err(Failure::Passing(BouncerError::busy(&self.name, "it asks for everything", Some(Duration::ZERO))))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Passing(BouncerError::unauthorised(&self.name, status.to_string())))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(passing(status.to_string(), after))
            }
            status if status.is_server_error() || status.is_redirection() => Err(passing(status.to_string(), after)),
            status => {
                let said: String =
                    String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control()).take(200).collect();
                Err(Failure::Refused(format!("{status} {said}").trim_end().to_owned()))
            }
        }
    }
}

impl Listener for Webhook {
    const NAME: &'static str = "webhook";

    fn scopes(&self) -> &[String] {
        &self.config.scopes
    }

    fn batch_size(&self) -> usize {
        self.config.batch
    }

    fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Sends `changes` in batches. A batch that is refused is halved until what it is refused for stands alone.
    async fn tell(&mut self, changes: Vec<Change>) -> Result<Vec<(Key, String)>, BouncerError> {
        let mut refused = Vec::new();
        let mut waiting: Vec<Vec<Change>> = changes.chunks(self.config.batch).rev().map(<[Change]>::to_vec).collect();
        while let Some(changes) = waiting.pop() {
            let mut batch = self.sequence.batch(changes);
            match self.deliver(&batch).await {
                Ok(()) => {}
                Err(Failure::Passing(error)) => return Err(error),
                Err(Failure::Refused(reason)) => match batch.changes.len() {
                    0 => {}
                    1 => refused.extend(batch.changes.pop().map(|change| (change.key, reason))),
                    many => {
                        let second = batch.changes.split_off(many / 2);
                        waiting.extend([second, batch.changes]);
                    }
                },
            }
        }
        for (key, reason) in &refused {
            warn!(target = self.name, entry = %key, reason, "a receiver refused an entry");
        }
        Ok(refused)
    }

    /// Sends one part of everything that holds.
    async fn tell_part(&mut self, part: &Batch) -> Result<(), BouncerError> {
        self.deliver(part).await.map_err(|failure| match failure {
            Failure::Passing(error) => error,
            Failure::Refused(reason) => BouncerError::unusable(&self.name, reason),
        })
    }
}

fn resync(text: &[u8]) -> bool {
    serde_json::from_slice::<Answered>(text).is_ok_and(|answered| answered.resync)
}

/// What went wrong, without the address: it may hold what nobody should read.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn client(config: &Config) -> Result<Client, String> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
    };
    let mut builder = Client::builder()
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("cordon/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &config.authority {
        let all = reqwest::Certificate::from_pem_bundle(&read(path)?);
        let all = all.map_err(|error| format!("`{}` holds no certificate: {error}", path.display()))?;
        builder = builder.tls_certs_only(all);
    }
    if let Some(path) = &config.identity {
        let identity = reqwest::Identity::from_pem(&read(path)?);
        let identity =
            identity.map_err(|error| format!("`{}` holds no certificate and key: {error}", path.display()))?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
