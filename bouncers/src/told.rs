//! Targets that are only told, and cannot be asked: what arrived is all that is known of them.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use uuid::Uuid;

use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Plan};
use crate::engine::{Bouncer, Caps, Check, Difference, Extent, Outcome, Takes, Wanted};
use crate::error::BouncerError;
use crate::webhook::batch::{self, Batch, Change, Part};

/// What they can do: be told of anything.
pub const CAPS: Caps = Caps { remediations: Takes::All, scopes: Takes::All, ..Caps::REMOTE };

/// Numbers batches: greater than before a restart, however many there were.
#[derive(Debug)]
pub struct Sequence(AtomicU64);

impl Default for Sequence {
    fn default() -> Self {
        Self(AtomicU64::new(u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)))
    }
}

impl Sequence {
    /// The next batch, with `changes`.
    pub fn batch(&self, changes: Vec<Change>) -> Batch {
        Batch::new(Uuid::new_v4().to_string(), self.0.fetch_add(1, Ordering::Relaxed), changes)
    }
}

/// Somebody who is told.
pub trait Listener: Send {
    /// What it is, for logs.
    const NAME: &'static str;

    /// The scopes beside addresses that it is told of; none are all.
    fn scopes(&self) -> &[String];

    /// How many changes a batch has at most.
    fn batch_size(&self) -> usize;

    /// Where its batches get their numbers.
    fn sequence(&self) -> &Sequence;

    /// Tells of `changes` in batches. What it will never take comes back with the reason.
    fn tell(&mut self, changes: Vec<Change>) -> impl Future<Output = Result<Vec<(Key, String)>, BouncerError>> + Send;

    /// Tells one part of everything that holds; none may be missing.
    fn tell_part(&mut self, part: &Batch) -> impl Future<Output = Result<(), BouncerError>> + Send;

    /// Whether it is still there to know what it was told.
    fn remembers(&mut self) -> bool {
        true
    }
}

/// A target that is told.
#[derive(Debug)]
pub struct Told<L> {
    listener: L,
    /// Whether the last batch arrived.
    reached: bool,
}

impl<L: Listener> Told<L> {
    /// Nothing is told yet.
    pub fn new(listener: L) -> Self {
        Self { listener, reached: false }
    }

    /// Tells everything that holds, in parts.
    async fn tell_all(&mut self, changes: &[Change]) -> Result<(), BouncerError> {
        let parts: Vec<&[Change]> = match changes {
            [] => vec![&[]],
            changes => changes.chunks(self.listener.batch_size()).collect(),
        };
        let of = parts.len();
        for (at, changes) in parts.into_iter().enumerate() {
            let part = self.listener.sequence().batch(changes.to_vec()).full(Part { index: at + 1, of });
            self.listener.tell_part(&part).await?;
        }
        Ok(())
    }
}

impl<L: Listener> Bouncer for Told<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn caps(&self) -> Caps {
        CAPS
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        Ok(())
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, _: Timestamp) -> Result<Outcome, BouncerError> {
        self.reached = false;
        let changes = all(&wanted, self.listener.scopes());
        let refused = match extent {
            Extent::Exactly => {
                self.tell_all(&changes).await?;
                Vec::new()
            }
            Extent::AtLeast => self.listener.tell(changes).await?,
        };
        self.reached = true;
        Ok(Outcome { refused, ..Outcome::default() })
    }

    async fn apply(&mut self, plan: &Plan, _: Timestamp) -> Result<Outcome, BouncerError> {
        self.reached = false;
        let mut changes = batch::changes(plan);
        changes.retain(|change| is_sent(&change.key, self.listener.scopes()));
        let refused = self.listener.tell(changes).await?;
        self.reached = true;
        Ok(Outcome { refused, ..Outcome::default() })
    }

    async fn check(&mut self, _: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        // what is done with what was told cannot be seen from here
        let intact = self.reached && self.listener.remembers();
        Ok(Check { intact, armed: true, asked: 0, missing: 0 })
    }

    async fn compare(&mut self, _: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        Ok(Difference::default())
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.tell_all(&[]).await
    }
}

/// Everything that is wanted, in order.
fn all(wanted: &Wanted<'_>, scopes: &[String]) -> Vec<Change> {
    let mut keys: Vec<(&Key, &Placed)> = wanted.placed.iter().filter(|(key, _)| is_sent(key, scopes)).collect();
    keys.sort_unstable_by_key(|&(key, _)| key);
    keys.into_iter().flat_map(|(key, placed)| batch::additions(key, placed, wanted.why(key).as_ref())).collect()
}

/// Whether entries of `key` are told: addresses always, other scopes if they are listed or nothing is.
fn is_sent(key: &Key, scopes: &[String]) -> bool {
    key.net().is_some()
        || scopes.is_empty()
        || scopes.iter().any(|scope| scope.eq_ignore_ascii_case(key.scope().as_str()))
}
