//! Bouncers' accounts, for this host's administrator.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::alerts::durable;
use super::allowlists::read_body;
use super::error::ApiError;
use super::{App, json};
use crate::store::Report;

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
            })
        })
        .collect();
    json(&rows)
}

/// A bouncer to be made.
#[derive(Deserialize)]
pub(crate) struct NewBouncer {
    name: String,
    #[serde(default)]
    key: Option<SecretString>,
}

pub(crate) async fn add(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let new: NewBouncer = read_body(&app, &headers, body).await?;
    let (key, receipt) = app.service.add_bouncer(&new.name, new.key).await?;
    durable(receipt).await?;
    let body = json(&json!({ "name": new.name, "key": key.expose_secret() }));
    Ok((StatusCode::CREATED, body).into_response())
}

pub(crate) async fn remove(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    durable(app.service.delete_bouncer(&name).await?).await?;
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
