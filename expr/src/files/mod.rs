//! Data files that rules name: lists of text, of regexes, of rows, of known bots (spec: parsers 8).
//!
//! Their content is handed in by whoever reads files; here it is checked at once and indexed when
//! it is first asked: one automaton or one alternation for the whole file.

mod bots;
mod lines;
mod regexes;
mod rows;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use bots::{BotFile, Visit};
use lines::LineFile;
use regexes::RegexFile;
use rows::RowFile;

use crate::memo::Memo;
use crate::program::LineTest;

/// Longest line of a data file, in bytes.
const MAX_LINE: usize = 64 << 10;

/// What the lines of a data file are (`type` of a `data` entry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `string`: text.
    Text,
    /// `regexp` or `regex`: regexes.
    Regex,
    /// `map`: JSON objects with `pattern`, `tag` and `type`.
    Map,
    /// `bots`: JSON objects that describe known bots.
    Bots,
}

impl FromStr for FileKind {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        Ok(match text {
            "string" => FileKind::Text,
            "regexp" | "regex" => FileKind::Regex,
            "map" => FileKind::Map,
            "bots" => FileKind::Bots,
            other => return Err(FileError::UnknownKind(other.to_owned())),
        })
    }
}

/// Why a data file is not loaded, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The declared type is none that is known.
    #[error("unknown data type `{0}`, expected `string`, `regexp`, `map` or `bots`")]
    UnknownKind(String),
    /// A line is longer than 64 KiB; the lines before it are loaded.
    #[error("line {0} is longer than 64 KiB")]
    LongLine(usize),
    /// A regex is not one; the rule set cannot be loaded.
    #[error("line {line}: {message}")]
    Regex {
        /// The line, from 1 on.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A row is not as it should be; the rows before it are loaded.
    #[error("line {line}: {message}")]
    Row {
        /// The line, from 1 on.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// There is no usable line: the file counts as not loaded.
    #[error("no usable line")]
    Empty,
}

impl FileError {
    /// Whether the rule set must be refused, not only the file reported.
    pub fn fatal(&self) -> bool {
        matches!(self, FileError::Regex { .. })
    }
}

/// All data files of a rule set, by the name that expressions use. Clones are cheap.
#[derive(Clone, Default)]
pub struct Files {
    texts: HashMap<String, Arc<LineFile>>,
    regexes: HashMap<String, Arc<RegexFile>>,
    rows: HashMap<String, Arc<RowFile>>,
    bots: HashMap<String, Arc<BotFile>>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("texts", &self.texts.keys())
            .field("regexes", &self.regexes.keys())
            .field("rows", &self.rows.keys())
            .field("bots", &self.bots.keys())
            .finish()
    }
}

impl Files {
    /// Whether a file of this name and kind is there already: it is loaded once.
    pub fn has(&self, name: &str, kind: FileKind) -> bool {
        match kind {
            FileKind::Text => self.texts.contains_key(name),
            FileKind::Regex => self.regexes.contains_key(name),
            FileKind::Map => self.rows.contains_key(name),
            FileKind::Bots => self.bots.contains_key(name),
        }
    }

    /// Adds the file `name`. After an error that is not fatal what came before it stays loaded.
    pub fn add(&mut self, name: &str, kind: FileKind, content: &[u8]) -> Result<(), FileError> {
        let (lines, mut result) = usable_lines(content);
        if lines.is_empty() {
            return result.and(Err(FileError::Empty));
        }
        let name = name.to_owned();
        match kind {
            FileKind::Text => {
                let lines = lines.into_iter().map(|(_, line)| line.into()).collect();
                self.texts.insert(name, Arc::new(LineFile::new(lines)));
            }
            FileKind::Regex => {
                self.regexes.insert(name, Arc::new(RegexFile::new(&lines)?));
            }
            FileKind::Map => {
                let (file, read) = RowFile::new(&lines, result.is_ok());
                self.rows.insert(name, Arc::new(file));
                result = read.and(result);
            }
            FileKind::Bots => {
                let (file, read) = BotFile::new(&lines);
                self.bots.insert(name, Arc::new(file));
                result = read.and(result);
            }
        }
        result
    }

    /// The lines of a `string` file.
    pub fn lines(&self, name: &str) -> Option<&[Box<str>]> {
        self.texts.get(name).map(|file| file.lines())
    }

    /// The regexes of a `regexp` file.
    pub(crate) fn patterns(&self, name: &str) -> Option<&[String]> {
        self.regexes.get(name).map(|file| file.patterns())
    }

    /// The rows of a `map` file, each as its keys and values.
    pub fn rows(&self, name: &str) -> Option<&[Vec<(String, String)>]> {
        self.rows.get(name).map(|file| file.rows())
    }

    /// Whether any regex of a `regexp` file matches `text`; `None` if the file is not loaded.
    /// `memo` remembers the answer beyond the event.
    pub fn any_regex(&self, name: &str, text: &str, memo: Option<&Memo>) -> Option<bool> {
        let file = self.regexes.get(name)?;
        Some(remember(memo, file.id(), text, || file.is_match(text)))
    }

    /// The tag of the row of a `map` file that fits `text`, `""` if none does; `None` if the file
    /// is not loaded to its end.
    pub fn lookup(&self, name: &str, text: &str) -> Option<&str> {
        self.rows.get(name)?.lookup(text)
    }

    /// Whether `subject` passes `test` for any line of a `string` file.
    pub(crate) fn any_line(&self, name: &str, test: LineTest, subject: &str, memo: Option<&Memo>) -> bool {
        let Some(file) = self.texts.get(name) else { return false };
        remember(memo, file.id(test), subject, || file.any(test, subject))
    }

    /// A `bots` file.
    pub(crate) fn bots(&self, name: &str) -> Option<&BotFile> {
        self.bots.get(name).map(|file| &**file)
    }
}

fn remember(memo: Option<&Memo>, id: u64, text: &str, ask: impl FnOnce() -> bool) -> bool {
    match memo {
        None => ask(),
        Some(memo) => memo.lookup(id, text, ask),
    }
}

/// A number that no other file of this process has, for memos that outlive a reload.
fn next_id(count: u64) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(count, Ordering::Relaxed)
}

/// The lines that count with their numbers, up to one that is too long.
fn usable_lines(content: &[u8]) -> (Vec<(usize, String)>, Result<(), FileError>) {
    let mut lines = Vec::new();
    for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
        if line.len() > MAX_LINE {
            return (lines, Err(FileError::LongLine(at + 1)));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() && !line.starts_with(b"#") {
            lines.push((at + 1, String::from_utf8_lossy(line).into_owned()));
        }
    }
    (lines, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Fold, LineOp};

    fn files(kind: FileKind, content: &str) -> (Files, Result<(), FileError>) {
        let mut files = Files::default();
        let result = files.add("f", kind, content.as_bytes());
        (files, result)
    }

    #[test]
    fn lines_skip_comments_and_blanks() {
        let (files, result) = files(FileKind::Text, "a\r\n\n# no\n b \nc");
        assert_eq!(result, Ok(()));
        let lines: Vec<&str> = files.lines("f").expect("loaded").iter().map(|line| &**line).collect();
        assert_eq!(lines, ["a", " b ", "c"]);
    }

    #[test]
    fn a_long_line_ends_the_file() {
        let (files, result) = files(FileKind::Text, &format!("a\n{}\nb", "x".repeat(MAX_LINE + 1)));
        assert_eq!(result, Err(FileError::LongLine(2)));
        assert_eq!(files.lines("f").map(<[_]>::len), Some(1));
    }

    #[test]
    fn a_file_without_lines_is_not_loaded() {
        let (files, result) = files(FileKind::Text, "# only\n\n");
        assert_eq!(result, Err(FileError::Empty));
        assert!(files.lines("f").is_none());
    }

    #[test]
    fn line_tests_see_the_whole_file() {
        // (op, fold, text, whether a line passes)
        let cases = [
            (LineOp::Contains, Fold::Keep, "say evil now", true),
            (LineOp::Contains, Fold::Keep, "say EVIL now", false),
            (LineOp::Contains, Fold::Upper, "say EVIL now", true),
            (LineOp::Contains, Fold::Lower, "good", false),
            (LineOp::Contains, Fold::Lower, "a worse day", true),
            (LineOp::StartsWith, Fold::Keep, "evil one", true),
            (LineOp::StartsWith, Fold::Keep, "not evil", false),
            (LineOp::StartsWith, Fold::Lower, "worse", true),
            (LineOp::EndsWith, Fold::Keep, "so evil", true),
            (LineOp::EndsWith, Fold::Keep, "evil ", false),
            (LineOp::EndsWith, Fold::Keep, "é", false),
            (LineOp::Equals, Fold::Keep, "evil", true),
            (LineOp::Equals, Fold::Keep, "evil ", false),
            (LineOp::Equals, Fold::Lower, "worse", true),
        ];
        let (files, _) = files(FileKind::Text, "evil\nWORSE\n");
        for (op, fold, text, want) in cases {
            assert_eq!(files.any_line("f", LineTest { op, fold }, text, None), want, "{op:?} {fold:?} {text}");
        }
    }

    #[test]
    fn ranges_are_asked_as_one_file() {
        let (files, _) = files(
            FileKind::Text,
            "198.51.100.0/24\n10.0.0.0/8\n10.1.0.0/16\nnonsense\n192.0.2.1\n10.1.2.0/24\n203.0.113.7/25\n2001:db8::/32\n::ffff:172.16.0.0/108\n",
        );
        for (ip, want) in [
            ("198.51.100.255", true),
            ("198.51.101.0", false),
            ("10.255.0.1", true),
            ("10.1.2.3", true),
            ("9.255.255.255", false),
            ("192.0.2.1", false),
            ("203.0.113.127", true),
            ("203.0.113.128", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("172.16.5.5", true),
            ("::ffff:10.2.3.4", true),
            ("::1", false),
            ("nonsense", false),
            ("", false),
        ] {
            let test = LineTest { op: LineOp::Range, fold: Fold::Keep };
            assert_eq!(files.any_line("f", test, ip, None), want, "{ip}");
        }
    }

    #[test]
    fn regexes_match_as_one_and_bad_ones_are_fatal() {
        let (loaded, result) = files(FileKind::Regex, "(?i)^nik(?P<x>to)\n(?P<x>sql)map\n\\bzgrab\\b\n");
        assert_eq!(result, Ok(()));
        let memo = Memo::default();
        for (text, want) in
            [("Nikto/2", true), ("a NIKTO", false), ("xsqlmap", true), ("SQLMAP", false), ("a zgrab/0", true)]
        {
            assert_eq!(loaded.any_regex("f", text, None), Some(want), "{text}");
            assert_eq!(loaded.any_regex("f", text, Some(&memo)), Some(want), "{text}");
            assert_eq!(loaded.any_regex("f", text, Some(&memo)), Some(want), "{text}");
        }
        assert_eq!(loaded.any_regex("g", "x", None), None);
        let (_, result) = files(FileKind::Regex, "ok\n(");
        assert!(result.is_err_and(|error| error.fatal() && error.to_string().starts_with("line 2: ")));
    }

    #[test]
    fn rows_are_looked_up_in_order_of_kind() {
        let (files, result) = files(
            FileKind::Map,
            r#"{"pattern": "Bot", "tag": "first", "type": "contains"}
{"pattern": "Googlebot", "tag": "google", "type": "contains"}
{"pattern": "exact", "tag": "one", "type": "equals"}
{"pattern": "exact", "tag": "two", "type": "equals", "note": "x"}
{"pattern": "^a.c$", "tag": "regex", "type": "regex"}
{"pattern": "(", "tag": "bad", "type": "regex"}
"#,
        );
        assert_eq!(result, Ok(()));
        for (text, want) in
            [("exact", "two"), ("a Googlebot Bot", "google"), ("xBot", "first"), ("abc", "regex"), ("abd", "")]
        {
            assert_eq!(files.lookup("f", text), Some(want), "{text}");
        }
        assert_eq!(files.rows("f").map(<[_]>::len), Some(6));
    }

    #[test]
    fn a_bad_row_ends_the_file_and_its_index() {
        let good = r#"{"pattern": "a", "tag": "t", "type": "equals"}"#;
        for bad in [
            "{",
            r#"{"pattern": "a", "tag": "t"}"#,
            r#"{"pattern": "a", "tag": "t", "type": "other"}"#,
            r#"{"pattern": 1}"#,
        ] {
            let (files, result) = files(FileKind::Map, &format!("{good}\n{bad}\n{good}\n"));
            assert!(matches!(result, Err(FileError::Row { line: 2, .. })), "{bad}");
            assert_eq!(files.rows("f").map(<[_]>::len), Some(1), "{bad}");
            assert_eq!(files.lookup("f", "a"), None, "{bad}");
        }
    }
}
