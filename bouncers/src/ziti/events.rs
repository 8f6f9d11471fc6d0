//! Follows a controller's events file for the index, over rotation by renaming.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use jiff::Timestamp;

use super::index::{Index, MAX_LINE};

/// How much of an old file is read at the start.
const HISTORY: u64 = 16 << 20;
/// How much is read at a time.
const READ: usize = 4 << 20;

/// One events file.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The begin of a line whose end is not written yet.
    rest: Vec<u8>,
    /// The line is longer than any that counts; its end is waited for.
    skips: bool,
    /// Whether the file has been looked for before: what appears later is read from its begin.
    started: bool,
}

impl Follower {
    /// A follower of the file at `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new(), skips: false, started: false }
    }

    /// Reads what is new into `index`.
    pub fn read(&mut self, index: &mut Index, now: Timestamp) -> io::Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        self.drain(index, now)?;
        if self.moved()? {
            self.drain(index, now)?;
            self.file = None;
            self.rest.clear();
            self.skips = false;
            self.open()?;
            self.drain(index, now)?;
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.started = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if !self.started && length > HISTORY {
            file.seek(SeekFrom::Start(length - HISTORY))?;
            self.skips = true;
        }
        self.started = true;
        self.file = Some(file);
        Ok(())
    }

    /// Whether another file has taken the place, or the same one was emptied.
    fn moved(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let ours = file.metadata()?;
        let at = file.stream_position()?;
        match std::fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) != (ours.dev(), ours.ino()) || there.len() < at),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn drain(&mut self, index: &mut Index, now: Timestamp) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        while total < READ {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            total += read;
            for part in buffer.get(..read).unwrap_or_default().split_inclusive(|&byte| byte == b'\n') {
                match part.strip_suffix(b"\n") {
                    Some(_) if self.skips => self.skips = false,
                    Some(end) if self.rest.is_empty() => index.take(end, now),
                    Some(end) => {
                        self.rest.extend_from_slice(end);
                        index.take(&self.rest, now);
                        self.rest.clear();
                    }
                    None if self.skips => {}
                    None => {
                        self.rest.extend_from_slice(part);
                        if self.rest.len() > MAX_LINE {
                            self.rest.clear();
                            self.skips = true;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(id: &str) -> String {
        format!(
            r#"{{"namespace":"circuit","event_type":"created","circuit_id":"{id}","path":{{"initiator_remote_addr":"203.0.113.9:5"}}}}"#
        ) + "\n"
    }

    #[test]
    fn lines_are_followed_over_rotation() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("events.jsonl");
        let now = Timestamp::UNIX_EPOCH;
        let (mut index, mut follower) = (Index::default(), Follower::new(path.clone()));
        let mut count = |index: &mut Index| {
            follower.read(index, now).expect("it is read");
            index.len()
        };
        assert_eq!(count(&mut index), 0, "no file yet");
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).expect("a file");
            file.write_all(text.as_bytes()).expect("written");
        };
        append(&line("a"));
        assert_eq!(count(&mut index), 1);
        let (begin, end) = (line("b"), line("c"));
        append(&begin[..20]);
        assert_eq!(count(&mut index), 1, "half a line");
        append(&format!("{}{end}", &begin[20..]));
        assert_eq!(count(&mut index), 3);
        append(&line("d"));
        std::fs::rename(&path, folder.path().join("events-1.jsonl")).expect("renamed");
        assert_eq!(count(&mut index), 4, "the end of the old file");
        append(&line("e"));
        assert_eq!(count(&mut index), 5, "the begin of the new one");
        append(&format!("{}\n{}", "x".repeat(MAX_LINE * 3), line("f")));
        assert_eq!(count(&mut index), 6, "a long line is passed over");
        std::fs::write(&path, line("g")).expect("emptied and written");
        assert_eq!(count(&mut index), 7, "an emptied file");
    }
}
