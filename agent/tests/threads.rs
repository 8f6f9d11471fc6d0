//! The number of threads changes nothing: the logs of all our flows, through all shipped rules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::acquisition::file::{Cat, Files, PathPattern};
use agent::hub::{Choice, Hub};
use agent::load::{Folders, RuleFiles};
use agent::replay::{ReplayOptions, replay};
use agent::ruleset::{InOrder, RuleSet};
use jiff::Timestamp;
use model::{Alert, AllowSet};
use serde_json::Value;
use tempfile::TempDir;

/// So much of each kind of log that a round has many batches.
const BYTES: usize = 2 << 20;

/// Each line depends on the lines before it.
const STASH: &str = "name: test/memory
description: remember who failed
filter: evt.Meta.source_ip != ''
statics:
  - meta: before
    expression: GetFromStash('failed', evt.Meta.source_ip)
stash:
  - name: failed
    key: evt.Meta.source_ip
    value: evt.Meta.before + 'x'
    ttl: 100h
    size: 1000
";
const REMEMBERED: &str = "type: leaky
name: test/remembered
description: failed before
filter: evt.Meta.before != ''
groupby: evt.Meta.source_ip
capacity: 3
leakspeed: 10h
labels: {}
";

/// The logs of the flows by the type of their lines, each again and again.
fn logs(folder: &Path) -> BTreeMap<String, PathBuf> {
    let texts = texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/flows"));
    let write = |(kind, text): (String, String)| {
        let path = folder.join(format!("{kind}.log"));
        fs::write(&path, text.repeat(BYTES / text.len() + 1)).expect("room on the disk");
        (kind, path)
    };
    texts.into_iter().map(write).collect()
}

/// The logs of the tests in `flows` by the type of their lines.
fn texts(flows: &Path) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::<String, String>::new();
    let mut folders: Vec<PathBuf> =
        fs::read_dir(flows).expect("our flows").map(|entry| entry.expect("a folder").path()).collect();
    folders.sort();
    for flow in folders {
        let Ok(config) = fs::read_to_string(flow.join("config.yaml")) else { continue };
        let of = |key: &str| config.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let (Some(log), Some(kind)) = (of("log_file:"), of("log_type:")) else { continue };
        let Ok(text) = fs::read_to_string(flow.join(log)) else { continue };
        let all = texts.entry(kind.to_owned()).or_default();
        all.push_str(&text);
        all.push('\n');
    }
    texts
}

fn alerts(rules: &Arc<RuleSet>, kind: &str, log: &Path, threads: usize) -> Vec<Alert> {
    let files = Files {
        patterns: vec![PathPattern::new(&log.to_string_lossy()).expect("a valid pattern")],
        exclude: Vec::new(),
        labels: vec![("type".into(), kind.into())],
        time_machine: true,
    };
    let allow = Arc::new(AllowSet::new([]));
    let options = ReplayOptions { threads, memory: 64 << 20, allow, year: Some(2026), measure: false };
    let mut all = Vec::new();
    replay(Arc::clone(rules), Cat::new(&files), options, |some, _| all.extend(some)).expect("threads can be started");
    all
}

/// The alerts of a log, which are the same on one, two and four threads.
fn the_same(rules: &Arc<RuleSet>, kind: &str, log: &Path) -> Vec<Alert> {
    let began = Timestamp::now();
    let alone = alerts(rules, kind, log, 1);
    for threads in [2, 4] {
        let others = alerts(rules, kind, log, threads);
        assert_eq!(others.len(), alone.len(), "{kind} {threads}");
        for (a, b) in others.iter().zip(&alone) {
            assert_eq!(told(a, began), told(b, began), "{kind} {threads}");
        }
    }
    alone
}

/// An alert without the moments at which lines were read that tell none.
fn told(alert: &Alert, began: Timestamp) -> Value {
    fn forget(value: &mut Value, began: Timestamp) {
        match value {
            Value::String(text) if text.parse().is_ok_and(|time: Timestamp| time >= began) => *value = "read".into(),
            Value::Array(items) => items.iter_mut().for_each(|item| forget(item, began)),
            Value::Object(fields) => fields.values_mut().for_each(|field| forget(field, began)),
            _ => {}
        }
    }
    let mut told = serde_json::to_value(alert).expect("an alert is JSON");
    forget(&mut told, began);
    if told["stop_at"] == "read" {
        told["message"] = alert.message.split(" at ").next().into();
    }
    told
}

#[test]
fn one_two_and_four_threads_make_the_same_alerts() {
    let folder = TempDir::new().expect("a temporary folder");
    let own = folder.path().join("rules");
    for (name, text) in [("parsers/s02-enrich/memory.yaml", STASH), ("scenarios/remembered.yaml", REMEMBERED)] {
        let path = own.join(name);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
        fs::write(path, text).expect("room on the disk");
    }
    let logs = logs(folder.path());
    assert!(logs.len() > 3, "{logs:?}");
    for (folders, in_order) in [(Vec::new(), InOrder::None), (vec![own], InOrder::Some)] {
        let built = RuleSet::build(&RuleFiles::read(&Folders { shipped: true, folders }));
        assert_eq!(built.problems, []);
        assert_eq!(built.rules.in_order, in_order);
        let rules = Arc::new(built.rules);
        let (mut found, mut remembered) = (0, 0);
        for (kind, log) in &logs {
            let alone = the_same(&rules, kind, log);
            found += alone.len();
            remembered += alone.iter().filter(|alert| alert.scenario == "test/remembered").count();
        }
        assert!(found > 10, "{found} alerts");
        assert_eq!(remembered > 0, in_order == InOrder::Some);
    }
}

/// All rules of the public hub on the logs of all its tests, and on real ones, where they lie beside this repository.
#[test]
fn the_rules_of_the_hub_make_the_same_alerts_on_any_number_of_threads() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let (hub, corpora) = (shared.join("hub"), shared.join("corpora"));
    if !hub.join(".tests").is_dir() || !corpora.is_dir() {
        eprintln!("SKIPPED, NOT PASSED: there are no `hub` and `corpora` in `{}`", shared.display());
        return;
    }
    let built = Hub::build(&hub, &Choice::All).expect("it is a hub");
    let rules = Arc::new(built.rules);
    let folder = TempDir::new().expect("a temporary folder");
    let mut found = 0;
    for (name, kind) in [("sshd", "syslog"), ("linux", "syslog"), ("access", "apache2")] {
        let alone = the_same(&rules, kind, &corpora.join(format!("{name}.log")));
        assert!(name == "linux" || !alone.is_empty(), "{name}");
        found += alone.len();
    }
    let texts = texts(&hub.join(".tests"));
    assert!(texts.len() > 20, "{} types", texts.len());
    for (number, (kind, text)) in texts.iter().enumerate() {
        let log = folder.path().join(format!("{number}.log"));
        fs::write(&log, text).expect("room on the disk");
        found += the_same(&rules, kind, &log).len();
    }
    assert!(found > 300, "{found} alerts");
}
