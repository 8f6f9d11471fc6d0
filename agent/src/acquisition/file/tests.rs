//! Rotation in all its forms, over temporary folders.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::thread;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

use super::*;
use crate::acquisition::queue::{Receiver, single};
use crate::acquisition::{Batch, Running};
use crate::status::SourceStatus;
use crate::tail::packed::tests::pack;

/// How long a line may take on a machine that does other things too.
const DEADLINE: Duration = Duration::from_secs(30);

/// More than what is kept of the beginning of a file.
const LONG: &str = concat!(
    "old line 1, as long as the lines of logs are: ................................................................\n",
    "old line 2, as long as the lines of logs are: ................................................................\n",
    "old line 3, as long as the lines of logs are: ................................................................\n",
);

/// A file source over a temporary folder, and everything it has said.
struct Bench {
    folder: TempDir,
    pattern: &'static str,
    poll: bool,
    running: Option<(Running, Receiver)>,
    status: Arc<SourceStatus>,
    lines: Vec<String>,
    taken: usize,
    places: BTreeMap<FileId, FilePlace>,
    backlog: usize,
}

impl Bench {
    fn new(pattern: &'static str, poll: bool) -> Self {
        Self {
            folder: TempDir::new().expect("a temporary folder"),
            pattern,
            poll,
            running: None,
            status: Arc::default(),
            lines: Vec::new(),
            taken: 0,
            places: BTreeMap::new(),
            backlog: 0,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The files that match, where they were left if `remembered`.
    fn source(&self, remembered: bool) -> FileSource {
        let pattern = PathPattern::new(&self.path(self.pattern).to_string_lossy()).expect("a valid pattern");
        let files = Files {
            patterns: vec![pattern],
            exclude: vec![Regex::new(r"\.gz$").expect("a valid regex")],
            labels: Vec::new(),
            time_machine: false,
        };
        let places: Vec<FilePlace> = if remembered { self.places.values().cloned().collect() } else { Vec::new() };
        let moment = remembered.then(SystemTime::now);
        let follow = Follow { poll: Some(self.poll), ..Follow::default() };
        FileSource::new(files, follow, places, moment)
    }

    /// Opens them, and starts reading.
    fn start(&mut self, remembered: bool) {
        let mut source = self.source(remembered);
        let (sender, receiver) = single(4);
        let mut out = Outlet::new(0, sender, Arc::clone(&self.status));
        source.scan(&mut out).expect("somebody listens");
        self.running = Some((Running::start(Box::new(source), out).expect("a thread can be started"), receiver));
    }

    fn stop(&mut self) {
        let Some((running, receiver)) = self.running.take() else { return };
        running.stop();
        while let Some(batch) = receiver.recv() {
            self.take(batch);
        }
        running.join();
    }

    fn take(&mut self, batch: Batch) {
        if batch.backlog {
            self.backlog += batch.lines.len();
        }
        self.lines.extend(batch.lines.iter().map(|line| line.raw.to_string()));
        for step in batch.steps {
            match step {
                Step::At(Place::File(place)) => drop(self.places.insert(place.id, place)),
                Step::At(Place::Cursor(_)) => unreachable!("a file has no cursor"),
                Step::Gone(id) => drop(self.places.remove(&id)),
            }
        }
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < end, "{what}: got {} lines", self.lines.len());
            let batch = self.running.as_mut().expect("it runs").1.try_recv();
            match batch {
                Some(batch) => self.take(batch),
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// The lines that come next are these.
    fn expect(&mut self, name: &str, lines: &[&str]) {
        self.wait(name, |bench| bench.lines.len() >= bench.taken + lines.len());
        assert_eq!(self.lines[self.taken..], *lines, "{name}");
        self.taken += lines.len();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some((running, _)) = self.running.take() {
            running.stop();
        }
    }
}

enum Do {
    Start,
    /// Stops, and goes on where it was.
    Restart,
    Stop,
    Append(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Copy(&'static str, &'static str),
    Truncate(&'static str),
    /// Empties the file and writes at once, so that no empty file is ever seen.
    Rewrite(&'static str, &'static str),
    Remove(&'static str),
    Folder(&'static str),
    RemoveFolder(&'static str),
    /// Puts a pipe there.
    Pipe(&'static str),
    /// Gives the file a second name.
    Name(&'static str, &'static str),
    /// Compresses the file with the program of this name, which adds an ending to its name.
    Pack(&'static str, &'static str),
    /// Lets the clock of the file system go on.
    Tick,
    /// The first was last written when the second was.
    Same(&'static str, &'static str),
    /// Waits until the path is red, or until it is not.
    Red(&'static str, bool),
    Link(&'static str, &'static str),
    /// Waits until this many bytes were read.
    Seen(u64),
    Expect(&'static [&'static str]),
    /// Writes a line, and it comes.
    Line(&'static str, &'static str),
    /// Starts beside a file that has an old line, and the next line, `1`, comes.
    Follow(&'static str),
    /// Moves `a.log.1` to `a.log.2` and `a.log` to `a.log.1`.
    Up,
}

fn run(bench: &mut Bench, name: &str, steps: &[Do]) {
    let append = |path: PathBuf, text: &str| {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("a file");
        file.write_all(text.as_bytes()).expect("room on the disk");
    };
    for step in steps {
        match step {
            Do::Start => bench.start(false),
            Do::Restart => {
                bench.stop();
                bench.start(true);
            }
            Do::Stop => bench.stop(),
            Do::Append(path, text) => append(bench.path(path), text),
            Do::Rename(from, to) => fs::rename(bench.path(from), bench.path(to)).expect(name),
            Do::Copy(from, to) => drop(fs::copy(bench.path(from), bench.path(to)).expect(name)),
            Do::Truncate(path) => {
                drop(OpenOptions::new().write(true).truncate(true).open(bench.path(path)).expect(name));
            }
            Do::Rewrite(path, text) => fs::write(bench.path(path), text).expect(name),
            Do::Remove(path) => fs::remove_file(bench.path(path)).expect(name),
            Do::Folder(path) => fs::create_dir(bench.path(path)).expect(name),
            Do::RemoveFolder(path) => fs::remove_dir(bench.path(path)).expect(name),
            Do::Pipe(path) => {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, bench.path(path), rustix::fs::FileType::Fifo, mode, 0)
                    .expect(name);
            }
            Do::Name(path, other) => fs::hard_link(bench.path(path), bench.path(other)).expect(name),
            Do::Pack(program, path) => assert!(pack(program, &bench.path(path)), "{name}: {program} {path}"),
            Do::Same(path, other) => {
                let written = fs::metadata(bench.path(other)).and_then(|metadata| metadata.modified()).expect(name);
                File::open(bench.path(path)).and_then(|file| file.set_modified(written)).expect(name);
            }
            Do::Tick => thread::sleep(Duration::from_millis(12)),
            Do::Red(path, red) => {
                let about = bench.path(path).to_string_lossy().into_owned();
                bench.wait(name, |bench| {
                    bench.status.report().trouble.iter().any(|trouble| trouble.about == about) == *red
                });
            }
            Do::Link(target, link) => {
                let temporary = bench.path("link.new");
                symlink(bench.path(target), &temporary).expect(name);
                fs::rename(temporary, bench.path(link)).expect(name);
            }
            Do::Seen(bytes) => bench.wait(name, |bench| bench.status.bytes.get() == *bytes),
            Do::Expect(lines) => bench.expect(name, lines),
            Do::Line(path, text) => {
                append(bench.path(path), &format!("{text}\n"));
                bench.expect(name, &[text]);
            }
            Do::Follow(path) => {
                let old = "a line that is long enough to be known\n";
                run(bench, name, &[Do::Append(path, old), Do::Start, Do::Line(path, "1")]);
            }
            Do::Up => run(bench, name, &[Do::Rename("a.log.1", "a.log.2"), Do::Rename("a.log", "a.log.1")]),
        }
    }
}

#[test]
fn every_line_comes_once_whatever_happens_to_the_file() {
    use Do::*;
    // (name, pattern, what happens)
    let cases: &[(&str, &str, &[Do])] = &[
        (
            "what was there before the start is not read",
            "a.log",
            &[Append("a.log", "old\n"), Start, Line("a.log", "new")],
        ),
        (
            "renamed: the rest of the old file comes before the new one",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Append("a.log", "2\n"),
                Rename("a.log", "a.log.1"),
                Append("a.log.1", "3\n"),
                Append("a.log", "4\n"),
                Expect(&["2", "3", "4"]),
                Line("a.log.1", "late"),
            ],
        ),
        (
            "renamed without a successor for a while",
            "a.log",
            &[Append("a.log", ""), Start, Rename("a.log", "b"), Line("b", "1"), Line("a.log", "2")],
        ),
        (
            "renamed to a name that matches too: it is not read twice",
            "*.log",
            &[
                Append("a.log", "old line\n"),
                Start,
                Line("a.log", "first line"),
                Rename("a.log", "a-1.log"),
                Line("a.log", "second line"),
                Line("a-1.log", "third line"),
            ],
        ),
        (
            "emptied and written again",
            "a.log",
            &[
                Append("a.log", "a long line that was there before\n"),
                Start,
                Truncate("a.log"),
                Line("a.log", "1"),
                Line("a.log", "2"),
            ],
        ),
        (
            "emptied and grown beyond the old size before anybody looks",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Rewrite("a.log", "a first line\nand a second\n"),
                Expect(&["a first line", "and a second"]),
            ],
        ),
        (
            "copied and emptied: the rest is read from the copy",
            "a.log",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Line("a.log", "first"),
                Append("a.log", "second\n"),
                Copy("a.log", "a.log.1"),
                Truncate("a.log"),
                Append("a.log", "third\n"),
                Expect(&["second", "third"]),
            ],
        ),
        (
            "copied to a name that matches too: it is not read twice",
            "*.log",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Line("a.log", "first"),
                Copy("a.log", "a-1.log"),
                Truncate("a.log"),
                Line("a.log", "second"),
                Line("a.log", "third"),
            ],
        ),
        (
            "an archive that is followed, grew and moved on compressed while nobody read",
            "a.log*",
            &[
                Follow("a.log"),
                Rename("a.log", "a.log.1"),
                Line("a.log", "2, the first of its file"),
                Line("a.log.1", "late"),
                Stop,
                Append("a.log.1", "later\n"),
                Tick,
                Pack("gzip", "a.log.1"),
                Rename("a.log.1.gz", "a.log.2.gz"),
                Rename("a.log", "a.log.1"),
                Pack("gzip", "a.log.1"),
                Restart,
                Expect(&["later"]),
                Line("a.log", "3"),
            ],
        ),
        (
            "rotated twice within a tick of the clock while nobody read, the first of them compressed",
            "a.log",
            &[
                Follow("a.log"),
                Stop,
                Tick,
                Append("a.log", "2\n"),
                Rename("a.log", "a.log.1"),
                Append("a.log", "3\n"),
                Pack("gzip", "a.log.1"),
                Rename("a.log.1.gz", "a.log.2.gz"),
                Rename("a.log", "a.log.1"),
                Same("a.log.1", "a.log.2.gz"),
                Append("a.log", "4\n"),
                Restart,
                Expect(&["2", "3", "4"]),
            ],
        ),
        (
            "the same, the second of them compressed",
            "a.log",
            &[
                Follow("a.log"),
                Stop,
                Tick,
                Append("a.log", "2\n"),
                Rename("a.log", "a.log.2"),
                Append("a.log", "3\n"),
                Rename("a.log", "a.log.1"),
                Pack("gzip", "a.log.1"),
                Same("a.log.1.gz", "a.log.2"),
                Append("a.log", "4\n"),
                Restart,
                Expect(&["2", "3", "4"]),
            ],
        ),
        (
            "removed and made anew",
            "a.log",
            &[Append("a.log", "old\n"), Start, Line("a.log", "1"), Remove("a.log"), Line("a.log", "2")],
        ),
        (
            "replaced by an editor: only what is new is read",
            "a.log",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Line("a.log", "first"),
                Copy("a.log", "edited"),
                Append("edited", "second\n"),
                Rename("edited", "a.log"),
                Expect(&["second"]),
            ],
        ),
        ("a file that comes later is read from its beginning", "a.log", &[Start, Line("a.log", "1")]),
        (
            "a file of a pattern comes later, excluded ones do not count",
            "*",
            &[Append("other", "x\n"), Start, Append("b.gz", "no\n"), Line("b.log", "yes, this one")],
        ),
        ("a folder of a pattern comes later", "*/access.log", &[Start, Folder("site"), Line("site/access.log", "1")]),
        (
            "two files that begin alike are both read",
            "*.log",
            &[
                Append("a.log", "# header\nold\n"),
                Start,
                Line("b.log", "# header"),
                Append("b.log", "b\n"),
                Append("b.log", "c\n"),
                Expect(&["b", "c"]),
            ],
        ),
        (
            "a line is held until it ends",
            "a.log",
            &[
                Append("a.log", ""),
                Start,
                Append("a.log", "begun"),
                Append("a.log", " and "),
                Append("a.log", "ended\r\n\nnext\n"),
                Expect(&["begun and ended", "next"]),
            ],
        ),
        (
            "a line that has begun before the start is read whole",
            "a.log",
            &[Append("a.log", "old\nhalf "), Start, Append("a.log", "a line\n"), Expect(&["half a line"])],
        ),
        (
            "the line that has not ended is handed out when the file is over",
            "a.log",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Append("a.log", "no end"),
                Seen(6),
                Truncate("a.log"),
                Append("a.log", "next\n"),
                Expect(&["no end", "next"]),
            ],
        ),
        (
            "a link that leads elsewhere: the new file is read from its beginning",
            "current",
            &[
                Append("a", "old\n"),
                Link("a", "current"),
                Start,
                Line("a", "1"),
                Append("b", "2\n"),
                Link("b", "current"),
                Expect(&["2"]),
                Line("a", "late"),
            ],
        ),
        (
            "a restart goes on where it was",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Append("a.log", "1\nunfini"),
                Expect(&["1"]),
                Stop,
                Append("a.log", "shed\n2\n"),
                Restart,
                Expect(&["unfinished", "2"]),
                Line("a.log", "3"),
            ],
        ),
        (
            "renamed while nobody read",
            "a.log",
            &[
                Follow("a.log"),
                Stop,
                Append("a.log", "2\n"),
                Rename("a.log", "a.log.1"),
                Append("a.log", "3\n"),
                Restart,
                Expect(&["2", "3"]),
                Line("a.log", "4"),
            ],
        ),
        (
            "copied and emptied while nobody read",
            "*.log",
            &[
                Follow("a.log"),
                Stop,
                Append("a.log", "2\n"),
                Copy("a.log", "a-1.log"),
                Truncate("a.log"),
                Append("a.log", "3\n"),
                Restart,
                Expect(&["2", "3"]),
                Line("a.log", "4"),
            ],
        ),
        (
            "renamed several times while nobody read",
            "a.log",
            &[
                Follow("a.log"),
                Stop,
                Append("a.log", "2\n"),
                Tick,
                Rename("a.log", "a.log.1"),
                Append("a.log", "3\n"),
                Tick,
                Up,
                Append("a.log", "4\n"),
                Tick,
                Rename("a.log.2", "a.log.3"),
                Up,
                Append("a.log", "5\n"),
                Restart,
                Expect(&["2", "3", "4", "5"]),
                Restart,
                Line("a.log", "6"),
            ],
        ),
        (
            "renamed and compressed while nobody read",
            "a.log*",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Append("a.log", "1\nunfini"),
                Expect(&["1"]),
                Stop,
                Append("a.log", "shed\n2\n"),
                Tick,
                Rename("a.log", "a.log-20261121"),
                Pack("gzip", "a.log-20261121"),
                Append("a.log", "3\n"),
                Tick,
                Rename("a.log", "a.log-20261122"),
                Pack("xz", "a.log-20261122"),
                Append("a.log", "4\n"),
                Restart,
                Expect(&["unfinished", "2", "3", "4"]),
                Restart,
                Line("a.log", "5"),
            ],
        ),
        (
            "copied, emptied and compressed several times while nobody read",
            "a.log",
            &[
                Follow("a.log"),
                Stop,
                Append("a.log", "2\n"),
                Copy("a.log", "a.log.1"),
                Truncate("a.log"),
                Append("a.log", "3\n"),
                Tick,
                Rename("a.log.1", "a.log.2"),
                Pack("gzip", "a.log.2"),
                Copy("a.log", "a.log.1"),
                Truncate("a.log"),
                Append("a.log", "4\n"),
                Restart,
                Expect(&["2", "3", "4"]),
                Restart,
                Line("a.log", "5"),
            ],
        ),
        (
            "compressed under our eyes: it is not read again",
            "a.log*",
            &[
                Follow("a.log"),
                Rename("a.log", "a.log.1"),
                Pack("gzip", "a.log.1"),
                Line("a.log", "2"),
                Rename("a.log.1.gz", "a.log.2.gz"),
                Rename("a.log", "a.log.1"),
                Line("a.log", "3"),
            ],
        ),
        (
            "copied to a name that matches, again and again",
            "a.log*",
            &[
                Follow("a.log"),
                Copy("a.log", "a.log.1"),
                Truncate("a.log"),
                Line("a.log", "2 is longer"),
                Rename("a.log.1", "a.log.2"),
                Copy("a.log", "a.log.1"),
                Tick,
                Truncate("a.log"),
                Line("a.log", "3"),
                Rename("a.log.2", "a.log.3"),
                Rename("a.log.1", "a.log.2"),
                Line("a.log", "4 is the last line"),
                Copy("a.log", "a.log.1"),
                Tick,
                Truncate("a.log"),
                Line("a.log", "5"),
            ],
        ),
        (
            "older archives are not read when reading begins to remember",
            "a.log",
            &[
                Append("a.log.2", "an old line that nobody asked for\n"),
                Pack("gzip", "a.log.2"),
                Append("a.log.1", "another old line that nobody asked for\n"),
                Tick,
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Stop,
                Tick,
                Rename("a.log.1", "a.log.3"),
                Rename("a.log", "a.log.1"),
                Append("a.log", "2\n"),
                Restart,
                Expect(&["2"]),
            ],
        ),
        (
            "a folder in the place of the file is red, a file after it is read",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Rename("a.log", "b"),
                Folder("a.log"),
                Red("a.log", true),
                Line("b", "2"),
                RemoveFolder("a.log"),
                Line("a.log", "3"),
                Red("a.log", false),
            ],
        ),
        (
            "a pipe in the place of the file is red and holds nobody up",
            "a.log",
            &[Pipe("a.log"), Start, Red("a.log", true), Remove("a.log"), Line("a.log", "1"), Red("a.log", false)],
        ),
        (
            "a file that the device cannot give is red, the others are read, and it is read when it can be",
            "*.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Link("/proc/self/mem", "b.log"),
                Red("b.log", true),
                Line("a.log", "2"),
                Remove("b.log"),
                Append("b.log", "a line of another file\n"),
                Expect(&["a line of another file"]),
                Red("b.log", false),
            ],
        ),
        (
            "deleted while it is read: it is read to its end",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Append("a.log", "1\n2\n"),
                Remove("a.log"),
                Append("a.log", "3\n"),
                Expect(&["1", "2", "3"]),
            ],
        ),
        (
            "a second name of the same file is not read twice",
            "*.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Name("a.log", "b.log"),
                Line("b.log", "2"),
                Remove("a.log"),
                Line("b.log", "3"),
            ],
        ),
        (
            "written to between copy and truncation: what the copy lacks was read, and the copy is not",
            "a.log",
            &[
                Append("a.log", LONG),
                Start,
                Line("a.log", "1"),
                Tick,
                Copy("a.log", "a.log.1"),
                Line("a.log", "2"),
                Truncate("a.log"),
                Line("a.log", "3"),
                Tick,
                Up,
                Line("a.log", "4"),
                Restart,
                Line("a.log", "5"),
            ],
        ),
        (
            "the same with a short log, and truncated while nobody read",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Tick,
                Copy("a.log", "a.log.1"),
                Line("a.log", "2"),
                Stop,
                Truncate("a.log"),
                Append("a.log", "3\n"),
                Restart,
                Expect(&["3"]),
                Tick,
                Up,
                Append("a.log", "4\n"),
                Restart,
                Expect(&["4"]),
            ],
        ),
        (
            "copied, emptied and compressed more than once while nobody read",
            "a.log",
            &[
                Append("a.log", LONG),
                Start,
                Append("a.log", "1\n"),
                Expect(&["1"]),
                Stop,
                Append("a.log", "2\n"),
                Tick,
                Copy("a.log", "a.log.1"),
                Truncate("a.log"),
                Pack("gzip", "a.log.1"),
                Append("a.log", "3\n"),
                Tick,
                Rename("a.log.1.gz", "a.log.2.gz"),
                Copy("a.log", "a.log.1"),
                Truncate("a.log"),
                Pack("gzip", "a.log.1"),
                Tick,
                Append("a.log", "4\n"),
                Restart,
                Expect(&["2", "3", "4"]),
            ],
        ),
        (
            "a copy from before the start is nobody's successor",
            "a.log",
            &[
                Append("a.log", "an old line that nobody asked for\n"),
                Tick,
                Copy("a.log", "a.log.1"),
                Truncate("a.log"),
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Tick,
                Up,
                Line("a.log", "2"),
            ],
        ),
        (
            "copied and not yet emptied when reading begins: it is read once",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Stop,
                Tick,
                Rename("a.log", "a.log.2"),
                Append("a.log", "a line that is long enough to be known\n"),
                Tick,
                Copy("a.log", "a.log.1"),
                Restart,
                Expect(&["a line that is long enough to be known"]),
                Truncate("a.log"),
                Line("a.log", "2"),
                Restart,
                Line("a.log", "3"),
            ],
        ),
        (
            "its folder was away while reading began: it goes on where it was",
            "site/a.log",
            &[
                Folder("site"),
                Append("site/a.log", "a line that is long enough to be known\n"),
                Start,
                Line("site/a.log", "1"),
                Stop,
                Rename("site", "elsewhere"),
                Restart,
                Append("elsewhere/a.log", "2\n"),
                Tick,
                Rename("elsewhere", "site"),
                Expect(&["2"]),
                Line("site/a.log", "3"),
            ],
        ),
        (
            "removed while nobody read",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Line("a.log", "1"),
                Stop,
                Remove("a.log"),
                Append("a.log", "2\n"),
                Restart,
                Expect(&["2"]),
            ],
        ),
    ];
    thread::scope(|scope| {
        for (name, pattern, steps) in cases {
            for poll in [false, true] {
                scope.spawn(move || {
                    let mut bench = Bench::new(pattern, poll);
                    run(&mut bench, &format!("{name} (poll: {poll})"), steps);
                    bench.stop();
                    assert_eq!(bench.lines.len(), bench.taken, "{name}: more lines than there are: {:?}", bench.lines);
                });
            }
        }
    });
}

#[test]
fn what_was_written_while_nobody_read_is_backlog() {
    let mut bench = Bench::new("a.log", false);
    run(
        &mut bench,
        "backlog",
        &[Do::Append("a.log", "old\n"), Do::Start, Do::Stop, Do::Append("a.log", "1\n2\n"), Do::Restart],
    );
    bench.expect("backlog", &["1", "2"]);
    run(&mut bench, "live", &[Do::Append("a.log", "3\n"), Do::Expect(&["3"])]);
    assert_eq!(bench.backlog, 2);
}

#[test]
fn the_number_of_a_compressed_file_may_be_that_of_a_copy_of_another_log_now() {
    use Do::*;
    let mut bench = Bench::new("*.log", false);
    let before = [
        Append("a.log", "a line that is long enough to be known\n"),
        Append("b.log", "another line that is long enough\n"),
        Start,
        Line("a.log", "1"),
        Line("b.log", "2"),
        Stop,
        Append("b.log", "3\n"),
        Rename("b.log", "b.log.1"),
        Pack("gzip", "b.log.1"),
        Tick,
        Copy("a.log", "a.log.1"),
        Truncate("a.log"),
    ];
    run(&mut bench, "before", &before);
    let copy = FileId::of(&fs::metadata(bench.path("a.log.1")).expect("our file"));
    let is_b = |place: &FilePlace| place.path.ends_with("b.log");
    let place = bench.places.values().find(|place| is_b(place)).cloned().expect("it was read");
    bench.places.remove(&place.id);
    bench.places.insert(copy, FilePlace { id: copy, ..place });
    run(&mut bench, "rest", &[Restart, Expect(&["3"]), Stop]);
    assert!(bench.places.contains_key(&copy), "the copy is known: {:?}", bench.places);
    run(&mut bench, "after", &[Append("a.log", "4\n"), Restart, Expect(&["4"]), Stop]);
    assert_eq!(bench.lines.len(), bench.taken, "{:?}", bench.lines);
}

#[test]
fn a_path_that_gets_another_file_while_it_is_looked_at_is_looked_at_again() {
    let mut bench = Bench::new("a.log", true);
    run(&mut bench, "start", &[Do::Append("a.log", "old\n"), Do::Append("b.log", "1\n")]);
    let mut source = bench.source(false);
    let (sender, receiver) = single(4);
    let mut out = Outlet::new(0, sender, Arc::default());
    let path = bench.path("a.log");
    let looked_at = fs::metadata(&path).expect("our file");
    fs::rename(bench.path("b.log"), &path).expect("our file");
    source.started = true;
    source.appear(&path, &looked_at, None, &mut out).expect("somebody listens");
    assert!(source.tails.is_empty(), "a file is known by its own number");
    source.look(&path, &mut out).expect("somebody listens");
    let now = FileId::of(&fs::metadata(&path).expect("our file"));
    assert_eq!(source.tails.get(&now).map(Tail::id), Some(now));
    drop(receiver);
}

#[test]
fn a_file_that_is_emptied_while_it_is_looked_for_is_looked_for_again() {
    use Do::*;
    let mut bench = Bench::new("a.log", true);
    run(&mut bench, "before", &[Follow("a.log"), Stop, Append("a.log", "2\n")]);
    let place = bench.places.values().next().cloned().expect("it was read");
    let found = rotate::find(&place).expect("it is there");
    run(&mut bench, "meanwhile", &[Copy("a.log", "a.log.1"), Truncate("a.log"), Append("a.log", "3\n")]);
    let mut source = bench.source(true);
    let (sender, receiver) = single(64);
    let mut out = Outlet::new(0, sender, Arc::default());
    let path = bench.path("a.log");
    source.go_on(&path, &place, found, true, &mut out).expect("somebody listens");
    source.read_all(place.id, &mut out).expect("somebody listens");
    out.send().expect("somebody listens");
    drop(out);
    let lines: Vec<String> = receiver.iter().flat_map(|batch| batch.lines).map(|line| line.raw.into()).collect();
    assert_eq!(lines, ["2", "3"]);
}

#[test]
fn what_comes_and_goes_after_a_compressed_file_is_read() {
    use Do::*;
    let mut bench = Bench::new("a.log", true);
    let before = [
        Follow("a.log"),
        Stop,
        Append("a.log", "2\n"),
        Tick,
        Rename("a.log", "a.log.1"),
        Pack("gzip", "a.log.1"),
        Tick,
    ];
    run(&mut bench, "before", &before);
    let mut source = bench.source(true);
    let (sender, receiver) = single(64);
    let mut out = Outlet::new(0, sender, Arc::default());
    source.scan(&mut out).expect("somebody listens");
    let meanwhile = [
        Append("a.log", "3\n"),
        Tick,
        Rename("a.log.1.gz", "a.log.2.gz"),
        Rename("a.log", "a.log.1"),
        Append("a.log", "4\n"),
    ];
    run(&mut bench, "meanwhile", &meanwhile);
    source.scan(&mut out).expect("somebody listens");
    out.send().expect("somebody listens");
    drop(out);
    let lines: Vec<String> = receiver.iter().flat_map(|batch| batch.lines).map(|line| line.raw.into()).collect();
    assert_eq!(lines, ["2", "3", "4"]);
}

#[test]
fn what_a_log_became_is_read_once_where_its_archives_are_followed_too() {
    use Do::*;
    let mut bench = Bench::new("a.log*", true);
    let before = [Follow("a.log"), Stop, Append("a.log", "2, of the first file of the name\n"), Tick];
    run(&mut bench, "before", &before);
    let mut source = bench.source(true);
    let (sender, receiver) = single(64);
    let mut out = Outlet::new(0, sender, Arc::default());
    source.scan(&mut out).expect("somebody listens");
    let seen = [Rename("a.log", "a.log.1"), Append("a.log", "3, of the second file of the name\n")];
    run(&mut bench, "a rotation that is seen", &seen);
    source.scan(&mut out).expect("somebody listens");
    let unseen = [
        Tick,
        Pack("gzip", "a.log.1"),
        Rename("a.log.1.gz", "a.log.2.gz"),
        Rename("a.log", "a.log.1"),
        Pack("gzip", "a.log.1"),
        Append("a.log", "4\n"),
    ];
    run(&mut bench, "one whose steps nobody sees", &unseen);
    source.tick(true, &mut out).expect("somebody listens");
    out.send().expect("somebody listens");
    drop(out);
    let lines: Vec<String> = receiver.iter().flat_map(|batch| batch.lines).map(|line| line.raw.into()).collect();
    assert_eq!(lines, ["2, of the first file of the name", "3, of the second file of the name", "4"]);
}

#[test]
fn an_unreadable_path_is_red_and_the_others_are_read() {
    let mut bench = Bench::new("*.log", false);
    run(&mut bench, "loop", &[Do::Append("a.log", ""), Do::Link("no-such-file", "b.log"), Do::Start]);
    run(&mut bench, "loop", &[Do::Append("a.log", "1\n"), Do::Expect(&["1"])]);
}

#[test]
fn long_and_invalid_lines_are_cut_counted_and_repaired() {
    let mut bench = Bench::new("a.log", false);
    run(&mut bench, "long", &[Do::Append("a.log", ""), Do::Start]);
    let long = [b"x".repeat(3 * model::line::MAX_LINE).as_slice(), b"\nbad \xff\xfe byte\n"].concat();
    fs::write(bench.path("a.log"), &long).expect("room on the disk");
    bench.wait("two lines", |bench| bench.lines.len() == 2);
    assert_eq!(bench.lines[0].len(), model::line::MAX_LINE);
    assert_eq!(bench.lines[1], "bad \u{fffd}\u{fffd} byte");
    assert_eq!(bench.status.cut.get(), 1);
    assert_eq!(bench.status.bytes.get(), long.len() as u64);
}

/// A writer that rotates at random; every line must come exactly once, in order. `ROTATION_SEEDS=200` makes it a long run.
#[test]
fn random_rotations_lose_and_double_nothing() {
    let seeds = std::env::var("ROTATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(6);
    for seed in 0..seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new("a.log", seed % 4 == 3);
        run(&mut bench, "random", &[Do::Append("a.log", "the first line of all, read by nobody\n"), Do::Start]);
        let (mut expected, mut history) = (Vec::new(), Vec::new());
        for round in 0..16 {
            let known = expected.len();
            for _ in 0..random.random_range(1..60) {
                let text =
                    format!("line {} of seed {seed} {}", expected.len(), "x".repeat(random.random_range(0..300)));
                let (start, end) = text.split_at(random.random_range(0..text.len()));
                let mut file = OpenOptions::new().append(true).create(true).open(bench.path("a.log")).expect("a file");
                file.write_all(start.as_bytes()).expect("room on the disk");
                if random.random_bool(0.1) {
                    thread::sleep(Duration::from_micros(random.random_range(0..2000)));
                }
                file.write_all(format!("{end}\n").as_bytes()).expect("room on the disk");
                expected.push(text);
            }
            let old = format!("a.log.{round}");
            let path = |name: &str| bench.folder.path().join(name);
            let kind = random.random_range(0..7);
            history.push((round, kind, expected.len()));
            match kind {
                0 => {
                    // Births of files are told apart by a coarse clock.
                    thread::sleep(Duration::from_millis(12));
                    fs::rename(path("a.log"), path(&old)).expect("a file");
                    continue;
                }
                1 => {
                    // What is emptied before anybody has looked at it looks like nothing that is known.
                    bench.wait("a line of this content", |bench| bench.lines.len() > known);
                    fs::copy(bench.path("a.log"), bench.path(&old)).expect("a file");
                    fs::write(bench.path("a.log"), "").expect("a file");
                    thread::sleep(Duration::from_millis(12));
                }
                2 => {
                    bench.stop();
                    bench.start(true);
                }
                3 => {
                    bench.stop();
                    thread::sleep(Duration::from_millis(12));
                    fs::rename(bench.path("a.log"), bench.path(&old)).expect("a file");
                    fs::write(bench.path("a.log"), "").expect("a file");
                    bench.start(true);
                }
                4 => {
                    bench.stop();
                    for part in ["-1", "-2"] {
                        thread::sleep(Duration::from_millis(12));
                        fs::rename(bench.path("a.log"), bench.path(&format!("{old}{part}"))).expect("a file");
                        let text = format!("line {} of seed {seed} written while nobody read", expected.len());
                        fs::write(bench.path("a.log"), format!("{text}\n")).expect("room on the disk");
                        expected.push(text);
                        assert!(pack("gzip", &bench.path(&format!("{old}{part}"))));
                    }
                    bench.start(true);
                }
                5 => {
                    bench.wait("a line of this content", |bench| bench.lines.len() > known);
                    thread::sleep(Duration::from_millis(12));
                    fs::rename(bench.path("a.log"), bench.path(&old)).expect("a file");
                    assert!(pack("gzip", &bench.path(&old)));
                }
                _ => continue,
            }
            let told = format!("{} lines of seed {seed} after {history:?}", expected.len());
            bench.wait(&told, |bench| bench.lines.len() >= expected.len());
        }
        let all = format!("{} lines of seed {seed} after {history:?}", expected.len());
        bench.wait(&all, |bench| bench.lines.len() >= expected.len());
        bench.stop();
        let differs = bench.lines.iter().zip(&expected).position(|(line, expected)| line != expected);
        let got = differs.map(|at| (bench.lines[at].get(..30), expected[at].get(..30)));
        let told = format!("seed {seed}: {got:?} after {history:?}");
        assert_eq!((differs, bench.lines.len()), (None, expected.len()), "{told}");
    }
}
