//! What is ours, on disk: one line per change, durable before the controller is asked for anything.
//!
//! The journal is the only proof that a disable is ours, so a line counts only if its checksum is right, and the
//! newest line of an identity wins. A torn line at the end is what a sudden end leaves; the call that it announced
//! was never made.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::plan::Held;

/// A file longer than this is written anew with what still counts.
const COMPACT: u64 = 1 << 20;
/// Longest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// What is known of one identity of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What is ours.
    pub held: Held,
    /// By which values of decisions it was found: an identity that is renamed stays banned.
    pub values: Vec<String>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("cannot use the journal `{}`: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the journal `{}` is in use by another process\nhint: one process writes to a controller; stop the other one", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    record: Option<Record>,
}

/// The ownership journal of one Ziti network.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    records: BTreeMap<String, Record>,
    /// Lines that make no sense.
    damaged: usize,
    writer: Option<Writer>,
}

/// What only the one process has that may write.
#[derive(Debug)]
struct Writer {
    file: File,
    length: u64,
    /// Held while we live.
    _lock: File,
}

impl Journal {
    /// Reads the journal at `path`, which need not be there. Whoever has it may go on writing.
    pub fn read(path: &Path) -> Result<Self, JournalError> {
        let fail = |source| JournalError::File { path: path.to_owned(), source };
        let text = match std::fs::metadata(path) {
            Ok(found) if found.len() > MAX_FILE => return Err(fail(io::Error::other("it is longer than 64 MiB"))),
            Ok(_) => std::fs::read(path).map_err(fail)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(fail(error)),
        };
        let (records, damaged) = replay(&text);
        Ok(Self { path: path.to_owned(), records, damaged, writer: None })
    }

    /// Makes it ours to write, and reads what others wrote meanwhile. Begins the file anew with what counts.
    pub fn own(&mut self) -> Result<(), JournalError> {
        if self.writer.is_some() {
            return Ok(());
        }
        let fail = |source| JournalError::File { path: self.path.clone(), source };
        let lock = append(&beside(&self.path, ".lock")).map_err(fail)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(JournalError::InUse { path: self.path.clone() });
        }
        let mut found = Self::read(&self.path)?;
        let (file, length) = rewrite(&self.path, &found.records).map_err(fail)?;
        found.writer = Some(Writer { file, length, _lock: lock });
        *self = found;
        Ok(())
    }

    /// How many lines made no sense when it was read; a torn last line is not among them.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Everything that is ours, by identity.
    pub fn records(&self) -> &BTreeMap<String, Record> {
        &self.records
    }

    /// What is ours of `id`.
    pub fn held(&self, id: &str) -> Option<Held> {
        self.records.get(id).map(|record| record.held)
    }

    /// Writes what is ours of `id`; durable when it returns.
    pub fn note(&mut self, id: &str, record: Option<Record>) -> Result<(), JournalError> {
        self.own()?;
        if self.records.get(id) == record.as_ref() {
            return Ok(());
        }
        let line = encode(&Line { id: id.to_owned(), record: record.clone() });
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let written = writer.write(&self.path, &self.records, &line);
        written.map_err(|source| JournalError::File { path: self.path.clone(), source })?;
        match record {
            Some(record) => drop(self.records.insert(id.to_owned(), record)),
            None => drop(self.records.remove(id)),
        }
        Ok(())
    }
}

impl Writer {
    fn write(&mut self, path: &Path, records: &BTreeMap<String, Record>, line: &[u8]) -> io::Result<()> {
        if self.length > COMPACT {
            (self.file, self.length) = rewrite(path, records)?;
        }
        if let Err(error) = self.file.write_all(line).and_then(|()| self.file.sync_data()) {
            // What is on disk now is unknown, so the next line goes into a file made anew.
            self.length = u64::MAX;
            return Err(error);
        }
        self.length = self.length.saturating_add(line.len() as u64);
        Ok(())
    }
}

/// `path` with `suffix` behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Replaces the file by what counts, in one step.
fn rewrite(path: &Path, records: &BTreeMap<String, Record>) -> io::Result<(File, u64)> {
    let fresh = beside(path, ".new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
    let mut bytes = Vec::new();
    for (id, record) in records {
        bytes.extend(encode(&Line { id: id.clone(), record: Some(record.clone()) }));
    }
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok((append(path)?, bytes.len() as u64))
}

fn encode(line: &Line) -> Vec<u8> {
    let json = serde_json::to_string(line).expect("a record is plain data");
    format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())).into_bytes()
}

fn decode(line: &[u8]) -> Option<Line> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    if crc32c::crc32c(json.as_bytes()) != sum {
        return None;
    }
    serde_json::from_str(json).ok()
}

fn replay(text: &[u8]) -> (BTreeMap<String, Record>, usize) {
    let mut records = BTreeMap::new();
    let mut damaged = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let whole = line.strip_suffix(b"\n");
        match whole.and_then(decode) {
            Some(Line { id, record: Some(record) }) => drop(records.insert(id, record)),
            Some(Line { id, record: None }) => drop(records.remove(&id)),
            None if whole.is_some() => damaged += 1,
            None => {}
        }
    }
    (records, damaged)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn record(minutes: i64) -> Record {
        let held = Held::Asked { at: Timestamp::UNIX_EPOCH, minutes, before: None };
        Record { held, values: vec!["name:alice".into()] }
    }

    fn open(path: &Path) -> Result<Journal, JournalError> {
        let mut journal = Journal::read(path)?;
        journal.own()?;
        Ok(journal)
    }

    #[test]
    fn the_newest_line_wins_after_a_restart() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ziti.journal");
        let mut journal = open(&path).expect("a new journal");
        journal.note("a", Some(record(3))).expect("written");
        journal.note("b", Some(record(4))).expect("written");
        journal.note("a", Some(record(5))).expect("written");
        journal.note("b", None).expect("written");
        assert!(matches!(open(&path), Err(JournalError::InUse { .. })), "two writers at a time");
        assert_eq!(Journal::read(&path).expect("anybody may look").records().len(), 1);
        drop(journal);
        let journal = open(&path).expect("the same journal");
        assert_eq!(journal.damaged(), 0);
        assert_eq!(journal.records().iter().collect::<Vec<_>>(), [(&"a".to_owned(), &record(5))]);
    }

    #[test]
    fn a_file_torn_at_any_byte_yields_what_was_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ziti.journal");
        let lines: Vec<Vec<u8>> =
            (3..6).map(|minutes| encode(&Line { id: "a".into(), record: Some(record(minutes)) })).collect();
        let text = lines.concat();
        for end in 0..=text.len() {
            let whole = text[..end].split(|&byte| byte == b'\n').count() - 1;
            std::fs::write(&path, &text[..end]).expect("written");
            let journal = Journal::read(&path).expect("a torn journal");
            let expected = (whole > 0).then(|| record(2 + whole as i64).held);
            assert_eq!((journal.held("a"), journal.damaged()), (expected, 0), "torn at {end}");
        }
    }

    #[test]
    fn a_changed_line_does_not_count() {
        let mut text = encode(&Line { id: "a".into(), record: Some(record(3)) });
        let last = encode(&Line { id: "b".into(), record: Some(record(4)) });
        text[20] ^= 1;
        text.extend(last);
        let (records, damaged) = replay(&text);
        assert_eq!((records.keys().map(String::as_str).collect::<Vec<_>>(), damaged), (vec!["b"], 1));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ziti.journal");
        let mut journal = open(&path).expect("a new journal");
        let long = |minutes| Some(Record { values: vec!["x".repeat(200_000)], ..record(minutes) });
        for minutes in 3..20 {
            journal.note("a", long(minutes)).expect("written");
        }
        assert!(std::fs::metadata(&path).expect("it is there").len() < COMPACT + (200 << 10));
        assert_eq!(journal.held("a"), long(19).map(|record| record.held));
    }
}
