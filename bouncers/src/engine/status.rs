//! What the engine knows about itself, for people, the command line and metrics.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::config::Mode;
use crate::engine::{Right, Traffic};
use crate::geo::Region;

/// Refused entries that are listed; the rest is only counted.
pub const LISTED: usize = 1000;

/// Looks that may be missed before a target counts as not verified.
const MISSED: i32 = 3;
/// How late a look may be.
const LATE: SignedDuration = SignedDuration::from_secs(5);

/// A decision that is not enforced, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// What it is about.
    pub value: String,
    /// Why it is not enforced.
    pub reason: String,
}

/// The last time that somebody else's change was undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Heal {
    /// When.
    pub at: Timestamp,
    /// Name of the process that did it; empty when it is not known.
    pub process: String,
    /// Its id; 0 when it is not known.
    pub pid: u32,
}

/// The last time that entries were looked up in the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// When.
    pub at: Timestamp,
    /// How many entries were looked up.
    pub asked: usize,
    /// How many of them were not there.
    pub missing: usize,
}

/// Whether the blocks are really in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum Health {
    /// They are: look-ups a moment ago found them.
    Green,
    /// Nothing is meant to be dropped.
    Idle(String),
    /// They are not, or nobody knows.
    Red(String),
}

/// The state of one bouncer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Its name.
    pub target: String,
    /// What kind of target it is.
    pub kind: &'static str,
    /// What the bouncer is told to do.
    pub mode: Mode,
    /// Entries that should be in force, of any kind.
    pub desired: usize,
    /// Entries that are in the target.
    pub applied: usize,
    /// Entries that should be in the target.
    pub wanted: usize,
    /// Entries of scopes and remediations that this bouncer does not enforce.
    pub elsewhere: usize,
    /// Entries that the rails or their form keep out, up to [`LISTED`].
    pub refused: Vec<Refused>,
    /// How many there are.
    pub refused_total: usize,
    /// Removals that are held back because there were too many at once; they need another snapshot that agrees.
    pub held_removals: usize,
    /// New entries that are too many at once and wait until a person acknowledges them.
    pub waiting: usize,
    /// Whether nobody has pulled the panic switch.
    pub armed: bool,
    /// Who may write to the target.
    pub right: Right,
    /// Whether the target fails so often that it is only tried.
    pub circuit_open: bool,
    /// Whether everything was removed because there were no news for too long.
    pub let_go: bool,
    /// Since when the target has not been as it should be.
    pub behind_since: Option<Timestamp>,
    /// How long that may take, in seconds: three times the time in which news are gathered and written.
    pub may_take: u64,
    /// How often the target is looked at, in seconds.
    pub look: u64,
    /// Why the last transaction failed, until one succeeds.
    pub error: Option<String>,
    /// Why there are no news, until there are.
    pub feed_error: Option<String>,
    /// Why the last snapshot could not be written, until one can.
    pub snapshot_error: Option<String>,
    /// How often somebody else's change was undone.
    pub heals: u64,
    /// The last time.
    pub last_heal: Option<Heal>,
    /// The last look-up.
    pub verified: Option<Verified>,
    /// What has been dropped.
    pub dropped: Traffic,
    /// Bans of countries and autonomous systems: who knows where addresses are makes ranges of them.
    #[serde(skip)]
    pub regions: Vec<RegionBan>,
}

/// A ban of a country or an autonomous system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionBan {
    /// Who is banned.
    pub region: Region,
    /// When it ends.
    pub until: Timestamp,
}

impl Status {
    /// The state of a bouncer that has not begun.
    pub fn new(mode: Mode) -> Self {
        Self {
            target: String::new(),
            kind: "",
            mode,
            desired: 0,
            applied: 0,
            wanted: 0,
            elsewhere: 0,
            refused: Vec::new(),
            refused_total: 0,
            held_removals: 0,
            waiting: 0,
            armed: true,
            right: Right::Ours,
            circuit_open: false,
            let_go: false,
            behind_since: None,
            may_take: 0,
            look: 10,
            error: None,
            feed_error: None,
            snapshot_error: None,
            heals: 0,
            last_heal: None,
            verified: None,
            dropped: Traffic::default(),
            regions: Vec::new(),
        }
    }

    /// Green only if look-ups have shown it.
    pub fn health(&self, now: Timestamp) -> Health {
        let red = |reason: &str| Health::Red(reason.to_owned());
        let stale = SignedDuration::from_secs(self.look as i64) * MISSED + LATE;
        let may_take = SignedDuration::from_secs(self.may_take as i64);
        let behind = self.behind_since.is_some_and(|since| now.duration_since(since) > may_take);
        match (self.mode, &self.right, &self.error, &self.verified) {
            (Mode::Off, ..) => Health::Idle("switched off".to_owned()),
            (Mode::DryRun, ..) => Health::Idle("dry run: nothing is changed".to_owned()),
            (_, Right::Others(name), ..) => Health::Idle(format!("`{name}` writes to this target")),
            (_, Right::Unknown, ..) => red("nobody has said yet who writes to this target"),
            (_, _, Some(error), _) => red(error),
            (_, _, _, None) => red("nothing has been verified yet"),
            (_, _, _, Some(verified)) if now.duration_since(verified.at) > stale => red("not verified for a while"),
            (_, _, _, Some(verified)) if verified.missing > 0 => red("entries are missing"),
            _ if !self.armed => red("disarmed by a person"),
            _ if self.let_go => red("no news for too long, so everything was let go"),
            _ if behind => red("changes are not applied yet"),
            _ if self.waiting > 0 => {
                red("too many new entries at once wait until a person acknowledges them: `cordon bouncer acknowledge`")
            }
            (Mode::Observe, ..) => Health::Idle("observing: packets are counted, not dropped".to_owned()),
            (Mode::Enforce, ..) => Health::Green,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn green_needs_proof() {
        let now = Timestamp::UNIX_EPOCH;
        let verified = |missing| Some(Verified { at: now, asked: 9, missing });
        let good = Status { verified: verified(0), ..Status::new(Mode::Enforce) };
        let before = now - SignedDuration::from_secs(1);
        let late = now + SignedDuration::from_secs(60);
        // (what, status, now, health)
        let cases = [
            ("verified", good.clone(), now, "green"),
            ("just begun", Status::new(Mode::Enforce), now, "nothing has been verified yet"),
            ("long ago", good.clone(), late, "not verified for a while"),
            ("something is missing", Status { verified: verified(1), ..good.clone() }, now, "entries are missing"),
            ("failing", Status { error: Some("no".into()), ..good.clone() }, now, "no"),
            ("disarmed", Status { armed: false, ..good.clone() }, now, "disarmed by a person"),
            ("behind", Status { behind_since: Some(before), ..good.clone() }, now, "changes are not applied yet"),
            ("behind for a moment", Status { behind_since: Some(before), may_take: 3, ..good.clone() }, now, "green"),
            ("let go", Status { let_go: true, ..good.clone() }, now, "no news for too long, so everything was let go"),
            (
                "too fast",
                Status { waiting: 3, ..good.clone() },
                now,
                "too many new entries at once wait until a person acknowledges them: `cordon bouncer acknowledge`",
            ),
            (
                "somebody else's",
                Status { right: Right::Others("fw2".into()), ..good.clone() },
                now,
                "`fw2` writes to this target",
            ),
            (
                "observing",
                Status { mode: Mode::Observe, ..good.clone() },
                now,
                "observing: packets are counted, not dropped",
            ),
            ("off", Status::new(Mode::Off), now, "switched off"),
            ("dry run", Status { mode: Mode::DryRun, ..good }, now, "dry run: nothing is changed"),
        ];
        for (what, status, now, expected) in cases {
            let health = match status.health(now) {
                Health::Green => "green".to_owned(),
                Health::Idle(reason) | Health::Red(reason) => reason,
            };
            assert_eq!(health, expected, "{what}");
        }
    }
}
