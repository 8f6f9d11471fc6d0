//! Files and standard input, read once from beginning to end: what `replay` reads.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::Origin;
use tracing::warn;

use super::Files;
use crate::acquisition::{Bell, Datasource, Outlet, SourceError};
use crate::status::SourceStatus;
use crate::tail::CHUNK;
use crate::tail::packed::Packing;
use crate::tail::split::{Piece, Splitter};

/// Inputs that are read once, one after the other. A name that ends in `.gz`, `.zst` or `.xz` is unpacked.
#[derive(Debug)]
pub struct Cat {
    inputs: Vec<Input>,
}

#[derive(Debug)]
struct Input {
    path: PathBuf,
    origin: Arc<Origin>,
    standard: bool,
}

impl Cat {
    /// The files that match now.
    pub fn new(files: &Files) -> Self {
        let inputs = files.matching().into_iter().map(|path| Input {
            origin: Arc::new(Origin { generation: content(&path), ..files.origin(&path) }),
            path,
            standard: false,
        });
        Self { inputs: inputs.collect() }
    }

    /// Standard input. `files` says what its lines have in common.
    pub fn standard_input(files: &Files) -> Self {
        let path = PathBuf::from("-");
        Self { inputs: vec![Input { origin: Arc::new(files.origin(&path)), path, standard: true }] }
    }

    /// When the newest input was last written; `None` when nobody knows.
    pub fn newest(&self) -> Option<Timestamp> {
        let written = |input: &Input| std::fs::metadata(&input.path).ok()?.modified().ok();
        Timestamp::try_from(self.inputs.iter().filter_map(written).max()?).ok()
    }

    /// How many bytes there are to read; `None` where nobody can know.
    pub fn total(&self) -> Option<u64> {
        let len = |input: &Input| match std::fs::metadata(&input.path).ok()? {
            metadata if metadata.is_file() => Some(metadata.len()),
            metadata => metadata.is_dir().then_some(0),
        };
        self.inputs.iter().map(len).sum()
    }
}

/// The number of a file's content: the same whenever the same file is read.
fn content(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| crate::tail::rotate::first_generation(&metadata))
}

impl Datasource for Cat {
    /// An input that cannot be read is red, and the others are read.
    fn run(&mut self, bell: &Arc<Bell>, out: &mut Outlet) -> Result<(), SourceError> {
        out.status().set_watching();
        out.status().total.set(self.total().unwrap_or(0));
        for input in self.inputs.drain(..) {
            match input.read(bell, out) {
                Ok(()) => {}
                Err(error @ SourceError::Read { .. }) => {
                    warn!(%error, "file skipped");
                    out.status().red(&input.path.to_string_lossy(), error.to_string(), error.remedy());
                }
                Err(error) => return Err(error),
            }
            if bell.stopped() {
                break;
            }
        }
        out.idle()
    }
}

impl Input {
    fn read(&self, bell: &Bell, out: &mut Outlet) -> Result<(), SourceError> {
        let failed = |error| SourceError::Read { path: self.path.clone(), error };
        let file = if self.standard {
            File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?)
        } else {
            File::open(&self.path).map_err(failed)?
        };
        // A pipe may have nothing now and more later.
        let waiting = file.try_clone().map_err(failed)?;
        let counted = Counted { file, status: out.shared_status() };
        let mut source: Box<dyn Read> = match Packing::named(&self.path) {
            Some(packing) => packing.unpack(counted).map_err(failed)?,
            None => Box::new(counted),
        };
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while !bell.stopped() {
            if self.standard && !bell.wait(Some(waiting.as_fd()), Some(Duration::ZERO)).map_err(failed)? {
                out.idle()?;
                bell.wait(Some(waiting.as_fd()), None).map_err(failed)?;
                continue;
            }
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            let time = Timestamp::now();
            splitter.push(&buffer[..count], offset, |piece| self.line(&piece, time, out));
            offset += count as u64;
            if out.is_full() {
                out.send()?;
            }
        }
        splitter.finish(|piece| self.line(&piece, Timestamp::now(), out));
        Ok(())
    }

    fn line(&self, piece: &Piece<'_>, time: Timestamp, out: &mut Outlet) {
        out.bytes(piece.bytes, &self.origin, time, piece.start);
    }
}

/// Counts what is read, before it is unpacked: the progress.
struct Counted {
    file: File,
    status: Arc<SourceStatus>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.status.bytes.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::*;
    use crate::acquisition::file::PathPattern;
    use crate::acquisition::queue::single;

    #[test]
    fn files_are_read_in_order_unpacked_and_to_their_last_byte() {
        let folder = TempDir::new().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let mut packed = GzEncoder::new(File::create(path("a.gz")).expect("a file"), flate2::Compression::fast());
        packed.write_all(b"one\r\n\ntwo").expect("room on the disk");
        packed.finish().expect("room on the disk");
        std::fs::write(path("b"), "three\nfour").expect("room on the disk");
        std::fs::write(path("c.gz"), "not packed").expect("room on the disk");
        std::fs::create_dir(path("d")).expect("room on the disk");
        std::fs::write(path("e"), "five\n").expect("room on the disk");
        let pattern = PathPattern::new(&path("*").to_string_lossy()).expect("a valid pattern");
        let files = Files { patterns: vec![pattern], exclude: Vec::new(), labels: Vec::new(), time_machine: true };

        let status = Arc::new(SourceStatus::default());
        let (sender, receiver) = single(10);
        let mut out = Outlet::new(0, sender, Arc::clone(&status));
        let mut cat = Cat::new(&files);
        cat.run(&Arc::new(Bell::new().expect("a descriptor is left")), &mut out).expect("somebody listens");
        drop(out);
        let lines = receiver.iter().flat_map(|batch| batch.lines);
        let lines: Vec<(Box<str>, u64)> = lines.map(|line| (line.raw, line.offset)).collect();
        let expected = [("one", 0), ("two", 6), ("three", 0), ("four", 6), ("five", 0)];
        assert_eq!(lines, expected.map(|(text, offset)| (text.into(), offset)));
        let report = status.report();
        let red: Vec<&str> =
            report.trouble.iter().map(|trouble| trouble.about.rsplit('/').next().unwrap_or("")).collect();
        assert_eq!(red, ["c.gz", "d"]);
        assert!(report.bytes > 0 && report.total >= report.bytes, "{report:?}");
    }
}
