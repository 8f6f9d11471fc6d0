//! Properties: nothing can make it panic, and where another implementation of the language gives a
//! value, ours gives the same.

use expr::{Compiler, Env, Value};
use proptest::prelude::*;

use crate::support::{Names, World, outcome, sample, show, vars};

/// Pieces of source, valid and not, that meet in any order.
fn soup() -> impl Strategy<Value = String> {
    const PIECES: [&str; 72] = [
        "evt",
        ".Parsed",
        ".a",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "?.",
        "??",
        "?",
        ":",
        "::",
        "|",
        ",",
        ";",
        "#",
        "#index",
        "#acc",
        "not ",
        "in ",
        " and ",
        " or ",
        "==",
        "!=",
        "<",
        ">",
        "<=",
        "..",
        "+",
        "-",
        "*",
        "/",
        "%",
        "**",
        "let x = ",
        "x",
        "if ",
        " else ",
        "1",
        "0",
        "9223372036854775807",
        "-1",
        "1.5",
        "'a'",
        "\"\\x41\"",
        "`r`",
        "b'z'",
        "nil",
        "true",
        "any(",
        "map(",
        "filter(",
        "reduce(",
        "sortBy(",
        "len(",
        "Sprintf('%s%d', ",
        "JsonExtract(",
        "matches ",
        "contains ",
        "startsWith ",
        ".Unmarshaled",
        ".j",
        ".arr",
        "XMLGetNodeValue(",
        "date(",
        "now()",
        "repeat(",
        "Split(",
        ".SetMeta('k', ",
        "evt.Overflow.Alert",
    ];
    prop::collection::vec(
        prop_oneof![8 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned), 1 => "\\PC{0,3}"],
        0..24,
    )
    .prop_map(|pieces| pieces.concat())
}

/// Expressions of integers, floats, text, truth values and lists that both implementations know.
/// What gives nil or reaches past the end stays out: there they differ, and the tables say how. So
/// do `true` and `false`, whose folding skips operands that fail.
fn common() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-20_i64..20).prop_map(|number| if number < 0 { format!("({number})") } else { number.to_string() }),
        prop::sample::select(
            &[
                "0.5",
                "2.0",
                "1.25",
                "(0 in [0])",
                "(1 in [0])",
                "'a'",
                "'ab'",
                "''",
                "'é b'",
                "nil",
                "[1, 2, 3]",
                "['a', 'b']",
                "[]"
            ][..]
        )
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            (
                prop::sample::select(
                    &[
                        "+",
                        "-",
                        "*",
                        "/",
                        "%",
                        "**",
                        "==",
                        "!=",
                        "<",
                        "<=",
                        ">",
                        ">=",
                        "and",
                        "or",
                        "in",
                        "not in",
                        "contains",
                        "startsWith",
                        "endsWith",
                        "..",
                    ][..]
                ),
                pair.clone()
            )
                .prop_map(|(op, (a, b))| format!("({a} {op} {b})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            inner.clone().prop_map(|a| format!("(not {a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (
                prop::sample::select(
                    &[
                        "len", "upper", "trim", "string", "int", "float", "abs", "reverse", "sum", "type", "sort",
                        "uniq", "flatten", "keys", "mean", "median"
                    ][..]
                ),
                inner.clone()
            )
                .prop_map(|(function, a)| format!("{function}({a})")),
            (
                prop::sample::select(&["map", "filter", "all", "any", "none", "one", "count", "sortBy"][..]),
                pair.clone()
            )
                .prop_map(|(function, (list, body))| format!("{function}({list}, # == {body})")),
            (prop::sample::select(&["map", "sum", "sortBy"][..]), inner.clone())
                .prop_map(|(function, list)| format!("{function}({list}, # + #)")),
            (inner.clone(), -3_i64..4, -3_i64..4).prop_map(|(a, from, to)| format!("{a}[{from}:{to}]")),
            pair.clone().prop_map(|(a, b)| format!("[{a}, {b}]")),
            pair.prop_map(|(a, b)| format!("{{k: ({a}), l: ({b})}}")),
        ]
    })
}

/// A value of the other implementation as the tables write it.
fn show_other(value: &oracle::Value) -> String {
    match value {
        oracle::Value::Nil => "nil".into(),
        oracle::Value::Bool(value) => value.to_string(),
        oracle::Value::Integer(value) => value.to_string(),
        oracle::Value::Float(value) => format!("{value:?}"),
        oracle::Value::String(text) => format!("{text:?}"),
        oracle::Value::Bytes(bytes) => format!("b{bytes:?}"),
        oracle::Value::Array(items) => format!("[{}]", items.iter().map(show_other).collect::<Vec<_>>().join(", ")),
        oracle::Value::Map(map) => {
            let mut pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{key:?}: {}", show_other(value))).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(", "))
        }
        oracle::Value::KeyedMap(map) => {
            let mut pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", show_other(key), show_other(value))).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(", "))
        }
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn no_source_panics(source in soup()) {
        let mut names = Names::default();
        match Compiler::new(&mut names).compile(&source, &vars()) {
            Err(error) => prop_assert!(!error.render(&source, Some("a.yaml:3")).is_empty()),
            Ok(program) => {
                let event = sample();
                event.names.replace(names.all());
                let values = [Value::Object(&event)];
                let world = World::default();
                let env = Env { vars: &values, host: &world, memo: None };
                if let Ok(value) = program.eval(&env) {
                    prop_assert!(!show(&value).is_empty());
                }
                prop_assert_eq!(program.eval_bool(&env).is_ok(), program.eval(&env).is_ok());
            }
        }
    }

    #[test]
    fn values_are_those_of_another_implementation(source in common()) {
        let ours = outcome(&source, &sample(), &World::default());
        // what the types forbid is refused at load, which the other does not do
        prop_assume!(!ours.starts_with("load: "));
        // the other panics on some sources that it cannot parse
        let theirs = std::panic::catch_unwind(|| oracle::eval(&source, &oracle::Context::default()));
        prop_assume!(theirs.is_ok());
        match theirs.expect("just asked") {
            Ok(value) => prop_assert_eq!(ours, show_other(&value), "{}", source),
            Err(error) => prop_assert!(ours.starts_with("run: "), "{}: {} but {}", source, ours, error),
        }
    }

    #[test]
    fn no_format_panics(format in "[%a-zA-Z0-9*.\\[\\]+# -]{0,24}", number in any::<i64>(), float in any::<f64>(), text in "\\PC{0,8}") {
        let source = format!("Sprintf({format:?}, {}, {float:?}, {text:?}, nil, [1, 'a'])", number.max(-i64::MAX).abs());
        let _ = outcome(&source, &sample(), &World::default());
    }

    #[test]
    fn dates_that_are_written_are_read_again(seconds in -62_000_000_000_i64..200_000_000_000, nanos in 0_i32..1_000_000_000) {
        use expr::golayout;
        use jiff::{Timestamp, tz::TimeZone};
        let time = Timestamp::new(seconds, nanos).expect("in range");
        for layout in [golayout::RFC3339_NANO, "2006-01-02 15:04:05.000000000 -0700", "Mon Jan _2 03:04:05.999999999PM 2006", "2006 002 15:4:5.000000000"] {
            let text = golayout::format(layout, time, &TimeZone::UTC);
            let again = golayout::parse(layout, &text).map(|parsed| parsed.timestamp());
            prop_assert_eq!(again, Ok(Some(time)), "{} {}", layout, text);
        }
    }

    #[test]
    fn no_layout_panics(layout in "[0-9A-Za-z_ :.,/+-]{0,24}", text in "\\PC{0,24}") {
        use expr::golayout;
        let _ = golayout::parse(&layout, &text);
        let written = golayout::format(&layout, jiff::Timestamp::UNIX_EPOCH, &jiff::tz::TimeZone::UTC);
        let _ = golayout::parse(&layout, &written);
    }

    #[test]
    fn rewritten_regexes_are_regexes(pattern in "[\\\\a-z0-9dDwWsSbB\\[\\](){}|*+?^$.,:&~<>PQEx_-]{0,24}") {
        use expr::regex_dialect;
        if regex_dialect::check(&pattern).is_ok() {
            let built = regex_dialect::compile(&pattern);
            prop_assert!(
                matches!(built, Ok(_) | Err(regex_dialect::RegexError::TooLarge(_))),
                "{}: {:?}", pattern, built
            );
        }
    }
}

#[test]
fn deep_and_long_sources_are_bounded() {
    let cases = [
        "(".repeat(100_000),
        "[".repeat(100_000),
        "-".repeat(100_000),
        "!".repeat(100_000),
        format!("{}1{}", "(".repeat(90), ")".repeat(90)),
        format!("{}1", "1 ** ".repeat(5_000)),
        format!("{}1", "1 + ".repeat(5_000)),
        format!("{}true", "true and ".repeat(4_000)),
        format!("evt{}", ".a".repeat(20_000)),
        format!("{}1", "true ? 1 : ".repeat(20_000)),
        format!("1{}", " < 2".repeat(3_000)),
        format!("{}1{}", "(1 < ".repeat(60), " < 3)".repeat(60)),
        "let x = 1; ".repeat(20_000),
        "if true { ".repeat(20_000),
        "any([1], ".repeat(20_000),
        "1,".repeat(20_000),
        "{a:".repeat(20_000),
        "a ?? ".repeat(20_000),
        "x | f() ".repeat(20_000),
        "'".repeat(100_001),
        "/*".repeat(100_000),
    ];
    for source in cases {
        let shown: String = source.chars().take(20).collect();
        assert!(!outcome(&source, &sample(), &World::default()).is_empty(), "{shown}");
    }
}
