//! The soak: a writer, rotations of every kind, and a cordon that is killed again and again.
//!
//! Every line belongs to a block and has a number in it. One scenario counts the lines of a block, another one the different
//! lines of a block, and both overflow with the last one: a line that is lost leaves the second bucket open, a line that
//! counts twice closes the first one early and opens another. So what cordon itself reports is the account.
//!
//! The same seed gives the same rotations, kills and lines; when things happen depends on the machine.

#![expect(clippy::print_stdout, reason = "its output is what it is started for")]

mod days;
mod log;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::log::{Log, Rotation};

/// Lines of a block.
const BLOCK: usize = 200;
/// How long the account may stay as it is before it is taken as it is.
const PATIENCE: Duration = Duration::from_mins(1);
/// How many lines are written at once.
const BURST: usize = 20;

const PARSER: &str = "name: soak/lines
description: lines of the soak
filter: evt.Parsed.program == 'soak'
onsuccess: next_stage
grok:
  pattern: '^block=%{NOTSPACE:block} line=%{INT:line} from=%{IP:source_ip}$'
  apply_on: message
statics:
  - meta: log_type
    value: soak
  - meta: block
    expression: evt.Parsed.block
  - meta: line
    expression: evt.Parsed.line
  - meta: source_ip
    expression: evt.Parsed.source_ip
";

/// What is asked for.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    /// Lines a second.
    rate: usize,
    rotations: usize,
    kills: usize,
    /// Files that are written.
    logs: usize,
    /// How long it is written.
    seconds: u64,
    /// Most lines between a copy and its truncation.
    between: usize,
    /// So many days of ordinary load instead of all that.
    days: u64,
}

impl Plan {
    /// From the arguments; `None` when a test is asked for that is not this one.
    fn from_args() -> Option<Self> {
        let mut plan = Self { seed: 1, rate: 3000, rotations: 24, kills: 4, logs: 3, seconds: 12, between: 0, days: 0 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|text| text.parse::<u64>().ok());
            match arg.as_str() {
                "--seed" => plan.seed = number()?,
                "--rate" => plan.rate = number()? as usize,
                "--rotations" => plan.rotations = number()? as usize,
                "--kills" => plan.kills = number()? as usize,
                "--logs" => plan.logs = number()? as usize,
                "--seconds" => plan.seconds = number()?,
                "--between" => plan.between = number()? as usize,
                "--days" => plan.days = number()?,
                // What the test harness of the compiler understands, with a value of its own.
                "--test-threads" | "--skip" | "--format" | "--color" => drop(args.next()),
                "--list" => return None,
                other if other.starts_with('-') => {}
                filter if "soak".contains(filter) => {}
                _ => return None,
            }
        }
        Some(plan)
    }
}

/// What the writer does next.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Rotate(usize, Rotation),
    /// Kill it, rotate this often while it is away, start it.
    Kill(usize),
}

fn main() {
    let Some(plan) = Plan::from_args() else { return };
    println!("soak: {plan:?}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    if plan.days > 0 {
        return days::run(folder.path(), plan.days, plan.rate as u64);
    }
    let mut soak = Soak::new(plan, folder.path());
    soak.run();
    soak.account();
}

struct Soak {
    plan: Plan,
    random: StdRng,
    logs: Vec<Log>,
    cordon: Cordon,
    rotations: BTreeMap<&'static str, usize>,
    kills: usize,
}

impl Soak {
    fn new(plan: Plan, folder: &Path) -> Self {
        let random = StdRng::seed_from_u64(plan.seed);
        fs::create_dir(folder.join("log")).expect("a writable folder");
        let logs = (0..plan.logs).map(|number| Log::new(&folder.join("log"), number, BLOCK)).collect();
        let cordon = Cordon::install(folder);
        Self { plan, random, logs, cordon, rotations: BTreeMap::new(), kills: 0 }
    }

    /// Rotations and kills in a random order, at random moments: the number of the burst before which each happens.
    fn schedule(&mut self) -> Vec<(usize, Deed)> {
        let bursts = self.plan.seconds as usize * self.plan.rate / BURST;
        let mut deeds = Vec::new();
        let mut rotations = self.plan.rotations;
        for _ in 0..self.plan.kills {
            let away = if self.random.random_bool(0.5) { self.random.random_range(0..4).min(rotations) } else { 0 };
            rotations -= away;
            deeds.push((self.random.random_range(0..bursts), Deed::Kill(away)));
        }
        for _ in 0..rotations {
            let deed = Deed::Rotate(self.random.random_range(0..self.plan.logs), Rotation::any(&mut self.random));
            deeds.push((self.random.random_range(0..bursts), deed));
        }
        deeds.sort_by_key(|(burst, _)| *burst);
        deeds
    }

    fn run(&mut self) {
        let deeds = self.schedule();
        self.cordon.start();
        self.cordon.wait();
        let bursts = self.plan.seconds as usize * self.plan.rate / BURST;
        let mut deeds = deeds.into_iter().peekable();
        let started = Instant::now();
        let mut paused = Duration::ZERO;
        for burst in 0..bursts {
            while let Some((_, deed)) = deeds.next_if(|(at, _)| *at <= burst) {
                let before = Instant::now();
                self.act(deed);
                paused += before.elapsed();
            }
            let log = self.random.random_range(0..self.logs.len());
            self.logs[log].write(BURST);
            let due = Duration::from_secs_f64((burst * BURST) as f64 / self.plan.rate as f64) + paused;
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        for log in &mut self.logs {
            log.complete();
        }
        println!("written: {} lines in {:.1} s", self.lines(), started.elapsed().as_secs_f64());
        println!("rotations: {:?}, kills: {}", self.rotations, self.kills);
        let destroyed: usize = self.logs.iter().map(|log| log.destroyed).sum();
        println!("lines between copy and truncation, which are not counted: {destroyed}");
    }

    fn act(&mut self, deed: Deed) {
        match deed {
            Deed::Rotate(log, rotation) => self.rotate(log, rotation),
            Deed::Kill(away) => {
                self.cordon.note("kill");
                self.cordon.kill();
                self.kills += 1;
                for _ in 0..away {
                    let log = self.random.random_range(0..self.logs.len());
                    self.logs[log].write(BURST);
                    let rotation = Rotation::any(&mut self.random);
                    self.rotate(log, rotation);
                    self.logs[log].write(BURST);
                }
                self.cordon.start();
                // Half of them are killed again before they are ready, if the next kill comes soon.
                if self.random.random_bool(0.5) {
                    self.cordon.wait();
                }
            }
        }
    }

    fn rotate(&mut self, log: usize, rotation: Rotation) {
        self.cordon.note(&format!("log{log} {}", rotation.name()));
        *self.rotations.entry(rotation.name()).or_default() += 1;
        self.logs[log].rotate(rotation, self.plan.between, &mut self.random);
    }

    fn lines(&self) -> usize {
        self.logs.iter().map(|log| log.written).sum()
    }

    /// Waits until the account is complete, or does not change any more, and settles it.
    fn account(&mut self) {
        self.cordon.wait();
        let blocks: BTreeSet<String> = self.logs.iter().flat_map(Log::blocks).collect();
        let mut account = Account::default();
        let mut changed = Instant::now();
        while !account.is_settled(&blocks) && changed.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.cordon.account();
            if now != account {
                account = now;
                changed = Instant::now();
            }
        }
        let lost: Vec<&String> = blocks.iter().filter(|block| !account.different.contains_key(*block)).collect();
        let twice: Vec<&String> = blocks.iter().filter(|block| account.all.get(*block) != Some(&1)).collect();
        let strange: Vec<&String> = account.all.keys().filter(|block| !blocks.contains(*block)).collect();
        println!(
            "blocks of {BLOCK} lines: {}; with a line lost: {}; with a line missing or counted twice: {}; open buckets: {}",
            blocks.len(),
            lost.len(),
            twice.len(),
            account.open
        );
        let settled = account.is_settled(&blocks) && strange.is_empty();
        if !settled {
            let kept = self.cordon.keep();
            println!("lost in {lost:?}, twice in {twice:?}, unknown {strange:?}");
            self.cordon.kill();
            panic!("lines were lost or counted twice; what cordon said is in {}", kept.display());
        }
        self.cordon.stop();
        println!("soak: every line counted once");
    }
}

/// What cordon says it has counted.
#[derive(Debug, Default, PartialEq)]
struct Account {
    /// By block: how often all its lines were there.
    all: BTreeMap<String, usize>,
    /// By block: how often all its different lines were there.
    different: BTreeMap<String, usize>,
    /// Buckets that wait for lines.
    open: u64,
}

impl Account {
    fn is_settled(&self, blocks: &BTreeSet<String>) -> bool {
        let once = |found: &BTreeMap<String, usize>| {
            found.len() == blocks.len() && blocks.iter().all(|block| found.get(block) == Some(&1))
        };
        once(&self.all) && once(&self.different) && self.open == 0
    }
}

/// The binary, and where it lives.
struct Cordon {
    folder: PathBuf,
    child: Option<Child>,
}

impl Cordon {
    fn install(folder: &Path) -> Self {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("a writable folder");
            fs::write(path, text).expect("room on the disk");
        };
        let scenario = |name: &str, more: &str| {
            format!(
                "type: leaky\nname: soak/{name}\ndescription: a block\nfilter: evt.Meta.log_type == 'soak'\n\
                 groupby: evt.Meta.block\n{more}capacity: {}\nleakspeed: 1000h\ncache_size: 1\nlabels: {{}}\n",
                BLOCK - 1
            )
        };
        let place = folder.display();
        write("rules/parsers/s01-parse/soak.yaml", PARSER);
        write("rules/scenarios/all.yaml", &scenario("all", ""));
        write("rules/scenarios/different.yaml", &scenario("different", "distinct: evt.Meta.line\n"));
        write("acquisition.yaml", &format!("filename: {place}/log/*.log\nlabels: {{type: syslog}}\n"));
        write(
            "cordon.yaml",
            &format!(
                "state: {place}/state\napi: {{listen: off}}\nrules: {{folders: [{place}/rules]}}\n\
                 acquisition: {{discover: false, paths: [{place}/acquisition.yaml]}}\n"
            ),
        );
        Self { folder: folder.to_path_buf(), child: None }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.args(args).arg("--config").arg(self.folder.join("cordon.yaml")).env("CORDON_LOG", "agent=debug,info");
        command.stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("said")).expect("a file");
        let child = self.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("the binary was built"));
    }

    /// Waits until it answers.
    fn wait(&mut self) {
        let started = Instant::now();
        while !matches!(self.ask(&["status"]).status.code(), Some(0 | 3)) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none() && started.elapsed() < PATIENCE, "it does not come up: {ended:?}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
        }
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is our child");
        let status = child.wait().expect("it is our child");
        assert!(status.success(), "it ended with {status}\n{}", self.said());
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary was built")
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.ask(&[args, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn account(&self) -> Account {
        let mut account = Account::default();
        for alert in self.json(&["alerts", "list", "--limit", "0"]).as_array().into_iter().flatten() {
            let key = alert["cordon"]["key"].as_str().unwrap_or_default().to_owned();
            let counts = match alert["scenario"].as_str() {
                Some("soak/all") => &mut account.all,
                Some("soak/different") => &mut account.different,
                _ => continue,
            };
            *counts.entry(key).or_default() += 1;
        }
        account.open = self.json(&["status"])["engine"]["buckets"].as_u64().unwrap_or(u64::MAX);
        account
    }

    /// Adds what is done to it, and when, to what it says itself.
    fn note(&self, deed: &str) {
        let mut log = fs::File::options().append(true).open(self.folder.join("said")).expect("a file");
        writeln!(log, "{:.6} SOAK {deed}", jiff::Timestamp::now()).expect("room on the disk");
    }

    fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("said")).unwrap_or_default()
    }

    /// Puts what is needed to find a mistake where it stays.
    fn keep(&self) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("cordon-soak-{}", std::process::id()));
        let copied = Command::new("cp").arg("-r").arg(&self.folder).arg(&kept).status();
        assert!(copied.is_ok_and(|status| status.success()), "{}", self.said());
        kept
    }
}

impl Drop for Cordon {
    fn drop(&mut self) {
        self.kill();
    }
}
