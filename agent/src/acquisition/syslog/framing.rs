//! A stream of bytes into messages (RFC 6587).
//!
//! Each message says by its first byte how it is framed: a digit begins an octet count, anything else a message that ends
//! with a line feed. Whatever comes, at most the longest message is held.

/// Cuts a stream that comes in chunks.
#[derive(Debug)]
pub struct Framer {
    longest: usize,
    state: State,
    held: Vec<u8>,
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a message.
    Between,
    /// In an octet count, which is so much so far.
    Count(usize),
    /// So many bytes of the message are to come.
    Octets(usize),
    /// In a message up to the line feed.
    Line,
    /// In what is no message, up to the line feed.
    Noise,
}

/// The largest octet count that is believed; behind a larger one nobody knows where the next message begins.
const MAX_COUNT: usize = 1 << 20;

/// What comes out of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message, and whether it was longer than what is kept of it.
    Message(&'a [u8], bool),
    /// Bytes that are no message.
    Noise,
}

impl Framer {
    /// A framer that keeps at most `longest` bytes of a message.
    pub fn new(longest: usize) -> Self {
        Self { longest, state: State::Between, held: Vec::new(), cut: false }
    }

    /// Hands each message that ends in `chunk` to `emit`.
    pub fn push(&mut self, mut chunk: &[u8], mut emit: impl FnMut(Frame<'_>)) {
        while let Some(&first) = chunk.first() {
            match self.state {
                State::Between => match first {
                    // Senders that end counted messages with a line feed, too, are not rare.
                    b'\n' | b'\r' | b'\0' => chunk = &chunk[1..],
                    b'1'..=b'9' => self.state = State::Count(0),
                    _ => self.state = State::Line,
                },
                State::Count(count) => {
                    chunk = &chunk[1..];
                    match first {
                        b'0'..=b'9' if count <= MAX_COUNT => {
                            self.state = State::Count(count * 10 + usize::from(first - b'0'));
                        }
                        b' ' if count <= MAX_COUNT => self.state = State::Octets(count),
                        _ => {
                            emit(Frame::Noise);
                            self.state = if first == b'\n' { State::Between } else { State::Noise };
                        }
                    }
                }
                State::Octets(left) => {
                    let (now, rest) = chunk.split_at(left.min(chunk.len()));
                    self.hold(now);
                    chunk = rest;
                    self.state = State::Octets(left - now.len());
                    if left == now.len() {
                        emit(Frame::Message(&self.held, self.cut));
                        self.reset();
                    }
                }
                State::Line | State::Noise => {
                    let end = memchr::memchr(b'\n', chunk);
                    let (now, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
                    chunk = rest.get(1..).unwrap_or_default();
                    if self.state == State::Line {
                        self.hold(now);
                        if end.is_some() {
                            emit(Frame::Message(&self.held, self.cut));
                        }
                    }
                    if end.is_some() {
                        self.reset();
                    }
                }
            }
        }
    }

    /// The stream has ended. A message that a line feed would have ended is one all the same.
    pub fn finish(&mut self, mut emit: impl FnMut(Frame<'_>)) {
        match self.state {
            State::Between | State::Noise => {}
            State::Count(_) | State::Octets(_) => emit(Frame::Noise),
            State::Line => emit(Frame::Message(&self.held, self.cut)),
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.state = State::Between;
        self.held.clear();
        self.cut = false;
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = self.longest - self.held.len().min(self.longest);
        self.cut |= bytes.len() > room;
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(chunks: &[&[u8]]) -> Vec<(String, bool)> {
        let mut framer = Framer::new(10);
        let mut all = Vec::new();
        let mut take = |frame: Frame<'_>| match frame {
            Frame::Message(bytes, cut) => all.push((String::from_utf8_lossy(bytes).into_owned(), cut)),
            Frame::Noise => all.push(("NOISE".into(), false)),
        };
        for chunk in chunks {
            framer.push(chunk, &mut take);
        }
        framer.finish(&mut take);
        all
    }

    #[test]
    fn both_framings_are_told_apart_message_by_message() {
        // (name, stream, (message, cut))
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, bool)]);
        let cases: &[Case<'_>] = &[
            ("lines", "<1>a\n<2>b\n", &[("<1>a", false), ("<2>b", false)]),
            ("counts", "4 <1>a4 <2>b", &[("<1>a", false), ("<2>b", false)]),
            ("a counted message may hold line feeds", "4 a\nbc<2>b\n", &[("a\nbc", false), ("<2>b", false)]),
            ("a count and a line feed", "4 <1>a\n4 <2>b\n", &[("<1>a", false), ("<2>b", false)]),
            ("the last line needs no end", "<1>a", &[("<1>a", false)]),
            ("a counted message without its end", "9 <1>a", &[("NOISE", false)]),
            ("a long line is cut", "<1>456789012\n<2>b\n", &[("<1>4567890", true), ("<2>b", false)]),
            ("a long counted message is cut", "12 <1>4567890124 <2>b", &[("<1>4567890", true), ("<2>b", false)]),
            ("what is no count goes up to the line feed", "12<1>a\n<2>b\n", &[("NOISE", false), ("<2>b", false)]),
            ("nobody sends so much", "99999999 <1>a\n<2>b\n", &[("NOISE", false), ("<2>b", false)]),
            ("a number alone", "7\n<2>b\n", &[("NOISE", false), ("<2>b", false)]),
            ("empty lines", "\r\n\n\0<2>b\n", &[("<2>b", false)]),
        ];
        for (name, stream, expected) in cases {
            for size in [1, 3, usize::MAX] {
                let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size.min(stream.len())).collect();
                let frames = frames(&chunks);
                let frames: Vec<(&str, bool)> = frames.iter().map(|(text, cut)| (text.as_str(), *cut)).collect();
                assert_eq!(frames, *expected, "{name}, {size} bytes at a time");
            }
        }
    }

    #[test]
    fn an_endless_message_is_held_in_bounded_memory() {
        for head in ["<1>", "1000000 "] {
            let mut framer = Framer::new(100);
            framer.push(head.as_bytes(), |_| {});
            for _ in 0..50 {
                framer.push(&[b'x'; 10_000], |_| {});
            }
            assert!(framer.held.capacity() < 1000);
        }
    }
}
