//! What a kernel might answer.
#![no_main]

use bouncers::nftables::netlink::{attributes, messages, number32, string};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    for message in messages(datagram) {
        let _ = message.verdict("the fuzzer");
        for (_, value) in message.attributes() {
            let _ = (string(value), number32(value));
            let _ = attributes(value).count();
        }
    }
});
