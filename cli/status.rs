//! `cordon status`: what is read, what was seen, what is enforced, and what does not work.

use std::fmt::Write;
use std::sync::Arc;

use agent::status::Status;
use api::server::service::Service;
use bouncers::engine::status::{Health, Status as BouncerStatus};
use bouncers::geo::Status as GeoStatus;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::args::{Format, Global};
use crate::geo;
use crate::output::{self, printable};
use crate::remote::{Query, Remote};
use crate::run::Said;

/// Where the running process looks when it is asked how it is.
pub(crate) struct Report {
    started: Timestamp,
    agent: Arc<Status>,
    bouncers: Said,
    service: Service,
    geo: Option<watch::Receiver<GeoStatus>>,
}

impl Report {
    pub(crate) fn new(
        agent: Arc<Status>,
        bouncers: Said,
        service: Service,
        geo: Option<watch::Receiver<GeoStatus>>,
    ) -> Self {
        Self { started: Timestamp::now(), agent, bouncers, service, geo }
    }

    /// The answer.
    pub(crate) fn json(&self) -> Value {
        let now = Timestamp::now();
        let targets: Vec<BouncerStatus> = self.bouncers.iter().map(|said| said.borrow().clone()).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": self.started,
            "now": now,
            "health": worst(&targets, now),
            "bouncer": targets.first(),
            "targets": targets.iter().map(|target| about(target, now)).collect::<Vec<_>>(),
            "sources": self.agent.sources(),
            "problems": self.agent.problems(),
            "engine": self.agent.engine(),
            "reporting": self.agent.reporting(),
            "spool": self.agent.spool(),
            "checkpoint": self.agent.checkpoint(),
            "losses": self.agent.losses(),
            "decisions": self.service.table(|table, _| table.len()),
            "store": self.service.trouble(),
            "bouncers": self.service.contacts(),
            "geo": self.geo.as_ref().map(|geo| geo.borrow().json()),
        })
    }
}

/// The health of all targets in one word: what is wrong with any, else whether any enforces.
fn worst(targets: &[BouncerStatus], now: Timestamp) -> Health {
    let several = targets.len() > 1;
    let healths = || {
        targets.iter().map(|target| match target.health(now) {
            Health::Red(reason) if several => Health::Red(format!("{}: {reason}", target.target)),
            other => other,
        })
    };
    let first = |wanted: fn(&Health) -> bool| healths().find(wanted);
    first(|health| matches!(health, Health::Red(_)))
        .or_else(|| first(|health| matches!(health, Health::Green)))
        .or_else(|| first(|_| true))
        .unwrap_or_else(|| Health::Idle("no target".to_owned()))
}

/// One target, for the list of all.
fn about(target: &BouncerStatus, now: Timestamp) -> Value {
    let mut value = json!({ "name": target.target, "health": target.health(now) });
    if let (Some(into), Ok(Value::Object(more))) = (value.as_object_mut(), serde_json::to_value(target)) {
        into.extend(more.into_iter().filter(|(name, _)| name != "refused" && name != "target"));
    }
    value
}

/// Something that was told does not work: for the exit status, there is nothing more to say.
#[derive(Debug, thiserror::Error)]
#[error("something does not work")]
pub(crate) struct NotWell;

pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    let answer: Value = Remote::connect(global)?.get("v1/status", &Query::new())?;
    match global.output {
        Format::Json | Format::Raw => output::json(&answer),
        Format::Human => output::line(tell(&answer).trim_end()),
    }?;
    if is_well(&answer) { Ok(()) } else { Err(NotWell.into()) }
}

/// Whether nothing needs anybody's attention.
fn is_well(answer: &Value) -> bool {
    let at = |path: &str| answer.pointer(path).unwrap_or(&Value::Null);
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    let sources = at("/sources").as_array().map(Vec::as_slice).unwrap_or_default();
    matches!(at("/health/state").as_str(), Some("green" | "idle"))
        && ["/reporting", "/checkpoint", "/store", "/geo/trouble"].iter().all(|path| at(path).is_null())
        && ["/losses", "/problems"].iter().all(|path| empty(at(path)))
        && sources.iter().all(|source| source.get("trouble").is_none_or(empty))
}

/// The answer as people read it.
fn tell(answer: &Value) -> String {
    let at = |path: &str| answer.pointer(path).unwrap_or(&Value::Null);
    let mut text = format!("cordon {}, watching since {}\n", show(at("/version")), show(at("/started")));
    // writing to a String cannot fail, here and below
    let health = match show(at("/health/state")).as_str() {
        "green" => "enforcing: what is decided is really in the kernel".to_owned(),
        "idle" => show(at("/health/reason")),
        _ => format!("NOT WORKING: {}", show(at("/health/reason"))),
    };
    let _ = writeln!(text, "\n  enforcement  {health}");
    let bouncer = at("/bouncer");
    let of = |name: &str| show(bouncer.get(name).unwrap_or(&Value::Null));
    let refused = of("refused_total");
    if bouncer.get("mode").and_then(Value::as_str) == Some("dry-run") {
        let _ = writeln!(text, "               {} entries would be in force, {refused} refused", of("wanted"));
    } else {
        let _ =
            writeln!(text, "               {} of {} entries in place, {refused} refused", of("applied"), of("wanted"));
        let packets = show(at("/bouncer/dropped/packets"));
        let _ = writeln!(text, "               {packets} packets dropped, {} repairs", of("heals"));
    }
    for name in ["error", "feed_error", "snapshot_error"] {
        if let Some(reason) = bouncer.get(name).and_then(Value::as_str) {
            let _ = writeln!(text, "               {}", printable(reason));
        }
    }
    let targets = at("/targets").as_array().map(Vec::as_slice).unwrap_or_default();
    for target in targets.iter().filter(|_| targets.len() > 1) {
        tell_target(&mut text, target);
    }
    let _ = writeln!(text, "  decisions    {} in force", show(at("/decisions")));
    for bouncer in at("/bouncers").as_array().into_iter().flatten() {
        let of = |name: &str| bouncer.get(name).filter(|value| !value.is_null()).map(show);
        let asked = of("last_pull").map_or("never asked".to_owned(), |at| format!("last asked {at}"));
        let enforced = match (of("enforced"), of("enforced_at")) {
            (Some(count), Some(at)) => format!(", enforced {count} at {at}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "  bouncer      {}: {asked}{enforced}", of("name").unwrap_or_default());
    }
    if at("/geo").is_object() {
        let told = geo::tell_status(at("/geo"));
        let _ = writeln!(text, "  geo          {}", told.replace('\n', "\n  ").trim_end());
    }
    let (events, buckets) = (at("/engine/events"), at("/engine/buckets"));
    let _ = writeln!(text, "  scenarios    {} events seen, {} buckets open", show(events), show(buckets));
    if at("/spool").is_object() {
        let of = |name: &str| show(at(&format!("/spool/{name}")));
        let _ =
            writeln!(text, "  alerts       {} waiting, {} sent to the api elsewhere", of("waiting"), of("delivered"));
        let number = |name: &str| at(&format!("/spool/{name}")).as_u64().unwrap_or(0);
        if number("waiting") > 0 {
            let (bytes, limit) = (number("bytes").div_ceil(1024), number("limit") / 1024);
            let _ = writeln!(text, "               since {}, {bytes} of {limit} KiB on disk", of("since"));
        }
        for (name, says) in
            [("dropped", "for want of room"), ("refused", "by the api, set aside in `spool/refused.jsonl`")]
        {
            if number(name) > 0 {
                let _ = writeln!(text, "               {} {name} {says}", number(name));
            }
        }
    }
    let sources = at("/sources").as_array().map(Vec::as_slice).unwrap_or_default();
    if sources.is_empty() {
        text.push_str("  reads        nothing\n");
    }
    for source in sources {
        let of = |name: &str| show(source.get(name).unwrap_or(&Value::Null));
        let _ = writeln!(
            text,
            "  reads        {}: {} lines, {} understood, {} not",
            of("name"),
            of("lines"),
            of("parsed"),
            of("unparsed")
        );
        let number = |name: &str| source.get(name).and_then(Value::as_u64).unwrap_or(0);
        let shown = [
            ("lag", "bytes behind"),
            ("lag_seconds", "seconds behind"),
            ("dropped", "dropped"),
            ("cut", "cut"),
            ("retries", "restarts"),
        ];
        let worth: Vec<String> = shown
            .iter()
            .filter(|(name, _)| number(name) > 0)
            .map(|(name, what)| format!("{} {what}", number(name)))
            .collect();
        if !worth.is_empty() {
            let _ = writeln!(text, "               {}", worth.join(", "));
        }
        if let Some(failure) = source.get("last_error").filter(|failure| failure.is_object()) {
            let of = |name: &str| show(failure.get(name).unwrap_or(&Value::Null));
            let _ = writeln!(text, "               last error {}: {} {}", of("at"), of("about"), of("reason"));
        }
        for trouble in source.get("trouble").and_then(Value::as_array).into_iter().flatten() {
            let of = |name: &str| show(trouble.get(name).unwrap_or(&Value::Null));
            let _ = writeln!(text, "               TROUBLE {}: {}; {}", of("about"), of("reason"), of("remedy"));
        }
    }
    if at("/store").is_object() {
        let _ = writeln!(
            text,
            "  TROUBLE      since {} the store cannot be written: {}\n               \
             new bans hold, but are not acknowledged and end with a restart; look at the disk of the state folder",
            show(at("/store/since")),
            show(at("/store/error")),
        );
    }
    for name in ["/reporting", "/checkpoint"] {
        if let Some(problem) = at(name).as_str() {
            let _ = writeln!(text, "  TROUBLE      {}", printable(problem));
        }
    }
    for loss in at("/losses").as_array().into_iter().flatten() {
        let _ = writeln!(text, "  LOST         {}", show(loss));
    }
    for problem in at("/problems").as_array().into_iter().flatten() {
        let of = |name: &str| show(problem.get(name).unwrap_or(&Value::Null));
        let _ = writeln!(text, "  NOT LOADED   {}:{}: {}", of("path"), of("line"), of("message"));
    }
    text
}

/// One of several targets: whether it holds what it should, and what keeps it from that.
fn tell_target(text: &mut String, target: &Value) {
    let of = |name: &str| show(target.get(name).unwrap_or(&Value::Null));
    let number = |name: &str| target.get(name).and_then(Value::as_u64).unwrap_or(0);
    let health = target.get("health").unwrap_or(&Value::Null);
    let reason = health.get("reason").map(show);
    let state = match health.get("state").and_then(Value::as_str) {
        Some("green") => "in force".to_owned(),
        Some("idle") => reason.unwrap_or_default(),
        _ => format!("NOT WORKING: {}", reason.unwrap_or_default()),
    };
    // writing to a String cannot fail, here and below
    let _ = writeln!(text, "  target       {} ({}): {state}", of("name"), of("kind"));
    let missing = number("wanted").abs_diff(number("applied"));
    let differs = if missing > 0 { format!(", {missing} differ") } else { String::new() };
    let _ = writeln!(text, "               {} of {} entries in place{differs}", of("applied"), of("wanted"));
    for (name, what) in [
        ("elsewhere", "are for other targets"),
        ("refused_total", "refused"),
        ("waiting", "wait for `cordon bouncer acknowledge`"),
        ("heals", "repairs"),
    ] {
        if number(name) > 0 {
            let _ = writeln!(text, "               {} {what}", number(name));
        }
    }
}

/// A value as people read it.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_work_stands_out() {
        let answer = json!({
            "version": "1.0", "started": "2026-11-22T10:00:00Z", "decisions": 2,
            "health": { "state": "red", "reason": "entries are missing" },
            "bouncer": { "applied": 1, "wanted": 2, "refused_total": 0, "heals": 3, "dropped": { "packets": 17 },
                         "error": null, "feed_error": "gone" },
            "engine": { "events": 9, "buckets": 4 },
            "sources": [{ "name": "/var/log/auth.log", "lines": 5, "parsed": 4, "unparsed": 1, "lag": 700,
                          "lag_seconds": 3, "dropped": 0, "retries": 2,
                          "last_error": { "at": "2026-11-22T10:00:01Z", "about": "", "reason": "permission denied" },
                          "trouble": [{ "about": "", "reason": "permission denied", "remedy": "allow reading" }] }],
            "problems": [{ "path": "x.yaml", "line": 3, "message": "unknown key `filtr`" }],
            "spool": { "waiting": 3, "since": "2026-11-22T10:00:02Z", "bytes": 5000, "limit": 65536,
                       "delivered": 7, "dropped": 2, "refused": 1 },
            "reporting": null, "checkpoint": "disk full", "losses": ["`checkpoint` is damaged"],
            "store": { "since": "2026-11-22T10:00:03Z", "error": "disk I/O error" },
            "bouncers": [
                { "name": "fw", "last_pull": "2026-11-22T10:00:04Z", "enforced": 7, "enforced_at": "2026-11-22T10:00:05Z" },
                { "name": "web", "last_pull": null, "enforced": null, "enforced_at": null },
            ],
        });
        insta::assert_snapshot!(tell(&answer), @r"
        cordon 1.0, watching since 2026-11-22T10:00:00Z

          enforcement  NOT WORKING: entries are missing
                       1 of 2 entries in place, 0 refused
                       17 packets dropped, 3 repairs
                       gone
          decisions    2 in force
          bouncer      fw: last asked 2026-11-22T10:00:04Z, enforced 7 at 2026-11-22T10:00:05Z
          bouncer      web: never asked
          scenarios    9 events seen, 4 buckets open
          alerts       3 waiting, 7 sent to the api elsewhere
                       since 2026-11-22T10:00:02Z, 5 of 64 KiB on disk
                       2 dropped for want of room
                       1 refused by the api, set aside in `spool/refused.jsonl`
          reads        /var/log/auth.log: 5 lines, 4 understood, 1 not
                       700 bytes behind, 3 seconds behind, 2 restarts
                       last error 2026-11-22T10:00:01Z:  permission denied
                       TROUBLE : permission denied; allow reading
          TROUBLE      since 2026-11-22T10:00:03Z the store cannot be written: disk I/O error
                       new bans hold, but are not acknowledged and end with a restart; look at the disk of the state folder
          TROUBLE      disk full
          LOST         `checkpoint` is damaged
          NOT LOADED   x.yaml:3: unknown key `filtr`
        ");
    }

    #[test]
    fn whoever_watches_learns_of_trouble_by_the_exit_status() {
        let well =
            json!({ "health": { "state": "green" }, "sources": [{ "trouble": [] }], "losses": [], "store": null });
        assert!(is_well(&well));
        // (where, what)
        let cases = [
            ("health", json!({ "state": "red" })),
            ("health", Value::Null),
            ("store", json!({ "error": "disk full" })),
            ("checkpoint", json!("disk full")),
            ("reporting", json!("gone")),
            ("losses", json!(["lost"])),
            ("problems", json!([{ "line": 3 }])),
            ("sources", json!([{ "trouble": [{ "reason": "gone" }] }])),
        ];
        for (name, value) in cases {
            let mut answer = well.clone();
            answer[name] = value;
            assert!(!is_well(&answer), "{name}");
        }
    }
}
