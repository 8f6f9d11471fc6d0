//! Those who come back are banned for longer.
//!
//! Pure: `now` is an argument. A strike is a visit: a ban on somebody on whom none holds. The first ban lasts as long as
//! the profile says, each following one at least as long as its rung; the last rung is the longest. IPv4 addresses are
//! counted one by one, IPv6 addresses by their network of 64 bits, whose owner has a new address for every try; a
//! range counts as a range.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::decisions::{from_micros, to_micros};

/// How many visitors are remembered at most; the one whose last ban ended first is forgotten first.
pub const CAPACITY: usize = 1 << 18;

/// How long each ban lasts, and how long visits are remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rungs {
    /// The second ban, the third, ...; empty switches the ladder off.
    pub steps: Vec<SignedDuration>,
    /// How long after the end of the last ban its visits are remembered.
    pub forget_after: SignedDuration,
}

impl Default for Rungs {
    fn default() -> Self {
        let hours = [16, 3 * 24, 14 * 24, 30 * 24];
        Self { steps: hours.map(SignedDuration::from_hours).into(), forget_after: SignedDuration::from_hours(90 * 24) }
    }
}

/// What is remembered of a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strikes {
    /// How often it came.
    pub count: u32,
    /// When its last ban was to end.
    pub until: Timestamp,
}

/// All visitors.
#[derive(Debug, Default)]
pub struct Ladder {
    rungs: Rungs,
    held: HashMap<IpNet, (u32, i64)>,
    /// Ends of last bans.
    ends: BTreeSet<(i64, IpNet)>,
}

/// As whom `net` is counted.
pub fn visitor(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(wide) if wide.prefix_len() > 64 => IpNet::new(wide.addr().into(), 64).map_or(net, |net| net.trunc()),
        _ => net.trunc(),
    }
}

impl Ladder {
    /// An empty memory.
    pub fn new(rungs: Rungs) -> Self {
        Self { rungs, ..Self::default() }
    }

    /// Puts back what a store remembers.
    pub fn restore(&mut self, visitor: IpNet, strikes: Strikes) {
        self.put(visitor, strikes.count, to_micros(strikes.until));
    }

    /// How long a ban of `net` lasts that begins at `now` and would last `own`. `visiting` says that another one holds:
    /// then this is the same visit. Answers the visitor as it is remembered from now on.
    pub fn strike(
        &mut self,
        net: IpNet,
        own: SignedDuration,
        visiting: bool,
        now: Timestamp,
    ) -> (SignedDuration, Option<(IpNet, Strikes)>) {
        if self.rungs.steps.is_empty() {
            return (own, None);
        }
        let visitor = visitor(net);
        let before = self.held.get(&visitor).map_or((0, i64::MIN), |&held| held);
        let known = before.0 > 0 && !self.is_over(before.1, now);
        let count = if !known {
            1
        } else if visiting {
            before.0
        } else {
            before.0.saturating_add(1)
        };
        let rung = (count as usize).checked_sub(2).and_then(|at| self.rungs.steps.get(at).or(self.rungs.steps.last()));
        let lasts = rung.map_or(own, |rung| own.max(*rung));
        let end = now.saturating_add(lasts).unwrap_or(Timestamp::MAX);
        let until = if known { before.1.max(to_micros(end)) } else { to_micros(end) };
        self.put(visitor, count, until);
        (lasts, Some((visitor, Strikes { count, until: from_micros(until) })))
    }

    /// What is remembered of `net`.
    pub fn strikes(&self, net: IpNet) -> Option<Strikes> {
        let (count, until) = *self.held.get(&visitor(net))?;
        Some(Strikes { count, until: from_micros(until) })
    }

    /// Forgets everybody who shares an address with `net`; answers whom.
    pub fn forgive(&mut self, net: IpNet) -> Vec<IpNet> {
        let net = visitor(net);
        let forgiven: Vec<IpNet> =
            self.held.keys().filter(|held| held.contains(&net) || net.contains(*held)).copied().collect();
        for visitor in &forgiven {
            self.remove(*visitor);
        }
        forgiven
    }

    /// Forgets those whose last ban ended long before `now`, and those who are too many. Answers up to which end of their
    /// last ban visitors are forgotten; `None` is nobody.
    pub fn forget(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut last = None;
        while let Some(&(until, visitor)) = self.ends.first()
            && (self.held.len() > CAPACITY || self.is_over(until, now))
        {
            self.remove(visitor);
            last = Some(from_micros(until));
        }
        last
    }

    fn is_over(&self, until: i64, now: Timestamp) -> bool {
        from_micros(until).saturating_add(self.rungs.forget_after).is_ok_and(|end| end <= now)
    }

    fn put(&mut self, visitor: IpNet, count: u32, until: i64) {
        self.remove(visitor);
        self.held.insert(visitor, (count, until));
        self.ends.insert((until, visitor));
    }

    fn remove(&mut self, visitor: IpNet) {
        if let Some((_, until)) = self.held.remove(&visitor) {
            self.ends.remove(&(until, visitor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn at(second: i64) -> Timestamp {
        from_micros(second * 1_000_000)
    }

    fn net(text: &str) -> IpNet {
        model::scope::parse_net(text).expect("an address")
    }

    fn ban(ladder: &mut Ladder, text: &str, own: i64, visiting: bool, now: i64) -> i64 {
        ladder.strike(net(text), SignedDuration::from_secs(own), visiting, at(now)).0.as_secs()
    }

    #[test]
    fn who_comes_back_is_banned_for_longer() {
        let mut ladder = Ladder::new(Rungs::default());
        // (who, whether a ban holds, when, how long the profile says, how long it lasts)
        let cases = [
            ("192.0.2.1", false, 0, 4 * HOUR, 4 * HOUR),
            ("192.0.2.1", true, 60, 4 * HOUR, 4 * HOUR),
            ("192.0.2.1", false, 5 * HOUR, 4 * HOUR, 16 * HOUR),
            ("192.0.2.2", false, 5 * HOUR, 4 * HOUR, 4 * HOUR),
            ("192.0.2.1", true, 6 * HOUR, 4 * HOUR, 16 * HOUR),
            ("192.0.2.1", false, 2 * DAY, 4 * HOUR, 3 * DAY),
            ("192.0.2.1", false, 6 * DAY, 4 * HOUR, 14 * DAY),
            ("192.0.2.1", false, 30 * DAY, 4 * HOUR, 30 * DAY),
            ("192.0.2.1", false, 61 * DAY, 4 * HOUR, 30 * DAY),
            ("192.0.2.1", false, 92 * DAY, 365 * DAY, 365 * DAY),
            ("2001:db8::1", false, 0, HOUR, HOUR),
            ("2001:db8::ffff:1", false, 2 * HOUR, HOUR, 16 * HOUR),
            ("2001:db8:0:1::1", false, 2 * HOUR, HOUR, HOUR),
            ("192.0.2.0/24", false, 0, HOUR, HOUR),
        ];
        for (who, visiting, now, own, lasts) in cases {
            assert_eq!(ban(&mut ladder, who, own, visiting, now), lasts, "{who} at {now}");
        }
        let after = 92 * DAY + 365 * DAY;
        assert_eq!(ladder.strikes(net("192.0.2.1")).map(|strikes| strikes.count), Some(7));
        assert_eq!(ban(&mut ladder, "192.0.2.1", HOUR, false, after + 91 * DAY), HOUR, "it is long ago");
    }

    #[test]
    fn visits_are_forgotten_and_forgiven() {
        let mut ladder = Ladder::new(Rungs::default());
        for who in ["192.0.2.1", "192.0.2.2", "198.51.100.0/24", "2001:db8::1"] {
            ban(&mut ladder, who, HOUR, false, 0);
        }
        assert_eq!(ladder.forgive(net("198.51.100.7")), [net("198.51.100.0/24")]);
        assert_eq!(ladder.forgive(net("2001:db8::77")), [net("2001:db8::/64")]);
        assert_eq!(ladder.forgive(net("192.0.2.0/24")).len(), 2);
        assert_eq!(ladder.strikes(net("192.0.2.1")), None);
        ban(&mut ladder, "192.0.2.1", HOUR, false, 0);
        ban(&mut ladder, "192.0.2.2", HOUR, false, DAY);
        assert_eq!(ladder.forget(at(90 * DAY)), None);
        assert_eq!(ladder.forget(at(90 * DAY + HOUR)), Some(at(HOUR)));
        assert_eq!((ladder.held.len(), ladder.ends.len()), (1, 1));
    }

    #[test]
    fn it_keeps_those_whose_bans_ended_last_and_can_be_off() {
        let mut ladder = Ladder::new(Rungs::default());
        for index in 0..=CAPACITY as u32 {
            let net = IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(index)));
            ladder.restore(net, Strikes { count: 1, until: at(index.into()) });
        }
        assert_eq!(ladder.forget(at(0)), Some(at(0)));
        assert_eq!((ladder.held.len(), ladder.strikes(net("0.0.0.0"))), (CAPACITY, None));

        let mut off = Ladder::new(Rungs { steps: Vec::new(), ..Rungs::default() });
        for now in [0, DAY] {
            assert_eq!(ban(&mut off, "192.0.2.1", HOUR, false, now), HOUR);
        }
        assert!(off.held.is_empty());
    }
}
