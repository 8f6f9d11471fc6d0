//! End-to-end tests: the built binary, and in network namespaces of their own real servers and real attackers.

#[path = "../cli/lab.rs"]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../bouncers/tests/support/mmdb.rs"]
mod mmdb;
mod support;

mod acquisition;
mod cli;
mod clients;
mod clock;
mod commands;
mod crash;
mod crowdsec_folder;
mod defence;
mod disk;
mod edge;
mod geo;
mod journal;
mod reload;
mod secrets;
mod spool;
mod trail;
