//! Which file is which.
//!
//! A file is known by device and inode, and by what its bytes looked like ([`Print`]): inodes are used again,
//! `copytruncate` keeps the inode and changes the content, and a copy has the content under another inode.

use std::cell::LazyCell;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::{DirEntryExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::checkpoint::FilePlace;
use super::packed::{self, Packing};

/// How many bytes a print covers at most.
pub const PRINT_LEN: usize = 256;

/// A place before which fewer bytes were read is not searched for by content: too many files look like it.
pub const ENOUGH: u64 = 16;

/// How often at most a folder is searched that changes meanwhile.
const SEARCHES: usize = 8;

/// How many files of a folder are looked at to find one.
const SEARCHED: usize = 4096;

/// Device and inode. Two open files with the same one are the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// Number of the file system.
    pub device: u64,
    /// Number of the file in it.
    pub inode: u64,
}

impl FileId {
    /// The identity of the file that `metadata` describes.
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What some bytes looked like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// How many bytes, at most [`PRINT_LEN`].
    pub len: u16,
    /// Their sum.
    pub sum: u64,
}

impl Print {
    /// The print of the last [`PRINT_LEN`] of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let bytes = &bytes[bytes.len().saturating_sub(PRINT_LEN)..];
        let mut hasher = SipHasher13::new();
        hasher.write(bytes);
        Self { len: bytes.len() as u16, sum: hasher.finish() }
    }

    /// Whether the bytes of `file` before `end` look like this.
    pub fn matches(self, file: &File, end: u64) -> io::Result<bool> {
        let mut bytes = [0; PRINT_LEN];
        let Some(bytes) = bytes.get_mut(..usize::from(self.len)) else { return Ok(false) };
        let Some(start) = end.checked_sub(u64::from(self.len)) else { return Ok(false) };
        match file.read_exact_at(bytes, start) {
            Ok(()) => Ok(Print::of(bytes) == self),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The number of the content that a new file begins with. It is the same whenever it is asked for, and another
/// one when the inode is used again.
pub fn first_generation(metadata: &Metadata) -> u64 {
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let mut hasher = SipHasher13::new();
    hasher.write_u64(metadata.dev());
    hasher.write_u64(metadata.ino());
    hasher.write_u128(born.as_nanos());
    hasher.finish()
}

/// Opens a regular file for reading. A pipe in its place neither blocks nor counts.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match kind(&file.metadata()?) {
        None => Ok(file),
        Some(kind) => Err(io::Error::other(format!("it is {kind}, not a file"))),
    }
}

/// What something that is not a regular file is.
pub fn kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    Some(match () {
        () if kind.is_file() => return None,
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    })
}

/// A file with a content that was followed once.
#[derive(Debug)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// How it is compressed, if it is.
    pub packing: Option<Packing>,
    /// What tells it from those before and after it.
    pub age: Age,
}

impl Found {
    fn new(path: &Path, file: File, packing: Option<Packing>) -> Option<Self> {
        let age = Age::of(&file.metadata().ok()?, packing.is_some());
        Some(Self { path: path.to_path_buf(), file, packing, age })
    }

    /// How long its content is, counted up to `most` where it must be unpacked, and its first bytes, at most `head`; `None`
    /// when it is damaged.
    fn beginning(&self, most: u64, head: u16) -> Option<(u64, Vec<u8>)> {
        let mut first = Vec::new();
        let most = if self.packing.is_some() { most } else { head.into() };
        let passed = packed::pass(&mut self.content().ok()?, most, |bytes, _| first.extend_from_slice(bytes));
        first.truncate(head.into());
        let len = if self.packing.is_some() { passed.len } else { self.file.metadata().ok()?.len() };
        (!passed.broken).then_some((len, first))
    }

    /// Its content from the beginning. One at a time: they share the place in the file.
    pub fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        match self.packing {
            None => Ok(Box::new(file)),
            Some(packing) => packing.unpack(file),
        }
    }
}

/// When a file was made and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// The file.
    pub id: FileId,
    /// When it was last written. Packing keeps that.
    written: SystemTime,
    /// When it was made, where the file system knows and it was not made by packing.
    born: Option<SystemTime>,
}

impl Age {
    /// The age of the file that `metadata` describes.
    pub fn of(metadata: &Metadata, packed: bool) -> Self {
        let born = if packed { None } else { metadata.created().ok() };
        Self { id: FileId::of(metadata), written: metadata.modified().unwrap_or(UNIX_EPOCH), born }
    }

    /// The same for a content that began at `since`, later than the file.
    pub fn since(self, since: Option<Timestamp>) -> Self {
        let since = since.map(SystemTime::from);
        Self { born: self.born.map(|born| since.map_or(born, |since| born.max(since))), ..self }
    }

    /// A file of which only that is known.
    pub fn written(at: SystemTime) -> Self {
        Self { id: FileId { device: 0, inode: 0 }, written: at, born: None }
    }

    /// A file of which `place` is all that is left.
    pub fn of_place(place: &FilePlace) -> Option<Self> {
        let born = SystemTime::from(place.since.max(place.born)?);
        Some(Self { id: place.id, written: born, born: Some(born) })
    }

    /// When it was last written.
    pub fn last_write(&self) -> SystemTime {
        self.written
    }

    /// Sorts the oldest to the front.
    pub fn order(&self) -> (SystemTime, SystemTime) {
        (self.born.unwrap_or(self.written), self.written)
    }

    /// Whether its content was written after that of `last`. A file is born after its predecessor has gone; where that is
    /// not known, the last word counts.
    fn follows(&self, last: &Self) -> bool {
        match (self.born, last.born) {
            (Some(born), Some(before)) => born > before && self.written >= before,
            _ => self.written > last.written,
        }
    }

    /// Whether it cannot be told which of the two was first: the clock of the file system has not ticked between them.
    fn ties(&self, last: &Self) -> bool {
        let at_once = match (self.born, last.born) {
            (Some(born), Some(before)) => born == before,
            _ => self.written == last.written,
        };
        at_once && self.id != last.id
    }
}

/// Finds where the content that `place` speaks of lives now: under its path, under another name nearby (rotation by
/// rename), as a copy there (`copytruncate`), or compressed.
pub fn find(place: &FilePlace) -> Option<Found> {
    open_same(&place.path, place).or_else(|| steady(&place.path, |near| find_near(place, near)))
}

fn find_near(place: &FilePlace, near: &[Near]) -> Option<Found> {
    let likely = near.iter().filter(|near| near.may_be(place.id));
    // Some file systems number their entries otherwise than their files.
    let renamed = likely.chain(near).find_map(|near| open_same(&near.path, place));
    if renamed.is_some() || place.seen == 0 {
        return renamed;
    }
    let names = || near.iter().map(|near| &near.path);
    // Of several copies the largest was made last.
    let telling = |path: &&PathBuf| place.seen >= ENOUGH || is_rotated(path, &place.path);
    let copies = names().filter(telling).filter_map(|path| open_copy(path, place));
    if let Some((_, found)) = copies.max_by_key(|(len, _)| *len) {
        return Some(found);
    }
    let family = Family::of(&place.path);
    names().filter(|path| family.has(path)).find_map(|path| {
        let file = open(path).ok()?;
        let packing = Packing::of(&file).ok()??;
        let found = Found::new(path, file, Some(packing))?;
        (holds(&found, place) == Some(true)).then_some(found)
    })
}

/// Where reading goes on with what a place spoke of.
#[derive(Debug, Default)]
pub struct Relocated {
    /// The content, and the new content of its file if that was emptied, in the files as they were found: one that is searched
    /// for again may be elsewhere by then.
    pub places: Vec<(FilePlace, Found)>,
    /// The age of the content when it is nowhere any more.
    pub lost: Option<Age>,
}

impl Relocated {
    /// Looks where the content that `place` speaks of has gone.
    pub fn of(place: FilePlace) -> Self {
        let found = match find(&place) {
            Some(found) if found.age.id == place.id => return Self { places: vec![(place, found)], lost: None },
            found => found,
        };
        let copy = found.as_ref().map(|found| found.age).or_else(|| Some(earlier_copy(&place)?.age));
        let lost = if found.is_none() { copy.or_else(|| Age::of_place(&place)) } else { None };
        let mut places = Vec::new();
        if let Some(found) = found
            && let Ok(metadata) = found.file.metadata()
        {
            places.push((place.moved_to(&metadata), found));
        }
        if let Some((metadata, found)) = emptied(&place) {
            let since = copy.and_then(|copy| Timestamp::try_from(copy.written).ok()).or(place.since);
            let generation = place.generation.wrapping_add(1);
            places.push((FilePlace { generation, since, ..FilePlace::beginning(&place.path, &metadata) }, found));
        }
        Self { places, lost }
    }
}

/// Finds the copy of an emptied file that lacks some of what `place` speaks of: it was written, and read, between the copy and
/// the end of the content. Nothing in the copy is new.
pub fn earlier_copy(place: &FilePlace) -> Option<Found> {
    let original = Age::of_place(place)?;
    let is_earlier = |found: &Found| {
        let (len, head) = found.beginning(place.seen, place.head.len)?;
        // What is too short to tell is the copy: a file that came and went between two looks is rarer.
        let begins_alike = head.len() < place.head.len.into() || Print::of(&head) == place.head;
        Some(len > 0 && len < place.seen && begins_alike)
    };
    steady(&place.path, |near| {
        let copies = rotated(near, &place.path).filter_map(|name| {
            let file = open(name).ok()?;
            let packing = Packing::of(&file).ok()?;
            let found = Found::new(name, file, packing)?;
            let is_later = found.age.id != place.id && found.age.follows(&original);
            (is_later && is_earlier(&found) == Some(true)).then_some(found)
        });
        copies.min_by_key(|found| found.age.order())
    })
}

/// The file of `place`, whatever it holds now; `None` where it cannot be read.
fn emptied(place: &FilePlace) -> Option<(Metadata, Found)> {
    let here = |path: &Path| {
        place.metadata_at(path)?;
        let file = open(path).ok()?;
        let metadata = file.metadata().ok().filter(|metadata| place.is_file(metadata))?;
        let packing = Packing::of(&file).ok()?;
        Some((metadata, Found::new(path, file, packing)?))
    };
    let likely = |near: &[Near]| near.iter().filter(|near| near.may_be(place.id)).find_map(|near| here(&near.path));
    here(&place.path).or_else(|| steady(&place.path, likely))
}

/// Finds the files that had the name `path` for a while after the one of age `last`, oldest first, without those that are
/// `known`, and without copies of what `places` speak of and of the file that has the name now.
pub fn between(
    path: &Path,
    last: &Age,
    known: impl Fn(&FileId) -> bool,
    places: impl Fn() -> Vec<FilePlace>,
) -> Vec<Found> {
    let places = LazyCell::new(places);
    steady(path, |near| between_near(path, near, last, &known, &places))
}

fn between_near(
    path: &Path,
    near: &[Near],
    last: &Age,
    known: &impl Fn(&FileId) -> bool,
    places: &LazyCell<Vec<FilePlace>, impl Fn() -> Vec<FilePlace>>,
) -> Vec<Found> {
    let present = open(path).ok();
    let is_copy = |found: &Found| {
        let within = |present: &File| is_within(&found.file, present).unwrap_or(false);
        found.packing.is_none() && present.as_ref().is_some_and(within)
    };
    let mut all: Vec<Found> = rotated(near, path)
        .filter_map(|name| {
            let file = open(name).ok()?;
            let packing = Packing::of(&file).ok()?;
            if packing.is_none() && Packing::named(name).is_some() {
                // It is just being packed; what it is made of is still there.
                return None;
            }
            let found = Found::new(name, file, packing)?;
            // What `last` held says what it is not, if that is known.
            let ties = || found.age.ties(last) && places.iter().any(|place| place.id == last.id && place.seen > 0);
            let is_news = (found.age.follows(last) || ties()) && !known(&found.age.id) && !is_copy(&found);
            // What is still being packed lies beside it as it was. Of which nothing was read, there is no copy of anything read.
            let read = || places.iter().filter(|place| place.seen > 0);
            (is_news && read().all(|place| holds(&found, place) == Some(false))).then_some(found)
        })
        .collect();
    // Rotation without pauses can give two the same moment; then the higher number is the older one.
    all.sort_by(|a, b| a.age.written.cmp(&b.age.written).then_with(|| number(&b.path).cmp(&number(&a.path))));
    all
}

/// Whether `whole` begins with all that `copy` has: the copy was made of it, and it was not emptied yet.
fn is_within(copy: &File, whole: &File) -> io::Result<bool> {
    let len = copy.metadata()?.len();
    if len < ENOUGH {
        return Ok(false);
    }
    let mut bytes = [0; PRINT_LEN];
    for start in [0, len.saturating_sub(PRINT_LEN as u64)] {
        let wanted = (len - start).min(PRINT_LEN as u64) as usize;
        let bytes = &mut bytes[..wanted];
        copy.read_exact_at(bytes, start)?;
        if !Print::of(bytes).matches(whole, start + wanted as u64)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the content of `found` begins with what `place` has seen; `None` when it is too damaged to tell.
fn holds(found: &Found, place: &FilePlace) -> Option<bool> {
    if found.packing.is_none() {
        let len = found.file.metadata().ok()?.len();
        return if len < place.seen { Some(false) } else { place.matches(&found.file).ok() };
    }
    let same_head = |head: &[u8]| {
        let len = usize::from(place.head.len);
        head.get(..len).is_some_and(|head| Print::of(head) == place.head)
    };
    let mut begins = false;
    let short = packed::pass(&mut found.content().ok()?, u64::from(place.head.len), |head, _| begins = same_head(head));
    if !begins {
        return if short.broken { None } else { Some(false) };
    }
    let mut ends = false;
    let passed = packed::pass(&mut found.content().ok()?, place.seen, |_, recent| {
        let from = recent.len().saturating_sub(place.recent.len.into());
        ends = Print::of(&recent[from..]) == place.recent;
    });
    if passed.broken { None } else { Some(passed.len == place.seen && ends) }
}

/// Something that lies near a log.
#[derive(Debug, PartialEq, Eq)]
struct Near {
    path: PathBuf,
    /// The number of the file; `None` where that of what the name leads to is another.
    inode: Option<u64>,
}

impl Near {
    fn of(entry: &DirEntry) -> Self {
        let is_link = entry.file_type().map_or(true, |kind| kind.is_symlink());
        Self { path: entry.path(), inode: (!is_link).then(|| entry.ino()) }
    }

    /// Whether it is worth a look for the file `id`.
    fn may_be(&self, id: FileId) -> bool {
        self.inode.is_none_or(|inode| inode == id.inode)
    }
}

/// What rotation has made of the name of `path`.
fn rotated<'n>(near: &'n [Near], path: &'n Path) -> impl Iterator<Item = &'n PathBuf> {
    near.iter().map(|near| &near.path).filter(move |name| is_rotated(name, path))
}

/// Searches what lies near `path`, and again while rotation goes on: a name that was listed is another file's by then, and a
/// list that is read meanwhile may lack some.
fn steady<R>(path: &Path, search: impl Fn(&[Near]) -> R) -> R {
    let mut near = nearby(path);
    for _ in 1..SEARCHES {
        let result = search(&near);
        let now = nearby(path);
        if now == near {
            return result;
        }
        near = now;
    }
    search(&near)
}

/// The files of the folder of `path`, of the folders in it, and of the folder where a link leads: where rotation may have
/// put things.
fn nearby(path: &Path) -> Vec<Near> {
    let mut folders: Vec<PathBuf> = path.parent().map(Path::to_path_buf).into_iter().collect();
    // Behind a symbolic link, files are rotated where they are.
    if let Some(folder) = fs::canonicalize(path).ok().and_then(|path| path.parent().map(Path::to_path_buf))
        && !folders.contains(&folder)
    {
        folders.push(folder);
    }
    let list = |folder: &PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.take(SEARCHED).collect::<Vec<_>>()
    };
    let (mut files, mut inner) = (Vec::new(), Vec::new());
    for entry in folders.iter().flat_map(list) {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder { inner.push(entry.path()) } else { files.push(Near::of(&entry)) }
    }
    files.extend(inner.iter().flat_map(list).map(|entry| Near::of(&entry)));
    files.truncate(SEARCHED);
    files
}

/// Whether `name` is what rotation makes of the name of `path`: `x.log.1`, `x.log-20261122.gz`, `x-20261122.log`, `x.log.old`.
pub fn is_rotated(name: &Path, path: &Path) -> bool {
    let text = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (mut name, base) = (text(name), text(path));
    if name == base {
        return false;
    }
    for packed in [".gz", ".zst", ".xz"] {
        name.truncate(name.strip_suffix(packed).map_or(name.len(), str::len));
    }
    let is_mark = |mark: &str| {
        let mark = mark.strip_prefix(['.', '-', '_']).unwrap_or("");
        let dated = |c: char| c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | ':' | 'T' | 'Z');
        matches!(mark, "old" | "prev") || mark.starts_with(|c: char| c.is_ascii_digit()) && mark.chars().all(dated)
    };
    if name == base || name.strip_prefix(&*base).is_some_and(is_mark) {
        return true;
    }
    let Some((stem, extension)) = base.rsplit_once('.') else { return false };
    let middle = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension)?.strip_suffix('.'));
    middle.is_some_and(is_mark)
}

/// The name of a file, and those of the logs that it may be an archive of.
#[derive(Debug)]
pub struct Family(Vec<String>);

impl Family {
    /// The family of the file at `path`.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = name.rfind('.').map_or("", |dot| &name[dot..]);
        let unpacked = name.strip_suffix(extension).and_then(|rest| rest.rfind('.').map(|dot| &rest[dot..]));
        let mut names = Vec::new();
        for (end, _) in name.match_indices(['.', '-', '_']) {
            for ending in ["", extension, unpacked.unwrap_or("")] {
                let base = format!("{}{ending}", &name[..end]);
                if is_rotated(path, Path::new(&base)) && !names.contains(&base) {
                    names.push(base);
                }
            }
        }
        names.push(name);
        Self(names)
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether one may be an archive of the other, or both of the same log: `x.log.2.gz` is what `x.log.1` becomes.
    pub fn has(&self, path: &Path) -> bool {
        let stem = |name: &str| name.find(['.', '-', '_']).unwrap_or(name.len());
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        // Most are strangers from their first letters on.
        self.0.iter().any(|own| own[..stem(own)] == name[..stem(&name)])
            && Self::of(path).0.iter().any(|name| self.0.contains(name))
    }
}

/// The number at the end of a rotated name; 0 where there is none.
fn number(path: &Path) -> u64 {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parts = name.split('.').rev();
    parts.take(3).find_map(|part| part.parse().ok()).unwrap_or(0)
}

/// Opens `path` if it is the file of `place`, and still has its content.
fn open_same(path: &Path, place: &FilePlace) -> Option<Found> {
    let metadata = fs::metadata(path).ok()?;
    if !place.is_file(&metadata) {
        return None;
    }
    let file = open(path).ok()?;
    let packing = Packing::of(&file).ok()?;
    let found = Found::new(path, file, packing)?;
    (holds(&found, place) == Some(true)).then_some(found)
}

/// Opens `path` if it is another file with the content of `place`.
fn open_copy(path: &Path, place: &FilePlace) -> Option<(u64, Found)> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() < place.seen || place.is_file(&metadata) {
        return None;
    }
    let file = open(path).ok()?;
    place.matches(&file).ok()?.then(|| Found::new(path, file, None)).flatten().map(|found| (metadata.len(), found))
}

/// What a file that appears is, beside a file of the same folder that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// It has its own content.
    Different,
    /// It begins like the other one, and is still too short to tell.
    Unclear,
    /// It is a copy: reading it would count the same lines twice.
    Copy,
}

/// Compares `new` with `known`, of which `seen` bytes were read. `settled` says that `new` has stopped growing.
pub fn likeness(new: &File, known: &File, seen: u64, settled: bool) -> io::Result<Likeness> {
    /// No log begins with as much that is always the same.
    const TELLING: u64 = 4096;
    let len = new.metadata()?.len();
    let common = len.min(seen);
    let mut bytes = [0; PRINT_LEN];
    let mut same = |start: u64| -> io::Result<bool> {
        let wanted = (common - start).min(PRINT_LEN as u64) as usize;
        let bytes = &mut bytes[..wanted];
        new.read_exact_at(bytes, start)?;
        let print = Print::of(bytes);
        print.matches(known, start + wanted as u64)
    };
    if common == 0 || !same(0)? || !same(common.saturating_sub(PRINT_LEN as u64))? {
        return Ok(Likeness::Different);
    }
    Ok(match len.cmp(&seen) {
        _ if len >= TELLING && seen >= TELLING => Likeness::Copy,
        std::cmp::Ordering::Equal => Likeness::Copy,
        std::cmp::Ordering::Less if !settled => Likeness::Unclear,
        _ => Likeness::Different,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_are_told_from_other_logs() {
        // (name, of which path, whether rotation makes it)
        let cases = [
            ("auth.log.1", "auth.log", true),
            ("auth.log.2.gz", "auth.log", true),
            ("auth.log-20261122", "auth.log", true),
            ("auth.log-20261122-10.xz", "auth.log", true),
            ("auth-20261122.log.zst", "auth.log", true),
            ("auth.1.log", "auth.log", true),
            ("auth.log.gz", "auth.log", true),
            ("auth.log.old", "auth.log", true),
            ("auth.log", "auth.log", false),
            ("auth.log.bak", "auth.log", false),
            ("auth.log.1.swp", "auth.log", false),
            ("auth-audit.log", "auth.log", false),
            ("auth2.log", "auth.log", false),
            ("messages.1", "messages", true),
            ("messages-web.1", "messages", false),
        ];
        for (name, path, rotated) in cases {
            let name = Path::new("/var/log").join(name);
            assert_eq!(is_rotated(&name, &Path::new("/var/log").join(path)), rotated, "{name:?}");
        }
        assert!(number(Path::new("a.log.12.gz")) > number(Path::new("a.log.2.gz")));
    }

    #[test]
    fn archives_of_one_log_are_kin() {
        for (name, other, kin) in [
            ("auth.log", "auth.log.1", true),
            ("auth.log.2.gz", "auth.log.1", true),
            ("auth.log.2", "auth.log.1", true),
            ("auth.log.2.gz", "auth.log", true),
            ("auth-20261122.log.gz", "auth-20261121.log", true),
            ("auth.log-20261122.gz", "auth.log-20261121", true),
            ("auth.log", "auth.log", true),
            ("other.log.2.gz", "auth.log.1", false),
            ("other.log", "auth.log", false),
            ("", "auth.log", false),
        ] {
            let (name, other) = (Path::new(name), Path::new(other));
            assert_eq!(Family::of(name).has(other), kin, "{name:?} {other:?}");
            assert_eq!(Family::of(other).has(name), kin, "{other:?} {name:?}");
        }
    }
}
