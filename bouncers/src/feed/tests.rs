//! What consumers read, and how they are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;

use http_body_util::BodyExt;
use hyper::http::HeaderMap;
use hyper::{Method, Request};
use ipnet::IpNet;
use jiff::SignedDuration;
use proptest::prelude::*;

use super::config::RawConfig;
use super::query::{Format, Query};
use super::render::{Heading, Rendered, render};
use super::rows::tests::ban;
use super::*;
use crate::engine::Never;
use crate::engine::desired::tests::second;
use crate::engine::plan::Placement;
use crate::engine::span::{Family, Span};
use crate::serve::Peer;

fn rows() -> Rows {
    let bans = [
        ("203.0.113.0/25", 4000, "lists"),
        ("203.0.113.128/25", 4000, "lists"),
        ("192.0.2.9", 3600, "cscli"),
        ("192.0.2.8", 60, "cordon"),
        ("2001:db8:1::/64", 90_000, "cordon"),
    ];
    Rows::default().with(bans.map(|(net, until, origin)| ban(net, until, origin)), second(0))
}

fn rendered(rows: &Rows, format: Format, query: &str) -> Rendered {
    let query = Query::new(format).parse(query).expect("a valid test query");
    render(rows, &query, &Heading { name: "cordon", sequence: 7, now: second(0) })
}

fn text(rows: &Rows, format: Format, query: &str) -> String {
    String::from_utf8(rendered(rows, format, query).body).expect("text")
}

#[test]
fn every_format() {
    for format in Format::all() {
        insta::assert_snapshot!(format.name(), text(&rows(), format, ""));
    }
}

#[test]
fn parameters_choose_and_shape() {
    // (query, entries)
    let cases = [
        ("", "192.0.2.8/31 203.0.113.0/24 2001:db8:1::/64"),
        ("family=4", "192.0.2.8/31 203.0.113.0/24"),
        ("family=6", "2001:db8:1::/64"),
        ("aggregate=0", "192.0.2.8 192.0.2.9 203.0.113.0/25 203.0.113.128/25 2001:db8:1::/64"),
        ("aggregate=0&hosts=cidr&family=4&exclude_origin=lists", "192.0.2.8/32 192.0.2.9/32"),
        ("origin=lists", "203.0.113.0/24"),
        ("origin=LISTS,cscli", "192.0.2.9 203.0.113.0/24"),
        ("action=captcha", ""),
        ("action=captcha&placeholder=192.0.2.1", "192.0.2.1"),
        ("action=captcha&placeholder=192.0.2.1&hosts=cidr", "192.0.2.1/32"),
        ("placeholder=192.0.2.1&family=6", "2001:db8:1::/64"),
        ("max=1", "192.0.2.9"),
        ("max=2", "192.0.2.9 2001:db8:1::/64"),
        ("max=2&family=4", "192.0.2.8/31 203.0.113.0/24"),
        ("max=3", "192.0.2.8/31 203.0.113.0/24 2001:db8:1::/64"),
        ("max=3&aggregate=0", "192.0.2.8 192.0.2.9 2001:db8:1::/64"),
    ];
    for (query, expected) in cases {
        let body = text(&rows(), Format::Text, query);
        let entries: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(entries.join(" "), expected, "{query}");
        let cut = query.starts_with("max=1") || query == "max=2" || query == "max=3&aggregate=0";
        assert!(body.starts_with('#') && body.contains(if cut { "truncated yes" } else { "truncated no" }), "{query}");
    }
}

#[test]
fn what_the_rails_have_cut_is_not_told() {
    let (key, change) = ban("192.0.2.0/29", 600, "cordon");
    let pieces = ["192.0.2.0/31", "192.0.2.3", "192.0.2.4/30"];
    let pieces = pieces.map(|net| Span::of(model::scope::parse_net(net).expect("a valid test prefix")));
    let change = change.map(|(placed, why)| (Placed { pieces: Some(pieces.into()), ..placed }, why));
    let rows = Rows::default().with([(key, change)], second(0));
    for format in Format::all() {
        let body = text(&rows, format, "");
        assert!(!body.contains("192.0.2.0/29") && !body.contains("192.0.2.2"), "{body}");
        assert!(body.contains("192.0.2.3") && body.contains("192.0.2.4/30"), "{body}");
    }
}

#[test]
fn reasons_cannot_break_out_of_a_body() {
    let (key, change) = ban("192.0.2.9", 600, "a\"b,c\n192.0.2.10");
    let rows = Rows::default().with([(key, change)], second(0));
    let json: serde_json::Value = serde_json::from_str(&text(&rows, Format::Json, "")).expect("JSON");
    assert_eq!(json["entries"][0]["origin"], "a\"b,c\n192.0.2.10");
    assert_eq!(text(&rows, Format::Csv, "").lines().count(), 3);
}

/// The entries that pfSense makes of a downloaded list; `None` if it keeps the list before.
fn url_table(body: &str) -> Option<BTreeSet<IpNet>> {
    if body.is_empty() {
        return None;
    }
    let mut entries = BTreeSet::new();
    for line in body.lines() {
        let line = line.trim_start().split(['#', ';', ' ', '\t']).next().unwrap_or_default();
        // tags of HTML go
        let mut inside = false;
        let line: String = line
            .chars()
            .filter(|&letter| {
                inside |= letter == '<';
                let kept = !inside;
                inside &= letter != '>';
                kept
            })
            .collect();
        entries.extend(line.parse::<IpNet>().ok().or_else(|| line.parse::<IpAddr>().ok().map(IpNet::from)));
    }
    Some(entries)
}

#[test]
fn an_empty_list_empties_the_table_of_a_firewall() {
    let empty = Rows::default();
    assert_eq!(url_table(&text(&empty, Format::Text, "")), Some(BTreeSet::new()));
    assert_eq!(url_table(""), None, "an empty body would keep the old list");
    for format in Format::all() {
        let Rendered { body, count, .. } = rendered(&empty, format, "");
        assert!(count == 0 && !body.is_empty(), "{format:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_firewall_blocks_exactly_what_is_banned(
        // (last two octets, length, seconds it lasts)
        bans in proptest::collection::vec((any::<u16>(), 16..=32u8, 0..3i64), 0..30),
        probes in proptest::collection::vec(any::<u16>(), 30),
        aggregate in any::<bool>(),
    ) {
        let net = |low: u16, length: u8| {
            let address = std::net::Ipv4Addr::from_bits(0xcb00_0000 | u32::from(low));
            ipnet::Ipv4Net::new(address, length).expect("a length up to 32").trunc().to_string()
        };
        let all: Vec<_> = bans.iter().map(|&(low, length, until)| ban(&net(low, length), until * 10, "cordon")).collect();
        let mut holds = BTreeMap::new();
        for (key, change) in &all {
            holds.insert(key.net().expect("a ban of addresses"), change.as_ref().expect("an addition").0.until);
        }
        let rows = Rows::default().with(all, second(-1));
        let query = if aggregate { "" } else { "aggregate=0" };
        let table = url_table(&text(&rows, Format::Text, query)).expect("no body is empty");
        let ends = bans.iter().map(|&(low, ..)| low);
        for low in probes.into_iter().chain(ends) {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0xcb00_0000 | u32::from(low)));
            let banned = holds.iter().any(|(net, until)| *until > second(0) && net.contains(&address));
            prop_assert_eq!(table.iter().any(|net| net.contains(&address)), banned, "{}", address);
        }
    }

    #[test]
    fn max_keeps_the_most_important_and_is_never_exceeded(
        bans in proptest::collection::vec((any::<u8>(), 26..=32u8, 1..9i64, 0..3usize), 0..40),
        max in 1..20usize,
        format in proptest::sample::select(vec![Format::Text, Format::Mikrotik, Format::Json]),
    ) {
        let origins = ["lists", "cordon", "cscli"];
        let all: Vec<_> = bans
            .iter()
            .map(|&(octet, length, until, origin)| ban(&format!("192.0.2.{octet}/{length}"), until, origins[origin]))
            .collect();
        let rows = Rows::default().with(all, second(0));
        let Rendered { body, count, truncated } = rendered(&rows, format, &format!("max={max}"));
        prop_assert!(count <= max);
        let whole = rendered(&rows, format, "");
        prop_assert_eq!(truncated, body != whole.body);
        if count > 0 && format == Format::Text {
            let table = url_table(&String::from_utf8(body).expect("text")).expect("no body is empty");
            // among equals the first
            let best = rows.items(second(0)).min_by_key(|item| {
                let place = origins.iter().position(|origin| *origin == item.kind.origin);
                std::cmp::Reverse((place, item.until, item.decision))
            });
            let best = best.expect("there are entries").net;
            prop_assert!(table.iter().any(|net| net.contains(&best)), "{} is in", best);
        }
    }
}

const TOKEN: &str = "0123456789abcdef0123";
const OTHER: &str = "other-token-of-somebody";

fn lists(folder: &std::path::Path) -> Lists {
    let text = format!(
        "listen: unix:{}/feed.sock\nfeeds:\n  cordon: {{}}\n  local: {{ origin: [cordon], prepare: [] }}\nconsumers:\n  \
         hq: {{ token: {TOKEN}, from: [192.0.2.0/24] }}\n  branch: {{ token: {OTHER}, feeds: [local], certificate: Fw.example }}",
        folder.display()
    );
    let raw: RawConfig = serde_saphyr::from_str(&text).expect("valid test YAML");
    Lists::open(&raw.check().expect("a valid test configuration"), Metrics::default())
        .expect("a socket in a new folder")
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

async fn fetch(lists: &Lists, method: Method, path: &str, headers: &[(&str, &str)], names: &[&str]) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let head = request.body(()).expect("a valid test request").into_parts().0;
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let peer = Arc::new(Peer { address: "192.0.2.7".parse().ok(), names });
    let answer = Arc::clone(&lists.service).answer(peer, head, Timestamp::now()).await;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.into_body().collect().await.expect("a body in memory").to_bytes().to_vec();
    Answered { status, headers, body }
}

async fn get(lists: &Lists, path: &str, headers: &[(&str, &str)]) -> Answered {
    fetch(lists, Method::GET, path, headers, &[]).await
}

async fn load(lists: &mut Lists, nets: &[(&str, &str)]) {
    let now = Timestamp::now();
    let until = now + SignedDuration::from_secs(600);
    let entry = |(net, _): &(&str, &str)| (ban(net, 1, "").0, Placed { until, pieces: None });
    let placement: Placement = nets.iter().map(entry).collect();
    let never = Never::default();
    lists.rebuild(Wanted::of(&placement, &never), Extent::Exactly, now).await.expect("memory takes it");
}

#[tokio::test]
async fn nobody_gets_an_empty_list_by_accident() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut lists = lists(folder.path());
    let bearer = format!("Bearer {TOKEN}");
    let answer = get(&lists, "/feed/cordon.txt", &[("Authorization", &bearer)]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "10"));
    load(&mut lists, &[]).await;
    let answer = get(&lists, "/feed/cordon.txt", &[("Authorization", &bearer)]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("# cordon: 0 entries"), "{}", answer.text());
}

#[tokio::test]
async fn who_may_fetch_what() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut lists = lists(folder.path());
    load(&mut lists, &[("203.0.113.9", "cordon")]).await;
    let bearer = format!("bearer {TOKEN}");
    let basic = |token: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("anybody:{token}")))
    };
    let (right, wrong) = (basic(TOKEN), basic("not-the-token-at-all"));
    let by_path = format!("/feed/{TOKEN}/cordon.txt");
    let not_his = format!("/feed/{OTHER}/cordon.txt");
    // (what, path, authorization, names in the certificate, status)
    let cases: &[(&str, &str, &str, &[&str], u16)] = &[
        ("a token in the path", &by_path, "", &[], 200),
        ("a bearer", "/feed/cordon.txt", &bearer, &[], 200),
        ("a password", "/feed/cordon.txt", &right, &[], 200),
        ("a wrong password", "/feed/cordon.txt", &wrong, &[], 401),
        ("nothing", "/feed/cordon.txt", "", &[], 401),
        ("a certificate, but not his feed", "/feed/cordon.txt", "", &["fw.example"], 404),
        ("another certificate", "/feed/local.txt", "", &["x.example"], 401),
        ("a token for another feed", &not_his, "", &[], 404),
        ("no such feed", "/feed/none.txt", &bearer, &[], 404),
        ("no such format", "/feed/cordon.doc", &bearer, &[], 404),
        ("no format", "/feed/cordon", &bearer, &[], 404),
        ("a query that makes no sense", "/feed/cordon.txt?max=none", &bearer, &[], 400),
        ("an unknown parameter", "/feed/cordon.txt?colour=red", &bearer, &[], 400),
        ("elsewhere", "/", &bearer, &[], 404),
    ];
    for (what, path, authorization, names, status) in cases {
        let headers = [("Authorization", *authorization)];
        let headers = if authorization.is_empty() { &headers[..0] } else { &headers[..] };
        let answer = fetch(&lists, Method::GET, path, headers, names).await;
        assert_eq!(answer.status, *status, "{what}");
        assert!(url_table(&answer.text()).is_some_and(|table| table.is_empty() == (*status != 200)), "{what}");
    }
    let posted = fetch(&lists, Method::POST, &by_path, &[], &[]).await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));
    let visits = lists.visits();
    let hq = visits["hq"].as_ref().expect("he has fetched");
    assert_eq!((hq.path.as_str(), hq.status), ("/feed/cordon.txt", 200));
    assert!(visits["branch"].is_none());
}

#[tokio::test]
async fn a_token_counts_only_from_where_it_belongs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut lists = lists(folder.path());
    load(&mut lists, &[]).await;
    let head = Request::builder().uri(format!("/feed/{TOKEN}/cordon.txt")).body(()).expect("a valid test request");
    let peer = Arc::new(Peer { address: "198.51.100.7".parse().ok(), names: Vec::new() });
    let answer = Arc::clone(&lists.service).answer(peer, head.into_parts().0, Timestamp::now()).await;
    assert_eq!(answer.status().as_u16(), 403);
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut lists = lists(folder.path());
    load(&mut lists, &[("203.0.113.9", "cordon"), ("203.0.113.8", "cordon")]).await;
    let path = format!("/feed/{TOKEN}/cordon.txt");
    let first = get(&lists, &path, &[]).await;
    let (tag, date) = (first.header("etag").to_owned(), first.header("last-modified").to_owned());
    assert_eq!(first.header("cache-control"), "max-age=15");
    assert!(first.text().ends_with("\n203.0.113.8/31\n"), "{}", first.text());
    // (what, header, value, status)
    let weak = format!("\"x\", W/{tag}");
    let cases = [
        ("the same", "if-none-match", tag.as_str(), 304),
        ("one of several", "if-none-match", &weak, 304),
        ("another", "if-none-match", "\"x\"", 200),
        ("not since", "if-modified-since", &date, 304),
        ("since long ago", "if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("a broken date", "if-modified-since", "yesterday", 200),
    ];
    for (what, name, value, status) in cases {
        let answer = get(&lists, &path, &[(name, value)]).await;
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(answer.body.is_empty(), status == 304, "{what}");
    }
    let other = get(&lists, &format!("{path}?hosts=cidr"), &[("if-none-match", &tag)]).await;
    assert_eq!(other.status, 200, "another question is another body");

    let packed = loop {
        let answer = get(&lists, &path, &[("accept-encoding", "br, gzip;q=0.5")]).await;
        if answer.header("content-encoding") == "gzip" {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut plain).expect("gzip");
    assert_eq!(plain, first.text());
    let again = [("if-none-match", packed.header("etag")), ("accept-encoding", "gzip")];
    assert_eq!(get(&lists, &path, &again).await.status, 304);
    let refused = get(&lists, &path, &[("accept-encoding", "gzip;q=0")]).await;
    assert_eq!(refused.header("content-encoding"), "");

    load(&mut lists, &[("203.0.113.9", "cordon")]).await;
    let changed = loop {
        let answer = get(&lists, &path, &[("if-none-match", &tag)]).await;
        if answer.status == 200 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(changed.text().ends_with("\n203.0.113.9\n") && changed.header("last-modified") > date.as_str());
}

#[tokio::test]
async fn a_head_over_a_real_connection_has_a_length_and_no_body() {
    let text = format!("listen: 127.0.0.1:0\nconsumers: {{ hq: {{ token: {TOKEN} }} }}");
    let raw: RawConfig = serde_saphyr::from_str(&text).expect("valid test YAML");
    let config = raw.check().expect("a valid test configuration");
    let mut lists = Lists::open(&config, Metrics::default()).expect("a free port");
    load(&mut lists, &[("203.0.113.9", "cordon")]).await;
    let url = format!("http://{}/feed/{TOKEN}/cordon.txt", lists.local_addr().expect("it listens on an address"));
    let client = reqwest::Client::new();
    let whole = client.get(&url).send().await.expect("an answer").text().await.expect("a body");
    let head = client.head(&url).send().await.expect("an answer");
    assert_eq!(head.headers()["content-length"], whole.len().to_string().as_str());
    assert_eq!(head.text().await.expect("no body"), "");
}

#[test]
fn families_are_told_in_order() {
    let body = text(&rows(), Format::Text, "aggregate=0");
    let nets: Vec<IpNet> = body.lines().skip(1).map(|line| model::scope::parse_net(line).expect("an entry")).collect();
    let mut sorted = nets.clone();
    sorted.sort_by_key(|net| (Family::of(*net), Span::of(*net).first, net.prefix_len()));
    assert_eq!(nets, sorted);
}
