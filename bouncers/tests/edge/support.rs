//! Targets with entries in them, an application behind the proxies, and programs that end with their test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bouncers::engine::desired::{Key, Subject};
use bouncers::engine::plan::{Placed, Placement};
use bouncers::engine::{Bouncer, Extent, Never, Wanted};
use jiff::{SignedDuration, Timestamp};
use model::Scope;

/// How long something may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn ban(net: &str) -> Key {
    Key { remediation: "ban".into(), subject: Subject::Net(model::scope::parse_net(net).expect("a valid test prefix")) }
}

pub(crate) fn user(name: &str) -> Key {
    Key { remediation: "ban".into(), subject: Subject::Named(Scope::new("Username"), name.into()) }
}

/// Lets `target` hold `keys` for ten minutes.
pub(crate) fn load(target: &mut impl Bouncer, keys: &[Key]) {
    let until = Timestamp::now() + SignedDuration::from_mins(10);
    let placement: Placement = keys.iter().map(|key| (key.clone(), Placed { until, pieces: None })).collect();
    let never = Never::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = target.rebuild(Wanted::of(&placement, &never), Extent::Exactly, Timestamp::now());
    runtime.block_on(done).expect("memory takes it");
}

/// A program that ends, with all that it has started, when the test does.
pub(crate) struct Program(Child);

impl Program {
    /// Starts `command` in a process group of its own; what it says goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("a writable folder");
        let errors = log.try_clone().expect("an open file");
        let child = command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        Self(child.expect("a program that was found"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.0.id() as i32);
        // it may have ended by itself
        let _ = group.map(|group| rustix::process::kill_process_group(group, rustix::process::Signal::KILL));
        let _ = self.0.wait();
    }
}

/// The program `name` where it is installed or where the variable `place` says; else says loudly that `what` is not tested.
pub(crate) fn find(name: &str, place: &str, what: &str) -> Option<PathBuf> {
    let named = std::env::var_os(place).map(PathBuf::from);
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found =
        named.or_else(|| path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file()));
    if found.is_none() {
        eprintln!("NOT TESTED: {what}: there is no `{name}` here (install it, or say with {place} where it is)");
    }
    found
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// An application behind a proxy: says `application` to whoever gets through, and who it thinks that is.
pub(crate) fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, "application"));
        }
    });
    address
}

/// A service that takes connections and never answers.
pub(crate) fn silence() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    std::thread::spawn(move || {
        let held: Vec<TcpStream> = listener.incoming().flatten().collect();
        drop(held);
    });
    address
}

fn answer(stream: TcpStream, text: &str) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// What a request through a proxy came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Asks `address` for `path` with `headers`, on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<Seen> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n").ok()?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n").ok()?;
    }
    stream.write_all(b"\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Some(Seen { status, body })
}

/// Waits until somebody listens on `address`; shows `log` if nobody ever does.
pub(crate) fn wait_for(address: SocketAddr, log: &Path) {
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(began.elapsed() < PATIENCE, "nobody listens on {address}:\n{}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
}
