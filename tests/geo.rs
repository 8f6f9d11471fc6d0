//! Countries through the binary: who is spared by decisions, who may come in, and what is said about it.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;

use crate::lab::Lab;
use crate::mmdb::Mmdb;
use crate::support::{ECHO, can_make_networks, cordon::Cordon, eventually, reaches};

/// The section `geo` over a small world: 5.0.0.0/8 is German, 6.0.0.0/8 French.
fn geo(folder: &Path, rest: &str) -> String {
    let world = [("5.0.0.0/8", "DE"), ("6.0.0.0/8", "FR"), ("2a00::/32", "DE")];
    let path = folder.join("country.mmdb");
    std::fs::write(&path, Mmdb::countries(&world).bytes()).expect("a writable folder");
    format!("geo:\n  country_db: {}\n{rest}", path.display())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn who_is_at_home_is_not_banned_and_that_is_explained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("auth.log");
    std::fs::write(&log, "").expect("a writable folder");
    let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", log.display());
    let config = geo(folder.path(), "  never_ban: [DE]\n  policies:\n  - { name: admin, deny: [FR], ports: [22] }\n");
    let mut cordon = Cordon::install(None, folder.path(), &config, &acquisition);

    let alone = cordon.ask(&["geo", "lookup", "6.0.0.7"]);
    assert!(alone.contains("6.0.0.7 is in FR (France), network 6.0.0.0/8"), "{alone}");
    assert!(alone.contains("policy       admin: dropped: FR is denied (on every interface to port 22)"), "{alone}");
    assert!(alone.contains("decisions    unknown: cordon is not running"), "{alone}");

    cordon.start();
    let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    let guess =
        |ip: &str, n: u8| format!("{time} victim sshd[7]: Failed password for root from {ip} port 4000{n} ssh2");
    let guesses: Vec<String> = ["5.0.0.66", "6.0.0.66"].iter().flat_map(|ip| (1..=7).map(|n| guess(ip, n))).collect();
    std::fs::write(&log, guesses.join("\n") + "\n").expect("room on the disk");
    eventually("both attacks are recognised", || {
        json(&cordon.ask(&["alerts", "list", "-o", "json"])).as_array().is_some_and(|alerts| alerts.len() == 2)
    });
    assert_eq!(cordon.banned(), ["Ip:6.0.0.66"]);
    let why = cordon.ask(&["why", "5.0.0.66"]);
    for part in [
        "5.0.0.66 is not kept out",
        "allow check  decide: not banned, see `geo.never_ban` (DE is never banned)",
        "place        is in DE (Germany), network 5.0.0.0/8",
        "spared       `geo.never_ban` (DE is never banned)",
    ] {
        assert!(why.contains(part), "{part} is not in\n{why}");
    }

    cordon.ask(&["decisions", "add", "--scope", "Country", "--value", "FR", "--duration", "1h"]);
    let looked = json(&cordon.ask(&["geo", "lookup", "6.0.0.7", "-o", "json"]));
    assert_eq!(looked["country"], "FR");
    assert_eq!(looked["decisions"][0]["value"], "FR");
    assert_eq!(looked["policies"][0]["drops"], true);
    let plan = json(&cordon.ask(&["geo", "plan", "-o", "json"]));
    assert_eq!(plan["policies"][0]["size"]["addresses4"], 1 << 24);
    eventually("the keeper tells what it would do", || {
        let status = json(&cordon.ask(&["geo", "status", "-o", "json"]));
        status["policies"][0]["ranges"] == 1 && status["decisions"][0]["region"] == "FR"
    });
    assert!(cordon.ask(&["geo", "status"]).contains("geo policies are not in force"), "it is a dry run");
    cordon.stop();
}

#[test]
fn without_a_database_nobody_knows_whom_to_spare() {
    if !can_make_networks() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lab = Lab::new(&["5.0.0.1/6".parse().expect("a prefix")]).expect("root can make networks");
    let config = "geo: { country_db: /nowhere/country.mmdb, never_ban: [DE] }\nenforcement: { mode: enforce }\n";
    let cordon = Cordon::install(Some(lab.victim()), folder.path(), config, "");
    let mut refusing = cordon.spawn(&["run"]);
    eventually("it refuses to enforce", || refusing.try_wait().expect("it is our child").is_some());
    let refused = cordon.run(&["run"]);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(complaint.contains("nobody knows whom `geo` spares, so nothing is enforced"), "{complaint}");
}

#[test]
fn only_the_chosen_country_may_come_in_and_only_as_long_as_cordon_lives() {
    if !can_make_networks() {
        return;
    }
    let nets = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().expect("a prefix")).collect() };
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let mut lab = Lab::new(&nets(&["5.0.0.1/6"])).expect("root can make networks");
    let german = lab.add("german", &nets(&["5.0.0.7/6"])).expect("root can make networks");
    let french = lab.add("french", &nets(&["6.0.0.7/6"])).expect("root can make networks");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = geo(folder.path(), "  lease: 10s\n  policies:\n  - { name: home, allow: [DE] }\n");
    let config = format!("{config}enforcement: {{ mode: enforce }}\n");
    let mut cordon = Cordon::install(Some(lab.victim()), folder.path(), &config, "");
    lab.victim().echo(ECHO).expect("the port is free in a network of our own");
    let victim = ip("5.0.0.1");
    eventually("before it starts, everybody comes in", || reaches(&french, ip("6.0.0.7"), victim));
    cordon.start();
    eventually("who is not at home is kept out", || !reaches(&french, ip("6.0.0.7"), victim));
    assert!(reaches(&german, ip("5.0.0.7"), victim), "who is at home is not");
    // the lease may have been asked for before there was a set for it, and is asked for again
    eventually("the status says so", || {
        cordon.ask(&["geo", "status"]).contains("geo policies are in force; without renewal they end at")
    });
    assert!(cordon.ask(&["status"]).contains("policy       home"));
    let plan = json(&cordon.ask(&["geo", "plan", "-o", "json"]));
    assert_eq!((&plan["pending"], &plan["policies"][0]["change"]), (&false.into(), &"same".into()));
    cordon.ask(&["disarm"]);
    eventually("disarmed, everybody comes in", || reaches(&french, ip("6.0.0.7"), victim));
    cordon.ask(&["arm"]);
    eventually("armed, they are kept out again", || !reaches(&french, ip("6.0.0.7"), victim));
    cordon.kill();
    assert!(!reaches(&french, ip("6.0.0.7"), victim), "for a moment it goes on without it");
    std::thread::sleep(std::time::Duration::from_secs(10));
    eventually("and then it is over", || reaches(&french, ip("6.0.0.7"), victim));
}
