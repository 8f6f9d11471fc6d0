//! What people and scripts see: tables, JSON, comma-separated values; errors and logs on standard error.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::args::{Format, Global};

/// Starts logging to standard error. A wrong filter is told and replaced by the default.
pub(crate) fn log_to_stderr(global: &Global) {
    let default = match global.output {
        Format::Human => "info",
        Format::Json | Format::Raw => "error",
    };
    let wanted = global.log.as_deref().unwrap_or(default);
    let (filter, complaint) = match EnvFilter::try_new(wanted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default), Some(error)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // journald stamps each line itself
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().with_ansi(false).init();
    } else {
        builder.with_ansi(io::stderr().is_terminal()).init();
    }
    if let Some(error) = complaint {
        tracing::warn!(%error, filter = wanted, "cannot read log filter, using `{default}`");
    }
}

/// Prints an error and what caused it as one sentence; a `hint:` line in it stays a line.
pub(crate) fn print_error(error: &anyhow::Error) {
    // nobody is left to tell if standard error is closed
    let _ = writeln!(io::stderr(), "error: {error:#}");
}

/// Whether the reader of our output went away (`cordon alerts list | head -1`): no failure of ours.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe))
}

/// Prints one line.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot print as JSON")?;
    line(&text)
}
