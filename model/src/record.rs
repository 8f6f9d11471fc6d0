//! What a bucket keeps of an event.
//!
//! One record serves all scenarios that an event is poured into; what it says is packed ([`crate::packed`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use expr::{Class, EvalError, FieldId, MapId, MemberId, MethodId, Object, Stored, Value};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::alert::{EventEvidence, RuntimeAlert};
use crate::bytes::{Garbled, Reader, Writer};
use crate::classes;
use crate::event::{Event, EventKind, stored_value};
use crate::fields::{self, FieldTable};
use crate::line::Origin;
use crate::packed::{Fields, Frame, Packer, Rest, Told};
use crate::time::EventTime;

/// The lasting part of an event: its text fields, time and place in the log.
#[derive(Clone, Debug)]
pub struct Record {
    frame: Arc<Frame>,
    packed: Box<[u8]>,
    origin: Arc<Origin>,
    rare: Option<Box<Rare>>,
}

/// What few events have.
#[derive(Clone, Debug, Default)]
struct Rare {
    /// Keys without a number, sorted by map and key.
    extra: Box<[Extra]>,
    unmarshaled: Box<[(String, Stored)]>,
    overflow: Option<Box<RuntimeAlert>>,
}

impl Rare {
    /// Boxed, if there is anything in it.
    fn boxed(self) -> Option<Box<Self>> {
        let empty = self.extra.is_empty() && self.unmarshaled.is_empty() && self.overflow.is_none();
        (!empty).then(|| Box::new(self))
    }
}

/// What `evt.Unmarshaled` holds under a key, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum StoredDump {
    Json(String),
    Pairs(Vec<(String, String)>),
}

impl From<&Stored> for StoredDump {
    fn from(stored: &Stored) -> Self {
        match stored {
            Stored::Json(value) => Self::Json(value.to_string()),
            Stored::Pairs(pairs) => Self::Pairs(pairs.clone()),
        }
    }
}

impl From<StoredDump> for Stored {
    fn from(dump: StoredDump) -> Self {
        match dump {
            StoredDump::Json(text) => Self::Json(serde_json::from_str(&text).unwrap_or_default()),
            StoredDump::Pairs(pairs) => Self::Pairs(pairs),
        }
    }
}

/// A key without a number, its map and its text.
type Extra = (MapId, Box<str>, Box<str>);

/// How much of the line `cordon why` shows.
const EVIDENCE: usize = 1024;

impl Record {
    /// A record of the fields of `event` for which `live` answers yes. `unmarshaled` says whether
    /// `evt.Unmarshaled` is kept; `parsers` names the parsers that succeeded on it.
    pub fn new(
        event: &Event,
        live: impl Fn(FieldId) -> bool,
        unmarshaled: bool,
        parsers: &Arc<[Arc<str>]>,
        packer: &mut Packer,
    ) -> Self {
        let table = event.table();
        let mut kept: SmallVec<[(FieldId, &str); 32]> = SmallVec::new();
        event.touched_since(0, |field| {
            if live(field)
                && let Some(text) = event.get(field)
            {
                kept.push((field, text));
            }
        });
        kept.sort_unstable_by_key(|(field, _)| *field);
        let named =
            event.unnumbered().filter(|(map, ..)| [fields::META, fields::PARSED, fields::ENRICHED].contains(map));
        let mut extra: Vec<Extra> = named.map(|(map, key, text)| (map, key.into(), text.into())).collect();
        extra.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let keys = if unmarshaled { event.unmarshaled_keys() } else { Vec::new() };
        let unmarshaled =
            keys.into_iter().filter_map(|key| Some((key.to_owned(), event.unmarshaled(key)?.clone()))).collect();
        let (frame, bytes) = packer.pack(&Told {
            table,
            parsers,
            kind: event.kind(),
            time_machine: event.time_machine(),
            fields: &kept,
            rest: Rest { offset: event.offset(), read_at: event.read_at(), time: event.time() },
            line: cut(event.raw(), EVIDENCE),
        });
        let rare = Rare { extra: extra.into(), unmarshaled, overflow: event.overflow().cloned().map(Box::new) };
        Self { frame, packed: bytes, origin: Arc::clone(event.origin()), rare: rare.boxed() }
    }

    /// The text of a field that was live.
    pub fn get(&self, field: FieldId) -> Option<&str> {
        self.fields().get(field)
    }

    fn fields(&self) -> Fields<'_> {
        self.frame.fields(&self.packed)
    }

    fn rest(&self) -> Rest {
        Frame::rest(&self.packed)
    }

    /// All entries of a string map, sorted by key.
    pub fn entries_of(&self, map: MapId) -> Vec<(&str, &str)> {
        let table = &self.frame.table;
        let slots = self.fields().only(|field| table.name(field).0 == map);
        let slots = slots.map(|(field, text)| (table.name(field).1, text));
        let extra = self.extra().iter().filter(|(of, _, _)| *of == map).map(|(_, key, value)| (&**key, &**value));
        let mut entries: Vec<_> = slots.chain(extra).collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        entries
    }

    /// The event's time.
    pub fn time(&self) -> Option<EventTime> {
        self.rest().time
    }

    /// Kind of the event.
    pub fn kind(&self) -> EventKind {
        self.frame.kind
    }

    /// Whether buckets follow the time in the log.
    pub fn time_machine(&self) -> bool {
        self.frame.time_machine
    }

    /// The overflow that the event carried.
    pub fn overflow(&self) -> Option<&RuntimeAlert> {
        self.rare.as_ref()?.overflow.as_deref()
    }

    fn extra(&self) -> &[Extra] {
        self.rare.as_ref().map_or(&[], |rare| &rare.extra)
    }

    fn unmarshaled(&self) -> &[(String, Stored)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.unmarshaled)
    }

    fn raw(&self) -> String {
        self.frame.line(&self.packed)
    }

    /// The address it is about, if `Meta.source_ip` is one.
    pub fn source_ip(&self) -> Option<IpAddr> {
        self.meta("source_ip").parse().ok()
    }

    /// `evt.GetMeta`.
    fn meta(&self, key: &str) -> &str {
        match (self.kind(), self.overflow()) {
            (EventKind::Log, _) => self.slot_named(fields::META, key).unwrap_or(""),
            (EventKind::Overflow, Some(overflow)) => overflow.meta(key),
            _ => "",
        }
    }

    /// Where the line stands.
    pub fn evidence(&self) -> EventEvidence {
        EventEvidence {
            source: self.origin.src.to_string(),
            offset: self.rest().offset,
            raw: self.raw(),
            parsers: self.frame.parsers.iter().map(ToString::to_string).collect(),
        }
    }

    /// The datasource's name, its generation and the line's offset in it: its place in the log.
    pub fn place(&self) -> (&str, u64, u64) {
        (&self.origin.src, self.origin.generation, self.rest().offset)
    }

    /// Whether anybody could have made it in anybody's name: [`Origin::spoofable`], or an overflow that rests on such.
    pub fn spoofable(&self) -> bool {
        self.origin.spoofable || self.overflow().is_some_and(|overflow| overflow.alert.spoofable())
    }

    /// Bytes it occupies behind an `Arc`, for the byte budget: what the allocator adds to each piece included.
    pub fn bytes(&self) -> usize {
        const PIECE: usize = 16;
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let extra: usize = rare.extra.iter().map(|(_, key, value)| 40 + key.len() + value.len() + 2 * PIECE).sum();
            let stored: usize =
                rare.unmarshaled.iter().map(|(key, stored)| 56 + key.len() + PIECE + stored_bytes(stored)).sum();
            let overflow = rare.overflow.as_ref().map_or(0, |overflow| overflow_bytes(overflow));
            size_of::<Rare>() + PIECE + extra + stored + overflow
        });
        size_of::<Self>() + PIECE + self.packed.len() + PIECE / 2 + rare
    }
}

/// What many records have in common, while they are written: it is written once.
#[derive(Debug, Default)]
pub struct Sharing {
    origins: HashMap<*const Origin, u64>,
    parsers: HashMap<*const Arc<str>, u64>,
}

/// The same, while they are read.
#[derive(Debug)]
pub struct Shared {
    table: Arc<FieldTable>,
    /// By the number in the writer's table: the number in ours, or the name of what we have none for.
    fields: Vec<Result<FieldId, (MapId, Box<str>)>>,
    origins: Vec<Arc<Origin>>,
    parsers: Vec<Arc<[Arc<str>]>>,
    packer: Packer,
}

/// The version of what [`Record::encode`] and [`encode_fields`] write. Whoever keeps it on disk keeps this too.
pub const ENCODING: u32 = 1;

/// Writes the numbering of `table`, which [`Shared::new`] needs.
pub fn encode_fields(table: &FieldTable, out: &mut Writer) {
    out.number(table.len() as u64);
    for number in 0..table.len() as u32 {
        let (map, key) = table.name(FieldId(number));
        out.number(map.0.into());
        out.text(key);
    }
}

impl Shared {
    /// For records that were written under the numbering `fields`, and are to be read under that of `table`.
    pub fn new(fields: &[u8], table: Arc<FieldTable>) -> Result<Self, Garbled> {
        let mut reader = Reader::new(fields);
        let count = reader.count()?;
        let mut fields = Vec::with_capacity(count);
        for _ in 0..count {
            let map = MapId(u8::try_from(reader.number()?).map_err(|_| Garbled)?);
            let key = reader.text()?;
            fields.push(table.number(map, key).ok_or_else(|| (map, key.into())));
        }
        Ok(Self { table, fields, origins: Vec::new(), parsers: Vec::new(), packer: Packer::default() })
    }

    /// Forgets what one writer's [`Sharing`] has named: another one follows.
    pub fn restart(&mut self) {
        self.origins.clear();
        self.parsers.clear();
    }

    fn origin(&mut self, reader: &mut Reader<'_>) -> Result<Arc<Origin>, Garbled> {
        let number = reader.number()? as usize;
        if number == self.origins.len() {
            let origin = decode_origin(reader)?;
            self.origins.push(Arc::new(origin));
        }
        self.origins.get(number).cloned().ok_or(Garbled)
    }

    fn parsers(&mut self, reader: &mut Reader<'_>) -> Result<Arc<[Arc<str>]>, Garbled> {
        let number = reader.number()? as usize;
        if number == self.parsers.len() {
            let count = reader.count()?;
            let names = (0..count).map(|_| reader.text().map(Arc::from)).collect::<Result<_, _>>()?;
            self.parsers.push(names);
        }
        self.parsers.get(number).cloned().ok_or(Garbled)
    }
}

/// Writes where lines come from.
pub fn encode_origin(origin: &Origin, out: &mut Writer) {
    let Origin { src, module, labels, generation, time_machine, spoofable } = origin;
    out.text(src);
    out.text(module);
    out.number(labels.len() as u64);
    for (key, value) in labels {
        out.text(key);
        out.text(value);
    }
    out.fixed64(*generation);
    out.flag(*time_machine);
    out.flag(*spoofable);
}

/// Reads what [`encode_origin`] wrote.
pub fn decode_origin(reader: &mut Reader<'_>) -> Result<Origin, Garbled> {
    let (src, module) = (reader.text()?.into(), reader.text()?.into());
    let count = reader.count()?;
    let labels = (0..count).map(|_| Ok((reader.text()?.into(), reader.text()?.into()))).collect::<Result<_, _>>()?;
    Ok(Origin {
        src,
        module,
        labels,
        generation: reader.fixed64()?,
        time_machine: reader.flag()?,
        spoofable: reader.flag()?,
    })
}

/// Writes an instant.
pub fn encode_time(at: Timestamp, out: &mut Writer) {
    out.signed(at.as_second());
    out.signed(at.subsec_nanosecond().into());
}

/// Reads what [`encode_time`] wrote.
pub fn decode_time(reader: &mut Reader<'_>) -> Result<Timestamp, Garbled> {
    let (seconds, nanos) = (reader.signed()?, reader.signed()?);
    Timestamp::new(seconds, i32::try_from(nanos).map_err(|_| Garbled)?).map_err(|_| Garbled)
}

impl Record {
    /// Writes the record in the numbering of its rule set; see [`encode_fields`].
    pub fn encode(&self, out: &mut Writer, sharing: &mut Sharing) {
        let next = sharing.origins.len() as u64;
        let origin = *sharing.origins.entry(Arc::as_ptr(&self.origin)).or_insert(next);
        out.number(origin);
        if origin == next {
            encode_origin(&self.origin, out);
        }
        let next = sharing.parsers.len() as u64;
        let parsers = *sharing.parsers.entry(self.frame.parsers.as_ptr()).or_insert(next);
        out.number(parsers);
        if parsers == next {
            out.number(self.frame.parsers.len() as u64);
            for parser in self.frame.parsers.iter() {
                out.text(parser);
            }
        }
        let Rest { offset, read_at, time } = self.rest();
        out.number(offset);
        out.flag(self.kind() == EventKind::Overflow);
        out.flag(self.time_machine());
        encode_time(read_at, out);
        out.flag(time.is_some());
        if let Some(EventTime { instant, offset }) = time {
            encode_time(instant, out);
            out.signed(offset.into());
        }
        out.number(self.fields().count() as u64);
        for (field, text) in self.fields() {
            out.number(field.0.into());
            out.text(text);
        }
        out.text(&self.raw());
        out.flag(self.rare.is_some());
        if self.rare.is_some() {
            let unmarshaled: Vec<(&str, StoredDump)> =
                self.unmarshaled().iter().map(|(key, stored)| (key.as_str(), stored.into())).collect();
            let extra: Vec<(u8, &str, &str)> =
                self.extra().iter().map(|(map, key, value)| (map.0, &**key, &**value)).collect();
            let rare = serde_json::to_vec(&(extra, unmarshaled, self.overflow()));
            out.bytes(&rare.expect("texts, lists and maps with texts as keys are JSON"));
        }
    }

    /// Reads what [`Record::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>, shared: &mut Shared) -> Result<Self, Garbled> {
        let (origin, parsers) = (shared.origin(reader)?, shared.parsers(reader)?);
        let offset = reader.number()?;
        let kind = if reader.flag()? { EventKind::Overflow } else { EventKind::Log };
        let time_machine = reader.flag()?;
        let read_at = decode_time(reader)?;
        let time = if reader.flag()? {
            let instant = decode_time(reader)?;
            Some(EventTime { instant, offset: i32::try_from(reader.signed()?).map_err(|_| Garbled)? })
        } else {
            None
        };
        let (mut kept, mut extra) = (Vec::new(), Vec::new());
        for _ in 0..reader.count()? {
            let field = shared.fields.get(reader.number()? as usize).ok_or(Garbled)?;
            let value = reader.text()?;
            match field {
                Ok(field) => kept.push((*field, value)),
                Err((map, key)) => extra.push((*map, key.clone(), value.into())),
            }
        }
        let line = reader.text()?;
        let mut rare = Rare::default();
        let mut named = Vec::new();
        if reader.flag()? {
            type Parts = (Vec<(u8, String, String)>, Vec<(String, StoredDump)>, Option<Box<RuntimeAlert>>);
            let parts = serde_json::from_slice::<Parts>(reader.bytes()?).map_err(|_| Garbled)?;
            named = parts.0;
            rare.unmarshaled = parts.1.into_iter().map(|(key, stored)| (key, stored.into())).collect();
            rare.overflow = parts.2;
        }
        for (map, key, value) in &named {
            // What nobody had mentioned when it was written may be mentioned now.
            match shared.table.number(MapId(*map), key) {
                Some(field) => kept.push((field, value)),
                None => extra.push((MapId(*map), key.as_str().into(), value.as_str().into())),
            }
        }
        kept.sort_unstable_by_key(|(field, _)| *field);
        extra.sort_unstable_by(|a: &Extra, b: &Extra| (a.0, &a.1).cmp(&(b.0, &b.1)));
        rare.extra = extra.into();
        let (frame, packed) = shared.packer.pack(&Told {
            table: &shared.table,
            parsers: &parsers,
            kind,
            time_machine,
            fields: &kept,
            rest: Rest { offset, read_at, time },
            line,
        });
        Ok(Self { frame, packed, origin, rare: rare.boxed() })
    }
}

fn stored_bytes(stored: &Stored) -> usize {
    match stored {
        Stored::Json(value) => json_bytes(value),
        Stored::Pairs(pairs) => pairs.iter().map(|(key, value)| 48 + key.len() + value.len()).sum(),
    }
}

fn json_bytes(value: &serde_json::Value) -> usize {
    let below: usize = match value {
        serde_json::Value::String(text) => text.len(),
        serde_json::Value::Array(items) => items.iter().map(json_bytes).sum(),
        serde_json::Value::Object(entries) => {
            entries.iter().map(|(key, value)| 32 + key.len() + json_bytes(value)).sum()
        }
        _ => 0,
    };
    32 + below
}

fn overflow_bytes(overflow: &RuntimeAlert) -> usize {
    let events = overflow.alert.events.iter();
    let meta = events.flat_map(|event| &event.meta).map(|meta| 48 + meta.key.len() + meta.value.len());
    size_of::<RuntimeAlert>() + meta.sum::<usize>() + overflow.sources.len() * 256
}

fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

impl Object for Record {
    fn class(&self) -> &'static Class {
        &classes::QUEUED_EVENT
    }

    fn slot(&self, field: FieldId) -> Option<&str> {
        self.get(field)
    }

    fn slot_named(&self, map: MapId, key: &str) -> Option<&str> {
        if let Some(field) = self.frame.table.number(map, key) {
            return self.get(field);
        }
        let found = self.extra().iter().find(|(of, name, _)| *of == map && **name == *key);
        found.map(|(_, _, value)| &**value)
    }

    fn slots(&self, map: MapId) -> Vec<(&str, &str)> {
        self.entries_of(map)
    }

    fn entry(&self, map: MapId, key: &str) -> Option<Value<'_>> {
        match map {
            fields::UNMARSHALED => {
                self.unmarshaled().iter().find(|(name, _)| name == key).map(|(_, stored)| stored_value(stored))
            }
            fields::SOURCES => self.overflow()?.sources.get(key).map(|source| Value::Object(source)),
            _ => None,
        }
    }

    fn entries(&self, map: MapId) -> Vec<&str> {
        match (map, self.overflow()) {
            (fields::UNMARSHALED, _) => self.unmarshaled().iter().map(|(key, _)| key.as_str()).collect(),
            (fields::SOURCES, Some(overflow)) => overflow.sources.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn store(&self, _: MapId, _: &str, _: Stored) -> Result<(), EvalError> {
        Err(EvalError::new("an event that a bucket holds cannot be written"))
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member {
            classes::EVENT_TYPE => Value::Int(self.kind() as i64),
            classes::EVENT_EXPECT_MODE => Value::Int(self.time_machine().into()),
            classes::EVENT_WHITELISTED => Value::Bool(false),
            classes::EVENT_PROCESS | classes::EVENT_LINE_PROCESS => Value::Bool(true),
            classes::EVENT_TIME => self.time().unwrap_or(EventTime::utc(classes::ZERO_TIME)).value(),
            classes::EVENT_LINE_TIME => EventTime::utc(self.rest().read_at).value(),
            classes::EVENT_UNMARSHALED => Value::Map(expr::Map::Object(self, fields::UNMARSHALED)),
            classes::EVENT_OVERFLOW => match self.overflow() {
                Some(overflow) => Value::Object(overflow),
                None => Value::Object(classes::no_overflow()),
            },
            classes::EVENT_APPSEC => Value::Object(classes::no_appsec()),
            _ => Value::Nil,
        }
    }

    fn call<'a>(&'a self, method: MethodId, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        let key = args.first().and_then(Value::as_str).unwrap_or("");
        match method {
            classes::EVENT_GET_TYPE => Ok(Value::text(self.kind().name())),
            classes::EVENT_GET_META => Ok(Value::Str(self.meta(key).to_owned().into())),
            classes::EVENT_SET_META | classes::EVENT_SET_PARSED => {
                Err(EvalError::new("an event that a bucket holds cannot be written"))
            }
            _ => Err(EvalError::new("this method cannot be called on an event that a bucket holds")),
        }
    }
}
