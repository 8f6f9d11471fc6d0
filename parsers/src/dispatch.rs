//! Who could want this event: an index from the values of a few fields to the nodes whose filters ask for them.
//!
//! The order of nodes is semantics, so the index gives a set, and the stage walks it in order. A node is left out only when
//! a necessary condition of its filter fails, which is what the filter itself would have said.

use std::collections::HashMap;

use expr::{Condition, FieldId};
use model::Event;
use model::event::Span;

/// A set of node numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, number: usize) {
        let word = number / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }

    fn unite(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
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

/// The index of one stage.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Nodes that are asked whatever the event holds.
    always: Bits,
    fields: Vec<(FieldId, HashMap<Box<str>, Bits>)>,
}

/// Which nodes an event should be shown to, and what that was decided on.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) nodes: Bits,
    values: Vec<Option<Span>>,
}

impl Index {
    /// An index over nodes with these necessary conditions.
    pub(crate) fn new<'n>(nodes: impl Iterator<Item = &'n [Condition]>) -> Self {
        let mut index = Self::default();
        for (number, requires) in nodes.enumerate() {
            let values = requires.iter().filter_map(|condition| match condition {
                Condition::In(field, values) => Some((*field, values)),
                _ => None,
            });
            match values.min_by_key(|(_, values)| values.len()) {
                None => index.always.insert(number),
                Some((field, values)) => {
                    let place = index.fields.iter().position(|(known, _)| *known == field);
                    let place = place.unwrap_or_else(|| {
                        index.fields.push((field, HashMap::new()));
                        index.fields.len() - 1
                    });
                    for value in values {
                        index.fields[place].1.entry(value.as_str().into()).or_default().insert(number);
                    }
                }
            }
        }
        index
    }

    /// Finds the nodes for the event as it is now.
    pub(crate) fn find(&self, event: &Event, found: &mut Candidates) {
        found.nodes.0.clear();
        found.nodes.unite(&self.always);
        found.values.clear();
        for (field, nodes) in &self.fields {
            found.values.push(event.span(*field));
            // an absent field reads as the empty text
            if let Some(nodes) = nodes.get(event.get(*field).unwrap_or("")) {
                found.nodes.unite(nodes);
            }
        }
    }

    /// Finds them anew if a field that decides has changed.
    pub(crate) fn refresh(&self, event: &Event, found: &mut Candidates) {
        let same = self.fields.iter().zip(&found.values).all(|((field, _), value)| event.span(*field) == *value);
        if !same {
            self.find(event, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_walked_in_order() {
        let mut bits = Bits::default();
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
