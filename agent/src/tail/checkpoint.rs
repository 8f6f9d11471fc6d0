//! Where reading stands in one file, in a form that survives a restart.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::rotate::{ENOUGH, FileId, Print};

/// A place in a file, and how to recognise the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePlace {
    /// The path under which it is followed.
    pub path: Arc<Path>,
    /// The file.
    #[serde(flatten)]
    pub id: FileId,
    /// The content: another number after a truncation.
    pub generation: u64,
    /// All lines before this byte were handed out.
    pub offset: u64,
    /// What was read: beyond `offset` while a line has not ended.
    pub seen: u64,
    /// The first bytes of the file.
    pub head: Print,
    /// The bytes before `seen`.
    pub recent: Print,
}

impl FilePlace {
    /// Whether `file` is a copy with the content that this place speaks of; false where too little was read to tell.
    pub fn is_in_copy(&self, file: &File) -> bool {
        self.seen >= ENOUGH && self.matches(file).unwrap_or(false)
    }

    /// Whether `file` has the content that this place speaks of.
    pub fn matches(&self, file: &File) -> io::Result<bool> {
        Ok(self.head.matches(file, u64::from(self.head.len))? && self.recent.matches(file, self.seen)?)
    }
}
