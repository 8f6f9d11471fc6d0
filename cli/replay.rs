//! `cordon replay`: an old log through the same engine, with the time in the log as the clock; nothing is stored,
//! nothing is enforced.

use std::collections::HashMap;
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::acquisition::file::{Cat, Files, PathPattern};
use agent::engine::EngineOptions;
use agent::meter::{self, Breakdown, Share};
use agent::parse::Fates;
use agent::replay::{ReplayOptions, replay};
use anyhow::{Context, bail};
use api::profiles::{Lookup, Profiles, Reputation};
use indicatif::{ProgressBar, ProgressStyle};
use ipnet::IpNet;
use jiff::Timestamp;
use model::alert::DecisionBody;
use model::{Alert, AllowSet, duration};
use scenarios::HashKey;
use scenarios::metrics::BucketMetrics;
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
    let loading = meter::process_time();
    let options = ReplayOptions { threads, memory, allow, year: args.year, measure: args.stats };
    let replayed = replay(rules, input, options, |new, source| {
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
    let stats = replayed.breakdown.map(|breakdown| {
        let wall = start.elapsed();
        Stats::new(&fates, alerts.len(), wall, loading, replayed.workers, &replayed.buckets, breakdown)
    });
    let outcome = Outcome {
        lines: fates.lines(),
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
    }?;
    stats.transpose()?.map_or(Ok(()), |stats| stats.tell())
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

    fn reputation(&self, _: &str) -> Reputation {
        Reputation::Failed("a replay asks nobody".into())
    }
}

/// What a replay cost.
#[derive(Debug, Serialize)]
struct Stats {
    lines: u64,
    /// Lines that were understood.
    events: u64,
    alerts: usize,
    /// Of the replay, without loading.
    wall_s: f64,
    /// Of the whole process, in user code and in the kernel.
    cpu_s: f64,
    /// Of that, what was spent before the first line.
    load_cpu_s: f64,
    lines_per_cpu_s: f64,
    max_rss_bytes: u64,
    workers: usize,
    /// Buckets that were made, and those of them that were given up for want of memory.
    buckets: u64,
    evicted: u64,
    #[serde(flatten)]
    breakdown: Breakdown,
}

impl Stats {
    fn new(
        fates: &Fates,
        alerts: usize,
        wall: Duration,
        loading: Duration,
        workers: usize,
        buckets: &BucketMetrics,
        breakdown: Breakdown,
    ) -> anyhow::Result<Self> {
        let cpu = meter::process_time();
        let lines = fates.lines();
        Ok(Self {
            lines,
            events: fates.parsed + fates.whitelisted,
            alerts,
            wall_s: wall.as_secs_f64(),
            cpu_s: cpu.as_secs_f64(),
            load_cpu_s: loading.as_secs_f64(),
            lines_per_cpu_s: lines as f64 / cpu.as_secs_f64(),
            max_rss_bytes: meter::peak_memory().context("cannot say how much memory was used")?,
            workers,
            buckets: buckets.scenarios.iter().map(|scenario| scenario.created).sum(),
            evicted: buckets.scenarios.iter().map(|scenario| scenario.evicted).sum(),
            breakdown,
        })
    }

    /// For a person first what the rules cost; then all of it as one line, for whoever reads standard error last.
    fn tell(&self) -> anyhow::Result<()> {
        let mut out = stderr().lock();
        if out.is_terminal() {
            let Breakdown { stages, nodes, scenarios, .. } = &self.breakdown;
            for (title, shares) in [("stage", stages), ("node", nodes), ("scenario", scenarios)] {
                writeln!(out, "{}", table(title, shares))?;
            }
            writeln!(
                out,
                "{} lines in {:.2} s of processor time, {:.2} s of it for loading: {:.0} lines a second of one processor; \
                 at most {:.1} MiB of memory",
                self.lines,
                self.cpu_s,
                self.load_cpu_s,
                self.lines_per_cpu_s,
                self.max_rss_bytes as f64 / f64::from(1 << 20),
            )?;
        }
        writeln!(out, "{}", serde_json::to_string(self).context("cannot print as JSON")?)?;
        Ok(())
    }
}

fn table(title: &str, shares: &[Share]) -> String {
    let rows = shares.iter().map(|share| {
        vec![
            printable(&share.name),
            format!("{:.1} %", share.share * 100.0),
            format!("{:.0}", share.ns_per_line),
            share.runs.to_string(),
            format!("{:.0}", share.ns_per_run),
        ]
    });
    output::table(&[title, "share", "ns a line", "runs", "ns a run"], &rows.collect::<Vec<_>>(), true)
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
