//! The one table of live decisions.
//!
//! Pure: `now` is an argument. A decision never changes after it is added; it ends by itself at `until`, or is
//! lifted. Every addition and every lift has a number, and a bounded log of them lets a reader who knows a
//! number catch up. What ends by itself is no change: every reader knows the end.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use compact_str::CompactString;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use prefix_trie::PrefixMap;
use smallvec::SmallVec;
use uuid::Uuid;

use model::{Decision, Delta, Scope};

/// How many changes are customarily remembered. Whoever is further behind gets a snapshot.
pub const LOG_LEN: usize = 1 << 18;

/// How many epochs a store remembers.
pub const MAX_EPOCHS: usize = 64;

/// A place in the sequence of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// The run of the server in which the number was given.
    pub epoch: u64,
    /// The number of the last change seen.
    pub number: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, self.number)
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a place in the sequence of changes")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (epoch, number) = text.split_once('-').ok_or(CursorError)?;
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| CursorError)?;
        Ok(Self { epoch, number: number.parse().map_err(|_| CursorError)? })
    }
}

/// The runs of the server on one store, oldest first: a number is only comparable with numbers of the same
/// history. Each start begins an epoch, so that a number given after the moment to which a store was restored
/// is recognised as foreign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Epoch, and the last number given before it began.
    began: Vec<(u64, u64)>,
}

impl Epochs {
    /// The epochs that a store remembers, oldest first, each with the last number given before it began.
    pub fn new(began: Vec<(u64, u64)>) -> Self {
        Self { began }
    }

    /// The epochs, oldest first, each with the last number given before it began.
    pub fn began(&self) -> &[(u64, u64)] {
        &self.began
    }

    /// Begins `epoch`; `last` is the last number the store knows.
    pub fn begin(&mut self, epoch: u64, last: u64) {
        self.began.push((epoch, last));
        let surplus = self.began.len().saturating_sub(MAX_EPOCHS);
        self.began.drain(..surplus);
    }

    /// The current epoch; 0 before the first.
    pub fn current(&self) -> u64 {
        self.began.last().map_or(0, |&(epoch, _)| epoch)
    }

    /// Whether `cursor` was given by this store and lies in its past.
    fn knows(&self, cursor: Cursor, last: u64) -> bool {
        let Some(at) = self.began.iter().rposition(|&(epoch, _)| epoch == cursor.epoch) else { return false };
        let end = self.began.get(at + 1).map_or(last, |&(_, before)| before);
        cursor.number <= end
    }
}

/// What distinguishes few decisions from each other: stored once for all that share it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    scope: Scope,
    origin: CompactString,
    remediation: CompactString,
    scenario: CompactString,
    simulated: bool,
}

/// One live decision. Immutable and shared between the table, its log and those who send it.
#[derive(Debug)]
pub struct Row {
    id: i64,
    alert_id: i64,
    uuid: Uuid,
    created: i64,
    until: i64,
    value: CompactString,
    kind: Arc<Kind>,
}

impl Row {
    /// Number given by the store.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// When it was made.
    pub fn created_at(&self) -> Timestamp {
        from_micros(self.created)
    }

    /// When it ends.
    pub fn until(&self) -> Timestamp {
        from_micros(self.until)
    }

    /// The alert it belongs to.
    pub fn alert_id(&self) -> i64 {
        self.alert_id
    }

    /// The prefix it covers, if it is about addresses.
    pub fn net(&self) -> Option<IpNet> {
        net_of(&self.kind.scope, &self.value)
    }

    /// What kind of thing its value names.
    pub fn scope(&self) -> &Scope {
        &self.kind.scope
    }

    /// The address, prefix, name.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is done.
    pub fn remediation(&self) -> &str {
        &self.kind.remediation
    }

    /// Who decided.
    pub fn origin(&self) -> &str {
        &self.kind.origin
    }

    /// The scenario, or the reason of a manual decision.
    pub fn scenario(&self) -> &str {
        &self.kind.scenario
    }

    /// Recorded and shown, but never enforced.
    pub fn simulated(&self) -> bool {
        self.kind.simulated
    }

    /// The decision as everybody else knows it.
    pub fn decision(&self) -> Decision {
        Decision {
            id: self.id,
            uuid: if self.uuid.is_nil() { String::new() } else { self.uuid.to_string() },
            origin: self.kind.origin.clone(),
            remediation: self.kind.remediation.clone(),
            scope: self.kind.scope.clone(),
            value: self.value.clone(),
            scenario: self.kind.scenario.clone(),
            created_at: self.created_at(),
            until: self.until(),
            simulated: self.kind.simulated,
            alert_id: self.alert_id,
        }
    }
}

/// How an address query relates to the decisions it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Decisions that cover all of the query.
    #[default]
    Covers,
    /// Decisions that lie inside the query.
    Inside,
    /// Decisions that share any address with the query.
    Touches,
}

/// Which decisions are wanted. Everything that is set must hold; the default wants all but simulated ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Addresses.
    pub net: Option<(IpNet, Reach)>,
    /// Any of these scopes; two lists of which each must agree.
    pub scopes: Option<Vec<Scope>>,
    /// A second list of scopes, of which any must agree as well.
    pub scope: Option<Vec<Scope>>,
    /// Exactly this value.
    pub value: Option<String>,
    /// Exactly this remediation.
    pub remediation: Option<String>,
    /// Any of these origins.
    pub origins: Option<Vec<String>>,
    /// Exactly this scenario.
    pub scenario: Option<String>,
    /// The scenario contains any of these words; lower case.
    pub scenarios_containing: Vec<String>,
    /// The scenario contains none of these words; lower case.
    pub scenarios_not_containing: Vec<String>,
    /// Any of these.
    pub uuids: Option<Vec<String>>,
    /// Simulated ones too.
    pub simulated: bool,
}

/// What a query looks at.
struct Traits<'a> {
    scope: &'a Scope,
    value: &'a str,
    remediation: &'a str,
    origin: &'a str,
    scenario: &'a str,
    simulated: bool,
}

impl Query {
    /// Whether the query wants `decision`, live or over.
    pub fn wants(&self, decision: &Decision) -> bool {
        let traits = Traits {
            scope: &decision.scope,
            value: &decision.value,
            remediation: &decision.remediation,
            origin: &decision.origin,
            scenario: &decision.scenario,
            simulated: decision.simulated,
        };
        self.matches(&traits) && self.uuids.as_ref().is_none_or(|uuids| uuids.contains(&decision.uuid))
    }

    /// Whether the query wants the live decision `row`.
    pub fn wants_row(&self, row: &Row) -> bool {
        let kind = &row.kind;
        let traits = Traits {
            scope: &kind.scope,
            value: &row.value,
            remediation: &kind.remediation,
            origin: &kind.origin,
            scenario: &kind.scenario,
            simulated: kind.simulated,
        };
        self.matches(&traits) && self.uuids.as_ref().is_none_or(|uuids| uuids.contains(&row.uuid.to_string()))
    }

    fn matches(&self, traits: &Traits<'_>) -> bool {
        let scope_in = |list: &Option<Vec<Scope>>| list.as_ref().is_none_or(|list| list.contains(traits.scope));
        let simple = (self.simulated || !traits.simulated)
            && scope_in(&self.scopes)
            && scope_in(&self.scope)
            && self.value.as_deref().is_none_or(|wanted| wanted == traits.value)
            && self.remediation.as_deref().is_none_or(|wanted| wanted == traits.remediation)
            && self.origins.as_ref().is_none_or(|list| list.iter().any(|origin| origin == traits.origin))
            && self.scenario.as_deref().is_none_or(|wanted| wanted == traits.scenario);
        if !simple {
            return false;
        }
        if !(self.scenarios_containing.is_empty() && self.scenarios_not_containing.is_empty()) {
            let scenario = traits.scenario.to_lowercase();
            let has = |words: &[String]| words.iter().any(|word| scenario.contains(word.as_str()));
            if !self.scenarios_containing.is_empty() && !has(&self.scenarios_containing)
                || has(&self.scenarios_not_containing)
            {
                return false;
            }
        }
        self.net.is_none_or(|(net, reach)| {
            net_of(traits.scope, traits.value).is_some_and(|own| match reach {
                Reach::Covers => own.contains(&net),
                Reach::Inside => net.contains(&own),
                Reach::Touches => own.contains(&net) || net.contains(&own),
            })
        })
    }
}

#[derive(Debug)]
struct Change {
    number: u64,
    row: Arc<Row>,
    /// When it was lifted; `None` when it was added.
    lifted: Option<i64>,
}

/// End and number of the decisions on one prefix or name, the longest first.
type Ends = SmallVec<[(i64, i64); 1]>;

/// All live decisions.
#[derive(Debug)]
pub struct Table {
    rows: BTreeMap<i64, Arc<Row>>,
    kinds: HashSet<Arc<Kind>>,
    kinds_limit: usize,
    v4: PrefixMap<Ipv4Net, Ends>,
    v6: PrefixMap<Ipv6Net, Ends>,
    named: HashMap<(Scope, CompactString), Ends>,
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

impl Table {
    /// An empty table that remembers `log_len` changes.
    pub fn new(log_len: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            kinds: HashSet::new(),
            kinds_limit: 0,
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
            named: HashMap::new(),
            expiry: BTreeSet::new(),
            epochs: Epochs::default(),
            log: VecDeque::new(),
            log_len,
            floor: 0,
            last: 0,
        }
    }

    /// Continues the sequence of a store whose decisions were restored. `last` is the last number given by it,
    /// `floor` the last one of which the restored log knows nothing.
    pub fn resume(&mut self, epochs: Epochs, floor: u64, last: u64) {
        self.epochs = epochs;
        self.last = last;
        self.floor = self.floor.max(floor).min(last);
        let forgotten = self.log.partition_point(|change| change.number <= self.floor);
        self.log.drain(..forgotten);
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
        self.rows.is_empty()
    }

    /// Adds a decision and gives the change its number. Its `id` is new, its times are whole microseconds.
    pub fn add(&mut self, decision: &Decision) -> u64 {
        let row = self.insert(decision);
        self.record(row, None)
    }

    /// Adds a decision that a store remembers. `change` is the number under which it was added.
    pub fn restore(&mut self, decision: &Decision, change: u64) {
        let row = self.insert(decision);
        self.remember(Change { number: change, row, lifted: None });
    }

    /// Puts back the memory of a decision that was lifted under the number `change`. Restored changes come in
    /// the order of their numbers.
    pub fn restore_lifted(&mut self, decision: &Decision, change: u64) {
        let row = Arc::new(self.row(decision));
        let lifted = Some(row.until);
        self.remember(Change { number: change, row, lifted });
    }

    /// Ends a decision before its time. Answers the number of the change and the decision as it now is, or
    /// `None` if there is no such live decision.
    pub fn lift(&mut self, id: i64, now: Timestamp) -> Option<(u64, Decision)> {
        let row = self.remove(id)?;
        let mut decision = row.decision();
        decision.until = from_micros(to_micros(now));
        let number = self.record(row, Some(to_micros(now)));
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
    pub fn get(&self, id: i64) -> Option<&Arc<Row>> {
        self.rows.get(&id)
    }

    /// All live decisions by ascending number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Row>> {
        self.rows.values()
    }

    /// The decisions that `query` wants and that hold at `now`, by ascending number.
    pub fn select(&self, query: &Query, now: Timestamp) -> Vec<Arc<Row>> {
        let now = to_micros(now);
        let wanted = |row: &&Arc<Row>| row.until > now && query.wants_row(row);
        let Some(ids) = self.candidates(query) else {
            return self.rows.values().filter(wanted).cloned().collect();
        };
        ids.iter().filter_map(|id| self.rows.get(id)).filter(wanted).cloned().collect()
    }

    /// Whether another live decision on the same scope, value and remediation ends strictly later.
    pub fn has_longer(&self, scope: &Scope, value: &str, remediation: &str, until: Timestamp) -> bool {
        let until = to_micros(until);
        let longer = |ends: &Ends| {
            ends.iter().take_while(|&&(end, _)| end > until).any(|(_, id)| {
                self.rows.get(id).is_some_and(|row| {
                    row.kind.remediation == remediation && row.value == value && row.kind.scope == *scope
                })
            })
        };
        match net_of(scope, value) {
            Some(IpNet::V4(net)) => self.v4.get(&net).is_some_and(longer),
            Some(IpNet::V6(net)) => self.v6.get(&net).is_some_and(longer),
            None => self.named.get(&(scope.clone(), value.into())).is_some_and(longer),
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
        let changes = || self.log.range(from..to).filter(|change| !change.row.kind.simulated);
        let lifted: HashSet<i64> = changes().filter(|change| change.lifted.is_some()).map(|c| c.row.id).collect();
        let mut delta = Delta::default();
        for change in changes() {
            match change.lifted {
                Some(at) => {
                    let mut decision = change.row.decision();
                    decision.until = from_micros(at);
                    delta.remove.push(decision);
                }
                None if change.row.until > now && !lifted.contains(&change.row.id) => {
                    delta.add.push(change.row.decision());
                }
                None => {}
            }
        }
        Some((reached, delta))
    }

    /// Everything that is to be enforced at `now`, and the place in the sequence where it is true.
    pub fn snapshot(&self, now: Timestamp) -> (Cursor, Vec<Arc<Row>>) {
        let now = to_micros(now);
        let rows = self.rows.values().filter(|row| row.until > now && !row.kind.simulated).cloned().collect();
        (self.cursor(), rows)
    }

    /// Numbers of the decisions among which those that `query` wants are, ascending; `None` is all.
    fn candidates(&self, query: &Query) -> Option<Vec<i64>> {
        let mut ids: Vec<i64> = match (&query.net, &query.value) {
            (&Some((IpNet::V4(net), reach)), _) => near(&self.v4, &net, reach),
            (&Some((IpNet::V6(net), reach)), _) => near(&self.v6, &net, reach),
            (None, Some(value)) => {
                let mut found = Vec::new();
                match model::scope::parse_net(value) {
                    Ok(IpNet::V4(net)) => found.extend(self.v4.get(&net).into_iter().flatten()),
                    Ok(IpNet::V6(net)) => found.extend(self.v6.get(&net).into_iter().flatten()),
                    Err(_) => {}
                }
                if let Some(scopes) = query.scopes.as_ref().or(query.scope.as_ref()) {
                    for scope in scopes {
                        let key = (scope.clone(), value.into());
                        found.extend(self.named.get(&key).into_iter().flatten());
                    }
                } else {
                    let same = self.named.iter().filter(|((_, name), _)| name == value);
                    found.extend(same.flat_map(|(_, ends)| ends));
                }
                found.into_iter().map(|&(_, id)| id).collect()
            }
            (None, None) => return None,
        };
        ids.sort_unstable();
        ids.dedup();
        Some(ids)
    }

    fn insert(&mut self, decision: &Decision) -> Arc<Row> {
        let row = Arc::new(self.row(decision));
        if self.rows.contains_key(&row.id) {
            self.remove(row.id);
        }
        let ends = match row.net() {
            Some(IpNet::V4(net)) => self.v4.entry(net).or_default(),
            Some(IpNet::V6(net)) => self.v6.entry(net).or_default(),
            None => self.named.entry((row.kind.scope.clone(), row.value.clone())).or_default(),
        };
        let at = ends.partition_point(|&end| end > (row.until, row.id));
        ends.insert(at, (row.until, row.id));
        self.expiry.insert((row.until, row.id));
        self.rows.insert(row.id, Arc::clone(&row));
        row
    }

    fn remove(&mut self, id: i64) -> Option<Arc<Row>> {
        let row = self.rows.remove(&id)?;
        self.expiry.remove(&(row.until, id));
        let forget = |ends: &mut Ends| {
            ends.retain(|&mut (_, other)| other != id);
            ends.is_empty()
        };
        match row.net() {
            Some(IpNet::V4(net)) => {
                if self.v4.get_mut(&net).is_some_and(forget) {
                    self.v4.remove(&net);
                }
            }
            Some(IpNet::V6(net)) => {
                if self.v6.get_mut(&net).is_some_and(forget) {
                    self.v6.remove(&net);
                }
            }
            None => {
                let key = (row.kind.scope.clone(), row.value.clone());
                if self.named.get_mut(&key).is_some_and(forget) {
                    self.named.remove(&key);
                }
            }
        }
        Some(row)
    }

    fn row(&mut self, decision: &Decision) -> Row {
        let kind = Kind {
            scope: decision.scope.clone(),
            origin: decision.origin.clone(),
            remediation: decision.remediation.clone(),
            scenario: decision.scenario.clone(),
            simulated: decision.simulated,
        };
        Row {
            id: decision.id,
            alert_id: decision.alert_id,
            uuid: Uuid::parse_str(&decision.uuid).unwrap_or_default(),
            created: to_micros(decision.created_at),
            until: to_micros(decision.until),
            value: decision.value.clone(),
            kind: self.share(kind),
        }
    }

    fn share(&mut self, kind: Kind) -> Arc<Kind> {
        if let Some(kind) = self.kinds.get(&kind) {
            return Arc::clone(kind);
        }
        // The set stays within twice what is in use, whatever reasons people invent.
        if self.kinds.len() >= self.kinds_limit {
            self.kinds.retain(|kind| Arc::strong_count(kind) > 1);
            self.kinds_limit = (self.kinds.len() * 2).max(64);
        }
        let kind = Arc::new(kind);
        self.kinds.insert(Arc::clone(&kind));
        kind
    }

    fn record(&mut self, row: Arc<Row>, lifted: Option<i64>) -> u64 {
        self.last += 1;
        self.remember(Change { number: self.last, row, lifted });
        self.last
    }

    fn remember(&mut self, change: Change) {
        if change.number <= self.floor {
            return;
        }
        if self.log.len() >= self.log_len
            && let Some(oldest) = self.log.pop_front()
        {
            self.floor = oldest.number;
        }
        self.log.push_back(change);
    }
}

/// The prefix that a decision on `scope` and `value` covers, if it is about addresses.
pub fn net_of(scope: &Scope, value: &str) -> Option<IpNet> {
    match scope {
        Scope::Ip | Scope::Range => model::scope::parse_net(value).ok(),
        _ => None,
    }
}

/// `at` in the precision of tables and stores: whole microseconds.
pub fn to_micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The instant that [`to_micros`] gave; what lies outside of time is cut to its ends.
pub fn from_micros(micros: i64) -> Timestamp {
    let end = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(micros).unwrap_or(end)
}

fn near<P: prefix_trie::Prefix>(trie: &PrefixMap<P, Ends>, net: &P, reach: Reach) -> Vec<i64> {
    let covers = || trie.cover(net).flat_map(|(_, ends)| ends);
    let inside = || trie.children(net).flat_map(|(_, ends)| ends);
    let ends: Vec<&(i64, i64)> = match reach {
        Reach::Covers => covers().collect(),
        Reach::Inside => inside().collect(),
        Reach::Touches => covers().chain(inside()).collect(),
    };
    ends.into_iter().map(|&(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

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
                table.select(&query, at(1)).iter().map(|row| row.id()).collect::<Vec<_>>()
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
            let ids: Vec<i64> = table.select(&query, at(30)).iter().map(|row| row.id()).collect();
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
                        let ids: Vec<i64> = table.iter().map(|row| row.id()).collect();
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
                        let snapshot = table.snapshot(at(now)).1.iter().map(|row| row.decision()).collect::<Vec<_>>();
                        prop_assert_eq!(held.values().cloned().collect::<Vec<_>>(), snapshot);
                    }
                }
            }
        }
    }
}
