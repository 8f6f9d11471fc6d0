use std::path::Path;

use super::*;
use crate::load::Folders;

/// Findings of one rule in a set of files (place and text), as `path:line`.
pub(super) fn set(code: &str, files: &[(&str, &str)]) -> Vec<String> {
    let report = report(files);
    let found = report.findings.iter().filter(|finding| finding.rule.code == code);
    found.map(|finding| format!("{}:{}", finding.path.display(), finding.line)).collect()
}

/// Files on their own (place, text, lines on which the rule finds something).
pub(super) fn table(code: &str, cases: &[(&str, &str, &[&str])]) {
    for (path, text, lines) in cases {
        let expected: Vec<String> = lines.iter().map(|line| format!("{path}:{line}")).collect();
        assert_eq!(set(code, &[(path, text)]), expected, "{code} on {text}");
    }
}

fn report(files: &[(&str, &str)]) -> Report {
    // The base vocabulary is enough, and the other four hundred patterns take their time.
    let mut patterns = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() }).patterns;
    patterns.retain(|file| file.path.ends_with("00-base"));
    let mut rules = RuleFiles::default();
    let (mut acquisition, mut profiles) = (Vec::new(), Vec::new());
    for (path, text) in files {
        let mut parts = path.split('/');
        let (list, stage) = (parts.next().expect("a list"), parts.next().unwrap_or(""));
        let staged = matches!(list, "parsers" | "postoverflows");
        let file = RuleFile::local(path, if staged { stage } else { "" }, (*text).to_owned());
        match list {
            "parsers" => rules.parsers.push(file),
            "postoverflows" => rules.postoverflows.push(file),
            "scenarios" => rules.scenarios.push(file),
            "contexts" => rules.contexts.push(file),
            "acquis.yaml" => acquisition.push(file),
            "profiles.yaml" => profiles.push(file),
            other => panic!("no list is called `{other}`"),
        }
    }
    let data = |name: &str| if name == "here.txt" { Ok(()) } else { Err(format!("data file `{name}` is not there")) };
    check(Input {
        files: &rules,
        patterns: &patterns,
        acquisition: &acquisition,
        profiles: &profiles,
        data: Some(&data),
        only: &[],
    })
}

#[test]
fn what_we_ship_is_clean() {
    let report = Reading::configured(&Folders { shipped: true, folders: Vec::new() }).check();
    assert!(report.files > 20);
    assert!(report.is_clean(Severity::Warning), "{}", text(&report, Severity::Warning));
}

#[test]
fn the_guide_is_the_pages_of_the_rules() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/check.md");
    let guide = std::fs::read_to_string(guide).expect("the guide is there");
    assert!(guide == document(), "docs/check.md is out of step: `cordon check --explain all > docs/check.md`");
}

#[test]
fn codes_are_numbered_in_order_and_pages_are_whole() {
    for (number, known) in RULES.iter().enumerate() {
        assert_eq!(known.code, format!("C{number:03}"));
        assert_eq!(rule(known.name).map(|rule| rule.code), Some(known.code));
        for heading in ["### What it does", "### Why it is bad", "### Example", "### Remedy"] {
            assert_eq!(known.page.matches(heading).count(), 1, "{heading} in {}", known.code);
        }
    }
    assert!(rule("c001").is_some() && rule("C999").is_none());
}

#[test]
fn a_finding_can_be_allowed_where_it_stands() {
    let rule = |above: &str, behind: &str| {
        let text = format!("name: a\nwhitelist:\n  reason: a\n  cidr:\n{above}    - 45.0.0.0/8{behind}\n");
        set("C013", &[("parsers/s02-enrich/a.yaml", &text)]).len()
    };
    assert_eq!(rule("", ""), 1);
    assert_eq!(rule("", " # check: allow C013: ours"), 0);
    assert_eq!(rule("    # check: allow C001, C013: ours,\n    # all of it\n", ""), 0);
    assert_eq!(rule("    # check: allow C001: ours\n", ""), 1);
    assert_eq!(rule("    # check: allow C013: ours\n    - 192.0.2.0/24\n", ""), 1);
}

const LOOSE: &str = "name: gate\ngrok:\n  apply_on: message\n  pattern: 'login of %{DATA:user} from %{IP:peer}'\nstatics:\n  - {meta: source_ip, expression: evt.Parsed.peer}\n  - {meta: target_user, expression: evt.Parsed.user}\n";

#[test]
fn a_report_shows_the_line_and_the_remedy() {
    let report = report(&[
        ("parsers/s01-parse/gate.yaml", LOOSE),
        ("scenarios/gate.yaml", "type: trigger\nname: gate\ndescription: a\nfilter: evt.Meta.target_usr != ''\n"),
        ("scenarios/broken.yaml", "type: trigger\n"),
    ]);
    insta::assert_snapshot!(text(&report, Severity::Note), @r"
    parsers/s01-parse/gate.yaml:4:45: error[C001] the free text before `peer`, which becomes `Meta.source_ip`, ends at the first copy of what follows it: who writes it chooses the address
      | pattern: 'login of %{DATA:user} from %{IP:peer}'
      |                                           ^^^^
      hint: tie the address to the end of the line with `$`, without free text in between, or set no `source_ip`
    scenarios/broken.yaml:1: error[C000] a scenario has no `name`
      | type: trigger
      hint: each document is one scenario, such as `name: author/word`
    scenarios/gate.yaml:4:13: warning[C005] `gate` never sees an event: it demands that `Meta.target_usr` is not empty, and the installed parsers write nothing there
      | filter: evt.Meta.target_usr != ''
      |             ^^^^^^^^^^^^^^^
      hint: install the parser that it was written for, or demand what the parsers write
    scenarios/gate.yaml:4:13: warning[C011] nobody writes `Meta.target_usr`
      | filter: evt.Meta.target_usr != ''
      |             ^^^^^^^^^^^^^^^
      hint: did you mean `Meta.target_user`?
    2 errors, 2 warnings, 0 notes in 3 files
    ");
    insta::assert_snapshot!(serde_json::to_string_pretty(&report.findings[0]).expect("plain values"), @r#"
    {
      "code": "C001",
      "severity": "error",
      "path": "parsers/s01-parse/gate.yaml",
      "line": 4,
      "column": 45,
      "width": 4,
      "message": "the free text before `peer`, which becomes `Meta.source_ip`, ends at the first copy of what follows it: who writes it chooses the address",
      "remedy": "tie the address to the end of the line with `$`, without free text in between, or set no `source_ip`",
      "source": "  pattern: 'login of %{DATA:user} from %{IP:peer}'"
    }
    "#);
    assert!(!report.is_clean(Severity::Error));
}

/// What an analyst gets wrong in the first version of a file, and what he is told.
#[test]
fn mistakes_are_told_with_their_place_and_a_remedy() {
    let node = |rest: &str| format!("name: gate\nonsuccess: next_stage\n{rest}");
    let bucket = |rest: &str| {
        format!(
            "type: leaky\nname: gate\ndescription: a\ngroupby: evt.Meta.source_ip\ncapacity: 5\nleakspeed: 10s\n{rest}"
        )
    };
    let grok = |pattern: &str| node(&format!("grok:\n  apply_on: message\n  pattern: {pattern}\n"));
    let cases = [
        ("parsers/s01-parse/a.yaml", node("on_success: next_stage\n")),
        ("parsers/s01-parse/a.yaml", node("statics:\n  - meta: service\n    vale: gate\n")),
        ("parsers/s01-parse/a.yaml", grok("'login (of %{USER:user}'")),
        ("parsers/s01-parse/a.yaml", grok("'login of %{USERNAM:user}'")),
        ("parsers/s01-parse/a.yaml", grok("\"login of \\d+ %{USER:user}\"")),
        ("parsers/s01-parse/a.yaml", node("whitelist:\n  reason: office\n  ip: 10.0.0.300\n")),
        ("parsers/s01-parse/a.yaml", node("filter: evt.Parsed.program == 'gate'\nnodes:\n\t- grok: {}\n")),
        ("scenarios/a.yaml", bucket("filter: evt.Meta.log_type = 'x'\n")),
        ("scenarios/a.yaml", bucket("filter: \"Uper(evt.Meta.log_type) == \\\"x\\\"\"\n")),
        ("scenarios/a.yaml", bucket("filter: |\n  evt.Meta.log_type == 'x' &&\n    IpInRange(evt.Meta.source_ip)\n")),
        ("scenarios/a.yaml", bucket("filter: evt.Meta.log_type == 404\n")),
        ("scenarios/a.yaml", bucket("filter: evt.Meta.log_type matches '/a(b'\n")),
        ("scenarios/a.yaml", bucket("filter: evt.Meta.log_type\n")),
        ("scenarios/a.yaml", bucket("filter: 'true'\nblackhole: 1d\n")),
        ("scenarios/a.yaml", bucket("filter: 'true'\ncapacity: 6\n")),
        ("scenarios/a.yaml", bucket("filter: 'true'\n").replace("leaky", "leeky")),
        ("scenarios/a.yaml", bucket("filter: 'true'\n  duration: 1m\n")),
    ];
    let told: Vec<String> = cases
        .iter()
        .map(|(path, file)| {
            let mut report = report(&[(path, file)]);
            report.findings.retain(|finding| matches!(finding.rule.code, "C000" | "C016"));
            let text = text(&report, Severity::Note);
            text.lines().filter(|line| !line.contains(" in 1 file")).collect::<Vec<_>>().join("\n")
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    parsers/s01-parse/a.yaml:3:1: error[C000] unknown key in a parser: `on_success`
      | on_success: next_stage
      | ^^^^^^^^^^
      hint: did you mean `onsuccess`?
    parsers/s01-parse/a.yaml:5:5: error[C000] unknown key in an entry of `statics`: `vale`
      | vale: gate
      | ^^^^
      hint: did you mean `value`?
    parsers/s01-parse/a.yaml:5: error[C000] bad regex: unclosed group
      | pattern: 'login (of %{USER:user}'
      hint: brackets and signs that are meant as text need a backslash: `\(`, `\[`, `\*`
    parsers/s01-parse/a.yaml:5:24: error[C000] unknown pattern `USERNAM`
      | pattern: 'login of %{USERNAM:user}'
      |                      ^^^^^^^
      hint: did you mean `USERNAME`?
    parsers/s01-parse/a.yaml:5:12: error[C000] not valid YAML: while parsing a quoted scalar, found unknown escape character
      | pattern: "login of \d+ %{USER:user}"
      |          ^
      hint: between double quotes `\` starts an escape: write `\\`, or use single quotes
    parsers/s01-parse/a.yaml:5:7: error[C000] `ip` must be a list, found `10.0.0.300`
      | ip: 10.0.0.300
      |     ^^^^^^^^^^
      hint: write it with a dash or in brackets: `[10.0.0.300]`
    parsers/s01-parse/a.yaml:5:2: error[C000] not valid YAML: tabs disallowed within this context (block indentation)
      | - grok: {}
      | ^
      hint: indent with blanks, not with tabs
    scenarios/a.yaml:7:27: error[C000] bad `filter`: unexpected `=`
      | filter: evt.Meta.log_type = 'x'
      |                           ^
      hint: write `==` to compare
    scenarios/a.yaml:7:10: error[C000] bad `filter`: unknown function `Uper`
      | filter: "Uper(evt.Meta.log_type) == \"x\""
      |          ^^^^^^^^^^^^^^^^^^^^^^^
      hint: did you mean `Upper`?
    scenarios/a.yaml:9:5: error[C000] bad `filter`: `IpInRange` takes 2 arguments, found 1
      | IpInRange(evt.Meta.source_ip)
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      hint: write `IpInRange(string, string)`
    scenarios/a.yaml:7:9: error[C000] bad `filter`: invalid operation: `==` between string and int
      | filter: evt.Meta.log_type == 404
      |         ^^^^^^^^^^^^^^^^^^^^^^^^
      hint: compare with a string, or convert with `int(...)` or `float(...)`
    scenarios/a.yaml:7:35: error[C000] bad `filter`: bad regex: unclosed group
      | filter: evt.Meta.log_type matches '/a(b'
      |                                   ^^^^^^
      hint: brackets and signs that are meant as text need `\\` before them
    scenarios/a.yaml:7: warning[C016] this yields a text: it is never true
      | filter: evt.Meta.log_type
      hint: compare it with something, such as `... == 'x'`
    scenarios/a.yaml:8:1: error[C000] bad `blackhole`: unknown unit `d` in duration `1d`, expected one of ns, us, ms, s, m, h
      | blackhole: 1d
      | ^^^^^^^^^
      hint: write it like `10s`, `5m` or `1h30m`; a day is `24h`
    scenarios/a.yaml:8:1: error[C000] key `capacity` is repeated
      | capacity: 6
      | ^^^^^^^^
      hint: it is already set in line 5; keep one of them
    scenarios/a.yaml:1:7: error[C000] unknown bucket type `leeky`
      | type: leeky
      |       ^^^^^
      hint: did you mean `leaky`?
    scenarios/a.yaml:8:3: error[C000] not valid YAML: while parsing a block mapping, did not find expected key
      | duration: 1m
      | ^
      hint: look at quotes, brackets and indentation of this line and of the one before
    "#);
}

#[test]
fn sarif_names_rule_level_and_place() {
    let report = report(&[("parsers/s01-parse/my gate.yaml", LOOSE)]);
    let sarif = sarif(&report);
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(sarif["runs"][0]["tool"]["driver"]["rules"].as_array().map(Vec::len), Some(RULES.len()));
    insta::assert_snapshot!(serde_json::to_string_pretty(&sarif["runs"][0]["results"]).expect("plain values"), @r#"
    [
      {
        "level": "error",
        "locations": [
          {
            "physicalLocation": {
              "artifactLocation": {
                "uri": "parsers/s01-parse/my%20gate.yaml"
              },
              "region": {
                "endColumn": 49,
                "snippet": {
                  "text": "  pattern: 'login of %{DATA:user} from %{IP:peer}'"
                },
                "startColumn": 45,
                "startLine": 4
              }
            }
          }
        ],
        "message": {
          "text": "the free text before `peer`, which becomes `Meta.source_ip`, ends at the first copy of what follows it: who writes it chooses the address. Remedy: tie the address to the end of the line with `$`, without free text in between, or set no `source_ip`."
        },
        "ruleId": "C001",
        "ruleIndex": 1
      }
    ]
    "#);
}

#[test]
fn a_folder_stands_alone_and_a_lone_file_beside_what_we_ship() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
        std::fs::write(&path, text).expect("room on the disk");
        path
    };
    let codes = |path: &Path| -> Vec<String> {
        let report = Reading::of(path).expect("rules").check();
        report.findings.iter().map(|finding| format!("{} {}", finding.rule.code, finding.line)).collect()
    };
    // Alone it knows only what its own parsers write; beside what we ship it knows sshd's.
    let scenario = "type: trigger\nname: a\ndescription: a\nfilter: evt.Meta.log_type == 'ssh_failed-auth'\n";
    let lone = write("lone.yaml", scenario);
    assert_eq!(codes(&lone), [""; 0]);
    let inside = write("rules/scenarios/a.yaml", scenario);
    assert_eq!(codes(&folder.path().join("rules")), [""; 0]);
    write("rules/parsers/s01-parse/gate.yaml", LOOSE);
    assert_eq!(codes(&folder.path().join("rules")), ["C001 4", "C005 4"]);
    assert_eq!(codes(&inside), ["C005 4"]);
    assert!(matches!(Reading::of(&folder.path().join("none")), Err(ReadError::Io { .. })));
    std::fs::create_dir(folder.path().join("empty")).expect("room on the disk");
    assert!(matches!(Reading::of(&folder.path().join("empty")), Err(ReadError::Empty(_))));
    assert!(matches!(Reading::of(&write("note.yaml", "hello: world\n")), Err(ReadError::Unknown(_))));
}
