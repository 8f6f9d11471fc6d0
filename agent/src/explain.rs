//! One line through everything, step by step.

use std::sync::Arc;

use jiff::Timestamp;
use model::{AllowSet, EventDump, Line, Origin};
use parsers::{Outcome, Trace, YearRule};
use scenarios::HashKey;

use crate::parse::{Scene, Worker};
use crate::ruleset::RuleSet;
use crate::world::Outside;

/// What happened to a line.
#[derive(Debug)]
pub struct Explanation {
    /// What became of it.
    pub outcome: Outcome,
    /// What each node did.
    pub trace: Trace,
    /// The event at its end.
    pub event: EventDump,
    /// The scenarios that wanted it, in file order, and by what their buckets are keyed.
    pub poured: Vec<(String, String)>,
    /// Who is allowed by which entry, when that is why no scenario was asked.
    pub allowed: Option<String>,
}

/// Takes `raw` through `rules` as if a datasource with this `origin` had read it at `now`.
pub fn explain(rules: &Arc<RuleSet>, raw: &str, origin: Origin, allow: &Arc<AllowSet>, now: Timestamp) -> Explanation {
    let scene = Scene {
        stashes: Arc::new(rules.stashes()),
        rules: Arc::clone(rules),
        allow: Arc::clone(allow),
        key: HashKey::new([0; 16]),
        year: YearRule::Latest,
        outside: Outside::default(),
        measure: false,
    };
    let line = Line { raw: raw.into(), origin: Arc::new(origin), time: now, offset: 0 };
    let (trace, outcome, event, pours) = Worker::new().trace(&line, &scene, now);
    let name = |index: usize| rules.scenarios.all().get(index).map_or(String::new(), |scenario| scenario.name.clone());
    let poured = pours.iter().map(|pour| (name(pour.scenario), pour.group.to_string())).collect();
    let address = event.meta.get("source_ip").and_then(|ip| ip.parse().ok());
    let entry = address.and_then(|address| allow.covers_ip(address, now));
    let allowed = entry.filter(|_| outcome == Outcome::Parsed).map(model::AllowEntry::reason);
    Explanation { outcome, trace, event, poured, allowed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Folders, RuleFiles};

    #[test]
    fn a_line_says_what_it_became() {
        let rules = Arc::new(RuleSet::build(&RuleFiles::read(&Folders { shipped: true, folders: Vec::new() })).rules);
        let origin = Origin { labels: vec![("type".into(), "syslog".into())], ..Origin::default() };
        let office = model::AllowEntry {
            net: "198.51.100.23/32".parse().expect("a prefix"),
            list: "office".into(),
            comment: String::new(),
            expires: None,
        };
        let raw = "2026-03-07T04:05:06Z web1 sshd[811]: Failed password for root from 198.51.100.23 port 40000 ssh2";
        let ask =
            |raw: &str, allow: AllowSet| explain(&rules, raw, origin.clone(), &Arc::new(allow), Timestamp::UNIX_EPOCH);
        let said = ask(raw, AllowSet::new([]));
        assert_eq!(said.outcome, Outcome::Parsed);
        assert!(said.poured.contains(&("cordon/ssh-bf".to_owned(), "198.51.100.23".to_owned())), "{:?}", said.poured);
        assert!(said.trace.entries.iter().any(|entry| entry.node.success));
        assert_eq!(said.allowed, None);
        let said = ask(raw, AllowSet::new([office]));
        assert_eq!((said.poured, said.allowed), (Vec::new(), Some("198.51.100.23 from office".to_owned())));
        let said = ask("nonsense", AllowSet::new([]));
        assert!(matches!(said.outcome, Outcome::Unparsed { .. }), "{:?}", said.outcome);
    }
}
