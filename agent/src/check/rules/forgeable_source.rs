//! C001: an address behind text that a stranger writes.

use crate::check::address::{Place, Side, place};
use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Assigned, Grok, Node, Parser, Subject};

use expr::FieldId;
use model::fields;

pub(super) const RULE: Rule = Rule {
    code: "C001",
    name: "forgeable-source",
    severity: Severity::Error,
    summary: "The address that an alert blames stands behind free text, and nothing ties it to the end of the line.",
    page: "\
### What it does

Follows `Meta.source_ip` back through the statics to the groups of grok patterns that fill it, and looks at the expanded regular
expression on both sides of each group. It reports a group that has text without bounds before it (`DATA`, `GREEDYDATA`, `.*`, a class
that holds blanks and does not stop at what follows it) while what is behind it is free too, or, where the text before it
takes as little as it can, open. Text that stops at its delimiter (`\"[^\"]*\"`, `NOTSPACE` before a blank) is not free; see C002 for it.

A greedy text directly before the address, with nothing in between, is reported as well: it eats the first digits.

### Why it is bad

Whoever writes the text chooses the address. Logging in as `x from 198.51.100.1 port 1` gets the owner of 198.51.100.1
banned, and keeps the attacker from being banned at all. With `DATA` the first copy counts, with `GREEDYDATA` the last one; with free text on both sides
no pattern can tell the copies apart.

### Example

```yaml
grok:
  pattern: 'login of %{DATA:user} from %{IP:peer} failed%{GREEDYDATA:reason}'
  apply_on: message
statics:
  - meta: source_ip
    expression: evt.Parsed.peer
```

### Remedy

Tie the address to the end of the line, with nothing in between that could hold another one: `... from %{IP:peer} failed$`. Or tie it to
the start, before any text of strangers. Where strangers write on both sides, leave `source_ip` unset.",
    check,
};

/// A group that feeds `Meta.source_ip`.
pub(super) struct Source<'s> {
    pub(super) parser: &'s Parser<'s>,
    pub(super) grok: &'s Grok,
    pub(super) alias: &'s str,
    pub(super) place: Place,
}

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for Source { parser, grok, alias, place } in sources(subject) {
        let what = match place {
            Place { cut: true, .. } => format!(
                "the text right before `{alias}`, which becomes `Meta.source_ip`, takes as much as it can: it eats the first digits of the address"
            ),
            Place { before: Side::Free, after: Side::Free, .. } => format!(
                "there is free text on both sides of `{alias}`, which becomes `Meta.source_ip`: who writes it chooses the address"
            ),
            Place { before: Side::Free, after: Side::Open, greedy: false, .. } => format!(
                "the free text before `{alias}`, which becomes `Meta.source_ip`, ends at the first copy of what follows it: who writes it chooses the address"
            ),
            _ => continue,
        };
        let remedy = if place.cut {
            "write down what stands between the text and the address"
        } else {
            "tie the address to the end of the line with `$`, without free text in between, or set no `source_ip`"
        };
        findings.add(parser.path, grok.line, what, remedy);
    }
}

/// All groups that feed `Meta.source_ip`.
pub(super) fn sources<'s>(subject: &'s Subject<'_>) -> Vec<Source<'s>> {
    let mut sources = Vec::new();
    for parser in subject.parsers.iter().filter(|parser| !parser.overflow) {
        feed(parser, &parser.node, &mut Vec::new(), &mut sources);
    }
    sources
}

/// Looks through the statics of a node and its children; `above` are the nodes around it.
fn feed<'s>(parser: &'s Parser<'_>, node: &'s Node, above: &mut Vec<&'s Node>, sources: &mut Vec<Source<'s>>) {
    let mut from = Vec::new();
    for entry in node.all_statics().filter(|entry| entry.dest == Some(fields::SOURCE_IP)) {
        if let Assigned::Program(program) = &entry.value {
            from.extend(program.facts().reads.iter().copied());
        }
    }
    if !from.is_empty() {
        trace(parser, node, above, from, sources);
    }
    above.push(node);
    for child in &node.children {
        feed(parser, child, above, sources);
    }
    above.pop();
}

/// Adds the groups that fill the fields `from`, which `node` makes the address of.
fn trace<'s>(
    parser: &'s Parser<'_>,
    node: &'s Node,
    above: &[&'s Node],
    mut from: Vec<FieldId>,
    sources: &mut Vec<Source<'s>>,
) {
    // Closest first: a static sees what its own grok and children captured, and the groks of the nodes around it.
    let within: Vec<&Grok> = node.tree().into_iter().filter_map(|node| node.grok.as_ref()).collect();
    let around: Vec<&Grok> = above.iter().filter_map(|node| node.grok.as_ref()).collect();
    // Through scratch fields of the same parser.
    let statics: Vec<_> = parser.node.tree().into_iter().flat_map(Node::all_statics).collect();
    let mut at = 0;
    while let Some(field) = from.get(at).copied() {
        at += 1;
        for entry in statics.iter().filter(|entry| entry.dest == Some(field)) {
            if let Assigned::Program(program) = &entry.value {
                let more = program.facts().reads.iter().filter(|read| !from.contains(read));
                let more: Vec<_> = more.copied().collect();
                from.extend(more);
            }
        }
    }
    for field in from {
        let captures = |groks: &[&'s Grok]| {
            let with = groks.iter().flat_map(|grok| grok.captures.iter().map(|capture| (*grok, capture)));
            with.filter(|(_, capture)| capture.field == field).collect::<Vec<_>>()
        };
        let mut found = captures(&[within.as_slice(), &around].concat());
        if found.is_empty() {
            let everywhere: Vec<&Grok> = parser.node.tree().into_iter().filter_map(|node| node.grok.as_ref()).collect();
            found = captures(&everywhere);
        }
        for (grok, capture) in found {
            let known = |source: &Source<'_>| std::ptr::eq(source.grok, grok) && *source.alias == *capture.alias;
            if sources.iter().any(known) {
                continue;
            }
            if let Some(place) = capture.group.and_then(|group| place(&grok.hir, group)) {
                sources.push(Source { parser, grok, alias: &capture.alias, place });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    fn parser(pattern: &str) -> String {
        format!(
            "name: a\ngrok:\n  apply_on: message\n  pattern: '{pattern}'\nstatics: [{{meta: source_ip, expression: evt.Parsed.ip}}]\n"
        )
    }

    #[test]
    fn free_text_must_not_choose_the_address() {
        // (pattern, whether a stranger chooses)
        let cases = [
            ("user %{DATA:user} from %{IP:ip} failed%{GREEDYDATA}", true),
            ("user %{DATA:user} from %{IP:ip}", true),
            ("user %{GREEDYDATA:user} from %{IP:ip} %{GREEDYDATA}$", true),
            // the last copy counts: C002
            ("user %{GREEDYDATA:user} from %{IP:ip}", false),
            ("^user %{DATA:user} from %{IP:ip}$", false),
            ("^%{IP:ip} %{GREEDYDATA:rest}", false),
            // only blanks-free words before it: C002
            ("user %{USERNAME:user} from %{IP:ip}", false),
            ("^.*%{IP:ip}$", true),
        ];
        for (pattern, found) in cases {
            let lines: &[&str] = if found { &["4"] } else { &[] };
            table("C001", &[("parsers/s01-parse/a.yaml", &parser(pattern), lines)]);
        }
    }

    #[test]
    fn the_address_is_followed_through_statics_and_nodes() {
        let pattern = "user %{DATA:user} from %{IP:ip} %{GREEDYDATA:rest}";
        let chain =
            "statics: [{parsed: peer, expression: evt.Parsed.ip}, {meta: source_ip, expression: evt.Parsed.peer}]";
        let other = "statics: [{meta: source_ip, expression: evt.Parsed.other}]";
        let nodes = format!("name: a\nnodes:\n  - grok: {{apply_on: message, pattern: '{pattern}'}}\n");
        table(
            "C001",
            &[
                ("parsers/s01-parse/a.yaml", &format!("{nodes}{chain}\n"), &["3"]),
                ("parsers/s01-parse/a.yaml", &format!("{nodes}{other}\n"), &[]),
                // the user is no address
                (
                    "parsers/s01-parse/a.yaml",
                    &format!("{nodes}statics: [{{meta: target_user, expression: evt.Parsed.user}}]\n"),
                    &[],
                ),
            ],
        );
    }
}
