//! What was begun and what was done at a target that forgets nothing by itself.
//!
//! Before a call its steps are written and synced, after it a mark. Whoever dies in between finds on his return
//! which steps may or may not have happened, and looks at the target. Each line carries its checksum: a torn last
//! line never happened, and nothing behind damage is believed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A journal is not read further than this many bytes.
const LIMIT: u64 = 256 << 20;

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line<S> {
    /// Steps that are about to be taken.
    Begin(u64, Vec<S>),
    /// They have been taken.
    Done(u64),
}

/// Steps as they were found in a journal, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<S> {
    /// What was to be done.
    pub steps: Vec<S>,
    /// Whether it is known to have been done.
    pub done: bool,
}

/// The file, open for more.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    next: u64,
    lines: usize,
}

impl Journal {
    /// Opens the journal at `path`, which need not exist, and reads what is in it.
    pub fn open<S: Serialize + DeserializeOwned>(path: &Path) -> io::Result<(Self, Vec<Found<S>>)> {
        let text = match fs::metadata(path) {
            Ok(about) if about.len() > LIMIT => {
                return Err(io::Error::other(format!("longer than {LIMIT} bytes")));
            }
            Ok(_) => fs::read(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (found, good) = read(&text);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        // what follows a torn line must not be taken for its rest
        file.set_len(good as u64)?;
        let (lines, next) = (found.len(), found.iter().map(|(number, _)| number + 1).max().unwrap_or(1));
        let journal = Self { path: path.into(), file, next, lines };
        Ok((journal, found.into_iter().map(|(_, found)| found).collect()))
    }

    /// Notes that `steps` are about to be taken; when this returns, the disk knows.
    pub fn begin<S: Serialize>(&mut self, steps: Vec<S>) -> io::Result<u64> {
        let number = self.next;
        self.append(&Line::Begin(number, steps))?;
        self.next += 1;
        self.lines += 1;
        Ok(number)
    }

    /// Notes that the steps of `number` have been taken.
    pub fn done(&mut self, number: u64) -> io::Result<()> {
        self.append::<()>(&Line::Done(number))
    }

    fn append<S: Serialize>(&mut self, line: &Line<S>) -> io::Result<()> {
        self.file.write_all(&encode(line))?;
        self.file.sync_data()
    }

    /// Whether so much has been noted that [`Journal::compact`] is worth it, where `live` steps still count.
    pub fn is_long(&self, live: usize) -> bool {
        self.lines > 64 && self.lines > live / 8
    }

    /// Makes `steps`, which have been taken, all that the journal says.
    pub fn compact<S: Serialize>(&mut self, steps: Vec<S>) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let number = self.next;
        let mut new = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        let mut text = encode(&Line::Begin(number, steps));
        text.extend(encode::<()>(&Line::Done(number)));
        new.write_all(&text)?;
        new.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.next += 1;
        self.lines = 1;
        Ok(())
    }
}

fn encode<S: Serialize>(line: &Line<S>) -> Vec<u8> {
    let json = serde_json::to_vec(line).expect("plain data into memory");
    let mut text = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    text.extend(json);
    text.push(b'\n');
    text
}

/// What `text` says up to the first damage, and how many bytes that is.
fn read<S: DeserializeOwned>(text: &[u8]) -> (Vec<(u64, Found<S>)>, usize) {
    let mut found: Vec<(u64, Found<S>)> = Vec::new();
    let mut good = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else { break };
        let Some((sum, json)) = whole.split_at_checked(9) else { break };
        let expected = format!("{:08x} ", crc32c::crc32c(json));
        if sum != expected.as_bytes() {
            break;
        }
        match serde_json::from_slice(json) {
            Ok(Line::Begin(number, steps)) => found.push((number, Found { steps, done: false })),
            // the newest are at the end
            Ok(Line::Done(number)) => {
                if let Some((_, begun)) = found.iter_mut().rev().find(|(begun, _)| *begun == number) {
                    begun.done = true;
                }
            }
            Err(_) => break,
        }
        good += line.len();
    }
    (found, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &Path) -> Vec<(Vec<String>, bool)> {
        let (_, found) = Journal::open::<String>(path).expect("a temporary folder");
        found.into_iter().map(|found| (found.steps, found.done)).collect()
    }

    #[test]
    fn whoever_comes_back_knows_what_was_begun_and_what_was_done() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deeper").join("pf.journal");
        let (mut journal, before) = Journal::open::<String>(&path).expect("a temporary folder");
        assert!(before.is_empty());
        let first = journal.begin(vec!["add a".to_owned()]).expect("there is room");
        journal.begin(vec!["add b".to_owned(), "remove a".to_owned()]).expect("there is room");
        journal.done(first).expect("there is room");
        let expected = vec![(vec!["add a".to_owned()], true), (vec!["add b".to_owned(), "remove a".to_owned()], false)];
        assert_eq!(found(&path), expected);
        journal.compact(vec!["add b".to_owned()]).expect("there is room");
        journal.begin(vec!["add c".to_owned()]).expect("there is room");
        assert_eq!(found(&path), [(vec!["add b".to_owned()], true), (vec!["add c".to_owned()], false)]);
    }

    #[test]
    fn a_torn_end_never_happened_and_what_follows_is_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("pf.journal");
        let (mut journal, _) = Journal::open::<String>(&path).expect("a temporary folder");
        journal.begin(vec!["add a".to_owned()]).expect("there is room");
        let whole = fs::read(&path).expect("it was just written");
        journal.begin(vec!["add b".to_owned()]).expect("there is room");
        let both = fs::read(&path).expect("it was just written");
        for end in whole.len()..both.len() {
            fs::write(&path, &both[..end]).expect("a temporary folder");
            let (mut journal, found_now) = Journal::open::<String>(&path).expect("a torn file is no error");
            assert_eq!(found_now.len(), 1, "cut after {end} bytes");
            journal.begin(vec!["add c".to_owned()]).expect("there is room");
            assert_eq!(found(&path).len(), 2, "cut after {end} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = both.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("a temporary folder");
            assert!(found(&path).is_empty(), "byte {at} changed");
        }
    }
}
