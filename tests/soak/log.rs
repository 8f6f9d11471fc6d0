//! One log: who writes it, and how it is rotated.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::Rng as _;
use rand::rngs::StdRng;

/// How a log is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// `a.log` becomes `a.log.1`, the others move up, a new one is created.
    Rename,
    /// The same, and the new one appears only with the next line.
    RenameLate,
    /// `a.log` is copied to `a.log.1` and truncated.
    CopyTruncate,
    /// `a.log` becomes `a.log.1`, which is compressed at once.
    Compress,
    /// `a.log` becomes `a.log-20261122-7`.
    Dated,
}

impl Rotation {
    const ALL: [Self; 5] = [Self::Rename, Self::RenameLate, Self::CopyTruncate, Self::Compress, Self::Dated];

    pub(crate) fn any(random: &mut StdRng) -> Self {
        Self::ALL[random.random_range(0..Self::ALL.len())]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rename => "rename",
            Self::RenameLate => "rename, created late",
            Self::CopyTruncate => "copytruncate",
            Self::Compress => "compress",
            Self::Dated => "dated",
        }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    number: usize,
    block: usize,
    /// Blocks that were begun, and lines of the last of them.
    begun: usize,
    line: usize,
    file: Option<File>,
    rotated: usize,
    /// Lines that count.
    pub(crate) written: usize,
    /// Lines between copy and truncation.
    pub(crate) destroyed: usize,
}

impl Log {
    pub(crate) fn new(folder: &Path, number: usize, block: usize) -> Self {
        let path = folder.join(format!("log{number}.log"));
        let file = Some(File::create(&path).expect("a writable folder"));
        Self { path, number, block, begun: 0, line: block, file, rotated: 0, written: 0, destroyed: 0 }
    }

    /// Writes `count` lines that count.
    pub(crate) fn write(&mut self, count: usize) {
        let mut text = String::new();
        for _ in 0..count {
            if self.line == self.block {
                self.begun += 1;
                self.line = 0;
            }
            let block = self.name(self.begun);
            self.line_of(&block, self.line, &mut text);
            self.line += 1;
        }
        self.written += count;
        self.append(&text);
    }

    /// Writes the rest of the block.
    pub(crate) fn complete(&mut self) {
        self.write(self.block - self.line);
    }

    /// The blocks so far.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = String> {
        (1..=self.begun).map(|block| self.name(block))
    }

    fn name(&self, block: usize) -> String {
        format!("{}-{block}", self.number)
    }

    fn line_of(&self, block: &str, line: usize, text: &mut String) {
        let now = jiff::Timestamp::now();
        let host = self.number + 1;
        writeln!(text, "{now:.6} host soak[{host}]: block={block} line={line} from=198.51.100.{host}").expect("a text");
    }

    fn append(&mut self, text: &str) {
        let file = self.file.get_or_insert_with(|| {
            OpenOptions::new().create(true).append(true).open(&self.path).expect("a writable folder")
        });
        file.write_all(text.as_bytes()).expect("room on the disk");
    }

    pub(crate) fn rotate(&mut self, rotation: Rotation, between: usize, random: &mut StdRng) {
        self.rotated += 1;
        match rotation {
            Rotation::Rename | Rotation::RenameLate | Rotation::Compress => {
                self.move_up();
                let first = self.beside(".1");
                if fs::rename(&self.path, &first).is_err() {
                    return;
                }
                // The writer learns of it a little later.
                self.write_some(random);
                self.file = None;
                if rotation != Rotation::RenameLate {
                    self.append("");
                }
                if rotation == Rotation::Compress {
                    compress(&first, &self.beside(".1.gz"));
                }
            }
            Rotation::Dated => {
                let dated = self.beside(&format!("-20261122-{:06}", self.rotated));
                if fs::rename(&self.path, dated).is_ok() {
                    self.write_some(random);
                    self.file = None;
                    self.append("");
                }
            }
            Rotation::CopyTruncate => {
                self.move_up();
                if fs::copy(&self.path, self.beside(".1")).is_err() {
                    return;
                }
                let mut text = String::new();
                let count = random.random_range(0..=between);
                for line in 0..count {
                    self.line_of("destroyed", line, &mut text);
                }
                // These say `destroyed` where others say `block`, so that no scenario wants them.
                self.append(&text.replace("block=", "between="));
                self.destroyed += count;
                self.file = Some(OpenOptions::new().append(true).open(&self.path).expect("it is there"));
                if let Some(file) = &self.file {
                    file.set_len(0).expect("it is ours");
                }
            }
        }
    }

    fn write_some(&mut self, random: &mut StdRng) {
        if self.file.is_some() && random.random_bool(0.5) {
            self.write(random.random_range(1..5));
        }
    }

    /// `.1` becomes `.2` and so on, compressed or not.
    fn move_up(&self) {
        let mut last = 1;
        while self.beside(&format!(".{last}")).exists() || self.beside(&format!(".{last}.gz")).exists() {
            last += 1;
        }
        for number in (1..last).rev() {
            for ending in ["", ".gz"] {
                let from = self.beside(&format!(".{number}{ending}"));
                if from.exists() {
                    fs::rename(from, self.beside(&format!(".{}{ending}", number + 1))).expect("a writable folder");
                }
            }
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(ending);
        name.into()
    }
}

fn compress(from: &Path, to: &Path) {
    let mut bytes = Vec::new();
    File::open(from).expect("it is there").read_to_end(&mut bytes).expect("it can be read");
    let mut encoder = GzEncoder::new(File::create(to).expect("a writable folder"), Compression::fast());
    encoder.write_all(&bytes).expect("room on the disk");
    encoder.finish().expect("room on the disk");
    fs::remove_file(from).expect("it is there");
}
