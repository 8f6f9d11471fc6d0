//! Data files.

use std::net::{IpAddr, SocketAddr};

use super::net::address;
use super::text;
use crate::files::Visit;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome};
use crate::types::Type;
use crate::value::{List, Map, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("File", &[P::Str], R::Texts, file).nature(Nature::Cheap),
    Function::new("RegexpInFile", &[P::Str, P::Str], R::Bool, regexp_in_file),
    Function::new("FileMap", &[P::Str], R::From(rows_type), file_map).fails(),
    Function::new("LookupFile", &[P::Str, P::Str], R::Str, lookup_file),
    Function::new("MatchKnownBot", &[P::Str, P::Str, P::Str, P::Str], R::Bool, match_known_bot)
        .rest()
        .nature(Nature::Volatile),
];

/// Most names of an address that are asked back.
const MAX_NAMES: usize = 3;

fn rows_type(_: &[Type]) -> Result<Type, String> {
    Ok(Type::List(Box::new(Type::Map(Box::new(Type::String)))))
}

fn missing(cx: &Cx<'_>, name: &str) {
    cx.env.host.log(&format!("file `{name}` is not loaded"));
}

fn file<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let name = text(args, 0)?;
    let lines = cx.env.host.files().lines(name).unwrap_or_else(|| {
        missing(cx, name);
        &[]
    });
    Ok(Value::List(List::Lines(lines)))
}

fn regexp_in_file<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let name = text(args, 1)?;
    let found = cx.env.host.files().any_regex(name, text(args, 0)?, cx.env.memo);
    if found.is_none() {
        missing(cx, name);
    }
    Ok(Value::Bool(found.unwrap_or(false)))
}

fn file_map<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let name = text(args, 0)?;
    let rows = cx.env.host.files().rows(name).unwrap_or_else(|| {
        missing(cx, name);
        &[]
    });
    cx.spend(rows.len())?;
    Ok(Value::List(List::Typed(rows.iter().map(|row| Value::Map(Map::Pairs(row))).collect())))
}

fn lookup_file<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let name = text(args, 1)?;
    let tag = cx.env.host.files().lookup(name, text(args, 0)?);
    if tag.is_none() {
        missing(cx, name);
    }
    Ok(Value::text(tag.unwrap_or("")))
}

/// An address as logs write it: with a port or a zone, perhaps.
fn visitor(text: &str) -> Option<IpAddr> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip().to_canonical());
    }
    address(text.split_once('%').map_or(text, |(ip, _)| ip))
}

fn match_known_bot<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let (user_agent, path) = (text(args, 1)?, text(args, 2)?);
    let Some(ip) = visitor(text(args, 0)?) else { return Ok(Value::Bool(false)) };
    let visit = Visit { ip, user_agent, path };
    let host = cx.env.host;
    let mut files = Vec::new();
    for at in 3..args.len() {
        let name = text(args, at)?;
        match host.files().bots(name) {
            Some(file) => files.push(file),
            None => missing(cx, name),
        }
    }
    if files.iter().any(|file| file.proven_by_address(visit)) {
        return Ok(Value::Bool(true));
    }
    // names cost a look-up: only for who would be proven by one
    if !files.iter().any(|file| file.wants_names(visit)) {
        return Ok(Value::Bool(false));
    }
    let names = host.lookup_addr(ip);
    let proven = names.iter().take(MAX_NAMES).any(|name| {
        let name = name.trim_end_matches('.').to_lowercase();
        files.iter().any(|file| file.proven_by_name(visit, &name))
            && host.lookup_host(&name).iter().any(|found| address(found) == Some(ip))
    });
    Ok(Value::Bool(proven))
}
