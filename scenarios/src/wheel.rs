//! When live buckets end.
//!
//! A timer wheel: seven circles of 64 slots, each slot of a circle as long as the whole circle below. A timer is set and
//! cleared in constant time and moves down at most six times before it fires, so a flood of short-lived buckets costs
//! no more than their pours.

const NONE: u32 = u32::MAX;
const SLOTS: usize = 64;
/// Enough for all times that nanoseconds in 64 bits can tell.
const CIRCLES: usize = 7;
/// Nanoseconds of a slot of the lowest circle, as a power of two: 17 ms.
const TICK_BITS: u32 = 24;

/// The timers of one partition, by bucket number.
#[derive(Debug)]
pub(crate) struct Wheel {
    timers: Vec<Timer>,
    /// First timer of each slot, circle by circle.
    slots: Vec<u32>,
    /// Which slots of a circle hold timers.
    occupied: [u64; CIRCLES],
    /// Ticks that have passed.
    elapsed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// Tick at which it fires.
    at: u64,
    previous: u32,
    next: u32,
    /// Slot in `slots`, or `NONE` when it is not set.
    slot: u32,
}

const UNSET: Timer = Timer { at: 0, previous: NONE, next: NONE, slot: NONE };

impl Default for Wheel {
    fn default() -> Self {
        Self { timers: Vec::new(), slots: vec![NONE; SLOTS * CIRCLES], occupied: [0; CIRCLES], elapsed: 0 }
    }
}

impl Wheel {
    /// Sets the timer of `bucket`, in place of one it may have.
    pub(crate) fn set(&mut self, bucket: u32, at: i64) {
        self.clear(bucket);
        if self.timers.len() <= bucket as usize {
            self.timers.resize(bucket as usize + 1, UNSET);
        }
        // Rounded up: a timer may fire a moment late, never early.
        let at = tick(at.saturating_add((1 << TICK_BITS) - 1)).max(self.elapsed);
        self.timers[bucket as usize].at = at;
        self.insert(bucket);
    }

    /// Clears the timer of `bucket`, if it has one.
    pub(crate) fn clear(&mut self, bucket: u32) {
        let Some(timer) = self.timers.get(bucket as usize).copied().filter(|timer| timer.slot != NONE) else { return };
        match timer.previous {
            NONE => self.slots[timer.slot as usize] = timer.next,
            previous => self.timers[previous as usize].next = timer.next,
        }
        if timer.next != NONE {
            self.timers[timer.next as usize].previous = timer.previous;
        }
        if self.slots[timer.slot as usize] == NONE {
            let (circle, slot) = (timer.slot as usize / SLOTS, timer.slot as usize % SLOTS);
            self.occupied[circle] &= !(1 << slot);
        }
        self.timers[bucket as usize] = UNSET;
    }

    /// No timer fires before this, in nanoseconds since 1970; there may be nothing to fire then.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.next_slot().map(|(_, start)| (start << TICK_BITS).min(i64::MAX as u64) as i64)
    }

    /// Moves to `now` and appends the buckets whose timers fired, earliest slot first.
    pub(crate) fn advance(&mut self, now: i64, fired: &mut Vec<u32>) {
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
                let timer = std::mem::replace(&mut self.timers[bucket as usize], UNSET);
                if timer.at <= now {
                    fired.push(bucket);
                } else {
                    self.timers[bucket as usize].at = timer.at;
                    self.insert(bucket);
                }
                bucket = timer.next;
            }
            // Slots are filled at the front.
            fired[from..].reverse();
        }
        self.elapsed = self.elapsed.max(now);
    }

    fn insert(&mut self, bucket: u32) {
        let at = self.timers[bucket as usize].at;
        // The highest digit, base 64, in which the timer differs from now says on which circle it waits.
        let differs = (at ^ self.elapsed) | (SLOTS as u64 - 1);
        let circle = differs.ilog2() as usize / 6;
        let slot = (at >> (6 * circle)) as usize % SLOTS;
        let index = circle * SLOTS + slot;
        let next = std::mem::replace(&mut self.slots[index], bucket);
        if next != NONE {
            self.timers[next as usize].previous = bucket;
        }
        self.timers[bucket as usize] = Timer { at, previous: NONE, next, slot: index as u32 };
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
        wheel.advance(start, &mut Vec::new());
        assert_eq!(wheel.deadline(), None);
        for (bucket, seconds) in [(0, 1), (1, 10), (2, 3_600), (3, 86_400 * 40), (4, 10)] {
            wheel.set(bucket, start + seconds * SECOND);
        }
        wheel.clear(4);
        // (seconds from the start, who fires)
        let cases: &[(i64, &[u32])] =
            &[(0, &[]), (2, &[0]), (9, &[]), (11, &[1]), (3_599, &[]), (3_601, &[2]), (86_400 * 41, &[3])];
        for (seconds, expected) in cases {
            let now = start + seconds * SECOND;
            let due = wheel.deadline().is_some_and(|deadline| deadline <= now);
            let mut fired = Vec::new();
            wheel.advance(now, &mut fired);
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
                wheel.advance(now, &mut fired);
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
