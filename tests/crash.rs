//! What a sudden end costs: nothing. The binary is killed without a warning at every place of an attack.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::disk::Disk;
use crate::support::cordon::Cordon;
use crate::support::{eventually, guesses};

const GUESSER: &str = "203.0.113.66";

struct Scene {
    /// Before its folder: it may have something to say when that is gone.
    cordon: Cordon,
    folder: TempDir,
    /// Where guesses are written.
    log: PathBuf,
    written: usize,
}

impl Scene {
    fn set() -> Self {
        let mut scene = Self::prepare();
        scene.cordon.start();
        scene
    }

    /// The same, not started yet.
    fn prepare() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rules = folder.path().join("rules");
        fs::create_dir_all(rules.join("scenarios")).expect("a writable folder");
        fs::write(rules.join("scenarios/guesses.yaml"), guesses("guesses", 5)).expect("a writable folder");
        let log = folder.path().join("auth.log");
        fs::write(&log, "").expect("a writable folder");
        let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", log.display());
        let config = format!("rules:\n  folders: [{}]\n", rules.display());
        let cordon = Cordon::install(None, folder.path(), &config, &acquisition);
        Self { cordon, folder, log, written: 0 }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("cordon/state")
    }

    fn guesses(&mut self, count: usize) {
        (0..count).for_each(|_| self.guess());
    }

    fn guess(&mut self) {
        let mut log = OpenOptions::new().append(true).open(&self.log).expect("the log is there");
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        let port = 40_000 + self.written;
        let line = format!("{time} victim sshd[7]: Failed password for root from {GUESSER} port {port} ssh2\n");
        log.write_all(line.as_bytes()).expect("room on the disk");
        self.written += 1;
    }

    fn status(&self) -> Value {
        self.cordon.status()
    }

    /// Lines that this process has read.
    fn lines(&self) -> u64 {
        self.status()["sources"][0]["lines"].as_u64().expect("a count")
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
        scene.guesses(before);
        eventually("the lines are read", || scene.lines() == before as u64);
        scene.cordon.kill();
        scene.guesses(meanwhile);
        scene.cordon.start();
        while scene.written < 11 {
            scene.guess();
        }
        eventually("the ban is there", || !scene.alerts().is_empty());
        eventually("the rest is read", || scene.lines() == 11 - before as u64);
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
        scene.guesses(6);
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
    scene.guesses(3);
    eventually("the lines are read", || scene.lines() == 3);
    let state = scene.state();
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
    scene.guesses(3);
    eventually("the mark before it was taken", || scene.alerts().len() == 1);
}

#[test]
fn the_files_of_a_newer_cordon_are_refused_and_left_alone() {
    for name in ["checkpoint", "checkpoint.previous", "journal.00000000000000000001"] {
        let mut scene = Scene::set();
        scene.cordon.stop();
        let path = scene.state().join(name);
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

#[test]
fn a_full_disk_ends_the_journal_and_nothing_else() {
    let mut scene = Scene::prepare();
    let Some(_disk) = Disk::mount(&scene.state(), "size=8m,mode=0700") else { return };
    scene.cordon.start();
    scene.guesses(3);
    eventually("the lines are read", || scene.lines() == 3);
    let filler = scene.state().join("filler");
    // It ends with an error, when there is no room left.
    let _ = fs::write(&filler, vec![0; 16 << 20]);
    let told =
        |scene: &Scene| scene.status()["checkpoint"].as_str().is_some_and(|told| told.contains("not written down"));
    eventually("it says that nothing is written down", || {
        let log = OpenOptions::new().append(true).open(&scene.log);
        log.and_then(|mut log| log.write_all(&b"a line that says nothing\n".repeat(100))).expect("room on the disk");
        told(&scene)
    });
    scene.guesses(3);
    eventually("the sixth guess makes a ban all the same", || scene.cordon.log().contains("test/guesses"));
    fs::remove_file(&filler).expect("it was written");
    eventually("the alert is kept", || scene.alerts().len() == 1);
    eventually("a mark is written again", || scene.status()["checkpoint"].is_null());
    scene.guesses(4);
    eventually("the rest is read", || scene.lines() % 100 == 10);
    scene.restart();
    scene.guesses(2);
    eventually("the next ban is there", || scene.alerts().len() == 2);
    assert!(scene.alerts().iter().any(|alert| alert.2.contains("port 40011 ")), "{:?}", scene.alerts());
}

#[test]
fn a_deleted_state_folder_is_told_and_costs_bans_and_places() {
    let mut scene = Scene::set();
    scene.guesses(3);
    eventually("the lines are read", || scene.lines() == 3);
    fs::remove_dir_all(scene.state()).expect("it is ours");
    scene.guesses(3);
    eventually("the sixth guess makes a ban all the same", || scene.cordon.log().contains("test/guesses"));
    eventually("it says that nothing can be kept", || {
        scene.cordon.log().contains("the state of the engine cannot be written")
    });
    scene.restart();
    assert_eq!((scene.alerts().len(), scene.lines()), (0, 0), "it begins anew, at the end of the log");
    scene.guesses(6);
    eventually("it works again", || scene.alerts().len() == 1);
    assert!(scene.alerts()[0].2.contains("port 40011 "), "{:?}", scene.alerts());
}

#[test]
fn a_log_whose_disk_goes_away_is_read_on_when_it_is_back() {
    let mut scene = Scene::prepare();
    let data = scene.folder.path().join("data");
    fs::create_dir(&data).expect("a writable folder");
    let place = scene.folder.path().join("log");
    let bind = || Disk::bind(&data, &place);
    let Some(disk) = bind() else { return };
    fs::write(data.join("auth.log"), "").expect("a writable folder");
    let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", place.join("auth.log").display());
    fs::write(scene.folder.path().join("cordon/acquisition.yaml"), acquisition).expect("a writable folder");
    scene.log = data.join("auth.log");
    scene.cordon.start();
    scene.guesses(2);
    eventually("the lines are read", || scene.lines() == 2);
    drop(disk);
    scene.guess();
    let disk = bind().expect("it could be done before");
    scene.guess();
    eventually("it is read on", || scene.lines() == 4);
    // The same while nobody reads, and it comes back when reading has begun.
    scene.cordon.stop();
    drop(disk);
    scene.guess();
    scene.cordon.start();
    let _disk = bind().expect("it could be done before");
    scene.guess();
    eventually("the ban is there", || scene.alerts().len() == 1);
    assert_eq!(scene.lines(), 2, "nothing is read twice");
    assert!(scene.alerts()[0].2.contains("port 40005 "), "{:?}", scene.alerts());
}

#[test]
fn more_changes_than_the_system_can_tell_lose_no_line() {
    let mut scene = Scene::set();
    scene.guesses(2);
    eventually("the lines are read", || scene.lines() == 2);
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("this is Linux");
    let most: usize = most.trim().parse().expect("a number");
    scene.cordon.pause();
    // Made, opened, written and removed: four events each.
    let other = scene.folder.path().join("other");
    for _ in 0..most / 2 {
        fs::write(&other, "x").expect("room on the disk");
        fs::remove_file(&other).expect("it is ours");
    }
    scene.guesses(3);
    fs::rename(&scene.log, scene.folder.path().join("auth.log.1")).expect("it is ours");
    fs::write(&scene.log, "").expect("a writable folder");
    scene.guess();
    scene.cordon.go_on();
    eventually("the ban is there", || scene.alerts().len() == 1);
    assert_eq!(scene.lines(), 6);
    assert!(scene.alerts()[0].2.contains("port 40005 "), "{:?}", scene.alerts());
}
