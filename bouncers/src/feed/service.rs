//! Requests for feeds and their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::config::Feed;
use super::consumers::{Consumers, Denied, Metrics, Visit};
use super::query::{Format, Query};
use super::shelf::{Edition, Shelf, Taken};
use crate::serve::{Answer, Peer};

/// How long somebody waits for a body that is being written.
const PATIENCE: Duration = Duration::from_secs(20);
/// When to try again where nothing is known yet, in seconds.
const TRY_AGAIN: HeaderValue = HeaderValue::from_static("10");
/// Longest path that is noted.
const NOTED: usize = 200;

/// What all requests share.
#[derive(Debug)]
pub struct Service {
    feeds: BTreeMap<String, Feed>,
    /// Who may fetch.
    pub consumers: Consumers,
    /// Where bodies lie.
    pub shelf: Shelf,
    metrics: Metrics,
}

/// A request that is understood and allowed.
#[derive(Debug)]
struct Asked {
    consumer: String,
    feed: String,
    query: Query,
}

impl Service {
    /// A service for `feeds` from `shelf`.
    pub fn new(feeds: BTreeMap<String, Feed>, consumers: Consumers, shelf: Shelf, metrics: Metrics) -> Self {
        Self { feeds, consumers, shelf, metrics }
    }

    /// The answer to the request in `head` of `peer` at `now`.
    pub async fn answer(self: Arc<Self>, peer: Arc<Peer>, head: Parts, now: Timestamp) -> Answer {
        let asked = match self.understand(&peer, &head) {
            Ok(asked) => asked,
            Err(answer) => {
                if answer.status() != StatusCode::NOT_FOUND {
                    self.metrics.denied.inc();
                }
                return *answer;
            }
        };
        let Asked { consumer, feed, query } = asked;
        let format = query.format;
        let answer = if let Some(edition) = self.edition(&(feed.clone(), query), now).await {
            deliver(&edition, format, &head.headers)
        } else {
            let mut answer = told(StatusCode::SERVICE_UNAVAILABLE, "nothing is known yet");
            answer.headers_mut().insert(RETRY_AFTER, TRY_AGAIN);
            answer
        };
        let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        // without the token that may stand in the path
        let mut path = format!("/feed/{feed}.{}{query}", format.name());
        path.truncate(path.floor_char_boundary(NOTED));
        let status = answer.status().as_u16();
        self.consumers.note(&consumer, Visit { at: now, from: peer.address, path, status });
        answer
    }

    /// What is asked for by whom, or why not.
    fn understand(&self, peer: &Peer, head: &Parts) -> Result<Asked, Box<Answer>> {
        let refuse = |code, text: &str| Box::new(told(code, text));
        let missing = || refuse(StatusCode::NOT_FOUND, "there is no such feed");
        let path = head.uri.path().strip_prefix("/feed/").ok_or_else(missing)?;
        let (token, file) = path.rsplit_once('/').map_or((None, path), |(token, file)| (Some(token), file));
        if head.method != Method::GET && head.method != Method::HEAD {
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "feeds can be fetched, nothing else");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Err(answer);
        }
        let consumer = self.consumers.identify(peer, token, &head.headers).map_err(|denied| match denied {
            Denied::Unknown => {
                let mut answer = refuse(StatusCode::UNAUTHORIZED, "a token is needed");
                let schemes = HeaderValue::from_static("Basic realm=\"feeds\", Bearer");
                answer.headers_mut().insert(WWW_AUTHENTICATE, schemes);
                answer
            }
            Denied::Elsewhere => refuse(StatusCode::FORBIDDEN, "not from there"),
        })?;
        let (feed, format) = file.rsplit_once('.').ok_or_else(missing)?;
        let format = Format::named(format).ok_or_else(missing)?;
        let known = self.feeds.get(feed).filter(|_| self.consumers.may(&consumer, feed)).ok_or_else(missing)?;
        let own = known.query(format);
        let query = own.clone().parse(head.uri.query().unwrap_or_default());
        let query = query.map_err(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string()))?;
        let query = query.within(&own).map_err(|error| refuse(StatusCode::FORBIDDEN, &error.to_string()))?;
        Ok(Asked { consumer, feed: feed.to_owned(), query })
    }

    async fn edition(&self, title: &(String, Query), now: Timestamp) -> Option<Arc<Edition>> {
        match self.shelf.take(title, now)? {
            Taken::Ready(edition) => Some(edition),
            Taken::Wait(mut promise) => {
                let written = tokio::time::timeout(PATIENCE, promise.changed()).await;
                written.ok()?.ok()?;
                promise.borrow().clone()
            }
        }
    }
}

/// `edition`, or that it has not changed.
fn deliver(edition: &Edition, format: Format, headers: &HeaderMap) -> Answer {
    let packed = edition.gzip.get().filter(|packed| !packed.is_empty() && takes_gzip(headers));
    let tag = if packed.is_some() { format!("\"{}-gzip\"", edition.tag) } else { format!("\"{}\"", edition.tag) };
    let mut answer = if is_known(edition, headers) {
        let mut answer = Answer::new(Full::default());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        Answer::new(Full::new(packed.unwrap_or(&edition.body).clone()))
    };
    let mut set = |name: HeaderName, value: Result<HeaderValue, _>| {
        if let Ok(value) = value {
            answer.headers_mut().insert(name, value);
        }
    };
    set(ETAG, HeaderValue::try_from(tag));
    set(LAST_MODIFIED, HeaderValue::try_from(http_date(edition.changed)));
    set(CACHE_CONTROL, Ok(HeaderValue::from_static("max-age=15")));
    set(VARY, Ok(HeaderValue::from_static("Accept-Encoding")));
    set(CONTENT_TYPE, Ok(HeaderValue::from_static(format.kind())));
    if packed.is_some() && answer.status() == StatusCode::OK {
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

/// Whether whoever asks has just this edition. A tag is asked first; only without one the time.
fn is_known(edition: &Edition, headers: &HeaderMap) -> bool {
    let mut tags = headers.get_all(IF_NONE_MATCH).iter().peekable();
    if tags.peek().is_some() {
        let tags = tags.filter_map(|tags| tags.to_str().ok()).flat_map(|tags| tags.split(','));
        return tags.map(str::trim).any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
            tag == "*" || tag.strip_suffix("-gzip").unwrap_or(tag) == edition.tag
        });
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|since| since.to_str().ok());
    let since = since.and_then(|since| DateTimeParser::new().parse_timestamp(since).ok());
    since.is_some_and(|since| since.as_second() >= edition.changed.as_second())
}

/// `at` as HTTP writes it.
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut words = coding.split(';').map(str::trim);
        let gzip = words.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let weight = words.find_map(|word| word.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        gzip && weight > 0.0
    })
}

fn told(code: StatusCode, text: &str) -> Answer {
    // comments, so that even a firewall which ignores the status reads no entries
    let mut answer = Answer::new(Full::new(Bytes::from(format!("# {text}\n"))));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
