//! `cordon replay`: an old log through the same engine, with the time in the log as the clock; nothing is stored,
//! nothing is enforced.

use std::collections::HashMap;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::acquisition::file::{Cat, Files, PathPattern};
use agent::engine::EngineOptions;
use agent::replay::{ReplayOptions, replay};
use anyhow::{Context, bail};
use api::profiles::{Lookup, Profiles};
use indicatif::{ProgressBar, ProgressStyle};
use ipnet::IpNet;
use jiff::Timestamp;
use model::alert::DecisionBody;
use model::{Alert, AllowSet, duration};
use scenarios::HashKey;
use serde::Serialize;

use crate::args::{Format, Global, Replay};
use crate::config::Config;
use crate::output::{self, Rows, printable};
use crate::run;

/// What the log would have led to.
#[derive(Debug, Serialize)]
struct Outcome {
    lines: u64,
    parsed: u64,
    unparsed: u64,
    whitelisted: u64,
    seconds: f64,
    /// In the order of the log; each with the decisions it would have led to.
    alerts: Vec<Alert>,
}

pub(crate) fn run(global: &Global, args: &Replay) -> anyhow::Result<()> {
    let mut config = Config::load(global)?;
    let rules = Arc::new(run::rules(&mut config, &args.rules)?);
    let profiles = run::profiles(&config)?;
    let labels = vec![("type".into(), args.kind.as_str().into())];
    let mut files = Files { patterns: Vec::new(), exclude: Vec::new(), labels, time_machine: true };
    let input = if args.file == Path::new("-") {
        Cat::standard_input(&files)
    } else {
        std::fs::metadata(&args.file).with_context(|| format!("cannot read `{}`", args.file.display()))?;
        files.patterns.push(PathPattern::new(&literal(&args.file)).context("cannot use this file name")?);
        Cat::new(&files)
    };
    let EngineOptions { threads, memory, .. } = EngineOptions::live(HashKey::new([0; 16]));
    let threads = args.workers.unwrap_or(threads);
    let allow = Arc::new(AllowSet::new(run::configured_entries(&config)));

    let (start, bar, mut alerts) = (Instant::now(), progress(), Vec::new());
    let replayed = replay(rules, input, ReplayOptions { threads, memory, allow, year: args.year }, |new, source| {
        alerts.extend(new);
        bar.set_length(source.total.get());
        bar.set_position(source.bytes.get());
    });
    bar.finish_and_clear();
    let replayed = replayed.context("cannot start the threads")?;
    if let Some(trouble) = replayed.source.trouble.first() {
        bail!("{}\nhint: {}", trouble.reason, trouble.remedy);
    }
    let fates = replayed.fates;
    let outcome = Outcome {
        lines: fates.parsed + fates.unparsed + fates.whitelisted + fates.failed,
        parsed: fates.parsed,
        unparsed: fates.unparsed,
        whitelisted: fates.whitelisted,
        seconds: start.elapsed().as_secs_f64(),
        alerts: judge(&profiles, alerts)?,
    };
    match global.output {
        Format::Json => output::json(&outcome),
        Format::Raw => outcome.rows().raw(),
        Format::Human => outcome.tell(),
    }
}

/// A path that is meant as it is, not as a pattern.
fn literal(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars().map(|c| if "*?[]".contains(c) { format!("[{c}]") } else { c.to_string() }).collect::<Vec<_>>().concat()
}

/// A bar on a terminal, nothing elsewhere.
fn progress() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0);
    bar.enable_steady_tick(Duration::from_millis(100));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Gives each alert the decisions that the profiles make of it.
fn judge(profiles: &Profiles, alerts: Vec<Alert>) -> anyhow::Result<Vec<Alert>> {
    let mut history = History::default();
    let mut judged = Vec::with_capacity(alerts.len());
    for mut alert in alerts {
        history.now = alert.stop_at.parse().unwrap_or(history.now);
        let decisions = profiles.judge(&alert, &history)?.decisions;
        for body in &decisions {
            history.note(body);
        }
        alert.decisions = Some(decisions);
        judged.push(alert);
    }
    Ok(judged)
}

/// The decisions made so far, as profiles ask for them: those about the very same address or range.
#[derive(Default)]
struct History {
    now: Timestamp,
    made: HashMap<IpNet, Vec<(Timestamp, Timestamp)>>,
}

impl History {
    fn note(&mut self, body: &DecisionBody) {
        let Ok(net) = model::scope::parse_net(&body.value) else { return };
        let lasts = duration::parse_with_days(&body.duration).unwrap_or_default();
        let until = self.now.saturating_add(lasts).unwrap_or(Timestamp::MAX);
        self.made.entry(net).or_default().push((self.now, until));
    }

    fn about(&self, net: IpNet) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        self.made.get(&net).into_iter().flatten().copied()
    }
}

impl Lookup for History {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn ever(&self, net: IpNet, since: Option<Timestamp>) -> i64 {
        self.about(net).filter(|(made, _)| since.is_none_or(|since| *made >= since)).count() as i64
    }

    fn active(&self, net: IpNet) -> (i64, Option<Timestamp>) {
        let ends = || self.about(net).map(|(_, until)| until).filter(|until| *until > self.now);
        (ends().count() as i64, ends().max())
    }
}

impl Outcome {
    fn rows(&self) -> Rows {
        let rows = self.alerts.iter().map(|alert| {
            let decided =
                alert.decisions.iter().flatten().map(|body| format!("{} for {}", body.remediation, body.duration));
            vec![
                alert.stop_at.clone(),
                printable(&alert.scenario),
                printable(&format!("{}:{}", alert.source.scope, alert.source.value)),
                alert.events_count.to_string(),
                decided.collect::<Vec<_>>().join(", "),
            ]
        });
        Rows { columns: &["time", "scenario", "source", "events", "decisions"], rows: rows.collect() }
    }

    fn tell(&self) -> anyhow::Result<()> {
        self.rows().human("no alerts")?;
        let decisions: usize = self.alerts.iter().map(|alert| alert.decisions.iter().flatten().count()).sum();
        output::line(&format!(
            "{} lines in {:.1} s ({} understood, {} not, {} on a whitelist): {} alerts, {decisions} decisions",
            self.lines,
            self.seconds,
            self.parsed,
            self.unparsed,
            self.whitelisted,
            self.alerts.len(),
        ))
    }
}
