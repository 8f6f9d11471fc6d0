//! C014: loading complained.

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;

pub(super) const RULE: Rule = Rule {
    code: "C014",
    name: "loads-otherwise",
    severity: Severity::Warning,
    summary: "A file loads, but part of it is left out or does nothing.",
    page: "\
### What it does

Passes on what the loader found odd: a pattern name that was taken already, a grok that names nothing and so never succeeds, an
enrichment method that does not exist, a destination that cannot be assigned, a document of an unknown format version.

### Why it is bad

The file looks as if it did something that it does not do. Of two patterns with one name the first stays, so which text counts
depends on the names of the files. A name that is defined again with the same text is a note only.

### Example

```yaml
pattern_syntax:
  WORD: '[a-z]+'        # the library has a WORD, and keeps it
```

### Remedy

Use another name, or take the part out.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for fault in &subject.warnings {
        let repeated = subject.repeated.iter().any(|(path, line)| *path == fault.path && *line == fault.line);
        let severity = if repeated { Severity::Note } else { RULE.severity };
        findings.add_fault(severity, fault, "take it out, or write what was meant");
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn what_the_loader_finds_odd_is_passed_on() {
        table(
            "C014",
            &[
                (
                    "parsers/s01-parse/a.yaml",
                    "name: a\npattern_syntax:\n  WORD: x\ngrok: {pattern: '%{WORD}', apply_on: message}\n",
                    &["3", "4"],
                ),
                ("parsers/s01-parse/a.yaml", "name: a\nstatics: [{method: GeoIPRange, value: b}]\n", &["2"]),
                ("parsers/s01-parse/a.yaml", "name: a\nstatics: [{method: GeoIpASN, value: b}]\n", &[]),
            ],
        );
    }
}
