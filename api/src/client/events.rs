//! `text/event-stream`: bytes to events.

/// Longest line or data of one event in bytes: more than a thousand decisions with the longest fields.
const MAX_EVENT: usize = 8 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// What kind it is.
    pub(crate) name: String,
    /// The place in the sequence that it leads to.
    pub(crate) id: Option<String>,
    /// What it carries.
    pub(crate) data: String,
}

/// An event that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Collects bytes until events are complete.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    bytes: Vec<u8>,
    /// Where the next line starts; what lies before is done with.
    at: usize,
    /// Up to where no end of a line was found.
    searched: usize,
    event: Event,
    touched: bool,
}

impl Parser {
    /// Adds what has arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.searched -= self.at;
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete event.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, TooLarge> {
        loop {
            let rest = self.bytes.get(self.searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n').map(|at| self.searched + at) else {
                self.searched = self.bytes.len();
                let open = self.bytes.len() - self.at;
                return if open > MAX_EVENT { Err(TooLarge) } else { Ok(None) };
            };
            let line = self.bytes.get(self.at..end).unwrap_or_default();
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            self.at = end + 1;
            self.searched = self.at;
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if std::mem::take(&mut self.touched) {
                    return Ok(Some(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "id" => self.event.id = Some(value.to_owned()),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                // A comment, or a field we do not know.
                _ => continue,
            }
            self.touched = true;
            if self.event.data.len() > MAX_EVENT {
                return Err(TooLarge);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_they_arrive() {
        let text =
            ": hello\n\nevent: reset\ndata: {\"a\":\ndata: 1}\n\nevent: ready\r\nid: 1-2\r\ndata: null\r\n\r\n\n";
        let expected = [
            Event { name: "reset".into(), id: None, data: "{\"a\":\n1}".into() },
            Event { name: "ready".into(), id: Some("1-2".into()), data: "null".into() },
        ];
        for size in [1, 2, 3, 7, 1000] {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for part in text.as_bytes().chunks(size) {
                parser.push(part);
                while let Some(event) = parser.next().expect("they are small") {
                    events.push(event);
                }
            }
            assert_eq!(events, expected, "in parts of {size} bytes");
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut parser = Parser::default();
        let part = vec![b'x'; 1 << 20];
        let given_up = (0..20).find(|_| {
            parser.push(&part);
            parser.next().is_err()
        });
        assert_eq!(given_up, Some(8));
    }
}
