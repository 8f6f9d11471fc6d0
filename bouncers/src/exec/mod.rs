//! Programs that carry out decisions.
//!
//! No shell is involved and no value ever stands in an argument: a program gets batches as JSON on its standard input,
//! one at a time, with nothing in its environment, and loses its whole process group when it takes too long.

mod child;
pub mod config;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use tracing::warn;
use uuid::Uuid;

use self::child::{Child, Ended};
use self::config::{Config, Style};
use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Plan};
use crate::engine::{Bouncer, Caps, Check, Difference, Extent, Outcome, Takes, Wanted};
use crate::error::BouncerError;
use crate::webhook::batch::{Batch, Change, Part, changes};
use crate::webhook::{all, is_sent};

/// What programs can do: be told of anything.
pub const CAPS: Caps = Caps { remediations: Takes::All, scopes: Takes::All, ..Caps::REMOTE };

/// A target that is a program on this host.
#[derive(Debug)]
pub struct Exec {
    name: String,
    config: Config,
    child: Option<Child>,
    seq: AtomicU64,
    /// Whether the last batch was carried out.
    reached: bool,
}

impl Exec {
    /// A target called `name`. Nothing is started yet.
    pub fn open(name: &str, config: Config) -> Self {
        let seq = AtomicU64::new(u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0));
        Self { name: name.to_owned(), config, child: None, seq, reached: false }
    }

    fn batch(&self, changes: Vec<Change>) -> Batch {
        Batch::new(Uuid::new_v4().to_string(), self.seq.fetch_add(1, Ordering::Relaxed), changes)
    }

    /// Has one batch carried out: whether it was, or why it never will be.
    async fn carry_out(&mut self, batch: &Batch) -> Result<Result<(), String>, BouncerError> {
        let mut line = serde_json::to_string(batch).expect("texts, numbers and times are JSON");
        line.push('\n');
        let ended = match self.config.style {
            Style::Once => child::run_once(&self.name, &self.config, line).await,
            Style::Stay => {
                let mut child = match self.child.take() {
                    Some(child) => child,
                    None => Child::start(&self.name, &self.config)?,
                };
                let ended = child.ask(&line, self.config.limit).await;
                // one that has ended or makes no sense is not asked again: the next batch gets a fresh one
                if !matches!(ended, Ok(Ended::Lost(_)) | Err(_)) && child.is_running() {
                    self.child = Some(child);
                } else {
                    child.kill().await;
                }
                ended
            }
        };
        match ended? {
            Ended::Done => Ok(Ok(())),
            Ended::Refused(reason) => Ok(Err(reason)),
            Ended::Later(reason) | Ended::Lost(reason) => Err(BouncerError::unreachable(&self.name, reason)),
        }
    }

    /// Has `changes` carried out in batches; those of a batch that is refused are set aside.
    async fn tell(&mut self, changes: Vec<Change>) -> Result<Vec<(Key, String)>, BouncerError> {
        let mut refused = Vec::new();
        for changes in changes.chunks(self.config.batch) {
            let batch = self.batch(changes.to_vec());
            if let Err(reason) = self.carry_out(&batch).await? {
                warn!(target = self.name, changes = changes.len(), reason, "a program refused a batch");
                refused.extend(batch.changes.into_iter().map(|change| (change.key, reason.clone())));
            }
        }
        Ok(refused)
    }

    async fn tell_all(&mut self, changes: &[Change]) -> Result<(), BouncerError> {
        let parts: Vec<&[Change]> = match changes {
            [] => vec![&[]],
            changes => changes.chunks(self.config.batch).collect(),
        };
        let of = parts.len();
        for (at, changes) in parts.into_iter().enumerate() {
            let batch = self.batch(changes.to_vec()).full(Part { index: at + 1, of });
            if let Err(reason) = self.carry_out(&batch).await? {
                return Err(BouncerError::unusable(&self.name, reason));
            }
        }
        Ok(())
    }
}

impl Bouncer for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn caps(&self) -> Caps {
        CAPS
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        Ok(())
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, _: Timestamp) -> Result<Outcome, BouncerError> {
        self.reached = false;
        let changes = all(&wanted, &self.config.scopes);
        let refused = match extent {
            Extent::Exactly => {
                self.tell_all(&changes).await?;
                Vec::new()
            }
            Extent::AtLeast => self.tell(changes).await?,
        };
        self.reached = true;
        Ok(Outcome { refused, ..Outcome::default() })
    }

    async fn apply(&mut self, plan: &Plan, _: Timestamp) -> Result<Outcome, BouncerError> {
        self.reached = false;
        let mut changes = changes(plan);
        changes.retain(|change| is_sent(&change.key, &self.config.scopes));
        let refused = self.tell(changes).await?;
        self.reached = true;
        Ok(Outcome { refused, ..Outcome::default() })
    }

    async fn check(&mut self, _: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        // what a program does with what it is told cannot be seen from here
        let gone = self.child.as_mut().is_some_and(|child| !child.is_running());
        Ok(Check { intact: self.reached && !gone, armed: true, asked: 0, missing: 0 })
    }

    async fn compare(&mut self, _: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        Ok(Difference::default())
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.tell_all(&[]).await
    }
}
