//! Questions of reverse proxies: chains of addresses, paths, names and references that strangers wrote.
#![no_main]

use std::sync::LazyLock;

use bouncers::forward::chain::{Proxies, client};
use bouncers::forward::config::{Config, RawConfig};
use bouncers::forward::metrics::Metrics;
use bouncers::forward::profile::Posture;
use bouncers::forward::reference::Reference;
use bouncers::forward::service::Service;
use bouncers::serve::Peer;
use jiff::Timestamp;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Asked<'a> {
    from_a_proxy: bool,
    chain: Vec<&'a [u8]>,
    uri: &'a [u8],
    user: &'a [u8],
    accept: &'a [u8],
    reference: &'a str,
}

static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let text = "listen: unix:/fuzz\ntrusted_proxies: [10.0.0.0/8, 'fd00::/8']\nprofiles:\n  web: { identity: X-User, paths: [/.git] }";
    let raw: RawConfig = serde_saphyr::from_str(text).expect("valid YAML");
    let config: Config = raw.check(&[]).expect("a valid configuration");
    Service::new(&config, None, Posture::Judging, Metrics::default())
});

fuzz_target!(|asked: Asked<'_>| {
    let proxies = Proxies::new(&["10.0.0.0/8".parse().expect("a prefix")]);
    if let Ok(address) = client(asked.chain.iter().copied(), &proxies) {
        assert_eq!(address, address.to_canonical(), "one address has one spelling");
        // what stands to the left of the client changes nothing
        if !proxies.contains(address) {
            let more = [b"forged".as_slice()].into_iter().chain(asked.chain.iter().copied());
            assert_eq!(client(more, &proxies), Ok(address));
        }
    }
    if let Ok(reference) = asked.reference.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
    let mut request = hyper::Request::builder().uri("/v1/check/web");
    for value in &asked.chain {
        request = request.header("x-forwarded-for", *value);
    }
    let request = request.header("x-forwarded-uri", asked.uri).header("x-user", asked.user).header("accept", asked.accept);
    // what is no header never reaches us
    let Ok(request) = request.body(()) else { return };
    let address = if asked.from_a_proxy { "10.0.0.1" } else { "192.0.2.1" };
    let peer = Peer { address: address.parse().ok(), names: Vec::new() };
    let status = SERVICE.answer(&peer, &request.into_parts().0, Timestamp::UNIX_EPOCH).status().as_u16();
    assert!([204, 400, 403].contains(&status), "{status}");
});
