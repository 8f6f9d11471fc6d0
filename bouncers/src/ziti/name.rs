//! Whom a decision names: an identity by its id, name or external id, or a session by its id.
//!
//! The value may come from a log that an attacker writes to. It goes into a path or a filter of the controller's
//! query language, so ids are checked letter by letter and texts are quoted.

use std::fmt;

/// Longest text that is asked for.
const MAX_TEXT: usize = 512;
/// Longest id.
const MAX_ID: usize = 64;

/// An identity as a decision names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// By its id.
    Id(String),
    /// `name:`, by its name.
    Name(String),
    /// `external:`, by the id that another directory gave it.
    External(String),
}

/// Why a value names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No id.
    #[error("`{0}` is no id of an identity, expected an id, `name:NAME` or `external:ID`")]
    Id(String),
    /// No text.
    #[error("the name is empty, longer than {MAX_TEXT} bytes, or has control characters")]
    Text,
}

impl Name {
    /// The identity that `value` names.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        let text = |text: &str| {
            let good = !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
            good.then(|| text.to_owned()).ok_or(NameError::Text)
        };
        match value.split_once(':') {
            Some(("name", rest)) => text(rest).map(Self::Name),
            Some(("external", rest)) => text(rest).map(Self::External),
            _ => id(value).map(Self::Id),
        }
    }

    /// The filter that finds it, where it must be searched for.
    pub fn filter(&self) -> Option<String> {
        match self {
            Self::Id(_) => None,
            Self::Name(name) => Some(format!("name={}", quote(name))),
            Self::External(external) => Some(format!("externalId={}", quote(external))),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id),
            Self::Name(name) => write!(f, "name:{name}"),
            Self::External(external) => write!(f, "external:{external}"),
        }
    }
}

/// `text` if it may stand in a path: letters, digits, `.`, `_` and `-`, and not only dots.
pub fn id(text: &str) -> Result<String, NameError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let all = text.chars().all(good) && text.chars().any(|c| c != '.');
    if all && text.len() <= MAX_ID {
        return Ok(text.to_owned());
    }
    let shown: String = text.chars().filter(|c| !c.is_control()).take(MAX_ID).collect();
    Err(NameError::Id(shown))
}

/// `text` as a string of the controller's query language.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// `text` percent-encoded for a query or a form.
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("text takes any length"),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_quoted() {
        // (value, filter or error)
        let cases = [
            ("RmT6Ew-4.x_", "an id"),
            ("name:alice", r#"name="alice""#),
            ("external:8f3c@example.org", r#"externalId="8f3c@example.org""#),
            (r#"name:x" or true or name=""#, r#"name="x\" or true or name=\"""#),
            (r"name:x\", r#"name="x\\""#),
            ("name:a:b", r#"name="a:b""#),
            ("name:", "the name is empty, longer than 512 bytes, or has control characters"),
            ("name:a\nb", "the name is empty, longer than 512 bytes, or has control characters"),
            ("../version", "`../version` is no id of an identity, expected an id, `name:NAME` or `external:ID`"),
            ("..", "`..` is no id of an identity, expected an id, `name:NAME` or `external:ID`"),
            ("", "`` is no id of an identity, expected an id, `name:NAME` or `external:ID`"),
            ("a?x=1", "`a?x=1` is no id of an identity, expected an id, `name:NAME` or `external:ID`"),
            ("a\u{1b}[0m/", "`a[0m/` is no id of an identity, expected an id, `name:NAME` or `external:ID`"),
        ];
        for (value, expected) in cases {
            let found = match Name::parse(value) {
                Ok(name) => name.filter().unwrap_or_else(|| "an id".to_owned()),
                Err(error) => error.to_string(),
            };
            assert_eq!(found, expected, "{value:?}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encode("a b&c=d/é\n~"), "a%20b%26c%3Dd%2F%C3%A9%0A~");
    }
}
