//! The fewest prefixes for a set of addresses.
//!
//! A run of addresses falls into prefixes in one best way: from its beginning, each time the largest prefix that
//! begins there and ends within the run. Runs that neither overlap nor touch do not help each other, so the prefixes of
//! all of them are the fewest for all, and none covers an address that is not in a run.

use std::fmt;

use crate::engine::span::{Family, Span};

/// A prefix as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Its first address.
    pub first: u128,
    /// How many bits of it count.
    pub length: u8,
}

impl Prefix {
    /// Whether it is a single address.
    pub fn is_host(self) -> bool {
        self.length == width(self.family)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.family.address(self.first), self.length)
    }
}

/// The fewest prefixes that cover `span` and nothing else, in order.
pub fn prefixes(family: Family, span: Span) -> impl Iterator<Item = Prefix> {
    let width = width(family);
    let mut next = Some(span.first);
    std::iter::from_fn(move || {
        let first = next?;
        // how many bits may vary: as many as are zero at the end, and as fit before the end of the run
        let zeros = first.trailing_zeros().min(u32::from(width));
        let fits = match (span.last - first).checked_add(1) {
            Some(count) => count.ilog2(),
            None => 128,
        };
        let free = zeros.min(fits);
        let last = first + (1_u128.checked_shl(free).unwrap_or(0).wrapping_sub(1));
        next = (last < span.last).then(|| last + 1);
        Some(Prefix { family, first, length: width - free as u8 })
    })
}

fn width(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::span::join;

    fn written(family: Family, first: u128, last: u128) -> String {
        prefixes(family, Span { first, last }).map(|prefix| prefix.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn runs_at_the_edges_of_the_space() {
        let top4 = Family::V4.top();
        assert_eq!(written(Family::V4, 0, top4), "0.0.0.0/0");
        assert_eq!(written(Family::V4, top4, top4), "255.255.255.255/32");
        assert_eq!(written(Family::V4, 1, 6), "0.0.0.1/32 0.0.0.2/31 0.0.0.4/31 0.0.0.6/32");
        assert_eq!(written(Family::V6, 0, u128::MAX), "::/0");
        assert_eq!(written(Family::V6, u128::MAX - 1, u128::MAX), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127");
        assert_eq!(prefixes(Family::V6, Span { first: 1, last: u128::MAX }).count(), 128);
    }

    /// The fewest prefixes by trying: a block is one prefix if it is full, else what its halves need.
    fn fewest(full: &[bool]) -> usize {
        match full.len() {
            _ if full.iter().all(|&one| one) => 1,
            _ if !full.contains(&true) => 0,
            length => {
                let (low, high) = full.split_at(length / 2);
                fewest(low) + fewest(high)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_same_addresses_in_the_fewest_prefixes(
            runs in proptest::collection::vec((0..=255u8, 0..=255u8), 0..20),
            at_the_top in any::<bool>(),
            v6 in any::<bool>(),
        ) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let base = if at_the_top { family.top() - 255 } else { 0 };
            let spans: Vec<Span> = runs
                .iter()
                .map(|&(a, b)| Span { first: base + u128::from(a.min(b)), last: base + u128::from(a.max(b)) })
                .collect();
            let mut full = vec![false; 256];
            for &(a, b) in &runs {
                full[usize::from(a.min(b))..=usize::from(a.max(b))].fill(true);
            }
            let found: Vec<Prefix> = join(spans).into_iter().flat_map(|span| prefixes(family, span)).collect();
            let mut covered = vec![false; 256];
            for prefix in &found {
                let size = 1usize << (width(family) - prefix.length);
                let first = (prefix.first - base) as usize;
                prop_assert_eq!(first % size, 0, "{} is aligned", prefix);
                for one in &mut covered[first..first + size] {
                    prop_assert!(!*one, "{} covers nothing twice", prefix);
                    *one = true;
                }
            }
            prop_assert_eq!(&covered, &full);
            prop_assert_eq!(found.len(), fewest(&full));
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "in order");
        }
    }
}
