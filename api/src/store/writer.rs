//! The one thread that writes.
//!
//! Whatever waits while a transaction is being committed goes into the next one together, so that a slow disk
//! costs latency, not throughput. Jobs become durable in the order in which they were queued. A store that
//! fails as a whole (disk full, locked) is tried again until it works: the queue is bounded, so that its users
//! slow down instead of losing anything.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::{StoreError, Write, Writer};

/// How many jobs may wait.
const QUEUE: usize = 1024;
/// How many jobs go into one transaction.
const GROUP: usize = 512;
/// Longest pause between attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How far the store has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durable {
    /// Every job up to this one is written.
    pub job: u64,
    /// Every change up to this number is written.
    pub change: u64,
}

/// A store that cannot be written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// What it says.
    pub error: String,
}

/// What is wrong with the store at this moment, if anything is.
type Troubled = Arc<Mutex<Option<Trouble>>>;

/// Changes that become durable together.
#[derive(Debug)]
pub(crate) struct Job {
    pub writes: Vec<Write>,
    pub reached: Durable,
    pub done: Option<oneshot::Sender<Result<(), StoreError>>>,
}

/// The queue in front of the thread.
#[derive(Debug)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    durable: watch::Receiver<Durable>,
    trouble: Troubled,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Starts the thread. `reached` is where the store stands.
    pub(crate) fn start(writer: Box<dyn Writer>, reached: Durable) -> Result<Self, StoreError> {
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let (sender, durable) = watch::channel(reached);
        let trouble = Troubled::default();
        let troubled = Arc::clone(&trouble);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || run(writer, receiver, &sender, &troubled))
            .map_err(|error| StoreError::Database(error.to_string()))?;
        Ok(Self { jobs, durable, trouble, thread: Some(thread) })
    }

    /// Waits for a place in the queue.
    pub(crate) async fn reserve(&self) -> Result<mpsc::Permit<'_, Job>, StoreError> {
        self.jobs.reserve().await.map_err(|_| StoreError::Closed)
    }

    /// Queues a job without waiting. Fails when the queue is full.
    pub(crate) fn send(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.try_send(job).map_err(|_| StoreError::Closed)
    }

    /// Since when the store cannot be written to, if it cannot.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far the store has come.
    pub(crate) fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }
}

impl Drop for Queue {
    /// Waits until everything that was queued is written.
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.jobs = closed;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the store's writer died");
        }
    }
}

fn run(
    mut writer: Box<dyn Writer>,
    mut jobs: mpsc::Receiver<Job>,
    durable: &watch::Sender<Durable>,
    troubled: &Troubled,
) {
    let mut group = Vec::new();
    while let Some(job) = jobs.blocking_recv() {
        group.push(job);
        while group.len() < GROUP
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        commit(writer.as_mut(), &mut group, durable, troubled, &|| jobs.is_closed());
    }
}

fn commit(
    writer: &mut dyn Writer,
    group: &mut Vec<Job>,
    durable: &watch::Sender<Durable>,
    troubled: &Troubled,
    closing: &dyn Fn() -> bool,
) {
    let jobs: Vec<&[Write]> = group.iter().map(|job| job.writes.as_slice()).collect();
    let mut pause = Duration::from_millis(50);
    let results = loop {
        match writer.commit(&jobs) {
            Ok(results) => {
                *troubled.lock().unwrap_or_else(PoisonError::into_inner) = None;
                break results;
            }
            Err(error) if closing() && pause >= MAX_PAUSE => {
                error!(%error, jobs = group.len(), "cannot write to the store and must stop: these changes are lost");
                group.clear();
                return;
            }
            Err(error) => {
                warn!(%error, jobs = group.len(), "cannot write to the store, trying again");
                let mut trouble = troubled.lock().unwrap_or_else(PoisonError::into_inner);
                let since = trouble.as_ref().map_or_else(Timestamp::now, |trouble| trouble.since);
                *trouble = Some(Trouble { since, error: error.to_string() });
                drop(trouble);
                std::thread::sleep(pause);
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    };
    if let Some(last) = group.last() {
        durable.send_replace(last.reached);
    }
    for (job, result) in group.drain(..).zip(results) {
        if let Err(error) = &result {
            error!(%error, "the store refused a change: it will be forgotten at the next start");
        }
        if let Some(done) = job.done {
            // Whoever asked may have stopped waiting.
            let _ = done.send(result);
        }
    }
}
