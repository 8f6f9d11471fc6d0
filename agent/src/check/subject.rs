//! A rule set as the rules of the check see it: files read, expressions compiled, patterns expanded, fields numbered.
//!
//! Only files that load are looked into; the others are faults. Everything that follows from several files (who writes a
//! field, and what) is worked out here once.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use api::profiles::Profiles;
use expr::files::Files;
use expr::{Compiler, Condition, Env, FieldId, Host, MapId, Program, Value};
use jiff::Timestamp;
use model::data::DataFile;
use model::yaml::{Fault, Text, Yaml, documents};
use model::{FieldTable, classes, fields};
use parsers::config::{
    self, DestConfig, GrokConfig, InputConfig, NodeConfig, PatternConfig, StaticConfig, ValueConfig,
};
use parsers::{Library, ParserFile};
use regex_syntax::hir::Hir;
use scenarios::{AlertContext, Item, Loader, Simulation};

use super::Input;
use crate::load::RuleFile;

/// The rule set.
pub(super) struct Subject<'a> {
    pub(super) input: Input<'a>,
    pub(super) table: FieldTable,
    /// Top-level nodes in the order in which they run, those of overflows last.
    pub(super) parsers: Vec<Parser<'a>>,
    pub(super) scenarios: Vec<Scenario<'a>>,
    /// Files that do not load.
    pub(super) faults: Vec<Fault>,
    /// What loading complained about.
    pub(super) warnings: Vec<Fault>,
    /// Every expression over an event.
    pub(super) expressions: Vec<Expression<'a>>,
    pub(super) data: Vec<(&'a Path, DataFile)>,
    /// Where a pattern is defined again as it was.
    pub(super) repeated: Vec<(&'a Path, u32)>,
    pub(super) reads: BTreeSet<FieldId>,
    pub(super) reads_all: BTreeSet<MapId>,
    /// What can stand in a field that somebody writes.
    pub(super) contents: HashMap<FieldId, Contents>,
    /// Maps that are written under computed names.
    pub(super) writes_all: BTreeSet<MapId>,
}

/// What can stand in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// One of these, or nothing.
    Constants(BTreeSet<String>),
    /// Anything.
    Any,
}

/// An expression and where it stands.
pub(super) struct Expression<'a> {
    pub(super) path: &'a Path,
    pub(super) text: Text,
    pub(super) place: Place,
    pub(super) program: Program,
}

/// What an expression is for: what it may yield depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Says yes or no; anything else is no.
    Filter,
    /// A filter of a whitelist.
    Whitelist,
    /// A text that separates buckets or events.
    Key,
    /// A key or a value of a stash.
    Stash,
    /// What a grok reads.
    Input,
    /// What a static writes.
    Static,
}

/// One top-level node.
pub(super) struct Parser<'a> {
    pub(super) path: &'a Path,
    pub(super) stage: &'a str,
    /// Whether it is for overflows.
    pub(super) overflow: bool,
    pub(super) node: Node,
}

/// A node, compiled as far as the check needs it.
pub(super) struct Node {
    pub(super) config: NodeConfig,
    pub(super) filter: Option<Program>,
    /// Expressions of its whitelist.
    pub(super) trusts: Vec<Program>,
    pub(super) grok: Option<Grok>,
    pub(super) statics: Vec<Static>,
    pub(super) children: Vec<Node>,
    /// What it and its children may write.
    pub(super) writes: Writes,
}

/// Fields that something may write.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    pub(super) fields: BTreeSet<FieldId>,
    pub(super) maps: BTreeSet<MapId>,
}

/// A grok with its expanded pattern.
pub(super) struct Grok {
    pub(super) line: u32,
    pub(super) hir: Hir,
    /// Field and group of each alias.
    pub(super) captures: Vec<Capture>,
    pub(super) input: Option<FieldId>,
    pub(super) statics: Vec<Static>,
}

/// One alias of a grok.
pub(super) struct Capture {
    pub(super) alias: Arc<str>,
    pub(super) field: FieldId,
    pub(super) group: Option<u32>,
}

/// An assignment.
pub(super) struct Static {
    pub(super) dest: Option<FieldId>,
    pub(super) value: Assigned,
}

/// What is assigned.
pub(super) enum Assigned {
    Text(String),
    Program(Program),
    Nothing,
}

/// One scenario: its YAML, which loads, with its expressions over events compiled.
pub(super) struct Scenario<'a> {
    pub(super) path: &'a Path,
    pub(super) yaml: Yaml,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) filter: Program,
    pub(super) distinct: Option<Program>,
}

impl Expression<'_> {
    /// The line on which `needle` first stands in it.
    pub(super) fn line_of(&self, needle: &str) -> u32 {
        let before = self.text.find(needle).and_then(|at| self.text.get(..at)).unwrap_or("");
        self.text.line + before.matches('\n').count() as u32
    }
}

impl<'a> Subject<'a> {
    pub(super) fn new(input: Input<'a>) -> Self {
        let mut table = FieldTable::default();
        let mut collected =
            Collected { library: Library::default(), repeated: Vec::new(), expressions: Vec::new(), data: Vec::new() };
        let mut faults: Vec<Fault> = input.files.problems.iter().map(fault_of).collect();
        let mut warnings = input.files.notes.clone();
        let library = library(&input, &mut faults);

        let (mut reads, mut reads_all) = (BTreeSet::new(), BTreeSet::new());
        let (mut written, mut writes_all) = (BTreeSet::new(), BTreeSet::new());
        let mut compiler = Compiler::new(&mut table);
        let mut parsers = Vec::new();
        let mut loaded = Vec::new();
        for (files, overflow) in [(&input.files.parsers, false), (&input.files.postoverflows, true)] {
            let named: Vec<ParserFile<'_>> = files
                .iter()
                .map(|file| ParserFile { path: &file.path, stage: &file.stage, text: &file.text })
                .collect();
            let set = parsers::load(&named, &library, &mut compiler);
            faults.extend(set.problems.iter().cloned());
            warnings.extend(set.warnings.iter().cloned());
            let mut files: Vec<&RuleFile> =
                files.iter().filter(|file| !set.problems.iter().any(|fault| fault.path == file.path)).collect();
            files.sort_by_key(|file| file.path.as_os_str().as_encoded_bytes());
            collected.library = library.clone();
            for file in files {
                let nodes = config::parse(&file.text).map(|config| config.nodes).unwrap_or_default();
                for config in nodes {
                    // What the loader took compiles here as well: the library grows in the same order.
                    if let Ok(node) = collected.node(config, &file.path, &mut compiler) {
                        parsers.push(Parser { path: &file.path, stage: &file.stage, overflow, node });
                    }
                }
            }
            loaded.push(set);
        }
        parsers.sort_by(|a, b| (a.overflow, a.stage).cmp(&(b.overflow, b.stage)));

        let profiles: Vec<(&Path, &str)> = input.profiles.iter().map(|file| (&*file.path, &*file.text)).collect();
        if let [(first, _), ..] = profiles[..]
            && let Err(fault) = Profiles::parse(&profiles)
        {
            faults.push(if fault.path == Path::new("") { fault.within(first) } else { fault });
        }
        let simulation = input
            .files
            .simulation
            .iter()
            .try_fold(Simulation::default(), |simulation, file| simulation.overlaid(&file.path, &file.text));
        let simulation = simulation.unwrap_or_else(|fault| {
            faults.push(fault);
            Simulation::default()
        });
        let mut filling = Loader::new(simulation);
        let mut scenarios = Vec::new();
        for file in &input.files.scenarios {
            let item = Item { path: &file.path, text: &file.text, version: "", hash: "" };
            match filling.add(item, &mut compiler) {
                Ok(notes) => warnings.extend(notes),
                Err(found) => {
                    faults.extend(found);
                    continue;
                }
            }
            let documents = documents(&file.text).unwrap_or_default();
            scenarios
                .extend(documents.into_iter().filter_map(|yaml| collected.scenario(yaml, &file.path, &mut compiler)));
        }
        let mut context = AlertContext::new(0);
        for file in &input.files.contexts {
            if let Err(fault) = context.add_item(&file.path, &file.text, &mut compiler) {
                faults.push(fault);
            }
        }
        if let Some(file) = &input.files.console
            && let Err(fault) = context.add_console(&file.path, &file.text, &mut compiler)
        {
            faults.push(fault);
        }
        let needs = filling.finish(context).needs();
        drop(compiler);
        reads.extend(needs.reads);
        reads_all.extend(needs.reads_all);
        written.extend(needs.writes);
        writes_all.extend(needs.writes_all);
        for set in loaded {
            let set = set.finish(&mut table);
            for report in set.reports() {
                reads.extend(report.reads);
                reads_all.extend(report.reads_all);
                written.extend(report.writes);
                writes_all.extend(report.writes_all);
            }
        }
        let mut subject = Self {
            input,
            table,
            parsers,
            scenarios,
            faults,
            warnings,
            expressions: collected.expressions,
            data: collected.data,
            repeated: collected.repeated,
            reads,
            reads_all,
            contents: HashMap::new(),
            writes_all,
        };
        subject.contents = subject.contents_of(&written);
        subject
    }

    /// What is written where: constants where only constants are.
    fn contents_of(&self, written: &BTreeSet<FieldId>) -> HashMap<FieldId, Contents> {
        let mut contents: HashMap<FieldId, Contents> = HashMap::new();
        for node in self.nodes() {
            for entry in node.all_statics() {
                let Some(field) = entry.dest else { continue };
                let constant = match &entry.value {
                    Assigned::Text(text) => Some(text.clone()),
                    Assigned::Program(program) => constant_text(program),
                    Assigned::Nothing => continue,
                };
                let known = contents.entry(field).or_insert_with(|| Contents::Constants(BTreeSet::new()));
                match (known, constant) {
                    (Contents::Constants(all), Some(constant)) => {
                        all.insert(constant);
                    }
                    (known, _) => *known = Contents::Any,
                }
            }
        }
        let by_filter = self.expressions.iter().flat_map(|expression| &expression.program.facts().writes);
        let by_capture = self.nodes().filter_map(|node| node.grok.as_ref());
        let by_capture = by_capture.flat_map(|grok| grok.captures.iter().map(|capture| &capture.field));
        for field in by_filter.chain(by_capture) {
            contents.insert(*field, Contents::Any);
        }
        for field in written {
            contents.entry(*field).or_insert(Contents::Any);
        }
        contents
    }

    /// All nodes, children included.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let mut nodes = Vec::new();
        for parser in &self.parsers {
            parser.node.flatten(&mut nodes);
        }
        nodes.into_iter()
    }

    /// All files.
    fn files(&self) -> impl Iterator<Item = &'a RuleFile> {
        let files = self.input.files;
        let lists = [&files.patterns, &files.parsers, &files.postoverflows, &files.scenarios, &files.contexts];
        let further =
            files.simulation.iter().chain(&files.console).chain(self.input.acquisition).chain(self.input.profiles);
        lists.into_iter().flatten().chain(further)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &'a Path> {
        self.files().map(|file| &*file.path)
    }

    pub(super) fn text(&self, path: &Path) -> Option<&'a str> {
        self.files().find(|file| file.path == path).map(|file| &*file.text)
    }
}

impl Node {
    fn flatten<'n>(&'n self, nodes: &mut Vec<&'n Node>) {
        nodes.push(self);
        for child in &self.children {
            child.flatten(nodes);
        }
    }

    /// It and all nodes below it.
    pub(super) fn tree(&self) -> Vec<&Node> {
        let mut nodes = Vec::new();
        self.flatten(&mut nodes);
        nodes
    }

    /// Its statics, those of its grok first.
    pub(super) fn all_statics(&self) -> impl Iterator<Item = &Static> {
        self.grok.iter().flat_map(|grok| &grok.statics).chain(&self.statics)
    }
}

impl Writes {
    pub(super) fn add(&mut self, other: &Self) {
        self.fields.extend(&other.fields);
        self.maps.extend(&other.maps);
    }

    pub(super) fn add_program(&mut self, program: &Program) {
        self.fields.extend(&program.facts().writes);
        self.maps.extend(&program.facts().writes_all);
    }

    /// Whether it may write `field` of `table`.
    pub(super) fn has(&self, field: FieldId, table: &FieldTable) -> bool {
        self.fields.contains(&field) || self.maps.contains(&table.name(field).0)
    }
}

impl Scenario<'_> {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Yaml> {
        entry(&self.yaml, key)
    }

    /// The line of a key, else the first one of the scenario.
    pub(super) fn line(&self, key: &str) -> u32 {
        line_of(&self.yaml, key).unwrap_or(self.yaml.line)
    }

    pub(super) fn text(&self, key: &str) -> Option<Text> {
        self.get(key).and_then(|yaml| yaml.text(key).ok()).filter(|text| !text.trim().is_empty())
    }

    pub(super) fn integer(&self, key: &str) -> i64 {
        self.get(key).and_then(|yaml| yaml.integer(key).ok()).unwrap_or(0)
    }

    /// Nanoseconds; 0 when absent.
    pub(super) fn duration(&self, key: &str) -> i64 {
        self.text(key).and_then(|text| expr::duration::parse(&text).ok()).unwrap_or(0)
    }

    pub(super) fn label(&self, key: &str) -> Option<&Yaml> {
        entry(self.get("labels")?, key)
    }
}

/// The value of a key of a map.
pub(super) fn entry<'y>(yaml: &'y Yaml, key: &str) -> Option<&'y Yaml> {
    let entries = yaml.pairs(key).ok()?;
    entries.iter().find(|(name, _)| name.text == key).map(|(_, value)| value)
}

/// The line of a key of a map.
pub(super) fn line_of(yaml: &Yaml, key: &str) -> Option<u32> {
    let entries = yaml.pairs(key).ok()?;
    entries.iter().find(|(name, _)| name.text == key).map(|(name, _)| name.line)
}

fn fault_of(problem: &crate::status::Problem) -> Fault {
    Fault::new(problem.line as u32, problem.message.clone()).hint(problem.remedy.clone()).within(&problem.path)
}

/// The patterns of the rule set, and behind them those that are there anyway.
fn library(input: &Input<'_>, faults: &mut Vec<Fault>) -> Library {
    let mut library = Library::default();
    for file in input.patterns {
        if let Err(fault) = library.add_file(&file.text) {
            faults.push(fault.within(&file.path));
        }
    }
    for file in &input.files.patterns {
        for (index, line) in file.text.lines().enumerate() {
            let Some((name, pattern)) = line.split_once([' ', '\t']) else { continue };
            let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !word || pattern.trim().is_empty() {
                continue;
            }
            if let Err(fault) = library.define(name, pattern.trim_start(), index as u32 + 1) {
                faults.push(fault.within(&file.path));
            }
        }
    }
    library
}

/// What building nodes collects.
struct Collected<'a> {
    library: Library,
    repeated: Vec<(&'a Path, u32)>,
    expressions: Vec<Expression<'a>>,
    data: Vec<(&'a Path, DataFile)>,
}

impl<'a> Collected<'a> {
    fn program(
        &mut self,
        place: Place,
        text: &Text,
        path: &'a Path,
        compiler: &mut Compiler<'_>,
    ) -> Result<Program, Fault> {
        let program = compiler.compile(text, &classes::event_vars());
        let program = program.map_err(|error| Fault::new(text.line, error.to_string()))?;
        self.expressions.push(Expression { path, text: text.clone(), place, program: program.clone() });
        Ok(program)
    }

    fn node(&mut self, mut config: NodeConfig, path: &'a Path, compiler: &mut Compiler<'_>) -> Result<Node, Fault> {
        let filter =
            config.filter.as_ref().map(|text| self.program(Place::Filter, text, path, compiler)).transpose()?;
        for (name, pattern) in &config.pattern_syntax {
            let taken = !self.library.define(name, pattern, name.line)?;
            if taken && *self.library.get(name, name.line)? == self.library.expand(pattern, name.line)? {
                self.repeated.push((path, name.line));
            }
        }
        let grok = config.grok.as_ref().map(|grok| self.grok(grok, path, compiler)).transpose()?;
        let children = std::mem::take(&mut config.nodes);
        let children = children.into_iter().map(|child| self.node(child, path, compiler));
        let children = children.collect::<Result<Vec<_>, _>>()?;
        let statics = self.statics(&config.statics, path, compiler)?;
        for entry in &config.stash {
            self.program(Place::Stash, &entry.key, path, compiler)?;
            self.program(Place::Stash, &entry.value, path, compiler)?;
        }
        let trusted = config.whitelist.as_ref().map_or(&[][..], |whitelist| &whitelist.expression);
        let trusts = trusted
            .iter()
            .map(|text| self.program(Place::Whitelist, text, path, compiler))
            .collect::<Result<_, _>>()?;
        self.data.extend(config.data.iter().map(|data| (path, data.clone())));
        let mut node = Node { config, filter, trusts, grok, statics, children, writes: Writes::default() };
        let mut writes = Writes::default();
        for child in &node.children {
            writes.add(&child.writes);
        }
        for program in node.filter.iter().chain(&node.trusts) {
            writes.add_program(program);
        }
        for capture in node.grok.iter().flat_map(|grok| &grok.captures) {
            writes.fields.insert(capture.field);
        }
        for entry in node.all_statics() {
            writes.fields.extend(entry.dest);
            if let Assigned::Program(program) = &entry.value {
                writes.add_program(program);
            }
        }
        let all = node.config.statics.iter().chain(node.config.grok.iter().flat_map(|grok| &grok.statics));
        if all.into_iter().any(|entry| matches!(entry.dest, DestConfig::Method(_))) {
            writes.maps.insert(fields::ENRICHED);
        }
        node.writes = writes;
        Ok(node)
    }

    fn grok(&mut self, config: &GrokConfig, path: &'a Path, compiler: &mut Compiler<'_>) -> Result<Grok, Fault> {
        let (expansion, line) = match &config.pattern {
            PatternConfig::Named(name) => (self.library.get(name, name.line)?, name.line),
            PatternConfig::Inline(text) => (Arc::new(self.library.expand(text, text.line)?), text.line),
        };
        let hir = expr::regex_dialect::check(&expansion.text).map_err(|error| Fault::new(line, error.to_string()))?;
        let capture = |(alias, group): (Arc<str>, Option<u32>)| Capture {
            field: compiler.fields().intern(fields::PARSED, &alias),
            alias,
            group,
        };
        let captures = expansion.aliases().into_iter().map(capture).collect();
        let input = match &config.input {
            InputConfig::ApplyOn(key) if &**key == "Line.Raw" => Some(fields::LINE_RAW),
            InputConfig::ApplyOn(key) => Some(compiler.fields().intern(fields::PARSED, key)),
            InputConfig::Expression(text) => {
                self.program(Place::Input, text, path, compiler)?;
                None
            }
        };
        Ok(Grok { line, hir, captures, input, statics: self.statics(&config.statics, path, compiler)? })
    }

    fn statics(
        &mut self,
        configs: &[StaticConfig],
        path: &'a Path,
        compiler: &mut Compiler<'_>,
    ) -> Result<Vec<Static>, Fault> {
        let entry = |config: &StaticConfig| {
            let dest = match &config.dest {
                DestConfig::Method(_) => None,
                DestConfig::Parsed(key) => Some((fields::PARSED, &**key)),
                DestConfig::Meta(key) => Some((fields::META, &**key)),
                DestConfig::Enriched(key) => Some((fields::ENRICHED, &**key)),
                DestConfig::Target(path) => target(path),
            };
            let dest = dest.map(|(map, key)| compiler.fields().intern(map, key));
            let value = match &config.value {
                ValueConfig::Text(text) => Assigned::Text(text.text.clone()),
                ValueConfig::Expression(text) => {
                    Assigned::Program(self.program(Place::Static, text, path, compiler)?)
                }
                ValueConfig::Nothing => Assigned::Nothing,
            };
            Ok(Static { dest, value })
        };
        configs.iter().map(entry).collect()
    }

    fn scenario(&mut self, yaml: Yaml, path: &'a Path, compiler: &mut Compiler<'_>) -> Option<Scenario<'a>> {
        let text = |key| entry(&yaml, key).and_then(|yaml| yaml.text(key).ok()).filter(|text| !text.is_empty());
        let (name, kind, filter) = (text("name")?, text("type")?, text("filter")?);
        let filter = self.program(Place::Filter, &filter, path, compiler).ok()?;
        let distinct = text("distinct").and_then(|text| self.program(Place::Key, &text, path, compiler).ok());
        for (key, place) in [("groupby", Place::Key), ("cancel_on", Place::Filter)] {
            if let Some(text) = text(key) {
                // Compiled for what it says of fields; the loader has taken it already.
                let _ = self.program(place, &text, path, compiler);
            }
        }
        for data in entry(&yaml, "data").and_then(|yaml| yaml.list("data").ok()).into_iter().flatten() {
            self.data.extend(DataFile::parse(data).ok().map(|data| (path, data)));
        }
        Some(Scenario { path, name: name.text, kind: kind.text, filter, distinct, yaml })
    }
}

fn target(path: &str) -> Option<(MapId, &str)> {
    let path = path.strip_prefix("evt.").unwrap_or(path);
    let (map, rest) = path.split_once('.')?;
    let map = match map {
        "Parsed" => fields::PARSED,
        "Meta" => fields::META,
        "Enriched" => fields::ENRICHED,
        _ => return None,
    };
    Some((map, rest.split('.').next().unwrap_or(rest)))
}

/// The value of an expression that looks at nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Constant {
    Flag(bool),
    Text(String),
}

/// What an expression yields on every event, if it looks at nothing.
pub(super) fn constant(program: &Program) -> Option<Constant> {
    let facts = program.facts();
    let blind = facts.reads.is_empty()
        && facts.reads_all.is_empty()
        && facts.members.is_empty()
        && facts.methods.is_empty()
        && facts.files.is_empty()
        && facts.stashes.is_empty()
        && !facts.volatile
        && !facts.effect
        && !facts.opaque;
    if !blind {
        return None;
    }
    match program.eval(&Env { vars: &[Value::Nil], host: &Nowhere, memo: None }).ok()? {
        Value::Bool(flag) => Some(Constant::Flag(flag)),
        Value::Str(text) => Some(Constant::Text(text.into_owned())),
        _ => None,
    }
}

fn constant_text(program: &Program) -> Option<String> {
    match constant(program)? {
        Constant::Text(text) => Some(text),
        Constant::Flag(_) => None,
    }
}

/// A world without anything in it.
struct Nowhere;

impl Host for Nowhere {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn files(&self) -> &Files {
        static NONE: std::sync::OnceLock<Files> = std::sync::OnceLock::new();
        NONE.get_or_init(Files::default)
    }
}

/// What `program` requires of each field as a set of texts, where it requires one.
pub(super) fn required(program: &Program) -> impl Iterator<Item = (FieldId, &Vec<String>)> {
    program.facts().requires.iter().filter_map(|condition| match condition {
        Condition::In(field, texts) => Some((*field, texts)),
        _ => None,
    })
}
