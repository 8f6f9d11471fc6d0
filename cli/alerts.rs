//! `cordon alerts`: what happened.

use std::collections::BTreeMap;

use api::wire::Deleted;
use jiff::SignedDuration;
use model::alert::{DecisionBody, Meta};
use model::{Alert, duration};

use crate::args::{AlertFilter, Alerts, DeleteAlerts, Format, Global};
use crate::decisions::{is_active, narrowed};
use crate::output::{self, Rows, printable};
use crate::remote::{Query, Remote};

pub(crate) fn run(global: &Global, command: &Alerts) -> anyhow::Result<()> {
    match command {
        Alerts::List(filter) => list(global, filter),
        Alerts::Delete(which) => delete(global, which),
        Alerts::Flush { max_items, max_age } => flush(global, *max_items, *max_age),
        Alerts::Inspect { ids, details } => inspect(global, ids, *details),
    }
}

fn delete(global: &Global, which: &DeleteAlerts) -> anyhow::Result<()> {
    let mut query = Query::new();
    query
        .maybe("ip", which.ip.as_ref())
        .maybe("range", which.range.as_ref())
        .maybe("contains", which.contained.then_some(false))
        .maybe("scope", which.scope.as_ref())
        .maybe("value", which.value.as_ref())
        .maybe("scenario", which.scenario.as_ref());
    let route = which.id.map_or("v1/alerts".to_owned(), |id| format!("v1/alerts/{id}"));
    let count = Remote::connect(global)?.delete_all(&route, &query)?;
    match global.output {
        Format::Human => output::line(&format!("{count} alert(s) deleted")),
        Format::Json | Format::Raw => output::json(&serde_json::json!({ "deleted": count })),
    }
}

fn flush(global: &Global, max_items: u64, max_age: SignedDuration) -> anyhow::Result<()> {
    let body = serde_json::json!({ "max_items": max_items, "max_age": duration::format(max_age) });
    let Deleted { count } = Remote::connect(global)?.post("v1/alerts/flush", &body)?;
    match global.output {
        Format::Human => output::line(&format!("{count} alert(s) deleted")),
        Format::Json | Format::Raw => output::json(&serde_json::json!({ "deleted": count })),
    }
}

fn list(global: &Global, wanted: &AlertFilter) -> anyhow::Result<()> {
    let mut query = narrowed(&wanted.filter, wanted.limit);
    query.maybe("kind", wanted.kind.as_ref());
    let machine = wanted.filter.machine;
    let alerts: Vec<Alert> = Remote::connect(global)?.list("v1/alerts", &query)?;
    match global.output {
        Format::Json => output::json(&alerts),
        Format::Raw => {
            let rows = alerts.iter().map(|alert| {
                vec![
                    alert.id.to_string(),
                    alert.source.scope.clone(),
                    alert.source.value.clone(),
                    alert.scenario.clone(),
                    alert.source.cn.clone(),
                    alert.source.as_number_name(),
                    summary(alert),
                    alert.created_at.clone(),
                    alert.kind.clone(),
                    alert.machine_id.clone(),
                ]
            });
            let columns =
                &["id", "scope", "value", "reason", "country", "as", "decisions", "created_at", "kind", "machine"];
            Rows { columns, rows: rows.collect() }.with_last(machine).raw()
        }
        Format::Human => {
            let rows = alerts.iter().map(|alert| {
                vec![
                    alert.id.to_string(),
                    printable(&target(alert)),
                    printable(&alert.scenario),
                    alert.source.cn.clone(),
                    printable(&alert.source.as_number_name()),
                    summary(alert),
                    alert.start_at.clone(),
                    alert.kind.clone(),
                    printable(&alert.machine_id),
                ]
            });
            let columns = &["ID", "Value", "Reason", "Country", "AS", "Decisions", "Began", "Kind", "Machine"];
            Rows { columns, rows: rows.collect() }.with_last(machine).human("no alerts")
        }
    }
}

/// Who: the source, or how many targets an import has.
fn target(alert: &Alert) -> String {
    let decisions = alert.decisions.as_deref().unwrap_or_default();
    match decisions {
        [] | [_] if alert.source.value.is_empty() => alert.source.scope.clone(),
        [] | [_] => format!("{}:{}", alert.source.scope, alert.source.value),
        [first, ..] => format!("{} ({} {}s)", alert.source.scope, decisions.len(), first.scope),
    }
}

/// How many decisions of each kind are in force.
fn summary(alert: &Alert) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for body in alert.decisions.iter().flatten().filter(|body| is_active(body)) {
        let simulated = if body.simulated == Some(true) { "(simul)" } else { "" };
        *counts.entry(format!("{simulated}{}", body.remediation)).or_default() += 1;
    }
    counts.iter().map(|(kind, count)| format!("{kind}:{count}")).collect::<Vec<_>>().join(" ")
}

fn inspect(global: &Global, ids: &[i64], details: bool) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    let alerts = ids
        .iter()
        .map(|id| remote.get(&format!("v1/alerts/{id}"), &Query::new()))
        .collect::<anyhow::Result<Vec<Alert>>>()?;
    if global.output != Format::Human {
        return match alerts.as_slice() {
            [alert] => output::json(alert),
            all => output::json(&all),
        };
    }
    for alert in &alerts {
        show(alert, details)?;
    }
    Ok(())
}

fn show(alert: &Alert, details: bool) -> anyhow::Result<()> {
    let source = &alert.source;
    for (name, value) in [
        ("ID", alert.id.to_string()),
        ("Date", alert.created_at.clone()),
        ("Machine", alert.machine_id.clone()),
        ("Simulation", alert.simulated.to_string()),
        ("Remediation", alert.remediation.to_string()),
        ("Kind", alert.kind.clone()),
        ("Reason", alert.scenario.clone()),
        ("Events Count", alert.events_count.to_string()),
        ("Scope:Value", format!("{}:{}", source.scope, source.value)),
        ("Country", source.cn.clone()),
        ("AS", source.as_number_name()),
        ("Begin", alert.start_at.clone()),
        ("End", alert.stop_at.clone()),
        ("UUID", alert.uuid.clone()),
    ] {
        output::line(printable(&format!("  {name:<13} {value}")).trim_end())?;
    }
    let active: Vec<&DecisionBody> = alert.decisions.iter().flatten().filter(|body| is_active(body)).collect();
    if !active.is_empty() {
        output::line("\n  Active decisions")?;
        let row = |body: &&DecisionBody| {
            let target = printable(&format!("{}:{}", body.scope, body.value));
            vec![body.id.to_string(), target, body.remediation.clone(), body.duration.clone()]
        };
        let columns = &["ID", "Scope:Value", "Action", "Expiration"];
        Rows { columns, rows: active.iter().map(row).collect() }.human("")?;
    }
    if !alert.meta.is_empty() {
        output::line("\n  Context")?;
        meta(&alert.meta)?;
    }
    if details {
        for event in &alert.events {
            output::line(&format!("\n  {}", event.timestamp))?;
            meta(&event.meta)?;
        }
    }
    output::line("")
}

/// Keys and values; a value that is a JSON list of texts makes a row an item.
fn meta(all: &[Meta]) -> anyhow::Result<()> {
    let rows = all.iter().flat_map(|meta| {
        let items = serde_json::from_str(&meta.value).unwrap_or_else(|_| vec![meta.value.clone()]);
        items.into_iter().map(|item: String| vec![printable(&meta.key), printable(&item)])
    });
    Rows { columns: &["Key", "Value"], rows: rows.collect() }.human("")
}
