//! `cordon bench latency`: from the write of the last attack line to the first packet that is dropped.
//!
//! Each ban has an attacker of its own, who sends numbered datagrams all the time. A datagram that does not arrive
//! (and neither do those behind it) was dropped; the ban's latency is when it was sent less when the line was
//! written. So the figure is what an attacker feels, not what a log says.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::IpNet;
use serde::Serialize;

use crate::args::{Format, Global};
use crate::lab::{Host, Lab};
use crate::output;
use crate::sandbox::{self, Subject};

/// Where the datagrams go.
const TARGET: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 1), 9009);

/// How many wrong passwords make a ban: one more than the shipped scenario lets pass.
const GUESSES: u16 = 7;

/// Pause between two datagrams of the attacker: the resolution of the figure.
const PACE: Duration = Duration::from_micros(50);

/// So many in a row that do not arrive are no accident.
const LOST: usize = 5;

/// A ban that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(5);

/// One run: the same bans with so many others already in force.
#[derive(Debug, Serialize)]
struct Run {
    loaded: usize,
    bans: usize,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    start_ms: f64,
    idle_mib: f64,
    loaded_mib: f64,
}

/// Measures `bans` bans with an empty set, then with `loaded` others in force.
pub(crate) fn latency(bans: u16, loaded: usize, global: &Global) -> anyhow::Result<()> {
    if !sandbox::is_inside() {
        return sandbox::enter();
    }
    let runs =
        [0, loaded].into_iter().map(|loaded| measure(bans, loaded, global)).collect::<anyhow::Result<Vec<_>>>()?;
    match global.output {
        Format::Json => output::json(&runs),
        Format::Human | Format::Raw => {
            output::line("last attack line written -> first packet dropped")?;
            for run in runs {
                output::line(&format!(
                    "  {:>6} other bans: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, longest {:.2} ms over {} bans; \
                     start to watching {:.0} ms; memory idle {:.1} MiB, with the bans {:.1} MiB",
                    run.loaded,
                    run.p50_ms,
                    run.p90_ms,
                    run.p99_ms,
                    run.max_ms,
                    run.bans,
                    run.start_ms,
                    run.idle_mib,
                    run.loaded_mib
                ))?;
            }
            Ok(())
        }
    }
}

fn measure(bans: u16, loaded: usize, global: &Global) -> anyhow::Result<Run> {
    let mut lab = Lab::new(&["203.0.113.1/24".parse()?, "198.51.100.1/24".parse()?])?;
    let attackers: Vec<Ipv4Addr> = (0..bans).map(attacker).collect();
    let own: Vec<IpNet> = attackers.iter().map(|ip| IpNet::new((*ip).into(), 24)).collect::<Result<_, _>>()?;
    let host = lab.add("attackers", &own)?;
    let receiver = lab.victim().inside(|| UdpSocket::bind(TARGET))??;
    receiver.set_nonblocking(true)?;

    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let log = folder.path().join("auth.log");
    let mut file = File::create(&log)?;
    let (subject, start) = Subject::start(Some(lab.victim()), folder.path(), &log, global)?;
    sleep(Duration::from_secs(1));
    let idle = subject.resident()?;
    load(&subject, folder.path(), loaded)?;

    let mut latencies = Vec::with_capacity(attackers.len());
    for ip in attackers {
        latencies.push(attack(&host, ip, &receiver, &mut file)?);
    }
    latencies.sort();
    let at = |share: f64| {
        let place = (share * latencies.len() as f64).ceil() as usize;
        latencies.get(place.saturating_sub(1)).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    };
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    Ok(Run {
        loaded,
        bans: latencies.len(),
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        start_ms: start.as_secs_f64() * 1e3,
        idle_mib: mib(idle),
        loaded_mib: mib(subject.resident()?),
    })
}

/// Attacker number `n`: 400 addresses of two networks made for documents.
fn attacker(n: u16) -> Ipv4Addr {
    let (net, last) = (n / 200, (n % 200) as u8 + 40);
    if net == 0 { Ipv4Addr::new(203, 0, 113, last) } else { Ipv4Addr::new(198, 51, 100, last) }
}

/// Brings `count` bans of addresses that nobody here has into force.
fn load(subject: &Subject, folder: &std::path::Path, count: usize) -> anyhow::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let path = folder.join("bans");
    let values: Vec<String> = (0..count as u32).map(|n| Ipv4Addr::from(0x2d00_0000 + n * 37).to_string()).collect();
    std::fs::write(&path, values.join("\n"))?;
    let path = path.to_string_lossy();
    subject.ask(&["decisions", "import", "--input", &path, "--format", "values", "--duration", "24h"])?;
    // the kernel takes them in the background
    sleep(Duration::from_secs(2));
    Ok(())
}

/// Attacks once from `ip`; how long it took until a datagram was dropped.
fn attack(host: &Host, ip: Ipv4Addr, receiver: &UdpSocket, log: &mut File) -> anyhow::Result<Duration> {
    let sender = host.inside(|| UdpSocket::bind((IpAddr::V4(ip), 0)))??;
    sender.connect(TARGET)?;
    let line = |n: u16| sandbox::syslog_line(&format!("Failed password for root from {ip} port {} ssh2", 40_000 + n));
    let first: String = (1..GUESSES).map(line).collect();
    log.write_all(first.as_bytes())?;
    sleep(Duration::from_millis(20));
    let mut flight = Flight::default();
    for _ in 0..LOST {
        flight.send(&sender)?;
        flight.land(receiver);
    }
    if !flight.missing.is_empty() {
        bail!("{ip} was banned before its last line: the shipped scenario has changed");
    }

    let last = line(GUESSES);
    let written = Instant::now();
    log.write_all(last.as_bytes())?;
    loop {
        flight.send(&sender)?;
        sleep(PACE);
        flight.land(receiver);
        if let Some(dropped) = flight.first_missing(LOST) {
            return Ok(dropped.saturating_duration_since(written));
        }
        if written.elapsed() > PATIENCE {
            bail!("{ip} still gets through after {} s", PATIENCE.as_secs());
        }
    }
}

/// Datagrams that were sent and have not arrived, oldest first.
#[derive(Default)]
pub(crate) struct Flight {
    sent: u64,
    missing: VecDeque<(u64, Instant)>,
}

impl Flight {
    pub(crate) fn send(&mut self, sender: &UdpSocket) -> anyhow::Result<()> {
        self.sent += 1;
        self.missing.push_back((self.sent, Instant::now()));
        sender.send(&self.sent.to_be_bytes())?;
        Ok(())
    }

    /// When the first of those that are missing was sent, if `least` or more are.
    pub(crate) fn first_missing(&self, least: usize) -> Option<Instant> {
        self.missing.front().filter(|_| self.missing.len() >= least).map(|(_, sent)| *sent)
    }

    /// Takes what has arrived. What was sent before it and has not arrived was lost on the way.
    pub(crate) fn land(&mut self, receiver: &UdpSocket) {
        let mut number = [0; 8];
        while let Ok(8) = receiver.recv(&mut number) {
            let arrived = u64::from_be_bytes(number);
            self.missing.retain(|(sent, _)| *sent != arrived);
        }
    }
}
