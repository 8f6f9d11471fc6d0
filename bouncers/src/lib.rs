//! Enforcement: decisions in, dropped packets out.
//!
//! What should be, what to change and what must never be are pure values; a bouncer carries out one plan at a
//! time, all of it or nothing.
//!
//! Public types: [`engine::desired::Desired`], [`engine::plan::Plan`], [`engine::rails::Rails`].

pub mod engine;
