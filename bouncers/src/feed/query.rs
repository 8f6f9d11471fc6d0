//! What a consumer asks for: a format, and which entries in what form.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::serve::percent;

/// How many origins one request may name.
const MAX_WORDS: usize = 16;
/// Longest word in bytes.
const MAX_WORD: usize = 64;

/// How entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// One address or prefix a line.
    Text,
    /// The inside of nginx's `geo` block.
    NginxGeo,
    /// nginx's `deny` lines.
    NginxDeny,
    /// A map file of `haproxy`.
    HaproxyMap,
    /// A script for RouterOS.
    Mikrotik,
    /// Input of `ipset restore`.
    IpsetRestore,
    /// A table file of pf.
    Pf,
    /// JSON.
    Json,
    /// CSV.
    Csv,
    /// A transaction for `nft -f`.
    Nft,
}

impl Format {
    /// The extensions in paths; the first one of a format is its name.
    const NAMES: [(&'static str, Format); 12] = [
        ("txt", Format::Text),
        ("nginx-geo", Format::NginxGeo),
        ("nginx-deny", Format::NginxDeny),
        ("haproxy-map", Format::HaproxyMap),
        ("mikrotik", Format::Mikrotik),
        ("rsc", Format::Mikrotik),
        ("ipset-restore", Format::IpsetRestore),
        ("ipset", Format::IpsetRestore),
        ("pf", Format::Pf),
        ("json", Format::Json),
        ("csv", Format::Csv),
        ("nft", Format::Nft),
    ];

    /// The format with the extension `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, format)| format)
    }

    /// All formats, once.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Self::NAMES.iter().map(|&(_, format)| format).collect();
        all.dedup();
        all
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("", |&(name, _)| name)
    }

    /// Its type, as HTTP names it.
    pub fn kind(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        }
    }

    /// Whether entries carry the time that they have left.
    pub fn is_timed(self) -> bool {
        matches!(self, Format::Mikrotik | Format::IpsetRestore | Format::Nft)
    }

    /// Whether entries are told one by one unless somebody asks otherwise: for programs, not for firewalls.
    fn is_detailed(self) -> bool {
        matches!(self, Format::Json | Format::Csv)
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Which addresses are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Families {
    /// All.
    #[default]
    Both,
    /// IPv4.
    Four,
    /// IPv6.
    Six,
}

/// Which entries, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    /// How they are written.
    pub format: Format,
    /// Which addresses.
    pub family: Families,
    /// The remediation; `None` tells all.
    pub action: Option<String>,
    /// Only those of these origins, in lower case and in order; empty tells all.
    pub origin: Vec<String>,
    /// None of these origins, in lower case and in order.
    pub exclude_origin: Vec<String>,
    /// At most so many lines.
    pub max: Option<usize>,
    /// Whether neighbours become one prefix.
    pub aggregate: bool,
    /// Whether single addresses are written with their length.
    pub cidr: bool,
    /// An address that stands in a list which would be empty.
    pub placeholder: Option<IpAddr>,
}

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no such parameter.
    #[error(
        "`{0}` is no parameter of a feed, expected action, aggregate, exclude_origin, family, hosts, max, origin or placeholder"
    )]
    Unknown(String),
    /// A value makes no sense.
    #[error("`{found}` is no value for `{name}`, expected {expected}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The feed leaves out what is asked for.
    #[error("this feed does not tell of these origins")]
    Outside,
}

impl Query {
    /// Every ban, as `format` is mostly wanted.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            family: Families::Both,
            action: Some("ban".to_owned()),
            origin: Vec::new(),
            exclude_origin: Vec::new(),
            max: None,
            aggregate: !format.is_detailed(),
            cidr: false,
            placeholder: None,
        }
    }

    /// What `text`, the part of an address behind `?`, changes.
    pub fn parse(mut self, text: &str) -> Result<Self, QueryError> {
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.set(&decode(name), &decode(value))?;
        }
        Ok(self)
    }

    /// Sets one parameter.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), QueryError> {
        let wrong = |name, expected| QueryError::Value { name, found: shorten(value), expected };
        match name {
            "family" => {
                self.family = match value {
                    "4" => Families::Four,
                    "6" => Families::Six,
                    "both" => Families::Both,
                    _ => return Err(wrong("family", "`4`, `6` or `both`")),
                }
            }
            "action" => {
                self.action = match value {
                    "all" => None,
                    _ => Some(word(value).ok_or_else(|| wrong("action", "a remediation like `ban`, or `all`"))?),
                }
            }
            "origin" => self.origin = words(value).ok_or_else(|| wrong("origin", "origins, separated by commas"))?,
            "exclude_origin" => {
                self.exclude_origin =
                    words(value).ok_or_else(|| wrong("exclude_origin", "origins, separated by commas"))?;
            }
            "max" => {
                let max = value.parse().ok().filter(|&max| max > 0);
                self.max = Some(max.ok_or_else(|| wrong("max", "a number of lines from 1"))?);
            }
            "aggregate" => {
                self.aggregate = match value {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err(wrong("aggregate", "`0` or `1`")),
                }
            }
            "hosts" => {
                self.cidr = match value {
                    "bare" => false,
                    "cidr" => true,
                    _ => return Err(wrong("hosts", "`bare` or `cidr`")),
                }
            }
            "placeholder" => {
                let net = model::scope::parse_net(value).ok().filter(|net| net.prefix_len() == net.max_prefix_len());
                let net = net.ok_or_else(|| wrong("placeholder", "one address, like `192.0.2.1`"))?;
                self.placeholder = Some(net.addr());
            }
            _ => return Err(QueryError::Unknown(shorten(name))),
        }
        Ok(())
    }

    /// This question, as far as a feed that tells `whole` may answer it.
    pub fn within(mut self, whole: &Self) -> Result<Self, QueryError> {
        if !whole.origin.is_empty() {
            self.origin.retain(|origin| whole.origin.contains(origin));
            if self.origin.is_empty() {
                return Err(QueryError::Outside);
            }
        }
        self.exclude_origin.extend(whole.exclude_origin.iter().cloned());
        self.exclude_origin.sort_unstable();
        self.exclude_origin.dedup();
        self.max = self.max.into_iter().chain(whole.max).min();
        Ok(self)
    }

    /// Whether each entry is told by itself, with all that is known about it.
    pub fn is_detailed(&self) -> bool {
        !self.aggregate && self.format.is_detailed()
    }

    /// Whether entries of `action` that `origin` decided are asked for.
    pub fn takes(&self, action: &str, origin: &str) -> bool {
        let is = |known: &String| known.eq_ignore_ascii_case(origin);
        self.action.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(action))
            && (self.origin.is_empty() || self.origin.iter().any(is))
            && !self.exclude_origin.iter().any(is)
    }
}

/// The parameters that differ from the format's own, in one spelling.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, family, action, origin, exclude_origin, max, aggregate, cidr, placeholder } = self;
        write!(f, "{} family={family:?} action={}", format.name(), action.as_deref().unwrap_or("all"))?;
        write!(f, " origin={} exclude_origin={}", origin.join(","), exclude_origin.join(","))?;
        write!(f, " max={} aggregate={aggregate} cidr={cidr}", max.unwrap_or(0))?;
        placeholder.iter().try_for_each(|address| write!(f, " placeholder={address}"))
    }
}

fn word(text: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte);
    ((1..=MAX_WORD).contains(&text.len()) && text.bytes().all(good)).then(|| text.to_ascii_lowercase())
}

fn words(text: &str) -> Option<Vec<String>> {
    let mut words = text.split(',').map(word).collect::<Option<Vec<_>>>()?;
    words.sort_unstable();
    words.dedup();
    (words.len() <= MAX_WORDS).then_some(words)
}

/// What of `text` can be told back to whoever wrote it.
fn shorten(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(MAX_WORD).collect()
}

/// `text` as forms write it.
fn decode(text: &str) -> String {
    percent::decode(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_questions_are_one() {
        let parse = |text| Query::new(Format::Text).parse(text).map(|query| query.to_string());
        assert_eq!(parse("origin=b,a&max=10"), parse("max=10&&origin=A%2Cb"));
        assert_eq!(parse(""), parse("family=both&action=ban&aggregate=1&hosts=bare"));
        assert_ne!(parse(""), parse("hosts=cidr"));
    }

    #[test]
    fn a_feed_tells_no_more_than_it_is_meant_to() {
        let whole = Query::new(Format::Text).parse("origin=a,b&exclude_origin=c&max=10").expect("a valid test query");
        let asked = |text: &str| whole.clone().parse(text).and_then(|query| query.within(&whole));
        let told = |text| asked(text).map(|query| (query.origin.join(","), query.exclude_origin.join(","), query.max));
        assert_eq!(told(""), Ok(("a,b".into(), "c".into(), Some(10))));
        assert_eq!(told("origin=b,x&exclude_origin=d&max=5"), Ok(("b".into(), "c,d".into(), Some(5))));
        assert_eq!(told("max=50"), Ok(("a,b".into(), "c".into(), Some(10))));
        assert_eq!(told("origin=x"), Err(QueryError::Outside));
    }

    #[test]
    fn mistakes_are_told() {
        let told = |text| match Query::new(Format::Text).parse(text) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        };
        // (query, what is told)
        let cases = [
            ("family=5", "`5` is no value for `family`, expected `4`, `6` or `both`"),
            ("max=0", "`0` is no value for `max`, expected a number of lines from 1"),
            ("max=-1", "`-1` is no value for `max`, expected a number of lines from 1"),
            ("hosts", "`` is no value for `hosts`, expected `bare` or `cidr`"),
            ("origin=a%00b", "`ab` is no value for `origin`, expected origins, separated by commas"),
            (
                "placeholder=0.0.0.0/0",
                "`0.0.0.0/0` is no value for `placeholder`, expected one address, like `192.0.2.1`",
            ),
            ("placeholder=192.0.2.1/32", "fine"),
        ];
        for (query, expected) in cases {
            assert_eq!(told(query), expected, "{query}");
        }
        assert!(told("colour=red").starts_with("`colour` is no parameter of a feed"));
    }

    #[test]
    fn every_format_has_one_name() {
        for format in Format::all() {
            assert_eq!(Format::named(format.name()), Some(format));
        }
        assert_eq!(Format::all().len(), 10);
        assert_eq!(Format::named("rsc"), Some(Format::Mikrotik));
    }
}
