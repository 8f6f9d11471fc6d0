//! Databases, policies and what they drop, over small databases of our own.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use proptest::prelude::*;

use crate::engine::span::Family;
use crate::geo::atlas::{Databases, Implausible, Wanted};
use crate::geo::database::{Database, DatabaseError, FieldPath, Fields};
use crate::geo::mmdb::{Branch, Mmdb, country, system};
use crate::geo::policy::{Kind, Policy, Ports, Unknown};
use crate::geo::{Atlas, Ranges, Region};

fn read(mmdb: &Mmdb) -> Database {
    Database::read(mmdb.bytes(), Fields::default()).expect("a sound database")
}

fn region(text: &str) -> Region {
    Region::parse(text).expect("a valid test region")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("a valid test address")
}

fn policy(kind: Kind, regions: &[&str]) -> Policy {
    Policy {
        name: "test".into(),
        kind,
        regions: regions.iter().map(|text| region(text)).collect(),
        except: Vec::new(),
        unknown: if kind == Kind::Allow { Unknown::Drop } else { Unknown::Pass },
        interfaces: Vec::new(),
        ports: Vec::new(),
        observe: false,
    }
}

fn atlas(databases: &Databases, policies: &[&Policy]) -> Atlas {
    let mut wanted = Wanted::default();
    for policy in policies {
        policy.want(&mut wanted);
    }
    Atlas::survey(databases, &wanted).expect("a sound database")
}

fn shown(ranges: &Ranges) -> String {
    let show = |family: Family| ranges.family(family).iter().map(move |span| span.display(family));
    show(Family::V4).chain(show(Family::V6)).collect::<Vec<_>>().join(" ")
}

/// Two countries beside each other, an overseas piece, a piece in private space, aliases.
fn world() -> Databases {
    let countries = Mmdb::countries(&[
        ("5.0.0.0/16", "DE"),
        ("5.1.0.0/16", "DE"),
        ("5.2.0.0/16", "FR"),
        ("5.2.128.0/24", "DE"),
        ("10.66.0.0/16", "DE"),
        ("2a00::/32", "DE"),
        ("2a00:1::/32", "FR"),
        ("2002::/16", "RU"),
    ]);
    let systems = Mmdb::systems(&[("5.2.0.0/20", 64500), ("9.9.9.0/24", 64501), ("2a00:1::/48", 64500)]);
    Databases { countries: read(&countries.with_aliases()), systems: Some(read(&systems)) }
}

#[test]
fn a_country_is_its_merged_ranges() {
    let databases = world();
    let policy = policy(Kind::Deny, &["DE", "FR", "AS64500", "AS64501"]);
    let atlas = atlas(&databases, &[&policy]);
    let of = |text: &str| atlas.region(region(text)).map(|charted| (charted.networks, shown(&charted.ranges)));
    let expected = |networks, text: &str| Some((networks, text.to_owned()));
    // the private piece counts as a network of the database, and not as an address
    assert_eq!(
        of("DE"),
        expected(5, "5.0.0.0-5.1.255.255 5.2.128.0-5.2.128.255 2a00::-2a00:0:ffff:ffff:ffff:ffff:ffff:ffff")
    );
    assert_eq!(of("AS64501"), expected(1, "9.9.9.0-9.9.9.255"));
    assert_eq!(of("AS64500"), expected(2, "5.2.0.0-5.2.15.255 2a00:1::-2a00:1:0:ffff:ffff:ffff:ffff:ffff"));
    assert_eq!(of("AT"), None);
    assert!(atlas.ipv6() && atlas.known().is_empty());
}

#[test]
fn look_ups_say_where_and_of_which_network() {
    let databases = world();
    // (address, country, network, system)
    let cases = [
        ("5.2.128.7", "DE", "5.2.128.0/24", "-"),
        ("5.2.3.4", "FR", "5.2.0.0/17", "AS64500"),
        ("::ffff:5.1.2.3", "DE", "5.0.0.0/15", "-"),
        ("2a00:1::1", "FR", "2a00:1::/32", "AS64500"),
        ("9.9.9.9", "-", "-", "AS64501"),
        ("10.66.0.2", "-", "-", "-"),
        ("2002:502::1", "-", "-", "-"),
        ("2001:0:502::1", "-", "-", "-"),
        ("2a01::1", "-", "-", "-"),
    ];
    for (text, country, network, system) in cases {
        let at = databases.locate(address(text)).expect("a sound database");
        let show = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let found = [
            show(at.record.country.map(|code| code.to_string())),
            show(at.network.map(|net| net.to_string())),
            show(at.record.system.map(|number| format!("AS{number}"))),
        ];
        // the two halves of a network are one record, and may be told as one network or as two
        let network = if text == "::ffff:5.1.2.3" { "5.1.0.0/16" } else { network };
        assert_eq!(found, [country, network, system], "{text}");
    }
}

#[test]
fn what_policies_drop() {
    let databases = world();
    let unknown = |unknown, policy: Policy| Policy { unknown, ..policy };
    let except =
        |net: &str, policy: Policy| Policy { except: vec![net.parse().expect("a valid test prefix")], ..policy };
    let allow = |regions: &[&str]| policy(Kind::Allow, regions);
    let deny = |regions: &[&str]| policy(Kind::Deny, regions);
    // (policy, address, what is said)
    let cases = [
        (allow(&["DE"]), "5.0.0.1", "passes: DE is allowed"),
        (allow(&["DE"]), "5.2.0.1", "dropped: its country is not among those allowed"),
        (allow(&["DE"]), "5.2.128.1", "passes: DE is allowed"),
        (allow(&["DE"]), "8.8.8.8", "dropped: nobody knows its country (`unknown: drop`)"),
        (allow(&["DE"]), "192.168.1.1", "passes: reserved space is part of no country"),
        (allow(&["DE"]), "fe80::1", "passes: reserved space is part of no country"),
        (allow(&["DE"]), "2002:502::1", "dropped: nobody knows its country (`unknown: drop`)"),
        (allow(&["DE", "AS64500"]), "5.2.0.1", "passes: AS64500 is allowed"),
        (allow(&["DE", "AS64500"]), "5.2.16.1", "dropped: its country is not among those allowed"),
        (allow(&["AS64501"]), "9.9.9.9", "passes: AS64501 is allowed"),
        (unknown(Unknown::Pass, allow(&["DE"])), "8.8.8.8", "passes: nobody knows its country (`unknown: pass`)"),
        (unknown(Unknown::Pass, allow(&["DE"])), "5.2.0.1", "dropped: its country is not among those allowed"),
        (except("5.2.0.0/24", allow(&["DE"])), "5.2.0.1", "passes: `except` has 5.2.0.0/24"),
        (deny(&["FR"]), "5.2.0.1", "dropped: FR is denied"),
        (deny(&["FR"]), "5.2.128.1", "passes: its country is not among those denied"),
        (deny(&["FR"]), "2a00:1::9", "dropped: FR is denied"),
        (deny(&["FR"]), "8.8.8.8", "passes: nobody knows its country (`unknown: pass`)"),
        (deny(&["AS64500"]), "5.2.0.1", "dropped: AS64500 is denied"),
        (except("5.2.0.0/24", deny(&["AS64500"])), "5.2.0.1", "passes: `except` has 5.2.0.0/24"),
        (unknown(Unknown::Drop, deny(&["FR"])), "8.8.8.8", "dropped: nobody knows its country (`unknown: drop`)"),
        (unknown(Unknown::Drop, deny(&["FR"])), "5.0.0.1", "passes: its country is not among those denied"),
        (unknown(Unknown::Drop, deny(&["FR"])), "10.66.0.9", "passes: reserved space is part of no country"),
    ];
    for (policy, text, expected) in cases {
        let at = databases.locate(address(text)).expect("a sound database");
        let judgement = policy.judge(address(text), &at);
        assert_eq!(judgement.to_string(), expected, "{text} under {policy:?}");
        let dropped = policy.dropped(&atlas(&databases, &[&policy]));
        assert_eq!(dropped.contains(address(text)), judgement.is_drop(), "{text} in the set of {policy:?}");
    }
}

#[test]
fn records_of_every_maker_are_understood() {
    let list = serde_json::json!([1, "DE"]);
    // (record, country, system)
    let cases = [
        (country("de"), Some("DE"), None),
        (serde_json::json!({ "registered_country": { "iso_code": "FR" } }), Some("FR"), None),
        (serde_json::json!({ "represented_country": { "iso_code": "US" } }), None, None),
        (serde_json::json!({ "country_code": "AT" }), Some("AT"), None),
        (serde_json::json!({ "country": "CH", "asn": "AS64500" }), Some("CH"), Some(64500)),
        (serde_json::json!({ "country": { "iso_code": "" }, "country_code": "IT" }), Some("IT"), None),
        (serde_json::json!({ "country": { "iso_code": list }, "asn": { "number": 7 } }), None, None),
        (serde_json::json!({ "autonomous_system_number": 0 }), None, None),
        (system(4_200_000_000), None, Some(4_200_000_000)),
        (serde_json::json!("DE"), None, None),
    ];
    for (record, code, number) in cases {
        let database = read(&Mmdb::new().with("5.0.0.0/8", record.clone()));
        let found = database.lookup(address("5.6.7.8")).expect("a sound database").record;
        assert_eq!(found.country.map(|code| code.to_string()).as_deref(), code, "{record}");
        assert_eq!(found.system, number, "{record}");
    }
}

#[test]
fn the_place_of_the_country_can_be_told() {
    let fields =
        Fields { country: FieldPath::parse("registered_country.iso_code").into_iter().collect(), ..Fields::default() };
    let mmdb = Mmdb::countries(&[("5.0.0.0/8", "DE")]);
    let found = Database::read(mmdb.bytes(), fields).expect("a sound database").lookup(address("5.6.7.8"));
    assert_eq!(found.expect("a sound database").record.country.map(|code| code.to_string()).as_deref(), Some("ZZ"));
    assert!(FieldPath::parse("country..iso_code").is_none() && FieldPath::parse("").is_none());
}

#[test]
fn a_database_of_ipv4_says_nothing_of_ipv6() {
    let databases = Databases { countries: read(&Mmdb::ipv4().with("5.0.0.0/8", country("DE"))), systems: None };
    let policy = policy(Kind::Deny, &["DE"]);
    let atlas = atlas(&databases, &[&policy]);
    assert_eq!(shown(&policy.dropped(&atlas)), "5.0.0.0-5.255.255.255");
    assert!(!atlas.ipv6());
    assert_eq!(databases.locate(address("2a00::1")).expect("a sound database").record.country, None);
}

#[test]
fn an_implausible_database_is_not_believed() {
    let survey = |entries: &[(&str, &str)]| {
        let databases = Databases { countries: read(&Mmdb::countries(entries)), systems: None };
        atlas(&databases, &[&policy(Kind::Deny, &["DE"])])
    };
    let full = survey(&[("5.0.0.0/16", "DE"), ("5.4.0.0/16", "DE"), ("2a00::/32", "DE"), ("6.0.0.0/8", "FR")]);
    let fewer = survey(&[("5.0.0.0/16", "DE"), ("5.4.0.0/17", "DE"), ("2a00::/32", "DE")]);
    let without = survey(&[("6.0.0.0/8", "FR")]);
    let before = Some(full.tally());
    assert_eq!(full.validate(3, before, 0), Ok(()));
    assert_eq!(fewer.validate(1, before, 30), Ok(()), "a quarter may go");
    let shrunk = Implausible::Shrunk { what: "IPv4 addresses", before: 131_072, now: 98_304, most: 20 };
    assert_eq!(fewer.validate(1, before, 20), Err(shrunk));
    let few = Implausible::TooFew { region: region("DE"), networks: 0, least: 1 };
    assert_eq!(without.validate(1, None, 30), Err(few));
}

#[test]
fn a_tree_that_runs_in_circles_is_an_error() {
    // Every node leads to the next one twice: a walk would find 2 to the power of 128 leaves.
    let mut twice = Mmdb::new();
    twice.nodes = (1..128).map(|next| [Branch::Node(next), Branch::Node(next)]).chain([[Branch::Empty; 2]]).collect();
    let mut alias = Mmdb::new();
    // The same, and everything ends where IPv4 begins: what is skipped must count as well.
    alias.nodes =
        (1..100).map(|next| [Branch::Node(next), Branch::Node(next)]).chain([[Branch::Node(96); 2]]).collect();
    let mut itself = Mmdb::new();
    itself.nodes = vec![[Branch::Node(0); 2]];
    for (what, mmdb) in [("every leaf twice", twice), ("back to IPv4", alias), ("a node in itself", itself)] {
        let read = Database::read(mmdb.bytes(), Fields::default()).expect("its parts are sound");
        assert!(read.walk(|_, _, _| {}).is_err(), "{what}");
        let net: IpNet = "2a00::/16".parse().expect("a valid test prefix");
        assert!(!matches!(read.within(net, 1000), Ok(Some(_))), "{what}");
    }
    assert!(matches!(Database::read(vec![0; 64], Fields::default()), Err(DatabaseError::Format(_))));
}

#[test]
fn what_it_says_about_itself() {
    let about = read(&Mmdb::new()).about();
    assert_eq!((about.kind.as_str(), about.ipv6, about.nodes), ("Test", true, 1));
    assert_eq!(about.built, Timestamp::from_second(1_700_000_000).ok());
}

#[test]
fn ports_as_people_write_them() {
    for text in ["22", "8000-8099", "tcp/443", "udp/1-65535"] {
        assert_eq!(Ports::parse(text).map(|ports| ports.to_string()).as_deref(), Some(text));
    }
    assert_eq!(Ports::parse("22-22").map(|ports| ports.to_string()).as_deref(), Some("22"));
    for text in ["", "0", "65536", "ssh", "99-9", "icmp/8", "tcp/", "1-2-3", "+22", "-1", " 22"] {
        assert_eq!(Ports::parse(text), None, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_dropped_set_agrees_with_the_judgement_of_each_address(
        // (first octets, prefix length, country, as IPv6)
        networks in proptest::collection::vec((0..8u8, 0..=255u8, 6..=16u8, 0..4usize, any::<bool>()), 1..16),
        systems in proptest::collection::vec((0..8u8, 0..=255u8, 6..=16u8, 1..3u32), 0..6),
        kind in prop_oneof![Just(Kind::Allow), Just(Kind::Deny)],
        unknown in prop_oneof![Just(Unknown::Pass), Just(Unknown::Drop)],
        named in proptest::collection::btree_set(0..4usize, 1..3),
        with_system in any::<bool>(),
        probes in proptest::collection::vec((0..8u8, 0..=255u8, any::<bool>()), 24),
    ) {
        const CODES: [&str; 4] = ["DE", "FR", "AT", "CH"];
        let v4 = |a: u8, b: u8, length: u8| format!("{a}.{b}.0.0/{length}");
        let v6 = |a: u8, b: u8, length: u8| format!("2{a}00:{b:x}00::/{}", length + 8);
        let mut countries = Mmdb::new();
        for (a, b, length, code, six) in networks {
            countries = countries.with(&if six { v6(a, b, length) } else { v4(a, b, length) }, country(CODES[code]));
        }
        let mut by_system = Mmdb::new();
        for (a, b, length, number) in systems {
            by_system = by_system.with(&v4(a, b, length), system(number));
        }
        let databases = Databases { countries: read(&countries.with_aliases()), systems: Some(read(&by_system)) };
        let mut regions: Vec<&str> = named.into_iter().map(|at| CODES[at]).collect();
        if with_system {
            regions.push("AS1");
        }
        let policy = Policy { unknown, ..policy(kind, &regions) };
        let dropped = policy.dropped(&atlas(&databases, &[&policy]));
        for (a, b, six) in probes {
            let probe = if six { format!("2{a}00:{b:x}01::1") } else { format!("{a}.{b}.1.1") };
            let at = databases.locate(address(&probe)).expect("a sound database");
            prop_assert_eq!(dropped.contains(address(&probe)), policy.judge(address(&probe), &at).is_drop(), "{}", probe);
        }
        for spans in [&dropped.v4, &dropped.v6] {
            prop_assert!(spans.windows(2).all(|pair| pair[0].last + 1 < pair[1].first), "merged and in order");
        }
    }

    #[test]
    fn a_damaged_database_never_panics(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = Mmdb::countries(&[("5.0.0.0/16", "DE"), ("2a00::/32", "FR")]).with_aliases().bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(database) = Database::read(bytes, Fields::default()) {
            let _ = database.walk(|_, span, _| assert!(span.first <= span.last));
            let _ = database.lookup(address("5.0.0.1"));
            let _ = database.lookup(address("2a00::1"));
        }
    }
}
