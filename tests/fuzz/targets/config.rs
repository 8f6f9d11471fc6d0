//! Everything else that people write in YAML, by the first line: profiles, datasources, contexts, simulation.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use agent::load::RuleFiles;
use agent::ruleset::RuleSet;
use cordon_fuzz::{file, library};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (kind, text) = input.split_once('\n').unwrap_or(("", input));
    let path = Path::new("fuzz.yaml");
    match kind {
        "profiles" => {
            let _ = api::profiles::Profiles::parse(&[(path, text)]);
        }
        "acquisition" => {
            agent::acquisition::config::parse(path, text, &|name| (name == "HOME").then(|| "/root".to_owned()));
        }
        "context" | "simulation" => {
            let mut files = RuleFiles::default();
            match kind {
                "context" => files.contexts.push(file("", text)),
                _ => files.simulation.push(file("", text)),
            }
            let _ = Arc::new(RuleSet::build_over(&files, library()));
        }
        _ => {}
    }
});
