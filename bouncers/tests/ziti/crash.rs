//! Death at every step, and faults in any order: in the end it is as wished, and what is others' is untouched.

use std::sync::Arc;
use std::time::Duration;

use bouncers::ziti::plan::Standing;
use bouncers::ziti::work::Settled;
use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::controller::{Family, Fault, Site};
use crate::support::{Cordon, in_minutes};

/// Settles until the controller freezes, and dies then; says whether it got to the end.
async fn die_at(cordon: &mut Cordon, site: &Site, request: usize, carried: bool) -> bool {
    let thaw = Arc::clone(&site.lock().thaw);
    let first = site.lock().requests + request;
    site.lock().frozen = Some((first, carried));
    let done = tokio::select! {
        settled = cordon.try_settle() => settled.is_ok(),
        () = thaw.notified() => false,
    };
    site.lock().frozen = None;
    cordon.restart(site);
    done
}

#[tokio::test]
async fn death_at_every_request_of_a_ban_and_of_a_lift() {
    for family in [Family::Old, Family::New] {
        for carried in [false, true] {
            for lift in [false, true] {
                let mut at = 1;
                loop {
                    let site = Site::start(family, 1).await;
                    let mut cordon = Cordon::new(&site);
                    for token in [false, true] {
                        let mut network = site.lock();
                        let session = network.log_in("aliceId", "203.0.113.9", token).expect("she may");
                        network.dial(&session, 0).expect("she may");
                    }
                    let until = in_minutes(10);
                    cordon.ban("aliceId", until);
                    if lift {
                        cordon.settle().await;
                        cordon.lift("aliceId");
                    }
                    let whole = die_at(&mut cordon, &site, at, carried).await;
                    let what = format!("{family:?}, request {at}, carried out: {carried}, lift: {lift}");
                    if lift {
                        cordon.settle().await;
                        let mut network = site.lock();
                        assert!(!network.disabled("aliceId") && network.refused.is_empty(), "{what}");
                        let session = network.log_in("aliceId", "203.0.113.9", true).expect("she may again");
                        assert!(network.dial(&session, 0).is_some(), "{what}");
                    } else {
                        cordon.ban("aliceId", until);
                        assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::InForce), "{what}");
                        assert!(site.lock().disabled("aliceId") && !site.lock().flows("aliceId"), "{what}");
                        cordon.lift("aliceId");
                        cordon.settle().await;
                        assert!(!site.lock().disabled("aliceId"), "it was known to be ours: {what}");
                    }
                    assert!(cordon.journal_is_empty(), "{what}");
                    assert_eq!(site.lock().identities["bobId"].updates, 0);
                    if whole {
                        assert!(at > if lift { 2 } else { 6 }, "it takes more than {at} requests: {what}");
                        break;
                    }
                    at += 1;
                }
            }
        }
    }
}

#[tokio::test]
async fn death_after_the_disable_and_a_ban_that_ended_meanwhile() {
    let site = Site::start(Family::New, 1).await;
    let mut cordon = Cordon::new(&site);
    // Requests: login, identity, version, controllers, the identity, then the disable.
    let mut at = 1;
    while !site.lock().disabled("aliceId") {
        cordon.ban("aliceId", in_minutes(10));
        die_at(&mut cordon, &site, at, true).await;
        at += 1;
    }
    site.lock().ahead += SignedDuration::from_hours(5);
    assert!(site.lock().refused.contains("aliceId"), "the backstop has ended the disable, routers do not know");
    cordon.settle().await;
    assert!(!site.lock().refused.contains("aliceId"), "nobody wishes it any more: she is let in");
    assert!(cordon.journal_is_empty());
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::Status(500)),
        1 => Just(Fault::Status(503)),
        1 => Just(Fault::Later(429, 0)),
        1 => Just(Fault::Hang),
        1 => Just(Fault::Deaf),
        2 => Just(Fault::Torn),
        2 => Just(Fault::Nonsense),
        1 => Just(Fault::Slow(20)),
        2 => Just(Fault::Expired),
    ]
}

/// What happens between two looks.
#[derive(Clone, Debug)]
enum Act {
    Ban(bool, i64),
    Lift(bool),
    PersonDisables,
    PersonEnables,
    Connect,
    Restart,
    Wait(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (any::<bool>(), 2i64..60).prop_map(|(name, minutes)| Act::Ban(name, minutes)),
        2 => any::<bool>().prop_map(Act::Lift),
        1 => Just(Act::PersonDisables),
        1 => Just(Act::PersonEnables),
        2 => Just(Act::Connect),
        1 => Just(Act::Restart),
        1 => (1i64..40).prop_map(Act::Wait),
    ]
}

#[test]
fn any_faults_and_then_quiet_and_it_is_as_wished() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let case = (any::<bool>(), proptest::collection::vec((act(), proptest::collection::vec(fault(), 0..12)), 1..8));
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&case, |(old, acts)| {
        runtime.block_on(async {
            let site = Site::start(if old { Family::Old } else { Family::New }, 2).await;
            let mut cordon = Cordon::new(&site);
            cordon.patience = Duration::from_millis(250);
            cordon.restart(&site);
            let mut wishes = std::collections::BTreeMap::new();
            for (act, faults) in acts {
                match act {
                    Act::Ban(name, minutes) => {
                        let value = if name { "name:alice" } else { "aliceId" };
                        let until = in_minutes(minutes);
                        wishes.insert(value, until);
                        cordon.ban(value, until);
                    }
                    Act::Lift(name) => {
                        let value = if name { "name:alice" } else { "aliceId" };
                        wishes.remove(value);
                        cordon.lift(value);
                    }
                    Act::PersonDisables => site.lock().disable("aliceId", 0),
                    Act::PersonEnables => site.lock().enable("aliceId"),
                    Act::Connect => {
                        let mut network = site.lock();
                        if let Some(session) = network.log_in("aliceId", "203.0.113.9", true) {
                            network.dial(&session, 1);
                        }
                    }
                    Act::Restart => {
                        cordon.restart(&site);
                        for (value, until) in &wishes {
                            cordon.ban(value, *until);
                        }
                    }
                    Act::Wait(minutes) => site.lock().ahead += SignedDuration::from_mins(minutes),
                }
                site.lock().faults = faults.into();
                // Errors are what faults make; what counts is the end.
                let _ = cordon.try_settle().await;
            }
            site.lock().faults.clear();
            cordon.patience = Duration::from_secs(5);
            // What was refused by a fault may have put off logins; a new process has no such memory.
            cordon.restart(&site);
            for (value, until) in &wishes {
                cordon.ban(value, *until);
            }
            site.lock().ahead += SignedDuration::from_secs(25);
            let mut settled = cordon.settle().await;
            if settled.iter().any(|(_, settled)| matches!(settled, Settled::Partial(_))) {
                settled = cordon.settle().await;
            }
            let before = site.lock().writes.len();
            prop_assert!(cordon.outlook().await.is_empty(), "a plan after it is applied is empty");
            prop_assert_eq!(site.lock().writes.len(), before);
            let yielded = settled.iter().any(|(_, settled)| *settled == Settled::Done(Standing::Yielded));
            {
                let network = site.lock();
                if !wishes.is_empty() && !yielded {
                    prop_assert!(network.disabled("aliceId") && !network.flows("aliceId"), "{:?}", settled);
                }
                for id in ["bobId", "opsId", "rootId", "routerId", "cordonId"] {
                    prop_assert_eq!(network.identities[id].updates, 0, "{} was touched", id);
                }
            }
            for value in ["aliceId", "name:alice"] {
                cordon.lift(value);
            }
            let forever = |site: &Site| {
                let network = site.lock();
                let alice = &network.identities["aliceId"];
                alice.disabled_at.filter(|_| alice.disabled_until.is_none())
            };
            let persons = forever(&site);
            cordon.settle().await;
            prop_assert_eq!(forever(&site), persons, "a person's disable is not undone");
            prop_assert!(persons.is_some() || !site.lock().disabled("aliceId"), "ours is");
            prop_assert!(persons.is_some() || site.lock().refused.is_empty(), "routers know");
            prop_assert!(cordon.journal_is_empty());
            Ok(())
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
