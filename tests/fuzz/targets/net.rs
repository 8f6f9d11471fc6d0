//! Addresses, ranges and durations as people and servers write them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(net) = model::scope::parse_net(text) {
        let shown = model::allowlist::display_net(net);
        assert_eq!(model::scope::parse_net(&shown), Ok(net), "what is shown can be read again");
    }
    if let Ok(duration) = model::duration::parse_with_days(text) {
        let shown = model::duration::format(duration);
        assert_eq!(model::duration::parse(&shown), Ok(duration), "what is shown can be read again");
    }
});
