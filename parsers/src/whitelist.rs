//! Whom a node trusts: addresses, prefixes and expressions (spec: parsers 6).
//!
//! Families never mix: an IPv4 address written as IPv6 equals no IPv4 entry. An address with a zone equals only itself.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use expr::{Program, Value};
use ipnet::IpNet;
use model::yaml::Fault;
use model::{Event, fields};

use crate::Context;
use crate::config::WhitelistConfig;
use crate::dispatch::Index;
use crate::node::{Build, Run, program};
use crate::trace::NodeTrace;

/// A whitelist, ready to run.
#[derive(Debug)]
pub(crate) struct Whitelist {
    /// Number of a text of the rule set.
    pub(crate) reason: u32,
    /// Number of the memory of whom it trusts.
    memory: usize,
    addresses: HashSet<Address>,
    prefixes: Vec<IpNet>,
    expressions: Vec<Program>,
    /// Which expressions could be true, where there are many, and the number of its memory.
    index: Option<(Index, usize)>,
}

/// Expressions from which on an index over them pays.
const WORTH_AN_INDEX: usize = 4;

/// An address, with the zone that an IPv6 address may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Address {
    ip: IpAddr,
    zone: Option<Box<str>>,
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('%') {
            None => Some(Self { ip: text.parse().ok()?, zone: None }),
            Some((ip, zone)) => {
                let ip: Ipv6Addr = ip.parse().ok()?;
                (!zone.is_empty()).then(|| Self { ip: ip.into(), zone: Some(zone.into()) })
            }
        }
    }
}

impl Whitelist {
    pub(crate) fn build(config: &WhitelistConfig, build: &mut Build<'_, '_>) -> Result<Self, Fault> {
        let address = |text: &model::yaml::Text| {
            Address::parse(text).ok_or_else(|| {
                Fault::new(text.line, format!("`{}` is not an IP address", &**text))
                    .hint("write one address such as `192.0.2.1` or `2001:db8::1`; prefixes belong under `cidr`")
            })
        };
        let prefix = |text: &model::yaml::Text| {
            text.parse::<IpNet>().map_err(|_| {
                Fault::new(text.line, format!("`{}` is not a prefix", &**text))
                    .hint("write a prefix such as `198.51.100.0/24`; single addresses belong under `ip`")
            })
        };
        let expressions: Vec<Program> =
            config.expression.iter().map(|source| program(source, build)).collect::<Result<_, _>>()?;
        let indexed =
            expressions.len() >= WORTH_AN_INDEX && !expressions.iter().any(|expression| expression.facts().effect);
        let whitelist = Self {
            index: indexed.then(|| (Index::new(expressions.iter().map(Some)), build.counts.candidates())),
            reason: build.text(&config.reason),
            memory: build.counts.truth(),
            addresses: config.ip.iter().map(address).collect::<Result<_, _>>()?,
            prefixes: config.cidr.iter().map(prefix).collect::<Result<_, _>>()?,
            expressions,
        };
        build.touches.writes.insert(fields::WHITELIST_REASON);
        if whitelist.asks_addresses() {
            build.touches.reads.insert(fields::SOURCE_IP);
        }
        Ok(whitelist)
    }

    /// Whether it looks at the source of the event.
    pub(crate) fn asks_addresses(&self) -> bool {
        !self.addresses.is_empty() || !self.prefixes.is_empty()
    }

    fn trusts(&self, text: &str) -> bool {
        Address::parse(text).is_some_and(|address| {
            let within = address.zone.is_none() && self.prefixes.iter().any(|prefix| prefix.contains(&address.ip));
            within || self.addresses.contains(&address)
        })
    }

    /// Whether it matches the event.
    pub(crate) fn matches(
        &self,
        run: &Run<'_>,
        event: &Event,
        cx: &Context<'_>,
        mut trace: Option<&mut NodeTrace>,
    ) -> bool {
        let address = self.asks_addresses()
            && match event.overflow() {
                Some(overflow) => overflow.sources.keys().any(|source| self.trusts(source)),
                None => event.get(fields::SOURCE_IP).is_some_and(|source| {
                    let find = || Some(self.trusts(source));
                    let trusted = cx.scratch.answers.borrow_mut().truth(self.memory).get_or(
                        source,
                        |_| true,
                        find,
                        |known| *known,
                    );
                    trusted == Some(true)
                }),
            };
        if address {
            return true;
        }
        let vars = [Value::Object(event)];
        let env = cx.env(&vars);
        let mut answers = cx.scratch.answers.borrow_mut();
        let possible = match (&self.index, &trace) {
            (Some((index, number)), None) => {
                let candidates = answers.candidates(*number);
                index.find(event, &env, candidates);
                Some(&candidates.nodes)
            }
            _ => None,
        };
        for (number, expression) in self.expressions.iter().enumerate() {
            if possible.is_some_and(|possible| possible.next(number) != Some(number)) {
                continue;
            }
            let result = expression.eval_bool(&env);
            if expression.facts().effect {
                cx.changed();
            }
            match result {
                Ok(Some(true)) => return true,
                Ok(Some(false)) => {}
                Ok(None) => run.problem(trace.as_deref_mut(), || {
                    format!("whitelist expression `{}` gives no truth value", expression.source())
                }),
                Err(error) => {
                    run.problem(trace, || format!("whitelist expression `{}`: {error}", expression.source()));
                    return false;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_zones_do_not_mix() {
        let whitelist = Whitelist {
            reason: 0,
            memory: 0,
            addresses: ["192.0.2.1", "fe80::1%eth0"].into_iter().filter_map(Address::parse).collect(),
            prefixes: ["198.51.100.7/24", "fe80::/10"].into_iter().filter_map(|text| text.parse().ok()).collect(),
            expressions: Vec::new(),
            index: None,
        };
        let cases: &[(&str, bool)] = &[
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("::ffff:192.0.2.1", false),
            ("198.51.100.200", true),
            ("::ffff:198.51.100.1", false),
            ("fe80::2", true),
            ("fe80::2%eth0", false),
            ("fe80::1%eth0", true),
            ("192.0.2.01", false),
            ("not an address", false),
            ("", false),
        ];
        for (source, trusted) in cases {
            assert_eq!(whitelist.trusts(source), *trusted, "{source}");
        }
    }
}
