//! Scenarios as authors write them, postoverflows behind them, and events before them: a file of scenarios, a file of nodes, lines of
//! `key=value`. One thread finds what two find, and asking the few scenarios that could want an event is asking all.
#![no_main]

use std::sync::Arc;

use agent::engine::{Engine, EngineOptions};
use agent::load::RuleFiles;
use agent::ruleset::RuleSet;
use cordon_fuzz::{batch, few_and_all, file, library, line, parts};
use libfuzzer_sys::fuzz_target;
use scenarios::HashKey;

/// Makes fields of what a line says.
const PARSER: &str = "
name: pairs
onsuccess: next_stage
filter: ParseKV(evt.Line.Raw, evt.Unmarshaled, 'k') == nil
statics:
  - {meta: source_ip, expression: evt.Unmarshaled.k.ip}
  - {meta: log_type, expression: evt.Unmarshaled.k.type}
  - {meta: user, expression: evt.Unmarshaled.k.user}
  - {parsed: path, expression: evt.Unmarshaled.k.path}
  - {target: evt.StrTime, expression: evt.Unmarshaled.k.time}
  - {method: ParseDate, expression: evt.StrTime}
  - {target: MarshaledTime, expression: evt.Enriched.MarshaledTime}
";

fuzz_target!(|input: &str| {
    let [scenarios, postoverflows, lines] = parts(input);
    let mut files = RuleFiles::default();
    files.parsers = vec![file("s00-raw", PARSER)];
    files.postoverflows = vec![file("s00-enrich", postoverflows)];
    files.scenarios = vec![file("", scenarios)];
    let rules = Arc::new(RuleSet::build_over(&files, library()).rules);
    let lines: Vec<_> = lines.lines().take(32).map(|raw| line("fuzz", raw)).collect();
    for line in lines.iter().take(4) {
        few_and_all(&rules, line);
    }
    let alerts = |threads: usize| {
        let key = HashKey::new([7; 16]);
        let options = EngineOptions { threads, memory: 1 << 20, live: false, ..EngineOptions::live(key) };
        let mut engine = Engine::new(Arc::clone(&rules), options).expect("threads can be started");
        let mut alerts = Vec::new();
        // Small batches, so that a round has several.
        for round in lines.chunks(16) {
            alerts.extend(engine.round(round.chunks(4).map(batch).collect()).alerts);
        }
        alerts
    };
    let alone = alerts(1);
    if !alone.is_empty() {
        assert_eq!(alerts(2), alone, "two threads find what one finds");
    }
    for alert in &alone {
        let text = serde_json::to_vec(alert).expect("an alert can be written");
        assert_eq!(serde_json::from_slice::<model::Alert>(&text).ok().as_ref(), Some(alert), "and read again");
    }
});
