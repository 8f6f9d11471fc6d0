//! Raw text as acquisition yields it.

use std::sync::Arc;

use compact_str::CompactString;
use jiff::Timestamp;

/// One line. Its text is valid UTF-8: acquisition has replaced each invalid byte by U+FFFD, and cut what is
/// longer than [`MAX_LINE`].
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The text, without the line terminator.
    pub raw: Box<str>,
    /// Where it came from; shared by the lines of a datasource.
    pub origin: Arc<Origin>,
    /// When it was read, or the record's own time where the datasource has one.
    pub time: Timestamp,
    /// Byte offset of its first byte in the file, or sequence number in the stream.
    pub offset: u64,
}

/// A line whose text is kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LineRef<'a> {
    /// As [`Line::raw`].
    pub raw: &'a str,
    /// As [`Line::origin`].
    pub origin: &'a Arc<Origin>,
    /// As [`Line::time`].
    pub time: Timestamp,
    /// As [`Line::offset`].
    pub offset: u64,
}

impl<'a> From<&'a Line> for LineRef<'a> {
    fn from(Line { raw, origin, time, offset }: &'a Line) -> Self {
        Self { raw, origin, time: *time, offset: *offset }
    }
}

impl From<LineRef<'_>> for Line {
    fn from(LineRef { raw, origin, time, offset }: LineRef<'_>) -> Self {
        Self { raw: raw.into(), origin: Arc::clone(origin), time, offset }
    }
}

/// What the lines of one file, unit or peer have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// File path, unit, peer address: `evt.Line.Src`.
    pub src: CompactString,
    /// Kind of datasource (`file`, `journalctl`): `evt.Line.Module`.
    pub module: CompactString,
    /// Labels from the acquisition configuration; `type` is what parsers filter on.
    pub labels: Vec<(CompactString, CompactString)>,
    /// Which content of `src` the offsets speak of: another number after each rotation, the same after a restart. With
    /// the offset it names a line once and for all, so that ids of alerts can derive from it.
    pub generation: u64,
    /// Whether buckets follow the time in the log instead of the clock (`evt.ExpectMode`).
    pub time_machine: bool,
    /// Whether whoever sends a packet can write these lines in anybody's name (syslog over UDP): alerts about them ask for
    /// no remediation.
    pub spoofable: bool,
}

/// Longest line in bytes; what is longer is cut and counted.
pub const MAX_LINE: usize = 64 * 1024;
