//! From a batch of lines to pours: what one worker does.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use expr::Host as _;
use expr::memo::Memo;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::{AllowSet, Event, LineRef, Part, Probe, RuntimeAlert};
use parsers::{Context, Outcome, Scratch, Stashes, Trace, YearRule};
use scenarios::metrics::SelectMetrics;
use scenarios::{HashKey, Pour, Selector, Surroundings};
use tracing::debug;

use crate::acquisition::Batch;
use crate::doubts::Doubtful;
use crate::meter::{Meter, Sample};
use crate::ruleset::RuleSet;
use crate::world::{Outside, Unknown, World};

/// So many lines in a row that had to wait, and the rest of the batch waits unseen: it is a log of such lines.
const IN_VAIN: usize = 32;

/// What all workers look at while they parse.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The rules.
    pub rules: Arc<RuleSet>,
    /// Short memory between lines.
    pub stashes: Arc<Stashes>,
    /// Who is never punished.
    pub allow: Arc<AllowSet>,
    /// What names the buckets.
    pub key: HashKey,
    /// Which year a date without one gets.
    pub year: YearRule,
    /// Who answers what neither rules nor lines say.
    pub outside: Outside,
    /// Whether it is measured where the time goes.
    pub measure: bool,
}

/// Scratch space of one thread.
#[derive(Debug, Default)]
pub struct Worker {
    bench: Option<Bench>,
    /// Times lines.
    meter: Option<Meter>,
    /// Times pours.
    pour_meter: Option<Meter>,
}

/// What belongs to one rule set.
#[derive(Debug)]
struct Bench {
    rules: Arc<RuleSet>,
    event: Event,
    scratch: Scratch,
    overflow_scratch: Scratch,
    selector: Selector,
    memo: Memo,
    /// How many pours the last batch gave: the next one will give about as many.
    pours: usize,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Pours in the order of the lines.
    pub pours: Vec<Pour>,
    /// How many lines had which fate.
    pub fates: Fates,
    /// What the scenarios said.
    pub metrics: SelectMetrics,
    /// Lines about which a rule asked something that is not known yet.
    pub doubtful: Vec<Doubtful>,
    /// Lines that wanted a stash, which was closed to them.
    pub waiting: Vec<Waiting>,
    /// What it cost, if that is measured.
    pub spent: Option<Sample>,
}

/// A line that must be parsed in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the batch.
    line: usize,
    /// How many pours come before its own.
    pours: usize,
}

/// How many lines had which fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Understood, offered to the scenarios.
    pub parsed: u64,
    /// Understood by no parser of some stage.
    pub unparsed: u64,
    /// Understood and on a whitelist.
    pub whitelisted: u64,
    /// Lost to a mistake in a parser.
    pub failed: u64,
    /// Lines that no parser understood, by stage.
    pub stages: BTreeMap<Arc<str>, u64>,
}

impl Fates {
    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.parsed + self.unparsed + self.whitelisted + self.failed
    }

    /// Adds the fates of other lines.
    pub fn merge(&mut self, other: &Self) {
        self.parsed += other.parsed;
        self.unparsed += other.unparsed;
        self.whitelisted += other.whitelisted;
        self.failed += other.failed;
        for (stage, count) in &other.stages {
            *self.stages.entry(Arc::clone(stage)).or_default() += count;
        }
    }
}

impl Worker {
    /// A worker that has done nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What times pours, if that is wanted.
    pub(crate) fn pour_meter(&mut self, scene: &Scene) -> Option<&mut Meter> {
        scene.measure.then(|| self.pour_meter.get_or_insert_with(Meter::new))
    }

    fn bench(&mut self, scene: &Scene) -> &mut Bench {
        let same = |bench: &Bench| Arc::ptr_eq(&bench.rules, &scene.rules);
        if !self.bench.as_ref().is_some_and(same) {
            self.bench = None;
        }
        self.bench.get_or_insert_with(|| Bench {
            rules: Arc::clone(&scene.rules),
            event: Event::new(Arc::clone(&scene.rules.table)),
            scratch: Scratch::default(),
            overflow_scratch: Scratch::default(),
            selector: Selector::new(scene.key.clone()),
            memo: Memo::default(),
            pours: 0,
        })
    }

    /// Parses the lines of `batch` and asks the scenarios which of them want the events. The present is the moment at
    /// which the batch was closed.
    pub fn parse(&mut self, batch: &Batch, scene: &Scene) -> Parsed {
        let mut meter = self.meter.take().or_else(|| scene.measure.then(Meter::new));
        let bench = self.bench(scene);
        bench.selector.begin();
        let mut done = Parsed { pours: Vec::with_capacity(bench.pours), ..Parsed::default() };
        let mut in_vain = 0;
        for (number, line) in batch.lines.iter().enumerate() {
            let through = in_vain < IN_VAIN
                && Meter::time(meter.as_mut(), Part::Line, |probe| {
                    bench.line(line, scene, batch.read_at, probe, &mut done)
                });
            in_vain = if through { 0 } else { in_vain + 1 };
            if !through {
                done.waiting.push(Waiting { line: number, pours: done.pours.len() });
            }
        }
        bench.pours = done.pours.len();
        done.metrics = mem::take(&mut bench.selector.metrics);
        done.spent = meter.as_mut().map(Meter::take);
        self.meter = meter;
        done
    }

    /// Parses the lines that [`Worker::parse`] left waiting, now that stashes are open to them: the result is as if none had
    /// waited.
    pub fn catch_up(&mut self, batch: &Batch, parsed: &mut Parsed, scene: &Scene) {
        let bench = self.bench(scene);
        bench.selector.begin();
        let mut before = mem::take(&mut parsed.pours).into_iter();
        let mut placed = 0;
        for Waiting { line, pours } in mem::take(&mut parsed.waiting) {
            parsed.pours.extend(before.by_ref().take(pours - placed));
            placed = pours;
            if let Some(line) = batch.lines.get(line) {
                bench.line(line, scene, batch.read_at, None, parsed);
            }
        }
        parsed.pours.extend(before);
        parsed.metrics.merge(&mem::take(&mut bench.selector.metrics));
    }

    /// Parses one line and nothing more: what becomes of it, and what was asked on the way and is not known yet.
    pub fn judge(&mut self, line: &model::Line, scene: &Scene, now: Timestamp) -> (Outcome, Vec<Unknown>) {
        let bench = self.bench(scene);
        bench.event.start_line(line);
        bench.run(scene, now, None, None)
    }

    /// Takes one line through all stages, asking every node and every scenario, and says what happened.
    pub fn trace(
        &mut self,
        line: &model::Line,
        scene: &Scene,
        now: Timestamp,
    ) -> (Trace, Outcome, model::EventDump, Vec<Pour>) {
        let bench = self.bench(scene);
        let mut trace = Trace { with_events: true, ..Trace::default() };
        bench.event.start_line(line);
        let (outcome, _) = bench.run(scene, now, Some(&mut trace), None);
        let mut pours = Vec::new();
        if outcome == Outcome::Parsed {
            let passed = scene.rules.parsers.passed(&mut bench.scratch);
            let choosy = mem::replace(&mut bench.selector, Selector::new(scene.key.clone()).exhaustive());
            bench.select(scene, now, &passed, None, &mut pours);
            bench.selector = choosy;
        }
        (trace, outcome, bench.event.dump(), pours)
    }

    /// Takes an overflow through the postoverflow stages: `None` when a whitelist caught it. One that is to be reprocessed
    /// leaves its pours in `again`. Second, what was asked on the way and is not known yet.
    pub fn finish(
        &mut self,
        overflow: RuntimeAlert,
        scene: &Scene,
        now: Timestamp,
        again: &mut Vec<Pour>,
    ) -> (Option<RuntimeAlert>, Vec<Unknown>) {
        let bench = self.bench(scene);
        let unknown = bench.settle(overflow, scene, now, again);
        (bench.event.take_overflow().filter(|overflow| !overflow.whitelisted), unknown)
    }

    /// The same, and says what became of the overflow, whitelisted or not.
    pub fn trace_overflow(
        &mut self,
        overflow: RuntimeAlert,
        scene: &Scene,
        now: Timestamp,
        again: &mut Vec<Pour>,
    ) -> model::EventDump {
        let bench = self.bench(scene);
        bench.settle(overflow, scene, now, again);
        bench.event.dump()
    }
}

impl Bench {
    /// Takes a line through the stages and to the scenarios, unless it has to wait for its turn: then it leaves no trace, and the
    /// answer is `false`.
    fn line(
        &mut self,
        line: LineRef<'_>,
        scene: &Scene,
        now: Timestamp,
        probe: Option<&Probe>,
        done: &mut Parsed,
    ) -> bool {
        self.event.start_line(line);
        let fates = &mut done.fates;
        let (outcome, unknown) = self.run(scene, now, None, probe);
        if scene.stashes.wanted() {
            return false;
        }
        match outcome {
            Outcome::Parsed => {
                fates.parsed += 1;
                if !unknown.is_empty() {
                    done.doubtful.push(Doubtful { line: line.into(), read_at: now, unknown });
                }
                let passed = scene.rules.parsers.passed(&mut self.scratch);
                Probe::time(probe, Part::Select, || self.select(scene, now, &passed, probe, &mut done.pours));
            }
            Outcome::Whitelisted => fates.whitelisted += 1,
            Outcome::Unparsed { stage } => {
                fates.unparsed += 1;
                *fates.stages.entry(stage).or_default() += 1;
            }
            Outcome::Failed { parser, problem } => {
                fates.failed += 1;
                debug!(%parser, problem, "line lost");
            }
        }
        true
    }

    /// What becomes of the line, and what was asked on the way and is not known yet.
    fn run(
        &mut self,
        scene: &Scene,
        now: Timestamp,
        trace: Option<&mut Trace>,
        probe: Option<&Probe>,
    ) -> (Outcome, Vec<Unknown>) {
        let world = World::new(scene, now);
        let mut cx = Context { trace, probe, ..context(scene, &world, &self.memo, &mut self.scratch) };
        let outcome = scene.rules.parsers.run(&mut self.event, &mut cx);
        (outcome, world.into_unknown())
    }

    fn settle(&mut self, overflow: RuntimeAlert, scene: &Scene, now: Timestamp, again: &mut Vec<Pour>) -> Vec<Unknown> {
        self.event.start_overflow(overflow, now);
        let world = World::new(scene, now);
        let mut cx = context(scene, &world, &self.memo, &mut self.overflow_scratch);
        scene.rules.postoverflows.run(&mut self.event, &mut cx);
        if self.event.overflow().is_some_and(|overflow| overflow.reprocess && !overflow.whitelisted) {
            let passed = scene.rules.postoverflows.passed(&mut self.overflow_scratch);
            self.selector.begin();
            self.select(scene, now, &passed, None, again);
        }
        world.into_unknown()
    }

    fn select(
        &mut self,
        scene: &Scene,
        now: Timestamp,
        parsers: &Arc<[Arc<str>]>,
        probe: Option<&Probe>,
        pours: &mut Vec<Pour>,
    ) {
        let world = World::new(scene, now);
        let allow = Some(&*scene.allow);
        let around = Surroundings { host: &world, memo: Some(&self.memo), allow, now, parsers, probe };
        self.selector.select(&scene.rules.scenarios, &self.event, &around, pours);
    }
}

/// Zone in which unix times are written out.
static UTC: TimeZone = TimeZone::UTC;

/// What both sets of parsers run with: those of lines and those of overflows.
fn context<'w>(scene: &'w Scene, world: &'w World<'_>, memo: &'w Memo, scratch: &'w mut Scratch) -> Context<'w> {
    Context {
        host: world,
        now: world.now(),
        year: scene.year,
        zone: &UTC,
        stashes: &scene.stashes,
        geo: scene.rules.geo.as_ref(),
        memo: Some(memo),
        scratch,
        trace: None,
        probe: None,
    }
}

/// One alert per source (spec: scenarios 10.3), each with an identity of its own.
pub fn alerts_of(overflow: RuntimeAlert) -> Vec<model::Alert> {
    let RuntimeAlert { sources, alert, .. } = overflow;
    if sources.len() < 2 {
        return vec![alert];
    }
    sources
        .into_iter()
        .map(|(value, source)| {
            let uuid = match uuid::Uuid::parse_str(&alert.uuid) {
                Ok(uuid) => uuid::Uuid::new_v5(&uuid, value.as_bytes()).to_string(),
                Err(_) => alert.uuid.clone(),
            };
            model::Alert { source, uuid, ..alert.clone() }
        })
        .collect()
}
