//! Questions and answers, without and with a network between them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::http::request::Parts;
use hyper::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use model::Scope;
use rcgen::{CertificateParams, Issuer, KeyPair};

use super::config::{Config, RawConfig};
use super::*;
use crate::config::OnLoss;
use crate::engine::Never;
use crate::engine::desired::Subject;
use crate::engine::plan::Placement;
use crate::engine::span::Span;
use crate::serve::{Answer, Peer};

fn config(text: &str) -> Config {
    let raw: RawConfig = serde_saphyr::from_str(text).expect("valid test YAML");
    raw.check(&[]).expect("a valid test configuration")
}

fn key(net: &str) -> Key {
    Key { remediation: "ban".into(), subject: Subject::Net(model::scope::parse_net(net).expect("a valid test prefix")) }
}

fn user(name: &str) -> Key {
    Key { remediation: "ban".into(), subject: Subject::Named(Scope::new("Username"), name.into()) }
}

fn placed() -> Placed {
    Placed { until: Timestamp::now() + SignedDuration::from_secs(600), pieces: None }
}

fn placement(keys: impl IntoIterator<Item = Key>) -> Placement {
    keys.into_iter().map(|key| (key, placed())).collect()
}

fn head(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid test request").into_parts().0
}

fn peer(address: &str) -> Peer {
    Peer { address: Some(address.parse().expect("a valid test address")), names: Vec::new() }
}

const PROFILES: &str = "trusted_proxies: [10.0.0.0/8]\nprofiles:\n  web: { identity: X-User, paths: [/.git] }\n  \
    slow: { status: 429, debug_headers: true }\n  nginx: { proxy: nginx, status: 401 }";

/// A target on a socket, where nobody asks but the test.
fn target(folder: &Path, rest: &str) -> Forward {
    let text = format!("listen: unix:{}/forward.sock\n{rest}", folder.display());
    Forward::open(&config(&text), OnLoss::Closed, Metrics::default()).expect("a socket in a new folder")
}

async fn load(target: &mut Forward, keys: &[Key], never: &[&str]) {
    let never = never.iter().map(|net| Span::of(model::scope::parse_net(net).expect("a valid test prefix"))).collect();
    let never = Never { v4: never, v6: Vec::new() };
    let placement = placement(keys.iter().cloned());
    let wanted = Wanted::of(&placement, &never);
    target.rebuild(wanted, Extent::Exactly, Timestamp::now()).await.expect("memory takes it");
}

fn ask(target: &Forward, peer: &Peer, path: &str, headers: &[(&str, &str)]) -> Answer {
    target.service.answer(peer, &head(path, headers), Timestamp::now())
}

/// What it shows, who asks, the path, headers, the status.
type Case<'a> = (&'a str, &'a Peer, &'a str, &'a [(&'a str, &'a str)], u16);

#[tokio::test]
async fn what_proxies_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut target = target(folder.path(), PROFILES);
    load(&mut target, &[key("203.0.113.9"), key("2001:db8:1::/64"), user("mallory")], &["203.0.113.77"]).await;
    let proxy = peer("10.0.0.1");
    let banned = ("X-Forwarded-For", "203.0.113.9");
    let other = ("X-Forwarded-For", "203.0.113.10");
    let cases: &[Case<'_>] = &[
        ("a stranger", &proxy, "/v1/check/web", &[other], 204),
        ("banned", &proxy, "/v1/check/web", &[banned], 403),
        (
            "banned, with a forged address before it",
            &proxy,
            "/v1/check/web",
            &[("X-Forwarded-For", "198.51.100.1, 203.0.113.9")],
            403,
        ),
        ("a neighbour in a banned network", &proxy, "/v1/check/web", &[("X-Forwarded-For", "2001:db8:1::77")], 403),
        ("a forged address from nobody", &peer("203.0.113.9"), "/v1/check/web", &[other], 403),
        ("somebody tries to have another one refused", &peer("203.0.113.10"), "/v1/check/web", &[banned], 204),
        ("the name of nobody's proxy", &peer("203.0.113.10"), "/v1/check/web", &[("X-User", "mallory")], 204),
        ("a banned name", &proxy, "/v1/check/web", &[other, ("X-User", "mallory")], 403),
        ("a second name", &proxy, "/v1/check/web", &[other, ("X-User", "alice"), ("X-User", "mallory")], 403),
        ("a banned name where none is asked for", &proxy, "/v1/check/slow", &[other, ("X-User", "mallory")], 204),
        ("a refused path of Traefik", &proxy, "/v1/check/web", &[other, ("X-Forwarded-Uri", "/.git/config")], 403),
        ("a refused path of nginx", &proxy, "/v1/check/web", &[other, ("X-Original-URI", "/%2egit")], 403),
        ("a refused path of Envoy", &proxy, "/v1/check/web/.git/config", &[other], 403),
        ("another status", &proxy, "/v1/check/slow", &[banned], 429),
        ("one that nginx understands", &proxy, "/v1/check/nginx", &[banned], 401),
        ("a malformed chain", &proxy, "/v1/check/web", &[("X-Forwarded-For", "203.0.113.9, proxy")], 400),
        ("a malformed chain, told to nginx", &proxy, "/v1/check/nginx", &[("X-Forwarded-For", "proxy")], 403),
        ("nobody said who asks", &proxy, "/v1/check/web", &[], 400),
        ("no such profile", &proxy, "/v1/check/none", &[banned], 404),
        ("no profile", &proxy, "/v1/check/", &[banned], 404),
        ("something else", &proxy, "/", &[banned], 404),
        ("how it is", &proxy, "/v1/health", &[], 204),
    ];
    for (what, peer, path, headers, status) in cases {
        assert_eq!(ask(&target, peer, path, headers).status().as_u16(), *status, "{what}");
    }
    let socket = ask(&target, &Peer::default(), "/v1/check/web", &[banned]);
    assert_eq!(socket.status(), StatusCode::FORBIDDEN, "who may open the socket is believed");
    assert!(target.dropped().await.expect("memory answers").packets > 0);
}

#[tokio::test]
async fn a_refusal_says_when_and_never_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut target = target(folder.path(), PROFILES);
    load(&mut target, &[key("203.0.113.9")], &[]).await;
    let answer = ask(&target, &peer("10.0.0.1"), "/v1/check/slow", &[("X-Forwarded-For", "203.0.113.9")]);
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let seconds: u64 = header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("a number of seconds");
    assert!((1..=600).contains(&seconds), "{seconds}");
    assert_eq!((header("x-guard-action").as_deref(), header("x-guard-decision").as_deref()), (Some("ban"), Some("0")));
    let quiet = ask(&target, &peer("10.0.0.1"), "/v1/check/web", &[("X-Forwarded-For", "203.0.113.9")]);
    assert!(quiet.headers().keys().all(|name| !name.as_str().starts_with("x-guard")));
    assert_eq!(quiet.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn what_passes_while_nothing_is_known() {
    let stranger = [("X-Forwarded-For", "203.0.113.10")];
    for (unloaded, before) in [("open", 204), ("closed", 403)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut target = target(folder.path(), &format!("unloaded: {unloaded}\n{PROFILES}"));
        let status = |target: &Forward| ask(target, &peer("10.0.0.1"), "/v1/check/web", &stranger).status().as_u16();
        assert_eq!(status(&target), before);
        assert_eq!(ask(&target, &peer("10.0.0.1"), "/v1/health", &[]).status().as_u16(), 503);
        load(&mut target, &[], &[]).await;
        assert_eq!(status(&target), 204);
        target.hear(News::Lost);
        assert_eq!(status(&target), 403, "closed on loss");
        target.hear(News::Flowing);
        assert_eq!(status(&target), 204);
    }
}

#[tokio::test]
async fn plans_are_carried_out_and_can_be_looked_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut target = target(folder.path(), PROFILES);
    load(&mut target, &[key("203.0.113.9")], &[]).await;
    let change = |key, before, after| Change { key, before, after, why: None };
    let changes = vec![
        change(key("203.0.113.9"), Some(placed()), None),
        change(key("198.51.100.0/24"), None, Some(placed())),
        change(user("mallory"), None, Some(placed())),
    ];
    target.apply(&Plan { changes }, Timestamp::now()).await.expect("memory takes it");
    for (key, missing) in [(key("203.0.113.9"), 1), (key("198.51.100.0/24"), 0), (user("mallory"), 0)] {
        let shown = key.to_string();
        let found = target.check(vec![(key, Placed { until: Timestamp::now(), pieces: None })]).await;
        assert_eq!(found.expect("memory answers").missing, missing, "{shown}");
    }
    let over = Placed { until: Timestamp::now(), pieces: None };
    let wanted = Placement::from([(key("198.51.100.0/24"), over.clone()), (key("192.0.2.1"), over)]);
    let never = Never::default();
    let difference = target.compare(Wanted::of(&wanted, &never), Timestamp::now()).await.expect("memory answers");
    assert_eq!(difference.missing, ["ban Ip 192.0.2.1"]);
    assert_eq!(difference.surplus, ["1 entries that nobody wants"]);
}

/// An authority and certificates that it has signed.
struct Certificates {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("random numbers");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a writable folder");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for `name` and its key, in one file each and in one together.
    fn make(&self, file: &str, name: &str) {
        let key = KeyPair::generate().expect("random numbers");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a valid test name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |end: &str, text: String| {
            std::fs::write(self.path(&format!("{file}{end}")), text).expect("a writable folder");
        };
        write(".pem", certificate.pem());
        write(".key", key.serialize_pem());
        write(".both", format!("{}{}", certificate.pem(), key.serialize_pem()));
    }

    fn client(&self, identity: Option<&str>) -> reqwest::Client {
        let read = |name: &str| std::fs::read(self.path(name)).expect("a file that was written");
        let ca = reqwest::Certificate::from_pem(&read("ca.pem")).expect("a certificate");
        let builder = reqwest::Client::builder().tls_certs_only([ca]);
        let builder = match identity {
            Some(name) => {
                builder.identity(reqwest::Identity::from_pem(&read(&format!("{name}.both"))).expect("an identity"))
            }
            None => builder,
        };
        builder.build().expect("a client")
    }
}

#[tokio::test]
async fn only_listed_certificates_may_ask() {
    let certificates = Certificates::new();
    certificates.make("server", "localhost");
    certificates.make("traefik", "traefik.example");
    certificates.make("stranger", "stranger.example");
    let foreign = Certificates::new();
    foreign.make("traefik", "traefik.example");
    let text = format!(
        "listen: 127.0.0.1:0\ntls: {{ certificate: {0}/server.pem, key: {0}/server.key, client_authority: {0}/ca.pem, \
         client_names: [Traefik.example] }}\nprofiles: {{ web: {{}} }}",
        certificates.folder.path().display()
    );
    let mut target = Forward::open(&config(&text), OnLoss::Keep, Metrics::default()).expect("a free port");
    load(&mut target, &[key("203.0.113.9")], &[]).await;
    let port = target.local_addr().expect("it listens on an address").port();
    let ask = |client: reqwest::Client, who: &'static str| async move {
        let request = client.get(format!("https://localhost:{port}/v1/check/web")).header("x-forwarded-for", who);
        request.send().await.ok().map(|answer| answer.status().as_u16())
    };
    assert_eq!(ask(certificates.client(Some("traefik")), "203.0.113.10").await, Some(204));
    assert_eq!(ask(certificates.client(Some("traefik")), "203.0.113.9").await, Some(403), "a listed name is believed");
    assert_eq!(ask(certificates.client(Some("stranger")), "203.0.113.10").await, None, "another name");
    assert_eq!(ask(certificates.client(None), "203.0.113.10").await, None, "no certificate");
    let mut stranger = foreign.client(Some("traefik"));
    assert_eq!(ask(stranger.clone(), "203.0.113.10").await, None, "the client trusts another authority");
    std::fs::copy(certificates.path("ca.pem"), foreign.path("ca.pem")).expect("a file that was written");
    stranger = foreign.client(Some("traefik"));
    assert_eq!(ask(stranger, "203.0.113.10").await, None, "a certificate of another authority");
}

#[tokio::test]
async fn connections_are_kept_and_a_stopped_target_is_gone() {
    let text = "listen: 127.0.0.1:0\ntrusted_proxies: [127.0.0.1]\nprofiles: { web: {} }";
    let mut target = Forward::open(&config(text), OnLoss::Keep, Metrics::default()).expect("a free port");
    load(&mut target, &[key("203.0.113.9")], &[]).await;
    let url = format!("http://{}/v1/check/web", target.local_addr().expect("it listens on an address"));
    let client = reqwest::Client::new();
    for who in ["203.0.113.9", "203.0.113.10", "203.0.113.9"] {
        let status = client.get(&url).header("x-forwarded-for", who).send().await.expect("an answer").status();
        let banned = who.parse::<IpAddr>().is_ok_and(|address| address.to_string().ends_with(".9"));
        assert_eq!(status.as_u16(), if banned { 403 } else { 204 });
    }
    assert!(target.check(Vec::new()).await.is_ok_and(|check| check.intact));
    drop(target);
    let mut gone = false;
    for _ in 0..200 {
        gone = reqwest::Client::new().get(&url).send().await.is_err();
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gone, "nobody answers any more");
}
