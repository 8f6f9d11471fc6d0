//! Geoblocking: who may begin a connection by country and autonomous system.
//!
//! Databases become spans of addresses, policies become sets of addresses that are dropped, and the kernel holds those sets as
//! long as a lease lasts. Everything up to the sets is pure: bytes in, values out.

pub mod atlas;
pub mod config;
mod countries;
pub mod database;
pub mod keeper;
pub mod load;
pub mod part;
pub mod peers;
pub mod policy;
pub mod ranges;
pub mod region;
pub mod spare;
pub mod status;

pub use atlas::{Atlas, Databases, Location, Tally, Wanted};
pub use config::Config;
pub use database::{Database, Fields};
pub use load::{GeoError, Knowledge, Loaded};
pub use policy::{Judgement, Policy};
pub use ranges::Ranges;
pub use region::{Code, Region};
pub use spare::Spare;
pub use status::Status;

#[cfg(test)]
#[path = "../../tests/support/mmdb.rs"]
mod mmdb;
#[cfg(test)]
mod tests;
