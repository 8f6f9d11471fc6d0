//! pfSense through the REST API package: one `network` alias that is ours.
//!
//! The number of an alias is its place in a list and shifts when anybody removes another one. So it is read right before
//! each write, the write names the alias as well (the API refuses to rename), and the answer must name it again. Every
//! write carries the whole list: the package's own adding and removing act by value on every field at once.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Method;
use reqwest::header::HeaderName;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::warn;

use crate::engine::Caps;
use crate::error::BouncerError;
use crate::remote::http::{Call, Endpoint, Http, WHOLE, encode};
use crate::remote::list::{List, Written, parse_all};
use crate::remote::nets::{Edits, Nets, There, with_length};
use crate::remote::secret::Secret;

/// More entries make every change slow: each is checked against all aliases, and each write is a revision of the whole
/// configuration.
const MOST: usize = 2000;
/// What stands in an alias that would be empty, which pfSense does not allow.
const PLACEHOLDER: &str = "192.0.2.1/32";
/// How long filters may take to be loaded.
const LOADING: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
/// States of so many new sources are killed one by one in one write.
const KILLS: usize = 100;
/// Writes that are tried anew because the numbers of aliases shifted meanwhile.
const SHIFTS: usize = 5;

/// How the firewall is reached, and which alias is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestOptions {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The API key.
    pub key: Secret,
    /// Name of the alias.
    pub alias: String,
    /// Whether connections of newly blocked addresses are cut; needs the right to delete states.
    pub kill_states: bool,
}

/// One alias of one firewall.
#[derive(Debug)]
pub struct Rest {
    target: String,
    http: Http,
    alias: String,
    kill_states: bool,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    response_id: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Alias {
    id: u64,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    address: Vec<String>,
}

impl Rest {
    /// Gets ready for the firewall; asks nothing yet.
    pub fn open(target: &str, options: &RestOptions) -> Result<Self, BouncerError> {
        let mut http = Http::open(target, &options.endpoint)?;
        http.set_secret(HeaderName::from_static("x-api-key"), options.key.read()?.expose_secret())?;
        Ok(Self { target: target.to_owned(), http, alias: options.alias.clone(), kill_states: options.kill_states })
    }

    fn unusable(&self, reason: impl Into<String>) -> BouncerError {
        BouncerError::unusable(&self.target, reason)
    }

    /// Our alias as it is configured, and where it stands at this moment.
    async fn find(&mut self) -> Result<Option<Alias>, BouncerError> {
        let path = format!("/api/v2/firewall/aliases?name={}", encode(&self.alias));
        let answer: Envelope = self.http.send(Call::get(path)).await?.expect()?;
        let found: Vec<Alias> = serde_json::from_value(answer.data)
            .map_err(|error| BouncerError::unreachable(&self.target, format!("unexpected list of aliases: {error}")))?;
        let Some(alias) = found.into_iter().find(|alias| alias.name == self.alias) else { return Ok(None) };
        if alias.kind != "network" {
            let reason = format!("the alias `{}` is of type `{}`, expected `network`", self.alias, alias.kind);
            return Err(self.unusable(reason));
        }
        Ok(Some(alias))
    }

    /// What is in the packet filter's own table; an error if no rule uses it.
    async fn live(&mut self) -> Result<HashSet<IpNet>, BouncerError> {
        let path = format!("/api/v2/diagnostics/table?id={}", encode(&self.alias));
        let answer = self.http.send(Call::get(path)).await?;
        if answer.status == 404 {
            let reason = format!(
                "no rule uses the alias `{}`, so nothing is blocked\nhint: add a block rule with it",
                self.alias
            );
            return Err(self.unusable(reason));
        }
        let answer: Envelope = answer.expect()?;
        let entries = answer.data.get("entries").and_then(Value::as_array);
        let entries = entries.ok_or_else(|| BouncerError::unreachable(&self.target, "unexpected table"))?;
        Ok(parse_all(entries.iter().filter_map(Value::as_str)))
    }

    /// Makes `addresses` all that is in the alias.
    async fn set(&mut self, addresses: &[String]) -> Result<Result<(), Envelope>, BouncerError> {
        for _ in 0..SHIFTS {
            let alias = self.find().await?.ok_or_else(|| {
                BouncerError::unreachable(&self.target, format!("the alias `{}` was removed just now", self.alias))
            })?;
            let body = json!({
                "id": alias.id, "name": self.alias, "type": "network", "address": addresses, "detail": addresses,
                "apply": false,
            });
            let call = Call::new(Method::PATCH, "/api/v2/firewall/alias").json(&body).patient(WHOLE);
            let answer = self.http.send(call).await?;
            if answer.is_success() {
                let told: Envelope = answer.json()?;
                return match told.data.get("name").and_then(Value::as_str) {
                    Some(name) if name == self.alias => Ok(Ok(())),
                    name => Err(self.unusable(format!(
                        "a write meant for the alias `{}` was answered for {name:?}: look at its last configuration change",
                        self.alias
                    ))),
                };
            }
            let told: Envelope = answer.json()?;
            let shifted = answer.status == 404 || !self.stands_at(alias.id).await?;
            if !shifted {
                return Ok(Err(told));
            }
        }
        Err(BouncerError::unreachable(&self.target, "aliases are being changed all the time"))
    }

    /// Whether our alias still has the number `id`.
    async fn stands_at(&mut self, id: u64) -> Result<bool, BouncerError> {
        Ok(self.find().await?.is_some_and(|alias| alias.id == id))
    }

    /// Loads what is configured into the packet filter, and waits until it is there.
    async fn load(&mut self) -> Result<(), BouncerError> {
        let apply = "/api/v2/firewall/apply";
        let call = Call::new(Method::POST, apply).json(&json!({ "async": true })).patient(WHOLE);
        self.http.send(call).await?.expect::<Envelope>()?;
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < LOADING {
            let answer: Envelope = self.http.send(Call::get(apply)).await?.expect()?;
            let pending = answer.data.get("pending_subsystems").and_then(Value::as_array);
            let ours = |subsystem: &Value| subsystem == "aliases" || subsystem == "filter";
            if answer.data["applied"] == true || pending.is_some_and(|pending| !pending.iter().any(ours)) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(BouncerError::unreachable(&self.target, "the filter is not loaded after 30 seconds"))
    }

    /// Cuts the connections of `added`. The block holds without it, so nothing here is an error.
    async fn kill(&mut self, added: &[IpNet]) {
        let hosts = added.iter().filter(|net| net.prefix_len() == net.max_prefix_len()).take(KILLS);
        for net in hosts {
            // what stands behind the address says where it ends: `192.0.2.1` is not `192.0.2.10`
            let source = match net {
                IpNet::V4(net) => format!("{}:", net.addr()),
                IpNet::V6(net) => format!("{}[", net.addr()),
            };
            let path = format!("/api/v2/firewall/states?source__startswith={}&limit=100", encode(&source));
            if let Err(error) = self.http.send(Call::new(Method::DELETE, path)).await {
                warn!(target = self.target, %error, "cannot cut connections of blocked addresses");
                return;
            }
        }
    }
}

/// The texts of an alias for `nets`.
fn addresses(nets: impl IntoIterator<Item = IpNet>) -> Vec<String> {
    let texts: Vec<String> = nets.into_iter().map(with_length).collect();
    if texts.is_empty() { vec![PLACEHOLDER.to_owned()] } else { texts }
}

impl List for Rest {
    fn name(&self) -> &'static str {
        "pfsense"
    }

    fn caps(&self) -> Caps {
        rest_caps()
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        if self.find().await?.is_some() {
            return Ok(());
        }
        let body = json!({
            "name": self.alias, "type": "network", "descr": "managed by cordon", "address": [PLACEHOLDER],
            "detail": ["placeholder"], "apply": true,
        });
        let call = Call::new(Method::POST, "/api/v2/firewall/alias").json(&body).patient(WHOLE);
        self.http.send(call).await?.expect::<Envelope>().map(drop)
    }

    async fn read(&mut self, wanted: &Nets) -> Result<There, BouncerError> {
        let placeholder = parse_all([PLACEHOLDER]);
        let configured = self.find().await?.map(|alias| parse_all(alias.address.iter().map(String::as_str)));
        let Some(configured) = configured else {
            return Err(self.unusable(format!("there is no alias `{}`", self.alias)));
        };
        let live = self.live().await?;
        let mine = |net: &IpNet| wanted.contains(*net) || !placeholder.contains(net);
        // What is wanted must be configured and in force; what is not wanted must be neither.
        let counts = |net: &IpNet| !wanted.contains(*net) || (live.contains(net) && configured.contains(net));
        let ours = live.union(&configured).copied().filter(|net| mine(net) && counts(net)).collect();
        Ok(There { ours, others: BTreeSet::new() })
    }

    async fn write(&mut self, edits: &Edits, all: &Nets) -> Result<Written, BouncerError> {
        let mut written = Written::default();
        let mut nets: Vec<IpNet> = all.sorted();
        if let Err(told) = self.set(&addresses(nets.iter().copied())).await? {
            // which one it is shows only one by one; what was there before was taken before
            let mut refused = HashSet::new();
            for net in &edits.add {
                let body = json!({
                    "name": "cordon_dry_run", "type": "network", "address": [with_length(*net)],
                    "detail": [with_length(*net)], "dry_run": true,
                });
                let answer = self.http.send(Call::new(Method::POST, "/api/v2/firewall/alias").json(&body)).await?;
                if !answer.is_success() {
                    let why: Envelope = answer.json()?;
                    refused.insert(*net);
                    written.refused.push((*net, format!("{}: {}", why.response_id, why.message)));
                }
            }
            if refused.is_empty() {
                return Err(self.unusable(format!("{}: {}", told.response_id, told.message)));
            }
            nets.retain(|net| !refused.contains(net));
            if let Err(told) = self.set(&addresses(nets)).await? {
                return Err(self.unusable(format!("{}: {}", told.response_id, told.message)));
            }
        }
        self.load().await?;
        if self.kill_states {
            self.kill(&edits.add).await;
        }
        Ok(written)
    }

    /// The alias stays, because a rule uses it; it is emptied.
    async fn remove(&mut self) -> Result<(), BouncerError> {
        if self.find().await?.is_none() {
            return Ok(());
        }
        match self.set(&addresses([])).await? {
            Ok(()) => self.load().await,
            Err(told) => Err(self.unusable(format!("{}: {}", told.response_id, told.message))),
        }
    }
}

/// What an alias can do.
pub(crate) fn rest_caps() -> Caps {
    Caps {
        max_entries: MOST,
        batch: MOST,
        window: Duration::from_secs(5),
        pause: Duration::from_secs(10),
        look: Duration::from_mins(1),
        ..Caps::REMOTE
    }
}
