//! CrowdSec's own bouncer, agent and command line, unchanged, on our API.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::lab::{Host, Lab};
use crate::support::cordon::Cordon;
use crate::support::crowdsec::{self, Agent};
use crate::support::{ECHO, can_make_networks, eventually, reaches};

const URL: &str = "http://127.0.0.1:8080/";
const PLAIN: &str = "api:\n  listen: 127.0.0.1:8080\nenforcement:\n  mode: off\n";

/// A host of its own with a cordon on it that only answers.
struct Scene {
    cordon: Cordon,
    lab: Lab,
    folder: tempfile::TempDir,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

impl Scene {
    /// Nothing, if namespaces or CrowdSec's programs are missing here.
    fn set() -> Option<Self> {
        let mut scene = Self::install(|_| PLAIN.to_owned())?;
        scene.cordon.start();
        Some(scene)
    }

    /// The same with a cordon that does not run yet; `config` is told where its folder is.
    fn install(config: impl FnOnce(&Path) -> String) -> Option<Self> {
        if !can_make_networks() || crowdsec::programs().is_none() {
            return None;
        }
        let lab = Lab::new(&nets(&["203.0.113.1/24", "2001:db8::1/32"])).expect("root can make networks");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = config(&folder.path().join("cordon"));
        let cordon = Cordon::install(Some(lab.victim()), folder.path(), &config, "");
        Some(Self { cordon, lab, folder })
    }

    fn add(&mut self, name: &str, net: &str) -> Host {
        self.lab.add(name, &nets(&[net])).expect("root can make networks")
    }
}

#[test]
fn the_firewall_bouncer_enforces_what_is_decided_here() {
    let Some(mut scene) = Scene::set() else { return };
    let guesser = scene.add("guesser", "203.0.113.66/24");
    // this bouncer's backend takes the first address of a range
    let ranger = scene.add("ranger", "203.0.113.128/24");
    let six = scene.add("six", "2001:db8:0:66::1/32");
    let bystander = scene.add("bystander", "203.0.113.20/24");
    let (v4, v6) = (ip("203.0.113.1"), ip("2001:db8::1"));
    let victim = scene.lab.victim().clone();
    victim.echo(ECHO).expect("the port is free in a network of our own");
    let guesser_reaches = || reaches(&guesser, ip("203.0.113.66"), v4);
    let ranger_reaches = || reaches(&ranger, ip("203.0.113.128"), v4);
    let six_reaches = || reaches(&six, ip("2001:db8:0:66::1"), v6);

    scene.cordon.ask(&["bouncers", "add", "fw", "--key", "a-key-of-the-firewall"]);
    scene.cordon.ask(&["ban", "203.0.113.66", "--for", "1h"]);
    let start = || crowdsec::firewall_bouncer(&victim, scene.folder.path(), URL, "api_key: a-key-of-the-firewall\n");
    assert!(guesser_reaches() && ranger_reaches() && six_reaches(), "nobody enforces yet");
    let mut bouncer = start();
    eventually("what was there before is enforced", || !guesser_reaches());
    assert!(ranger_reaches() && six_reaches());

    scene.cordon.ask(&["ban", "203.0.113.128/25", "--for", "1h"]);
    scene.cordon.ask(&["ban", "2001:db8:0:66::1", "--for", "1h"]);
    eventually("a range is enforced", || !ranger_reaches());
    eventually("an IPv6 address is enforced", || !six_reaches());
    assert!(reaches(&bystander, ip("203.0.113.20"), v4), "nobody else is cut off");

    scene.cordon.ask(&["lift", "203.0.113.66"]);
    scene.cordon.ask(&["lift", "203.0.113.128/25"]);
    eventually("a lifted address gets through", guesser_reaches);
    eventually("a lifted range gets through", ranger_reaches);
    scene.cordon.ask(&["ban", "203.0.113.66", "--for", "4s"]);
    eventually("a short ban is enforced", || !guesser_reaches());
    eventually("it ends by itself", guesser_reaches);

    scene.cordon.stop();
    assert!(!six_reaches(), "bans hold while the API is away");
    scene.cordon.start();
    scene.cordon.ask(&["ban", "203.0.113.66", "--for", "1h"]);
    eventually("the bouncer follows the API after its restart", || !guesser_reaches());
    scene.cordon.ask(&["lift", "2001:db8:0:66::1"]);
    eventually("and is told of what was made before it", six_reaches);
    assert!(bouncer.is_running());

    // when it is stopped like this, what it wrote into the kernel stays
    bouncer.stop();
    scene.cordon.ask(&["lift", "203.0.113.66"]);
    scene.cordon.ask(&["ban", "203.0.113.128/25", "--for", "1h"]);
    let _bouncer = start();
    eventually("a bouncer that starts again gets everything", || !ranger_reaches());
    eventually("and keeps nothing that is over", guesser_reaches);
    let rows = scene.cordon.ask(&["bouncers", "list", "-o", "raw"]);
    assert!(rows.contains("crowdsec-firewall-bouncer"), "it told what it is: {rows}");
}

#[test]
fn the_agent_registers_pushes_alerts_and_says_that_it_lives() {
    let Some(scene) = Scene::set() else { return };
    let unknown = format!("url: {URL}\nlogin: nobody\npassword: none\n");
    let agent = Agent::install(scene.lab.victim(), scene.folder.path(), &unknown);
    let registration =
        ["lapi", "register", "--machine", "edge-7", "-u", URL, "--file", &agent.credentials().display().to_string()];
    let registered = agent.cscli(&registration);
    assert!(registered.status.success(), "{}", String::from_utf8_lossy(&registered.stderr));
    assert!(!agent.cscli(&["decisions", "list"]).status.success(), "it may not log in yet");
    scene.cordon.ask(&["machines", "validate", "edge-7"]);

    let mut running = agent.start();
    let since = Instant::now();
    eventually("the agent reads", || running.log().contains("Starting processing data"));
    // it may look at the file a moment after it says so, and sends what it found once a second
    let mut knocked: Option<Instant> = None;
    eventually("its alert became a ban", || {
        if knocked.is_none_or(|at| at.elapsed() > Duration::from_secs(4)) {
            agent.knock("192.0.2.77", 3);
            knocked = Some(Instant::now());
        }
        scene.cordon.banned() == ["Ip:192.0.2.77"]
    });
    let alerts = agent.ask(&["alerts", "list"]);
    assert_eq!(alerts[0]["scenario"], "test/knocking");
    assert_eq!(alerts[0]["machine_id"], "edge-7");
    assert_eq!(alerts[0]["source"]["value"], "192.0.2.77");
    let id = alerts[0]["id"].as_i64().expect("a number").to_string();
    let alert = agent.ask(&["alerts", "inspect", &id, "--details"]);
    assert!(alert.to_string().contains("192.0.2.77"), "{alert}");

    agent.ask(&["decisions", "add", "--ip", "192.0.2.9", "--duration", "1h", "--reason", "by hand"]);
    agent.ask(&["decisions", "add", "--range", "198.51.100.0/24", "--duration", "1h"]);
    let mut banned = scene.cordon.banned();
    banned.sort();
    assert_eq!(banned, ["Ip:192.0.2.77", "Ip:192.0.2.9", "Range:198.51.100.0/24"]);
    let listed = agent.ask(&["decisions", "list", "--ip", "192.0.2.9"]);
    assert_eq!(listed[0]["decisions"][0]["value"], "192.0.2.9", "{listed}");
    agent.ask(&["decisions", "delete", "--ip", "192.0.2.9"]);
    agent.ask(&["decisions", "delete", "--range", "198.51.100.0/24"]);
    assert_eq!(scene.cordon.banned(), ["Ip:192.0.2.77"]);
    agent.ask(&["alerts", "delete", "--ip", "192.0.2.77"]);
    assert!(scene.cordon.banned().is_empty(), "what an alert decided goes with it");

    // it does so once a minute
    let heartbeat = || {
        let rows: serde_json::Value =
            serde_json::from_str(&scene.cordon.ask(&["machines", "list", "-o", "json"])).expect("JSON");
        rows.as_array().expect("a list").iter().any(|row| row["last_heartbeat"].is_string())
    };
    while !heartbeat() {
        assert!(since.elapsed() < Duration::from_secs(90), "no heartbeat:\n{}", running.log());
        assert!(running.is_running());
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn with_certificates_nobody_needs_a_password_or_a_key() {
    let secure = |folder: &Path| {
        let pki = folder.join("state/pki");
        let pki = pki.display();
        format!(
            "api:\n  listen: 0.0.0.0:8443\n  tls:\n    cert_file: {pki}/api.pem\n    key_file: {pki}/api.key\n\
             \x20   ca_cert_path: {pki}/ca.pem\n    crl_path: {pki}/crl.pem\nenforcement:\n  mode: off\n"
        )
    };
    let Some(mut scene) = Scene::install(secure) else { return };
    let guesser = scene.add("guesser", "203.0.113.66/24");
    let guesser_reaches = || reaches(&guesser, ip("203.0.113.66"), ip("203.0.113.1"));
    let victim = scene.lab.victim().clone();
    victim.echo(ECHO).expect("the port is free in a network of our own");
    scene.cordon.ask(&["pki", "init"]);
    scene.cordon.ask(&["pki", "issue", "api", "--role", "server", "--host", "127.0.0.1"]);
    scene.cordon.ask(&["pki", "issue", "edge", "--role", "agent"]);
    scene.cordon.ask(&["pki", "issue", "wall", "--role", "bouncer"]);
    scene.cordon.start();

    let url = "https://127.0.0.1:8443/";
    let pki = scene.folder.path().join("cordon/state/pki");
    let files = |name: &str| {
        let pki = pki.display();
        format!("ca_cert_path: {pki}/ca.pem\ncert_path: {pki}/{name}.pem\nkey_path: {pki}/{name}.key\n")
    };
    let agent = Agent::install(&victim, scene.folder.path(), &format!("url: {url}\n{}", files("edge")));
    let running = agent.start();
    eventually("the agent reads", || running.log().contains("Starting processing data"));
    let _bouncer = crowdsec::firewall_bouncer(&victim, scene.folder.path(), url, &files("wall"));
    assert!(guesser_reaches(), "nobody is banned yet");
    let mut knocked: Option<Instant> = None;
    eventually("what the agent saw is enforced by the bouncer", || {
        if knocked.is_none_or(|at| at.elapsed() > Duration::from_secs(4)) {
            agent.knock("203.0.113.66", 3);
            knocked = Some(Instant::now());
        }
        !guesser_reaches()
    });
    assert_eq!(agent.ask(&["decisions", "list"])[0]["machine_id"], "edge@127.0.0.1");
    let rows = scene.cordon.ask(&["bouncers", "list", "-o", "raw"]);
    assert!(rows.contains("wall@127.0.0.1") && rows.contains(",tls"), "{rows}");

    scene.cordon.ask(&["pki", "revoke", "edge"]);
    eventually("a revoked agent is turned away, and told why", || {
        let told = agent.cscli(&["decisions", "list"]);
        !told.status.success() && String::from_utf8_lossy(&told.stderr).contains("certificate revoked by CRL")
    });
    assert!(!guesser_reaches(), "what it sent before holds");
    scene.cordon.ask(&["lift", "203.0.113.66"]);
    eventually("and the bouncer goes on", guesser_reaches);
}

/// The other way round: our agent, their API.
#[test]
fn our_agent_sends_its_alerts_to_crowdsecs_api() {
    let to_them = |folder: &Path| {
        let theirs = folder.parent().expect("it lies in a folder").join("crowdsec/credentials.yaml");
        format!(
            "api:\n  listen: off\n  client:\n    credentials_path: {}\nenforcement:\n  mode: off\n",
            theirs.display()
        )
    };
    let Some(mut scene) = Scene::install(to_them) else { return };
    let log = scene.folder.path().join("auth.log");
    fs::write(&log, "").expect("a writable folder");
    let acquisition = format!("filename: {}\nlabels: {{type: syslog}}\n", log.display());
    fs::write(scene.folder.path().join("cordon/acquisition.yaml"), acquisition).expect("a writable folder");
    let theirs = Agent::install(scene.lab.victim(), scene.folder.path(), "");
    let profiles = "name: all\nfilters: [\"Alert.Remediation == true && Alert.GetScope() == 'Ip'\"]\n\
         decisions: [{type: ban, duration: 4h}]\non_success: break\n";
    theirs.be_api(profiles);
    let added = theirs.cscli(&["machines", "add", "edge", "--password", "of the edge", "--url", URL, "--force"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    scene.cordon.start();
    let guess = |ip: &str| {
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        let line = format!("{time} victim sshd[7]: Failed password for root from {ip} port 4000 ssh2\n");
        let mut log = fs::OpenOptions::new().append(true).open(&log).expect("it was made");
        log.write_all(line.repeat(20).as_bytes()).expect("a writable folder");
    };
    guess("192.0.2.77");
    eventually("it waits", || scene.cordon.ask(&["status"]).contains(" waiting, 0 sent"));
    let _serving = theirs.serve();
    eventually("their API answers", || theirs.cscli(&["alerts", "list"]).status.success());
    let alerts = || theirs.ask(&["alerts", "list"]);
    eventually("what waited is there", || alerts()[0]["source"]["value"] == "192.0.2.77");
    guess("192.0.2.78");
    eventually("and what came later", || {
        alerts().as_array().is_some_and(|all| all.iter().any(|alert| alert["source"]["value"] == "192.0.2.78"))
    });
    let alerts = alerts();
    assert_eq!(alerts[0]["machine_id"], "edge");
    assert_eq!(alerts[0]["decisions"][0]["type"], "ban", "their profiles decided: {alerts}");
    let machines = theirs.ask(&["machines", "list"]);
    assert!(machines[0]["last_heartbeat"].is_string(), "it says that it lives: {machines}");
}
