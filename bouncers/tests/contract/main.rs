//! Bouncers against servers that behave as the APIs of others do.
//!
//! Every request is held against the description of its API; faults are injected; what counts in the end is what the
//! server holds.

mod engine;
mod lists;
mod opnsense;
mod pfsense;
mod proxmox;
mod schema;
mod server;
mod ssh;

use bouncers::error::Class;
use bouncers::remote::http::Call;
use bouncers::remote::{Endpoint, Http};
use reqwest::Method;
use serde_json::json;

use crate::schema::Schema;
use crate::server::{Api, Contract, FAULTS, Fault, Reply, Request};

/// Counts what it is told.
struct Counter(usize);

impl Api for Counter {
    fn answer(&mut self, request: &Request) -> Reply {
        let by = request.field("by").or_else(|| Some(request.json().get("by")?.to_string()));
        self.0 += by.and_then(|by| by.parse().ok()).unwrap_or(1);
        Reply::json(200, &json!({ "seen": self.0 }))
    }
}

fn http(url: &str) -> Http {
    Http::open("fw", &Endpoint { urls: vec![url.to_owned()], ca: None }).expect("nothing is needed")
}

#[tokio::test]
async fn what_goes_wrong_on_the_wire_is_told_apart() {
    let server = Contract::serve(Counter(0), None).await;
    let mut http = http(&server.url);
    // (fault, whether it was done, what that means for the next try)
    let cases = [
        (Fault::Status(503, Some(7)), false, Some(Class::Passing(Some(std::time::Duration::from_secs(7))))),
        (Fault::Status(429, None), false, Some(Class::Passing(None))),
        (Fault::Status(404, None), false, None),
        (Fault::Status(302, None), false, Some(Class::Lasting)),
        (Fault::CutRequest, false, Some(Class::Passing(None))),
        (Fault::CutAnswer, true, Some(Class::Passing(None))),
        (Fault::Slow(20), true, None),
        (Fault::Garbage, true, Some(Class::Passing(None))),
        (Fault::Expired, false, Some(Class::Unauthorised)),
    ];
    for (fault, done, class) in cases {
        let before = server.api().0;
        server.break_next([Some(fault)]);
        let outcome = match http.send(Call::new(Method::POST, "/x")).await {
            Ok(answer) => answer.json::<serde_json::Value>().map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(outcome.err().map(|error| error.class()), class, "{fault:?}");
        assert_eq!(server.api().0 - before, usize::from(done), "{fault:?}");
    }
    server.break_next([Some(Fault::Silence)]);
    let waiting = http.send(Call::get("/x").patient(std::time::Duration::from_millis(100))).await;
    assert_eq!(waiting.expect_err("nobody answers").to_string(), "`fw` does not answer as it should: timed out");
    server.break_next(FAULTS.map(Some));
    server.heal();
    assert!(http.send(Call::get("/x")).await.is_ok_and(|answer| answer.is_success()));
    let before = server.api().0;
    let bodies =
        [Call::new(Method::POST, "/x").form(&[("by", "2")]), Call::new(Method::POST, "/x").json(&json!({ "by": 3 }))];
    for call in bodies {
        assert!(http.send(call).await.is_ok());
    }
    assert_eq!(server.api().0 - before, 5);
    assert_eq!((server.written().len(), server.asked().len()), (11, 0));
    server.assert_valid();
}

#[tokio::test]
async fn when_one_address_does_not_answer_the_next_is_asked() {
    let server = Contract::serve(Counter(0), None).await;
    let endpoint = Endpoint { urls: vec!["http://127.0.0.1:1".to_owned(), server.url.clone()], ca: None };
    let mut http = Http::open("fw", &endpoint).expect("nothing is needed");
    assert!(http.send(Call::get("/x")).await.is_err());
    assert!(http.send(Call::get("/x")).await.is_ok());
}

#[test]
fn what_a_description_does_not_allow_is_found() {
    let Some(schema) = Schema::load("pfsense-restapi-subset.openapi.yaml", "") else { return };
    let request = |method: &str, path: &str, query: &[(&str, &str)], body: serde_json::Value| Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: if body.is_null() { Vec::new() } else { body.to_string().into_bytes() },
    };
    let (alias, none) = ("/api/v2/firewall/alias", serde_json::Value::Null);
    // (what, request, how many faults)
    let cases = [
        (
            "as described",
            request("PATCH", alias, &[], json!({ "id": 1, "address": ["192.0.2.1/32"], "apply": false })),
            0,
        ),
        ("no id", request("PATCH", alias, &[], json!({ "address": [] })), 1),
        ("a number as text", request("PATCH", alias, &[], json!({ "id": "1" })), 1),
        ("an unknown field", request("PATCH", alias, &[], json!({ "id": 1, "adress": [] })), 1),
        ("an unknown type", request("POST", alias, &[], json!({ "type": "urltable" })), 1),
        ("a name too long", request("POST", alias, &[], json!({ "name": "a".repeat(32) })), 1),
        ("a detail of two", request("POST", alias, &[], json!({ "detail": ["a||b"] })), 1),
        ("no body", request("POST", alias, &[], none.clone()), 1),
        ("a missing parameter", request("GET", "/api/v2/diagnostics/table", &[], none.clone()), 1),
        ("an unknown parameter", request("GET", "/api/v2/firewall/aliases", &[("nam", "x")], none.clone()), 1),
        ("an unknown method", request("PUT", alias, &[], none.clone()), 1),
        ("an unknown path", request("GET", "/api/v2/firewall/rules", &[], none), 1),
    ];
    for (what, request, faults) in cases {
        assert_eq!(schema.faults(&request).len(), faults, "{what}: {:?}", schema.faults(&request));
    }
    let ziti = Schema::load("ziti-edge-management.swagger.yml", "/edge/management/v1").expect("it lies beside");
    let disable = |body| request("POST", "/edge/management/v1/identities/a/disable", &[], body);
    assert_eq!(ziti.faults(&disable(json!({ "durationMinutes": 3 }))), [""; 0]);
    assert_eq!(ziti.faults(&disable(json!({}))).len(), 1);
}
