//! What goes over the wire to a controller, as far as it is used.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::plan::{Lock, Seen};

/// Every answer.
#[derive(Debug, Deserialize)]
pub struct Envelope<T> {
    /// What was asked for.
    pub data: T,
    /// About it.
    #[serde(default)]
    pub meta: Meta,
}

/// About an answer.
#[derive(Debug, Default, Deserialize)]
pub struct Meta {
    /// Of a list.
    pub pagination: Option<Pagination>,
}

/// Where a page is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pagination {
    /// Length of the whole list.
    pub total_count: u64,
}

/// An answer that says no.
#[derive(Debug, Deserialize)]
pub struct ErrorEnvelope {
    /// Why.
    pub error: ErrorBody,
}

/// Why a request is refused.
#[derive(Debug, Default, Deserialize)]
pub struct ErrorBody {
    /// `NOT_FOUND`, `UNAUTHORIZED`, ...
    #[serde(default)]
    pub code: String,
    /// In words.
    #[serde(default)]
    pub message: String,
}

/// A reference to something.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EntityRef {
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// An identity.
#[allow(clippy::struct_excessive_bools, reason = "the controller has them so")]
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The id that another directory gave it.
    pub external_id: Option<String>,
    /// Whether it may do everything.
    #[serde(default)]
    pub is_admin: bool,
    /// Whether it is the first administrator.
    #[serde(default)]
    pub is_default_admin: bool,
    /// `Default`, `Router`, ...
    #[serde(default)]
    pub type_id: String,
    /// The same with a name.
    #[serde(default, rename = "type")]
    pub kind: EntityRef,
    /// Whether it is disabled now.
    pub disabled: bool,
    /// Since when it is, or was until its time was over.
    pub disabled_at: Option<Timestamp>,
    /// Until when.
    pub disabled_until: Option<Timestamp>,
    /// Whether it has a session of the older kind.
    #[serde(default)]
    pub has_api_session: bool,
    /// Whether it is connected to a router.
    #[serde(default)]
    pub has_edge_router_connection: bool,
    /// What it may do on the management API (2.0 and later).
    #[serde(default)]
    pub permissions: Option<Vec<String>>,
}

impl Identity {
    /// How it looks to the plan. A disable of unknown begin is somebody's: it is like none of ours.
    pub fn seen(&self) -> Seen {
        let lock = |at| Lock { at, until: self.disabled_until };
        match (self.disabled, self.disabled_at) {
            (true, at) => Seen::Locked(lock(at.unwrap_or(Timestamp::MIN))),
            (false, Some(at)) => Seen::Lapsed(lock(at)),
            (false, None) => Seen::Clear,
        }
    }

    /// Whether a router identifies itself by it.
    pub fn is_router(&self) -> bool {
        [&self.type_id, &self.kind.id, &self.kind.name].iter().any(|kind| kind.eq_ignore_ascii_case("router"))
    }
}

/// A session of the older kind. Its token is left out: nobody here needs it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiSession {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub identity_id: String,
    /// From where it was opened.
    #[serde(default)]
    pub ip_address: String,
}

/// What a login answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSession {
    /// What shows later requests to be ours.
    pub token: String,
    /// What else must be shown before the session counts, for example a second factor.
    #[serde(default)]
    pub auth_queries: Vec<serde::de::IgnoredAny>,
}

/// A circuit.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Circuit {
    /// Its id.
    pub id: String,
    /// A session, an identity or a router, depending on how it was made.
    pub client_id: Option<String>,
    /// `clientId` here is the identity.
    pub tags: Option<BTreeMap<String, serde_json::Value>>,
}

impl Circuit {
    /// Whether `identity` dialled it.
    pub fn is_of(&self, identity: &str) -> bool {
        self.dialler() == Some(identity)
    }

    /// The identity that dialled it, where it is told.
    pub fn dialler(&self) -> Option<&str> {
        self.tags.as_ref()?.get("clientId")?.as_str()
    }
}

/// Where a service is hosted.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminator {
    /// Its id.
    pub id: String,
    /// The identity that hosts it.
    #[serde(default)]
    pub host_id: String,
}

/// One of several controllers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerDetail {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Whether the one that was asked reaches it.
    #[serde(default)]
    pub is_online: bool,
    /// Where each of its APIs is.
    pub api_addresses: Option<BTreeMap<String, Vec<ApiAddress>>>,
}

/// Where an API is.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiAddress {
    /// Its URL.
    #[serde(default)]
    pub url: String,
}

/// What a controller says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Version {
    /// `v1.6.3`.
    #[serde(default)]
    pub version: String,
}

/// An edge router.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeRouter {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its host, where it is told.
    pub hostname: Option<String>,
    /// Whether it is connected.
    #[serde(default)]
    pub is_online: bool,
    /// Where clients reach it, by protocol.
    pub supported_protocols: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_looks_as_it_is() {
        // (what follows the id, how it looks)
        let cases = [
            (r#""disabled":false"#, "Clear"),
            (r#""disabled":false,"disabledAt":null,"disabledUntil":null"#, "Clear"),
            (
                r#""disabled":false,"disabledAt":"2026-01-01T00:00:00Z""#,
                "Lapsed(Lock { at: 2026-01-01T00:00:00Z, until: None })",
            ),
            (
                r#""disabled":true,"disabledAt":"2026-01-01T00:00:00.123456789Z","disabledUntil":"2026-01-01T01:00:00+01:00""#,
                "Locked(Lock { at: 2026-01-01T00:00:00.123456789Z, until: Some(2026-01-01T00:00:00Z) })",
            ),
        ];
        for (fields, expected) in cases {
            let identity: Identity = serde_json::from_str(&format!(r#"{{"id":"a",{fields}}}"#)).expect("an identity");
            assert_eq!(format!("{:?}", identity.seen()), expected);
        }
    }
}
