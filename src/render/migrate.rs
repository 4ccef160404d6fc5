//! The plan of a migration and its result, as a person reads them.

use std::fmt::Write as _;

use volsnap::ops::migrate::{Direction, MigratePlan, Migrated, Outcome};

use super::command::Commands;
use super::text::{counted, escape, left_down, milliseconds, size};

fn row(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "  {name:<12} {value}");
}

/// Returns the plan, with the changes that it makes to files.
pub(crate) fn plan(plan: &MigratePlan) -> String {
    let mut out = match plan.direction {
        Direction::ToDirectory => format!("migrate {} into a directory\n", escape(&plan.title)),
        Direction::Back => format!("migrate {} back into a volume\n", escape(&plan.title)),
    };
    let database = plan.database.as_ref().map_or_else(String::new, |name| format!(", {}", escape(name)));
    let data = format!("{} in {}{database}", size(plan.bytes), counted(plan.entries, "entry"));
    row(&mut out, "data", &data);
    row(&mut out, "from", &format!("{}, kept", escape(&plan.from)));
    row(&mut out, "to", &place(plan));
    row(
        &mut out,
        "room",
        &format!("{} free, {} needed at most", size(plan.free_bytes), size(plan.needed_bytes)),
    );
    row(&mut out, "owner", &format!("{}:{}", plan.owner.0, plan.owner.1));
    for user in &plan.users {
        let state = if user.running { "" } else { ", not running, and not started" };
        let how = user.service.as_ref().map_or_else(
            || "recreated by the engine, the same except for the mount".to_owned(),
            |service| format!("{}, recreated by Compose", escape(service)),
        );
        let at = escape(&user.mounted_at.display().to_string());
        row(&mut out, "used by", &format!("{} at {at}: {how}{state}", escape(&user.container)));
    }
    plan.sharers.iter().for_each(|one| row(&mut out, "shares", &super::report::sharer(one)));
    if !plan.stops.is_empty() {
        let names: Vec<_> = plan.stops.iter().map(|name| escape(name)).collect();
        let away = milliseconds(plan.expected_downtime_ms);
        row(&mut out, "stops", &format!("{}, for about {away}", names.join(", then ")));
    }
    plan.onlookers.iter().for_each(|one| row(&mut out, "can see it", &super::report::onlooker(one)));
    plan.own_commands.iter().for_each(|command| row(&mut out, "runs", &escape(command)));
    if !plan.down_after_reboot.is_empty() {
        row(&mut out, "reboot", &left_down(&plan.down_after_reboot));
    }
    for warning in &plan.warnings {
        row(&mut out, "warning", &escape(warning));
    }
    for edit in &plan.edits {
        let made = match (edit.new, edit.removed) {
            (true, _) => "makes",
            (_, true) => "removes",
            _ => "edits",
        };
        row(&mut out, made, &escape(&edit.path.display().to_string()));
        // The first two lines name the file again.
        for line in edit.diff.lines().skip(2) {
            let _ = writeln!(out, "    {}", escape(line));
        }
    }
    out
}

fn place(plan: &MigratePlan) -> String {
    let kind = plan.file_system.as_ref().map_or_else(String::new, |kind| format!(" ({})", escape(kind)));
    let more = match (plan.resumes, plan.makes, plan.replaces) {
        (true, ..) => ", where an earlier run began",
        (_, true, _) => ", to be created",
        (.., true) => ", in place of the older data there",
        _ => "",
    };
    format!("{}{kind}{more}", escape(&plan.to))
}

/// Returns the result of a migration.
pub(crate) fn outcome(outcome: &Outcome, commands: &Commands) -> String {
    match outcome {
        Outcome::Migrated(migrated) => done(migrated, commands),
        Outcome::Already { title, at } => {
            format!("{} has its data in {} already: nothing to do\n", escape(title), escape(at))
        }
    }
}

fn done(migrated: &Migrated, commands: &Commands) -> String {
    let plan = &migrated.plan;
    let mut out = format!("migrated {}: its data is in {}\n", escape(&plan.title), escape(&plan.to));
    let downtime = migrated.downtime_ms.map_or_else(|| "none, nothing ran".to_owned(), milliseconds);
    row(&mut out, "downtime", &downtime);
    row(&mut out, "took", &milliseconds(migrated.elapsed_ms));
    let compared = format!("{}, {}", counted(migrated.compared_files, "file"), size(migrated.compared_bytes));
    row(&mut out, "compared", &format!("{compared}: the copy is what was there, to the byte"));
    match migrated.strict {
        Some(true) => row(&mut out, "facts", "the same, and nothing was written in between"),
        Some(false) => row(&mut out, "facts", "the same, except for what was written since"),
        None => {}
    }
    for backup in &migrated.backups {
        row(
            &mut out,
            "before",
            &format!("{}    (the file as it was)", escape(&backup.display().to_string())),
        );
    }
    let kept = format!("{} still has the old data; to remove it:", escape(&plan.from));
    row(&mut out, "kept", &kept);
    row(&mut out, "", &commands.line(&migrated.remove));
    if let Some(back) = &migrated.back {
        row(&mut out, "back", &commands.line(back));
    }
    out
}
