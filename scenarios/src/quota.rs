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
pub(crate) fn yielding(mut claims: Vec<Claim>, excess: usize) -> Vec<u32> {
    // Whatever is kept of a network is kept in this order; a bucket's rank says how much of its network comes before it.
    claims.sort_unstable_by(|a, b| {
        let place = |claim: &Claim| (claim.scenario, claim.network);
        place(a).cmp(&place(b)).then(b.evidence.total_cmp(&a.evidence)).then(a.name.cmp(&b.name))
    });
    let mut ranked = Vec::with_capacity(claims.len());
    let (mut place, mut rank) = (None, 0);
    for (index, claim) in (0_u32..).zip(&claims) {
        if place != Some((claim.scenario, claim.network)) {
            (place, rank) = (Some((claim.scenario, claim.network)), 0);
        }
        rank += 1 + claim.bytes / UNIT;
        ranked.push((claim.scenario, rank, index));
    }
    // Of a scenario first what its networks have little of. Within one rank the lighter evidence comes last.
    ranked.sort_unstable_by(|a, b| {
        let [one, other] = [a, b].map(|(_, _, index)| &claims[*index as usize]);
        let evidence = || other.evidence.total_cmp(&one.evidence).then(one.name.cmp(&other.name));
        (a.0, a.1).cmp(&(b.0, b.1)).then_with(evidence)
    });
    let mut standing = Vec::with_capacity(claims.len());
    let (mut scenario, mut before) = (None, 0_u64);
    for (of, _, index) in ranked {
        if scenario != Some(of) {
            (scenario, before) = (Some(of), 0);
        }
        before += u64::from(claims[index as usize].bytes);
        standing.push((before, of, index));
    }
    // And first what stands behind most of its scenario.
    standing.sort_unstable_by(|a, b| b.cmp(a));
    let mut freed = 0;
    let enough = standing.iter().take_while(|(_, _, index)| {
        let short = freed < excess;
        freed += claims[*index as usize].bytes as usize;
        short
    });
    enough.map(|(_, _, index)| claims[*index as usize].bucket).collect()
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
            let found: BTreeSet<u32> = yielding(claims, excess).into_iter().collect();
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
            let gone: BTreeSet<u32> = yielding(claims.clone(), excess).into_iter().collect();
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
