//! What happened: the record of one overflow or one manual action.
//!
//! The JSON shape is the field's wire format (spec: scenarios 11, local-api 7.4), so that an alert
//! can be handed to any server of the field as it is. What only Cordon knows lives under `cordon`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One alert.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Number given by the server.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub id: i64,
    /// Identity across servers. From Cordon's own agent it derives from scenario, key and place in the
    /// log, so that the server recognises what it already has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// Which machine sent it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// When the server stored it, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_at: String,
    /// `crowdsec`, `waf`, `cscli`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The scenario's name.
    pub scenario: String,
    /// SHA-256 of the scenario's file, empty for local ones.
    pub scenario_hash: String,
    /// Version of the scenario, empty for local ones.
    pub scenario_version: String,
    /// One sentence for people.
    pub message: String,
    /// How many events were poured.
    pub events_count: i32,
    /// First event, RFC 3339.
    pub start_at: String,
    /// The overflow, RFC 3339.
    pub stop_at: String,
    /// The scenario's capacity.
    pub capacity: i32,
    /// The scenario's leakspeed, as Go prints it.
    pub leakspeed: String,
    /// Recorded and shown, but never enforced.
    pub simulated: bool,
    /// Whether the scenario asks for a decision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remediation: bool,
    /// Always null from agents.
    #[serde(default)]
    pub labels: Option<Vec<String>>,
    /// Who did it.
    pub source: Source,
    /// Alert context: values are JSON lists of text.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub meta: Vec<Meta>,
    /// The events that the bucket held.
    #[serde(deserialize_with = "null_is_empty")]
    pub events: Vec<AlertEvent>,
    /// Decisions that come with the alert; agents send null and leave them to the profiles.
    #[serde(default)]
    pub decisions: Option<Vec<DecisionBody>>,
    /// How the bucket filled; only from Cordon's agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<AlertEvidence>,
}

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `Ip`, `Range`, ...
    pub scope: String,
    /// The address, prefix, name.
    pub value: String,
    /// The address, as the log writes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// The prefix around it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub range: String,
    /// Name of the autonomous system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub as_name: String,
    /// Number of the autonomous system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub as_number: String,
    /// ISO code of the country.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cn: String,
    /// Degrees north.
    #[serde(default, skip_serializing_if = "is_zero_f32")]
    pub latitude: f32,
    /// Degrees east.
    #[serde(default, skip_serializing_if = "is_zero_f32")]
    pub longitude: f32,
}

impl Source {
    /// The AS number unless it is `0`, then a blank and the name if there is one.
    pub fn as_number_name(&self) -> String {
        let mut text = String::new();
        if self.as_number != "0" {
            text.push_str(&self.as_number);
        }
        if !self.as_name.is_empty() {
            text.push(' ');
            text.push_str(&self.as_name);
        }
        text
    }
}

/// One key and value of an event or of the alert's context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// One event of an alert.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AlertEvent {
    /// `evt.Meta`, sorted by key.
    #[serde(deserialize_with = "null_is_empty")]
    pub meta: Vec<Meta>,
    /// When, RFC 3339 from agents.
    pub timestamp: String,
    /// Where the line stands; only from Cordon's agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<EventEvidence>,
}

/// Where an event came from: what `cordon why` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEvidence {
    /// File, unit or peer.
    pub source: String,
    /// Byte offset of the line's first byte, or sequence number for streams.
    pub offset: u64,
    /// The line, cut to 1 KiB.
    pub raw: String,
    /// The parsers that succeeded on it, in order.
    pub parsers: Vec<String>,
}

/// How the bucket came to overflow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertEvidence {
    /// What the bucket was keyed by.
    pub key: String,
    /// `leaky`, `trigger`, ...
    pub bucket: String,
    /// Which allow checks were made, and what they said.
    pub allow_checks: Vec<String>,
    /// Whether the events came by a way on which senders can be invented; then the alert asks for no remediation.
    #[serde(default, skip_serializing_if = "is_false")]
    pub spoofable: bool,
}

/// A decision as it travels with an alert or in answers (spec: local-api 7.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionBody {
    /// Number given by the server.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub id: i64,
    /// Identity across servers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// Who decided.
    pub origin: String,
    /// What is done.
    #[serde(rename = "type")]
    pub remediation: String,
    /// What kind of thing `value` names.
    pub scope: String,
    /// The address, prefix, name.
    pub value: String,
    /// Time it lasts (in requests) or has left (in answers), as Go prints it.
    pub duration: String,
    /// The scenario or reason.
    pub scenario: String,
    /// Recorded and shown, but never enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<bool>,
    /// Accepted and ignored.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub until: String,
}

/// What the buckets hand on: one overflow, before it becomes one alert per source (spec: scenarios 10.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuntimeAlert {
    /// The bucket's key.
    pub mapkey: String,
    /// Set by postoverflow whitelists.
    pub whitelisted: bool,
    /// Why, if it is.
    pub whitelist_reason: String,
    /// Whether it re-enters the scenarios.
    pub reprocess: bool,
    /// Sources by value. A parser may rewrite a source; the key stays.
    pub sources: BTreeMap<String, Source>,
    /// The alert; its `source` is the first of `sources`.
    pub alert: Alert,
}

impl Alert {
    /// Whether it rests on events whose senders can be invented.
    pub fn spoofable(&self) -> bool {
        self.cordon.as_ref().is_some_and(|evidence| evidence.spoofable)
    }
}

impl RuntimeAlert {
    /// Lets `change` rewrite the alert. Its source is one of `sources`, so what changes in it changes there too, under the key
    /// that it had.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.alert.source.clone();
        change(self);
        if self.alert.source != before
            && let Some(source) = self.sources.values_mut().find(|source| **source == before)
        {
            source.clone_from(&self.alert.source);
        }
    }

    /// The first text under `key` over the meta of the alert's events that is not empty, else `""`.
    pub fn meta(&self, key: &str) -> &str {
        let mut all = self.alert.events.iter().flat_map(|event| &event.meta);
        all.find(|meta| meta.key == key && !meta.value.is_empty()).map_or("", |meta| &meta.value)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero_f32(value: &f32) -> bool {
    *value == 0.0
}

/// Go clients write empty lists as `null`.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}
