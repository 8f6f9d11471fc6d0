//! Who is let in, and who no longer: certificates, keys, their rights and their ends.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use super::service::{NewBouncer, Options, Service};
use super::tests::{Running, alert};
use super::{Certificates, Server};
use crate::client::feed::PollOptions;
use crate::client::{Client, Credentials, Endpoint, SseFeed, Transport};
use crate::config::{ClientCertificates, ServerConfig, TlsConfig};
use crate::feed::{Feed, FeedError, Update};
use crate::pki::{Authority, LIFETIME, Request, Role};
use crate::profiles::Profiles;
use crate::store::{Right, Sqlite};

/// A server with TLS, and the authority of its site.
struct Site {
    service: Service,
    authority: Authority,
    certificates: Certificates,
    url: String,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start(change: impl FnOnce(&mut TlsConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = Timestamp::now();
        let mut authority = Authority::init(&folder.path().join("pki"), "site", now).expect("an authority");
        let hosts = ["127.0.0.1".to_owned()];
        for (name, role) in [("api", Role::Server), ("edge", Role::Agent), ("fw", Role::Bouncer), ("boss", Role::Admin)]
        {
            let hosts: &[String] = if role == Role::Server { &hosts } else { &[] };
            authority.issue(&Request { name, role, hosts, lifetime: LIFETIME }, now).expect("a certificate");
        }
        let (certificate, key) = authority.files("api");
        let unit = |role: Role| vec![role.unit().to_owned()];
        let mut tls = TlsConfig {
            certificate,
            key,
            clients: ClientCertificates::Optional,
            client_authority: Some(authority.certificate_path()),
            revoked: Some(authority.list_path()),
            agents: unit(Role::Agent),
            bouncers: unit(Role::Bouncer),
            admins: unit(Role::Admin),
        };
        change(&mut tls);
        let store = Arc::new(Sqlite::open(&folder.path().join("cordon.db")).expect("the database opens"));
        let options = Options { bcrypt_cost: 4, ..Options::default() };
        let service = Service::open(store, Profiles::default(), options, now).expect("the service starts");
        let listen = Some(([127, 0, 0, 1], 0).into());
        let config = ServerConfig { listen, tls: Some(tls), ..ServerConfig::default() };
        let server = Server::bind(config, service.clone()).await.expect("it listens");
        let url = format!("https://{}", server.local_addr().expect("an address"));
        let certificates = server.certificates();
        tokio::spawn(server.run(std::future::pending()));
        Self { service, authority, certificates, url, folder }
    }

    /// What trusts the site's authority, and shows the certificate of `name` if there is one.
    fn transport(&self, name: Option<&str>) -> Transport {
        Transport {
            authority: Some(self.authority.certificate_path()),
            certificate: name.map(|name| self.authority.files(name)),
        }
    }

    fn endpoint(&self, name: Option<&str>) -> Endpoint {
        Endpoint::new(&self.url).with(self.transport(name))
    }

    /// Connections of somebody who shows the certificate of `name`.
    fn as_client(&self, name: Option<&str>) -> Caller {
        let http = self.endpoint(name).http("crowdsec/v1.7").expect("readable certificates");
        Caller { http, url: self.url.clone() }
    }
}

struct Caller {
    http: reqwest::Client,
    url: String,
}

impl Caller {
    /// Status and body of an answer; the end of the chain of errors if there is none.
    async fn ask(&self, method: Method, path: &str, token: Option<&str>) -> Result<(u16, String), String> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if path.ends_with("login") {
            request = request.body(r#"{"scenarios":[]}"#);
        }
        let answer = request.send().await.map_err(|error| crate::client::reason(&error))?;
        Ok((answer.status().as_u16(), answer.text().await.expect("a body")))
    }

    async fn status(&self, method: Method, path: &str) -> u16 {
        self.ask(method, path, None).await.expect("an answer").0
    }

    async fn token(&self) -> String {
        let (status, body) = self.ask(Method::POST, "/v1/watchers/login", None).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        body["token"].as_str().expect("a token").to_owned()
    }
}

#[tokio::test]
async fn a_certificate_opens_what_its_unit_is_for() {
    let site = Site::start(|_| ()).await;
    let (get, post) = (Method::GET, Method::POST);
    // (certificate, method, path, status)
    let cases = [
        (None, &get, "/v1/decisions", 403),
        (None, &post, "/v1/watchers/login", 401),
        (None, &get, "/health", 200),
        (Some("fw"), &get, "/v1/decisions", 200),
        (Some("fw"), &get, "/v1/decisions/stream?startup=true", 200),
        (Some("fw"), &Method::HEAD, "/v1/decisions/stream", 200),
        (Some("fw"), &get, "/v1/alerts", 401),
        (Some("fw"), &post, "/v1/watchers/login", 401),
        (Some("fw"), &get, "/v1/bouncers", 403),
        (Some("edge"), &get, "/v1/decisions", 403),
        (Some("edge"), &post, "/v1/watchers/login", 200),
        (Some("edge"), &get, "/v1/machines", 403),
        (Some("boss"), &get, "/v1/decisions", 200),
        (Some("boss"), &get, "/v1/bouncers", 200),
        (Some("boss"), &get, "/v1/alerts", 200),
        (Some("boss"), &post, "/v1/watchers/login", 401),
    ];
    for (name, method, path, status) in cases {
        let found = site.as_client(name).status(method.clone(), path).await;
        assert_eq!(found, status, "{name:?} {method} {path}");
    }
    let known: Vec<_> = site.service.bouncers().into_iter().map(|row| (row.name, row.auth_type)).collect();
    assert_eq!(known, [("fw@127.0.0.1".to_owned(), "tls".to_owned())]);
    let known: Vec<_> = site.service.machines().into_iter().map(|row| (row.name, row.validated)).collect();
    assert_eq!(known, [("edge@127.0.0.1".to_owned(), true)]);

    let token = site.as_client(Some("edge")).token().await;
    assert_eq!(
        site.as_client(Some("edge")).ask(Method::GET, "/v1/heartbeat", Some(&token)).await.expect("an answer").0,
        200
    );
    // (who shows the token, what he is told)
    for (thief, message) in
        [(None, "the client certificate is missing"), (Some("fw"), "the client certificate is another machine's")]
    {
        let (status, body) =
            site.as_client(thief).ask(Method::GET, "/v1/heartbeat", Some(&token)).await.expect("an answer");
        assert_eq!((status, body.contains(message)), (401, true), "a stolen token is worth nothing: {body}");
    }
    let (status, list) = site.as_client(None).ask(Method::GET, "/v1/pki/crl", None).await.expect("an answer");
    assert_eq!((status, list.contains("BEGIN X509 CRL")), (200, true));
}

#[tokio::test]
async fn a_revoked_certificate_ends_at_once_what_it_opened() {
    let mut site = Site::start(|_| ()).await;
    let (fw, edge) = (site.as_client(Some("fw")), site.as_client(Some("edge")));
    assert_eq!(fw.status(Method::GET, "/v1/decisions").await, 200);
    let token = edge.token().await;
    let mut feed = SseFeed::new(site.endpoint(Some("fw")), None, PollOptions::default()).expect("a feed");
    assert_eq!(feed.next().await, Ok(Update::Snapshot(Vec::new())));
    let now = Timestamp::now();
    for name in ["fw", "edge"] {
        site.authority.revoke(name, now).expect("revoked");
    }
    site.certificates.reload().expect("readable files");
    assert_eq!(fw.status(Method::GET, "/v1/decisions").await, 403, "also on the connection that was open");
    let told = r#"{"code":401,"message":"certificate revoked by CRL"}"#.to_owned();
    assert_eq!(edge.ask(Method::POST, "/v1/watchers/login", None).await, Ok((401, told.clone())));
    assert_eq!(edge.ask(Method::GET, "/v1/heartbeat", Some(&token)).await, Ok((401, told)), "its token is over, too");
    // the stream is cut off, and the feed is refused when it comes back
    loop {
        match feed.next().await {
            Err(FeedError::Refused { .. }) => break,
            Err(FeedError::Unreachable { .. }) => {}
            other => panic!("it was revoked: {other:?}"),
        }
    }
    assert_eq!(site.as_client(Some("boss")).status(Method::GET, "/v1/bouncers").await, 200, "nobody else is");
}

#[tokio::test]
async fn strangers_and_those_whose_time_is_over_do_not_get_past_the_handshake() {
    let mut site = Site::start(|_| ()).await;
    let days = |count: i64| SignedDuration::from_hours(24 * count);
    let past = Timestamp::now().checked_sub(days(3)).expect("within range");
    let late = Request { name: "late", role: Role::Bouncer, hosts: &[], lifetime: days(1) };
    site.authority.issue(&late, past).expect("a certificate");
    let error = site.as_client(Some("late")).ask(Method::GET, "/v1/decisions", None).await.expect_err("it is over");
    assert!(error.to_lowercase().contains("expired"), "{error}");

    let now = Timestamp::now();
    let mut other = Authority::init(&site.folder.path().join("other"), "site", now).expect("an authority");
    other
        .issue(&Request { name: "fw", role: Role::Bouncer, hosts: &[], lifetime: LIFETIME }, now)
        .expect("a certificate");
    let transport = Transport { certificate: Some(other.files("fw")), ..site.transport(None) };
    let http = Endpoint::new(&site.url).with(transport).http("x/1").expect("readable certificates");
    let stranger = Caller { http, url: site.url.clone() };
    assert!(stranger.ask(Method::GET, "/v1/decisions", None).await.is_err(), "signed by somebody of the same name");

    let trusting = Transport { authority: Some(other.certificate_path()), certificate: None };
    let http = Endpoint::new(&site.url).with(trusting).http("x/1").expect("readable certificates");
    let careful = Caller { http, url: site.url.clone() };
    assert!(careful.ask(Method::GET, "/health", None).await.is_err(), "who trusts another authority does not trust us");

    let strict = Site::start(|tls| tls.clients = ClientCertificates::Required).await;
    assert!(strict.as_client(None).ask(Method::GET, "/health", None).await.is_err());
    assert_eq!(strict.as_client(Some("fw")).status(Method::GET, "/health").await, 200);
    let deaf = Site::start(|tls| tls.clients = ClientCertificates::Off).await;
    assert_eq!(deaf.as_client(Some("fw")).status(Method::GET, "/v1/decisions").await, 403);
}

#[tokio::test]
async fn another_unit_is_told_so() {
    let site = Site::start(|tls| {
        tls.agents = vec!["log-processors".into()];
        tls.bouncers.clear();
    })
    .await;
    let told = site.as_client(Some("edge")).ask(Method::POST, "/v1/watchers/login", None).await;
    let message = r#"{"code":401,"message":"organisational unit [\"agent\"] is not among [\"log-processors\"]"}"#;
    assert_eq!(told, Ok((401, message.into())));
    assert_eq!(site.as_client(Some("fw")).status(Method::GET, "/v1/decisions").await, 403, "nobody is listed");
    assert!(site.service.bouncers().is_empty() && site.service.machines().is_empty());
}

#[tokio::test]
async fn certificates_are_read_again_and_bad_ones_are_not_taken() {
    let mut site = Site::start(|_| ()).await;
    let fw = site.as_client(Some("fw"));
    assert_eq!(fw.status(Method::GET, "/v1/decisions").await, 200);
    let served = async |site: &Site| {
        let builder = reqwest::Client::builder().tls_info(true).tls_danger_accept_invalid_certs(true);
        let answer = builder.build().expect("a client").get(format!("{}/health", site.url)).send().await;
        let answer = answer.expect("an answer");
        let info = answer.extensions().get::<reqwest::tls::TlsInfo>().expect("it was TLS");
        info.peer_certificate().expect("it has one").to_vec()
    };
    let first = served(&site).await;
    let (certificate, _) = site.authority.files("api");
    std::fs::write(&certificate, "not a certificate").expect("writable");
    let error = site.certificates.reload().expect_err("garbage").to_string();
    assert!(error.contains("holds no certificate that can be read"), "{error}");
    assert_eq!(served(&site).await, first, "what was there stays in force");
    site.authority.renew("api", None, Timestamp::now()).expect("a new one");
    site.certificates.reload().expect("readable files");
    assert_ne!(served(&site).await, first, "new connections see the new one");
    assert_eq!(fw.status(Method::GET, "/v1/decisions").await, 200, "the ones before go on");

    let list = site.authority.list_path();
    std::fs::write(&list, "").expect("writable");
    assert!(site.certificates.reload().is_err(), "no list is not an empty list");
    std::fs::remove_file(&list).expect("writable");
    assert!(site.certificates.reload().is_err());
    assert_eq!(fw.status(Method::GET, "/v1/decisions").await, 200);
}

#[tokio::test]
async fn a_machine_with_a_certificate_pushes_alerts() {
    let site = Site::start(|_| ()).await;
    let client = Client::new(site.endpoint(Some("edge")), Credentials::Certificate).expect("a client");
    let alerts = [serde_json::from_value(alert("Ip", "192.0.2.4")).expect("an alert")];
    assert_eq!(client.push(&alerts).await, Ok(vec![1]));
    client.heartbeat().await.expect("it lives");
    assert!(site.service.machines()[0].last_heartbeat.is_some());
}

#[tokio::test]
async fn a_key_opens_what_it_is_for_from_where_it_may() {
    let server =
        Running::start_with(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")]).await;
    let office = || vec!["198.51.100.0/24".parse().expect("a net")];
    let keys: [(&str, &[Right], Vec<ipnet::IpNet>); 4] = [
        ("reads", &[Right::Read], Vec::new()),
        ("pushes", &[Right::Push], Vec::new()),
        ("rules", &[Right::Admin], Vec::new()),
        ("office", &[Right::Read, Right::Admin], office()),
    ];
    for (name, rights, ranges) in keys {
        let new = NewBouncer { name: name.into(), key: Some(name.into()), rights: rights.to_vec(), ranges };
        let _ = server.service.add_bouncer(new).await.expect("a key");
    }
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let body = json!([alert("Ip", "192.0.2.77")]).to_string();
    let elsewhere = "192.0.2.200";
    // (key, from where, method, path, status)
    let cases = [
        ("reads", elsewhere, &get, "/v1/decisions", 200),
        ("reads", elsewhere, &post, "/v1/alerts", 401),
        ("reads", elsewhere, &get, "/v1/bouncers", 403),
        ("reads", elsewhere, &delete, "/v1/decisions", 401),
        ("pushes", elsewhere, &post, "/v1/alerts", 201),
        ("pushes", elsewhere, &get, "/v1/decisions", 403),
        ("pushes", elsewhere, &Method::HEAD, "/v1/decisions/stream", 403),
        ("pushes", elsewhere, &get, "/v1/alerts", 401),
        ("pushes", elsewhere, &delete, "/v1/decisions", 401),
        ("pushes", elsewhere, &get, "/v1/bouncers", 403),
        ("rules", elsewhere, &get, "/v1/bouncers", 200),
        ("rules", elsewhere, &delete, "/v1/alerts", 200),
        ("rules", elsewhere, &get, "/metrics", 200),
        ("rules", elsewhere, &get, "/v1/decisions", 200),
        ("office", "198.51.100.7", &get, "/v1/decisions", 200),
        ("office", "198.51.100.7", &get, "/v1/bouncers", 200),
        ("office", elsewhere, &get, "/v1/decisions", 403),
        ("office", elsewhere, &Method::HEAD, "/v1/decisions/stream", 403),
        ("office", elsewhere, &get, "/v1/bouncers", 403),
        ("nobody", elsewhere, &get, "/v1/decisions", 403),
    ];
    for (key, ip, method, path, status) in cases {
        let headers = [("x-api-key", key), ("x-forwarded-for", ip)];
        let body = if *method == post { &body } else { "" };
        let (found, answer) = server.send(method.clone(), path, &headers, body).await;
        assert_eq!(found, status, "{key} from {ip}: {method} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_key_is_replaced_without_a_gap() {
    let server = Running::start().await;
    let opens = async |key: &str| server.send(Method::GET, "/v1/decisions", &[("x-api-key", key)], "").await.0 == 200;
    let rotate = async |key: &str, hours| {
        let grace = SignedDuration::from_hours(hours);
        let (_, receipt) = server.service.rotate_bouncer("fw", Some(key.into()), grace).await.expect("rotated");
        receipt.durable().await.expect("durable");
    };
    rotate("k2", 1).await;
    assert!(opens("k1").await && opens("k2").await, "both for a while");
    rotate("k3", 0).await;
    assert!(!opens("k1").await && !opens("k2").await && opens("k3").await);
    assert_eq!(server.service.bouncers().len(), 1, "it is one bouncer all the time");
    let mut feed =
        SseFeed::new(Endpoint::new(&server.base), Some("k3".into()), PollOptions::default()).expect("a feed");
    assert!(matches!(feed.next().await, Ok(Update::Snapshot(_))));
    let _ = server.service.delete_bouncer("fw").await.expect("deleted");
    assert!(!opens("k3").await);
    loop {
        match feed.next().await {
            Err(FeedError::Refused { .. }) => break,
            Err(FeedError::Unreachable { .. }) => {}
            other => panic!("its key is gone: {other:?}"),
        }
    }
}

#[tokio::test]
async fn silent_accounts_are_pruned() {
    let server = Running::start().await;
    let (names, _) = server.service.prune_bouncers(SignedDuration::from_hours(1)).await.expect("pruned");
    assert!(names.is_empty(), "they are too young");
    assert_eq!(server.as_bouncer("/v1/decisions").await.0, 200);
    let (names, _) = server.service.prune_bouncers(SignedDuration::ZERO).await.expect("pruned");
    assert_eq!(names, ["fw"]);
    let register = json!({"machine_id": "pending", "password": "pw"}).to_string();
    assert_eq!(server.send(Method::POST, "/v1/watchers", &[], &register).await.0, 201);
    let (names, _) = server.service.prune_machines(SignedDuration::ZERO, true).await.expect("pruned");
    assert_eq!(names, ["pending"]);
    let (names, _) = server.service.prune_machines(SignedDuration::ZERO, false).await.expect("pruned");
    assert_eq!(names, ["edge"]);
    assert_eq!(server.as_machine(Method::GET, "/v1/heartbeat", "").await.0, 401, "its token is over");
}

#[tokio::test]
async fn an_account_cannot_send_requests_without_end() {
    let server = Running::start_with(|config| config.requests_per_second = std::num::NonZeroU32::MIN).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(server.as_bouncer("/v1/decisions").await.0);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(server.as_machine(Method::GET, "/v1/heartbeat", "").await.0, 200, "others have a limit of their own");
}

#[tokio::test]
async fn counters_speak_the_fields_language() {
    let server = Running::start().await;
    let body = json!([alert("Ip", "192.0.2.77")]).to_string();
    assert_eq!(server.as_machine(Method::POST, "/v1/alerts", &body).await.0, 201);
    assert_eq!(server.as_machine(Method::GET, "/v1/heartbeat", "").await.0, 200);
    assert_eq!(server.as_bouncer("/v1/decisions?ip=192.0.2.77").await.0, 200);
    assert_eq!(server.as_bouncer("/v1/decisions?ip=192.0.2.78").await.0, 200);
    let (_, text) = server.send(Method::GET, "/metrics", &[], "").await;
    let expected = [
        r#"cs_lapi_route_requests_total{route="/v1/alerts",method="POST"} 1"#,
        r#"cs_lapi_machine_requests_total{machine="edge",route="/v1/alerts",method="POST"} 1"#,
        r#"cs_lapi_bouncer_requests_total{bouncer="fw",route="/v1/decisions",method="GET"} 2"#,
        r#"cs_lapi_decisions_ok_total{bouncer="fw"} 1"#,
        r#"cs_lapi_decisions_ko_total{bouncer="fw"} 1"#,
        r#"cs_lapi_request_duration_seconds_count{endpoint="/v1/decisions",method="GET"} 2"#,
        r#"cs_lapi_request_duration_seconds_bucket{le="0.005",endpoint="/v1/decisions",method="GET"}"#,
        r#"cs_active_decisions{reason="acme/ssh-bf",origin="crowdsec",action="ban"} 1"#,
        r#"cs_alerts{reason="acme/ssh-bf"} 1"#,
        r#"cs_machines_last_heartbeat_timestamp{machine="edge"} "#,
        r#"cs_info{version=""#,
    ];
    for line in expected {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

/// Neither logs nor errors nor what is printed for debugging holds a secret.
#[tokio::test]
async fn secrets_stay_secret() {
    let site = Site::start(|_| ()).await;
    let key: PathBuf = site.authority.files("edge").1;
    let key = std::fs::read_to_string(key).expect("it was written");
    let line = key.lines().nth(1).expect("a line of it");
    let wrong =
        Transport { certificate: Some((key_as_certificate(&site), site.authority.files("edge").1)), authority: None };
    let error = Endpoint::new(&site.url).with(wrong).http("x/1").expect_err("a key is no certificate").to_string();
    let shown = format!("{error} {:?} {:?} {:?}", site.service, site.endpoint(Some("edge")), site.authority);
    assert!(!shown.contains(line) && !shown.contains("PRIVATE"), "{shown}");
}

fn key_as_certificate(site: &Site) -> PathBuf {
    let path = site.folder.path().join("wrong.pem");
    std::fs::copy(site.authority.files("fw").1, &path).expect("writable");
    path
}
