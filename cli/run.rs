//! `cordon run`: start what the configuration enables, say what watches what, and end in order.
//!
//! What was enforced before is enforced again before anything else is asked; lines are read last, when whatever
//! they lead to has somewhere to go.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use api::config::ServerConfig;
use api::profiles::{self, Profiles};
use api::server::service::{Options, Service};
use api::server::{Server, ServerError, StatusSource};
use api::store::Sqlite;
use bouncers::config::{Config as Enforcement, Mode};
use bouncers::engine::run::{Nowhere, Wiring};
use bouncers::engine::{self, host, status::Status};
use bouncers::metrics::Metrics;
use bouncers::nftables::Nftables;
use jiff::Timestamp;
use model::AllowEntry;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::args::{Global, RunArgs};
use crate::config::Config;

pub(crate) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<()> {
    let mut config = Config::load(global)?;
    if args.enforce {
        config.enforcement.mode = Mode::Enforce;
    } else if args.dry_run {
        config.enforcement.mode = Mode::DryRun;
    }
    if let Some(address) = args.listen {
        config.api.listen = Some(address);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    make_folder(&config.state)?;
    let target = open_target(&config.enforcement)?;
    let service = open_service(&config)?;
    let server = listen(&config, &service).await?;
    let (stop, stopping) = watch::channel(false);

    let (status, seen) = watch::channel(Status::new(config.enforcement.mode));
    let bouncer = spawn_bouncer(&config, &service, target, status, stopping.clone());
    let maintenance = tokio::spawn({
        let service = service.clone();
        async move { service.maintain().await }
    });
    let server = server.with_status(StatusSource::new(move || {
        let bouncer = seen.borrow().clone();
        serde_json::json!({ "bouncer": bouncer, "health": bouncer.health(Timestamp::now()) })
    }));
    let answering = tokio::spawn(server.run(stopped(stopping)));
    // nobody may have asked to be told
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    announce(&config.enforcement);

    wait_for_signal().await?;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    info!("stopping");
    stop.send_replace(true);
    answering.await.context("the local API broke")?;
    service.close().await?;
    bouncer.await.context("the bouncer broke")??;
    maintenance.await.context("the maintenance broke")?;
    Ok(())
}

/// The kernel, if it is to be touched.
pub(crate) fn open_target(config: &Enforcement) -> anyhow::Result<Option<Nftables>> {
    Ok(match config.mode {
        Mode::Enforce | Mode::Observe => Some(Nftables::open(config.nftables())?),
        Mode::DryRun | Mode::Off => None,
    })
}

/// Makes the state folder, for this user alone.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        format!("cannot use `{}` as state folder\nhint: name another one with --state", path.display())
    })
}

fn open_service(config: &Config) -> anyhow::Result<Service> {
    let profiles = match &config.rules.profiles {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            Profiles::parse(&[(path, &text)])?
        }
        None => Profiles::parse(&[(Path::new("shipped:profiles.yaml"), profiles::DEFAULT)])?,
    };
    let store = Arc::new(Sqlite::open(&config.state.join("cordon.db"))?);
    let options = Options { allow: allowed(config), ..Options::default() };
    Ok(Service::open(store, profiles, options, Timestamp::now())?)
}

/// Who is never punished, whatever the allowlists say: what the configuration names, and this host itself.
fn allowed(config: &Config) -> Vec<AllowEntry> {
    let entry = |net| AllowEntry { net, list: "cordon.yaml".to_owned(), comment: String::new(), expires: None };
    let mut entries: Vec<AllowEntry> = config.allowlist.iter().copied().map(entry).collect();
    entries.extend(agent::own_addresses::own_addresses(Path::new("/proc")));
    entries
}

async fn listen(config: &Config, service: &Service) -> anyhow::Result<Server> {
    let server = ServerConfig { listen: config.api.listen, socket: Some(config.socket()), ..ServerConfig::default() };
    match Server::bind(server, service.clone()).await {
        Ok(server) => Ok(server),
        Err(ServerError::Listen { on, source }) if source.kind() == std::io::ErrorKind::AddrInUse => {
            if on.parse::<SocketAddr>().is_ok() {
                bail!(
                    "another program listens on {on}\n\
                     hint: choose another address with --listen, or set `api: {{ listen: off }}`; `ss -ltnp` shows who it is"
                );
            }
            bail!(
                "cordon already runs with this state folder: somebody answers at `{on}`\nhint: name another one with --state"
            );
        }
        Err(error) => Err(error.into()),
    }
}

fn spawn_bouncer(
    config: &Config,
    service: &Service,
    target: Option<Nftables>,
    status: watch::Sender<Status>,
    stopping: watch::Receiver<bool>,
) -> JoinHandle<Result<(), bouncers::BouncerError>> {
    let wiring = Wiring { allow: service.watch_allow(), status, metrics: Metrics::default(), own: host::own_addresses };
    let mut enforcement = config.enforcement.clone();
    if enforcement.snapshot.is_none() && target.is_some() {
        enforcement.snapshot = Some(config.state.join("bouncer.snapshot"));
    }
    let (feed, shutdown) = (service.subscribe(), stopped(stopping));
    match target {
        Some(target) => tokio::spawn(engine::run::run(feed, target, enforcement, wiring, shutdown)),
        None => tokio::spawn(engine::run::run(feed, Nowhere, enforcement, wiring, shutdown)),
    }
}

pub(crate) async fn stopped(mut stopping: watch::Receiver<bool>) {
    // an error means that whoever could say it is gone
    let _ = stopping.wait_for(|stop| *stop).await;
}

pub(crate) fn announce(config: &Enforcement) {
    match config.mode {
        Mode::Enforce => info!(table = config.table, "enforcing: bans drop packets"),
        Mode::Observe => info!(table = config.table, "observing: packets are counted, not dropped"),
        Mode::DryRun => warn!("dry run: nothing is blocked; `cordon run --enforce` changes that"),
        Mode::Off => info!("decisions are not enforced on this host"),
    }
}

pub(crate) async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
