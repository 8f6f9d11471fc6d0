//! An instant with the offset of the log that told it, and its texts.
//!
//! Alerts carry times as their logs wrote them, so the offset travels along; comparisons look at the instant alone.

use expr::Value;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

/// An instant and the offset it is shown with, in seconds east of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// When.
    pub instant: Timestamp,
    /// Seconds east of UTC.
    pub offset: i32,
}

impl EventTime {
    /// An instant shown in UTC.
    pub fn utc(instant: Timestamp) -> Self {
        Self { instant, offset: 0 }
    }

    /// The time that an RFC 3339 text tells: `2021-09-29T14:11:34.5+02:00`.
    ///
    /// Strict as Go is: capital `T` and `Z`, two digits everywhere, an offset of hours and minutes.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |range: std::ops::Range<usize>| {
            let digits = bytes.get(range)?;
            let all = digits.iter().all(u8::is_ascii_digit);
            all.then(|| digits.iter().fold(0_i32, |number, digit| number * 10 + i32::from(digit - b'0')))
        };
        let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) {
            return None;
        }
        let (mut at, mut nanos) = (19, 0);
        if matches!(bytes.get(at), Some(b'.' | b',')) {
            let digits = bytes.get(at + 1..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            for place in 0..9 {
                let digit = if place < digits { i32::from(bytes[at + 1 + place] - b'0') } else { 0 };
                nanos = nanos * 10 + digit;
            }
            at += 1 + digits;
        }
        let offset = match bytes.get(at..)? {
            b"Z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
                if hours > 24 || minutes > 60 {
                    return None;
                }
                (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
            }
            _ => return None,
        };
        let [month, day, hour, minute, second] = [5..7, 8..10, 11..13, 14..16, 17..19].map(number);
        let civil = DateTime::new(
            number(0..4)? as i16,
            month? as i8,
            day? as i8,
            hour? as i8,
            minute? as i8,
            second? as i8,
            nanos,
        )
        .ok()?;
        let instant = Offset::from_seconds(offset).ok()?.to_timestamp(civil).ok()?;
        Some(Self { instant, offset })
    }

    /// The RFC 3339 text: a fraction only if there is one, `Z` for UTC.
    pub fn rfc3339(self) -> String {
        let (civil, offset) = self.civil();
        let mut text = String::with_capacity(LONGEST);
        date(civil, &mut text);
        text.push('T');
        clock(civil, &mut text);
        match offset {
            0 => text.push('Z'),
            offset => zone(offset, ":", &mut text),
        }
        text
    }

    /// As Go prints a time in a message: `2021-09-29 14:11:34 +0000 UTC`, `... +0200 +0200`.
    pub fn go_text(self) -> String {
        let (civil, offset) = self.civil();
        let mut text = String::with_capacity(LONGEST);
        date(civil, &mut text);
        text.push(' ');
        clock(civil, &mut text);
        text.push(' ');
        zone(offset, "", &mut text);
        text.push(' ');
        if offset == 0 {
            text.push_str("UTC");
        } else {
            zone(offset, "", &mut text);
        }
        text
    }

    fn civil(self) -> (DateTime, i32) {
        let offset = Offset::from_seconds(self.offset).unwrap_or(Offset::UTC);
        (offset.to_datetime(self.instant), offset.seconds())
    }

    pub(crate) fn value(self) -> Value<'static> {
        let zone = match self.offset {
            0 => TimeZone::UTC,
            offset => Offset::from_seconds(offset).map_or(TimeZone::UTC, TimeZone::fixed),
        };
        Value::Time(self.instant, zone)
    }
}

/// Bytes of the longest text of a time.
const LONGEST: usize = 48;

/// `2021-09-29`. Every event is told its time as a text: digits are written one by one.
fn date(civil: DateTime, out: &mut String) {
    if let Ok(year) = u32::try_from(civil.year()) {
        digits(year, 4, out);
    } else {
        out.push_str("-00");
        digits(civil.year().unsigned_abs().into(), 4, out);
    }
    out.push('-');
    digits(civil.month().unsigned_abs().into(), 2, out);
    out.push('-');
    digits(civil.day().unsigned_abs().into(), 2, out);
}

/// `14:11:34`, `14:11:34.5`.
fn clock(civil: DateTime, out: &mut String) {
    for (part, mark) in [(civil.hour(), ":"), (civil.minute(), ":"), (civil.second(), "")] {
        digits(part.unsigned_abs().into(), 2, out);
        out.push_str(mark);
    }
    if civil.subsec_nanosecond() > 0 {
        out.push('.');
        digits(civil.subsec_nanosecond().unsigned_abs(), 9, out);
        out.truncate(out.trim_end_matches('0').len());
    }
}

fn zone(offset: i32, colon: &str, out: &mut String) {
    out.push(if offset < 0 { '-' } else { '+' });
    let minutes = offset.unsigned_abs() / 60;
    digits(minutes / 60, 2, out);
    out.push_str(colon);
    digits(minutes % 60, 2, out);
}

/// The last `count` digits of `number`, which has no more.
fn digits(number: u32, count: u32, out: &mut String) {
    for place in (0..count).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        out.push(char::from(b'0' + digit as u8));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts() {
        // (text read, as RFC 3339, as Go prints it)
        let cases = [
            ("2021-09-29T14:11:34Z", "2021-09-29T14:11:34Z", "2021-09-29 14:11:34 +0000 UTC"),
            ("2021-09-29T14:11:34+02:00", "2021-09-29T14:11:34+02:00", "2021-09-29 14:11:34 +0200 +0200"),
            ("2021-09-29T14:11:34.500-03:30", "2021-09-29T14:11:34.5-03:30", "2021-09-29 14:11:34.5 -0330 -0330"),
            ("0004-02-29T00:00:00+00:00", "0004-02-29T00:00:00Z", "0004-02-29 00:00:00 +0000 UTC"),
            (
                "2021-09-29T14:11:34.1234567899Z",
                "2021-09-29T14:11:34.123456789Z",
                "2021-09-29 14:11:34.123456789 +0000 UTC",
            ),
        ];
        for (text, rfc3339, go) in cases {
            let time = EventTime::parse_rfc3339(text).expect(text);
            assert_eq!(time.rfc3339(), rfc3339, "{text}");
            assert_eq!(time.go_text(), go, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn times_are_written_as_they_are_read(
            second in -377_000_000_000_i64..253_000_000_000,
            nanos in prop::sample::select(vec![0, 1, 500_000_000, 120_000_000]),
            minutes in -1000..1000,
        ) {
            let instant = Timestamp::new(second, nanos).expect("within the years that there are");
            let time = EventTime { instant, offset: minutes * 60 };
            let shown = Offset::from_seconds(time.offset).expect("less than a day").to_datetime(instant);
            let text = time.rfc3339();
            prop_assert!(text.starts_with(&shown.to_string()), "{text} {shown}");
            if shown.year() >= 0 {
                prop_assert_eq!(EventTime::parse_rfc3339(&text), Some(time));
            }
        }
    }

    #[test]
    fn refusals() {
        let texts = [
            "",
            "2021-09-29",
            "2021-09-29T14:11:34",
            "2021-09-29t14:11:34z",
            "2021-09-29 14:11:34Z",
            "2021-13-29T14:11:34Z",
            "2021-02-30T14:11:34Z",
            "2021-09-29T24:11:34Z",
            "2021-09-29T14:11:34.Z",
            "2021-09-29T14:11:34+0200",
            "2021-09-29T14:11:34+02:00x",
            "2021-09-29T14:11:3éZ",
        ];
        for text in texts {
            assert_eq!(EventTime::parse_rfc3339(text), None, "{text}");
        }
    }
}
