//! C012: a regular expression that says less than it seems to.

use regex_syntax::hir::{Dot, Hir, HirKind};

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;

pub(super) const RULE: Rule = Rule {
    code: "C012",
    name: "idle-regex",
    severity: Severity::Note,
    summary: "A regular expression behind `matches` always matches, or begins or ends with a wildcard that says nothing.",
    page: "\
### What it does

Reports a constant regular expression behind `matches` that matches every text (a warning), and one that begins or ends with `.*`.

### Why it is bad

`matches` searches: `.*admin.*` means `admin`. A text as plain as that is found much faster with `contains`, and the wildcard keeps the search from
looking for its first letter. A regular expression that always matches makes the condition around it true; often an empty alternative is to
blame, as in `a|b|`.

### Example

```yaml
filter: evt.Meta.http_path matches '.*wp-login.*'
```

### Remedy

`evt.Meta.http_path contains 'wp-login'`, or tie the regular expression with `^` and `$` to the whole text.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for expression in &subject.expressions {
        for regex in literals(&expression.text) {
            let Ok(hir) = expr::regex_dialect::check(&regex) else { continue };
            let line = expression.line_of(&regex);
            let properties = hir.properties();
            if properties.minimum_len() == Some(0) && properties.look_set().is_empty() {
                findings.add_as(
                    Severity::Warning,
                    expression.path,
                    line,
                    format!("`{regex}` matches every text"),
                    "write what must be there, or take the condition out",
                );
            } else if idle(&hir) {
                findings.add(
                    expression.path,
                    line,
                    format!("the wildcard at the edge of `{regex}` says nothing: `matches` searches anywhere"),
                    "take the wildcard out, or use `contains`",
                );
            }
        }
    }
}

/// Whether it begins or ends with any number of anything.
fn idle(hir: &Hir) -> bool {
    let HirKind::Concat(parts) = hir.kind() else { return false };
    let any = |part: &Hir| match part.kind() {
        HirKind::Repetition(repetition) => {
            let wild = [Dot::AnyCharExceptLF, Dot::AnyChar].into_iter().any(|dot| *repetition.sub == Hir::dot(dot));
            wild && repetition.min == 0 && repetition.max.is_none()
        }
        _ => false,
    };
    parts.first().is_some_and(any) || parts.last().is_some_and(any)
}

/// The constant texts behind `matches`.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut wanted = false;
    // A text in quotes is skipped whole, so that `matches` inside one is no operator.
    while let Some(c) = rest.chars().next() {
        match c {
            '\'' | '"' | '`' => {
                let mut text = String::new();
                let mut chars = rest[1..].char_indices();
                let mut end = rest.len();
                while let Some((at, c)) = chars.next() {
                    match c {
                        _ if c == quote(rest) => {
                            end = at + 2;
                            break;
                        }
                        '\\' if quote(rest) != '`' => match chars.next() {
                            Some((_, '\\')) => text.push('\\'),
                            Some((_, other)) if other == quote(rest) => text.push(other),
                            Some((_, other)) => text.extend(['\\', other]),
                            None => {}
                        },
                        _ => text.push(c),
                    }
                }
                if std::mem::take(&mut wanted) {
                    found.push(text);
                }
                rest = rest.get(end..).unwrap_or("");
            }
            _ if c.is_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                wanted = &rest[..end] == "matches";
                rest = &rest[end..];
            }
            _ => {
                wanted &= c.is_whitespace();
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    found
}

/// The quote with which a text begins.
fn quote(text: &str) -> char {
    text.chars().next().unwrap_or('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::table;

    #[test]
    fn a_search_needs_no_wildcard() {
        let scenario = |filter: &str| format!("type: trigger\nname: a\ndescription: a\nfilter: {filter}\n");
        table(
            "C012",
            &[
                ("scenarios/a.yaml", &scenario("evt.Meta.a matches '.*x'"), &["4"]),
                ("scenarios/a.yaml", &scenario("evt.Meta.a matches 'x.*'"), &["4"]),
                ("scenarios/a.yaml", &scenario("evt.Meta.a matches 'x|'"), &["4"]),
                ("scenarios/a.yaml", &scenario("evt.Meta.a matches 'a.*x'"), &[]),
                ("scenarios/a.yaml", &scenario("evt.Meta.a matches '^.*x$'"), &[]),
                ("scenarios/a.yaml", &scenario("evt.Meta.a == 'matches .*'"), &[]),
            ],
        );
    }

    #[test]
    fn texts_behind_matches_are_found() {
        // (source, texts)
        let cases: &[(&str, &[&str])] = &[
            ("a matches 'x' && b matches \"y\\\\.z\"", &["x", "y\\.z"]),
            ("a matches `x\\d`", &["x\\d"]),
            ("a == 'matches' + 'x'", &[]),
            ("a matches b + 'x'", &[]),
            ("a matches ('x')", &[]),
            ("a matches 'open", &["open"]),
            ("a == 'é' and b matches 'ü'", &["ü"]),
        ];
        for (source, texts) in cases {
            assert_eq!(literals(source), *texts, "{source}");
        }
    }
}
