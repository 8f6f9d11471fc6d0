//! Dates by Go's reference layouts (`2006-01-02 15:04:05`).
//!
//! A layout is the reference instant written the wanted way; it is cut into chunks once per use,
//! and both directions walk over the same chunks.

use std::fmt::Write;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// RFC 3339 with as many digits of the fraction as there are.
pub const RFC3339_NANO: &str = "2006-01-02T15:04:05.999999999Z07:00";
/// RFC 3339 in seconds.
pub const RFC3339: &str = "2006-01-02T15:04:05Z07:00";

/// What a text said by a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Date and time as written; what was not written is January, the first, midnight, year 0.
    pub datetime: DateTime,
    /// Seconds east of UTC, if a numeric offset, `Z` or `UTC` was written.
    pub offset: Option<i32>,
    /// The zone abbreviation, if one was written.
    pub abbreviation: Option<String>,
    /// Whether a year was written.
    pub year_given: bool,
}

impl Parsed {
    /// The instant: without an offset of its own the text is read as UTC; of the abbreviations
    /// only `GMT+n` has one. `None` outside of the range of years 1 to 9999.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.timestamp_in(self.datetime)
    }

    /// The same with the date replaced, for texts without a year.
    pub fn timestamp_in(&self, datetime: DateTime) -> Option<Timestamp> {
        let utc = TimeZone::UTC.to_timestamp(datetime).ok()?;
        utc.checked_sub(SignedDuration::from_secs(i64::from(self.seconds_east()))).ok()
    }

    /// The zone in which the text is to be shown again.
    pub fn zone(&self) -> TimeZone {
        match Offset::from_seconds(self.seconds_east()) {
            Ok(Offset::UTC) | Err(_) => TimeZone::UTC,
            Ok(offset) => TimeZone::fixed(offset),
        }
    }

    fn seconds_east(&self) -> i32 {
        self.offset.unwrap_or_else(|| {
            let hours = self.abbreviation.as_deref().and_then(|name| name.strip_prefix("GMT")?.parse::<i32>().ok());
            hours.unwrap_or(0) * 3600
        })
    }
}

/// Why a text does not fit a layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Something else stands where this was expected.
    #[error("expected `{0}`")]
    Expected(String),
    /// A number is outside of its range.
    #[error("{0} out of range")]
    Range(&'static str),
    /// The layout ends before the text does.
    #[error("extra text after the date")]
    Extra,
}

/// One chunk of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    LongMonth,
    Month,
    NumMonth,
    ZeroMonth,
    LongWeekday,
    Weekday,
    Day,
    UnderDay,
    ZeroDay,
    UnderYearDay,
    ZeroYearDay,
    Hour,
    Hour12,
    ZeroHour12,
    Minute,
    ZeroMinute,
    Second,
    ZeroSecond,
    LongYear,
    Year,
    UpperPm,
    LowerPm,
    Abbreviation,
    /// `Z` for UTC; colons; parts (1 hours, 2 minutes, 3 seconds).
    Offset {
        z: bool,
        colon: bool,
        parts: u8,
    },
    /// Exactly this many digits.
    Fraction0 {
        digits: usize,
        comma: bool,
    },
    /// As many digits as there are, at most this many.
    Fraction9 {
        digits: usize,
        comma: bool,
    },
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The name of a month, 1 to 12.
pub(crate) fn month(number: i64) -> Option<&'static str> {
    MONTHS.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
}

/// The name of a day of the week, 0 (Sunday) to 6.
pub(crate) fn weekday(number: i64) -> Option<&'static str> {
    WEEKDAYS.get(usize::try_from(number).ok()?).copied()
}

/// Cuts the first chunk out of `layout`: what stands before it, the chunk, what follows.
fn next(layout: &str) -> Option<(&str, Chunk, &str)> {
    // longest first where one is the beginning of another
    const FIXED: [(&str, Chunk); 31] = [
        ("January", Chunk::LongMonth),
        ("Monday", Chunk::LongWeekday),
        ("MST", Chunk::Abbreviation),
        ("002", Chunk::ZeroYearDay),
        ("01", Chunk::ZeroMonth),
        ("02", Chunk::ZeroDay),
        ("03", Chunk::ZeroHour12),
        ("04", Chunk::ZeroMinute),
        ("05", Chunk::ZeroSecond),
        ("06", Chunk::Year),
        ("15", Chunk::Hour),
        ("1", Chunk::NumMonth),
        ("2006", Chunk::LongYear),
        ("2", Chunk::Day),
        ("__2", Chunk::UnderYearDay),
        ("3", Chunk::Hour12),
        ("4", Chunk::Minute),
        ("5", Chunk::Second),
        ("PM", Chunk::UpperPm),
        ("pm", Chunk::LowerPm),
        ("-07:00:00", Chunk::Offset { z: false, colon: true, parts: 3 }),
        ("-070000", Chunk::Offset { z: false, colon: false, parts: 3 }),
        ("-07:00", Chunk::Offset { z: false, colon: true, parts: 2 }),
        ("-0700", Chunk::Offset { z: false, colon: false, parts: 2 }),
        ("-07", Chunk::Offset { z: false, colon: false, parts: 1 }),
        ("Z07:00:00", Chunk::Offset { z: true, colon: true, parts: 3 }),
        ("Z070000", Chunk::Offset { z: true, colon: false, parts: 3 }),
        ("Z07:00", Chunk::Offset { z: true, colon: true, parts: 2 }),
        ("Z0700", Chunk::Offset { z: true, colon: false, parts: 2 }),
        ("Z07", Chunk::Offset { z: true, colon: false, parts: 1 }),
        ("_2", Chunk::UnderDay),
    ];
    for (at, c) in layout.char_indices() {
        let rest = &layout[at..];
        let lower = |text: &str| text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        // `_2006` is an underscore and a year
        if rest.starts_with("_2006") {
            continue;
        }
        if let Some((text, chunk)) = FIXED.iter().find(|(text, _)| rest.starts_with(text)) {
            return Some((&layout[..at], *chunk, &rest[text.len()..]));
        }
        if rest.starts_with("Jan") && !lower(&rest[3..]) {
            return Some((&layout[..at], Chunk::Month, &rest[3..]));
        }
        if rest.starts_with("Mon") && !lower(&rest[3..]) {
            return Some((&layout[..at], Chunk::Weekday, &rest[3..]));
        }
        if matches!(c, '.' | ',') {
            let bytes = rest.as_bytes();
            if let Some(digit @ (b'0' | b'9')) = bytes.get(1).copied() {
                let digits = bytes[1..].iter().take_while(|byte| **byte == digit).count();
                if !bytes.get(1 + digits).is_some_and(u8::is_ascii_digit) {
                    let comma = c == ',';
                    let chunk = if digit == b'0' {
                        Chunk::Fraction0 { digits, comma }
                    } else {
                        Chunk::Fraction9 { digits, comma }
                    };
                    return Some((&layout[..at], chunk, &rest[1 + digits..]));
                }
            }
        }
    }
    None
}

/// Reads `text` by `layout`.
pub fn parse(layout: &str, text: &str) -> Result<Parsed, LayoutError> {
    let mut reader = Reader { rest: text };
    let mut rest = layout;
    let (mut year, mut month, mut day, mut year_day) = (None, None, None, None);
    let (mut hour, mut minute, mut second, mut nanos) = (0, 0, 0, 0);
    let mut afternoon = None;
    let (mut offset, mut abbreviation) = (None, None);
    while let Some((prefix, chunk, suffix)) = next(rest) {
        reader.literal(prefix)?;
        rest = suffix;
        match chunk {
            Chunk::Year => {
                let value = reader.digits(2, 2).ok_or_else(|| expected("06"))?;
                year = Some(if value >= 69 { 1900 + value } else { 2000 + value });
            }
            Chunk::LongYear => year = Some(reader.digits(4, 4).ok_or_else(|| expected("2006"))?),
            Chunk::Month => month = Some(reader.name(&MONTHS, 3).ok_or_else(|| expected("Jan"))? as u32 + 1),
            Chunk::LongMonth => month = Some(reader.name(&MONTHS, 99).ok_or_else(|| expected("January"))? as u32 + 1),
            Chunk::NumMonth | Chunk::ZeroMonth => {
                let value = reader.number(chunk == Chunk::ZeroMonth).ok_or_else(|| expected("01"))?;
                month = Some(within(value, 1, 12, "month")?);
            }
            Chunk::Weekday => {
                reader.name(&WEEKDAYS, 3).ok_or_else(|| expected("Mon"))?;
            }
            Chunk::LongWeekday => {
                reader.name(&WEEKDAYS, 99).ok_or_else(|| expected("Monday"))?;
            }
            Chunk::Day | Chunk::UnderDay | Chunk::ZeroDay => {
                if chunk == Chunk::UnderDay {
                    reader.skip(" ");
                }
                day = Some(reader.number(chunk == Chunk::ZeroDay).ok_or_else(|| expected("02"))?);
            }
            Chunk::UnderYearDay | Chunk::ZeroYearDay => {
                let fixed = chunk == Chunk::ZeroYearDay;
                if !fixed {
                    reader.skip(" ");
                    reader.skip(" ");
                }
                year_day = Some(reader.digits(if fixed { 3 } else { 1 }, 3).ok_or_else(|| expected("002"))?);
            }
            Chunk::Hour => {
                hour = within(reader.number(false).ok_or_else(|| expected("15"))?, 0, 23, "hour")?;
            }
            Chunk::Hour12 | Chunk::ZeroHour12 => {
                let value = reader.number(chunk == Chunk::ZeroHour12).ok_or_else(|| expected("03"))?;
                hour = within(value, 0, 12, "hour")?;
            }
            Chunk::Minute | Chunk::ZeroMinute => {
                let value = reader.number(chunk == Chunk::ZeroMinute).ok_or_else(|| expected("04"))?;
                minute = within(value, 0, 59, "minute")?;
            }
            Chunk::Second | Chunk::ZeroSecond => {
                let value = reader.number(chunk == Chunk::ZeroSecond).ok_or_else(|| expected("05"))?;
                second = within(value, 0, 59, "second")?;
                let described = matches!(next(rest), Some((_, Chunk::Fraction0 { .. } | Chunk::Fraction9 { .. }, _)));
                if !described && let Some(fraction) = reader.fraction(None) {
                    nanos = fraction;
                }
            }
            Chunk::UpperPm => afternoon = Some(reader.half("PM", "AM").ok_or_else(|| expected("PM"))?),
            Chunk::LowerPm => afternoon = Some(reader.half("pm", "am").ok_or_else(|| expected("pm"))?),
            Chunk::Offset { z, colon, parts } => {
                offset = Some(if z && reader.skip("Z") { 0 } else { reader.offset(colon, parts)? });
            }
            Chunk::Abbreviation => {
                if reader.skip("UTC") {
                    offset = offset.or(Some(0));
                } else {
                    abbreviation = Some(reader.abbreviation().ok_or_else(|| expected("MST"))?);
                }
            }
            Chunk::Fraction0 { digits, .. } => {
                nanos = reader.fraction(Some(digits)).ok_or_else(|| expected(".000"))?;
            }
            Chunk::Fraction9 { .. } => {
                if let Some(fraction) = reader.fraction(None) {
                    nanos = fraction;
                }
            }
        }
    }
    reader.literal(rest)?;
    if !reader.rest.is_empty() {
        return Err(LayoutError::Extra);
    }
    match afternoon {
        Some(true) if hour < 12 => hour += 12,
        Some(false) if hour == 12 => hour = 0,
        _ => {}
    }
    let year_number = i16::try_from(year.unwrap_or(0)).map_err(|_| LayoutError::Range("year"))?;
    let date = if let Some(number) = year_day {
        let number = i64::from(within(number, 1, 366, "day of year")?);
        let first = Date::new(year_number, 1, 1).map_err(|_| LayoutError::Range("year"))?;
        let date = first
            .checked_add(SignedDuration::from_hours(24 * (number - 1)))
            .ok()
            .filter(|date| date.year() == year_number)
            .ok_or(LayoutError::Range("day of year"))?;
        let same = month.is_none_or(|month| i64::from(month) == i64::from(date.month()))
            && day.is_none_or(|day| i64::from(day) == i64::from(date.day()));
        if !same {
            return Err(LayoutError::Range("day of year"));
        }
        date
    } else {
        let day = i8::try_from(day.unwrap_or(1)).map_err(|_| LayoutError::Range("day"))?;
        Date::new(year_number, month.unwrap_or(1) as i8, day).map_err(|_| LayoutError::Range("day"))?
    };
    let time = Time::new(hour as i8, minute as i8, second as i8, nanos).map_err(|_| LayoutError::Range("time"))?;
    Ok(Parsed { datetime: date.to_datetime(time), offset, abbreviation, year_given: year.is_some() })
}

fn expected(what: &str) -> LayoutError {
    LayoutError::Expected(what.to_owned())
}

fn within(value: u32, low: u32, high: u32, name: &'static str) -> Result<u32, LayoutError> {
    if (low..=high).contains(&value) { Ok(value) } else { Err(LayoutError::Range(name)) }
}

struct Reader<'t> {
    rest: &'t str,
}

impl Reader<'_> {
    /// What stands between chunks: exact, but for runs of spaces.
    fn literal(&mut self, literal: &str) -> Result<(), LayoutError> {
        let mut literal = literal;
        while let Some(c) = literal.chars().next() {
            if c == ' ' {
                if !self.rest.is_empty() && !self.rest.starts_with(' ') {
                    return Err(expected(" "));
                }
                literal = literal.trim_start_matches(' ');
                self.rest = self.rest.trim_start_matches(' ');
                continue;
            }
            let Some(rest) = self.rest.strip_prefix(c) else {
                return Err(expected(literal));
            };
            self.rest = rest;
            literal = &literal[c.len_utf8()..];
        }
        Ok(())
    }

    fn skip(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Between `least` and `most` digits.
    fn digits(&mut self, least: usize, most: usize) -> Option<u32> {
        let count = self.rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if count < least {
            return None;
        }
        let (digits, rest) = self.rest.split_at(count);
        self.rest = rest;
        digits.parse().ok()
    }

    /// One or two digits, or exactly two.
    fn number(&mut self, two: bool) -> Option<u32> {
        self.digits(if two { 2 } else { 1 }, 2)
    }

    /// The first of `names`, cut to `length` letters, that the text starts with, in any case.
    fn name(&mut self, names: &[&str], length: usize) -> Option<usize> {
        for (at, name) in names.iter().enumerate() {
            let name = name.get(..length).unwrap_or(name);
            if self.rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)) {
                self.rest = &self.rest[name.len()..];
                return Some(at);
            }
        }
        None
    }

    fn half(&mut self, after: &str, before: &str) -> Option<bool> {
        if self.skip(after) {
            Some(true)
        } else if self.skip(before) {
            Some(false)
        } else {
            None
        }
    }

    /// A fraction with its point or comma: exactly `digits` digits or as many as there are.
    fn fraction(&mut self, digits: Option<usize>) -> Option<i32> {
        let inner = self.rest.strip_prefix(['.', ','])?;
        let found = inner.bytes().take_while(u8::is_ascii_digit).count();
        let count = match digits {
            Some(digits) if found < digits => return None,
            Some(digits) => digits,
            None if found == 0 => return None,
            None => found,
        };
        let kept = &inner[..count.min(9)];
        self.rest = &inner[count..];
        let value: i32 = kept.parse().ok()?;
        // at most nine digits, so neither the power nor the product overflows
        Some(value * 10_i32.pow(9 - kept.len() as u32))
    }

    fn offset(&mut self, colon: bool, parts: u8) -> Result<i32, LayoutError> {
        let bad = || expected("-0700");
        let negative = if self.skip("-") {
            true
        } else if self.skip("+") {
            false
        } else {
            return Err(bad());
        };
        let mut values = [0; 3];
        for (part, value) in values.iter_mut().enumerate().take(usize::from(parts)) {
            if part > 0 && colon && !self.skip(":") {
                return Err(bad());
            }
            let limit = if part == 0 { 24 } else { 60 };
            *value = within(self.digits(2, 2).ok_or_else(bad)?, 0, limit, "time zone offset")? as i32;
        }
        let seconds = (values[0] * 60 + values[1]) * 60 + values[2];
        Ok(if negative { -seconds } else { seconds })
    }

    fn abbreviation(&mut self) -> Option<String> {
        let length = self.abbreviation_length()?;
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(name.to_owned())
    }

    fn abbreviation_length(&self) -> Option<usize> {
        let text = self.rest;
        if text.starts_with("ChST") || text.starts_with("MeST") {
            return Some(4);
        }
        if let Some(rest) = text.strip_prefix("GMT") {
            return Some(3 + signed_offset(rest).unwrap_or(0));
        }
        if text.starts_with(['+', '-']) {
            return signed_offset(text);
        }
        let upper = text.bytes().take(6).take_while(u8::is_ascii_uppercase).count();
        match upper {
            3 => Some(3),
            4 if text.as_bytes()[3] == b'T' || text.starts_with("WITA") => Some(4),
            5 if text.as_bytes()[4] == b'T' => Some(5),
            _ => None,
        }
    }
}

/// The length of a sign and a number up to 23.
fn signed_offset(text: &str) -> Option<usize> {
    let rest = text.strip_prefix(['+', '-'])?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let value: u64 = rest[..digits].parse().ok()?;
    (value <= 23).then_some(1 + digits)
}

/// Writes an instant as seen in `zone` by `layout`.
pub fn format(layout: &str, time: Timestamp, zone: &TimeZone) -> String {
    let local = zone.to_datetime(time);
    let offset = zone.to_offset(time).seconds();
    let mut out = String::new();
    let mut rest = layout;
    while let Some((prefix, chunk, suffix)) = next(rest) {
        out.push_str(prefix);
        rest = suffix;
        // writing to a string cannot fail
        let _ = write_chunk(&mut out, chunk, local, offset, zone, time);
    }
    out.push_str(rest);
    out
}

fn write_chunk(
    out: &mut String,
    chunk: Chunk,
    local: DateTime,
    offset: i32,
    zone: &TimeZone,
    time: Timestamp,
) -> std::fmt::Result {
    let month_name = MONTHS[usize::from(local.month().unsigned_abs()) - 1];
    let weekday_name = WEEKDAYS[usize::from(weekday_number(local.date().weekday()).unsigned_abs())];
    let hour12 = match local.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    match chunk {
        Chunk::LongMonth => out.write_str(month_name),
        Chunk::Month => out.write_str(&month_name[..3]),
        Chunk::NumMonth => write!(out, "{}", local.month()),
        Chunk::ZeroMonth => write!(out, "{:02}", local.month()),
        Chunk::LongWeekday => out.write_str(weekday_name),
        Chunk::Weekday => out.write_str(&weekday_name[..3]),
        Chunk::Day => write!(out, "{}", local.day()),
        Chunk::UnderDay => write!(out, "{:>2}", local.day()),
        Chunk::ZeroDay => write!(out, "{:02}", local.day()),
        Chunk::UnderYearDay => write!(out, "{:>3}", local.date().day_of_year()),
        Chunk::ZeroYearDay => write!(out, "{:03}", local.date().day_of_year()),
        Chunk::Hour => write!(out, "{:02}", local.hour()),
        Chunk::Hour12 => write!(out, "{hour12}"),
        Chunk::ZeroHour12 => write!(out, "{hour12:02}"),
        Chunk::Minute => write!(out, "{}", local.minute()),
        Chunk::ZeroMinute => write!(out, "{:02}", local.minute()),
        Chunk::Second => write!(out, "{}", local.second()),
        Chunk::ZeroSecond => write!(out, "{:02}", local.second()),
        Chunk::LongYear => write!(out, "{:04}", local.year()),
        Chunk::Year => write!(out, "{:02}", local.year().rem_euclid(100)),
        Chunk::UpperPm => out.write_str(if local.hour() >= 12 { "PM" } else { "AM" }),
        Chunk::LowerPm => out.write_str(if local.hour() >= 12 { "pm" } else { "am" }),
        Chunk::Abbreviation => {
            if let Some(name) = abbreviation(zone, time) {
                out.write_str(&name)
            } else {
                write_offset(out, offset, false, 1)?;
                if offset % 3600 != 0 { write!(out, "{:02}", offset.abs() / 60 % 60) } else { Ok(()) }
            }
        }
        Chunk::Offset { z: true, .. } if offset == 0 => out.write_char('Z'),
        Chunk::Offset { colon, parts, .. } => write_offset(out, offset, colon, parts),
        Chunk::Fraction0 { digits, comma } => {
            let nanos = format!("{:09}", local.subsec_nanosecond());
            let kept = nanos.get(..digits).unwrap_or(&nanos);
            write!(out, "{}{kept:0<digits$}", if comma { ',' } else { '.' }, digits = digits.min(64))
        }
        Chunk::Fraction9 { digits, comma } => {
            let nanos = format!("{:09}", local.subsec_nanosecond());
            let kept = nanos.get(..digits).unwrap_or(&nanos).trim_end_matches('0');
            if kept.is_empty() { Ok(()) } else { write!(out, "{}{kept}", if comma { ',' } else { '.' }) }
        }
    }
}

fn write_offset(out: &mut String, offset: i32, colon: bool, parts: u8) -> std::fmt::Result {
    let sign = if offset < 0 { '-' } else { '+' };
    let seconds = offset.abs();
    write!(out, "{sign}{:02}", seconds / 3600)?;
    for (part, value) in [(2, seconds / 60 % 60), (3, seconds % 60)] {
        if parts >= part {
            if colon {
                out.push(':');
            }
            write!(out, "{value:02}")?;
        }
    }
    Ok(())
}

/// The name of the zone at that time, if it has one.
fn abbreviation(zone: &TimeZone, time: Timestamp) -> Option<String> {
    if *zone == TimeZone::UTC {
        return Some("UTC".to_owned());
    }
    let info = zone.to_offset_info(time);
    let name = info.abbreviation();
    name.starts_with(|c: char| c.is_ascii_alphabetic()).then(|| name.to_owned())
}

/// Sunday is 0.
pub(crate) fn weekday_number(weekday: Weekday) -> i8 {
    weekday.to_sunday_zero_offset()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        // (layout, text, RFC 3339 in UTC; empty: refused)
        let cases = [
            ("Jan  2 15:04:05", "Feb  2 10:11:12", "0000-02-02T10:11:12Z"),
            ("Jan  2 15:04:05", "feb 2 10:11:12", "0000-02-02T10:11:12Z"),
            ("Jan  2 15:04:05", "Feb 12 1:11:12", "0000-02-12T01:11:12Z"),
            ("Jan  2 15:04:05", "Feb 29 00:00:00", "0000-02-29T00:00:00Z"),
            ("2006-01-02 15:04:05", "2024-01-02 03:04:05,123", "2024-01-02T03:04:05.123Z"),
            (RFC3339, "2024-01-02T03:04:05,123Z", "2024-01-02T03:04:05.123Z"),
            (RFC3339, "2024-01-02T3:04:05Z", "2024-01-02T03:04:05Z"),
            (RFC3339, "2024-01-02T03:04:05+02:30", "2024-01-02T00:34:05Z"),
            (RFC3339, "2024-01-02T03:04:05+0200", ""),
            ("Mon Jan 2 15:04:05 2006", "Tue Jan 02 03:04:05.123456 2024", "2024-01-02T03:04:05.123456Z"),
            ("Mon Jan 2 15:04:05 2006", "Tue Jan  2  03:04:05 2024", "2024-01-02T03:04:05Z"),
            ("2006-01-02", "2024-1-2", ""),
            ("2006-01-02", "2024-01-02 ", ""),
            ("2006-01-02", "2024-02-30", ""),
            ("2006-01-02 15:04:05", "2024-01-02 24:04:05", ""),
            ("02/Jan/2006:15:04:05 -0700", "12/Oct/2023:13:55:36 -0700", "2023-10-12T20:55:36Z"),
            ("2006-01-02 15:04:05.999999999 -0700 MST", "2023-10-12 13:55:36.5 +0200 CEST", "2023-10-12T11:55:36.5Z"),
            ("02-Jan-2006 15:04:05 europe/paris", "01-Feb-2024 10:00:00 europe/paris", "2024-02-01T10:00:00Z"),
            ("2006-01-02 MST", "2024-01-02 GMT+3", "2024-01-01T21:00:00Z"),
            ("2006-01-02 MST", "2024-01-02 PST", "2024-01-02T00:00:00Z"),
            ("2006-01-02 MST", "2024-01-02 pst", ""),
            ("2006 002", "2024 060", "2024-02-29T00:00:00Z"),
            ("2006 002", "2023 366", ""),
            ("3:04PM", "3:04PM", "0000-01-01T15:04:00Z"),
            ("3:04PM", "12:04AM", "0000-01-01T00:04:00Z"),
            ("3:04PM", "3:04pm", ""),
            ("06/1/2", "68/2/3", "2068-02-03T00:00:00Z"),
            ("06/1/2", "69/2/3", "1969-02-03T00:00:00Z"),
            ("15:04:05.000", "01:02:03.12", ""),
            ("15:04:05.000", "01:02:03.123", "0000-01-01T01:02:03.123Z"),
            ("15:04:05.999", "01:02:03", "0000-01-01T01:02:03Z"),
            ("January 2, 2006", "october 12, 2023", "2023-10-12T00:00:00Z"),
        ];
        for (layout, text, want) in cases {
            let got = parse(layout, text)
                .ok()
                .and_then(|parsed| parsed.timestamp())
                .map(|time| format(RFC3339_NANO, time, &TimeZone::UTC))
                .unwrap_or_default();
            assert_eq!(got, want, "{layout} on {text}");
        }
    }

    #[test]
    fn tells_whether_a_year_was_given() {
        assert!(!parse("Jan  2 15:04:05", "Feb  2 10:11:12").expect("fits").year_given);
        assert!(parse("2006", "0000").expect("fits").year_given);
    }

    #[test]
    fn formats() {
        let time: Timestamp = "2024-03-05T16:07:08.090Z".parse().expect("valid");
        let zone = TimeZone::fixed(Offset::from_seconds(-(3 * 3600 + 1800)).expect("in range"));
        let cases = [
            ("2006-01-02 15:04:05", &TimeZone::UTC, "2024-03-05 16:07:08"),
            ("Mon Jan _2 3:04:05PM MST 2006", &TimeZone::UTC, "Tue Mar  5 4:07:08PM UTC 2024"),
            (RFC3339_NANO, &zone, "2024-03-05T12:37:08.09-03:30"),
            ("Monday, January 2 06 .000 -0700", &zone, "Tuesday, March 5 24 .090 -0330"),
            ("002 __2 pm", &TimeZone::UTC, "065  65 pm"),
            ("_2006", &TimeZone::UTC, "_2024"),
        ];
        for (layout, zone, want) in cases {
            assert_eq!(format(layout, time, zone), want, "{layout}");
        }
    }
}
