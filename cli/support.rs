//! `cordon support`: what somebody who helps needs to see, in one JSON file, without secrets.
//!
//! Nothing is read that holds secrets: the configuration is the one in force, whose secrets do not show themselves, and accounts
//! are told by the API, which has only hashes and does not tell them.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::config::Config;
use crate::metrics;
use crate::output;
use crate::remote::{Query, Remote};

/// How many lines of the journal are taken along.
const LOG_LINES: &str = "500";

pub(crate) fn run(global: &Global, out: Option<PathBuf>) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let file = out.unwrap_or_else(|| format!("cordon-support-{}.json", now.strftime("%Y%m%d-%H%M%S")).into());
    let config = Config::load(global);
    let remote = Remote::connect(global);
    let ask = |route: &str| match &remote {
        Ok(remote) => told(remote.get::<Value>(route, &Query::new())),
        Err(error) => failed(error),
    };
    let mut bundle = json!({
        "made": now,
        "version": env!("CARGO_PKG_VERSION"),
        "system": system(),
        "status": ask("v1/status"),
        "bouncers": ask("v1/bouncers"),
        "machines": ask("v1/machines"),
        "audit": ask("v1/audit/verify"),
        "log": log(),
    });
    match &config {
        Ok(config) => {
            bundle["configuration"] = serde_json::to_value(config).context("cannot print as JSON")?;
            bundle["metrics"] = told(metrics::scrape(&config.socket()).map(|text| text.lines().collect()));
            bundle["state"] = state(&config.state);
        }
        Err(error) => bundle["configuration"] = failed(error),
    }
    let text = serde_json::to_string_pretty(&bundle).context("cannot print as JSON")?;
    let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file);
    made.and_then(|mut made| made.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write `{}`", file.display()))?;
    match global.output {
        Format::Json => output::json(&json!({ "file": file })),
        Format::Human | Format::Raw => output::line(&format!(
            "{}: no keys, passwords or tokens; but names, addresses and log lines: look at it before you hand it on",
            file.display()
        )),
    }
}

fn told(answer: anyhow::Result<Value>) -> Value {
    answer.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> Value {
    json!({ "error": format!("{error:#}") })
}

/// What kind of system this is.
fn system() -> Value {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    json!({ "kernel": text(uname.release()), "machine": text(uname.machine()), "user": rustix::process::getuid().as_raw() })
}

/// The files of the state folder and their sizes.
fn state(folder: &Path) -> Value {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let size = entry.metadata().ok()?.len();
        Some((entry.file_name().to_string_lossy().into_owned(), json!(size)))
    });
    Value::Object(sizes.collect())
}

/// What the journal keeps of the service.
fn log() -> Value {
    let journal = Command::new("journalctl")
        .args(["--unit", "cordon", "--lines", LOG_LINES, "--no-pager", "--output", "short-iso"])
        .stdin(Stdio::null())
        .output();
    match journal {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().collect(),
        Err(error) => json!({ "error": format!("journalctl: {error}") }),
    }
}
