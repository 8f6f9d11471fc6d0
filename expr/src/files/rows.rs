//! Files of rows: JSON objects that map a pattern to a tag.

use std::collections::HashMap;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::bytes::Regex;
use serde_json::Value as Json;

use super::FileError;
use crate::regex_dialect;

/// The rows of a file.
pub(super) struct RowFile {
    rows: Vec<Vec<(String, String)>>,
    /// Whether the file was read to its end; only then it is looked into.
    complete: bool,
    index: OnceLock<Index>,
}

/// Where the tags are.
struct Index {
    equals: HashMap<String, usize>,
    contains: Option<(AhoCorasick, Vec<usize>)>,
    regexes: Vec<(Regex, usize)>,
}

impl RowFile {
    /// Reads rows up to the first bad one.
    pub(super) fn new(lines: &[(usize, String)], complete: bool) -> (Self, Result<(), FileError>) {
        let mut file = Self { rows: Vec::new(), complete, index: OnceLock::new() };
        for (line, text) in lines {
            match row(text) {
                Ok(row) => file.rows.push(row),
                Err(message) => {
                    file.complete = false;
                    return (file, Err(FileError::Row { line: *line, message }));
                }
            }
        }
        (file, Ok(()))
    }

    pub(super) fn rows(&self) -> &[Vec<(String, String)>] {
        &self.rows
    }

    fn value(&self, row: usize, key: &str) -> &str {
        let pairs = self.rows.get(row).map_or(&[][..], Vec::as_slice);
        pairs.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value)
    }

    /// The tag for `text`: of an equal row, of the first row that it contains, of a regex row.
    pub(super) fn lookup(&self, text: &str) -> Option<&str> {
        if !self.complete {
            return None;
        }
        let index = self.index.get_or_init(|| self.build());
        let row = index.equals.get(text).copied().or_else(|| {
            let (automaton, rows) = index.contains.as_ref()?;
            rows.get(automaton.find(text)?.pattern().as_usize()).copied()
        });
        let row = row
            .or_else(|| index.regexes.iter().find(|(regex, _)| regex.is_match(text.as_bytes())).map(|(_, row)| *row));
        Some(row.map_or("", |row| self.value(row, "tag")))
    }

    fn build(&self) -> Index {
        let mut index = Index { equals: HashMap::new(), contains: None, regexes: Vec::new() };
        let mut needles = Vec::new();
        let mut rows = Vec::new();
        for row in 0..self.rows.len() {
            let pattern = self.value(row, "pattern");
            match self.value(row, "type") {
                "equals" => {
                    index.equals.insert(pattern.to_owned(), row);
                }
                "contains" => {
                    needles.push(pattern);
                    rows.push(row);
                }
                // a bad one has been reported and never matches
                _ => index.regexes.extend(regex_dialect::compile(pattern).ok().map(|regex| (regex, row))),
            }
        }
        if !needles.is_empty() {
            let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(needles);
            index.contains = automaton.ok().map(|automaton| (automaton, rows));
        }
        index
    }
}

fn row(text: &str) -> Result<Vec<(String, String)>, String> {
    let Json::Object(object) = serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?
    else {
        return Err("not a JSON object".to_owned());
    };
    let mut row = Vec::with_capacity(object.len());
    for (key, value) in object {
        let Json::String(value) = value else {
            return Err(format!("the value of `{key}` is not a string"));
        };
        row.push((key, value));
    }
    let value = |wanted: &str| row.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
    for key in ["pattern", "tag", "type"] {
        if value(key).is_none_or(str::is_empty) {
            return Err(format!("`{key}` is missing"));
        }
    }
    match value("type") {
        Some("equals" | "contains" | "regex") => Ok(row),
        other => Err(format!("unknown type `{}`, expected `equals`, `contains` or `regex`", other.unwrap_or_default())),
    }
}
