//! What a feed tells of, in the order in which it is told.
//!
//! Rows lie sorted in memory, a million of them in a few dozen megabytes; a plan is merged into them in one pass.

use std::collections::{BTreeMap, HashMap};

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::engine::desired::{Key, Subject};
use crate::engine::plan::{Placed, Why};
use crate::engine::span::{Family, Span};

/// Kinds beyond which those that no row has any more are forgotten.
const MANY_KINDS: usize = 1 << 16;

/// What rows have in common that were made for the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kind {
    /// `ban`, ...
    pub action: CompactString,
    /// Who decided.
    pub origin: CompactString,
    /// The scenario, or the reason of a manual decision.
    pub scenario: CompactString,
}

/// One entry, as it is told.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The prefix that decisions name.
    pub net: IpNet,
    /// The addresses in it that may be blocked, if not all.
    pub pieces: Option<&'a [Span]>,
    /// When it ends.
    pub until: Timestamp,
    /// Number of the decision; 0 when it is not known.
    pub decision: i64,
    /// Why it is there.
    pub kind: &'a Kind,
}

impl Item<'_> {
    /// Its addresses.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        let whole = self.pieces.is_none().then(|| Span::of(self.net));
        whole.into_iter().chain(self.pieces.unwrap_or_default().iter().copied())
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        Family::of(self.net)
    }
}

/// What becomes of a key.
pub type Change = (Key, Option<(Placed, Why)>);

/// All entries, in order.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    v4: Vec<Row<u32>>,
    v6: Vec<Row<u128>>,
    /// What is not wholly to be blocked; there is little of it.
    pieces: HashMap<Key, Box<[Span]>>,
    kinds: Vec<Kind>,
    known: HashMap<Kind, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Row<B> {
    bits: B,
    length: u8,
    pieces: bool,
    kind: u32,
    /// In seconds of Unix time, rounded up.
    until: i64,
    decision: i64,
}

/// The bits of an address.
trait Bits: Copy + Ord {
    fn net(self, length: u8) -> Option<IpNet>;
}

impl Bits for u32 {
    fn net(self, length: u8) -> Option<IpNet> {
        IpNet::new(std::net::Ipv4Addr::from_bits(self).into(), length).ok()
    }
}

impl Bits for u128 {
    fn net(self, length: u8) -> Option<IpNet> {
        IpNet::new(std::net::Ipv6Addr::from_bits(self).into(), length).ok()
    }
}

/// What becomes of rows, by their place.
type Edits<B> = BTreeMap<(B, u8, CompactString), Option<Row<B>>>;

impl Rows {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries that hold at `now`, IPv4 before IPv6, ascending.
    pub fn items(&self, now: Timestamp) -> impl Iterator<Item = Item<'_>> {
        let now = now.as_second();
        let v4 = self.v4.iter().filter(move |row| row.until > now).filter_map(|row| self.item(row));
        let v6 = self.v6.iter().filter(move |row| row.until > now).filter_map(|row| self.item(row));
        v4.chain(v6)
    }

    /// When the next of the entries that hold at `now` ends.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.as_second();
        let ends = self.v4.iter().map(|row| row.until).chain(self.v6.iter().map(|row| row.until));
        Timestamp::from_second(ends.filter(|&until| until > now).min()?).ok()
    }

    /// Until when `key` is told of.
    pub fn until(&self, key: &Key) -> Option<Timestamp> {
        let until = match key.net()? {
            IpNet::V4(net) => self.find(&self.v4, (net.network().to_bits(), net.prefix_len(), &key.remediation)),
            IpNet::V6(net) => self.find(&self.v6, (net.network().to_bits(), net.prefix_len(), &key.remediation)),
        };
        Timestamp::from_second(until?).ok()
    }

    /// The rows after `changes`, without those that are over at `now`.
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = Change>, now: Timestamp) -> Self {
        let (pieces, kinds, known) = (self.pieces.clone(), self.kinds.clone(), self.known.clone());
        let mut after = Self { v4: Vec::new(), v6: Vec::new(), pieces, kinds, known };
        let (mut v4, mut v6) = (Edits::new(), Edits::new());
        for (key, change) in changes {
            let Subject::Net(net) = key.subject else { continue };
            let row = change.map(|(placed, why)| {
                let kind = Kind { action: key.remediation.clone(), origin: why.origin, scenario: why.scenario };
                // a second that has begun is not over
                let until = placed.until.as_second() + i64::from(placed.until.subsec_nanosecond() > 0);
                (after.kind(kind), until, why.id, placed.pieces)
            });
            let cut = row.as_ref().and_then(|(.., pieces)| pieces.clone());
            let pieces = cut.is_some();
            match cut {
                Some(cut) => after.pieces.insert(key.clone(), cut),
                None => after.pieces.remove(&key),
            };
            let length = net.prefix_len();
            match net {
                IpNet::V4(net) => {
                    let bits = net.network().to_bits();
                    let row = row.map(|(kind, until, decision, _)| Row { bits, length, pieces, kind, until, decision });
                    v4.insert((bits, length, key.remediation), row);
                }
                IpNet::V6(net) => {
                    let bits = net.network().to_bits();
                    let row = row.map(|(kind, until, decision, _)| Row { bits, length, pieces, kind, until, decision });
                    v6.insert((bits, length, key.remediation), row);
                }
            }
        }
        after.v4 = merge(&self.v4, v4, &after.kinds, now);
        after.v6 = merge(&self.v6, v6, &after.kinds, now);
        if after.kinds.len() > MANY_KINDS {
            after.forget_kinds();
        }
        after
    }

    fn kind(&mut self, kind: Kind) -> u32 {
        if let Some(&known) = self.known.get(&kind) {
            return known;
        }
        let number = self.kinds.len() as u32;
        self.kinds.push(kind.clone());
        self.known.insert(kind, number);
        number
    }

    fn forget_kinds(&mut self) {
        let before = std::mem::take(&mut self.kinds);
        self.known.clear();
        let mut numbers = HashMap::new();
        let (mut v4, mut v6) = (std::mem::take(&mut self.v4), std::mem::take(&mut self.v6));
        for kind in v4.iter_mut().map(|row| &mut row.kind).chain(v6.iter_mut().map(|row| &mut row.kind)) {
            let fresh = before.get(*kind as usize).cloned().unwrap_or_default();
            *kind = *numbers.entry(*kind).or_insert_with(|| self.kind(fresh));
        }
        (self.v4, self.v6) = (v4, v6);
    }

    fn item<B: Bits>(&self, row: &Row<B>) -> Option<Item<'_>> {
        let net = row.bits.net(row.length)?;
        let kind = self.kinds.get(row.kind as usize)?;
        let pieces = if row.pieces {
            let key = Key { remediation: kind.action.clone(), subject: Subject::Net(net) };
            self.pieces.get(&key).map(|pieces| &**pieces)
        } else {
            None
        };
        Some(Item { net, pieces, until: Timestamp::from_second(row.until).ok()?, decision: row.decision, kind })
    }

    fn find<B: Bits>(&self, rows: &[Row<B>], place: (B, u8, &str)) -> Option<i64> {
        let at = rows.binary_search_by(|row| place_of(row, &self.kinds).cmp(&place)).ok()?;
        rows.get(at).map(|row| row.until)
    }
}

/// By what rows are sorted.
fn place_of<'a, B: Bits>(row: &Row<B>, kinds: &'a [Kind]) -> (B, u8, &'a str) {
    let action = kinds.get(row.kind as usize).map_or("", |kind| kind.action.as_str());
    (row.bits, row.length, action)
}

/// `rows` after `edits`, without those that are over at `now`. Both are in order.
fn merge<B: Bits>(rows: &[Row<B>], edits: Edits<B>, kinds: &[Kind], now: Timestamp) -> Vec<Row<B>> {
    let now = now.as_second();
    let holds = |row: &Row<B>| row.until > now;
    let mut merged = Vec::with_capacity(rows.len() + edits.len());
    let mut rows = rows.iter().copied().peekable();
    for ((bits, length, action), edit) in edits {
        let place = (bits, length, action.as_str());
        while let Some(row) = rows.next_if(|row| place_of(row, kinds) < place) {
            merged.extend(Some(row).filter(holds));
        }
        rows.next_if(|row| place_of(row, kinds) == place);
        merged.extend(edit.filter(holds));
    }
    merged.extend(rows.filter(holds));
    merged
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::tests::second;

    /// A ban of `net` until second `until`.
    pub(crate) fn ban(net: &str, until: i64, origin: &str) -> Change {
        let net = model::scope::parse_net(net).expect("a valid test prefix");
        let key = Key { remediation: "ban".into(), subject: Subject::Net(net) };
        let why = Why { id: until, origin: origin.into(), scenario: "test/scenario".into() };
        (key, Some((Placed { until: second(until), pieces: None }, why)))
    }

    fn told(rows: &Rows, now: i64) -> Vec<(String, i64)> {
        rows.items(second(now)).map(|item| (item.net.to_string(), item.until.as_second())).collect()
    }

    #[test]
    fn rows_are_in_order_and_end() {
        let rows = Rows::default();
        let nets = ["2001:db8::/64", "203.0.113.9", "203.0.113.0/24", "192.0.2.1"];
        let rows = rows.with(nets.iter().zip(1..).map(|(net, at)| ban(net, at * 10, "cordon")), second(0));
        let all = [("192.0.2.1/32", 40), ("203.0.113.0/24", 30), ("203.0.113.9/32", 20), ("2001:db8::/64", 10)];
        assert_eq!(told(&rows, 0), all.map(|(net, until)| (net.to_owned(), until)));
        assert_eq!(told(&rows, 25).len(), 2);
        assert_eq!(rows.next_end(second(25)), Some(second(30)));
        let gone = (ban("203.0.113.9", 1, "").0, None);
        assert_eq!(rows.until(&gone.0), Some(second(20)));
        let rows = rows.with([gone.clone()], second(0));
        assert_eq!((rows.until(&gone.0), rows.len()), (None, 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn merging_agrees_with_a_map(
            // (last octet, length, until, taken out)
            steps in proptest::collection::vec(
                proptest::collection::vec((any::<u8>(), 24..=32u8, 1..40i64, any::<bool>()), 0..12), 0..8)
        ) {
            let mut rows = Rows::default();
            let mut model: BTreeMap<IpNet, i64> = BTreeMap::new();
            for (now, changes) in steps.into_iter().enumerate() {
                let now = now as i64;
                let changes: Vec<Change> = changes
                    .into_iter()
                    .map(|(octet, length, until, out)| {
                        let (key, change) = ban(&format!("192.0.2.{octet}/{length}"), until, "cordon");
                        (key, change.filter(|_| !out))
                    })
                    .collect();
                for (key, change) in &changes {
                    let net = key.net().expect("a ban of addresses");
                    match change {
                        Some((placed, _)) => model.insert(net, placed.until.as_second()),
                        None => model.remove(&net),
                    };
                }
                model.retain(|_, until| *until > now);
                rows = rows.with(changes, second(now));
                let expected: Vec<_> = model.iter().map(|(net, until)| (net.to_string(), *until)).collect();
                prop_assert_eq!(told(&rows, now), expected);
            }
        }
    }
}
