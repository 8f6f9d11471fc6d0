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

/// How long a line may take on a machine that does other things too.
const DEADLINE: Duration = Duration::from_secs(30);

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

    /// Opens the files that match, where they were left if `remembered`, and starts reading.
    fn start(&mut self, remembered: bool) {
        let pattern = PathPattern::new(&self.path(self.pattern).to_string_lossy()).expect("a valid pattern");
        let files = Files {
            patterns: vec![pattern],
            exclude: vec![Regex::new(r"\.gz$").expect("a valid regex")],
            labels: Vec::new(),
            time_machine: false,
        };
        let places: Vec<FilePlace> = if remembered { self.places.values().cloned().collect() } else { Vec::new() };
        let moment = remembered.then(SystemTime::now);
        let follow = Follow { poll: Some(self.poll), rescan: None };
        let mut source = FileSource::new(files, follow, places, moment);
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
    Link(&'static str, &'static str),
    /// Waits until this many bytes were read.
    Seen(u64),
    Expect(&'static [&'static str]),
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
            Do::Link(target, link) => {
                let temporary = bench.path("link.new");
                symlink(bench.path(target), &temporary).expect(name);
                fs::rename(temporary, bench.path(link)).expect(name);
            }
            Do::Seen(bytes) => bench.wait(name, |bench| bench.status.bytes.get() == *bytes),
            Do::Expect(lines) => bench.expect(name, lines),
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
            &[Append("a.log", "old\n"), Start, Append("a.log", "new\n"), Expect(&["new"])],
        ),
        (
            "renamed: the rest of the old file comes before the new one",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Append("a.log", "1\n"),
                Expect(&["1"]),
                Append("a.log", "2\n"),
                Rename("a.log", "a.log.1"),
                Append("a.log.1", "3\n"),
                Append("a.log", "4\n"),
                Expect(&["2", "3", "4"]),
                Append("a.log.1", "late\n"),
                Expect(&["late"]),
            ],
        ),
        (
            "renamed without a successor for a while",
            "a.log",
            &[
                Append("a.log", ""),
                Start,
                Rename("a.log", "b"),
                Append("b", "1\n"),
                Expect(&["1"]),
                Append("a.log", "2\n"),
                Expect(&["2"]),
            ],
        ),
        (
            "renamed to a name that matches too: it is not read twice",
            "*.log",
            &[
                Append("a.log", "old line\n"),
                Start,
                Append("a.log", "first line\n"),
                Expect(&["first line"]),
                Rename("a.log", "a-1.log"),
                Append("a.log", "second line\n"),
                Expect(&["second line"]),
                Append("a-1.log", "third line\n"),
                Expect(&["third line"]),
            ],
        ),
        (
            "emptied and written again",
            "a.log",
            &[
                Append("a.log", "a long line that was there before\n"),
                Start,
                Truncate("a.log"),
                Append("a.log", "1\n"),
                Expect(&["1"]),
                Append("a.log", "2\n"),
                Expect(&["2"]),
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
                Append("a.log", "first\n"),
                Expect(&["first"]),
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
                Append("a.log", "first\n"),
                Expect(&["first"]),
                Copy("a.log", "a-1.log"),
                Truncate("a.log"),
                Append("a.log", "second\n"),
                Expect(&["second"]),
                Append("a.log", "third\n"),
                Expect(&["third"]),
            ],
        ),
        (
            "removed and made anew",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Append("a.log", "1\n"),
                Expect(&["1"]),
                Remove("a.log"),
                Append("a.log", "2\n"),
                Expect(&["2"]),
            ],
        ),
        (
            "replaced by an editor: only what is new is read",
            "a.log",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Append("a.log", "first\n"),
                Expect(&["first"]),
                Copy("a.log", "edited"),
                Append("edited", "second\n"),
                Rename("edited", "a.log"),
                Expect(&["second"]),
            ],
        ),
        (
            "a file that comes later is read from its beginning",
            "a.log",
            &[Start, Append("a.log", "1\n"), Expect(&["1"])],
        ),
        (
            "a file of a pattern comes later, excluded ones do not count",
            "*",
            &[
                Append("other", "x\n"),
                Start,
                Append("b.gz", "no\n"),
                Append("b.log", "yes, this one\n"),
                Expect(&["yes, this one"]),
            ],
        ),
        (
            "a folder of a pattern comes later",
            "*/access.log",
            &[Start, Folder("site"), Append("site/access.log", "1\n"), Expect(&["1"])],
        ),
        (
            "two files that begin alike are both read",
            "*.log",
            &[
                Append("a.log", "# header\nold\n"),
                Start,
                Append("b.log", "# header\n"),
                Expect(&["# header"]),
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
                Append("a", "1\n"),
                Expect(&["1"]),
                Append("b", "2\n"),
                Link("b", "current"),
                Expect(&["2"]),
                Append("a", "late\n"),
                Expect(&["late"]),
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
                Append("a.log", "3\n"),
                Expect(&["3"]),
            ],
        ),
        (
            "renamed while nobody read",
            "a.log",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Append("a.log", "1\n"),
                Expect(&["1"]),
                Stop,
                Append("a.log", "2\n"),
                Rename("a.log", "a.log.1"),
                Append("a.log", "3\n"),
                Restart,
                Expect(&["2", "3"]),
                Append("a.log", "4\n"),
                Expect(&["4"]),
            ],
        ),
        (
            "copied and emptied while nobody read",
            "*.log",
            &[
                Append("a.log", "a line that is long enough to be known\n"),
                Start,
                Append("a.log", "1\n"),
                Expect(&["1"]),
                Stop,
                Append("a.log", "2\n"),
                Copy("a.log", "a-1.log"),
                Truncate("a.log"),
                Append("a.log", "3\n"),
                Restart,
                Expect(&["2", "3"]),
                Append("a.log", "4\n"),
                Expect(&["4"]),
            ],
        ),
        (
            "removed while nobody read",
            "a.log",
            &[
                Append("a.log", "old\n"),
                Start,
                Append("a.log", "1\n"),
                Expect(&["1"]),
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

/// A writer that rotates at random; every line must come exactly once, in order.
#[test]
fn random_rotations_lose_and_double_nothing() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new("a.log", seed == 3);
        run(&mut bench, "random", &[Do::Append("a.log", "the first line of all, read by nobody\n"), Do::Start]);
        let mut expected = Vec::new();
        for round in 0..12 {
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
            // A content that comes and goes between two looks is lost to anybody; no rotation is that fast.
            bench.wait("a line of this content", |bench| bench.lines.len() > known);
            let old = format!("a.log.{round}");
            match random.random_range(0..5) {
                0 => fs::rename(bench.path("a.log"), bench.path(&old)).expect("a file"),
                1 => {
                    fs::copy(bench.path("a.log"), bench.path(&old)).expect("a file");
                    fs::write(bench.path("a.log"), "").expect("a file");
                }
                2 => {
                    bench.stop();
                    bench.start(true);
                }
                3 => {
                    bench.stop();
                    fs::rename(bench.path("a.log"), bench.path(&old)).expect("a file");
                    fs::write(bench.path("a.log"), "").expect("a file");
                    bench.start(true);
                }
                _ => continue,
            }
            bench.wait("the lines before the rotation", |bench| bench.lines.len() >= expected.len());
        }
        bench.wait("all lines", |bench| bench.lines.len() >= expected.len());
        bench.stop();
        let differs = bench.lines.iter().zip(&expected).position(|(line, expected)| line != expected);
        assert_eq!((differs, bench.lines.len()), (None, expected.len()), "seed {seed}");
    }
}
