//! Where a target that others ask listens, as it stands in the file.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};
use serde_saphyr::Spanned;

use crate::config::Fault;

/// Where a target listens, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// The address or socket.
    pub on: On,
    /// How connections are secured; `None` for a socket, for this host, or for a network that is trusted.
    pub tls: Option<TlsFiles>,
}

/// An address or a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// Reached over the network.
    Tcp(SocketAddr),
    /// Reached on this host by whoever may open the file.
    Unix(PathBuf),
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            On::Tcp(address) => address.fmt(f),
            On::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for On {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The files of a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    /// Our certificate and those between it and its authority, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who may show a certificate.
    pub clients: Option<Clients>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// Who must have signed them, PEM.
    pub authority: PathBuf,
    /// Names of which one must stand in them, in lower case.
    pub names: Vec<String>,
    /// Whether nobody is let in without.
    pub required: bool,
}

/// The same as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    certificate: PathBuf,
    key: PathBuf,
    client_authority: Option<PathBuf>,
    client_names: Option<Spanned<Vec<String>>>,
}

/// The place in `listen`, secured by `tls`. Whoever can be reached from other hosts must be, unless
/// `allow_plaintext` says that the network is trusted.
pub fn check(
    listen: &Spanned<String>,
    tls: Option<RawTls>,
    certificates: Certificates,
    allow_plaintext: bool,
    faults: &mut Vec<Fault>,
) -> Option<Listen> {
    let line = listen.referenced.line();
    let mut fault = |line, message| faults.push(Fault { line, message });
    let on = if let Some(path) = listen.value.strip_prefix("unix:") {
        if !path.starts_with('/') {
            fault(line, format!("`{path}` is no place for a socket, expected a path from the root"));
            return None;
        }
        On::Unix(path.into())
    } else if let Ok(address) = listen.value.parse() {
        On::Tcp(address)
    } else {
        let found = &listen.value;
        let message = format!(
            "`{found}` is no place to listen, expected a form like `127.0.0.1:8095` or `unix:/run/cordon/forward.sock`"
        );
        fault(line, message);
        return None;
    };
    let tls = tls.map(|tls| {
        let clients = tls.client_authority.map(|authority| {
            let names = tls.client_names.as_ref().map(|names| names.value.as_slice()).unwrap_or_default();
            if certificates == Certificates::Pinned && names.is_empty() {
                let message = "`client_authority` needs `client_names`: the names of which one stands in the certificate of each proxy";
                fault(line, message.to_owned());
            }
            let names = names.iter().map(|name| name.to_lowercase()).collect();
            Clients { authority, names, required: certificates == Certificates::Pinned }
        });
        TlsFiles { certificate: tls.certificate, key: tls.key, clients }
    });
    match &on {
        On::Unix(_) if tls.is_some() => {
            fault(line, "a socket needs no `tls`: whoever may open the file may ask".to_owned());
        }
        On::Tcp(address) if tls.is_none() && !allow_plaintext && !address.ip().to_canonical().is_loopback() => {
            fault(
                line,
                format!(
                    "`{address}` can be reached from other hosts, and there is no `tls`\nhint: `cordon pki` makes certificates; \
                     or listen on 127.0.0.1, or set `allow_plaintext: true` if the network is trusted"
                ),
            );
        }
        _ => {}
    }
    Some(Listen { on, tls })
}

/// What certificates of clients are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// Nobody gets in without one that holds a known name.
    Pinned,
    /// They are one way among others to say who one is.
    Optional,
}
