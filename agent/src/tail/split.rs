//! Bytes into lines.
//!
//! A line ends at a line feed; one carriage return before it is dropped; lines without text are skipped. What
//! is longer than [`MAX_LINE`] is cut, and its rest skipped up to the line feed, so that a line costs
//! at most its own bytes and never unbounded memory.

use model::line::MAX_LINE;

/// What is kept of a line that has not ended: its cut, and room for the character that the cut would split.
const KEEP: usize = MAX_LINE + 4;

/// One line as it was split.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its bytes, without the line terminator.
    pub bytes: &'a [u8],
    /// Offset of its first byte in the stream.
    pub start: u64,
}

/// Splits a stream that comes in chunks.
#[derive(Debug)]
pub struct Splitter {
    /// How much of a line is kept.
    keep: usize,
    /// The beginning of the line that has not ended.
    held: Vec<u8>,
    /// Offset of its first byte.
    start: u64,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::with_limit(KEEP)
    }
}

impl Splitter {
    /// A splitter that keeps at most `keep` bytes of a line.
    pub fn with_limit(keep: usize) -> Self {
        Self { keep, held: Vec::new(), start: 0 }
    }

    /// Hands each line that ends in `chunk` to `emit`. `offset` is the place of the chunk's first byte.
    pub fn push(&mut self, chunk: &[u8], offset: u64, mut emit: impl FnMut(Piece<'_>)) {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', chunk) {
            let line = &chunk[from..end];
            if self.is_empty() {
                give(line, self.keep, offset + from as u64, &mut emit);
            } else {
                self.hold(line);
                self.finish(&mut emit);
            }
            from = end + 1;
        }
        let rest = &chunk[from..];
        if self.is_empty() && !rest.is_empty() {
            self.start = offset + from as u64;
        }
        self.hold(rest);
    }

    /// Hands out the line that has not ended, as it is.
    pub fn finish(&mut self, mut emit: impl FnMut(Piece<'_>)) {
        give(&self.held, self.keep, self.start, &mut emit);
        self.clear();
    }

    /// Forgets the line that has not ended.
    pub fn clear(&mut self) {
        self.held.clear();
        if self.held.capacity() > KEEP / 4 {
            self.held = Vec::new();
        }
    }

    /// Whether no line is open.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Offset of the open line's first byte, or `end` when none is open.
    pub fn line_start(&self, end: u64) -> u64 {
        if self.is_empty() { end } else { self.start }
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = self.keep - self.held.len();
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

fn give(line: &[u8], keep: usize, start: u64, emit: &mut impl FnMut(Piece<'_>)) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let bytes = &line[..line.len().min(keep)];
    if !bytes.is_empty() {
        emit(Piece { bytes, start });
    }
}

/// The text of a line, and whether its end was cut: each byte that is not part of a UTF-8 character becomes
/// U+FFFD, and the text ends before the character that does not fit into [`MAX_LINE`].
pub fn text(bytes: &[u8]) -> (Box<str>, bool) {
    let mut text = String::with_capacity(bytes.len());
    let cut = append(bytes, &mut text);
    (text.into(), cut)
}

/// The same, behind what `text` holds already.
pub fn append(bytes: &[u8], text: &mut String) -> bool {
    if let Ok(line) = std::str::from_utf8(bytes) {
        text.push_str(&line[..line.floor_char_boundary(MAX_LINE)]);
        return line.len() > MAX_LINE;
    }
    let start = text.len();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for _ in chunk.invalid() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    let cut = text.len() - start > MAX_LINE;
    text.truncate(text.floor_char_boundary(start + MAX_LINE));
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<(Box<str>, bool, u64)> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        let mut add = |piece: Piece<'_>| {
            let (text, cut) = text(piece.bytes);
            lines.push((text, cut, piece.start));
        };
        let mut offset = 0;
        for chunk in chunks {
            splitter.push(chunk, offset, &mut add);
            offset += chunk.len() as u64;
        }
        splitter.finish(&mut add);
        lines
    }

    #[test]
    fn lines_are_found_whatever_the_chunks() {
        // (name, chunks, (line, offset))
        type Case<'a> = (&'a str, &'a [&'a [u8]], &'a [(&'a str, u64)]);
        let cases: &[Case<'_>] = &[
            ("whole lines", &[b"one\ntwo\n"], &[("one", 0), ("two", 4)]),
            ("a line over three chunks", &[b"on", b"e", b"!\ntwo\n"], &[("one!", 0), ("two", 5)]),
            ("empty lines are skipped", &[b"\n\r\none\n\n"], &[("one", 3)]),
            ("one carriage return is dropped", &[b"one\r\r\ntwo\r", b"\n"], &[("one\r", 0), ("two", 6)]),
            ("a carriage return inside stays", &[b"o\rne\n"], &[("o\rne", 0)]),
            ("the unfinished rest is handed out at the end", &[b"one\ntw"], &[("one", 0), ("tw", 4)]),
            ("NUL is kept", &[b"o\0ne\n"], &[("o\0ne", 0)]),
            (
                "each invalid byte becomes one character",
                &[b"a\xff\xfeb\xe2\x82c\n"],
                &[("a\u{fffd}\u{fffd}b\u{fffd}\u{fffd}c", 0)],
            ),
            ("a character over two chunks is whole", &["é\n".as_bytes().split_at(1).0, b"\xa9\n"], &[("é", 0)]),
        ];
        for (name, chunks, expected) in cases {
            let lines = split(chunks);
            let lines: Vec<(&str, u64)> = lines.iter().map(|(text, _, start)| (&**text, *start)).collect();
            assert_eq!(lines, *expected, "{name}");
        }
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        let fits = "x".repeat(MAX_LINE);
        let accents = "é".repeat(MAX_LINE);
        let odd = format!("x{accents}");
        let invalid = vec![0xff; MAX_LINE];
        // (name, line, kept bytes, cut)
        let cases: &[(&str, &[u8], usize, bool)] = &[
            ("just fits", fits.as_bytes(), MAX_LINE, false),
            ("two bytes each", accents.as_bytes(), MAX_LINE, true),
            ("a character across the limit", odd.as_bytes(), MAX_LINE - 1, true),
            ("replacement makes it longer", &invalid, MAX_LINE / 3 * 3, true),
        ];
        for (name, line, kept, cut) in cases {
            for size in [usize::MAX, 1000] {
                let bytes = [line, b"\nnext\n".as_slice()].concat();
                let chunks: Vec<&[u8]> = bytes.chunks(size.min(bytes.len())).collect();
                let lines = split(&chunks);
                assert_eq!(lines.len(), 2, "{name}");
                assert_eq!((lines[0].0.len(), lines[0].1), (*kept, *cut), "{name}");
                assert_eq!((&*lines[1].0, lines[1].2), ("next", line.len() as u64 + 1), "{name}");
            }
        }
    }

    #[test]
    fn an_endless_line_is_held_in_bounded_memory() {
        let mut splitter = Splitter::default();
        for offset in 0..100 {
            splitter.push(&vec![b'x'; MAX_LINE], offset * MAX_LINE as u64, |_| panic!("no line has ended"));
        }
        assert!(splitter.held.capacity() <= 2 * KEEP);
    }
}
