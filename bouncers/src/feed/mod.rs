//! Feeds: what is banned, as lists that firewalls and proxies fetch.
//!
//! The engine changes rows in memory, a thread writes bodies from them, requests take bodies that lie ready. Until the
//! engine has said what holds there is no list at all: an empty one would lift every ban at whoever fetches it.

pub mod cidr;
pub mod config;
pub mod consumers;
pub mod query;
pub mod render;
pub mod rows;
pub mod service;
pub mod shelf;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::config::Config;
use self::consumers::{Consumers, Metrics, Visit};
use self::rows::{Change, Rows};
use self::service::Service;
use self::shelf::Shelf;
use crate::engine::desired::{Key, Subject};
use crate::engine::plan::{self, Placed, Plan, Why};
use crate::engine::{Bouncer, Caps, Check, Difference, Extent, Outcome, Takes, Wanted};
use crate::error::BouncerError;
use crate::serve::config::Listen;
use crate::serve::{ServeError, Server};

/// What feeds can do: tell of any remediation of addresses.
pub const CAPS: Caps =
    Caps { remediations: Takes::All, observes: false, window: Duration::from_secs(1), ..Caps::LOCAL };
/// Threads that answer: bodies lie ready, one is enough.
const WORKERS: usize = 1;

/// A target that serves lists.
#[derive(Debug)]
pub struct Lists {
    service: Arc<Service>,
    shelf: Shelf,
    listen: Listen,
    /// Where requests arrive, once the engine has made it ready.
    server: Option<Server>,
    rows: Arc<Rows>,
    metrics: Metrics,
}

impl Lists {
    /// Will listen as `config` says. Until the engine has said what holds, whoever asks is told to come again.
    pub fn open(config: &Config, metrics: Metrics) -> Result<Self, BouncerError> {
        let titles = config
            .feeds
            .iter()
            .flat_map(|(name, feed)| feed.prepare.iter().map(|&format| (name.clone(), feed.query(format))));
        let shelf = Shelf::new(titles);
        let writer = shelf.clone();
        std::thread::Builder::new()
            .name("cordon-feed-out".to_owned())
            .spawn(move || writer.work())
            .map_err(ServeError::Thread)?;
        let consumers = Consumers::new(&config.consumers, Timestamp::now(), metrics.clone());
        let service = Arc::new(Service::new(config.feeds.clone(), consumers, shelf.clone(), metrics.clone()));
        Ok(Self { service, shelf, listen: config.listen.clone(), server: None, rows: Arc::default(), metrics })
    }

    /// The address on which it listens, if it does on one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.server.as_ref()?.local_addr()
    }

    /// Listens, unless it does already.
    fn listen(&mut self) -> Result<(), BouncerError> {
        if self.server.is_none() {
            let asked = Arc::clone(&self.service);
            self.server = Some(Server::start("feed", &self.listen, WORKERS, move |peer, head| {
                Arc::clone(&asked).answer(peer, head, Timestamp::now())
            })?);
        }
        Ok(())
    }

    /// The last good fetch of each consumer.
    pub fn visits(&self) -> BTreeMap<String, Option<Visit>> {
        self.service.consumers.visits()
    }

    fn stock(&mut self, rows: Rows, now: Timestamp) {
        self.metrics.entries.set(i64::try_from(rows.len()).unwrap_or(i64::MAX));
        self.rows = Arc::new(rows);
        self.shelf.stock(Arc::clone(&self.rows), now);
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        self.shelf.stop();
    }
}

impl Bouncer for Lists {
    fn name(&self) -> &'static str {
        "feed"
    }

    fn caps(&self) -> Caps {
        CAPS
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        self.listen()
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, now: Timestamp) -> Result<Outcome, BouncerError> {
        let before = match extent {
            Extent::Exactly => Arc::default(),
            Extent::AtLeast => Arc::clone(&self.rows),
        };
        let entry = |(key, placed): (&Key, &Placed)| -> Change {
            (key.clone(), Some((placed.clone(), wanted.why(key).unwrap_or_else(unknown))))
        };
        self.stock(before.with(wanted.placed.iter().map(entry), now), now);
        self.listen()?;
        Ok(Outcome::default())
    }

    async fn apply(&mut self, plan: &Plan, now: Timestamp) -> Result<Outcome, BouncerError> {
        let change = |change: &plan::Change| -> Change {
            let why = || change.why.clone().unwrap_or_else(unknown);
            (change.key.clone(), change.after.clone().map(|after| (after, why())))
        };
        let rows = self.rows.with(plan.changes.iter().map(change), now);
        self.stock(rows, now);
        Ok(Outcome::default())
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        self.service.consumers.missed(Timestamp::now());
        let missing = keys.iter().filter(|(key, placed)| !is_in(&self.rows, key, placed)).count();
        Ok(Check {
            intact: self.server.as_ref().is_some_and(Server::is_alive),
            armed: true,
            asked: keys.len(),
            missing,
        })
    }

    async fn compare(&mut self, wanted: Wanted<'_>, now: Timestamp) -> Result<Difference, BouncerError> {
        let missing = wanted.placed.iter().filter(|(key, placed)| !is_in(&self.rows, key, placed));
        let missing = missing.map(|(key, _)| key.to_string()).collect();
        let surplus = self.rows.items(now).filter(|item| {
            let subject = Subject::Net(item.net);
            !wanted.placed.contains_key(&Key { remediation: item.kind.action.clone(), subject })
        });
        let surplus = surplus.map(|item| format!("{} {}", item.kind.action, item.net)).collect();
        let missed = self.service.consumers.missed(now).into_iter();
        let structure = missed.map(|name| format!("`{name}` has not fetched for three cycles")).collect();
        Ok(Difference { missing, surplus, structure })
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.stock(Rows::default(), Timestamp::now());
        Ok(())
    }
}

/// Why an entry is there whose decision is not known.
fn unknown() -> Why {
    Why { id: 0, origin: "unknown".into(), scenario: "".into() }
}

fn is_in(rows: &Rows, key: &Key, placed: &Placed) -> bool {
    rows.until(key).is_some_and(|until| until >= placed.until)
}
