//! The nftables bouncer: bans of addresses and ranges in one table of this host's kernel.
//!
//! Everything is told the kernel by ourselves, rules and elements alike, so whatever belongs together happens in one
//! transaction. Nothing outside the one table is ever touched.

pub mod conntrack;
pub mod devices;
pub mod layout;
pub mod listen;
pub mod netlink;
pub mod present;
pub mod probe;
pub mod ruleset;
pub mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;
use rand::Rng;
use rand::seq::IteratorRandom;
use rustix::io::Errno;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::engine::desired::Key;
use crate::engine::plan::{Change, Placed, Placement, Plan};
use crate::engine::span::{Family, Span, number};
use crate::engine::{Bouncer, Caps, Check, Difference, Disturbance, Extent, Never, Outcome, Traffic, Wanted};
use crate::error::BouncerError;
use crate::nftables::conntrack::Cutter;
use crate::nftables::devices::Ingress;
use crate::nftables::layout::{Edit, End, Layout, ORIGIN, Origins};
use crate::nftables::listen::Listener;
use crate::nftables::netlink::{Batch, Connection, Kind, NetlinkError, attribute, text};
use crate::nftables::present::Present;
use crate::nftables::probe::OWNED;
use crate::nftables::ruleset::{Part, Ruleset, Set, SetRef, Shape, Verdict, write_counter};
use crate::nftables::template::{Hit, Template};

pub use crate::nftables::probe::Probe;

/// What the bouncer needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own that the operator sets")]
pub struct Options {
    /// Name of the table.
    pub table: String,
    /// Length of the networks that lone IPv6 addresses widen to.
    pub ipv6_prefix: u8,
    /// Count packets from blocked addresses, but let them pass.
    pub observe: bool,
    /// Block packets to blocked addresses as well: what this host sends, and what it passes on.
    pub outbound: bool,
    /// Where packets are looked at besides prerouting.
    pub ingress: Ingress,
    /// Let the table belong to this process, where the kernel can: nobody else can change it then.
    pub own_table: bool,
    /// Somebody else has made the table, its rules, and the sets `ban4`, `ban6`, `net4` and `net6`; only elements
    /// are ours.
    pub set_only: bool,
    /// Let the kernel forget connections of blocked addresses, for rules elsewhere that let known ones through.
    /// Where a network card forwards by itself, that is done in any case.
    pub cut_connections: bool,
    /// Where marks are kept that another process leaves for this one.
    #[serde(skip)]
    pub state: Option<PathBuf>,
}

impl Options {
    /// While this file is there, an owned table drops nothing: its owner alone can disarm it.
    fn disarm_file(&self) -> Option<PathBuf> {
        let state = self.state.as_ref().filter(|_| self.own_table)?;
        Some(state.join(format!("{}.disarmed", self.table)))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            table: "cordon".to_owned(),
            ipv6_prefix: 64,
            observe: false,
            outbound: false,
            ingress: Ingress::Auto,
            own_table: false,
            set_only: false,
            cut_connections: false,
            state: None,
        }
    }
}

/// What the kernel does with packets from one address, asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforced {
    /// The table or its rules are not in place.
    NoTable,
    /// It is never blocked: it passes before any block.
    Allowed,
    /// It is in a block set, and packets from blocked addresses are dropped.
    Blocked,
    /// It is in a block set, but a person has disarmed the table.
    Disarmed,
    /// It is in a block set, but packets are only counted.
    Observed,
    /// It is in no set.
    Passing,
}

/// The way by which another module brings its [`Part`], while the bouncer runs. Clones lead to the same table.
#[derive(Clone)]
pub struct Parts {
    part: watch::Sender<Option<Arc<Part>>>,
    refusal: watch::Sender<Option<String>>,
    connection: Arc<Mutex<Connection>>,
    held: Arc<Mutex<BTreeMap<SetRef, Held>>>,
    table: String,
    prolong: bool,
    destroy: bool,
}

/// What was asked to be held in a set.
struct Held {
    names: Vec<String>,
    until: Instant,
}

impl Parts {
    /// Replaces the part, in one step with what it fills its sets with; it takes effect at the bouncer's next look,
    /// which this causes.
    pub fn put(&self, part: Option<Part>) {
        self.part.send_replace(part.map(Arc::new));
    }

    /// Why the kernel has refused the last part, until it takes one. What was in force before stays then.
    pub fn refusal(&self) -> watch::Receiver<Option<String>> {
        self.refusal.subscribe()
    }

    /// Holds `names` of interfaces in `set` for `left` from now: without another call in time they are gone, whatever
    /// has become of this process. A table that is made anew meanwhile holds them for the rest of that time. Blocks
    /// while the kernel is busy with a big load.
    pub fn hold(&self, set: SetRef, names: &[&str], left: Duration) -> Result<(), BouncerError> {
        let held = Held { names: names.iter().map(|&name| name.to_owned()).collect(), until: Instant::now() + left };
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(set, held);
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch::new(&self.table);
        batch.add_interfaces(set, names, Some(left), !self.prolong && self.destroy);
        Ok(connection.transact(batch)?)
    }

    /// What all counters of the table have counted, by name. Blocks as [`Parts::hold`] does.
    pub fn counters(&self) -> Result<Vec<(String, Traffic)>, BouncerError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(connection.counters(&self.table)?)
    }

    /// Fills the sets of `part`, which is going into the kernel.
    fn fill(&self, batch: &mut Batch, part: &Part, now: Timestamp) {
        for (set, spans) in &part.fill {
            batch.flush(*set);
            batch.add_forever(*set, spans);
        }
        for (set, spans) in &part.timed {
            let end = |until| End { until, counter: 0 };
            let live = spans.iter().filter(|(_, until)| *until > now).map(|&(span, until)| (span, end(until)));
            batch.flush(*set);
            batch.add(*set, &live.collect::<Vec<_>>(), None, now);
        }
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (set, held) in held.iter().filter(|(held, _)| part.sets.iter().any(|set| set.set == **held)) {
            let left = held.until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let names: Vec<&str> = held.names.iter().map(String::as_str).collect();
                batch.add_interfaces(*set, &names, Some(left), false);
            }
        }
    }
}

/// One table in the kernel.
pub struct Nftables {
    options: Options,
    probe: Probe,
    connection: Arc<Mutex<Connection>>,
    listener: Option<Listener>,
    layout: Layout,
    origins: Origins,
    never: Never,
    parts: Parts,
    news_of_parts: watch::Receiver<Option<Arc<Part>>>,
    loaded: Option<Loaded>,
    /// Whether somebody else has put something into our sets.
    surplus: bool,
    /// How many of the origins' counters have been made.
    counters_made: usize,
    /// Whether a flowtable takes connections past our chains.
    unseen: bool,
    /// The interfaces that are wanted and not there.
    absent: Vec<String>,
    cutter: Option<Cutter>,
}

/// What was loaded, and how it looked right after that.
struct Loaded {
    present: Present,
    ruleset: Ruleset,
    devices: Vec<String>,
    part: Option<Arc<Part>>,
}

impl Nftables {
    /// Looks at what this host can do; changes nothing that lasts. The error says what is missing and what to do.
    pub fn probe() -> Result<Probe, BouncerError> {
        Probe::run()
    }

    /// Opens the kernel for `options`; changes nothing yet.
    pub fn open(options: Options) -> Result<Self, BouncerError> {
        let probe = Self::probe()?;
        let connection = Arc::new(Mutex::new(Connection::open()?));
        let layout = Layout::new(options.ipv6_prefix, options.set_only);
        let (part, news_of_parts) = watch::channel(None);
        let parts = Parts {
            part,
            refusal: watch::Sender::new(None),
            connection: Arc::clone(&connection),
            held: Arc::default(),
            table: options.table.clone(),
            prolong: probe.prolong,
            destroy: probe.destroy,
        };
        Ok(Self {
            options,
            probe,
            connection,
            listener: None,
            layout,
            origins: Origins::default(),
            never: Never::default(),
            parts,
            news_of_parts,
            loaded: None,
            surplus: false,
            counters_made: 0,
            unseen: false,
            absent: Vec::new(),
            cutter: None,
        })
    }

    /// What this kernel can do.
    pub fn features(&self) -> Probe {
        self.probe
    }

    /// How another module joins in.
    pub fn parts(&self) -> Parts {
        self.parts.clone()
    }

    /// What the kernel does at this moment with packets from `address`, verified by look-ups.
    pub fn enforced_now(&self, address: IpAddr) -> Result<Enforced, BouncerError> {
        let table = &self.options.table;
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(present) = Present::look(&mut connection, table, |_| true)? else { return Ok(Enforced::NoTable) };
        let used: Vec<SetRef> = present.used.iter().filter_map(|name| layout::named(name)).collect();
        let complete = layout::PLAIN.iter().all(|set| used.iter().any(|used| used.in_generation(false) == *set));
        if !complete || (present.hits.is_empty() && !self.options.set_only) {
            return Ok(Enforced::NoTable);
        }
        let address = IpNet::from(address.to_canonical());
        let (family, number) = (Family::of(address), number(address.addr()));
        let allow = if family == Family::V4 { template::ALLOW4 } else { template::ALLOW6 };
        if present.used.contains(&allow.name()) && connection.contains(table, allow, &[number])? == [true] {
            return Ok(Enforced::Allowed);
        }
        for set in used.into_iter().filter(|set| set.family() == Some(family)) {
            let key = layout::masked(family, number, self.layout.bits(set));
            if connection.contains(table, set, &[key])? == [true] {
                return Ok(match present.hits.first() {
                    _ if present.disarmed => Enforced::Disarmed,
                    Some(&hit) if hit != Some(Verdict::Drop.code()) => Enforced::Observed,
                    _ => Enforced::Blocked,
                });
            }
        }
        Ok(Enforced::Passing)
    }

    /// The panic switch: from now on nothing is dropped, and nobody but [`Nftables::arm`] changes that. Needs no
    /// running engine. False when there is no table.
    pub fn disarm(&self) -> Result<bool, BouncerError> {
        self.switch(Hit::Pass, true)
    }

    /// Undoes [`Nftables::disarm`]. False when there is no table.
    pub fn arm(&self) -> Result<bool, BouncerError> {
        self.switch(self.hit(), false)
    }

    fn switch(&self, hit: Hit, disarm: bool) -> Result<bool, BouncerError> {
        if self.options.set_only {
            return Err(BouncerError::NotOurs(self.options.table.clone()));
        }
        if let Some(file) = self.options.disarm_file() {
            let done = if disarm { std::fs::write(&file, "") } else { std::fs::remove_file(&file) };
            match done {
                Err(error) if disarm || error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(BouncerError::File { path: file, source: error });
                }
                _ => {}
            }
        }
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(present) = Present::look(&mut connection, &self.options.table, |_| true)? else { return Ok(false) };
        match connection.transact(self.switching(&present, hit, disarm)) {
            // its owner sees the file within a second
            Err(error) if error.errno() == Some(Errno::PERM) && self.options.own_table => Ok(true),
            outcome => outcome.map(|()| true).map_err(Into::into),
        }
    }

    fn switching(&self, present: &Present, hit: Hit, disarm: bool) -> Batch {
        let mut batch = Batch::new(&self.options.table);
        let is_there = |name: &str| present.chains.iter().any(|chain| chain.name == name);
        if disarm != present.disarmed {
            let kind = if disarm { Kind::NewChain } else { Kind::DelChain };
            batch.message(kind, disarm, |bytes| text(bytes, 3, template::DISARMED));
        }
        for (chain, out) in [(template::HIT, false), (template::HIT_OUT, true)] {
            if is_there(chain) {
                batch.message(Kind::DelRule, false, |bytes| text(bytes, 2, chain));
                let rules = vec![hit.rule(out)];
                let chain = ruleset::Chain { name: chain.to_owned(), hook: None, rules };
                let present = [chain.name.clone()];
                Ruleset { chains: vec![chain], ..Ruleset::default() }.write_chains(&mut batch, &present);
            }
        }
        batch
    }

    /// Removes the table with all that is in it. It is no error if it is not there.
    pub fn remove(&self) -> Result<(), BouncerError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(connection.transact(removal(&self.options.table))?)
    }

    /// What has been dropped, by the origin of the decisions behind it.
    pub async fn dropped_by_origin(&self) -> Result<Vec<(String, Traffic)>, BouncerError> {
        let table = self.options.table.clone();
        let counters = self.with(move |connection| connection.counters(&table)).await?;
        let of_origin = |(name, traffic): (String, Traffic)| Some((name.strip_prefix(ORIGIN)?.to_owned(), traffic));
        Ok(counters.into_iter().filter_map(of_origin).collect())
    }

    fn hit(&self) -> Hit {
        if self.options.observe { Hit::Pass } else { Hit::Drop }
    }

    fn listen(&mut self) -> Result<(), BouncerError> {
        if self.listener.is_none() {
            let port = self.connection.lock().unwrap_or_else(PoisonError::into_inner).port();
            self.listener = Some(Listener::open(&self.options.table, port)?);
        }
        Ok(())
    }

    /// Runs `work` on the connection, away from the asynchronous threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, BouncerError> {
        let connection = Arc::clone(&self.connection);
        let work = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| BouncerError::Stopping)??)
    }

    async fn transact(&self, batch: Batch) -> Result<(), BouncerError> {
        self.with(move |connection| connection.transact(batch)).await
    }

    /// The table as it is now. What was loaded says which sets and chains are ours.
    async fn present(&self) -> Result<Option<Present>, BouncerError> {
        let table = self.options.table.clone();
        let names: Option<BTreeSet<String>> = self.loaded.as_ref().map(|loaded| names(&loaded.ruleset));
        self.with(move |connection| {
            Present::look(connection, &table, |name| names.as_ref().is_none_or(|names| names.contains(name)))
        })
        .await
    }

    /// Whether the ruleset is as it was loaded. A disarmed table may differ where it was disarmed.
    fn intact(&self, now: Option<&Present>) -> bool {
        let (Some(loaded), Some(now)) = (&self.loaded, now) else { return false };
        let hit = Some(self.hit().verdict().code());
        let hits = now.disarmed || (now.hits.len() == loaded.present.hits.len() && now.hits.iter().all(|&h| h == hit));
        loaded.present.print == now.print && (hits || self.options.set_only)
    }

    fn flags(&self) -> u32 {
        if self.options.own_table && self.probe.own { OWNED } else { 0 }
    }

    fn is_disarmed(&self, present: Option<&Present>) -> bool {
        self.options.disarm_file().map_or(present.is_some_and(|present| present.disarmed), |file| file.exists())
    }

    /// The interfaces that should have a chain. Says what is in the way of looking at packets there, once.
    async fn devices(&mut self) -> Result<Vec<String>, BouncerError> {
        if self.options.set_only {
            return Ok(Vec::new());
        }
        let ingress = self.options.ingress.clone();
        let (devices, flowtables) = self.with(move |connection| devices::wanted(connection, &ingress)).await?;
        let unseen = flowtables.in_hardware || (!self.probe.ingress && !flowtables.devices.is_empty());
        if unseen && !self.unseen {
            warn!("a flowtable takes connections past every chain: those of blocked addresses are forgotten instead");
        }
        self.unseen = unseen;
        let absent: Vec<String> = match &self.options.ingress {
            Ingress::Devices(names) => names.iter().filter(|name| !devices.contains(name)).cloned().collect(),
            Ingress::Auto | Ingress::Off => Vec::new(),
        };
        if absent != self.absent {
            warn!(names = absent.join(" "), "no such interfaces: blocks take effect there when there are");
            self.absent = absent;
        }
        Ok(if self.probe.ingress { devices } else { Vec::new() })
    }

    /// Ends the connections of whoever is blocked from now on, where no chain would.
    fn cut<'a>(&mut self, keys: impl Iterator<Item = &'a Key>) {
        if self.options.cut_connections || self.unseen {
            let cutter = self.cutter.get_or_insert_with(Cutter::start);
            for net in keys.filter_map(Key::net) {
                cutter.cut(Family::of(net), [Span::of(net)]);
            }
        }
    }

    fn ruleset(&self, layout: &Layout, disarmed: bool, devices: &[String], part: Option<&Part>) -> Ruleset {
        if self.options.set_only {
            return Ruleset::default();
        }
        let hit = if disarmed { Hit::Pass } else { self.hit() };
        Template { hit, disarmed, outbound: self.options.outbound, devices, part }.ruleset(layout, &self.origins)
    }

    /// Everything but elements: the sets that are missing, and all chains and rules anew. What is there and not
    /// wanted goes.
    fn write_structure(batch: &mut Batch, ruleset: &Ruleset, present: Option<&Present>, devices: &[String]) {
        ruleset.write_sets(batch);
        let mut kept: Vec<String> = Vec::new();
        if let Some(present) = present {
            for chain in &present.chains {
                batch.message(Kind::DelRule, false, |bytes| text(bytes, 2, &chain.name));
            }
            for chain in present.chains.iter().rev() {
                let wanted = ruleset.chains.iter().any(|wanted| wanted.name == chain.name);
                if wanted && (chain.name != template::INGRESS || chain.devices == devices) {
                    kept.push(chain.name.clone());
                } else {
                    batch.message(Kind::DelChain, false, |bytes| text(bytes, 3, &chain.name));
                }
            }
        }
        Self::write_removals(batch, ruleset, present);
        ruleset.write_chains(batch, &kept);
    }

    /// Lets sets go that are there and not wanted.
    fn write_removals(batch: &mut Batch, ruleset: &Ruleset, present: Option<&Present>) {
        for set in present.iter().flat_map(|present| &present.sets) {
            if !ruleset.sets.iter().any(|wanted| wanted.set.name() == set.name) {
                batch.message(Kind::DelSet, false, |bytes| text(bytes, 2, &set.name));
            }
        }
    }

    /// Makes the table, or, `afresh`, makes it anew.
    fn write_table(&self, batch: &mut Batch, afresh: bool) {
        let flags = self.flags();
        if afresh {
            batch.message(Kind::NewTable, true, |_| {});
            batch.message(Kind::DelTable, false, |_| {});
        }
        batch.message(Kind::NewTable, true, |bytes| {
            if flags != 0 {
                attribute(bytes, 2, &flags.to_be_bytes());
            }
        });
    }

    fn write_never(&self, batch: &mut Batch, never: &Never) {
        if !self.options.set_only {
            for (set, spans) in [(template::ALLOW4, &never.v4), (template::ALLOW6, &never.v6)] {
                batch.flush(set);
                batch.add_forever(set, spans);
            }
        }
    }

    /// Remembers what was loaded and how it looks.
    async fn note(
        &mut self,
        ruleset: Ruleset,
        devices: Vec<String>,
        part: Option<Arc<Part>>,
    ) -> Result<(), BouncerError> {
        let (table, names) = (self.options.table.clone(), names(&ruleset));
        let look = move |connection: &mut Connection| Present::look(connection, &table, |name| names.contains(name));
        self.loaded = self.with(look).await?.map(|present| Loaded { present, ruleset, devices, part });
        self.surplus = false;
        Ok(())
    }

    /// Loads rules for the layout as it is, without touching what sets hold; only a new part's sets are filled.
    async fn load(&mut self, part: Option<Arc<Part>>, devices: Vec<String>) -> Result<(), BouncerError> {
        let present = self.present().await?;
        let disarmed = self.is_disarmed(present.as_ref());
        let ruleset = self.ruleset(&self.layout, disarmed, &devices, part.as_deref());
        let mut batch = Batch::new(&self.options.table);
        self.write_table(&mut batch, false);
        // A set that is filled while rules look at it can be empty to them for a moment, so new sets of a part come first,
        // and old ones go last.
        let fresh =
            |set: &Set| !present.iter().flat_map(|present| &present.sets).any(|held| held.name == set.set.name());
        let (first, rest) = match &part {
            Some(part) => part.split(fresh),
            None => Default::default(),
        };
        if !first.is_empty() {
            ruleset.write_sets(&mut batch);
            self.parts.fill(&mut batch, &first, Timestamp::now());
            self.transact(batch).await?;
            batch = Batch::new(&self.options.table);
        }
        let kept = present.clone().map(|present| Present { sets: Vec::new(), ..present });
        Self::write_structure(&mut batch, &ruleset, kept.as_ref(), &devices);
        self.parts.fill(&mut batch, &rest, Timestamp::now());
        self.transact(batch).await?;
        let mut batch = Batch::new(&self.options.table);
        Self::write_removals(&mut batch, &ruleset, present.as_ref());
        self.transact(batch).await?;
        self.note(ruleset, devices, part).await
    }

    /// Follows what has changed around us and is nobody's fault: another part, other interfaces, a disarm file.
    async fn follow(&mut self) -> Result<(), BouncerError> {
        if self.options.set_only || self.loaded.is_none() {
            return Ok(());
        }
        let devices = self.devices().await?;
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let wanted = self.news_of_parts.borrow_and_update().clone();
        let same_part = match (&wanted, &loaded.part) {
            (Some(wanted), Some(part)) => Arc::ptr_eq(wanted, part),
            (wanted, part) => wanted.is_none() && part.is_none(),
        };
        let switched = self.options.disarm_file().is_some() && self.is_disarmed(None) != loaded.present.disarmed;
        if !same_part || switched || devices != loaded.devices {
            if devices != loaded.devices {
                info!(devices = devices.join(" "), "packets are looked at where they arrive");
            }
            let before = loaded.part.clone();
            let outcome = self.load(wanted, devices.clone()).await;
            let refused = outcome.as_ref().err().map(ToString::to_string);
            if let Some(error) = &refused {
                warn!(error, "the kernel has refused a part of the ruleset, what was in force stays");
                // A part that is refused must not keep the rest from following.
                if !same_part {
                    self.load(before, devices).await?;
                }
            }
            self.parts.refusal.send_replace(refused);
            if same_part {
                outcome?;
            }
        }
        Ok(())
    }

    /// In sets that somebody else has made: whether they are what we need.
    async fn check_foreign_sets(&self) -> Result<(), BouncerError> {
        const INTERVAL: u32 = 4;
        const TIMEOUT: u32 = 0x10;
        let Some(present) = self.present().await? else {
            return Err(BouncerError::NotOurs(self.options.table.clone()));
        };
        for set in layout::PLAIN {
            let wanted = if set.shape == Shape::Ranges { INTERVAL | TIMEOUT } else { TIMEOUT };
            let key = if set.family() == Some(Family::V4) { 7 } else { 8 };
            let found = present.sets.iter().find(|found| found.name == set.name());
            if !found.is_some_and(|found| found.flags == wanted && found.key == key) {
                return Err(BouncerError::UnfitSet {
                    table: self.options.table.clone(),
                    set: set.name(),
                    wanted: format!(
                        "`type {}; flags {};`",
                        if key == 7 { "ipv4_addr" } else { "ipv6_addr" },
                        if wanted == TIMEOUT { "timeout" } else { "interval,timeout" }
                    ),
                });
            }
        }
        Ok(())
    }

    fn edits(&mut self, batch: &mut Batch, edits: &[Edit], now: Timestamp) {
        for edit in edits {
            batch.remove(edit.set, &edit.remove, self.probe.destroy);
        }
        for edit in edits {
            self.write_elements(batch, edit.set, &edit.add, now);
        }
    }

    /// Makes the kernel hold `wanted`. Up to [`AT_ONCE`] entries that is one transaction. More are filled, piece by
    /// piece, into sets that no rule uses yet; the last transaction puts them in the place of the old ones, so that at
    /// any moment either the old state or the new one holds.
    async fn replace(
        &mut self,
        wanted: &Placement,
        origin_of: impl Fn(&Key) -> Option<CompactString> + Send,
        never: &Never,
        manner: Manner,
        now: Timestamp,
    ) -> Result<(), BouncerError> {
        let present = self.present().await?;
        let intact = self.intact(present.as_ref());
        if let Some(present) = present.as_ref().filter(|_| !intact) {
            self.layout.adopt(&present.used);
        }
        let wrong_flags = present.as_ref().is_some_and(|present| present.flags & OWNED != self.flags());
        let afresh = !self.options.set_only && (manner == Manner::Afresh || wrong_flags);
        let large = wanted.len() > AT_ONCE;
        // Sets that hold something keep it when nothing is to go, and those of others cannot be exchanged.
        let adding = manner == Manner::Adding && present.is_some() && !afresh;
        let in_use =
            present.as_ref().is_some_and(|present| present.used.iter().any(|name| layout::named(name).is_some()));
        // To rules, a set of ranges is empty for a moment when it is flushed and filled, so one in use is exchanged.
        let ranges = self.layout.range_count() > 0;
        let staged = (large || (in_use && ranges)) && !adding && !afresh && !self.options.set_only;
        let second = if staged && in_use { !self.layout.second() } else { self.layout.second() };
        let kept = if adding { self.layout.buckets().clone() } else { BTreeSet::new() };
        let origins = &mut self.origins;
        let layout = self.layout.for_rebuild(wanted, second, &kept, |key| origins.of(origin_of(key).as_deref()));

        let devices = self.devices().await?;
        let part = self.news_of_parts.borrow_and_update().clone();
        let disarmed = self.is_disarmed(present.as_ref());
        let ruleset = self.ruleset(&layout, disarmed, &devices, part.as_deref());
        let in_place =
            self.options.set_only || (intact && self.loaded.as_ref().is_some_and(|loaded| loaded.ruleset == ruleset));

        let mut singles = wanted.iter().peekable();
        let mut batch = Batch::new(&self.options.table);
        if !self.options.set_only {
            self.write_table(&mut batch, afresh);
        }
        if staged {
            // What a load that was cut short has left behind is in nobody's use.
            if let Some(present) = &present {
                let ours = present.sets.iter().filter(|set| layout::named(&set.name).is_some());
                for set in ours.filter(|set| !present.used.contains(&set.name)) {
                    batch.message(Kind::DelSet, false, |bytes| text(bytes, 2, &set.name));
                }
            }
            ruleset.write_sets(&mut batch);
            self.transact(batch).await?;
            while singles.peek().is_some() {
                let mut batch = Batch::new(&self.options.table);
                self.write_singles(&mut batch, &layout, singles.by_ref().take(CHUNK), &origin_of, now);
                self.transact(batch).await?;
            }
            for (set, elements) in layout.ranges_held() {
                let mut batch = Batch::new(&self.options.table);
                self.write_elements(&mut batch, set, &elements, now);
                self.transact(batch).await?;
            }
            batch = Batch::new(&self.options.table);
        }
        if !in_place {
            Self::write_structure(&mut batch, &ruleset, present.as_ref().filter(|_| !afresh), &devices);
        }
        for (set, elements) in layout.ranges_held().into_iter().filter(|_| !staged) {
            // Ranges of an older state could overlap with ours, so interval sets always begin empty.
            batch.flush(set);
            self.write_elements(&mut batch, set, &elements, now);
        }
        if !staged && !adding {
            for set in layout.sets().into_iter().filter(|set| set.shape != Shape::Ranges) {
                batch.flush(set);
            }
        }
        if !large || !adding {
            self.write_singles(&mut batch, &layout, singles.by_ref(), &origin_of, now);
        }
        if afresh || !intact || *never != self.never {
            self.write_never(&mut batch, never);
        }
        if let Some(part) = &part {
            // Sets that hold what they should are better left alone: to rules, a set is empty for a moment when it is filled.
            let loaded = self.loaded.as_ref().filter(|_| intact && !afresh).and_then(|loaded| loaded.part.as_ref());
            let same = loaded.is_some_and(|loaded| Arc::ptr_eq(loaded, part));
            if !same || self.look_up(part_probes(part, MANY)).await?.contains(&false) {
                self.parts.fill(&mut batch, part, Timestamp::now());
            }
        }
        self.transact(batch).await?;
        while singles.peek().is_some() {
            let mut batch = Batch::new(&self.options.table);
            self.write_singles(&mut batch, &layout, singles.by_ref().take(CHUNK), &origin_of, now);
            self.transact(batch).await?;
        }
        self.layout = layout;
        self.never = never.clone();
        self.note(ruleset, devices, part).await
    }

    fn write_singles<'a>(
        &mut self,
        batch: &mut Batch,
        layout: &Layout,
        wanted: impl Iterator<Item = (&'a Key, &'a Placed)>,
        origin_of: impl Fn(&Key) -> Option<CompactString>,
        now: Timestamp,
    ) {
        let mut by_set: Vec<(SetRef, Vec<(Span, End)>)> = Vec::new();
        for (key, placed) in wanted {
            let Some((set, span)) = layout.single(key, placed) else { continue };
            let counter = self.origins.of(origin_of(key).as_deref());
            let element = (span, End { until: placed.until, counter });
            match by_set.iter_mut().find(|(held, _)| *held == set) {
                Some((_, elements)) => elements.push(element),
                None => by_set.push((set, vec![element])),
            }
        }
        for (set, elements) in by_set {
            self.write_elements(batch, set, &elements, now);
        }
    }

    /// Elements, after the counters that they are the first to name.
    fn write_elements(&mut self, batch: &mut Batch, set: SetRef, elements: &[(Span, End)], now: Timestamp) {
        if self.options.set_only {
            return batch.add(set, elements, None, now);
        }
        let made = &mut self.counters_made;
        for name in self.origins.names().iter().skip(*made) {
            write_counter(batch, name);
        }
        *made = self.origins.names().len();
        batch.add(set, elements, Some(&self.origins), now);
    }

    /// What a rebuild does, without listening to what others change.
    pub async fn enforce(&mut self, wanted: Wanted<'_>, extent: Extent, now: Timestamp) -> Result<(), BouncerError> {
        if self.options.set_only {
            self.check_foreign_sets().await?;
        }
        let origin_of = |key: &Key| Some(wanted.desired?.entry(key)?.longest().origin.clone());
        let manners = [Manner::Adding, Manner::Exactly, Manner::Afresh];
        let manners = &manners[usize::from(extent == Extent::Exactly)..];
        let mut outcome = Ok(());
        for &manner in manners {
            self.counters_made = 0;
            outcome = self.replace(wanted.placed, origin_of, wanted.never, manner, now).await;
            match &outcome {
                // What is there does not go together with what is wanted; a plainer way may.
                Err(BouncerError::Netlink(error @ NetlinkError::Refused { errno, .. })) if *errno != Errno::PERM => {
                    info!(%error, ?manner, "trying it more plainly");
                }
                _ => break,
            }
        }
        outcome
    }

    /// Whether the addresses that must not be blocked are not: those of which rails keep blocks away, and those next
    /// to blocked ranges.
    async fn strangers(&self, count: usize, now: Timestamp) -> Result<bool, BouncerError> {
        let probes: Vec<(SetRef, u128)> = {
            let mut rng = rand::rng();
            let mut probes = Vec::new();
            for (family, never) in [(Family::V4, &self.never.v4), (Family::V6, &self.never.v6)] {
                for _ in 0..count {
                    if let Some(span) = never.get(rng.random_range(0..never.len().max(1))) {
                        let address = rng.random_range(span.first..=span.last);
                        probes.extend(self.layout.probes(family, address).into_iter().filter(|(set, _)| {
                            // a network may be blocked for the sake of others in it; the rails stand before it
                            set.shape == Shape::Ranges || family == Family::V4
                        }));
                    }
                }
                probes.extend(self.layout.beside_ranges(family, count, &mut rng, now));
            }
            probes
        };
        Ok(self.look_up(probes).await?.into_iter().all(|found| !found))
    }

    /// Whether each key is in its set.
    async fn look_up(&self, probes: Vec<(SetRef, u128)>) -> Result<Vec<bool>, BouncerError> {
        let mut by_set: Vec<(SetRef, Vec<u128>)> = Vec::new();
        for (set, address) in probes {
            match by_set.iter_mut().find(|(held, _)| *held == set) {
                Some((_, addresses)) => addresses.push(address),
                None => by_set.push((set, vec![address])),
            }
        }
        let mut found = Vec::new();
        for (set, addresses) in by_set {
            for slice in addresses.chunks(LOOK_UP_SLICE) {
                let (table, slice) = (self.options.table.clone(), slice.to_vec());
                found.extend(self.with(move |connection| connection.contains(&table, set, &slice)).await?);
            }
        }
        Ok(found)
    }
}

/// How everything is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// What is there stays.
    Adding,
    /// What is there and not wanted goes.
    Exactly,
    /// The table is made anew.
    Afresh,
}

/// More entries than this are not replaced in one transaction, which would need memory for all of them at once.
const AT_ONCE: usize = 200_000;

/// Entries in one transaction of a big load; the kernel is busy with it for some ten milliseconds.
const CHUNK: usize = 10_000;

/// Keys that are looked up without letting others at the kernel's lock.
const LOOK_UP_SLICE: usize = 10_000;

/// A load of more entries than this is carried out without listening: the kernel writes a note on every element while
/// somebody does, which doubles the time. Who rebuilds looks afterwards anyway.
const QUIET_LOAD: usize = 20_000;

/// Strangers that are looked up with a sample, and with everything.
const FEW: usize = 8;
/// An element this close to its end may be gone when it is looked up.
const NEAR_END: Duration = Duration::from_secs(3);
const MANY: usize = 500;

/// Some elements of each set that `part` fills, by which a look-up finds them.
fn part_probes(part: &Part, count: usize) -> Vec<(SetRef, u128)> {
    let (mut rng, soon) = (rand::rng(), Timestamp::now() + NEAR_END);
    let mut probes = Vec::new();
    for (set, spans) in &part.fill {
        let some = spans.iter().choose_multiple(&mut rng, count);
        probes.extend(some.into_iter().map(|span| (*set, span.first)));
    }
    for (set, spans) in &part.timed {
        let some = spans.iter().filter(|(_, until)| *until > soon).choose_multiple(&mut rng, count);
        probes.extend(some.into_iter().map(|(span, _)| (*set, span.first)));
    }
    probes
}

/// Names of the sets and chains in it that must stay as they are; the mark of a disarmed table comes and goes.
fn names(ruleset: &Ruleset) -> BTreeSet<String> {
    let sets = ruleset.sets.iter().map(|set| set.set.name());
    let chains = ruleset.chains.iter().map(|chain| chain.name.clone());
    sets.chain(chains.filter(|name| name != template::DISARMED)).collect()
}

/// What `plan` blocks that was not blocked.
fn begun(plan: &Plan) -> impl Iterator<Item = &Key> {
    plan.changes.iter().filter(|change| change.before.is_none()).map(|change| &change.key)
}

/// Removes the table. Making it first lets that succeed when it is not there.
fn removal(table: &str) -> Batch {
    let mut batch = Batch::new(table);
    batch.message(Kind::NewTable, true, |_| {});
    batch.message(Kind::DelTable, false, |_| {});
    batch
}

impl Bouncer for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn caps(&self) -> Caps {
        Caps::LOCAL
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        self.listen()?;
        if self.options.set_only {
            return self.check_foreign_sets().await;
        }
        let present = self.present().await?;
        if self.intact(present.as_ref()) {
            return Ok(());
        }
        if let Some(present) = &present {
            self.layout.adopt(&present.used);
        }
        let devices = self.devices().await?;
        let part = self.news_of_parts.borrow_and_update().clone();
        self.load(part, devices).await
    }

    async fn rebuild(&mut self, wanted: Wanted<'_>, extent: Extent, now: Timestamp) -> Result<Outcome, BouncerError> {
        if wanted.placed.len() > QUIET_LOAD {
            self.listener = None;
        }
        let outcome = self.enforce(wanted, extent, now).await;
        self.listen()?;
        outcome?;
        self.cut(wanted.placed.keys());
        Ok(Outcome::default())
    }

    async fn apply(&mut self, plan: &Plan, now: Timestamp) -> Result<Outcome, BouncerError> {
        let origins = &mut self.origins;
        let counter = |change: &Change| origins.of(change.why.as_ref().map(|why| why.origin.as_str()));
        let (edits, fresh) = self.layout.edit(plan, now, counter);
        let mut batch = Batch::new(&self.options.table);
        let Some(loaded) = self.loaded.as_ref().filter(|_| !fresh.is_empty()) else {
            self.edits(&mut batch, &edits, now);
            self.transact(batch).await?;
            self.cut(begun(plan));
            return Ok(Outcome::default());
        };
        // There are too many ranges: a length of prefixes gets a set of its own, and a rule.
        let (devices, part) = (loaded.devices.clone(), loaded.part.clone());
        let present = self.present().await?;
        let disarmed = self.is_disarmed(present.as_ref());
        let ruleset = self.ruleset(&self.layout, disarmed, &devices, part.as_deref());
        Self::write_structure(&mut batch, &ruleset, present.as_ref(), &devices);
        self.edits(&mut batch, &edits, now);
        self.transact(batch).await?;
        self.note(ruleset, devices, part).await?;
        self.cut(begun(plan));
        Ok(Outcome::default())
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        self.follow().await?;
        let present = self.present().await?;
        let intact = if self.options.set_only {
            self.check_foreign_sets().await.is_ok()
        } else {
            self.intact(present.as_ref()) && !self.surplus
        };
        let mut check = Check {
            intact,
            armed: present.as_ref().is_some_and(|present| !present.disarmed),
            asked: keys.len(),
            missing: 0,
        };
        if !check.intact {
            return Ok(check);
        }
        let mut probes: Vec<(SetRef, u128)> =
            keys.iter().filter_map(|(key, placed)| self.layout.probe_of(key, placed)).collect();
        let count = if keys.len() > MANY { MANY } else { FEW };
        if let Some(part) = self.loaded.as_ref().and_then(|loaded| loaded.part.as_ref()) {
            probes.extend(part_probes(part, count));
        }
        check.missing = self.look_up(probes).await?.into_iter().filter(|found| !found).count();
        if !self.strangers(count, Timestamp::now()).await? {
            warn!("addresses are blocked that must not be");
            check.intact = false;
        }
        Ok(check)
    }

    /// What is missing is looked up entry by entry; what is there beyond that is not seen, because reading a big set
    /// back takes the kernel longer than making it anew.
    async fn compare(&mut self, wanted: Wanted<'_>, _: Timestamp) -> Result<Difference, BouncerError> {
        let Some(present) = self.present().await? else {
            let table = format!("the table `inet {}` is not there", self.options.table);
            let missing = wanted.placed.keys().map(ToString::to_string).collect();
            return Ok(Difference { missing, structure: vec![table], ..Difference::default() });
        };
        let mut layout = self.layout.clone();
        layout.adopt(&present.used);
        let mut by_set: BTreeMap<SetRef, Vec<(&Key, u128)>> = BTreeMap::new();
        for (key, placed) in wanted.placed {
            if let Some((set, address)) = layout.probe_of(key, placed) {
                by_set.entry(set).or_default().push((key, address));
            }
        }
        let mut missing = Vec::new();
        for (set, keys) in by_set {
            let found = self.look_up(keys.iter().map(|(_, address)| (set, *address)).collect()).await?;
            missing.extend(keys.iter().zip(found).filter(|(_, found)| !found).map(|((key, _), _)| key.to_string()));
        }
        missing.sort();
        let structure = present.disarmed.then(|| "a person has disarmed the table".to_owned());
        Ok(Difference { missing, surplus: Vec::new(), structure: structure.into_iter().collect() })
    }

    async fn disturbance(&mut self) -> Result<Disturbance, BouncerError> {
        let Some(listener) = &mut self.listener else { return std::future::pending().await };
        let disarm_file = self.options.disarm_file();
        let disarmed = self.loaded.as_ref().is_some_and(|loaded| loaded.present.disarmed);
        let switched = async {
            match disarm_file {
                Some(file) => {
                    while file.exists() == disarmed {
                        tokio::time::sleep(FILE_LOOK).await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        let nobody = Disturbance { process: String::new(), pid: 0, elements: false };
        tokio::select! {
            disturbance = listener.next() => {
                self.surplus |= listener.take_surplus();
                Ok(disturbance?)
            }
            // the sender lives as long as this
            _ = self.news_of_parts.changed() => Ok(nobody),
            () = switched => Ok(nobody),
        }
    }

    async fn dropped(&mut self) -> Result<Traffic, BouncerError> {
        if self.options.set_only {
            return Ok(Traffic::default());
        }
        let table = self.options.table.clone();
        self.with(move |connection| connection.counter(&table, template::BANNED)).await
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        self.listener = None;
        self.loaded = None;
        let mut batch = removal(&self.options.table);
        if self.options.set_only {
            batch = Batch::new(&self.options.table);
            for set in layout::PLAIN {
                batch.flush(set);
            }
        }
        self.transact(batch).await
    }
}

/// How often the file that disarms an owned table is looked for.
const FILE_LOOK: Duration = Duration::from_millis(500);
