//! The nftables bouncer against the real kernel, with real packets, in namespaces that nobody else sees.
#![allow(clippy::print_stdout, reason = "the attacker's process answers on its standard output")]

mod geo;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../support/mmdb.rs"]
mod mmdb;
mod namespace;
mod paths;
mod states;

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Feed, FeedError, Update};
use bouncers::config::{Config, OnStop};
use bouncers::engine::desired::{Key, Subject};
use bouncers::engine::plan::{Change, Placed, Placement, Plan};
use bouncers::engine::run::{Wiring, run as enforce};
use bouncers::engine::span::{Family, Span};
use bouncers::engine::{Bouncer, Extent, Health, Never, Status, Wanted};
use bouncers::nftables::{Enforced, Nftables, Options};
use bouncers::{BouncerError, Metrics};
use jiff::{SignedDuration, Timestamp};
use model::{Decision, Delta, Scope};
use tokio::sync::{mpsc, oneshot, watch};

use crate::namespace::{Attacker, isolated, obey, refuses, run};

#[test]
fn attacker() {
    obey();
}

fn key(net: &str) -> Key {
    let net = model::scope::parse_net(net).expect("a valid test prefix");
    Key { remediation: "ban".into(), subject: Subject::Net(bouncers::engine::desired::widen(net, 64)) }
}

fn placed(seconds: i64) -> Placed {
    Placed { until: Timestamp::now() + SignedDuration::from_secs(seconds), pieces: None }
}

fn placement(nets: &[&str]) -> Placement {
    nets.iter().map(|net| (key(net), placed(600))).collect()
}

/// One change of `net`, from and to an end in seconds from now.
fn change(net: &str, before: Option<Placed>, after: Option<Placed>) -> Plan {
    Plan { changes: vec![Change { key: key(net), before, after, why: None }] }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

fn open() -> Nftables {
    Nftables::open(Options::default()).expect("this host can do it")
}

/// A bouncer that holds `nets` for ten minutes.
async fn holding(nets: &[&str], never: &Never) -> Nftables {
    let mut nftables = open();
    nftables
        .rebuild(Wanted::of(&placement(nets), never), Extent::Exactly, Timestamp::now())
        .await
        .expect("the kernel takes it");
    nftables
}

/// Somebody else gives `nft` a command; `ban4` in it is the set of that name that is in use.
fn meddle(command: &str) {
    let table = refuses("nft", "-t list table inet cordon")
        .map_or_else(|| run("nft", &["-t", "list", "table", "inet", "cordon"]), |_| String::new());
    let set = if table.contains("@ban4_b") { "ban4_b" } else { "ban4" };
    run("nft", &[&command.replace("ban4", set)]);
}

fn enforced(nftables: &Nftables, address: &str) -> Enforced {
    nftables.enforced_now(address.parse().expect("an address")).expect("the kernel answers")
}

#[test]
fn each_kind_of_block_drops_exactly_its_members() {
    isolated("each_kind_of_block_drops_exactly_its_members", || {
        let mut attacker = Attacker::new();
        let strangers = [
            "10.66.1.9",
            "10.66.1.11",
            "10.66.2.7",
            "10.66.2.16",
            "10.66.3.5",
            "fd66:0:0:6::ffff",
            "fd66:0:0:8::1",
            "fd66:9:ff:ffff::1",
            "fd66:b::",
        ];
        let members = [
            "10.66.1.10",
            "10.66.2.8",
            "10.66.2.15",
            "fd66:0:0:7::1",
            "fd66:0:0:7:ffff:ffff:ffff:fffe",
            "fd66:a::",
            "fd66:a:ffff:ffff:ffff:ffff:ffff:fffe",
        ];
        attacker.owns(&strangers);
        attacker.owns(&members);
        let all = [&strangers[..], &members[..]].concat();
        assert_eq!(attacker.reaching(&all), all, "before any block");
        runtime().block_on(async {
            let nets = ["10.66.1.10", "10.66.2.8/29", "fd66:0:0:7::42", "fd66:a::/32"];
            let mut nftables = holding(&nets, &Never::default()).await;
            assert_eq!(attacker.reaching(&all), strangers);
            let dropped = nftables.dropped().await.expect("the kernel counts");
            assert_eq!(dropped.packets, members.len() as u64);
            for (address, expected) in members
                .iter()
                .map(|address| (address, Enforced::Blocked))
                .chain(strangers.iter().map(|address| (address, Enforced::Passing)))
            {
                assert_eq!(enforced(&nftables, address), expected, "{address}");
            }
        });
    });
}

#[test]
fn both_ends_of_the_address_space_can_be_blocked() {
    isolated("both_ends_of_the_address_space_can_be_blocked", || {
        runtime().block_on(async {
            let nets = ["0.0.0.0/8", "240.0.0.0/4", "::/16", "ffff::/16"];
            let nftables = holding(&nets, &Never::default()).await;
            let cases = [
                ("0.0.0.0", true),
                ("0.255.255.255", true),
                ("1.0.0.0", false),
                ("239.255.255.255", false),
                ("255.255.255.255", true),
                ("::", true),
                ("1::", false),
                ("fffe::", false),
                ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true),
            ];
            for (address, blocked) in cases {
                let expected = if blocked { Enforced::Blocked } else { Enforced::Passing };
                assert_eq!(enforced(&nftables, address), expected, "{address}");
            }
        });
    });
}

#[test]
fn allowed_addresses_pass_whatever_is_blocked() {
    isolated("allowed_addresses_pass_whatever_is_blocked", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.10", "10.66.1.11"]);
        runtime().block_on(async {
            let allowed = Span::of("10.66.1.10/32".parse().expect("a valid test prefix"));
            let never = Never { v4: vec![allowed], v6: Vec::new() };
            let nftables = holding(&["10.66.1.10", "10.66.1.0/24"], &never).await;
            assert_eq!(attacker.reaching(&["10.66.1.10", "10.66.1.11"]), ["10.66.1.10"]);
            assert_eq!(enforced(&nftables, "10.66.1.10"), Enforced::Allowed);
        });
    });
}

#[test]
fn blocks_begin_are_prolonged_end_and_are_lifted() {
    isolated("blocks_begin_are_prolonged_end_and_are_lifted", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.1", "10.66.2.1", "fd66:1::1", "fd66:2:0:0:1::1"]);
        let sources = ["10.66.1.1", "10.66.2.1", "fd66:1::1", "fd66:2:0:0:1::1"];
        let nets = ["10.66.1.1", "10.66.2.0/24", "fd66:1::1", "fd66:2::/48"];
        runtime().block_on(async {
            let mut nftables = holding(&[], &Never::default()).await;
            assert_eq!(attacker.reaching(&sources), sources);
            let (short, long) = (placed(2), placed(600));
            for net in nets {
                let plan = change(net, None, Some(short.clone()));
                nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            }
            let kept = ["10.66.2.0/24", "fd66:1::1"];
            for net in kept {
                let plan = change(net, Some(short.clone()), Some(long.clone()));
                nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            }
            assert_eq!(attacker.reaching(&sources), [""; 0]);
            // A timeout is rounded up to a whole second.
            tokio::time::sleep(Duration::from_millis(3100)).await;
            assert_eq!(attacker.reaching(&sources), ["10.66.1.1", "fd66:2:0:0:1::1"], "two have ended");
            for net in ["10.66.1.1", "fd66:2::/48"] {
                let plan = change(net, Some(short.clone()), None);
                nftables.apply(&plan, Timestamp::now()).await.expect("removing what has ended is success");
                let plan = change(net, None, Some(long.clone()));
                nftables.apply(&plan, Timestamp::now()).await.expect("blocking again after the end");
            }
            assert_eq!(attacker.reaching(&sources), [""; 0]);
            for net in nets {
                let plan = change(net, Some(long.clone()), None);
                nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            }
            assert_eq!(attacker.reaching(&sources), sources, "all are lifted");
        });
    });
}

#[test]
fn an_open_connection_dies_with_its_next_packet() {
    isolated("an_open_connection_dies_with_its_next_packet", || {
        let mut attacker = Attacker::new();
        // Another program's firewall that lets established connections through.
        let other = "add table inet other; \
                     add chain inet other in { type filter hook input priority 0; }; \
                     add rule inet other in ct state established accept";
        run("nft", &[other]);
        runtime().block_on(async {
            let mut nftables = holding(&[], &Never::default()).await;
            let mut stream = attacker.connect();
            assert!(attacker.speaks(&mut stream));
            let plan = change("10.66.0.2", None, Some(placed(60)));
            nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            assert!(!attacker.speaks(&mut stream));
            assert!(nftables.dropped().await.expect("the kernel counts").packets >= 1);
        });
    });
}

#[test]
fn observing_counts_and_drops_nothing_and_disarming_stops_dropping() {
    isolated("observing_counts_and_drops_nothing_and_disarming_stops_dropping", || {
        let mut attacker = Attacker::new();
        runtime().block_on(async {
            let mut nftables = Nftables::open(Options { observe: true, ..Options::default() }).expect("possible");
            nftables
                .rebuild(Wanted::of(&placement(&["10.66.0.2"]), &Never::default()), Extent::Exactly, Timestamp::now())
                .await
                .expect("taken");
            assert!(attacker.reaches("10.66.0.2"));
            assert_eq!(nftables.dropped().await.expect("the kernel counts").packets, 1);
            assert_eq!(enforced(&nftables, "10.66.0.2"), Enforced::Observed);
            nftables.teardown().await.expect("it is ours to remove");
            assert_eq!(enforced(&nftables, "10.66.0.2"), Enforced::NoTable);

            let mut nftables = holding(&["10.66.0.2"], &Never::default()).await;
            assert!(!attacker.reaches("10.66.0.2"));
            let other = open();
            assert!(other.disarm().expect("the kernel takes it"));
            assert!(attacker.reaches("10.66.0.2"));
            assert_eq!(enforced(&nftables, "10.66.0.2"), Enforced::Disarmed);
            let check = nftables.check(Vec::new()).await.expect("the kernel answers");
            assert!(check.intact && !check.armed, "a disarmed table is left alone");
            let mut restarted = holding(&["10.66.0.2"], &Never::default()).await;
            assert!(attacker.reaches("10.66.0.2"), "it stays disarmed over a restart");
            assert!(other.arm().expect("the kernel takes it"));
            assert!(!attacker.reaches("10.66.0.2"));
            assert!(restarted.check(Vec::new()).await.is_ok_and(|check| check.intact && check.armed));
            restarted.teardown().await.expect("it is ours to remove");
            assert!(!other.disarm().expect("the kernel answers"), "there is nothing to disarm");
        });
    });
}

#[test]
fn damage_by_others_is_noticed_and_nothing_else_is() {
    isolated("damage_by_others_is_noticed_and_nothing_else_is", || {
        // (what the other program does, whether it harms)
        let cases = [
            ("flush ruleset", true),
            ("delete table inet cordon", true),
            ("flush map inet cordon ban4", true),
            ("delete element inet cordon ban4 { 192.0.2.1 }", true),
            ("flush chain inet cordon pre", true),
            ("insert rule inet cordon pre accept", true),
            ("insert rule inet cordon hit_ban accept", true),
            ("add table inet cordon { flags dormant; }", true),
            ("add table inet other; delete table inet other", false),
        ];
        runtime().block_on(async {
            let nets = ["192.0.2.1", "198.51.100.0/24", "2001:db8::1"];
            let never = Never::default();
            let held = placement(&nets);
            let keys = || held.iter().map(|(key, placed)| (key.clone(), placed.clone())).collect::<Vec<_>>();
            let mut nftables = holding(&nets, &never).await;
            for (command, harms) in cases {
                meddle(command);
                let noticed = tokio::time::timeout(Duration::from_secs(1), async {
                    loop {
                        let disturbance = nftables.disturbance().await.expect("the subscription works");
                        // Loading our own rules is announced too; it is over when the test looks.
                        let check = nftables.check(keys()).await.expect("the kernel answers");
                        if !check.intact || check.missing > 0 {
                            return disturbance;
                        }
                    }
                });
                let noticed = noticed.await.ok().map(|disturbance| disturbance.process);
                assert_eq!(noticed.as_deref(), harms.then_some("nft"), "{command}");
                nftables
                    .rebuild(Wanted::of(&held, &never), Extent::Exactly, Timestamp::now())
                    .await
                    .expect("the kernel takes it");
                let check = nftables.check(keys()).await.expect("the kernel answers");
                assert!(check.intact && check.missing == 0, "rebuilt after {command}");
            }
        });
    });
}

#[test]
fn nothing_outside_the_table_is_touched() {
    isolated("nothing_outside_the_table_is_touched", || {
        run("nft", &["add table inet other; add set inet other s { type ipv4_addr; }; add table ip cordon"]);
        let before = run("nft", &["list", "ruleset"]);
        runtime().block_on(async {
            let mut nftables = holding(&["192.0.2.1", "198.51.100.0/24"], &Never::default()).await;
            assert!(run("nft", &["list", "ruleset"]).len() > before.len());
            nftables.teardown().await.expect("it is ours to remove");
        });
        assert_eq!(run("nft", &["list", "ruleset"]), before);
    });
}

#[test]
fn random_histories_of_ranges_never_upset_the_kernel() {
    isolated("random_histories_of_ranges_never_upset_the_kernel", || {
        runtime().block_on(async {
            let mut nftables = holding(&[], &Never::default()).await;
            let mut applied: HashMap<String, Placed> = HashMap::new();
            // A small linear congruential generator: the same history every time.
            let mut state: u32 = 7;
            let mut random = |below: u32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) % below
            };
            for _ in 0..400 {
                let length = 26 + random(7);
                let base = random(256) & (u32::MAX << (32 - length));
                let net = format!("10.1.2.{base}/{length}");
                let before = applied.get(&net).cloned();
                let after = (random(3) > 0).then(|| placed(600 + i64::from(random(5)) * 60));
                let plan = change(&net, before, after.clone());
                nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
                match after {
                    Some(after) => applied.insert(net, after),
                    None => applied.remove(&net),
                };
            }
            let nets: Vec<Span> = applied.keys().map(|net| Span::of(net.parse().expect("a prefix"))).collect();
            for address in 0..256 {
                let address = Family::V4.address(u128::from(0x0a01_0200_u32 + address));
                let number = bouncers::engine::span::number(address);
                let expected =
                    if nets.iter().any(|net| net.contains(number)) { Enforced::Blocked } else { Enforced::Passing };
                assert_eq!(enforced(&nftables, &address.to_string()), expected, "{address}");
            }
        });
    });
}

#[test]
fn a_hundred_thousand_hosts_load_at_once_and_take_one_more() {
    isolated("a_hundred_thousand_hosts_load_at_once_and_take_one_more", || {
        runtime().block_on(async {
            let hosts: Placement = (0..100_000u32)
                .map(|number| (key(&Family::V4.address((0x0b00_0000 + number * 7).into()).to_string()), placed(3600)))
                .collect();
            let mut nftables = open();
            let start = Instant::now();
            nftables
                .rebuild(Wanted::of(&hosts, &Never::default()), Extent::Exactly, Timestamp::now())
                .await
                .expect("the kernel takes it");
            let load = start.elapsed();
            let plan = change("192.0.2.1", None, Some(placed(60)));
            let start = Instant::now();
            nftables.apply(&plan, Timestamp::now()).await.expect("the kernel takes it");
            let add = start.elapsed();
            let start = Instant::now();
            let check = nftables.check(hosts.into_iter().collect()).await.expect("the kernel answers");
            let checking = start.elapsed();
            assert!(check.intact && check.asked == 100_000 && check.missing == 0);
            assert_eq!(enforced(&nftables, "192.0.2.1"), Enforced::Blocked);
            eprintln!("loaded 100,000 in {load:?}, added one in {add:?}, verified all in {checking:?}");
        });
    });
}

struct Told(mpsc::Receiver<Update>);

impl Feed for Told {
    async fn next(&mut self) -> Result<Update, FeedError> {
        self.0.recv().await.ok_or(FeedError::Closed)
    }
}

/// The whole engine on the real kernel.
struct Running {
    feed: mpsc::Sender<Update>,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    engine: tokio::task::JoinHandle<Result<(), BouncerError>>,
}

impl Running {
    fn new(config: Config) -> Self {
        let (feed, told) = mpsc::channel(16);
        let (shown, status) = watch::channel(Status::new(config.mode));
        let (stop, stopped) = oneshot::channel();
        let (_, allow) = watch::channel(Arc::default());
        let own = bouncers::engine::host::own_addresses;
        let wiring = Wiring::new(allow, shown, Metrics::default(), own);
        let nftables = Nftables::open(config.nftables()).expect("this host can do it");
        let engine = tokio::spawn(enforce(Told(told), nftables, config, wiring, async { drop(stopped.await) }));
        Self { feed, status, stop, engine }
    }

    async fn tell(&self, update: Update) {
        self.feed.send(update).await.expect("the engine listens");
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&Status) -> bool) -> Status {
        let reached = tokio::time::timeout(Duration::from_secs(10), self.status.wait_for(reached)).await;
        reached.unwrap_or_else(|_| panic!("{what}")).expect("the engine lives").clone()
    }

    async fn stop(self) {
        drop(self.stop);
        self.engine.await.expect("no panic").expect("a clean stop");
    }
}

fn internal() -> Config {
    Config { spare_private: false, ..Config::default() }
}

/// A ban for ten minutes.
fn ban(value: &str) -> Decision {
    let now = Timestamp::now();
    Decision {
        id: 0,
        uuid: value.into(),
        origin: "cordon".into(),
        remediation: "ban".into(),
        scope: if value.contains('/') { Scope::Range } else { Scope::Ip },
        value: value.into(),
        scenario: "test/scenario".into(),
        created_at: now,
        until: now + SignedDuration::from_mins(10),
        simulated: false,
        alert_id: 0,
    }
}

fn add(values: &[&str]) -> Update {
    Update::Delta(Delta { add: values.iter().map(|value| ban(value)).collect(), remove: Vec::new() })
}

#[test]
fn a_flushed_ruleset_is_healed_within_a_second_and_the_culprit_is_named() {
    isolated("a_flushed_ruleset_is_healed_within_a_second_and_the_culprit_is_named", || {
        let mut attacker = Attacker::new();
        runtime().block_on(async {
            let mut engine = Running::new(internal());
            engine.tell(Update::Snapshot(vec![ban("10.66.0.2"), ban("fd66::/32")])).await;
            engine.until("in force", |status| status.applied == 2).await;
            assert_eq!(attacker.reaching(&["10.66.0.2", "fd66::2"]), [""; 0]);
            for (heals, command) in
                [(1, "flush ruleset"), (2, "delete table inet cordon"), (3, "flush map inet cordon ban4")]
            {
                let start = Instant::now();
                meddle(command);
                let status = engine.until("healed", |status| status.heals == heals).await;
                assert!(start.elapsed() < Duration::from_secs(1), "{command}: healed after {:?}", start.elapsed());
                eprintln!("{command}: healed after {:?}", start.elapsed());
                assert_eq!(status.last_heal.as_ref().map(|heal| heal.process.as_str()), Some("nft"));
                assert_eq!(status.health(Timestamp::now()), Health::Green);
                assert_eq!(attacker.reaching(&["10.66.0.2", "fd66::2"]), [""; 0], "after {command}");
            }
        });
    });
}

#[test]
fn a_restart_without_the_api_keeps_protecting() {
    isolated("a_restart_without_the_api_keeps_protecting", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.1"]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = Config { snapshot: Some(folder.path().join("nftables.snapshot")), ..internal() };
        let sources = ["10.66.0.2", "10.66.1.1", "fd66::2"];
        runtime().block_on(async {
            let mut engine = Running::new(config.clone());
            engine.tell(Update::Snapshot(vec![ban("10.66.0.2")])).await;
            engine.tell(add(&["10.66.1.0/24"])).await;
            engine.until("in force", |status| status.applied == 2).await;
            engine.stop().await;
            assert_eq!(attacker.reaching(&sources), ["fd66::2"], "nobody is running, the kernel goes on");
            // As after a reboot: the kernel has forgotten everything.
            run("nft", &["flush", "ruleset"]);
            assert_eq!(attacker.reaching(&sources), sources);
            let mut engine = Running::new(Config { on_stop: OnStop::Remove, ..config });
            engine.until("in force without a word from the feed", |status| status.applied == 2).await;
            assert_eq!(attacker.reaching(&sources), ["fd66::2"]);
            engine.stop().await;
            assert_eq!(attacker.reaching(&sources), sources, "removed at the stop");
            assert!(!run("nft", &["list", "tables"]).contains("cordon"));
        });
    });
}

#[test]
fn nothing_this_host_needs_can_be_blocked() {
    isolated("nothing_this_host_needs_can_be_blocked", || {
        let mut attacker = Attacker::new();
        attacker.owns(&["10.66.1.1"]);
        run("ip", &["route", "add", "default", "via", "10.66.1.1"]);
        runtime().block_on(async {
            let mut engine = Running::new(internal());
            let bans = ["10.66.0.1", "10.66.1.1", "10.66.0.0/16", "0.0.0.0/0", "::/0", "127.0.0.1", "::1", "fe80::/10"];
            engine.tell(Update::Snapshot(bans.iter().map(|value| ban(value)).collect())).await;
            let status = engine.until("judged", |status| status.refused_total == 7).await;
            assert_eq!(status.applied, 1, "the range is blocked around what is ours: {:?}", status.refused);
            assert_eq!(attacker.reaching(&["10.66.0.2", "10.66.1.1"]), ["10.66.1.1"], "the gateway passes");
            let nftables = open();
            let cases = [
                ("10.66.0.1", Enforced::Allowed),
                ("10.66.0.3", Enforced::Blocked),
                ("127.0.0.1", Enforced::Allowed),
                ("8.8.8.8", Enforced::Passing),
            ];
            for (address, expected) in cases {
                assert_eq!(enforced(&nftables, address), expected, "{address}");
            }
        });
    });
}

#[test]
fn from_the_decision_to_the_dropped_packet() {
    isolated("from_the_decision_to_the_dropped_packet", || {
        let mut attacker = Attacker::new();
        runtime().block_on(async {
            let mut engine = Running::new(internal());
            engine.tell(Update::Snapshot(Vec::new())).await;
            engine.until("verified", |status| status.verified.is_some()).await;
            let mut stream = attacker.connect();
            assert!(attacker.speaks(&mut stream));
            let start = Instant::now();
            engine.tell(add(&["10.66.0.2"])).await;
            engine.until("in force", |status| status.applied == 1).await;
            eprintln!("in force after {:?}", start.elapsed());
            assert!(!attacker.speaks(&mut stream));
            let lift = Update::Delta(Delta { add: Vec::new(), remove: vec![ban("10.66.0.2")] });
            engine.tell(lift).await;
            engine.until("lifted", |status| status.applied == 0).await;
            assert!(attacker.reaches("10.66.0.2"));
        });
    });
}

#[test]
fn a_process_without_rights_says_what_it_needs() {
    const ALONE: &str = "CORDON_TEST_WITHOUT_RIGHTS";
    if std::env::var_os(ALONE).is_some() {
        println!("{}", Nftables::probe().expect_err("it has no rights"));
        return;
    }
    isolated("a_process_without_rights_says_what_it_needs", || {
        let program = std::env::current_exe().expect("the test program has a path");
        let child = Command::new("setpriv")
            .args(["--reuid", "65534", "--clear-groups"])
            .arg(program)
            .args(["--exact", "a_process_without_rights_says_what_it_needs", "--nocapture"])
            .env(ALONE, "1")
            .output();
        match child {
            Ok(output) if output.status.success() => {
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(said.contains("CAP_NET_ADMIN is missing") && said.contains("hint: "), "{said}");
            }
            Ok(output) => eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => eprintln!("SKIPPED: no `setpriv` on this host: {error}"),
        }
    });
}

#[test]
fn a_big_table_is_healed_and_the_culprit_is_named() {
    isolated("a_big_table_is_healed_and_the_culprit_is_named", || {
        runtime().block_on(async {
            let hosts: Vec<Decision> = (0..100_000u32)
                .map(|number| ban(&Family::V4.address((0x0b00_0000 + number * 7).into()).to_string()))
                .collect();
            let mut engine = Running::new(internal());
            engine.tell(Update::Snapshot(hosts)).await;
            engine.until("in force", |status| status.applied == 100_000).await;
            for (heals, command) in [
                (1, "flush ruleset"),
                (2, "flush map inet cordon ban4"),
                (3, "delete element inet cordon ban4 { 11.0.0.0 }"),
            ] {
                let start = Instant::now();
                meddle(command);
                let meddled = Instant::now();
                let status = engine.until("healed", |status| status.heals == heals).await;
                eprintln!("{command}: took {:?}, healed {:?} later", meddled - start, meddled.elapsed());
                assert_eq!(status.last_heal.as_ref().map(|heal| heal.process.as_str()), Some("nft"), "{command}");
            }
        });
    });
}
