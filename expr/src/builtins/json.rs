//! JSON: reading, writing, and picking one value out of a text without reading it all.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;

use super::{format, text};
use crate::env::Stored;
use crate::error::EvalError;
use crate::golayout;
use crate::json;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome};
use crate::value::{List, Map, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("JsonExtract", &[P::Str, P::Str], R::Str, json_extract),
    Function::new("JsonExtractUnescape", &[P::Str, P::Str], R::Str, json_extract_unescape).rest(),
    Function::new("JsonExtractLib", &[P::Str, P::Str], R::Str, |_, _| {
        Err(EvalError::new("JsonExtractLib always fails: use JsonExtract"))
    })
    .rest()
    .fails(),
    Function::new("JsonExtractSlice", &[P::Str, P::Str], R::List, |cx, args| {
        Ok(decoded(cx, args, b'[')?.unwrap_or(Value::List(List::Nil)))
    })
    .fails(),
    Function::new("JsonExtractObject", &[P::Str, P::Str], R::Map, |cx, args| {
        Ok(decoded(cx, args, b'{')?.unwrap_or(Value::Map(Map::Nil)))
    })
    .fails(),
    Function::new("ToJsonString", &[P::Any], R::Str, |cx, args| {
        let written = args.first().and_then(|value| write(value, None)).unwrap_or_default();
        cx.spend_bytes(written.len())?;
        Ok(Value::owned(written))
    })
    .fails(),
    Function::new("toJSON", &[P::Any], R::Str, |cx, args| {
        let written = args.first().and_then(|value| write(value, Some(0)));
        let written = written.ok_or_else(|| EvalError::new("this value has no JSON form"))?;
        cx.spend_bytes(written.len())?;
        Ok(Value::owned(written))
    })
    .fails(),
    Function::new("fromJSON", &[P::Str], R::Any, |cx, args| {
        let source = text(args, 0)?;
        cx.spend(source.len() / 4)?;
        read(source).map(Value::from_json)
    })
    .fails(),
    Function::new("UnmarshalJSON", &[P::Str, P::Map, P::Str], R::Any, unmarshal).fails().nature(Nature::Writes),
    Function::new("KeyExists", &[P::Str, P::Map], R::Bool, |_, args| match args {
        [Value::Str(key), Value::Map(map)] => Ok(Value::Bool(map.has(key))),
        _ => Err(EvalError::new("KeyExists takes a key and a map")),
    })
    .fails(),
];

fn read(source: &str) -> Outcome<serde_json::Value> {
    json::read(source).map_err(|error| EvalError::new(format!("invalid JSON: {error}")))
}

fn unmarshal<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let value = read(text(args, 0)?)?;
    store(args, Stored::Json(value))?;
    Ok(Value::Nil)
}

/// Stores under the key in argument 2 of the map in argument 1.
pub(crate) fn store(args: &[Value<'_>], value: Stored) -> Outcome<()> {
    match args.get(1) {
        Some(Value::Map(Map::Object(object, map))) => object.store(*map, text(args, 2)?, value),
        _ => Err(EvalError::new("this map cannot be written")),
    }
}

fn json_extract<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let path = text(args, 1)?;
    Ok(match args.first() {
        Some(Value::Str(Cow::Borrowed(blob))) => extract(blob, path).map_or(Value::text(""), Value::text),
        _ => Value::owned(extract(text(args, 0)?, path).unwrap_or("")),
    })
}

fn json_extract_unescape<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let (blob, key) = (text(args, 0)?, text(args, 1)?);
    let raw = Scanner::new(blob).find(std::iter::once(key));
    let value = raw.filter(|raw| raw.starts_with('"')).and_then(|raw| json::read::<String>(raw).ok());
    Ok(Value::owned(value.unwrap_or_default()))
}

fn decoded<'a>(cx: &mut Cx<'a>, args: &[Value<'a>], open: u8) -> Outcome<Option<Value<'a>>> {
    let raw = extract(text(args, 0)?, text(args, 1)?).filter(|raw| raw.as_bytes().first() == Some(&open));
    let Some(value) = raw.and_then(|raw| read(raw).ok()) else { return Ok(None) };
    cx.spend(raw.map_or(0, str::len) / 4)?;
    Ok(Some(Value::from_json(value)))
}

/// The raw text of the value at `path`, strings without their quotes.
fn extract<'t>(blob: &'t str, path: &str) -> Option<&'t str> {
    let dotted: Cow<'_, str> = if path.starts_with('[') || !path.contains('[') {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(path.replace('[', ".["))
    };
    let raw = Scanner::new(blob).find(dotted.split('.'))?;
    match raw.as_bytes() {
        [b'"', .., b'"'] => raw.get(1..raw.len() - 1),
        [b'{' | b'[', ..] => Some(raw),
        // anything else must at least look like a number or a word of JSON
        [b'-' | b'0'..=b'9', ..] => Some(raw),
        _ if matches!(raw, "true" | "false" | "null") => Some(raw),
        _ => None,
    }
}

/// A lenient reader that jumps over what is not asked for.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// The raw text of the value that the path leads to.
    fn find<'p>(&mut self, path: impl Iterator<Item = &'p str>) -> Option<&'t str> {
        for component in path {
            let index = component.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            match index {
                Some(index) => self.enter_array(index.parse().ok()?)?,
                None => self.enter_object(component)?,
            }
        }
        self.peek()?;
        let start = self.at;
        self.skip_value()?;
        self.text.get(start..self.at)
    }

    fn enter_object(&mut self, wanted: &str) -> Option<()> {
        if !self.accept(b'{') {
            return None;
        }
        loop {
            self.peek()?;
            let start = self.at;
            self.skip_string()?;
            let raw = self.text.get(start..self.at)?;
            if !self.accept(b':') {
                return None;
            }
            let inner = raw.get(1..raw.len() - 1)?;
            let same = if inner.contains('\\') {
                json::read::<String>(raw).is_ok_and(|key| key == wanted)
            } else {
                inner == wanted
            };
            if same {
                return Some(());
            }
            self.skip_value()?;
            if !self.accept(b',') {
                return None;
            }
        }
    }

    fn enter_array(&mut self, index: usize) -> Option<()> {
        if !self.accept(b'[') {
            return None;
        }
        for _ in 0..index {
            self.skip_value()?;
            if !self.accept(b',') {
                return None;
            }
        }
        (self.peek()? != b']').then_some(())
    }

    fn skip_string(&mut self) -> Option<()> {
        if !self.accept(b'"') {
            return None;
        }
        let bytes = self.text.as_bytes();
        loop {
            let found = memchr::memchr2(b'"', b'\\', bytes.get(self.at..)?)?;
            self.at += found + 1;
            if bytes[self.at - 1] == b'"' {
                return Some(());
            }
            self.at += 1;
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.skip_string(),
            open @ (b'{' | b'[') => {
                let close = if open == b'{' { b'}' } else { b']' };
                let mut depth = 0_usize;
                loop {
                    let bytes = self.text.as_bytes();
                    let byte = *bytes.get(self.at)?;
                    if byte == b'"' {
                        self.skip_string()?;
                        continue;
                    }
                    self.at += 1;
                    if byte == open {
                        depth += 1;
                    } else if byte == close {
                        depth -= 1;
                        if depth == 0 {
                            return Some(());
                        }
                    }
                }
            }
            _ => {
                let rest = self.text.as_bytes().get(self.at..)?;
                let length = rest
                    .iter()
                    .position(|byte| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}' | b']'))
                    .unwrap_or(rest.len());
                self.at += length;
                (length > 0).then_some(())
            }
        }
    }
}

/// Deepest nesting that is written.
const MAX_DEPTH: usize = 200;

/// The JSON text of a value as Go writes it: keys sorted, `<`, `>` and `&` escaped, two spaces of
/// indentation per level if `indent` is given. `None` for values without a JSON form.
pub(crate) fn write(value: &Value<'_>, indent: Option<usize>) -> Option<String> {
    let mut out = String::new();
    write_value(&mut out, value, indent, 0)?;
    Some(out)
}

fn write_value(out: &mut String, value: &Value<'_>, indent: Option<usize>, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    match value {
        Value::Nil | Value::List(List::Nil) | Value::Map(Map::Nil) => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) | Value::Sized(value, _) | Value::Duration(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Float(value) => out.push_str(&number(*value)?),
        Value::Str(text) => write_text(out, text),
        Value::Bytes(bytes) => write_text(out, &base64::engine::general_purpose::STANDARD.encode(bytes)),
        Value::Time(time, zone) => write_text(out, &golayout::format(golayout::RFC3339_NANO, *time, zone)),
        Value::List(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                separate(out, at, indent, depth + 1);
                write_value(out, &item, indent, depth + 1)?;
            }
            close(out, list.is_empty(), indent, depth, ']');
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.entries() {
                match key {
                    Value::Str(key) => entries.push((key.into_owned(), value)),
                    Value::Int(key) => entries.push((key.to_string(), value)),
                    _ => return None,
                }
            }
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            out.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                separate(out, at, indent, depth + 1);
                write_text(out, key);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write_value(out, value, indent, depth + 1)?;
            }
            close(out, entries.is_empty(), indent, depth, '}');
        }
        Value::Object(_) | Value::Made(_) | Value::Zone(_) => return None,
    }
    Some(())
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

fn separate(out: &mut String, at: usize, indent: Option<usize>, depth: usize) {
    if at > 0 {
        out.push(',');
    }
    if indent.is_some() {
        new_line(out, depth);
    }
}

fn close(out: &mut String, empty: bool, indent: Option<usize>, depth: usize, bracket: char) {
    if indent.is_some() && !empty {
        new_line(out, depth);
    }
    out.push(bracket);
}

/// A float: plain digits, exponents only below 1e-6 or from 1e21 on.
fn number(value: f64) -> Option<String> {
    if !value.is_finite() {
        return None;
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        return Some(format::shortest(value, i32::MIN, false));
    }
    Some(format!("{value}"))
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extracts_raw_text() {
        let blob = r#" {"a": {"b": [1, "x\"y", {"c": true}], "b": 2}, "k\u0041": null, "n": -1.5e3, "dot.key": 1,
            "o": {"deep": [1, 2]}, "s": "" } tail"#;
        let cases = [
            ("a.b[0]", Some("1")),
            ("a.b[1]", Some("x\\\"y")),
            ("a.b[2].c", Some("true")),
            ("a.b[3]", None),
            ("kA", Some("null")),
            ("n", Some("-1.5e3")),
            ("dot.key", None),
            ("o", Some(r#"{"deep": [1, 2]}"#)),
            ("o.deep", Some("[1, 2]")),
            ("s", Some("")),
            ("s.t", None),
            ("nope", None),
            ("", None),
        ];
        for (path, want) in cases {
            assert_eq!(extract(blob, path), want, "{path}");
        }
        assert_eq!(extract("[[1, 2], 3]", "[0].[1]"), Some("2"));
        assert_eq!(extract("[[1, 2], 3]", "[0][1]"), None);
        for broken in ["", "{", r#"{"a"#, r#"{"a": "#, r#"{"a": oops}"#, r#"{"a": "x"#, "[1"] {
            assert_eq!(extract(broken, "a"), None, "{broken}");
        }
    }

    #[test]
    fn writes_like_go() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b": [1, 2.5, 1e21, 1e-7, {}], "a": "<&>\u2028\n\u0001é", "c": null}"#)
                .expect("valid");
        assert_eq!(
            write(&Value::json(&value), None).as_deref(),
            Some(r#"{"a":"\u003c\u0026\u003e\u2028\n\u0001é","b":[1,2.5,1e+21,1e-7,{}],"c":null}"#)
        );
        let value = serde_json::json!({"a": [1], "b": []});
        assert_eq!(write(&Value::json(&value), Some(0)).as_deref(), Some("{\n  \"a\": [\n    1\n  ],\n  \"b\": []\n}"));
    }
}
