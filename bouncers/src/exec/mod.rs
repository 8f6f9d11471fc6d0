//! Programs that carry out decisions.
//!
//! No shell is involved and no value ever stands in an argument: a program gets batches as JSON on its standard input,
//! one at a time, with nothing in its environment, and loses its whole process group when it takes too long.

mod child;
pub mod config;
#[cfg(test)]
mod tests;

use tracing::warn;

use self::child::{Child, Ended};
use self::config::{Config, Style};
use crate::engine::desired::Key;
use crate::error::BouncerError;
use crate::told::{Listener, Sequence};
use crate::webhook::batch::{Batch, Change};

/// A target that is a program on this host.
#[derive(Debug)]
pub struct Exec {
    name: String,
    config: Config,
    child: Option<Child>,
    sequence: Sequence,
}

impl Exec {
    /// A target called `name`. Nothing is started yet.
    pub fn open(name: &str, config: Config) -> Self {
        Self { name: name.to_owned(), config, child: None, sequence: Sequence::default() }
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
}

impl Listener for Exec {
    const NAME: &'static str = "exec";

    fn scopes(&self) -> &[String] {
        &self.config.scopes
    }

    fn batch_size(&self) -> usize {
        self.config.batch
    }

    fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Has `changes` carried out in batches; those of a batch that is refused are set aside.
    async fn tell(&mut self, changes: Vec<Change>) -> Result<Vec<(Key, String)>, BouncerError> {
        let mut refused = Vec::new();
        for changes in changes.chunks(self.config.batch) {
            let batch = self.sequence.batch(changes.to_vec());
            if let Err(reason) = self.carry_out(&batch).await? {
                warn!(target = self.name, changes = changes.len(), reason, "a program refused a batch");
                refused.extend(batch.changes.into_iter().map(|change| (change.key, reason.clone())));
            }
        }
        Ok(refused)
    }

    async fn tell_part(&mut self, part: &Batch) -> Result<(), BouncerError> {
        let done = self.carry_out(part).await?;
        done.map_err(|reason| BouncerError::unusable(&self.name, reason))
    }

    fn remembers(&mut self) -> bool {
        self.child.as_mut().is_none_or(Child::is_running)
    }
}
