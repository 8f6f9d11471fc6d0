//! C011: a field that is read and never written, and is spelt almost like one that is.

use model::fields;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;

pub(super) const RULE: Rule = Rule {
    code: "C011",
    name: "unwritten-field",
    severity: Severity::Warning,
    summary: "An expression reads a field that nobody writes, and another one is spelt almost like it.",
    page: "\
### What it does

Compares the keys of `Meta`, `Parsed` and `Enriched` that expressions read with those that the rule set writes. A key that nobody writes, with a
written one of the same map a letter or two away, is reported. Maps that are written under computed names are left out.

### Why it is bad

A key that is missing reads as the empty text, so a slip of the pen is no error: the filter is never true, or the group of a bucket is
always the same, and then all strangers share one bucket.

### Example

```yaml
groupby: evt.Meta.sorce_ip
```

### Remedy

Write the name that is meant.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for expression in &subject.expressions {
        for field in &expression.program.facts().reads {
            let (map, key) = subject.table.name(*field);
            let name = match map {
                fields::META => "Meta",
                fields::PARSED => "Parsed",
                fields::ENRICHED => "Enriched",
                _ => continue,
            };
            let known = subject.contents.contains_key(field) || *field == fields::SOURCE_IP;
            if known || subject.writes_all.contains(&map) {
                continue;
            }
            let written = subject.contents.keys().map(|field| subject.table.name(*field));
            let written = written.filter(|(of, _)| *of == map).map(|(_, key)| key);
            let near = written
                .filter(|other| slip(key, other))
                .min_by_key(|other| (strsim::damerau_levenshtein(key, other), *other));
            if let Some(near) = near {
                findings.add(
                    expression.path,
                    expression.line_of(key),
                    format!("nobody writes `{name}.{key}`"),
                    format!("did you mean `{name}.{near}`?"),
                );
            }
        }
    }
}

/// Whether one may be a slip of the pen for the other. Short words and numbered ones are too near to each other anyway.
fn slip(found: &str, known: &str) -> bool {
    if found.eq_ignore_ascii_case(known) {
        return true;
    }
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let most = match found.len().min(known.len()) {
        0..=4 => return false,
        5..=8 => 1,
        _ => 2,
    };
    digits(found) == digits(known) && strsim::damerau_levenshtein(found, known) <= most
}

#[cfg(test)]
mod tests {
    use crate::check::tests::set;

    #[test]
    fn a_slip_of_the_pen_is_told_with_what_was_meant() {
        let parser = "name: p\nstatics:\n  - {meta: source_ip, expression: evt.Line.Raw}\n  - {meta: path1, value: x}\n  - {meta: User, value: x}\n";
        // (key, whether it is told)
        let cases = [
            ("sorce_ip", true),
            ("source_pi", true),
            ("source_ip", false),
            ("target_ip", false),
            ("path2", false),
            ("user", true),
            ("nothing_like_it", false),
        ];
        for (key, found) in cases {
            let text = format!("type: trigger\nname: a\ndescription: a\nfilter: evt.Meta.{key} == 'x'\n");
            let lines: &[&str] = if found { &["scenarios/a.yaml:4"] } else { &[] };
            assert_eq!(
                set("C011", &[("parsers/s01-parse/p.yaml", parser), ("scenarios/a.yaml", &text)]),
                lines,
                "{key}"
            );
        }
    }
}
