//! OPNsense: the table of an alias of type `external`, which it leaves to us alone.
//!
//! Every address is a call of its own, so this is for what changes; long lists belong into a URL table. What is wrong
//! with an address is said in the body of an answer whose status says that all is well.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use model::allowlist::display_net;
use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::Caps;
use crate::error::BouncerError;
use crate::remote::http::{Call, Endpoint, Http, WHOLE, encode};
use crate::remote::list::{List, Written, parse_all};
use crate::remote::nets::{Edits, Nets, There};
use crate::remote::secret::Secret;

/// Calls in one write.
const BATCH: usize = 100;
/// More entries take too long one by one.
const MOST: usize = 5000;

/// How the firewall is reached, and which alias is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Options {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The API key.
    pub key: Secret,
    /// The secret that belongs to it.
    pub secret: Secret,
    /// Name of the alias.
    pub alias: String,
}

/// One alias of one firewall.
#[derive(Debug)]
pub struct OpnSense {
    target: String,
    http: Http,
    alias: String,
}

/// A part of a table.
#[derive(Deserialize)]
struct Rows {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    ip: String,
}

impl OpnSense {
    /// Gets ready for the firewall; asks nothing yet.
    pub fn open(target: &str, options: &Options) -> Result<Self, BouncerError> {
        use base64::Engine as _;
        let mut http = Http::open(target, &options.endpoint)?;
        let (key, secret) = (options.key.read()?, options.secret.read()?);
        let both = format!("{}:{}", key.expose_secret(), secret.expose_secret());
        let both = base64::engine::general_purpose::STANDARD.encode(both);
        http.set_secret(AUTHORIZATION, &format!("Basic {both}"))?;
        Ok(Self { target: target.to_owned(), http, alias: options.alias.clone() })
    }

    async fn get(&mut self, path: String) -> Result<Value, BouncerError> {
        self.http.send(Call::get(path)).await?.expect()
    }

    async fn post(&mut self, path: String, body: &Value) -> Result<Value, BouncerError> {
        self.http.send(Call::new(Method::POST, path).json(body)).await?.expect()
    }

    async fn exists(&mut self) -> Result<bool, BouncerError> {
        let path = format!("/api/firewall/alias/get_alias_u_u_i_d/{}", encode(&self.alias));
        // nothing is answered as an empty list
        Ok(self.get(path).await?.get("uuid").and_then(Value::as_str).is_some_and(|uuid| !uuid.is_empty()))
    }

    /// Adds or deletes one prefix: why it is refused, if it is.
    async fn change(&mut self, verb: &str, net: IpNet) -> Result<Option<String>, BouncerError> {
        let path = format!("/api/firewall/alias_util/{verb}/{}", encode(&self.alias));
        let answer = self.post(path, &json!({ "address": display_net(net) })).await?;
        match answer.get("status").and_then(Value::as_str) {
            Some("done") => Ok(None),
            Some("not_an_address") => Ok(Some("it says that this is no address".to_owned())),
            status => Err(BouncerError::unusable(&self.target, format!("it answers {status:?}, expected `done`"))),
        }
    }
}

impl List for OpnSense {
    fn name(&self) -> &'static str {
        "opnsense"
    }

    fn caps(&self) -> Caps {
        caps()
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        if self.exists().await? {
            return Ok(());
        }
        let item = json!({
            "alias": { "enabled": "1", "name": self.alias, "type": "external", "description": "managed by cordon" }
        });
        let answer = self.post("/api/firewall/alias/add_item".to_owned(), &item).await?;
        if answer.get("result").and_then(Value::as_str) != Some("saved") {
            let reason = format!("it does not make the alias `{}`: {answer}", self.alias);
            return Err(BouncerError::unusable(&self.target, reason));
        }
        let call = Call::new(Method::POST, "/api/firewall/alias/reconfigure").json(&json!({})).patient(WHOLE);
        self.http.send(call).await?.expect::<Value>().map(drop)
    }

    async fn read(&mut self, _: &Nets) -> Result<There, BouncerError> {
        let path = format!("/api/firewall/alias_util/list/{}?current=1&rowCount=-1", encode(&self.alias));
        let Rows { total, rows } = self.http.send(Call::get(path)).await?.expect()?;
        if rows.len() < total {
            let reason = format!("it shows {} of {total} entries of the alias `{}`", rows.len(), self.alias);
            return Err(BouncerError::unusable(&self.target, reason));
        }
        let ours = parse_all(rows.iter().map(|row| row.ip.as_str())).into_iter().collect();
        Ok(There { ours, others: BTreeSet::new() })
    }

    async fn write(&mut self, edits: &Edits, _: &Nets) -> Result<Written, BouncerError> {
        let mut written = Written::default();
        let mut steps: Vec<(&str, IpNet)> = edits.add.iter().map(|net| ("add", *net)).collect();
        steps.extend(edits.remove.iter().map(|net| ("delete", *net)));
        written.more = steps.len() > BATCH;
        steps.truncate(BATCH);
        for (verb, net) in steps {
            written.refused.extend(self.change(verb, net).await?.map(|reason| (net, reason)));
        }
        Ok(written)
    }

    async fn remove(&mut self) -> Result<(), BouncerError> {
        let path = format!("/api/firewall/alias_util/flush/{}", encode(&self.alias));
        self.post(path, &json!({})).await.map(drop)
    }
}

/// What an alias can do.
pub(crate) fn caps() -> Caps {
    Caps { max_entries: MOST, batch: BATCH, look: Duration::from_mins(1), ..Caps::REMOTE }
}
