//! Pages that rules ask for (`HTTPGet` and its like, `CrowdsecCTI`), fetched off the engine's threads.
//!
//! Nothing is fetched unless the configuration names where from: a request whose address does not begin with an endpoint fails. As
//! with names, the cache answers at once, and what it does not know is known when somebody asks again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use api::profiles::{Reputation as Opinion, Reputations};
use expr::HttpAnswer;
pub use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Client, Method, RequestBuilder, redirect};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// How long one request may take.
const BUDGET: Duration = Duration::from_secs(3);
/// How many requests may wait, and how many run at once.
const QUEUE: usize = 256;
const AT_ONCE: usize = 8;
/// Longest body that a rule sees, in bytes; the rest is cut off.
const BODY: usize = 1 << 20;
/// Bytes of all answers that are remembered.
const CAPACITY: usize = 32 << 20;
/// How long an answer is remembered, and how long a failure.
const KEPT: Duration = Duration::from_mins(10);
const KEPT_FAILED: Duration = Duration::from_secs(30);

/// Why nobody knows anything of an address.
pub(crate) const NO_SERVICE: &str = "the configuration names no reputation service";

/// Where rules may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// What addresses of requests must begin with, host and path whole: `http://127.0.0.1:9000/lists/`.
    pub allowed: Vec<Url>,
    /// Where the reputation of an address is: the address is added as the last part of the path.
    pub reputation: Option<Reputation>,
}

/// A service that knows the reputation of addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Reputation {
    /// Its address, without the address that is asked about.
    pub url: Url,
    /// The key that it wants.
    pub key: String,
}

impl std::fmt::Debug for Reputation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reputation").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// What a rule asks for. No key is in it, so it may be kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Request {
    /// A page.
    Page {
        /// How.
        method: String,
        /// Where.
        url: String,
        /// Names and values.
        headers: Vec<(String, String)>,
        /// What is sent along.
        body: String,
    },
    /// What the reputation service says of an address.
    Reputation(String),
}

/// What is known of a request.
#[derive(Clone, Debug)]
pub enum Known {
    /// Its answer.
    Answer(Arc<HttpAnswer>),
    /// Why there is none.
    Failure(Arc<str>),
    /// It is on its way.
    Pending(Request),
}

/// The cache, and the way to those who fill it. All clones are one.
#[derive(Clone, Debug)]
pub struct Requests(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoints: Endpoints,
    cache: Mutex<Cache>,
    asked: Sender<Request>,
}

type Answer = Result<Arc<HttpAnswer>, Arc<str>>;

/// Answers, the oldest of which give way.
#[derive(Debug, Default)]
struct Cache {
    answers: HashMap<Request, (Instant, Answer)>,
    /// Each with its end and size, oldest first; also those that were replaced.
    order: VecDeque<(Instant, usize, Request)>,
    bytes: usize,
    asked: HashSet<Request>,
}

impl Requests {
    /// To be called within a runtime. Fails when there is no cryptography to be had.
    pub fn new(endpoints: Endpoints) -> Result<Self, reqwest::Error> {
        // A page elsewhere, or a proxy of the environment, is not what the configuration names.
        let client = Client::builder().redirect(redirect::Policy::none()).no_proxy().timeout(BUDGET).build()?;
        let (asked, requests) = channel(QUEUE);
        let shared = Arc::new(Shared { endpoints: endpoints.clone(), cache: Mutex::default(), asked });
        tokio::spawn(serve(client, endpoints, Arc::downgrade(&shared), requests));
        Ok(Self(shared))
    }

    /// What is known of a request that a rule makes; never waits.
    pub fn http(&self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Known {
        let failure = |text: String| Known::Failure(text.into());
        let Ok(url) = Url::parse(url) else { return failure(format!("`{url}` is not an address of a page")) };
        if !self.0.endpoints.allowed.iter().any(|endpoint| begins_with(&url, endpoint)) {
            return failure(format!("the configuration names no endpoint for `{}`", url.host_str().unwrap_or("")));
        }
        if method.parse::<Method>().is_err() {
            return failure(format!("`{method}` is not a method"));
        }
        let (method, headers, body) = (method.to_owned(), headers.to_vec(), body.to_owned());
        self.ask(Request::Page { method, url: url.into(), headers, body })
    }

    /// What the reputation service says of an address; never waits. `None` when there is no such service.
    pub fn reputation(&self, ip: &str) -> Option<Known> {
        self.0.endpoints.reputation.as_ref()?;
        Some(self.ask(Request::Reputation(ip.to_owned())))
    }

    /// What is known of a request; one that is not known is sent.
    pub fn ask(&self, request: Request) -> Known {
        let mut cache = self.0.cache();
        let known = cache.answers.get(&request).filter(|(end, _)| *end > Instant::now());
        match known.map(|(_, answer)| answer.clone()) {
            Some(Ok(answer)) => return Known::Answer(answer),
            Some(Err(failure)) => return Known::Failure(failure),
            None => {}
        }
        if !cache.asked.contains(&request) && self.0.asked.try_send(request.clone()).is_ok() {
            cache.asked.insert(request.clone());
        }
        Known::Pending(request)
    }
}

impl Reputations for Requests {
    fn reputation(&self, ip: &str) -> Opinion {
        match Requests::reputation(self, ip) {
            None => Opinion::Failed(NO_SERVICE.into()),
            Some(Known::Pending(_)) => Opinion::Awaited,
            Some(Known::Failure(failure)) => Opinion::Failed(failure.to_string()),
            Some(Known::Answer(answer)) => opinion(ip, &answer).map_or_else(Opinion::Failed, Opinion::Known),
        }
    }
}

/// What the answer of the reputation service says of `ip`, as JSON.
pub(crate) fn opinion(ip: &str, answer: &HttpAnswer) -> Result<serde_json::Value, String> {
    match answer.status {
        200 => serde_json::from_str(&answer.body).map_err(|_| "the reputation service did not answer in JSON".into()),
        // An address that it has never heard of.
        404 => Ok(serde_json::json!({ "ip": ip })),
        status => Err(format!("the reputation service answered {status}")),
    }
}

/// Whether `url` is `endpoint` or below it, on the very same host and port.
fn begins_with(url: &Url, endpoint: &Url) -> bool {
    let (path, base) = (url.path(), endpoint.path().trim_end_matches('/'));
    let below = path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let host = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    host(url) == host(endpoint) && below && url.username().is_empty() && url.password().is_none()
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        // The cache is whole between any two of its statements that can panic.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn put(&mut self, request: Request, answer: Answer) {
        let asked = match &request {
            Request::Page { url, body, .. } => url.len() + body.len(),
            Request::Reputation(ip) => ip.len(),
        };
        let size = asked + answer.as_ref().map_or(0, |page| page.body.len());
        let end = Instant::now() + if answer.is_ok() { KEPT } else { KEPT_FAILED };
        self.bytes += size;
        self.order.push_back((end, size, request.clone()));
        self.answers.insert(request, (end, answer));
        while (self.bytes > CAPACITY || self.order.len() > CAPACITY / 1024)
            && let Some((end, size, oldest)) = self.order.pop_front()
        {
            self.bytes -= size;
            if self.answers.get(&oldest).is_some_and(|(current, _)| *current == end) {
                self.answers.remove(&oldest);
            }
        }
    }
}

/// Sends what is asked for, until nobody can ask any more.
async fn serve(client: Client, endpoints: Endpoints, shared: Weak<Shared>, mut requests: Receiver<Request>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(request) = requests.recv().await {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (client, shared, endpoints) = (client.clone(), Weak::clone(&shared), endpoints.clone());
        tokio::spawn(async move {
            let answer = fetch(&client, &endpoints, &request).await;
            drop(permit);
            let Some(shared) = shared.upgrade() else { return };
            let mut cache = shared.cache();
            cache.asked.remove(&request);
            cache.put(request, answer);
        });
    }
}

/// The request as it is sent, with the key that the reputation service wants.
fn sent(client: &Client, endpoints: &Endpoints, request: &Request) -> Result<RequestBuilder, String> {
    match request {
        Request::Page { method, url, headers, body } => {
            let mut all = HeaderMap::new();
            all.insert(USER_AGENT, HeaderValue::from_static(concat!("cordon/", env!("CARGO_PKG_VERSION"))));
            for (name, value) in headers {
                let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) else {
                    return Err(format!("`{name}` is not a header, or has a value that none can have"));
                };
                all.insert(name, value);
            }
            let method = method.parse::<Method>().map_err(|_| format!("`{method}` is not a method"))?;
            Ok(client.request(method, url).headers(all).body(body.clone()))
        }
        Request::Reputation(ip) => {
            let service = endpoints.reputation.as_ref().ok_or("there is no reputation service")?;
            let mut url = service.url.clone();
            let base = "the address of the reputation service has no path";
            url.path_segments_mut().map_err(|()| base)?.pop_if_empty().push(ip);
            Ok(client.get(url).header("x-api-key", &service.key))
        }
    }
}

async fn fetch(client: &Client, endpoints: &Endpoints, request: &Request) -> Answer {
    // What goes wrong is told without the address, which may hold a key.
    let failed = |error: reqwest::Error| Arc::from(error.without_url().to_string());
    let sent = sent(client, endpoints, request).map_err(Arc::<str>::from)?;
    let mut response = sent.send().await.map_err(failed)?;
    let mut headers: Vec<(String, Vec<String>)> = Vec::new();
    for name in response.headers().keys() {
        let values = response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        headers.push((canonical(name.as_str()), values.map(str::to_owned).collect()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk[..chunk.len().min(BODY - body.len())]);
        if body.len() == BODY {
            break;
        }
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Arc::new(HttpAnswer { status: response.status().as_u16(), body, headers }))
}

/// `x-request-id` as `X-Request-Id`.
fn canonical(name: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A server on loopback that answers every request with what it was asked.
    fn server() -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut asked = [0; 4096];
                let len = stream.read(&mut asked).unwrap_or(0);
                let asked = String::from_utf8_lossy(&asked[..len]).into_owned();
                let status =
                    if asked.contains("/moved") { "302 Found\r\nLocation: http://192.0.2.1/" } else { "200 OK" };
                let body = asked.split("\r\n").filter(|line| !line.starts_with("host")).collect::<Vec<_>>().join("|");
                // The other side may have gone.
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nx-a: b\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Url::parse(&url).expect("a good address")
    }

    async fn answered(ask: impl Fn() -> Known) -> Result<Arc<HttpAnswer>, Arc<str>> {
        loop {
            match ask() {
                Known::Answer(answer) => return Ok(answer),
                Known::Failure(failure) => return Err(failure),
                Known::Pending(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    #[tokio::test]
    async fn only_what_is_named_is_asked() {
        let url = server();
        let lists = url.join("/lists/").expect("a good address");
        let reputation = Reputation { url: url.join("/v2/smoke").expect("a good address"), key: "secret".into() };
        let requests = Requests::new(Endpoints { allowed: vec![lists.clone()], reputation: Some(reputation) })
            .expect("there is cryptography");
        assert!(!format!("{requests:?}").contains("secret"));
        let get = |url: String| {
            let requests = requests.clone();
            async move { answered(|| requests.http("GET", &url, &[("X-B".into(), "c".into())], "")).await }
        };
        let page = get(format!("{lists}one?x=1")).await.expect("a page");
        assert!(page.body.starts_with("GET /lists/one?x=1 HTTP/1.1|") && page.body.contains("x-b: c"), "{}", page.body);
        assert_eq!((page.status, page.headers.contains(&("X-A".into(), vec!["b".into()]))), (200, true));
        let page = get(format!("{lists}moved")).await.expect("a page");
        assert_eq!(page.status, 302, "a redirection is not followed");
        for elsewhere in [
            format!("{url}other"),
            format!("{url}listsx"),
            "http://192.0.2.1/lists/".into(),
            format!("{lists}../other"),
            "x".into(),
        ] {
            assert!(get(elsewhere.clone()).await.is_err(), "{elsewhere}");
        }
        let page = answered(|| requests.reputation("192.0.2.7").expect("there is a service")).await.expect("a page");
        assert!(
            page.body.starts_with("GET /v2/smoke/192.0.2.7 ") && page.body.contains("x-api-key: secret"),
            "{}",
            page.body
        );
    }

    #[tokio::test]
    async fn what_does_not_answer_is_a_failure_that_is_remembered() {
        let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback");
        let url = Url::parse(&format!("http://{closed}/")).expect("a good address");
        let requests =
            Requests::new(Endpoints { allowed: vec![url.clone()], reputation: None }).expect("there is cryptography");
        let failure = answered(|| requests.http("GET", url.as_str(), &[], "")).await.expect_err("nobody listens");
        assert!(!failure.contains(&closed.to_string()), "{failure}");
        assert!(requests.reputation("192.0.2.7").is_none());
    }
}
