//! Quiet time after an overflow.
//!
//! Each bucket name has its own entry: until it runs out, further overflows of that name are muted, and muting does not
//! prolong it (spec: scenarios 7). The reference also forgets entries of other names when logs go backwards; that is
//! not copied.

use hashbrown::HashMap;

use crate::key::BucketKey;

/// Bytes of one entry in the table.
pub(crate) const ENTRY: usize = size_of::<(BucketKey, Mute)>() + 1;

/// The mutes of one partition.
#[derive(Debug, Default)]
pub(crate) struct Blackholes {
    mutes: HashMap<BucketKey, Mute>,
    swept: usize,
    /// Names that were muted since the last checkpoint, where checkpoints are made.
    pub(crate) armed: Option<Vec<BucketKey>>,
}

/// Until when overflows of one name are muted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mute {
    /// Nanoseconds since 1970, exclusive.
    pub(crate) until: i64,
    /// Whether `until` is log time.
    pub(crate) replay: bool,
}

impl Blackholes {
    /// Whether an overflow at `at` is muted.
    pub(crate) fn muted(&self, key: BucketKey, at: i64) -> bool {
        self.mutes.get(&key).is_some_and(|mute| mute.until > at)
    }

    /// Mutes overflows from now on. `live` and `replay` are the two clocks: what they have passed is forgotten now and
    /// then. With `most` entries in force no other is taken: false.
    pub(crate) fn arm(&mut self, key: BucketKey, mute: Mute, live: i64, replay: Option<i64>, most: usize) -> bool {
        if self.mutes.len() >= most.min(2 * self.swept.max(512)) {
            self.mutes.retain(|_, mute| {
                let clock = if mute.replay { replay } else { Some(live) };
                clock.is_none_or(|clock| mute.until > clock)
            });
            self.swept = self.mutes.len();
        }
        if self.mutes.len() >= most && !self.mutes.contains_key(&key) {
            return false;
        }
        self.mutes.insert(key, mute);
        if let Some(armed) = &mut self.armed {
            armed.push(key);
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.mutes.len()
    }

    /// All entries, by name.
    pub(crate) fn dump(&self) -> Vec<(BucketKey, Mute)> {
        let mut all: Vec<_> = self.mutes.iter().map(|(key, mute)| (*key, *mute)).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// The entries of `names` that are still there.
    pub(crate) fn some(&self, mut names: Vec<BucketKey>) -> Vec<(BucketKey, Mute)> {
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|key| Some((key, *self.mutes.get(&key)?))).collect()
    }

    /// The entries of [`Blackholes::dump`].
    pub(crate) fn restore(&mut self, mutes: impl IntoIterator<Item = (BucketKey, Mute)>) {
        self.mutes.extend(mutes);
        self.swept = self.mutes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutes() {
        let mut blackholes = Blackholes::default();
        let (a, b) = (BucketKey([1; 3]), BucketKey([2; 3]));
        let mute = |until| Mute { until, replay: false };
        assert!(blackholes.arm(a, mute(100), 0, None, 10));
        // (behaviour, name, time, muted)
        let cases = [
            ("within quiet time", a, 99, true),
            ("at its very end it is over", a, 100, false),
            ("older overflows are muted too", a, -5, true),
            ("other names are not", b, 50, false),
        ];
        for (name, key, at, muted) in cases {
            assert_eq!(blackholes.muted(key, at), muted, "{name}");
        }
    }

    #[test]
    fn memory_is_bounded_and_old_entries_make_room() {
        let mut blackholes = Blackholes::default();
        for key in 0..5_000_u32 {
            let now = key.into();
            blackholes.arm(BucketKey([key; 3]), Mute { until: now + 10, replay: false }, now, None, 1_000);
        }
        assert!(blackholes.len() <= 1_000);
        assert!(blackholes.muted(BucketKey([4_999; 3]), 5_000));
        let mut full = Blackholes::default();
        let armed = (0..2_000)
            .filter(|key| full.arm(BucketKey([*key; 3]), Mute { until: i64::MAX, replay: false }, 0, None, 1_000));
        assert_eq!(armed.count(), 1_000);
    }
}
