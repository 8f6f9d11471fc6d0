//! Bodies that lie ready.
//!
//! A thread of its own writes them down again after each change; whoever fetches takes what lies there. It rests twenty
//! times as long as it worked, so however large a feed is and however fast it changes, it costs a twentieth of one core.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::query::Query;
use super::render::{Heading, Rendered, render};
use super::rows::Rows;

/// Most bodies beside the prepared ones; the one that nobody has asked for the longest makes room.
const MAX_BODIES: usize = 64;
/// A body that nobody has asked for so long is no longer kept.
const FORGOTTEN: Duration = Duration::from_hours(48);
/// Shortest and longest rest between two rounds.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How many times longer it rests than it works.
const IDLE: u32 = 20;
/// So old a body may be whose entries carry the time that they have left.
const TIMED: Duration = Duration::from_mins(1);

/// A body as it is fetched.
#[derive(Debug)]
pub struct Edition {
    /// Which state it shows.
    pub sequence: u64,
    /// The text.
    pub body: Bytes,
    /// The same, compressed.
    pub gzip: OnceLock<Bytes>,
    /// Names it among all that were ever served.
    pub tag: String,
    /// When it was written.
    pub made: Timestamp,
    /// When what it says last changed.
    pub changed: Timestamp,
    /// How many addresses and prefixes are in it.
    pub count: usize,
    /// Whether some did not fit.
    pub truncated: bool,
    /// How long writing it took.
    pub took: Duration,
}

/// Of which feed a body is, and in what form.
pub type Title = (String, Query);

/// What all bodies are made of.
#[derive(Clone, Debug)]
struct Stock {
    rows: Arc<Rows>,
    sequence: u64,
    changed: Timestamp,
    /// When the next entry ends.
    next_end: Option<Timestamp>,
}

#[derive(Debug)]
struct Place {
    edition: watch::Sender<Option<Arc<Edition>>>,
    asked: Instant,
    /// Whether it lies ready even if nobody asks.
    prepared: bool,
    /// Whether somebody waits for one that is not older than [`TIMED`].
    wanted: bool,
}

#[derive(Debug, Default)]
struct State {
    stock: Option<Stock>,
    places: BTreeMap<Title, Place>,
    stopped: bool,
}

/// Where bodies lie, and what they are made of. Clones are the same shelf.
#[derive(Clone, Debug)]
pub struct Shelf {
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
}

impl Shelf {
    /// A shelf with nothing on it; `titles` are written down as soon as anything is known.
    pub fn new(titles: impl IntoIterator<Item = Title>) -> Self {
        let place = |title| (title, Place::new(true));
        let state = State { places: titles.into_iter().map(place).collect(), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    /// Makes `rows` what is told from now on.
    pub fn stock(&self, rows: Arc<Rows>, now: Timestamp) {
        let next_end = rows.next_end(now);
        let mut state = self.lock();
        // a restart goes on with greater numbers, as long as there is less than one change a second
        let begin = u64::try_from(now.as_second()).unwrap_or(0);
        let sequence = state.stock.as_ref().map_or(begin, |stock| stock.sequence + 1);
        let changed = state.changed(now);
        state.stock = Some(Stock { rows, sequence, changed, next_end });
        drop(state);
        self.changed.notify_all();
    }

    /// The number of the state that is told, if anything is known.
    pub fn sequence(&self) -> Option<u64> {
        self.lock().stock.as_ref().map(|stock| stock.sequence)
    }

    /// The editions that lie ready.
    pub fn editions(&self) -> Vec<(Title, Arc<Edition>)> {
        let state = self.lock();
        let ready = |(title, place): (&Title, &Place)| Some((title.clone(), place.edition.borrow().clone()?));
        state.places.iter().filter_map(ready).collect()
    }

    /// The body with `title`, or how to wait for it. `None` if nothing is known that it could tell.
    pub fn take(&self, title: &Title, now: Timestamp) -> Option<Taken> {
        let mut state = self.lock();
        state.stock.as_ref()?;
        if !state.places.contains_key(title) {
            state.make_room();
        }
        let place = state.places.entry(title.clone()).or_insert_with(|| Place::new(false));
        place.asked = Instant::now();
        let ready = place.edition.borrow().clone();
        let taken = match ready {
            Some(edition) if !is_stale(&title.1, &edition, now) => return Some(Taken::Ready(edition)),
            _ => {
                place.wanted = true;
                Taken::Wait(place.edition.subscribe())
            }
        };
        drop(state);
        self.changed.notify_all();
        Some(taken)
    }

    /// Writes bodies down until [`Shelf::stop`].
    pub fn work(&self) {
        let mut rest = Duration::ZERO;
        loop {
            let Some((stock, titles)) = self.wait(rest) else { return };
            let began = Instant::now();
            for title in titles {
                self.write(&title, &stock);
            }
            rest = (began.elapsed() * IDLE).clamp(REST.0, REST.1);
        }
    }

    /// Ends [`Shelf::work`].
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits until something is to be written: what of it, and which. Whoever waits for a first body waits for no rest.
    fn wait(&self, rest: Duration) -> Option<(Stock, Vec<Title>)> {
        let rested = Instant::now() + rest;
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let now = Timestamp::now();
            state.expire(now);
            let resting = rested.saturating_duration_since(Instant::now());
            let titles = state.due(resting.is_zero());
            if let Some(stock) = state.stock.clone().filter(|_| !titles.is_empty()) {
                return Some((stock, titles));
            }
            let ends = state.stock.as_ref().and_then(|stock| stock.next_end);
            let ends = ends.map_or(REST.1, |end| end.duration_since(now).unsigned_abs());
            let pause = if resting.is_zero() { ends.clamp(REST.0, REST.1) } else { resting };
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write(&self, title: &Title, stock: &Stock) {
        let (name, query) = title;
        let (began, now) = (Instant::now(), Timestamp::now());
        // people read it: no fractions
        let heading =
            Heading { name, sequence: stock.sequence, now: Timestamp::from_second(now.as_second()).unwrap_or(now) };
        let Rendered { body, count, truncated } = render(&stock.rows, query, &heading);
        let took = began.elapsed();
        if truncated {
            warn!(
                feed = name,
                format = query.format.name(),
                max = query.max,
                "a feed does not hold all that is in force"
            );
        }
        debug!(feed = name, format = query.format.name(), count, ?took, "a feed was written");
        // the question is part of the name: two of them never share one
        let asked = crc32c::crc32c(query.to_string().as_bytes());
        let edition = Arc::new(Edition {
            sequence: stock.sequence,
            tag: format!("{}-{asked:08x}-{:08x}", stock.sequence, crc32c::crc32c(&body)),
            body: body.into(),
            gzip: OnceLock::new(),
            made: now,
            changed: stock.changed,
            count,
            truncated,
            took,
        });
        if let Some(place) = self.lock().places.get_mut(title) {
            place.wanted = false;
            place.edition.send_replace(Some(Arc::clone(&edition)));
        }
        // whoever comes before it is done takes the body as it is
        let _ = edition.gzip.set(compress(&edition.body));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body, or the promise of one.
#[derive(Debug)]
pub enum Taken {
    /// It lies there.
    Ready(Arc<Edition>),
    /// It is being written.
    Wait(watch::Receiver<Option<Arc<Edition>>>),
}

impl Place {
    fn new(prepared: bool) -> Self {
        Self { edition: watch::Sender::new(None), asked: Instant::now(), prepared, wanted: false }
    }
}

impl State {
    /// Lets go of the body that nobody has asked for the longest, if there are too many.
    fn make_room(&mut self) {
        let extra = || self.places.iter().filter(|(_, place)| !place.prepared);
        if extra().count() < MAX_BODIES {
            return;
        }
        let oldest = extra().min_by_key(|(_, place)| place.asked).map(|(title, _)| title.clone());
        oldest.and_then(|title| self.places.remove(&title));
    }

    /// Counts as a change that entries end, and forgets bodies that nobody wants.
    fn expire(&mut self, now: Timestamp) {
        self.places.retain(|_, place| place.prepared || place.asked.elapsed() < FORGOTTEN);
        let changed = self.changed(now);
        if let Some(stock) = self.stock.as_mut().filter(|stock| stock.next_end.is_some_and(|end| end <= now)) {
            stock.sequence += 1;
            stock.changed = changed;
            stock.next_end = stock.rows.next_end(now);
        }
    }

    /// When a change at `now` counts as made: no two of them in one second, because HTTP tells no finer times.
    fn changed(&self, now: Timestamp) -> Timestamp {
        let second = SignedDuration::from_secs(1);
        let after = self.stock.as_ref().map(|stock| stock.changed.saturating_add(second).unwrap_or(stock.changed));
        let whole = Timestamp::from_second(now.as_second() + 1).unwrap_or(now);
        after.map_or(whole, |after| after.max(whole))
    }

    /// What is to be written: while resting only what somebody waits for.
    fn due(&self, rested: bool) -> Vec<Title> {
        let Some(stock) = &self.stock else { return Vec::new() };
        let is_due = |place: &Place| {
            let old = place.edition.borrow().as_ref().is_none_or(|edition| edition.sequence != stock.sequence);
            place.wanted || (rested && old)
        };
        self.places.iter().filter(|(_, place)| is_due(place)).map(|(title, _)| title.clone()).collect()
    }
}

fn is_stale(query: &Query, edition: &Edition, now: Timestamp) -> bool {
    query.format.is_timed() && now.duration_since(edition.made).unsigned_abs() > TIMED
}

/// `body` as gzip; fast, because most of what it saves comes at once.
fn compress(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 3), Compression::fast());
    // writing to memory cannot fail
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default().into()
}
