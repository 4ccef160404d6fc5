//! What `doctor` found, as a person reads it: by subject, the worst first, each with what mends it below.

use std::fmt::Write as _;

use volsnap::ops::doctor::{Finding, Risk};

use super::command::Commands;
use super::text::escape;

/// Returns the findings.
pub(crate) fn findings(findings: &[Finding], commands: &Commands) -> String {
    if findings.is_empty() {
        return "found no database and nothing at risk".to_owned();
    }
    let (mut out, mut subject) = (String::new(), None);
    for finding in findings {
        if subject != Some(&finding.subject) {
            let gap = if subject.is_some() { "\n" } else { "" };
            let _ = writeln!(out, "{gap}{}", escape(&finding.subject));
            subject = Some(&finding.subject);
        }
        let _ = writeln!(out, "  {:<6}  {}", word(finding.risk), escape(&finding.what));
        for line in commands.lines(&finding.mitigation) {
            let _ = writeln!(out, "          -> {line}");
        }
    }
    let count = |risk| findings.iter().filter(|finding| finding.risk == risk).count();
    let _ = write!(
        out,
        "\n{} at high risk, {} at medium, {} at low",
        count(Risk::High),
        count(Risk::Medium),
        count(Risk::Low)
    );
    out
}

fn word(risk: Risk) -> &'static str {
    match risk {
        Risk::High => "HIGH",
        Risk::Medium => "medium",
        Risk::Low => "low",
        Risk::Info => "",
    }
}
