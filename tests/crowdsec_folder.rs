//! CrowdSec's own configuration folder, as Debian's package installs it, used as it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::crowdsec::programs;

/// What the package enables when it is installed: enough for ssh and web servers.
const ENABLED: [&str; 12] = [
    "parsers/s00-raw/crowdsecurity/syslog-logs.yaml",
    "parsers/s01-parse/crowdsecurity/apache2-logs.yaml",
    "parsers/s01-parse/crowdsecurity/nginx-logs.yaml",
    "parsers/s01-parse/crowdsecurity/sshd-logs.yaml",
    "parsers/s02-enrich/crowdsecurity/dateparse-enrich.yaml",
    "parsers/s02-enrich/crowdsecurity/http-logs.yaml",
    "parsers/s02-enrich/crowdsecurity/whitelists.yaml",
    "scenarios/crowdsecurity/http-crawl-non_statics.yaml",
    "scenarios/crowdsecurity/http-probing.yaml",
    "scenarios/crowdsecurity/ssh-bf.yaml",
    "scenarios/crowdsecurity/ssh-slow-bf.yaml",
    "scenarios/ltsich/http-w00tw00t.yaml",
];

/// Installs the package below `folder` as its scripts do; the folder of its configuration, if the package is there.
fn install(folder: &Path) -> Option<PathBuf> {
    let package = programs()?.ancestors().nth(2)?.to_path_buf();
    let (etc, hub) = (folder.join("etc/crowdsec"), folder.join("var/lib/crowdsec/hub"));
    for below in ["", "patterns", "acquis.d"] {
        fs::create_dir_all(etc.join(below)).expect("room on the disk");
    }
    fs::create_dir_all(&hub).expect("room on the disk");
    for below in ["", "patterns"] {
        for entry in fs::read_dir(package.join("etc/crowdsec").join(below)).expect("the package has it") {
            let entry = entry.expect("it can be read");
            if entry.path().is_file() {
                fs::copy(entry.path(), etc.join(below).join(entry.file_name())).expect("room on the disk");
            }
        }
    }
    for part in ["parsers", "postoverflows", "scenarios", "collections", ".index.json"] {
        symlink(package.join("usr/share/crowdsec/hub").join(part), hub.join(part)).expect("links can be made");
    }
    for item in ENABLED {
        let parts: Vec<&str> = item.split('/').collect();
        let place = match parts[..] {
            [kind, stage, _, file] => etc.join(kind).join(stage).join(file),
            [kind, _, file] => etc.join(kind).join(file),
            _ => unreachable!("items have a kind and an author"),
        };
        fs::create_dir_all(place.parent().expect("it has a folder")).expect("room on the disk");
        symlink(hub.join(item), place).expect("links can be made");
    }
    // The package speaks of the root of the disk; the owner's own file moves it here.
    let place = folder.display();
    let local = format!(
        "config_paths:\n  config_dir: {place}/etc/crowdsec\n  data_dir: {place}/var/lib/crowdsec/data\n  hub_dir: {place}/var/lib/crowdsec/hub\n\
         \x20 simulation_path: {place}/etc/crowdsec/simulation.yaml\n  index_path: {place}/var/lib/crowdsec/hub/.index.json\n\
         api:\n  server:\n    profiles_path: {place}/etc/crowdsec/profiles.yaml\n"
    );
    fs::write(etc.join("config.yaml.local"), local).expect("room on the disk");
    Some(etc)
}

fn cordon(args: &[&str], etc: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
    command.args(args).arg("--config-dir").arg(etc).env("CORDON_LOG", "warn").output().expect("the binary was built")
}

#[test]
fn debians_folder_is_used_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(etc) = install(folder.path()) else { return };

    let output = cordon(&["check", "-o", "json"], &etc);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let load: Vec<&Value> = findings.iter().filter(|finding| finding["code"] == "C000").collect();
    assert_eq!(load, Vec::<&Value>::new(), "everything loads");
    for key in ["`db_config.flush`", "`common.daemonize`", "`api.server.online_client`", "`prometheus.listen_port`"] {
        let says = |finding: &&Value| finding["message"].as_str().is_some_and(|message| message.contains(key));
        let found = findings.iter().find(says).unwrap_or_else(|| panic!("{key} is not named"));
        assert!(found["path"].as_str().is_some_and(|path| path.ends_with("config.yaml")), "{found}");
    }

    let log = folder.path().join("auth.log");
    let line = |second: u32| {
        format!("Mar  7 04:05:{second:02} web sshd[7]: Failed password for root from 198.51.100.23 port 4000 ssh2\n")
    };
    fs::write(&log, (0..8).map(line).collect::<String>()).expect("room on the disk");
    let log = log.display().to_string();
    let output = cordon(&["replay", &log, "--type", "syslog", "-o", "json"], &etc);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("config.yaml:26: not used here: `db_config.log_level` (line 26)"), "{complaint}");
    let replay: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let alert = &replay["alerts"][0];
    assert_eq!(alert["scenario"], "crowdsecurity/ssh-bf", "{replay}");
    assert_eq!(alert["scenario_version"], "0.1");
    assert_eq!(alert["scenario_hash"].as_str().map(str::len), Some(64));
    assert_eq!(alert["decisions"][0]["duration"], "4h", "as profiles.yaml says");

    // The owner's copy stands in place of the hub's item, and is no version of it.
    let copy = fs::read_to_string(etc.join("scenarios/ssh-bf.yaml")).expect("the link leads there");
    fs::write(etc.join("scenarios/mine.yaml"), copy.replacen("capacity: 5", "capacity: 6", 1))
        .expect("room on the disk");
    let output = cordon(&["replay", &log, "--type", "syslog", "-o", "json"], &etc);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("scenarios/ssh-bf.yaml: is left out: "), "{complaint}");
    let replay: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let alert = &replay["alerts"][0];
    assert_eq!((&alert["scenario_version"], &alert["events_count"]), (&Value::from(""), &Value::from(7)), "{replay}");
}
