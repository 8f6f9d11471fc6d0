//! The rules of the one table: who passes first, who is blocked, and where in the kernel that is asked.

use crate::engine::span::Family;
use crate::nftables::layout::{Layout, Origins};
use crate::nftables::ruleset::{
    Chain, Field, Hook, KeyType, Part, Place, Rule, Ruleset, Set, SetRef, Shape, Statement, Verdict,
};

/// Addresses that pass before any block.
pub const ALLOW4: SetRef = SetRef::ranges("allow4", Family::V4);
/// Addresses that pass before any block.
pub const ALLOW6: SetRef = SetRef::ranges("allow6", Family::V6);

/// The chain that everything enters by.
pub const CHAIN: &str = "pre";
/// The chain at single interfaces, for what never gets to [`CHAIN`].
pub const INGRESS: &str = "ing";
/// The chain for what this host sends.
pub const OUTPUT: &str = "out";
/// The chain for what this host passes on.
pub const FORWARD: &str = "fwd";
/// The chain that decides about a packet from a blocked address.
pub const HIT: &str = "hit_ban";
/// The chain that decides about a packet to a blocked address.
pub const HIT_OUT: &str = "hit_out";
/// An empty chain that says: a person has disarmed the table, leave it so.
pub const DISARMED: &str = "disarmed";
/// Counts what came from blocked addresses.
pub const BANNED: &str = "c_ban";
/// Counts what was sent to blocked addresses.
pub const BANNED_OUT: &str = "c_out";
/// Counts what passed because its address is never blocked.
pub const ALLOWED: &str = "c_allow";

/// Right after connection tracking, which is at -200, and before the chains of every other program: a packet of
/// an established connection is seen as well.
const PRIORITY: i32 = -190;
/// Before the hook of any flowtable: what that takes never gets to prerouting.
const INGRESS_PRIORITY: i32 = -500;
const MAX_HOSTS: u32 = 1 << 20;
const MAX_RANGES: u32 = 1 << 19;

/// What happens to a packet from a blocked address, after it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// It is dropped.
    Drop,
    /// It passes: the bouncer only observes, or is disarmed.
    Pass,
}

impl Hit {
    /// The verdict in the kernel.
    pub fn verdict(self) -> Verdict {
        match self {
            Hit::Drop => Verdict::Drop,
            Hit::Pass => Verdict::Accept,
        }
    }

    /// The only rule of [`HIT`], or, with `out`, of [`HIT_OUT`].
    pub fn rule(self, out: bool) -> Rule {
        let counter = if out { BANNED_OUT } else { BANNED };
        vec![Statement::Count(counter.to_owned()), Statement::Verdict(self.verdict())]
    }
}

/// What decides how the rules look.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    /// What happens to packets from blocked addresses.
    pub hit: Hit,
    /// Whether a person has disarmed the table.
    pub disarmed: bool,
    /// Whether packets to blocked addresses are blocked as well.
    pub outbound: bool,
    /// The interfaces where packets are looked at before anything else.
    pub devices: &'a [String],
    /// What another module brings.
    pub part: Option<&'a Part>,
}

impl Template<'_> {
    /// The table's sets, counters and chains for the sets of `layout`.
    pub fn ruleset(&self, layout: &Layout, origins: &Origins) -> Ruleset {
        let allow = [ALLOW4, ALLOW6].map(|set| Set { set, timeout: false, counting: false, size: None });
        let sets = allow.into_iter().chain(layout.sets().into_iter().map(blocking)).collect();
        let counters = [ALLOWED, BANNED].into_iter().chain(self.outbound.then_some(BANNED_OUT)).map(ToOwned::to_owned);
        let mut ruleset = Ruleset { sets, counters: counters.collect(), chains: Vec::new() };
        ruleset.counters.extend(origins.names().iter().cloned());

        let regular = |name: &str, rules| Chain { name: name.to_owned(), hook: None, rules };
        let base = |name: &str, place, rules| {
            let hook = Some(Hook { place, priority: PRIORITY, devices: Vec::new() });
            Chain { name: name.to_owned(), hook, rules }
        };
        if self.disarmed {
            ruleset.chains.push(regular(DISARMED, Vec::new()));
        }
        ruleset.chains.push(regular(HIT, vec![self.hit.rule(false)]));
        let passing = |side: fn(Family, u8) -> Field| -> Vec<Rule> {
            let rule = |set: SetRef| {
                let member = Statement::In { field: field(side, layout, set), set, not: false };
                vec![member, Statement::Count(ALLOWED.to_owned()), Statement::Verdict(Verdict::Accept)]
            };
            [ALLOW4, ALLOW6].map(rule).into()
        };
        let blocked: Vec<Rule> = layout
            .sets()
            .into_iter()
            .map(|set| {
                let member = Statement::CountBy { field: field(Field::Source, layout, set), set };
                vec![member, Statement::Verdict(Verdict::Goto(HIT.to_owned()))]
            })
            .collect();
        let mut rules = vec![vec![Statement::FromLoopback, Statement::Verdict(Verdict::Accept)]];
        rules.extend(passing(Field::Source));
        rules.extend(blocked.iter().cloned());
        if let Some(part) = self.part {
            ruleset.sets.extend(&part.sets);
            ruleset.counters.extend(part.counters.iter().cloned());
            ruleset.chains.extend(part.chains.iter().cloned());
            rules.extend(part.bans.iter().cloned());
            rules.push(vec![Statement::Established, Statement::Verdict(Verdict::Accept)]);
            rules.extend(part.rules.iter().cloned());
        }
        ruleset.chains.push(base(CHAIN, Place::Prerouting, rules));
        if !self.devices.is_empty() {
            let hook = Hook { place: Place::Ingress, priority: INGRESS_PRIORITY, devices: self.devices.to_vec() };
            let rules = passing(Field::Source).into_iter().chain(blocked).collect();
            ruleset.chains.push(Chain { name: INGRESS.to_owned(), hook: Some(hook), rules });
        }
        if self.outbound {
            ruleset.chains.push(regular(HIT_OUT, vec![self.hit.rule(true)]));
            let mut rules = vec![vec![Statement::ToLoopback, Statement::Verdict(Verdict::Accept)]];
            rules.extend(passing(Field::Destination));
            rules.extend(layout.sets().into_iter().map(|set| {
                let member = Statement::In { field: field(Field::Destination, layout, set), set, not: false };
                vec![member, Statement::Verdict(Verdict::Goto(HIT_OUT.to_owned()))]
            }));
            ruleset.chains.push(base(FORWARD, Place::Forward, rules.clone()));
            ruleset.chains.push(base(OUTPUT, Place::Output, rules));
        }
        ruleset
    }
}

/// The look-up of an address in `set`.
fn field(side: fn(Family, u8) -> Field, layout: &Layout, set: SetRef) -> Field {
    let family = if set.key == KeyType::V4 { Family::V4 } else { Family::V6 };
    let bits = if set == ALLOW4 { 32 } else { layout.bits(set) };
    side(family, bits)
}

fn blocking(set: SetRef) -> Set {
    let size = if set.shape == Shape::Ranges { MAX_RANGES } else { MAX_HOSTS };
    Set { set, timeout: true, counting: true, size: Some(size) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::plan::Placement;

    fn shown(template: &Template<'_>, buckets: &[(Family, u8)], second: bool) -> String {
        let buckets: BTreeSet<(Family, u8)> = buckets.iter().copied().collect();
        let layout = Layout::new(64, false).for_rebuild(&Placement::new(), second, &buckets, |_| 0);
        template.ruleset(&layout, &Origins::default()).to_string()
    }

    const PLAIN: Template<'_> = Template { hit: Hit::Drop, disarmed: false, outbound: false, devices: &[], part: None };

    #[test]
    fn the_ruleset() {
        insta::assert_snapshot!(shown(&PLAIN, &[], false), @r#"
        set allow4 { type ipv4_addr; flags interval; }
        set allow6 { type ipv6_addr; flags interval; }
        map ban4 { type ipv4_addr : counter; size 1048576; flags timeout; }
        map ban6 { type ipv6_addr : counter; size 1048576; flags timeout; }
        map net4 { type ipv4_addr : counter; size 524288; flags interval,timeout; }
        map net6 { type ipv6_addr : counter; size 524288; flags interval,timeout; }
        counter c_allow { }
        counter c_ban { }
        counter o_other { }
        chain hit_ban {
          counter name "c_ban" drop
        }
        chain pre {
          type filter hook prerouting priority -190; policy accept;
          iif "lo" accept
          ip saddr @allow4 counter name "c_allow" accept
          ip6 saddr @allow6 counter name "c_allow" accept
          counter name ip saddr map @ban4 goto hit_ban
          counter name ip6 saddr & ffff:ffff:ffff:ffff:: map @ban6 goto hit_ban
          counter name ip saddr map @net4 goto hit_ban
          counter name ip6 saddr map @net6 goto hit_ban
        }
        "#);
    }

    #[test]
    fn the_ruleset_with_everything() {
        let devices = ["eno1".to_owned(), "eno2".to_owned()];
        let geo4 = SetRef::ranges("geo4", Family::V4);
        let part = Part {
            sets: vec![Set { set: geo4, timeout: false, counting: false, size: None }],
            counters: vec!["c_geo".into()],
            bans: vec![vec![Statement::Protocol(6), Statement::NotSyn, Statement::Verdict(Verdict::Return)]],
            rules: vec![vec![
                Statement::In { field: Field::Source(Family::V4, 32), set: geo4, not: true },
                Statement::Count("c_geo".into()),
                Statement::Verdict(Verdict::Drop),
            ]],
            ..Part::default()
        };
        let template =
            Template { hit: Hit::Pass, disarmed: true, outbound: true, devices: &devices, part: Some(&part) };
        insta::assert_snapshot!(shown(&template, &[(Family::V4, 24), (Family::V6, 56)], true), @r#"
        set allow4 { type ipv4_addr; flags interval; }
        set allow6 { type ipv6_addr; flags interval; }
        map ban4_b { type ipv4_addr : counter; size 1048576; flags timeout; }
        map ban6_b { type ipv6_addr : counter; size 1048576; flags timeout; }
        map net4_24_b { type ipv4_addr : counter; size 1048576; flags timeout; }
        map net6_56_b { type ipv6_addr : counter; size 1048576; flags timeout; }
        map net4_b { type ipv4_addr : counter; size 524288; flags interval,timeout; }
        map net6_b { type ipv6_addr : counter; size 524288; flags interval,timeout; }
        set geo4 { type ipv4_addr; flags interval; }
        counter c_allow { }
        counter c_ban { }
        counter c_out { }
        counter o_other { }
        counter c_geo { }
        chain disarmed {
        }
        chain hit_ban {
          counter name "c_ban" accept
        }
        chain pre {
          type filter hook prerouting priority -190; policy accept;
          iif "lo" accept
          ip saddr @allow4 counter name "c_allow" accept
          ip6 saddr @allow6 counter name "c_allow" accept
          counter name ip saddr map @ban4_b goto hit_ban
          counter name ip6 saddr & ffff:ffff:ffff:ffff:: map @ban6_b goto hit_ban
          counter name ip saddr & 255.255.255.0 map @net4_24_b goto hit_ban
          counter name ip6 saddr & ffff:ffff:ffff:ff00:: map @net6_56_b goto hit_ban
          counter name ip saddr map @net4_b goto hit_ban
          counter name ip6 saddr map @net6_b goto hit_ban
          meta l4proto 6 tcp flags & (fin | syn | rst | ack) != syn return
          ct state established,related accept
          ip saddr != @geo4 counter name "c_geo" drop
        }
        chain ing {
          type filter hook ingress devices = { eno1, eno2 } priority -500; policy accept;
          ip saddr @allow4 counter name "c_allow" accept
          ip6 saddr @allow6 counter name "c_allow" accept
          counter name ip saddr map @ban4_b goto hit_ban
          counter name ip6 saddr & ffff:ffff:ffff:ffff:: map @ban6_b goto hit_ban
          counter name ip saddr & 255.255.255.0 map @net4_24_b goto hit_ban
          counter name ip6 saddr & ffff:ffff:ffff:ff00:: map @net6_56_b goto hit_ban
          counter name ip saddr map @net4_b goto hit_ban
          counter name ip6 saddr map @net6_b goto hit_ban
        }
        chain hit_out {
          counter name "c_out" accept
        }
        chain fwd {
          type filter hook forward priority -190; policy accept;
          oif "lo" accept
          ip daddr @allow4 counter name "c_allow" accept
          ip6 daddr @allow6 counter name "c_allow" accept
          ip daddr @ban4_b goto hit_out
          ip6 daddr & ffff:ffff:ffff:ffff:: @ban6_b goto hit_out
          ip daddr & 255.255.255.0 @net4_24_b goto hit_out
          ip6 daddr & ffff:ffff:ffff:ff00:: @net6_56_b goto hit_out
          ip daddr @net4_b goto hit_out
          ip6 daddr @net6_b goto hit_out
        }
        chain out {
          type filter hook output priority -190; policy accept;
          oif "lo" accept
          ip daddr @allow4 counter name "c_allow" accept
          ip6 daddr @allow6 counter name "c_allow" accept
          ip daddr @ban4_b goto hit_out
          ip6 daddr & ffff:ffff:ffff:ffff:: @ban6_b goto hit_out
          ip daddr & 255.255.255.0 @net4_24_b goto hit_out
          ip6 daddr & ffff:ffff:ffff:ff00:: @net6_56_b goto hit_out
          ip daddr @net4_b goto hit_out
          ip6 daddr @net6_b goto hit_out
        }
        "#);
    }
}
