//! `cordon bench enforce`: what enforcement in the kernel costs and how soon it holds, in a network of its own.
//!
//! Loads and single bans go through the bouncer itself; what a packet feels is measured with packets. Everything is
//! checked by look-ups before a figure counts.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use api::{Feed, FeedError, Update};
use bouncers::config::Config;
use bouncers::engine::desired::Key;
use bouncers::engine::plan::{Change, Placed, Placement, Plan};
use bouncers::engine::run::{Wiring, run as enforce};
use bouncers::engine::{Bouncer, Extent, Never, Status, Wanted, host, snapshot};
use bouncers::metrics::Metrics;
use bouncers::nftables::Nftables;
use jiff::{SignedDuration, Timestamp};
use model::{Decision, Delta, Scope};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::args::{BenchEnforce, Format, Global};
use crate::bench::Flight;
use crate::lab;
use crate::output;
use crate::sandbox::{self, Subject};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Single bans that are measured.
const SINGLE: u32 = 200;
/// The namespace of who sends packets.
const FAR: &str = "cordon-bench-far";

/// One figure, and what it must be.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// What is asked for; none where a figure only stands for comparison.
    limit: Option<f64>,
}

/// Prints figures as they come.
struct Report {
    figures: Vec<Figure>,
    human: bool,
}

impl Report {
    fn say(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        limit: Option<f64>,
    ) -> anyhow::Result<()> {
        let what = what.into();
        if self.human {
            let verdict = match limit {
                Some(limit) if value <= limit => format!("  (at most {limit} {unit})"),
                Some(limit) => format!("  MISSED: at most {limit} {unit}"),
                None => String::new(),
            };
            output::line(&format!("  {what}: {value:.3} {unit}{verdict}"))?;
        }
        self.figures.push(Figure { what, value, unit, limit });
        Ok(())
    }

    fn spread(&mut self, what: &str, mut times: Vec<Duration>, limit: f64) -> anyhow::Result<()> {
        times.sort();
        let at = |share: f64| {
            let place = (share * times.len() as f64).ceil() as usize;
            times.get(place.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        let (half, most, all) = (at(0.5), at(0.99), at(1.0));
        self.say(format!("{what}, p50"), half, "ms", None)?;
        self.say(format!("{what}, p99"), most, "ms", Some(limit))?;
        self.say(format!("{what}, longest"), all, "ms", None)
    }
}

/// Measures everything.
pub(crate) fn run(args: &BenchEnforce, global: &Global) -> anyhow::Result<()> {
    if !sandbox::is_inside() {
        return sandbox::enter();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if args.only_memory {
        return runtime.block_on(hold(args));
    }
    lab::run("ip", &["link", "set", "lo", "up"], "")?;
    let mut report = Report { figures: Vec::new(), human: global.output != Format::Json };
    let probe = Nftables::probe()?;
    if report.human {
        output::line(&format!("enforcement in the kernel ({probe:?})"))?;
    }
    runtime.block_on(loads(args, &mut report))?;
    runtime.block_on(sustained(&mut report))?;
    memory(args, &mut report)?;
    boot(&mut report, global)?;
    runtime.block_on(flushed(args, &mut report))?;
    runtime.block_on(packets(&mut report))?;
    other_process(&mut report, global)?;
    next_to_crowdsec(&mut report, global)?;
    if report.human { Ok(()) } else { output::json(&report.figures) }
}

fn host_number(number: u32) -> Ipv4Addr {
    // spread over a quarter of all addresses, short of loopback
    Ipv4Addr::from_bits(0x0b00_0000 + number * 1049)
}

/// Prefixes of 24 to 28 bits, apart from each other.
fn prefix_number(number: u32) -> String {
    let bits = 24 + number % 5;
    format!("{}/{bits}", Ipv4Addr::from_bits(0xc600_0000 + number * 512))
}

fn decision(value: impl Into<String>) -> Decision {
    let value = value.into();
    let now = Timestamp::now();
    Decision {
        id: 0,
        uuid: value.clone(),
        origin: "cordon".into(),
        remediation: "ban".into(),
        scope: if value.contains('/') { Scope::Range } else { Scope::Ip },
        value: value.as_str().into(),
        scenario: "bench/enforce".into(),
        created_at: now,
        until: now + SignedDuration::from_hours(4),
        simulated: false,
        alert_id: 0,
    }
}

fn key(value: String) -> Key {
    Key::of(&decision(value), 64).expect("an address or a prefix")
}

fn placement(hosts: u32, prefixes: u32) -> Placement {
    let until = Timestamp::now() + SignedDuration::from_hours(4);
    let keys = (0..hosts).map(|n| host_number(n).to_string()).chain((0..prefixes).map(prefix_number));
    keys.map(|value| (key(value), Placed { until, pieces: None })).collect()
}

fn addition(value: String) -> Plan {
    let after = Placed { until: Timestamp::now() + SignedDuration::from_hours(1), pieces: None };
    Plan { changes: vec![Change { key: key(value), before: None, after: Some(after), why: None }] }
}

async fn load(table: &mut Nftables, wanted: &Placement) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let never = Never::default();
    table.rebuild(Wanted::of(wanted, &never), Extent::Exactly, Timestamp::now()).await?;
    Ok(start.elapsed())
}

async fn verified(table: &mut Nftables, wanted: &Placement) -> anyhow::Result<Duration> {
    let keys = wanted.iter().map(|(key, placed)| (key.clone(), placed.clone())).collect();
    let start = Instant::now();
    let check = table.check(keys).await?;
    ensure!(check.intact && check.missing == 0, "not everything is in place: {check:?}");
    Ok(start.elapsed())
}

async fn single(table: &mut Nftables, value: impl Fn(u32) -> String) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..SINGLE {
        let plan = addition(value(number));
        let start = Instant::now();
        table.apply(&plan, Timestamp::now()).await?;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(times)
}

async fn loads(args: &BenchEnforce, report: &mut Report) -> anyhow::Result<()> {
    let mut table = Nftables::open(Config::default().nftables())?;
    let wanted = placement(100_000, 0);
    let mut best = Duration::MAX;
    for _ in 0..3 {
        table.teardown().await?;
        best = best.min(load(&mut table, &wanted).await?);
    }
    verified(&mut table, &wanted).await?;
    report.say("100,000 hosts loaded, best of 3", best.as_secs_f64(), "s", Some(0.2))?;

    let wanted = placement(0, args.prefixes);
    table.teardown().await?;
    let took = load(&mut table, &wanted).await?;
    verified(&mut table, &wanted).await?;
    report.say(format!("{} prefixes loaded", args.prefixes), took.as_secs_f64(), "s", None)?;
    let aside = |n: u32| format!("{}/26", Ipv4Addr::from_bits(0xc600_0000 + n * 2048 + 384));
    report.spread(&format!("one ban into {} prefixes", args.prefixes), single(&mut table, aside).await?, 30.0)?;

    let wanted = placement(args.hosts, args.prefixes);
    table.teardown().await?;
    let what = format!("{} hosts and {} prefixes", args.hosts, args.prefixes);
    let took = load(&mut table, &wanted).await?;
    report.say(format!("{what} loaded"), took.as_secs_f64(), "s", Some(4.0))?;
    report.say(format!("{what} verified one by one"), verified(&mut table, &wanted).await?.as_secs_f64(), "s", None)?;
    let aside = |n: u32| Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
    report.spread(&format!("one ban into {} hosts", args.hosts), single(&mut table, aside).await?, 1.0)?;
    let start = Instant::now();
    lab::run("nft", &["add table inet other; add set inet other s { type ipv4_addr; }"], "")?;
    lab::run("nft", &["add element inet other s { 192.0.2.1 }"], "")?;
    report.say("somebody else's `nft add element` beside it", start.elapsed().as_secs_f64() / 2.0, "s", Some(0.5))?;
    let took = load(&mut table, &wanted).await?;
    verified(&mut table, &wanted).await?;
    report.say(format!("{what} replaced by as many"), took.as_secs_f64(), "s", Some(4.0))?;
    table.teardown().await?;
    Ok(())
}

async fn sustained(report: &mut Report) -> anyhow::Result<()> {
    const EACH: Duration = Duration::from_millis(1);
    const BANS: u32 = 5000;
    let mut table = Nftables::open(Config::default().nftables())?;
    load(&mut table, &placement(100_000, 0)).await?;
    let mut times = Vec::new();
    let begun = Instant::now();
    for number in 0..BANS {
        let due = begun + EACH * number;
        tokio::time::sleep_until(due.into()).await;
        let plan = addition(Ipv4Addr::from_bits(0x0a00_0000 + number).to_string());
        table.apply(&plan, Timestamp::now()).await?;
        times.push(due.elapsed());
    }
    let rate = f64::from(BANS) / begun.elapsed().as_secs_f64();
    report.say("bans a second, one at a time, for five seconds", rate, "/s", None)?;
    report.spread("a ban among 1,000 a second, from when it is due", times, 20.0)?;
    table.teardown().await?;
    Ok(())
}

struct Told(mpsc::Receiver<Update>);

impl Feed for Told {
    async fn next(&mut self) -> Result<Update, FeedError> {
        self.0.recv().await.ok_or(FeedError::Closed)
    }
}

/// The whole engine, in this process.
struct Engine {
    feed: mpsc::Sender<Update>,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), bouncers::BouncerError>>,
}

impl Engine {
    fn start() -> anyhow::Result<Self> {
        let limits =
            Config { max_entries: 2_000_000, max_new_per_minute: 10_000_000, max_share: 100, ..Config::default() };
        let config = Config { spare_private: false, ..limits };
        let (feed, told) = mpsc::channel(16);
        let (shown, status) = watch::channel(Status::new(config.mode));
        let (stop, stopped) = oneshot::channel::<()>();
        let (_, allow) = watch::channel(Arc::default());
        let wiring = Wiring::new(allow, shown, Metrics::default(), host::own_addresses);
        let table = Nftables::open(config.nftables())?;
        let task = tokio::spawn(enforce(Told(told), table, config, wiring, async { drop(stopped.await) }));
        Ok(Self { feed, status, stop, task })
    }

    async fn tell(&self, update: Update) -> anyhow::Result<()> {
        self.feed.send(update).await.context("the engine has ended")
    }

    async fn until(&mut self, reached: impl FnMut(&Status) -> bool) -> anyhow::Result<()> {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(reached));
        reached.await.context("it takes too long")?.context("the engine has ended")?;
        Ok(())
    }

    async fn end(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.task.await??;
        lab::run("nft", &["delete table inet cordon"], "")
    }
}

fn delta(values: impl IntoIterator<Item = String>) -> Update {
    Update::Delta(Delta { add: values.into_iter().map(decision).collect(), remove: Vec::new() })
}

/// In a process of its own: the engine is told everything and says what memory that took.
async fn hold(args: &BenchEnforce) -> anyhow::Result<()> {
    let mut engine = Engine::start()?;
    let total = (args.hosts + args.prefixes) as usize;
    engine.tell(Update::Snapshot(Vec::new())).await?;
    let values = (0..args.hosts).map(|n| host_number(n).to_string()).chain((0..args.prefixes).map(prefix_number));
    let mut values = values.peekable();
    while values.peek().is_some() {
        engine.tell(delta(values.by_ref().take(10_000))).await?;
    }
    engine.until(|status| status.applied == total).await?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no memory figure")?;
    output::line(peak.trim().trim_end_matches(" kB"))?;
    engine.end().await
}

fn memory(args: &BenchEnforce, report: &mut Report) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find the program file of cordon")?;
    let (hosts, prefixes) = (args.hosts.to_string(), args.prefixes.to_string());
    let output = Command::new(program)
        .args(["bench", "enforce", "--only-memory", "--hosts", &hosts, "--prefixes", &prefixes])
        .stderr(Stdio::inherit())
        .output()?;
    let peak: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("the engine did not get there")?;
    report.say("the bouncer's memory with all of them, at its highest", peak / 1024.0, "MiB", Some(250.0))
}

fn boot(report: &mut Report, global: &Global) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut desired = bouncers::engine::desired::Desired::new(64, 200_000);
    let add = (0..100_000).map(|n| decision(host_number(n).to_string())).collect();
    desired.apply(&Delta { add, remove: Vec::new() }, Timestamp::now());
    let file = snapshot::encode("nftables", &desired, &Never::default());
    snapshot::write(&folder.path().join("bouncer.snapshot"), &file)?;
    let config = folder.path().join("cordon.yaml");
    fs::write(&config, format!("state: {}\nenforcement:\n  mode: enforce\n", folder.path().display()))?;
    let program = std::env::current_exe().context("cannot find the program file of cordon")?;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        // what is there already would make it easier
        let _ = lab::run("nft", &["delete table inet cordon"], "");
        let start = Instant::now();
        let level = global.log_level.as_deref().unwrap_or("warn");
        let status = Command::new(&program)
            .args(["bouncer", "restore", "--log-level", level, "--config"])
            .arg(&config)
            .status()?;
        ensure!(status.success(), "`cordon bouncer restore` failed");
        best = best.min(start.elapsed());
    }
    let table = Nftables::open(Config::default().nftables())?;
    for number in [0, 50_000, 99_999] {
        let found = table.enforced_now(host_number(number).into())?;
        ensure!(found == bouncers::nftables::Enforced::Blocked, "{} is {found:?}", host_number(number));
    }
    lab::run("nft", &["delete table inet cordon"], "")?;
    report.say(
        "boot with 100,000 bans, from exec until it has ended, best of 5",
        best.as_secs_f64() * 1e3,
        "ms",
        Some(200.0),
    )
}

async fn flushed(args: &BenchEnforce, report: &mut Report) -> anyhow::Result<()> {
    let mut engine = Engine::start()?;
    let total = 100_000;
    engine.tell(Update::Snapshot((0..total).map(|n| decision(host_number(n).to_string())).collect())).await?;
    engine.until(|status| status.applied == total as usize).await?;
    let mut times = Vec::new();
    for heals in 1..=u64::from(args.flushes) {
        // somebody is banned all the while
        let number = heals as u32 * 50;
        let bans = (number..number + 50).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n).to_string());
        engine.tell(delta(bans)).await?;
        let start = Instant::now();
        tokio::task::spawn_blocking(|| lab::run("nft", &["flush ruleset"], "")).await??;
        engine.until(|status| status.heals >= heals).await?;
        times.push(start.elapsed());
    }
    let counted = engine.status.borrow().heals;
    ensure!(counted == u64::from(args.flushes), "{} flushes, {counted} heals counted", args.flushes);
    let last = Ipv4Addr::from_bits(0x0a00_0000 + args.flushes * 50 + 49);
    engine.until(|status| status.applied == status.wanted).await?;
    let table = Nftables::open(Config::default().nftables())?;
    ensure!(table.enforced_now(last.into())? == bouncers::nftables::Enforced::Blocked, "{last} is not blocked");
    report.spread(&format!("flushed {} times with 100,000 hosts, healed", args.flushes), times, 1000.0)?;
    engine.end().await
}

/// Somebody far away with many addresses of 10.99.0.0/16, who sends to us, 10.99.0.1.
fn far(addresses: u32) -> anyhow::Result<(lab::Host, UdpSocket)> {
    lab::run("ip", &["netns", "add", FAR], "")?;
    let host = lab::Host::named(FAR);
    let batch = format!(
        "link add near type veth peer name eth0 netns {FAR}\naddress add 10.99.0.1/16 dev near\nlink set near up\n"
    );
    lab::run("ip", &["-batch", "-"], &batch)?;
    let own: Vec<String> = (0..addresses).map(|n| format!("address add {}/16 dev eth0\n", sender(n))).collect();
    let own = own.concat();
    lab::run("ip", &["-netns", FAR, "-batch", "-"], &format!("link set lo up\nlink set eth0 up\n{own}"))?;
    let receiver = UdpSocket::bind(("10.99.0.1", 9009))?;
    receiver.set_nonblocking(true)?;
    Ok((host, receiver))
}

fn sender(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a63_0100 + number)
}

/// How long after `ban` the first datagram from `ip` is lost.
fn until_dropped(
    host: &lab::Host,
    receiver: &UdpSocket,
    ip: Ipv4Addr,
    ban: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    const LOST: usize = 5;
    let socket = host.inside(|| UdpSocket::bind((IpAddr::V4(ip), 0)))??;
    socket.connect(("10.99.0.1", 9009))?;
    let mut flight = Flight::default();
    for _ in 0..LOST {
        flight.send(&socket)?;
        flight.land(receiver);
    }
    let start = Instant::now();
    ban()?;
    loop {
        flight.send(&socket)?;
        sleep(Duration::from_micros(50));
        flight.land(receiver);
        if let Some(dropped) = flight.first_missing(LOST) {
            return Ok(dropped.saturating_duration_since(start));
        }
        ensure!(start.elapsed() < PATIENCE, "{ip} still gets through");
    }
}

async fn packets(report: &mut Report) -> anyhow::Result<()> {
    let mut engine = Engine::start()?;
    engine.tell(Update::Snapshot((0..100_000).map(|n| decision(host_number(n).to_string())).collect())).await?;
    engine.until(|status| status.applied == 100_000).await?;
    let (host, receiver) = far(SINGLE)?;
    let feed = engine.feed.clone();
    let times = tokio::task::spawn_blocking(move || {
        let one = |n| {
            let ban = || feed.blocking_send(delta([sender(n).to_string()])).context("the engine has ended");
            until_dropped(&host, &receiver, sender(n), ban)
        };
        (0..SINGLE).map(one).collect::<anyhow::Result<Vec<_>>>()
    });
    let times = times.await??;
    report.spread("from the decision to the first dropped packet, same process", times, 20.0)?;
    lab::run("ip", &["netns", "delete", FAR], "")?;
    engine.end().await
}

/// A child that ends with us.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cordon that decides and enforces nothing, and the file with a key to follow it by.
fn api(folder: &Path, global: &Global) -> anyhow::Result<(Subject, u16, PathBuf, String)> {
    let log = folder.join("empty.log");
    fs::write(&log, "")?;
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let (subject, _) = Subject::start_listening(folder, &log, port, global)?;
    let said = subject.ask(&["bouncers", "add", "bench", "-o", "raw"])?;
    let key = said.trim().to_owned();
    let file = folder.join("key");
    fs::write(&file, &key)?;
    Ok((subject, port, file, key))
}

fn other_process(report: &mut Report, global: &Global) -> anyhow::Result<()> {
    const BANS: u32 = 100;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (subject, port, key, _) = api(folder.path(), global)?;
    let program = std::env::current_exe().context("cannot find the program file of cordon")?;
    let state = folder.path().join("follower");
    fs::create_dir(&state)?;
    let config = folder.path().join("follower.yaml");
    let text = "enforcement:\n  mode: enforce\n  private_ranges: allow\n";
    fs::write(&config, format!("state: {}\n{text}", state.display()))?;
    let follower = Command::new(program)
        .args(["bouncer", "--url", &format!("http://127.0.0.1:{port}/"), "--log-level", "error", "--key-file"])
        .arg(&key)
        .arg("--config")
        .arg(&config)
        .spawn()?;
    let _follower = Ends(follower);
    let (host, receiver) = far(BANS + 1)?;
    // the first one shows that it follows
    let ban = |n: u32| subject.ask(&["ban", &sender(n).to_string(), "--for", "1h"]).map(|_| ());
    sleep(Duration::from_secs(2));
    until_dropped(&host, &receiver, sender(BANS), || ban(BANS))?;
    let times: anyhow::Result<Vec<Duration>> =
        (0..BANS).map(|n| until_dropped(&host, &receiver, sender(n), || ban(n))).collect();
    // the datagrams pause while the command runs, so the figure is never smaller than what that takes
    report.spread(
        "from the command `cordon ban` to the first dropped packet, other process over the stream",
        times?,
        100.0,
    )?;
    lab::run("ip", &["netns", "delete", FAR], "")?;
    lab::run("nft", &["delete table inet cordon"], "")
}

/// The same 100,000 decisions through our bouncer and through CrowdSec's, where that is unpacked beside the build.
fn next_to_crowdsec(report: &mut Report, global: &Global) -> anyhow::Result<()> {
    const DECISIONS: u32 = 100_000;
    let program = std::env::current_exe().context("cannot find the program file of cordon")?;
    let build = program.ancestors().nth(2).context("no build folder")?;
    let theirs = build.join("clients/usr/bin/crowdsec-firewall-bouncer");
    if !theirs.exists() {
        return output::line("  CrowdSec's firewall bouncer is not there: run `.ci/setup clients`");
    }
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (subject, port, key_file, key) = api(folder.path(), global)?;
    let list = folder.path().join("bans");
    let values: Vec<String> = (0..DECISIONS).map(|n| host_number(n).to_string()).collect();
    fs::write(&list, values.join("\n"))?;
    let list = list.to_string_lossy();
    subject.ask(&["decisions", "import", "--input", &list, "--format", "values", "--duration", "24h"])?;
    let url = format!("http://127.0.0.1:{port}/");

    let state = folder.path().join("follower");
    fs::create_dir(&state)?;
    let ours = folder.path().join("follower.yaml");
    fs::write(
        &ours,
        format!("state: {}\nenforcement:\n  mode: enforce\n  max_new_per_minute: 1000000\n", state.display()),
    )?;
    let mut command = Command::new(&program);
    command
        .args(["bouncer", "--url", &url, "--log-level", "error", "--key-file"])
        .arg(&key_file)
        .arg("--config")
        .arg(&ours);
    measure(report, "cordon", command, "inet cordon ban4", &values)?;
    lab::run("nft", &["delete table inet cordon"], "")?;

    let config = folder.path().join("theirs.yaml");
    fs::write(
        &config,
        format!(
            "mode: nftables\nupdate_frequency: 1s\ndaemonize: false\nlog_mode: stdout\nlog_level: error\napi_url: {url}\n\
             api_key: {key}\nsupported_decisions_types: [ban]\ndeny_action: DROP\nnftables:\n  \
             ipv4: {{enabled: true, set-only: false, table: crowdsec, chain: crowdsec-chain}}\n  \
             ipv6: {{enabled: true, set-only: false, table: crowdsec6, chain: crowdsec6-chain}}\n\
             prometheus: {{enabled: false}}\n"
        ),
    )?;
    let mut command = Command::new(&theirs);
    command.arg("-c").arg(&config);
    measure(report, "crowdsec-firewall-bouncer", command, "ip crowdsec crowdsec-blacklists", &values)
}

/// From the start of `command` until the first and the last of `values` are in `set`, and its memory then.
fn measure(report: &mut Report, who: &str, mut command: Command, set: &str, values: &[String]) -> anyhow::Result<()> {
    let start = Instant::now();
    let child = Ends(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    let all =
        format!("{{ {} }}", values.iter().step_by(1000).chain(values.last()).cloned().collect::<Vec<_>>().join(", "));
    let request = format!("get element {set} {all}");
    while lab::run("nft", &[&request], "").is_err() {
        ensure!(start.elapsed() < PATIENCE, "{who} does not have all of them after {PATIENCE:?}");
        sleep(Duration::from_millis(50));
    }
    report.say(
        format!("{who}: 100,000 decisions of an API in place, from its start"),
        start.elapsed().as_secs_f64(),
        "s",
        None,
    )?;
    let status = fs::read_to_string(format!("/proc/{}/status", child.0.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no memory figure")?;
    let peak: f64 = peak.trim().trim_end_matches(" kB").parse().context("no memory figure")?;
    report.say(format!("{who}: memory at its highest"), peak / 1024.0, "MiB", None)?;
    let usage = fs::read_to_string(format!("/proc/{}/stat", child.0.id()))?;
    let fields = usage.rsplit_once(") ").map(|(_, fields)| fields.split(' ')).context("no figure of the processor")?;
    // its own time, and that of the programs that it has run
    let ticks: u64 = fields.skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let processor = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    report.say(format!("{who}: processor time"), processor, "s", None)
}
