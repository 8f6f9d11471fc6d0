//! Whether a stranger can move the place from which a pattern takes an address.
//!
//! A log line is text of the program with texts of strangers in it. A pattern finds the true address when one of its sides is
//! pinned: everything between it and the start of the line, or between it and the end, is text that a stranger cannot have
//! written, or that cannot hold a copy of the address's surroundings. So the two sides of a group are looked at on their own:
//! what stands there, and whether it is tied to its end of the line.

use regex_syntax::hir::{Class, Dot, Hir, HirKind, Look};

/// Repetitions that match at least so often can hold an address with something around it.
const LONG: u32 = 8;

/// What stands on one side of a group, from the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Text without bounds, blanks included, that does not stop at what follows it.
    Free,
    /// Not tied to the end of the line, but without free text.
    Open,
    /// Tied, with words in between that a stranger may have chosen; they stop at what follows them.
    Words,
    /// Tied, and nothing in between that a stranger chooses.
    Pinned,
}

/// A group and its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) before: Side,
    pub(super) after: Side,
    /// Whether the last free text before it takes as much as it can, so that the last copy counts.
    pub(super) greedy: bool,
    /// Whether a greedy text that can eat digits stands right before it, and takes the first ones of the address.
    pub(super) cut: bool,
}

/// Where the group `number` stands. `None` when it is not there or cannot hold an address.
pub(super) fn place(hir: &Hir, number: u32) -> Option<Place> {
    let mut walk = Walk { before: Vec::new(), after: Vec::new() };
    let group = walk.find(hir, number)?;
    let held = Letters::all(group);
    if !held.has('1') || !(held.has('.') || held.has(':')) {
        return None;
    }
    // From the outside in on both sides: what is left of the group in reading order, and what is right of it.
    let before = walk.before;
    let mut after: Vec<&Hir> = walk.after.into_iter().rev().collect();
    let open = says_nothing(&mut after);

    let found_before = scan(&before, Letters::first(group));
    // Text behind is harmless when it cannot swallow the true address together with what announces it and what stands
    // between the address and this text.
    let announced = before.iter().rev().find_map(|hir| Letters::last(hir)).unwrap_or(Letters::of(' '));
    let swallows = |place: usize, found: &Found| {
        let needed = after.iter().take(place).fold(announced, |needed, part| needed.or(Letters::sure(part)));
        let address = found.letters.has('1') && (found.letters.has('.') || found.letters.has(':'));
        address && found.letters.holds(needed)
    };
    let mut found_after = Vec::new();
    for (place, part) in after.iter().enumerate() {
        let rest = after.get(place + 1..).unwrap_or(&[]);
        let follow = rest.iter().rev().fold(Letters::EVERY, |follow, part| before_of(part, follow));
        let found = scan(&[part], follow);
        found_after.extend(found.into_iter().filter(|found| swallows(place, found)));
    }

    let tied = |parts: &[&Hir], start: bool| {
        let whole = Hir::concat(parts.iter().map(|hir| (*hir).clone()).collect());
        let looks = if start { whole.properties().look_set_prefix() } else { whole.properties().look_set_suffix() };
        looks.contains(if start { Look::Start } else { Look::End })
    };
    let side = |found: &[Found], free: fn(&Found) -> bool, tied: bool| {
        if found.iter().any(free) {
            Side::Free
        } else if !tied {
            Side::Open
        } else if found.iter().any(Found::word) {
            Side::Words
        } else {
            Side::Pinned
        }
    };
    let last = found_before.iter().rev().find(|found| found.free());
    Some(Place {
        before: side(&found_before, Found::free, tied(&before, true)),
        after: match side(&found_after, |found| !found.stops, !open && tied(&after, false)) {
            // What stops at its delimiter cannot swallow a copy of the surroundings.
            Side::Words => Side::Pinned,
            side => side,
        },
        greedy: last.is_some_and(|found| found.greedy),
        cut: before.last().is_some_and(|hir| cuts(hir)),
    })
}

/// Takes any number of anything off the end, tied to the end of the line or not: it says as much as nothing at all. Whether there
/// was such.
fn says_nothing(after: &mut Vec<&Hir>) -> bool {
    let wild = |hir: &Hir| match hir.kind() {
        HirKind::Repetition(repetition) => repetition.min == 0 && repetition.max.is_none() && is_dot(&repetition.sub),
        _ => false,
    };
    let tied = after.last().is_some_and(|hir| matches!(hir.kind(), HirKind::Look(Look::End)));
    let last = after.len().saturating_sub(1 + usize::from(tied));
    let found = after.get(last).is_some_and(|hir| wild(hir));
    if found {
        after.truncate(last);
    }
    found
}

fn is_dot(hir: &Hir) -> bool {
    [Dot::AnyCharExceptLF, Dot::AnyChar].into_iter().any(|dot| *hir == Hir::dot(dot))
}

/// Whether `after` is the zone of an IPv6 address, which the pattern library lets be any text. Where an address belongs the
/// program writes one, and its zone with it.
fn is_zone(before: Option<&Hir>, after: &Hir) -> bool {
    let sign = before.is_some_and(|hir| matches!(hir.kind(), HirKind::Literal(literal) if literal.0.ends_with(b"%")));
    sign && matches!(after.kind(), HirKind::Repetition(repetition) if is_dot(&repetition.sub))
}

/// Whether `hir` ends with a greedy repetition of something that digits are.
fn cuts(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(repetition) => {
            repetition.greedy && repetition.max.is_none() && {
                let letters = Letters::all(&repetition.sub);
                letters.has('1') && letters.has(' ')
            }
        }
        HirKind::Capture(capture) => cuts(&capture.sub),
        HirKind::Concat(parts) => parts.last().is_some_and(cuts),
        _ => false,
    }
}

struct Walk<'h> {
    /// In reading order.
    before: Vec<&'h Hir>,
    /// From the outermost in, so against the reading order; the parts of one level are reversed too.
    after: Vec<&'h Hir>,
}

impl<'h> Walk<'h> {
    fn find(&mut self, hir: &'h Hir, number: u32) -> Option<&'h Hir> {
        match hir.kind() {
            HirKind::Capture(capture) if capture.index == number => Some(&capture.sub),
            HirKind::Capture(capture) => self.find(&capture.sub, number),
            HirKind::Repetition(repetition) => {
                let group = self.find(&repetition.sub, number)?;
                if repetition.max != Some(1) {
                    // Another round may stand on either side.
                    self.before.insert(0, &repetition.sub);
                    self.after.insert(0, &repetition.sub);
                }
                Some(group)
            }
            HirKind::Concat(parts) => {
                let at = parts.iter().position(|part| holds(part, number))?;
                self.before.extend(&parts[..at]);
                self.after.extend(parts[at + 1..].iter().rev());
                self.find(&parts[at], number)
            }
            HirKind::Alternation(parts) => self.find(parts.iter().find(|part| holds(part, number))?, number),
            _ => None,
        }
    }
}

fn holds(hir: &Hir, number: u32) -> bool {
    match hir.kind() {
        HirKind::Capture(capture) => capture.index == number || holds(&capture.sub, number),
        HirKind::Repetition(repetition) => holds(&repetition.sub, number),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(|part| holds(part, number)),
        _ => false,
    }
}

/// A long repetition.
#[derive(Debug)]
struct Found {
    letters: Letters,
    /// Whether it stops at what follows it.
    stops: bool,
    greedy: bool,
}

impl Found {
    fn free(&self) -> bool {
        !self.stops && self.letters.has(' ') && self.letters.has('z')
    }

    /// Letters beyond those of numbers and addresses.
    fn word(&self) -> bool {
        self.letters.has('z')
    }
}

/// The long repetitions in a sequence that is followed by `follow`, in reading order.
fn scan(parts: &[&Hir], follow: Letters) -> Vec<Found> {
    let mut found = Vec::new();
    let mut follow = follow;
    for part in parts.iter().rev() {
        scan_one(part, follow, &mut found);
        follow = before_of(part, follow);
    }
    found.reverse();
    found
}

fn scan_one(hir: &Hir, follow: Letters, found: &mut Vec<Found>) {
    match hir.kind() {
        HirKind::Capture(capture) => scan_one(&capture.sub, follow, found),
        HirKind::Repetition(repetition) => {
            let first = Letters::first(&repetition.sub);
            if repetition.max.is_none_or(|max| max >= LONG) {
                let letters = Letters::all(&repetition.sub);
                found.push(Found { letters, stops: !first.meets(follow), greedy: repetition.greedy });
            }
            scan_one(&repetition.sub, follow.or(first), found);
        }
        HirKind::Concat(parts) => {
            let mut follow = follow;
            for (index, part) in parts.iter().enumerate().rev() {
                let previous = index.checked_sub(1).and_then(|index| parts.get(index));
                if !is_zone(previous, part) {
                    scan_one(part, follow, found);
                }
                follow = before_of(part, follow);
            }
        }
        HirKind::Alternation(parts) => parts.iter().for_each(|part| scan_one(part, follow, found)),
        _ => {}
    }
}

/// What `hir`, followed by `follow`, can begin with.
fn before_of(hir: &Hir, follow: Letters) -> Letters {
    let first = Letters::first(hir);
    if hir.properties().minimum_len() == Some(0) { first.or(follow) } else { first }
}

/// A set of characters: each ASCII one, and all others as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Letters {
    ascii: u128,
    others: bool,
}

impl Letters {
    const EVERY: Self = Self { ascii: u128::MAX, others: true };

    fn of(c: char) -> Self {
        if c.is_ascii() { Self { ascii: 1 << u32::from(c), others: false } } else { Self { ascii: 0, others: true } }
    }

    fn has(self, c: char) -> bool {
        self.meets(Self::of(c))
    }

    fn or(self, other: Self) -> Self {
        Self { ascii: self.ascii | other.ascii, others: self.others || other.others }
    }

    fn meets(self, other: Self) -> bool {
        self.ascii & other.ascii != 0 || self.others && other.others
    }

    fn holds(self, other: Self) -> bool {
        other.ascii & !self.ascii == 0 && (self.others || !other.others)
    }

    fn of_class(class: &Class) -> Self {
        let ranges: Vec<(u32, u32)> = match class {
            Class::Unicode(class) => {
                class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
            }
            Class::Bytes(class) => {
                class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
            }
        };
        let mut letters = Self::default();
        for (start, end) in ranges {
            for c in start..=end.min(127) {
                letters.ascii |= 1 << c;
            }
            letters.others |= end > 127;
        }
        letters
    }

    fn of_text(text: &[u8]) -> Self {
        text.iter().fold(Self::default(), |all, byte| all.or(Self::of(char::from(*byte))))
    }

    /// Every character that a match of `hir` can hold.
    fn all(hir: &Hir) -> Self {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => Self::default(),
            HirKind::Literal(literal) => Self::of_text(&literal.0),
            HirKind::Class(class) => Self::of_class(class),
            HirKind::Repetition(repetition) => Self::all(&repetition.sub),
            HirKind::Capture(capture) => Self::all(&capture.sub),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().fold(Self::default(), |all, part| all.or(Self::all(part)))
            }
        }
    }

    /// What a match of `hir` can begin with.
    fn first(hir: &Hir) -> Self {
        match hir.kind() {
            HirKind::Literal(literal) => Self::of_text(literal.0.get(..1).unwrap_or(&[])),
            HirKind::Repetition(repetition) => Self::first(&repetition.sub),
            HirKind::Capture(capture) => Self::first(&capture.sub),
            HirKind::Concat(parts) => parts.iter().rev().fold(Self::default(), |follow, part| before_of(part, follow)),
            HirKind::Alternation(parts) => parts.iter().fold(Self::default(), |all, part| all.or(Self::first(part))),
            _ => Self::all(hir),
        }
    }

    /// Characters that every match of `hir` holds.
    fn sure(hir: &Hir) -> Self {
        match hir.kind() {
            HirKind::Literal(literal) => Self::of_text(&literal.0),
            HirKind::Capture(capture) => Self::sure(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => Self::sure(&repetition.sub),
            HirKind::Concat(parts) => parts.iter().fold(Self::default(), |all, part| all.or(Self::sure(part))),
            _ => Self::default(),
        }
    }

    /// The last text that every match of `hir` holds.
    fn last(hir: &Hir) -> Option<Self> {
        match hir.kind() {
            HirKind::Literal(literal) => Some(Self::of_text(&literal.0)),
            HirKind::Capture(capture) => Self::last(&capture.sub),
            HirKind::Concat(parts) => parts.iter().rev().find_map(Self::last),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pattern around `<>`, which stands for an address.
    fn sides(pattern: &str) -> (Side, Side) {
        let pattern = pattern.replace("<>", "(?P<a>[0-9a-fA-F:.]+)");
        let hir = expr::regex_dialect::check(&pattern).expect("a good regex");
        let place = place(&hir, 1).expect("the group is there");
        (place.before, place.after)
    }

    #[test]
    fn each_side_is_judged_by_what_stands_there() {
        use Side::{Free, Open, Pinned, Words};
        // (pattern, before the address, after it)
        let cases = [
            ("^from <>$", Pinned, Pinned),
            ("from <>", Open, Open),
            ("^user .* from <>$", Free, Pinned),
            ("^user .* from <>", Free, Open),
            ("^user .*? from <> port .* at [0-9]+$", Free, Free),
            ("^user \\w+ from <>", Words, Open),
            (r#"^"[^"]*" <> .*"#, Words, Open),
            (r#"^"(?:[^"\\]|\\.)*" <>$"#, Words, Pinned),
            ("^[0-9]+ [A-F0-9:]+ <> .*$", Pinned, Open),
            ("^user .* from <> port [0-9]+$", Free, Pinned),
            ("^user .* from <> port \\S+( ssh2)?$", Free, Pinned),
            // without a blank before the address a text without blanks can swallow it
            ("^user .* rhost=<>[^ ]*$", Free, Pinned),
            ("^user .*;rhost=<>[^ ]*$", Free, Free),
            (r#"^user .* from <> "[^"]*"$"#, Free, Pinned),
            ("^user .* from <> port: [^:]*$", Free, Pinned),
            ("^user .* from <> port [^:]*$", Free, Free),
            // the same as nothing at all
            ("^user .* from <>.*$", Free, Open),
            ("^user .* from <> (.*)$", Free, Free),
            // an address with a zone
            ("^to [0-9a-f:]+(?:%.+)? from <>", Pinned, Open),
            ("(?:^|x )from <>$", Open, Pinned),
            ("^(?:a from <>|b)$", Pinned, Pinned),
            ("^(?:.{0,5}) from <>", Pinned, Open),
            ("^(?:.{0,500}) from <>", Free, Open),
        ];
        for (pattern, before, after) in cases {
            assert_eq!(sides(pattern), (before, after), "{pattern}");
        }
    }

    #[test]
    fn what_cannot_hold_an_address_is_none() {
        for pattern in ["^([a-z]+) .*", "^([0-9]+) .*"] {
            assert_eq!(place(&expr::regex_dialect::check(pattern).expect("a good regex"), 1), None, "{pattern}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn a_pinned_address_is_the_one_beside_the_pin(lure in "(x|from |1\\.1\\.1\\.1|9| |port 1){0,8}") {
            // What the program writes around any name: the patterns whose sides say so find its own address.
            for (pattern, line) in [
                ("^user .* from ([0-9.]+) port [0-9]+$", format!("user {lure} from 203.0.113.7 port 9")),
                ("user .*? from ([0-9.]+)$", format!("user {lure} from 203.0.113.7")),
                ("^from ([0-9.]+) .*", format!("from 203.0.113.7 {lure}")),
            ] {
                let hir = expr::regex_dialect::check(pattern).expect("a good regex");
                let place = place(&hir, 1).expect("the group is there");
                assert!(place.before == Side::Pinned || place.after == Side::Pinned, "{pattern}");
                let regex = expr::regex_dialect::compile(pattern).expect("a good regex");
                let found = regex.captures(line.as_bytes()).and_then(|found| found.get(1)).map(|found| found.as_bytes());
                assert_eq!(found, Some(&b"203.0.113.7"[..]), "{pattern} on {line}");
            }
        }
    }

    #[test]
    fn greed_right_before_the_address_eats_its_digits() {
        let cut = |pattern: &str| {
            place(&expr::regex_dialect::check(pattern).expect("a good regex"), 1).expect("the group is there").cut
        };
        assert!(cut("^.*([0-9.]+)$") && cut("^(?:x .*)([0-9.]+)$"));
        assert!(!cut("^.*?([0-9.]+)$") && !cut("^.* ([0-9.]+)$"));
    }
}
