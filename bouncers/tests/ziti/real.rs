//! A real controller and router on loopback, where there is a `ziti` program: a transfer is cut in the middle and let
//! go on, again and again, and what a person disabled stays so.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bouncers::engine::desired::{Key, Subject};
use bouncers::ziti::config::Options;
use bouncers::ziti::journal::Journal;
use bouncers::ziti::plan::Standing;
use bouncers::ziti::work::{Settled, Work};
use jiff::Timestamp;
use model::Scope;

use crate::support::in_minutes;

/// How long the network may take to begin.
const START: Duration = Duration::from_mins(2);
/// How long a tunneler may take to find that it may again.
const BACK: Duration = Duration::from_mins(1);

/// The program: named, in the search path, or where `.ci/setup ziti` puts it.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("ZITI_BIN") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map(|target| target.join("ziti"));
    std::env::split_paths(&path).chain(target).map(|folder| folder.join("ziti")).find(|file| file.is_file())
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, with a folder of its own.
struct Ziti {
    program: PathBuf,
    home: PathBuf,
}

impl Ziti {
    fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(&self.program);
        let log = std::fs::File::options().create(true).append(true).open(self.home.join("ziti.log")).expect("a log");
        command.args(args).current_dir(&self.home).env("HOME", &self.home).env("ZITI_CONFIG_DIR", &self.home);
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log);
        command
    }

    fn run(&self, line: &str) {
        let status = self.command(line.split(' ')).status().expect("the program runs");
        assert!(status.success(), "`ziti {line}` fails:\n{}", self.log());
    }

    fn start(&self, line: &str) -> Running {
        Running(self.command(line.split(' ')).spawn().expect("the program runs"))
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.home.join("ziti.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A service that never stops sending.
fn serve() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                while stream.write_all(&[b'x'; 256]).is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    port
}

/// Reads from `port` for ever, and counts.
fn transfer(port: u16) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        while Arc::strong_count(&counted) > 1 {
            let mut buffer = [0; 4096];
            if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    counted.fetch_add(read as u64, Ordering::Relaxed);
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    count
}

/// Waits until bytes arrive, or until none have for half a second; says how long that took.
async fn until(flows: bool, count: &AtomicU64, patience: Duration, ziti: &Ziti) -> Duration {
    let start = Instant::now();
    let (mut last, mut since) = (count.load(Ordering::Relaxed), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = count.load(Ordering::Relaxed);
        if now != last {
            if flows {
                return start.elapsed();
            }
            (last, since) = (now, Instant::now());
        } else if !flows && since.elapsed() > Duration::from_millis(500) {
            return since.duration_since(start);
        }
        assert!(start.elapsed() < patience, "the transfer goes on: {}, wanted: {flows}\n{}", !flows, ziti.log());
    }
}

async fn begun(port: u16) -> bool {
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().expect("a client");
    let url = format!("https://127.0.0.1:{port}/edge/client/v1/version");
    client.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
}

async fn settle(work: &mut Work, until: Option<Timestamp>) -> Option<Settled> {
    let key = Key { remediation: "ban".into(), subject: Subject::Named(Scope::new("identity"), "name:alice".into()) };
    work.wish([(&key, until)]);
    work.settle(None).await.expect("the controller answers").remove(&key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_is_cut_and_let_go_on_by_a_real_network() {
    let Some(program) = program() else {
        eprintln!(
            "NOT RUN: no `ziti` program, only the contract servers were asked; set ZITI_BIN or run `.ci/setup ziti`"
        );
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ziti = Ziti { program, home: folder.path().to_owned() };
    let (controller, router, proxy) = (free_port(), free_port(), free_port());
    let address = "127.0.0.1";
    let _network = ziti.start(&format!(
        "edge quickstart --home {home}/network --ctrl-address {address} --ctrl-port {controller} --router-address {address} \
         --router-port {router} --username admin --password cordon-test",
        home = ziti.home.display()
    ));
    let start = Instant::now();
    while !begun(controller).await {
        assert!(start.elapsed() < START, "the network does not begin:\n{}", ziti.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The router enrols and connects after the controller has begun.
    tokio::time::sleep(Duration::from_secs(15)).await;
    ziti.run(&format!("edge login {address}:{controller} -u admin -p cordon-test -y"));
    for (name, more) in [("cordon", " --admin"), ("alice", " -a users"), ("host", " -a hosts")] {
        ziti.run(&format!("edge create identity {name}{more} -o {name}.jwt"));
        ziti.run(&format!("edge enroll {name}.jwt -o {name}.json"));
    }
    let config = format!("{{\"protocol\":\"tcp\",\"address\":\"127.0.0.1\",\"port\":{}}}", serve());
    ziti.run(&format!("edge create config stream.host host.v1 {config}"));
    ziti.run("edge create service stream --configs stream.host");
    ziti.run("edge create service-policy dial Dial --identity-roles #users --service-roles @stream");
    ziti.run("edge create service-policy bind Bind --identity-roles #hosts --service-roles @stream");
    let _host = ziti.start("tunnel host -i host.json");
    let _client = ziti.start(&format!("tunnel proxy -i alice.json stream:{proxy}"));
    let count = transfer(proxy);
    until(true, &count, START, &ziti).await;

    let options = Options { identity: Some(ziti.home.join("cordon.json")), ..Options::default() };
    let journal = Journal::read(&ziti.home.join("owned")).expect("a journal");
    let mut work = Work::new(options.clone(), options.open().expect("a usable identity"), journal);
    let version = work.api().version().await.expect("it answers").version;
    let mut cuts = Vec::new();
    for round in 1..=3 {
        let start = Instant::now();
        assert_eq!(settle(&mut work, Some(in_minutes(10))).await, Some(Settled::Done(Standing::InForce)), "{round}");
        until(false, &count, Duration::from_secs(10), &ziti).await;
        cuts.push(start.elapsed().saturating_sub(Duration::from_millis(500)));
        settle(&mut work, None).await;
        until(true, &count, BACK, &ziti).await;
    }
    eprintln!("ziti {version}: a transfer was cut after {cuts:?}");
    assert!(cuts.iter().all(|cut| *cut < Duration::from_secs(2)), "{cuts:?}");

    let alice = work.api().find(&bouncers::ziti::name::Name::Name("alice".into())).await.expect("she is there").id;
    settle(&mut work, Some(in_minutes(10))).await;
    work.api().disable(&alice, 60 * 24).await.expect("a person may");
    settle(&mut work, None).await;
    assert!(work.api().identity(&alice).await.expect("she is there").disabled, "a person's disable is not undone");
    until(false, &count, Duration::from_secs(10), &ziti).await;
    work.api().enable(&alice).await.expect("a person may");
    until(true, &count, BACK, &ziti).await;
}
