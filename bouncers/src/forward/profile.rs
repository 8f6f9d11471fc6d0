//! What a profile refuses, and in which order it is asked.
//!
//! Allowed addresses first, so that not even a wrong decision can lock them out; then the address, its country, the
//! identity, the path. Pure: the same state, question and time give the same answer.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

use super::table::{Held, Table};
use crate::serve::percent;

/// What proxies ask for under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// How a refusal is told.
    pub code: Code,
    /// Whether only 2xx, 401 and 403 are understood, as by nginx.
    pub only_nginx_codes: bool,
    /// The header in which the proxy says who is logged in, in lower case.
    pub identity: Option<String>,
    /// Who is let in by country.
    pub countries: Option<Countries>,
    /// Paths that nobody may ask for.
    pub paths: Paths,
    /// A page of one's own, in place of ours.
    pub page: Option<String>,
    /// Whether answers tell the proxy by which decision they were made.
    pub debug_headers: bool,
}

/// How a refusal is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Code {
    /// 403.
    #[default]
    Forbidden,
    /// 401.
    Unauthorized,
    /// 429, with the time after which it is worth trying again.
    TooManyRequests,
}

/// A country by its two letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Serialize for Country {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Country {
    /// The country that two letters name.
    pub fn new(code: &str) -> Option<Self> {
        let code: [u8; 2] = code.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_alphabetic).then(|| Self(code.map(|letter| letter.to_ascii_uppercase())))
    }

    /// Its two letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("two letters of ASCII")
    }
}

/// Who is let in by country.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Countries {
    /// Which ones.
    pub list: Lists,
    /// Whether addresses pass that no country has.
    pub unknown_passes: bool,
}

/// Countries, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lists {
    /// Nobody else passes.
    Only(Vec<Country>),
    /// None of them passes.
    Never(Vec<Country>),
}

impl Countries {
    fn pass(&self, country: Option<Country>) -> bool {
        match (&self.list, country) {
            (_, None) => self.unknown_passes,
            (Lists::Only(list), Some(country)) => list.binary_search(&country).is_ok(),
            (Lists::Never(list), Some(country)) => list.binary_search(&country).is_err(),
        }
    }
}

/// Paths that nobody may ask for: each with all that lies below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Paths(Vec<Vec<String>>);

impl Paths {
    /// The paths as they are written in the configuration.
    pub fn new(paths: &[String]) -> Self {
        Self(paths.iter().map(|path| segments(path)).filter(|path| !path.is_empty()).collect())
    }

    /// Whether `path`, as a client wrote it, is one of them or lies below one. Other spellings of the same path are it,
    /// too.
    pub fn contain(&self, path: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let asked = segments(path);
        self.0.iter().any(|path| asked.starts_with(path))
    }
}

/// The parts of a path as servers understand them: `%2e` is a dot, `..` goes up, `//` is `/`, and neither the query nor
/// what follows a `;` matters. In lower case, because some file systems know no other.
fn segments(path: &str) -> Vec<String> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = match path.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        _ => path,
    };
    let decoded = percent::decode(path);
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_lowercase()),
        }
    }
    segments
}

/// Tells in which country an address is.
pub trait Atlas {
    /// The country of `address`, if it is in one.
    fn country(&self, address: IpAddr) -> Option<Country>;
}

/// What is known about the state of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posture {
    /// Decisions are known.
    Judging,
    /// They are not, and everybody passes.
    Open,
    /// They are not, and nobody passes who is not allowed.
    Closed,
}

/// A request, as far as it matters.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub client: IpAddr,
    /// Who is logged in, as a listed proxy says.
    pub identities: Vec<String>,
    /// The path that is asked for.
    pub path: Option<&'a str>,
}

/// What refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A decision about the address or a range around it.
    Address,
    /// A decision or a rule about its country.
    Country,
    /// A decision about who is logged in.
    Identity,
    /// A rule about the path.
    Path,
    /// Nothing is known, and that closes.
    Closed,
}

/// A request must not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What refuses it.
    pub cause: Cause,
    /// The decision behind it; `None` for a rule.
    pub held: Option<Held>,
}

/// The scopes in which decisions name who is logged in, in lower case.
pub const IDENTITIES: [&str; 3] = ["identity", "user", "username"];

/// Whether `question` is refused under `profile` at `now`, and by what.
pub fn judge(
    profile: &Profile,
    table: &Table,
    atlas: Option<&dyn Atlas>,
    posture: Posture,
    question: &Question<'_>,
    now: Timestamp,
) -> Option<Refusal> {
    if table.spares(question.client) {
        return None;
    }
    match posture {
        Posture::Judging => {}
        Posture::Open => return None,
        Posture::Closed => return Some(Refusal { cause: Cause::Closed, held: None }),
    }
    if let Some(held) = table.address(question.client, now) {
        return Some(Refusal { cause: Cause::Address, held: Some(held) });
    }
    if let Some(atlas) = atlas {
        let country = atlas.country(question.client);
        if let Some(held) = country.and_then(|country| table.named("country", country.as_str(), now)) {
            return Some(Refusal { cause: Cause::Country, held: Some(held) });
        }
        if profile.countries.as_ref().is_some_and(|countries| !countries.pass(country)) {
            return Some(Refusal { cause: Cause::Country, held: None });
        }
    }
    let decided =
        question.identities.iter().find_map(|name| IDENTITIES.iter().find_map(|scope| table.named(scope, name, now)));
    if decided.is_some() {
        return Some(Refusal { cause: Cause::Identity, held: decided });
    }
    let refused = question.path.is_some_and(|path| profile.paths.contain(path));
    refused.then_some(Refusal { cause: Cause::Path, held: None })
}

#[cfg(test)]
mod tests {
    use model::Scope;

    use super::*;
    use crate::engine::Never;
    use crate::engine::desired::tests::second;
    use crate::engine::desired::{Key, Subject};
    use crate::engine::span::Span;

    /// All addresses that begin with 198 are Austrian, those with 203 French.
    struct Map;

    impl Atlas for Map {
        fn country(&self, address: IpAddr) -> Option<Country> {
            let text = address.to_string();
            let code = if text.starts_with("198.") { "AT" } else { "FR" };
            Country::new(code).filter(|_| text.starts_with("198.") || text.starts_with("203."))
        }
    }

    fn named(scope: &str, value: &str) -> Key {
        Key { remediation: "ban".into(), subject: Subject::Named(Scope::new(scope), value.into()) }
    }

    fn net(text: &str) -> ipnet::IpNet {
        model::scope::parse_net(text).expect("a valid test prefix")
    }

    #[test]
    fn the_order_of_the_questions() {
        let ban = |text| Key { remediation: "ban".into(), subject: Subject::Net(net(text)) };
        let held = |id| Some(Held::new(second(60), id));
        let keys = [ban("192.0.2.0/24"), ban("203.0.113.9"), named("username", "mallory"), named("Country", "FR")];
        let never = Never { v4: vec![Span::of(net("192.0.2.7"))], v6: vec![] };
        let table = Table::default().sparing(never).with(keys.iter().zip(1..).map(|(key, id)| (key, held(id))));
        let only = Countries { list: Lists::Only(vec![Country(*b"AT")]), unknown_passes: true };
        let never = Countries { list: Lists::Never(vec![Country(*b"AT")]), unknown_passes: true };
        let strict = Countries { unknown_passes: false, ..only.clone() };
        let paths = Paths::new(&["/.git".to_owned()]);
        let profile = |countries| Profile { countries, paths: paths.clone(), ..Profile::default() };
        // (what, client, who is logged in, path, countries, decided by)
        let cases = [
            ("a stranger", "100.64.0.9", "alice", "/", None, "passes"),
            ("banned", "192.0.2.8", "alice", "/", None, "Address 1"),
            ("allowed inside a banned range", "192.0.2.7", "mallory", "/.git", None, "passes"),
            ("a ban is told before its country", "203.0.113.9", "mallory", "/", None, "Address 2"),
            ("a banned country", "203.0.113.10", "mallory", "/", None, "Country 4"),
            ("a banned user", "198.51.100.1", "mallory", "/.git", None, "Identity 3"),
            ("a refused path", "198.51.100.1", "alice", "/.git/config", None, "Path"),
            ("an expected country", "198.51.100.1", "alice", "/", Some(only.clone()), "passes"),
            ("an unwanted country", "198.51.100.1", "mallory", "/", Some(never), "Country"),
            ("no country", "100.64.0.9", "alice", "/", Some(only), "passes"),
            ("no country where one is wanted", "100.64.0.9", "alice", "/", Some(strict), "Country"),
        ];
        for (what, client, user, path, countries, expected) in cases {
            let client = client.parse().expect("a valid test address");
            let question = Question { client, identities: vec![user.to_owned()], path: Some(path) };
            let told =
                |posture| match judge(&profile(countries.clone()), &table, Some(&Map), posture, &question, second(0)) {
                    None => "passes".to_owned(),
                    Some(Refusal { cause, held: Some(held) }) => format!("{cause:?} {}", held.decision),
                    Some(Refusal { cause, held: None }) => format!("{cause:?}"),
                };
            assert_eq!(told(Posture::Judging), expected, "{what}");
            assert_eq!(told(Posture::Open), "passes", "{what}");
            let closed = if client.to_string() == "192.0.2.7" { "passes" } else { "Closed" };
            assert_eq!(told(Posture::Closed), closed, "{what}");
        }
    }

    #[test]
    fn a_path_is_refused_in_every_spelling() {
        let paths = Paths::new(&["/.git".to_owned(), "/admin/panel".to_owned()]);
        let refused = [
            "/.git",
            "/.git/",
            "/.git/config?x=1",
            "//.git",
            "/./.git",
            "/a/../.git",
            "/%2egit",
            "/.%67it/HEAD",
            "/.GIT",
            "/.git;v=1/config",
            "/../.git",
            "/admin/panel/x",
            "/admin%2Fpanel",
            "/admin\\panel",
            "https://site/.git",
        ];
        let passing =
            ["/", "", "/git", "/.gitignore", "/admin", "/admin/panels", "/x?path=/.git", "/x#/.git", "/a/.git", "%"];
        for path in refused {
            assert!(paths.contain(path), "{path}");
        }
        for path in passing {
            assert!(!paths.contain(path), "{path}");
        }
    }
}
