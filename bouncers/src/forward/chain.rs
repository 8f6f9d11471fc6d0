//! Who really asks: the walk through the proxies that a request came by.
//!
//! Each proxy appends the address that it saw to the chain, so only what listed proxies appended is true, and it
//! stands at the right. The walk goes from right to left over listed proxies; the first address that is none of them
//! is the client. What stands further left was written by that client, and is not even read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use super::table::covers;
use crate::engine::span::{Family, Span, join, number};

/// Longest chain that is walked, in hops: no request comes by so many proxies.
const MAX_HOPS: usize = 64;

/// Addresses of proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    v4: Vec<Span>,
    v6: Vec<Span>,
}

impl Proxies {
    /// All addresses of `nets`.
    pub fn new(nets: &[IpNet]) -> Self {
        let of =
            |family| join(nets.iter().filter(|&&net| Family::of(net) == family).map(|&net| Span::of(net)).collect());
        Self { v4: of(Family::V4), v6: of(Family::V6) }
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        covers(if address.is_ipv4() { &self.v4 } else { &self.v6 }, number(address))
    }
}

/// Why a chain says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A listed proxy has not said for whom it asks.
    #[error("the proxy did not say who asks")]
    Missing,
    /// Something in it is no address.
    #[error("the chain of proxies holds something that is no address")]
    NoAddress,
    /// It is longer than any real one.
    #[error("the chain of proxies has more than {MAX_HOPS} hops")]
    TooLong,
}

/// The client at the beginning of what `proxies` vouch for. `values` are the values of the header in the order in which
/// they came, sent by a listed proxy.
pub fn client<'a>(values: impl DoubleEndedIterator<Item = &'a [u8]>, proxies: &Proxies) -> Result<IpAddr, Malformed> {
    let mut last = Err(Malformed::Missing);
    let hops = values.rev().flat_map(|value| value.rsplit(|&byte| byte == b','));
    for (count, hop) in hops.enumerate() {
        if count == MAX_HOPS {
            return Err(Malformed::TooLong);
        }
        let address = hop_address(hop).ok_or(Malformed::NoAddress)?;
        if !proxies.contains(address) {
            return Ok(address);
        }
        last = Ok(address);
    }
    last
}

/// The address that a proxy wrote; some write the port, too.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim_matches([' ', '\t']);
    let (address, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { "0" } else { rest.strip_prefix(':')? };
        (address.parse::<Ipv6Addr>().ok()?.into(), port)
    } else if let Ok(address) = IpAddr::from_str(text) {
        (address, "0")
    } else {
        let (address, port) = text.split_once(':')?;
        (address.parse::<Ipv4Addr>().ok()?.into(), port)
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (digits && port.parse::<u16>().is_ok()).then_some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies() -> Proxies {
        let net = |text: &str| model::scope::parse_net(text).expect("a valid test prefix");
        Proxies::new(&[net("10.0.0.0/8"), net("2001:db8:ffff::/48")])
    }

    fn asked(values: &[&str]) -> String {
        match client(values.iter().map(|value| value.as_bytes()), &proxies()) {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn only_what_listed_proxies_wrote_is_believed() {
        let no_address = "the chain of proxies holds something that is no address";
        // (what, values of the header, who asks)
        let cases: &[(&str, &[&str], &str)] = &[
            ("one hop", &["203.0.113.9"], "203.0.113.9"),
            ("a forged address to the left", &["192.0.2.1, 203.0.113.9"], "203.0.113.9"),
            ("two listed hops", &["203.0.113.9, 10.0.0.1, 10.0.0.2"], "203.0.113.9"),
            ("a listed address that the client wrote", &["10.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("two headers are one chain", &["192.0.2.1", "203.0.113.9,10.0.0.1"], "203.0.113.9"),
            ("rubbish from the client", &["unknown, 203.0.113.9"], "203.0.113.9"),
            ("all of them are listed", &["10.0.0.7, 10.0.0.2"], "10.0.0.7"),
            ("IPv4 written as IPv6", &["::ffff:203.0.113.9, ::ffff:10.0.0.1"], "203.0.113.9"),
            ("IPv6", &["2001:db8::9,2001:db8:ffff::1"], "2001:db8::9"),
            ("IPv6 with a port", &["[2001:db8::9]:443"], "2001:db8::9"),
            ("IPv6 in brackets", &["[2001:db8::9]"], "2001:db8::9"),
            ("IPv4 with a port", &["203.0.113.9:51234"], "203.0.113.9"),
            ("nothing", &[], "the proxy did not say who asks"),
            ("an empty value", &[""], no_address),
            ("an empty hop", &["203.0.113.9,"], no_address),
            ("a name", &["localhost"], no_address),
            ("rubbish from a proxy", &["203.0.113.9, unknown"], no_address),
            ("a port too large", &["203.0.113.9:70000"], no_address),
            ("a port with a sign", &["203.0.113.9:+80"], no_address),
            ("a zone", &["fe80::1%eth0"], no_address),
            ("leading zeros", &["203.0.113.009"], no_address),
            ("half a bracket", &["[2001:db8::9"], no_address),
        ];
        for (what, values, who) in cases {
            assert_eq!(asked(values), *who, "{what}");
        }
        assert_eq!(asked(&["10.0.0.1,".repeat(70).as_str()]), no_address);
        let long = vec!["10.0.0.1"; 70].join(",");
        assert_eq!(asked(&[&long]), Malformed::TooLong.to_string());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_stands_left_of_the_client_changes_nothing(
            forged in "[ -~]{0,40}",
            client in any::<[u8; 4]>(),
            hops in proptest::collection::vec(any::<[u8; 3]>(), 0..5),
        ) {
            let client = Ipv4Addr::from(client);
            prop_assume!(client.octets()[0] != 10);
            let mut chain = format!("{forged}, {client}");
            for [a, b, c] in hops {
                chain = format!("{chain},10.{a}.{b}.{c}");
            }
            prop_assert_eq!(asked(&[&chain]), client.to_string());
        }
    }
}
