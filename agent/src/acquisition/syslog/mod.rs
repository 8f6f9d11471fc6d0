//! A syslog server: lines that other hosts send.
//!
//! Over UDP anybody can write any sender on a datagram, so what comes that way is marked as spoofable ([`Origin::spoofable`])
//! unless the listener is this host's own: it raises alerts, but never asks for remediation. Over TCP and TLS senders wait
//! when we are slow; over UDP the kernel keeps what fits into its buffer and drops the newest, and its count is ours.

pub mod framing;
pub mod message;
mod tcp;
mod tls;
mod udp;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;
use model::{Line, Origin};

use self::message::Malformed;
use super::{Bell, Datasource, Outlet, SourceError};
use crate::status::SourceStatus;

/// Senders that are remembered; more begin anew.
const SENDERS: usize = 4096;

/// [`SyslogConfig::room`] for a whole host.
pub const ROOM: usize = 32 << 20;

/// How long something that was dropped is shown as trouble.
const REMEMBERED: Duration = Duration::from_mins(1);

/// One syslog datasource as configured.
#[derive(Clone, Debug)]
pub struct SyslogConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How messages come.
    pub transport: Transport,
    /// Longest message in bytes; what is longer is cut.
    pub longest: usize,
    /// Whether only the priority is taken off, and the rest of the message is the line.
    pub bare: bool,
    /// How many bytes of datagrams wait in the kernel, and as many again here, before they are dropped.
    pub room: usize,
    /// Who may send; empty means everybody.
    pub senders: Vec<IpNet>,
    /// Whether a sender's address can be invented.
    pub spoofable: bool,
    /// Labels of all lines.
    pub labels: Vec<(CompactString, CompactString)>,
    /// Whether buckets follow the time in the log.
    pub time_machine: bool,
}

/// How messages come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each.
    Udp,
    /// In a stream.
    Tcp,
    /// In an encrypted stream.
    Tls(TlsFiles),
}

/// Files of a TLS server, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of which senders need a certificate; `None` lets everybody in.
    pub client_ca: Option<PathBuf>,
}

impl SyslogConfig {
    /// What tells it from others: how and where it listens.
    pub fn name(&self) -> String {
        let transport = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls(_) => "tls",
        };
        format!("{transport}://{}", self.listen)
    }

    fn admits(&self, sender: IpAddr) -> bool {
        let sender = sender.to_canonical();
        self.senders.is_empty() || self.senders.iter().any(|net| net.contains(&sender))
    }
}

/// The server.
#[derive(Debug)]
pub struct Syslog {
    config: Arc<SyslogConfig>,
}

impl Syslog {
    /// A server that does not listen yet.
    pub fn new(config: SyslogConfig) -> Self {
        Self { config: Arc::new(config) }
    }
}

impl Datasource for Syslog {
    fn run(&mut self, bell: &Arc<Bell>, out: &mut Outlet) -> Result<(), SourceError> {
        let config = Arc::clone(&self.config);
        match &config.transport {
            Transport::Udp => udp::serve(&config, bell, out),
            Transport::Tcp => tcp::serve(&config, None, bell, out),
            Transport::Tls(files) => tcp::serve(&config, Some(tls::acceptor(files)?), bell, out),
        }
    }
}

/// What went wrong lately with messages: shown for a while, then forgotten.
#[derive(Debug)]
struct Complaints {
    status: Arc<SourceStatus>,
    shown: HashMap<&'static str, Instant>,
}

impl Complaints {
    fn new(status: Arc<SourceStatus>) -> Self {
        Self { status, shown: HashMap::new() }
    }

    fn say(&mut self, about: &'static str, reason: impl FnOnce() -> String, remedy: &str) {
        let now = Instant::now();
        // A storm of bad messages is one complaint a second.
        if self.shown.get(about).is_some_and(|at| now.duration_since(*at) < Duration::from_secs(1)) {
            return;
        }
        self.shown.insert(about, now);
        self.status.red(about, reason(), remedy);
    }

    fn malformed(&mut self, sender: IpAddr, why: Malformed) {
        let remedy = "correct the sender, or take its messages as they are with `disable_rfc_parser: true`";
        self.say("messages", || format!("a message of {sender} was dropped: {why}"), remedy);
    }

    fn uninvited(&mut self, sender: IpAddr) {
        self.say("senders", || format!("{sender} may not send"), "add it to `allowed_senders`, or stop it");
    }

    /// Forgets what has not happened again.
    fn forget(&mut self) {
        let status = &self.status;
        self.shown.retain(|about, at| {
            let recent = at.elapsed() < REMEMBERED;
            if !recent {
                status.green(about);
            }
            recent
        });
    }
}

/// Makes lines of messages.
#[derive(Debug)]
struct Scribe {
    config: Arc<SyslogConfig>,
    /// Tells the lines of this run from those of any other.
    generation: u64,
    /// How many lines there were.
    count: u64,
    origins: HashMap<IpAddr, Arc<Origin>>,
    complaints: Complaints,
}

impl Scribe {
    fn new(config: &Arc<SyslogConfig>, out: &Outlet) -> Self {
        Self {
            config: Arc::clone(config),
            generation: Timestamp::now().as_nanosecond() as u64,
            count: 0,
            origins: HashMap::new(),
            complaints: Complaints::new(out.shared_status()),
        }
    }

    /// Adds the line of a message to `out`. `cut` says that its end was cut already.
    fn take(&mut self, message: &[u8], cut: bool, sender: IpAddr, now: Timestamp, out: &mut Outlet) {
        out.status().bytes.add(message.len() as u64);
        match message::line(message, self.config.bare, now) {
            Ok((raw, cut_again)) => {
                out.status().cut.add((cut || cut_again).into());
                let origin = self.origin(sender);
                out.line(&Line { raw, origin, time: now, offset: self.count });
                self.count += 1;
            }
            Err(why) => {
                out.status().dropped.add(1);
                self.complaints.malformed(sender, why);
            }
        }
    }

    fn origin(&mut self, sender: IpAddr) -> Arc<Origin> {
        if self.origins.len() >= SENDERS {
            self.origins.clear();
        }
        let Self { origins, config, generation, .. } = self;
        let origin = origins.entry(sender).or_insert_with(|| {
            Arc::new(Origin {
                src: sender.to_canonical().to_string().into(),
                module: "syslog".into(),
                labels: config.labels.clone(),
                generation: *generation,
                time_machine: config.time_machine,
                spoofable: config.spoofable,
            })
        });
        Arc::clone(origin)
    }
}

fn cannot_listen(config: &SyslogConfig, error: std::io::Error) -> SourceError {
    SourceError::Listen { on: config.name(), error }
}

#[cfg(test)]
mod tests;
