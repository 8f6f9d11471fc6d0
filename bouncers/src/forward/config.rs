//! Forward-auth as it stands in the file, read loosely and checked once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::profile::{Code, Countries, Country, Lists, Paths, Profile};
use crate::config::{Fault, choose};
use crate::serve::config::{Certificates, Listen, RawTls, check as check_listen};

/// Most profiles of one target.
const MAX_PROFILES: usize = 64;

/// Forward-auth, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Who may say for whom he asks.
    pub trusted_proxies: Vec<IpNet>,
    /// The database of countries, if any profile or decision needs one.
    pub countries: Option<PathBuf>,
    /// Whether requests pass while nothing is known yet.
    pub unloaded: Unloaded,
    /// How many threads answer.
    pub workers: usize,
    /// What is asked for, by name.
    pub profiles: BTreeMap<String, Profile>,
}

/// What becomes of requests while nothing is known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unloaded {
    /// They pass, and that is counted.
    Open,
    /// They are refused.
    Closed,
}

/// The section as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    listen: Spanned<String>,
    tls: Option<RawTls>,
    allow_plaintext: Option<bool>,
    trusted_proxies: Option<Vec<Spanned<String>>>,
    country_database: Option<PathBuf>,
    unloaded: Option<Spanned<String>>,
    workers: Option<Spanned<i64>>,
    profiles: Spanned<BTreeMap<String, Spanned<RawProfile>>>,
}

/// A profile as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawProfile {
    proxy: Option<Spanned<String>>,
    status: Option<Spanned<i64>>,
    identity: Option<Spanned<String>>,
    countries: Option<Spanned<RawCountries>>,
    paths: Option<Vec<Spanned<String>>>,
    page: Option<Spanned<PathBuf>>,
    debug_headers: Option<bool>,
}

/// Countries as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCountries {
    only: Option<Vec<Spanned<String>>>,
    never: Option<Vec<Spanned<String>>>,
    unknown: Option<Spanned<String>>,
}

impl RawConfig {
    /// The checked section, or everything that is wrong with it. Where it lists no proxies, those of the `whole` section
    /// are meant.
    pub fn check(self, whole: &[IpNet]) -> Result<Config, Vec<Fault>> {
        let mut faults = Vec::new();
        let plaintext = self.allow_plaintext.unwrap_or(false);
        let pinned = self.tls.is_some();
        let listen = check_listen(&self.listen, self.tls, Certificates::Pinned, plaintext, &mut faults);
        let mut trusted_proxies = if self.trusted_proxies.is_none() { whole.to_vec() } else { Vec::new() };
        for net in self.trusted_proxies.into_iter().flatten() {
            match model::scope::parse_net(&net.value) {
                Ok(parsed) if parsed.prefix_len() == 0 => {
                    let message =
                        format!("`{}` lists everybody as a proxy: anybody could forge his address", net.value);
                    faults.push(Fault { line: net.referenced.line(), message });
                }
                Ok(parsed) => trusted_proxies.push(parsed),
                Err(error) => faults.push(Fault { line: net.referenced.line(), message: error.to_string() }),
            }
        }
        let over_tcp = self.listen.value.parse::<std::net::SocketAddr>().is_ok();
        if over_tcp && !pinned && trusted_proxies.is_empty() {
            let message = "`trusted_proxies` is missing: without it no proxy is believed, and everybody passes who asks through one";
            faults.push(Fault { line: self.listen.referenced.line(), message: message.to_owned() });
        }
        let mut unloaded = Unloaded::Open;
        let choices = [("open", Unloaded::Open), ("closed", Unloaded::Closed)];
        choose(self.unloaded, "unloaded", &choices, &mut unloaded, &mut faults);
        let mut workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
        crate::config::limit(self.workers, "workers", 1..=64, &mut workers, &mut faults);
        let line = self.profiles.referenced.line();
        if self.profiles.value.is_empty() || self.profiles.value.len() > MAX_PROFILES {
            let message = format!("expected 1 to {MAX_PROFILES} profiles: proxies ask for `/v1/check/PROFILE`");
            faults.push(Fault { line, message });
        }
        let mut profiles = BTreeMap::new();
        for (name, raw) in self.profiles.value {
            let line = raw.referenced.line();
            if !is_name(&name) {
                let message = format!("`{name}` is no name of a profile, expected letters, digits, `-` and `_`");
                faults.push(Fault { line, message });
            }
            let profile = raw.value.check(&mut faults);
            if profile.countries.is_some() && self.country_database.is_none() {
                let message = format!("the profile `{name}` names countries, and there is no `country_database`");
                faults.push(Fault { line, message });
            }
            profiles.insert(name, profile);
        }
        match listen {
            Some(listen) if faults.is_empty() => {
                Ok(Config { listen, trusted_proxies, countries: self.country_database, unloaded, workers, profiles })
            }
            _ => Err(faults),
        }
    }
}

/// Whether `name` can stand in a path as it is.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(good)
}

impl RawProfile {
    fn check(self, faults: &mut Vec<Fault>) -> Profile {
        let mut profile = Profile::default();
        let mut nginx = false;
        let proxies = [("nginx", true), ("traefik", false), ("caddy", false), ("other", false)];
        choose(self.proxy, "proxy", &proxies, &mut nginx, faults);
        profile.only_nginx_codes = nginx;
        if let Some(status) = self.status {
            let line = status.referenced.line();
            match (status.value, nginx) {
                (403, _) => profile.code = Code::Forbidden,
                (401, _) => profile.code = Code::Unauthorized,
                (429, false) => profile.code = Code::TooManyRequests,
                (429, true) => {
                    let message = "nginx makes an error 500 of a 429, expected `401` or `403`\nhint: change it in nginx with `error_page 403 =429 ...`";
                    faults.push(Fault { line, message: message.to_owned() });
                }
                (other, _) => {
                    let message = format!("`{other}` is no `status` of a refusal, expected `401`, `403` or `429`");
                    faults.push(Fault { line, message });
                }
            }
        }
        if let Some(header) = self.identity {
            if let Ok(name) = header.value.parse::<hyper::http::HeaderName>() {
                profile.identity = Some(name.to_string());
            } else {
                let message = format!("`{}` is no name of a header", header.value);
                faults.push(Fault { line: header.referenced.line(), message });
            }
        }
        profile.countries = self.countries.and_then(|countries| {
            let line = countries.referenced.line();
            countries.value.check(line, faults)
        });
        let mut paths = Vec::new();
        for path in self.paths.into_iter().flatten() {
            if path.value.starts_with('/') && path.value.len() > 1 {
                paths.push(path.value);
            } else {
                let message = format!("`{}` is no path to refuse, expected a form like `/.git`", path.value);
                faults.push(Fault { line: path.referenced.line(), message });
            }
        }
        profile.paths = Paths::new(&paths);
        profile.debug_headers = self.debug_headers.unwrap_or(false);
        if let Some(path) = self.page {
            match std::fs::read_to_string(&path.value) {
                Ok(page) => profile.page = Some(page),
                Err(error) => {
                    let message = format!("cannot read `{}`: {error}", path.value.display());
                    faults.push(Fault { line: path.referenced.line(), message });
                }
            }
        }
        profile
    }
}

impl RawCountries {
    fn check(self, line: u64, faults: &mut Vec<Fault>) -> Option<Countries> {
        let mut codes = |list: Vec<Spanned<String>>| {
            let mut codes = Vec::new();
            for code in list {
                if let Some(country) = Country::new(&code.value) {
                    codes.push(country);
                } else {
                    let message = format!("`{}` is no country, expected two letters like `AT`", code.value);
                    faults.push(Fault { line: code.referenced.line(), message });
                }
            }
            codes.sort_unstable();
            codes
        };
        let list = match (self.only, self.never) {
            (Some(only), None) => Lists::Only(codes(only)),
            (None, Some(never)) => Lists::Never(codes(never)),
            _ => {
                let message = "expected either `only` or `never`, a list of countries".to_owned();
                faults.push(Fault { line, message });
                return None;
            }
        };
        let mut unknown_passes = matches!(list, Lists::Never(_));
        choose(self.unknown, "unknown", &[("pass", true), ("refuse", false)], &mut unknown_passes, faults);
        Some(Countries { list, unknown_passes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let raw: RawConfig = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        raw.check(&[]).map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_socket_needs_little() {
        let config = parse("listen: unix:/run/cordon/forward.sock\nprofiles: { web: {} }").expect("no mistakes");
        assert_eq!(config.unloaded, Unloaded::Open);
        assert_eq!(config.profiles.get("web"), Some(&Profile::default()));
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let text = "listen: 192.0.2.1:80\ntrusted_proxies: [10.0.0.0/8, 0.0.0.0/0, proxy]\nunloaded: shut\nprofiles:\n  \
                    web: { proxy: nginx, status: 429 }\n  'a b': { status: 500, countries: { only: [Austria] } }\n  \
                    c: { identity: 'a:b', paths: [x], countries: { only: [AT], never: [DE] } }";
        insta::assert_snapshot!(parse(text).expect_err("many mistakes"));
    }

    #[test]
    fn a_listener_that_believes_nobody_is_a_mistake() {
        let told = parse("listen: 127.0.0.1:8095\nprofiles: { web: {} }").expect_err("no proxies are listed");
        assert!(told.contains("`trusted_proxies` is missing"), "{told}");
    }
}
