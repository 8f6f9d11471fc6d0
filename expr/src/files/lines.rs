//! Files of plain lines.

use std::collections::HashSet;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;

use super::next_id;
use crate::builtins::string::{lower_text, upper_text};
use crate::program::{Fold, LineOp, LineTest};

/// Lines, and for each way in which they have been asked an index.
pub(super) struct LineFile {
    lines: Box<[Box<str>]>,
    indexes: [OnceLock<Index>; WAYS],
    id: u64,
}

/// Four comparisons with three changes of letters.
const WAYS: usize = 12;

enum Index {
    Contains(AhoCorasick),
    Equals(HashSet<String>),
    /// Beginnings or ends, and how long they are.
    Affixes {
        lines: HashSet<String>,
        lengths: Vec<usize>,
    },
    /// The automaton would be too large.
    OneByOne(Vec<String>),
}

/// Which of the ways a test is.
fn way(test: LineTest) -> usize {
    let fold = match test.fold {
        Fold::Keep => 0,
        Fold::Upper => 1,
        Fold::Lower => 2,
    };
    match test.op {
        LineOp::Contains => fold,
        LineOp::Equals => 3 + fold,
        LineOp::StartsWith => 6 + fold,
        LineOp::EndsWith => 9 + fold,
    }
}

impl LineFile {
    pub(super) fn new(lines: Box<[Box<str>]>) -> Self {
        Self { lines, indexes: Default::default(), id: next_id(WAYS as u64) }
    }

    pub(super) fn lines(&self) -> &[Box<str>] {
        &self.lines
    }

    /// The number of this file for this test.
    pub(super) fn id(&self, test: LineTest) -> u64 {
        self.id + way(test) as u64
    }

    /// Whether `subject` passes `test` for any line.
    pub(super) fn any(&self, test: LineTest, subject: &str) -> bool {
        // `way` is below `WAYS`
        let index = self.indexes[way(test)].get_or_init(|| self.index(test));
        match index {
            Index::Contains(automaton) => automaton.is_match(subject),
            Index::Equals(lines) => lines.contains(subject),
            Index::Affixes { lines, lengths } => lengths.iter().any(|length| {
                let affix = match test.op {
                    LineOp::StartsWith => subject.get(..*length),
                    _ => subject.len().checked_sub(*length).and_then(|start| subject.get(start..)),
                };
                affix.is_some_and(|affix| lines.contains(affix))
            }),
            Index::OneByOne(lines) => lines.iter().any(|line| subject.contains(line.as_str())),
        }
    }

    fn index(&self, test: LineTest) -> Index {
        let lines = self.lines.iter().map(|line| match test.fold {
            Fold::Keep => line.to_string(),
            Fold::Upper => upper_text(line),
            Fold::Lower => lower_text(line),
        });
        match test.op {
            LineOp::Equals => Index::Equals(lines.collect()),
            LineOp::StartsWith | LineOp::EndsWith => {
                let lines: HashSet<String> = lines.collect();
                let mut lengths: Vec<usize> = lines.iter().map(String::len).collect();
                lengths.sort_unstable();
                lengths.dedup();
                Index::Affixes { lines, lengths }
            }
            LineOp::Contains => {
                let lines: Vec<String> = lines.collect();
                AhoCorasick::new(&lines).map_or(Index::OneByOne(lines), Index::Contains)
            }
        }
    }
}
