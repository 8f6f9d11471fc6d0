//! What targets elsewhere have in common: requests with limits, secrets that are never shown, prefixes that several
//! entries share.

pub mod http;
pub mod nets;
pub mod secret;

pub use http::{Answer, Endpoint, Http, RawEndpoint};
pub use nets::Nets;
pub use secret::Secret;
