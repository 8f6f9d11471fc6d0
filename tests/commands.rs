//! The commands against a running process that only says what it would do.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::support::cordon::Cordon;
use crate::support::eventually;

/// A cordon that watches `auth.log` in `folder`, in dry run.
fn watching(folder: &Path) -> Cordon {
    let log = folder.join("auth.log");
    std::fs::write(&log, "").expect("a writable folder");
    let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", log.display());
    let mut cordon = Cordon::install(None, folder, "allowlist: [192.0.2.0/24]\n", &acquisition);
    cordon.start();
    cordon
}

/// Seven wrong passwords from `ip`.
fn attack(folder: &Path, ip: &str) {
    guess(folder, ip, 7);
}

/// So many wrong passwords from `ip`.
fn guess(folder: &Path, ip: &str, times: u16) {
    let mut log = OpenOptions::new().append(true).open(folder.join("auth.log")).expect("the log is there");
    let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    for port in 40_001..=40_000 + times {
        let line = format!("{time} victim sshd[7]: Failed password for root from {ip} port {port} ssh2\n");
        log.write_all(line.as_bytes()).expect("room on the disk");
    }
}

#[test]
fn an_attack_can_be_asked_about_from_every_side() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cordon = watching(folder.path());
    attack(folder.path(), "203.0.113.66");
    attack(folder.path(), "192.0.2.7");
    eventually("the attack is recognised", || !cordon.banned().is_empty());
    assert_eq!(cordon.banned(), ["Ip:203.0.113.66"], "who is on an allowlist is left alone");

    let alerts: Value = serde_json::from_str(&cordon.ask(&["alerts", "list", "-o", "json"])).expect("JSON");
    assert_eq!(alerts[0]["scenario"], "cordon/ssh-bf");
    assert_eq!(alerts[0]["source"]["value"], "203.0.113.66");
    assert_eq!(alerts[0]["events"].as_array().map(Vec::len), Some(7));
    let inspected = cordon.ask(&["alerts", "inspect", "1", "--details"]);
    assert!(
        inspected.contains("Scope:Value   Ip:203.0.113.66") && inspected.contains("ssh_failed-auth"),
        "{inspected}"
    );
    let decisions: Value = serde_json::from_str(&cordon.ask(&["decisions", "list", "-o", "json"])).expect("JSON");
    assert_eq!(decisions[0]["decisions"][0]["type"], "ban");

    let why = cordon.ask(&["why", "203.0.113.66"]);
    for part in [
        "203.0.113.66 is to be kept out, ",
        ": ban until",
        "auth.log:0  ",
        "Failed password for root from 203.0.113.66 port 40001 ssh2",
        "cordon/sshd-logs",
        "leaky: 7 events for key `203.0.113.66`, capacity 6",
        "cordon lift 203.0.113.66",
    ] {
        assert!(why.contains(part), "`{part}` is missing in:\n{why}");
    }
    let why = cordon.ask(&["why", "192.0.2.7"]);
    assert!(why.contains("is not kept out") && why.contains("192.0.2.0/24 from cordon.yaml"), "{why}");

    let status = cordon.ask(&["status"]);
    for part in ["dry run", "1 in force", "auth.log: 14 lines, 14 understood, 0 not"] {
        assert!(status.contains(part), "`{part}` is missing in:\n{status}");
    }
    assert_eq!(cordon.ask(&["lift", "203.0.113.66"]), "203.0.113.66: 1 decision lifted\n");
    assert_eq!(cordon.banned(), Vec::<String>::new());
}

#[test]
fn decisions_by_hand_are_made_listed_and_ended() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cordon = watching(folder.path());
    assert_eq!(cordon.ask(&["decisions", "list"]), "no decisions in force\n");
    assert_eq!(
        cordon.ask(&["ban", "203.0.113.0/24", "--for", "7d", "--reason", "rude"]),
        "ban 203.0.113.0/24 for 168h0m0s\n"
    );
    cordon.ask(&["decisions", "add", "--scope", "username", "--value", "bob", "--type", "captcha", "-d", "1h"]);
    assert_eq!(cordon.banned(), ["username:bob", "Range:203.0.113.0/24"]);

    let refused = cordon.run(&["ban", "192.0.2.7"]);
    assert!(!refused.status.success());
    insta::assert_snapshot!(String::from_utf8_lossy(&refused.stderr), @r"
    error: 192.0.2.7 is on an allowlist: 192.0.2.0/24 from cordon.yaml
    hint: take it off that list first (`cordon allowlists remove`); built-in and own addresses always stay
    ");

    insta::assert_snapshot!(cordon.ask(&["lift", "203.0.113.9"]), @r"
    nothing was decided about 203.0.113.9
    203.0.113.9 is still covered by a decision about 203.0.113.0/24: `cordon lift 203.0.113.0/24`
    ");
    assert_eq!(cordon.ask(&["lift", "203.0.113.0/24"]), "203.0.113.0/24: 1 decision lifted\n");

    let file = folder.path().join("bad.csv");
    std::fs::write(&file, "value,duration,scope\n198.51.100.1,2h,\n198.51.100.0/28,1d,range\n192.0.2.9,,\n")
        .expect("a writable folder");
    let path = file.to_string_lossy();
    assert_eq!(
        cordon.ask(&["decisions", "import", "-i", &path]),
        "Imported 2 decisions\n1 left out: on an allowlist\n"
    );
    let mut banned = cordon.banned();
    banned.sort();
    assert_eq!(banned, ["Ip:198.51.100.1", "Range:198.51.100.0/28", "username:bob"]);
    let copy = folder.path().join("copy");
    for (format, count, restored) in [("json", 3, 3), ("csv", 3, 3), ("values", 3, 2)] {
        let path = copy.with_extension(format);
        let path = path.to_string_lossy();
        cordon.ask(&["decisions", "export", "--format", format, "--to", &path]);
        assert_eq!(cordon.ask(&["decisions", "delete", "--all"]), format!("{count} decision(s) deleted\n"));
        let told = cordon.ask(&["decisions", "import", "-i", &path, "--format", format, "--batch", "2"]);
        assert_eq!(told, format!("Imported {restored} decisions\n"), "{format}");
        let mut again = cordon.banned();
        again.sort();
        assert_eq!(again, banned.iter().take(restored).cloned().collect::<Vec<_>>(), "{format}");
    }
    assert_eq!(cordon.ask(&["decisions", "delete", "--range", "198.51.100.0/24"]), "0 decision(s) deleted\n");
    assert_eq!(
        cordon.ask(&["decisions", "delete", "--range", "198.51.100.0/24", "--contained"]),
        "2 decision(s) deleted\n"
    );

    std::fs::write(&file, "value\n198.51.100.1\n198.51.100.256\n198.51.100.3\n").expect("a writable folder");
    let path = file.to_string_lossy();
    let refused = cordon.run(&["decisions", "import", "-i", &path, "--batch", "1"]);
    assert!(!refused.status.success());
    insta::assert_snapshot!(String::from_utf8_lossy(&refused.stderr), @r"
    error: line 3: `198.51.100.256` is not an IP address or a range, expected a form like `192.0.2.4` or `192.0.2.0/24`
    hint: nothing was imported; correct it, or leave such entries out with --on-error skip
    ");
    assert_eq!(cordon.banned(), Vec::<String>::new());
    assert_eq!(
        cordon.ask(&["decisions", "import", "-i", &path, "--on-error", "skip"]),
        "Imported 2 decisions\n1 left out: wrong\n"
    );
}

#[test]
fn who_is_forgiven_starts_afresh() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cordon = watching(folder.path());
    let is_banned = |ip: &str| cordon.banned().contains(&format!("Ip:{ip}"));
    let attack_until_banned = |ip: &str| {
        attack(folder.path(), ip);
        eventually("the attack is recognised", || is_banned(ip));
    };
    guess(folder.path(), "203.0.113.66", 6);
    attack_until_banned("203.0.113.1");
    assert!(!is_banned("203.0.113.66"), "one more would be too many");
    let told = cordon.ask(&["forgive", "203.0.113.66", "--for", "1h"]);
    assert!(told.starts_with("203.0.113.66: 0 decisions lifted; what was counted against it is forgotten\n"), "{told}");
    attack(folder.path(), "203.0.113.66");
    attack_until_banned("203.0.113.2");
    assert!(!is_banned("203.0.113.66"), "it is not punished for a while");
    cordon.ask(&["allowlists", "remove", "forgiven", "203.0.113.66"]);
    guess(folder.path(), "203.0.113.66", 6);
    attack_until_banned("203.0.113.3");
    assert!(!is_banned("203.0.113.66"), "what it did before does not count");
    attack_until_banned("203.0.113.66");
    let told = cordon.ask(&["forgive", "203.0.113.66"]);
    assert!(told.contains(" lifted; ") && !told.contains(" 0 decisions"), "{told}");
    assert!(!is_banned("203.0.113.66"));
}

#[test]
fn allowlists_and_accounts_are_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cordon = watching(folder.path());
    cordon.ask(&["ban", "198.51.100.7"]);
    cordon.ask(&["allowlists", "create", "office", "-d", "our own"]);
    assert_eq!(
        cordon.ask(&["allowlists", "add", "office", "198.51.100.0/24", "2001:db8::1", "-d", "desk"]),
        "added 2 values to allowlist office\n1 decisions deleted by allowlists\n"
    );
    assert_eq!(cordon.banned(), Vec::<String>::new());
    let file = folder.path().join("visitors.csv");
    std::fs::write(&file, "value,expiration,comment\n203.0.113.8,7d,\"audit, yearly\"\n203.0.113.9,,\n")
        .expect("written");
    let path = file.to_string_lossy();
    assert_eq!(cordon.ask(&["allowlists", "import", "office", "-i", &path]), "added 2 values to allowlist office\n");
    assert_eq!(
        cordon.ask(&["allowlists", "remove", "office", "203.0.113.9"]),
        "removed 1 values from allowlist office\n"
    );
    let key = cordon.ask(&["bouncers", "add", "gate", "-o", "raw"]);
    assert!(key.len() >= 32 && !key.ends_with('\n'), "`{key}` is no key");
    cordon.ask(&["machines", "add", "web1"]);

    cordon.stop();
    cordon.start();
    let office = cordon.ask(&["allowlists", "inspect", "office", "-o", "raw"]);
    for row in [
        "office,our own,198.51.100.0/24,desk,never,",
        "office,our own,2001:db8::1,desk,never,",
        "office,our own,203.0.113.8,\"audit, yearly\",",
    ] {
        assert!(office.lines().any(|line| line.starts_with(row)), "`{row}` is missing in:\n{office}");
    }
    assert_eq!(
        cordon.ask(&["allowlists", "check", "198.51.100.9", "203.0.113.1"]),
        "198.51.100.9 is allowlisted by item 198.51.100.0/24 from office (desk)\n203.0.113.1 is not allowlisted\n"
    );
    let bouncers: Value = serde_json::from_str(&cordon.ask(&["bouncers", "list", "-o", "json"])).expect("JSON");
    assert_eq!(bouncers[0]["name"], "gate");
    let machines = cordon.ask(&["machines", "list", "-o", "raw"]);
    assert!(machines.lines().any(|row| row.starts_with("web1,")), "{machines}");
    cordon.ask(&["bouncers", "delete", "gate"]);
    cordon.ask(&["machines", "delete", "web1"]);
    cordon.ask(&["allowlists", "delete", "office"]);
    let again = cordon.run(&["bouncers", "delete", "gate"]);
    assert!(!again.status.success());
    insta::assert_snapshot!(String::from_utf8_lossy(&again.stderr), @"error: cannot delete bouncer `gate`: ent: bouncer not found");
}

#[test]
fn a_second_process_on_the_same_state_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cordon = watching(folder.path());
    let second = cordon.run(&["run"]);
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).replace(&*folder.path().to_string_lossy(), "FOLDER");
    insta::assert_snapshot!(said, @r"
    error: FOLDER/cordon/state/cordon.db.lock: already in use by another cordon
    hint: one server at a time can use a database
    ");
}

#[test]
fn a_line_is_explained_step_by_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cordon = Cordon::install(None, folder.path(), "", "");
    let explain = |args: &[&str]| cordon.ask(&[&["explain", "--type"], args].concat());
    let line = "Nov 22 10:00:01 web sshd[7]: Failed password for root from 203.0.113.7 port 22 ssh2";
    let told = explain(&["syslog", "--line", line]);
    for part in [
        "├ s00-raw",
        "cordon/syslog-logs  (shipped:parsers/s00-raw/syslog-logs.yaml:1)",
        "Parsed.program = sshd",
        "Meta.source_ip = 203.0.113.7",
        "├ parsed",
        "cordon/ssh-bf  pours into the bucket of `203.0.113.7`",
    ] {
        assert!(told.contains(part), "`{part}` is missing in:\n{told}");
    }
    let told: Value = serde_json::from_str(&explain(&["syslog", "--line", "nonsense", "-o", "json"])).expect("JSON");
    assert_eq!(told[0]["outcome"], "unparsed");
    assert_eq!(explain(&["syslog", "--line", line, "--failures"]), "");
}

#[test]
fn an_old_log_is_replayed_by_the_time_in_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cordon = Cordon::install(None, folder.path(), "", "");
    let log = folder.path().join("old.log");
    let line = |hour: u32, second: u32, ip: &str| {
        format!("Mar  4 {hour:02}:00:{second:02} web sshd[7]: Failed password for root from {ip} port {second} ssh2\n")
    };
    // one attacks within seconds, the other tries once an hour
    let fast = (1..=7).map(|second| line(3, second, "203.0.113.66"));
    let slow = (4..=11).map(|hour| line(hour, 1, "203.0.113.20"));
    std::fs::write(&log, fast.chain(slow).collect::<Vec<_>>().concat()).expect("a writable folder");
    let path = log.to_string_lossy();
    let text = cordon.ask(&["replay", &path, "--type", "syslog", "-o", "json"]);
    let replayed: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&replayed["lines"], &replayed["parsed"]), (&15.into(), &15.into()));
    let alerts = replayed["alerts"].as_array().expect("a list");
    assert_eq!(alerts.len(), 1, "{text}");
    assert_eq!(alerts[0]["source"]["value"], "203.0.113.66");
    assert_eq!(alerts[0]["decisions"][0]["type"], "ban");
    assert!(alerts[0]["stop_at"].as_str().is_some_and(|time| time.contains("-03-04T03:00:07")), "{text}");

    let output = cordon.run(&["replay", &path, "--type", "syslog", "--workers", "1", "--stats"]);
    let told = String::from_utf8_lossy(&output.stderr);
    let stats: Value = serde_json::from_str(told.lines().last().expect("a line")).expect("JSON");
    let count = |name: &str| stats[name].as_u64();
    assert_eq!((count("lines"), count("events"), count("alerts")), (Some(15), Some(15), Some(1)), "{told}");
    assert_eq!(count("workers"), Some(1), "{told}");
    let figures = ["wall_s", "cpu_s", "lines_per_cpu_s", "max_rss_bytes"].map(|name| stats[name].as_f64());
    assert!(figures.iter().all(|figure| figure.is_some_and(|figure| figure > 0.0)), "{told}");
    let shares = stats["stages"].as_array().expect("a list").iter().filter_map(|stage| stage["share"].as_f64());
    let whole: f64 = shares.sum();
    assert!((0.99..1.01).contains(&whole), "the parts make the whole: {told}");
}
