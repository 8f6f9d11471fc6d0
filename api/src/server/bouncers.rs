//! Bouncers' accounts, for administrators.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::SignedDuration;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::alerts::durable;
use super::ask::{Administered, Sent};
use super::error::ApiError;
use super::service::NewBouncer;
use super::{App, json};
use crate::store::{Report, Right};

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let rows: Vec<_> = app
        .service
        .bouncers()
        .into_iter()
        .map(|row| {
            json!({
                "created_at": row.created_at,
                "updated_at": row.updated_at,
                "name": row.name,
                "revoked": false,
                "ip_address": row.ip,
                "type": row.kind,
                "version": row.version,
                "last_pull": row.last_pull,
                "auth_type": row.auth_type,
                "os": os(&row.report),
                "featureflags": flags(&row.report),
                "auto_created": row.auto_created,
                "rights": row.rights,
                "ranges": row.ranges,
                "previous_key_until": row.previous.map(|previous| previous.until),
            })
        })
        .collect();
    json(&rows)
}

/// A bouncer to be made.
#[derive(Deserialize)]
pub(crate) struct NewBody {
    name: String,
    #[serde(default)]
    key: Option<SecretString>,
    #[serde(default)]
    rights: Vec<Right>,
    #[serde(default)]
    ranges: Vec<String>,
}

pub(crate) async fn add(
    Administered(service): Administered,
    Sent(NewBody { name, key, mut rights, ranges }): Sent<NewBody>,
) -> Result<Response, ApiError> {
    if rights.is_empty() {
        rights.push(Right::Read);
    }
    let ranges = ranges.iter().map(|text| model::scope::parse_net(text)).collect::<Result<_, _>>();
    let ranges = ranges.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let new = NewBouncer { name: name.clone(), key, rights, ranges };
    let (key, receipt) = service.add_bouncer(new).await?;
    durable(receipt).await?;
    Ok((StatusCode::CREATED, json(&json!({ "name": name, "key": key.expose_secret() }))).into_response())
}

/// Another key for a bouncer.
#[derive(Deserialize)]
pub(crate) struct RotateBody {
    #[serde(default)]
    key: Option<SecretString>,
    /// How long the present one is good, as `24h`.
    grace: String,
}

pub(crate) async fn rotate(
    Administered(service): Administered,
    Path(name): Path<String>,
    Sent(RotateBody { key, grace }): Sent<RotateBody>,
) -> Result<Response, ApiError> {
    let (key, receipt) = service.rotate_bouncer(&name, key, read_duration(&grace)?).await?;
    durable(receipt).await?;
    Ok(json(&json!({ "name": name, "key": key.expose_secret() })))
}

/// Who is silent.
#[derive(Deserialize)]
pub(crate) struct PruneBody {
    /// For how long, as `60m`.
    silent: String,
}

pub(crate) async fn prune(
    Administered(service): Administered,
    Sent(PruneBody { silent }): Sent<PruneBody>,
) -> Result<Response, ApiError> {
    let (names, receipt) = service.prune_bouncers(read_duration(&silent)?).await?;
    durable(receipt).await?;
    Ok(json(&json!({ "removed": names })))
}

/// A duration of nothing or more.
pub(crate) fn read_duration(text: &str) -> Result<SignedDuration, ApiError> {
    let duration = model::duration::parse_with_days(text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if duration.is_negative() {
        return Err(ApiError::bad_request(format!("`{text}` is less than nothing")));
    }
    Ok(duration)
}

pub(crate) async fn remove(
    Administered(service): Administered,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    durable(service.delete_bouncer(&name).await?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `Name/Version`, or nothing.
pub(crate) fn os(report: &Report) -> String {
    match (report.os_name.as_str(), report.os_version.as_str()) {
        ("", "") => String::new(),
        (name, version) => format!("{name}/{version}"),
    }
}

pub(crate) fn flags(report: &Report) -> Vec<&str> {
    report.feature_flags.split(',').filter(|flag| !flag.is_empty()).collect()
}
