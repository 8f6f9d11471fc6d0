//! Nothing that anybody writes into a file or a log makes the engine panic, and no shortcut changes what it says.

use std::cell::RefCell;
use std::sync::Arc;

use expr::Compiler;
use model::FieldTable;
use parsers::grok::{Matching, Patterns};
use parsers::{Library, ParserSet, Trace, config};
use proptest::prelude::*;

use crate::nodes::load_all;
use crate::support::{Worker, files, load_files, root};

/// Everything we ship, loaded once a thread.
fn shipped() -> (ParserSet, Arc<FieldTable>) {
    let mut table = FieldTable::default();
    let loaded = load_files(&files(&root().join("parsers/hub")), &mut Compiler::new(&mut table));
    let set = loaded.finish(&mut table);
    (set, Arc::new(table))
}

/// Texts near to those that parsers look for.
fn line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "Mar  7 04:05:06 web1 sshd[811]: ",
            "Failed password for ",
            "invalid user ",
            " from ",
            "203.0.113.7",
            " port 22 ssh2",
            " - - [17/May/2015:10:05:03 +0000] ",
            "\"GET /a?b=c HTTP/1.1\" 200 12 ",
            "\"-\" \"curl/8\"",
            "<38>1 2026-03-07T04:05:06Z web1 sshd 811 - - ",
            "::ffff:",
            "\"",
            "\\",
            "\n",
            "\u{0}",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
        "[0-9:. \\[\\]\"]{0,12}",
    ];
    prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
}

/// A small parser with filters, whitelists and statics that touch the same few fields.
fn parser() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec!["evt.Parsed.a", "evt.Parsed.b", "evt.Meta.m", "evt.Line.Raw"]);
    let value = prop::sample::select(vec!["x", "y", ""]);
    let filter = prop_oneof![
        Just(String::new()),
        (field.clone(), value.clone()).prop_map(|(field, value)| format!("filter: {field} == '{value}'\n")),
        (field.clone(), value.clone()).prop_map(|(field, value)| format!("filter: {field} in ['{value}', 'z']\n")),
        (field.clone(), value.clone(), field.clone())
            .prop_map(|(field, value, other)| format!("filter: {field} == '{value}' && {other} != ''\n")),
        (field.clone(), field.clone(), value.clone())
            .prop_map(|(field, other, value)| format!("filter: {field} == {other} || {field} == '{value}'\n")),
    ];
    let key = prop::sample::select(vec!["parsed: a", "parsed: b", "meta: m"]);
    let value = prop::sample::select(vec![
        "value: x",
        "value: y",
        "value: z",
        "expression: evt.Parsed.a",
        "expression: evt.Parsed.b + evt.Meta.m",
        "expression: evt.Line.Raw",
    ]);
    let entry = (key, value).prop_map(|(key, value)| format!("{{{key}, {value}}}"));
    // from three on, what a parser did is remembered
    let statics = prop::collection::vec(entry, 1..5).prop_map(|entries| format!("statics: [{}]\n", entries.join(", ")));
    let whitelist = (field, prop::sample::select(vec!["x", "yx"]))
        .prop_map(|(field, value)| format!("whitelist: {{reason: r, expression: [\"{field} == '{value}'\"]}}\n"));
    let more = prop_oneof![
        4 => Just(String::new()),
        1 => Just("onsuccess: next_stage\n".to_owned()),
        2 => whitelist,
    ];
    (filter, more, statics).prop_map(|(filter, more, statics)| format!("name: n\n{filter}{more}{statics}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_yaml_panics(text in "(name|filter|grok|nodes|statics|whitelist|stash|pattern_syntax|- |: |\\{|\\}|\\[|\\]|\n|  |x|'|\"|%\\{|&a|\\*a){0,40}") {
        let _ = config::parse(&text);
        load_all(&[("s0/a.yaml", &text)]);
    }

    #[test]
    fn no_pattern_panics(text in "(%\\{(INT|WORD|DATA)(:[a-c])?\\}|[()\\[\\]{}|*+?.\\\\^$aQE:1-3,-]){0,14}", lines in prop::collection::vec(line(), 4)) {
        let mut library = Library::default();
        library.add_file("INT [+-]?(?:[0-9]+)\nWORD \\b\\w+\\b\nDATA .*?\n").expect("good patterns");
        let compiled = library.expand(&text, 1).and_then(|expansion| Patterns::default().compile(&expansion, 1));
        if let Ok(pattern) = compiled {
            let mut matching = Matching::default();
            for line in &lines {
                if let Ok(Some(found)) = pattern.search(line, &mut matching) {
                    prop_assert!(line.get(found.range()).is_some());
                }
            }
        }
    }

    #[test]
    fn asking_the_few_is_asking_all(
        parsers in prop::collection::vec((0..3_u8, parser()), 1..12),
        lines in prop::collection::vec("[xyz]", 1..8),
    ) {
        let named: Vec<(String, String)> =
            parsers.iter().enumerate().map(|(number, (stage, text))| (format!("s{stage}/{number:02}.yaml"), text.clone())).collect();
        let files: Vec<(&str, &str)> = named.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let (set, table, problems, _) = load_all(&files);
        prop_assert_eq!(problems, Vec::<String>::new());
        let mut worker = Worker::new(&table);
        for line in &lines {
            let few = (worker.run(&set, "t", line, None), worker.event.dump(), worker.passed(&set));
            let all = (worker.run(&set, "t", line, Some(&mut Trace::default())), worker.event.dump(), worker.passed(&set));
            prop_assert_eq!(few, all);
        }
    }
}

#[test]
fn no_line_panics_and_a_trace_changes_nothing() {
    let (set, table) = shipped();
    let worker = RefCell::new(Worker::new(&table));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let labels = prop::sample::select(vec!["syslog", "nginx", "apache2", "nginx vhost=true", ""]);
    let result = runner.run(&(labels, line()), |(labels, line)| {
        let mut worker = worker.borrow_mut();
        let few = (worker.run(&set, labels, &line, None), worker.event.dump());
        let all = (worker.run(&set, labels, &line, Some(&mut Trace::default())), worker.event.dump());
        prop_assert_eq!(few, all);
        Ok(())
    });
    result.unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn the_longest_lines_are_taken() {
    let (set, table) = shipped();
    let mut worker = Worker::new(&table);
    for piece in [
        "a",
        " ",
        "\"",
        "\\",
        "::",
        "1.",
        "Failed password for root from 1.2.3.4 ",
        "é",
        "[17/May/2015:10:05:03 +0000] ",
    ] {
        let line = piece.repeat(model::line::MAX_LINE / piece.len());
        for labels in ["syslog", "nginx", "apache2"] {
            worker.run(&set, labels, &line, None);
        }
    }
}
