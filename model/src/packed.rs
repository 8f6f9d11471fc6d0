//! The small form of what a bucket keeps of an event.
//!
//! Most events of one kind say the same but for a few words: a record says only in what it differs from the first one of
//! its kind, its *frame*. Fields are read where they lie; the line, which only alerts show, is put together again.

use std::iter;
use std::sync::Arc;

use expr::FieldId;
use jiff::Timestamp;

use crate::bytes::{Garbled, Reader, Writer, alike};
use crate::event::EventKind;
use crate::fields::FieldTable;
use crate::record::{decode_time, encode_time};
use crate::time::EventTime;

/// Most kinds of records that one packer tells apart at a time.
const FRAMES: usize = 16;
/// Longest text of a field that a frame keeps for others, in bytes.
const FIELD: usize = 64;
/// How much of its line a frame keeps for others, in bytes.
const LINE: usize = 256;

/// Before a field's text stands where it is: in the frame,
const FRAME: u64 = 0;
/// in an earlier field, whose number follows,
const EARLIER: u64 = 1;
/// or here: then it is this much more than its length.
const OWN: u64 = 2;
/// Is added to the nanoseconds of when a line was read, so that all take the same room: what a line takes, and who has to yield to
/// it, must not depend on when that was.
const ALIKE: u64 = 1 << 30;
/// Shortest text that is looked for in earlier fields, in bytes; and how many of these are looked at.
const WORTH: usize = 8;
const LOOKED_AT: usize = 16;

/// What the records that passed the same parsers have in common, and what the first of them said.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) table: Arc<FieldTable>,
    pub(crate) parsers: Arc<[Arc<str>]>,
    pub(crate) kind: EventKind,
    pub(crate) time_machine: bool,
    /// Sorted by field.
    fields: Box<[(FieldId, Box<str>)]>,
    line: Box<str>,
    /// Lengths of its words.
    words: Box<[u16]>,
}

/// What a record tells of an event beside what only few have.
pub(crate) struct Told<'a> {
    pub(crate) table: &'a Arc<FieldTable>,
    pub(crate) parsers: &'a Arc<[Arc<str>]>,
    pub(crate) kind: EventKind,
    pub(crate) time_machine: bool,
    /// Sorted by field.
    pub(crate) fields: &'a [(FieldId, &'a str)],
    pub(crate) rest: Rest,
    pub(crate) line: &'a str,
}

/// Where and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) offset: u64,
    pub(crate) read_at: Timestamp,
    pub(crate) time: Option<EventTime>,
}

/// Makes records small; knows the frames of late.
#[derive(Debug, Default)]
pub struct Packer {
    frames: Vec<Arc<Frame>>,
    /// Which frame makes room for the next one.
    next: usize,
    rest: Writer,
    out: Writer,
}

impl Packer {
    /// Forgets the frames: the next records are small by what comes from here on.
    pub fn begin(&mut self) {
        self.frames.clear();
        self.next = 0;
    }

    pub(crate) fn pack(&mut self, told: &Told<'_>) -> (Arc<Frame>, Box<[u8]>) {
        let frame = self.frame(told);
        let Self { rest, out, .. } = self;
        rest.clear();
        encode_rest(told.rest, rest);
        out.clear();
        // With its length in front: whoever looks for a field passes it in one step.
        out.bytes(rest.as_slice());
        out.number(told.fields.len() as u64);
        let mut known = frame.fields.iter().peekable();
        for (number, (field, text)) in told.fields.iter().enumerate() {
            out.number(field.0.into());
            while known.next_if(|(before, _)| before < field).is_some() {}
            if known.next_if(|(same, said)| same == field && alike(said.as_bytes(), text.as_bytes())).is_some() {
                out.number(FRAME);
            } else if let Some(other) = earlier(told.fields, number, text) {
                out.number(EARLIER);
                out.number(other as u64);
            } else {
                out.number(text.len() as u64 + OWN);
                out.raw(text.as_bytes());
            }
        }
        pack_line(told.line, frame.words(), out);
        (frame, out.as_slice().into())
    }

    fn frame(&mut self, told: &Told<'_>) -> Arc<Frame> {
        let known = self.frames.iter().find(|frame| {
            Arc::ptr_eq(&frame.parsers, told.parsers)
                && Arc::ptr_eq(&frame.table, told.table)
                && (frame.kind, frame.time_machine) == (told.kind, told.time_machine)
        });
        if let Some(frame) = known {
            return Arc::clone(frame);
        }
        let short = told.fields.iter().filter(|(_, text)| text.len() <= FIELD);
        let line = &told.line[..told.line.floor_char_boundary(LINE)];
        let frame = Arc::new(Frame {
            table: Arc::clone(told.table),
            parsers: Arc::clone(told.parsers),
            kind: told.kind,
            time_machine: told.time_machine,
            fields: short.map(|(field, text)| (*field, (*text).into())).collect(),
            line: line.into(),
            words: words(line.as_bytes()).map(|word| word.len() as u16).collect(),
        });
        if self.frames.len() < FRAMES {
            self.frames.push(Arc::clone(&frame));
        } else {
            self.frames[self.next] = Arc::clone(&frame);
            self.next = (self.next + 1) % FRAMES;
        }
        frame
    }
}

/// Which of the fields before `number` says the same: a time stands in several.
fn earlier(fields: &[(FieldId, &str)], number: usize, text: &str) -> Option<usize> {
    if text.len() < WORTH {
        return None;
    }
    fields[..number].iter().take(LOOKED_AT).position(|(_, other)| *other == text)
}

impl Frame {
    fn says(&self, field: FieldId) -> Option<&str> {
        let at = self.fields.binary_search_by_key(&field, |(field, _)| *field).ok()?;
        Some(&self.fields[at].1)
    }

    fn words(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.line.as_bytes();
        self.words.iter().map(move |length| {
            let (word, after) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
            rest = after.get(1..).unwrap_or(&[]);
            word
        })
    }

    /// The fields of a record of this frame, sorted.
    pub(crate) fn fields<'a>(&'a self, packed: &'a [u8]) -> Fields<'a> {
        let mut reader = Reader::new(packed);
        let left = reader.bytes().and_then(|_| reader.number()).unwrap_or(0);
        Fields { frame: self, packed, reader, left }
    }

    /// What else it says.
    pub(crate) fn rest(packed: &[u8]) -> Rest {
        let rest = Reader::new(packed).bytes().and_then(|rest| decode_rest(&mut Reader::new(rest)));
        rest.expect("what was packed unpacks")
    }

    /// What is kept of its line.
    pub(crate) fn line(&self, packed: &[u8]) -> String {
        unpack_line(self.words(), &mut self.fields(packed).skip_all()).expect("what was packed unpacks")
    }
}

fn encode_rest(rest: Rest, out: &mut Writer) {
    let Rest { offset, read_at, time } = rest;
    out.number(offset);
    out.signed(read_at.as_second());
    out.number(ALIKE + u64::from(read_at.subsec_nanosecond().unsigned_abs()));
    out.flag(time.is_some());
    if let Some(EventTime { instant, offset }) = time {
        encode_time(instant, out);
        out.signed(offset.into());
    }
}

fn decode_rest(reader: &mut Reader<'_>) -> Result<Rest, Garbled> {
    let (offset, second) = (reader.number()?, reader.signed()?);
    let nanos = reader.number()?.checked_sub(ALIKE).and_then(|nanos| i32::try_from(nanos).ok()).ok_or(Garbled)?;
    let read_at = Timestamp::new(second, nanos).map_err(|_| Garbled)?;
    let mut time = None;
    if reader.flag()? {
        let instant = decode_time(reader)?;
        time = Some(EventTime { instant, offset: i32::try_from(reader.signed()?).map_err(|_| Garbled)? });
    }
    Ok(Rest { offset, read_at, time })
}

/// The fields of a packed record with their texts.
pub(crate) struct Fields<'a> {
    frame: &'a Frame,
    packed: &'a [u8],
    reader: Reader<'a>,
    left: u64,
}

/// Where the text of a field is.
enum Place<'a> {
    Frame,
    Earlier(u64),
    Own(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn step(&mut self) -> Option<(FieldId, Place<'a>)> {
        self.left = self.left.checked_sub(1)?;
        let field = FieldId(self.reader.number32().ok()?);
        let place = match self.reader.number().ok()? {
            FRAME => Place::Frame,
            EARLIER => Place::Earlier(self.reader.number().ok()?),
            longer => Place::Own(self.reader.raw((longer - OWN) as usize).ok()?),
        };
        Some((field, place))
    }

    fn text(&self, field: FieldId, place: &Place<'a>) -> &'a str {
        match *place {
            Place::Frame => self.frame.says(field).unwrap_or(""),
            Place::Own(bytes) => std::str::from_utf8(bytes).unwrap_or(""),
            // The first of several that say the same refers to none.
            Place::Earlier(number) => {
                let mut fields = self.frame.fields(self.packed);
                for _ in 0..number {
                    fields.step();
                }
                fields.next().map_or("", |(_, text)| text)
            }
        }
    }

    /// The text of one field.
    pub(crate) fn get(mut self, wanted: FieldId) -> Option<&'a str> {
        while let Some((field, place)) = self.step() {
            if field >= wanted {
                return (field == wanted).then(|| self.text(field, &place));
            }
        }
        None
    }

    /// Those of which `wanted` answers yes: the texts of the others are not looked up.
    pub(crate) fn only(mut self, wanted: impl Fn(FieldId) -> bool) -> impl Iterator<Item = (FieldId, &'a str)> {
        iter::from_fn(move || {
            loop {
                let (field, place) = self.step()?;
                if wanted(field) {
                    return Some((field, self.text(field, &place)));
                }
            }
        })
    }

    fn skip_all(mut self) -> Reader<'a> {
        while self.step().is_some() {}
        self.reader
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (FieldId, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (field, place) = self.step()?;
        Some((field, self.text(field, &place)))
    }
}

/// Writes how many words are those of `known`, then the words up to the next such one, and so on.
fn pack_line<'k>(line: &str, mut known: impl Iterator<Item = &'k [u8]>, out: &mut Writer) {
    let line = line.as_bytes();
    let (mut at, mut same, mut others) = (0, 0, None);
    while let Some(rest) = line.get(at..) {
        let length = if let Some(word) = known.next().filter(|word| begins_with(rest, word)) {
            if let Some(start) = others.take() {
                out.bytes(&line[start..at - 1]);
            }
            same += 1;
            word.len()
        } else {
            if others.is_none() {
                out.number(same);
                (same, others) = (0, Some(at));
            }
            rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len())
        };
        at += length + 1;
    }
    match others {
        Some(start) => out.bytes(&line[start..]),
        None => out.number(same),
    }
}

/// Whether `word` is the first word of `text`.
fn begins_with(text: &[u8], word: &[u8]) -> bool {
    let Some((first, rest)) = text.split_at_checked(word.len()) else { return false };
    matches!(rest.first(), None | Some(b' ')) && alike(first, word)
}

/// Reads what [`pack_line`] wrote, to the end.
fn unpack_line<'k>(mut known: impl Iterator<Item = &'k [u8]>, reader: &mut Reader<'_>) -> Result<String, Garbled> {
    let mut line = Vec::with_capacity(LINE);
    while !reader.is_empty() {
        for _ in 0..reader.number()? {
            line.extend_from_slice(known.next().ok_or(Garbled)?);
            line.push(b' ');
        }
        if !reader.is_empty() {
            let others = reader.bytes()?;
            line.extend_from_slice(others);
            line.push(b' ');
            for _ in words(others) {
                known.next();
            }
        }
    }
    line.pop();
    String::from_utf8(line).map_err(|_| Garbled)
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn what_was_packed_unpacks(
            records in prop::collection::vec(
                (prop::collection::btree_map(0..6_u32, "[ab é]{0,3}|abcdefgh[ij]", 0..5), "[ab é]{0,12}", any::<u64>(), any::<bool>()),
                1..6,
            ),
        ) {
            let (table, parsers) = (Arc::<FieldTable>::default(), Arc::from([]));
            let mut packer = Packer::default();
            for (fields, line, offset, timed) in &records {
                let fields: Vec<(FieldId, &str)> =
                    fields.iter().map(|(field, text)| (FieldId(*field), text.as_str())).collect();
                let read_at = Timestamp::new((*offset >> 30) as i64, 5).expect("within the years that there are");
                let time = timed.then_some(EventTime { instant: read_at, offset: -3600 });
                let (frame, packed) = packer.pack(&Told {
                    table: &table,
                    parsers: &parsers,
                    kind: EventKind::Log,
                    time_machine: false,
                    fields: &fields,
                    rest: Rest { offset: *offset, read_at, time },
                    line,
                });
                prop_assert_eq!(&frame.fields(&packed).collect::<Vec<_>>(), &fields);
                let even = |field: FieldId| field.0.is_multiple_of(2);
                let some: Vec<_> = fields.iter().filter(|(field, _)| even(*field)).copied().collect();
                prop_assert_eq!(frame.fields(&packed).only(even).collect::<Vec<_>>(), some);
                for field in (0..7).map(FieldId) {
                    let text = fields.iter().find(|(known, _)| *known == field).map(|(_, text)| *text);
                    prop_assert_eq!(frame.fields(&packed).get(field), text);
                }
                let rest = Frame::rest(&packed);
                prop_assert_eq!((rest.offset, rest.read_at, rest.time), (*offset, read_at, time));
                prop_assert_eq!(&frame.line(&packed), line);
            }
        }
    }
}
