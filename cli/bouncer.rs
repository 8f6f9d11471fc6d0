//! `cordon bouncer`: only enforce what an API elsewhere decides. And the panic switch, `cordon disarm` and
//! `cordon arm`, which needs no running process.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use agent::shutdown::{Asked, Signals};
use anyhow::{Context, bail};
use api::client::feed::PollOptions;
use api::client::{Endpoint, SseFeed, Transport};
use api::{Feed, Update};
use bouncers::config::{Mode, TargetConfig};
use bouncers::engine::rails::Rails;
use bouncers::engine::run::Wiring;
use bouncers::engine::status::Status;
use bouncers::engine::{Difference, host};
use bouncers::forward::setup::Proxy;
use bouncers::metrics::Metrics;
use bouncers::nftables::{Nftables, Options};
use jiff::Timestamp;
use model::{AllowEntry, AllowSet, Decision};
use sd_notify::NotifyState;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::accounts::confirm;
use crate::args::{Bouncer, BouncerCommand, Format, Global, Setup};
use crate::config::Config;
use crate::geo;
use crate::output::{self, printable};
use crate::setup_lists::{self, Firewall};
use crate::setup_proxy;
use crate::setup_ziti;
use crate::{run, trial};

/// Does what `cordon bouncer` is told.
pub(crate) fn run(global: &Global, args: &Bouncer) -> anyhow::Result<()> {
    match &args.command {
        None => follow(global, args),
        Some(BouncerCommand::Restore) => restore(global),
        Some(BouncerCommand::Trial { within }) => trial::begin(global, *within),
        Some(BouncerCommand::Confirm) => trial::confirm(global),
        Some(BouncerCommand::RollBack { token, within }) => trial::roll_back(global, token, *within),
        Some(BouncerCommand::Setup(Setup::Traefik(args))) => setup_proxy::run(global, Proxy::Traefik, args),
        Some(BouncerCommand::Setup(Setup::Caddy(args))) => setup_proxy::run(global, Proxy::Caddy, args),
        Some(BouncerCommand::Setup(Setup::Nginx(args))) => setup_proxy::run(global, Proxy::Nginx, args),
        Some(BouncerCommand::Setup(Setup::Ziti(args))) => setup_ziti::run(global, args.target.as_deref()),
        Some(BouncerCommand::Setup(Setup::Pfsense(args))) => setup_lists::run(global, Firewall::PfSense, args),
        Some(BouncerCommand::Setup(Setup::PfsenseSsh(args))) => setup_lists::run(global, Firewall::PfSenseSsh, args),
        Some(BouncerCommand::Setup(Setup::Opnsense(args))) => setup_lists::run(global, Firewall::OpnSense, args),
        Some(BouncerCommand::Setup(Setup::Proxmox(args))) => setup_lists::run(global, Firewall::Proxmox, args),
        Some(BouncerCommand::Plan { target }) => plan(global, args, target),
        Some(BouncerCommand::Acknowledge { target }) => acknowledge(global, target.as_deref()),
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

/// There are differences: for the exit status, what they are has been said.
#[derive(Debug, thiserror::Error)]
#[error("the target is not as it should be")]
pub(crate) struct Differs;

/// The target with that name.
pub(crate) fn target_named(config: &Config, name: &str) -> anyhow::Result<TargetConfig> {
    let targets = config.enforcement.all(&config.state);
    let names: Vec<String> = targets.iter().map(|target| format!("`{}`", target.settings.name)).collect();
    targets
        .into_iter()
        .find(|target| target.settings.name == name)
        .with_context(|| format!("there is no target `{name}`, expected {}", names.join(" or ")))
}

/// Says how a target differs from what the API decides: the one that `args` name, or this host's own.
fn plan(global: &Global, args: &Bouncer, name: &str) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let target = target_named(&config, name)?;
    let (endpoint, key) = match &args.url {
        Some(_) => source(args)?,
        None => (Endpoint::Socket(config.socket()), None),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let difference = runtime.block_on(async {
        let decisions = decisions(endpoint, key).await?;
        compare(&config, &target, &decisions).await
    })?;
    match global.output {
        Format::Json | Format::Raw => output::json(&difference)?,
        Format::Human => {
            let Difference { missing, surplus, structure } = &difference;
            let lines = structure.iter().map(|what| format!("! {}", printable(what)));
            let lines = lines.chain(missing.iter().map(|what| format!("+ {}", printable(what))));
            let mut lines: Vec<String> =
                lines.chain(surplus.iter().map(|what| format!("- {}", printable(what)))).collect();
            if lines.is_empty() {
                lines.push(format!("`{name}` is as it should be"));
            }
            output::line(&lines.join("\n"))?;
        }
    }
    if difference.is_empty() { Ok(()) } else { Err(Differs.into()) }
}

/// All that is decided at this moment.
async fn decisions(endpoint: Endpoint, key: Option<SecretString>) -> anyhow::Result<Vec<Decision>> {
    let mut feed = SseFeed::new(endpoint, key, PollOptions::default())?;
    match tokio::time::timeout(PATIENCE, feed.next()).await {
        Ok(Ok(Update::Snapshot(decisions))) => Ok(decisions),
        Ok(Ok(Update::Delta(_))) => bail!("the API begins in the middle"),
        Ok(Err(error)) => {
            bail!("cannot ask what is decided: {error}\nhint: start `cordon run`, or name an API with --url")
        }
        Err(_) => bail!("the API does not say within {} seconds what is decided", PATIENCE.as_secs()),
    }
}

/// How a target differs from what `decisions` say, with the rails of this host.
pub(crate) async fn compare(
    config: &Config,
    target: &TargetConfig,
    decisions: &[Decision],
) -> anyhow::Result<Difference> {
    let allow = AllowSet::new(run::configured_entries(config));
    let own = host::own_addresses().context("cannot list this host's own addresses")?;
    let own: Vec<AllowEntry> = own.into_iter().chain(target.settings.never.iter().cloned()).collect();
    let now = Timestamp::now();
    let rails = Rails::new(target.settings.limits, &allow, &own, now);
    Ok(Box::pin(target.connect()?.compare(decisions, &target.settings, rails, now)).await?)
}

/// Lets what waits go on: the running process looks for the file every ten seconds.
fn acknowledge(global: &Global, name: Option<&str>) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let targets = match name {
        Some(name) => vec![target_named(&config, name)?],
        None => config.enforcement.all(&config.state),
    };
    for target in &targets {
        let Some(file) = target.settings.beside("acknowledged") else { continue };
        std::fs::write(&file, "").with_context(|| format!("cannot write `{}`", file.display()))?;
        crate::remote::note(global, "enforcement.acknowledge", &target.settings.name);
    }
    confirm(global, "acknowledged: what waits goes on within ten seconds")
}

/// How long an API may take to say all that is decided.
const PATIENCE: Duration = Duration::from_secs(30);

/// The API that the arguments name, and the key to it.
fn source(args: &Bouncer) -> anyhow::Result<(Endpoint, Option<SecretString>)> {
    let url = args.url.as_deref().context("no `--url` of an API to follow")?;
    let key = match &args.key_file {
        Some(path) => {
            let key = std::fs::read_to_string(path);
            let key = key.with_context(|| format!("cannot read the key in `{}`", path.display()))?;
            Some(SecretString::from(key.trim().to_owned()))
        }
        None => None,
    };
    let transport = Transport { authority: args.ca.clone(), certificate: args.cert.clone().zip(args.cert_key.clone()) };
    Ok((Endpoint::new(url).with(transport), key))
}

/// Follows the API until a signal says stop.
fn follow(global: &Global, args: &Bouncer) -> anyhow::Result<()> {
    let mut config = Config::load(global)?;
    if args.enforce {
        config.enforcement.mode = Mode::Enforce;
    }
    let (endpoint, key) = source(args)?;
    let spared = addresses_of(args.url.as_deref().unwrap_or_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(config, endpoint, key, spared))
}

/// The addresses of the API at `url`: whoever blocks them hears nothing more.
fn addresses_of(url: &str) -> Vec<AllowEntry> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let found = authority.to_socket_addrs().or_else(|_| (authority.trim_matches(['[', ']']), 443).to_socket_addrs());
    let entry = |address: IpAddr| AllowEntry {
        net: address.to_canonical().into(),
        list: "this API".to_owned(),
        comment: url.to_owned(),
        expires: None,
    };
    found.map(|found| found.map(|address| entry(address.ip())).collect()).unwrap_or_default()
}

async fn serve(
    config: Config,
    endpoint: Endpoint,
    key: Option<SecretString>,
    spared: Vec<AllowEntry>,
) -> anyhow::Result<()> {
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
        let mut wiring =
            Wiring::new(allow.clone(), status, metrics.clone(), run::own_addresses(&config, spared.clone()));
        wiring.right = run::right(&target);
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

/// The table in this host's kernel.
pub(crate) fn open(config: &Config) -> anyhow::Result<Nftables> {
    let state = Some(config.state.clone());
    Ok(Nftables::open(Options { state, ..config.enforcement.nftables() })?)
}

/// Lets everybody through, or undoes that.
pub(crate) fn switch(global: &Global, armed: bool) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let table = open(&config)?;
    let config = config.enforcement;
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
