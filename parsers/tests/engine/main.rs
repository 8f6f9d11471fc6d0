//! The parse engine as the agent uses it: files in, events out.

mod hub;
mod matching;
mod nodes;
mod support;
