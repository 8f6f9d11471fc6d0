//! The functions, one file per subject; each file gives rows for the table of the library.

#![allow(clippy::unnecessary_wraps, reason = "all functions of the table have one signature")]

pub(crate) mod bits;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod format;
pub(crate) mod injection;
pub(crate) mod json;
pub(crate) mod list;
pub(crate) mod math;
pub(crate) mod net;
pub(crate) mod pairs;
pub(crate) mod record;
pub(crate) mod string;
pub(crate) mod time;
pub(crate) mod url;
pub(crate) mod world;
pub(crate) mod xml;

use crate::error::EvalError;
use crate::library::Function;
use crate::program::Outcome;
use crate::value::{List, Value};

/// Every row.
pub(crate) const ALL: &[&[Function]] = &[
    bits::ROWS,
    convert::ROWS,
    data::ROWS,
    format::ROWS,
    injection::ROWS,
    json::ROWS,
    list::ROWS,
    math::ROWS,
    net::ROWS,
    pairs::ROWS,
    string::ROWS,
    time::ROWS,
    url::ROWS,
    world::ROWS,
    xml::ROWS,
];

/// The text in argument `index`; arguments have been checked against the row before.
pub(crate) fn text<'v>(args: &'v [Value<'_>], index: usize) -> Outcome<&'v str> {
    match args.get(index) {
        Some(Value::Str(text)) => Ok(text),
        other => Err(EvalError::new(format!("{} is not a string", other.map_or("nothing", Value::kind)))),
    }
}

/// The integer in argument `index`.
pub(crate) fn int(args: &[Value<'_>], index: usize) -> Outcome<i64> {
    args.get(index)
        .and_then(Value::as_int)
        .ok_or_else(|| EvalError::new(format!("{} is not an integer", args.get(index).map_or("nothing", Value::kind))))
}

/// The list in argument `index`.
pub(crate) fn items<'v, 'a>(args: &'v [Value<'a>], index: usize) -> Outcome<&'v List<'a>> {
    match args.get(index) {
        Some(Value::List(list)) => Ok(list),
        other => Err(EvalError::new(format!("{} is not a list", other.map_or("nothing", Value::kind)))),
    }
}
