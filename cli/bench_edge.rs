//! `cordon bench forward` and `cordon bench feed`: what proxies and firewalls are answered from, under load.
//!
//! The load comes over loopback from a client that does as little as it can: requests that are written beforehand, on
//! connections that stay. Service and client share the machine, so the figures are less than the service alone could do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bouncers::config::OnLoss;
use bouncers::engine::desired::{Key, Subject};
use bouncers::engine::plan::{Change, Placed, Placement, Plan, Why};
use bouncers::engine::{Bouncer, Extent, Never, Wanted};
use bouncers::feed::consumers::Metrics as FeedMetrics;
use bouncers::feed::query::{Format as Form, Query};
use bouncers::feed::render::{Heading, render};
use bouncers::feed::rows::Rows;
use bouncers::feed::{Lists, config as feed_config};
use bouncers::forward::Forward;
use bouncers::forward::config as forward_config;
use bouncers::forward::metrics::Metrics as ForwardMetrics;
use bouncers::forward::profile::{Posture, Profile, Question, judge};
use bouncers::forward::table::{Held, Table};
use ipnet::{IpNet, Ipv4Net};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::args::{Format, Global};
use crate::output;

/// Requests that each connection takes turns with.
const REQUESTS: usize = 1024;
/// One request in so many is of somebody who is banned.
const BANNED: usize = 10;
/// Look-ups that are timed without a network.
const LOOK_UPS: u32 = 1_000_000;
/// How often a list is fetched.
const FETCHES: u32 = 40;
/// A token for a service that ends with the measurement.
const TOKEN: &str = "bench-bench-bench-bench";

/// What forward-auth can do.
#[derive(Debug, Serialize)]
struct Answers {
    decisions: u32,
    load_ms: f64,
    one_change_ms: f64,
    look_up_ns: f64,
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    cpu_us_per_request: f64,
    resident_mib: f64,
}

/// Measures forward-auth with `decisions` in force, asked over `connections` for `seconds`.
pub(crate) fn forward(decisions: u32, seconds: u32, connections: u16, global: &Global) -> anyhow::Result<()> {
    let text = "listen: 127.0.0.1:0\ntrusted_proxies: [127.0.0.1]\nworkers: 1\nprofiles: { web: {} }";
    let config = read(text, |raw: forward_config::RawConfig| raw.check(&[]))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let mut target = Forward::open(&config, OnLoss::Keep, ForwardMetrics::default())?;
    let (now, never) = (Timestamp::now(), Never::default());
    let placement = placement(decisions, now);
    let began = Instant::now();
    runtime.block_on(target.rebuild(Wanted::of(&placement, &never), Extent::Exactly, now))?;
    let load = began.elapsed();
    let change = Change { key: key(banned(0)), before: None, after: Some(placed(now)), why: None };
    let began = Instant::now();
    runtime.block_on(target.apply(&Plan { changes: vec![change] }, now))?;
    let one = began.elapsed();
    let look_up = look_ups(&placement, decisions, now);
    drop(placement);

    let address = target.local_addr().context("it does not listen")?;
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let before = cpu()?;
    let asked = runtime.block_on(async {
        let ask = (0..connections).map(|number| tokio::spawn(ask(address, decisions, number, until)));
        let mut all = Vec::new();
        for connection in ask.collect::<Vec<_>>() {
            all.extend(connection.await??);
        }
        anyhow::Ok(all)
    });
    let (mut asked, spent) = (asked?, cpu()?.saturating_sub(before));
    asked.sort_unstable();
    let at = |share: f64| {
        let place = (share * asked.len() as f64).ceil() as usize;
        asked.get(place.saturating_sub(1)).map_or(f64::NAN, |micros| f64::from(*micros) / 1e3)
    };
    let answers = Answers {
        decisions,
        load_ms: millis(load),
        one_change_ms: millis(one),
        look_up_ns: look_up.as_secs_f64() * 1e9 / f64::from(LOOK_UPS),
        requests_per_second: asked.len() as f64 / f64::from(seconds),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        longest_ms: at(1.0),
        cpu_us_per_request: spent.as_secs_f64() * 1e6 / asked.len().max(1) as f64,
        resident_mib: resident()?,
    };
    match global.output {
        Format::Json | Format::Raw => output::json(&answers),
        Format::Human => output::line(&format!(
            "forward-auth, {} decisions: loaded in {:.0} ms, one more in {:.2} ms, a look-up takes {:.0} ns\n  \
             {:.0} requests/s over {connections} connections: p50 {:.2} ms, p99 {:.2} ms, longest {:.1} ms; \
             {:.1} us of CPU a request, the client's included; {:.0} MiB",
            answers.decisions,
            answers.load_ms,
            answers.one_change_ms,
            answers.look_up_ns,
            answers.requests_per_second,
            answers.p50_ms,
            answers.p99_ms,
            answers.longest_ms,
            answers.cpu_us_per_request,
            answers.resident_mib
        )),
    }
}

/// How long judging takes without a network.
fn look_ups(placement: &Placement, decisions: u32, now: Timestamp) -> Duration {
    let held = |placed: &Placed| Some(Held::new(placed.until, 1));
    let table = Table::default().with(placement.iter().map(|(key, placed)| (key, held(placed))));
    let profile = Profile::default();
    let mut refused = 0_u32;
    let began = Instant::now();
    for at in 0..LOOK_UPS {
        let client = client(at as usize, decisions).into();
        let question = Question { client, identities: Vec::new(), path: None };
        refused += u32::from(judge(&profile, &table, None, Posture::Judging, &question, now).is_some());
    }
    let took = began.elapsed();
    // what is not used would not be computed
    std::hint::black_box(refused);
    took
}

/// Asks one question after the other until `until`: how long each took, in microseconds.
async fn ask(address: SocketAddr, decisions: u32, number: u16, until: Instant) -> anyhow::Result<Vec<u32>> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let requests: Vec<(Vec<u8>, &str)> = (0..REQUESTS)
        .map(|at| {
            let who = client(at + usize::from(number) * REQUESTS, decisions);
            let status = if (at + usize::from(number) * REQUESTS).is_multiple_of(BANNED) { "403" } else { "204" };
            let text = format!(
                "GET /v1/check/web HTTP/1.1\r\nHost: cordon\r\nX-Forwarded-For: {who}\r\nX-Forwarded-Uri: /index.html\r\n\r\n"
            );
            (text.into_bytes(), status)
        })
        .collect();
    let (mut took, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    for (request, status) in requests.iter().cycle() {
        let began = Instant::now();
        if began >= until {
            break;
        }
        stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            filled += read;
            match whole(&buffer[..filled]) {
                _ if read == 0 => bail!("the connection ended"),
                Some(found) if found == *status => break,
                Some(found) => bail!("expected {status}, found {found}"),
                None => {}
            }
        }
        took.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(took)
}

/// The status of an answer, once all of it is there.
fn whole(bytes: &[u8]) -> Option<&str> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(Ok(0), str::parse::<usize>);
    (bytes.len() >= end + 4 + length.ok()?).then(|| head.split(' ').nth(1)).flatten()
}

/// One format of a feed.
#[derive(Debug, Serialize)]
struct Written {
    format: Form,
    write_ms: f64,
    mib: f64,
}

/// What feeds can do.
#[derive(Debug, Serialize)]
struct Fed {
    decisions: u32,
    load_ms: f64,
    one_change_ms: f64,
    formats: Vec<Written>,
    first_fetch_ms: f64,
    served_mib_per_second: f64,
    unchanged_us: f64,
    resident_mib: f64,
}

/// Measures feeds of `decisions` entries.
pub(crate) fn feed(decisions: u32, global: &Global) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let why = || Why { id: 1, origin: "cordon".into(), scenario: "bench/feed".into() };
    let began = Instant::now();
    let rows = Rows::default().with((0..decisions).map(|at| (key(banned(at)), Some((placed(now), why())))), now);
    let load = began.elapsed();
    let began = Instant::now();
    let rows = rows.with([(key(banned(decisions)), Some((placed(now), why())))], now);
    let one = began.elapsed();
    let heading = Heading { name: "bench", sequence: 1, now };
    let mut formats = Vec::new();
    for format in Form::all() {
        let runs = (0..3).map(|_| {
            let began = Instant::now();
            let body = render(&rows, &Query::new(format), &heading).body.len();
            (began.elapsed(), body)
        });
        let (took, bytes) = runs.min().context("three runs have a best one")?;
        formats.push(Written { format, write_ms: millis(took), mib: bytes as f64 / 1_048_576.0 });
    }
    drop(rows);

    let text = format!("listen: 127.0.0.1:0\nconsumers: {{ bench: {{ token: {TOKEN} }} }}");
    let config = read(&text, feed_config::RawConfig::check)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let mut target = Lists::open(&config, FeedMetrics::default())?;
    let (placement, never) = (placement(decisions, now), Never::default());
    runtime.block_on(target.rebuild(Wanted::of(&placement, &never), Extent::Exactly, now))?;
    drop(placement);
    let address = target.local_addr().context("it does not listen")?;
    let mut stream = TcpStream::connect(address)?;
    let began = Instant::now();
    let (tag, _) = fetch(&mut stream, "")?;
    let first = began.elapsed();
    // compressing goes on for a moment
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    let mut bytes = 0;
    for _ in 0..FETCHES {
        bytes += fetch(&mut stream, "")?.1;
    }
    let served = bytes as f64 / 1_048_576.0 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for _ in 0..FETCHES {
        if fetch(&mut stream, &format!("If-None-Match: {tag}\r\n"))?.1 > 0 {
            bail!("what has not changed was sent again");
        }
    }
    let fed = Fed {
        decisions,
        load_ms: millis(load),
        one_change_ms: millis(one),
        formats,
        first_fetch_ms: millis(first),
        served_mib_per_second: served,
        unchanged_us: began.elapsed().as_secs_f64() * 1e6 / f64::from(FETCHES),
        resident_mib: resident()?,
    };
    match global.output {
        Format::Json | Format::Raw => output::json(&fed),
        Format::Human => {
            output::line(&format!(
                "feeds, {} decisions: loaded in {:.0} ms, one more in {:.0} ms; first fetch {:.0} ms after that, then {:.0} MiB/s, \
                 304 in {:.0} us; {:.0} MiB",
                fed.decisions,
                fed.load_ms,
                fed.one_change_ms,
                fed.first_fetch_ms,
                fed.served_mib_per_second,
                fed.unchanged_us,
                fed.resident_mib
            ))?;
            fed.formats.iter().try_for_each(|written| {
                let Written { format, write_ms, mib } = written;
                output::line(&format!("  {:<14} written in {write_ms:>5.0} ms, {mib:.0} MiB", format.name()))
            })
        }
    }
}

/// Fetches a list: its tag and how long it is.
fn fetch(stream: &mut TcpStream, more: &str) -> anyhow::Result<(String, usize)> {
    // in one piece: a second one would wait for the first to be acknowledged
    let request = format!("GET /feed/{TOKEN}/cordon.txt HTTP/1.1\r\nHost: cordon\r\n{more}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut buffer = vec![0; 1 << 20];
    let (mut head, mut filled) = (None, 0);
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            bail!("the connection ended");
        }
        filled += read;
        let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
        head.replace((text, filled - end - 4));
        break;
    }
    let (head, mut here) = head.context("no head")?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    let tag = field("etag: ");
    if head.contains(" 304 ") {
        return Ok((tag, 0));
    }
    let length: usize = field("content-length: ").parse().context("no length")?;
    while here < length {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("the connection ended");
        }
        here += read;
    }
    Ok((tag, length))
}

fn read<R: serde::de::DeserializeOwned, C>(
    text: &str,
    check: impl Fn(R) -> Result<C, Vec<bouncers::config::Fault>>,
) -> anyhow::Result<C> {
    check(serde_saphyr::from_str(text)?).map_err(|faults| anyhow::anyhow!("{faults:?}"))
}

/// Banned address number `at`: spread over the space, never two neighbours.
fn banned(at: u32) -> Ipv4Addr {
    // the factor shares no divisor with the size of the space, so none comes twice
    Ipv4Addr::from_bits(0x0b00_0000 + (u64::from(at) * 196_643 % 0x7000_0000) as u32)
}

/// Who asks question number `at`: one in a few is banned.
fn client(at: usize, decisions: u32) -> Ipv4Addr {
    if at.is_multiple_of(BANNED) {
        banned((at as u32).wrapping_mul(7919) % decisions.max(1))
    } else {
        Ipv4Addr::from_bits(0xc800_0000 + at as u32)
    }
}

fn key(address: Ipv4Addr) -> Key {
    let net = Ipv4Net::new(address, 32).expect("32 is a prefix length of IPv4");
    Key { remediation: "ban".into(), subject: Subject::Net(IpNet::V4(net)) }
}

fn placed(now: Timestamp) -> Placed {
    Placed { until: now + SignedDuration::from_hours(4), pieces: None }
}

fn placement(decisions: u32, now: Timestamp) -> Placement {
    (0..decisions).map(|at| (key(banned(at)), placed(now))).collect()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The CPU time that this process has used.
fn cpu() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 1000 / per_second))
}

/// The memory of this process, client included, in MiB.
fn resident() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = text.split_whitespace().nth(1).context("a line of numbers")?.parse()?;
    Ok(pages * rustix::param::page_size() as f64 / 1_048_576.0)
}
