//! The lines of a batch, their text in one piece.
//!
//! One buffer for all of them: a line costs no allocation where it is read and none is given back where it is parsed.

use std::sync::Arc;

use jiff::Timestamp;
use model::line::LineRef;
use model::{Line, Origin};

use crate::tail::split;

/// Lines in the order in which they were read.
#[derive(Debug, Default)]
pub struct Lines {
    text: String,
    marks: Vec<Mark>,
    /// Those of neighbours are the same as a rule, and stand here once.
    origins: Vec<Arc<Origin>>,
}

/// What is known of a line beside its text.
#[derive(Debug)]
struct Mark {
    /// Where its text ends; it begins where the one before ends.
    end: usize,
    origin: usize,
    time: Timestamp,
    offset: u64,
}

impl Lines {
    /// None yet, with room for so many bytes of text.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ..Self::default() }
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The texts of all, one after the other.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a line.
    pub fn push(&mut self, line: LineRef<'_>) {
        self.text.push_str(line.raw);
        self.mark(line.origin, line.time, line.offset);
    }

    /// Adds a line as it was read: what is no text is replaced, what is too long is cut. Whether it was cut.
    pub fn push_bytes(&mut self, bytes: &[u8], origin: &Arc<Origin>, time: Timestamp, offset: u64) -> bool {
        let cut = split::append(bytes, &mut self.text);
        self.mark(origin, time, offset);
        cut
    }

    fn mark(&mut self, origin: &Arc<Origin>, time: Timestamp, offset: u64) {
        if self.origins.last().is_none_or(|last| !Arc::ptr_eq(last, origin)) {
            self.origins.push(Arc::clone(origin));
        }
        self.marks.push(Mark { end: self.text.len(), origin: self.origins.len() - 1, time, offset });
    }

    /// The lines, in order.
    pub fn iter(&self) -> impl Iterator<Item = LineRef<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// One of the lines, the first being number 0.
    pub fn get(&self, index: usize) -> Option<LineRef<'_>> {
        let Mark { end, origin, time, offset } = *self.marks.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.marks[before].end);
        // Both are ends of texts that were appended whole.
        Some(LineRef { raw: &self.text[start..end], origin: &self.origins[origin], time, offset })
    }
}

impl FromIterator<Line> for Lines {
    fn from_iter<I: IntoIterator<Item = Line>>(lines: I) -> Self {
        let mut all = Self::default();
        lines.into_iter().for_each(|line| all.push((&line).into()));
        all
    }
}

impl IntoIterator for Lines {
    type Item = Line;
    type IntoIter = std::vec::IntoIter<Line>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter().map(Line::from).collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in() {
        let origin = |src: &str| Arc::new(Origin { src: src.into(), ..Origin::default() });
        let (a, b) = (origin("a"), origin("b"));
        let line = |raw: &str, origin: &Arc<Origin>, offset| Line {
            raw: raw.into(),
            origin: Arc::clone(origin),
            time: Timestamp::UNIX_EPOCH,
            offset,
        };
        let lines = [line("one", &a, 0), line("", &a, 4), line("zwölf", &b, 0), line("three", &a, 5)];
        let mut all: Lines = lines.iter().cloned().collect();
        assert_eq!((all.len(), all.bytes(), all.origins.len()), (4, 14, 3));
        assert!(!all.push_bytes(b"f\xffur", &a, Timestamp::UNIX_EPOCH, 11));
        let mut expected = lines.to_vec();
        expected.push(line("f\u{fffd}ur", &a, 11));
        assert_eq!(all.into_iter().collect::<Vec<_>>(), expected);
    }
}
