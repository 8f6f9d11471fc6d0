//! `cordon reload`: what runs reads its files again, and says what became of it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::output::{self, printable};
use crate::remote::Remote;

pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    let changes: Value = Remote::connect(global)?.post("v1/reload", &json!({}))?;
    match global.output {
        Format::Json | Format::Raw => output::json(&changes),
        Format::Human => output::line(tell(&changes).trim_end()),
    }
}

/// What changed, as people read it.
fn tell(changes: &Value) -> String {
    let mut text = format!("in force: {} scenarios\n", changes["scenarios"]);
    let names = |key: &str| -> Vec<String> {
        let all = changes[key].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(printable).collect()
    };
    // writing to a String cannot fail, here and below
    for (key, says) in [
        ("stopped", "is not read any more, or otherwise"),
        ("started", "is read now"),
        ("after_restart", "in the configuration has changed, which takes a restart"),
    ] {
        for name in names(key) {
            let _ = writeln!(text, "`{name}` {says}");
        }
    }
    match changes["lifted"].as_u64() {
        None | Some(0) => {}
        Some(count) => drop(writeln!(text, "{count} decisions about allowed addresses were lifted")),
    }
    text
}
