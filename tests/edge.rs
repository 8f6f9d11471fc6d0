//! Reverse proxies, lists and programs beside the kernel: a ban made by hand reaches all of them, and so does lifting it.

use std::path::Path;
use std::process::Command;

use crate::support::cordon::Cordon;
use crate::support::eventually;

const TOKEN: &str = "a-token-of-some-length";

/// The status and body of `path` at the socket `name`, asked with `headers`.
fn ask(folder: &Path, name: &str, path: &str, headers: &[&str]) -> (String, String) {
    let mut command = Command::new("curl");
    command.args(["-q", "-s", "-w", "%{stderr}%{http_code}", "--max-time", "15", "--unix-socket"]);
    command.arg(folder.join(name));
    for header in headers {
        command.args(["-H", header]);
    }
    let output = command.arg(format!("http://localhost{path}")).output();
    let output = output.expect("curl is installed: make test installs it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stderr), text(&output.stdout))
}

#[test]
fn a_ban_reaches_proxies_lists_and_programs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().display();
    let program = folder.path().join("program");
    std::fs::write(&program, format!("#!/bin/sh\ncat >> {place}/told\n")).expect("a writable folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("a file of ours");
    let config = format!(
        "enforcement:\n  mode: dry-run\n  targets:\n    - mode: enforce\n      forward-auth:\n        listen: unix:{place}/forward.sock\n        \
         profiles: {{ web: {{ identity: X-User }}, nginx: {{ proxy: nginx }} }}\n    - mode: enforce\n      feed:\n        \
         listen: unix:{place}/feed.sock\n        consumers: {{ hq: {{ token: {TOKEN} }} }}\n    - mode: enforce\n      exec:\n        \
         command: [{place}/program]\n        style: once\n"
    );
    let mut cordon = Cordon::install(None, folder.path(), &config, "");
    cordon.start();
    let asks = |who: &str| {
        let header = format!("X-Forwarded-For: {who}");
        ask(folder.path(), "forward.sock", "/v1/check/web", &[&header, "Accept: application/json"])
    };
    let list = || ask(folder.path(), "feed.sock", &format!("/feed/{TOKEN}/cordon.txt"), &[]).1;
    eventually("decisions are known", || ask(folder.path(), "forward.sock", "/v1/health", &[]).0 == "204");
    assert_eq!(asks("203.0.113.66").0, "204");

    cordon.ask(&["ban", "203.0.113.66"]);
    eventually("the proxy is told", || asks("203.0.113.66").0 == "403");
    eventually("the list has it", || list().lines().any(|line| line == "203.0.113.66"));
    let told = || std::fs::read_to_string(folder.path().join("told")).unwrap_or_default();
    eventually("the program is told", || {
        told().contains("\"op\":\"add\",\"action\":\"ban\",\"scope\":\"Ip\",\"value\":\"203.0.113.66\"")
    });
    assert_eq!(asks("203.0.113.67").0, "204");

    let refused: serde_json::Value = serde_json::from_str(&asks("203.0.113.66").1).expect("JSON");
    let why = cordon.ask(&["why", refused["reference"].as_str().expect("a reference")]);
    let story = "by decision 1, which is still in force\n203.0.113.66 is to be kept out";
    assert!(why.starts_with("a reverse proxy refused 203.0.113.66 at ") && why.contains(story), "{why}");
    let wrong = cordon.run(&["why", "0000-0000"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("neither an address nor a reference"), "{wrong:?}");

    let setup = cordon.ask(&["bouncer", "setup", "nginx", "--profile", "nginx", "--plan"]);
    for part in ["auth_request /_cordon;", "/v1/check/nginx", "forward.sock;", "good    somebody answers at"] {
        assert!(setup.contains(part), "`{part}` is missing in:\n{setup}");
    }

    cordon.ask(&["lift", "203.0.113.66"]);
    eventually("the proxy lets it pass again", || asks("203.0.113.66").0 == "204");
    eventually("the list is empty again", || list().starts_with("# cordon: 0 entries"));
    eventually("the program takes it back", || told().contains("\"op\":\"remove\""));
    cordon.stop();
    assert!(!folder.path().join("forward.sock").exists(), "the socket is taken away");
}
