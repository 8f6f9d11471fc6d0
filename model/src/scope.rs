//! To whom a decision applies.

use std::fmt;
use std::net::IpAddr;

use compact_str::CompactString;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The kind of thing a decision's value names. Written capitalised, matched without case;
/// words of the user's own are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One address.
    Ip,
    /// A prefix.
    Range,
    /// A country by its ISO code.
    Country,
    /// An autonomous system by its number.
    As,
    /// Anything else: a user name, an identity, a session.
    Custom(CompactString),
}

impl Scope {
    /// The scope that `text` names.
    pub fn new(text: &str) -> Self {
        if text.eq_ignore_ascii_case("ip") {
            Scope::Ip
        } else if text.eq_ignore_ascii_case("range") {
            Scope::Range
        } else if text.eq_ignore_ascii_case("country") {
            Scope::Country
        } else if text.eq_ignore_ascii_case("as") {
            Scope::As
        } else {
            Scope::Custom(text.into())
        }
    }

    /// How it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Scope::Ip => "Ip",
            Scope::Range => "Range",
            Scope::Country => "Country",
            Scope::As => "AS",
            Scope::Custom(text) => text,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Scope::new(&String::deserialize(deserializer)?))
    }
}

/// Why a text is neither an address nor a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IP address or a range, expected a form like `192.0.2.4` or `192.0.2.0/24`")]
pub struct NetError(pub String);

/// The prefix that `text` names: a lone address is a prefix of full length, host bits are cleared,
/// and an IPv4 address written as IPv6 (`::ffff:192.0.2.4`) is IPv4.
pub fn parse_net(text: &str) -> Result<IpNet, NetError> {
    let bad = || NetError(text.to_owned());
    if !text.contains('/') {
        return text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical())).map_err(|_| bad());
    }
    let net: IpNet = text.parse().map_err(|_| bad())?;
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(ip), Some(length)) if matches!(net, IpNet::V6(_)) => {
            IpNet::new(ip.into(), length).map(|net| net.trunc()).map_err(|_| bad())
        }
        _ => Ok(net.trunc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_match_without_case() {
        for (text, scope) in
            [("ip", "Ip"), ("RANGE", "Range"), ("As", "AS"), ("country", "Country"), ("userName", "userName")]
        {
            assert_eq!(Scope::new(text).as_str(), scope);
        }
    }

    #[test]
    fn nets_are_canonical() {
        // (text, prefix)
        let cases = [
            ("192.0.2.4", "192.0.2.4/32"),
            ("198.51.100.77/28", "198.51.100.64/28"),
            ("::ffff:192.0.2.4", "192.0.2.4/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:096.0.2.4/120", "96.0.2.0/24"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ];
        for (text, net) in cases {
            assert_eq!(parse_net(text).map(|net| net.to_string()), Ok(net.to_owned()), "{text}");
        }
        for text in ["", "1.2.3", "1.2.3.4/33", "1.2.3.04", "fe80::1%eth0", "x/8", " 1.2.3.4"] {
            assert!(parse_net(text).is_err(), "{text}");
        }
    }
}
