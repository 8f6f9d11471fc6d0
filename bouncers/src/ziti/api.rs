//! Talking to the controllers: one request at a time, to whichever of them answers.
//!
//! Reads and writes may go to any controller. Circuits live in the memory of the one that made them, so those are
//! asked for at each. Writes are paced: the controllers share one queue, and what floods it locks out everybody.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{DATE, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::login::{Credential, Login};
use super::name::{Name, NameError, encode, id, quote};
use super::wire::{
    ApiSession, Circuit, ControllerDetail, EdgeRouter, Envelope, ErrorEnvelope, Identity, Terminator, Version,
};

/// Where the management API is.
pub const EDGE: &str = "/edge/management/v1";
/// Where the fabric API is, on the same listener.
pub const FABRIC: &str = "/fabric/v1";

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 32 << 20;
/// Entries in a page: the most that a controller gives.
const PAGE: usize = 500;
/// Pages that are read of one list.
const MAX_PAGES: usize = 200;
/// Writes in a second, and at once.
const WRITES: u32 = 5;
/// How long no login is tried after one was refused; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LAST_PAUSE: Duration = Duration::from_mins(15);
/// How long a controller that did not answer is not asked for circuits.
const SILENCE: Duration = Duration::from_secs(20);
/// A difference of clocks that is only rounding.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(2);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers.
    #[error("cannot reach the controller at {url}: {reason}")]
    Unreachable {
        /// The controller.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The controller cannot now.
    #[error("the controller at {url} is too busy or has no leader (http code {status})")]
    Busy {
        /// The controller.
        url: String,
        /// 429, 503, ...
        status: u16,
        /// How long it wants to be left alone.
        after: Option<Duration>,
    },
    /// The controller does not know us.
    #[error(
        "the controller at {url} refuses the login: {reason}\nhint: check the identity or the password that `enforcement` names"
    )]
    Unauthorised {
        /// The controller.
        url: String,
        /// What it said.
        reason: String,
    },
    /// A login was refused a moment ago.
    #[error("no login is tried for another {} seconds: the last one was refused", wait.as_secs())]
    Resting {
        /// How long.
        wait: Duration,
    },
    /// The controller wants more than we can show.
    #[error(
        "the controller wants a second factor\nhint: use an identity of its own without one, enrolled with a certificate"
    )]
    SecondFactor,
    /// The identity that we are may not do that.
    #[error("the controller at {url} does not permit that: {reason}")]
    Forbidden {
        /// The controller.
        url: String,
        /// What it said.
        reason: String,
    },
    /// There is no such thing.
    #[error("there is no such thing at the controller")]
    NotFound,
    /// The controller says no.
    #[error("the controller at {url} refuses that (http code {status}): {reason}")]
    Refused {
        /// The controller.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// The answer makes no sense.
    #[error("the controller at {url} answered something unexpected: {reason}")]
    Garbled {
        /// The controller.
        url: String,
        /// What was wrong with it.
        reason: String,
    },
    /// A secret cannot be read.
    #[error("cannot read the secret in `{}`: {source}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value names nobody.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that several identities have.
    #[error("`{0}` names several identities")]
    Ambiguous(String),
}

impl ApiError {
    /// An answer from `base` that makes no sense.
    pub fn garbled(base: &str, reason: &str) -> Self {
        Self::Garbled { url: base.to_owned(), reason: reason.to_owned() }
    }

    /// Whether another controller, or the same one later, may do better.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. } | Self::Garbled { .. })
    }

    /// Whether it is about one item, so that the others go on.
    pub fn is_of_item(&self) -> bool {
        matches!(
            self,
            Self::NotFound | Self::Refused { .. } | Self::Forbidden { .. } | Self::Name(_) | Self::Ambiguous(_)
        )
    }
}

/// One controller, and what it knows us by.
struct Controller {
    base: String,
    credential: Option<Credential>,
    /// Until when it is not asked for circuits, because it did not answer, and why.
    silent: Option<(Instant, String)>,
}

impl Controller {
    fn new(base: String) -> Self {
        Self { base, credential: None, silent: None }
    }
}

/// The controllers of one network.
pub struct Api {
    http: Client,
    login: Box<dyn Login>,
    /// Those that were named, in order, then those that were found.
    controllers: Vec<Controller>,
    named: usize,
    /// Which of the named ones answered last.
    current: usize,
    writes: Pace,
    /// Not before then is a login tried, and how long the pause was.
    pause: Option<(Instant, Duration)>,
    /// What the controller's clock is ahead of ours.
    ahead: SignedDuration,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bases: Vec<&str> = self.controllers.iter().map(|controller| controller.base.as_str()).collect();
        f.debug_struct("Api").field("controllers", &bases).finish_non_exhaustive()
    }
}

/// What a connection needs.
pub struct Trust {
    /// How long an answer may take.
    pub patience: Duration,
    /// The only authorities from which a controller's certificate may come, as PEM; those of the system without it.
    pub authorities: Option<Vec<u8>>,
    /// The certificate that we show, and its key, as PEM.
    pub identity: Option<SecretString>,
}

impl Default for Trust {
    fn default() -> Self {
        Self { patience: ANSWER, authorities: None, identity: None }
    }
}

impl Trust {
    /// A connection pool. It follows no redirection: a credential goes nowhere else.
    pub fn client(&self) -> Result<Client, String> {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(self.patience)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cordon/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &self.authorities {
            let all = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| reason(&error))?;
            if all.is_empty() {
                return Err("there is no certificate in it".to_owned());
            }
            builder = builder.tls_certs_only(all);
        }
        if let Some(pem) = &self.identity {
            let identity = reqwest::Identity::from_pem(pem.expose_secret().as_bytes());
            builder = builder.identity(identity.map_err(|error| reason(&error))?);
        }
        builder.build().map_err(|error| reason(&error))
    }
}

impl Api {
    /// The controllers at `bases`, none of them asked yet. `bases` have no slash at the end and are not empty.
    pub fn new(http: Client, login: Box<dyn Login>, bases: &[String]) -> Self {
        let controllers: Vec<Controller> = bases.iter().cloned().map(Controller::new).collect();
        let named = controllers.len();
        let writes = Pace::new(WRITES);
        Self { http, login, controllers, named, current: 0, writes, pause: None, ahead: SignedDuration::ZERO }
    }

    /// The same with at most `a_second` writes in a second.
    pub fn paced(self, a_second: u32) -> Self {
        Self { writes: Pace::new(a_second.max(1)), ..self }
    }

    /// What the controller's clock is ahead of this host's.
    pub fn ahead(&self) -> SignedDuration {
        self.ahead
    }

    /// The version, asked without a login.
    pub async fn version(&mut self) -> Result<Version, ApiError> {
        self.get(&format!("{EDGE}/version")).await
    }

    /// The identity that we are.
    pub async fn me(&mut self) -> Result<Identity, ApiError> {
        self.get(&format!("{EDGE}/current-identity")).await
    }

    /// The identity with `id`.
    pub async fn identity(&mut self, id: &str) -> Result<Identity, ApiError> {
        self.get(&format!("{EDGE}/identities/{id}")).await
    }

    /// The identity that `name` names.
    pub async fn find(&mut self, name: &Name) -> Result<Identity, ApiError> {
        let Some(filter) = name.filter() else { return self.identity(&name.to_string()).await };
        let found: Vec<Identity> = self.list(&format!("{EDGE}/identities"), Some(&filter)).await?;
        // Whatever the filter was understood as, only an exact match counts.
        let mut exact = found.into_iter().filter(|identity| match name {
            Name::Name(wanted) => identity.name == *wanted,
            Name::External(wanted) => identity.external_id.as_ref() == Some(wanted),
            Name::Id(wanted) => identity.id == *wanted,
        });
        match (exact.next(), exact.next()) {
            (None, _) => Err(ApiError::NotFound),
            (Some(_), Some(_)) => Err(ApiError::Ambiguous(name.to_string())),
            (Some(identity), None) => {
                id(&identity.id)?;
                Ok(identity)
            }
        }
    }

    /// Disables the identity with `id` for `minutes`, which is never 0: that would be for ever.
    pub async fn disable(&mut self, id: &str, minutes: i64) -> Result<(), ApiError> {
        let body = json!({ "durationMinutes": minutes.max(1) });
        self.write(Method::POST, &format!("{EDGE}/identities/{id}/disable"), Some(&body)).await
    }

    /// Enables the identity with `id`.
    pub async fn enable(&mut self, id: &str) -> Result<(), ApiError> {
        self.write(Method::POST, &format!("{EDGE}/identities/{id}/enable"), None).await
    }

    /// Sessions of the older kind: of one identity, from one address, or all.
    pub async fn sessions(&mut self, of: Sessions<'_>) -> Result<Vec<ApiSession>, ApiError> {
        let filter = match of {
            Sessions::Of(identity) => Some(format!("identity={}", quote(identity))),
            Sessions::From(address) => Some(format!("ipAddress={}", quote(address))),
            Sessions::All => None,
        };
        let mut found: Vec<ApiSession> = self.list(&format!("{EDGE}/api-sessions"), filter.as_deref()).await?;
        // A filter that is not understood as meant must not cut off others.
        found.retain(|session| match of {
            Sessions::Of(identity) => session.identity_id == identity,
            _ => true,
        });
        Ok(found)
    }

    /// The session of the older kind with `id`.
    pub async fn session(&mut self, id: &str) -> Result<ApiSession, ApiError> {
        self.get(&format!("{EDGE}/api-sessions/{id}")).await
    }

    /// Ends the session of the older kind with `id`; one that is not there is ended.
    pub async fn end_session(&mut self, session: &str) -> Result<(), ApiError> {
        let session = id(session)?;
        gone(self.write(Method::DELETE, &format!("{EDGE}/api-sessions/{session}"), None).await)
    }

    /// Revokes the session of the newer kind with `id` (2.0.1 and later, as a full administrator).
    pub async fn revoke_session(&mut self, session: &str) -> Result<(), ApiError> {
        let body = json!({ "id": session, "type": "API_SESSION" });
        self.write(Method::POST, &format!("{EDGE}/revocations"), Some(&body)).await
    }

    /// The terminators that `host` has.
    pub async fn terminators(&mut self, host: &str) -> Result<Vec<Terminator>, ApiError> {
        let filter = format!("hostId={}", quote(host));
        let mut found: Vec<Terminator> = self.list(&format!("{FABRIC}/terminators"), Some(&filter)).await?;
        found.retain(|terminator| terminator.host_id == host);
        Ok(found)
    }

    /// Removes the terminator with `id`; one that is not there is removed.
    pub async fn end_terminator(&mut self, terminator: &str) -> Result<(), ApiError> {
        let terminator = id(terminator)?;
        gone(self.write(Method::DELETE, &format!("{FABRIC}/terminators/{terminator}"), None).await)
    }

    /// The edge routers.
    pub async fn routers(&mut self) -> Result<Vec<EdgeRouter>, ApiError> {
        self.list(&format!("{EDGE}/edge-routers"), None).await
    }

    /// All controllers of the network, as one of them knows them.
    pub async fn known_controllers(&mut self) -> Result<Vec<ControllerDetail>, ApiError> {
        self.list(&format!("{EDGE}/controllers"), None).await
    }

    /// Takes in the other controllers of the network, for their circuits. A controller that does not know the
    /// question is alone.
    pub async fn discover(&mut self) -> Result<(), ApiError> {
        let found = match self.known_controllers().await {
            Ok(found) => found,
            Err(ApiError::NotFound | ApiError::Refused { .. } | ApiError::Forbidden { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        if found.len() < 2 {
            self.controllers.truncate(self.named);
            return Ok(());
        }
        let bases: BTreeSet<String> = found.iter().filter_map(base_of).collect();
        self.controllers.retain_mut({
            let (mut at, named) = (0, self.named);
            move |controller| {
                at += 1;
                at <= named || bases.contains(&controller.base)
            }
        });
        for base in found.iter().filter_map(base_of) {
            if self.controllers.iter().all(|controller| controller.base != base) {
                info!(controller = base, "another controller of the network");
                self.controllers.push(Controller::new(base));
            }
        }
        Ok(())
    }

    /// All circuits, with the number of the controller that has each. The second value says which controllers did
    /// not answer.
    pub async fn circuits(&mut self) -> Result<(Vec<(usize, Circuit)>, Vec<String>), ApiError> {
        let mut all = Vec::new();
        let mut silent = Vec::new();
        for at in 0..self.controllers.len() {
            let alone = self.controllers.len() == 1;
            if let Some((until, reason)) = &self.controllers[at].silent
                && *until > Instant::now()
            {
                silent.push(reason.clone());
                continue;
            }
            match self.list_at::<Circuit>(at, &format!("{FABRIC}/circuits"), None).await {
                Ok(circuits) => {
                    self.controllers[at].silent = None;
                    all.extend(circuits.into_iter().map(|circuit| (at, circuit)));
                }
                // One that is away must not hold up each cut at the others.
                Err(error) if error.is_passing() && !alone => {
                    self.controllers[at].silent = Some((Instant::now() + SILENCE, error.to_string()));
                    silent.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if silent.len() == self.controllers.len() {
            let url = self.controllers.first().map(|controller| controller.base.clone()).unwrap_or_default();
            return Err(ApiError::Unreachable { url, reason: silent.join("; ") });
        }
        Ok((all, silent))
    }

    /// Cuts a circuit at controller number `at`; one that is not there is cut.
    pub async fn cut(&mut self, at: usize, circuit: &str) -> Result<(), ApiError> {
        let circuit = id(circuit)?;
        let body = json!({ "immediate": true });
        gone(self.write_at(at, Method::DELETE, &format!("{FABRIC}/circuits/{circuit}"), Some(&body)).await)
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ApiError> {
        let body = self.anywhere(Method::GET, path, None).await?;
        self.read::<T>(self.current, &body).map(|envelope| envelope.data)
    }

    async fn write(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<(), ApiError> {
        self.anywhere(method, path, body).await.map(drop)
    }

    async fn write_at(&mut self, at: usize, method: Method, path: &str, body: Option<&Value>) -> Result<(), ApiError> {
        self.request(at, method, path, body).await.map(drop)
    }

    /// A whole list from whichever controller answers.
    async fn list<T: DeserializeOwned>(&mut self, path: &str, filter: Option<&str>) -> Result<Vec<T>, ApiError> {
        let mut last = None;
        for attempt in 0..self.named {
            let at = (self.current + attempt) % self.named;
            match self.list_at(at, path, filter).await {
                Err(error) if error.is_passing() => last = Some(error),
                other => {
                    self.current = at;
                    return other;
                }
            }
        }
        Err(last.expect("there is at least one controller"))
    }

    /// A whole list, page by page in the order of ids. A controller that does not know pages answers all at once.
    async fn list_at<T: DeserializeOwned>(
        &mut self,
        at: usize,
        path: &str,
        filter: Option<&str>,
    ) -> Result<Vec<T>, ApiError> {
        let sorted = format!("{} sort by id", filter.unwrap_or("true"));
        let mut all = Vec::new();
        let mut seen = BTreeSet::new();
        for page in 0..MAX_PAGES {
            let offset = page * PAGE;
            let url = format!("{path}?limit={PAGE}&offset={offset}&filter={}", encode(&sorted));
            let body = self.request(at, Method::GET, &url, None).await?;
            let envelope: Envelope<Vec<Value>> = self.read(at, &body)?;
            let before = seen.len();
            let length = envelope.data.len();
            for item in envelope.data {
                let fresh = item.get("id").and_then(Value::as_str).is_some_and(|id| seen.insert(id.to_owned()));
                if fresh {
                    all.push(serde_json::from_value(item).map_err(|error| self.nonsense(at, &error))?);
                }
            }
            let total = envelope.meta.pagination.map(|page| page.total_count as usize);
            if length == 0 || seen.len() == before || total.is_none_or(|total| seen.len() >= total) {
                return Ok(all);
            }
        }
        let base = self.base(at);
        Err(ApiError::Garbled { url: base, reason: format!("a list of more than {} entries", PAGE * MAX_PAGES) })
    }

    /// One request to whichever of the named controllers answers.
    async fn anywhere(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Vec<u8>, ApiError> {
        let mut last = None;
        for attempt in 0..self.named {
            let at = (self.current + attempt) % self.named;
            match self.request(at, method.clone(), path, body).await {
                Err(error) if error.is_passing() => {
                    if attempt + 1 < self.named {
                        warn!(%error, "trying the next controller");
                    }
                    last = Some(error);
                }
                other => {
                    self.current = at;
                    return other;
                }
            }
        }
        Err(last.expect("there is at least one controller"))
    }

    /// One request to controller number `at`, with a new login if the old one has ended.
    async fn request(
        &mut self,
        at: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Vec<u8>, ApiError> {
        let changes = method != Method::GET;
        let mut fresh = false;
        loop {
            if !path.ends_with("/version") {
                fresh |= self.log_in(at).await?;
            }
            if changes {
                self.writes.wait().await;
            }
            let controller = &self.controllers[at];
            let mut request = self.http.request(method.clone(), format!("{}{path}", controller.base));
            if let Some(credential) = &controller.credential {
                request = credential.sign(request);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let base = controller.base.clone();
            let answer = request.send().await.map_err(|error| unreachable(&base, &error))?;
            let status = answer.status();
            self.tell_time(&answer);
            let after = retry_after(&answer);
            let body = text(&base, answer).await?;
            if status == StatusCode::UNAUTHORIZED && !fresh {
                self.end_login(at);
                continue;
            }
            if status.is_success() {
                return Ok(body);
            }
            return Err(refused(&base, status, after, &body));
        }
    }

    /// Opens a session at controller number `at` if there is none; says whether it did.
    async fn log_in(&mut self, at: usize) -> Result<bool, ApiError> {
        let controller = &self.controllers[at];
        if controller.credential.as_ref().is_some_and(|credential| !credential.is_old()) {
            return Ok(false);
        }
        if let Some((until, _)) = self.pause.filter(|(until, _)| *until > Instant::now()) {
            return Err(ApiError::Resting { wait: until.duration_since(Instant::now()) });
        }
        let logged_in = self.login.log_in(&self.http, &controller.base, controller.credential.as_ref()).await;
        match logged_in {
            Ok(credential) => {
                self.controllers[at].credential = Some(credential);
                self.pause = None;
                Ok(true)
            }
            Err(error) => {
                self.controllers[at].credential = None;
                if !error.is_passing() {
                    // Whoever tries a refused login again and again is locked out, or locks others out.
                    let pause = self.pause.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LAST_PAUSE));
                    self.pause = Some((Instant::now() + pause, pause));
                }
                Err(error)
            }
        }
    }

    /// Forgets the session, but not what it may be renewed with.
    fn end_login(&mut self, at: usize) {
        let credential = &mut self.controllers[at].credential;
        match credential {
            Some(Credential::Bearer { renew, .. }) if *renew > Instant::now() => *renew = Instant::now(),
            _ => *credential = None,
        }
    }

    fn base(&self, at: usize) -> String {
        self.controllers[at].base.clone()
    }

    fn read<T: DeserializeOwned>(&self, at: usize, body: &[u8]) -> Result<Envelope<T>, ApiError> {
        serde_json::from_slice(body).map_err(|error| self.nonsense(at, &error))
    }

    /// The text of such an error may quote what was answered, so only the place is told.
    fn nonsense(&self, at: usize, error: &serde_json::Error) -> ApiError {
        let reason = format!("unexpected JSON at line {}, column {}", error.line(), error.column());
        ApiError::Garbled { url: self.base(at), reason }
    }

    fn tell_time(&mut self, answer: &Response) {
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        let Some(date) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return };
        let ahead = date.timestamp().duration_since(Timestamp::now());
        self.ahead = if ahead.abs() <= SAME_TIME { SignedDuration::ZERO } else { ahead };
    }
}

/// Whose sessions.
#[derive(Clone, Copy, Debug)]
pub enum Sessions<'a> {
    /// Those of one identity.
    Of(&'a str),
    /// Those from one address.
    From(&'a str),
    /// All.
    All,
}

fn gone(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(ApiError::NotFound) => Ok(()),
        other => other,
    }
}

/// Where another controller's management API is.
fn base_of(controller: &ControllerDetail) -> Option<String> {
    let addresses = controller.api_addresses.as_ref()?.get("edge-management")?;
    let url = addresses.first()?.url.trim_end_matches('/');
    let base = url.strip_suffix(EDGE).unwrap_or(url);
    let host = base.strip_prefix("https://")?;
    let good =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
    good.then(|| base.to_owned())
}

/// What an answer with `status` means.
pub fn refused(base: &str, status: StatusCode, after: Option<Duration>, body: &[u8]) -> ApiError {
    let url = base.to_owned();
    let said = serde_json::from_slice::<ErrorEnvelope>(body).map(|envelope| envelope.error).unwrap_or_default();
    let words = if said.message.is_empty() { said.code } else { said.message };
    let reason: String = words.chars().filter(|c| !c.is_control()).take(200).collect();
    let reason = if reason.is_empty() { format!("http code {}", status.as_u16()) } else { reason };
    match status.as_u16() {
        401 => ApiError::Unauthorised { url, reason },
        403 => ApiError::Forbidden { url, reason },
        404 => ApiError::NotFound,
        408 | 425 | 429 | 500..=599 => ApiError::Busy { url, status: status.as_u16(), after },
        status => ApiError::Refused { url, status, reason },
    }
}

/// How long the controller wants to be left alone.
pub fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LAST_PAUSE))
}

/// The whole body, if it is not too long.
pub async fn text(base: &str, mut answer: Response) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| unreachable(base, &error))? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err(ApiError::garbled(base, "the answer is too long"));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// A request that was not answered.
pub fn unreachable(base: &str, error: &reqwest::Error) -> ApiError {
    ApiError::Unreachable { url: base.to_owned(), reason: reason(error) }
}

/// What is at the bottom of an error, without the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    match text.is_empty() {
        true if error.is_timeout() => "timed out".to_owned(),
        true => "the request failed".to_owned(),
        false => text,
    }
}

/// So many at once and in each second.
#[derive(Debug)]
struct Pace {
    each: Duration,
    burst: Duration,
    /// When the next one would be due if they came evenly.
    due: Instant,
}

impl Pace {
    fn new(a_second: u32) -> Self {
        let each = Duration::from_secs(1) / a_second;
        Self { each, burst: each * (a_second - 1), due: Instant::now() }
    }

    /// Waits for one's turn.
    async fn wait(&mut self) {
        let now = Instant::now();
        self.due = self.due.max(now);
        let turn = self.due.checked_sub(self.burst).unwrap_or(now);
        self.due += self.each;
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_its_writes() {
        let mut pace = Pace::new(5);
        let start = Instant::now();
        let mut turns = Vec::new();
        for _ in 0..20 {
            pace.wait().await;
            turns.push(start.elapsed().as_millis());
        }
        assert_eq!(turns[..5], [0; 5], "five at once");
        assert!(turns.windows(10).all(|ten| ten[9] - ten[0] >= 1000), "then five in each second: {turns:?}");
        assert_eq!(turns[19], 3000);
    }

    #[test]
    fn other_controllers_are_found_by_their_address() {
        // (url, base)
        let cases = [
            ("https://ctrl2.example.org:1280/edge/management/v1", Some("https://ctrl2.example.org:1280")),
            ("https://[2001:db8::2]:1280", Some("https://[2001:db8::2]:1280")),
            ("http://ctrl2.example.org:1280", None),
            ("https://user@evil.example.org", None),
            ("https://", None),
        ];
        for (url, base) in cases {
            let json = json!({ "apiAddresses": { "edge-management": [{ "url": url }] } });
            let controller: ControllerDetail = serde_json::from_value(json).expect("a controller");
            assert_eq!(base_of(&controller).as_deref(), base, "{url}");
        }
    }
}
