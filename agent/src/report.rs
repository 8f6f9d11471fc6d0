//! Alerts to the API, and places to the checkpoint once it has them.
//!
//! Two tasks in a row, so that a ban never waits for the disk: the first hands alerts over (what they decide holds when
//! that returns), the second waits until they are durable and only then lets the places behind them be remembered.

use std::sync::Arc;
use std::time::Duration;

use api::client::Client;
use api::server::service::{Receipt, Service, SubmitError};
use jiff::Timestamp;
use model::Alert;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::acquisition::Step;
use crate::state::Checkpoint;
use crate::status::Status;

/// Shortest and longest pause before alerts are sent again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How long alerts are still tried after we were asked to stop. Those that are not taken are found again in their logs.
const LAST_TRIES: Duration = Duration::from_secs(5);

/// How often places are written while lines flow.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// What a round of the engine leaves behind.
#[derive(Debug, Default)]
pub struct Report {
    /// What happened.
    pub alerts: Vec<Alert>,
    /// Alerts, of this report or of one before it, that should not have been.
    pub lifts: Vec<Lift>,
    /// By number of the datasource: where reading stands behind the lines of the round.
    pub steps: Vec<(u32, Vec<Step>)>,
}

/// An alert whose decisions are to end: a whitelist matched when a name was known.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    Remote(Client),
}

/// A report whose alerts were taken.
#[derive(Debug)]
pub struct Taken {
    /// Says when the alerts are durable; `None` when they are, or when there were none.
    receipt: Option<Receipt>,
    steps: Vec<(u32, Vec<Step>)>,
}

/// Hands alerts over, in order, until the engine hangs up. `stopping` turns true when the process was asked to end.
pub async fn report(
    target: Target,
    mut reports: Receiver<Report>,
    taken: Sender<Taken>,
    stopping: watch::Receiver<bool>,
    status: Arc<Status>,
) {
    while let Some(Report { alerts, lifts, steps }) = reports.recv().await {
        let Ok(mut receipt) = deliver(&target, alerts, stopping.clone(), &status).await else {
            warn!("stopping with alerts that nobody took; their lines are read again at the next start");
            return;
        };
        for one in &lifts {
            // Durable together with everything before it.
            receipt = lift(&target, one).await.or(receipt);
        }
        if taken.send(Taken { receipt, steps }).await.is_err() {
            return;
        }
    }
}

/// Ends what an alert decided.
async fn lift(target: &Target, lift: &Lift) -> Option<Receipt> {
    let Lift { uuid, value, scenario } = lift;
    match target {
        Target::Service { service, machine } => match service.lift_alert(machine, uuid, value).await {
            Ok((count, receipt)) => {
                info!(value, scenario, count, "lifted decisions: a whitelist matches now that the name is known");
                Some(receipt)
            }
            Err(error) => {
                error!(value, scenario, %error, "cannot lift decisions of somebody on a whitelist");
                None
            }
        },
        // The interface of the field has no such call for machines.
        Target::Remote(_) => {
            warn!(value, scenario, "somebody on a whitelist was reported; lift the decision where decisions are made");
            None
        }
    }
}

/// We stop, and nobody took the alerts.
struct GivenUp;

async fn deliver(
    target: &Target,
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
        let problem = match target {
            Target::Service { service, machine } => match service.submit(machine, alerts.clone()).await {
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
            },
            Target::Remote(client) => match client.push(&alerts).await {
                Ok(_) => {
                    status.set_reporting(None);
                    return Ok(None);
                }
                Err(error) => error.to_string(),
            },
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

/// Remembers places when the alerts before them are durable. `ids` names the datasources by number. Ends, after a last
/// write, when the reporting does.
pub async fn keep(mut taken: Receiver<Taken>, checkpoint: Checkpoint, ids: Vec<String>, status: Arc<Status>) {
    let mut keeper = Keeper { checkpoint: Some(checkpoint), frozen: false, status };
    let mut saved = Instant::now();
    loop {
        let next = if saved.elapsed() >= SAVE_EVERY {
            keeper.save().await;
            saved = Instant::now();
            taken.recv().await
        } else {
            match timeout(SAVE_EVERY, taken.recv()).await {
                Ok(next) => next,
                Err(_) => continue,
            }
        };
        let Some(Taken { receipt, steps }) = next else { break };
        if let Some(receipt) = receipt
            && let Err(error) = receipt.durable().await
        {
            error!(%error, "alerts hold, but are not durable; places in the logs are no longer remembered");
            keeper.status.set_reporting(Some(format!("alerts are not durable: {error}")));
            keeper.frozen = true;
        }
        if let Some(checkpoint) = keeper.checkpoint.as_mut().filter(|_| !keeper.frozen) {
            for (source, steps) in steps {
                if let Some(id) = ids.get(source as usize) {
                    checkpoint.advance(id, steps);
                }
            }
        }
    }
    keeper.save().await;
}

struct Keeper {
    /// Elsewhere only while it is being written.
    checkpoint: Option<Checkpoint>,
    /// What is not durable must be read again: from here on places stay as they are.
    frozen: bool,
    status: Arc<Status>,
}

impl Keeper {
    async fn save(&mut self) {
        let Some(mut checkpoint) = self.checkpoint.take() else { return };
        let written = tokio::task::spawn_blocking(move || {
            let result = checkpoint.save(Timestamp::now());
            (checkpoint, result)
        });
        match written.await {
            Ok((checkpoint, result)) => {
                self.checkpoint = Some(checkpoint);
                let problem = result.err().map(|error| error.to_string());
                if let Some(problem) = &problem {
                    error!(problem, "places in the logs cannot be written");
                }
                self.status.set_checkpoint(problem);
            }
            Err(error) => error!(%error, "places in the logs are no longer written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::client::{Client, Credentials, Endpoint};
    use tempfile::TempDir;
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::acquisition::Place;

    fn at(cursor: &str) -> Vec<(u32, Vec<Step>)> {
        vec![(0, vec![Step::At(Place::Cursor(cursor.into()))])]
    }

    /// The clock is made: it jumps to the next timer whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn places_wait_for_the_alerts_before_them() {
        let folder = TempDir::new().expect("a temporary folder");
        let (checkpoint, _) = Checkpoint::open(folder.path());
        let status = Arc::new(Status::default());
        let nobody = folder.path().join("no-such-socket");
        let client = Client::new(Endpoint::new(&nobody.to_string_lossy()), Credentials::Local).expect("a client");
        let (reports, reports_out) = channel(8);
        let (taken, taken_out) = channel(8);
        let (stop, stopping) = watch::channel(false);
        let reporting = tokio::spawn(report(Target::Remote(client), reports_out, taken, stopping, Arc::clone(&status)));
        let keeping = tokio::spawn(keep(taken_out, checkpoint, vec!["journal".into()], Arc::clone(&status)));

        reports.send(Report { steps: at("before"), ..Report::default() }).await.expect("somebody listens");
        let alerts = vec![Alert { scenario: "test".into(), ..Alert::default() }];
        reports.send(Report { alerts, steps: at("behind"), ..Report::default() }).await.expect("somebody listens");
        while status.reporting().is_none() {
            sleep(Duration::from_millis(50)).await;
        }
        stop.send(true).expect("somebody listens");
        reporting.await.expect("it ends");
        keeping.await.expect("it ends");
        assert_eq!(Checkpoint::open(folder.path()).0.cursor("journal").as_deref(), Some("before"));
    }
}
