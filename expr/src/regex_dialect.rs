//! RE2's regex syntax on Rust's engine.
//!
//! Patterns of rules, grok and data files are written for RE2 (and Go's `regexp`): classes such as
//! `\d` are ASCII, a brace that counts nothing is a brace, a bracket inside a class is a
//! bracket. [`rewrite`] spells such a pattern the way the `regex` crate reads it; the cost is
//! linear in its length.

use std::fmt::Write;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::Hir;

/// Largest compiled pattern, in bytes.
pub const SIZE_LIMIT: usize = 64 << 20;
/// The same for a pattern made at run time, which an attacker may have a hand in.
const SIZE_LIMIT_ONCE: usize = 1 << 20;
/// Largest lazily built matcher cache, in bytes.
pub const CACHE_LIMIT: usize = 128 << 10;
/// The same for an alternation over a whole file.
const ALTERNATION_CACHE_LIMIT: usize = 8 << 20;
/// Largest count in a repetition.
const MAX_REPEAT: u32 = 1000;
/// Deepest nesting of groups.
const MAX_NEST: u32 = 250;

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// The pattern is not of the dialect.
    #[error("bad regex: {0}")]
    Syntax(String),
    /// It would need too much memory.
    #[error("regex is too large: {0}")]
    TooLarge(String),
}

/// Spells `pattern` for the `regex` crate.
pub fn rewrite(pattern: &str) -> Result<String, RegexError> {
    Rewriter { pattern, at: 0, out: String::with_capacity(pattern.len() + 16) }.run()
}

/// Checks the syntax of `pattern` without building a matcher (cheap: meant for load).
pub fn check(pattern: &str) -> Result<Hir, RegexError> {
    let rewritten = rewrite(pattern)?;
    parser().build().parse(&rewritten).map_err(|error| RegexError::Syntax(short(&error.to_string())))
}

/// Builds a matcher for `pattern` with bounded memory.
pub fn compile(pattern: &str) -> Result<regex::bytes::Regex, RegexError> {
    compile_rewritten(&rewrite(pattern)?)
}

/// Builds a matcher for a pattern that [`rewrite`] has spelt.
pub fn compile_rewritten(rewritten: &str) -> Result<regex::bytes::Regex, RegexError> {
    build(rewritten, SIZE_LIMIT, CACHE_LIMIT)
}

/// The same for an alternation over a whole file: there are few, and each needs many states.
pub(crate) fn compile_alternation(rewritten: &str) -> Result<regex::bytes::Regex, RegexError> {
    build(rewritten, SIZE_LIMIT, ALTERNATION_CACHE_LIMIT)
}

fn build(rewritten: &str, size_limit: usize, cache_limit: usize) -> Result<regex::bytes::Regex, RegexError> {
    regex::bytes::RegexBuilder::new(rewritten)
        .size_limit(size_limit)
        .dfa_size_limit(cache_limit)
        .nest_limit(MAX_NEST)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => {
                RegexError::TooLarge(format!("it needs more than {} MiB", limit >> 20))
            }
            other => RegexError::Syntax(short(&other.to_string())),
        })
}

/// Builds a matcher for a pattern made at run time: one that is used once must be small.
pub(crate) fn compile_small(pattern: &str) -> Result<regex::bytes::Regex, RegexError> {
    build(&rewrite(pattern)?, SIZE_LIMIT_ONCE, CACHE_LIMIT)
}

/// A parser with the settings that [`compile`] uses, for those who look at the parsed pattern.
fn parser() -> ParserBuilder {
    let mut builder = ParserBuilder::new();
    builder.utf8(false).nest_limit(MAX_NEST);
    builder
}

/// The last line of the regex crate's message, which names the fault.
fn short(message: &str) -> String {
    let line = message.lines().last().unwrap_or(message).trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

struct Rewriter<'p> {
    pattern: &'p str,
    at: usize,
    out: String,
}

impl Rewriter<'_> {
    fn rest(&self) -> &str {
        self.pattern.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn run(mut self) -> Result<String, RegexError> {
        // whether what was written last can be repeated: (something, already repeated)
        let mut repeated = false;
        while let Some(c) = self.next() {
            match c {
                '\\' => {
                    self.escape(false)?;
                    repeated = false;
                }
                '[' => {
                    self.class()?;
                    repeated = false;
                }
                '{' => {
                    if let Some((text, low, high)) = self.count() {
                        if low > MAX_REPEAT || high.is_some_and(|high| high > MAX_REPEAT || high < low) {
                            return Err(RegexError::Syntax(format!("repeat count `{{{text}}}` is out of range")));
                        }
                        if repeated {
                            return Err(RegexError::Syntax(format!("repetition `{{{text}}}` of a repetition")));
                        }
                        self.at += text.len() + 1;
                        self.out.push('{');
                        self.out.push_str(&text);
                        self.out.push('}');
                        self.lazy();
                        repeated = true;
                    } else {
                        self.out.push_str("\\{");
                        repeated = false;
                    }
                }
                '}' => {
                    self.out.push_str("\\}");
                    repeated = false;
                }
                '*' | '+' | '?' => {
                    if repeated {
                        return Err(RegexError::Syntax(format!("repetition `{c}` of a repetition")));
                    }
                    self.out.push(c);
                    self.lazy();
                    repeated = true;
                }
                '(' => {
                    self.out.push('(');
                    // the mark of a special group is no repetition
                    if self.peek() == Some('?') {
                        self.next();
                        self.out.push('?');
                    }
                    repeated = false;
                }
                c => {
                    self.out.push(c);
                    repeated = false;
                }
            }
        }
        Ok(self.out)
    }

    /// Copies the `?` that makes a repetition lazy.
    fn lazy(&mut self) {
        if self.peek() == Some('?') {
            self.next();
            self.out.push('?');
        }
    }

    /// `n`, `n,` or `n,m` up to a closing brace: the text between the braces and the numbers.
    fn count(&self) -> Option<(String, u32, Option<u32>)> {
        // a longer number cannot be a valid count; it also keeps the look-ahead short
        let window: String = self.rest().chars().take(24).collect();
        let inner = window.split_once('}')?.0;
        let (low, high) = match inner.split_once(',') {
            None => (inner, None),
            Some((low, high)) => (low, Some(high)),
        };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().unwrap_or(u32::MAX))
        };
        let low = number(low)?;
        let high = match high {
            None | Some("") => None,
            Some(high) => Some(number(high)?),
        };
        Some((inner.to_owned(), low, high))
    }

    fn class(&mut self) -> Result<(), RegexError> {
        self.out.push('[');
        if self.peek() == Some('^') {
            self.next();
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let Some(c) = self.next() else {
                return Err(RegexError::Syntax("missing closing `]`".into()));
            };
            match c {
                ']' if !first => {
                    self.out.push(']');
                    return Ok(());
                }
                ']' => self.out.push_str("\\]"),
                '[' if self.rest().starts_with(':') => {
                    let named: String = self.rest().chars().take(16).collect();
                    match named.find(":]") {
                        Some(length) => {
                            self.out.push('[');
                            self.out.push_str(&named[..length + 2]);
                            self.at += length + 2;
                        }
                        None => self.out.push_str("\\["),
                    }
                }
                '[' => self.out.push_str("\\["),
                '&' | '~' => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                // a dash before another dash would be read as a set operation
                '-' if self.rest().starts_with('-') || self.out.ends_with('-') => self.out.push_str("\\-"),
                '\\' => self.escape(true)?,
                c => self.out.push(c),
            }
            first = false;
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, in_class: bool) -> Result<(), RegexError> {
        let Some(c) = self.next() else {
            return Err(RegexError::Syntax("pattern ends in a backslash".into()));
        };
        // inside a class the sets nest, negated ones as classes of their own
        let set = |text: &str, negated: bool| match (in_class, negated) {
            (true, false) => text.to_owned(),
            (_, true) => format!("[^{text}]"),
            (false, false) => format!("[{text}]"),
        };
        match c {
            'd' | 'D' => self.out.push_str(&set("0-9", c == 'D')),
            'w' | 'W' => self.out.push_str(&set("0-9A-Za-z_", c == 'W')),
            's' | 'S' => self.out.push_str(&set("\\t\\n\\x0C\\r ", c == 'S')),
            'b' | 'B' if !in_class => {
                self.out.push_str("(?-u:\\");
                self.out.push(c);
                self.out.push(')');
            }
            'Q' if !in_class => {
                let rest = self.rest();
                let length = rest.find("\\E").unwrap_or(rest.len());
                let literal = regex_syntax::escape(&rest[..length]);
                self.at += (length + 2).min(rest.len());
                self.out.push_str(&literal);
            }
            '0'..='7' => {
                let mut value = c as u32 - u32::from('0');
                let mut digits = 1;
                while digits < 3 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    self.next();
                    value = value * 8 + digit;
                    digits += 1;
                }
                // one digit other than zero would be a back-reference
                if digits == 1 && c != '0' {
                    return Err(RegexError::Syntax(format!("back-reference `\\{c}` is not supported")));
                }
                let _ = write!(self.out, "\\x{{{value:X}}}");
            }
            'A' | 'z' if !in_class => {
                self.out.push('\\');
                self.out.push(c);
            }
            'a' | 'f' | 'n' | 'r' | 't' | 'v' => {
                self.out.push('\\');
                self.out.push(c);
            }
            'x' | 'p' | 'P' => {
                self.out.push('\\');
                self.out.push(c);
                if self.peek() == Some('{') {
                    let window: String = self.rest().chars().take(64).collect();
                    let Some(length) = window.find('}') else {
                        return Err(RegexError::Syntax(format!("`\\{c}{{` is not closed")));
                    };
                    self.out.push_str(&window[..=length]);
                    self.at += length + 1;
                }
            }
            '<' | '>' => self.out.push(c),
            '_' => self.out.push('_'),
            c if c.is_ascii_punctuation() => {
                self.out.push('\\');
                self.out.push(c);
            }
            // a blank or a control character stands for itself
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => self.out.push(c),
            c => return Err(RegexError::Syntax(format!("unknown escape `\\{c}`"))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_like_re2() {
        // (pattern, text, whether it matches)
        let cases: &[(&str, &str, bool)] = &[
            (r"^\d+$", "123", true),
            (r"^\d+$", "١٢٣", false),
            (r"^\s$", "\u{b}", false),
            (r"^\w$", "é", false),
            (r"^\W$", "é", true),
            (r"^[^\d]$", "٣", true),
            (r"^[\D]$", "5", false),
            (r"^[\Sx]$", " ", false),
            (r"^{a}$", "{a}", true),
            (r"^x{,5}$", "x{,5}", true),
            (r"^x{2}$", "xx", true),
            (r"^x{2,3}?$", "xxx", true),
            (r"^[[]$", "[", true),
            (r"^[]a]$", "]", true),
            (r"^[a&&b]$", "&", true),
            (r"^[a--z]$", "-", true),
            (r"^[[:alpha:]_]$", "_", true),
            (r"^\<b\>$", "<b>", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"^\101\0$", "A\0", true),
            (r"^\_\-\@$", "_-@", true),
            (r"^a\ [\ b]$", "a  ", true),
            (r"\bfoo\b", "éfoo", true),
            (r"(?i)HELLO", "hello", true),
            (r"a$", "a\n", false),
            (r"^\p{Greek}\x{41}[\x41\p{Greek}]$", "αAα", true),
            (r"(?P<x>a)(?:b)?(?<y>c)", "ac", true),
        ];
        for (pattern, text, want) in cases {
            let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(regex.is_match(text.as_bytes()), *want, "{pattern} on {text}");
        }
    }

    #[test]
    fn refuses_like_re2() {
        for pattern in
            [r"(?=a)", r"(a)\1", r"\Z", r"a**", r"a+*", r"x{1001}", r"x{3,2}", r"[a", r"(a", r"a)", r"\", r"\y", r"*a"]
        {
            assert!(check(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn large_patterns_are_refused_when_built() {
        let pattern = r"(\pL{1000}){1000}";
        assert!(check(pattern).is_ok());
        assert!(compile(pattern).is_err());
    }
}
