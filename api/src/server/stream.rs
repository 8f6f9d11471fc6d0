//! The polling stream of the field as a view over the table (spec: local-api 12), quirks included.
//!
//! The reference asks its database twice: for rows that hold, and for rows that ended. Here the first are in the
//! table and the second are handed in, and deduplication looks at both.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use model::Decision;

use crate::decisions::{Query, Row, Table};

/// How far back the list of ended decisions overlaps the pull before.
pub const OVERLAP: SignedDuration = SignedDuration::from_secs(2);

/// What a bouncer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// Everything instead of what is new.
    pub startup: bool,
    /// Which decisions.
    pub query: Query,
    /// Also decisions that are shadowed by a longer one on the same target.
    pub duplicates: bool,
}

/// What it gets.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As of when.
    pub now: Timestamp,
    /// Decisions that hold, by number.
    pub new: Vec<Arc<Row>>,
    /// Decisions that are over, by number.
    pub deleted: Vec<Decision>,
}

/// The answer at `now` to a bouncer that last asked at `last` (`None`: never, or it starts afresh). `ended` is
/// every decision that ended before `now`, and not earlier than [`OVERLAP`] before `last`.
pub fn answer(table: &Table, ended: &[Decision], last: Option<Timestamp>, pull: &Pull, now: Timestamp) -> Answer {
    let longest_ended = if pull.duplicates { HashMap::new() } else { longest(ended) };
    let shadowed = |scope, value: &str, remediation: &str, until| {
        !pull.duplicates
            && (table.has_longer(scope, value, remediation, until)
                || longest_ended.get(&(scope.as_str(), value, remediation)).is_some_and(|&longest| longest > until))
    };
    // Numbers ascend with time of creation, so that a delta costs what changed.
    let mut new: Vec<Arc<Row>> = table
        .iter()
        .rev()
        .take_while(|row| last.is_none_or(|last| row.created_at() > last))
        .filter(|row| row.until() > now && row.created_at() <= now)
        .filter(|row| pull.query.wants_row(row))
        .filter(|row| !shadowed(row.scope(), row.value(), row.remediation(), row.until()))
        .cloned()
        .collect();
    new.reverse();
    let since = last.map(|last| last.checked_sub(OVERLAP).unwrap_or(last));
    let deleted = ended
        .iter()
        .filter(|decision| decision.until < now && since.is_none_or(|since| decision.until > since))
        .filter(|decision| pull.query.wants(decision))
        .filter(|d| !shadowed(&d.scope, &d.value, &d.remediation, d.until))
        .cloned()
        .collect();
    Answer { now, new, deleted }
}

fn longest(ended: &[Decision]) -> HashMap<(&str, &str, &str), Timestamp> {
    let mut longest = HashMap::with_capacity(ended.len());
    for decision in ended {
        let key = (decision.scope.as_str(), decision.value.as_str(), decision.remediation.as_str());
        let end = longest.entry(key).or_insert(decision.until);
        *end = decision.until.max(*end);
    }
    longest
}
