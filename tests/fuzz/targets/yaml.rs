//! Files with rules, as strangers publish them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(documents) = model::yaml::documents(text) {
        for document in &documents {
            let _ = document.to_json();
        }
    }
});
