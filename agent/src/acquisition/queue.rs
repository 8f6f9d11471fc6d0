//! The way from the datasources to whoever works on their batches.
//!
//! Each datasource has a lane of its own, and lanes are emptied in turn: a storm in one of them fills its lane and makes that
//! datasource wait, while a lone line in another is taken next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Batch;

/// A lane holds at least so many batches, however many lanes there are.
const SHORTEST: usize = 2;

/// A queue without lanes, with room for `room` batches in all (and never less than two in each lane).
pub fn queue(room: usize) -> (Lanes, Receiver) {
    let state = State { lanes: BTreeMap::new(), number: 0, turn: 0, sources: true, taken: true };
    let shared = Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new(), drained: Condvar::new(), room });
    (Lanes { shared: Arc::clone(&shared) }, Receiver { shared })
}

/// A queue for one datasource.
pub fn single(room: usize) -> (Lane, Receiver) {
    let (lanes, receiver) = queue(room);
    (lanes.add(), receiver)
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    room: usize,
}

#[derive(Debug)]
struct State {
    /// Those that may still bring something, or have brought what nobody has taken.
    lanes: BTreeMap<u64, Waiting>,
    /// The number of the next lane.
    number: u64,
    /// Whose turn it is, or that of the next one after him.
    turn: u64,
    /// Whether there may be more lanes.
    sources: bool,
    /// Whether anybody takes.
    taken: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Batch>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Batch> {
        let turn = self.turn;
        let (before, after) = (0..turn, turn..self.number);
        let waiting = |(_, lane): &(&u64, &Waiting)| !lane.batches.is_empty();
        let (number, _) = self.lanes.range(after).find(waiting).or_else(|| self.lanes.range(before).find(waiting))?;
        let number = *number;
        let lane = self.lanes.get_mut(&number)?;
        let batch = lane.batches.pop_front();
        if lane.closed && lane.batches.is_empty() {
            self.lanes.remove(&number);
        }
        self.turn = number + 1;
        batch
    }
}

/// Makes the lanes of a queue. The queue ends when it and all lanes are dropped.
#[derive(Debug)]
pub struct Lanes {
    shared: Arc<Shared>,
}

impl Lanes {
    /// A lane for one more datasource.
    pub fn add(&self) -> Lane {
        let mut state = self.shared.lock();
        let number = state.number;
        state.number += 1;
        state.lanes.insert(number, Waiting::default());
        Lane { number, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.shared.lock().sources = false;
        self.shared.filled.notify_all();
    }
}

/// Nobody takes batches any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HungUp;

/// Where one datasource puts its batches.
#[derive(Debug)]
pub struct Lane {
    number: u64,
    shared: Arc<Shared>,
}

impl Lane {
    /// Puts a batch behind those of the lane; waits while the lane is full.
    pub fn send(&self, batch: Batch) -> Result<(), HungUp> {
        let mut state = self.shared.lock();
        while state.taken && self.is_full(&state) {
            state = self.shared.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.taken {
            return Err(HungUp);
        }
        if let Some(lane) = state.lanes.get_mut(&self.number) {
            lane.batches.push_back(batch);
        }
        drop(state);
        self.shared.filled.notify_one();
        Ok(())
    }

    fn is_full(&self, state: &State) -> bool {
        let room = (self.shared.room / state.lanes.len().max(1)).max(SHORTEST);
        state.lanes.get(&self.number).is_some_and(|lane| lane.batches.len() >= room)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(lane) = state.lanes.get_mut(&self.number) {
            lane.closed = true;
            if lane.batches.is_empty() {
                state.lanes.remove(&self.number);
            }
        }
        drop(state);
        self.shared.filled.notify_all();
    }
}

/// Takes the batches of all datasources.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
}

impl Receiver {
    /// The next batch, of the lane whose turn it is; waits at most so long for one.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Batch, RecvTimeoutError> {
        self.take_until(Instant::now().checked_add(timeout))
    }

    /// The next batch; waits for one. `None` when all lanes are gone.
    pub fn recv(&self) -> Option<Batch> {
        self.take_until(None).ok()
    }

    /// The next batch, if there is one.
    pub fn try_recv(&self) -> Option<Batch> {
        let batch = self.shared.lock().next();
        if batch.is_some() {
            self.shared.drained.notify_all();
        }
        batch
    }

    /// What is there, without waiting.
    pub fn try_iter(&self) -> impl Iterator<Item = Batch> {
        std::iter::from_fn(|| self.try_recv())
    }

    /// Everything until all lanes are gone.
    pub fn iter(&self) -> impl Iterator<Item = Batch> {
        std::iter::from_fn(|| self.recv())
    }

    fn take_until(&self, end: Option<Instant>) -> Result<Batch, RecvTimeoutError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(batch) = state.next() {
                drop(state);
                self.shared.drained.notify_all();
                return Ok(batch);
            }
            if state.lanes.is_empty() && !state.sources {
                return Err(RecvTimeoutError::Disconnected);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.shared.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(RecvTimeoutError::Timeout),
                Some(left) => self.shared.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.taken = false;
        state.lanes.clear();
        drop(state);
        self.shared.drained.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use jiff::Timestamp;

    use super::*;
    use crate::acquisition::lines::Lines;

    fn batch(source: u32, sequence: u64) -> Batch {
        Batch {
            source,
            sequence,
            lines: Lines::default(),
            backlog: false,
            caught_up: false,
            steps: Vec::new(),
            read_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_storm_in_one_lane_keeps_nobody_waiting() {
        let (source, receiver) = queue(30);
        let lanes = [source.add(), source.add(), source.add()];
        for sequence in 0..10 {
            lanes[0].send(batch(0, sequence)).expect("somebody takes");
        }
        for sequence in 0..2 {
            lanes[1].send(batch(1, sequence)).expect("somebody takes");
            lanes[2].send(batch(2, sequence)).expect("somebody takes");
        }
        let order: Vec<(u32, u64)> = receiver.try_iter().take(8).map(|batch| (batch.source, batch.sequence)).collect();
        assert_eq!(order, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (0, 3)]);
        lanes[2].send(batch(2, 2)).expect("somebody takes");
        assert_eq!(receiver.recv().map(|batch| batch.source), Some(2), "a lone line does not wait behind the storm");
    }

    #[test]
    fn who_fills_his_lane_waits_until_it_is_emptied() {
        let (lane, receiver) = single(0);
        thread::scope(|scope| {
            scope.spawn(move || (0..100).for_each(|sequence| lane.send(batch(0, sequence)).expect("somebody takes")));
            let mut most = 0;
            let taken = std::iter::from_fn(|| {
                most =
                    most.max(receiver.shared.lock().lanes.values().map(|lane| lane.batches.len()).max().unwrap_or(0));
                receiver.recv()
            });
            assert!(taken.map(|batch| batch.sequence).eq(0..100));
            assert!(most <= SHORTEST);
        });
        assert_eq!(receiver.recv_timeout(Duration::ZERO).err(), Some(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn either_side_may_go_first() {
        let (lanes, receiver) = queue(2);
        assert_eq!(receiver.recv_timeout(Duration::ZERO).err(), Some(RecvTimeoutError::Timeout));
        let lane = lanes.add();
        drop(lanes);
        lane.send(batch(0, 0)).expect("somebody takes");
        drop(lane);
        assert!(receiver.recv().is_some(), "what was sent is taken");
        assert!(receiver.recv().is_none());

        let (lane, receiver) = single(2);
        (0..2).for_each(|sequence| lane.send(batch(0, sequence)).expect("somebody takes"));
        thread::scope(|scope| {
            let waits = scope.spawn(move || lane.send(batch(0, 2)));
            drop(receiver);
            assert_eq!(waits.join().expect("no panic"), Err(HungUp));
        });
    }
}
