//! Network namespaces for tests: one for the victim, one for the attacker, a cable between them.
//!
//! A test runs itself again inside a namespace of its own; the attacker is the same program once more, in a
//! second namespace, and does what it is told on its standard input. Nothing has a global name, and everything
//! goes with its process.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const INSIDE: &str = "CORDON_TEST_NAMESPACE";
const ATTACKER: &str = "CORDON_TEST_ATTACKER";
/// Marks the attacker's answers among what the test harness prints.
const MARK: &str = "@@ ";
const PORT: u16 = 9999;

/// How long a packet may take over the cable, at the most.
const GRACE: Duration = Duration::from_millis(250);

/// Runs `body` inside a network namespace of its own. `name` is the test's full name. Where that is impossible,
/// the test says so and does nothing.
pub(crate) fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return body();
    }
    if let Some(reason) = impossible() {
        eprintln!("SKIPPED {name}: {reason}");
        return;
    }
    let status = myself(name).env(INSIDE, "1").status().expect("`unshare` was found a moment ago");
    assert!(status.success(), "{name} failed inside its namespace");
}

/// This test program again, in a new network namespace, for one test.
fn myself(name: &str) -> Command {
    let program = std::env::current_exe().expect("the test program has a path");
    let mut command = Command::new("unshare");
    command.arg("--net").arg(program).args(["--exact", name, "--nocapture"]);
    command
}

fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let missing = |program: &str| Command::new(program).arg("-V").output().is_err();
    if let Some(program) = ["unshare", "ip", "nft"].into_iter().find(|program| missing(program)) {
        return Some(format!("no `{program}` on this host (packages nftables, iproute2, util-linux)"));
    }
    let namespace = Command::new("unshare").args(["--net", "nft", "list", "tables"]).output();
    match namespace {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Runs a program that must succeed, and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Why a program does not do what it is told, if it does not.
pub(crate) fn refuses(program: &str, arguments: &str) -> Option<String> {
    let output = Command::new(program).args(arguments.split(' ')).output().expect("the program is there");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// A process in a network namespace of its own, at the far end of a cable. It does what it is told.
pub(crate) struct Far {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Far {
    /// Lays a cable: its end here is called `near`, the far one `far`; both are up.
    pub(crate) fn new(near: &str, far: &str) -> Self {
        let mut child = myself("attacker")
            .env(ATTACKER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` was found a moment ago");
        let orders = child.stdin.take().expect("it was piped");
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        let pid = child.id().to_string();
        for file in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/default/accept_dad"] {
            std::fs::write(format!("/proc/sys/net/{file}"), "0").expect("the namespace is ours");
        }
        let mut this = Self { child, orders, answers };
        this.order("hello");
        run("ip", &["link", "add", near, "type", "veth", "peer", "name", far, "netns", &pid]);
        run("ip", &["link", "set", near, "up"]);
        this.ip("link set lo up");
        this.ip(&format!("link set {far} up"));
        this
    }

    pub(crate) fn order(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").expect("the far process listens");
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.answers.read_line(&mut line).expect("the far process answers");
            assert_ne!(read, 0, "the far process is gone at `{order}`");
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim().to_owned();
            }
        }
    }

    /// An order that must succeed.
    pub(crate) fn must(&mut self, order: &str) {
        assert_eq!(self.order(order), "ok", "{order}");
    }

    pub(crate) fn ip(&mut self, arguments: &str) {
        self.must(&format!("ip {arguments}"));
    }

    /// Whether a datagram from `source`, which is one of the addresses there, reaches `other` at `to`.
    pub(crate) fn reaches(&mut self, source: &str, other: &mut Far, to: &str) -> bool {
        static SENT: AtomicU32 = AtomicU32::new(0);
        let number = SENT.fetch_add(1, Ordering::Relaxed);
        let order = format!("udp {source} {to} {number}");
        assert_eq!(self.order(&order), "ok", "{order}");
        other.order(&format!("hear {to} {number}")) == "ok"
    }
}

/// The other end of the cable, and sockets at this one.
pub(crate) struct Attacker {
    far: Far,
    socket4: UdpSocket,
    socket6: UdpSocket,
    sent: u32,
}

impl Attacker {
    /// Lays the cable. We are `10.66.0.1` and `fd66::1`, the attacker has `10.66.0.2` and `fd66::2` and whatever is
    /// asked for.
    pub(crate) fn new() -> Self {
        let mut far = Far::new("v0", "v1");
        let bind = |address: &str| {
            let socket = UdpSocket::bind(address).expect("a free port in a new namespace");
            socket.set_read_timeout(Some(GRACE)).expect("a duration above zero");
            socket
        };
        let (socket4, socket6) = (bind("0.0.0.0:9999"), bind("[::]:9998"));
        run("ip", &["address", "add", "10.66.0.1/16", "dev", "v0"]);
        run("ip", &["address", "add", "fd66::1/16", "dev", "v0", "nodad"]);
        far.ip("address add 10.66.0.2/16 dev v1");
        far.ip("address add fd66::2/16 dev v1 nodad");
        let mut attacker = Self { far, socket4, socket6, sent: 0 };
        // Both ends ask around for a moment before IPv6 works.
        for source in ["10.66.0.2", "fd66::2"] {
            assert!((0..40).any(|_| attacker.reaches(source)), "{source} never reaches us");
        }
        attacker
    }

    fn order(&mut self, order: &str) -> String {
        self.far.order(order)
    }

    /// Gives the attacker further addresses.
    pub(crate) fn owns(&mut self, addresses: &[&str]) {
        for address in addresses {
            if address.contains(':') {
                self.far.ip(&format!("address add {address}/128 dev v1 nodad"));
            } else {
                self.far.ip(&format!("address add {address}/32 dev v1"));
            }
        }
    }

    /// Whether a datagram that we send reaches the attacker at `to`, which is one of his addresses.
    pub(crate) fn hears_us(&mut self, to: &str) -> bool {
        self.sent += 1;
        let place = if to.contains(':') { format!("[{to}]:7777") } else { format!("{to}:7777") };
        let socket = if to.contains(':') { &self.socket6 } else { &self.socket4 };
        self.far.must(&format!("listen {place}"));
        // a packet that our own rules drop on its way out is an error here already
        let _ = socket.send_to(self.sent.to_string().as_bytes(), &place);
        let sent = self.sent;
        self.order(&format!("hear {place} {sent}")) == "ok"
    }

    /// Whether a datagram from `source` reaches us.
    pub(crate) fn reaches(&mut self, source: &str) -> bool {
        let source: IpAddr = source.parse().expect("an address");
        self.sent += 1;
        let to = if source.is_ipv4() { "10.66.0.1:9999" } else { "[fd66::1]:9998" };
        let order = format!("udp {source} {to} {}", self.sent);
        assert_eq!(self.order(&order), "ok", "{order}");
        let socket = if source.is_ipv4() { &self.socket4 } else { &self.socket6 };
        let mut buffer = [0; 64];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { return false };
            if buffer[..length] == *self.sent.to_string().as_bytes() {
                assert_eq!(from.ip().to_canonical(), source);
                return true;
            }
        }
    }

    /// Which of `sources` reach us.
    pub(crate) fn reaching<'a>(&mut self, sources: &[&'a str]) -> Vec<&'a str> {
        sources.iter().copied().filter(|source| self.reaches(source)).collect()
    }

    /// Opens connections from `source` from now on.
    pub(crate) fn comes_from(&mut self, source: &str) {
        self.far.ip(&format!("route change 10.66.0.0/16 dev v1 src {source}"));
    }

    /// Sends `count` datagrams from each of `sources`, as long as some two seconds, and counts meanwhile what arrives.
    pub(crate) fn stream(&mut self, sources: &[&str], count: u32) -> Stream {
        let done = Arc::new(AtomicBool::new(false));
        let count_from = |socket: &UdpSocket| {
            let socket = socket.try_clone().expect("a socket can be shared");
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let mut counts: HashMap<IpAddr, u32> = HashMap::new();
                let mut buffer = [0; 64];
                loop {
                    match socket.recv_from(&mut buffer) {
                        Ok((_, from)) => *counts.entry(from.ip().to_canonical()).or_default() += 1,
                        Err(_) if done.load(Ordering::Relaxed) => return counts,
                        Err(_) => {}
                    }
                }
            })
        };
        let counters = [count_from(&self.socket4), count_from(&self.socket6)];
        let sources: Vec<String> = sources.iter().map(|&source| source.to_owned()).collect();
        let order = format!("stream {count} {}", sources.join(" "));
        self.far.must(&order);
        Stream { sources, counters, done, began: Instant::now() }
    }

    /// Datagrams from `source`, one each `pause`, until it is ended.
    pub(crate) fn steady(&mut self, source: &str, pause: Duration) -> Steady {
        self.far.must(&format!("steady {source} 10.66.0.1:9997 {}", pause.as_micros()));
        let socket = UdpSocket::bind("10.66.0.1:9997").expect("a free port in a new namespace");
        socket.set_nonblocking(true).expect("an open socket");
        Steady { socket }
    }

    /// The same as [`Attacker::connect`] where a firewall between us lets it through.
    pub(crate) fn connect_if_possible(&mut self) -> Option<TcpStream> {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("a free port in a new namespace");
        if self.order("connect 10.66.0.1:9999") != "ok" {
            return None;
        }
        let (stream, _) = listener.accept().expect("the attacker connected");
        stream.set_read_timeout(Some(GRACE)).expect("a duration above zero");
        Some(stream)
    }

    /// Opens a connection and returns our end.
    pub(crate) fn connect(&mut self) -> TcpStream {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("a free port in a new namespace");
        assert_eq!(self.order("connect 10.66.0.1:9999"), "ok");
        let (stream, _) = listener.accept().expect("the attacker connected");
        stream.set_read_timeout(Some(GRACE)).expect("a duration above zero");
        stream
    }

    /// Whether a byte that the attacker sends over the open connection reaches us.
    pub(crate) fn speaks(&mut self, stream: &mut TcpStream) -> bool {
        assert_eq!(self.order("say"), "ok");
        stream.read(&mut [0]).is_ok_and(|read| read == 1)
    }
}

/// Datagrams on their way.
pub(crate) struct Stream {
    sources: Vec<String>,
    counters: [thread::JoinHandle<HashMap<IpAddr, u32>>; 2],
    done: Arc<AtomicBool>,
    began: Instant,
}

/// How long a stream lasts.
const STREAMS: Duration = Duration::from_secs(4);

impl Stream {
    /// Waits for its end: how many datagrams of each source arrived.
    pub(crate) fn received(self) -> Vec<(String, u32)> {
        thread::sleep((STREAMS + GRACE * 2).saturating_sub(self.began.elapsed()));
        self.done.store(true, Ordering::Relaxed);
        let counts: HashMap<IpAddr, u32> =
            self.counters.into_iter().flat_map(|counter| counter.join().expect("it only counts")).collect();
        let count = |source: &String| counts.get(&source.parse().expect("an address")).copied().unwrap_or_default();
        self.sources.iter().map(|source| (source.clone(), count(source))).collect()
    }
}

/// Sends in the background: `count` datagrams from each source, evenly over the time that a stream lasts.
fn pour_out(count: u32, sources: &[&str]) {
    let sockets: Vec<(UdpSocket, &str)> = sources
        .iter()
        .map(|source| {
            let source: IpAddr = source.parse().expect("an address");
            let to = if source.is_ipv4() { "10.66.0.1:9999" } else { "[fd66::1]:9998" };
            (UdpSocket::bind((source, 0)).expect("the address is ours"), to)
        })
        .collect();
    thread::spawn(move || {
        let began = Instant::now();
        for number in 0..count {
            thread::sleep((STREAMS * number / count).saturating_sub(began.elapsed()));
            for (socket, to) in &sockets {
                // a refusal that came back from an earlier packet is not about this one
                let _ = socket.send_to(b"stream", to).or_else(|_| socket.send_to(b"stream", to));
            }
        }
    });
}

/// A steady stream of datagrams to us.
pub(crate) struct Steady {
    socket: UdpSocket,
}

impl Steady {
    /// Ends it; how many were sent, and how many arrived.
    pub(crate) fn end(self, attacker: &mut Attacker) -> (u64, u64) {
        let sent = attacker.order("enough").parse().expect("a number");
        thread::sleep(GRACE);
        let arrived = std::iter::from_fn(|| self.socket.recv(&mut [0; 64]).ok()).count();
        (sent, arrived as u64)
    }
}

/// What the attacker's process does: obeys.
pub(crate) fn obey() {
    if std::env::var_os(ATTACKER).is_none() {
        return;
    }
    let mut stream: Option<TcpStream> = None;
    let mut listener: Option<TcpListener> = None;
    let mut sockets: HashMap<String, UdpSocket> = HashMap::new();
    let (enough, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    for line in std::io::stdin().lines() {
        let line = line.expect("orders are text");
        let words: Vec<&str> = line.split(' ').collect();
        let done = match words[..] {
            ["ip", ..] => Command::new("ip").args(&words[1..]).status().is_ok_and(|status| status.success()),
            ["udp", source, to, what] => {
                let source: IpAddr = source.parse().expect("an address");
                let to: SocketAddr = to.parse().expect("an address and a port");
                let socket = UdpSocket::bind((source, 0)).expect("the address is ours");
                // A refusal that came back from an earlier packet is not about this one.
                socket.send_to(what.as_bytes(), to).is_ok()
            }
            ["stream", count, ref sources @ ..] => {
                pour_out(count.parse().expect("a number"), sources);
                true
            }
            ["listen", at] => {
                let socket = UdpSocket::bind(at).or_else(|error| sockets.remove(at).ok_or(error));
                let socket = socket.expect("the address is ours, and the port free");
                socket.set_read_timeout(Some(GRACE)).expect("a duration above zero");
                sockets.insert(at.to_owned(), socket);
                true
            }
            ["hear", at, what] => {
                let socket = &sockets[at];
                let mut buffer = [0; 64];
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(length) if buffer[..length] == *what.as_bytes() => break true,
                        Ok(_) => {}
                        Err(_) => break false,
                    }
                }
            }
            ["serve", at] => {
                listener = TcpListener::bind(at).ok();
                listener.is_some()
            }
            ["accept"] => {
                stream = listener.as_ref().and_then(|listener| listener.accept().ok()).map(|(stream, _)| stream);
                stream.as_ref().is_some_and(|stream| stream.set_read_timeout(Some(GRACE)).is_ok())
            }
            ["read"] => stream.as_mut().is_some_and(|stream| stream.read(&mut [0]).is_ok_and(|read| read == 1)),
            ["steady", source, to, pause] => {
                let source: IpAddr = source.parse().expect("an address");
                let to: SocketAddr = to.parse().expect("an address and a port");
                let pause = Duration::from_micros(pause.parse().expect("a number"));
                let socket = UdpSocket::bind((source, 0)).expect("the address is ours");
                let (stop, sent) = (Arc::clone(&enough), Arc::clone(&sent));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // what is refused on the way back is not about this one
                        let _ = socket.send_to(b"x", to);
                        sent.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(pause);
                    }
                });
                true
            }
            ["enough"] => {
                enough.store(true, Ordering::Relaxed);
                println!("\n{MARK}{}", sent.load(Ordering::Relaxed));
                continue;
            }
            ["connect", to] => {
                let to: SocketAddr = to.parse().expect("an address and a port");
                stream = TcpStream::connect_timeout(&to, GRACE * 4).ok();
                stream.is_some()
            }
            ["say"] => stream.as_mut().is_some_and(|stream| stream.write_all(b"x").is_ok()),
            _ => true,
        };
        println!("\n{MARK}{}", if done { "ok" } else { "failed" });
    }
}
