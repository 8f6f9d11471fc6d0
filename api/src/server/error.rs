//! Answers that say what is wrong.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::warn;

use super::service::{AccountError, AllowError, SubmitError};
use crate::store::StoreError;
use crate::wire::Message;

/// An answer that is not what was hoped for.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// A status and `{"message": ...}`.
    Status(StatusCode, String),
    /// What the token layer says: 401 with a code and a challenge.
    Token(String),
    /// A status without a body.
    Empty(StatusCode),
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Status(status, message.into())
    }

    /// 403, as everybody gets it who may not.
    pub(crate) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "access forbidden")
    }

    /// 500 with a message: what the field's servers answer to most mistakes.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Status(status, message) => {
                if status == StatusCode::INTERNAL_SERVER_ERROR {
                    warn!(message, "request failed");
                }
                (status, Json(Message { message })).into_response()
            }
            Self::Token(message) => {
                let body = Json(json!({ "code": 401, "message": message }));
                let mut response = (StatusCode::UNAUTHORIZED, body).into_response();
                let challenge = HeaderValue::from_static("JWT realm=Crowdsec API local");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                response
            }
            Self::Empty(status) => status.into_response(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Late => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let status = match &error {
            SubmitError::Allowed(_) => StatusCode::FORBIDDEN,
            SubmitError::TooLong { .. } => StatusCode::BAD_REQUEST,
            SubmitError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
            SubmitError::Duration(_) | SubmitError::Profile(_) | SubmitError::Store(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        let status = match &error {
            AccountError::MachineExists(_) | AccountError::BouncerExists(_) => StatusCode::FORBIDDEN,
            AccountError::NoMachine | AccountError::NoBouncer => StatusCode::NOT_FOUND,
            AccountError::Automatic(..)
            | AccountError::PasswordTooLong
            | AccountError::NoKey(_)
            | AccountError::Unusable { .. } => StatusCode::BAD_REQUEST,
            AccountError::NotValidated(_)
            | AccountError::WrongAuthType(..)
            | AccountError::CertificateRefused(..)
            | AccountError::TooMany
            | AccountError::WrongPassword => StatusCode::UNAUTHORIZED,
            AccountError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<AllowError> for ApiError {
    fn from(error: AllowError) -> Self {
        let status = match &error {
            AllowError::Exists(_) => StatusCode::CONFLICT,
            AllowError::Missing(_) => StatusCode::NOT_FOUND,
            AllowError::Net(_) | AllowError::Unusable(_) => StatusCode::BAD_REQUEST,
            AllowError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}
