//! What a check found, and what a rule of the check is.

use std::fmt;
use std::path::{Path, PathBuf};

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
    /// What is wrong: lower case, no final stop.
    pub message: String,
    /// What would be right.
    pub remedy: String,
    /// The line as it stands in the file; empty where there is none.
    pub source: String,
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
            message: message.into(),
            remedy: remedy.into(),
            source: String::new(),
        });
    }
}
