//! What a check found, and what a rule of the check is.

use std::fmt;
use std::path::{Path, PathBuf};

use model::yaml::{Fault, Mark};
use serde::{Serialize, Serializer};

use super::subject::Subject;

/// One rule of the check. Each has a file of its own, with its page, its code and its table of examples.
pub struct Rule {
    /// Short name for messages and configuration, such as `C001`.
    pub code: &'static str,
    /// Name that says what is found.
    pub name: &'static str,
    /// How bad it is, unless a finding says otherwise.
    pub severity: Severity,
    /// One sentence.
    pub summary: &'static str,
    /// What it does, why that is bad, an example, the remedy: Markdown below a heading.
    pub page: &'static str,
    pub(super) check: fn(&Subject<'_>, &mut Findings<'_>),
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("code", &self.code).finish_non_exhaustive()
    }
}

/// By its code.
impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code)
    }
}

impl Rule {
    /// The whole page, heading and summary included.
    pub fn document(&self) -> String {
        let Self { code, name, severity, summary, page, .. } = self;
        format!("## {code} {name}\n\n{summary} Severity: {severity}.\n\n{}\n", page.trim())
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Costs something or says nothing, but harms nobody.
    Note,
    /// Probably not what was meant, or open to abuse under circumstances that the rule does not show.
    Warning,
    /// Does not work, or lets a stranger decide.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that a rule found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The rule.
    #[serde(rename = "code")]
    pub rule: &'static Rule,
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; 0 where none is to blame.
    pub line: u32,
    /// Where in the line, in characters from 1; 0 where only the line is known.
    pub column: u32,
    /// Characters to blame from there on.
    pub width: u32,
    /// What is wrong: lower case, no final stop.
    pub message: String,
    /// What would be right.
    pub remedy: String,
    /// The line as it stands in the file; empty where there is none.
    pub source: String,
    /// What of the line it is, where whoever found it knew.
    #[serde(skip)]
    pub(super) mark: Option<Mark>,
}

impl Finding {
    /// Says where in `line`, which is its own, it is: what the mark says, else the longest name in the message that the
    /// line holds.
    pub(super) fn place_in(&mut self, line: &str) {
        let marked = self.mark.take().and_then(|mark| {
            let (whole, part): (_, String) =
                (mark.source.trim(), mark.source.chars().skip(mark.start).take(mark.width).collect());
            let indent = mark.source.chars().take_while(|c| c.is_whitespace()).count();
            let expression = line.find(whole).map(|at| (at, mark.start.saturating_sub(indent)));
            // Escapes make the file's line another text than the expression.
            let (at, more) = expression.or_else(|| line.find(&part).map(|at| (at, 0)))?;
            Some((line.get(..at)?.chars().count() + more, mark.width))
        });
        let named = || {
            let names = self.message.split('`').skip(1).step_by(2);
            let found = names.filter_map(|name| Some((word_at(line, name)?, name.chars().count())));
            // Of equally long ones the first.
            found.min_by_key(|(_, width)| std::cmp::Reverse(*width))
        };
        if let Some((start, width)) = marked.or_else(named) {
            (self.column, self.width) = (start as u32 + 1, width as u32);
        }
        line.trim_end().clone_into(&mut self.source);
    }
}

/// How many characters stand in `line` before `word`, as a word of its own.
fn word_at(line: &str, word: &str) -> Option<usize> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let (at, _) = line.match_indices(word).find(|(at, _)| {
        let before = line.get(..*at).and_then(|before| before.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|after| after.chars().next());
        !word.is_empty() && !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })?;
    Some(line.get(..at)?.chars().count())
}

/// Where a rule puts what it finds.
#[derive(Debug)]
pub(super) struct Findings<'f> {
    pub(super) rule: &'static Rule,
    pub(super) all: &'f mut Vec<Finding>,
}

impl Findings<'_> {
    /// Adds a finding as bad as its rule says.
    pub(super) fn add(&mut self, path: &Path, line: u32, message: impl Into<String>, remedy: impl Into<String>) {
        self.add_as(self.rule.severity, path, line, message, remedy);
    }

    /// Adds a finding of another severity.
    pub(super) fn add_as(
        &mut self,
        severity: Severity,
        path: &Path,
        line: u32,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.all.push(Finding {
            rule: self.rule,
            severity,
            path: path.to_path_buf(),
            line,
            column: 0,
            width: 0,
            message: message.into(),
            remedy: remedy.into(),
            source: String::new(),
            mark: None,
        });
    }

    /// Adds what a loader refused or understood in another way.
    pub(super) fn add_fault(&mut self, severity: Severity, fault: &Fault, remedy: &str) {
        let remedy = fault.hint.as_deref().unwrap_or(remedy);
        self.add_as(severity, &fault.path, fault.line, &*fault.message, remedy);
        if let Some(finding) = self.all.last_mut() {
            finding.mark.clone_from(&fault.mark);
        }
    }
}
