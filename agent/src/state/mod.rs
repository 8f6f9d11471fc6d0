//! What survives the end of the process, and of the machine.
//!
//! Two things in the state folder: marks ([`checkpoint`]) and, since the last mark, everything that the engine worked on
//! ([`journal`]). Together they lead to the state in which an uninterrupted run would be.

pub mod checkpoint;
pub mod journal;
pub mod log;
pub mod places;

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use self::checkpoint::{Kept, Key, Mark, Meta, Store};
pub use self::journal::{Journal, Recorded, Rounds};
pub use self::log::{Damage, StateError};
pub use self::places::Places;

/// What a state folder holds.
#[derive(Debug)]
pub struct State {
    /// The secret behind the names of buckets.
    pub key: Key,
    /// Where reading stood at the very end.
    pub places: Places,
    /// The newest mark, if there is one.
    pub kept: Option<Kept>,
    /// What happened after it.
    pub rounds: Rounds,
    /// Where rounds are written down from now on.
    pub journal: Journal,
    /// Where marks are written from now on.
    pub store: Store,
    /// What is not as it was written, a sentence each.
    pub losses: Vec<String>,
    /// To be said when the rounds have been worked on again.
    pub repeated: Repeated,
}

/// How often the same rounds were begun again. A line that ends the process (by its size, its depth) must not do so for ever.
#[derive(Debug)]
pub struct Repeated {
    path: PathBuf,
}

/// How often the rounds of a journal are tried.
const ATTEMPTS: usize = 3;

impl Repeated {
    /// One more attempt; its number, from 1.
    fn begin(folder: &Path) -> (Self, usize) {
        let path = folder.join("journal-attempts");
        let before = fs::read(&path).map_or(0, |bytes| bytes.len());
        // Where nothing can be written, the worst is that it is tried again.
        let _ = fs::write(&path, vec![b'.'; before + 1]);
        (Self { path }, before + 1)
    }

    /// The rounds were worked on, whatever comes next.
    pub fn done(self) {
        // It may never have been written.
        let _ = fs::remove_file(self.path);
    }
}

impl State {
    /// Reads what `folder` holds. On the first day `random` becomes its secret. Damage is told and costs what it damaged; a
    /// file of a newer program is an error, and nothing was touched.
    pub fn open(folder: &Path, random: [u8; 16]) -> Result<Self, StateError> {
        // Refuses a newer journal before a damaged checkpoint is put aside.
        journal::check(folder)?;
        let (kept, damages) = checkpoint::read(folder)?;
        let after = kept.as_ref().map_or(0, |kept| kept.meta.round);
        let mut rounds = Rounds::read(folder, after)?;
        let mut losses: Vec<String> = damages.iter().map(|damage| damaged(damage, kept.as_ref())).collect();
        losses.extend(rounds.damage.iter().map(|damage| {
            let Damage { path, at } = damage;
            format!(
                "`{}` is damaged from byte {at} on: what was read after that is read again where it can be",
                path.display()
            )
        }));
        if rounds.gap > 0 && kept.is_some() {
            losses.push(format!(
                "{} rounds between the checkpoint and the journal are missing: their lines are read again where they can be",
                rounds.gap
            ));
        }
        let key = kept.as_ref().map_or(Key(random), |kept| kept.key);
        let mut places = kept.as_ref().map(|kept| kept.places.clone()).unwrap_or_default();
        for round in rounds.iter() {
            places.at = Some(round.now);
            for batch in round.batches {
                if let Some(name) = round.names.get(batch.source as usize) {
                    places.advance(name, batch.steps);
                }
            }
        }
        let (repeated, attempt) = Repeated::begin(folder);
        if attempt > ATTEMPTS && rounds.iter().next().is_some() {
            losses.push(format!(
                "the last {ATTEMPTS} starts ended while they worked on what the journal holds: it is left out, and with it what \
                 these lines would have done"
            ));
            rounds.leave_out();
        }
        let journal = Journal::new(folder, rounds.last() + 1);
        Ok(Self { key, places, kept, rounds, journal, store: Store::new(folder, key), losses, repeated })
    }
}

fn damaged(damage: &Damage, kept: Option<&Kept>) -> String {
    let Damage { path, at } = damage;
    let outcome = match kept {
        Some(kept) => {
            format!("the state of {} is taken instead, and what came after it is read again", shown(kept.meta.at))
        }
        None => "buckets and places in the logs are lost; reading starts at the ends of the logs".to_owned(),
    };
    format!("`{}` is damaged at byte {at}, put aside as `.damaged`: {outcome}", path.display())
}

fn shown(at: Timestamp) -> String {
    format!("{at:.0}")
}
