//! Files of plain lines.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use ipnet::IpNet;

use super::next_id;
use crate::builtins::net::{address, range};
use crate::builtins::string::{lower_text, upper_text};
use crate::program::{Fold, LineOp, LineTest};

/// Lines, and for each way in which they have been asked an index.
pub(super) struct LineFile {
    lines: Box<[Box<str>]>,
    indexes: [OnceLock<Index>; WAYS],
    id: u64,
}

/// Four comparisons with three changes of letters, and one with none.
const WAYS: usize = 13;

enum Index {
    Contains(AhoCorasick),
    Equals(HashSet<String>),
    /// Beginnings or ends, and how long they are.
    Affixes {
        lines: HashSet<String>,
        lengths: Vec<usize>,
    },
    Ranges(Ranges),
    /// The automaton would be too large.
    OneByOne(Vec<String>),
}

/// Ranges of addresses: first and last of each, in order, none of them touching another.
#[derive(Default)]
struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => covers(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => covers(&self.v6, ip.to_bits()),
        }
    }
}

impl FromIterator<IpNet> for Ranges {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut ranges = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => ranges.v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => ranges.v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        join(&mut ranges.v4);
        join(&mut ranges.v6);
        ranges
    }
}

/// Of two networks that share an address one holds the other.
fn join<T: Ord + Copy>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable_by_key(|(first, last)| (*first, Reverse(*last)));
    ranges.dedup_by(|(_, last), (_, before)| *last <= *before);
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], ip: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= ip);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| ip <= *last)
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
        LineOp::Range => 12,
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
            Index::Ranges(ranges) => address(subject).is_some_and(|ip| ranges.contain(ip)),
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
            LineOp::Range => Index::Ranges(lines.filter_map(|line| range(&line)).collect()),
            LineOp::Contains => {
                let lines: Vec<String> = lines.collect();
                AhoCorasick::new(&lines).map_or(Index::OneByOne(lines), Index::Contains)
            }
        }
    }
}
