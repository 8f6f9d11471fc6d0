//! `cordon reload` and SIGHUP: everything new is in force, or nothing is.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::cordon::Cordon;
use crate::support::{eventually, guesses};

fn profiles(hours: u32) -> String {
    format!(
        "name: all\nfilters: [\"Alert.Remediation == true && Alert.GetScope() == 'Ip'\"]\n\
         decisions: [{{type: ban, duration: {hours}h}}]\non_success: break\n"
    )
}

struct Scene {
    cordon: Cordon,
    folder: TempDir,
}

impl Scene {
    /// A cordon that reads `one.log`, knows one scenario, and runs.
    fn set() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("rules/scenarios")).expect("a writable folder");
        let cordon = Cordon::install(None, folder.path(), "", "");
        let mut scene = Self { cordon, folder };
        scene.write("rules/scenarios/five.yaml", &guesses("five", 5));
        scene.write("profiles.yaml", &profiles(1));
        for name in ["one", "two"] {
            scene.write(&format!("{name}.log"), "");
        }
        scene.read_logs(&["one"]);
        scene.configure("");
        scene.cordon.start();
        scene
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("a writable folder");
    }

    /// Lets the datasources be these logs, from the next reload on.
    fn read_logs(&self, names: &[&str]) {
        let place = self.folder.path().display();
        let documents: Vec<String> =
            names.iter().map(|name| format!("filename: {place}/{name}.log\nlabels: {{type: syslog}}\n")).collect();
        self.write("cordon/acquisition.yaml", &documents.join("---\n"));
    }

    /// Writes `cordon.yaml`, with `more` at its end.
    fn configure(&self, more: &str) {
        let place = self.folder.path().display();
        self.write(
            "cordon/cordon.yaml",
            &format!(
                "state: {place}/cordon/state\napi:\n  listen: off\nacquisition:\n  discover: false\n  paths: [{place}/cordon/acquisition.yaml]\n\
                 rules:\n  folders: [{place}/rules]\n  profiles: {place}/profiles.yaml\nladder:\n  enabled: false\n{more}"
            ),
        );
    }

    /// So many wrong passwords from `ip`, written into a log; waits until they are read.
    fn guess(&self, log: &str, ip: &str, count: usize) {
        let before = self.lines(log);
        let path = self.folder.path().join(format!("{log}.log"));
        let mut file = OpenOptions::new().append(true).open(path).expect("the log is there");
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        let line = format!("{time} victim sshd[7]: Failed password for root from {ip} port 4000 ssh2\n");
        file.write_all(line.repeat(count).as_bytes()).expect("room on the disk");
        eventually("the lines are read", || self.lines(log) == before + count as u64);
    }

    fn status(&self) -> Value {
        self.cordon.status()
    }

    fn lines(&self, log: &str) -> u64 {
        let status = self.status();
        let all = status["sources"].as_array().expect("a list");
        let of = |source: &&Value| source["name"].as_str().is_some_and(|name| name.ends_with(&format!("{log}.log")));
        all.iter().find(of).and_then(|source| source["parsed"].as_u64()).unwrap_or_default()
    }

    /// The scenarios of all alerts about `ip`, in order.
    fn alerts(&self, ip: &str) -> Vec<String> {
        let text = self.cordon.ask(&["alerts", "list", "--limit", "0", "-o", "json"]);
        let alerts: Option<Vec<Value>> = serde_json::from_str(&text).expect("JSON");
        let about = |alert: &&Value| alert["source"]["value"] == ip;
        let name = |alert: &Value| alert["scenario"].as_str().unwrap_or_default().to_owned();
        let mut names: Vec<String> = alerts.iter().flatten().filter(about).map(name).collect();
        names.retain(|name| name.starts_with("test/"));
        names.sort();
        names
    }

    /// For how many hours `ip` is banned, rounded up.
    fn hours(&self, ip: &str) -> i64 {
        let text = self.cordon.ask(&["alerts", "list", "--limit", "0", "-o", "json"]);
        let alerts: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        let alert = alerts.iter().find(|alert| alert["source"]["value"] == ip).expect("there is one");
        let left = alert["decisions"][0]["duration"].as_str().expect("a duration");
        let left = model::duration::parse_with_days(left).expect("as Go prints it");
        (left.as_secs() + 3599) / 3600
    }
}

#[test]
fn everything_new_is_in_force_and_unchanged_scenarios_keep_their_buckets() {
    let scene = Scene::set();
    scene.guess("one", "203.0.113.1", 5);
    assert_eq!(scene.alerts("203.0.113.1"), Vec::<String>::new(), "one more would be an alert");

    // Another scenario and another datasource, an unchanged scenario beside them.
    scene.write("rules/scenarios/two.yaml", &guesses("two", 2));
    scene.read_logs(&["one", "two"]);
    scene.write("profiles.yaml", &profiles(7));
    let told = scene.cordon.ask(&["reload"]);
    assert!(told.contains("two.log") && told.contains("is read now") && !told.contains("one.log"), "{told}");
    scene.guess("one", "203.0.113.1", 1);
    eventually("the bucket had stayed half-full", || scene.alerts("203.0.113.1") == ["test/five"]);
    assert_eq!(scene.hours("203.0.113.1"), 7, "by the new profiles");
    scene.guess("two", "203.0.113.2", 3);
    eventually("the new scenario counts in the new datasource", || scene.alerts("203.0.113.2") == ["test/two"]);

    // The scenario with buckets changes, a datasource goes.
    scene.guess("one", "203.0.113.3", 2);
    scene.write("rules/scenarios/five.yaml", &guesses("five", 3));
    fs::remove_file(scene.folder.path().join("rules/scenarios/two.yaml")).expect("it was written");
    scene.read_logs(&["one"]);
    let told = scene.cordon.ask(&["reload"]);
    assert!(told.contains("two.log") && told.contains("is not read any more"), "{told}");
    scene.guess("one", "203.0.113.3", 3);
    assert_eq!(scene.alerts("203.0.113.3"), Vec::<String>::new(), "what means something else starts anew");
    scene.guess("one", "203.0.113.3", 1);
    eventually("it counts by its new meaning", || scene.alerts("203.0.113.3") == ["test/five"]);

    // Who is allowed now is not banned any more.
    assert!(scene.cordon.banned().contains(&"Ip:203.0.113.1".to_owned()));
    scene.configure("allowlist: [203.0.113.1]\n");
    let told = scene.cordon.ask(&["reload"]);
    assert!(told.contains("about allowed addresses were lifted"), "{told}");
    let banned = scene.cordon.banned();
    assert!(
        !banned.contains(&"Ip:203.0.113.1".to_owned()) && banned.contains(&"Ip:203.0.113.3".to_owned()),
        "{banned:?}"
    );
}

#[test]
fn a_mistake_keeps_the_old_set_whole_and_says_where_it_is() {
    let scene = Scene::set();
    scene.guess("one", "203.0.113.1", 5);
    let place = scene.folder.path().display().to_string();
    let bad = guesses("bad", 1);
    let config = fs::read_to_string(scene.folder.path().join("cordon/cordon.yaml")).expect("it was written");
    let lines = config.lines().count();
    // (file, text with a mistake, where it is, what is right)
    let cases = [
        ("rules/scenarios/bad.yaml", bad.replace("filter: evt.Meta", "filter: evt.Mta"), 4, guesses("bad", 900)),
        ("rules/scenarios/bad.yaml", bad.replace("leakspeed", "leakspede"), 7, guesses("bad", 900)),
        (
            "cordon/acquisition.yaml",
            format!("filename: {place}/one.log\nlabls: {{type: syslog}}\n"),
            2,
            format!("filename: {place}/one.log\nlabels: {{type: syslog}}\n"),
        ),
        ("profiles.yaml", profiles(3).replace("filters", "fillters"), 2, profiles(1)),
        ("cordon/cordon.yaml", format!("{config}allowlist: [office]\n"), lines + 1, config),
    ];
    let refused = || scene.cordon.log().matches("nothing was changed").count();
    for (file, text, line, right) in cases {
        let says = format!("{place}/{file}:{line}: ");
        // Right, and not to be taken while something else is wrong.
        scene.write("rules/scenarios/also.yaml", &guesses("also", 1));
        scene.write(file, &text);
        let output = scene.cordon.run(&["reload"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(&says), "{file}: {told}");
        let before = refused();
        scene.cordon.hang_up();
        eventually("a signal is answered in the log", || refused() > before);
        assert!(scene.cordon.log().contains(&format!("nothing was changed: {says}")), "{file}");
        scene.write(file, &right);
        scene.guess("one", "203.0.113.9", 1);
        assert_eq!(scene.status()["problems"], Value::Array(Vec::new()), "{file}: what runs is right");
    }
    assert_eq!(scene.alerts("203.0.113.9"), Vec::<String>::new(), "the other new scenario was never in force");
    scene.guess("one", "203.0.113.1", 1);
    eventually("the bucket of the old set is there", || scene.alerts("203.0.113.1") == ["test/five"]);
    assert_eq!(scene.hours("203.0.113.1"), 1, "by the old profiles");

    scene.cordon.hang_up();
    let scenarios = || scene.status()["engine"]["scenarios"].to_string();
    eventually("a signal puts what is right in force", || scenarios().contains("test/also"));
}

#[test]
fn what_each_datasource_does_can_be_counted() {
    let scene = Scene::set();
    scene.guess("one", "203.0.113.1", 4);
    let (_, text) = scene.cordon.get("", "metrics");
    let source = format!("{{source=\"file:{}/one.log\",datasource_type=\"file\"}}", scene.folder.path().display());
    for (name, value) in
        [("lines_total", 4), ("parsed_total", 4), ("unparsed_total", 0), ("dropped_total", 0), ("lag_bytes", 0)]
    {
        assert!(text.contains(&format!("cordon_source_{name}{source} {value}\n")), "{name}: {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
