//! Lines of files: followed as they grow, or read once.
//!
//! A followed path is a name, a [`Tail`] is a file: rotation gives the name another file, and the old one is read
//! to its end (and watched a little longer, since its writer may not know yet) before the new one begins. What the
//! file system says wakes us at once; a look at everything each second is the safety net.

mod cat;
mod packed;
mod pattern;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use model::Origin;
use regex::Regex;
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{debug, info, warn};

pub use self::cat::Cat;
use self::packed::Packed;
pub use self::pattern::PathPattern;
use super::{Bell, Datasource, Outlet, Place, SourceError, Step};
use crate::tail::checkpoint::FilePlace;
use crate::tail::packed::Packing;
use crate::tail::rotate::{self, Age, Family, FileId, Found, Likeness, Relocated};
use crate::tail::watch::{Changes, Watch};
use crate::tail::{BUFFER, Read, Tail};

/// How often everything is looked at, with and without events of the file system.
const SAFETY_POLL: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(250);

/// How often the patterns are matched anew although nothing said so.
const RESCAN: Duration = Duration::from_secs(10);

/// How long a file that lost its name to another one is kept open after its last growth.
const LINGER: Duration = Duration::from_mins(1);

/// How long a new file that begins like one we know may stay too short to tell whether it is a copy.
const SETTLE: Duration = Duration::from_secs(1);

/// How many chunks a file with much to read may yield before the others have their turn.
const TURN: usize = 16;

/// A file born at most this much before we started counts as born after it: clocks of file systems are coarse.
const BIRTH_SLACK: Duration = Duration::from_secs(2);

/// A file of which nothing is remembered, born at most this much before places were last remembered, had not been seen yet.
const UNSEEN: Duration = Duration::from_secs(30);

/// So many looks at files a second are what polling may cost.
const LOOKS: u32 = 2500;

/// Which files, and what their lines have in common.
#[derive(Clone, Debug)]
pub struct Files {
    /// Paths and patterns.
    pub patterns: Vec<PathPattern>,
    /// A path that one of these finds is left out.
    pub exclude: Vec<Regex>,
    /// Labels of all lines.
    pub labels: Vec<(compact_str::CompactString, compact_str::CompactString)>,
    /// Whether buckets follow the time in the log.
    pub time_machine: bool,
}

impl Files {
    /// The patterns, as they are shown.
    pub fn name(&self) -> String {
        self.patterns.iter().map(PathPattern::as_str).collect::<Vec<_>>().join(",")
    }

    /// The files that match now, without those left out, sorted.
    pub fn matching(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.patterns.iter().flat_map(PathPattern::expand).collect();
        paths.retain(|path| !self.excludes(path));
        paths.sort();
        paths.dedup();
        paths
    }

    /// Whether `path` is meant by its full name.
    fn names_exactly(&self, path: &Path) -> bool {
        self.patterns.iter().any(|pattern| !pattern.has_wildcard() && Path::new(pattern.as_str()) == path)
    }

    fn excludes(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        self.exclude.iter().any(|regex| regex.is_match(&path))
    }

    /// What the lines of the file at `path` have in common.
    pub fn origin(&self, path: &Path) -> Origin {
        Origin {
            src: path.to_string_lossy().into(),
            module: "file".into(),
            labels: self.labels.clone(),
            time_machine: self.time_machine,
            ..Origin::default()
        }
    }
}

/// How files are followed.
#[derive(Clone, Debug, Default)]
pub struct Follow {
    /// Look often instead of listening to the file system; `None` decides by the kind of file system.
    pub poll: Option<bool>,
    /// How often the patterns are matched anew, if oftener than by default.
    pub rescan: Option<Duration>,
    /// What was last written longer ago is not caught up after a restart; `None` catches up with everything.
    pub catch_up: Option<Duration>,
}

/// Files that are followed.
#[derive(Debug)]
pub struct FileSource {
    files: Files,
    follow: Follow,
    /// Where reading stood before the restart; taken by the first scan.
    places: Vec<FilePlace>,
    /// When they were remembered.
    remembered: Option<SystemTime>,
    created: SystemTime,
    started: bool,
    tails: HashMap<FileId, Tail>,
    names: BTreeMap<PathBuf, Name>,
    /// Files that have more to read.
    ready: BTreeSet<FileId>,
    /// First generations of copies, and of files that were read to their end: not read again.
    done: HashSet<u64>,
    /// Places before the restart of files that cannot be read yet.
    waiting: HashMap<Arc<Path>, Vec<FilePlace>>,
    /// New files that are still empty, or may be a copy: when they last grew, and to what size.
    fresh: HashMap<PathBuf, (Instant, u64)>,
    /// Whether there are other names to listen for than before.
    moved: bool,
    /// Whether the watch has not been told of that yet.
    unheard: bool,
    /// Paths that could not be read.
    troubled: HashSet<PathBuf>,
    /// Files that no name leads to any more.
    unnamed: HashSet<FileId>,
    /// Files with a line that has not ended.
    open_lines: HashSet<FileId>,
    /// How many files may be open at once.
    room: usize,
    buffer: Box<[u8]>,
}

/// A path that is followed.
#[derive(Debug, Default)]
struct Name {
    /// The file it last led to.
    id: Option<FileId>,
    /// The age of that one, if it is not read any more.
    last: Option<Age>,
    /// Whether it leads nowhere now.
    missing: bool,
    /// Where the symbolic link leads.
    target: Option<PathBuf>,
}

/// What is left of the files that had one name before the restart.
#[derive(Debug, Default)]
struct Left {
    /// The places in them, with the files where these could be kept open; the others are searched for again.
    places: Vec<(FilePlace, Option<Found>)>,
    /// The ages of those that are gone.
    ages: Vec<Age>,
}

impl FileSource {
    /// Follows `files`. `places` are what was remembered at `remembered`, if anything was.
    pub fn new(files: Files, follow: Follow, places: Vec<FilePlace>, remembered: Option<SystemTime>) -> Self {
        Self {
            files,
            follow,
            places,
            remembered,
            created: SystemTime::now(),
            started: false,
            tails: HashMap::new(),
            names: BTreeMap::new(),
            ready: BTreeSet::new(),
            done: HashSet::new(),
            waiting: HashMap::new(),
            fresh: HashMap::new(),
            moved: true,
            unheard: true,
            troubled: HashSet::new(),
            unnamed: HashSet::new(),
            open_lines: HashSet::new(),
            room: open_files() / 2,
            buffer: vec![0; BUFFER].into(),
        }
    }

    fn must_poll(&self) -> bool {
        self.follow.poll.unwrap_or_else(|| {
            self.files.patterns.iter().flat_map(PathPattern::folders).any(|folder| is_on_network(&folder))
        })
    }

    /// Listens to the folders of the patterns and to those of links' targets; whether all can be heard.
    fn listen(&self, watch: &mut Watch, out: &Outlet) -> bool {
        let mut all = true;
        let folders = self.files.patterns.iter().flat_map(PathPattern::folders);
        let targets = self.names.values().filter_map(|name| name.target.as_deref()?.parent().map(Path::to_path_buf));
        for folder in folders.chain(targets) {
            let about = folder.to_string_lossy();
            match watch.folder(&folder) {
                Ok(()) => {
                    out.status().green(&about);
                }
                Err(error) => {
                    all = false;
                    let reason = format!("changes cannot be watched, files are polled: {error}");
                    if out.status().red(&about, reason, "raise `fs.inotify.max_user_watches` with sysctl") {
                        warn!(folder = %about, %error, "cannot watch folder");
                    }
                }
            }
        }
        all
    }

    /// How often everything is looked at, so that many files cost no more than few.
    fn pace(&self, shortest: Duration) -> Duration {
        shortest.max(Duration::from_secs(1) * self.names.len() as u32 / LOOKS)
    }

    /// Finds the files without a name, when that may have changed.
    fn settle(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.unnamed = self.tails.values().filter(|tail| !self.is_named(tail)).map(Tail::id).collect();
            self.unheard = true;
        }
    }

    /// Says whose growth matters, when that may have changed.
    fn want(&mut self, watch: Option<&Watch>) {
        self.settle();
        if let Some(watch) = watch
            && std::mem::take(&mut self.unheard)
        {
            let targets = self.names.values().filter_map(|name| name.target.clone());
            let paths = self.names.keys().cloned().chain(targets).collect();
            watch.want(paths, !self.unnamed.is_empty());
        }
    }

    /// Whether its path leads to the file, as far as we know.
    fn is_named(&self, tail: &Tail) -> bool {
        self.names.get(tail.path()).is_some_and(|name| name.id == Some(tail.id()) && !name.missing)
    }

    /// Whether rotation moves what another followed path led to here: then a new file is not a new log.
    fn is_archive(&self, path: &Path) -> bool {
        self.names.keys().any(|other| rotate::is_rotated(path, other))
    }

    fn name(&mut self, path: &Path, id: FileId) {
        let name = self.names.entry(path.to_path_buf()).or_default();
        name.id = Some(id);
        name.missing = false;
        self.moved = true;
    }

    /// Matches the patterns anew and looks at every path.
    fn scan(&mut self, out: &mut Outlet) -> Result<(), SourceError> {
        let paths = self.files.matching();
        if !self.started {
            self.resume(out)?;
        }
        for path in &paths {
            self.look(path, out)?;
        }
        self.started = true;
        // A name that nothing matches any more stays while its file is read.
        let present: HashSet<&PathBuf> = paths.iter().collect();
        let tails = &self.tails;
        self.names.retain(|path, name| present.contains(path) || name.id.is_some_and(|id| tails.contains_key(&id)));
        self.fresh.retain(|path, _| present.contains(path));
        if !self.done.is_empty() {
            let generation = |path: &PathBuf| Some(rotate::first_generation(&fs::metadata(path).ok()?));
            let seen: HashSet<u64> = paths.iter().filter_map(generation).collect();
            self.done.retain(|generation| seen.contains(generation));
        }
        self.moved = true;
        Ok(())
    }

    /// Finds the files in which reading stood, wherever rotation has put them, and goes on there.
    fn resume(&mut self, out: &mut Outlet) -> Result<(), SourceError> {
        let (mut gone, mut moved) = (Vec::new(), Vec::new());
        let mut by_path: BTreeMap<Arc<Path>, Left> = BTreeMap::new();
        let mut open = 0;
        for place in std::mem::take(&mut self.places) {
            // The path was followed: if it leads to another file now, that is a successor, read from its beginning.
            self.name(&place.path, place.id);
            let Left { places, ages } = by_path.entry(Arc::clone(&place.path)).or_default();
            let now = Relocated::of(place.clone());
            if now.places.is_empty() && rotate::open(&place.path).is_err() {
                self.waiting.entry(Arc::clone(&place.path)).or_default().push(place);
                continue;
            }
            if !matches!(&now.places[..], [(now, _)] if *now == place) {
                gone.push(Step::Gone(place.id));
                moved.extend(now.places.iter().map(|(place, _)| Step::At(Place::File(place.clone()))));
            }
            if let Some(age) = now.lost {
                info!(file = %place.path.display(), "the content that was read before is gone");
                ages.push(age);
            }
            for (place, lives) in now.places {
                // Kept open, it is what was found, wherever it goes meanwhile.
                open += 1;
                let lives = (open <= self.room).then_some(lives);
                // Two places lead to one copy when the end came while it was read.
                match places.iter_mut().find(|(known, _)| known.id == place.id) {
                    Some((known, _)) if known.seen >= place.seen => {}
                    Some(known) => *known = (place, lives),
                    None => places.push((place, lives)),
                }
            }
        }
        // One batch, since the end may come at any moment. What is over comes first: its file's number may be another's by now.
        for step in gone.into_iter().chain(moved) {
            out.step(step);
        }
        let mut families: HashMap<String, Vec<FilePlace>> = HashMap::new();
        for (place, _) in by_path.values().flat_map(|left| &left.places) {
            for name in Family::of(&place.path).names() {
                families.entry(name.clone()).or_default().push(place.clone());
            }
        }
        for (path, left) in by_path {
            let family = Family::of(&path);
            let kin = || family.names().iter().filter_map(|name| families.get(name)).flatten().cloned().collect();
            self.resume_path(&path, left, kin, out)?;
        }
        Ok(())
    }

    /// The same for what is left of the files that had one name: the oldest first, and after the last of them those that had the
    /// name while nobody read. `kin` are the places in this log and its archives.
    fn resume_path(
        &mut self,
        path: &Path,
        left: Left,
        kin: impl Fn() -> Vec<FilePlace>,
        out: &mut Outlet,
    ) -> Result<(), SourceError> {
        let now = fs::metadata(path).ok().filter(Metadata::is_file);
        let now_id = now.as_ref().map(FileId::of);
        let mut found: Vec<(FilePlace, Found)> = Vec::new();
        let Left { places, mut ages } = left;
        for (mut place, lives) in places {
            let Some(lives) = lives.or_else(|| rotate::find(&place)) else {
                ages.extend(Age::of_place(&place));
                continue;
            };
            if lives.age.id != place.id
                && let Ok(metadata) = lives.file.metadata()
            {
                out.step(Step::Gone(place.id));
                place = place.moved_to(&metadata);
                out.step(Step::At(Place::File(place.clone())));
            }
            let lives = Found { age: lives.age.since(place.since), ..lives };
            // A file that was emptied and not read since may have been emptied again: what it held meanwhile is no older
            // than it looks now.
            let emptied = if place.seen == 0 && place.since.is_some() { Age::of_place(&place) } else { None };
            ages.push(emptied.unwrap_or(lives.age));
            found.push((place, lives));
        }
        found.sort_by_key(|(_, lives)| lives.age.order());
        let last = ages.into_iter().max_by_key(Age::order).or_else(|| Some(Age::written(self.remembered?)));
        let mut known: HashSet<FileId> = found.iter().map(|(_, lives)| lives.age.id).chain(now_id).collect();
        known.extend(self.tails.keys());
        let missed = last.map_or_else(Vec::new, |last| rotate::between(path, &last, |id| known.contains(id), kin));
        let beginning = |found: Found| {
            let metadata = found.file.metadata().ok()?;
            // It may have been read under the name of another archive.
            let is_news = !self.done.contains(&rotate::first_generation(&metadata));
            is_news.then(|| (FilePlace::beginning(path, &metadata), found))
        };
        let mut missed: Vec<(FilePlace, Found)> = missed.into_iter().filter_map(beginning).collect();
        // What is found now must be found again if the end comes before it is read.
        for (place, _) in &missed {
            out.step(Step::At(Place::File(place.clone())));
        }
        if let Some(metadata) = now.filter(|now| !found.iter().any(|(_, lives)| lives.age.id == FileId::of(now))) {
            out.step(Step::At(Place::File(FilePlace::beginning(path, &metadata))));
        }
        found.append(&mut missed);
        let newest = found.last().map(|(_, newest)| newest.age);
        if let Some(newest) = newest {
            self.name(path, newest.id);
        }
        if let Some(name) = self.names.get_mut(path) {
            name.last = newest.into_iter().chain(last).max_by_key(Age::order);
        }
        for (place, lives) in found {
            let id = lives.age.id;
            if self
                .follow
                .catch_up
                .is_some_and(|longest| lives.age.last_write().elapsed().is_ok_and(|age| age > longest))
            {
                info!(file = %lives.path.display(), "too old to catch up with");
                self.skip(path, lives, out);
                continue;
            }
            self.go_on(path, &place, lives, true, out)?;
            if now_id == Some(id) {
                self.name(path, id);
                self.ready.insert(id);
            } else {
                // What has moved on is read to its end before its successor begins.
                self.read_all(id, out)?;
            }
        }
        Ok(())
    }

    /// Leaves out what a file has, and follows it from its end if it still has its name.
    fn skip(&mut self, path: &Path, lives: Found, out: &mut Outlet) {
        let id = lives.age.id;
        if lives.packing.is_none() && fs::metadata(path).is_ok_and(|now| FileId::of(&now) == id) {
            let generation = lives.file.metadata().map_or(0, |metadata| rotate::first_generation(&metadata));
            let origin = Origin { generation, ..self.files.origin(path) };
            if let Ok(tail) = Tail::from_end(path, lives.file, origin) {
                out.step(Step::At(Place::File(tail.place())));
                self.name(path, id);
                self.tails.insert(id, tail);
                return;
            }
        }
        out.step(Step::Gone(id));
    }

    /// Goes on at `place` in the file that was found for it; one that is compressed is read to its end.
    fn go_on(
        &mut self,
        path: &Path,
        place: &FilePlace,
        found: Found,
        backlog: bool,
        out: &mut Outlet,
    ) -> Result<(), SourceError> {
        let id = found.age.id;
        let first = found.file.metadata().map_or(0, |metadata| rotate::first_generation(&metadata));
        let origin = Origin { generation: place.generation, ..self.files.origin(path) };
        if found.packing.is_some() {
            debug!(file = %found.path.display(), "reading the rest from a compressed file");
            let mut rest = Packed::new(id, path, place, origin, backlog);
            let read = rest.read(&found, out);
            self.done.insert(first);
            out.step(Step::Gone(id));
            return match read {
                Err(SourceError::Read { error, .. }) => {
                    self.unreadable(&found.path, &error, out);
                    Ok(())
                }
                other => other,
            };
        }
        match Tail::resume(path, found.file, origin, place, backlog) {
            Ok(tail) => {
                out.step(Step::At(Place::File(tail.place())));
                self.moved = true;
                self.tails.insert(id, tail);
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return self.search_again(path, place, backlog, out);
            }
            Err(error) => self.unreadable(&found.path, &error, out),
        }
        Ok(())
    }

    /// The file of `place` was emptied since it was found: goes on where its content is now, and in its new content.
    fn search_again(
        &mut self,
        path: &Path,
        place: &FilePlace,
        backlog: bool,
        out: &mut Outlet,
    ) -> Result<(), SourceError> {
        debug!(file = %path.display(), "emptied while it was looked for");
        let places = Relocated::of(place.clone()).places;
        if !places.iter().any(|(now, _)| now.id == place.id) {
            out.step(Step::Gone(place.id));
        }
        for (place, _) in &places {
            out.step(Step::At(Place::File(place.clone())));
        }
        for (now, found) in places {
            let id = found.age.id;
            self.go_on(path, &now, found, backlog, out)?;
            if id != place.id {
                self.read_all(id, out)?;
            }
        }
        Ok(())
    }

    /// Reads what had the name `path` for a while after the file of age `last`, and was never seen there; nothing that was
    /// written after `until`.
    fn read_between(
        &mut self,
        path: &Path,
        last: &Age,
        until: Option<SystemTime>,
        out: &mut Outlet,
    ) -> Result<(), SourceError> {
        let now = fs::metadata(path).ok().filter(Metadata::is_file);
        let known: HashSet<FileId> = self.tails.keys().copied().chain(now.as_ref().map(FileId::of)).collect();
        // Their archives may be in the making.
        let family = Family::of(path);
        let is_kin = |tail: &&Tail| family.has(tail.path());
        let places = || self.tails.values().filter(is_kin).map(Tail::place).collect();
        let mut all = Vec::new();
        for found in rotate::between(path, last, |id| known.contains(id), places) {
            let Ok(metadata) = found.file.metadata() else { continue };
            if self.done.contains(&rotate::first_generation(&metadata))
                || until.is_some_and(|until| found.age.last_write() > until)
            {
                continue;
            }
            let place = FilePlace::beginning(path, &metadata);
            out.step(Step::At(Place::File(place.clone())));
            all.push((place, found));
        }
        for (place, found) in all {
            info!(file = %found.path.display(), "reading a file that was rotated before it was seen");
            let (id, age) = (found.age.id, found.age);
            self.go_on(path, &place, found, false, out)?;
            self.read_all(id, out)?;
            if let Some(name) = self.names.get_mut(path).filter(|name| name.missing) {
                name.id = Some(id);
                name.last = Some(age);
            }
        }
        Ok(())
    }

    /// Looks at what `path` leads to now.
    fn look(&mut self, path: &Path, out: &mut Outlet) -> Result<(), SourceError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(metadata) => {
                let kind = rotate::kind(&metadata).unwrap_or("no file");
                // Folders that a pattern matches are nobody's mistake.
                if self.names.contains_key(path) || self.files.names_exactly(path) {
                    self.not_a_file(path, kind, out);
                }
                return self.lead_nowhere(path, out);
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    self.unreadable(path, &error, out);
                } else if self.troubled.remove(path) {
                    out.status().green(&path.to_string_lossy());
                }
                return self.lead_nowhere(path, out);
            }
        };
        let id = FileId::of(&metadata);
        let before = self.names.get(path).filter(|name| !name.missing).and_then(|name| name.id);
        if before == Some(id)
            && !self.troubled.contains(path)
            && !self.ready.contains(&id)
            && self.tails.get(&id).is_some_and(|tail| tail.is_unchanged(&metadata))
        {
            return Ok(());
        }
        let is_link = fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink());
        let target = if is_link { fs::canonicalize(path).ok() } else { None };
        let name = self.names.entry(path.to_path_buf()).or_default();
        self.moved |= name.target != target || name.missing;
        name.target = target;
        name.missing = false;
        let before = name.id;
        if before == Some(id)
            && let Some(tail) = self.tails.get_mut(&id)
        {
            tail.looked_at(&metadata);
            return self.read_some(id, out);
        }
        if let Some(old) = before {
            if old == id || self.is_archive(path) {
                self.read_all(old, out)?;
            } else {
                self.succeed(path, old, &metadata, out)?;
            }
        }
        if self.tails.contains_key(&id) {
            self.rename(id, path);
            return self.read_some(id, out);
        }
        if self.done.contains(&rotate::first_generation(&metadata)) {
            return Ok(());
        }
        self.appear(path, &metadata, before, out)
    }

    /// `path` leads to no file.
    fn lead_nowhere(&mut self, path: &Path, out: &mut Outlet) -> Result<(), SourceError> {
        self.fresh.remove(path);
        let Some(name) = self.names.get_mut(path) else { return Ok(()) };
        self.moved |= !std::mem::replace(&mut name.missing, true);
        let Some(id) = name.id else { return Ok(()) };
        self.read_some(id, out)?;
        // It may have had another file for a moment.
        match self.tails.get_mut(&id).filter(|tail| tail.idle(Instant::now()) < LINGER).map(Tail::age) {
            Some(Ok(last)) => self.read_between(path, &last, None, out),
            _ => Ok(()),
        }
    }

    /// `path` leads to another file than `old`: that one is read to its end, and what came between the two.
    fn succeed(&mut self, path: &Path, old: FileId, now: &Metadata, out: &mut Outlet) -> Result<(), SourceError> {
        if !self.tails.contains_key(&FileId::of(now)) && !self.done.contains(&rotate::first_generation(now)) {
            // If the end comes while the rest is read, the successor must be known.
            out.step(Step::At(Place::File(FilePlace::beginning(path, now))));
        }
        self.read_all(old, out)?;
        let last = match self.tails.get_mut(&old).map(Tail::age) {
            Some(Ok(last)) => Some(last),
            _ => self.names.get(path).and_then(|name| name.last),
        };
        last.map_or(Ok(()), |last| self.read_between(path, &last, None, out))
    }

    /// `path` leads to a file that is read already: under its old name, or under both.
    fn rename(&mut self, id: FileId, path: &Path) {
        let Some(tail) = self.tails.get_mut(&id) else { return };
        let still = fs::metadata(tail.path()).is_ok_and(|metadata| FileId::of(&metadata) == id);
        if !still {
            debug!(from = %tail.path().display(), to = %path.display(), "file renamed");
            tail.renamed(path);
        }
        self.name(path, id);
    }

    /// `path` leads to a file that is not read yet; `before` is the one that it led to earlier.
    fn appear(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        before: Option<FileId>,
        out: &mut Outlet,
    ) -> Result<(), SourceError> {
        let id = FileId::of(metadata);
        let first = rotate::first_generation(metadata);
        let file = match rotate::open(path) {
            Ok(file) => file,
            Err(error) => {
                self.unreadable(path, &error, out);
                return Ok(());
            }
        };
        // Since it was looked at, the path may have got another file: then the next look finds what both are.
        if !file.metadata().is_ok_and(|opened| FileId::of(&opened) == id) {
            return Ok(());
        }
        if Packing::named(path).is_some() || matches!(Packing::of(&file), Ok(Some(_))) {
            debug!(file = %path.display(), "compressed files are not followed");
            self.done.insert(first);
            return Ok(());
        }
        // Without a memory, what is there at the start begins at its end.
        let from_start = before.is_some() || (self.started || self.remembered.is_some()) && self.is_new(metadata);
        let origin = Origin { generation: first, ..self.files.origin(path) };
        let waiting = self.waiting.remove(path).unwrap_or_default();
        for place in &waiting {
            out.step(Step::Gone(place.id));
        }
        let stood = waiting.into_iter().find(|place| place.matches(&file).unwrap_or(false));
        let rewritten = stood.or_else(|| Some(self.tails.get(&before?)?.place()));
        let tail = if let Some(place) = rewritten.filter(|place| place.is_in_copy(&file)) {
            // It could not be read for a while, or an editor has written a new file with the old content.
            Tail::resume(path, file, origin, &place, false)
        } else if from_start {
            // A copy has a name of its own.
            let follows = before.is_some() && !self.is_archive(path);
            match if follows { Likeness::Different } else { self.likeness(path, &file, out)? } {
                Likeness::Different => {}
                Likeness::Unclear => return Ok(()),
                Likeness::Copy => {
                    debug!(file = %path.display(), "a copy of a file that is read already");
                    self.done.insert(first);
                    return Ok(());
                }
            }
            // While looking at its neighbours it may have been found to be the rest of one.
            if self.tails.contains_key(&id) {
                self.rename(id, path);
                return Ok(());
            }
            Tail::from_start(path, file, origin, !self.started)
        } else {
            Tail::from_end(path, file, origin)
        };
        match tail {
            Ok(tail) => {
                info!(file = %path.display(), at = tail.seen(), "reading file");
                if self.troubled.remove(path) {
                    out.status().green(&path.to_string_lossy());
                }
                out.step(Step::At(Place::File(tail.place())));
                self.name(path, id);
                self.tails.insert(id, tail);
                self.read_some(id, out)
            }
            Err(error) => {
                self.unreadable(path, &error, out);
                Ok(())
            }
        }
    }

    /// Whether the file was born after reading was last known to stand somewhere.
    fn is_new(&self, metadata: &Metadata) -> bool {
        let (since, slack) = match self.remembered {
            Some(remembered) => (remembered, UNSEEN),
            None => (self.created, BIRTH_SLACK),
        };
        metadata.created().is_ok_and(|born| born.checked_add(slack).is_some_and(|born| born >= since))
    }

    /// Whether the new file at `path` is a copy of one that is read, as `copytruncate` makes them.
    fn likeness(&mut self, path: &Path, file: &File, out: &mut Outlet) -> Result<Likeness, SourceError> {
        let beside = |tail: &&Tail| tail.path() != path && tail.path().parent() == path.parent();
        let neighbours: Vec<FileId> = self.tails.values().filter(beside).map(Tail::id).collect();
        let now = Instant::now();
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        let (since, last) = *self.fresh.entry(path.to_path_buf()).or_insert((now, len));
        if last != len {
            self.fresh.insert(path.to_path_buf(), (now, len));
        }
        let settled = last == len && now.duration_since(since) >= SETTLE;
        // An empty file may yet become a copy.
        let mut verdict = if len == 0 && !neighbours.is_empty() { Likeness::Unclear } else { Likeness::Different };
        for id in neighbours {
            self.read_all(id, out)?;
            let Some(known) = self.tails.get_mut(&id) else { continue };
            let seen = known.seen();
            match known.file().and_then(|known| rotate::likeness(file, known, seen, settled)) {
                Ok(Likeness::Copy) => {
                    verdict = Likeness::Copy;
                    break;
                }
                Ok(Likeness::Unclear) => verdict = Likeness::Unclear,
                Ok(Likeness::Different) | Err(_) => {}
            }
        }
        if verdict != Likeness::Unclear {
            self.fresh.remove(path);
        }
        Ok(verdict)
    }

    fn not_a_file(&mut self, path: &Path, kind: &str, out: &Outlet) {
        self.troubled.insert(path.to_path_buf());
        let remedy = "put a file there, or leave the path out with `exclude_regexps`";
        if out.status().red(&path.to_string_lossy(), format!("is {kind}, not a file"), remedy) {
            warn!(path = %path.display(), kind, "not a file, not read");
        }
    }

    fn unreadable(&mut self, path: &Path, error: &std::io::Error, out: &Outlet) {
        self.troubled.insert(path.to_path_buf());
        let remedy = "let the user that cordon runs as read it (group `adm`, or an access list)";
        if out.status().red(&path.to_string_lossy(), format!("cannot be read: {error}"), remedy) {
            warn!(file = %path.display(), %error, "cannot read file");
        }
    }

    /// Reads all that a file has now.
    fn read_all(&mut self, id: FileId, out: &mut Outlet) -> Result<(), SourceError> {
        while self.read_chunk(id, out)? {}
        self.ready.remove(&id);
        Ok(())
    }

    /// Reads what a file has now; where that is much, the others have their turn before the rest.
    fn read_some(&mut self, id: FileId, out: &mut Outlet) -> Result<(), SourceError> {
        for _ in 0..TURN {
            if !self.read_chunk(id, out)? {
                self.ready.remove(&id);
                return Ok(());
            }
        }
        self.ready.insert(id);
        Ok(())
    }

    /// Reads a chunk and says whether there may be more. A truncated file is begun anew, after the rest that its
    /// copy holds.
    fn read_chunk(&mut self, id: FileId, out: &mut Outlet) -> Result<bool, SourceError> {
        let Some(tail) = self.tails.get_mut(&id) else { return Ok(false) };
        let read = tail.read(&mut self.buffer, out);
        if tail.deadline().is_some() {
            self.open_lines.insert(id);
        } else {
            self.open_lines.remove(&id);
        }
        let more = match read {
            Ok(Read::More) => true,
            Ok(Read::End) => {
                if !self.troubled.is_empty() {
                    self.relieve(id, out);
                }
                // Without a name it could not be opened again.
                if self.tails.len() > self.room && !self.unnamed.contains(&id) {
                    self.tails.get_mut(&id).into_iter().for_each(Tail::rest);
                }
                false
            }
            Ok(Read::Truncated) => {
                self.begin_anew(id, out)?;
                true
            }
            Err(SourceError::Read { path, error }) => {
                self.unreadable(&path, &error, out);
                false
            }
            Err(error) => return Err(error),
        };
        if out.is_full() {
            self.tell_lag(out);
            out.send()?;
        }
        Ok(more)
    }

    /// The file can be read. What its path leads to by now may be in trouble all the same.
    fn relieve(&mut self, id: FileId, out: &Outlet) {
        let Some(tail) = self.tails.get(&id).filter(|tail| self.is_named(tail)) else { return };
        if self.troubled.remove(tail.path()) {
            out.status().green(&tail.path().to_string_lossy());
        }
    }

    /// The file was emptied: what its copies hold is read before its new content.
    fn begin_anew(&mut self, id: FileId, out: &mut Outlet) -> Result<(), SourceError> {
        let Some(tail) = self.tails.get(&id) else { return Ok(()) };
        let place = tail.place();
        let path = Arc::clone(&place.path);
        info!(file = %path.display(), "file truncated");
        let mut since = None;
        let copy = if let Some(found) = rotate::find(&place).filter(|found| found.age.id != id) {
            let copy = found.age;
            debug!(file = %found.path.display(), "reading the rest from a copy");
            if let Some(original) = self.tails.get_mut(&id) {
                original.forget_line();
            }
            self.go_on(&path, &place, found, false, out)?;
            self.read_all(copy.id, out)?;
            Some(copy)
        } else {
            rotate::earlier_copy(&place).map(|found| found.age)
        };
        if let Some(copy) = copy {
            let until = self.tails.get_mut(&id).and_then(|tail| tail.metadata().ok()?.modified().ok());
            self.read_between(&path, &copy, until, out)?;
            since = Timestamp::try_from(copy.last_write()).ok();
        }
        if let Some(tail) = self.tails.get_mut(&id) {
            tail.began(since);
            tail.restart(out);
        }
        Ok(())
    }

    /// Says how much was written but not read.
    fn tell_lag(&self, out: &Outlet) {
        let lag = self.ready.iter().filter_map(|id| self.tails.get(id)).map(Tail::lag).sum();
        out.status().lag.set(lag);
    }

    /// Hands out lines that wait too long for their end, and lets go of files that are over. Looks at everything if nothing
    /// else says what changes.
    fn tick(&mut self, everything: bool, out: &mut Outlet) -> Result<(), SourceError> {
        let now = Instant::now();
        let due = |id: &FileId| self.tails.get(id).and_then(Tail::deadline).is_some_and(|deadline| deadline <= now);
        let due: Vec<FileId> = self.open_lines.iter().copied().filter(due).collect();
        if everything {
            let paths: Vec<PathBuf> = self.names.keys().cloned().collect();
            for path in paths {
                self.look(&path, out)?;
            }
        } else {
            // These may come back at any moment, and what cannot be read may be readable again.
            let wanting = |(path, name): &(&PathBuf, &Name)| name.missing || self.troubled.contains(*path);
            let paths: Vec<PathBuf> = self.names.iter().filter(wanting).map(|(path, _)| path.clone()).collect();
            for path in paths {
                self.look(&path, out)?;
            }
        }
        for id in due {
            // The end of the line may have come just now.
            self.read_some(id, out)?;
            let Some(tail) = self.tails.get_mut(&id) else { continue };
            if tail.deadline().is_some_and(|deadline| deadline <= now) {
                tail.finish_line(out);
            }
        }
        self.open_lines.retain(|id| self.tails.get(id).is_some_and(|tail| tail.deadline().is_some()));
        self.settle();
        let unnamed: Vec<FileId> = self.unnamed.iter().copied().collect();
        for id in unnamed {
            self.read_some(id, out)?;
            let Some(tail) = self.tails.get_mut(&id) else { continue };
            if tail.idle(now) < LINGER {
                continue;
            }
            let orphan = self.names.get(tail.path()).is_some_and(|name| name.id == Some(id) && name.missing);
            // While its path leads nowhere, the writer may still be at the renamed file.
            if !orphan || tail.is_deleted() {
                self.close(id, out);
            }
        }
        Ok(())
    }

    fn close(&mut self, id: FileId, out: &mut Outlet) {
        let Some(mut tail) = self.tails.remove(&id) else { return };
        debug!(file = %tail.path().display(), "closing file");
        tail.finish_line(out);
        out.step(Step::Gone(id));
        if let Some(name) = self.names.get_mut(tail.path()).filter(|name| name.id == Some(id)) {
            name.last = tail.age().ok();
        }
        if let Ok(metadata) = tail.metadata() {
            self.done.insert(rotate::first_generation(&metadata));
        }
        self.ready.remove(&id);
        self.moved = true;
    }

    /// How long nothing is due although nobody rings.
    fn patience(&self, poll: Duration) -> Duration {
        if !self.ready.is_empty() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let line = self.open_lines.iter().filter_map(|id| self.tails.get(id)?.deadline()).min();
        line.map_or(poll, |deadline| deadline.saturating_duration_since(now).min(poll))
    }

    /// Reads what has changed, and says whether the patterns must be matched anew.
    fn on_changes(&mut self, changes: Changes, out: &mut Outlet) -> Result<bool, SourceError> {
        let mut rescan = changes.everything;
        for path in changes.paths {
            if self.names.contains_key(&path) {
                self.look(&path, out)?;
                continue;
            }
            let leads = |name: &Name| name.target.as_ref() == Some(&path);
            let links: Vec<PathBuf> =
                self.names.iter().filter(|(_, name)| leads(name)).map(|(path, _)| path.clone()).collect();
            for path in &links {
                self.look(path, out)?;
            }
            rescan |= links.is_empty() && self.files.patterns.iter().any(|pattern| pattern.concerns(&path));
        }
        // A file without a name may have grown under any other.
        let unnamed: Vec<FileId> = self.unnamed.iter().copied().collect();
        for id in unnamed {
            self.read_some(id, out)?;
        }
        Ok(rescan)
    }
}

impl Datasource for FileSource {
    fn run(&mut self, bell: &Arc<Bell>, out: &mut Outlet) -> Result<(), SourceError> {
        let mut watch = None;
        if !self.must_poll() {
            match Watch::new(Arc::clone(bell)) {
                Ok(new) => watch = Some(new),
                Err(error) => {
                    let remedy = "raise `fs.inotify.max_user_instances` with sysctl";
                    out.status().red("inotify", format!("files are polled: {error}"), remedy);
                    warn!(%error, "cannot watch files, polling them");
                }
            }
        }
        let mut heard = watch.is_some();
        let mut polled = Instant::now();
        let mut scanned = None::<Instant>;
        while !bell.stopped() {
            let poll = if heard { SAFETY_POLL } else { self.pace(if watch.is_some() { SAFETY_POLL } else { POLL }) };
            let slowest = if heard { RESCAN } else { self.pace(SAFETY_POLL) };
            let rescan_after = self.follow.rescan.unwrap_or(slowest).min(slowest);
            if scanned.is_none_or(|at| at.elapsed() >= rescan_after) {
                // Listen first: what happens between the two is heard.
                if let Some(watch) = &mut watch {
                    self.listen(watch, out);
                }
                self.scan(out)?;
                if let Some(watch) = &mut watch {
                    heard = self.listen(watch, out);
                }
                scanned = Some(Instant::now());
                out.status().set_watching();
            }
            if polled.elapsed() >= poll || self.patience(poll).is_zero() && self.ready.is_empty() {
                self.tick(!heard, out)?;
                polled = Instant::now();
            }
            for id in self.ready.clone() {
                self.read_some(id, out)?;
            }
            self.want(watch.as_ref());
            self.tell_lag(out);
            if self.ready.is_empty() {
                out.idle()?;
            } else {
                out.send()?;
            }
            out.status().green("");
            let wait = self.patience(poll).min(poll.saturating_sub(polled.elapsed()));
            bell.wait(None, Some(wait)).map_err(|error| SourceError::System { what: "cannot wait", error })?;
            if let Some(watch) = &watch
                && self.on_changes(watch.take(), out)?
            {
                scanned = None;
            }
        }
        out.send()
    }
}

/// How many files this process may have open, after asking for as many as it may have.
fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Whether changes in `folder` may be made by other hosts, which inotify does not hear.
fn is_on_network(folder: &Path) -> bool {
    const NETWORK: [u64; 8] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x517b, 0x0102_1997, 0x00c3_6400, 0x6573_5546, 0x564c];
    // The type of the field differs between platforms.
    #[allow(clippy::unnecessary_cast, reason = "the width differs between platforms")]
    rustix::fs::statfs(folder).is_ok_and(|stat| NETWORK.contains(&(stat.f_type as u64 & 0xffff_ffff)))
}
