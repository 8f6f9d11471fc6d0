//! Many days of ordinary load in minutes: what grows with the days, and not with the load, is a leak.
//!
//! The lines carry the time of their day, and buckets follow the time in the log. Every day has the same many guests that
//! come once, a guesser each hour and a few who always do, and ends with a rotation. What the process holds, and what a
//! line costs it, is looked at twice a day when everything is worked off.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::{Cordon, PATIENCE};

/// Lines a second of the log's time: a busy host.
const A_SECOND: u64 = 10;
const DAY: u64 = 86_400 * A_SECOND;
/// Who comes again every day and guesses.
const GUESSERS: u64 = 20;
/// Days before which caches fill and pools grow.
const WARM: usize = 3;
/// How much more memory the last day may hold than the first one that counts.
const GROWTH: f64 = 0.05;

/// In how many parts of a second Linux counts processor time.
const TICKS: f64 = 100.0;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    day: f64,
    /// Bytes in memory.
    resident: f64,
    /// Seconds of processor time, all threads.
    cpu: f64,
    lines: f64,
}

/// Writes `days` days, at most `rate` lines a second, and says what they did to the process.
pub(crate) fn run(folder: &Path, days: u64, rate: u64) {
    let log = folder.join("log/auth.log");
    fs::create_dir(folder.join("log")).expect("a writable folder");
    fs::write(&log, "").expect("a writable folder");
    let mut cordon = Cordon::install(folder);
    let place = folder.display();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("a writable folder");
    write(
        "acquisition.yaml",
        format!("filename: {place}/log/auth.log\nlabels: {{type: syslog}}\nuse_time_machine: true\n"),
    );
    write(
        "cordon.yaml",
        format!(
            "state: {place}/state\napi: {{listen: off}}\nacquisition: {{discover: false, paths: [{place}/acquisition.yaml]}}\n"
        ),
    );
    cordon.start();
    cordon.wait();
    let begin = Timestamp::now() - SignedDuration::from_hours(24 * days as i64);
    let mut samples = Vec::new();
    let started = Instant::now();
    let mut file = open(&log);
    let mut text = String::new();
    for number in 0..days * DAY {
        line(number, begin, &mut text);
        let written = number + 1;
        if written.is_multiple_of(rate / 10) {
            file.write_all(text.as_bytes()).expect("room on the disk");
            text.clear();
            let due = Duration::from_secs_f64(written as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        if written.is_multiple_of(DAY / 2) {
            file.write_all(text.as_bytes()).expect("room on the disk");
            text.clear();
            settle(&cordon, written);
            samples.push(Sample::take(&cordon, written));
        }
        if written.is_multiple_of(DAY) {
            rotate(&log);
            file = open(&log);
        }
    }
    cordon.stop();
    report(&samples, started.elapsed());
}

fn open(log: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(log).expect("a writable folder")
}

/// Yesterday's log is compressed, the one of the day before is deleted.
fn rotate(log: &Path) {
    let yesterday = PathBuf::from(format!("{}.1", log.display()));
    fs::rename(log, &yesterday).expect("it is ours");
    let packed = Command::new("gzip").arg("-f").arg(&yesterday).status();
    assert!(packed.is_ok_and(|status| status.success()), "gzip is everywhere");
}

fn line(number: u64, begin: Timestamp, text: &mut String) {
    let at = begin + SignedDuration::from_millis((number * 1000 / A_SECOND) as i64);
    let hour = number / (DAY / 24);
    let said = match number % 20 {
        // In bursts, so that buckets overflow.
        0 if number / 20 % 500 < 2 * GUESSERS => {
            format!("Failed password for root from 198.51.100.{} port 40022 ssh2", number / 20 % GUESSERS + 1)
        }
        // Many who try once a day at most.
        1 => {
            let guest = number / 20 % 60_000;
            format!("Invalid user guest from 10.100.{}.{} port 40022", guest / 250, guest % 250 + 1)
        }
        2 => format!("Failed password for invalid user pi from 203.0.113.{} port 40022 ssh2", hour % 250 + 1),
        3..10 => "Accepted publickey for deploy from 192.0.2.10 port 50022 ssh2: ED25519 SHA256:0000".to_owned(),
        _ => "pam_unix(sshd:session): session opened for user deploy(uid=1000) by (uid=0)".to_owned(),
    };
    writeln!(text, "{at:.3} host sshd[{}]: {said}", 1000 + number % 30_000).expect("a text");
}

/// Waits until everything is worked off.
fn settle(cordon: &Cordon, lines: u64) {
    let started = Instant::now();
    let read = || cordon.json(&["status"])["sources"][0]["lines"].as_u64();
    while read() != Some(lines) {
        assert!(started.elapsed() < PATIENCE, "{:?} of {lines} lines\n{}", read(), cordon.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Sample {
    fn take(cordon: &Cordon, lines: u64) -> Self {
        let id = cordon.id();
        let read = |name: &str| fs::read_to_string(format!("/proc/{id}/{name}")).expect("it runs");
        let status = read("status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("this is Linux");
        let resident: f64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).expect("a number");
        Self {
            day: lines as f64 / DAY as f64,
            resident: resident * 1024.0,
            cpu: (ticks(11) + ticks(12)) / TICKS,
            lines: lines as f64,
        }
    }
}

fn report(samples: &[Sample], took: Duration) {
    let Some(last) = samples.last() else { return };
    println!("{:.0} days, {:.0} lines in {:.0} s", last.day, last.lines, took.as_secs_f64());
    let memory: Vec<(f64, f64)> = samples.iter().map(|sample| (sample.day, sample.resident / 1e6)).collect();
    let cost: Vec<(f64, f64)> = samples
        .windows(2)
        .map(|pair| (pair[1].day, (pair[1].cpu - pair[0].cpu) / (pair[1].lines - pair[0].lines) * 1e6))
        .collect();
    for (what, unit, points) in [("memory", "MB", &memory), ("processor time a line", "µs", &cost)] {
        let shown: Vec<String> = points.iter().map(|(_, value)| format!("{value:.2}")).collect();
        println!("{what} in {unit}, twice a day: {}", shown.join(" "));
        let warm: Vec<(f64, f64)> = points.iter().copied().filter(|(day, _)| *day >= WARM as f64).collect();
        let (mean, slope) = slope(&warm);
        println!("{what}: {mean:.2} {unit}, {slope:+.4} {unit} a day ({:+.3} %)", 100.0 * slope / mean);
    }
    let warm: Vec<f64> = memory.iter().filter(|(day, _)| *day >= WARM as f64).map(|(_, value)| *value).collect();
    if let (Some(first), Some(last)) = (warm.first(), warm.last()) {
        assert!(*last <= first * (1.0 + GROWTH), "memory grew from {first:.2} MB to {last:.2} MB");
        println!("soak: nothing grows");
    }
}

/// The mean of the points, and how much they rise a day (least squares).
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let rise: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let run: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    (y, rise / run)
}
