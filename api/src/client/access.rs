//! Where alerts go when they go to an API elsewhere, and as whom (spec: acquisition 9, local-api 21.6).

use std::path::PathBuf;

use model::yaml::{Fault, Keys, Yaml};
use secrecy::SecretString;
use serde::Serialize;

use super::{Credentials, Endpoint, Transport};

/// How many MiB of alerts may wait at most.
const MOST_MIB: u32 = 64 << 10;

/// The section `api.client`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientConfig {
    /// The file that says where the API is and who asks, as the field writes it; a `.local` file beside it is merged over it.
    pub credentials_path: PathBuf,
    /// How many MiB of alerts may wait on disk.
    pub spool_mib: u32,
}

impl ClientConfig {
    /// The defaults for the credentials at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { credentials_path: path, spool_mib: 64 }
    }

    /// The section. Errors lack the path.
    pub fn read(section: &Yaml) -> Result<Self, Fault> {
        let keys = section.keys("`api.client`")?;
        let mut config = Self::new(keys.required_text("credentials_path")?.text.into());
        if let Some(size) = keys.integer("spool_mib")? {
            config.spool_mib =
                u32::try_from(size).ok().filter(|size| (1..=MOST_MIB).contains(size)).ok_or_else(|| {
                    let line = keys.get("spool_mib").map_or(keys.line(), |value| value.line);
                    Fault::new(line, format!("`spool_mib` is {size}, expected a number of MiB from 1 to {MOST_MIB}"))
                })?;
        }
        keys.finish()?;
        Ok(config)
    }
}

/// An API, and how one is let in.
#[derive(Clone, Debug)]
pub struct Access {
    /// The API.
    pub endpoint: Endpoint,
    /// Who asks.
    pub credentials: Credentials,
}

impl Access {
    /// What a credentials file says. Errors lack the path.
    pub fn read(file: &Yaml) -> Result<Self, Fault> {
        let keys = file.keys("the credentials")?;
        let url = keys.required_text("url")?.text;
        let transport = Transport {
            authority: path(&keys, "ca_cert_path")?,
            certificate: path(&keys, "cert_path")?.zip(path(&keys, "key_path")?),
        };
        let (login, password) = (keys.text("login")?, keys.text("password")?);
        let credentials = match (login, password, &transport.certificate) {
            (Some(login), Some(password), _) if !login.is_empty() => {
                Credentials::Machine { login: login.text, password: SecretString::from(password.text) }
            }
            (_, _, Some(_)) => Credentials::Certificate,
            _ if url.starts_with('/') => Credentials::Local,
            _ => {
                let fault = Fault::new(keys.line(), "says where the api is, but not who asks");
                return Err(fault.hint("write `login` and `password`, or `cert_path` and `key_path`"));
            }
        };
        keys.finish()?;
        Ok(Self { endpoint: Endpoint::new(&url).with(transport), credentials })
    }
}

fn path(keys: &Keys<'_>, key: &'static str) -> Result<Option<PathBuf>, Fault> {
    Ok(keys.text(key)?.filter(|text| !text.is_empty()).map(|text| text.text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Yaml {
        model::yaml::documents(text).expect("valid YAML").remove(0)
    }

    #[test]
    fn credentials_are_read_as_the_field_writes_them() {
        // (file, what it says)
        let cases = [
            ("url: http://192.0.2.1:8080\nlogin: edge\npassword: x\n", "http://192.0.2.1:8080/ Machine edge"),
            (
                "url: https://api.example/\nca_cert_path: /ca\ncert_path: /c\nkey_path: /k\n",
                "https://api.example/ Certificate",
            ),
            ("url: /run/cordon.sock\n", "/run/cordon.sock Local"),
        ];
        for (text, says) in cases {
            let Access { endpoint, credentials } = Access::read(&yaml(text)).expect("it is right");
            let who = match credentials {
                Credentials::Machine { login, .. } => format!("Machine {login}"),
                other => format!("{other:?}"),
            };
            assert_eq!(format!("{endpoint} {who}"), says);
        }
        let cases = [
            ("login: edge\n", "`url` is missing in the credentials"),
            ("url: http://192.0.2.1\nlogin: edge\n", "says where the api is, but not who asks"),
            ("url: http://192.0.2.1\nlogn: edge\n", "says where the api is, but not who asks"),
            ("url: /x\npaswort: edge\n", "unknown key in the credentials: `paswort`"),
        ];
        for (text, message) in cases {
            let fault = Access::read(&yaml(text)).expect_err("it is wrong");
            assert!(fault.message.contains(message), "{text}: {}", fault.message);
            assert!(!fault.message.contains("edge"), "values stay unsaid");
        }
    }

    #[test]
    fn the_section_is_checked() {
        let config = ClientConfig::read(&yaml("credentials_path: /x\nspool_mib: 3\n")).expect("it is right");
        assert_eq!(config, ClientConfig { spool_mib: 3, ..ClientConfig::new("/x".into()) });
        for (text, line) in [("spool_mib: 3\n", 1), ("credentials_path: x\nspool_mib: 0\n", 2)] {
            assert_eq!(ClientConfig::read(&yaml(text)).expect_err("it is wrong").line, line, "{text}");
        }
    }
}
