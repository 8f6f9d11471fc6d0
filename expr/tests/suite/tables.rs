//! The language as tables: every row of `cases/*.tsv` is an expression and what it gives. `⏎` stands
//! for a line break inside an expression.

use crate::support::{World, outcome, sample, sample_alert};

/// Whether an outcome is the wanted one: `load error` and `run error` take any message.
fn fits(got: &str, want: &str) -> bool {
    match want {
        "load error" => got.starts_with("load: "),
        "run error" => got.starts_with("run: "),
        want => got == want,
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the tables are files beside the test")]
fn tables() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");
    let mut failures = Vec::new();
    let mut rows = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is part of the crate") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with("//") {
                continue;
            }
            rows += 1;
            let name = format!("{}:{}", path.file_name().unwrap_or_default().display(), number + 1);
            let Some((source, want)) = line.split_once('\t') else {
                failures.push(format!("{name}: no tab"));
                continue;
            };
            let source = source.trim().replace('⏎', "\n");
            let event = if name.starts_with("alert.") { sample_alert() } else { sample() };
            let got = outcome(&source, &event, &World::default());
            if !fits(&got, want.trim()) {
                failures.push(format!("{name}: {source}\n    got  {got}\n    want {want}"));
            }
        }
    }
    assert!(rows > 50, "only {rows} rows");
    assert!(failures.is_empty(), "{} of {rows} rows fail:\n{}", failures.len(), failures.join("\n"));
}
