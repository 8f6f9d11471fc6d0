//! The rules of the check, one file each: what it looks for, its page, its examples.

mod dead_key;
mod does_not_load;
mod forgeable_source;
mod idle_regex;
mod loads_otherwise;
mod loose_source;
mod missing_data;
mod never_overflows;
mod shared_bucket;
mod spoofable_evidence;
mod starved_scenario;
mod unconfirmed_name;
mod unreachable_node;
mod unsigned_log;
mod unused_capture;
mod unwritten_field;
mod wide_whitelist;
mod wrong_kind;

use super::finding::Rule;

/// All rules, by code.
pub const RULES: &[&Rule] = &[
    &does_not_load::RULE,
    &forgeable_source::RULE,
    &loose_source::RULE,
    &spoofable_evidence::RULE,
    &unconfirmed_name::RULE,
    &starved_scenario::RULE,
    &unreachable_node::RULE,
    &missing_data::RULE,
    &unused_capture::RULE,
    &never_overflows::RULE,
    &dead_key::RULE,
    &unwritten_field::RULE,
    &idle_regex::RULE,
    &wide_whitelist::RULE,
    &loads_otherwise::RULE,
    &unsigned_log::RULE,
    &wrong_kind::RULE,
    &shared_bucket::RULE,
];
