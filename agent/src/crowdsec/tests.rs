use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::hub::hex_sha256;
use crate::load::{Folders, RuleFiles};
use crate::ruleset::RuleSet;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
        fs::write(path, text).expect("room on the disk");
    }
    folder
}

fn read(folder: &TempDir) -> Option<Configuration> {
    Configuration::read(folder.path(), &|name| (name == "PORT").then(|| "8081".to_owned()))
}

/// What is said, without the folder.
fn said<T: ToString>(all: &[T], folder: &TempDir) -> String {
    let folder = format!("{}/", folder.path().display());
    all.iter().map(|one| one.to_string().replace(&folder, "")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_folder_without_paths_is_no_configuration_of_crowdsec() {
    for files in [&[][..], &[("config.yaml", "")], &[("config.yaml", "state: x\n")], &[("config.yaml", "a: [\n")]] {
        assert_eq!(read(&folder(files)), None, "{files:?}");
    }
}

#[test]
fn every_key_that_does_not_count_is_named_with_its_line() {
    let folder = folder(&[
        (
            "config.yaml",
            "common:\n  log_level: info\n  log_dir: /var/log\nconfig_paths:\n  data_dir: /none\n\
             crowdsec_service:\n  parser_routines: 4\n  parsers_routines: 4\ndb_config:\n  flush:\n    max_age: 7d\n\
             promtheus:\n  enabled: true\napi:\n  server:\n    listen_uri: 127.0.0.1:${PORT}\n    trusted_ips: [::1]\n",
        ),
        ("config.yaml.local", "common:\n  daemonize: true\n"),
        ("profiles.yaml", "name: a\nfilters: ['true']\nnotifications:\n  - chat\n"),
        ("notifications/chat.yaml", "type: slack\nname: chat\n---\n---\ntype: http\nname: other\n"),
        ("feature.yaml", "- x\n"),
    ]);
    let read = read(&folder).expect("a configuration");
    assert_eq!(read.listen, Some(([127, 0, 0, 1], 8081).into()));
    insta::assert_snapshot!(said(&read.notes, &folder), @r"
    config.yaml:8: unknown key `crowdsec_service.parsers_routines`, which CrowdSec refuses
    hint: did you mean `crowdsec_service.parser_routines`?
    config.yaml:12: unknown key `promtheus`, which CrowdSec refuses
    hint: remove it
    config.yaml:2: not used here: `common.log_level` (line 2), `common.log_dir` (line 3): cordon logs to standard error, as much as `--log-level` says
    hint: nothing needs to be done; it may stay for CrowdSec
    config.yaml:7: not used here: `crowdsec_service.parser_routines` (line 7): cordon works on as many threads as there are processors
    hint: nothing needs to be done; it may stay for CrowdSec
    config.yaml:10: not used here: `db_config.flush` (line 10): cordon keeps a database of its own in its state folder
    hint: nothing needs to be done; it may stay for CrowdSec
    config.yaml:17: not used here: `api.server.trusted_ips` (line 17): the API of cordon is configured in `cordon.yaml`
    hint: nothing needs to be done; it may stay for CrowdSec
    config.yaml.local:2: not used here: `common.daemonize` (line 2): it is ignored there as well
    hint: nothing needs to be done; it may stay for CrowdSec
    notifications/chat.yaml:1: notification `chat` by `slack` is not available
    notifications/chat.yaml:5: notification `other` by `http` is not available
    feature.yaml: not used here: cordon has no such switches
    profiles.yaml:4: notification `chat` is not sent: cordon has none
    ");
}

#[test]
fn the_local_file_stands_over_the_other() {
    let folder = folder(&[
        ("config.yaml", "config_paths:\n  data_dir: a\n  hub_dir: h\ncrowdsec_service:\n  acquisition_dir: acquis.d\n"),
        ("config.yaml.local", "config_paths:\n  data_dir: b\napi:\n  server:\n    listen_uri: 127.0.0.1:9000\n"),
        ("b/list.txt", ""),
        ("acquis.d/a.yaml", ""),
        ("profiles.yaml.local", "name: mine\nfilters: ['false']\n"),
        ("profiles.yaml", "name: theirs\nfilters: ['true']\n"),
    ]);
    let read = read(&folder).expect("a configuration");
    let root = folder.path();
    assert_eq!(read.data.as_deref(), Some(&*root.join("b")));
    assert_eq!(read.index, root.join("h/.index.json"));
    assert_eq!(read.acquisition, [root.join("acquis.d")]);
    assert_eq!(read.profiles, [root.join("profiles.yaml.local"), root.join("profiles.yaml")]);
    assert_eq!(read.listen, Some(([127, 0, 0, 1], 9000).into()));
    assert_eq!((read.problems, read.notes), (Vec::new(), Vec::new()));
}

#[test]
fn mistakes_are_problems_with_their_place() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    // (name, files, problems)
    let paths = "config_paths:\n  data_dir: /none\n";
    let service = format!("{paths}crowdsec_service:\n  console_context_path: none.yaml\n");
    let cases: [Case<'_>; 3] = [
        (
            "of another kind",
            &[("config.yaml", paths), ("config.yaml.local", "config_paths:\n  - a\n")],
            "config.yaml.local:2: this is of another kind than what it stands over\n\
             hint: a map goes over a map, a list over a list, a value over a value",
        ),
        (
            "no YAML",
            &[("config.yaml", paths), ("config.yaml.local", "a: [\n")],
            "config.yaml.local:1: not valid YAML: unclosed bracket '['\n  |\n1 | a: [\n  |    ^\n\
             hint: look at quotes, brackets and indentation of this line and of the one before",
        ),
        (
            "no context",
            &[("config.yaml", &service)],
            "config.yaml:4: `console_context_path` names a file that does not exist\nhint: make it, or remove the key",
        ),
    ];
    for (name, files, problems) in cases {
        let folder = folder(files);
        assert_eq!(said(&read(&folder).expect(name).problems, &folder), problems, "{name}");
    }
}

#[test]
fn a_copy_is_read_where_it_lies() {
    let folder = folder(&[
        (
            "config.yaml",
            "config_paths:\n  config_dir: /etc/crowdsec/\n  data_dir: /var/lib/crowdsec/data/\n  simulation_path: /etc/crowdsec/sim.yaml\n\
             crowdsec_service:\n  acquisition_path: /etc/crowdsec/acquis.yaml\n",
        ),
        ("acquis.yaml", ""),
        ("sim.yaml", ""),
    ]);
    let read = read(&folder).expect("a configuration");
    assert_eq!(read.acquisition, [folder.path().join("acquis.yaml")]);
    assert_eq!(read.simulation[0], folder.path().join("sim.yaml"));
}

#[test]
fn a_switched_off_part_stays_off_and_a_stranger_is_named() {
    let folder = folder(&[
        (
            "config.yaml",
            "config_paths:\n  data_dir: /none\ncrowdsec_service:\n  enable: false\n  acquisition_path: acquis.yaml\n\
             api:\n  client:\n    credentials_path: credentials.yaml\n  server:\n    enable: false\n    listen_uri: 127.0.0.1:1\n",
        ),
        ("acquis.yaml", ""),
        ("credentials.yaml", "url: http://192.0.2.7:8080\nlogin: x\npassword: secret\n"),
    ]);
    let read = read(&folder).expect("a configuration");
    assert_eq!((read.acquisition.len(), read.listen), (0, None));
    let said = said(&read.notes, &folder);
    assert!(said.contains("config.yaml:4: `crowdsec_service.enable` is off: no logs are read"), "{said}");
    assert!(said.contains("credentials.yaml:1: CrowdSec sends alerts to `http://192.0.2.7:8080`"), "{said}");
    assert_eq!(read.credentials, Some(folder.path().join("credentials.yaml")));
    assert!(!said.contains("secret"), "{said}");
}

/// Items are links into the hub: what the hub's index knows has a version and a hash, what was changed says so, what is the
/// owner's replaces what has the same name.
#[test]
fn items_are_known_by_their_links() {
    let scenario = |name: &str, filter: &str| {
        format!("type: trigger\nname: {name}\ndescription: d\nfilter: {filter}\nlabels: {{}}\n")
    };
    let [one, two, three] = ["us/one", "us/two", "us/three"].map(|name| scenario(name, "'true'"));
    let mine = scenario("us/three", "evt.Meta.x == 'mine'");
    let digest = |text: &str| hex_sha256(text.as_bytes());
    let item = |name: &str, versions: &[(&str, String)]| {
        let versions: serde_json::Map<String, serde_json::Value> = versions
            .iter()
            .map(|(version, digest)| ((*version).into(), serde_json::json!({ "digest": digest })))
            .collect();
        serde_json::json!({ "path": format!("scenarios/us/{name}.yaml"), "version": "0.10", "versions": versions })
    };
    let index = serde_json::json!({ "scenarios": {
        "us/one": item("one", &[("0.9", digest(&one)), ("0.10", digest(&one)), ("0.2", digest("older"))]),
        "us/two": item("two", &[("0.10", digest("not this"))]),
        "us/three": item("three", &[("0.10", digest(&three))]),
    } });
    let folder = folder(&[
        ("config.yaml", "config_paths:\n  data_dir: data\n"),
        ("hub/.index.json", &index.to_string()),
        ("hub/scenarios/us/one.yaml", &one),
        ("hub/scenarios/us/two.yaml", &two),
        ("hub/scenarios/us/three.yaml", &three),
        ("hub/scenarios/us/stray.yaml", &one),
        ("scenarios/a-mine.yaml", &mine),
        ("scenarios/own.yaml", &scenario("own", "'true'")),
    ]);
    for name in ["one", "two", "three", "stray", "gone"] {
        let link = folder.path().join(format!("scenarios/{name}.yaml"));
        symlink(format!("../hub/scenarios/us/{name}.yaml"), link).expect("links can be made");
    }
    let files = RuleFiles::read(&Folders { shipped: false, folders: vec![folder.path().to_path_buf()] });
    insta::assert_snapshot!(said(&files.notes, &folder), @r"
    scenarios/gone.yaml: is left out: this link leads nowhere
    scenarios/two.yaml: was changed: no version of the hub's item is like it
    scenarios/stray.yaml: is left out: the index of the hub does not know `hub/scenarios/us/stray.yaml`
    scenarios/three.yaml: is left out: `scenarios/a-mine.yaml` has the same name
    ");
    let built = RuleSet::build(&files);
    assert_eq!(said(&built.problems, &folder), "");
    let shown: Vec<_> = built.rules.scenarios.all().iter().map(|one| (&*one.name, &*one.version, &*one.hash)).collect();
    assert_eq!(
        shown,
        [("us/three", "", ""), ("us/one", "0.10", &*digest(&one)), ("own", "", ""), ("us/two", "?", &*digest(&two)),]
    );
}

#[test]
fn simulation_and_context_come_from_where_the_configuration_says() {
    let folder = folder(&[
        (
            "config.yaml",
            "config_paths:\n  data_dir: data\n  simulation_path: sim/all.yaml\n\
             crowdsec_service:\n  console_context_path: told.yaml\n  console_context_value_length: 20\n",
        ),
        ("sim/all.yaml", "simulation: on\n"),
        ("sim/all.yaml.local", "exclusions: [a]\n"),
        ("told.yaml", "who:\n  - evt.Meta.user\n"),
        ("scenarios/a.yaml", "type: trigger\nname: a\ndescription: d\nfilter: 'true'\nlabels: {}\n"),
        ("scenarios/b.yaml", "type: trigger\nname: b\ndescription: d\nfilter: 'true'\nlabels: {}\n"),
    ]);
    let files = RuleFiles::read(&Folders { shipped: false, folders: vec![folder.path().to_path_buf()] });
    assert_eq!(files.context_length, 20);
    assert!(files.console.is_some());
    let built = RuleSet::build(&files);
    assert_eq!(said(&built.problems, &folder), "");
    let shown: Vec<_> = built.rules.scenarios.all().iter().map(|one| (&*one.name, one.simulated)).collect();
    assert_eq!(shown, [("a", false), ("b", true)]);
}
