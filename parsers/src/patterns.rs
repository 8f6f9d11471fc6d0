//! The grok pattern library: named pieces of regexes that refer to each other (spec: parsers 7.1 to 7.3).
//!
//! A reference `%{NAME:alias}` becomes a group around the text of `NAME`, recursively. A pattern can only refer to
//! what is known before it, so there are no cycles. Which group an alias stands for is found by counting the groups that
//! the regex engine will see, not by the reference's textual guess.

use std::collections::HashMap;
use std::sync::Arc;

use expr::regex_dialect;
use model::yaml::{Fault, did_you_mean};

/// Longest text that a pattern may expand to.
const MAX_EXPANDED: usize = 1 << 20;

/// The patterns that one engine knows. A name keeps the first text it was given.
#[derive(Clone, Debug, Default)]
pub struct Library {
    patterns: HashMap<Arc<str>, Arc<Expansion>>,
    order: Vec<Arc<str>>,
}

/// A pattern with every reference replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The regex, in the field's dialect.
    pub text: String,
    /// Aliases, each with the offset of the parenthesis that opens its group.
    aliases: Vec<(Arc<str>, usize)>,
}

/// How much a library knew at some moment: what came later can be forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Library {
    /// Adds the definitions of a pattern file; nothing of a file with a mistake is kept. Errors lack the path.
    pub fn add_file(&mut self, text: &str) -> Result<(), Fault> {
        let mark = self.mark();
        let added = text.lines().enumerate().try_for_each(|(index, line)| {
            let number = index as u32 + 1;
            let Some((name, pattern)) = definition(line) else { return Ok(()) };
            if self.define(name, pattern, number)? {
                return Ok(());
            }
            Err(Fault::new(number, format!("pattern `{name}` is already defined"))
                .hint("a pattern file cannot redefine a name; choose another one"))
        });
        if added.is_err() {
            self.forget(mark);
        }
        added
    }

    /// Adds one pattern. `false` when the name is taken: the first definition stays.
    pub fn define(&mut self, name: &str, pattern: &str, line: u32) -> Result<bool, Fault> {
        if name.is_empty() || pattern.is_empty() {
            return Err(Fault::new(line, format!("pattern `{name}` is empty")).hint("write `NAME: regex`"));
        }
        if self.patterns.contains_key(name) {
            return Ok(false);
        }
        let expansion = self.expand(pattern, line)?;
        if let Err(error) = regex_dialect::check(&expansion.text) {
            return Err(Fault::new(line, format!("pattern `{name}`: {error}")));
        }
        let name: Arc<str> = name.into();
        self.patterns.insert(Arc::clone(&name), Arc::new(expansion));
        self.order.push(name);
        Ok(true)
    }

    /// The pattern called `name`.
    pub fn get(&self, name: &str, line: u32) -> Result<Arc<Expansion>, Fault> {
        if let Some(expansion) = self.patterns.get(name) {
            return Ok(Arc::clone(expansion));
        }
        let fault = Fault::new(line, format!("unknown pattern `{name}`"));
        Err(match did_you_mean(name, self.order.iter().map(|name| &**name)) {
            Some(near) => fault.hint(format!("did you mean `{near}`?")),
            None => fault.hint("define it before this use, in `pattern_syntax` or a pattern file"),
        })
    }

    /// Names in the order of their definition.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|name| &**name)
    }

    /// Replaces every reference in `pattern`.
    pub fn expand(&self, pattern: &str, line: u32) -> Result<Expansion, Fault> {
        let references = references(pattern);
        let direct: Vec<&str> = references.iter().filter_map(|reference| reference.alias).collect();
        let mut expansion = Expansion::default();
        let mut copied = 0;
        for reference in &references {
            expansion.text.push_str(&pattern[copied..reference.start]);
            copied = reference.end;
            let inner = self.get(reference.name, line)?;
            let open = expansion.text.len();
            if let Some(alias) = reference.alias {
                expansion.name(alias.into(), open);
            }
            for (alias, offset) in &inner.aliases {
                if !direct.contains(&&**alias) {
                    expansion.name(Arc::clone(alias), open + 1 + offset);
                }
            }
            expansion.text.push('(');
            expansion.text.push_str(&inner.text);
            expansion.text.push(')');
            if expansion.text.len() > MAX_EXPANDED {
                return Err(Fault::new(line, format!("the pattern expands to more than {MAX_EXPANDED} bytes")));
            }
        }
        expansion.text.push_str(&pattern[copied..]);
        Ok(expansion)
    }

    /// What is known now.
    pub fn mark(&self) -> Mark {
        Mark(self.order.len())
    }

    /// Forgets what was defined since `mark`.
    pub fn forget(&mut self, mark: Mark) {
        for name in self.order.drain(mark.0.min(self.order.len())..) {
            self.patterns.remove(&name);
        }
    }
}

impl Expansion {
    fn name(&mut self, alias: Arc<str>, open: usize) {
        match self.aliases.iter_mut().find(|(known, _)| *known == alias) {
            Some((_, offset)) => *offset = open,
            None => self.aliases.push((alias, open)),
        }
    }

    /// The aliases, each with the number of its group. An alias whose parenthesis opens no group (it stands in a class)
    /// has none.
    pub fn aliases(&self) -> Vec<(Arc<str>, Option<u32>)> {
        let groups = groups(&self.text);
        let number = |offset: &usize| groups.binary_search(offset).ok().map(|index| index as u32 + 1);
        self.aliases.iter().map(|(alias, offset)| (Arc::clone(alias), number(offset))).collect()
    }
}

/// A definition is a word, white space and at least one more character; blanks at the end belong to the text.
fn definition(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let end = line.find(|c: char| !is_word(c))?;
    let (name, rest) = line.split_at(end);
    let text = rest.trim_start();
    (!name.is_empty() && text.len() < rest.len() && !text.is_empty()).then_some((name, text))
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

struct Reference<'p> {
    start: usize,
    end: usize,
    name: &'p str,
    alias: Option<&'p str>,
}

/// The references of a pattern. What looks like one but is not spelt like one is text.
fn references(pattern: &str) -> Vec<Reference<'_>> {
    let word = |from: usize| {
        let rest = &pattern[from..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        (end > 0).then(|| (&rest[..end], from + end))
    };
    let reference = |start: usize| {
        let (name, after) = word(start + 2)?;
        let (alias, after) = match pattern[after..].strip_prefix(':') {
            Some(_) => word(after + 1).map(|(alias, after)| (Some(alias), after))?,
            None => (None, after),
        };
        pattern[after..].starts_with('}').then_some(Reference { start, end: after + 1, name, alias })
    };
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = pattern[from..].find("%{") {
        let start = from + offset;
        match reference(start) {
            Some(reference) => {
                from = reference.end;
                found.push(reference);
            }
            None => from = start + 2,
        }
    }
    found
}

/// Offsets of the parentheses that open capturing groups.
fn groups(regex: &str) -> Vec<usize> {
    let bytes = regex.as_bytes();
    let mut opens = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if bytes.get(at + 1) == Some(&b'Q') => {
                at = regex[at..].find("\\E").map_or(bytes.len(), |end| at + end + 2);
                continue;
            }
            b'\\' => at += 1,
            b'[' => at = class_end(bytes, at),
            b'(' => {
                let rest = &bytes[at + 1..];
                let named = rest.starts_with(b"?P<") || rest.starts_with(b"?<");
                if named || !rest.starts_with(b"?") {
                    opens.push(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    opens
}

/// Offset of the bracket that closes the class opened at `open`.
fn class_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    if bytes.get(at) == Some(&b'^') {
        at += 1;
    }
    let first = at;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b']' if at > first => return at,
            b'\\' => at += 1,
            b'[' if bytes.get(at + 1) == Some(&b':') => {
                let name = &bytes[at + 2..];
                let letters = name.iter().take_while(|byte| byte.is_ascii_lowercase() || **byte == b'^').count();
                if name[letters..].starts_with(b":]") {
                    at += letters + 3;
                }
            }
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> Library {
        let mut library = Library::default();
        let text = "# customary\nINT [+-]?(?:[0-9]+)\nWORD \\b\\w+\\b\nPAIR %{WORD:key}=%{INT:value}\n \
                    INDENTED x\nLONELY\nBLANK  a \r\nODD ([)(]|\\()%{INT:odd}\n";
        library.add_file(text).expect("a good file");
        library
    }

    #[test]
    fn files_define_line_by_line() {
        let library = library();
        assert_eq!(library.names().collect::<Vec<_>>(), ["INT", "WORD", "PAIR", "BLANK", "ODD"]);
        assert_eq!(library.get("BLANK", 0).expect("known").text, "a ");
    }

    #[test]
    fn references_become_groups() {
        type Aliases = &'static [(&'static str, Option<u32>)];
        // (pattern, expansion, aliases with their groups)
        let cases: &[(&str, &str, Aliases)] = &[
            ("a %{INT}", "a ([+-]?(?:[0-9]+))", &[]),
            ("%{INT:a} or %{WORD:a}", r"([+-]?(?:[0-9]+)) or (\b\w+\b)", &[("a", Some(2))]),
            ("%{PAIR}", r"((\b\w+\b)=([+-]?(?:[0-9]+)))", &[("key", Some(2)), ("value", Some(3))]),
            (
                "%{PAIR:p}%{INT:value}",
                r"((\b\w+\b)=([+-]?(?:[0-9]+)))([+-]?(?:[0-9]+))",
                &[("p", Some(1)), ("key", Some(2)), ("value", Some(4))],
            ),
            ("(foo|-)(?P<n>x)(?i)%{INT:a}", "(foo|-)(?P<n>x)(?i)([+-]?(?:[0-9]+))", &[("a", Some(3))]),
            ("%{ODD}", r"(([)(]|\()([+-]?(?:[0-9]+)))", &[("odd", Some(3))]),
            (r"\Q(\E%{INT:a}", r"\Q(\E([+-]?(?:[0-9]+))", &[("a", Some(1))]),
            ("[%{INT:a}]", "[([+-]?(?:[0-9]+))]", &[("a", None)]),
            ("[[:alpha:](]%{INT:a}", "[[:alpha:](]([+-]?(?:[0-9]+))", &[("a", Some(1))]),
            ("%{INT:x:int} %{DATA:a-b} %{ INT}", "%{INT:x:int} %{DATA:a-b} %{ INT}", &[]),
        ];
        let library = library();
        for (pattern, text, aliases) in cases {
            let expansion = library.expand(pattern, 0).expect(pattern);
            assert_eq!(expansion.text, *text, "{pattern}");
            let found = expansion.aliases();
            let found: Vec<_> = found.iter().map(|(alias, group)| (&**alias, *group)).collect();
            assert_eq!(found, *aliases, "{pattern}");
        }
    }

    #[test]
    fn the_first_definition_stays() {
        let mut library = library();
        let mark = library.mark();
        assert!(!library.define("INT", "other", 1).expect("no mistake"));
        assert!(library.define("NEW", "%{INT:n}", 1).expect("no mistake"));
        library.forget(mark);
        let fault = library.get("NEW", 3).expect_err("forgotten");
        assert_eq!(
            fault.to_string(),
            "3: unknown pattern `NEW`\nhint: define it before this use, in `pattern_syntax` or a pattern file"
        );
        assert_eq!(
            library.expand("%{WROD:x}", 4).expect_err("misspelt").to_string(),
            "4: unknown pattern `WROD`\nhint: did you mean `WORD`?"
        );
        assert!(library.add_file("A %{B}\n").is_err());
        assert!(library.add_file("C x\nINT y\n").is_err());
        assert!(library.get("C", 0).is_err());
    }

    #[test]
    fn expansion_is_bounded() {
        let mut library = Library::default();
        library.define("P0", "xxxxxxxxxx", 0).expect("short");
        let grown = (1..12).try_for_each(|level| {
            let text = format!("%{{P{}}}", level - 1).repeat(10);
            library.define(&format!("P{level}"), &text, 0).map(|_| ())
        });
        assert!(grown.expect_err("ten to the twelfth").message.contains("expands to more than"));
    }
}
