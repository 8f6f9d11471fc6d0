//! Logs come from what really writes and moves them: rsyslog over each of its ways, and logrotate in each of its kinds.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{CertificateParams, KeyPair};

use crate::support::cordon::Cordon;
use crate::support::eventually;

/// A program that is stopped with its value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the program is there. If not, says loudly that the test did not run.
fn has(program: &str) -> bool {
    let there = Path::new(program).exists();
    if !there {
        eprintln!("SKIPPED, NOT PASSED: `{program}` is not installed: make test installs it");
    }
    there
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// Starts an rsyslogd that hands on what comes into `socket` in its folder, as each of `actions` says.
fn rsyslogd(folder: &Path, actions: &str) -> Program {
    let place = folder.display();
    let config = format!(
        "global(workDirectory=\"{place}\" defaultNetstreamDriverCAFile=\"{place}/server.crt\")\n\
         module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         input(type=\"imuxsock\" Socket=\"{place}/socket\" RateLimit.Interval=\"0\" UseSysTimeStamp=\"off\")\n{actions}"
    );
    let path = folder.join("rsyslog.conf");
    fs::write(&path, config).expect("a writable folder");
    let mut command = Command::new("/usr/sbin/rsyslogd");
    command.arg("-n").arg("-f").arg(&path).arg("-i").arg(folder.join("rsyslog.pid"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Program(child.expect("it is installed"))
}

#[test]
fn rsyslog_sends_by_udp_by_tcp_and_by_tls() {
    if !has("/usr/sbin/rsyslogd") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = KeyPair::generate().expect("keys can be made");
    let certificate = CertificateParams::new(vec!["localhost".into()]).expect("a name").self_signed(&key);
    fs::write(folder.path().join("server.crt"), certificate.expect("it can sign").pem()).expect("a writable folder");
    fs::write(folder.path().join("server.key"), key.serialize_pem()).expect("a writable folder");
    let place = folder.path().display();
    let [udp, tcp, tls] = [(); 3].map(|()| free_port());
    let server =
        |port: u16, rest: &str| format!("source: syslog\nlisten_port: {port}\n{rest}labels: {{type: syslog}}\n---\n");
    let acquisition = [
        server(udp, "protocol: udp\n"),
        server(tcp, "protocol: tcp\n"),
        server(tls, &format!("protocol: tls\ncert_file: {place}/server.crt\nkey_file: {place}/server.key\n")),
    ];
    let mut cordon = Cordon::install(None, folder.path(), "", &acquisition.concat());
    cordon.start();

    let tls_options = "StreamDriver=\"gtls\" StreamDriverMode=\"1\" StreamDriverAuthMode=\"x509/name\" \
                       StreamDriverPermittedPeers=\"localhost\"";
    let action = |address: &str, port: u16, protocol: &str, rest: &str| {
        format!(
            "if $msg contains \"{address} \" then action(type=\"omfwd\" Target=\"127.0.0.1\" Port=\"{port}\" \
             Protocol=\"{protocol}\" {rest})\n"
        )
    };
    let actions = [
        action("198.51.100.1", udp, "udp", ""),
        action("198.51.100.2", tcp, "tcp", "TCP_Framing=\"octet-counted\""),
        action("198.51.100.3", tls, "tcp", &format!("TCP_Framing=\"octet-counted\" {tls_options}")),
        action("198.51.100.4", tcp, "tcp", "Template=\"RSYSLOG_SyslogProtocol23Format\""),
    ];
    let _rsyslogd = rsyslogd(folder.path(), &actions.concat());
    let socket = UnixDatagram::unbound().expect("a socket");
    eventually("rsyslog listens", || socket.connect(folder.path().join("socket")).is_ok());
    let expected = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"];
    for _ in 0..10 {
        for address in expected {
            let now = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
            let message = format!("<38>{now} sshd[811]: Failed password for root from {address} port 40000 ssh2");
            socket.send(message.as_bytes()).expect("rsyslog takes it");
        }
    }
    eventually("all four are banned", || {
        let mut banned = cordon.banned();
        banned.sort();
        banned == expected.map(|address| format!("Ip:{address}"))
    });
    cordon.stop();
}

#[test]
fn logrotate_loses_and_doubles_nothing() {
    if !has("/usr/sbin/logrotate") {
        return;
    }
    // (name, what the configuration says, whether cordon is stopped meanwhile)
    let cases = [
        ("create", "create", false),
        ("copytruncate", "copytruncate", false),
        ("compressed", "create\ncompress", false),
        ("compressed later", "create\ncompress\ndelaycompress", true),
        ("dated and compressed", "create\ncompress\ndateext\ndateformat -%Y%m%d-%s", true),
        ("copied and compressed while nobody reads", "copytruncate\ncompress", true),
    ];
    std::thread::scope(|scope| {
        for (name, options, stopped) in cases {
            scope.spawn(move || rotate_with_logrotate(name, options, stopped));
        }
    });
}

fn rotate_with_logrotate(name: &str, options: &str, stopped: bool) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("auth.log");
    fs::write(&log, "Nov 22 10:00:00 h sshd[1]: Server listening on 0.0.0.0 port 22.\n").expect("a writable folder");
    let config = folder.path().join("logrotate.conf");
    let text = format!("{} {{\nrotate 9\nsize 1\nsu root root\n{options}\n}}\n", log.display());
    fs::write(&config, text).expect("a writable folder");
    let acquisition =
        format!("filenames: ['{}*']\nexclude_regexps: ['cordon']\nlabels: {{type: syslog}}\n", log.display());
    let mut cordon = Cordon::install(None, folder.path(), "", &acquisition);
    cordon.start();
    let lines = |cordon: &Cordon| {
        let status = cordon.status();
        status["sources"][0]["lines"].as_u64().expect("a number")
    };
    let mut written = 0;
    let mut write = |count: u64| {
        let mut file = OpenOptions::new().append(true).create(true).open(&log).expect("our log");
        for _ in 0..count {
            written += 1;
            let line = format!("Nov 22 10:00:00 h sshd[1]: Connection closed by 192.0.2.1 port {written}\n");
            file.write_all(line.as_bytes()).expect("room on the disk");
        }
    };
    let rotate = || {
        // times of files are told apart by a coarse clock, and dates by seconds
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let state = folder.path().join("logrotate.state");
        let status = Command::new("/usr/sbin/logrotate").arg("-f").arg("-s").arg(state).arg(&config).status();
        assert!(status.expect("it is installed").success(), "{name}");
    };
    write(10);
    eventually("the first lines are read", || lines(&cordon) == 10);
    let before = if stopped {
        cordon.stop();
        10
    } else {
        0
    };
    for _ in 0..3 {
        write(20);
        if !stopped {
            eventually("what is there is read", || lines(&cordon) % 20 == 10);
        }
        rotate();
    }
    write(5);
    if stopped {
        cordon.start();
    }
    let all = 10 + 3 * 20 + 5 - before;
    eventually(&format!("{name}: all lines are read"), || lines(&cordon) >= all);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(lines(&cordon), all, "{name}: nothing is read twice");
    cordon.stop();
}

#[test]
fn each_datasource_speaks_as_it_is_told_and_is_known_by_its_identity() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().display().to_string();
    for name in ["loud", "quiet", "long"] {
        fs::write(folder.path().join(format!("{name}.log")), format!("{}\n", "x".repeat(100)))
            .expect("a writable folder");
    }
    let acquisition = format!(
        "filename: {place}/loud.log\nname: front door\nlabels: {{type: syslog}}\n\
         ---\nfilename: {place}/quiet.log\nname: cellar\nlog_level: error\nunique_id: cellar\nlabels: {{type: syslog}}\n\
         ---\nfilename: {place}/long.log\nmode: cat\nmax_buffer_size: 30\nlabels: {{type: syslog}}\n"
    );
    let mut cordon = Cordon::install(None, folder.path(), "enforcement:\n  mode: off\n", &acquisition);
    cordon.start();
    eventually("all is read", || cordon.status()["sources"][2]["lines"] == 1);
    assert_eq!((&cordon.status()["sources"][2]["cut"], &cordon.status()["sources"][0]["cut"]), (&1.into(), &0.into()));
    assert_eq!(cordon.status()["sources"][1]["name"], "file:cellar");
    eventually("one says what it does", || cordon.log().contains("loud.log at="));
    cordon.stop();
    let log = cordon.log();
    let said = log.lines().find(|line| line.contains("loud.log at=")).expect("it was there");
    assert!(said.contains("datasource{name=\"front door\"}"), "{said}");
    assert!(!log.contains("quiet.log at=") && !log.contains("name=\"cellar\""), "{log}");
}
