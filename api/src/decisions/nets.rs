//! Which decisions are about which prefixes.
//!
//! One sorted set per family holds `(first address, length, number)`. What lies inside a prefix is one stretch of it;
//! what covers a prefix is found by asking for each length that occurs, of which there are few. A trie would answer
//! the same and need several times the memory.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::query::Reach;

/// The prefixes of both families.
#[derive(Debug, Default)]
pub(super) struct Nets {
    v4: Prefixes<u32>,
    v6: Prefixes<u128>,
}

impl Nets {
    /// Those of `all`, put together at once, which is several times faster than one by one.
    pub(super) fn new(all: impl Iterator<Item = (IpNet, i64)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, id) in all {
            match net {
                IpNet::V4(net) => v4.push((net.network().into(), net.prefix_len(), id)),
                IpNet::V6(net) => v6.push((net.network().into(), net.prefix_len(), id)),
            }
        }
        Self { v4: Prefixes::new(v4), v6: Prefixes::new(v6) }
    }

    /// Notes that decision `id` is about `net`.
    pub(super) fn insert(&mut self, net: IpNet, id: i64) {
        match net {
            IpNet::V4(net) => self.v4.insert(net.network().into(), net.prefix_len(), id),
            IpNet::V6(net) => self.v6.insert(net.network().into(), net.prefix_len(), id),
        }
    }

    /// Forgets it.
    pub(super) fn remove(&mut self, net: IpNet, id: i64) {
        match net {
            IpNet::V4(net) => self.v4.remove(net.network().into(), net.prefix_len(), id),
            IpNet::V6(net) => self.v6.remove(net.network().into(), net.prefix_len(), id),
        }
    }

    /// The decisions on exactly `net`, ascending.
    pub(super) fn exact(&self, net: IpNet) -> impl Iterator<Item = i64> {
        let (v4, v6) = match net {
            IpNet::V4(net) => (Some(self.v4.exact(net.network().into(), net.prefix_len())), None),
            IpNet::V6(net) => (None, Some(self.v6.exact(net.network().into(), net.prefix_len()))),
        };
        v4.into_iter().flatten().chain(v6.into_iter().flatten())
    }

    /// The decisions that relate to `net` as `reach` says, in any order; one may appear twice.
    pub(super) fn near(&self, net: IpNet, reach: Reach) -> Vec<i64> {
        match net {
            IpNet::V4(net) => self.v4.near(net.network().into(), net.prefix_len(), reach),
            IpNet::V6(net) => self.v6.near(net.network().into(), net.prefix_len(), reach),
        }
    }
}

/// An address as a number.
trait Bits: Copy + Ord {
    /// The first address of the prefix of `len` bits around it.
    fn first(self, len: u8) -> Self;
    /// The last one.
    fn last(self, len: u8) -> Self;
}

impl Bits for u32 {
    fn first(self, len: u8) -> Self {
        self & !Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn last(self, len: u8) -> Self {
        self | Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }
}

impl Bits for u128 {
    fn first(self, len: u8) -> Self {
        self & !Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn last(self, len: u8) -> Self {
        self | Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }
}

/// The prefixes of one family.
#[derive(Debug)]
struct Prefixes<B> {
    set: BTreeSet<(B, u8, i64)>,
    /// How many there are of each length.
    lengths: [u32; 129],
}

impl<B> Default for Prefixes<B> {
    fn default() -> Self {
        Self { set: BTreeSet::new(), lengths: [0; 129] }
    }
}

impl<B: Bits> Prefixes<B> {
    fn new(all: Vec<(B, u8, i64)>) -> Self {
        let mut prefixes = Self::default();
        for &(_, len, _) in &all {
            if let Some(count) = prefixes.lengths.get_mut(usize::from(len)) {
                *count += 1;
            }
        }
        prefixes.set = all.into_iter().collect();
        prefixes
    }

    fn insert(&mut self, first: B, len: u8, id: i64) {
        if self.set.insert((first, len, id))
            && let Some(count) = self.lengths.get_mut(usize::from(len))
        {
            *count += 1;
        }
    }

    fn remove(&mut self, first: B, len: u8, id: i64) {
        if self.set.remove(&(first, len, id))
            && let Some(count) = self.lengths.get_mut(usize::from(len))
        {
            *count -= 1;
        }
    }

    fn exact(&self, first: B, len: u8) -> impl Iterator<Item = i64> {
        self.set.range((first, len, i64::MIN)..=(first, len, i64::MAX)).map(|&(_, _, id)| id)
    }

    fn near(&self, first: B, len: u8, reach: Reach) -> Vec<i64> {
        let mut found = Vec::new();
        if reach != Reach::Inside {
            let occurring = (0..=len).zip(self.lengths).filter(|&(_, count)| count > 0);
            for (len, _) in occurring {
                found.extend(self.exact(first.first(len), len));
            }
        }
        if reach != Reach::Covers {
            // A shorter prefix that starts here sorts before, and none starts in the middle of a longer one.
            let inside = (first, len, i64::MIN)..=(first.last(len), u8::MAX, i64::MAX);
            found.extend(self.set.range(inside).map(|&(_, _, id)| id));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        // Few addresses, so that prefixes meet.
        let v4 = (0..16_u8, prop_oneof![Just(0_u8), 24..=32_u8]).prop_map(|(host, len)| {
            IpNet::new([192, 0, 2, host << 4].into(), len).expect("a length of the family").trunc()
        });
        let v6 = (0..8_u16, prop_oneof![Just(0_u8), 60..=68_u8, Just(128_u8)]).prop_map(|(host, len)| {
            IpNet::new([0x2001, 0xdb8, 0, host, host << 12, 0, 0, 0].into(), len)
                .expect("a length of the family")
                .trunc()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_finds_what_a_search_through_all_finds(all in prop::collection::vec(net(), 0..40), asked in net(), gone in 0..40_usize) {
            let all: Vec<(i64, IpNet)> = (1..).zip(all).collect();
            let (at_once, later) = all.split_at(all.len() / 2);
            let mut nets = Nets::new(at_once.iter().map(|&(id, net)| (net, id)));
            for &(id, net) in later {
                nets.insert(net, id);
            }
            let all: Vec<(i64, IpNet)> = all.into_iter().filter(|&(id, net)| {
                let stays = id != gone as i64;
                if !stays {
                    nets.remove(net, id);
                }
                stays
            }).collect();
            let wanted = |holds: &dyn Fn(IpNet) -> bool| {
                all.iter().filter(|(_, net)| holds(*net)).map(|&(id, _)| id).collect::<Vec<_>>()
            };
            let found = |reach| {
                let mut found = nets.near(asked, reach);
                found.sort_unstable();
                found.dedup();
                found
            };
            prop_assert_eq!(found(Reach::Covers), wanted(&|net| net.contains(&asked)));
            prop_assert_eq!(found(Reach::Inside), wanted(&|net| asked.contains(&net)));
            prop_assert_eq!(found(Reach::Touches), wanted(&|net| net.contains(&asked) || asked.contains(&net)));
            prop_assert_eq!(nets.exact(asked).collect::<Vec<_>>(), wanted(&|net| net == asked));
        }
    }
}
