//! Statics: assign a text to a field (spec: parsers 5.5 and 5.6).
//!
//! A text that rules write as it stands has a number, and a text that an expression takes out of a field stays a span
//! of it: neither is copied.

use std::borrow::Cow;

use expr::{At, Class, Compiler, FieldId, List, Map, MapId, Program, Stored, Type, Value};
use model::event::Span;
use model::yaml::{Fault, did_you_mean};
use model::{Event, RuntimeAlert, classes, fields};

use crate::Context;
use crate::config::{DestConfig, StaticConfig, ValueConfig};
use crate::enrich::Method;
use crate::node::{Abort, Build, Run, Yield, program};
use crate::trace::{Assigned, NodeTrace};

/// One assignment, ready to run.
#[derive(Debug)]
pub(crate) struct Static {
    dest: Dest,
    value: Source,
    line: u32,
}

#[derive(Debug)]
enum Source {
    /// Number of a text of the rule set.
    Text(u32),
    /// A text of the event as it is.
    Field(FieldId),
    Expression(Box<Formula>),
    Nothing,
}

#[derive(Debug)]
enum Dest {
    Method(Method),
    Field(FieldId),
    Unmarshaled(Box<str>),
    Overflow(fn(&mut RuntimeAlert) -> &mut String),
    /// A path that leads nowhere: the value is computed, then dropped.
    Nowhere(Box<str>),
}

impl Static {
    pub(crate) fn build(config: &StaticConfig, build: &mut Build<'_, '_>) -> Result<Self, Fault> {
        let value = match &config.value {
            ValueConfig::Text(text) => Source::Text(build.text(text)),
            ValueConfig::Expression(source) => {
                let program = program(source, build)?;
                match program.field() {
                    Some(field) => Source::Field(field),
                    None => Source::Expression(Box::new(Formula::new(program, build))),
                }
            }
            ValueConfig::Nothing => Source::Nothing,
        };
        let dest = match &config.dest {
            DestConfig::Method(name) => {
                if let Some(method) = Method::named(name) {
                    build.touches.reads.extend(method.reads());
                    build.touches.writes.extend(method.writes());
                    Dest::Method(method)
                } else {
                    build.warn(Fault::unknown(name.line, "enrichment method", name, Method::NAMES));
                    Dest::Nowhere(name.text.as_str().into())
                }
            }
            DestConfig::Parsed(key) => Dest::Field(build.writes(fields::PARSED, key)),
            DestConfig::Meta(key) => Dest::Field(build.writes(fields::META, key)),
            DestConfig::Enriched(key) => Dest::Field(build.writes(fields::ENRICHED, key)),
            DestConfig::Target(path) => match target(path, build.compiler) {
                Ok(dest) => {
                    if let Dest::Field(field) = dest {
                        build.touches.writes.insert(field);
                    }
                    dest
                }
                Err(fault) => {
                    build.warn(Fault { line: path.line, ..fault });
                    Dest::Nowhere(path.text.as_str().into())
                }
            },
        };
        let computes = matches!(value, Source::Expression(_)) || matches!(dest, Dest::Method(_));
        build.touches.steps += usize::from(computes);
        build.touches.beyond |= match dest {
            Dest::Field(_) | Dest::Method(Method::GeoIpCity | Method::GeoIpAsn | Method::IpToRange) => false,
            Dest::Method(Method::ParseDate) => {
                build.touches.dated = true;
                false
            }
            Dest::Method(Method::ReverseDns | Method::UnmarshalJson)
            | Dest::Unmarshaled(_)
            | Dest::Overflow(_)
            | Dest::Nowhere(_) => true,
        };
        Ok(Self { dest, value, line: config.line })
    }

    /// Computes the value and puts it where it belongs. `Err` aborts the event.
    pub(crate) fn apply(
        &self,
        run: &Run<'_>,
        event: &mut Event,
        cx: &Context<'_>,
        mut trace: Option<&mut NodeTrace>,
    ) -> Result<(), Abort> {
        let value = match &self.value {
            Source::Nothing => None,
            Source::Text(number) => {
                let constant = run.constant(*number);
                if let (Dest::Field(field), None) = (&self.dest, &trace) {
                    event.set_constant(*field, constant);
                    return Ok(());
                }
                Some(event.constant_span(constant))
            }
            Source::Field(field) => event.span(*field),
            Source::Expression(formula) => match formula.text(event, cx) {
                Ok(value) => value,
                Err(Failure::Skip(problem)) => {
                    run.problem(trace, || format!("line {}: {problem}", self.line));
                    return Ok(());
                }
                Err(Failure::Abort(problem)) => return Err(Abort(format!("line {}: {problem}", self.line))),
            },
        };
        let value = value.filter(|value| !value.is_empty());
        let value = match (value, &self.dest) {
            (Some(value), _) => value,
            (None, Dest::Method(Method::ParseDate)) => event.keep(""),
            (None, _) => return Ok(()),
        };
        if let Some(trace) = trace.as_deref_mut() {
            trace.assigned.push(Assigned { dest: self.dest.name(event), value: event.text(value).to_owned() });
        }
        match &self.dest {
            Dest::Field(field) => event.set_span(*field, value),
            Dest::Method(method) => {
                if let Err(problem) = method.run(value, event, cx) {
                    run.problem(trace, || format!("line {}: {problem}", self.line));
                }
            }
            Dest::Unmarshaled(key) => {
                let text = serde_json::Value::String(event.text(value).to_owned());
                if let Err(problem) = event.unmarshal(key, Stored::Json(text)) {
                    run.problem(trace, || format!("line {}: {problem}", self.line));
                }
            }
            Dest::Overflow(text) => {
                let value = event.text(value).to_owned();
                match event.overflow_mut() {
                    Some(overflow) if !overflow.alert.scenario.is_empty() => {
                        overflow.rewrite(|overflow| *text(overflow) = value);
                    }
                    _ => run.problem(trace, || format!("line {}: there is no alert to write to", self.line)),
                }
            }
            Dest::Nowhere(path) => run.problem(trace, || format!("line {}: `{path}` cannot be written", self.line)),
        }
        Ok(())
    }
}

impl Dest {
    fn name(&self, event: &Event) -> String {
        match self {
            Self::Field(field) => field_name(event.table(), *field),
            Self::Unmarshaled(key) => format!("Unmarshaled.{key}"),
            Self::Overflow(_) => "Overflow.Alert".into(),
            Self::Nowhere(path) => path.to_string(),
            Self::Method(method) => match method {
                Method::GeoIpCity => "GeoIpCity",
                Method::GeoIpAsn => "GeoIpASN",
                Method::IpToRange => "IpToRange",
                Method::ReverseDns => "reverse_dns",
                Method::ParseDate => "ParseDate",
                Method::UnmarshalJson => "UnmarshalJSON",
            }
            .into(),
        }
    }
}

/// A field as rules write it.
pub(crate) fn field_name(table: &model::FieldTable, field: FieldId) -> String {
    let (map, key) = table.name(field);
    match map {
        fields::PARSED => format!("Parsed.{key}"),
        fields::META => format!("Meta.{key}"),
        fields::ENRICHED => format!("Enriched.{key}"),
        fields::LABELS => format!("Line.Labels.{key}"),
        _ => key.to_owned(),
    }
}

/// Walks a `target` path from the event. Errors lack the line.
fn target(path: &str, compiler: &mut Compiler<'_>) -> Result<Dest, Fault> {
    let mut parts = path.strip_prefix("evt.").unwrap_or(path).split('.');
    let mut class: &'static Class = &classes::EVENT;
    let refuse = |part: &str, class: &'static Class| {
        let fault = Fault::new(0, format!("target `{path}` does not exist, this static does nothing"));
        match did_you_mean(part, class.members.iter().map(|member| member.name)) {
            Some(near) if near != part => fault.hint(format!("did you mean `{near}`?")),
            _ => fault.hint("write to a text such as `evt.StrTime`, `evt.Meta.<key>` or `evt.Parsed.<key>`"),
        }
    };
    loop {
        let part = parts.next().unwrap_or("");
        let Some(member) = class.member(part) else { return Err(refuse(part, class)) };
        let map = |map: MapId, compiler: &mut Compiler<'_>, key: Option<&str>| match key {
            Some(key) => Ok(Dest::Field(compiler.fields().intern(map, key))),
            None => Err(refuse(part, class)),
        };
        match member.at {
            At::Slot(field) if parts.next().is_none() => return Ok(Dest::Field(field)),
            At::Slots(slots) => return map(slots, compiler, parts.next()),
            At::Same => match (member.ty)() {
                Type::Class(inner) => class = inner,
                _ => return Err(refuse(part, class)),
            },
            At::Member(_) if member.name == "Unmarshaled" => {
                return parts.next().map(|key| Dest::Unmarshaled(key.into())).ok_or_else(|| refuse(part, class));
            }
            At::Member(_) if member.name == "Overflow" => {
                let rest: Vec<&str> = parts.collect();
                return overflow_text(&rest.join(".")).map(Dest::Overflow).ok_or_else(|| refuse(part, class));
            }
            At::Slot(_) | At::Member(_) => return Err(refuse(part, class)),
        }
    }
}

fn overflow_text(path: &str) -> Option<fn(&mut RuntimeAlert) -> &mut String> {
    Some(match path {
        "Mapkey" => |overflow| &mut overflow.mapkey,
        "Alert.Scenario" => |overflow| &mut overflow.alert.scenario,
        "Alert.ScenarioHash" => |overflow| &mut overflow.alert.scenario_hash,
        "Alert.ScenarioVersion" => |overflow| &mut overflow.alert.scenario_version,
        "Alert.Message" => |overflow| &mut overflow.alert.message,
        "Alert.Leakspeed" => |overflow| &mut overflow.alert.leakspeed,
        "Alert.StartAt" => |overflow| &mut overflow.alert.start_at,
        "Alert.StopAt" => |overflow| &mut overflow.alert.stop_at,
        "Alert.Kind" => |overflow| &mut overflow.alert.kind,
        "Alert.Source.IP" => |overflow| &mut overflow.alert.source.ip,
        "Alert.Source.Range" => |overflow| &mut overflow.alert.source.range,
        "Alert.Source.AsName" => |overflow| &mut overflow.alert.source.as_name,
        "Alert.Source.AsNumber" => |overflow| &mut overflow.alert.source.as_number,
        "Alert.Source.Cn" => |overflow| &mut overflow.alert.source.cn,
        "Alert.Source.Scope" => |overflow| &mut overflow.alert.source.scope,
        "Alert.Source.Value" => |overflow| &mut overflow.alert.source.value,
        _ => return None,
    })
}

/// An expression whose text is remembered where one field alone decides it.
#[derive(Debug)]
struct Formula {
    program: Program,
    /// The field, and the number of the memory.
    memory: Option<(FieldId, usize)>,
}

impl Formula {
    fn new(program: Program, build: &mut Build<'_, '_>) -> Self {
        let memory = program.facts().only_field().map(|field| (field, build.counts.text()));
        Self { program, memory }
    }

    fn text(&self, event: &Event, cx: &Context<'_>) -> Result<Option<Span>, Failure> {
        let Some((text, number)) = self.memory.and_then(|(field, number)| Some((event.get(field)?, number))) else {
            return evaluate(&self.program, event, cx);
        };
        let find = || match evaluate(&self.program, event, cx) {
            Ok(Some(span)) => Yield::Text(event.text(span).into()),
            Ok(None) => Yield::Nothing,
            Err(_) => Yield::Mistake,
        };
        let look = |found: &Yield| match found {
            Yield::Text(text) => Some(Some(event.keep_shared(text))),
            Yield::Nothing => Some(None),
            Yield::Mistake => None,
        };
        let found = cx.scratch.answers.borrow_mut().text(number).get_or(text, |_| true, find, look);
        found.map_or_else(|| evaluate(&self.program, event, cx), Ok)
    }
}

/// Why an expression gave no text.
pub(crate) enum Failure {
    /// It failed: only what wanted the text is skipped.
    Skip(String),
    /// It gave something that cannot be a text: the event is lost.
    Abort(String),
}

/// The text that an expression yields for a static; `None` where the reference sees nothing.
fn evaluate(program: &Program, event: &Event, cx: &Context<'_>) -> Result<Option<Span>, Failure> {
    let vars = [Value::Object(event)];
    let env = cx.env(&vars);
    let value = program.eval(&env).map_err(|error| Failure::Skip(error.to_string()))?;
    if matches!(program.result(), Type::Pointer(_)) {
        return Err(Failure::Abort(format!("`{}` gives a pointer, not a text", program.source())));
    }
    match value {
        Value::Nil
        | Value::List(List::Any(_) | List::Json(_) | List::Nil)
        | Value::Map(Map::Any(_) | Map::Json(_) | Map::Object(..) | Map::Nil) => Ok(None),
        value => match text_of(value) {
            Some(text) => Ok(Some(span_of(text, program, event))),
            None => Err(Failure::Abort(format!("`{}` gives neither a text nor a number", program.source()))),
        },
    }
}

/// The text of a text, a native integer or a float; nothing else has one.
pub(crate) fn text_of(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value {
        Value::Str(text) => Some(text),
        Value::Int(number) => Some(number.to_string().into()),
        Value::Float(number) if number.is_nan() => Some("NaN".into()),
        Value::Float(number) if number.is_infinite() => Some(if number > 0.0 { "+Inf" } else { "-Inf" }.into()),
        Value::Float(number) => Some(format!("{number:.6}").into()),
        _ => None,
    }
}

/// Where the event has `text`, which is kept if it has it nowhere: most expressions take a piece out of a field they read.
pub(crate) fn span_of(text: Cow<'_, str>, program: &Program, event: &Event) -> Span {
    if let Cow::Borrowed(text) = text {
        for field in &program.facts().reads {
            let Some(span) = event.span(*field) else { continue };
            let whole = event.text(span).as_bytes().as_ptr_range();
            let part = text.as_bytes().as_ptr_range();
            if whole.start <= part.start && part.end <= whole.end {
                let start = part.start as usize - whole.start as usize;
                return span.slice(start..start + text.len());
            }
        }
    }
    event.keep(text)
}
