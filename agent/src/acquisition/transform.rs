//! `transform`: what an expression makes of a line before it is parsed.
//!
//! A text stands in place of the line, a list of texts becomes one line each; anything else leaves the line as it is, and is counted.

use std::sync::Arc;

use expr::files::Files;
use expr::{Compiler, Env, Host, List, Program, Value};
use jiff::Timestamp;
use model::line::MAX_LINE;
use model::yaml::{Fault, Text};
use model::{Event, FieldTable, LineRef, classes};

/// Most lines that one line becomes.
const MOST: usize = 10_000;

/// A compiled `transform`.
#[derive(Clone, Debug)]
pub struct Transform {
    program: Arc<Program>,
    table: Arc<FieldTable>,
}

impl Transform {
    /// Compiles the expression; the fault lacks the path.
    pub fn new(text: &Text) -> Result<Self, Fault> {
        let mut table = FieldTable::default();
        let compiled = Compiler::new(&mut table).compile(text, &classes::event_vars());
        let program = compiled.map_err(|error| Fault::in_expression("bad `transform`", text, &error))?;
        Ok(Self { program: Arc::new(program), table: Arc::new(table) })
    }

    /// Hands what `line` becomes to `out`; `false` when it stays as it is because the expression failed or gave something else.
    pub fn apply(&self, line: LineRef<'_>, out: &mut dyn FnMut(LineRef<'_>)) -> bool {
        let mut event = Event::new(Arc::clone(&self.table));
        event.start_line(line);
        let vars = [Value::Object(&event)];
        let world = Before { now: line.time, files: Files::default() };
        let env = Env { vars: &vars, host: &world, memo: None };
        match self.program.eval(&env) {
            Ok(Value::Str(text)) => out(LineRef { raw: cut(&text), ..line }),
            Ok(Value::List(list)) => {
                let mut all_texts = true;
                for value in texts(&list) {
                    let text = value.as_str();
                    all_texts &= text.is_some();
                    out(text.map_or(line, |text| LineRef { raw: cut(text), ..line }));
                }
                return all_texts && list.len() <= MOST;
            }
            Ok(_) | Err(_) => {
                out(line);
                return false;
            }
        }
        true
    }
}

fn texts<'a>(list: &List<'a>) -> impl Iterator<Item = Value<'a>> {
    list.iter().take(MOST)
}

/// The text up to the longest length of a line; a line break would make it two.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_LINE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim_end_matches(['\n', '\r'])
}

/// The world before parsing: there are no rules yet, and so no data files.
#[derive(Debug)]
struct Before {
    now: Timestamp,
    files: Files,
}

impl Host for Before {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn files(&self) -> &Files {
        &self.files
    }
}

#[cfg(test)]
mod tests {
    use model::{Line, Origin};

    use super::*;

    #[test]
    fn a_line_becomes_what_the_expression_makes_of_it() {
        // (expression, line, lines, whether it worked)
        let cases: &[(&str, &str, &[&str], bool)] = &[
            ("JsonExtract(evt.Line.Raw, 'a.b')", r#"{"a": {"b": "text"}}"#, &["text"], true),
            ("JsonExtractSlice(evt.Line.Raw, 'all')", r#"{"all": ["one", "two"]}"#, &["one", "two"], true),
            (
                "JsonExtractSlice(evt.Line.Raw, 'all')",
                r#"{"all": ["one", 2]}"#,
                &["one", r#"{"all": ["one", 2]}"#],
                false,
            ),
            ("Split(evt.Line.Raw, ';')", "a;b;c", &["a", "b", "c"], true),
            ("Split(evt.Line.Raw, ';')[5:]", "a", &[], true),
            ("nil", "stays", &["stays"], false),
            ("1 + 1", "stays", &["stays"], false),
            ("evt.Unmarshaled.none.x", "stays", &["stays"], false),
            ("evt.Line.Labels.type + ': ' + evt.Line.Raw", "x", &["t: x"], true),
        ];
        for (source, raw, expected, worked) in cases {
            let transform = Transform::new(&Text { line: 3, text: (*source).to_owned() }).expect(source);
            let origin = Origin { labels: vec![("type".into(), "t".into())], ..Origin::default() };
            let line = Line { raw: (*raw).into(), origin: Arc::new(origin), time: Timestamp::UNIX_EPOCH, offset: 7 };
            let mut lines = Vec::new();
            let done = transform.apply((&line).into(), &mut |line| lines.push(Line::from(line)));
            let texts: Vec<&str> = lines.iter().map(|line| &*line.raw).collect();
            assert_eq!((texts.as_slice(), done), (*expected, *worked), "{source}");
            assert!(lines.iter().all(|line| line.offset == 7), "{source}");
        }
    }

    #[test]
    fn a_mistake_is_found_when_it_is_read() {
        let fault = Transform::new(&Text { line: 3, text: "evt.Line.Rwa".into() }).expect_err("a misspelt field");
        assert!(fault.to_string().starts_with("3: bad `transform`: "), "{fault}");
    }
}
