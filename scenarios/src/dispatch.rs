//! Which scenarios could want an event.
//!
//! From each filter it is known what must hold for it to be true. For every field that such conditions compare with
//! constants there is a table from value to the scenarios that it leaves possible; an event intersects the entries of the values
//! that it has. Of those that are left, each that looks for words is asked only if one of them is there: all the
//! words that are looked for in a field are found in one go. Scenarios come out in file order, since filters may
//! write to the event.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use expr::files::Files;
use expr::{Condition, FieldId, Mention};
use hashbrown::{DefaultHashBuilder, HashMap};
use model::Event;
use model::bytes::alike;

use crate::scenario::Needs;

/// Up to this many bytes of words there is a faster and larger automaton.
const FAST: usize = 8 << 10;
/// Texts of one field that are remembered with what was found in them: paths and user agents come again and again.
const RECENT: usize = 1024;
/// Longest text that is remembered, in bytes.
const RECENT_TEXT: usize = 512;

/// The tables of one rule set.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    /// A number that no other of this process has.
    id: u64,
    all: Bits,
    indexes: Vec<Index>,
    /// Scenarios whose filter is true of every event that the indexes leave to them.
    decided: Bits,
    /// Scenarios that look for words.
    looking: Bits,
    searches: Vec<Search>,
}

/// The scenarios that a value of one field leaves possible.
#[derive(Debug)]
struct Index {
    field: FieldId,
    /// Those that look at the field at all.
    concerned: Bits,
    /// Absent or empty.
    empty: Bits,
    /// Any other value that is not listed.
    other: Bits,
    values: HashMap<Box<str>, Bits>,
}

/// The words that scenarios look for in one field.
#[derive(Debug)]
struct Search {
    field: FieldId,
    concerned: Bits,
    /// Each with those who look for it.
    words: Vec<(String, Bits)>,
    automaton: OnceLock<Option<AhoCorasick>>,
}

/// The scenarios that could want an event, and what it takes to find them.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    bits: Bits,
    found: Bits,
    /// Whose words the recent texts were searched for.
    of: u64,
    /// Of each search.
    recent: Vec<Recent>,
    hasher: DefaultHashBuilder,
}

/// Texts that were searched lately, with their hashes, each in the one place that its hash allows.
#[derive(Debug, Default)]
struct Recent(Vec<(u64, String, Bits)>);

impl Candidates {
    /// Their numbers, in file order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.bits.iter()
    }
}

/// A set of scenarios.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bits(Vec<u64>);

impl Bits {
    fn empty(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn full(len: usize) -> Self {
        let mut bits = Self(vec![u64::MAX; len.div_ceil(64)]);
        if let Some(last) = bits.0.last_mut()
            && !len.is_multiple_of(64)
        {
            *last = (1 << (len % 64)) - 1;
        }
        bits
    }

    fn add(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn remove(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn meets(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    fn intersect(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= theirs);
    }

    fn unite(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// Members in ascending order.
    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            let mut left = *bits;
            std::iter::from_fn(move || {
                let index = (left != 0).then(|| word * 64 + left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(index)
            })
        })
    }
}

impl Dispatch {
    /// Tables over what the scenarios require. What is known of data files that are not among `files` is not used.
    pub(crate) fn new(needs: &[&Needs], files: &Files) -> Self {
        let (needs_len, all) = (needs.len(), Bits::full(needs.len()));
        // A filter that writes under computed names could write any field.
        if needs.iter().any(|needs| !needs.writes_all.is_empty()) {
            let nobody = || Bits::empty(needs_len);
            return Self { id: next_id(), all, decided: nobody(), looking: nobody(), ..Self::default() };
        }
        let written = |field: FieldId| needs.iter().any(|needs| needs.writes.contains(&field));
        let mut fields: Vec<FieldId> = Vec::new();
        for condition in needs.iter().flat_map(|needs| &needs.requires) {
            let field = condition.field();
            if !fields.contains(&field) && !written(field) {
                fields.push(field);
            }
        }
        let mut indexes: Vec<Index> = fields.into_iter().map(|field| Index::new(field, needs, &all)).collect();
        // Who concerns many leaves few to be asked.
        indexes.sort_by_key(|index| std::cmp::Reverse(index.concerned.len()));
        let mut decided = Bits::empty(needs.len());
        for (scenario, needs) in needs.iter().enumerate() {
            if needs.decided && !needs.requires.iter().any(|condition| written(condition.field())) {
                decided.add(scenario);
            }
        }
        let mut looking = Bits::empty(needs.len());
        let mut searches: BTreeMap<FieldId, (Bits, BTreeMap<String, Bits>)> = BTreeMap::new();
        for (scenario, needs) in needs.iter().enumerate() {
            let compared = |field| {
                needs.requires.iter().any(|condition| matches!(condition, Condition::In(known, _) if *known == field))
            };
            let lists = needs.mentions.iter().filter(|list| {
                !list.iter().any(|mention| written(mention.field))
                    && !list.iter().all(|mention| compared(mention.field))
            });
            let lists =
                lists.filter_map(|list| list.iter().map(|mention| resolve(mention, files)).collect::<Option<Vec<_>>>());
            // The longest words are the rarest.
            let shortest =
                |list: &Vec<(FieldId, Vec<String>)>| list.iter().flat_map(|(_, words)| words).map(String::len).min();
            let Some(best) = lists.max_by_key(|list| shortest(list).unwrap_or(usize::MAX)) else { continue };
            looking.add(scenario);
            for (field, list) in best {
                let nobody = || Bits::empty(needs_len);
                let (concerned, words) = searches.entry(field).or_insert_with(|| (nobody(), BTreeMap::new()));
                concerned.add(scenario);
                for word in list {
                    words.entry(word).or_insert_with(nobody).add(scenario);
                }
            }
        }
        let searches = searches.into_iter().map(|(field, (concerned, words))| Search {
            field,
            concerned,
            words: words.into_iter().collect(),
            automaton: OnceLock::new(),
        });
        Self { id: next_id(), all, indexes, decided, looking, searches: searches.collect() }
    }

    /// The scenarios whose filter can be true of `event`.
    pub(crate) fn candidates(&self, event: &Event, candidates: &mut Candidates) {
        let Candidates { bits, found, of, recent, hasher } = candidates;
        if *of != self.id {
            *of = self.id;
            *recent = self.searches.iter().map(|_| Recent::default()).collect();
        }
        bits.clone_from(&self.all);
        for index in &self.indexes {
            if bits.meets(&index.concerned) {
                bits.intersect(match event.get(index.field) {
                    None | Some("") => &index.empty,
                    Some(_) if index.values.is_empty() => &index.other,
                    Some(value) => index.values.get(value).unwrap_or(&index.other),
                });
            }
        }
        if !bits.meets(&self.looking) {
            return;
        }
        found.0.clear();
        found.0.resize(bits.0.len(), 0);
        for (search, recent) in self.searches.iter().zip(recent) {
            if bits.meets(&search.concerned) {
                let text = event.get(search.field).unwrap_or("");
                recent.find(search, text, hasher, found);
            }
        }
        for (bits, (found, looking)) in bits.0.iter_mut().zip(found.0.iter().zip(&self.looking.0)) {
            *bits &= found | !looking;
        }
    }

    /// Whether the filter of a candidate is known to be true.
    pub(crate) fn decides(&self, scenario: usize) -> bool {
        self.decided.has(scenario)
    }

    /// All scenarios.
    pub(crate) fn all(&self, candidates: &mut Candidates) {
        candidates.bits.clone_from(&self.all);
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The field of a mention and its words, if they are known.
fn resolve(mention: &Mention, files: &Files) -> Option<(FieldId, Vec<String>)> {
    let words = mention.needle.words(files)?;
    (!words.iter().any(String::is_empty)).then_some((mention.field, words))
}

impl Recent {
    /// Adds those to `found` whose words are in `text`.
    fn find(&mut self, search: &Search, text: &str, hasher: &DefaultHashBuilder, found: &mut Bits) {
        if text.is_empty() {
            return;
        }
        if text.len() > RECENT_TEXT {
            search.find(text, found);
            return;
        }
        if self.0.is_empty() {
            self.0.resize(RECENT, (0, String::new(), Bits::default()));
        }
        let hash = hasher.hash_one(text);
        let (near, known, bits) = &mut self.0[hash as usize % RECENT];
        if *near != hash || !alike(known.as_bytes(), text.as_bytes()) {
            *near = hash;
            text.clone_into(known);
            bits.0.clear();
            bits.0.resize(found.0.len(), 0);
            search.find(text, bits);
        }
        found.unite(bits);
    }
}

impl Search {
    /// Adds those to `found` whose words are in `text`.
    fn find(&self, text: &str, found: &mut Bits) {
        let automaton = self.automaton.get_or_init(|| {
            let words = self.words.iter().map(|(word, _)| word);
            let fast = words.clone().map(String::len).sum::<usize>() <= FAST;
            let kind = if fast { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
            AhoCorasick::builder().ascii_case_insensitive(true).kind(Some(kind)).build(words).ok()
        });
        match automaton {
            Some(automaton) if text.is_ascii() => {
                // Most texts hold none, which is seen faster than which they hold.
                if !automaton.is_match(text) {
                    return;
                }
                for word in automaton.find_overlapping_iter(text) {
                    found.unite(&self.words[word.pattern()].1);
                }
            }
            _ => found.unite(&self.concerned),
        }
    }
}

impl Index {
    fn new(field: FieldId, needs: &[&Needs], all: &Bits) -> Self {
        let concerned = Bits::empty(needs.len());
        let mut index = Self { field, concerned, empty: all.clone(), other: all.clone(), values: HashMap::new() };
        for condition in needs.iter().flat_map(|needs| &needs.requires) {
            if let Condition::In(of, values) = condition
                && *of == field
            {
                for value in values.iter().filter(|value| !value.is_empty()) {
                    index.values.entry(value.as_str().into()).or_insert_with(|| all.clone());
                }
            }
        }
        for (scenario, needs) in needs.iter().enumerate() {
            for condition in needs.requires.iter().filter(|condition| condition.field() == field) {
                let Self { concerned, empty, other, values, .. } = &mut index;
                concerned.add(scenario);
                let keep = |bits: &mut Bits, value: Option<&str>| {
                    if !admits(condition, value) {
                        bits.remove(scenario);
                    }
                };
                keep(empty, Some(""));
                keep(other, None);
                for (value, bits) in values.iter_mut() {
                    keep(bits, Some(value));
                }
            }
        }
        index
    }
}

/// Whether a field may have `value`; `None` stands for values that no condition lists.
fn admits(condition: &Condition, value: Option<&str>) -> bool {
    match (condition, value) {
        (Condition::In(_, values), Some(value)) => values.iter().any(|one| one == value),
        (Condition::In(..), None) => false,
        (Condition::StartsWith(_, starts), Some(value)) => starts.iter().any(|start| value.starts_with(&**start)),
        (Condition::NotEmpty(_), Some(value)) => !value.is_empty(),
        (Condition::StartsWith(..) | Condition::NotEmpty(_), None) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{FieldTable, fields};
    use proptest::prelude::*;

    use super::*;

    const FIELDS: [FieldId; 3] = [fields::LOG_TYPE, fields::SERVICE, fields::PROGRAM];

    fn condition() -> impl Strategy<Value = Condition> {
        let field = prop::sample::select(FIELDS.to_vec());
        let values = prop::collection::vec("[ab]{0,2}", 1..3);
        (field, values, 0..3).prop_map(|(field, values, kind)| match kind {
            0 => Condition::In(field, values),
            1 => Condition::StartsWith(field, values),
            _ => Condition::NotEmpty(field),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn nobody_who_could_want_the_event_is_left_out(
            scenarios in prop::collection::vec(prop::collection::vec(condition(), 0..3), 1..130),
            values in prop::collection::vec(prop::option::of("[ab]{0,2}"), 3),
        ) {
            let needs: Vec<Needs> =
                scenarios.into_iter().map(|requires| Needs { requires, ..Needs::default() }).collect();
            let event = Event::new(Arc::<FieldTable>::default());
            for (field, value) in FIELDS.iter().zip(&values) {
                if let Some(value) = value {
                    event.set_text(*field, value.as_str());
                }
            }
            let dispatch = Dispatch::new(&needs.iter().collect::<Vec<_>>(), &Files::default());
            let mut candidates = Candidates::default();
            dispatch.candidates(&event, &mut candidates);
            let found: Vec<usize> = candidates.iter().collect();
            for (index, needs) in needs.iter().enumerate() {
                let holds = |condition: &Condition| admits(condition, Some(event.get(condition.field()).unwrap_or("")));
                let possible = needs.requires.iter().all(holds);
                prop_assert!(!possible || found.contains(&index));
                let listed = needs.requires.iter().all(|condition| matches!(condition, Condition::In(..)));
                prop_assert!(!listed || possible == found.contains(&index), "equality leaves nobody else");
            }
            prop_assert!(found.is_sorted());
        }
    }

    #[test]
    fn a_field_that_filters_write_is_not_asked() {
        let requires = vec![Condition::In(fields::LOG_TYPE, vec!["a".into()])];
        let one = Needs { requires, ..Needs::default() };
        let other = Needs { writes: vec![fields::LOG_TYPE], ..Needs::default() };
        let dispatch = Dispatch::new(&[&one, &other], &Files::default());
        let mut candidates = Candidates::default();
        dispatch.candidates(&Event::new(Arc::<FieldTable>::default()), &mut candidates);
        assert_eq!(candidates.iter().collect::<Vec<_>>(), [0, 1]);
    }
}
