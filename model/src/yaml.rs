//! YAML as people write it: text to values that know their line.
//!
//! Scalars keep their text; what a scalar means is decided by who reads it, so that `yes` is a truth value where
//! one is wanted and a word where a word is wanted (YAML 1.1, as the field's files expect). Reading a map is strict:
//! [`Keys::finish`] refuses a key that nobody asked for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// Nodes in all documents of a file, aliases counted as what they stand for.
const MAX_NODES: usize = 200_000;
/// How deep maps and lists may nest.
const MAX_DEPTH: usize = 64;

/// A mistake in a file: where, what was found, what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file; empty until [`Fault::within`] names it.
    pub path: PathBuf,
    /// Line, from 1; 0 where no line is to blame.
    pub line: u32,
    /// What of the line it is, where that is known.
    pub mark: Option<Mark>,
    /// What is wrong, in lower case, without a final stop.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The line, or the part of it that an expression is.
    pub source: String,
    /// Characters of the source before the part.
    pub start: usize,
    /// Characters of the part.
    pub width: usize,
}

impl Mark {
    /// Two lines: the source, and carets below the part.
    fn drawn(&self, line: u32) -> String {
        let Self { source, start, width } = self;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the carets stand below what they point at.
        let indent: String = source.chars().take(*start).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        format!("{margin} |\n{number} | {source}\n{margin} | {indent}{}", "^".repeat(*width))
    }
}

impl Fault {
    /// A mistake at `line` of a file that is named later.
    pub fn new(line: u32, message: impl Into<String>) -> Self {
        Self { path: PathBuf::new(), line, mark: None, message: message.into(), hint: None }
    }

    /// An expression that was refused: `what` it is, the line of the file, and a mark below the place.
    pub fn in_expression(what: &str, text: &Text, error: &expr::CompileError) -> Self {
        let place = error.place(text);
        let mark = Mark { source: place.line.to_owned(), start: place.column, width: place.width };
        let fault = Self::new(text.line + place.row as u32, format!("{what}: {error}"));
        Self { mark: Some(mark), hint: error.hint.clone(), ..fault }
    }

    /// The same with advice.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same, in the file at `path`.
    pub fn within(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// What is wrong, and below it the line with carets, where they are known.
    pub fn shown(&self) -> String {
        match &self.mark {
            Some(mark) => format!("{}\n{}", self.message, mark.drawn(self.line)),
            None => self.message.clone(),
        }
    }

    /// A word that is not one of those that are known.
    pub fn unknown<'a>(line: u32, what: &str, found: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let fault = Self::new(line, format!("unknown {what} `{found}`"));
        match did_you_mean(found, known.iter().copied()) {
            Some(near) => fault.hint(format!("did you mean `{near}`?")),
            None => fault.hint(format!("expected one of {}", quoted(&known))),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path != Path::new("") {
            write!(f, "{}:", self.path.display())?;
        }
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if self.line > 0 || self.path != Path::new("") {
            f.write_str(" ")?;
        }
        f.write_str(&self.shown())?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// The word of `known` that `found` most likely stands for.
pub fn did_you_mean<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    let near = known.into_iter().map(|word| (strsim::damerau_levenshtein(&found, &word.to_lowercase()), word));
    let (distance, word) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + word.len() / 4).then_some(word)
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A value and the line on which it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Yaml {
    /// Line, from 1.
    pub line: u32,
    /// What is there.
    pub content: Content,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A text, a number, a truth value or nothing.
    Scalar {
        /// As written, escapes undone.
        text: String,
        /// Written without quotes, so that it may be something else than text.
        plain: bool,
    },
    /// A list.
    List(Vec<Yaml>),
    /// A map, in the order of the file; merged keys come last.
    Map(Vec<(Text, Yaml)>),
}

/// A text and the line on which it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Line of its first character, from 1.
    pub line: u32,
    /// The text.
    pub text: String,
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// All documents of a text; an empty document is [`Yaml::is_null`]. Errors lack the path.
pub fn documents(text: &str) -> Result<Vec<Yaml>, Fault> {
    let options = granit_parser::options! { emit_comments: false, block_scalar_eof_without_line_feed: true };
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        source: text,
    };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(..), _) => {
                reader.anchors.clear();
                let (event, span) = reader.next()?;
                documents.push(reader.node(event, span, 0)?);
            }
            _ => {}
        }
    }
}

struct Reader<'i> {
    events: Parser<'i, granit_parser::StrInput<'i>>,
    anchors: HashMap<usize, Yaml>,
    nodes: usize,
    source: &'i str,
}

impl<'i> Reader<'i> {
    fn next(&mut self) -> Result<(Event<'i>, Span), Fault> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.explain(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn explain(&self, error: &granit_parser::ScanError) -> Fault {
        let line = error.marker().line();
        let found = self.source.lines().nth(line.saturating_sub(1)).unwrap_or("");
        let mark = Mark { source: found.to_owned(), start: error.marker().col(), width: 1 };
        let fault = Fault::new(line as u32, format!("not valid YAML: {}", error.info()));
        let fault = Fault { mark: (mark.start <= found.chars().count()).then_some(mark), ..fault };
        if found[..found.len() - found.trim_start().len()].contains('\t') {
            return fault.hint("indent with blanks, not with tabs");
        }
        match error.info() {
            info if info.contains("unknown escape") => {
                fault.hint("between double quotes `\\` starts an escape: write `\\\\`, or use single quotes")
            }
            info if info.contains("mapping values are not allowed") => {
                fault.hint("a `:` with a blank behind it separates key and value: quote a text that holds one, and indent all keys of a map alike")
            }
            _ => fault.hint("look at quotes, brackets and indentation of this line and of the one before"),
        }
    }

    fn count(&mut self, line: u32, depth: usize) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Fault::new(line, format!("more than {MAX_NODES} values, aliases included")));
        }
        if depth > MAX_DEPTH {
            return Err(Fault::new(line, format!("maps and lists nest deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    fn count_alias(&mut self, yaml: &Yaml, line: u32, depth: usize) -> Result<(), Fault> {
        self.count(line, depth)?;
        match &yaml.content {
            Content::Scalar { .. } => Ok(()),
            Content::List(items) => items.iter().try_for_each(|item| self.count_alias(item, line, depth + 1)),
            Content::Map(entries) => entries.iter().try_for_each(|(_, item)| self.count_alias(item, line, depth + 1)),
        }
    }

    fn node(&mut self, event: Event<'i>, span: Span, depth: usize) -> Result<Yaml, Fault> {
        let line = span.start.line() as u32;
        self.count(line, depth)?;
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let yaml = Yaml { line, content: Content::Scalar { text: text.into_owned(), plain } };
                return Ok(self.remember(anchor, yaml));
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break (Content::List(items), anchor),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(_, anchor, _) => {
                let mut entries = Vec::new();
                loop {
                    match self.next()? {
                        (Event::MappingEnd, _) => break (Content::Map(merged(entries)?), anchor),
                        (event, span) => {
                            let key = self.node(event, span, depth + 1)?;
                            let Content::Scalar { text, plain } = key.content else {
                                return Err(Fault::new(key.line, "a key must be a text, found a map or a list"));
                            };
                            let (event, span) = self.next()?;
                            let value = self.node(event, span, depth + 1)?;
                            entries.push((Text { line: key.line, text }, plain, value));
                        }
                    }
                }
            }
            Event::Alias(id) => {
                let Some(yaml) = self.anchors.get(&id).cloned() else {
                    return Err(Fault::new(line, "an alias cannot stand inside what it names"));
                };
                self.count_alias(&yaml, line, depth)?;
                return Ok(yaml);
            }
            _ => return Err(Fault::new(line, "not valid YAML: a value is missing")),
        };
        Ok(self.remember(anchor, Yaml { line, content }))
    }

    fn remember(&mut self, anchor: usize, yaml: Yaml) -> Yaml {
        if anchor > 0 {
            self.anchors.insert(anchor, yaml.clone());
        }
        yaml
    }
}

/// Puts the entries of `<<` behind those that are written out, which win.
fn merged(entries: Vec<(Text, bool, Yaml)>) -> Result<Vec<(Text, Yaml)>, Fault> {
    let (merges, own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, plain, _)| *plain && key.text == "<<");
    let mut all: Vec<(Text, Yaml)> = own.into_iter().map(|(key, _, value)| (key, value)).collect();
    for (key, _, value) in merges {
        let maps = match value.content {
            Content::List(items) => items,
            _ => vec![value],
        };
        for map in maps {
            let Content::Map(entries) = map.content else {
                return Err(Fault::new(key.line, "`<<` merges a map or a list of maps, found something else"));
            };
            for (key, value) in entries {
                if !all.iter().any(|(known, _)| known.text == key.text) {
                    all.push((key, value));
                }
            }
        }
    }
    Ok(all)
}

impl Yaml {
    /// Whether nothing is there (`~`, `null` or no text at all).
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if is_null(text))
    }

    /// What it is, for messages: "a list", "`yes`".
    pub fn found(&self) -> String {
        match &self.content {
            _ if self.is_null() => "nothing".into(),
            Content::Scalar { text, .. } => format!("`{}`", shortened(text)),
            Content::List(_) => "a list".into(),
            Content::Map(_) => "a map".into(),
        }
    }

    /// A text; nothing reads as the empty text. `name` is what a message calls it.
    pub fn text(&self, name: &str) -> Result<Text, Fault> {
        match &self.content {
            _ if self.is_null() => Ok(Text { line: self.line, text: String::new() }),
            Content::Scalar { text, .. } => Ok(Text { line: self.line, text: text.clone() }),
            _ => Err(self.mistyped(name, "a text")),
        }
    }

    /// A truth value: `true`, `yes`, `on`, `y` and their opposites, without quotes.
    pub fn flag(&self, name: &str) -> Result<bool, Fault> {
        let plain = match &self.content {
            Content::Scalar { text, plain: true } => truth(text),
            _ => None,
        };
        plain.ok_or_else(|| self.mistyped(name, "`true` or `false`"))
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> Result<i64, Fault> {
        let number = match &self.content {
            Content::Scalar { text, plain: true } => integer(text),
            _ => None,
        };
        number.ok_or_else(|| self.mistyped(name, "a whole number"))
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<f64, Fault> {
        let number = match &self.content {
            Content::Scalar { text, plain: true } => float(text),
            _ => None,
        };
        number.ok_or_else(|| self.mistyped(name, "a number"))
    }

    /// The items of a list; nothing is the empty list.
    pub fn list(&self, name: &str) -> Result<&[Yaml], Fault> {
        match &self.content {
            Content::List(items) => Ok(items),
            _ if self.is_null() => Ok(&[]),
            Content::Scalar { text, .. } => {
                let shown = shortened(text);
                Err(self.mistyped(name, "a list").hint(format!("write it with a dash or in brackets: `[{shown}]`")))
            }
            Content::Map(_) => Err(self.mistyped(name, "a list").hint("begin each of its entries with a dash")),
        }
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Vec<Text>, Fault> {
        self.list(name)?.iter().map(|item| item.text(name)).collect()
    }

    /// The entries of a map in the order of the file; repeated keys stay. Nothing is the empty map.
    pub fn pairs(&self, name: &str) -> Result<&[(Text, Yaml)], Fault> {
        match &self.content {
            Content::Map(entries) => Ok(entries),
            _ if self.is_null() => Ok(&[]),
            _ => Err(self.mistyped(name, "a map")),
        }
    }

    /// The entries of a map whose keys are free but may not repeat.
    pub fn entries(&self, name: &str) -> Result<&[(Text, Yaml)], Fault> {
        let entries = self.pairs(name)?;
        refuse_repeated(entries)?;
        Ok(entries)
    }

    /// The known keys of a map. `name` is what a message calls the map.
    pub fn keys<'y>(&'y self, name: &'y str) -> Result<Keys<'y>, Fault> {
        let entries = self.entries(name)?;
        let used = vec![Cell::new(false); entries.len()];
        Ok(Keys { name, line: self.line, entries, used, asked: RefCell::default() })
    }

    /// The value as JSON, scalars without quotes read as YAML 1.1 reads them.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.content {
            _ if self.is_null() => Value::Null,
            Content::Scalar { text, plain: true } => {
                let number = || integer(text).map(Value::from).or_else(|| float(text).map(Value::from));
                truth(text).map(Value::Bool).or_else(number).unwrap_or_else(|| Value::String(text.clone()))
            }
            Content::Scalar { text, .. } => Value::String(text.clone()),
            Content::List(items) => items.iter().map(Yaml::to_json).collect(),
            Content::Map(entries) => entries.iter().map(|(key, value)| (key.text.clone(), value.to_json())).collect(),
        }
    }

    fn mistyped(&self, name: &str, expected: &str) -> Fault {
        Fault::new(self.line, format!("`{name}` must be {expected}, found {}", self.found()))
    }
}

fn refuse_repeated(entries: &[(Text, Yaml)]) -> Result<(), Fault> {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for (key, _) in entries {
        if let Some(first) = seen.insert(&key.text, key.line) {
            return Err(Fault::new(key.line, format!("key `{}` is repeated", shortened(key)))
                .hint(format!("it is already set in line {first}; keep one of them")));
        }
    }
    Ok(())
}

/// The keys of a map while they are read. A key that nothing asked for is refused by [`Keys::finish`].
#[derive(Debug)]
pub struct Keys<'y> {
    name: &'y str,
    line: u32,
    entries: &'y [(Text, Yaml)],
    used: Vec<Cell<bool>>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'y> Keys<'y> {
    /// Line on which the map starts.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The value of a key; one without a value is as good as absent.
    pub fn get(&self, key: &'static str) -> Option<&'y Yaml> {
        self.asked.borrow_mut().push(key);
        let index = self.entries.iter().position(|(name, _)| name.text == key)?;
        self.used[index].set(true);
        let value = &self.entries[index].1;
        (!value.is_null()).then_some(value)
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &'static str) -> Result<Option<Text>, Fault> {
        self.get(key).map(|value| value.text(key)).transpose()
    }

    /// A text that must be there and not be empty.
    pub fn required_text(&self, key: &'static str) -> Result<Text, Fault> {
        match self.text(key)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(Fault::new(self.line, format!("`{key}` is missing in {}", self.name))),
        }
    }

    /// A truth value, if the key is there.
    pub fn flag(&self, key: &'static str) -> Result<Option<bool>, Fault> {
        self.get(key).map(|value| value.flag(key)).transpose()
    }

    /// A whole number, if the key is there.
    pub fn integer(&self, key: &'static str) -> Result<Option<i64>, Fault> {
        self.get(key).map(|value| value.integer(key)).transpose()
    }

    /// A number, if the key is there.
    pub fn float(&self, key: &'static str) -> Result<Option<f64>, Fault> {
        self.get(key).map(|value| value.float(key)).transpose()
    }

    /// The items of a list; an absent key is the empty list.
    pub fn list(&self, key: &'static str) -> Result<&'y [Yaml], Fault> {
        self.get(key).map_or(Ok(&[]), |value| value.list(key))
    }

    /// A list of texts; an absent key is the empty list.
    pub fn texts(&self, key: &'static str) -> Result<Vec<Text>, Fault> {
        self.get(key).map_or(Ok(Vec::new()), |value| value.texts(key))
    }

    /// Refuses what nobody asked for.
    pub fn finish(self) -> Result<(), Fault> {
        let unknown = self.entries.iter().zip(&self.used).find(|(_, used)| !used.get());
        match unknown {
            None => Ok(()),
            Some(((key, _), _)) => {
                let what = format!("key in {}:", self.name);
                Err(Fault::unknown(key.line, &what, &shortened(key), self.asked.into_inner()))
            }
        }
    }
}

fn shortened(text: &str) -> String {
    const LIMIT: usize = 60;
    if text.len() <= LIMIT { text.to_owned() } else { format!("{}...", &text[..text.floor_char_boundary(LIMIT)]) }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<i64> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'o', ..] => (&digits[2..], 8),
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn float(text: &str) -> Option<f64> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    if text.chars().any(|c| !matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-' | '_')) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Yaml {
        documents(text).expect("valid YAML").remove(0)
    }

    #[test]
    fn a_scalar_means_what_its_reader_wants() {
        let yaml = one("word: yes\nflag: yes\nquoted: 'yes'\nversion: 1.0\noctal: 010\nempty:\ntilde: ~\n");
        let keys = yaml.keys("the test").expect("a map");
        assert_eq!(keys.text("word").expect("a text").as_deref(), Some("yes"));
        assert_eq!(keys.flag("flag"), Ok(Some(true)));
        assert_eq!(
            keys.flag("quoted").expect_err("quotes make a text").to_string(),
            "3: `quoted` must be `true` or `false`, found `yes`"
        );
        assert_eq!(keys.text("version").expect("a text").as_deref(), Some("1.0"));
        assert_eq!(keys.integer("octal"), Ok(Some(8)));
        assert_eq!(keys.text("empty"), Ok(None));
        assert_eq!(keys.text("tilde"), Ok(None));
        keys.finish().expect("every key was asked for");
    }

    #[test]
    fn numbers() {
        let integers: &[(&str, Option<i64>)] = &[
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("+7", Some(7)),
            ("1_000", Some(1000)),
            ("0x1F", Some(31)),
            ("0b11", Some(3)),
            ("0", Some(0)),
            ("1.5", None),
            ("", None),
            ("-", None),
            ("0x", None),
            ("0x-5", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
        ];
        for (text, number) in integers {
            assert_eq!(integer(text), *number, "{text}");
        }
        for (text, number) in [("1.5", Some(1.5)), ("1e3", Some(1000.0)), ("3", Some(3.0)), ("x", None), ("inf", None)]
        {
            assert_eq!(float(text), number, "{text}");
        }
    }

    #[test]
    fn documents_keep_their_order_and_lines() {
        let all = documents("---\nname: a\n---\nname: b\nfilter: |\n  x ==\n  y\n---\n").expect("valid YAML");
        assert_eq!(all.len(), 3);
        let filter = all[1].keys("b").expect("a map").text("filter").expect("a text").expect("there");
        assert_eq!((filter.line, &*filter), (6, "x ==\ny\n"));
        assert!(all[2].is_null());
    }

    #[test]
    fn merged_keys_yield_to_written_ones() {
        let yaml = one("base: &base {a: 1, b: 2}\nuse:\n  b: 3\n  <<: *base\n");
        let json = serde_json::json!({"base": {"a": 1, "b": 2}, "use": {"a": 1, "b": 3}});
        assert_eq!(yaml.to_json(), json);
    }

    #[test]
    fn mistakes_name_line_and_remedy() {
        // (text, what the reader of `name`, `filter` and `nodes` says)
        let cases: &[(&str, &str)] = &[
            ("name: a\nfiltr: x\n", "2: unknown key in the test: `filtr`\nhint: did you mean `filter`?"),
            (
                "name: a\nleakspeed: 10s\n",
                "2: unknown key in the test: `leakspeed`\nhint: expected one of `name`, `filter`, `nodes`",
            ),
            ("name: a\nname: b\n", "2: key `name` is repeated\nhint: it is already set in line 1; keep one of them"),
            ("name: [a]\n", "1: `name` must be a text, found a list"),
            ("nodes: x\n", "1: `nodes` must be a list, found `x`\nhint: write it with a dash or in brackets: `[x]`"),
            ("- a\n", "1: `the test` must be a map, found a list"),
            ("[1]: a\n", "1: a key must be a text, found a map or a list"),
        ];
        for (text, expected) in cases {
            let read = || -> Result<(), Fault> {
                let all = documents(text)?;
                let keys = all[0].keys("the test")?;
                keys.text("name")?;
                keys.text("filter")?;
                keys.list("nodes")?;
                keys.finish()
            };
            assert_eq!(read().expect_err(text).to_string(), *expected);
        }
    }

    #[test]
    fn a_mistake_in_an_expression_is_marked() {
        let text = Text { line: 5, text: "a == 'b' &&\n  c.d == 'e'\n".into() };
        let error =
            expr::CompileError { message: "no `d` here".into(), span: 16..17, hint: Some("did you mean `f`?".into()) };
        let shown = Fault::in_expression("bad `filter`", &text, &error).to_string();
        let expected = "6: bad `filter`: no `d` here\n  |\n6 |   c.d == 'e'\n  |     ^\nhint: did you mean `f`?";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_tab_is_named() {
        let fault = documents("nodes:\n\t- a: b\n").expect_err("a tab cannot indent");
        assert_eq!(fault.line, 2, "{fault}");
        assert_eq!(fault.hint.as_deref(), Some("indent with blanks, not with tabs"));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let level = |level: usize| {
            let below = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
            format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "))
        };
        let text: String = (0..10).map(level).collect();
        assert!(documents(&text).expect_err("a billion texts").message.starts_with("more than"));
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(documents(&deep).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_text_panics(text in "[\\[\\]{}:,&*!|>'\"a-c0-9 \\n\\t#?%@-]{0,80}") {
            let _ = documents(&text).map(|all| all.iter().map(Yaml::to_json).collect::<Vec<_>>());
        }
    }
}
