//! What holds for every target that is a list: whatever goes wrong on the way, in the end it holds what it should, and
//! nothing of anybody else's was touched.

use std::collections::BTreeSet;
use std::path::Path;

use bouncers::engine::desired::{Key, Subject};
use bouncers::engine::plan::{Change, Placed, Placement, Plan};
use bouncers::engine::span::{Family, Span, number};
use bouncers::engine::{Bouncer, Extent, Never, Outcome, Wanted};
use bouncers::error::{BouncerError, Class};
use bouncers::opnsense::{self, OpnSense as OpnSenseList};
use bouncers::pfsense::{Rest, RestOptions};
use bouncers::proxmox::{self, Proxmox as ProxmoxList};
use bouncers::remote::nets::prefixes;
use bouncers::remote::{Endpoint, List, ListBouncer, Secret};
use ipnet::IpNet;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::opnsense::OpnSense;
use crate::pfsense::PfSense;
use crate::proxmox::{Entry, Proxmox};
use crate::schema::Schema;
use crate::server::{Api, Contract, FAULTS, Fault};

/// A target in memory, and how to look into it past its API.
pub(crate) struct Fixture<A, L> {
    pub(crate) server: Contract<A>,
    pub(crate) bouncer: ListBouncer<L>,
    held: fn(&mut A) -> BTreeSet<IpNet>,
    others: fn(&mut A) -> String,
}

pub(crate) fn secret(folder: &Path, name: &str, text: &str) -> Secret {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a temporary folder");
    Secret::File(path)
}

pub(crate) fn at(url: &str) -> Endpoint {
    Endpoint { urls: vec![url.to_owned()], ca: None }
}

fn nets(texts: impl IntoIterator<Item = impl AsRef<str>>) -> BTreeSet<IpNet> {
    texts.into_iter().map(|text| model::scope::parse_net(text.as_ref()).expect("only addresses are held")).collect()
}

pub(crate) async fn pfsense(folder: &Path) -> Fixture<PfSense, Rest> {
    let schema = Schema::load("pfsense-restapi-subset.openapi.yaml", "");
    let mut api = PfSense::new("k3y", "cordon_ban");
    api.loading = 0;
    let server = Contract::serve(api, schema).await;
    let options = RestOptions {
        endpoint: at(&server.url),
        key: secret(folder, "key", "k3y\n"),
        alias: "cordon_ban".to_owned(),
        kill_states: true,
    };
    let bouncer = ListBouncer::new(Rest::open("fw", &options).expect("the key is there"));
    let held = |api: &mut PfSense| {
        let mut held = nets(api.table.iter().flatten());
        assert_eq!(held, nets(api.ours()), "configured and loaded are the same");
        held.retain(|net| net.to_string() != "192.0.2.1/32");
        held
    };
    Fixture { server, bouncer, held, others: |api| format!("{:?}", api.others()) }
}

pub(crate) async fn opnsense(folder: &Path) -> Fixture<OpnSense, OpnSenseList> {
    // `key:secret` as the header carries it
    let server = Contract::serve(OpnSense::new("Basic a2V5OnNlY3JldA==", "cordon_ban"), None).await;
    let options = opnsense::Options {
        endpoint: at(&server.url),
        key: secret(folder, "key", "key"),
        secret: secret(folder, "secret", "secret"),
        alias: "cordon_ban".to_owned(),
    };
    let bouncer = ListBouncer::new(OpnSenseList::open("fw", &options).expect("the key is there"));
    let others = |api: &mut OpnSense| format!("{:?}", api.aliases.first());
    Fixture { server, bouncer, held: |api| nets(&api.table), others }
}

pub(crate) async fn proxmox(folder: &Path) -> Fixture<Proxmox, ProxmoxList> {
    let schema = Schema::load("proxmox-firewall-subset.openapi.yaml", "/api2/json");
    let server = Contract::serve(Proxmox::new("cordon@pve!t=u-u-i-d"), schema).await;
    let options = proxmox::Options {
        endpoint: at(&server.url),
        token: secret(folder, "token", "cordon@pve!t=u-u-i-d"),
        set: "cordon-ban".to_owned(),
        rule: true,
        writes_per_second: 1000,
    };
    let bouncer = ListBouncer::new(ProxmoxList::open("pve", &options).expect("the token is there"));
    let held = |api: &mut Proxmox| {
        let ours = api.set("cordon-ban").into_iter().flatten().filter(|entry| entry.comment.starts_with("cordon"));
        nets(ours.map(|entry| entry.cidr.clone()))
    };
    let others = |api: &mut Proxmox| {
        let theirs = |(name, entries): &(String, Vec<Entry>)| {
            let by_hand: Vec<Entry> =
                entries.iter().filter(|entry| !entry.comment.starts_with("cordon")).cloned().collect();
            (name != "cordon-ban" || !by_hand.is_empty()).then(|| (name.clone(), by_hand))
        };
        let rules: Vec<_> = api.rules.iter().filter(|rule| rule.2 != "+dc/cordon-ban").collect();
        format!("{rules:?} {:?}", api.sets.iter().filter_map(theirs).collect::<Vec<_>>())
    };
    Fixture { server, bouncer, held, others }
}

pub(crate) fn key(text: &str) -> Key {
    Key {
        remediation: "ban".into(),
        subject: Subject::Net(model::scope::parse_net(text).expect("a valid test address")),
    }
}

/// An entry; a range loses its last address if `cut`.
pub(crate) fn placed(key: &Key, cut: bool) -> Placed {
    let until = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let net = key.net().expect("a test address");
    let (first, last) = (number(net.network()), number(net.broadcast()));
    let pieces = (cut && first < last).then(|| [Span { first, last: last - 1 }].into());
    assert!(last <= Family::of(net).top());
    Placed { until, pieces }
}

fn all(wanted: &Placement) -> BTreeSet<IpNet> {
    wanted.iter().flat_map(|(key, placed)| prefixes(key, placed)).collect()
}

impl<A: Api, L: List> Fixture<A, L> {
    pub(crate) fn held(&self) -> BTreeSet<IpNet> {
        (self.held)(&mut self.server.api())
    }

    async fn rebuild(&mut self, wanted: &Placement) -> Result<Outcome, BouncerError> {
        let never = Never::default();
        self.bouncer.rebuild(Wanted::of(wanted, &never), Extent::Exactly, Timestamp::now()).await
    }

    /// Rebuilds until nothing is left to do, as the engine does.
    pub(crate) async fn settle(&mut self, wanted: &Placement) {
        for _ in 0..50 {
            match self.rebuild(wanted).await {
                Ok(Outcome { more: false, .. }) => return,
                Ok(_) => {}
                Err(error) => panic!("nothing goes wrong any more: {error}"),
            }
        }
        panic!("it never ends");
    }

    pub(crate) async fn apply(&mut self, changes: Vec<Change>) -> Result<Outcome, BouncerError> {
        self.bouncer.apply(&Plan { changes }, Timestamp::now()).await
    }

    pub(crate) async fn assert_holds(&mut self, wanted: &Placement, what: &str) {
        assert_eq!(self.held(), all(wanted), "{what}");
        let keys = wanted.iter().map(|(key, placed)| (key.clone(), placed.clone())).collect();
        let check = self.bouncer.check(keys).await.expect("it answers");
        assert!(check.is_good() && check.asked == wanted.len(), "{what}: {check:?}");
        self.server.asked();
        let never = Never::default();
        let difference = self.bouncer.compare(Wanted::of(wanted, &never), Timestamp::now()).await.expect("it answers");
        assert!(difference.is_empty(), "{what}: a plan after all is done is empty: {difference:?}");
        assert_eq!(self.server.written(), [], "{what}: comparing writes nothing");
        self.server.assert_valid();
    }
}

pub(crate) fn add(text: &str) -> Change {
    let key = key(text);
    let after = Some(placed(&key, false));
    Change { key, before: None, after, why: None }
}

pub(crate) fn remove(text: &str) -> Change {
    let key = key(text);
    let before = Some(placed(&key, false));
    Change { key, before, after: None, why: None }
}

/// Random changes under random faults, then quiet.
async fn converges<A: Api, L: List>(mut fixture: Fixture<A, L>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let pool =
        ["203.0.113.9", "203.0.113.10", "203.0.113.8/29", "198.51.100.0/24", "198.51.100.128/25", "2001:db8:7::/64"];
    let others = (fixture.others)(&mut fixture.server.api());
    let mut wanted = Placement::new();
    let mut sound = false;
    for _ in 0..14 {
        let faults: Vec<Option<Fault>> =
            (0..3).map(|_| FAULTS.choose(&mut rng).copied().filter(|_| rng.random_bool(0.4))).collect();
        fixture.server.break_next(faults);
        let key = key(pool.choose(&mut rng).expect("it is not empty"));
        let before = wanted.get(&key).cloned();
        let after = before.is_none().then(|| placed(&key, rng.random_bool(0.3)));
        let plan = Plan { changes: vec![Change { key, before, after, why: None }] };
        plan.clone().commit(&mut wanted);
        // as the engine does it: after an error only a rebuild is sound
        sound = if sound {
            fixture.bouncer.apply(&plan, Timestamp::now()).await.is_ok()
        } else {
            fixture.rebuild(&wanted).await.is_ok_and(|outcome| !outcome.more)
        };
        fixture.server.heal();
        if sound {
            assert_eq!(fixture.held(), all(&wanted), "seed {seed}: what is reported as done is done");
        }
    }
    fixture.settle(&wanted).await;
    fixture.assert_holds(&wanted, &format!("seed {seed}")).await;
    assert_eq!((fixture.others)(&mut fixture.server.api()), others, "seed {seed}: nobody else's is touched");
}

#[tokio::test]
async fn after_any_faults_the_target_holds_what_it_should() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for seed in 0..24 {
        converges(pfsense(folder.path()).await, seed).await;
        converges(opnsense(folder.path()).await, seed).await;
        converges(proxmox(folder.path()).await, seed).await;
    }
}

#[tokio::test]
async fn another_alias_is_never_written_when_numbers_shift() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut fixture = pfsense(folder.path()).await;
    let mut wanted = Placement::new();
    fixture.settle(&wanted).await;
    // an alias of somebody else's that moves into our place
    let late = crate::pfsense::Alias {
        name: "late".to_owned(),
        kind: "network".to_owned(),
        address: vec!["192.0.2.64/26".to_owned()],
        detail: vec!["by hand".to_owned()],
    };
    fixture.server.api().aliases.push(late.clone());
    for removed in ["office", "web"] {
        fixture.server.api().removes_next = Some(removed.to_owned());
        let change = add(if removed == "web" { "203.0.113.7" } else { "203.0.113.8" });
        wanted.insert(change.key.clone(), change.after.clone().expect("it is added"));
        fixture.apply(vec![change]).await.expect("the second try stands");
        fixture.assert_holds(&wanted, removed).await;
    }
    assert!(fixture.server.api().others().contains(&late));
}

#[tokio::test]
async fn an_empty_alias_keeps_its_placeholder_and_a_ban_of_it_is_no_riddle() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut fixture = pfsense(folder.path()).await;
    fixture.settle(&Placement::new()).await;
    assert_eq!(nets(fixture.server.api().ours()), nets(["192.0.2.1"]));
    let change = add("192.0.2.1");
    let wanted = Placement::from([(change.key.clone(), change.after.clone().expect("it is added"))]);
    fixture.apply(vec![change]).await.expect("it is taken");
    let keys = wanted.clone().into_iter().collect();
    assert!(fixture.bouncer.check(keys).await.is_ok_and(|check| check.is_good()));
    fixture.apply(vec![remove("192.0.2.1")]).await.expect("it is taken");
    fixture.assert_holds(&Placement::new(), "empty again").await;
}

#[tokio::test]
async fn a_table_that_no_rule_uses_is_no_protection() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut fixture = pfsense(folder.path()).await;
    fixture.server.api().table = None;
    let error = fixture.rebuild(&Placement::new()).await.expect_err("nothing is blocked");
    assert!(error.to_string().contains("no rule uses the alias `cordon_ban`"), "{error}");

    let mut fixture = proxmox(folder.path()).await;
    fixture.settle(&Placement::new()).await;
    assert_eq!(fixture.server.api().rules.first().map(|rule| rule.2.clone()).as_deref(), Some("+dc/cordon-ban"));
    fixture.server.api().rules[0].3 = false;
    let error = fixture.bouncer.check(Vec::new()).await.expect_err("nothing is blocked");
    assert!(error.to_string().contains("switched off"), "{error}");
    fixture.server.api().rules.remove(0);
    let change = add("203.0.113.9");
    let keys = vec![(change.key.clone(), change.after.clone().expect("it is added"))];
    fixture.apply(vec![change]).await.expect("it is taken");
    assert!(fixture.bouncer.check(keys.clone()).await.is_ok_and(|check| check.missing == 1), "nobody uses the set");
    fixture.settle(&keys.into_iter().collect()).await;
    assert!(fixture.server.api().rules[0].3, "the rule is there again");
}

#[tokio::test]
async fn what_a_target_will_never_take_is_set_aside_and_the_rest_goes_in() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut fixture = pfsense(folder.path()).await;
    fixture.settle(&Placement::new()).await;
    fixture.server.api().refuses.push("203.0.113.9/32".to_owned());
    let outcome = fixture.apply(vec![add("203.0.113.8"), add("203.0.113.9")]).await.expect("the rest is taken");
    let refused: Vec<String> = outcome.refused.iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
    assert_eq!(refused, ["ban Ip 203.0.113.9: INVALID_NETWORK_ALIAS_ADDRESS: `203.0.113.9/32` is not a subnet"]);
    assert_eq!(fixture.held(), nets(["203.0.113.8"]));
    assert_eq!(fixture.server.api().killed, ["203.0.113.8:", "203.0.113.9:"], "and only whole addresses are cut off");
}

#[tokio::test]
async fn entries_of_others_are_neither_doubled_nor_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut fixture = proxmox(folder.path()).await;
    let by_hand = Entry { cidr: "203.0.113.9".to_owned(), comment: "by hand".to_owned(), nomatch: false };
    fixture.server.api().sets.push(("cordon-ban".to_owned(), vec![by_hand.clone()]));
    let change = add("203.0.113.9");
    let wanted = Placement::from([(change.key, change.after.expect("it is added"))]);
    fixture.settle(&wanted).await;
    assert_eq!(fixture.server.api().set("cordon-ban").cloned(), Some(vec![by_hand.clone()]));
    fixture.settle(&Placement::new()).await;
    assert_eq!(fixture.server.api().set("cordon-ban").cloned(), Some(vec![by_hand]));
}

#[tokio::test]
async fn a_list_that_is_shown_in_part_is_not_believed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut fixture = opnsense(folder.path()).await;
    let changes = ["203.0.113.8", "203.0.113.9"].map(add);
    let wanted: Placement =
        changes.iter().map(|change| (change.key.clone(), change.after.clone().expect("it is added"))).collect();
    fixture.settle(&wanted).await;
    fixture.server.api().rows = 1;
    let error = fixture.rebuild(&wanted).await.expect_err("half a list");
    assert!(error.to_string().contains("1 of 2 entries"), "{error}");
}

#[tokio::test]
async fn refused_credentials_are_told_as_such() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut fixture = pfsense(folder.path()).await;
    fixture.server.api().key = "another".to_owned();
    let error = fixture.rebuild(&Placement::new()).await.expect_err("a wrong key");
    assert_eq!(error.class(), Class::Unauthorised);
    assert!(!format!("{error} {error:?} {:?}", fixture.bouncer).contains("k3y"), "secrets are never shown");
    assert_eq!(fixture.server.api().failed_logins, 1, "and nobody hammers");
}

#[tokio::test]
async fn everything_of_ours_goes_when_it_is_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let change = add("203.0.113.9");
    let wanted = Placement::from([(change.key, change.after.expect("it is added"))]);
    let mut pf = pfsense(folder.path()).await;
    pf.settle(&wanted).await;
    pf.bouncer.teardown().await.expect("it answers");
    let mut opn = opnsense(folder.path()).await;
    opn.settle(&wanted).await;
    opn.bouncer.teardown().await.expect("it answers");
    let mut pve = proxmox(folder.path()).await;
    pve.settle(&wanted).await;
    pve.bouncer.teardown().await.expect("it answers");
    assert_eq!([pf.held(), opn.held(), pve.held()], [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()]);
}
