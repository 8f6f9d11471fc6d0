//! All targets of one process: what the configuration names, opened and driven, each by its own task.
//!
//! Targets share nothing but the process: one that hangs, fails or is slow leaves the others as they are. A new kind of
//! target is a variant of [`Kind`] and one arm in each match here.

use std::future::Future;
use std::path::Path;

use api::Feed;
use jiff::Timestamp;
use model::{AllowEntry, AllowSet, Delta};

use crate::config::{Config, Kind, Mode, Settings, TargetConfig};
use crate::engine::plan::{Gate, Refusals, place_all};
use crate::engine::rails::Rails;
use crate::engine::run::{Nowhere, Wiring, run};
use crate::engine::snapshot::{self, Snapshot};
use crate::engine::span::{Family, join};
use crate::engine::{Bouncer, Caps, Difference, Extent, Never, Wanted};
use crate::error::BouncerError;
use crate::exec::Exec;
use crate::feed::{self, Lists};
use crate::forward::Forward;
use crate::metrics::Metrics;
use crate::nftables::{Nftables, Options, Parts};
use crate::opnsense::{self, OpnSense};
use crate::pfsense::{self, Rest, Ssh};
use crate::proxmox::{self, Proxmox};
use crate::remote::ListBouncer;
use crate::told::{self, Told};
use crate::webhook::Webhook;
use crate::ziti::Ziti;

/// A target that is ready to be driven. It need not answer yet.
pub enum Target {
    /// Nobody: a dry run.
    Nowhere(Nowhere),
    /// A table in this host's kernel.
    Nftables(Box<Nftables>),
    /// An alias of a pfSense.
    PfSense(Box<ListBouncer<Rest>>),
    /// A table of a pfSense.
    PfSenseSsh(Box<ListBouncer<Ssh>>),
    /// An alias of an `OPNsense`.
    OpnSense(Box<ListBouncer<OpnSense>>),
    /// A set of a Proxmox VE cluster.
    Proxmox(Box<ListBouncer<Proxmox>>),
    /// The controllers of a Ziti network.
    Ziti(Box<Ziti>),
    /// Answers for reverse proxies.
    ForwardAuth(Box<Forward>),
    /// Lists for firewalls and proxies.
    Feed(Box<Lists>),
    /// Signed requests.
    Webhook(Box<Told<Webhook>>),
    /// A program on this host.
    Exec(Box<Told<Exec>>),
}

impl Config {
    /// Every target, this host's kernel first unless it is switched off. The state of each is kept in the folder
    /// `state`, where the file does not name another place.
    pub fn all(&self, state: &Path) -> Vec<TargetConfig> {
        let mut own = self.settings();
        own.snapshot.get_or_insert_with(|| state.join("bouncer.snapshot"));
        let in_folder = |options: Options| Options { state: Some(state.to_owned()), ..options };
        let kernel = TargetConfig { settings: own, writer: None, kind: Kind::Nftables(in_folder(self.nftables())) };
        let kernel = (self.mode != Mode::Off || self.targets.is_empty()).then_some(kernel);
        let others = self.targets.iter().cloned().map(|mut target| {
            let file = state.join("bouncers").join(format!("{}.snapshot", target.settings.name));
            target.settings.snapshot.get_or_insert(file);
            if let Kind::Nftables(options) = &mut target.kind {
                options.state = Some(state.to_owned());
            }
            target
        });
        kernel.into_iter().chain(others).collect()
    }
}

impl TargetConfig {
    /// What the target can do.
    pub fn caps(&self) -> Caps {
        match &self.kind {
            Kind::Nftables(_) => Caps::LOCAL,
            Kind::PfSense(_) => pfsense::rest::rest_caps(),
            Kind::PfSenseSsh(_) => pfsense::ssh::ssh_caps(),
            Kind::OpnSense(_) => opnsense::caps(),
            Kind::Proxmox(_) => proxmox::caps(),
            Kind::Ziti(_) => Ziti::CAPS,
            Kind::ForwardAuth(config) => config.caps(),
            Kind::Feed(_) => feed::CAPS,
            Kind::Webhook(_) | Kind::Exec(_) => told::CAPS,
        }
    }

    /// Opens the target: what is missing on this host is an error, a target elsewhere that does not answer is not. A
    /// dry run needs nothing.
    pub fn open(&self, metrics: &Metrics) -> Result<Target, BouncerError> {
        match self.settings.mode {
            Mode::DryRun | Mode::Off => Ok(Target::Nowhere(Nowhere::new(self.caps()))),
            Mode::Enforce | Mode::Observe => match &self.kind {
                Kind::ForwardAuth(config) => {
                    let forward = Forward::open(config, self.settings.on_loss, metrics.forward.clone())?;
                    Ok(Target::ForwardAuth(Box::new(forward)))
                }
                Kind::Feed(config) => Ok(Target::Feed(Box::new(Lists::open(config, metrics.feed.clone())?))),
                _ => self.connect(),
            },
        }
    }

    /// Enforces the last known good state, asks nobody, and is done: for a host that boots. How many entries that are;
    /// `None` where there is nothing to restore. Whoever was never to be blocked when the state was saved passes.
    pub async fn restore(
        &self,
        allow: &AllowSet,
        own: &[AllowEntry],
        now: Timestamp,
    ) -> Result<Option<usize>, BouncerError> {
        let (Mode::Enforce | Mode::Observe, Kind::Nftables(options)) = (self.settings.mode, &self.kind) else {
            return Ok(None);
        };
        let Some(path) = &self.settings.snapshot else { return Ok(None) };
        // What the kernel can do is tried out meanwhile: this host is open until all of it is done.
        let options = options.clone();
        let table = tokio::task::spawn_blocking(move || Nftables::open(options));
        let snapshot = snapshot::read(path, &self.settings.name)?;
        let mut desired = self.settings.nothing_desired();
        for add in snapshot.iter().flat_map(Snapshot::chunks) {
            desired.apply(&Delta { add, remove: Vec::new() }, now);
        }
        let own: Vec<AllowEntry> = self.settings.never.iter().chain(own).cloned().collect();
        let rails = Rails::new(self.settings.limits, allow, &own, now);
        let mut never = snapshot.map(|snapshot| snapshot.never().clone()).unwrap_or_default();
        for (spans, family) in [(&mut never.v4, Family::V4), (&mut never.v6, Family::V6)] {
            spans.extend(rails.never(family, now));
            *spans = join(std::mem::take(spans));
        }
        let mut gate = Gate::for_target(self.caps(), &self.settings, rails);
        let placed = place_all(&desired, &mut gate, &mut Refusals::default(), now);
        let mut table = table.await.map_err(|error| BouncerError::Setup(error.to_string()))??;
        table.enforce(Wanted { placed: &placed, never: &never, desired: Some(&desired) }, Extent::AtLeast, now).await?;
        Ok(Some(placed.len()))
    }

    /// The same, also where nothing may be changed.
    pub fn connect(&self) -> Result<Target, BouncerError> {
        let name = &self.settings.name;
        match &self.kind {
            Kind::Nftables(options) => Ok(Target::Nftables(Box::new(Nftables::open(options.clone())?))),
            Kind::PfSense(options) => Ok(Target::PfSense(Box::new(ListBouncer::new(Rest::open(name, options)?)))),
            Kind::PfSenseSsh(options) => {
                let mut options = options.clone();
                if options.control.as_os_str().is_empty() {
                    let folder = self.settings.snapshot.as_deref().and_then(Path::parent);
                    options.control = folder.map_or_else(std::env::temp_dir, Path::to_path_buf);
                }
                Ok(Target::PfSenseSsh(Box::new(ListBouncer::new(Ssh::open(name, &options)?))))
            }
            Kind::OpnSense(options) => Ok(Target::OpnSense(Box::new(ListBouncer::new(OpnSense::open(name, options)?)))),
            Kind::Proxmox(options) => Ok(Target::Proxmox(Box::new(ListBouncer::new(Proxmox::open(name, options)?)))),
            Kind::Ziti(options) => Ok(Target::Ziti(Box::new(Ziti::open(&self.settings, options)?))),
            Kind::ForwardAuth(_) | Kind::Feed(_) => Err(BouncerError::Setup(format!(
                "`{}` lives in the memory of the process that serves it\nhint: `cordon status` says how it is",
                self.settings.name
            ))),
            Kind::Webhook(config) => {
                let webhook = Webhook::open(&self.settings.name, Clone::clone(config))?;
                Ok(Target::Webhook(Box::new(Told::new(webhook))))
            }
            Kind::Exec(config) => {
                let program = Exec::open(&self.settings.name, config.clone());
                Ok(Target::Exec(Box::new(Told::new(program))))
            }
        }
    }
}

impl Target {
    /// How geo policies get into the target, if it is one that takes them.
    pub fn parts(&self) -> Option<Parts> {
        match self {
            Target::Nftables(target) => Some(target.parts()),
            _ => None,
        }
    }

    /// Enforces what `feed` says there until `shutdown` is done.
    pub async fn run(
        self,
        feed: impl Feed,
        settings: Settings,
        wiring: Wiring,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), BouncerError> {
        match self {
            Target::Nowhere(target) => Box::pin(run(feed, target, settings, wiring, shutdown)).await,
            Target::Nftables(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::PfSense(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::PfSenseSsh(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::OpnSense(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::Proxmox(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::Ziti(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::ForwardAuth(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::Feed(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::Webhook(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
            Target::Exec(target) => Box::pin(run(feed, *target, settings, wiring, shutdown)).await,
        }
    }

    /// Makes what entries need, where it is not there, and no entries.
    pub async fn prepare(&mut self) -> Result<(), BouncerError> {
        match self {
            Target::Nowhere(target) => target.prepare().await,
            Target::Nftables(target) => Box::pin(target.prepare()).await,
            Target::PfSense(target) => Box::pin(target.prepare()).await,
            Target::PfSenseSsh(target) => Box::pin(target.prepare()).await,
            Target::OpnSense(target) => Box::pin(target.prepare()).await,
            Target::Proxmox(target) => Box::pin(target.prepare()).await,
            Target::Ziti(target) => Box::pin(target.prepare()).await,
            Target::ForwardAuth(target) => Box::pin(target.prepare()).await,
            Target::Feed(target) => Box::pin(target.prepare()).await,
            Target::Webhook(target) => Box::pin(target.prepare()).await,
            Target::Exec(target) => Box::pin(target.prepare()).await,
        }
    }

    /// How the target differs from what `decisions` say. Writes nothing.
    pub async fn compare(
        &mut self,
        decisions: &[model::Decision],
        settings: &Settings,
        rails: Rails,
        now: Timestamp,
    ) -> Result<Difference, BouncerError> {
        match self {
            Target::Nowhere(target) => compare(target, decisions, settings, rails, now).await,
            Target::Nftables(target) => compare(target.as_mut(), decisions, settings, rails, now).await,
            Target::PfSense(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::PfSenseSsh(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::OpnSense(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::Proxmox(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::Ziti(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::ForwardAuth(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::Feed(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::Webhook(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
            Target::Exec(target) => Box::pin(compare(target.as_mut(), decisions, settings, rails, now)).await,
        }
    }
}

async fn compare(
    target: &mut impl Bouncer,
    decisions: &[model::Decision],
    settings: &Settings,
    rails: Rails,
    now: Timestamp,
) -> Result<Difference, BouncerError> {
    let mut desired = settings.nothing_desired();
    desired.replace(decisions, now);
    let never = Never { v4: rails.never(Family::V4, now), v6: rails.never(Family::V6, now) };
    let mut gate = Gate::for_target(target.caps(), settings, rails);
    let placed = place_all(&desired, &mut gate, &mut Refusals::default(), now);
    target.compare(Wanted { placed: &placed, never: &never, desired: Some(&desired) }, now).await
}
