//! Bodies in the form that somebody else's API wants.
//!
//! A template knows values, lists and whether something is so, and nothing else: it cannot compute, call or loop without
//! end. Every value is escaped for what surrounds it, so that no name can change the shape of a body.

use std::fmt::Write;

use super::batch::{Batch, Change, Op, Part};

/// For what values are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// The inside of a text in JSON.
    Json,
    /// A part of an address, or of a form.
    Url,
}

/// Deepest nesting of sections.
const DEEPEST: usize = 8;

/// A template that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Piece>,
    escape: Escape,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Name),
    /// What stands between `{{#name}}` or `{{^name}}` and `{{/name}}`; whether it stands there when the name is so.
    Section(Name, bool, Vec<Piece>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Batch,
    Seq,
    Full,
    Part,
    Parts,
    Changes,
    Op,
    Action,
    Scope,
    Value,
    Until,
    Origin,
    Scenario,
    Id,
    Add,
    Remove,
    Refresh,
    Last,
}

impl Name {
    const ALL: [(&'static str, Name); 18] = [
        ("batch", Name::Batch),
        ("seq", Name::Seq),
        ("full", Name::Full),
        ("part", Name::Part),
        ("parts", Name::Parts),
        ("changes", Name::Changes),
        ("op", Name::Op),
        ("action", Name::Action),
        ("scope", Name::Scope),
        ("value", Name::Value),
        ("until", Name::Until),
        ("origin", Name::Origin),
        ("scenario", Name::Scenario),
        ("id", Name::Id),
        ("add", Name::Add),
        ("remove", Name::Remove),
        ("refresh", Name::Refresh),
        ("last", Name::Last),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, name)| *name == self).map_or("", |&(word, _)| word)
    }

    /// Whether it is known only inside of `changes`.
    fn is_of_a_change(self) -> bool {
        !matches!(self, Name::Batch | Name::Seq | Name::Full | Name::Part | Name::Parts | Name::Changes)
    }
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the template: {message}")]
pub struct TemplateError {
    /// Line, from 1.
    pub line: usize,
    /// What was found and what would be right.
    pub message: String,
}

impl Template {
    /// Reads `text`.
    pub fn parse(text: &str, escape: Escape) -> Result<Self, TemplateError> {
        let mut open: Vec<(Name, bool, usize, Vec<Piece>)> = Vec::new();
        let mut parts = Vec::new();
        let mut rest = text;
        let line_of = |rest: &str| {
            text.len()
                .checked_sub(rest.len())
                .and_then(|at| text.get(..at))
                .map_or(1, |before| before.matches('\n').count() + 1)
        };
        while let Some((before, after)) = rest.split_once("{{") {
            let line = line_of(after);
            let error = |message: String| TemplateError { line, message };
            if !before.is_empty() {
                parts.push(Piece::Text(before.to_owned()));
            }
            let (tag, after) =
                after.split_once("}}").ok_or_else(|| error("`{{` is not closed, expected `}}`".to_owned()))?;
            rest = after;
            let tag = tag.trim();
            let sign = tag.chars().next().filter(|sign| "#^/".contains(*sign));
            let word = tag.trim_start_matches(['#', '^', '/']).trim();
            let Some(&(_, name)) = Name::ALL.iter().find(|(known, _)| *known == word) else {
                let known: Vec<&str> = Name::ALL.iter().map(|&(known, _)| known).collect();
                return Err(error(format!("`{word}` is no name, expected one of {}", known.join(", "))));
            };
            let in_changes = open.iter().any(|(name, positive, ..)| *name == Name::Changes && *positive);
            if name.is_of_a_change() && !in_changes {
                return Err(error(format!("`{word}` is known only between `{{{{#changes}}}}` and `{{{{/changes}}}}`")));
            }
            match sign {
                Some('/') => match open.pop() {
                    Some((begun, positive, _, outer)) if begun == name => {
                        let inner = std::mem::replace(&mut parts, outer);
                        parts.push(Piece::Section(name, positive, inner));
                    }
                    Some((begun, ..)) => {
                        return Err(error(format!("`{{{{/{word}}}}}` closes `{}`", begun.word())));
                    }
                    None => return Err(error(format!("`{{{{/{word}}}}}` closes nothing"))),
                },
                Some(sign) => {
                    if open.len() == DEEPEST || (name == Name::Changes && in_changes) {
                        return Err(error("sections are nested too deeply".to_owned()));
                    }
                    open.push((name, sign == '#', line, std::mem::take(&mut parts)));
                }
                None if name == Name::Changes => {
                    return Err(error("`changes` is a list, expected `{{#changes}}`".to_owned()));
                }
                None => parts.push(Piece::Value(name)),
            }
        }
        if let Some((name, _, line, _)) = open.pop() {
            let message = format!("`{}` is not closed, expected `{{{{/{}}}}}`", name.word(), name.word());
            return Err(TemplateError { line, message });
        }
        if !rest.is_empty() {
            parts.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self { parts, escape })
    }

    /// The body for `batch`.
    pub fn render(&self, batch: &Batch) -> String {
        let mut out = String::new();
        self.write(&self.parts, batch, None, &mut out);
        out
    }

    fn write(&self, parts: &[Piece], batch: &Batch, change: Option<(&Change, bool)>, out: &mut String) {
        for part in parts {
            match part {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(name) => self.escape(&value(*name, batch, change), out),
                Piece::Section(Name::Changes, true, inner) => {
                    let last = batch.changes.len().saturating_sub(1);
                    for (at, change) in batch.changes.iter().enumerate() {
                        self.write(inner, batch, Some((change, at == last)), out);
                    }
                }
                Piece::Section(name, positive, inner) => {
                    if is_so(*name, batch, change) == *positive {
                        self.write(inner, batch, change, out);
                    }
                }
            }
        }
    }

    fn escape(&self, text: &str, out: &mut String) {
        match self.escape {
            Escape::Json => {
                let quoted = serde_json::Value::from(text).to_string();
                out.push_str(quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default());
            }
            Escape::Url => {
                for byte in text.bytes() {
                    if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                        out.push(char::from(byte));
                    } else {
                        // writing to a String cannot fail
                        let _ = write!(out, "%{byte:02X}");
                    }
                }
            }
        }
    }
}

fn value(name: Name, batch: &Batch, change: Option<(&Change, bool)>) -> String {
    let part = |pick: fn(&Part) -> usize| batch.part.as_ref().map_or(1, pick).to_string();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let change = change.map(|(change, _)| change);
    match name {
        Name::Batch => batch.batch.clone(),
        Name::Seq => batch.seq.to_string(),
        Name::Part => part(|part| part.index),
        Name::Parts => part(|part| part.of),
        Name::Op => text(change.map(|change| change.op.word())),
        Name::Action => text(change.map(|change| change.action.as_str())),
        Name::Scope => text(change.map(|change| change.scope.as_str())),
        Name::Value => text(change.map(|change| change.value.as_str())),
        Name::Origin => text(change.and_then(|change| change.origin.as_deref())),
        Name::Scenario => text(change.and_then(|change| change.scenario.as_deref())),
        Name::Until => change.and_then(|change| change.until).map(|until| until.to_string()).unwrap_or_default(),
        Name::Id => change.and_then(|change| change.id).unwrap_or_default().to_string(),
        Name::Changes | Name::Full | Name::Add | Name::Remove | Name::Refresh | Name::Last => String::new(),
    }
}

fn is_so(name: Name, batch: &Batch, change: Option<(&Change, bool)>) -> bool {
    let op = change.map(|(change, _)| change.op);
    match name {
        Name::Full => batch.full,
        Name::Changes => !batch.changes.is_empty(),
        Name::Add => op == Some(Op::Add),
        Name::Remove => op == Some(Op::Remove),
        Name::Refresh => op == Some(Op::Refresh),
        Name::Last => change.is_some_and(|(_, last)| last),
        name => !value(name, batch, change).is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::desired::{Key, Subject};
    use crate::webhook::batch::additions;
    use crate::webhook::batch::tests::{key, placed};

    fn batch() -> Batch {
        let user = model::Scope::new("Username");
        let user = Key { remediation: "ban".into(), subject: Subject::Named(user, "\"},{\"a\":\"b\n&x=1".into()) };
        let mut changes = additions(&key("203.0.113.9"), &placed(60, &[]), None);
        changes.extend(additions(&user, &placed(60, &[]), None));
        Batch::new("b1".into(), 5, changes)
    }

    #[test]
    fn no_value_changes_the_shape_of_a_body() {
        let text = "{\"block\":[{{#changes}}{{#add}}{\"ip\":\"{{value}}\"}{{^last}},{{/last}}{{/add}}{{/changes}}],\"n\":{{seq}}}";
        let body = Template::parse(text, Escape::Json).expect("a valid template").render(&batch());
        let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(json["block"].as_array().map(Vec::len), Some(2));
        assert_eq!((json["block"][1]["ip"].as_str(), json["n"].as_u64()), (Some("\"},{\"a\":\"b\n&x=1"), Some(5)));
        let form = Template::parse("{{#changes}}ip={{value}}{{^last}}&{{/last}}{{/changes}}", Escape::Url);
        let form = form.expect("a valid template").render(&batch());
        assert_eq!(form, "ip=203.0.113.9&ip=%22%7D%2C%7B%22a%22%3A%22b%0A%26x%3D1");
    }

    #[test]
    fn mistakes_name_their_line() {
        // (template, what is told)
        let cases = [
            ("a\n{{colour}}", "line 2 of the template: `colour` is no name, expected one of"),
            ("{{value}}", "line 1 of the template: `value` is known only between `{{#changes}}` and `{{/changes}}`"),
            ("{{#changes}}\n\n{{/full}}", "line 3 of the template: `{{/full}}` closes `changes`"),
            ("{{/full}}", "line 1 of the template: `{{/full}}` closes nothing"),
            ("x\n{{#full}}", "line 2 of the template: `full` is not closed, expected `{{/full}}`"),
            ("{{batch", "line 1 of the template: `{{` is not closed, expected `}}`"),
            ("{{changes}}", "line 1 of the template: `changes` is a list, expected `{{#changes}}`"),
            ("{{#changes}}{{#changes}}", "line 1 of the template: sections are nested too deeply"),
        ];
        for (text, expected) in cases {
            let told = Template::parse(text, Escape::Json).expect_err(text).to_string();
            assert!(told.starts_with(expected), "{told}");
        }
    }
}
