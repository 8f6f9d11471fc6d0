//! `cordon bench syslog` and `cordon bench files`: what datasources bear, and whether they know what they do not.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use crate::args::{Format, Global};
use crate::output;
use crate::sandbox::Subject;

/// How long the sender sleeps when it is ahead of its pace.
const BREATH: Duration = Duration::from_micros(200);
/// So long nothing may change before it counts as all there is.
const CALM: Duration = Duration::from_secs(3);
/// How long what was sent may take to be worked off.
const PATIENCE: Duration = Duration::from_mins(2);
/// How many of the quiet files are written to at the end.
const WOKEN: u32 = 100;

/// What became of datagrams.
#[derive(Debug, Serialize)]
struct Datagrams {
    sent: u64,
    per_second: f64,
    /// Lines made of them.
    received: u64,
    /// Lost, and counted as such.
    dropped: u64,
    /// Lost, and not counted; fewer than none if something was counted twice.
    unaccounted: i64,
    /// Processor time for each message.
    processor_us: f64,
    resident_mib: f64,
}

/// Sends `rate` messages a second for so many seconds.
pub(crate) fn syslog(rate: u32, seconds: u32, global: &Global) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr())?;
    let acquisition =
        format!("source: syslog\nlisten_addr: {}\nlisten_port: {}\nlabels: {{type: syslog}}\n", free.ip(), free.port());
    let (subject, _) = Subject::start_with(None, folder.path(), &acquisition, global)?;
    let before = subject.processor()?;

    let total = u64::from(rate) * u64::from(seconds);
    let began = Instant::now();
    send(free, rate, total)?;
    let took = began.elapsed();
    let counts = || -> anyhow::Result<(u64, u64)> {
        let source = first_source(&subject)?;
        Ok((count(&source, "lines"), count(&source, "dropped")))
    };
    let (received, dropped) = settled(counts)?;
    let processor = subject.processor()?.saturating_sub(before);
    let figures = Datagrams {
        sent: total,
        per_second: total as f64 / took.as_secs_f64(),
        received,
        dropped,
        unaccounted: total as i64 - received as i64 - dropped as i64,
        processor_us: processor.as_secs_f64() * 1e6 / received.max(1) as f64,
        resident_mib: subject.resident()? as f64 / 1_048_576.0,
    };
    match global.output {
        Format::Json | Format::Raw => output::json(&figures)?,
        Format::Human => output::line(&format!(
            "{} messages at {:.0}/s: {} received, {} dropped and counted, {} unaccounted for; {:.2} us of processor for each, {:.0} MiB",
            figures.sent,
            figures.per_second,
            figures.received,
            figures.dropped,
            figures.unaccounted,
            figures.processor_us,
            figures.resident_mib
        ))?,
    }
    if figures.unaccounted != 0 {
        bail!("{} messages are neither received nor counted as lost", figures.unaccounted);
    }
    Ok(())
}

/// Sends `total` messages to `target`, `rate` in each second.
fn send(target: SocketAddr, rate: u32, total: u64) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(target)?;
    let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    let messages: Vec<String> = (0..1000)
        .map(|user| {
            format!("<86>{time} victim CRON[{}]: pam_unix(cron:session): session opened for user u{user}", 1000 + user)
        })
        .collect();
    let mut messages = messages.iter().cycle();
    let began = Instant::now();
    let mut sent = 0;
    while sent < total {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due.min(total) {
            let Some(message) = messages.next() else { bail!("there is nothing to send") };
            match socket.send(message.as_bytes()) {
                Ok(_) => sent += 1,
                // The sender's own buffer is full: nothing was sent.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => sleep(BREATH),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        sleep(BREATH);
    }
    Ok(())
}

/// What `look` says when it has said the same for a while.
fn settled<T: PartialEq>(look: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (began, mut since) = (Instant::now(), Instant::now());
    let mut last = look()?;
    while since.elapsed() < CALM && began.elapsed() < PATIENCE {
        sleep(CALM / 10);
        let now = look()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

/// What following files costs.
#[derive(Debug, Serialize)]
struct Following {
    files: u32,
    start_ms: f64,
    resident_mib: f64,
    /// Of one core, while nothing happens.
    processor_percent: f64,
    /// From writing to some of them to the last of these lines.
    woken_ms: f64,
}

/// Follows so many files that are quiet for so many seconds.
pub(crate) fn files(files: u32, seconds: u32, global: &Global) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let logs = folder.path().join("logs");
    fs::create_dir(&logs)?;
    let path = |number: u32| logs.join(format!("{number}.log"));
    for number in 0..files {
        fs::write(path(number), "Nov  1 00:00:00 victim CRON[1]: session opened\n")?;
    }
    let acquisition = format!("filename: {}/*.log\nlabels: {{type: syslog}}\n", logs.display());
    let (subject, start) = Subject::start_with(None, folder.path(), &acquisition, global)?;
    // The start has work of its own for a while.
    let ticks = || Ok(subject.processor()?.as_millis() / 100);
    settled(ticks)?;
    let (before, began) = (subject.processor()?, Instant::now());
    sleep(Duration::from_secs(seconds.into()));
    let processor = subject.processor()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    let resident = subject.resident()?;

    let began = Instant::now();
    let woken = files.min(WOKEN);
    for number in 0..woken {
        let mut log = OpenOptions::new().append(true).open(path(number * (files / woken)))?;
        log.write_all(b"Nov  1 00:00:01 victim CRON[1]: session closed\n")?;
    }
    while count(&first_source(&subject)?, "lines") < woken.into() {
        if began.elapsed() > PATIENCE {
            bail!("lines of followed files were not read within {} s", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(5));
    }
    let figures = Following {
        files,
        start_ms: start.as_secs_f64() * 1e3,
        resident_mib: resident as f64 / 1_048_576.0,
        processor_percent: processor * 100.0,
        woken_ms: began.elapsed().as_secs_f64() * 1e3,
    };
    match global.output {
        Format::Json | Format::Raw => output::json(&figures),
        Format::Human => output::line(&format!(
            "{} files followed: {:.0} MiB (at most 95), {:.2} % of a core when quiet (at most 2); \
             {:.0} ms to start, {:.0} ms until a line in each of {woken} was read",
            figures.files, figures.resident_mib, figures.processor_percent, figures.start_ms, figures.woken_ms
        )),
    }
}

/// What the first datasource tells.
fn first_source(subject: &Subject) -> anyhow::Result<Value> {
    let status: Value = serde_json::from_str(&subject.ask(&["status", "-o", "json"])?)?;
    status.pointer("/sources/0").cloned().context("the status tells of no datasource")
}

fn count(source: &Value, name: &str) -> u64 {
    source.get(name).and_then(Value::as_u64).unwrap_or(0)
}
