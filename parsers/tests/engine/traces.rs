//! What a trace tells, stashes across lines, geo data.

use parsers::{GeoIp, Outcome, Stashes, Trace};

use crate::nodes::load_all;
use crate::support::{Worker, root};

#[test]
fn a_trace_tells_what_every_node_did() {
    let first = "name: acme/login\nonsuccess: next_stage\nnodes:\n  - filter: evt.Line.Labels.type == 'other'\n    grok: {pattern: 'x%{INT:n}', apply_on: Line.Raw}\n  - grok:\n      pattern: 'user %{WORD:user}( id %{INT:id})?'\n      apply_on: Line.Raw\n      statics: [{meta: user, expression: evt.Parsed.user}]\n";
    let second = "name: acme/late\nstatics: [{meta: late, value: v}]\n";
    let third = "name: acme/trusted\nwhitelist: {reason: friend, expression: [\"evt.Meta.user == 'root'\"]}\nstatics: [{meta: n, expression: 'int(evt.Meta.user)'}]\n";
    let (set, table, problems, _) = load_all(&[("s0/a.yaml", first), ("s0/b.yaml", second), ("s1/c.yaml", third)]);
    assert_eq!(problems, Vec::<String>::new());
    let mut worker = Worker::new(&table);
    let mut trace = Trace { with_events: true, ..Trace::default() };
    assert_eq!(worker.run(&set, "syslog", "user root", Some(&mut trace)), Outcome::Whitelisted);

    let ran: Vec<_> =
        trace.entries.iter().map(|entry| (&*entry.stage, &*entry.node.name, entry.node.success)).collect();
    assert_eq!(ran, [("s0", "acme/login", true), ("s1", "acme/trusted", true)]);
    let login = &trace.entries[0].node;
    assert_eq!(login.children[0].filter.as_ref().map(|filter| filter.passed), Some(false));
    assert!(login.children[0].grok.is_none());
    let grok = login.children[1].grok.as_ref().expect("it was tried");
    assert_eq!(grok.matched, Some(0..9));
    let captures: Vec<_> = grok.captures.iter().map(|(alias, range)| (&**alias, range.clone())).collect();
    assert_eq!(captures, [("user", Some(5..9)), ("id", None)]);
    let assigned: Vec<_> = login.children[1].assigned.iter().map(|set| format!("{}={}", set.dest, set.value)).collect();
    assert_eq!(assigned, ["Parsed.user=root", "Parsed.id=", "Meta.user=root"]);
    let trusted = &trace.entries[1];
    assert_eq!(trusted.node.whitelist, Some(true));
    assert_eq!(trusted.node.problems.len(), 1, "{:?}", trusted.node.problems);
    let event = trusted.event.as_ref().expect("asked for");
    assert!(event.whitelisted && event.meta["user"] == "root");
    assert_eq!(set.reports().map(|report| report.problems).sum::<u64>(), 1);
}

#[test]
fn names_of_the_parsers_that_took_part() {
    let files = [
        ("s0/a.yaml", "name: acme/a\nstatics: [{meta: m, value: v}]\n"),
        ("s0/b.yaml", "name: acme/b\nfilter: evt.Line.Raw == 'other'\nstatics: [{meta: m, value: v}]\n"),
        ("s0/c.yaml", "name: acme/c\nwhitelist: {reason: r, expression: [\"evt.Line.Raw == 'other'\"]}\n"),
    ];
    let (set, table, ..) = load_all(&files);
    let mut worker = Worker::new(&table);
    for (line, expected) in [("line", &["acme/a"][..]), ("other", &["acme/a", "acme/b", "acme/c"])] {
        worker.run(&set, "syslog", line, None);
        let names = worker.passed(&set);
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), expected, "{line}");
    }
}

#[test]
fn stashes_remember_across_lines() {
    let remember = "name: acme/remember\nonsuccess: next_stage\ngrok: {pattern: 'session %{INT:id} is %{WORD:user}', apply_on: Line.Raw}\nstash: [{name: sessions, key: evt.Parsed.id, value: evt.Parsed.user, ttl: 5m, size: 10}]\n";
    let recall = "name: acme/recall\ngrok: {pattern: 'session %{INT:id} fails', apply_on: Line.Raw}\nstatics: [{meta: user, expression: \"GetFromStash('sessions', evt.Parsed.id)\"}]\n";
    let (set, table, problems, _, specs) =
        crate::nodes::load_with_stashes(&[("s0/a.yaml", remember), ("s0/b.yaml", recall)]);
    assert_eq!(problems, Vec::<String>::new());
    let mut worker = Worker::with_stashes(&table, Stashes::new(&specs));
    for (line, user) in [
        ("session 7 fails", None),
        ("session 7 is root", None),
        ("session 7 fails", Some("root")),
        ("session 8 fails", None),
    ] {
        worker.run(&set, "syslog", line, None);
        assert_eq!(worker.event.dump().meta.get("user").map(String::as_str), user, "{line}");
    }
}

#[test]
fn addresses_have_places() {
    let data = root().join("../shared/hub/data");
    if !data.is_dir() {
        eprintln!("SKIPPED: the geo databases for tests are not here ({})", data.display());
        return;
    }
    let read = |name: &str| std::fs::read(data.join(name)).expect("readable");
    let geo = GeoIp::new(read("GeoLite2-City.mmdb"), Some(read("GeoLite2-ASN.mmdb"))).expect("a good database");
    let ip = |text: &str| text.parse().expect("an address");
    assert_eq!(geo.range(ip("1.128.0.7")).as_deref(), Some("1.128.0.0/11"));
    assert_eq!(geo.range(ip("192.0.2.1")), None);
    let record = geo.record(expr::Geo::Asn, ip("1.128.0.7")).expect("it is there");
    assert_eq!(record["AutonomousSystemNumber"], 1221);
    assert_eq!(geo.country(ip("192.0.2.1")), (String::new(), false));
}
