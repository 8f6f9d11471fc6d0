//! Allowlists over HTTP (spec: local-api 16); changes are this host's administrator's.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;

use super::alerts::{durable, read_net};
use super::ask::{Administered, Sent};
use super::auth::MachineId;
use super::error::ApiError;
use super::service::{Listed, NewItem};
use super::{App, json, parameters};
use crate::wire::{self, AllowItemBody, AllowlistBody, CheckBody, CheckResult, CheckResults, Targets};

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    _: MachineId,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let content = with_content(query.as_deref());
    let lists: Vec<AllowlistBody> =
        app.service.allowlists(None).into_iter().map(|listed| list_body(listed, content)).collect();
    Ok(json(&lists))
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    method: Method,
    _: MachineId,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    if method == Method::HEAD {
        return Err(ApiError::Empty(StatusCode::METHOD_NOT_ALLOWED));
    }
    let content = with_content(query.as_deref());
    let listed = app.service.allowlists(Some(&name)).into_iter().next();
    let listed = listed.ok_or_else(|| ApiError::internal(format!("allowlist '{name}' not found")))?;
    Ok(json(&list_body(listed, content)))
}

pub(crate) async fn check(
    State(app): State<Arc<App>>,
    method: Method,
    _: MachineId,
    Path(value): Path<String>,
) -> Result<Response, ApiError> {
    let net = read_net(&value).map_err(ApiError::internal)?;
    let reasons = app.service.allowed_by(net);
    if method == Method::HEAD {
        let status = if reasons.is_empty() { StatusCode::NO_CONTENT } else { StatusCode::OK };
        return Ok(status.into_response());
    }
    Ok(json(&CheckBody { allowlisted: !reasons.is_empty(), reason: reasons.join(", ") }))
}

pub(crate) async fn check_many(
    State(app): State<Arc<App>>,
    _: MachineId,
    Sent(Targets { targets }): Sent<Targets>,
) -> Result<Response, ApiError> {
    if targets.is_empty() {
        return Err(ApiError::bad_request("targets list cannot be empty"));
    }
    let mut results = Vec::new();
    for target in targets {
        let net = read_net(&target).map_err(ApiError::internal)?;
        let allowlists = app.service.allowed_by(net);
        if !allowlists.is_empty() {
            results.push(CheckResult { target, allowlists });
        }
    }
    Ok(json(&CheckResults { results }))
}

/// A list to be made.
#[derive(Deserialize)]
pub(crate) struct NewList {
    name: String,
    #[serde(default)]
    description: String,
}

pub(crate) async fn create(
    Administered(service): Administered,
    Sent(new): Sent<NewList>,
) -> Result<Response, ApiError> {
    durable(service.create_allowlist(&new.name, &new.description).await?).await?;
    Ok(StatusCode::CREATED.into_response())
}

pub(crate) async fn remove(
    Administered(service): Administered,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    durable(service.delete_allowlist(&name).await?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Values to be put on a list, or taken off it.
#[derive(Deserialize)]
pub(crate) struct Entries {
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    comment: String,
    /// How long, as a duration; empty is for ever.
    #[serde(default)]
    expiration: String,
    /// Values, each with its own comment and expiration.
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
pub(crate) struct Item {
    value: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    expiration: String,
}

pub(crate) async fn add(
    Administered(service): Administered,
    Path(name): Path<String>,
    Sent(Entries { values, comment, expiration, items }): Sent<Entries>,
) -> Result<Response, ApiError> {
    let same = |value| Item { value, comment: comment.clone(), expiration: expiration.clone() };
    let read = |item: Item| {
        let expires = if item.expiration.is_empty() { None } else { Some(ends(&item.expiration)?) };
        Ok(NewItem { value: item.value, comment: item.comment, expires })
    };
    let new = values.into_iter().map(same).chain(items).map(read).collect::<Result<Vec<_>, ApiError>>()?;
    let ((added, lifted), receipt) = service.allow_items(&name, &new).await?;
    durable(receipt).await?;
    Ok(json(&serde_json::json!({ "added": added, "lifted": lifted })))
}

pub(crate) async fn take(
    Administered(service): Administered,
    Path(name): Path<String>,
    Sent(entries): Sent<Entries>,
) -> Result<Response, ApiError> {
    let (removed, receipt) = service.disallow_values(&name, &entries.values).await?;
    durable(receipt).await?;
    Ok(json(&serde_json::json!({ "removed": removed })))
}

/// Who is forgiven, and for how long.
#[derive(Deserialize)]
pub(crate) struct Forgive {
    value: String,
    duration: String,
}

pub(crate) async fn forgive(
    Administered(service): Administered,
    Sent(Forgive { value, duration }): Sent<Forgive>,
) -> Result<Response, ApiError> {
    let net = read_net(&value).map_err(ApiError::bad_request)?;
    let (forgiven, receipt) = service.forgive(net, ends(&duration)?).await?;
    durable(receipt).await?;
    Ok(json(&forgiven))
}

/// When something that begins now and lasts as long as `text` says is over.
fn ends(text: &str) -> Result<Timestamp, ApiError> {
    let long = model::duration::parse_with_days(text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(Timestamp::now().saturating_add(long).unwrap_or(Timestamp::MAX))
}

fn with_content(query: Option<&str>) -> bool {
    parameters(query).iter().any(|(name, value)| name == "with_content" && value == "true")
}

fn list_body(listed: Listed, content: bool) -> AllowlistBody {
    let items = if content { listed.items } else { Vec::new() };
    AllowlistBody {
        name: listed.list.name,
        description: listed.list.description,
        created_at: wire::millis(listed.list.created_at),
        updated_at: wire::millis(listed.list.updated_at),
        items: items
            .into_iter()
            .map(|item| AllowItemBody {
                value: item.value,
                description: item.comment,
                created_at: wire::millis(item.created_at),
                expiration: item.expires.map_or_else(|| wire::NEVER.into(), wire::millis),
            })
            .collect(),
    }
}
