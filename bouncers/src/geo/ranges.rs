//! Sets of addresses as sorted, disjoint spans, and what can be done with them. Everything is linear in the number of
//! spans: policies have hundreds of thousands.

use std::sync::LazyLock;

use ipnet::IpNet;

use crate::engine::span::{Family, Span, join, number};

/// What belongs to nobody in particular, IPv4: private, shared, loopback, documentation, multicast and the like.
const RESERVED4: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The same for IPv6. Tunnels (6to4, Teredo) are not here: who sits behind one is unknown, but it is somebody.
const RESERVED6: [&str; 9] =
    ["::/8", "100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"];

/// Addresses of both families. Spans are sorted, and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// IPv4.
    pub v4: Vec<Span>,
    /// IPv6.
    pub v6: Vec<Span>,
}

impl Ranges {
    /// The addresses of `nets`.
    pub fn of(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match Family::of(net) {
                Family::V4 => v4.push(Span::of(net)),
                Family::V6 => v6.push(Span::of(net)),
            }
        }
        Self { v4: join(v4), v6: join(v6) }
    }

    /// Space that is part of no country: whatever a database says about it is not believed.
    pub fn reserved() -> &'static Self {
        static RESERVED: LazyLock<Ranges> = LazyLock::new(|| {
            let parse = |net: &&str| net.parse().expect("a valid constant prefix");
            Ranges::of(RESERVED4.iter().chain(&RESERVED6).map(parse))
        });
        &RESERVED
    }

    /// Every address.
    pub fn everything() -> Self {
        let all = |family: Family| vec![Span { first: 0, last: family.top() }];
        Self { v4: all(Family::V4), v6: all(Family::V6) }
    }

    /// The spans of one family.
    pub fn family(&self, family: Family) -> &[Span] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Adds a span that begins behind all others of its family.
    pub(super) fn append(&mut self, family: Family, span: Span) {
        let spans = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        match spans.last_mut() {
            Some(before) if before.last.checked_add(1) == Some(span.first) => before.last = span.last,
            _ => spans.push(span),
        }
    }

    /// What is in any of `all`.
    pub fn union<'a>(all: impl IntoIterator<Item = &'a Ranges>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for ranges in all {
            v4.extend_from_slice(&ranges.v4);
            v6.extend_from_slice(&ranges.v6);
        }
        Self { v4: join(v4), v6: join(v6) }
    }

    /// What is here and not in `holes`.
    pub fn without(&self, holes: &Ranges) -> Self {
        Self { v4: minus(&self.v4, &holes.v4), v6: minus(&self.v6, &holes.v6) }
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        let address = address.to_canonical();
        let spans = self.family(Family::of(address.into()));
        let at = number(address);
        let behind = spans.partition_point(|span| span.first <= at);
        behind.checked_sub(1).and_then(|before| spans.get(before)).is_some_and(|span| at <= span.last)
    }

    /// How many spans there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether no address is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many IPv4 addresses, and how many IPv6 networks of 64 bits (each begun one counts).
    pub fn size(&self) -> Size {
        let nets = |span: &Span| (span.last >> 64) - (span.first >> 64) + 1;
        Size {
            addresses4: self.v4.iter().map(|span| (span.last - span.first + 1) as u64).sum(),
            networks6: u64::try_from(self.v6.iter().map(nets).sum::<u128>()).unwrap_or(u64::MAX),
        }
    }
}

/// How much space some ranges cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Size {
    /// IPv4 addresses.
    pub addresses4: u64,
    /// IPv6 networks of 64 bits.
    pub networks6: u64,
}

/// What is in `spans` and not in `holes`; both sorted and disjoint.
fn minus(spans: &[Span], holes: &[Span]) -> Vec<Span> {
    let mut left = Vec::with_capacity(spans.len());
    let mut holes = holes.iter().peekable();
    for span in spans {
        let mut next = Some(span.first);
        while holes.next_if(|hole| hole.last < span.first).is_some() {}
        while let Some(hole) = holes.peek().filter(|hole| hole.first <= span.last) {
            let Some(first) = next else { break };
            if hole.first > first {
                left.push(Span { first, last: hole.first - 1 });
            }
            next = hole.last.checked_add(1).filter(|after| *after <= span.last);
            if hole.last > span.last {
                // it may reach into the next span as well
                break;
            }
            holes.next();
        }
        if let Some(first) = next {
            left.push(Span { first, last: span.last });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reserved_space_is_nobodys() {
        let reserved = Ranges::reserved();
        // (address, reserved)
        let cases = [
            ("10.66.0.1", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("8.8.8.8", false),
            ("255.255.255.255", true),
            ("0.0.0.0", true),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
            ("::1", true),
            ("fe80::1", true),
            ("fd66::1", true),
            ("2001:db8::1", true),
            ("2001:4860::8888", false),
            ("2002:808:808::1", false),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true),
        ];
        for (address, expected) in cases {
            let address = address.parse().expect("a valid test address");
            assert_eq!(reserved.contains(address), expected, "{address}");
            assert_eq!(Ranges::everything().without(reserved).contains(address), !expected, "{address}");
        }
    }

    #[test]
    fn sizes_are_in_addresses_and_networks() {
        let of = |nets: &[&str]| Ranges::of(nets.iter().map(|net| net.parse().expect("a valid test prefix"))).size();
        assert_eq!(of(&["192.0.2.0/24", "192.0.2.128/25"]), Size { addresses4: 256, networks6: 0 });
        assert_eq!(of(&["2001:db8::/48", "2001:db9::1/128"]), Size { addresses4: 0, networks6: 65537 });
        assert_eq!(Ranges::everything().size(), Size { addresses4: 1 << 32, networks6: u64::MAX });
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let span = (0..=255u8, 0..=255u8).prop_map(|(a, b)| {
            // The top of the address space is where arithmetic goes wrong, so half of the numbers lie there.
            let place = |n: u8| if n < 128 { u128::from(n) } else { u128::MAX - u128::from(255 - n) };
            Span { first: place(a.min(b)), last: place(a.max(b)) }
        });
        proptest::collection::vec(span, 0..12).prop_map(join)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn sets_agree_with_asking_each_address(a in spans(), b in spans()) {
            let ranges = |v6: Vec<Span>| Ranges { v4: Vec::new(), v6 };
            let (a, b) = (ranges(a), ranges(b));
            let (union, without) = (Ranges::union([&a, &b]), a.without(&b));
            for at in (0..128).chain(u128::MAX - 127..=u128::MAX) {
                let within = |ranges: &Ranges| ranges.contains(std::net::Ipv6Addr::from_bits(at).into());
                // what looks like IPv4 is asked of the other family
                if std::net::Ipv6Addr::from_bits(at).to_ipv4_mapped().is_some() {
                    continue;
                }
                prop_assert_eq!(within(&union), within(&a) || within(&b), "union {:x}", at);
                prop_assert_eq!(within(&without), within(&a) && !within(&b), "without {:x}", at);
            }
            for pair in without.v6.windows(2) {
                prop_assert!(pair[0].last < pair[1].first);
            }
        }
    }
}
