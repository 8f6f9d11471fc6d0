//! Parsers as authors write them, and lines before them: a file of nodes, a second file, lines. Asking the few nodes that could
//! want a line is asking all.
#![no_main]

use std::sync::Arc;

use agent::load::RuleFiles;
use agent::ruleset::RuleSet;
use cordon_fuzz::{few_and_all, file, library, line, parts};
use libfuzzer_sys::fuzz_target;

/// Shows to the comparison what became of the event.
const WITNESS: &str = "type: trigger\nname: w\ndescription: w\nfilter: 'true'\nscope: {type: x, expression: \"''\"}\n\
                       groupby: ToJsonString([evt.Meta, evt.StrTime, evt.Stage])\n";

fuzz_target!(|input: &str| {
    let [first, second, lines] = parts(input);
    let mut files = RuleFiles::default();
    files.parsers = vec![file("s00-raw", first), file("s01-parse", second)];
    files.scenarios = vec![file("", WITNESS)];
    let rules = Arc::new(RuleSet::build_over(&files, library()).rules);
    for raw in lines.lines().take(4) {
        few_and_all(&rules, &line("fuzz", raw));
    }
});
