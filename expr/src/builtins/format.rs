//! Values as text: Go's `%v` and `Sprintf`.

use std::fmt::Write;

use super::text;
use crate::library::{Function, P, R};
use crate::program::{Cx, Outcome};
use crate::types::IntKind;
use crate::value::{Map, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("Sprintf", &[P::Str, P::Any], R::Str, sprintf).rest(),
    Function::new("string", &[P::Any], R::Str, string),
];

/// Widest field and longest fraction that a format may ask for: `format!` panics where a width, a fraction or its digits reach
/// 65,536, and whoever writes into a log may have a hand in the format.
const MAX_WIDTH: usize = 50_000;
/// A text that has become so long is not made longer: a format of many wide fields must not take all memory.
const MAX_TEXT: usize = 1 << 20;

fn string<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    Ok(match args {
        [value @ Value::Str(_)] => value.clone(),
        [value] => Value::owned(display(value)),
        _ => Value::text(""),
    })
}

fn sprintf<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let whole = format(text(args, 0)?, args.get(1..).unwrap_or_default());
    cx.spend_bytes(whole.len())?;
    Ok(Value::owned(whole))
}

/// The text of a value as Go's `%v` writes it.
pub(crate) fn display(value: &Value<'_>) -> String {
    let mut out = String::new();
    write_value(&mut out, value, &Spec::plain('v'), 0);
    out
}

/// The shortest text of a float that reads back the same: exponents from 6 on, or below -4.
pub(crate) fn float(value: f64) -> String {
    shortest(value, 6, true)
}

/// Shortest digits, in exponent form when the exponent is below -4 or reaches `limit`.
pub(crate) fn shortest(value: f64, limit: i32, padded: bool) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && (exponent < -4 || exponent >= limit) {
        return go_exponent(digits, exponent, 'e', padded);
    }
    format!("{value}")
}

fn go_exponent(digits: &str, exponent: i32, letter: char, padded: bool) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    let width = if padded { 2 } else { 1 };
    format!("{digits}{letter}{sign}{:0width$}", exponent.unsigned_abs())
}

/// Go's `Sprintf`.
pub(crate) fn format(format: &str, args: &[Value<'_>]) -> String {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let mut next = 0;
    let mut reordered = false;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if out.len() > MAX_TEXT {
            break;
        }
        let mut spec = Spec::plain('v');
        while let Some(flag) = chars.peek() {
            match flag {
                '+' => spec.plus = true,
                '-' => spec.minus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                '0' => spec.zero = true,
                _ => break,
            }
            chars.next();
        }
        let number =
            |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, next: &mut usize, bad: &str, out: &mut String| {
                if chars.peek() == Some(&'*') {
                    chars.next();
                    let given = args.get(*next).and_then(Value::as_int);
                    *next += 1;
                    return match given {
                        Some(value) if value.unsigned_abs() <= MAX_WIDTH as u64 => Some(value),
                        _ => {
                            out.push_str(bad);
                            None
                        }
                    };
                }
                let mut value: Option<i64> = None;
                while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                    chars.next();
                    value = Some((value.unwrap_or(0) * 10 + i64::from(digit)).min(MAX_WIDTH as i64));
                }
                value
            };
        let mut index = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, next: &mut usize| {
            if chars.peek() == Some(&'[') {
                let inner: String = chars.clone().skip(1).take_while(|c| *c != ']').take(8).collect();
                if let Ok(at @ 1..) = inner.parse::<usize>() {
                    chars.nth(inner.len() + 1);
                    *next = at - 1;
                    reordered = true;
                }
            }
        };
        index(&mut chars, &mut next);
        if let Some(width) = number(&mut chars, &mut next, "%!(BADWIDTH)", &mut out) {
            spec.minus |= width < 0;
            spec.width = Some(width.unsigned_abs() as usize);
        }
        if chars.peek() == Some(&'.') {
            chars.next();
            index(&mut chars, &mut next);
            let precision = number(&mut chars, &mut next, "%!(BADPREC)", &mut out).unwrap_or(0);
            spec.precision = usize::try_from(precision).ok();
        }
        index(&mut chars, &mut next);
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        spec.verb = verb;
        // Before `v`, a plus asks for the names of fields, not for a sign.
        spec.plus &= verb != 'v';
        match args.get(next) {
            Some(value) => write_value(&mut out, value, &spec, 0),
            None => {
                let _ = write!(out, "%!{verb}(MISSING)");
            }
        }
        next += 1;
    }
    if !reordered && next < args.len() {
        out.push_str("%!(EXTRA ");
        for (at, value) in args[next..].iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            if matches!(value, Value::Nil) {
                out.push_str("<nil>");
            } else {
                let _ = write!(out, "{}={}", value.kind(), display(value));
            }
        }
        out.push(')');
    }
    out
}

/// One verb with its flags.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the five flags of a verb")]
struct Spec {
    verb: char,
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    fn plain(verb: char) -> Self {
        Self { verb, plus: false, minus: false, sharp: false, space: false, zero: false, width: None, precision: None }
    }

    fn pad(&self, out: &mut String, body: &str) {
        let missing = self.width.unwrap_or(0).saturating_sub(body.chars().count());
        if self.minus {
            out.push_str(body);
            out.extend(std::iter::repeat_n(' ', missing));
        } else {
            let fill = if self.zero { '0' } else { ' ' };
            out.extend(std::iter::repeat_n(fill, missing));
            out.push_str(body);
        }
    }

    /// Pads a number: zeros go between the sign and the digits.
    fn pad_number(&self, out: &mut String, sign: &str, digits: &str) {
        let length = sign.len() + digits.chars().count();
        let missing = self.width.unwrap_or(0).saturating_sub(length);
        if self.zero && !self.minus && self.precision.is_none() {
            out.push_str(sign);
            out.extend(std::iter::repeat_n('0', missing));
            out.push_str(digits);
        } else {
            let spec = Spec { zero: false, ..self.clone() };
            spec.pad(out, &format!("{sign}{digits}"));
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        }
    }
}

/// Deepest nesting that is written out; deeper values show as `...`.
const MAX_DEPTH: u32 = 128;

fn write_value(out: &mut String, value: &Value<'_>, spec: &Spec, depth: u32) {
    if depth > MAX_DEPTH {
        out.push_str("...");
        return;
    }
    if spec.verb == 'T' {
        spec.pad(out, if matches!(value, Value::Nil) { "<nil>" } else { value.kind() });
        return;
    }
    match value {
        Value::Nil if spec.verb == 'v' => spec.pad(out, "<nil>"),
        Value::Nil => {
            let _ = write!(out, "%!{}(<nil>)", spec.verb);
        }
        Value::Bool(value) if matches!(spec.verb, 'v' | 't') => spec.pad(out, if *value { "true" } else { "false" }),
        Value::Int(number) => write_int(out, *number, value, spec),
        Value::Sized(number, kind) => match (spec.verb, named(*number, *kind)) {
            ('v' | 's', Some(name)) => write_text(out, &name, value, spec),
            _ => write_int(out, *number, value, spec),
        },
        Value::Float(number) => write_float(out, *number, value, spec),
        Value::Str(text) => write_text(out, text, value, spec),
        Value::Time(time, zone) if matches!(spec.verb, 'v' | 's' | 'q') => {
            write_text(out, &super::time::show(*time, zone), value, spec);
        }
        Value::Duration(nanos) if matches!(spec.verb, 'v' | 's' | 'q') => {
            write_text(out, &crate::duration::format(*nanos), value, spec);
        }
        Value::Duration(nanos) => write_int(out, *nanos, value, spec),
        Value::Zone(zone) if matches!(spec.verb, 'v' | 's' | 'q') => {
            write_text(out, &super::time::show_zone(zone), value, spec);
        }
        Value::Bytes(bytes) => match spec.verb {
            's' | 'x' | 'X' | 'q' => write_text(out, &String::from_utf8_lossy(bytes), value, spec),
            _ => write_items(out, bytes.iter().map(|byte| Value::Int(i64::from(*byte))), spec, depth),
        },
        Value::List(list) => write_items(out, list.iter(), spec, depth),
        Value::Map(map) => write_map(out, map, spec, depth),
        Value::Object(_) | Value::Made(_) => {
            if let Some(name) = crate::library::text_of(value) {
                write_text(out, &name, value, spec);
            } else {
                let _ = write!(out, "{{{}}}", value.kind());
            }
        }
        Value::Bool(_) | Value::Time(..) | Value::Zone(_) => bad_verb(out, value, spec.verb),
    }
}

fn write_items<'v>(out: &mut String, items: impl Iterator<Item = Value<'v>>, spec: &Spec, depth: u32) {
    out.push('[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(' ');
        }
        write_value(out, &item, spec, depth + 1);
    }
    out.push(']');
}

fn write_map(out: &mut String, map: &Map<'_>, spec: &Spec, depth: u32) {
    let mut entries = map.entries();
    entries.sort_by(|(a, _), (b, _)| crate::program::order(a, b).unwrap_or(std::cmp::Ordering::Equal));
    out.push_str("map[");
    for (at, (key, value)) in entries.iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        write_value(out, key, spec, depth + 1);
        out.push(':');
        write_value(out, value, spec, depth + 1);
    }
    out.push(']');
}

fn bad_verb(out: &mut String, value: &Value<'_>, verb: char) {
    let _ = write!(out, "%!{verb}({}={})", value.kind(), display(value));
}

fn write_int(out: &mut String, number: i64, value: &Value<'_>, spec: &Spec) {
    let magnitude = number.unsigned_abs();
    let digits = match spec.verb {
        'v' | 'd' => magnitude.to_string(),
        'b' => format!("{}{magnitude:b}", if spec.sharp { "0b" } else { "" }),
        'o' => format!("{}{magnitude:o}", if spec.sharp { "0" } else { "" }),
        'O' => format!("0o{magnitude:o}"),
        'x' => format!("{}{magnitude:x}", if spec.sharp { "0x" } else { "" }),
        'X' => format!("{}{magnitude:X}", if spec.sharp { "0X" } else { "" }),
        'c' | 'q' => {
            let c = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{FFFD}');
            let body = if spec.verb == 'c' { c.to_string() } else { quote(&c.to_string(), '\'') };
            spec.pad(out, &body);
            return;
        }
        'U' => {
            spec.pad(out, &format!("U+{magnitude:04X}"));
            return;
        }
        _ => return bad_verb(out, value, spec.verb),
    };
    let digits = match spec.precision {
        Some(0) if number == 0 => String::new(),
        Some(precision) => format!("{digits:0>precision$}"),
        None => digits,
    };
    spec.pad_number(out, spec.sign(number < 0), &digits);
}

fn write_float(out: &mut String, number: f64, value: &Value<'_>, spec: &Spec) {
    let negative = number.is_sign_negative() && !number.is_nan();
    let magnitude = number.abs();
    let body = if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        "Inf".to_owned()
    } else {
        match spec.verb {
            'f' | 'F' => format!("{magnitude:.*}", spec.precision.unwrap_or(6)),
            'e' | 'E' => exponent(magnitude, spec.precision.unwrap_or(6), spec.verb),
            'v' | 'g' | 'G' => {
                let text = match spec.precision {
                    None => float(magnitude),
                    Some(precision) => general(magnitude, precision.max(1)),
                };
                if spec.verb == 'G' { text.to_uppercase() } else { text }
            }
            _ => return bad_verb(out, value, spec.verb),
        }
    };
    let sign = if number.is_infinite() && !negative { "+" } else { spec.sign(negative) };
    if number.is_finite() {
        // precision has been used: it must not switch zero padding off
        Spec { precision: None, ..spec.clone() }.pad_number(out, sign, &body);
    } else {
        Spec { zero: false, ..spec.clone() }.pad(out, &format!("{sign}{body}"));
    }
}

fn exponent(value: f64, precision: usize, letter: char) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    go_exponent(digits, power.parse().unwrap_or(0), letter, true)
}

/// `%g` with a precision: that many significant digits, without trailing zeros.
fn general(value: f64, precision: usize) -> String {
    let text = format!("{value:.*e}", precision - 1);
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    if value != 0.0 && (power < -4 || power >= i32::try_from(precision).unwrap_or(i32::MAX)) {
        let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
        return go_exponent(digits, power, 'e', true);
    }
    let places =
        usize::try_from(i64::from(i32::try_from(precision).unwrap_or(i32::MAX)) - 1 - i64::from(power)).unwrap_or(0);
    let fixed = format!("{value:.places$}");
    if fixed.contains('.') { fixed.trim_end_matches('0').trim_end_matches('.').to_owned() } else { fixed }
}

fn write_text(out: &mut String, text: &str, value: &Value<'_>, spec: &Spec) {
    let cut: String;
    let text = match spec.precision {
        Some(precision) if matches!(spec.verb, 'v' | 's' | 'q') => {
            cut = text.chars().take(precision).collect();
            &cut
        }
        _ => text,
    };
    match spec.verb {
        'v' if spec.sharp => spec.pad(out, &quote(text, '"')),
        'v' | 's' => spec.pad(out, text),
        'q' => spec.pad(out, &quote(text, '"')),
        'x' | 'X' => {
            let mut hex = String::with_capacity(text.len() * 2);
            for byte in text.bytes() {
                let _ = if spec.verb == 'x' { write!(hex, "{byte:02x}") } else { write!(hex, "{byte:02X}") };
            }
            spec.pad(out, &hex);
        }
        verb => bad_verb(out, value, verb),
    }
}

/// Go's quoted form.
fn quote(text: &str, mark: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(mark);
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let code = c as u32;
                let _ = if code < 0x80 { write!(out, "\\x{code:02x}") } else { write!(out, "\\u{code:04x}") };
            }
            c => out.push(c),
        }
    }
    out.push(mark);
    out
}

/// The name of a named integer.
fn named(number: i64, kind: IntKind) -> Option<String> {
    match kind {
        IntKind::Weekday => Some(super::time::weekday_name(number)),
        IntKind::Month => Some(super::time::month_name(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sprintf_writes_like_go() {
        let s = |text: &'static str| Value::text(text);
        let cases: Vec<(&str, Vec<Value<'_>>, &str)> = vec![
            ("%s-%d", vec![s("a"), Value::Int(3)], "a-3"),
            ("%d", vec![Value::Float(2.5)], "%!d(float64=2.5)"),
            ("%d", vec![s("x")], "%!d(string=x)"),
            ("%s", vec![Value::Int(1)], "%!s(int=1)"),
            ("%d", vec![], "%!d(MISSING)"),
            ("x", vec![Value::Int(2)], "x%!(EXTRA int=2)"),
            ("%v %s", vec![Value::Nil, Value::Nil], "<nil> %!s(<nil>)"),
            (
                "%5d|%-5d|%05d|%+d",
                vec![Value::Int(42), Value::Int(42), Value::Int(-42), Value::Int(1)],
                "   42|42   |-0042|+1",
            ),
            ("%x %X %q", vec![Value::Int(255), s("hi"), s("a\"b\n")], "ff 6869 \"a\\\"b\\n\""),
            (
                "%f %.2f %8.3f|",
                vec![Value::Float(1.0), Value::Float(2.346), Value::Float(1.5)],
                "1.000000 2.35    1.500|",
            ),
            ("%v %v %v", vec![Value::Float(999_999.0), Value::Float(1e6), Value::Float(0.00001)], "999999 1e+06 1e-05"),
            ("%g %e", vec![Value::Float(123_456_789.0), Value::Float(1500.0)], "1.23456789e+08 1.500000e+03"),
            ("%t%%", vec![Value::Bool(true)], "true%"),
            ("%v %s", vec![Value::list([s("a"), Value::Int(1)]), Value::list([s("b")])], "[a 1] [b]"),
            ("%", vec![], "%!(NOVERB)"),
            ("%.2s|%6s|%-6s|", vec![s("abc"), s("ab"), s("ab")], "ab|    ab|ab    |"),
            ("%[2]d %[1]d", vec![Value::Int(1), Value::Int(2)], "2 1"),
            ("%*d", vec![Value::Int(4), Value::Int(7)], "   7"),
            ("%v", vec![Value::Duration(90_000_000_000)], "1m30s"),
            ("%06.2f", vec![Value::Float(2.71)], "002.71"),
        ];
        for (spec, args, want) in cases {
            assert_eq!(format(spec, &args), want, "{spec}");
        }
    }

    #[test]
    fn a_format_of_many_wide_fields_is_bounded() {
        let many = "%[1]50000d".repeat(10_000);
        assert!(format(&many, &[Value::Int(7)]).len() < 2 * MAX_TEXT);
    }
}
