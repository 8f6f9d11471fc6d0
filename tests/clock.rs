//! What happens when the clock is set, forward and back, while the API runs.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::cordon::Cordon;
use crate::support::eventually;

/// The library that sets the clock of one process; `None` where it is not installed.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let found =
        folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file());
    if found.is_none() {
        eprintln!("SKIPPED, NOT PASSED: libfaketime is not installed");
    }
    found
}

/// The addresses that a bouncer with `key` is told: those that are new, those that are over.
fn pull(cordon: &Cordon, key: &str, startup: bool) -> [String; 2] {
    let (_, body) = cordon.get(key, &format!("v1/decisions/stream?startup={startup}"));
    let body: Value = serde_json::from_str(&body).expect("the API answers with JSON");
    ["new", "deleted"].map(|kind| {
        let decisions = body[kind].as_array().into_iter().flatten();
        let mut values: Vec<String> =
            decisions.filter_map(|decision| decision["value"].as_str()).map(str::to_owned).collect();
        values.sort();
        values.join(" ")
    })
}

#[test]
fn a_clock_that_jumps_ends_no_ban_too_early_and_brings_back_nothing_that_was_lifted() {
    let Some(library) = library() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cordon = Cordon::install(None, folder.path(), "enforcement:\n  mode: off\n", "");
    cordon.give_clock(&library);
    cordon.start();
    let banned = |cordon: &Cordon| {
        let mut banned = cordon.banned();
        banned.sort();
        banned
    };
    cordon.ask(&["bouncers", "add", "fw", "--key", "right"]);
    cordon.ask(&["ban", "198.51.100.1", "--for", "4h"]);
    cordon.ask(&["ban", "198.51.100.2", "--for", "30d"]);
    assert_eq!(pull(&cordon, "right", true), ["198.51.100.1 198.51.100.2", ""]);

    cordon.set_clock("+3h");
    assert_eq!(banned(&cordon), ["Ip:198.51.100.1", "Ip:198.51.100.2"], "neither is over yet");
    assert_eq!(pull(&cordon, "right", false), ["", ""]);

    cordon.set_clock("+5h");
    eventually("the first one is over", || banned(&cordon) == ["Ip:198.51.100.2"]);
    assert_eq!(pull(&cordon, "right", false), ["", "198.51.100.1"]);

    cordon.set_clock("-1h");
    // The end of the first one lies ahead again, but nobody was asked to enforce it anew.
    cordon.ask(&["ban", "198.51.100.3", "--for", "1h"]);
    assert_eq!(pull(&cordon, "right", false), ["198.51.100.3", ""]);
    cordon.ask(&["lift", "198.51.100.2"]);
    assert_eq!(pull(&cordon, "right", false), ["", "198.51.100.2"]);

    cordon.kill();
    cordon.start();
    assert_eq!(
        banned(&cordon),
        ["Ip:198.51.100.1", "Ip:198.51.100.3"],
        "what holds by the clock holds, what was lifted is not back"
    );
    cordon.ask(&["audit", "verify"]);

    cordon.set_clock("+0");
    eventually("the last one is over", || banned(&cordon) == ["Ip:198.51.100.1"]);
    cordon.stop();
}
