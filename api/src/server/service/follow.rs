//! Readers of the sequence of changes.
//!
//! A reader owns nothing but its place in the table's log: a slow one costs nothing, and one that the log has
//! left behind gets a snapshot, which it reads in steps. What many readers are waiting for is put together once.

use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use model::{Decision, Delta};

use super::{Durable, Inner};
use crate::decisions::{Cursor, Row, Scan};
use crate::feed::{Feed, FeedError, Update};

/// How long a delta that was put together is handed to further readers: it carries the clock.
const FRESH: Duration = Duration::from_millis(500);

/// What a reader gets at once.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Everything that holds follows: how much it is at most.
    Reset(usize),
    /// A part of what holds.
    Rows(Vec<Row>),
    /// That was everything. Its place is the one from which the reader goes on.
    Ready(Cursor),
    /// What changed, and the place it leads to.
    Delta(Cursor, Arc<Shared>),
}

/// A delta that several readers get.
#[derive(Debug)]
pub struct Shared {
    /// What changed.
    pub delta: Delta,
    /// How it is written, if all of it is wanted.
    pub(crate) written: OnceLock<Vec<axum::body::Bytes>>,
}

/// The last delta that was put together.
#[derive(Debug)]
pub(super) struct Recent {
    from: Cursor,
    upto: u64,
    at: Instant,
    reached: Cursor,
    shared: Arc<Shared>,
}

/// A reader in this process, which need not wait for the store.
#[derive(Debug)]
pub struct Subscription {
    inner: Weak<Inner>,
    applied: watch::Receiver<u64>,
    cursor: Option<Cursor>,
}

impl Subscription {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::downgrade(inner), applied: inner.applied.subscribe(), cursor: None }
    }
}

impl Feed for Subscription {
    async fn next(&mut self) -> Result<Update, FeedError> {
        loop {
            self.applied.borrow_and_update();
            let inner = self.inner.upgrade().ok_or(FeedError::Closed)?;
            let Some((reached, delta)) = inner.changes(self.cursor, u64::MAX) else {
                let (cursor, mut scan, count) = inner.snapshot();
                let mut all: Vec<Decision> = Vec::with_capacity(count);
                while let Some(rows) = inner.step(&mut scan) {
                    all.extend(rows.iter().map(Row::decision));
                }
                self.cursor = Some(cursor);
                return Ok(Update::Snapshot(all));
            };
            self.cursor = Some(reached);
            if delta != Delta::default() {
                return Ok(Update::Delta(delta));
            }
            if *inner.closed.borrow() {
                return Err(FeedError::Closed);
            }
            drop(inner);
            self.applied.changed().await.map_err(|_| FeedError::Closed)?;
        }
    }
}

/// A reader that sees only what is durable.
#[derive(Debug)]
pub struct Follow {
    inner: Weak<Inner>,
    durable: watch::Receiver<Durable>,
    closed: watch::Receiver<bool>,
    cursor: Option<Cursor>,
    /// The snapshot that is being read, and where it leads.
    snapshot: Option<(Cursor, Scan)>,
}

impl Follow {
    pub(super) fn durable(inner: &Arc<Inner>, cursor: Option<Cursor>) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            durable: inner.queue.durable(),
            closed: inner.closed.subscribe(),
            cursor,
            snapshot: None,
        }
    }

    /// Waits for what comes next. `None` when the server stops. Safe to drop while waiting.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            let durable = self.durable.borrow_and_update().change;
            let inner = self.inner.upgrade()?;
            if *self.closed.borrow_and_update() {
                return None;
            }
            if let Some((cursor, scan)) = &mut self.snapshot {
                if let Some(rows) = inner.step(scan) {
                    return Some(Batch::Rows(rows));
                }
                // What was shown, and what was left out since it is lifted, must be true after a crash too.
                let (cursor, seen) = (*cursor, inner.applied_change());
                drop(inner);
                self.durable.wait_for(|durable| durable.change >= seen).await.ok()?;
                self.snapshot = None;
                self.cursor = Some(cursor);
                return Some(Batch::Ready(cursor));
            }
            let Some((reached, shared)) = self.cursor.and_then(|from| inner.shared(from, durable)) else {
                let (cursor, scan, count) = inner.snapshot();
                self.snapshot = Some((cursor, scan));
                return Some(Batch::Reset(count));
            };
            self.cursor = Some(reached);
            if shared.delta != Delta::default() {
                return Some(Batch::Delta(reached, shared));
            }
            drop(inner);
            tokio::select! {
                changed = self.durable.changed() => changed.ok()?,
                changed = self.closed.changed() => changed.ok()?,
            }
        }
    }
}

impl Inner {
    /// What changed after `cursor` up to the change `upto`, if the log reaches back so far.
    fn changes(&self, cursor: Option<Cursor>, upto: u64) -> Option<(Cursor, Delta)> {
        let now = Timestamp::now();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).table.since(cursor?, upto, now)
    }

    /// The same for many readers, who mostly ask for the same.
    fn shared(&self, from: Cursor, upto: u64) -> Option<(Cursor, Arc<Shared>)> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recent) = &*recent
            && (recent.from, recent.upto) == (from, upto)
            && recent.at.elapsed() < FRESH
        {
            return Some((recent.reached, Arc::clone(&recent.shared)));
        }
        let (reached, delta) = self.changes(Some(from), upto)?;
        let shared = Arc::new(Shared { delta, written: OnceLock::new() });
        *recent = Some(Recent { from, upto, at: Instant::now(), reached, shared: Arc::clone(&shared) });
        Some((reached, shared))
    }

    /// A walk through everything, the place from which its reader goes on, and how much it is at most.
    fn snapshot(&self) -> (Cursor, Scan, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (cursor, scan) = state.table.snapshot(Timestamp::now());
        (cursor, scan, state.table.len())
    }

    fn applied_change(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).table.cursor().number
    }

    /// The next step of a walk.
    pub(super) fn step(&self, scan: &mut Scan) -> Option<Vec<Row>> {
        scan.step(&self.state.lock().unwrap_or_else(PoisonError::into_inner).table)
    }
}
