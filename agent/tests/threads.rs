//! The number of threads changes nothing: the logs of all our flows, through all shipped rules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::acquisition::file::{Cat, Files, PathPattern};
use agent::load::{Folders, RuleFiles};
use agent::replay::{ReplayOptions, replay};
use agent::ruleset::{InOrder, RuleSet};
use model::{Alert, AllowSet};
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
    let flows = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/flows");
    let mut texts = BTreeMap::<String, String>::new();
    let mut folders: Vec<PathBuf> =
        fs::read_dir(flows).expect("our flows").map(|entry| entry.expect("a folder").path()).collect();
    folders.sort();
    for flow in folders {
        let config = fs::read_to_string(flow.join("config.yaml")).expect("each has one");
        let of = |key: &str| config.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let (Some(log), Some(kind)) = (of("log_file:"), of("log_type:")) else { continue };
        let text = fs::read_to_string(flow.join(log)).expect("each has a log");
        texts.entry(kind.to_owned()).or_default().push_str(&text);
    }
    let write = |(kind, text): (String, String)| {
        let path = folder.join(format!("{kind}.log"));
        fs::write(&path, text.repeat(BYTES / text.len() + 1)).expect("room on the disk");
        (kind, path)
    };
    texts.into_iter().map(write).collect()
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
            let alone = alerts(&rules, kind, log, 1);
            found += alone.len();
            remembered += alone.iter().filter(|alert| alert.scenario == "test/remembered").count();
            for threads in [2, 4] {
                let others = alerts(&rules, kind, log, threads);
                assert_eq!(others.len(), alone.len(), "{kind} {threads}");
                assert_eq!(others.iter().zip(&alone).position(|(a, b)| a != b), None, "{kind} {threads}");
            }
        }
        assert!(found > 10, "{found} alerts");
        assert_eq!(remembered > 0, in_order == InOrder::Some);
    }
}
