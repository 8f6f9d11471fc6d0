//! Key-value text.

use std::collections::HashMap;

use super::json::store;
use super::text;
use crate::env::Stored;
use crate::error::EvalError;
use crate::library::{Function, Nature, P, R};
use crate::program::Outcome;
use crate::value::Value;

pub(crate) const ROWS: &[Function] = &[
    Function::new("ParseKV", &[P::Str, P::Map, P::Str], R::Any, |_, args| keep(args, strict(text(args, 0)?)))
        .fails()
        .nature(Nature::Writes),
    Function::new("ParseKVLax", &[P::Str, P::Map, P::Str], R::Any, |_, args| keep(args, lax(text(args, 0)?)))
        .fails()
        .nature(Nature::Writes),
];

type Pairs = Vec<(String, String)>;

fn keep<'a>(args: &[Value<'a>], pairs: Pairs) -> Outcome<Value<'a>> {
    if pairs.is_empty() {
        return Err(EvalError::new("no key-value pair found"));
    }
    store(args, Stored::Pairs(last_wins(pairs)))?;
    Ok(Value::Nil)
}

fn last_wins(pairs: Pairs) -> Pairs {
    let mut at: HashMap<String, usize> = HashMap::new();
    let mut kept: Pairs = Vec::new();
    for (key, value) in pairs {
        if let Some(index) = at.get(&key) {
            kept[*index].1 = value;
        } else {
            at.insert(key.clone(), kept.len());
            kept.push((key, value));
        }
    }
    kept
}

fn blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')
}

/// `name=value`, `name="quoted value"`, `name=`.
fn strict(source: &str) -> Pairs {
    let bytes = source.as_bytes();
    let run = |from: usize| {
        bytes[from..].iter().position(|byte| *byte == b'=' || blank(*byte)).map_or(bytes.len(), |length| from + length)
    };
    let mut pairs = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let name_end = run(at);
        if name_end == at {
            at += 1;
            continue;
        }
        if bytes.get(name_end) != Some(&b'=') {
            at = name_end;
            continue;
        }
        let start = name_end + 1;
        let (value, end) = match quoted(bytes, start) {
            Some(close) => (start + 1..close, close + 1),
            None => (start..run(start), run(start)),
        };
        // all bounds stand beside ASCII bytes, so they cut between characters
        pairs.push((source[at..name_end].to_owned(), source[value].to_owned()));
        at = end;
    }
    pairs
}

/// Where the quote that opens at `start` closes.
fn quoted(bytes: &[u8], start: usize) -> Option<usize> {
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' if matches!(bytes.get(at + 1), None | Some(b'\n')) => return None,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Values run up to the next key, blanks and all.
fn lax(source: &str) -> Pairs {
    let bytes = source.as_bytes();
    let key_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    // (start of the key, start of the value)
    let mut keys: Vec<(usize, usize)> = Vec::new();
    let mut inside = false;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'"' && (at == 0 || bytes[at - 1] != b'\\') {
            inside = !inside;
        }
        if !(byte.is_ascii_alphabetic() || byte == b'_') {
            at += 1;
            continue;
        }
        let end = bytes[at..].iter().position(|byte| !key_byte(*byte)).map_or(bytes.len(), |length| at + length);
        if bytes.get(end) == Some(&b'=') && !inside {
            keys.push((at, end + 1));
        }
        at = end;
    }
    let mut pairs = Vec::with_capacity(keys.len());
    for (index, (start, value)) in keys.iter().enumerate() {
        let end = keys.get(index + 1).map_or(source.len(), |(next, _)| *next);
        pairs.push((source[*start..*value - 1].to_owned(), unquote(source[*value..end].trim())));
    }
    pairs
}

fn unquote(value: &str) -> String {
    match value.strip_prefix('"') {
        None => value.to_owned(),
        Some(inner) => match inner.strip_suffix('"') {
            Some(inner) => inner.replace("\\\\", "\\").replace("\\\"", "\""),
            None => inner.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pairs: Pairs) -> String {
        last_wins(pairs).iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn strict_pairs() {
        let cases = [
            (r#"a=b c="d e" f= g=h"#, "a:b|c:d e|f:|g:h"),
            ("a=b=c", "a:b"),
            ("u=http://h/?q=1", "u:http://h/?q"),
            (r#"a="x y"#, r#"a:"x"#),
            (r#"a="x\"y" b=1"#, r#"a:x\"y|b:1"#),
            ("a=1 a=2", "a:2"),
            ("none here", ""),
            ("=x é=ü", "é:ü"),
        ];
        for (source, want) in cases {
            assert_eq!(shown(strict(source)), want, "{source}");
        }
    }

    #[test]
    fn lax_pairs() {
        let cases = [
            ("host=Express 7 port=443", "host:Express 7|port:443"),
            (r#"msg="a=b \"c\" d" x.y-z=1"#, r#"msg:a=b "c" d|x.y-z:1"#),
            (r#"a="open b"#, "a:open b"),
            ("9a=1", "a:1"),
            ("nothing", ""),
        ];
        for (source, want) in cases {
            assert_eq!(shown(lax(source)), want, "{source}");
        }
    }
}
