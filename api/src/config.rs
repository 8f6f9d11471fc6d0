//! The YAML shape of `api.server`, checked once (spec: local-api 22).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use model::yaml::{Fault, Keys, Text, Yaml};

/// Shortest token that lets machines in without being validated.
const MIN_TOKEN: usize = 32;

/// How the server listens, and whom it trusts.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address, if it listens on one.
    pub listen: Option<SocketAddr>,
    /// Path of the Unix socket, if it listens on one.
    pub socket: Option<PathBuf>,
    /// Listen off loopback although there is no TLS.
    pub allow_plaintext: bool,
    /// Who may erase alerts, beside this host.
    pub trusted_ips: Vec<IpNet>,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Only this host may register machines.
    pub local_registration_only: bool,
    /// Who is validated when it registers.
    pub auto_registration: Option<AutoRegistration>,
    /// Where the profiles are; `None` is the ones that come with cordon.
    pub profiles: Option<PathBuf>,
    /// How many logins an address may try at once.
    pub login_burst: NonZeroU32,
    /// What signs tokens; random if there is none.
    pub token_secret: Option<SecretString>,
}

/// Who is validated when it registers.
#[derive(Clone, Debug)]
pub struct AutoRegistration {
    /// What it must know.
    pub token: SecretString,
    /// Where it must come from.
    pub ranges: Vec<IpNet>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
            socket: None,
            allow_plaintext: false,
            trusted_ips: Vec::new(),
            trusted_proxies: Vec::new(),
            local_registration_only: false,
            auto_registration: None,
            profiles: None,
            login_burst: NonZeroU32::MIN.saturating_add(19),
            token_secret: None,
        }
    }
}

impl ServerConfig {
    /// The section `api.server`; `None` when it is switched off. Errors lack the path.
    pub fn read(section: &Yaml) -> Result<Option<Self>, Fault> {
        let keys = section.keys("`api.server`")?;
        let enabled = keys.flag("enable")?.unwrap_or(true);
        let mut config = Self { listen: None, ..Self::default() };
        if let Some(text) = keys.text("listen_uri")?.filter(|text| !text.is_empty()) {
            config.listen = Some(listen_address(&text)?);
        }
        config.socket = keys.text("listen_socket")?.filter(|text| !text.is_empty()).map(|text| text.text.into());
        config.allow_plaintext = keys.flag("allow_plaintext")?.unwrap_or(false);
        config.profiles = keys.text("profiles_path")?.filter(|text| !text.is_empty()).map(|text| text.text.into());
        config.trusted_ips = nets(&keys, "trusted_ips")?;
        config.trusted_proxies = nets(&keys, "trusted_proxies")?;
        if keys.flag("use_forwarded_for_headers")?.unwrap_or(false) && config.trusted_proxies.is_empty() {
            config.trusted_proxies = vec![IpNet::V4(ipnet::Ipv4Net::default())];
        }
        config.local_registration_only = keys.flag("disable_remote_lapi_registration")?.unwrap_or(false);
        if let Some(section) = keys.get("auto_registration") {
            config.auto_registration = AutoRegistration::read(section)?;
        }
        keys.finish()?;
        Ok(enabled.then_some(config))
    }
}

impl AutoRegistration {
    fn read(section: &Yaml) -> Result<Option<Self>, Fault> {
        let keys = section.keys("`auto_registration`")?;
        let enabled = keys.flag("enabled")?.unwrap_or(false);
        let token = keys.text("token")?.map(|text| text.text).unwrap_or_default();
        let ranges = nets(&keys, "allowed_ranges")?;
        let line = keys.line();
        keys.finish()?;
        if !enabled {
            return Ok(None);
        }
        let token = SecretString::from(token);
        let refuse = |message: &str| Err(Fault::new(line, message));
        match token.expose_secret().len() {
            0 => refuse("missing token value for api.server.auto_register"),
            1..MIN_TOKEN => refuse("token value for api.server.auto_register is too short (min 32 characters)"),
            _ if ranges.is_empty() => refuse("missing allowed_ranges value for api.server.auto_register"),
            _ => Ok(Some(Self { token, ranges })),
        }
    }
}

fn listen_address(text: &Text) -> Result<SocketAddr, Fault> {
    let refuse = || {
        Fault::new(text.line, format!("`listen_uri`: `{}` is no address to listen on", text.text))
            .hint("a form like `127.0.0.1:8080`")
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let port = port.parse().map_err(|_| refuse())?;
    match host {
        "" => Ok(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port)),
        host => (host, port).to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(refuse),
    }
}

fn nets(keys: &Keys<'_>, key: &'static str) -> Result<Vec<IpNet>, Fault> {
    let texts = keys.texts(key)?;
    let net =
        |text: &Text| model::scope::parse_net(text).map_err(|error| Fault::new(text.line, format!("`{key}`: {error}")));
    texts.iter().map(net).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ServerConfig>, String> {
        let documents = model::yaml::documents(text).map_err(|fault| fault.to_string())?;
        ServerConfig::read(&documents[0]).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_is_written_is_what_holds() {
        let config = read(
            "listen_uri: localhost:8080\nlisten_socket: /run/cordon.sock\nuse_forwarded_for_headers: on\n\
            trusted_ips: [192.0.2.7, 10.0.0.0/8]\nauto_registration:\n  enabled: true\n  token: 0123456789abcdef0123456789abcdef\n  allowed_ranges: [10.0.0.0/8]\n",
        );
        let config = config.expect("it is right").expect("it is on");
        assert!(config.listen.is_some_and(|address| address.ip().is_loopback() && address.port() == 8080));
        assert_eq!(config.trusted_ips.len(), 2);
        assert_eq!(config.trusted_proxies, ["0.0.0.0/0".parse().expect("a net")]);
        assert!(config.auto_registration.is_some());
        assert!(read("enable: no\nlisten_uri: 127.0.0.1:8080\n").expect("it is right").is_none());
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        // (text, message)
        let cases = [
            (
                "lisen_uri: 127.0.0.1:8080\n",
                "1: unknown key in `api.server`: `lisen_uri`\nhint: did you mean `listen_uri`?",
            ),
            (
                "listen_uri: nowhere\n",
                "1: `listen_uri`: `nowhere` is no address to listen on\nhint: a form like `127.0.0.1:8080`",
            ),
            (
                "enable: true\ntrusted_ips:\n  - 10.0.0.0/99\n",
                "3: `trusted_ips`: `10.0.0.0/99` is not an IP address or a range, expected a form like `192.0.2.4` or `192.0.2.0/24`",
            ),
            (
                "auto_registration:\n  enabled: true\n  token: short\n",
                "2: token value for api.server.auto_register is too short (min 32 characters)",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(read(text).expect_err(text), message);
        }
    }
}
