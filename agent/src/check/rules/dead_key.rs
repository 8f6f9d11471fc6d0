//! C010: a key that is read and does nothing.

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Scenario, Subject, entry, line_of};

pub(super) const RULE: Rule = Rule {
    code: "C010",
    name: "dead-key",
    severity: Severity::Note,
    summary: "A key or a spelling is accepted for the sake of older files, and has no effect.",
    page: "\
### What it does

Reports keys of a scenario that its type does not look at (`distinct`, `cancel_on`, `condition`, `leakspeed`, `cache_size` of a trigger; `leakspeed` of a
counter), keys that are only tolerated (`version`, which the installed item replaces, `runtimefilter` in `scope`), and a label `remediation` that is not a truth value (a warning: only `true`
without quotes counts, so the scenario never punishes).

### Why it is bad

The file says something that does not happen. A trigger with `distinct` still overflows on every event.

### Example

```yaml
type: trigger
distinct: evt.Meta.http_path
labels:
  remediation: \"true\"
```

### Remedy

Take the key out, or use the type of bucket that looks at it.",
    check,
};

const TRIGGER: [&str; 6] = ["distinct", "cancel_on", "condition", "leakspeed", "cache_size", "bayesian_threshold"];

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for scenario in &subject.scenarios {
        let mut dead = |line: u32, key: &str, why: &str| {
            findings.add(scenario.path, line, format!("`{key}` has no effect: {why}"), "take it out");
        };
        let unused: &[&str] = match &*scenario.kind {
            "trigger" => &TRIGGER,
            "counter" => &["leakspeed"],
            _ => &[],
        };
        for key in unused.iter().filter(|key| scenario.get(key).is_some_and(|yaml| !yaml.is_null())) {
            dead(scenario.line(key), key, &format!("a {} does not look at it", scenario.kind));
        }
        if scenario.get("version").is_some() {
            dead(scenario.line("version"), "version", "the version of the installed item replaces it");
        }
        if let Some(line) = scenario.get("scope").and_then(|scope| line_of(scope, "runtimefilter")) {
            dead(line, "runtimefilter", "nothing reads it");
        }
        label(scenario, findings);
    }
}

fn label(scenario: &Scenario<'_>, findings: &mut Findings<'_>) {
    let Some(labels) = scenario.get("labels") else { return };
    let Some(value) = entry(labels, "remediation").filter(|value| value.flag("remediation").is_err()) else { return };
    findings.add_as(
        Severity::Warning,
        scenario.path,
        value.line,
        format!("`remediation` must be `true` or `false` without quotes, found {}: nobody is punished", value.found()),
        "write `remediation: true`",
    );
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn what_has_no_effect_is_told() {
        let scenario = |rest: &str| format!("name: a\ndescription: a\nfilter: evt.Meta.a == 'x'\n{rest}");
        table(
            "C010",
            &[
                ("scenarios/a.yaml", &scenario("type: trigger\ndistinct: evt.Meta.b\nleakspeed: 1s\n"), &["5", "6"]),
                ("scenarios/a.yaml", &scenario("type: leaky\ncapacity: 1\ndistinct: evt.Meta.b\nleakspeed: 1s\n"), &[]),
                ("scenarios/a.yaml", &scenario("type: trigger\nlabels:\n  remediation: 'true'\n"), &["6"]),
                ("scenarios/a.yaml", &scenario("type: trigger\nlabels:\n  remediation: true\nversion: '1'\n"), &["7"]),
                ("scenarios/a.yaml", &scenario("type: trigger\nscope:\n  type: Ip\n  runtimefilter: x\n"), &["7"]),
            ],
        );
    }
}
