//! Results as a person reads them.

use std::fmt::Write as _;
use std::path::Path;

use volsnap::Error;
use volsnap::archive::{Codec, FileRecord};
use volsnap::model::hint::Hint;
use volsnap::model::inspection::PageChecksums;
use volsnap::model::manifest::{
    Capture, Consistency, Manifest, Proof, Quiesce, Verification, VerificationKind,
};
use volsnap::model::quote::shell_quote;
use volsnap::ops::drill::DrillReport;
use volsnap::ops::plan::Plan;
use volsnap::ops::recover::Unfinished;
use volsnap::ops::restore::{RestorePlan, Restored};
use volsnap::ops::stages::KeptStage;
use volsnap::ops::verify::Report;
use volsnap::repository::{Listing, Repository, Snapshot};
use volsnap::saga::RunInfo;
use volsnap::selector::configuration::configuration_apart;
use volsnap::store::StoreAddress;

use super::command::Commands;
use super::layout::folded;
use super::report;
use super::text::{
    and_more, count, counted, duration, escape, in_json, left_down, milliseconds, share, size, table, time,
};

/// How many problems of one verification are shown; `--json` has all of them.
const PROBLEMS_SHOWN: usize = 20;

/// Columns before the text of a failure.
const ERROR_INDENT: usize = 9;

/// Returns a failure: what volsnap was doing, why it failed, the state now, the next command. It is folded for a terminal
/// of that width, if there is one; commands never are.
pub(crate) fn error(error: &Error, commands: &Commands, width: Option<usize>) -> String {
    let fold = |text: String| width.map_or(text.clone(), |width| folded(&text, ERROR_INDENT, width));
    let mut out = format!("volsnap: {}", fold(escape(&error.chain())));
    if let Some(state) = error.state_text() {
        let _ = write!(out, "\n  state: {}", fold(escape(state)));
    }
    for (number, line) in commands.lines(error.hints()).into_iter().enumerate() {
        let lead = if number == 0 { "next: " } else { "  or: " };
        let _ = write!(out, "\n   {lead}{line}");
    }
    out
}

/// Lines of a name and a value.
pub(super) struct Rows(pub(super) String);

impl Rows {
    pub(super) fn new(head: &str) -> Self {
        Self(format!("{head}\n"))
    }

    pub(super) fn row(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "  {name:<12} {value}");
    }
}

/// Returns the result of a snapshot.
pub(crate) fn snapshot(snapshot: &Snapshot, commands: &Commands) -> String {
    summary(snapshot, commands).0
}

fn summary(snapshot: &Snapshot, commands: &Commands) -> Rows {
    let (manifest, archive) = (&snapshot.manifest, snapshot.archive_path());
    let mut rows = Rows::new(&format!("snapshot {} of {}", manifest.id, escape(&manifest.title)));
    rows.row("consistency", &consistency(manifest));
    rows.row("downtime", &downtime(manifest));
    rows.row("size", &sizes(manifest));
    for (name, value) in left_out(manifest) {
        rows.row(name, &value);
    }
    rows.row("archive", &escape(&archive.display().to_string()));
    if let Some(sealed) = &manifest.sealed {
        rows.row("encrypted", &escape(&format!("to {}", sealed.recipients)));
    }
    rows.row("verify", &commands.line(&Hint::volsnap(["verify", manifest.id.as_str()])));
    rows.row("unpack", &by_hand(snapshot));
    rows
}

fn consistency(manifest: &Manifest) -> String {
    match (manifest.consistency, &manifest.evidence.database) {
        (Consistency::Clean, Some(database)) => format!(
            "clean: {} {}, {}, the same before and after the copy",
            database.engine, database.version, database.state
        ),
        (Consistency::Clean, None) => "clean".to_owned(),
        (Consistency::StoppedAndQuiet, _) => {
            "stopped and quiet: no container that can write to it ran while it was read; no files prove how it was shut down"
                .to_owned()
        }
        (Consistency::QuietExcept, _) => format!(
            "{}: what uses it was stopped, and that ran and could write; no files prove how it was shut down",
            escape(&manifest.consistency_in_words())
        ),
        (Consistency::CrashConsistent, _) if manifest.evidence.reasons.is_empty() => {
            "crash-consistent".to_owned()
        }
        (Consistency::CrashConsistent, _) => {
            format!("crash-consistent: {}", escape(&manifest.evidence.reasons.join("; ")))
        }
        (Consistency::Online, Some(database)) => format!(
            "online: {} {} backed itself up; the backup recovers to the moment at which it ended",
            database.engine, database.version
        ),
        (Consistency::Online, None) => "online: the database backed itself up".to_owned(),
        (Consistency::Unquiesced, _) => "unquiesced: it was in use while it was read".to_owned(),
    }
}

fn downtime(manifest: &Manifest) -> String {
    let (stopped, paused) = (&manifest.evidence.stopped, &manifest.evidence.paused);
    let names: Vec<_> = stopped.iter().map(|container| &container.name).chain(paused).collect();
    if names.is_empty() && manifest.downtime_ms > 0 {
        // Who was stopped is sealed.
        return milliseconds(manifest.downtime_ms);
    }
    if names.is_empty() {
        return "none, nothing was stopped".to_owned();
    }
    let names: Vec<_> = names.into_iter().map(|name| escape(name)).collect();
    let frozen = if paused.is_empty() { "" } else { "frozen for " };
    format!("{frozen}{} ({})", milliseconds(manifest.downtime_ms), names.join(", "))
}

fn sizes(manifest: &Manifest) -> String {
    let (raw, stored) = (manifest.counts().raw_bytes, manifest.archive().stored_bytes);
    let codec = manifest.archive().codec.to_string();
    format!(
        "{} in {}, stored in {}{}",
        size(raw),
        counted(manifest.counts().files, "file"),
        size(stored),
        share(stored, raw, &codec)
    )
}

fn left_out(manifest: &Manifest) -> Vec<(&'static str, String)> {
    let counts = manifest.counts();
    let mut rows = Vec::new();
    if counts.sockets_skipped > 0 {
        rows.push((
            "left out",
            format!("{}, which no archive can hold", counted(counts.sockets_skipped, "socket")),
        ));
    }
    if counts.excluded > 0 {
        let mounted =
            configuration_apart(&manifest.environment.mounts, manifest.mounted_at().as_deref(), &[]);
        let or = if mounted.iter().any(|one| one.covers.is_some()) {
            ", or empty where a file is mounted"
        } else {
            ""
        };
        rows.push(("left out", format!("{} by --exclude{or}", count(counts.excluded))));
    }
    if counts.vanished > 0 {
        rows.push(("left out", format!("{} that vanished before volsnap read them", count(counts.vanished))));
    }
    if let Some(first) = counts.changed.first() {
        let first = escape(&first.display().to_string());
        let more = and_more(counts.changed.len(), 1);
        rows.push(("changed", format!("{first}{more}, while volsnap read")));
    }
    rows
}

/// Returns the command that unpacks the archive without volsnap.
fn by_hand(snapshot: &Snapshot) -> String {
    let decompress = match snapshot.manifest.archive().codec {
        Codec::Zstd { .. } => "--zstd ",
        Codec::Gzip { .. } => "--gzip ",
        Codec::None => "",
    };
    let quoted = |text: &str| escape(&shell_quote(text));
    let unpack = |archive: &str| {
        format!("tar {decompress}--numeric-owner --acls --xattrs -xpf {archive} -C DIRECTORY")
    };
    let decrypt = |archive: &str| format!("age --decrypt --identity FILE {archive}| {}", unpack("-"));
    let is_encrypted = snapshot.manifest.is_encrypted();
    let archive = quoted(&snapshot.archive_path().display().to_string());
    let store = snapshot.store_address();
    if store.local_path().is_some() {
        return if is_encrypted { decrypt(&format!("{archive} ")) } else { unpack(&archive) };
    }
    let rest = if is_encrypted { decrypt("") } else { unpack("-") };
    format!("{} | {rest}", fetch(store, &snapshot.archive_path().to_string_lossy()))
}

/// Returns the command that writes an object at a server to its output.
fn fetch(store: &StoreAddress, object: &str) -> String {
    let quoted = |text: &str| escape(&shell_quote(text));
    let (scheme, rest) = object.split_once("://").unwrap_or(("", object));
    match scheme {
        "sftp" => {
            let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (server, port) = match server.rsplit_once(':') {
                Some((server, port)) if !port.contains(']') => (server, format!("-p {} ", quoted(port))),
                _ => (server, String::new()),
            };
            let path = path.strip_prefix("~/").map_or_else(|| format!("/{path}"), str::to_owned);
            // The shell there reads it once more.
            let cat = format!("cat {}", shell_quote(&path));
            format!("ssh {port}{} {}", quoted(&server.replace(['[', ']'], "")), quoted(&cat))
        }
        "gs" => format!("gcloud storage cat {}", quoted(object)),
        "az" => {
            let (account, rest) = rest.split_once('/').unwrap_or((rest, ""));
            let (container, blob) = rest.split_once('/').unwrap_or((rest, ""));
            let (account, container, blob) = (quoted(account), quoted(container), quoted(blob));
            format!(
                "az storage blob download --no-progress --account-name {account} --container-name {container} \
                 --name {blob} --file /dev/stdout"
            )
        }
        "webdavs" => {
            format!("curl -fsS --user USER {}", quoted(&format!("https://{}", rest.replace(' ', "%20"))))
        }
        "webdav" => {
            format!("curl -fsS --user USER {}", quoted(&format!("http://{}", rest.replace(' ', "%20"))))
        }
        _ => {
            let options = [("--endpoint-url", "endpoint"), ("--region", "region")];
            let options: String = options
                .iter()
                .filter_map(|(option, name)| Some(format!(" {option} {}", quoted(&store.parameter(name)?))))
                .collect();
            format!("aws s3 cp {} -{options}", quoted(object))
        }
    }
}

/// Returns a plan.
pub(crate) fn plan(plan: &Plan) -> String {
    let mut rows = Rows::new(&format!("would take a snapshot of {}", escape(&plan.title)));
    let list =
        |names: &[String], between| names.iter().map(|name| escape(name)).collect::<Vec<_>>().join(between);
    rows.row("data", &format!("{} in {}", size(plan.raw_bytes), counted(plan.entries, "entry")));
    if let Some(database) = &plan.database {
        rows.row("database", database);
    }
    let downtime = format!("about {}", milliseconds(plan.expected_downtime_ms));
    match plan.quiesce {
        Quiesce::None => rows.row("stop", "nothing (--quiesce none)"),
        Quiesce::Native => rows.row("stop", "nothing: the database backs itself up while it runs"),
        Quiesce::Stop if plan.stops.is_empty() && plan.freezes.is_empty() => {
            rows.row("stop", "nothing: no container that uses it runs");
        }
        Quiesce::Stop => {
            if !plan.stops.is_empty() {
                rows.row("stop", &list(&plan.stops, ", then "));
            }
            if !plan.freezes.is_empty() {
                rows.row("freeze", &format!("{}, which cannot stop by itself", list(&plan.freezes, ", ")));
            }
            if !plan.starts.is_empty() {
                rows.row("start again", &list(&plan.starts, ", then "));
            }
            rows.row("downtime", &downtime);
        }
        Quiesce::Pause if plan.freezes.is_empty() => {
            rows.row("freeze", "nothing: no container that uses it runs");
        }
        Quiesce::Pause => {
            rows.row("freeze", &list(&plan.freezes, ", and at once "));
            rows.row("downtime", &downtime);
        }
    }
    rows.row("capture", &capture(plan));
    if !plan.stay_stopped.is_empty() {
        rows.row("stays down", &list(&plan.stay_stopped, ", "));
    }
    plan.onlookers.iter().for_each(|onlooker| rows.row("can see it", &super::report::onlooker(onlooker)));
    plan.own_commands.iter().for_each(|command| rows.row("runs", &escape(command)));
    if !plan.down_after_reboot.is_empty() {
        rows.row("reboot", &left_down(&plan.down_after_reboot));
    }
    let free = plan.free_bytes.map_or_else(|| "an unknown amount".to_owned(), size);
    rows.row("space", &format!("{} at worst, of {free} free", size(plan.needed_bytes)));
    rows.row("archive", &escape(&plan.archive.display().to_string()));
    rows.0
}

fn capture(plan: &Plan) -> String {
    match (plan.capture, &plan.stage) {
        (Capture::Staged, Some(stage)) => format!(
            "staged: {} ({} at most of {} free in {})",
            plan.capture_reason,
            size(plan.stage_needed_bytes.unwrap_or_default()),
            size(plan.stage_free_bytes.unwrap_or_default()),
            escape(stage)
        ),
        (Capture::Staged, None) => format!("staged: {}", plan.capture_reason),
        (Capture::Direct, _) => format!("direct: {}", escape(&plan.capture_reason)),
    }
}

/// Returns the list of snapshots, and apart from it what is no snapshot.
pub(crate) fn list(listing: &Listing, source: Option<&str>, repository: &Repository) -> String {
    let mut out = String::new();
    if listing.snapshots.is_empty() {
        let _ = writeln!(out, "{}", none(source, repository));
    } else {
        let head = ["SNAPSHOT", "SOURCE", "TAKEN", "CONSISTENCY", "SIZE", "STORED", "DOWNTIME", "VERIFIED"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(listing.snapshots.iter().map(list_row));
        out.push_str(&table(&rows));
    }
    out.push_str(&set_apart(listing));
    out
}

/// Returns the list of kept stages, with the command that removes each.
pub(crate) fn stages(stages: &[KeptStage], commands: &Commands) -> String {
    if stages.is_empty() {
        return "no stages are kept".to_owned();
    }
    let head = ["SOURCE", "MADE", "SIZE", "REMOVE IT WITH"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(stages.iter().map(|stage| {
        vec![
            escape(&stage.source),
            stage.made.map_or_else(|| "unknown".to_owned(), time),
            stage.bytes.map_or_else(|| "in use".to_owned(), size),
            commands.line(&stage.remove),
        ]
    }));
    table(&rows)
}

/// Says that there are no snapshots, and where.
pub(crate) fn none(source: Option<&str>, repository: &Repository) -> String {
    let of = source.map_or_else(String::new, |source| format!(" of {source}"));
    escape(&format!("no snapshots{of} in {}", repository.location().display()))
}

/// Returns what is in the repository and is no snapshot; empty if there is nothing like that.
pub(crate) fn set_apart(listing: &Listing) -> String {
    let mut out = String::new();
    if !listing.incomplete.is_empty() {
        out.push_str(
            "\nincomplete (no snapshots: a run is still at work, or died; see `volsnap recover`):\n",
        );
        for left in &listing.incomplete {
            let _ = writeln!(
                out,
                "  {}  {}, {}",
                escape(&left.path.display().to_string()),
                left.what,
                size(left.bytes)
            );
        }
    }
    if !listing.unreadable.is_empty() {
        out.push_str("\ndamaged or foreign:\n");
        for unreadable in &listing.unreadable {
            let _ = writeln!(
                out,
                "  {}: {}",
                escape(&unreadable.path.display().to_string()),
                escape(&unreadable.why)
            );
        }
    }
    out
}

fn list_row(snapshot: &Snapshot) -> Vec<String> {
    let manifest = &snapshot.manifest;
    vec![
        manifest.id.to_string(),
        escape(&manifest.source),
        time(manifest.times.started),
        // Nobody who looks for a backup means the data that a restore replaced.
        format!(
            "{}{}{}",
            escape(&manifest.consistency_in_words()),
            match (manifest.is_safety(), manifest.is_fresh()) {
                (false, _) => "",
                (true, false) => ", safety",
                (true, true) => ", safety of a fresh database",
            },
            match (&snapshot.deletion, &snapshot.pin) {
                (Some(deletion), _) => format!(", deleted after {}", time(deletion.due(None))),
                (None, Some(_)) => ", pinned".to_owned(),
                (None, None) => String::new(),
            }
        ),
        size(manifest.counts().raw_bytes),
        size(manifest.archive().stored_bytes),
        if manifest.downtime_ms == 0 { "none".to_owned() } else { milliseconds(manifest.downtime_ms) },
        snapshot.verified.last().map_or_else(
            || "never".to_owned(),
            |last| format!("{} {}{}", outcome(last), time(last.at), recovery(last)),
        ),
    ]
}

fn outcome(verification: &Verification) -> String {
    match (verification.shows(), verification.kind) {
        (Some(proof), _) => proof.to_string(),
        (None, VerificationKind::Read) => "DAMAGED".to_owned(),
        (None, VerificationKind::Drill) => "FAILED its drill".to_owned(),
    }
}

/// Returns the measured recovery time, if there is one.
fn recovery(verification: &Verification) -> String {
    let measured = verification.drill.filter(|drill| verification.ok && drill.boot_ms > 0);
    measured.map_or_else(String::new, |drill| format!(", up in {}", milliseconds(drill.recovery_ms)))
}

/// Returns everything that volsnap knows of one snapshot.
pub(crate) fn show(snapshot: &Snapshot, commands: &Commands) -> String {
    let manifest = &snapshot.manifest;
    let mut rows = summary(snapshot, commands);
    rows.row(
        "taken",
        &format!("{}, published {}", time(manifest.times.started), time(manifest.times.published)),
    );
    rows.row("source", &escape(&manifest.source));
    if snapshot.is_locked() {
        rows.row(
            "sealed",
            "what was seen of the data, its containers, mounts and paths: an identity opens it",
        );
    }
    if let Some(pin) = &snapshot.pin {
        let reason = pin.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", escape(reason)));
        rows.row("pinned", &format!("{}{reason}", time(pin.at)));
    }
    if let Some(deletion) = &snapshot.deletion {
        let why = escape(&deletion.reasons.join("; "));
        rows.row("deletion", &format!("by the first prune after {}: {why}", time(deletion.due(None))));
        rows.row("", &commands.line(&Hint::volsnap(["undelete", &snapshot.name()]).why("keeps it")));
    }
    show_environment(manifest, &mut rows);
    show_database(manifest, snapshot.is_locked(), &mut rows);
    if let Some(facts) = &manifest.facts {
        rows.row("facts", &super::report::facts(facts));
        for why in facts.seen.unread() {
            rows.row("", &escape(&format!("not looked at: {why}")));
        }
    }
    for (key, value) in &manifest.tags {
        rows.row("tag", &escape(&format!("{key}={value}")));
    }
    let phases: Vec<_> =
        manifest.phases.iter().map(|time| format!("{} {}", time.phase, milliseconds(time.ms))).collect();
    rows.row("phases", &phases.join(", "));
    rows.row("blake3", &manifest.archive().blake3);
    for verification in &snapshot.verified {
        rows.row(
            "looked at",
            &format!("{} {}{}", time(verification.at), outcome(verification), recovery(verification)),
        );
    }
    rows.0
}

fn show_environment(manifest: &Manifest, rows: &mut Rows) {
    let environment = &manifest.environment;
    if let (Some(container), Some(image)) = (&environment.container, &environment.image) {
        rows.row("container", &escape(&format!("{container}, image {image}")));
    }
    if let Some(id) = &environment.image_id {
        rows.row("image id", &escape(id));
    }
    let engine = format!(
        "Docker {}, API {}, {}",
        environment.engine_version, environment.api_version, environment.arch
    );
    rows.row("engine", &escape(&engine));
}

fn show_database(manifest: &Manifest, is_locked: bool, rows: &mut Rows) {
    let Some(database) = &manifest.evidence.database else { return };
    let directory = &database.data_directory;
    let at = if directory.as_os_str().is_empty() {
        "the root".to_owned()
    } else {
        directory.display().to_string()
    };
    let at = if is_locked { String::new() } else { format!(" in {at}") };
    rows.row("database", &escape(&format!("{} {}{at}", database.engine, database.version)));
    if let Some(identifier) = &database.identifier {
        rows.row("identifier", &escape(identifier));
    }
    let checksums = match database.page_checksums {
        Some(PageChecksums::On) if manifest.consistency == Consistency::Clean => {
            "on: verify checks every page"
        }
        Some(PageChecksums::On) => "on: not checked in a copy of a database that ran",
        Some(PageChecksums::Off) => "off: damage inside a page cannot be seen",
        Some(PageChecksums::Unknown) => "not known",
        None => "none: its files are not made of pages",
    };
    rows.row("checksums", checksums);
    for (name, value) in &database.details {
        rows.row("", &escape(&format!("{name}: {value}")));
    }
}

/// Returns the plan of a restore.
pub(crate) fn restore_plan(plan: &RestorePlan) -> String {
    let mut rows = Rows::new(&format!("restore {}", escape(&plan.archive)));
    let list = |names: &[String]| names.iter().map(|name| escape(name)).collect::<Vec<_>>().join(", ");
    let database = plan.database.as_ref().map_or_else(String::new, |name| format!(", {}", escape(name)));
    rows.row("of", &format!("{}{database}", escape(&plan.of)));
    let makes = if plan.makes { ", to be created" } else { "" };
    rows.row("into", &format!("{}{makes}", escape(&plan.into)));
    rows.row("data", &format!("{} in {}", size(plan.bytes), counted(plan.members, "entry")));
    if !plan.level.is_same() {
        let shown = |path: &Path| format!("`{}`", escape(&path.display().to_string()));
        rows.row(
            "level",
            &format!(
                "what the archive has in {} goes to {}",
                shown(&plan.level.strip),
                shown(&plan.level.prefix)
            ),
        );
    }
    if let Some(fresh) = &plan.fresh {
        rows.row("fresh", &format!("the database that is there is newer than the snapshot: {fresh}"));
    }
    if plan.replaces_entries > 0 {
        let replaced =
            format!("{} in {}", size(plan.replaces_bytes), counted(plan.replaces_entries, "entry"));
        rows.row("replaces", &replaced);
        let kept = plan.safety.as_ref().map_or_else(
            || "not kept: it is gone afterwards".to_owned(),
            |safety| format!("kept as {}", escape(safety)),
        );
        rows.row("", &kept);
    }
    if plan.in_place {
        rows.row(
            "no room",
            "for two copies: archives the old data first and removes it; the service is down for all of that",
        );
    }
    if !plan.stops.is_empty() {
        rows.row("stops", &list(&plan.stops));
    }
    plan.own_commands.iter().for_each(|command| rows.row("runs", &escape(command)));
    if !plan.down_after_reboot.is_empty() {
        rows.row("reboot", &left_down(&plan.down_after_reboot));
    }
    if !plan.stay_stopped.is_empty() {
        rows.row("stay stopped", &list(&plan.stay_stopped));
    }
    plan.onlookers.iter().for_each(|onlooker| rows.row("can see it", &super::report::onlooker(onlooker)));
    if let Some(free) = plan.free_bytes {
        rows.row("room", &format!("{} free, {} needed at most", size(free), size(plan.needed_bytes)));
    }
    slots(&mut rows, plan);
    for warning in &plan.warnings {
        rows.row("warning", &escape(warning));
    }
    rows.0
}

/// Tells what becomes of the replication slots that a snapshot has.
fn slots(rows: &mut Rows, plan: &RestorePlan) {
    if plan.slots.is_empty() {
        return;
    }
    let what = if plan.leaves_out_slots {
        "left out, since they would keep log for nobody (--keep-slots keeps them)"
    } else {
        "kept: each keeps log until its consumer takes it; a consumer that is ahead must be synchronised again"
    };
    rows.row("slots", what);
    plan.slots.iter().for_each(|slot| rows.row("", &escape(&slot.title())));
}

/// Returns the result of a restore.
pub(crate) fn restored(restored: &Restored, commands: &Commands) -> String {
    let plan = &restored.plan;
    let mut rows = Rows::new(&format!("restored {} into {}", escape(&plan.archive), escape(&plan.into)));
    rows.row("data", &format!("{} in {}", size(restored.bytes), counted(restored.files, "file")));
    let downtime = restored.downtime.map_or_else(|| "none, nothing was stopped".to_owned(), duration);
    rows.row("downtime", &downtime);
    rows.row("took", &duration(restored.elapsed));
    if let Some(safety) = &restored.safety {
        rows.row("before", &format!("kept as {}", escape(&safety.name())));
    }
    for (index, slot) in restored.slots_left_out.iter().enumerate() {
        rows.row(if index == 0 { "slots" } else { "" }, &format!("left out: {}", escape(&slot.title())));
        slot.anew.iter().for_each(|anew| rows.row("", &format!("anew: {}", commands.line(anew))));
    }
    if let Some(undo) = &restored.undo {
        rows.row("undo", &commands.line(undo));
    }
    restored.next.iter().for_each(|next| rows.row("next", &commands.line(next)));
    rows.0
}

/// Returns the result of a verification.
pub(crate) fn verified(snapshot: &Snapshot, report: &Report, commands: &Commands) -> String {
    let outcome = match (report.ok, report.sealed) {
        (true, false) => "is verified",
        (true, true) => "is stored as it was; it is encrypted, and nobody looked inside",
        (false, _) => "is DAMAGED",
    };
    let mut rows =
        Rows::new(&format!("snapshot {} of {} {outcome}", report.id, escape(&snapshot.manifest.title)));
    let read = if report.sealed {
        format!("{} as they are stored", size(snapshot.manifest.archive().stored_bytes))
    } else {
        format!("{} in {}", size(report.raw_bytes), counted(report.files, "file"))
    };
    rows.row("read back", &format!("{read}, in {}", milliseconds(report.ms)));
    for note in &report.notes {
        rows.row("checked", &escape(note));
    }
    for problem in report.problems.iter().take(PROBLEMS_SHOWN) {
        let block = problem.block.map_or_else(String::new, |block| format!(", block {block}"));
        let path = problem.path.as_deref().unwrap_or("archive");
        rows.row("damage", &format!("{}{block}: {}", escape(path), escape(&problem.what)));
    }
    in_json(report.problems.len(), PROBLEMS_SHOWN).iter().for_each(|more| rows.row("", more));
    if !report.ok {
        let list = Hint::volsnap(["list", &snapshot.manifest.source]).why("try an older one");
        rows.row("next", &commands.line(&list));
    }
    rows.0
}

/// Returns the result of a drill.
pub(crate) fn drilled(snapshot: &Snapshot, report: &DrillReport, commands: &Commands) -> String {
    let outcome = match report.shows() {
        Some(Proof::Proved) => "is proved: it boots, and its data is what it was",
        Some(Proof::Booted) => "boots; its data was not compared with anything",
        Some(Proof::Unpacked | Proof::Verified | Proof::Stored) => {
            "is unpacked: every file is what was stored; nothing was booted"
        }
        None => "FAILS the drill",
    };
    let mut rows =
        Rows::new(&format!("snapshot {} of {} {outcome}", report.id, escape(&snapshot.manifest.title)));
    let times = &report.times;
    if let Some(image) = &report.image {
        rows.row("booted", &escape(image));
        rows.row(
            "recovery",
            &format!(
                "{} from the archive to a database that answers (unpacking {}, boot {}); comparing {}",
                milliseconds(times.recovery_ms),
                milliseconds(times.extract_ms),
                milliseconds(times.boot_ms),
                milliseconds(times.compare_ms)
            ),
        );
    }
    for note in &report.notes {
        rows.row("checked", &escape(note));
    }
    for problem in report.problems.iter().take(PROBLEMS_SHOWN) {
        rows.row("problem", &escape(problem));
    }
    in_json(report.problems.len(), PROBLEMS_SHOWN).iter().for_each(|more| rows.row("", more));
    if !report.ok {
        let list = Hint::volsnap(["list", &snapshot.manifest.source]).why("try an older one");
        rows.row("next", &commands.line(&list));
    }
    report::findings(&mut rows.0, &report.differences, &report.checks, &report.unread, commands);
    rows.0
}

/// Returns one line of a file list.
pub(crate) fn file(file: &FileRecord) -> String {
    format!(
        "{:>12}  {:04o}  {:>5}:{:<5}  {}",
        file.size,
        file.mode,
        file.uid,
        file.gid,
        escape(&file.display_path())
    )
}

/// Returns the unfinished runs.
pub(crate) fn unfinished(runs: &[Unfinished]) -> String {
    if runs.is_empty() {
        return "no unfinished runs".to_owned();
    }
    let mut out = String::new();
    for run in runs {
        let info = &run.run;
        let state = match (run.held, run.process) {
            (false, _) => "dead".to_owned(),
            (true, Some(process)) => format!("at work, process {process}"),
            (true, None) => format!("at work, but no longer its process {}", info.pid),
        };
        let _ = writeln!(out, "{}  {} of {}: {state}", info.run, info.verb, escape(&info.subject));
        for open in &run.open {
            let _ = writeln!(out, "  to do: {}", escape(open));
        }
        for name in run.holds.iter().filter(|_| run.held) {
            let _ = writeln!(out, "  holds: {}", escape(name));
        }
    }
    out
}

/// Returns which runs were finished; `at_work` are those that somebody else works on.
pub(crate) fn recovered(runs: &[RunInfo], at_work: &[Unfinished]) -> String {
    if runs.is_empty() && at_work.is_empty() {
        return "nothing to recover".to_owned();
    }
    let mut out = String::new();
    if runs.is_empty() {
        out.push_str("no dead run has left anything\n");
    }
    for Unfinished { run, .. } in at_work {
        let _ = writeln!(
            out,
            "{} of {} ({}) is at work, and left alone",
            run.verb,
            escape(&run.subject),
            run.run
        );
    }
    for run in runs {
        let _ = writeln!(out, "finished {} of {} ({})", run.verb, escape(&run.subject), run.run);
    }
    out
}
