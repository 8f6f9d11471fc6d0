//! When live buckets end.
//!
//! A timer wheel: seven circles of 64 slots, each slot of a circle as long as the whole circle below. A timer is set and
//! cleared in constant time and moves down at most six times before it fires, so a flood of short-lived buckets costs
//! no more than their pours. A timer is eight bytes: when it is due, its bucket knows.

const NONE: u32 = u32::MAX;
const SLOTS: usize = 64;
/// Enough for all times that nanoseconds in 64 bits can tell.
const CIRCLES: usize = 7;
/// Nanoseconds of a slot of the lowest circle, as a power of two: 17 ms.
const TICK_BITS: u32 = 24;

/// Timers that are kept together in one piece.
const PIECE: usize = 512;
/// Says that a timer is the first of the slot whose number it is added to.
const FIRST: u32 = 1 << 31;

/// The timers of one partition, by bucket number.
#[derive(Debug, Default)]
pub(crate) struct Wheel {
    timers: Vec<Box<[Timer]>>,
    /// First timer of each slot, circle by circle.
    slots: Vec<u32>,
    /// Which slots of a circle hold timers.
    occupied: [u64; CIRCLES],
    /// Ticks that have passed.
    elapsed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// `NONE` when it is not set, `FIRST` and the slot when nothing comes before it.
    previous: u32,
    next: u32,
}

const UNSET: Timer = Timer { previous: NONE, next: NONE };

impl Wheel {
    /// Sets the timer of `bucket` to `at` or a moment later, in place of one it may have.
    pub(crate) fn set(&mut self, bucket: u32, at: i64) {
        if self.slots.is_empty() {
            self.slots = vec![NONE; SLOTS * CIRCLES];
        }
        while self.timers.len() <= bucket as usize / PIECE {
            self.timers.push(vec![UNSET; PIECE].into());
        }
        self.clear(bucket);
        self.insert(bucket, due(at));
    }

    /// Clears the timer of `bucket`, if it has one.
    pub(crate) fn clear(&mut self, bucket: u32) {
        let Some(piece) = self.timers.get_mut(bucket as usize / PIECE) else { return };
        let timer = std::mem::replace(&mut piece[bucket as usize % PIECE], UNSET);
        match timer.previous {
            NONE => return,
            first if first & FIRST != 0 => {
                let slot = (first & !FIRST) as usize;
                self.slots[slot] = timer.next;
                if timer.next == NONE {
                    self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
                }
            }
            previous => self.timer(previous).next = timer.next,
        }
        if timer.next != NONE {
            self.timer(timer.next).previous = timer.previous;
        }
    }

    /// No timer fires before this, in nanoseconds since 1970; there may be nothing to fire then.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.next_slot().map(|(_, start)| (start << TICK_BITS).min(i64::MAX as u64) as i64)
    }

    /// Moves to `now` and appends the buckets whose timers fired, earliest slot first. `at` says when a bucket's timer is due,
    /// which may be later than it was set to.
    pub(crate) fn advance(&mut self, now: i64, at: impl Fn(u32) -> i64, fired: &mut Vec<u32>) {
        let now = tick(now);
        while let Some((slot, start)) = self.next_slot() {
            if start > now {
                break;
            }
            self.elapsed = self.elapsed.max(start);
            let from = fired.len();
            let mut bucket = std::mem::replace(&mut self.slots[slot], NONE);
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            while bucket != NONE {
                let timer = std::mem::replace(self.timer(bucket), UNSET);
                let at = due(at(bucket));
                if at <= now {
                    fired.push(bucket);
                } else {
                    self.insert(bucket, at);
                }
                bucket = timer.next;
            }
            // Slots are filled at the front.
            fired[from..].reverse();
        }
        self.elapsed = self.elapsed.max(now);
    }

    fn timer(&mut self, bucket: u32) -> &mut Timer {
        &mut self.timers[bucket as usize / PIECE][bucket as usize % PIECE]
    }

    fn insert(&mut self, bucket: u32, at: u64) {
        let at = at.max(self.elapsed);
        // The highest digit, base 64, in which the timer differs from now says on which circle it waits.
        let differs = (at ^ self.elapsed) | (SLOTS as u64 - 1);
        let circle = differs.ilog2() as usize / 6;
        let slot = (at >> (6 * circle)) as usize % SLOTS;
        let index = circle * SLOTS + slot;
        let next = std::mem::replace(&mut self.slots[index], bucket);
        if next != NONE {
            self.timer(next).previous = bucket;
        }
        *self.timer(bucket) = Timer { previous: FIRST | index as u32, next };
        self.occupied[circle] |= 1 << slot;
    }

    /// The occupied slot that is due first, and the tick at which it starts.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let circle = (0..CIRCLES).find(|circle| self.occupied[*circle] != 0)?;
        let shift = 6 * circle as u32;
        let here = (self.elapsed >> shift) as usize % SLOTS;
        let ahead = self.occupied[circle].rotate_right(here as u32).trailing_zeros() as usize;
        let slot = (here + ahead) % SLOTS;
        let round = self.elapsed >> (shift + 6) << (shift + 6);
        let wrapped = if slot < here { 1 << (shift + 6) } else { 0 };
        let start = round + wrapped + ((slot as u64) << shift);
        Some((circle * SLOTS + slot, start))
    }
}

/// The tick at which a timer set to `at` fires. Rounded up: it may fire a moment late, never early.
fn due(at: i64) -> u64 {
    tick(at.saturating_add((1 << TICK_BITS) - 1))
}

fn tick(nanos: i64) -> u64 {
    nanos.max(0) as u64 >> TICK_BITS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn timers_fire_in_time() {
        let mut wheel = Wheel::default();
        let start = 1_700_000_000 * SECOND;
        let times = [1, 10, 3_600, 86_400 * 40, 10].map(|seconds| start + seconds * SECOND);
        let time = |bucket: u32| times[bucket as usize];
        wheel.advance(start, time, &mut Vec::new());
        assert_eq!(wheel.deadline(), None);
        for bucket in 0..5 {
            wheel.set(bucket, time(bucket));
        }
        wheel.clear(4);
        // (seconds from the start, who fires)
        let cases: &[(i64, &[u32])] =
            &[(0, &[]), (2, &[0]), (9, &[]), (11, &[1]), (3_599, &[]), (3_601, &[2]), (86_400 * 41, &[3])];
        for (seconds, expected) in cases {
            let now = start + seconds * SECOND;
            let due = wheel.deadline().is_some_and(|deadline| deadline <= now);
            let mut fired = Vec::new();
            wheel.advance(now, time, &mut fired);
            assert_eq!(fired, *expected, "{seconds}");
            assert!(due || expected.is_empty(), "the deadline came in time at {seconds}");
        }
        assert_eq!(wheel.deadline(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn every_timer_fires_once_and_never_early(
            steps in prop::collection::vec((0..20_u32, 0..200_000_000_000_000_i64, 0..20_000_000_000_i64), 1..80)
        ) {
            let mut wheel = Wheel::default();
            let mut due = std::collections::BTreeMap::new();
            let mut now = 0;
            for (bucket, wait, step) in steps {
                wheel.set(bucket, now + wait);
                due.insert(bucket, now + wait);
                now += step;
                let mut fired = Vec::new();
                wheel.advance(now, |bucket| due[&bucket], &mut fired);
                for bucket in fired {
                    let at = due.remove(&bucket).expect("only what is set fires");
                    prop_assert!(at <= now);
                }
                for at in due.values() {
                    prop_assert!(*at + (2 << TICK_BITS) > now, "{at} is late at {now}");
                    prop_assert!(wheel.deadline().expect("something is set") <= *at + (1 << TICK_BITS));
                }
            }
        }
    }
}
