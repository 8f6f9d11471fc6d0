//! How much anybody may ask of the server.
//!
//! Bodies are read against a budget of memory that all requests share, so that a thousand slow uploads cost what
//! a few do.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::metrics::Metrics;

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

/// How many connections one address may have open; this host may have as many as there are.
const MAX_PER_ADDRESS: usize = 256;

/// The limits of one server.
#[derive(Debug)]
pub(crate) struct Limits {
    budget: Semaphore,
    logins: DefaultKeyedRateLimiter<IpAddr>,
    /// By account.
    requests: DefaultKeyedRateLimiter<String>,
    metrics: Arc<Metrics>,
}

impl Limits {
    /// Limits that allow each address a burst of `logins`, and one more login each second; and each account so many
    /// `requests` a second.
    pub(crate) fn new(logins: NonZeroU32, requests: NonZeroU32, metrics: Arc<Metrics>) -> Self {
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(logins);
        let (logins, requests) = (RateLimiter::keyed(quota), RateLimiter::keyed(Quota::per_second(requests)));
        Self { budget: Semaphore::new(BUDGET), logins, requests, metrics }
    }

    /// Refuses an address that tries to log in or to register too often. A network of IPv6 counts as one.
    pub(crate) fn check_login(&self, ip: IpAddr) -> Result<(), ApiError> {
        if self.logins.len() > REMEMBERED {
            self.logins.retain_recent();
        }
        self.logins.check_key(&network(ip)).map_err(|_| self.too_many("too many attempts, try again later"))
    }

    /// Refuses an account that sends too many requests.
    pub(crate) fn check_request(&self, account: &str) -> Result<(), ApiError> {
        if self.requests.len() > REMEMBERED {
            self.requests.retain_recent();
        }
        self.requests.check_key(&account.to_owned()).map_err(|_| self.too_many("too many requests, try again later"))
    }

    fn too_many(&self, message: &str) -> ApiError {
        self.metrics.limited.inc();
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
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

/// An address as it is counted: who has one of IPv6 has a whole network.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

/// How many connections each address has open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    ip: IpAddr,
}

impl Places {
    /// A place for one more connection from `ip`, if it has not too many.
    pub(crate) fn take(&self, ip: IpAddr) -> Option<Place> {
        let ip = network(ip);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= MAX_PER_ADDRESS && !ip.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

fn too_large() -> ApiError {
    ApiError::bad_request("http: request body too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let places = Places::default();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut held: Vec<Place> = (0..MAX_PER_ADDRESS).filter_map(|_| places.take(ip("2001:db8::1"))).collect();
        assert_eq!(held.len(), MAX_PER_ADDRESS);
        assert!(places.take(ip("2001:db8::2")).is_none(), "its network is one");
        assert!(places.take(ip("2001:db8:0:1::1")).is_some() && places.take(ip("192.0.2.1")).is_some());
        held.pop();
        assert!(places.take(ip("2001:db8::1")).is_some(), "there is room again");
        held.clear();
        assert!(places.0.lock().expect("no panic").is_empty(), "who left is forgotten");
        let local: Vec<_> = (0..2 * MAX_PER_ADDRESS).filter_map(|_| places.take(ip("127.0.0.1"))).collect();
        assert_eq!(local.len(), 2 * MAX_PER_ADDRESS);
    }
}
