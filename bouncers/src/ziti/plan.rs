//! What to do next with one identity: a pure function of what the controller shows, what the journal says is
//! ours, and what is wished.
//!
//! The controller has one pair of fields, `disabledAt` and `disabledUntil`, for everybody: a person's click, its own
//! password lockout, and us. So we own exactly the pair that we wrote down, and nothing else is ever enabled. One
//! call of [`next`] yields one step; whoever carries it out looks again and asks again, so a process may die between
//! any two steps. All times are the controller's.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Minutes that a disable outlives the ban, so that it is us who end it.
const BACKSTOP: i64 = 2;
/// The longest disable that is asked for; a longer ban is prolonged in time.
const LONGEST: i64 = 5 * 366 * 24 * 60;
/// Two clocks, or one and its reading a moment ago, may differ by this.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);
/// How long after it was asked for a disable may still appear: as long as a request may take, and some more. A person
/// who disables the same identity for the same odd number of minutes in that time cannot be told from us.
const IN_FLIGHT: SignedDuration = SignedDuration::from_secs(20);
/// An intent older than this is written down anew before it is carried out.
const FRESH: SignedDuration = SignedDuration::from_secs(10);
/// A disable that would end less than this after the ban is prolonged.
const SPARE: SignedDuration = SignedDuration::from_secs(60);

/// A disable as the controller keeps it: since when, and until when; for ever without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// `disabledAt`.
    pub at: Timestamp,
    /// `disabledUntil`.
    pub until: Option<Timestamp>,
}

/// What the controller shows of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There is no such identity.
    Gone,
    /// Enabled, and nothing left of any disable.
    Clear,
    /// Enabled because the time of this disable is over; routers may not know yet.
    Lapsed(Lock),
    /// Disabled.
    Locked(Lock),
}

/// What the journal says of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Held {
    /// A disable is about to be asked for, or was when the process ended.
    Asked {
        /// When.
        at: Timestamp,
        /// For how many minutes.
        minutes: i64,
        /// The disable of ours that it prolongs.
        before: Option<Lock>,
    },
    /// The disable is ours.
    Ours {
        /// As it was read back.
        lock: Lock,
        /// Whether sessions and circuits are cut.
        cut: bool,
    },
    /// An enable is about to be asked for, or was when the process ended.
    Lifting {
        /// The disable that it ends.
        lock: Lock,
    },
    /// A person enabled the identity while the ban lasted, and that holds.
    Yielded {
        /// When the ban that gave way would have ended.
        until: Timestamp,
    },
}

impl Held {
    /// Whether it counts against the number of identities that may be banned at a time.
    pub fn counts(&self) -> bool {
        !matches!(self, Self::Yielded { .. })
    }
}

/// What is wished, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// When the ban ends; `None` if the identity is not to be banned.
    pub until: Option<Timestamp>,
    /// Whether a ban is renewed that a person ended.
    pub reassert: bool,
}

/// One step towards the wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is to be done now.
    Rest(Standing),
    /// Write this into the journal, durably; `None` forgets the identity.
    Note(Option<Held>),
    /// Disable the identity for so many minutes.
    Disable(i64),
    /// Enable an identity whose disable has lapsed, so that the next one is a new one to the routers, too.
    Renew,
    /// Enable the identity, then forget it.
    Lift,
    /// Cut its sessions and circuits, then note that.
    Cut,
}

/// How things stand when nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not banned, and nothing of ours.
    Free,
    /// Banned by us.
    InForce,
    /// Somebody else disabled it, until then or for ever; it is looked at again when that ends.
    Foreign(Option<Timestamp>),
    /// A person enabled it although the ban lasts.
    Yielded,
    /// A disable that was asked for may still appear; look again at this time.
    Waiting(Timestamp),
    /// There is no such identity.
    Gone,
}

/// The next step for an identity that looks like `seen` at `now`, of which the journal says `held`. `live` says
/// whether it has sessions or circuits.
pub fn next(now: Timestamp, wish: Wish, held: Option<Held>, seen: Seen, live: bool) -> Step {
    let until = wish.until.filter(|&until| until > now);
    if seen == Seen::Gone {
        return if held.is_some() { Step::Note(None) } else { Step::Rest(Standing::Gone) };
    }
    match held {
        None => begin(now, until, seen, live),
        Some(Held::Asked { at, minutes, before }) => asked(now, until, (at, minutes, before), seen),
        Some(Held::Ours { lock, cut }) => ours(now, until, wish.reassert, lock, cut && !live, seen),
        Some(Held::Lifting { lock }) => match seen {
            Seen::Locked(other) | Seen::Lapsed(other) if other != lock => Step::Note(None),
            Seen::Locked(_) if until.is_some() => Step::Note(Some(Held::Ours { lock, cut: false })),
            // Also when it is enabled already: the routers may not have heard.
            _ => Step::Lift,
        },
        Some(Held::Yielded { until: yielded }) => match until {
            Some(until) if until <= yielded => Step::Rest(Standing::Yielded),
            _ => Step::Note(None),
        },
    }
}

/// Nothing is ours.
fn begin(now: Timestamp, until: Option<Timestamp>, seen: Seen, live: bool) -> Step {
    let Some(until) = until else { return Step::Rest(Standing::Free) };
    match seen {
        Seen::Locked(_) if live => Step::Cut,
        Seen::Locked(lock) => Step::Rest(Standing::Foreign(lock.until)),
        Seen::Lapsed(_) => Step::Renew,
        Seen::Clear | Seen::Gone => Step::Note(Some(intent(now, until, None))),
    }
}

/// A disable was asked for; whether it was carried out shows in what is seen.
fn asked(
    now: Timestamp,
    until: Option<Timestamp>,
    (at, minutes, before): (Timestamp, i64, Option<Lock>),
    seen: Seen,
) -> Step {
    let own = |lock| Step::Note(Some(Held::Ours { lock, cut: false }));
    match (seen, before, until) {
        (Seen::Locked(lock) | Seen::Lapsed(lock), ..) if answers(lock, at, minutes) => own(lock),
        (Seen::Locked(lock), Some(before), Some(until)) if lock == before => redo(now, until, at, minutes, Some(lock)),
        (Seen::Locked(lock) | Seen::Lapsed(lock), Some(before), _) if lock == before => own(lock),
        (Seen::Locked(_), ..) => Step::Note(None),
        (Seen::Lapsed(_), _, Some(_)) => Step::Renew,
        (Seen::Lapsed(_), _, None) => Step::Note(None),
        // Whoever enabled it meant the ban that was to be prolonged.
        (_, Some(before), _) => own(before),
        (_, None, Some(until)) => redo(now, until, at, minutes, None),
        (_, None, None) if now < at + IN_FLIGHT => Step::Rest(Standing::Waiting(at + IN_FLIGHT)),
        // It may have been carried out and have lapsed, on a controller that clears such fields.
        (_, None, None) if now + TOLERANCE >= at + SignedDuration::from_mins(minutes.min(LONGEST + BACKSTOP)) => {
            Step::Lift
        }
        (_, None, None) => Step::Note(None),
    }
}

fn redo(now: Timestamp, until: Timestamp, at: Timestamp, minutes: i64, before: Option<Lock>) -> Step {
    let age = now.duration_since(at);
    if age.abs() <= FRESH && minutes == minutes_until(now, until) {
        return Step::Disable(minutes);
    }
    Step::Note(Some(intent(now, until, before)))
}

/// The disable `lock` is ours.
fn ours(now: Timestamp, until: Option<Timestamp>, reassert: bool, lock: Lock, cut: bool, seen: Seen) -> Step {
    let over = lock.until.is_some_and(|end| now + TOLERANCE >= end);
    let lift = Step::Note(Some(Held::Lifting { lock }));
    match (seen, until) {
        (Seen::Locked(other) | Seen::Lapsed(other), _) if other != lock => Step::Note(None),
        (Seen::Locked(_), None) => lift,
        (Seen::Locked(_), Some(until)) if runs_short(now, until, lock) => {
            Step::Note(Some(intent(now, until, Some(lock))))
        }
        (Seen::Locked(_), Some(_)) if cut => Step::Rest(Standing::InForce),
        (Seen::Locked(_), Some(_)) => Step::Cut,
        (Seen::Lapsed(_), _) => lift,
        // A controller may clear the fields of a disable that has lapsed: that is nobody's doing.
        (Seen::Clear | Seen::Gone, _) if over => lift,
        (Seen::Clear | Seen::Gone, None) => Step::Note(None),
        (Seen::Clear | Seen::Gone, Some(until)) if reassert => Step::Note(Some(intent(now, until, None))),
        (Seen::Clear | Seen::Gone, Some(until)) => Step::Note(Some(Held::Yielded { until })),
    }
}

/// Whether `lock` is what a disable for `minutes`, asked for at `at`, leaves behind.
fn answers(lock: Lock, at: Timestamp, minutes: i64) -> bool {
    let Some(until) = lock.until else { return false };
    let wanted = SignedDuration::from_secs(minutes.saturating_mul(60));
    let length = until.duration_since(lock.at);
    let late = lock.at.duration_since(at);
    (length - wanted).abs() <= SignedDuration::from_secs(1) && late >= -TOLERANCE && late <= IN_FLIGHT
}

/// Whether `lock` ends so early that a ban until `until` needs a longer one. One as long as is ever asked for is
/// prolonged when half of it is over.
fn runs_short(now: Timestamp, until: Timestamp, lock: Lock) -> bool {
    let Some(end) = lock.until else { return false };
    until.duration_since(end) > -SPARE && end.duration_since(now) < SignedDuration::from_mins(LONGEST / 2)
}

fn intent(now: Timestamp, until: Timestamp, before: Option<Lock>) -> Held {
    Held::Asked { at: now, minutes: minutes_until(now, until), before }
}

/// What to ask for so that a ban until `until` is covered: never 0 and never negative, which would mean for ever.
pub fn minutes_until(now: Timestamp, until: Timestamp) -> i64 {
    let milliseconds = i64::try_from(until.duration_since(now).as_millis()).unwrap_or(i64::MAX);
    let minutes = milliseconds.saturating_add(59_999) / 60_000;
    minutes.clamp(1, LONGEST) + BACKSTOP
}
