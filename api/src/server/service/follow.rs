//! Readers of the sequence of changes.
//!
//! A reader owns nothing but its place in the table's log: a slow one costs nothing, and one that the log has
//! left behind gets a snapshot.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};

use jiff::Timestamp;
use tokio::sync::watch;

use model::{Decision, Delta};

use super::{Durable, Inner};
use crate::decisions::{Cursor, Row};
use crate::feed::{Feed, FeedError, Update};

/// What a reader gets at once.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Everything that holds.
    Snapshot(Vec<Arc<Row>>),
    /// What changed.
    Delta(Delta),
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
            if let Some(batch) = read(&inner, &mut self.cursor, u64::MAX) {
                return Ok(match batch {
                    Batch::Snapshot(rows) => Update::Snapshot(decisions(&rows)),
                    Batch::Delta(delta) => Update::Delta(delta),
                });
            }
            if inner.closed.load(Ordering::Acquire) {
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
    applied: watch::Receiver<u64>,
    cursor: Option<Cursor>,
}

impl Follow {
    pub(super) fn durable(inner: &Arc<Inner>, cursor: Option<Cursor>) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            durable: inner.queue.durable(),
            applied: inner.applied.subscribe(),
            cursor,
        }
    }

    /// Waits for the next changes; answers with the place they lead to. `None` when the server stops. Safe to
    /// drop while waiting.
    pub async fn next(&mut self) -> Option<(Cursor, Batch)> {
        loop {
            let durable = self.durable.borrow_and_update().change;
            self.applied.borrow_and_update();
            let inner = self.inner.upgrade()?;
            if inner.closed.load(Ordering::Acquire) {
                return None;
            }
            let mut cursor = self.cursor;
            let batch = read(&inner, &mut cursor, durable);
            drop(inner);
            if let (Some(batch), Some(reached)) = (batch, cursor) {
                // A snapshot shows also what is not durable yet.
                self.durable.wait_for(|durable| durable.change >= reached.number).await.ok()?;
                self.cursor = cursor;
                return Some((reached, batch));
            }
            self.cursor = cursor;
            tokio::select! {
                changed = self.durable.changed() => changed.ok()?,
                changed = self.applied.changed() => changed.ok()?,
            }
        }
    }
}

fn read(inner: &Inner, cursor: &mut Option<Cursor>, upto: u64) -> Option<Batch> {
    let now = Timestamp::now();
    let state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(from) = *cursor
        && let Some((reached, delta)) = state.table.since(from, upto, now)
    {
        *cursor = Some(reached);
        return (delta != Delta::default()).then_some(Batch::Delta(delta));
    }
    let (reached, rows) = state.table.snapshot(now);
    *cursor = Some(reached);
    Some(Batch::Snapshot(rows))
}

fn decisions(rows: &[Arc<Row>]) -> Vec<Decision> {
    rows.iter().map(|row| row.decision()).collect()
}
