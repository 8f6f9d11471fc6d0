//! What the file system says has changed.
//!
//! `notify` calls from its own thread; what it says is gathered in a set and the datasource's bell is rung. The set
//! is bounded: when too much changes at once it says "everything" instead of naming it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::rotate::FileId;
use crate::acquisition::Bell;

/// More changed paths than this at once count as "everything".
const NAMED: usize = 1024;

/// Watches folders.
#[derive(Debug)]
pub struct Watch {
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
    folders: HashMap<PathBuf, FileId>,
}

/// What has changed since it was last asked.
#[derive(Debug, Default)]
pub struct Changes {
    /// These paths.
    pub paths: HashSet<PathBuf>,
    /// Anything may have.
    pub everything: bool,
}

#[derive(Debug)]
struct Shared {
    bell: Arc<Bell>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    /// Growth of other files does not wake.
    wanted: HashSet<PathBuf>,
    all_wanted: bool,
}

impl Watch {
    /// Watches nothing yet; rings `bell` on changes.
    pub fn new(bell: Arc<Bell>) -> notify::Result<Self> {
        let shared = Arc::new(Shared { bell, state: Mutex::default() });
        let heard = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event| heard.on_event(event))?;
        Ok(Self { watcher, shared, folders: HashMap::new() })
    }

    /// Watches the files of `folder`. Asking again is cheap, and renews the watch if the folder was made anew.
    pub fn folder(&mut self, folder: &Path) -> notify::Result<()> {
        let Ok(metadata) = fs::metadata(folder) else {
            self.folders.remove(folder);
            return Ok(());
        };
        let id = FileId::of(&metadata);
        match self.folders.get(folder) {
            Some(known) if *known == id => return Ok(()),
            // The old watch went with the old folder, unless that was renamed.
            Some(_) => drop(self.watcher.unwatch(folder)),
            None => {}
        }
        self.watcher.watch(folder, RecursiveMode::NonRecursive)?;
        self.folders.insert(folder.to_path_buf(), id);
        Ok(())
    }

    /// Names the files whose growth matters; `all` when that of every file in the folders does.
    pub fn want(&self, paths: HashSet<PathBuf>, all: bool) {
        let mut state = self.shared.lock();
        state.wanted = paths;
        state.all_wanted = all;
    }

    /// What has changed since the last call.
    pub fn take(&self) -> Changes {
        std::mem::take(&mut self.shared.lock().changes)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The set is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_event(&self, event: notify::Result<Event>) {
        let mut state = self.lock();
        match event {
            Ok(event) if event.need_rescan() => state.changes.everything = true,
            // Among these are our own reads.
            Ok(Event { kind: EventKind::Access(_), .. }) => return,
            Ok(event) => {
                let grown = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
                let before = state.changes.paths.len();
                for path in event.paths {
                    if !grown || state.all_wanted || state.wanted.contains(&path) {
                        state.changes.paths.insert(path);
                    }
                }
                if state.changes.paths.len() == before {
                    return;
                }
                if state.changes.paths.len() > NAMED {
                    state.changes.paths = HashSet::new();
                    state.changes.everything = true;
                }
            }
            Err(_) => state.changes.everything = true,
        }
        drop(state);
        self.bell.ring();
    }
}
