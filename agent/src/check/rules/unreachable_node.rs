//! C006: a node that no event reaches.

use std::path::Path;

use expr::FieldId;
use model::fields;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Constant, Node, Subject, Writes, constant, required};

pub(super) const RULE: Rule = Rule {
    code: "C006",
    name: "unreachable-node",
    severity: Severity::Warning,
    summary: "No event reaches a node of a parser.",
    page: "\
### What it does

Reports a node whose filter is false on every event, one whose filter demands of a field what a node around it has excluded (as long as nothing in
between writes the field), and one that stands behind a node which always succeeds and ends the search: without filter, with `onsuccess: next_stage`, and
with no pattern that could fail.

### Why it is bad

The part of the log that the node was written for stays unread, and nothing says so.

### Example

```yaml
filter: evt.Parsed.program == 'doord'
nodes:
  - filter: evt.Parsed.program == 'doord-admin'   # never: the outer filter says otherwise
    statics: [{meta: log_type, value: door_admin}]
```

### Remedy

Correct the filter, move the node before the one that always succeeds (files of a stage run in the order of their names), or take it out.",
    check,
};

/// What a field must be on the way to a node.
type Demands = Vec<(FieldId, Vec<String>)>;

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let mut barrier: Option<(&str, bool, &str)> = None;
    for parser in &subject.parsers {
        let behind = barrier.filter(|(stage, overflow, _)| *stage == parser.stage && *overflow == parser.overflow);
        if let Some((stage, _, name)) = behind {
            findings.add(
                parser.path,
                parser.node.config.line,
                format!("`{}` is never asked: `{name}`, which is asked before it in stage `{stage}`, always succeeds and ends the search", parser.node.config.name),
                "give the earlier one a filter, or a later file name",
            );
        } else if parser.node.config.next_stage && always(&parser.node) {
            barrier = Some((parser.stage, parser.overflow, &parser.node.config.name));
        }
        look(subject, parser.path, &parser.node, &Vec::new(), findings);
    }
}

fn look(subject: &Subject<'_>, path: &Path, node: &Node, around: &Demands, findings: &mut Findings<'_>) {
    let line = node.config.filter.as_ref().map_or(node.config.line, |filter| filter.line);
    let mut demands = around.clone();
    if let Some(filter) = &node.filter {
        if constant(filter) == Some(Constant::Flag(false)) {
            findings.add(path, line, "this filter is false on every event", "correct the filter, or take the node out");
            return;
        }
        for (field, texts) in required(filter) {
            let excluded =
                demands.iter().find(|(known, all)| *known == field && !all.iter().any(|one| texts.contains(one)));
            if let Some((_, all)) = excluded {
                let name = match subject.table.name(field) {
                    (fields::PARSED, key) => format!("Parsed.{key}"),
                    (fields::META, key) => format!("Meta.{key}"),
                    (_, key) => key.to_owned(),
                };
                findings.add(
                    path,
                    line,
                    format!(
                        "this filter demands that `{name}` is `{}`, but only events with `{}` get here",
                        texts.join("` or `"),
                        all.join("` or `"),
                    ),
                    "correct the filter, or take the node out",
                );
                return;
            }
            demands.push((field, texts.clone()));
        }
    }
    // What the node does before its children, and each of them before the next, may change what is known.
    let mut written = own_writes(node);
    let mut done = None;
    for (index, child) in node.children.iter().enumerate() {
        if let Some(before) = done {
            let before: &Node = before;
            findings.add(
                path,
                child.config.line,
                format!(
                    "this node is never asked: the one on line {} always succeeds and ends the search",
                    before.config.line
                ),
                "give the earlier one a filter, or put this one before it",
            );
            break;
        }
        let known = demands.iter().filter(|(field, _)| !written.has(*field, &subject.table)).cloned().collect();
        look(subject, path, child, &known, findings);
        written.add(&child.writes);
        if node.config.next_stage && always(child) && index + 1 < node.children.len() {
            done = Some(child);
        }
    }
}

/// What a node may write before its children are asked.
fn own_writes(node: &Node) -> Writes {
    let mut writes = Writes::default();
    for program in node.filter.iter().chain(&node.trusts) {
        writes.add_program(program);
    }
    if let Some(grok) = &node.grok {
        writes.fields.extend(grok.captures.iter().map(|capture| capture.field));
        writes.fields.extend(grok.statics.iter().filter_map(|entry| entry.dest));
    }
    writes
}

/// Whether a node succeeds on every event.
fn always(node: &Node) -> bool {
    let passes = node.filter.as_ref().is_none_or(|filter| constant(filter) == Some(Constant::Flag(true)));
    // A whole line is always there, and a pattern without any demand matches it.
    let matches = node.grok.as_ref().is_none_or(|grok| {
        let properties = grok.hir.properties();
        grok.input == Some(fields::LINE_RAW)
            && !grok.captures.is_empty()
            && properties.minimum_len() == Some(0)
            && properties.look_set().is_empty()
    });
    let children = node.children.is_empty()
        || node.grok.is_some()
        || if node.config.next_stage {
            node.children.iter().any(always)
        } else {
            node.children.last().is_some_and(always)
        };
    passes && matches && children
}

#[cfg(test)]
mod tests {
    use crate::check::tests::{set, table};

    #[test]
    fn filters_that_contradict_are_told() {
        let child = |outer: &str, filter: &str| {
            format!(
                "name: a\nfilter: \"{outer}\"\nnodes:\n  - filter: \"{filter}\"\n    statics: [{{meta: a, value: b}}]\n"
            )
        };
        let grok = "name: a\nfilter: evt.Parsed.p == 'a'\ngrok: {apply_on: message, pattern: '%{WORD:p}'}\nnodes:\n  - filter: evt.Parsed.p == 'b'\n    statics: [{meta: a, value: b}]\n";
        table(
            "C006",
            &[
                ("parsers/s01-parse/a.yaml", &child("evt.Parsed.p == 'a'", "evt.Parsed.p == 'b'"), &["4"]),
                ("parsers/s01-parse/a.yaml", &child("evt.Parsed.p in ['a', 'b']", "evt.Parsed.p == 'b'"), &[]),
                ("parsers/s01-parse/a.yaml", &child("evt.Parsed.p == 'a'", "evt.Parsed.q == 'b'"), &[]),
                ("parsers/s01-parse/a.yaml", &child("true", "false"), &["4"]),
                // the capture writes the field anew
                ("parsers/s01-parse/a.yaml", grok, &[]),
                (
                    "parsers/s01-parse/a.yaml",
                    "name: a\nfilter: evt.Parsed.p == 'a' && evt.Parsed.p == 'b'\nstatics: [{meta: a, value: b}]\n",
                    &["2"],
                ),
            ],
        );
    }

    #[test]
    fn what_always_succeeds_ends_the_search() {
        let all = "name: all\nonsuccess: next_stage\nstatics: [{meta: a, value: b}]\n";
        let some = "name: some\nfilter: evt.Parsed.p == 'a'\nonsuccess: next_stage\nstatics: [{meta: a, value: b}]\n";
        let found = |files: &[(&str, &str)]| set("C006", files);
        assert_eq!(
            found(&[("parsers/s01-parse/a.yaml", all), ("parsers/s01-parse/b.yaml", some)]),
            ["parsers/s01-parse/b.yaml:1"]
        );
        assert!(found(&[("parsers/s01-parse/a.yaml", some), ("parsers/s01-parse/b.yaml", all)]).is_empty());
        assert!(found(&[("parsers/s01-parse/a.yaml", all), ("parsers/s02-enrich/b.yaml", some)]).is_empty());
        let nodes = "name: n\nonsuccess: next_stage\nnodes:\n  - grok: {apply_on: Line.Raw, pattern: '%{GREEDYDATA:all}'}\n  - statics: [{meta: a, value: b}]\n";
        assert_eq!(found(&[("parsers/s01-parse/a.yaml", nodes)]), ["parsers/s01-parse/a.yaml:5"]);
        assert!(found(&[("parsers/s01-parse/a.yaml", &nodes.replace("onsuccess: next_stage\n", ""))]).is_empty());
        assert!(found(&[("parsers/s01-parse/a.yaml", &nodes.replace("'%{G", "'^x%{G"))]).is_empty());
    }
}
