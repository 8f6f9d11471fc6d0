//! The service over a real store.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Condvar, mpsc};

use model::Delta;
use proptest::prelude::*;

use super::*;
use crate::decisions::Cursor;
use crate::feed::{Feed, Update};
use crate::store::{AlertQuery, Remembered, Restored, Sqlite, Writer};

fn open(path: &Path) -> Service {
    let store = Arc::new(Sqlite::open(path).expect("the database opens"));
    let options = Options { bcrypt_cost: 4, log_len: 1000, ..Options::default() };
    Service::open(store, Profiles::default(), options, Timestamp::now()).expect("the service starts")
}

impl Service {
    /// Takes alerts from `machine` and waits until they are durable.
    pub(crate) async fn store(&self, machine: &str, alerts: Vec<Alert>) {
        let submission = self.submit(machine, alerts).await.expect("alerts are accepted");
        submission.receipt.durable().await.expect("they become durable");
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn ban(value: &str) -> Alert {
    ban_for(value, "1h")
}

fn ban_for(value: &str, duration: &str) -> Alert {
    let scope = if value.contains('/') { "range" } else { "ip" };
    let decision = DecisionBody {
        origin: "cscli".into(),
        remediation: "ban".into(),
        scope: scope.into(),
        value: value.into(),
        duration: duration.into(),
        scenario: "by hand".into(),
        ..DecisionBody::default()
    };
    let now = Timestamp::now().to_string();
    Alert {
        scenario: "by hand".into(),
        start_at: now.clone(),
        stop_at: now,
        source: model::Source { scope: scope.into(), value: value.into(), ..model::Source::default() },
        decisions: Some(vec![decision]),
        ..Alert::default()
    }
}

fn item(value: &str, comment: &str) -> NewItem {
    NewItem { value: value.into(), comment: comment.into(), expires: None }
}

fn live(service: &Service) -> Vec<String> {
    service.table(|table, now| table.select(&Query::default(), now).iter().map(|row| row.value().to_owned()).collect())
}

/// What a reader holds once it has read a snapshot, and the place from which it goes on.
async fn snapshot(follow: &mut Follow) -> (Cursor, Vec<Row>) {
    assert!(matches!(follow.next().await, Some(Batch::Reset(_))), "a snapshot begins with a reset");
    let mut all = Vec::new();
    loop {
        match follow.next().await {
            Some(Batch::Rows(rows)) => all.extend(rows),
            Some(Batch::Ready(cursor)) => return (cursor, all),
            other => panic!("no part of a snapshot: {other:?}"),
        }
    }
}

async fn changes(follow: &mut Follow) -> Delta {
    match follow.next().await {
        Some(Batch::Delta(_, shared)) => shared.delta.clone(),
        other => panic!("expected a delta, got {other:?}"),
    }
}

fn values(decisions: &[Decision]) -> Vec<&str> {
    decisions.iter().map(|decision| decision.value.as_str()).collect()
}

#[tokio::test]
async fn what_is_durable_survives_a_restart() {
    let folder = folder();
    let path = folder.path().join("cordon.db");
    let cursor = {
        let service = open(&path);
        for value in ["192.0.2.1", "192.0.2.2", "2001:db8::/64"] {
            let submission = service.submit("edge", vec![ban(value)]).await.expect("a ban is accepted");
            submission.receipt.durable().await.expect("it becomes durable");
        }
        let cursor = service.table(|table, _| table.cursor());
        let query = Query { value: Some("192.0.2.2".into()), ..Query::default() };
        let (lifted, receipt) = service.lift(&query).await.expect("a lift is accepted");
        receipt.durable().await.expect("it becomes durable");
        assert_eq!(lifted, 1);
        service
            .add_bouncer(NewBouncer::reader("fw", Some("secret")))
            .await
            .expect("a bouncer")
            .1
            .durable()
            .await
            .expect("durable");
        cursor
    };
    let service = open(&path);
    assert_eq!(live(&service), ["192.0.2.1", "2001:db8::/64"]);
    let owner = |key: &str| service.key_owner(&KeyHash::new(key), [192, 0, 2, 1].into());
    assert!(owner("secret").is_some() && owner("Secret").is_none());
    let mut follow = service.follow(Some(cursor));
    let delta = changes(&mut follow).await;
    assert_eq!((values(&delta.add), values(&delta.remove)), (vec![], vec!["192.0.2.2"]));
    let next = service.submit("edge", vec![ban("192.0.2.3")]).await.expect("a ban is accepted");
    assert_eq!(next.ids, [4], "numbers go on");
}

#[tokio::test]
async fn a_restored_copy_sends_a_snapshot() {
    let folder = folder();
    let (path, copy) = (folder.path().join("cordon.db"), folder.path().join("copy.db"));
    drop(open(&path));
    std::fs::copy(&path, &copy).expect("the database is closed");
    let service = open(&path);
    service.store("edge", vec![ban("192.0.2.1")]).await;
    let cursor = service.table(|table, _| table.cursor());
    let restored = open(&copy);
    for value in ["192.0.2.7", "192.0.2.8"] {
        restored.store("edge", vec![ban(value)]).await;
    }
    assert_eq!(snapshot(&mut restored.follow(Some(cursor))).await.1.len(), 2);
}

/// A store whose commits wait for permission.
#[derive(Debug)]
struct Gated {
    store: Sqlite,
    gate: Arc<(Mutex<bool>, Condvar)>,
    groups: mpsc::Sender<usize>,
}

struct GatedWriter {
    writer: Box<dyn Writer>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    groups: mpsc::Sender<usize>,
}

impl Writer for GatedWriter {
    fn commit(&mut self, jobs: &[&[Write]]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        self.groups.send(jobs.len()).expect("the test listens");
        let (open, changed) = &*self.gate;
        drop(changed.wait_while(open.lock().expect("no panic"), |open| !*open).expect("no panic"));
        self.writer.commit(jobs)
    }
}

impl Store for Gated {
    fn restore(&self, now: Timestamp, decisions: &mut dyn FnMut(Remembered)) -> Result<Restored, StoreError> {
        self.store.restore(now, decisions)
    }
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let writer = self.store.writer()?;
        Ok(Box::new(GatedWriter { writer, gate: Arc::clone(&self.gate), groups: self.groups.clone() }))
    }
    fn alerts(&self, query: &AlertQuery, now: Timestamp) -> Result<Vec<Alert>, StoreError> {
        self.store.alerts(query, now)
    }
    fn alert_counts(&self, kinds: usize) -> Result<Vec<(String, i64)>, StoreError> {
        self.store.alert_counts(kinds)
    }
    fn alert_ids(&self, query: &AlertQuery, now: Timestamp) -> Result<Vec<i64>, StoreError> {
        self.store.alert_ids(query, now)
    }
    fn ended(&self, after: Option<Timestamp>, before: Timestamp) -> Result<Vec<Decision>, StoreError> {
        self.store.ended(after, before)
    }
    fn decision(&self, id: i64) -> Result<Option<Decision>, StoreError> {
        self.store.decision(id)
    }
    fn mentions(&self, value: &str) -> Result<crate::store::Mentions, StoreError> {
        self.store.mentions(value)
    }

    fn audit(&self, query: &audit::AuditQuery) -> Result<Vec<audit::Record>, StoreError> {
        self.store.audit(query)
    }

    fn verify_audit(&self, moved: bool) -> Result<Result<crate::store::Verified, audit::Break>, StoreError> {
        self.store.verify_audit(moved)
    }

    fn count_covering(&self, net: ipnet::IpNet, since: Option<Timestamp>) -> Result<i64, StoreError> {
        self.store.count_covering(net, since)
    }
}

#[tokio::test]
async fn a_ban_holds_at_once_and_is_told_to_others_once_durable() {
    let folder = folder();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (groups, committed) = mpsc::channel();
    let store = Sqlite::open(&folder.path().join("cordon.db")).expect("the database opens");
    let store = Arc::new(Gated { store, gate: Arc::clone(&gate), groups });
    let service =
        Service::open(store, Profiles::default(), Options::default(), Timestamp::now()).expect("the service starts");
    let mut feed = service.subscribe();
    assert_eq!(feed.next().await, Ok(Update::Snapshot(Vec::new())));
    let mut follow = service.follow(None);
    assert!(snapshot(&mut follow).await.1.is_empty());

    let mut receipts = Vec::new();
    for value in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"] {
        receipts.push(service.submit("edge", vec![ban(value)]).await.expect("accepted").receipt);
        if receipts.len() == 1 {
            assert_eq!(committed.recv(), Ok(1), "the first commit has begun");
        }
    }
    let Ok(Update::Delta(delta)) = feed.next().await else { panic!("the bans are in force") };
    assert_eq!(delta.add.len(), 4);
    let early = tokio::select! {
        biased;
        batch = follow.next() => batch.is_some(),
        () = tokio::task::yield_now() => false,
    };
    assert!(!early, "nothing is told before it is durable");

    *gate.0.lock().expect("no panic") = true;
    gate.1.notify_all();
    for receipt in receipts {
        receipt.durable().await.expect("it becomes durable");
    }
    assert_eq!(committed.recv(), Ok(3), "what waited was committed together");
    let mut told = Vec::new();
    while told.len() < 4 {
        let delta = changes(&mut follow).await;
        told.extend(delta.add.iter().map(|decision| decision.id));
    }
    assert_eq!(told, [1, 2, 3, 4], "in the order in which they were made");
}

#[tokio::test]
async fn a_reader_left_behind_by_the_log_gets_a_snapshot() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    let mut feed = service.subscribe();
    assert_eq!(feed.next().await, Ok(Update::Snapshot(Vec::new())));
    let mut many = ban("192.0.2.1");
    let one = many.decisions.clone().expect("it has one")[0].clone();
    let count = 1001;
    let address = |index: u32| std::net::Ipv4Addr::from(0x0a00_0000 + index).to_string();
    many.decisions = Some((0..count).map(|index| DecisionBody { value: address(index), ..one.clone() }).collect());
    let submission = service.submit("edge", vec![many]).await.expect("an import is accepted");
    let Ok(Update::Snapshot(all)) = feed.next().await else { panic!("the log does not reach back") };
    assert_eq!(all.len(), count as usize);
    drop(submission);
}

#[tokio::test]
async fn allowed_addresses_are_never_banned() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    service.submit("edge", vec![ban("192.0.2.7"), ban("198.51.100.0/24")]).await.expect("accepted");
    let _ = service.create_allowlist("office", "where we sit").await.expect("a list");
    let values = ["192.0.2.0/24", "198.51.100.9"].map(|value| item(value, "third floor"));
    let (counts, _) = service.allow_items("office", &values).await.expect("values");
    assert_eq!((counts, live(&service)), ((2, 2), vec![]), "what is allowed is lifted");
    // (what is banned, reason)
    let cases = [
        ("192.0.2.9", "192.0.2.9 is allowlisted by item 192.0.2.0/24 from office (third floor)"),
        ("198.51.0.0/16", "198.51.0.0/16 is allowlisted by item 198.51.100.9 from office (third floor)"),
        ("127.0.0.1", "127.0.0.1 is allowlisted by item 127.0.0.0/8 from built-in (loopback)"),
        ("::ffff:192.0.2.9", "::ffff:192.0.2.9 is allowlisted by item 192.0.2.0/24 from office (third floor)"),
        ("0.0.0.0/0", "0.0.0.0/0 is allowlisted by item 0.0.0.0 from built-in (unspecified)"),
    ];
    for (value, reason) in cases {
        let error = service.submit("edge", vec![ban(value)]).await.expect_err(value);
        assert_eq!(error.to_string(), reason);
    }
    let mut import = ban("203.0.113.1");
    let mut other = import.decisions.clone().expect("it has one");
    other[0].value = "192.0.2.1".into();
    import.decisions.as_mut().expect("it has one").extend(other);
    let submission = service.submit("edge", vec![import]).await.expect("an import keeps the rest");
    assert_eq!((submission.refused.len(), live(&service)), (1, vec!["203.0.113.1".to_owned()]));
    let silent = Alert { decisions: None, ..ban("192.0.2.1") };
    let submission = service.submit("edge", vec![silent]).await.expect("an alert is dropped in silence");
    assert_eq!((submission.ids.len(), submission.dropped), (0, 1));
    let (removed, _) = service.disallow_values("office", &["192.0.2.0/24".into()]).await.expect("values");
    assert_eq!(removed, 1);
    service.submit("edge", vec![ban("192.0.2.9")]).await.expect("no longer allowed");
}

#[tokio::test]
async fn an_alert_is_taken_once() {
    let folder = folder();
    let path = folder.path().join("cordon.db");
    let alert = Alert { uuid: "b7".into(), ..ban("192.0.2.1") };
    let send = async |service: &Service, machine: &str| {
        let submission = service.submit(machine, vec![alert.clone()]).await.expect("accepted");
        submission.receipt.durable().await.expect("durable");
        submission.ids
    };
    let service = open(&path);
    assert_eq!(send(&service, "edge").await, [1]);
    assert_eq!(send(&service, "edge").await, [1], "the same again");
    assert_eq!(send(&service, "other").await, [2], "another machine's identity is another one");
    drop(service);
    let service = open(&path);
    assert_eq!(send(&service, "edge").await, [1], "the same after a restart");
    assert_eq!(live(&service).len(), 2);
}

#[tokio::test]
async fn bad_alerts_are_refused() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    // (what is wrong, alert, message)
    let cases = [
        ("a duration", ban_for("192.0.2.1", "soon"), "unable to parse duration"),
        ("a long value", ban(&"x".repeat(256)), "`value` of a decision is longer than 255 bytes"),
    ];
    for (what, alert, message) in cases {
        let error = service.submit("edge", vec![alert]).await.expect_err(what).to_string();
        assert!(error.contains(message), "{what}: {error}");
    }
    let submission = service.submit("edge", vec![ban("not-an-address")]).await.expect("accepted");
    assert!(submission.ids.is_empty(), "nothing is left of it");
    let over = Alert { stop_at: "2001-01-01T00:00:00Z".into(), ..ban("192.0.2.1") };
    let submission = service.submit("edge", vec![over]).await.expect("accepted");
    assert_eq!((submission.ids.len(), live(&service).len()), (1, 0), "what was over before it came is stored only");
}

#[tokio::test]
async fn keys_belong_to_addresses() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    let _ = service.add_bouncer(NewBouncer::reader("fw", Some("k1"))).await.expect("a bouncer");
    // (key, from, agent, who it is)
    let cases = [
        ("k1", "192.0.2.1", "fw/v1", Some("fw")),
        ("k1", "192.0.2.2", "fw/v1", Some("fw@192.0.2.2")),
        ("k1", "192.0.2.1", "fw/v2", Some("fw")),
        ("k1", "192.0.2.2", "fw", Some("fw@192.0.2.2")),
        ("k2", "192.0.2.1", "fw/v1", None),
    ];
    for (key, ip, agent, who) in cases {
        let caller = Caller { ip: ip.parse().expect("an address"), agent };
        let name = service.identify(&KeyHash::new(key), caller).await.expect("the store works");
        assert_eq!(name.as_deref(), who, "{key} from {ip}");
    }
    let versions: Vec<_> = service.bouncers().into_iter().map(|row| (row.name, row.version)).collect();
    assert_eq!(versions, [("fw".into(), "v2".into()), ("fw@192.0.2.2".into(), "N/A".into())]);
    assert!(matches!(service.delete_bouncer("fw@192.0.2.2").await, Err(AccountError::Automatic(..))));
    let _ = service.delete_bouncer("fw").await.expect("it goes with its children");
    assert!(service.bouncers().is_empty());
}

/// An agent's alert, about which the profiles decide.
fn offence(value: &str) -> Alert {
    Alert { decisions: None, remediation: true, ..ban(value) }
}

/// Sends one alert, and says how long the longest decision on its target lasts, in whole hours.
async fn hours(service: &Service, value: &str) -> i64 {
    let submission = service.submit("edge", vec![offence(value)]).await.expect("it is accepted");
    submission.receipt.durable().await.expect("it becomes durable");
    let left = service.recall(DecisionQuery::TimeLeft, value, Timestamp::now()).expect("it is an address");
    (left + 1_800_000_000_000) / 3_600_000_000_000
}

async fn lift_all(service: &Service) {
    let (_, receipt) = service.lift(&Query::default()).await.expect("it is accepted");
    receipt.durable().await.expect("it becomes durable");
}

fn with_profiles(path: &Path, profiles: &str) -> Service {
    let service = open(path);
    service.set_profiles(Profiles::parse(&[(Path::new("profiles.yaml"), profiles)]).expect("they are right"));
    service
}

#[tokio::test]
async fn who_comes_back_is_banned_for_longer_also_after_a_restart() {
    let folder = folder();
    let path = folder.path().join("cordon.db");
    let shipped = profiles::DEFAULT;
    {
        let service = with_profiles(&path, shipped);
        assert_eq!(hours(&service, "192.0.2.1").await, 4);
        assert_eq!(hours(&service, "192.0.2.1").await, 4, "it has not been away");
        lift_all(&service).await;
        assert_eq!(hours(&service, "192.0.2.1").await, 16);
        assert_eq!(hours(&service, "192.0.2.2").await, 4, "a neighbour is somebody else");
        assert_eq!(hours(&service, "2001:db8::1").await, 4);
        lift_all(&service).await;
        assert_eq!(hours(&service, "2001:db8::2").await, 16, "the owner of a network has many addresses");
        let everything = AlertQuery::default();
        let (erased, receipt) = service.erase_alerts(everything).await.expect("it is accepted");
        receipt.durable().await.expect("it becomes durable");
        assert!(erased > 0);
        service.lock().retained = Timestamp::UNIX_EPOCH;
        service.tidy().await.expect("retention works");
        service.close().await.expect("everything is durable");
    }
    let service = with_profiles(&path, shipped);
    assert_eq!(hours(&service, "192.0.2.1").await, 72, "it is remembered");
    lift_all(&service).await;
    let twice = "filters: ['true']\ndecisions: [{type: ban, duration: 1h}, {type: ban, duration: 2h}]\n";
    service.set_profiles(Profiles::parse(&[(Path::new("p"), twice)]).expect("they are right"));
    assert_eq!(hours(&service, "192.0.2.1").await, 14 * 24, "two bans of one alert are one visit");
    for (what, profile) in [
        ("a profile that says no", "filters: ['true']\ndecisions: [{type: ban, duration: 1h}]\nladder: false\n"),
        ("a duration that is computed", "filters: ['true']\ndecisions: [{type: ban}]\nduration_expr: \"'1h'\"\n"),
        ("what is no ban", "filters: ['true']\ndecisions: [{type: captcha, duration: 1h}]\n"),
    ] {
        service.set_profiles(Profiles::parse(&[(Path::new("p"), profile)]).expect("they are right"));
        lift_all(&service).await;
        assert_eq!(hours(&service, "192.0.2.1").await, 1, "{what}");
    }
}

#[tokio::test]
async fn who_is_forgiven_starts_afresh() {
    let folder = folder();
    let path = folder.path().join("cordon.db");
    let service = with_profiles(&path, profiles::DEFAULT);
    let soon = Timestamp::now() + SignedDuration::from_secs(3600);
    for value in ["192.0.2.1", "2001:db8::1"] {
        hours(&service, value).await;
        lift_all(&service).await;
        assert_eq!(hours(&service, value).await, 16);
    }
    service.store("edge", vec![ban("192.0.2.0/24")]).await;
    let forgive = async |value: &str, until| {
        let net = value.parse::<IpAddr>().expect("an address").into();
        let (forgiven, receipt) = service.forgive(net, until).await.expect("it is accepted");
        receipt.durable().await.expect("it becomes durable");
        (forgiven.lifted, forgiven.strikes)
    };
    assert_eq!(forgive("192.0.2.1", soon).await, (1, 1), "the range around it, too");
    assert_eq!(forgive("2001:db8::2", soon).await, (0, 1), "the address is another, its owner is not");
    let error = service.submit("edge", vec![ban("192.0.2.1")]).await.expect_err("it is let be for a while");
    assert_eq!(error.to_string(), "192.0.2.1 is allowlisted by item 192.0.2.1 from forgiven");
    assert_eq!(service.submit("edge", vec![offence("192.0.2.1")]).await.expect("accepted").dropped, 1);
    service.close().await.expect("everything is durable");
    drop(service);
    let service = with_profiles(&path, profiles::DEFAULT);
    assert!(!service.allowed_by("192.0.2.1/32".parse().expect("a net")).is_empty(), "after a restart too");
    let (_, receipt) = service.disallow_values(FORGIVEN, &["192.0.2.1".into()]).await.expect("it is accepted");
    receipt.durable().await.expect("durable");
    assert_eq!(hours(&service, "192.0.2.1").await, 4);
}

#[derive(Clone, Debug)]
enum Step {
    Ban(u8, u8),
    Allow(u8, u8),
    Disallow(u8, u8),
    Lift(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let net = || (0..16_u8, 28..=32_u8);
    prop_oneof![
        4 => net().prop_map(|(host, len)| Step::Ban(host, len)),
        2 => net().prop_map(|(host, len)| Step::Allow(host, len)),
        1 => net().prop_map(|(host, len)| Step::Disallow(host, len)),
        1 => (0..16_u8).prop_map(Step::Lift),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever happens in whatever order: nothing that is allowed is in force, here or with a reader.
    #[test]
    fn the_allow_set_always_wins(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = folder();
            let service = open(&folder.path().join("cordon.db"));
            let _ = service.create_allowlist("list", "").await.expect("a list");
            let mut feed = service.subscribe();
            let mut held = BTreeMap::new();
            for step in steps {
                let net = |host, len| format!("192.0.2.{host}/{len}");
                match step {
                    Step::Ban(host, len) => {
                        let allowed = !service.allowed_by(net(host, len).parse().expect("a net")).is_empty();
                        let refused = service.submit("edge", vec![ban(&net(host, len))]).await.is_err();
                        assert_eq!(allowed, refused);
                    }
                    Step::Allow(host, len) => {
                        let _ = service.allow_items("list", &[item(&net(host, len), "")]).await.expect("allowed");
                    }
                    Step::Disallow(host, len) => {
                        let _ = service.disallow_values("list", &[net(host, len)]).await.expect("disallowed");
                    }
                    Step::Lift(host) => {
                        let net = net(host, 32).parse().expect("a net");
                        let query = Query { net: Some((net, Reach::Covers)), ..Query::default() };
                        let _ = service.lift(&query).await.expect("lifted");
                    }
                }
                let update = tokio::select! { biased; update = feed.next() => Some(update), () = tokio::task::yield_now() => None };
                match update {
                    Some(Ok(Update::Snapshot(all))) => held = all.into_iter().map(|one| (one.id, one)).collect(),
                    Some(Ok(Update::Delta(delta))) => {
                        held.retain(|id, _| delta.remove.iter().all(|gone| gone.id != *id));
                        held.extend(delta.add.into_iter().map(|one| (one.id, one)));
                    }
                    other => assert!(other.is_none(), "{other:?}"),
                }
                for decision in held.values() {
                    let net = net_of(&decision.scope, &decision.value).expect("a net");
                    assert!(service.allowed_by(net).is_empty(), "{} is banned and allowed", decision.value);
                }
                assert_eq!(held.len(), live(&service).len());
            }
        });
    }
}

/// The name under which the test below starts itself again as the process to be killed.
const VICTIM: &str = "CORDON_TEST_VICTIM";
/// How often it is killed; more often if the environment says so.
const KILLS: &str = "CORDON_TEST_KILLS";

#[test]
fn what_was_acknowledged_survives_kills() {
    if let Some(path) = std::env::var_os(VICTIM) {
        return change_until_killed(Path::new(&path));
    }
    let folder = folder();
    let path = folder.path().join("cordon.db");
    let kills = std::env::var(KILLS).ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let (mut banned, mut lifted, mut alerts) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in 0..kills {
        let mut victim = Command::new(std::env::current_exe().expect("the test's own program"))
            .args(["--exact", "--nocapture", "server::service::tests::what_was_acknowledged_survives_kills"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts itself");
        let lines = BufReader::new(victim.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        // Killed after another number of acknowledgements each time, in the midst of the next.
        let mut heard = 0;
        // What was being lifted when it was killed may be lifted, or not.
        let mut doubtful = BTreeSet::new();
        for line in lines {
            let Some((what, value)) = line.split_once(' ') else { continue };
            let known = match what {
                "banned" => banned.insert(value.to_owned()),
                "lifting" => doubtful.insert(value.to_owned()),
                "lifted" => banned.remove(value) && lifted.insert(value.to_owned()),
                "alert" => alerts.insert(value.parse::<i64>().expect("a number")),
                _ => continue,
            };
            assert!(known, "round {round}: {line} was acknowledged twice");
            heard += 1;
            if heard == 20 + 7 * round {
                victim.kill().expect("it runs");
            }
        }
        victim.wait().expect("it was killed");
        assert!(heard >= 20 + 7 * round, "round {round}: it ended by itself");
        let service = open(&path);
        let live: BTreeSet<String> = live(&service).into_iter().collect();
        let lost: Vec<&String> = banned.difference(&live).filter(|value| !doubtful.contains(*value)).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
        banned.retain(|value| live.contains(value));
        assert_eq!(lifted.intersection(&live).next(), None, "round {round}: lifted, and back");
        let query = AlertQuery { limit: None, ..AlertQuery::default() };
        let stored: BTreeSet<i64> =
            service.0.store.alert_ids(&query, Timestamp::now()).expect("it answers").into_iter().collect();
        assert_eq!(alerts.difference(&stored).next(), None, "round {round}: an alert was acknowledged and lost");
    }
}

#[expect(clippy::print_stdout, reason = "it speaks to the test that started it")]
fn change_until_killed(path: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let service = open(path);
        let first = service.lock().last_decision as u32;
        // Four agents at once: each bans, and lifts every third of its own.
        let agents = (0..4_u32).map(|agent| {
            let service = service.clone();
            tokio::spawn(async move {
                for index in 0_u32.. {
                    let value = std::net::Ipv4Addr::from(0x0a00_0000 + (first + index) * 4 + agent).to_string();
                    let submission = service.submit("edge", vec![ban(&value)]).await.expect("accepted");
                    submission.receipt.durable().await.expect("durable");
                    println!("banned {value}\nalert {}", submission.ids[0]);
                    if index % 3 == 2 {
                        println!("lifting {value}");
                        let query = Query { value: Some(value.clone()), ..Query::default() };
                        let (_, receipt) = service.lift(&query).await.expect("accepted");
                        receipt.durable().await.expect("durable");
                        println!("lifted {value}");
                    }
                }
            })
        });
        for agent in agents.collect::<Vec<_>>() {
            agent.await.expect("it goes on until it is killed");
        }
    });
}

#[tokio::test]
async fn old_alerts_are_flushed_but_not_those_that_still_hold() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    let many: Vec<Alert> = (0..2500)
        .map(|n| ban_for(&format!("10.0.{}.{}", n / 250, n % 250), if n < 5 { "1h" } else { "-1s" }))
        .collect();
    service.store("edge", many).await;
    // (newest that stay, oldest that stay, how many go)
    let cases = [
        (None, None, 0),
        (None, Some(SignedDuration::from_hours(1)), 0),
        (Some(100), None, 2395),
        (Some(50), Some(SignedDuration::from_hours(1)), 50),
        (None, Some(SignedDuration::ZERO), 50),
    ];
    for (newest, age, gone) in cases {
        assert_eq!(service.flush(newest, age).await.expect("it works"), gone, "{newest:?} {age:?}");
    }
    assert_eq!(live(&service).len(), 5);
}

#[tokio::test]
async fn only_what_the_alert_decided_is_lifted() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    let of = |uuid: &str, value: &str| Alert { uuid: uuid.into(), ..ban(value) };
    for (machine, uuid, value) in
        [("edge", "a", "192.0.2.1"), ("edge", "b", "192.0.2.1"), ("web", "a", "192.0.2.1"), ("edge", "c", "192.0.2.2")]
    {
        let submission = service.submit(machine, vec![of(uuid, value)]).await.expect("a ban is accepted");
        submission.receipt.durable().await.expect("it becomes durable");
    }
    // (machine, identity of the alert, whom it is about, how many are lifted, how many hold then)
    let cases = [
        ("edge", "nobody's", "192.0.2.1", 0, 4),
        ("nobody", "a", "192.0.2.1", 0, 4),
        ("edge", "a", "192.0.2.9", 0, 4),
        ("edge", "a", "192.0.2.1", 1, 3),
        ("edge", "a", "192.0.2.1", 0, 3),
        ("web", "a", "192.0.2.1", 1, 2),
    ];
    for (machine, uuid, value, lifted, left) in cases {
        let (count, receipt) = service.lift_alert(machine, uuid, value).await.expect("it is accepted");
        receipt.durable().await.expect("it becomes durable");
        assert_eq!((count, live(&service).len()), (lifted, left), "{machine} {uuid} {value}");
    }
}

#[tokio::test]
async fn past_decisions_are_known_from_memory_and_after_a_restart() {
    let folder = folder();
    let path = folder.path().join("cordon.db");
    let week = DecisionQuery::CountSince(7 * 24 * 3_600_000_000_000);
    let ask = |service: &Service, query, value| service.recall(query, value, Timestamp::now()).ok();
    {
        let service = open(&path);
        for alert in [ban("192.0.2.1"), ban_for("192.0.2.1", "-1h"), ban("192.0.2.0/24"), ban("192.0.2.7")] {
            let submission = service.submit("edge", vec![alert]).await.expect("a ban is accepted");
            submission.receipt.durable().await.expect("it becomes durable");
        }
        let query = Query { value: Some("192.0.2.0/24".into()), ..Query::default() };
        let (_, receipt) = service.lift(&query).await.expect("a lift is accepted");
        receipt.durable().await.expect("it becomes durable");
        assert_eq!(ask(&service, DecisionQuery::Count, "192.0.2.1"), Some(0), "nobody wanted to know");
        service.close().await.expect("everything is durable");
    }
    let service = open(&path);
    service.keep_history().await.expect("the store is read");
    service.keep_history().await.expect("a second time changes nothing");
    // (question, about whom, answer)
    let cases = [
        (DecisionQuery::Count, "192.0.2.1", Some(3)),
        (week, "192.0.2.1", Some(3)),
        (DecisionQuery::Count, "192.0.2.7", Some(2)),
        (DecisionQuery::Count, "192.0.2.0/24", Some(1)),
        (DecisionQuery::Count, "nobody", Some(0)),
        (DecisionQuery::Active, "192.0.2.1", Some(1)),
        (DecisionQuery::Active, "192.0.2.8", Some(0)),
        (DecisionQuery::Active, "nobody", None),
        (DecisionQuery::TimeLeft, "192.0.2.8", Some(0)),
        (DecisionQuery::TimeLeft, "nobody", None),
    ];
    for (query, value, answer) in cases {
        assert_eq!(ask(&service, query, value), answer, "{query:?} {value}");
    }
    let left = ask(&service, DecisionQuery::TimeLeft, "192.0.2.1").expect("it is an address");
    assert!((3_000_000_000_000..=3_600_000_000_000).contains(&left), "{left}");

    // At once, not when it is durable.
    service.store("edge", vec![ban("192.0.2.1")]).await;
    assert_eq!(ask(&service, DecisionQuery::Count, "192.0.2.1"), Some(4));
    let about = AlertQuery { value: Some("192.0.2.1".into()), ..AlertQuery::default() };
    let (erased, receipt) = service.erase_alerts(about).await.expect("it is accepted");
    receipt.durable().await.expect("it becomes durable");
    assert_eq!(erased, 3);
    assert_eq!(ask(&service, DecisionQuery::Count, "192.0.2.1"), Some(1), "the range is left");
}

#[tokio::test]
async fn a_repeated_offence_is_punished_for_longer_at_once() {
    let folder = folder();
    let profiles = "filters: ['true']\ndecisions: [{type: ban, duration: 1h}]\n\
        duration_expr: \"Sprintf('%dh', 1 + GetDecisionsCount(Alert.GetValue()) + GetActiveDecisionsCount(Alert.GetValue()))\"\n";
    let service = open(&folder.path().join("cordon.db"));
    service.set_profiles(Profiles::parse(&[(Path::new("profiles.yaml"), profiles)]).expect("they are right"));
    let mut hours = Vec::new();
    for _ in 0..3 {
        let alert = Alert { decisions: None, ..ban("192.0.2.1") };
        service.store("edge", vec![alert]).await;
        let left = service.recall(DecisionQuery::TimeLeft, "192.0.2.1", Timestamp::now()).expect("it is an address");
        hours.push((left + 1_800_000_000_000) / 3_600_000_000_000);
    }
    assert_eq!(hours, [1, 3, 5]);
}

#[tokio::test]
async fn who_is_forgotten_is_nowhere_and_the_trail_still_holds() {
    let folder = folder();
    let path = folder.path().join("cordon.db");
    let service = open(&path).by(Author { name: "ann".into(), from: Origin::Socket, proof: "socket" });
    let mut mixed = ban("198.51.100.9");
    mixed.message = "198.51.100.9 came with 203.0.113.7".into();
    let mut many = ban("203.0.113.7");
    let other = ban("198.51.100.10").decisions.unwrap_or_default();
    many.decisions.get_or_insert_default().extend(other);
    for alert in [ban("203.0.113.7"), mixed, many] {
        let _ = service.submit("edge", vec![alert]).await.expect("it is taken");
    }
    let (_, receipt) = service.add_bouncer(NewBouncer::reader("fw", Some("key"))).await.expect("a bouncer");
    receipt.durable().await.expect("the store works");
    service.note_pull("fw", Last { at: present(), decision: 4 });
    let (forgotten, receipt) = service.forget("203.0.113.7").await.expect("it is forgotten");
    receipt.durable().await.expect("the store works");
    assert_eq!(forgotten, Forgotten { erased: 1, redacted: 2, ended: 2 });
    assert_eq!(live(&service), ["198.51.100.9", "198.51.100.10"]);
    let pulled = service.pull("fw", Pull::default()).await.expect("it answers");
    assert_eq!(values(&pulled.deleted), ["203.0.113.7", "203.0.113.7"], "who polls is told that it ended");
    drop(pulled);
    let alerts = service.read(|store| store.alerts(&AlertQuery::default(), Timestamp::now())).await.expect("alerts");
    let query = audit::AuditQuery { limit: 99, ..audit::AuditQuery::default() };
    let records = service.read(move |store| store.audit(&query)).await.expect("records");
    let text = serde_json::to_string(&(&alerts, &records)).expect("JSON");
    assert!(!text.contains("203.0.113.7") && text.contains("came with (forgotten)"), "{text}");
    assert!(records.iter().any(|record| record.action == "forget" && record.actor == "ann"));
    let verified = service.read(|store| store.verify_audit(false)).await.expect("it answers").expect("it holds");
    assert_eq!(verified.forgotten, 2);
    service.close().await.expect("the store works");
    drop(service);
    assert_eq!(live(&open(&path)), ["198.51.100.9", "198.51.100.10"], "after a restart, too");
}

#[tokio::test]
async fn what_looks_like_a_password_is_never_stored() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    let meta = |key: &str, value: &str| model::alert::Meta { key: key.into(), value: value.into() };
    let event = model::alert::AlertEvent {
        meta: vec![meta("target_user", "hunter2!"), meta("http_path", "/a?token=abc")],
        ..model::alert::AlertEvent::default()
    };
    let alert = Alert { events: vec![event], ..ban("192.0.2.1") };
    service.store("edge", vec![alert]).await;
    let alerts = service.read(|store| store.alerts(&AlertQuery::default(), Timestamp::now())).await.expect("alerts");
    let text = serde_json::to_string(&alerts).expect("JSON");
    assert!(!text.contains("hunter2") && text.contains("/a?token=(masked)"), "{text}");
}

/// Spares 5.0.0.0/8 and all of Germany.
#[derive(Debug)]
struct Homeland;

impl Places for Homeland {
    fn spares(&self, scope: &Scope, value: &str) -> Option<String> {
        let spared = match scope {
            Scope::Country => value == "DE",
            _ => value.starts_with("5."),
        };
        spared.then(|| "`geo.never_ban` (DE is never banned)".to_owned())
    }
}

#[tokio::test]
async fn who_is_spared_by_his_place_is_not_banned() {
    let folder = folder();
    let service = open(&folder.path().join("cordon.db"));
    let profiles = "filters: [\"true\"]\ndecisions:\n- {type: Ban, duration: 1h}\n- {type: captcha, duration: 1h}\n";
    service.set_profiles(Profiles::parse(&[(Path::new("p.yaml"), profiles)]).expect("a valid profile"));
    service.set_places(Arc::new(Homeland));
    let by = |origin: &str, scope: &str, value: &str| {
        let mut alert = ban(value);
        for body in alert.decisions.iter_mut().flatten() {
            body.origin = origin.into();
            body.scope = scope.into();
        }
        alert
    };
    let judged = |value: &str| Alert { decisions: None, ..ban(value) };
    // (what, alert, bans and other decisions about it, why not)
    let cases = [
        ("profiles about somebody at home", judged("5.0.0.1"), vec!["captcha"], true),
        ("profiles about a stranger", judged("6.0.0.1"), vec!["Ban", "captcha"], false),
        ("a person", by("cscli", "Ip", "5.0.0.2"), vec!["ban"], false),
        ("a list about a stranger", by("lists", "Ip", "6.0.0.2"), vec!["ban"], false),
        ("a list about another country", by("lists", "Country", "FR"), vec!["ban"], false),
    ];
    for (what, alert, expected, spared) in cases {
        let value = alert.source.value.clone();
        let submission = service.submit("m", vec![alert]).await.expect("alerts are accepted");
        assert_eq!(!submission.refused.is_empty(), spared, "{what}");
        submission.receipt.durable().await.expect("it becomes durable");
        let query = Query { value: Some(value.as_str().into()), ..Query::default() };
        let mut made: Vec<String> = service
            .table(|table, now| table.select(&query, now).iter().map(|row| row.remediation().to_string()).collect());
        made.sort();
        assert_eq!(made, expected, "{what}");
        let about = AlertQuery { value: Some(value.as_str().into()), ..AlertQuery::default() };
        let stored =
            service.read(move |store| store.alerts(&about, Timestamp::now())).await.expect("the store answers");
        let checks: Vec<String> =
            stored.into_iter().filter_map(|alert| alert.cordon).flat_map(|evidence| evidence.allow_checks).collect();
        let told = "decide: not banned, see `geo.never_ban` (DE is never banned)";
        assert_eq!(checks.iter().any(|check| check == told), spared, "{what}");
    }
    for (what, alert) in
        [("a list", by("lists", "Ip", "5.0.0.3")), ("a list about the country", by("lists", "Country", "DE"))]
    {
        let refused = service.submit("m", vec![alert]).await.map(|_| ()).map_err(|error| error.to_string());
        let message = refused.expect_err("nothing is left of it");
        assert!(message.contains("allowlisted by item `geo.never_ban` (DE is never banned)"), "{what}: {message}");
    }
}
