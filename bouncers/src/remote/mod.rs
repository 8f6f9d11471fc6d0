//! What targets elsewhere have in common: requests with limits, secrets that are never shown, prefixes that several
//! entries share.

pub(crate) mod config;
pub mod http;
pub mod list;
pub mod nets;
pub mod secret;

pub use http::{Answer, Endpoint, Http, RawEndpoint};
pub use list::{List, ListBouncer};
pub use nets::Nets;
pub use secret::Secret;
