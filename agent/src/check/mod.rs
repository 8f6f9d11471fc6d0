//! The linter: what loads but cannot work, or can be abused.
//!
//! Rules of the check look at a [`Subject`]: all files of a rule set, parsed and compiled once. Nothing is read from the disk
//! here and nothing is run; what a rule set *would* do is told from what its filters require, its patterns match and its
//! statics write. Where that cannot be told, a rule is silent.
//!
//! Public types: [`Input`], [`Report`], [`Finding`], [`Severity`], [`Rule`]; [`RULES`] lists the rules.

mod address;
mod finding;
mod read;
mod render;
mod rules;
mod sarif;
mod subject;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use finding::{Finding, Rule, Severity};
pub use read::{ReadError, Reading};
pub use render::text;
pub use rules::RULES;
pub use sarif::sarif;

use crate::load::{RuleFile, RuleFiles};
use finding::Findings;
use subject::Subject;

/// Says why a data file cannot be used.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Result<(), String>;

/// What is checked.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The files.
    pub files: &'a RuleFiles,
    /// Pattern files that are there anyway. A file of `files` may define their names again.
    pub patterns: &'a [RuleFile],
    /// Files that configure datasources.
    pub acquisition: &'a [RuleFile],
    /// The files that turn alerts into decisions, in order.
    pub profiles: &'a [RuleFile],
    /// Where data files are. `None`: they are not checked.
    pub data: Option<Lookup<'a>>,
    /// Only findings in files below one of these are told; empty for all. The rest is what those files are judged by.
    pub only: &'a [PathBuf],
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("only", &self.only).finish_non_exhaustive()
    }
}

/// What a check gave.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How many files were looked at.
    pub files: usize,
    /// By file, line and code.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether nothing is as bad as `severity`.
    pub fn is_clean(&self, severity: Severity) -> bool {
        self.findings.iter().all(|finding| finding.severity < severity)
    }
}

/// Checks a rule set.
pub fn check(input: Input<'_>) -> Report {
    let subject = Subject::new(input);
    let mut findings = Vec::new();
    for rule in RULES {
        (rule.check)(&subject, &mut Findings { rule, all: &mut findings });
    }
    let within = |path: &Path| input.only.is_empty() || input.only.iter().any(|only| path.starts_with(only));
    findings.retain(|finding| within(&finding.path));
    let mut texts: HashMap<PathBuf, Vec<&str>> = HashMap::new();
    findings.retain_mut(|finding| {
        let read = || subject.text(&finding.path).unwrap_or("").lines().collect();
        let lines = texts.entry(finding.path.clone()).or_insert_with(read);
        let at = (finding.line as usize).checked_sub(1).filter(|at| *at < lines.len());
        if let Some(at) = at {
            finding.place_in(lines[at]);
        }
        !at.is_some_and(|at| allowed(&lines[..=at], finding.rule.code))
    });
    findings
        .sort_by(|a, b| (&a.path, a.line, a.rule.code, &a.message).cmp(&(&b.path, b.line, b.rule.code, &b.message)));
    findings.dedup_by(|a, b| (&a.path, a.line, a.rule.code, &a.message) == (&b.path, b.line, b.rule.code, &b.message));
    Report { files: subject.paths().filter(|path| within(path)).count(), findings }
}

/// Whether the last line, or a comment right above it, says `check: allow CODE`.
fn allowed(lines: &[&str], code: &str) -> bool {
    let Some((line, above)) = lines.split_last() else { return false };
    let comments = above.iter().rev().take_while(|line| line.trim_start().starts_with('#'));
    std::iter::once(line).chain(comments).any(|line| {
        let words = line.split_once("# check: allow ").map_or("", |(_, words)| words);
        words.split([' ', ',', ':']).any(|word| word == code)
    })
}

/// The rule with this code or name.
pub fn rule(code: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.code.eq_ignore_ascii_case(code) || rule.name == code)
}

/// The pages of all rules: what `docs/check.md` is.
pub fn document() -> String {
    let mut text = String::from(INTRODUCTION);
    for Rule { code, name, severity, summary, .. } in RULES {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "| {code} | {name} | {severity} | {summary} |");
    }
    for rule in RULES {
        text.push('\n');
        text.push_str(&rule.document());
    }
    text
}

const INTRODUCTION: &str = "\
# What `cordon check` finds

`cordon check [DIR]` reads rules and says what loads but cannot work, or can be abused. `DIR` is a folder in the hub's layout
(`parsers/<stage>/...`, `scenarios/...`, `postoverflows/<stage>/...`, `contexts/`, `patterns/`, `data/`), CrowdSec's own configuration folder, or
one file; without it the shipped rules and the configured folders are checked. A folder without parsers, and a file outside such a layout, is judged
together with the shipped rules.

The exit status is 1 when there is an error, with `--strict` also when there is a warning. Notes are printed with `--all`. `--sarif` writes
SARIF 2.1.0 for code hosts, `--output json` the findings as JSON, `--explain CODE` one of the pages below, `--explain all` this text.

Where a finding is wrong, say so beside it, with the reason: `# check: allow C002: only the program writes what stands before the address`, at
the end of the line or in a comment right above it.

| Code | Name | Severity | Finds |
|---|---|---|---|
";

#[cfg(test)]
mod tests;
