//! Decisions over HTTP: live queries, the polling stream, lifting (spec: local-api 11, 12, 14).

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use ipnet::IpNet;
use jiff::Timestamp;
use uuid::Uuid;

use model::{Decision, Scope, duration};

use super::alerts::{acting, durable, read_contains, read_net};
use super::auth::{BouncerId, Client, MachineId};
use super::error::ApiError;
use super::service::Walk;
use super::stream::Pull;
use super::{App, json, json_text, parameters};
use crate::decisions::{Query, Reach, Row};
use crate::metrics::BouncerLabels;
use crate::wire::Deleted;

/// How much text is sent at a time, in bytes.
const PIECE: usize = 64 << 10;

pub(crate) async fn query(
    State(app): State<Arc<App>>,
    method: Method,
    BouncerId(bouncer): BouncerId,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = parameters(query.as_deref());
    let query = read_query(&parameters, None)?;
    let number = |name: &str| match parameters.iter().rfind(|(known, _)| known == name) {
        None => Ok(0),
        Some((_, value)) => value.parse::<u64>().map_err(|_| ApiError::internal(format!("'{value}' is not a {name}"))),
    };
    let (limit, offset, id_gt) = (number("limit")?, number("offset")?, number("id_gt")?);
    if method == Method::HEAD {
        return Ok(StatusCode::OK.into_response());
    }
    let after = i64::try_from(id_gt).unwrap_or(i64::MAX);
    let mut live = Live {
        walk: app.service.walk(query, after),
        skip: usize::try_from(offset).unwrap_or(usize::MAX),
        left: if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) },
    };
    let first = live.some().await;
    if let Some(bouncer) = bouncer {
        app.service.note_query(&bouncer);
        let metrics = app.service.metrics();
        let found = if first.is_none() { &metrics.decisions_ko } else { &metrics.decisions_ok };
        found.get_or_create(&BouncerLabels { bouncer }).inc();
    }
    let Some(first) = first else { return Ok(json_text("null")) };
    let now = live.walk.now;
    let text = move |rows: &[Row], before| {
        let mut text = Vec::new();
        let mut writer = List::new(&mut text, before, now, false);
        for row in rows {
            writer.row(row);
        }
        text
    };
    let (mut head, mut next) = (text(&first, "["), live.some().await);
    if next.is_none() {
        head.push(b']');
        return Ok(json_text(head));
    }
    let rest = futures_util::stream::unfold(Some((live, next.take())), move |state| async move {
        let (mut live, rows) = state?;
        let mut text = text(&rows?, ",");
        let next = live.some().await;
        if next.is_none() {
            text.push(b']');
        }
        Some((Bytes::from(text), next.is_some().then_some((live, next))))
    });
    let head = futures_util::stream::once(async { Bytes::from(head) });
    Ok(json_text(Body::from_stream(head.chain(rest).map(Ok::<_, Infallible>))))
}

/// The answer to a live query, in pieces.
struct Live {
    walk: Walk,
    skip: usize,
    left: usize,
}

impl Live {
    /// The next rows; `None` when there are no more.
    async fn some(&mut self) -> Option<Vec<Row>> {
        while self.left > 0 {
            let mut rows = self.walk.step()?;
            let skipped = self.skip.min(rows.len());
            rows.drain(..skipped);
            rows.truncate(self.left);
            self.skip -= skipped;
            self.left -= rows.len();
            if !rows.is_empty() {
                return Some(rows);
            }
            // Among a million that are not wanted others must get their turn.
            tokio::task::yield_now().await;
        }
        None
    }
}

pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    method: Method,
    BouncerId(bouncer): BouncerId,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let typed = |body: Body| ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    if method == Method::HEAD {
        return Ok(typed(Body::empty()));
    }
    let parameters = parameters(query.as_deref());
    let Ok(query) = read_query(&parameters, Some("ip,range")) else {
        // The reference has sent the status before it looks at the filters.
        return Ok(typed(r#"{"new": [], "deleted": []}"#.into()));
    };
    let is = |name: &str, wanted: &str| parameters.iter().any(|(known, value)| known == name && value == wanted);
    let pull = Pull { startup: is("startup", "true"), query, duplicates: is("dedup", "false") };
    let name = bouncer.unwrap_or_default();
    let pulled = app.service.pull(&name, pull).await?;
    let service = app.service.clone();
    // What was not sent to the end counts as not pulled: the bouncer will ask for the same again.
    let done = move |reached| service.note_pull(&name, reached);
    let stream = futures_util::stream::unfold(Some((pulled, r#"{"new": ["#, done)), |state| async move {
        let (mut pulled, mut before, done) = state?;
        let now = pulled.reached.at;
        let mut text = Vec::new();
        while text.len() < PIECE {
            let Some(rows) = pulled.step() else {
                // Of an empty list the bracket is still to be written.
                text.extend_from_slice(if before == "," { b"" } else { before.as_bytes() });
                let mut writer = List::new(&mut text, r#"], "deleted": ["#, now, true);
                for decision in &pulled.deleted {
                    writer.decision(decision);
                }
                let before = writer.before;
                text.extend_from_slice(if before == "," { b"" } else { before.as_bytes() });
                text.extend_from_slice(b"]}");
                if pulled.complete {
                    done(pulled.reached);
                }
                return Some((Ok::<_, Infallible>(Bytes::from(text)), None));
            };
            let mut writer = List::new(&mut text, before, now, true);
            for row in &rows {
                writer.row(row);
            }
            before = writer.before;
            if rows.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        Some((Ok(Bytes::from(text)), Some((pulled, before, done))))
    });
    Ok(typed(Body::from_stream(stream)))
}

pub(crate) async fn lift(
    State(app): State<Arc<App>>,
    MachineId(machine): MachineId,
    client: Client,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mut wanted = Query { simulated: true, ..Query::default() };
    let (mut net, mut reach) = (None, Reach::Covers);
    for (name, value) in parameters(query.as_deref()) {
        match name.as_str() {
            "ip" | "range" => net = Some(bounds(&value)?),
            "contains" => reach = read_contains(&value)?,
            "scope" | "scopes" => wanted.scopes = Some(vec![Scope::new(&value)]),
            "value" => wanted.value = Some(value),
            "type" => wanted.remediation = Some(value),
            "origin" => wanted.origins = Some(vec![value]),
            "scenario" => wanted.scenario = Some(value),
            "uuid" => wanted.uuids.get_or_insert_default().push(value),
            _ => return Err(ApiError::internal(format!("'{name}' doesn't exist: invalid filter"))),
        }
    }
    wanted.net = net.map(|net| (net, reach));
    let (count, receipt) = acting(&app, &machine, &client).lift(&wanted).await?;
    durable(receipt).await?;
    Ok(json(&Deleted { count: count.to_string() }))
}

pub(crate) async fn lift_one(
    State(app): State<Arc<App>>,
    MachineId(machine): MachineId,
    client: Client,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let number = id.parse().map_err(|_| ApiError::bad_request("decision_id must be valid integer"))?;
    let (known, receipt) = acting(&app, &machine, &client).lift_one(number).await?;
    durable(receipt).await?;
    if !known {
        return Err(ApiError::internal(format!("decision with id '{id}' doesn't exist: unable to delete")));
    }
    Ok(json(&Deleted { count: "1".into() }))
}

/// The filters of live queries and of the stream; what is unknown is passed over. `scopes` is what holds where
/// nobody names scopes.
pub(crate) fn read_query(parameters: &[(String, String)], scopes: Option<&str>) -> Result<Query, ApiError> {
    let listed = |value: &str| value.split(',').map(str::to_owned).collect::<Vec<_>>();
    let scope_list = |value: &str| Some(value.split(',').map(Scope::new).collect::<Vec<_>>());
    let words = |value: &str| value.split(',').map(str::to_lowercase).collect::<Vec<_>>();
    let mut query = Query { scopes: scopes.and_then(scope_list), ..Query::default() };
    let (mut net, mut reach) = (None, Reach::Covers);
    for (name, value) in parameters {
        match name.as_str() {
            "ip" | "range" => net = Some(bounds(value)?),
            "contains" => reach = read_contains(value)?,
            "scopes" => query.scopes = scope_list(value),
            "scope" => query.scope = scope_list(value),
            "value" => query.value = Some(value.clone()),
            "type" => query.remediation = Some(value.clone()),
            "origins" => query.origins = Some(listed(value)),
            "scenarios_containing" => query.scenarios_containing = words(value),
            "scenarios_not_containing" => query.scenarios_not_containing = words(value),
            "simulated" => query.simulated = value != "false",
            _ => {}
        }
    }
    query.net = net.map(|net| (net, reach));
    Ok(query)
}

fn bounds(value: &str) -> Result<IpNet, ApiError> {
    read_net(value).map_err(|error| {
        ApiError::internal(format!("unable to convert '{value}' to int: {error}: invalid ip address / range"))
    })
}

/// Writes decisions one after the other; a million of them need not exist as text at once. What neighbours have in common
/// is made into text once.
struct List<'a> {
    text: &'a mut Vec<u8>,
    /// What comes before the next one.
    before: &'static str,
    now: Timestamp,
    /// Live queries leave the identity out.
    with_uuid: bool,
    /// When the last one ends, and how long that is.
    lasts: Option<(Timestamp, String)>,
    /// The last one, and the part of its text between number and identity.
    kin: Option<(Row, String)>,
}

impl<'a> List<'a> {
    fn new(text: &'a mut Vec<u8>, before: &'static str, now: Timestamp, with_uuid: bool) -> Self {
        Self { text, before, now, with_uuid, lasts: None, kin: None }
    }

    fn row(&mut self, row: &Row) {
        let mut uuid = Uuid::encode_buffer();
        let uuid = (!row.uuid().is_nil()).then(|| &*row.uuid().as_hyphenated().encode_lower(&mut uuid));
        if self.kin.as_ref().is_none_or(|(kin, _)| !kin.is_kin(row)) {
            let middle = middle(row.origin(), row.scenario(), row.scope(), row.remediation());
            self.kin = Some((row.clone(), middle));
        }
        let kin = self.kin.take();
        let middle = kin.as_ref().map_or("", |(_, middle)| middle);
        self.write(row.until(), row.id(), middle, uuid, row.value());
        self.kin = kin;
    }

    fn decision(&mut self, decision: &Decision) {
        let Decision { origin, scenario, scope, remediation, .. } = decision;
        let middle = middle(origin, scenario, scope, remediation);
        let uuid = (!decision.uuid.is_empty()).then_some(decision.uuid.as_str());
        self.write(decision.until, decision.id, &middle, uuid, &decision.value);
    }

    /// Writes one as [`crate::wire::LiveDecision`] would be.
    fn write(&mut self, until: Timestamp, id: i64, middle: &str, uuid: Option<&str>, value: &str) {
        if self.lasts.as_ref().is_none_or(|(end, _)| *end != until) {
            self.lasts = Some((until, duration::time_left(until, self.now)));
        }
        let lasts = self.lasts.as_ref().map_or("", |(_, text)| text);
        // Writing to memory cannot fail.
        let _ = write!(self.text, "{}{{\"duration\":\"{lasts}\",\"id\":{id},{middle}", self.before);
        if let Some(uuid) = uuid.filter(|_| self.with_uuid) {
            self.text.extend_from_slice(b",\"uuid\":\"");
            self.text.extend_from_slice(uuid.as_bytes());
            self.text.push(b'"');
        }
        self.text.extend_from_slice(b",\"value\":");
        quote(value, self.text);
        self.text.push(b'}');
        self.before = ",";
    }
}

/// The members of a decision between its number and its identity.
fn middle(origin: &str, scenario: &str, scope: &Scope, remediation: &str) -> String {
    let mut text = Vec::new();
    for (name, value) in
        [("origin", origin), (",\"scenario", scenario), (",\"scope", scope.as_str()), (",\"type", remediation)]
    {
        if text.is_empty() {
            text.push(b'"');
        }
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":");
        quote(value, &mut text);
    }
    String::from_utf8(text).unwrap_or_default()
}

/// Writes a text as JSON has it.
fn quote(value: &str, text: &mut Vec<u8>) {
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        text.push(b'"');
        text.extend_from_slice(value.as_bytes());
        text.push(b'"');
    } else {
        // A text can always be written.
        let _ = serde_json::to_writer(text, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::Table;
    use crate::wire::LiveDecision;

    #[test]
    fn decisions_are_written_as_anybody_would_write_them() {
        let at = |second| Timestamp::from_second(second).expect("a small number of seconds");
        let decision = |id, value: &str, scenario: &str, until| Decision {
            id,
            uuid: if id % 2 == 0 { Uuid::from_u128(id as u128).to_string() } else { String::new() },
            origin: "cscli".into(),
            remediation: "ban".into(),
            scope: Scope::new(if value.contains('.') { "ip" } else { "user\"name" }),
            value: value.into(),
            scenario: scenario.into(),
            created_at: at(0),
            until: at(until),
            simulated: false,
            alert_id: 1,
        };
        let all = [
            decision(1, "192.0.2.1", "acme/ssh", 60),
            decision(2, "192.0.2.2", "acme/ssh", 60),
            decision(3, "eve \"the\\\n\u{1f}\" \u{e9}", "say \"hi\"", 4000),
            decision(4, "192.0.2.2", "acme/ssh", 61),
        ];
        let mut table = Table::default();
        for one in &all {
            table.add(one);
        }
        for with_uuid in [true, false] {
            let expected = all.iter().map(|one| {
                let mut live = LiveDecision::new(one, at(1));
                live.uuid = live.uuid.filter(|_| with_uuid);
                serde_json::to_string(&live).expect("it can be written")
            });
            let expected = format!("[{}", expected.collect::<Vec<_>>().join(","));
            let (mut from_rows, mut from_decisions) = (Vec::new(), Vec::new());
            let mut list = List::new(&mut from_rows, "[", at(1), with_uuid);
            for row in table.iter() {
                list.row(row);
            }
            let mut list = List::new(&mut from_decisions, "[", at(1), with_uuid);
            for one in &all {
                list.decision(one);
            }
            for text in [from_rows, from_decisions] {
                assert_eq!(String::from_utf8(text).expect("text"), expected);
            }
        }
    }
}
