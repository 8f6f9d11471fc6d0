//! What an operator wants: who may begin a connection, where, and to which ports. And what that means in addresses.
//!
//! Whatever is said, a policy becomes the set of addresses that are dropped. So reserved space, and what a failing database
//! does not know, are outside by construction, and an emptied set lets everybody in rather than nobody.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::geo::atlas::{Atlas, Location, Wanted};
use crate::geo::ranges::Ranges;
use crate::geo::region::Region;

/// How many policies there may be.
pub const MAX_POLICIES: usize = 16;

/// What is said of the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only they may come in.
    Allow,
    /// They may not come in.
    Deny,
}

/// What is done with an address whose country nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It passes.
    Pass,
    /// It is dropped.
    Drop,
}

/// Transport protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP and UDP.
    Both,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// Of which protocol.
    pub transport: Transport,
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// The ports that a person means by `22`, `8000-8099`, `tcp/443` or `udp/51820`.
    pub fn parse(text: &str) -> Option<Self> {
        let (transport, numbers) = match text.split_once('/') {
            Some(("tcp", numbers)) => (Transport::Tcp, numbers),
            Some(("udp", numbers)) => (Transport::Udp, numbers),
            Some(_) => return None,
            None => (Transport::Both, text),
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|&port| port > 0 && !text.starts_with('+'));
        let (first, last) = match numbers.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(numbers)?, number(numbers)?),
        };
        (first <= last).then_some(Self { transport, first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Both => {}
            Transport::Tcp => f.write_str("tcp/")?,
            Transport::Udp => f.write_str("udp/")?,
        }
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` names no ports")))
    }
}

/// One policy, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name: letters, digits and `_`.
    pub name: String,
    /// What is said of the regions.
    pub kind: Kind,
    /// The regions.
    pub regions: BTreeSet<Region>,
    /// Addresses that this policy never drops.
    pub except: Vec<IpNet>,
    /// What is done with an address whose country nobody knows.
    pub unknown: Unknown,
    /// Where packets come in; empty is everywhere. A `*` at the end stands for anything.
    pub interfaces: Vec<String>,
    /// To which ports; empty is all of them, and every other protocol.
    pub ports: Vec<Ports>,
    /// Whether packets are only counted.
    pub observe: bool,
}

impl Policy {
    /// What must be in the atlas.
    pub fn want(&self, wanted: &mut Wanted) {
        wanted.regions.extend(&self.regions);
        wanted.known |= match self.kind {
            Kind::Allow => self.unknown == Unknown::Pass,
            Kind::Deny => self.unknown == Unknown::Drop,
        };
    }

    /// The addresses that it drops.
    pub fn dropped(&self, atlas: &Atlas) -> Ranges {
        let named = Ranges::union(self.regions.iter().filter_map(|&region| atlas.region(region)).map(|it| &it.ranges));
        let unknown = || Ranges::everything().without(Ranges::reserved()).without(atlas.known());
        let dropped = match (self.kind, self.unknown) {
            (Kind::Allow, Unknown::Drop) => Ranges::everything().without(Ranges::reserved()).without(&named),
            (Kind::Allow, Unknown::Pass) => atlas.known().without(&named),
            (Kind::Deny, Unknown::Pass) => named,
            (Kind::Deny, Unknown::Drop) => Ranges::union([&named, &unknown()]),
        };
        dropped.without(&Ranges::of(self.except.iter().copied()))
    }

    /// What it says of an address, from look-ups alone.
    pub fn judge(&self, address: IpAddr, at: &Location) -> Judgement {
        let address = IpNet::from(address.to_canonical());
        if at.reserved {
            return Judgement::Reserved;
        }
        if let Some(net) = self.except.iter().find(|net| net.contains(&address)) {
            return Judgement::Excepted(*net);
        }
        if let Some(region) = at.regions().find(|region| self.regions.contains(region)) {
            return match self.kind {
                Kind::Allow => Judgement::Allowed(region),
                Kind::Deny => Judgement::Denied(region),
            };
        }
        match (at.record.country, self.kind, self.unknown) {
            (None, _, Unknown::Drop) => Judgement::UnknownDropped,
            (None, _, Unknown::Pass) => Judgement::UnknownPasses,
            (Some(_), Kind::Allow, _) => Judgement::NotAllowed,
            (Some(_), Kind::Deny, _) => Judgement::NotDenied,
        }
    }

    /// Where it holds, in words: `on eno1 to ports 22, tcp/443`.
    pub fn place(&self) -> String {
        let interfaces = match self.interfaces.as_slice() {
            [] => "on every interface".to_owned(),
            names => format!("on {}", names.join(", ")),
        };
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        match ports.as_slice() {
            [] => interfaces,
            [port] => format!("{interfaces} to port {port}"),
            ports => format!("{interfaces} to ports {}", ports.join(", ")),
        }
    }
}

/// What a policy says of an address, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It belongs to nobody: no policy is about it.
    Reserved,
    /// It is one of the policy's exceptions.
    Excepted(IpNet),
    /// Its region may come in.
    Allowed(Region),
    /// Its region may not come in.
    Denied(Region),
    /// Its country is known, and not among those that may come in.
    NotAllowed,
    /// Its country is known, and not among those that may not come in.
    NotDenied,
    /// Its country is not known, and such addresses are dropped.
    UnknownDropped,
    /// Its country is not known, and such addresses pass.
    UnknownPasses,
}

impl Judgement {
    /// Whether it may not begin a connection.
    pub fn is_drop(self) -> bool {
        matches!(self, Judgement::Denied(_) | Judgement::NotAllowed | Judgement::UnknownDropped)
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Judgement::Reserved => f.write_str("passes: reserved space is part of no country"),
            Judgement::Excepted(net) => write!(f, "passes: `except` has {net}"),
            Judgement::Allowed(region) => write!(f, "passes: {region} is allowed"),
            Judgement::Denied(region) => write!(f, "dropped: {region} is denied"),
            Judgement::NotAllowed => f.write_str("dropped: its country is not among those allowed"),
            Judgement::NotDenied => f.write_str("passes: its country is not among those denied"),
            Judgement::UnknownDropped => f.write_str("dropped: nobody knows its country (`unknown: drop`)"),
            Judgement::UnknownPasses => f.write_str("passes: nobody knows its country (`unknown: pass`)"),
        }
    }
}
