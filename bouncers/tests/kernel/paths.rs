//! Every way that a packet can take: to us, through us as a router, through us as a bridge, and out.

use bouncers::engine::{Bouncer, Extent, Never, Wanted};
use bouncers::nftables::devices::Ingress;
use bouncers::nftables::{Nftables, Options};
use jiff::Timestamp;

use crate::namespace::{Far, isolated, refuses, run};
use crate::{Attacker, change, placed, placement, runtime};

/// Gives `far` addresses at `device`.
fn own(far: &mut Far, device: &str, addresses: &[&str]) {
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        far.ip(&format!("address add {address} dev {device}{nodad}"));
    }
}

const ATTACKERS: [&str; 4] = ["10.66.0.2/16", "10.66.1.9/32", "fd66::2/16", "fd66:1::9/128"];
const GUESTS: [&str; 2] = ["10.77.0.2/16", "fd77::2/16"];

const SOURCES: [(&str, &str); 4] = [
    ("10.66.0.2", "10.77.0.2:7777"),
    ("10.66.1.9", "10.77.0.2:7777"),
    ("fd66::2", "[fd77::2]:7777"),
    ("fd66:1::9", "[fd77::2]:7777"),
];

fn reaching(attacker: &mut Far, guest: &mut Far) -> Vec<&'static str> {
    SOURCES.iter().filter(|(source, to)| attacker.reaches(source, guest, to)).map(|(source, _)| *source).collect()
}

async fn open(options: Options, nets: &[&str]) -> Nftables {
    let mut nftables = Nftables::open(options).expect("this host can do it");
    let (wanted, never) = (placement(nets), Never::default());
    nftables
        .rebuild(Wanted::of(&wanted, &never), Extent::Exactly, Timestamp::now())
        .await
        .expect("the kernel takes it");
    nftables
}

/// The attacker and the guest with us between them, as `between` has it.
fn lab(between: impl FnOnce(&mut Far, &mut Far)) -> (Far, Far) {
    let mut attacker = Far::new("v0", "v1");
    own(&mut attacker, "v1", &ATTACKERS);
    let mut guest = Far::new("g0", "g1");
    own(&mut guest, "g1", &GUESTS);
    between(&mut attacker, &mut guest);
    for (_, to) in SOURCES {
        guest.must(&format!("listen {to}"));
    }
    assert!((0..40).any(|_| reaching(&mut attacker, &mut guest).len() == SOURCES.len()), "the way is open at first");
    (attacker, guest)
}

/// We pass packets on between two networks.
fn router() -> (Far, Far) {
    lab(|attacker, guest| {
        for (address, device) in
            [("10.66.0.1/16", "v0"), ("fd66::1/16", "v0"), ("10.77.0.1/16", "g0"), ("fd77::1/16", "g0")]
        {
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            run("ip", &[&["address", "add", address, "dev", device], nodad].concat());
        }
        for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{file}"), "1").expect("the namespace is ours");
        }
        attacker.ip("route add default via 10.66.0.1");
        attacker.ip("-6 route add default via fd66::1");
        guest.ip("route add default via 10.77.0.1");
        guest.ip("-6 route add default via fd77::1");
    })
}

/// We are a bridge, as hosts of virtual machines are, and have no address of our own. The cables carry tagged frames
/// if `tagged`.
fn bridge(tagged: bool) -> (Far, Far) {
    lab(|attacker, guest| {
        run("ip", &["link", "add", "br0", "type", "bridge", "forward_delay", "0"]);
        for device in ["v0", "g0"] {
            run("ip", &["link", "set", device, "master", "br0"]);
        }
        run("ip", &["link", "set", "br0", "up"]);
        for family in ["iptables", "ip6tables"] {
            // where it is there, and on, bridged packets take the way of routed ones
            let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), "0");
        }
        let device = |far: &mut Far, name: &str, addresses: &[&str]| {
            if !tagged {
                return name.to_owned();
            }
            far.ip(&format!("address flush dev {name}"));
            far.ip(&format!("link add link {name} name tagged type vlan id 42"));
            far.ip("link set tagged up");
            own(far, "tagged", addresses);
            "tagged".to_owned()
        };
        let at = device(attacker, "v1", &ATTACKERS);
        attacker.ip(&format!("route add 10.77.0.0/16 dev {at}"));
        attacker.ip(&format!("-6 route add fd77::/16 dev {at}"));
        let at = device(guest, "g1", &GUESTS);
        guest.ip(&format!("route add 10.66.0.0/16 dev {at}"));
        guest.ip(&format!("-6 route add fd66::/16 dev {at}"));
    })
}

#[test]
fn what_is_passed_on_is_blocked_as_well() {
    isolated("paths::what_is_passed_on_is_blocked_as_well", || {
        let (mut attacker, mut guest) = router();
        runtime().block_on(async {
            let mut nftables = open(Options::default(), &["10.66.0.2", "fd66:1::/32"]).await;
            assert_eq!(reaching(&mut attacker, &mut guest), ["10.66.1.9", "fd66::2"]);
            assert_eq!(nftables.dropped().await.expect("the kernel counts").packets, 2);
            let lift = change("10.66.0.2", Some(placed(600)), None);
            nftables.apply(&lift, Timestamp::now()).await.expect("the kernel takes it");
            assert_eq!(reaching(&mut attacker, &mut guest), ["10.66.0.2", "10.66.1.9", "fd66::2"]);
        });
    });
}

#[test]
fn what_a_bridge_passes_on_is_blocked_where_it_arrives() {
    isolated("paths::what_a_bridge_passes_on_is_blocked_where_it_arrives", || {
        let (mut attacker, mut guest) = bridge(false);
        through_a_bridge(&mut attacker, &mut guest);
    });
}

#[test]
fn tagged_frames_are_no_way_around() {
    isolated("paths::tagged_frames_are_no_way_around", || {
        if let Some(reason) = refuses("ip", "link add link lo name tagged type vlan id 42") {
            eprintln!("SKIPPED, NOT PASSED: this kernel has no tagged interfaces: {reason}");
            return;
        }
        let (mut attacker, mut guest) = bridge(true);
        through_a_bridge(&mut attacker, &mut guest);
    });
}

fn through_a_bridge(attacker: &mut Far, guest: &mut Far) {
    runtime().block_on(async {
        let nets = ["10.66.0.2", "fd66:1::/32"];
        let ingress = |ingress| Options { ingress, ..Options::default() };
        let mut nftables = open(ingress(Ingress::Off), &nets).await;
        assert_eq!(reaching(attacker, guest).len(), SOURCES.len(), "prerouting does not see them");
        nftables.teardown().await.expect("it is ours to remove");

        let mut nftables = open(ingress(Ingress::Devices(vec!["v0".into()])), &nets).await;
        assert_eq!(reaching(attacker, guest), ["10.66.1.9", "fd66::2"]);
        assert_eq!(nftables.dropped().await.expect("the kernel counts").packets, 2);
        let lift = change("10.66.0.2", Some(placed(600)), None);
        nftables.apply(&lift, Timestamp::now()).await.expect("the kernel takes it");
        assert_eq!(reaching(attacker, guest), ["10.66.0.2", "10.66.1.9", "fd66::2"]);
        let check = nftables.check(Vec::new()).await.expect("the kernel answers");
        assert!(check.intact);
    });
}

#[test]
fn an_interface_that_comes_later_gets_its_chain_and_one_that_goes_is_no_damage() {
    isolated("paths::an_interface_that_comes_later_gets_its_chain_and_one_that_goes_is_no_damage", || {
        runtime().block_on(async {
            let devices = Ingress::Devices(vec!["late0".into(), "lo".into()]);
            let options = Options { ingress: devices, ..Options::default() };
            let mut nftables = open(options, &["192.0.2.1"]).await;
            assert!(!run("nft", &["list", "chain", "inet", "cordon", "ing"]).contains("late0"));
            run("ip", &["link", "add", "late0", "type", "veth", "peer", "name", "late1"]);
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").intact);
            assert!(run("nft", &["list", "chain", "inet", "cordon", "ing"]).contains("late0"));
            run("ip", &["link", "delete", "late0"]);
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").intact);
            assert!(!run("nft", &["list", "chain", "inet", "cordon", "ing"]).contains("late0"));
        });
    });
}

#[test]
fn nothing_is_sent_to_blocked_addresses_where_that_is_wanted() {
    isolated("paths::nothing_is_sent_to_blocked_addresses_where_that_is_wanted", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.9", "fd66:1::9"]);
        let hearing = |attacker: &mut Attacker| -> Vec<&str> {
            ["10.66.0.2", "10.66.1.9", "fd66::2", "fd66:1::9"].into_iter().filter(|to| attacker.hears_us(to)).collect()
        };
        // a blocked neighbour does not even say where he is, so he is asked before
        assert!((0..20).any(|_| hearing(&mut attacker).len() == 4));
        runtime().block_on(async {
            let nets = ["10.66.0.2", "fd66:1::/32"];
            let mut inbound = open(Options::default(), &nets).await;
            assert_eq!(hearing(&mut attacker).len(), 4, "by default only what arrives is blocked");
            inbound.teardown().await.expect("it is ours to remove");
            let mut nftables = open(Options { outbound: true, ..Options::default() }, &nets).await;
            assert_eq!(hearing(&mut attacker), ["10.66.1.9", "fd66::2"]);
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").intact);
            assert!(nftables.disarm().expect("the kernel takes it"));
            assert_eq!(hearing(&mut attacker).len(), 4, "the panic switch is for both directions");
        });
    });
}

#[test]
fn a_guest_cannot_call_a_blocked_address_either() {
    isolated("paths::a_guest_cannot_call_a_blocked_address_either", || {
        let (mut attacker, mut guest) = router();
        attacker.must("listen 10.66.0.2:7777");
        attacker.must("listen 10.66.1.9:7777");
        runtime().block_on(async {
            let _nftables = open(Options { outbound: true, ..Options::default() }, &["10.66.0.2"]).await;
            assert!(!guest.reaches("10.77.0.2", &mut attacker, "10.66.0.2:7777"));
            assert!(guest.reaches("10.77.0.2", &mut attacker, "10.66.1.9:7777"));
        });
    });
}
