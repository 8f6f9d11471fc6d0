//! Country and AS policies in the kernel: who may begin a connection, where, for how long, and what never changes that.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Update;
use bouncers::Metrics;
use bouncers::config::Config;
use bouncers::engine::host::own_addresses;
use bouncers::engine::run::{Wiring, run as enforce};
use bouncers::engine::{Health, Status};
use bouncers::geo::keeper::{self, keep};
use bouncers::geo::status::Force;
use bouncers::geo::{Config as Geo, Knowledge, Status as GeoStatus, load};
use bouncers::nftables::Nftables;
use jiff::{SignedDuration, Timestamp};
use model::{AllowEntry, AllowSet, Decision, Scope};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};

use crate::mmdb::Mmdb;
use crate::namespace::{Attacker, isolated, run};
use crate::{Told, runtime};

const GERMAN: &str = "5.0.0.7";
const FRENCH: &str = "6.0.0.7";
const NOBODY: &str = "7.0.0.7";
const GERMAN6: &str = "2a00::7";
const FRENCH6: &str = "2a01::7";
const PRIVATE: &str = "10.66.0.2";
const PRIVATE6: &str = "fd66::2";
const ALL: [&str; 7] = [GERMAN, FRENCH, NOBODY, GERMAN6, FRENCH6, PRIVATE, PRIVATE6];

const WORLD: [(&str, &str); 4] = [("5.0.0.0/8", "DE"), ("6.0.0.0/8", "FR"), ("2a00::/32", "DE"), ("2a01::/32", "FR")];

/// A host with geo policies, as `cordon run` drives it.
struct Host {
    folder: TempDir,
    geo: Geo,
    learn: watch::Sender<Knowledge>,
    feed: mpsc::Sender<Update>,
    allow: watch::Sender<Arc<AllowSet>>,
    engine_says: watch::Receiver<Status>,
    says: watch::Receiver<GeoStatus>,
    stop: oneshot::Sender<()>,
    stop_keeper: oneshot::Sender<()>,
    engine: tokio::task::JoinHandle<Result<(), bouncers::BouncerError>>,
}

/// Policies as they are written, over the small world.
fn configure(folder: &Path, policies: &str) -> Geo {
    let countries = folder.join("country.mmdb");
    std::fs::write(&countries, Mmdb::countries(&WORLD).with_aliases().bytes()).expect("the folder is ours");
    let systems = folder.join("as.mmdb");
    std::fs::write(&systems, Mmdb::systems(&[("6.0.0.0/24", 64500)]).bytes()).expect("the folder is ours");
    let text = format!("country_db: {}\nas_db: {}\n{policies}\n", countries.display(), systems.display());
    let documents = model::yaml::documents(&text).expect("sound YAML");
    Geo::read(&documents[0]).expect("a sound section")
}

impl Host {
    fn new(policies: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let geo = configure(folder.path(), policies);
        Self::with(geo, folder)
    }

    fn with(geo: Geo, folder: TempDir) -> Self {
        let (feed, told) = mpsc::channel(16);
        feed.try_send(Update::Snapshot(Vec::new())).expect("there is room");
        let config = Config::default();
        let (shown, engine_says) = watch::channel(Status::new(config.mode));
        let (stop, stopped) = oneshot::channel();
        let (stop_keeper, keeper_stopped) = oneshot::channel();
        let (allow, allowed) = watch::channel(Arc::default());
        let wiring = Wiring::new(allowed, shown, Metrics::default(), own_addresses);
        let nftables = Nftables::open(config.nftables()).expect("this host can do it");
        let parts = Some(nftables.parts());
        let engine = tokio::spawn(enforce(Told(told), nftables, config, wiring, async { drop(stopped.await) }));
        let (learn, knowledge) = watch::channel(load::begin(&geo));
        let (say, says) = watch::channel(GeoStatus::default());
        let state = folder.path().to_path_buf();
        let wiring = keeper::Wiring { parts, knowledge, engine: engine_says.clone(), status: say, state };
        tokio::spawn(keep(geo.clone(), wiring, async { drop(keeper_stopped.await) }));
        Self { folder, geo, learn, feed, allow, engine_says, says, stop, stop_keeper, engine }
    }

    /// Waits until the policies are in force, and the engine has seen that they are.
    async fn in_force(&mut self) {
        let leased =
            |status: &GeoStatus| matches!(status.force, Force::Leased(_) | Force::Unconfirmed(_) | Force::Lasting);
        let wait = self.says.wait_for(leased);
        drop(tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time").expect("it runs"));
        self.engine_sees().await;
    }

    /// Waits for a look of the engine that begins now and finds everything in place.
    async fn engine_sees(&mut self) {
        let now = Timestamp::now();
        let green = |status: &Status| {
            status.health(now) == Health::Green
                && status.verified.as_ref().is_some_and(|verified| verified.missing == 0)
        };
        drop(
            tokio::time::timeout(Duration::from_secs(15), self.engine_says.wait_for(green))
                .await
                .expect("in time")
                .expect("it runs"),
        );
    }

    async fn remove(self) {
        drop(self.stop);
        drop(self.stop_keeper);
        self.engine.await.expect("no panic").expect("it stops");
        run("nft", &["delete", "table", "inet", "cordon"]);
    }
}

/// Waits until `sources` are those of all that reach us; the last answer if that never happens.
fn reaching<'a>(attacker: &mut Attacker, expected: &[&'a str]) -> Vec<&'a str> {
    let until = Instant::now() + Duration::from_secs(8);
    loop {
        let found = attacker.reaching(&ALL);
        if found == expected || Instant::now() > until {
            return ALL.iter().copied().filter(|source| found.contains(source)).collect();
        }
    }
}

fn attacker() -> Attacker {
    let mut attacker = Attacker::new();
    attacker.owns(&[GERMAN, FRENCH, NOBODY, GERMAN6, FRENCH6]);
    for net in ["5.0.0.0/8", "6.0.0.0/8", "7.0.0.0/8", "2a00::/32", "2a01::/32"] {
        run("ip", &["route", "add", net, "dev", "v0"]);
    }
    assert_eq!(attacker.reaching(&ALL), ALL, "before any policy");
    attacker
}

fn decision(scope: Scope, value: &str, seconds: i64) -> Decision {
    Decision {
        id: 7,
        uuid: "u".into(),
        origin: "cscli".into(),
        remediation: "ban".into(),
        scope,
        value: value.into(),
        scenario: "test".into(),
        created_at: Timestamp::now(),
        until: Timestamp::now() + SignedDuration::from_secs(seconds),
        simulated: false,
        alert_id: 1,
    }
}

#[test]
fn policies_decide_who_may_begin() {
    isolated("geo::policies_decide_who_may_begin", || {
        let mut attacker = attacker();
        // (policies, who reaches us); IPv4 comes to port 9999, IPv6 to 9998
        let cases: [(&str, &[&str]); 12] = [
            ("[{ deny: [FR] }]", &[GERMAN, NOBODY, GERMAN6, PRIVATE, PRIVATE6]),
            ("[{ allow: [DE] }]", &[GERMAN, GERMAN6, PRIVATE, PRIVATE6]),
            ("[{ allow: [DE], unknown: pass }]", &[GERMAN, NOBODY, GERMAN6, PRIVATE, PRIVATE6]),
            ("[{ deny: [FR], unknown: drop }]", &[GERMAN, GERMAN6, PRIVATE, PRIVATE6]),
            ("[{ deny: [FR], except: [6.0.0.0/30, 6.0.0.7] }]", &[GERMAN, FRENCH, NOBODY, GERMAN6, PRIVATE, PRIVATE6]),
            ("[{ deny: [AS64500] }]", &[GERMAN, NOBODY, GERMAN6, FRENCH6, PRIVATE, PRIVATE6]),
            ("[{ deny: [FR], ports: [22, 9999-10005] }]", &[GERMAN, NOBODY, GERMAN6, FRENCH6, PRIVATE, PRIVATE6]),
            ("[{ deny: [FR], ports: [tcp/9998, udp/1-9998] }]", &[GERMAN, FRENCH, NOBODY, GERMAN6, PRIVATE, PRIVATE6]),
            ("[{ deny: [FR], interfaces: [v0] }]", &[GERMAN, NOBODY, GERMAN6, PRIVATE, PRIVATE6]),
            ("[{ deny: [FR], interfaces: [v1, 'w*'] }]", &ALL),
            ("[{ deny: [FR], mode: observe }]", &ALL),
            ("[{ deny: [FR] }, { deny: [DE], interfaces: ['v*'] }]", &[NOBODY, PRIVATE, PRIVATE6]),
        ];
        runtime().block_on(async {
            for (policies, expected) in cases {
                let mut host = Host::new(&format!("policies: {policies}"));
                host.in_force().await;
                assert_eq!(reaching(&mut attacker, expected), expected, "{policies}");
                host.remove().await;
            }
        });
    });
}

#[test]
fn what_is_only_watched_is_counted() {
    isolated("geo::what_is_only_watched_is_counted", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let mut host =
                Host::new("policies: [{ name: watch, deny: [FR], mode: observe }, { name: real, deny: [FR] }]");
            host.in_force().await;
            attacker.reaching(&[FRENCH, FRENCH, FRENCH6]);
            let counted = |status: &GeoStatus| status.policies.iter().all(|policy| policy.dropped.packets >= 3);
            let wait = tokio::time::timeout(Duration::from_secs(15), host.says.wait_for(counted)).await.is_ok();
            assert!(wait, "{:?}", host.says.borrow().policies);
            host.remove().await;
        });
    });
}

#[test]
fn without_the_agent_policies_end_with_their_lease_and_bans_do_not() {
    isolated("geo::without_the_agent_policies_end_with_their_lease_and_bans_do_not", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let mut geo = configure(folder.path(), "policies: [{ allow: [DE] }]");
            geo.lease = Some(SignedDuration::from_secs(3));
            let mut host = Host::with(geo, folder);
            let ban = decision(Scope::Ip, GERMAN, 600);
            host.feed.send(Update::Snapshot(vec![ban])).await.expect("it runs");
            host.in_force().await;
            let held = [GERMAN6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &held), held);
            tokio::time::sleep(Duration::from_millis(3500)).await;
            assert_eq!(attacker.reaching(&ALL), held, "it is renewed");
            let _ = host.stop_keeper.send(());
            let free = [FRENCH, NOBODY, GERMAN6, FRENCH6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &free), free, "nobody renews it, and the ban stays");
            drop(host.stop);
            host.engine.await.expect("no panic").expect("it stops");
        });
    });
}

#[test]
fn policies_without_a_lease_outlive_the_agent() {
    isolated("geo::policies_without_a_lease_outlive_the_agent", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let mut host = Host::new("lease: none\npolicies: [{ deny: [FR] }]");
            host.in_force().await;
            let held = [GERMAN, NOBODY, GERMAN6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &held), held);
            drop((host.stop, host.stop_keeper));
            host.engine.await.expect("no panic").expect("it stops");
            assert_eq!(attacker.reaching(&ALL), held);
        });
    });
}

#[test]
fn open_connections_go_on_under_a_policy_and_not_under_a_ban_of_the_country() {
    isolated("geo::open_connections_go_on_under_a_policy_and_not_under_a_ban_of_the_country", || {
        let mut attacker = attacker();
        attacker.comes_from(FRENCH);
        // It is open before the kernel tracks any connection: nothing in this namespace has asked for that yet.
        let mut stream = attacker.connect();
        assert!(attacker.speaks(&mut stream));
        runtime().block_on(async {
            let mut host = Host::new("policies: [{ deny: [FR] }]");
            host.in_force().await;
            let held = [GERMAN, NOBODY, GERMAN6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &held), held);
            assert!(attacker.speaks(&mut stream), "an open connection is not cut");
            assert!(attacker.speaks(&mut stream));
            let ban = decision(Scope::Country, "FR", 600);
            host.feed.send(Update::Snapshot(vec![ban])).await.expect("it runs");
            let banned = |status: &GeoStatus| status.decisions.iter().any(|decision| decision.refused.is_none());
            drop(tokio::time::timeout(Duration::from_secs(10), host.says.wait_for(banned)).await.expect("in time"));
            let until = Instant::now() + Duration::from_secs(8);
            while attacker.speaks(&mut stream) {
                assert!(Instant::now() < until, "a ban of the country cuts it");
            }
            host.remove().await;
        });
    });
}

#[test]
fn decisions_about_regions_hold_end_and_are_lifted() {
    isolated("geo::decisions_about_regions_hold_end_and_are_lifted", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let host = Host::new("max_country_ranges: 3");
            let tell =
                async |decisions: Vec<Decision>| host.feed.send(Update::Snapshot(decisions)).await.expect("it runs");
            let french = [GERMAN, NOBODY, GERMAN6, PRIVATE, PRIVATE6];
            tell(vec![decision(Scope::Country, "FR", 600)]).await;
            assert_eq!(reaching(&mut attacker, &french), french);
            tell(vec![]).await;
            assert_eq!(reaching(&mut attacker, &ALL), ALL, "lifted");
            let only4 = [GERMAN, NOBODY, GERMAN6, FRENCH6, PRIVATE, PRIVATE6];
            tell(vec![decision(Scope::As, "AS64500", 3)]).await;
            assert_eq!(reaching(&mut attacker, &only4), only4);
            assert_eq!(reaching(&mut attacker, &ALL), ALL, "ended by itself");
            let second = Decision { id: 8, uuid: "v".into(), ..decision(Scope::Country, "FR", 600) };
            tell(vec![decision(Scope::Country, "DE", 600), second]).await;
            let one = [FRENCH, NOBODY, FRENCH6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &one), one, "two countries are too many ranges");
            let refused = host.says.borrow().decisions.iter().filter(|it| it.refused.is_some()).count();
            assert_eq!(refused, 1);
            host.remove().await;
        });
    });
}

#[test]
fn what_is_allowed_passes_whatever_policies_say() {
    isolated("geo::what_is_allowed_passes_whatever_policies_say", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let mut host = Host::new("policies: [{ allow: [DE] }]");
            host.feed.send(Update::Snapshot(vec![decision(Scope::Country, "FR", 600)])).await.expect("it runs");
            host.in_force().await;
            let entry = |net: &str| AllowEntry {
                net: model::scope::parse_net(net).expect("a valid test prefix"),
                list: "office".into(),
                comment: String::new(),
                expires: None,
            };
            let before = [GERMAN, GERMAN6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &before), before);
            host.allow.send_replace(Arc::new(AllowSet::new([entry(FRENCH), entry("2a01::/64")])));
            let after = [GERMAN, FRENCH, GERMAN6, FRENCH6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &after), after);
            host.remove().await;
        });
    });
}

#[test]
fn a_flushed_table_is_healed_with_policies_and_lease() {
    isolated("geo::a_flushed_table_is_healed_with_policies_and_lease", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let mut host = Host::new("policies: [{ allow: [DE] }]");
            host.feed.send(Update::Snapshot(vec![])).await.expect("it runs");
            host.in_force().await;
            let held = [GERMAN, GERMAN6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &held), held);
            for disaster in ["flush ruleset", "delete table inet cordon", "flush chain inet cordon pre"] {
                run("nft", &disaster.split(' ').collect::<Vec<_>>());
                let began = Instant::now();
                assert_eq!(reaching(&mut attacker, &held), held, "{disaster}");
                assert!(began.elapsed() < Duration::from_secs(5), "{disaster}: {:?}", began.elapsed());
            }
            host.remove().await;
        });
    });
}

#[test]
fn a_swap_lets_nobody_through_and_keeps_nobody_out() {
    isolated("geo::a_swap_lets_nobody_through_and_keeps_nobody_out", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let mut host = Host::new("policies: [{ allow: [DE] }]");
            host.in_force().await;
            let held = [GERMAN, GERMAN6, PRIVATE, PRIVATE6];
            assert_eq!(reaching(&mut attacker, &held), held);
            let path = host.geo.country_db.clone().expect("it has one");
            // Germany stays whole, around it things change every time, twenty thousand networks of them.
            let worlds: Vec<Vec<u8>> = (0..2)
                .map(|odd| {
                    let more: Vec<String> = (0..20_000)
                        .map(|n| format!("{}.{}.{}.0/24", 20 + n / 16384, n / 64 % 256, n * 4 % 256 + odd))
                        .collect();
                    let mut entries = WORLD.to_vec();
                    entries.extend(more.iter().map(|net| (net.as_str(), "DE")));
                    Mmdb::countries(&entries).with_aliases().bytes()
                })
                .collect();
            let swaps = host.says.borrow().swaps;
            let stream = attacker.stream(&[GERMAN, FRENCH, NOBODY, GERMAN6, FRENCH6], 4000);
            for round in 0..8 {
                std::fs::write(&path, &worlds[round % 2]).expect("the folder is ours");
                host.learn.send_replace(load::begin(&host.geo));
                let next = swaps + round as u64 + 1;
                let done = host.says.wait_for(|status| status.swaps >= next);
                drop(tokio::time::timeout(Duration::from_secs(10), done).await.expect("in time").expect("it runs"));
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
            let received = stream.received();
            let whole = [(GERMAN, 4000), (FRENCH, 0), (NOBODY, 0), (GERMAN6, 4000), (FRENCH6, 0)];
            assert_eq!(received, whole.map(|(source, count)| (source.to_owned(), count)));
            host.engine_sees().await;
            assert!(host.says.borrow().error.is_none(), "{:?}", host.says.borrow().error);
            host.remove().await;
        });
    });
}

#[test]
fn changed_policies_that_nobody_confirms_give_way_to_those_before() {
    isolated("geo::changed_policies_that_nobody_confirms_give_way_to_those_before", || {
        let mut attacker = attacker();
        runtime().block_on(async {
            let (first, second) = ("policies: [{ deny: [FR] }]", "policies: [{ allow: [FR] }]");
            let before = [GERMAN, NOBODY, GERMAN6, PRIVATE, PRIVATE6];
            let after = [FRENCH, FRENCH6, PRIVATE, PRIVATE6];
            let mut host = Host::new(first);
            host.in_force().await;
            assert_eq!(reaching(&mut attacker, &before), before);
            let mut folder = host.folder;
            drop((host.stop, host.stop_keeper));
            host.engine.await.expect("no panic").expect("it stops");
            for confirmed in [false, true] {
                let mut geo = configure(folder.path(), second);
                geo.confirm = Some(SignedDuration::from_secs(4));
                let mut host = Host::with(geo, folder);
                host.in_force().await;
                assert!(matches!(host.says.borrow().force, Force::Unconfirmed(_)), "{:?}", host.says.borrow().force);
                assert_eq!(reaching(&mut attacker, &after), after);
                assert!(keeper::pending_since(host.folder.path()).expect("the folder is ours").is_some());
                if confirmed {
                    assert!(keeper::confirm(host.folder.path()).expect("the folder is ours"));
                    tokio::time::sleep(Duration::from_millis(4500)).await;
                    assert_eq!(attacker.reaching(&ALL), after, "confirmed in time");
                    assert!(matches!(host.says.borrow().force, Force::Leased(_)), "{:?}", host.says.borrow().force);
                } else {
                    assert_eq!(reaching(&mut attacker, &before), before, "nobody confirmed");
                    assert_eq!(host.says.borrow().force, Force::Lapsed);
                    assert!(!keeper::confirm(host.folder.path()).expect("the folder is ours"), "it is too late");
                }
                folder = host.folder;
                drop((host.stop, host.stop_keeper));
                host.engine.await.expect("no panic").expect("it stops");
            }
        });
    });
}
