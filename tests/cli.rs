//! What can be typed, and what is said about mistakes.

use std::process::{Command, Output, Stdio};

fn cordon(args: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Command::new(env!("CARGO_BIN_EXE_cordon"))
        .args(args)
        .current_dir(folder.path())
        .env_clear()
        .env("CORDON_STATE", "state")
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .expect("the binary was built")
}

/// Exit code, standard output and standard error, as one text.
fn said(args: &[&str]) -> String {
    let output = cordon(args);
    let code = output.status.code().expect("it was not killed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    format!("exit {code}\n{}\n{}", text(&output.stdout), text(&output.stderr)).trim_end().to_owned()
}

#[test]
fn mistakes_are_answered_with_the_way_out() {
    insta::assert_snapshot!(said(&["confg"]), @r"
    exit 2

    error: unrecognized subcommand 'confg'

      tip: a similar subcommand exists: 'config'

    Usage: cordon [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(said(&["config", "check", "-c", "missing.yaml"]), @r"
    exit 1

    error: cannot read `missing.yaml`: No such file or directory (os error 2)
    ");
    insta::assert_snapshot!(said(&["status"]), @r"
    exit 1

    error: cordon is not running: nobody answers at `state/cordon.sock`
    hint: start it with `cordon run`, or name its state folder with --state
    ");
    insta::assert_snapshot!(said(&["run", "--state", "/proc/none"]), @r"
    exit 1

    error: cannot use `/proc/none` as state folder: No such file or directory (os error 2)
    hint: name another one with --state
    ");
}

#[test]
fn a_port_in_use_is_said_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr().map(|at| (taken, at)));
    let (_taken, address) = taken.expect("loopback has a free port");
    let text = said(&["run", "--listen", &address.to_string()]).replace(&address.to_string(), "ADDRESS");
    insta::assert_snapshot!(text, @r"
    exit 1

    error: another program listens on ADDRESS
    hint: choose another address with --listen, or set `api: { listen: off }`; `ss -ltnp` shows who it is
    ");
}

#[test]
fn manual_pages_and_completions_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = cordon(&["completions", shell]);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("cordon"), "{shell}");
    }
    assert!(cordon(&["man", "pages"]).status.success());
}

#[test]
fn rules_are_checked_with_an_exit_code_that_says_how_bad_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |text: &str, args: &[&str]| {
        let path = folder.path().join("rule.yaml");
        std::fs::write(&path, text).expect("room on the disk");
        let path = path.to_string_lossy().into_owned();
        let said = said(&[&["check", &path], args].concat());
        said.replace(&path, "rule.yaml")
    };
    let warned = "name: a\nwhitelist:\n  reason: a\n  cidr: [45.0.0.0/8]\n";
    assert!(said(&["check"]).starts_with("exit 0\n"));
    assert!(check(warned, &[]).starts_with("exit 0\nrule.yaml:4:10: warning[C013]"));
    insta::assert_snapshot!(check(warned, &["--strict"]), @r"
    exit 1
    rule.yaml:4:10: warning[C013] `45.0.0.0/8` is trusted as a whole, strangers included
      | cidr: [45.0.0.0/8]
      |        ^^^^^^^^^^
      hint: list the ranges that are yours
    0 errors, 1 warning, 0 notes in 1 file
    error: there are errors or warnings in the rules
    hint: `cordon check --explain CODE` says what a code means
    ");
    assert!(check(&warned.replace("45.0.0.0/8", "0.0.0.0/0"), &["--sarif"]).starts_with("exit 1\n{\n"));
    insta::assert_snapshot!(said(&["check", "none"]), @r"
    exit 1

    error: cannot read `none`: No such file or directory (os error 2)
    ");
    insta::assert_snapshot!(said(&["check", "--explain", "C99"]), @r"
    exit 1

    error: there is no code `C99`
    hint: the codes are C000, C001, C002, C003, C004, C005, C006, C007, C008, C009, C010, C011, C012, C013, C014, C015, C016, C017
    ");
    assert!(said(&["check", "--explain", "wide-whitelist"]).contains("### Remedy"));
}

#[test]
fn rules_are_tried_on_recorded_logs() {
    let root = env!("CARGO_MANIFEST_DIR");
    let flows = format!("{root}/tests/flows");
    let now = "2026-08-22T00:00:00Z";
    let told = said(&["hub", "test", "--hub", root, "--tests", &flows, "--now", now, "ssh-bf", "http-probing"]);
    assert!(told.starts_with("exit 0\n2 of 2 tests succeed, with "), "{told}");

    let tests = tempfile::tempdir().expect("a temporary folder");
    let folder = tests.path().to_str().expect("a name in UTF-8");
    let log = format!("{flows}/ssh-bf/ssh-bf.log");
    let new =
        ["hub", "test", "--hub", root, "--tests", folder, "--now", now, "--new", "mine", "--log", &log, "-t", "syslog"];
    assert!(said(&new).contains("read its assertions before you keep them"));
    let file = tests.path().join("mine/scenario.assert");
    let assertions = std::fs::read_to_string(&file).expect("it was made");
    std::fs::write(&file, assertions.replace("len(results) == 1", "len(results) == 7")).expect("room on the disk");
    let told = said(&["hub", "test", "--hub", root, "--tests", folder, "--now", now]).replace(folder, "TESTS");
    insta::assert_snapshot!(told, @r"
    exit 1
    mine: 1 of 392 assertions fail
      TESTS/mine/scenario.assert:1: len(results) == 7
        expected: 7
        actual:   1
    0 of 1 tests succeed, with 392 assertions
    error: 1 of 1 tests failed
    ");
}

/// A hub of two collections: `outer` needs `inner`, which needs a parser and a scenario that asks a data file.
fn hub() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
        std::fs::write(path, text).expect("room on the disk");
    };
    write(
        "hub/.index.json",
        r#"{
          "parsers": {"us/doors": {"path": "parsers/s01-parse/us/doors.yaml", "stage": "s01-parse", "version": "0.2",
            "description": "reads the log of our doors", "labels": null, "versions": {}}},
          "scenarios": {"us/forced": {"path": "scenarios/us/forced.yaml", "version": "0.1", "description": "a forced door"}},
          "collections": {
            "us/inner": {"path": "collections/us/inner.yaml", "parsers": ["us/doors"], "scenarios": ["us/forced"], "contexts": null},
            "us/outer": {"path": "collections/us/outer.yaml", "collections": ["us/inner"]},
            "us/torn": {"path": "collections/us/torn.yaml", "parsers": ["us/gone"]}},
          "appsec-rules": {"us/waf": {"path": "appsec-rules/us/waf.yaml"}}
        }"#,
    );
    let parser = "name: us/doors\nonsuccess: next_stage\nfilter: \"evt.Line.Labels.type == 'doors'\"\n\
                  grok:\n  pattern: '%{TIMESTAMP_ISO8601:at} %{WORD:door} forced by %{IP:who}'\n  apply_on: Line.Raw\n\
                  statics:\n  - meta: source_ip\n    expression: evt.Parsed.who\n  - meta: door\n    expression: evt.Parsed.door\n  \
                  - method: ParseDate\n    expression: evt.Parsed.at\n  \
                  - target: evt.MarshaledTime\n    expression: evt.Enriched.MarshaledTime\n";
    let scenario = "type: trigger\nname: us/forced\ndescription: a forced door\n\
                    filter: \"evt.Meta.door in File('doors.txt')\"\ngroupby: evt.Meta.source_ip\n\
                    data:\n  - dest_file: doors.txt\n    type: string\nlabels:\n  remediation: true\n";
    write("hub/parsers/s01-parse/us/doors.yaml", parser);
    write("hub/scenarios/us/forced.yaml", scenario);
    write("hub/data/doors.txt", "cellar\n");
    write(
        "hub/.tests/doors/config.yaml",
        "parsers: [./parsers/s01-parse/us/doors.yaml]\nlog_file: a.log\nlog_type: doors\n",
    );
    // CrowdSec's own folder: another data folder, a pretended scenario, a profile with a length of its own
    let var = folder.path().join("var");
    write("etc/config.yaml", &format!("config_paths:\n  data_dir: {}\n", var.display()));
    write("etc/parsers/s01-parse/doors.yaml", parser);
    write("etc/scenarios/forced.yaml", scenario);
    write("var/doors.txt", "cellar\nattic\n");
    write(
        "etc/profiles.yaml",
        "name: ours\nfilters:\n  - Alert.Remediation == true\ndecisions:\n  - type: captcha\n    duration: 7h\n",
    );
    write(
        "doors.log",
        "2026-03-07T04:05:06Z cellar forced by 198.51.100.23\n2026-03-07T04:05:07Z attic forced by 198.51.100.24\n",
    );
    folder
}

#[test]
fn an_analyst_tries_the_rules_of_a_hub_or_of_crowdsecs_own_folder() {
    let folder = hub();
    let root = folder.path().to_str().expect("a name in UTF-8");
    let at = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| arg.replace('@', root)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        said(&args).replace(root, "@")
    };
    let cellar = "2026-03-07T04:05:06Z,us/forced,Ip:198.51.100.23,1";
    let replay = ["replay", "@/doors.log", "-t", "doors", "-o", "raw"];
    // (arguments, the rows that come out or the error)
    let cases: [(&[&str], &str); 9] = [
        (&["--hub", "@/hub", "--all"], "ban for 4h"),
        (&["--hub", "@/hub", "--collections", "us/inner"], "ban for 4h"),
        (&["--hub", "@/hub", "--collections", "outer", "--workers", "3"], "ban for 4h"),
        (&["--config-dir", "@/etc"], "captcha for 7h"),
        (
            &["--hub", "@/hub", "--collections", "us/iner"],
            "error: there is no collection `us/iner` in the index of the hub\nhint: did you mean `us/inner`?",
        ),
        (&["--hub", "@/hub", "--collections", "outer,innr"], "hint: did you mean `inner`?"),
        (
            &["--hub", "@/hub", "--collections", "torn"],
            "error: there is no item `parsers:us/gone` in the index of the hub",
        ),
        (&["--hub", "@/var", "--all"], "error: there are no rules in `@/var`"),
        (&["--hub", "@/var", "--collections", "inner"], "error: there is no `.index.json` in `@/var`"),
    ];
    for (args, expected) in cases {
        let told = at(&[&replay, args].concat());
        let success = !expected.contains(':');
        assert!(told.starts_with(if success { "exit 0" } else { "exit 1" }), "{args:?}: {told}");
        assert!(told.contains(expected), "{args:?}: {told}");
        assert_eq!(told.contains(cellar), success, "{args:?}: {told}");
        // only the other data folder names the attic
        assert_eq!(told.contains("198.51.100.24"), args[0] == "--config-dir", "{args:?}: {told}");
    }
    for mistake in [
        &["--hub", "@/hub"][..],
        &["--all"],
        &["--collections", "inner"],
        &["--hub", "@/hub", "--all", "--collections", "inner"],
        &["--hub", "@/hub", "--all", "--config-dir", "@/etc"],
        &["--workers", "0"],
        &["--year", "26000"],
    ] {
        let told = at(&[&replay, mistake].concat());
        assert!(told.starts_with("exit 2"), "{mistake:?}: {told}");
    }
    let line = "2026-03-07T04:05:06Z cellar forced by 198.51.100.23";
    let explained = at(&["explain", "-t", "doors", "--line", line, "--hub", "@/hub", "--collections", "inner"]);
    assert!(explained.contains("us/forced  pours into the bucket of `198.51.100.23`"), "{explained}");
}

#[test]
fn a_hub_is_listed_and_its_items_are_inspected() {
    let folder = hub();
    let root = folder.path().to_str().expect("a name in UTF-8");
    let (hub, etc) = (format!("{root}/hub"), format!("{root}/etc"));
    insta::assert_snapshot!(said(&["hub", "list", "--hub", &hub, "--config-dir", &etc, "-o", "raw"]), @r#"
    exit 0
    type,name,version,status,description
    collections,us/inner,,available,
    collections,us/outer,,available,
    collections,us/torn,,available,
    parsers,us/doors,0.2,"installed, tainted",reads the log of our doors
    scenarios,us/forced,0.1,"installed, tainted",a forced door
    "#);
    insta::assert_snapshot!(said(&["hub", "inspect", "outer", "--hub", &hub]), @r"
    exit 0
    type           collections
    name           us/outer
    status         available
    file           collections/us/outer.yaml
    collections    us/inner
    parsers        us/doors
    scenarios      us/forced
    ");
    insta::assert_snapshot!(said(&["hub", "inspect", "doors", "--hub", &hub]), @r"
    exit 0
    type           parsers
    name           us/doors
    version        0.2
    status         available
    description    reads the log of our doors
    file           parsers/s01-parse/us/doors.yaml
    stage          s01-parse
    requires       evt.Line.Labels.type is one of doors
    reads          evt.Enriched.MarshaledTime
                   evt.Line.Labels.type
                   evt.Line.Raw
                   evt.Parsed.at
                   evt.Parsed.door
                   evt.Parsed.who
                   evt.StrTimeFormat
    writes         evt.Enriched.MarshaledTime
                   evt.MarshaledTime
                   evt.Meta.door
                   evt.Meta.source_ip
                   evt.Parsed.at
                   evt.Parsed.door
                   evt.Parsed.who
                   evt.Stage
    test           doors
    ");
    insta::assert_snapshot!(said(&["hub", "inspect", "us/forced", "--hub", &hub]), @r"
    exit 0
    type           scenarios
    name           us/forced
    version        0.1
    status         available
    description    a forced door
    file           scenarios/us/forced.yaml
    reads          evt.Enriched.ASNNumber
                   evt.Enriched.ASNOrg
                   evt.Enriched.ASNumber
                   evt.Enriched.IsoCode
                   evt.Enriched.Latitude
                   evt.Enriched.Longitude
                   evt.MarshaledTime
                   evt.Meta.*
                   evt.Meta.door
                   evt.Meta.source_ip
    data file      doors.txt
    ");
    insta::assert_snapshot!(said(&["hub", "inspect", "force", "--hub", &hub]), @r"
    exit 1

    error: there is no item `force` in the index of the hub
    hint: did you mean `forced`?
    ");
    let json = cordon(&["hub", "list", "--hub", &hub, "-o", "json"]).stdout;
    let kinds: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(
        (&kinds["parsers"][0]["name"], &kinds["parsers"][0]["status"]),
        (&"us/doors".into(), &"available".into())
    );
    assert_eq!(kinds["postoverflows"], serde_json::json!([]));
}

#[test]
fn all_tests_are_asked_for_or_some_not_both() {
    let folder = hub();
    let hub = format!("{}/hub", folder.path().display());
    assert!(said(&["hub", "test", "--hub", &hub, "--all", "doors"]).starts_with("exit 2"));
    let output = cordon(&["hub", "test", "--hub", &hub, "--all", "-o", "json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), told), (Some(1), serde_json::json!({ "success": [], "fail": ["doors"] })));
}
