//! The running process, reached over the socket in its state folder: who may open it may command it.

use std::fmt::{Display, Write};

use anyhow::{Context, bail};
use api::client::{Client, ClientError, Credentials, Endpoint, Method, NOTHING};
use api::server::service::{Author, Origin};
use api::store::sqlite;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::args::Global;
use crate::backup::give_to_owner;
use crate::config::Config;

/// A process that was running a moment ago.
pub(crate) struct Remote {
    client: Client,
    runtime: Runtime,
}

impl Remote {
    /// The process that keeps the configured state folder.
    pub(crate) fn connect(global: &Global) -> anyhow::Result<Self> {
        let socket = Config::load(global)?.socket();
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => bail!(
                "no permission to command cordon through `{}`\nhint: run this as root or as the user cordon runs as",
                socket.display()
            ),
            Err(_) => bail!(
                "cordon is not running: nobody answers at `{}`\n\
                 hint: start it with `cordon run`, or name its state folder with --state",
                socket.display()
            ),
        }
        let client = Client::new(Endpoint::Socket(socket), Credentials::Local)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { client, runtime: runtime.context("cannot start")? })
    }

    /// Asks for what is at `route`, as far as `query` says.
    pub(crate) fn get<T: DeserializeOwned>(&self, route: &str, query: &Query) -> anyhow::Result<T> {
        self.send(Method::GET, route, query, NOTHING)
    }

    /// Asks for the list at `route`; an empty one may be told as null.
    pub(crate) fn list<T: DeserializeOwned>(&self, route: &str, query: &Query) -> anyhow::Result<Vec<T>> {
        Ok(self.get::<Option<Vec<T>>>(route, query)?.unwrap_or_default())
    }

    /// Hands `body` to `route`.
    pub(crate) fn post<T: DeserializeOwned>(&self, route: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.send(Method::POST, route, &Query::new(), Some(body))
    }

    /// Deletes what is at `route`, as far as `body` says.
    pub(crate) fn delete<T: DeserializeOwned>(&self, route: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.send(Method::DELETE, route, &Query::new(), Some(body))
    }

    /// Deletes those at `route` that `query` wants; how many there were.
    pub(crate) fn delete_all(&self, route: &str, query: &Query) -> anyhow::Result<u64> {
        let deleted: api::wire::Deleted = self.send(Method::DELETE, route, query, NOTHING)?;
        deleted.count.parse().context("cordon answered something unexpected")
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        query: &Query,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let filters: Vec<(&str, &str)> = query.0.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match self.runtime.block_on(self.client.send(method, route, &filters, body)) {
            Ok(answer) => Ok(answer),
            // the sentence is complete without saying that an API said it
            Err(ClientError::Api { message, .. }) => bail!(message),
            Err(error) => Err(error.into()),
        }
    }
}

/// Puts what was done beside the API into the audit trail: through the running process, or else with this one's own hand. Says
/// in the log if neither can be; where no database is, there is no trail either.
pub(crate) fn note(global: &Global, action: &'static str, subject: &str) {
    let body = serde_json::json!({ "action": action, "subject": subject });
    let told = Remote::connect(global).and_then(|remote| remote.post::<serde_json::Value>("v1/audit", &body));
    let Err(error) = told else { return };
    if let Err(other) = note_alone(global, action, subject) {
        tracing::warn!(%error, %other, action, "this is not in the audit trail");
    }
}

fn note_alone(global: &Global, action: &'static str, subject: &str) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let database = config.database();
    if !database.exists() {
        return Ok(());
    }
    let name = format!("uid {}", rustix::process::getuid().as_raw());
    let author = Author { name, from: Origin::Inside, proof: "none" };
    sqlite::note(&database, &author.did(action, subject, jiff::Timestamp::now()))?;
    give_to_owner(&config.state);
    Ok(())
}

/// Names and values that narrow a question.
#[derive(Default)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds `name=value`.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Display) -> &mut Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// Adds `name=value` if there is a value.
    pub(crate) fn maybe(&mut self, name: &'static str, value: Option<impl Display>) -> &mut Self {
        if let Some(value) = value {
            self.add(name, value);
        }
        self
    }
}

/// `text` as one segment of a route.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // writing to a String cannot fail
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        for (text, encoded) in
            [("fw-1.a_b~c", "fw-1.a_b~c"), ("2001:db8::/32", "2001%3Adb8%3A%3A%2F32"), ("é ", "%C3%A9%20")]
        {
            assert_eq!(encode(text), encoded);
        }
    }
}
