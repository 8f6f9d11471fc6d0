//! How long to wait after a failure.
//!
//! The pause doubles with each failure and its length is drawn between nothing and that ("full jitter"), so that
//! many agents do not come back at the same moment. Whoever refuses our credentials is left alone: login protection
//! would ban us.

use std::time::Duration;

use crate::error::{BouncerError, Class};

/// The first pause is at most this long.
const FIRST: Duration = Duration::from_millis(500);
/// No pause is longer, unless the target asks for it.
const LAST: Duration = Duration::from_mins(1);
/// Nobody is believed who asks for more.
const LONGEST: Duration = Duration::from_hours(1);
/// How long somebody is left alone who refuses our credentials.
const QUIET: Duration = Duration::from_mins(15);
/// Failures in a row after which a target is only tried, not used.
const OPENS: u32 = 5;

/// What is known about a target's failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    /// The target has answered as it should.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// How long to leave the target alone after `error`. `draw` is a number from 0 to 1. A target on this host is
    /// tried again at once after its first failure.
    pub fn fail(&mut self, error: &BouncerError, remote: bool, draw: f64) -> Duration {
        let before = self.failures;
        self.failures = self.failures.saturating_add(1);
        let asked = match error.class() {
            Class::Unauthorised => return QUIET,
            Class::Passing(asked) => asked,
            Class::Lasting => None,
        };
        if let Some(asked) = asked {
            return asked.min(LONGEST);
        }
        if !remote && before == 0 {
            return Duration::ZERO;
        }
        FIRST.saturating_mul(1 << before.min(16)).min(LAST).mul_f64(draw.clamp(0.0, 1.0))
    }

    /// Failures in a row.
    pub fn failures(self) -> u32 {
        self.failures
    }

    /// Whether the target is left alone but for one try after each pause.
    pub fn is_open(self) -> bool {
        self.failures >= OPENS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let away = BouncerError::unreachable("fw", "timed out");
        let mut patience = Patience::default();
        let longest: Vec<u128> = (0..9).map(|_| patience.fail(&away, true, 1.0).as_millis()).collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert!(patience.is_open());
        patience.succeed();
        assert!(!patience.is_open());
        assert_eq!(patience.fail(&away, true, 0.0), Duration::ZERO, "the draw may be nothing");
        assert_eq!(Patience::default().fail(&away, false, 1.0), Duration::ZERO, "on this host the first try is free");
    }

    #[test]
    fn whoever_asks_for_a_pause_gets_it() {
        let busy = BouncerError::busy("fw", "429", Some(Duration::from_secs(7)));
        assert_eq!(Patience::default().fail(&busy, true, 0.1), Duration::from_secs(7));
        let absurd = BouncerError::busy("fw", "429", Some(Duration::from_hours(90)));
        assert_eq!(Patience::default().fail(&absurd, true, 0.1), LONGEST);
        let refused = BouncerError::unauthorised("fw", "401");
        assert_eq!(Patience::default().fail(&refused, true, 0.1), QUIET);
    }
}
