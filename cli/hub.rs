//! `cordon hub`: what a hub has, and its rules tried on recorded logs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent::hub::{Facts, Hub, Installed, Item, KINDS};
use agent::hubtest::{self, NewTest, Options, Report, TestReport, create};
use agent::load::{Folders, RuleFiles};
use anyhow::bail;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::args::{self, Format, Global, HubFolder, HubInspect, HubList, HubTest};
use crate::config::Config;
use crate::output::{self, Rows, printable};

pub(crate) fn run(global: &Global, command: &args::Hub) -> anyhow::Result<()> {
    match command {
        args::Hub::Test(args) => test(global, args),
        args::Hub::List(args) => list(global, args),
        args::Hub::Inspect(args) => inspect(global, args),
    }
}

/// Folders where items may be installed.
fn folders(global: &Global, args: &HubFolder) -> anyhow::Result<Vec<PathBuf>> {
    Ok(match &args.config_dir {
        Some(folder) => vec![folder.clone()],
        None => Config::load(global)?.rules.folders,
    })
}

fn list(global: &Global, args: &HubList) -> anyhow::Result<()> {
    let hub = Hub::open(&args.hub.hub)?;
    let folders = folders(global, &args.hub)?;
    let items =
        || hub.index().items().map(|(kind, name, item)| (kind, name, item, hub.installed(kind, item, &folders)));
    if global.output == Format::Json {
        let mut kinds: BTreeMap<&str, Vec<_>> = KINDS.into_iter().map(|kind| (kind, Vec::new())).collect();
        for (kind, name, item, status) in items() {
            let described = json!({
                "name": name,
                "version": item.version,
                "status": status,
                "description": item.description,
                "path": item.path,
            });
            kinds.entry(kind).or_default().push(described);
        }
        return output::json(&kinds);
    }
    let row = |(kind, name, item, status): (&str, &str, &Item, Installed)| {
        [kind, name, &item.version, status.text(), &item.description].map(printable).to_vec()
    };
    let rows =
        Rows { columns: &["type", "name", "version", "status", "description"], rows: items().map(row).collect() };
    if global.output == Format::Raw { rows.raw() } else { rows.human("the hub has no items") }
}

/// Everything there is to know about an item.
#[derive(Debug, Serialize)]
struct Inspected {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    #[serde(flatten)]
    item: Item,
    status: Installed,
    /// What it consists of, by type.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    needs: BTreeMap<&'static str, Vec<String>>,
    #[serde(flatten)]
    facts: Facts,
    tests: Vec<String>,
}

fn inspect(global: &Global, args: &HubInspect) -> anyhow::Result<()> {
    let hub = Hub::open(&args.hub.hub)?;
    let folders = folders(global, &args.hub)?;
    let mut all = Vec::new();
    for (kind, name, item) in hub.index().find(&KINDS, "item", &args.name)? {
        let mut needs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for part in hub.index().closure(kind, name)?.into_iter().filter(|part| *part != (kind, name)) {
            needs.entry(part.0).or_default().push(part.1.to_owned());
        }
        all.push(Inspected {
            kind,
            name: name.to_owned(),
            item: item.clone(),
            status: hub.installed(kind, item, &folders),
            needs,
            facts: hub.facts(kind, name)?,
            tests: hub.tests(name, item),
        });
    }
    match global.output {
        Format::Json => output::json(&all),
        Format::Human | Format::Raw => all.iter().try_for_each(Inspected::tell),
    }
}

impl Inspected {
    fn tell(&self) -> anyhow::Result<()> {
        let facts = &self.facts;
        let mut lines = vec![
            ("type", self.kind.to_owned()),
            ("name", self.name.clone()),
            ("version", self.item.version.clone()),
            ("status", self.status.text().to_owned()),
            ("description", self.item.description.clone()),
            ("author", self.item.author.clone()),
            ("file", self.item.path.display().to_string()),
            ("stage", self.item.stage.clone()),
        ];
        lines.extend(self.needs.iter().flat_map(|(kind, names)| names.iter().map(|name| (*kind, name.clone()))));
        lines.extend(facts.requires.iter().map(|text| ("requires", text.clone())));
        for (label, fields) in [("reads", &facts.reads), ("writes", &facts.writes), ("data file", &facts.data)] {
            lines.extend(fields.iter().map(|field| (label, field.clone())));
        }
        lines.extend(self.tests.iter().map(|test| ("test", test.clone())));
        lines.extend(facts.problems.iter().map(|problem| ("problem", problem.replace('\n', "; "))));
        let mut last = "";
        for (label, text) in lines.iter().filter(|(_, text)| !text.is_empty()) {
            let shown = if *label == last { "" } else { *label };
            output::line(&format!("{shown:<14} {}", printable(text)))?;
            last = label;
        }
        Ok(())
    }
}

fn test(global: &Global, args: &HubTest) -> anyhow::Result<()> {
    let options = Options {
        hub: args.hub.clone(),
        tests: args.tests.clone(),
        names: args.names.clone(),
        now: args.now.unwrap_or_else(Timestamp::now),
        strict: args.strict,
    };
    let shipped = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
    let (Some(name), Some(log), Some(kind)) = (&args.new, &args.log, &args.kind) else {
        return show(global, &hubtest::run(&options, &shipped)?);
    };
    let new = NewTest {
        name: name.clone(),
        log: log.clone(),
        log_type: kind.clone(),
        parsers: args.parsers.clone(),
        scenarios: args.scenarios.clone(),
        postoverflows: args.postoverflows.clone(),
    };
    let folder = create(&options, &shipped, &new)?;
    output::line(&format!("made `{}`: read its assertions before you keep them", folder.display()))
}

fn show(global: &Global, report: &Report) -> anyhow::Result<()> {
    let names = |success: bool| -> Vec<&str> {
        report.tests.iter().filter(|test| test.success() == success).map(|test| test.name.as_str()).collect()
    };
    let (good, bad) = (names(true), names(false));
    match global.output {
        Format::Human => {
            for test in report.tests.iter().filter(|test| !test.success()) {
                output::line(&format!(
                    "{}: {} of {} assertions fail",
                    test.name,
                    test.failures.len(),
                    test.assertions
                ))?;
                for text in
                    test.failures.iter().map(ToString::to_string).chain(test.error.iter().map(ToString::to_string))
                {
                    output::line(&format!("  {}", text.replace('\n', "\n  ")))?;
                }
            }
            let assertions: usize = report.tests.iter().map(|test| test.assertions).sum();
            let all = report.tests.len();
            output::line(&format!("{} of {all} tests succeed, with {assertions} assertions", good.len()))?;
        }
        Format::Json => output::json(&json!({ "success": good, "fail": bad }))?,
        Format::Raw => {
            let row = |test: &TestReport| {
                let result = if test.success() { "success" } else { "fail" };
                vec![test.name.clone(), result.into(), test.assertions.to_string(), test.failures.len().to_string()]
            };
            let rows = report.tests.iter().map(row).collect();
            Rows { columns: &["name", "result", "assertions", "failures"], rows }.raw()?;
        }
    }
    if !bad.is_empty() {
        bail!("{} of {} tests failed", bad.len(), report.tests.len());
    }
    Ok(())
}
