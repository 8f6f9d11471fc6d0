//! `cordon hub test`: rules tried on recorded logs, and what must come out of it.

use agent::hubtest::{NewTest, Options, Report, TestReport, create, run};
use agent::load::{Folders, RuleFiles};
use anyhow::bail;
use jiff::Timestamp;
use serde_json::json;

use crate::args::{Format, Global, HubTest};
use crate::output::{self, Rows};

pub(crate) fn test(global: &Global, args: &HubTest) -> anyhow::Result<()> {
    let options = Options {
        hub: args.hub.clone(),
        tests: args.tests.clone(),
        names: args.names.clone(),
        now: args.now.unwrap_or_else(Timestamp::now),
        strict: args.strict,
    };
    let shipped = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
    let (Some(name), Some(log), Some(kind)) = (&args.new, &args.log, &args.kind) else {
        return show(global, &run(&options, &shipped)?);
    };
    let new = NewTest {
        name: name.clone(),
        log: log.clone(),
        log_type: kind.clone(),
        parsers: args.parsers.clone(),
        scenarios: args.scenarios.clone(),
        postoverflows: args.postoverflows.clone(),
    };
    let folder = create(&options, &shipped, &new)?;
    output::line(&format!("made `{}`: read its assertions before you keep them", folder.display()))
}

fn show(global: &Global, report: &Report) -> anyhow::Result<()> {
    let names = |success: bool| -> Vec<&str> {
        report.tests.iter().filter(|test| test.success() == success).map(|test| test.name.as_str()).collect()
    };
    let (good, bad) = (names(true), names(false));
    match global.output {
        Format::Human => {
            for test in report.tests.iter().filter(|test| !test.success()) {
                output::line(&format!(
                    "{}: {} of {} assertions fail",
                    test.name,
                    test.failures.len(),
                    test.assertions
                ))?;
                for text in
                    test.failures.iter().map(ToString::to_string).chain(test.error.iter().map(ToString::to_string))
                {
                    output::line(&format!("  {}", text.replace('\n', "\n  ")))?;
                }
            }
            let assertions: usize = report.tests.iter().map(|test| test.assertions).sum();
            let all = report.tests.len();
            output::line(&format!("{} of {all} tests succeed, with {assertions} assertions", good.len()))?;
        }
        Format::Json => output::json(&json!({ "success": good, "fail": bad }))?,
        Format::Raw => {
            let row = |test: &TestReport| {
                let result = if test.success() { "success" } else { "fail" };
                vec![test.name.clone(), result.into(), test.assertions.to_string(), test.failures.len().to_string()]
            };
            let rows = report.tests.iter().map(row).collect();
            Rows { columns: &["name", "result", "assertions", "failures"], rows }.raw()?;
        }
    }
    if !bad.is_empty() {
        bail!("{} of {} tests failed", bad.len(), report.tests.len());
    }
    Ok(())
}
