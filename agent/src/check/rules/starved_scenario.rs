//! C005: a filter that nothing can make true.

use expr::{Condition, Program};
use model::fields;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Constant, Contents, Subject, constant};

pub(super) const RULE: Rule = Rule {
    code: "C005",
    name: "starved-scenario",
    severity: Severity::Warning,
    summary: "No installed parser can make the filter of a scenario true.",
    page: "\
### What it does

Takes what the filter demands of `Meta` and `Parsed` (a field equals a text, is one of several, begins with one, is not empty) and compares it with
what the installed parsers can write there. A field that any parser fills from a capture or a computed value can hold anything; then the rule is
silent. It also reports a filter that is false on every event.

### Why it is bad

The scenario is installed, green and blind. Mostly the parser for its log is missing, or one of the two spells a word differently.

### Example

```yaml
filter: evt.Meta.log_type == 'ssh_failed_auth'    # the parser writes ssh_failed-auth
```

### Remedy

Install the parser, or write the text that the parser writes.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for scenario in &subject.scenarios {
        if let Some(why) = starves(subject, &scenario.filter) {
            findings.add(
                scenario.path,
                scenario.line("filter"),
                format!("`{}` never sees an event: {why}", scenario.name),
                "install the parser that it was written for, or demand what the parsers write",
            );
        }
    }
}

fn starves(subject: &Subject<'_>, filter: &Program) -> Option<String> {
    if constant(filter) == Some(Constant::Flag(false)) {
        return Some("its filter is always false".into());
    }
    filter.facts().requires.iter().find_map(|condition| {
        let (map, key) = subject.table.name(condition.field());
        let name = match map {
            fields::META => format!("Meta.{key}"),
            fields::PARSED => format!("Parsed.{key}"),
            _ => return None,
        };
        if subject.writes_all.contains(&map) {
            return None;
        }
        let empty = std::collections::BTreeSet::new();
        let written = match subject.contents.get(&condition.field()) {
            // Datasources write some of these by themselves.
            None if map == fields::PARSED => return None,
            None => &empty,
            Some(Contents::Any) => return None,
            Some(Contents::Constants(all)) => all,
        };
        let (possible, wanted) = match condition {
            Condition::In(_, texts) => {
                (texts.iter().any(|text| text.is_empty() || written.contains(text)), format!("is {}", list(texts)))
            }
            Condition::StartsWith(_, texts) => (
                texts.iter().any(|text| text.is_empty() || written.iter().any(|known| known.starts_with(&**text))),
                format!("begins with {}", list(texts)),
            ),
            Condition::NotEmpty(_) => (!written.is_empty(), "is not empty".to_owned()),
        };
        if possible {
            return None;
        }
        let found = if written.is_empty() { "nothing".to_owned() } else { list(written) };
        Some(format!("it demands that `{name}` {wanted}, and the installed parsers write {found} there"))
    })
}

/// A few of the texts.
fn list<'t>(texts: impl IntoIterator<Item = &'t String>) -> String {
    let all: Vec<&String> = texts.into_iter().collect();
    let shown: Vec<String> = all.iter().take(4).map(|text| format!("`{text}`")).collect();
    match all.len().saturating_sub(4) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::set;

    const PARSER: (&str, &str) = (
        "parsers/s01-parse/p.yaml",
        "name: p\ngrok: {apply_on: message, pattern: '%{WORD:word}'}\nstatics:\n  - {meta: log_type, value: door}\n  - {meta: word, expression: evt.Parsed.word}\n  - {parsed: fixed, value: x}\n",
    );

    #[test]
    fn what_a_filter_demands_must_be_written_by_somebody() {
        // (filter, whether it is starved)
        let cases = [
            ("evt.Meta.log_type == 'door'", false),
            ("evt.Meta.log_type == 'window'", true),
            ("evt.Meta.log_type in ['window', 'door']", false),
            ("evt.Meta.log_type startsWith 'do'", false),
            ("evt.Meta.log_type startsWith 'da'", true),
            ("evt.Meta.word == 'anything'", false),
            ("evt.Meta.nobody != ''", true),
            ("evt.Meta.nobody == ''", false),
            ("evt.Parsed.nobody == 'from a datasource'", false),
            ("evt.Parsed.fixed == 'y'", true),
            ("evt.Meta.log_type == 'window' || evt.Meta.word == 'a'", false),
            ("false", true),
            ("1 == 2", true),
        ];
        for (filter, starved) in cases {
            let text = format!("type: trigger\nname: a\ndescription: a\nfilter: \"{filter}\"\n");
            let lines: &[&str] = if starved { &["scenarios/a.yaml:4"] } else { &[] };
            assert_eq!(set("C005", &[PARSER, ("scenarios/a.yaml", &text)]), lines, "{filter}");
        }
        // a filter that writes the field may write anything
        let writer = "type: trigger\nname: w\ndescription: w\nfilter: \"evt.SetMeta('log_type', evt.Parsed.word)\"\n";
        let text = "type: trigger\nname: a\ndescription: a\nfilter: evt.Meta.log_type == 'window'\n";
        assert!(set("C005", &[PARSER, ("scenarios/a.yaml", text), ("scenarios/w.yaml", writer)]).is_empty());
    }
}
