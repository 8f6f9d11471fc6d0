//! A report as people read it.

use std::fmt::Write as _;

use super::{Report, Severity};

/// The findings from `least` on, each with its line, and a line that counts all of them.
pub fn text(report: &Report, least: Severity) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().filter(|finding| finding.severity >= least) {
        let place = match finding.line {
            0 => finding.path.display().to_string(),
            line => format!("{}:{line}", finding.path.display()),
        };
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{place}: {}[{}] {}", finding.severity, finding.rule.code, finding.message);
        if !finding.source.trim().is_empty() {
            let _ = writeln!(text, "  | {}", shortened(finding.source.trim()));
        }
        let _ = writeln!(text, "  hint: {}", finding.remedy);
    }
    let plural = |count: usize, name: &str| format!("{count} {name}{}", if count == 1 { "" } else { "s" });
    let count = |severity, name: &str| plural(report.count(severity), name);
    let _ = write!(
        text,
        "{}, {}, {} in {}",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Note, "note"),
        plural(report.files, "file"),
    );
    if least > Severity::Note && report.count(Severity::Note) > 0 {
        text.push_str(" (`--all` prints the notes)");
    }
    text
}

/// Most characters of a line that are shown.
const WIDTH: usize = 120;

fn shortened(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or(line)),
        None => line.to_owned(),
    }
}
