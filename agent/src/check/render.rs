//! A report as people read it.

use std::fmt::Write as _;

use super::{Finding, Report, Severity};

/// The findings from `least` on, each with its line, and a line that counts all of them.
pub fn text(report: &Report, least: Severity) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().filter(|finding| finding.severity >= least) {
        let place = match finding.line {
            0 => finding.path.display().to_string(),
            line if finding.column == 0 => format!("{}:{line}", finding.path.display()),
            line => format!("{}:{line}:{}", finding.path.display(), finding.column),
        };
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{place}: {}[{}] {}", finding.severity, finding.rule.code, finding.message);
        if !finding.source.trim().is_empty() {
            text.push_str(&excerpt(finding));
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

/// The line, cut to what fits, and carets below what is to blame.
fn excerpt(finding: &Finding) -> String {
    let line: Vec<char> = finding.source.chars().collect();
    let indent = line.iter().take_while(|c| c.is_whitespace()).count();
    let start = (finding.column as usize).saturating_sub(1).max(indent);
    // A mark beyond the width has some of what stands before it.
    let from = if start - indent < WIDTH * 3 / 4 { indent } else { start - WIDTH / 3 };
    let shown: String = line.iter().skip(from).take(WIDTH).collect();
    let (before, after) = (if from > indent { "..." } else { "" }, if line.len() > from + WIDTH { "..." } else { "" });
    let mut text = format!("  | {before}{shown}{after}\n");
    if finding.column > 0 {
        // Tabs stay tabs, so that the carets stand below what they point at.
        let blanks: String =
            line.get(from..start).unwrap_or_default().iter().map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
        let width = (finding.width as usize).clamp(1, (from + WIDTH).saturating_sub(start).max(1));
        // Writing to a text cannot fail.
        let _ = writeln!(text, "  | {}{blanks}{}", " ".repeat(before.len()), "^".repeat(width));
    }
    text
}
