//! Marks: what the engine holds between two rounds, and where reading stood then.
//!
//! The first mark of a file holds everything, each later one what changed since the one before; what is whole at the front
//! of the file counts. Another file is begun beside it, renamed over it when its first mark is whole, and the one before is
//! kept: at any moment a whole mark can be read.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use model::bytes::{Garbled, Reader, Writer};
use model::record;
use scenarios::snapshot;
use serde::{Deserialize, Serialize};

use super::log::{self, Damage, Format, Log, StateError};
use super::places::Places;
use crate::acquisition::Step;
use crate::engine::Doubt;

/// What the file is. It holds records and buckets, so that another encoding of these is another version.
pub(super) const FORMAT: Format = Format { kind: "checkpoint", version: record::ENCODING + snapshot::VERSION };

/// What the engine holds beside buckets, and where reading stands.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Number of the last round that is in it.
    pub round: u64,
    /// When it was made.
    pub at: Timestamp,
    /// Where reading stands, or what of that has changed.
    pub steps: Vec<(String, Vec<Step>)>,
    /// See [`crate::backlog::Backlog::since`].
    pub since: Timestamp,
    /// Datasources that are catching up, and how far they are.
    pub lagging: BTreeMap<String, Timestamp>,
    /// Short memory between lines; `None` when it is as it was.
    pub stashes: Option<Vec<Stash>>,
    /// Overflows that wait for an answer.
    pub doubts: Vec<Doubt>,
}

/// One entry of a stash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stash {
    /// Name of the cache.
    pub cache: String,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// When it stops being there.
    pub expires: Timestamp,
}

/// One mark.
#[derive(Debug, Default)]
pub struct Mark {
    /// The numbering of the rules; a mark that has one holds everything.
    pub head: Option<Vec<u8>>,
    /// All but the buckets.
    pub meta: Meta,
    /// By partition: its buckets, or what changed of them.
    pub buckets: Vec<(u8, Vec<u8>)>,
}

/// The secret behind the names of buckets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 16]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// What was kept, put together from the marks of a file.
#[derive(Debug)]
pub struct Kept {
    /// The secret behind the names of its buckets.
    pub key: Key,
    /// The numbering of the rules.
    pub head: Vec<u8>,
    /// All but the buckets and the places.
    pub meta: Meta,
    /// Buckets, oldest first.
    pub buckets: Vec<(u8, Vec<u8>)>,
    /// Where reading stood.
    pub places: Places,
}

/// Where marks are written to.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    key: Key,
    log: Option<Log>,
}

impl Store {
    pub(super) fn new(folder: &Path, key: Key) -> Self {
        Self { folder: folder.to_path_buf(), key, log: None }
    }

    /// Writes a mark. After an error the next one must hold everything.
    pub fn commit(&mut self, mark: &Mark) -> io::Result<()> {
        let result = self.write(mark);
        if result.is_err() {
            self.log = None;
        }
        result
    }

    fn write(&mut self, mark: &Mark) -> io::Result<()> {
        let mut front = Writer::default();
        front.flag(mark.head.is_some());
        front.fixed128(u128::from_le_bytes(self.key.0));
        front.bytes(mark.head.as_deref().unwrap_or_default());
        front.bytes(&serde_json::to_vec(&mark.meta)?);
        front.number(mark.buckets.len() as u64);
        let mut lengths: Vec<Writer> = Vec::with_capacity(mark.buckets.len());
        for (partition, bytes) in &mark.buckets {
            let mut length = Writer::default();
            length.number((*partition).into());
            length.number(bytes.len() as u64);
            lengths.push(length);
        }
        let buckets = lengths.iter().zip(&mark.buckets).flat_map(|(length, (_, bytes))| [length.as_slice(), bytes]);
        let parts: Vec<&[u8]> = std::iter::once(front.as_slice()).chain(buckets).collect();
        if mark.head.is_none() {
            let log = self.log.as_mut().ok_or_else(|| io::Error::other("the first mark of a file holds everything"))?;
            // What somebody has deleted would be written to and never be read.
            fs::metadata(self.folder.join("checkpoint"))?;
            log.append(&parts)?;
            log.sync()?;
        } else {
            self.log = None;
            let [beside, current, previous] = files(&self.folder);
            let mut log = Log::create(&beside, FORMAT)?;
            log.append(&parts)?;
            log.sync()?;
            match fs::rename(&current, previous) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::rename(beside, current)?,
            }
            self.log = Some(log);
        }
        // The rounds that the mark holds are not needed any more.
        super::journal::forget(&self.folder, mark.meta.round)
    }
}

fn files(folder: &Path) -> [PathBuf; 3] {
    ["checkpoint.new", "checkpoint", "checkpoint.previous"].map(|name| folder.join(name))
}

/// Reads the newest whole mark of `folder`, and what was damaged.
pub(super) fn read(folder: &Path) -> Result<(Option<Kept>, Vec<Damage>), StateError> {
    let [_, current, previous] = files(folder);
    let mut damages = Vec::new();
    // Both are looked at before anything is changed: a newer one is refused.
    let mut contents = Vec::new();
    for path in [current, previous] {
        if let Some(read) = log::read(&path, FORMAT)? {
            contents.push((path, read));
        }
    }
    for (path, contents) in contents {
        let (kept, wrong) = assemble(&contents);
        // It got its name when its first mark was whole.
        let wrong = wrong || kept.is_none();
        let damage = contents.damage.clone().or_else(|| wrong.then(|| Damage { path: path.clone(), at: 0 }));
        if let Some(damage) = damage {
            // For whoever wants to know what happened; what cannot be renamed is overwritten.
            let _ = fs::rename(&path, path.with_extension("damaged"));
            damages.push(damage);
        }
        if kept.is_some() {
            return Ok((kept, damages));
        }
    }
    Ok((None, damages))
}

/// Puts the marks of a file together; second, whether one of them has a right checksum and a wrong content.
fn assemble(contents: &log::Contents) -> (Option<Kept>, bool) {
    let mut kept = None;
    for record in contents.records() {
        if add(&mut kept, record).is_err() {
            return (kept, true);
        }
    }
    (kept, false)
}

fn add(kept: &mut Option<Kept>, record: &[u8]) -> Result<(), Garbled> {
    let mut reader = Reader::new(record);
    let full = reader.flag()?;
    let key = Key(reader.fixed128()?.to_le_bytes());
    let head = reader.bytes()?.to_vec();
    let mut meta: Meta = serde_json::from_slice(reader.bytes()?).map_err(|_| Garbled)?;
    let mut buckets = Vec::new();
    for _ in 0..reader.count()? {
        let partition = u8::try_from(reader.number()?).map_err(|_| Garbled)?;
        buckets.push((partition, reader.bytes()?.to_vec()));
    }
    let steps = std::mem::take(&mut meta.steps);
    if full {
        *kept = Some(Kept { key, head, meta, buckets, places: Places::default() });
    } else {
        let kept = kept.as_mut().ok_or(Garbled)?;
        let stashes = meta.stashes.take().or(kept.meta.stashes.take());
        kept.meta = Meta { stashes, ..meta };
        kept.buckets.append(&mut buckets);
    }
    let kept = kept.as_mut().ok_or(Garbled)?;
    for (id, steps) in steps {
        kept.places.advance(&id, steps);
    }
    kept.places.at = Some(kept.meta.at);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::acquisition::Place;

    const KEY: Key = Key([7; 16]);

    fn mark(round: u64, full: bool) -> Mark {
        let steps = vec![("journal".to_owned(), vec![Step::At(Place::Cursor(format!("c{round}")))])];
        let meta = Meta { round, steps, ..Meta::default() };
        Mark { head: full.then(|| b"head".to_vec()), meta, buckets: vec![(3, vec![round as u8])] }
    }

    /// Which round is read back, with which buckets, and whether damage is told.
    fn found(folder: &Path) -> (Option<u64>, Vec<u8>, bool) {
        let (kept, damages) = read(folder).expect("it is not newer");
        let Some(kept) = kept else { return (None, Vec::new(), !damages.is_empty()) };
        assert_eq!((kept.key, &*kept.head), (KEY, &b"head"[..]));
        assert_eq!(kept.places.cursor("journal"), Some(format!("c{}", kept.meta.round)));
        (Some(kept.meta.round), kept.buckets.into_iter().map(|(_, bytes)| bytes[0]).collect(), !damages.is_empty())
    }

    #[test]
    fn the_newest_whole_mark_counts() {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("checkpoint");
        assert_eq!(found(folder.path()), (None, Vec::new(), false));
        let mut store = Store::new(folder.path(), KEY);
        assert!(store.commit(&mark(1, false)).is_err(), "the first one must hold everything");
        for (round, full) in [(1, true), (2, false), (3, true), (4, false), (5, false)] {
            store.commit(&mark(round, full)).expect("room on the disk");
        }
        assert_eq!(found(folder.path()), (Some(5), vec![3, 4, 5], false));
        let bytes = fs::read(&path).expect("it is there");
        fs::remove_file(&path).expect("it is there");
        assert!(store.commit(&mark(6, false)).is_err(), "what is gone is noticed");
        fs::write(&path, bytes).expect("room on the disk");

        let good = fs::read(&path).expect("it is there");
        let len = (good.len() - FORMAT.kind.len() - 10) / 3;
        // (what happened, the file, round that is read, whether damage is told)
        let flip = |at: usize| {
            let mut bad = good.clone();
            bad[at] ^= 1;
            bad
        };
        let cases = [
            ("the end came while the last mark was written", good[..good.len() - 3].to_vec(), Some(4), false),
            ("the last mark is damaged", flip(good.len() - 3), Some(4), false),
            ("a mark in the middle is damaged", flip(good.len() - len - 3), Some(3), true),
            ("the first mark is damaged", flip(40), Some(2), true),
            ("the first line is damaged", flip(3), Some(2), true),
            ("the file is empty", Vec::new(), Some(2), true),
        ];
        for (what, bytes, round, told) in cases {
            fs::write(&path, bytes).expect("room on the disk");
            let (seen, _, damaged) = found(folder.path());
            assert_eq!((seen, damaged), (round, told), "{what}");
        }
        fs::write(folder.path().join("checkpoint.previous"), "nonsense").expect("room on the disk");
        fs::write(&path, "nonsense").expect("room on the disk");
        assert_eq!(found(folder.path()), (None, Vec::new(), true), "nothing is whole");
    }
}
