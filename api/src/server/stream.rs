//! The polling stream of the field as a view over the table (spec: local-api 12), quirks included.
//!
//! The reference asks its database twice: for rows that hold, and for rows that ended. Here the first are in the
//! table and the second are handed in, and deduplication looks at both.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use model::Decision;

use crate::decisions::{Query, Row, Scan, Table};

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

/// Where a bouncer's last pull left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// When it was.
    pub at: Timestamp,
    /// The highest decision number there was. Numbers ascend with time of creation, and do not depend on a clock
    /// that is set back.
    pub decision: i64,
}

impl Last {
    /// From when on decisions are of interest that ended before `now`; `None` is always.
    pub fn ended_after(self, now: Timestamp) -> Option<Timestamp> {
        let since = self.at.checked_sub(OVERLAP).unwrap_or(self.at);
        (self.at <= now).then_some(since)
    }
}

/// The decisions that hold, for a bouncer whose pull before left it at `last` (`None`: there was none, or it starts
/// afresh), as of `reached`: a walk from the first that is new, so that a delta costs what changed.
pub fn walk(table: &Table, last: Option<Last>, pull: &Pull, reached: Last) -> Scan {
    table.scan(pull.query.clone(), reached.at).after(last.map_or(i64::MIN, |last| last.decision))
}

/// The next step of that walk.
pub fn step_of(table: &Table, scan: &mut Scan, pull: &Pull) -> Option<Vec<Row>> {
    let mut rows = scan.step(table)?;
    rows.retain(|row| pull.duplicates || !table.outlives(row));
    Some(rows)
}

/// The decisions that are over, by number, for the same bouncer. `ended` is every decision that ended before `reached`,
/// and not earlier than [`Last::ended_after`].
pub fn deleted(table: &Table, ended: &[Decision], last: Option<Last>, pull: &Pull, reached: Last) -> Vec<Decision> {
    let now = reached.at;
    let longest_ended = if pull.duplicates { HashMap::new() } else { longest(ended) };
    let shadowed = |decision: &Decision| {
        let Decision { scope, value, remediation, until, .. } = decision;
        !pull.duplicates
            && (table.has_longer(scope, value, remediation, *until)
                || longest_ended.get(&(scope.as_str(), value, remediation)).is_some_and(|longest| longest > until))
    };
    let since = last.and_then(|last| last.ended_after(now));
    let chosen = ended
        .iter()
        .filter(|decision| decision.until < now && since.is_none_or(|since| decision.until > since))
        .filter(|decision| pull.query.wants(decision) && !shadowed(decision));
    chosen.cloned().collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use model::Scope;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add { host: u8, captcha: bool, long: i64, simulated: bool, by_hand: bool },
        Lift(u8),
        Pass(i64),
        Pull { startup: bool, duplicates: bool, by_hand: bool, simulated: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        let flag = || prop::bool::weighted(0.2);
        prop_oneof![
            4 => (0..3_u8, flag(), 1..20_i64, flag(), any::<bool>()).prop_map(
                |(host, captcha, long, simulated, by_hand)| Step::Add { host, captcha, long, simulated, by_hand }
            ),
            2 => any::<u8>().prop_map(Step::Lift),
            2 => (1..8_i64).prop_map(Step::Pass),
            3 => (flag(), flag(), flag(), flag()).prop_map(
                |(startup, duplicates, by_hand, simulated)| Step::Pull { startup, duplicates, by_hand, simulated }
            ),
        ]
    }

    /// What the reference's two questions to its database select (spec: local-api 12.3 and 12.4), word for word.
    fn naive(rows: &[Decision], last: Option<Timestamp>, pull: &Pull, now: Timestamp) -> (Vec<i64>, Vec<i64>) {
        let shadowed = |row: &Decision| {
            rows.iter().any(|other| {
                (&other.value, &other.remediation, &other.scope) == (&row.value, &row.remediation, &row.scope)
                    && other.until > row.until
            })
        };
        let select = |chosen: &dyn Fn(&Decision) -> bool| {
            rows.iter()
                .filter(|row| chosen(row) && pull.query.wants(row) && (pull.duplicates || !shadowed(row)))
                .map(|row| row.id)
                .collect::<Vec<_>>()
        };
        let new = select(&|row| row.until > now && last.is_none_or(|last| row.created_at > last));
        let deleted = select(&|row| row.until < now && last.is_none_or(|last| row.until > last - OVERLAP));
        (new, deleted)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_view_equals_the_reference(steps in prop::collection::vec(step(), 0..60)) {
            let mut table = Table::default();
            let mut rows: Vec<Decision> = Vec::new();
            let mut now = Timestamp::UNIX_EPOCH;
            let mut last: Option<Last> = None;
            for step in steps {
                now += SignedDuration::from_millis(1);
                table.expire(now);
                match step {
                    Step::Add { host, captcha, long, simulated, by_hand } => {
                        let decision = Decision {
                            id: rows.len() as i64 + 1,
                            uuid: String::new(),
                            origin: if by_hand { "cscli".into() } else { "crowdsec".into() },
                            remediation: if captcha { "captcha".into() } else { "ban".into() },
                            scope: if host == 0 { Scope::Custom("Username".into()) } else { Scope::Ip },
                            value: if host == 0 { "eve".into() } else { format!("192.0.2.{host}").into() },
                            scenario: "acme/ssh".into(),
                            created_at: now,
                            until: now + SignedDuration::from_secs(long),
                            simulated,
                            alert_id: 1,
                        };
                        table.add(&decision);
                        rows.push(decision);
                    }
                    Step::Lift(pick) => {
                        let live: Vec<i64> = table.iter().map(Row::id).collect();
                        if !live.is_empty() {
                            let (_, lifted) = table.lift(live[usize::from(pick) % live.len()], now).expect("it lives");
                            let index = rows.iter().position(|row| row.id == lifted.id).expect("it was added");
                            rows[index] = lifted;
                        }
                    }
                    Step::Pass(seconds) => now += SignedDuration::from_secs(seconds),
                    Step::Pull { startup, duplicates, by_hand, simulated } => {
                        let origins = by_hand.then(|| vec!["cscli".to_owned()]);
                        let pull = Pull { startup, query: Query { origins, simulated, ..Query::default() }, duplicates };
                        let from = last.filter(|_| !startup);
                        let after = from.and_then(|from| from.ended_after(now));
                        let over = |row: &&Decision| row.until < now && after.is_none_or(|after| row.until >= after);
                        let ended: Vec<Decision> = rows.iter().filter(over).cloned().collect();
                        let reached = Last { at: now, decision: rows.len() as i64 };
                        let mut scan = walk(&table, from, &pull, reached);
                        let mut new: Vec<i64> = Vec::new();
                        while let Some(rows) = step_of(&table, &mut scan, &pull) {
                            new.extend(rows.iter().map(Row::id));
                        }
                        let deleted = deleted(&table, &ended, from, &pull, reached);
                        let deleted: Vec<i64> = deleted.iter().map(|row| row.id).collect();
                        prop_assert_eq!((new, deleted), naive(&rows, from.map(|from| from.at), &pull, now));
                        last = Some(reached);
                    }
                }
            }
        }
    }
}
