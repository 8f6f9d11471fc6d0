//! Targets that hold nothing but a list of prefixes: one bouncer for all of them.
//!
//! What such a target is comes down to four questions ([`List`]); reading before writing, sharing of prefixes and what is
//! whose is the same for all.

use std::collections::HashSet;
use std::future::Future;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::engine::desired::Key;
use crate::engine::plan::{Placed, Plan};
use crate::engine::{Bouncer, Caps, Check, Difference, Extent, Outcome, Wanted};
use crate::error::BouncerError;
use crate::remote::nets::{Edits, Nets, There, prefixes, with_length};

/// What became of edits that a list took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Prefixes that the list will never take, and why.
    pub refused: Vec<(IpNet, String)>,
    /// Not all of it was written: a look at the list says what is left.
    pub more: bool,
}

/// A list of prefixes somewhere else.
pub trait List: Send {
    /// What kind of target it is, for logs.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn caps(&self) -> Caps;

    /// Makes what the list needs, where it is not there.
    fn prepare(&mut self) -> impl Future<Output = Result<(), BouncerError>> + Send;

    /// What is in the list, really in force. What around it is not as it should be, and keeps blocks from taking effect,
    /// is an error.
    fn read(&mut self, wanted: &Nets) -> impl Future<Output = Result<There, BouncerError>> + Send;

    /// Writes `edits`; afterwards the list should hold `all`. Adding what is there and removing what is not is success.
    fn write(&mut self, edits: &Edits, all: &Nets) -> impl Future<Output = Result<Written, BouncerError>> + Send;

    /// Removes everything of ours.
    fn remove(&mut self) -> impl Future<Output = Result<(), BouncerError>> + Send;
}

/// The bouncer of a list.
#[derive(Debug)]
pub struct ListBouncer<L> {
    list: L,
    nets: Nets,
}

impl<L: List> ListBouncer<L> {
    /// A bouncer that has not looked at its list yet.
    pub fn new(list: L) -> Self {
        Self { list, nets: Nets::default() }
    }

    async fn write<'a>(
        &mut self,
        edits: &Edits,
        entries: impl Iterator<Item = (&'a Key, &'a Placed)>,
    ) -> Result<Outcome, BouncerError> {
        if edits.is_empty() {
            return Ok(Outcome::default());
        }
        let Written { refused, more } = self.list.write(edits, &self.nets).await?;
        let reason_of =
            |net: &IpNet| refused.iter().find(|(refused, _)| refused == net).map(|(_, reason)| reason.clone());
        let refused = if refused.is_empty() {
            Vec::new()
        } else {
            let of = |(key, placed): (&'a Key, &'a Placed)| {
                let reason = prefixes(key, placed).iter().find_map(reason_of)?;
                Some((key.clone(), reason))
            };
            entries.filter_map(of).collect()
        };
        Ok(Outcome { refused, pending: Vec::new(), more })
    }
}

impl<L: List> Bouncer for ListBouncer<L> {
    fn name(&self) -> &'static str {
        self.list.name()
    }

    fn caps(&self) -> Caps {
        self.list.caps()
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        self.list.prepare().await
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, _: Timestamp) -> Result<Outcome, BouncerError> {
        self.nets = Nets::of(wanted.placed);
        self.list.prepare().await?;
        let there = self.list.read(&self.nets).await?;
        let mut edits = self.nets.edits_from(&there);
        if extent == Extent::AtLeast {
            edits.remove.clear();
        }
        self.write(&edits, wanted.placed.iter()).await
    }

    async fn apply(&mut self, plan: &Plan, _: Timestamp) -> Result<Outcome, BouncerError> {
        let edits = self.nets.follow(plan);
        let entries = plan.changes.iter().filter_map(|change| Some((&change.key, change.after.as_ref()?)));
        let outcome = self.write(&edits, entries).await?;
        if outcome.more {
            // who is asked for a few changes and does not finish them has to look again
            return Err(BouncerError::unreachable(self.list.name(), "it did not finish a change"));
        }
        Ok(outcome)
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        let there = self.list.read(&self.nets).await?;
        let is_there = |net: &IpNet| there.ours.contains(net) || there.others.contains(net);
        let missing = keys.iter().filter(|(key, placed)| !prefixes(key, placed).iter().all(is_there)).count();
        let surplus = there.ours.iter().any(|net| !self.nets.contains(*net));
        Ok(Check { intact: !surplus, armed: true, asked: keys.len(), missing })
    }

    async fn compare(&mut self, wanted: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        let nets = Nets::of(wanted.placed);
        match self.list.read(&nets).await {
            Ok(there) => {
                let Edits { add, remove } = nets.edits_from(&there);
                let shown = |nets: Vec<IpNet>| nets.into_iter().map(with_length).collect();
                Ok(Difference { missing: shown(add), surplus: shown(remove), structure: Vec::new() })
            }
            Err(BouncerError::Unusable { reason, .. }) => {
                let missing = nets.sorted().into_iter().map(with_length).collect();
                Ok(Difference { missing, surplus: Vec::new(), structure: vec![reason] })
            }
            Err(error) => Err(error),
        }
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.list.remove().await
    }
}

/// The prefixes in `texts`; what is none is left out, because it can only be somebody else's.
pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> HashSet<IpNet> {
    texts.into_iter().filter_map(|text| model::scope::parse_net(text.trim()).ok()).collect()
}
