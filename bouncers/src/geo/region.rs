//! Who an address belongs to: a country, or an autonomous system. One spelling each.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::geo::countries::{COUNTRIES, HABITS};

/// A country's code of two letters, as databases write it: capital letters, not necessarily one that we know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code([u8; 2]);

impl Code {
    /// The code in `text`, if that is two letters.
    pub fn parse(text: &str) -> Option<Self> {
        match *text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Some(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => None,
        }
    }

    /// The country's English name; `None` for a code that no country has.
    pub fn name(self) -> Option<&'static str> {
        let found = COUNTRIES.binary_search_by(|(code, _)| code.as_bytes().cmp(&self.0)).ok()?;
        COUNTRIES.get(found).map(|(_, name)| *name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.0[0]), char::from(self.0[1]))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a policy or a decision names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    /// All networks of a country.
    Country(Code),
    /// All networks of an autonomous system.
    System(u32),
}

/// A text that names no region: what it is, and what may have been meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no country and no autonomous system{}", .hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
pub struct UnknownRegion {
    /// What was found.
    pub found: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Region {
    /// The region that a person means by `text`: a country's code (`DE`) or a system's number (`AS64500`). Only
    /// countries that exist are taken.
    pub fn parse(text: &str) -> Result<Self, UnknownRegion> {
        let text = text.trim();
        let digits = text.get(..2).filter(|start| start.eq_ignore_ascii_case("as")).and_then(|_| text.get(2..));
        if let Some(number) = digits.filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())) {
            return match number.parse() {
                Ok(number @ 1..) => Ok(Region::System(number)),
                _ => Err(UnknownRegion {
                    found: text.into(),
                    hint: Some(format!("numbers of autonomous systems go from 1 to {}", u32::MAX)),
                }),
            };
        }
        match Code::parse(text) {
            Some(code) if code.name().is_some() => Ok(Region::Country(code)),
            _ => Err(UnknownRegion { found: text.into(), hint: Some(suggest(text)) }),
        }
    }

    /// The region that a decision's value names. A code that no country has is taken: whoever decided may know more.
    pub fn of_decision(scope: &model::Scope, value: &str) -> Option<Self> {
        let value = value.trim();
        match scope {
            model::Scope::Country => Code::parse(value).map(Region::Country),
            model::Scope::As => {
                let digits = value.strip_prefix(['A', 'a']).and_then(|rest| rest.strip_prefix(['S', 's']));
                digits.unwrap_or(value).parse().ok().filter(|&number| number > 0).map(Region::System)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Region::Country(code) => write!(f, "{code}"),
            Region::System(number) => write!(f, "AS{number}"),
        }
    }
}

impl Serialize for Region {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Region {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn suggest(text: &str) -> String {
    let upper = text.to_uppercase();
    let meant = |code: &str, name: &str| format!("did you mean `{code}` ({name})?");
    let name_of = |code: &str| Code::parse(code).and_then(Code::name).unwrap_or_default();
    if let Some((_, code)) = HABITS.iter().find(|(habit, _)| *habit == upper) {
        return meant(code, name_of(code));
    }
    if text.len() > 2 {
        let names = COUNTRIES.iter().map(|(_, name)| *name);
        let exact = names.clone().find(|name| name.eq_ignore_ascii_case(text));
        let near = exact.or_else(|| model::yaml::did_you_mean(text, names));
        if let Some((code, name)) = near.and_then(|near| COUNTRIES.iter().find(|(_, name)| *name == near)) {
            return meant(code, name);
        }
    }
    "a country is named by its code of two letters (ISO 3166), like `DE`; an autonomous system like `AS64500`".into()
}

#[cfg(test)]
mod tests {
    use model::Scope;

    use super::*;

    #[test]
    fn countries_are_in_order() {
        assert!(COUNTRIES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(HABITS.iter().all(|(_, code)| Code::parse(code).and_then(Code::name).is_some()));
        assert!(HABITS.iter().all(|(habit, _)| Region::parse(habit).is_err()));
    }

    #[test]
    fn what_people_write() {
        let hint =
            "a country is named by its code of two letters (ISO 3166), like `DE`; an autonomous system like `AS64500`";
        // (text, region or hint)
        let cases = [
            ("DE", Ok("DE")),
            (" at ", Ok("AT")),
            ("AS64500", Ok("AS64500")),
            ("as7", Ok("AS7")),
            ("AS", Ok("AS")),
            ("UK", Err("did you mean `GB` (United Kingdom)?")),
            ("germany", Err("did you mean `DE` (Germany)?")),
            ("Germny", Err("did you mean `DE` (Germany)?")),
            ("AS0", Err("numbers of autonomous systems go from 1 to 4294967295")),
            ("AS99999999999", Err("numbers of autonomous systems go from 1 to 4294967295")),
            ("QQ", Err(hint)),
            ("", Err(hint)),
            ("\u{fc}\u{fc}", Err(hint)),
        ];
        for (text, expected) in cases {
            let found = Region::parse(text).map(|region| region.to_string()).map_err(|error| error.hint);
            assert_eq!(found, expected.map(str::to_owned).map_err(|hint| Some(hint.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_decisions_name() {
        // (scope, value, region)
        let cases = [
            (Scope::Country, "fr", Some("FR")),
            (Scope::Country, "QQ", Some("QQ")),
            (Scope::Country, "France", None),
            (Scope::As, "AS64500", Some("AS64500")),
            (Scope::As, "64500", Some("AS64500")),
            (Scope::As, "AS0", None),
            (Scope::As, "\u{e9}S1", None),
            (Scope::Ip, "FR", None),
        ];
        for (scope, value, expected) in cases {
            let found = Region::of_decision(&scope, value).map(|region| region.to_string());
            assert_eq!(found.as_deref(), expected, "{scope} {value}");
        }
    }
}
