//! C002: an address that is tied to neither end of the line.

use super::forgeable_source::{Source, sources};
use crate::check::address::{Place, Side};
use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::Subject;

pub(super) const RULE: Rule = Rule {
    code: "C002",
    name: "loose-source",
    severity: Severity::Warning,
    summary: "The pattern finds the address that an alert blames somewhere in the line, tied to neither end of it.",
    page: "\
### What it does

Looks at the same groups as C001 and reports those that are not certain to be forged, but pinned on no side either: the pattern may begin
anywhere (no `^`), or words of strangers stand before the address, or the last copy of several counts; and behind the address the line
may go on as it likes (no `$`, or free text).

A group is pinned by its front when the pattern begins with `^` and there are only fixed texts, numbers, times and addresses before it.
It is pinned by its end when the pattern ends with `$` and nothing in between could swallow another address together with what announces it.
One pinned side is enough.

### Why it is bad

Grok searches. A pattern without `^` matches inside any text that a stranger gets into a line of the same program, and a name without blanks in the
*pattern* may well have blanks in the *log*: of `user x from 198.51.100.1 from 203.0.113.5` the pattern
`^user %{USERNAME:user} from %{IP:peer}` takes the wrong address.

### Example

```yaml
pattern: 'user %{USERNAME:user} from %{IP:peer}'
```

### Remedy

`^user %{USERNAME:user} from %{IP:peer}$`, with everything that the program writes behind the address in front of the `$`.",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for Source { parser, grok, alias, place } in sources(subject) {
        let behind = if place.after == Side::Free { "free text follows it" } else { "no `$` ties it to the end" };
        let why = match place {
            // C001
            Place { cut: true, .. }
            | Place { before: Side::Free, after: Side::Free, .. }
            | Place { before: Side::Free, after: Side::Open, greedy: false, .. }
            | Place { before: Side::Pinned, .. }
            | Place { after: Side::Pinned, .. } => continue,
            Place { before: Side::Free, .. } => "the last copy in the line counts",
            Place { before: Side::Open, .. } => "the pattern may begin anywhere",
            _ => "words that a stranger may choose stand before it",
        };
        findings.add(
            parser.path,
            grok.line,
            format!(
                "`{alias}`, which becomes `Meta.source_ip`, is tied to neither end of the line: {why}, and {behind}"
            ),
            "write the pattern down to the end of the line and close it with `$`",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn one_side_must_be_pinned() {
        // (pattern, whether it is loose)
        let cases = [
            ("user %{USERNAME:user} from %{IP:ip}", true),
            ("from %{IP:ip}", true),
            ("^user %{USERNAME:user} from %{IP:ip}", true),
            ("^user %{USERNAME:user} from %{IP:ip} %{GREEDYDATA:rest}$", true),
            ("user %{GREEDYDATA:user} from %{IP:ip}", true),
            ("^user %{USERNAME:user} from %{IP:ip}$", false),
            ("user %{GREEDYDATA:user} from %{IP:ip} port %{INT}$", false),
            ("^%{TIMESTAMP_ISO8601:at} %{INT:pid} %{IP:ip} %{GREEDYDATA:rest}", false),
            ("^from %{IP:ip}", false),
        ];
        for (pattern, found) in cases {
            let text = format!(
                "name: a\ngrok:\n  apply_on: message\n  pattern: '{pattern}'\n  statics: [{{meta: source_ip, expression: evt.Parsed.ip}}]\n"
            );
            table("C002", &[("parsers/s01-parse/a.yaml", &text, if found { &["4"] } else { &[] })]);
        }
    }
}
