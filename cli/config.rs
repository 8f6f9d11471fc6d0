//! The configuration of the whole: `cordon.yaml`, read loosely, checked once. And `cordon config`.
//!
//! Every key has a default, so no file is needed. What a file says and a flag says: the flag wins.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use agent::{crowdsec, hub};
use anyhow::{Context, bail};
use api::client::ClientConfig;
use api::config::ServerConfig;
use api::ladder::Rungs;
use api::privacy::Masks;
use bouncers::config::{Config as Enforcement, Mode, RawConfig as RawEnforcement};
use bouncers::geo::Config as Geo;
use ipnet::IpNet;
use jiff::SignedDuration;
use model::yaml::{Fault, Yaml};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};
use serde_saphyr::Spanned;

use crate::args::{Format, Global};
use crate::output;

/// Where the file is looked for when none is named.
const DEFAULT_FILE: &str = "/etc/cordon/cordon.yaml";

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Config {
    /// Folder of the database, the socket, the snapshots and the places in the logs.
    pub(crate) state: PathBuf,
    /// The local API.
    pub(crate) api: ServerConfig,
    /// Which logs are read.
    pub(crate) acquisition: Acquisition,
    /// Which parsers, scenarios and profiles are loaded.
    pub(crate) rules: Rules,
    /// Whether names are looked up for rules that ask for them.
    pub(crate) resolver: Lookups,
    /// Whom rules may ask for pages; nobody by default.
    pub(crate) requests: Requests,
    /// Addresses and ranges that are never punished, beside the built-in ones.
    pub(crate) allowlist: Vec<IpNet>,
    /// How long those are banned who come back.
    pub(crate) ladder: Rungs,
    /// How much of the past is kept.
    pub(crate) retention: Retention,
    /// What is masked in alerts before they are stored.
    pub(crate) privacy: Privacy,
    /// What is done about decisions on this host.
    pub(crate) enforcement: Enforcement,
    /// Who may begin a connection, and who is never banned, because of where he is.
    pub(crate) geo: Geo,
}

/// How much of the past is kept, and how much of the present.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Retention {
    /// How many alerts, the newest; those with a decision in force stay in any case.
    pub(crate) alerts: u64,
    /// How long alerts are kept.
    pub(crate) age: SignedDuration,
    /// How many decisions that are over are kept.
    pub(crate) ended: u64,
    /// How long usage metrics are kept.
    pub(crate) metrics: SignedDuration,
    /// How many decisions may be in force at once.
    pub(crate) decisions: usize,
    /// How long lines, user names and other evidence stay in alerts.
    pub(crate) evidence: SignedDuration,
    /// How many records of the audit trail stay in the database; older ones go into archives beside it.
    pub(crate) audit: u64,
}

/// What is masked in alerts before they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Privacy {
    /// What looks like a password and stands where a user name belongs.
    pub(crate) mask_passwords: bool,
    /// The values in the queries of pages.
    pub(crate) mask_queries: bool,
}

impl Default for Retention {
    fn default() -> Self {
        let week = SignedDuration::from_hours(7 * 24);
        Self {
            alerts: 100_000,
            age: week,
            ended: 1_000_000,
            metrics: week,
            decisions: 4_000_000,
            evidence: SignedDuration::from_hours(30 * 24),
            audit: 100_000,
        }
    }
}

impl Default for Privacy {
    fn default() -> Self {
        let Masks { passwords, queries } = Masks::default();
        Self { mask_passwords: passwords, mask_queries: queries }
    }
}

impl From<Privacy> for Masks {
    fn from(privacy: Privacy) -> Self {
        Self { passwords: privacy.mask_passwords, queries: privacy.mask_queries }
    }
}

/// Which logs are read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Acquisition {
    /// Whether the host's own logs (sshd, nginx, apache) are looked for.
    pub(crate) discover: bool,
    /// Files with datasources, or folders of such files.
    pub(crate) paths: Vec<PathBuf>,
    /// How old what was written while nobody read may be and still count.
    #[serde(serialize_with = "as_text")]
    pub(crate) catch_up: SignedDuration,
}

fn as_text<S: Serializer>(duration: &SignedDuration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&model::duration::format(*duration))
}

/// Whom rules may ask for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Lookups {
    /// The DNS servers of this host.
    System,
    /// Nobody.
    Off,
}

/// Whom rules may ask for pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Requests {
    /// With what addresses of requests must begin.
    pub(crate) endpoints: Vec<String>,
    /// A service that knows the reputation of addresses.
    pub(crate) reputation: Option<Reputation>,
}

/// A service that knows the reputation of addresses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Reputation {
    /// Its address; the address that is asked about is added as the last part of the path.
    pub(crate) url: String,
    /// File that holds the key which it wants.
    pub(crate) key_file: PathBuf,
}

/// Which rules are loaded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rules {
    /// Whether the rules inside the binary are loaded.
    pub(crate) shipped: bool,
    /// Folders of further rules, in the hub's layout (`parsers/s01-parse/...`, `scenarios/...`); CrowdSec's own folder is one.
    pub(crate) folders: Vec<PathBuf>,
    /// Profiles that replace the shipped ones and those in the folders.
    pub(crate) profiles: Option<PathBuf>,
}

impl Config {
    /// The configuration that the arguments ask for: defaults, then the file, then flags.
    pub(crate) fn load(global: &Global) -> anyhow::Result<Self> {
        let default = Path::new(DEFAULT_FILE);
        let mut config = match &global.config {
            Some(path) => Self::read(path)?,
            None if default.exists() => Self::read(default)?,
            None => Self::default(),
        };
        if let Some(state) = &global.state {
            config.state.clone_from(state);
        }
        Ok(config)
    }

    /// Lets CrowdSec's configuration folder say which logs are read, by which rules, and where the API listens.
    pub(crate) fn adopt(&mut self, folder: &Path) -> anyhow::Result<()> {
        hub::has_rules(folder)?;
        self.rules = Rules { shipped: false, folders: vec![folder.to_path_buf()], profiles: None };
        if let Some(theirs) = crowdsec::Configuration::read(folder, &crowdsec::environment) {
            self.acquisition.discover = false;
            self.acquisition.paths = theirs.acquisition;
            self.api.listen = theirs.listen.or(self.api.listen);
            self.api.client = self.api.client.take().or(theirs.credentials.map(ClientConfig::new));
        }
        Ok(())
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        Self::parse(path, &text)
    }

    /// The configuration in `text`; `path` is where it came from, for messages.
    fn parse(path: &Path, text: &str) -> anyhow::Result<Self> {
        let raw: RawConfig = match serde_saphyr::from_str::<Option<RawConfig>>(text) {
            Ok(raw) => raw.unwrap_or_default(),
            Err(error) => bail!(explain(path, &error)),
        };
        raw.check(path, text)
    }

    /// The file that holds alerts, decisions and accounts.
    pub(crate) fn database(&self) -> PathBuf {
        self.state.join("cordon.db")
    }

    /// The socket on which this host's own commands reach the running process.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state.join("cordon.sock")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: default_state(),
            api: ServerConfig::default(),
            acquisition: Acquisition { discover: true, paths: Vec::new(), catch_up: SignedDuration::from_hours(24) },
            rules: Rules { shipped: true, folders: Vec::new(), profiles: None },
            resolver: Lookups::System,
            requests: Requests::default(),
            allowlist: Vec::new(),
            ladder: Rungs::default(),
            retention: Retention::default(),
            privacy: Privacy::default(),
            // a newcomer must not lock himself out
            enforcement: Enforcement { mode: Mode::DryRun, ..Enforcement::default() },
            geo: Geo::default(),
        }
    }
}

/// `/var/lib/cordon` for root, else a folder of the user's own.
fn default_state() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/cordon");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home);
    base.map_or_else(|| PathBuf::from("cordon-state"), |base| base.join("cordon"))
}

/// The file as written; every value as loose as YAML allows.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    state: Option<PathBuf>,
    /// Read by the crate it belongs to, from the same text.
    #[serde(rename = "api")]
    _api: Option<IgnoredAny>,
    acquisition: Option<RawAcquisition>,
    rules: Option<RawRules>,
    resolver: Option<Spanned<String>>,
    requests: Option<RawRequests>,
    allowlist: Option<Vec<Spanned<String>>>,
    ladder: Option<RawLadder>,
    retention: Option<RawRetention>,
    privacy: Option<RawPrivacy>,
    enforcement: Option<RawEnforcement>,
    /// As `api`.
    #[serde(rename = "geo")]
    _geo: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLadder {
    enabled: Option<bool>,
    steps: Option<Vec<Spanned<String>>>,
    forget_after: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRetention {
    alerts: Option<u64>,
    age: Option<Spanned<String>>,
    ended: Option<u64>,
    metrics: Option<Spanned<String>>,
    decisions: Option<usize>,
    evidence: Option<Spanned<String>>,
    audit: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrivacy {
    mask_passwords: Option<bool>,
    mask_queries: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAcquisition {
    discover: Option<bool>,
    paths: Option<Vec<PathBuf>>,
    catch_up: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRules {
    shipped: Option<bool>,
    folders: Option<Vec<PathBuf>>,
    profiles: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequests {
    endpoints: Option<Vec<Spanned<String>>>,
    reputation: Option<RawReputation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReputation {
    url: Spanned<String>,
    key_file: PathBuf,
}

impl RawRequests {
    fn check(self, faults: &mut Faults<'_>) -> Requests {
        let mut page = |text: Spanned<String>| {
            if !["http://", "https://"].iter().any(|scheme| text.value.starts_with(scheme)) {
                let what = format_args!(
                    "`{}` is not the address of a page, expected one like `https://lists.example/v1/`",
                    text.value
                );
                faults.add(&text, what);
            }
            text.value
        };
        let endpoints = self.endpoints.unwrap_or_default().into_iter().map(&mut page).collect();
        let reputation = self.reputation.map(|raw| Reputation { url: page(raw.url), key_file: raw.key_file });
        Requests { endpoints, reputation }
    }
}

impl RawConfig {
    /// The checked configuration, or everything that is wrong with it at once.
    fn check(self, path: &Path, text: &str) -> anyhow::Result<Config> {
        let mut config = Config::default();
        let mut faults = Faults { path, text: String::new() };

        if let Some(state) = self.state {
            config.state = state;
        }
        match read_section(text, "api", ServerConfig::read) {
            Ok(api) => config.api = api.unwrap_or(config.api),
            Err(fault) => faults.fault(&fault),
        }
        match read_section(text, "geo", Geo::read) {
            Ok(geo) => config.geo = geo.unwrap_or(config.geo),
            Err(fault) => faults.fault(&fault),
        }
        let acquisition = self.acquisition.unwrap_or_default();
        config.acquisition.discover = acquisition.discover.unwrap_or(config.acquisition.discover);
        config.acquisition.paths = acquisition.paths.unwrap_or_default();
        if let Some(age) = acquisition.catch_up {
            match model::duration::parse_with_days(&age.value) {
                Ok(catch_up) if !catch_up.is_negative() => config.acquisition.catch_up = catch_up,
                _ => faults.add(&age, format_args!("`{}` is no duration, expected one like `24h`", age.value)),
            }
        }
        let rules = self.rules.unwrap_or_default();
        config.rules.shipped = rules.shipped.unwrap_or(config.rules.shipped);
        config.rules.folders = rules.folders.unwrap_or_default();
        config.rules.profiles = rules.profiles;
        if let Some(resolver) = self.resolver {
            match resolver.value.as_str() {
                "system" => config.resolver = Lookups::System,
                "off" => config.resolver = Lookups::Off,
                text => faults.add(&resolver, format_args!("`{text}` is no resolver, expected `system` or `off`")),
            }
        }
        config.requests = self.requests.unwrap_or_default().check(&mut faults);
        for entry in self.allowlist.unwrap_or_default() {
            match model::scope::parse_net(&entry.value) {
                Ok(net) => config.allowlist.push(net),
                Err(error) => faults.add(&entry, format_args!("{error}")),
            }
        }
        let ladder = self.ladder.unwrap_or_default();
        if let Some(steps) = ladder.steps {
            config.ladder.steps = steps.iter().filter_map(|step| faults.duration(step)).collect();
        }
        if !ladder.enabled.unwrap_or(true) {
            config.ladder.steps.clear();
        }
        let retention = self.retention.unwrap_or_default();
        config.retention.alerts = retention.alerts.unwrap_or(config.retention.alerts);
        config.retention.ended = retention.ended.unwrap_or(config.retention.ended);
        config.retention.decisions = retention.decisions.unwrap_or(config.retention.decisions);
        config.retention.audit = retention.audit.unwrap_or(config.retention.audit);
        let privacy = self.privacy.unwrap_or_default();
        config.privacy.mask_passwords = privacy.mask_passwords.unwrap_or(config.privacy.mask_passwords);
        config.privacy.mask_queries = privacy.mask_queries.unwrap_or(config.privacy.mask_queries);
        for (text, long) in [
            (&ladder.forget_after, &mut config.ladder.forget_after),
            (&retention.age, &mut config.retention.age),
            (&retention.metrics, &mut config.retention.metrics),
            (&retention.evidence, &mut config.retention.evidence),
        ] {
            *long = text.as_ref().and_then(|text| faults.duration(text)).unwrap_or(*long);
        }
        match self.enforcement.unwrap_or_default().check(config.enforcement.clone()) {
            Ok(checked) => config.enforcement = checked,
            Err(found) => found.iter().for_each(|fault| faults.at(fault.line, format_args!("{}", fault.message))),
        }

        if faults.text.is_empty() { Ok(config) } else { bail!(faults.text) }
    }
}

/// The section called `name` of a configuration file, if it has one.
fn read_section<T>(text: &str, name: &str, read: fn(&Yaml) -> Result<T, Fault>) -> Result<Option<T>, Fault> {
    let documents = model::yaml::documents(text)?;
    let Some(document) = documents.first().filter(|document| !document.is_null()) else { return Ok(None) };
    let entries = document.entries("the configuration")?;
    let section = entries.iter().find(|(key, value)| key.text == name && !value.is_null());
    section.map(|(_, section)| read(section)).transpose()
}

/// What is wrong with a file, one line each.
struct Faults<'a> {
    path: &'a Path,
    text: String,
}

impl Faults<'_> {
    fn add<T>(&mut self, at: &Spanned<T>, what: std::fmt::Arguments<'_>) {
        self.at(at.referenced.line(), what);
    }

    fn fault(&mut self, fault: &Fault) {
        let hint = fault.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        self.at(fault.line.into(), format_args!("{}{hint}", fault.message));
    }

    /// The duration that a text says, which must be more than nothing.
    fn duration(&mut self, text: &Spanned<String>) -> Option<SignedDuration> {
        match model::duration::parse_with_days(&text.value) {
            Ok(long) if long.is_positive() => return Some(long),
            Ok(_) => self.add(text, format_args!("`{}` is nothing, expected a form like `16h` or `3d`", text.value)),
            Err(error) => self.add(text, format_args!("{error}")),
        }
        None
    }

    fn at(&mut self, line: u64, what: std::fmt::Arguments<'_>) {
        let newline = if self.text.is_empty() { "" } else { "\n" };
        // writing to a String cannot fail
        let _ = write!(self.text, "{newline}{}:{line}: {what}", self.path.display());
    }
}

/// A YAML error as file, line, what was found, and a hint when a key looks like a slip of the pen.
fn explain(path: &Path, error: &serde_saphyr::Error) -> String {
    let inner = error.without_snippet();
    let place = match inner.location() {
        Some(at) => format!("{}:{}", path.display(), at.line()),
        None => path.display().to_string(),
    };
    match inner {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            let near = expected
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, field).total_cmp(&strsim::jaro_winkler(b, field)));
            let known = expected.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            match near {
                Some(near) if strsim::jaro_winkler(near, field) > 0.75 => {
                    format!("{place}: unknown key `{field}`\nhint: did you mean `{near}`?")
                }
                _ => format!("{place}: unknown key `{field}`, expected one of {known}"),
            }
        }
        other => format!("{place}: {}", plain(&other.render())),
    }
}

/// The message without the place, which the reader already has, and without advice to programmers.
fn plain(text: &str) -> &str {
    let line = text.lines().next().unwrap_or(text);
    let line = line.split_once(" at line ").map_or(line, |(message, _)| message);
    line.split_once(", set DuplicateKeyPolicy").map_or(line, |(message, _)| message)
}

pub(crate) fn check(global: &Global) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    match global.output {
        Format::Json => output::json(&serde_json::json!({ "valid": true, "config": config })),
        Format::Human | Format::Raw => output::line("the configuration is valid"),
    }
}

pub(crate) fn show(global: &Global) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    match global.output {
        Format::Json => output::json(&config),
        Format::Human | Format::Raw => {
            let text = serde_saphyr::to_string(&config).context("cannot print as YAML")?;
            output::line(text.trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("cordon.yaml"), text).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        for text in ["", "# nothing\n", "{}\n", "api:\n"] {
            assert_eq!(parse(text).as_ref(), Ok(&Config::default()), "{text:?}");
        }
    }

    #[test]
    fn every_key_can_be_set() {
        let config = parse(
            "state: /srv/cordon\n\
             api:\n  listen: '[::1]:9000'\n  client: {credentials_path: /etc/cordon/credentials.yaml, spool_mib: 9}\n\
             acquisition:\n  discover: false\n  paths: [/etc/cordon/acquisition.d]\n  catch_up: 90m\n\
             rules:\n  shipped: false\n  folders: [/etc/cordon/rules]\n  profiles: /etc/cordon/profiles.yaml\n\
             resolver: off\n\
             requests:\n  endpoints: [https://lists.example/]\n  reputation: {url: 'http://[::1]:1/v2', key_file: /etc/cordon/key}\n\
             allowlist:\n  - 192.0.2.7\n  - 2001:db8::/32\n\
             ladder:\n  steps: [1d, 2d]\n  forget_after: 30d\n\
             retention:\n  alerts: 5\n  age: 1d\n  decisions: 7\n  evidence: 2d\n  audit: 9\n\
             privacy:\n  mask_passwords: false\n  mask_queries: false\n\
             enforcement:\n  mode: enforce\n  table: guard\n\
             geo:\n  country_db: /srv/country.mmdb\n  policies: [{ deny: [KP] }]\n",
        )
        .expect("a valid file");
        assert_eq!(config.state, Path::new("/srv/cordon"));
        let client = ClientConfig { spool_mib: 9, ..ClientConfig::new("/etc/cordon/credentials.yaml".into()) };
        assert_eq!(config.api.client, Some(client));
        assert_eq!(config.acquisition.catch_up, SignedDuration::from_mins(90));
        assert_eq!(config.resolver, Lookups::Off);
        assert_eq!(config.requests.endpoints, ["https://lists.example/"]);
        assert_eq!(config.requests.reputation.map(|service| service.url).as_deref(), Some("http://[::1]:1/v2"));
        assert_eq!(config.api.listen.map(|address| address.to_string()).as_deref(), Some("[::1]:9000"));
        assert_eq!(
            config.allowlist.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.7/32", "2001:db8::/32"]
        );
        assert_eq!((config.enforcement.mode, config.enforcement.table.as_str()), (Mode::Enforce, "guard"));
        assert!(!config.rules.shipped && !config.acquisition.discover);
        assert_eq!(
            (config.geo.country_db.as_deref(), config.geo.policies.len()),
            (Some(Path::new("/srv/country.mmdb")), 1)
        );
        let hours = |hours| SignedDuration::from_hours(hours);
        assert_eq!(config.ladder, Rungs { steps: vec![hours(24), hours(48)], forget_after: hours(30 * 24) });
        let (age, evidence) = (hours(24), hours(48));
        let retention = Retention { alerts: 5, age, decisions: 7, evidence, audit: 9, ..Retention::default() };
        assert_eq!(config.privacy, Privacy { mask_passwords: false, mask_queries: false });
        assert_eq!(config.retention, retention);
        assert!(parse("ladder: { enabled: false }\n").expect("a valid file").ladder.steps.is_empty());
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        // (text, message)
        let cases = [
            ("api:\n  lisen: off\n", "cordon.yaml:2: unknown key in `api`: `lisen`\nhint: did you mean `listen`?"),
            (
                "zzz: 1\n",
                "cordon.yaml:1: unknown key `zzz`, expected one of `state`, `api`, `acquisition`, `rules`, `resolver`, `requests`, `allowlist`, `ladder`, `retention`, `privacy`, `enforcement`, `geo`",
            ),
            (
                "api:\n  listen: 8080\n",
                "cordon.yaml:2: `listen`: `8080` is no address to listen on\nhint: a form like `127.0.0.1:8080`, or `off`",
            ),
            (
                "allowlist:\n  - 10.0.0.0/8\n  - office\nenforcement:\n  mode: on\n",
                "cordon.yaml:3: `office` is not an IP address or a range, expected a form like `192.0.2.4` or `192.0.2.0/24`\n\
                 cordon.yaml:5: `on` is no value for `mode`, expected `enforce` or `observe` or `dry-run` or `off`",
            ),
            (
                "enforcement:\n  table: a b\n",
                "cordon.yaml:2: `a b` is no table name, expected up to 32 letters, digits and `_`, a letter first",
            ),
            (
                "ladder:\n  steps: [16h, soon]\nretention: { age: 0s }\n",
                "cordon.yaml:2: invalid duration `soon`, expected a form like `1h30m` or `10s`\n\
                 cordon.yaml:3: `0s` is nothing, expected a form like `16h` or `3d`",
            ),
            (
                "requests:\n  endpoints: [lists.example]\n",
                "cordon.yaml:2: `lists.example` is not the address of a page, expected one like `https://lists.example/v1/`",
            ),
            (
                "geo:\n  country_db: a\n  policies:\n  - allow: [UK]\n",
                "cordon.yaml:4: `UK` is no country and no autonomous system\nhint: did you mean `GB` (United Kingdom)?",
            ),
            ("acquisition: 3\n", "cordon.yaml:1: expected mapping start"),
            ("acquisition:\n  discover: maybe\n", "cordon.yaml:2: invalid boolean"),
            ("acquisition:\n  catch_up: -1h\n", "cordon.yaml:2: `-1h` is no duration, expected one like `24h`"),
            ("state: a\nstate: b\n", "cordon.yaml:2: duplicate mapping key: state"),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text), Err(message.to_owned()), "{text}");
        }
    }
}
