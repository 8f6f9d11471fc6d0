//! Who must yield when memory is short.
//!
//! Memory is shared out fairly: among scenarios by bytes, within a scenario among networks (a /24 or a /48) by buckets, and
//! in a network the bucket that knows least yields first. So a flood from one network evicts itself, one from
//! everywhere evicts its own single events, and neither the slow attacker next to it. Nothing is kept for this in quiet
//! times; a shortage is settled for many pours to come.

use crate::key::Network;

/// A bucket counts as one, and as one more for each so many bytes of records. It is more than what a slow attacker leaves, who
/// must not yield to many who came once only because his own tries are remembered.
const UNIT: u32 = 32 << 10;

/// What is known of one bucket when memory is short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) bucket: u32,
    pub(crate) scenario: u16,
    pub(crate) network: Network,
    /// What it weighs, in bytes.
    pub(crate) bytes: u32,
    /// How much would be forgotten with it.
    pub(crate) evidence: f32,
    /// A part of its name: decides between equals, so that every run chooses alike.
    pub(crate) name: u32,
}

/// Buckets that yield, and weigh at least `excess` bytes together if there are enough.
pub(crate) fn yielding(claims: &[Claim], excess: usize) -> Vec<u32> {
    // Whatever is kept of a network is kept in this order; a bucket's rank says how much of its network comes before it.
    let mut order: Vec<(u128, u32)> =
        (0_u32..).zip(claims).map(|(index, claim)| (claim.order(claim.network.0), index)).collect();
    order.sort_unstable();
    let (mut place, mut rank) = (None, 0);
    for (key, index) in &mut order {
        let claim = &claims[*index as usize];
        if place != Some((claim.scenario, claim.network)) {
            (place, rank) = (Some((claim.scenario, claim.network)), 0);
        }
        rank += 1 + claim.bytes / UNIT;
        *key = claim.order(rank);
    }
    // Of a scenario first what its networks have little of. Within one rank the lighter evidence comes last.
    order.sort_unstable();
    // By scenario: how many bytes come before the end of each of its buckets.
    let mut standing: Vec<Vec<(u64, u32)>> = Vec::new();
    let mut scenario = None;
    for (_, index) in order {
        let claim = &claims[index as usize];
        if scenario != Some(claim.scenario) {
            scenario = Some(claim.scenario);
            standing.push(Vec::new());
        }
        let Some(own) = standing.last_mut() else { continue };
        let before = own.last().map_or(0, |(before, _)| *before);
        own.push((before + u64::from(claim.bytes), index));
    }
    // And first what stands behind most of its scenario.
    let (mut freed, mut gone) = (0, Vec::new());
    while freed < excess
        && let Some((_, index)) = standing.iter_mut().max_by_key(|own| own.last().copied()).and_then(Vec::pop)
    {
        let claim = &claims[index as usize];
        freed += claim.bytes as usize;
        gone.push(claim.bucket);
    }
    gone
}

impl Claim {
    /// Sorts by scenario, then by `within` it, then heavy evidence before light; one number is compared faster than four.
    fn order(&self, within: u32) -> u128 {
        // The bits of floats that are not negative are in their order.
        let evidence = !self.evidence.max(0.0).to_bits();
        u128::from(self.scenario) << 96 | u128::from(within) << 64 | u128::from(evidence) << 32 | u128::from(self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn claim(bucket: u32, scenario: u16, network: u32, bytes: u32, evidence: f32) -> Claim {
        Claim { bucket, scenario, network: Network(network), bytes, evidence, name: bucket }
    }

    #[test]
    fn who_yields() {
        let flood = |network: fn(u32) -> u32| -> Vec<Claim> {
            (2..1000).map(|bucket| claim(bucket, 0, network(bucket), 100, 1.0)).collect()
        };
        let slow = [claim(0, 0, 1, 500, 1.5), claim(1, 1, 1, 500, 1.0)];
        let fat = (2..12).map(|bucket| claim(bucket, 0, bucket, 50_000, 9.0)).collect();
        // (behaviour, the others, bytes to free, who yields)
        let cases: [(&str, Vec<Claim>, usize, std::ops::Range<u32>); 4] = [
            ("a flood from one network evicts itself", flood(|_| 2), 90_000, 100..1000),
            (
                "a flood from everywhere does, too: the slow attacker has shown more",
                flood(|bucket| bucket),
                90_000,
                100..1000,
            ),
            ("and a flood from next door", flood(|_| 1), 90_000, 100..1000),
            ("a few heavy buckets yield before many light ones", fat, 450_000, 3..12),
        ];
        for (name, mut claims, excess, expected) in cases {
            claims.extend(slow);
            let found: BTreeSet<u32> = yielding(&claims, excess).into_iter().collect();
            assert_eq!(found, expected.collect(), "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn nobody_below_its_share_yields(
            told in prop::collection::vec((0..4_u16, 0..30_u32, 1..4_000_u32, 0..5_u8), 1..200),
            excess in 0..400_000_usize,
        ) {
            let claims: Vec<Claim> = (0..)
                .zip(&told)
                .map(|(bucket, (scenario, net, bytes, evidence))| claim(bucket, *scenario, *net, *bytes, f32::from(*evidence)))
                .collect();
            let gone: BTreeSet<u32> = yielding(&claims, excess).into_iter().collect();
            let freed: usize = gone.iter().map(|bucket| claims[*bucket as usize].bytes as usize).sum();
            prop_assert!(freed >= excess || gone.len() == claims.len());
            prop_assert!(freed < excess + 4_000, "{} bytes too many", freed - excess);
            let mut weights = BTreeMap::<u16, (u64, u64)>::new();
            let mut counts = BTreeMap::<(u16, Network), (u32, u32)>::new();
            for claim in &claims {
                let kept = !gone.contains(&claim.bucket);
                let weight = weights.entry(claim.scenario).or_default();
                let count = counts.entry((claim.scenario, claim.network)).or_default();
                weight.0 += u64::from(claim.bytes);
                weight.1 += if kept { u64::from(claim.bytes) } else { 0 };
                *count = (count.0 + 1, count.1 + u32::from(kept));
            }
            // A scenario that lost something keeps as much as any other, but for one bucket.
            for (before, after) in weights.values().filter(|(before, after)| before != after) {
                prop_assert!(weights.values().all(|(_, other)| *other <= after + 4_000), "{before} {after} {weights:?}");
            }
            // So does a network within its scenario, and of a network the most telling buckets are kept.
            for ((scenario, network), (before, after)) in &counts {
                if before == after {
                    continue;
                }
                let others = counts.iter().filter(|((of, _), _)| of == scenario);
                prop_assert!(others.clone().all(|(_, (_, other))| *other <= after + 1), "{counts:?}");
                let mine = claims.iter().filter(|claim| (claim.scenario, claim.network) == (*scenario, *network));
                let (lost, kept): (Vec<&Claim>, Vec<&Claim>) = mine.partition(|claim| gone.contains(&claim.bucket));
                prop_assert!(lost.iter().all(|lost| kept.iter().all(|kept| kept.evidence >= lost.evidence)));
            }
        }
    }
}
