//! Entries as prefixes, for targets that hold nothing but a list of them.
//!
//! An entry with pieces becomes several prefixes, and two entries may need the same one: it goes in with the first and
//! out with the last.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use jiff::Timestamp;

use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::span::Family;

/// The prefixes that an entry is made of; none if it is not about addresses.
pub fn prefixes(key: &Key, placed: &Placed) -> Vec<IpNet> {
    let Some(net) = key.net() else { return Vec::new() };
    let Some(pieces) = &placed.pieces else { return vec![net] };
    let family = Family::of(net);
    pieces
        .iter()
        .flat_map(|piece| -> Vec<IpNet> {
            match family {
                Family::V4 => {
                    let [first, last] = [piece.first, piece.last].map(|number| Ipv4Addr::from_bits(number as u32));
                    Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
                }
                Family::V6 => {
                    let [first, last] = [piece.first, piece.last].map(Ipv6Addr::from_bits);
                    Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
                }
            }
        })
        .collect()
}

/// A prefix as most targets want it: with its length, also for single addresses.
pub fn with_length(net: IpNet) -> String {
    match net {
        IpNet::V4(net) => Ipv4Net::to_string(&net),
        IpNet::V6(net) => Ipv6Net::to_string(&net),
    }
}

/// What has to be written to make a list follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Prefixes to add, in order.
    pub add: Vec<IpNet>,
    /// Prefixes to remove, in order.
    pub remove: Vec<IpNet>,
}

impl Edits {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// How many entries need a prefix, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    entries: u32,
    until: Timestamp,
}

/// The prefixes of a list, and how many entries need each.
#[derive(Clone, Debug, Default)]
pub struct Nets {
    needed: HashMap<IpNet, Need>,
}

impl Nets {
    /// The prefixes of `placement`.
    pub fn of(placement: &Placement) -> Self {
        let mut nets = Self::default();
        for (key, placed) in placement {
            for net in prefixes(key, placed) {
                nets.need(net, placed.until);
            }
        }
        nets
    }

    fn need(&mut self, net: IpNet, until: Timestamp) {
        let need = self.needed.entry(net).or_insert(Need { entries: 0, until });
        need.entries += 1;
        need.until = need.until.max(until);
    }

    /// When the last entry that needs `net` ends, as far as was known when it came.
    pub fn until(&self, net: IpNet) -> Option<Timestamp> {
        self.needed.get(&net).map(|need| need.until)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.needed.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.needed.is_empty()
    }

    /// Whether `net` is among them.
    pub fn contains(&self, net: IpNet) -> bool {
        self.needed.contains_key(&net)
    }

    /// All of them, in order: IPv4 first.
    pub fn sorted(&self) -> Vec<IpNet> {
        let mut nets: Vec<IpNet> = self.needed.keys().copied().collect();
        nets.sort_unstable();
        nets
    }

    /// Follows `plan`, and says what that means for the list. What earlier runs have placed and is not known here is
    /// removed all the same.
    pub fn follow(&mut self, plan: &Plan) -> Edits {
        let mut touched: BTreeSet<IpNet> = BTreeSet::new();
        let mut before: HashMap<IpNet, bool> = HashMap::new();
        for change in &plan.changes {
            for net in change.before.iter().flat_map(|placed| prefixes(&change.key, placed)) {
                // what is not known is there by an earlier run
                before.entry(net).or_insert(true);
                touched.insert(net);
                if let Some(need) = self.needed.get_mut(&net) {
                    need.entries -= 1;
                    if need.entries == 0 {
                        self.needed.remove(&net);
                    }
                }
            }
            for net in change.after.iter().flat_map(|placed| prefixes(&change.key, placed)) {
                before.entry(net).or_insert_with(|| self.needed.contains_key(&net));
                touched.insert(net);
                self.need(net, change.after.as_ref().map_or(Timestamp::MIN, |placed| placed.until));
            }
        }
        let was = |net: &IpNet| before.get(net).copied().unwrap_or(false);
        let mut edits = Edits::default();
        for net in touched {
            match (was(&net), self.needed.contains_key(&net)) {
                (false, true) => edits.add.push(net),
                (true, false) => edits.remove.push(net),
                _ => {}
            }
        }
        edits
    }

    /// What makes a list that holds `there` hold these.
    pub fn edits_from(&self, there: &There) -> Edits {
        let is_there = |net: &&IpNet| there.ours.contains(*net) || there.others.contains(*net);
        let mut add: Vec<IpNet> = self.needed.keys().filter(|net| !is_there(net)).copied().collect();
        add.sort_unstable();
        Edits { add, remove: there.ours.iter().filter(|net| !self.needed.contains_key(net)).copied().collect() }
    }
}

/// What a list was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct There {
    /// What we have put in.
    pub ours: BTreeSet<IpNet>,
    /// What others have put in: never ours to remove.
    pub others: BTreeSet<IpNet>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::tests::{ban, second};
    use crate::engine::plan::Change;
    use crate::engine::span::{Span, number};

    fn key(value: &str) -> Key {
        Key::of(&ban(1, value, 10), 64).expect("a valid test address")
    }

    fn placed(pieces: Option<&[(&str, &str)]>) -> Placed {
        let address = |text: &str| number(text.parse().expect("a valid test address"));
        let pieces = pieces.map(|pieces| {
            pieces.iter().map(|(first, last)| Span { first: address(first), last: address(last) }).collect()
        });
        Placed { until: second(10), pieces }
    }

    fn shown(nets: &[IpNet]) -> String {
        nets.iter().map(|net| with_length(*net)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pieces_become_as_few_prefixes_as_there_can_be() {
        // (entry, pieces, prefixes)
        type Pieces = Option<&'static [(&'static str, &'static str)]>;
        let cases: &[(&str, Pieces, &str)] = &[
            ("192.0.2.9", None, "192.0.2.9/32"),
            ("2001:db8::/48", None, "2001:db8::/48"),
            (
                "192.0.2.0/29",
                Some(&[("192.0.2.0", "192.0.2.2"), ("192.0.2.4", "192.0.2.7")]),
                "192.0.2.0/31 192.0.2.2/32 192.0.2.4/30",
            ),
            ("2001:db8::/126", Some(&[("2001:db8::1", "2001:db8::3")]), "2001:db8::1/128 2001:db8::2/127"),
        ];
        for (value, pieces, expected) in cases {
            assert_eq!(shown(&prefixes(&key(value), &placed(*pieces))), *expected, "{value}");
        }
    }

    #[test]
    fn a_prefix_stays_as_long_as_an_entry_needs_it() {
        let change = |value: &str, before, after| Change { key: key(value), before, after, why: None };
        let cut = || Some(placed(Some(&[("192.0.2.128", "192.0.2.255")])));
        let mut nets = Nets::default();
        let add = Plan {
            changes: vec![change("192.0.2.0/24", None, cut()), change("192.0.2.128/25", None, Some(placed(None)))],
        };
        assert_eq!(shown(&nets.follow(&add).add), "192.0.2.128/25");
        let edits = nets.follow(&Plan { changes: vec![change("192.0.2.0/24", cut(), None)] });
        assert!(edits.is_empty(), "the other entry needs it");
        let edits = nets.follow(&Plan { changes: vec![change("192.0.2.128/25", Some(placed(None)), None)] });
        assert_eq!((shown(&edits.remove), nets.len()), ("192.0.2.128/25".to_owned(), 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn following_leads_where_beginning_anew_would(
            steps in proptest::collection::vec((0..8u8, 29..=32u8, any::<bool>(), any::<bool>()), 1..40)
        ) {
            let mut nets = Nets::default();
            let mut list: BTreeSet<IpNet> = BTreeSet::new();
            let mut placement = Placement::new();
            for (octet, length, cut, keep) in steps {
                let key = key(&format!("192.0.2.{octet}/{length}"));
                let net = key.net().expect("it is an address");
                let last = Span::of(net).last;
                let pieces = (cut && length < 32).then(|| [Span { first: last, last }].into());
                let after = keep.then(|| Placed { until: second(10), pieces });
                let plan = Plan { changes: vec![Change { key: key.clone(), before: placement.get(&key).cloned(), after, why: None }] };
                let edits = nets.follow(&plan);
                plan.commit(&mut placement);
                for net in &edits.remove { prop_assert!(list.remove(net)); }
                for net in &edits.add { prop_assert!(list.insert(*net)); }
                prop_assert_eq!(nets.sorted(), Nets::of(&placement).sorted());
                prop_assert_eq!(&list, &nets.sorted().into_iter().collect::<BTreeSet<_>>());
                let there = There { ours: list.clone(), ..There::default() };
                prop_assert!(nets.edits_from(&there).is_empty());
            }
        }
    }
}
