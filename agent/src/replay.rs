//! A log from yesterday through the rules of today: what would have happened.
//!
//! The engine is driven by the log alone: rounds are full, time is what the log says, and nothing waits for a clock. The same
//! log and rules give the same alerts in the same order on any number of threads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use model::{Alert, AllowSet};
use parsers::YearRule;
use scenarios::HashKey;
use scenarios::metrics::{BucketMetrics, SelectMetrics};

use crate::acquisition::file::Cat;
use crate::acquisition::{Outlet, Running, queue};
use crate::engine::{Engine, EngineOptions, Parsing, ROUND};
use crate::meter::{self, Breakdown};
use crate::parse::Fates;
use crate::ruleset::RuleSet;
use crate::status::{SourceReport, SourceStatus};

/// How a log is replayed.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// How many threads work.
    pub threads: usize,
    /// Most bytes of all buckets together.
    pub memory: usize,
    /// Who is never punished.
    pub allow: Arc<AllowSet>,
    /// The year of dates without one, in UTC; `None` is the latest that puts them at most a day after the input was written.
    pub year: Option<i16>,
    /// Whether it is measured where the time goes.
    pub measure: bool,
}

/// What a replay gave beside its alerts.
#[derive(Debug)]
pub struct Replayed {
    /// What became of the lines.
    pub fates: Fates,
    /// What was read, and what could not be.
    pub source: SourceReport,
    /// What the scenarios said to the events, in the order of [`scenarios::Scenarios::all`].
    pub selected: SelectMetrics,
    /// What happened in the buckets.
    pub buckets: BucketMetrics,
    /// Overflows that a postoverflow whitelist caught.
    pub whitelisted: u64,
    /// How many threads worked; one where rules need the lines in order.
    pub workers: usize,
    /// Where the time went, if that was measured.
    pub breakdown: Option<Breakdown>,
}

/// Replays `input`. `tell` gets the alerts of each round, and how far reading is. Fails when threads cannot be started.
pub fn replay(
    rules: Arc<RuleSet>,
    input: Cat,
    options: ReplayOptions,
    mut tell: impl FnMut(Vec<Alert>, &SourceStatus),
) -> io::Result<Replayed> {
    let year = match options.year.and_then(last_day_but_one) {
        Some(reference) => YearRule::LatestBefore(reference),
        None => input.newest().map_or(YearRule::Latest, YearRule::LatestBefore),
    };
    // Nobody can aim at the buckets of a log that is written already, and the same key makes the same order.
    let key = HashKey::new([0; 16]);
    let ReplayOptions { threads, memory, allow, measure, .. } = options;
    let started = meter::process_time();
    let options = EngineOptions { threads, memory, key, year, live: false, measure };
    let mut engine = Engine::new(rules, options)?;
    // Nothing is poured yet: the time does not matter.
    engine.set_allow(allow, Timestamp::UNIX_EPOCH);
    let status = Arc::new(SourceStatus::new("replay", "file"));
    let (sender, batches) = queue::single(2 * ROUND);
    let running = Running::start(Box::new(input), Outlet::new(0, sender, Arc::clone(&status)))?;
    let mut fates = Fates::default();
    let mut end = |engine: &mut Engine, parsing: Option<Parsing>| {
        let Some(parsing) = parsing else { return };
        let round = engine.end(parsing);
        for some in round.fates.values() {
            fates.merge(some);
        }
        tell(round.alerts, &status);
    };
    // Its pours are applied while the next lines are parsed.
    let mut parsing = None;
    loop {
        let taken: Vec<_> = batches.iter().take(ROUND).collect();
        let last = taken.len() < ROUND;
        let next = engine.begin(taken);
        end(&mut engine, parsing.replace(next));
        if last {
            break;
        }
    }
    end(&mut engine, parsing);
    running.join();
    let total = meter::process_time().saturating_sub(started);
    let reading = Duration::from_nanos(status.nanos.get());
    Ok(Replayed {
        fates,
        source: status.report(),
        selected: engine.selected().clone(),
        buckets: engine.buckets(),
        whitelisted: engine.whitelisted(),
        workers: engine.threads(),
        breakdown: measure.then(|| Breakdown::new(&engine.spent(), engine.rules(), reading, total)),
    })
}

/// The moment a day before `year` ends: dates may lie a day ahead of it, so that all of the year do and none after it.
fn last_day_but_one(year: i16) -> Option<Timestamp> {
    let end = Date::new(year, 12, 30).ok()?.at(23, 59, 59, 999_999_999);
    TimeZone::UTC.to_timestamp(end).ok()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use tempfile::TempDir;

    use super::*;
    use crate::acquisition::file::{Files, PathPattern};
    use crate::load::{Folders, RuleFiles};
    use crate::ruleset::InOrder;

    fn shipped(folders: Vec<std::path::PathBuf>) -> Arc<RuleSet> {
        let built = RuleSet::build(&RuleFiles::read(&Folders { shipped: true, folders }));
        assert_eq!(built.problems, []);
        Arc::new(built.rules)
    }

    fn run(rules: &Arc<RuleSet>, log: &Path, threads: usize, allow: AllowSet) -> (Vec<Alert>, Replayed) {
        run_in(rules, log, threads, allow, None)
    }

    fn run_in(
        rules: &Arc<RuleSet>,
        log: &Path,
        threads: usize,
        allow: AllowSet,
        year: Option<i16>,
    ) -> (Vec<Alert>, Replayed) {
        let files = Files {
            patterns: vec![PathPattern::new(&log.to_string_lossy()).expect("a valid pattern")],
            exclude: Vec::new(),
            labels: vec![("type".into(), "syslog".into())],
            time_machine: true,
        };
        let options = ReplayOptions { threads, memory: 64 << 20, allow: Arc::new(allow), year, measure: false };
        let mut alerts = Vec::new();
        let replayed = replay(Arc::clone(rules), Cat::new(&files), options, |some, _| alerts.extend(some));
        (alerts, replayed.expect("threads can be started"))
    }

    /// Guesses of many addresses, interleaved, some of them too slow to be noticed.
    fn attack(lines: usize) -> String {
        let mut random = StdRng::seed_from_u64(7);
        let mut log = String::new();
        for line in 0..lines {
            let at = Timestamp::constant(1_772_856_306, 0) + jiff::SignedDuration::from_millis(line as i64 * 5);
            let attacker = random.random_range(0..200) * random.random_range(0..3);
            let user = ["root", "admin", "pi"][random.random_range(0..3)];
            let _ = writeln!(
                log,
                "{at} web1 sshd[811]: Failed password for {user} from 198.51.{}.{} port 40000 ssh2",
                attacker / 250,
                attacker % 250 + 1
            );
            if line % 7 == 0 {
                let _ = writeln!(log, "{at} web1 cron[12]: nothing to see here");
            }
        }
        log
    }

    #[test]
    fn any_number_of_threads_gives_the_same_alerts() {
        let folder = TempDir::new().expect("a temporary folder");
        let log = folder.path().join("auth.log");
        fs::write(&log, attack(20_000)).expect("room on the disk");
        let rules = shipped(Vec::new());
        let (alone, counts) = run(&rules, &log, 1, AllowSet::new([]));
        assert!(alone.len() > 100, "{} alerts", alone.len());
        assert_eq!((counts.fates.parsed, counts.fates.unparsed), (20_000, 20_000_u64.div_ceil(7)));
        for threads in [2, 5] {
            let (alerts, others) = run(&rules, &log, threads, AllowSet::new([]));
            assert_eq!(alerts.len(), alone.len(), "{threads} threads");
            let differs = alerts.iter().zip(&alone).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{threads} threads");
            assert_eq!(
                (others.fates, others.buckets),
                (counts.fates.clone(), counts.buckets.clone()),
                "{threads} threads"
            );
        }
    }

    /// What a line leaves in a stash is there for the next one, also for one that another thread reads.
    #[test]
    fn lines_that_want_a_stash_are_parsed_in_their_turn() {
        let folder = TempDir::new().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(path, text).expect("room on the disk");
        };
        let mut log = String::new();
        for number in 0..20_000 {
            let at = Timestamp::constant(1_772_856_306, 0) + jiff::SignedDuration::from_secs(number);
            // Ten doors; whoever is seen at one opened it for the one who comes after him. Most lines say nothing of doors.
            let (door, who) = (number * number % 10, number);
            let line = if number / 500 % 4 == 1 || number % 9 == 0 {
                format!("door {door} by {who}")
            } else {
                "nothing".into()
            };
            let _ = writeln!(log, "{at} house lock[1]: {line}");
        }
        let path = folder.path().join("doors.log");
        fs::write(&path, log).expect("room on the disk");
        write(
            "rules/parsers/s01-parse/doors.yaml",
            "name: test/doors\nfilter: \"evt.Parsed.program == 'lock'\"\nonsuccess: next_stage\n\
             pattern_syntax:\n  TEST_NUMBER: '[0-9]+'\n\
             grok:\n  pattern: '^door %{TEST_NUMBER:door} by %{TEST_NUMBER:who}$'\n  apply_on: message\n\
             statics:\n  - meta: log_type\n    value: door\n  - meta: opened_by\n    \
             expression: GetFromStash('doors', evt.Parsed.door)\n",
        );
        write(
            "rules/parsers/s02-enrich/doors.yaml",
            "name: test/opened\nfilter: \"evt.Meta.log_type == 'door'\"\n\
             stash:\n  - name: doors\n    key: evt.Parsed.door\n    value: evt.Parsed.who\n    ttl: 10h\n    size: 4\n\
             statics:\n  - meta: seen\n    value: 'true'\n",
        );
        write(
            "rules/scenarios/doors.yaml",
            "type: trigger\nname: test/door\ndescription: d\nfilter: \"evt.Meta.log_type == 'door' && evt.Meta.opened_by != ''\"\n\
             groupby: evt.Meta.opened_by\nscope:\n  type: Opener\n  expression: evt.Meta.opened_by\nlabels: {}\n",
        );
        let rules = shipped(vec![folder.path().join("rules")]);
        assert_eq!(rules.in_order, InOrder::Some);
        let (alone, counts) = run(&rules, &path, 1, AllowSet::new([]));
        assert!(alone.len() > 1000, "{} alerts", alone.len());
        for threads in [2, 4] {
            let (alerts, others) = run(&rules, &path, threads, AllowSet::new([]));
            assert_eq!(others.workers, threads);
            assert_eq!(alerts.len(), alone.len(), "{threads} threads");
            assert_eq!(alerts.iter().zip(&alone).position(|(a, b)| a != b), None, "{threads} threads");
            assert_eq!(
                (others.fates, others.selected),
                (counts.fates.clone(), counts.selected.clone()),
                "{threads} threads"
            );
        }
    }

    #[test]
    fn dates_without_a_year_get_the_one_asked_for() {
        let folder = TempDir::new().expect("a temporary folder");
        let log = folder.path().join("auth.log");
        let rules = shipped(Vec::new());
        for (year, day, first) in [
            (Some(2005), "Dec 31 23:59:5", Some("2005-12-31T23:59:50Z")),
            (Some(2005), "Jan  1 00:00:0", Some("2005-01-01T00:00:00Z")),
            (Some(2024), "Feb 29 12:00:0", Some("2024-02-29T12:00:00Z")),
        ] {
            let mut lines = String::new();
            for second in 0..10 {
                let _ = writeln!(
                    lines,
                    "{day}{second} web1 sshd[811]: Failed password for root from 198.51.100.7 port 40000 ssh2"
                );
            }
            fs::write(&log, lines).expect("room on the disk");
            let (alerts, _) = run_in(&rules, &log, 1, AllowSet::new([]), year);
            assert_eq!(alerts.first().map(|alert| &*alert.start_at), first, "{year:?} {day}");
        }
    }

    #[test]
    fn who_is_allowed_fills_no_bucket() {
        let folder = TempDir::new().expect("a temporary folder");
        let log = folder.path().join("auth.log");
        fs::write(&log, attack(2000)).expect("room on the disk");
        let entry = model::AllowEntry {
            net: "198.51.0.0/16".parse().expect("a prefix"),
            list: "office".into(),
            comment: String::new(),
            expires: None,
        };
        let (alerts, counts) = run(&shipped(Vec::new()), &log, 2, AllowSet::new([entry]));
        assert_eq!((alerts.len(), counts.selected.poured), (0, 0));
        assert!(counts.selected.allowed > 0);
    }

    /// An overflow that is offered to the scenarios again, one that a postoverflow whitelist catches, and stashes.
    #[test]
    fn overflows_go_on() {
        let folder = TempDir::new().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(path, text).expect("room on the disk");
        };
        let log = folder.path().join("auth.log");
        fs::write(&log, attack(5000)).expect("room on the disk");
        let (plain, _) = run(&shipped(Vec::new()), &log, 2, AllowSet::new([]));
        write(
            "rules/scenarios/first.yaml",
            "type: trigger\nname: test/first\ndescription: d\nfilter: \"evt.Meta.source_ip == '198.51.0.1'\"\n\
             groupby: evt.Meta.source_ip\nblackhole: 100h\nreprocess: true\nlabels: {}\n",
        );
        write(
            "rules/scenarios/second.yaml",
            "type: trigger\nname: test/second\ndescription: d\nfilter: \"evt.GetType() == 'overflow' && \
             evt.Overflow.Alert.GetScenario() == 'test/first'\"\nlabels: {}\n",
        );
        let rules = shipped(vec![folder.path().join("rules")]);
        let (alerts, _) = run(&rules, &log, 2, AllowSet::new([]));
        let mine = |alerts: &[Alert]| {
            let names = alerts.iter().map(|alert| alert.scenario.clone());
            names.filter(|name| name.starts_with("test/")).collect::<Vec<_>>()
        };
        assert_eq!(mine(&alerts), ["test/first", "test/second"]);
        assert_eq!(alerts.len(), plain.len() + 2);

        write(
            "rules/postoverflows/s01-whitelist/mine.yaml",
            "name: test/ours\nwhitelist:\n  reason: ours\n  ip: [198.51.0.1]\n",
        );
        let (alerts, counts) = run(&shipped(vec![folder.path().join("rules")]), &log, 2, AllowSet::new([]));
        assert_eq!(mine(&alerts), Vec::<String>::new());
        assert!(counts.whitelisted > 0);
        assert!(alerts.iter().all(|alert| alert.source.value != "198.51.0.1"));
    }
}
