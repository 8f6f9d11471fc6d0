//! The local API's server.
//!
//! Handlers translate between the wire and [`service::Service`], which decides.

pub mod service;
pub mod stream;
