//! `cordon explain`: one line through all stages, step by step: what matched, what was set, which buckets it fills.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use agent::explain::{Explanation, explain};
use jiff::Timestamp;
use model::{AllowSet, Origin};
use parsers::Outcome;
use parsers::trace::NodeTrace;
use serde::Serialize;

use crate::args::{Explain, Format, Global};
use crate::config::Config;
use crate::decisions;
use crate::output::{self, printable};
use crate::run;

/// What became of one line.
#[derive(Debug, Serialize)]
struct Story {
    line: String,
    /// `parsed`, `whitelisted`, `unparsed` or `failed`.
    outcome: &'static str,
    /// Why, unless it was parsed.
    reason: String,
    stages: Vec<Stage>,
    scenarios: Vec<Filled>,
    /// The allow entry that keeps it from the scenarios.
    allowed: Option<String>,
}

/// One stage that the line reached.
#[derive(Debug, Serialize)]
struct Stage {
    name: String,
    parsers: Vec<Parser>,
}

/// One parser or node.
#[derive(Debug, Serialize)]
struct Parser {
    name: String,
    file: String,
    line: u32,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<Filter>,
    /// Which part of which text its pattern matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    whitelist: Option<bool>,
    set: Vec<(String, String)>,
    problems: Vec<String>,
    nodes: Vec<Parser>,
}

/// What a filter said.
#[derive(Debug, Serialize)]
struct Filter {
    expression: String,
    passed: bool,
}

/// A bucket that the line pours into.
#[derive(Debug, Serialize)]
struct Filled {
    scenario: String,
    key: String,
}

pub(crate) fn run(global: &Global, args: &Explain) -> anyhow::Result<()> {
    let mut config = Config::load(global)?;
    let rules = Arc::new(run::rules(&mut config, &args.rules)?);
    let allow = Arc::new(AllowSet::new(run::configured_entries(&config)));
    let text = match (&args.line, &args.file) {
        (Some(line), _) => line.clone(),
        (None, Some(path)) => decisions::read(path)?,
        (None, None) => String::new(),
    };
    let src = args.file.as_deref().unwrap_or(Path::new("-")).to_string_lossy();
    let labels = vec![("type".into(), args.kind.as_str().into())];
    let origin = Origin { src: (&*src).into(), module: "file".into(), labels, ..Origin::default() };
    let mut stories = Vec::new();
    for raw in text.lines().filter(|line| !line.is_empty()) {
        let told = explain(&rules, raw, origin.clone(), &allow, Timestamp::now());
        if args.failures && told.outcome == Outcome::Parsed {
            continue;
        }
        let story = Story::new(raw, told);
        match global.output {
            Format::Human => output::line(&story.tell(args.verbose))?,
            Format::Json | Format::Raw => stories.push(story),
        }
    }
    match global.output {
        Format::Human => Ok(()),
        Format::Json | Format::Raw => output::json(&stories),
    }
}

impl Story {
    fn new(raw: &str, told: Explanation) -> Self {
        let mut stages: Vec<Stage> = Vec::new();
        for entry in &told.trace.entries {
            let parser = Parser::new(&entry.node, &entry.path);
            match stages.last_mut() {
                Some(stage) if stage.name == *entry.stage => stage.parsers.push(parser),
                _ => stages.push(Stage { name: entry.stage.to_string(), parsers: vec![parser] }),
            }
        }
        let (outcome, reason) = match told.outcome {
            Outcome::Parsed => ("parsed", String::new()),
            Outcome::Whitelisted => ("whitelisted", told.event.whitelist_reason),
            Outcome::Unparsed { stage } => ("unparsed", format!("no parser of {stage} takes it on")),
            Outcome::Failed { parser, problem } => ("failed", format!("{parser}: {problem}")),
        };
        let scenarios = told.poured.into_iter().map(|(scenario, key)| Filled { scenario, key }).collect();
        Self { line: raw.to_owned(), outcome, reason, stages, scenarios, allowed: told.allowed }
    }

    fn tell(&self, verbose: bool) -> String {
        let mut text = format!("line: {}\n", printable(&self.line));
        for stage in &self.stages {
            // writing to a String cannot fail, here and below
            let _ = writeln!(text, "├ {}", stage.name);
            for parser in stage.parsers.iter().filter(|parser| verbose || parser.success) {
                parser.tell(&mut text, 1, verbose);
            }
        }
        let _ = match self.reason.as_str() {
            "" => writeln!(text, "├ {}", self.outcome),
            reason => writeln!(text, "├ {}: {}", self.outcome, printable(reason)),
        };
        if let Some(by) = &self.allowed {
            let _ = writeln!(text, "├ on an allowlist: {by}");
        }
        if self.scenarios.is_empty() {
            text.push_str("└ no scenario wants it\n");
        } else {
            text.push_str("└ scenarios\n");
        }
        for filled in &self.scenarios {
            let _ = writeln!(text, "    ● {}  pours into the bucket of `{}`", filled.scenario, printable(&filled.key));
        }
        text
    }
}

impl Parser {
    fn new(node: &NodeTrace, file: &str) -> Self {
        let matched = node.grok.as_ref().and_then(|grok| {
            let range = grok.matched.clone()?;
            grok.input.as_ref()?.get(range).map(str::to_owned)
        });
        Self {
            name: node.name.to_string(),
            file: file.to_owned(),
            line: node.line,
            success: node.success,
            filter: node
                .filter
                .as_ref()
                .map(|filter| Filter { expression: filter.source.to_string(), passed: filter.passed }),
            matched,
            whitelist: node.whitelist,
            set: node.assigned.iter().map(|set| (set.dest.clone(), set.value.clone())).collect(),
            problems: node.problems.clone(),
            nodes: node.children.iter().map(|child| Self::new(child, file)).collect(),
        }
    }

    fn tell(&self, text: &mut String, depth: usize, verbose: bool) {
        let edge = format!("│{}", "   ".repeat(depth));
        let mark = if self.success { "●" } else { "○" };
        let name = if self.name.is_empty() { "node" } else { &self.name };
        let _ = writeln!(text, "{edge}{mark} {name}  ({}:{})", self.file, self.line);
        let mut note = |what: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{edge}    {}", printable(&what.to_string()));
        };
        if let Some(filter) = self.filter.as_ref().filter(|filter| verbose || !filter.passed) {
            let expression: Vec<&str> = filter.expression.split_whitespace().collect();
            let passed = if filter.passed { "passed" } else { "refused" };
            note(format_args!("filter {passed}: {}", expression.join(" ")));
        }
        if let Some(matched) = &self.matched {
            note(format_args!("matched: {matched}"));
        }
        // its nodes come before what the parser itself sets
        for node in self.nodes.iter().filter(|node| verbose || node.success) {
            node.tell(text, depth + 1, verbose);
        }
        let mut note = |what: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{edge}    {}", printable(&what.to_string()));
        };
        if let Some(listed) = self.whitelist {
            note(format_args!("whitelist {}", if listed { "matched" } else { "did not match" }));
        }
        for (dest, value) in &self.set {
            note(format_args!("{dest} = {value}"));
        }
        for problem in &self.problems {
            note(format_args!("problem: {problem}"));
        }
    }
}
