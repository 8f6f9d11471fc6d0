//! What the targets share: rules from text, lines through them, and the comparisons that tell right from wrong.
//!
//! A target that only waits for a panic finds little in safe code. So wherever there are two ways to an answer (few nodes asked or
//! all of them, a shared result or a new one, one thread or two), both are gone and compared.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use agent::acquisition::Batch;
use agent::acquisition::lines::Lines;
use agent::load::{Folders, RuleFile, RuleFiles};
use agent::parse::{Scene, Worker};
use agent::ruleset::RuleSet;
use agent::world::Outside;
use expr::files::Files;
use expr::{Host, Value};
use jiff::Timestamp;
use model::{AllowSet, Event, Line, Origin};
use parsers::{Library, Outcome, YearRule};
use scenarios::{HashKey, Pour};

/// What separates the parts of an input that has several: a line of three equals signs.
pub const PART: &str = "\n===\n";

/// The parts of an input, as many as are asked for; what is missing is empty.
pub fn parts<const N: usize>(input: &str) -> [&str; N] {
    let mut parts = input.splitn(N, PART);
    std::array::from_fn(|_| parts.next().unwrap_or(""))
}

/// The patterns that come with the binary.
pub fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut library = Library::default();
        for file in RuleFiles::default().with_shipped_patterns().patterns {
            library.add_file(&file.text).expect("the shipped patterns are good");
        }
        library
    })
}

/// The rules that come with the binary; with `FUZZ_RULES` those of that folder, such as a hub.
pub fn all_rules() -> Arc<RuleSet> {
    let folder = std::env::var_os("FUZZ_RULES").map(PathBuf::from);
    let from = Folders { shipped: folder.is_none(), folders: folder.into_iter().collect() };
    Arc::new(RuleSet::build(&RuleFiles::read(&from).with_shipped_patterns()).rules)
}

/// A rule file of this text.
pub fn file(stage: &str, text: &str) -> RuleFile {
    RuleFile::local("fuzz.yaml", stage, text.to_owned())
}

/// The moment at which everything happens.
pub const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// What a worker looks at.
pub fn scene(rules: &Arc<RuleSet>) -> Scene {
    Scene {
        stashes: Arc::new(rules.stashes()),
        rules: Arc::clone(rules),
        allow: Arc::new(AllowSet::new([])),
        key: HashKey::new([7; 16]),
        year: YearRule::Latest,
        outside: Outside::default(),
        measure: false,
    }
}

/// A line of a log of this kind, replayed.
pub fn line(kind: &str, raw: &str) -> Line {
    let origin = Origin {
        src: "fuzz.log".into(),
        module: "file".into(),
        labels: vec![("type".into(), kind.into())],
        time_machine: true,
        ..Origin::default()
    };
    Line { raw: raw.into(), origin: Arc::new(origin), time: NOW, offset: 0 }
}

/// Takes a line through `rules` twice: asking only the nodes and scenarios that could want it, and asking all. Both must come to
/// the same end.
pub fn few_and_all(rules: &Arc<RuleSet>, line: &Line) -> Vec<Pour> {
    // Each has stashes of its own, so that the second does not find what the first left.
    let (_, outcome, _, all) = Worker::new().trace(line, &scene(rules), NOW);
    let few = Worker::new().parse(&batch(std::slice::from_ref(line)), &scene(rules));
    let fates = &few.fates;
    let ends = (fates.parsed, fates.whitelisted, fates.unparsed, fates.failed);
    let expected = match outcome {
        Outcome::Parsed => (1, 0, 0, 0),
        Outcome::Whitelisted => (0, 1, 0, 0),
        Outcome::Unparsed { .. } => (0, 0, 1, 0),
        Outcome::Failed { .. } => (0, 0, 0, 1),
    };
    assert_eq!(ends, expected, "asking few nodes is asking all");
    let shown = |pours: &[Pour]| pours.iter().map(|pour| (pour.scenario, pour.group.to_string())).collect::<Vec<_>>();
    assert_eq!(shown(&few.pours), shown(&all), "asking few scenarios is asking all");
    few.pours
}

/// A batch of lines.
pub fn batch(all: &[Line]) -> Batch {
    let mut lines = Lines::default();
    all.iter().for_each(|line| lines.push(line.into()));
    Batch { source: 0, sequence: 0, lines, backlog: false, caught_up: true, steps: Vec::new(), read_at: NOW }
}

/// A world with nothing in it but the time.
#[derive(Debug, Default)]
pub struct Nowhere(Files);

impl Host for Nowhere {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn files(&self) -> &Files {
        &self.0
    }
}

/// An event as expressions find it: three fields of text, and the same text where types are not known.
pub fn event(table: &Arc<model::FieldTable>, texts: [&str; 3]) -> Event {
    let mut event = Event::new(Arc::clone(table));
    event.start_line(&line("fuzz", texts[0]));
    event.set_time(model::EventTime::utc(NOW));
    for (key, text) in ["a", "b", "c"].into_iter().zip(texts) {
        event.set_named(model::fields::PARSED, key, text);
        event.set_named(model::fields::META, key, text);
    }
    let same = serde_json::json!({ "a": texts[0], "b": texts[1], "c": texts[2] });
    event.unmarshal("u", expr::Stored::Json(same)).expect("there is nothing yet");
    event
}

/// A result as text, errors without their words: where a way is shorter it may say less.
pub fn shown(result: &Result<Value<'_>, expr::EvalError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(_) => "error".to_owned(),
    }
}
