//! Where reading stands in each datasource.
//!
//! One file, replaced as a whole: it is written beside the old one, flushed, and renamed over it, so that at any moment
//! one of the two is there and whole. A place is put in only when what became of the lines before it is safe
//! elsewhere. The first line names version and checksum; the body is a map of sections, so that more than places can be
//! remembered at one mark.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acquisition::{Place, Step};
use crate::tail::checkpoint::FilePlace;

/// What the first line begins with, before the checksum.
const HEADER: &str = "cordon checkpoint 1 ";

/// Why a checkpoint cannot be read. Reading then starts as on the first day: at the end of each log.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {error}", path = path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not what was written.
    #[error("`{path}` is damaged: {reason}", path = path.display())]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// In which way.
        reason: &'static str,
    },
}

/// Places by datasource, and the file that remembers them.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    body: Body,
    changed: bool,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Body {
    /// When it was written.
    written: Option<Timestamp>,
    /// How many times.
    mark: u64,
    /// By id of the datasource.
    places: BTreeMap<String, Vec<Place>>,
}

impl Checkpoint {
    /// Reads what `folder` remembers. A damaged file is put aside as `checkpoint.damaged` and counts as none; the error says
    /// so beside the empty checkpoint.
    pub fn open(folder: &Path) -> (Self, Option<CheckpointError>) {
        let path = folder.join("checkpoint");
        let (body, error) = match read(&path) {
            Ok(body) => (body, None),
            Err(error) => {
                // What cannot be renamed is overwritten.
                let _ = fs::rename(&path, folder.join("checkpoint.damaged"));
                (Body::default(), Some(error))
            }
        };
        (Self { path, body, changed: false }, error)
    }

    /// When it was last written; `None` on the first day.
    pub fn written(&self) -> Option<Timestamp> {
        self.body.written
    }

    /// The files in which datasource `id` stood.
    pub fn files(&self, id: &str) -> Vec<FilePlace> {
        let places = self.body.places.get(id).into_iter().flatten();
        places.filter_map(|place| if let Place::File(place) = place { Some(place.clone()) } else { None }).collect()
    }

    /// The cursor at which datasource `id` stood.
    pub fn cursor(&self, id: &str) -> Option<String> {
        let mut places = self.body.places.get(id).into_iter().flatten();
        places.find_map(|place| if let Place::Cursor(cursor) = place { Some(cursor.clone()) } else { None })
    }

    /// Forgets the datasources that are not configured any more.
    pub fn retain(&mut self, ids: &[&str]) {
        let before = self.body.places.len();
        self.body.places.retain(|id, _| ids.contains(&id.as_str()));
        self.changed |= self.body.places.len() < before;
    }

    /// Moves the places of datasource `id`: all lines before `steps` are dealt with.
    pub fn advance(&mut self, id: &str, steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        self.changed = true;
        if !self.body.places.contains_key(id) {
            self.body.places.insert(id.to_owned(), Vec::new());
        }
        let Some(places) = self.body.places.get_mut(id) else { return };
        for step in steps {
            match step {
                Step::Gone(gone) => places.retain(|place| !matches!(place, Place::File(file) if file.id == gone)),
                Step::At(new) => {
                    let same = |known: &&mut Place| match (&**known, &new) {
                        (Place::File(a), Place::File(b)) => a.id == b.id,
                        (Place::Cursor(_), Place::Cursor(_)) => true,
                        _ => false,
                    };
                    match places.iter_mut().find(same) {
                        Some(known) => *known = new,
                        None => places.push(new),
                    }
                }
            }
        }
    }

    /// Writes it, if there is news.
    pub fn save(&mut self, now: Timestamp) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        self.body.written = Some(now);
        self.body.mark += 1;
        let json = serde_json::to_vec(&self.body)?;
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(format!("{HEADER}{:08x}\n", crc32c::crc32c(&json)).as_bytes())?;
        file.write_all(&json)?;
        file.sync_data()?;
        fs::rename(&beside, &self.path)?;
        self.changed = false;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Body, CheckpointError> {
    let damaged = |reason| CheckpointError::Damaged { path: path.to_path_buf(), reason };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Body::default()),
        Err(error) => return Err(CheckpointError::Read { path: path.to_path_buf(), error }),
    };
    let rest = bytes.strip_prefix(HEADER.as_bytes()).ok_or_else(|| damaged("another version, or none"))?;
    let (sum, json) = rest.split_at_checked(9).ok_or_else(|| damaged("it is cut short"))?;
    if sum != format!("{:08x}\n", crc32c::crc32c(json)).as_bytes() {
        return Err(damaged("the checksum differs"));
    }
    serde_json::from_slice(json).map_err(|_| damaged("the checksum is right, the content is not"))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::tail::rotate::{FileId, Print};

    fn place(inode: u64, offset: u64) -> FilePlace {
        FilePlace {
            path: Path::new("/var/log/a.log").into(),
            id: FileId { device: 1, inode },
            generation: u64::MAX,
            offset,
            seen: offset,
            head: Print::of(b"head"),
            recent: Print::of(b"recent"),
            born: None,
            since: None,
        }
    }

    fn at(inode: u64, offset: u64) -> Step {
        Step::At(Place::File(place(inode, offset)))
    }

    #[test]
    fn places_survive_and_are_forgotten_with_their_files() {
        let folder = TempDir::new().expect("a temporary folder");
        let (mut checkpoint, error) = Checkpoint::open(folder.path());
        assert!(error.is_none() && checkpoint.written().is_none());
        checkpoint.advance("file:a", vec![at(1, 10), at(2, 20), at(1, 15)]);
        checkpoint.advance("file:b", vec![at(1, 7)]);
        checkpoint.advance("journal", vec![Step::At(Place::Cursor("c1".into())), Step::At(Place::Cursor("c2".into()))]);
        checkpoint.save(Timestamp::UNIX_EPOCH).expect("room on the disk");

        let (mut checkpoint, error) = Checkpoint::open(folder.path());
        assert!(error.is_none());
        assert_eq!(checkpoint.written(), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(checkpoint.files("file:a"), [place(1, 15), place(2, 20)]);
        assert_eq!(checkpoint.cursor("journal").as_deref(), Some("c2"));
        assert_eq!(checkpoint.files("no such source"), []);
        checkpoint.advance("file:a", vec![Step::Gone(FileId { device: 1, inode: 1 }), at(3, 0)]);
        checkpoint.retain(&["file:a"]);
        checkpoint.save(Timestamp::UNIX_EPOCH).expect("room on the disk");

        let (checkpoint, _) = Checkpoint::open(folder.path());
        assert_eq!(checkpoint.files("file:a"), [place(2, 20), place(3, 0)]);
        assert_eq!((checkpoint.files("file:b"), checkpoint.cursor("journal")), (Vec::new(), None));
    }

    #[test]
    fn nothing_is_written_without_news() {
        let folder = TempDir::new().expect("a temporary folder");
        let (mut checkpoint, _) = Checkpoint::open(folder.path());
        checkpoint.advance("file:a", Vec::new());
        checkpoint.save(Timestamp::UNIX_EPOCH).expect("nothing to do");
        assert!(!folder.path().join("checkpoint").exists());
    }

    #[test]
    fn damage_is_noticed_and_put_aside() {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("checkpoint");
        let (mut checkpoint, _) = Checkpoint::open(folder.path());
        checkpoint.advance("file:a", vec![at(1, 10)]);
        checkpoint.save(Timestamp::UNIX_EPOCH).expect("room on the disk");
        let good = fs::read(&path).expect("just written");
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).expect("room on the disk");
            let (checkpoint, error) = Checkpoint::open(folder.path());
            assert!(error.is_some() && checkpoint.files("file:a").is_empty(), "cut after {length} bytes");
            assert!(!path.exists());
        }
        let mut flipped = good;
        *flipped.last_mut().expect("not empty") ^= 1;
        fs::write(&path, flipped).expect("room on the disk");
        assert!(matches!(Checkpoint::open(folder.path()).1, Some(CheckpointError::Damaged { .. })));
    }
}
