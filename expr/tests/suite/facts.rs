//! What is known of an expression without running it, and results shared between rules.

use std::cell::Cell;

use crate::support::{Event, META, Names, PARSED, World, sample, vars};
use expr::memo::Memo;
use expr::{Compiler, Condition, Env, FieldId, Fields, MapId, Object, Program, Value};

fn compile(names: &mut Names, source: &str) -> Program {
    Compiler::new(names)
        .compile(source, &vars())
        .unwrap_or_else(|error| panic!("{source}: {}", error.render(source, None)))
}

/// A condition as the table writes it.
fn show(condition: &Condition, names: &Names) -> String {
    let name = |field: &FieldId| names.name(*field).map_or("?", |(_, name)| name.as_str()).to_owned();
    match condition {
        Condition::In(field, texts) => format!("{} in {}", name(field), texts.join("|")),
        Condition::StartsWith(field, texts) => format!("{} starts {}", name(field), texts.join("|")),
        Condition::NotEmpty(field) => format!("{} filled", name(field)),
    }
}

#[test]
fn necessary_conditions() {
    let cases = [
        ("evt.Parsed.a == 'x'", "a in x"),
        ("'x' == evt.Parsed.a", "a in x"),
        ("evt.Parsed.a in ['x', 'y']", "a in x|y"),
        ("evt.Parsed.a == 'x' || evt.Parsed.a == 'y'", "a in x|y"),
        ("evt.Parsed.a == 'x' || evt.Parsed.b == 'y'", ""),
        ("evt.Parsed.a == 'x' || evt.Parsed.a startsWith 'y'", "a starts x|y"),
        ("evt.Parsed.a == 'x' || evt.Parsed.a contains 'y'", "a filled"),
        ("evt.Parsed.a == '' || evt.Parsed.a contains 'y'", ""),
        ("evt.Parsed.a == 'x' && evt.Parsed.b contains 'y'", "a in x, b filled"),
        (
            "(evt.Parsed.a == 'x' && evt.Parsed.b == 'y') || (evt.Parsed.b == 'z' && evt.Parsed.a == 'w')",
            "a in w|x, b in y|z",
        ),
        ("evt.Parsed.a != ''", "a filled"),
        ("evt.Parsed.a != 'x'", ""),
        ("evt.Parsed.a contains ''", ""),
        ("evt.Parsed.a endsWith 'x'", "a filled"),
        ("evt.Parsed.a startsWith 'x'", "a starts x"),
        ("evt.Parsed.a matches '^x'", "a filled"),
        ("evt.Parsed.a matches 'x*'", ""),
        ("Upper(evt.Parsed.a) == 'X'", "a filled"),
        ("Lower(PathUnescape(evt.Parsed.a)) contains 'x'", "a filled"),
        ("Upper(evt.Parsed.a) contains Upper('x')", "a filled"),
        ("if evt.Parsed.a == 'x' { evt.Parsed.b == 'y' } else { false }", "a in x, b in y"),
        ("evt.Parsed.a == 'x' ? evt.Parsed.b == 'y' : false", "a in x, b in y"),
        ("evt.Parsed.a == 'x' ? evt.Parsed.b == 'y' : true", ""),
        ("evt.Parsed.a == 'x' && int(evt.Parsed.n) > 1 && evt.Parsed.b == 'y'", "a in x"),
        ("evt.Parsed.a == 'x' && evt.SetMeta('k', 'v') && evt.Parsed.b == 'y'", "a in x"),
        ("evt.Unmarshaled.j.f == 1 && evt.Parsed.a == 'x'", ""),
        ("evt.Unmarshaled.x contains 'a' && evt.Parsed.a == 'x'", ""),
        ("'k' in evt.Parsed && evt.Parsed.a == 'x'", "a in x"),
        ("evt.Parsed.a == 'x' && evt.Unmarshaled.j.b", "a in x"),
        ("not (evt.Parsed.a == 'x')", ""),
        ("not not (evt.Parsed.a == 'x')", "a in x"),
        ("IsIPV4(evt.Parsed.ip) && evt.Parsed.a == 'x'", "a in x"),
        ("any([1], # == 1) && evt.Parsed.a == 'x'", ""),
    ];
    for (source, want) in cases {
        let mut names = Names::default();
        let program = compile(&mut names, source);
        let got: Vec<String> = program.facts().requires.iter().map(|condition| show(condition, &names)).collect();
        assert_eq!(got.join(", "), want, "{source}");
    }
}

#[test]
fn necessary_mentions() {
    let mut files = expr::files::Files::default();
    files.add("f", expr::files::FileKind::Text, "One\ntwo\nthrée\n".as_bytes()).expect("a valid file");
    files.add("r", expr::files::FileKind::Regex, b"(?i)ab\n[a-z]+xy\n").expect("a valid file");
    let cases = [
        ("evt.Parsed.a contains 'Xy'", "a: xy"),
        ("Upper(evt.Parsed.a) endsWith 'XY' && evt.Parsed.b startsWith 'z'", "a: xy, b: z"),
        ("Upper(PathUnescape(evt.Parsed.a)) contains 'X'", "a: x %"),
        ("evt.Parsed.a == 'x' || Lower(evt.Parsed.b) in ['y', 'z']", "a: x b: y b: z"),
        ("evt.Parsed.a contains 'x' || evt.Parsed.b != ''", ""),
        ("evt.Parsed.a contains ''", ""),
        ("evt.Parsed.a matches '/ui/(x|y)z'", "a: /ui/xz a: /ui/yz"),
        ("evt.Parsed.a matches '[^/]+/y'", "a: /y"),
        ("evt.Parsed.a matches '.*'", ""),
        ("Upper(evt.Parsed.a) matches '^(?:X.*)?Y(?:ABC|DEF).*Z'", "a: abc a: def"),
        (
            "if evt.Parsed.a contains 'x' { let b = Lower(evt.Parsed.b); b != '' ? evt.SetMeta('k', b) : false } else { false }",
            "a: x",
        ),
        ("any(File('f'), {Upper(evt.Parsed.a) contains Upper(#)})", "a: one two"),
        ("any(File('none'), {evt.Parsed.a contains #})", "?"),
        ("RegexpInFile(evt.Parsed.a, 'r')", "a: ab xy"),
        ("let x = Lower(evt.Parsed.a); evt.Parsed.b == 'y' && x contains 'Z'", "b: y, a: z"),
        ("int(evt.Parsed.n) > 1 && evt.Parsed.b == 'y'", ""),
        ("not (evt.Parsed.a contains 'x')", ""),
    ];
    for (source, want) in cases {
        let mut names = Names::default();
        let program = compile(&mut names, source);
        let lists = program.facts().mentions.iter().map(|list| {
            let mut shown: Vec<String> = Vec::new();
            for mention in list {
                let words = mention.needle.words(&files).map_or("?".to_owned(), |words| words.join(" "));
                let name = names.name(mention.field).map_or("?", |(_, name)| name.as_str());
                match shown.last_mut() {
                    _ if words == "?" => shown.push(words),
                    Some(last) if words == "%" => last.push_str(" %"),
                    _ => shown.push(format!("{name}: {words}")),
                }
            }
            shown.join(" ")
        });
        assert_eq!(lists.collect::<Vec<_>>().join(", "), want, "{source}");
    }
}

#[test]
fn reads_and_writes() {
    let mut names = Names::default();
    let source = "evt.Meta.m == evt.Parsed[evt.Parsed.k] && evt.SetMeta('w', 'x') && GetFromStash('users', evt.Line.Raw) != '' \
        && any(File('f'), evt.Parsed.p contains #) && RegexpInFile('a', 'g') && evt.Meta[evt.Parsed.k] == ''";
    let facts = compile(&mut names, source).facts().clone();
    let of = |fields: &[FieldId]| -> Vec<&str> {
        fields.iter().filter_map(|field| names.name(*field)).map(|(_, name)| name.as_str()).collect()
    };
    assert_eq!(of(&facts.reads), ["m", "k", "p"]);
    assert_eq!(facts.reads_all, [PARSED, META]);
    assert_eq!(of(&facts.writes), ["w"]);
    assert_eq!(facts.stashes, [Some("users".to_owned())]);
    assert_eq!(facts.files, ["f", "g"]);
    assert!(facts.effect && facts.volatile && !facts.opaque);

    let quiet = compile(&mut names, "Upper(evt.Parsed.a) contains 'X' and keys(evt.Meta) == []");
    assert!(!quiet.facts().effect && !quiet.facts().volatile);
    assert_eq!(quiet.facts().reads_all, [META]);
    assert!(compile(&mut names, "evt.Unmarshaled.x == 1").facts().members.len() == 1);
    assert!(compile(&mut names, "UnmarshalJSON('{}', evt.Unmarshaled, 'x') == nil").facts().effect);
    assert!(compile(&mut names, "now().Hour() > 1").facts().volatile);
}

/// An event that counts how often its text is read.
#[derive(Debug)]
struct Counting {
    inner: Event,
    reads: Cell<usize>,
}

impl Object for Counting {
    fn class(&self) -> &'static expr::Class {
        self.inner.class()
    }

    fn slot(&self, field: FieldId) -> Option<&str> {
        self.reads.set(self.reads.get() + 1);
        self.inner.slot(field)
    }

    fn member(&self, member: expr::MemberId) -> Value<'_> {
        self.inner.member(member)
    }

    fn call<'a>(&'a self, method: expr::MethodId, args: &[Value<'a>]) -> Result<Value<'a>, expr::EvalError> {
        self.inner.call(method, args)
    }
}

#[test]
fn results_are_shared_until_something_changes() {
    let mut names = Names::default();
    let mut compiler = Compiler::new(&mut names);
    let mut compile = |source: &str| compiler.compile(source, &vars()).expect("compiles");
    let first = compile("Upper(evt.Parsed.a) == 'X'");
    let second = compile("Upper(evt.Parsed['a']) contains 'X' and evt.Meta.k == ''");
    let writes = compile("Upper(evt.Meta.k) == '' and evt.SetMeta('k', 'v') and Upper(evt.Meta.k) == 'V'");
    let fails = compile("len(Sprintf('%s', evt.Parsed.a)) > 0 && JsonExtractLib(evt.Parsed.a, 'x') == ''");
    let event = Counting { inner: sample(), reads: Cell::new(0) };
    event.inner.names.replace(names.all());
    let world = World::default();
    let memo = Memo::default();
    let values = [Value::Object(&event)];
    let env = Env { vars: &values, host: &world, memo: Some(&memo) };

    assert_eq!(first.eval_bool(&env), Ok(Some(true)));
    assert_eq!(event.reads.get(), 1);
    assert_eq!(second.eval_bool(&env), Ok(Some(true)));
    assert_eq!(event.reads.get(), 2, "only the plain field is read again");
    memo.next();
    assert_eq!(first.eval_bool(&env), Ok(Some(true)));
    assert_eq!(event.reads.get(), 3, "a new event is looked at anew");
    assert_eq!(writes.eval_bool(&env), Ok(Some(true)), "what was remembered goes when the event changes");
    let error = fails.eval_bool(&env);
    assert!(error.is_err());
    assert_eq!(fails.eval_bool(&env), error, "failures are remembered as well");
}

#[test]
fn compilers_do_not_share_slots() {
    let (mut one, mut other) = (Names::default(), Names::default());
    let upper = compile(&mut one, "Upper(evt.Parsed.a) == 'X'");
    let escaped = compile(&mut other, "QueryEscape(evt.Parsed.a) == 'x'");
    let event = sample();
    event.names.replace(one.all());
    let memo = Memo::default();
    let values = [Value::Object(&event)];
    let world = World::default();
    let env = Env { vars: &values, host: &world, memo: Some(&memo) };
    assert_eq!(upper.eval_bool(&env), Ok(Some(true)));
    assert_eq!(escaped.eval_bool(&env), Ok(Some(true)));
    assert_eq!(upper.eval_bool(&env), Ok(Some(true)));
}

#[test]
fn programs_cross_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Program>();
    shared::<expr::files::Files>();
}

#[test]
fn the_same_key_has_the_same_number() {
    let mut names = Names::default();
    let (a, b) = (names.intern(MapId(0), "a"), names.intern(MapId(0), "b"));
    assert_eq!(names.intern(MapId(0), "a"), a);
    assert_ne!(a, b);
}
