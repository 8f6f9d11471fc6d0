//! Who asks: peers, certificates, tokens, keys.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;
use jiff::Timestamp;
use tracing::warn;

use super::error::ApiError;
use super::service::{Caller, KeyHash};
use super::tls::PeerCertificate;
use super::{App, known_method, route_name};
use crate::metrics::{BouncerRequest, MachineRequest};
use crate::store::Right;

/// The name under which people on this host act.
pub(crate) const LOCAL_ADMIN: &str = "local";
/// How often a long answer asks whether its reader may still have it.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// An address, and the certificate that was shown.
    Tcp { address: SocketAddr, certificate: Option<Arc<PeerCertificate>> },
    /// A process on this host; `admin` if it runs as root or as we do.
    Unix { admin: bool },
}

impl Peer {
    fn ip(&self) -> IpAddr {
        match self {
            Self::Tcp { address, .. } => address.ip().to_canonical(),
            Self::Unix { .. } => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// Whose word about the client's address counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    pub(crate) trusted: Vec<IpNet>,
}

impl Proxies {
    /// The client's address (spec: local-api 2.1).
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusts = |ip: IpAddr| self.trusted.iter().any(|net| net.contains(&ip));
        if !trusts(peer) {
            return peer;
        }
        let listed = |name: &str| {
            let text = headers.get(name)?.to_str().ok()?;
            let mut leftmost = None;
            for entry in text.rsplit(',') {
                let ip = entry.trim().parse::<IpAddr>().ok()?.to_canonical();
                leftmost = Some(ip);
                if !trusts(ip) {
                    break;
                }
            }
            leftmost
        };
        listed("x-forwarded-for").or_else(|| listed("x-real-ip")).unwrap_or(peer)
    }
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Its address; this host's for a socket.
    pub(crate) ip: IpAddr,
    /// Under which name it may do everything, if it may.
    pub(crate) admin: Option<String>,
    /// Whether it came through the socket.
    pub(crate) socket: bool,
    /// The certificate that its connection showed.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
    /// Whose key it sent, if the key is good.
    pub(crate) key_owner: Option<String>,
}

impl Client {
    /// How it proved to be `name`.
    pub(crate) fn proof(&self, name: &str) -> &'static str {
        match () {
            () if name.is_empty() => "none",
            () if self.socket && self.admin.as_deref() == Some(name) => "socket",
            () if self.key_owner.as_deref() == Some(name) => "key",
            () if self.certificate.is_some() => "certificate",
            () => "token",
        }
    }

    /// Where a request comes from, without a look at keys.
    fn read(parts: &Parts, app: &App) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Peer>().ok_or_else(ApiError::forbidden)?;
        Ok(match peer {
            Peer::Tcp { certificate, .. } => {
                let administers =
                    certificate.as_ref().filter(|certificate| app.accepts(certificate, Right::Admin).is_ok());
                Self {
                    ip: app.proxies.client(peer.ip(), &parts.headers),
                    admin: administers.map(|certificate| certificate.name.clone()),
                    socket: false,
                    certificate: certificate.clone(),
                    key_owner: None,
                }
            }
            Peer::Unix { admin } => {
                let admin = admin.then(|| LOCAL_ADMIN.to_owned());
                Self { ip: peer.ip(), admin, socket: true, certificate: None, key_owner: None }
            }
        })
    }
}

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let mut client = Self::read(parts, app)?;
        if client.admin.is_none()
            && client.certificate.is_none()
            && let Some(key) = key(&parts.headers)
        {
            let owner = app.service.key_owner(&KeyHash::new(key), client.ip);
            client.key_owner = owner.as_ref().map(|owner| owner.name.clone());
            client.admin = owner.filter(|owner| owner.may(Right::Admin)).map(|owner| owner.name);
        }
        Ok(client)
    }
}

impl App {
    /// Whether a certificate is good and belongs to those who have `right`; if not, why.
    pub(crate) fn accepts(&self, certificate: &PeerCertificate, right: Right) -> Result<(), String> {
        let tls = self.tls.as_ref().ok_or("there is no TLS")?;
        let allowed = match right {
            Right::Read => &tls.units().bouncers,
            Right::Push => &tls.units().agents,
            Right::Admin => &tls.units().admins,
        };
        if !certificate.belongs_to(allowed) {
            return Err(format!("organisational unit {:?} is not among {allowed:?}", certificate.units));
        }
        tls.check(certificate)
    }
}

/// A machine that has logged in, or somebody who may do what machines may.
#[derive(Clone, Debug)]
pub(crate) struct MachineId(pub(crate) String);

impl FromRequestParts<Arc<App>> for MachineId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let client = Client::from_request_parts(parts, app).await?;
        let name = match client.admin {
            Some(name) if !parts.headers.contains_key(header::AUTHORIZATION) => {
                if !client.socket {
                    app.limits.check_request(&name)?;
                }
                return Ok(Self(name));
            }
            _ => {
                if let Some(name) = pusher(parts, app, client.ip) {
                    name
                } else {
                    let name = app.tokens.machine(&parts.headers, Timestamp::now())?;
                    app.still_good(&name, client.certificate.as_deref())?;
                    name
                }
            }
        };
        app.limits.check_request(&name)?;
        if let Some(route) = counted_route(parts) {
            let labels = MachineRequest { machine: name.clone(), route, method: known_method(&parts.method).into() };
            app.service.metrics().machine_requests.get_or_create(&labels).inc();
        }
        Ok(Self(name))
    }
}

impl App {
    /// Whether the machine to which a token was given is still there, and still shows the certificate with which it
    /// logged in if it did so with one.
    pub(crate) fn still_good(&self, machine: &str, certificate: Option<&PeerCertificate>) -> Result<(), ApiError> {
        let Some(logs_in_with) = self.service.machine_auth(machine) else {
            return Err(ApiError::Token("ent: machine not found".into()));
        };
        if logs_in_with != "tls" {
            return Ok(());
        }
        let shown = certificate.ok_or_else(|| ApiError::Token("the client certificate is missing".into()))?;
        if machine.rsplit_once('@').map(|(name, _)| name) != Some(shown.name.as_str()) {
            return Err(ApiError::Token("the client certificate is another machine's".into()));
        }
        self.accepts(shown, Right::Push).map_err(|reason| refused(shown, &reason)).map_err(ApiError::Token)
    }
}

/// Says in the log why a certificate was refused; who showed it is told the same.
pub(crate) fn refused(certificate: &PeerCertificate, reason: &str) -> String {
    warn!(name = certificate.name, reason, "refused a client certificate");
    reason.to_owned()
}

/// The owner of a key that may send alerts, where that is what is asked for.
fn pusher(parts: &Parts, app: &App, ip: IpAddr) -> Option<String> {
    let key = key(&parts.headers).filter(|_| !parts.headers.contains_key(header::AUTHORIZATION))?;
    let route = parts.extensions.get::<MatchedPath>()?.as_str();
    let sends = matches!((&parts.method, route), (&Method::POST, "/v1/alerts") | (&Method::GET, "/v1/allowlists"));
    let owner = app.service.key_owner(&KeyHash::new(key), ip)?;
    (sends && owner.may(Right::Push)).then_some(owner.name)
}

/// A bouncer with a good key or certificate; `None` for an administrator without one.
#[derive(Clone, Debug)]
pub(crate) struct BouncerId(pub(crate) Option<String>);

/// With what a bouncer got in, so that it can be asked again later.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    /// It is this host's administrator.
    Local,
    /// A key, and where it came from.
    Key(KeyHash, IpAddr),
    /// A certificate.
    Certificate(Arc<PeerCertificate>, Right),
}

impl FromRequestParts<Arc<App>> for BouncerId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let client = Client::read(parts, app)?;
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        if let Some(certificate) = client.certificate {
            let right = if client.admin.is_some() { Right::Admin } else { Right::Read };
            app.accepts(&certificate, right).map_err(|reason| {
                refused(&certificate, &reason);
                ApiError::forbidden()
            })?;
            let caller = Caller { ip: client.ip, agent };
            let name = match right {
                Right::Admin => None,
                _ => Some(
                    app.service
                        .identify_certificate(&certificate.name, caller)
                        .await
                        .map_err(|_| ApiError::forbidden())?,
                ),
            };
            parts.extensions.insert(Proof::Certificate(certificate, right));
            return match name {
                Some(None) => Err(ApiError::forbidden()),
                Some(Some(name)) => counted(parts, app, name),
                None => Ok(Self(None)),
            };
        }
        let Some(key) = parts.headers.get("x-api-key") else {
            parts.extensions.insert(Proof::Local);
            return if client.admin.is_some() { Ok(Self(None)) } else { Err(ApiError::forbidden()) };
        };
        let key = KeyHash::new(key.to_str().map_err(|_| ApiError::forbidden())?);
        if parts.method == Method::HEAD {
            let may = app.service.key_owner(&key, client.ip).is_some_and(|owner| owner.may(Right::Read));
            return if may { Ok(Self(None)) } else { Err(ApiError::forbidden()) };
        }
        let caller = Caller { ip: client.ip, agent };
        let name = app.service.identify(&key, caller).await.map_err(|_| ApiError::forbidden())?;
        parts.extensions.insert(Proof::Key(key, client.ip));
        counted(parts, app, name.ok_or_else(ApiError::forbidden)?)
    }
}

fn counted(parts: &Parts, app: &App, name: String) -> Result<BouncerId, ApiError> {
    app.limits.check_request(&name)?;
    if let Some(route) = counted_route(parts) {
        let labels = BouncerRequest { bouncer: name.clone(), route, method: known_method(&parts.method).into() };
        app.service.metrics().bouncer_requests.get_or_create(&labels).inc();
    }
    Ok(BouncerId(Some(name)))
}

/// The route as counters name it; none for the one that is not counted by sender.
fn counted_route(parts: &Parts) -> Option<String> {
    let route = parts.extensions.get::<MatchedPath>()?.as_str();
    (route != "/v1/usage-metrics").then(|| route_name(route))
}

fn key(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-api-key")?.to_str().ok()
}

/// Returns when whoever had `proof` may no longer ask.
pub(crate) async fn lost(app: Arc<App>, proof: Proof) {
    let mut readings = app.tls.as_ref().map(|tls| tls.readings());
    loop {
        let holds = match &proof {
            Proof::Local => true,
            Proof::Key(key, ip) => app.service.key_owner(key, *ip).is_some_and(|owner| owner.may(Right::Read)),
            Proof::Certificate(certificate, right) => match app.accepts(certificate, *right) {
                Ok(()) => true,
                Err(reason) => {
                    refused(certificate, &reason);
                    false
                }
            },
        };
        if !holds {
            return;
        }
        let read_again = async {
            match &mut readings {
                Some(readings) => readings.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            _ = read_again => {}
        }
    }
}

/// Lets only administrators pass.
pub(crate) async fn admin_only(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let client = Client::from_request_parts(&mut parts, &app).await?;
    let Some(name) = client.admin else { return Err(ApiError::forbidden()) };
    if !client.socket {
        app.limits.check_request(&name)?;
    }
    Ok(next.run(Request::from_parts(parts, body)).await)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
        let all: &[&str] = &["0.0.0.0/0"];
        let inner: &[&str] = &["10.0.0.0/8"];
        // (who is trusted, peer, X-Forwarded-For, X-Real-IP, client)
        let cases: &[(&[&str], &str, &str, &str, &str)] = &[
            (&[], "10.0.0.1", "192.0.2.1", "", "10.0.0.1"),
            (inner, "10.0.0.1", "192.0.2.1", "", "192.0.2.1"),
            (inner, "10.0.0.1", "192.0.2.1, 10.0.0.9", "", "192.0.2.1"),
            (inner, "10.0.0.1", "203.0.113.5, 192.0.2.1, 10.0.0.9", "", "192.0.2.1"),
            (inner, "10.0.0.1", "10.0.0.8, 10.0.0.9", "", "10.0.0.8"),
            (inner, "10.0.0.1", "junk, 10.0.0.9", "192.0.2.2", "192.0.2.2"),
            (inner, "192.0.2.9", "192.0.2.1", "", "192.0.2.9"),
            (all, "198.51.100.1", "192.0.2.1, 192.0.2.2", "", "192.0.2.1"),
            (all, "2001:db8::1", "192.0.2.1", "", "2001:db8::1"),
        ];
        for (trusted, peer, forwarded, real, client) in cases {
            let trusted = trusted.iter().map(|net| net.parse().expect("a net")).collect();
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-forwarded-for", forwarded), ("x-real-ip", real)] {
                if !value.is_empty() {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            let found = Proxies { trusted }.client(peer.parse().expect("an address"), &headers);
            assert_eq!(found.to_string(), *client, "{peer} {forwarded}");
        }
    }
}
