//! C000: a file that is refused.

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;

pub(super) const RULE: Rule = Rule {
    code: "C000",
    name: "does-not-load",
    severity: Severity::Error,
    summary: "A file cannot be read, or is refused as a whole.",
    page: "\
### What it does

Loads every file as the agent does and reports each refusal: YAML that is none, unknown keys, expressions and patterns with a mistake,
a bucket whose numbers cannot be right.

### Why it is bad

The agent goes on without the file. A scenario in it sees nothing, a whitelist in it protects nobody.

### Example

```yaml
name: forge/doors
filter: evt.Meta.service = 'door'      # one sign is missing
```

### Remedy

The finding says what was found and what would be right.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for fault in &subject.faults {
        findings.add_fault(RULE.severity, fault, "correct the file, or take it out");
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn what_is_refused_is_told_with_its_line() {
        table(
            "C000",
            &[
                (
                    "scenarios/a.yaml",
                    "type: leaky\nname: a\ndescription: a\nfilter: 'true'\ncapacity: 0\nleakspeed: 1s\n",
                    &["5"],
                ),
                (
                    "parsers/s01-parse/a.yaml",
                    "name: a\nfilter: evt.Meta.a ==\nstatics: [{meta: a, value: b}]\n",
                    &["2"],
                ),
                ("parsers/s01-parse/a.yaml", "name: a\nstatics: [{meta: a, value: b}]\n", &[]),
                ("contexts/a.yaml", "name: a\n", &["1"]),
                ("profiles.yaml", "name: a\nfilters: [Alert.]\ndecisions: [{type: ban, duration: 4h}]\n", &["2"]),
            ],
        );
    }
}
