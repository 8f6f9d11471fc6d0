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

    cordon.ask(&["ban", "203.0.113.99"]);
    assert!(cordon.ask(&["forget", "203.0.113.99"]).starts_with("alerts erased: 1;"));
    assert!(!cordon.ask(&["audit", "export"]).contains("203.0.113.99"));
    assert!(cordon.ask(&["audit", "verify", "--expect", &head]).contains(" 1 with a forgotten subject"));
    cordon.ask(&["pki", "init", "--site", "here"]);
    cordon.ask(&["pki", "issue", "edge", "--role", "bouncer"]);
    assert!(cordon.ask(&["audit", "list", "--action", "pki"]).contains("edge (bouncer)"));

    let copy = folder.path().join("copy.db");
    let copy = copy.to_str().expect("the path is text");
    cordon.ask(&["backup", copy]);
    cordon.ask(&["ban", "203.0.113.8"]);
    let refused = cordon.run(&["restore", copy]);
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && complaint.contains("stop it first"), "{complaint}");
    assert!(!cordon.run(&["backup", copy]).status.success(), "nothing is overwritten");
    cordon.stop();
    let state = folder.path().join("cordon/state");
    let files = ["pki/edge.key", "token.keys"].map(|name| state.join(name));
    let before = files.clone().map(|path| (std::fs::read(&path).ok(), mode(&path)));
    assert!(before.iter().all(|(content, mode)| content.is_some() && *mode == Some(0o600)), "{before:?}");
    for path in &files {
        std::fs::remove_file(path).expect("it is ours");
    }
    cordon.ask(&["pki", "revoke", "edge"]);
    cordon.ask(&["restore", copy]);
    assert!(
        files.map(|path| (std::fs::read(&path).ok(), mode(&path))) == before,
        "certificates and keys are as they were"
    );
    assert!(cordon.ask(&["pki", "list"]).contains("good"), "what was revoked later is not revoked in the backup");
    // without a running server, too
    cordon.ask(&["pki", "revoke", "edge"]);
    cordon.start();
    assert!(cordon.ask(&["audit", "list", "--action", "pki.revoke"]).contains("uid "));
    let bans = cordon.ask(&["decisions", "list", "-a", "-o", "json"]);
    assert!(!bans.contains("203.0.113.8"), "{bans}");
    cordon.ask(&["audit", "verify", "--expect", &head]);
    let last = cordon.ask(&["audit", "list", "--action", "restore"]);
    assert!(last.contains("copy.db"), "{last}");
}

fn mode(path: &std::path::Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

#[test]
fn what_is_handed_to_those_who_help_holds_no_secret() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("auth.log");
    std::fs::write(&log, "").expect("a writable folder");
    let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", log.display());
    let token = "a-token-that-lets-machines-in-0123456789";
    let config = format!(
        "api:\n  listen: off\n  auto_registration:\n    enabled: true\n    token: {token}\n    allowed_ranges: [192.0.2.0/24]\n"
    );
    let mut cordon = Cordon::install(None, folder.path(), &config, &acquisition);
    cordon.start();
    cordon.ask(&["bouncers", "add", "edge", "-k", "key-of-the-bouncer-edge"]);
    cordon.ask(&["machines", "add", "web", "-p", "password-of-web"]);
    let file = folder.path().join("support.json");
    cordon.ask(&["support", "--out", file.to_str().expect("the path is text")]);
    let text = std::fs::read_to_string(&file).expect("it was written");
    let database = std::fs::read(folder.path().join("cordon/state/cordon.db")).expect("it is there");
    let wal = std::fs::read(folder.path().join("cordon/state/cordon.db-wal")).unwrap_or_default();
    let stored = String::from_utf8_lossy(&[database, wal].concat()).into_owned();
    // a bcrypt hash begins like this, and a key's hash is 128 digits
    assert!(stored.contains("$2b$"), "the store has a hash to look for");
    for secret in [token, "key-of-the-bouncer-edge", "password-of-web", "$2b$", "$2y$"] {
        assert!(!text.contains(secret), "{secret} is in the bundle");
    }
    let longest = text.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or_default();
    assert!(longest < 128, "something like the hash of a key is in the bundle");
    let bundle: Value = serde_json::from_str(&text).expect("JSON");
    for (place, part) in [
        ("/bouncers/0/name", "edge"),
        ("/configuration/api/auto_registration/token", "(not shown)"),
        ("/version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(bundle.pointer(place).and_then(Value::as_str), Some(part), "{place}");
    }
    assert!(bundle["metrics"].as_array().is_some_and(|lines| lines.len() > 5), "{}", bundle["metrics"]);
    assert!(!cordon.run(&["support", "--out", file.to_str().expect("the path is text")]).status.success());
}
