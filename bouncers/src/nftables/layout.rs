//! Which elements stand for which entries.
//!
//! Single addresses (IPv4) and networks of one fixed length (IPv6) go into hash sets, everything else into interval
//! sets. The kernel works on a whole interval set with each change and refuses overlaps, so ranges are kept here as
//! disjoint pieces, only what lies around a change is worked out anew, and when there are too many, prefixes of the
//! most common lengths move to hash sets of their own.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use rand::Rng;

use crate::engine::desired::Key;
use crate::engine::plan::{Change, Placed, Placement, Plan};
use crate::engine::span::{Family, Span, flatten, join};
use crate::nftables::ruleset::{KeyType, SetRef, Shape};

/// Single blocked addresses.
pub const BAN4: SetRef = SetRef { stem: "ban4", key: KeyType::V4, shape: Shape::Single, second: false };
/// Blocked networks of the one length that lone IPv6 addresses widen to.
pub const BAN6: SetRef = SetRef { stem: "ban6", key: KeyType::V6, shape: Shape::Single, second: false };
/// Blocked ranges.
pub const NET4: SetRef = SetRef::ranges("net4", Family::V4);
/// Blocked ranges.
pub const NET6: SetRef = SetRef::ranges("net6", Family::V6);

/// The sets that are always there, in their first generation.
pub const PLAIN: [SetRef; 4] = [BAN4, BAN6, NET4, NET6];

/// The set of blocks that is called `name`.
pub fn named(name: &str) -> Option<SetRef> {
    let (name, second) = name.strip_suffix("_b").map_or((name, false), |name| (name, true));
    let (stem, bits) = name.split_once('_').map_or((name, None), |(stem, bits)| (stem, Some(bits)));
    let plain = PLAIN.into_iter().find(|set| set.stem == stem)?.in_generation(second);
    match bits {
        None => Some(plain),
        Some(bits) if plain.shape == Shape::Ranges => {
            Some(SetRef { shape: Shape::Prefix(bits.parse().ok()?), ..plain })
        }
        Some(_) => None,
    }
}

/// More ranges than this are not kept in interval sets. What `nft` needs for anybody else's element grows with them
/// (a third of a second here), and so does what the kernel needs for one more of ours (a few milliseconds).
pub const RANGE_LIMIT: usize = 50_000;

/// Fewer prefixes of one length than this are not worth a look-up of their own for every packet.
const WORTHWHILE: usize = 1000;

/// The kernel removes an element up to a second after its end.
const LINGERING: SignedDuration = SignedDuration::from_secs(2);

/// How often what has ended is looked for among the ranges.
const SWEEP: SignedDuration = SignedDuration::from_secs(60);

/// When an element ends, and which counter counts what it blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// When it ends.
    pub until: Timestamp,
    /// Number of the counter among [`Origins`].
    pub counter: u8,
}

/// The counters: one for each origin of decisions, as far as there is room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    names: Vec<String>,
}

impl Default for Origins {
    fn default() -> Self {
        Self { names: vec![format!("{ORIGIN}other")] }
    }
}

/// What the names of counters of origins begin with.
pub const ORIGIN: &str = "o_";
/// Whoever can invent origins must not fill the kernel with counters.
const MOST_ORIGINS: usize = 32;
const LONGEST_ORIGIN: usize = 40;

impl Origins {
    /// The number of the counter of `origin`. An origin without a name, or one too many, counts as `other`.
    pub fn of(&mut self, origin: Option<&str>) -> u8 {
        let Some(origin) = origin.filter(|origin| !origin.is_empty()) else { return 0 };
        let letters = origin.chars().take(LONGEST_ORIGIN);
        let letters = letters.map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
        let name: String = ORIGIN.chars().chain(letters).collect();
        let at = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            if self.names.len() == MOST_ORIGINS {
                return 0;
            }
            self.names.push(name);
            self.names.len() - 1
        });
        at as u8
    }

    /// All names, in the order of their numbers.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// The elements to remove from and then to add to one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The set.
    pub set: SetRef,
    /// What goes.
    pub remove: Vec<Span>,
    /// What comes.
    pub add: Vec<(Span, End)>,
}

/// The edits of one plan, by set.
#[derive(Debug, Default)]
struct Edits(Vec<Edit>);

impl Edits {
    fn of(&mut self, set: SetRef) -> &mut Edit {
        let at = self.0.iter().position(|edit| edit.set == set).unwrap_or_else(|| {
            self.0.push(Edit { set, remove: Vec::new(), add: Vec::new() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

/// How entries are spread over sets.
#[derive(Clone, Debug)]
pub struct Layout {
    ipv6_prefix: u8,
    /// Only the four plain sets, without buckets and with IPv6 networks as ranges: they are somebody else's.
    plain: bool,
    second: bool,
    buckets: BTreeSet<(Family, u8)>,
    v4: Ranges,
    v6: Ranges,
    swept: Timestamp,
}

/// Where an entry lives.
enum Home {
    /// As one element of a hash set.
    Single(SetRef, Span),
    /// Among the ranges.
    Range(IpNet),
}

impl Layout {
    /// No entries. `ipv6_prefix` is the length that lone IPv6 addresses widen to; `plain` keeps to four sets that
    /// somebody else has made.
    pub fn new(ipv6_prefix: u8, plain: bool) -> Self {
        let (v4, v6) = (Ranges::new(Family::V4), Ranges::new(Family::V6));
        let swept = Timestamp::UNIX_EPOCH;
        Self { ipv6_prefix, plain, second: false, buckets: BTreeSet::new(), v4, v6, swept }
    }

    /// A layout for `placement` in the sets of one generation. Ranges are worked out; what lives in hash sets is
    /// told by [`Layout::single`]. The kept `buckets` stay.
    pub fn for_rebuild(
        &self,
        placement: &Placement,
        second: bool,
        keep: &BTreeSet<(Family, u8)>,
        mut counter: impl FnMut(&Key) -> u8,
    ) -> Self {
        let mut layout = Self { second, buckets: keep.clone(), ..Self::new(self.ipv6_prefix, self.plain) };
        for (key, placed) in placement {
            let Some(Home::Range(net)) = layout.home(key, placed) else { continue };
            let end = End { until: placed.until, counter: counter(key) };
            layout.ranges(Family::of(net)).insert(net, Held { end, pieces: placed.pieces.clone() });
        }
        while layout.crowded() && layout.relieve().is_some() {}
        for ranges in [&mut layout.v4, &mut layout.v6] {
            ranges.rework();
        }
        layout
    }

    /// Takes over the generation and the lengths of prefixes of the sets that are in use.
    pub fn adopt(&mut self, used: &BTreeSet<String>) {
        let sets: Vec<SetRef> = used.iter().filter_map(|name| named(name)).collect();
        self.second = sets.iter().any(|set| set.second);
        self.buckets = sets
            .into_iter()
            .filter_map(|set| match set.shape {
                Shape::Prefix(bits) => Some((set.family()?, bits)),
                _ => None,
            })
            .collect();
    }

    /// All sets that hold blocks, ranges last: look-ups in hash tables are cheaper.
    pub fn sets(&self) -> Vec<SetRef> {
        let buckets = self.buckets.iter().map(|&(family, bits)| bucket(family, bits));
        let sets = [BAN4, BAN6].into_iter().chain(buckets).chain([NET4, NET6]);
        sets.map(|set| set.in_generation(self.second)).collect()
    }

    /// The lengths of prefixes that have sets of their own.
    pub fn buckets(&self) -> &BTreeSet<(Family, u8)> {
        &self.buckets
    }

    /// Whether its sets have their second names.
    pub fn second(&self) -> bool {
        self.second
    }

    /// The element for an entry that lives in a hash set.
    pub fn single(&self, key: &Key, placed: &Placed) -> Option<(SetRef, Span)> {
        match self.home(key, placed)? {
            Home::Single(set, span) => Some((set, span)),
            Home::Range(_) => None,
        }
    }

    /// All elements of the interval sets.
    pub fn ranges_held(&self) -> [(SetRef, Vec<(Span, End)>); 2] {
        [(NET4, &self.v4), (NET6, &self.v6)].map(|(set, ranges)| (set.in_generation(self.second), ranges.all()))
    }

    /// How many elements the interval sets hold.
    pub fn range_count(&self) -> usize {
        self.v4.pieces.len() + self.v6.pieces.len()
    }

    /// The elements that `plan` changes. `counter` says who is counted for a change. Lengths of prefixes that need a
    /// set of their own from now on come second.
    pub fn edit(
        &mut self,
        plan: &Plan,
        now: Timestamp,
        mut counter: impl FnMut(&Change) -> u8,
    ) -> (Vec<Edit>, Vec<SetRef>) {
        let mut edits = Edits::default();
        for change in &plan.changes {
            if let Some(before) = &change.before {
                match self.home(&change.key, before) {
                    Some(Home::Single(set, span)) => edits.of(set).remove.push(span),
                    Some(Home::Range(net)) => self.ranges(Family::of(net)).remove(net),
                    None => {}
                }
            }
            if let Some(after) = &change.after {
                let end = End { until: after.until, counter: counter(change) };
                match self.home(&change.key, after) {
                    Some(Home::Single(set, span)) => edits.of(set).add.push((span, end)),
                    Some(Home::Range(net)) => {
                        self.ranges(Family::of(net)).insert(net, Held { end, pieces: after.pieces.clone() });
                    }
                    None => {}
                }
            }
        }
        let mut fresh = Vec::new();
        while self.crowded() {
            let Some((set, elements)) = self.relieve() else { break };
            edits.of(set).add.extend(elements.into_iter().filter(|(_, end)| end.until > now));
            fresh.push(set);
        }
        if now.duration_since(self.swept) > SWEEP {
            self.swept = now;
            self.v4.forget(now - LINGERING);
            self.v6.forget(now - LINGERING);
        }
        for (set, ranges) in [(NET4, &mut self.v4), (NET6, &mut self.v6)] {
            let (remove, mut add) = ranges.rework();
            add.retain(|(_, end)| end.until > now);
            if !remove.is_empty() || !add.is_empty() {
                let edit = edits.of(set.in_generation(self.second));
                edit.remove.extend(remove);
                edit.add.extend(add);
            }
        }
        (edits.0, fresh)
    }

    /// The element by which a look-up finds `key`: its set, and its first address.
    pub fn probe_of(&self, key: &Key, placed: &Placed) -> Option<(SetRef, u128)> {
        match self.home(key, placed)? {
            Home::Single(set, span) => Some((set, span.first)),
            Home::Range(net) => {
                let family = Family::of(net);
                let first = placed.pieces.as_deref().and_then(<[Span]>::first).copied().unwrap_or(Span::of(net)).first;
                let set = if family == Family::V4 { NET4 } else { NET6 };
                Some((set.in_generation(self.second), first))
            }
        }
    }

    /// The look-ups that say whether `address` is blocked.
    pub fn probes(&self, family: Family, address: u128) -> Vec<(SetRef, u128)> {
        let of_family = self.sets().into_iter().filter(|set| set.family() == Some(family));
        of_family.map(|set| (set, masked(family, address, self.bits(set)))).collect()
    }

    /// Some addresses next to ranges, and where they must not be found.
    pub fn beside_ranges(
        &self,
        family: Family,
        count: usize,
        rng: &mut impl Rng,
        now: Timestamp,
    ) -> Vec<(SetRef, u128)> {
        let (ranges, set) = match family {
            Family::V4 => (&self.v4, NET4),
            Family::V6 => (&self.v6, NET6),
        };
        let mut found = Vec::new();
        for _ in 0..count {
            let start = rng.random_range(0..=family.top());
            let Some((&first, &(last, _))) = ranges.pieces.range(start..).next() else { continue };
            let beside = [first.checked_sub(1), last.checked_add(1).filter(|&after| after <= family.top())];
            found.extend(beside.into_iter().flatten().filter(|&address| !ranges.covers(address, now)));
        }
        found.into_iter().map(|address| (set.in_generation(self.second), address)).collect()
    }

    /// How many bits of an address are looked up in `set`.
    pub fn bits(&self, set: SetRef) -> u8 {
        match (set.shape, set.key) {
            (Shape::Prefix(bits), _) => bits,
            (Shape::Single, KeyType::V6) => self.ipv6_prefix,
            (_, KeyType::V6) => 128,
            _ => 32,
        }
    }

    fn home(&self, key: &Key, placed: &Placed) -> Option<Home> {
        let net = key.net()?;
        if placed.pieces.is_some() {
            return Some(Home::Range(net));
        }
        let set = match net {
            IpNet::V4(net) if net.prefix_len() == 32 => BAN4,
            IpNet::V6(net) if net.prefix_len() == self.ipv6_prefix && (!self.plain || self.ipv6_prefix == 128) => BAN6,
            net if self.buckets.contains(&(Family::of(net), net.prefix_len())) => {
                bucket(Family::of(net), net.prefix_len())
            }
            net => return Some(Home::Range(net)),
        };
        Some(Home::Single(set.in_generation(self.second), Span::of(net)))
    }

    fn ranges(&mut self, family: Family) -> &mut Ranges {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn crowded(&self) -> bool {
        !self.plain && self.v4.held.len() + self.v6.held.len() > RANGE_LIMIT
    }

    /// Moves the prefixes of the most common length to a set of their own, if there are enough of them.
    fn relieve(&mut self) -> Option<(SetRef, Vec<(Span, End)>)> {
        let commonest = |ranges: &Ranges| {
            let lengths = (0u8..).zip(ranges.whole).filter(|&(_, count)| count >= WORTHWHILE);
            lengths.max_by_key(|&(_, count)| count).map(|(bits, count)| (count, ranges.family, bits))
        };
        let (_, family, bits) = commonest(&self.v4).max(commonest(&self.v6))?;
        let elements = self.ranges(family).take(bits);
        self.buckets.insert((family, bits));
        Some((bucket(family, bits).in_generation(self.second), elements))
    }
}

fn bucket(family: Family, bits: u8) -> SetRef {
    let set = if family == Family::V4 { NET4 } else { NET6 };
    SetRef { shape: Shape::Prefix(bits), ..set }
}

/// `address` with only its first `bits`.
pub fn masked(family: Family, address: u128, bits: u8) -> u128 {
    let width = if family == Family::V4 { 32 } else { 128 };
    let low = u32::from(width - bits.min(width));
    address & u128::MAX.checked_shl(low).unwrap_or(0)
}

/// One entry among the ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    end: End,
    pieces: Option<Box<[Span]>>,
}

/// The ranges of one family: what is wanted, and the disjoint pieces that say it.
#[derive(Clone, Debug)]
struct Ranges {
    family: Family,
    /// By first address and length. Prefixes are nested or apart, so those around an address are found length by
    /// length.
    held: BTreeMap<(u128, u8), Held>,
    /// How many entries there are of each length.
    lengths: [usize; 129],
    /// How many of them no rail has cut.
    whole: [usize; 129],
    /// By first address: last address and end. Touching pieces have different ends.
    pieces: BTreeMap<u128, (u128, End)>,
    /// Where pieces may be out of date.
    dirty: Vec<Span>,
}

impl Ranges {
    fn new(family: Family) -> Self {
        let (held, pieces) = (BTreeMap::new(), BTreeMap::new());
        Self { family, held, lengths: [0; 129], whole: [0; 129], pieces, dirty: Vec::new() }
    }

    fn insert(&mut self, net: IpNet, held: Held) {
        let bits = net.prefix_len();
        let whole = held.pieces.is_none();
        if let Some(before) = self.held.insert((Span::of(net).first, bits), held) {
            self.count(bits, before.pieces.is_none(), false);
        }
        self.count(bits, whole, true);
        self.dirty.push(Span::of(net));
    }

    fn remove(&mut self, net: IpNet) {
        self.drop_entry(Span::of(net).first, net.prefix_len());
    }

    fn drop_entry(&mut self, first: u128, bits: u8) {
        if let Some(before) = self.held.remove(&(first, bits)) {
            self.count(bits, before.pieces.is_none(), false);
            self.dirty.push(self.span(first, bits));
        }
    }

    fn count(&mut self, bits: u8, whole: bool, more: bool) {
        let counts = [Some(&mut self.lengths), whole.then_some(&mut self.whole)];
        for count in counts.into_iter().flatten() {
            let count = &mut count[usize::from(bits.min(128))];
            *count = if more { *count + 1 } else { *count - 1 };
        }
    }

    fn span(&self, first: u128, bits: u8) -> Span {
        let width = if self.family == Family::V4 { 32 } else { 128 };
        let low = u32::from(width - bits.min(width));
        let hosts = 1u128.checked_shl(low).map_or(u128::MAX, |size| size - 1);
        Span { first, last: first | hosts }
    }

    /// Takes out all entries of one length that no rail has cut.
    fn take(&mut self, bits: u8) -> Vec<(Span, End)> {
        let here = self.held.iter().filter(|((_, length), held)| *length == bits && held.pieces.is_none());
        let taken: Vec<(Span, End)> = here.map(|(&(first, _), held)| (self.span(first, bits), held.end)).collect();
        for (span, _) in &taken {
            self.drop_entry(span.first, bits);
        }
        taken
    }

    /// Forgets what had ended at `now`: the kernel has, too.
    fn forget(&mut self, now: Timestamp) {
        let over: Vec<(u128, u8)> =
            self.held.iter().filter(|(_, held)| held.end.until <= now).map(|(&key, _)| key).collect();
        for (first, bits) in over {
            self.drop_entry(first, bits);
        }
        self.pieces.retain(|_, (_, end)| end.until > now);
    }

    /// Brings the pieces up to date, and says what went and what came.
    fn rework(&mut self) -> (Vec<Span>, Vec<(Span, End)>) {
        let dirty = std::mem::take(&mut self.dirty);
        // What touches a change may become one piece with it, so it is worked out as well.
        let regions = join(dirty.into_iter().map(|span| self.with_neighbours(span)).collect());
        let (mut remove, mut add) = (Vec::new(), Vec::new());
        for region in regions {
            let before: Vec<(Span, End)> = self
                .pieces
                .range(region.first..=region.last)
                .map(|(&first, &(last, end))| (Span { first, last }, end))
                .collect();
            let after = flatten(self.covering(region));
            for (span, _) in &before {
                self.pieces.remove(&span.first);
            }
            self.pieces.extend(after.iter().map(|&(span, end)| (span.first, (span.last, end))));
            let (gone, new) = difference(&before, &after);
            remove.extend(gone);
            add.extend(new);
        }
        (remove, add)
    }

    fn with_neighbours(&self, span: Span) -> Span {
        let before = self.pieces.range(..span.first).next_back();
        let first = match before {
            Some((&first, &(last, _))) if last.saturating_add(1) >= span.first => first,
            _ => span.first,
        };
        let after = self.pieces.range(..=span.last.saturating_add(1)).next_back();
        let last = match after {
            Some((_, &(last, _))) if last > span.last => last,
            _ => span.last,
        };
        Span { first, last }
    }

    /// What is wanted within `region`, cut to it.
    fn covering(&self, region: Span) -> Vec<(Span, End)> {
        let width = if self.family == Family::V4 { 32 } else { 128 };
        let lengths = (0..=width).filter(|&bits| self.lengths[usize::from(bits)] > 0);
        let around = lengths.filter_map(|bits| {
            let first = masked(self.family, region.first, bits);
            // those that begin right here are among the ones inside
            self.held.get_key_value(&(first, bits)).filter(|_| first < region.first)
        });
        let inside = self.held.range((region.first, 0)..=(region.last, u8::MAX));
        let mut covering = Vec::new();
        for (&(first, bits), held) in around.chain(inside) {
            let whole = [self.span(first, bits)];
            for &piece in held.pieces.as_deref().unwrap_or(&whole) {
                let cut = Span { first: piece.first.max(region.first), last: piece.last.min(region.last) };
                if cut.first <= cut.last {
                    covering.push((cut, held.end));
                }
            }
        }
        covering
    }

    /// Whether the kernel may hold `address` at `now`.
    fn covers(&self, address: u128, now: Timestamp) -> bool {
        let before = self.pieces.range(..=address).next_back();
        before.is_some_and(|(_, &(last, end))| address <= last && end.until > now - LINGERING)
    }

    fn all(&self) -> Vec<(Span, End)> {
        self.pieces.iter().map(|(&first, &(last, end))| (Span { first, last }, end)).collect()
    }
}

/// What to remove from and to add to a set that holds `before` so that it holds `after`. Both are in order.
fn difference(before: &[(Span, End)], after: &[(Span, End)]) -> (Vec<Span>, Vec<(Span, End)>) {
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
    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::tests::{ban, second};

    fn key(value: &str) -> Key {
        Key::of(&ban(1, value, 9), 64).expect("a valid test prefix")
    }

    fn at(until: i64) -> Placed {
        Placed { until: second(until), pieces: None }
    }

    fn change(value: &str, before: Option<Placed>, after: Option<Placed>) -> Plan {
        Plan { changes: vec![Change { key: key(value), before, after, why: None }] }
    }

    #[test]
    fn sets_are_known_by_their_names() {
        let sets = PLAIN.into_iter().chain([bucket(Family::V4, 24), bucket(Family::V6, 56)]);
        for set in sets.flat_map(|set| [set, set.in_generation(true)]) {
            assert_eq!(named(&set.name()), Some(set));
        }
        for name in ["allow4", "geo4_b", "ban4_24", "net4_x", "", "_b"] {
            assert_eq!(named(name), None, "{name}");
        }
    }

    #[test]
    fn origins_are_few_and_tame() {
        let mut origins = Origins::default();
        let cases = [(None, 0), (Some(""), 0), (Some("cordon"), 1), (Some("lists:Some List"), 2), (Some("Cordon"), 1)];
        for (origin, number) in cases {
            assert_eq!(origins.of(origin), number, "{origin:?}");
        }
        assert_eq!(origins.names(), ["o_other", "o_cordon", "o_lists_some_list"]);
        for number in 0..100 {
            origins.of(Some(&format!("made up {number}")));
        }
        assert_eq!(origins.names().len(), MOST_ORIGINS);
        assert_eq!(origins.of(Some("one too many")), 0);
        assert!(origins.names().iter().all(|name| name.len() <= LONGEST_ORIGIN + ORIGIN.len()));
    }

    #[test]
    fn too_many_ranges_move_to_sets_of_their_own() {
        let mut placement = Placement::new();
        for number in 0..40_000u32 {
            let net = |base: u32, bits: u8| format!("{}/{bits}", std::net::Ipv4Addr::from_bits(base));
            placement.insert(key(&net(0x0b00_0000 + number * 512, 24)), at(60));
            placement.insert(key(&net(0x4000_0000 + number * 64, 27)), at(60));
        }
        let layout = Layout::new(64, false).for_rebuild(&placement, true, &BTreeSet::new(), |_| 0);
        assert_eq!(layout.buckets().len(), 1, "one is enough");
        assert_eq!(layout.range_count(), 40_000);
        let names: Vec<String> = layout.sets().iter().map(SetRef::name).collect();
        assert!(names == ["ban4_b", "ban6_b", "net4_24_b", "net4_b", "net6_b"] || names[2] == "net4_27_b", "{names:?}");
        for (key, placed) in &placement {
            let (set, address) = layout.probe_of(key, placed).expect("a place for everything");
            assert_eq!(layout.single(key, placed).is_some(), matches!(set.shape, Shape::Prefix(_)));
            assert!(
                layout
                    .probes(Family::V4, address + 3)
                    .contains(&(set, masked(Family::V4, address + 3, layout.bits(set))))
            );
        }

        // The same by small steps: the last straw moves them, within the plan that brings it.
        let mut layout = Layout::new(64, false);
        let plan = |(key, placed): (&Key, &Placed)| Change {
            key: key.clone(),
            before: None,
            after: Some(placed.clone()),
            why: None,
        };
        let plan = Plan { changes: placement.iter().map(plan).collect() };
        let (edits, fresh) = layout.edit(&plan, second(0), |_| 0);
        assert_eq!((layout.buckets().len(), fresh.len(), layout.range_count()), (1, 1, 40_000));
        let added: usize = edits.iter().map(|edit| edit.add.len()).sum();
        assert_eq!(added, 80_000);
    }

    #[test]
    fn sets_of_somebody_else_stay_four() {
        let mut layout = Layout::new(64, true);
        let (edits, _) = layout.edit(&change("2001:db8::1", None, Some(at(60))), second(0), |_| 0);
        assert_eq!(edits.len(), 1);
        assert_eq!(edits[0].set, NET6, "whether their rule looks at whole addresses is not known");
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let mut layout = Layout::new(64, false);
        layout.edit(&change("192.0.2.0/24", None, Some(at(10))), second(0), |_| 0);
        assert_eq!(layout.range_count(), 1);
        let (edits, _) = layout.edit(&change("192.0.2.0/26", None, Some(at(1000))), second(100), |_| 0);
        assert_eq!(layout.range_count(), 1);
        assert_eq!((edits[0].remove.len(), edits[0].add.len()), (0, 1));
    }

    /// A set as the kernel treats it: a removal must name what is there, an addition must not overlap.
    #[derive(Debug, Default, PartialEq)]
    struct Kernel(BTreeMap<(SetRef, u128), (Span, End)>);

    impl Kernel {
        fn apply(&mut self, edit: &Edit) {
            for span in &edit.remove {
                let removed = self.0.remove(&(edit.set, span.first));
                assert_eq!(removed.map(|(span, _)| span), Some(*span), "removed from {}", edit.set.name());
            }
            for &(span, end) in &edit.add {
                let mut here = self.0.iter().filter(|((set, _), _)| *set == edit.set);
                let overlap = here.find(|(_, (held, _))| held.first <= span.last && span.first <= held.last);
                assert_eq!(overlap, None, "{span:?} added to {}", edit.set.name());
                self.0.insert((edit.set, span.first), (span, end));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn edits_lead_to_what_a_rebuild_would_make(
            steps in proptest::collection::vec(
                proptest::collection::vec(
                    (any::<bool>(), 0..64u8, 26..=32u8, 1..5i64, any::<bool>(), any::<bool>(), 0..3u8), 1..6),
                1..20)
        ) {
            let mut placement = Placement::new();
            let mut counters: BTreeMap<Key, u8> = BTreeMap::new();
            let mut layout = Layout::new(64, false);
            let mut kernel = Kernel::default();
            for step in steps {
                let mut plan = Plan::default();
                for (v6, low, length, until, split, keep, counter) in step {
                    let value = if v6 {
                        format!("2001:db8:0:{low:x}::/{}", length + 32)
                    } else {
                        format!("192.0.2.{low}/{length}")
                    };
                    let key = key(&value);
                    if plan.changes.iter().any(|change| change.key == key) {
                        continue;
                    }
                    let whole = Span::of(key.net().expect("a prefix"));
                    let pieces = (split && whole.last > whole.first)
                        .then(|| [Span { first: whole.first + 1, ..whole }].into());
                    let after = keep.then(|| Placed { until: second(100 + until), pieces });
                    let before = placement.get(&key).cloned();
                    counters.insert(key.clone(), counter);
                    plan.changes.push(Change { key, before, after, why: None });
                }
                let (edits, _) = layout.edit(&plan, second(0), |change| counters[&change.key]);
                for edit in &edits {
                    kernel.apply(edit);
                }
                plan.commit(&mut placement);
            }
            let rebuilt = Layout::new(64, false).for_rebuild(&placement, false, &BTreeSet::new(), |key| counters[key]);
            let mut fresh = Kernel::default();
            for (set, add) in rebuilt.ranges_held() {
                fresh.apply(&Edit { set, remove: Vec::new(), add });
            }
            for (key, placed) in &placement {
                if let Some((set, span)) = rebuilt.single(key, placed) {
                    let end = End { until: placed.until, counter: counters[key] };
                    fresh.apply(&Edit { set, remove: Vec::new(), add: vec![(span, end)] });
                }
            }
            prop_assert_eq!(kernel, fresh);
        }
    }
}
