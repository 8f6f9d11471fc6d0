//! Decisions from an API in another process.
//!
//! Our server sends events as they happen, and the feed resumes where it was. A foreign server is polled: it is
//! recognised by not knowing the route.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::{StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::{info, warn};

use model::{Decision, Delta};

use super::events::{Event, Parser, TooLarge};
use super::{ClientError, Endpoint, reason};
use crate::feed::{Feed, FeedError, Update};
use crate::wire::{Changes, EventDecision, Reset, StreamBody, event};

/// How long a stream may be silent: our server says something every fifteen seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// How long the head of an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a polled answer may take.
const POLL_ANSWER: Duration = Duration::from_mins(1);
/// First and longest pause before the next attempt.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));
/// Up to this difference two clocks count as the same, so that ends do not jitter.
const SAME_CLOCK: SignedDuration = SignedDuration::from_secs(5);
/// How often a foreign server is asked for everything: it does not tell of shorter decisions that come to light
/// when a longer one is lifted.
const FULL_EVERY: Duration = Duration::from_mins(15);
/// Most decisions in a snapshot.
const MAX_DECISIONS: usize = 5_000_000;
/// Longest polled answer in bytes.
const MAX_ANSWER: usize = 1 << 30;
/// Who we say we are.
const AGENT: &str = concat!("cordon-bouncer/", env!("CARGO_PKG_VERSION"));

/// How a foreign server is polled.
#[derive(Clone, Debug)]
pub struct PollOptions {
    /// How often.
    pub every: Duration,
    /// For which scopes; servers give only addresses unless they are asked for more.
    pub scopes: String,
}

impl Default for PollOptions {
    fn default() -> Self {
        Self { every: Duration::from_secs(10), scopes: "Ip,Range,Country,AS,identity,session".into() }
    }
}

/// A feed over HTTP.
pub struct SseFeed {
    http: reqwest::Client,
    endpoint: Endpoint,
    key: Option<SecretString>,
    poll: PollOptions,
    source: Source,
    /// The last place in the sequence that was reached.
    cursor: Option<String>,
    pause: Duration,
    retry_at: Option<Instant>,
}

enum Source {
    /// Not connected.
    Idle,
    Events(Box<Events>),
    Polling {
        next: Instant,
        full: Instant,
    },
}

struct Events {
    body: reqwest::Response,
    parser: Parser,
    shift: SignedDuration,
    snapshot: Option<Vec<Decision>>,
}

impl std::fmt::Debug for SseFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SseFeed")
            .field("endpoint", &self.endpoint)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl SseFeed {
    /// A feed that has not yet connected. This host's administrator needs no key on the socket.
    pub fn new(endpoint: Endpoint, key: Option<SecretString>, poll: PollOptions) -> Result<Self, ClientError> {
        let http = endpoint.http(AGENT)?;
        let source = Source::Idle;
        Ok(Self { http, endpoint, key, poll, source, cursor: None, pause: PAUSE.0, retry_at: None })
    }

    /// Opens the stream of events, or finds out that the server has none.
    async fn connect(&mut self) -> Result<(), FeedError> {
        if matches!(self.endpoint, Endpoint::Secure(..)) {
            // certificates are renewed while we run
            match self.endpoint.http(AGENT) {
                Ok(http) => self.http = http,
                Err(error) => warn!(%error, "cannot read the certificates again"),
            }
        }
        let mut request = self.request("v1/decisions/events").header(header::ACCEPT, "text/event-stream");
        if let Some(cursor) = &self.cursor {
            request = request.header("last-event-id", cursor);
        }
        let answer = match tokio::time::timeout(ANSWER, request.send()).await {
            Err(_) => return Err(self.unreachable("timed out")),
            Ok(Err(error)) => return Err(self.unreachable(&reason(&error))),
            Ok(Ok(answer)) => answer,
        };
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let has_events = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
        match answer.status() {
            StatusCode::OK if has_events => {
                let (parser, shift, snapshot) = (Parser::default(), SignedDuration::ZERO, None);
                self.source = Source::Events(Box::new(Events { body: answer, parser, shift, snapshot }));
                Ok(())
            }
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                info!(url = %self.endpoint, every = ?self.poll.every, "the api has no event stream and is polled");
                self.source = Source::Polling { next: Instant::now(), full: Instant::now() };
                Ok(())
            }
            status => Err(self.refused(status)),
        }
    }

    async fn poll(&mut self, full: bool) -> Result<Update, FeedError> {
        let scopes = super::query(&[("scopes", &self.poll.scopes), ("startup", if full { "true" } else { "false" })]);
        let request = self.request(&format!("v1/decisions/stream{scopes}")).timeout(POLL_ANSWER);
        let answer = request.send().await.map_err(|error| self.unreachable(&reason(&error)))?;
        if !answer.status().is_success() {
            return Err(self.refused(answer.status()));
        }
        let body = self.endpoint.body(answer, MAX_ANSWER).await.map_err(|error| match error {
            ClientError::Garbled { reason, .. } => self.garbled(&reason),
            other => self.unreachable(&other.to_string()),
        })?;
        let body: StreamBody = serde_json::from_slice(&body).map_err(|error| self.garbled(&error.to_string()))?;
        let now = Timestamp::now();
        let read = |list: Option<Vec<crate::wire::LiveDecision>>| {
            list.unwrap_or_default().into_iter().map(|live| live.read(now)).collect::<Vec<_>>()
        };
        let (add, remove) = (read(body.new), read(body.deleted));
        Ok(if full { Update::Snapshot(add) } else { Update::Delta(Delta { add, remove }) })
    }

    fn request(&self, route: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(self.endpoint.route(route));
        match &self.key {
            Some(key) => request.header("x-api-key", key.expose_secret()),
            None => request,
        }
    }

    fn refused(&self, status: StatusCode) -> FeedError {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FeedError::Refused { url: self.endpoint.to_string() },
            status => self.unreachable(&format!("it answers {status}")),
        }
    }

    fn unreachable(&self, reason: &str) -> FeedError {
        FeedError::Unreachable { url: self.endpoint.to_string(), reason: reason.into() }
    }

    fn garbled(&self, reason: &str) -> FeedError {
        FeedError::Garbled { url: self.endpoint.to_string(), reason: reason.into() }
    }

    /// Notes a failure: the connection is given up, and the next attempt waits.
    fn fail(&mut self, error: FeedError) -> FeedError {
        if let Source::Events(_) = self.source {
            self.source = Source::Idle;
        }
        // Anything between half and all of the pause, so that many readers do not come back at once.
        let jitter = Timestamp::now().subsec_nanosecond().unsigned_abs() % 1000;
        self.retry_at = Some(Instant::now() + self.pause / 2 + self.pause / 2 * jitter / 1000);
        self.pause = (self.pause * 2).min(PAUSE.1);
        error
    }

    /// What an event means. Its place counts once it is understood.
    fn take(&mut self, event: Event) -> Result<Option<Update>, FeedError> {
        let Source::Events(events) = &mut self.source else { return Ok(None) };
        let update = match events.take(&event) {
            Ok(update) => update,
            Err(reason) => return Err(self.garbled(&reason)),
        };
        if let Some(id) = event.id {
            self.cursor = Some(id);
            self.pause = PAUSE.0;
        }
        Ok(update)
    }
}

impl Events {
    fn take(&mut self, event: &Event) -> Result<Option<Update>, String> {
        fn read<T: serde::de::DeserializeOwned>(event: &Event) -> Result<T, String> {
            serde_json::from_str(&event.data).map_err(|error| format!("event `{}`: {error}", event.name))
        }
        match event.name.as_str() {
            event::RESET => {
                self.shift = shift(read::<Reset>(event)?.now);
                self.snapshot = Some(Vec::new());
                Ok(None)
            }
            event::DECISIONS => {
                let part: Vec<EventDecision> = read(event)?;
                let snapshot = self.snapshot.as_mut().ok_or("decisions without a beginning")?;
                if snapshot.len() + part.len() > MAX_DECISIONS {
                    return Err(format!("more than {MAX_DECISIONS} decisions"));
                }
                snapshot.extend(part.into_iter().map(|decision| decision.read(self.shift)));
                Ok(None)
            }
            event::READY => Ok(Some(Update::Snapshot(self.snapshot.take().ok_or("an end without a beginning")?))),
            event::DELTA => {
                let changes: Changes = read(event)?;
                self.shift = shift(changes.now);
                let moved = |list: Vec<EventDecision>| list.into_iter().map(|one| one.read(self.shift)).collect();
                Ok(Some(Update::Delta(Delta { add: moved(changes.new), remove: moved(changes.deleted) })))
            }
            // A newer server may say more than we know.
            _ => Ok(None),
        }
    }
}

/// From the server's clock to ours.
fn shift(server: Timestamp) -> SignedDuration {
    let shift = Timestamp::now().duration_since(server);
    if shift.abs() <= SAME_CLOCK { SignedDuration::ZERO } else { shift }
}

impl Feed for SseFeed {
    async fn next(&mut self) -> Result<Update, FeedError> {
        loop {
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            match &mut self.source {
                Source::Idle => {
                    if let Err(error) = self.connect().await {
                        return Err(self.fail(error));
                    }
                }
                Source::Events(events) => match events.parser.next() {
                    Ok(Some(event)) => match self.take(event) {
                        Ok(Some(update)) => return Ok(update),
                        Ok(None) => {}
                        Err(error) => return Err(self.fail(error)),
                    },
                    Ok(None) => {
                        let failure = match tokio::time::timeout(SILENCE, events.body.chunk()).await {
                            Ok(Ok(Some(bytes))) => {
                                events.parser.push(&bytes);
                                continue;
                            }
                            Ok(Ok(None)) => "the stream ended".into(),
                            Ok(Err(error)) => reason(&error),
                            Err(_) => "the stream fell silent".into(),
                        };
                        let error = self.unreachable(&failure);
                        warn!(url = %self.endpoint, reason = failure, "lost the event stream");
                        return Err(self.fail(error));
                    }
                    Err(TooLarge) => {
                        let error = self.garbled("an event is too large");
                        return Err(self.fail(error));
                    }
                },
                &mut Source::Polling { next, full } => {
                    tokio::time::sleep_until(next).await;
                    let everything = Instant::now() >= full;
                    // Whoever is dropped while a delta is on its way asks for everything next: the server will
                    // not send that delta again.
                    self.source = Source::Polling { next, full: next };
                    let update = match self.poll(everything).await {
                        Ok(update) => update,
                        Err(error) => return Err(self.fail(error)),
                    };
                    self.pause = PAUSE.0;
                    let now = Instant::now();
                    let full = if everything { now + FULL_EVERY } else { full };
                    self.source = Source::Polling { next: now + self.poll.every, full };
                    if update != Update::Delta(Delta::default()) {
                        return Ok(update);
                    }
                }
            }
        }
    }
}
