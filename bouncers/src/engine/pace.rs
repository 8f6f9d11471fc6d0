//! How much may be blocked at once: more than people decide in a minute, or more of the Internet than anybody
//! means, waits until a person has acknowledged it.
//!
//! What is held back stays held back over rebuilds; what is lifted meanwhile is forgotten.

use std::collections::{HashMap, VecDeque};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::engine::desired::Key;
use crate::engine::rails::Refusal;

/// Addresses of IPv4 that are routed: all but private, loopback, multicast and reserved ones.
const ROUTED: u64 = 3_702_258_432;
const MINUTE: SignedDuration = SignedDuration::from_secs(60);

/// The limits, what has been let through lately, and what waits.
#[derive(Clone, Debug)]
pub struct Pace {
    per_minute: usize,
    percent: u8,
    /// IPv4 prefixes shorter than this are refused in any case.
    widest: u8,
    /// Addresses that a person has agreed to, where they are more than the limit.
    agreed: u64,
    /// When entries were let through, and how many, within the last minute.
    recent: VecDeque<(Timestamp, usize)>,
    in_minute: usize,
    /// What waits, and why.
    held: HashMap<Key, Refusal>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(20_000, 5, 12)
    }
}

impl Pace {
    /// At most `per_minute` new entries in a minute, and `percent` of all routed IPv4 addresses together. IPv4 prefixes
    /// shorter than `widest` bits do not count, because they are refused in any case.
    pub fn new(per_minute: usize, percent: u8, widest: u8) -> Self {
        Self { per_minute, percent, widest, agreed: 0, recent: VecDeque::new(), in_minute: 0, held: HashMap::new() }
    }

    /// Looks at a new entry. `space` is how many IPv4 addresses all entries have together, this one included;
    /// `counts` says whether it counts among those of the minute, as what is decided one by one does.
    pub fn admit(&mut self, key: &Key, space: u64, counts: bool, now: Timestamp) {
        if self.held.contains_key(key) {
            return;
        }
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) >= MINUTE) {
            self.in_minute -= self.recent.pop_front().map_or(0, |(_, many)| many);
        }
        let waiting: u64 =
            if self.held.is_empty() { 0 } else { self.held.keys().map(|key| addresses(key, self.widest)).sum() };
        if addresses(key, self.widest) > 1 && self.is_too_much(space.saturating_sub(waiting)) {
            self.held.insert(key.clone(), Refusal::TooMuch(self.percent));
        } else if counts && self.in_minute >= self.per_minute {
            self.held.insert(key.clone(), Refusal::TooFast(self.per_minute));
        } else if counts {
            self.in_minute += 1;
            match self.recent.back_mut().filter(|(at, _)| now.duration_since(*at) < SignedDuration::from_secs(1)) {
                Some((_, many)) => *many += 1,
                None => self.recent.push_back((now, 1)),
            }
        }
    }

    /// Whether `space` addresses are more than the limit.
    pub fn is_too_much(&self, space: u64) -> bool {
        space > self.limit()
    }

    fn limit(&self) -> u64 {
        (ROUTED / 100 * u64::from(self.percent)).max(self.agreed)
    }

    /// Why `key` waits, if it does.
    pub fn holds(&self, key: &Key) -> Option<Refusal> {
        self.held.get(key).cloned()
    }

    /// How many entries wait.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }

    /// Forgets what `keep` does not want kept.
    pub fn retain(&mut self, keep: impl Fn(&Key) -> bool) {
        self.held.retain(|key, _| keep(key));
    }

    /// A person agrees to all that waits, and to `space` addresses in all: the keys that may go on.
    pub fn acknowledge(&mut self, space: u64) -> Vec<Key> {
        self.agreed = self.agreed.max(space);
        self.recent.clear();
        self.in_minute = 0;
        std::mem::take(&mut self.held).into_keys().collect()
    }
}

/// How many IPv4 addresses `key` is about; none if its prefix is shorter than `widest` bits.
pub fn addresses(key: &Key, widest: u8) -> u64 {
    match key.net() {
        Some(IpNet::V4(net)) if net.prefix_len() >= widest => 1 << (32 - net.prefix_len()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::desired::tests::{ban, second};

    fn key(value: &str) -> Key {
        Key::of(&ban(1, value, 10), 64).expect("a valid test address")
    }

    #[test]
    fn too_many_in_a_minute_wait_for_a_person() {
        let mut pace = Pace::new(2, 5, 12);
        let held = |pace: &Pace| {
            ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(|value| pace.holds(&key(value)).is_some())
        };
        for (at, value) in ["192.0.2.1", "192.0.2.2", "192.0.2.3"].into_iter().enumerate() {
            pace.admit(&key(value), 3, true, second(at as i64));
        }
        assert_eq!(held(&pace), [false, false, true, false]);
        pace.admit(&key("192.0.2.4"), 4, true, second(60));
        assert_eq!(held(&pace), [false, false, true, false], "a minute later there is room again");
        assert_eq!(pace.acknowledge(4), [key("192.0.2.3")]);
        assert_eq!(pace.waiting(), 0);
    }

    #[test]
    fn what_comes_as_a_whole_list_does_not_count_by_the_minute() {
        let mut pace = Pace::new(0, 5, 12);
        pace.admit(&key("192.0.2.1"), 1, false, second(0));
        assert_eq!(pace.waiting(), 0);
    }

    #[test]
    fn a_large_share_of_the_internet_waits_for_a_person() {
        let mut pace = Pace::default();
        let (one, all) = (1 << 20, ROUTED / 20);
        pace.admit(&key("198.16.0.0/12"), all + one, true, second(0));
        assert_eq!(pace.holds(&key("198.16.0.0/12")), Some(Refusal::TooMuch(5)));
        pace.admit(&key("192.0.2.9"), all + one + 1, true, second(0));
        pace.admit(&key("0.0.0.0/0"), all + one + 1, true, second(0));
        assert_eq!(pace.waiting(), 1, "single addresses go on, and what is refused anyway does not wait");
        assert_eq!(pace.acknowledge(all + one).len(), 1);
        pace.admit(&key("198.16.0.0/12"), all + one, true, second(0));
        assert_eq!(pace.waiting(), 0, "agreed is agreed");
    }
}
