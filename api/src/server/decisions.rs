//! Decisions over HTTP: live queries, the polling stream, lifting (spec: local-api 11, 12, 14).

use std::convert::Infallible;
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

use super::alerts::{durable, read_contains, read_net};
use super::auth::{BouncerId, MachineId};
use super::error::ApiError;
use super::service::Walk;
use super::stream::Pull;
use super::{App, json, json_text, parameters};
use crate::decisions::{Query, Reach, Row};
use crate::metrics::BouncerLabels;
use crate::wire::{Deleted, LiveRef};

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
        let mut writer = List { text: &mut text, before, now, with_uuid: false };
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
                let mut writer = List { text: &mut text, before: r#"], "deleted": ["#, now, with_uuid: true };
                for decision in &pulled.deleted {
                    writer.decision(decision);
                }
                let before = writer.before;
                text.extend_from_slice(if before == "," { b"" } else { before.as_bytes() });
                text.extend_from_slice(b"]}");
                done(pulled.reached);
                return Some((Ok::<_, Infallible>(Bytes::from(text)), None));
            };
            let mut writer = List { text: &mut text, before, now, with_uuid: true };
            for row in &rows {
                writer.row(row);
            }
            before = writer.before;
        }
        Some((Ok(Bytes::from(text)), Some((pulled, before, done))))
    });
    Ok(typed(Body::from_stream(stream)))
}

pub(crate) async fn lift(
    State(app): State<Arc<App>>,
    _: MachineId,
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
    let (count, receipt) = app.service.lift(&wanted).await?;
    durable(receipt).await?;
    Ok(json(&Deleted { count: count.to_string() }))
}

pub(crate) async fn lift_one(
    State(app): State<Arc<App>>,
    _: MachineId,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let number = id.parse().map_err(|_| ApiError::bad_request("decision_id must be valid integer"))?;
    let (known, receipt) = app.service.lift_one(number).await?;
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

/// Writes decisions one after the other; a million of them need not exist as text at once.
struct List<'a> {
    text: &'a mut Vec<u8>,
    /// What comes before the next one.
    before: &'static str,
    now: Timestamp,
    /// Live queries leave the identity out.
    with_uuid: bool,
}

impl List<'_> {
    fn row(&mut self, row: &Row) {
        let mut uuid = Uuid::encode_buffer();
        let uuid =
            (self.with_uuid && !row.uuid().is_nil()).then(|| &*row.uuid().as_hyphenated().encode_lower(&mut uuid));
        self.write(&LiveRef {
            duration: &duration::time_left(row.until(), self.now),
            id: row.id(),
            origin: row.origin(),
            scenario: row.scenario(),
            scope: row.scope().as_str(),
            remediation: row.remediation(),
            uuid,
            value: row.value(),
        });
    }

    fn decision(&mut self, decision: &Decision) {
        let uuid = (self.with_uuid && !decision.uuid.is_empty()).then_some(decision.uuid.as_str());
        self.write(&LiveRef {
            duration: &duration::time_left(decision.until, self.now),
            id: decision.id,
            origin: &decision.origin,
            scenario: &decision.scenario,
            scope: decision.scope.as_str(),
            remediation: &decision.remediation,
            uuid,
            value: &decision.value,
        });
    }

    fn write(&mut self, decision: &LiveRef<'_>) {
        self.text.extend_from_slice(self.before.as_bytes());
        self.before = ",";
        // A decision consists of texts and numbers, which always can be written.
        let _ = serde_json::to_writer(&mut *self.text, decision);
    }
}
