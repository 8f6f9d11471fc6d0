//! The logs that a host has without anybody saying so: sshd, nginx, apache.
//!
//! Where sshd writes to a file, the file is read; else the journal is, if there is one.

use std::path::Path;

use super::config::{CATCH_UP, Input, SourceConfig};
use super::file::{Files, Follow, PathPattern};
use super::journald::JournalConfig;

/// Where logs usually are: a folder or file that must exist, the patterns to follow, and the type of the lines.
const USUAL: [(&str, &[&str], &str); 5] = [
    ("var/log/auth.log", &["var/log/auth.log"], "syslog"),
    ("var/log/secure", &["var/log/secure"], "syslog"),
    ("var/log/nginx", &["var/log/nginx/*.log"], "nginx"),
    ("var/log/apache2", &["var/log/apache2/*.log"], "apache2"),
    ("var/log/httpd", &["var/log/httpd/*log"], "apache2"),
];

/// What journald says of sshd.
const SSHD: [&str; 2] = ["_COMM=sshd", "_COMM=sshd-session"];

/// The datasources that are found below `root` (`/`). `journal` says whether there is a journal to read.
pub fn discover(root: &Path, journal: bool) -> Vec<SourceConfig> {
    let labels = |kind: &str| vec![("type".into(), kind.into())];
    let mut found = Vec::new();
    let mut syslog = false;
    for (sign, patterns, kind) in USUAL {
        if !root.join(sign).exists() {
            continue;
        }
        syslog |= kind == "syslog";
        let pattern = |pattern: &&str| PathPattern::new(&root.join(pattern).to_string_lossy()).ok();
        let files = Files {
            patterns: patterns.iter().filter_map(pattern).collect(),
            exclude: Vec::new(),
            labels: labels(kind),
            time_machine: false,
        };
        found.push(SourceConfig::discovered(Input::Follow(files, Follow::default())));
    }
    if !syslog && journal {
        let filters = SSHD.map(str::to_owned).to_vec();
        let config =
            JournalConfig { filters, labels: labels("syslog"), time_machine: false, follow: true, catch_up: CATCH_UP };
        found.push(SourceConfig::discovered(Input::Journal(config)));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_journal_is_read_where_no_file_has_the_logins() {
        // (files, whether there is a journal, datasources)
        let cases: &[(&[&str], bool, &[&str])] = &[
            (&[], false, &[]),
            (&[], true, &["journalctl:journalctl-_COMM=sshd._COMM=sshd-session"]),
            (&["auth.log"], true, &["file:/var/log/auth.log"]),
            (&["nginx/x"], false, &["file:/var/log/nginx/*.log"]),
            (&["secure", "httpd/x"], true, &["file:/var/log/secure", "file:/var/log/httpd/*log"]),
        ];
        for (files, journal, expected) in cases {
            let root = tempfile::TempDir::new().expect("a temporary folder");
            for file in *files {
                let path = root.path().join("var/log").join(file);
                fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
                fs::write(path, "").expect("room on the disk");
            }
            let prefix = root.path().to_string_lossy().into_owned();
            let found: Vec<String> =
                discover(root.path(), *journal).iter().map(|source| source.id.replace(&prefix, "")).collect();
            assert_eq!(found, *expected, "{files:?}");
        }
    }
}
