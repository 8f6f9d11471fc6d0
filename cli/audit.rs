//! `cordon audit` and `cordon forget`: who changed what, when, from where; and who is to be known no more.

use anyhow::{Context, bail};
use api::audit::{Head, Record};
use api::server::service::Forgotten;
use api::store::Verified;
use model::duration;
use serde_json::json;

use crate::args::{Audit, AuditFilter, Format, Global};
use crate::output::{self, Rows, printable};
use crate::remote::{Query, Remote};

/// How many records are asked for at once.
const PAGE: usize = 1000;

pub(crate) fn run(global: &Global, command: &Audit) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    match command {
        Audit::List { filter, limit } => list(global, &remote, filter, *limit),
        Audit::Verify { expect, moved } => verify(global, &remote, expect.as_ref(), *moved),
        Audit::Export => export(&remote),
    }
}

fn list(global: &Global, remote: &Remote, filter: &AuditFilter, limit: u32) -> anyhow::Result<()> {
    let mut query = Query::new();
    query
        .maybe("since", filter.since.map(duration::format))
        .maybe("actor", filter.actor.as_ref())
        .maybe("action", filter.action.as_ref())
        .add("limit", limit);
    let records: Vec<Record> = remote.list("v1/audit", &query)?;
    let rows = records.iter().map(|record| {
        vec![
            record.seq.to_string(),
            format!("{:.0}", record.at),
            printable(&record.actor),
            record.origin.clone(),
            record.proof.clone(),
            record.action.clone(),
            printable(record.subject.as_deref().unwrap_or("(forgotten)")),
        ]
    });
    let rows = rows.collect();
    match global.output {
        Format::Json => output::json(&records),
        Format::Raw => Rows { columns: &["seq", "at", "actor", "origin", "proof", "action", "subject"], rows }.raw(),
        Format::Human => {
            let columns = &["No", "When", "Who", "From", "By", "What", "To"];
            Rows { columns, rows }.human("no records")
        }
    }
}

fn verify(global: &Global, remote: &Remote, expected: Option<&Head>, moved: bool) -> anyhow::Result<()> {
    let mut query = Query::new();
    query.add("moved", moved);
    let verified: Verified = remote.get("v1/audit/verify", &query)?;
    if let Some(expected) = expected.filter(|expected| expected.seq > 0) {
        let mut query = Query::new();
        query.add("after", expected.seq - 1).add("limit", 1);
        let records: Vec<Record> = remote.list("v1/audit", &query)?;
        if records.first().is_none_or(|record| record.head() != *expected) {
            bail!("the audit trail is another one: record {} is not the one that was noted", expected.seq);
        }
    }
    let Verified { head, forgotten, archived, elsewhere } = &verified;
    match global.output {
        Format::Json => output::json(&verified),
        Format::Human | Format::Raw => {
            output::line(&format!(
                "{} records hold together, {archived} of them in archives, {forgotten} with a forgotten subject\nhead: {}:{}",
                head.seq - elsewhere,
                head.seq,
                head.hash
            ))?;
            match elsewhere {
                0 => Ok(()),
                _ => output::line(&format!("{elsewhere} records were not looked at: their archives are elsewhere")),
            }
        }
    }
}

/// Erases what is stored about somebody.
pub(crate) fn forget(global: &Global, who: &str) -> anyhow::Result<()> {
    let forgotten: Forgotten = Remote::connect(global)?.post("v1/forget", &json!({ "value": who }))?;
    match global.output {
        Format::Json | Format::Raw => output::json(&forgotten),
        Format::Human => {
            let Forgotten { erased, redacted, ended } = forgotten;
            output::line(&format!(
                "alerts erased: {erased}; alerts about others from which it was taken out: {redacted}; decisions ended: {ended}"
            ))?;
            output::line("logs, backups and allowlists are not touched")
        }
    }
}

/// Prints every record, the oldest first.
fn export(remote: &Remote) -> anyhow::Result<()> {
    let mut after = 0;
    loop {
        let mut query = Query::new();
        query.add("after", after).add("limit", PAGE);
        let records: Vec<Record> = remote.list("v1/audit", &query)?;
        let Some(last) = records.last().map(|record| record.seq) else { return Ok(()) };
        after = last;
        for record in records {
            output::line(&serde_json::to_string(&record).context("cannot print as JSON")?)?;
        }
    }
}
