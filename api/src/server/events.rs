//! Decisions as they happen: `text/event-stream` for bouncers in other processes.
//!
//! A snapshot comes first, unless the reader names the place where it was (`Last-Event-ID`) and the log reaches
//! back to it; then changes, as soon as they are durable. A reader holds no memory here but its place.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use model::Delta;

use super::App;
use super::auth::BouncerId;
use super::service::{Batch, Follow};
use crate::decisions::{Cursor, Row};
use crate::metrics::Metrics;
use crate::wire::{Changes, EVENT_CHUNK, EventDecision, Reset, event};

/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn events(State(app): State<Arc<App>>, bouncer: BouncerId, headers: HeaderMap) -> Response {
    if let BouncerId(Some(name)) = &bouncer {
        app.service.note_query(name);
    }
    let cursor = headers.get("last-event-id").and_then(|text| text.to_str().ok()?.parse().ok());
    let reader = Reader::new(app.service.follow(cursor), Arc::clone(app.service.metrics()));
    let stream = futures_util::stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), reader))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(stream)).into_response()
}

/// Turns batches into events, a piece at a time.
struct Reader {
    follow: Follow,
    snapshot: Option<(Cursor, std::vec::IntoIter<Arc<Row>>)>,
    waiting: VecDeque<String>,
    metrics: Arc<Metrics>,
}

impl Reader {
    fn new(follow: Follow, metrics: Arc<Metrics>) -> Self {
        metrics.followers.inc();
        Self { follow, snapshot: None, waiting: VecDeque::new(), metrics }
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Some(text);
            }
            if let Some((cursor, rows)) = &mut self.snapshot {
                let part: Vec<EventDecision> =
                    rows.take(EVENT_CHUNK).map(|row| EventDecision::from(&row.decision())).collect();
                if !part.is_empty() {
                    return Some(written(event::DECISIONS, None, &part));
                }
                let text = written(event::READY, Some(*cursor), &());
                self.snapshot = None;
                return Some(text);
            }
            match tokio::time::timeout(KEEP_ALIVE, self.follow.next()).await {
                Err(_) => return Some(": still here\n\n".into()),
                Ok(None) => return None,
                Ok(Some((cursor, Batch::Snapshot(rows)))) => {
                    let reset = Reset { now: Timestamp::now(), count: rows.len() };
                    self.waiting.push_back(written(event::RESET, None, &reset));
                    self.snapshot = Some((cursor, rows.into_iter()));
                }
                Ok(Some((cursor, Batch::Delta(delta)))) => self.waiting = changes(cursor, &delta),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.metrics.followers.dec();
    }
}

/// A delta as events of bounded size. Only the last one moves the reader's place, so that whoever breaks off in
/// between gets all of it again.
fn changes(cursor: Cursor, delta: &Delta) -> VecDeque<String> {
    let now = Timestamp::now();
    let part = |new: &[model::Decision], deleted: &[model::Decision]| Changes {
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

fn written(name: &str, id: Option<Cursor>, data: &impl serde::Serialize) -> String {
    let mut text = format!("event: {name}\n");
    // Writing to a String cannot fail, and what is written here consists of texts and numbers.
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "data: {}\n\n", serde_json::to_string(data).unwrap_or_default());
    text
}
