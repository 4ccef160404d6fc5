//! What `doctor` found, as a person reads it: by subject, the worst first, each with what mends it below.

use std::fmt::Write as _;

use volsnap::ops::doctor::{Finding, Risk};

use super::command::Commands;
use super::layout::folded;
use super::text::escape;

/// Columns before what is said of a finding.
const INDENT: usize = 10;

/// Returns the findings, folded for a terminal of that width, if there is one; commands never are.
pub(crate) fn findings(findings: &[Finding], commands: &Commands, width: Option<usize>) -> String {
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
        let what = escape(&finding.what);
        let what = width.map_or(what.clone(), |width| folded(&what, INDENT, width));
        let _ = writeln!(out, "  {:<6}  {what}", word(finding.risk));
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
