//! Where reading stands in one file, in a form that survives a restart.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::rotate::{ENOUGH, FileId, Print, first_generation};

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
    /// When the file was made, where the file system knows: numbers of files are used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<Timestamp>,
    /// When this content began, where that is later than the birth of the file: it was emptied meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl FilePlace {
    /// The beginning of a file that is not read yet.
    pub fn beginning(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.into(),
            id: FileId::of(metadata),
            generation: first_generation(metadata),
            offset: 0,
            seen: 0,
            head: Print::of(&[]),
            recent: Print::of(&[]),
            born: born(metadata),
            since: None,
        }
    }

    /// The same place in the file that `metadata` describes, which has the same content.
    pub fn moved_to(&self, metadata: &Metadata) -> Self {
        Self { id: FileId::of(metadata), born: born(metadata), ..self.clone() }
    }

    /// What the system knows of `path`, if the file of this place is there.
    pub fn metadata_at(&self, path: &Path) -> Option<Metadata> {
        fs::metadata(path).ok().filter(|metadata| metadata.is_file() && self.is_file(metadata))
    }

    /// Whether `metadata` describes the file of this place.
    pub fn is_file(&self, metadata: &Metadata) -> bool {
        FileId::of(metadata) == self.id && self.born.is_none_or(|known| born(metadata).is_none_or(|born| born == known))
    }

    /// Whether `file` is a copy with the content that this place speaks of; false where too little was read to tell.
    pub fn is_in_copy(&self, file: &File) -> bool {
        self.seen >= ENOUGH && self.matches(file).unwrap_or(false)
    }

    /// Whether `file` has the content that this place speaks of.
    pub fn matches(&self, file: &File) -> io::Result<bool> {
        Ok(self.head.matches(file, u64::from(self.head.len))? && self.recent.matches(file, self.seen)?)
    }
}

/// When a file was made.
pub(super) fn born(metadata: &Metadata) -> Option<Timestamp> {
    Timestamp::try_from(metadata.created().ok()?).ok()
}
