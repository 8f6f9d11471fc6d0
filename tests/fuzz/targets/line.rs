//! Lines that attackers write, through the rules we ship.
#![no_main]

use std::cell::OnceCell;
use std::sync::Arc;

use agent::explain::explain;
use agent::load::{Folders, RuleFiles};
use agent::ruleset::RuleSet;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use model::{AllowSet, Origin};

thread_local! {
    static RULES: OnceCell<Arc<RuleSet>> = const { OnceCell::new() };
}

fuzz_target!(|input: (u8, &str)| {
    let (kind, line) = input;
    let kind = ["syslog", "nginx", "apache2", "sshd"][usize::from(kind % 4)];
    let origin = Origin { labels: vec![("type".into(), kind.into())], ..Origin::default() };
    RULES.with(|rules| {
        let rules = rules.get_or_init(|| {
            let files = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
            Arc::new(RuleSet::build(&files).rules)
        });
        explain(rules, line, origin, &Arc::new(AllowSet::default()), Timestamp::UNIX_EPOCH);
    });
});
