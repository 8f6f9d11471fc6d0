//! Files of regexes: one alternation asks them all.

use std::sync::OnceLock;

use regex::bytes::Regex;

use super::{FileError, next_id};
use crate::regex_dialect;

/// The regexes of a file.
pub(super) struct RegexFile {
    patterns: Vec<String>,
    matchers: OnceLock<Vec<Regex>>,
    id: u64,
}

impl RegexFile {
    /// Checks every pattern; none is compiled yet.
    pub(super) fn new(lines: &[(usize, String)]) -> Result<Self, FileError> {
        for (line, pattern) in lines {
            regex_dialect::check(pattern)
                .map_err(|error| FileError::Regex { line: *line, message: error.to_string() })?;
        }
        let patterns = lines.iter().map(|(_, pattern)| pattern.clone()).collect();
        Ok(Self { patterns, matchers: OnceLock::new(), id: next_id(1) })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn patterns(&self) -> &[String] {
        &self.patterns
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        let matchers = self.matchers.get_or_init(|| {
            let mut matchers = Vec::new();
            join(&self.patterns, &mut matchers);
            matchers
        });
        matchers.iter().any(|matcher| matcher.is_match(text.as_bytes()))
    }
}

/// One matcher for all `patterns`, or one for each half when they do not fit together: because of
/// their size, or because they name the same group. A single one that is too large never matches.
fn join(patterns: &[String], matchers: &mut Vec<Regex>) {
    let mut joined = String::new();
    for pattern in patterns {
        // the patterns have been checked, so they can be spelt
        let Ok(rewritten) = regex_dialect::rewrite(pattern) else { continue };
        if !joined.is_empty() {
            joined.push('|');
        }
        joined.push_str("(?:");
        joined.push_str(&rewritten);
        joined.push(')');
    }
    match regex_dialect::compile_alternation(&joined) {
        Ok(matcher) => matchers.push(matcher),
        Err(_) if patterns.len() > 1 => {
            let (left, right) = patterns.split_at(patterns.len() / 2);
            join(left, matchers);
            join(right, matchers);
        }
        Err(_) => {}
    }
}
