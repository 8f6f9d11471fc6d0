//! The stage machine: which nodes see an event, in which order, and when it is through (spec: parsers 3).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::{fmt, mem};

use expr::{Compiler, Condition, FieldId, MapId, Value};
use model::data::DataFile;
use model::fields::Constant;
use model::yaml::Fault;
use model::{Event, FieldTable, Part, Probe, classes, fields};

use crate::config::{self, NodeConfig};
use crate::dispatch::{Candidates, Index};
use crate::grok::Patterns;
use crate::habit::{Act, Habit, Memory, Row};
use crate::node::{Abort, Answers, Build, Counts, Node, Run, Texts, Touches};
use crate::patterns::Library;
use crate::stash::StashSpec;
use crate::trace::{NodeTrace, TraceEntry};
use crate::{Context, EventTime};

/// A parser file, as whoever reads files hands it in.
#[derive(Clone, Copy, Debug)]
pub struct ParserFile<'a> {
    /// Where it was found; files are ordered by this, byte by byte.
    pub path: &'a Path,
    /// The stage: the first folder below `parsers` or `postoverflows`.
    pub stage: &'a str,
    /// Its content.
    pub text: &'a str,
}

/// What loading gave: parsers that are whole, and what is wrong with the others.
#[derive(Debug)]
pub struct Loaded {
    /// Files that were refused as a whole, with the reason. The rest is loaded without them.
    pub problems: Vec<Fault>,
    /// Things that are probably not meant, but do no harm.
    pub warnings: Vec<Fault>,
    /// Data files that the parsers name, with the file that names them.
    pub data: Vec<(PathBuf, DataFile)>,
    /// Stashes that the parsers declare, in order.
    pub stashes: Vec<StashSpec>,
    texts: Texts,
    counts: Counts,
    parsers: Vec<Parser>,
}

/// What one parser reads and writes, for whoever decides what must be kept.
#[derive(Clone, Debug)]
pub struct ParserReport<'s> {
    /// Its name.
    pub name: &'s Arc<str>,
    /// Its stage.
    pub stage: &'s Arc<str>,
    /// Its file.
    pub path: &'s Arc<str>,
    /// Text fields that it reads.
    pub reads: &'s BTreeSet<FieldId>,
    /// String maps that it reads as a whole or by computed name.
    pub reads_all: &'s BTreeSet<MapId>,
    /// Text fields that it may write.
    pub writes: &'s BTreeSet<FieldId>,
    /// String maps that it writes by computed name.
    pub writes_all: &'s BTreeSet<MapId>,
    /// What must hold for it to do anything.
    pub requires: &'s [Condition],
    /// Data files that its expressions name.
    pub files: &'s BTreeSet<String>,
    /// Stashes that it reads (`None`: the name is computed).
    pub stashes_read: &'s [Option<String>],
    /// Stashes that it writes.
    pub stashes_written: &'s [String],
    /// Mistakes at run time so far.
    pub problems: u64,
}

/// The parsers of one engine: those of lines, or those of overflows. Immutable and shared between threads.
pub struct ParserSet {
    stages: Vec<(Arc<str>, Constant)>,
    indexes: Vec<Index>,
    parsers: Vec<Parser>,
    /// Range of `parsers` for each stage.
    ranges: Vec<std::ops::Range<usize>>,
    /// By number of its first parser.
    rows: Vec<Option<Row>>,
    constants: Vec<Constant>,
    id: usize,
}

static NEXT_ID: AtomicUsize = AtomicUsize::new(1);

#[derive(Debug)]
struct Parser {
    stage: Arc<str>,
    path: Arc<str>,
    node: Node,
    touches: Touches,
    /// What it does whenever it reads the same, if it does the same then.
    habit: Option<Habit>,
    problems: AtomicU64,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed all stages: it goes on to the buckets.
    Parsed,
    /// It passed all stages, and a whitelist matched: it is dropped.
    Whitelisted,
    /// No node of this stage took it on.
    Unparsed {
        /// The stage.
        stage: Arc<str>,
    },
    /// A static gave something that cannot be a text: the event is lost.
    Failed {
        /// The parser.
        parser: Arc<str>,
        /// Line of its file and reason.
        problem: String,
    },
}

/// Scratch space of one worker, reused from event to event. What it remembers holds for one set over one world.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) matching: crate::grok::Matching,
    /// What rules answered lately.
    pub(crate) answers: RefCell<Answers>,
    /// What each parser did lately.
    habits: Vec<Memory<Act>>,
    /// What the row that begins at a parser said lately.
    rows: Vec<Memory<bool>>,
    /// By stage.
    candidates: Vec<Candidates>,
    passed: Vec<u32>,
    /// Whose names were asked for last.
    last: Option<(Vec<u32>, Names)>,
    names: HashMap<Vec<u32>, Names>,
    /// The set that all this belongs to.
    set: usize,
}

/// Names of the parsers that succeeded on one event.
type Names = Arc<[Arc<str>]>;

/// Combinations of parsers whose names are kept.
const MAX_NAMES: usize = 1024;

/// Loads the parsers of one engine in the order of their paths. A file with a mistake is reported and left out; patterns
/// of `library` come first, those of the files are added in order.
pub fn load(files: &[ParserFile<'_>], library: &Library, compiler: &mut Compiler<'_>) -> Loaded {
    let mut loaded = Loaded {
        problems: Vec::new(),
        warnings: Vec::new(),
        data: Vec::new(),
        stashes: Vec::new(),
        texts: Texts::default(),
        counts: Counts::default(),
        parsers: Vec::new(),
    };
    let mut files: Vec<&ParserFile<'_>> = files.iter().collect();
    files.sort_by(|a, b| a.path.as_os_str().as_encoded_bytes().cmp(b.path.as_os_str().as_encoded_bytes()));
    let mut library = library.clone();
    let mut patterns = Patterns::default();
    for file in files {
        match config::parse(file.text) {
            Ok(config) => {
                let skipped = config.skipped.into_iter().map(|fault| fault.within(file.path));
                loaded.warnings.extend(skipped);
                loaded.add(file.path, file.stage, config.nodes, &mut library, &mut patterns, compiler);
            }
            Err(fault) => loaded.problems.push(fault.within(file.path)),
        }
    }
    loaded
}

impl Loaded {
    /// Adds the nodes of one file, all or none.
    fn add(
        &mut self,
        path: &Path,
        stage: &str,
        nodes: Vec<NodeConfig>,
        library: &mut Library,
        patterns: &mut Patterns,
        compiler: &mut Compiler<'_>,
    ) {
        let mark = library.mark();
        let (parsers, stashes, warnings) = (self.parsers.len(), self.stashes.len(), self.warnings.len());
        let vars = classes::event_vars();
        let shown: Arc<str> = path.display().to_string().into();
        for config in &nodes {
            let mut build = Build {
                compiler,
                vars: &vars,
                library,
                patterns,
                texts: &mut self.texts,
                counts: &mut self.counts,
                stashes: &mut self.stashes,
                warnings: &mut self.warnings,
                touches: Touches::default(),
            };
            match Node::build(config, &config.name.as_str().into(), &mut build) {
                Ok(node) => self.parsers.push(Parser {
                    stage: stage.into(),
                    path: Arc::clone(&shown),
                    habit: Habit::of(&build.touches),
                    touches: build.touches,
                    node,
                    problems: AtomicU64::new(0),
                }),
                Err(fault) => {
                    self.problems.push(fault.within(path));
                    library.forget(mark);
                    self.parsers.truncate(parsers);
                    self.stashes.truncate(stashes);
                    self.warnings.truncate(warnings);
                    return;
                }
            }
        }
        for warning in &mut self.warnings[warnings..] {
            path.clone_into(&mut warning.path);
        }
        let data = nodes.into_iter().flat_map(data_of);
        self.data.extend(data.map(|data| (path.to_owned(), data)));
    }

    /// Adds, as the first parser of `stage`, a node that succeeds on every event and assigns `statics`
    /// (`override_statics` of a hub test).
    pub fn add_overrides(
        &mut self,
        stage: &str,
        statics: Vec<config::StaticConfig>,
        compiler: &mut Compiler<'_>,
    ) -> Result<(), Fault> {
        let problems = self.problems.len();
        let node = NodeConfig::of_statics("overrides", statics);
        self.add(
            Path::new("00_overrides.yaml"),
            stage,
            vec![node],
            &mut Library::default(),
            &mut Patterns::default(),
            compiler,
        );
        if self.problems.len() > problems {
            return self.problems.pop().map_or(Ok(()), Err);
        }
        if let Some(parser) = self.parsers.pop() {
            let place = self.parsers.iter().position(|other| *other.stage == *stage);
            self.parsers.insert(place.unwrap_or(self.parsers.len()), parser);
        }
        Ok(())
    }

    /// Makes the set, once all rules of all engines have been compiled; numbers its texts with `table`.
    pub fn finish(self, table: &mut FieldTable) -> ParserSet {
        let mut by_stage: BTreeMap<Arc<str>, Vec<Parser>> = BTreeMap::new();
        for parser in self.parsers {
            by_stage.entry(Arc::clone(&parser.stage)).or_default().push(parser);
        }
        let mut set = ParserSet {
            stages: Vec::new(),
            indexes: Vec::new(),
            parsers: Vec::new(),
            ranges: Vec::new(),
            rows: Vec::new(),
            constants: self.texts.all.iter().map(|text| table.constant(text)).collect(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        };
        for (stage, parsers) in by_stage {
            let constant = table.constant(&stage);
            set.stages.push((stage, constant));
            set.indexes.push(Index::new(parsers.iter().map(|parser| parser.node.filter())));
            let start = set.parsers.len();
            set.rows.extend(rows(&parsers));
            set.parsers.extend(parsers);
            set.ranges.push(start..set.parsers.len());
        }
        set
    }
}

/// By parser the row that begins with it: neighbours that can be remembered together.
fn rows(parsers: &[Parser]) -> Vec<Option<Row>> {
    let mut rows: Vec<Option<Row>> = Vec::new();
    for neighbours in parsers.chunk_by(|one, next| one.trusts_by_texts() && next.trusts_by_texts()) {
        let touches = neighbours.iter().map(|parser| &parser.touches);
        rows.push(neighbours[0].trusts_by_texts().then(|| Row::of(touches)));
        rows.resize_with(rows.len() + neighbours.len() - 1, || None);
    }
    rows
}

fn data_of(node: NodeConfig) -> Vec<DataFile> {
    let children = node.nodes.into_iter().flat_map(data_of);
    node.data.into_iter().chain(children).collect()
}

impl Parser {
    /// Whether it does nothing but trust somebody, for what texts of the event say.
    fn trusts_by_texts(&self) -> bool {
        self.node.trusts_by_expressions() && Row::admits(&self.touches)
    }
}

impl ParserSet {
    /// Takes an event through the stages. With a trace every node of a reached stage is asked and leaves an entry;
    /// without one only those that could want the event are asked, with the same result.
    pub fn run(&self, event: &mut Event, cx: &mut Context<'_>) -> Outcome {
        cx.changed();
        if cx.scratch.set != self.id {
            *cx.scratch = Scratch { set: self.id, ..Scratch::default() };
            cx.scratch.candidates.resize_with(self.stages.len(), Candidates::default);
            cx.scratch.habits.resize_with(self.parsers.len(), Memory::default);
            cx.scratch.rows.resize_with(self.parsers.len(), Memory::default);
        }
        cx.scratch.passed.clear();
        if event.time().is_none() {
            event.set_time(EventTime::utc(cx.now));
        }
        event.set_process(false);
        if event.get(fields::STAGE).unwrap_or("").is_empty()
            && let Some((_, first)) = self.stages.first()
        {
            event.set_constant(fields::STAGE, *first);
        }
        let none = AtomicU64::new(0);
        let mut run = Run { constants: &self.constants, stages: &self.stages, trusted: false, problems: &none };
        for stage in 0..self.stages.len() {
            let at = run.stage(event);
            if at > Some(stage) {
                continue;
            }
            let unparsed = || Outcome::Unparsed { stage: Arc::clone(&self.stages[stage].0) };
            if at != Some(stage) {
                return self
                    .stages
                    .get(stage.saturating_sub(1))
                    .map_or_else(unparsed, |(stage, _)| Outcome::Unparsed { stage: Arc::clone(stage) });
            }
            match Probe::time(cx.probe, Part::Stage(stage), || self.run_stage(stage, &mut run, event, cx)) {
                Ok(true) => {}
                Ok(false) => return unparsed(),
                Err(failed) => return failed,
            }
        }
        event.set_process(true);
        if event.whitelisted() { Outcome::Whitelisted } else { Outcome::Parsed }
    }

    /// Whether a node of the stage succeeded.
    fn run_stage<'s>(
        &'s self,
        stage: usize,
        run: &mut Run<'s>,
        event: &mut Event,
        cx: &mut Context<'_>,
    ) -> Result<bool, Outcome> {
        let (range, index) = (&self.ranges[stage], &self.indexes[stage]);
        let tracing = cx.trace.is_some();
        let mut candidates = mem::take(&mut cx.scratch.candidates[stage]);
        index.find(event, &cx.env(&[Value::Object(event)]), &mut candidates);
        let mut any = Ok(false);
        let mut from = 0;
        loop {
            let next = if tracing { (from < range.len()).then_some(from) } else { candidates.nodes.next(from) };
            let Some(number) = next else { break };
            from = number + 1;
            let number = range.start + number;
            let ran = match self.rows[number].as_ref().filter(|_| !tracing) {
                Some(row) => {
                    from += row.len() - 1;
                    self.run_row(number, row, run, event, cx)
                }
                None => self.run_parser(number, run, event, cx),
            };
            match ran {
                Ok(true) => {
                    any = Ok(true);
                    if self.parsers[number].node.next_stage {
                        break;
                    }
                }
                Ok(false) => {}
                Err(failed) => {
                    event.set_process(false);
                    any = Err(failed);
                    break;
                }
            }
            if run.stage(event) != Some(stage) {
                break;
            }
            if !tracing {
                index.refresh(event, &cx.env(&[Value::Object(event)]), &mut candidates);
            }
        }
        cx.scratch.candidates[stage] = candidates;
        any
    }

    /// Whether the parser succeeded.
    fn run_parser<'s>(
        &'s self,
        number: usize,
        run: &mut Run<'s>,
        event: &mut Event,
        cx: &mut Context<'_>,
    ) -> Result<bool, Outcome> {
        let parser = &self.parsers[number];
        run.problems = &parser.problems;
        run.trusted = false;
        let mut trace = cx.trace.is_some().then(NodeTrace::default);
        let ran = Probe::time(cx.probe, Part::Node(number), || match &parser.habit {
            Some(habit) if trace.is_none() => {
                let mut memory = mem::take(&mut cx.scratch.habits[number]);
                let ran = habit.run(&parser.node, &mut memory, run, event, cx);
                cx.scratch.habits[number] = memory;
                ran
            }
            _ => parser.node.run(run, event, cx, trace.as_mut()),
        });
        let failed = |abort: Abort| Outcome::Failed { parser: Arc::clone(&parser.node.name), problem: abort.0 };
        let success = ran.map_err(failed)?;
        if let (Some(node), Some(trace)) = (trace, cx.trace.as_deref_mut()) {
            let event = trace.with_events.then(|| event.dump());
            let (stage, path) = (Arc::clone(&parser.stage), Arc::clone(&parser.path));
            trace.entries.push(TraceEntry { stage, path, node, event });
        }
        if success && (run.trusted || !parser.node.only_trusts()) {
            cx.scratch.passed.push(number as u32);
        }
        Ok(success)
    }

    /// Whether any of the parsers of the row that begins at `number` succeeded. That none of them trusts an event is
    /// remembered; whatever else happens happens each time.
    fn run_row<'s>(
        &'s self,
        number: usize,
        row: &Row,
        run: &mut Run<'s>,
        event: &mut Event,
        cx: &mut Context<'_>,
    ) -> Result<bool, Outcome> {
        let mut memory = mem::take(&mut cx.scratch.rows[number]);
        let known = Probe::time(cx.probe, Part::Node(number), || row.recall(&mut memory, event));
        let answer = known.map_or_else(
            || {
                let members = &self.parsers[number..number + row.len()];
                let problems = || members.iter().map(|parser| parser.problems.load(Ordering::Relaxed)).sum::<u64>();
                let (before, mut any, mut trusted) = (problems(), false, false);
                for number in number..number + row.len() {
                    any |= self.run_parser(number, run, event, cx)?;
                    trusted |= run.trusted;
                }
                if !trusted && problems() == before {
                    memory.remember(any);
                }
                Ok(any)
            },
            Ok,
        );
        cx.scratch.rows[number] = memory;
        answer
    }

    /// Names of the parsers that succeeded on the event of the last [`ParserSet::run`] with this scratch space. Whitelists
    /// that did not match are left out.
    pub fn passed(&self, scratch: &mut Scratch) -> Arc<[Arc<str>]> {
        if let Some((_, names)) = scratch.last.as_ref().filter(|(passed, _)| *passed == scratch.passed) {
            return Arc::clone(names);
        }
        let names = self.names(scratch);
        scratch.last = Some((scratch.passed.clone(), Arc::clone(&names)));
        names
    }

    fn names(&self, scratch: &mut Scratch) -> Arc<[Arc<str>]> {
        if let Some(names) = scratch.names.get(&scratch.passed) {
            return Arc::clone(names);
        }
        let name = |number: &u32| Arc::clone(&self.parsers[*number as usize].node.name);
        let names: Arc<[Arc<str>]> = scratch.passed.iter().map(name).collect();
        if scratch.names.len() >= MAX_NAMES {
            scratch.names.clear();
        }
        scratch.names.insert(scratch.passed.clone(), Arc::clone(&names));
        names
    }

    /// Names of the stages, in order.
    pub fn stages(&self) -> impl Iterator<Item = &Arc<str>> {
        self.stages.iter().map(|(stage, _)| stage)
    }

    /// What each parser reads and writes, in the order in which they run.
    pub fn reports(&self) -> impl Iterator<Item = ParserReport<'_>> {
        self.parsers.iter().map(|parser| ParserReport {
            name: &parser.node.name,
            stage: &parser.stage,
            path: &parser.path,
            reads: &parser.touches.reads,
            reads_all: &parser.touches.reads_all,
            writes: &parser.touches.writes,
            writes_all: &parser.touches.writes_all,
            requires: parser.node.requires(),
            files: &parser.touches.files,
            stashes_read: &parser.touches.stashes_read,
            stashes_written: &parser.touches.stashes_written,
            problems: parser.problems.load(Ordering::Relaxed),
        })
    }
}

impl fmt::Debug for ParserSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParserSet").field("parsers", &self.parsers.len()).finish_non_exhaustive()
    }
}
