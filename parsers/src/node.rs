//! One step of the tree: filter, whitelist, grok, stash, children, statics, in this order (spec: parsers 5).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use expr::{Compiler, Condition, FieldId, MapId, Program, Type, Value, Vars};
use jiff::SignedDuration;
use model::event::Span;
use model::fields::Constant;
use model::yaml::{Fault, Text};
use model::{Event, fields};

use crate::Context;
use crate::config::{GrokConfig, InputConfig, NodeConfig, PatternConfig, StashConfig};
use crate::dispatch::Candidates;
use crate::enrich::date::Dated;
use crate::enrich::geoip::Located;
use crate::grok::{Pattern, Patterns};
use crate::literals::Chorus;
use crate::patterns::Library;
use crate::recent::Recent;
use crate::stash::StashSpec;
use crate::statics::{Static, field_name, span_of, text_of};
use crate::trace::{Assigned, FilterTrace, GrokTrace, NodeTrace};
use crate::whitelist::Whitelist;

/// A node, ready to run.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    line: u32,
    filter: Option<Filter>,
    whitelist: Option<Whitelist>,
    grok: Option<Grok>,
    stash: Vec<Remember>,
    children: Vec<Node>,
    chorus: Option<Chorused>,
    statics: Vec<Static>,
    pub(crate) next_stage: bool,
}

/// What children need that only look at one and the same field.
#[derive(Debug)]
struct Chorused {
    field: FieldId,
    chorus: Chorus,
}

/// Children from which on one look at the text for all of them pays.
const WORTH_A_CHORUS: usize = 4;

/// A condition whose answer is remembered where one field alone decides it.
#[derive(Debug)]
struct Filter {
    program: Program,
    /// The field, and the number of the memory.
    memory: Option<(FieldId, usize)>,
}

#[derive(Debug)]
struct Grok {
    pattern: Arc<Pattern>,
    input: Input,
    /// The field of each alias, in the pattern's order.
    fields: Vec<(FieldId, Option<usize>)>,
    statics: Vec<Static>,
}

#[derive(Debug)]
enum Input {
    Field(FieldId),
    Expression(Box<Program>),
}

/// One write to a stash.
#[derive(Debug)]
struct Remember {
    cache: Box<str>,
    key: Program,
    value: Program,
    ttl: SignedDuration,
}

/// Why an event is lost as a whole.
#[derive(Debug)]
pub(crate) struct Abort(pub(crate) String);

/// What one parser reads and writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touches {
    pub(crate) reads: BTreeSet<FieldId>,
    pub(crate) reads_all: BTreeSet<MapId>,
    pub(crate) writes: BTreeSet<FieldId>,
    pub(crate) writes_all: BTreeSet<MapId>,
    pub(crate) files: BTreeSet<String>,
    pub(crate) stashes_read: Vec<Option<String>>,
    pub(crate) stashes_written: Vec<String>,
    /// Whether it reads or writes anything beside texts of the event by constant name.
    pub(crate) beyond: bool,
    /// Whether it reads a date.
    pub(crate) dated: bool,
    /// How many patterns it has, and statics that compute something.
    pub(crate) steps: usize,
}

/// What building nodes needs and collects.
pub(crate) struct Build<'b, 'f> {
    pub(crate) compiler: &'b mut Compiler<'f>,
    pub(crate) vars: &'b Vars,
    pub(crate) library: &'b mut Library,
    pub(crate) patterns: &'b mut Patterns,
    pub(crate) texts: &'b mut Texts,
    pub(crate) counts: &'b mut Counts,
    pub(crate) stashes: &'b mut Vec<StashSpec>,
    pub(crate) warnings: &'b mut Vec<Fault>,
    pub(crate) touches: Touches,
}

/// Texts that rules write as they stand, numbered before the field table numbers them.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    numbers: HashMap<String, u32>,
    pub(crate) all: Vec<String>,
}

/// Numbers of the memories of a set, given out while it is built.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    truths: usize,
    texts: usize,
    candidates: usize,
}

impl Counts {
    /// A memory of truth values.
    pub(crate) fn truth(&mut self) -> usize {
        self.truths += 1;
        self.truths - 1
    }

    /// A memory of candidates.
    pub(crate) fn candidates(&mut self) -> usize {
        self.candidates += 1;
        self.candidates - 1
    }

    /// A memory of texts.
    pub(crate) fn text(&mut self) -> usize {
        self.texts += 1;
        self.texts - 1
    }
}

/// What one worker remembers of the answers of a set's rules.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// `None` where there is none.
    truths: Vec<Recent<Option<bool>>>,
    texts: Vec<Recent<Yield>>,
    /// Which expressions of a whitelist an event leaves possible, by number.
    candidates: Vec<Candidates>,
    pub(crate) dates: Recent<Dated, 8>,
    pub(crate) places: Recent<Option<Located>, 256>,
}

/// What an expression gave a static.
#[derive(Debug)]
pub(crate) enum Yield {
    /// A text.
    Text(Arc<str>),
    /// Nothing to assign.
    Nothing,
    /// A mistake, which is to be told every time.
    Mistake,
}

impl Answers {
    pub(crate) fn truth(&mut self, number: usize) -> &mut Recent<Option<bool>> {
        numbered(&mut self.truths, number)
    }

    pub(crate) fn candidates(&mut self, number: usize) -> &mut Candidates {
        numbered(&mut self.candidates, number)
    }

    pub(crate) fn text(&mut self, number: usize) -> &mut Recent<Yield> {
        numbered(&mut self.texts, number)
    }
}

fn numbered<T: Default>(list: &mut Vec<T>, number: usize) -> &mut T {
    if list.len() <= number {
        list.resize_with(number + 1, T::default);
    }
    &mut list[number]
}

impl Build<'_, '_> {
    pub(crate) fn text(&mut self, text: &str) -> u32 {
        if let Some(number) = self.texts.numbers.get(text) {
            return *number;
        }
        let number = self.texts.all.len() as u32;
        self.texts.all.push(text.to_owned());
        self.texts.numbers.insert(text.to_owned(), number);
        number
    }

    pub(crate) fn writes(&mut self, map: MapId, key: &str) -> FieldId {
        let field = self.compiler.fields().intern(map, key);
        self.touches.writes.insert(field);
        field
    }

    pub(crate) fn warn(&mut self, fault: Fault) {
        self.warnings.push(fault);
    }
}

/// Compiles an expression of a rule file.
pub(crate) fn program(source: &Text, build: &mut Build<'_, '_>) -> Result<Program, Fault> {
    let refused = |error| Fault::in_expression("in expression", source, &error);
    let program = build.compiler.compile(source, build.vars).map_err(refused)?;
    let facts = program.facts();
    let touches = &mut build.touches;
    touches.reads.extend(&facts.reads);
    touches.reads_all.extend(&facts.reads_all);
    touches.writes.extend(&facts.writes);
    touches.writes_all.extend(&facts.writes_all);
    touches.files.extend(facts.files.iter().cloned());
    touches.stashes_read.extend(facts.stashes.iter().cloned());
    touches.beyond |= !facts.only_fields();
    Ok(program)
}

impl Node {
    /// Builds a node and its children, in the order in which the library learns their patterns.
    pub(crate) fn build(config: &NodeConfig, name: &Arc<str>, build: &mut Build<'_, '_>) -> Result<Self, Fault> {
        let filter = config.filter.as_ref().map(|filter| Filter::build(filter, build)).transpose()?;
        for (name, pattern) in &config.pattern_syntax {
            if !build.library.define(name, pattern, name.line)? {
                let fault = Fault::new(
                    name.line,
                    format!("pattern `{}` is already defined, its first definition stays", &**name),
                );
                build.warn(fault.hint("choose a name that nobody else uses"));
            }
        }
        let grok = config.grok.as_ref().map(|grok| Grok::build(grok, build)).transpose()?;
        let child_name = |child: &NodeConfig| -> Arc<str> {
            if child.name.is_empty() { format!("child-{name}").into() } else { child.name.as_str().into() }
        };
        let children = config.nodes.iter().map(|child| Self::build(child, &child_name(child), build));
        let children = children.collect::<Result<Vec<_>, _>>()?;
        let statics = config.statics.iter().map(|entry| Static::build(entry, build)).collect::<Result<_, _>>()?;
        let stash = config.stash.iter().map(|entry| Remember::build(entry, build)).collect::<Result<_, _>>()?;
        let whitelist = config.whitelist.as_ref().filter(|whitelist| !whitelist.is_empty());
        let whitelist = whitelist.map(|whitelist| Whitelist::build(whitelist, build)).transpose()?;
        if config.next_stage {
            build.touches.writes.insert(fields::STAGE);
        }
        Ok(Self {
            name: Arc::clone(name),
            line: config.line,
            filter,
            whitelist,
            grok,
            stash,
            chorus: Chorused::of(&children),
            children,
            statics,
            next_stage: config.next_stage,
        })
    }

    /// What must hold for the node to do anything at all.
    pub(crate) fn requires(&self) -> &[Condition] {
        self.filter().map_or(&[], |filter| &filter.facts().requires)
    }

    /// Its filter.
    pub(crate) fn filter(&self) -> Option<&Program> {
        self.filter.as_ref().map(|filter| &filter.program)
    }

    /// The field and the pattern of a node that can do nothing where the pattern does not match.
    fn only_groks(&self) -> Option<(FieldId, &Arc<Pattern>)> {
        let other = self.filter.is_some() || self.whitelist.is_some() || !self.children.is_empty();
        let Input::Field(field) = self.grok.as_ref()?.input else { return None };
        (!other).then_some((field, &self.grok.as_ref()?.pattern))
    }

    /// Whether it is there only to trust somebody, and did not.
    pub(crate) fn only_trusts(&self) -> bool {
        self.whitelist.is_some() && self.grok.is_none() && self.children.is_empty()
    }

    /// The same, and whom it trusts only expressions say.
    pub(crate) fn trusts_by_expressions(&self) -> bool {
        let others = !self.stash.is_empty() || self.next_stage;
        self.only_trusts() && !others && self.whitelist.as_ref().is_some_and(|whitelist| !whitelist.asks_addresses())
    }

    /// Runs the node: whether it succeeded.
    pub(crate) fn run(
        &self,
        run: &mut Run<'_>,
        event: &mut Event,
        cx: &mut Context<'_>,
        mut trace: Option<&mut NodeTrace>,
    ) -> Result<bool, Abort> {
        if let Some(trace) = trace.as_deref_mut() {
            trace.name = Arc::clone(&self.name);
            trace.line = self.line;
        }
        if let Some(filter) = &self.filter {
            let passed = filter.passes(run, event, cx, trace.as_deref_mut());
            if let Some(trace) = trace.as_deref_mut() {
                trace.filter = Some(FilterTrace { source: filter.program.source().into(), passed });
            }
            if !passed {
                return Ok(false);
            }
        }
        let mut trusted = true;
        if let Some(whitelist) = &self.whitelist {
            trusted = whitelist.matches(run, event, cx, trace.as_deref_mut());
            if trusted {
                event.whitelist(run.constant(whitelist.reason));
                cx.changed();
            }
            run.trusted |= trusted;
            if let Some(trace) = trace.as_deref_mut() {
                trace.whitelist = Some(trusted);
            }
        }
        let mut success = true;
        let mut grokked = false;
        if let Some(grok) = &self.grok {
            grokked = grok.run(run, event, cx, trace.as_deref_mut())?;
            success = grokked;
        }
        if !self.stash.is_empty() && (self.grok.is_none() || grokked) {
            for entry in &self.stash {
                if let Err(problem) = entry.run(event, cx) {
                    run.problem(trace.as_deref_mut(), || problem);
                }
            }
            cx.changed();
        }
        let mut possible = u64::MAX;
        let mut seen = None;
        for (number, child) in self.children.iter().enumerate() {
            // the first child is often the one, and says so sooner
            if let (Some(chorused), None, 1..) = (&self.chorus, &trace, number) {
                let span = event.span(chorused.field);
                if seen != Some(span) {
                    seen = Some(span);
                    possible = span.map_or(u64::MAX, |span| chorused.chorus.possible(event.text(span)));
                }
                if possible & (1 << number) == 0 {
                    success = success && grokked;
                    continue;
                }
            }
            let result = match trace.as_deref_mut() {
                None => child.run(run, event, cx, None)?,
                Some(trace) => {
                    trace.children.push(NodeTrace::default());
                    child.run(run, event, cx, trace.children.last_mut())?
                }
            };
            if result {
                success = true;
                if self.next_stage {
                    break;
                }
            } else if !grokked {
                success = false;
            }
        }
        if success && trusted {
            apply(&self.statics, run, event, cx, trace.as_deref_mut())?;
        }
        if success && self.next_stage {
            run.advance(event, cx);
        }
        if let Some(trace) = trace {
            trace.success = success;
        }
        Ok(success)
    }
}

impl Chorused {
    /// Of the children that do nothing but look at the field that most of them look at.
    fn of(children: &[Node]) -> Option<Self> {
        if children.len() > Chorus::MOST {
            return None;
        }
        let field = children.iter().find_map(Node::only_groks)?.0;
        let patterns: Vec<Option<&Arc<Pattern>>> = children
            .iter()
            .map(|child| child.only_groks().filter(|(of, _)| *of == field).map(|(_, pattern)| pattern))
            .collect();
        let known = patterns.iter().flatten().filter(|pattern| !pattern.literals().texts().is_empty());
        if known.count() < WORTH_A_CHORUS {
            return None;
        }
        let chorus = Chorus::new(patterns.iter().map(|pattern| pattern.map(|pattern| pattern.literals())));
        Some(Self { field, chorus })
    }
}

impl Filter {
    fn build(source: &Text, build: &mut Build<'_, '_>) -> Result<Self, Fault> {
        let program = program(source, build)?;
        let facts = program.facts();
        let memory = facts.only_field().filter(|_| !facts.quick).map(|field| (field, build.counts.truth()));
        Ok(Self { program, memory })
    }

    fn passes(&self, run: &Run<'_>, event: &Event, cx: &Context<'_>, trace: Option<&mut NodeTrace>) -> bool {
        let remembered = self.memory.and_then(|(field, number)| {
            let text = event.get(field)?;
            let vars = [Value::Object(event)];
            let find = || self.program.eval_bool(&cx.env(&vars)).ok().flatten();
            cx.scratch.answers.borrow_mut().truth(number).get_or(text, |_| true, find, |answer| *answer)
        });
        remembered.unwrap_or_else(|| passes(&self.program, run, event, cx, trace))
    }
}

fn passes(filter: &Program, run: &Run<'_>, event: &Event, cx: &Context<'_>, trace: Option<&mut NodeTrace>) -> bool {
    let vars = [Value::Object(event)];
    let result = filter.eval_bool(&cx.env(&vars));
    if filter.facts().effect {
        cx.changed();
    }
    match result {
        Ok(Some(passed)) => passed,
        Ok(None) => {
            run.problem(trace, || format!("filter `{}` gives no truth value", filter.source()));
            false
        }
        Err(error) => {
            run.problem(trace, || format!("filter `{}`: {error}", filter.source()));
            false
        }
    }
}

fn apply(
    statics: &[Static],
    run: &Run<'_>,
    event: &mut Event,
    cx: &Context<'_>,
    mut trace: Option<&mut NodeTrace>,
) -> Result<(), Abort> {
    for entry in statics {
        entry.apply(run, event, cx, trace.as_deref_mut())?;
        cx.changed();
    }
    Ok(())
}

impl Grok {
    fn build(config: &GrokConfig, build: &mut Build<'_, '_>) -> Result<Self, Fault> {
        let (expansion, line) = match &config.pattern {
            PatternConfig::Named(name) => (build.library.get(name, name.line)?, name.line),
            PatternConfig::Inline(text) => (Arc::new(build.library.expand(text, text.line)?), text.line),
        };
        let pattern = build.patterns.compile(&expansion, line)?;
        build.touches.steps += 1;
        if pattern.aliases().is_empty() {
            build.warn(
                Fault::new(line, "this pattern names nothing, so the grok never succeeds")
                    .hint("name a reference: `%{WORD:user}` instead of `%{WORD}`"),
            );
        }
        let input = match &config.input {
            InputConfig::ApplyOn(key) if &**key == "Line.Raw" => Input::Field(fields::LINE_RAW),
            InputConfig::ApplyOn(key) => Input::Field(build.compiler.fields().intern(fields::PARSED, key)),
            InputConfig::Expression(source) => Input::Expression(Box::new(program(source, build)?)),
        };
        if let Input::Field(field) = input {
            build.touches.reads.insert(field);
        }
        let fields = pattern.aliases().iter().map(|(alias, place)| (build.writes(fields::PARSED, alias), *place));
        let fields = fields.collect();
        let statics = config.statics.iter().map(|entry| Static::build(entry, build)).collect::<Result<_, _>>()?;
        Ok(Self { pattern, input, fields, statics })
    }

    fn run(
        &self,
        run: &Run<'_>,
        event: &mut Event,
        cx: &mut Context<'_>,
        mut trace: Option<&mut NodeTrace>,
    ) -> Result<bool, Abort> {
        let input = self.input(run, event, cx, trace.as_deref_mut());
        if let Some(trace) = trace.as_deref_mut() {
            let input = input.map(|input| event.text(input).to_owned());
            trace.grok = Some(GrokTrace { input, matched: None, captures: Vec::new() });
        }
        let Some(input) = input else { return Ok(false) };
        let found = match self.pattern.search(event.text(input), &mut cx.scratch.matching) {
            Ok(found) => found,
            Err(problem) => {
                run.problem(trace, || format!("the pattern cannot be built: {problem}"));
                return Ok(false);
            }
        };
        let Some(found) = found else { return Ok(false) };
        for (field, place) in &self.fields {
            let range = place.and_then(|place| found.get(place)).unwrap_or(0..0);
            event.set_span(*field, input.slice(range));
        }
        if let Some(trace) = trace.as_deref_mut() {
            if let Some(grok) = &mut trace.grok {
                grok.matched = Some(found.range());
                let captures = self.pattern.aliases().iter();
                let captures = captures.map(|(alias, place)| (Arc::clone(alias), place.and_then(|at| found.get(at))));
                grok.captures = captures.collect();
            }
            let assigned = self.fields.iter().map(|(field, _)| {
                let value = event.get(*field).unwrap_or("").to_owned();
                Assigned { dest: field_name(event.table(), *field), value }
            });
            trace.assigned.extend(assigned);
        }
        cx.changed();
        apply(&self.statics, run, event, cx, trace)?;
        Ok(true)
    }

    /// The text to look at; `None` makes the grok fail.
    fn input(&self, run: &Run<'_>, event: &Event, cx: &Context<'_>, trace: Option<&mut NodeTrace>) -> Option<Span> {
        let program = match &self.input {
            Input::Field(field) => return event.span(*field),
            Input::Expression(program) => program,
        };
        let vars = [Value::Object(event)];
        let env = cx.env(&vars);
        let result = program.eval(&env);
        if program.facts().effect {
            cx.changed();
        }
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                run.problem(trace, || format!("grok expression `{}`: {error}", program.source()));
                return None;
            }
        };
        let pointer = matches!(program.result(), Type::Pointer(_));
        if let Some(text) = text_of(value).filter(|_| !pointer) {
            return Some(span_of(text, program, event));
        }
        run.problem(trace, || format!("grok expression `{}` gives no text", program.source()));
        Some(event.keep(""))
    }
}

impl Remember {
    fn build(config: &StashConfig, build: &mut Build<'_, '_>) -> Result<Self, Fault> {
        if let Some(problem) = (config.ttl <= 0).then_some("`ttl` of a stash must be positive") {
            return Err(Fault::new(config.line, problem).hint("write a duration such as `5m`"));
        }
        let spec = StashSpec { name: config.name.text.clone(), size: config.size, strategy: config.strategy };
        build.stashes.push(spec);
        build.touches.stashes_written.push(config.name.text.clone());
        build.touches.beyond = true;
        Ok(Self {
            cache: config.name.text.as_str().into(),
            key: program(&config.key, build)?,
            value: program(&config.value, build)?,
            ttl: SignedDuration::from_nanos(config.ttl),
        })
    }

    fn run(&self, event: &Event, cx: &Context<'_>) -> Result<(), String> {
        let vars = [Value::Object(event)];
        let env = cx.env(&vars);
        let text = |program: &Program| match program.eval(&env) {
            Ok(Value::Str(text)) => Ok(text.into_owned()),
            Ok(_) => Err(format!("stash expression `{}` gives no text", program.source())),
            Err(error) => Err(format!("stash expression `{}`: {error}", program.source())),
        };
        let value = text(&self.value)?;
        let key = text(&self.key)?;
        cx.stashes.set(&self.cache, &key, &value, self.ttl, cx.now);
        Ok(())
    }
}

/// What the nodes of one run share.
#[derive(Debug)]
pub(crate) struct Run<'s> {
    pub(crate) constants: &'s [Constant],
    /// Name of each stage, in order, and its number.
    pub(crate) stages: &'s [(Arc<str>, Constant)],
    /// Whether a whitelist of the running top-level node matched.
    pub(crate) trusted: bool,
    /// Mistakes at run time of the running top-level node.
    pub(crate) problems: &'s AtomicU64,
}

impl Run<'_> {
    pub(crate) fn constant(&self, number: u32) -> Constant {
        self.constants[number as usize]
    }

    /// Counts a mistake, and words it for whoever looks.
    pub(crate) fn problem(&self, trace: Option<&mut NodeTrace>, message: impl FnOnce() -> String) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        if let Some(trace) = trace {
            trace.problems.push(message());
        }
    }

    /// Index of `evt.Stage`; `None` for a name that is no stage.
    pub(crate) fn stage(&self, event: &Event) -> Option<usize> {
        let stage = event.get(fields::STAGE).unwrap_or("");
        self.stages.iter().position(|(name, _)| **name == *stage)
    }

    /// Moves the event one stage on, unless it is in the last one.
    fn advance(&self, event: &Event, cx: &Context<'_>) {
        let next = self.stage(event).map_or(0, |stage| stage + 1);
        if let Some((_, constant)) = self.stages.get(next) {
            event.set_constant(fields::STAGE, *constant);
            cx.changed();
        }
    }
}
