//! Requests for feeds: what consumers may ask, and that no body covers what is not banned.
#![no_main]

use bouncers::engine::desired::{Key, Subject};
use bouncers::engine::plan::{Placed, Why};
use bouncers::feed::query::{Format, Query};
use bouncers::feed::render::{Heading, render};
use bouncers::feed::rows::Rows;
use jiff::{SignedDuration, Timestamp};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Asked<'a> {
    format: u8,
    query: &'a str,
    /// Address, length, seconds until it ends, who decided.
    bans: Vec<(u32, u8, u16, bool)>,
}

fuzz_target!(|asked: Asked<'_>| {
    let formats = Format::all();
    let Some(&format) = formats.get(usize::from(asked.format) % formats.len()) else { return };
    let Ok(query) = Query::new(format).parse(asked.query) else { return };
    assert_eq!(query.clone().within(&query).map(|query| query.to_string()), Ok(query.to_string()));
    let now = Timestamp::UNIX_EPOCH;
    let bans = asked.bans.iter().take(64).map(|&(bits, length, seconds, list)| {
        let net = ipnet::Ipv4Net::new(bits.into(), 8 + length % 25).expect("a length up to 32").trunc();
        let key = Key { remediation: "ban".into(), subject: Subject::Net(net.into()) };
        let origin = if list { "lists" } else { "cordon" };
        let why = Why { id: 1, origin: origin.into(), scenario: asked.query.into() };
        let until = now + SignedDuration::from_secs(seconds.into());
        (key, Some((Placed { until, pieces: None }, why)))
    });
    let rows = Rows::default().with(bans, now);
    let rendered = render(&rows, &query, &Heading { name: "fuzz", sequence: 1, now });
    let body = std::str::from_utf8(&rendered.body).expect("text");
    assert!(!body.is_empty());
    assert!(query.max.is_none_or(|max| rendered.count <= max));
    if format == Format::Json {
        serde_json::from_str::<serde_json::Value>(body).expect("JSON");
        return;
    }
    assert!(body.starts_with("# fuzz: "));
    if format == Format::Text && query.placeholder.is_none() {
        for line in body.lines().skip(1) {
            let net = model::scope::parse_net(line).expect("an entry");
            let banned = rows.items(now).filter(|item| query.takes(&item.kind.action, &item.kind.origin));
            let ends = [net.network(), net.broadcast()];
            let nets: Vec<_> = banned.map(|item| item.net).collect();
            assert!(ends.iter().all(|end| nets.iter().any(|net| net.contains(end))), "{line}");
        }
    }
});
