//! A small hub in a temporary folder.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::load::Folders;

const PARSER: &str = "
name: acme/door-logs
description: reads a door
filter: evt.Line.Labels.type == 'door'
onsuccess: next_stage
grok:
  pattern: '^%{DAY:day} %{ADDRESS:address} %{WORD:verb}$'
  apply_on: Line.Raw
pattern_syntax:
  DAY: '\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ'
  ADDRESS: '[0-9a-f.:]+'
statics:
- {meta: service, value: door}
- {meta: source_ip, expression: evt.Parsed.address}
- {meta: verb, expression: evt.Parsed.verb}
- {meta: datasource_path, expression: evt.Line.Src}
- {target: evt.StrTime, expression: evt.Parsed.day}
";

const DATE: &str = "
name: acme/dates
description: reads dates
filter: evt.StrTime != ''
statics:
- {method: ParseDate, expression: evt.StrTime}
- {target: evt.MarshaledTime, expression: evt.Enriched.MarshaledTime}
";

const SCENARIO: &str = "
type: leaky
name: acme/door-knocking
description: knocks again and again
filter: evt.Meta.service == 'door' && evt.Meta.verb == 'knock'
groupby: evt.Meta.source_ip
capacity: 1
leakspeed: 10s
labels: {remediation: true}
";

const POSTOVERFLOW: &str = "
name: acme/street
description: blames the street
filter: evt.Overflow.Alert.Source.IP startsWith '192.0.2.'
statics:
- {target: evt.Overflow.Alert.Source.Value, value: 192.0.2.0/24}
- {target: evt.Overflow.Alert.Source.Scope, value: Range}
";

const LOG: &str = "2026-08-22T10:00:00Z 192.0.2.7 knock\n\
    2026-08-22T10:00:01Z 198.51.100.1 knock\n\
    2026-08-22T10:00:02Z 192.0.2.7 knock\n\
    not of this door\n";

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let bench = Self { folder };
        bench.write("parsers/s01-parse/acme/door-logs.yaml", PARSER);
        bench.write("parsers/s02-enrich/acme/dates.yaml", DATE);
        bench.write("scenarios/acme/door-knocking.yaml", SCENARIO);
        bench.write("postoverflows/s00-enrich/acme/street.yaml", POSTOVERFLOW);
        bench.write("door.log", LOG);
        bench
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
        fs::write(path, text).expect("room on the disk");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).expect("it was written")
    }

    fn options(&self) -> Options {
        Options {
            hub: self.folder.path().to_path_buf(),
            names: Vec::new(),
            now: "2026-08-22T12:00:00Z".parse().expect("a valid time"),
            tests: None,
            strict: false,
        }
    }

    /// Patterns, and one item that no hub has.
    fn shipped() -> RuleFiles {
        let file = |path: &str, stage: &str, text: &'static str| RuleFile::local(path, stage, text);
        let mut shipped = RuleFiles::default();
        shipped.patterns = vec![file("patterns", "", "WORD \\w+\n")];
        shipped.parsers = vec![file("shipped:parsers/s02-enrich/dates.yaml", "s02-enrich", DATE)];
        shipped
    }

    fn create(&self, name: &str, postoverflows: &[&str]) -> Result<PathBuf, HubTestError> {
        let new = NewTest {
            name: name.into(),
            log: self.folder.path().join("door.log"),
            log_type: "door".into(),
            parsers: vec![
                "parsers/s01-parse/acme/door-logs.yaml".into(),
                "./parsers/s02-enrich/acme/dates.yaml".into(),
            ],
            scenarios: vec!["scenarios/acme/door-knocking.yaml".into()],
            postoverflows: postoverflows.iter().map(ToString::to_string).collect(),
        };
        create(&self.options(), &Self::shipped(), &new)
    }

    fn run(&self) -> Report {
        run(&self.options(), &Self::shipped()).expect("a hub with tests")
    }

    /// What a run says, without the folder's name.
    fn told(&self) -> String {
        let mut told = Vec::new();
        for test in self.run().tests {
            told.push(format!("{}: {} assertions", test.name, test.assertions));
            told.extend(test.error.iter().map(ToString::to_string));
            told.extend(test.failures.iter().map(ToString::to_string));
        }
        told.join("\n").replace(&*self.folder.path().to_string_lossy(), "HUB")
    }
}

#[test]
fn a_new_test_holds_what_is_so_at_present() {
    let bench = Bench::new();
    bench.create("door", &[]).expect("a new test");
    let third = |line: &&str| line.contains("[2]") || line.starts_with("len(");
    let parsers = bench.read(".tests/door/parser.assert");
    insta::assert_snapshot!(parsers.lines().filter(third).collect::<Vec<_>>().join("\n"), @r#"
    len(results) == 3
    len(results["s01-parse"]["acme/door-logs"]) == 4
    results["s01-parse"]["acme/door-logs"][2].Success == true
    results["s01-parse"]["acme/door-logs"][2].Evt.Parsed["address"] == "192.0.2.7"
    results["s01-parse"]["acme/door-logs"][2].Evt.Parsed["day"] == "2026-08-22T10:00:02Z"
    results["s01-parse"]["acme/door-logs"][2].Evt.Parsed["verb"] == "knock"
    basename(results["s01-parse"]["acme/door-logs"][2].Evt.Meta["datasource_path"]) == "door.log"
    results["s01-parse"]["acme/door-logs"][2].Evt.Meta["service"] == "door"
    results["s01-parse"]["acme/door-logs"][2].Evt.Meta["source_ip"] == "192.0.2.7"
    results["s01-parse"]["acme/door-logs"][2].Evt.Meta["verb"] == "knock"
    results["s01-parse"]["acme/door-logs"][2].Evt.Whitelisted == false
    len(results["s02-enrich"]["acme/dates"]) == 3
    results["s02-enrich"]["acme/dates"][2].Success == true
    results["s02-enrich"]["acme/dates"][2].Evt.Parsed["address"] == "192.0.2.7"
    results["s02-enrich"]["acme/dates"][2].Evt.Parsed["day"] == "2026-08-22T10:00:02Z"
    results["s02-enrich"]["acme/dates"][2].Evt.Parsed["verb"] == "knock"
    basename(results["s02-enrich"]["acme/dates"][2].Evt.Meta["datasource_path"]) == "door.log"
    results["s02-enrich"]["acme/dates"][2].Evt.Meta["service"] == "door"
    results["s02-enrich"]["acme/dates"][2].Evt.Meta["source_ip"] == "192.0.2.7"
    results["s02-enrich"]["acme/dates"][2].Evt.Meta["verb"] == "knock"
    results["s02-enrich"]["acme/dates"][2].Evt.Enriched["MarshaledTime"] == "2026-08-22T10:00:02Z"
    results["s02-enrich"]["acme/dates"][2].Evt.Whitelisted == false
    len(results["success"][""]) == 0
    "#);
    insta::assert_snapshot!(bench.read(".tests/door/scenario.assert"), @r#"
    len(results) == 1
    "192.0.2.7" in results[0].Overflow.GetSources()
    results[0].Overflow.Sources["192.0.2.7"].IP == "192.0.2.7"
    results[0].Overflow.Sources["192.0.2.7"].Range == ""
    results[0].Overflow.Sources["192.0.2.7"].GetScope() == "Ip"
    results[0].Overflow.Sources["192.0.2.7"].GetValue() == "192.0.2.7"
    basename(results[0].Overflow.Alert.Events[0].GetMeta("datasource_path")) == "door.log"
    results[0].Overflow.Alert.Events[0].GetMeta("service") == "door"
    results[0].Overflow.Alert.Events[0].GetMeta("source_ip") == "192.0.2.7"
    results[0].Overflow.Alert.Events[0].GetMeta("verb") == "knock"
    basename(results[0].Overflow.Alert.Events[1].GetMeta("datasource_path")) == "door.log"
    results[0].Overflow.Alert.Events[1].GetMeta("service") == "door"
    results[0].Overflow.Alert.Events[1].GetMeta("source_ip") == "192.0.2.7"
    results[0].Overflow.Alert.Events[1].GetMeta("verb") == "knock"
    results[0].Overflow.Alert.GetScenario() == "acme/door-knocking"
    results[0].Overflow.Alert.Remediation == true
    results[0].Overflow.Alert.GetEventsCount() == 2
    "#);
    assert!(bench.run().success());
    assert!(matches!(bench.create("door", &[]), Err(HubTestError::Exists(_))));
}

#[test]
fn a_rewritten_source_keeps_its_key() {
    let bench = Bench::new();
    bench.create("street", &["postoverflows/s00-enrich/acme/street.yaml"]).expect("a new test");
    let told = bench.read(".tests/street/scenario.assert");
    let sources: Vec<&str> = told.lines().filter(|line| line.contains("Sources")).collect();
    insta::assert_snapshot!(sources.join("\n"), @r#"
    "192.0.2.7" in results[0].Overflow.GetSources()
    results[0].Overflow.Sources["192.0.2.7"].IP == "192.0.2.7"
    results[0].Overflow.Sources["192.0.2.7"].Range == ""
    results[0].Overflow.Sources["192.0.2.7"].GetScope() == "Range"
    results[0].Overflow.Sources["192.0.2.7"].GetValue() == "192.0.2.0/24"
    "#);
    assert!(bench.run().success());
}

#[test]
fn what_does_not_hold_is_told_with_what_is_there() {
    let bench = Bench::new();
    bench.create("door", &[]).expect("a new test");
    let wrong = r#"len(results) == 2
results[0].Overflow.Alert.GetScenario() == "acme/other"
"203.0.113.1" in results[0].Overflow.GetSources()
results[0].Overflow.Alert.Events[0].GetMeta("verb") == "knock"
"#;
    bench.write(".tests/door/scenario.assert", wrong);
    insta::assert_snapshot!(bench.told(), @r#"
    door: 66 assertions
    HUB/.tests/door/scenario.assert:1: len(results) == 2
      expected: 2
      actual:   1
    HUB/.tests/door/scenario.assert:2: results[0].Overflow.Alert.GetScenario() == "acme/other"
      expected: "acme/other"
      actual:   "acme/door-knocking"
    "#);
    let strict = Options { strict: true, ..bench.options() };
    let report = run(&strict, &Bench::shipped()).expect("a hub with tests");
    assert_eq!(report.tests[0].failures.len(), 3, "the field's runner lets the line without equality pass");
}

#[test]
fn what_cannot_be_run_says_why() {
    let config = |keys: &str| format!("log_file: door.log\nlog_type: door\n{keys}\n");
    // (configuration, assertions about scenarios)
    let cases: &[(&str, String, &str)] = &[
        ("no log", "log_type: door\n".into(), ""),
        ("missing log", config("").replace("door.log", "none.log"), ""),
        ("empty log", config("").replace("door.log", "empty.log"), ""),
        ("unknown item", config("parsers: [acme/nobody]"), ""),
        ("unfilled", config("parsers: [parsers/s01-parse/acme/door-logs.yaml]"), ""),
        ("broken rule", config("scenarios: [broken.yaml]\nignore_parsers: true"), ""),
        (
            "broken assertion",
            config("scenarios: [scenarios/acme/door-knocking.yaml]\nignore_parsers: true"),
            "results[5].Overflow.Alert.GetScenario() == ''\n",
        ),
    ];
    let mut told = Vec::new();
    for (name, config, assertions) in cases {
        let bench = Bench::new();
        bench.write(".tests/t/config.yaml", config);
        bench.write(".tests/t/door.log", "2026-08-22T10:00:00Z 192.0.2.7 knock\n");
        bench.write(".tests/t/empty.log", "");
        bench.write(".tests/t/broken.yaml", "type: leaky\n");
        bench.write(".tests/t/scenario.assert", assertions);
        told.push(format!("{name}: {}", bench.told()));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    no log: t: 0 assertions
    HUB/.tests/t/config.yaml:1: `log_file` is missing
    missing log: t: 0 assertions
    cannot read `HUB/.tests/t/none.log`: No such file or directory (os error 2)
    empty log: t: 0 assertions
    the log `HUB/.tests/t/empty.log` is empty
    unknown item: t: 0 assertions
    parsers `acme/nobody` is neither in the index nor a file of the hub or the test, nor shipped
    unfilled: t: 0 assertions
    `HUB/.tests/t/parser.assert` holds no assertions; fill it with these, if they are right:
    len(results) == 2
    len(results["s01-parse"]["acme/door-logs"]) == 1
    results["s01-parse"]["acme/door-logs"][0].Success == true
    results["s01-parse"]["acme/door-logs"][0].Evt.Parsed["address"] == "192.0.2.7"
    results["s01-parse"]["acme/door-logs"][0].Evt.Parsed["day"] == "2026-08-22T10:00:00Z"
    results["s01-parse"]["acme/door-logs"][0].Evt.Parsed["verb"] == "knock"
    basename(results["s01-parse"]["acme/door-logs"][0].Evt.Meta["datasource_path"]) == "door.log"
    results["s01-parse"]["acme/door-logs"][0].Evt.Meta["service"] == "door"
    results["s01-parse"]["acme/door-logs"][0].Evt.Meta["source_ip"] == "192.0.2.7"
    results["s01-parse"]["acme/door-logs"][0].Evt.Meta["verb"] == "knock"
    results["s01-parse"]["acme/door-logs"][0].Evt.Whitelisted == false
    len(results["success"][""]) == 0

    broken rule: t: 0 assertions
    HUB/.tests/t/broken.yaml:1: a scenario has no `name`
    hint: each document is one scenario, such as `name: author/word`
    broken assertion: t: 1 assertions
    HUB/.tests/t/scenario.assert:1: cannot evaluate the assertion: index out of range
    "#);
    let bench = Bench::new();
    let options = Options { names: vec!["nobody".into()], ..bench.options() };
    assert!(matches!(run(&options, &Bench::shipped()), Err(HubTestError::Unknown { .. })));
}

#[test]
fn a_new_test_takes_the_rules_that_have_to_do_with_its_log() {
    let bench = Bench::new();
    let index = serde_json::json!({
        "parsers": {
            "acme/door": { "path": "parsers/s01-parse/acme/door-logs.yaml", "stage": "s01-parse" },
            "acme/dates": { "path": "parsers/s02-enrich/acme/dates.yaml", "stage": "s02-enrich" },
            "acme/idle": { "path": "parsers/s01-parse/acme/idle.yaml", "stage": "s01-parse" },
        },
        "scenarios": {
            "acme/knocking": { "path": "scenarios/acme/door-knocking.yaml" },
            "acme/kicking": { "path": "scenarios/acme/kicking.yaml" },
        },
    });
    bench.write(".index.json", &index.to_string());
    bench.write("parsers/s01-parse/acme/idle.yaml", &PARSER.replace("'door'", "'gate'").replace("door-logs", "idle"));
    bench.write("scenarios/acme/kicking.yaml", &SCENARIO.replace("'knock'", "'kick'").replace("knocking", "kicking"));
    // Not in the index yet.
    bench.write("scenarios/acme/pounding.yaml", &SCENARIO.replace("knocking", "pounding"));
    let new = NewTest {
        name: "all".into(),
        log: bench.folder.path().join("door.log"),
        log_type: "door".into(),
        ..NewTest::default()
    };
    create(&bench.options(), &Bench::shipped(), &new).expect("a new test");
    insta::assert_snapshot!(bench.read(".tests/all/config.yaml"), @r#"
    parsers:
    - "acme/dates"
    - "acme/door"
    scenarios:
    - "acme/knocking"
    - "scenarios/acme/pounding.yaml"
    postoverflows: []
    log_file: "door.log"
    log_type: "door"
    ignore_parsers: false
    "#);
    assert!(bench.run().success());
}

#[test]
fn items_are_found_by_name_and_by_path() {
    let bench = Bench::new();
    let index = serde_json::json!({
        "parsers": { "acme/door-logs": { "path": "parsers/s01-parse/acme/door-logs.yaml", "stage": "s01-parse" } },
    });
    bench.write(".index.json", &index.to_string());
    bench.write(".tests/t/s02-enrich/acme/own.yaml", DATE);
    let config = "parsers: [./s02-enrich/acme/own.yaml, cordon/dates, acme/door-logs, '']\nlog_file: x\n";
    bench.write(".tests/t/config.yaml", config);
    let shipped = Bench::shipped();
    let hub = Hub::open(&bench.options(), &shipped).expect("a hub");
    let test = Test::read(&hub, "t").expect("a test");
    let placed: Vec<(&str, &Path)> =
        test.rules.parsers.iter().map(|rule| (rule.stage.as_str(), rule.path.as_path())).collect();
    let expected = [
        ("s01-parse", Path::new("parsers/s01-parse/door-logs.yaml")),
        ("s02-enrich", Path::new("parsers/s02-enrich/dates.yaml")),
        ("s02-enrich", Path::new("parsers/s02-enrich/own.yaml")),
    ];
    assert_eq!(placed, expected);
}

#[test]
fn what_we_ship_does_what_its_flows_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let options = Options {
        tests: Some(root.join("tests/flows")),
        hub: root,
        names: Vec::new(),
        now: "2026-08-22T00:00:00Z".parse().expect("a valid time"),
        strict: true,
    };
    let shipped = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
    let report = run(&options, &shipped).expect("a folder of flows");
    let told: Vec<String> = report
        .tests
        .iter()
        .flat_map(|test| {
            let failures = test.failures.iter().map(ToString::to_string);
            test.error.iter().map(|error| format!("{}: {error}", test.name)).chain(failures)
        })
        .collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
    assert!(report.tests.len() > 10);
}
