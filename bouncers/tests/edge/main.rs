//! Forward-auth behind real proxies, feeds in front of the real programs that read them.
//!
//! What is not installed is said loudly: the tests of everything else still run.
#![allow(clippy::print_stderr, reason = "what was not tested must be seen")]

mod lists;
mod proxies;
mod support;
