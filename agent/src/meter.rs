//! Where the time goes: a few lines and pours among many are timed and stand for all of them.
//!
//! Which ones is left to chance, since a log may repeat itself at any step. A sample during which the thread had to wait for a
//! processor says nothing and is thrown away, so that a busy machine changes no figure.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{fs, io};

use model::{Part, Probe};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::ruleset::RuleSet;

/// Of twice as many one is timed.
const STEP: u64 = 128;
/// How much longer a sample may take by the clock than the processor worked on it, in nanoseconds.
const WAITED: u64 = 10_000;
/// How many nodes and scenarios are listed.
const LISTED: usize = 10;

/// Times some of what one thread does.
#[derive(Debug)]
pub(crate) struct Meter {
    probe: Probe,
    /// How many come before the next that is timed.
    left: u64,
    random: u64,
    sample: Sample,
}

/// What was timed.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// How many there were.
    seen: u64,
    /// How many of them were timed.
    taken: u64,
    spent: BTreeMap<Part, Cost>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    nanos: u64,
    runs: u64,
}

/// What an engine spent its time on.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// On lines, until their pours are known.
    pub lines: Sample,
    /// On pours.
    pub pours: Sample,
    /// On overflows, from the bucket to the alert.
    pub overflows: Duration,
}

/// Where the time of a replay went.
#[derive(Clone, Debug, Serialize)]
pub struct Breakdown {
    /// How many lines were timed and stand for all.
    pub sampled_lines: u64,
    /// From reading to alerts; together all of the processor time.
    pub stages: Vec<Share>,
    /// The ten most costly nodes.
    pub nodes: Vec<Share>,
    /// The ten most costly scenarios: asking them and filling their buckets.
    pub scenarios: Vec<Share>,
}

/// What one part cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The part.
    pub name: String,
    /// Nanoseconds, spread over all lines.
    pub ns_per_line: f64,
    /// Of all processor time, from 0 to 1.
    pub share: f64,
    /// About how often it ran.
    pub runs: u64,
    /// Nanoseconds each time.
    pub ns_per_run: f64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        // What it takes to time nothing, which reads the clock twice.
        static TOLL: LazyLock<u64> = LazyLock::new(|| {
            let probe = Probe::new(nanos, 0);
            let time_nothing = || {
                let before = nanos();
                (0..100).for_each(|_| Probe::time(Some(&probe), Part::Line, || ()));
                let spent = nanos() - before;
                probe.drain(|_, _| ());
                spent / 200
            };
            (0..20).map(|_| time_nothing()).min().unwrap_or(0)
        });
        let probe = Probe::new(nanos, *TOLL);
        Self { probe, left: STEP, random: 0x9e37_79b9_7f4a_7c15, sample: Sample::default() }
    }

    /// Does `work`, timed or not. Without a meter it is not.
    pub(crate) fn time<R>(meter: Option<&mut Self>, part: Part, work: impl FnOnce(Option<&Probe>) -> R) -> R {
        let Some(meter) = meter else { return work(None) };
        meter.sample.seen += 1;
        meter.left -= 1;
        if meter.left > 0 {
            return work(None);
        }
        meter.left = 1 + meter.chance() % (2 * STEP - 1);
        let (cpu, wall) = (thread_time(), nanos());
        let result = Probe::time(Some(&meter.probe), part, || work(Some(&meter.probe)));
        let waited = (nanos() - wall).saturating_sub(thread_time().saturating_sub(cpu).as_nanos() as u64);
        meter.keep(waited < WAITED);
        result
    }

    /// Hands out what was timed since the last time.
    pub(crate) fn take(&mut self) -> Sample {
        std::mem::take(&mut self.sample)
    }

    fn keep(&mut self, sound: bool) {
        let Self { probe, sample, .. } = self;
        sample.taken += u64::from(sound);
        probe.drain(|part, nanos| {
            if sound {
                let cost = sample.spent.entry(part).or_default();
                cost.nanos += nanos;
                cost.runs += 1;
            }
        });
    }

    /// Marsaglia's xorshift: the same in every run, in step with no log.
    fn chance(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Sample {
    /// Adds what another thread timed.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.seen += other.seen;
        self.taken += other.taken;
        for (part, cost) in &other.spent {
            let mine = self.spent.entry(*part).or_default();
            mine.nanos += cost.nanos;
            mine.runs += cost.runs;
        }
    }

    /// What `part` cost over all that were seen: nanoseconds and runs.
    fn all(&self, part: Part) -> Estimate {
        let Some(cost) = self.spent.get(&part) else { return Estimate::default() };
        let each = self.seen as f64 / self.taken.max(1) as f64;
        Estimate { nanos: cost.nanos as f64 * each, runs: cost.runs as f64 * each }
    }

    fn parts(&self) -> impl Iterator<Item = (Part, Estimate)> {
        self.spent.keys().map(|part| (*part, self.all(*part)))
    }
}

/// A cost that was not counted but estimated.
#[derive(Clone, Copy, Debug, Default)]
struct Estimate {
    nanos: f64,
    runs: f64,
}

impl std::ops::Add for Estimate {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nanos: self.nanos + other.nanos, runs: self.runs + other.runs }
    }
}

impl Breakdown {
    /// Divides `total`, the processor time of a whole replay, of which `reading` went into reading.
    ///
    /// What was timed says how the parts relate, `total` how much there is to divide: to be timed makes a line slower.
    pub fn new(spent: &Spent, rules: &RuleSet, reading: Duration, total: Duration) -> Self {
        let (lines, pours) = (&spent.lines, &spent.pours);
        let whole = (total.as_nanos() as f64).max(1.0);
        let exact = [reading, spent.overflows].map(|time| Estimate { nanos: time.as_nanos() as f64, runs: 0.0 });
        let [line, asking] = [Part::Line, Part::Select].map(|part| lines.all(part));
        let pouring = pours.parts().fold(Estimate::default(), |sum, (_, cost)| sum + cost);
        let left = (whole - exact.iter().map(|cost| cost.nanos).sum::<f64>()).max(0.0);
        let scale = (left / (line.nanos + pouring.nanos)).min(1.0);

        let count = lines.seen.max(1) as f64;
        let share = |name: String, cost: Estimate| Share {
            name,
            ns_per_line: cost.nanos / count,
            share: cost.nanos / whole,
            runs: cost.runs as u64,
            ns_per_run: if cost.runs > 0.0 { cost.nanos / cost.runs } else { 0.0 },
        };
        let scaled = |name: String, cost: Estimate| share(name, Estimate { nanos: cost.nanos * scale, ..cost });

        let [reading, overflows] = exact;
        let mut stages = vec![share("reading".into(), reading)];
        let mut inner = asking.nanos;
        for (number, stage) in rules.parsers.stages().enumerate() {
            let cost = lines.all(Part::Stage(number));
            inner += cost.nanos;
            stages.push(scaled(stage.to_string(), cost));
        }
        stages.push(scaled("around the stages".into(), Estimate { nanos: (line.nanos - inner).max(0.0), ..line }));
        stages.push(scaled("asking scenarios".into(), asking));
        stages.push(scaled("filling buckets".into(), pouring));
        stages.push(share("overflows".into(), overflows));
        let known: f64 = stages.iter().map(|stage| stage.share * whole).sum();
        let rest = Estimate { nanos: (whole - known).max(0.0), runs: 0.0 };
        stages.push(share("everything else".into(), rest));

        let reports: Vec<_> = rules.parsers.reports().map(|report| (report.name, report.stage)).collect();
        let nodes = lines.parts().filter_map(|(part, cost)| match part {
            Part::Node(number) => reports.get(number).map(|(name, stage)| scaled(format!("{stage} {name}"), cost)),
            _ => None,
        });
        let scenarios = rules.scenarios.all().iter().enumerate().map(|(number, scenario)| {
            let (asked, poured) = (lines.all(Part::Ask(number)), pours.all(Part::Pour(number)));
            scaled(scenario.name.clone(), Estimate { runs: asked.runs, ..asked + poured })
        });
        Self {
            sampled_lines: lines.taken,
            stages,
            nodes: most_costly(nodes.collect()),
            scenarios: most_costly(scenarios.collect()),
        }
    }
}

fn most_costly(mut shares: Vec<Share>) -> Vec<Share> {
    shares.retain(|share| share.ns_per_line > 0.0);
    shares.sort_by(|a, b| b.ns_per_line.total_cmp(&a.ns_per_line));
    shares.truncate(LISTED);
    shares
}

/// Processor time of this process so far, in user code and in the kernel.
pub fn process_time() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

/// Processor time of this thread so far.
pub(crate) fn thread_time() -> Duration {
    time_of(ClockId::ThreadCPUTime)
}

fn time_of(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// The most memory that this process ever had resident, in bytes.
pub fn peak_memory() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib * 1024).ok_or_else(|| io::Error::other("`/proc/self/status` tells no peak of memory"))
}

fn nanos() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_for_all() {
        let mut meter = Meter::new();
        let mut timed = 0;
        for _ in 0..100_000 {
            Meter::time(Some(&mut meter), Part::Line, |probe| {
                timed += u64::from(probe.is_some());
                Probe::time(probe, Part::Stage(0), || ());
            });
        }
        let sample = meter.take();
        assert!((400..2000).contains(&timed), "{timed} of 100000 were timed");
        assert!(sample.taken > 0 && sample.taken <= timed, "{} of {timed} were sound", sample.taken);
        let runs = sample.all(Part::Stage(0)).runs;
        assert!((99_999.0..100_001.0).contains(&runs), "{runs} runs");
        assert_eq!(meter.take().seen, 0);
    }

    #[test]
    fn the_process_knows_what_it_used() {
        assert!(peak_memory().expect("a file of the kernel") > 1 << 20);
        assert!(process_time() >= thread_time());
    }
}
