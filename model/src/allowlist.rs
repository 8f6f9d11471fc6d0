//! Who is never punished: one set, asked by everything.
//!
//! Parsing, pouring, deciding, importing, banning by hand, and the kernel all look at the same
//! [`AllowSet`]; nobody keeps a list of its own.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use prefix_trie::{Prefix, PrefixMap};

/// One entry: an address or prefix, and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowEntry {
    /// What is allowed.
    pub net: IpNet,
    /// Which list it belongs to (`built-in`, `own addresses`, a named allowlist).
    pub list: String,
    /// A comment for people.
    pub comment: String,
    /// When it stops counting; `None` is never.
    pub expires: Option<Timestamp>,
}

impl AllowEntry {
    /// `192.0.2.0/24 from office (comment)`; lone addresses without their prefix length.
    pub fn reason(&self) -> String {
        let net = display_net(self.net);
        match self.comment.as_str() {
            "" => format!("{net} from {}", self.list),
            comment => format!("{net} from {} ({comment})", self.list),
        }
    }
}

/// A prefix as people write it: without `/32` or `/128`.
pub fn display_net(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// All entries, searchable by longest prefix. Immutable once built; replaced whole.
#[derive(Clone, Debug, Default)]
pub struct AllowSet {
    v4: PrefixMap<Ipv4Net, Vec<AllowEntry>>,
    v6: PrefixMap<Ipv6Net, Vec<AllowEntry>>,
}

impl AllowSet {
    /// The entries that nothing can remove: loopback, link-local, unspecified, multicast and broadcast.
    pub fn built_in() -> Vec<AllowEntry> {
        [
            ("127.0.0.0/8", "loopback"),
            ("::1/128", "loopback"),
            ("169.254.0.0/16", "link-local"),
            ("fe80::/10", "link-local"),
            ("0.0.0.0/32", "unspecified"),
            ("::/128", "unspecified"),
            ("224.0.0.0/4", "multicast"),
            ("ff00::/8", "multicast"),
            ("255.255.255.255/32", "broadcast"),
        ]
        .into_iter()
        .filter_map(|(net, comment)| {
            let net = net.parse().ok()?;
            Some(AllowEntry { net, list: "built-in".into(), comment: comment.into(), expires: None })
        })
        .collect()
    }

    /// A set of `entries`; the built-in ones are always in it.
    pub fn new(entries: impl IntoIterator<Item = AllowEntry>) -> Self {
        let mut set = Self::default();
        for entry in Self::built_in().into_iter().chain(entries) {
            match entry.net {
                IpNet::V4(net) => set.v4.entry(net.trunc()).or_default().push(entry),
                IpNet::V6(net) => set.v6.entry(net.trunc()).or_default().push(entry),
            }
        }
        set
    }

    /// The first entry that covers `ip` at `now`, shortest prefix first.
    pub fn covers_ip(&self, ip: IpAddr, now: Timestamp) -> Option<&AllowEntry> {
        self.covers(IpNet::from(ip.to_canonical()), now)
    }

    /// The first entry that covers all of `net` at `now`.
    pub fn covers(&self, net: IpNet, now: Timestamp) -> Option<&AllowEntry> {
        match net {
            IpNet::V4(net) => self.v4.cover(&net).flat_map(|(_, entries)| entries).find(|entry| live(entry, now)),
            IpNet::V6(net) => self.v6.cover(&net).flat_map(|(_, entries)| entries).find(|entry| live(entry, now)),
        }
    }

    /// The first entry that shares any address with `net` at `now`: it covers it or lies inside.
    pub fn touches(&self, net: IpNet, now: Timestamp) -> Option<&AllowEntry> {
        self.covers(net, now).or_else(|| match net {
            IpNet::V4(net) => self.v4.children(&net).flat_map(|(_, entries)| entries).find(|entry| live(entry, now)),
            IpNet::V6(net) => self.v6.children(&net).flat_map(|(_, entries)| entries).find(|entry| live(entry, now)),
        })
    }

    /// All live entries that share any address with `net`, sorted by list name.
    pub fn all_touching(&self, net: IpNet, now: Timestamp) -> Vec<&AllowEntry> {
        let mut found = match net {
            IpNet::V4(net) => touching(&self.v4, &net),
            IpNet::V6(net) => touching(&self.v6, &net),
        };
        found.retain(|entry| live(entry, now));
        found.sort_by(|a, b| a.list.cmp(&b.list));
        found
    }

    /// All live entries.
    pub fn iter(&self, now: Timestamp) -> impl Iterator<Item = &AllowEntry> {
        let v4 = self.v4.iter().flat_map(|(_, entries)| entries);
        let v6 = self.v6.iter().flat_map(|(_, entries)| entries);
        v4.chain(v6).filter(move |entry| live(entry, now))
    }
}

/// What covers `net`, and what lies inside; an entry for `net` itself once.
fn touching<'a, P: Prefix + PartialEq>(trie: &'a PrefixMap<P, Vec<AllowEntry>>, net: &P) -> Vec<&'a AllowEntry> {
    let around = trie.cover(net).filter(|(prefix, _)| prefix != net);
    around.chain(trie.children(net)).flat_map(|(_, entries)| entries).collect()
}

fn live(entry: &AllowEntry, now: Timestamp) -> bool {
    entry.expires.is_none_or(|expires| expires > now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::parse_net;

    #[test]
    fn covers_and_touches() {
        let entry = |net: &str| AllowEntry {
            net: parse_net(net).expect("a valid test prefix"),
            list: "office".into(),
            comment: String::new(),
            expires: None,
        };
        let set = AllowSet::new([entry("192.0.2.0/24"), entry("2001:db8::1")]);
        let now = Timestamp::UNIX_EPOCH;
        // (prefix, covered, touched)
        let cases = [
            ("192.0.2.9", true, true),
            ("192.0.3.9", false, false),
            ("192.0.0.0/16", false, true),
            ("2001:db8::1", true, true),
            ("2001:db8::/64", false, true),
            ("2001:db8::2", false, false),
            ("127.0.0.1", true, true),
            ("::ffff:127.0.0.1", true, true),
            ("fe80::1", true, true),
            ("0.0.0.0/0", false, true),
        ];
        for (text, covered, touched) in cases {
            let net = parse_net(text).expect("a valid test prefix");
            assert_eq!(set.covers(net, now).is_some(), covered, "covers {text}");
            assert_eq!(set.touches(net, now).is_some(), touched, "touches {text}");
            assert_eq!(!set.all_touching(net, now).is_empty(), touched, "all touching {text}");
        }
    }

    #[test]
    fn an_expired_entry_does_not_count() {
        let entry = AllowEntry {
            net: parse_net("192.0.2.1").expect("a valid test prefix"),
            list: "visitors".into(),
            comment: "audit".into(),
            expires: Some(Timestamp::UNIX_EPOCH),
        };
        assert_eq!(entry.reason(), "192.0.2.1 from visitors (audit)");
        let (net, set) = (entry.net, AllowSet::new([entry]));
        assert!(set.covers(net, Timestamp::UNIX_EPOCH).is_none());
        assert!(set.covers(net, Timestamp::MIN).is_some());
    }
}
