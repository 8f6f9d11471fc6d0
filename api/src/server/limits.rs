//! How much anybody may ask of the server.
//!
//! Bodies are read against a budget of memory that all requests share, so that a thousand slow uploads cost what
//! a few do.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::Semaphore;

use super::error::ApiError;

/// Largest body of a request without authentication, in bytes.
pub(crate) const SMALL_BODY: usize = 2 << 20;
/// Largest body of any other request, in bytes.
pub(crate) const LARGE_BODY: usize = 50 << 20;
/// What bodies may hold in memory together, in KiB.
const BUDGET: usize = 256 << 10;
/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_mins(1);
/// How many addresses the login limit remembers before it tidies up.
const REMEMBERED: usize = 10_000;

/// The limits of one server.
#[derive(Debug)]
pub(crate) struct Limits {
    budget: Semaphore,
    logins: DefaultKeyedRateLimiter<IpAddr>,
}

impl Limits {
    /// Limits that allow each address a burst of `logins`, and one more login each second.
    pub(crate) fn new(logins: NonZeroU32) -> Self {
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(logins);
        Self { budget: Semaphore::new(BUDGET), logins: RateLimiter::keyed(quota) }
    }

    /// Refuses an address that tries to log in or to register too often. A network of IPv6 counts as one.
    pub(crate) fn check_login(&self, ip: IpAddr) -> Result<(), ApiError> {
        if self.logins.len() > REMEMBERED {
            self.logins.retain_recent();
        }
        let key = match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        };
        self.logins
            .check_key(&key)
            .map_err(|_| ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many attempts, try again later"))
    }

    /// The whole body, decompressed. Its limit holds before and after decompression.
    pub(crate) async fn body(&self, headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
        let compressed = headers.get(header::CONTENT_ENCODING).is_some_and(|name| name == "gzip");
        let length = headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
        let most = if compressed { limit } else { length.unwrap_or(limit).min(limit) };
        // The permit is a count of KiB below the budget, which fits.
        let _permit = self.budget.acquire_many((most >> 10) as u32 + 1).await;
        let collected = tokio::time::timeout(PATIENCE, Limited::new(body, limit).collect());
        let bytes = match collected.await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => return Err(too_large()),
            Ok(Err(error)) => return Err(ApiError::bad_request(error.to_string())),
            Err(_) => return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        };
        if !compressed {
            return Ok(bytes);
        }
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut unpacked = Vec::new();
            let mut reader = flate2::read::MultiGzDecoder::new(bytes.as_ref()).take(limit as u64 + 1);
            reader.read_to_end(&mut unpacked).map(|_| unpacked)
        });
        match unpacked.await {
            Ok(Ok(unpacked)) if unpacked.len() > limit => Err(too_large()),
            Ok(Ok(unpacked)) => Ok(unpacked.into()),
            Ok(Err(error)) => Err(ApiError::bad_request(format!("not a gzip stream: {error}"))),
            Err(_) => Err(ApiError::Empty(StatusCode::INTERNAL_SERVER_ERROR)),
        }
    }
}

fn too_large() -> ApiError {
    ApiError::bad_request("http: request body too large")
}
