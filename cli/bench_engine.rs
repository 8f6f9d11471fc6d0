//! `cordon bench engine`: what one core of the engine does, and what it must do.
//!
//! Every figure but those of grok is taken of a process of its own, as anybody would run it: `cordon replay --stats`. Speed is lines
//! per second of processor time, the best of several runs, so that a busy machine changes little.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write, stderr};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent::load::{Folders, RuleFiles, SHIPPED};
use agent::meter;
use anyhow::{Context, bail};
use parsers::Library;
use parsers::config::{self, PatternConfig};
use parsers::grok::{Matching, Pattern, Patterns};
use serde::{Deserialize, Serialize};

use crate::args::{BenchEngine, Format, Global};
use crate::output::{self, Rows};
use crate::sandbox::Subject;

/// What has to be kept: the collections of the table, and the one that brings the first stage.
const NGINX: [&str; 2] = ["--collections", "linux,nginx,base-http-scenarios,http-cve"];
const SSH: [&str; 2] = ["--collections", "linux"];
/// The rules of a machine on which nothing but sshd is watched.
const SSH_ALONE: [&str; 4] = [
    "parsers/s00-raw/crowdsecurity/syslog-logs.yaml",
    "parsers/s01-parse/crowdsecurity/sshd-logs.yaml",
    "parsers/s02-enrich/crowdsecurity/dateparse-enrich.yaml",
    "scenarios/crowdsecurity/ssh-bf.yaml",
];
/// How many sources have a bucket at the same time.
const LIVE: u32 = 1_000_000;
/// Lines a second of log time in a flood.
const FLOOD_RATE: u32 = 10_000;
/// Seconds between two tries of the slow attacker in a flood.
const SLOW: u32 = 30;
/// Who is slow.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// How many lines of the corpus are matched before grok is timed.
const GROK_LINES: usize = 1_000_000;

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    workload: &'static str,
    measured: f64,
    unit: &'static str,
    target: f64,
    /// How many times the target is reached: what is 1 or more is enough.
    ratio: f64,
}

impl Row {
    fn at_least(workload: &'static str, measured: f64, unit: &'static str, target: f64) -> Self {
        Self { workload, measured, unit, target, ratio: measured / target }
    }

    fn at_most(workload: &'static str, measured: f64, unit: &'static str, target: f64) -> Self {
        Self { workload, measured, unit, target, ratio: target / measured }
    }
}

/// What `replay --stats` says in its last line, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Stats {
    lines: u64,
    wall_s: f64,
    cpu_s: f64,
    lines_per_cpu_s: f64,
    max_rss_bytes: u64,
    buckets: u64,
    evicted: u64,
}

impl Stats {
    fn mb(&self) -> f64 {
        self.max_rss_bytes as f64 / 1e6
    }
}

/// What all measurements share.
struct Bench<'a> {
    args: &'a BenchEngine,
    program: PathBuf,
    folder: PathBuf,
    rows: Vec<Row>,
}

pub(crate) fn run(global: &Global, args: &BenchEngine) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let program = std::env::current_exe().context("cannot find the program file of cordon")?;
    let mut bench = Bench { args, program, folder: folder.path().to_owned(), rows: Vec::new() };
    fs::write(bench.config(), format!("state: {}/state\n", folder.path().display()))?;
    let (amplify, hub) = (args.corpora.join("amplify.py"), args.hub.join("scenarios"));
    let missing = [&amplify, &hub].into_iter().find(|path| !path.exists());
    if let Some(missing) = missing {
        writeln!(
            stderr(),
            "NOT MEASURED: everything that needs the corpora and a hub, because there is no `{}`",
            missing.display()
        )?;
    } else {
        bench.speed()?;
        bench.grok()?;
        bench.memory()?;
        bench.flood()?;
    }
    bench.idle(global)?;
    let rows = bench.rows;
    if global.output == Format::Json {
        return output::json(&rows);
    }
    let number = |value: f64| if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    let cells = rows.iter().map(|row| {
        let verdict = if row.ratio >= 1.0 { "reached" } else { "MISSED" };
        let figures = [number(row.measured), number(row.target), format!("{:.2}", row.ratio)];
        let [measured, target, ratio] = figures;
        vec![row.workload.into(), measured, row.unit.into(), target, ratio, verdict.into()]
    });
    let table =
        Rows { columns: &["workload", "measured", "unit", "target", "ratio", "verdict"], rows: cells.collect() };
    if global.output == Format::Raw { table.raw() } else { table.human("nothing was measured") }
}

impl Bench<'_> {
    fn config(&self) -> PathBuf {
        self.folder.join("cordon.yaml")
    }

    /// The corpora at the speed of the engine.
    fn speed(&mut self) -> anyhow::Result<()> {
        let (access, sshd) = (self.log("access")?, self.log("sshd")?);
        let some = self.best(&access, "nginx", &NGINX, 1)?;
        let all = self.best(&access, "nginx", &["--all"], 1)?;
        let ssh = self.best(&sshd, "syslog", &SSH, 1)?;
        let per_line = |stats: &Stats| stats.cpu_s / stats.lines as f64;
        let unit = "lines per CPU-second";
        self.rows.push(Row::at_least("nginx collections", some.lines_per_cpu_s, unit, 360_000.0));
        let times = per_line(&all) / per_line(&some);
        self.rows.push(Row::at_most("all rules, cost of a line", times, "times the row above", 1.3));
        self.rows.push(Row::at_least("sshd log, collection linux", ssh.lines_per_cpu_s, unit, 500_000.0));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        if cores > 1 {
            for (workload, log, kind, rules) in [
                ("nginx collections, all cores", &access, "nginx", &NGINX),
                ("sshd log, all cores", &sshd, "syslog", &SSH),
            ] {
                let alone = self.fastest(log, kind, rules, 1)?;
                let together = self.fastest(log, kind, rules, cores)?;
                let target = 0.9 * cores as f64;
                self.rows.push(Row::at_least(workload, alone / together, "times one core", target));
            }
        }
        Ok(())
    }

    /// Matching alone, with everything captured.
    fn grok(&mut self) -> anyhow::Result<()> {
        let text = fs::read_to_string(self.args.corpora.join("access.log")).context("cannot read the access log")?;
        let files = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
        let shipped = format!("{SHIPPED}parsers/s01-parse/nginx-logs.yaml");
        let ours = files.parsers.iter().find(|file| file.path == Path::new(&shipped)).context("no parser of nginx")?;
        let hub = fs::read_to_string(self.args.hub.join("parsers/s01-parse/crowdsecurity/nginx-logs.yaml"))?;
        for (workload, parser) in [("grok alone, our pattern", &*ours.text), ("grok alone, the hub's pattern", &*hub)] {
            let mut library = Library::default();
            for file in &files.patterns {
                library.add_file(&file.text).map_err(|fault| anyhow::anyhow!("{fault}"))?;
            }
            let pattern = first_pattern(parser, &mut library)?;
            let best = (0..self.args.runs).map(|_| match_all(&pattern, &text)).fold(0.0, f64::max);
            self.rows.push(Row::at_least(workload, best, "lines per CPU-second", 3_000_000.0));
        }
        Ok(())
    }

    /// A million sources that each failed once.
    fn memory(&mut self) -> anyhow::Result<()> {
        let rules = self.folder.join("rules");
        for file in SSH_ALONE {
            let to = rules.join(file);
            fs::create_dir_all(to.parent().context("a rule has a folder")?)?;
            fs::copy(self.args.hub.join(file), to).with_context(|| format!("no rule `{file}` in the hub"))?;
        }
        let alone = ["--config-dir".to_owned(), rules.to_string_lossy().into_owned()];
        let hub = self.hub(&["--collections", "sshd,linux"]);
        for (workload, rules, target) in
            [("1,000,000 sources, ssh-bf alone", &alone[..], 150.0), ("1,000,000 sources, all of ssh", &hub, 500.0)]
        {
            let mut feed = Feed::start(self, rules)?;
            for source in 0..LIVE {
                feed.fail(address(source), source / 1000)?;
            }
            let (stats, _) = feed.end()?;
            self.rows.push(Row::at_most(workload, stats.mb(), "MB resident", target));
            // What was given up takes no memory.
            let kept = 1.0 - stats.evicted as f64 / stats.buckets.max(1) as f64;
            self.rows.push(Row::at_least("the same, buckets kept", kept, "of all", 1.0));
        }
        Ok(())
    }

    /// Ten million sources that each failed once, and one among them that goes on.
    fn flood(&mut self) -> anyhow::Result<()> {
        let sources = self.args.sources;
        let hub = self.hub(&["--collections", "sshd,linux"]);
        let mut feed = Feed::start(self, &hub)?;
        let mut times = vec![feed.cpu()?];
        for source in 0..sources {
            let second = source / FLOOD_RATE;
            if source % (FLOOD_RATE * SLOW) == 0 {
                feed.fail(ATTACKER, second)?;
            }
            feed.fail(address(source), second)?;
            if source % LIVE == LIVE - 1 {
                times.push(feed.cpu()?);
            }
        }
        let (stats, alerts) = feed.end()?;
        let caught = alerts.contains(&ATTACKER.to_string());
        self.rows.push(Row::at_most("flood of new sources", stats.mb(), "MB resident", 500.0));
        let mut spent = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).as_secs_f64());
        if let (Some(first), Some(last)) = (spent.next(), spent.next_back()) {
            self.rows.push(Row::at_most("flood, the last million", last / first, "times the first", 1.1));
        }
        self.rows.push(Row::at_least("flood, slow attackers caught", f64::from(u8::from(caught)), "of 1", 1.0));
        Ok(())
    }

    /// The shipped rules and nothing to do.
    fn idle(&mut self, global: &Global) -> anyhow::Result<()> {
        let mut starts = Vec::new();
        let mut resident = 0;
        for run in 0..self.args.runs {
            let folder = self.folder.join(format!("idle{run}"));
            fs::create_dir(&folder)?;
            let log = folder.join("auth.log");
            File::create(&log)?;
            let (subject, start) = Subject::start(None, &folder, &log, global)?;
            starts.push(start);
            thread::sleep(Duration::from_secs(1));
            resident = subject.resident()?;
        }
        let start = starts.into_iter().min().unwrap_or_default();
        self.rows.push(Row::at_most("idle, shipped rules", resident as f64 / 1e6, "MB resident", 25.0));
        self.rows.push(Row::at_most("start to watching", start.as_secs_f64() * 1e3, "ms", 100.0));
        Ok(())
    }

    /// A log of a kind, made large.
    fn log(&self, kind: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(kind);
        let mut command = Command::new("python3");
        command.arg(self.args.corpora.join("amplify.py")).arg(kind).arg(self.args.lines.to_string()).arg(&path);
        let status = command.status().context("cannot run `python3`\nhint: install it")?;
        if !status.success() {
            bail!("cannot make a log of kind `{kind}`: {status}");
        }
        Ok(path)
    }

    fn hub(&self, rules: &[&str]) -> Vec<String> {
        let hub = ["--hub".to_owned(), self.args.hub.to_string_lossy().into_owned()];
        hub.into_iter().chain(rules.iter().map(|&rule| rule.to_owned())).collect()
    }

    /// The run with the least processor time.
    fn best(&self, log: &Path, kind: &str, rules: &[&str], workers: usize) -> anyhow::Result<Stats> {
        let runs = (0..self.args.runs).map(|_| self.replay(log, kind, rules, workers));
        let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
        runs.into_iter().min_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s)).context("no run was asked for")
    }

    /// The least time by the clock, in seconds; with one worker on one core.
    fn fastest(&self, log: &Path, kind: &str, rules: &[&str], workers: usize) -> anyhow::Result<f64> {
        let runs = (0..self.args.runs).map(|_| Ok(self.replay(log, kind, rules, workers)?.wall_s));
        let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(runs.into_iter().fold(f64::MAX, f64::min))
    }

    fn replay(&self, log: &Path, kind: &str, rules: &[&str], workers: usize) -> anyhow::Result<Stats> {
        let mut command = if workers == 1 {
            // one core is one core, also for reading
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", "0"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.arg("replay").arg(log).args(["--type", kind, "--workers", &workers.to_string()]);
        command.args(self.hub(rules)).args(self.common()).stdout(Stdio::null());
        let output = command.output().context("cannot run `taskset`\nhint: install util-linux")?;
        stats_of(&String::from_utf8_lossy(&output.stderr))
    }

    fn common(&self) -> [OsString; 6] {
        [
            "--stats".into(),
            "--output".into(),
            "raw".into(),
            "--config".into(),
            self.config().into(),
            "--log-level=error".into(),
        ]
    }
}

fn stats_of(said: &str) -> anyhow::Result<Stats> {
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("the replay failed: {}", said.trim()))
}

/// A replay of what is written to it.
struct Feed {
    child: Child,
    input: BufWriter<ChildStdin>,
    said: PathBuf,
    alerts: PathBuf,
}

impl Feed {
    fn start(bench: &Bench<'_>, rules: &[String]) -> anyhow::Result<Self> {
        let (said, alerts) = (bench.folder.join("said"), bench.folder.join("alerts"));
        let mut command = Command::new(&bench.program);
        command.args(["replay", "-", "--type", "syslog", "--workers", "1", "--year", "2026"]).args(rules);
        command.args(bench.common()).stdin(Stdio::piped()).stdout(File::create(&alerts)?).stderr(File::create(&said)?);
        let mut child = command.spawn().context("cannot start cordon")?;
        let input = child.stdin.take().context("a pipe was asked for")?;
        Ok(Self { child, input: BufWriter::with_capacity(1 << 16, input), said, alerts })
    }

    /// A wrong password, so many seconds into the year.
    fn fail(&mut self, from: Ipv4Addr, second: u32) -> anyhow::Result<()> {
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        writeln!(
            self.input,
            "Jan  1 {hour:02}:{minute:02}:{second:02} web sshd[4711]: Failed password for root from {from} port 40000 ssh2"
        )
        .context("the replay has ended before its log")
    }

    /// Processor time so far.
    fn cpu(&mut self) -> anyhow::Result<Duration> {
        self.input.flush()?;
        let schedule = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let mut nanos = 0;
        for task in schedule {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            nanos +=
                text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).context("no time in `schedstat`")?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Waits for the end; what it cost, and the alerts as comma-separated values.
    fn end(self) -> anyhow::Result<(Stats, String)> {
        let Self { mut child, input, said, alerts } = self;
        drop(input);
        child.wait()?;
        Ok((stats_of(&fs::read_to_string(said)?)?, fs::read_to_string(alerts)?))
    }
}

/// Another address for every number, spread over many networks, none of them private.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + (number.wrapping_mul(0x9e37_79b1) & 0x03ff_ffff))
}

/// The first grok of a parser, with the patterns that the parser brings.
fn first_pattern(parser: &str, library: &mut Library) -> anyhow::Result<Arc<Pattern>> {
    let told = |fault: model::Fault| anyhow::anyhow!("{fault}");
    let nodes = config::parse(parser).map_err(told)?.nodes;
    let node = nodes.first().context("no node")?;
    for (name, pattern) in &node.pattern_syntax {
        library.define(name, pattern, name.line).map_err(told)?;
    }
    let grok = node.nodes.iter().find_map(|child| child.grok.as_ref()).context("no grok")?;
    let PatternConfig::Inline(pattern) = &grok.pattern else { bail!("the pattern has a name") };
    let expansion = library.expand(pattern, pattern.line).map_err(told)?;
    Patterns::default().compile(&expansion, pattern.line).map_err(told)
}

/// Matches the lines of `text` again and again: lines per second of processor time.
fn match_all(pattern: &Pattern, text: &str) -> f64 {
    let mut matching = Matching::default();
    let lines: Vec<&str> = text.lines().collect();
    let (mut count, mut captured) = (0, 0);
    let before = meter::process_time();
    while count < GROK_LINES {
        for line in &lines {
            if let Ok(Some(found)) = pattern.search(line, &mut matching) {
                let places = pattern.aliases().iter().filter_map(|(_, place)| found.get((*place)?));
                captured += places.map(|range| range.len()).sum::<usize>();
            }
        }
        count += lines.len();
    }
    std::hint::black_box(captured);
    count as f64 / meter::process_time().saturating_sub(before).as_secs_f64()
}
