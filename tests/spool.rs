//! An agent whose API is elsewhere: alerts wait on disk while nobody answers, and are delivered once.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::cordon::Cordon;
use crate::support::{eventually, guesses};

/// An API, and an agent that sends there what it sees.
struct Scene {
    api: Cordon,
    agent: Cordon,
    folder: TempDir,
}

impl Scene {
    /// Neither of them runs.
    fn set(spool_mib: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        for name in ["api", "agent", "rules/scenarios"] {
            fs::create_dir_all(place(name)).expect("a writable folder");
        }
        fs::write(place("rules/scenarios/guesses.yaml"), guesses("guesses", 2)).expect("a writable folder");
        fs::write(place("auth.log"), "").expect("a writable folder");
        // Free now, and ours in a moment.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let credentials = format!("url: http://127.0.0.1:{port}/\nlogin: edge\npassword: of the edge\n");
        fs::write(place("credentials.yaml"), credentials).expect("a writable folder");
        let off = "enforcement:\n  mode: off\n";
        let api = Cordon::install(None, &place("api"), &format!("api:\n  listen: 127.0.0.1:{port}\n{off}"), "");
        let client = place("credentials.yaml");
        let config = format!(
            "api:\n  listen: off\n  client:\n    credentials_path: {}\n    spool_mib: {spool_mib}\n{off}rules:\n  folders: [{}]\n",
            client.display(),
            place("rules").display()
        );
        let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", place("auth.log").display());
        let agent = Cordon::install(None, &place("agent"), &config, &acquisition);
        Self { api, agent, folder }
    }

    fn start_api(&mut self) {
        self.api.start();
        if !self.api.ask(&["machines", "list", "-o", "raw"]).contains("edge") {
            self.api.ask(&["machines", "add", "edge", "--password", "of the edge"]);
        }
    }

    /// Three wrong passwords from each of so many addresses, from the address `first` on.
    fn guess(&self, first: usize, count: usize) {
        let mut log =
            OpenOptions::new().append(true).open(self.folder.path().join("auth.log")).expect("the log is there");
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        for number in first..first + count {
            let ip = format!("198.18.{}.{}", number / 250, number % 250 + 1);
            let line = format!("{time} victim sshd[7]: Failed password for root from {ip} port 4000 ssh2\n");
            log.write_all(line.repeat(3).as_bytes()).expect("room on the disk");
        }
    }

    /// What the agent says about its alerts: waiting, delivered, dropped, refused.
    fn spool(&self) -> [u64; 4] {
        let status = self.agent.status();
        ["waiting", "delivered", "dropped", "refused"].map(|name| status["spool"][name].as_u64().expect("a count"))
    }

    /// The identities of the alerts that the API has.
    fn alerts(&self) -> Vec<String> {
        let text = self.api.ask(&["alerts", "list", "--limit", "0", "-o", "json"]);
        let alerts: Option<Vec<Value>> = serde_json::from_str(&text).expect("JSON");
        let mine = |alert: &&Value| alert["scenario"] == "test/guesses" && alert["machine_id"] == "edge";
        alerts.iter().flatten().filter(mine).map(|alert| alert["uuid"].to_string()).collect()
    }

    /// Waits until the API has so many alerts, each once.
    fn delivered_once(&self, count: usize) {
        eventually("all alerts are there", || self.alerts().len() >= count);
        let mut alerts = self.alerts();
        alerts.sort();
        alerts.dedup();
        assert_eq!((alerts.len(), self.alerts().len()), (count, count), "each once");
    }
}

#[test]
fn alerts_wait_on_disk_while_the_api_is_away_and_are_delivered_once() {
    let mut scene = Scene::set(1);
    scene.agent.start();
    scene.guess(0, 5);
    eventually("the alerts wait", || scene.spool()[0] == 5);
    let status = scene.agent.ask(&["status"]);
    assert!(status.contains("5 waiting") && status.contains("TROUBLE"), "{status}");

    // Neither an end in order nor a sudden one loses what waits.
    scene.agent.stop();
    scene.agent.start();
    scene.agent.kill();
    scene.guess(5, 5);
    scene.agent.start();
    eventually("what was missed is there too", || scene.spool()[0] == 10);

    scene.start_api();
    scene.delivered_once(10);
    eventually("the agent knows", || scene.spool() == [0, 10, 0, 0]);
    assert!(!scene.agent.ask(&["status"]).contains("TROUBLE"));
    assert_eq!(scene.api.banned().len(), 10, "the profiles of the API decided");
}

/// Both are killed again and again while there is an attack.
#[test]
fn kills_on_both_sides_neither_lose_nor_double_an_alert() {
    let mut scene = Scene::set(1);
    scene.start_api();
    scene.agent.start();
    for round in 0..8 {
        scene.guess(10 * round, 10);
        std::thread::sleep(std::time::Duration::from_millis(17 * round as u64));
        scene.agent.kill();
        if round % 4 == 1 {
            scene.api.kill();
        }
        scene.agent.start();
        if round % 4 == 3 {
            scene.start_api();
        }
    }
    scene.delivered_once(80);
    eventually("nothing waits", || scene.spool()[0] == 0);
}

#[test]
fn the_bound_holds_and_what_is_dropped_is_counted() {
    let mut scene = Scene::set(1);
    scene.agent.start();
    let folder = scene.folder.path().join("agent/cordon/state/spool");
    let bytes = || -> u64 {
        let files = fs::read_dir(&folder).expect("it is there").flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    };
    let mut made = 0;
    while scene.spool()[2] == 0 {
        scene.guess(made, 250);
        made += 250;
        eventually("they wait", || scene.spool()[0] + scene.spool()[2] == made as u64);
        assert!(bytes() <= 1 << 20, "{} bytes", bytes());
    }
    let [waiting, _, dropped, _] = scene.spool();
    let status = scene.agent.ask(&["status"]);
    assert!(status.contains(&format!("{dropped} dropped for want of room")), "{status}");
    assert!(scene.agent.log().contains("the oldest ones are dropped"));
    scene.agent.stop();
    scene.agent.start();
    assert_eq!(scene.spool()[2], dropped, "it is still known");
    scene.start_api();
    scene.delivered_once(usize::try_from(waiting).expect("a small number"));
}

/// Answers one request after the other like an API that refuses each alert of one address, and has no time at first.
fn picky(listener: &TcpListener) {
    let mut busy = 1;
    let answer = |mut stream: &TcpStream, status: &str, body: &str| {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes())
    };
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let mut request = Vec::new();
        let mut part = [0; 8192];
        let text = loop {
            let Ok(len @ 1..) = stream.read(&mut part) else { break String::new() };
            request.extend_from_slice(&part[..len]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break text;
            }
        };
        // Whoever asked may have gone.
        let _ = if text.starts_with("POST /v1/watchers/login") {
            answer(&stream, "200 OK", r#"{"code":200,"token":"t","expire":"2099-01-01T00:00:00Z"}"#)
        } else if !text.starts_with("POST /v1/alerts") {
            answer(&stream, "200 OK", "[]")
        } else if busy > 0 {
            busy -= 1;
            answer(&stream, "500 Internal Server Error", r#"{"message":"the disk is full"}"#)
        } else if text.contains("198.18.0.3") {
            answer(&stream, "400 Bad Request", r#"{"message":"not this one"}"#)
        } else {
            answer(&stream, "201 Created", r#"["1"]"#)
        };
    }
}

#[test]
fn an_alert_that_the_api_will_never_take_is_set_aside_and_holds_nobody_up() {
    let mut scene = Scene::set(1);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let credentials = format!("url: {url}\nlogin: edge\npassword: x\n");
    fs::write(scene.folder.path().join("credentials.yaml"), credentials).expect("a writable folder");
    std::thread::spawn(move || picky(&listener));
    scene.guess(0, 0);
    scene.agent.start();
    scene.guess(0, 6);
    eventually("all but one are delivered", || scene.spool() == [0, 5, 0, 1]);
    let aside = fs::read_to_string(scene.folder.path().join("agent/cordon/state/spool/refused.jsonl"));
    let aside: Value = serde_json::from_str(&aside.expect("it was set aside")).expect("one line of JSON");
    assert_eq!(aside["alert"]["source"]["value"], "198.18.0.3");
    assert!(aside["reason"].as_str().is_some_and(|reason| reason.contains("not this one")), "{aside}");
    let status = scene.agent.ask(&["status"]);
    assert!(status.contains("1 refused by the api") && !status.contains("TROUBLE"), "{status}");
}

#[test]
fn what_the_api_elsewhere_allows_is_not_punished_and_a_newer_spool_is_refused() {
    let mut scene = Scene::set(1);
    scene.start_api();
    scene.api.ask(&["allowlists", "create", "office", "-d", "us"]);
    scene.api.ask(&["allowlists", "add", "office", "198.18.0.2"]);
    scene.agent.start();
    eventually("the agent knows the list", || scene.agent.log().contains("has other allowlists now"));
    let machines = scene.api.ask(&["machines", "list", "-o", "json"]);
    let machines: Value = serde_json::from_str(&machines).expect("JSON");
    assert!(machines[0]["last_heartbeat"].is_string(), "it said that it lives: {machines}");
    scene.guess(0, 3);
    scene.delivered_once(2);
    assert_eq!(scene.spool(), [0, 2, 0, 0], "nothing was made of what is allowed");
    scene.agent.stop();

    let newer = scene.folder.path().join("agent/cordon/state/spool/spool.00000000000000000099");
    fs::write(&newer, "cordon spool 4000000000\nwhatever it says").expect("room on the disk");
    let output = scene.agent.run(&["run"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("written by a newer cordon"), "{told}");
    assert_eq!(fs::read_to_string(&newer).expect("it is there"), "cordon spool 4000000000\nwhatever it says");
}

#[test]
fn wrong_credentials_are_named_with_their_place() {
    let scene = Scene::set(1);
    let path = scene.folder.path().join("credentials.yaml");
    // (file, what is said)
    let cases = [
        ("url: http://127.0.0.1:1/\nlogni: x\n", "credentials.yaml:1: says where the api is, but not who asks"),
        ("url: http://127.0.0.1:1/\nlogin: x\npassword: secret\nlogni: x\n", "credentials.yaml:4: unknown key"),
        ("- 1\n", "credentials.yaml:1: "),
    ];
    for (text, says) in cases {
        fs::write(&path, text).expect("a writable folder");
        let output = scene.agent.run(&["run"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(says) && !told.contains("secret"), "{told}");
    }
    fs::remove_file(Path::new(&path)).expect("it was written");
    let output = scene.agent.run(&["run"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("credentials.yaml: cannot be read"));
}

#[test]
fn a_certificate_stands_in_place_of_a_password() {
    let mut scene = Scene::set(1);
    let place = scene.folder.path().display().to_string();
    let pki = format!("{place}/api/cordon/state/pki");
    let config = scene.folder.path().join("api/cordon/cordon.yaml");
    let tls = format!(
        "  tls:\n    cert_file: {pki}/api.pem\n    key_file: {pki}/api.key\n    ca_cert_path: {pki}/ca.pem\nenforcement:"
    );
    let secure = fs::read_to_string(&config).expect("it was written").replace("enforcement:", &tls);
    fs::write(&config, secure).expect("a writable folder");
    scene.api.ask(&["pki", "init"]);
    scene.api.ask(&["pki", "issue", "api", "--role", "server", "--host", "127.0.0.1"]);
    scene.api.ask(&["pki", "issue", "web", "--role", "agent"]);
    let credentials = scene.folder.path().join("credentials.yaml");
    let url = fs::read_to_string(&credentials).expect("it was written").replace("http:", "https:");
    let url = url.lines().next().expect("it says where the API is");
    let files = format!("ca_cert_path: {pki}/ca.pem\ncert_path: {pki}/web.pem\nkey_path: {pki}/web.key\n");
    fs::write(&credentials, format!("{url}\n{files}")).expect("a writable folder");
    scene.agent.start();
    scene.guess(0, 3);
    scene.api.start();
    eventually("they are delivered", || scene.spool() == [0, 3, 0, 0]);
    assert!(scene.api.ask(&["machines", "list", "-o", "raw"]).contains("web@127.0.0.1"));
}
