//! All live decisions, found by number, prefix, name and end; and the log of what changed.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use model::{Decision, Delta, Scope};

use super::nets::Nets;
use super::query::Query;
use super::row::{Kinds, Row, Rows};
use super::{Cursor, Epochs, LOG_LEN, from_micros, net_of, to_micros};

/// How many rows a scan looks at in one step.
const PAGE: usize = 512;

#[derive(Debug)]
struct Change {
    number: u64,
    what: What,
}

/// What happened. An addition need not hold its row: what is no longer in the table has ended, or was lifted by a
/// later change.
#[derive(Debug)]
enum What {
    Added(i64),
    /// The row, and when it was lifted.
    Lifted(Box<Row>, i64),
}

/// All live decisions.
#[derive(Debug)]
pub struct Table {
    rows: Rows,
    kinds: Kinds,
    nets: Nets,
    /// Condensed values of those that are not about addresses, with their numbers.
    named: BTreeSet<(u64, i64)>,
    hasher: RandomState,
    /// Ends and numbers.
    expiry: BTreeSet<(i64, i64)>,
    epochs: Epochs,
    log: VecDeque<Change>,
    log_len: usize,
    /// Every change after this number is in the log.
    floor: u64,
    last: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(LOG_LEN)
    }
}

/// A walk through the decisions that a query wants, by ascending number, in steps of bounded length. The table may
/// change between two steps: what was there at the beginning and still is, is found; what came later is not.
#[derive(Debug)]
pub struct Scan {
    query: Query,
    now: i64,
    ids: Option<std::vec::IntoIter<i64>>,
    after: i64,
    upto: i64,
}

impl Scan {
    /// The same without what has a number up to `after`.
    #[must_use]
    pub fn after(mut self, after: i64) -> Self {
        self.after = self.after.max(after);
        self
    }

    /// Those found in the next step, perhaps none; `None` at the end.
    pub fn step(&mut self, table: &Table) -> Option<Vec<Row>> {
        let (now, after, upto) = (self.now, self.after, self.upto);
        let wanted = |row: &&Row| row.end() > now && self.query.wants_row(row);
        if let Some(ids) = &mut self.ids {
            let (page, over) = (ids.by_ref().take(PAGE).collect::<Vec<_>>(), ids.len() == 0);
            let page = page.into_iter().filter(|&id| id > after && id <= upto);
            let rows = page.filter_map(|id| table.rows.get(id)).filter(wanted).cloned().collect::<Vec<_>>();
            if over {
                // The next step has nothing to look at.
                self.upto = i64::MIN;
                self.ids = None;
            }
            return Some(rows);
        }
        if after >= upto {
            return None;
        }
        let mut rows = Vec::new();
        self.after = upto;
        for (place, row) in table.rows.after(after).take_while(|row| row.id() <= upto).enumerate() {
            if place == PAGE {
                break;
            }
            self.after = row.id();
            if wanted(&row) {
                rows.push(row.clone());
            }
        }
        Some(rows)
    }
}

impl Table {
    /// An empty table that remembers `log_len` changes.
    pub fn new(log_len: usize) -> Self {
        Self {
            rows: Rows::default(),
            kinds: Kinds::default(),
            nets: Nets::default(),
            named: BTreeSet::new(),
            hasher: RandomState::new(),
            expiry: BTreeSet::new(),
            epochs: Epochs::default(),
            log: VecDeque::new(),
            log_len,
            floor: 0,
            last: 0,
        }
    }

    /// Makes the restored decisions ready, and continues the sequence of their store. `last` is the last number given by it,
    /// `floor` the last one of which the store may know nothing.
    pub fn resume(&mut self, epochs: Epochs, floor: u64, last: u64) {
        let (mut nets, mut named, mut ends) = (Vec::new(), Vec::new(), Vec::with_capacity(self.rows.len()));
        for row in self.rows.after(i64::MIN) {
            ends.push((row.end(), row.id()));
            match row.net() {
                Some(net) => nets.push((net, row.id())),
                None => named.push((self.hasher.hash_one(row.value()), row.id())),
            }
        }
        self.nets = Nets::new(nets.into_iter());
        self.named = named.into_iter().collect();
        self.expiry = ends.into_iter().collect();
        self.epochs = epochs;
        self.last = last;
        let remembered = last.saturating_sub(self.log_len as u64);
        self.floor = self.floor.max(floor).max(remembered).min(last);
        self.log.retain(|change| change.number > self.floor);
        self.log.make_contiguous().sort_unstable_by_key(|change| change.number);
    }

    /// Where the sequence of changes stands.
    pub fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epochs.current(), number: self.last }
    }

    /// How many live decisions there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// Adds a decision and gives the change its number. Its `id` is new, its times are whole microseconds.
    pub fn add(&mut self, decision: &Decision) -> u64 {
        self.insert(decision);
        self.record(What::Added(decision.id))
    }

    /// Adds a decision that a store remembers, to be found after [`Table::resume`]. `change` is the number under which it
    /// was added. Each decision comes once, in any order.
    pub fn restore(&mut self, decision: &Decision, change: u64) {
        let row = self.kinds.row(decision);
        self.rows.insert(row);
        self.log.push_back(Change { number: change, what: What::Added(decision.id) });
        // Half of what may wait here is surely too old.
        if self.log.len() >= 2 * self.log_len.max(1) {
            let newest = self.log.iter().map(|change| change.number).max().unwrap_or(0);
            self.floor = self.floor.max(newest.saturating_sub(self.log_len as u64));
            self.log.retain(|change| change.number > self.floor);
        }
    }

    /// Puts back the memory of a decision that was lifted under the number `change`.
    pub fn restore_lifted(&mut self, decision: &Decision, change: u64) {
        let row = self.kinds.row(decision);
        let at = row.end();
        self.log.push_back(Change { number: change, what: What::Lifted(Box::new(row), at) });
    }

    /// Ends a decision before its time. Answers the number of the change and the decision as it now is, or
    /// `None` if there is no such live decision.
    pub fn lift(&mut self, id: i64, now: Timestamp) -> Option<(u64, Decision)> {
        let row = self.remove(id)?;
        let mut decision = row.decision();
        decision.until = from_micros(to_micros(now));
        let number = self.record(What::Lifted(Box::new(row), to_micros(now)));
        Some((number, decision))
    }

    /// Forgets what is over at `now`; answers how many.
    pub fn expire(&mut self, now: Timestamp) -> usize {
        let now = to_micros(now);
        let mut expired = 0;
        while let Some(&(until, id)) = self.expiry.first()
            && until <= now
        {
            self.remove(id);
            expired += 1;
        }
        expired
    }

    /// When the next decision ends.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.expiry.first().map(|&(until, _)| from_micros(until))
    }

    /// The live decision with this number.
    pub fn get(&self, id: i64) -> Option<&Row> {
        self.rows.get(id)
    }

    /// All live decisions by ascending number.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.after(i64::MIN)
    }

    /// A walk through the decisions that `query` wants and that hold at `now`.
    pub fn scan(&self, query: Query, now: Timestamp) -> Scan {
        let ids = self.candidates(&query).map(Vec::into_iter);
        let upto = self.rows.last_id().unwrap_or(i64::MIN);
        Scan { query, now: to_micros(now), ids, after: i64::MIN, upto }
    }

    /// The decisions that `query` wants and that hold at `now`, by ascending number.
    pub fn select(&self, query: &Query, now: Timestamp) -> Vec<Row> {
        let mut scan = self.scan(query.clone(), now);
        let mut found = Vec::new();
        while let Some(rows) = scan.step(self) {
            found.extend(rows);
        }
        found
    }

    /// Whether another live decision on the same scope, value and remediation ends strictly later.
    pub fn has_longer(&self, scope: &Scope, value: &str, remediation: &str, until: Timestamp) -> bool {
        self.is_outlived(scope, value, remediation, to_micros(until), 0)
    }

    /// Whether another live decision does to the same target what `row` does, and ends strictly later.
    pub fn outlives(&self, row: &Row) -> bool {
        self.is_outlived(row.scope(), row.value(), row.remediation(), row.end(), row.id())
    }

    fn is_outlived(&self, scope: &Scope, value: &str, remediation: &str, until: i64, own: i64) -> bool {
        let longer = |id: i64| {
            id != own
                && self.rows.get(id).is_some_and(|row| {
                    row.end() > until
                        && row.remediation() == remediation
                        && row.value() == value
                        && row.scope() == scope
                })
        };
        match net_of(scope, value) {
            Some(net) => self.nets.exact(net).any(longer),
            None => self.called(value).any(longer),
        }
    }

    /// What changed after `cursor`, up to and including the change `upto`, as of `now`; with the place reached.
    /// `None` when the log does not reach back so far, or the cursor belongs to another history.
    pub fn since(&self, cursor: Cursor, upto: u64, now: Timestamp) -> Option<(Cursor, Delta)> {
        if cursor.number < self.floor || !self.epochs.knows(cursor, self.last) {
            return None;
        }
        let now = to_micros(now);
        let reached = Cursor { epoch: self.epochs.current(), number: upto.clamp(cursor.number, self.last) };
        let from = self.log.partition_point(|change| change.number <= cursor.number);
        let to = self.log.partition_point(|change| change.number <= reached.number);
        let mut delta = Delta::default();
        for change in self.log.range(from..to) {
            match &change.what {
                What::Lifted(row, at) if !row.simulated() => {
                    let mut decision = row.decision();
                    decision.until = from_micros(*at);
                    delta.remove.push(decision);
                }
                What::Added(id) => {
                    let row = self.rows.get(*id).filter(|row| row.end() > now && !row.simulated());
                    delta.add.extend(row.map(Row::decision));
                }
                What::Lifted(..) => {}
            }
        }
        Some((reached, delta))
    }

    /// A walk through everything that is to be enforced at `now`, and the place in the sequence from which a reader
    /// of it goes on.
    pub fn snapshot(&self, now: Timestamp) -> (Cursor, Scan) {
        (self.cursor(), self.scan(Query::default(), now))
    }

    /// Numbers of the decisions among which those that `query` wants are, ascending; `None` is all.
    fn candidates(&self, query: &Query) -> Option<Vec<i64>> {
        let mut ids: Vec<i64> = match (&query.net, &query.value) {
            (&Some((net, reach)), _) => self.nets.near(net, reach),
            (None, Some(value)) => {
                let net = model::scope::parse_net(value).ok();
                net.into_iter().flat_map(|net| self.nets.exact(net)).chain(self.called(value)).collect()
            }
            (None, None) => return None,
        };
        ids.sort_unstable();
        ids.dedup();
        Some(ids)
    }

    /// Those whose value may be `value` and is no address.
    fn called(&self, value: &str) -> impl Iterator<Item = i64> {
        let hash = self.hasher.hash_one(value);
        self.named.range((hash, i64::MIN)..=(hash, i64::MAX)).map(|&(_, id)| id)
    }

    fn insert(&mut self, decision: &Decision) {
        let row = self.kinds.row(decision);
        self.remove(row.id());
        match row.net() {
            Some(net) => self.nets.insert(net, row.id()),
            None => _ = self.named.insert((self.hasher.hash_one(row.value()), row.id())),
        }
        self.expiry.insert((row.end(), row.id()));
        self.rows.insert(row);
    }

    fn remove(&mut self, id: i64) -> Option<Row> {
        let row = self.rows.remove(id)?;
        self.expiry.remove(&(row.end(), id));
        match row.net() {
            Some(net) => self.nets.remove(net, id),
            None => _ = self.named.remove(&(self.hasher.hash_one(row.value()), id)),
        }
        Some(row)
    }

    fn record(&mut self, what: What) -> u64 {
        self.last += 1;
        if self.log.len() >= self.log_len
            && let Some(oldest) = self.log.pop_front()
        {
            self.floor = oldest.number;
        }
        self.log.push_back(Change { number: self.last, what });
        self.last
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::decisions::{CursorError, Reach};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds")
    }

    fn decision(id: i64, scope: &str, value: &str, until: i64) -> Decision {
        Decision {
            id,
            uuid: Uuid::from_u128(id as u128).to_string(),
            origin: "crowdsec".into(),
            remediation: "ban".into(),
            scope: Scope::new(scope),
            value: value.into(),
            scenario: "acme/ssh".into(),
            created_at: at(0),
            until: at(until),
            simulated: false,
            alert_id: 1,
        }
    }

    fn table() -> Table {
        let mut epochs = Epochs::default();
        epochs.begin(7, 0);
        let mut table = Table::default();
        table.resume(epochs, 0, 0);
        table
    }

    #[test]
    fn addresses_find_what_covers_them() {
        let mut table = table();
        let stored = [
            ("Ip", "192.0.2.4"),
            ("Range", "198.51.100.0/24"),
            ("Range", "2001:db8:1::/64"),
            ("Range", "2001:db8::/81"),
            ("Username", "192.0.2.4"),
        ];
        for (id, (scope, value)) in (1..).zip(stored) {
            table.add(&decision(id, scope, value, 60));
        }
        // (query, found when it must be covered, found when it must cover)
        let cases: &[(&str, &[i64], &[i64])] = &[
            ("192.0.2.4", &[1], &[1]),
            ("::ffff:192.0.2.4", &[1], &[1]),
            ("192.0.2.0/24", &[], &[1]),
            ("198.51.100.3", &[2], &[]),
            ("198.51.0.0/16", &[], &[2]),
            ("198.51.100.2/28", &[2], &[]),
            ("2001:db8:1::5", &[3], &[]),
            ("2001:db8:1::/80", &[3], &[]),
            ("2001:db8::6fff:ffff:ffff", &[4], &[]),
            ("2001:db8::/32", &[], &[3, 4]),
        ];
        for (text, covers, inside) in cases {
            let net = model::scope::parse_net(text).expect("a valid test prefix");
            let find = |reach| {
                let query = Query { net: Some((net, reach)), ..Query::default() };
                table.select(&query, at(1)).iter().map(Row::id).collect::<Vec<_>>()
            };
            assert_eq!(find(Reach::Covers), *covers, "what covers {text}");
            assert_eq!(find(Reach::Inside), *inside, "what lies inside {text}");
        }
    }

    #[test]
    fn each_filter_narrows() {
        let mut table = table();
        table.add(&decision(1, "Ip", "192.0.2.4", 60));
        table.add(&Decision { origin: "cscli".into(), ..decision(2, "Range", "192.0.2.0/24", 60) });
        table.add(&Decision { simulated: true, ..decision(3, "Ip", "192.0.2.4", 60) });
        table.add(&Decision { scenario: "Acme/HTTP-scan".into(), ..decision(4, "Username", "eve", 60) });
        table.add(&Decision { remediation: "captcha".into(), ..decision(5, "Ip", "192.0.2.4", 30) });
        let all = Query::default;
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        // (what is asked, query, what is found at second 30)
        let cases: Vec<(&str, Query, &[i64])> = vec![
            ("everything but simulated and ended ones", all(), &[1, 2, 4]),
            ("simulated ones too", Query { simulated: true, ..all() }, &[1, 2, 3, 4]),
            ("one origin", Query { origins: Some(words(&["cscli"])), ..all() }, &[2]),
            ("one value", Query { value: Some("192.0.2.4".into()), ..all() }, &[1]),
            ("one name", Query { value: Some("eve".into()), ..all() }, &[4]),
            ("a scope", Query { scopes: Some(vec![Scope::Range]), ..all() }, &[2]),
            (
                "scopes that contradict",
                Query { scopes: Some(vec![Scope::Ip]), scope: Some(vec![Scope::As]), ..all() },
                &[],
            ),
            ("a scenario's word", Query { scenarios_containing: words(&["http"]), ..all() }, &[4]),
            ("without a scenario's word", Query { scenarios_not_containing: words(&["http"]), ..all() }, &[1, 2]),
            ("a remediation", Query { remediation: Some("captcha".into()), ..all() }, &[]),
            ("an identity", Query { uuids: Some(vec![Uuid::from_u128(2).to_string()]), ..all() }, &[2]),
        ];
        for (what, query, found) in cases {
            let ids: Vec<i64> = table.select(&query, at(30)).iter().map(Row::id).collect();
            assert_eq!(ids, found, "{what}");
        }
    }

    #[test]
    fn a_cursor_is_honoured_only_in_its_own_history() {
        let epochs = Epochs::new(vec![(1, 0), (2, 10), (3, 20)]);
        let mut table = Table::default();
        table.resume(epochs, 5, 20);
        table.add(&decision(1, "Ip", "192.0.2.4", 60));
        // (who asks, epoch, number, answered with a delta)
        let cases = [
            ("the present run", 3, 20, true),
            ("the present run, up to date", 3, 21, true),
            ("a number not yet given", 3, 22, false),
            ("the run before", 2, 20, true),
            ("a number of the run before that was lost", 2, 21, false),
            ("the first run, older than the log", 1, 4, false),
            ("the first run", 1, 7, true),
            ("a run that this store never saw", 9, 20, false),
        ];
        for (who, epoch, number, known) in cases {
            let answer = table.since(Cursor { epoch, number }, u64::MAX, at(1));
            assert_eq!(answer.is_some(), known, "{who}");
        }
        let cursor = table.cursor();
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!("12".parse::<Cursor>(), Err(CursorError));
    }

    #[test]
    fn shared_descriptions_are_forgotten_with_their_decisions() {
        let mut table = table();
        for id in 0..10_000 {
            table.add(&Decision { scenario: format!("reason {id}").into(), ..decision(id, "Ip", "192.0.2.4", id) });
            table.expire(at(id));
            table.log.clear();
        }
        assert!(table.kinds.len() <= 64, "{}", table.kinds.len());
        assert!(table.is_empty() && table.deadline().is_none());
    }

    #[test]
    fn a_walk_sees_what_stays_and_not_what_comes_later() {
        let mut table = table();
        let all = 3 * PAGE as i64;
        let add = |table: &mut Table, id: i64| {
            let value = if id % 2 == 0 { format!("192.0.2.{}", id % 256) } else { format!("user {id}") };
            table.add(&decision(id, if id % 2 == 0 { "Ip" } else { "Username" }, &value, 60));
        };
        for id in (1..=all).rev() {
            add(&mut table, id);
        }
        let everything = Query::default();
        let inside = Query { net: Some(("192.0.2.0/24".parse().expect("a net"), Reach::Inside)), ..Query::default() };
        for (what, query, expected) in [("all", everything, all), ("a stretch of addresses", inside, all / 2)] {
            let mut scan = table.scan(query, at(1)).after(10);
            let mut found = scan.step(&table).expect("there is a first step");
            assert!(found.len() <= PAGE, "{what}: steps are bounded");
            table.lift(all, at(1));
            add(&mut table, all + 1);
            while let Some(rows) = scan.step(&table) {
                found.extend(rows);
            }
            let ids: Vec<i64> = found.iter().map(Row::id).collect();
            assert!(ids.is_sorted() && ids.first() > Some(&10) && ids.last() < Some(&all), "{what}");
            assert!(ids.len() as i64 > expected - 12, "{what}: {}", ids.len());
            table.lift(all + 1, at(1));
            add(&mut table, all);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u8, i64, bool),
        Lift(u8),
        Pass(i64),
        Read,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u8, 1..20i64, any::<bool>()).prop_map(|(host, last, simulated)| Step::Add(host, last, simulated)),
            2 => any::<u8>().prop_map(Step::Lift),
            1 => (0..6i64).prop_map(Step::Pass),
            2 => Just(Step::Read),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A reader that follows the changes holds what a snapshot holds, also when it reads each delta twice.
        #[test]
        fn deltas_lead_to_the_snapshot(steps in prop::collection::vec(step(), 0..60)) {
            let mut table = table();
            let (mut now, mut next, mut cursor) = (0, 1, table.cursor());
            let mut held = BTreeMap::new();
            for step in steps.into_iter().chain([Step::Read]) {
                match step {
                    Step::Add(host, last, simulated) => {
                        let value = format!("192.0.2.{host}");
                        table.add(&Decision { simulated, ..decision(next, "Ip", &value, now + last) });
                        next += 1;
                    }
                    Step::Lift(pick) => {
                        let ids: Vec<i64> = table.iter().map(Row::id).collect();
                        if !ids.is_empty() {
                            let lifted = table.lift(ids[usize::from(pick) % ids.len()], at(now));
                            prop_assert_eq!(lifted.map(|(_, decision)| decision.until), Some(at(now)));
                        }
                    }
                    Step::Pass(seconds) => {
                        now += seconds;
                        table.expire(at(now));
                    }
                    Step::Read => {
                        let before = cursor;
                        for _ in 0..2 {
                            let (reached, delta) = table.since(before, u64::MAX, at(now)).expect("the log is long enough");
                            for gone in &delta.remove {
                                held.remove(&gone.id);
                            }
                            for new in delta.add {
                                held.insert(new.id, new);
                            }
                            cursor = reached;
                        }
                        held.retain(|_, held| held.is_active(at(now)));
                        let snapshot = table.select(&Query::default(), at(now)).iter().map(Row::decision).collect::<Vec<_>>();
                        prop_assert_eq!(held.values().cloned().collect::<Vec<_>>(), snapshot);
                    }
                }
            }
        }
    }
}
