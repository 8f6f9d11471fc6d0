//! A report as SARIF 2.1.0, which code hosts show beside the lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{RULES, Report, Severity};

/// The report as one SARIF document.
pub fn sarif(report: &Report) -> Value {
    let level = |severity| match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let index: BTreeMap<&str, usize> = RULES.iter().enumerate().map(|(index, rule)| (rule.code, index)).collect();
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            json!({
                "id": rule.code,
                "name": rule.name,
                "shortDescription": { "text": rule.summary },
                "help": { "text": rule.page, "markdown": rule.page },
                "defaultConfiguration": { "level": level(rule.severity) },
            })
        })
        .collect();
    let results: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let mut place = json!({ "artifactLocation": { "uri": uri(&finding.path.to_string_lossy()) } });
            if finding.line > 0 {
                place["region"] = json!({ "startLine": finding.line });
                if finding.column > 0 {
                    place["region"]["startColumn"] = finding.column.into();
                    place["region"]["endColumn"] = (finding.column + finding.width).into();
                }
                if !finding.source.is_empty() {
                    place["region"]["snippet"] = json!({ "text": finding.source });
                }
            }
            json!({
                "ruleId": finding.rule.code,
                "ruleIndex": index.get(finding.rule.code),
                "level": level(finding.severity),
                "message": { "text": format!("{}. Remedy: {}.", finding.message, finding.remedy) },
                "locations": [{ "physicalLocation": place }],
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "columnKind": "unicodeCodePoints",
            "tool": { "driver": { "name": "cordon check", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "results": results,
        }],
    })
}

/// A path as a URI reference: what URIs do not hold is escaped.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(byte.into()),
            // A first colon would read as the end of a scheme; `shipped:` is meant as one.
            b':' if uri == "shipped" => uri.push(':'),
            _ => {
                // Writing to a text cannot fail.
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}
