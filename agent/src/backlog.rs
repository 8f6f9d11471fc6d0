//! Lines that were written while nobody read.
//!
//! They are read at once and must not count as written at once: each is poured at the moment that it tells itself, held
//! between the moment at which reading stood and the present. While a datasource catches up, no bucket ends by the
//! clock: what is still to be read may belong to it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// Which datasources catch up, and how far they are.
#[derive(Clone, Debug)]
pub struct Backlog {
    since: Timestamp,
    oldest: Timestamp,
    /// By number of the datasource: the newest moment that it told.
    lagging: BTreeMap<u32, Timestamp>,
    too_old: u64,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { since: Timestamp::MIN, oldest: Timestamp::MIN, lagging: BTreeMap::new(), too_old: 0 }
    }
}

impl Backlog {
    /// The datasources `lagging` catch up with what was written from `since` to `now`; what is older than `age` is not
    /// poured any more.
    pub fn new(since: Timestamp, now: Timestamp, age: SignedDuration, lagging: impl IntoIterator<Item = u32>) -> Self {
        // Where the clock was set back, all lies in the present.
        let since = since.min(now);
        let lagging = lagging.into_iter().map(|source| (source, since)).collect();
        Self { since, oldest: now.checked_sub(age).unwrap_or(Timestamp::MIN), lagging, too_old: 0 }
    }

    /// The same as it was kept.
    pub fn kept(since: Timestamp, lagging: BTreeMap<u32, Timestamp>) -> Self {
        Self { since, lagging, ..Self::default() }
    }

    /// When a line of `source` counts as written that tells `time` and was read at `read_at`; `None` when it is too old to
    /// count.
    pub fn moment(&mut self, source: u32, time: Option<Timestamp>, read_at: Timestamp) -> Option<Timestamp> {
        let at = time.unwrap_or(read_at).max(self.since).min(read_at);
        if at < self.oldest {
            self.too_old += 1;
            return None;
        }
        if let Some(newest) = self.lagging.get_mut(&source) {
            *newest = at.max(*newest);
        }
        Some(at)
    }

    /// Says that `source` has nothing more to catch up with.
    pub fn caught_up(&mut self, source: u32) {
        self.lagging.remove(&source);
    }

    /// The present, as buckets see it.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        self.lagging.values().copied().min().map_or(now, |newest| newest.min(now))
    }

    /// What was written before this moment was read when it was written.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Who catches up, and how far he is.
    pub fn lagging(&self) -> &BTreeMap<u32, Timestamp> {
        &self.lagging
    }

    /// How many pours were too old.
    pub fn too_old(&self) -> u64 {
        self.too_old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_772_856_000 + seconds).expect("a valid test time")
    }

    #[test]
    fn missed_lines_count_when_they_were_written() {
        let age = SignedDuration::from_secs(500);
        let mut backlog = Backlog::new(at(0), at(600), age, [1]);
        // (behaviour, the time it tells, when it counts)
        let cases = [
            ("a line tells its moment", Some(200), Some(200)),
            ("without a moment it is the present", None, Some(600)),
            ("nothing lies ahead", Some(9000), Some(600)),
            ("nothing lies before the moment at which reading stood, and that is too old here", Some(-50), None),
            ("too old", Some(99), None),
            ("just not too old", Some(100), Some(100)),
        ];
        for (name, told, counts) in cases {
            assert_eq!(backlog.moment(1, told.map(at), at(600)), counts.map(at), "{name}");
        }
        assert_eq!(backlog.too_old(), 2);
        let mut backlog = Backlog::new(at(700), at(600), age, [1]);
        assert_eq!(backlog.moment(1, Some(at(10)), at(600)), Some(at(600)), "the clock was set back meanwhile");
    }

    #[test]
    fn no_bucket_ends_while_its_lines_may_still_come() {
        let mut backlog = Backlog::new(at(0), at(600), SignedDuration::from_hours(1), [1, 2]);
        assert_eq!(backlog.clock(at(601)), at(0));
        backlog.moment(1, Some(at(300)), at(600));
        assert_eq!(backlog.clock(at(601)), at(0), "the other one has not begun");
        backlog.moment(2, Some(at(200)), at(600));
        backlog.moment(2, Some(at(100)), at(600));
        assert_eq!(backlog.clock(at(601)), at(200));
        backlog.caught_up(2);
        assert_eq!(backlog.clock(at(601)), at(300));
        backlog.caught_up(1);
        assert_eq!(backlog.clock(at(601)), at(601));
    }
}
