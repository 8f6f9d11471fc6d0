//! What we ship loads, stands hostile lines, and so do the field's own parsers.

use std::fs;

use expr::Compiler;
use model::{FieldTable, fields};
use parsers::Trace;

use crate::support::{Worker, files, library, load_files, parsers_of, root};

#[test]
fn all_patterns_load() {
    assert!(library().names().count() >= 397);
}

#[test]
fn hostile_lines_choose_no_source() {
    let (set, table) = parsers_of(&root().join("parsers/hub"));
    let mut worker = Worker::new(&table);
    let mut wrong = Vec::new();
    let mut rows = 0;
    for entry in fs::read_dir(root().join("tests/hostile")).expect("tables of hostile lines") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("readable");
        for (number, row) in text.lines().enumerate().filter(|(_, row)| !row.is_empty() && !row.starts_with('#')) {
            let cells: Vec<&str> = row.split('\t').collect();
            let [name, labels, line, expected] = cells[..] else {
                panic!("{}:{}: four cells are wanted, found {}", path.display(), number + 1, cells.len());
            };
            rows += 1;
            let mut sources = [false, true].map(|traced| {
                let mut trace = Trace::default();
                worker.run(&set, labels, &line.replace('␤', "\n"), traced.then_some(&mut trace));
                worker.event.get(fields::SOURCE_IP).filter(|ip| !ip.is_empty()).unwrap_or("-").to_owned()
            });
            assert_eq!(sources[0], sources[1], "{name}: dispatch changes nothing");
            if sources[0] != expected {
                let place = format!("{}:{}", path.display(), number + 1);
                wrong.push(format!("{place}: {name}: expected {expected}, found {}", std::mem::take(&mut sources[0])));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows > 100);
}

#[test]
fn the_fields_rules_load_unmodified() {
    let hub = root().join("../shared/hub");
    if !hub.is_dir() {
        eprintln!("SKIPPED: the reference rules are not here ({})", hub.display());
        return;
    }
    let mut table = FieldTable::default();
    let mut problems = Vec::new();
    for kind in ["parsers", "postoverflows"] {
        let loaded = load_files(&files(&hub.join(kind)), &mut Compiler::new(&mut table));
        problems.extend(loaded.problems.iter().map(ToString::to_string));
        let set = loaded.finish(&mut table);
        assert!(set.reports().count() > 0, "{kind}");
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Dispatch, memories and scanners change nothing: what every node is asked for gives the same event as what is asked for only where
/// it could matter.
#[test]
fn what_is_skipped_and_remembered_changes_no_event() {
    let hub = root().join("../shared/hub");
    if !hub.is_dir() {
        eprintln!("SKIPPED: the reference rules are not here ({})", hub.display());
        return;
    }
    let mut table = FieldTable::default();
    let set = load_files(&files(&hub.join("parsers")), &mut Compiler::new(&mut table)).finish(&mut table);
    let table = std::sync::Arc::new(table);
    let [mut quick, mut full] = [Worker::new(&table), Worker::new(&table)];
    let mut compared = 0;
    for entry in fs::read_dir(hub.join(".tests")).expect("the tests of the reference rules") {
        let folder = entry.expect("readable").path();
        let Ok(config) = fs::read_to_string(folder.join("config.yaml")) else { continue };
        let setting = |key: &str| {
            let line = config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
        };
        let (Some(kind), Some(log)) = (setting("log_type"), setting("log_file")) else { continue };
        let Ok(log) = fs::read(folder.join(log)) else { continue };
        // twice, so that what was remembered is used
        for line in String::from_utf8_lossy(&log).lines().take(2).flat_map(|line| [line, line]) {
            let mut trace = Trace::default();
            let expected = full.run(&set, &kind, line, Some(&mut trace));
            assert_eq!(quick.run(&set, &kind, line, None), expected, "{}: {line}", folder.display());
            assert_eq!(quick.event.dump(), full.event.dump(), "{}: {line}", folder.display());
            assert_eq!(quick.passed(&set), full.passed(&set), "{}: {line}", folder.display());
            compared += 1;
        }
    }
    assert!(compared > 500, "{compared}");
}
