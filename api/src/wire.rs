//! JSON bodies, as the field's clients send and expect them (spec: local-api 7), and ours beside them.
//!
//! Pure. An alert travels as [`model::Alert`]; the rest is here.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use model::time::EventTime;
use model::{Alert, Decision, Scope, duration};

/// Longest key of alert context in bytes.
const META_KEY: usize = 255;
/// Longest value of alert context in bytes.
const META_VALUE: usize = 4095;
/// Longest metadata of an event, as JSON, in bytes.
const EVENT_META: usize = 8191;

/// An error, in most answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What is wrong.
    pub message: String,
}

/// A decision in `/v1/decisions` and in the polling stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveDecision {
    /// Time left in whole seconds, as Go prints it; negative when it is over.
    pub duration: String,
    /// Number.
    #[serde(default)]
    pub id: i64,
    /// Who decided.
    pub origin: String,
    /// The scenario or reason.
    pub scenario: String,
    /// What kind of thing `value` names.
    pub scope: String,
    /// What is done.
    #[serde(rename = "type")]
    pub remediation: String,
    /// Identity across servers; only in the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The address, prefix, name.
    pub value: String,
}

impl LiveDecision {
    /// `decision` as it is seen at `now`.
    pub fn new(decision: &Decision, now: Timestamp) -> Self {
        Self {
            duration: duration::time_left(decision.until, now),
            id: decision.id,
            origin: decision.origin.to_string(),
            scenario: decision.scenario.to_string(),
            scope: decision.scope.to_string(),
            remediation: decision.remediation.to_string(),
            uuid: (!decision.uuid.is_empty()).then(|| decision.uuid.clone()),
            value: decision.value.to_string(),
        }
    }

    /// The decision that a reader at `now` makes of it. A duration that makes no sense counts as four hours, as
    /// elsewhere in the field.
    pub fn read(self, now: Timestamp) -> Decision {
        let left = duration::parse_with_days(&self.duration).unwrap_or(SignedDuration::from_hours(4));
        Decision {
            id: self.id,
            uuid: self.uuid.unwrap_or_default(),
            origin: self.origin.into(),
            remediation: self.remediation.into(),
            scope: Scope::new(&self.scope),
            value: self.value.into(),
            scenario: self.scenario.into(),
            created_at: now,
            until: now.saturating_add(left).unwrap_or(Timestamp::MAX),
            simulated: false,
            alert_id: 0,
        }
    }
}

/// The polling stream's answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamBody {
    /// What holds.
    #[serde(default)]
    pub new: Option<Vec<LiveDecision>>,
    /// What is over.
    #[serde(default)]
    pub deleted: Option<Vec<LiveDecision>>,
}

/// A decision in the event stream: exact instants beside the customary fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDecision {
    /// Number.
    pub id: i64,
    /// Identity across servers.
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
    /// The scenario or reason.
    pub scenario: String,
    /// The alert it belongs to.
    pub alert_id: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub until: Timestamp,
}

impl From<&Decision> for EventDecision {
    fn from(decision: &Decision) -> Self {
        Self {
            id: decision.id,
            uuid: decision.uuid.clone(),
            origin: decision.origin.to_string(),
            remediation: decision.remediation.to_string(),
            scope: decision.scope.to_string(),
            value: decision.value.to_string(),
            scenario: decision.scenario.to_string(),
            alert_id: decision.alert_id,
            created_at: decision.created_at,
            until: decision.until,
        }
    }
}

impl EventDecision {
    /// The decision, its instants moved by `shift` to the reader's clock.
    pub fn read(self, shift: SignedDuration) -> Decision {
        let moved = |at: Timestamp| at.saturating_add(shift).unwrap_or(at);
        Decision {
            id: self.id,
            uuid: self.uuid,
            origin: self.origin.into(),
            remediation: self.remediation.into(),
            scope: Scope::new(&self.scope),
            value: self.value.into(),
            scenario: self.scenario.into(),
            created_at: moved(self.created_at),
            until: moved(self.until),
            simulated: false,
            alert_id: self.alert_id,
        }
    }
}

/// Names of the events in `/v1/decisions/events`.
pub mod event {
    /// A snapshot begins: forget what you have. Its data is [`super::Reset`].
    pub const RESET: &str = "reset";
    /// A part of the snapshot: a list of [`super::EventDecision`].
    pub const DECISIONS: &str = "decisions";
    /// The snapshot is complete. Its `id` is the place in the sequence.
    pub const READY: &str = "ready";
    /// What changed: [`super::Changes`]. The last one of a batch has an `id`.
    pub const DELTA: &str = "delta";
}

/// How many decisions one event carries at most.
pub const EVENT_CHUNK: usize = 1000;

/// The beginning of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// The server's clock.
    pub now: Timestamp,
    /// How many decisions follow.
    pub count: usize,
}

/// A delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The server's clock.
    pub now: Timestamp,
    /// What begins.
    pub new: Vec<EventDecision>,
    /// What ends before its time.
    pub deleted: Vec<EventDecision>,
}

/// A login.
#[derive(Deserialize)]
pub struct LoginBody {
    /// Name of the machine.
    #[serde(default)]
    pub machine_id: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<secrecy::SecretString>,
    /// Its scenarios.
    #[serde(default)]
    pub scenarios: Option<Vec<String>>,
}

/// A registration.
#[derive(Deserialize)]
pub struct RegisterBody {
    /// Name of the machine.
    #[serde(default)]
    pub machine_id: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<secrecy::SecretString>,
    /// What lets it in without being validated.
    #[serde(default)]
    pub registration_token: Option<secrecy::SecretString>,
}

/// A token.
#[derive(Serialize, Deserialize)]
pub struct TokenBody {
    /// 200.
    pub code: u16,
    /// When it ends, RFC 3339.
    pub expire: String,
    /// The token.
    pub token: String,
}

/// How many were deleted; a text, as the field has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The number.
    #[serde(rename = "nbDeleted")]
    pub count: String,
}

/// An allowlist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowlistBody {
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was made.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
    /// Its items.
    pub items: Vec<AllowItemBody>,
}

/// An item of an allowlist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowItemBody {
    /// Address or prefix.
    pub value: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was added.
    pub created_at: String,
    /// When it stops counting; the year 1 is never.
    pub expiration: String,
}

/// The date that means never.
pub const NEVER: &str = "0001-01-01T00:00:00.000Z";

/// Whether an address is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckBody {
    /// Whether it is; absent when it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allowlisted: bool,
    /// By what.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Addresses to be checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Targets {
    /// The addresses.
    #[serde(default)]
    pub targets: Vec<String>,
}

/// Which of the addresses are allowed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckResults {
    /// One for each that is.
    pub results: Vec<CheckResult>,
}

/// An address that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The address.
    pub target: String,
    /// By what.
    pub allowlists: Vec<String>,
}

/// RFC 3339 in whole seconds.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 in milliseconds.
pub fn millis(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The instant that an RFC 3339 text tells.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    EventTime::parse_rfc3339(text).map(|time| time.instant)
}

/// Writes the scopes of an alert as they are customarily written.
pub fn normalise(alert: &mut Alert) {
    let bodies = alert.decisions.iter_mut().flatten().map(|body| &mut body.scope);
    for scope in std::iter::once(&mut alert.source.scope).chain(bodies) {
        *scope = Scope::new(scope).to_string();
    }
}

/// Cuts the texts of an alert to what is stored (spec: local-api 8).
pub fn limit(alert: &mut Alert) {
    for meta in &mut alert.meta {
        cut(&mut meta.key, META_KEY);
        cut(&mut meta.value, META_VALUE);
    }
    for event in &mut alert.events {
        let mut limit = 2048;
        while limit > 0 && meta_len(event) > EVENT_META {
            for meta in event.meta.iter_mut().filter(|meta| meta.value.len() > 2 * limit) {
                cut(&mut meta.value, limit);
                meta.value.push_str("<stripped>");
            }
            limit /= 2;
        }
        if meta_len(event) > EVENT_META {
            event.meta.clear();
        }
        if let Some(evidence) = &mut event.cordon {
            cut(&mut evidence.raw, 1024);
        }
    }
}

fn meta_len(event: &model::alert::AlertEvent) -> usize {
    let text = serde_json::to_string(&event.meta);
    text.map_or(0, |text| text.len())
}

fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
    }
}

/// The fields that an alert must have, even if they are empty.
pub(crate) const REQUIRED: &[&str] = &[
    "capacity",
    "events",
    "events_count",
    "leakspeed",
    "message",
    "scenario",
    "scenario_hash",
    "scenario_version",
    "simulated",
    "source",
    "start_at",
    "stop_at",
];

/// The fields that a decision must have.
pub(crate) const REQUIRED_IN_DECISION: &[&str] = &["duration", "origin", "scenario", "scope", "type", "value"];

/// What is missing in alerts that could not be read, in the field's form; `None` if nothing is.
pub fn missing_fields(alerts: &serde_json::Value) -> Option<String> {
    let mut missing = Vec::new();
    let mut look = |place: String, value: &serde_json::Value, required: &[&str]| {
        let absent = required.iter().filter(|key| value.get(key).is_none_or(serde_json::Value::is_null));
        missing.extend(absent.map(|key| format!("{place}{key} in body is required")));
    };
    for (index, alert) in alerts.as_array()?.iter().enumerate() {
        look(format!("{index}."), alert, REQUIRED);
        if let Some(source) = alert.get("source").filter(|source| source.is_object()) {
            look(format!("{index}.source."), source, &["scope", "value"]);
        }
        for (at, decision) in alert.get("decisions").and_then(|list| list.as_array()).into_iter().flatten().enumerate()
        {
            look(format!("{index}.decisions.{at}."), decision, REQUIRED_IN_DECISION);
        }
    }
    (!missing.is_empty()).then(|| format!("validation failure list:\n{}", missing.join("\n")))
}

#[cfg(test)]
mod tests {
    use model::alert::{AlertEvent, Meta};

    use super::*;

    #[test]
    fn oversized_texts_are_cut() {
        let meta = |value: String| Meta { key: "k".repeat(300), value };
        let mut alert = Alert {
            meta: vec![meta("v".repeat(5000))],
            events: vec![
                AlertEvent { meta: vec![meta("ä".repeat(4000)), meta("short".into())], ..AlertEvent::default() },
                AlertEvent { meta: vec![meta("x".into()); 100], ..AlertEvent::default() },
            ],
            ..Alert::default()
        };
        limit(&mut alert);
        assert_eq!((alert.meta[0].key.len(), alert.meta[0].value.len()), (META_KEY, META_VALUE));
        assert!(alert.events[0].meta[0].value.ends_with("<stripped>") && alert.events[0].meta[1].value == "short");
        assert!(alert.events[1].meta.is_empty(), "what cannot be cut is left out");
    }

    #[test]
    fn missing_fields_are_listed_by_place() {
        let alerts = serde_json::json!([
            {"capacity": 1, "events": [], "events_count": 1, "leakspeed": "", "message": "", "scenario": "", "scenario_hash": "",
             "scenario_version": "", "simulated": false, "start_at": "", "stop_at": "", "source": {"scope": "Ip"},
             "decisions": [{"duration": "1h", "origin": "cscli", "scope": "Ip", "type": "ban", "value": "192.0.2.4"}]},
        ]);
        let list = missing_fields(&alerts).expect("something is missing");
        assert_eq!(
            list,
            "validation failure list:\n0.source.value in body is required\n0.decisions.0.scenario in body is required"
        );
    }
}
