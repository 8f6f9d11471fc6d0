//! The Ziti bouncer against contract servers of both families of controllers.

mod controller;
mod crash;
mod engine;
mod real;
mod schema;
mod secure;
mod support;

use std::collections::BTreeSet;

use bouncers::ziti::plan::Standing;
use bouncers::ziti::work::Settled;
use jiff::{SignedDuration, Timestamp};

use crate::controller::{Family, Identity, Site};
use crate::support::{Cordon, in_minutes};

const FAMILIES: [Family; 2] = [Family::Old, Family::New];

#[tokio::test]
async fn an_identity_is_cut_off_and_let_back_in() {
    for family in FAMILIES {
        let site = Site::start(family, 2).await;
        let mut cordon = Cordon::new(&site);
        let bob = {
            let mut network = site.lock();
            for token in [false, true] {
                let session = network.log_in("aliceId", "203.0.113.9", token).expect("she may");
                network.dial(&session, 0).expect("she may");
                network.dial(&session, 1).expect("she may");
            }
            let session = network.log_in("bobId", "203.0.113.10", true).expect("he may");
            network.dial(&session, 1).expect("he may")
        };
        cordon.ban("aliceId", in_minutes(10));
        assert_eq!(cordon.settle().await, [("aliceId".to_owned(), Settled::Done(Standing::InForce))], "{family:?}");
        {
            let mut network = site.lock();
            assert!(network.disabled("aliceId") && !network.flows("aliceId"), "{family:?}");
            assert_eq!(network.log_in("aliceId", "203.0.113.9", true), None);
            assert!(network.circuits.contains_key(&bob), "others are left alone");
            let alice = &network.identities["aliceId"];
            let length = alice.disabled_until.expect("an end").duration_since(alice.disabled_at.expect("a begin"));
            assert_eq!(length, SignedDuration::from_mins(12), "ten minutes and the backstop");
            assert_eq!(network.revocations.len(), usize::from(family == Family::New));
        }
        let before = site.lock().writes.len();
        assert!(cordon.outlook().await.is_empty(), "a plan after it is applied is empty");
        cordon.settle().await;
        assert_eq!(site.lock().writes.len(), before, "and nothing is written again");

        cordon.lift("aliceId");
        cordon.settle().await;
        let mut network = site.lock();
        assert!(!network.disabled("aliceId"));
        let session = network.log_in("aliceId", "203.0.113.9", true).expect("she may again");
        assert!(network.dial(&session, 0).is_some(), "routers let her in again");
        assert_eq!(network.identities["bobId"].updates, 0);
        assert!(cordon.journal_is_empty());
    }
}

#[tokio::test]
async fn a_second_ban_cuts_like_the_first_also_after_the_disable_has_lapsed() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    for round in 1..=3 {
        {
            let mut network = site.lock();
            let session = network.log_in("aliceId", "203.0.113.9", true).expect("she may");
            network.dial(&session, 0).expect("she may");
        }
        cordon.ban("aliceId", in_minutes(5));
        cordon.settle().await;
        assert!(!site.lock().flows("aliceId"), "round {round}");
        assert_eq!(site.lock().revocations.len(), round, "each ban revokes what was there before it");
        // The process was away while the disable lapsed: routers refuse her still.
        site.lock().ahead += SignedDuration::from_hours(1);
        assert!(site.lock().refused.contains("aliceId") && !site.lock().disabled("aliceId"));
        cordon.lift("aliceId");
        cordon.settle().await;
        assert!(!site.lock().refused.contains("aliceId"), "enabled although it has lapsed");
    }
    // Somebody else's has lapsed and was never enabled: without an enable first there would be no revocation.
    site.lock().disable("aliceId", 1);
    site.lock().ahead += SignedDuration::from_mins(5);
    let before = site.lock().revocations.len();
    cordon.ban("aliceId", in_minutes(5));
    cordon.settle().await;
    assert_eq!(site.lock().revocations.len(), before + 1);
}

#[tokio::test]
async fn what_a_person_or_a_lockout_disabled_is_never_enabled() {
    for family in FAMILIES {
        let site = Site::start(family, 1).await;
        let mut cordon = Cordon::new(&site);
        // (what, minutes, before our ban)
        for (what, minutes, before) in [
            ("for ever, before", 0, true),
            ("for long, before", 600, true),
            ("for ever, during", 0, false),
            ("briefly, during", 20, false),
        ] {
            if before {
                site.lock().disable("aliceId", minutes);
            }
            cordon.ban("aliceId", in_minutes(10));
            cordon.settle().await;
            if !before {
                site.lock().disable("aliceId", minutes);
            }
            let theirs = site.lock().identities["aliceId"].clone();
            cordon.settle().await;
            cordon.lift("aliceId");
            cordon.settle().await;
            let now = site.lock().identities["aliceId"].clone();
            assert_eq!(
                (now.disabled_at, now.disabled_until, now.updates),
                (theirs.disabled_at, theirs.disabled_until, theirs.updates),
                "{what}"
            );
            site.lock().enable("aliceId");
        }
        // A short lockout covers the ban only as long as it lasts.
        site.lock().disable("aliceId", 5);
        cordon.ban("aliceId", in_minutes(600));
        let until = site.lock().identities["aliceId"].disabled_until;
        assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::Foreign(until)));
        site.lock().ahead += SignedDuration::from_mins(6);
        assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::InForce), "{family:?}");
    }
}

#[tokio::test]
async fn a_ban_does_not_end_with_its_disable() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    cordon.ban("aliceId", in_minutes(5));
    cordon.settle().await;
    // A longer decision: the disable is prolonged in place, without letting her in for a moment.
    cordon.ban("aliceId", in_minutes(500));
    cordon.settle().await;
    let changes = site.lock().changes().join("\n");
    assert!(!changes.contains("enable"), "{changes}");
    let until = site.lock().identities["aliceId"].disabled_until.expect("an end");
    assert!(until >= in_minutes(500));
    // It lapses although the ban lasts, as when the controller's clock leaps: she is banned again.
    site.lock().disable("bobId", 3);
    site.lock().ahead += SignedDuration::from_hours(10);
    cordon.settle().await;
    assert!(site.lock().disabled("aliceId"));
}

#[tokio::test]
async fn a_person_who_enables_wins_unless_told_otherwise() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    cordon.ban("aliceId", in_minutes(10));
    cordon.settle().await;
    site.lock().enable("aliceId");
    assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::Yielded));
    cordon.restart(&site);
    cordon.ban("aliceId", cordon.until("aliceId"));
    assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::Yielded), "also after a restart");
    assert!(!site.lock().disabled("aliceId"));
    cordon.ban("aliceId", in_minutes(60));
    assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::InForce), "a new decision counts");

    cordon.options.reassert = true;
    cordon.restart(&site);
    cordon.ban("aliceId", in_minutes(60));
    site.lock().enable("aliceId");
    cordon.settle().await;
    assert!(site.lock().disabled("aliceId"), "told to insist");
}

#[tokio::test]
async fn who_must_not_be_banned_is_not() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    cordon.options.protect = vec![bouncers::ziti::name::Name::Name("bob".into())];
    cordon.restart(&site);
    // (value, why not)
    let cases = [
        ("rootId", "it is the default administrator"),
        ("opsId", "it is an administrator, see `allow_admin_ban`"),
        ("name:ops", "it is an administrator, see `allow_admin_ban`"),
        ("routerId", "it is a router"),
        ("cordonId", "it is the identity that Cordon itself uses"),
        ("bobId", "it is on the list `protect`"),
        ("external:ext-bob", "it is on the list `protect`"),
        ("../bobId", "`../bobId` is no id of an identity, expected an id, `name:NAME` or `external:ID`"),
    ];
    for (value, why) in cases {
        cordon.ban(value, in_minutes(10));
        assert_eq!(cordon.settle().await, [(value.to_owned(), Settled::Refused(why.to_owned()))]);
        cordon.lift(value);
    }
    assert_eq!(site.lock().changes(), Vec::<&str>::new());
    cordon.options.allow_admin_ban = true;
    cordon.restart(&site);
    cordon.ban("opsId", in_minutes(10));
    cordon.ban("rootId", in_minutes(10));
    cordon.settle().await;
    assert!(site.lock().disabled("opsId") && !site.lock().disabled("rootId"));
}

#[tokio::test]
async fn too_many_bans_stop() {
    let site = Site::start(Family::New, 1).await;
    for number in 0..6 {
        let name = format!("user{number}");
        site.lock().identities.insert(format!("u{number}"), Identity { name, ..Identity::default() });
    }
    let mut cordon = Cordon::new(&site);
    cordon.options.max_identity_bans = 3;
    cordon.restart(&site);
    for number in 0..6 {
        cordon.ban(&format!("u{number}"), in_minutes(10 + number));
    }
    let settled = cordon.settle().await;
    let refused: Vec<&str> = settled
        .iter()
        .filter(|(_, settled)| {
            *settled == Settled::Refused("3 identities are banned already, see `max_identity_bans`".into())
        })
        .map(|(value, _)| value.as_str())
        .collect();
    assert_eq!(refused, ["u0", "u1", "u2"], "the longest bans go first");
    cordon.lift("u5");
    cordon.settle().await;
    cordon.settle().await;
    assert!(site.lock().disabled("u2") && !site.lock().disabled("u5"), "there is room again");
}

#[tokio::test]
async fn an_identity_is_found_by_its_names() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    let tricky = r#"eve" or true or name=""#;
    site.lock().identities.insert("eveId".into(), Identity { name: tricky.into(), ..Identity::default() });
    let twin = Identity { external: Some("ext-alice".into()), ..Identity::default() };
    for value in ["name:alice", "external:ext-bob", "name:nobody", &format!("name:{tricky}")] {
        cordon.ban(value, in_minutes(10));
    }
    let settled = cordon.settle().await;
    let gone: Vec<_> = settled.iter().filter(|(_, settled)| *settled == Settled::Done(Standing::Gone)).collect();
    assert_eq!(gone.len(), 1, "{settled:?}");
    for id in ["aliceId", "bobId", "eveId"] {
        assert!(site.lock().disabled(id), "{id}");
    }
    assert_eq!(site.lock().changes().len(), 3, "nobody else");
    // Renamed while banned: the ban stays with the one that was found.
    site.lock().identities.get_mut("aliceId").expect("alice").name = "alicia".into();
    cordon.restart(&site);
    for value in ["name:alice", "external:ext-bob", &format!("name:{tricky}")] {
        cordon.ban(value, cordon.until("x"));
    }
    cordon.settle().await;
    assert!(site.lock().disabled("aliceId"));
    cordon.lift("name:alice");
    cordon.settle().await;
    assert!(!site.lock().disabled("aliceId"));
    // Two of one name: nobody is banned for the other.
    site.lock().identities.insert("twinId".into(), twin);
    cordon.ban("external:ext-alice", in_minutes(10));
    let settled = cordon.settle().await;
    let wrong = Settled::Refused("`external:ext-alice` names several identities".into());
    assert!(settled.iter().any(|(_, settled)| *settled == wrong), "{settled:?}");
}

#[tokio::test]
async fn two_decisions_on_one_identity_end_with_the_last() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    cordon.ban("aliceId", in_minutes(10));
    cordon.ban("name:alice", in_minutes(100));
    cordon.settle().await;
    let disables = site.lock().changes().iter().filter(|change| change.contains("disable")).count();
    assert_eq!(disables, 1);
    cordon.lift("name:alice");
    cordon.settle().await;
    assert!(site.lock().disabled("aliceId"), "the other one lasts");
    cordon.lift("aliceId");
    cordon.settle().await;
    assert!(!site.lock().disabled("aliceId"));
}

#[tokio::test]
async fn a_deleted_identity_is_forgotten() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    cordon.ban("aliceId", in_minutes(10));
    cordon.settle().await;
    site.lock().identities.remove("aliceId");
    assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::Gone));
    assert!(cordon.journal_is_empty());
}

#[tokio::test]
async fn one_session_is_ended() {
    for family in FAMILIES {
        let site = Site::start(family, 1).await;
        let mut cordon = Cordon::new(&site);
        let (old, other, token, admins) = {
            let mut network = site.lock();
            let mut open = |id: &str, token| network.log_in(id, "203.0.113.9", token).expect("he may");
            let opened = (open("aliceId", false), open("aliceId", false), open("aliceId", true), open("opsId", false));
            for session in [&opened.0, &opened.1, &opened.2] {
                network.dial(session, 0).expect("she may");
            }
            opened
        };
        for session in [&old, &token, &admins] {
            cordon.end(session, in_minutes(10));
        }
        let settled = cordon.settle_sessions().await;
        let of =
            |session: &str| settled.iter().find(|(value, _)| value == session).expect("it was asked for").1.clone();
        assert_eq!(of(&old), Settled::Done(Standing::InForce));
        assert_eq!(of(&admins), Settled::Refused("it is an administrator, see `allow_admin_ban`".into()));
        let network = site.lock();
        assert!(!network.sessions.contains_key(&old) && network.sessions.contains_key(&other), "{family:?}");
        match family {
            Family::Old => assert!(matches!(of(&token), Settled::Refused(_)), "tokens cannot be revoked"),
            Family::New => assert!(!network.sessions.contains_key(&token)),
        }
        assert!(!network.disabled("aliceId"));
    }
}

#[tokio::test]
async fn what_is_open_from_a_banned_address_is_ended() {
    for family in FAMILIES {
        let site = Site::start(family, 2).await;
        let mut cordon = Cordon::new(&site);
        let events = cordon.folder.path().join("events.jsonl");
        cordon.options.events = vec![events.clone()];
        cordon.restart(&site);
        let (session, token, circuit, others) = {
            let mut network = site.lock();
            let session = network.log_in("aliceId", "203.0.113.9", false).expect("she may");
            network.log_in("opsId", "203.0.113.9", false).expect("he may");
            let token = network.log_in("aliceId", "203.0.113.9", true).expect("she may");
            let circuit = network.dial(&token, 1).expect("she may");
            let others = network.log_in("bobId", "203.0.113.99", false).expect("he may");
            (session, token, circuit, others)
        };
        let lines = format!(
            "{{\"namespace\":\"apiSession\",\"event_type\":\"created\",\"type\":\"jwt\",\"id\":\"{token}\",\"identity_id\":\"aliceId\",\"ip_address\":\"203.0.113.9\"}}\n\
             {{\"namespace\":\"circuit\",\"event_type\":\"created\",\"circuit_id\":\"{circuit}\",\"path\":{{\"initiator_remote_addr\":\"tls:203.0.113.9:4711\"}}}}\n"
        );
        std::fs::write(&events, lines).expect("written");
        assert_eq!(cordon.assist(&["203.0.113.8"]).await, 0);
        assert!(cordon.assist(&["203.0.113.0/28", "192.0.2.0/24"]).await >= 2, "{family:?}");
        let network = site.lock();
        assert!(!network.sessions.contains_key(&session) && !network.circuits.contains_key(&circuit));
        assert!(network.sessions.contains_key(&others), "others are left alone");
        assert!(network.sessions.values().any(|session| session.identity == "opsId"), "administrators as well");
        assert_eq!(network.sessions.contains_key(&token), family == Family::Old);
        assert!(network.identities.values().all(|identity| identity.updates == 0), "no identity is disabled");
    }
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    {
        let mut network = site.lock();
        for number in 0..1203 {
            let (id, name) = (format!("u{number}"), format!("user{number}"));
            network.identities.insert(id.clone(), Identity { name, ..Identity::default() });
            let session = network.log_in(&id, "203.0.113.10", true).expect("he may");
            network.dial(&session, 0).expect("he may");
        }
        for _ in 0..3 {
            let session = network.log_in("aliceId", "203.0.113.9", true).expect("she may");
            network.dial(&session, 0).expect("she may");
        }
        // Only what is cut one by one shows that the list was read to its end.
        network.family = Family::Old;
    }
    cordon.ban("aliceId", in_minutes(10));
    cordon.settle().await;
    assert!(!site.lock().flows("aliceId"));
    assert_eq!(site.lock().circuits.len(), 1203, "others are left alone");
}

#[tokio::test]
async fn a_token_of_an_older_controller_is_watched() {
    let site = Site::start(Family::Old, 1).await;
    let mut cordon = Cordon::new(&site);
    let session = site.lock().log_in("aliceId", "203.0.113.9", true).expect("she may");
    cordon.ban("aliceId", in_minutes(10));
    cordon.settle().await;
    assert!(cordon.work.wake().as_secs_f64() <= 2.5, "looked at again soon");
    assert!(site.lock().dial(&session, 0).is_some(), "her token lives on");
    assert_eq!(cordon.outlook().await.len(), 1, "which shows");
    cordon.settle().await;
    assert!(!site.lock().flows("aliceId"), "and is cut again");
}

#[tokio::test]
async fn what_is_hosted_is_cut_where_that_is_wanted() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    for hosted in [false, true] {
        site.lock().terminators =
            [("t1".to_owned(), "aliceId".to_owned()), ("t2".to_owned(), "bobId".to_owned())].into();
        cordon.options.hosted = hosted;
        cordon.restart(&site);
        cordon.ban("aliceId", in_minutes(10));
        cordon.settle().await;
        let left: Vec<String> = site.lock().terminators.keys().cloned().collect();
        assert_eq!(left, if hosted { vec!["t2"] } else { vec!["t1", "t2"] });
        cordon.lift("aliceId");
        cordon.settle().await;
    }
}

#[tokio::test]
async fn writes_are_paced_and_looking_writes_nothing() {
    let site = Site::start(Family::Old, 1).await;
    let mut cordon = Cordon::paced(&site, 5);
    {
        let mut network = site.lock();
        for _ in 0..8 {
            let session = network.log_in("aliceId", "203.0.113.9", true).expect("she may");
            network.dial(&session, 0).expect("she may");
        }
    }
    cordon.ban("aliceId", in_minutes(10));
    assert_eq!(cordon.outlook().await.len(), 1);
    assert_eq!(site.lock().changes(), Vec::<&str>::new(), "a dry run changes nothing");
    cordon.settle().await;
    let network = site.lock();
    let times: Vec<Timestamp> = network.writes.iter().map(|(at, _)| *at).collect();
    assert_eq!(times.len(), 9);
    for ten in times.windows(9) {
        assert!(ten[8].duration_since(ten[0]) >= SignedDuration::from_millis(790), "{times:?}");
    }
    let distinct: BTreeSet<&str> = network.changes().into_iter().collect();
    assert_eq!(distinct.len(), 9, "nothing is written twice");
}
