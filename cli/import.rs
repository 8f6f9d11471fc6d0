//! `cordon decisions import` and `export`, `cordon allowlists import`: files read and written entry by entry, so that a
//! million need little memory.
//!
//! A file is read twice: first to see that all of it makes sense, then to send it, in alerts of bounded size. So nothing is
//! imported of a file that is wrong, unless whoever imports it says that wrong entries are left out.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, bail};
use api::wire::LiveDecision;
use indicatif::{ProgressBar, ProgressStyle};
use model::Scope;
use model::alert::DecisionBody;
use model::duration;
use serde::Deserialize;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::json;

use crate::args::{Export, Format, Global, Import, ImportFormat, OnError};
use crate::decisions::{alert_of, check};
use crate::output;
use crate::remote::{Query, Remote, encode};

/// Origin of what is imported.
const IMPORTED: &str = "cscli-import";
/// Longest line in bytes.
const MAX_LINE: u64 = 1 << 20;
/// How many decisions or items are asked for or sent at once.
const PAGE: usize = 10_000;
/// How many entries that make no sense are told one by one.
const TOLD: usize = 20;

/// One entry of a file.
#[derive(Debug, Default, PartialEq, Deserialize)]
struct Entry {
    value: Option<String>,
    duration: Option<String>,
    scope: Option<String>,
    reason: Option<String>,
    #[serde(rename = "type")]
    remediation: Option<String>,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A line, from 1.
    Line(usize),
    /// An element of a list, from 0.
    Item(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Item(number) => write!(f, "item {number}"),
        }
    }
}

/// `cordon decisions import`.
pub(crate) fn decisions(global: &Global, what: &Import) -> anyhow::Result<()> {
    let extension = what.input.extension().and_then(|extension| extension.to_str());
    let format = match (what.format, extension) {
        (Some(format), _) => format,
        (None, Some("json")) => ImportFormat::Json,
        (None, Some("csv")) => ImportFormat::Csv,
        (None, _) => bail!("the file name does not say how it is written\nhint: --format csv, json or values"),
    };
    let mut file = open(&what.input)?;
    let (mut count, mut wrong) = (0_usize, 0_usize);
    read(&mut file, format, &mut |place, entry| {
        match entry.and_then(|entry| decision(entry, what)) {
            Ok(_) => count += 1,
            Err(error) if what.on_error == OnError::Abort => bail!(
                "{place}: {error}\nhint: nothing was imported; correct it, or leave such entries out with --on-error skip"
            ),
            Err(error) => {
                wrong += 1;
                if wrong <= TOLD {
                    tracing::warn!("{place}: {error}, left out");
                }
            }
        }
        Ok(())
    })?;
    if count == 0 {
        bail!("no decisions found");
    }
    let mut sender = Sender { remote: Remote::connect(global)?, name: name(&what.input), sent: 0, allowed: 0 };
    let progress = progress(count)?;
    let mut batch = Vec::with_capacity(what.batch.min(count));
    file.rewind()?;
    read(&mut file, format, &mut |_, entry| {
        batch.extend(entry.and_then(|entry| decision(entry, what)));
        if batch.len() == what.batch {
            sender.send(std::mem::take(&mut batch))?;
            progress.inc(what.batch as u64);
        }
        Ok(())
    })
    .and_then(|()| sender.send(batch))
    .with_context(|| format!("stopped after {} of {count} decisions", sender.sent))?;
    progress.finish_and_clear();
    let Sender { sent, allowed, .. } = sender;
    if global.output != Format::Human {
        return output::json(&json!({ "imported": sent, "allowed": allowed, "skipped": wrong }));
    }
    output::line(&format!("Imported {sent} decisions"))?;
    for (count, why) in [(allowed, "on an allowlist"), (wrong, "wrong")] {
        if count > 0 {
            output::line(&format!("{count} left out: {why}"))?;
        }
    }
    Ok(())
}

/// Sends decisions in alerts.
struct Sender {
    remote: Remote,
    name: String,
    sent: usize,
    allowed: usize,
}

impl Sender {
    fn send(&mut self, mut batch: Vec<DecisionBody>) -> anyhow::Result<()> {
        let is_net = |body: &&DecisionBody| matches!(Scope::new(&body.scope), Scope::Ip | Scope::Range);
        let targets: Vec<String> = batch.iter().filter(is_net).map(|body| body.value.clone()).collect();
        if !targets.is_empty() {
            let found = check(&self.remote, &targets)?;
            let allowed: std::collections::HashSet<&str> = found.iter().map(|result| result.target.as_str()).collect();
            for result in found.iter().take(TOLD.saturating_sub(self.allowed)) {
                tracing::warn!(value = %result.target, by = %result.allowlists.join(", "), "is on an allowlist, left out");
            }
            let before = batch.len();
            batch.retain(|body| !is_net(&body) || !allowed.contains(body.value.as_str()));
            self.allowed += before - batch.len();
        }
        if batch.is_empty() {
            return Ok(());
        }
        let count = batch.len();
        let alert = alert_of(&format!("import {}: {count} IPs", self.name), count, batch);
        let _: Vec<String> = self.remote.post("v1/alerts", &[alert])?;
        self.sent += count;
        Ok(())
    }
}

/// What an entry decides, or what is wrong with it.
fn decision(entry: Entry, what: &Import) -> Result<DecisionBody, String> {
    let or = |given: Option<String>, default: &String| {
        given.filter(|text| !text.is_empty()).unwrap_or_else(|| default.clone())
    };
    let value = entry.value.filter(|value| !value.is_empty()).ok_or("missing `value`")?;
    let scope = Scope::new(&or(entry.scope, &what.scope));
    let scope = match (scope, value.contains('/')) {
        // a list of addresses may hold ranges
        (Scope::Ip, true) => Scope::Range,
        (scope, _) => scope,
    };
    if matches!(scope, Scope::Ip | Scope::Range) {
        model::scope::parse_net(&value).map_err(|error| error.to_string())?;
    }
    let lasts = or(entry.duration, &what.duration);
    duration::parse_with_days(&lasts).map_err(|error| error.to_string())?;
    Ok(DecisionBody {
        origin: IMPORTED.to_owned(),
        remediation: or(entry.remediation, &what.remediation),
        scope: scope.to_string(),
        value,
        duration: lasts,
        scenario: or(entry.reason, &what.reason),
        ..DecisionBody::default()
    })
}

/// `cordon decisions export`.
pub(crate) fn export(global: &Global, what: &Export) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    let mut to: Box<dyn Write> = match &what.to {
        Some(path) => {
            Box::new(BufWriter::new(File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?))
        }
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let scopes = match (&what.scope, what.format) {
        (Some(scope), _) => Some(scope.as_str()),
        // nothing in a plain list says what an entry is
        (None, ImportFormat::Values) => Some("Ip,Range"),
        (None, _) => None,
    };
    let (mut last, mut count) = (0, 0_usize);
    match what.format {
        ImportFormat::Csv => writeln!(to, "value,duration,scope,reason,type,origin")?,
        ImportFormat::Json => write!(to, "[")?,
        ImportFormat::Values => {}
    }
    loop {
        let mut query = Query::new();
        query.add("limit", PAGE).add("id_gt", last);
        query.maybe("scopes", scopes).maybe("origins", what.origin.as_ref()).maybe("type", what.remediation.as_ref());
        let page: Vec<LiveDecision> = remote.list("v1/decisions", &query)?;
        let Some(end) = page.last() else { break };
        last = end.id;
        for one in &page {
            let comma = if count == 0 { "" } else { "," };
            count += 1;
            match what.format {
                ImportFormat::Values => writeln!(to, "{}", one.value)?,
                ImportFormat::Csv => {
                    let cells = [&one.value, &one.duration, &one.scope, &one.scenario, &one.remediation, &one.origin];
                    writeln!(to, "{}", cells.map(|cell| output::csv(cell)).join(","))?;
                }
                ImportFormat::Json => {
                    let entry = json!({
                        "value": one.value, "duration": one.duration, "scope": one.scope, "reason": one.scenario,
                        "type": one.remediation, "origin": one.origin,
                    });
                    write!(to, "{comma}\n{entry}")?;
                }
            }
        }
    }
    if what.format == ImportFormat::Json {
        writeln!(to, "\n]")?;
    }
    to.flush()?;
    match &what.to {
        Some(path) if global.output == Format::Human => {
            output::line(&format!("Exported {count} decisions to {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// `cordon allowlists import`.
pub(crate) fn allowlist(global: &Global, remote: &Remote, list: &str, input: &Path) -> anyhow::Result<()> {
    let mut file = open(input)?;
    let mut items: Vec<serde_json::Value> = Vec::new();
    csv(&mut file, &mut |place, cell| {
        let value = cell("value").filter(|value| !value.is_empty());
        let value = value.with_context(|| format!("{place}: missing `value`"))?;
        model::scope::parse_net(&value).with_context(|| place.to_string())?;
        let expiration = cell("expiration").unwrap_or_default();
        if !expiration.is_empty() {
            duration::parse_with_days(&expiration).with_context(|| format!("{place}: invalid expiration"))?;
        }
        items.push(json!({ "value": value, "expiration": expiration, "comment": cell("comment").unwrap_or_default() }));
        Ok(())
    })?;
    if items.is_empty() {
        bail!("no values to import");
    }
    let (mut added, mut lifted) = (0, 0);
    for page in items.chunks(PAGE) {
        let changed: crate::allowlists::Changed =
            remote.post(&format!("v1/allowlists/{}/items", encode(list)), &json!({ "items": page }))?;
        added += changed.added;
        lifted += changed.lifted;
    }
    crate::allowlists::grown(global, list, added, lifted)
}

/// A file that can be read twice; standard input for `-`.
fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    if path == Path::new("-") {
        let mut copy = tempfile::tempfile().context("cannot make a temporary file")?;
        io::copy(&mut io::stdin().lock(), &mut copy).context("cannot read standard input")?;
        copy.rewind()?;
        return Ok(BufReader::new(copy));
    }
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    if !file.metadata()?.is_file() {
        bail!("`{}` is no file\nhint: what comes through a pipe is read with `-`", path.display());
    }
    Ok(BufReader::new(file))
}

fn name(input: &Path) -> String {
    match input.file_name().filter(|name| *name != "-") {
        Some(name) => name.to_string_lossy().into_owned(),
        None => "stdin".to_owned(),
    }
}

/// A bar for whoever watches.
fn progress(count: usize) -> anyhow::Result<ProgressBar> {
    if !io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {per_sec} {eta} left")?;
    Ok(ProgressBar::new(count as u64).with_style(style))
}

/// What is done with each entry: where it stands, and what it says or what is wrong with it.
type Each<'a> = dyn FnMut(Place, Result<Entry, String>) -> anyhow::Result<()> + 'a;

fn read(source: &mut dyn BufRead, format: ImportFormat, each: &mut Each<'_>) -> anyhow::Result<()> {
    match format {
        ImportFormat::Values => {
            let mut number = 0;
            while let Some(line) = line(source)? {
                number += 1;
                let value = line.trim();
                if !value.starts_with('#') {
                    each(Place::Line(number), Ok(Entry { value: Some(value.to_owned()), ..Entry::default() }))?;
                }
            }
            Ok(())
        }
        ImportFormat::Csv => csv(source, &mut |place, cell| {
            let entry = Entry {
                value: cell("value"),
                duration: cell("duration"),
                scope: cell("scope"),
                reason: cell("reason"),
                remediation: cell("type"),
            };
            each(place, Ok(entry))
        }),
        ImportFormat::Json => {
            let mut failed = None;
            let mut deserializer = serde_json::Deserializer::from_reader(source);
            let read = Elements { each, failed: &mut failed }.deserialize(&mut deserializer);
            match failed {
                Some(error) => Err(error),
                None => read.and_then(|()| deserializer.end()).context("expected a list of objects with `value`"),
            }
        }
    }
}

/// The elements of a JSON list, one at a time.
struct Elements<'a, 'b> {
    each: &'a mut Each<'b>,
    /// Why it was given up, if not because of the list itself.
    failed: &'a mut Option<anyhow::Error>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(element) = list.next_element::<serde_json::Value>()? {
            let entry = Entry::deserialize(element).map_err(|error| error.to_string());
            if let Err(error) = (self.each)(Place::Item(number), entry) {
                *self.failed = Some(error);
                return Err(serde::de::Error::custom("given up"));
            }
            number += 1;
        }
        Ok(())
    }
}

/// What is done with each line of a table: where it stands, and the cell of a column.
type Row<'a> = dyn FnMut(Place, &dyn Fn(&str) -> Option<String>) -> anyhow::Result<()> + 'a;

fn csv(source: &mut dyn BufRead, row: &mut Row<'_>) -> anyhow::Result<()> {
    let header = line(source)?.map(|line| split_csv(&line)).unwrap_or_default();
    if !header.iter().any(|name| name == "value") {
        bail!("the first line must name the columns, `value` among them");
    }
    let mut number = 1;
    while let Some(mut text) = line(source)? {
        number += 1;
        let place = Place::Line(number);
        // a cell in quotes may go on in the next line
        while text.matches('"').count() % 2 == 1 && (text.len() as u64) < MAX_LINE {
            let Some(more) = line(source)? else { break };
            number += 1;
            text.push('\n');
            text.push_str(&more);
        }
        if text.trim().is_empty() {
            continue;
        }
        let cells = split_csv(&text);
        row(place, &|name| header.iter().position(|known| known == name).and_then(|at| cells.get(at)).cloned())?;
    }
    Ok(())
}

/// The next line without its end.
fn line(source: &mut dyn BufRead) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut limited = source.take(MAX_LINE);
    if limited.read_until(b'\n', &mut bytes).context("cannot read the file")? == 0 {
        return Ok(None);
    }
    if bytes.len() as u64 == MAX_LINE && !bytes.ends_with(b"\n") {
        bail!("a line is longer than {MAX_LINE} bytes: this is no such file");
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// The cells of a line; a cell in quotes may hold commas and doubled quotes.
fn split_csv(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            other => cell.push(other),
        }
    }
    cells.push(cell.trim().to_owned());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str, format: ImportFormat) -> anyhow::Result<Vec<(Place, Result<Entry, String>)>> {
        let mut found = Vec::new();
        read(&mut text.as_bytes(), format, &mut |place, entry| {
            found.push((place, entry));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn files_are_read_in_three_formats() {
        let item = |value: &str, duration: &str, reason: &str| {
            let some = |text: &str| Some(text.to_owned());
            Ok(Entry { value: some(value), duration: some(duration), reason: some(reason), ..Entry::default() })
        };
        let csv = "value,duration,reason,note\n192.0.2.1,2h,\"a, \"\"b\"\"\nc\",x\r\n\n192.0.2.2,,,\n";
        assert_eq!(
            entries(csv, ImportFormat::Csv).expect("valid"),
            [(Place::Line(2), item("192.0.2.1", "2h", "a, \"b\"\nc")), (Place::Line(5), item("192.0.2.2", "", ""))]
        );
        let json = r#"[{"value": "192.0.2.0/24", "scope": "range", "note": 1}, {"value": 5}, 7]"#;
        let items = entries(json, ImportFormat::Json).expect("a list");
        let first = items[0].1.as_ref().expect("it makes sense");
        assert_eq!((first.value.as_deref(), first.scope.as_deref()), (Some("192.0.2.0/24"), Some("range")));
        assert!(items[1].1.is_err() && items[2].1.is_err() && items[2].0 == Place::Item(2));
        let values = entries("# a list\n 192.0.2.1 \n192.0.2.2", ImportFormat::Values).expect("valid");
        let values: Vec<_> =
            values.iter().map(|(place, entry)| (*place, entry.as_ref().expect("a value").value.as_deref())).collect();
        assert_eq!(values, [(Place::Line(2), Some("192.0.2.1")), (Place::Line(3), Some("192.0.2.2"))]);
        for (text, format) in [
            ("{}", ImportFormat::Json),
            ("[{}", ImportFormat::Json),
            ("[] 1", ImportFormat::Json),
            ("ip,duration\n192.0.2.1,1h\n", ImportFormat::Csv),
            ("", ImportFormat::Csv),
        ] {
            assert!(entries(text, format).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let what = Import {
            input: "-".into(),
            format: None,
            duration: "4h".into(),
            scope: "ip".into(),
            reason: "manual".into(),
            remediation: "ban".into(),
            batch: 10,
            on_error: OnError::Abort,
        };
        let entry = |value: &str, duration: &str, scope: &str| {
            let some = |text: &str| Some(text.to_owned());
            Entry { value: some(value), duration: some(duration), scope: some(scope), ..Entry::default() }
        };
        // (entry, what it is about, or what is wrong)
        let cases = [
            (entry("192.0.2.1", "", ""), Ok("Ip 192.0.2.1 4h")),
            (entry("192.0.2.0/24", "1d", ""), Ok("Range 192.0.2.0/24 1d")),
            (entry("eve", "", "username"), Ok("username eve 4h")),
            (Entry::default(), Err("missing `value`")),
            (entry("", "", ""), Err("missing `value`")),
            (entry("300.0.0.1", "", ""), Err("`300.0.0.1` is not an IP address or a range")),
            (entry("192.0.2.1", "soon", ""), Err("soon")),
        ];
        for (entry, expected) in cases {
            let shown = format!("{entry:?}");
            match (decision(entry, &what), expected) {
                (Ok(body), Ok(text)) => assert_eq!(format!("{} {} {}", body.scope, body.value, body.duration), text),
                (Err(error), Err(text)) => assert!(error.contains(text), "{shown}: {error}"),
                (found, _) => panic!("{shown}: {found:?}"),
            }
        }
    }
}
