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
    parsers/s01-parse/gate.yaml:4: error[C001] the free text before `peer`, which becomes `Meta.source_ip`, ends at the first copy of what follows it: who writes it chooses the address
      | pattern: 'login of %{DATA:user} from %{IP:peer}'
      hint: tie the address to the end of the line with `$`, without free text in between, or set no `source_ip`
    scenarios/broken.yaml:1: error[C000] a scenario has no `name`
      | type: trigger
      hint: each document is one scenario, such as `name: author/word`
    scenarios/gate.yaml:4: warning[C005] `gate` never sees an event: it demands that `Meta.target_usr` is not empty, and the installed parsers write nothing there
      | filter: evt.Meta.target_usr != ''
      hint: install the parser that it was written for, or demand what the parsers write
    scenarios/gate.yaml:4: warning[C011] nobody writes `Meta.target_usr`
      | filter: evt.Meta.target_usr != ''
      hint: did you mean `Meta.target_user`?
    2 errors, 2 warnings, 0 notes in 3 files
    ");
    insta::assert_snapshot!(serde_json::to_string_pretty(&report.findings[0]).expect("plain values"), @r#"
    {
      "code": "C001",
      "severity": "error",
      "path": "parsers/s01-parse/gate.yaml",
      "line": 4,
      "message": "the free text before `peer`, which becomes `Meta.source_ip`, ends at the first copy of what follows it: who writes it chooses the address",
      "remedy": "tie the address to the end of the line with `$`, without free text in between, or set no `source_ip`",
      "source": "  pattern: 'login of %{DATA:user} from %{IP:peer}'"
    }
    "#);
    assert!(!report.is_clean(Severity::Error));
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
                "snippet": {
                  "text": "  pattern: 'login of %{DATA:user} from %{IP:peer}'"
                },
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
