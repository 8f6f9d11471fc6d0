//! The `distinct` values that a bucket has seen.
//!
//! Values are keyed hashes. Most buckets see one, so one takes no memory of its own; many are found as fast as few.

use std::collections::HashSet;

/// More than these are looked up by hash.
const FEW: usize = 16;

/// A set of keyed hashes.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "every bucket has room for the largest of these: 16 bytes, not 56")]
pub(crate) enum Seen {
    /// None yet.
    #[default]
    Nothing,
    /// Only this.
    One(u64),
    /// At most [`FEW`].
    Few(Box<Vec<u64>>),
    /// More than [`FEW`].
    Many(Box<HashSet<u64>>),
}

impl Seen {
    /// Adds `value`; false if it was there.
    pub(crate) fn insert(&mut self, value: u64) -> bool {
        match self {
            Self::Nothing => *self = Self::One(value),
            Self::One(one) if *one == value => return false,
            Self::One(one) => *self = Self::Few(Box::new(vec![*one, value])),
            Self::Few(few) if few.contains(&value) => return false,
            Self::Few(few) if few.len() < FEW => few.push(value),
            Self::Few(few) => {
                let mut many: HashSet<u64> = few.drain(..).collect();
                many.insert(value);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => return many.insert(value),
        }
        true
    }

    /// All values in ascending order.
    pub(crate) fn sorted(&self) -> Vec<u64> {
        let mut values: Vec<u64> = match self {
            Self::Nothing => Vec::new(),
            Self::One(value) => vec![*value],
            Self::Few(few) => few.to_vec(),
            Self::Many(many) => many.iter().copied().collect(),
        };
        values.sort_unstable();
        values
    }

    /// Bytes beside the set itself. Depends on the number of values alone, so that a restart changes nothing.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Nothing | Self::One(_) => 0,
            Self::Few(few) => size_of::<Vec<u64>>() + few.len().next_power_of_two() * 8 + 16,
            Self::Many(many) => size_of::<HashSet<u64>>() + many.len().next_power_of_two() * 18,
        }
    }
}

impl FromIterator<u64> for Seen {
    fn from_iter<T: IntoIterator<Item = u64>>(values: T) -> Self {
        let mut seen = Self::default();
        for value in values {
            seen.insert(value);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn it_is_a_set(values in prop::collection::vec(0..40_u64, 0..80)) {
            let (mut seen, mut known) = (Seen::default(), BTreeSet::new());
            for value in values {
                prop_assert_eq!(seen.insert(value), known.insert(value));
                let again: Seen = seen.sorted().into_iter().collect();
                prop_assert_eq!(again.bytes(), seen.bytes());
            }
            prop_assert_eq!(seen.sorted(), known.into_iter().collect::<Vec<_>>());
        }
    }
}
