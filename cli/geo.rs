//! `cordon geo`: where addresses are, what policies say of them and why, and what a change would do to whom.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::bail;
use api::server::service::Service;
use bouncers::config::Mode;
use bouncers::engine::Status as EngineStatus;
use bouncers::geo::keeper::{self, Wiring};
use bouncers::geo::peers::{self, Peer};
use bouncers::geo::spare::Homes;
use bouncers::geo::status::{PolicyStatus, Status, Whereabouts};
use bouncers::geo::{Config as Geo, Databases, GeoError, Knowledge, Loaded, Policy, load};
use bouncers::nftables::Parts;
use ipnet::IpNet;
use jiff::Timestamp;
use model::alert::{Alert, DecisionBody};
use model::allowlist::display_net;
use model::{AllowEntry, AllowSet};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::accounts;
use crate::args::{Format, Geo as Command, Global};
use crate::config::Config;
use crate::decisions::is_active;
use crate::output::{self, printable};
use crate::remote::{Query, Remote, encode};
use crate::run;

/// Peers about whom the allowlists are asked one by one.
const MAX_ASKED: usize = 200;

pub(crate) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Lookup { ip } => lookup(global, *ip),
        Command::Plan => plan(global),
        Command::Status => status(global),
        Command::Confirm => confirm(global),
    }
}

/// What of geo runs in this process.
pub(crate) struct Running {
    knowledge: watch::Receiver<Knowledge>,
    /// How it is.
    pub(crate) status: watch::Receiver<Status>,
}

/// Starts what the configuration asks for: policies into the kernel by way of `parts`, decisions about regions as `engine` says
/// them. `None` if it asks for nothing.
pub(crate) fn start(
    config: &Config,
    parts: Option<Parts>,
    engine: watch::Receiver<EngineStatus>,
    stopping: watch::Receiver<bool>,
) -> Option<Running> {
    if !config.geo.is_used() {
        return None;
    }
    let (learn, knowledge) = watch::channel(load::begin(&config.geo));
    let (say, status) = watch::channel(Status::default());
    tokio::spawn(load::follow(config.geo.clone(), learn));
    let wiring = Wiring { parts, knowledge: knowledge.clone(), engine, status: say, state: config.state.clone() };
    tokio::spawn(keeper::keep(config.geo.clone(), wiring, run::stopped(stopping)));
    Some(Running { knowledge, status })
}

impl Running {
    /// Lets decisions ask who is spared. Without databases nobody could be, so then nothing is enforced.
    pub(crate) fn spare(&self, config: &Config, service: &Service) -> anyhow::Result<()> {
        let spare = config.geo.spare.clone();
        if spare.is_empty() {
            return Ok(());
        }
        let knowledge = self.knowledge.clone();
        let failed = knowledge.borrow().loaded.is_none().then(|| knowledge.borrow().error.clone()).flatten();
        if let Some(error) = failed.filter(|_| config.enforcement.mode == Mode::Enforce) {
            let error = error.split("\nhint: ").next().unwrap_or_default().to_owned();
            bail!(
                "nobody knows whom `geo` spares, so nothing is enforced: {error}\nhint: correct it, or start with --dry-run"
            );
        }
        service.set_places(Arc::new(Homes { spare, knowledge }));
        Ok(())
    }
}

/// The databases and policies of the configuration, as they are on disk now.
fn load(config: &Config) -> anyhow::Result<Loaded> {
    if !config.geo.is_used() {
        return Err(GeoError::NotConfigured.into());
    }
    Ok(Loaded::read(&config.geo, None, Timestamp::now())?)
}

/// Everything about one address.
#[derive(Debug, Serialize)]
pub(crate) struct Story {
    ip: IpAddr,
    #[serde(flatten)]
    at: Whereabouts,
    /// What each policy says.
    policies: Vec<Said>,
    /// Decisions in force about its country or system.
    decisions: Vec<DecisionBody>,
    /// The allow entries that cover it; they win over everything else.
    allowed_by: String,
    /// Why it is never banned, if it is not.
    spared_by: Option<String>,
    /// Why decisions and allowlists are not known, if they are not.
    unknown: Option<String>,
}

/// What one policy says.
#[derive(Debug, Serialize)]
struct Said {
    policy: String,
    place: String,
    drops: bool,
    observe: bool,
    reason: String,
}

fn judge(geo: &Geo, databases: &Databases, ip: IpAddr) -> anyhow::Result<(Whereabouts, Vec<Said>)> {
    let at = databases.locate(ip)?;
    let say = |policy: &Policy| {
        let judgement = policy.judge(ip, &at);
        Said {
            policy: policy.name.clone(),
            place: policy.place(),
            drops: judgement.is_drop(),
            observe: policy.observe,
            reason: judgement.to_string(),
        }
    };
    Ok((at.into(), geo.policies.iter().map(say).collect()))
}

/// `cordon geo lookup`.
fn lookup(global: &Global, ip: IpAddr) -> anyhow::Result<()> {
    let story = story(&Config::load(global)?, Remote::connect(global), ip.to_canonical())?;
    match global.output {
        Format::Json | Format::Raw => output::json(&story),
        Format::Human => output::line(story.tell().trim_end()),
    }
}

/// Everything about `ip`, as far as `remote` answers.
pub(crate) fn story(config: &Config, remote: anyhow::Result<Remote>, ip: IpAddr) -> anyhow::Result<Story> {
    let loaded = load(config)?;
    let (at, policies) = judge(&config.geo, &loaded.databases, ip)?;
    let spared_by = config.geo.spare.spares(IpNet::from(ip), &loaded.databases)?.map(|spared| spared.to_string());
    let asked = remote.and_then(|remote| Ok((about(&remote, &at)?, allowed(&remote, ip)?)));
    let (decisions, allowed_by, unknown) = match asked {
        Ok((decisions, allowed_by)) => (decisions, allowed_by, None),
        Err(error) => {
            let covers = configured(config).covers_ip(ip, Timestamp::now()).map(AllowEntry::reason);
            (Vec::new(), covers.unwrap_or_default(), Some(first_line(&error)))
        }
    };
    Ok(Story { ip, at, policies, decisions, allowed_by, spared_by, unknown })
}

/// Who is never punished, as far as that is known without asking anybody.
fn configured(config: &Config) -> AllowSet {
    let own = agent::own_addresses::own_addresses(std::path::Path::new("/proc"));
    AllowSet::new(run::configured_entries(config).chain(own))
}

fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Decisions in force about the country and the system of somebody.
fn about(remote: &Remote, at: &Whereabouts) -> anyhow::Result<Vec<DecisionBody>> {
    let mut decisions = Vec::new();
    let number = at.system.as_ref().and_then(|system| system.strip_prefix("AS"));
    let asked = [("Country", at.country.as_deref()), ("AS", at.system.as_deref()), ("AS", number)];
    for (scope, value) in asked.into_iter().filter_map(|(scope, value)| Some((scope, value?))) {
        let mut query = Query::new();
        query.add("has_active_decision", "true").add("limit", 0).add("scope", scope).add("value", value);
        let alerts: Vec<Alert> = remote.list("v1/alerts", &query)?;
        decisions.extend(alerts.into_iter().flat_map(|alert| alert.decisions.unwrap_or_default()).filter(is_active));
    }
    Ok(decisions)
}

/// The allow entries that cover `ip`.
fn allowed(remote: &Remote, ip: IpAddr) -> anyhow::Result<String> {
    let checked: api::wire::CheckBody =
        remote.get(&format!("v1/allowlists/check/{}", encode(&ip.to_string())), &Query::new())?;
    Ok(checked.reason)
}

impl Story {
    fn tell(&self) -> String {
        // writing to a String cannot fail, here and below
        let mut text = format!("{} {}\n\n", self.ip, tell_place(&self.at));
        for said in &self.policies {
            let only = if said.observe { ", only counted" } else { "" };
            let _ = writeln!(text, "  policy       {}: {} ({}{only})", said.policy, said.reason, said.place);
        }
        if self.policies.is_empty() {
            text.push_str("  policy       none is configured\n");
        }
        for body in &self.decisions {
            let _ = writeln!(
                text,
                "  decision {}   {} {}:{} by {}, {} left ({})",
                body.id,
                body.remediation,
                body.scope,
                printable(&body.value),
                body.origin,
                body.duration,
                printable(&body.scenario)
            );
        }
        if self.decisions.is_empty() && self.unknown.is_none() {
            text.push_str("  decisions    none about its country or system is in force\n");
        }
        if let Some(reason) = &self.unknown {
            let _ = writeln!(text, "  decisions    unknown: {reason}");
        }
        let _ = match self.allowed_by.as_str() {
            "" if self.unknown.is_some() => writeln!(text, "  allowlists   no entry of the configuration covers it"),
            "" => writeln!(text, "  allowlists   no entry covers it"),
            by => writeln!(text, "  allowlists   {by}: passes, whatever policies and decisions say"),
        };
        let _ = match &self.spared_by {
            Some(reason) => writeln!(text, "  bans         none, see {reason}"),
            None => writeln!(text, "  bans         nothing about its place spares it"),
        };
        let _ = writeln!(text, "  so           {}", self.conclusion());
        text
    }

    /// The part of it that belongs into the story of a ban.
    pub(crate) fn tell_in_short(&self) -> String {
        let mut text = format!("  place        {}\n", tell_place(&self.at));
        for said in self.policies.iter().filter(|said| said.drops) {
            // writing to a String cannot fail, here and below
            let _ = writeln!(text, "  policy       {}: {} ({})", said.policy, said.reason, said.place);
        }
        for body in &self.decisions {
            let value = printable(&body.value);
            let _ = writeln!(
                text,
                "  decision {}   {} {}:{value} by {}, {} left",
                body.id, body.remediation, body.scope, body.origin, body.duration
            );
        }
        if let Some(reason) = &self.spared_by {
            let _ = writeln!(text, "  spared       {reason}");
        }
        text
    }

    /// What that comes to.
    fn conclusion(&self) -> String {
        let banned = self.decisions.iter().any(|body| body.remediation.eq_ignore_ascii_case("ban"));
        if !self.allowed_by.is_empty() {
            return "it passes".to_owned();
        }
        if banned {
            return "all its packets are dropped: its country or system is banned".to_owned();
        }
        let dropped: Vec<&str> =
            self.policies.iter().filter(|said| said.drops && !said.observe).map(|said| said.place.as_str()).collect();
        match dropped.as_slice() {
            [] => "it may begin connections; only decisions about it can keep it out: `cordon why`".to_owned(),
            places => format!("it cannot begin a connection {}; open ones go on", places.join(", nor ")),
        }
    }
}

fn tell_place(at: &Whereabouts) -> String {
    if at.reserved {
        return "is reserved: part of no country".to_owned();
    }
    let shown = |net: &Option<IpNet>| net.map(|net| format!(", network {}", display_net(net))).unwrap_or_default();
    let country = match (&at.country, &at.country_name) {
        (Some(code), Some(name)) => format!("is in {code} ({name}){}", shown(&at.network)),
        (Some(code), None) => format!("is in {code}{}", shown(&at.network)),
        (None, _) => "is in no country that the database knows".to_owned(),
    };
    match &at.system {
        Some(system) => format!("{country}; {system}{}", shown(&at.system_network)),
        None => country,
    }
}

/// What putting the configuration in force would do.
#[derive(Debug, Serialize)]
struct Plan {
    /// What policies come to, and what of it is new.
    policies: Vec<Planned>,
    /// Policies in force that are no longer configured.
    removed: Vec<String>,
    /// Whether anything would change.
    pending: bool,
    /// Who is connected now and could not connect again.
    cut_off: Vec<CutOff>,
    /// Who could not connect, but is allowed.
    saved: Vec<CutOff>,
    /// Connected peers that were judged.
    peers: usize,
    /// Why it is not known what is in force, if it is not.
    unknown: Option<String>,
}

#[derive(Debug, Serialize)]
struct Planned {
    /// `new`, `changed`, `same`.
    change: &'static str,
    #[serde(flatten)]
    status: PolicyStatus,
    /// How many spans it has in force.
    in_force: Option<u64>,
}

/// Somebody whom a policy drops.
#[derive(Debug, Serialize)]
struct CutOff {
    address: IpAddr,
    /// The port that he is connected to; `None` for an entry of an allowlist.
    port: Option<u16>,
    country: Option<String>,
    system: Option<String>,
    policy: String,
    reason: String,
    /// The allow entry that lets him in.
    allowed_by: String,
}

/// `cordon geo plan`.
fn plan(global: &Global) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let loaded = load(&config)?;
    let remote = Remote::connect(global);
    let answer = remote
        .as_ref()
        .map_err(first_line)
        .and_then(|remote| remote.get::<Value>("v1/status", &Query::new()).map_err(|error| first_line(&error)));
    let (in_force, unknown) = match answer {
        Ok(answer) => (answer.pointer("/geo/policies").and_then(Value::as_array).cloned().unwrap_or_default(), None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    let policies: Vec<Planned> = config
        .geo
        .policies
        .iter()
        .map(|policy| planned(PolicyStatus::new(policy, &policy.dropped(&loaded.atlas)), &in_force))
        .collect();
    let name_of = |policy: &Value| policy.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let configured_name = |name: &String| config.geo.policies.iter().any(|policy| policy.name == *name);
    let removed: Vec<String> = in_force.iter().map(name_of).filter(|name| !configured_name(name)).collect();
    let pending = !removed.is_empty() || policies.iter().any(|planned| planned.change != "same");
    let peers = peers::peers().unwrap_or_default();
    let (cut_off, saved) = cut_off(&config, &loaded.databases, &peers, remote.ok().as_ref())?;
    let plan = Plan { policies, removed, pending, cut_off, saved, peers: peers.len(), unknown };
    match global.output {
        Format::Json | Format::Raw => output::json(&plan),
        Format::Human => output::line(plan.tell().trim_end()),
    }
}

/// How a policy differs from what is in force under its name.
fn planned(status: PolicyStatus, in_force: &[Value]) -> Planned {
    let new = serde_json::to_value(&status).unwrap_or_default();
    let old = in_force.iter().find(|policy| policy.get("name") == new.get("name"));
    // what was dropped so far says nothing about the policy
    let same = |old: &Value| {
        let mut keys = new.as_object().into_iter().flatten().filter(|(key, _)| *key != "dropped");
        keys.all(|(key, value)| old.get(key) == Some(value))
    };
    let change = match old {
        None => "new",
        Some(old) if same(old) => "same",
        Some(_) => "changed",
    };
    Planned { change, status, in_force: old.and_then(|old| old.get("ranges")).and_then(Value::as_u64) }
}

/// Who of the peers and of the allowlists could not connect: really, and but for the allowlists.
fn cut_off(
    config: &Config,
    databases: &Databases,
    peers: &[Peer],
    remote: Option<&Remote>,
) -> anyhow::Result<(Vec<CutOff>, Vec<CutOff>)> {
    let now = Timestamp::now();
    let allow = configured(config);
    let (mut lost, mut saved) = (Vec::new(), Vec::new());
    let entries = config.allowlist.iter().map(|net| (net.network(), None));
    for (address, port) in peers.iter().map(|peer| (peer.address, Some(peer.port))).chain(entries) {
        let at = databases.locate(address)?;
        let drops = |policy: &&Policy| !policy.observe && policy.judge(address, &at).is_drop() && reaches(policy, port);
        let Some(policy) = config.geo.policies.iter().find(drops) else { continue };
        let mut allowed_by = allow.covers_ip(address, now).map(AllowEntry::reason).unwrap_or_default();
        if let Some(remote) = remote.filter(|_| allowed_by.is_empty() && lost.len() < MAX_ASKED) {
            allowed_by = allowed(remote, address)?;
        }
        let who = CutOff {
            address,
            port,
            country: at.record.country.map(|code| code.to_string()),
            system: at.record.system.map(|number| format!("AS{number}")),
            policy: policy.name.clone(),
            reason: policy.judge(address, &at).to_string(),
            allowed_by,
        };
        if who.allowed_by.is_empty() { lost.push(who) } else { saved.push(who) }
    }
    Ok((lost, saved))
}

/// Whether a policy is about a port; about any if none is told.
fn reaches(policy: &Policy, port: Option<u16>) -> bool {
    let is_in = |port: u16| policy.ports.iter().any(|ports| (ports.first..=ports.last).contains(&port));
    policy.ports.is_empty() || port.is_none_or(is_in)
}

impl Plan {
    fn tell(&self) -> String {
        let mut text = String::new();
        // writing to a String cannot fail, here and below
        if let Some(reason) = &self.unknown {
            let _ = writeln!(text, "what is in force is not known: {reason}\n");
        }
        for Planned { change, status, in_force } in &self.policies {
            let regions: Vec<String> = status.policy.regions.iter().map(ToString::to_string).collect();
            let kind = serde_json::to_value(status.policy.kind).unwrap_or_default();
            let kind = kind.as_str().unwrap_or_default().to_owned();
            let observe = if status.policy.observe { ", only counted" } else { "" };
            let _ = writeln!(
                text,
                "policy {} ({change}): {kind} {} {}{observe}",
                status.policy.name,
                regions.join(", "),
                status.policy.place()
            );
            let before = in_force.map(|ranges| format!(" (in force: {ranges})")).unwrap_or_default();
            let _ = writeln!(
                text,
                "  drops {} ranges{before}: {} IPv4 addresses, {} IPv6 networks of 64 bits",
                status.ranges, status.size.addresses4, status.size.networks6
            );
        }
        if self.policies.is_empty() {
            text.push_str("no policy is configured\n");
        }
        for name in &self.removed {
            let _ = writeln!(text, "policy {name} (removed)");
        }
        let _ = writeln!(text, "\nof {} connected peers", self.peers);
        for who in &self.cut_off {
            let _ = writeln!(text, "  CUT OFF  {}", who.tell());
        }
        for who in &self.saved {
            let _ = writeln!(text, "  allowed  {}, but {}", who.tell(), printable(&who.allowed_by));
        }
        if self.cut_off.is_empty() {
            text.push_str("  nobody would be cut off\n");
        }
        text
    }
}

impl CutOff {
    fn tell(&self) -> String {
        let port = self.port.map(|port| format!(" (port {port})")).unwrap_or_default();
        let place: Vec<&str> = [&self.country, &self.system].into_iter().filter_map(|it| it.as_deref()).collect();
        let place = if place.is_empty() { String::new() } else { format!(" in {}", place.join(", ")) };
        format!("{}{port}{place}: {} (policy {})", self.address, self.reason, self.policy)
    }
}

/// `cordon geo confirm`: keeps policies that have changed. Only somebody who could get in under them may say so.
fn confirm(global: &Global) -> anyhow::Result<()> {
    let state = Config::load(global)?.state;
    let Some(since) = keeper::pending_since(&state)? else {
        bail!("no geo policies wait to be confirmed");
    };
    if peers::session_began().is_some_and(|began| began < since) {
        bail!(
            "this session was opened before the policies changed, so it does not show that one can still get in\n\
             hint: open another one, and confirm there"
        );
    }
    if !keeper::confirm(&state)? {
        bail!("no geo policies wait to be confirmed");
    }
    crate::remote::note(global, "geo.confirm", "policies");
    accounts::confirm(global, "confirmed: the geo policies stay in force")
}

/// `cordon geo status`.
fn status(global: &Global) -> anyhow::Result<()> {
    let answer: Value = Remote::connect(global)?.get("v1/status", &Query::new())?;
    let geo = answer.get("geo").cloned().unwrap_or_default();
    match global.output {
        Format::Json | Format::Raw => output::json(&geo),
        Format::Human if geo.is_null() => output::line("geo is not configured"),
        Format::Human => output::line(tell_status(&geo).trim_end()),
    }
}

/// What the running process says about geo, as people read it.
pub(crate) fn tell_status(geo: &Value) -> String {
    let at = |value: &Value, path: &str| value.pointer(path).cloned().unwrap_or_default();
    let show = |value: Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(&text),
        other => other.to_string(),
    };
    let until = show(at(geo, "/force/until"));
    let mut text = match at(geo, "/force/state").as_str() {
        Some("lasting") => "geo policies are in force until they are removed\n".to_owned(),
        Some("leased") => format!("geo policies are in force; without renewal they end at {until}\n"),
        Some("unconfirmed") => format!("geo policies are in force until {until}: `cordon geo confirm` keeps them\n"),
        Some("lapsed") => "NOT IN FORCE: nobody confirmed the geo policies in time\n".to_owned(),
        _ => "geo policies are not in force\n".to_owned(),
    };
    for (name, what) in [("/error", "TROUBLE"), ("/database_error", "DATABASE")] {
        if let Value::String(reason) = at(geo, name) {
            // writing to a String cannot fail, here and below
            let _ = writeln!(text, "  {what:<12} {}", printable(&reason));
        }
    }
    for file in at(geo, "/databases").as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "  database     {}: {}, made {}, read {}",
            show(at(file, "/path")),
            show(at(file, "/kind")),
            show(at(file, "/built")),
            show(at(file, "/loaded"))
        );
    }
    for policy in at(geo, "/policies").as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "  policy       {}: {} ranges, {} packets dropped{}",
            show(at(policy, "/name")),
            show(at(policy, "/ranges")),
            show(at(policy, "/dropped/packets")),
            if at(policy, "/observe") == Value::Bool(true) { " (only counted)" } else { "" }
        );
    }
    for decision in at(geo, "/decisions").as_array().into_iter().flatten() {
        let refused = match at(decision, "/refused") {
            Value::String(reason) => format!("NOT ENFORCED: {}", printable(&reason)),
            _ => format!("{} ranges", show(at(decision, "/ranges"))),
        };
        let _ = writeln!(
            text,
            "  decision     {} until {}: {refused}",
            show(at(decision, "/region")),
            show(at(decision, "/until"))
        );
    }
    text
}
