//! Which texts a regex cannot do without.
//!
//! A line that contains none of them cannot match, so the matcher is neither run nor even built. The set is a
//! necessary condition only: too small a set would be wrong, none at all is always right.

use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, packed};
use memchr::memmem;
use regex_syntax::hir::{Class, Hir, HirKind};

/// Most texts in one set.
const MAX_LITERALS: usize = 64;
/// Most texts while runs are multiplied out (`[Ww]ar`).
const MAX_PRODUCT: usize = 16;
/// Texts shorter than this occur everywhere.
const MIN_LENGTH: usize = 2;

/// The texts of which every match contains at least one, and a quick look for them.
#[derive(Debug)]
pub struct Literals {
    /// None at all where nothing is known.
    texts: Vec<Vec<u8>>,
    finder: OnceLock<Finder>,
}

#[derive(Debug)]
enum Finder {
    Anything,
    One(Box<memmem::Finder<'static>>),
    Any(Box<AhoCorasick>),
}

impl Literals {
    /// What every match of `hir` contains.
    pub fn of(hir: &Hir) -> Self {
        let telling = |set: &Set| set.iter().all(|text| text.len() >= MIN_LENGTH);
        Self { texts: required(hir).filter(telling).unwrap_or_default(), finder: OnceLock::new() }
    }

    /// The texts; none at all where nothing is known.
    pub fn texts(&self) -> &[Vec<u8>] {
        &self.texts
    }

    /// Whether `text` may match.
    pub fn may_match(&self, text: &str) -> bool {
        match self.finder.get_or_init(|| self.finder()) {
            Finder::Anything => true,
            Finder::One(finder) => finder.find(text.as_bytes()).is_some(),
            Finder::Any(finder) => finder.is_match(text),
        }
    }

    fn finder(&self) -> Finder {
        match &self.texts[..] {
            [] => Finder::Anything,
            [one] => Finder::One(Box::new(memmem::Finder::new(one).into_owned())),
            many => AhoCorasick::new(many).map_or(Finder::Anything, |finder| Finder::Any(Box::new(finder))),
        }
    }
}

/// The literals of several patterns, so that one look at a text says which of them may match.
#[derive(Debug)]
pub(crate) struct Chorus {
    /// By number of the text the patterns that need it.
    owners: Vec<u64>,
    /// Patterns of which nothing is known.
    always: u64,
    texts: Vec<Vec<u8>>,
    finder: OnceLock<Option<Spotter>>,
}

/// Finds which of some texts occur.
#[derive(Debug)]
enum Spotter {
    /// Many bytes at a time; tells the longest text that begins in a place, and with it those that it begins with.
    Vector(packed::Searcher),
    /// Byte by byte, on any machine and for any number of texts.
    Automaton(Box<AhoCorasick>),
}

impl Chorus {
    /// Most patterns of one.
    pub(crate) const MOST: usize = 64;

    /// Of patterns with these literals, [`Chorus::MOST`] at most. A pattern without any is always one that may match.
    pub(crate) fn new<'l>(patterns: impl Iterator<Item = Option<&'l Literals>>) -> Self {
        let mut chorus = Self { owners: Vec::new(), always: 0, texts: Vec::new(), finder: OnceLock::new() };
        for (number, literals) in patterns.enumerate() {
            let bit = 1 << number;
            match literals.map_or(&[][..], Literals::texts) {
                [] => chorus.always |= bit,
                texts => {
                    for text in texts {
                        let known = chorus.texts.iter().position(|known| known == text);
                        let known = known.unwrap_or_else(|| {
                            chorus.texts.push(text.clone());
                            chorus.owners.push(0);
                            chorus.texts.len() - 1
                        });
                        chorus.owners[known] |= bit;
                    }
                }
            }
        }
        // Where a text occurs, so do those that it begins with.
        let begins = |text: &Vec<u8>| {
            let shorter = chorus.texts.iter().zip(&chorus.owners).filter(|(other, _)| text.starts_with(other));
            shorter.fold(0, |owners, (_, others)| owners | others)
        };
        chorus.owners = chorus.texts.iter().map(begins).collect();
        chorus
    }

    /// The patterns that may match `text`, a bit for each.
    pub(crate) fn possible(&self, text: &str) -> u64 {
        let Some(spotter) = self.finder.get_or_init(|| Spotter::new(&self.texts)) else { return u64::MAX };
        let mut possible = self.always;
        match spotter {
            Spotter::Vector(searcher) => {
                let mut from = 0;
                while let Some(found) = searcher.find_in(text, (from..text.len()).into()) {
                    possible |= self.owners[found.pattern().as_usize()];
                    from = found.start() + 1;
                }
            }
            Spotter::Automaton(automaton) => {
                for found in automaton.find_overlapping_iter(text) {
                    possible |= self.owners[found.pattern().as_usize()];
                }
            }
        }
        possible
    }
}

impl Spotter {
    /// `None` where the texts are too much for either.
    fn new(texts: &[Vec<u8>]) -> Option<Self> {
        let vector =
            packed::Config::new().match_kind(packed::MatchKind::LeftmostLongest).builder().extend(texts).build();
        vector.map(Self::Vector).or_else(|| {
            let automaton = AhoCorasick::builder()
                .kind(Some(AhoCorasickKind::DFA))
                .match_kind(MatchKind::Standard)
                .build(texts)
                .ok()?;
            Some(Self::Automaton(Box::new(automaton)))
        })
    }
}

type Set = Vec<Vec<u8>>;

/// Texts of which every match contains at least one; `None` when that cannot be said.
pub fn required(hir: &Hir) -> Option<Set> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => None,
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Class(class) => letters(class),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Repetition(_) => None,
        HirKind::Alternation(branches) => {
            let mut all = Set::new();
            for branch in branches {
                all.extend(required(branch)?);
                if all.len() > MAX_LITERALS {
                    return None;
                }
            }
            all.sort_unstable();
            all.dedup();
            Some(all)
        }
        HirKind::Concat(_) => {
            let mut runs = Runs::default();
            runs.walk(hir);
            runs.flush();
            runs.best
        }
    }
}

/// The characters of a small class.
fn letters(class: &Class) -> Option<Set> {
    let Class::Unicode(class) = class else { return None };
    let count: u32 = class.ranges().iter().map(|range| range.end() as u32 - range.start() as u32 + 1).sum();
    if count == 0 || count > 4 {
        return None;
    }
    let chars = class.ranges().iter().flat_map(|range| range.start()..=range.end());
    Some(chars.map(|c| c.to_string().into_bytes()).collect())
}

/// Joins neighbours of a concatenation into longer texts and keeps the most telling set.
#[derive(Default)]
struct Runs {
    current: Set,
    best: Option<Set>,
}

impl Runs {
    fn walk(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.walk(part)),
            HirKind::Capture(capture) => self.walk(&capture.sub),
            HirKind::Literal(literal) => self.append(&[literal.0.to_vec()]),
            // a look-around takes no text, so what stands around it stays adjacent
            HirKind::Look(_) | HirKind::Empty => {}
            HirKind::Class(class) => match letters(class) {
                Some(set) => self.append(&set),
                None => self.flush(),
            },
            _ => {
                self.flush();
                if let Some(set) = required(hir) {
                    self.offer(set);
                }
            }
        }
    }

    fn append(&mut self, set: &[Vec<u8>]) {
        if self.current.is_empty() {
            self.current = vec![Vec::new()];
        }
        if self.current.len() * set.len() > MAX_PRODUCT {
            self.flush();
            self.current = vec![Vec::new()];
        }
        let joined = self.current.iter().flat_map(|text| set.iter().map(move |next| [&text[..], next].concat()));
        self.current = joined.collect();
    }

    fn flush(&mut self) {
        let run = std::mem::take(&mut self.current);
        if !run.is_empty() {
            self.offer(run);
        }
    }

    fn offer(&mut self, set: Set) {
        let worth = |set: &Set| {
            let shortest = set.iter().map(Vec::len).min().unwrap_or(0);
            (shortest.min(8) * 4).saturating_sub(set.len())
        };
        if self.best.as_ref().is_none_or(|best| worth(best) < worth(&set)) {
            self.best = Some(set);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(pattern: &str) -> Option<Vec<String>> {
        let hir = regex_syntax::parse(pattern).expect(pattern);
        required(&hir).map(|set| set.into_iter().map(|text| String::from_utf8(text).expect("UTF-8")).collect())
    }

    #[test]
    fn the_most_telling_text_is_chosen() {
        let cases: &[(&str, Option<&[&str]>)] = &[
            ("Failed password for (.*) from (\\d+)", Some(&["Failed password for "])),
            ("(a) (b) ([0-9]+)", Some(&["a b "])),
            ("foo|ba(r|z)", Some(&["bar", "baz", "foo"])),
            ("(?:error|warn)?x+", Some(&["x"])),
            (".*", None),
            ("foo|.*", None),
            ("(abc)*", None),
            ("(abc)+d", Some(&["abc"])),
            ("[Ww]arn", Some(&["Warn", "warn"])),
            ("[a-z]foo", Some(&["foo"])),
            ("^foo$", Some(&["foo"])),
        ];
        for (pattern, texts) in cases {
            let expected = texts.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
            assert_eq!(set(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn one_look_says_what_each_would_say() {
        let literals = ["a foo", "foo|bar", ".*", "barfoo", "oob"]
            .map(|pattern| Literals::of(&regex_syntax::parse(pattern).expect(pattern)));
        let chorus = Chorus::new(literals.iter().map(Some));
        for text in ["", "foo", "a foobar", "barfoo", "xoobx", "a fo"] {
            for (number, literals) in literals.iter().enumerate() {
                let alone = literals.may_match(text);
                assert_eq!(chorus.possible(text) & 1 << number != 0, alone, "{number} on {text}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn one_look_says_of_any_texts_what_each_would_say(
            texts in prop::collection::vec("[ab]{2,4}c{0,14}", 1..20),
            text in "([ab]{0,9}c{0,15}){1,6}",
        ) {
            let literals: Vec<Literals> =
                texts.iter().map(|text| Literals::of(&regex_syntax::parse(text).expect(text))).collect();
            let possible = Chorus::new(literals.iter().map(Some)).possible(&text);
            for (number, literals) in literals.iter().enumerate() {
                prop_assert_eq!(possible & 1 << number != 0, literals.may_match(&text), "{} {}", number, text);
            }
        }

        #[test]
        fn no_match_is_hidden(pattern in "(\\(?[ab]{1,3}[*+?]?\\|?[abc.]{0,2}\\)?){1,4}", text in "[abc]{0,12}") {
            if let (Ok(regex), Ok(hir)) = (regex::Regex::new(&pattern), regex_syntax::parse(&pattern)) {
                prop_assert!(!regex.is_match(&text) || Literals::of(&hir).may_match(&text), "{pattern} {text}");
            }
        }
    }
}
