//! Forward-auth: reverse proxies ask before each request whether it may pass.
//!
//! The engine writes a [`table::Table`], questions read it; neither waits for the other. What a question costs is a few
//! look-ups in memory, so the proxy can ask for every single request.

mod atlas;
pub mod chain;
pub mod config;
pub mod metrics;
mod page;
pub mod profile;
pub mod reference;
pub mod service;
pub mod setup;
pub mod table;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::atlas::Database;
use self::config::{Config, Unloaded};
use self::metrics::Metrics;
use self::profile::Posture;
use self::service::{Service, View};
use self::table::{Held, Table};
use crate::config::OnLoss;
use crate::engine::desired::Key;
use crate::engine::plan::{Change, Placed, Plan, Why};
use crate::engine::{Bouncer, Caps, Check, Difference, Extent, News, Outcome, Takes, Traffic, Wanted};
use crate::error::BouncerError;
use crate::serve::Server;
use crate::serve::config::Listen;

pub use self::atlas::DatabaseError;

/// Scopes that are kept out, by what a target can tell about a request.
const NO_SCOPES: &[&str] = &[];
const BY_COUNTRY: &[&str] = &["country"];
const BY_IDENTITY: &[&str] = &profile::IDENTITIES;
const BY_BOTH: &[&str] = &["country", "identity", "user", "username"];

impl Config {
    /// What a target with this configuration can do.
    pub fn caps(&self) -> Caps {
        let by_identity = self.profiles.values().any(|profile| profile.identity.is_some());
        let scopes = match (self.countries.is_some(), by_identity) {
            (false, false) => NO_SCOPES,
            (true, false) => BY_COUNTRY,
            (false, true) => BY_IDENTITY,
            (true, true) => BY_BOTH,
        };
        // nothing is told to proxies before they ask, so there is nothing to observe
        Caps { scopes: Takes::Only(scopes), observes: false, ..Caps::LOCAL }
    }
}

/// A target that answers reverse proxies.
#[derive(Debug)]
pub struct Forward {
    service: Arc<Service>,
    listen: Listen,
    workers: usize,
    /// Where questions arrive, once the engine has made it ready.
    server: Option<Server>,
    on_loss: OnLoss,
    unloaded: Posture,
    caps: Caps,
    news: News,
    loaded: bool,
}

impl Forward {
    /// Will listen as `config` says. Until the engine has said what holds, requests pass or not as `unloaded` says.
    /// When there have been no news for long, `on_loss` says what passes.
    pub fn open(config: &Config, on_loss: OnLoss, metrics: Metrics) -> Result<Self, BouncerError> {
        let countries = config.countries.clone().map(Database::open).transpose()?;
        let unloaded = match config.unloaded {
            Unloaded::Open => Posture::Open,
            Unloaded::Closed => Posture::Closed,
        };
        let service = Arc::new(Service::new(config, countries, unloaded, metrics));
        let (listen, workers, caps) = (config.listen.clone(), config.workers, config.caps());
        let news = News::Unknown;
        Ok(Self { service, listen, workers, server: None, on_loss, unloaded, caps, news, loaded: false })
    }

    /// The address on which it listens, if it does on one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.server.as_ref()?.local_addr()
    }

    /// Listens, unless it does already.
    fn listen(&mut self) -> Result<(), BouncerError> {
        if self.server.is_none() {
            let asked = Arc::clone(&self.service);
            self.server = Some(Server::start("forward", &self.listen, self.workers, move |peer, head| {
                std::future::ready(asked.answer(&peer, &head, Timestamp::now()))
            })?);
        }
        Ok(())
    }

    fn posture(&self) -> Posture {
        match (self.loaded, self.news, self.on_loss) {
            (false, ..) => self.unloaded,
            (true, News::Lost, OnLoss::Closed) => Posture::Closed,
            (true, News::Lost, OnLoss::Open) => Posture::Open,
            (true, ..) => Posture::Judging,
        }
    }

    fn set(&self, table: Table) {
        self.service.set(View { table, posture: self.posture() });
    }
}

fn held(placed: &Placed, why: Option<&Why>) -> Held {
    Held::new(placed.until, why.map_or(0, |why| why.id))
}

impl Bouncer for Forward {
    fn name(&self) -> &'static str {
        "forward-auth"
    }

    fn caps(&self) -> Caps {
        self.caps.clone()
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        self.listen()
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, _: Timestamp) -> Result<Outcome, BouncerError> {
        let before = match extent {
            Extent::Exactly => Table::default(),
            Extent::AtLeast => self.service.view().table,
        };
        let entries = wanted.placed.iter().map(|(key, placed)| (key, Some(held(placed, wanted.why(key).as_ref()))));
        self.loaded = true;
        self.set(before.sparing(wanted.never.clone()).with(entries));
        // what is known is in place first, so that nobody passes for want of it
        self.listen()?;
        Ok(Outcome::default())
    }

    async fn apply(&mut self, plan: &Plan, _: Timestamp) -> Result<Outcome, BouncerError> {
        let change = |Change { key, after, why, .. }: &Change| {
            (key.clone(), after.as_ref().map(|after| held(after, why.as_ref())))
        };
        let changes: Vec<(Key, Option<Held>)> = plan.changes.iter().map(change).collect();
        self.loaded = true;
        self.set(self.service.view().table.with(changes.iter().map(|(key, held)| (key, *held))));
        Ok(Outcome::default())
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        if let Some(countries) = &self.service.countries {
            countries.reload_if_changed();
        }
        let table = self.service.view().table;
        let missing = keys.iter().filter(|(key, placed)| !is_in(&table, key, placed)).count();
        let armed = self.posture() != Posture::Open;
        Ok(Check { intact: self.server.as_ref().is_some_and(Server::is_alive), armed, asked: keys.len(), missing })
    }

    async fn compare(&mut self, wanted: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        let table = self.service.view().table;
        let missing: Vec<String> = wanted
            .placed
            .iter()
            .filter(|(key, placed)| !is_in(&table, key, placed))
            .map(|(key, _)| key.to_string())
            .collect();
        let known = wanted.placed.keys().filter(|key| table.held(key).is_some()).count();
        let surplus = table.len().saturating_sub(known);
        let surplus = (surplus > 0).then(|| format!("{surplus} entries that nobody wants")).into_iter().collect();
        Ok(Difference { missing, surplus, structure: Vec::new() })
    }

    async fn dropped(&mut self) -> Result<Traffic, BouncerError> {
        Ok(Traffic { packets: self.service.refused(), bytes: 0 })
    }

    fn hear(&mut self, news: News) {
        if news != self.news {
            self.news = news;
            let table = self.service.view().table;
            self.set(table);
        }
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.set(Table::default());
        Ok(())
    }
}

fn is_in(table: &Table, key: &Key, placed: &Placed) -> bool {
    table.held(key).is_some_and(|held| held.holds(placed.until - Duration::from_millis(1)))
}
