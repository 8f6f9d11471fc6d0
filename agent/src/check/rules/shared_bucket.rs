//! C017: one bucket for everybody.

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Subject, entry};

pub(super) const RULE: Rule = Rule {
    code: "C017",
    name: "shared-bucket",
    severity: Severity::Warning,
    summary: "The lines of all sources fill one bucket, and all of them are punished.",
    page: "\
### What it does

Reports a scenario of scope `Ip` or `Range` that counts (`leaky`, `counter`, `conditional`, `bayesian`), carries `remediation: true` and has no `groupby`.

### Why it is bad

Without `groupby` there is one bucket. Ten visitors who mistype once each fill it as one attacker does, and the alert names every address in it: strangers
are kept out together with whoever was meant.

### Example

```yaml
type: leaky
filter: evt.Meta.log_type == 'door_rejected'
capacity: 5
leakspeed: 10s
labels:
  remediation: true
```

### Remedy

Add `groupby: evt.Meta.source_ip`, or take `remediation` out if it is meant to count everybody together.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for scenario in &subject.scenarios {
        let grouped = scenario.text("groupby").is_some_and(|text| !text.is_empty());
        let scope = scenario.get("scope").and_then(|scope| entry(scope, "type")?.text("type").ok());
        let addressed = scope.is_none_or(|scope| matches!(&*scope.text, "" | "Ip" | "Range"));
        let remediation =
            scenario.get("labels").and_then(|labels| entry(labels, "remediation")?.flag("remediation").ok());
        if scenario.kind != "trigger" && addressed && remediation == Some(true) && !grouped {
            findings.add(
                scenario.path,
                scenario.line("filter"),
                format!(
                    "`{}` has no `groupby`: the lines of all sources fill one bucket, and all of them are punished",
                    scenario.name
                ),
                "add `groupby: evt.Meta.source_ip`",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn one_bucket_for_everybody_is_told() {
        let scenario = |rest: &str| {
            format!("name: a\ndescription: a\nfilter: evt.Meta.a == 'x'\nlabels: {{remediation: true}}\n{rest}")
        };
        let leaky = |rest: &str| scenario(&format!("type: leaky\ncapacity: 1\nleakspeed: 1s\n{rest}"));
        table(
            "C017",
            &[
                ("scenarios/a.yaml", &leaky(""), &["3"]),
                ("scenarios/a.yaml", &leaky("groupby: ''\n"), &["3"]),
                ("scenarios/a.yaml", &leaky("groupby: evt.Meta.source_ip\n"), &[]),
                ("scenarios/a.yaml", &leaky("scope: {type: username, expression: evt.Meta.user}\n"), &[]),
                ("scenarios/a.yaml", &leaky("").replace("true", "false"), &[]),
                ("scenarios/a.yaml", &scenario("type: trigger\n"), &[]),
            ],
        );
    }
}
