//! `ParseDate`: the time that a log tells (spec: parsers 9.1).
//!
//! A date is tried by the layout that the parser gave, by the customary ones, as unix seconds; what nothing reads is now.
//! A date without a year gets one by a [`YearRule`].

use std::sync::Arc;

use expr::golayout;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use model::event::Span;
use model::{Event, EventTime, fields};

use crate::Context;

/// Which year a date without one gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YearRule {
    /// The current one in UTC, as the reference has it: 31 December read on 1 January lies ahead.
    Current,
    /// The latest one that puts the date at most a day ahead of now.
    Latest,
    /// The same with another moment for now: the end of a log that is replayed.
    LatestBefore(Timestamp),
}

/// Layouts in the order in which they are tried.
const LAYOUTS: [&str; 15] = [
    "2006-01-02T15:04:05Z07:00",
    "02/Jan/2006:15:04:05 -0700",
    "Mon Jan 2 15:04:05 2006",
    "02-Jan-2006 15:04:05 europe/paris",
    "01/02/2006 15:04:05",
    "2006-01-02 15:04:05.999999999 -0700 MST",
    "Jan  2 15:04:05",
    "Mon Jan 02 15:04:05.000000 2006",
    "2006/01/02",
    "2006/01/02 15:04",
    "2006-01-02",
    "2006-01-02 15:04",
    "2006/01/02 15:04:05",
    "2006-01-02 15:04:05",
    "2006-01-02T15:04:05",
];

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Go's zero time, which stands for no time.
const ZERO: i64 = -62_135_596_800;
const DAY: SignedDuration = SignedDuration::from_hours(24);

impl YearRule {
    /// The date in the year that the rule chooses.
    fn apply(self, date: DateTime, now: Timestamp) -> Option<DateTime> {
        let year_of = |time: Timestamp| TimeZone::UTC.to_datetime(time).year();
        let reference = match self {
            Self::Current => {
                return in_year(date, year_of(now)).or_else(|| {
                    // 29 February of a year that has none
                    let first_of_march = Date::new(year_of(now), 3, 1).ok()?;
                    Some(first_of_march.to_datetime(date.time()))
                });
            }
            Self::Latest => now,
            Self::LatestBefore(reference) => reference,
        };
        let limit = reference.checked_add(DAY).unwrap_or(Timestamp::MAX);
        // a leap day is at most eight years away
        let years = (0..10).filter_map(|back| year_of(reference).checked_add(1)?.checked_sub(back));
        years
            .filter_map(|year| in_year(date, year))
            .find(|date| TimeZone::UTC.to_timestamp(*date).is_ok_and(|instant| instant <= limit))
    }
}

fn in_year(date: DateTime, year: i16) -> Option<DateTime> {
    Some(Date::new(year, date.month(), date.day()).ok()?.to_datetime(date.time()))
}

/// The time that `text` tells. `format` is the layout that the parser gave, or empty.
pub fn read(text: &str, format: &str, year: YearRule, now: Timestamp, zone: &TimeZone) -> Option<EventTime> {
    if text.is_empty() {
        return None;
    }
    if format.is_empty()
        && let Some(time) = customary(text, year, now)
    {
        return Some(time);
    }
    let given = (!format.is_empty()).then_some(format);
    let layouts = given.into_iter().chain(LAYOUTS);
    let mut read = layouts.filter_map(|layout| by_layout(layout, text, year, now));
    read.next().or_else(|| unix_seconds(text, zone))
}

/// Reads the two layouts of nearly all logs, where every digit stands in its place. Whatever else a layout admits is left
/// to it; no layout that is tried before these reads such texts.
fn customary(text: &str, year: YearRule, now: Timestamp) -> Option<EventTime> {
    let bytes = text.as_bytes();
    let number = |at: usize, length: usize| {
        let digits = bytes.get(at..at + length)?;
        digits
            .iter()
            .try_fold(0_i32, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0')))
    };
    let month = |at: usize| {
        let name = bytes.get(at..at + 3)?;
        MONTHS.iter().position(|month| month.as_bytes() == name).map(|month| month as i8 + 1)
    };
    let clock = |at: usize| {
        let colons = bytes.get(at + 2) == Some(&b':') && bytes.get(at + 5) == Some(&b':');
        let parts = [number(at, 2)?, number(at + 3, 2)?, number(at + 6, 2)?];
        let [hour, minute, second] = parts.map(|part| part as i8);
        // a leap second is the layouts' business
        if !colons || second > 59 {
            return None;
        }
        Time::new(hour, minute, second, 0).ok()
    };
    let (datetime, offset) = match bytes.len() {
        // 02/Jan/2006:15:04:05 -0700
        26 => {
            let marks = [(2, b'/'), (6, b'/'), (11, b':'), (20, b' ')];
            if marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) {
                return None;
            }
            let date = Date::new(number(7, 4)? as i16, month(3)?, number(0, 2)? as i8).ok()?;
            let sign = match bytes.get(21)? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = (number(22, 2)?, number(24, 2)?);
            if date.year() == 0 || hours > 23 || minutes > 59 {
                return None;
            }
            (date.to_datetime(clock(12)?), sign * (hours * 3600 + minutes * 60))
        }
        // Jan  2 15:04:05
        15 => {
            if bytes.get(3) != Some(&b' ') || bytes.get(6) != Some(&b' ') {
                return None;
            }
            let day = if bytes.get(4) == Some(&b' ') { number(5, 1)? } else { number(4, 2)? };
            // 29 February depends on the year
            let (month, day) = (month(0)?, day as i8);
            if (month, day) == (2, 29) {
                return None;
            }
            let date = Date::new(0, month, day).ok()?;
            (year.apply(date.to_datetime(clock(7)?), now)?, 0)
        }
        _ => return None,
    };
    let instant = Offset::from_seconds(offset).ok()?.to_timestamp(datetime).ok()?;
    (instant.as_second() != ZERO).then_some(EventTime { instant, offset })
}

fn by_layout(layout: &str, text: &str, year: YearRule, now: Timestamp) -> Option<EventTime> {
    let parsed = golayout::parse(layout, text).ok()?;
    let datetime = match parsed.datetime.year() {
        0 => year.apply(parsed.datetime, now)?,
        _ => parsed.datetime,
    };
    let instant = parsed.timestamp_in(datetime)?;
    let offset = parsed.zone().to_offset(instant).seconds();
    (instant.as_second() != ZERO && offset.abs() < 24 * 3600).then_some(EventTime { instant, offset })
}

fn unix_seconds(text: &str, zone: &TimeZone) -> Option<EventTime> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let seconds: i64 = whole.parse().ok()?;
    let instant = Timestamp::from_second(seconds).ok().filter(|_| seconds > 0)?;
    Some(EventTime { instant, offset: zone.to_offset(instant).seconds() })
}

/// What was made of a date, and by what.
#[derive(Debug)]
pub(crate) struct Dated {
    format: Box<str>,
    year: YearRule,
    now: Timestamp,
    zone: TimeZone,
    time: Option<EventTime>,
    shown: Arc<str>,
}

impl Dated {
    fn new(text: &str, format: &str, cx: &Context<'_>) -> Self {
        let time = read(text, format, cx.year, cx.now, cx.zone);
        let shown = time.unwrap_or(EventTime::utc(cx.now)).rfc3339().into();
        Self { format: format.into(), year: cx.year, now: cx.now, zone: cx.zone.clone(), time, shown }
    }

    fn holds(&self, format: &str, cx: &Context<'_>) -> bool {
        self.now == cx.now && *self.format == *format && self.year == cx.year && self.zone == *cx.zone
    }
}

/// Writes the time into `evt.Enriched.MarshaledTime`. The event itself takes it on only in a replay, and only if it was read.
pub(super) fn enrich(argument: Span, event: &mut Event, cx: &Context<'_>) {
    let (text, format) = (event.text(argument), event.get(fields::STR_TIME_FORMAT).unwrap_or(""));
    let (time, shown) = cx.scratch.answers.borrow_mut().dates.get_or(
        text,
        |dated| dated.holds(format, cx),
        || Dated::new(text, format, cx),
        |dated| (dated.time, event.keep_shared(&dated.shown)),
    );
    event.set_span(fields::ENRICHED_MARSHALED_TIME, shown);
    if let (Some(time), true) = (time, event.time_machine()) {
        event.set_time(time);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("an RFC 3339 text")
    }

    #[test]
    fn dates_as_logs_write_them() {
        // (text, layout of the parser, RFC 3339 or empty)
        let cases: &[(&str, &str, &str)] = &[
            ("2024-01-02T03:04:05+02:00", "", "2024-01-02T03:04:05+02:00"),
            ("2024-01-02T3:04:05Z", "", "2024-01-02T03:04:05Z"),
            ("2024-01-02T03:04:05,123Z", "", "2024-01-02T03:04:05.123Z"),
            ("12/Oct/2023:13:55:36 -0700", "", "2023-10-12T13:55:36-07:00"),
            ("Tue Jan 02 03:04:05.123456 2024", "", "2024-01-02T03:04:05.123456Z"),
            ("12-Oct-2023 10:00:00 europe/paris", "", "2023-10-12T10:00:00Z"),
            ("10/12/2023 10:00:00", "", "2023-10-12T10:00:00Z"),
            ("Feb  2 10:11:12", "", "2026-02-02T10:11:12Z"),
            ("feb 2 10:11:12", "", "2026-02-02T10:11:12Z"),
            ("2023/10/12", "", "2023-10-12T00:00:00Z"),
            ("2024-01-02 03:04:05,123", "", "2024-01-02T03:04:05.123Z"),
            ("2024-01-02T03:04:05+0200", "", ""),
            ("2024-01-02 03:04:05Z", "", ""),
            ("2024-1-2", "", ""),
            ("2024-01-02 ", "", ""),
            ("12.10.2023", "02.01.2006", "2023-10-12T00:00:00Z"),
            ("2023/10/12", "02.01.2006", "2023-10-12T00:00:00Z"),
            ("1700000000", "", "2023-11-14T23:13:20+01:00"),
            ("+1700000000.5", "", "2023-11-14T23:13:20+01:00"),
            ("0", "", ""),
            ("-5", "", ""),
            ("", "2006", ""),
            ("0001-01-01", "", ""),
        ];
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (text, layout, expected) in cases {
            let time = read(text, layout, YearRule::Current, at("2026-08-22T00:00:00Z"), &zone);
            assert_eq!(time.map_or(String::new(), EventTime::rfc3339), *expected, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn customary_dates_are_read_as_their_layouts_read_them(
            (day, month, year) in (0..33_u8, 0..13_usize, 1969..2031_i16),
            (hour, minute, second) in (0..26_u8, 0..62_u8, 0..62_u8),
            (sign, hours, minutes) in (prop::sample::select(vec!["+", "-", " "]), 0..26_u8, 0..62_u8),
            rule in prop::sample::select(vec![YearRule::Current, YearRule::Latest]),
        ) {
            let month = MONTHS.get(month).unwrap_or(&"jan");
            let now = at("2026-08-22T00:00:00Z");
            let layouts = [
                format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} {sign}{hours:02}{minutes:02}"),
                format!("{month} {day:2} {hour:02}:{minute:02}:{second:02}"),
                format!("{month} {day:02} {hour:02}:{minute:02}:{second:02}"),
            ];
            for text in layouts {
                if let Some(time) = customary(&text, rule, now) {
                    let slow = LAYOUTS.iter().find_map(|layout| by_layout(layout, &text, rule, now));
                    prop_assert_eq!(Some(time), slow, "{}", text);
                }
            }
        }
    }

    #[test]
    fn years_for_dates_without_one() {
        // (date, rule, now, what becomes of it)
        let cases: &[(&str, YearRule, &str, &str)] = &[
            ("Dec 31 23:59:59", YearRule::Current, "2027-01-01T00:00:10Z", "2027-12-31T23:59:59Z"),
            ("Dec 31 23:59:59", YearRule::Latest, "2027-01-01T00:00:10Z", "2026-12-31T23:59:59Z"),
            ("Jan  1 02:00:00", YearRule::Latest, "2026-12-31T23:00:00Z", "2027-01-01T02:00:00Z"),
            ("Jan  3 00:00:00", YearRule::Latest, "2026-12-31T23:00:00Z", "2026-01-03T00:00:00Z"),
            ("Feb 29 10:00:00", YearRule::Current, "2026-08-22T00:00:00Z", "2026-03-01T10:00:00Z"),
            ("Feb 29 10:00:00", YearRule::Latest, "2026-08-22T00:00:00Z", "2024-02-29T10:00:00Z"),
            (
                "Jun 15 10:00:00",
                YearRule::LatestBefore(Timestamp::constant(1_134_000_000, 0)),
                "2026-08-22T00:00:00Z",
                "2005-06-15T10:00:00Z",
            ),
        ];
        for (text, rule, now, expected) in cases {
            let time = read(text, "", *rule, at(now), &TimeZone::UTC);
            assert_eq!(time.map_or(String::new(), EventTime::rfc3339), *expected, "{text} at {now}");
        }
    }
}
