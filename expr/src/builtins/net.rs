//! Addresses and ranges.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::text;
use crate::library::{Function, P, R};
use crate::program::{Cx, Outcome};
use crate::value::Value;

pub(crate) const ROWS: &[Function] = &[
    Function::new("IsIP", &[P::Str], R::Bool, |_, args| is(args, |_| true)),
    Function::new("IsIPV4", &[P::Str], R::Bool, |_, args| is(args, |ip| ip.is_ipv4())),
    Function::new("IsIPV6", &[P::Str], R::Bool, |_, args| is(args, |ip| ip.is_ipv6())),
    Function::new("IpInRange", &[P::Str, P::Str], R::Bool, ip_in_range),
    Function::new("IpToRange", &[P::Str, P::Str], R::Str, ip_to_range),
];

/// An address; one that maps IPv4 into IPv6 is IPv4.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn is<'a>(args: &[Value<'a>], which: fn(IpAddr) -> bool) -> Outcome<Value<'a>> {
    Ok(Value::Bool(address(text(args, 0)?).is_some_and(which)))
}

/// A range; host bits are ignored, and one of mapped addresses is one of IPv4.
pub(crate) fn range(text: &str) -> Option<IpNet> {
    let (address, bits) = text.split_once('/')?;
    if bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    Some(match address.parse().ok()? {
        IpAddr::V4(ip) => IpNet::V4(Ipv4Net::new(ip, bits).ok()?.trunc()),
        IpAddr::V6(ip) => match (ip.to_ipv4_mapped(), bits.checked_sub(96)) {
            (Some(ip), Some(bits)) => IpNet::V4(Ipv4Net::new(ip, bits).ok()?.trunc()),
            _ => IpNet::V6(Ipv6Net::new(ip, bits).ok()?.trunc()),
        },
    })
}

fn ip_in_range<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let found = match (address(text(args, 0)?), range(text(args, 1)?)) {
        (Some(ip), Some(range)) => range.contains(&ip),
        _ => false,
    };
    Ok(Value::Bool(found))
}

fn ip_to_range<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let (ip, bits) = (text(args, 0)?, text(args, 1)?);
    let bits = bits.strip_prefix('/').unwrap_or(bits);
    // a zone is dropped; mapped addresses stay IPv6 here
    let ip = match ip.split_once('%') {
        Some((ip, zone)) if !zone.is_empty() && ip.contains(':') => ip,
        _ => ip,
    };
    let net = ip.parse::<IpAddr>().ok().zip(bits.parse::<u8>().ok()).and_then(|(ip, bits)| IpNet::new(ip, bits).ok());
    Ok(Value::owned(net.map(|net| net.trunc().to_string()).unwrap_or_default()))
}
