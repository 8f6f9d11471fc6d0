//! Text to tokens.
//!
//! One pass over the source; every token carries its byte range. Escapes are resolved here, so
//! that the parser only ever sees values.

use crate::error::CompileError;

/// One token with its byte range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Tok,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok {
    /// A name, `true`, `false` and `nil` included.
    Ident(String),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    /// An operator, a bracket, or a reserved word.
    Op(&'static str),
    End,
}

/// Reserved words: operators when they stand alone, names after a dot.
const WORDS: [&str; 11] =
    ["not", "in", "or", "and", "matches", "contains", "startsWith", "endsWith", "let", "if", "else"];

/// Operators and brackets, longest first.
const OPERATORS: [&str; 34] = [
    "**", "==", "!=", "<=", ">=", "&&", "||", "??", "?.", "::", "..", "+", "-", "*", "/", "%", "^", "<", ">", "!", "?",
    ":", "|", ".", ",", ";", "#", "(", ")", "[", "]", "{", "}", "=",
];

/// Splits `source` into tokens; the last one is [`Tok::End`].
pub(crate) fn lex(source: &str) -> Result<Vec<Token>, CompileError> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token()?;
        let end = token.kind == Tok::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

/// Whether `c` may start a name.
pub(crate) fn starts_name(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn continues_name(c: char) -> bool {
    starts_name(c) || c.is_numeric()
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn peek_second(&self) -> Option<char> {
        self.rest().chars().nth(1)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error<T>(&self, start: usize, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(start..self.at.max(start), message))
    }

    fn skip_blanks(&mut self) -> Result<(), CompileError> {
        loop {
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                let start = self.at;
                let Some(length) = rest.find("*/") else {
                    self.at += 2;
                    return self.error(start, "comment is not closed");
                };
                self.at += length + 2;
            } else if self.peek().is_some_and(char::is_whitespace) {
                self.next();
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token, CompileError> {
        self.skip_blanks()?;
        let start = self.at;
        let kind = match self.peek() {
            None => Tok::End,
            Some(c) if starts_name(c) => self.name()?,
            Some('0'..='9') => self.number()?,
            Some('.') if self.peek_second().is_some_and(|c| c.is_ascii_digit()) => self.number()?,
            Some('"' | '\'') => Tok::Str(self.quoted()?),
            Some('`') => Tok::Str(self.raw()?),
            Some(c) => {
                if let Some(op) = OPERATORS.iter().find(|op| self.rest().starts_with(*op)) {
                    self.at += op.len();
                    Tok::Op(op)
                } else {
                    self.next();
                    return self.error(start, format!("unexpected character `{c}`"));
                }
            }
        };
        Ok(Token { kind, start, end: self.at })
    }

    fn name(&mut self) -> Result<Tok, CompileError> {
        let start = self.at;
        while self.peek().is_some_and(continues_name) {
            self.next();
        }
        let name = &self.source[start..self.at];
        if name == "b" && matches!(self.peek(), Some('"' | '\'')) {
            return Ok(Tok::Bytes(self.byte_string()?));
        }
        Ok(match WORDS.iter().find(|word| **word == name) {
            Some(word) => Tok::Op(word),
            None => Tok::Ident(name.to_owned()),
        })
    }

    fn digits(&mut self, radix: u32) {
        while self.peek().is_some_and(|c| c == '_' || c.is_digit(radix)) {
            self.next();
        }
    }

    fn number(&mut self) -> Result<Tok, CompileError> {
        let start = self.at;
        let radix = match self.rest().as_bytes() {
            [b'0', b'x' | b'X', ..] => 16,
            [b'0', b'o' | b'O', ..] => 8,
            [b'0', b'b' | b'B', ..] => 2,
            _ => 10,
        };
        let mut float = false;
        if radix == 10 {
            self.digits(10);
            if self.peek() == Some('.') && self.peek_second() != Some('.') {
                float = true;
                self.next();
                self.digits(10);
            }
            if matches!(self.peek(), Some('e' | 'E')) {
                float = true;
                self.next();
                if matches!(self.peek(), Some('+' | '-')) {
                    self.next();
                }
                self.digits(10);
            }
        } else {
            self.at += 2;
            self.digits(radix);
        }
        if self.peek().is_some_and(continues_name) {
            self.next();
            return self.error(start, format!("bad number `{}`", &self.source[start..self.at]));
        }
        let text: String = self.source[start..self.at].chars().filter(|c| *c != '_').collect();
        let bad = || CompileError::new(start..self.at, format!("bad number `{text}`"));
        if float {
            let value: f64 = text.parse().map_err(|_| bad())?;
            return if value.is_finite() { Ok(Tok::Float(value)) } else { Err(bad()) };
        }
        let digits = if radix == 10 { &*text } else { &text[2..] };
        i64::from_str_radix(digits, radix).map(Tok::Int).map_err(|_| bad())
    }

    fn raw(&mut self) -> Result<String, CompileError> {
        let start = self.at;
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return self.error(start, "string is not closed"),
                Some('`') if self.peek() == Some('`') => {
                    self.next();
                    text.push('`');
                }
                Some('`') => return Ok(text),
                Some(c) => text.push(c),
            }
        }
    }

    fn quoted(&mut self) -> Result<String, CompileError> {
        let start = self.at;
        let mut text = String::new();
        let quote = self.next();
        loop {
            let at = self.at;
            match self.next() {
                None | Some('\n') => return self.error(start, "string is not closed"),
                c if c == quote => return Ok(text),
                Some('\r') => text.push('\n'),
                Some('\\') => {
                    let value = self.escape(at, quote, true)?;
                    let Some(c) = char::from_u32(value) else {
                        return self.error(at, "escape does not name a character");
                    };
                    text.push(c);
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn byte_string(&mut self) -> Result<Vec<u8>, CompileError> {
        let start = self.at;
        let mut bytes = Vec::new();
        let quote = self.next();
        loop {
            let at = self.at;
            match self.next() {
                None | Some('\n') => return self.error(start, "string is not closed"),
                c if c == quote => return Ok(bytes),
                // proven by `escape`: without `\u` no value exceeds 255
                Some('\\') => bytes.push(self.escape(at, quote, false)? as u8),
                Some(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    /// The code point or byte after a backslash at `start`.
    fn escape(&mut self, start: usize, quote: Option<char>, unicode: bool) -> Result<u32, CompileError> {
        let c = self.next();
        Ok(match c {
            Some('a') => 7,
            Some('b') => 8,
            Some('f') => 12,
            Some('n') => 10,
            Some('r') => 13,
            Some('t') => 9,
            Some('v') => 11,
            Some('\\') => u32::from(b'\\'),
            _ if c == quote => c.map_or(0, u32::from),
            Some('x') => self.hex(start, 2)?,
            Some('u') if unicode && self.peek() == Some('{') => {
                self.next();
                let length = self.rest().find('}').unwrap_or(0);
                if !(1..=6).contains(&length) {
                    return self.error(start, "bad escape: `\\u{...}` takes one to six hexadecimal digits");
                }
                let value = self.hex(start, length)?;
                self.next();
                value
            }
            Some('u') if unicode => self.hex(start, 4)?,
            Some('U') if unicode => self.hex(start, 8)?,
            Some(first @ '0'..='3') => {
                let mut value = first as u32 - u32::from(b'0');
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else {
                        return self.error(start, "bad escape: octal takes three digits");
                    };
                    self.next();
                    value = value * 8 + digit;
                }
                value
            }
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                let mut error = CompileError::new(start..self.at, format!("unknown escape `\\{shown}`"));
                error.hint = Some(format!("write `\\\\{shown}` for a backslash, or use a `raw` string in backticks"));
                return Err(error);
            }
        })
    }

    fn hex(&mut self, start: usize, digits: usize) -> Result<u32, CompileError> {
        let mut value: u32 = 0;
        for _ in 0..digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return self.error(start, "bad escape: hexadecimal digits are missing");
            };
            self.next();
            value = (value << 4) | digit;
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<Tok> {
        lex(source).map(|tokens| tokens.into_iter().map(|token| token.kind).collect()).unwrap_or_default()
    }

    #[test]
    fn tokens() {
        let text = |s: &str| Tok::Str(s.to_owned());
        let cases: &[(&str, &str, Vec<Tok>)] = &[
            ("range of numbers", "1..3", vec![Tok::Int(1), Tok::Op(".."), Tok::Int(3)]),
            ("leading zero is decimal", "017", vec![Tok::Int(17)]),
            ("underscores are ignored", "1_0__0", vec![Tok::Int(100)]),
            ("other bases", "0x1F 0o17 0b11", vec![Tok::Int(31), Tok::Int(15), Tok::Int(3)]),
            (
                "floats",
                ".5 1. 1e3 1.5e-1",
                vec![Tok::Float(0.5), Tok::Float(1.0), Tok::Float(1000.0), Tok::Float(0.15)],
            ),
            ("escapes", r#""\x41\101\u00e9\u{1F600}\U0001F600\"""#, vec![text("AAé😀😀\"")]),
            ("raw strings keep backslashes", r"`\d``x`", vec![text(r"\d`x")]),
            ("bytes", r#"b"\xff""#, vec![Tok::Bytes(vec![255])]),
            ("comments", "a // x\n /* y */ b", vec![Tok::Ident("a".into()), Tok::Ident("b".into())]),
            ("guard", "a?.b", vec![Tok::Ident("a".into()), Tok::Op("?."), Tok::Ident("b".into())]),
        ];
        for (name, source, want) in cases {
            let mut want = want.clone();
            want.push(Tok::End);
            assert_eq!(kinds(source), want, "{name}");
        }
    }

    #[test]
    fn refusals() {
        for source in [
            r#""\d""#,
            r#""\'""#,
            "'a\nb'",
            "'a",
            "1x",
            "0x",
            "99999999999999999999",
            "1e999",
            "/* a",
            "@",
            r#"b"\u0041""#,
            "~",
        ] {
            assert!(lex(source).is_err(), "{source}");
        }
    }
}
