//! What expressions may ask of this machine.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use api::server::service::Service;
use expr::files::Files;
use expr::{DecisionQuery, EvalError, Geo, Host, HttpAnswer};
use jiff::Timestamp;
use parsers::GeoIp;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::parse::Scene;
use crate::requests::{Known, NO_SERVICE, Request, Requests, opinion};
use crate::resolver::{Question, Resolver};
use crate::ruleset::RuleSet;

/// How many unanswered questions of one evaluation are remembered.
const MAX_UNKNOWN: usize = 16;

/// Who answers what neither rules nor lines say. By default nobody: a replay must not depend on the day it is made.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Who knows names of addresses, and addresses of names.
    pub resolver: Option<Resolver>,
    /// Who knows decisions.
    pub decisions: Option<Service>,
    /// Who fetches pages.
    pub requests: Option<Requests>,
}

/// What was asked, and is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unknown {
    /// A name or an address.
    Name(Question),
    /// A page.
    Page(Request),
}

impl Outside {
    /// Whether `rules` may be told something later that they cannot be told now.
    pub fn may_answer_late(&self, rules: &RuleSet) -> bool {
        (rules.asks_names && self.resolver.is_some()) || (!rules.asks_pages.is_empty() && self.requests.is_some())
    }

    /// Whether there is an answer now. Each question is asked again: what found no place in the queue before may find one.
    pub fn knows(&self, unknown: &Unknown) -> bool {
        match unknown {
            Unknown::Name(question) => self.resolver.as_ref().is_none_or(|resolver| resolver.ask(question).is_some()),
            Unknown::Page(request) => {
                let ask = |requests: &Requests| !matches!(requests.ask(request.clone()), Known::Pending(_));
                self.requests.as_ref().is_none_or(ask)
            }
        }
    }
}

/// The world at one moment, for one batch.
#[derive(Debug)]
pub struct World<'a> {
    scene: &'a Scene,
    now: Timestamp,
    unknown: RefCell<Vec<Unknown>>,
}

impl<'a> World<'a> {
    /// The world of `scene` at `now`.
    pub fn new(scene: &'a Scene, now: Timestamp) -> Self {
        Self { scene, now, unknown: RefCell::default() }
    }

    /// What was asked, and is not known yet.
    pub fn into_unknown(self) -> Vec<Unknown> {
        self.unknown.into_inner()
    }

    fn ask(&self, question: Question) -> Vec<String> {
        let Some(resolver) = &self.scene.outside.resolver else { return Vec::new() };
        if let Some(answer) = resolver.ask(&question) {
            return answer.to_vec();
        }
        self.wonder(Unknown::Name(question));
        Vec::new()
    }

    fn wonder(&self, what: Unknown) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(what);
        }
    }

    fn page(&self, known: Known) -> Result<Arc<HttpAnswer>, EvalError> {
        match known {
            Known::Answer(answer) => Ok(answer),
            Known::Failure(failure) => Err(EvalError::new(&*failure)),
            Known::Pending(request) => {
                self.wonder(Unknown::Page(request));
                Err(EvalError::new("the answer is not there yet"))
            }
        }
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

    fn reputation(&self, ip: &str) -> Result<serde_json::Value, EvalError> {
        let known = self.scene.outside.requests.as_ref().and_then(|requests| requests.reputation(ip));
        let known = known.ok_or_else(|| EvalError::new(NO_SERVICE))?;
        let answer = self.page(known)?;
        opinion(ip, &answer).map_err(EvalError::new)
    }

    fn http(&self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Result<HttpAnswer, EvalError> {
        let Some(requests) = &self.scene.outside.requests else {
            return Err(EvalError::new("the configuration names no endpoint for requests"));
        };
        self.page(requests.http(method, url, headers, body)).map(|answer| HttpAnswer::clone(&answer))
    }

    fn log(&self, message: &str) {
        info!(message, "a rule says");
    }
}
