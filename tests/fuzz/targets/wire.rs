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
    // what machines send before anybody knows them
    let _ = serde_json::from_slice::<api::wire::LoginBody>(body);
    let _ = serde_json::from_slice::<api::wire::RegisterBody>(body);
    if let Ok(targets) = serde_json::from_slice::<api::wire::Targets>(body) {
        for target in &targets.targets {
            let _ = model::scope::parse_net(target);
        }
    }
    // what a server, which may be anybody's, answers
    let now = jiff::Timestamp::UNIX_EPOCH;
    if let Ok(stream) = serde_json::from_slice::<api::wire::StreamBody>(body) {
        for live in stream.new.into_iter().chain(stream.deleted).flatten() {
            let decision = live.read(now);
            let _ = decision.is_active(now);
        }
    }
    let _ = serde_json::from_slice::<api::wire::Changes>(body);
    if let Ok(token) = serde_json::from_slice::<api::wire::TokenBody>(body) {
        let _ = api::wire::parse_time(&token.expire);
    }
});
