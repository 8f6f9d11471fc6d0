//! Where lines come from.
//!
//! A [`Datasource`] reads on a thread of its own and yields [`Batch`]es over one bounded channel. A batch closes
//! when it is full or when nothing more can be read now: a lone line waits for nothing. Where the channel is full the
//! datasource waits, and what it reads from (the file, the journal) is the buffer.
//!
//! Each batch says where reading stands behind it ([`Step`]); who remembers places does so only when he knows what
//! became of the lines.

pub mod bell;
pub mod config;
pub mod discover;
pub mod file;
pub mod journald;
pub mod lines;
pub mod queue;
pub mod syslog;
pub mod transform;
pub mod voice;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use std::{io, thread};

use jiff::Timestamp;
use model::{LineRef, Origin};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

pub use self::bell::Bell;
use self::config::{Input, SourceConfig};
use self::file::{Cat, FileSource};
use self::journald::Journal;
use self::lines::Lines;
use self::queue::{HungUp, Lane};
use self::syslog::Syslog;
use self::transform::Transform;
use self::voice::Voice;
use crate::meter;
use crate::state::Places;
use crate::status::SourceStatus;
use crate::tail::checkpoint::FilePlace;
use crate::tail::rotate::FileId;
use crate::tail::split;

/// A batch is full at this many bytes of text, or at this many lines.
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_LINES: usize = 4096;
/// Batches differ by about this many bytes.
const SLACK: usize = 4096;

/// Shortest and longest pause before a datasource that failed is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// One configured input.
pub trait Datasource: Send {
    /// Reads until the input ends (`Ok`), the bell says stop (`Ok`), or something fails. After a failure it
    /// is called again, after a pause, and goes on where it was.
    fn run(&mut self, bell: &Arc<Bell>, out: &mut Outlet) -> Result<(), SourceError>;
}

/// Why a datasource stopped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nobody takes the batches any more: the pipeline has ended.
    #[error("the pipeline has ended")]
    Hangup,
    /// A file or device cannot be read.
    #[error("cannot read `{path}`: {error}", path = path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The system refuses something that reading needs (descriptors, threads).
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Nobody can send lines here.
    #[error("cannot listen on {on}: {error}")]
    Listen {
        /// Where.
        on: String,
        /// Why.
        error: io::Error,
    },
    /// A file of certificates or keys is not what it should be.
    #[error("cannot use `{path}` for TLS: {reason}", path = path.display())]
    Certificate {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A program that yields lines cannot be started.
    #[error("cannot start `{program}`: {error}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// A program that yields lines has ended.
    #[error("`{program}` ended ({status}){said}", said = if stderr.is_empty() { String::new() } else { format!(": {stderr}") })]
    Ended {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The last thing it said.
        stderr: String,
    },
}

impl SourceError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            SourceError::Hangup => "",
            SourceError::Read { .. } => "check that the file exists and that cordon may read it",
            SourceError::System { .. } => "raise the limits of the service (open files, threads)",
            SourceError::Listen { .. } => {
                "free the address, name another one, or let cordon use it (ports below 1024 need CAP_NET_BIND_SERVICE)"
            }
            SourceError::Certificate { .. } => "name PEM files that belong together and that cordon may read",
            SourceError::Start { .. } => "install the program, or read the log from files instead",
            SourceError::Ended { .. } => "run the same command by hand to see what it says; it is started again",
        }
    }
}

/// Lines of one datasource, in the order in which they were read.
#[derive(Debug)]
pub struct Batch {
    /// Number of the datasource.
    pub source: u32,
    /// Number of the batch: 0, 1, 2... within its datasource.
    pub sequence: u64,
    /// The lines.
    pub lines: Lines,
    /// Whether the lines were written while nobody read (they wait since before the start).
    pub backlog: bool,
    /// Whether all that was written while nobody read has been handed out with this batch.
    pub caught_up: bool,
    /// Where reading stands behind this batch: what changed since the batch before.
    pub steps: Vec<Step>,
    /// When it was closed.
    pub read_at: Timestamp,
}

/// A change of where reading stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// All before this place was handed out.
    At(Place),
    /// The file will not be read again.
    Gone(FileId),
}

/// Where reading stands in one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In a file.
    File(FilePlace),
    /// In a stream that has cursors of its own (the journal).
    Cursor(String),
}

/// Where a datasource puts its lines.
#[derive(Debug)]
pub struct Outlet {
    source: u32,
    sequence: u64,
    lane: Lane,
    status: Arc<SourceStatus>,
    lines: Lines,
    backlog: bool,
    /// Whether it was said that nothing is left of what was written while nobody read.
    caught_up: bool,
    steps: Vec<Step>,
    transform: Option<Transform>,
    /// Longest line in bytes.
    longest: usize,
}

impl Outlet {
    /// An outlet for datasource number `source`.
    pub fn new(source: u32, lane: Lane, status: Arc<SourceStatus>) -> Self {
        Self {
            source,
            sequence: 0,
            lane,
            status,
            lines: Lines::default(),
            backlog: false,
            caught_up: false,
            steps: Vec::new(),
            transform: None,
            longest: usize::MAX,
        }
    }

    /// The same, with lines that become what `transform` makes of them.
    pub fn transformed(self, transform: Option<Transform>) -> Self {
        Self { transform, ..self }
    }

    /// The same, cutting lines behind so many bytes.
    pub fn cutting(self, longest: Option<usize>) -> Self {
        Self { longest: longest.unwrap_or(self.longest), ..self }
    }

    /// The counters of the datasource.
    pub fn status(&self) -> &SourceStatus {
        &self.status
    }

    /// The same, for whoever counts elsewhere.
    pub fn shared_status(&self) -> Arc<SourceStatus> {
        Arc::clone(&self.status)
    }

    /// Adds a line to the open batch.
    pub fn line<'l>(&mut self, line: impl Into<LineRef<'l>>) {
        let Self { lines, transform, status, .. } = self;
        match transform {
            None => lines.push(line.into()),
            Some(transform) => {
                if !transform.apply(line.into(), &mut |line| lines.push(line)) {
                    status.unchanged.add(1);
                }
            }
        }
    }

    /// Adds a line as it was read to the open batch: what is no text is replaced, what is too long is cut and counted.
    pub fn bytes(&mut self, bytes: &[u8], origin: &Arc<Origin>, time: Timestamp, offset: u64) {
        let kept = bytes.get(..self.longest).unwrap_or(bytes);
        let longer = kept.len() < bytes.len();
        let bytes = kept;
        let cut = if self.transform.is_some() {
            let (raw, cut) = split::text(bytes);
            self.line(LineRef { raw: &raw, origin, time, offset });
            cut
        } else {
            self.lines.push_bytes(bytes, origin, time, offset)
        };
        if cut || longer {
            self.status.cut.add(1);
        }
    }

    /// Says where reading stands behind the lines added so far.
    pub fn step(&mut self, step: Step) {
        let same = |known: &&mut Step| match (&**known, &step) {
            (Step::At(Place::File(a)), Step::At(Place::File(b))) => a.id == b.id,
            (Step::At(Place::Cursor(_)), Step::At(Place::Cursor(_))) => true,
            (Step::At(Place::File(a)), Step::Gone(b)) => a.id == *b,
            _ => false,
        };
        match self.steps.iter_mut().find(same) {
            Some(known) => *known = step,
            None => self.steps.push(step),
        }
    }

    /// Whether the open batch should be sent before more is read.
    pub fn is_full(&self) -> bool {
        self.lines.bytes() >= BATCH_BYTES || self.lines.len() >= BATCH_LINES
    }

    /// Says whether the lines that follow were written while nobody read. Lines of both kinds never share a batch.
    pub fn set_backlog(&mut self, backlog: bool) -> Result<(), SourceError> {
        if self.backlog != backlog {
            self.send()?;
            self.backlog = backlog;
        }
        Ok(())
    }

    /// Closes the open batch and hands it on: there is nothing more to read now.
    pub fn idle(&mut self) -> Result<(), SourceError> {
        if self.caught_up {
            self.send()?;
        } else {
            self.catch_up()?;
        }
        self.status.caught_up();
        Ok(())
    }

    /// Closes the open batch and says that what was written while nobody read is over, or cannot be read.
    fn catch_up(&mut self) -> Result<(), SourceError> {
        self.caught_up = true;
        self.close()
    }

    /// Closes the open batch and hands it on; waits while the channel is full. Nothing to hand on is no batch.
    pub fn send(&mut self) -> Result<(), SourceError> {
        if self.lines.is_empty() && self.steps.is_empty() {
            return Ok(());
        }
        self.close()
    }

    fn close(&mut self) -> Result<(), SourceError> {
        // After a full batch the next one will be, as a rule.
        let room = if self.is_full() { self.lines.bytes() + SLACK } else { 0 };
        let lines = std::mem::replace(&mut self.lines, Lines::with_capacity(room));
        let read_at = Timestamp::now();
        self.status.lines.add(lines.len() as u64);
        self.status.fell_behind(read_at);
        let batch = Batch {
            source: self.source,
            sequence: self.sequence,
            lines,
            backlog: self.backlog,
            caught_up: self.caught_up,
            steps: std::mem::take(&mut self.steps),
            read_at,
        };
        self.sequence += 1;
        self.lane.send(batch).map_err(|HungUp| SourceError::Hangup)
    }
}

/// The datasource that `config` describes, standing where `places` say.
pub fn build(config: &SourceConfig, places: &Places) -> Box<dyn Datasource> {
    match &config.input {
        Input::Follow(files, follow) => {
            let remembered = places.written().map(SystemTime::from);
            Box::new(FileSource::new(files.clone(), follow.clone(), places.files(&config.id), remembered))
        }
        Input::Cat(files) => Box::new(Cat::new(files)),
        Input::Journal(journal) => {
            let cursor = places.cursor(&config.id).filter(|_| journal.follow);
            Box::new(Journal::new(journal.clone(), "journalctl".into(), cursor))
        }
        Input::Syslog(syslog) => Box::new(Syslog::new(syslog.clone())),
    }
}

/// A datasource that runs on its thread.
#[derive(Debug)]
pub struct Running {
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Starts `datasource` on a thread. A failure is shown in its status and tried again with growing pauses;
    /// it stops nothing else.
    pub fn start(datasource: Box<dyn Datasource>, out: Outlet) -> io::Result<Self> {
        Self::start_with(datasource, out, Voice::default())
    }

    /// The same, speaking in the log like `voice`.
    pub fn start_with(mut datasource: Box<dyn Datasource>, mut out: Outlet, voice: Voice) -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let rung = Arc::clone(&bell);
        let thread = thread::Builder::new().name(format!("source {}", out.source)).spawn(move || {
            let _name = voice.speak();
            let mut pause = BACK_OFF.0;
            while !rung.stopped() {
                let before = out.status.lines.get();
                match datasource.run(&rung, &mut out) {
                    Ok(()) | Err(SourceError::Hangup) => break,
                    Err(error) => {
                        if out.status.lines.get() > before {
                            pause = BACK_OFF.0;
                        }
                        if out.status.red("", error.to_string(), error.remedy()) {
                            warn!(source = out.status.name(), %error, "datasource failed, trying again");
                        }
                    }
                }
                // What was read before the failure must not wait for the restart.
                if out.catch_up().is_err() {
                    break;
                }
                out.status.retries.add(1);
                // The timer is the only thing that matters here; a ring means stop.
                let _ = rung.wait(None, Some(pause));
                pause = (pause * 2).min(BACK_OFF.1);
            }
            out.status.nanos.set(meter::thread_time().as_nanos() as u64);
            // The pipeline may have ended first; then nobody needs the last batch.
            let _ = out.catch_up();
            info!(source = out.status.name(), lines = out.status.lines.get(), "datasource ended");
        })?;
        Ok(Self { bell, thread })
    }

    /// Asks it to end; does not wait.
    pub fn stop(&self) {
        self.bell.stop();
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it has ended. Whoever takes the batches must go on taking them, or have hung up.
    pub fn join(self) {
        // A panic was already printed; the datasource has ended either way.
        let _ = self.thread.join();
    }
}
