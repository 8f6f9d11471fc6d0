//! A Ziti network as the engine drives it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::api::ApiError;
use super::config::Options;
use super::journal::Journal;
use super::plan::{Standing, Step};
use super::work::{Settled, Work, ZitiError, kind};
use crate::config::Settings;
use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::{Bouncer, Caps, Check, Difference, Disturbance, Extent, Outcome, Takes, Wanted};
use crate::error::BouncerError;

/// How long after a look that failed the next one comes.
const AGAIN: Duration = Duration::from_secs(5);

/// One Ziti network.
pub struct Ziti {
    name: String,
    work: Work,
    /// When to look without being asked.
    wake: Instant,
}

impl Ziti {
    /// What a Ziti network can do. Sessions from addresses are ended, the addresses themselves are for the firewall.
    pub const CAPS: Caps = Caps {
        scopes: Takes::Only(&["identity", "session"]),
        refreshes: true,
        batch: 20,
        window: Duration::from_millis(100),
        ..Caps::REMOTE
    };

    /// The network that `options` name. Nobody is asked yet; what is ours is kept beside the state of `settings`.
    pub fn open(settings: &Settings, options: &Options) -> Result<Self, BouncerError> {
        let setup = |error: &dyn std::error::Error| BouncerError::Setup(error.to_string());
        let api = options.open().map_err(|error| setup(&error))?;
        let path = settings.beside("owned").ok_or_else(|| {
            BouncerError::Setup("a Ziti network needs a place for what is ours there, expected a `snapshot`".to_owned())
        })?;
        let journal = Journal::read(&path).map_err(|error| setup(&error))?;
        if journal.damaged() > 0 {
            warn!(
                target = settings.name,
                lines = journal.damaged(),
                "the journal is damaged: identities that we disabled may have to be enabled by hand"
            );
        }
        let work = Work::new(options.clone(), api, journal);
        Ok(Self { name: settings.name.clone(), work, wake: Instant::now() + AGAIN })
    }

    fn error(&self, error: ZitiError) -> BouncerError {
        let said = error.to_string();
        match error {
            ZitiError::Api(ApiError::Busy { after, .. }) => BouncerError::busy(&self.name, said, after),
            ZitiError::Api(ApiError::Resting { wait }) => BouncerError::busy(&self.name, said, Some(wait)),
            ZitiError::Api(error) if error.is_passing() => BouncerError::unreachable(&self.name, said),
            ZitiError::Api(ApiError::Unauthorised { .. } | ApiError::SecondFactor | ApiError::Forbidden { .. }) => {
                BouncerError::unauthorised(&self.name, said)
            }
            ZitiError::Api(_) => BouncerError::unusable(&self.name, said),
            ZitiError::Journal(_) => BouncerError::Setup(said),
        }
    }

    /// Brings what `only` names to what is wished, or everything.
    async fn settle(
        &mut self,
        only: Option<&BTreeSet<Key>>,
        placed: &Placement,
        now: Timestamp,
    ) -> Result<Outcome, BouncerError> {
        let outcome = self.carry_out(only, placed, now).await.map_err(|error| self.error(error));
        self.wake = Instant::now() + if outcome.is_ok() { self.work.wake() } else { AGAIN };
        outcome
    }

    async fn carry_out(
        &mut self,
        only: Option<&BTreeSet<Key>>,
        placed: &Placement,
        now: Timestamp,
    ) -> Result<Outcome, ZitiError> {
        let identities = self.work.settle(only).await?;
        let sessions = self.work.end_sessions(only).await?;
        self.work.assist(placed, now).await?;
        let mut outcome = Outcome::default();
        for (key, settled) in identities.into_iter().chain(sessions) {
            match settled {
                Settled::Done(Standing::Waiting(until)) => {
                    outcome.pending.push((key, format!("what was asked for may still happen until {until}")));
                }
                Settled::Done(_) => {}
                Settled::Partial(reason) => outcome.pending.push((key, reason)),
                Settled::Refused(reason) => outcome.refused.push((key, reason)),
            }
        }
        Ok(outcome)
    }

    async fn look(&mut self, only: Option<&BTreeSet<Key>>) -> Result<Difference, BouncerError> {
        let pending = self.work.outlook(only).await.map_err(|error| self.error(error))?;
        let mut difference = Difference::default();
        for found in pending {
            let what = match found.step {
                Step::Disable(_) | Step::Note(_) | Step::Renew => "is not disabled as it should be",
                Step::Lift => "is disabled by us and should not be",
                Step::Cut => "has sessions or circuits",
                Step::Rest(_) => continue,
            };
            let line = format!("{} {what}", found.value);
            if found.wanted { difference.missing.push(line) } else { difference.surplus.push(line) }
        }
        Ok(difference)
    }
}

/// Those of `keys` that are about identities and sessions.
fn ours<'a>(keys: impl IntoIterator<Item = &'a Key>) -> BTreeSet<Key> {
    keys.into_iter().filter(|key| kind(key).is_some()).cloned().collect()
}

impl Bouncer for Ziti {
    fn name(&self) -> &'static str {
        "ziti"
    }

    fn caps(&self) -> Caps {
        Self::CAPS
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        self.work.connect().await.map_err(|error| self.error(error))
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, now: Timestamp) -> Result<Outcome, BouncerError> {
        if extent == Extent::Exactly {
            self.work.wish_nothing();
        }
        self.work.wish(wanted.placed.iter().map(|(key, placed)| (key, Some(placed.until))));
        match extent {
            Extent::Exactly => self.settle(None, wanted.placed, now).await,
            // What is ours and not wished stays until the API has said so.
            Extent::AtLeast => {
                let only = ours(wanted.placed.keys());
                self.settle(Some(&only), wanted.placed, now).await
            }
        }
    }

    async fn apply(&mut self, plan: &Plan, now: Timestamp) -> Result<Outcome, BouncerError> {
        self.work.wish(plan.changes.iter().map(|change| (&change.key, change.after.as_ref().map(|after| after.until))));
        let only = ours(plan.changes.iter().map(|change| &change.key));
        let fresh = plan.changes.iter().filter(|change| change.before.is_none() && change.key.net().is_some());
        let fresh = fresh.filter_map(|change| Some((change.key.clone(), change.after.clone()?))).collect();
        self.settle(Some(&only), &fresh, now).await
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        self.wake = Instant::now() + AGAIN;
        let only = ours(keys.iter().map(|(key, _)| key));
        let difference = self.look(Some(&only)).await?;
        self.wake = Instant::now() + self.work.wake();
        Ok(Check {
            intact: !self.work.has_surplus(),
            armed: true,
            asked: only.len(),
            missing: difference.missing.len() + difference.surplus.len(),
        })
    }

    async fn compare(&mut self, wanted: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        self.work.wish_nothing();
        self.work.wish(wanted.placed.iter().map(|(key, placed)| (key, Some(placed.until))));
        self.look(None).await
    }

    async fn disturbance(&mut self) -> Result<Disturbance, BouncerError> {
        sleep_until(self.wake).await;
        self.wake = Instant::now() + AGAIN;
        Ok(Disturbance { process: String::new(), pid: 0, elements: false })
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.work.wish_nothing();
        self.settle(None, &Placement::new(), Timestamp::now()).await.map(drop)
    }
}
