//! pfSense through a real sshd: the script runs under dash, and a `pfctl` in a file keeps the table.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bouncers::engine::plan::{Placement, Plan};
use bouncers::engine::{Bouncer, Extent, Never, Wanted};
use bouncers::error::Class;
use bouncers::pfsense::ssh::SCRIPT;
use bouncers::pfsense::{Ssh, SshOptions};
use bouncers::remote::ListBouncer;
use jiff::Timestamp;

use crate::lists::{add, remove};

/// Keeps a table in a file, writes down what it was asked, and knows no table that is not there.
const PFCTL: &str = r#"#!/bin/sh
table=$STATE/table
echo "$*" >>"$STATE/asked"
case $1 in
-k) echo "$2" >>"$STATE/killed"; exit 0 ;;
esac
[ -e "$table" ] || { echo 'pfctl: Table does not exist.' >&2; exit 255; }
case $4 in
show) sed 's/^/   /' "$table" ;;
add) cat - "$table" | sort -u >"$table.new"; mv "$table.new" "$table" ;;
delete) cat >"$table.gone"; grep -vxF -f "$table.gone" "$table" >"$table.new"; mv "$table.new" "$table" ;;
replace) sort -u >"$table.new"; mv "$table.new" "$table" ;;
flush) : >"$table" ;;
esac
"#;

struct Firewall {
    folder: tempfile::TempDir,
    sshd: Child,
    port: u16,
}

impl Drop for Firewall {
    fn drop(&mut self) {
        // the shared connection outlives the calls; it is ours to end
        let _ = Command::new("ssh")
            .args(["-F", "none", "-O", "exit", "-o"])
            .arg(format!("ControlPath={}", self.path("%C").display()))
            .args(["-p", &self.port.to_string(), &Self::destination()])
            .stderr(Stdio::null())
            .status();
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{program} {arguments:?}: install openssh-server and openssh-client"
    );
}

impl Firewall {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pf").tempdir_in("/tmp").expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["host", "ours"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path(name)]);
        }
        fs::write(path("script"), SCRIPT).expect("a temporary folder");
        fs::write(path("pfctl"), PFCTL).expect("a temporary folder");
        fs::set_permissions(path("pfctl"), fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::write(path("table"), "").expect("a temporary folder");
        let ours = fs::read_to_string(path("ours.pub")).expect("it was just made");
        let state = folder.path().display();
        let (pfctl, script) = (path("pfctl"), path("script"));
        let command = format!("export STATE={state} CORDON_PFCTL={pfctl}; dash {script} cordon_ban");
        fs::write(path("authorized"), format!("restrict,command=\"{command}\" {ours}")).expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        drop(listener);
        let host = fs::read_to_string(path("host.pub")).expect("it was just made");
        fs::write(path("known"), format!("[127.0.0.1]:{port} {host}")).expect("a temporary folder");
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").expect("root may make sshd's own folder");
        }
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", "/dev/null", "-h", &path("host"), "-p", &port.to_string()])
            .args(["-o", "ListenAddress=127.0.0.1", "-o", "UsePAM=no", "-o", "StrictModes=no"])
            .args(["-o", "PermitRootLogin=forced-commands-only", "-o", &format!("PidFile={}", path("pid"))])
            .args(["-o", &format!("AuthorizedKeysFile={}", path("authorized")), "-o", "PasswordAuthentication=no"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd is installed: install openssh-server");
        let firewall = Self { folder, sshd, port };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "sshd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        firewall
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn destination() -> String {
        let user = Command::new("id").arg("-un").output().expect("every system has it");
        format!("{}@127.0.0.1", String::from_utf8_lossy(&user.stdout).trim())
    }

    fn options(&self) -> SshOptions {
        SshOptions {
            destination: Self::destination(),
            port: self.port,
            identity: self.path("ours"),
            known_hosts: self.path("known"),
            control: self.folder.path().to_path_buf(),
            kill_states: true,
        }
    }

    fn bouncer(&self) -> ListBouncer<Ssh> {
        ListBouncer::new(Ssh::open("fw", &self.options()).expect("the keys are there"))
    }

    fn lines(&self, name: &str) -> BTreeSet<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
    }
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

async fn rebuild(bouncer: &mut ListBouncer<Ssh>, wanted: &Placement) -> Result<(), bouncers::BouncerError> {
    let never = Never::default();
    bouncer.rebuild(Wanted::of(wanted, &never), Extent::Exactly, Timestamp::now()).await.map(drop)
}

#[tokio::test]
async fn a_table_follows_over_ssh_and_connections_are_cut() {
    let firewall = Firewall::new();
    let mut bouncer = firewall.bouncer();
    fs::write(firewall.path("table"), "192.0.2.99\n").expect("a temporary folder");
    rebuild(&mut bouncer, &Placement::new()).await.expect("it answers");
    assert_eq!(firewall.lines("table"), set(&[]), "what an earlier run has left goes");
    let mut slowest = Duration::ZERO;
    for octet in 0..40 {
        let begun = Instant::now();
        let change = add(&format!("203.0.113.{octet}"));
        bouncer.apply(&Plan { changes: vec![change] }, Timestamp::now()).await.expect("it is taken");
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("the slowest of 40 changes took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "a ban is in the table within two seconds: {slowest:?}");
    assert_eq!(firewall.lines("table").len(), 40);
    assert_eq!(firewall.lines("killed").len(), 40);
    let changes = (1..40).map(|octet| remove(&format!("203.0.113.{octet}"))).collect();
    bouncer.apply(&Plan { changes }, Timestamp::now()).await.expect("it is taken");
    assert_eq!(firewall.lines("table"), set(&["203.0.113.0"]));
    // the filter was loaded anew: the table holds what the alias says
    fs::write(firewall.path("table"), "198.51.100.0/24\n").expect("a temporary folder");
    let change = add("203.0.113.0");
    let keys = vec![(change.key.clone(), change.after.clone().expect("it is added"))];
    let check = bouncer.check(keys.clone()).await.expect("it answers");
    assert!(!check.is_good(), "{check:?}");
    let wanted: Placement = keys.into_iter().collect();
    rebuild(&mut bouncer, &wanted).await.expect("it answers");
    assert_eq!(firewall.lines("table"), set(&["203.0.113.0"]));
    let never = Never::default();
    let difference = bouncer.compare(Wanted::of(&wanted, &never), Timestamp::now()).await.expect("it answers");
    assert!(difference.is_empty(), "{difference:?}");
    fs::remove_file(firewall.path("table")).expect("it is there");
    let error = rebuild(&mut bouncer, &wanted).await.expect_err("no rule uses it");
    assert!(error.to_string().contains("no rule uses it"), "{error}");
}

#[tokio::test]
async fn a_hundred_thousand_addresses_go_in_at_once() {
    let firewall = Firewall::new();
    let mut bouncer = firewall.bouncer();
    let wanted: Placement = (0..100_000u32)
        .map(|number| add(&std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string()))
        .map(|change| (change.key, change.after.expect("it is added")))
        .collect();
    let begun = Instant::now();
    rebuild(&mut bouncer, &wanted).await.expect("it answers");
    eprintln!("100,000 addresses took {:?}", begun.elapsed());
    assert_eq!(firewall.lines("table").len(), 100_000);
    assert!(firewall.lines("killed").len() <= 500, "and not every connection is looked for");
}

#[tokio::test]
async fn a_key_or_a_firewall_that_is_not_the_right_one_is_refused() {
    let firewall = Firewall::new();
    let other = firewall.path("other").display().to_string();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &other]);
    let host = fs::read_to_string(format!("{other}.pub")).expect("it was just made");
    fs::write(firewall.path("imposter"), format!("[127.0.0.1]:{} {host}", firewall.port)).expect("a temporary folder");
    // (what, options)
    let cases = [
        ("another key", SshOptions { identity: other.into(), ..firewall.options() }),
        ("another firewall", SshOptions { known_hosts: firewall.path("imposter"), ..firewall.options() }),
    ];
    for (what, options) in cases {
        let mut bouncer = ListBouncer::new(Ssh::open("fw", &options).expect("the files are there"));
        let error = rebuild(&mut bouncer, &Placement::new()).await.expect_err(what);
        assert_eq!(error.class(), Class::Unauthorised, "{what}: {error}");
    }
    assert_eq!(firewall.lines("asked"), set(&[]), "nothing was asked of the packet filter");
}

/// What the script answers to a command and its input, and what it asked of `pfctl`.
fn script(folder: &Path, command: &str, input: &str) -> (i32, BTreeSet<String>) {
    use std::io::Write;
    let _ = fs::remove_file(folder.join("asked"));
    let mut child = Command::new("dash")
        .arg(folder.join("script"))
        .arg("cordon_ban")
        .env("SSH_ORIGINAL_COMMAND", command)
        .env("STATE", folder)
        .env("CORDON_PFCTL", folder.join("pfctl"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dash is installed");
    // a script that refuses early closes its input
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let status = child.wait().expect("it ends");
    let asked = fs::read_to_string(folder.join("asked")).unwrap_or_default();
    (status.code().unwrap_or(-1), asked.lines().map(ToOwned::to_owned).collect())
}

#[test]
fn the_script_does_nothing_but_what_it_is_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("script"), SCRIPT).expect("a temporary folder");
    fs::write(folder.path().join("pfctl"), PFCTL).expect("a temporary folder");
    fs::set_permissions(folder.path().join("pfctl"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::write(folder.path().join("table"), "").expect("a temporary folder");
    let (add, replace) = ("-t cordon_ban -T add -f -", "-t cordon_ban -T replace -f -");
    // (command, input, exit code, asked of pfctl)
    let cases = [
        ("add", "192.0.2.1\n2001:db8::/64\n", 0, vec![add]),
        ("add", "192.0.2.1", 0, vec![add]),
        ("add", "", 0, vec![]),
        ("delete", "192.0.2.1\n", 0, vec!["-t cordon_ban -T delete -f -"]),
        ("replace", "192.0.2.7\n", 0, vec![replace]),
        ("replace", "", 0, vec!["-t cordon_ban -T flush"]),
        ("show", "", 0, vec!["-t cordon_ban -T show"]),
        ("kill", "192.0.2.1\n192.0.2.2\n", 0, vec!["-k 192.0.2.1", "-k 192.0.2.2"]),
        ("add", "192.0.2.1\n$(reboot)\n", 65, vec![]),
        ("add", "192.0.2.1; reboot\n", 65, vec![]),
        ("add", "-f /etc/passwd\n", 65, vec![]),
        ("kill", "-F all\n", 65, vec![]),
        ("kill", "../x\n", 65, vec![]),
        ("kill", "*\n", 65, vec![]),
        ("replace", "192.0.2.1\n!192.0.2.2\n", 65, vec![]),
        ("flush", "", 64, vec![]),
        ("add; reboot", "192.0.2.1\n", 64, vec![]),
        ("", "", 64, vec![]),
    ];
    for (command, input, code, asked) in cases {
        assert_eq!(script(folder.path(), command, input), (code, set(&asked)), "{command:?} {input:?}");
    }
}
