//! What should be in force: every decision that holds, merged by what it is about.
//!
//! Several decisions may name the same address. They share one [`Entry`], which lasts as long as the longest of
//! them and goes when the last is gone. Time enters only through `now`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv6Addr;

use compact_str::CompactString;
use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use model::allowlist::display_net;
use model::{Decision, Delta, Scope};
use serde::Serialize;

use crate::engine::pace::addresses;
use crate::geo::Region;

/// What an entry is about: a remediation for a subject. Equal decisions of different spelling have equal keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `ban`, `captcha`, ...; lower case.
    pub remediation: CompactString,
    /// To whom.
    pub subject: Subject,
}

/// To whom a remediation applies, in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An address or a prefix: host bits cleared, IPv4 never written as IPv6.
    Net(IpNet),
    /// A country, an AS, a user name, ...
    Named(Scope, CompactString),
}

impl Key {
    /// The key of `decision`. A lone IPv6 address becomes its prefix of `ipv6_prefix` bits: whoever holds one
    /// address of such a network holds them all. A value that is no address comes back as the error's text.
    pub fn of(decision: &Decision, ipv6_prefix: u8) -> Result<Self, String> {
        let subject = match (decision.net(), &decision.scope) {
            (Some(net), _) => Subject::Net(widen(net.map_err(|error| error.to_string())?, ipv6_prefix)),
            (None, scope @ (Scope::Country | Scope::As)) => {
                Subject::Named(scope.clone(), decision.value.trim().to_uppercase().into())
            }
            (None, scope) => Subject::Named(scope.clone(), decision.value.clone()),
        };
        Ok(Self { remediation: decision.remediation.to_lowercase(), subject })
    }

    /// The prefix it is about, if it is about addresses.
    pub fn net(&self) -> Option<IpNet> {
        match self.subject {
            Subject::Net(net) => Some(net),
            Subject::Named(..) => None,
        }
    }

    /// The country or autonomous system that it bans, if it bans one.
    pub fn region(&self) -> Option<Region> {
        match &self.subject {
            Subject::Named(scope, value) if self.remediation == "ban" => Region::of_decision(scope, value),
            _ => None,
        }
    }

    /// `Ip` for one address, `Range` for a prefix, otherwise the scope of the decision.
    pub fn scope(&self) -> Scope {
        match &self.subject {
            Subject::Net(net) if net.prefix_len() == net.max_prefix_len() => Scope::Ip,
            Subject::Net(_) => Scope::Range,
            Subject::Named(scope, _) => scope.clone(),
        }
    }

    /// The value in its one spelling.
    pub fn value(&self) -> String {
        match &self.subject {
            Subject::Net(net) => display_net(*net),
            Subject::Named(_, value) => value.to_string(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.remediation, self.scope(), self.value())
    }
}

/// `net`, or the prefix of `ipv6_prefix` bits around it if it is a lone IPv6 address.
pub fn widen(net: IpNet, ipv6_prefix: u8) -> IpNet {
    match net {
        IpNet::V6(net) if net.prefix_len() == 128 => {
            Ipv6Net::new(net.addr(), ipv6_prefix).map_or(net, |wide| wide.trunc()).into()
        }
        net => net,
    }
}

/// One decision's share in an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Number of the decision; 0 before it is stored.
    pub id: i64,
    /// Identity of the decision across servers.
    pub uuid: CompactString,
    /// When it ends.
    pub until: Timestamp,
    /// Who decided.
    pub origin: CompactString,
    /// The scenario, or the reason of a manual decision.
    pub scenario: CompactString,
    /// The address it names, where the key is a whole network for its sake.
    pub address: Option<Ipv6Addr>,
}

impl Claim {
    fn of(decision: &Decision) -> Self {
        Self {
            id: decision.id,
            uuid: decision.uuid.as_str().into(),
            until: decision.until,
            origin: decision.origin.clone(),
            scenario: decision.scenario.clone(),
            address: match decision.net() {
                Some(Ok(IpNet::V6(net))) if net.prefix_len() == 128 => Some(net.addr()),
                _ => None,
            },
        }
    }

    fn is_of(&self, decision: &Decision) -> bool {
        (self.id != 0 && self.id == decision.id) || (!self.uuid.is_empty() && self.uuid == decision.uuid)
    }
}

/// Everything that holds for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    claims: Vec<Claim>,
}

impl Entry {
    /// The decisions behind it; never empty.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// The decision that lasts longest: it says until when, by whom and why.
    pub fn longest(&self) -> &Claim {
        self.claims.iter().max_by_key(|claim| claim.until).expect("an entry is removed with its last claim")
    }

    /// When the last decision ends.
    pub fn until(&self) -> Timestamp {
        self.longest().until
    }

    fn upsert(&mut self, decision: &Decision) {
        match self.claims.iter_mut().find(|claim| claim.is_of(decision)) {
            Some(claim) => *claim = Claim::of(decision),
            None => self.claims.push(Claim::of(decision)),
        }
    }
}

/// What a call changed.
#[derive(Debug, Default)]
pub struct Changed {
    /// Keys whose entry is new, gone, or ends at another time.
    pub keys: HashSet<Key>,
    /// Those among them that were not there before; where nothing was there before, none.
    pub fresh: Vec<Key>,
    /// Decisions that could not be taken: what they are about, and why.
    pub refused: Vec<(String, String)>,
}

/// What should be in force.
#[derive(Clone, Debug)]
pub struct Desired {
    entries: HashMap<Key, Entry>,
    ipv6_prefix: u8,
    max_entries: usize,
    /// How many IPv4 addresses all keys have together; those in two keys count twice.
    space: u64,
    /// IPv4 prefixes shorter than this do not count in it: the rails refuse them anyway.
    widest: u8,
}

impl Desired {
    /// Nothing in force. Lone IPv6 addresses widen to `ipv6_prefix` bits; more than `max_entries` keys are
    /// refused.
    pub fn new(ipv6_prefix: u8, max_entries: usize) -> Self {
        Self { entries: HashMap::new(), ipv6_prefix, max_entries, space: 0, widest: 0 }
    }

    /// The same, where IPv4 prefixes shorter than `widest` bits are refused in any case.
    pub fn refusing_wider(self, widest: u8) -> Self {
        Self { widest, ..self }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in force.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many IPv4 addresses all keys have together; those in two keys count twice.
    pub fn space(&self) -> u64 {
        self.space
    }

    /// What holds for `key`.
    pub fn entry(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Takes what begins and drops what is over. A decision that is in both is kept.
    pub fn apply(&mut self, delta: &Delta, now: Timestamp) -> Changed {
        let mut changed = Changed::default();
        for decision in &delta.remove {
            let Ok(key) = Key::of(decision, self.ipv6_prefix) else { continue };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.claims.retain(|claim| !claim.is_of(decision));
            if entry.claims.is_empty() {
                self.entries.remove(&key);
                self.space -= addresses(&key, self.widest);
            }
            changed.keys.insert(key);
        }
        for decision in &delta.add {
            self.add(decision, now, &mut changed);
        }
        changed
    }

    /// Makes `decisions` all that holds.
    pub fn replace(&mut self, decisions: &[Decision], now: Timestamp) -> Changed {
        let before = std::mem::take(&mut self.entries);
        self.space = 0;
        let mut changed = Changed::default();
        for decision in decisions {
            self.add(decision, now, &mut changed);
        }
        if before.is_empty() {
            changed.fresh = Vec::new();
        } else {
            changed.fresh.retain(|key| !before.contains_key(key));
        }
        changed.keys.retain(|key| before.get(key).map(Entry::until) != self.entries.get(key).map(Entry::until));
        changed.keys.extend(before.into_keys().filter(|key| !self.entries.contains_key(key)));
        changed
    }

    /// How many of the entries that hold at `now` would be gone if `decisions` replaced them.
    pub fn lost_by(&self, decisions: &[Decision], now: Timestamp) -> usize {
        let kept: HashSet<Key> = decisions
            .iter()
            .filter(|decision| counts(decision, now))
            .filter_map(|decision| Key::of(decision, self.ipv6_prefix).ok())
            .collect();
        self.entries.iter().filter(|(key, entry)| entry.until() > now && !kept.contains(key)).count()
    }

    /// Forgets what is over at `now`.
    pub fn expire(&mut self, now: Timestamp) {
        let (space, widest) = (&mut self.space, self.widest);
        self.entries.retain(|key, entry| {
            entry.claims.retain(|claim| claim.until > now);
            if entry.claims.is_empty() {
                *space -= addresses(key, widest);
            }
            !entry.claims.is_empty()
        });
    }

    fn add(&mut self, decision: &Decision, now: Timestamp, changed: &mut Changed) {
        if !counts(decision, now) {
            return;
        }
        let key = match Key::of(decision, self.ipv6_prefix) {
            Ok(key) => key,
            Err(error) => {
                changed.refused.push((decision.value.to_string(), error));
                return;
            }
        };
        let full = self.entries.len() >= self.max_entries;
        match self.entries.get_mut(&key) {
            Some(entry) => entry.upsert(decision),
            None if full => {
                let reason = format!("more than {} entries, see `max_entries`", self.max_entries);
                changed.refused.push((key.value(), reason));
                return;
            }
            None => {
                self.space += addresses(&key, self.widest);
                changed.fresh.push(key.clone());
                self.entries.insert(key.clone(), Entry { claims: vec![Claim::of(decision)] });
            }
        }
        changed.keys.insert(key);
    }
}

fn counts(decision: &Decision, now: Timestamp) -> bool {
    !decision.simulated && decision.is_active(now)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ban of `value` by decision `id` that ends at second `until`.
    pub(crate) fn ban(id: i64, value: &str, until: i64) -> Decision {
        Decision {
            id,
            uuid: String::new(),
            origin: "cordon".into(),
            remediation: "ban".into(),
            scope: if value.contains('/') { Scope::Range } else { Scope::Ip },
            value: value.into(),
            scenario: "test/scenario".into(),
            created_at: Timestamp::UNIX_EPOCH,
            until: second(until),
            simulated: false,
            alert_id: 0,
        }
    }

    pub(crate) fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds")
    }

    fn add(add: Vec<Decision>) -> Delta {
        Delta { add, remove: Vec::new() }
    }

    fn remove(remove: Vec<Decision>) -> Delta {
        Delta { add: Vec::new(), remove }
    }

    fn held(desired: &Desired) -> Vec<(String, i64)> {
        let mut held: Vec<_> =
            desired.iter().map(|(key, entry)| (key.to_string(), entry.until().as_second())).collect();
        held.sort();
        held
    }

    #[test]
    fn keys_are_canonical() {
        // (scope, value, key)
        let cases = [
            (Scope::Ip, "192.0.2.4", "ban Ip 192.0.2.4"),
            (Scope::Range, "192.0.2.4/32", "ban Ip 192.0.2.4"),
            (Scope::Ip, "::ffff:192.0.2.4", "ban Ip 192.0.2.4"),
            (Scope::Range, "192.0.2.77/24", "ban Range 192.0.2.0/24"),
            (Scope::Ip, "2001:db8::5", "ban Range 2001:db8::/64"),
            (Scope::Range, "2001:db8::5/128", "ban Range 2001:db8::/64"),
            (Scope::Range, "2001:db8::5/120", "ban Range 2001:db8::/120"),
            (Scope::Country, " fr", "ban Country FR"),
            (Scope::As, "as64500", "ban AS AS64500"),
            (Scope::Custom("session".into()), "aBc", "ban session aBc"),
        ];
        for (scope, value, expected) in cases {
            let decision = Decision { scope, remediation: "Ban".into(), ..ban(1, value, 9) };
            assert_eq!(Key::of(&decision, 64).map(|key| key.to_string()), Ok(expected.to_owned()), "{value}");
        }
    }

    #[test]
    fn the_longest_of_several_decisions_counts_and_the_last_one_ends_it() {
        let mut desired = Desired::new(64, 100);
        let now = second(0);
        desired.apply(&add(vec![ban(1, "192.0.2.4", 10), ban(2, "192.0.2.4/32", 20)]), now);
        assert_eq!(held(&desired), [("ban Ip 192.0.2.4".to_owned(), 20)]);
        desired.apply(&remove(vec![ban(2, "192.0.2.4", 20)]), now);
        assert_eq!(held(&desired), [("ban Ip 192.0.2.4".to_owned(), 10)]);
        desired.apply(&remove(vec![ban(7, "192.0.2.4", 20)]), now);
        assert_eq!(held(&desired).len(), 1, "an unknown decision takes nothing away");
        desired.apply(&remove(vec![ban(1, "192.0.2.4", 10)]), now);
        assert!(desired.is_empty());
    }

    #[test]
    fn a_decision_keeps_its_identity_when_it_gets_its_number() {
        let mut desired = Desired::new(64, 100);
        let unstored = Decision { uuid: "a-b".into(), ..ban(0, "192.0.2.4", 10) };
        desired.apply(&add(vec![unstored]), second(0));
        let stored = Decision { uuid: "a-b".into(), ..ban(5, "192.0.2.4", 10) };
        desired.apply(&add(vec![stored]), second(0));
        desired.apply(&remove(vec![ban(5, "192.0.2.4", 10)]), second(0));
        assert!(desired.is_empty());
    }

    #[test]
    fn what_never_counts() {
        let mut desired = Desired::new(64, 2);
        let simulated = Decision { simulated: true, ..ban(1, "192.0.2.1", 10) };
        let changed = desired.apply(
            &add(vec![
                simulated,
                ban(2, "192.0.2.2", 0),
                ban(3, "no address", 10),
                ban(4, "192.0.2.4", 10),
                ban(5, "192.0.2.5", 10),
                ban(6, "192.0.2.6", 10),
            ]),
            second(0),
        );
        assert_eq!(held(&desired).len(), 2);
        assert_eq!(changed.keys.len(), 2);
        let refused: Vec<&str> = changed.refused.iter().map(|(value, _)| value.as_str()).collect();
        assert_eq!(refused, ["no address", "192.0.2.6"]);
    }

    #[test]
    fn a_replacement_reports_exactly_what_differs() {
        let mut desired = Desired::new(64, 100);
        let now = second(0);
        desired.apply(&add(vec![ban(1, "192.0.2.1", 10), ban(2, "192.0.2.2", 10), ban(3, "192.0.2.3", 10)]), now);
        let next = [ban(1, "192.0.2.1", 10), ban(2, "192.0.2.2", 20), ban(4, "192.0.2.4", 10)];
        assert_eq!(desired.lost_by(&next, now), 1);
        let mut changed: Vec<String> = desired.replace(&next, now).keys.iter().map(Key::value).collect();
        changed.sort();
        assert_eq!(changed, ["192.0.2.2", "192.0.2.3", "192.0.2.4"]);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut desired = Desired::new(64, 100);
        desired.apply(&add(vec![ban(1, "192.0.2.1", 10), ban(2, "192.0.2.2", 20)]), second(0));
        desired.expire(second(10));
        assert_eq!(held(&desired), [("ban Ip 192.0.2.2".to_owned(), 20)]);
    }
}
