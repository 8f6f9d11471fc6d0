//! Lines that attackers write, through all stages and scenarios of the rules we ship, or of those in `FUZZ_RULES`. The first line of
//! an input is the type of the log.
#![no_main]

use std::cell::OnceCell;
use std::sync::Arc;

use agent::ruleset::RuleSet;
use cordon_fuzz::{all_rules, few_and_all, line};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static RULES: OnceCell<Arc<RuleSet>> = const { OnceCell::new() };
}

fuzz_target!(|input: &str| {
    let (kind, lines) = input.split_once('\n').unwrap_or(("syslog", input));
    RULES.with(|rules| {
        let rules = rules.get_or_init(all_rules);
        for raw in lines.lines().take(4) {
            few_and_all(rules, &line(kind, raw));
        }
    });
});
