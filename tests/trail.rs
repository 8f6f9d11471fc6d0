//! The audit trail, and the database taken and put back, with the real program.

use serde_json::Value;

use crate::support::cordon::Cordon;

#[test]
fn the_trail_tells_who_did_what_and_survives_backup_and_restore() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("auth.log");
    std::fs::write(&log, "").expect("a writable folder");
    let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", log.display());
    let mut cordon = Cordon::install(None, folder.path(), "", &acquisition);
    cordon.start();
    cordon.ask(&["ban", "203.0.113.7", "--reason", "noise"]);
    cordon.ask(&["bouncers", "add", "edge", "-k", "a key that nobody else may know"]);
    cordon.ask(&["forgive", "203.0.113.7"]);
    let records: Vec<Value> = serde_json::from_str(&cordon.ask(&["audit", "list", "-o", "json"])).expect("JSON");
    let actions: Vec<&str> = records.iter().filter_map(|record| record["action"].as_str()).collect();
    for action in ["decisions.add", "bouncers.add", "forgive", "decisions.delete"] {
        assert!(actions.contains(&action), "{action} is missing in {actions:?}");
    }
    let ban = records.iter().find(|record| record["action"] == "decisions.add").expect("it is there");
    assert_eq!((&ban["actor"], &ban["origin"], &ban["proof"]), (&"local".into(), &"socket".into(), &"socket".into()));
    let export = cordon.ask(&["audit", "export"]);
    assert_eq!(export.lines().count(), records.len());
    assert!(!export.contains("nobody else"), "a key is no news: {export}");
    let narrowed = cordon.ask(&["audit", "list", "--action", "decisions", "--actor", "local", "--since", "1h"]);
    assert!(narrowed.contains("203.0.113.7") && !narrowed.contains("edge"), "{narrowed}");
    let verified = cordon.ask(&["audit", "verify"]);
    let head = verified.lines().find_map(|line| line.strip_prefix("head: ")).expect("it tells the head").to_owned();
    cordon.ask(&["audit", "verify", "--expect", &head]);

    let copy = folder.path().join("copy.db");
    let copy = copy.to_str().expect("the path is text");
    cordon.ask(&["backup", copy]);
    cordon.ask(&["ban", "203.0.113.8"]);
    assert!(!cordon.run(&["restore", copy]).status.success(), "nothing is replaced under a running server");
    cordon.stop();
    cordon.ask(&["restore", copy]);
    cordon.start();
    let bans = cordon.ask(&["decisions", "list", "-a", "-o", "json"]);
    assert!(!bans.contains("203.0.113.8"), "{bans}");
    cordon.ask(&["audit", "verify", "--expect", &head]);
    let last = cordon.ask(&["audit", "list", "--action", "restore"]);
    assert!(last.contains("copy.db"), "{last}");
}
