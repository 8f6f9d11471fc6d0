//! Who fetches feeds, what he may fetch, and whether he still does.
//!
//! A firewall that has stopped fetching goes on with an old list and says nothing. So each fetch is noted, and whoever
//! has not come for three of his own cycles is missed aloud.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::http::header::AUTHORIZATION;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tracing::{error, info};

use super::config::{Consumer, digest};
use crate::forward::chain::Proxies;
use crate::serve::Peer;

/// Cycles after which somebody is missed.
const MISSED: i32 = 3;

/// Whoever asked may not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// He has not said who he is, or not truly.
    Unknown,
    /// He is known, but not from there.
    Elsewhere,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Who {
    consumer: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Fetched {
    consumer: String,
    status: u16,
}

/// What feeds count. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    fetches: Family<Fetched, Counter>,
    last: Family<Who, Gauge>,
    stale: Family<Who, Gauge>,
    pub(super) denied: Counter,
    pub(super) entries: Gauge,
}

impl Metrics {
    /// Makes them readable through `registry`, under `cordon_feed_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("cordon_feed");
        registry.register("fetches", "fetches of consumers, by status", self.fetches.clone());
        registry.register("last_fetch_seconds", "when a consumer last fetched, in Unix time", self.last.clone());
        registry.register(
            "consumer_stale",
            "1 if a consumer has not fetched for three of its cycles",
            self.stale.clone(),
        );
        registry.register("denied", "requests of nobody who may fetch", self.denied.clone());
        registry.register("entries", "entries that feeds are made of", self.entries.clone());
    }
}

/// The last fetch of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Visit {
    /// When.
    pub at: Timestamp,
    /// From where; `None` on a socket.
    pub from: Option<IpAddr>,
    /// What he asked for.
    pub path: String,
    /// What he was told.
    pub status: u16,
}

#[derive(Debug)]
struct Known {
    consumer: Consumer,
    from: Proxies,
    last: Option<Visit>,
    missed: bool,
}

/// All who may fetch.
#[derive(Debug)]
pub struct Consumers {
    by_token: HashMap<[u8; 32], String>,
    by_certificate: HashMap<String, String>,
    known: Mutex<BTreeMap<String, Known>>,
    since: Timestamp,
    metrics: Metrics,
}

impl Consumers {
    /// The `consumers` of the configuration; at `since` nobody has fetched yet.
    pub fn new(consumers: &BTreeMap<String, Consumer>, since: Timestamp, metrics: Metrics) -> Self {
        let token = |(name, consumer): (&String, &Consumer)| Some((consumer.token?, name.clone()));
        let certificate = |(name, consumer): (&String, &Consumer)| Some((consumer.certificate.clone()?, name.clone()));
        let known = consumers.iter().map(|(name, consumer)| {
            let from = Proxies::new(&consumer.from);
            (name.clone(), Known { consumer: consumer.clone(), from, last: None, missed: false })
        });
        Self {
            by_token: consumers.iter().filter_map(token).collect(),
            by_certificate: consumers.iter().filter_map(certificate).collect(),
            known: Mutex::new(known.collect()),
            since,
            metrics,
        }
    }

    /// Who asks: by the token in the path, in the headers, or by his certificate.
    pub fn identify(&self, peer: &Peer, path_token: Option<&str>, headers: &HeaderMap) -> Result<String, Denied> {
        let mut tokens = path_token.map(str::to_owned).into_iter().chain(header_token(headers));
        let by_token = tokens.find_map(|token| self.by_token.get(&digest(&token)));
        let by_name = || peer.names.iter().find_map(|name| self.by_certificate.get(name));
        let name = by_token.or_else(by_name).ok_or(Denied::Unknown)?;
        let known = self.lock();
        let known = known.get(name).ok_or(Denied::Unknown)?;
        let here = known.consumer.from.is_empty() || peer.address.is_some_and(|address| known.from.contains(address));
        if here { Ok(name.clone()) } else { Err(Denied::Elsewhere) }
    }

    /// Whether `name` may fetch `feed`.
    pub fn may(&self, name: &str, feed: &str) -> bool {
        let known = self.lock();
        known.get(name).is_some_and(|known| {
            known.consumer.feeds.is_empty() || known.consumer.feeds.iter().any(|allowed| allowed == feed)
        })
    }

    /// Notes a fetch.
    pub fn note(&self, name: &str, visit: Visit) {
        let labels = Fetched { consumer: name.to_owned(), status: visit.status };
        self.metrics.fetches.get_or_create_owned(&labels).inc();
        info!(consumer = name, from = ?visit.from, path = visit.path, status = visit.status, "a feed was fetched");
        // only who got what he came for has a fresh list
        if !matches!(visit.status, 200 | 304) {
            return;
        }
        let who = Who { consumer: name.to_owned() };
        self.metrics.last.get_or_create_owned(&who).set(visit.at.as_second());
        self.metrics.stale.get_or_create_owned(&who).set(0);
        if let Some(known) = self.lock().get_mut(name) {
            if std::mem::take(&mut known.missed) {
                info!(consumer = name, "a consumer that was missed fetches again");
            }
            known.last = Some(visit);
        }
    }

    /// Who has not fetched for three of his cycles at `now`. Says so once for each absence.
    pub fn missed(&self, now: Timestamp) -> Vec<String> {
        let mut missed = Vec::new();
        for (name, known) in self.lock().iter_mut() {
            let Some(every) = known.consumer.every else { continue };
            let last = known.last.as_ref().map_or(self.since, |visit| visit.at);
            let patience = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX).saturating_mul(MISSED);
            if now.duration_since(last) <= patience {
                continue;
            }
            if !std::mem::replace(&mut known.missed, true) {
                error!(consumer = name, %last, "a consumer has not fetched its feed for three cycles: its list is old");
                self.metrics.stale.get_or_create_owned(&Who { consumer: name.clone() }).set(1);
            }
            missed.push(name.clone());
        }
        missed
    }

    /// The last good fetch of each consumer.
    pub fn visits(&self) -> BTreeMap<String, Option<Visit>> {
        self.lock().iter().map(|(name, known)| (name.clone(), known.last.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token in `headers`: after `Bearer`, or the password after `Basic`.
fn header_token(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::desired::tests::second;

    #[test]
    fn three_cycles_without_a_fetch_are_told_once_and_end() {
        let consumer = |every| Consumer { every, ..Consumer::default() };
        let all = [("hq", Some(Duration::from_mins(1))), ("guest", None)];
        let all = all.into_iter().map(|(name, every)| (name.to_owned(), consumer(every))).collect();
        let consumers = Consumers::new(&all, second(0), Metrics::default());
        let visit = |at, status| Visit { at: second(at), from: None, path: "/feed/x.txt".into(), status };
        assert_eq!(consumers.missed(second(180)), [""; 0]);
        assert_eq!(consumers.missed(second(181)), ["hq"]);
        consumers.note("hq", visit(190, 503));
        assert_eq!(consumers.missed(second(191)), ["hq"], "who got nothing has not fetched");
        consumers.note("hq", visit(200, 304));
        assert_eq!(consumers.missed(second(380)), [""; 0]);
        assert_eq!(consumers.missed(second(381)), ["hq"]);
    }
}
