//! What an expression yields.
//!
//! Values borrow from the event and from the program wherever they can: reading a
//! field or a constant copies nothing.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use jiff::{Timestamp, tz::TimeZone};

use crate::builtins::format::display;
use crate::env::Object;
use crate::types::{IntKind, MapId, MemberId};

/// A value at run time (spec: expressions 3).
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Nothing.
    Nil,
    /// `true` or `false`.
    Bool(bool),
    /// The native integer.
    Int(i64),
    /// An integer of another width or a named one.
    Sized(i64, IntKind),
    /// 64-bit float.
    Float(f64),
    /// Text.
    Str(Cow<'a, str>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A list.
    List(List<'a>),
    /// A map from text.
    Map(Map<'a>),
    /// A structure.
    Object(&'a dyn Object),
    /// A structure made while evaluating (a helper's result). It owns what it shows: its members
    /// are copied out, so they must not be references to other objects.
    Made(Rc<dyn Object>),
    /// An instant with the zone it is shown in.
    Time(Timestamp, TimeZone),
    /// Nanoseconds.
    Duration(i64),
    /// A time zone.
    Zone(TimeZone),
}

/// A list: typed lists of text stay typed, since helpers tell them apart.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Elements of any kind (`[]any`).
    Any(Rc<[Value<'a>]>),
    /// A typed list of text (`[]string`).
    Text(Rc<[Cow<'a, str>]>),
    /// A typed list of text that belongs to someone else (a data file).
    Lines(&'a [Box<str>]),
    /// Elements of one known type other than text (`[]int`, events of a queue).
    Typed(Rc<[Value<'a>]>),
    /// A JSON array.
    Json(&'a [serde_json::Value]),
    /// The list that is not there: it has no elements and equals nil.
    Nil,
    /// Elements of one known type that an object answers for one by one (`queue.Queue`).
    Object(&'a dyn Object, MemberId),
}

/// Several texts under one key.
pub type Texts<'a> = Rc<[Cow<'a, str>]>;

/// A map from text.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Values of any kind, in insertion order of first keys.
    Any(Rc<[(Cow<'a, str>, Value<'a>)]>),
    /// Text to text; a missing key reads as `""`.
    Text(Rc<[(Cow<'a, str>, Cow<'a, str>)]>),
    /// Text to text that belongs to someone else (parsed key-value pairs).
    Pairs(&'a [(String, String)]),
    /// Text to lists of text (query parameters, headers).
    Texts(Rc<[(Cow<'a, str>, Texts<'a>)]>),
    /// Values of any kind under keys of any kind (`groupBy`).
    Keyed(Rc<[(Value<'a>, Value<'a>)]>),
    /// A JSON object.
    Json(&'a serde_json::Map<String, serde_json::Value>),
    /// One of the string maps of an object (`evt.Parsed`).
    Slots(&'a dyn Object, MapId),
    /// The map that is not there: it has no entries and equals nil.
    Nil,
    /// A map that the object answers for key by key (`evt.Unmarshaled`, `evt.Overflow.Sources`).
    Object(&'a dyn Object, MapId),
}

impl<'a> Value<'a> {
    /// Text that borrows.
    pub fn text(text: &'a str) -> Self {
        Value::Str(Cow::Borrowed(text))
    }

    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, whatever its width, if this is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(value) | Value::Sized(value, _) => Some(*value),
            _ => None,
        }
    }

    /// The number as a float, if this is a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Int(value) => Some(*value as f64),
            Value::Sized(value, kind) if !kind.named() => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Whether this is nil, or a list or a map that is not there.
    pub fn is_nil(&self) -> bool {
        matches!(self, Value::Nil | Value::List(List::Nil) | Value::Map(Map::Nil))
    }

    /// Text that owns itself.
    pub fn owned(text: impl Into<String>) -> Self {
        Value::Str(Cow::Owned(text.into()))
    }

    /// A typed list of text.
    pub fn texts(texts: impl IntoIterator<Item = Cow<'a, str>>) -> Self {
        Value::List(List::Text(texts.into_iter().collect()))
    }

    /// A list of values of any kind.
    pub fn list(values: impl IntoIterator<Item = Value<'a>>) -> Self {
        Value::List(List::Any(values.into_iter().collect()))
    }

    /// What the value is, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Sized(_, kind) => kind.name(),
            Value::Float(_) => "float64",
            Value::Str(_) => "string",
            Value::Bytes(_) => "[]uint8",
            Value::List(List::Text(_) | List::Lines(_)) => "[]string",
            Value::List(_) => "[]interface {}",
            Value::Map(Map::Text(_) | Map::Pairs(_) | Map::Slots(..)) => "map[string]string",
            Value::Map(Map::Texts(_)) => "map[string][]string",
            Value::Map(Map::Keyed(_)) => "map[interface {}]interface {}",
            Value::Map(_) => "map[string]interface {}",
            Value::Object(object) => object.class().name,
            Value::Made(object) => object.class().name,
            Value::Time(..) => "time.Time",
            Value::Duration(_) => "time.Duration",
            Value::Zone(_) => "*time.Location",
        }
    }

    /// The same value, borrowing nothing but the text and JSON of which it makes copies;
    /// `None` if it is or holds a reference to an object.
    pub(crate) fn detach<'b>(&self) -> Option<Value<'b>> {
        Some(match self {
            Value::Nil => Value::Nil,
            Value::Bool(value) => Value::Bool(*value),
            Value::Int(value) => Value::Int(*value),
            Value::Sized(value, kind) => Value::Sized(*value, *kind),
            Value::Float(value) => Value::Float(*value),
            Value::Str(text) => Value::owned(&**text),
            Value::Bytes(bytes) => Value::Bytes(Rc::clone(bytes)),
            Value::List(list @ (List::Text(_) | List::Lines(_))) => Value::texts(
                (0..list.len()).filter_map(|at| list.get(at)?.as_str().map(|text| Cow::Owned(text.to_owned()))),
            ),
            Value::List(list @ (List::Typed(_) | List::Object(..))) => {
                Value::List(List::Typed((0..list.len()).map(|at| list.get(at)?.detach()).collect::<Option<_>>()?))
            }
            Value::List(list) => {
                Value::List(List::Any((0..list.len()).map(|at| list.get(at)?.detach()).collect::<Option<_>>()?))
            }
            Value::Map(map) => Value::Map(map.detach()?),
            Value::Object(_) => return None,
            Value::Made(object) => Value::Made(Rc::clone(object)),
            Value::Time(time, zone) => Value::Time(*time, zone.clone()),
            Value::Duration(value) => Value::Duration(*value),
            Value::Zone(zone) => Value::Zone(zone.clone()),
        })
    }

    /// The value that owned JSON stands for.
    pub(crate) fn from_json(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Nil,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(value) => Value::Float(value.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(value) => Value::owned(value),
            serde_json::Value::Array(values) => Value::list(values.into_iter().map(Value::from_json)),
            serde_json::Value::Object(pairs) => Value::Map(Map::Any(
                pairs.into_iter().map(|(key, value)| (Cow::Owned(key), Value::from_json(value))).collect(),
            )),
        }
    }

    /// The value a JSON value stands for: numbers are floats, containers borrow.
    pub fn json(value: &'a serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Nil,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(value) => Value::Float(value.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(value) => Value::text(value),
            serde_json::Value::Array(value) => Value::List(List::Json(value)),
            serde_json::Value::Object(value) => Value::Map(Map::Json(value)),
        }
    }
}

/// As Go's `%v` writes it.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display(self))
    }
}

impl<'a> List<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            List::Any(values) | List::Typed(values) => values.len(),
            List::Text(texts) => texts.len(),
            List::Lines(lines) => lines.len(),
            List::Json(values) => values.len(),
            List::Nil => 0,
            List::Object(object, list) => object.count(*list),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Any(values) | List::Typed(values) => values.get(index).cloned(),
            List::Text(texts) => texts.get(index).cloned().map(Value::Str),
            List::Lines(lines) => lines.get(index).map(|line| Value::text(line)),
            List::Json(values) => values.get(index).map(Value::json),
            List::Nil => None,
            List::Object(object, list) => object.element(*list, index),
        }
    }

    /// The elements in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Value<'a>> + ExactSizeIterator {
        (0..self.len()).map(|index| self.get(index).unwrap_or(Value::Nil))
    }

    /// Whether this is a typed list of text.
    pub fn is_text(&self) -> bool {
        matches!(self, List::Text(_) | List::Lines(_))
    }
}

impl<'a> Map<'a> {
    /// The value under `key`; `None` when it is missing.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        match self {
            Map::Any(pairs) => pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone()),
            Map::Text(pairs) => {
                pairs.iter().find(|(known, _)| known == key).map(|(_, value)| Value::Str(value.clone()))
            }
            Map::Pairs(pairs) => pairs.iter().find(|(known, _)| known == key).map(|(_, value)| Value::text(value)),
            Map::Texts(pairs) => {
                pairs.iter().find(|(known, _)| known == key).map(|(_, value)| Value::List(List::Text(Rc::clone(value))))
            }
            Map::Keyed(pairs) => pairs
                .iter()
                .find(|(known, _)| known.as_str().is_some_and(|known| known == key))
                .map(|(_, value)| value.clone()),
            Map::Json(pairs) => pairs.get(key).map(Value::json),
            Map::Nil => None,
            Map::Slots(object, map) => object.slot_named(*map, key).map(Value::text),
            Map::Object(object, map) => object.entry(*map, key),
        }
    }

    /// Whether `key` is present.
    pub fn has(&self, key: &str) -> bool {
        match self {
            Map::Object(object, map) => object.entries(*map).contains(&key),
            _ => self.get(key).is_some(),
        }
    }

    /// What a missing key reads as.
    pub(crate) fn missing(&self) -> Value<'a> {
        match self {
            Map::Text(_) | Map::Pairs(_) | Map::Slots(..) => Value::text(""),
            Map::Texts(_) => Value::texts([]),
            _ => Value::Nil,
        }
    }

    /// The entries: sorted by key for maps of objects and JSON, else in order of insertion.
    pub fn entries(&self) -> Vec<(Value<'a>, Value<'a>)> {
        match self {
            Map::Any(pairs) => pairs.iter().map(|(key, value)| (Value::Str(key.clone()), value.clone())).collect(),
            Map::Text(pairs) => {
                pairs.iter().map(|(key, value)| (Value::Str(key.clone()), Value::Str(value.clone()))).collect()
            }
            Map::Pairs(pairs) => pairs.iter().map(|(key, value)| (Value::text(key), Value::text(value))).collect(),
            Map::Texts(pairs) => pairs
                .iter()
                .map(|(key, value)| (Value::Str(key.clone()), Value::List(List::Text(Rc::clone(value)))))
                .collect(),
            Map::Keyed(pairs) => pairs.to_vec(),
            Map::Json(pairs) => pairs.iter().map(|(key, value)| (Value::text(key), Value::json(value))).collect(),
            Map::Nil => Vec::new(),
            Map::Slots(object, map) => {
                object.slots(*map).into_iter().map(|(key, value)| (Value::text(key), Value::text(value))).collect()
            }
            Map::Object(object, map) => object
                .entries(*map)
                .into_iter()
                .map(|key| (Value::text(key), object.entry(*map, key).unwrap_or(Value::Nil)))
                .collect(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Any(pairs) => pairs.len(),
            Map::Text(pairs) => pairs.len(),
            Map::Pairs(pairs) => pairs.len(),
            Map::Texts(pairs) => pairs.len(),
            Map::Keyed(pairs) => pairs.len(),
            Map::Json(pairs) => pairs.len(),
            Map::Nil => 0,
            Map::Slots(object, map) => object.slots(*map).len(),
            Map::Object(object, map) => object.entries(*map).len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn detach<'b>(&self) -> Option<Map<'b>> {
        let text = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        Some(match self {
            Map::Text(pairs) => Map::Text(pairs.iter().map(|(key, value)| (text(key), text(value))).collect()),
            Map::Pairs(pairs) => Map::Text(
                pairs.iter().map(|(key, value)| (Cow::Owned(key.clone()), Cow::Owned(value.clone()))).collect(),
            ),
            Map::Texts(pairs) => {
                Map::Texts(pairs.iter().map(|(key, values)| (text(key), values.iter().map(text).collect())).collect())
            }
            Map::Slots(object, map) => Map::Text(
                object
                    .slots(*map)
                    .into_iter()
                    .map(|(key, value)| (Cow::Owned(key.to_owned()), Cow::Owned(value.to_owned())))
                    .collect(),
            ),
            Map::Keyed(pairs) => Map::Keyed(
                pairs.iter().map(|(key, value)| Some((key.detach()?, value.detach()?))).collect::<Option<_>>()?,
            ),
            _ => Map::Any(
                self.entries()
                    .iter()
                    .map(|(key, value)| Some((Cow::Owned(key.as_str()?.to_owned()), value.detach()?)))
                    .collect::<Option<_>>()?,
            ),
        })
    }
}
