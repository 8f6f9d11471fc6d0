//! What the worst line costs: lines at the limit, made from real ones by filling them up in many places with what patterns,
//! filters and helpers might stumble over. Through the shipped rules, and through a whole hub if one lies beside the repository.
#![expect(clippy::print_stdout, reason = "the figures are the result")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::acquisition::Batch;
use agent::hub::{Choice, Hub};
use agent::load::{Folders, RuleFiles};
use agent::meter::process_time;
use agent::parse::{Scene, Worker};
use agent::ruleset::RuleSet;
use agent::world::Outside;
use jiff::Timestamp;
use model::{AllowSet, Line, Origin, yaml};
use parsers::YearRule;
use scenarios::HashKey;

/// Longest line in bytes.
const LIMIT: usize = 64 << 10;
/// A shorter one, to see how cost grows.
const SHORT: usize = LIMIT / 4;
/// What lines are filled up with.
const FILLERS: [&str; 30] = [
    "a",
    "1",
    " ",
    "\t",
    "a ",
    "1 ",
    ".",
    "/",
    "../",
    "%2e%2e%2f",
    "%",
    "\"",
    "\\",
    "\\\"",
    "'",
    "(",
    ")",
    "[",
    "]",
    "{",
    ":",
    "::",
    "1.2.3.4 ",
    "a=b ",
    "&a=b",
    "<a>",
    "<!--",
    "é",
    "\u{0}",
    "from 192.0.2.1 port 1 ",
];
/// How much of a line stands before what fills it up, in tenths.
const PLACES: [usize; 3] = [3, 6, 9];

/// A line that is tried.
struct Case {
    name: String,
    kind: String,
    before: String,
    filler: &'static str,
    after: String,
}

impl Case {
    fn line(&self, length: usize) -> String {
        let room = length.saturating_sub(self.before.len() + self.after.len());
        format!("{}{}{}", self.before, self.filler.repeat(room / self.filler.len()), self.after)
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shipped = RuleSet::build(&RuleFiles::read(&Folders { shipped: true, folders: Vec::new() }));
    try_all("the shipped rules", shipped.rules, &samples(&root.join("tests/flows")), Duration::from_millis(10));
    let hub = root.join("../shared/hub");
    match Hub::build(&hub, &Choice::All) {
        Ok(built) => try_all("the whole hub", built.rules, &samples(&hub.join(".tests")), Duration::from_millis(100)),
        Err(error) => println!("no hub beside the repository: {error}"),
    }
}

/// One line of each type: the longest of the first test of it.
fn samples(tests: &Path) -> Vec<(String, String, String)> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(tests).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let mut samples: Vec<_> = folders.iter().filter_map(|folder| sample(folder)).collect();
    let mut known = HashSet::new();
    samples.retain(|(_, kind, _)| known.insert(kind.clone()));
    samples
}

fn sample(folder: &Path) -> Option<(String, String, String)> {
    let config = std::fs::read_to_string(folder.join("config.yaml")).ok()?;
    let config = yaml::documents(&config).ok()?.first()?.to_json();
    let log = std::fs::read_to_string(folder.join(config["log_file"].as_str()?)).ok()?;
    let line = log.lines().max_by_key(|line| line.len()).filter(|line| !line.is_empty())?;
    let name = folder.file_name()?.to_string_lossy().into_owned();
    Some((name, config["log_type"].as_str()?.to_owned(), line.to_owned()))
}

fn try_all(rules_name: &str, rules: RuleSet, samples: &[(String, String, String)], bound: Duration) {
    let scene = Scene {
        stashes: Arc::new(rules.stashes()),
        rules: Arc::new(rules),
        allow: Arc::new(AllowSet::new([])),
        key: HashKey::new([0; 16]),
        year: YearRule::Current,
        outside: Outside::default(),
        measure: false,
    };
    let mut worker = Worker::new();
    let mut found: Vec<(Duration, Duration, String)> = Vec::new();
    for case in cases(samples) {
        let mut cost = |length| {
            let batch = batch(&case.line(length), &case.kind);
            // The first builds matchers and makes room.
            (0..3).map(|_| time(&mut worker, &batch, &scene)).min().unwrap_or_default()
        };
        let (short, long) = (cost(SHORT), cost(LIMIT));
        let place =
            format!("{} ({}) filled up after {} bytes with {:?}", case.name, case.kind, case.before.len(), case.filler);
        found.push((long, short, place));
    }
    found.sort_by_key(|(long, ..)| std::cmp::Reverse(*long));
    let over = found.iter().filter(|(long, ..)| *long > bound).count();
    let median = found.get(found.len() / 2).map_or(Duration::ZERO, |(long, ..)| *long);
    println!(
        "{rules_name}: {} lines of {LIMIT} bytes, {over} cost more than {bound:?}; median {median:.1?}",
        found.len()
    );
    for (long, short, place) in found.iter().take(8) {
        println!("  {long:9.2?}, a quarter of it {short:9.2?}: {place}");
    }
    let growth = |long: Duration, short: Duration| long.as_secs_f64() / short.as_secs_f64().max(1e-9);
    let costly = found.iter().filter(|(long, ..)| *long > bound / 10);
    let steepest = costly.max_by(|a, b| growth(a.0, a.1).total_cmp(&growth(b.0, b.1)));
    if let Some((long, short, place)) = steepest {
        println!(
            "  steepest of the costly ones: {:.1} times for four times the length: {place}",
            growth(*long, *short)
        );
    }
}

/// Every filler at several places of each sample.
fn cases(samples: &[(String, String, String)]) -> impl Iterator<Item = Case> {
    samples.iter().flat_map(|(name, kind, line)| {
        PLACES.iter().flat_map(move |tenths| {
            let mut at = line.len() * tenths / 10;
            while !line.is_char_boundary(at) {
                at -= 1;
            }
            let (before, after) = line.split_at(at);
            FILLERS.iter().map(move |filler| Case {
                name: name.clone(),
                kind: kind.clone(),
                before: before.to_owned(),
                filler,
                after: after.to_owned(),
            })
        })
    })
}

fn time(worker: &mut Worker, batch: &Batch, scene: &Scene) -> Duration {
    let start = process_time();
    std::hint::black_box(worker.parse(batch, scene));
    process_time().saturating_sub(start)
}

fn batch(line: &str, kind: &str) -> Batch {
    let labels = vec![("type".into(), kind.into())];
    let origin = Arc::new(Origin { labels, time_machine: true, ..Origin::default() });
    Batch {
        source: 0,
        sequence: 0,
        lines: std::iter::once(Line { raw: line.into(), origin, time: Timestamp::UNIX_EPOCH, offset: 0 }).collect(),
        backlog: false,
        caught_up: false,
        steps: Vec::new(),
        read_at: Timestamp::UNIX_EPOCH,
    }
}
