//! Alerts that wait on disk for an API elsewhere.
//!
//! An alert is written down before it is sent and struck off when it was taken, so neither an API that is away nor the end of this
//! process loses one. The folder holds a few segments, each a [`Log`]; whoever adds more than the limit allows loses the oldest
//! segment, and what was lost is counted. The identities of alerts are known until a mark behind them is kept: until then
//! the journal may make them again, and they must not be sent again.

pub mod outbox;

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use model::Alert;
use model::bytes::{Garbled, Reader, Writer};
use model::record::{decode_time, encode_time};
use serde::Serialize;
use tracing::warn;
use uuid::Uuid;

use crate::state::StateError;
use crate::state::log::{self, Damage, Format, Log};

/// What segments are.
const FORMAT: Format = Format { kind: "spool", version: 1 };
/// What their names begin with; the number of their first alert follows.
const NAME: &str = "spool.";
/// A segment is this part of the limit, or so many bytes if that is less: as much is lost at once when the limit is reached.
const PARTS: u64 = 8;
const LARGEST: u64 = 16 << 20;
/// More than what surrounds an alert in a segment, and a note of progress.
const SMALL: u64 = 200;
/// Smallest limit in bytes.
pub const LEAST: u64 = 64 << 10;

/// Alerts on disk, oldest first.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    /// Most bytes of all segments together.
    limit: u64,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    log: Log,
    /// Whether something was added that may not survive the end of the machine.
    unsynced: bool,
    waiting: VecDeque<Entry>,
    /// Alerts that may be made again, and their numbers.
    known: HashMap<Uuid, u64>,
    /// Number of the next alert.
    next: u64,
    counts: Counts,
    scratch: Writer,
}

/// One file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Number of its first alert, which is in its name.
    first: u64,
    bytes: u64,
}

/// An alert that waits.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    /// When it came.
    since: Timestamp,
    /// In which segment.
    segment: u64,
    /// Where its JSON stands in it.
    at: u64,
    len: usize,
}

/// What became of alerts since the folder is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Those that the API took.
    pub delivered: u64,
    /// Those that it will never take; they are set aside.
    pub refused: u64,
    /// Those for which there was no room, and those that could not be read again.
    pub dropped: u64,
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpoolReport {
    /// How many alerts wait.
    pub waiting: u64,
    /// Since when the oldest one does.
    pub since: Option<Timestamp>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Most bytes on disk.
    pub limit: u64,
    /// What became of the others.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What a record says.
enum Record<'a> {
    Alert {
        number: u64,
        since: Timestamp,
        uuid: Uuid,
        json: &'a [u8],
    },
    /// Everything before a number is done.
    Progress {
        done: u64,
        counts: Counts,
    },
    /// One that waited is not to be sent.
    Withdrawn(u64),
}

impl Spool {
    /// Opens what `folder` holds; second, what of it was lost, a sentence each. A segment of a newer program is an error, and
    /// nothing was touched.
    pub fn open(folder: &Path, limit: u64) -> Result<(Self, Vec<String>), StateError> {
        let limit = limit.max(LEAST);
        let cannot = |error| StateError::Read { path: folder.to_path_buf(), error };
        let mut firsts = segments(folder).map_err(cannot)?;
        firsts.sort_unstable();
        let mut losses = Vec::new();
        let mut found = Found::default();
        for first in firsts {
            let path = path(folder, first);
            let Some(contents) = log::read(&path, FORMAT)? else { continue };
            found.segment(first, &contents);
            if let Some(Damage { at, .. }) = contents.damage {
                losses.push(format!("`{}` is damaged from byte {at} on: alerts after that are lost", path.display()));
            }
        }
        let Found { mut segments, mut waiting, known, next, done, mut counts, withdrawn, garbled } = found;
        counts.dropped += garbled;
        waiting.retain(|entry| entry.number >= done && !withdrawn.contains(&entry.number));
        // Its first number must be new, also when the newest segment holds no alert.
        let next = next.max(segments.back().map_or(1, |segment| segment.first + 1));
        let log = Log::create(&path(folder, next), FORMAT).map_err(cannot)?;
        segments.push_back(Segment { first: next, bytes: log.bytes() });
        let mut spool = Self {
            folder: folder.to_path_buf(),
            limit,
            segments,
            log,
            unsynced: false,
            waiting,
            known,
            next,
            counts,
            scratch: Writer::default(),
        };
        spool.note_progress().map_err(cannot)?;
        Ok((spool, losses))
    }

    /// Adds alerts at `now`, but those that are known already: after an error, when some may have been added, it may be called
    /// again. Where there is no room the oldest ones are dropped, and counted.
    pub fn add(&mut self, alerts: &[Alert], now: Timestamp) -> io::Result<()> {
        for alert in alerts {
            let uuid = Uuid::parse_str(&alert.uuid).unwrap_or_default();
            if !uuid.is_nil() && self.known.contains_key(&uuid) {
                continue;
            }
            let json = serde_json::to_vec(alert)?;
            if json.len() as u64 >= self.segment() / 2 {
                warn!(
                    scenario = alert.scenario,
                    bytes = json.len(),
                    "dropped an alert that is larger than what may wait"
                );
                self.counts.dropped += 1;
                self.note_progress()?;
                continue;
            }
            if self.log.bytes() + json.len() as u64 > self.segment() {
                self.begin_segment()?;
            }
            if self.make_room(json.len() as u64 + SMALL) {
                self.note_progress()?;
            }
            let number = self.next;
            encode_alert(&mut self.scratch, number, now, uuid);
            self.log.append(&[self.scratch.as_slice(), &json])?;
            self.unsynced = true;
            self.next += 1;
            let segment = self.segments.back_mut().map_or(number, |segment| {
                segment.bytes = self.log.bytes();
                segment.first
            });
            let at = self.log.bytes() - json.len() as u64;
            self.waiting.push_back(Entry { number, since: now, segment, at, len: json.len() });
            if !uuid.is_nil() {
                self.known.insert(uuid, number);
            }
        }
        Ok(())
    }

    /// The oldest alerts that wait, at most `count` of them and hardly more than `bytes`, with their numbers. One that cannot be
    /// read again is dropped, and counted.
    pub fn oldest(&mut self, count: usize, bytes: usize) -> Vec<(u64, Alert)> {
        let mut all: Vec<(u64, Alert)> = Vec::new();
        let (mut lost, mut len) = (Vec::new(), 0);
        let mut open: Option<(u64, File)> = None;
        for entry in self.waiting.iter().take(count) {
            len += entry.len;
            if len > bytes && !all.is_empty() {
                break;
            }
            match read(&self.folder, &mut open, *entry) {
                Ok(alert) => all.push((entry.number, alert)),
                Err(error) => {
                    warn!(%error, "an alert that waited cannot be read again and is lost");
                    lost.push(entry.number);
                }
            }
        }
        self.waiting.retain(|entry| !lost.contains(&entry.number));
        self.counts.dropped += lost.len() as u64;
        all
    }

    /// Strikes off everything up to the alert `last`; `refused` of these will never be taken. After an error it is struck off,
    /// but a sudden end would not know.
    pub fn finish(&mut self, last: u64, refused: u64) -> io::Result<()> {
        let mut done = 0;
        while self.waiting.front().is_some_and(|entry| entry.number <= last) {
            self.waiting.pop_front();
            done += 1;
        }
        self.counts.refused += refused;
        self.counts.delivered += u64::saturating_sub(done, refused);
        self.note_progress()
    }

    /// Takes an alert back that was not sent yet; whether it was there.
    pub fn withdraw(&mut self, uuid: &str) -> io::Result<bool> {
        let number = Uuid::parse_str(uuid).ok().and_then(|uuid| self.known.get(&uuid).copied());
        let Some(at) = number.and_then(|number| self.waiting.iter().position(|entry| entry.number == number)) else {
            return Ok(false);
        };
        let Some(entry) = self.waiting.remove(at) else { return Ok(false) };
        self.scratch.clear();
        self.scratch.number(2);
        self.scratch.number(entry.number);
        self.append_scratch()?;
        Ok(true)
    }

    /// Says that alerts before the number `covered` will not be made again: what is done of them needs no remembering.
    pub fn cover(&mut self, covered: u64) {
        let done = self.waiting.front().map_or(self.next, |entry| entry.number).min(covered);
        while let [first, second, ..] = *self.segments.make_contiguous()
            && second.first <= done
        {
            self.forget(first);
        }
    }

    /// Number of the next alert: all before it are written down.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether no alert waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What has to be synced for the end of the machine to lose nothing that was added; `None` when nothing has.
    pub fn unsynced(&mut self) -> io::Result<Option<File>> {
        Ok(if std::mem::take(&mut self.unsynced) { Some(self.log.file()?) } else { None })
    }

    /// How things are.
    pub fn report(&self) -> SpoolReport {
        SpoolReport {
            waiting: self.waiting.len() as u64,
            since: self.waiting.front().map(|entry| entry.since),
            bytes: self.bytes(),
            limit: self.limit,
            counts: self.counts,
        }
    }

    /// How many bytes a segment has at most.
    fn segment(&self) -> u64 {
        (self.limit / PARTS).min(LARGEST)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Drops the oldest segments until there is room for so many bytes more; whether alerts waited in them.
    fn make_room(&mut self, more: u64) -> bool {
        let mut lost = false;
        while self.bytes() + more > self.limit
            && let [first, second, ..] = *self.segments.make_contiguous()
        {
            let before = self.waiting.len();
            self.waiting.retain(|entry| entry.number >= second.first);
            let dropped = (before - self.waiting.len()) as u64;
            if dropped > 0 {
                lost = true;
                self.counts.dropped += dropped;
                warn!(dropped, limit = self.limit, "no room for more alerts that wait: the oldest ones are dropped");
            }
            self.forget(first);
        }
        lost
    }

    /// Deletes the oldest segment.
    fn forget(&mut self, segment: Segment) {
        // What cannot be deleted is read again at the next start, where it is found to be done.
        if let Err(error) = fs::remove_file(path(&self.folder, segment.first)) {
            warn!(%error, "cannot delete alerts that were sent");
        }
        self.segments.pop_front();
        let left = self.segments.front().map_or(self.next, |segment| segment.first);
        self.known.retain(|_, number| *number >= left);
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.log.sync()?;
        // An alert has the number of each segment but the first one after a start.
        if self.segments.back().is_some_and(|segment| segment.first == self.next) {
            return Ok(());
        }
        let log = Log::create(&path(&self.folder, self.next), FORMAT)?;
        self.log = log;
        self.segments.push_back(Segment { first: self.next, bytes: self.log.bytes() });
        self.note_progress()
    }

    /// Writes down what is done, for the next start.
    fn note_progress(&mut self) -> io::Result<()> {
        let done = self.waiting.front().map_or(self.next, |entry| entry.number);
        let Counts { delivered, refused, dropped } = self.counts;
        self.scratch.clear();
        for number in [1, done, delivered, refused, dropped] {
            self.scratch.number(number);
        }
        self.append_scratch()
    }

    fn append_scratch(&mut self) -> io::Result<()> {
        let result = self.log.append(&[self.scratch.as_slice()]);
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes = self.log.bytes();
        }
        result
    }
}

/// What was found at the start.
#[derive(Default)]
struct Found {
    segments: VecDeque<Segment>,
    waiting: VecDeque<Entry>,
    known: HashMap<Uuid, u64>,
    next: u64,
    done: u64,
    counts: Counts,
    withdrawn: Vec<u64>,
    garbled: u64,
}

impl Found {
    fn segment(&mut self, first: u64, contents: &log::Contents) {
        self.segments.push_back(Segment { first, bytes: contents.bytes() });
        for (end, record) in contents.ends().zip(contents.records()) {
            match decode(record) {
                Ok(Record::Alert { number, since, uuid, json }) => {
                    let at = end - json.len() as u64;
                    self.waiting.push_back(Entry { number, since, segment: first, at, len: json.len() });
                    if !uuid.is_nil() {
                        self.known.insert(uuid, number);
                    }
                    self.next = self.next.max(number + 1);
                }
                Ok(Record::Progress { done, counts }) => (self.done, self.counts) = (self.done.max(done), counts),
                Ok(Record::Withdrawn(number)) => self.withdrawn.push(number),
                Err(Garbled) => self.garbled += 1,
            }
        }
    }
}

fn encode_alert(record: &mut Writer, number: u64, since: Timestamp, uuid: Uuid) {
    record.clear();
    record.number(0);
    record.number(number);
    encode_time(since, record);
    record.fixed128(uuid.as_u128());
}

fn decode(record: &[u8]) -> Result<Record<'_>, Garbled> {
    let mut reader = Reader::new(record);
    match reader.number()? {
        0 => {
            let (number, since) = (reader.number()?, decode_time(&mut reader)?);
            let uuid = Uuid::from_u128(reader.fixed128()?);
            Ok(Record::Alert { number, since, uuid, json: reader.rest() })
        }
        1 => {
            let done = reader.number()?;
            let (delivered, refused, dropped) = (reader.number()?, reader.number()?, reader.number()?);
            Ok(Record::Progress { done, counts: Counts { delivered, refused, dropped } })
        }
        2 => Ok(Record::Withdrawn(reader.number()?)),
        _ => Err(Garbled),
    }
}

fn read(folder: &Path, open: &mut Option<(u64, File)>, entry: Entry) -> io::Result<Alert> {
    let file = match open {
        Some((segment, file)) if *segment == entry.segment => file,
        _ => &mut open.insert((entry.segment, File::open(path(folder, entry.segment))?)).1,
    };
    let mut json = vec![0; entry.len];
    file.read_exact_at(&mut json, entry.at)?;
    Ok(serde_json::from_slice(&json)?)
}

fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{NAME}{first:020}"))
}

/// The numbers in the names of the segments in `folder`.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_prefix(NAME)?.parse().ok());
        all.extend(number);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
