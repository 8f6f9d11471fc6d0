//! What the kernel should hold for policies and for decisions about regions, as a value.
//!
//! Every policy has two sets of what it drops. They have two names, used in turn: new sets are filled while the rules still
//! look at the old ones, and then rules and sets change in one step. What is dropped goes to the chain that bans go to, so
//! whoever disarms or only observes does so for both.

use crate::engine::span::{Family, Span, TimedSpan, join};
use crate::geo::policy::{Policy, Ports, Transport};
use crate::geo::ranges::Ranges;
use crate::nftables::ruleset::{Field, KeyType, Part, Rule, Set, SetRef, Shape, Statement, Verdict};
use crate::nftables::template::HIT;

/// The interfaces on which policies without interfaces of their own hold, as long as somebody renews that.
pub const LEASE: SetRef = interfaces("lease");
/// Counts what decisions about regions drop.
pub const BANNED: &str = "geobans";

/// Decisions about regions.
const BAN4: SetRef = SetRef::ranges("geo_ban4", Family::V4);
const BAN6: SetRef = SetRef::ranges("geo_ban6", Family::V6);

/// The sets of one policy: IPv4, IPv6, interfaces, TCP ports, UDP ports.
type Names = [&'static str; 5];

macro_rules! names {
    ($($number:literal)*) => {
        [$([
            concat!("geo", $number, "_v4"),
            concat!("geo", $number, "_v6"),
            concat!("geo", $number, "_if"),
            concat!("geo", $number, "_tcp"),
            concat!("geo", $number, "_udp"),
        ]),*]
    };
}

/// As many as there may be policies.
const NAMES: [Names; crate::geo::policy::MAX_POLICIES] = names!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const fn interfaces(stem: &'static str) -> SetRef {
    SetRef { stem, key: KeyType::Interface, shape: Shape::Single, second: false }
}

/// What is to be held in a set of interfaces, and renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The set.
    pub set: SetRef,
    /// Names of interfaces, or with a `*` what they begin with; empty is all of them.
    pub patterns: Vec<String>,
}

impl Hold {
    /// Those of `known` that are meant.
    pub fn names<'a>(&self, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let fits = |pattern: &String, name: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        };
        let mut names: Vec<&str> = known
            .into_iter()
            .filter(|name| self.patterns.is_empty() || self.patterns.iter().any(|pattern| fits(pattern, name)))
            .collect();
        names.sort_unstable();
        names
    }
}

/// The name of a policy's counter in the kernel.
pub fn counter(policy: &str) -> String {
    format!("geo_{policy}")
}

/// What the kernel is to hold: `policies` with what they drop, `bans` until they end. Without `leased` policies hold on every
/// interface that is theirs until somebody removes them. `second` says which of its two names each set of addresses has.
pub fn part(
    policies: &[(Policy, Ranges)],
    bans: &(Vec<TimedSpan>, Vec<TimedSpan>),
    leased: bool,
    second: bool,
) -> (Part, Vec<Hold>) {
    let mut part = Part::default();
    let mut holds: Vec<Hold> = Vec::new();
    if !bans.0.is_empty() || !bans.1.is_empty() {
        part.counters.push(BANNED.to_owned());
        for (set, family, spans) in [(BAN4, Family::V4, &bans.0), (BAN6, Family::V6, &bans.1)] {
            let set = set.in_generation(second);
            part.sets.push(Set { set, timeout: true, counting: false, size: None });
            part.timed.push((set, spans.clone()));
            part.bans.push(vec![source(family, set), Statement::Count(BANNED.to_owned()), to_bans()]);
        }
    }
    if policies.is_empty() {
        return (part, holds);
    }
    // Connections from before connections were tracked look like new ones in the middle: only what really begins is judged.
    part.rules.push(vec![Statement::Protocol(TCP), Statement::NotSyn, Statement::Verdict(Verdict::Accept)]);
    part.rules.push(vec![
        Statement::Protocol(ICMPV6),
        Statement::NeighbourDiscovery,
        Statement::Verdict(Verdict::Accept),
    ]);
    for ((policy, dropped), names) in policies.iter().zip(NAMES) {
        let [v4, v6, on, tcp, udp] = names;
        let mut place: Rule = Vec::new();
        if leased || !policy.interfaces.is_empty() {
            let own = !policy.interfaces.is_empty();
            let set = if own { interfaces(on) } else { LEASE };
            place.push(Statement::In { field: Field::Input, set, not: false });
            if !part.sets.iter().any(|known| known.set == set) {
                part.sets.push(Set { set, timeout: true, counting: false, size: None });
                holds.push(Hold { set, patterns: policy.interfaces.clone() });
            }
        }
        let mut starts: Vec<Rule> = Vec::new();
        if policy.ports.is_empty() {
            starts.push(place);
        } else {
            for (stem, transport, protocol) in [(tcp, Transport::Tcp, TCP), (udp, Transport::Udp, UDP)] {
                let ports = spans_of(&policy.ports, transport);
                if ports.is_empty() {
                    continue;
                }
                let set = SetRef { stem, key: KeyType::Port, shape: Shape::Ranges, second };
                part.sets.push(Set { set, timeout: false, counting: false, size: None });
                part.fill.push((set, ports));
                let to = Statement::In { field: Field::DestinationPort, set, not: false };
                starts.push([vec![Statement::Protocol(protocol), to], place.clone()].concat());
            }
        }
        let name = counter(&policy.name);
        for (stem, family) in [(v4, Family::V4), (v6, Family::V6)] {
            let set = SetRef::ranges(stem, family).in_generation(second);
            part.sets.push(Set { set, timeout: false, counting: false, size: None });
            part.fill.push((set, dropped.family(family).to_vec()));
            for start in &starts {
                let mut rule = start.clone();
                rule.extend([source(family, set), Statement::Count(name.clone())]);
                if !policy.observe {
                    rule.push(to_bans());
                }
                part.rules.push(rule);
            }
        }
        part.counters.push(name);
    }
    (part, holds)
}

fn source(family: Family, set: SetRef) -> Statement {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    Statement::In { field: Field::Source(family, bits), set, not: false }
}

fn to_bans() -> Statement {
    Statement::Verdict(Verdict::Goto(HIT.to_owned()))
}

/// The ports of one protocol, joined.
fn spans_of(ports: &[Ports], transport: Transport) -> Vec<Span> {
    let fits = |ports: &&Ports| ports.transport == Transport::Both || ports.transport == transport;
    let span = |ports: &Ports| Span { first: ports.first.into(), last: ports.last.into() };
    join(ports.iter().filter(fits).map(span).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::geo::Region;
    use crate::geo::policy::{Kind, Unknown};
    use crate::nftables::ruleset::Ruleset;

    fn policy(name: &str, interfaces: &[&str], ports: &[&str]) -> (Policy, Ranges) {
        let policy = Policy {
            name: name.into(),
            kind: Kind::Deny,
            regions: BTreeSet::from([Region::parse("KP").expect("a region")]),
            except: Vec::new(),
            unknown: Unknown::Pass,
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            ports: ports.iter().map(|text| Ports::parse(text).expect("ports")).collect(),
            observe: name == "watch",
        };
        (policy, Ranges::of(["5.0.0.0/16", "2a00::/32"].map(|net| net.parse().expect("a valid test prefix"))))
    }

    fn shown(part: &Part) -> String {
        let chain = |name: &str, rules: &[Rule]| crate::nftables::ruleset::Chain {
            name: name.into(),
            hook: None,
            rules: rules.to_vec(),
        };
        let chains = vec![chain("bans", &part.bans), chain("rules", &part.rules)];
        Ruleset { sets: part.sets.clone(), counters: part.counters.clone(), chains }.to_string()
    }

    #[test]
    fn policies_in_the_kernel() {
        let policies = [
            policy("world", &[], &[]),
            policy("office", &["eno1", "vmbr*"], &["22", "8000-8099", "udp/53"]),
            policy("watch", &[], &["tcp/443"]),
        ];
        let until = jiff::Timestamp::UNIX_EPOCH;
        let bans = (vec![(Span { first: 1, last: 2 }, until)], Vec::new());
        let (leased, holds) = part(&policies, &bans, true, true);
        insta::assert_snapshot!(shown(&leased), @r#"
        set geo_ban4_b { type ipv4_addr; flags interval,timeout; }
        set geo_ban6_b { type ipv6_addr; flags interval,timeout; }
        set lease { type ifname; flags timeout; }
        set geo0_v4_b { type ipv4_addr; flags interval; }
        set geo0_v6_b { type ipv6_addr; flags interval; }
        set geo1_if { type ifname; flags timeout; }
        set geo1_tcp_b { type inet_service; flags interval; }
        set geo1_udp_b { type inet_service; flags interval; }
        set geo1_v4_b { type ipv4_addr; flags interval; }
        set geo1_v6_b { type ipv6_addr; flags interval; }
        set geo2_tcp_b { type inet_service; flags interval; }
        set geo2_v4_b { type ipv4_addr; flags interval; }
        set geo2_v6_b { type ipv6_addr; flags interval; }
        counter geobans { }
        counter geo_world { }
        counter geo_office { }
        counter geo_watch { }
        chain bans {
          ip saddr @geo_ban4_b counter name "geobans" goto hit_ban
          ip6 saddr @geo_ban6_b counter name "geobans" goto hit_ban
        }
        chain rules {
          meta l4proto 6 tcp flags & (fin | syn | rst | ack) != syn accept
          meta l4proto 58 icmpv6 type 133-137 accept
          iifname @lease ip saddr @geo0_v4_b counter name "geo_world" goto hit_ban
          iifname @lease ip6 saddr @geo0_v6_b counter name "geo_world" goto hit_ban
          meta l4proto 6 th dport @geo1_tcp_b iifname @geo1_if ip saddr @geo1_v4_b counter name "geo_office" goto hit_ban
          meta l4proto 17 th dport @geo1_udp_b iifname @geo1_if ip saddr @geo1_v4_b counter name "geo_office" goto hit_ban
          meta l4proto 6 th dport @geo1_tcp_b iifname @geo1_if ip6 saddr @geo1_v6_b counter name "geo_office" goto hit_ban
          meta l4proto 17 th dport @geo1_udp_b iifname @geo1_if ip6 saddr @geo1_v6_b counter name "geo_office" goto hit_ban
          meta l4proto 6 th dport @geo2_tcp_b iifname @lease ip saddr @geo2_v4_b counter name "geo_watch"
          meta l4proto 6 th dport @geo2_tcp_b iifname @lease ip6 saddr @geo2_v6_b counter name "geo_watch"
        }
        "#);
        let held: Vec<(String, Vec<String>)> =
            holds.iter().map(|hold| (hold.set.name(), hold.patterns.clone())).collect();
        assert_eq!(held, [("lease".into(), vec![]), ("geo1_if".into(), vec!["eno1".to_owned(), "vmbr*".into()])]);
        let ports: Vec<String> = leased
            .fill
            .iter()
            .filter(|(set, _)| set.key == KeyType::Port)
            .map(|(set, spans)| format!("{} {spans:?}", set.name()))
            .collect();
        let expected = [
            "geo1_tcp_b [0x16..=0x16, 0x1f40..=0x1fa3]",
            "geo1_udp_b [0x16..=0x16, 0x35..=0x35, 0x1f40..=0x1fa3]",
            "geo2_tcp_b [0x1bb..=0x1bb]",
        ];
        assert_eq!(ports, expected);
    }

    #[test]
    fn without_a_lease_only_chosen_interfaces_are_looked_at() {
        let (lasting, holds) = part(&[policy("world", &[], &[])], &Default::default(), false, false);
        insta::assert_snapshot!(shown(&lasting), @r#"
        set geo0_v4 { type ipv4_addr; flags interval; }
        set geo0_v6 { type ipv6_addr; flags interval; }
        counter geo_world { }
        chain bans {
        }
        chain rules {
          meta l4proto 6 tcp flags & (fin | syn | rst | ack) != syn accept
          meta l4proto 58 icmpv6 type 133-137 accept
          ip saddr @geo0_v4 counter name "geo_world" goto hit_ban
          ip6 saddr @geo0_v6 counter name "geo_world" goto hit_ban
        }
        "#);
        assert!(holds.is_empty());
        assert_eq!(part(&[], &Default::default(), true, false), (Part::default(), Vec::new()));
    }

    #[test]
    fn interfaces_are_chosen_by_name_or_beginning() {
        let names = |patterns: &[&str]| {
            let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            Hold { set: LEASE, patterns }.names(["vmbr1", "eno1", "vmbr0", "vm"])
        };
        assert_eq!(names(&[]), ["eno1", "vm", "vmbr0", "vmbr1"]);
        assert_eq!(names(&["vmbr*"]), ["vmbr0", "vmbr1"]);
        assert_eq!(names(&["eno1", "eno2"]), ["eno1"]);
    }
}
