//! Addresses of pages: escapes and queries.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::rc::Rc;

use super::text;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome};
use crate::types::Type;
use crate::value::{List, Map, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("PathUnescape", &[P::Str], R::Str, |_, args| unescape(args, false)),
    Function::new("QueryUnescape", &[P::Str], R::Str, |_, args| unescape(args, true)),
    Function::new("PathEscape", &[P::Str], R::Str, |_, args| Ok(Value::owned(escape(text(args, 0)?, false)))),
    Function::new("QueryEscape", &[P::Str], R::Str, |_, args| Ok(Value::owned(escape(text(args, 0)?, true)))),
    Function::new("ParseUri", &[P::Str], R::From(query_type), parse_uri).fails(),
    Function::new("ParseQuery", &[P::Str], R::From(query_type), |cx, args| {
        query_value(cx, parse_query(text(args, 0)?))
    })
    .fails(),
    Function::new("ExtractQueryParam", &[P::Str, P::Str], R::Texts, extract_query_param).fails(),
];

/// What a parsed query can be asked.
pub(crate) const QUERY_METHODS: &[Function] = &[
    Function::new("Get", &[P::Query, P::Str], R::Str, |_, args| {
        let first = lookup(args)?.and_then(|list| list.get(0));
        Ok(first.unwrap_or(Value::text("")))
    })
    .nature(Nature::Cheap),
    Function::new("Has", &[P::Query, P::Str], R::Bool, |_, args| Ok(Value::Bool(lookup(args)?.is_some())))
        .nature(Nature::Cheap),
];

fn query_type(_: &[Type]) -> Result<Type, String> {
    Ok(P::Query.ty())
}

fn lookup<'a>(args: &[Value<'a>]) -> Outcome<Option<List<'a>>> {
    let key = text(args, 1)?;
    Ok(match args.first() {
        Some(Value::Map(map)) => match map.get(key) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        },
        _ => None,
    })
}

fn unescape<'a>(args: &[Value<'a>], query: bool) -> Outcome<Value<'a>> {
    let source = text(args, 0)?;
    if !source.bytes().any(|byte| byte == b'%' || (query && byte == b'+')) {
        return Ok(args.first().cloned().unwrap_or(Value::Nil));
    }
    Ok(match decode(source, query) {
        Some(decoded) => Value::owned(decoded),
        None => args.first().cloned().unwrap_or(Value::Nil),
    })
}

fn hex(byte: Option<&u8>) -> Option<u8> {
    byte.and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8)
}

/// Percent-decoding; `None` on a malformed escape.
fn decode(source: &str, query: bool) -> Option<String> {
    decode_bytes(source, query, false).map(into_text)
}

fn decode_bytes(source: &str, query: bool, lenient: bool) -> Option<Vec<u8>> {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => match (hex(bytes.get(at)), hex(bytes.get(at + 1))) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    at += 2;
                }
                _ if lenient => out.push(b'%'),
                _ => return None,
            },
            b'+' if query => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    Some(out)
}

fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn escape(source: &str, query: bool) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(source.len());
    for byte in source.bytes() {
        let keep = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'~')
            || (!query && matches!(byte, b'$' | b'&' | b'+' | b':' | b'=' | b'@'));
        if keep {
            out.push(char::from(byte));
        } else if query && byte == b' ' {
            out.push('+');
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

type Query = Vec<(String, Vec<String>)>;

fn gather(pairs: impl Iterator<Item = (String, String)>) -> Query {
    let mut at: HashMap<String, usize> = HashMap::new();
    let mut query: Query = Vec::new();
    for (key, value) in pairs {
        let index = *at.entry(key.clone()).or_insert_with(|| {
            query.push((key, Vec::new()));
            query.len() - 1
        });
        query[index].1.push(value);
    }
    query
}

fn split_pair(piece: &str) -> (&str, &str) {
    piece.split_once('=').unwrap_or((piece, ""))
}

/// A query read leniently: bad escapes stay as they are.
fn parse_query(source: &str) -> Query {
    let lenient = |text: &str| into_text(decode_bytes(text, true, true).unwrap_or_default());
    gather(source.split('&').filter(|piece| !piece.is_empty()).map(|piece| {
        let (key, value) = split_pair(piece);
        (lenient(key), lenient(value))
    }))
}

/// A query read strictly: `None` on a bad escape or a semicolon.
fn parse_query_strict(source: &str) -> Option<Query> {
    let mut pairs = Vec::new();
    for piece in source.split('&').filter(|piece| !piece.is_empty()) {
        if piece.contains(';') {
            return None;
        }
        let (key, value) = split_pair(piece);
        pairs.push((decode(key, true)?, decode(value, true)?));
    }
    Some(gather(pairs.into_iter()))
}

fn query_value<'a>(cx: &mut Cx<'a>, query: Query) -> Outcome<Value<'a>> {
    cx.spend(query.len())?;
    let texts = |values: Vec<String>| -> Rc<[Cow<'a, str>]> { values.into_iter().map(Cow::Owned).collect() };
    Ok(Value::Map(Map::Texts(query.into_iter().map(|(key, values)| (Cow::Owned(key), texts(values))).collect())))
}

fn parse_uri<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let (uri, fragment) = split_or_all(text(args, 0)?, '#');
    let query = uri.split_once('?').and_then(|(place, query)| {
        let readable = !uri.bytes().any(|byte| byte.is_ascii_control()) && well_escaped(fragment) && is_place(place);
        if readable { parse_query_strict(query) } else { None }
    });
    query_value(cx, query.unwrap_or_default())
}

/// What stands before and after the first `at`; without one all stands before.
fn split_or_all(text: &str, at: char) -> (&str, &str) {
    text.split_once(at).unwrap_or((text, ""))
}

fn well_escaped(text: &str) -> bool {
    escapes(text).all(|escape| escape.is_some())
}

/// The byte of every escape; `None` for a malformed one.
fn escapes(text: &str) -> impl Iterator<Item = Option<u8>> {
    text.split('%').skip(1).map(|rest| {
        let bytes = rest.as_bytes();
        Some(hex(bytes.first())? << 4 | hex(bytes.get(1))?)
    })
}

/// Whether the part of an address before its query is one that Go reads.
fn is_place(place: &str) -> bool {
    let (scheme, rest) = match scheme_end(place) {
        Some(0) => return false,
        Some(end) => (&place[..end], &place[end + 1..]),
        None => ("", place),
    };
    match rest.strip_prefix("//") {
        Some(rest) if !scheme.is_empty() || !rest.starts_with('/') => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            is_authority(scheme, authority) && well_escaped(path)
        }
        _ if rest.starts_with('/') => well_escaped(rest),
        // what follows a scheme without a slash is nobody's business
        _ if !scheme.is_empty() => true,
        // a colon in front of the first slash would be that of a scheme
        _ => !split_or_all(rest, '/').0.contains(':') && well_escaped(rest),
    }
}

/// Where the colon after the scheme stands: 0 if nothing stands before it.
fn scheme_end(place: &str) -> Option<usize> {
    let end = place.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'))?;
    let letter_first = end == 0 || place.starts_with(|c: char| c.is_ascii_alphabetic());
    (letter_first && place[end..].starts_with(':')).then_some(end)
}

/// Who and where: `user:password@host:port`.
fn is_authority(scheme: &str, authority: &str) -> bool {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    user.bytes().all(known) && well_escaped(user) && is_host(scheme, host)
}

fn is_host(scheme: &str, host: &str) -> bool {
    if let Some(literal) = host.strip_prefix('[') {
        let parts = literal.rsplit_once(']').filter(|_| !literal.contains('['));
        return parts.is_some_and(|(address, port)| is_address(address) && is_port(port));
    }
    // databases take a list of hosts, each with its port, so only the last of them is looked at
    let web = ["http", "https"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
    let port = if web { host.find(':') } else { host.rfind(':') };
    // no part of the name can be written as an escape but what is not ASCII, and the percent sign
    let escaped = escapes(host).all(|byte| byte.is_some_and(|byte| byte >= 0x80 || byte == b'%'));
    !host.contains('[') && escaped && host.bytes().all(in_host) && port.is_none_or(|at| is_port(&host[at..]))
}

/// An IPv6 address, perhaps with a zone after `%25`.
fn is_address(text: &str) -> bool {
    let (address, zone) = match text.split_once("%25") {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let is_zone = |zone: &str| {
        let escaped = |byte: u8| byte == b'%' || byte == b' ' || byte < 0x80 && in_host(byte);
        !zone.is_empty() && zone.bytes().all(in_host) && escapes(zone).all(|byte| byte.is_some_and(escaped))
    };
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(is_zone)
}

/// Nothing, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a byte may stand in the name of a host; a percent sign begins an escape.
fn in_host(byte: u8) -> bool {
    byte >= 0x80 || byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"%".contains(&byte)
}

fn extract_query_param<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let (uri, name) = (text(args, 0)?, text(args, 1)?);
    let query = uri.split_once('?').map(|(_, query)| parse_query(query)).unwrap_or_default();
    let values = query.into_iter().find(|(key, _)| key == name).map(|(_, values)| values).unwrap_or_default();
    cx.spend(values.len())?;
    Ok(Value::texts(values.into_iter().map(Cow::Owned)))
}
