//! What runs, what does not, and what to do about it.
//!
//! Counters are atomics that the threads add to; a problem stays until its cause is gone, so that a datasource
//! or rule that does not work is red wherever the status is shown.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use model::yaml::Fault;
use serde::Serialize;

use crate::engine::Engine;
use crate::spool::SpoolReport;

/// How many things that do not work are named for one datasource.
const MAX_TROUBLES: usize = 64;

/// Everything there is to show.
#[derive(Debug, Default)]
pub struct Status {
    sources: Mutex<Vec<Arc<SourceStatus>>>,
    problems: Mutex<Vec<Problem>>,
    engine: Mutex<EngineReport>,
    reporting: Mutex<Option<String>>,
    spool: Mutex<Option<SpoolReport>>,
    checkpoint: Mutex<Option<String>>,
    losses: Mutex<Vec<String>>,
}

impl Status {
    /// Adds a datasource.
    pub fn add_source(&self, name: &str, module: &str) -> Arc<SourceStatus> {
        let source = Arc::new(SourceStatus::new(name, module));
        lock(&self.sources).push(Arc::clone(&source));
        source
    }

    /// Forgets a datasource that is read no more.
    pub fn remove_source(&self, source: &Arc<SourceStatus>) {
        lock(&self.sources).retain(|known| !Arc::ptr_eq(known, source));
    }

    /// Replaces what did not load: called with all problems of a (re)load.
    pub fn set_problems(&self, problems: Vec<Problem>) {
        *lock(&self.problems) = problems;
    }

    /// What did not load.
    pub fn problems(&self) -> Vec<Problem> {
        lock(&self.problems).clone()
    }

    /// The state of all datasources, in the order in which they were added.
    pub fn sources(&self) -> Vec<SourceReport> {
        lock(&self.sources).iter().map(|source| source.report()).collect()
    }

    /// What the engine counted.
    pub fn engine(&self) -> EngineReport {
        lock(&self.engine).clone()
    }

    /// Replaces what the engine counted.
    pub fn set_engine(&self, report: EngineReport) {
        *lock(&self.engine) = report;
    }

    /// Why alerts are not taken, if they are not.
    pub fn reporting(&self) -> Option<String> {
        lock(&self.reporting).clone()
    }

    /// Says why alerts are not taken.
    pub fn set_reporting(&self, problem: Option<String>) {
        *lock(&self.reporting) = problem;
    }

    /// What waits for an API elsewhere, if alerts go to one.
    pub fn spool(&self) -> Option<SpoolReport> {
        lock(&self.spool).clone()
    }

    /// Says what waits for an API elsewhere.
    pub fn set_spool(&self, report: Option<SpoolReport>) {
        *lock(&self.spool) = report;
    }

    /// Why places in the logs are not remembered, if they are not.
    pub fn checkpoint(&self) -> Option<String> {
        lock(&self.checkpoint).clone()
    }

    /// Says why places in the logs are not remembered.
    pub fn set_checkpoint(&self, problem: Option<String>) {
        *lock(&self.checkpoint) = problem;
    }

    /// What of the last run's state was lost, a sentence each; stays until the end.
    pub fn losses(&self) -> Vec<String> {
        lock(&self.losses).clone()
    }

    /// Says what of the last run's state was lost.
    pub fn set_losses(&self, losses: Vec<String>) {
        *lock(&self.losses) = losses;
    }

    /// Whether everything works.
    pub fn is_green(&self) -> bool {
        lock(&self.problems).is_empty()
            && self.reporting().is_none()
            && self.checkpoint().is_none()
            && self.sources().iter().all(|source| source.trouble.is_empty())
    }
}

/// What the engine counted since the rules are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EngineReport {
    /// Events offered to the scenarios.
    pub events: u64,
    /// Events that at least one scenario wanted.
    pub poured: u64,
    /// Events not offered, since their source is allowed.
    pub allowed: u64,
    /// Buckets now.
    pub buckets: u64,
    /// Bytes of all buckets now.
    pub bytes: u64,
    /// Overflows that a whitelist caught afterwards.
    pub whitelisted: u64,
    /// By scenario, in file order.
    pub scenarios: Vec<ScenarioReport>,
}

/// What one scenario did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScenarioReport {
    /// Its name.
    pub name: String,
    /// Events that it wanted.
    pub poured: u64,
    /// Buckets created.
    pub created: u64,
    /// Buckets that overflowed.
    pub overflowed: u64,
    /// Buckets that were idle for their lifetime.
    pub expired: u64,
    /// Buckets given up for want of memory.
    pub evicted: u64,
    /// Overflows muted by `blackhole`.
    pub muted: u64,
    /// Expressions that failed.
    pub errors: u64,
}

impl EngineReport {
    /// What `engine` counted.
    pub fn new(engine: &Engine) -> Self {
        let (selected, buckets) = (engine.selected(), engine.buckets());
        let scenarios = engine.rules().scenarios.all().iter().enumerate().map(|(index, scenario)| {
            let asked = selected.scenarios.get(index).copied().unwrap_or_default();
            let held = buckets.scenarios.get(index).copied().unwrap_or_default();
            ScenarioReport {
                name: scenario.name.clone(),
                poured: asked.poured,
                created: held.created,
                overflowed: held.overflowed,
                expired: held.expired,
                evicted: held.evicted,
                muted: held.muted,
                errors: asked.errors + held.errors,
            }
        });
        Self {
            events: selected.events,
            poured: selected.poured,
            allowed: selected.allowed,
            buckets: buckets.buckets,
            bytes: buckets.bytes,
            whitelisted: engine.whitelisted(),
            scenarios: scenarios.collect(),
        }
    }
}

/// One thing that did not load or does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is about.
    pub kind: Kind,
    /// The file that is wrong.
    pub path: PathBuf,
    /// The line in it, from 1; 0 when the whole file is meant.
    pub line: u64,
    /// What is wrong, in lower case, without a final stop.
    pub message: String,
    /// What to do; empty when the message says it.
    pub remedy: String,
}

impl Problem {
    /// A mistake in a file that was read.
    pub fn new(kind: Kind, fault: Fault) -> Self {
        Self {
            kind,
            line: fault.line.into(),
            message: fault.shown(),
            path: fault.path,
            remedy: fault.hint.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\nhint: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A document of the acquisition configuration.
    Datasource,
    /// A pattern file.
    Pattern,
    /// A data file that rules name.
    Data,
    /// A parser without whitelist.
    Parser,
    /// A parser that whitelists.
    Whitelist,
    /// A scenario.
    Scenario,
    /// Alert context.
    Context,
    /// A list of who is never punished.
    Allowlist,
    /// A profile.
    Profile,
}

impl Kind {
    /// Whether starting without it could punish somebody whom it protects: enforcement is refused then.
    pub fn protects(self) -> bool {
        matches!(self, Kind::Whitelist | Kind::Allowlist | Kind::Profile)
    }
}

/// Counters and state of one datasource.
#[derive(Debug, Default)]
pub struct SourceStatus {
    name: String,
    module: String,
    trouble: Mutex<Vec<Trouble>>,
    last_error: Mutex<Option<Failure>>,
    watching: AtomicBool,
    remembered: AtomicBool,
    /// Since when there is something that nobody has taken, in microseconds of the Unix epoch; 0 when there is nothing.
    behind: AtomicU64,
    /// Lines handed out.
    pub lines: Counter,
    /// Bytes read.
    pub bytes: Counter,
    /// Bytes there are to read, when the input has an end.
    pub total: Counter,
    /// Bytes written but not yet read.
    pub lag: Counter,
    /// Lines longer than allowed, cut.
    pub cut: Counter,
    /// Lines that a parser understood.
    pub parsed: Counter,
    /// Lines that no parser understood.
    pub unparsed: Counter,
    /// Lines or records that could not be taken.
    pub dropped: Counter,
    /// Lines that `transform` could make nothing of, and that stayed as they are.
    pub unchanged: Counter,
    /// How often it was started again after a failure.
    pub retries: Counter,
    /// Processor time of its thread in nanoseconds, known when it has ended.
    pub nanos: Counter,
}

impl SourceStatus {
    /// A datasource that works and has read nothing.
    pub fn new(name: &str, module: &str) -> Self {
        Self { name: name.into(), module: module.into(), ..Self::default() }
    }

    /// What `evt.Line.Src` says, or the patterns of a file source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says that it has found what there is to read: what is written from now on is not missed.
    pub fn set_watching(&self) {
        self.watching.store(true, Ordering::Release);
    }

    /// Whether it has found what there is to read.
    pub fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Acquire)
    }

    /// Says that it is written down where reading stands.
    pub fn set_remembered(&self) {
        self.remembered.store(true, Ordering::Release);
    }

    /// Whether it is written down where reading stands: after a sudden end it goes on there.
    pub fn is_remembered(&self) -> bool {
        self.remembered.load(Ordering::Acquire)
    }

    /// Says that at `now` there is something that waits to be taken.
    pub fn fell_behind(&self, now: Timestamp) {
        let now = now.as_microsecond().max(1) as u64;
        // Who is behind already stays behind since then.
        let _ = self.behind.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Says that all there was has been taken.
    pub fn caught_up(&self) {
        self.behind.store(0, Ordering::Relaxed);
    }

    /// Says that `about` (a file, the whole source) does not work. Returns whether that is news.
    pub fn red(&self, about: &str, reason: impl Into<String>, remedy: impl Into<String>) -> bool {
        let trouble = Trouble { about: about.into(), reason: reason.into(), remedy: remedy.into() };
        let mut all = lock(&self.trouble);
        let known = all.iter().position(|known| known.about == about);
        if known.is_some_and(|known| all[known] == trouble) {
            return false;
        }
        *lock(&self.last_error) =
            Some(Failure { at: Timestamp::now(), about: about.into(), reason: trouble.reason.clone() });
        match known {
            Some(known) => all[known] = trouble,
            // A thousand files without permission are one trouble, seen a few times.
            None if all.len() < MAX_TROUBLES => all.push(trouble),
            None => return false,
        }
        true
    }

    /// Says that `about` works. Returns whether that is news.
    pub fn green(&self, about: &str) -> bool {
        let mut all = lock(&self.trouble);
        let before = all.len();
        all.retain(|known| known.about != about);
        all.len() < before
    }

    /// The counters and the state at this moment.
    pub fn report(&self) -> SourceReport {
        SourceReport {
            name: self.name.clone(),
            module: self.module.clone(),
            trouble: lock(&self.trouble).clone(),
            lines: self.lines.get(),
            bytes: self.bytes.get(),
            total: self.total.get(),
            lag: self.lag.get(),
            cut: self.cut.get(),
            parsed: self.parsed.get(),
            unparsed: self.unparsed.get(),
            dropped: self.dropped.get(),
            unchanged: self.unchanged.get(),
            retries: self.retries.get(),
            lag_seconds: match self.behind.load(Ordering::Relaxed) {
                0 => 0,
                since => (Timestamp::now().as_microsecond().max(0) as u64).saturating_sub(since) / 1_000_000,
            },
            last_error: lock(&self.last_error).clone(),
        }
    }
}

/// What last went wrong in a datasource, also when it works again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// When it was noticed.
    pub at: Timestamp,
    /// The file, unit or peer; empty for the datasource as a whole.
    pub about: String,
    /// What was wrong.
    pub reason: String,
}

/// What does not work in a datasource, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The file, unit or peer; empty for the datasource as a whole.
    pub about: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// A datasource at one moment; the fields are those of [`SourceStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "documented at SourceStatus")]
pub struct SourceReport {
    pub name: String,
    pub module: String,
    pub trouble: Vec<Trouble>,
    pub lines: u64,
    pub bytes: u64,
    pub total: u64,
    pub lag: u64,
    pub cut: u64,
    pub parsed: u64,
    pub unparsed: u64,
    pub dropped: u64,
    pub unchanged: u64,
    pub retries: u64,
    /// For how long there has been something that nobody has taken.
    pub lag_seconds: u64,
    pub last_error: Option<Failure>,
}

/// A number that threads add to and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Replaces the number, for what goes up and down.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The lists stay valid whatever panicked while it held the lock: each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_stays_until_its_cause_is_gone() {
        let status = Status::default();
        let source = status.add_source("/var/log/auth.log", "file");
        assert!(status.is_green());
        assert!(source.red("/var/log/auth.log", "permission denied", "allow reading"));
        assert!(!source.red("/var/log/auth.log", "permission denied", "allow reading"), "not news");
        assert!(source.red("/var/log/auth.log", "is a directory", "name a file"));
        assert!(!status.is_green());
        assert!(!source.green("another file"));
        assert_eq!(status.sources()[0].trouble[0].reason, "is a directory");
        assert!(source.green("/var/log/auth.log"));
        assert!(status.is_green());
    }

    #[test]
    fn a_problem_reads_as_file_line_and_hint() {
        let problem = Problem {
            kind: Kind::Datasource,
            path: "acquis.yaml".into(),
            line: 3,
            message: "unknown key `filname`".into(),
            remedy: "did you mean `filename`?".into(),
        };
        assert_eq!(problem.to_string(), "acquis.yaml:3: unknown key `filname`\nhint: did you mean `filename`?");
    }
}
