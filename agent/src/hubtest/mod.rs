//! Tests of rules: a log, the rules it is run through, and what must come out.
//!
//! A test is a folder, below `.tests` in a hub (spec: hub-and-tests B and C). Its log runs in log time, synchronously and
//! under a frozen clock; what every parser made of every line and every overflow is put away, and assertions, which are
//! expressions, look at that.

mod assertions;
mod bench;
mod collect;
mod generate;
mod order;
mod results;

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use model::yaml::Fault;
use parsers::Library;

pub use assertions::Failure;
pub use generate::{NewTest, create};

use assertions::Checked;
use collect::{Hub, Test};

use crate::hub::HubError;
use crate::load::{RuleFile, RuleFiles};
use crate::ruleset;
use crate::status::Problem;

/// Which tests to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The hub's folder.
    pub hub: PathBuf,
    /// Names of tests; empty runs all.
    pub names: Vec<String>,
    /// What the clock shows, and so the year of dates without one.
    pub now: Timestamp,
    /// Where the folders of the tests lie, if it is not `.tests` of the hub.
    pub tests: Option<PathBuf>,
    /// Whether assertions count as failed that the field's own runner lets pass (B.6).
    pub strict: bool,
}

/// What became of the tests, in the order of their names.
#[derive(Debug, Default)]
pub struct Report {
    /// One entry a test.
    pub tests: Vec<TestReport>,
}

impl Report {
    /// Whether all tests succeeded.
    pub fn success(&self) -> bool {
        self.tests.iter().all(TestReport::success)
    }
}

/// What became of one test.
#[derive(Debug)]
pub struct TestReport {
    /// Its name.
    pub name: String,
    /// Assertions that were looked at.
    pub assertions: usize,
    /// Assertions that do not hold.
    pub failures: Vec<Failure>,
    /// Why it could not be run, or not to its end.
    pub error: Option<HubTestError>,
}

impl TestReport {
    /// Whether it ran and every assertion holds.
    pub fn success(&self) -> bool {
        self.error.is_none() && self.failures.is_empty()
    }
}

/// Why a test cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum HubTestError {
    /// A file cannot be read or written.
    #[error("cannot {what} `{path}`: {error}", path = path.display())]
    File {
        /// `read`, `write`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The index of the hub is not what it should be.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// There is no such test.
    #[error("there is no test `{name}` in `{folder}`", folder = folder.display())]
    Unknown {
        /// Its name.
        name: String,
        /// Where it should be.
        folder: PathBuf,
    },
    /// An item that the test names is nowhere.
    #[error("{kind} `{name}` is neither in the index nor a file of the hub or the test, nor shipped")]
    Item {
        /// `parsers`, `scenarios`, ...
        kind: &'static str,
        /// As the test names it.
        name: String,
    },
    /// The test's own file has a mistake.
    #[error("{0}")]
    Config(Fault),
    /// Its rules have mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Rules(Vec<Problem>),
    /// No thread can be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Nothing can be learnt from a log without lines.
    #[error("the log `{path}` is empty", path = .0.display())]
    EmptyLog(PathBuf),
    /// No parser took on any line.
    #[error("no parser saw a line; is `log_type` right?")]
    NoParser,
    /// An assertion cannot be evaluated.
    #[error("{path}:{line}: cannot evaluate the assertion: {message}", path = path.display())]
    Assertion {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        message: String,
    },
    /// A file of assertions is missing or empty.
    #[error("`{path}` holds no assertions; fill it with these, if they are right:\n{assertions}", path = path.display())]
    Unfilled {
        /// The file.
        path: PathBuf,
        /// What holds at present.
        assertions: String,
    },
    /// A test of that name is there already.
    #[error("a test `{0}` is there already")]
    Exists(String),
}

/// Reads a file as text.
fn read(path: &Path) -> Result<String, HubTestError> {
    fs::read_to_string(path).map_err(|error| HubTestError::File { what: "read", path: path.to_path_buf(), error })
}

/// Runs tests of a hub. The grok patterns, and items that the hub does not have, come from `shipped`. The error is for a hub
/// that has no tests to run.
pub fn run(options: &Options, shipped: &RuleFiles) -> Result<Report, HubTestError> {
    let hub = Hub::open(options, shipped)?;
    let names = hub.tests(&options.names)?;
    let library = library(&shipped.patterns)?;
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(names.len().max(1));
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run_test(&hub, name, options, &library);
                    reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                }
            });
        }
    });
    let mut tests = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Report { tests })
}

/// The grok patterns of `files`.
fn library(files: &[RuleFile]) -> Result<Library, HubTestError> {
    let mut problems = Vec::new();
    let library = ruleset::library(files, &mut problems);
    if problems.is_empty() { Ok(library) } else { Err(HubTestError::Rules(problems)) }
}

fn run_test(hub: &Hub<'_>, name: &str, options: &Options, library: &Library) -> TestReport {
    let mut report = TestReport { name: name.to_owned(), assertions: 0, failures: Vec::new(), error: None };
    report.error = judge(hub, name, options, library, &mut report).err();
    report
}

fn judge(
    hub: &Hub<'_>,
    name: &str,
    options: &Options,
    library: &Library,
    report: &mut TestReport,
) -> Result<(), HubTestError> {
    let test = Test::read(hub, name)?;
    let dump = bench::run(&test, library, options.now)?;
    let mut note = |count: usize, checked: Checked| {
        report.assertions += count;
        report.failures.extend(checked.failures);
        checked.error.map_or(Ok(()), Err)
    };
    if test.checks_parsers() {
        let path = test.folder.join("parser.assert");
        let lines = assertions::lines(&path)?;
        if lines.is_empty() {
            return Err(HubTestError::Unfilled { path, assertions: generate::parser_assertions(&dump) });
        }
        if dump.nodes.is_empty() {
            return Err(HubTestError::NoParser);
        }
        note(lines.len(), results::check_parsers(&dump, &path, &lines, options.strict))?;
    }
    if test.checks_scenarios() {
        let path = test.folder.join("scenario.assert");
        let lines = assertions::lines(&path)?;
        if lines.is_empty() {
            return Err(HubTestError::Unfilled { path, assertions: generate::scenario_assertions(&dump) });
        }
        note(lines.len(), results::check_scenarios(&dump, &path, &lines, options.strict))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
