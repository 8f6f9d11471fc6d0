//! The YAML shapes of targets that hold a list of prefixes.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::{Fault, limit};
use crate::pfsense::{RestOptions, SshOptions, is_alias};
use crate::remote::http::{Endpoint, RawEndpoint};
use crate::remote::secret::Secret;
use crate::{opnsense, proxmox};

/// A secret that could not be read from the file; a fault says so.
fn nothing() -> Secret {
    Secret::Env(String::new())
}

fn alias(found: Option<Spanned<String>>, faults: &mut Vec<Fault>) -> String {
    match found {
        None => "cordon_ban".to_owned(),
        Some(found) => {
            if !is_alias(&found.value) {
                let message = format!("`{}` is no alias, expected up to 31 letters, digits and `_`", found.value);
                faults.push(Fault { line: found.referenced.line(), message });
            }
            found.value
        }
    }
}

fn endpoint(
    url: Option<Spanned<String>>,
    urls: Option<Vec<Spanned<String>>>,
    ca: Option<PathBuf>,
    line: u64,
    faults: &mut Vec<Fault>,
) -> Endpoint {
    RawEndpoint { url, urls, ca }.check(line, faults)
}

/// pfSense through its REST API, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPfSense {
    url: Option<Spanned<String>>,
    ca: Option<PathBuf>,
    key_file: Option<PathBuf>,
    key_env: Option<Spanned<String>>,
    alias: Option<Spanned<String>>,
    kill_states: Option<bool>,
}

impl RawPfSense {
    pub(crate) fn check(self, line: u64, faults: &mut Vec<Fault>) -> RestOptions {
        RestOptions {
            endpoint: endpoint(self.url, None, self.ca, line, faults),
            key: Secret::check("key", self.key_file, self.key_env, line, faults).unwrap_or_else(nothing),
            alias: alias(self.alias, faults),
            kill_states: self.kill_states.unwrap_or(false),
        }
    }
}

/// pfSense through ssh, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPfSenseSsh {
    destination: Option<Spanned<String>>,
    port: Option<Spanned<i64>>,
    identity: Option<PathBuf>,
    known_hosts: Option<PathBuf>,
    control: Option<PathBuf>,
    kill_states: Option<bool>,
}

impl RawPfSenseSsh {
    pub(crate) fn check(self, line: u64, faults: &mut Vec<Fault>) -> SshOptions {
        let mut port = 22;
        limit(self.port, "port", 1..=65535, &mut port, faults);
        let good = |c: char| c.is_ascii_alphanumeric() || "@._-:[]%".contains(c);
        let destination = match self.destination {
            Some(found)
                if found.value.chars().all(good) && !found.value.starts_with('-') && !found.value.is_empty() =>
            {
                found.value
            }
            Some(found) => {
                let message = format!("`{}` is no destination, expected one like `cordon@192.0.2.1`", found.value);
                faults.push(Fault { line: found.referenced.line(), message });
                String::new()
            }
            None => {
                let message = "expected `destination`, like `cordon@192.0.2.1`".to_owned();
                faults.push(Fault { line, message });
                String::new()
            }
        };
        let mut file = |what: &str, path: Option<PathBuf>| {
            path.unwrap_or_else(|| {
                faults.push(Fault { line, message: format!("expected `{what}`, the path of a file") });
                PathBuf::new()
            })
        };
        SshOptions {
            destination,
            port,
            identity: file("identity", self.identity),
            known_hosts: file("known_hosts", self.known_hosts),
            control: self.control.unwrap_or_default(),
            kill_states: self.kill_states.unwrap_or(true),
        }
    }
}

/// `OPNsense`, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawOpnSense {
    url: Option<Spanned<String>>,
    ca: Option<PathBuf>,
    key_file: Option<PathBuf>,
    key_env: Option<Spanned<String>>,
    secret_file: Option<PathBuf>,
    secret_env: Option<Spanned<String>>,
    alias: Option<Spanned<String>>,
}

impl RawOpnSense {
    pub(crate) fn check(self, line: u64, faults: &mut Vec<Fault>) -> opnsense::Options {
        opnsense::Options {
            endpoint: endpoint(self.url, None, self.ca, line, faults),
            key: Secret::check("key", self.key_file, self.key_env, line, faults).unwrap_or_else(nothing),
            secret: Secret::check("secret", self.secret_file, self.secret_env, line, faults).unwrap_or_else(nothing),
            alias: alias(self.alias, faults),
        }
    }
}

/// Proxmox VE, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawProxmox {
    url: Option<Spanned<String>>,
    urls: Option<Vec<Spanned<String>>>,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
    token_env: Option<Spanned<String>>,
    set: Option<Spanned<String>>,
    rule: Option<bool>,
    writes_per_second: Option<Spanned<i64>>,
}

impl RawProxmox {
    pub(crate) fn check(self, line: u64, faults: &mut Vec<Fault>) -> proxmox::Options {
        let mut writes_per_second = 2;
        limit(self.writes_per_second, "writes_per_second", 1..=1000, &mut writes_per_second, faults);
        let set = match self.set {
            None => "cordon-ban".to_owned(),
            Some(found) => {
                if !proxmox::is_set(&found.value) {
                    let message = format!(
                        "`{}` is no set of ours, expected 2 to 64 letters, digits, `_` and `-`, a letter first, and neither \
                         `blacklist` nor `management`",
                        found.value
                    );
                    faults.push(Fault { line: found.referenced.line(), message });
                }
                found.value
            }
        };
        proxmox::Options {
            endpoint: endpoint(self.url, self.urls, self.ca, line, faults),
            token: Secret::check("token", self.token_file, self.token_env, line, faults).unwrap_or_else(nothing),
            set,
            rule: self.rule.unwrap_or(true),
            writes_per_second,
        }
    }
}
