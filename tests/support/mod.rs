//! What the end-to-end tests share: a running cordon in a temporary folder, real servers, hosts that attack them.

pub(crate) mod cordon;
pub(crate) mod crowdsec;
pub(crate) mod servers;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::lab::{Host, Stream};

/// Long enough for a loaded machine; nothing waits this long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The echo service's port.
pub(crate) const ECHO: u16 = 7007;

/// Whether namespaces can be made here. If not, says loudly that the test did not run.
pub(crate) fn can_make_networks() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIPPED, NOT PASSED: network namespaces need root: run the tests as root");
    false
}

/// Waits until `condition` holds, or fails with what was waited for.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A scenario in which `capacity` wrong passwords of an address are forgiven and the next one is not; no time heals.
pub(crate) fn guesses(name: &str, capacity: u32) -> String {
    format!(
        "type: leaky\nname: test/{name}\ndescription: wrong passwords\nfilter: evt.Meta.log_type == 'ssh_failed-auth'\n\
         groupby: evt.Meta.source_ip\ncapacity: {capacity}\nleakspeed: 1000h\nlabels: {{remediation: true}}\n"
    )
}

/// Opens a conversation with the victim's echo service, if it answers.
pub(crate) fn open(host: &Host, own: IpAddr, victim: IpAddr) -> Option<Stream> {
    Stream::open(host, own, SocketAddr::new(victim, ECHO), Duration::from_millis(700))
}

/// Whether `victim` answers a new connection from `own`.
pub(crate) fn reaches(host: &Host, own: IpAddr, victim: IpAddr) -> bool {
    open(host, own, victim).is_some_and(|mut stream| stream.alive())
}
