//! The audit trail and forgetting over HTTP, for administrators.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;

use model::duration;

use super::alerts::durable;
use super::ask::{Administered, Sent};
use super::error::ApiError;
use super::{App, json, parameters};
use crate::audit::AuditQuery;

/// How many records one answer has at most.
const MAX_LIMIT: usize = 10_000;
/// How many it has if nobody says how many.
const DEFAULT_LIMIT: usize = 100;

pub(crate) async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let query = read_query(&parameters(query.as_deref()), Timestamp::now())?;
    // What was answered must be told.
    app.service.settle().await?;
    Ok(json(&app.service.read(move |store| store.audit(&query)).await?))
}

/// Says whether the chain holds; a broken one is an answer, too: 409, and where.
pub(crate) async fn verify(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let moved = parameters(query.as_deref()).iter().any(|(name, value)| name == "moved" && value == "true");
    match app.service.read(move |store| store.verify_audit(moved)).await? {
        Ok(verified) => Ok(json(&verified)),
        Err(broken) => Err(ApiError::new(StatusCode::CONFLICT, broken.to_string())),
    }
}

/// Something that was done beside the API, and what to.
#[derive(Deserialize)]
pub(crate) struct Note {
    action: Done,
    #[serde(default)]
    subject: String,
}

/// What can be done beside the API.
#[derive(Clone, Copy, Deserialize)]
enum Done {
    #[serde(rename = "enforcement.arm")]
    Arm,
    #[serde(rename = "enforcement.disarm")]
    Disarm,
    #[serde(rename = "enforcement.acknowledge")]
    Acknowledge,
    #[serde(rename = "backup")]
    Backup,
    #[serde(rename = "pki.init")]
    PkiInit,
    #[serde(rename = "pki.issue")]
    PkiIssue,
    #[serde(rename = "pki.renew")]
    PkiRenew,
    #[serde(rename = "pki.revoke")]
    PkiRevoke,
}

pub(crate) async fn note(
    Administered(service): Administered,
    Sent(Note { action, subject }): Sent<Note>,
) -> Result<Response, ApiError> {
    let action = match action {
        Done::Arm => "enforcement.arm",
        Done::Disarm => "enforcement.disarm",
        Done::Acknowledge => "enforcement.acknowledge",
        Done::Backup => "backup",
        Done::PkiInit => "pki.init",
        Done::PkiIssue => "pki.issue",
        Done::PkiRenew => "pki.renew",
        Done::PkiRevoke => "pki.revoke",
    };
    durable(service.note(action, &subject).await?).await?;
    Ok((StatusCode::CREATED, json(&())).into_response())
}

/// Who is to be forgotten.
#[derive(Deserialize)]
pub(crate) struct Forget {
    value: String,
}

pub(crate) async fn forget(
    Administered(service): Administered,
    Sent(Forget { value }): Sent<Forget>,
) -> Result<Response, ApiError> {
    let value = value.trim();
    if value.is_empty() || value.len() > 255 {
        return Err(ApiError::bad_request("`value` is empty or longer than 255 bytes"));
    }
    let (forgotten, receipt) = service.forget(value).await?;
    durable(receipt).await?;
    Ok(json(&forgotten))
}

fn read_query(parameters: &[(String, String)], now: Timestamp) -> Result<AuditQuery, ApiError> {
    let mut query = AuditQuery { limit: DEFAULT_LIMIT, ..AuditQuery::default() };
    for (name, value) in parameters {
        let number =
            || value.parse::<u64>().map_err(|_| ApiError::bad_request(format!("`{name}`: `{value}` is no number")));
        match name.as_str() {
            "since" => {
                let ago = duration::parse_with_days(value);
                let ago = ago.map_err(|error| ApiError::bad_request(error.to_string()))?;
                query.since = Some(now.saturating_sub(ago).unwrap_or(Timestamp::MIN));
            }
            "actor" => query.actor = Some(value.clone()),
            "action" => query.action = Some(value.clone()),
            "after" => query.after = Some(i64::try_from(number()?).unwrap_or(i64::MAX)),
            "limit" => query.limit = usize::try_from(number()?).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
            _ => return Err(ApiError::bad_request(format!("filter parameter `{name}` is not known"))),
        }
    }
    Ok(query)
}
