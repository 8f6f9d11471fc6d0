//! A log through its rules, one line after the other.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use model::{AllowSet, EventDump, Line, Origin, RuntimeAlert};
use parsers::trace::TraceEntry;
use parsers::{Library, YearRule};
use scenarios::{HashKey, Pour};

use super::HubTestError;
use super::collect::Test;
use crate::acquisition::Batch;
use crate::parse::{Scene, Worker};
use crate::partitions::Partitions;
use crate::pool::Pool;
use crate::ruleset::RuleSet;
use crate::world::Outside;

/// What a run left behind.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// What the nodes of each stage did, by stage and name.
    pub(super) nodes: Vec<NodeDump>,
    /// Overflows as they came, after the postoverflow stages.
    pub(super) overflows: Vec<EventDump>,
}

/// What one node did, line by line.
#[derive(Debug)]
pub(super) struct NodeDump {
    pub(super) stage: Arc<str>,
    pub(super) name: Arc<str>,
    /// When the stage saw it first, from 1.
    pub(super) number: usize,
    pub(super) records: Vec<NodeRecord>,
}

/// What one node did to one line.
#[derive(Debug)]
pub(super) struct NodeRecord {
    pub(super) success: bool,
    pub(super) event: EventDump,
}

/// How often an overflow may cause another. Rules that feed each other in a circle would never end.
const ECHOES: usize = 8;
/// More than any log of a test fills.
const MEMORY: usize = 1 << 30;

/// Runs the log of `test`.
pub(super) fn run(test: &Test, library: &Library, now: Timestamp) -> Result<Dump, HubTestError> {
    let mut bench = Bench::new(test, library, now)?;
    let bytes = read_log(&test.log)?;
    if bytes.is_empty() {
        return Err(HubTestError::EmptyLog(test.log.clone()));
    }
    let log = String::from_utf8_lossy(&bytes);
    let labels = test.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
    let src = test.log.to_string_lossy();
    let origin = Origin { src: (&*src).into(), module: "file".into(), labels, time_machine: true, ..Origin::default() };
    let origin = Arc::new(origin);
    let mut offset = 0;
    for line in log.split_inclusive('\n') {
        let raw = line.trim_end_matches('\n');
        let raw = raw.strip_suffix('\r').unwrap_or(raw);
        if !raw.is_empty() {
            bench.line(Line { raw: raw.into(), origin: Arc::clone(&origin), time: now, offset });
        }
        offset += line.len() as u64;
    }
    Ok(bench.dump)
}

fn read_log(path: &Path) -> Result<Vec<u8>, HubTestError> {
    let unreadable = |error| HubTestError::File { what: "read", path: path.to_path_buf(), error };
    let bytes = fs::read(path).map_err(unreadable)?;
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&*bytes).read_to_end(&mut plain).map_err(unreadable)?;
    Ok(plain)
}

/// The engine's parts, on one thread and line by line.
struct Bench {
    now: Timestamp,
    tracing: bool,
    scene: Scene,
    partitions: Partitions,
    pool: Pool<Worker>,
    dump: Dump,
}

impl Bench {
    fn new(test: &Test, library: &Library, now: Timestamp) -> Result<Self, HubTestError> {
        let built = RuleSet::build_over(&test.rules, library);
        if !built.problems.is_empty() {
            return Err(HubTestError::Rules(test.located(built.problems)));
        }
        let rules = Arc::new(built.rules);
        Ok(Self {
            now,
            tracing: test.checks_parsers(),
            partitions: Partitions::new(Arc::clone(&rules), MEMORY),
            pool: Pool::new(1, Worker::new).map_err(HubTestError::Thread)?,
            scene: Scene {
                stashes: Arc::new(rules.stashes()),
                rules,
                // Logs of tests may come from anywhere.
                allow: Arc::new(AllowSet::default()),
                // Nobody aims at the buckets of a test.
                key: HashKey::new([0; 16]),
                year: YearRule::Current,
                outside: Outside::default(),
                measure: false,
            },
            dump: Dump::default(),
        })
    }

    fn line(&mut self, line: Line) {
        let worker = self.pool.own();
        let mut pours = if self.tracing {
            let (trace, _, _, pours) = worker.trace(&line, &self.scene, self.now);
            self.dump.put_away(trace.entries);
            pours
        } else {
            let (lines, steps) = ([line].into_iter().collect(), Vec::new());
            let batch =
                Batch { source: 0, sequence: 0, lines, backlog: false, caught_up: false, steps, read_at: self.now };
            worker.parse(&batch, &self.scene).pours
        };
        for _ in 0..ECHOES {
            let overflows = self.partitions.pour(vec![(self.now, pours)], &self.scene, &mut self.pool);
            pours = overflows.into_iter().flat_map(|overflow| self.overflow(overflow)).collect();
        }
    }

    /// Takes an overflow through the postoverflow stages: its pours, if it asks for that.
    fn overflow(&mut self, overflow: RuntimeAlert) -> Vec<Pour> {
        let mut again = Vec::new();
        let event = self.pool.own().trace_overflow(overflow, &self.scene, self.now, &mut again);
        self.dump.overflows.push(event);
        again
    }
}

impl Dump {
    fn put_away(&mut self, entries: Vec<TraceEntry>) {
        for entry in entries {
            let Some(event) = entry.event else { continue };
            let record = NodeRecord { success: entry.node.success, event };
            let mut nodes = self.nodes.iter_mut();
            let known = nodes.find(|node| node.stage == entry.stage && node.name == entry.node.name);
            if let Some(node) = known {
                node.records.push(record);
            } else {
                let number = self.nodes.iter().filter(|node| node.stage == entry.stage).count() + 1;
                self.nodes.push(NodeDump { stage: entry.stage, name: entry.node.name, number, records: vec![record] });
            }
        }
    }
}
