//! `cordon ban`, `cordon lift` and `cordon decisions`: who is kept out, until when.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use ipnet::IpNet;
use jiff::Timestamp;
use model::alert::{Alert, DecisionBody, Source};
use model::allowlist::display_net;
use model::{Scope, duration};
use serde::Deserialize;

use crate::args::{AddDecision, Ban, DecisionFilter, Decisions, DeleteDecisions, Format, Global, Import, ImportFormat};
use crate::output::{self, Rows, printable};
use crate::remote::{Query, Remote};

/// Origin of what is decided by hand, as the field's tools know it.
const BY_HAND: &str = "cscli";
/// Origin of what is imported.
const IMPORTED: &str = "cscli-import";

pub(crate) fn run(global: &Global, command: &Decisions) -> anyhow::Result<()> {
    match command {
        Decisions::List(filter) => list(global, filter),
        Decisions::Add(new) => add(global, new),
        Decisions::Delete(which) => delete(global, which),
        Decisions::Import(what) => import(global, what),
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

fn list(global: &Global, filter: &DecisionFilter) -> anyhow::Result<()> {
    let mut query = Query::new();
    query
        .add("has_active_decision", "true")
        .add("include_capi", filter.all)
        .add("limit", if filter.all { 0 } else { filter.limit })
        .maybe("ip", filter.ip.as_ref())
        .maybe("range", filter.range.as_ref())
        .maybe("scope", filter.scope.as_ref())
        .maybe("value", filter.value.as_ref())
        .maybe("decision_type", filter.remediation.as_ref())
        .maybe("scenario", filter.scenario.as_ref())
        .maybe("origin", filter.origin.as_ref())
        .maybe("since", filter.since.map(duration::format))
        .maybe("until", filter.until.map(duration::format));
    let mut alerts: Vec<Alert> = Remote::connect(global)?.list("v1/alerts", &query)?;
    let skipped = deduplicate(&mut alerts);
    match global.output {
        Format::Json => output::json(&alerts),
        Format::Raw => raw_rows(&alerts).raw(),
        Format::Human => {
            human_rows(&alerts).human("no decisions in force")?;
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

fn human_rows(alerts: &[Alert]) -> Rows {
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
        ]
    });
    Rows {
        columns: &[
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
        ],
        rows: rows.collect(),
    }
}

fn raw_rows(alerts: &[Alert]) -> Rows {
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
        ]
    });
    Rows {
        columns: &[
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
        ],
        rows: rows.collect(),
    }
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
fn alert_of(reason: &str, count: usize, decisions: Vec<DecisionBody>) -> Alert {
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

/// One decision as a file says it.
#[derive(Debug, Default, PartialEq, Deserialize)]
struct Imported {
    value: Option<String>,
    duration: Option<String>,
    scope: Option<String>,
    reason: Option<String>,
    #[serde(rename = "type")]
    remediation: Option<String>,
}

fn import(global: &Global, what: &Import) -> anyhow::Result<()> {
    let extension = what.input.extension().and_then(|extension| extension.to_str());
    let format = match (what.format, extension) {
        (Some(format), _) => format,
        (None, Some("json")) => ImportFormat::Json,
        (None, Some("csv")) => ImportFormat::Csv,
        (None, _) => bail!("the file name does not say how it is written\nhint: --format csv, json or values"),
    };
    let text = read(&what.input)?;
    let items = parse_import(&text, format)?;
    let bodies = items.into_iter().enumerate().map(|(number, item)| {
        let value = item.value.filter(|value| !value.is_empty());
        let value = value.with_context(|| format!("item {number}: missing `value`"))?;
        let or = |given: Option<String>, default: &String| {
            given.filter(|text| !text.is_empty()).unwrap_or_else(|| default.clone())
        };
        let scope = Scope::new(&or(item.scope, &what.scope));
        if matches!(scope, Scope::Ip | Scope::Range) {
            model::scope::parse_net(&value).with_context(|| format!("item {number}"))?;
        }
        let lasts = or(item.duration, &what.duration);
        duration::parse_with_days(&lasts).with_context(|| format!("item {number}"))?;
        Ok(DecisionBody {
            origin: IMPORTED.to_owned(),
            remediation: or(item.remediation, &what.remediation),
            scope: scope.to_string(),
            value,
            duration: lasts,
            scenario: or(item.reason, &what.reason),
            ..DecisionBody::default()
        })
    });
    let bodies = bodies.collect::<anyhow::Result<Vec<_>>>()?;
    if bodies.is_empty() {
        bail!("no decisions found");
    }

    let remote = Remote::connect(global)?;
    let name = what.input.file_name().filter(|name| *name != "-");
    let name = name.map_or("stdin".into(), |name| name.to_string_lossy());
    let size = if what.batch == 0 { bodies.len() } else { what.batch };
    let mut batches = Vec::new();
    for batch in bodies.chunks(size) {
        let targets: Vec<String> = batch.iter().map(|body| body.value.clone()).collect();
        let allowed = check(&remote, &targets)?;
        for result in &allowed {
            tracing::warn!(value = %result.target, by = %result.allowlists.join(", "), "is on an allowlist, skipped");
        }
        let wanted: Vec<DecisionBody> =
            batch.iter().filter(|body| !allowed.iter().any(|result| result.target == body.value)).cloned().collect();
        batches.push(wanted);
    }
    let mut count = 0;
    for batch in batches.into_iter().filter(|batch| !batch.is_empty()) {
        let alert = alert_of(&format!("import {name}: {} IPs", batch.len()), batch.len(), batch);
        let number = alert.decisions.as_ref().map_or(0, Vec::len);
        let _: Vec<String> = remote.post("v1/alerts", &[alert])?;
        count += number;
    }
    match global.output {
        Format::Human => output::line(&format!("Imported {count} decisions")),
        Format::Json | Format::Raw => output::json(&serde_json::json!({ "imported": count })),
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

fn parse_import(text: &str, format: ImportFormat) -> anyhow::Result<Vec<Imported>> {
    match format {
        ImportFormat::Json => serde_json::from_str(text).context("expected a list of objects with `value`"),
        ImportFormat::Values => Ok(text
            .lines()
            .map(|line| Imported { value: Some(line.trim().to_owned()), ..Imported::default() })
            .collect()),
        ImportFormat::Csv => {
            let mut lines = text.lines();
            let header: Vec<String> = lines.next().map(split_csv).unwrap_or_default();
            if !header.iter().any(|name| name == "value") {
                bail!("the first line must name the columns, `value` among them");
            }
            let row = |line: &str| {
                let cells = split_csv(line);
                let cell =
                    |name: &str| header.iter().position(|known| known == name).and_then(|at| cells.get(at)).cloned();
                Imported {
                    value: cell("value"),
                    duration: cell("duration"),
                    scope: cell("scope"),
                    reason: cell("reason"),
                    remediation: cell("type"),
                }
            };
            Ok(lines.filter(|line| !line.trim().is_empty()).map(row).collect())
        }
    }
}

/// The cells of a line; a cell in quotes may hold commas and doubled quotes.
fn split_csv(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            other => cell.push(other),
        }
    }
    cells.push(cell.trim().to_owned());
    cells
}

/// Which of the targets are allowed, and by what.
fn check(remote: &Remote, targets: &[String]) -> anyhow::Result<Vec<api::wire::CheckResult>> {
    let results: api::wire::CheckResults =
        remote.post("v1/allowlists/check", &api::wire::Targets { targets: targets.to_vec() })?;
    Ok(results.results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_three_formats() {
        let item = |value: &str, duration: &str, reason: &str| {
            let some = |text: &str| Some(text.to_owned());
            Imported { value: some(value), duration: some(duration), reason: some(reason), ..Imported::default() }
        };
        let csv = "value,duration,reason,note\n192.0.2.1,2h,\"a, \"\"b\"\"\",x\r\n\n192.0.2.2,,,\n";
        assert_eq!(
            parse_import(csv, ImportFormat::Csv).expect("valid"),
            [item("192.0.2.1", "2h", "a, \"b\""), item("192.0.2.2", "", "")]
        );
        let json = r#"[{"value": "192.0.2.0/24", "scope": "range", "note": 1}]"#;
        let items = parse_import(json, ImportFormat::Json).expect("valid");
        assert_eq!((items[0].value.as_deref(), items[0].scope.as_deref()), (Some("192.0.2.0/24"), Some("range")));
        let values = parse_import(" 192.0.2.1 \n192.0.2.2\n", ImportFormat::Values).expect("valid");
        assert_eq!(
            values.iter().filter_map(|item| item.value.as_deref()).collect::<Vec<_>>(),
            ["192.0.2.1", "192.0.2.2"]
        );
        for (text, format) in
            [("{}", ImportFormat::Json), ("ip,duration\n192.0.2.1,1h\n", ImportFormat::Csv), ("", ImportFormat::Csv)]
        {
            assert!(parse_import(text, format).is_err(), "{text}");
        }
    }
}
