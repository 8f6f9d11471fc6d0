//! `cordon status`: what is read, what was seen, what is enforced, and what does not work.

use serde_json::Value;

use crate::args::{Format, Global};
use crate::output;
use crate::remote::{Query, Remote};

pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    let status: Value = Remote::connect(global)?.get("v1/status", &Query::new())?;
    match global.output {
        Format::Json | Format::Raw | Format::Human => output::json(&status),
    }
}
