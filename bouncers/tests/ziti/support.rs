//! Cordon's side of the tests.

use std::collections::BTreeMap;
use std::time::Duration;

use bouncers::engine::desired::{Key, Subject};
use bouncers::engine::plan::{Placed, Placement};
use bouncers::ziti::api::{Api, Trust};
use bouncers::ziti::config::Options;
use bouncers::ziti::journal::Journal;
use bouncers::ziti::login::{Login, OidcLogin, Proof, SessionLogin};
use bouncers::ziti::work::{Pending, Settled, Work, ZitiError};
use jiff::{SignedDuration, Timestamp};
use model::Scope;
use tempfile::TempDir;

use crate::controller::Site;

/// The driver, its folder, and what it is told.
pub(crate) struct Cordon {
    pub(crate) folder: TempDir,
    pub(crate) options: Options,
    pub(crate) work: Work,
    pub(crate) oidc: bool,
    pub(crate) patience: Duration,
    wishes: BTreeMap<Key, Timestamp>,
    writes: u32,
}

pub(crate) fn in_minutes(minutes: i64) -> Timestamp {
    // A little less, so that the seconds of a test do not count as another minute.
    Timestamp::now() + SignedDuration::from_secs(minutes * 60 - 5)
}

fn key(scope: &str, value: &str) -> Key {
    Key { remediation: "ban".into(), subject: Subject::Named(Scope::new(scope), value.into()) }
}

impl Cordon {
    pub(crate) fn new(site: &Site) -> Self {
        Self::paced(site, 100_000)
    }

    pub(crate) fn paced(site: &Site, writes: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("password"), "secret\n").expect("written");
        let options = Options::default();
        let work = work(site, &folder, &options, writes, (false, PATIENCE));
        Self { folder, options, work, oidc: false, patience: PATIENCE, wishes: BTreeMap::new(), writes }
    }

    /// Ends and begins anew: only the journal is left.
    pub(crate) fn restart(&mut self, site: &Site) {
        // The journal lets go when its owner is dropped, so that goes first.
        let spare = tempfile::tempdir().expect("a temporary folder");
        self.work = work(site, &spare, &self.options, self.writes, (self.oidc, self.patience));
        self.work = work(site, &self.folder, &self.options, self.writes, (self.oidc, self.patience));
        self.wishes.clear();
    }

    pub(crate) fn ban(&mut self, value: &str, until: Timestamp) {
        self.wish(key("identity", value), Some(until));
    }

    pub(crate) fn lift(&mut self, value: &str) {
        self.wish(key("identity", value), None);
    }

    pub(crate) fn end(&mut self, session: &str, until: Timestamp) {
        self.wish(key("session", session), Some(until));
    }

    fn wish(&mut self, key: Key, until: Option<Timestamp>) {
        self.work.wish([(&key, until)]);
        match until {
            Some(until) => drop(self.wishes.insert(key, until)),
            None => drop(self.wishes.remove(&key)),
        }
    }

    /// Until when a person's enable holds against a ban, or ten minutes.
    pub(crate) fn until(&self, id: &str) -> Timestamp {
        match self.work.journal().held(id) {
            Some(bouncers::ziti::plan::Held::Yielded { until }) => until,
            _ => in_minutes(10),
        }
    }

    pub(crate) async fn try_settle(&mut self) -> Result<Vec<(String, Settled)>, ZitiError> {
        let settled = self.work.settle(None).await?;
        Ok(settled.into_iter().map(|(value, settled)| (value.value(), settled)).collect())
    }

    pub(crate) async fn settle(&mut self) -> Vec<(String, Settled)> {
        self.try_settle().await.expect("the network answers")
    }

    pub(crate) async fn settle_sessions(&mut self) -> Vec<(String, Settled)> {
        let settled = self.work.end_sessions(None).await.expect("the network answers");
        settled.into_iter().map(|(value, settled)| (value.value(), settled)).collect()
    }

    pub(crate) async fn outlook(&mut self) -> Vec<Pending> {
        self.work.outlook(None).await.expect("the network answers")
    }

    pub(crate) async fn assist(&mut self, nets: &[&str]) -> usize {
        let placed: Placement = nets
            .iter()
            .map(|net| {
                let net = model::scope::parse_net(net).expect("a prefix");
                let key = Key { remediation: "ban".into(), subject: Subject::Net(net) };
                (key, Placed { until: in_minutes(10), pieces: None })
            })
            .collect();
        self.work.assist(&placed, Timestamp::now()).await.expect("the network answers")
    }

    pub(crate) fn journal_is_empty(&self) -> bool {
        self.work.journal().records().is_empty()
    }
}

/// How long a controller may take to answer here, where nothing is to go wrong.
const PATIENCE: Duration = Duration::from_secs(5);

fn work(site: &Site, folder: &TempDir, options: &Options, writes: u32, (oidc, patience): (bool, Duration)) -> Work {
    let trust = Trust { patience, ..Trust::default() };
    // `folder` may be a spare one, without a password: nobody is asked then.
    let proof = Proof::Password { username: "cordon".into(), file: folder.path().join("password") };
    let login: Box<dyn Login> = if oidc { Box::new(OidcLogin(proof)) } else { Box::new(SessionLogin(proof)) };
    let api = Api::new(trust.client().expect("a client"), login, &site.bases).paced(writes);
    let mut journal = Journal::read(&folder.path().join("ziti.journal")).expect("a journal");
    journal.own().expect("nobody else has it");
    assert_eq!(journal.damaged(), 0);
    Work::new(options.clone(), api, journal)
}
