//! Files of known bots: who may say that it is one, and from where.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::bytes::Regex;
use serde_json::Value as Json;

use super::FileError;
use crate::regex_dialect;

/// The entries of a file.
pub(crate) struct BotFile {
    entries: Vec<Bot>,
}

/// One request, as an entry looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit<'v> {
    pub(crate) ip: IpAddr,
    pub(crate) user_agent: &'v str,
    pub(crate) path: &'v str,
}

#[derive(Default)]
struct Bot {
    user_agent: Option<Regex>,
    paths: Vec<Regex>,
    ips: Vec<IpAddr>,
    ranges: Vec<IpNet>,
    rdns: Vec<Regex>,
}

impl BotFile {
    /// Reads entries up to the first bad one.
    pub(super) fn new(lines: &[(usize, String)]) -> (Self, Result<(), FileError>) {
        let mut file = Self { entries: Vec::new() };
        for (line, text) in lines {
            match bot(text) {
                Ok(bot) => file.entries.push(bot),
                Err(message) => return (file, Err(FileError::Row { line: *line, message })),
            }
        }
        (file, Ok(()))
    }

    fn claims(&self, visit: Visit<'_>) -> impl Iterator<Item = &Bot> {
        self.entries.iter().filter(move |bot| bot.claimed_by(visit))
    }

    /// Whether the address of the visit alone proves an entry that it claims.
    pub(crate) fn proven_by_address(&self, visit: Visit<'_>) -> bool {
        self.claims(visit)
            .any(|bot| bot.ips.contains(&visit.ip) || bot.ranges.iter().any(|range| range.contains(&visit.ip)))
    }

    /// Whether an entry that the visit claims could be proven by a name.
    pub(crate) fn wants_names(&self, visit: Visit<'_>) -> bool {
        self.claims(visit).any(|bot| !bot.rdns.is_empty())
    }

    /// Whether a confirmed name proves an entry that the visit claims.
    pub(crate) fn proven_by_name(&self, visit: Visit<'_>, name: &str) -> bool {
        self.claims(visit).any(|bot| bot.rdns.iter().any(|regex| regex.is_match(name.as_bytes())))
    }
}

impl Bot {
    fn claimed_by(&self, visit: Visit<'_>) -> bool {
        self.user_agent.as_ref().is_none_or(|regex| regex.is_match(visit.user_agent.as_bytes()))
            && (self.paths.is_empty() || self.paths.iter().any(|regex| regex.is_match(visit.path.as_bytes())))
    }
}

fn bot(text: &str) -> Result<Bot, String> {
    let Json::Object(object) = serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?
    else {
        return Err("not a JSON object".to_owned());
    };
    let mut bot = Bot::default();
    let mut named = false;
    for (key, value) in &object {
        let texts = || -> Result<Vec<&str>, String> {
            let bad = || format!("`{key}` must be a list of strings");
            value.as_array().ok_or_else(bad)?.iter().map(|item| item.as_str().ok_or_else(bad)).collect()
        };
        let regexes =
            || -> Result<Vec<Regex>, String> { texts()?.into_iter().map(|pattern| regex(key, pattern)).collect() };
        match key.as_str() {
            "name" => named = value.as_str().is_some_and(|name| !name.is_empty()),
            "user_agent" => {
                let pattern = value.as_str().ok_or("`user_agent` must be a string")?;
                bot.user_agent = if pattern.is_empty() { None } else { Some(regex(key, pattern)?) };
            }
            "paths" => bot.paths = regexes()?,
            "rdns" => {
                if texts()?.iter().any(|pattern| pattern.is_empty()) {
                    return Err("`rdns` holds an empty pattern".to_owned());
                }
                bot.rdns = regexes()?;
            }
            "ips" => {
                for text in texts()? {
                    let ip: IpAddr = text.parse().map_err(|_| format!("`{text}` is not an address"))?;
                    bot.ips.push(ip.to_canonical());
                }
            }
            "ranges" => {
                for text in texts()? {
                    bot.ranges.push(text.parse().map_err(|_| format!("`{text}` is not a range"))?);
                }
            }
            other => return Err(format!("unknown key `{other}`")),
        }
    }
    if !named {
        return Err("`name` is missing".to_owned());
    }
    if bot.ips.is_empty() && bot.ranges.is_empty() && bot.rdns.is_empty() {
        return Err("one of `ips`, `ranges` and `rdns` is wanted".to_owned());
    }
    Ok(bot)
}

fn regex(key: &str, pattern: &str) -> Result<Regex, String> {
    regex_dialect::compile(&format!("(?i){pattern}")).map_err(|error| format!("`{key}`: {error}"))
}
