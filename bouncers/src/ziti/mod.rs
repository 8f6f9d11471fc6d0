//! The OpenZiti bouncer: identities and sessions that may not use a Ziti network.
//!
//! A router has no list of addresses to refuse, so addresses are blocked by the firewall of the hosts that routers and
//! controllers run on. What is refused here is an identity: the controllers disable it, and what it has open is cut.
//! One pair of fields says that for everybody, so each disable of ours is in a journal, and nothing else is undone.

pub mod api;
pub mod bouncer;
pub mod config;
pub mod events;
pub mod index;
pub mod journal;
pub mod login;
pub mod name;
pub mod plan;
pub mod setup;
pub mod wire;
pub mod work;

pub use bouncer::Ziti;

#[cfg(test)]
mod tests;
