//! Tables, sets, chains and rules as values: how the kernel is told of them, and how `nft` would print them.
//!
//! Everything is written by ourselves, elements included, so one transaction can change rules and elements together,
//! and the host needs no `nft` program. [`Part`] is how another module (country policies) joins in: its sets and
//! rules are made, checked and healed together with ours.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::engine::span::{Family, Span, TimedSpan};
use crate::nftables::netlink::{Batch, Kind, attribute, begin, end, text};

/// What the keys of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// Names of network interfaces.
    Interface,
    /// TCP or UDP ports.
    Port,
}

impl KeyType {
    /// The number by which `nft` knows the type, the length in bytes, and whether it is in network order.
    fn wire(self) -> (u32, u32, bool) {
        match self {
            KeyType::V4 => (7, 4, true),
            KeyType::V6 => (8, 16, true),
            KeyType::Interface => (41, 16, false),
            KeyType::Port => (13, 2, true),
        }
    }

    fn name(self) -> &'static str {
        match self {
            KeyType::V4 => "ipv4_addr",
            KeyType::V6 => "ipv6_addr",
            KeyType::Interface => "ifname",
            KeyType::Port => "inet_service",
        }
    }
}

impl From<Family> for KeyType {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => KeyType::V4,
            Family::V6 => KeyType::V6,
        }
    }
}

/// How a set keeps its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// As disjoint ranges.
    Ranges,
    /// One by one, in a hash table.
    Single,
    /// One by one; each stands for the prefix of so many bits that begins with it.
    Prefix(u8),
}

/// Which set is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetRef {
    /// What its name begins with.
    pub stem: &'static str,
    /// What its keys are.
    pub key: KeyType,
    /// How it keeps them.
    pub shape: Shape,
    /// A set that takes another's place while that is still in use has the second of two names.
    pub second: bool,
}

impl SetRef {
    /// A set of ranges of addresses.
    pub const fn ranges(stem: &'static str, family: Family) -> Self {
        let key = match family {
            Family::V4 => KeyType::V4,
            Family::V6 => KeyType::V6,
        };
        Self { stem, key, shape: Shape::Ranges, second: false }
    }

    /// The same set in its other generation.
    pub fn in_generation(self, second: bool) -> Self {
        Self { second, ..self }
    }

    /// Its name in the kernel.
    pub fn name(&self) -> String {
        let second = if self.second { "_b" } else { "" };
        match self.shape {
            Shape::Prefix(bits) => format!("{}_{bits}{second}", self.stem),
            Shape::Ranges | Shape::Single => format!("{}{second}", self.stem),
        }
    }

    /// The family of its addresses; interfaces and ports have none.
    pub fn family(&self) -> Option<Family> {
        match self.key {
            KeyType::V4 => Some(Family::V4),
            KeyType::V6 => Some(Family::V6),
            KeyType::Interface | KeyType::Port => None,
        }
    }
}

/// A set that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name and type.
    pub set: SetRef,
    /// Whether elements can end by themselves.
    pub timeout: bool,
    /// Whether each element names a counter: look-ups in it count.
    pub counting: bool,
    /// How many elements it takes at the most.
    pub size: Option<u32>,
}

impl Set {
    /// The flags by which the kernel knows it.
    pub fn flags(&self) -> u32 {
        const INTERVAL: u32 = 4;
        const TIMEOUT: u32 = 0x10;
        const OBJECT: u32 = 0x40;
        let flag = |on, flag| if on { flag } else { 0 };
        flag(self.set.shape == Shape::Ranges, INTERVAL) | flag(self.timeout, TIMEOUT) | flag(self.counting, OBJECT)
    }

    fn write(&self, batch: &mut Batch, id: u32) {
        /// Tells `nft` in which order the bytes of keys are.
        const KEY_ORDER: u8 = 0;
        let (kind, length, network_order) = self.set.key.wire();
        batch.message(Kind::NewSet, true, |bytes| {
            text(bytes, 2, &self.set.name());
            attribute(bytes, 3, &self.flags().to_be_bytes());
            attribute(bytes, 4, &kind.to_be_bytes());
            attribute(bytes, 5, &length.to_be_bytes());
            attribute(bytes, 10, &id.to_be_bytes());
            if let Some(size) = self.size {
                let description = begin(bytes, 9);
                attribute(bytes, 1, &size.to_be_bytes());
                end(bytes, description);
            }
            if self.counting {
                attribute(bytes, 15, &COUNTER.to_be_bytes());
            }
            let mut order = vec![KEY_ORDER, 4];
            order.extend(if network_order { 2u32 } else { 1 }.to_ne_bytes());
            attribute(bytes, 13, &order);
        });
    }
}

/// The kernel's number for objects that count.
pub(crate) const COUNTER: u32 = 1;

/// What of a packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Where it comes from: the first so many bits of its address.
    Source(Family, u8),
    /// Where it goes.
    Destination(Family, u8),
    /// The interface that it came in by.
    Input,
    /// Its TCP or UDP port there; only sound behind [`Statement::Protocol`].
    DestinationPort,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Goes on if the field is in the set, or, with `not`, if it is not.
    In {
        /// What is looked at.
        field: Field,
        /// Where it is looked up.
        set: SetRef,
        /// Whether it must not be there.
        not: bool,
    },
    /// Goes on if the field is in the set, and counts with the counter that its element names.
    CountBy {
        /// What is looked at.
        field: Field,
        /// Where it is looked up: a counting set.
        set: SetRef,
    },
    /// Goes on if the packet came in by the loopback interface.
    FromLoopback,
    /// Goes on if the packet goes out by the loopback interface.
    ToLoopback,
    /// Goes on if the packet belongs to a connection that exists, or is related to one.
    Established,
    /// Goes on if the packet has this protocol above IP: 6 is TCP, 17 is UDP.
    Protocol(u8),
    /// Goes on if the packet does not begin a TCP connection; only sound behind [`Statement::Protocol`].
    NotSyn,
    /// Goes on if the packet is how IPv6 neighbours find each other; only sound behind [`Statement::Protocol`].
    NeighbourDiscovery,
    /// Counts.
    Count(String),
    /// Ends the rule.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This chain lets it pass; others still decide.
    Accept,
    /// It is gone.
    Drop,
    /// Another chain decides.
    Goto(String),
    /// The calling chain goes on.
    Return,
}

/// The steps of a rule, in order.
pub type Rule = Vec<Statement>;

/// Where packets pass a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everything that arrives, before routing.
    Prerouting,
    /// What is passed on.
    Forward,
    /// What this host sends.
    Output,
    /// Everything that arrives at some interfaces, also what a bridge passes on.
    Ingress,
}

/// How a chain hangs in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where.
    pub place: Place,
    /// Lower ones come first.
    pub priority: i32,
    /// The interfaces of [`Place::Ingress`], in order.
    pub devices: Vec<String>,
}

/// Rules in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; without, only others lead to it.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

impl Chain {
    fn write(&self, batch: &mut Batch) {
        const ACCEPT: u32 = 1;
        batch.message(Kind::NewChain, true, |bytes| {
            text(bytes, 3, &self.name);
            let Some(hook) = &self.hook else { return };
            let number: u32 = match hook.place {
                Place::Prerouting => 0,
                Place::Forward => 2,
                Place::Output => 3,
                Place::Ingress => 5,
            };
            let nested = begin(bytes, 4);
            attribute(bytes, 1, &number.to_be_bytes());
            attribute(bytes, 2, &hook.priority.to_be_bytes());
            if hook.place == Place::Ingress {
                let devices = begin(bytes, 4);
                for device in &hook.devices {
                    text(bytes, 1, device);
                }
                end(bytes, devices);
            }
            end(bytes, nested);
            attribute(bytes, 5, &ACCEPT.to_be_bytes());
            text(bytes, 7, "filter");
        });
    }

    fn write_rules(&self, batch: &mut Batch) {
        for rule in &self.rules {
            batch.append(|bytes| {
                text(bytes, 2, &self.name);
                let list = begin(bytes, 4);
                for statement in rule {
                    statement.write(bytes);
                }
                end(bytes, list);
            });
        }
    }
}

/// A share of the ruleset that another module brings, in the chain that everything enters by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its sets.
    pub sets: Vec<Set>,
    /// Names of its counters.
    pub counters: Vec<String>,
    /// Chains that its rules lead to.
    pub chains: Vec<Chain>,
    /// What stands behind the bans and is asked about every packet.
    pub bans: Vec<Rule>,
    /// What stands at the end; packets of connections that exist never get there.
    pub rules: Vec<Rule>,
    /// What is in its sets.
    pub fill: Vec<(SetRef, Vec<Span>)>,
    /// What is in its sets until it ends.
    pub timed: Vec<(SetRef, Vec<TimedSpan>)>,
}

impl Part {
    /// What fills the sets that are `fresh`, and what fills the others.
    pub(crate) fn split(&self, fresh: impl Fn(&Set) -> bool) -> (Self, Self) {
        let (mut first, mut rest) = (Self::default(), Self::default());
        for set in &self.sets {
            let part = if fresh(set) { &mut first } else { &mut rest };
            part.sets.push(*set);
            part.fill.extend(self.fill.iter().filter(|(filled, _)| *filled == set.set).cloned());
            part.timed.extend(self.timed.iter().filter(|(filled, _)| *filled == set.set).cloned());
        }
        (first, rest)
    }

    /// Whether it brings no set.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

/// Everything in a table but its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Its sets.
    pub sets: Vec<Set>,
    /// Names of its counters.
    pub counters: Vec<String>,
    /// Its chains. A chain comes before those that lead to it.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// Makes the sets and counters; what is there already stays.
    pub fn write_sets(&self, batch: &mut Batch) {
        for (id, set) in (1..).zip(&self.sets) {
            set.write(batch, id);
        }
        for counter in &self.counters {
            write_counter(batch, counter);
        }
    }

    /// Makes the chains that are not among `present`, and appends all rules.
    pub fn write_chains(&self, batch: &mut Batch, present: &[String]) {
        for chain in self.chains.iter().filter(|chain| !present.contains(&chain.name)) {
            chain.write(batch);
        }
        for chain in &self.chains {
            chain.write_rules(batch);
        }
    }
}

/// Makes a counter; one that is there already goes on counting.
pub(crate) fn write_counter(batch: &mut Batch, name: &str) {
    batch.message(Kind::NewObj, true, |bytes| {
        text(bytes, 2, name);
        attribute(bytes, 3, &COUNTER.to_be_bytes());
        let data = begin(bytes, 4);
        end(bytes, data);
    });
}

impl Statement {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Statement::In { field, set, not } => {
                field.write(bytes);
                expression(bytes, "lookup", |bytes| {
                    text(bytes, 1, &set.name());
                    attribute(bytes, 2, &REGISTER.to_be_bytes());
                    if *not {
                        attribute(bytes, 5, &1u32.to_be_bytes());
                    }
                });
            }
            Statement::CountBy { field, set } => {
                field.write(bytes);
                expression(bytes, "objref", |bytes| {
                    attribute(bytes, 3, &REGISTER.to_be_bytes());
                    text(bytes, 4, &set.name());
                });
            }
            // the loopback interface is the first one of every network namespace
            Statement::FromLoopback => equals(bytes, "meta", META_INPUT_INDEX, &1u32.to_ne_bytes()),
            Statement::ToLoopback => equals(bytes, "meta", META_OUTPUT_INDEX, &1u32.to_ne_bytes()),
            Statement::Established => {
                const STATE: u32 = 0;
                const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
                load(bytes, "ct", STATE);
                mask(bytes, &ESTABLISHED_OR_RELATED.to_ne_bytes());
                compare(bytes, Order::NotEqual, &0u32.to_ne_bytes());
            }
            Statement::Protocol(protocol) => equals(bytes, "meta", META_PROTOCOL, &[*protocol]),
            Statement::NotSyn => {
                payload(bytes, TRANSPORT, TCP_FLAGS, 1);
                mask(bytes, &[FIN_SYN_RST_ACK]);
                compare(bytes, Order::NotEqual, &[SYN]);
            }
            Statement::NeighbourDiscovery => {
                payload(bytes, TRANSPORT, ICMP_TYPE, 1);
                compare(bytes, Order::AtLeast, &[ROUTER_SOLICITATION]);
                compare(bytes, Order::AtMost, &[REDIRECT]);
            }
            Statement::Count(name) => expression(bytes, "objref", |bytes| {
                attribute(bytes, 1, &COUNTER.to_be_bytes());
                text(bytes, 2, name);
            }),
            Statement::Verdict(verdict) => expression(bytes, "immediate", |bytes| {
                const VERDICT_REGISTER: u32 = 0;
                attribute(bytes, 1, &VERDICT_REGISTER.to_be_bytes());
                let data = begin(bytes, 2);
                let nested = begin(bytes, 2);
                attribute(bytes, 1, &verdict.code().to_be_bytes());
                if let Verdict::Goto(chain) = verdict {
                    text(bytes, 2, chain);
                }
                end(bytes, nested);
                end(bytes, data);
            }),
        }
    }
}

const REGISTER: u32 = 1;
const TRANSPORT: u32 = 2;
const TCP_FLAGS: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 2;
const ICMP_TYPE: u32 = 0;
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
const META_INPUT_INDEX: u32 = 4;
const META_OUTPUT_INDEX: u32 = 5;
const META_INPUT_NAME: u32 = 6;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

impl Field {
    fn write(self, bytes: &mut Vec<u8>) {
        const NETWORK: u32 = 1;
        let (family, bits, offset) = match self {
            Field::Source(Family::V4, bits) => (Family::V4, bits, 12),
            Field::Destination(Family::V4, bits) => (Family::V4, bits, 16),
            Field::Source(Family::V6, bits) => (Family::V6, bits, 8),
            Field::Destination(Family::V6, bits) => (Family::V6, bits, 24),
            Field::Input => return load(bytes, "meta", META_INPUT_NAME),
            Field::DestinationPort => return payload(bytes, TRANSPORT, 2, 2),
        };
        let (protocol, length) = match family {
            Family::V4 => (2u8, 4),
            Family::V6 => (10, 16),
        };
        equals(bytes, "meta", META_FAMILY, &[protocol]);
        payload(bytes, NETWORK, offset, length);
        match netmask(family, bits) {
            Netmask::V4(netmask) if netmask != Ipv4Addr::BROADCAST => mask(bytes, &netmask.octets()),
            Netmask::V6(netmask) if bits < 128 => mask(bytes, &netmask.octets()),
            _ => {}
        }
    }
}

enum Netmask {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

fn netmask(family: Family, bits: u8) -> Netmask {
    match family {
        Family::V4 => Netmask::V4(Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0))),
        Family::V6 => {
            Netmask::V6(Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)))
        }
    }
}

impl Verdict {
    /// The kernel's number for it.
    pub fn code(&self) -> i32 {
        match self {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
            Verdict::Goto(_) => -4,
            Verdict::Return => -5,
        }
    }
}

fn expression(bytes: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    let element = begin(bytes, 1);
    text(bytes, 1, name);
    let data = begin(bytes, 2);
    write(bytes);
    end(bytes, data);
    end(bytes, element);
}

/// Loads `key` of what `name` knows about the packet.
fn load(bytes: &mut Vec<u8>, name: &str, key: u32) {
    expression(bytes, name, |bytes| {
        attribute(bytes, 1, &REGISTER.to_be_bytes());
        attribute(bytes, 2, &key.to_be_bytes());
    });
}

fn payload(bytes: &mut Vec<u8>, base: u32, offset: u32, length: u32) {
    expression(bytes, "payload", |bytes| {
        for (kind, value) in (1..).zip([REGISTER, base, offset, length]) {
            attribute(bytes, kind, &value.to_be_bytes());
        }
    });
}

fn mask(bytes: &mut Vec<u8>, mask: &[u8]) {
    expression(bytes, "bitwise", |bytes| {
        for (kind, value) in (1..).zip([REGISTER, REGISTER, mask.len() as u32]) {
            attribute(bytes, kind, &value.to_be_bytes());
        }
        for (kind, value) in [(4, mask), (5, &[0; 16][..mask.len().min(16)])] {
            let data = begin(bytes, kind);
            attribute(bytes, 1, value);
            end(bytes, data);
        }
    });
}

/// How a value is compared; the numbers are the kernel's.
#[derive(Clone, Copy)]
enum Order {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

fn compare(bytes: &mut Vec<u8>, order: Order, value: &[u8]) {
    expression(bytes, "cmp", |bytes| {
        attribute(bytes, 1, &REGISTER.to_be_bytes());
        attribute(bytes, 2, &(order as u32).to_be_bytes());
        let data = begin(bytes, 3);
        attribute(bytes, 1, value);
        end(bytes, data);
    });
}

fn equals(bytes: &mut Vec<u8>, name: &str, key: u32, value: &[u8]) {
    load(bytes, name, key);
    compare(bytes, Order::Equal, value);
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, bits, side) = match *self {
            Field::Source(family, bits) => (family, bits, "saddr"),
            Field::Destination(family, bits) => (family, bits, "daddr"),
            Field::Input => return f.write_str("iifname"),
            Field::DestinationPort => return f.write_str("th dport"),
        };
        match (family, netmask(family, bits)) {
            (Family::V4, Netmask::V4(mask)) if bits < 32 => write!(f, "ip {side} & {mask}"),
            (Family::V6, Netmask::V6(mask)) if bits < 128 => write!(f, "ip6 {side} & {mask}"),
            (Family::V4, _) => write!(f, "ip {side}"),
            (Family::V6, _) => write!(f, "ip6 {side}"),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::In { field, set, not: false } => write!(f, "{field} @{}", set.name()),
            Statement::In { field, set, not: true } => write!(f, "{field} != @{}", set.name()),
            Statement::CountBy { field, set } => write!(f, "counter name {field} map @{}", set.name()),
            Statement::FromLoopback => f.write_str("iif \"lo\""),
            Statement::ToLoopback => f.write_str("oif \"lo\""),
            Statement::Established => f.write_str("ct state established,related"),
            Statement::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Statement::NotSyn => f.write_str("tcp flags & (fin | syn | rst | ack) != syn"),
            Statement::NeighbourDiscovery => f.write_str("icmpv6 type 133-137"),
            Statement::Count(name) => write!(f, "counter name \"{name}\""),
            Statement::Verdict(Verdict::Accept) => f.write_str("accept"),
            Statement::Verdict(Verdict::Drop) => f.write_str("drop"),
            Statement::Verdict(Verdict::Goto(chain)) => write!(f, "goto {chain}"),
            Statement::Verdict(Verdict::Return) => f.write_str("return"),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Prerouting => "prerouting",
            Place::Forward => "forward",
            Place::Output => "output",
            Place::Ingress => "ingress",
        };
        write!(f, "type filter hook {place} ")?;
        if self.place == Place::Ingress {
            write!(f, "devices = {{ {} }} ", self.devices.join(", "))?;
        }
        write!(f, "priority {}; policy accept;", self.priority)
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Set { set, timeout, counting, size } in &self.sets {
            let (noun, target) = if *counting { ("map", " : counter") } else { ("set", "") };
            write!(f, "{noun} {} {{ type {}{target};", set.name(), set.key.name())?;
            if let Some(size) = size {
                write!(f, " size {size};")?;
            }
            match (set.shape == Shape::Ranges, timeout) {
                (true, true) => f.write_str(" flags interval,timeout;")?,
                (true, false) => f.write_str(" flags interval;")?,
                (false, true) => f.write_str(" flags timeout;")?,
                (false, false) => {}
            }
            writeln!(f, " }}")?;
        }
        for counter in &self.counters {
            writeln!(f, "counter {counter} {{ }}")?;
        }
        for chain in &self.chains {
            writeln!(f, "chain {} {{", chain.name)?;
            if let Some(hook) = &chain.hook {
                writeln!(f, "  {hook}")?;
            }
            for rule in &chain.rules {
                let steps: Vec<String> = rule.iter().map(ToString::to_string).collect();
                writeln!(f, "  {}", steps.join(" "))?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}
