//! Alerts over HTTP (spec: local-api 8 and 10).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;

use model::{Alert, Scope, duration};

use super::ask::{Administered, Sent};
use super::auth::{Client, MachineId};
use super::error::ApiError;
use super::limits::LARGE_BODY;
use super::service::{Author, Origin, Receipt, Service};
use super::{App, json, parameters};
use crate::decisions::Reach;
use crate::store::{AlertQuery, Order};
use crate::wire::{self, Deleted};

/// How long an acknowledgement waits for the store.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// How many alerts are shown if nobody says how many.
const DEFAULT_LIMIT: usize = 100;

pub(crate) async fn push(
    State(app): State<Arc<App>>,
    MachineId(machine): MachineId,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = app.limits.body(&headers, body, LARGE_BODY).await?;
    let alerts = tokio::task::spawn_blocking(move || read_alerts(&body)).await;
    let alerts = alerts.map_err(|_| ApiError::Empty(StatusCode::INTERNAL_SERVER_ERROR))??;
    let submission = acting(&app, &machine, &client).submit(&machine, alerts).await?;
    durable(submission.receipt).await?;
    let ids: Vec<String> = submission.ids.iter().map(ToString::to_string).collect();
    Ok((StatusCode::CREATED, json(&ids)).into_response())
}

pub(crate) async fn search(
    State(app): State<Arc<App>>,
    _: MachineId,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let now = Timestamp::now();
    let query = read_query(&parameters(query.as_deref()), now, true)?;
    let alerts = app.service.read(move |store| store.alerts(&query, now)).await?;
    Ok(if alerts.is_empty() { json(&()) } else { json(&alerts) })
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    _: MachineId,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let query = AlertQuery { id: Some(number(&id)?), ..AlertQuery::default() };
    let now = Timestamp::now();
    let alerts = app.service.read(move |store| store.alerts(&query, now)).await?;
    let alert = alerts.first().ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "object not found"))?;
    Ok(json(alert))
}

pub(crate) async fn erase(
    State(app): State<Arc<App>>,
    MachineId(machine): MachineId,
    client: Client,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trusted(&app, &client)?;
    let query = read_query(&parameters(query.as_deref()), Timestamp::now(), false)?;
    let (count, receipt) = acting(&app, &machine, &client).erase_alerts(query).await?;
    durable(receipt).await?;
    Ok(json(&Deleted { count: count.to_string() }))
}

pub(crate) async fn erase_one(
    State(app): State<Arc<App>>,
    MachineId(machine): MachineId,
    client: Client,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    trusted(&app, &client)?;
    let query = AlertQuery { id: Some(number(&id)?), ..AlertQuery::default() };
    let (count, receipt) = acting(&app, &machine, &client).erase_alerts(query).await?;
    durable(receipt).await?;
    match count {
        0 => Err(ApiError::internal("ent: alert not found")),
        _ => Ok(json(&Deleted { count: count.to_string() })),
    }
}

/// What is left when old alerts are erased.
#[derive(Deserialize)]
pub(crate) struct Flush {
    max_items: Option<u64>,
    /// As a duration.
    max_age: Option<String>,
}

pub(crate) async fn flush(
    Administered(service): Administered,
    Sent(Flush { max_items, max_age }): Sent<Flush>,
) -> Result<Response, ApiError> {
    let age = max_age.map(|text| duration::parse_with_days(&text)).transpose();
    let age = age.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let count = service.flush(max_items, age).await?;
    Ok(json(&Deleted { count: count.to_string() }))
}

/// Waits until a change is durable, but not for ever: whoever asked has long since given up.
pub(crate) async fn durable(receipt: Receipt) -> Result<(), ApiError> {
    match tokio::time::timeout(STORE_PATIENCE, receipt.durable()).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer")),
    }
}

/// The service as `name` changes it.
pub(crate) fn acting(app: &App, name: &str, client: &Client) -> Service {
    let from = if client.socket { Origin::Socket } else { Origin::Address(client.ip) };
    app.service.by(Author { name: name.to_owned(), from, proof: client.proof(name) })
}

/// Lets pass who is on this host, or listed.
pub(crate) fn trusted(app: &App, client: &Client) -> Result<(), ApiError> {
    let ip = client.ip;
    let listed = app.config.trusted_ips.iter().any(|net| net.contains(&ip));
    if client.socket || client.admin.is_some() || ip.is_loopback() || listed {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, format!("access forbidden from this IP ({ip})")))
}

fn number(text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request("alert_id must be valid integer"))
}

fn read_alerts(body: &[u8]) -> Result<Vec<Alert>, ApiError> {
    serde_json::from_slice(body).map_err(|error| match serde_json::from_slice(body) {
        Ok(value) if error.is_data() => match wire::missing_fields(&value) {
            Some(missing) => ApiError::internal(missing),
            None => ApiError::bad_request(error.to_string()),
        },
        _ => ApiError::bad_request(error.to_string()),
    })
}

fn read_query(parameters: &[(String, String)], now: Timestamp, listing: bool) -> Result<AlertQuery, ApiError> {
    let mut query = AlertQuery { limit: listing.then_some(DEFAULT_LIMIT), ..AlertQuery::default() };
    let mut net = None;
    let mut reach = Reach::Covers;
    for (name, value) in parameters {
        let ago = || {
            let long = duration::parse_with_days(value)
                .map_err(|error| ApiError::internal(format!("while parsing duration: {error}")))?;
            Ok::<_, ApiError>(Some(now.saturating_sub(long).unwrap_or(Timestamp::MIN)))
        };
        match name.as_str() {
            "scope" => query.scope = Some(Scope::new(value).to_string()),
            "value" => query.value = Some(value.clone()),
            "scenario" => query.scenario = Some(value.clone()),
            "ip" | "range" => net = Some(read_net(value).map_err(ApiError::internal)?),
            "contains" => reach = read_contains(value)?,
            "since" => query.since = ago()?,
            "until" => query.until = ago()?,
            "created_before" => query.created_before = ago()?,
            "simulated" => query.hide_simulated = value == "false",
            "has_active_decision" => {
                let active = read_bool(value)
                    .ok_or_else(|| ApiError::internal(format!("'{value}' is not a boolean: unable to parse type")))?;
                query.active = Some(active);
            }
            "decision_type" => query.remediation = Some(value.clone()),
            "origin" => query.origin = Some(value.clone()),
            "include_capi" => query.hide_lists = value == "false",
            "kind" => query.kind = Some(value.clone()),
            "limit" => {
                let limit: usize =
                    value.parse().map_err(|_| ApiError::internal(format!("'{value}' is not a limit")))?;
                if listing {
                    query.limit = (limit > 0).then_some(limit);
                }
            }
            "sort" if listing => {
                query.order = if value.eq_ignore_ascii_case("asc") { Order::OldestFirst } else { Order::NewestFirst };
            }
            "with_decisions" if listing => query.without_decisions = value == "false",
            _ => {
                let message = format!("filter parameter '{name}' is unknown (={value}): invalid filter");
                return Err(ApiError::internal(message));
            }
        }
    }
    if query.origin.is_some() {
        query.hide_lists = false;
    }
    query.net = net.map(|net| (net, reach));
    Ok(query)
}

/// The prefix a parameter names, or what the field's servers say about it.
pub(crate) fn read_net(text: &str) -> Result<IpNet, String> {
    model::scope::parse_net(text).map_err(|_| {
        if text.contains('/') {
            format!("invalid ip range '{text}': invalid CIDR address: {text}")
        } else {
            format!("invalid ip address '{text}'")
        }
    })
}

pub(crate) fn read_contains(text: &str) -> Result<Reach, ApiError> {
    match read_bool(text) {
        Some(true) => Ok(Reach::Covers),
        Some(false) => Ok(Reach::Inside),
        None => Err(ApiError::internal(format!("invalid contains value: '{text}' is not a boolean"))),
    }
}

/// A truth value as Go reads it.
pub(crate) fn read_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}
