//! Counters, and every other bucket with a `duration`.
//!
//! The bucket overflows when `duration` has passed since its first pour, whatever came later (spec: scenarios 6.3, 6.6).
//! Buckets without one are forgotten when they were idle for their lifetime; both are this one deadline.

use super::Tally;

/// When a bucket ends if nothing else happens, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Nanoseconds.
    pub(crate) span: i64,
    /// Counted from the first pour, with an overflow at the end; else from the last, without.
    pub(crate) timed: bool,
}

impl Lifetime {
    /// When a bucket with this tally ends.
    pub(crate) fn deadline(self, tally: &Tally) -> i64 {
        let since = if self.timed { tally.first } else { tally.last };
        since.saturating_add(self.span)
    }

    /// Whether a live bucket has ended at `now`.
    pub(crate) fn over(self, tally: &Tally, now: i64) -> bool {
        tally.count > 0 && now >= self.deadline(tally)
    }

    /// Whether a replayed bucket is too old for an event at `at`. Always counted from the last pour, and strictly later.
    pub(crate) fn passed(self, tally: &Tally, at: i64) -> bool {
        tally.count > 0 && at > tally.last.saturating_add(self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Moment;

    #[test]
    fn ends() {
        let mut tally = Tally::default();
        for nanos in [100, 130, 120] {
            tally.count(Moment { nanos, minutes: 0 });
        }
        let idle = Lifetime { span: 50, timed: false };
        let timed = Lifetime { span: 50, timed: true };
        // (behaviour, lifetime, time, live bucket over, replayed bucket passed)
        let cases = [
            ("an idle bucket lives from its last pour", idle, 169, false, false),
            ("it is over when the lifetime has passed, in replay only after it", idle, 170, true, false),
            ("a replayed one is passed a moment later", idle, 171, true, true),
            ("a timed bucket counts from its first pour", timed, 150, true, false),
            ("and not before", timed, 149, false, false),
            ("time before the first pour ends nothing", idle, 0, false, false),
        ];
        for (name, lifetime, at, over, passed) in cases {
            assert_eq!((lifetime.over(&tally, at), lifetime.passed(&tally, at)), (over, passed), "{name}");
        }
        assert!(!idle.over(&Tally::default(), i64::MAX), "a bucket without a pour has no end yet");
    }
}
