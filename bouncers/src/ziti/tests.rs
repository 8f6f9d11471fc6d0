//! The whole crash matrix as a table, and as a property against a controller in memory.

#![allow(clippy::unnecessary_wraps, reason = "the rows of the table are read side by side")]

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::plan::Seen::{Clear, Gone, Lapsed, Locked};
use super::plan::Step::{Cut, Disable, Lift, Note, Renew, Rest};
use super::plan::{Held, Lock, Seen, Standing, Wish, minutes_until, next};

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a small number of seconds")
}

/// A disable from second `at` until second `until`.
fn lock(at: i64, until: i64) -> Lock {
    Lock { at: second(at), until: Some(second(until)) }
}

const NOBODY: Option<Held> = None;

fn asked(at: i64, minutes: i64) -> Option<Held> {
    Some(Held::Asked { at: second(at), minutes, before: None })
}

fn prolonging(at: i64, minutes: i64, before: Lock) -> Option<Held> {
    Some(Held::Asked { at: second(at), minutes, before: Some(before) })
}

fn ours(lock: Lock) -> Option<Held> {
    Some(Held::Ours { lock, cut: true })
}

fn uncut(lock: Lock) -> Option<Held> {
    Some(Held::Ours { lock, cut: false })
}

fn lifting(lock: Lock) -> Option<Held> {
    Some(Held::Lifting { lock })
}

fn yielded(until: i64) -> Option<Held> {
    Some(Held::Yielded { until: second(until) })
}

#[test]
fn every_state_has_its_next_step() {
    // At second 1000 a ban of ten minutes asks for 12 minutes: a disable until 1720.
    let mine = lock(1000, 1720);
    let theirs = lock(900, 5000);
    let brief = lock(900, 1100);
    let forever = Lock { at: second(900), until: None };
    let (ban, free) = (Some(1600), None);
    // (what, now, wanted until, journal, seen, next step)
    let cases = [
        // nothing of ours
        ("nobody wants anything", 1000, free, NOBODY, Clear, Rest(Standing::Free)),
        ("a person's disable is none of our business", 1000, free, NOBODY, Locked(forever), Rest(Standing::Free)),
        ("what lapsed for others is left alone", 1000, free, NOBODY, Lapsed(brief), Rest(Standing::Free)),
        ("a ban begins in the journal", 1000, ban, NOBODY, Clear, Note(asked(1000, 12))),
        ("a lapsed disable is cleared first", 1200, ban, NOBODY, Lapsed(brief), Renew),
        ("a person's disable for ever covers a ban", 1000, ban, NOBODY, Locked(forever), Rest(Standing::Foreign(None))),
        ("a longer one covers it", 1000, ban, NOBODY, Locked(theirs), Rest(Standing::Foreign(theirs.until))),
        ("a shorter one is waited for", 1000, ban, NOBODY, Locked(brief), Rest(Standing::Foreign(brief.until))),
        ("an identity that is not there", 1000, ban, NOBODY, Gone, Rest(Standing::Gone)),
        ("a ban that is over is none", 1600, ban, NOBODY, Clear, Rest(Standing::Free)),
        // a disable was asked for
        ("the intent is carried out", 1001, ban, asked(1001, 12), Clear, Disable(12)),
        (
            "crash before the call: done anew, with a new intent",
            1100,
            ban,
            asked(1000, 12),
            Clear,
            Note(asked(1100, 11)),
        ),
        (
            "crash before the call, no longer wanted: it may still arrive",
            1015,
            free,
            asked(1000, 12),
            Clear,
            Rest(Standing::Waiting(second(1020))),
        ),
        ("crash before the call, no longer wanted, long ago", 1100, free, asked(1000, 12), Clear, Note(NOBODY)),
        (
            "crash, no longer wanted, so long ago that it may have lapsed unseen",
            1800,
            free,
            asked(1000, 12),
            Clear,
            Lift,
        ),
        ("crash after the call: adopted", 1100, ban, asked(1000, 12), Locked(mine), Note(uncut(mine))),
        (
            "crash after the call, no longer wanted: adopted, then lifted",
            1100,
            free,
            asked(1000, 12),
            Locked(mine),
            Note(uncut(mine)),
        ),
        (
            "crash after the call, lapsed meanwhile: adopted, then lifted",
            2000,
            free,
            asked(1000, 12),
            Lapsed(mine),
            Note(uncut(mine)),
        ),
        ("the clocks differ by a little", 1100, ban, asked(1003, 12), Locked(mine), Note(uncut(mine))),
        ("another length is another's", 1100, ban, asked(1000, 13), Locked(mine), Note(NOBODY)),
        ("an older disable is another's", 1100, ban, asked(1010, 12), Locked(mine), Note(NOBODY)),
        ("a much later disable is another's", 1100, ban, asked(900, 12), Locked(mine), Note(NOBODY)),
        ("one for ever is another's", 1100, free, asked(900, 12), Locked(forever), Note(NOBODY)),
        ("another's has lapsed and a ban is wanted", 1200, ban, asked(1150, 12), Lapsed(brief), Renew),
        ("another's has lapsed and none is wanted", 1200, free, asked(1150, 12), Lapsed(brief), Note(NOBODY)),
        ("deleted while it was asked for", 1100, ban, asked(1000, 12), Gone, Note(NOBODY)),
        // in force
        ("what is cut is in force", 1100, ban, ours(mine), Locked(mine), Rest(Standing::InForce)),
        ("crash before the cut: cut now", 1100, ban, uncut(mine), Locked(mine), Cut),
        ("the ban is prolonged", 1100, Some(5000), ours(mine), Locked(mine), Note(prolonging(1100, 67, mine))),
        ("the ban is over: lifted by us", 1600, ban, ours(mine), Locked(mine), Note(lifting(mine))),
        ("lifted before its end", 1100, free, ours(mine), Locked(mine), Note(lifting(mine))),
        ("the backstop has ended it: still enabled by us", 1800, free, ours(mine), Lapsed(mine), Note(lifting(mine))),
        (
            "the backstop has ended it too early: once more from the start",
            1800,
            Some(9000),
            ours(mine),
            Lapsed(mine),
            Note(lifting(mine)),
        ),
        ("a controller that forgets a lapsed disable", 1800, free, ours(mine), Clear, Note(lifting(mine))),
        ("somebody took over: left alone", 1100, free, ours(mine), Locked(theirs), Note(NOBODY)),
        ("somebody took over for ever: left alone", 1600, ban, ours(mine), Locked(forever), Note(NOBODY)),
        ("somebody took over, and that has lapsed: left alone", 1200, free, ours(mine), Lapsed(brief), Note(NOBODY)),
        ("a person enabled it, and that holds", 1100, ban, ours(mine), Clear, Note(yielded(1600))),
        ("a person enabled it, and the ban is over too", 1100, free, ours(mine), Clear, Note(NOBODY)),
        ("deleted", 1100, ban, ours(mine), Gone, Note(NOBODY)),
        // prolonging
        ("the longer disable is carried out", 1100, Some(5000), prolonging(1100, 67, mine), Locked(mine), Disable(67)),
        (
            "crash before it: done anew",
            1200,
            Some(5000),
            prolonging(1100, 67, mine),
            Locked(mine),
            Note(prolonging(1200, 66, mine)),
        ),
        (
            "crash before it, no longer wanted: the old one is ours",
            1200,
            free,
            prolonging(1100, 67, mine),
            Locked(mine),
            Note(uncut(mine)),
        ),
        (
            "crash after it: adopted",
            1200,
            Some(5000),
            prolonging(1100, 67, mine),
            Locked(lock(1100, 5120)),
            Note(uncut(lock(1100, 5120))),
        ),
        ("a person enabled it instead", 1200, Some(5000), prolonging(1100, 67, mine), Clear, Note(uncut(mine))),
        ("a person disabled it instead", 1200, Some(5000), prolonging(1100, 67, mine), Locked(forever), Note(NOBODY)),
        ("the old one has lapsed", 1800, Some(5000), prolonging(1100, 67, mine), Lapsed(mine), Note(uncut(mine))),
        // lifting
        ("the enable is carried out", 1600, free, lifting(mine), Locked(mine), Lift),
        ("crash before it and lapsed meanwhile: still enabled", 1800, free, lifting(mine), Lapsed(mine), Lift),
        ("crash after it: once more does no harm", 1700, free, lifting(mine), Clear, Lift),
        ("somebody disabled it meanwhile: left alone", 1700, free, lifting(mine), Locked(forever), Note(NOBODY)),
        ("banned again before it was enabled: kept", 1100, ban, lifting(mine), Locked(mine), Note(uncut(mine))),
        ("banned again after it lapsed: enabled first", 1800, Some(9000), lifting(mine), Lapsed(mine), Lift),
        ("deleted while it was lifted", 1700, free, lifting(mine), Gone, Note(NOBODY)),
        // yielded
        ("what gave way stays so", 1200, ban, yielded(1600), Clear, Rest(Standing::Yielded)),
        ("a shorter ban changes nothing", 1200, Some(1500), yielded(1600), Clear, Rest(Standing::Yielded)),
        ("a new, longer ban counts", 1200, Some(5000), yielded(1600), Clear, Note(NOBODY)),
        ("the ban is over", 1200, free, yielded(1600), Clear, Note(NOBODY)),
    ];
    for (what, now, until, held, seen, step) in cases {
        let wish = Wish { until: until.map(second), reassert: false };
        assert_eq!(next(second(now), wish, held, seen, false), step, "{what}");
    }
    let reassert = Wish { until: Some(second(1600)), reassert: true };
    assert_eq!(next(second(1100), reassert, ours(mine), Clear, false), Note(asked(1100, 11)), "told to insist");
    let wish = Wish { until: Some(second(1600)), reassert: false };
    assert_eq!(next(second(1100), wish, ours(mine), Locked(mine), true), Cut, "new circuits of a token that lives on");
    assert_eq!(next(second(1100), wish, NOBODY, Locked(forever), true), Cut, "circuits under a person's disable");
}

#[test]
fn no_ban_ever_asks_for_no_end() {
    // (seconds left, minutes asked for)
    let cases = [
        (i64::MIN / 2_000_000_000_000, 3),
        (-60, 3),
        (0, 3),
        (1, 3),
        (60, 3),
        (61, 4),
        (3600, 62),
        (200_000_000_000, 5 * 366 * 24 * 60 + 2),
    ];
    for (left, minutes) in cases {
        let until = second(0) + SignedDuration::from_secs(left);
        assert_eq!(minutes_until(second(0), until), minutes, "{left} seconds");
    }
    let long = lock(0, (5 * 366 * 24 * 60 + 2) * 60);
    let wish = Wish { until: Some(second(200_000_000_000)), reassert: false };
    let step = next(second(86_400), wish, ours(long), Locked(long), false);
    assert_eq!(step, Rest(Standing::InForce), "the longest disable is not prolonged all the time");
}

/// Who disabled the identity last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Us,
    Person,
}

/// A controller with one identity, and its routers.
#[derive(Debug)]
struct World {
    now: Timestamp,
    lock: Option<(Lock, Who)>,
    forgets: bool,
    /// Routers (2.x) keep refusing until something updates the identity.
    refused: bool,
    /// Cutoffs written on transitions.
    revocations: usize,
    live: bool,
}

impl World {
    fn locked(&self) -> bool {
        self.lock.is_some_and(|(lock, _)| lock.until.is_none_or(|until| until > self.now))
    }

    fn seen(&self) -> Seen {
        match self.lock {
            Some((lock, _)) if self.locked() => Locked(lock),
            Some((lock, _)) if !self.forgets => Lapsed(lock),
            _ => Clear,
        }
    }

    fn disable(&mut self, minutes: i64, who: Who) {
        if self.lock.is_none() || (self.forgets && !self.locked()) {
            self.revocations += 1;
        }
        let until = (minutes > 0).then(|| self.now + SignedDuration::from_secs(minutes * 60));
        self.lock = Some((Lock { at: self.now, until }, who));
        self.refused = true;
        self.live = false;
    }

    fn enable(&mut self) {
        self.lock = None;
        self.refused = false;
    }
}

/// What happens next in the world.
#[derive(Clone, Debug)]
enum Act {
    /// We work, and die after so many effects.
    Work(usize),
    Wait(i64),
    Want(Option<i64>),
    PersonDisables(i64),
    PersonEnables,
    Connect,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0usize..6).prop_map(Act::Work),
        4 => Just(Act::Work(99)),
        3 => (1i64..900).prop_map(Act::Wait),
        2 => (30i64..3000).prop_map(|seconds| Act::Want(Some(seconds))),
        1 => Just(Act::Want(None)),
        1 => (-1i64..30).prop_map(Act::PersonDisables),
        1 => Just(Act::PersonEnables),
        1 => Just(Act::Connect),
    ]
}

/// Carries out steps until there is nothing to do or `effects` are spent; the journal is all that outlives it.
fn work(world: &mut World, held: &mut Option<Held>, until: Option<Timestamp>, effects: usize) -> Option<Standing> {
    let wish = Wish { until, reassert: false };
    for _ in 0..effects {
        match next(world.now, wish, *held, world.seen(), world.live) {
            Rest(standing) => return Some(standing),
            Note(note) => *held = note,
            Disable(minutes) => {
                assert!(minutes > 2, "a disable of {minutes} minutes");
                let before = world.revocations;
                let prolongs = matches!(held, Some(Held::Asked { before: Some(_), .. }));
                world.disable(minutes, Who::Us);
                assert!(world.revocations > before || prolongs, "a ban without a new revocation");
            }
            Renew => {
                assert!(!world.locked(), "a disable in force was renewed away");
                world.enable();
            }
            Lift => {
                let person = world.lock.is_some_and(|(_, who)| who == Who::Person);
                assert!(!(person && world.locked()), "a person's disable was undone");
                world.enable();
                *held = None;
            }
            Cut => {
                world.live = false;
                if let Some(Held::Ours { cut, .. }) = held {
                    *cut = true;
                }
            }
        }
        world.now += SignedDuration::from_millis(70);
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_happens_in_the_end_it_is_as_wished(acts in proptest::collection::vec(act(), 1..40), forgets in any::<bool>()) {
        let mut world = World { now: second(100_000), lock: None, forgets, refused: false, revocations: 0, live: true };
        let mut held = None;
        let mut until: Option<Timestamp> = None;
        for act in acts {
            let wanted = until.filter(|&until| until > world.now);
            match act {
                Act::Work(effects) => drop(work(&mut world, &mut held, wanted, effects)),
                Act::Wait(seconds) => world.now += SignedDuration::from_secs(seconds),
                Act::Want(seconds) => until = seconds.map(|seconds| world.now + SignedDuration::from_secs(seconds)),
                // The same number of minutes at the same moment is the one thing that nobody can tell apart.
                Act::PersonDisables(minutes) => match held {
                    Some(Held::Asked { minutes: ours, .. }) if ours == minutes => {}
                    _ => world.disable(minutes, Who::Person),
                },
                Act::PersonEnables => world.enable(),
                Act::Connect => world.live = true,
            }
        }
        // A minute later, so that nothing may still be under way, it comes to rest.
        world.now += SignedDuration::from_secs(61);
        let wanted = until.filter(|&until| until > world.now);
        let standing = work(&mut world, &mut held, wanted, 40).expect("it comes to rest");
        let again = next(world.now, Wish { until: wanted, reassert: false }, held, world.seen(), world.live);
        prop_assert_eq!(again, Rest(standing), "a plan after it is applied is empty");
        match wanted {
            Some(_) if standing == Standing::Yielded => {
                let gave_way = matches!(held, Some(Held::Yielded { .. }));
                prop_assert!(gave_way, "{:?}", held);
            }
            Some(_) => prop_assert!(world.locked() && !world.live && world.refused, "{:?} {:?}", standing, world),
            None => {
                prop_assert_eq!(standing, Standing::Free);
                prop_assert_eq!(held, None);
                let ours = world.lock.is_some_and(|(_, who)| who == Who::Us);
                prop_assert!(!ours && (!world.refused || world.lock.is_some()), "{:?}", world);
            }
        }
    }
}
