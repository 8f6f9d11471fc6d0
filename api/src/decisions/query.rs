//! Which decisions are wanted.

use ipnet::IpNet;

use model::{Decision, Scope};

use super::net_of;
use super::row::Row;

/// How an address query relates to the decisions it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Decisions that cover all of the query.
    #[default]
    Covers,
    /// Decisions that lie inside the query.
    Inside,
    /// Decisions that share any address with the query.
    Touches,
}

/// Which decisions are wanted. Everything that is set must hold; the default wants all but simulated ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Addresses.
    pub net: Option<(IpNet, Reach)>,
    /// Any of these scopes; two lists of which each must agree.
    pub scopes: Option<Vec<Scope>>,
    /// A second list of scopes, of which any must agree as well.
    pub scope: Option<Vec<Scope>>,
    /// Exactly this value.
    pub value: Option<String>,
    /// Exactly this remediation.
    pub remediation: Option<String>,
    /// Any of these origins.
    pub origins: Option<Vec<String>>,
    /// Exactly this scenario.
    pub scenario: Option<String>,
    /// The scenario contains any of these words; lower case.
    pub scenarios_containing: Vec<String>,
    /// The scenario contains none of these words; lower case.
    pub scenarios_not_containing: Vec<String>,
    /// Any of these.
    pub uuids: Option<Vec<String>>,
    /// Simulated ones too.
    pub simulated: bool,
}

/// What a query looks at.
struct Traits<'a> {
    scope: &'a Scope,
    value: &'a str,
    remediation: &'a str,
    origin: &'a str,
    scenario: &'a str,
    simulated: bool,
}

impl Query {
    /// Whether the query wants `decision`, live or over.
    pub fn wants(&self, decision: &Decision) -> bool {
        let traits = Traits {
            scope: &decision.scope,
            value: &decision.value,
            remediation: &decision.remediation,
            origin: &decision.origin,
            scenario: &decision.scenario,
            simulated: decision.simulated,
        };
        self.matches(&traits) && self.uuids.as_ref().is_none_or(|uuids| uuids.contains(&decision.uuid))
    }

    /// Whether the query wants the live decision `row`.
    pub fn wants_row(&self, row: &Row) -> bool {
        let traits = Traits {
            scope: row.scope(),
            value: row.value(),
            remediation: row.remediation(),
            origin: row.origin(),
            scenario: row.scenario(),
            simulated: row.simulated(),
        };
        self.matches(&traits) && self.uuids.as_ref().is_none_or(|uuids| uuids.contains(&row.uuid().to_string()))
    }

    fn matches(&self, traits: &Traits<'_>) -> bool {
        let scope_in = |list: &Option<Vec<Scope>>| list.as_ref().is_none_or(|list| list.contains(traits.scope));
        let simple = (self.simulated || !traits.simulated)
            && scope_in(&self.scopes)
            && scope_in(&self.scope)
            && self.value.as_deref().is_none_or(|wanted| wanted == traits.value)
            && self.remediation.as_deref().is_none_or(|wanted| wanted == traits.remediation)
            && self.origins.as_ref().is_none_or(|list| list.iter().any(|origin| origin == traits.origin))
            && self.scenario.as_deref().is_none_or(|wanted| wanted == traits.scenario);
        if !simple {
            return false;
        }
        if !(self.scenarios_containing.is_empty() && self.scenarios_not_containing.is_empty()) {
            let scenario = traits.scenario.to_lowercase();
            let has = |words: &[String]| words.iter().any(|word| scenario.contains(word.as_str()));
            if !self.scenarios_containing.is_empty() && !has(&self.scenarios_containing)
                || has(&self.scenarios_not_containing)
            {
                return false;
            }
        }
        self.net.is_none_or(|(net, reach)| {
            net_of(traits.scope, traits.value).is_some_and(|own| match reach {
                Reach::Covers => own.contains(&net),
                Reach::Inside => net.contains(&own),
                Reach::Touches => own.contains(&net) || net.contains(&own),
            })
        })
    }
}
