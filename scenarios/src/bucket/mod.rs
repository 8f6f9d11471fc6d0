//! The five kinds of bucket, one state machine each.
//!
//! Times are arguments, so a live log and a replayed one take the same path. What a bucket holds is [`Bucket`]; what its
//! kind makes of a pour is in the kind's own file.

pub(crate) mod bayesian;
pub(crate) mod conditional;
pub(crate) mod counter;
pub(crate) mod leaky;
pub(crate) mod trigger;

use jiff::Timestamp;
use model::EventTime;

/// How a scenario fills and overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Leaks with time, overflows when full.
    Leaky,
    /// Overflows on every event.
    Trigger,
    /// Overflows when its time is up.
    Counter,
    /// Overflows when its condition holds.
    Conditional,
    /// Overflows when evidence outweighs doubt.
    Bayesian,
}

impl Kind {
    /// All kinds, as scenarios spell them.
    pub const NAMES: [(&'static str, Kind); 5] = [
        ("leaky", Kind::Leaky),
        ("trigger", Kind::Trigger),
        ("counter", Kind::Counter),
        ("conditional", Kind::Conditional),
        ("bayesian", Kind::Bayesian),
    ];

    /// How scenarios spell it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// An instant in 12 bytes: nanoseconds since 1970 and the minutes east of UTC that it is shown with.
///
/// Years before 1678 and after 2262 are clamped, as Go's differences of times are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) nanos: i64,
    pub(crate) minutes: i16,
}

impl Moment {
    /// An instant shown in UTC.
    pub(crate) fn utc(at: Timestamp) -> Self {
        Self { nanos: nanos(at), minutes: 0 }
    }

    pub(crate) fn event_time(self) -> EventTime {
        EventTime { instant: timestamp(self.nanos), offset: i32::from(self.minutes) * 60 }
    }
}

impl From<EventTime> for Moment {
    fn from(time: EventTime) -> Self {
        Self { nanos: nanos(time.instant), minutes: (time.offset / 60) as i16 }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn nanos(at: Timestamp) -> i64 {
    at.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// The instant of nanoseconds since 1970.
pub(crate) fn timestamp(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanos.into()).expect("64 bits of nanoseconds lie within the range of timestamps")
}

/// What every bucket counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Accepted pours.
    pub(crate) count: u32,
    /// The first of them; meaningless while `count` is 0.
    pub(crate) first: i64,
    /// The last of them to arrive, which may be older than others.
    pub(crate) last: i64,
    /// Minutes east of UTC of `first`.
    pub(crate) first_minutes: i16,
    /// Minutes east of UTC of `last`.
    pub(crate) last_minutes: i16,
    /// Tokens left at `last`, for those that leak.
    pub(crate) tokens: f64,
}

impl Tally {
    /// Counts a pour at `at`.
    pub(crate) fn count(&mut self, at: Moment) {
        if self.count == 0 {
            (self.first, self.first_minutes) = (at.nanos, at.minutes);
        }
        self.count = self.count.saturating_add(1);
        (self.last, self.last_minutes) = (at.nanos, at.minutes);
    }

    pub(crate) fn first(&self) -> Moment {
        Moment { nanos: self.first, minutes: self.first_minutes }
    }

    pub(crate) fn last(&self) -> Moment {
        Moment { nanos: self.last, minutes: self.last_minutes }
    }
}
