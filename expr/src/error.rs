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

/// A part of a text of several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'s> {
    /// Lines before it.
    pub row: usize,
    /// The line that it starts in.
    pub line: &'s str,
    /// Characters of the line before it.
    pub column: usize,
    /// Its characters in that line, at least one.
    pub width: usize,
}

impl CompileError {
    pub(crate) fn new(span: std::ops::Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span, hint: None }
    }

    /// The line of the source that is to blame, and what of it.
    pub fn place<'s>(&self, source: &'s str) -> Place<'s> {
        let mut start = self.span.start.min(source.len());
        while !source.is_char_boundary(start) {
            start -= 1;
        }
        let before = &source[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = source[line_start..].lines().next().unwrap_or("");
        let end = self.span.end.clamp(start, line_start + line.len());
        Place {
            row: before.matches('\n').count(),
            line,
            column: source[line_start..start].chars().count(),
            width: source.get(start..end).map_or(1, |text| text.chars().count()).max(1),
        }
    }

    /// The error with its source line and a caret, as a person reads it. `place` names the
    /// file and line where the expression starts (`rules/ssh.yaml:12`), if known.
    pub fn render(&self, source: &str, place: Option<&str>) -> String {
        let Place { row, line, column, width } = self.place(source);
        let (file, first) = match place.and_then(|place| place.rsplit_once(':')) {
            Some((file, number)) if number.parse::<usize>().is_ok() => (file, number.parse().unwrap_or(1)),
            _ => (place.unwrap_or("expression"), 1),
        };
        let number = (first + row).to_string();
        let margin = " ".repeat(number.len());
        // tabs stay tabs, so that the caret stands below what it points at
        let indent: String = line.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let mut text = format!(
            "{self}\n{margin}--> {file}:{number}:{}\n{margin} |\n{number} | {line}\n{margin} | {indent}{}",
            column + 1,
            "^".repeat(width)
        );
        if let Some(hint) = &self.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
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

#[cfg(test)]
mod tests {
    use super::CompileError;

    #[test]
    fn shows_where_and_what() {
        let source = "evt.Parsed.a == 'x' &&\n  evt.Parsd.b == 'é'";
        let mut error = CompileError::new(29..34, "Event has no member `Parsd`");
        error.hint = Some("did you mean `Parsed`?".to_owned());
        insta::assert_snapshot!(error.render(source, Some("rules/ssh.yaml:12")), @r"
        Event has no member `Parsd`
          --> rules/ssh.yaml:13:7
           |
        13 |   evt.Parsd.b == 'é'
           |       ^^^^^
        hint: did you mean `Parsed`?
        ");
    }

    #[test]
    fn any_span_can_be_shown() {
        for (start, end) in [(0, 0), (3, 99), (99, 100), (2, 3), (5, 1)] {
            assert!(CompileError::new(start..end, "bad").render("é\n\té", None).starts_with("bad\n"));
        }
    }
}
