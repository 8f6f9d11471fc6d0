//! A receiver in the test, which says what it wants.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::batch::tests::{key, placed};
use super::config::RawConfig;
use super::*;
use crate::engine::plan::{self, Placement, Plan};
use crate::engine::{Bouncer, Extent, Never, Wanted};
use crate::told::Told;

/// What a receiver was sent, in order.
#[derive(Debug, Clone)]
struct Seen {
    signature: String,
    idempotency: String,
    body: Value,
}

#[derive(Debug, Default)]
struct Receiver {
    seen: Vec<Seen>,
    /// Status and body of the next answers; 200 when there are no more.
    answers: VecDeque<(u16, &'static str)>,
    /// Batches with this value are refused for good.
    poison: Option<&'static str>,
}

type Shared = Arc<Mutex<Receiver>>;

fn with<T>(receiver: &Shared, look: impl FnOnce(&mut Receiver) -> T) -> T {
    look(&mut receiver.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A receiver and a target that sends to it. `rest` is more of the configuration.
async fn pair(folder: &std::path::Path, rest: &str) -> (Shared, Told<Webhook>) {
    let receiver = Shared::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    let shared = Arc::clone(&receiver);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move {
                    let header = |name: &str| {
                        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
                    };
                    let (signature, idempotency) = (header("x-guard-signature"), header("idempotency-key"));
                    let bytes = request.into_body().collect().await?.to_bytes();
                    let secret = "a secret of some length".into();
                    let time = signature.strip_prefix("t=").and_then(|rest| rest.split(',').next()?.parse().ok());
                    let time = Timestamp::from_second(time.unwrap_or(0)).unwrap_or_default();
                    assert_eq!(sign::signature(&secret, time, &bytes), signature, "the receiver can verify it");
                    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                    let (status, text) = with(&shared, |receiver| {
                        receiver.seen.push(Seen { signature, idempotency, body });
                        let poisoned =
                            receiver.poison.is_some_and(|poison| String::from_utf8_lossy(&bytes).contains(poison));
                        if poisoned { (422, "no") } else { receiver.answers.pop_front().unwrap_or((200, "")) }
                    });
                    let mut answer = Response::new(Full::<hyper::body::Bytes>::from(text));
                    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                    Ok::<_, hyper::Error>(answer)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    std::fs::write(folder.join("secret"), "a secret of some length\n").expect("a writable folder");
    let text = format!("url: http://{address}/hook\nsecret_file: {}/secret\n{rest}", folder.display());
    let raw: RawConfig = serde_saphyr::from_str(&text).expect("valid test YAML");
    let webhook = Told::new(Webhook::open("hook", raw.check().expect("a valid test configuration")).expect("a client"));
    (receiver, webhook)
}

fn adding(nets: &[&str]) -> Plan {
    let change = |net: &&str| plan::Change { key: key(net), before: None, after: Some(placed(600, &[])), why: None };
    Plan { changes: nets.iter().map(change).collect() }
}

fn values(seen: &Seen) -> Vec<String> {
    let changes = seen.body["changes"].as_array().cloned().unwrap_or_default();
    changes
        .iter()
        .map(|change| format!("{} {}", change["op"].as_str().unwrap_or(""), change["value"].as_str().unwrap_or("")))
        .collect()
}

fn now() -> Timestamp {
    Timestamp::now()
}

#[tokio::test]
async fn the_same_batch_is_sent_until_it_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (receiver, mut webhook) = pair(folder.path(), "").await;
    with(&receiver, |receiver| receiver.answers = [(503, ""), (500, "")].into());
    webhook.apply(&adding(&["203.0.113.9"]), now()).await.expect("the third attempt goes through");
    webhook.apply(&adding(&["203.0.113.10"]), now()).await.expect("the receiver is well");
    let seen = with(&receiver, |receiver| receiver.seen.clone());
    assert_eq!(seen.len(), 4);
    assert!(seen[..3].iter().all(|one| one.idempotency == seen[0].idempotency && one.body == seen[0].body));
    assert_ne!(seen[3].idempotency, seen[0].idempotency);
    assert_eq!(seen[3].body["seq"].as_u64(), seen[0].body["seq"].as_u64().map(|seq| seq + 1), "in order");
    assert_eq!(seen[0].body["batch"], seen[0].idempotency.as_str());
    assert_eq!((&seen[0].body["schema"], &seen[0].body["full"]), (&json!(1), &json!(false)));
    assert_eq!(values(&seen[0]), ["add 203.0.113.9"]);
}

#[tokio::test]
async fn what_a_receiver_says_is_heard() {
    // (status, body, attempts, what the engine is told)
    let cases = [
        (401, "", 1, "refuses our credentials"),
        (403, "", 1, "refuses our credentials"),
        (500, "", 3, "500 Internal Server Error"),
        (302, "", 3, "302 Found"),
        (409, "{\"resync\":true}", 3, "it asks for everything"),
    ];
    for (status, body, attempts, told) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (receiver, mut webhook) = pair(folder.path(), "").await;
        with(&receiver, |receiver| receiver.answers = std::iter::repeat_n((status, body), 9).collect());
        let error = webhook.apply(&adding(&["203.0.113.9"]), now()).await.expect_err("it is not taken").to_string();
        assert!(error.contains(told), "{status}: {error}");
        assert_eq!(with(&receiver, |receiver| receiver.seen.len()), attempts, "{status}");
    }
}

#[tokio::test]
async fn one_entry_that_is_refused_does_not_hold_up_the_others() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (receiver, mut webhook) = pair(folder.path(), "").await;
    with(&receiver, |receiver| receiver.poison = Some("203.0.113.11"));
    let nets = ["203.0.113.9", "203.0.113.10", "203.0.113.11", "203.0.113.12", "203.0.113.13"];
    let outcome = webhook.apply(&adding(&nets), now()).await.expect("the others are taken");
    let refused: Vec<String> = outcome.refused.iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
    assert_eq!(refused, ["ban Ip 203.0.113.11: 422 Unprocessable Entity no"]);
    let seen = with(&receiver, |receiver| receiver.seen.clone());
    let taken: Vec<String> = seen.iter().flat_map(values).filter(|value| !value.ends_with(".11")).collect();
    assert!(nets.iter().filter(|net| !net.ends_with(".11")).all(|net| taken.contains(&format!("add {net}"))));
}

#[tokio::test]
async fn everything_goes_in_parts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (receiver, mut webhook) = pair(folder.path(), "batch: 2").await;
    let nets = ["203.0.113.9", "203.0.113.10", "203.0.113.11"];
    let placement: Placement = nets.iter().map(|net| (key(net), placed(600, &[]))).collect();
    let never = Never::default();
    webhook.rebuild(Wanted::of(&placement, &never), Extent::Exactly, now()).await.expect("it is taken");
    webhook.rebuild(Wanted::of(&Placement::new(), &never), Extent::Exactly, now()).await.expect("it is taken");
    let seen = with(&receiver, |receiver| std::mem::take(&mut receiver.seen));
    let parts: Vec<_> = seen.iter().map(|seen| (seen.body["part"].clone(), values(seen).len())).collect();
    assert_eq!(parts, [(json!({"index":1,"of":2}), 2), (json!({"index":2,"of":2}), 1), (json!({"index":1,"of":1}), 0)]);
    assert!(seen.iter().all(|seen| seen.body["full"] == true && seen.signature.contains("v1=")));
    webhook.rebuild(Wanted::of(&placement, &never), Extent::AtLeast, now()).await.expect("it is taken");
    let seen = with(&receiver, |receiver| std::mem::take(&mut receiver.seen));
    assert!(seen.iter().all(|seen| seen.body["full"] == false), "an old state takes nothing away");
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_told_without_its_address() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("secret"), "a secret of some length").expect("a writable folder");
    // a port that was free a moment ago
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let text = format!("url: http://127.0.0.1:{port}/?key=hidden\nsecret_file: {}/secret", folder.path().display());
    let raw: RawConfig = serde_saphyr::from_str(&text).expect("valid test YAML");
    let mut webhook =
        Told::new(Webhook::open("hook", raw.check().expect("a valid test configuration")).expect("a client"));
    let error = webhook.apply(&adding(&["203.0.113.9"]), now()).await.expect_err("nobody is there").to_string();
    assert!(error.contains("`hook`") && !error.contains("hidden"), "{error}");
    assert!(webhook.check(Vec::new()).await.is_ok_and(|check| !check.is_good()));
}

#[test]
fn mistakes_are_told_all_at_once() {
    let parse = |text: &str| {
        let raw: RawConfig = serde_saphyr::from_str(text).expect("valid test YAML");
        raw.check().map(|_| ()).map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    };
    let text = "url: http://hook.example/\nsecret_file: /nowhere\nescape: xml\nbatch: 0\nheaders: { 'a b': c }";
    insta::assert_snapshot!(parse(text).expect_err("many mistakes"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("secret"), "a secret of some length").expect("a writable folder");
    std::fs::write(folder.path().join("template"), "[{{#changes}}{{value}},{{/changes}}]").expect("a writable folder");
    let folder = folder.path().display();
    let told = parse(&format!(
        "url: https://user:pw@hook.example/\nsecret_file: {folder}/secret\ntemplate: {folder}/template"
    ));
    let told = told.expect_err("two mistakes");
    assert!(
        told.contains("`authorization_file`") && told.contains("the template makes no JSON of a batch of 1 changes"),
        "{told}"
    );
}
