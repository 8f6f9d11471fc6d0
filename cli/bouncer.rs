//! `cordon bouncer`: only enforce what an API elsewhere decides. And the panic switch, `cordon disarm` and
//! `cordon arm`, which needs no running process.

use std::sync::Arc;

use agent::shutdown::{Asked, Signals};
use anyhow::{Context, bail};
use api::client::feed::PollOptions;
use api::client::{Endpoint, SseFeed, Transport};
use bouncers::config::Mode;
use bouncers::engine::host;
use bouncers::engine::run::Wiring;
use bouncers::engine::status::Status;
use bouncers::forward::setup::Proxy;
use bouncers::metrics::Metrics;
use bouncers::nftables::{Nftables, Options};
use jiff::Timestamp;
use model::AllowSet;
use sd_notify::NotifyState;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::accounts::confirm;
use crate::args::{Bouncer, BouncerCommand, Global, Setup};
use crate::config::Config;
use crate::geo;
use crate::run;
use crate::setup_proxy;
use crate::setup_ziti;

/// Does what `cordon bouncer` is told.
pub(crate) fn run(global: &Global, args: &Bouncer) -> anyhow::Result<()> {
    match &args.command {
        None => follow(global, args),
        Some(BouncerCommand::Restore) => restore(global),
        Some(BouncerCommand::Setup(Setup::Traefik(args))) => setup_proxy::run(global, Proxy::Traefik, args),
        Some(BouncerCommand::Setup(Setup::Caddy(args))) => setup_proxy::run(global, Proxy::Caddy, args),
        Some(BouncerCommand::Setup(Setup::Nginx(args))) => setup_proxy::run(global, Proxy::Nginx, args),
        Some(BouncerCommand::Setup(Setup::Ziti(args))) => setup_ziti::run(global, args.target.as_deref()),
    }
}

/// Enforces what was in force last, without asking anybody.
fn restore(global: &Global) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let allow = AllowSet::new(run::configured_entries(&config));
    let own = host::own_addresses().context("cannot list this host's own addresses")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    for target in config.enforcement.all(&config.state) {
        let name = &target.settings.name;
        match runtime.block_on(target.restore(&allow, &own, Timestamp::now())) {
            Ok(Some(entries)) => info!(target = name, entries, "the last known good state is in force"),
            Ok(None) => info!(target = name, "there is nothing to restore"),
            Err(error) => bail!("cannot restore the state of `{name}`: {error}"),
        }
    }
    Ok(())
}

/// Follows the API until a signal says stop.
fn follow(global: &Global, args: &Bouncer) -> anyhow::Result<()> {
    let url = args.url.as_deref().context("no `--url` of an API to follow")?;
    let mut config = Config::load(global)?;
    if args.enforce {
        config.enforcement.mode = Mode::Enforce;
    }
    let key = match &args.key_file {
        Some(path) => {
            let key = std::fs::read_to_string(path);
            let key = key.with_context(|| format!("cannot read the key in `{}`", path.display()))?;
            Some(SecretString::from(key.trim().to_owned()))
        }
        None => None,
    };
    let transport = Transport { authority: args.ca.clone(), certificate: args.cert.clone().zip(args.cert_key.clone()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(config, Endpoint::new(url).with(transport), key))
}

async fn serve(config: Config, endpoint: Endpoint, key: Option<SecretString>) -> anyhow::Result<()> {
    run::make_folder(&config.state)?;
    let metrics = Metrics::default();
    let targets = run::open_targets(&config, &metrics)?;
    let set = Arc::new(AllowSet::new(run::configured_entries(&config)));
    let (_allow, allow) = watch::channel(set);
    let (stop, stopping) = watch::channel(false);
    let mut running = JoinSet::new();
    let mut geo = None;
    for (target, open) in targets {
        let feed = SseFeed::new(endpoint.clone(), key.clone(), PollOptions::default())?;
        let (status, seen) = watch::channel(Status::new(target.settings.mode));
        geo = geo.or_else(|| geo::start(&config, open.parts(), seen, stopping.clone()));
        let wiring = Wiring::new(allow.clone(), status, metrics.clone(), host::own_addresses);
        running.spawn(open.run(feed, target.settings, wiring, run::stopped(stopping.clone())));
    }
    run::announce(&config.enforcement);
    // nobody may have asked to be told
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let mut signals = Signals::new().context("cannot wait for signals")?;
    loop {
        tokio::select! {
            asked = signals.next() => if asked == Asked::Stop { break },
            // none ends by itself but with an error
            Some(ended) = running.join_next() => ended.context("a bouncer broke")??,
        }
    }
    stop.send_replace(true);
    while let Some(ended) = running.join_next().await {
        ended.context("a bouncer broke")??;
    }
    Ok(())
}

/// Lets everybody through, or undoes that.
pub(crate) fn switch(global: &Global, armed: bool) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let state = Some(config.state.clone());
    let config = config.enforcement;
    let table = Nftables::open(Options { state, ..config.nftables() })?;
    let there = if armed { table.arm()? } else { table.disarm()? };
    if !there {
        bail!("there is no table `inet {}` in this kernel: nothing is enforced here", config.table);
    }
    crate::remote::note(global, if armed { "enforcement.arm" } else { "enforcement.disarm" }, &config.table);
    confirm(
        global,
        if armed { "armed: bans drop packets again" } else { "disarmed: nothing is dropped until `cordon arm`" },
    )
}
