//! Texts that attackers write, in front of every operator and helper that rules use. What is known to be text at load and what
//! turns out to be text must give the same.
#![no_main]

use std::cell::OnceCell;
use std::sync::Arc;

use cordon_fuzz::{Nowhere, event, parts, shown};
use expr::memo::Memo;
use expr::{Compiler, Env, Program, Value};
use libfuzzer_sys::fuzz_target;
use model::FieldTable;

/// `A`, `B` and `C` stand for the three texts.
const SOURCES: &[&str] = &[
    "A == B",
    "A != B",
    "A < B",
    "A + B",
    "A in ['', 'x', '404']",
    "A in [B, C]",
    "not (A == '')",
    "A contains B",
    "A startsWith B",
    "A endsWith B",
    "A matches '(?i)^get .*[0-9]$'",
    "A matches B",
    "A[1:4]",
    "A[-3:]",
    "len(A)",
    "A ?? B",
    "A == B ? B : C",
    "A == 'x' || B == 'y' && C != ''",
    "string(A)",
    "int(A)",
    "float(A)",
    "type(A)",
    "upper(A)",
    "lower(A)",
    "trim(A)",
    "trim(A, B)",
    "trimPrefix(A, B)",
    "trimSuffix(A, B)",
    "split(A, B)",
    "split(A, B, 2)",
    "splitAfter(A, B)",
    "join(split(A, ' '), B)",
    "replace(A, B, C)",
    "replace(A, B, C, 1)",
    "indexOf(A, B)",
    "lastIndexOf(A, B)",
    "hasPrefix(A, B)",
    "hasSuffix(A, B)",
    "toBase64(A)",
    "fromBase64(A)",
    "toJSON(A)",
    "fromJSON(A)",
    "duration(A)",
    "date(A)",
    "date(A, B)",
    "Upper(A)",
    "Lower(A)",
    "Fields(A)",
    "Split(A, B)",
    "SplitN(A, B, 2)",
    "SplitAfter(A, B)",
    "SplitAfterN(A, B, 3)",
    "Join(Split(A, ' '), B)",
    "Replace(A, B, C, 2)",
    "ReplaceAll(A, B, C)",
    "Trim(A, B)",
    "TrimLeft(A, B)",
    "TrimRight(A, B)",
    "TrimSpace(A)",
    "TrimPrefix(A, B)",
    "TrimSuffix(A, B)",
    "Index(A, B)",
    "IndexAny(A, B)",
    "Get(Split(A, B), 1)",
    "ToString(A)",
    "Sprintf(A, B, 1, 2.5, nil, [B])",
    "Sprintf('%s %5.2s %q %x %v %+v', A, B, C, A, B, C)",
    "Match(A, B)",
    "B64Decode(A)",
    "Atof(A)",
    "Distance(A, B, C, '2')",
    "PathUnescape(A)",
    "QueryUnescape(A)",
    "PathEscape(A)",
    "QueryEscape(A)",
    "ParseUri(A)",
    "ParseQuery(A)",
    "ExtractQueryParam(A, B)",
    "JsonExtract(A, B)",
    "JsonExtractUnescape(A, B)",
    "JsonExtractSlice(A, B)",
    "JsonExtractObject(A, B)",
    "ToJsonString(A)",
    "UnmarshalJSON(A, evt.Unmarshaled, 'x')",
    "evt.Unmarshaled.x",
    "ParseKV(A, evt.Unmarshaled, 'kv')",
    "evt.Unmarshaled.kv",
    "ParseKVLax(A, evt.Unmarshaled, 'lax')",
    "evt.Unmarshaled.lax",
    "XMLGetNodeValue(A, B)",
    "XMLGetNodeValue(A, '//a[@b]/c[1]')",
    "XMLGetAttributeValue(A, B, C)",
    "IsIP(A)",
    "IsIPV4(A)",
    "IsIPV6(A)",
    "IpInRange(A, B)",
    "IpToRange(A, B)",
    "IpToRange(A, '24')",
    "ParseUnix(A)",
    "LibInjectionIsSQLI(A)",
    "LibInjectionIsXSS(A)",
    "Flatten(A, [B, [C]])",
    "Distinct([A, B, C])",
    "any(Split(A, B), # == C)",
    "filter(Split(A, ' '), # contains B)",
    "map(Split(A, B), Upper(#))",
    "sort(Split(A, B))",
    "uniq(Split(A, B))",
    "reduce(Split(A, B), #acc + #, '')",
    "let x = Lower(A); x == B and x != C",
    "evt.SetMeta('k', A)",
    "evt.Meta.k == A",
    "evt.GetMeta(B)",
    "evt.Meta[B]",
    "evt.Parsed[A] == C",
    "evt.Parsed[A]",
    "Lower(QueryUnescape(A)) contains Lower(B)",
    "any(['../', '%2e', 'union'], {Lower(A) contains #})",
    "GetFromStash(A, B)",
    "TrimSpace(Split(A, ',')[0])",
];

struct Programs {
    table: Arc<FieldTable>,
    /// Where the texts are known to be text.
    known: Vec<Program>,
    /// The same again, sharing results.
    shared: Vec<Program>,
    /// Where nothing is known of them.
    unknown: Vec<Program>,
}

thread_local! {
    static PROGRAMS: OnceCell<Programs> = const { OnceCell::new() };
}

impl Programs {
    fn new() -> Self {
        let mut table = FieldTable::default();
        let at = |source: &str, map: &str| {
            let letters = source.split('\'').enumerate().map(|(number, piece)| match number % 2 {
                0 => word(piece, map),
                _ => piece.to_owned(),
            });
            letters.collect::<Vec<_>>().join("'")
        };
        let mut compile = |map: &str, alone: bool| -> Vec<Program> {
            let vars = model::classes::event_vars();
            let sources = SOURCES.iter().map(|source| at(source, map));
            if alone {
                return sources
                    .map(|source| Compiler::new(&mut table).compile(&source, &vars).expect("a good source"))
                    .collect();
            }
            let mut compiler = Compiler::new(&mut table);
            sources.map(|source| compiler.compile(&source, &vars).expect("a good source")).collect()
        };
        let (known, shared) = (compile("evt.Parsed.", true), compile("evt.Parsed.", false));
        let unknown = compile("evt.Unmarshaled.u.", true);
        Self { table: Arc::new(table), known, shared, unknown }
    }
}

/// A piece of source between quotes, its letters that stand alone made fields.
fn word(piece: &str, map: &str) -> String {
    let bytes = piece.as_bytes();
    let letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    let mut made = String::new();
    for (at, c) in piece.char_indices() {
        let alone = at.checked_sub(1).is_none_or(|before| !letter(before)) && !letter(at + 1);
        match c {
            'A'..='C' if alone => {
                made.push_str(map);
                made.push(c.to_ascii_lowercase());
            }
            _ => made.push(c),
        }
    }
    made
}

fuzz_target!(|input: &str| {
    let texts: [&str; 3] = parts(input);
    PROGRAMS.with(|programs| {
        let programs = programs.get_or_init(Programs::new);
        let ask = |list: &[Program], memo: Option<&Memo>| {
            let event = event(&programs.table, texts);
            let vars = [Value::Object(&event)];
            let world = Nowhere::default();
            let env = Env { vars: &vars, host: &world, memo };
            list.iter().map(|program| shown(&program.eval(&env))).collect::<Vec<_>>()
        };
        let known = ask(&programs.known, None);
        for (name, other) in [
            ("shared", ask(&programs.shared, Some(&Memo::default()))),
            ("of unknown type", ask(&programs.unknown, None)),
        ] {
            for ((source, one), two) in SOURCES.iter().zip(&known).zip(&other) {
                assert_eq!(one, two, "`{source}` {name}");
            }
        }
    });
});
