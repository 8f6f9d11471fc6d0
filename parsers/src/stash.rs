//! Short memory between lines: named caches of texts with a size and a life time (spec: parsers 5.4).
//!
//! Caches are shared by all engines and workers of a process; the first declaration of a name says how large its cache
//! is and which entry makes room. Time is an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::config::Strategy;

/// Bytes of keys and values that one cache may hold, whatever its number of entries.
const MAX_BYTES: usize = 64 << 20;

/// What a rule set says about a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StashSpec {
    /// Its name.
    pub name: String,
    /// Most entries.
    pub size: usize,
    /// Which entry makes room.
    pub strategy: Strategy,
}

/// One entry, as checkpoints keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StashEntry {
    /// Name of the cache.
    pub cache: String,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// When it stops being there.
    pub expires: Timestamp,
}

/// All caches of a process.
#[derive(Debug, Default)]
pub struct Stashes {
    caches: BTreeMap<String, Mutex<Cache>>,
    /// In closed ones: whether somebody wanted to look or to write.
    wanted: Option<AtomicBool>,
}

impl Stashes {
    /// Empty caches as the rules declare them; of two declarations of a name the first one counts.
    pub fn new<'s>(specs: impl IntoIterator<Item = &'s StashSpec>) -> Self {
        let mut stashes = Self::default();
        for spec in specs {
            let cache = || Mutex::new(Cache::new(spec.size, spec.strategy));
            stashes.caches.entry(spec.name.clone()).or_insert_with(cache);
        }
        stashes
    }

    /// Such as hold nothing and take nothing, and only note that somebody wanted them: for lines whose turn has not come.
    pub fn closed() -> Self {
        Self { wanted: Some(AtomicBool::new(false)), ..Self::default() }
    }

    /// Whether somebody wanted closed ones since the last call.
    pub fn wanted(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.swap(false, Ordering::Relaxed))
    }

    fn note(&self) {
        if let Some(wanted) = &self.wanted {
            wanted.store(true, Ordering::Relaxed);
        }
    }

    /// What `cache` holds under `key`; `None` as well for a cache that nobody declared.
    pub fn get(&self, cache: &str, key: &str, now: Timestamp) -> Option<String> {
        self.note();
        lock(self.caches.get(cache)?).get(key, now)
    }

    /// Stores `value` for `ttl`. A cache that nobody declared takes nothing.
    pub fn set(&self, cache: &str, key: &str, value: &str, ttl: SignedDuration, now: Timestamp) {
        self.note();
        if let Some(cache) = self.caches.get(cache) {
            let expires = now.checked_add(ttl).unwrap_or(Timestamp::MAX);
            lock(cache).set(key, value, expires, now);
        }
    }

    /// All living entries, those that would make room first come first.
    pub fn entries(&self, now: Timestamp) -> Vec<StashEntry> {
        let of_cache = |(name, cache): (&String, &Mutex<Cache>)| {
            let cache = lock(cache);
            let mut entries: Vec<(Rank, StashEntry)> = Vec::new();
            for (key, entry) in &cache.entries {
                if entry.expires > now {
                    let (cache, key, value) = (name.clone(), key.to_string(), entry.value.to_string());
                    entries.push((entry.rank, StashEntry { cache, key, value, expires: entry.expires }));
                }
            }
            entries.sort_unstable_by_key(|(rank, _)| *rank);
            entries.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>()
        };
        self.caches.iter().flat_map(of_cache).collect()
    }

    /// Puts back what [`Stashes::entries`] gave; entries of caches that are no longer declared are left out.
    pub fn restore(&self, entries: impl IntoIterator<Item = StashEntry>, now: Timestamp) {
        for entry in entries {
            if let Some(cache) = self.caches.get(&entry.cache)
                && entry.expires > now
            {
                lock(cache).set(&entry.key, &entry.value, entry.expires, now);
            }
        }
    }
}

/// A cache is consistent after every call, so one that panicked elsewhere leaves nothing half done.
fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What decides who makes room: lowest first.
type Rank = (u64, u64);

struct Entry {
    value: Box<str>,
    expires: Timestamp,
    rank: Rank,
}

/// One cache. For ARC the first part of a rank tells entries seen once (0) from those seen again (1).
struct Cache {
    strategy: Strategy,
    size: usize,
    bytes: usize,
    tick: u64,
    entries: HashMap<Arc<str>, Entry>,
    order: BTreeMap<Rank, Arc<str>>,
    /// ARC: keys that left lately, once seen and seen again; and how many entries may be such as were seen once.
    ghosts: [VecDeque<Arc<str>>; 2],
    once: usize,
}

impl Cache {
    fn new(size: usize, strategy: Strategy) -> Self {
        Self {
            strategy,
            size: size.max(1),
            bytes: 0,
            tick: 0,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            ghosts: Default::default(),
            once: 0,
        }
    }

    fn get(&mut self, key: &str, now: Timestamp) -> Option<String> {
        let entry = self.entries.get(key)?;
        if entry.expires <= now {
            self.remove(key);
            return None;
        }
        let value = entry.value.to_string();
        let hits = entry.rank.0;
        self.rerank(key, if self.strategy == Strategy::Arc { 1 } else { hits + 1 });
        Some(value)
    }

    fn set(&mut self, key: &str, value: &str, expires: Timestamp, now: Timestamp) {
        let known = self.entries.get(key).map(|entry| entry.rank.0);
        self.remove(key);
        let count = match (self.strategy, known) {
            (Strategy::Arc, None) => self.recall(key),
            (Strategy::Arc, Some(_)) => 1,
            (_, known) => known.unwrap_or(0),
        };
        let bytes = key.len() + value.len();
        while !self.order.is_empty() && (self.entries.len() >= self.size || self.bytes + bytes > MAX_BYTES) {
            self.make_room(now);
        }
        if bytes > MAX_BYTES {
            return;
        }
        let key: Arc<str> = key.into();
        let rank = self.rank(count);
        self.bytes += bytes;
        self.order.insert(rank, Arc::clone(&key));
        self.entries.insert(key, Entry { value: value.into(), expires, rank });
    }

    fn rank(&mut self, count: u64) -> Rank {
        self.tick += 1;
        match self.strategy {
            Strategy::Lru => (0, self.tick),
            Strategy::Lfu | Strategy::Arc => (count, self.tick),
        }
    }

    fn rerank(&mut self, key: &str, count: u64) {
        let rank = self.rank(count);
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(key) = self.order.remove(&entry.rank)
        {
            entry.rank = rank;
            self.order.insert(rank, key);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, entry)) = self.entries.remove_entry(key) {
            self.order.remove(&entry.rank);
            self.bytes -= key.len() + entry.value.len();
        }
    }

    /// A key that left lately comes back: its kind of entry deserves more room.
    fn recall(&mut self, key: &str) -> u64 {
        let [once, again] = &mut self.ghosts;
        let (once_left, again_left) = (once.len().max(1), again.len().max(1));
        if let Some(place) = once.iter().position(|ghost| **ghost == *key) {
            once.remove(place);
            self.once = (self.once + (again_left / once_left).max(1)).min(self.size);
            return 1;
        }
        if let Some(place) = again.iter().position(|ghost| **ghost == *key) {
            again.remove(place);
            self.once = self.once.saturating_sub((once_left / again_left).max(1));
            return 1;
        }
        0
    }

    fn make_room(&mut self, now: Timestamp) {
        let first = self.order.first_key_value().map(|(rank, key)| (*rank, Arc::clone(key)));
        let Some((mut rank, mut key)) = first else { return };
        if self.strategy == Strategy::Arc {
            let seen_once = self.order.range(..(1, 0)).count();
            if seen_once <= self.once
                && let Some((again, other)) = self.order.range((1, 0)..).next()
            {
                (rank, key) = (*again, Arc::clone(other));
            }
            let expired = self.entries.get(&key).is_some_and(|entry| entry.expires <= now);
            if !expired {
                let ghosts = &mut self.ghosts[usize::from(rank.0 > 0)];
                ghosts.push_back(Arc::clone(&key));
                if ghosts.len() > self.size {
                    ghosts.pop_front();
                }
            }
        }
        self.remove(&key);
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("entries", &self.entries.len()).field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number")
    }

    fn stashes(size: usize, strategy: Strategy) -> Stashes {
        let spec = |size, strategy| StashSpec { name: "s".into(), size, strategy };
        Stashes::new(&[spec(size, strategy), spec(1, Strategy::Lru)])
    }

    /// Sets `abc` in order, reads as told, sets `d`; which keys are left?
    fn left(strategy: Strategy, reads: &str) -> String {
        let stashes = stashes(3, strategy);
        for key in ["a", "b", "c"] {
            stashes.set("s", key, key, SignedDuration::from_secs(60), at(0));
        }
        for key in reads.chars() {
            stashes.get("s", &key.to_string(), at(1));
        }
        stashes.set("s", "d", "d", SignedDuration::from_secs(60), at(2));
        let mut left: Vec<String> = stashes.entries(at(3)).into_iter().map(|entry| entry.key).collect();
        left.sort_unstable();
        left.concat()
    }

    #[test]
    fn who_makes_room() {
        let cases: &[(&str, Strategy, &str, &str)] = &[
            ("the oldest", Strategy::Lru, "", "bcd"),
            ("the one used longest ago", Strategy::Lru, "ab", "abd"),
            ("the one used least often", Strategy::Lfu, "aabc", "acd"),
            ("one seen once", Strategy::Arc, "ab", "abd"),
        ];
        for (name, strategy, reads, expected) in cases {
            assert_eq!(left(*strategy, reads), *expected, "{name}");
        }
    }

    #[test]
    fn entries_live_as_long_as_they_were_given() {
        let stashes = stashes(3, Strategy::Lru);
        stashes.set("s", "k", "v", SignedDuration::from_secs(5), at(0));
        assert_eq!(stashes.get("s", "k", at(4)).as_deref(), Some("v"));
        assert_eq!(stashes.get("s", "k", at(5)), None);
        assert_eq!(stashes.get("undeclared", "k", at(0)), None);
    }

    #[test]
    fn a_checkpoint_brings_everything_back() {
        let before = stashes(3, Strategy::Lru);
        for (key, ttl) in [("a", 5), ("b", 50), ("c", 60)] {
            before.set("s", key, key, SignedDuration::from_secs(ttl), at(0));
        }
        let kept = before.entries(at(10));
        let after = stashes(3, Strategy::Lru);
        after.restore(kept.clone(), at(10));
        assert_eq!(after.entries(at(10)), kept);
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn arc_adapts_and_stays_within_its_size() {
        let stashes = stashes(4, Strategy::Arc);
        for round in 0..200_u32 {
            let key = (round * round % 7).to_string();
            if stashes.get("s", &key, at(0)).is_none() {
                stashes.set("s", &key, "v", SignedDuration::from_secs(60), at(0));
            }
            assert!(stashes.entries(at(0)).len() <= 4);
        }
    }
}
