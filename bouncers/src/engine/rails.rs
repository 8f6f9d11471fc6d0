//! What must never be, whatever a decision says.
//!
//! A rail looks at one prefix and answers with the addresses that may be blocked, or with the reason why none
//! may. The engine asks it for every entry before any target sees it.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use model::{AllowEntry, AllowSet};

use crate::engine::span::{Family, Span, join, subtract};

/// How the rails are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IPv4 prefixes shorter than this are refused.
    pub min_prefix4: u8,
    /// IPv6 prefixes shorter than this are refused.
    pub min_prefix6: u8,
    /// A prefix may fall into at most this many pieces around what is allowed.
    pub max_pieces: usize,
    /// Whether private addresses (RFC 1918, unique local) are never blocked.
    pub spare_private: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { min_prefix4: 12, min_prefix6: 24, max_pieces: 64, spare_private: true }
    }
}

/// Why an entry is not enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All of it is never to be blocked.
    #[error("never blocked: {0}")]
    Allowed(String),
    /// It is wider than anything a decision may name.
    #[error("a prefix of {length} bits is too wide, at least {minimum} are required")]
    TooWide {
        /// Length of the prefix.
        length: u8,
        /// Shortest length that passes.
        minimum: u8,
    },
    /// So much inside it is allowed that the rest is not worth its pieces.
    #[error("it would fall into more than {0} pieces around allowed addresses")]
    TooManyPieces(usize),
    /// Something inside it is allowed, and the target takes it whole or not at all.
    #[error("it contains allowed addresses, and this target cannot block around them")]
    Whole,
    /// More new entries came in a minute than anybody would decide.
    #[error("more than {0} new entries in a minute, waiting until a person acknowledges them")]
    TooFast(usize),
    /// Together with what is blocked already it would be too much of the Internet.
    #[error("more than {0} percent of all IPv4 addresses would be blocked, waiting until a person acknowledges it")]
    TooMuch(u8),
    /// Others have more right to the places that the target has.
    #[error("the target holds {0} entries, and others are more important")]
    Full(usize),
    /// The target has said that it will not take it.
    #[error("the target refuses it: {0}")]
    Target(String),
}

/// The set of addresses that are never blocked, and the limits.
#[derive(Clone, Debug, Default)]
pub struct Rails {
    never: AllowSet,
    limits: Limits,
}

impl Rails {
    /// Rails around `allow` and `own`: the addresses, gateways and name servers of this host.
    pub fn new(limits: Limits, allow: &AllowSet, own: &[AllowEntry], now: Timestamp) -> Self {
        let private = if limits.spare_private { private_ranges() } else { Vec::new() };
        let operators = allow.iter(now).filter(|entry| entry.list != BUILT_IN);
        Self { never: AllowSet::new(operators.chain(own).chain(&private).cloned()), limits }
    }

    /// The entry that forbids any block of `address` at `now`.
    pub fn spares(&self, address: IpAddr, now: Timestamp) -> Option<Refusal> {
        self.never.covers_ip(address, now).map(|entry| Refusal::Allowed(entry.reason()))
    }

    /// The addresses of `net` that may be blocked at `now`: all of it as one span, or the pieces around what is
    /// never blocked.
    pub fn place(&self, net: IpNet, now: Timestamp) -> Result<Vec<Span>, Refusal> {
        if let Some(entry) = self.never.covers(net, now) {
            return Err(Refusal::Allowed(entry.reason()));
        }
        let minimum = match Family::of(net) {
            Family::V4 => self.limits.min_prefix4,
            Family::V6 => self.limits.min_prefix6,
        };
        if net.prefix_len() < minimum {
            return Err(Refusal::TooWide { length: net.prefix_len(), minimum });
        }
        let Some(inside) = self.never.touches(net, now) else { return Ok(vec![Span::of(net)]) };
        let mut holes: Vec<Span> =
            self.never.all_touching(net, now).into_iter().map(|entry| Span::of(entry.net)).collect();
        let pieces = subtract(Span::of(net), &mut holes);
        match pieces.len() {
            0 => Err(Refusal::Allowed(inside.reason())),
            many if many > self.limits.max_pieces => Err(Refusal::TooManyPieces(self.limits.max_pieces)),
            _ => Ok(pieces),
        }
    }

    /// Everything that is never blocked at `now`, joined and in order, for rules that let it through first.
    pub fn never(&self, family: Family, now: Timestamp) -> Vec<Span> {
        let nets = self.never.iter(now).map(|entry| entry.net);
        join(nets.filter(|&net| Family::of(net) == family).map(Span::of).collect())
    }
}

const BUILT_IN: &str = "built-in";

fn private_ranges() -> Vec<AllowEntry> {
    [
        ("10.0.0.0/8", "RFC 1918"),
        ("172.16.0.0/12", "RFC 1918"),
        ("192.168.0.0/16", "RFC 1918"),
        ("fc00::/7", "RFC 4193"),
    ]
    .into_iter()
    .map(|(net, comment)| AllowEntry {
        net: net.parse().expect("a valid constant prefix"),
        list: "private ranges".into(),
        comment: comment.into(),
        expires: None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;
    use model::scope::parse_net;
    use proptest::prelude::*;

    use super::*;

    fn allow(net: &str) -> AllowEntry {
        AllowEntry {
            net: parse_net(net).expect("a valid test prefix"),
            list: "office".into(),
            comment: String::new(),
            expires: None,
        }
    }

    fn shown(placed: Result<Vec<Span>, Refusal>, family: Family) -> String {
        match placed {
            Ok(spans) => spans.iter().map(|span| span.display(family)).collect::<Vec<_>>().join(" "),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn what_may_be_blocked() {
        let now = Timestamp::UNIX_EPOCH;
        let office =
            AllowSet::new(["192.0.2.0/24", "2001:db8:1::1", "198.51.100.0/25", "198.51.100.128/25"].map(allow));
        let own = [allow("203.0.113.7")];
        let spare = Rails::new(Limits::default(), &office, &own, now);
        let internal = Rails::new(Limits { spare_private: false, ..Limits::default() }, &office, &own, now);
        let strict = Rails::new(Limits { max_pieces: 1, ..Limits::default() }, &office, &own, now);
        // (what, rails, prefix, answer)
        let cases = [
            ("a stranger", &spare, "203.0.113.9", "203.0.113.9"),
            ("an allowed host", &spare, "192.0.2.9", "never blocked: 192.0.2.0/24 from office"),
            ("loopback", &internal, "127.0.0.1", "never blocked: 127.0.0.0/8 from built-in (loopback)"),
            ("own address", &spare, "203.0.113.7", "never blocked: 203.0.113.7 from office"),
            ("private host", &spare, "10.1.2.3", "never blocked: 10.0.0.0/8 from private ranges (RFC 1918)"),
            ("private host where internal bans are wanted", &internal, "10.1.2.3", "10.1.2.3"),
            ("everything", &spare, "0.0.0.0/0", "a prefix of 0 bits is too wide, at least 12 are required"),
            ("everything in IPv6", &spare, "::/0", "a prefix of 0 bits is too wide, at least 24 are required"),
            (
                "a range around our address",
                &spare,
                "203.0.113.0/28",
                "203.0.113.0-203.0.113.6 203.0.113.8-203.0.113.15",
            ),
            (
                "a network around an allowed host",
                &spare,
                "2001:db8:1::/64",
                "2001:db8:1:: 2001:db8:1::2-2001:db8:1:0:ffff:ffff:ffff:ffff",
            ),
            (
                "no pieces wanted",
                &strict,
                "203.0.113.0/28",
                "it would fall into more than 1 pieces around allowed addresses",
            ),
            ("allowed in two halves", &spare, "198.51.100.0/24", "never blocked: 198.51.100.0/25 from office"),
        ];
        for (what, rails, net, answer) in cases {
            let net = parse_net(net).expect("a valid test prefix");
            assert_eq!(shown(rails.place(net, now), Family::of(net)), answer, "{what}");
        }
    }

    #[test]
    fn an_allowed_address_may_be_blocked_again_when_its_time_is_over() {
        let start = Timestamp::UNIX_EPOCH;
        let later = Timestamp::from_second(60).expect("a small number of seconds");
        let visitor = AllowEntry { expires: Some(later), ..allow("203.0.113.9") };
        let rails = Rails::new(Limits::default(), &AllowSet::new([visitor]), &[], start);
        let net = parse_net("203.0.113.9").expect("a valid test prefix");
        assert!(rails.place(net, start).is_err() && rails.place(net, later).is_ok());
        assert_eq!(rails.never(Family::V4, start).len(), rails.never(Family::V4, later).len() + 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn rails_are_never_violated(
            nets in proptest::collection::vec((any::<u32>(), 8..=32u8), 0..12),
            target in any::<u32>(),
            length in 0..=32u8,
            nearby in any::<bool>(),
        ) {
            let now = Timestamp::UNIX_EPOCH;
            let v4 = |bits: u32, length: u8| {
                IpNet::from(Ipv4Net::new(Ipv4Addr::from_bits(bits), length).expect("a length up to 32").trunc())
            };
            // Half of the cases put the allowed prefixes close to the target, so that they meet.
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(bits, length)| v4(if nearby { (target & !0xffff) | (bits & 0xffff) } else { bits }, length))
                .collect();
            let allowed = AllowSet::new(nets.iter().map(|&net| AllowEntry { net, ..allow("192.0.2.1") }));
            let rails = Rails::new(Limits::default(), &allowed, &[], now);
            let net = v4(target, length);
            if let Ok(pieces) = rails.place(net, now) {
                prop_assert!(length >= 12 && !pieces.is_empty() && pieces.len() <= 64);
                let never = rails.never(Family::V4, now);
                for piece in &pieces {
                    prop_assert!(Span::of(net).contains(piece.first) && Span::of(net).contains(piece.last));
                    prop_assert!(never.iter().all(|hole| hole.last < piece.first || piece.last < hole.first));
                }
                let probe = u128::from(target);
                let spared = never.iter().any(|hole| hole.contains(probe));
                prop_assert_eq!(pieces.iter().any(|piece| piece.contains(probe)), !spared);
            }
        }
    }
}
