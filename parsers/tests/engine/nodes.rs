//! What nodes, stages and statics do to an event: one row is one sentence about behaviour.

use std::path::Path;
use std::sync::Arc;

use expr::Compiler;
use model::FieldTable;
use parsers::stash::StashSpec;
use parsers::{Library, Outcome, ParserFile, Trace, load};

use crate::support::Worker;

const LIBRARY: &str =
    "INT [+-]?(?:[0-9]+)\nWORD \\b\\w+\\b\nDATA .*?\nGREEDYDATA .*\nIPV4 [0-9]{1,3}(?:\\.[0-9]{1,3}){3}\n";

/// Files as `(path, text)`; the stage is the first part of the path.
pub(crate) type Files<'a> = &'a [(&'a str, &'a str)];

/// The set, its fields, what is wrong and what is probably not meant.
pub(crate) type Set = (parsers::ParserSet, Arc<FieldTable>, Vec<String>, Vec<String>);

pub(crate) fn load_all(files: Files<'_>) -> Set {
    let (set, table, problems, warnings, _) = load_with_stashes(files);
    (set, table, problems, warnings)
}

/// The same with the stashes that are declared.
pub(crate) fn load_with_stashes(
    files: Files<'_>,
) -> (parsers::ParserSet, Arc<FieldTable>, Vec<String>, Vec<String>, Vec<StashSpec>) {
    let mut library = Library::default();
    library.add_file(LIBRARY).expect("good patterns");
    let files: Vec<ParserFile<'_>> = files
        .iter()
        .map(|(path, text)| ParserFile {
            path: Path::new(path),
            stage: path.split_once('/').map_or(*path, |(stage, _)| stage),
            text,
        })
        .collect();
    let mut table = FieldTable::default();
    let loaded = load(&files, &library, &mut Compiler::new(&mut table));
    let words = |faults: &[model::Fault]| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (problems, warnings) = (words(&loaded.problems), words(&loaded.warnings));
    let stashes = loaded.stashes.clone();
    let set = loaded.finish(&mut table);
    (set, Arc::new(table), problems, warnings, stashes)
}

/// Outcome and text maps after one line, `outcome | Parsed.k=v | Meta.k=v ...`; with and without a trace.
fn run(files: Files<'_>, line: &str) -> String {
    let (set, table, problems, _) = load_all(files);
    assert_eq!(problems, Vec::<String>::new());
    let mut worker = Worker::new(&table);
    let [fast, full] = [false, true].map(|traced| {
        let mut trace = Trace::default();
        let outcome = worker.run(&set, "syslog", line, traced.then_some(&mut trace));
        let mut words = vec![match outcome {
            Outcome::Parsed => "parsed".to_owned(),
            Outcome::Whitelisted => "whitelisted".to_owned(),
            Outcome::Unparsed { stage } => format!("unparsed in {stage}"),
            Outcome::Failed { problem, .. } => format!("failed: {problem}"),
        }];
        let dump = worker.event.dump();
        for (map, entries) in [("Parsed", &dump.parsed), ("Meta", &dump.meta), ("Enriched", &dump.enriched)] {
            words.extend(entries.iter().map(|(key, value)| format!("{map}.{key}={value}")));
        }
        if !dump.whitelist_reason.is_empty() {
            words.push(format!("reason={}", dump.whitelist_reason));
        }
        if !dump.str_time.is_empty() {
            words.push(format!("StrTime={}", dump.str_time));
        }
        words.join(" | ")
    });
    assert_eq!(fast, full, "a trace changes nothing");
    fast
}

#[test]
fn one_node() {
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "captures and statics are assigned in order",
            "name: a\ngrok: {pattern: 'user %{WORD:user}', apply_on: Line.Raw}\nstatics:\n  - {meta: user, expression: evt.Parsed.user}\n  - {meta: twice, expression: evt.Meta.user + evt.Meta.user}\n",
            "x user root y",
            "parsed | Parsed.user=root | Meta.twice=rootroot | Meta.user=root",
        ),
        (
            "a filter that is false keeps the node from everything",
            "name: a\nfilter: evt.Line.Raw == 'other'\nstatics: [{meta: m, value: v}]\n",
            "line",
            "unparsed in s0",
        ),
        (
            "a filter that gives no truth value is false",
            "name: a\nfilter: evt.Unmarshaled.x\nstatics: [{meta: m, value: v}]\n",
            "line",
            "unparsed in s0",
        ),
        (
            "a group that took no part overwrites with the empty text",
            "name: a\nstatics: [{parsed: n, value: old}]\n---\nname: b\ngrok: {pattern: 'a(b%{INT:n})?', apply_on: Line.Raw}\n",
            "a",
            "parsed | Parsed.n=",
        ),
        (
            "a grok on a key that is absent fails",
            "name: a\ngrok: {pattern: '%{DATA:d}', apply_on: message}\n",
            "line",
            "unparsed in s0",
        ),
        (
            "a grok on an empty key looks at the empty text",
            "name: a\ngrok: {pattern: '^%{DATA:message}line', apply_on: Line.Raw}\n---\nname: b\ngrok: {pattern: '^%{DATA:d}$', apply_on: message}\n",
            "line",
            "parsed | Parsed.d= | Parsed.message=",
        ),
        (
            "a pattern that names nothing never succeeds",
            "name: a\ngrok: {pattern: 'line', apply_on: Line.Raw}\n",
            "line",
            "unparsed in s0",
        ),
        (
            "a grok can look at what an expression gives",
            "name: a\ngrok: {pattern: '^%{INT:n}$', expression: len(evt.Line.Raw)}\n",
            "line",
            "parsed | Parsed.n=4",
        ),
        (
            "an expression that gives no text gives the empty one",
            "name: a\ngrok: {pattern: '^%{DATA:d}$', expression: evt.Line.Raw == 'line'}\n",
            "line",
            "parsed | Parsed.d=",
        ),
        (
            "children run although the grok failed, and the last one decides",
            "name: a\ngrok: {pattern: 'nothing%{INT:n}', apply_on: Line.Raw}\nnodes:\n  - {grok: {pattern: '%{WORD:w}', apply_on: Line.Raw}}\nstatics: [{meta: m, value: v}]\n",
            "line",
            "parsed | Parsed.w=line | Meta.m=v",
        ),
        (
            "the last child that fails makes its parent fail",
            "name: a\nnodes:\n  - {grok: {pattern: '%{WORD:w}', apply_on: Line.Raw}}\n  - {grok: {pattern: '%{INT:i}', apply_on: Line.Raw}}\nstatics: [{meta: m, value: v}]\n",
            "line",
            "unparsed in s0 | Parsed.w=line",
        ),
        (
            "with next_stage the first child that succeeds is enough",
            "name: a\nonsuccess: next_stage\nnodes:\n  - {grok: {pattern: '%{WORD:w}', apply_on: Line.Raw}}\n  - {grok: {pattern: '%{INT:i}', apply_on: Line.Raw}}\nstatics: [{meta: m, value: v}]\n",
            "line 7",
            "parsed | Parsed.w=line | Meta.m=v",
        ),
        (
            "children cannot fail a parent whose grok matched",
            "name: a\ngrok: {pattern: '%{WORD:w}', apply_on: Line.Raw}\nnodes:\n  - {grok: {pattern: '%{INT:i}', apply_on: Line.Raw}}\nstatics: [{meta: m, value: v}]\n",
            "line",
            "parsed | Parsed.w=line | Meta.m=v",
        ),
        (
            "statics of a grok need the match, `enriched` is fine there",
            "name: a\nstatics: [{meta: m, value: v}]\nnodes:\n  - grok: {pattern: '%{INT:i}', apply_on: Line.Raw, statics: [{enriched: e, expression: evt.Parsed.i}]}\n",
            "line 7",
            "parsed | Parsed.i=7 | Meta.m=v | Enriched.e=7",
        ),
        (
            "numbers become text: native integers in decimals, floats with six digits",
            "name: a\nstatics:\n  - {meta: i, expression: len(evt.Line.Raw)}\n  - {meta: f, expression: '200.0'}\n",
            "line",
            "parsed | Meta.f=200.000000 | Meta.i=4",
        ),
        (
            "nothing, lists and maps are no value",
            "name: a\nstatics:\n  - {meta: n, expression: nil}\n  - {meta: l, expression: '[1, evt.Line.Raw]'}\n  - {meta: m, expression: '{a: 1}'}\n  - {meta: e, expression: evt.Meta.absent}\n",
            "line",
            "parsed",
        ),
        (
            "a static that fails is skipped",
            "name: a\nstatics:\n  - {meta: n, expression: 'int(evt.Line.Raw)'}\n  - {meta: m, value: v}\n",
            "line",
            "parsed | Meta.m=v",
        ),
        (
            "a truth value as text loses the event",
            "name: a\nstatics: [{meta: n, expression: evt.Line.Raw == 'line'}]\n",
            "line",
            "failed: line 2: `evt.Line.Raw == 'line'` gives neither a text nor a number",
        ),
        (
            "a value wins over an expression, parsed over meta",
            "name: a\nstatics: [{meta: n, parsed: p, value: v, expression: evt.Line.Raw}]\n",
            "line",
            "parsed | Parsed.p=v",
        ),
        (
            "targets are paths from the event",
            "name: a\nstatics:\n  - {target: evt.StrTime, value: t}\n  - {target: Meta.a.b, value: x}\n  - {target: evt.Parsed.p, value: y}\n  - {target: source_ip, value: 1.1.1.1}\n  - {target: evt.Whitelisted, value: 'true'}\n",
            "line",
            "parsed | Parsed.p=y | Meta.a=x | StrTime=t",
        ),
        (
            "a whitelist that does not match succeeds without its statics",
            "name: a\nwhitelist: {reason: r, expression: [evt.Line.Raw == 'other']}\nstatics: [{meta: m, value: v}]\n",
            "line",
            "parsed",
        ),
        (
            "a whitelist that matches says why and runs its statics",
            "name: a\nwhitelist: {reason: r, expression: [evt.Line.Raw == 'other', evt.Line.Raw == 'line']}\nstatics: [{meta: m, value: v}]\n---\nname: b\nwhitelist: {reason: second, expression: ['true']}\n",
            "line",
            "whitelisted | Meta.m=v | reason=r",
        ),
        (
            "a whitelist does not see the captures of its own grok",
            "name: a\ngrok: {pattern: '%{IPV4:ip}', apply_on: Line.Raw, statics: [{meta: source_ip, expression: evt.Parsed.ip}]}\nwhitelist: {reason: r, ip: [192.0.2.1]}\n",
            "192.0.2.1",
            "parsed | Parsed.ip=192.0.2.1 | Meta.source_ip=192.0.2.1",
        ),
        (
            "a whitelist compares the source address",
            "name: a\ngrok: {pattern: '%{IPV4:ip}', apply_on: Line.Raw}\nstatics: [{meta: source_ip, expression: evt.Parsed.ip}]\n---\nname: b\nwhitelist: {reason: r, cidr: [192.0.2.0/24]}\n",
            "192.0.2.1",
            "whitelisted | Parsed.ip=192.0.2.1 | Meta.source_ip=192.0.2.1 | reason=r",
        ),
        (
            "JSON is reached through Unmarshaled, its numbers are floats",
            "name: a\nfilter: UnmarshalJSON(evt.Line.Raw, evt.Unmarshaled, 'j') in ['', nil]\nstatics:\n  - {meta: status, expression: evt.Unmarshaled.j.status}\n  - {meta: code, expression: int(evt.Unmarshaled.j.status)}\n",
            r#"{"status": 404}"#,
            "parsed | Meta.code=404 | Meta.status=404.000000",
        ),
        (
            "a pattern of the file can be used by its name and in patterns",
            "name: a\npattern_syntax: {BADGE: '[A-Z]{2}%{INT:number}'}\nnodes:\n  - {grok: {name: BADGE, apply_on: Line.Raw}}\n  - {grok: {pattern: 'badge %{BADGE:badge}', apply_on: Line.Raw}}\n",
            "badge AB7",
            "parsed | Parsed.badge=AB7 | Parsed.number=7",
        ),
    ];
    for (name, yaml, line, expected) in cases {
        assert_eq!(run(&[("s0/a.yaml", yaml)], line), *expected, "{name}");
    }
}

#[test]
fn stages() {
    let next = "name: n\nonsuccess: next_stage\nstatics: [{meta: n, value: v}]\n";
    let stay = "name: s\nstatics: [{meta: s, value: v}]\n";
    let cases: &[(&str, Files<'_>, &str)] = &[
        ("no stage at all lets everything pass", &[], "parsed"),
        (
            "without next_stage nobody reaches the second stage",
            &[("s0/a", stay), ("s1/b", stay)],
            "unparsed in s0 | Meta.s=v",
        ),
        ("with it the line goes on", &[("s0/a", next), ("s1/b", stay)], "parsed | Meta.n=v | Meta.s=v"),
        ("next_stage stops its stage", &[("s0/a", next), ("s0/b", stay), ("s1/c", next)], "parsed | Meta.n=v"),
        (
            "files run in the order of their paths",
            &[("s0/b", "name: b\nstatics: [{meta: m, value: b}]"), ("s0/a", "name: a\nstatics: [{meta: m, value: a}]")],
            "parsed | Meta.m=b",
        ),
        (
            "a child that moves the event while its parent fails loses it",
            &[
                (
                    "s0/a",
                    "name: a\nnodes:\n  - {onsuccess: next_stage, statics: [{meta: m, value: v}]}\n  - {filter: 'false', statics: [{meta: x, value: v}]}\n",
                ),
                ("s1/b", stay),
            ],
            "unparsed in s0 | Meta.m=v",
        ),
        (
            "a child and its parent that both move the event skip a stage",
            &[
                (
                    "s0/a",
                    "name: a\nonsuccess: next_stage\nnodes:\n  - {onsuccess: next_stage, statics: [{meta: m, value: v}]}\n",
                ),
                ("s1/b", next),
                ("s2/c", stay),
            ],
            "parsed | Meta.m=v | Meta.s=v",
        ),
        (
            "a node whose filter becomes true during the stage is asked",
            &[
                ("s0/a", "name: a\nstatics: [{parsed: program, value: p}]"),
                ("s0/b", "name: b\nfilter: evt.Parsed.program == 'p'\nstatics: [{meta: m, value: v}]"),
                ("s0/c", "name: c\nfilter: evt.Parsed.program == ''\nstatics: [{meta: x, value: v}]"),
            ],
            "parsed | Parsed.program=p | Meta.m=v",
        ),
        (
            "a filter that writes does so even when it is false",
            &[
                (
                    "s0/a",
                    "name: a\nfilter: evt.SetMeta('k', 'v') && evt.Line.Raw == 'other'\nstatics: [{meta: x, value: v}]",
                ),
                ("s0/b", "name: b\nfilter: evt.Meta.k == 'v'\nstatics: [{meta: m, value: v}]"),
            ],
            "parsed | Meta.k=v | Meta.m=v",
        ),
    ];
    for (name, files, expected) in cases {
        assert_eq!(run(files, "line"), *expected, "{name}");
    }
}

#[test]
fn mistakes_in_files() {
    // (file, what is said about it)
    let cases: &[(&str, &str)] = &[
        ("name: a\nfilter: evt.Parsd.x == 'y'\nstatics: [{meta: m, value: v}]\n", "s0/a.yaml:2: in expression: "),
        ("name: a\nlabels: {}\n", "s0/a.yaml:2: unknown key in a parser: `labels`"),
        ("name: a\n", "s0/a.yaml:1: this node does nothing\nhint: "),
        ("name: a\nwhitelist: {reason: r}\n", "s0/a.yaml:1: this node does nothing\nhint: "),
        ("name: a\nwhitelist: {reason: r, ip: [1.2.3]}\n", "s0/a.yaml:2: `1.2.3` is not an IP address\nhint: "),
        ("name: a\nwhitelist: {reason: r, cidr: [1.2.3.4/33]}\n", "s0/a.yaml:2: `1.2.3.4/33` is not a prefix\nhint: "),
        (
            "name: a\ngrok: {pattern: '%{WROD:x}', apply_on: m}\n",
            "s0/a.yaml:2: unknown pattern `WROD`\nhint: did you mean `WORD`?",
        ),
        ("name: a\ngrok: {pattern: '(%{WORD:x}', apply_on: m}\n", "s0/a.yaml:2: bad regex: "),
        ("name: a\ngrok: {pattern: '%{WORD:x}'}\n", "s0/a.yaml:2: `grok` has no text to look at\nhint: "),
        ("name: a\ngrok: {apply_on: message}\n", "s0/a.yaml:2: `grok` has no pattern\nhint: "),
        (
            "name: a\nonsuccess: next_step\nstatics: []\n",
            "s0/a.yaml:2: unknown value of `onsuccess`: `next_step`\nhint: did you mean `next_stage`?",
        ),
        (
            "name: a\nstatics: [{enriched: e, value: v}]\n",
            "s0/a.yaml:2: `enriched` alone is not a destination here\nhint: ",
        ),
        ("name: a\nstatics: [{meta: m}]\n", "s0/a.yaml:2: this static has no value\nhint: "),
        ("name: a\nstatics: [{value: m}]\n", "s0/a.yaml:2: this static has no destination\nhint: "),
        (
            "name: a\nstash: [{name: s, key: k, value: v, ttl: 5x}]\nstatics: []\n",
            "s0/a.yaml:2: bad `ttl`: unknown unit `x`",
        ),
        (
            "name: a\nformat: two\nstatics: [{meta: m, value: v}]\n",
            "s0/a.yaml:2: `format` must be a version such as `2.0`, found `two`",
        ),
        ("name: [a\n", "s0/a.yaml:1: not valid YAML: "),
    ];
    for (yaml, expected) in cases {
        let good = "name: good\nstatics: [{meta: m, value: v}]\n";
        let (set, _, problems, _) = load_all(&[("s0/a.yaml", yaml), ("s0/good.yaml", good)]);
        assert_eq!(problems.len(), 1, "{yaml}: {problems:?}");
        assert!(problems[0].starts_with(expected), "{yaml}: {}", problems[0]);
        assert_eq!(set.reports().count(), 1, "the good file is loaded: {yaml}");
    }
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let cases: &[(&str, &str)] = &[
        (
            "name: a\nstatics: [{method: ParseDat, value: v}]\n",
            "s0/a.yaml:2: unknown enrichment method `ParseDat`\nhint: did you mean `ParseDate`?",
        ),
        (
            "name: a\nstatics: [{target: evt.StrTim, value: v}]\n",
            "s0/a.yaml:2: target `evt.StrTim` does not exist, this static does nothing\nhint: did you mean `StrTime`?",
        ),
        (
            "name: a\ngrok: {pattern: '%{WORD}', apply_on: m}\n",
            "s0/a.yaml:2: this pattern names nothing, so the grok never succeeds\nhint: ",
        ),
        (
            "name: a\npattern_syntax: {WORD: x}\nstatics: [{meta: m, value: v}]\n",
            "s0/a.yaml:2: pattern `WORD` is already defined, its first definition stays\nhint: ",
        ),
        (
            "name: a\nformat: 4.0\nstatics: []\n",
            "s0/a.yaml:2: format version `4.0` is not supported, the document is left out\nhint: ",
        ),
        ("name: a\nformat: 2.0-rc1\nstatics: []\n", "s0/a.yaml:2: format version `2.0-rc1` is not supported"),
    ];
    for (yaml, expected) in cases {
        let (_, _, problems, warnings) = load_all(&[("s0/a.yaml", yaml)]);
        assert_eq!(problems, Vec::<String>::new(), "{yaml}");
        assert_eq!(warnings.len(), 1, "{yaml}: {warnings:?}");
        assert!(warnings[0].starts_with(expected), "{yaml}: {}", warnings[0]);
    }
}

#[test]
fn patterns_of_a_refused_file_are_forgotten() {
    let bad = "name: a\npattern_syntax: {MINE: x}\nstatics: [{meta: m, expression: 1 +}]\n";
    let good = "name: b\npattern_syntax: {MINE: '[0-9]+'}\ngrok: {pattern: '%{MINE:n}', apply_on: Line.Raw}\n";
    let (_, _, problems, warnings) = load_all(&[("s0/a.yaml", bad), ("s0/b.yaml", good)]);
    assert_eq!((problems.len(), warnings.len()), (1, 0));
}

#[test]
fn names_of_documents_without_one_are_left_out() {
    let text = "---\nname: a\nstatics: [{meta: m, value: v}]\n---\nstatics: [{meta: x, value: v}]\n---\n";
    let (set, ..) = load_all(&[("s0/a.yaml", text)]);
    let names: Vec<&str> = set.reports().map(|report| &**report.name).collect();
    assert_eq!(names, ["a"]);
}
