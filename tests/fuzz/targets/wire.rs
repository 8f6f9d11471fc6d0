//! Bodies that strangers send to the local API.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(mut alerts) = serde_json::from_slice::<Vec<model::Alert>>(body) {
        for alert in &mut alerts {
            api::wire::normalise(alert);
            api::wire::limit(alert);
        }
        let again = serde_json::to_vec(&alerts).expect("an alert can be written");
        serde_json::from_slice::<Vec<model::Alert>>(&again).expect("what is written can be read again");
    }
    if let Ok(value) = serde_json::from_slice(body) {
        let _ = api::wire::missing_fields(&value);
    }
});
