//! Decisions over HTTP: live queries, the polling stream, lifting (spec: local-api 11, 12, 14).

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use jiff::Timestamp;

use model::{Decision, Scope};

use super::alerts::{durable, read_contains, read_net};
use super::auth::{BouncerId, MachineId};
use super::error::ApiError;
use super::service::Service;
use super::stream::{Answer, Pull};
use super::{App, json, json_text, parameters};
use crate::decisions::{Query, Reach, Row};
use crate::metrics::BouncerLabels;
use crate::wire::{Deleted, LiveDecision};

/// How many rows are written at a time.
const CHUNK: usize = 1000;

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
    let limit = if limit == 0 { usize::MAX } else { limit as usize };
    if method == Method::HEAD {
        return Ok(StatusCode::OK.into_response());
    }
    let (now, rows) = app.service.table(|table, now| (now, table.select(&query, now)));
    let rows: Vec<Arc<Row>> =
        rows.into_iter().filter(|row| row.id() > id_gt.cast_signed()).skip(offset as usize).take(limit).collect();
    if let Some(bouncer) = bouncer {
        app.service.note_query(&bouncer);
        let metrics = app.service.metrics();
        let found = if rows.is_empty() { &metrics.decisions_ko } else { &metrics.decisions_ok };
        found.get_or_create(&BouncerLabels { bouncer }).inc();
    }
    if rows.is_empty() {
        return Ok(json_text("null"));
    }
    let rows = Box::new(rows.into_iter().map(|row| row.decision()));
    let list = ListBody { rows, before: "[", close: "]", live: true, now };
    Ok(json_text(body(vec![list], || ())))
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
    let Answer { reached, new, deleted } = app.service.pull(&name, &pull).await?;
    let (service, now): (Service, _) = (app.service.clone(), reached.at);
    let new = Box::new(new.into_iter().map(|row| row.decision()));
    let deleted = Box::new(deleted.into_iter());
    let lists = vec![
        ListBody { rows: new, before: r#"{"new": ["#, close: "]", live: false, now },
        ListBody { rows: deleted, before: r#", "deleted": ["#, close: "]}", live: false, now },
    ];
    // What was not sent to the end counts as not pulled: the bouncer will ask for the same again.
    Ok(typed(body(lists, move || service.note_pull(&name, reached))))
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
fn read_query(parameters: &[(String, String)], scopes: Option<&str>) -> Result<Query, ApiError> {
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

/// A list of decisions that is written piece by piece: a million of them need not exist as text at once.
struct ListBody {
    rows: Box<dyn Iterator<Item = Decision> + Send>,
    /// What comes before the next row.
    before: &'static str,
    close: &'static str,
    /// Without identities, as live queries have it.
    live: bool,
    now: Timestamp,
}

impl ListBody {
    /// The next piece, and whether the list goes on.
    fn piece(&mut self) -> (String, bool) {
        let mut text = String::new();
        for _ in 0..CHUNK {
            let Some(decision) = self.rows.next() else {
                // Of an empty list the bracket is still to be written.
                text.push_str(if self.before == "," { "" } else { self.before });
                text.push_str(self.close);
                return (text, false);
            };
            let mut row = LiveDecision::new(&decision, self.now);
            if self.live {
                row.uuid = None;
            }
            text.push_str(self.before);
            // A row consists of texts and numbers, which always can be written.
            text.push_str(&serde_json::to_string(&row).unwrap_or_default());
            self.before = ",";
        }
        (text, true)
    }
}

/// The lists one after the other; `done` is called once the last piece was taken.
fn body(lists: Vec<ListBody>, done: impl FnOnce() + Send + 'static) -> Body {
    let state = (lists.into_iter().collect::<VecDeque<_>>(), Some(done));
    Body::from_stream(futures_util::stream::unfold(state, |(mut lists, mut done)| async move {
        let Some(list) = lists.front_mut() else {
            if let Some(done) = done.take() {
                done();
            }
            return None;
        };
        let (text, more) = list.piece();
        if !more {
            lists.pop_front();
        }
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), (lists, done)))
    }))
}
