//! What people and scripts see: tables, JSON, comma-separated values; errors and logs on standard error.

use std::io::{self, IsTerminal, Write};

use agent::acquisition::voice;
use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{Format, Global};

/// Starts logging to standard error. A wrong filter is told and replaced by the default.
pub(crate) fn log_to_stderr(global: &Global) {
    let default = match global.output {
        Format::Human => "info",
        Format::Json | Format::Raw => "error",
    };
    let wanted = global.log_level.as_deref().unwrap_or(default);
    let (filter, complaint) = match EnvFilter::try_new(wanted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default), Some(error)),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    // journald stamps each line itself
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(layer.without_time().with_ansi(false).with_filter(BySource(filter))).init();
    } else {
        registry.with(layer.with_ansi(io::stderr().is_terminal()).with_filter(BySource(filter))).init();
    }
    if let Some(error) = complaint {
        tracing::warn!(%error, filter = wanted, "cannot read log filter, using `{default}`");
    }
}

/// The filter of the log; a datasource with a level of its own has that instead.
struct BySource(EnvFilter);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for BySource {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        match voice::level() {
            Some(level) => *metadata.level() <= level,
            None => Filter::enabled(&self.0, metadata, context),
        }
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if voice::loudest() == LevelFilter::OFF {
            Filter::<S>::callsite_enabled(&self.0, metadata)
        } else {
            Interest::sometimes()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.0).map(|level| level.max(voice::loudest()))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::on_new_span(&self.0, attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Filter::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::on_close(&self.0, id, context);
    }
}

/// Prints an error and what caused it as one sentence, and then the way out.
pub(crate) fn print_error(error: &anyhow::Error) {
    // nobody is left to tell if standard error is closed
    let _ = writeln!(io::stderr(), "error: {}", sentence(error));
}

/// The messages of an error and its causes joined; their `hint:` lines come last.
fn sentence(error: &anyhow::Error) -> String {
    let (mut messages, mut hints) = (Vec::new(), String::new());
    for cause in error.chain() {
        let text = cause.to_string();
        let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
        // an error that is transparent to its cause says the same twice
        if messages.last().is_none_or(|last| last != message) {
            messages.push(message.to_owned());
            if !hint.is_empty() {
                hints.push_str("\nhint: ");
                hints.push_str(hint);
            }
        }
    }
    messages.join(": ") + &hints
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

/// Prints text as it is, without a line end.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    write!(io::stdout(), "{text}")?;
    io::stdout().flush()?;
    Ok(())
}

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot print as JSON")?;
    line(&text)
}

/// Rows for people and for scripts.
pub(crate) struct Rows {
    /// Names of the columns, as scripts see them.
    pub(crate) columns: &'static [&'static str],
    /// One text a column.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Rows {
    /// The same, with the last column or without it.
    pub(crate) fn with_last(mut self, with: bool) -> Self {
        if !with && let Some((_, columns)) = self.columns.split_last() {
            self.columns = columns;
            for row in &mut self.rows {
                row.truncate(columns.len());
            }
        }
        self
    }

    /// Prints a table, or `empty` when there is no row.
    pub(crate) fn human(&self, empty: &str) -> anyhow::Result<()> {
        if self.rows.is_empty() { line(empty) } else { line(&self.table()) }
    }

    /// Prints comma-separated values; the header is always there.
    pub(crate) fn raw(&self) -> anyhow::Result<()> {
        let mut text = self.columns.join(",");
        for row in &self.rows {
            text.push('\n');
            text.push_str(&row.iter().map(|cell| csv(cell)).collect::<Vec<_>>().join(","));
        }
        line(&text)
    }

    fn table(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|name| name.replace('_', " ")).collect();
        table(&columns, &self.rows, io::stdout().is_terminal())
    }
}

/// A table for people, with nice lines where a terminal shows it.
pub(crate) fn table(columns: &[impl ToString], rows: &[Vec<String>], terminal: bool) -> String {
    let mut table = Table::new();
    let style = if terminal { presets::UTF8_HORIZONTAL_ONLY } else { presets::ASCII_BORDERS_ONLY_CONDENSED };
    table
        .load_style(style)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns.iter().map(ToString::to_string))
        .add_rows(rows);
    table.trim_fmt()
}

/// A cell as comma-separated values want it: quoted only when it must be.
pub(crate) fn csv(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// Replaces control characters, so that text written by an attacker cannot drive the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_only_what_must_be_quoted() {
        for (cell, written) in
            [("ban", "ban"), ("a,b", "\"a,b\""), ("say \"hi\"", "\"say \"\"hi\"\"\""), ("", ""), ("a\nb", "\"a\nb\"")]
        {
            assert_eq!(csv(cell), written);
        }
    }

    #[test]
    fn the_way_out_comes_after_what_went_wrong() {
        let cause = anyhow::anyhow!("no such file");
        let error = cause.context("cannot use `x`\nhint: name another one").context("cannot start");
        assert_eq!(sentence(&error), "cannot start: cannot use `x`: no such file\nhint: name another one");
    }

    #[test]
    fn log_text_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\u{9b}c é"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c é");
    }
}
