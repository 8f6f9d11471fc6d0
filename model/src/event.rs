//! A line on its way through the stages, and how expressions see it.
//!
//! An event is scratch space that a worker reuses: text lives in slots that are spans of the line, of a
//! constant, or of a text computed for this event. Starting a new line costs one increment, since a slot counts only
//! when it bears the event's generation. Storage is append-only until the next line, so that text handed to an
//! expression stays valid while the expression writes (`evt.SetMeta`).

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use elsa::FrozenVec;
use expr::{Class, EvalError, FieldId, MapId, MemberId, MethodId, Object, Stored, Value};
use jiff::Timestamp;

use crate::alert::RuntimeAlert;
use crate::classes;
use crate::fields::{self, Constant, FieldTable};
use crate::line::{LineRef, Origin};
use crate::time::EventTime;

/// What kind of event this is: `evt.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EventKind {
    /// A line of a log.
    #[default]
    Log,
    /// An overflow on its way through the postoverflow stages or back into the scenarios.
    Overflow,
    /// A finding of a web application firewall.
    Appsec,
}

impl EventKind {
    /// What `evt.GetType()` says.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Log => "log",
            EventKind::Overflow => "overflow",
            EventKind::Appsec => "unknown",
        }
    }
}

/// A piece of text that an event can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    chunk: u32,
    start: u32,
    len: u32,
}

impl Span {
    /// Whether there is no text in it.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part of this span at `range`, in bytes relative to its start.
    ///
    /// The range must lie inside the span on character boundaries, as the matches of a regex do.
    pub fn slice(self, range: Range<usize>) -> Self {
        debug_assert!(range.start <= range.end && range.end <= self.len as usize, "a slice lies inside its span");
        Self { chunk: self.chunk, start: self.start + range.start as u32, len: (range.end - range.start) as u32 }
    }
}

const LINE: u32 = 0;
const SHARED: u32 = 1 << 29;
const CONSTANT: u32 = 1 << 30;
const ORIGIN: u32 = 1 << 31;
const ORIGIN_SRC: u32 = ORIGIN;
const ORIGIN_MODULE: u32 = ORIGIN | 1;
const ORIGIN_LABELS: u32 = ORIGIN | 2;
/// Keys that no rule mentions but that rules compute: more than this many are ignored.
const MAX_EXTRA: usize = 1024;

#[derive(Clone, Copy)]
struct Slot {
    generation: u32,
    span: Span,
}

struct Extra {
    map: MapId,
    key: Box<str>,
    span: Cell<Span>,
}

/// One event.
pub struct Event {
    table: Arc<FieldTable>,
    generation: u32,
    slots: Box<[Cell<Slot>]>,
    /// Fields that hold text, in the order in which they were first written: the first `touched_count` of these.
    touched: Box<[Cell<FieldId>]>,
    touched_count: Cell<usize>,
    line: String,
    texts: FrozenVec<Box<str>>,
    shared: FrozenVec<Arc<str>>,
    extra: FrozenVec<Box<Extra>>,
    unmarshaled: FrozenVec<Box<(String, Stored)>>,
    origin: Arc<Origin>,
    labels: Vec<(usize, FieldId)>,
    offset: u64,
    read_at: Timestamp,
    kind: EventKind,
    time_machine: bool,
    time: Option<EventTime>,
    whitelisted: bool,
    process: bool,
    overflow: Option<Box<RuntimeAlert>>,
}

impl Event {
    /// An empty event over the fields of one rule set.
    pub fn new(table: Arc<FieldTable>) -> Self {
        let empty = Slot { generation: 0, span: Span { chunk: LINE, start: 0, len: 0 } };
        let mut event = Self {
            slots: vec![Cell::new(empty); table.len()].into_boxed_slice(),
            generation: 1,
            touched: vec![Cell::new(fields::LINE_RAW); table.len()].into_boxed_slice(),
            touched_count: Cell::new(0),
            line: String::new(),
            texts: FrozenVec::new(),
            shared: FrozenVec::new(),
            extra: FrozenVec::new(),
            unmarshaled: FrozenVec::new(),
            origin: Arc::default(),
            labels: Vec::new(),
            offset: 0,
            read_at: Timestamp::UNIX_EPOCH,
            kind: EventKind::Log,
            time_machine: false,
            time: None,
            whitelisted: false,
            process: false,
            overflow: None,
            table,
        };
        event.number_labels();
        event
    }

    /// Becomes the event of `line`; everything of the previous one is gone.
    pub fn start_line<'l>(&mut self, line: impl Into<LineRef<'l>>) {
        let line = line.into();
        self.reset();
        if !Arc::ptr_eq(&self.origin, line.origin) {
            self.origin = Arc::clone(line.origin);
            self.number_labels();
        }
        self.kind = EventKind::Log;
        self.time_machine = self.origin.time_machine;
        self.offset = line.offset;
        self.read_at = line.time;
        self.line.push_str(line.raw);
        self.set_span(fields::LINE_RAW, Span { chunk: LINE, start: 0, len: self.line.len() as u32 });
        self.set_span(fields::LINE_SRC, whole(ORIGIN_SRC, &self.origin.src));
        self.set_span(fields::LINE_MODULE, whole(ORIGIN_MODULE, &self.origin.module));
        for (index, field) in &self.labels {
            self.set_span(*field, whole(ORIGIN_LABELS + *index as u32, &self.origin.labels[*index].1));
        }
    }

    /// Becomes the event of an overflow (spec: scenarios 10.4): everything but the alert is empty, the mode is live.
    pub fn start_overflow(&mut self, overflow: RuntimeAlert, now: Timestamp) {
        self.reset();
        self.origin = Arc::default();
        self.labels.clear();
        self.kind = EventKind::Overflow;
        self.time_machine = false;
        self.time = Some(EventTime::utc(now));
        self.set_text(fields::MARSHALED_TIME, overflow.alert.stop_at.as_str());
        self.overflow = Some(Box::new(overflow));
    }

    fn reset(&mut self) {
        self.generation = self.generation.checked_add(1).unwrap_or_else(|| {
            // After four billion lines old stamps could come round again.
            for slot in &mut self.slots {
                slot.get_mut().generation = 0;
            }
            1
        });
        self.touched_count.set(0);
        self.texts.as_mut().clear();
        self.shared.as_mut().clear();
        self.extra.as_mut().clear();
        self.unmarshaled.as_mut().clear();
        self.line.clear();
        self.offset = 0;
        self.time = None;
        self.whitelisted = false;
        self.process = false;
        self.overflow = None;
    }

    /// Labels that no rule reads need no slot; `slot_named` finds them in the origin.
    fn number_labels(&mut self) {
        let labels = self.origin.labels.iter().enumerate();
        self.labels =
            labels.filter_map(|(index, (key, _))| Some((index, self.table.number(fields::LABELS, key)?))).collect();
    }

    /// The fields of the rule set that this event is for.
    pub fn table(&self) -> &Arc<FieldTable> {
        &self.table
    }

    /// The text of a field; `None` when it is absent, which is not the same as empty.
    pub fn get(&self, field: FieldId) -> Option<&str> {
        self.span(field).map(|span| self.text(span))
    }

    /// Where the text of a field lies.
    pub fn span(&self, field: FieldId) -> Option<Span> {
        let slot = self.slots.get(field.0 as usize)?.get();
        (slot.generation == self.generation).then_some(slot.span)
    }

    /// The text of a span of this event.
    pub fn text(&self, span: Span) -> &str {
        let chunk: &str = match span.chunk {
            LINE => &self.line,
            ORIGIN_SRC => &self.origin.src,
            ORIGIN_MODULE => &self.origin.module,
            chunk if chunk >= ORIGIN_LABELS => &self.origin.labels[(chunk - ORIGIN_LABELS) as usize].1,
            chunk if chunk >= CONSTANT => self.table.constant_text(Constant(chunk - CONSTANT)),
            chunk if chunk >= SHARED => self.shared.get((chunk - SHARED) as usize).unwrap_or(""),
            chunk => self.texts.get(chunk as usize - 1).unwrap_or(""),
        };
        let start = span.start as usize;
        chunk.get(start..start + span.len as usize).unwrap_or("")
    }

    /// Keeps a text computed for this event.
    pub fn keep(&self, text: impl Into<Box<str>>) -> Span {
        let text = text.into();
        let len = text.len() as u32;
        self.texts.push(text);
        Span { chunk: self.texts.len() as u32, start: 0, len }
    }

    /// Keeps a text that was computed before and is kept elsewhere as well.
    pub fn keep_shared(&self, text: &Arc<str>) -> Span {
        self.shared.push(Arc::clone(text));
        whole(SHARED + self.shared.len() as u32 - 1, text)
    }

    /// Lets a field show a piece of text that the event has already: a capture copies nothing.
    pub fn set_span(&self, field: FieldId, span: Span) {
        let Some(slot) = self.slots.get(field.0 as usize) else { return };
        if slot.get().generation != self.generation {
            let count = self.touched_count.get();
            if let Some(next) = self.touched.get(count) {
                next.set(field);
                self.touched_count.set(count + 1);
            }
        }
        slot.set(Slot { generation: self.generation, span });
    }

    /// Writes a text into a field.
    pub fn set_text(&self, field: FieldId, text: impl Into<Box<str>>) {
        self.set_span(field, self.keep(text));
    }

    /// Writes a text that the rule set knows as it stands.
    pub fn set_constant(&self, field: FieldId, constant: Constant) {
        self.set_span(field, self.constant_span(constant));
    }

    /// The span of a text that the rule set knows as it stands.
    pub fn constant_span(&self, constant: Constant) -> Span {
        whole(CONSTANT + constant.0, self.table.constant_text(constant))
    }

    /// Writes under a key that may have no number. Beyond [`MAX_EXTRA`] such keys are ignored.
    pub fn set_named(&self, map: MapId, key: &str, text: impl Into<Box<str>>) {
        if let Some(field) = self.table.number(map, key) {
            self.set_text(field, text);
            return;
        }
        let span = self.keep(text);
        match self.extra.iter().find(|extra| extra.map == map && *extra.key == *key) {
            Some(extra) => extra.span.set(span),
            None if self.extra.len() < MAX_EXTRA => {
                self.extra.push(Box::new(Extra { map, key: key.into(), span: Cell::new(span) }));
            }
            None => {}
        }
    }

    /// All entries of a string map, sorted by key.
    pub fn entries_of(&self, map: MapId) -> Vec<(&str, &str)> {
        let mut entries: Vec<(&str, &str)> = Vec::new();
        for field in self.touched_fields() {
            let (of, key) = self.table.name(field);
            if of == map {
                entries.push((key, self.get(field).unwrap_or("")));
            }
        }
        entries.extend(
            self.extra.iter().filter(|extra| extra.map == map).map(|extra| (&*extra.key, self.text(extra.span.get()))),
        );
        if map == fields::LABELS {
            let labels = self.origin.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            entries.extend(labels.filter(|(key, _)| self.table.number(fields::LABELS, key).is_none()));
        }
        entries.sort_unstable_by_key(|(key, _)| *key);
        entries
    }

    /// Fields that hold text, in the order in which they were first written.
    pub fn touched(&self) -> Vec<FieldId> {
        self.touched_fields().collect()
    }

    /// How many fields hold text.
    pub fn touched_count(&self) -> usize {
        self.touched_count.get()
    }

    /// Calls `see` with each field that was first written when `count` fields held text already.
    pub fn touched_since(&self, count: usize, see: impl FnMut(FieldId)) {
        self.touched_fields().skip(count).for_each(see);
    }

    fn touched_fields(&self) -> impl Iterator<Item = FieldId> {
        self.touched.iter().take(self.touched_count.get()).map(Cell::get)
    }

    /// The texts under keys without a number: map, key and text.
    pub fn unnumbered(&self) -> impl Iterator<Item = (MapId, &str, &str)> {
        self.extra.iter().map(|extra| (extra.map, &*extra.key, self.text(extra.span.get())))
    }

    /// What kind of event this is.
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// Whether buckets follow the time in the log (`evt.ExpectMode`).
    pub fn time_machine(&self) -> bool {
        self.time_machine
    }

    /// The event's time (`evt.Time`), if it has one yet.
    pub fn time(&self) -> Option<EventTime> {
        self.time
    }

    /// Sets the event's time.
    pub fn set_time(&mut self, time: EventTime) {
        self.time = Some(time);
    }

    /// When the line was read.
    pub fn read_at(&self) -> Timestamp {
        self.read_at
    }

    /// Whether a whitelist matched; nothing takes that back.
    pub fn whitelisted(&self) -> bool {
        self.whitelisted
    }

    /// Marks the event, and the overflow it carries; the first reason stays.
    pub fn whitelist(&mut self, reason: Constant) {
        if self.whitelisted {
            return;
        }
        self.whitelisted = true;
        self.set_constant(fields::WHITELIST_REASON, reason);
        let table = Arc::clone(&self.table);
        if let Some(overflow) = &mut self.overflow {
            overflow.whitelisted = true;
            table.constant_text(reason).clone_into(&mut overflow.whitelist_reason);
        }
    }

    /// Whether parsing succeeded (`evt.Process`).
    pub fn process(&self) -> bool {
        self.process
    }

    /// Says whether parsing succeeded.
    pub fn set_process(&mut self, process: bool) {
        self.process = process;
    }

    /// The overflow that the event carries.
    pub fn overflow(&self) -> Option<&RuntimeAlert> {
        self.overflow.as_deref()
    }

    /// The overflow, to be changed by statics.
    pub fn overflow_mut(&mut self) -> Option<&mut RuntimeAlert> {
        self.overflow.as_deref_mut()
    }

    /// Takes the overflow out, when the postoverflow stages are done with it.
    pub fn take_overflow(&mut self) -> Option<RuntimeAlert> {
        self.overflow.take().map(|overflow| *overflow)
    }

    /// Where the line came from.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// Whether anybody could have made it in anybody's name: [`Origin::spoofable`], or an overflow that rests on such.
    pub fn spoofable(&self) -> bool {
        self.origin.spoofable || self.overflow().is_some_and(|overflow| overflow.alert.spoofable())
    }

    /// The line's offset or sequence number.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The line as it was read, whatever statics made of `evt.Line.Raw`.
    pub fn raw(&self) -> &str {
        &self.line
    }

    /// What helpers left under `key` of `evt.Unmarshaled`.
    pub fn unmarshaled(&self, key: &str) -> Option<&Stored> {
        let found = (0..self.unmarshaled.len()).rev().filter_map(|index| self.unmarshaled.get(index));
        found.into_iter().find(|(name, _)| name == key).map(|(_, stored)| stored)
    }

    /// Keys of `evt.Unmarshaled`, sorted.
    pub fn unmarshaled_keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.unmarshaled.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Stores under `key` of `evt.Unmarshaled`: JSON replaces, pairs merge into pairs that are there.
    pub fn unmarshal(&self, key: &str, value: Stored) -> Result<(), EvalError> {
        let value = match (value, self.unmarshaled(key)) {
            (Stored::Pairs(new), Some(Stored::Pairs(old))) => {
                let names: HashSet<&str> = new.iter().map(|(name, _)| name.as_str()).collect();
                let kept = old.iter().filter(|(key, _)| !names.contains(key.as_str()));
                Stored::Pairs(kept.chain(&new).cloned().collect())
            }
            (Stored::Pairs(_), Some(Stored::Json(_))) => {
                return Err(EvalError::new(format!("`{key}` holds something else than key-value pairs")));
            }
            (value, _) => value,
        };
        self.unmarshaled.push(Box::new((key.to_owned(), value)));
        Ok(())
    }

    /// A deep copy of everything a person or a test may look at.
    pub fn dump(&self) -> EventDump {
        let map = |map| self.entries_of(map).into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let text = |field| self.get(field).unwrap_or("").to_owned();
        EventDump {
            kind: self.kind,
            time_machine: self.time_machine,
            whitelisted: self.whitelisted,
            whitelist_reason: text(fields::WHITELIST_REASON),
            stage: text(fields::STAGE),
            raw: text(fields::LINE_RAW),
            src: text(fields::LINE_SRC),
            module: text(fields::LINE_MODULE),
            labels: map(fields::LABELS),
            parsed: map(fields::PARSED),
            enriched: map(fields::ENRICHED),
            meta: map(fields::META),
            unmarshaled: self
                .unmarshaled_keys()
                .into_iter()
                .filter_map(|key| Some((key.to_owned(), self.unmarshaled(key)?.clone())))
                .collect(),
            overflow: self.overflow.as_deref().cloned(),
            time: self.time,
            str_time: text(fields::STR_TIME),
            str_time_format: text(fields::STR_TIME_FORMAT),
            marshaled_time: text(fields::MARSHALED_TIME),
            process: self.process,
        }
    }
}

/// An owned copy of an event, for `explain`, tests and dumps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventDump {
    /// `Type`.
    pub kind: EventKind,
    /// `ExpectMode`.
    pub time_machine: bool,
    /// `Whitelisted`.
    pub whitelisted: bool,
    /// `WhitelistReason`.
    pub whitelist_reason: String,
    /// `Stage`.
    pub stage: String,
    /// `Line.Raw`.
    pub raw: String,
    /// `Line.Src`.
    pub src: String,
    /// `Line.Module`.
    pub module: String,
    /// `Line.Labels`.
    pub labels: BTreeMap<String, String>,
    /// `Parsed`.
    pub parsed: BTreeMap<String, String>,
    /// `Enriched`.
    pub enriched: BTreeMap<String, String>,
    /// `Meta`.
    pub meta: BTreeMap<String, String>,
    /// `Unmarshaled`.
    pub unmarshaled: BTreeMap<String, Stored>,
    /// `Overflow`.
    pub overflow: Option<RuntimeAlert>,
    /// `Time`.
    pub time: Option<EventTime>,
    /// `StrTime`.
    pub str_time: String,
    /// `StrTimeFormat`.
    pub str_time_format: String,
    /// `MarshaledTime`.
    pub marshaled_time: String,
    /// `Process`.
    pub process: bool,
}

fn whole(chunk: u32, text: &str) -> Span {
    Span { chunk, start: 0, len: text.len() as u32 }
}

pub(crate) fn stored_value(stored: &Stored) -> Value<'_> {
    match stored {
        Stored::Json(value) => Value::json(value),
        Stored::Pairs(pairs) => Value::Map(expr::Map::Pairs(pairs)),
    }
}

impl Object for Event {
    fn class(&self) -> &'static Class {
        &classes::EVENT
    }

    fn slot(&self, field: FieldId) -> Option<&str> {
        self.get(field)
    }

    fn slot_named(&self, map: MapId, key: &str) -> Option<&str> {
        if let Some(field) = self.table.number(map, key) {
            return self.get(field);
        }
        if map == fields::LABELS {
            let label = self.origin.labels.iter().find(|(name, _)| name == key);
            return label.map(|(_, value)| value.as_str());
        }
        let extra = self.extra.iter().find(|extra| extra.map == map && *extra.key == *key)?;
        Some(self.text(extra.span.get()))
    }

    fn slots(&self, map: MapId) -> Vec<(&str, &str)> {
        self.entries_of(map)
    }

    fn entry(&self, map: MapId, key: &str) -> Option<Value<'_>> {
        match map {
            fields::UNMARSHALED => self.unmarshaled(key).map(stored_value),
            fields::SOURCES => self.overflow.as_deref()?.sources.get(key).map(|source| Value::Object(source)),
            _ => None,
        }
    }

    fn entries(&self, map: MapId) -> Vec<&str> {
        match (map, self.overflow.as_deref()) {
            (fields::UNMARSHALED, _) => self.unmarshaled_keys(),
            (fields::SOURCES, Some(overflow)) => overflow.sources.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn store(&self, map: MapId, key: &str, value: Stored) -> Result<(), EvalError> {
        match map {
            fields::UNMARSHALED => self.unmarshal(key, value),
            _ => Err(EvalError::new("only `evt.Unmarshaled` can be written")),
        }
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member {
            classes::EVENT_TYPE => Value::Int(self.kind as i64),
            classes::EVENT_EXPECT_MODE => Value::Int(self.time_machine.into()),
            classes::EVENT_WHITELISTED => Value::Bool(self.whitelisted),
            classes::EVENT_PROCESS => Value::Bool(self.process),
            classes::EVENT_TIME => self.time.map_or(EventTime::utc(classes::ZERO_TIME), |time| time).value(),
            classes::EVENT_LINE_TIME => EventTime::utc(self.read_at).value(),
            classes::EVENT_LINE_PROCESS => Value::Bool(true),
            classes::EVENT_UNMARSHALED => Value::Map(expr::Map::Object(self, fields::UNMARSHALED)),
            classes::EVENT_OVERFLOW => match self.overflow.as_deref() {
                Some(overflow) => Value::Object(overflow),
                None => Value::Object(classes::no_overflow()),
            },
            classes::EVENT_APPSEC => Value::Object(classes::no_appsec()),
            _ => Value::Nil,
        }
    }

    fn call<'a>(&'a self, method: MethodId, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        let text = |index: usize| args.get(index).and_then(Value::as_str).unwrap_or("");
        match method {
            classes::EVENT_GET_TYPE => Ok(Value::text(self.kind.name())),
            classes::EVENT_GET_META => Ok(Value::Str(self.meta(text(0)).to_owned().into())),
            classes::EVENT_SET_META => {
                self.set_named(fields::META, text(0), text(1));
                Ok(Value::Bool(true))
            }
            classes::EVENT_SET_PARSED => {
                self.set_named(fields::PARSED, text(0), text(1));
                Ok(Value::Bool(true))
            }
            classes::EVENT_PARSE_IP_SOURCES => {
                let found = self.ip_sources().into_iter().map(|ip| Value::Str(ip.to_string().into()));
                Ok(Value::List(expr::List::Typed(found.collect())))
            }
            _ => Err(EvalError::new("no such method")),
        }
    }
}

impl Event {
    /// `evt.GetMeta`: on an overflow the first non-empty value over the events of its alerts.
    fn meta(&self, key: &str) -> &str {
        match (self.kind, self.overflow.as_deref()) {
            (EventKind::Log, _) => self.slot_named(fields::META, key).unwrap_or(""),
            (EventKind::Overflow, Some(overflow)) => overflow.meta(key),
            _ => "",
        }
    }

    /// The addresses that whitelists compare (spec: parsers 6): `Meta.source_ip` of a line, the sources of an overflow.
    pub fn ip_sources(&self) -> Vec<std::net::IpAddr> {
        match &self.overflow {
            None => self.get(fields::SOURCE_IP).and_then(|ip| ip.parse().ok()).into_iter().collect(),
            Some(overflow) => overflow.sources.keys().filter_map(|key| key.parse().ok()).collect(),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("kind", &self.kind).field("line", &self.line).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use expr::Fields as _;

    use super::*;
    use crate::line::Line;

    fn line(raw: &str, labels: &[(&str, &str)]) -> Line {
        let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let origin = Origin { src: "/var/log/x".into(), module: "file".into(), labels, ..Origin::default() };
        Line { raw: raw.into(), origin: Arc::new(origin), time: Timestamp::UNIX_EPOCH, offset: 7 }
    }

    #[test]
    fn a_new_line_starts_empty() {
        let mut table = FieldTable::default();
        let user = table.intern(fields::PARSED, "user");
        let greeting = table.constant("hello");
        let mut event = Event::new(Arc::new(table));

        event.start_line(&line("root logged in", &[("type", "syslog"), ("site", "a")]));
        let raw = event.span(fields::LINE_RAW).expect("a line has text");
        event.set_span(user, raw.slice(0..4));
        event.set_constant(fields::SERVICE, greeting);
        event.set_named(fields::META, "nobody-reads-this", "x");
        assert_eq!(event.get(user), Some("root"));
        assert_eq!(event.get(fields::SERVICE), Some("hello"));
        assert_eq!(event.get(fields::LABEL_TYPE), Some("syslog"));
        assert_eq!(event.slot_named(fields::LABELS, "site"), Some("a"));
        assert_eq!(event.entries_of(fields::LABELS), [("site", "a"), ("type", "syslog")]);
        assert_eq!(event.entries_of(fields::META), [("nobody-reads-this", "x"), ("service", "hello")]);

        event.start_line(&line("", &[]));
        assert_eq!(event.get(user), None);
        assert_eq!(event.get(fields::LABEL_TYPE), None);
        assert_eq!(event.get(fields::LINE_RAW), Some(""));
        assert!(event.entries_of(fields::META).is_empty());
    }

    #[test]
    fn text_handed_out_stays_valid_while_the_event_is_written() {
        let event = Event::new(Arc::default());
        event.set_text(fields::SERVICE, "before");
        let before = event.get(fields::SERVICE);
        for round in 0..100 {
            event.set_text(fields::SERVICE, format!("after {round}"));
        }
        assert_eq!(before, Some("before"));
        assert_eq!(event.get(fields::SERVICE), Some("after 99"));
    }

    #[test]
    fn pairs_merge_and_json_replaces() {
        let event = Event::new(Arc::default());
        let pairs =
            |list: &[(&str, &str)]| Stored::Pairs(list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        event.unmarshal("a", pairs(&[("x", "1"), ("y", "1")])).expect("nothing is there yet");
        event.unmarshal("a", pairs(&[("y", "2")])).expect("pairs merge");
        assert_eq!(event.unmarshaled("a"), Some(&pairs(&[("x", "1"), ("y", "2")])));
        event.unmarshal("a", Stored::Json(1.into())).expect("json replaces");
        assert!(event.unmarshal("a", pairs(&[("z", "1")])).is_err());
        assert_eq!(event.unmarshaled_keys(), ["a"]);
    }

    #[test]
    fn computed_keys_are_bounded() {
        let event = Event::new(Arc::default());
        for key in 0..2 * MAX_EXTRA {
            event.set_named(fields::PARSED, &key.to_string(), "x");
        }
        assert_eq!(event.entries_of(fields::PARSED).len(), MAX_EXTRA);
    }
}
