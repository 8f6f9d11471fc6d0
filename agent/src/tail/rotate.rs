//! Which file is which.
//!
//! A file is known by device and inode, and by what its bytes looked like ([`Print`]): inodes are used again,
//! `copytruncate` keeps the inode and changes the content, and a copy has the content under another inode.

use std::fs::{self, File, Metadata};
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::checkpoint::FilePlace;

/// How many bytes a print covers at most.
pub const PRINT_LEN: usize = 256;

/// A place before which fewer bytes were read is not searched for by content: too many files look like it.
pub const ENOUGH: u64 = 16;

/// How many files of a folder are looked at to find one.
const SEARCHED: usize = 4096;

/// Device and inode. Two open files with the same one are the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// Number of the file system.
    pub device: u64,
    /// Number of the file in it.
    pub inode: u64,
}

impl FileId {
    /// The identity of the file that `metadata` describes.
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What some bytes looked like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// How many bytes, at most [`PRINT_LEN`].
    pub len: u16,
    /// Their sum.
    pub sum: u64,
}

impl Print {
    /// The print of the last [`PRINT_LEN`] of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let bytes = &bytes[bytes.len().saturating_sub(PRINT_LEN)..];
        let mut hasher = SipHasher13::new();
        hasher.write(bytes);
        Self { len: bytes.len() as u16, sum: hasher.finish() }
    }

    /// Whether the bytes of `file` before `end` look like this.
    pub fn matches(self, file: &File, end: u64) -> io::Result<bool> {
        let mut bytes = [0; PRINT_LEN];
        let Some(bytes) = bytes.get_mut(..usize::from(self.len)) else { return Ok(false) };
        let Some(start) = end.checked_sub(u64::from(self.len)) else { return Ok(false) };
        match file.read_exact_at(bytes, start) {
            Ok(()) => Ok(Print::of(bytes) == self),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The number of the content that a new file begins with. It is the same whenever it is asked for, and another
/// one when the inode is used again.
pub fn first_generation(metadata: &Metadata) -> u64 {
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let mut hasher = SipHasher13::new();
    hasher.write_u64(metadata.dev());
    hasher.write_u64(metadata.ino());
    hasher.write_u128(born.as_nanos());
    hasher.finish()
}

/// Finds where the content that `place` speaks of lives now: under its path, under another name in the same
/// folder (rotation by rename), or as a copy there (`copytruncate`).
pub fn find(place: &FilePlace) -> Option<(PathBuf, File)> {
    if let Some(file) = open_if(&place.path, |metadata| FileId::of(metadata) == place.id, place) {
        return Some((place.path.to_path_buf(), file));
    }
    let mut folders: Vec<PathBuf> = place.path.parent().map(Path::to_path_buf).into_iter().collect();
    // Behind a symbolic link, files are rotated where they are.
    if let Some(folder) = fs::canonicalize(&place.path).ok().and_then(|path| path.parent().map(Path::to_path_buf))
        && !folders.contains(&folder)
    {
        folders.push(folder);
    }
    let names: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .take(SEARCHED)
        .collect();
    let renamed = names.iter().find_map(|path| {
        let file = open_if(path, |metadata| FileId::of(metadata) == place.id, place)?;
        Some((path.clone(), file))
    });
    if renamed.is_some() || place.seen < ENOUGH {
        return renamed;
    }
    // Of several copies the largest was made last.
    names
        .iter()
        .filter_map(|path| {
            let file = open_if(path, |metadata| FileId::of(metadata) != place.id, place)?;
            Some((file.metadata().ok()?.len(), path, file))
        })
        .max_by_key(|(len, ..)| *len)
        .map(|(_, path, file)| (path.clone(), file))
}

/// Opens `path` if it is a regular file, `wanted`, and looks as `place` says.
fn open_if(path: &Path, wanted: impl Fn(&Metadata) -> bool, place: &FilePlace) -> Option<File> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() < place.seen || !wanted(&metadata) {
        return None;
    }
    let file = File::open(path).ok()?;
    place.matches(&file).ok()?.then_some(file)
}

/// What a file that appears is, beside a file of the same folder that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// It has its own content.
    Different,
    /// It begins like the other one, and is still too short to tell.
    Unclear,
    /// It is a copy: reading it would count the same lines twice.
    Copy,
}

/// Compares `new` with `known`, of which `seen` bytes were read. `settled` says that `new` has stopped growing.
pub fn likeness(new: &File, known: &File, seen: u64, settled: bool) -> io::Result<Likeness> {
    /// No log begins with as much that is always the same.
    const TELLING: u64 = 4096;
    let len = new.metadata()?.len();
    let common = len.min(seen);
    let mut bytes = [0; PRINT_LEN];
    let mut same = |start: u64| -> io::Result<bool> {
        let wanted = (common - start).min(PRINT_LEN as u64) as usize;
        let bytes = &mut bytes[..wanted];
        new.read_exact_at(bytes, start)?;
        let print = Print::of(bytes);
        print.matches(known, start + wanted as u64)
    };
    if common == 0 || !same(0)? || !same(common.saturating_sub(PRINT_LEN as u64))? {
        return Ok(Likeness::Different);
    }
    Ok(match len.cmp(&seen) {
        _ if len >= TELLING && seen >= TELLING => Likeness::Copy,
        std::cmp::Ordering::Equal => Likeness::Copy,
        std::cmp::Ordering::Less if !settled => Likeness::Unclear,
        _ => Likeness::Different,
    })
}
