//! Go's spelling of durations, as the files and the wire of this field use it.

use jiff::{SignedDuration, Timestamp};

pub use expr::duration::DurationError;

/// A text in Go's grammar (`1h30m`); days are refused.
pub fn parse(text: &str) -> Result<SignedDuration, DurationError> {
    expr::duration::parse(text).map(SignedDuration::from_nanos)
}

/// A text in Go's grammar with an optional whole number of days in front (`7d`, `1d12h`), as
/// profiles, the command line and the API accept it.
pub fn parse_with_days(text: &str) -> Result<SignedDuration, DurationError> {
    expr::duration::parse_with_days(text).map(SignedDuration::from_nanos)
}

/// The text Go prints. Durations beyond 292 years are cut to that.
pub fn format(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos().clamp(i64::MIN.into(), i64::MAX.into());
    expr::duration::format(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// The time left from `now` until `until`, in whole seconds, as decisions carry it on the wire
/// (spec: local-api 7.2): `3h59m58s`, negative when it is over.
pub fn time_left(until: Timestamp, now: Timestamp) -> String {
    let left = until.duration_since(now);
    let seconds = left.round(jiff::SignedDurationRound::new().smallest(jiff::Unit::Second)).unwrap_or(left);
    format(seconds)
}
