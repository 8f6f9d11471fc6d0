//! Lines of files: followed as they grow, or read once.
//!
//! A followed path is a name, a [`Tail`] is a file: rotation gives the name another file, and the old one is read
//! to its end (and watched a little longer, since its writer may not know yet) before the new one begins. What the
//! file system says wakes us at once; a look at everything each second is the safety net.

mod cat;
mod pattern;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use model::Origin;
use regex::Regex;
use tracing::{debug, info, warn};

pub use self::cat::Cat;
pub use self::pattern::PathPattern;
use super::{Bell, Datasource, Outlet, Place, SourceError, Step};
use crate::tail::checkpoint::FilePlace;
use crate::tail::rotate::{self, FileId, Likeness};
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
    /// Files whose content was replaced while nobody read, and the number of the new content.
    replaced: HashMap<FileId, u64>,
    /// New files that are still empty, or may be a copy: when they last grew, and to what size.
    fresh: HashMap<PathBuf, (Instant, u64)>,
    /// Whether there are other names to listen for than before.
    moved: bool,
    /// Whether some file could not be read.
    troubled: bool,
    buffer: Box<[u8]>,
}

/// A path that is followed.
#[derive(Debug, Default)]
struct Name {
    /// The file it last led to.
    id: Option<FileId>,
    /// Whether it leads nowhere now.
    missing: bool,
    /// Where the symbolic link leads.
    target: Option<PathBuf>,
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
            replaced: HashMap::new(),
            fresh: HashMap::new(),
            moved: true,
            troubled: false,
            buffer: vec![0; BUFFER].into(),
        }
    }

    fn must_poll(&self) -> bool {
        self.follow.poll.unwrap_or_else(|| {
            self.files.patterns.iter().flat_map(PathPattern::folders).any(|folder| is_on_network(&folder))
        })
    }

    /// Listens to the folders of the patterns and to those of links' targets.
    fn listen(&self, watch: &mut Watch, out: &Outlet) {
        let folders = self.files.patterns.iter().flat_map(PathPattern::folders);
        let targets = self.names.values().filter_map(|name| name.target.as_deref()?.parent().map(Path::to_path_buf));
        for folder in folders.chain(targets) {
            let about = folder.to_string_lossy();
            match watch.folder(&folder) {
                Ok(()) => {
                    out.status().green(&about);
                }
                Err(error) => {
                    let reason = format!("changes cannot be watched, files are polled each second: {error}");
                    if out.status().red(&about, reason, "raise `fs.inotify.max_user_watches` with sysctl") {
                        warn!(folder = %about, %error, "cannot watch folder");
                    }
                }
            }
        }
    }

    /// Says whose growth matters.
    fn want(&mut self, watch: &Watch) {
        if std::mem::take(&mut self.moved) {
            let targets = self.names.values().filter_map(|name| name.target.clone());
            let paths = self.names.keys().cloned().chain(targets).collect();
            watch.want(paths, self.tails.values().any(|tail| !self.is_named(tail)));
        }
    }

    /// Whether its path leads to the file, as far as we know.
    fn is_named(&self, tail: &Tail) -> bool {
        self.names.get(tail.path()).is_some_and(|name| name.id == Some(tail.id()) && !name.missing)
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
            self.resume(&paths, out)?;
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
    fn resume(&mut self, paths: &[PathBuf], out: &mut Outlet) -> Result<(), SourceError> {
        for place in std::mem::take(&mut self.places) {
            // The path was followed: if it leads to another file now, that is a successor, read from its beginning.
            self.name(&place.path, place.id);
            let found = rotate::find(&place);
            let still_there = found.as_ref().is_some_and(|(path, _)| **path == *place.path);
            if !still_there && fs::metadata(&place.path).is_ok_and(|metadata| FileId::of(&metadata) == place.id) {
                self.replaced.insert(place.id, place.generation.wrapping_add(1));
            }
            let Some((path, file)) = found else {
                info!(file = %place.path.display(), "the content that was read before is gone");
                out.step(Step::Gone(place.id));
                continue;
            };
            let origin = self.files.origin(&place.path);
            match Tail::resume(&path, file, origin, &place, true) {
                Ok(tail) => {
                    let id = tail.id();
                    if id != place.id {
                        out.step(Step::Gone(place.id));
                    }
                    if paths.contains(&path) {
                        self.name(&path, id);
                    }
                    // Two places lead to one copy when the end came while it was read.
                    let known = self.tails.get(&id).map(Tail::seen);
                    if known.is_none_or(|seen| seen < tail.seen()) {
                        self.tails.insert(id, tail);
                    }
                }
                Err(error) => self.unreadable(&path, &error, out),
            }
        }
        let ids: Vec<FileId> = self.tails.keys().copied().collect();
        for id in ids {
            // What has moved on is read to its end before its successor begins.
            if self.tails.get(&id).is_some_and(|tail| self.is_named(tail)) {
                self.ready.insert(id);
            } else {
                self.read_all(id, out)?;
            }
        }
        Ok(())
    }

    /// Looks at what `path` leads to now.
    fn look(&mut self, path: &Path, out: &mut Outlet) -> Result<(), SourceError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(()),
            Err(_) => {
                self.fresh.remove(path);
                let Some(name) = self.names.get_mut(path) else { return Ok(()) };
                self.moved |= !std::mem::replace(&mut name.missing, true);
                return match name.id {
                    Some(id) => self.read_some(id, out),
                    None => Ok(()),
                };
            }
        };
        let id = FileId::of(&metadata);
        let is_link = fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink());
        let target = if is_link { fs::canonicalize(path).ok() } else { None };
        let name = self.names.entry(path.to_path_buf()).or_default();
        self.moved |= name.target != target || name.missing;
        name.target = target;
        name.missing = false;
        let before = name.id;
        if before == Some(id) && self.tails.contains_key(&id) {
            return self.read_some(id, out);
        }
        if let Some(old) = before {
            self.read_all(old, out)?;
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
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => {
                self.unreadable(path, &error, out);
                return Ok(());
            }
        };
        // Without a memory, what is there at the start begins at its end.
        let from_start = before.is_some() || (self.started || self.remembered.is_some()) && self.is_new(metadata);
        let first = rotate::first_generation(metadata);
        let generation = self.replaced.remove(&id).unwrap_or(first);
        let origin = Origin { generation, ..self.files.origin(path) };
        let rewritten = before.and_then(|before| self.tails.get(&before)).map(Tail::place);
        let tail = if let Some(place) = rewritten.filter(|place| place.is_in_copy(&file)) {
            // An editor writes a new file with the old content.
            Tail::resume(path, file, origin, &place, false)
        } else if from_start {
            // A copy has a name of its own.
            match if before.is_some() { Likeness::Different } else { self.likeness(path, &file, out)? } {
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
                out.status().green(&path.to_string_lossy());
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
        let since = self.remembered.unwrap_or(self.created);
        metadata.created().is_ok_and(|born| born.checked_add(BIRTH_SLACK).is_some_and(|born| born >= since))
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
            let Some(known) = self.tails.get(&id) else { continue };
            match rotate::likeness(file, known.file(), known.seen(), settled) {
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

    fn unreadable(&mut self, path: &Path, error: &std::io::Error, out: &Outlet) {
        self.troubled = true;
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
        let more = match tail.read(&mut self.buffer, out) {
            Ok(Read::More) => {
                out.status().lag.set(tail.lag());
                true
            }
            Ok(Read::End) => {
                out.status().lag.set(0);
                if self.troubled {
                    self.troubled = false;
                    out.status().green(&tail.path().to_string_lossy());
                }
                false
            }
            Ok(Read::Truncated) => {
                let place = tail.place();
                info!(file = %place.path.display(), "file truncated");
                if let Some((path, file)) = rotate::find(&place) {
                    self.read_rest(&place, &path, file, out)?;
                }
                if let Some(tail) = self.tails.get_mut(&id) {
                    tail.restart(out);
                }
                true
            }
            Err(SourceError::Read { path, error }) => {
                self.unreadable(&path, &error, out);
                false
            }
            Err(error) => return Err(error),
        };
        if out.is_full() {
            out.send()?;
        }
        Ok(more)
    }

    /// Reads what the copy at `path` holds beyond `place`, and goes on watching it for a while.
    fn read_rest(&mut self, place: &FilePlace, path: &Path, file: File, out: &mut Outlet) -> Result<(), SourceError> {
        match Tail::resume(path, file, self.files.origin(&place.path), place, false) {
            Ok(rest) if rest.id() != place.id => {
                debug!(file = %path.display(), "reading the rest from a copy");
                let id = rest.id();
                if let Some(original) = self.tails.get_mut(&place.id) {
                    original.forget_line();
                }
                self.moved = true;
                self.tails.insert(id, rest);
                self.read_all(id, out)
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.unreadable(path, &error, out);
                Ok(())
            }
        }
    }

    /// Looks at everything, hands out lines that wait too long for their end, and lets go of files that are over.
    fn tick(&mut self, out: &mut Outlet) -> Result<(), SourceError> {
        let paths: Vec<PathBuf> = self.names.keys().cloned().collect();
        for path in paths {
            self.look(&path, out)?;
        }
        let ids: Vec<FileId> = self.tails.keys().copied().collect();
        let now = Instant::now();
        for id in ids {
            self.read_some(id, out)?;
            let Some(tail) = self.tails.get_mut(&id) else { continue };
            if tail.deadline().is_some_and(|deadline| deadline <= now) {
                tail.finish_line(out);
            }
            if tail.idle(now) < LINGER {
                continue;
            }
            let Some(tail) = self.tails.get(&id) else { continue };
            let orphan = self.names.get(tail.path()).is_some_and(|name| name.id == Some(id) && name.missing);
            // While its path leads nowhere, the writer may still be at the renamed file.
            let over = if orphan { tail.is_deleted() } else { !self.is_named(tail) };
            if over {
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
        if let Ok(metadata) = tail.file().metadata() {
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
        let line = self.tails.values().filter_map(Tail::deadline).min();
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
        let unnamed: Vec<FileId> = self.tails.values().filter(|tail| !self.is_named(tail)).map(Tail::id).collect();
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
        let poll = if watch.is_some() { SAFETY_POLL } else { POLL };
        let slowest = if watch.is_some() { RESCAN } else { SAFETY_POLL };
        let rescan_after = self.follow.rescan.unwrap_or(slowest).min(slowest);
        let mut polled = Instant::now();
        let mut scanned = None::<Instant>;
        while !bell.stopped() {
            if scanned.is_none_or(|at| at.elapsed() >= rescan_after) {
                // Listen first: what happens between the two is heard.
                if let Some(watch) = &mut watch {
                    self.listen(watch, out);
                }
                self.scan(out)?;
                if let Some(watch) = &mut watch {
                    self.listen(watch, out);
                }
                scanned = Some(Instant::now());
                out.status().set_watching();
            }
            if polled.elapsed() >= poll || self.patience(poll).is_zero() && self.ready.is_empty() {
                self.tick(out)?;
                polled = Instant::now();
            }
            for id in self.ready.clone() {
                self.read_some(id, out)?;
            }
            if let Some(watch) = &watch {
                self.want(watch);
            }
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

/// Whether changes in `folder` may be made by other hosts, which inotify does not hear.
fn is_on_network(folder: &Path) -> bool {
    const NETWORK: [u64; 8] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x517b, 0x0102_1997, 0x00c3_6400, 0x6573_5546, 0x564c];
    // The type of the field differs between platforms.
    #[allow(clippy::unnecessary_cast, reason = "the width differs between platforms")]
    rustix::fs::statfs(folder).is_ok_and(|stat| NETWORK.contains(&(stat.f_type as u64 & 0xffff_ffff)))
}
