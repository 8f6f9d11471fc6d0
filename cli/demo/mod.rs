//! `cordon demo`: a recorded attack against a cordon of its own, in a network of its own.
//!
//! What is shown is what the parts do: the story line is told by asking the running process through its ordinary
//! commands, and by trying to get through. Nothing on the host is touched.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use model::Alert;

use crate::args::Global;
use crate::lab::{Host, Lab, Stream};
use crate::output;
use crate::sandbox::{self, Subject};

const VICTIM: &str = "203.0.113.1";
const ATTACKER: &str = "203.0.113.66";
const VISITOR: &str = "203.0.113.20";
const PORT: u16 = 22;

/// How long a connection attempt waits before it counts as unanswered.
const UNANSWERED: Duration = Duration::from_millis(400);

/// What is waited for comes within this, or something is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Plays the attack and tells what happens.
pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    if !sandbox::is_inside() {
        return sandbox::enter();
    }
    let story = Story { start: Instant::now() };
    let mut lab = Lab::new(&[net(VICTIM)])?;
    let attacker = lab.add("attacker", &[net(ATTACKER)])?;
    let visitor = lab.add("visitor", &[net(VISITOR)])?;
    lab.victim().echo(PORT)?;
    story.tell("network", &format!("a network of its own: victim {VICTIM}, attacker {ATTACKER}, visitor {VISITOR}"))?;

    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let log = folder.path().join("auth.log");
    let mut file = File::create(&log).context("cannot write the victim's log")?;
    let (subject, ready) = Subject::start(Some(lab.victim()), folder.path(), &log, global)?;
    story.tell("cordon", &format!("watches the victim's auth.log {} ms after its start", ready.as_millis()))?;

    let mut held = open(&attacker, ATTACKER).context("the attacker cannot reach the victim")?;
    story.tell("attacker", "opens a connection to the victim and keeps it open")?;
    play(&story, &attacker, &mut file)?;

    let alert = Story::wait("alert", || {
        let text = subject.ask(&["alerts", "list", "-o", "json"]).ok()?;
        serde_json::from_str::<Vec<Alert>>(&text).ok()?.pop()
    })?;
    story.tell("alert", &output::printable(&alert.message))?;
    for body in alert.decisions.iter().flatten() {
        story.tell(
            "decision",
            &output::printable(&format!("{} {} for {}", body.remediation, body.value, body.duration)),
        )?;
    }
    let element = Story::wait("firewall change", || {
        let set = lab.victim().command("nft").args(["list", "table", "inet", "cordon"]).output().ok()?;
        let text = String::from_utf8_lossy(&set.stdout).into_owned();
        text.lines().find(|line| line.contains(ATTACKER)).map(|line| line.trim().to_owned())
    })?;
    story.tell("firewall", &format!("table inet cordon: {element}"))?;

    expect(!held.alive(), "the attacker's open connection should be dead")?;
    story.tell("attacker", "the connection it kept open is dead, too")?;
    expect(open(&visitor, VISITOR).is_some_and(|mut stream| stream.alive()), "the visitor should be answered")?;
    story.tell("visitor", "is answered as before")?;
    story.tell("why", &format!("`cordon why {ATTACKER}` says:"))?;
    for line in subject.ask(&["why", ATTACKER])?.lines() {
        output::line(&format!("            | {line}"))?;
    }

    subject.ask(&["lift", ATTACKER])?;
    Story::wait("end of the ban", || open(&attacker, ATTACKER))?;
    story.tell("lifted", &format!("`cordon lift {ATTACKER}`: the attacker is answered again"))?;
    output::line("")
}

/// Attacks at the recorded pace until nobody answers any more: a connection for each line, and the line in the log.
fn play(story: &Story, attacker: &Host, log: &mut File) -> anyhow::Result<()> {
    let recorded = include_str!("attack.log").lines().filter(|line| !line.starts_with('#'));
    for (number, line) in recorded.enumerate() {
        let (pause, message) = line.split_once(' ').context("the recording is damaged")?;
        sleep(Duration::from_millis(pause.parse().context("the recording is damaged")?));
        if open(attacker, ATTACKER).is_none() {
            return story.tell("attacker", "gets no answer any more");
        }
        log.write_all(sandbox::syslog_line(message).as_bytes()).context("cannot write the victim's log")?;
        story.tell(if number == 0 { "attack" } else { "" }, message)?;
    }
    bail!("the attack went through to its end")
}

/// Tells what happens and when.
struct Story {
    start: Instant,
}

impl Story {
    fn tell(&self, who: &str, what: &str) -> anyhow::Result<()> {
        output::line(&format!("{:6.2} s  {who:<9} {what}", self.start.elapsed().as_secs_f64()))
    }

    /// Waits until `look` sees something.
    fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
        let since = Instant::now();
        loop {
            if let Some(seen) = look() {
                return Ok(seen);
            }
            if since.elapsed() > PATIENCE {
                bail!("no {what} after {} s", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(10));
        }
    }
}

fn expect(held: bool, what: &str) -> anyhow::Result<()> {
    if held { Ok(()) } else { bail!("{what}") }
}

fn open(host: &Host, own: &str) -> Option<Stream> {
    let victim = SocketAddr::new(address(VICTIM), PORT);
    Stream::open(host, address(own), victim, UNANSWERED)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("the addresses above are addresses")
}

fn net(text: &str) -> ipnet::IpNet {
    format!("{text}/24").parse().expect("the addresses above are addresses")
}
