//! C008: a capture that nothing reads.

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;
use model::fields;

pub(super) const RULE: Rule = Rule {
    code: "C008",
    name: "unused-capture",
    severity: Severity::Note,
    summary: "A pattern names a part that no rule reads.",
    page: "\
### What it does

Reports the names of a grok pattern that no filter, static, scenario or context of the rule set reads, one finding for each pattern.

### Why it is bad

It is not, much: the agent does not even compute such a capture. But a name that nobody reads is often one that was misspelt where it is read, and
alerts show `Meta` only: what should be seen there needs a static.

### Example

```yaml
pattern: 'door %{INT:dor} forced'
statics:
  - meta: door
    expression: evt.Parsed.door
```

### Remedy

Use it, or write the reference without a name: `%{INT}`. Keep one name in a pattern, or it never succeeds.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    if subject.reads_all.contains(&fields::PARSED) {
        return;
    }
    for parser in &subject.parsers {
        for grok in parser.node.tree().into_iter().filter_map(|node| node.grok.as_ref()) {
            let unused = grok.captures.iter().filter(|capture| !subject.reads.contains(&capture.field));
            let unused: Vec<&str> = unused.map(|capture| &*capture.alias).collect();
            if unused.is_empty() || grok.captures.len() == 1 {
                continue;
            }
            findings.add(
                parser.path,
                grok.line,
                format!("nothing reads `{}`", unused.join("`, `")),
                "use it, or write the reference without a name",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::{set, table};

    #[test]
    fn a_name_is_there_to_be_read() {
        let parser = "name: a\ngrok:\n  apply_on: message\n  pattern: 'x %{WORD:a} %{WORD:b}'\nstatics: [{meta: a, expression: evt.Parsed.a}]\n";
        table(
            "C008",
            &[
                ("parsers/s01-parse/a.yaml", parser, &["4"]),
                ("parsers/s01-parse/a.yaml", &parser.replace(":b}", "}"), &[]),
                ("parsers/s01-parse/a.yaml", "name: a\ngrok: {apply_on: message, pattern: '%{WORD:only}'}\n", &[]),
            ],
        );
        let reader = "type: trigger\nname: a\ndescription: a\nfilter: evt.Parsed.b == 'x'\n";
        assert!(set("C008", &[("parsers/s01-parse/a.yaml", parser), ("scenarios/a.yaml", reader)]).is_empty());
    }
}
