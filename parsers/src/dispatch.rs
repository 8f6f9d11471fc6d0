//! Who could want this event: the nodes that the values of a few fields leave possible.
//!
//! The order of nodes is semantics, so the index gives a set, and the stage walks it in order. A node is left out only when its
//! filter, or a necessary condition of it, fails on the value of one field, which is what the filter itself would have said. What a value
//! leaves possible is found once and remembered: programs, types and services are few.

use expr::{Condition, Env, Facts, FieldId, Program};
use model::event::Span;
use model::{Event, fields};

use crate::habit::FICKLE;
use crate::recent::Recent;

/// A set of node numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    fn full(len: usize) -> Self {
        let mut bits = Self(vec![0; len.div_ceil(64)]);
        (0..len).for_each(|number| bits.insert(number));
        bits
    }

    fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    fn intersect(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, others)| *word &= others);
    }

    /// The first member that is at least `from`.
    pub(crate) fn next(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut bits = self.0.get(word)? & (u64::MAX << (from % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *self.0.get(word)?;
        }
    }
}

/// Fields that take few values, so that whole filters over them are worth remembering.
const STEADY: [FieldId; 5] =
    [fields::PROGRAM, fields::LABEL_TYPE, fields::LOG_TYPE, fields::SERVICE, fields::LINE_MODULE];

/// What a node asks of one field before it does anything.
#[derive(Debug)]
enum Test {
    /// A necessary condition.
    Condition(Condition),
    /// A filter that depends on this field alone.
    Filter(Program),
}

impl Test {
    /// Whether the node may want the event. A filter that fails is left to the node.
    fn admits(&self, value: Option<&str>, env: &Env<'_>) -> bool {
        let value = value.unwrap_or("");
        match self {
            Self::Condition(Condition::In(_, texts)) => texts.iter().any(|text| *text == *value),
            Self::Condition(Condition::StartsWith(_, starts)) => starts.iter().any(|start| value.starts_with(&**start)),
            Self::Condition(Condition::NotEmpty(_)) => !value.is_empty(),
            Self::Filter(program) => !matches!(program.eval_bool(env), Ok(Some(false))),
        }
    }
}

/// The index of one stage.
#[derive(Debug, Default)]
pub(crate) struct Index {
    all: Bits,
    fields: Vec<(FieldId, Vec<(usize, Test)>)>,
}

/// Which nodes an event should be shown to, what that was decided on, and what was decided lately.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) nodes: Bits,
    values: Vec<Option<Span>>,
    /// For each field the nodes that a value leaves possible, and those that no value at all does.
    known: Vec<(Recent<Bits, 64>, Option<Bits>)>,
}

impl Index {
    /// An index over nodes with these filters.
    pub(crate) fn new<'n>(filters: impl Iterator<Item = Option<&'n Program>>) -> Self {
        let mut index = Self::default();
        let mut number = 0;
        for filter in filters {
            let facts = filter.map(Program::facts);
            let only = facts.and_then(Facts::only_field).filter(|field| STEADY.contains(field));
            if let (Some(field), Some(filter)) = (only, filter) {
                index.tests(field).push((number, Test::Filter(filter.clone())));
            } else {
                for condition in facts.into_iter().flat_map(|facts| &facts.requires) {
                    let field = condition.field();
                    let tells = !matches!(condition, Condition::NotEmpty(_)) || STEADY.contains(&field);
                    if tells && !FICKLE.contains(&field) {
                        index.tests(field).push((number, Test::Condition(condition.clone())));
                    }
                }
            }
            number += 1;
        }
        index.all = Bits::full(number);
        index
    }

    fn tests(&mut self, field: FieldId) -> &mut Vec<(usize, Test)> {
        let place = self.fields.iter().position(|(known, _)| *known == field);
        let place = place.unwrap_or_else(|| {
            self.fields.push((field, Vec::new()));
            self.fields.len() - 1
        });
        &mut self.fields[place].1
    }

    /// Finds the nodes for the event as it is now. `env` sees the event.
    pub(crate) fn find(&self, event: &Event, env: &Env<'_>, found: &mut Candidates) {
        let Candidates { nodes, values, known } = found;
        nodes.0.clone_from(&self.all.0);
        values.clear();
        known.resize_with(self.fields.len(), Default::default);
        for ((field, tests), (recent, absent)) in self.fields.iter().zip(known) {
            values.push(event.span(*field));
            let value = event.get(*field);
            let decide = || {
                let mut bits = self.all.clone();
                let refused = tests.iter().filter(|(_, test)| !test.admits(value, env));
                refused.for_each(|(number, _)| bits.remove(*number));
                bits
            };
            match value {
                None => nodes.intersect(absent.get_or_insert_with(decide)),
                Some(value) => recent.get_or(value, |_| true, decide, |bits| nodes.intersect(bits)),
            }
        }
    }

    /// Finds them anew if a field that decides has changed.
    pub(crate) fn refresh(&self, event: &Event, env: &Env<'_>, found: &mut Candidates) {
        let same = self.fields.iter().zip(&found.values).all(|((field, _), value)| event.span(*field) == *value);
        if !same {
            self.find(event, env, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_walked_in_order() {
        let mut bits = Bits(vec![0; 4]);
        for number in [3, 64, 65, 200] {
            bits.insert(number);
        }
        let mut walked = Vec::new();
        let mut from = 0;
        while let Some(number) = bits.next(from) {
            walked.push(number);
            from = number + 1;
        }
        assert_eq!(walked, [3, 64, 65, 200]);
        assert_eq!(bits.next(201), None);
        assert_eq!(bits.next(1000), None);
    }
}
