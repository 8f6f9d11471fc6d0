//! `cordon check`: rules that load but cannot work, or can be abused.

use agent::check::{self, Reading, Report, Severity};
use agent::load::Folders;
use anyhow::bail;

use crate::args::{Check, Format, Global};
use crate::config::Config;
use crate::output;

pub(crate) fn run(global: &Global, args: &Check) -> anyhow::Result<()> {
    if let Some(code) = &args.explain {
        return explain(code);
    }
    let reading = if let Some(path) = args.path.as_ref().or(args.config_dir.as_ref()) {
        Reading::of(path)?
    } else {
        let rules = Config::load(global)?.rules;
        Reading::configured(&Folders { shipped: rules.shipped, folders: rules.folders })
    };
    let report = reading.check();
    let least = if args.all { Severity::Note } else { Severity::Warning };
    match global.output {
        _ if args.sarif => output::json(&check::sarif(&report))?,
        Format::Json => output::json(&report)?,
        Format::Human | Format::Raw => output::line(&check::text(&report, least))?,
    }
    verdict(&report, args.strict)
}

fn verdict(report: &Report, strict: bool) -> anyhow::Result<()> {
    let (bad, what) = if strict { (Severity::Warning, "errors or warnings") } else { (Severity::Error, "errors") };
    if report.is_clean(bad) {
        return Ok(());
    }
    bail!("there are {what} in the rules\nhint: `cordon check --explain CODE` says what a code means")
}

fn explain(code: &str) -> anyhow::Result<()> {
    if code == "all" {
        return output::line(check::document().trim_end());
    }
    let Some(rule) = check::rule(code) else {
        let codes: Vec<&str> = check::RULES.iter().map(|rule| rule.code).collect();
        bail!("there is no code `{code}`\nhint: the codes are {}", codes.join(", "))
    };
    output::line(rule.document().trim_end())
}
