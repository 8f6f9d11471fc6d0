//! What an expression yields.
//!
//! Values borrow from the event and from the program wherever they can: reading a
//! field or a constant copies nothing.

use std::borrow::Cow;
use std::rc::Rc;

use jiff::{Timestamp, tz::TimeZone};

use crate::env::Object;
use crate::types::{IntKind, MapId};

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
    /// A structure made while evaluating (a helper's result).
    Made(Rc<dyn Object + 'a>),
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
}

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
    Texts(Rc<[(Cow<'a, str>, Rc<[Cow<'a, str>]>)]>),
    /// A JSON object.
    Json(&'a serde_json::Map<String, serde_json::Value>),
    /// One of the string maps of an object (`evt.Parsed`).
    Slots(&'a dyn Object, MapId),
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
