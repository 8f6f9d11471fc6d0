//! The counters of this crate: plain numbers that shells publish.

/// What happened to the events of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectMetrics {
    /// Events offered.
    pub events: u64,
    /// Events that at least one scenario wanted.
    pub poured: u64,
    /// Events that were not offered, since their source is on an allowlist.
    pub allowed: u64,
    /// By scenario.
    pub scenarios: Vec<ScenarioSelect>,
}

/// What one scenario made of the events of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScenarioSelect {
    /// Filters evaluated.
    pub asked: u64,
    /// Events that it wanted.
    pub poured: u64,
    /// Expressions that failed or gave something else than they should.
    pub errors: u64,
}

/// What happened in the buckets of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketMetrics {
    /// Buckets now.
    pub buckets: u64,
    /// Bytes now.
    pub bytes: u64,
    /// Quiet times now.
    pub blackholes: u64,
    /// Quiet times that found no room.
    pub blackholes_refused: u64,
    /// By scenario.
    pub scenarios: Vec<ScenarioBuckets>,
}

/// What happened in the buckets of one scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScenarioBuckets {
    /// Buckets created.
    pub created: u64,
    /// Events accepted.
    pub poured: u64,
    /// Events dropped because their `distinct` value was seen already.
    pub repeated: u64,
    /// Events of a replayed log that carry no time.
    pub untimed: u64,
    /// Buckets ended by `cancel_on`.
    pub canceled: u64,
    /// Buckets that overflowed.
    pub overflowed: u64,
    /// Buckets that were idle for their lifetime.
    pub expired: u64,
    /// Buckets given up for want of memory.
    pub evicted: u64,
    /// Overflows that `overflow_filter` discarded.
    pub filtered: u64,
    /// Overflows muted by `blackhole`.
    pub muted: u64,
    /// Overflows without a usable source, so without an alert.
    pub sourceless: u64,
    /// Expressions that failed or gave something else than they should.
    pub errors: u64,
}

impl SelectMetrics {
    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.poured += other.poured;
        self.allowed += other.allowed;
        fit(&mut self.scenarios, other.scenarios.len());
        for (mine, theirs) in self.scenarios.iter_mut().zip(&other.scenarios) {
            mine.asked += theirs.asked;
            mine.poured += theirs.poured;
            mine.errors += theirs.errors;
        }
    }
}

impl BucketMetrics {
    /// Adds the counts of another partition.
    pub fn merge(&mut self, other: &Self) {
        self.buckets += other.buckets;
        self.bytes += other.bytes;
        self.blackholes += other.blackholes;
        self.blackholes_refused += other.blackholes_refused;
        fit(&mut self.scenarios, other.scenarios.len());
        for (mine, theirs) in self.scenarios.iter_mut().zip(&other.scenarios) {
            mine.merge(theirs);
        }
    }
}

impl ScenarioBuckets {
    /// Adds the counts of another partition.
    pub fn merge(&mut self, other: &Self) {
        self.created += other.created;
        self.poured += other.poured;
        self.repeated += other.repeated;
        self.untimed += other.untimed;
        self.canceled += other.canceled;
        self.overflowed += other.overflowed;
        self.expired += other.expired;
        self.evicted += other.evicted;
        self.filtered += other.filtered;
        self.muted += other.muted;
        self.sourceless += other.sourceless;
        self.errors += other.errors;
    }
}

fn fit<T: Default + Clone>(counts: &mut Vec<T>, len: usize) {
    if counts.len() < len {
        counts.resize(len, T::default());
    }
}
