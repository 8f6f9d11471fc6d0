//! Alerts to the API, and marks to the disk once it has them.
//!
//! Two tasks in a row, so that a ban never waits for the disk: the first hands alerts over (what they decide holds when
//! that returns), the second waits until they are durable and only then lets a mark behind them be kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::server::service::{Receipt, Service, SubmitError};
use api::store::StoreError;
use model::Alert;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::spool::outbox::Outbox;
use crate::state::{Mark, Store};
use crate::status::Status;

/// Shortest and longest pause before alerts are sent again.
pub(crate) const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How long alerts are still tried after we were asked to stop. Those that are not taken are found again in their logs.
pub(crate) const LAST_TRIES: Duration = Duration::from_secs(5);

/// What a round of the engine leaves behind.
#[derive(Debug, Default)]
pub struct Report {
    /// What happened.
    pub alerts: Vec<Alert>,
    /// Alerts, of this report or of one before it, that should not have been.
    pub lifts: Vec<Lift>,
    /// What the engine held behind them.
    pub mark: Option<Box<Mark>>,
}

/// An alert whose decisions are to end: a whitelist matched when a name was known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lift {
    /// The alert's identity.
    pub uuid: String,
    /// Whom it is about.
    pub value: String,
    /// Its scenario.
    pub scenario: String,
}

impl Lift {
    /// What ends the decisions of `alert`.
    pub fn of(alert: &Alert) -> Self {
        let Alert { uuid, scenario, source, .. } = alert;
        Self { uuid: uuid.clone(), value: source.value.clone(), scenario: scenario.clone() }
    }
}

/// Who takes alerts.
#[derive(Debug)]
pub enum Target {
    /// The service in this process.
    Service {
        /// The service.
        service: Service,
        /// The name under which alerts are stored.
        machine: String,
    },
    /// A service elsewhere.
    Remote(Box<Outbox>),
}

/// A report whose alerts were taken.
#[derive(Debug)]
pub struct Taken {
    /// Says when the alerts are durable; `None` when they are, or when there were none.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) mark: Option<Box<Mark>>,
    /// Number of the alert that would be written into the spool next; 0 where there is none.
    pub(crate) written: u64,
}

/// What the engine and whoever keeps marks tell each other.
#[derive(Debug, Default)]
pub struct Marks {
    /// Whether one is on its way.
    pub on_the_way: AtomicBool,
    /// Whether the next one must hold everything, since one was not kept.
    pub whole: AtomicBool,
    /// Alerts in the spool before this number lie before a mark that was kept.
    pub covered: AtomicU64,
}

/// Hands alerts over, in order, until the engine hangs up. `stopping` turns true when the process was asked to end.
pub async fn report(
    target: Target,
    reports: Receiver<Report>,
    taken: Sender<Taken>,
    stopping: watch::Receiver<bool>,
    marks: Arc<Marks>,
    status: Arc<Status>,
) {
    match target {
        Target::Service { service, machine } => submit(&service, &machine, reports, taken, stopping, status).await,
        Target::Remote(outbox) => outbox.run(reports, taken, stopping, marks, status).await,
    }
}

async fn submit(
    service: &Service,
    machine: &str,
    mut reports: Receiver<Report>,
    taken: Sender<Taken>,
    stopping: watch::Receiver<bool>,
    status: Arc<Status>,
) {
    while let Some(Report { alerts, lifts, mark }) = reports.recv().await {
        let Ok(mut receipt) = deliver(service, machine, alerts, stopping.clone(), &status).await else {
            warn!("stopping with alerts that nobody took; they are found again at the next start");
            return;
        };
        for one in &lifts {
            // Durable together with everything before it.
            receipt = lift(service, machine, one).await.or(receipt);
        }
        if taken.send(Taken { receipt, mark, written: 0 }).await.is_err() {
            return;
        }
    }
}

/// Ends what an alert decided.
async fn lift(service: &Service, machine: &str, lift: &Lift) -> Option<Receipt> {
    let Lift { uuid, value, scenario } = lift;
    match service.lift_alert(machine, uuid, value).await {
        Ok((count, receipt)) => {
            info!(value, scenario, count, "lifted decisions: a whitelist matches now that the name is known");
            Some(receipt)
        }
        Err(error) => {
            error!(value, scenario, %error, "cannot lift decisions of somebody on a whitelist");
            None
        }
    }
}

/// We stop, and nobody took the alerts.
struct GivenUp;

async fn deliver(
    service: &Service,
    machine: &str,
    alerts: Vec<Alert>,
    mut stopping: watch::Receiver<bool>,
    status: &Status,
) -> Result<Option<Receipt>, GivenUp> {
    if alerts.is_empty() {
        return Ok(None);
    }
    for alert in &alerts {
        info!(scenario = alert.scenario, value = alert.source.value, scope = alert.source.scope, "{}", alert.message);
    }
    let mut pause = BACK_OFF.0;
    let mut last = None::<Instant>;
    loop {
        let problem = match service.submit(machine, alerts.clone()).await {
            Ok(submission) => {
                status.set_reporting(None);
                return Ok(Some(submission.receipt));
            }
            // Each of these stays what it is however often it is tried.
            Err(error @ (SubmitError::Allowed(_) | SubmitError::Duration(_) | SubmitError::TooLong { .. })) => {
                warn!(%error, alerts = alerts.len(), "alerts were refused");
                return Ok(None);
            }
            Err(error) => error.to_string(),
        };
        warn!(problem, alerts = alerts.len(), "alerts were not taken, trying again");
        status.set_reporting(Some(problem));
        if *stopping.borrow() {
            let end = *last.get_or_insert_with(|| Instant::now() + LAST_TRIES);
            if Instant::now() + pause > end {
                return Err(GivenUp);
            }
            sleep(pause).await;
        } else if timeout(pause, stopping.changed()).await.is_ok_and(|changed| changed.is_err()) {
            // Whoever could stop us is gone.
            sleep(pause).await;
        }
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

/// Keeps marks when the alerts before them are durable. Ends when the reporting does.
pub async fn keep(mut taken: Receiver<Taken>, store: Store, marks: Arc<Marks>, status: Arc<Status>) {
    let mut store = Some(store);
    while let Some(Taken { receipt, mark, written: before }) = taken.recv().await {
        if let Some(receipt) = receipt
            && let Err(error) = receipt.durable().await
        {
            error!(%error, "alerts hold, but are not durable");
            status.set_reporting(Some(format!("alerts are not durable: {error}")));
            if matches!(error, StoreError::Closed) {
                // What was not written is found again at the next start, if nothing after it is kept.
                return;
            }
        }
        let Some(mark) = mark else { continue };
        let Some(mut writing) = store.take() else { continue };
        let written = tokio::task::spawn_blocking(move || {
            let result = writing.commit(&mark);
            (writing, result)
        });
        match written.await {
            Ok((writer, result)) => {
                store = Some(writer);
                let problem = result.err().map(|error| error.to_string());
                match &problem {
                    None => marks.covered.store(before, Ordering::Release),
                    Some(problem) => {
                        marks.whole.store(true, Ordering::Release);
                        error!(problem, "the state of the engine cannot be written, trying again");
                    }
                }
                status.set_checkpoint(problem);
                marks.on_the_way.store(false, Ordering::Release);
            }
            Err(error) => error!(%error, "the state of the engine is no longer written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use api::client::{Client, Credentials, Endpoint};
    use tempfile::TempDir;
    use tokio::sync::mpsc::channel;
    use uuid::Uuid;

    use super::*;
    use crate::state::{Meta, State};

    fn mark(round: u64) -> Box<Mark> {
        Box::new(Mark { head: Some(Vec::new()), meta: Meta { round, ..Meta::default() }, buckets: Vec::new() })
    }

    /// The clock is made: it jumps to the next timer whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn marks_wait_for_the_alerts_before_them() {
        let folder = TempDir::new().expect("a temporary folder");
        let state = State::open(folder.path(), [1; 16]).expect("an empty folder");
        let status = Arc::new(Status::default());
        let marks = Arc::new(Marks::default());
        let nobody = folder.path().join("no-such-socket");
        let client = Client::new(Endpoint::new(&nobody.to_string_lossy()), Credentials::Local).expect("a client");
        // Nothing can be written there, and nobody answers.
        let spool = folder.path().join("spool");
        fs::create_dir(&spool).expect("room on the disk");
        let (outbox, _) = Outbox::open(Arc::new(client), &spool, 1 << 20).expect("it is ours");
        fs::remove_dir_all(&spool).expect("it was made");
        let (reports, reports_out) = channel(8);
        let (taken, taken_out) = channel(8);
        let (stop, stopping) = watch::channel(false);
        let target = Target::Remote(Box::new(outbox));
        let reporting =
            tokio::spawn(report(target, reports_out, taken, stopping, Arc::clone(&marks), Arc::clone(&status)));
        let keeping = tokio::spawn(keep(taken_out, state.store, marks, Arc::clone(&status)));

        reports.send(Report { mark: Some(mark(1)), ..Report::default() }).await.expect("somebody listens");
        // Larger than a segment, so that another one has to be begun.
        let events = vec![model::alert::AlertEvent { timestamp: "x".repeat(50_000), ..Default::default() }];
        let alert =
            |uuid: u128| Alert { uuid: Uuid::from_u128(uuid).to_string(), events: events.clone(), ..Alert::default() };
        let alerts = (1..9).map(alert).collect();
        reports.send(Report { alerts, mark: Some(mark(2)), ..Report::default() }).await.expect("somebody listens");
        while status.reporting().is_none() {
            sleep(Duration::from_millis(50)).await;
        }
        stop.send(true).expect("somebody listens");
        reporting.await.expect("it ends");
        keeping.await.expect("it ends");
        let kept = State::open(folder.path(), [1; 16]).expect("it is ours").kept.expect("one was kept");
        assert_eq!(kept.meta.round, 1);
    }
}
