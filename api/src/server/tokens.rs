//! Tokens that machines get for a password or a certificate (spec: local-api 5.2).
//!
//! The keys that sign them lie in a file, so that a restart ends no session. A new key signs each day; the one before
//! is known as long as a token of it may be good.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::ServerError;
use super::error::ApiError;
use crate::config::Secret;
use crate::files;
use crate::wire::{self, TokenBody};

/// How long a token is good.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// How long a key signs.
const SIGNS_FOR: SignedDuration = SignedDuration::from_hours(24);
/// By how much a token may seem to come from the future.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// Length of a key in bytes.
const KEY_LEN: usize = 64;

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    id: String,
    exp: i64,
    orig_iat: i64,
}

/// A key that signs, or signed until a while ago.
struct Key {
    id: String,
    since: Timestamp,
    secret: SecretString,
}

/// A key as it is kept in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    since: Timestamp,
    secret: String,
}

/// Makes and checks tokens.
pub(crate) struct Tokens {
    /// The newest first; never empty.
    keys: RwLock<Vec<Key>>,
    /// A key that somebody chose is never replaced.
    chosen: bool,
    file: Option<PathBuf>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl Tokens {
    /// With a key that somebody chose, or those in `file`, or a random one.
    pub(crate) fn open(chosen: Option<&Secret>, file: Option<&Path>, now: Timestamp) -> Result<Self, ServerError> {
        if let Some(secret) = chosen {
            if secret.expose().len() < KEY_LEN {
                return Err(ServerError::WeakSecret);
            }
            let key = Key { id: "chosen".into(), since: now, secret: secret.expose().into() };
            return Ok(Self { keys: RwLock::new(vec![key]), chosen: true, file: None });
        }
        let mut keys = match file {
            Some(path) => read(path).map_err(|source| ServerError::TokenKeys { path: path.into(), source })?,
            None => Vec::new(),
        };
        let fresh = keys.is_empty();
        if fresh {
            keys.push(Key::new(now));
        }
        let tokens = Self { keys: RwLock::new(keys), chosen: false, file: file.map(Into::into) };
        if fresh {
            tokens.keep();
        }
        Ok(tokens)
    }

    /// A token for a machine.
    pub(crate) fn issue(&self, machine: &str, now: Timestamp) -> Result<TokenBody, ApiError> {
        self.rotate(now);
        let expire = now.saturating_add(LIFETIME).unwrap_or(now);
        let claims = Claims { id: machine.into(), exp: expire.as_second(), orig_iat: now.as_second() };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.first().ok_or_else(|| ApiError::internal("there is no key to sign with"))?;
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
        let token =
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key.secret.expose_secret().as_bytes()))
                .map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(TokenBody { code: 200, expire: wire::seconds(expire), token })
    }

    /// The machine to which the token in `headers` was given.
    pub(crate) fn machine(&self, headers: &HeaderMap, now: Timestamp) -> Result<String, ApiError> {
        let claims = self.claims(headers, now)?;
        if claims.exp <= now.as_second() {
            return Err(ApiError::Token("Token is expired".into()));
        }
        Ok(claims.id)
    }

    /// The machine whose token may be renewed: its age alone counts.
    pub(crate) fn renewable(&self, headers: &HeaderMap, now: Timestamp) -> Result<String, ApiError> {
        let claims = self.claims(headers, now)?;
        if claims.orig_iat < now.saturating_sub(LIFETIME).unwrap_or(now).as_second() {
            return Err(ApiError::Token("token is expired".into()));
        }
        Ok(claims.id)
    }

    fn claims(&self, headers: &HeaderMap, now: Timestamp) -> Result<Claims, ApiError> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|text| text.to_str().ok()?.strip_prefix("Bearer "));
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|text| text.to_str().ok());
        let mut cookies = cookies.flat_map(|text| text.split(';')).map(str::trim);
        let token = bearer.or_else(|| cookies.find_map(|cookie| cookie.strip_prefix("jwt=")));
        let token = token.ok_or_else(|| ApiError::Token("cookie token is empty".into()))?;
        let wrong = |error: jsonwebtoken::errors::Error| ApiError::Token(error.to_string());
        let id = jsonwebtoken::decode_header(token).map_err(wrong)?.kid;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let named = keys.iter().find(|key| Some(&key.id) == id.as_ref());
        let Some(key) = named.or(keys.first()) else { return Err(ApiError::Token("signature is invalid".into())) };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let decoding = DecodingKey::from_secret(key.secret.expose_secret().as_bytes());
        let claims: Claims = jsonwebtoken::decode(token, &decoding, &validation).map_err(wrong)?.claims;
        // Only a clock that was set back makes such a token: it would be good for longer than anybody meant.
        if claims.orig_iat > now.saturating_add(SKEW).unwrap_or(now).as_second() {
            return Err(ApiError::Token("Token used before issued".into()));
        }
        Ok(claims)
    }

    /// Lets a new key sign once a day. A clock that was set back starts a new day, too.
    fn rotate(&self, now: Timestamp) {
        if self.chosen {
            return;
        }
        let signs = |key: &Key| {
            let age = now.duration_since(key.since);
            age < SIGNS_FOR && age > -SIGNS_FOR
        };
        if self.keys.read().unwrap_or_else(PoisonError::into_inner).first().is_some_and(signs) {
            return;
        }
        {
            let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
            if keys.first().is_some_and(signs) {
                return;
            }
            keys.insert(0, Key::new(now));
            // the one before signed a moment ago
            keys.truncate(2);
        }
        self.keep();
    }

    /// Writes the keys. Where that fails they are good until the next restart.
    fn keep(&self) {
        let Some(path) = &self.file else { return };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let kept: Vec<Kept> = keys
            .iter()
            .map(|key| Kept { id: key.id.clone(), since: key.since, secret: key.secret.expose_secret().to_owned() })
            .collect();
        let written = serde_json::to_vec(&kept).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|text| files::replace(path, &text, 0o600)) {
            warn!(path = %path.display(), %error, "cannot keep the keys of tokens: machines log in again after a restart");
        }
    }
}

impl Key {
    fn new(since: Timestamp) -> Self {
        let secret: Vec<u8> = std::iter::repeat_with(rand::random).take(KEY_LEN).collect();
        Self { id: format!("{:016x}", rand::random::<u64>()), since, secret: STANDARD_NO_PAD.encode(secret).into() }
    }
}

/// The keys in the file; none if there is no file. Whatever is too weak to be one of ours is an error.
fn read(path: &Path) -> Result<Vec<Key>, std::io::Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let kept: Vec<Kept> = serde_json::from_slice(&text)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it holds no keys"))?;
    if kept.iter().any(|key| key.secret.len() < KEY_LEN) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it holds a key that is too short"));
    }
    Ok(kept.into_iter().map(|key| Key { id: key.id, since: key.since, secret: key.secret.into() }).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn headers(token: &TokenBody) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {}", token.token).parse().expect("text"));
        headers
    }

    fn refusal(result: Result<String, ApiError>) -> String {
        match result {
            Err(ApiError::Token(message)) => message,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_token_is_good_for_an_hour_whatever_the_clock_does() {
        let tokens = Tokens::open(None, None, Timestamp::UNIX_EPOCH).expect("random keys");
        let now: Timestamp = "2031-04-05T09:00:00Z".parse().expect("a time");
        let token = headers(&tokens.issue("edge", now).expect("a token"));
        // (minutes later, what it says, whether it may be renewed)
        let cases = [
            (0, "edge", true),
            (59, "edge", true),
            (60, "Token is expired", true),
            (61, "Token is expired", false),
            (60 * 24 * 3650, "Token is expired", false),
            (-4, "edge", true),
            (-60 * 24, "Token used before issued", false),
        ];
        for (minutes, says, renewable) in cases {
            let at = now.saturating_add(SignedDuration::from_mins(minutes)).expect("within range");
            let found = tokens.machine(&token, at);
            assert_eq!(found.unwrap_or_else(|error| refusal(Err(error))), says, "{minutes}");
            assert_eq!(tokens.renewable(&token, at).is_ok(), renewable, "{minutes}");
        }
    }

    #[test]
    fn keys_outlive_a_restart_and_change_each_day() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token.keys");
        let now: Timestamp = "2031-04-05T09:00:00Z".parse().expect("a time");
        let later = |minutes| now.saturating_add(SignedDuration::from_mins(minutes)).expect("within range");
        let open = |at| Tokens::open(None, Some(&path), at).expect("keys");
        let first = open(now).issue("edge", now).expect("a token");
        assert_eq!(std::fs::metadata(&path).expect("kept").permissions().mode() & 0o777, 0o600);
        let tokens = open(later(1));
        assert_eq!(tokens.machine(&headers(&first), later(1)).expect("good"), "edge", "after a restart");
        let late = tokens.issue("edge", later(24 * 60 - 1)).expect("a token");
        let next = tokens.issue("edge", later(24 * 60 + 1)).expect("a token");
        let signer = |token: &TokenBody| jsonwebtoken::decode_header(&token.token).expect("a header").kid;
        assert_ne!(signer(&late), signer(&next), "a new day, a new key");
        for token in [&late, &next] {
            assert!(open(later(24 * 60 + 2)).machine(&headers(token), later(24 * 60 + 2)).is_ok());
        }
        let _ = tokens.issue("edge", later(48 * 60 + 2)).expect("a token");
        assert_eq!(refusal(tokens.machine(&headers(&late), later(48 * 60 + 2))), "InvalidSignature");
        let shown = format!("{tokens:?}");
        assert_eq!(shown, "Tokens(..)");
        std::fs::write(&path, "[{\"id\":\"a\",\"since\":\"2031-04-05T09:00:00Z\",\"secret\":\"short\"}]")
            .expect("writable");
        assert!(Tokens::open(None, Some(&path), now).is_err(), "a key that anybody could guess");
    }
}
