//! Who was decided about how often, in memory, for rules that ask with every line.
//!
//! Pure: `now` is an argument. It counts what the store counts: decisions on addresses, live or over, until their alert is
//! erased; of more than [`CAPACITY`] the oldest are forgotten.

use std::collections::{HashMap, HashSet, VecDeque};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::decisions::to_micros;

/// How many decisions are remembered.
pub const CAPACITY: usize = 1 << 18;

/// One decision that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Past {
    created: i64,
    until: i64,
    alert: i64,
    net: IpNet,
}

impl Past {
    /// A decision on `net`, made at `created` because of the alert `alert`, that was to hold until `until`.
    pub fn new(net: IpNet, alert: i64, created: Timestamp, until: Timestamp) -> Self {
        Self { created: to_micros(created), until: to_micros(until), alert, net: net.trunc() }
    }
}

/// Decisions that were made.
#[derive(Debug, Default)]
pub struct History {
    /// By time, the oldest first.
    all: VecDeque<Past>,
    /// When, ascending.
    times: HashMap<IpNet, VecDeque<i64>>,
}

impl History {
    /// The history of `all`, in any order.
    pub fn new(mut all: Vec<Past>) -> Self {
        all.sort_unstable();
        let mut history = Self::default();
        for past in all {
            history.add(past);
        }
        history
    }

    /// Everything that is remembered, by time.
    pub fn iter(&self) -> impl Iterator<Item = Past> {
        self.all.iter().copied()
    }

    /// Adds a decision; none before it is younger.
    pub fn add(&mut self, past: Past) {
        self.all.push_back(past);
        self.times.entry(past.net).or_default().push_back(past.created);
        if self.all.len() > CAPACITY
            && let Some(oldest) = self.all.pop_front()
        {
            self.uncount(oldest);
        }
    }

    /// How many decisions cover `net`; those made at or after `since` if it is given.
    pub fn count(&self, net: IpNet, since: Option<Timestamp>) -> i64 {
        let since = since.map_or(i64::MIN, to_micros);
        let covering = (0..=net.prefix_len()).filter_map(|len| IpNet::new(net.addr(), len).ok());
        let found = covering.filter_map(|net| self.times.get(&net.trunc()));
        found.map(|times| (times.len() - times.partition_point(|&time| time < since)) as i64).sum()
    }

    /// Forgets what is over at `now` and was made before `before`, or for an alert up to `alert`.
    pub fn forget(&mut self, before: Option<Timestamp>, alert: Option<i64>, now: Timestamp) {
        let before = before.map_or(i64::MIN, to_micros);
        let alert = alert.unwrap_or(i64::MIN);
        let now = to_micros(now);
        let mut lasting = Vec::new();
        while let Some(past) = self.all.pop_front_if(|past| past.created < before || past.alert <= alert) {
            if past.until > now {
                lasting.push(past);
            } else {
                self.uncount(past);
            }
        }
        for past in lasting.into_iter().rev() {
            self.all.push_front(past);
        }
    }

    /// Forgets the decisions of these alerts.
    pub fn erase(&mut self, alerts: &HashSet<i64>) {
        *self = Self::new(self.iter().filter(|past| !alerts.contains(&past.alert)).collect());
    }

    fn uncount(&mut self, past: Past) {
        if let Some(times) = self.times.get_mut(&past.net) {
            let at = times.partition_point(|&time| time < past.created);
            times.remove(at);
            if times.is_empty() {
                self.times.remove(&past.net);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::from_micros;

    fn at(second: i64) -> Timestamp {
        from_micros(second * 1_000_000)
    }

    fn net(text: &str) -> IpNet {
        model::scope::parse_net(text).expect("an address")
    }

    fn past(text: &str, alert: i64, created: i64, until: i64) -> Past {
        Past::new(net(text), alert, at(created), at(until))
    }

    fn history() -> History {
        History::new(vec![
            past("192.0.2.4", 3, 30, 40),
            past("192.0.2.4", 1, 10, 1000),
            past("192.0.2.0/24", 2, 20, 30),
            past("2001:db8::/32", 4, 40, 50),
            past("198.51.100.1", 5, 50, 60),
        ])
    }

    #[test]
    fn decisions_are_counted_by_what_they_cover() {
        // (asked about, since, how many)
        let cases = [
            ("192.0.2.4", None, 3),
            ("192.0.2.4", Some(10), 3),
            ("192.0.2.4", Some(11), 2),
            ("192.0.2.4", Some(31), 0),
            ("192.0.2.5", None, 1),
            ("192.0.2.0/25", None, 1),
            ("192.0.0.0/16", None, 0),
            ("2001:db8::1", None, 1),
            ("0.0.0.0/0", None, 0),
        ];
        for (value, since, count) in cases {
            assert_eq!(history().count(net(value), since.map(at)), count, "{value} since {since:?}");
        }
    }

    #[test]
    fn what_is_over_and_old_is_forgotten() {
        // (what, made before, alert up to, now, what is left by its alert)
        let cases = [
            ("nothing is too old", None, None, 2000, &[1, 2, 3, 4, 5][..]),
            ("by age, but the first still holds", Some(40), None, 500, &[1, 4, 5]),
            ("by age, and the first is over", Some(40), None, 1000, &[4, 5]),
            ("by number", None, Some(2), 1000, &[3, 4, 5]),
            ("all of it", Some(100), Some(9), 2000, &[]),
        ];
        for (what, before, alert, now, left) in cases {
            let mut history = history();
            history.forget(before.map(at), alert, at(now));
            assert_eq!(history.iter().map(|past| past.alert).collect::<Vec<_>>(), left, "{what}");
            let counted: usize = history.times.values().map(VecDeque::len).sum();
            assert_eq!(counted, left.len(), "{what}");
        }
    }

    #[test]
    fn the_decisions_of_erased_alerts_are_not_counted() {
        let mut history = history();
        history.erase(&HashSet::from([1, 2]));
        assert_eq!(history.count(net("192.0.2.4"), None), 1);
    }

    #[test]
    fn it_keeps_the_youngest() {
        let mut history = History::default();
        for second in 0..=CAPACITY as i64 {
            history.add(past("192.0.2.4", second, second, second));
        }
        assert_eq!(history.count(net("192.0.2.4"), None), CAPACITY as i64);
        assert_eq!(history.iter().next().map(|past| past.alert), Some(1));
    }
}
