//! What administrators' handlers take: who asks, as the service that he changes, and what he sent.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::App;
use super::alerts::acting;
use super::auth::Client;
use super::error::ApiError;
use super::limits::LARGE_BODY;
use super::service::Service;

/// The service as an administrator changes it. That he is one was asked before.
pub(crate) struct Administered(pub(crate) Service);

impl FromRequestParts<Arc<App>> for Administered {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let client = Client::from_request_parts(parts, app).await?;
        Ok(Self(administered(app, &client)))
    }
}

/// The service as `client`, an administrator, changes it.
pub(crate) fn administered(app: &App, client: &Client) -> Service {
    acting(app, client.admin.as_deref().unwrap_or_default(), client)
}

/// The JSON body of a request that is allowed to send one.
pub(crate) struct Sent<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Sent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = app.limits.body(&parts.headers, body, LARGE_BODY).await?;
        serde_json::from_slice(&body).map(Self).map_err(|error| ApiError::bad_request(error.to_string()))
    }
}
