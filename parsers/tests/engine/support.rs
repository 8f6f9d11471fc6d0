//! Loads parser folders as the agent does, and runs lines through them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expr::files::Files;
use expr::memo::Memo;
use expr::{Compiler, Host};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::{Event, FieldTable, Line, Origin};
use parsers::{Context, Library, Loaded, Outcome, ParserFile, ParserSet, Scratch, Stashes, Trace, YearRule, load};

/// The folder of this workspace that holds `crates` and `tests`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The patterns we ship.
pub(crate) fn library() -> Library {
    let mut library = Library::default();
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("parsers/hub/patterns"))
        .expect("we ship patterns")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).expect("readable");
        library.add_file(&text).unwrap_or_else(|fault| panic!("{}", fault.within(&path)));
    }
    library
}

/// Every file below `folder` with its stage, the first folder below it.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        let stage = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && stage != "patterns" {
            collect(&path, &stage, &mut found);
        }
    }
    found.sort();
    found
}

fn collect(folder: &Path, stage: &str, found: &mut Vec<(PathBuf, String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, stage, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            let text = fs::read_to_string(&path).expect("readable");
            found.push((path, stage.to_owned(), text));
        }
    }
}

/// Loads files as [`files`] found them.
pub(crate) fn load_files(files: &[(PathBuf, String, String)], compiler: &mut Compiler<'_>) -> Loaded {
    let files: Vec<ParserFile<'_>> = files.iter().map(|(path, stage, text)| ParserFile { path, stage, text }).collect();
    load(&files, &library(), compiler)
}

/// The parsers of a folder, which must all be good.
pub(crate) fn parsers_of(folder: &Path) -> (ParserSet, Arc<FieldTable>) {
    let mut table = FieldTable::default();
    let loaded = load_files(&files(folder), &mut Compiler::new(&mut table));
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    let set = loaded.finish(&mut table);
    (set, Arc::new(table))
}

/// A world without data.
#[derive(Debug, Default)]
pub(crate) struct Nowhere {
    files: Files,
    stashes: Arc<Stashes>,
}

impl Host for Nowhere {
    fn now(&self) -> Timestamp {
        now()
    }

    fn files(&self) -> &Files {
        &self.files
    }

    fn stash(&self, cache: &str, key: &str) -> Option<String> {
        self.stashes.get(cache, key, now())
    }
}

/// The moment at which tests take place.
pub(crate) fn now() -> Timestamp {
    "2026-08-22T00:00:00Z".parse().expect("an RFC 3339 text")
}

/// One worker.
pub(crate) struct Worker {
    /// The event of the last line.
    pub(crate) event: Event,
    scratch: Scratch,
    memo: Memo,
    host: Nowhere,
    labels: String,
    origin: Arc<Origin>,
}

impl Worker {
    /// A worker for rule sets over `table`.
    pub(crate) fn new(table: &Arc<FieldTable>) -> Self {
        Self::with_stashes(table, Stashes::default())
    }

    /// The same with a memory.
    pub(crate) fn with_stashes(table: &Arc<FieldTable>, stashes: Stashes) -> Self {
        Self {
            event: Event::new(Arc::clone(table)),
            scratch: Scratch::default(),
            memo: Memo::default(),
            host: Nowhere { files: Files::default(), stashes: Arc::new(stashes) },
            labels: String::new(),
            origin: Arc::default(),
        }
    }

    /// Takes a line through the stages. `labels` is the type, then `key=value` labels, separated by blanks.
    pub(crate) fn run(&mut self, set: &ParserSet, labels: &str, raw: &str, trace: Option<&mut Trace>) -> Outcome {
        if self.labels != labels {
            labels.clone_into(&mut self.labels);
            self.origin = Arc::new(origin(labels));
        }
        self.event.start_line(&Line { raw: raw.into(), origin: Arc::clone(&self.origin), time: now(), offset: 0 });
        let mut cx = Context {
            host: &self.host,
            now: now(),
            year: YearRule::Current,
            zone: &TimeZone::UTC,
            stashes: &self.host.stashes,
            geo: None,
            memo: Some(&self.memo),
            scratch: &mut self.scratch,
            trace,
            probe: None,
        };
        set.run(&mut self.event, &mut cx)
    }

    /// Names of the parsers that took the last line on.
    pub(crate) fn passed(&mut self, set: &ParserSet) -> Arc<[Arc<str>]> {
        set.passed(&mut self.scratch)
    }
}

fn origin(labels: &str) -> Origin {
    let mut words = labels.split(' ');
    let kind = words.next().unwrap_or("");
    let others = words.filter_map(|label| label.split_once('='));
    let labels = std::iter::once(("type", kind)).chain(others).map(|(key, value)| (key.into(), value.into()));
    Origin {
        src: "test.log".into(),
        module: "file".into(),
        labels: labels.collect(),
        time_machine: true,
        ..Origin::default()
    }
}
