//! `cordon allowlists`: who is never punished.

use model::duration;
use serde::Deserialize;
use serde_json::json;

use crate::accounts::confirm;
use crate::args::{Allowlists, Format, Global};
use crate::import;
use crate::output::{self, Rows, printable};
use crate::remote::{Query, Remote, encode};

/// What became of added or removed values.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Changed {
    pub(crate) added: usize,
    removed: usize,
    pub(crate) lifted: usize,
}

pub(crate) fn run(global: &Global, command: &Allowlists) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    match command {
        Allowlists::Create { name, description } => {
            remote.post::<()>("v1/allowlists", &json!({ "name": name, "description": description }))?;
            confirm(global, &format!("allowlist '{name}' created successfully"))
        }
        Allowlists::Delete { name } => {
            remote.delete::<()>(&format!("v1/allowlists/{}", encode(name)), &json!({}))?;
            confirm(global, &format!("allowlist '{name}' deleted successfully"))
        }
        Allowlists::List => list(global, &remote),
        Allowlists::Inspect { name } => inspect(global, &remote, name),
        Allowlists::Add { name, values, expiration, comment } => {
            let expiration = expiration.map(duration::format).unwrap_or_default();
            let body = json!({ "values": values, "comment": comment, "expiration": expiration });
            let changed: Changed = remote.post(&format!("v1/allowlists/{}/items", encode(name)), &body)?;
            grown(global, name, changed.added, changed.lifted)
        }
        Allowlists::Import { name, input } => import::allowlist(global, &remote, name, input),
        Allowlists::Remove { name, values } => {
            let body = json!({ "values": values });
            let changed: Changed = remote.delete(&format!("v1/allowlists/{}/items", encode(name)), &body)?;
            let told = match changed.removed {
                0 => "no value to remove from allowlist".to_owned(),
                count => format!("removed {count} values from allowlist {name}"),
            };
            confirm(global, &told)
        }
        Allowlists::Check { values } => check(global, &remote, values),
    }
}

/// Says what became of values that were put on a list.
pub(crate) fn grown(global: &Global, name: &str, added: usize, lifted: usize) -> anyhow::Result<()> {
    let told = match added {
        0 => "no new values for allowlist".to_owned(),
        count => format!("added {count} values to allowlist {name}"),
    };
    confirm(global, &told)?;
    match lifted {
        0 => Ok(()),
        lifted => confirm(global, &format!("{lifted} decisions deleted by allowlists")),
    }
}

fn list(global: &Global, remote: &Remote) -> anyhow::Result<()> {
    let all: Vec<api::wire::AllowlistBody> = remote.list("v1/allowlists", Query::new().add("with_content", true))?;
    let cells = |list: &api::wire::AllowlistBody| {
        let (created, updated) = (list.created_at.clone(), list.updated_at.clone());
        (printable(&list.name), printable(&list.description), created, updated, list.items.len().to_string())
    };
    match global.output {
        Format::Json => output::json(&all),
        Format::Raw => {
            let columns = &["name", "description", "created_at", "updated_at", "console_managed", "size"];
            let rows = all.iter().map(cells).map(|(name, text, created, updated, size)| {
                vec![name, text, created, updated, "false".to_owned(), size]
            });
            Rows { columns, rows: rows.collect() }.raw()
        }
        Format::Human => {
            let columns = &["Name", "Description", "Created at", "Updated at", "Size"];
            let rows = all
                .iter()
                .map(cells)
                .map(|(name, text, created, updated, size)| vec![name, text, created, updated, size]);
            Rows { columns, rows: rows.collect() }.human("no allowlists")
        }
    }
}

fn inspect(global: &Global, remote: &Remote, name: &str) -> anyhow::Result<()> {
    let list: api::wire::AllowlistBody =
        remote.get(&format!("v1/allowlists/{}", encode(name)), Query::new().add("with_content", true))?;
    let expiration = |text: &str| if text == api::wire::NEVER { "never".to_owned() } else { text.to_owned() };
    match global.output {
        Format::Json => output::json(&list),
        Format::Raw => {
            let columns = &["name", "description", "value", "comment", "expiration", "created_at", "console_managed"];
            let rows = list.items.iter().map(|item| {
                vec![
                    list.name.clone(),
                    list.description.clone(),
                    item.value.clone(),
                    item.description.clone(),
                    expiration(&item.expiration),
                    item.created_at.clone(),
                    "false".to_owned(),
                ]
            });
            Rows { columns, rows: rows.collect() }.raw()
        }
        Format::Human => {
            output::line(&format!("{}: {}", printable(&list.name), printable(&list.description)))?;
            let columns = &["Value", "Comment", "Expiration", "Created at"];
            let rows = list.items.iter().map(|item| {
                vec![
                    item.value.clone(),
                    printable(&item.description),
                    expiration(&item.expiration),
                    item.created_at.clone(),
                ]
            });
            Rows { columns, rows: rows.collect() }.human("nothing is on it")
        }
    }
}

fn check(global: &Global, remote: &Remote, values: &[String]) -> anyhow::Result<()> {
    let results: api::wire::CheckResults = remote.post("v1/allowlists/check", &json!({ "targets": values }))?;
    if global.output != Format::Human {
        return output::json(&results);
    }
    for value in values {
        match results.results.iter().find(|result| result.target == *value) {
            Some(result) => output::line(&format!("{value} is allowlisted by item {}", result.allowlists.join(", ")))?,
            None => output::line(&format!("{value} is not allowlisted"))?,
        }
    }
    Ok(())
}
