//! Secrets pass through the real program while it logs as much as it can; none of them may be seen anywhere else.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::eventually;

const PASSWORD: &str = "Pa55-of-edge-in-full";
const WRONG_PASSWORD: &str = "Wr0ng-pass-as-typed";
const HALF_SENT: &str = "Half-a-body-with-a-pass";
const REGISTRATION: &str = "registration-token-that-lets-machines-in";
const KEY: &str = "key-of-the-bouncer-fw";
const SECOND_KEY: &str = "second-key-of-the-bouncer-fw";
const WRONG_KEY: &str = "key-of-nobody-at-all";
const FORGED: &str = "eyJhbGciOiJIUzI1NiJ9.Zm9yZ2VkLWJ5LXNvbWVib2R5.c2lnbmVkLWJ5LW5vYm9keQ";
const LINE: &str = "line-of-a-log-that-came-with-an-alert";
const SIGNING: &str = "what-tokens-are-signed-with-is-64-characters-long-or-even-longer-here";

/// A program that logs everything.
struct Talkative<'a> {
    folder: &'a Path,
    port: u16,
    child: Child,
    /// All that anybody was told.
    told: String,
}

impl Talkative<'_> {
    fn command(folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.arg("--config").arg(folder.join("cordon.yaml")).args(args);
        command.env("CORDON_LOG", "trace").env("CS_LAPI_SECRET", SIGNING).stdin(Stdio::null());
        command
    }

    /// Runs a command; what it printed is told to nobody else.
    fn ask(&mut self, args: &[&str]) -> String {
        let output = Self::command(self.folder, args).output().expect("the binary was built");
        self.told += &String::from_utf8_lossy(&output.stderr);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asks over HTTP of both versions; the last answer. It counts as told unless it is what was asked for.
    fn curl(&mut self, method: &str, route: &str, headers: &[String], body: &str, wanted: bool) -> String {
        let mut answer = String::new();
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let mut command = Command::new("curl");
            command.args(["-q", "-s", "-i", "--max-time", "20", version, "-X", method]);
            for header in headers {
                command.args(["-H", header]);
            }
            if !body.is_empty() {
                command.args(["-d", body]);
            }
            let output = command.arg(format!("http://127.0.0.1:{}/v1/{route}", self.port)).output();
            answer =
                String::from_utf8_lossy(&output.expect("curl is installed: make test installs it").stdout).into_owned();
            if !wanted {
                self.told += &answer;
            }
        }
        answer
    }
}

impl Drop for Talkative<'_> {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn secrets_are_seen_by_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let config = format!(
        "state: {state}\napi:\n  listen: 127.0.0.1:{port}\n  auto_registration: {{enabled: true, token: {REGISTRATION}, allowed_ranges: [127.0.0.0/8]}}\n\
         acquisition: {{discover: false}}\nenforcement: {{mode: off}}\n",
        state = folder.join("state").display()
    );
    fs::write(folder.join("cordon.yaml"), config).expect("a writable folder");
    let log = fs::File::create(folder.join("log")).expect("a writable folder");
    let child = Talkative::command(folder, &["run"]).stdout(Stdio::null()).stderr(log).spawn();
    let mut cordon = Talkative { folder, port, child: child.expect("the binary was built"), told: String::new() };
    eventually("cordon answers", || {
        Talkative::command(folder, &["status"]).output().is_ok_and(|one| one.status.success())
    });

    let none: &[String] = &[];
    let register = format!(r#"{{"machine_id":"edge","password":"{PASSWORD}","registration_token":"{REGISTRATION}"}}"#);
    cordon.curl("POST", "watchers", none, &register, false);
    let wrong_token =
        format!(r#"{{"machine_id":"other","password":"{PASSWORD}","registration_token":"x{REGISTRATION}"}}"#);
    cordon.curl("POST", "watchers", none, &wrong_token, false);
    let login = |password: &str| format!(r#"{{"machine_id":"edge","password":"{password}","scenarios":[]}}"#);
    let answer = cordon.curl("POST", "watchers/login", none, &login(PASSWORD), true);
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let token = serde_json::from_str::<Value>(body).expect("JSON")["token"].as_str().expect("a token").to_owned();
    cordon.curl("POST", "watchers/login", none, &login(WRONG_PASSWORD), false);
    for broken in [
        format!(r#"{{"machine_id":"edge","password":"{HALF_SENT}"#),
        format!(r#"{{"machine_id":"edge","password":["{HALF_SENT}"]}}"#),
    ] {
        for route in ["watchers", "watchers/login", "alerts", "usage-metrics", "allowlists/check"] {
            cordon.curl("POST", route, &[format!("Authorization: Bearer {token}")], &broken, false);
        }
    }
    cordon.ask(&["bouncers", "add", "fw", "--key", KEY]);
    cordon.ask(&["machines", "add", "web", "--password", PASSWORD]);
    cordon.ask(&["bouncers", "rotate", "fw", "--key", SECOND_KEY]);
    cordon.ask(&["pki", "init"]);
    cordon.ask(&["pki", "issue", "fw", "--role", "bouncer"]);
    let alert = format!(
        r#"[{{"scenario":"s","scenario_hash":"","scenario_version":"","message":"m","events_count":1,"start_at":"","stop_at":"",
        "capacity":1,"leakspeed":"1s","simulated":false,"source":{{"scope":"Ip","value":"203.0.113.7"}},
        "events":[{{"timestamp":"","meta":[{{"key":"line","value":"{LINE}"}}]}}]}}]"#
    );
    for (header, secret) in [
        ("X-Api-Key", KEY),
        ("X-Api-Key", SECOND_KEY),
        ("X-Api-Key", WRONG_KEY),
        ("Authorization", FORGED),
        ("Authorization", &token),
    ] {
        let bearer = if header == "Authorization" { "Bearer " } else { "" };
        let headers = [format!("{header}: {bearer}{secret}"), format!("Cookie: jwt={secret}")];
        for route in ["decisions", "decisions/stream?startup=true", "heartbeat", "status", "refresh_token"] {
            cordon.curl("GET", route, &headers, "", route == "refresh_token");
        }
        cordon.curl("POST", "alerts", &headers, &alert, false);
        cordon.curl("POST", "usage-metrics", &headers, "{}", false);
    }
    for args in [
        &["status", "-o", "json"][..],
        &["bouncers", "list", "-o", "json"],
        &["machines", "list", "-o", "json"],
        &["audit", "export"],
        &["config", "show"],
    ] {
        let told = cordon.ask(args);
        cordon.told += &told;
    }
    let bundle = folder.join("bundle.json");
    cordon.ask(&["support", "--out", bundle.to_str().expect("the path is text")]);
    cordon.told += &fs::read_to_string(&bundle).expect("it was written");
    cordon.told += &fs::read_to_string(folder.join("log")).expect("it logged");

    for proof in ["watchers/login", "decisions/stream", "\"name\": \"fw\"", "TRACE"] {
        assert!(cordon.told.contains(proof), "nothing was told about {proof}");
    }
    let mut seen = String::new();
    for secret in [
        PASSWORD,
        WRONG_PASSWORD,
        HALF_SENT,
        REGISTRATION,
        KEY,
        SECOND_KEY,
        WRONG_KEY,
        FORGED,
        &token,
        LINE,
        SIGNING,
        "PRIVATE KEY",
        "$2b$",
    ] {
        for line in cordon.told.lines().filter(|line| line.contains(secret)).take(3) {
            let _ = writeln!(seen, "{secret}: {line}");
        }
    }
    assert!(seen.is_empty(), "{seen}");
}
