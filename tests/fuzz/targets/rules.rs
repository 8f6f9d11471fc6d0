//! Whole rules: patterns, parsers and scenarios with their expressions, compiled and run on one line.
#![no_main]

use std::sync::Arc;

use agent::explain::explain;
use agent::load::{RuleFile, RuleFiles};
use agent::ruleset::RuleSet;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use model::{AllowSet, Origin};

fuzz_target!(|input: (u8, &str)| {
    let (kind, text) = input;
    let file = |stage: &str, text: &str| RuleFile {
        path: "fuzz.yaml".into(),
        stage: stage.to_owned(),
        text: text.to_owned().into(),
    };
    let mut files = RuleFiles::default();
    match kind % 4 {
        0 => files.patterns.push(file("", text)),
        1 => files.parsers.push(file("s00-raw", text)),
        2 => files.postoverflows.push(file("s00-enrich", text)),
        _ => files.scenarios.push(file("", text)),
    }
    if kind % 4 != 1 {
        files.parsers.push(file("s00-raw", "name: all\nfilter: 'true'\nonsuccess: next_stage\nstatics:\n  - meta: x\n    value: y\n"));
    }
    let rules = Arc::new(RuleSet::build(&files).rules);
    let line = "Nov 22 10:00:01 web sshd[7]: Failed password for root from 203.0.113.7 port 22 ssh2";
    explain(&rules, line, Origin::default(), &Arc::new(AllowSet::default()), Timestamp::UNIX_EPOCH);
});
