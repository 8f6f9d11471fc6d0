//! Feeds as they stand in the file, read loosely and checked once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;
use sha2::{Digest, Sha256};

use super::query::{Format, Query};
use crate::config::{Fault, duration};
use crate::serve::config::{Certificates, Listen, RawTls, check as check_listen};

/// Fewest characters of a token: too many to try them out.
const TOKEN: usize = 20;
/// Most feeds of one target.
const MAX_FEEDS: usize = 64;

/// Feeds, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Where they are served.
    pub listen: Listen,
    /// What is served, by name.
    pub feeds: BTreeMap<String, Feed>,
    /// Who may fetch, by name.
    pub consumers: BTreeMap<String, Consumer>,
}

/// What is served under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feed {
    /// What it tells unless a consumer asks otherwise; consumers see nothing that `origin` leaves out.
    parameters: Vec<(String, String)>,
    /// The formats that are written down before anybody asks.
    pub prepare: Vec<Format>,
}

impl Feed {
    /// What it tells in `format`.
    pub fn query(&self, format: Format) -> Query {
        let mut query = Query::new(format);
        for (name, value) in &self.parameters {
            // they were checked when the file was read
            let _ = query.set(name, value);
        }
        query
    }
}

/// Who may fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Consumer {
    /// SHA-256 of his token.
    #[serde(skip)]
    pub token: Option<[u8; 32]>,
    /// A name in his certificate, in lower case.
    pub certificate: Option<String>,
    /// Where he may be; empty is anywhere.
    pub from: Vec<IpNet>,
    /// How often he is expected.
    pub every: Option<Duration>,
    /// What he may fetch; empty is everything.
    pub feeds: Vec<String>,
}

/// The section as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    listen: Spanned<String>,
    tls: Option<RawTls>,
    allow_plaintext: Option<bool>,
    feeds: Option<BTreeMap<String, Spanned<RawFeed>>>,
    consumers: Spanned<BTreeMap<String, Spanned<RawConsumer>>>,
}

/// A feed as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFeed {
    family: Option<String>,
    action: Option<String>,
    origin: Option<Vec<String>>,
    exclude_origin: Option<Vec<String>>,
    max: Option<u64>,
    aggregate: Option<bool>,
    hosts: Option<String>,
    placeholder: Option<String>,
    prepare: Option<Vec<Spanned<String>>>,
}

/// A consumer as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConsumer {
    token: Option<Spanned<String>>,
    token_file: Option<Spanned<PathBuf>>,
    certificate: Option<String>,
    from: Option<Vec<Spanned<String>>>,
    every: Option<Spanned<String>>,
    feeds: Option<Vec<Spanned<String>>>,
}

impl RawConfig {
    /// The checked section, or everything that is wrong with it.
    pub fn check(self) -> Result<Config, Vec<Fault>> {
        let mut faults = Vec::new();
        let plaintext = self.allow_plaintext.unwrap_or(false);
        let listen = check_listen(&self.listen, self.tls, Certificates::Optional, plaintext, &mut faults);
        let mut feeds = BTreeMap::new();
        for (name, raw) in self.feeds.into_iter().flatten() {
            let line = raw.referenced.line();
            if !is_feed_name(&name) {
                let message =
                    format!("`{name}` is no name of a feed, expected up to 20 letters, digits and `_`, a letter first");
                faults.push(Fault { line, message });
            }
            feeds.insert(name, raw.value.check(line, &mut faults));
        }
        if feeds.is_empty() {
            feeds.insert("cordon".to_owned(), Feed { parameters: Vec::new(), prepare: vec![Format::Text] });
        }
        if feeds.len() > MAX_FEEDS {
            let message = format!("expected up to {MAX_FEEDS} feeds");
            faults.push(Fault { line: self.listen.referenced.line(), message });
        }
        if self.consumers.value.is_empty() {
            let message = "nobody may fetch: expected at least one of `consumers`".to_owned();
            faults.push(Fault { line: self.consumers.referenced.line(), message });
        }
        let mut consumers = BTreeMap::new();
        for (name, raw) in self.consumers.value {
            let line = raw.referenced.line();
            let consumer = raw.value.check(&name, line, &feeds, &mut faults);
            consumers.insert(name, consumer);
        }
        match listen {
            Some(listen) if faults.is_empty() => Ok(Config { listen, feeds, consumers }),
            _ => Err(faults),
        }
    }
}

/// Whether `name` can name a table of nftables, a set of ipset and a list of RouterOS.
fn is_feed_name(name: &str) -> bool {
    name.len() <= 20
        && name.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl RawFeed {
    fn check(self, line: u64, faults: &mut Vec<Fault>) -> Feed {
        let Self { family, action, origin, exclude_origin, max, aggregate, hosts, placeholder, prepare } = self;
        let given = [
            ("family", family),
            ("action", action),
            ("origin", origin.map(|words| words.join(","))),
            ("exclude_origin", exclude_origin.map(|words| words.join(","))),
            ("max", max.map(|max| max.to_string())),
            ("aggregate", aggregate.map(|on| on.to_string())),
            ("hosts", hosts),
            ("placeholder", placeholder),
        ];
        let mut parameters = Vec::new();
        for (name, value) in given {
            let Some(value) = value else { continue };
            match Query::new(Format::Text).set(name, &value) {
                Ok(()) => parameters.push((name.to_owned(), value)),
                Err(error) => faults.push(Fault { line, message: error.to_string() }),
            }
        }
        let mut formats = Vec::new();
        match prepare {
            None => formats.push(Format::Text),
            Some(names) => {
                for name in names {
                    if let Some(format) = Format::named(&name.value) {
                        formats.push(format);
                    } else {
                        let all: Vec<&str> = Format::all().into_iter().map(Format::name).collect();
                        let message = format!("`{}` is no format, expected one of {}", name.value, all.join(", "));
                        faults.push(Fault { line: name.referenced.line(), message });
                    }
                }
            }
        }
        Feed { parameters, prepare: formats }
    }
}

impl RawConsumer {
    fn check(self, name: &str, line: u64, feeds: &BTreeMap<String, Feed>, faults: &mut Vec<Fault>) -> Consumer {
        let mut consumer = Consumer::default();
        let token = match (self.token, self.token_file) {
            (Some(token), None) => Some((token.value, token.referenced.line())),
            (None, Some(path)) => match std::fs::read_to_string(&path.value) {
                Ok(text) => Some((text.trim().to_owned(), path.referenced.line())),
                Err(error) => {
                    let message = format!("cannot read `{}`: {error}", path.value.display());
                    faults.push(Fault { line: path.referenced.line(), message });
                    None
                }
            },
            (None, None) => None,
            (Some(_), Some(path)) => {
                let message = "expected either `token` or `token_file`, not both".to_owned();
                faults.push(Fault { line: path.referenced.line(), message });
                None
            }
        };
        if let Some((token, line)) = token {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
            if token.len() >= TOKEN && token.bytes().all(good) {
                consumer.token = Some(digest(&token));
            } else {
                let message = format!(
                    "the token of `{name}` is too weak, expected at least {TOKEN} letters, digits, `-`, `_`, `.` and `~`\n\
                     hint: `openssl rand -hex 24` makes one"
                );
                faults.push(Fault { line, message });
            }
        }
        consumer.certificate = self.certificate.map(|name| name.to_lowercase());
        if consumer.token.is_none() && consumer.certificate.is_none() {
            let message = format!("`{name}` cannot say who he is, expected `token`, `token_file` or `certificate`");
            faults.push(Fault { line, message });
        }
        for net in self.from.into_iter().flatten() {
            match model::scope::parse_net(&net.value) {
                Ok(net) => consumer.from.push(net),
                Err(error) => faults.push(Fault { line: net.referenced.line(), message: error.to_string() }),
            }
        }
        if self.every.is_some() {
            let mut every = Duration::ZERO;
            duration(self.every, "every", &mut every, faults);
            consumer.every = Some(every);
        }
        for feed in self.feeds.into_iter().flatten() {
            if !feeds.contains_key(&feed.value) {
                let message = format!("there is no feed `{}`", feed.value);
                faults.push(Fault { line: feed.referenced.line(), message });
            }
            consumer.feeds.push(feed.value);
        }
        consumer
    }
}

/// By what a token is known: it is never kept, and comparing takes no longer for a token that is nearly right.
pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let raw: RawConfig = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        raw.check().map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_small_section_is_enough() {
        let text = "listen: 127.0.0.1:8443\nconsumers: { hq: { token: 0123456789abcdef0123, every: 5m } }";
        let config = parse(text).expect("no mistakes");
        let names: Vec<&String> = config.feeds.keys().collect();
        assert_eq!(names, ["cordon"]);
        assert_eq!(config.consumers["hq"].every, Some(Duration::from_mins(5)));
        let shown = serde_json::to_string(&config).expect("plain data");
        assert!(!shown.contains("0123456789abcdef") && !shown.contains("token"), "{shown}");
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let text = "listen: 0.0.0.0:8443\nfeeds:\n  'a b': { max: 0 }\n  nets: { prepare: [docx], family: 5 }\n\
                    consumers:\n  a: { token: short }\n  b: {}\n  \
                    c: { certificate: x, from: [here], every: soon, feeds: [none] }";
        insta::assert_snapshot!(parse(text).expect_err("many mistakes"));
    }
}
