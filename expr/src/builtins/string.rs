//! Text.

use std::borrow::Cow;

use memchr::memmem;

use super::{int, items, text};
use crate::error::EvalError;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome};
use crate::types::Type;
use crate::value::{List, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("Upper", &[P::Str], R::Str, upper),
    Function::new("Lower", &[P::Str], R::Str, lower),
    Function::new("upper", &[P::Str], R::Str, upper),
    Function::new("lower", &[P::Str], R::Str, lower),
    Function::new("Fields", &[P::Str], R::Texts, fields).fails(),
    Function::new("Split", &[P::Str, P::Str], R::Texts, |cx, args| split(cx, args, false, false)).fails(),
    Function::new("SplitN", &[P::Str, P::Str, P::Int], R::Texts, |cx, args| split(cx, args, false, true)).fails(),
    Function::new("SplitAfter", &[P::Str, P::Str], R::Texts, |cx, args| split(cx, args, true, false)).fails(),
    Function::new("SplitAfterN", &[P::Str, P::Str, P::Int], R::Texts, |cx, args| split(cx, args, true, true)).fails(),
    Function::new("split", &[P::Str, P::Str, P::Int], R::Texts, |cx, args| split(cx, args, false, args.len() > 2))
        .optional(1)
        .fails(),
    Function::new("splitAfter", &[P::Str, P::Str, P::Int], R::Texts, |cx, args| split(cx, args, true, args.len() > 2))
        .optional(1)
        .fails(),
    Function::new("Join", &[P::Texts, P::Str], R::Str, join).fails(),
    Function::new("join", &[P::List, P::Str], R::From(join_type), join).optional(1).fails(),
    Function::new("Replace", &[P::Str, P::Str, P::Str, P::Int], R::Str, replace).fails(),
    Function::new("ReplaceAll", &[P::Str, P::Str, P::Str], R::Str, replace).fails(),
    Function::new("replace", &[P::Str, P::Str, P::Str, P::Int], R::Str, replace).optional(1).fails(),
    Function::new("repeat", &[P::Str, P::Int], R::Str, repeat).fails(),
    Function::new("Trim", &[P::Str, P::Str], R::Str, |_, args| trim(args, true, true)).nature(Nature::Cheap),
    Function::new("TrimLeft", &[P::Str, P::Str], R::Str, |_, args| trim(args, true, false)).nature(Nature::Cheap),
    Function::new("TrimRight", &[P::Str, P::Str], R::Str, |_, args| trim(args, false, true)).nature(Nature::Cheap),
    Function::new("TrimSpace", &[P::Str], R::Str, |_, args| cut(args, str::trim)).nature(Nature::Cheap),
    Function::new("trim", &[P::Str, P::Str], R::Str, |_, args| trim(args, true, true))
        .optional(1)
        .nature(Nature::Cheap),
    Function::new("TrimPrefix", &[P::Str, P::Str], R::Str, trim_prefix).nature(Nature::Cheap),
    Function::new("TrimSuffix", &[P::Str, P::Str], R::Str, trim_suffix).nature(Nature::Cheap),
    Function::new("trimPrefix", &[P::Str, P::Str], R::Str, trim_prefix).optional(1).nature(Nature::Cheap),
    Function::new("trimSuffix", &[P::Str, P::Str], R::Str, trim_suffix).optional(1).nature(Nature::Cheap),
    Function::new("Index", &[P::Str, P::Str], R::Int, index_of).nature(Nature::Cheap),
    Function::new("indexOf", &[P::Str, P::Str], R::Int, index_of).nature(Nature::Cheap),
    Function::new("lastIndexOf", &[P::Str, P::Str], R::Int, last_index_of).nature(Nature::Cheap),
    Function::new("IndexAny", &[P::Str, P::Str], R::Int, index_any).nature(Nature::Cheap),
    Function::new("hasPrefix", &[P::Str, P::Str], R::Bool, |_, args| {
        Ok(Value::Bool(text(args, 0)?.starts_with(text(args, 1)?)))
    })
    .nature(Nature::Cheap),
    Function::new("hasSuffix", &[P::Str, P::Str], R::Bool, |_, args| {
        Ok(Value::Bool(text(args, 0)?.ends_with(text(args, 1)?)))
    })
    .nature(Nature::Cheap),
    Function::new("Get", &[P::Texts, P::Int], R::Str, get).fails().nature(Nature::Cheap),
    Function::new("ToString", &[P::Any], R::Str, |_, args| {
        Ok(match args {
            [value @ Value::Str(_)] => value.clone(),
            _ => Value::text(""),
        })
    })
    .nature(Nature::Cheap),
    Function::new("Match", &[P::Str, P::Str], R::Bool, |_, args| Ok(Value::Bool(glob(text(args, 0)?, text(args, 1)?)))),
    Function::new("basename", &[P::Str], R::Str, basename).nature(Nature::Cheap),
];

/// A part of argument 0 that borrows when the argument does.
fn cut<'a>(args: &[Value<'a>], of: impl FnOnce(&str) -> &str) -> Outcome<Value<'a>> {
    match args.first() {
        Some(Value::Str(Cow::Borrowed(text))) => {
            let part = of(text);
            // the part lies within the text, so its place is found again in the longer-lived borrow
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            Ok(text.get(start..start + part.len()).map_or_else(|| Value::owned(part), Value::text))
        }
        Some(Value::Str(text)) => Ok(Value::owned(of(text))),
        _ => Err(EvalError::new("not a string")),
    }
}

/// Changes letters one by one: no letter becomes several.
fn map_letters<'a>(
    args: &[Value<'a>],
    ascii: fn(&u8) -> u8,
    unchanged: fn(&u8) -> bool,
    other: fn(char) -> char,
) -> Outcome<Value<'a>> {
    let Some(value @ Value::Str(text)) = args.first() else {
        return Err(EvalError::new("not a string"));
    };
    if text.is_ascii() {
        if text.bytes().all(|byte| unchanged(&byte)) {
            return Ok(value.clone());
        }
        // mapped ASCII stays ASCII, so nothing is lost
        let bytes: Vec<u8> = text.bytes().map(|byte| ascii(&byte)).collect();
        return Ok(Value::owned(String::from_utf8(bytes).unwrap_or_default()));
    }
    Ok(Value::owned(text.chars().map(other).collect::<String>()))
}

fn single(mut mapped: impl ExactSizeIterator<Item = char>, c: char) -> char {
    if mapped.len() == 1 { mapped.next().unwrap_or(c) } else { c }
}

/// One-to-one upper case.
fn upper_char(c: char) -> char {
    single(c.to_uppercase(), c)
}

/// One-to-one lower case.
fn lower_char(c: char) -> char {
    match c {
        // the only letter whose lower case is several characters
        'İ' => 'i',
        c => single(c.to_lowercase(), c),
    }
}

/// Upper case, letter by letter.
pub(crate) fn upper_text(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_uppercase() } else { text.chars().map(upper_char).collect() }
}

/// Lower case, letter by letter.
pub(crate) fn lower_text(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.chars().map(lower_char).collect() }
}

fn upper<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    map_letters(args, u8::to_ascii_uppercase, |byte| !byte.is_ascii_lowercase(), upper_char)
}

fn lower<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    map_letters(args, u8::to_ascii_lowercase, |byte| !byte.is_ascii_uppercase(), lower_char)
}

fn fields<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let parts: Vec<Cow<'a, str>> = match args.first() {
        Some(Value::Str(Cow::Borrowed(text))) => text.split_whitespace().map(Cow::Borrowed).collect(),
        _ => text(args, 0)?.split_whitespace().map(|part| Cow::Owned(part.to_owned())).collect(),
    };
    cx.spend(parts.len())?;
    Ok(Value::texts(parts))
}

fn split<'a>(cx: &mut Cx<'a>, args: &[Value<'a>], after: bool, limited: bool) -> Outcome<Value<'a>> {
    let separator = text(args, 1)?;
    let limit = if limited { int(args, 2)? } else { -1 };
    let parts: Vec<Cow<'a, str>> = match args.first() {
        Some(Value::Str(Cow::Borrowed(text))) => {
            pieces(text, separator, after, limit).into_iter().map(Cow::Borrowed).collect()
        }
        _ => pieces(text(args, 0)?, separator, after, limit)
            .into_iter()
            .map(|part| Cow::Owned(part.to_owned()))
            .collect(),
    };
    cx.spend(parts.len())?;
    Ok(Value::texts(parts))
}

/// At most `limit` pieces (all when negative); an empty separator cuts after every code point.
fn pieces<'t>(text: &'t str, separator: &str, after: bool, limit: i64) -> Vec<&'t str> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 {
        return Vec::new();
    }
    let mut parts = Vec::new();
    let mut rest = text;
    if separator.is_empty() {
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == limit {
                parts.push(rest);
                break;
            }
            let (part, tail) = rest.split_at(c.len_utf8());
            parts.push(part);
            rest = tail;
        }
        return parts;
    }
    while parts.len() + 1 < limit {
        let Some(at) = memmem::find(rest.as_bytes(), separator.as_bytes()) else {
            break;
        };
        let end = at + separator.len();
        parts.push(&rest[..if after { end } else { at }]);
        rest = &rest[end..];
    }
    parts.push(rest);
    parts
}

fn join_type(args: &[Type]) -> Result<Type, String> {
    match args.first() {
        Some(Type::List(element) | Type::Generic(element)) if !matches!(**element, Type::String | Type::Any) => {
            Err(format!("`join` takes a list of strings, found a list of {element}"))
        }
        _ => Ok(Type::String),
    }
}

fn join<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let separator = if args.len() > 1 { text(args, 1)? } else { "" };
    let mut whole = String::new();
    for (at, item) in items(args, 0)?.iter().enumerate() {
        let part = item.as_str().ok_or_else(|| EvalError::new(format!("cannot join {}", item.kind())))?;
        cx.spend_bytes(part.len() + separator.len())?;
        if at > 0 {
            whole.push_str(separator);
        }
        whole.push_str(part);
    }
    Ok(Value::owned(whole))
}

fn replace<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let (source, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let limit = if args.len() > 3 { int(args, 3)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let count =
        if old.is_empty() { source.chars().count() + 1 } else { memmem::find_iter(source.as_bytes(), old).count() };
    let count = count.min(limit);
    if count == 0 {
        return Ok(args.first().cloned().unwrap_or(Value::Nil));
    }
    cx.spend_bytes(source.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(Value::owned(source.replacen(old, new, count)))
}

fn repeat<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let (source, times) = (text(args, 0)?, int(args, 1)?);
    let times = usize::try_from(times).map_err(|_| EvalError::new("repeat count must not be negative"))?;
    cx.spend(times)?;
    cx.spend_bytes(source.len().saturating_mul(times))?;
    Ok(Value::owned(source.repeat(times)))
}

fn trim<'a>(args: &[Value<'a>], left: bool, right: bool) -> Outcome<Value<'a>> {
    if args.len() < 2 {
        return cut(args, str::trim);
    }
    let set = text(args, 1)?;
    let inside = |c: char| set.contains(c);
    cut(args, |text| {
        let text = if left { text.trim_start_matches(inside) } else { text };
        if right { text.trim_end_matches(inside) } else { text }
    })
}

fn trim_prefix<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let prefix = if args.len() > 1 { text(args, 1)? } else { " " };
    cut(args, |text| text.strip_prefix(prefix).unwrap_or(text))
}

fn trim_suffix<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let suffix = if args.len() > 1 { text(args, 1)? } else { " " };
    cut(args, |text| text.strip_suffix(suffix).unwrap_or(text))
}

fn position<'a>(found: Option<usize>) -> Outcome<Value<'a>> {
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn index_of<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    position(memmem::find(text(args, 0)?.as_bytes(), text(args, 1)?.as_bytes()))
}

fn last_index_of<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    position(memmem::rfind(text(args, 0)?.as_bytes(), text(args, 1)?.as_bytes()))
}

fn index_any<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let set = text(args, 1)?;
    position(text(args, 0)?.find(|c| set.contains(c)))
}

fn get<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let list: &List<'a> = items(args, 0)?;
    let at = usize::try_from(int(args, 1)?).map_err(|_| EvalError::new("index out of range"))?;
    Ok(list.get(at).unwrap_or(Value::text("")))
}

/// `*` is any run, `?` one byte; the whole text must fit.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, from)) => {
                    (p, t) = (after, from + 1);
                    retry = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    // the reference gives up on more than one star once the text is used up
    pattern.get(p..).is_some_and(|rest| rest.is_empty() || rest == b"*")
}

fn basename<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let path = text(args, 0)?;
    if path.is_empty() {
        return Ok(Value::text("."));
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return Ok(Value::text("/"));
    }
    Ok(Value::owned(trimmed.rsplit('/').next().unwrap_or(trimmed)))
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs() {
        let cases = [
            ("*.php", "/a/b.php", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/ac", false),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("a**", "a", false),
            ("*a*b*", "xxaxxbxx", true),
            ("[a]", "a", false),
            ("a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(glob(pattern, text), want, "{pattern} on {text}");
        }
    }
}
