//! First assertions of a new test: what holds at present.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use expr::Stored;

use super::bench::{self, Dump};
use super::collect::{Hub, Test};
use super::results::{in_order, stages};
use super::{HubTestError, Options, library};
use crate::load::RuleFiles;

/// A test to be made.
#[derive(Clone, Debug, Default)]
pub struct NewTest {
    /// Its name.
    pub name: String,
    /// The log.
    pub log: PathBuf,
    /// What label `type` its lines have.
    pub log_type: String,
    /// Parsers of lines: paths below the hub, or names. None stands for those that understand a line of the log.
    pub parsers: Vec<String>,
    /// Scenarios, likewise. None stands for those that overflow.
    pub scenarios: Vec<String>,
    /// Parsers of overflows, likewise.
    pub postoverflows: Vec<String>,
}

/// Makes the folder of a test and fills its assertions with what holds at present, which a person must read: the folder.
pub fn create(options: &Options, shipped: &RuleFiles, new: &NewTest) -> Result<PathBuf, HubTestError> {
    let NewTest { name, log, .. } = new;
    let hub = Hub::open(options, shipped)?;
    let folder = hub.tests.join(name);
    if folder.exists() {
        return Err(HubTestError::Exists(name.clone()));
    }
    let file = |what, path: &Path| {
        let path = path.to_path_buf();
        move |error| HubTestError::File { what, path, error }
    };
    let content = fs::read(log).map_err(file("read", log))?;
    let log_name = log.file_name().map_or_else(|| "test.log".into(), |name| name.to_string_lossy().into_owned());
    fs::create_dir_all(&folder).map_err(file("write", &folder))?;
    let draft = Draft { hub: &hub, folder: &folder, log_name, options, new };
    if let Err(error) = draft.write(&content) {
        // Half a test would stand in the way of the next attempt; that it cannot be removed is no news then.
        let _ = fs::remove_dir_all(&folder);
        return Err(error);
    }
    Ok(folder)
}

/// A test on its way onto the disk.
struct Draft<'a> {
    hub: &'a Hub<'a>,
    folder: &'a Path,
    log_name: String,
    options: &'a Options,
    new: &'a NewTest,
}

impl Draft<'_> {
    fn write(&self, log: &[u8]) -> Result<(), HubTestError> {
        self.file(&self.log_name, log)?;
        let mut items = self.new.clone();
        if items.parsers.is_empty() {
            items.parsers = self.hub.names("parsers");
        }
        if items.scenarios.is_empty() {
            items.scenarios = self.hub.names("scenarios");
        }
        self.file("config.yaml", self.config(&items).as_bytes())?;
        let (_, dump) = self.run()?;
        if self.new.parsers.is_empty() {
            let useful = dump.nodes.iter().filter(|node| node.records.iter().any(|record| record.success));
            let useful: Vec<&str> = useful.map(|node| &*node.name).collect();
            items.parsers.retain(|item| self.hub.holds("parsers", item, &useful));
        }
        if self.new.scenarios.is_empty() {
            let alerts = dump.overflows.iter().filter_map(|event| event.overflow.as_ref());
            let useful: Vec<&str> = alerts.map(|overflow| overflow.alert.scenario.as_str()).collect();
            items.scenarios.retain(|item| self.hub.holds("scenarios", item, &useful));
        }
        self.file("config.yaml", self.config(&items).as_bytes())?;
        let (test, dump) = self.run()?;
        self.file("parser.assert", parser_assertions(&dump).as_bytes())?;
        if test.checks_scenarios() {
            self.file("scenario.assert", scenario_assertions(&dump).as_bytes())?;
        }
        Ok(())
    }

    fn file(&self, name: &str, content: &[u8]) -> Result<(), HubTestError> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(|error| HubTestError::File { what: "write", path, error })
    }

    fn config(&self, items: &NewTest) -> String {
        let mut config = String::new();
        let lists =
            [("parsers", &items.parsers), ("scenarios", &items.scenarios), ("postoverflows", &items.postoverflows)];
        for (key, names) in lists {
            // writing to a text cannot fail
            let _ = writeln!(config, "{key}:{}", if names.is_empty() { " []" } else { "" });
            for name in names {
                let _ = writeln!(config, "- {}", quoted(name));
            }
        }
        let (log, log_type) = (quoted(&self.log_name), quoted(&items.log_type));
        let _ = writeln!(config, "log_file: {log}\nlog_type: {log_type}\nignore_parsers: false");
        config
    }

    fn run(&self) -> Result<(Test, Dump), HubTestError> {
        let test = Test::read(self.hub, &self.new.name)?;
        let dump = bench::run(&test, &library(&self.hub.shipped.patterns)?, self.options.now)?;
        Ok((test, dump))
    }
}

/// The assertions about parsers that hold, in the field's order.
pub(super) fn parser_assertions(dump: &Dump) -> String {
    let stages = stages(dump);
    let mut lines = vec![format!("len(results) == {}", stages.len())];
    for stage in stages {
        if stage == "success" {
            lines.push(r#"len(results["success"][""]) == 0"#.into());
            continue;
        }
        let mut nodes: Vec<_> = dump.nodes.iter().filter(|node| &*node.stage == stage).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        for node in nodes {
            let list = format!("results[{}][{}]", quoted(stage), quoted(&node.name));
            lines.push(format!("len({list}) == {}", node.records.len()));
            for (index, record) in node.records.iter().enumerate() {
                lines.push(format!("{list}[{index}].Success == {}", record.success));
                if !record.success {
                    continue;
                }
                let (event, place) = (&record.event, format!("{list}[{index}].Evt"));
                for (map, entries) in [("Parsed", &event.parsed), ("Meta", &event.meta), ("Enriched", &event.enriched)]
                {
                    for (key, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
                        lines.push(text_line(&format!("{place}.{map}[{}]", quoted(key)), key, value));
                    }
                }
                for (key, value) in &event.unmarshaled {
                    let place = format!("{place}.Unmarshaled[{}]", quoted(key));
                    match value {
                        Stored::Json(value) => json_lines(&place, value, &mut lines),
                        Stored::Pairs(pairs) => {
                            let mut pairs: Vec<_> = pairs.iter().collect();
                            pairs.sort();
                            lines.extend(
                                pairs
                                    .into_iter()
                                    .map(|(key, value)| format!("{place}[{}] == {}", quoted(key), quoted(value))),
                            );
                        }
                    }
                }
                lines.push(format!("{place}.Whitelisted == {}", event.whitelisted));
                if !event.whitelist_reason.is_empty() {
                    lines.push(format!("{place}.WhitelistReason == {}", quoted(&event.whitelist_reason)));
                }
            }
        }
    }
    lines.join("\n") + "\n"
}

/// The assertions about scenarios that hold, in the field's order.
pub(super) fn scenario_assertions(dump: &Dump) -> String {
    let overflows = in_order(&dump.overflows);
    let mut lines = vec![format!("len(results) == {}", overflows.len())];
    for (index, overflow) in overflows.into_iter().enumerate() {
        let Some(overflow) = &overflow.overflow else { continue };
        let place = format!("results[{index}].Overflow");
        for (key, source) in &overflow.sources {
            let key = quoted(key);
            let of = format!("{place}.Sources[{key}]");
            lines.push(format!("{key} in {place}.GetSources()"));
            lines.push(format!("{of}.IP == {}", quoted(&source.ip)));
            lines.push(format!("{of}.Range == {}", quoted(&source.range)));
            lines.push(format!("{of}.GetScope() == {}", quoted(&source.scope)));
            lines.push(format!("{of}.GetValue() == {}", quoted(&source.value)));
        }
        let alert = &overflow.alert;
        for (number, event) in alert.events.iter().enumerate() {
            for meta in &event.meta {
                let of = format!("{place}.Alert.Events[{number}].GetMeta({})", quoted(&meta.key));
                lines.push(text_line(&of, &meta.key, &meta.value));
            }
        }
        lines.push(format!("{place}.Alert.GetScenario() == {}", quoted(&alert.scenario)));
        lines.push(format!("{place}.Alert.Remediation == {}", alert.remediation));
        lines.push(format!("{place}.Alert.GetEventsCount() == {}", alert.events_count));
    }
    lines.join("\n") + "\n"
}

/// Places of log files differ from machine to machine; their names do not.
fn text_line(place: &str, key: &str, value: &str) -> String {
    if key == "datasource_path" {
        let name = Path::new(value).file_name().map_or(value.into(), |name| name.to_string_lossy());
        return format!("basename({place}) == {}", quoted(&name));
    }
    format!("{place} == {}", quoted(value))
}

fn json_lines(place: &str, value: &serde_json::Value, lines: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                json_lines(&format!("{place}[{}]", quoted(key)), value, lines);
            }
        }
        serde_json::Value::String(text) if !text.is_empty() => lines.push(format!("{place} == {}", quoted(text))),
        serde_json::Value::Bool(value) => lines.push(format!("{place} == {value}")),
        serde_json::Value::Number(number) => lines.push(match number.as_f64() {
            Some(float) if float.fract() != 0.0 => format!("FloatApproxEqual({place}, {float:.6})"),
            _ => format!("{place} == {number}"),
        }),
        _ => {}
    }
}

/// A text as expressions write it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
