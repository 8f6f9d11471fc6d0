//! Databases of places, damaged in every way: read, walked, asked. A walk must end, and what it finds must be in order.
#![no_main]

use std::net::IpAddr;

use bouncers::geo::{Database, Databases, Fields};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(countries) = Database::read(input.to_vec(), Fields::default()) else { return };
    let mut last = None;
    let walked = countries.walk(|family, span, _| {
        assert!(span.first <= span.last && span.last <= family.top());
        let place = (family, span.last);
        assert!(last < Some(place), "networks are shown in order, each once");
        last = Some(place);
    });
    let databases = Databases { countries, systems: None };
    for address in ["5.0.0.1", "255.255.255.255", "2a00::1", "2002:500::1", "3fff:ffff::"] {
        let address: IpAddr = address.parse().expect("an address");
        let _ = databases.locate(address);
        let _ = databases.countries.within(address.into(), 100);
    }
    let _ = walked;
});
