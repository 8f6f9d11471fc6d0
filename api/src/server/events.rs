//! Decisions as they happen: `text/event-stream` for bouncers in other processes.
//!
//! A snapshot comes first, unless the reader names the place where it was (`Last-Event-ID`) and the log reaches
//! back to it; then changes, as soon as they are durable. A reader holds no memory here but its place. The filters
//! are those of the polling stream; without any, decisions of every scope come.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use jiff::Timestamp;
use model::{Decision, Delta};

use super::auth::{self, BouncerId, Proof};
use super::decisions::read_query;
use super::error::ApiError;
use super::service::{Batch, Follow, Shared};
use super::{App, parameters};
use crate::decisions::{Cursor, Query, Row};
use crate::metrics::Metrics;
use crate::wire::{Changes, EVENT_CHUNK, EventDecision, Reset, event};

/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn events(
    State(app): State<Arc<App>>,
    bouncer: BouncerId,
    Extension(proof): Extension<Proof>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // Simulated decisions are never told here: whoever follows enforces.
    let query = Query { simulated: false, ..read_query(&parameters(query.as_deref()), None)? };
    if let BouncerId(Some(name)) = &bouncer {
        app.service.note_query(name);
    }
    let cursor = headers.get("last-event-id").and_then(|text| text.to_str().ok()?.parse().ok());
    let reader = Reader::new(app.service.follow(cursor), query, Arc::clone(app.service.metrics()));
    let stream = futures_util::stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(text), reader))
    });
    // a key or certificate that is no longer good ends the stream that it opened
    let stream = stream.take_until(Box::pin(auth::lost(app, proof)));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Turns batches into events, a piece at a time.
struct Reader {
    follow: Follow,
    /// What is wanted; `None` is everything.
    query: Option<Query>,
    waiting: VecDeque<Bytes>,
    metrics: Arc<Metrics>,
}

impl Reader {
    fn new(follow: Follow, query: Query, metrics: Arc<Metrics>) -> Self {
        metrics.followers.inc();
        let query = Some(query).filter(|query| *query != Query::default());
        Self { follow, query, waiting: VecDeque::new(), metrics }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Some(text);
            }
            let query = self.query.as_ref();
            let wanted = |row: &&Row| query.is_none_or(|query| query.wants_row(row));
            match tokio::time::timeout(KEEP_ALIVE, self.follow.next()).await {
                Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
                Ok(None) => return None,
                Ok(Some(Batch::Reset(count))) => {
                    return Some(written(event::RESET, None, &Reset { now: Timestamp::now(), count }));
                }
                Ok(Some(Batch::Rows(rows))) => {
                    let part: Vec<EventDecision> =
                        rows.iter().filter(wanted).map(|row| EventDecision::from(&row.decision())).collect();
                    if !part.is_empty() {
                        return Some(written(event::DECISIONS, None, &part));
                    }
                    // Among a million that are not wanted others must get their turn.
                    tokio::task::yield_now().await;
                }
                Ok(Some(Batch::Ready(cursor))) => return Some(written(event::READY, Some(cursor), &())),
                Ok(Some(Batch::Delta(cursor, shared))) => self.waiting = self.delta(cursor, &shared),
            }
        }
    }

    /// A delta as events. Of one in which nothing is wanted nothing is told: a reader that comes back is at an older
    /// place, and passes over it once more.
    fn delta(&self, cursor: Cursor, shared: &Shared) -> VecDeque<Bytes> {
        let Some(query) = &self.query else {
            return shared.written.get_or_init(|| changes(cursor, &shared.delta)).iter().cloned().collect();
        };
        let filter = |all: &[Decision]| all.iter().filter(|one| query.wants(one)).cloned().collect();
        let wanted = Delta { add: filter(&shared.delta.add), remove: filter(&shared.delta.remove) };
        changes(cursor, &wanted).into()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.metrics.followers.dec();
    }
}

/// A delta as events of bounded size. Only the last one moves the reader's place, so that whoever breaks off in
/// between gets all of it again.
fn changes(cursor: Cursor, delta: &Delta) -> Vec<Bytes> {
    let now = Timestamp::now();
    let part = |new: &[Decision], deleted: &[Decision]| Changes {
        now,
        new: new.iter().map(EventDecision::from).collect(),
        deleted: deleted.iter().map(EventDecision::from).collect(),
    };
    let mut parts: Vec<Changes> = delta.remove.chunks(EVENT_CHUNK).map(|deleted| part(&[], deleted)).collect();
    let mut new = delta.add.chunks(EVENT_CHUNK);
    match parts.last_mut() {
        Some(last) if delta.remove.len() < EVENT_CHUNK => {
            last.new = new.next().unwrap_or_default().iter().map(EventDecision::from).collect();
        }
        _ => {}
    }
    parts.extend(new.map(|new| part(new, &[])));
    let last = parts.len().saturating_sub(1);
    let id = |index| (index == last).then_some(cursor);
    parts.iter().enumerate().map(|(index, part)| written(event::DELTA, id(index), part)).collect()
}

fn written(name: &str, id: Option<Cursor>, data: &impl serde::Serialize) -> Bytes {
    let mut text = format!("event: {name}\n");
    // Writing to a String cannot fail, and what is written here consists of texts and numbers.
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "data: {}\n\n", serde_json::to_string(data).unwrap_or_default());
    text.into()
}
