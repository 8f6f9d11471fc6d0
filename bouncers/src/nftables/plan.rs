//! What the kernel should hold, as values: the ruleset, and the elements that a plan changes.
//!
//! Single addresses (IPv4) and networks of one fixed length (IPv6) go into hash sets, everything else into
//! interval sets. Interval sets hold disjoint pieces, so a change there is worked out from all ranges: the old
//! and the new pieces are compared and only what differs is sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use nftables::batch::Batch;
use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField};
use nftables::schema::{Chain, Counter, FlushObject, NfCmd, NfListObject, Nftables, Rule, Set, SetFlag, SetType};
use nftables::schema::{SetTypeValue, Table};
use nftables::stmt::{JumpTarget, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::span::{Family, Span, TimedSpan, flatten};
use crate::nftables::netlink::SetRef;

/// Addresses that pass before any block.
pub const ALLOW4: SetRef = SetRef { name: "allow4", family: Family::V4, interval: true };
/// Addresses that pass before any block.
pub const ALLOW6: SetRef = SetRef { name: "allow6", family: Family::V6, interval: true };
/// Single blocked addresses.
pub const BAN4: SetRef = SetRef { name: "ban4", family: Family::V4, interval: false };
/// Blocked networks of the one length that lone IPv6 addresses widen to.
pub const BAN6: SetRef = SetRef { name: "ban6", family: Family::V6, interval: false };
/// Blocked ranges.
pub const NET4: SetRef = SetRef { name: "net4", family: Family::V4, interval: true };
/// Blocked ranges.
pub const NET6: SetRef = SetRef { name: "net6", family: Family::V6, interval: true };
/// All sets, in the order in which they are made.
pub const SETS: [SetRef; 6] = [ALLOW4, ALLOW6, BAN4, BAN6, NET4, NET6];

/// The chain that packets enter by.
pub const CHAIN: &str = "pre";
/// The chain that decides about a packet from a blocked address.
pub const HIT: &str = "hit_ban";
/// An empty chain that says: a person has disarmed the table, leave it so.
pub const DISARMED: &str = "disarmed";
/// Counts what came from blocked addresses.
pub const BANNED: &str = "c_ban";
/// Counts what passed because its address is never blocked.
pub const ALLOWED: &str = "c_allow";

/// Right after connection tracking, which is at -200, and before the chains of every other program: a packet of
/// an established connection is seen as well.
const PRIORITY: i32 = -190;
const MAX_HOSTS: u32 = 1 << 20;
const MAX_RANGES: u32 = 1 << 19;

/// What happens to a packet from a blocked address, after it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// It is dropped.
    Drop,
    /// It passes: the bouncer only observes, or is disarmed.
    Pass,
}

/// The table, its sets, chains and rules. Loading it over itself leaves the elements alone and puts the rules
/// right, in one transaction.
pub fn ruleset(table: &str, hit: Hit, ipv6_prefix: u8) -> Nftables<'static> {
    let make = Maker { table: table.to_owned() };
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NfFamily::INet, name: make.table(), handle: None }));
    for set in SETS {
        batch.add(NfListObject::Set(Box::new(make.set(set))));
    }
    for counter in [ALLOWED, BANNED] {
        batch.add(NfListObject::Counter(make.counter(counter)));
    }
    batch.add(NfListObject::Chain(make.chain(HIT)));
    batch.add(NfListObject::Chain(Chain {
        _type: Some(NfChainType::Filter),
        hook: Some(NfHook::Prerouting),
        prio: Some(PRIORITY),
        policy: Some(NfChainPolicy::Accept),
        ..make.chain(CHAIN)
    }));
    for chain in [HIT, CHAIN] {
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(make.chain(chain))));
    }
    batch.add(make.rule(HIT, verdict(hit)));
    let loopback = Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Iif })),
        right: Expression::String("lo".into()),
        op: Operator::EQ,
    };
    batch.add(make.rule(CHAIN, vec![Statement::Match(loopback), Statement::Accept(None)]));
    for set in SETS {
        let source = match set {
            BAN6 if ipv6_prefix < 128 => masked(source_of(set.family), ipv6_prefix),
            _ => source_of(set.family),
        };
        let right = Expression::String(format!("@{}", set.name).into());
        let member = Statement::Match(Match { left: source, right, op: Operator::EQ });
        let rule = match set {
            ALLOW4 | ALLOW6 => vec![member, count(ALLOWED), Statement::Accept(None)],
            _ => vec![member, Statement::Goto(JumpTarget { target: HIT.into() })],
        };
        batch.add(make.rule(CHAIN, rule));
    }
    batch.to_nftables()
}

/// Changes what happens to packets from blocked addresses, and marks a disarmed table so that nobody puts it
/// right again.
pub fn switch(table: &str, hit: Hit, disarm: bool) -> Nftables<'static> {
    let make = Maker { table: table.to_owned() };
    let mut batch = Batch::new();
    batch.add(NfListObject::Chain(make.chain(DISARMED)));
    if !disarm {
        batch.delete(NfListObject::Chain(make.chain(DISARMED)));
    }
    batch.add_cmd(NfCmd::Flush(FlushObject::Chain(make.chain(HIT))));
    batch.add(make.rule(HIT, verdict(hit)));
    batch.to_nftables()
}

/// Removes the table. Adding it first makes that succeed when it is not there.
pub fn removal(table: &str) -> Nftables<'static> {
    let table = || Table { family: NfFamily::INet, name: Cow::Owned(table.to_owned()), handle: None };
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    batch.to_nftables()
}

struct Maker {
    table: String,
}

impl Maker {
    fn table(&self) -> Cow<'static, str> {
        self.table.clone().into()
    }

    fn set(&self, set: SetRef) -> Set<'static> {
        let set_type = match set.family {
            Family::V4 => SetType::Ipv4Addr,
            Family::V6 => SetType::Ipv6Addr,
        };
        let (flags, size): (&[SetFlag], _) = match set {
            ALLOW4 | ALLOW6 => (&[SetFlag::Interval], None),
            BAN4 | BAN6 => (&[SetFlag::Timeout], Some(MAX_HOSTS)),
            _ => (&[SetFlag::Interval, SetFlag::Timeout], Some(MAX_RANGES)),
        };
        Set {
            family: NfFamily::INet,
            table: self.table(),
            name: set.name.into(),
            set_type: SetTypeValue::Single(set_type),
            flags: Some(flags.iter().copied().collect()),
            size,
            ..Set::default()
        }
    }

    fn counter(&self, name: &'static str) -> Counter<'static> {
        Counter {
            family: NfFamily::INet,
            table: self.table(),
            name: name.into(),
            handle: None,
            packets: Some(0),
            bytes: Some(0),
        }
    }

    fn chain(&self, name: &'static str) -> Chain<'static> {
        Chain { family: NfFamily::INet, table: self.table(), name: name.into(), ..Chain::default() }
    }

    fn rule(&self, chain: &'static str, expr: Vec<Statement<'static>>) -> NfListObject<'static> {
        NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: self.table(),
            chain: chain.into(),
            expr: expr.into(),
            ..Rule::default()
        })
    }
}

fn verdict(hit: Hit) -> Vec<Statement<'static>> {
    let verdict = match hit {
        Hit::Drop => Statement::Drop(None),
        Hit::Pass => Statement::Accept(None),
    };
    vec![count(BANNED), verdict]
}

fn count(counter: &'static str) -> Statement<'static> {
    Statement::Counter(nftables::stmt::Counter::Named(counter.into()))
}

fn source_of(family: Family) -> Expression<'static> {
    let protocol = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let field = PayloadField { protocol: protocol.into(), field: "saddr".into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn masked(address: Expression<'static>, length: u8) -> Expression<'static> {
    let mask = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length).map_or(Ipv6Addr::UNSPECIFIED, |net| net.netmask());
    let mask = Expression::String(mask.to_string().into());
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(address, mask)))
}

/// The elements to remove from and then to add to one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The set.
    pub set: SetRef,
    /// What goes.
    pub remove: Vec<Span>,
    /// What comes.
    pub add: Vec<TimedSpan>,
}

impl Edit {
    fn none(set: SetRef) -> Self {
        Self { set, remove: Vec::new(), add: Vec::new() }
    }
}

/// Which elements stand for which entries.
#[derive(Clone, Debug)]
pub struct Layout {
    ipv6_prefix: u8,
    ranges: HashMap<Key, Placed>,
    net4: Vec<TimedSpan>,
    net6: Vec<TimedSpan>,
}

impl Layout {
    /// No entries. `ipv6_prefix` is the length that lone IPv6 addresses widen to.
    pub fn new(ipv6_prefix: u8) -> Self {
        Self { ipv6_prefix, ranges: HashMap::new(), net4: Vec::new(), net6: Vec::new() }
    }

    /// All elements that `placement` needs, for empty sets.
    pub fn rebuild(ipv6_prefix: u8, placement: &Placement) -> (Self, [Edit; 4]) {
        let mut layout = Self::new(ipv6_prefix);
        let mut edits = [BAN4, BAN6, NET4, NET6].map(Edit::none);
        let [ban4, ban6, net4, net6] = &mut edits;
        for (key, placed) in placement {
            match layout.host_of(key, placed) {
                Some((BAN4, span)) => ban4.add.push((span, placed.until)),
                Some((_, span)) => ban6.add.push((span, placed.until)),
                None => {
                    layout.ranges.insert(key.clone(), placed.clone());
                }
            }
        }
        layout.net4 = layout.pieces(Family::V4);
        layout.net6 = layout.pieces(Family::V6);
        net4.add.clone_from(&layout.net4);
        net6.add.clone_from(&layout.net6);
        (layout, edits)
    }

    /// The elements that `plan` changes. What ended before `now` is forgotten.
    pub fn edit(&mut self, plan: &Plan, now: Timestamp) -> [Edit; 4] {
        let mut edits = [BAN4, BAN6, NET4, NET6].map(Edit::none);
        let [ban4, ban6, net4, net6] = &mut edits;
        let mut ranges_changed = false;
        for change in &plan.changes {
            if let Some(before) = &change.before {
                match self.host_of(&change.key, before) {
                    Some((BAN4, span)) => ban4.remove.push(span),
                    Some((_, span)) => ban6.remove.push(span),
                    None => {
                        self.ranges.remove(&change.key);
                        ranges_changed = true;
                    }
                }
            }
            if let Some(after) = &change.after {
                match self.host_of(&change.key, after) {
                    Some((BAN4, span)) => ban4.add.push((span, after.until)),
                    Some((_, span)) => ban6.add.push((span, after.until)),
                    None => {
                        self.ranges.insert(change.key.clone(), after.clone());
                        ranges_changed = true;
                    }
                }
            }
        }
        if ranges_changed {
            self.ranges.retain(|_, placed| placed.until > now);
            for (edit, family) in [(net4, Family::V4), (net6, Family::V6)] {
                let pieces = self.pieces(family);
                let held = match family {
                    Family::V4 => &mut self.net4,
                    Family::V6 => &mut self.net6,
                };
                (edit.remove, edit.add) = difference(held, &pieces);
                *held = pieces;
            }
        }
        edits
    }

    /// The element by which a look-up finds `key`: its set, and its first address.
    pub fn probe_of(&self, key: &Key, placed: &Placed) -> Option<(SetRef, u128)> {
        if let Some((set, span)) = self.host_of(key, placed) {
            return Some((set, span.first));
        }
        let net = key.net()?;
        let set = match Family::of(net) {
            Family::V4 => NET4,
            Family::V6 => NET6,
        };
        let first = placed.pieces.as_deref().map_or(Span::of(net), |pieces| pieces[0]).first;
        Some((set, first))
    }

    /// The hash set that holds `key`, unless it belongs into an interval set.
    fn host_of(&self, key: &Key, placed: &Placed) -> Option<(SetRef, Span)> {
        let net = key.net().filter(|_| placed.pieces.is_none())?;
        let set = match net {
            IpNet::V4(net) if net.prefix_len() == 32 => BAN4,
            IpNet::V6(net) if net.prefix_len() == self.ipv6_prefix => BAN6,
            _ => return None,
        };
        Some((set, Span::of(net)))
    }

    fn pieces(&self, family: Family) -> Vec<TimedSpan> {
        let mut spans = Vec::with_capacity(self.ranges.len());
        for (key, placed) in &self.ranges {
            let Some(net) = key.net().filter(|&net| Family::of(net) == family) else { continue };
            match &placed.pieces {
                Some(pieces) => spans.extend(pieces.iter().map(|&piece| (piece, placed.until))),
                None => spans.push((Span::of(net), placed.until)),
            }
        }
        flatten(spans)
    }
}

/// What to remove from and to add to a set that holds `before` so that it holds `after`. Both are in order.
fn difference(before: &[TimedSpan], after: &[TimedSpan]) -> (Vec<Span>, Vec<TimedSpan>) {
    let (mut remove, mut add) = (Vec::new(), Vec::new());
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        match (before.peek(), after.peek()) {
            (Some(old), Some(new)) if old == new => {
                before.next();
                after.next();
            }
            (Some(old), new) if new.is_none_or(|new| old.0.first <= new.0.first) => {
                remove.push(old.0);
                before.next();
            }
            (_, Some(new)) => {
                add.push(**new);
                after.next();
            }
            (_, None) => return (remove, add),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::tests::{ban, second};
    use crate::engine::plan::Change;

    #[test]
    fn the_ruleset() {
        let lines = |ruleset: &Nftables<'_>| {
            let lines = ruleset.objects.iter().map(|object| {
                // Flags are a hash set: through a value, they can be put in order.
                let mut value = serde_json::to_value(object).expect("plain data");
                if let Some(flags) = value.pointer_mut("/add/set/flags").and_then(|flags| flags.as_array_mut()) {
                    flags.sort_by_key(ToString::to_string);
                }
                value.to_string()
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(lines(&ruleset("cordon", Hit::Drop, 64)));
        insta::assert_snapshot!("disarmed", lines(&switch("cordon", Hit::Pass, true)));
        insta::assert_snapshot!("armed", lines(&switch("cordon", Hit::Drop, false)));
        insta::assert_snapshot!("removed", lines(&removal("cordon")));
    }

    /// A set as the kernel treats it: a removal must name what is there, an addition must not overlap.
    #[derive(Debug, Default, PartialEq)]
    struct Kernel(BTreeMap<u128, TimedSpan>);

    impl Kernel {
        fn apply(&mut self, edit: &Edit) {
            for span in &edit.remove {
                let removed = self.0.remove(&span.first);
                assert_eq!(removed.map(|(span, _)| span), Some(*span), "removed from {}", edit.set.name);
            }
            for &(span, until) in &edit.add {
                let overlap = self.0.values().find(|(held, _)| held.first <= span.last && span.first <= held.last);
                assert_eq!(overlap, None, "{span:?} added to {}", edit.set.name);
                self.0.insert(span.first, (span, until));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn edits_lead_to_what_a_rebuild_would_make(
            steps in proptest::collection::vec((any::<bool>(), 0..64u8, 26..=32u8, 1..5i64, any::<bool>(), any::<bool>()), 1..40)
        ) {
            let mut placement = Placement::new();
            let mut layout = Layout::new(64);
            let mut kernel: [Kernel; 4] = Default::default();
            for (v6, low, length, until, split, keep) in steps {
                let value = if v6 {
                    format!("2001:db8:0:{low:x}::/{}", length + 32)
                } else {
                    format!("192.0.2.{low}/{length}")
                };
                let key = Key::of(&ban(1, &value, 9), 64).expect("a valid test prefix");
                let whole = Span::of(key.net().expect("a prefix"));
                let pieces = (split && whole.last > whole.first)
                    .then(|| [Span { first: whole.first + 1, ..whole }].into());
                let after = keep.then(|| Placed { until: second(100 + until), pieces });
                let before = placement.get(&key).cloned();
                let plan = Plan { changes: vec![Change { key, before, after, why: None }] };
                for (kernel, edit) in kernel.iter_mut().zip(layout.edit(&plan, second(0))) {
                    kernel.apply(&edit);
                }
                plan.commit(&mut placement);
            }
            let (_, rebuilt) = Layout::rebuild(64, &placement);
            for (kernel, edit) in kernel.iter().zip(rebuilt) {
                let mut fresh = Kernel::default();
                fresh.apply(&edit);
                prop_assert_eq!(kernel, &fresh);
            }
        }
    }
}
