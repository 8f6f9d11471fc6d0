//! `cordon run`: start what the configuration enables, say what watches what, and end in order.
//!
//! What was enforced before is enforced again before anything else is asked; lines are read last, when whatever
//! they lead to has somewhere to go.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::acquisition::config::{self as datasources, SourceConfig};
use agent::acquisition::discover::discover;
use agent::crowdsec;
use agent::engine::EngineOptions;
use agent::hub::{self, BASE, Choice, Hub};
use agent::load::{Folders, RuleFiles};
use agent::metrics;
use agent::pipeline::{Parts, Pipeline};
use agent::remote;
use agent::report::Target;
use agent::requests::{Endpoints, Reputation, Requests, Url};
use agent::resolver::Resolver;
use agent::ruleset::{Built, RuleSet};
use agent::shutdown::{Asked, Signals};
use agent::spool::outbox::Outbox;
use agent::state::State;
use agent::status::{Kind, Problem, Status};
use agent::world::Outside;
use anyhow::{Context, anyhow, bail};
use api::client::{Access, Client, ClientConfig};
use api::config::ServerConfig;
use api::profiles::{self, Profiles};
use api::server::service::{Options, Service};
use api::server::{Certificates, MetricsSource, Reload, Server, ServerError, StatusSource};
use api::store::Sqlite;
use bouncers::config::{Config as Enforcement, Mode, TargetConfig};
use bouncers::engine::run::Wiring;
use bouncers::engine::status::Status as BouncerStatus;
use bouncers::engine::{Right, admins, host};
use bouncers::fleet::Target as Opened;
use bouncers::metrics::Metrics;
use jiff::Timestamp;
use model::AllowEntry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scenarios::HashKey;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, block_in_place};
use tracing::{error, info, warn};

use crate::args::{Global, RulesFrom, RunArgs};
use crate::config::{Config, Lookups, Rules};
use crate::geo;
use crate::status::Report;

/// The name under which this process's own alerts are stored.
const MACHINE: &str = "cordon";

pub(crate) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<()> {
    let load = || configure(global, args);
    let config = load()?;
    allow_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(config, &load))
}

/// The configuration that file and flags ask for.
fn configure(global: &Global, args: &RunArgs) -> anyhow::Result<Config> {
    let mut config = Config::load(global)?;
    if let Some(folder) = &args.config_dir {
        config.adopt(folder)?;
    }
    if args.enforce {
        config.enforcement.mode = Mode::Enforce;
    } else if args.dry_run {
        config.enforcement.mode = Mode::DryRun;
    }
    if let Some(address) = args.listen {
        config.api.listen = Some(address);
    }
    Ok(config)
}

/// Lets this process open as many files as it ever may: each bouncer that follows is one.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, "cannot raise the number of open files");
    }
}

async fn serve(config: Config, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot wait for signals")?;
    make_folder(&config.state)?;
    let enforced = Metrics::default();
    let targets = open_targets(&config, &enforced)?;
    let service = open_service(&config)?;
    let server = listen(&config, &service).await?;

    let (stop, stopping) = watch::channel(false);
    let parts = targets.iter().find_map(|(_, target)| target.parts());
    let (bouncers, said) = spawn_bouncers(&config, &service, targets, &enforced, &stopping);
    let engine = said.first().cloned();
    let geo = engine.and_then(|engine| block_in_place(|| geo::start(&config, parts, engine, stopping.clone())));
    if let Some(geo) = &geo {
        geo.spare(&config, &service)?;
    }
    let maintenance = tokio::spawn({
        let service = service.clone();
        async move { service.maintain().await }
    });

    let status = Arc::new(Status::default());
    let (learn, learned) = watch::channel(Vec::new());
    let pipeline = block_in_place(|| start_pipeline(&config, &service, &status, learn))?;
    let geo = geo.map(|geo| geo.status);
    let report = Report::new(Arc::clone(&status), said, service.clone(), geo);
    let (reload, mut reloads) = mpsc::channel(1);
    let counted = Arc::clone(&status);
    let server = server
        .with_status(StatusSource::new(move || report.json()))
        .with_metrics(MetricsSource::new(move |registry| {
            metrics::register(&counted, registry);
            enforced.register(registry);
        }))
        .with_reload(reload);
    let certificates = server.certificates();
    let answering = tokio::spawn(server.run(stopped(stopping)));
    // nobody may have asked to be told
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    announce(&config.enforcement);

    let mut running = Running { config, service, pipeline, status, certificates, learned };
    let mut news = running.learned.clone();
    loop {
        let asked = tokio::select! {
            Ok(()) = news.changed() => {
                running.learn().await;
                continue;
            }
            asked = signals.next() => (asked == Asked::Reload).then_some(None),
            Some(request) = reloads.recv() => Some(Some(request)),
        };
        let Some(request) = asked else { break };
        let done = block_in_place(|| running.reload(load));
        match &done {
            Ok(changes) => info!(%changes, "configuration, rules and datasources were read again"),
            Err(error) => error!("nothing was changed: {error:#}"),
        }
        if let Some(Reload(answer)) = request {
            // whoever asked may have gone
            let _ = answer.send(done.map_err(|error| format!("{error:#}")));
        }
    }
    let Running { service, pipeline, .. } = running;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    info!("stopping");
    pipeline.stop().await;
    stop.send_replace(true);
    answering.await.context("the local API broke")?;
    service.close().await?;
    for bouncer in bouncers {
        bouncer.await.context("a bouncer broke")??;
    }
    maintenance.await.context("the maintenance broke")?;
    Ok(())
}

/// Starts reading: from the places where it stood, under the rules that load.
fn start_pipeline(
    config: &Config,
    service: &Service,
    status: &Arc<Status>,
    learn: watch::Sender<Vec<AllowEntry>>,
) -> anyhow::Result<Pipeline> {
    let (sources, mut problems) = sources(config);
    let Built { rules, problems: rule_problems, warnings } = build(config);
    problems.extend(rule_problems);
    for warning in &warnings {
        warn!("{warning}");
    }
    for problem in &problems {
        error!("{problem}");
    }
    refuse_to_enforce(config, &problems)?;
    status.set_problems(problems);
    if sources.is_empty() {
        warn!("no logs are read\nhint: name datasources with `acquisition: {{ paths: [...] }}` in the configuration");
    }
    let state = State::open(&config.state, rand::random())?;
    let mut losses = state.losses.clone();
    let target = match &config.api.client {
        None => Target::Service { service: service.clone(), machine: MACHINE.to_owned() },
        Some(elsewhere) => {
            let client = Arc::new(connect(elsewhere, &rules)?);
            let folder = config.state.join("spool");
            make_folder(&folder)?;
            let (outbox, lost) = Outbox::open(Arc::clone(&client), &folder, u64::from(elsewhere.spool_mib) << 20)?;
            losses.extend(lost);
            tokio::spawn(remote::keep_in_touch(client, learn));
            if config.enforcement.mode == Mode::Enforce {
                warn!(
                    "alerts go elsewhere, so only bans made here by hand are enforced\nhint: `cordon bouncer` enforces what that api decides"
                );
            }
            Target::Remote(Box::new(outbox))
        }
    };
    for loss in &losses {
        error!("{loss}");
    }
    status.set_losses(losses);
    for source in &sources {
        info!(source = source.id, "reads");
    }
    remember(service, &rules)?;
    let requests = requests(config)?;
    if requests.is_none() {
        rules.asks_pages.iter().for_each(|fault| warn!("{fault}"));
    }
    if let Some(requests) = &requests {
        service.set_reputations(Arc::new(requests.clone()));
    }
    let outside = Outside { resolver: resolver(config), decisions: Some(service.clone()), requests };
    let parts = Parts {
        sources,
        rules: Arc::new(rules),
        options: EngineOptions::live(HashKey::new(state.key.0)),
        allow: service.allow(),
        outside,
        target,
        state,
        catch_up: config.acquisition.catch_up,
        status: Arc::clone(status),
    };
    Pipeline::start(parts).context("cannot start the threads")
}

/// The API to which alerts go. It need not answer yet.
fn connect(elsewhere: &ClientConfig, rules: &RuleSet) -> anyhow::Result<Client> {
    let path = &elsewhere.credentials_path;
    let access = crowdsec::credentials(path, &crowdsec::environment)
        .and_then(|file| Access::read(&file).map_err(|fault| fault.within(path)));
    let Access { endpoint, credentials } =
        access.map_err(|fault| anyhow!("{}", Problem::new(Kind::Datasource, fault)))?;
    info!(url = %endpoint, "alerts go to an api elsewhere");
    let scenarios = rules.scenarios.all().iter().map(|scenario| scenario.name.clone()).collect();
    Ok(Client::new(endpoint, credentials)?.with_scenarios(scenarios))
}

/// Who is asked for names, if anybody may be. Whether anybody is depends on the rules.
fn resolver(config: &Config) -> Option<Resolver> {
    match config.resolver {
        Lookups::Off => None,
        Lookups::System => {
            let told = |error: &_| warn!(%error, "the DNS servers of this host are not known: rules get no names");
            Resolver::system().inspect_err(told).ok()
        }
    }
}

/// Who fetches pages for rules, if the configuration names where from.
fn requests(config: &Config) -> anyhow::Result<Option<Requests>> {
    let page = |text: &String| Url::parse(text).with_context(|| format!("`{text}` is not the address of a page"));
    let allowed = config.requests.endpoints.iter().map(page).collect::<anyhow::Result<Vec<_>>>()?;
    let reputation = match &config.requests.reputation {
        None => None,
        Some(service) => {
            let key = std::fs::read_to_string(&service.key_file)
                .with_context(|| format!("cannot read `{}`", service.key_file.display()))?;
            Some(Reputation { url: page(&service.url)?, key: key.trim().to_owned() })
        }
    };
    if allowed.is_empty() && reputation.is_none() {
        return Ok(None);
    }
    Requests::new(Endpoints { allowed, reputation }).map(Some).context("cannot send requests")
}

/// Keeps past decisions at hand, if `rules` ask for them.
fn remember(service: &Service, rules: &RuleSet) -> anyhow::Result<()> {
    if rules.asks_history {
        Handle::current().block_on(service.keep_history()).context("cannot read past decisions")?;
    }
    Ok(())
}

/// Datasources that are configured and discovered, and what is wrong with the former.
fn sources(config: &Config) -> (Vec<SourceConfig>, Vec<Problem>) {
    let (mut sources, problems) = datasources::load(&config.acquisition.paths, &|name| std::env::var(name).ok());
    if config.acquisition.discover {
        let journal = ["/run/log/journal", "/var/log/journal"].iter().any(|folder| Path::new(folder).is_dir());
        let found = discover(Path::new("/"), journal);
        sources.extend(
            found.into_iter().filter(|new| !sources.iter().any(|known| known.id == new.id)).collect::<Vec<_>>(),
        );
    }
    (sources, problems)
}

fn build(config: &Config) -> Built {
    let from = Folders { shipped: config.rules.shipped, folders: config.rules.folders.clone() };
    RuleSet::build(&RuleFiles::read(&from).with_shipped_patterns())
}

/// The rules that an analyst wants to try; what does not load is told. A folder in place of the configured rules is
/// entered into `config`.
pub(crate) fn rules(config: &mut Config, from: &RulesFrom) -> anyhow::Result<RuleSet> {
    if let Some(folder) = &from.config_dir {
        hub::has_rules(folder)?;
        config.rules = Rules { shipped: false, folders: vec![folder.clone()], profiles: None };
    }
    let built = match &from.hub {
        None => build(config),
        Some(root) if from.all => Hub::build(root, &Choice::All)?,
        Some(root) => {
            let built = Hub::build(root, &Choice::Collections(from.collections.clone()))?;
            let hub = Hub::open(root)?;
            let lacking = hub.lacks(&from.collections);
            if lacking.contains(&BASE) {
                info!(
                    "these collections have no parser of the stage `s00-raw`: the parsers of `{BASE}` are used with them"
                );
            } else if !lacking.is_empty() {
                warn!(
                    "these collections have no parser of the stage `s00-raw`, which tells the message from what stands before it\n\
                     hint: add one that has: `{}`",
                    lacking.join("`, `")
                );
            }
            built
        }
    };
    if from.config_dir.is_some() {
        built.warnings.iter().for_each(|warning| warn!("{warning}"));
    }
    for problem in &built.problems {
        warn!("{problem}");
    }
    Ok(built.rules)
}

/// Without a whitelist that does not load, somebody could be punished whom it protects.
fn refuse_to_enforce(config: &Config, problems: &[Problem]) -> anyhow::Result<()> {
    let protects = problems.iter().find(|problem| problem.kind.protects());
    match protects {
        Some(problem) if config.enforcement.mode == Mode::Enforce => bail!(
            "what protects people does not load, so nothing is enforced: {problem}\n\
             hint: correct it, or start with --dry-run"
        ),
        _ => Ok(()),
    }
}

/// What can be changed while it runs.
struct Running {
    config: Config,
    service: Service,
    pipeline: Pipeline,
    status: Arc<Status>,
    certificates: Certificates,
    /// Who is never punished because the API elsewhere says so, if there is one.
    learned: watch::Receiver<Vec<AllowEntry>>,
}

impl Running {
    /// Reads everything again and puts it in force: what changed, as JSON. A mistake anywhere, and all stays as it is.
    fn reload(&mut self, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<Value> {
        let mut reloading = vec![NotifyState::Reloading];
        reloading.extend(NotifyState::monotonic_usec_now());
        // nobody may have asked to be told, here and below
        let _ = sd_notify::notify(&reloading);
        let done = self.exchange(load);
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        done
    }

    /// Who is never punished, whatever allowlists say.
    fn allowed(&self, config: &Config) -> Vec<AllowEntry> {
        let own = agent::own_addresses::own_addresses(Path::new("/proc"));
        configured_entries(config).chain(own).chain(self.learned.borrow().iter().cloned()).collect()
    }

    /// Puts in force what the API elsewhere says about who is never punished.
    async fn learn(&self) {
        match self.service.configure_allow(self.allowed(&self.config)).await {
            // it holds; nobody waits until it is durable
            Ok((lifted, _receipt)) => info!(lifted, "the api elsewhere has other allowlists now"),
            Err(error) => error!(%error, "cannot take the allowlists of the api elsewhere"),
        }
    }

    fn exchange(&mut self, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<Value> {
        let config = load()?;
        let (sources, mut problems) = sources(&config);
        let Built { rules, problems: rule_problems, warnings } = build(&config);
        problems.extend(rule_problems);
        if !problems.is_empty() {
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            bail!(told.join("\n"));
        }
        let profiles = profiles(&config)?;
        remember(&self.service, &rules)?;
        self.certificates.reload()?;
        let allow = self.allowed(&config);
        // From here on nothing can be wrong with what was read.
        let (lifted, receipt) = Handle::current().block_on(self.service.configure_allow(allow))?;
        Handle::current().block_on(receipt.durable())?;
        self.service.set_profiles(profiles);
        let scenarios = rules.scenarios.all().len();
        self.pipeline.set_rules(Arc::new(rules));
        let exchanged = self.pipeline.set_sources(sources).context("cannot start the threads")?;
        self.status.set_problems(Vec::new());
        for warning in &warnings {
            warn!("{warning}");
        }
        let later = waits_for_restart(&self.config, &config);
        self.config = Config {
            allowlist: config.allowlist,
            acquisition: config.acquisition,
            rules: config.rules,
            ..self.config.clone()
        };
        Ok(json!({
            "scenarios": scenarios,
            "started": exchanged.started,
            "stopped": exchanged.stopped,
            "lifted": lifted,
            "after_restart": later,
        }))
    }
}

/// The keys whose new values count from the next start on.
fn waits_for_restart(now: &Config, new: &Config) -> Vec<&'static str> {
    let keys = [
        ("state", now.state == new.state),
        ("api", now.api == new.api),
        ("acquisition.catch_up", now.acquisition.catch_up == new.acquisition.catch_up),
        ("resolver", now.resolver == new.resolver),
        ("requests", now.requests == new.requests),
        ("ladder", now.ladder == new.ladder),
        ("retention", now.retention == new.retention),
        ("privacy", now.privacy == new.privacy),
        ("enforcement", now.enforcement == new.enforcement),
        ("geo", now.geo == new.geo),
    ];
    keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}

/// Makes the state folder, for this user alone.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        format!("cannot use `{}` as state folder\nhint: name another one with --state", path.display())
    })
}

/// Every target that the configuration names, ready to be driven. Also makes the folder for their states.
pub(crate) fn open_targets(config: &Config, metrics: &Metrics) -> anyhow::Result<Vec<(TargetConfig, Opened)>> {
    let targets = config.enforcement.all(&config.state);
    if targets.iter().any(|target| target.settings.mode != Mode::DryRun) && !config.enforcement.targets.is_empty() {
        make_folder(&config.state.join("bouncers"))?;
    }
    targets.into_iter().map(|target| target.open(metrics).map(|open| (target, open)).map_err(Into::into)).collect()
}

/// The profiles that the configuration names, or those that lie in the last folder of rules that has any, or the shipped ones.
pub(crate) fn profiles(config: &Config) -> anyhow::Result<Profiles> {
    let beside = || config.rules.folders.iter().rev().map(|folder| crowdsec::profiles(folder));
    let paths = match &config.rules.profiles {
        Some(path) => vec![path.clone()],
        None => beside().find(|paths| !paths.is_empty()).unwrap_or_default(),
    };
    if paths.is_empty() {
        return Ok(Profiles::parse(&[(Path::new("shipped:profiles.yaml"), profiles::DEFAULT)])?);
    }
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()));
    let texts = paths.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    let files: Vec<(&Path, &str)> = paths.iter().map(PathBuf::as_path).zip(texts.iter().map(String::as_str)).collect();
    let profiles = Profiles::parse(&files)?;
    if let Some(name) = profiles.needs_reputation().filter(|_| config.requests.reputation.is_none()) {
        bail!(
            "profile `{name}` asks for reputations (`CrowdsecCTI`), and nobody is named who knows them: no alert would lead to anything\nhint: name one as `requests.reputation` in the configuration, or let the profile say `on_error: continue`"
        );
    }
    Ok(profiles)
}

/// Who is never punished because the configuration says so.
pub(crate) fn configured_entries(config: &Config) -> impl Iterator<Item = AllowEntry> {
    let entry = |net| AllowEntry { net, list: "cordon.yaml".to_owned(), comment: String::new(), expires: None };
    config.allowlist.iter().copied().map(entry)
}

fn open_service(config: &Config) -> anyhow::Result<Service> {
    let store = Arc::new(Sqlite::open(&config.database())?);
    let mut allow: Vec<AllowEntry> = configured_entries(config).collect();
    allow.extend(agent::own_addresses::own_addresses(Path::new("/proc")));
    let retention = &config.retention;
    let options = Options {
        allow,
        max_decisions: retention.decisions,
        max_alerts: Some(retention.alerts),
        max_age: Some(retention.age),
        max_ended: Some(retention.ended),
        metrics_max_age: retention.metrics,
        evidence_max_age: retention.evidence,
        masks: config.privacy.into(),
        max_audit: retention.audit,
        rungs: config.ladder.clone(),
        ..Options::default()
    };
    Ok(Service::open(store, profiles(config)?, options, Timestamp::now())?)
}

async fn listen(config: &Config, service: &Service) -> anyhow::Result<Server> {
    let server = ServerConfig {
        socket: Some(config.socket()),
        token_secret: std::env::var("CS_LAPI_SECRET").ok().map(|text| text.as_str().into()),
        token_keys: Some(config.state.join("token.keys")),
        ..config.api.clone()
    };
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

/// Asks for the addresses that are never blocked beside the allowlists: this host's own, `more`, and those of the admins
/// who are logged in now.
pub(crate) fn own_addresses(
    config: &Config,
    more: Vec<AllowEntry>,
) -> impl Fn() -> std::io::Result<Vec<AllowEntry>> + Send + Sync + 'static {
    let admins = if config.enforcement.protect_active_admins {
        let connection = std::env::var("SSH_CONNECTION").ok();
        admins::active_admins(Path::new("/proc"), connection.as_deref())
    } else {
        Vec::new()
    };
    move || Ok(host::own_addresses()?.into_iter().chain(admins.iter().chain(&more).cloned()).collect())
}

/// Whether it is this host that writes to `target`.
pub(crate) fn right(target: &TargetConfig) -> watch::Receiver<Right> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let right = match &target.writer {
        Some(writer) if *writer != host => Right::Others(writer.clone()),
        _ => Right::Ours,
    };
    watch::channel(right).1
}

/// What each bouncer says about itself.
pub(crate) type Said = Vec<watch::Receiver<BouncerStatus>>;

fn spawn_bouncers(
    config: &Config,
    service: &Service,
    targets: Vec<(TargetConfig, Opened)>,
    metrics: &Metrics,
    stopping: &watch::Receiver<bool>,
) -> (Vec<JoinHandle<Result<(), bouncers::BouncerError>>>, Said) {
    let mut running = Vec::new();
    let mut said = Vec::new();
    for (about, target) in targets {
        let (status, seen) = watch::channel(BouncerStatus::new(about.settings.mode));
        said.push(seen);
        let own = own_addresses(config, Vec::new());
        let mut wiring = Wiring::new(service.watch_allow(), status, metrics.clone(), own);
        wiring.right = right(&about);
        let (feed, shutdown) = (service.subscribe(), stopped(stopping.clone()));
        running.push(tokio::spawn(target.run(feed, about.settings, wiring, shutdown)));
    }
    (running, said)
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
    for target in &config.targets {
        info!(target = target.settings.name, kind = target.kind.word(), mode = ?target.settings.mode, "enforces elsewhere");
    }
}
