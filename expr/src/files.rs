//! Data files that rules name: lists of text, of regexes, of rows (spec: parsers 8).
//!
//! Their content is handed in by whoever reads files; here it is indexed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::program::{Fold, LineOp, LineTest};

/// All data files of a rule set, by the name that expressions use.
#[derive(Clone, Debug, Default)]
pub struct Files {
    lines: HashMap<String, Arc<[Box<str>]>>,
}

impl Files {
    /// The lines of a `string` file.
    pub fn lines(&self, name: &str) -> Option<&[Box<str>]> {
        self.lines.get(name).map(|lines| &**lines)
    }

    /// Whether `text` passes `test` for any line of the file.
    pub(crate) fn any_line(&self, name: &str, test: LineTest, text: &str) -> bool {
        self.lines(name).unwrap_or_default().iter().any(|line| {
            let line = match test.fold {
                Fold::Keep => line.to_string(),
                Fold::Upper => line.to_uppercase(),
                Fold::Lower => line.to_lowercase(),
            };
            match test.op {
                LineOp::Contains => text.contains(&line),
                LineOp::Equals => *text == line,
            }
        })
    }
}
