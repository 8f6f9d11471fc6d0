//! The YAML shape of a Ziti network as a target, read loosely and checked once.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::api::{Api, Trust};
use super::login::{Login, OidcLogin, Proof, SessionLogin};
use super::name::Name;
use crate::config::Fault;

/// How sessions are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The older kind, `zt-session`: every controller up to 2.x has it.
    Session,
    /// `OpenID Connect` at the controller's `/oidc`.
    Oidc,
}

/// A Ziti network, checked.
#[allow(clippy::struct_excessive_bools, reason = "each is a key of its own in the file")]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// The controllers, without a slash at the end.
    pub controllers: Vec<String>,
    /// The file of an enrolled identity: certificate, key and authority in one.
    pub identity: Option<PathBuf>,
    /// The only authorities from which a controller's certificate may come.
    pub authority: Option<PathBuf>,
    /// Certificate and key that we show.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// User name and the file with the password.
    pub password: Option<(String, PathBuf)>,
    /// The file with a token of another issuer.
    pub token: Option<PathBuf>,
    /// How sessions are opened.
    pub protocol: Protocol,
    /// Identities that are never banned.
    #[serde(serialize_with = "as_texts")]
    pub protect: Vec<Name>,
    /// Whether administrators may be banned; the default one never is.
    pub allow_admin_ban: bool,
    /// How many identities may be banned at a time.
    pub max_identity_bans: usize,
    /// Whether a ban is renewed that a person ended.
    pub reassert: bool,
    /// Whether what a banned identity hosts is cut as well.
    pub hosted: bool,
    /// Whether a ban counts only when the identity is gone from every router.
    pub confirm_disconnect: bool,
    /// Events files of the controllers on this host.
    pub events: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controllers: Vec::new(),
            identity: None,
            authority: None,
            certificate: None,
            password: None,
            token: None,
            protocol: Protocol::Session,
            protect: Vec::new(),
            allow_admin_ban: false,
            max_identity_bans: 50,
            reassert: false,
            hosted: false,
            confirm_disconnect: false,
            events: Vec::new(),
        }
    }
}

fn as_texts<S: serde::Serializer>(names: &[Name], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(ToString::to_string))
}

/// Why a file that `options` name cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{}`: {reason}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Options {
    /// The way to the controllers; reads certificates and keys, asks nobody.
    pub fn open(&self) -> Result<Api, FileError> {
        let wrong = |path: &Path, reason: String| FileError { path: path.to_owned(), reason };
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| wrong(path, error.to_string()));
        let mut trust = Trust::default();
        let mut controllers = self.controllers.clone();
        let mut blame = self.authority.as_deref().unwrap_or(Path::new("enforcement"));
        if let Some(path) = &self.identity {
            let enrolled = Enrolled::parse(&read(path)?).map_err(|reason| wrong(path, reason))?;
            trust.authorities = Some(enrolled.authority.into_bytes());
            trust.identity = Some(enrolled.identity);
            if controllers.is_empty() {
                controllers = vec![base(&enrolled.controller).map_err(|reason| wrong(path, reason))?];
            }
            blame = path;
        }
        if let Some((certificate, key)) = &self.certificate {
            trust.identity = Some(format!("{}\n{}", read(certificate)?, read(key)?).into());
            blame = certificate;
        }
        if let Some(path) = &self.authority {
            trust.authorities = Some(read(path)?.into_bytes());
        }
        let http = trust.client().map_err(|reason| wrong(blame, reason))?;
        Ok(Api::new(http, self.login(), &controllers))
    }

    fn login(&self) -> Box<dyn Login> {
        let proof = match (&self.password, &self.token) {
            (Some((username, file)), _) => Proof::Password { username: username.clone(), file: file.clone() },
            (None, Some(file)) => Proof::Token(file.clone()),
            (None, None) => Proof::Certificate,
        };
        match self.protocol {
            Protocol::Session => Box::new(SessionLogin(proof)),
            Protocol::Oidc => Box::new(OidcLogin(proof)),
        }
    }
}

/// The file that enrolling an identity leaves.
struct Enrolled {
    controller: String,
    authority: String,
    identity: SecretString,
}

impl Enrolled {
    fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            #[serde(rename = "ztAPI")]
            controller: String,
            id: Parts,
        }
        #[derive(Deserialize)]
        struct Parts {
            cert: String,
            key: String,
            ca: String,
        }
        // What is wrong with it must not quote it: there is a key inside.
        let file: File = serde_json::from_str(text).map_err(|error| {
            format!("it is not the file of an enrolled identity (line {}, column {})", error.line(), error.column())
        })?;
        let part = |what: &str, value: &str| match value.split_once(':') {
            Some(("pem", pem)) => Ok(pem.to_owned()),
            Some(("file", path)) => {
                let path = path.trim_start_matches("//");
                std::fs::read_to_string(path).map_err(|error| format!("its `{what}` `{path}`: {error}"))
            }
            _ => Err(format!("its `{what}` is neither `pem:` nor `file:`")),
        };
        let key = part("key", &file.id.key)?;
        let identity = format!("{}\n{key}", part("cert", &file.id.cert)?);
        Ok(Self { controller: file.controller, authority: part("ca", &file.id.ca)?, identity: identity.into() })
    }
}

/// The URL of a controller as it is kept: scheme, host and port, nothing behind.
pub fn base(url: &str) -> Result<String, String> {
    let wrong = || format!("`{url}` is no controller, expected a form like `https://ctrl.example.org:1280`");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let host = rest.split('/').next().unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let path = rest.get(host.len()..).unwrap_or_default().trim_end_matches('/');
    let local = ["127.0.0.1", "[::1]", "localhost"]
        .iter()
        .any(|local| host.strip_prefix(local).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')));
    let secure = scheme == "https" || (scheme == "http" && local);
    let known = ["", "/edge/management/v1", "/edge/client/v1"].contains(&path);
    if !secure || !known || host.is_empty() || !host.chars().all(good) {
        return Err(wrong());
    }
    Ok(format!("{scheme}://{host}"))
}

/// The section as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOptions {
    controllers: Option<Vec<Spanned<String>>>,
    identity: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<Spanned<PathBuf>>,
    username: Option<Spanned<String>>,
    password_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    login: Option<Spanned<String>>,
    protect: Option<Vec<Spanned<String>>>,
    allow_admin_ban: Option<bool>,
    max_identity_bans: Option<Spanned<i64>>,
    reassert: Option<bool>,
    hosted: Option<bool>,
    confirm_disconnect: Option<bool>,
    events: Option<Vec<PathBuf>>,
}

impl RawOptions {
    /// The checked section; what is wrong goes to `faults`. `line` is where the section begins.
    pub fn check(self, line: u64, faults: &mut Vec<Fault>) -> Options {
        let mut options = Options::default();
        let mut fault = |line: u64, message: String| faults.push(Fault { line, message });
        for url in self.controllers.unwrap_or_default() {
            match base(&url.value) {
                Ok(base) if !options.controllers.contains(&base) => options.controllers.push(base),
                Ok(_) => {}
                Err(message) => fault(url.referenced.line(), message),
            }
        }
        if options.controllers.is_empty() && self.identity.is_none() {
            fault(
                line,
                "no controller, expected `controllers` or the `identity` file of an enrolled identity".to_owned(),
            );
        }
        match (self.cert, self.key) {
            (Some(cert), Some(key)) => options.certificate = Some((cert, key.value)),
            (Some(_), None) => fault(line, "`cert` needs its `key`".to_owned()),
            (None, Some(key)) => fault(key.referenced.line(), "`key` needs its `cert`".to_owned()),
            (None, None) => {}
        }
        match (self.username, self.password_file) {
            (Some(username), Some(file)) => options.password = Some((username.value, file)),
            (Some(username), None) => {
                fault(username.referenced.line(), "`username` needs a `password_file`".to_owned());
            }
            (None, Some(_)) => fault(line, "`password_file` needs a `username`".to_owned()),
            (None, None) => {}
        }
        options.identity = self.identity;
        options.authority = self.ca;
        options.token = self.token_file;
        let proofs = [
            options.identity.is_some(),
            options.certificate.is_some(),
            options.password.is_some(),
            options.token.is_some(),
        ];
        if proofs.into_iter().filter(|&there| there).count() != 1 {
            let message = "expected exactly one way to log in: `identity`, `cert` with `key`, `username` with `password_file`, or `token_file`";
            fault(line, message.to_owned());
        }
        if options.authority.is_none() && options.identity.is_none() {
            let message = "no `ca`: a controller is known by the authority of its network\nhint: it is in the file of any enrolled \
                           identity, and `cordon bouncer setup ziti` says how to fetch it";
            fault(line, message.to_owned());
        }
        if let Some(login) = self.login {
            match login.value.as_str() {
                "session" => options.protocol = Protocol::Session,
                "oidc" => options.protocol = Protocol::Oidc,
                other => fault(
                    login.referenced.line(),
                    format!("`{other}` is no value for `login`, expected `session` or `oidc`"),
                ),
            }
        }
        for name in self.protect.unwrap_or_default() {
            match Name::parse(&name.value) {
                Ok(parsed) => options.protect.push(parsed),
                Err(error) => fault(name.referenced.line(), error.to_string()),
            }
        }
        if let Some(most) = self.max_identity_bans {
            match usize::try_from(most.value) {
                Ok(value @ 1..=100_000) => options.max_identity_bans = value,
                _ => fault(
                    most.referenced.line(),
                    format!("`max_identity_bans` is `{}`, expected a number from 1 to 100000", most.value),
                ),
            }
        }
        options.allow_admin_ban = self.allow_admin_ban.unwrap_or(false);
        options.reassert = self.reassert.unwrap_or(false);
        options.hosted = self.hosted.unwrap_or(false);
        options.confirm_disconnect = self.confirm_disconnect.unwrap_or(false);
        options.events = self.events.unwrap_or_default();
        options
    }
}

impl fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolled").field("controller", &self.controller).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        let raw: RawOptions = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let mut faults = Vec::new();
        let options = raw.check(1, &mut faults);
        if faults.is_empty() {
            return Ok(options);
        }
        Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn every_key_can_be_set() {
        let text = "controllers: [https://c1.example.org:1280/, https://c2.example.org:1280/edge/management/v1]\nca: /etc/ca.pem\n\
                    username: cordon\npassword_file: /etc/password\nlogin: oidc\nprotect: [abc, 'name:alice', 'external:42']\n\
                    allow_admin_ban: true\nmax_identity_bans: 7\nreassert: true\nhosted: true\nconfirm_disconnect: true\n\
                    events: [/var/log/ziti/events.jsonl]";
        let expected = Options {
            controllers: vec!["https://c1.example.org:1280".into(), "https://c2.example.org:1280".into()],
            authority: Some("/etc/ca.pem".into()),
            password: Some(("cordon".into(), "/etc/password".into())),
            protocol: Protocol::Oidc,
            protect: vec![Name::Id("abc".into()), Name::Name("alice".into()), Name::External("42".into())],
            allow_admin_ban: true,
            max_identity_bans: 7,
            reassert: true,
            hosted: true,
            confirm_disconnect: true,
            events: vec!["/var/log/ziti/events.jsonl".into()],
            ..Options::default()
        };
        assert_eq!(parse(text), Ok(expected));
        assert!(parse("identity: /etc/cordon/ziti.json").is_ok(), "one file says it all");
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let text = "controllers: ['http://c1.example.org:1280', 'https://c2/other']\nkey: /k\nusername: a\nlogin: basic\n\
                    protect: ['a/b']\nmax_identity_bans: 0";
        insta::assert_snapshot!(parse(text).expect_err("many mistakes"), @r"
        line 1: `http://c1.example.org:1280` is no controller, expected a form like `https://ctrl.example.org:1280`
        line 1: `https://c2/other` is no controller, expected a form like `https://ctrl.example.org:1280`
        line 1: no controller, expected `controllers` or the `identity` file of an enrolled identity
        line 2: `key` needs its `cert`
        line 3: `username` needs a `password_file`
        line 1: expected exactly one way to log in: `identity`, `cert` with `key`, `username` with `password_file`, or `token_file`
        line 1: no `ca`: a controller is known by the authority of its network
        hint: it is in the file of any enrolled identity, and `cordon bouncer setup ziti` says how to fetch it
        line 4: `basic` is no value for `login`, expected `session` or `oidc`
        line 5: `a/b` is no id of an identity, expected an id, `name:NAME` or `external:ID`
        line 6: `max_identity_bans` is `0`, expected a number from 1 to 100000
        ");
    }

    #[test]
    fn the_file_of_an_enrolled_identity_is_read() {
        let text = r#"{"ztAPI":"https://c1.example.org:1280/edge/client/v1","id":{"cert":"pem:CERT","key":"pem:KEY","ca":"pem:CA"}}"#;
        let enrolled = Enrolled::parse(text).expect("a whole file");
        assert_eq!(base(&enrolled.controller), Ok("https://c1.example.org:1280".to_owned()));
        assert_eq!(enrolled.authority, "CA");
        assert!(!format!("{enrolled:?}").contains("KEY"));
        // (file, what is wrong)
        let cases = [
            (r#"{"id":"SECRET"}"#, "it is not the file of an enrolled identity (line 1, column 14)"),
            (
                r#"{"ztAPI":"x","id":{"cert":"CERT","key":"SECRET","ca":"pem:CA"}}"#,
                "its `key` is neither `pem:` nor `file:`",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Enrolled::parse(text).expect_err("a bad file"), expected);
        }
    }
}
