//! Go's spelling of durations: `1h30m`, `500ms`, `-2m0.5s`.
//!
//! A duration is a signed number of nanoseconds in 64 bits, as in Go.

use std::fmt::Write as _;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing there.
    #[error("empty duration string")]
    Empty,
    /// Not numbers followed by units.
    #[error("invalid duration `{0}`, expected a form like `1h30m` or `10s`")]
    Invalid(String),
    /// A number without a unit.
    #[error("missing unit in duration `{0}`, expected one of ns, us, ms, s, m, h")]
    MissingUnit(String),
    /// A unit that is not known.
    #[error("unknown unit `{unit}` in duration `{text}`, expected one of ns, us, ms, s, m, h")]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// The number of days is not a whole number that fits.
    #[error("invalid day value in duration `{0}`")]
    Days(String),
}

/// Nanoseconds of a text in Go's grammar: an optional sign, then one or more decimals with a unit; `0` needs none.
pub fn parse(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        None => return Err(DurationError::Empty),
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(DurationError::MissingUnit(text.to_owned()));
        }
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
            }
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<i64>().map_err(|_| invalid())?.into() };
        total += whole * scale;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            if place == 0 {
                break;
            }
            total += i128::from(digit - b'0') * place;
        }
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(invalid());
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Like [`parse`], with an optional whole number of days in front: `7d`, `1d12h`.
pub fn parse_with_days(text: &str) -> Result<i64, DurationError> {
    const DAY: i64 = 86_400_000_000_000;
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let Some((days, rest)) = rest.split_once('d') else {
        return parse(text);
    };
    let bad = || DurationError::Days(text.to_owned());
    if days.is_empty() || !days.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let days = days.parse::<i64>().ok().and_then(|days| days.checked_mul(DAY)).ok_or_else(bad)?;
    let rest = match rest {
        "" => 0,
        rest if rest.starts_with(['-', '+']) => {
            return Err(DurationError::Invalid(text.to_owned()));
        }
        rest => parse(rest)?,
    };
    days.checked_add(rest).map(|total| sign * total).ok_or_else(bad)
}

/// The text Go prints: `1h0m5.25s`, `500ms`, `0s`.
pub fn format(nanos: i64) -> String {
    let mut text = String::new();
    if nanos < 0 {
        text.push('-');
    }
    let total = nanos.unsigned_abs();
    match total {
        0 => text.push_str("0s"),
        1..1_000 => push_decimal(&mut text, total, 1, "ns"),
        1_000..1_000_000 => push_decimal(&mut text, total, 1_000, "µs"),
        1_000_000..1_000_000_000 => push_decimal(&mut text, total, 1_000_000, "ms"),
        _ => {
            let seconds = total / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            if hours > 0 {
                let _ = write!(text, "{hours}h");
            }
            if seconds >= 60 {
                let _ = write!(text, "{minutes}m");
            }
            push_decimal(&mut text, total % 60_000_000_000, 1_000_000_000, "s");
        }
    }
    text
}

fn push_decimal(text: &mut String, value: u64, unit: u64, suffix: &str) {
    let _ = write!(text, "{}", value / unit);
    let mut fraction = value % unit;
    if fraction > 0 {
        text.push('.');
        let mut place = unit / 10;
        while fraction > 0 {
            let _ = write!(text, "{}", fraction / place);
            fraction %= place;
            place /= 10;
        }
    }
    text.push_str(suffix);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_and_nanoseconds() {
        // (text, nanoseconds, how Go prints it)
        let cases: &[(&str, i64, &str)] = &[
            ("0", 0, "0s"),
            ("10s", 10_000_000_000, "10s"),
            ("60s", 60_000_000_000, "1m0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            (".5s", 500_000_000, "500ms"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("2µs", 2_000, "2µs"),
            ("2μs", 2_000, "2µs"),
            ("1500us", 1_500_000, "1.5ms"),
            ("-5m", -300_000_000_000, "-5m0s"),
            ("1h0m5.25s", 3_605_250_000_000, "1h0m5.25s"),
            ("720h", 2_592_000_000_000_000, "720h0m0s"),
            ("12ns", 12, "12ns"),
        ];
        for (text, nanos, printed) in cases {
            assert_eq!(parse(text), Ok(*nanos), "{text}");
            assert_eq!(format(*nanos), *printed, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for text in ["", "-", "5", "s", "1x", "1.2.3s", ".s", "1d", "9999999999999h", "1h 2m", "--1s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["", "d", "1.5d", "1d-2h", "xd", "1d2", "99999999999999d"] {
            assert!(parse_with_days(text).is_err(), "{text}");
        }
    }

    #[test]
    fn days_come_first() {
        assert_eq!(parse_with_days("7d"), Ok(604_800_000_000_000));
        assert_eq!(parse_with_days("1d12h"), Ok(129_600_000_000_000));
        assert_eq!(parse_with_days("-1d"), Ok(-86_400_000_000_000));
        assert_eq!(parse_with_days("4h"), Ok(14_400_000_000_000));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(nanos in any::<i64>()) {
            prop_assert_eq!(parse(&format(nanos)), Ok(nanos));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = parse(&text);
            let _ = parse_with_days(&text);
        }
    }
}
