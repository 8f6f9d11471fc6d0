//! C004: trust in a name that the stranger's own DNS gave.

use model::fields;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Node, Subject};

pub(super) const RULE: Rule = Rule {
    code: "C004",
    name: "unconfirmed-name",
    severity: Severity::Warning,
    summary: "A whitelist trusts the host name of an address without asking whether the name has that address.",
    page: "\
### What it does

Reports a whitelist expression that reads `evt.Enriched.reverse_dns`, or a `reverse_dns` that statics copied to `Meta` or `Parsed`, and does not look the name up
again with `LookupHost`.

### Why it is bad

Whoever owns an address decides what its PTR record says. A record that says `crawl.bot.example` costs nothing, and whitelists the address
wherever the rule runs. This agent counts a name only when the name leads back to the address; others that run the same
file do not, and a rule that is safe in one place only is easily carried to the other.

### Example

```yaml
whitelist:
  reason: search engine
  expression:
    - evt.Enriched.reverse_dns endsWith '.bot.example.'
```

### Remedy

Ask back in the same expression:
`evt.Enriched.reverse_dns endsWith '.bot.example.' && any(LookupHost(evt.Enriched.reverse_dns), {# == evt.Overflow.Alert.Source.IP})`.
Or use `MatchKnownBot` with a file of type `bots`, or the published address ranges.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let names = [fields::PARSED, fields::META].map(|map| subject.table.number(map, "reverse_dns"));
    for parser in &subject.parsers {
        for node in parser.node.tree() {
            trusts(
                node,
                |line, source| {
                    findings.add(
                        parser.path,
                        line,
                        format!("`{source}` trusts a host name that the owner of the address chose"),
                        "look the name up with `LookupHost` in the same expression, or trust address ranges",
                    );
                },
                |field| field == fields::REVERSE_DNS || names.contains(&Some(field)),
            );
        }
    }
}

fn trusts(node: &Node, mut found: impl FnMut(u32, &str), is_name: impl Fn(expr::FieldId) -> bool) {
    let texts = node.config.whitelist.iter().flat_map(|whitelist| &whitelist.expression);
    for (text, program) in texts.zip(&node.trusts) {
        if program.facts().reads.iter().any(|field| is_name(*field)) && !text.contains("LookupHost") {
            found(text.line, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn a_name_must_lead_back_to_its_address() {
        let whitelist =
            |expression: &str| format!("name: a\nwhitelist:\n  reason: a\n  expression:\n    - {expression}\n");
        table(
            "C004",
            &[
                (
                    "postoverflows/s01-whitelist/a.yaml",
                    &whitelist("evt.Enriched.reverse_dns endsWith '.example.'"),
                    &["5"],
                ),
                ("postoverflows/s01-whitelist/a.yaml", &whitelist("evt.Meta.reverse_dns endsWith '.example.'"), &["5"]),
                (
                    "postoverflows/s01-whitelist/a.yaml",
                    &whitelist("'192.0.2.1' in LookupHost(evt.Enriched.reverse_dns)"),
                    &[],
                ),
                ("postoverflows/s01-whitelist/a.yaml", &whitelist("evt.Meta.source_ip == '192.0.2.1'"), &[]),
            ],
        );
    }
}
