//! Who is kept out, in memory, for look-ups that must not wait.
//!
//! A table never changes: what follows from a plan is another table, which shares all the parts that the plan does
//! not touch. Readers keep the one they have; whoever swaps it in waits for nobody.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::engine::Never;
use crate::engine::desired::{Key, Subject};
use crate::engine::span::{Span, number};

/// Parts of the rows of one family. A plan copies the parts that it touches: of a million rows a few hundred.
const PARTS: usize = 4096;

/// What holds for one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it ends, in milliseconds of Unix time.
    until: i64,
    /// Number of the decision that lasts longest; 0 when it is not known.
    pub decision: i64,
}

impl Held {
    /// What lasts until `until` by `decision`.
    pub fn new(until: Timestamp, decision: i64) -> Self {
        Self { until: until.as_millisecond(), decision }
    }

    /// Whether it has not ended at `now`.
    pub fn holds(self, now: Timestamp) -> bool {
        self.until > now.as_millisecond()
    }

    /// Seconds until it ends, rounded up; 0 when it is over.
    pub fn seconds_left(self, now: Timestamp) -> u64 {
        u64::try_from(self.until - now.as_millisecond()).unwrap_or(0).div_ceil(1000)
    }
}

/// Who is kept out, and who passes whatever is said about him.
#[derive(Clone, Debug)]
pub struct Table {
    v4: Nets<u32>,
    v6: Nets<u128>,
    named: Arc<HashMap<(CompactString, CompactString), Held>>,
    never: Arc<Never>,
}

impl Default for Table {
    fn default() -> Self {
        let hasher = RandomState::new();
        let (v4, v6) = (Nets::new(hasher.clone()), Nets::new(hasher));
        Self { v4, v6, named: Arc::default(), never: Arc::default() }
    }
}

impl Table {
    /// A table in which `never` passes before anything else is asked.
    #[must_use]
    pub fn sparing(self, never: Never) -> Self {
        Self { never: Arc::new(never), ..self }
    }

    /// The table after `changes`: what a key is held by, or that it is not any more.
    #[must_use]
    pub fn with<'a>(&self, changes: impl IntoIterator<Item = (&'a Key, Option<Held>)>) -> Self {
        let mut table = self.clone();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (key, held) in changes {
            match &key.subject {
                Subject::Net(IpNet::V4(net)) => v4.push((net.network().to_bits(), net.prefix_len(), held)),
                Subject::Net(IpNet::V6(net)) => v6.push((net.network().to_bits(), net.prefix_len(), held)),
                Subject::Named(scope, value) => {
                    let name = (scope.as_str().to_lowercase().into(), value.clone());
                    let named = Arc::make_mut(&mut table.named);
                    match held {
                        Some(held) => named.insert(name, held),
                        None => named.remove(&name),
                    };
                }
            }
        }
        table.v4.change(v4);
        table.v6.change(v6);
        table
    }

    /// How many subjects are kept out, those whose time is over included.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.named.len()
    }

    /// Whether nobody is kept out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `address` passes whatever is said about it.
    pub fn spares(&self, address: IpAddr) -> bool {
        let spans = if address.is_ipv4() { &self.never.v4 } else { &self.never.v6 };
        covers(spans, number(address))
    }

    /// What keeps `address` out at `now`: the narrowest prefix around it that holds.
    pub fn address(&self, address: IpAddr, now: Timestamp) -> Option<Held> {
        match address {
            IpAddr::V4(address) => self.v4.find(address.to_bits(), now),
            IpAddr::V6(address) => self.v6.find(address.to_bits(), now),
        }
    }

    /// What keeps out whoever is `value` in the sense of `scope`, a word in lower case.
    pub fn named(&self, scope: &str, value: &str, now: Timestamp) -> Option<Held> {
        if self.named.is_empty() {
            return None;
        }
        self.named.get(&(scope.into(), value.into())).copied().filter(|held| held.holds(now))
    }

    /// What is noted for exactly `key`, whether it is over or not.
    pub fn held(&self, key: &Key) -> Option<Held> {
        match &key.subject {
            Subject::Net(IpNet::V4(net)) => self.v4.get(net.network().to_bits(), net.prefix_len()),
            Subject::Net(IpNet::V6(net)) => self.v6.get(net.network().to_bits(), net.prefix_len()),
            Subject::Named(scope, value) => {
                self.named.get(&(scope.as_str().to_lowercase().into(), value.clone())).copied()
            }
        }
    }
}

/// Whether one of `spans`, which are joined and in order, contains `address`.
pub fn covers(spans: &[Span], address: u128) -> bool {
    let after = spans.partition_point(|span| span.first <= address);
    after.checked_sub(1).and_then(|at| spans.get(at)).is_some_and(|span| span.contains(address))
}

/// The bits of an address.
trait Bits: Copy + Ord + std::hash::Hash {
    /// How many there are.
    const WIDTH: u8;

    /// The first `length` of them; the others are cleared.
    fn first(self, length: u8) -> Self;
}

impl Bits for u32 {
    const WIDTH: u8 = 32;

    fn first(self, length: u8) -> Self {
        self & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
    }
}

impl Bits for u128 {
    const WIDTH: u8 = 128;

    fn first(self, length: u8) -> Self {
        self & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Row<B> {
    bits: B,
    length: u8,
    held: Held,
}

impl<B: Bits> Row<B> {
    fn place(&self) -> (B, u8) {
        (self.bits, self.length)
    }
}

/// The prefixes of one family. Each length in use costs a look-up; decisions use a few.
#[derive(Clone, Debug)]
struct Nets<B> {
    parts: Arc<[Part<B>]>,
    /// How many prefixes there are of each length.
    lengths: Arc<[u32]>,
    /// Chosen anew by each process: nobody can fill one part on purpose.
    hasher: RandomState,
}

/// Rows in order, shared until one of them changes.
type Part<B> = Arc<Vec<Row<B>>>;

impl<B: Bits> Nets<B> {
    fn new(hasher: RandomState) -> Self {
        let empty = Part::<B>::default();
        Self {
            parts: (0..PARTS).map(|_| Arc::clone(&empty)).collect(),
            lengths: vec![0; usize::from(B::WIDTH) + 1].into(),
            hasher,
        }
    }

    fn len(&self) -> usize {
        self.lengths.iter().map(|&count| count as usize).sum()
    }

    fn part(&self, bits: B, length: u8) -> usize {
        self.hasher.hash_one((bits, length)) as usize % PARTS
    }

    fn get(&self, bits: B, length: u8) -> Option<Held> {
        let rows = self.parts.get(self.part(bits, length))?;
        let at = rows.binary_search_by_key(&(bits, length), Row::place).ok()?;
        rows.get(at).map(|row| row.held)
    }

    fn find(&self, address: B, now: Timestamp) -> Option<Held> {
        let used = (0..=B::WIDTH).rev().zip(self.lengths.iter().rev()).filter(|&(_, &count)| count > 0);
        used.filter_map(|(length, _)| self.get(address.first(length), length)).find(|held| held.holds(now))
    }

    fn change(&mut self, changes: Vec<(B, u8, Option<Held>)>) {
        if changes.is_empty() {
            return;
        }
        let mut by_part: HashMap<usize, Vec<(B, u8, Option<Held>)>> = HashMap::new();
        for change in changes {
            by_part.entry(self.part(change.0, change.1)).or_default().push(change);
        }
        let (parts, lengths) = (Arc::make_mut(&mut self.parts), Arc::make_mut(&mut self.lengths));
        for (part, changes) in by_part {
            let Some(part) = parts.get_mut(part) else { continue };
            let rows = Arc::make_mut(part);
            for (bits, length, held) in changes {
                let Some(count) = lengths.get_mut(usize::from(length)) else { continue };
                match (rows.binary_search_by_key(&(bits, length), Row::place), held) {
                    (Ok(at), Some(held)) => rows[at].held = held,
                    (Ok(at), None) => {
                        rows.remove(at);
                        *count -= 1;
                    }
                    (Err(at), Some(held)) => {
                        rows.insert(at, Row { bits, length, held });
                        *count += 1;
                    }
                    (Err(_), None) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Scope;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::tests::second;

    fn key(net: &str) -> Key {
        let net = model::scope::parse_net(net).expect("a valid test prefix");
        Key { remediation: "ban".into(), subject: Subject::Net(net) }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a valid test address")
    }

    #[test]
    fn the_narrowest_prefix_that_holds_decides() {
        let bans =
            [("203.0.113.0/24", 90, 1), ("203.0.113.9", 30, 2), ("2001:db8:1::/64", 90, 3), ("2001:db8::/32", 50, 4)];
        let keys: Vec<_> = bans.iter().map(|&(net, until, id)| (key(net), Held::new(second(until), id))).collect();
        let table = Table::default().with(keys.iter().map(|(key, held)| (key, Some(*held))));
        // (address, at second, decision)
        let cases = [
            ("203.0.113.9", 0, Some(2)),
            ("203.0.113.9", 30, Some(1)),
            ("203.0.113.10", 0, Some(1)),
            ("203.0.113.10", 90, None),
            ("203.0.114.9", 0, None),
            ("2001:db8:1::77", 0, Some(3)),
            ("2001:db8:2::77", 0, Some(4)),
            ("2001:db8:2::77", 60, None),
        ];
        for (address, at, decision) in cases {
            let found = table.address(ip(address), second(at)).map(|held| held.decision);
            assert_eq!(found, decision, "{address} at {at}");
        }
        assert_eq!(table.len(), 4);
    }

    #[test]
    fn names_are_told_apart_by_scope() {
        let user = Key { remediation: "ban".into(), subject: Subject::Named(Scope::new("Username"), "mallory".into()) };
        let table = Table::default().with([(&user, Some(Held::new(second(60), 7)))]);
        assert_eq!(table.named("username", "mallory", second(0)).map(|held| held.decision), Some(7));
        assert_eq!(table.named("country", "mallory", second(0)), None);
        assert_eq!(table.named("username", "mallory", second(60)), None);
        assert!(table.with([(&user, None)]).is_empty());
    }

    #[test]
    fn the_table_before_stays_as_it_was() {
        let before = Table::default().with([(&key("203.0.113.9"), Some(Held::new(second(60), 1)))]);
        let after = before.with([(&key("203.0.113.9"), None)]);
        assert!(before.address(ip("203.0.113.9"), second(0)).is_some());
        assert!(after.address(ip("203.0.113.9"), second(0)).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn look_ups_agree_with_trying_every_prefix(
            // (address, length, lifted)
            steps in proptest::collection::vec((any::<u16>(), 16..=32u8, any::<bool>()), 0..40),
            probes in proptest::collection::vec(any::<u16>(), 1..40),
        ) {
            let mut table = Table::default();
            let mut model: HashMap<IpNet, i64> = HashMap::new();
            for (at, (low, length, lifted)) in steps.into_iter().enumerate() {
                let address = std::net::Ipv4Addr::from_bits(0xcb00_0000 | u32::from(low));
                let net = ipnet::Ipv4Net::new(address, length).expect("a length up to 32").trunc();
                let key = Key { remediation: "ban".into(), subject: Subject::Net(net.into()) };
                let held = (!lifted).then(|| Held::new(second(60), at as i64));
                table = table.with([(&key, held)]);
                match held {
                    Some(held) => model.insert(net.into(), held.decision),
                    None => model.remove(&net.into()),
                };
            }
            prop_assert_eq!(table.len(), model.len());
            for low in probes {
                let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0xcb00_0000 | u32::from(low)));
                let narrowest = model.iter().filter(|(net, _)| net.contains(&address)).max_by_key(|(net, _)| net.prefix_len());
                prop_assert_eq!(table.address(address, second(0)).map(|held| held.decision), narrowest.map(|(_, &id)| id));
            }
        }
    }
}
