//! Questions of proxies and their answers. No answer needs anything but memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use jiff::Timestamp;
use tracing::{debug, warn};

use super::atlas::Database;
use super::chain::{self, Proxies};
use super::config::Config;
use super::metrics::{Counts, Metrics};
use super::page;
use super::profile::{Atlas, Code, Posture, Profile, Question, Refusal, judge};
use super::reference::Reference;
use super::table::Table;
use crate::serve::{Answer, Peer};

/// The chain of proxies.
const CHAIN: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Where proxies put what the client asked for; the first that is there counts.
const ORIGINAL: [HeaderName; 2] =
    [HeaderName::from_static("x-forwarded-uri"), HeaderName::from_static("x-original-uri")];
const ACTION: HeaderName = HeaderName::from_static("x-guard-action");
const DECISION: HeaderName = HeaderName::from_static("x-guard-decision");
/// Where profiles are asked for, and where the page of a refusal is.
const CHECK: &str = "/v1/check/";
const PAGE: &str = "/v1/page/";
/// Longest time after which somebody is told to try again, and that of a rule.
const RETRY: Duration = Duration::from_hours(1);
/// Pause between two warnings about peers that are no listed proxies, in seconds.
const WARN_EVERY: i64 = 60;

/// What is known at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Who is kept out.
    pub table: Table,
    /// Whether that is known.
    pub posture: Posture,
}

/// What all questions share.
#[derive(Debug)]
pub struct Service {
    view: ArcSwap<View>,
    profiles: BTreeMap<String, Profile>,
    counts: BTreeMap<String, Counts>,
    proxies: Proxies,
    pub(super) countries: Option<Database>,
    metrics: Metrics,
    warned: AtomicI64,
}

impl Service {
    /// A service that knows nothing yet.
    pub fn new(config: &Config, countries: Option<Database>, posture: Posture, metrics: Metrics) -> Self {
        Self {
            view: ArcSwap::from_pointee(View { table: Table::default(), posture }),
            profiles: config.profiles.clone(),
            counts: metrics.of(config.profiles.keys()),
            proxies: Proxies::new(&config.trusted_proxies),
            countries,
            metrics,
            warned: AtomicI64::new(i64::MIN),
        }
    }

    /// What is known now.
    pub fn view(&self) -> View {
        View::clone(&self.view.load())
    }

    /// Makes `view` what is known.
    pub fn set(&self, view: View) {
        self.metrics.loaded.set(i64::from(view.posture == Posture::Judging));
        self.view.store(view.into());
    }

    /// How many requests have been refused.
    pub fn refused(&self) -> u64 {
        self.counts.values().map(Counts::all_refused).sum()
    }

    /// The answer to the question in `head`, asked by `peer` at `now`.
    pub fn answer(&self, peer: &Peer, head: &Parts, now: Timestamp) -> Answer {
        let path = head.uri.path();
        let (rest, passes) = match (path.strip_prefix(CHECK), path.strip_prefix(PAGE)) {
            (Some(rest), _) => (rest, StatusCode::NO_CONTENT),
            // nginx comes back for the page, also when the program behind it has refused
            (None, Some(rest)) => (rest, StatusCode::FORBIDDEN),
            (None, None) => {
                return empty(match path {
                    "/v1/health" if self.view.load().posture == Posture::Judging => StatusCode::NO_CONTENT,
                    "/v1/health" => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::NOT_FOUND,
                });
            }
        };
        let (name, below) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (Some(profile), Some(counts)) = (self.profiles.get(name), self.counts.get(name)) else {
            return empty(StatusCode::NOT_FOUND);
        };
        let listed = self.is_listed(peer, now);
        let client = match peer.address.filter(|_| !listed) {
            Some(address) => address,
            None => match chain::client(head.headers.get_all(CHAIN).iter().map(HeaderValue::as_bytes), &self.proxies) {
                Ok(client) => client,
                Err(error) => {
                    debug!(?peer, %error, "refused a request");
                    counts.malformed.inc();
                    // nginx would make an error 500 of it
                    let code = if profile.only_nginx_codes { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
                    return empty(code);
                }
            },
        };
        let question = Question {
            client,
            identities: if listed { identities(profile, &head.headers) } else { Vec::new() },
            path: ORIGINAL.iter().find_map(|name| head.headers.get(name)?.to_str().ok()).or(Some(below)),
        };
        let view = self.view.load();
        let atlas = self.countries.as_ref().map(|countries| countries as &dyn Atlas);
        let Some(refusal) = judge(profile, &view.table, atlas, view.posture, &question, now) else {
            let count = if view.posture == Posture::Judging { &counts.passed } else { &counts.unloaded };
            count.inc();
            return empty(passes);
        };
        counts.refused(refusal.cause).inc();
        refuse(profile, &refusal, client, &head.headers, now)
    }

    /// Whether `peer` is believed when it says for whom it asks. On a socket, and behind a certificate, who may ask was
    /// decided before.
    fn is_listed(&self, peer: &Peer, now: Timestamp) -> bool {
        let Some(address) = peer.address else { return true };
        if !peer.names.is_empty() || self.proxies.contains(address) {
            return true;
        }
        self.metrics.unlisted.inc();
        let second = now.as_second();
        let last = self.warned.load(Ordering::Relaxed);
        if second.saturating_sub(last) >= WARN_EVERY && self.warned.swap(second, Ordering::Relaxed) == last {
            warn!(%address, "a peer that `trusted_proxies` does not list asks: it is judged by its own address");
        }
        false
    }
}

/// Who is logged in, by the header that the profile names. Several values are several claims; each is looked at.
fn identities(profile: &Profile, headers: &HeaderMap) -> Vec<String> {
    let Some(name) = &profile.identity else { return Vec::new() };
    let text = |value: &HeaderValue| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.trim().to_owned(),
        // older programs write names in Latin-1, whose numbers are those of Unicode
        Err(_) => value.as_bytes().iter().map(|&byte| char::from(byte)).collect(),
    };
    headers.get_all(name).iter().map(text).filter(|text| !text.is_empty()).collect()
}

fn refuse(profile: &Profile, refusal: &Refusal, client: IpAddr, headers: &HeaderMap, now: Timestamp) -> Answer {
    let decision = refusal.held.map_or(0, |held| held.decision);
    let reference = Reference::new(client, now, decision);
    debug!(%client, cause = ?refusal.cause, decision, %reference, "refused a request");
    let body = page::body(profile.page.as_deref(), headers, &reference);
    let mut answer = Answer::new(Full::new(body.bytes));
    let mut set = |name, value| answer.headers_mut().insert(name, value);
    set(CONTENT_TYPE, HeaderValue::from_static(body.kind));
    set(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set(VARY, HeaderValue::from_static("Accept"));
    if profile.debug_headers {
        set(ACTION, HeaderValue::from_static("ban"));
        set(DECISION, decision.into());
    }
    let code = match profile.code {
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Unauthorized => {
            set(WWW_AUTHENTICATE, HeaderValue::from_static("Guard"));
            StatusCode::UNAUTHORIZED
        }
        Code::TooManyRequests => {
            let most = RETRY.as_secs();
            set(RETRY_AFTER, refusal.held.map_or(most, |held| held.seconds_left(now).clamp(1, most)).into());
            StatusCode::TOO_MANY_REQUESTS
        }
    };
    *answer.status_mut() = code;
    answer
}

fn empty(code: StatusCode) -> Answer {
    let mut answer = Answer::new(Full::default());
    *answer.status_mut() = code;
    answer
}
