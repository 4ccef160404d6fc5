//! The result of a check or a restart, as a person reads it: first what is lost, then the rest.

use std::cmp::Ordering;
use std::fmt::Write as _;

use volsnap::model::facts::checks::Checked;
use volsnap::model::facts::difference::{Difference, Severity};
use volsnap::model::facts::{FactsLevel, FactsSummary, SnapshotFacts};
use volsnap::model::quote::shell_quote;
use volsnap::model::source::Onlooker;
use volsnap::ops::check::{Against, CheckPlan, CheckReport};
use volsnap::ops::facts::wrong;
use volsnap::ops::restart::{RestartPlan, RestartReport};
use volsnap::ops::sharers::PlannedSharer;

use super::command::Commands;
use super::text::{count, counted, escape, in_json, left_down, milliseconds, table, time};

/// How much is shown of what is no damage; `--json` has all of it.
const SHOWN: usize = 10;

/// Returns what a check would look at.
pub(crate) fn check_plan(plan: &CheckPlan) -> String {
    let mut out = format!("would look at {}\n", escape(&plan.title));
    let mut row = |name: &str, value: &str| _ = writeln!(out, "  {name:<12} {value}");
    row(
        "looks",
        &match &plan.container {
            Some(container) => {
                format!("asks the database in container {}, which only reads", escape(container))
            }
            None => "counts its files, in a helper container that only reads".to_owned(),
        },
    );
    match &plan.against {
        Some(against) => row("compares", &format!("with {}, of {}", compared(against), time(against.taken))),
        None => row("compares", "with nothing: no earlier facts are known"),
    }
    if !plan.checks.is_empty() {
        let names: Vec<_> = plan.checks.iter().map(|name| escape(name)).collect();
        row("your checks", &names.join(", "));
    }
    row("changes", "nothing but what volsnap remembers, if nothing is wrong");
    out
}

fn compared(against: &Against) -> String {
    against.snapshot.as_ref().map_or_else(
        || "the last look that found nothing wrong".to_owned(),
        |snapshot| format!("snapshot {}", escape(snapshot)),
    )
}

/// Returns the result of a check.
pub(crate) fn check(report: &CheckReport, commands: &Commands) -> String {
    let outcome = match (report.ok, &report.against) {
        (false, _) => "the data is NOT as it should be",
        (true, Some(_)) if report.container.is_none() => of_files(&report.differences),
        (true, Some(_)) => as_it_was(report.strict, &report.unread),
        (true, None) => "its facts are remembered for the next check",
    };
    let mut out = format!("{}: {outcome}\n", escape(&report.title));
    let mut row = |name: &str, value: &str| _ = writeln!(out, "  {name:<12} {value}");
    match &report.against {
        Some(against) => {
            row("compared", &format!("with {}, of {}", compared(against), time(against.taken)));
            if report.container.is_some() {
                row("since then", written(report.strict));
            }
        }
        None => row("compared", "with nothing: no earlier facts are known"),
    }
    row("looked", &format!("{}, in {}", level(report.level), milliseconds(report.ms)));
    findings(&mut out, &report.differences, &report.checks, &report.unread, commands);
    same(&mut out, report.before, Some(report.now));
    out
}

/// Returns the plan of a restart.
pub(crate) fn restart_plan(plan: &RestartPlan) -> String {
    let list = |names: &[String]| names.iter().map(|name| escape(name)).collect::<Vec<_>>().join(", then ");
    let mut out = format!("would restart {}\n", escape(&plan.title));
    let mut row = |name: &str, value: &str| _ = writeln!(out, "  {name:<12} {value}");
    if let Some(database) = &plan.database {
        row("database", &escape(database));
    }
    if plan.snapshot {
        row("snapshot", "taken while it is stopped");
    }
    row("facts", level(plan.facts));
    row("stop", &list(&plan.stops));
    if let Some(recreate) = &plan.recreate {
        row("recreate", &escape(recreate));
    }
    plan.changes.iter().for_each(|change| row("changes", &escape(change)));
    plan.sharers.iter().for_each(|one| row("shares", &sharer(one)));
    row("start again", &list(&plan.starts));
    plan.own_commands.iter().for_each(|command| row("runs", &escape(command)));
    if !plan.down_after_reboot.is_empty() {
        row("reboot", &left_down(&plan.down_after_reboot));
    }
    if !plan.stay_stopped.is_empty() {
        row("stays down", &plan.stay_stopped.iter().map(|name| escape(name)).collect::<Vec<_>>().join(", "));
    }
    plan.onlookers.iter().for_each(|one| row("can see it", &onlooker(one)));
    out
}

/// Returns what to say of a container that is made anew because of what it shares.
pub(crate) fn sharer(sharer: &PlannedSharer) -> String {
    let state = if sharer.running { "" } else { ", not running, and not started" };
    let shares = sharer.shares.iter().map(|what| escape(what)).collect::<Vec<_>>().join(", ");
    let how = sharer.service.as_ref().map_or_else(
        || "recreated by the engine, as it is".to_owned(),
        |service| format!("{}, recreated by Compose", escape(service)),
    );
    format!("{}, the {shares}: {how}{state}", escape(&sharer.container))
}

/// Returns what to say of a container that can see the data and is left alone.
pub(crate) fn onlooker(onlooker: &Onlooker) -> String {
    let name = escape(&onlooker.container);
    let can = if onlooker.writes { "could write there" } else { "can only read" };
    let does = match (onlooker.ignored, onlooker.looked) {
        (true, _) => "is ignored as you asked",
        (false, true) => "has nothing open there",
        (false, false) => "what it has open cannot be seen from here",
    };
    let hold = shell_quote(&onlooker.container);
    format!("{name}, left alone ({can}; {does}; --hold {} holds it too)", escape(&hold))
}

/// Returns the result of a restart.
pub(crate) fn restart(report: &RestartReport, commands: &Commands) -> String {
    let outcome = match (report.ok, report.now) {
        (false, _) => ", and the data is NOT as it should be".to_owned(),
        (true, Some(_)) => format!(", and {}", as_it_was(report.strict, &report.unread)),
        (true, None) if !report.checks.is_empty() => ", and your checks hold".to_owned(),
        (true, None) => "; the data was not looked at".to_owned(),
    };
    let mut out = format!("restarted {}{outcome}\n", escape(&report.title));
    let mut row = |name: &str, value: &str| _ = writeln!(out, "  {name:<12} {value}");
    let names: Vec<_> = report.containers.iter().map(|name| escape(name)).collect();
    row("downtime", &format!("{} ({})", milliseconds(report.downtime_ms), names.join(", ")));
    if let Some(snapshot) = &report.snapshot {
        row("snapshot", &escape(snapshot));
    }
    match (report.clean, &report.shutdown) {
        (Some(true), Some(state)) => row("shutdown", &format!("clean: {}", escape(state))),
        (Some(false), Some(state)) => row("shutdown", &format!("NOT clean: {}", escape(state))),
        _ => row("shutdown", "not proved"),
    }
    if report.now.is_some() {
        row("meanwhile", written(report.strict));
        row("looked", level(report.level));
    }
    findings(&mut out, &report.differences, &report.checks, &report.unread, commands);
    same(&mut out, report.before, report.now);
    out
}

/// Returns the facts of a snapshot in one line.
pub(crate) fn facts(facts: &SnapshotFacts) -> String {
    let seen = &facts.seen;
    let exact = if facts.exact { "exact for the snapshot" } else { "of a moment before it" };
    format!("{}, {exact} ({}, {})", summary(&seen.summary()), level(seen.level), time(seen.taken))
}

/// Returns what can be said of data that is of no database that could be asked: its files are counted, and nobody knows
/// what they have to be.
fn of_files(differences: &[Difference]) -> &'static str {
    if differences.is_empty() {
        "it has as many files as before, of the same size; what is in them was not compared"
    } else {
        "its files are not those from before; whether anything is lost cannot be told"
    }
}

/// Returns what can be said of data in which nothing was found wrong: no more than what was looked at.
fn as_it_was(strict: bool, unread: &[String]) -> &'static str {
    match (unread.is_empty(), strict) {
        (true, true) => "the data is what it was",
        (true, false) => "the data is what it was, except for what was written since",
        (false, _) => "nothing is missing of what was looked at; something was not looked at",
    }
}

fn written(strict: bool) -> &'static str {
    if strict {
        "the transaction numbers prove that nothing was written: everything has to be the same"
    } else {
        "clients may have written"
    }
}

fn level(level: FactsLevel) -> &'static str {
    match level {
        FactsLevel::None => "not at all",
        FactsLevel::Quick => "quick",
        FactsLevel::Full => "at every row",
    }
}

fn summary(summary: &FactsSummary) -> String {
    let about = if summary.estimated { "about " } else { "" };
    format!(
        "{}, {}, {about}{}",
        counted(summary.databases, "database"),
        counted(summary.tables, "table"),
        counted(summary.rows, "row")
    )
}

pub(super) fn findings(
    out: &mut String,
    differences: &[Difference],
    checks: &[Checked],
    unread: &[String],
    commands: &Commands,
) {
    for (severity, head) in [
        (Severity::Damage, "lost or broken"),
        (Severity::Explained, "explained by writes"),
        (Severity::Information, "worth knowing"),
    ] {
        let found: Vec<_> = differences.iter().filter(|one| one.severity == severity).collect();
        if found.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{head}:");
        let most = if severity == Severity::Damage { usize::MAX } else { SHOWN };
        for (at, one) in found.iter().enumerate().take(most) {
            let _ = writeln!(out, "  {}: {}", escape(&one.object), change(one));
            // A command that mends several things in a row is printed once, after the last of them.
            let again = found.get(at + 1).filter(|_| at + 1 < most).is_some_and(|next| next.next == one.next);
            if let Some(next) = one.next.as_ref().filter(|_| !again) {
                let _ = writeln!(out, "    next: {}", commands.line(next));
            }
        }
        if let Some(more) = in_json(found.len(), most) {
            let _ = writeln!(out, "  {more}");
        }
    }
    if !checks.is_empty() {
        let _ = writeln!(out, "\nyour checks:");
        for check in checks {
            let _ = writeln!(out, "  {}", escape(&judged(check)));
        }
    }
    if !unread.is_empty() {
        let _ = writeln!(out, "\nnot looked at:");
        for why in unread.iter().take(SHOWN) {
            let _ = writeln!(out, "  {}", escape(why));
        }
        if let Some(more) = in_json(unread.len(), SHOWN) {
            let _ = writeln!(out, "  {more}");
        }
    }
}

/// Returns the result of one of the user's checks, with what it expects.
fn judged(check: &Checked) -> String {
    let Checked { name, expect, value, why, .. } = check;
    let value = value.as_deref().unwrap_or_default();
    match (check.ok, why) {
        (true, None) => format!("ok      {name}: {value}, expected {expect}"),
        (true, Some(why)) => format!("ok      {name}: {value}, expected {expect}  ({why})"),
        (false, _) => format!("FAILED  {name}: {}", wrong(check)),
    }
}

fn change(difference: &Difference) -> String {
    match (&difference.before, &difference.after) {
        (Some(before), Some(after)) => format!("{}, was {}", escape(after), escape(before)),
        (Some(before), None) => format!("gone, was {}", escape(before)),
        (None, Some(after)) => escape(after),
        (None, None) => String::new(),
    }
}

/// Adds the table of the counts before and after.
fn same(out: &mut String, before: Option<FactsSummary>, now: Option<FactsSummary>) {
    let Some(now) = now.filter(|now| now.databases > 0) else { return };
    let Some(before) = before else {
        let _ = writeln!(out, "\n{}", summary(&now));
        return;
    };
    let mut rows = vec![["", "BEFORE", "NOW", ""].map(str::to_owned).to_vec()];
    let shown =
        |number, estimated| if estimated { format!("about {}", count(number)) } else { count(number) };
    let mut row = |name: &str, (then, now): (u64, u64), (then_about, now_about)| {
        let verdict = match now.cmp(&then) {
            Ordering::Equal => "same".to_owned(),
            Ordering::Greater => format!("{} more", count(now - then)),
            Ordering::Less => format!("{} fewer", count(then - now)),
        };
        rows.push(vec![name.to_owned(), shown(then, then_about), shown(now, now_about), verdict]);
    };
    row("databases", (before.databases, now.databases), (false, false));
    row("tables", (before.tables, now.tables), (false, false));
    row("rows", (before.rows, now.rows), (before.estimated, now.estimated));
    out.push('\n');
    out.push_str(&table(&rows));
}
