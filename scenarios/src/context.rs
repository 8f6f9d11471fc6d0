//! Alert context: what is told about the events of an alert beside their meta (spec: scenarios 12).

use std::path::Path;

use expr::{Compiler, Env, Host, List, Map, Program, Value};
use model::Record;
use model::alert::Meta;
use model::yaml::{Fault, Yaml, documents};

use crate::scenario::{Keep, Needs, compile_text};
use crate::view::{self, NoRequest};

/// Longest text of one key, in bytes, where nothing shorter is configured.
const LONGEST: usize = 4000;

/// Which expressions are evaluated on the events of every alert.
#[derive(Debug)]
pub struct AlertContext {
    entries: Vec<(String, Vec<Program>)>,
    longest: usize,
    pub(crate) needs: Needs,
    pub(crate) keep: Keep,
}

impl Default for AlertContext {
    fn default() -> Self {
        Self { entries: Vec::new(), longest: LONGEST, needs: Needs::default(), keep: Keep::default() }
    }
}

impl AlertContext {
    /// No context yet; texts are cut to `longest` bytes, where 0 and what is above 4000 mean 4000.
    pub fn new(longest: usize) -> Self {
        Self { longest: if longest == 0 { LONGEST } else { longest.min(LONGEST) }, ..Self::default() }
    }

    /// Adds an installed item, whose entries lie under `context:`.
    pub fn add_item(&mut self, path: &Path, text: &str, compiler: &mut Compiler<'_>) -> Result<(), Fault> {
        let mut read = || {
            let documents = documents(text)?;
            let empty =
                || Fault::new(1, "there is no `context` here").hint("`context:` maps names to lists of expressions");
            let Some(document) = documents.first().filter(|document| !document.is_null()) else { return Err(empty()) };
            // Hub items carry other keys for people (name, labels).
            let entries = document.entries("a context")?;
            let (_, context) = entries.iter().find(|(key, _)| &**key == "context").ok_or_else(empty)?;
            self.add(context, compiler)
        };
        read().map_err(|fault| fault.within(path))
    }

    /// Adds the console's file, whose entries lie at the top.
    pub fn add_console(&mut self, path: &Path, text: &str, compiler: &mut Compiler<'_>) -> Result<(), Fault> {
        let mut read = || documents(text)?.iter().try_for_each(|document| self.add(document, compiler));
        read().map_err(|fault| fault.within(path))
    }

    fn add(&mut self, yaml: &Yaml, compiler: &mut Compiler<'_>) -> Result<(), Fault> {
        let vars = view::context_vars();
        for (key, expressions) in yaml.entries("context")? {
            let known = self.entries.iter().position(|(name, _)| *name == **key);
            let index = known.unwrap_or(self.entries.len());
            if known.is_none() {
                self.entries.push((key.text.clone(), Vec::new()));
            }
            for text in expressions.texts(key)? {
                let known = &mut self.entries[index].1;
                if known.iter().any(|program| program.source() == &*text) {
                    continue;
                }
                let program = compile_text(compiler, key, &text, &vars)?;
                self.needs.add(program.facts());
                self.keep.add(program.facts());
                known.push(program);
            }
        }
        Ok(())
    }

    /// What the events of an alert say; `errors` counts expressions that failed.
    pub(crate) fn tell(&self, events: &[&Record], host: &dyn Host, errors: &mut u64) -> Vec<Meta> {
        let mut told = Vec::new();
        for (key, programs) in &self.entries {
            let mut texts = Vec::new();
            for record in events {
                for program in programs {
                    let vars = [Value::Object(*record), Value::Map(Map::Any([].into())), Value::Object(&NoRequest)];
                    let env = Env { vars: &vars, host, memo: None };
                    match program.eval(&env) {
                        Ok(value) => add_value(&mut texts, &value),
                        Err(_) => *errors += 1,
                    }
                }
            }
            if !texts.is_empty() {
                told.push(Meta { key: key.clone(), value: cut(texts, self.longest) });
            }
        }
        told
    }
}

fn add_value(texts: &mut Vec<String>, value: &Value<'_>) {
    let mut add = |text: &str| {
        if !text.is_empty() && !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    };
    match value {
        Value::Str(text) => add(text),
        Value::Int(number) | Value::Sized(number, _) => add(&number.to_string()),
        Value::List(List::Text(items)) => items.iter().for_each(|item| add(item)),
        Value::List(List::Lines(items)) => items.iter().for_each(|item| add(item)),
        Value::List(List::Typed(items)) if items.iter().all(|item| item.as_int().is_some()) => {
            items.iter().for_each(|item| add(&item.to_string()));
        }
        value if value.is_nil() => {}
        Value::List(_) | Value::Map(_) => add(&value.to_string()),
        // Nothing, truth values, floats, times and structures have no text that the field agrees on.
        _ => {}
    }
}

/// The texts as a JSON list of at most `longest` bytes: last ones go first, a lone one is halved. Below seven bytes halving
/// and its three dots would gain nothing.
fn cut(mut texts: Vec<String>, longest: usize) -> String {
    loop {
        let json = go_json(&texts);
        let last = texts.len() - 1;
        if json.len() <= longest || last == 0 && texts[0].len() <= 6 {
            return json;
        }
        if last > 0 {
            texts.truncate(last);
        } else {
            let half = texts[0].floor_char_boundary(texts[0].len() / 2);
            texts[0].truncate(half);
            texts[0].push_str("...");
        }
    }
}

/// JSON as Go writes it.
fn go_json(texts: &[String]) -> String {
    let mut json = String::from("[");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(&serde_json::Value::from(text.as_str()).to_string());
    }
    json.push(']');
    let escapes =
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    escapes.into_iter().fold(
        json,
        |json, (plain, escaped)| {
            if json.contains(plain) { json.replace(plain, escaped) } else { json }
        },
    )
}

#[cfg(test)]
mod tests {
    use expr::Vars;
    use expr::files::Files;

    use super::*;

    #[test]
    fn values_become_texts_as_the_field_writes_them() {
        // (expression, texts)
        let cases: &[(&str, &[&str])] = &[
            ("'a'", &["a"]),
            ("''", &[]),
            ("0", &["0"]),
            ("Split('a,b,,a', ',')", &["a", "b"]),
            ("1..3", &["1", "2", "3"]),
            ("['a', 1, 2.5]", &["[a 1 2.5]"]),
            ("{b: 1, a: 'x'}", &["map[a:x b:1]"]),
            ("JsonExtractSlice('{\"a\": [1, \"x\"]}', 'a')", &["[1 x]"]),
            ("JsonExtractSlice('{}', 'a')", &[]),
            ("JsonExtractObject('{}', 'a')", &[]),
            ("nil", &[]),
            ("true", &[]),
            ("1.5", &[]),
        ];
        let mut table = model::FieldTable::default();
        for (source, expected) in cases {
            let program = Compiler::new(&mut table).compile(source, &Vars { names: Vec::new() }).expect(source);
            let host = Nobody(Files::default());
            let env = Env { vars: &[], host: &host, memo: None };
            let value = program.eval(&env).expect(source);
            let mut texts = Vec::new();
            add_value(&mut texts, &value);
            assert_eq!(texts, *expected, "{source}");
        }
    }

    struct Nobody(Files);

    impl Host for Nobody {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn files(&self) -> &Files {
            &self.0
        }
    }

    #[test]
    fn texts_are_cut_to_length() {
        // (texts, longest, what is told)
        let cases: &[(&[&str], usize, &str)] = &[
            (&["a", "b"], 4000, r#"["a","b"]"#),
            (&["<b>&"], 4000, r#"["\u003cb\u003e\u0026"]"#),
            (&["aaaa", "bbbb"], 12, r#"["aaaa"]"#),
            (&["abcdefghij"], 12, r#"["abcde..."]"#),
            (&["abcdefghijklmnop"], 12, r#"["abcde..."]"#),
            (&["éééééééé"], 12, r#"["éé..."]"#),
            (&["abcdefgh"], 1, r#"["abc..."]"#),
            (&["say \"hi\""], 4000, r#"["say \"hi\""]"#),
        ];
        for (texts, longest, expected) in cases {
            let texts = texts.iter().map(ToString::to_string).collect();
            assert_eq!(cut(texts, *longest), *expected);
        }
    }
}
