//! One file that is followed.
//!
//! Each read begins a little before the place where reading stands, so that one system call says both whether
//! the content behind us is still the one we read (a truncated file may have regrown) and what is new. Nothing
//! here waits: whoever calls knows when.

pub mod checkpoint;
pub mod packed;
pub mod rotate;
pub mod split;
pub mod watch;

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use model::Origin;
use model::line::MAX_LINE;

use self::checkpoint::FilePlace;
use self::rotate::{Age, FileId, PRINT_LEN, Print};
use self::split::{Piece, Splitter};
use crate::acquisition::{Outlet, Place, SourceError, Step};

/// How much is read at once.
pub const CHUNK: usize = 64 * 1024;

/// The length of the buffer that [`Tail::read`] wants.
pub const BUFFER: usize = PRINT_LEN + CHUNK;

/// How long a line may stay without its end. Then it is handed out as it is (what follows is a line of its own),
/// so that the last words of a program that writes the line feed first, or died, are heard.
pub const PARTIAL_LIMIT: Duration = Duration::from_secs(5);

/// A file that was written so long ago is as its length and time say.
const SETTLED: Duration = Duration::from_secs(1);

/// A file and where reading stands in it.
#[derive(Debug)]
pub struct Tail {
    path: Arc<Path>,
    /// `None` while it rests: there are more files than may be open.
    file: Option<File>,
    id: FileId,
    born: Option<Timestamp>,
    /// When this content began, if the file is older.
    since: Option<Timestamp>,
    /// When the file was written as it was last looked at.
    written: Option<SystemTime>,
    origin: Arc<Origin>,
    splitter: Splitter,
    seen: u64,
    /// Up to here the file was written while nobody read.
    backlog_end: u64,
    /// The first bytes of the file.
    head: Vec<u8>,
    /// The bytes before `seen`.
    recent: Vec<u8>,
    /// When it last grew.
    grown: Instant,
    /// Whether the NULs that a writer without append mode leaves after a truncation are being skipped.
    hole: bool,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// There may be more.
    More,
    /// That was all for now.
    End,
    /// The content before the place where we stand is another one: the file was truncated.
    Truncated,
}

impl Tail {
    /// Follows `file` from its beginning. `origin` says which generation of the content it is. What it holds now counts
    /// as backlog if `backlog` says so.
    pub fn from_start(path: &Path, file: File, origin: Origin, backlog: bool) -> io::Result<Self> {
        let end = if backlog { file.metadata()?.len() } else { 0 };
        Self::new(path, file, origin, 0, 0, end)
    }

    /// Follows `file` from its end: from the first byte of the line that is being written.
    pub fn from_end(path: &Path, file: File, origin: Origin) -> io::Result<Self> {
        let end = file.metadata()?.len();
        let mut last = vec![0; MAX_LINE.min(end.try_into().unwrap_or(MAX_LINE))];
        let start = end - last.len() as u64;
        file.read_exact_at(&mut last, start)?;
        let open_line = memchr::memrchr(b'\n', &last).map_or(0, |newline| newline + 1);
        let offset = if open_line == 0 && start > 0 { end } else { start + open_line as u64 };
        // What was born before that did not follow it, but lay beside it: copies of what it held earlier.
        let since = file.metadata()?.modified().ok().and_then(|written| Timestamp::try_from(written).ok());
        Ok(Self { since, ..Self::new(path, file, origin, offset, end, 0)? })
    }

    /// Goes on at `place`, which must have been found to match `file`. Fails with [`io::ErrorKind::UnexpectedEof`] if the
    /// content is another one by now.
    pub fn resume(path: &Path, file: File, origin: Origin, place: &FilePlace, backlog: bool) -> io::Result<Self> {
        let end = if backlog { file.metadata()?.len() } else { 0 };
        let origin = Origin { generation: place.generation, ..origin };
        let mut tail = Self::new(path, file, origin, place.offset.min(place.seen), place.seen, end)?;
        // What was read just now is what was read before only if nobody has emptied the file meanwhile.
        if !place.matches(tail.file()?)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { since: place.since, ..tail })
    }

    fn new(path: &Path, file: File, origin: Origin, offset: u64, checked: u64, backlog_end: u64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let mut head = vec![0; PRINT_LEN.min(checked.try_into().unwrap_or(PRINT_LEN))];
        file.read_exact_at(&mut head, 0)?;
        let mut recent = vec![0; PRINT_LEN.min(offset.try_into().unwrap_or(PRINT_LEN))];
        let before = offset - recent.len() as u64;
        file.read_exact_at(&mut recent, before)?;
        Ok(Self {
            path: path.into(),
            id: FileId::of(&metadata),
            file: Some(file),
            born: checkpoint::born(&metadata),
            since: None,
            written: None,
            origin: Arc::new(origin),
            splitter: Splitter::default(),
            seen: offset,
            backlog_end,
            head,
            recent,
            grown: Instant::now(),
            hole: false,
        })
    }

    /// The path under which it is followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It has another name now.
    pub fn renamed(&mut self, path: &Path) {
        self.path = path.into();
        self.origin = Arc::new(Origin { src: path.to_string_lossy().into(), ..(*self.origin).clone() });
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The file, opened anew if it rested. Fails when it is nowhere to be found any more.
    pub fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let same = |file: &File| file.metadata().is_ok_and(|metadata| FileId::of(&metadata) == self.id);
            let file = match rotate::open(&self.path) {
                Ok(file) if same(&file) => file,
                _ => rotate::find(&self.place())
                    .filter(|found| found.age.id == self.id && found.packing.is_none())
                    .map(|found| found.file)
                    .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it went away while it was not open"))?,
            };
            self.file = Some(file);
        }
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Closes the file until it is needed again.
    pub fn rest(&mut self) {
        self.file = None;
    }

    /// What the system knows of the file.
    pub fn metadata(&mut self) -> io::Result<Metadata> {
        self.file()?.metadata()
    }

    /// Its age, with that of the content.
    pub fn age(&mut self) -> io::Result<Age> {
        Ok(Age::of(&self.metadata()?, false).since(self.since))
    }

    /// Says when the present content began.
    pub fn began(&mut self, since: Option<Timestamp>) {
        self.since = since.or(self.since);
    }

    /// Whether the file that `metadata` describes is this one, and was read as it is. What was written within the last
    /// moments is not believed: a clock of a file system is coarse.
    pub fn is_unchanged(&self, metadata: &Metadata) -> bool {
        let settled = |written: SystemTime| written.elapsed().is_ok_and(|since| since > SETTLED);
        metadata.len() == self.seen
            && metadata.modified().is_ok_and(|written| Some(written) == self.written && settled(written))
    }

    /// Remembers how the file was just before it is read to its end.
    pub fn looked_at(&mut self, metadata: &Metadata) {
        self.written = metadata.modified().ok();
    }

    /// How many bytes were read.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// How many bytes were written but not read.
    pub fn lag(&self) -> u64 {
        let len = |file: &File| file.metadata().ok().map(|metadata| metadata.len());
        self.file.as_ref().and_then(len).map_or(0, |len| len.saturating_sub(self.seen))
    }

    /// For how long it has not grown.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.grown)
    }

    /// Whether the file has no name any more.
    pub fn is_deleted(&mut self) -> bool {
        match self.metadata() {
            Ok(metadata) => metadata.nlink() == 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// When the line that has not ended is handed out; `None` when there is none.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.splitter.is_empty()).then(|| self.grown + PARTIAL_LIMIT)
    }

    /// Where reading stands.
    pub fn place(&self) -> FilePlace {
        FilePlace {
            path: Arc::clone(&self.path),
            id: self.id,
            generation: self.origin.generation,
            offset: self.splitter.line_start(self.seen),
            seen: self.seen,
            head: Print::of(&self.head),
            recent: Print::of(&self.recent),
            born: self.born,
            since: self.since,
        }
    }

    /// Reads at most [`CHUNK`] bytes and adds their lines to `out`. `buffer` has [`BUFFER`] bytes of room.
    pub fn read(&mut self, buffer: &mut [u8], out: &mut Outlet) -> Result<Read, SourceError> {
        let known = self.recent.len();
        let mut room = buffer.len();
        if self.seen < self.backlog_end {
            room = room.min(known + usize::try_from(self.backlog_end - self.seen).unwrap_or(CHUNK));
        }
        let from = self.seen - known as u64;
        let window = loop {
            match self.file().and_then(|file| file.read_at(&mut buffer[..room], from)) {
                Ok(count) => break &buffer[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What a network file system has lost is found again by its name.
                    self.file = None;
                    return Err(SourceError::Read { path: self.path.to_path_buf(), error });
                }
            }
        };
        let Some(chunk) = window.strip_prefix(&*self.recent) else { return Ok(Read::Truncated) };
        if chunk.is_empty() {
            return Ok(Read::End);
        }
        out.set_backlog(self.seen < self.backlog_end)?;
        let start = self.seen;
        self.seen += chunk.len() as u64;
        self.grown = Instant::now();
        out.status().bytes.add(chunk.len() as u64);
        if self.head.len() < PRINT_LEN {
            let known = (self.head.len() as u64).saturating_sub(start) as usize;
            let new = chunk.get(known..).unwrap_or_default();
            self.head.extend_from_slice(&new[..new.len().min(PRINT_LEN - self.head.len())]);
        }
        let mut text_from = 0;
        if self.hole {
            text_from = chunk.iter().position(|byte| *byte != 0).unwrap_or(chunk.len());
            self.hole = text_from == chunk.len();
        }
        let mut lines = Lines { origin: &self.origin, time: Timestamp::now(), out };
        self.splitter.push(&chunk[text_from..], start + text_from as u64, |piece| lines.add(&piece));
        self.recent.clear();
        self.recent.extend_from_slice(&window[window.len().saturating_sub(PRINT_LEN)..]);
        out.step(Step::At(Place::File(self.place())));
        Ok(if window.len() == room { Read::More } else { Read::End })
    }

    /// Hands out the line that has not ended, if there is one.
    pub fn finish_line(&mut self, out: &mut Outlet) {
        if self.splitter.is_empty() {
            return;
        }
        let mut lines = Lines { origin: &self.origin, time: Timestamp::now(), out };
        self.splitter.finish(|piece| lines.add(&piece));
        out.step(Step::At(Place::File(self.place())));
    }

    /// Forgets the line that has not ended: another file goes on with it.
    pub fn forget_line(&mut self) {
        self.splitter.clear();
    }

    /// Begins anew at the first byte, after a truncation.
    pub fn restart(&mut self, out: &mut Outlet) {
        self.finish_line(out);
        let generation = self.origin.generation.wrapping_add(1);
        self.origin = Arc::new(Origin { generation, ..(*self.origin).clone() });
        self.seen = 0;
        self.backlog_end = 0;
        self.head.clear();
        self.recent.clear();
        self.hole = true;
        out.step(Step::At(Place::File(self.place())));
    }
}

/// Makes lines of pieces.
struct Lines<'a> {
    origin: &'a Arc<Origin>,
    time: Timestamp,
    out: &'a mut Outlet,
}

impl Lines<'_> {
    fn add(&mut self, piece: &Piece<'_>) {
        self.out.bytes(piece.bytes, self.origin, self.time, piece.start);
    }
}
