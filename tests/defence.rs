//! Attackers are cut off and nobody else is: a real sshd, a real nginx, real connections, one kernel.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use crate::lab::{Host, Lab};
use crate::support::servers::{self, Server};
use crate::support::{ECHO, can_make_networks, cordon::Cordon, eventually, open, reaches};

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
            Some(lab.victim()),
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

/// Repeats `strike` until the attacker no longer gets through.
fn attack(who: &str, mut strike: impl FnMut(), gets_through: impl Fn() -> bool) {
    for _ in 0..60 {
        strike();
        if !gets_through() {
            return;
        }
    }
    panic!("{who} attacked sixty times and still gets through");
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
fn attackers_are_cut_off_and_nobody_else() {
    if !can_make_networks() {
        return;
    }
    let mut scene = Scene::set();
    scene.cordon.start();
    let mut held = open(&scene.guesser, ip(GUESSER), ip(VICTIM4)).expect("nobody is banned yet");
    let mut friendly = open(&scene.bystander, ip(BYSTANDER), ip(VICTIM4)).expect("nobody is banned yet");
    assert!(held.alive() && friendly.alive());

    // somebody mistypes, somebody browses
    for _ in 0..2 {
        servers::guess_password(&scene.bystander, ip(BYSTANDER), ip(VICTIM4), "root");
        assert!(servers::get(&scene.bystander, ip(BYSTANDER), ip(VICTIM4), "/", "Mozilla/5.0").is_some());
    }
    for _ in 0..12 {
        servers::guess_password(&scene.allowed, ip(ALLOWED), ip(VICTIM4), "root");
    }
    attack("the guesser", || scene.guess(), || scene.guesser_reaches());
    eventually("the guesser's open stream is dead", || !held.alive());

    let mut address = 0;
    let guess = || {
        address = address % 19 + 1;
        servers::guess_password(&scene.rotating, rotated(address), ip(VICTIM6), "admin");
    };
    let reaches_from = |n| reaches(&scene.rotating, rotated(n), ip(VICTIM6));
    attack("the attacker who uses a new address for every guess", guess, || reaches_from(20));
    assert!(
        [2, 9, 20].into_iter().all(|n| !reaches_from(n)),
        "an attacker got through from the next address of its network"
    );

    let mut n = 0;
    let scan = || {
        n += 1;
        servers::get(&scene.scanner, ip(SCANNER), ip(VICTIM4), &format!("/backup{n}/.env"), "Mozilla/5.0");
    };
    attack("the scanner", scan, || reaches(&scene.scanner, ip(SCANNER), ip(VICTIM4)));

    assert!(friendly.alive(), "the bystander's open stream died");
    assert!(scene.bystanders_reach(), "the bystander was cut off");
    assert!(reaches(&scene.allowed, ip(ALLOWED), ip(VICTIM4)), "an allowed host was cut off");
    let banned = scene.cordon.banned();
    assert!(!banned.iter().any(|value| value.contains(BYSTANDER) || value.contains(ALLOWED)), "{banned:?}");
    let why = scene.cordon.ask(&["why", GUESSER]);
    for part in ["auth.log", "Failed password for root", "cordon lift 203.0.113.66"] {
        assert!(why.contains(part), "`{part}` is missing in:\n{why}");
    }
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
fn a_kill_in_the_middle_of_an_attack_loses_neither_its_place_nor_a_ban() {
    if !can_make_networks() {
        return;
    }
    let mut scene = Scene::set();
    scene.cordon.start();
    scene.cordon.ask(&["ban", SCANNER, "--for", "1h"]);
    for _ in 0..3 {
        scene.guess();
    }
    scene.cordon.kill();
    // the rest of the attack happens while nobody watches
    for _ in 0..9 {
        scene.guess();
    }
    flush_ruleset(&scene);
    scene.cordon.start();
    eventually("the ban made before the kill holds", || !reaches(&scene.scanner, ip(SCANNER), ip(VICTIM4)));
    eventually("the attack is recognised from the place in the log", || !scene.guesser_reaches());
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

#[test]
fn the_demonstration_shows_an_attack_from_its_first_line_to_the_lifted_ban() {
    if !can_make_networks() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_cordon")).arg("demo").stdin(Stdio::null()).output();
    let output = output.expect("the binary was built");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let chapters = ["network", "attack", "alert", "decision", "firewall", "visitor", "why", "lifted"];
    let places = chapters.map(|chapter| told.find(&format!(" s  {chapter:<9}")));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{told}");
}

fn flush_ruleset(scene: &Scene) {
    let status = scene.lab.victim().command("nft").args(["flush", "ruleset"]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot flush the ruleset");
}
