//! Data files that rules name: lists of text, of regexes, of rows (spec: parsers 8).
//!
//! Their content is handed in by whoever reads files; here it is indexed.

use std::collections::HashMap;
use std::sync::Arc;

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
}
