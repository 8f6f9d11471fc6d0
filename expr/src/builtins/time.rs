//! Instants, durations and zones.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use smallvec::SmallVec;

use super::{int, items, text};
use crate::duration;
use crate::error::EvalError;
use crate::golayout;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome};
use crate::types::{IntKind, Type};
use crate::value::Value;

pub(crate) const ROWS: &[Function] = &[
    Function::new("now", &[P::Zone], R::Time, now).optional(1).nature(Nature::Volatile),
    Function::new("duration", &[P::Str], R::Duration, to_duration).fails(),
    Function::new("date", &[P::Any, P::Any, P::Any], R::From(date_type), date).optional(2).fails(),
    Function::new("timezone", &[P::Str], R::From(|_| Ok(Type::Zone)), timezone).fails(),
    Function::new("TimeNow", &[], R::Str, time_now).nature(Nature::Volatile),
    Function::new("ParseUnix", &[P::Str], R::Str, parse_unix),
    Function::new("AverageInterval", &[P::List], R::Duration, average_interval).fails(),
    Function::new("MedianInterval", &[P::List], R::Duration, median_interval).fails(),
];

/// What a time can be asked.
pub(crate) const TIME_METHODS: &[Function] = &[
    Function::new("Hour", &[P::Time], R::Int, |_, args| part(args, |local| i64::from(local.hour()))),
    Function::new("Minute", &[P::Time], R::Int, |_, args| part(args, |local| i64::from(local.minute()))),
    Function::new("Second", &[P::Time], R::Int, |_, args| part(args, |local| i64::from(local.second()))),
    Function::new("Nanosecond", &[P::Time], R::Int, |_, args| part(args, |local| i64::from(local.subsec_nanosecond()))),
    Function::new("Year", &[P::Time], R::Int, |_, args| part(args, |local| i64::from(local.year()))),
    Function::new("Day", &[P::Time], R::Int, |_, args| part(args, |local| i64::from(local.day()))),
    Function::new("YearDay", &[P::Time], R::Int, |_, args| part(args, |local| i64::from(local.date().day_of_year()))),
    Function::new("Month", &[P::Time], R::From(|_| Ok(Type::Sized(IntKind::Month))), |_, args| {
        let (time, zone) = time(args, 0)?;
        Ok(Value::Sized(i64::from(zone.to_datetime(time).month()), IntKind::Month))
    }),
    Function::new("Weekday", &[P::Time], R::From(|_| Ok(Type::Sized(IntKind::Weekday))), |_, args| {
        let (time, zone) = time(args, 0)?;
        let weekday = zone.to_datetime(time).date().weekday();
        Ok(Value::Sized(i64::from(golayout::weekday_number(weekday)), IntKind::Weekday))
    }),
    Function::new("Unix", &[P::Time], R::From(|_| Ok(Type::Sized(IntKind::I64))), |_, args| {
        Ok(Value::Sized(time(args, 0)?.0.as_nanosecond().div_euclid(1_000_000_000) as i64, IntKind::I64))
    }),
    Function::new("UnixMilli", &[P::Time], R::From(|_| Ok(Type::Sized(IntKind::I64))), |_, args| {
        Ok(Value::Sized(time(args, 0)?.0.as_nanosecond().div_euclid(1_000_000) as i64, IntKind::I64))
    }),
    Function::new("UnixMicro", &[P::Time], R::From(|_| Ok(Type::Sized(IntKind::I64))), |_, args| {
        Ok(Value::Sized(time(args, 0)?.0.as_nanosecond().div_euclid(1000) as i64, IntKind::I64))
    }),
    Function::new("UnixNano", &[P::Time], R::From(|_| Ok(Type::Sized(IntKind::I64))), |_, args| {
        Ok(Value::Sized(time(args, 0)?.0.as_nanosecond() as i64, IntKind::I64))
    }),
    Function::new("Format", &[P::Time, P::Str], R::Str, |cx, args| {
        let (time, zone) = time(args, 0)?;
        let text = golayout::format(text(args, 1)?, time, &zone);
        cx.spend_bytes(text.len())?;
        Ok(Value::owned(text))
    }),
    Function::new("Add", &[P::Time, P::Duration], R::Time, |_, args| {
        let (time, zone) = time(args, 0)?;
        let moved = time.saturating_add(SignedDuration::from_nanos(nanos(args, 1)?));
        Ok(Value::Time(moved.map_err(|error| EvalError::new(error.to_string()))?, zone))
    }),
    Function::new("AddDate", &[P::Time, P::Int, P::Int, P::Int], R::Time, add_date),
    Function::new("Sub", &[P::Time, P::Time], R::Duration, |_, args| {
        Ok(Value::Duration(between(time(args, 1)?.0, time(args, 0)?.0)))
    }),
    Function::new("Before", &[P::Time, P::Time], R::Bool, |_, args| {
        Ok(Value::Bool(time(args, 0)?.0 < time(args, 1)?.0))
    }),
    Function::new("After", &[P::Time, P::Time], R::Bool, |_, args| {
        Ok(Value::Bool(time(args, 0)?.0 > time(args, 1)?.0))
    }),
    Function::new("Equal", &[P::Time, P::Time], R::Bool, |_, args| {
        Ok(Value::Bool(time(args, 0)?.0 == time(args, 1)?.0))
    }),
    Function::new("Compare", &[P::Time, P::Time], R::Int, |_, args| {
        Ok(Value::Int(time(args, 0)?.0.cmp(&time(args, 1)?.0) as i64))
    }),
    Function::new("IsZero", &[P::Time], R::Bool, |_, args| {
        Ok(Value::Bool(time(args, 0)?.0.as_nanosecond() == -62_135_596_800_000_000_000))
    }),
    Function::new("UTC", &[P::Time], R::Time, |_, args| Ok(Value::Time(time(args, 0)?.0, TimeZone::UTC))),
    Function::new("In", &[P::Time, P::Zone], R::Time, |_, args| Ok(Value::Time(time(args, 0)?.0, zone(args, 1)?))),
    Function::new("Local", &[P::Time], R::Time, |cx, args| Ok(Value::Time(time(args, 0)?.0, cx.env.host.zone()))),
    Function::new("Location", &[P::Time], R::From(|_| Ok(Type::Zone)), |_, args| Ok(Value::Zone(time(args, 0)?.1))),
    Function::new("IsDST", &[P::Time], R::Bool, |_, args| {
        let (time, zone) = time(args, 0)?;
        Ok(Value::Bool(zone.to_offset_info(time).dst().is_dst()))
    }),
    Function::new("Truncate", &[P::Time, P::Duration], R::Time, |_, args| {
        let (time, zone) = time(args, 0)?;
        Ok(Value::Time(at_step(time, nanos(args, 1)?, |_, _| false), zone))
    }),
    Function::new("Round", &[P::Time, P::Duration], R::Time, |_, args| {
        let (time, zone) = time(args, 0)?;
        Ok(Value::Time(at_step(time, nanos(args, 1)?, |past, step| past * 2 >= step), zone))
    }),
    Function::new("String", &[P::Time], R::Str, |_, args| {
        let (time, zone) = time(args, 0)?;
        Ok(Value::owned(show(time, &zone)))
    }),
];

/// What a duration can be asked.
pub(crate) const DURATION_METHODS: &[Function] = &[
    Function::new("Seconds", &[P::Duration], R::Float, |_, args| Ok(Value::Float(nanos(args, 0)? as f64 / 1e9))),
    Function::new("Minutes", &[P::Duration], R::Float, |_, args| Ok(Value::Float(nanos(args, 0)? as f64 / 6e10))),
    Function::new("Hours", &[P::Duration], R::Float, |_, args| Ok(Value::Float(nanos(args, 0)? as f64 / 3.6e12))),
    Function::new("Milliseconds", &[P::Duration], R::From(|_| Ok(Type::Sized(IntKind::I64))), |_, args| {
        Ok(Value::Sized(nanos(args, 0)? / 1_000_000, IntKind::I64))
    }),
    Function::new("Microseconds", &[P::Duration], R::From(|_| Ok(Type::Sized(IntKind::I64))), |_, args| {
        Ok(Value::Sized(nanos(args, 0)? / 1000, IntKind::I64))
    }),
    Function::new("Nanoseconds", &[P::Duration], R::From(|_| Ok(Type::Sized(IntKind::I64))), |_, args| {
        Ok(Value::Sized(nanos(args, 0)?, IntKind::I64))
    }),
    Function::new("Abs", &[P::Duration], R::Duration, |_, args| Ok(Value::Duration(nanos(args, 0)?.saturating_abs()))),
    Function::new("Truncate", &[P::Duration, P::Duration], R::Duration, |_, args| {
        let (nanos, step) = (nanos(args, 0)?, nanos(args, 1)?);
        Ok(Value::Duration(if step > 0 { nanos - nanos % step } else { nanos }))
    }),
    Function::new("Round", &[P::Duration, P::Duration], R::Duration, |_, args| {
        let (nanos, step) = (nanos(args, 0)?, nanos(args, 1)?);
        Ok(Value::Duration(if step > 0 { rounded(nanos, step) } else { nanos }))
    }),
    Function::new("String", &[P::Duration], R::Str, |_, args| Ok(Value::owned(duration::format(nanos(args, 0)?)))),
];

/// What a month can be asked.
pub(crate) const MONTH_METHODS: &[Function] =
    &[Function::new("String", &[P::Month], R::Str, |_, args| Ok(Value::owned(month_name(int(args, 0)?))))];

/// What a day of the week can be asked.
pub(crate) const WEEKDAY_METHODS: &[Function] =
    &[Function::new("String", &[P::Weekday], R::Str, |_, args| Ok(Value::owned(weekday_name(int(args, 0)?))))];

/// What a zone can be asked.
pub(crate) const ZONE_METHODS: &[Function] =
    &[Function::new("String", &[P::Zone], R::Str, |_, args| Ok(Value::owned(show_zone(&zone(args, 0)?))))];

/// The name of a month as the reference shows it, out of range included.
pub(crate) fn month_name(number: i64) -> String {
    golayout::month(number).map_or_else(|| format!("%!Month({number})"), str::to_owned)
}

/// The name of a day of the week likewise.
pub(crate) fn weekday_name(number: i64) -> String {
    golayout::weekday(number).map_or_else(|| format!("%!Weekday({number})"), str::to_owned)
}

fn time(args: &[Value<'_>], index: usize) -> Outcome<(Timestamp, TimeZone)> {
    match args.get(index) {
        Some(Value::Time(time, zone)) => Ok((*time, zone.clone())),
        other => Err(EvalError::new(format!("{} is not a time", other.map_or("nothing", Value::kind)))),
    }
}

fn nanos(args: &[Value<'_>], index: usize) -> Outcome<i64> {
    match args.get(index) {
        Some(Value::Duration(nanos)) => Ok(*nanos),
        other => Err(EvalError::new(format!("{} is not a duration", other.map_or("nothing", Value::kind)))),
    }
}

fn zone(args: &[Value<'_>], index: usize) -> Outcome<TimeZone> {
    match args.get(index) {
        Some(Value::Zone(zone)) => Ok(zone.clone()),
        other => Err(EvalError::new(format!("{} is not a time zone", other.map_or("nothing", Value::kind)))),
    }
}

fn part<'a>(args: &[Value<'a>], of: fn(jiff::civil::DateTime) -> i64) -> Outcome<Value<'a>> {
    let (time, zone) = time(args, 0)?;
    Ok(Value::Int(of(zone.to_datetime(time))))
}

/// The multiple of `step` nanoseconds since the start of the year 1 at or before `time`, or the next one if
/// `up(past, step)`; the time itself for a step that is not positive or where no instant can be.
fn at_step(time: Timestamp, step: i64, up: fn(i128, i128) -> bool) -> Timestamp {
    const YEAR_ONE: i128 = -62_135_596_800_000_000_000;
    if step <= 0 {
        return time;
    }
    let (at, step) = (time.as_nanosecond(), i128::from(step));
    let past = (at - YEAR_ONE).rem_euclid(step);
    let cut = at - past + if up(past, step) { step } else { 0 };
    Timestamp::from_nanosecond(cut).unwrap_or(time)
}

/// The multiple of `step`, which is positive, next to `nanos`; halves go away from zero, what does not fit stops at
/// the largest.
fn rounded(nanos: i64, step: i64) -> i64 {
    let (nanos, step) = (i128::from(nanos), i128::from(step));
    let past = nanos % step;
    let away = if past.abs() * 2 >= step { step * nanos.signum() } else { 0 };
    // held within 64 bits, so nothing is cut off
    (nanos - past + away).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Moves a date by years, months and days; what runs over the end of a month goes on in the next (31 January and a
/// month is 2 or 3 March). Stops at the first and the last instant there is.
fn add_date<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    const SECOND: i128 = 1_000_000_000;
    const DAY: i128 = 86_400 * SECOND;
    // the calendar repeats every 400 years
    const CYCLE_DAYS: i128 = 146_097;
    let (time, zone) = time(args, 0)?;
    let (years, months, days) = (i128::from(int(args, 1)?), i128::from(int(args, 2)?), i128::from(int(args, 3)?));
    let local = zone.to_datetime(time);
    let months = (i128::from(local.year()) + years) * 12 + i128::from(local.month()) - 1 + months;
    let (cycles, month) = (months.div_euclid(4800), months.rem_euclid(4800));
    // 2000 to 2399, 1 to 12
    let first = jiff::civil::date(2000 + (month / 12) as i16, (month % 12 + 1) as i8, 1);
    let since_1970 = first.duration_since(jiff::civil::date(1970, 1, 1)).as_nanos();
    let days = (cycles - 5) * CYCLE_DAYS + i128::from(local.day()) - 1 + days;
    let clock = local.time().duration_since(jiff::civil::Time::midnight()).as_nanos();
    let wall = held(since_1970 + days * DAY + clock);
    // the offset of the hour that the clock shows, asked twice: once taking the hour for one of UTC
    let east = |time: Timestamp| i128::from(zone.to_offset(time).seconds()) * SECOND;
    let at = match east(wall) {
        0 => wall,
        guess => held(wall.as_nanosecond() - east(held(wall.as_nanosecond() - guess))),
    };
    Ok(Value::Time(at, zone))
}

/// The instant so many nanoseconds after the start of 1970, or the first or last there is.
fn held(nanos: i128) -> Timestamp {
    let last = if nanos < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_nanosecond(nanos).unwrap_or(last)
}

/// Nanoseconds from `a` to `b`, held within what a duration can say.
pub(crate) fn between(a: Timestamp, b: Timestamp) -> i64 {
    let nanos = b.as_nanosecond() - a.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// An instant as Go's `String()` writes it.
pub(crate) fn show(time: Timestamp, zone: &TimeZone) -> String {
    golayout::format("2006-01-02 15:04:05.999999999 -0700 MST", time, zone)
}

/// The name of a zone.
pub(crate) fn show_zone(zone: &TimeZone) -> String {
    if *zone == TimeZone::UTC {
        return "UTC".to_owned();
    }
    zone.iana_name().unwrap_or("Local").to_owned()
}

fn now<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let zone = if args.is_empty() { cx.env.host.zone() } else { zone(args, 0)? };
    Ok(Value::Time(cx.env.host.now(), zone))
}

fn to_duration<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let text = text(args, 0)?;
    duration::parse(text).map(Value::Duration).map_err(|error| EvalError::new(error.to_string()))
}

fn timezone<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let name = text(args, 0)?;
    zone_named(name).map(Value::Zone)
}

fn zone_named(name: &str) -> Outcome<TimeZone> {
    match name {
        "" | "UTC" => Ok(TimeZone::UTC),
        name => TimeZone::get(name).map_err(|_| EvalError::new(format!("unknown time zone {name}"))),
    }
}

fn date_type(args: &[Type]) -> Result<Type, String> {
    let texts = match args {
        [Type::Zone, rest @ ..] => rest,
        all => all,
    };
    if texts.is_empty() {
        return Err("`date` takes a text".to_owned());
    }
    match texts.iter().find(|ty| !matches!(ty, Type::String | Type::Any)) {
        Some(ty) => Err(format!("`date` takes texts, found {ty}")),
        None => Ok(Type::Time),
    }
}

fn date<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    const LAYOUTS: [&str; 7] = [
        "2006-01-02",
        "15:04:05",
        "2006-01-02 15:04:05",
        golayout::RFC3339,
        "02 Jan 06 15:04 MST",
        "Monday, 02-Jan-06 15:04:05 MST",
        "Mon, 02 Jan 2006 15:04:05 MST",
    ];
    let (mut zone, rest) = match args {
        [Value::Zone(zone), rest @ ..] => (Some(zone.clone()), rest),
        all => (None, all),
    };
    let source = text(rest, 0)?;
    if rest.len() > 2 {
        zone = Some(zone_named(text(rest, 2)?)?);
    }
    let parsed = if rest.len() > 1 {
        golayout::parse(text(rest, 1)?, source).ok()
    } else {
        LAYOUTS.iter().find_map(|layout| golayout::parse(layout, source).ok())
    };
    let invalid = || EvalError::new(format!("invalid date {source}"));
    let parsed = parsed.ok_or_else(invalid)?;
    match zone {
        Some(zone) if parsed.offset.is_none() && parsed.abbreviation.is_none() => {
            let time = zone.to_timestamp(parsed.datetime).map_err(|_| invalid())?;
            Ok(Value::Time(time, zone))
        }
        _ => Ok(Value::Time(parsed.timestamp().ok_or_else(invalid)?, parsed.zone())),
    }
}

fn time_now<'a>(cx: &mut Cx<'a>, _: &[Value<'a>]) -> Outcome<Value<'a>> {
    Ok(Value::owned(golayout::format(golayout::RFC3339, cx.env.host.now(), &TimeZone::UTC)))
}

fn parse_unix<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let text = text(args, 0)?;
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse::<i64>().ok()).filter(|seconds| *seconds > 0);
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(time
        .map_or(Value::text(""), |time| Value::owned(golayout::format(golayout::RFC3339, time, &cx.env.host.zone()))))
}

/// The sorted differences between successive times.
fn intervals(args: &[Value<'_>]) -> Outcome<SmallVec<[i64; 8]>> {
    let mut times: SmallVec<[Timestamp; 8]> = SmallVec::new();
    for item in items(args, 0)?.iter() {
        match item {
            Value::Time(time, _) => times.push(time),
            other => return Err(EvalError::new(format!("{} is not a time", other.kind()))),
        }
    }
    if times.len() < 2 {
        return Err(EvalError::new("need at least two times to compute an interval"));
    }
    times.sort_unstable();
    Ok(times.windows(2).map(|pair| between(pair[0], pair[1])).collect())
}

fn average_interval<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let intervals = intervals(args)?;
    let sum: i128 = intervals.iter().map(|nanos| i128::from(*nanos)).sum();
    Ok(Value::Duration((sum / intervals.len() as i128) as i64))
}

fn median_interval<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let mut intervals = intervals(args)?;
    intervals.sort_unstable();
    let middle = intervals.len() / 2;
    Ok(Value::Duration(if intervals.len() % 2 == 1 {
        intervals[middle]
    } else {
        i128::midpoint(i128::from(intervals[middle - 1]), i128::from(intervals[middle])) as i64
    }))
}
