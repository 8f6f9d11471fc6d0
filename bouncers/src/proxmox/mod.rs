//! Proxmox VE: an ipset of the cluster and the rule that drops what is in it.
//!
//! Every entry is a call that takes the cluster's lock and rewrites one file on all nodes, so this is for the few that
//! people want to see there; the hosts themselves are better served by nftables. Only entries that carry our mark are
//! ours, and neither `blacklist` nor `management` is ever touched.

use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use model::allowlist::display_net;
use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Caps;
use crate::error::BouncerError;
use crate::remote::http::{Call, Endpoint, Http, WHOLE, encode};
use crate::remote::list::{List, Written};
use crate::remote::nets::{Edits, Nets, There};
use crate::remote::secret::Secret;

/// Calls in one write.
const BATCH: usize = 20;
/// As many entries are sensible; every call writes them all.
const MOST: usize = 2000;
/// What the comments of our entries begin with.
const MARK: &str = "cordon";
/// Sets with a meaning of their own.
const RESERVED: [&str; 2] = ["blacklist", "management"];

/// How the cluster is reached, and which set is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Options {
    /// Its hosts: when one does not answer, the next is asked.
    pub endpoint: Endpoint,
    /// The API token: `USER@REALM!TOKENID=UUID`.
    pub token: Secret,
    /// Name of the set.
    pub set: String,
    /// Whether a rule of the cluster drops what is in the set. Without it the set is for rules of the operator's own.
    pub rule: bool,
    /// Writes in a second at the most.
    pub writes_per_second: u32,
}

/// One set of one cluster.
#[derive(Debug)]
pub struct Proxmox {
    target: String,
    http: Http,
    set: String,
    rule: bool,
    spacing: Duration,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Set {
    name: String,
}

#[derive(Deserialize)]
struct Entry {
    cidr: String,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    action: String,
    #[serde(default)]
    source: String,
    #[serde(default, rename = "type")]
    direction: String,
    #[serde(default)]
    enable: Option<Value>,
}

/// Whether `name` can be that of a set of ours.
pub(crate) fn is_set(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (2..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(good)
        && !RESERVED.contains(&name)
}

impl Proxmox {
    /// Gets ready for the cluster; asks nothing yet.
    pub fn open(target: &str, options: &Options) -> Result<Self, BouncerError> {
        let mut http = Http::open(target, &options.endpoint)?;
        let token = options.token.read()?;
        http.set_secret(AUTHORIZATION, &format!("PVEAPIToken={}", token.expose_secret()))?;
        let spacing = Duration::from_secs(1) / options.writes_per_second.max(1);
        Ok(Self { target: target.to_owned(), http, set: options.set.clone(), rule: options.rule, spacing })
    }

    fn path(&self) -> String {
        format!("/api2/json/cluster/firewall/ipset/{}", encode(&self.set))
    }

    /// Whether the rule that drops what is in the set is there and counts.
    async fn rule(&mut self) -> Result<Option<bool>, BouncerError> {
        let answer = self.http.send(Call::get("/api2/json/cluster/firewall/rules")).await?;
        let Data::<Vec<Rule>> { data } = answer.expect()?;
        let sources = [format!("+dc/{}", self.set), format!("+{}", self.set)];
        let ours = |rule: &&Rule| rule.direction == "in" && rule.action == "DROP" && sources.contains(&rule.source);
        let counts =
            |rule: &Rule| matches!(&rule.enable, Some(enable) if *enable == 1 || *enable == "1" || *enable == true);
        let mut found = data.iter().filter(ours).map(counts);
        Ok(found.next().map(|first| first || found.any(|counts| counts)))
    }

    /// What is in the set, whether or not a rule uses it.
    async fn entries(&mut self) -> Result<There, BouncerError> {
        let answer = self.http.send(Call::get(self.path())).await?;
        if !answer.is_success() {
            let reason = format!("there is no set `{}`: {}", self.set, answer.says());
            return Err(BouncerError::unusable(&self.target, reason));
        }
        let Data::<Vec<Entry>> { data } = answer.json()?;
        let mut there = There::default();
        for entry in &data {
            let Ok(net) = model::scope::parse_net(&entry.cidr) else { continue };
            let ours = entry.comment == MARK || entry.comment.starts_with("cordon until=");
            // somebody's exception (`nomatch`) is his, too: what he lets through is not put in against him
            if ours {
                there.ours.insert(net)
            } else {
                there.others.insert(net)
            };
        }
        Ok(there)
    }

    async fn post(&mut self, path: String, fields: &[(&str, &str)]) -> Result<(), BouncerError> {
        let call = Call::new(Method::POST, path).form(fields).patient(WHOLE);
        self.http.send(call).await?.expect::<Value>().map(drop)
    }

    async fn add(&mut self, net: IpNet, until: Option<Timestamp>) -> Result<Option<String>, BouncerError> {
        let comment = until.filter(|until| *until < Timestamp::MAX).map(|until| {
            let second = Timestamp::from_second(until.as_second()).unwrap_or(until);
            format!("{MARK} until={second}")
        });
        let fields = [("cidr", &*display_net(net)), ("comment", comment.as_deref().unwrap_or(MARK))];
        let answer = self.http.send(Call::new(Method::POST, self.path()).form(&fields).patient(WHOLE)).await?;
        if answer.is_success() {
            return Ok(None);
        }
        let says = answer.says();
        Ok((!says.contains("already exists")).then_some(says))
    }

    async fn delete(&mut self, net: IpNet) -> Result<(), BouncerError> {
        let path = format!("{}/{}", self.path(), encode(&display_net(net)));
        let call = Call::new(Method::DELETE, path).patient(WHOLE);
        self.http.send(call).await?.expect::<Value>().map(drop)
    }
}

impl List for Proxmox {
    fn name(&self) -> &'static str {
        "proxmox"
    }

    fn caps(&self) -> Caps {
        caps()
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        let answer = self.http.send(Call::get("/api2/json/cluster/firewall/ipset")).await?;
        let Data::<Vec<Set>> { data } = answer.expect()?;
        if !data.iter().any(|set| set.name == self.set) {
            let set = self.set.clone();
            self.post(
                "/api2/json/cluster/firewall/ipset".to_owned(),
                &[("name", &set), ("comment", "managed by cordon")],
            )
            .await?;
        }
        if self.rule && self.rule().await?.is_none() {
            let source = format!("+dc/{}", self.set);
            let fields = [
                ("type", "in"),
                ("action", "DROP"),
                ("source", &*source),
                ("enable", "1"),
                ("pos", "0"),
                ("comment", "managed by cordon"),
            ];
            self.post("/api2/json/cluster/firewall/rules".to_owned(), &fields).await?;
        }
        Ok(())
    }

    async fn read(&mut self, _: &Nets) -> Result<There, BouncerError> {
        let there = self.entries().await?;
        if !self.rule {
            return Ok(there);
        }
        match self.rule().await? {
            Some(true) => Ok(there),
            Some(false) => {
                let reason = format!("the rule for `+dc/{}` is switched off, so nothing is blocked", self.set);
                Err(BouncerError::unusable(&self.target, reason))
            }
            // without its rule the set blocks nobody: all of it is missing until the rule is made again
            None => Ok(There::default()),
        }
    }

    async fn write(&mut self, edits: &Edits, all: &Nets) -> Result<Written, BouncerError> {
        let mut written = Written::default();
        let mut left = BATCH;
        for (at, net) in edits.add.iter().take(left).enumerate() {
            if at > 0 {
                tokio::time::sleep(self.spacing).await;
            }
            written.refused.extend(self.add(*net, all.until(*net)).await?.map(|reason| (*net, reason)));
        }
        left -= edits.add.len().min(left);
        for (at, net) in edits.remove.iter().take(left).enumerate() {
            if at > 0 || !edits.add.is_empty() {
                tokio::time::sleep(self.spacing).await;
            }
            self.delete(*net).await?;
        }
        written.more = edits.add.len() + edits.remove.len() > BATCH;
        Ok(written)
    }

    /// Our entries go; the set and its rule stay, because rules of others may name the set.
    async fn remove(&mut self) -> Result<(), BouncerError> {
        let there = self.entries().await?;
        for net in there.ours {
            self.delete(net).await?;
            tokio::time::sleep(self.spacing).await;
        }
        Ok(())
    }
}

/// What a set can do.
pub(crate) fn caps() -> Caps {
    Caps { max_entries: MOST, batch: BATCH, pause: Duration::from_millis(500), ..Caps::REMOTE }
}
