//! What the engine works on, written down before it does.
//!
//! Each round of the engine is a record: the moment, and its batches with their lines. The text is kept, not only where
//! it stood: a file may be truncated, compressed or deleted, and a socket cannot be read again. Nothing waits for the disk;
//! a segment lives until the next checkpoint, so most of it never gets there. After a `kill -9` the same rounds run again.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use model::bytes::{Garbled, Reader, Writer};
use model::record::{decode_origin, decode_time, encode_origin, encode_time};
use model::{LineRef, Origin};

use super::log::{self, Contents, Damage, Format, Log, StateError};
use crate::acquisition::Batch;
use crate::acquisition::lines::Lines;

/// What segments are.
pub(super) const FORMAT: Format = Format { kind: "journal", version: 2 };
/// What their names begin with; the number of the first round follows.
const NAME: &str = "journal.";

/// A round, as it is to be run again.
#[derive(Debug)]
pub struct Recorded {
    /// Its number.
    pub number: u64,
    /// When it ran.
    pub now: Timestamp,
    /// Its batches; [`Batch::source`] is an index into the names.
    pub batches: Vec<Batch>,
    /// Names of the datasources.
    pub names: Arc<[String]>,
}

/// The journal that is being written.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    log: Option<Log>,
    /// Number of the next round.
    next: u64,
    scratch: Writer,
}

impl Journal {
    /// A journal in `folder` whose next round has the number `next`. Nothing is written before [`Journal::begin`].
    pub(super) fn new(folder: &Path, next: u64) -> Self {
        Self { folder: folder.to_path_buf(), log: None, next, scratch: Writer::default() }
    }

    /// Number of the round that was added last.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// How many bytes the segment has; 0 while nothing is written down.
    pub fn bytes(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::bytes)
    }

    /// Begins a segment. `names` are those of the datasources, by number. After an error nothing is written down until
    /// it is called again.
    pub fn begin(&mut self, names: &[String]) -> io::Result<()> {
        self.log = None;
        let mut log = Log::create(&segment(&self.folder, self.next), FORMAT)?;
        self.scratch.clear();
        self.scratch.number(names.len() as u64);
        for name in names {
            self.scratch.text(name);
        }
        log.append(&[self.scratch.as_slice()])?;
        self.log = Some(log);
        Ok(())
    }

    /// Writes a round down, if the segment has less than `most` bytes. After an error nothing more is, since rounds
    /// without a gap are what counts.
    pub fn append(&mut self, now: Timestamp, batches: &[Batch], most: u64) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        let Some(log) = self.log.as_mut().filter(|log| log.bytes() < most) else {
            return match self.log.take() {
                Some(log) => {
                    Err(io::Error::other(format!("the journal has {} bytes and no mark can be kept", log.bytes())))
                }
                None => Ok(()),
            };
        };
        self.scratch.clear();
        self.scratch.number(number);
        encode_time(now, &mut self.scratch);
        self.scratch.number(batches.len() as u64);
        let mut ends = Vec::with_capacity(batches.len());
        for batch in batches {
            encode_batch(batch, &mut self.scratch);
            ends.push(self.scratch.as_slice().len());
        }
        // The texts go from where they lie into the file.
        let mut parts = Vec::with_capacity(1 + 2 * batches.len());
        let mut rest = 0;
        for (batch, end) in batches.iter().zip(ends) {
            parts.extend([&self.scratch.as_slice()[rest..end], batch.lines.text().as_bytes()]);
            rest = end;
        }
        parts.push(&self.scratch.as_slice()[rest..]);
        let written = log.append(&parts);
        if written.is_err() {
            self.log = None;
        }
        written
    }
}

fn segment(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{NAME}{first:020}"))
}

/// The segments in `folder`, oldest first, with the numbers of their first rounds.
fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(first) = name.and_then(|name| name.strip_prefix(NAME)?.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The segments that can be read, oldest first.
fn contents(folder: &Path) -> Result<Vec<Contents>, StateError> {
    let failed = |error| StateError::Read { path: folder.to_path_buf(), error };
    let mut found = Vec::new();
    for (_, path) in segments(folder).map_err(failed)? {
        found.extend(log::read(&path, FORMAT)?);
    }
    Ok(found)
}

/// Fails if a newer program wrote any of the segments.
pub(super) fn check(folder: &Path) -> Result<(), StateError> {
    contents(folder).map(|_| ())
}

/// Forgets the segments whose rounds a checkpoint holds: those that begin with a round up to `round`.
pub(super) fn forget(folder: &Path, round: u64) -> io::Result<()> {
    for (first, path) in segments(folder)? {
        if first <= round {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The rounds that were written down after a checkpoint.
#[derive(Debug, Default)]
pub struct Rounds {
    segments: Vec<Contents>,
    /// The last round that the checkpoint holds.
    after: u64,
    /// Where they stop being what was written.
    pub(super) damage: Vec<Damage>,
    /// How many rounds are missing between the checkpoint and the first of them.
    pub(super) gap: u64,
}

impl Rounds {
    /// Reads those after round `after`.
    pub(super) fn read(folder: &Path, after: u64) -> Result<Self, StateError> {
        let mut rounds = Self { after, ..Self::default() };
        for mut contents in contents(folder)? {
            rounds.damage.extend(contents.damage.take());
            rounds.segments.push(contents);
        }
        let first = rounds.all().map(|round| round.number).find(|number| *number > after);
        rounds.gap = first.map_or(0, |first| first - after - 1);
        Ok(rounds)
    }

    /// They, in order, up to the first gap.
    pub fn iter(&self) -> impl Iterator<Item = Recorded> {
        let mut next = self.after + 1;
        self.all().skip_while(|round| round.number <= self.after).map_while(move |round| {
            let wanted = round.number == next;
            next += 1;
            wanted.then_some(round)
        })
    }

    /// Keeps their numbers, and nothing else.
    pub(super) fn leave_out(&mut self) {
        self.after = self.last();
    }

    /// Number of the last round that was ever written down.
    pub(super) fn last(&self) -> u64 {
        self.all().map(|round| round.number).max().unwrap_or(0).max(self.after)
    }

    fn all(&self) -> impl Iterator<Item = Recorded> {
        self.segments.iter().flat_map(|segment| {
            let mut records = segment.records();
            let names = records.next().and_then(|names| decode_names(names).ok());
            records.filter_map(move |record| decode_round(record, names.as_ref()?).ok())
        })
    }
}

fn decode_names(bytes: &[u8]) -> Result<Arc<[String]>, Garbled> {
    let mut reader = Reader::new(bytes);
    (0..reader.count()?).map(|_| Ok(reader.text()?.to_owned())).collect()
}

fn decode_round(bytes: &[u8], names: &Arc<[String]>) -> Result<Recorded, Garbled> {
    let mut reader = Reader::new(bytes);
    let (number, now) = (reader.number()?, decode_time(&mut reader)?);
    let batches = (0..reader.count()?).map(|_| decode_batch(&mut reader)).collect::<Result<_, _>>()?;
    Ok(Recorded { number, now, batches, names: Arc::clone(names) })
}

/// All but the text of its lines, which follows.
fn encode_batch(batch: &Batch, out: &mut Writer) {
    let Batch { source, sequence, lines, backlog, caught_up, steps, read_at } = batch;
    out.number((*source).into());
    out.number(*sequence);
    out.flag(*backlog);
    out.flag(*caught_up);
    encode_time(*read_at, out);
    // Rare beside lines, and other kinds of places may come.
    out.bytes(&serde_json::to_vec(steps).expect("places are plain values"));
    let mut numbers: HashMap<*const Origin, u64> = HashMap::new();
    let mut origins: Vec<&Origin> = Vec::new();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut newest = None;
    for line in lines.iter() {
        // Most lines come from where the line before came from.
        let origin = Arc::as_ptr(line.origin);
        if newest == Some(origin) {
            if let Some((_, count)) = runs.last_mut() {
                *count += 1;
            }
            continue;
        }
        newest = Some(origin);
        let number = *numbers.entry(origin).or_insert_with(|| {
            origins.push(line.origin);
            origins.len() as u64 - 1
        });
        runs.push((number, 1));
    }
    out.number(origins.len() as u64);
    for origin in origins {
        encode_origin(origin, out);
    }
    out.number(runs.len() as u64);
    for (origin, count) in runs {
        out.number(origin);
        out.number(count);
    }
    let (mut offset, mut time) = (0_u64, None);
    for line in lines.iter() {
        out.signed(line.offset.wrapping_sub(offset) as i64);
        offset = line.offset;
        out.flag(time != Some(line.time));
        if time != Some(line.time) {
            encode_time(line.time, out);
            time = Some(line.time);
        }
        out.number(line.raw.len() as u64);
    }
    out.number(lines.bytes() as u64);
}

fn decode_batch(reader: &mut Reader<'_>) -> Result<Batch, Garbled> {
    let source = reader.number32()?;
    let sequence = reader.number()?;
    let (backlog, caught_up) = (reader.flag()?, reader.flag()?);
    let read_at = decode_time(reader)?;
    let steps = serde_json::from_slice(reader.bytes()?).map_err(|_| Garbled)?;
    let origins = (0..reader.count()?)
        .map(|_| decode_origin(reader).map(Arc::new))
        .collect::<Result<Vec<Arc<Origin>>, Garbled>>()?;
    let runs = (0..reader.count()?)
        .map(|_| Ok((reader.number()? as usize, reader.number()?)))
        .collect::<Result<Vec<_>, Garbled>>()?;
    let mut fronts = Vec::new();
    let (mut offset, mut time) = (0_u64, None);
    for (origin, count) in runs {
        let origin = origins.get(origin).ok_or(Garbled)?;
        for _ in 0..count {
            offset = offset.wrapping_add(reader.signed()? as u64);
            if reader.flag()? {
                time = Some(decode_time(reader)?);
            }
            fronts.push((origin, time.ok_or(Garbled)?, offset, reader.number()? as usize));
        }
    }
    let mut text = reader.text()?;
    let mut lines = Lines::with_capacity(text.len());
    for (origin, time, offset, len) in fronts {
        let (raw, rest) = text.split_at_checked(len).ok_or(Garbled)?;
        lines.push(LineRef { raw, origin, time, offset });
        text = rest;
    }
    Ok(Batch { source, sequence, lines, backlog, caught_up, steps, read_at })
}

#[cfg(test)]
mod tests {
    use model::Line;
    use tempfile::TempDir;

    use super::*;
    use crate::acquisition::{Place, Step};

    fn batch(sequence: u64) -> Batch {
        let origin = |src: &str, generation| {
            let labels = vec![("type".into(), "syslog".into())];
            let module = "file".into();
            Arc::new(Origin { src: src.into(), module, labels, generation, time_machine: false, spoofable: true })
        };
        let (a, b) = (origin("/a", u64::MAX), origin("/b", 1));
        let at = |nanos| Timestamp::new(1_772_856_306, nanos).expect("a valid test time");
        let line = |origin: &Arc<Origin>, time, offset, raw: &str| Line {
            raw: raw.into(),
            origin: Arc::clone(origin),
            time,
            offset,
        };
        let lines = [
            line(&a, at(1), 1000, "one"),
            line(&a, at(1), 1004, ""),
            line(&b, at(2), 7, "zwei \u{fffd}"),
            line(&a, at(0), 1005, "three"),
        ];
        let lines = lines.into_iter().collect();
        let steps = vec![Step::At(Place::Cursor("c".into()))];
        Batch { source: 1, sequence, lines, backlog: sequence == 1, caught_up: sequence == 2, steps, read_at: at(9) }
    }

    fn shown(rounds: &Rounds) -> Vec<(u64, String)> {
        rounds
            .iter()
            .map(|round| (round.number, format!("{:?} {:?} {:?}", round.now, round.batches, round.names)))
            .collect()
    }

    #[test]
    fn rounds_come_back_as_they_were_up_to_the_first_gap() {
        let folder = TempDir::new().expect("a temporary folder");
        let names = ["file:a".to_owned(), "file:b".to_owned()];
        let mut journal = Journal::new(folder.path(), 5);
        journal.begin(&names).expect("room on the disk");
        let now = Timestamp::new(1_772_856_307, 5).expect("a valid test time");
        journal.append(now, &[batch(0), batch(1)], u64::MAX).expect("room on the disk");
        journal.append(now, &[], u64::MAX).expect("room on the disk");
        journal.begin(&names).expect("room on the disk");
        journal.append(now, &[batch(2)], u64::MAX).expect("room on the disk");
        assert_eq!(journal.last(), 7);

        let told = |batches: &[Batch]| format!("{now:?} {batches:?} {names:?}");
        let all = [(5, told(&[batch(0), batch(1)])), (6, told(&[])), (7, told(&[batch(2)]))];
        for after in 4..8 {
            let rounds = Rounds::read(folder.path(), after).expect("they can be read");
            assert_eq!(shown(&rounds), all[after as usize - 4..], "after {after}");
            assert_eq!((rounds.gap, rounds.last()), (0, 7));
        }
        let rounds = Rounds::read(folder.path(), 2).expect("they can be read");
        assert_eq!((rounds.iter().count(), rounds.gap, rounds.last()), (0, 2, 7));

        forget(folder.path(), 6).expect("they can be removed");
        assert_eq!(shown(&Rounds::read(folder.path(), 6).expect("they can be read")), all[2..]);
        // A round that was being written when the end came.
        let path = segment(folder.path(), 7);
        let bytes = fs::read(&path).expect("it is there");
        fs::write(&path, &bytes[..bytes.len() - 1]).expect("room on the disk");
        let rounds = Rounds::read(folder.path(), 6).expect("they can be read");
        assert_eq!((rounds.iter().count(), rounds.damage.len(), rounds.last()), (0, 0, 6));
    }
}
