//! The YAML shape of `api`, checked once (spec: local-api 22). The keys are those of the field's `api.server`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};
use subtle::ConstantTimeEq;

use model::yaml::{Fault, Keys, Text, Yaml};

use crate::client::ClientConfig;

/// Shortest token that lets machines in without being validated.
const MIN_TOKEN: usize = 32;

/// How the server listens, and whom it trusts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerConfig {
    /// Address, if it listens on one.
    pub listen: Option<SocketAddr>,
    /// Path of the Unix socket, if it listens on one.
    #[serde(skip)]
    pub socket: Option<PathBuf>,
    /// How it is encrypted, if it is.
    pub tls: Option<TlsConfig>,
    /// Listen off loopback although there is no TLS.
    pub allow_plaintext: bool,
    /// Who may erase alerts and read the counters, beside this host.
    pub trusted_ips: Vec<IpNet>,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Only this host may register machines.
    #[serde(rename = "disable_remote_lapi_registration")]
    pub local_registration_only: bool,
    /// Who is validated when it registers.
    pub auto_registration: Option<AutoRegistration>,
    /// How many logins an address may try at once; it gets one more each second.
    pub login_burst: NonZeroU32,
    /// How many requests one account may send in a second.
    pub requests_per_second: NonZeroU32,
    /// What signs tokens; without it `token_keys`.
    #[serde(skip)]
    pub token_secret: Option<Secret>,
    /// File with the keys that sign tokens, so that tokens outlive a restart; without it they do not.
    #[serde(skip)]
    pub token_keys: Option<PathBuf>,
    /// Where alerts go instead, if they do.
    pub client: Option<ClientConfig>,
}

/// How connections are encrypted, and who may show a certificate of his own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsConfig {
    /// Our certificate, and those between it and its authority.
    #[serde(rename = "cert_file")]
    pub certificate: PathBuf,
    /// Its key.
    #[serde(rename = "key_file")]
    pub key: PathBuf,
    /// Whether clients may or must show a certificate.
    #[serde(rename = "client_verification")]
    pub clients: ClientCertificates,
    /// The authorities that sign clients' certificates. No others count, those of the system neither.
    #[serde(rename = "ca_cert_path")]
    pub client_authority: Option<PathBuf>,
    /// What was revoked.
    #[serde(rename = "crl_path")]
    pub revoked: Option<PathBuf>,
    /// Organisational units of those who may send alerts.
    #[serde(rename = "agents_allowed_ou")]
    pub agents: Vec<String>,
    /// Organisational units of those who may ask for decisions.
    #[serde(rename = "bouncers_allowed_ou")]
    pub bouncers: Vec<String>,
    /// Organisational units of those who may do everything.
    #[serde(rename = "admins_allowed_ou")]
    pub admins: Vec<String>,
}

/// Whether clients may or must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[serde(rename = "NoClientCert")]
    Off,
    /// Who has one may show it.
    #[serde(rename = "VerifyClientCertIfGiven")]
    Optional,
    /// Who has none is not let in.
    #[serde(rename = "RequireAndVerifyClientCert")]
    Required,
}

/// Who is validated when it registers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AutoRegistration {
    /// What it must know.
    pub token: Secret,
    /// Where it must come from.
    #[serde(rename = "allowed_ranges")]
    pub ranges: Vec<IpNet>,
}

/// A text that is not shown to anybody.
#[derive(Clone, Debug)]
pub struct Secret(SecretString);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether it is the same as `other`, without telling by its duration how much agrees.
    pub fn is(&self, other: &str) -> bool {
        self.expose().as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.expose())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(not shown)")
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
            socket: None,
            tls: None,
            allow_plaintext: false,
            trusted_ips: Vec::new(),
            trusted_proxies: Vec::new(),
            local_registration_only: false,
            auto_registration: None,
            login_burst: NonZeroU32::MIN.saturating_add(19),
            requests_per_second: NonZeroU32::MIN.saturating_add(49_999),
            token_secret: None,
            token_keys: None,
            client: None,
        }
    }
}

impl ServerConfig {
    /// The section `api`. Errors lack the path.
    pub fn read(section: &Yaml) -> Result<Self, Fault> {
        let keys = section.keys("`api`")?;
        let mut config = Self::default();
        for key in ["listen", "listen_uri"] {
            if let Some(text) = keys.text(key)?.filter(|text| !text.is_empty()) {
                config.listen = if text.text == "off" { None } else { Some(listen_address(key, &text)?) };
            }
        }
        if let Some(section) = keys.get("tls") {
            config.tls = TlsConfig::read(section)?;
        }
        config.allow_plaintext = keys.flag("allow_plaintext")?.unwrap_or(false);
        config.trusted_ips = nets(&keys, "trusted_ips")?;
        config.trusted_proxies = nets(&keys, "trusted_proxies")?;
        if keys.flag("use_forwarded_for_headers")?.unwrap_or(false) && config.trusted_proxies.is_empty() {
            let fault = Fault::new(
                keys.line(),
                "`use_forwarded_for_headers` without `trusted_proxies` would let every client choose its address",
            );
            return Err(fault.hint("name the proxies: `trusted_proxies: [192.0.2.1]`"));
        }
        config.local_registration_only = keys.flag("disable_remote_lapi_registration")?.unwrap_or(false);
        if let Some(section) = keys.get("auto_registration") {
            config.auto_registration = AutoRegistration::read(section)?;
        }
        config.login_burst = count(&keys, "login_burst", config.login_burst)?;
        config.requests_per_second = count(&keys, "requests_per_second", config.requests_per_second)?;
        config.client = keys.get("client").filter(|section| !section.is_null()).map(ClientConfig::read).transpose()?;
        keys.finish()?;
        Ok(config)
    }
}

impl TlsConfig {
    fn read(section: &Yaml) -> Result<Option<Self>, Fault> {
        let keys = section.keys("`tls`")?;
        let path = |key: &'static str| {
            Ok::<_, Fault>(keys.text(key)?.filter(|text| !text.is_empty()).map(|text| PathBuf::from(text.text)))
        };
        let (certificate, key) = (path("cert_file")?, path("key_file")?);
        let (client_authority, revoked) = (path("ca_cert_path")?, path("crl_path")?);
        let clients = match keys.text("client_verification")? {
            None if client_authority.is_none() => ClientCertificates::Off,
            None => ClientCertificates::Optional,
            Some(text) => ClientCertificates::read(&text)?,
        };
        let units = |key: &'static str, role: &str| match keys.get(key) {
            None => Ok(vec![role.to_owned()]),
            Some(_) => units(keys.texts(key)?, key),
        };
        let agents = units("agents_allowed_ou", "agent")?;
        let bouncers = units("bouncers_allowed_ou", "bouncer")?;
        let admins = units("admins_allowed_ou", "admin")?;
        // Known to the field, and not needed here: every check is fresh, and the name is the client's concern.
        keys.text("cache_expiration")?;
        keys.text("server_name")?;
        let line = keys.line();
        keys.finish()?;
        let refuse = |message: &str| Err(Fault::new(line, message));
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return refuse("missing TLS key file"),
            (None, Some(_)) => return refuse("missing TLS cert file"),
            (None, None) => return Ok(None),
        };
        if clients != ClientCertificates::Off && client_authority.is_none() {
            let fault = Fault::new(line, "clients cannot be checked without `ca_cert_path`");
            return Err(fault.hint("the certificate of the authority that signs theirs; `cordon pki init` makes one"));
        }
        Ok(Some(Self { certificate, key, clients, client_authority, revoked, agents, bouncers, admins }))
    }
}

impl ClientCertificates {
    fn read(text: &Text) -> Result<Self, Fault> {
        match text.text.as_str() {
            "NoClientCert" => Ok(Self::Off),
            "VerifyClientCertIfGiven" => Ok(Self::Optional),
            "RequireAndVerifyClientCert" => Ok(Self::Required),
            "RequestClientCert" | "RequireAnyClientCert" => {
                let message =
                    format!("`client_verification`: with `{}` nobody would check the certificates", text.text);
                Err(Fault::new(text.line, message).hint("`VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`"))
            }
            other => Err(Fault::new(text.line, format!("`client_verification`: `{other}` is not known"))
                .hint("`NoClientCert`, `VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`")),
        }
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
        let token = Secret::from(token.as_str());
        let refuse = |message: &str| Err(Fault::new(line, message));
        match token.expose().len() {
            0 => refuse("missing token value for api.server.auto_register"),
            1..MIN_TOKEN => refuse("token value for api.server.auto_register is too short (min 32 characters)"),
            _ if ranges.is_empty() => refuse("missing allowed_ranges value for api.server.auto_register"),
            _ => Ok(Some(Self { token, ranges })),
        }
    }
}

/// The units in a list; none at all lets nobody in.
fn units(texts: Vec<Text>, key: &str) -> Result<Vec<String>, Fault> {
    let mut units: Vec<String> = Vec::with_capacity(texts.len());
    for text in texts {
        if text.is_empty() {
            let message = format!("`{key}`: allowed_ou configuration contains invalid empty string");
            return Err(Fault::new(text.line, message));
        }
        if !units.contains(&text.text) {
            units.push(text.text);
        }
    }
    Ok(units)
}

fn count(keys: &Keys<'_>, key: &'static str, otherwise: NonZeroU32) -> Result<NonZeroU32, Fault> {
    let Some(number) = keys.integer(key)? else { return Ok(otherwise) };
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    number.ok_or_else(|| Fault::new(keys.line(), format!("`{key}` must be at least 1")))
}

fn listen_address(key: &str, text: &Text) -> Result<SocketAddr, Fault> {
    let refuse = || {
        Fault::new(text.line, format!("`{key}`: `{}` is no address to listen on", text.text))
            .hint("a form like `127.0.0.1:8080`, or `off`")
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

    fn read(text: &str) -> Result<ServerConfig, String> {
        let documents = model::yaml::documents(text).map_err(|fault| fault.to_string())?;
        ServerConfig::read(&documents[0]).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_is_written_is_what_holds() {
        let config = read(
            "listen_uri: localhost:8080\ntrusted_proxies: [10.0.0.1]\nuse_forwarded_for_headers: on\n\
             trusted_ips: [192.0.2.7, 10.0.0.0/8]\nlogin_burst: 3\n\
             tls: {cert_file: c.pem, key_file: c.key, ca_cert_path: ca.pem, agents_allowed_ou: [lp, lp], bouncers_allowed_ou: []}\n\
             auto_registration:\n  enabled: true\n  token: 0123456789abcdef0123456789abcdef\n  allowed_ranges: [10.0.0.0/8]\n",
        )
        .expect("it is right");
        assert!(config.listen.is_some_and(|address| address.ip().is_loopback() && address.port() == 8080));
        assert_eq!((config.trusted_ips.len(), config.trusted_proxies.len(), config.login_burst.get()), (2, 1, 3));
        assert!(config.auto_registration.is_some());
        let tls = config.tls.expect("it is there");
        assert_eq!((tls.agents.as_slice(), tls.bouncers.len()), (&["lp".to_owned()][..], 0));
        assert_eq!((tls.admins.as_slice(), tls.clients), (&["admin".to_owned()][..], ClientCertificates::Optional));
        assert_eq!(read("listen: off\n").expect("it is right").listen, None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = read(
            "auto_registration:\n  enabled: true\n  token: 0123456789abcdef0123456789abcdef\n  allowed_ranges: [10.0.0.0/8]\n",
        )
        .expect("it is right");
        let shown = serde_json::to_string(&config).expect("JSON") + &format!("{config:?}");
        assert!(!shown.contains("0123456789") && shown.contains("10.0.0.0/8"), "{shown}");
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        // (text, message)
        let cases = [
            ("lisen_uri: 127.0.0.1:8080\n", "1: unknown key in `api`: `lisen_uri`\nhint: did you mean `listen_uri`?"),
            (
                "listen: nowhere\n",
                "1: `listen`: `nowhere` is no address to listen on\nhint: a form like `127.0.0.1:8080`, or `off`",
            ),
            (
                "listen: off\ntrusted_ips:\n  - 10.0.0.0/99\n",
                "3: `trusted_ips`: `10.0.0.0/99` is not an IP address or a range, expected a form like `192.0.2.4` or `192.0.2.0/24`",
            ),
            (
                "auto_registration:\n  enabled: true\n  token: short\n",
                "2: token value for api.server.auto_register is too short (min 32 characters)",
            ),
            ("tls:\n  cert_file: c.pem\n", "2: missing TLS key file"),
            ("tls:\n  key_file: c.pem\n", "2: missing TLS cert file"),
            (
                "tls:\n  cert_file: c\n  key_file: k\n  client_verification: RequireAndVerifyClientCert\n",
                "2: clients cannot be checked without `ca_cert_path`\nhint: the certificate of the authority that signs theirs; `cordon pki init` makes one",
            ),
            (
                "tls: {client_verification: RequestClientCert}\n",
                "1: `client_verification`: with `RequestClientCert` nobody would check the certificates\nhint: `VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`",
            ),
            (
                "tls: {agents_allowed_ou: ['']}\n",
                "1: `agents_allowed_ou`: allowed_ou configuration contains invalid empty string",
            ),
            (
                "use_forwarded_for_headers: true\n",
                "1: `use_forwarded_for_headers` without `trusted_proxies` would let every client choose its address\nhint: name the proxies: `trusted_proxies: [192.0.2.1]`",
            ),
            ("login_burst: 0\n", "1: `login_burst` must be at least 1"),
        ];
        for (text, message) in cases {
            assert_eq!(read(text).expect_err(text), message);
        }
    }
}
