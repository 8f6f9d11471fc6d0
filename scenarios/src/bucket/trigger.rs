//! Triggers.
//!
//! A trigger holds nothing: each event is an overflow of its own, so there never is a bucket (spec: scenarios 6.2).

use super::{Moment, Tally};

/// The tally of the overflow that one event at `at` makes.
pub(crate) fn overflow(at: Moment) -> Tally {
    let mut tally = Tally::default();
    tally.count(at);
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_first_and_last() {
        let at = Moment { nanos: 7, minutes: 120 };
        let tally = overflow(at);
        assert_eq!((tally.count, tally.first(), tally.last()), (1, at, at));
    }
}
