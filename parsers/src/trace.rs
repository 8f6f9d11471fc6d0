//! What each node did to one event: the raw material of `explain` and of hub tests.
//!
//! Tracing takes the full path: every node of a reached stage is asked, and every top-level node that ran leaves an
//! entry (spec: parsers 10).

use std::ops::Range;
use std::sync::Arc;

use model::EventDump;

/// Everything that happened to one event.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// One entry a top-level node that ran, in order.
    pub entries: Vec<TraceEntry>,
    /// Whether entries carry a copy of the event.
    pub with_events: bool,
}

/// What one top-level node did.
#[derive(Clone, Debug)]
pub struct TraceEntry {
    /// Its stage.
    pub stage: Arc<str>,
    /// Its file, as given.
    pub path: Arc<str>,
    /// What it did.
    pub node: NodeTrace,
    /// The event right after it ran, if asked for.
    pub event: Option<EventDump>,
}

/// What one node did.
#[derive(Clone, Debug, Default)]
pub struct NodeTrace {
    /// Its name.
    pub name: Arc<str>,
    /// Line on which it starts.
    pub line: u32,
    /// What its filter said; `None` without a filter.
    pub filter: Option<FilterTrace>,
    /// Whether its whitelist matched; `None` without one.
    pub whitelist: Option<bool>,
    /// What its grok found; `None` without one.
    pub grok: Option<GrokTrace>,
    /// What it assigned, captures and statics alike, in order.
    pub assigned: Vec<Assigned>,
    /// What its children did.
    pub children: Vec<NodeTrace>,
    /// Whether it succeeded.
    pub success: bool,
    /// Mistakes at run time.
    pub problems: Vec<String>,
}

/// What a filter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterTrace {
    /// The expression.
    pub source: Arc<str>,
    /// Whether it let the event pass.
    pub passed: bool,
}

/// What a grok found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrokTrace {
    /// The text it looked at; `None` when there was none.
    pub input: Option<String>,
    /// Where in that text it matched.
    pub matched: Option<Range<usize>>,
    /// Captures with the place of their groups in the text, if they took part.
    pub captures: Vec<(Arc<str>, Option<Range<usize>>)>,
}

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Where: `Meta.log_type`, `StrTime`, or the name of an enrichment method.
    pub dest: String,
    /// What.
    pub value: String,
}
