//! The parse engine as the agent uses it: files in, events out.

mod hub;
mod nodes;
mod support;
