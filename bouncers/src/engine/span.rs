//! Runs of addresses, and the merge that makes them disjoint.
//!
//! A kernel interval set refuses a whole transaction for one overlapping pair, and an overlap has no single
//! end in time. [`flatten`] answers both: it cuts overlapping spans into disjoint pieces, and each piece lasts
//! as long as the longest span over it. Addresses are numbers, IPv4 in the low 32 bits; a span does not know
//! its family, whoever holds it does.

use std::collections::BinaryHeap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// The family of `net`.
    pub fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// The highest address.
    pub fn top(self) -> u128 {
        match self {
            Family::V4 => u32::MAX.into(),
            Family::V6 => u128::MAX,
        }
    }

    /// The address that `number` stands for.
    pub fn address(self, number: u128) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
            Family::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }
}

/// The number that stands for `address`.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// All addresses from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Lowest address.
    pub first: u128,
    /// Highest address, not below `first`.
    pub last: u128,
}

impl Span {
    /// The span of a prefix.
    pub fn of(net: IpNet) -> Self {
        Self { first: number(net.network()), last: number(net.broadcast()) }
    }

    /// Whether `address` lies in it.
    pub fn contains(self, address: u128) -> bool {
        self.first <= address && address <= self.last
    }

    /// How people read it: `192.0.2.0-192.0.2.9`, or one address.
    pub fn display(self, family: Family) -> String {
        if self.first == self.last {
            return family.address(self.first).to_string();
        }
        format!("{}-{}", family.address(self.first), family.address(self.last))
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.first, self.last)
    }
}

/// A span and the moment it ends.
pub type TimedSpan = (Span, Timestamp);

/// What is left of `span` without `holes`, in order. Holes may overlap, and may reach beyond the span.
pub fn subtract(span: Span, holes: &mut [Span]) -> Vec<Span> {
    holes.sort_unstable();
    let mut pieces = Vec::new();
    let mut next = span.first;
    for hole in holes.iter().filter(|hole| hole.last >= span.first && hole.first <= span.last) {
        if hole.first > next {
            pieces.push(Span { first: next, last: hole.first - 1 });
        }
        match hole.last.checked_add(1) {
            Some(after) if hole.last < span.last => next = next.max(after),
            _ => return pieces,
        }
    }
    pieces.push(Span { first: next, last: span.last });
    pieces
}

/// `spans` joined where they overlap or touch, in order.
pub fn join(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(1) => before.last = before.last.max(span.last),
            _ => joined.push(span),
        }
    }
    joined
}

/// Disjoint pieces that cover the same addresses, in order; each has the greatest end, the latest, of the spans over
/// it. Touching pieces with the same end are one piece.
pub fn flatten<E: Ord + Copy>(mut spans: Vec<(Span, E)>) -> Vec<(Span, E)> {
    spans.sort_unstable_by_key(|(span, _)| span.first);
    let mut pieces: Vec<(Span, E)> = Vec::with_capacity(spans.len());
    // Spans that began at or before `at` and may still cover it; the longest lasting is on top.
    let mut open: BinaryHeap<(E, u128)> = BinaryHeap::new();
    let mut spans = spans.into_iter().peekable();
    let mut at = 0;
    loop {
        while open.peek().is_some_and(|&(_, last)| last < at) {
            open.pop();
        }
        if open.is_empty() {
            let Some((span, _)) = spans.peek() else { return pieces };
            at = span.first;
        }
        while let Some((span, until)) = spans.next_if(|(span, _)| span.first <= at) {
            open.push((until, span.last));
        }
        // A piece ends before the next span begins, so that span was pushed: the heap is not empty.
        let Some(&(until, last)) = open.peek() else { return pieces };
        let last = match spans.peek() {
            Some((span, _)) if span.first <= last => span.first - 1,
            _ => last,
        };
        match pieces.last_mut() {
            Some((before, end)) if *end == until && before.last.checked_add(1) == Some(at) => before.last = last,
            _ => pieces.push((Span { first: at, last }, until)),
        }
        match last.checked_add(1) {
            Some(after) => at = after,
            None => return pieces,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds")
    }

    #[test]
    fn flattening_in_words() {
        // (what, spans as (first, last, until), pieces)
        type Row = (u128, u128, i64);
        let cases: &[(&str, &[Row], &[Row])] = &[
            ("nothing stays nothing", &[], &[]),
            ("a longer inner span is cut out", &[(0, 9, 5), (3, 5, 9)], &[(0, 2, 5), (3, 5, 9), (6, 9, 5)]),
            ("a shorter inner span vanishes", &[(0, 9, 9), (3, 5, 5)], &[(0, 9, 9)]),
            ("neighbours with one end are one", &[(0, 4, 5), (5, 9, 5)], &[(0, 9, 5)]),
            ("neighbours with two ends stay two", &[(0, 4, 5), (5, 9, 6)], &[(0, 4, 5), (5, 9, 6)]),
            (
                "the top of the space ends it",
                &[(u128::MAX - 1, u128::MAX, 5), (u128::MAX, u128::MAX, 7)],
                &[(u128::MAX - 1, u128::MAX - 1, 5), (u128::MAX, u128::MAX, 7)],
            ),
        ];
        let rows = |rows: &[Row]| -> Vec<TimedSpan> {
            rows.iter().map(|&(first, last, until)| (Span { first, last }, second(until))).collect()
        };
        for (what, spans, pieces) in cases {
            assert_eq!(flatten(rows(spans)), rows(pieces), "{what}");
        }
    }

    fn spans() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
        proptest::collection::vec((0..64u8, 0..64u8, 1..8u8), 0..24)
    }

    fn span_of(a: u8, b: u8) -> Span {
        Span { first: a.min(b).into(), last: a.max(b).into() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn flatten_agrees_with_asking_each_address(spans in spans()) {
            let timed: Vec<TimedSpan> =
                spans.iter().map(|&(a, b, until)| (span_of(a, b), second(until.into()))).collect();
            let pieces = flatten(timed.clone());
            for address in 0..64 {
                let longest = |spans: &[TimedSpan]| {
                    spans.iter().filter(|(span, _)| span.contains(address)).map(|&(_, until)| until).max()
                };
                prop_assert_eq!(longest(&timed), longest(&pieces), "address {}", address);
            }
            for pair in pieces.windows(2) {
                prop_assert!(pair[0].0.last < pair[1].0.first);
            }
        }

        #[test]
        fn subtract_and_join_agree_with_asking_each_address(spans in spans(), a in 0..64u8, b in 0..64u8) {
            let whole = span_of(a, b);
            let mut holes: Vec<Span> = spans.iter().map(|&(a, b, _)| span_of(a, b)).collect();
            let joined = join(holes.clone());
            let pieces = subtract(whole, &mut holes);
            for address in 0..64 {
                let hole = holes.iter().any(|hole| hole.contains(address));
                prop_assert_eq!(joined.iter().any(|span| span.contains(address)), hole);
                let left = pieces.iter().any(|piece| piece.contains(address));
                prop_assert_eq!(left, whole.contains(address) && !hole, "address {}", address);
            }
            prop_assert!(pieces.iter().all(|piece| piece.first <= piece.last));
        }
    }
}
