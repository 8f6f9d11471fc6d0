//! `cordon ban`, `cordon lift` and `cordon decisions`: who is kept out, until when.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use model::alert::{Alert, DecisionBody, Source};
use model::allowlist::display_net;
use model::{Scope, duration};
use serde::{Deserialize, Serialize};

use crate::args::{AddDecision, Ban, DecisionFilter, Decisions, DeleteDecisions, Filter, Format, Global};
use crate::import;
use crate::output::{self, Rows, printable};
use crate::remote::{Query, Remote};

/// Origin of what is decided by hand, as the field's tools know it.
const BY_HAND: &str = "cscli";

pub(crate) fn run(global: &Global, command: &Decisions) -> anyhow::Result<()> {
    match command {
        Decisions::List(filter) => list(global, filter),
        Decisions::Add(new) => add(global, new),
        Decisions::Delete(which) => delete(global, which),
        Decisions::Import(what) => import::decisions(global, what),
        Decisions::Export(what) => import::export(global, what),
    }
}

/// `cordon ban`.
pub(crate) fn ban(global: &Global, ban: &Ban) -> anyhow::Result<()> {
    let scope = if ban.target.prefix_len() == ban.target.max_prefix_len() { Scope::Ip } else { Scope::Range };
    let body = DecisionBody {
        origin: BY_HAND.to_owned(),
        remediation: "ban".to_owned(),
        scope: scope.to_string(),
        value: display_net(ban.target),
        duration: duration::format(ban.duration),
        scenario: ban.reason.clone(),
        ..DecisionBody::default()
    };
    decide(global, body)
}

/// `cordon lift`: ends what was decided about exactly this target, and names ranges that still cover it.
pub(crate) fn lift(global: &Global, target: IpNet) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    let mut query = Query::new();
    query.add("has_active_decision", "true").add("limit", "0").add("range", target);
    let alerts: Vec<Alert> = remote.list("v1/alerts", &query)?;
    let (mut lifted, mut wider) = (0, Vec::new());
    for body in alerts.into_iter().flat_map(|alert| alert.decisions.unwrap_or_default()).filter(is_active) {
        match model::scope::parse_net(&body.value) {
            Ok(net) if net == target => {
                lifted += remote.delete_all(&format!("v1/decisions/{}", body.id), &Query::new())?;
            }
            Ok(net) if net.contains(&target) && !wider.contains(&net) => wider.push(net),
            _ => {}
        }
    }
    if global.output != Format::Human {
        return output::json(&serde_json::json!({ "lifted": lifted, "covered_by": wider }));
    }
    let shown = display_net(target);
    match lifted {
        0 => output::line(&format!("nothing was decided about {shown}"))?,
        1 => output::line(&format!("{shown}: 1 decision lifted"))?,
        n => output::line(&format!("{shown}: {n} decisions lifted"))?,
    }
    for net in wider {
        output::line(&format!("{shown} is still covered by a decision about {net}: `cordon lift {net}`"))?;
    }
    Ok(())
}

/// What a list of alerts is narrowed by. `limit` is how many are looked at unless all are wanted.
pub(crate) fn narrowed(filter: &Filter, limit: u32) -> Query {
    let mut query = Query::new();
    query
        .add("include_capi", filter.all)
        .add("limit", if filter.all { 0 } else { limit })
        .maybe("ip", filter.ip.as_ref())
        .maybe("range", filter.range.as_ref())
        .maybe("contains", filter.contained.then_some(false))
        .maybe("scope", filter.scope.as_ref())
        .maybe("value", filter.value.as_ref())
        .maybe("decision_type", filter.remediation.as_ref())
        .maybe("scenario", filter.scenario.as_ref())
        .maybe("origin", filter.origin.as_ref())
        .maybe("since", filter.since.map(duration::format))
        .maybe("until", filter.until.map(duration::format));
    query
}

/// `cordon forgive`: as if he had never come.
pub(crate) fn forgive(global: &Global, target: IpNet, lasts: SignedDuration) -> anyhow::Result<()> {
    #[derive(Deserialize, Serialize)]
    struct Forgiven {
        lifted: usize,
        strikes: usize,
        until: Timestamp,
    }
    let shown = display_net(target);
    let body = serde_json::json!({ "value": shown, "duration": duration::format(lasts) });
    let forgiven: Forgiven = Remote::connect(global)?.post("v1/forgive", &body)?;
    if global.output != Format::Human {
        return output::json(&forgiven);
    }
    let decisions = if forgiven.lifted == 1 { "decision" } else { "decisions" };
    output::line(&format!(
        "{shown}: {} {decisions} lifted; what was counted against it is forgotten",
        forgiven.lifted
    ))?;
    let until = forgiven.until.strftime("%Y-%m-%d %H:%M UTC");
    output::line(&format!("{shown} is not punished before {until}, whatever it does"))?;
    output::line(&format!("to end that now: `cordon allowlists remove forgiven {shown}`"))
}

fn list(global: &Global, wanted: &DecisionFilter) -> anyhow::Result<()> {
    let mut query = narrowed(&wanted.filter, wanted.limit);
    query.add("has_active_decision", "true").maybe("simulated", wanted.no_simu.then_some(false));
    let mut alerts: Vec<Alert> = Remote::connect(global)?.list("v1/alerts", &query)?;
    let skipped = deduplicate(&mut alerts);
    let machine = wanted.filter.machine;
    match global.output {
        Format::Json => output::json(&alerts),
        Format::Raw => raw_rows(&alerts, machine).raw(),
        Format::Human => {
            human_rows(&alerts, machine).human("no decisions in force")?;
            if skipped > 0 {
                output::line(&format!("{skipped} further decisions on the same targets are not shown"))?;
            }
            Ok(())
        }
    }
}

/// Keeps what is in force, and of the decisions that do the same to the same target only the newest.
fn deduplicate(alerts: &mut Vec<Alert>) -> usize {
    let (mut seen, mut skipped) = (std::collections::HashSet::new(), 0);
    for alert in alerts.iter_mut() {
        let simulated = alert.simulated;
        alert.decisions.get_or_insert_default().retain(|body| {
            let target = (simulated, body.remediation.clone(), body.scope.clone(), body.value.clone());
            let new = is_active(body) && seen.insert(target);
            skipped += usize::from(is_active(body) && !new);
            new
        });
    }
    alerts.retain(|alert| alert.decisions.as_ref().is_some_and(|all| !all.is_empty()));
    skipped
}

/// Whether there is time left.
pub(crate) fn is_active(body: &DecisionBody) -> bool {
    duration::parse(&body.duration).is_ok_and(|left| left.is_positive())
}

fn with_decisions(alerts: &[Alert]) -> impl Iterator<Item = (&Alert, &DecisionBody)> {
    alerts.iter().flat_map(|alert| alert.decisions.iter().flatten().map(move |body| (alert, body)))
}

fn human_rows(alerts: &[Alert], machine: bool) -> Rows {
    let rows = with_decisions(alerts).map(|(alert, body)| {
        vec![
            body.id.to_string(),
            body.origin.clone(),
            printable(&format!("{}:{}", body.scope, body.value)),
            printable(&body.scenario),
            if alert.simulated { format!("(simul){}", body.remediation) } else { body.remediation.clone() },
            alert.source.cn.clone(),
            printable(&alert.source.as_number_name()),
            alert.events_count.to_string(),
            body.duration.clone(),
            alert.id.to_string(),
            printable(&alert.machine_id),
        ]
    });
    let columns = &[
        "ID",
        "Source",
        "Scope:Value",
        "Reason",
        "Action",
        "Country",
        "AS",
        "Events",
        "Expiration",
        "Alert ID",
        "Machine",
    ];
    Rows { columns, rows: rows.collect() }.with_last(machine)
}

fn raw_rows(alerts: &[Alert], machine: bool) -> Rows {
    let rows = with_decisions(alerts).map(|(alert, body)| {
        vec![
            body.id.to_string(),
            body.origin.clone(),
            format!("{}:{}", body.scope, body.value),
            body.scenario.clone(),
            body.remediation.clone(),
            alert.source.cn.clone(),
            alert.source.as_number_name(),
            alert.events_count.to_string(),
            body.duration.clone(),
            alert.simulated.to_string(),
            alert.id.to_string(),
            alert.machine_id.clone(),
        ]
    });
    let columns = &[
        "id",
        "source",
        "ip",
        "reason",
        "action",
        "country",
        "as",
        "events_count",
        "expiration",
        "simulated",
        "alert_id",
        "machine",
    ];
    Rows { columns, rows: rows.collect() }.with_last(machine)
}

fn add(global: &Global, new: &AddDecision) -> anyhow::Result<()> {
    let (scope, value) = match (&new.subject.ip, &new.subject.range, &new.subject.value) {
        (Some(ip), ..) => (Scope::Ip, ip),
        (_, Some(range), _) => (Scope::Range, range),
        (.., Some(value)) => (Scope::new(&new.scope), value),
        (None, None, None) => bail!("a target is required: --ip, --range, or --scope and --value"),
    };
    if matches!(scope, Scope::Ip | Scope::Range) {
        model::scope::parse_net(value)?;
    }
    let body = DecisionBody {
        origin: BY_HAND.to_owned(),
        remediation: new.remediation.clone(),
        scope: scope.to_string(),
        value: value.clone(),
        duration: duration::format(new.duration),
        scenario: new.reason.clone(),
        ..DecisionBody::default()
    };
    decide(global, body)
}

/// Stores one decision by hand, unless an allowlist is against it.
fn decide(global: &Global, body: DecisionBody) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    let is_net = matches!(Scope::new(&body.scope), Scope::Ip | Scope::Range);
    if is_net {
        let allowed = check(&remote, std::slice::from_ref(&body.value))?;
        if let Some(result) = allowed.first() {
            bail!(
                "{} is on an allowlist: {}\nhint: take it off that list first (`cordon allowlists remove`); built-in and own addresses always stay",
                body.value,
                result.allowlists.join(", ")
            );
        }
    }
    let told = format!("{} {} for {}", body.remediation, body.value, body.duration);
    let mut alert = alert_of(&body.scenario, 1, vec![body.clone()]);
    alert.source = match Scope::new(&body.scope) {
        Scope::Ip => Source { ip: body.value.clone(), ..Source::default() },
        Scope::Range => Source { range: body.value.clone(), ..Source::default() },
        _ => Source::default(),
    };
    (alert.source.scope, alert.source.value) = (body.scope, body.value);
    let ids: Vec<String> = remote.post("v1/alerts", &[alert])?;
    match global.output {
        Format::Human => output::line(&told),
        Format::Json | Format::Raw => output::json(&ids),
    }
}

/// An alert that carries decisions of a person.
pub(crate) fn alert_of(reason: &str, count: usize, decisions: Vec<DecisionBody>) -> Alert {
    let now = Timestamp::now().to_string();
    Alert {
        kind: BY_HAND.to_owned(),
        scenario: reason.to_owned(),
        message: reason.to_owned(),
        events_count: i32::try_from(count).unwrap_or(i32::MAX),
        start_at: now.clone(),
        stop_at: now,
        leakspeed: "0".to_owned(),
        remediation: true,
        decisions: Some(decisions),
        ..Alert::default()
    }
}

fn delete(global: &Global, which: &DeleteDecisions) -> anyhow::Result<()> {
    let mut query = Query::new();
    query
        .maybe("ip", which.ip.as_ref())
        .maybe("range", which.range.as_ref())
        .maybe("contains", which.contained.then_some(false))
        .maybe("value", which.value.as_ref())
        .maybe("type", which.remediation.as_ref())
        .maybe("scenario", which.scenario.as_ref())
        .maybe("origin", which.origin.as_ref());
    let path = match which.id {
        Some(id) => format!("v1/decisions/{id}"),
        None => "v1/decisions".to_owned(),
    };
    let count = Remote::connect(global)?.delete_all(&path, &query)?;
    match global.output {
        Format::Human => output::line(&format!("{count} decision(s) deleted")),
        Format::Json | Format::Raw => output::json(&serde_json::json!({ "deleted": count })),
    }
}

/// The text of a file, or of standard input for `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Which of the targets are allowed, and by what.
pub(crate) fn check(remote: &Remote, targets: &[String]) -> anyhow::Result<Vec<api::wire::CheckResult>> {
    let results: api::wire::CheckResults =
        remote.post("v1/allowlists/check", &api::wire::Targets { targets: targets.to_vec() })?;
    Ok(results.results)
}
