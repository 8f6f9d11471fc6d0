//! First assertions of a new test: what holds at present.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use expr::Stored;

use super::bench::{self, Dump};
use super::collect::{Hub, Test};
use super::results::{in_order, stages};
use super::{HubTestError, Options, library};

/// Makes a test `name` of the log at `log` whose lines have the label `type: log_type`, with the parsers and scenarios
/// that `options.names` lists (as `parsers/...`, `scenarios/...` paths or index names), and fills its assertions with what
/// holds at present. They are for a person to check.
pub fn create(options: &Options, name: &str, log: &Path, log_type: &str, items: &NewItems) -> Result<(), HubTestError> {
    let hub = Hub::open(&options.hub)?;
    let folder = options.hub.join(".tests").join(name);
    if folder.exists() {
        return Err(HubTestError::Exists(name.to_owned()));
    }
    let file = |what, path: &Path| {
        let path = path.to_path_buf();
        move |error| HubTestError::File { what, path, error }
    };
    let content = fs::read(log).map_err(file("read", log))?;
    let log_name = log.file_name().map_or_else(|| "test.log".into(), |name| name.to_string_lossy().into_owned());
    let mut config = String::new();
    for (key, names) in
        [("parsers", &items.parsers), ("scenarios", &items.scenarios), ("postoverflows", &items.postoverflows)]
    {
        // writing to a text cannot fail
        let _ = writeln!(config, "{key}:{}", if names.is_empty() { " []" } else { "" });
        for name in names {
            let _ = writeln!(config, "- {}", quoted(name));
        }
    }
    let _ = writeln!(config, "log_file: {}\nlog_type: {}\nignore_parsers: false", quoted(&log_name), quoted(log_type));
    fs::create_dir_all(&folder).map_err(file("write", &folder))?;
    let filled = fill(&hub, &folder, name, options, &[(&log_name, &content), ("config.yaml", config.as_bytes())]);
    if filled.is_err() {
        // Half a test would stand in the way of the next attempt; that it cannot be removed is no news then.
        let _ = fs::remove_dir_all(&folder);
    }
    filled
}

/// Writes the given files of a test, runs it, and writes its assertions.
fn fill(hub: &Hub, folder: &Path, name: &str, options: &Options, files: &[(&str, &[u8])]) -> Result<(), HubTestError> {
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).map_err(|error| HubTestError::File { what: "write", path, error })
    };
    files.iter().try_for_each(|(name, content)| write(name, content))?;
    let test = Test::read(hub, name)?;
    let dump = bench::run(&test, &library(&options.patterns)?, options.now)?;
    write("parser.assert", parser_assertions(&dump).as_bytes())?;
    if test.checks_scenarios() {
        write("scenario.assert", scenario_assertions(&dump).as_bytes())?;
    }
    Ok(())
}

/// The rules of a new test, as paths below the hub or names in its index.
#[derive(Clone, Debug, Default)]
pub struct NewItems {
    /// Parsers of lines.
    pub parsers: Vec<String>,
    /// Scenarios.
    pub scenarios: Vec<String>,
    /// Parsers of overflows.
    pub postoverflows: Vec<String>,
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
