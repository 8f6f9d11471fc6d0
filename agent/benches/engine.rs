//! What the parts of the engine cost one by one, on lines made here: grok, expressions, dispatch, buckets.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use agent::acquisition::Batch;
use agent::load::{Folders, RuleFiles};
use agent::parse::{Scene, Worker};
use agent::ruleset::RuleSet;
use agent::world::{Outside, World};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use expr::{Compiler, Env, Value};
use jiff::Timestamp;
use model::{AllowSet, Event, FieldTable, Line, Origin, classes};
use parsers::config::{self, PatternConfig};
use parsers::grok::{Matching, Patterns};
use parsers::{Library, YearRule};
use scenarios::{Buckets, HashKey, Pour};

/// Lines of each log.
const LINES: u32 = 1000;
/// More than enough memory for as many buckets.
const ROOMY: usize = 64 << 20;
/// Enough for a few dozen.
const TIGHT: usize = 16 << 10;

fn benches(criterion: &mut Criterion) {
    grok(criterion);
    expressions(criterion);
    dispatch(criterion);
    buckets(criterion);
}

/// The shipped pattern of nginx, everything captured.
fn grok(criterion: &mut Criterion) {
    let nodes =
        config::parse(include_str!("../../parsers/hub/s01-parse/nginx-logs.yaml")).expect("a shipped file").nodes;
    let node = nodes.first().expect("a parser has a node");
    let mut library = Library::default();
    for (name, pattern) in &node.pattern_syntax {
        library.define(name, pattern, name.line).expect("a shipped pattern");
    }
    let grok = node.nodes.iter().find_map(|child| child.grok.as_ref()).expect("it reads lines");
    let PatternConfig::Inline(pattern) = &grok.pattern else { panic!("a pattern that is written out") };
    let expansion = library.expand(pattern, pattern.line).expect("a shipped pattern");
    let pattern = Patterns::default().compile(&expansion, pattern.line).expect("a shipped pattern");
    let log = visits();
    let mut matching = Matching::default();
    let mut group = criterion.benchmark_group("grok");
    group.throughput(Throughput::Elements(u64::from(LINES)));
    group.bench_function("access log", |bencher| {
        bencher.iter(|| log.lines().filter(|line| matches!(pattern.search(line, &mut matching), Ok(Some(_)))).count());
    });
    group.finish();
}

/// Filters as scenarios have them, on one event.
fn expressions(criterion: &mut Criterion) {
    let mut table = FieldTable::default();
    let mut compiler = Compiler::new(&mut table);
    let vars = classes::event_vars();
    let sources = [
        ("one field", "evt.Meta.log_type == 'http_access-log'"),
        (
            "a few fields",
            "evt.Meta.service == 'http' && evt.Meta.http_status in ['404', '403'] && evt.Parsed.static_ressource == 'false'",
        ),
        ("text in a list", "any(['/.env', '/wp-login.php', '/.git/config'], {Lower(evt.Meta.http_path) contains #})"),
        ("a regex", "evt.Meta.http_path matches '(?i)[?&](id|page)=[^&]*(union|select|sleep)'"),
    ];
    let programs = sources.map(|(name, source)| (name, compiler.compile(source, &vars).expect("a valid expression")));
    let event = Event::new(Arc::new(table));
    for (key, value) in
        [("log_type", "http_access-log"), ("service", "http"), ("http_status", "404"), ("http_path", "/shop/item?id=7")]
    {
        event.set_named(model::fields::META, key, value);
    }
    let scene = scene();
    let world = World::new(&scene, Timestamp::UNIX_EPOCH);
    let vars = [Value::Object(&event)];
    let env = Env { vars: &vars, host: &world, memo: None };
    let mut group = criterion.benchmark_group("expressions");
    for (name, program) in &programs {
        group.bench_function(*name, |bencher| bencher.iter(|| black_box(program.eval_bool(&env))));
    }
    group.finish();
}

/// Whole lines until their pours are known: of a kind that many rules want, of one that few want, and of one that nobody wants.
fn dispatch(criterion: &mut Criterion) {
    let scene = scene();
    let mut group = criterion.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(u64::from(LINES)));
    for (name, kind, log) in
        [("nginx", "nginx", visits()), ("sshd", "syslog", guesses()), ("nobody's", "syslog", nothing())]
    {
        let batch = batch(&log, kind);
        let mut worker = Worker::new();
        group.bench_function(name, |bencher| bencher.iter(|| worker.parse(&batch, &scene)));
    }
    group.finish();
}

/// Pours into buckets that are there, into new ones, and where there is no room.
fn buckets(criterion: &mut Criterion) {
    let scene = scene();
    let pours = Worker::new().parse(&batch(&guesses(), "syslog"), &scene).pours;
    assert!(pours.len() >= LINES as usize, "each guess fills a bucket");
    let empty = |memory| Buckets::new(Arc::clone(&scene.rules.scenarios), memory);
    let pour = |buckets: &mut Buckets, pours: &[Pour]| {
        let world = World::new(&scene, Timestamp::UNIX_EPOCH);
        let mut overflows = Vec::new();
        for pour in pours {
            buckets.pour(pour, Timestamp::UNIX_EPOCH, &world, &mut overflows);
        }
        overflows.len()
    };
    let mut group = criterion.benchmark_group("buckets");
    group.throughput(Throughput::Elements(pours.len() as u64));
    for (name, memory) in [("new", ROOMY), ("evict", TIGHT)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(|| empty(memory), |buckets| pour(buckets, &pours), BatchSize::LargeInput);
        });
    }
    let first = pours.first().expect("there are many").clone();
    let again = vec![first; pours.len()];
    group.bench_function("pour", |bencher| {
        bencher.iter_batched_ref(|| empty(ROOMY), |buckets| pour(buckets, &again), BatchSize::LargeInput);
    });
    group.finish();
}

/// The shipped rules.
fn scene() -> Scene {
    let built = RuleSet::build(&RuleFiles::read(&Folders { shipped: true, folders: Vec::new() }));
    Scene {
        stashes: Arc::new(built.rules.stashes()),
        rules: Arc::new(built.rules),
        allow: Arc::new(AllowSet::new([])),
        key: HashKey::new([0; 16]),
        year: YearRule::Current,
        outside: Outside::default(),
        measure: false,
    }
}

fn batch(log: &str, kind: &str) -> Batch {
    let labels = vec![("type".into(), kind.into())];
    let origin = Arc::new(Origin { labels, time_machine: true, ..Origin::default() });
    let line =
        |raw: &str| Line { raw: raw.into(), origin: Arc::clone(&origin), time: Timestamp::UNIX_EPOCH, offset: 0 };
    Batch {
        source: 0,
        sequence: 0,
        lines: log.lines().map(line).collect(),
        backlog: false,
        caught_up: false,
        steps: Vec::new(),
        read_at: Timestamp::UNIX_EPOCH,
    }
}

fn log(line: impl Fn(&mut String, u32, Ipv4Addr)) -> String {
    let mut log = String::new();
    for number in 0..LINES {
        line(&mut log, number, Ipv4Addr::from(0xc633_0000 + number * 7));
        log.push('\n');
    }
    log
}

fn visits() -> String {
    log(|log, number, from| {
        let (minute, second) = (number / 60, number % 60);
        // writing to a text cannot fail
        let _ = write!(
            log,
            "{from} - - [07/Mar/2026:12:{minute:02}:{second:02} +0000] \"GET /shop/item/{number}?lang=en HTTP/1.1\" 200 {} \
             \"https://shop.example/list\" \"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\"",
            4000 + number
        );
    })
}

fn guesses() -> String {
    log(|log, number, from| {
        let (minute, second) = (number / 60, number % 60);
        // writing to a text cannot fail
        let _ = write!(
            log,
            "Mar  7 12:{minute:02}:{second:02} web sshd[811]: Failed password for root from {from} port 40000 ssh2"
        );
    })
}

fn nothing() -> String {
    log(|log, number, _| {
        // writing to a text cannot fail
        let _ = write!(log, "Mar  7 12:00:00 web cron[{number}]: (root) CMD (run-parts /etc/cron.hourly)");
    })
}

criterion_group!(engine, benches);
criterion_main!(engine);
