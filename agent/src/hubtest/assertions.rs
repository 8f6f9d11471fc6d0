//! Assertions: one expression a line, each of which must be true.

use std::fmt;
use std::path::{Path, PathBuf};

use expr::files::Files;
use expr::{Compiler, Env, Host, List, Program, Value, Vars};
use jiff::Timestamp;
use model::FieldTable;

use super::{HubTestError, read};

/// An assertion that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The assertion.
    pub assertion: String,
    /// What it expects, as it is written.
    pub expected: String,
    /// What is there instead.
    pub actual: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, assertion, expected, actual } = self;
        write!(f, "{}:{line}: {assertion}\n  expected: {expected}\n  actual:   {actual}", path.display())
    }
}

/// One assertion as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assertion {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The assertions of a file; none if it is missing. What follows a line of more than 64 KiB is not read.
pub(super) fn lines(path: &Path) -> Result<Vec<Assertion>, HubTestError> {
    const LONGEST: usize = 64 * 1024;
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = read(path)?;
    let lines = text.lines().enumerate().take_while(|(_, text)| text.len() <= LONGEST);
    let lines = lines.map(|(index, text)| Assertion { line: index + 1, text: text.to_owned() });
    Ok(lines.filter(|line| !line.text.is_empty()).collect())
}

/// What assertions look at.
pub(super) trait Scene {
    /// The variables.
    fn vars(&self) -> Vars;

    /// Calls `look` with the values of the variables under the numbering of `table`.
    fn show(&self, table: &FieldTable, look: &mut dyn FnMut(&[Value<'_>]));

    /// Whether the field's runner counts a false assertion without ` == `.
    fn counts_without_equality(&self) -> bool;
}

/// What came of the assertions of a file.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Those that do not hold.
    pub(super) failures: Vec<Failure>,
    /// The first that cannot be evaluated.
    pub(super) error: Option<HubTestError>,
}

/// The assertions that do not hold; in strict mode all of them, else those that the field's own runner counts.
pub(super) fn check(scene: &dyn Scene, path: &Path, lines: &[Assertion], strict: bool) -> Checked {
    let mut error = None;
    let mut broken = |line: &Assertion, message: String| {
        let path = path.to_path_buf();
        error.get_or_insert(HubTestError::Assertion { path, line: line.line, message });
    };
    let sources: Vec<String> = lines.iter().map(|line| rewritten(&line.text)).collect();
    let mut wrong = Vec::new();
    for (line, answer) in lines.iter().zip(evaluate(scene, &sources)) {
        match answer {
            Answer::Value { truth: Some(true), .. } => {}
            Answer::Value { truth: Some(false), .. } => wrong.push(line),
            Answer::Value { text, .. } => broken(line, format!("it must be true or false, found {text}")),
            Answer::Failed(message) => broken(line, message),
        }
    }
    let variables: Vec<String> =
        wrong.iter().map(|line| rewritten(variable(&line.text).unwrap_or(&line.text))).collect();
    let answers = evaluate(scene, &variables);
    let failures = wrong.into_iter().zip(answers).filter_map(|(line, answer)| {
        let known = variable(&line.text);
        let counted = match (&answer, known) {
            _ if line.text.contains("datasource_path") && !line.text.contains("basename(") => true,
            (Answer::Value { .. }, Some(_)) => true,
            (Answer::Failed(_), Some(_)) => false,
            (_, None) => scene.counts_without_equality(),
        };
        (strict || counted).then(|| Failure {
            path: path.to_path_buf(),
            line: line.line,
            assertion: line.text.clone(),
            expected: line.text.split_once("==").map_or("true", |(_, expected)| expected.trim()).to_owned(),
            actual: match answer {
                Answer::Value { text, .. } => text,
                Answer::Failed(message) => format!("nothing ({message})"),
            },
        })
    });
    Checked { failures: failures.collect(), error }
}

/// The text that stands right before the first ` == `, without blanks and signs of equality.
fn variable(line: &str) -> Option<&str> {
    let (before, _) = line.match_indices(" == ").find(|(at, _)| !line[..*at].ends_with([' ', '=']) && *at > 0)?;
    let before = &line[..before];
    let start = before.rfind([' ', '=']).map_or(0, |at| at + 1);
    Some(&before[start..])
}

/// Places of log files are compared by their last part, also where the file does not say so.
fn rewritten(line: &str) -> String {
    if !line.contains("datasource_path") || line.contains("basename(") {
        return line.to_owned();
    }
    let mut parts = line.split("==");
    match (parts.next(), parts.next()) {
        (Some(left), Some(right)) => format!("basename({}) == {}", left.trim(), right.trim()),
        _ => format!("basename({line})"),
    }
}

enum Answer {
    Value { truth: Option<bool>, text: String },
    Failed(String),
}

fn evaluate(scene: &dyn Scene, sources: &[String]) -> Vec<Answer> {
    let mut table = FieldTable::default();
    let mut compiler = Compiler::new(&mut table);
    let vars = scene.vars();
    let programs: Vec<Result<Program, String>> = sources
        .iter()
        .map(|source| compiler.compile(source, &vars).map_err(|error| error.render(source, None)))
        .collect();
    let host = Nowhere(Files::default());
    let mut answers = Vec::new();
    scene.show(&table, &mut |vars| {
        let env = Env { vars, host: &host, memo: None };
        answers = programs
            .iter()
            .map(|program| match program {
                Err(message) => Answer::Failed(message.clone()),
                Ok(program) => match program.eval(&env) {
                    Ok(value) => Answer::Value { truth: value.as_bool(), text: shown(&value) },
                    Err(error) => Answer::Failed(error.to_string()),
                },
            })
            .collect();
    });
    answers
}

/// A value as a person reads it.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Nil => "nil".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) | Value::Sized(value, _) | Value::Duration(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Str(text) => format!("{text:?}"),
        Value::List(list) => {
            let items: Vec<String> = match list {
                List::Any(items) | List::Typed(items) => items.iter().map(shown).collect(),
                List::Text(items) => items.iter().map(|item| format!("{item:?}")).collect(),
                _ => vec!["...".into()],
            };
            format!("[{}]", items.join(", "))
        }
        Value::Map(_) => "a map".into(),
        Value::Time(time, _) => time.to_string(),
        _ => "a structure".into(),
    }
}

/// Assertions ask nothing of the world.
struct Nowhere(Files);

impl Host for Nowhere {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn files(&self) -> &Files {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_stand_before_the_equality() {
        // (line, variable)
        let cases = [
            (r#"results[0].Evt.Meta["a"] == "b""#, Some(r#"results[0].Evt.Meta["a"]"#)),
            (r#"results[0].Evt.Meta["a b"] == "c""#, Some(r#"b"]"#)),
            (r#""1.2.3.4" in results[0].Overflow.GetSources()"#, None),
            ("len(results) == 4", Some("len(results)")),
            ("a==b == c", Some("b")),
            (" == c", None),
        ];
        for (line, expected) in cases {
            assert_eq!(variable(line), expected, "{line}");
        }
    }

    #[test]
    fn places_of_logs_are_compared_by_name() {
        // (line, what is evaluated)
        let cases = [
            (r#"x["datasource_path"] == "a.log""#, r#"basename(x["datasource_path"]) == "a.log""#),
            (r#"basename(x["datasource_path"]) == "a""#, r#"basename(x["datasource_path"]) == "a""#),
            (r#"x["path"] == "a.log""#, r#"x["path"] == "a.log""#),
        ];
        for (line, expected) in cases {
            assert_eq!(rewritten(line), expected);
        }
    }
}
