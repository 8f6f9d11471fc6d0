//! Leaky buckets.
//!
//! The arithmetic is the field's, in 64-bit floats: a bucket is full of tokens, each pour takes one, `leakspeed` gives one
//! back. The refill is computed from the last accepted pour and capped; there is no leak timer. A pour older than the last
//! one refills nothing but moves the mark back (spec: scenarios 5.2).

/// What a scenario says about the tokens of its buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limiter {
    /// Tokens of a full bucket; -1 never runs out.
    pub(crate) capacity: i32,
    /// Nanoseconds until one token is back.
    pub(crate) leakspeed: i64,
}

impl Limiter {
    /// Tokens of a new bucket.
    pub(crate) fn full(self) -> f64 {
        self.capacity.into()
    }

    /// Takes one token at `at` from a bucket that had `tokens` at `last`: the tokens left, or `None` for the
    /// overflow. `last` is `None` in a new bucket.
    pub(crate) fn take(self, tokens: f64, last: Option<i64>, at: i64) -> Option<f64> {
        if self.capacity < 0 || self.leakspeed <= 0 {
            return Some(tokens);
        }
        let limit = 1.0 / seconds(self.leakspeed);
        let elapsed = last.map_or(0, |last| at.saturating_sub(last).max(0));
        let left = (tokens + seconds(elapsed) * limit).min(self.full()) - 1.0;
        // Whole nanoseconds, so that a rounding error is no overflow.
        let wait = if left >= 0.0 { 0 } else { (-left / limit * 1e9) as i64 };
        (self.capacity >= 1 && wait <= 0).then_some(left)
    }
}

fn seconds(nanos: i64) -> f64 {
    const SECOND: i64 = 1_000_000_000;
    (nanos / SECOND) as f64 + (nanos % SECOND) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Which of the pours, at milliseconds, overflow; each overflow starts a new bucket.
    fn overflows(limiter: Limiter, pours: &[i64]) -> Vec<usize> {
        let (mut tokens, mut last) = (limiter.full(), None);
        let mut found = Vec::new();
        for (index, at) in pours.iter().map(|at| at * 1_000_000).enumerate() {
            if let Some(left) = limiter.take(tokens, last, at) {
                (tokens, last) = (left, Some(at));
            } else {
                found.push(index);
                (tokens, last) = (limiter.full(), None);
            }
        }
        found
    }

    #[test]
    fn pours() {
        type Case = (&'static str, i32, i64, &'static [i64], &'static [usize]);
        // (behaviour, capacity, leakspeed in ms, pours at ms, which overflow)
        let cases: &[Case] = &[
            ("six at once overflow five", 5, 10_000, &[0, 0, 0, 0, 0, 0], &[5]),
            ("one per leakspeed never overflows", 1, 10_000, &[0, 10_000, 20_000, 30_000, 40_000], &[]),
            ("a token is back exactly after leakspeed", 2, 10_000, &[0, 0, 10_000, 20_000], &[]),
            ("a millisecond too early overflows", 2, 10_000, &[0, 0, 9_999], &[2]),
            ("one more than was refilled overflows", 5, 10_000, &[0, 0, 0, 0, 0, 10_000, 10_000], &[6]),
            ("a long pause fills no more than capacity", 1, 10_000, &[0, 3_600_000, 3_600_000], &[2]),
            ("parts of tokens add up", 1, 10_000, &[0, 5_000], &[1]),
            ("two halves make a token", 2, 10_000, &[0, 5_000, 10_000, 20_000], &[]),
            ("an older pour refills nothing and costs nothing more", 2, 10_000, &[20_000, 10_000, 10_000], &[2]),
            ("an older pour moves the mark back, so the pause counts again", 2, 10_000, &[20_000, 10_000, 20_000], &[]),
            ("after an overflow a new bucket is full", 1, 10_000, &[0, 0, 0, 0], &[1, 3]),
            ("half-second leak", 1, 500, &[0, 500, 1_000, 1_499], &[3]),
            ("no leakspeed never overflows", 1, 0, &[0, 0, 0, 0], &[]),
            ("capacity 0 overflows at once", 0, 10_000, &[0, 0], &[0, 1]),
            ("capacity -1 never overflows", -1, 10_000, &[0, 0, 0, 0], &[]),
        ];
        for (name, capacity, leakspeed, pours, expected) in cases {
            let limiter = Limiter { capacity: *capacity, leakspeed: leakspeed * 1_000_000 };
            assert_eq!(overflows(limiter, pours), *expected, "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn tokens_stay_between_nothing_and_capacity(
            capacity in 1..20,
            leakspeed in 1_i64..100_000_000_000,
            pours in prop::collection::vec(any::<i64>(), 0..50),
        ) {
            let limiter = Limiter { capacity, leakspeed };
            let (mut tokens, mut last) = (limiter.full(), None);
            for at in pours {
                let Some(left) = limiter.take(tokens, last, at) else { break };
                // A rounding error of less than a nanosecond's worth is forgiven.
                prop_assert!(left > -1e-3 && left <= f64::from(capacity) - 1.0 + 1e-9, "{left}");
                (tokens, last) = (left, Some(at));
            }
        }

        #[test]
        fn no_more_than_capacity_at_one_instant(capacity in 1..50_i32, at in any::<i64>()) {
            let limiter = Limiter { capacity, leakspeed: 1_000_000_000 };
            let (mut tokens, mut last) = (limiter.full(), None);
            for _ in 0..capacity {
                tokens = limiter.take(tokens, last, at).expect("there is room");
                last = Some(at);
            }
            prop_assert_eq!(limiter.take(tokens, last, at), None);
        }
    }
}
