//! Who asks: peers, tokens, keys.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::service::Caller;
use super::{App, ServerError};
use crate::wire::{self, TokenBody};

/// How long a token is good.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// The name under which people on this host act.
pub(crate) const LOCAL_ADMIN: &str = "local";

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An address.
    Tcp(SocketAddr),
    /// A process on this host; `admin` if it runs as root or as we do.
    Unix { admin: bool },
}

impl Peer {
    fn ip(self) -> IpAddr {
        match self {
            Self::Tcp(address) => address.ip().to_canonical(),
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// Its address; this host's for a socket.
    pub(crate) ip: IpAddr,
    /// Whether it speaks for this host's administrator.
    pub(crate) admin: bool,
    /// Whether it came through the socket.
    pub(crate) socket: bool,
}

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let peer = *parts.extensions.get::<Peer>().ok_or_else(ApiError::forbidden)?;
        Ok(match peer {
            Peer::Tcp(_) => Self { ip: app.proxies.client(peer.ip(), &parts.headers), admin: false, socket: false },
            Peer::Unix { admin } => Self { ip: peer.ip(), admin, socket: true },
        })
    }
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    id: String,
    exp: i64,
    orig_iat: i64,
}

/// Makes and checks tokens.
pub(crate) struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl Tokens {
    /// With a key of one's own, or a random one: then a restart ends all tokens.
    pub(crate) fn new(secret: Option<&SecretString>) -> Result<Self, ServerError> {
        let random: Vec<u8>;
        let secret = match secret {
            Some(secret) if secret.expose_secret().len() < 64 => return Err(ServerError::WeakSecret),
            Some(secret) => secret.expose_secret().as_bytes(),
            None => {
                random = std::iter::repeat_with(rand::random).take(64).collect();
                &random
            }
        };
        Ok(Self { encoding: EncodingKey::from_secret(secret), decoding: DecodingKey::from_secret(secret) })
    }

    /// A token for a machine.
    pub(crate) fn issue(&self, machine: &str, now: Timestamp) -> Result<TokenBody, ApiError> {
        let expire = now.saturating_add(LIFETIME).unwrap_or(now);
        let claims = Claims { id: machine.into(), exp: expire.as_second(), orig_iat: now.as_second() };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(TokenBody { code: 200, expire: wire::seconds(expire), token })
    }

    /// The machine to which the token in `headers` was given.
    pub(crate) fn machine(&self, headers: &HeaderMap, now: Timestamp) -> Result<String, ApiError> {
        let claims = self.claims(headers)?;
        if claims.exp <= now.as_second() {
            return Err(ApiError::Token("Token is expired".into()));
        }
        Ok(claims.id)
    }

    /// The machine whose token may be renewed: its age alone counts.
    pub(crate) fn renewable(&self, headers: &HeaderMap, now: Timestamp) -> Result<String, ApiError> {
        let claims = self.claims(headers)?;
        if claims.orig_iat < now.saturating_sub(LIFETIME).unwrap_or(now).as_second() {
            return Err(ApiError::Token("token is expired".into()));
        }
        Ok(claims.id)
    }

    fn claims(&self, headers: &HeaderMap) -> Result<Claims, ApiError> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|text| text.to_str().ok()?.strip_prefix("Bearer "));
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|text| text.to_str().ok());
        let mut cookies = cookies.flat_map(|text| text.split(';')).map(str::trim);
        let token = bearer.or_else(|| cookies.find_map(|cookie| cookie.strip_prefix("jwt=")));
        let token = token.ok_or_else(|| ApiError::Token("cookie token is empty".into()))?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode(token, &self.decoding, &validation)
            .map(|data| data.claims)
            .map_err(|error| ApiError::Token(error.to_string()))
    }
}

/// A machine that has logged in, or this host's administrator.
#[derive(Clone, Debug)]
pub(crate) struct MachineId(pub(crate) String);

impl FromRequestParts<Arc<App>> for MachineId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let client = Client::from_request_parts(parts, app).await?;
        if client.admin && !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(Self(LOCAL_ADMIN.into()));
        }
        app.tokens.machine(&parts.headers, Timestamp::now()).map(Self)
    }
}

/// A bouncer with a good key; `None` for this host's administrator without one.
#[derive(Clone, Debug)]
pub(crate) struct BouncerId(pub(crate) Option<String>);

impl FromRequestParts<Arc<App>> for BouncerId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let client = Client::from_request_parts(parts, app).await?;
        let Some(key) = parts.headers.get("x-api-key") else {
            return if client.admin { Ok(Self(None)) } else { Err(ApiError::forbidden()) };
        };
        let key = key.to_str().map_err(|_| ApiError::forbidden())?;
        if parts.method == Method::HEAD {
            return if app.service.knows_key(key) { Ok(Self(None)) } else { Err(ApiError::forbidden()) };
        }
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let caller = Caller { key, ip: client.ip, agent };
        let name = app.service.identify(caller).await.map_err(|_| ApiError::forbidden())?;
        name.map(|name| Self(Some(name))).ok_or_else(ApiError::forbidden)
    }
}

/// Lets only this host's administrator pass.
pub(crate) async fn admin_only(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let client = Client::from_request_parts(&mut parts, &app).await?;
    if !client.admin {
        return Err(ApiError::forbidden());
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
