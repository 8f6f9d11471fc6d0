//! The YAML shape of enforcement, read loosely and checked once.
//!
//! The section's own keys are about this host's kernel, and what every other target begins with; `targets` lists
//! those. A target is what the one section in it says (`pfsense: {...}`): plain structs keep the place of a mistake.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;
use model::AllowEntry;
use serde::{Deserialize, Serialize, Serializer};
use serde_saphyr::Spanned;

use crate::engine::desired::Desired;
use crate::engine::plan::Origins;
use crate::engine::rails::Limits;
use crate::nftables::Options;
use crate::nftables::devices::Ingress;
use crate::remote::config::{RawOpnSense, RawPfSense, RawPfSenseSsh, RawProxmox};
use crate::{exec, feed, forward, opnsense, pfsense, proxmox, webhook, ziti};

/// What the bouncer is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Packets are dropped.
    Enforce,
    /// The table is filled, but packets are only counted.
    Observe,
    /// Nothing is changed; what would be is logged.
    DryRun,
    /// Decisions are not looked at.
    Off,
}

impl Mode {
    /// The names in the file.
    pub const NAMES: [(&'static str, Mode); 4] =
        [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("dry-run", Mode::DryRun), ("off", Mode::Off)];
}

/// What becomes of what is ours in a target when the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// It stays; a target that ends entries by itself goes on doing so.
    Keep,
    /// It is removed.
    Remove,
}

/// What becomes of what is in force when there are no news for longer than `grace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLoss {
    /// It stays until it ends.
    Keep,
    /// All of it is let go.
    Open,
    /// Nobody passes; only for targets that are asked about each request.
    Closed,
}

/// How the engine drives one target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Name of the target: in logs, metrics and the status, and of the files that belong to it.
    pub name: String,
    /// What the bouncer is told to do.
    pub mode: Mode,
    /// What becomes of what is in force when the process stops.
    pub on_stop: OnStop,
    /// What becomes of it when there are no news for longer than `grace`.
    pub on_loss: OnLoss,
    /// How long there may be no news.
    #[serde(serialize_with = "as_text")]
    pub grace: Duration,
    /// What must never be.
    #[serde(skip)]
    pub limits: Limits,
    /// Length of the networks that lone IPv6 addresses widen to.
    pub ipv6_prefix: u8,
    /// More entries than this are not even remembered.
    pub max_entries: usize,
    /// The target holds at most this many entries, the most important ones; `None` is what it can hold.
    pub room: Option<usize>,
    /// A snapshot that takes away more than this share of the entries, in percent, must be confirmed by a second.
    pub max_shrink: u8,
    /// More new entries than this in a minute wait until a person acknowledges them.
    pub max_new_per_minute: usize,
    /// More than this share of all IPv4 addresses, in percent, is not blocked until a person acknowledges it.
    pub max_share: u8,
    /// How often everything is compared.
    #[serde(serialize_with = "as_text")]
    pub full_sync: Duration,
    /// How long news are gathered before they are written; `None` is what suits the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_window: Option<Duration>,
    /// Whose decisions count.
    pub origins: Origins,
    /// Addresses that are never blocked here, beside the allow set and this host's own.
    #[serde(skip)]
    pub never: Vec<AllowEntry>,
    /// Where the last known good state is kept; `None` keeps none. What else is kept about the target lies beside it.
    pub snapshot: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "nftables".to_owned(),
            mode: Mode::Enforce,
            on_stop: OnStop::Keep,
            on_loss: OnLoss::Keep,
            grace: Duration::from_mins(5),
            limits: Limits::default(),
            ipv6_prefix: 64,
            max_entries: 1_000_000,
            room: None,
            max_shrink: 50,
            max_new_per_minute: 20_000,
            max_share: 5,
            full_sync: Duration::from_mins(15),
            batch_window: None,
            origins: Origins::default(),
            never: Vec::new(),
            snapshot: None,
        }
    }
}

impl Settings {
    /// Nothing that should be in force yet.
    pub fn nothing_desired(&self) -> Desired {
        Desired::new(self.ipv6_prefix, self.max_entries).refusing_wider(self.limits.min_prefix4)
    }

    /// A file beside the last known good state.
    pub fn beside(&self, extension: &str) -> Option<PathBuf> {
        self.snapshot.as_ref().map(|path| path.with_extension(extension))
    }
}

/// What stands behind a target's name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A table in this host's kernel.
    Nftables(Options),
    /// An alias of a pfSense, through its REST API.
    #[serde(rename = "pfsense")]
    PfSense(pfsense::RestOptions),
    /// A table of a pfSense, through ssh.
    #[serde(rename = "pfsense_ssh")]
    PfSenseSsh(pfsense::SshOptions),
    /// An alias of an `OPNsense`.
    #[serde(rename = "opnsense")]
    OpnSense(opnsense::Options),
    /// A set of a Proxmox VE cluster.
    Proxmox(proxmox::Options),
    /// The controllers of a Ziti network.
    Ziti(Box<ziti::config::Options>),
    /// Answers for reverse proxies.
    ForwardAuth(forward::config::Config),
    /// Lists for firewalls and proxies.
    Feed(feed::config::Config),
    /// Signed requests.
    Webhook(Box<webhook::config::Config>),
    /// A program on this host.
    Exec(exec::config::Config),
}

impl Kind {
    /// The word in the file.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Nftables(_) => "nftables",
            Kind::PfSense(_) => "pfsense",
            Kind::PfSenseSsh(_) => "pfsense_ssh",
            Kind::OpnSense(_) => "opnsense",
            Kind::Proxmox(_) => "proxmox",
            Kind::Ziti(_) => "ziti",
            Kind::ForwardAuth(_) => "forward-auth",
            Kind::Feed(_) => "feed",
            Kind::Webhook(_) => "webhook",
            Kind::Exec(_) => "exec",
        }
    }
}

/// One target beside this host's own kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetConfig {
    /// How the engine drives it.
    #[serde(flatten)]
    pub settings: Settings,
    /// Who alone writes to it, where several agents know it: the name under which one of them runs. `None` lets the
    /// API decide.
    pub writer: Option<String>,
    /// What it is.
    pub kind: Kind,
}

/// What is only about the table in this host's kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own that the operator sets")]
pub struct Kernel {
    /// Whether packets to blocked addresses are blocked as well.
    pub block_outbound: bool,
    /// Where packets are looked at besides prerouting.
    pub ingress: Ingress,
    /// Whether the table belongs to this process, where the kernel can.
    pub own_table: bool,
    /// Whether somebody else has made the table and its rules, and only elements are ours.
    pub set_only: bool,
    /// Whether connections of blocked addresses are forgotten, for rules elsewhere that let known ones through.
    pub cut_connections: bool,
}

/// Enforcement, checked: in this host's kernel, and at other targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// What the bouncer is told to do.
    pub mode: Mode,
    /// Name of the table.
    pub table: String,
    /// What becomes of the table when the process stops.
    pub on_stop: OnStop,
    /// What becomes of what is in force when there are no news for longer than `grace`.
    pub on_loss: OnLoss,
    /// How long there may be no news.
    #[serde(serialize_with = "as_text")]
    pub grace: Duration,
    /// Whether private addresses (RFC 1918, unique local) are never blocked.
    pub spare_private: bool,
    /// Length of the networks that lone IPv6 addresses widen to.
    pub ipv6_prefix: u8,
    /// IPv4 prefixes shorter than this are refused.
    pub min_prefix4: u8,
    /// IPv6 prefixes shorter than this are refused.
    pub min_prefix6: u8,
    /// More entries than this are refused.
    pub max_entries: usize,
    /// A snapshot that takes away more than this share of the entries, in percent, must be confirmed by a second.
    pub max_shrink: u8,
    /// More new entries than this in a minute wait until a person acknowledges them.
    pub max_new_per_minute: usize,
    /// More than this share of all IPv4 addresses, in percent, is not blocked until a person acknowledges it.
    pub max_share: u8,
    /// How often everything is compared.
    #[serde(serialize_with = "as_text")]
    pub full_sync: Duration,
    /// Reverse proxies and CDNs that hand requests on: never blocked, because an event that names one means that the
    /// client's own address was not found.
    pub trusted_proxies: Vec<IpNet>,
    /// Addresses of other sites, controllers, cluster nodes, monitoring: never blocked.
    pub site_peers: Vec<IpNet>,
    /// Whether the addresses from which root is logged in over SSH at start are never blocked.
    pub protect_active_admins: bool,
    /// Where the last known good state is kept; `None` keeps none.
    pub snapshot: Option<PathBuf>,
    /// What is only about the table in this host's kernel.
    #[serde(flatten)]
    pub kernel: Kernel,
    /// The other targets.
    pub targets: Vec<TargetConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let Settings { on_stop, on_loss, grace, ipv6_prefix, max_entries, max_shrink, max_new_per_minute, .. } =
            Settings::default();
        let Settings { limits, max_share, full_sync, .. } = Settings::default();
        Self {
            mode: Mode::Enforce,
            table: "cordon".to_owned(),
            on_stop,
            on_loss,
            grace,
            spare_private: limits.spare_private,
            ipv6_prefix,
            min_prefix4: limits.min_prefix4,
            min_prefix6: limits.min_prefix6,
            max_entries,
            max_shrink,
            max_new_per_minute,
            max_share,
            full_sync,
            trusted_proxies: Vec::new(),
            site_peers: Vec::new(),
            protect_active_admins: true,
            snapshot: None,
            kernel: Kernel::default(),
            targets: Vec::new(),
        }
    }
}

fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let duration = SignedDuration::try_from(*duration).unwrap_or(SignedDuration::MAX);
    serializer.serialize_str(&model::duration::format(duration))
}

impl Config {
    /// What the rails need of it.
    pub fn limits(&self) -> Limits {
        Limits {
            min_prefix4: self.min_prefix4,
            min_prefix6: self.min_prefix6,
            spare_private: self.spare_private,
            ..Limits::default()
        }
    }

    /// What the nftables bouncer needs of it.
    pub fn nftables(&self) -> Options {
        Options {
            table: self.table.clone(),
            ipv6_prefix: self.ipv6_prefix,
            observe: self.mode == Mode::Observe,
            outbound: self.kernel.block_outbound,
            ingress: self.kernel.ingress.clone(),
            own_table: self.kernel.own_table,
            set_only: self.kernel.set_only,
            cut_connections: self.kernel.cut_connections,
            ..Options::default()
        }
    }

    /// How the engine drives this host's kernel; also what other targets begin with.
    pub fn settings(&self) -> Settings {
        Settings {
            mode: self.mode,
            on_stop: self.on_stop,
            on_loss: self.on_loss,
            grace: self.grace,
            limits: self.limits(),
            ipv6_prefix: self.ipv6_prefix,
            max_entries: self.max_entries,
            max_shrink: self.max_shrink,
            max_new_per_minute: self.max_new_per_minute,
            max_share: self.max_share,
            full_sync: self.full_sync,
            never: self.never(),
            snapshot: self.snapshot.clone(),
            ..Settings::default()
        }
    }

    /// Who is never blocked because this section says so.
    fn never(&self) -> Vec<AllowEntry> {
        let entry = |list: &str, net: &IpNet| AllowEntry {
            net: *net,
            list: list.to_owned(),
            comment: String::new(),
            expires: None,
        };
        let proxies = self.trusted_proxies.iter().map(|net| entry("trusted proxies", net));
        proxies.chain(self.site_peers.iter().map(|net| entry("site peers", net))).collect()
    }
}

impl From<Config> for Settings {
    fn from(config: Config) -> Self {
        config.settings()
    }
}

/// The section of the file as written; every value as loose as YAML allows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    mode: Option<Spanned<String>>,
    table: Option<Spanned<String>>,
    on_stop: Option<Spanned<String>>,
    on_loss: Option<Spanned<String>>,
    grace: Option<Spanned<String>>,
    private_ranges: Option<Spanned<String>>,
    ipv6_prefix: Option<Spanned<i64>>,
    min_prefix4: Option<Spanned<i64>>,
    min_prefix6: Option<Spanned<i64>>,
    max_entries: Option<Spanned<i64>>,
    max_shrink: Option<Spanned<i64>>,
    max_new_per_minute: Option<Spanned<i64>>,
    max_share: Option<Spanned<i64>>,
    full_sync: Option<Spanned<String>>,
    trusted_proxies: Option<Vec<Spanned<String>>>,
    site_peers: Option<Vec<Spanned<String>>>,
    protect_active_admins: Option<bool>,
    snapshot: Option<PathBuf>,
    block_outbound: Option<bool>,
    ingress: Option<Spanned<String>>,
    ingress_devices: Option<Vec<String>>,
    own_table: Option<bool>,
    set_only: Option<bool>,
    cut_connections: Option<bool>,
    targets: Option<Vec<Spanned<RawTarget>>>,
}

/// One target as written. Exactly one of the sections that say what it is must be there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    name: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    on_stop: Option<Spanned<String>>,
    on_loss: Option<Spanned<String>>,
    grace: Option<Spanned<String>>,
    private_ranges: Option<Spanned<String>>,
    max_entries: Option<Spanned<i64>>,
    max_shrink: Option<Spanned<i64>>,
    max_new_per_minute: Option<Spanned<i64>>,
    full_sync: Option<Spanned<String>>,
    batch_window: Option<Spanned<String>>,
    origins: Option<Vec<String>>,
    except_origins: Option<Vec<String>>,
    writer: Option<String>,
    nftables: Option<RawNftables>,
    pfsense: Option<Spanned<RawPfSense>>,
    pfsense_ssh: Option<Spanned<RawPfSenseSsh>>,
    opnsense: Option<Spanned<RawOpnSense>>,
    proxmox: Option<Spanned<RawProxmox>>,
    ziti: Option<Spanned<ziti::config::RawOptions>>,
    #[serde(rename = "forward-auth")]
    forward_auth: Option<forward::config::RawConfig>,
    feed: Option<feed::config::RawConfig>,
    webhook: Option<webhook::config::RawConfig>,
    exec: Option<exec::config::RawConfig>,
}

/// Another table of this host's kernel.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNftables {
    table: Option<Spanned<String>>,
    ipv6_prefix: Option<Spanned<i64>>,
}

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: u64,
    /// What was found and what would be right.
    pub message: String,
}

impl RawConfig {
    /// The checked section on top of `defaults`, or everything that is wrong with it.
    pub fn check(self, defaults: Config) -> Result<Config, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut config = defaults;
        choose(self.mode, "mode", &Mode::NAMES, &mut config.mode, &mut faults);
        choose(self.on_stop, "on_stop", &STOPS, &mut config.on_stop, &mut faults);
        choose(self.on_loss, "on_loss", &LOSSES, &mut config.on_loss, &mut faults);
        choose(self.private_ranges, "private_ranges", &SPARES, &mut config.spare_private, &mut faults);
        if let Some(table) = self.table {
            table_name(table, &mut config.table, &mut faults);
        }
        limit(self.ipv6_prefix, "ipv6_prefix", 32..=128, &mut config.ipv6_prefix, &mut faults);
        limit(self.min_prefix4, "min_prefix4", 1..=32, &mut config.min_prefix4, &mut faults);
        limit(self.min_prefix6, "min_prefix6", 1..=128, &mut config.min_prefix6, &mut faults);
        limit(self.max_entries, "max_entries", 1..=2_000_000, &mut config.max_entries, &mut faults);
        limit(self.max_shrink, "max_shrink", 0..=100, &mut config.max_shrink, &mut faults);
        let pace = &mut config.max_new_per_minute;
        limit(self.max_new_per_minute, "max_new_per_minute", 1..=10_000_000, pace, &mut faults);
        limit(self.max_share, "max_share", 1..=100, &mut config.max_share, &mut faults);
        duration(self.grace, "grace", &mut config.grace, &mut faults);
        duration(self.full_sync, "full_sync", &mut config.full_sync, &mut faults);
        prefixes(self.trusted_proxies, &mut config.trusted_proxies, &mut faults);
        prefixes(self.site_peers, &mut config.site_peers, &mut faults);
        config.protect_active_admins = self.protect_active_admins.unwrap_or(config.protect_active_admins);
        config.snapshot = self.snapshot.or(config.snapshot);
        let kernel = &mut config.kernel;
        let at_devices = self.ingress_devices.filter(|names| !names.is_empty()).map(Ingress::Devices);
        if let Some(word) = self.ingress {
            let mut automatic = true;
            choose(Some(word), "ingress", &[("auto", true), ("off", false)], &mut automatic, &mut faults);
            kernel.ingress = if automatic { Ingress::Auto } else { Ingress::Off };
        }
        kernel.ingress = at_devices.unwrap_or(std::mem::take(&mut kernel.ingress));
        for (found, into) in [
            (self.block_outbound, &mut kernel.block_outbound),
            (self.own_table, &mut kernel.own_table),
            (self.set_only, &mut kernel.set_only),
            (self.cut_connections, &mut kernel.cut_connections),
        ] {
            *into = found.unwrap_or(*into);
        }
        for raw in self.targets.unwrap_or_default() {
            if let Some(target) = raw.value.check(raw.referenced.line(), &config, &mut faults) {
                config.targets.push(target);
            }
        }
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

const STOPS: [(&str, OnStop); 2] = [("keep", OnStop::Keep), ("remove", OnStop::Remove)];
const LOSSES: [(&str, OnLoss); 3] = [("keep", OnLoss::Keep), ("open", OnLoss::Open), ("closed", OnLoss::Closed)];
const SPARES: [(&str, bool); 2] = [("never", true), ("allow", false)];

impl RawTarget {
    /// The checked target, or nothing after a fault that leaves nothing to check. `line` is where it begins.
    fn check(self, line: u64, config: &Config, faults: &mut Vec<Fault>) -> Option<TargetConfig> {
        let mut settings = Settings { snapshot: None, ..config.settings() };
        choose(self.mode, "mode", &Mode::NAMES, &mut settings.mode, faults);
        choose(self.on_stop, "on_stop", &STOPS, &mut settings.on_stop, faults);
        choose(self.on_loss, "on_loss", &LOSSES, &mut settings.on_loss, faults);
        choose(self.private_ranges, "private_ranges", &SPARES, &mut settings.limits.spare_private, faults);
        if self.max_entries.is_some() {
            let mut room = 0;
            limit(self.max_entries, "max_entries", 1..=1_000_000, &mut room, faults);
            settings.room = Some(room);
        }
        limit(self.max_shrink, "max_shrink", 0..=100, &mut settings.max_shrink, faults);
        let pace = &mut settings.max_new_per_minute;
        limit(self.max_new_per_minute, "max_new_per_minute", 1..=10_000_000, pace, faults);
        duration(self.grace, "grace", &mut settings.grace, faults);
        duration(self.full_sync, "full_sync", &mut settings.full_sync, faults);
        if self.batch_window.is_some() {
            let mut window = Duration::ZERO;
            duration(self.batch_window, "batch_window", &mut window, faults);
            settings.batch_window = Some(window);
        }
        settings.origins =
            Origins { only: self.origins.unwrap_or_default(), except: self.except_origins.unwrap_or_default() };
        let mut kinds = Vec::new();
        kinds.extend(self.nftables.map(|raw| Kind::Nftables(raw.check(config, settings.mode, faults))));
        kinds.extend(self.pfsense.map(|raw| Kind::PfSense(raw.value.check(raw.referenced.line(), faults))));
        kinds.extend(self.pfsense_ssh.map(|raw| Kind::PfSenseSsh(raw.value.check(raw.referenced.line(), faults))));
        kinds.extend(self.opnsense.map(|raw| Kind::OpnSense(raw.value.check(raw.referenced.line(), faults))));
        kinds.extend(self.proxmox.map(|raw| Kind::Proxmox(raw.value.check(raw.referenced.line(), faults))));
        let ziti = self.ziti.map(|raw| raw.value.check(raw.referenced.line(), faults));
        kinds.extend(ziti.map(|options| Kind::Ziti(Box::new(options))));
        let sections = [
            self.forward_auth.map(|raw| raw.check(&config.trusted_proxies).map(Kind::ForwardAuth)),
            self.feed.map(|raw| raw.check().map(Kind::Feed)),
            self.webhook.map(|raw| raw.check().map(|checked| Kind::Webhook(Box::new(checked)))),
            self.exec.map(|raw| raw.check().map(Kind::Exec)),
        ];
        for section in sections.into_iter().flatten() {
            match section {
                Ok(kind) => kinds.push(kind),
                Err(found) => {
                    faults.extend(found);
                    return None;
                }
            }
        }
        let Ok([kind]) = <[Kind; 1]>::try_from(kinds) else {
            let message =
                format!("a target needs exactly one section that says what it is: {}", listed(&Self::SECTIONS));
            faults.push(Fault { line, message });
            return None;
        };
        kind.word().clone_into(&mut settings.name);
        if self.name.is_some_and(|name| !name_of(name, &mut settings.name, faults)) {
            return None;
        }
        let taken = settings.name == Settings::default().name && config.mode != Mode::Off;
        if taken || config.targets.iter().any(|other| other.settings.name == settings.name) {
            let message = format!("there is another target `{}`, expected a `name` of its own", settings.name);
            faults.push(Fault { line, message });
        }
        Some(TargetConfig { settings, writer: self.writer, kind })
    }

    /// The sections that say what a target is.
    const SECTIONS: [&'static str; 10] = [
        "nftables",
        "pfsense",
        "pfsense_ssh",
        "opnsense",
        "proxmox",
        "forward-auth",
        "feed",
        "webhook",
        "exec",
        "ziti",
    ];
}

impl RawNftables {
    fn check(self, config: &Config, mode: Mode, faults: &mut Vec<Fault>) -> Options {
        let mut options = Options { observe: mode == Mode::Observe, ..config.nftables() };
        if let Some(table) = self.table {
            table_name(table, &mut options.table, faults);
        }
        limit(self.ipv6_prefix, "ipv6_prefix", 32..=128, &mut options.ipv6_prefix, faults);
        options
    }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ")
}

fn table_name(found: Spanned<String>, into: &mut String, faults: &mut Vec<Fault>) {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = found.value.starts_with(|c: char| c.is_ascii_alphabetic());
    if first && found.value.len() <= 32 && found.value.chars().all(good) {
        *into = found.value;
        return;
    }
    let message =
        format!("`{}` is no table name, expected up to 32 letters, digits and `_`, a letter first", found.value);
    faults.push(Fault { line: found.referenced.line(), message });
}

/// The name of a target is also that of its files. Whether it is one.
fn name_of(found: Spanned<String>, into: &mut String, faults: &mut Vec<Fault>) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !found.value.is_empty() && found.value.len() <= 64 && found.value.chars().all(good) {
        *into = found.value;
        return true;
    }
    let message = format!("`{}` is no name, expected up to 64 letters, digits, `_` and `-`", found.value);
    faults.push(Fault { line: found.referenced.line(), message });
    false
}

/// The duration that a text says.
pub(crate) fn duration(found: Option<Spanned<String>>, key: &str, into: &mut Duration, faults: &mut Vec<Fault>) {
    let Some(found) = found else { return };
    let parsed = model::duration::parse_with_days(&found.value).ok().and_then(|long| Duration::try_from(long).ok());
    if let Some(long) = parsed {
        *into = long;
        return;
    }
    let message = format!("`{key}` is `{}`, expected a duration like `90s` or `15m`", found.value);
    faults.push(Fault { line: found.referenced.line(), message });
}

/// The prefixes that texts say.
pub(crate) fn prefixes(found: Option<Vec<Spanned<String>>>, into: &mut Vec<IpNet>, faults: &mut Vec<Fault>) {
    for text in found.unwrap_or_default() {
        match model::scope::parse_net(&text.value) {
            Ok(net) => into.push(net),
            Err(error) => faults.push(Fault { line: text.referenced.line(), message: error.to_string() }),
        }
    }
}

/// The value that a word stands for.
pub(crate) fn choose<T: Copy>(
    found: Option<Spanned<String>>,
    key: &str,
    names: &[(&str, T)],
    into: &mut T,
    faults: &mut Vec<Fault>,
) {
    let Some(found) = found else { return };
    if let Some((_, value)) = names.iter().find(|(name, _)| *name == found.value) {
        *into = *value;
        return;
    }
    let names: Vec<String> = names.iter().map(|(name, _)| format!("`{name}`")).collect();
    let message = format!("`{}` is no value for `{key}`, expected {}", found.value, names.join(" or "));
    faults.push(Fault { line: found.referenced.line(), message });
}

/// A number within its limits.
pub(crate) fn limit<T: TryFrom<i64>>(
    found: Option<Spanned<i64>>,
    key: &str,
    range: std::ops::RangeInclusive<i64>,
    into: &mut T,
    faults: &mut Vec<Fault>,
) {
    let Some(found) = found else { return };
    match T::try_from(found.value) {
        Ok(value) if range.contains(&found.value) => *into = value,
        _ => {
            let message =
                format!("`{key}` is `{}`, expected a number from {} to {}", found.value, range.start(), range.end());
            faults.push(Fault { line: found.referenced.line(), message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let raw: Option<RawConfig> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        raw.unwrap_or_default()
            .check(Config::default())
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn an_empty_section_is_the_defaults() {
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_can_be_set() {
        let text = "mode: observe\ntable: guard\non_stop: remove\nprivate_ranges: allow\nipv6_prefix: 56\n\
                    min_prefix4: 16\nmin_prefix6: 32\nmax_entries: 500\nmax_shrink: 20\nsnapshot: /srv/guard\n\
                    on_loss: open\ngrace: 2m\nmax_new_per_minute: 9\nmax_share: 1\nfull_sync: 1h\n\
                    trusted_proxies: [192.0.2.0/24]\nsite_peers: [203.0.113.7]\nprotect_active_admins: false\n\
                    block_outbound: true\ningress_devices: [eno1]\nown_table: true\nset_only: true\ncut_connections: true";
        let expected = Config {
            mode: Mode::Observe,
            table: "guard".into(),
            on_stop: OnStop::Remove,
            spare_private: false,
            ipv6_prefix: 56,
            min_prefix4: 16,
            min_prefix6: 32,
            max_entries: 500,
            max_shrink: 20,
            snapshot: Some("/srv/guard".into()),
            on_loss: OnLoss::Open,
            grace: Duration::from_mins(2),
            max_new_per_minute: 9,
            max_share: 1,
            full_sync: Duration::from_hours(1),
            trusted_proxies: vec!["192.0.2.0/24".parse().expect("a valid test prefix")],
            site_peers: vec!["203.0.113.7/32".parse().expect("a valid test prefix")],
            protect_active_admins: false,
            kernel: Kernel {
                block_outbound: true,
                ingress: Ingress::Devices(vec!["eno1".into()]),
                own_table: true,
                set_only: true,
                cut_connections: true,
            },
            targets: Vec::new(),
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn where_packets_are_looked_at() {
        let cases = [
            ("", Ingress::Auto),
            ("ingress: auto", Ingress::Auto),
            ("ingress: off", Ingress::Off),
            ("ingress_devices: [a, b]", Ingress::Devices(vec!["a".into(), "b".into()])),
        ];
        for (text, ingress) in cases {
            assert_eq!(parse(text).map(|config| config.kernel.ingress), Ok(ingress), "{text}");
        }
    }

    #[test]
    fn a_target_begins_with_what_the_section_says() {
        let text = "mode: dry-run\nmax_shrink: 30\nsite_peers: [203.0.113.7]\ntargets:\n  - name: second\n    mode: enforce\n    \
                    max_entries: 9\n    except_origins: [CAPI]\n    batch_window: 0s\n    writer: fw1\n    nftables: {table: other}";
        let target = parse(text).expect("a valid section").targets.remove(0);
        let Settings { name, mode, max_shrink, room, never, batch_window, origins, .. } = target.settings;
        assert_eq!((name.as_str(), mode, max_shrink, room), ("second", Mode::Enforce, 30, Some(9)));
        assert_eq!((never.len(), batch_window, origins.take("capi")), (1, Some(Duration::ZERO), false));
        assert_eq!(target.writer.as_deref(), Some("fw1"));
        assert_eq!(target.kind, Kind::Nftables(Options { table: "other".into(), ..Options::default() }));
    }

    #[test]
    fn a_target_must_say_what_it_is_and_have_a_name_of_its_own() {
        let text = "targets:\n  - name: a\n  - nftables: {}\n  - {name: 'b c', nftables: {}}\n  - {name: d, nftables: {}, grace: soon}\n  \
                    - {name: d, nftables: {}}";
        let told = parse(text).expect_err("five mistakes").replace(&listed(&RawTarget::SECTIONS), "...");
        insta::assert_snapshot!(told, @r"
        line 2: a target needs exactly one section that says what it is: ...
        line 3: there is another target `nftables`, expected a `name` of its own
        line 4: `b c` is no name, expected up to 64 letters, digits, `_` and `-`
        line 5: `grace` is `soon`, expected a duration like `90s` or `15m`
        line 6: there is another target `d`, expected a `name` of its own
        ");
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let text = "mode: on\ntable: 'a b'\nipv6_prefix: 7\nmax_shrink: 300\nprivate_ranges: yes";
        insta::assert_snapshot!(parse(text).expect_err("five mistakes"), @r"
        line 1: `on` is no value for `mode`, expected `enforce` or `observe` or `dry-run` or `off`
        line 5: `yes` is no value for `private_ranges`, expected `never` or `allow`
        line 2: `a b` is no table name, expected up to 32 letters, digits and `_`, a letter first
        line 3: `ipv6_prefix` is `7`, expected a number from 32 to 128
        line 4: `max_shrink` is `300`, expected a number from 0 to 100
        ");
    }
}
