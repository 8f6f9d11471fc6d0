//! The systemd journal, in files that systemd's own tools write and read.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::cordon::Cordon;
use crate::support::{eventually, guesses};

/// Where Debian puts the program that writes journal files.
const WRITER: &str = "/lib/systemd/systemd-journal-remote";

struct Scene {
    cordon: Cordon,
    folder: TempDir,
    written: u32,
}

impl Scene {
    /// A cordon that follows the journal files of a folder of its own, in which there is something already. Nothing, if the
    /// writer is missing.
    fn set(keys: &str) -> Option<Self> {
        if !Path::new(WRITER).exists() {
            eprintln!("SKIPPED, NOT PASSED: {WRITER} is missing: install `systemd-journal-remote`");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rules = folder.path().join("rules/scenarios");
        let journal = folder.path().join("journal");
        for path in [&rules, &journal] {
            fs::create_dir_all(path).expect("a writable folder");
        }
        fs::write(rules.join("guesses.yaml"), guesses("guesses", 5)).expect("a writable folder");
        let config = format!("rules:\n  folders: [{}]\n", folder.path().join("rules").display());
        let acquisition = format!(
            "journalctl_filter: ['--directory={}', _COMM=sshd]\nlabels: {{type: syslog}}\n{keys}",
            journal.display()
        );
        let cordon = Cordon::install(None, folder.path(), &config, &acquisition);
        let mut scene = Self { cordon, folder, written: 0 };
        scene.guess(1, Timestamp::now());
        scene.cordon.start();
        Some(scene)
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal/remote.journal")
    }

    /// Adds so many wrong passwords to the journal, written at `at`, and as many lines of another program.
    fn guess(&mut self, count: u32, at: Timestamp) {
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("this is Linux").trim().replace('-', "");
        let mut export = String::new();
        for _ in 0..count {
            self.written += 1;
            for (comm, message) in [("sshd", "Failed password for root from 203.0.113.66 port"), ("cron", "session")] {
                let micros = at.as_microsecond() + i64::from(self.written);
                let record = format!(
                    "__REALTIME_TIMESTAMP={micros}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={boot}\n\
                     _TRANSPORT=syslog\n_UID=0\n_PID=7\n_COMM={comm}\nSYSLOG_IDENTIFIER={comm}\n_SYSTEMD_UNIT={comm}.service\n\
                     _HOSTNAME=victim\nMESSAGE={message} {} ssh2\n\n",
                    1_000_000 + self.written,
                    40_000 + self.written
                );
                export.push_str(&record);
            }
        }
        let mut writer = Command::new(WRITER)
            .arg(format!("--output={}", self.journal().display()))
            .arg("-")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is there");
        writer.stdin.take().expect("it is a pipe").write_all(export.as_bytes()).expect("it reads");
        assert!(writer.wait().expect("it is our child").success(), "the journal is written");
    }

    /// Lines that this process has read, and how it is.
    fn source(&self) -> Value {
        let status = self.cordon.status();
        status["sources"][0].clone()
    }

    fn read(&self, count: u64) {
        eventually("the records are read", || self.source()["parsed"] == count);
    }

    /// The last line of each alert.
    fn alerts(&self) -> Vec<String> {
        let text = self.cordon.ask(&["alerts", "list", "--limit", "0", "-o", "json"]);
        let alerts: Option<Vec<Value>> = serde_json::from_str(&text).expect("JSON");
        let mine = alerts.into_iter().flatten().filter(|alert| alert["scenario"] == "test/guesses");
        mine.map(|alert| {
            let last = alert["events"].as_array().and_then(|events| events.last()).cloned().unwrap_or_default();
            last["cordon"]["raw"].as_str().unwrap_or_default().to_owned()
        })
        .collect()
    }
}

#[test]
fn records_count_once_through_kills_and_missed_ones_are_caught_up_with() {
    let Some(mut scene) = Scene::set("") else { return };
    scene.guess(2, Timestamp::now());
    scene.read(2);
    // What is in the journal before the first day does not count, nor do other programs.
    assert_eq!(scene.source()["lines"], 2);
    scene.cordon.kill();
    scene.guess(2, Timestamp::now());
    scene.cordon.start();
    scene.read(2);
    scene.guess(1, Timestamp::now());
    scene.read(3);
    assert_eq!(scene.alerts(), Vec::<String>::new(), "five are forgiven");
    scene.cordon.kill();
    scene.cordon.start();
    scene.guess(1, Timestamp::now());
    eventually("the sixth is not", || !scene.alerts().is_empty());
    let alerts = scene.alerts();
    assert!(alerts.len() == 1 && alerts[0].contains(" sshd[7]: ") && alerts[0].contains("port 40007 "), "{alerts:?}");
    assert_eq!(scene.source()["trouble"], Value::Array(Vec::new()));
}

#[test]
fn what_was_missed_too_long_ago_is_not_caught_up_with() {
    let Some(mut scene) = Scene::set("catch_up: 1h\n") else { return };
    scene.guess(1, Timestamp::now());
    scene.read(1);
    scene.cordon.stop();
    let hours = |hours| Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    scene.guess(3, hours(2));
    scene.guess(2, Timestamp::now());
    scene.cordon.start();
    scene.read(2);
    assert!(scene.cordon.log().contains("missed too long ago"), "{}", scene.cordon.log());
    scene.guess(2, Timestamp::now());
    scene.read(4);
    assert_eq!(scene.alerts(), Vec::<String>::new(), "five counted");
    scene.guess(1, Timestamp::now());
    eventually("the sixth that counts", || scene.alerts().len() == 1);
}

#[test]
fn a_journal_that_was_replaced_is_read_on() {
    let Some(mut scene) = Scene::set("") else { return };
    scene.guess(3, Timestamp::now());
    scene.read(3);
    scene.cordon.stop();
    // Vacuumed and begun anew: the place where reading stood is gone.
    fs::remove_file(scene.journal()).expect("it was written");
    scene.guess(1, Timestamp::now());
    scene.cordon.start();
    scene.read(1);
    scene.guess(2, Timestamp::now());
    eventually("the bucket had stayed half-full", || scene.alerts().len() == 1);
}
