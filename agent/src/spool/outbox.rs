//! From the engine through the spool to an API elsewhere.
//!
//! One task owns the spool: it writes down what the engine reports, and sends the oldest that waits, one batch at a time. An alert
//! is struck off when the API has answered; alerts that it will never take are set aside in a file of their own.

use std::fs::{self, OpenOptions};
use std::future::pending;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::client::{Client, ClientError};
use jiff::Timestamp;
use model::Alert;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::Spool;
use crate::report::{BACK_OFF, LAST_TRIES, Lift, Marks, Report, Taken};
use crate::state::StateError;
use crate::status::Status;

/// How many alerts travel together, and hardly more than how many bytes.
const BATCH: (usize, usize) = (64, 4 << 20);
/// The file of alerts that were set aside, and up to how many bytes it grows.
const ASIDE: (&str, u64) = ("refused.jsonl", 4 << 20);

/// The way of alerts to an API elsewhere.
#[derive(Debug)]
pub struct Outbox {
    client: Arc<Client>,
    spool: Spool,
    aside: PathBuf,
}

/// What became of a batch.
#[derive(Debug, Default)]
struct Sent {
    /// Up to which number all is done.
    last: u64,
    /// Those that the API will never take, and what it said.
    refused: Vec<(Alert, String)>,
    /// What ended it early.
    error: Option<ClientError>,
}

type Sending = Pin<Box<dyn Future<Output = Sent> + Send>>;

impl Outbox {
    /// The way to whom `client` knows, over what waits in `folder`, `limit` bytes at most; second, what of it was lost.
    pub fn open(client: Arc<Client>, folder: &Path, limit: u64) -> Result<(Self, Vec<String>), StateError> {
        let (spool, losses) = Spool::open(folder, limit)?;
        Ok((Self { client, spool, aside: folder.join(ASIDE.0) }, losses))
    }

    /// Works until the engine hangs up and, if the API answers, nothing waits. `stopping` turns true when the process was
    /// asked to end.
    pub(crate) async fn run(
        mut self,
        mut reports: Receiver<Report>,
        taken: Sender<Taken>,
        stopping: watch::Receiver<bool>,
        marks: Arc<Marks>,
        status: Arc<Status>,
    ) {
        let (mut pause, mut retry) = (BACK_OFF.0, Instant::now());
        let mut sending: Option<Sending> = None;
        let mut end: Option<Instant> = None;
        loop {
            self.spool.cover(marks.covered.load(Ordering::Acquire));
            status.set_spool(Some(self.spool.report()));
            if sending.is_none() && !self.spool.is_empty() && retry <= Instant::now() {
                let batch = self.spool.oldest(BATCH.0, BATCH.1);
                if !batch.is_empty() {
                    sending = Some(Box::pin(send(Arc::clone(&self.client), batch)));
                }
            }
            // What waits is on disk: the next run sends it.
            let waits = sending.is_none() && (self.spool.is_empty() || pause > BACK_OFF.0);
            if end.is_some_and(|end| waits || end <= Instant::now()) {
                break;
            }
            tokio::select! {
                report = reports.recv(), if end.is_none() => match report {
                    Some(report) => {
                        let Some(report) = self.take(report, &stopping, &marks, &status).await else { break };
                        if taken.send(report).await.is_err() {
                            break;
                        }
                    }
                    None => end = Some(Instant::now() + LAST_TRIES),
                },
                sent = next(&mut sending) => {
                    sending = None;
                    let failed = self.strike_off(sent, &status);
                    (pause, retry) = if failed { next_try(pause) } else { (BACK_OFF.0, Instant::now()) };
                }
                () = sleep_until(retry), if sending.is_none() && !self.spool.is_empty() => {}
                () = sleep_until(end.unwrap_or(retry)), if end.is_some() => {}
            }
        }
        let left = self.spool.report();
        status.set_spool(Some(left.clone()));
        if left.waiting > 0 {
            info!(alerts = left.waiting, "alerts wait on disk for the next start");
        }
    }

    /// Writes down what the engine says; `None` when that cannot be done and we are asked to end.
    async fn take(
        &mut self,
        report: Report,
        stopping: &watch::Receiver<bool>,
        marks: &Marks,
        status: &Status,
    ) -> Option<Taken> {
        let Report { alerts, lifts, mut mark } = report;
        for alert in &alerts {
            info!(
                scenario = alert.scenario,
                value = alert.source.value,
                scope = alert.source.scope,
                "{}",
                alert.message
            );
        }
        let (mut pause, mut tried) = (BACK_OFF.0, Duration::ZERO);
        while let Err(error) = self.spool.add(&alerts, Timestamp::now()) {
            // Where nothing can be written, what can be sent need not wait.
            let Err(unsent) = self.client.push(&alerts).await else { break };
            let problem = format!("alerts cannot be written down ({error}) and cannot be sent: {unsent}");
            error!(problem, alerts = alerts.len(), "alerts were not taken, trying again");
            status.set_reporting(Some(problem));
            if *stopping.borrow() && tried > LAST_TRIES {
                warn!("stopping with alerts that nobody took; they are found again at the next start");
                return None;
            }
            tokio::time::sleep(pause).await;
            tried += pause;
            pause = (pause * 2).min(BACK_OFF.1);
        }
        if !tried.is_zero() {
            status.set_reporting(None);
        }
        for Lift { uuid, value, scenario } in &lifts {
            match self.spool.withdraw(uuid) {
                Ok(true) => info!(value, scenario, "somebody on a whitelist is not reported after all"),
                // The interface of the field has no such call for machines.
                Ok(false) => {
                    warn!(
                        value,
                        scenario, "somebody on a whitelist was reported; lift the decision where decisions are made"
                    );
                }
                Err(error) => warn!(%error, "an alert was taken back, but a sudden end would not know"),
            }
        }
        if mark.is_some()
            && let Err(error) = self.sync().await
        {
            // The alerts before it may be lost with the machine, so that it must not be kept.
            mark = None;
            status.set_checkpoint(Some(format!("alerts are not durable: {error}")));
            marks.whole.store(true, Ordering::Release);
            marks.on_the_way.store(false, Ordering::Release);
        }
        Some(Taken { receipt: None, mark, written: self.spool.next() })
    }

    async fn sync(&mut self) -> io::Result<()> {
        match self.spool.unsynced()? {
            Some(file) => spawn_blocking(move || file.sync_data()).await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }

    /// Notes what became of a batch; whether it has to be tried again.
    fn strike_off(&mut self, sent: Sent, status: &Status) -> bool {
        let Sent { last, refused, error } = sent;
        for (alert, reason) in &refused {
            error!(scenario = alert.scenario, value = alert.source.value, reason, "the api will never take this alert");
            if let Err(error) = set_aside(&self.aside, alert, reason) {
                warn!(%error, "it cannot be set aside");
            }
        }
        if last > 0
            && let Err(error) = self.spool.finish(last, refused.len() as u64)
        {
            warn!(%error, "alerts were sent, but a sudden end would send them again");
        }
        let problem = error.map(|error| error.to_string());
        if let Some(problem) = &problem {
            warn!(problem, waiting = self.spool.report().waiting, "alerts wait on disk");
        }
        let failed = problem.is_some();
        status.set_reporting(problem);
        failed
    }
}

async fn next(sending: &mut Option<Sending>) -> Sent {
    match sending {
        Some(sending) => sending.await,
        None => pending().await,
    }
}

/// The pause after the next failure, and when to try again: after anything between half and all of `pause`, so that many agents
/// do not come back at once.
fn next_try(pause: Duration) -> (Duration, Instant) {
    let jitter = Timestamp::now().subsec_nanosecond().unsigned_abs() % 1000;
    ((pause * 2).min(BACK_OFF.1), Instant::now() + pause / 2 + pause / 2 * jitter / 1000)
}

/// Sends alerts together, and one by one if the API does not like something about them.
async fn send(client: Arc<Client>, batch: Vec<(u64, Alert)>) -> Sent {
    let last = batch.last().map_or(0, |(number, _)| *number);
    let (numbers, alerts): (Vec<u64>, Vec<Alert>) = batch.into_iter().unzip();
    match client.push(&alerts).await {
        Ok(_) => return Sent { last, ..Sent::default() },
        Err(error) if !is_final(&error) => return Sent { error: Some(error), ..Sent::default() },
        Err(error) if alerts.len() == 1 => {
            let refused = alerts.into_iter().map(|alert| (alert, error.to_string())).collect();
            return Sent { last, refused, error: None };
        }
        Err(_) => {}
    }
    let mut sent = Sent::default();
    for (number, alert) in numbers.into_iter().zip(alerts) {
        match client.push(std::slice::from_ref(&alert)).await {
            Ok(_) => {}
            Err(error) if is_final(&error) => sent.refused.push((alert, error.to_string())),
            Err(error) => {
                sent.error = Some(error);
                break;
            }
        }
        sent.last = number;
    }
    sent
}

/// Whether the same alerts will get the same answer for ever. Servers of the field answer 500 to what does not fit their schema.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Api { status: 400 | 413 | 422, .. } => true,
        ClientError::Api { status: 500, message } => {
            message.starts_with("validation failure list") || message.contains("unable to parse duration")
        }
        _ => false,
    }
}

/// Keeps an alert for whoever wants to know why it was refused, while there is room.
fn set_aside(path: &Path, alert: &Alert, reason: &str) -> io::Result<()> {
    let line = serde_json::to_vec(&json!({ "reason": reason, "alert": alert }))?;
    if fs::metadata(path).map_or(0, |file| file.len()) + line.len() as u64 > ASIDE.1 {
        return Ok(());
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&[&line[..], b"\n"].concat())
}
