//! The rest of a file that rotation has compressed before it was read.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use model::Origin;

use crate::acquisition::{Outlet, Place, SourceError, Step};
use crate::tail::checkpoint::FilePlace;
use crate::tail::rotate::{FileId, Found, PRINT_LEN, Print};
use crate::tail::split::{Piece, Splitter};
use crate::tail::{CHUNK, packed};

/// Where reading stands in the content of a compressed file.
#[derive(Debug)]
pub(super) struct Packed {
    place: FilePlace,
    origin: Arc<Origin>,
    backlog: bool,
    splitter: Splitter,
    head: Vec<u8>,
    recent: Vec<u8>,
}

impl Packed {
    /// Stands at `place`, in the content of file `id` that had the name `path`.
    pub(super) fn new(id: FileId, path: &Path, place: &FilePlace, origin: Origin, backlog: bool) -> Self {
        Self {
            place: FilePlace { path: path.into(), id, ..place.clone() },
            origin: Arc::new(Origin { time_machine: origin.time_machine || backlog, ..origin }),
            backlog,
            splitter: Splitter::default(),
            head: Vec::new(),
            recent: Vec::new(),
        }
    }

    /// Reads what `found` holds behind the place. Damage ends it; what comes before the damage counts.
    pub(super) fn read(&mut self, found: &Found, out: &mut Outlet) -> Result<(), SourceError> {
        let failed = |error| SourceError::Read { path: found.path.clone(), error };
        let mut content = found.content().map_err(failed)?;
        out.set_backlog(self.backlog)?;
        // The line in which reading stood is read from its beginning.
        let start = self.place.offset;
        packed::pass(&mut content, start, |head, recent| {
            self.head.extend_from_slice(head);
            self.recent.extend_from_slice(recent);
        });
        self.place.seen = start;
        let mut buffer = vec![0; CHUNK];
        let ended = loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(failed(error)),
            };
            let chunk = &buffer[..count];
            let (origin, now, at) = (&self.origin, Timestamp::now(), self.place.seen);
            self.splitter.push(chunk, at, |piece| add(origin, now, &piece, out));
            self.place.seen += count as u64;
            if self.head.len() < PRINT_LEN {
                self.head.extend_from_slice(&chunk[..count.min(PRINT_LEN - self.head.len())]);
            }
            self.recent.extend_from_slice(&chunk[count.saturating_sub(PRINT_LEN)..]);
            self.recent.drain(..self.recent.len().saturating_sub(PRINT_LEN));
            out.status().bytes.add(count as u64);
            self.step(out);
            if out.is_full() {
                out.send()?;
            }
        };
        let (origin, now) = (&self.origin, Timestamp::now());
        self.splitter.finish(|piece| add(origin, now, &piece, out));
        self.step(out);
        ended
    }

    fn step(&self, out: &mut Outlet) {
        let offset = self.splitter.line_start(self.place.seen);
        let (head, recent) = (Print::of(&self.head), Print::of(&self.recent));
        out.step(Step::At(Place::File(FilePlace { offset, head, recent, ..self.place.clone() })));
    }
}

fn add(origin: &Arc<Origin>, now: Timestamp, piece: &Piece<'_>, out: &mut Outlet) {
    out.bytes(piece.bytes, origin, now, piece.start);
}
