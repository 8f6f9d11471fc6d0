//! Allowlists: who is never punished.
//!
//! What is added lifts what it covers in the same change, so that there is no moment in which an allowed address
//! is banned.

use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use model::allowlist::display_net;
use model::{AllowEntry, AllowSet};
use serde::Serialize;
use tracing::info;

use super::{Receipt, Service, State, Write, present};
use crate::decisions::{Query, Reach, Row};
use crate::store::{AllowItem, Allowlist, StoreError};

/// The allowlist of those who are forgiven for a while.
pub const FORGIVEN: &str = "forgiven";

/// What was forgiven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forgiven {
    /// How many decisions were lifted.
    pub lifted: usize,
    /// How many visitors are no longer remembered as having come before.
    pub strikes: usize,
    /// Until when nobody there is punished.
    pub until: Timestamp,
}

/// An allowlist with its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The list.
    pub list: Allowlist,
    /// Its items by value.
    pub items: Vec<AllowItem>,
}

/// An item to be put on an allowlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewItem {
    /// Address or prefix.
    pub value: String,
    /// What it is for.
    pub comment: String,
    /// When it stops counting; `None` is never.
    pub expires: Option<Timestamp>,
}

/// Why an allowlist cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum AllowError {
    /// The name is taken.
    #[error("allowlist '{0}' already exists")]
    Exists(String),
    /// There is no such list.
    #[error("allowlist '{0}' not found")]
    Missing(String),
    /// A value is no address.
    #[error(transparent)]
    Net(#[from] model::scope::NetError),
    /// A text cannot be used.
    #[error("`{0}` is empty or longer than 255 bytes")]
    Unusable(&'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Service {
    /// Makes an empty allowlist.
    pub async fn create_allowlist(&self, name: &str, description: &str) -> Result<Receipt, AllowError> {
        if name.is_empty() || name.len() > 255 {
            return Err(AllowError::Unusable("name"));
        }
        if description.len() > 255 {
            return Err(AllowError::Unusable("description"));
        }
        let (answer, receipt) = self
            .change(|state, now| {
                if state.lists.contains_key(name) {
                    return (Err(AllowError::Exists(name.into())), Vec::new());
                }
                let list =
                    Allowlist { name: name.into(), description: description.into(), created_at: now, updated_at: now };
                state.lists.insert(name.into(), (list.clone(), std::collections::BTreeMap::new()));
                (Ok(()), vec![Write::PutAllowlist(list)])
            })
            .await?;
        answer.map(|()| receipt)
    }

    /// Removes an allowlist.
    pub async fn delete_allowlist(&self, name: &str) -> Result<Receipt, AllowError> {
        let (answer, receipt) = self
            .change(|state, _| {
                if state.lists.remove(name).is_none() {
                    return (Err(AllowError::Missing(name.into())), Vec::new());
                }
                self.publish_allow(state);
                (Ok(()), vec![Write::DeleteAllowlist(name.into())])
            })
            .await?;
        answer.map(|()| receipt)
    }

    /// Adds items to a list, and lifts every decision that shares an address with them. Answers how many were new, and
    /// how many decisions were lifted. Nothing is added if any of them is no address; one that is on the list already
    /// stays as it is.
    pub async fn allow_items(&self, name: &str, new: &[NewItem]) -> Result<((usize, usize), Receipt), AllowError> {
        let nets = new.iter().map(|item| model::scope::parse_net(&item.value)).collect::<Result<Vec<_>, _>>()?;
        if new.iter().any(|item| item.comment.len() > 255) {
            return Err(AllowError::Unusable("comment"));
        }
        let (answer, receipt) = self
            .change(|state, now| {
                let Some((list, items)) = state.lists.get_mut(name) else {
                    return (Err(AllowError::Missing(name.into())), Vec::new());
                };
                let mut writes = Vec::new();
                for (net, new) in nets.iter().zip(new) {
                    let value = display_net(*net);
                    if items.get(&value).is_some_and(|item| item.expires.is_none_or(|end| end > now)) {
                        continue;
                    }
                    let (comment, expires) = (new.comment.clone(), new.expires);
                    let item = AllowItem { value: value.clone(), comment, created_at: now, expires };
                    items.insert(value, item.clone());
                    writes.push(Write::PutAllowItem(name.into(), item));
                }
                let added = writes.len();
                if added > 0 {
                    list.updated_at = now;
                    writes.push(Write::PutAllowlist(list.clone()));
                    self.publish_allow(state);
                }
                let before = state.table.len();
                writes.extend(state.lift_touching(&nets, now));
                (Ok((added, before - state.table.len())), writes)
            })
            .await?;
        let counts = answer?;
        info!(by = %self.1, list = name, added = counts.0, lifted = counts.1, "allowlist grew");
        Ok((counts, receipt))
    }

    /// Starts afresh with `net`: lifts every decision that shares an address with it, forgets how often it came, and
    /// lets it be until `until`. That is an entry of the allowlist [`FORGIVEN`], so that everything that asks the allow
    /// set knows it, the engine's buckets included; an entry that holds longer stays.
    pub async fn forgive(&self, net: IpNet, until: Timestamp) -> Result<(Forgiven, Receipt), AllowError> {
        let (answer, receipt) = self
            .change(|state, now| {
                let strikes = state.ladder.forgive(net);
                let mut writes: Vec<Write> = strikes.iter().map(|visitor| Write::DeleteStrikes(*visitor)).collect();
                let (list, items) = state.lists.entry(FORGIVEN.into()).or_insert_with(|| {
                    let description = "who was forgiven with `cordon forgive`".into();
                    let list = Allowlist { name: FORGIVEN.into(), description, created_at: now, updated_at: now };
                    (list, std::collections::BTreeMap::new())
                });
                list.updated_at = now;
                writes.push(Write::PutAllowlist(list.clone()));
                let value = display_net(net);
                let held = items.get(&value).map_or(Some(until), |item| item.expires.map(|end| end.max(until)));
                let item = AllowItem { value: value.clone(), comment: String::new(), created_at: now, expires: held };
                items.insert(value, item.clone());
                writes.push(Write::PutAllowItem(FORGIVEN.into(), item));
                self.publish_allow(state);
                let before = state.table.len();
                writes.extend(state.lift_touching(&[net], now));
                let lifted = before - state.table.len();
                (Forgiven { lifted, strikes: strikes.len(), until: held.unwrap_or(Timestamp::MAX) }, writes)
            })
            .await?;
        info!(by = %self.1, value = %display_net(net), lifted = answer.lifted, strikes = answer.strikes, until = %answer.until, "forgiven");
        Ok((answer, receipt))
    }

    /// Takes values off a list; answers how many were on it.
    pub async fn disallow_values(&self, name: &str, values: &[String]) -> Result<(usize, Receipt), AllowError> {
        let nets = values.iter().map(|value| model::scope::parse_net(value)).collect::<Result<Vec<_>, _>>()?;
        let (answer, receipt) = self
            .change(|state, now| {
                let Some((list, items)) = state.lists.get_mut(name) else {
                    return (Err(AllowError::Missing(name.into())), Vec::new());
                };
                let gone: Vec<String> =
                    nets.iter().map(|net| display_net(*net)).filter(|value| items.remove(value).is_some()).collect();
                let removed = gone.len();
                let mut writes: Vec<Write> =
                    gone.into_iter().map(|value| Write::DeleteAllowItem(name.into(), value)).collect();
                if removed > 0 {
                    list.updated_at = now;
                    writes.push(Write::PutAllowlist(list.clone()));
                    self.publish_allow(state);
                }
                (Ok(removed), writes)
            })
            .await?;
        Ok((answer?, receipt))
    }

    /// Replaces what is allowed by configuration (own addresses, `allow` in a file), and lifts every decision that
    /// speaks against it; answers how many.
    pub async fn configure_allow(&self, entries: Vec<AllowEntry>) -> Result<(usize, Receipt), StoreError> {
        self.change(|state, now| {
            state.configured = entries;
            self.publish_allow(state);
            let before = state.table.len();
            let writes = state.lift_allowed(&self.0.allow.load(), now);
            (before - state.table.len(), writes)
        })
        .await
    }

    /// All allowlists by name, or the one called `name`; without items that have ended.
    pub fn allowlists(&self, name: Option<&str>) -> Vec<Listed> {
        let (state, now) = (self.lock(), present());
        let wanted = state.lists.values().filter(|(list, _)| name.is_none_or(|name| list.name == name));
        wanted
            .map(|(list, items)| Listed {
                list: list.clone(),
                items: items.values().filter(|item| item.expires.is_none_or(|end| end > now)).cloned().collect(),
            })
            .collect()
    }

    /// The entries that share an address with `net`, as people read them, by list.
    pub fn allowed_by(&self, net: IpNet) -> Vec<String> {
        let now = present();
        self.0.allow.load().all_touching(net, now).into_iter().map(AllowEntry::reason).collect()
    }

    pub(super) fn publish_allow(&self, state: &State) {
        let set = Arc::new(state.allow_set());
        self.0.allow.store(Arc::clone(&set));
        self.0.allow_changed.send_replace(set);
    }
}

impl State {
    /// The set of all that is allowed: built in, configured, listed.
    pub(super) fn allow_set(&self) -> AllowSet {
        let listed = self.lists.values().flat_map(|(list, items)| {
            items.values().filter_map(|item| {
                Some(AllowEntry {
                    net: model::scope::parse_net(&item.value).ok()?,
                    list: list.name.clone(),
                    comment: item.comment.clone(),
                    expires: item.expires,
                })
            })
        });
        AllowSet::new(self.configured.iter().cloned().chain(listed))
    }

    /// Lifts every decision that `allow` speaks against.
    pub(super) fn lift_allowed(&mut self, allow: &AllowSet, now: Timestamp) -> Vec<Write> {
        let nets: Vec<IpNet> = allow.iter(now).map(|entry| entry.net).collect();
        self.lift_touching(&nets, now)
    }

    fn lift_touching(&mut self, nets: &[IpNet], now: Timestamp) -> Vec<Write> {
        let mut writes = Vec::new();
        for net in nets {
            let query = Query { net: Some((*net, Reach::Touches)), simulated: true, ..Query::default() };
            let rows = self.table.select(&query, now);
            writes.extend(self.lift(rows.iter().map(Row::id), now));
        }
        writes
    }

    /// Forgets items that have ended. Answers whether there were any.
    pub(super) fn drop_expired_items(&mut self, now: Timestamp, writes: &mut Vec<Write>) -> bool {
        let before = writes.len();
        for (list, items) in self.lists.values_mut() {
            items.retain(|value, item| {
                let live = item.expires.is_none_or(|end| end > now);
                if !live {
                    writes.push(Write::DeleteAllowItem(list.name.clone(), value.clone()));
                }
                live
            });
        }
        writes.len() > before
    }
}
