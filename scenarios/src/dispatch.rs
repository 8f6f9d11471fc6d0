//! Which scenarios could want an event.
//!
//! From each filter it is known what must hold for it to be true. For every field that such conditions compare with
//! constants there is a table from value to the scenarios that it leaves possible; an event intersects the entries of the values
//! that it has. Scenarios come out in file order, since filters may write to the event.

use std::collections::HashMap;

use expr::{Condition, FieldId};
use model::Event;

use crate::scenario::Needs;

/// The tables of one rule set.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    all: Bits,
    fields: Vec<Index>,
}

/// The scenarios that a value of one field leaves possible.
#[derive(Debug)]
struct Index {
    field: FieldId,
    /// Absent or empty.
    empty: Bits,
    /// Any other value that is not listed.
    other: Bits,
    values: HashMap<Box<str>, Bits>,
}

/// A set of scenarios.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    fn full(len: usize) -> Self {
        let mut bits = Self(vec![u64::MAX; len.div_ceil(64)]);
        if let Some(last) = bits.0.last_mut()
            && !len.is_multiple_of(64)
        {
            *last = (1 << (len % 64)) - 1;
        }
        bits
    }

    fn remove(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn intersect(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= theirs);
    }

    /// Members in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
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
    /// Tables over what the scenarios require.
    pub(crate) fn new(needs: &[&Needs]) -> Self {
        let written = |field: &FieldId| needs.iter().any(|needs| needs.writes.contains(field));
        let mut fields: Vec<FieldId> = Vec::new();
        for condition in needs.iter().flat_map(|needs| &needs.requires) {
            if let Condition::In(field, _) = condition
                && !fields.contains(field)
                && !written(field)
            {
                fields.push(*field);
            }
        }
        // A filter that writes under computed names could write any of them.
        if needs.iter().any(|needs| !needs.writes_all.is_empty()) {
            fields.clear();
        }
        let all = Bits::full(needs.len());
        Self { fields: fields.into_iter().map(|field| Index::new(field, needs, &all)).collect(), all }
    }

    /// The scenarios whose filter can be true of `event`.
    pub(crate) fn candidates(&self, event: &Event, candidates: &mut Bits) {
        candidates.clone_from(&self.all);
        for index in &self.fields {
            candidates.intersect(match event.get(index.field) {
                None | Some("") => &index.empty,
                Some(value) => index.values.get(value).unwrap_or(&index.other),
            });
        }
    }

    /// All scenarios.
    pub(crate) fn all(&self, candidates: &mut Bits) {
        candidates.clone_from(&self.all);
    }
}

impl Index {
    fn new(field: FieldId, needs: &[&Needs], all: &Bits) -> Self {
        let mut index = Self { field, empty: all.clone(), other: all.clone(), values: HashMap::new() };
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
            for condition in needs.requires.iter().filter(|condition| field_of(condition) == field) {
                let Self { empty, other, values, .. } = &mut index;
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

fn field_of(condition: &Condition) -> FieldId {
    match condition {
        Condition::In(field, _) | Condition::StartsWith(field, _) | Condition::NotEmpty(field) => *field,
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
            let dispatch = Dispatch::new(&needs.iter().collect::<Vec<_>>());
            let mut candidates = Bits::default();
            dispatch.candidates(&event, &mut candidates);
            let found: Vec<usize> = candidates.iter().collect();
            for (index, needs) in needs.iter().enumerate() {
                let holds = |condition: &Condition| admits(condition, Some(event.get(field_of(condition)).unwrap_or("")));
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
        let dispatch = Dispatch::new(&[&one, &other]);
        let mut candidates = Bits::default();
        dispatch.candidates(&Event::new(Arc::<FieldTable>::default()), &mut candidates);
        assert_eq!(candidates.iter().collect::<Vec<_>>(), [0, 1]);
    }
}
