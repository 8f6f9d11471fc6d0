//! `cordon why`: the whole story of an address, from the lines in the log to the rule in the kernel, and the way back.

use std::fmt::Write;
use std::net::IpAddr;

use bouncers::forward::reference::Reference;
use bouncers::nftables::{Enforced, Nftables};
use ipnet::{IpNet, Ipv6Net};
use jiff::{SignedDuration, Timestamp};
use model::alert::{Alert, AlertEvent, DecisionBody};
use model::duration;
use serde::Serialize;

use crate::args::{Asked, Format, Global};
use crate::config::Config;
use crate::decisions::is_active;
use crate::geo;
use crate::output::{self, printable};
use crate::remote::{Query, Remote, encode};

/// Lines that are shown of one alert; the rest is counted.
const LINES: usize = 12;

/// What is known about an address.
#[derive(Debug, Serialize)]
struct Story {
    ip: IpAddr,
    /// What the reference tells by which it was asked for.
    refusal: Option<Refusal>,
    /// Alerts with decisions in force about it, newest first.
    kept_out: Vec<Alert>,
    /// The newest alert about it, if nothing is in force.
    last_alert: Option<Alert>,
    /// The allow entries that cover it.
    allowed_by: String,
    /// What this host's kernel does with its packets, or why nobody knows.
    kernel: Result<Enforced, String>,
    /// The table in which the kernel was looked up.
    table: String,
    /// Where it is, and what follows from that; `None` if geo is not configured, or cannot tell.
    geo: Option<geo::Story>,
}

/// A refusal by a reverse proxy.
#[derive(Clone, Copy, Debug, Serialize)]
struct Refusal {
    /// When, to the minute.
    at: Timestamp,
    /// By which decision; 0 for none.
    decision: i64,
}

pub(crate) fn run(global: &Global, asked: Asked) -> anyhow::Result<()> {
    let (ip, refusal) = match asked {
        Asked::Ip(ip) => (ip.to_canonical(), None),
        Asked::Reference(Reference { address, at, decision }) => (address, Some(Refusal { at, decision })),
    };
    let remote = Remote::connect(global)?;
    let mut query = Query::new();
    query.add("has_active_decision", "true").add("limit", 0).add("ip", ip);
    let mut kept_out: Vec<Alert> = remote.list("v1/alerts", &query)?;
    if let IpAddr::V6(ip) = ip {
        // an address is kept out with its network, because an attacker owns all of it
        let mut query = Query::new();
        let network = Ipv6Net::new(ip, 64).expect("64 is a prefix length of IPv6").trunc();
        query.add("has_active_decision", "true").add("limit", 0).add("range", network).add("contains", false);
        let more: Vec<Alert> = remote.list("v1/alerts", &query)?;
        let known: Vec<i64> = kept_out.iter().map(|alert| alert.id).collect();
        kept_out.extend(more.into_iter().filter(|alert| !known.contains(&alert.id)));
    }
    for alert in &mut kept_out {
        alert.decisions.get_or_insert_default().retain(|body| is_active(body) && is_about(body, ip));
    }
    let last_alert = if kept_out.is_empty() {
        let mut query = Query::new();
        query.add("value", ip).add("limit", 1);
        remote.list::<Alert>("v1/alerts", &query)?.into_iter().next()
    } else {
        None
    };
    let allowed: api::wire::CheckBody =
        remote.get(&format!("v1/allowlists/check/{}", encode(&ip.to_string())), &Query::new())?;
    let config = Config::load(global)?;
    let geo = if config.geo.is_used() { geo::story(&config, Remote::connect(global), ip).ok() } else { None };
    let enforcement = config.enforcement;
    let kernel = Nftables::open(enforcement.nftables()).and_then(|table| table.enforced_now(ip));
    let kernel = kernel.map_err(|error| error.to_string());
    let story =
        Story { ip, refusal, kept_out, last_alert, allowed_by: allowed.reason, kernel, table: enforcement.table, geo };
    match global.output {
        Format::Json | Format::Raw => output::json(&story),
        Format::Human => output::line(story.tell(Timestamp::now()).trim_end()),
    }
}

/// Whether a decision keeps `ip` out: it names it, a range around it, or a neighbour in its IPv6 network.
fn is_about(body: &DecisionBody, ip: IpAddr) -> bool {
    model::scope::parse_net(&body.value).is_ok_and(|net| match net {
        IpNet::V6(net) if net.prefix_len() == 128 => {
            Ipv6Net::new(net.addr(), 64).is_ok_and(|wide| IpNet::from(wide).contains(&ip))
        }
        net => net.contains(&ip),
    })
}

impl Story {
    /// What a decision comes to on this host: only the kernel's own answer counts as kept out.
    fn verdict(&self) -> &'static str {
        match &self.kernel {
            Ok(Enforced::Blocked) => "is kept out",
            Ok(_) => "is to be kept out, but this host does not drop it",
            Err(_) => "is to be kept out, and nobody knows whether this host does it",
        }
    }

    fn tell(&self, now: Timestamp) -> String {
        let mut text = self.refusal.map(|refusal| self.tell_refusal(refusal)).unwrap_or_default();
        // writing to a String cannot fail, here and below
        let _ = match self.longest() {
            Some(body) if self.kept_out.iter().all(|alert| alert.simulated) => {
                writeln!(text, "{} would be kept out ({}), but the decision is simulated", self.ip, body.remediation)
            }
            Some(body) => writeln!(
                text,
                "{} {}: {} until {} ({} left)",
                self.ip,
                self.verdict(),
                body.remediation,
                until(body, now),
                body.duration
            ),
            None => writeln!(text, "{} is not kept out: no decision about it is in force", self.ip),
        };
        for alert in &self.kept_out {
            tell_alert(&mut text, alert, now);
        }
        if let Some(alert) = &self.last_alert {
            text.push_str("\nthe last alert about it:\n");
            tell_alert(&mut text, alert, now);
        }
        let _ = match self.allowed_by.as_str() {
            "" => writeln!(text, "\n  allowlists   no entry covers it"),
            by => writeln!(text, "\n  allowlists   {by}"),
        };
        if let Some(geo) = &self.geo {
            text.push_str(&geo.tell_in_short());
        }
        let table = &self.table;
        let _ = match &self.kernel {
            Ok(Enforced::Blocked) => {
                writeln!(text, "  this host    drops its packets now (table `inet {table}`, asked of the kernel)")
            }
            Ok(Enforced::Allowed) => {
                writeln!(text, "  this host    lets it pass before any ban (table `inet {table}`)")
            }
            Ok(Enforced::Disarmed) => {
                writeln!(text, "  this host    would drop its packets, but is disarmed: `cordon arm`")
            }
            Ok(Enforced::Observed) => writeln!(text, "  this host    only counts its packets (mode `observe`)"),
            Ok(Enforced::Passing) => {
                writeln!(text, "  this host    lets it pass (table `inet {table}`, asked of the kernel)")
            }
            Ok(Enforced::NoTable) => writeln!(text, "  this host    lets it pass: there is no table `inet {table}`"),
            Err(reason) => {
                let reason = reason.lines().next().unwrap_or_default();
                writeln!(text, "  this host    unknown: {reason}")
            }
        };
        if self.kept_out.is_empty() {
            let _ = writeln!(text, "  keep it out  cordon ban {} --for 4h", self.ip);
        } else {
            let mut targets: Vec<&str> = self.decisions().map(|body| body.value.as_str()).collect();
            targets.sort_unstable();
            targets.dedup();
            for target in targets {
                let _ = writeln!(text, "  undo         cordon lift {}", printable(target));
            }
            let _ = writeln!(text, "  never again  cordon allowlists add NAME {}", self.ip);
        }
        text
    }

    /// Whom a reverse proxy refused, and what is known about the reason.
    fn tell_refusal(&self, Refusal { at, decision }: Refusal) -> String {
        let (ip, at) = (self.ip, at.strftime("%Y-%m-%d %H:%M UTC"));
        match decision {
            0 => format!(
                "a reverse proxy refused {ip} at {at} by a rule of its profile: country, path, or because nothing was known\n"
            ),
            known if self.decisions().any(|body| body.id == known) => {
                format!("a reverse proxy refused {ip} at {at} by decision {known}, which is still in force\n")
            }
            other => format!(
                "a reverse proxy refused {ip} at {at} by decision {other}: it is over, or it is about who was logged in, \
                 about the country or a range (`cordon decisions list`)\n"
            ),
        }
    }

    fn decisions(&self) -> impl Iterator<Item = &DecisionBody> {
        self.kept_out.iter().flat_map(|alert| alert.decisions.iter().flatten())
    }

    fn longest(&self) -> Option<&DecisionBody> {
        self.decisions().max_by_key(|body| duration::parse(&body.duration).unwrap_or_default())
    }
}

fn tell_alert(text: &mut String, alert: &Alert, now: Timestamp) {
    text.push('\n');
    for body in alert.decisions.iter().flatten() {
        let _ = writeln!(
            text,
            "  decision {}   {} {}:{} by {}, until {}",
            body.id,
            body.remediation,
            body.scope,
            printable(&body.value),
            body.origin,
            until(body, now)
        );
    }
    let message = if alert.message == alert.scenario { "" } else { &alert.message };
    let _ = writeln!(text, "  alert {}      {} {}", alert.id, printable(&alert.scenario), printable(message));
    if alert.kind != "cscli" {
        let _ = writeln!(text, "  when         {} to {}", alert.start_at, alert.stop_at);
        let bucket = alert.cordon.as_ref();
        let _ = writeln!(
            text,
            "  bucket       {}: {} events for key `{}`, capacity {}, leaks one every {}",
            bucket.map_or("", |evidence| &evidence.bucket),
            alert.events_count,
            printable(bucket.map_or("", |evidence| &evidence.key)),
            alert.capacity,
            alert.leakspeed
        );
    }
    if let Some(by) = alert.events.iter().filter_map(|event| event.cordon.as_ref()).next_back() {
        let _ = writeln!(text, "  parsers      {}", by.parsers.join(", "));
    }
    if !alert.events.is_empty() {
        let _ = writeln!(text, "  lines");
    }
    for event in alert.events.iter().take(LINES) {
        tell_event(text, event);
    }
    if let Some(more @ 1..) = alert.events.len().checked_sub(LINES) {
        let _ = writeln!(text, "    and {more} more: cordon alerts inspect --details {}", alert.id);
    }
    for check in alert.cordon.iter().flat_map(|evidence| &evidence.allow_checks) {
        let _ = writeln!(text, "  allow check  {}", printable(check));
    }
}

fn tell_event(text: &mut String, event: &AlertEvent) {
    match &event.cordon {
        Some(place) => {
            let _ = writeln!(text, "    {}:{}  {}", printable(&place.source), place.offset, printable(&place.raw));
        }
        None => {
            let _ = writeln!(text, "    {}", event.timestamp);
        }
    }
}

fn until(body: &DecisionBody, now: Timestamp) -> String {
    let left = duration::parse(&body.duration).unwrap_or(SignedDuration::ZERO);
    let until = now.saturating_add(left).unwrap_or(now);
    until.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
