//! What a sudden end costs: nothing. The binary is killed without a warning at every place of an attack.

use std::fs::{self, OpenOptions};
use std::io::Write;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::cordon::Cordon;
use crate::support::eventually;

const GUESSER: &str = "203.0.113.66";

/// Five guesses are forgiven, the sixth is not; no time heals.
const SCENARIO: &str = "type: leaky
name: test/guesses
description: wrong passwords
filter: evt.Meta.log_type == 'ssh_failed-auth'
groupby: evt.Meta.source_ip
capacity: 5
leakspeed: 1000h
labels: {remediation: true}
";

struct Scene {
    /// Before its folder: it may have something to say when that is gone.
    cordon: Cordon,
    folder: TempDir,
    written: usize,
}

impl Scene {
    fn set() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rules = folder.path().join("rules");
        fs::create_dir_all(rules.join("scenarios")).expect("a writable folder");
        fs::write(rules.join("scenarios/guesses.yaml"), SCENARIO).expect("a writable folder");
        let log = folder.path().join("auth.log");
        fs::write(&log, "").expect("a writable folder");
        let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", log.display());
        let config = format!("rules:\n  folders: [{}]\n", rules.display());
        let mut cordon = Cordon::install(None, folder.path(), &config, &acquisition);
        cordon.start();
        Self { cordon, folder, written: 0 }
    }

    fn guess(&mut self) {
        let path = self.folder.path().join("auth.log");
        let mut log = OpenOptions::new().append(true).open(path).expect("the log is there");
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        let port = 40_000 + self.written;
        let line = format!("{time} victim sshd[7]: Failed password for root from {GUESSER} port {port} ssh2\n");
        log.write_all(line.as_bytes()).expect("room on the disk");
        self.written += 1;
    }

    /// Lines that this process has read.
    fn lines(&self) -> u64 {
        let status: Value = serde_json::from_str(&self.cordon.ask(&["status", "-o", "json"])).expect("JSON");
        status["sources"][0]["lines"].as_u64().expect("a count")
    }

    fn restart(&mut self) {
        self.cordon.kill();
        self.cordon.start();
    }

    /// Of each alert of the scenario: its identity, how many events it counts, and the line that made it.
    fn alerts(&self) -> Vec<(String, i64, String)> {
        let text = self.cordon.ask(&["alerts", "list", "--limit", "0", "-o", "json"]);
        let alerts: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        let mine = alerts.iter().filter(|alert| alert["scenario"] == "test/guesses");
        let last = |alert: &Value| alert["events"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
        mine.map(|alert| {
            let line = last(alert)["cordon"]["raw"].as_str().unwrap_or_default().to_owned();
            (alert["uuid"].to_string(), alert["events_count"].as_i64().unwrap_or_default(), line)
        })
        .collect()
    }
}

/// Where the process is killed, as a number of lines: read before, or written while it is away.
#[test]
fn the_same_line_makes_the_ban_with_and_without_a_kill() {
    // (lines read before the kill, lines written while nobody reads)
    let cases = [(0, 6), (1, 0), (3, 2), (5, 0), (5, 1), (6, 0), (2, 7)];
    for (before, meanwhile) in cases {
        let mut scene = Scene::set();
        for _ in 0..before {
            scene.guess();
        }
        eventually("the lines are read", || scene.lines() == before);
        scene.cordon.kill();
        for _ in 0..meanwhile {
            scene.guess();
        }
        scene.cordon.start();
        while scene.written < 11 {
            scene.guess();
        }
        eventually("the ban is there", || !scene.alerts().is_empty());
        eventually("the rest is read", || scene.lines() == 11 - before);
        let alerts = scene.alerts();
        assert_eq!(alerts.len(), 1, "{before} {meanwhile}: {alerts:?}");
        assert_eq!(alerts[0].1, 6, "{before} {meanwhile}");
        assert!(alerts[0].2.contains("port 40005 "), "{before} {meanwhile}: {alerts:?}");
        scene.restart();
        // The five lines since then are in their bucket: one more is the sixth.
        scene.guess();
        eventually("the next ban is there", || scene.alerts().len() == 2);
        assert!(scene.alerts().iter().any(|alert| alert.2.contains("port 40011 ")), "{:?}", scene.alerts());
    }
}

#[test]
fn a_kill_at_any_moment_neither_loses_nor_repeats() {
    let mut scene = Scene::set();
    for round in 0..12 {
        for _ in 0..6 {
            scene.guess();
        }
        // Some of these find it reading, some writing, some starting.
        std::thread::sleep(std::time::Duration::from_millis(7 * round));
        scene.restart();
    }
    eventually("every sixth line made an alert", || scene.alerts().len() == 12);
    let mut alerts = scene.alerts();
    alerts.sort();
    alerts.dedup_by(|a, b| a.0 == b.0);
    let ports: Vec<bool> = (0..12)
        .map(|round| alerts.iter().any(|alert| alert.2.contains(&format!("port {} ", 40_005 + 6 * round))))
        .collect();
    assert_eq!(ports, [true; 12], "{alerts:?}");
}

#[test]
fn damage_is_told_and_costs_no_more_than_it_damaged() {
    let mut scene = Scene::set();
    for _ in 0..3 {
        scene.guess();
    }
    eventually("the lines are read", || scene.lines() == 3);
    let state = scene.folder.path().join("cordon/state");
    // In order, so that a mark holds them; then again, so that there is one before it.
    scene.cordon.stop();
    scene.cordon.start();
    eventually("there is a mark before the last one", || state.join("checkpoint.previous").exists());
    scene.cordon.kill();
    let path = state.join("checkpoint");
    let mut bytes = fs::read(&path).expect("it was written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&path, bytes).expect("room on the disk");
    scene.cordon.start();
    let status = scene.cordon.ask(&["status"]);
    assert!(state.join("checkpoint.damaged").exists());
    assert!(status.contains("LOST") && status.contains("checkpoint"), "{status}");
    for _ in 0..3 {
        scene.guess();
    }
    eventually("the mark before it was taken", || scene.alerts().len() == 1);
}

#[test]
fn the_files_of_a_newer_cordon_are_refused_and_left_alone() {
    for name in ["checkpoint", "checkpoint.previous", "journal.00000000000000000001"] {
        let mut scene = Scene::set();
        scene.cordon.stop();
        let path = scene.folder.path().join("cordon/state").join(name);
        let kind = name.split('.').next().expect("a name");
        let newer = format!("cordon {kind} 4000000000\nwhatever it says");
        fs::write(&path, &newer).expect("room on the disk");
        let output = scene.cordon.run(&["run"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name}");
        assert!(told.contains("written by a newer cordon") && told.contains(name), "{name}: {told}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), newer, "{name}");
    }
}
