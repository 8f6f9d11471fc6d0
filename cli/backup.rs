//! `cordon backup` and `cordon restore`: the database, taken and put back whole.

use std::path::Path;

use anyhow::Context;
use api::server::service::{Author, Origin};
use api::store::sqlite;
use jiff::Timestamp;
use serde_json::json;

use crate::args::{Format, Global};
use crate::config::Config;
use crate::output;
use crate::remote;

pub(crate) fn backup(global: &Global, file: &Path) -> anyhow::Result<()> {
    let database = Config::load(global)?.database();
    sqlite::backup(&database, file).context("cannot make a backup")?;
    remote::note(global, "backup", &file.to_string_lossy());
    let size = std::fs::metadata(file).map(|data| data.len()).unwrap_or_default();
    match global.output {
        Format::Json => output::json(&json!({ "file": file, "bytes": size })),
        Format::Human | Format::Raw => output::line(&format!(
            "{}: {size} bytes; it holds hashes of keys and what was logged about people: keep it safe",
            file.display()
        )),
    }
}

pub(crate) fn restore(global: &Global, file: &Path) -> anyhow::Result<()> {
    let database = Config::load(global)?.database();
    let uid = rustix::process::getuid().as_raw();
    let author = Author { name: format!("uid {uid}"), from: Origin::Inside, proof: "none" };
    let entry = author.did("restore", &file.to_string_lossy(), Timestamp::now());
    let kept = sqlite::restore(&database, file, &entry).context("cannot restore")?;
    match global.output {
        Format::Json => output::json(&json!({ "database": database, "kept": kept })),
        Format::Human | Format::Raw => {
            output::line(&format!("{} is what the backup was", database.display()))?;
            match kept {
                Some(kept) => output::line(&format!("the former one is kept as {}", kept.display())),
                None => Ok(()),
            }
        }
    }
}
