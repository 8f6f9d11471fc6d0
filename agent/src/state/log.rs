//! A file that records are added to.
//!
//! The first line says what it is and in which version; each record carries its length and a checksum. A record that was being
//! written when the end came is not there; one that is damaged while others follow it is told, since then something else
//! than a sudden end has happened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Its name in the first line.
    pub kind: &'static str,
    /// The version that this program reads and writes.
    pub version: u32,
}

impl Format {
    fn header(self) -> String {
        format!("cordon {} {}\n", self.kind, self.version)
    }
}

/// Why a file of the state folder cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system says no.
    #[error("cannot read `{path}`: {error}", path = path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A newer program wrote it. It is left as it is.
    #[error(
        "`{path}` was written by a newer cordon: it has version {found}, this one reads up to {known}\n\
         hint: start the newer one again, or name another folder with --state; the file was not touched",
        path = path.display()
    )]
    Newer {
        /// Which one.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
}

/// Where a file stops being what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which file.
    pub path: PathBuf,
    /// The first byte that is wrong.
    pub at: u64,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Contents {
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
    /// Set when something else than a sudden end has happened; the records before it are whole.
    pub damage: Option<Damage>,
}

impl Contents {
    /// The records, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.records.iter().filter_map(|range| self.bytes.get(range.clone()))
    }

    /// Where each record ends in the file.
    pub fn ends(&self) -> impl Iterator<Item = u64> {
        self.records.iter().map(|range| range.end as u64)
    }

    /// How many bytes the file has.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// In front of each record, so that those behind a damaged one can be found.
const MARKER: [u8; 4] = [0xc0, 0x5d, 0x0a, 0x9e];
/// Marker, length and checksum.
const FRONT: usize = 12;
/// How many places behind a damaged record are tried.
const TRIES: usize = 1000;

/// A file that is written to.
#[derive(Debug)]
pub struct Log {
    file: File,
    len: u64,
}

impl Log {
    /// An empty file at `path`, in place of what lay there; only we may read it.
    pub fn create(path: &Path, format: Format) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let header = format.header();
        file.write_all(header.as_bytes())?;
        Ok(Self { file, len: header.len() as u64 })
    }

    /// Adds a record: what `parts` hold, one after the other. It survives the end of this process, not that of the machine
    /// ([`Log::sync`]). After an error the file is as it was.
    pub fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(bytes).map_err(|_| io::Error::other("a record is longer than 4 GiB"))?;
        let sum = parts.iter().fold(checksum(len, &[]), |sum, part| crc32c::crc32c_append(sum, part));
        let front = [MARKER, len.to_le_bytes(), sum.to_le_bytes()];
        let mut slices: Vec<IoSlice<'_>> = front.iter().map(|part| IoSlice::new(part)).collect();
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        if let Err(error) = write_all(&mut self.file, &mut slices) {
            self.file.set_len(self.len)?;
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += (FRONT + bytes) as u64;
        Ok(())
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// The file, for whoever waits elsewhere until everything survives the end of the machine.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Waits until everything survives the end of the machine.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Writes them one after the other, where they lie.
fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn checksum(len: u32, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), record)
}

/// Reads the file at `path`; `None` if there is none. A file that does not begin as such files do is damaged from its first
/// byte on.
pub fn read(path: &Path, format: Format) -> Result<Option<Contents>, StateError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::Read { path: path.to_path_buf(), error }),
    };
    let damage = |at: usize| Some(Damage { path: path.to_path_buf(), at: at as u64 });
    let start = match version(&bytes, format) {
        Some((found, _)) if found > format.version => {
            return Err(StateError::Newer { path: path.to_path_buf(), found, known: format.version });
        }
        Some((found, start)) if found == format.version => start,
        // The end came while the first line was written.
        None if format.header().as_bytes().starts_with(&bytes) => bytes.len(),
        _ => return Ok(Some(Contents { damage: damage(0), ..Contents::default() })),
    };
    let (mut records, mut at) = (Vec::new(), start);
    while let Some(range) = record_at(&bytes, at) {
        at = range.end;
        records.push(range);
    }
    let damage = if at < bytes.len() && another(&bytes, at + 1) { damage(at) } else { None };
    Ok(Some(Contents { bytes, records, damage }))
}

/// The version in the first line, and where the line ends.
fn version(bytes: &[u8], format: Format) -> Option<(u32, usize)> {
    let rest = bytes.strip_prefix(format!("cordon {} ", format.kind).as_bytes())?;
    let digits = rest.iter().position(|byte| *byte == b'\n')?;
    let version = std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()?;
    Some((version, bytes.len() - rest.len() + digits + 1))
}

/// The whole record that begins at `at`.
fn record_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let front = bytes.get(at..at + FRONT)?;
    let (marker, front) = front.split_at(4);
    let (len, sum) = front.split_at(4);
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).ok();
    let len = number(len)?;
    let range = at + FRONT..(at + FRONT).checked_add(len as usize)?;
    let record = bytes.get(range.clone())?;
    (marker == MARKER && checksum(len, record) == number(sum)?).then_some(range)
}

/// Whether a whole record begins anywhere from `at` on.
fn another(bytes: &[u8], at: usize) -> bool {
    let Some(rest) = bytes.get(at..) else { return false };
    memchr::memmem::find_iter(rest, &MARKER).take(TRIES).any(|found| record_at(bytes, at + found).is_some())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const FORMAT: Format = Format { kind: "test", version: 3 };

    fn log(path: &Path, records: &[&str]) -> Vec<u8> {
        let mut log = Log::create(path, FORMAT).expect("room on the disk");
        for record in records {
            log.append(&[record.as_bytes()]).expect("room on the disk");
        }
        assert_eq!(log.bytes(), fs::metadata(path).expect("just written").len());
        fs::read(path).expect("just written")
    }

    fn records(contents: &Contents) -> Vec<String> {
        contents.records().map(|record| String::from_utf8_lossy(record).into_owned()).collect()
    }

    #[test]
    fn what_was_cut_short_is_not_there_and_what_was_damaged_is_told() {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("log");
        assert!(read(&path, FORMAT).expect("no file is no error").is_none());
        let good = log(&path, &["one", "", "three"]);
        let contents = read(&path, FORMAT).expect("it is there").expect("it is there");
        assert_eq!((records(&contents), contents.damage), (vec!["one".into(), String::new(), "three".into()], None));

        let ends = [FORMAT.header().len() + FRONT + 3, FORMAT.header().len() + 2 * FRONT + 3, good.len()];
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).expect("room on the disk");
            let contents = read(&path, FORMAT).expect("it is there").expect("it is there");
            let whole = ends.iter().filter(|end| **end <= len).count();
            assert_eq!((contents.records.len(), contents.damage), (whole, None), "cut after {len} bytes");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).expect("room on the disk");
            // A digit of the version may have become a larger one.
            let Ok(contents) = read(&path, FORMAT) else { continue };
            let contents = contents.expect("it is there");
            let whole = if at < FORMAT.header().len() { 0 } else { ends.iter().filter(|end| **end <= at).count() };
            assert_eq!(contents.records.len(), whole, "byte {at} is wrong");
            assert_eq!(contents.damage.is_some(), whole < 2, "byte {at} is wrong: {:?}", contents.damage);
        }
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("log");
        for (text, refused) in
            [("cordon test 4\nwhatever", true), ("cordon test 2\nx", false), ("cordon other 4\n", false)]
        {
            fs::write(&path, text).expect("room on the disk");
            match read(&path, FORMAT) {
                Err(error @ StateError::Newer { .. }) => {
                    assert!(refused, "{text}");
                    assert!(error.to_string().contains("version 4, this one reads up to 3"), "{error}");
                }
                other => {
                    let contents = other.expect("it is there").expect("it is there");
                    assert!(!refused && contents.damage.is_some(), "{text}");
                }
            }
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
        }
    }
}
