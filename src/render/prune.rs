//! Plans and results of those verbs that remove, keep and copy snapshots.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use volsnap::model::hint::Hint;
use volsnap::model::retention::alarm::Alarm;
use volsnap::model::retention::{Decision, Fate};
use volsnap::ops::copy::CopyReport;
use volsnap::ops::marks::Removed;
use volsnap::ops::prune::{PlannedSnapshot, PrunePlan, PruneReport, SourcePlan, Stopped};
use volsnap::repository::Snapshot;

use super::command::Commands;
use super::text::{count, counted, escape, size, table, time};

/// Returns the plan of a prune, and how much it would do.
pub(crate) fn plan(plan: &PrunePlan, grace: Option<Duration>, commands: &Commands) -> String {
    let mut out = String::new();
    for source in &plan.sources {
        let _ = writeln!(out, "{}", escape(&source.source));
        out.push_str(&stopped(source, commands));
        let mut rows = vec![["  SNAPSHOT", "BECOMES", "WHY"].map(str::to_owned).to_vec()];
        rows.extend(source.snapshots.iter().map(|snapshot| row(plan, snapshot, grace)));
        out.push_str(&table(&rows));
        out.push('\n');
    }
    for left in &plan.incomplete {
        let _ = writeln!(
            out,
            "deletes what a dead run has left of {}/{}: {}",
            escape(&left.source),
            left.id,
            size(left.bytes)
        );
    }
    for (source, id) in &plan.half_deleted {
        let _ = writeln!(out, "deletes the rest of {}/{id}, which is no snapshot any more", escape(source));
    }
    out.push_str(&unread(plan));
    let marks: Vec<_> = plan.with_fate(Fate::Remove).collect();
    let due: Vec<_> = plan.due(grace).collect();
    let number = |several: usize| count(several as u64);
    let stays = number(plan.with_fate(Fate::Keep).count());
    let _ = write!(
        out,
        "would keep {stays}, mark {} ({}), delete {} ({})",
        number(marks.len()),
        size(marks.iter().map(|one| one.stored_bytes).sum()),
        number(due.len()),
        size(due.iter().map(|one| one.stored_bytes).sum())
    );
    out
}

fn row(plan: &PrunePlan, snapshot: &PlannedSnapshot, grace: Option<Duration>) -> Vec<String> {
    let Decision { id, fate, reasons } = &snapshot.decision;
    let becomes = match (fate, snapshot.due) {
        (Fate::Keep, _) => "kept".to_owned(),
        (Fate::Remove, _) if grace == Some(Duration::ZERO) => "deleted".to_owned(),
        (Fate::Remove, _) => "marked".to_owned(),
        (Fate::Marked, Some(due)) if due > plan.now => format!("deleted after {}", time(due)),
        (Fate::Marked, _) => "deleted".to_owned(),
        (Fate::Waits, _) => "stays marked".to_owned(),
        (Fate::Rescue, _) => "kept, its mark goes".to_owned(),
    };
    let why: Vec<_> = reasons.iter().map(|reason| escape(&reason.to_string())).collect();
    vec![format!("  {id}"), becomes, why.join("; ")]
}

/// Says why nothing of a source is removed, and what to do.
fn stopped(source: &SourcePlan, commands: &Commands) -> String {
    let (why, hint) = match &source.stopped {
        None => return String::new(),
        Some(Stopped::Alarms(alarms)) => {
            let why: Vec<_> = alarms.iter().map(ToString::to_string).collect();
            (why, ack(&source.source))
        }
        Some(Stopped::Obstructed(files)) => (files.clone(), Hint::volsnap(["list", &source.source])),
    };
    let mut out = "  nothing of it is removed:\n".to_owned();
    for why in why {
        let _ = writeln!(out, "    {}", escape(&why));
    }
    let _ = writeln!(out, "    -> {}", commands.line(&hint));
    out
}

/// Returns the command that lets a prune go on in a source.
pub(crate) fn ack(source: &str) -> Hint {
    Hint::volsnap(["ack", source]).why("once you have looked at it: prune goes on")
}

fn unread(plan: &PrunePlan) -> String {
    let mut out = String::new();
    for unread in &plan.unread {
        let _ = writeln!(out, "not looked at: {}", escape(unread));
    }
    out
}

/// Returns the result of a prune; its first line says it all.
pub(crate) fn pruned(plan: &PrunePlan, report: &PruneReport, commands: &Commands) -> String {
    let number = |several: usize| count(several as u64);
    let kept = number(plan.with_fate(Fate::Keep).count() + report.rescued.len());
    let stopped_sources = plan.sources.iter().filter(|source| source.stopped.is_some());
    let left_alone = match stopped_sources.clone().count() {
        0 => String::new(),
        several => format!(", {} left alone", counted(several as u64, "source")),
    };
    let failed = match report.failed.len() {
        0 => String::new(),
        several => format!(", {} FAILED", number(several)),
    };
    let mut out = format!(
        "kept {kept}, marked {}, deleted {}, freed {}{left_alone}{failed}\n",
        number(report.marked.len()),
        number(report.deleted.len()),
        size(report.freed_bytes)
    );
    for snapshot in plan.sources.iter().flat_map(|source| &source.snapshots) {
        let name = snapshot.name();
        let what = if report.deleted.contains(&name) {
            "deleted"
        } else if report.marked.contains(&name) {
            "marked "
        } else if report.rescued.contains(&name) {
            "rescued"
        } else {
            continue;
        };
        let why: Vec<_> = snapshot.decision.reasons.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "  {what}  {}: {}", escape(&name), escape(&why.join("; ")));
    }
    for source in stopped_sources {
        let _ = write!(out, "{}\n{}", escape(&source.source), stopped(source, commands));
    }
    for failed in &report.failed {
        let _ = writeln!(out, "not done: {}", escape(failed));
    }
    out.push_str(&unread(plan));
    if let Some(first) = report.marked.iter().find(|name| !report.deleted.contains(name)) {
        let back = Hint::volsnap(["undelete", first]).why("has it back, as long as it is only marked");
        let _ = writeln!(out, "{}", commands.line(&back));
    }
    out
}

/// Returns what became of a snapshot that somebody wants gone.
pub(crate) fn removed(snapshot: &Snapshot, removed: &Removed, commands: &Commands) -> String {
    let name = escape(&snapshot.name());
    let back = || commands.line(&Hint::volsnap(["undelete", &snapshot.name()]).why("has it back"));
    match removed {
        Removed::Deleted { bytes } => format!("{name} is deleted, {} are free", size(*bytes)),
        Removed::Marked { due } => {
            format!("{name} is marked; the first prune after {} deletes it\n{}", time(*due), back())
        }
        Removed::Held { by } => format!("{name} is marked, and stays for now: {}\n{}", escape(by), back()),
    }
}

/// Says that a snapshot is back.
pub(crate) fn undeleted(snapshot: &Snapshot, commands: &Commands) -> String {
    let pin = Hint::volsnap(["pin", &snapshot.name()]);
    let pin = commands.line(&pin.why("or the next prune marks it again, unless a rule keeps it"));
    format!("{} is back\n{pin}", escape(&snapshot.name()))
}

/// Says what somebody has looked at.
pub(crate) fn acknowledged(source: &str, acknowledged: &[(String, Vec<Alarm>)]) -> String {
    if acknowledged.is_empty() {
        return format!("nothing is wrong in {}", escape(source));
    }
    let mut out = String::new();
    for (source, alarms) in acknowledged {
        let _ = writeln!(out, "acknowledged for {}; prune goes on there:", escape(source));
        for alarm in alarms {
            let _ = writeln!(out, "  {}", escape(&alarm.to_string()));
        }
    }
    out
}

/// Returns the result of a copy; its first line says it all.
pub(crate) fn copied(report: &CopyReport, to: &Path, dry_run: bool) -> String {
    let to = escape(&to.display().to_string());
    let did = if dry_run { "would copy" } else { "copied" };
    let failed = match report.failed.len() {
        0 => String::new(),
        several => format!(", {} FAILED", count(several as u64)),
    };
    let mut out = format!(
        "{did} {} ({}) to {to}, {} there before, {} left out as older{failed}\n",
        counted(report.copied.len() as u64, "snapshot"),
        size(report.bytes),
        count(report.there.len() as u64),
        count(report.older.len() as u64)
    );
    for name in &report.copied {
        let _ = writeln!(out, "  {did}  {}", escape(name));
    }
    for (name, why) in &report.failed {
        let _ = writeln!(out, "  not copied  {}: {}", escape(name), escape(why));
    }
    out
}
