//! Every way of matching gives what the plain regex gives: scanners, literals and kept groups change nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expr::regex_dialect;
use parsers::Library;
use parsers::config::{self, NodeConfig, PatternConfig};
use parsers::grok::{Matching, Patterns};
use parsers::patterns::Expansion;

use crate::support::{files, library, root};

/// The patterns of every grok in a folder of parsers.
fn groks(folder: &Path) -> Vec<(String, Arc<Expansion>)> {
    fn walk(node: &NodeConfig, place: &str, library: &mut Library, found: &mut Vec<(String, Arc<Expansion>)>) {
        for (name, pattern) in &node.pattern_syntax {
            library.define(name, pattern, name.line).expect("a good pattern");
        }
        if let Some(grok) = &node.grok {
            let expansion = match &grok.pattern {
                PatternConfig::Named(name) => library.get(name, name.line),
                PatternConfig::Inline(text) => library.expand(text, text.line).map(Arc::new),
            };
            found.push((format!("{place}:{}", node.line), expansion.expect("a good pattern")));
        }
        for child in &node.nodes {
            walk(child, place, library, found);
        }
    }
    let mut library = library();
    let mut found = Vec::new();
    for (path, _, text) in files(folder) {
        for node in config::parse(&text).expect("a good file").nodes {
            walk(&node, &path.display().to_string(), &mut library, &mut found);
        }
    }
    found
}

/// Lines of the logs below some folders, and what is left of them without a header.
fn lines(folders: &[PathBuf], of_each: usize) -> Vec<String> {
    fn logs(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                logs(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "log" || extension == "tsv") {
                found.insert(path);
            }
        }
    }
    let mut paths = BTreeSet::new();
    for folder in folders {
        logs(folder, &mut paths);
    }
    let mut lines = BTreeSet::new();
    for path in paths {
        let text = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
        for line in text.lines().take(of_each) {
            for piece in line.split('\t').chain(line.split_once("]: ").map(|(_, message)| message)) {
                lines.insert(piece.to_owned());
            }
        }
    }
    lines.into_iter().collect()
}

/// How many searches found something.
fn compare(groks: &[(String, Arc<Expansion>)], lines: &[String], every: usize) -> usize {
    let mut patterns = Patterns::default();
    let mut matching = Matching::default();
    let mut found = 0;
    let mut seen = BTreeSet::new();
    for (number, (place, expansion)) in groks.iter().enumerate() {
        if !seen.insert(&expansion.text) {
            continue;
        }
        let pattern = patterns.compile(expansion, 0).expect("a good pattern");
        let plain = regex_dialect::compile(&expansion.text).expect("a good pattern");
        for line in lines.iter().skip(number % every).step_by(every) {
            let expected =
                plain.captures(line.as_bytes()).filter(|_| !expansion.aliases().is_empty()).map(|captures| {
                    let text = |group: Option<u32>| captures.get(group? as usize).map(|group| group.range());
                    let fields = expansion.aliases().into_iter().map(|(alias, group)| (alias, text(group)));
                    (captures.get(0).map(|whole| whole.range()), fields.collect::<Vec<_>>())
                });
            let given = pattern.search(line, &mut matching).expect("small enough").map(|found| {
                let fields = pattern.aliases().iter();
                let fields = fields.map(|(alias, place)| (Arc::clone(alias), place.and_then(|place| found.get(place))));
                (Some(found.range()), fields.collect::<Vec<_>>())
            });
            found += usize::from(given.is_some());
            assert_eq!(given, expected, "{place} on {line}");
        }
    }
    found
}

#[test]
fn shipped_parsers_match_as_their_regexes_do() {
    let lines = lines(&[root().join("tests/flows"), root().join("tests/hostile")], 50);
    assert!(compare(&groks(&root().join("parsers/hub")), &lines, 1) > 1000);
}

#[test]
fn the_fields_parsers_match_as_their_regexes_do() {
    let hub = root().join("../shared/hub");
    if !hub.is_dir() {
        eprintln!("SKIPPED: the reference rules are not here ({})", hub.display());
        return;
    }
    let lines = lines(&[hub.join(".tests"), root().join("tests/hostile")], 10);
    let found = compare(&groks(&hub.join("parsers")), &lines, 9);
    assert!(found > 500, "{found}");
}
