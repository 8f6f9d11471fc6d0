//! Acquisition, and the runtime that moves lines through the pure crates.
//!
//! A shell: files, sockets, threads and the clock are here and nowhere below.

pub mod acquisition;
pub mod load;
pub mod own_addresses;
pub mod state;
pub mod status;
pub mod tail;
