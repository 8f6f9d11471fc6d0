//! What one event costs, part by part.
//!
//! The pure crates have no clock. A shell that measures lends a [`Probe`] for a few events among many; whoever works says
//! which part it was. What reading the clock costs is taken off, also for parts within parts.

use std::cell::{Cell, RefCell};

/// Nanoseconds since any fixed moment.
pub type Clock = fn() -> u64;

/// A part of the work on one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All of it, up to its pours.
    Line,
    /// A stage, by its number.
    Stage(usize),
    /// A node at the top of a parser, by its place among the reports of the set.
    Node(usize),
    /// Asking the scenarios, all of them, and keeping what the buckets need.
    Select,
    /// Asking one scenario, by its place in file order.
    Ask(usize),
    /// A pour into a bucket of this scenario.
    Pour(usize),
}

/// A stopwatch for one event after the other.
#[derive(Debug)]
pub struct Probe {
    clock: Clock,
    /// What it costs to read the clock, in nanoseconds.
    toll: u64,
    readings: Cell<u64>,
    spent: RefCell<Vec<(Part, u64)>>,
}

impl Probe {
    /// A stopwatch that reads `clock`, which costs `toll` nanoseconds each time.
    pub fn new(clock: Clock, toll: u64) -> Self {
        Self { clock, toll, readings: Cell::new(0), spent: RefCell::default() }
    }

    /// Does `work`, and notes what it cost if there is a probe.
    pub fn time<R>(probe: Option<&Self>, part: Part, work: impl FnOnce() -> R) -> R {
        let started = probe.map(|probe| (probe.read(), probe.readings.get()));
        let result = work();
        if let (Some(probe), Some((at, readings))) = (probe, started) {
            let now = probe.read();
            let tolls = (probe.readings.get() - readings) * probe.toll;
            probe.spent.borrow_mut().push((part, now.saturating_sub(at).saturating_sub(tolls)));
        }
        result
    }

    /// Hands out what was noted since the last time, in nanoseconds, and forgets it.
    pub fn drain(&self, mut each: impl FnMut(Part, u64)) {
        for (part, nanos) in self.spent.borrow_mut().drain(..) {
            each(part, nanos);
        }
    }

    fn read(&self) -> u64 {
        self.readings.set(self.readings.get() + 1);
        (self.clock)()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn parts_within_parts_pay_no_toll() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        // Each reading takes ten, and so does each piece of work.
        fn ten() -> u64 {
            NOW.fetch_add(10, Ordering::Relaxed) + 10
        }
        let probe = Probe::new(ten, 10);
        let answer = Probe::time(Some(&probe), Part::Line, || {
            ten();
            Probe::time(Some(&probe), Part::Stage(0), || {
                Probe::time(Some(&probe), Part::Node(7), ten);
                ten();
            });
            "done"
        });
        assert_eq!(answer, "done");
        let mut spent = Vec::new();
        probe.drain(|part, nanos| spent.push((part, nanos)));
        assert_eq!(spent, [(Part::Node(7), 10), (Part::Stage(0), 20), (Part::Line, 30)]);
        probe.drain(|part, _| panic!("{part:?} was handed out twice"));
    }
}
