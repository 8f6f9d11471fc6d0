//! The parse engine as the agent uses it: files in, events out.

mod hostile;
mod hub;
mod matching;
mod nodes;
mod overflows;
mod support;
mod traces;
