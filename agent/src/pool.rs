//! A few threads that do what the engine asks, and the engine's own thread among them.
//!
//! Each thread keeps a worker (scratch space that cannot change threads). Jobs that are asked for now go before those that
//! were started for later; who asked works along, so that a single job never changes threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{fmt, io, thread};

use tracing::error;

type Job<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Threads with a `W` each.
pub struct Pool<W> {
    shared: Arc<Shared<W>>,
    make: fn() -> W,
    own: W,
    threads: usize,
}

struct Shared<W> {
    queue: Mutex<Queue<W>>,
    filled: Condvar,
}

struct Queue<W> {
    /// Those that somebody waits for.
    first: VecDeque<Job<W>>,
    jobs: VecDeque<Job<W>>,
    over: bool,
}

impl<W: 'static> Pool<W> {
    /// A pool of `threads` threads, the calling one included, whose workers are made with `make`.
    pub fn new(threads: usize, make: fn() -> W) -> io::Result<Self> {
        let queue = Mutex::new(Queue { first: VecDeque::new(), jobs: VecDeque::new(), over: false });
        let shared = Arc::new(Shared { queue, filled: Condvar::new() });
        for number in 1..threads {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("engine {number}")).spawn(move || {
                let mut worker = make();
                while let Some(job) = shared.wait() {
                    job(&mut worker);
                }
            })?;
        }
        Ok(Self { shared, make, own: make(), threads: threads.max(1) })
    }

    /// The worker of the calling thread.
    pub fn own(&mut self) -> &mut W {
        &mut self.own
    }

    /// How many threads there are, the calling one included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Does all jobs now; the answers come in the order of the jobs. A job that panicked has none, and its worker is made
    /// anew: one line that finds a mistake of ours must not stop the engine.
    pub fn run<R, F>(&mut self, jobs: Vec<F>) -> Vec<Option<R>>
    where
        R: Send + 'static,
        F: FnOnce(&mut W) -> R + Send + 'static,
    {
        let make = self.make;
        if jobs.len() == 1 || self.threads == 1 {
            return jobs.into_iter().map(|job| guarded(job, &mut self.own, make)).collect();
        }
        let started = self.add(jobs, true);
        self.finish(started)
    }

    /// Begins jobs that the other threads may do while the calling one does something else, behind all that were begun before.
    pub fn start<R, F>(&mut self, jobs: Vec<F>) -> Started<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut W) -> R + Send + 'static,
    {
        self.add(jobs, false)
    }

    /// Does what is left of `started`; the answers are those of [`Pool::run`].
    pub fn finish<R>(&mut self, started: Started<R>) -> Vec<Option<R>> {
        let Started { mut answers, answered, mut open } = started;
        while open > 0 {
            let answer = match answered.try_recv() {
                Err(TryRecvError::Empty) => match self.shared.take() {
                    Some(job) => {
                        job(&mut self.own);
                        continue;
                    }
                    None => answered.recv().ok(),
                },
                answer => answer.ok(),
            };
            // Every job answers, also one that panicked.
            let Some((index, answer)) = answer else { break };
            answers[index] = answer;
            open -= 1;
        }
        answers
    }

    fn add<R, F>(&mut self, jobs: Vec<F>, now: bool) -> Started<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut W) -> R + Send + 'static,
    {
        let make = self.make;
        let answers: Vec<Option<R>> = jobs.iter().map(|_| None).collect();
        let open = answers.len();
        let (sender, answered) = channel();
        let jobs = jobs.into_iter().enumerate().map(|(index, job)| {
            let sender = sender.clone();
            let job = move |worker: &mut W| {
                // Whoever started it may have lost interest.
                let _ = sender.send((index, guarded(job, worker, make)));
            };
            Box::new(job) as Job<W>
        });
        let mut queue = self.shared.lock();
        if now {
            queue.first.extend(jobs);
        } else {
            queue.jobs.extend(jobs);
        }
        drop(queue);
        self.shared.filled.notify_all();
        Started { answers, answered, open }
    }
}

/// Jobs that are being done.
#[derive(Debug)]
pub struct Started<R> {
    /// By number of the job, those that are there.
    answers: Vec<Option<R>>,
    answered: mpsc::Receiver<(usize, Option<R>)>,
    /// How many answers are missing.
    open: usize,
}

fn guarded<W, R>(job: impl FnOnce(&mut W) -> R, worker: &mut W, make: fn() -> W) -> Option<R> {
    let answer = catch_unwind(AssertUnwindSafe(|| job(worker)));
    if answer.is_err() {
        error!("a job of the engine panicked; what it worked on is lost");
        *worker = make();
    }
    answer.ok()
}

impl<W> Queue<W> {
    fn next(&mut self) -> Option<Job<W>> {
        self.first.pop_front().or_else(|| self.jobs.pop_front())
    }
}

impl<W> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Queue<W>> {
        // Jobs run without the lock, and the queue is whole between any two statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Job<W>> {
        self.lock().next()
    }

    /// The next job; `None` when the pool is over.
    fn wait(&self) -> Option<Job<W>> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.next() {
                return Some(job);
            }
            if queue.over {
                return None;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<W> Drop for Pool<W> {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.filled.notify_all();
    }
}

impl<W> fmt::Debug for Pool<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_order_whatever_the_threads() {
        for threads in [0, 1, 2, 5] {
            let mut pool = Pool::new(threads, || 0usize).expect("threads can be started");
            for count in [0, 1, 2, 100] {
                let job = |index: usize| {
                    move |worker: &mut usize| {
                        *worker += 1;
                        index * index
                    }
                };
                let answers = pool.run((0..count).map(job).collect());
                assert_eq!(
                    answers,
                    (0..count).map(|index| Some(index * index)).collect::<Vec<_>>(),
                    "{threads} {count}"
                );
            }
        }
    }

    #[test]
    fn what_was_started_goes_on_beside_what_is_asked_for() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads, || 0usize).expect("threads can be started");
            let job = |index: usize| move |_: &mut usize| index;
            let early = pool.start((0..50).map(job).collect());
            let late = pool.start((50..100).map(job).collect());
            let now = pool.run((100..110).map(job).collect());
            assert_eq!(now, (100..110).map(Some).collect::<Vec<_>>(), "{threads}");
            assert_eq!(pool.finish(early), (0..50).map(Some).collect::<Vec<_>>(), "{threads}");
            drop(late);
            let none: Vec<fn(&mut usize) -> usize> = Vec::new();
            let none = pool.start(none);
            assert_eq!(pool.finish(none), []);
            assert_eq!(pool.run((0..3).map(job).collect()), [Some(0), Some(1), Some(2)], "{threads}");
        }
    }

    #[test]
    fn a_panic_costs_its_own_job_only() {
        let mut pool = Pool::new(3, || 0usize).expect("threads can be started");
        for _ in 0..3 {
            let job = |index: usize| {
                move |_: &mut usize| {
                    assert!(index != 7, "seven");
                    index
                }
            };
            let answers = pool.run((0..20).map(job).collect());
            assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 1);
            assert_eq!(answers[7], None);
        }
    }
}
