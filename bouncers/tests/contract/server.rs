//! A server that behaves as an API of somebody else's does, and as badly as networks do.
//!
//! What the API means is a [`Api`] in memory; here are the wire, the faults, and the record of what was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::schema::Schema;

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// `GET`, `POST`, ...
    pub(crate) method: String,
    /// Without the query, as it was sent.
    pub(crate) path: String,
    /// The query, decoded.
    pub(crate) query: Vec<(String, String)>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The fields of a form.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        pairs(&String::from_utf8_lossy(&self.body))
    }

    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.form().into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The body as JSON; null if it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether it only asks.
    pub(crate) fn only_asks(&self) -> bool {
        self.method == "GET" || self.method == "HEAD"
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes() }
    }
}

/// What an API means.
pub(crate) trait Api: Send + 'static {
    /// Does what `request` asks for.
    fn answer(&mut self, request: &Request) -> Reply;

    /// What is answered to credentials that do not count any more.
    fn expired(&mut self) -> Reply {
        Reply::json(401, &serde_json::json!({ "message": "unauthorized" }))
    }
}

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is never answered, and nothing is done.
    Silence,
    /// This status is answered, and nothing is done. Seconds in which nobody should ask again, if there are any.
    Status(u16, Option<u64>),
    /// It is done, and the connection breaks in the middle of the answer.
    CutAnswer,
    /// The connection breaks before anything is done.
    CutRequest,
    /// It is done, and the answer comes this many milliseconds late.
    Slow(u64),
    /// It is done, and the answer is no JSON.
    Garbage,
    /// The credentials do not count any more, for this request.
    Expired,
}

/// Everything that can go wrong quickly.
pub(crate) const FAULTS: [Fault; 8] = [
    Fault::Status(500, None),
    Fault::Status(502, None),
    Fault::Status(429, Some(0)),
    Fault::Status(408, None),
    Fault::CutAnswer,
    Fault::CutRequest,
    Fault::Slow(20),
    Fault::Garbage,
];

struct Shared<A> {
    api: Mutex<A>,
    schema: Option<Schema>,
    faults: Mutex<VecDeque<Option<Fault>>>,
    log: Mutex<Vec<Request>>,
    violations: Mutex<Vec<String>>,
}

/// A running server.
pub(crate) struct Contract<A> {
    /// Where it is, without a slash at the end.
    pub(crate) url: String,
    shared: Arc<Shared<A>>,
    serving: JoinHandle<()>,
}

impl<A> Drop for Contract<A> {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl<A: Api> Contract<A> {
    /// Serves `api` on a port of this host, and holds every request against `schema`.
    pub(crate) async fn serve(api: A, schema: Option<Schema>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let shared = Arc::new(Shared {
            api: Mutex::new(api),
            schema,
            faults: Mutex::default(),
            log: Mutex::default(),
            violations: Mutex::default(),
        });
        let serving = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(converse(stream, Arc::clone(&shared)));
                }
            }
        });
        Self { url, shared, serving }
    }

    /// What the API holds.
    pub(crate) fn api(&self) -> MutexGuard<'_, A> {
        self.shared.api.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next requests go wrong, each in its way; `None` goes well.
    pub(crate) fn break_next(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    /// Forgets the faults that have not happened yet.
    pub(crate) fn heal(&self) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What was asked since this was last called.
    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was written since [`Contract::asked`] or this was last called.
    pub(crate) fn written(&self) -> Vec<Request> {
        self.asked().into_iter().filter(|request| !request.only_asks()).collect()
    }

    /// Panics if any request was not as the description of the API wants it.
    pub(crate) fn assert_valid(&self) {
        let violations = self.shared.violations.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }
}

/// Answers one request after the other until something breaks.
async fn converse<A: Api>(mut stream: TcpStream, shared: Arc<Shared<A>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer).await {
        shared.log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        if let Some(schema) = &shared.schema {
            let faults = schema.faults(&request);
            shared.violations.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
        }
        let fault = shared.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front().flatten();
        let answer = || shared.api.lock().unwrap_or_else(PoisonError::into_inner).answer(&request);
        let reply = match fault {
            Some(Fault::Silence) => {
                // longer than anybody waits
                tokio::time::sleep(Duration::from_mins(10)).await;
                return;
            }
            Some(Fault::CutRequest) => return,
            Some(Fault::Status(status, retry_after)) => {
                let mut reply = Reply::json(status, &serde_json::json!({ "message": "injected" }));
                reply.headers.extend(retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string())));
                reply
            }
            Some(Fault::CutAnswer) => {
                let bytes = wire(&answer());
                // whoever asked may have gone
                let _ = stream.write_all(bytes.get(..bytes.len() - 1).unwrap_or_default()).await;
                return;
            }
            Some(Fault::Slow(milliseconds)) => {
                let reply = answer();
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                reply
            }
            Some(Fault::Garbage) => {
                let _done = answer();
                Reply { status: 200, headers: Vec::new(), body: b"<html>login</html>".to_vec() }
            }
            Some(Fault::Expired) => shared.api.lock().unwrap_or_else(PoisonError::into_inner).expired(),
            None => answer(),
        };
        if stream.write_all(&wire(&reply)).await.is_err() {
            return;
        }
    }
}

fn wire(reply: &Reply) -> Vec<u8> {
    let headers: String = reply.headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    let head = format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\n{headers}\r\n", reply.status, reply.body.len());
    let mut bytes = head.into_bytes();
    bytes.extend(&reply.body);
    bytes
}

/// The next request on the connection; `None` when there is none.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.get(..head_end)?.to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let end = head_end + 4 + length.and_then(|(_, value)| value.parse::<usize>().ok()).unwrap_or(0);
    while buffer.len() < end {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.get(head_end + 4..end)?.to_vec();
    buffer.drain(..end);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request { method, path: path.to_owned(), query: pairs(query), headers, body })
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Text without its percent signs.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
                _ => bytes.push(b'%'),
            },
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
