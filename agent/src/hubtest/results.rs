//! What assertions see as `results`.

use std::path::Path;
use std::rc::Rc;

use expr::{At, Class, List, Map, MapId, Member, MemberId, Object, Type, Value, Vars};
use model::{EventDump, FieldTable, Shown, classes};

use super::assertions::{self, Assertion, Checked, Scene};
use super::bench::{Dump, NodeDump, NodeRecord};
use super::order::go_sort;

/// `results` of `parser.assert`: what each node of each stage did.
static NODE_RESULT: Class = Class {
    name: "ParserResult",
    members: &[
        Member { name: "Idx", ty: || Type::Int, at: At::Member(MemberId(0)) },
        Member { name: "Evt", ty: || Type::Class(&classes::EVENT), at: At::Member(MemberId(1)) },
        Member { name: "Success", ty: || Type::Bool, at: At::Member(MemberId(2)) },
    ],
    methods: &[],
};
/// The class of what has no members of its own: expressions see it as a map.
static MAPS: Class = Class { name: "Results", members: &[], methods: &[] };
const ENTRIES: MapId = MapId(0);

/// Checks the assertions about parsers.
pub(super) fn check_parsers(dump: &Dump, path: &Path, lines: &[Assertion], strict: bool) -> Checked {
    assertions::check(&ParserScene { dump }, path, lines, strict)
}

/// Checks the assertions about scenarios.
pub(super) fn check_scenarios(dump: &Dump, path: &Path, lines: &[Assertion], strict: bool) -> Checked {
    assertions::check(&ScenarioScene { overflows: in_order(&dump.overflows) }, path, lines, strict)
}

/// Overflows in the order in which assertions number them.
pub(super) fn in_order(overflows: &[EventDump]) -> Vec<&EventDump> {
    let mut keyed: Vec<(String, &EventDump)> = overflows.iter().map(|event| (sort_key(event), event)).collect();
    go_sort(&mut keyed, |(a, _), (b, _)| a > b);
    keyed.into_iter().map(|(_, event)| event).collect()
}

fn sort_key(event: &EventDump) -> String {
    event.overflow.as_ref().map_or(String::new(), |overflow| {
        let sources: Vec<&str> = overflow.sources.keys().map(String::as_str).collect();
        format!("{}{}", overflow.alert.scenario, sources.join("@"))
    })
}

/// Stages that left something, in order; `success` is always there and empty.
pub(super) fn stages(dump: &Dump) -> Vec<&str> {
    let mut stages: Vec<&str> = dump.nodes.iter().map(|node| &*node.stage).chain(["success"]).collect();
    stages.sort_unstable();
    stages.dedup();
    stages
}

struct ParserScene<'a> {
    dump: &'a Dump,
}

impl Scene for ParserScene<'_> {
    fn vars(&self) -> Vars {
        let map = |of| Type::Map(Box::new(of));
        let records = Type::List(Box::new(Type::Class(&NODE_RESULT)));
        Vars { names: vec![("results", map(map(records)))] }
    }

    fn show(&self, table: &FieldTable, look: &mut dyn FnMut(&[Value<'_>])) {
        let records: Vec<Vec<RecordView<'_>>> = self
            .dump
            .nodes
            .iter()
            .map(|node| node.records.iter().map(|record| RecordView::new(node, record, table)).collect())
            .collect();
        let stages = stages(self.dump).into_iter().map(|stage| {
            let nodes = self.dump.nodes.iter().zip(&records).filter(|(node, _)| &*node.stage == stage);
            let nodes: Vec<(&str, Value<'_>)> = nodes.map(|(node, records)| (&*node.name, list(records))).collect();
            let nodes = if stage == "success" { vec![("", list(&[]))] } else { nodes };
            (stage, StageView { nodes })
        });
        let results = ResultsView { stages: stages.collect() };
        look(&[Value::Map(Map::Object(&results, ENTRIES))]);
    }

    fn counts_without_equality(&self) -> bool {
        true
    }
}

fn list<'a>(records: &'a [RecordView<'a>]) -> Value<'a> {
    Value::List(List::Typed(records.iter().map(|record| Value::Object(record)).collect()))
}

#[derive(Debug)]
struct ResultsView<'a> {
    stages: Vec<(&'a str, StageView<'a>)>,
}

#[derive(Debug)]
struct StageView<'a> {
    nodes: Vec<(&'a str, Value<'a>)>,
}

/// A stage that left nothing: each node in it is an empty list.
static NO_STAGE: NoStage = NoStage;

#[derive(Debug)]
struct NoStage;

#[derive(Debug)]
struct RecordView<'a> {
    number: usize,
    success: bool,
    event: Shown<'a>,
}

impl<'a> RecordView<'a> {
    fn new(node: &NodeDump, record: &'a NodeRecord, table: &'a FieldTable) -> Self {
        let event = Shown { event: &record.event, table };
        Self { number: node.number, success: record.success, event }
    }
}

impl Object for ResultsView<'_> {
    fn class(&self) -> &'static Class {
        &MAPS
    }

    fn entry(&self, _: MapId, key: &str) -> Option<Value<'_>> {
        let stage = self.stages.iter().find(|(name, _)| *name == key);
        Some(match stage {
            Some((_, stage)) => Value::Map(Map::Object(stage, ENTRIES)),
            None => Value::Map(Map::Object(&NO_STAGE, ENTRIES)),
        })
    }

    fn entries(&self, _: MapId) -> Vec<&str> {
        self.stages.iter().map(|(name, _)| *name).collect()
    }

    fn member(&self, _: MemberId) -> Value<'_> {
        Value::Nil
    }
}

impl Object for StageView<'_> {
    fn class(&self) -> &'static Class {
        &MAPS
    }

    fn entry(&self, _: MapId, key: &str) -> Option<Value<'_>> {
        let node = self.nodes.iter().find(|(name, _)| *name == key);
        Some(node.map_or_else(|| Value::List(List::Typed(Rc::from([]))), |(_, records)| records.clone()))
    }

    fn entries(&self, _: MapId) -> Vec<&str> {
        self.nodes.iter().map(|(name, _)| *name).collect()
    }

    fn member(&self, _: MemberId) -> Value<'_> {
        Value::Nil
    }
}

impl Object for NoStage {
    fn class(&self) -> &'static Class {
        &MAPS
    }

    fn entry(&self, _: MapId, _: &str) -> Option<Value<'_>> {
        Some(Value::List(List::Typed(Rc::from([]))))
    }

    fn member(&self, _: MemberId) -> Value<'_> {
        Value::Nil
    }
}

impl Object for RecordView<'_> {
    fn class(&self) -> &'static Class {
        &NODE_RESULT
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::Int(self.number as i64),
            1 => Value::Object(&self.event),
            _ => Value::Bool(self.success),
        }
    }
}

struct ScenarioScene<'a> {
    overflows: Vec<&'a EventDump>,
}

impl Scene for ScenarioScene<'_> {
    fn vars(&self) -> Vars {
        Vars { names: vec![("results", Type::List(Box::new(Type::Class(&classes::EVENT))))] }
    }

    fn show(&self, table: &FieldTable, look: &mut dyn FnMut(&[Value<'_>])) {
        let events: Vec<Shown<'_>> = self.overflows.iter().map(|event| Shown { event, table }).collect();
        look(&[Value::List(List::Typed(events.iter().map(|event| Value::Object(event)).collect()))]);
    }

    fn counts_without_equality(&self) -> bool {
        false
    }
}
