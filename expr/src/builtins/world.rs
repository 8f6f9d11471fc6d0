//! What only the world outside knows: decisions, stashes, names, reputation, pages.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::net::address;
use super::{format, record, text};
use crate::duration;
use crate::env::{DecisionQuery, Geo};
use crate::error::EvalError;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome, field};
use crate::types::Type;
use crate::value::{Map, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("Hostname", &[], R::Str, |cx, _| Ok(Value::owned(cx.env.host.hostname()))).nature(Nature::Volatile),
    Function::new("LogInfo", &[P::Str, P::Any], R::Bool, |cx, args| {
        cx.env.host.log(&format::format(text(args, 0)?, args.get(1..).unwrap_or_default()));
        Ok(Value::Bool(true))
    })
    .rest()
    .nature(Nature::Acts),
    Function::new("GetFromStash", &[P::Str, P::Str], R::Str, |cx, args| {
        Ok(Value::owned(cx.env.host.stash(text(args, 0)?, text(args, 1)?).unwrap_or_default()))
    })
    .nature(Nature::Volatile),
    Function::new("SetInStash", &[P::Str, P::Str, P::Str, P::Unreachable], R::Any, |_, _| {
        Err(EvalError::new("SetInStash needs a pointer to a duration, which no expression has"))
    })
    .fails()
    .nature(Nature::Acts),
    Function::new("LookupHost", &[P::Str], R::Texts, |cx, args| {
        let found = cx.env.host.lookup_host(text(args, 0)?);
        cx.spend(found.len())?;
        Ok(Value::texts(found.into_iter().map(Cow::Owned)))
    })
    .fails()
    .nature(Nature::Volatile),
    Function::new("GeoIPEnrich", &[P::Str], R::From(|_| Ok(record::pointer(&record::CITY))), |cx, args| {
        geo(cx, args, Geo::City)
    })
    .fails(),
    Function::new("GeoIPASNEnrich", &[P::Str], R::From(|_| Ok(record::pointer(&record::ASN))), |cx, args| {
        geo(cx, args, Geo::Asn)
    })
    .fails(),
    Function::new("GeoIPRangeEnrich", &[P::Str], R::From(|_| Ok(record::pointer(&record::NETWORK))), |cx, args| {
        geo(cx, args, Geo::Range)
    })
    .fails(),
    Function::new("IPToCountry", &[P::Str], R::Str, ip_to_country),
    Function::new("GetDecisionsCount", &[P::Str], R::Int, |cx, args| {
        Ok(count(cx, DecisionQuery::Count, text(args, 0)?))
    })
    .nature(Nature::Volatile),
    Function::new("GetDecisionsSinceCount", &[P::Str, P::Str], R::Int, |cx, args| {
        let value = text(args, 0)?;
        Ok(match duration::parse_with_days(text(args, 1)?) {
            Ok(since) => count(cx, DecisionQuery::CountSince(since), value),
            Err(_) => Value::Int(0),
        })
    })
    .nature(Nature::Volatile),
    Function::new("GetActiveDecisionsCount", &[P::Str], R::Int, |cx, args| {
        let found = cx.env.host.decisions(DecisionQuery::Active, text(args, 0)?);
        Ok(Value::Int(found.transpose()?.unwrap_or(0)))
    })
    .fails()
    .nature(Nature::Volatile),
    Function::new("GetActiveDecisionsTimeLeft", &[P::Str], R::Duration, |cx, args| {
        // without a database the reference gives a plain integer here
        let found = cx.env.host.decisions(DecisionQuery::TimeLeft, text(args, 0)?);
        Ok(found.transpose()?.map_or(Value::Int(0), Value::Duration))
    })
    .fails()
    .nature(Nature::Volatile),
    Function::new("CrowdsecCTI", &[P::Str], R::From(|_| Ok(record::pointer(&record::REPUTATION))), |cx, args| {
        let ip = text(args, 0)?;
        if address(ip).is_none() {
            return Err(EvalError::new(format!("{ip:?} is not an address")));
        }
        let item = cx.env.host.reputation(ip)?;
        Ok(record::made(&record::REPUTATION, item))
    })
    .fails()
    .nature(Nature::Volatile),
    Function::new("HTTPGet", &[P::Str], R::From(|_| Ok(record::pointer(&record::ANSWER))), |cx, args| {
        request(cx, "GET", text(args, 0)?, &[], "")
    })
    .fails()
    .nature(Nature::Acts),
    Function::new("HTTPHead", &[P::Str], R::From(|_| Ok(record::pointer(&record::ANSWER))), |cx, args| {
        request(cx, "HEAD", text(args, 0)?, &[], "")
    })
    .fails()
    .nature(Nature::Acts),
    Function::new(
        "HTTPPost",
        &[P::Str, P::Str, P::Str],
        R::From(|_| Ok(record::pointer(&record::ANSWER))),
        |cx, args| {
            let headers = [("Content-Type".to_owned(), text(args, 1)?.to_owned())];
            request(cx, "POST", text(args, 0)?, &headers, text(args, 2)?)
        },
    )
    .fails()
    .nature(Nature::Acts),
    Function::new(
        "HTTPRequest",
        &[P::Str, P::Str, P::Map, P::Str],
        R::From(|_| Ok(record::pointer(&record::ANSWER))),
        |cx, args| {
            let headers = match args.get(2) {
                Some(Value::Map(map)) => headers(map),
                _ => Vec::new(),
            };
            request(cx, text(args, 0)?, text(args, 1)?, &headers, text(args, 3)?)
        },
    )
    .fails()
    .nature(Nature::Acts),
    Function::new("JA4H", &[P::Any], R::From(|_| Ok(Type::String)), ja4h).fails(),
];

fn headers(map: &Map<'_>) -> Vec<(String, String)> {
    map.entries().iter().map(|(name, value)| (format::display(name), format::display(value))).collect()
}

fn count<'a>(cx: &mut Cx<'a>, query: DecisionQuery, value: &str) -> Value<'a> {
    match cx.env.host.decisions(query, value) {
        Some(Ok(count)) => Value::Int(count),
        Some(Err(error)) => {
            cx.env.host.log(&error.to_string());
            Value::Int(0)
        }
        None => Value::Int(0),
    }
}

fn geo<'a>(cx: &mut Cx<'a>, args: &[Value<'a>], kind: Geo) -> Outcome<Value<'a>> {
    let text = text(args, 0)?;
    let ip = address(text).ok_or_else(|| EvalError::new(format!("{text:?} is not an address")))?;
    let class = match kind {
        Geo::City => &record::CITY,
        Geo::Asn => &record::ASN,
        Geo::Range => &record::NETWORK,
    };
    Ok(cx.env.host.geo(kind, ip).map_or(Value::Nil, |found| record::made(class, found)))
}

fn ip_to_country<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let found = address(text(args, 0)?).and_then(|ip| cx.env.host.geo(Geo::City, ip));
    let code = ["country", "registered_country", "represented_country"].into_iter().find_map(|key| {
        found.as_ref()?.get(key)?.get("iso_code")?.as_str().filter(|code| !code.is_empty()).map(str::to_owned)
    });
    Ok(Value::owned(code.unwrap_or_default()))
}

fn request<'a>(
    cx: &mut Cx<'a>,
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: &str,
) -> Outcome<Value<'a>> {
    let answer = cx.env.host.http(method, url, headers, body)?;
    let headers: serde_json::Map<String, serde_json::Value> =
        answer.headers.into_iter().map(|(name, values)| (name, values.into())).collect();
    let answer = serde_json::json!({ "status_code": answer.status, "body": answer.body, "headers": headers });
    Ok(record::made(&record::ANSWER, answer))
}

/// The fingerprint of a request: what it looks like, its headers, its cookies.
fn ja4h<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let Some(request) = args.first().filter(|request| !request.is_nil()) else {
        return Ok(Value::text(""));
    };
    let member = |name: &str| field(request, name);
    let number = |name: &str| member(name).map(|value| value.as_int().unwrap_or(0));
    let Value::Map(header) = member("Header")? else {
        return Err(EvalError::new("JA4H takes a request"));
    };
    let mut names = Vec::new();
    let first_of = |wanted: &str| -> String {
        let found = header.get(wanted);
        match found {
            Some(Value::List(list)) => list.get(0).map(|value| format::display(&value)).unwrap_or_default(),
            Some(value) => format::display(&value),
            None => String::new(),
        }
    };
    let (referer, language) = (first_of("Referer"), first_of("Accept-Language"));
    let mut cookies: Vec<(String, String)> = Vec::new();
    for (name, value) in header.entries() {
        let name = format::display(&name);
        if name.eq_ignore_ascii_case("cookie") {
            let lines = match &value {
                Value::List(list) => list.iter().map(|line| format::display(&line)).collect(),
                other => vec![format::display(other)],
            };
            cookies.extend(lines.iter().flat_map(|line| line.split(';')).filter_map(|pair| {
                let (name, value) = pair.trim().split_once('=').unwrap_or((pair.trim(), ""));
                (!name.is_empty()).then(|| (name.to_owned(), value.trim_matches('"').to_owned()))
            }));
        }
        names.push(name);
    }
    cookies.sort();
    let method: String = format::display(&member("Method")?).to_lowercase().chars().take(2).collect();
    let counted = names.iter().filter(|name| !matches!(name.as_str(), "Cookie" | "Referer")).count().min(99);
    let mut language: String =
        language.split([',', ';']).next().unwrap_or("").to_lowercase().chars().filter(|c| *c != '-').take(4).collect();
    while language.len() < 4 {
        language.push('0');
    }
    let a = format!(
        "{method}{}{}{}{}{counted:02}{language}",
        number("ProtoMajor")?,
        number("ProtoMinor")?,
        if cookies.is_empty() { 'n' } else { 'c' },
        if referer.is_empty() { 'n' } else { 'r' },
    );
    names.retain(|name| !name.to_lowercase().starts_with("cookie") && name != "Referer");
    names.sort();
    let b = digest(&names.join(","));
    let (c, d) = if cookies.is_empty() {
        ("0".repeat(12), "0".repeat(12))
    } else {
        let keys: Vec<&str> = cookies.iter().map(|(name, _)| name.as_str()).collect();
        let pairs: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (digest(&keys.join(",")), digest(&pairs.join(",")))
    };
    Ok(Value::owned(format!("{a}_{b}_{c}_{d}")))
}

/// The first twelve hexadecimal digits of the SHA-256 of `text`.
fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let first = digest.iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{first:012x}")
}
