//! What must hold at every moment: while everything is replaced, when the process is killed in the middle, when others
//! meddle, and when the table is not ours alone.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bouncers::engine::plan::{Placement, Why};
use bouncers::engine::span::Family;
use bouncers::engine::{Bouncer, Extent, Never, Wanted};
use bouncers::nftables::ruleset::{Field, Part, Set, SetRef, Statement, Verdict};
use bouncers::nftables::{Enforced, Nftables, Options};
use jiff::Timestamp;

use crate::namespace::{isolated, refuses, run};
use crate::{Attacker, change, enforced, holding, key, open, placed, placement, runtime};

fn hosts(first: u32, count: u32) -> Placement {
    let hosts = (0..count).map(|number| Family::V4.address((first + number * 3).into()).to_string());
    hosts.map(|host| (key(&host), placed(3600))).collect()
}

async fn exactly(nftables: &mut Nftables, wanted: &Placement) {
    let never = Never::default();
    let outcome = nftables.rebuild(Wanted::of(wanted, &never), Extent::Exactly, Timestamp::now()).await;
    outcome.expect("the kernel takes it");
}

const OLD: u32 = 0x0b00_0000;
const NEW: u32 = 0x1b00_0000;
const MANY: u32 = 220_000;

#[test]
fn nobody_gets_through_while_everything_is_replaced() {
    isolated("states::nobody_gets_through_while_everything_is_replaced", || {
        let mut attacker = Attacker::new();
        runtime().block_on(async {
            // Both of them block the attacker, one as a host, the other by a range.
            let mut old = hosts(OLD, MANY);
            old.extend(placement(&["10.66.0.2"]));
            let mut new = hosts(NEW, MANY);
            new.extend(placement(&["10.66.0.0/24"]));
            let mut nftables = open();
            exactly(&mut nftables, &old).await;
            assert!(!attacker.reaches("10.66.0.2"));
            let stream = attacker.steady("10.66.0.2", Duration::from_millis(1));
            for wanted in [&new, &old, &new] {
                exactly(&mut nftables, wanted).await;
            }
            let (sent, arrived) = stream.end(&mut attacker);
            assert!(sent > 100, "a steady stream: {sent}");
            assert_eq!(arrived, 0, "of {sent}");
            let check = nftables.check(new.into_iter().collect()).await.expect("the kernel answers");
            assert!(check.is_good(), "{check:?}");
            assert_eq!(enforced(&nftables, &Family::V4.address(OLD.into()).to_string()), Enforced::Passing);
        });
    });
}

/// In a process of its own: replaces everything for ever.
#[test]
fn replace_for_ever() {
    if std::env::var_os("CORDON_TEST_FOR_EVER").is_none() {
        return;
    }
    runtime().block_on(async {
        let mut nftables = open();
        for turn in 0.. {
            let first = if turn % 2 == 0 { NEW } else { OLD };
            exactly(&mut nftables, &hosts(first, MANY)).await;
        }
    });
}

#[test]
fn killed_in_the_middle_the_old_state_or_the_new_one_holds() {
    isolated("states::killed_in_the_middle_the_old_state_or_the_new_one_holds", || {
        runtime().block_on(async {
            let mut nftables = open();
            exactly(&mut nftables, &hosts(OLD, MANY)).await;
            let program = std::env::current_exe().expect("the test program has a path");
            let mut seen = [0; 2];
            for round in 0..6 {
                let mut child = Command::new(&program)
                    .args(["--exact", "states::replace_for_ever"])
                    .env("CORDON_TEST_FOR_EVER", "1")
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("the test program can be run");
                std::thread::sleep(Duration::from_millis(500 + round * 370));
                child.kill().expect("it runs for ever");
                child.wait().expect("it is our child");
                let blocked = |first: u32| {
                    let some = (0..MANY).step_by(997).map(|number| Family::V4.address((first + number * 3).into()));
                    some.map(|address| enforced(&nftables, &address.to_string()) == Enforced::Blocked)
                        .collect::<Vec<_>>()
                };
                let (old, new) = (blocked(OLD), blocked(NEW));
                let whole = |state: &[bool], which: bool| state.iter().all(|blocked| *blocked == which);
                assert!(
                    (whole(&old, true) && whole(&new, false)) || (whole(&old, false) && whole(&new, true)),
                    "half a state after round {round}"
                );
                seen[usize::from(new[0])] += 1;
            }
            eprintln!("old {} times, new {} times", seen[0], seen[1]);
            // Whoever comes next cleans up.
            exactly(&mut nftables, &hosts(OLD, 1000)).await;
            let table = run("nft", &["-t", "list", "table", "inet", "cordon"]);
            let counts = |text: &str| table.matches(text).count();
            assert_eq!((counts("\tmap ban4"), counts("@ban4")), (1, 1), "one map, and one look-up in it: {table}");
        });
    });
}

#[test]
fn what_others_put_in_is_taken_out() {
    isolated("states::what_others_put_in_is_taken_out", || {
        runtime().block_on(async {
            let nets = ["192.0.2.1", "198.51.100.0/24"];
            let mut nftables = holding(&nets, &Never::default()).await;
            run("nft", &["add element inet cordon ban4 { 203.0.113.7 : \"o_other\" }"]);
            nftables.disturbance().await.expect("the subscription works");
            let check = nftables.check(Vec::new()).await.expect("the kernel answers");
            assert!(!check.intact, "an element of somebody else blocks a stranger");
            exactly(&mut nftables, &placement(&nets)).await;
            assert_eq!(enforced(&nftables, "203.0.113.7"), Enforced::Passing);
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").intact);
        });
    });
}

#[test]
fn drops_are_counted_by_the_origin_of_the_decision() {
    isolated("states::drops_are_counted_by_the_origin_of_the_decision", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.1", "10.66.2.1"]);
        runtime().block_on(async {
            let mut nftables = holding(&[], &Never::default()).await;
            for (net, origin) in [("10.66.0.2", "cordon"), ("10.66.1.1", "lists:x"), ("10.66.2.0/24", "lists:x")] {
                let mut plan = change(net, None, Some(placed(60)));
                let why = Why { id: 0, origin: origin.into(), scenario: "".into() };
                plan.changes[0].why = Some(why);
                nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            }
            assert_eq!(attacker.reaching(&["10.66.0.2", "10.66.1.1", "10.66.2.1"]), [""; 0]);
            let mut counted = nftables.dropped_by_origin().await.expect("the kernel counts");
            counted.sort_by(|a, b| a.0.cmp(&b.0));
            let counted: Vec<(&str, u64)> =
                counted.iter().map(|(origin, traffic)| (origin.as_str(), traffic.packets)).collect();
            assert_eq!(counted, [("cordon", 1), ("lists_x", 2), ("other", 0)]);
            // another decision takes the place of the first: its origin counts from then on
            let mut plan = change("10.66.0.2", Some(placed(60)), Some(placed(90)));
            plan.changes[0].why = Some(Why { id: 1, origin: "lists:x".into(), scenario: "".into() });
            nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            assert!(!attacker.reaches("10.66.0.2"));
            let counted = nftables.dropped_by_origin().await.expect("the kernel counts");
            assert!(counted.iter().any(|(origin, traffic)| origin == "lists_x" && traffic.packets == 3), "{counted:?}");
        });
    });
}

#[test]
fn an_owned_table_is_safe_from_others_and_outlives_its_owner() {
    isolated("states::an_owned_table_is_safe_from_others_and_outlives_its_owner", || {
        if !Nftables::probe().expect("this host can do it").own {
            eprintln!("SKIPPED, NOT PASSED: this kernel has no owned tables that persist");
            return;
        }
        let mut attacker = Attacker::new();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options { own_table: true, state: Some(folder.path().to_owned()), ..Options::default() };
        runtime().block_on(async {
            let mut nftables = Nftables::open(options.clone()).expect("this host can do it");
            exactly(&mut nftables, &placement(&["10.66.0.2"])).await;
            run("nft", &["flush ruleset"]);
            assert!(!attacker.reaches("10.66.0.2"), "a flush by others passes it by");
            assert!(refuses("nft", "delete table inet cordon").is_some(), "and so does an order to remove it");
            let other = Nftables::open(options.clone()).expect("this host can do it");
            assert!(other.disarm().expect("the owner is told"));
            let told = tokio::time::timeout(Duration::from_secs(2), nftables.disturbance());
            told.await.expect("within two seconds").expect("it looks for the file");
            assert!(!nftables.check(Vec::new()).await.expect("the kernel answers").armed);
            assert!(attacker.reaches("10.66.0.2"));
            assert!(other.arm().expect("the owner is told"));
            nftables.disturbance().await.expect("it looks for the file");
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").armed);
            assert!(!attacker.reaches("10.66.0.2"));
            drop((nftables, other));
            assert!(!attacker.reaches("10.66.0.2"), "it outlives its owner");
            let mut next = Nftables::open(options).expect("this host can do it");
            exactly(&mut next, &placement(&["10.66.0.3"])).await;
            assert!(attacker.reaches("10.66.0.2"), "who comes next takes it over");
            next.teardown().await.expect("it is ours to remove");
        });
    });
}

#[test]
fn sets_of_somebody_else_are_filled_and_nothing_more() {
    isolated("states::sets_of_somebody_else_are_filled_and_nothing_more", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.1", "fd66:1::1"]);
        let theirs = "add table inet fence; \
                      add set inet fence ban4 { type ipv4_addr; flags timeout; }; \
                      add set inet fence ban6 { type ipv6_addr; flags timeout; }; \
                      add set inet fence net4 { type ipv4_addr; flags interval,timeout; }; \
                      add set inet fence net6 { type ipv6_addr; flags interval; }; \
                      add chain inet fence in { type filter hook input priority 0; }; \
                      add rule inet fence in ip saddr @ban4 drop; \
                      add rule inet fence in ip saddr @net4 drop; \
                      add rule inet fence in ip6 saddr @net6 drop; \
                      add rule inet fence in ip6 saddr @ban6 drop";
        run("nft", &[theirs]);
        let before = run("nft", &["list", "chain", "inet", "fence", "in"]);
        let options = Options { table: "fence".into(), set_only: true, ..Options::default() };
        runtime().block_on(async {
            let mut nftables = Nftables::open(options).expect("this host can do it");
            let wanted = placement(&["10.66.0.2", "10.66.1.0/24", "fd66:1::/64"]);
            let never = Never::default();
            let refused = nftables.rebuild(Wanted::of(&wanted, &never), Extent::Exactly, Timestamp::now()).await;
            let refused = refused.expect_err("one of them cannot end elements").to_string();
            assert!(refused.contains("`net6`") && refused.contains("hint: make it as"), "{refused}");
            run(
                "nft",
                &["flush chain inet fence in; delete set inet fence net6; \
                          add set inet fence net6 { type ipv6_addr; flags interval,timeout; }"],
            );
            for rule in before.lines().filter(|line| line.contains("saddr")) {
                run("nft", &[&format!("add rule inet fence in {}", rule.trim())]);
            }
            exactly(&mut nftables, &wanted).await;
            let sources = ["10.66.0.2", "10.66.1.1", "fd66::2", "fd66:1::1"];
            assert_eq!(attacker.reaching(&sources), ["fd66::2"]);
            let check = nftables.check(wanted.clone().into_iter().collect()).await.expect("the kernel answers");
            assert!(check.is_good() && check.asked == 3, "{check:?}");
            for net in ["10.66.0.2", "10.66.1.0/24"] {
                let lift = change(net, Some(placed(600)), None);
                nftables.apply(&lift, Timestamp::now()).await.expect("the kernel takes it");
            }
            assert_eq!(attacker.reaching(&sources), ["10.66.0.2", "10.66.1.1", "fd66::2"]);
            assert!(nftables.disarm().is_err(), "their rules are not ours to change");
            nftables.teardown().await.expect("what we put in goes");
            assert_eq!(attacker.reaching(&sources).len(), 4);
            assert_eq!(run("nft", &["list", "chain", "inet", "fence", "in"]), before, "their rules are as they were");
        });
    });
}

#[test]
fn another_modules_part_is_loaded_healed_and_cannot_break_the_bans() {
    isolated("states::another_modules_part_is_loaded_healed_and_cannot_break_the_bans", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.1", "10.66.2.1"]);
        let sources = ["10.66.0.2", "10.66.1.1", "10.66.2.1"];
        let geo4 = SetRef::ranges("geo4", Family::V4);
        let part = |net: &str, counter: &str| Part {
            sets: vec![Set { set: geo4, timeout: false, counting: false, size: None }],
            counters: vec!["c_geo".into()],
            chains: vec![],
            rules: vec![vec![
                Statement::In { field: Field::Source(Family::V4, 32), set: geo4, not: false },
                Statement::Count(counter.into()),
                Statement::Verdict(Verdict::Drop),
            ]],
            fill: vec![(geo4, vec![bouncers::engine::span::Span::of(net.parse().expect("a prefix"))])],
            ..Part::default()
        };
        runtime().block_on(async {
            let nets = ["10.66.0.2"];
            let mut nftables = holding(&nets, &Never::default()).await;
            let parts = nftables.parts();
            parts.put(Some(part("10.66.1.0/24", "c_geo")));
            nftables.disturbance().await.expect("news of a part");
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").intact);
            assert_eq!(attacker.reaching(&sources), ["10.66.2.1"]);
            run("nft", &["flush set inet cordon geo4"]);
            let check = nftables.check(Vec::new()).await.expect("the kernel answers");
            assert_eq!((check.intact, check.missing), (true, 1), "its elements are looked up as well");
            exactly(&mut nftables, &placement(&nets)).await;
            assert_eq!(attacker.reaching(&sources), ["10.66.2.1"]);
            let refusal = parts.refusal();
            parts.put(Some(part("10.66.2.0/24", "no_such_counter")));
            assert!(nftables.check(Vec::new()).await.expect("the bans are in place").intact);
            assert!(refusal.borrow().is_some());
            assert_eq!(attacker.reaching(&sources), ["10.66.2.1"], "what was in force stays");
            parts.put(None);
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").intact);
            assert!(refusal.borrow().is_none());
            assert_eq!(attacker.reaching(&sources), ["10.66.1.1", "10.66.2.1"]);
        });
    });
}

#[test]
fn a_user_with_one_capability_can_do_everything() {
    const ALONE: &str = "CORDON_TEST_ONE_CAPABILITY";
    const NAME: &str = "states::a_user_with_one_capability_can_do_everything";
    if std::env::var_os(ALONE).is_some() {
        let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
        println!(
            "{}",
            status.lines().filter(|line| line.starts_with("CapEff") || line.starts_with("Uid")).collect::<String>()
        );
        return runtime().block_on(async {
            let mut nftables = holding(&["10.66.0.2", "10.66.1.0/24", "fd66:1::/48"], &Never::default()).await;
            let plan = change("10.66.2.2", None, Some(placed(60)));
            nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            assert!(nftables.check(Vec::new()).await.expect("the kernel answers").is_good());
            assert!(nftables.disarm().expect("the kernel takes it") && nftables.arm().expect("the kernel takes it"));
            bouncers::engine::host::own_addresses().expect("the kernel answers");
        });
    }
    isolated(NAME, || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.7", "10.66.3.7"]);
        let program = std::env::current_exe().expect("the test program has a path");
        // where nobody but root may look, a copy that everybody may run
        let folder = tempfile::Builder::new().permissions(all()).tempdir().expect("a temporary folder");
        let copy = folder.path().join("kernel");
        std::fs::copy(&program, &copy).expect("room for a copy");
        let child = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"])
            .args([
                "--inh-caps",
                "-all,+net_admin",
                "--ambient-caps",
                "-all,+net_admin",
                "--bounding-set",
                "-all,+net_admin",
            ])
            .arg(&copy)
            .args(["--exact", NAME, "--nocapture"])
            .env(ALONE, "1")
            .output();
        match child {
            Ok(output) if output.status.success() => {
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(said.contains("0000000000001000") && said.contains("65534"), "{said}");
                assert_eq!(
                    attacker.reaching(&["10.66.0.2", "10.66.1.7", "10.66.3.7", "fd66::2"]),
                    ["10.66.3.7", "fd66::2"]
                );
            }
            Ok(output) if String::from_utf8_lossy(&output.stderr).starts_with("setpriv") => {
                eprintln!("SKIPPED, NOT PASSED: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("SKIPPED, NOT PASSED: no `setpriv` on this host: {error}"),
        }
    });
}

fn all() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

/// Rulesets in the shape of what others load. Each has a rule that lets established connections, or a port, through.
const NEIGHBOURS: [(&str, &str); 4] = [
    (
        "containers",
        "table ip nat { chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; \
           fib daddr type local counter jump PUBLISHED
           }
           chain PUBLISHED { iifname != \"bridge9\" tcp dport 8080 counter dnat to 10.88.0.2:80
           }
           chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 10.88.0.0/16 oifname != \"bridge9\" counter masquerade
           }
           }
         table ip filter { chain USER { counter return
         }
           chain FORWARD { type filter hook forward priority filter; policy drop; counter jump USER
             oifname \"bridge9\" ct state established,related counter accept
             iifname \"bridge9\" counter accept
             }
             }",
    ),
    (
        "a simple firewall",
        "table ip filter { chain before-input { iifname \"lo\" counter accept
             ct state established,related counter accept
             ct state invalid counter drop
             udp dport 9999 counter accept
             }
           chain INPUT { type filter hook input priority filter; policy drop; counter jump before-input
           }
           }
         table ip6 filter { chain INPUT { type filter hook input priority filter; policy drop;
             meta l4proto ipv6-icmp counter accept
             udp dport 9998 counter accept
             }
             }",
    ),
    (
        "zones",
        "table inet zones { ct helper h { type \"ftp\" protocol tcp; }
           chain raw_PRE { type filter hook prerouting priority raw + 10; policy accept; icmpv6 type nd-neighbor-solicit accept
           }
           chain mangle_PRE { type filter hook prerouting priority mangle + 10; policy accept;
           }
           chain filter_IN { type filter hook input priority filter + 10; policy accept;
             ct state { established, related } accept
             iifname \"lo\" accept
             jump IN_public
             reject
             }
           chain IN_public { meta l4proto udp accept
             meta l4proto ipv6-icmp accept
             }
             }",
    ),
    (
        "virtual machines",
        "table inet guests { set management { type ipv4_addr; flags interval; elements = { 10.66.0.0/16 } }
           chain input { type filter hook input priority filter; policy drop;
             iifname \"lo\" accept
             ct state vmap { established : accept, related : accept, invalid : drop
             }
             ip saddr @management accept
             meta l4proto ipv6-icmp accept
             udp dport 9998 accept
             }
           chain forward { type filter hook forward priority filter; policy accept;
           }
           }
         table bridge guests { chain vm { type filter hook forward priority 0; policy accept;
         }
         }",
    ),
];

#[test]
fn rulesets_of_others_stay_as_they_are_and_bans_hold_all_the_same() {
    isolated("states::rulesets_of_others_stay_as_they_are_and_bans_hold_all_the_same", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.1"]);
        let sources = ["10.66.0.2", "10.66.1.1", "fd66::2"];
        for (who, theirs) in NEIGHBOURS {
            run("nft", &["flush ruleset"]);
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            std::fs::write(file.path(), theirs).expect("it is ours");
            run("nft", &["-f", &file.path().to_string_lossy()]);
            assert_eq!(attacker.reaching(&sources), sources, "beside {who}, before any block");
            let rules = || {
                // counters count on
                let text = run("nft", &["-s", "list", "ruleset"]);
                let (mut others, mut ours) = (Vec::new(), false);
                for line in text.lines() {
                    ours = line.starts_with("table inet cordon ") || (ours && !line.starts_with("table "));
                    if !ours {
                        others.push(line.to_owned());
                    }
                }
                others
            };
            let before = rules();
            assert!(before.len() > 8, "{before:?}");
            runtime().block_on(async {
                let mut nftables = holding(&[], &Never::default()).await;
                let mut stream = attacker.connect_if_possible();
                let wanted = placement(&["10.66.0.2", "fd66::/64"]);
                exactly(&mut nftables, &wanted).await;
                assert_eq!(attacker.reaching(&sources), ["10.66.1.1"], "beside {who}");
                if let Some(stream) = &mut stream {
                    assert!(!attacker.speaks(stream), "an open connection beside {who}");
                }
                assert_eq!(rules(), before, "the rules of {who}");
                // they load theirs again, as their services do when they are restarted
                let names: Vec<String> = before
                    .iter()
                    .filter_map(|line| line.strip_prefix("table ")?.strip_suffix(" {").map(str::to_owned))
                    .collect();
                for name in &names {
                    run("nft", &[&format!("delete table {name}")]);
                }
                run("nft", &["-f", &file.path().to_string_lossy()]);
                assert_eq!(attacker.reaching(&sources), ["10.66.1.1"], "{who} started again");
                assert!(nftables.check(wanted.into_iter().collect()).await.expect("the kernel answers").is_good());
                nftables.teardown().await.expect("it is ours to remove");
                assert_eq!(rules(), before, "the rules of {who} at the end");
                assert_eq!(attacker.reaching(&sources), sources, "beside {who}, after all blocks");
            });
        }
    });
}

#[test]
fn many_bans_one_by_one_are_all_in_place() {
    isolated("states::many_bans_one_by_one_are_all_in_place", || {
        runtime().block_on(async {
            let mut nftables = holding(&[], &Never::default()).await;
            let start = Instant::now();
            for number in 0..2000u32 {
                let address = Family::V4.address(u128::from(OLD + number)).to_string();
                nftables.apply(&change(&address, None, Some(placed(60))), Timestamp::now()).await.expect("taken");
            }
            eprintln!("2,000 bans, one by one, in {:?}", start.elapsed());
            for number in 0..2000u32 {
                let address = Family::V4.address(u128::from(OLD + number)).to_string();
                assert_eq!(enforced(&nftables, &address), Enforced::Blocked, "{address}");
            }
        });
    });
}
