//! Attackers are cut off and nobody else is: a real sshd, a real nginx, real connections, one kernel.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::lab::{Host, Lab};
use crate::support::servers::{self, Server};
use crate::support::{ECHO, can_make_networks, cordon::Cordon, eventually, reaches};

/// The victim with its servers, and everybody who talks to it.
struct Scene {
    cordon: Cordon,
    _servers: [Server; 2],
    guesser: Host,
    scanner: Host,
    rotating: Host,
    bystander: Host,
    allowed: Host,
    lab: Lab,
    folder: tempfile::TempDir,
}

const VICTIM4: &str = "203.0.113.1";
const VICTIM6: &str = "2001:db8::1";
const GUESSER: &str = "203.0.113.66";
const SCANNER: &str = "203.0.113.80";
const BYSTANDER: &str = "203.0.113.20";
const BYSTANDER6: &str = "2001:db8:0:20::1";
const ALLOWED: &str = "203.0.113.30";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

/// An address of the attacker that changes its own within its /64.
fn rotated(n: usize) -> IpAddr {
    ip(&format!("2001:db8:0:66::{n:x}"))
}

impl Scene {
    /// Everything is there; cordon is installed but not started.
    fn set() -> Self {
        let mut lab = Lab::new(&nets(&["203.0.113.1/24", "2001:db8::1/32"])).expect("root can make networks");
        let mut add = |name, addresses: &[&str]| lab.add(name, &nets(addresses)).expect("root can make networks");
        let guesser = add("guesser", &["203.0.113.66/24"]);
        let scanner = add("scanner", &["203.0.113.80/24"]);
        let bystander = add("bystander", &["203.0.113.20/24", "2001:db8:0:20::1/32"]);
        let allowed = add("allowed", &["203.0.113.30/24"]);
        let many: Vec<String> = (1..=20).map(|n| format!("{}/32", rotated(n))).collect();
        let rotating = add("rotating", &many.iter().map(String::as_str).collect::<Vec<_>>());

        let folder = tempfile::tempdir().expect("a temporary folder");
        let (sshd, auth) = servers::sshd(lab.victim(), folder.path());
        let (nginx, access) = servers::nginx(lab.victim(), folder.path());
        lab.victim().echo(ECHO).expect("the port is free in a network of our own");
        let cordon = Cordon::install(
            lab.victim(),
            folder.path(),
            &format!("allowlist: [{ALLOWED}]\nenforcement:\n  mode: enforce\n"),
            &datasources(&[(&auth, "syslog"), (&access, "nginx")]),
        );
        eventually("the servers answer", || {
            servers::get(&bystander, ip(BYSTANDER), ip(VICTIM4), "/", "curl").is_some_and(|code| code == "200")
        });
        Self { cordon, _servers: [sshd, nginx], guesser, scanner, rotating, bystander, allowed, lab, folder }
    }

    fn guess(&self) {
        servers::guess_password(&self.guesser, ip(GUESSER), ip(VICTIM4), "root");
    }

    fn guesser_reaches(&self) -> bool {
        reaches(&self.guesser, ip(GUESSER), ip(VICTIM4))
    }

    fn bystanders_reach(&self) -> bool {
        reaches(&self.bystander, ip(BYSTANDER), ip(VICTIM4)) && reaches(&self.bystander, ip(BYSTANDER6), ip(VICTIM6))
    }
}

fn datasources(files: &[(&PathBuf, &str)]) -> String {
    files
        .iter()
        .map(|(path, kind)| format!("filenames: [{}]\nlabels:\n  type: {kind}\n", path.display()))
        .collect::<Vec<_>>()
        .join("---\n")
}

#[test]
fn without_cordon_everybody_gets_through_and_the_logs_say_so() {
    if !can_make_networks() {
        return;
    }
    let scene = Scene::set();
    scene.guess();
    servers::guess_password(&scene.rotating, rotated(7), ip(VICTIM6), "admin");
    assert!(servers::get(&scene.scanner, ip(SCANNER), ip(VICTIM4), "/.env", "curl").is_some());
    let log = |name: &str| std::fs::read_to_string(scene.folder.path().join(name)).unwrap_or_default();
    eventually("the servers have logged", || {
        log("auth.log").contains("Failed password for root from 203.0.113.66 port")
            && log("auth.log").contains("Failed password for invalid user admin from 2001:db8:0:66::7 port")
            && log("access.log").contains("203.0.113.80 - - [")
    });
    assert!(scene.guesser_reaches() && scene.bystanders_reach());
    assert!(reaches(&scene.rotating, rotated(20), ip(VICTIM6)));
}

#[test]
fn a_lifted_ban_ends_at_once() {
    if !can_make_networks() {
        return;
    }
    let mut scene = Scene::set();
    scene.cordon.start();
    for (target, ours) in [("203.0.113.66", "203.0.113.66"), ("203.0.113.64/29", "203.0.113.64/29")] {
        scene.cordon.ask(&["ban", target, "--for", "1h", "--reason", "test"]);
        eventually("the ban holds", || !scene.guesser_reaches());
        assert!(scene.bystanders_reach());
        scene.cordon.ask(&["lift", ours]);
        eventually("the ban is lifted", || scene.guesser_reaches());
        assert_eq!(scene.cordon.banned(), Vec::<String>::new());
    }
}

#[test]
fn a_restart_keeps_bans_and_forgets_what_was_lifted() {
    if !can_make_networks() {
        return;
    }
    let mut scene = Scene::set();
    scene.cordon.start();
    scene.cordon.ask(&["ban", GUESSER, "--for", "1h"]);
    scene.cordon.ask(&["ban", SCANNER, "--for", "1h"]);
    eventually("both bans hold", || !scene.guesser_reaches() && !reaches(&scene.scanner, ip(SCANNER), ip(VICTIM4)));
    scene.cordon.ask(&["lift", SCANNER]);
    scene.cordon.stop();
    assert!(!scene.guesser_reaches(), "a ban ended with the process");
    flush_ruleset(&scene);
    scene.cordon.start();
    eventually("the ban is restored", || !scene.guesser_reaches());
    assert!(reaches(&scene.scanner, ip(SCANNER), ip(VICTIM4)), "a lifted ban came back");
    assert!(scene.bystanders_reach());
}

#[test]
fn a_flushed_ruleset_is_healed() {
    if !can_make_networks() {
        return;
    }
    let mut scene = Scene::set();
    scene.cordon.start();
    scene.cordon.ask(&["ban", GUESSER, "--for", "1h"]);
    eventually("the ban holds", || !scene.guesser_reaches());
    for _ in 0..3 {
        flush_ruleset(&scene);
        eventually("the table is rebuilt", || !scene.guesser_reaches());
    }
    assert!(scene.bystanders_reach());
}

fn flush_ruleset(scene: &Scene) {
    let status = scene.lab.victim().command("nft").args(["flush", "ruleset"]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot flush the ruleset");
}
