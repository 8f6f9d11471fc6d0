//! What expressions may ask of this machine.

use std::cell::RefCell;
use std::net::IpAddr;

use api::server::service::Service;
use expr::files::Files;
use expr::{DecisionQuery, EvalError, Geo, Host};
use jiff::Timestamp;
use parsers::GeoIp;
use tracing::info;

use crate::parse::Scene;
use crate::resolver::{Question, Resolver};

/// How many unanswered questions of one evaluation are remembered.
const MAX_UNKNOWN: usize = 16;

/// Who answers what neither rules nor lines say. By default nobody: a replay must not depend on the day it is made.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Who knows names of addresses, and addresses of names.
    pub resolver: Option<Resolver>,
    /// Who knows decisions.
    pub decisions: Option<Service>,
}

/// The world at one moment, for one batch.
#[derive(Debug)]
pub struct World<'a> {
    scene: &'a Scene,
    now: Timestamp,
    unknown: RefCell<Vec<Question>>,
}

impl<'a> World<'a> {
    /// The world of `scene` at `now`.
    pub fn new(scene: &'a Scene, now: Timestamp) -> Self {
        Self { scene, now, unknown: RefCell::default() }
    }

    /// What was asked, and is not known yet.
    pub fn into_unknown(self) -> Vec<Question> {
        self.unknown.into_inner()
    }

    fn ask(&self, question: Question) -> Vec<String> {
        let Some(resolver) = &self.scene.outside.resolver else { return Vec::new() };
        if let Some(answer) = resolver.ask(&question) {
            return answer.to_vec();
        }
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(question);
        }
        Vec::new()
    }
}

impl Host for World<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn files(&self) -> &Files {
        &self.scene.rules.files
    }

    fn stash(&self, cache: &str, key: &str) -> Option<String> {
        self.scene.stashes.get(cache, key, self.now)
    }

    fn hostname(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn geo(&self, kind: Geo, ip: IpAddr) -> Option<serde_json::Value> {
        self.scene.rules.geo.as_ref().and_then(|geo: &GeoIp| match kind {
            Geo::Range => geo.range(ip).map(serde_json::Value::String),
            Geo::City | Geo::Asn => geo.record(kind, ip),
        })
    }

    fn lookup_host(&self, name: &str) -> Vec<String> {
        self.ask(Question::Addresses(name.to_owned()))
    }

    fn lookup_addr(&self, ip: IpAddr) -> Vec<String> {
        self.ask(Question::Names(ip))
    }

    fn decisions(&self, query: DecisionQuery, value: &str) -> Option<Result<i64, EvalError>> {
        self.scene.outside.decisions.as_ref().map(|service| service.recall(query, value, self.now))
    }

    fn log(&self, message: &str) {
        info!(message, "a rule says");
    }
}
