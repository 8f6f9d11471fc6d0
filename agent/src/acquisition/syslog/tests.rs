//! The server over real sockets on the loopback address.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::*;
use crate::acquisition::Running;
use crate::acquisition::queue::{Receiver, single};

/// How long something may take on a machine that does other things too.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running server, and everything it has said.
struct Bench {
    running: Option<Running>,
    receiver: Receiver,
    status: Arc<SourceStatus>,
    address: SocketAddr,
    lines: Vec<Line>,
}

impl Bench {
    fn start(transport: Transport, change: impl FnOnce(&mut SyslogConfig)) -> Self {
        // Between the two another program could take the port; nobody here does.
        let address = if transport == Transport::Udp {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr())
        } else {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr())
        }
        .expect("a port is free");
        let mut config = SyslogConfig {
            listen: address,
            transport,
            longest: 2048,
            bare: false,
            room: ROOM,
            senders: Vec::new(),
            spoofable: false,
            labels: vec![("type".into(), "syslog".into())],
            time_machine: false,
        };
        change(&mut config);
        let status = Arc::new(SourceStatus::new("syslog", "syslog"));
        let (lane, receiver) = single(4);
        let out = Outlet::new(0, lane, Arc::clone(&status));
        let running = Running::start(Box::new(Syslog::new(config)), out).expect("a thread can be started");
        let bench = Self { running: Some(running), receiver, status, address, lines: Vec::new() };
        let end = Instant::now() + DEADLINE;
        while !bench.status.is_watching() {
            assert!(Instant::now() < end, "it does not listen: {:?}", bench.status.report());
            thread::sleep(Duration::from_millis(1));
        }
        bench
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < end, "{what}: {} lines, {:?}", self.lines.len(), self.status.report());
            while let Some(batch) = self.receiver.try_recv() {
                self.lines.extend(batch.lines);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn texts(&mut self, count: usize) -> Vec<String> {
        self.wait("lines", |bench| bench.lines.len() >= count);
        self.lines.iter().map(|line| line.raw.to_string()).collect()
    }

    fn trouble(&self) -> Vec<String> {
        self.status.report().trouble.into_iter().map(|trouble| trouble.reason).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
            while self.receiver.recv().is_some() {}
            running.join();
        }
    }
}

#[test]
fn datagrams_become_lines_and_what_is_no_message_is_counted() {
    let mut bench = Bench::start(Transport::Udp, |config| config.spoofable = true);
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let long = format!("<13>Nov  2 10:00:00 h a: {}", "x".repeat(3000));
    for message in ["<13>Nov  2 10:00:00 h a: one\n", "no message", &long, "<13>1 - h b - - - two"] {
        sender.send_to(message.as_bytes(), bench.address).expect("somebody listens");
    }
    let texts = bench.texts(3);
    assert_eq!(texts[0], "Nov 2 10:00:00 h a: one");
    assert_eq!(texts[1].len(), 2048 - "<13> ".len(), "the rest of a datagram is cut");
    assert!(texts[2].ends_with(" h b: two"), "{texts:?}");
    let line = &bench.lines[0];
    assert_eq!((&*line.origin.src, &*line.origin.module, line.origin.spoofable), ("127.0.0.1", "syslog", true));
    assert!(bench.lines.iter().map(|line| line.offset).eq(0..3), "each line has a number of its own");
    assert_eq!((bench.status.dropped.get(), bench.status.cut.get()), (1, 1));
    assert_eq!(bench.trouble(), ["a message of 127.0.0.1 was dropped: it does not begin with a priority like `<13>`"]);
}

#[test]
fn streams_are_framed_either_way() {
    let mut bench = Bench::start(Transport::Tcp, |_| {});
    let mut first = TcpStream::connect(bench.address).expect("somebody listens");
    let mut second = TcpStream::connect(bench.address).expect("somebody listens");
    first.write_all(b"<13>Nov  2 10:00:00 h a: one\n<13>Nov  2 10:").expect("it is open");
    assert_eq!(bench.texts(1), ["Nov 2 10:00:00 h a: one"]);
    second.write_all(b"28 <13>Nov  2 10:00:00 h b: two").expect("it is open");
    bench.texts(2);
    first.write_all(b"00:00 h a: three").expect("it is open");
    drop(first);
    let texts = bench.texts(3);
    assert_eq!(texts[1..], ["Nov 2 10:00:00 h b: two", "Nov 2 10:00:00 h a: three"], "the last line needs no end");
    assert!(!bench.lines[0].origin.spoofable);
}

#[test]
fn who_may_not_send_is_not_heard() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let elsewhere = vec!["192.0.2.0/24".parse().expect("a network")];
        let mut bench = Bench::start(transport.clone(), |config| config.senders = elsewhere);
        if transport == Transport::Udp {
            let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            sender.send_to(b"<13>Nov  2 10:00:00 h a: one", bench.address).expect("somebody listens");
        } else {
            drop(TcpStream::connect(bench.address).expect("somebody listens"));
        }
        bench.wait("it is refused", |bench| !bench.trouble().is_empty());
        assert!(bench.trouble()[0].contains("may not send") && bench.lines.is_empty());
    }
}

#[test]
fn what_the_kernel_drops_is_counted_to_the_last_datagram() {
    let mut bench = Bench::start(Transport::Udp, |config| config.room = 64 * 1024);
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let message = format!("<13>Nov  2 10:00:00 h a: {}", "x".repeat(1900));
    let sent = 2_000;
    // Nobody takes the lines meanwhile: queue, pool and the kernel's buffer fill up, and the rest is dropped.
    for _ in 0..sent {
        sender.send_to(message.as_bytes(), bench.address).expect("somebody listens");
    }
    bench.wait("all are accounted for", |bench| bench.lines.len() as u64 + bench.status.dropped.get() >= sent);
    assert_eq!(bench.lines.len() as u64 + bench.status.dropped.get(), sent);
    assert!(bench.status.dropped.get() > 0 && !bench.lines.is_empty());
}

#[test]
fn a_port_that_is_taken_is_red_and_tried_again() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = taken.local_addr().expect("it is bound");
    let status = Arc::new(SourceStatus::new("syslog", "syslog"));
    let (lane, receiver) = single(4);
    let config = SyslogConfig {
        listen: address,
        transport: Transport::Tcp,
        longest: 2048,
        bare: false,
        room: ROOM,
        senders: Vec::new(),
        spoofable: false,
        labels: Vec::new(),
        time_machine: false,
    };
    let out = Outlet::new(0, lane, Arc::clone(&status));
    let running = Running::start(Box::new(Syslog::new(config)), out).expect("a thread can be started");
    let wait = |done: &dyn Fn() -> bool| {
        let end = Instant::now() + DEADLINE;
        while !done() {
            assert!(Instant::now() < end, "{:?}", status.report());
            thread::sleep(Duration::from_millis(1));
        }
    };
    wait(&|| !status.report().trouble.is_empty());
    assert!(status.report().trouble[0].reason.starts_with("cannot listen on tcp://127.0.0.1:"));
    drop(taken);
    wait(&|| status.is_watching() && status.report().trouble.is_empty());
    assert!(status.report().retries > 0 && status.report().last_error.is_some(), "what failed is still known");
    running.stop();
    drop(receiver);
    running.join();
}

/// An authority, and what it has vouched for, as PEM files.
struct Authority<'a> {
    folder: &'a Path,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(folder: &'a Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("keys can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it can sign");
        std::fs::write(folder.join(name), issuer.pem()).expect("room on the disk");
        Self { folder, issuer }
    }

    /// Writes `name.crt` and `name.key` for the host `localhost`.
    fn vouch(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("keys can be made");
        let params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("it can sign");
        let paths = (self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key")));
        std::fs::write(&paths.0, certificate.pem()).expect("room on the disk");
        std::fs::write(&paths.1, key.serialize_pem()).expect("room on the disk");
        paths
    }
}

/// Sends a message by TLS, with the certificate in `own` if there is one.
fn send(address: SocketAddr, ca: &Path, own: Option<&(PathBuf, PathBuf)>, message: &[u8]) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_file(cert).expect("a certificate");
            let key = PrivateKeyDer::from_pem_file(key).expect("a key");
            config.with_client_auth_cert(vec![cert], key).expect("they belong together")
        }
    };
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    stream.write_all(message)?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[test]
fn only_who_has_a_certificate_is_heard_where_one_is_asked_for() {
    let folder = TempDir::new().expect("a temporary folder");
    let ca = folder.path().join("ca.crt");
    let authority = Authority::new(folder.path(), "ca.crt");
    let (cert, key) = authority.vouch("server");
    let known = authority.vouch("known");
    let stranger = Authority::new(folder.path(), "other.crt").vouch("stranger");
    let files = TlsFiles { cert, key, client_ca: Some(ca.clone()) };
    let mut bench = Bench::start(Transport::Tls(files), |_| {});
    // With TLS 1.3 the sender learns only later that it was refused.
    let _ = send(bench.address, &ca, None, b"<13>Nov  2 10:00:00 h a: nobody\n");
    let _ = send(bench.address, &ca, Some(&stranger), b"<13>Nov  2 10:00:00 h a: stranger\n");
    bench.wait("they are refused", |bench| !bench.trouble().is_empty());
    send(bench.address, &ca, Some(&known), b"<13>Nov  2 10:00:00 h a: one\n").expect("it is let in");
    assert_eq!(bench.texts(1), ["Nov 2 10:00:00 h a: one"]);
}

#[test]
fn a_certificate_that_cannot_be_read_is_named() {
    let folder = TempDir::new().expect("a temporary folder");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").expect("room on the disk");
    let files = TlsFiles { cert: empty.clone(), key: empty.clone(), client_ca: None };
    let error = tls::acceptor(&files).err().expect("there is no certificate").to_string();
    assert_eq!(error, format!("cannot use `{}` for TLS: it holds no certificate", empty.display()));
}
