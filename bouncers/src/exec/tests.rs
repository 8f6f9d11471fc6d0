//! Real programs, small ones.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::config::RawConfig;
use super::*;
use crate::engine::plan::{self, Placement, Plan};
use crate::engine::{Bouncer, Extent, Never, Outcome, Wanted};
use crate::told::Told;
use crate::webhook::batch::tests::{key, placed};

/// A target that is the script `text`, run in `style`.
fn target(folder: &Path, style: &str, text: &str) -> Told<Exec> {
    let path = folder.join("program");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a writable folder");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a file of ours");
    let text = format!(
        "command: [{}, 'an argument; with $(danger)']\nstyle: {style}\nfolder: {}\nlimit: 2s\nbatch: 2",
        path.display(),
        folder.display()
    );
    let raw: RawConfig = serde_saphyr::from_str(&text).expect("valid test YAML");
    Told::new(Exec::open("program", raw.check().expect("a valid test configuration")))
}

fn adding(nets: &[&str]) -> Plan {
    let change = |net: &&str| plan::Change { key: key(net), before: None, after: Some(placed(600, &[])), why: None };
    Plan { changes: nets.iter().map(change).collect() }
}

async fn outcome(target: &mut Told<Exec>, nets: &[&str]) -> String {
    match target.apply(&adding(nets), Timestamp::now()).await {
        Ok(Outcome { refused, .. }) if refused.is_empty() => "done".to_owned(),
        Ok(Outcome { refused, .. }) => format!("refused {}: {}", refused.len(), refused[0].1),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn exit_codes_say_what_becomes_of_a_batch() {
    // (script, outcome)
    let cases = [
        ("cat > read; exit 0", "done"),
        ("exit 0", "done"),
        ("echo busy >&2; exit 75", "`program` does not answer as it should: the program asks for another try: busy"),
        ("echo wrong; exit 1", "refused 1: the program ended with 1: wrong"),
        ("kill -9 $$", "`program` does not answer as it should: the program was ended by a signal"),
    ];
    for (script, expected) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut target = target(folder.path(), "once", script);
        assert_eq!(outcome(&mut target, &["203.0.113.9"]).await, expected, "{script}");
        assert_eq!(
            target.check(Vec::new()).await.expect("it can be looked at").intact,
            expected == "done" || expected.starts_with("refused")
        );
    }
}

#[tokio::test]
async fn a_program_gets_json_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = "cat > read; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= > env; printf '%s' \"$1\" > arguments; pwd > where; \
                  grep NoNewPrivs /proc/self/status > rights";
    let mut target = target(folder.path(), "once", script);
    assert_eq!(outcome(&mut target, &["203.0.113.9", "203.0.113.10", "203.0.113.11"]).await, "done");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("the program wrote it");
    let last: serde_json::Value = serde_json::from_str(&read("read")).expect("JSON");
    assert_eq!(last["changes"][0]["value"], "203.0.113.11", "two batches of two at the most");
    assert_eq!(read("env"), "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n");
    assert_eq!(read("arguments"), "an argument; with $(danger)");
    assert_eq!(read("rights").split_whitespace().last(), Some("1"));
}

#[tokio::test]
async fn what_takes_too_long_loses_its_whole_group() {
    for style in ["once", "stay"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut target =
            target(folder.path(), style, "trap '' TERM; sh -c 'echo $$ > child; trap \"\" TERM; sleep 60' & sleep 60");
        let began = Instant::now();
        let told = outcome(&mut target, &["203.0.113.9"]).await;
        assert!(told.contains("within 2s"), "{told}");
        assert!(began.elapsed() < Duration::from_secs(20));
        let child = std::fs::read_to_string(folder.path().join("child")).expect("the program wrote it");
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
            state.map_or(true, |state| state.contains(") Z "))
        };
        while !is_gone() && began.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(is_gone(), "its child is gone, too");
    }
}

#[tokio::test]
async fn a_program_that_stays_answers_line_by_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = "echo started >> starts\nwhile read -r line; do\n  case $line in\n    \
                  *203.0.113.66*) echo '{\"ok\":false,\"error\":\"not him\"}' ;;\n    \
                  *203.0.113.77*) echo '{\"ok\":false,\"retry\":true,\"error\":\"busy\"}' ;;\n    \
                  *203.0.113.88*) echo what ;;\n    \
                  *203.0.113.99*) exit 3 ;;\n    \
                  *) echo \"$line\" >> seen; echo '{\"ok\":true}' ;;\n  esac\ndone";
    let mut target = target(folder.path(), "stay", script);
    assert_eq!(outcome(&mut target, &["203.0.113.1", "203.0.113.2", "203.0.113.3"]).await, "done");
    assert_eq!(outcome(&mut target, &["203.0.113.66"]).await, "refused 1: not him");
    let failing = "`program` does not answer as it should: ";
    assert_eq!(outcome(&mut target, &["203.0.113.77"]).await, format!("{failing}busy"));
    let starts =
        || std::fs::read_to_string(folder.path().join("starts")).expect("the program wrote it").lines().count();
    assert_eq!(starts(), 1, "it stays");
    let told = outcome(&mut target, &["203.0.113.88"]).await;
    assert_eq!(told, format!("{failing}`what` is no answer, expected a line like `{{\"ok\":true}}`"));
    assert_eq!(outcome(&mut target, &["203.0.113.99"]).await, "refused 1: the program ended with 3: ");
    assert_eq!(outcome(&mut target, &["203.0.113.4"]).await, "done");
    assert_eq!(starts(), 3, "who answers nonsense or ends is started anew");
    let seen = std::fs::read_to_string(folder.path().join("seen")).expect("the program wrote it");
    assert_eq!(seen.lines().count(), 3, "two batches, then one");
}

#[tokio::test]
async fn a_flood_of_words_is_read_and_forgotten() {
    for (style, script) in [
        ("once", "yes word | head -c 3000000; yes word | head -c 3000000 >&2"),
        (
            "stay",
            "yes word | head -c 3000000 >&2; head -c 300000 /dev/zero | tr '\\0' x; echo; read -r line; echo '{\"ok\":true}'; sleep 9",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut target = target(folder.path(), style, script);
        let told = outcome(&mut target, &["203.0.113.9"]).await;
        assert!(told == "done" || told.contains("is no answer"), "{told}");
        assert!(told.len() < 1000);
    }
}

#[tokio::test]
async fn everything_goes_in_parts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut target = target(folder.path(), "once", "cat >> read");
    let nets = ["203.0.113.9", "203.0.113.10", "203.0.113.11"];
    let placement: Placement = nets.iter().map(|net| (key(net), placed(600, &[]))).collect();
    let never = Never::default();
    target.rebuild(Wanted::of(&placement, &never), Extent::Exactly, Timestamp::now()).await.expect("it is taken");
    let read = std::fs::read_to_string(folder.path().join("read")).expect("the program wrote it");
    let parts: Vec<_> = read
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["part"].clone())
        .collect();
    assert_eq!(parts, [serde_json::json!({"index": 1, "of": 2}), serde_json::json!({"index": 2, "of": 2})]);
}
