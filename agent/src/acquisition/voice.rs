//! How loudly a datasource speaks in the log, and under which name (`log_level`, `name`).
//!
//! A datasource runs on a thread of its own, so its level is the thread's. Whoever writes the log asks [`level`]; while no
//! datasource has a level of its own, [`loudest`] says so, and nothing has to be asked.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::span::EnteredSpan;

thread_local! {
    static LEVEL: Cell<Option<LevelFilter>> = const { Cell::new(None) };
}

/// The loudest level that any datasource has of its own, as its place in [`LEVELS`]; 0 when none has.
static LOUDEST: AtomicU8 = AtomicU8::new(0);

/// Quietest first.
const LEVELS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

/// What names of levels mean; those of the field are among them.
pub(super) const NAMES: [(&str, LevelFilter); 8] = [
    ("trace", LevelFilter::TRACE),
    ("debug", LevelFilter::DEBUG),
    ("info", LevelFilter::INFO),
    ("warning", LevelFilter::WARN),
    ("warn", LevelFilter::WARN),
    ("error", LevelFilter::ERROR),
    ("fatal", LevelFilter::ERROR),
    ("panic", LevelFilter::ERROR),
];

/// How one datasource speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voice {
    /// How loudly; as everything else does if it is not said.
    pub level: Option<LevelFilter>,
    /// The name that its messages bear.
    pub name: Option<String>,
}

impl Voice {
    /// Lets this thread speak so, while what it returns lives.
    pub fn speak(&self) -> Option<EnteredSpan> {
        if let Some(level) = self.level {
            LEVEL.set(Some(level));
            let place = LEVELS.iter().position(|known| *known == level).unwrap_or(0);
            LOUDEST.fetch_max(place as u8, Ordering::Relaxed);
            // What nobody wanted to hear before may be wanted now.
            tracing::callsite::rebuild_interest_cache();
        }
        self.name.as_ref().map(|name| tracing::error_span!("datasource", name).entered())
    }
}

/// How loudly this thread speaks, if it has a level of its own.
pub fn level() -> Option<LevelFilter> {
    LEVEL.get()
}

/// The loudest level that any datasource has of its own; off when none has.
pub fn loudest() -> LevelFilter {
    LEVELS.get(usize::from(LOUDEST.load(Ordering::Relaxed))).copied().unwrap_or(LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_that_of_its_thread() {
        let quiet = Voice { level: Some(LevelFilter::ERROR), name: None };
        let loud = Voice { level: Some(LevelFilter::DEBUG), name: Some("web".into()) };
        for voice in [loud, quiet] {
            let level = voice.level;
            let said = std::thread::spawn(move || {
                let _name = voice.speak();
                super::level()
            });
            assert_eq!(said.join().expect("it ends"), level);
        }
        assert_eq!((level(), loudest()), (None, LevelFilter::DEBUG), "nobody else is louder, and somebody may be");
    }
}
