//! `cordon bench api`: how the local API bears a million decisions, many agents, many bouncers.
//!
//! The server is a process of its own, with a state folder of its own, asked over loopback by a client that does as
//! little as it can, so that the figures are the server's.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use model::Alert;
use model::alert::{DecisionBody, Source};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use crate::args::{Format, Global};
use crate::output;
use crate::remote::Remote;

/// How many decisions one alert brings.
const BATCH: usize = 10_000;
/// How long each load lasts.
const LASTS: Duration = Duration::from_secs(5);
/// How many connections ask at once.
const CONNECTIONS: usize = 8;
/// How many alerts an agent sends at once.
const ALERTS: usize = 50;
/// How many changes are told to followers, ten a second.
const CHANGES: usize = 50;
/// How long a start may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was measured; times in milliseconds.
#[derive(Debug, Default, Serialize)]
struct Figures {
    decisions: usize,
    import_per_second: f64,
    resident_mib: f64,
    peak_mib: f64,
    full_pull_100k_ms: f64,
    full_pull_ms: f64,
    full_pull_mib: f64,
    delta_pull_ms: f64,
    queries_per_second: f64,
    query_p50_ms: f64,
    query_p99_ms: f64,
    alerts_per_second: f64,
    followers: usize,
    push_p50_ms: f64,
    push_p99_ms: f64,
    restart_ms: f64,
    resident_after_restart_mib: f64,
}

/// Measures with `decisions` in force and `followers` of the event stream.
pub(crate) fn run(decisions: usize, followers: usize, global: &Global) -> anyhow::Result<()> {
    // each follower is an open file, here and in the server
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (mut server, _) = Server::start(folder.path(), global)?;
    let mut figures = Figures { decisions, followers, ..Figures::default() };

    let some = decisions.min(100_000);
    let began = Instant::now();
    import(&server, 0, some)?;
    let first = began.elapsed();
    figures.full_pull_100k_ms = (0..5).map(|_| server.pull(true)).try_fold(f64::MAX, fastest)?;
    let began = Instant::now();
    import(&server, some, decisions)?;
    figures.import_per_second = decisions as f64 / (first + began.elapsed()).as_secs_f64();
    (figures.resident_mib, _) = server.memory()?;
    figures.full_pull_ms = (0..3).map(|_| server.pull(true)).try_fold(f64::MAX, fastest)?;
    figures.full_pull_mib = server.pull(true)?.1 as f64 / 1_048_576.0;
    figures.delta_pull_ms = (0..20_u32).map(|round| delta(&server, round)).try_fold(f64::MAX, fastest)?;
    (figures.queries_per_second, figures.query_p50_ms, figures.query_p99_ms) = queries(&server, decisions)?;
    figures.alerts_per_second = alerts(&server)?;
    (figures.push_p50_ms, figures.push_p99_ms) = follow(&server, followers)?;
    (_, figures.peak_mib) = server.memory()?;
    server.stop()?;
    let (server, start) = Server::start(folder.path(), global)?;
    figures.restart_ms = millis(start);
    (figures.resident_after_restart_mib, _) = server.memory()?;
    report(&figures, global)
}

fn report(figures: &Figures, global: &Global) -> anyhow::Result<()> {
    if global.output != Format::Human {
        return output::json(figures);
    }
    let Figures { decisions, followers, .. } = figures;
    for line in [
        format!("{decisions} decisions in force"),
        format!("  import                 {:.0}/s", figures.import_per_second),
        format!("  resident               {:.0} MiB, at most {:.0} MiB", figures.resident_mib, figures.peak_mib),
        format!("  full pull of 100000    {:.0} ms", figures.full_pull_100k_ms),
        format!("  full pull of all       {:.0} ms for {:.0} MiB", figures.full_pull_ms, figures.full_pull_mib),
        format!("  delta pull, 10 changes {:.2} ms", figures.delta_pull_ms),
        format!(
            "  query by address       {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            figures.queries_per_second, figures.query_p50_ms, figures.query_p99_ms
        ),
        format!("  alerts, durable        {:.0}/s", figures.alerts_per_second),
        format!(
            "  push to {followers} followers  p50 {:.1} ms, p99 {:.1} ms from write to the last",
            figures.push_p50_ms, figures.push_p99_ms
        ),
        format!(
            "  restart to serving     {:.0} ms, then {:.0} MiB",
            figures.restart_ms, figures.resident_after_restart_mib
        ),
    ] {
        output::line(&line)?;
    }
    Ok(())
}

fn fastest(best: f64, one: anyhow::Result<(Duration, usize)>) -> anyhow::Result<f64> {
    Ok(best.min(millis(one?.0)))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A cordon that reads nothing and enforces nothing.
struct Server {
    child: Child,
    address: SocketAddr,
    global: Global,
    key: String,
}

impl Server {
    /// Starts one; how long it took until it answered a question about decisions.
    fn start(folder: &Path, global: &Global) -> anyhow::Result<(Self, Duration)> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config: PathBuf = folder.join("cordon.yaml");
        let text = format!(
            "state: {}/state\napi: {{ listen: '{address}', requests_per_second: 10000000 }}\nacquisition: {{ discover: false }}\nenforcement: {{ mode: off }}\n",
            folder.display()
        );
        fs::write(&config, text)?;
        let program = std::env::current_exe().context("cannot find the program file of cordon")?;
        let began = Instant::now();
        let child = Command::new(program)
            .args(["run", "--log-level", global.log_level.as_deref().unwrap_or("error"), "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start cordon")?;
        let global = Global { config: Some(config), state: None, ..global.clone() };
        let mut server = Self { child, address, global, key: String::new() };
        while began.elapsed() < PATIENCE {
            if TcpStream::connect(address).is_ok() {
                let alive = server.client().and_then(|mut client| client.get("/health"));
                if alive.is_ok() {
                    let took = began.elapsed();
                    server.key = server.new_key()?;
                    return Ok((server, took));
                }
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("cordon did not start: {status}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("cordon did not start in time")
    }

    fn remote(&self) -> anyhow::Result<Remote> {
        Remote::connect(&self.global)
    }

    fn new_key(&self) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct Made {
            key: String,
        }
        let name = format!("bench-{}", jiff::Timestamp::now().as_microsecond());
        let made: Made = self.remote()?.post("v1/bouncers", &json!({ "name": name }))?;
        Ok(made.key)
    }

    fn client(&self) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::with_capacity(1 << 18, stream), key: self.key.clone() })
    }

    /// Pulls as a bouncer does; how long it took to the last byte, and how many there were.
    fn pull(&self, startup: bool) -> anyhow::Result<(Duration, usize)> {
        let mut client = self.client()?;
        let began = Instant::now();
        let bytes = client.get(&format!("/v1/decisions/stream?startup={startup}"))?;
        Ok((began.elapsed(), bytes))
    }

    /// Resident memory in MiB, and the most it ever was.
    fn memory(&self) -> anyhow::Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let figure = |name: &str| -> anyhow::Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no memory figure")?;
            let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().context("no memory figure")?;
            Ok(kilobytes / 1024.0)
        };
        Ok((figure("VmRSS:")?, figure("VmHWM:")?))
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        // it may have ended by itself
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // nobody is left to tell
        let _ = self.stop();
    }
}

/// One connection, one question at a time.
struct Client {
    stream: BufReader<TcpStream>,
    key: String,
}

impl Client {
    /// Asks and throws the answer away; how many bytes it had.
    fn get(&mut self, route: &str) -> anyhow::Result<usize> {
        let request = format!(
            "GET {route} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench/1\r\nX-Api-Key: {}\r\n\r\n",
            self.key
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        let (mut status, mut length, mut chunked) = (String::new(), 0, false);
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the server closed the connection");
            }
            let text = line.trim_end().to_ascii_lowercase();
            if status.is_empty() {
                status.clone_from(&text);
            }
            if let Some(value) = text.strip_prefix("content-length: ") {
                length = value.parse()?;
            }
            chunked |= text == "transfer-encoding: chunked";
            if text.is_empty() {
                break;
            }
        }
        if !status.contains(" 200 ") {
            bail!("`{route}` was answered with `{status}`");
        }
        if !chunked {
            return self.skip(length);
        }
        let mut total = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).context("no chunk")?;
            total += self.skip(size)?;
            self.skip(2)?;
            if size == 0 {
                return Ok(total);
            }
        }
    }

    fn skip(&mut self, bytes: usize) -> anyhow::Result<usize> {
        let mut left = bytes;
        while left > 0 {
            let here = self.stream.fill_buf()?.len().min(left);
            if here == 0 {
                bail!("the answer is cut off");
            }
            self.stream.consume(here);
            left -= here;
        }
        Ok(bytes)
    }
}

/// The target of decision number `n`: mostly addresses, some ranges, some of IPv6.
fn target(n: usize) -> (&'static str, String) {
    // an odd factor visits every number once
    let spread = (n as u32).wrapping_mul(2_654_435_761);
    match n % 20 {
        0 => ("Range", format!("{}/24", Ipv4Addr::from((spread & 0x3fff_ff00) | 0x8000_0000))),
        1 => ("Ip", format!("2001:db8:{:x}:{:x}::1", spread >> 16, spread & 0xffff)),
        _ => ("Ip", Ipv4Addr::from((spread & 0x3fff_ffff) | 0x4000_0000).to_string()),
    }
}

fn ban(scope: &str, value: String) -> DecisionBody {
    DecisionBody {
        origin: "cscli-import".to_owned(),
        remediation: "ban".to_owned(),
        scope: scope.to_owned(),
        value,
        duration: "24h".to_owned(),
        scenario: "bench".to_owned(),
        ..DecisionBody::default()
    }
}

fn alert(decisions: Option<Vec<DecisionBody>>, source: Source) -> Alert {
    let now = jiff::Timestamp::now().to_string();
    Alert {
        scenario: "bench/load".to_owned(),
        start_at: now.clone(),
        stop_at: now,
        leakspeed: "10s".to_owned(),
        events_count: 6,
        remediation: true,
        source,
        decisions,
        ..Alert::default()
    }
}

fn import(server: &Server, from: usize, to: usize) -> anyhow::Result<()> {
    let remote = server.remote()?;
    for first in (from..to).step_by(BATCH) {
        let decisions = (first..to.min(first + BATCH)).map(|n| {
            let (scope, value) = target(n);
            ban(scope, value)
        });
        let _: Vec<String> = remote.post("v1/alerts", &[alert(Some(decisions.collect()), Source::default())])?;
    }
    Ok(())
}

/// Ten changes, then a pull.
fn delta(server: &Server, round: u32) -> anyhow::Result<(Duration, usize)> {
    let bans = (0..10).map(|n| ban("Ip", Ipv4Addr::from(0x0b00_0000 + round * 10 + n).to_string()));
    let _: Vec<String> = server.remote()?.post("v1/alerts", &[alert(Some(bans.collect()), Source::default())])?;
    let pulled = server.pull(false)?;
    match pulled.1 {
        0..500 => bail!("the delta lacks what changed: {} bytes", pulled.1),
        _ => Ok(pulled),
    }
}

/// Asks about addresses on several connections, from one thread: on few cores more of them would measure how they wait for each
/// other. Per second, and the latencies.
fn queries(server: &Server, decisions: usize) -> anyhow::Result<(f64, f64, f64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let asked = runtime.block_on(async {
        let connections = (0..CONNECTIONS).map(|first| {
            let (address, key) = (server.address, server.key.clone());
            tokio::spawn(ask_on(address, key, first, decisions, began))
        });
        let connections: Vec<_> = connections.collect();
        let mut all = Vec::new();
        for connection in connections {
            all.extend(connection.await.context("a client broke")??);
        }
        anyhow::Ok(all)
    });
    let mut all = asked?;
    let per_second = all.len() as f64 / began.elapsed().as_secs_f64();
    all.sort_unstable();
    Ok((per_second, millis(share(&all, 0.5)), millis(share(&all, 0.99))))
}

/// One of these connections, one question at a time; how long each took.
async fn ask_on(
    address: SocketAddr,
    key: String,
    first: usize,
    decisions: usize,
    began: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = tokio::io::BufReader::new(stream);
    let (mut latencies, mut n, mut line) = (Vec::new(), first, String::new());
    while began.elapsed() < LASTS {
        // every other one is banned
        let (_, value) = target(n % (2 * decisions));
        let ip = value.split_once('/').map_or(value.as_str(), |(ip, _)| ip);
        let request = format!("GET /v1/decisions?ip={ip} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\n\r\n");
        let asked = Instant::now();
        stream.get_mut().write_all(request.as_bytes()).await?;
        let (mut good, mut length) = (false, 0);
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                bail!("the server closed the connection");
            }
            let text = line.trim_end();
            good |= text.starts_with("HTTP/1.1 200");
            if let Some(value) = text.strip_prefix("content-length: ") {
                length = value.parse()?;
            }
            if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        latencies.push(asked.elapsed());
        if !good {
            bail!("a question about `{ip}` was refused: {}", String::from_utf8_lossy(&body));
        }
        n += CONNECTIONS + 1;
    }
    Ok(latencies)
}

/// The smallest of `sorted` that is not below `share` of them.
fn share(sorted: &[Duration], share: f64) -> Duration {
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// Sends alerts as agents do; how many a second were acknowledged.
fn alerts(server: &Server) -> anyhow::Result<f64> {
    let began = Instant::now();
    let threads = (0..4_u32).map(|agent| {
        let remote = server.remote()?;
        Ok(thread::spawn(move || -> anyhow::Result<usize> {
            let mut sent = 0;
            while began.elapsed() < LASTS {
                let batch: Vec<Alert> = (0..ALERTS as u32)
                    .map(|n| {
                        let value = Ipv4Addr::from(0x2d00_0000 + agent * 1_000_000 + sent as u32 + n).to_string();
                        alert(None, Source { scope: "Ip".into(), ip: value.clone(), value, ..Source::default() })
                    })
                    .collect();
                let ids: Vec<String> = remote.post("v1/alerts", &batch)?;
                sent += ids.len();
            }
            Ok(sent)
        }))
    });
    let threads = threads.collect::<anyhow::Result<Vec<_>>>()?;
    let mut sent = 0;
    for thread in threads {
        sent += thread.join().map_err(|_| anyhow::anyhow!("an agent broke"))??;
    }
    Ok(sent as f64 / began.elapsed().as_secs_f64())
}

/// Lets `count` followers wait, makes changes, and answers how long it took from a write to the last follower.
fn follow(server: &Server, count: usize) -> anyhow::Result<(f64, f64)> {
    let place = place(server)?;
    let (seen, sightings) = mpsc::channel();
    let (address, key) = (server.address, server.key.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for _ in 0..count {
        let (seen, request) = (
            seen.clone(),
            format!(
                "GET /v1/decisions/events HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nLast-Event-ID: {place}\r\n\r\n"
            ),
        );
        runtime.spawn(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let mut stream = tokio::io::BufReader::with_capacity(1024, stream);
            stream.get_mut().write_all(request.as_bytes()).await?;
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).await? > 0 {
                // change number n bans 11.1.n/256.n%256
                if line.starts_with(b"data: ")
                    && let Some(at) = line.windows(5).position(|part| part == b"11.1.")
                {
                    let rest = String::from_utf8_lossy(line.get(at + 5..).unwrap_or_default());
                    let mut parts = rest.split(['.', '"']).map_while(|part| part.parse::<usize>().ok());
                    let change = parts.next().unwrap_or(0) * 256 + parts.next().unwrap_or(0);
                    if seen.send((change, Instant::now())).is_err() {
                        break;
                    }
                }
                line.clear();
            }
            std::io::Result::Ok(())
        });
    }
    thread::sleep(Duration::from_secs(3));
    let remote = server.remote()?;
    let mut written = Vec::new();
    for change in 0..CHANGES {
        let due = Instant::now() + Duration::from_millis(100);
        let value = format!("11.1.{}.{}", change / 256, change % 256);
        written.push(Instant::now());
        let _: Vec<String> = remote.post("v1/alerts", &[alert(Some(vec![ban("Ip", value)]), Source::default())])?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    drop(seen);
    let mut last: Vec<(usize, Duration)> = vec![(0, Duration::ZERO); written.len()];
    while let Ok((change, at)) = sightings.recv_timeout(Duration::from_secs(2)) {
        if let (Some(last), Some(began)) = (last.get_mut(change), written.get(change)) {
            *last = (last.0 + 1, last.1.max(at.saturating_duration_since(*began)));
        }
    }
    runtime.shutdown_background();
    if let Some(change) = last.iter().position(|(seen, _)| *seen != count) {
        bail!("change {change} reached {} of {count} followers", last.get(change).map_or(0, |last| last.0));
    }
    let mut all: Vec<Duration> = last.into_iter().map(|(_, last)| last).collect();
    all.sort_unstable();
    Ok((millis(share(&all, 0.5)), millis(share(&all, 0.99))))
}

/// Where the event stream stands, learned by reading a snapshot of nothing.
fn place(server: &Server) -> anyhow::Result<String> {
    let mut client = server.client()?;
    let request = format!(
        "GET /v1/decisions/events?origins=none HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {}\r\n\r\n",
        client.key
    );
    client.stream.get_mut().write_all(request.as_bytes())?;
    for line in client.stream.by_ref().lines() {
        if let Some(place) = line?.strip_prefix("id: ") {
            return Ok(place.to_owned());
        }
    }
    bail!("the event stream ended")
}
