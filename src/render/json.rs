//! JSON for programs: every object that `--json` prints, as a type. Field names are part of the interface: new ones
//! are added, none changes. `docs/json-schema.json` describes them for others, and a test keeps the two in step.
//!
//! A command in an object is a line to paste, like those that people see.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use volsnap::archive::Codec;
use volsnap::crypt::Recipients;
use volsnap::database::fresh::FreshDatabase;
use volsnap::model::event::Phase;
use volsnap::model::facts::checks::Checked;
use volsnap::model::facts::difference::{DifferenceKind, Severity};
use volsnap::model::facts::{FactsLevel, FactsSummary, difference};
use volsnap::model::hint::Hint;
use volsnap::model::ids::SnapshotId;
use volsnap::model::location::MountSource;
use volsnap::model::manifest::{
    ArchiveInfo, Capture, Consistency, Counts, DrillTimes, FileListInfo, Manifest, PhaseTime, Proof, Quiesce,
    Verification,
};
use volsnap::model::retention::Fate;
use volsnap::model::retention::alarm::Alarm;
use volsnap::model::source::Onlooker;
use volsnap::ops::check::Against;
use volsnap::ops::copy::CopyReport;
use volsnap::ops::doctor::{Kind, Risk};
use volsnap::ops::marks::Removed;
use volsnap::ops::migrate::{Direction, PlannedEdit, PlannedUser};
use volsnap::ops::prune::{PrunePlan, PruneReport, SourcePlan, Stopped};
use volsnap::ops::restore::{Level, SnapshotSlot};
use volsnap::ops::sharers::PlannedSharer;
use volsnap::ops::verify::Problem;
use volsnap::ops::{check, doctor, drill, migrate, plan, recover, restart, restore, stages, verify};
use volsnap::repository::{Deletion, Pin, Repository, Snapshot};
use volsnap::saga::RunInfo;
use volsnap::store::Probed;
use volsnap::{Error, ErrorKind};

use super::command::Commands;

/// Returns a value as JSON; `null` for one that JSON cannot hold (no type here is such).
pub(crate) fn value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Declares an object that has fields of a value of the library, by the same names.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident of $source:ty { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Serialize)]
        pub(crate) struct $name<'a> { $($field: &'a $type,)* }

        impl<'a> From<&'a $source> for $name<'a> {
            fn from(value: &'a $source) -> Self {
                Self { $($field: &value.$field,)* }
            }
        }
    };
}

/// What went wrong, as every command prints it that has no result.
#[derive(Debug, Serialize)]
pub(crate) struct FailureObject {
    error: Failure,
}

#[derive(Debug, Serialize)]
struct Failure {
    kind: &'static str,
    message: String,
    state: Option<String>,
    /// What to type next, the likeliest first.
    next: Vec<String>,
}

impl FailureObject {
    /// Returns what is printed of a failure.
    pub(crate) fn new(error: &Error, commands: &Commands) -> Self {
        let kind = match error.kind() {
            ErrorKind::Failed => "failed",
            ErrorKind::Usage => "usage",
            ErrorKind::Damaged => "damaged",
            ErrorKind::NotPutBack => "not-put-back",
            ErrorKind::Busy => "busy",
            ErrorKind::Partial => "partial",
            ErrorKind::Interrupted(_) => "interrupted",
        };
        let (state, next) = (error.state_text().map(str::to_owned), commands.lines(error.hints()));
        Self { error: Failure { kind, message: error.chain(), state, next } }
    }

    /// Returns what is printed of a command line that is not understood.
    pub(crate) fn of_usage(said: &str) -> Self {
        let message = said.trim().trim_start_matches("error: ").to_owned();
        Self { error: Failure { kind: "usage", message, state: None, next: Vec::new() } }
    }
}

/// A repository, as `init --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct RepositoryObject<'a> {
    repository: PathBuf,
    id: &'a str,
    /// Whether this command has made it.
    made: bool,
    /// What the server has proved; null for a directory.
    store: Option<&'a Probed>,
    /// Whom what is in it is encrypted to; null if it is not.
    recipients: Option<&'a Recipients>,
}

impl<'a> RepositoryObject<'a> {
    /// Returns what is printed of a repository.
    pub(crate) fn new(repository: &'a Repository, made: bool) -> Self {
        Self {
            repository: repository.location(),
            id: repository.id(),
            made,
            store: repository.probed(),
            recipients: repository.recipients(),
        }
    }
}

/// A snapshot, as `snapshot --json` and, with its last verification, `list --json` print it.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotObject<'a> {
    id: &'a SnapshotId,
    source: &'a str,
    title: &'a str,
    archive: PathBuf,
    quiesce: Quiesce,
    capture: Capture,
    consistency: Consistency,
    reasons: &'a [String],
    compression: String,
    downtime_ms: u64,
    archive_ms: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    files: u64,
    blake3: &'a str,
    started: DateTime<Utc>,
    published: DateTime<Utc>,
    phases: &'a [PhaseTime],
    tags: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drill: Option<DrillObject<'a>>,
}

impl<'a> SnapshotObject<'a> {
    /// Returns what is printed of a snapshot, with its drill.
    pub(crate) fn new(snapshot: &'a Snapshot, drill: Option<DrillObject<'a>>) -> Self {
        let manifest = &snapshot.manifest;
        Self {
            id: &manifest.id,
            source: &manifest.source,
            title: &manifest.title,
            archive: snapshot.archive_path(),
            quiesce: manifest.method.quiesce,
            capture: manifest.method.capture,
            consistency: manifest.consistency,
            reasons: &manifest.evidence.reasons,
            compression: manifest.archive().codec.to_string(),
            downtime_ms: manifest.downtime_ms,
            archive_ms: archive_ms(&manifest.phases),
            raw_bytes: manifest.counts().raw_bytes,
            stored_bytes: manifest.archive().stored_bytes,
            files: manifest.counts().files,
            blake3: &manifest.archive().blake3,
            started: manifest.times.started,
            published: manifest.times.published,
            phases: &manifest.phases,
            tags: &manifest.tags,
            drill,
        }
    }
}

/// A snapshot in a list.
#[derive(Debug, Serialize)]
pub(crate) struct ListedObject<'a> {
    #[serde(flatten)]
    snapshot: SnapshotObject<'a>,
    verified: Option<&'a Verification>,
    pinned: Option<PinObject<'a>>,
    deletion: Option<DeletionObject<'a>>,
}

/// That a snapshot is pinned.
#[derive(Debug, Serialize)]
struct PinObject<'a> {
    at: DateTime<Utc>,
    reason: Option<&'a str>,
}

impl<'a> From<&'a Pin> for PinObject<'a> {
    fn from(pin: &'a Pin) -> Self {
        Self { at: pin.at, reason: pin.reason.as_deref() }
    }
}

/// That a snapshot is to be deleted.
#[derive(Debug, Serialize)]
struct DeletionObject<'a> {
    at: DateTime<Utc>,
    due: DateTime<Utc>,
    by_hand: bool,
    reasons: &'a [String],
}

impl<'a> From<&'a Deletion> for DeletionObject<'a> {
    fn from(deletion: &'a Deletion) -> Self {
        let (due, reasons) = (deletion.due(None), &deletion.reasons[..]);
        Self { at: deletion.at, due, by_hand: deletion.by_hand, reasons }
    }
}

impl<'a> ListedObject<'a> {
    /// Returns what `list --json` prints of a snapshot.
    pub(crate) fn new(listed: &'a Snapshot) -> Self {
        Self {
            snapshot: SnapshotObject::new(listed, None),
            verified: listed.verified.last(),
            pinned: listed.pin.as_ref().map(PinObject::from),
            deletion: listed.deletion.as_ref().map(DeletionObject::from),
        }
    }
}

/// Everything that is known of a snapshot: its manifest and its verifications. The fields of the first format keep
/// their names, even those that the manifest has elsewhere by now.
#[derive(Debug, Serialize)]
pub(crate) struct ShownObject<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    format_version: u32,
    location: &'a MountSource,
    quiesce: Quiesce,
    capture: Capture,
    archive: &'a ArchiveInfo,
    file_list: &'a FileListInfo,
    counts: &'a Counts,
    archive_path: PathBuf,
    verified: &'a [Verification],
    pinned: Option<PinObject<'a>>,
    deletion: Option<DeletionObject<'a>>,
}

impl<'a> ShownObject<'a> {
    /// Returns what `show --json` prints of a snapshot.
    pub(crate) fn new(shown: &'a Snapshot) -> Self {
        let manifest = &shown.manifest;
        Self {
            manifest,
            format_version: manifest.format_version,
            location: manifest.location(),
            quiesce: manifest.method.quiesce,
            capture: manifest.method.capture,
            archive: manifest.archive(),
            file_list: manifest.file_list(),
            counts: manifest.counts(),
            archive_path: shown.archive_path(),
            verified: &shown.verified,
            pinned: shown.pin.as_ref().map(PinObject::from),
            deletion: shown.deletion.as_ref().map(DeletionObject::from),
        }
    }
}

/// The plan of a prune, and what was done of it: nothing in a dry run.
#[derive(Debug, Serialize)]
pub(crate) struct PruneObject {
    dry_run: bool,
    now: DateTime<Utc>,
    sources: Vec<PrunedSourceObject>,
    /// What dead runs have left, and goes.
    incomplete: Vec<IncompleteObject>,
    not_looked_at: Vec<String>,
    marked: Vec<String>,
    deleted: Vec<String>,
    rescued: Vec<String>,
    failed: Vec<String>,
    freed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct PrunedSourceObject {
    source: String,
    /// Why nothing of it is removed; empty if something may be.
    stopped: Vec<String>,
    /// What to type about that.
    next: Vec<String>,
    snapshots: Vec<PrunedSnapshotObject>,
}

#[derive(Debug, Serialize)]
struct PrunedSnapshotObject {
    id: String,
    /// `keep`, `mark`, `marked`, `delete`, `waits` or `rescue`.
    fate: &'static str,
    reasons: Vec<String>,
    stored_bytes: u64,
    /// When a marked one may be deleted.
    due: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
struct IncompleteObject {
    source: String,
    id: String,
    bytes: u64,
}

impl PruneObject {
    /// Returns what is printed of a prune.
    pub(crate) fn new(
        plan: &PrunePlan,
        report: Option<&PruneReport>,
        grace: Option<Duration>,
        commands: &Commands,
    ) -> Self {
        let incomplete = plan.incomplete.iter().map(|left| IncompleteObject {
            source: left.source.clone(),
            id: left.id.to_string(),
            bytes: left.bytes,
        });
        let done = report.cloned().unwrap_or_default();
        Self {
            dry_run: report.is_none(),
            now: plan.now,
            sources: plan.sources.iter().map(|source| pruned_source(plan, source, grace, commands)).collect(),
            incomplete: incomplete.collect(),
            not_looked_at: plan.unread.clone(),
            marked: done.marked,
            deleted: done.deleted,
            rescued: done.rescued,
            failed: done.failed,
            freed_bytes: done.freed_bytes,
        }
    }
}

fn pruned_source(
    plan: &PrunePlan,
    source: &SourcePlan,
    grace: Option<Duration>,
    commands: &Commands,
) -> PrunedSourceObject {
    let (stopped, next) = match &source.stopped {
        None => (Vec::new(), None),
        Some(Stopped::Alarms(alarms)) => {
            (alarms.iter().map(ToString::to_string).collect(), Some(super::prune::ack(&source.source)))
        }
        Some(Stopped::Obstructed(files)) => (files.clone(), Some(Hint::volsnap(["list", &source.source]))),
    };
    let snapshots = source.snapshots.iter().map(|one| PrunedSnapshotObject {
        id: one.decision.id.to_string(),
        fate: match one.decision.fate {
            Fate::Keep => "keep",
            Fate::Remove if grace == Some(Duration::ZERO) => "delete",
            Fate::Remove => "mark",
            Fate::Marked if one.due.is_some_and(|due| due > plan.now) => "marked",
            Fate::Marked => "delete",
            Fate::Waits => "waits",
            Fate::Rescue => "rescue",
        },
        reasons: one.decision.reasons.iter().map(ToString::to_string).collect(),
        stored_bytes: one.stored_bytes,
        due: one.due.filter(|due| *due > DateTime::<Utc>::MIN_UTC),
    });
    PrunedSourceObject {
        source: source.source.clone(),
        stopped,
        next: commands.lines(&next),
        snapshots: snapshots.collect(),
    }
}

/// What `pin`, `unpin`, `remove` and `undelete` print.
#[derive(Debug, Serialize)]
pub(crate) struct MarkedObject {
    id: String,
    source: String,
    /// `pinned`, `unpinned`, `marked`, `held`, `deleted` or `undeleted`.
    outcome: &'static str,
    /// When a marked one may be deleted.
    due: Option<DateTime<Utc>>,
    /// Why one that is marked cannot be deleted yet.
    held_by: Option<String>,
    freed_bytes: u64,
}

impl MarkedObject {
    /// Returns what is printed of an outcome that needs no more words.
    pub(crate) fn new(snapshot: &Snapshot, outcome: &'static str) -> Self {
        let (id, source) = (snapshot.manifest.id.to_string(), snapshot.manifest.source.clone());
        Self { id, source, outcome, due: None, held_by: None, freed_bytes: 0 }
    }

    /// Returns what `remove` prints.
    pub(crate) fn removed(snapshot: &Snapshot, removed: &Removed) -> Self {
        match removed {
            Removed::Marked { due } => Self { due: Some(*due), ..Self::new(snapshot, "marked") },
            Removed::Held { by } => Self { held_by: Some(by.clone()), ..Self::new(snapshot, "held") },
            Removed::Deleted { bytes } => Self { freed_bytes: *bytes, ..Self::new(snapshot, "deleted") },
        }
    }
}

/// What somebody has looked at in a source.
#[derive(Debug, Serialize)]
pub(crate) struct AcknowledgedObject {
    source: String,
    alarms: Vec<String>,
}

impl From<&(String, Vec<Alarm>)> for AcknowledgedObject {
    fn from((source, alarms): &(String, Vec<Alarm>)) -> Self {
        Self { source: source.clone(), alarms: alarms.iter().map(ToString::to_string).collect() }
    }
}

/// What a copy has done, or would do.
#[derive(Debug, Serialize)]
pub(crate) struct CopyObject<'a> {
    dry_run: bool,
    copied: &'a [String],
    bytes: u64,
    there: &'a [String],
    older: &'a [String],
    failed: Vec<NotCopiedObject<'a>>,
}

#[derive(Debug, Serialize)]
struct NotCopiedObject<'a> {
    snapshot: &'a str,
    why: &'a str,
}

impl<'a> CopyObject<'a> {
    /// Returns what is printed of a copy.
    pub(crate) fn new(report: &'a CopyReport, dry_run: bool) -> Self {
        let CopyReport { copied, bytes, there, older, .. } = report;
        let failed = report.failed.iter().map(|(snapshot, why)| NotCopiedObject { snapshot, why });
        Self { dry_run, copied, bytes: *bytes, there, older, failed: failed.collect() }
    }
}

object! {
    /// The plan of a snapshot.
    SnapshotPlanObject of plan::Plan {
        id: String,
        source: String,
        title: String,
        host_path: PathBuf,
        database: Option<String>,
        data_directory: Option<PathBuf>,
        quiesce: Quiesce,
        capture: Capture,
        capture_reason: String,
        stage: Option<String>,
        stage_needed_bytes: Option<u64>,
        stage_free_bytes: Option<u64>,
        codec: Codec,
        stops: Vec<String>,
        freezes: Vec<String>,
        starts: Vec<String>,
        down_after_reboot: Vec<String>,
        own_commands: Vec<String>,
        stay_stopped: Vec<String>,
        onlookers: Vec<Onlooker>,
        entries: u64,
        raw_bytes: u64,
        needed_bytes: u64,
        free_bytes: Option<u64>,
        expected_downtime_ms: u64,
        archive: PathBuf,
    }
}

object! {
    /// The plan of a restore.
    RestorePlanObject of restore::RestorePlan {
        id: String,
        archive: String,
        of: String,
        database: Option<String>,
        into: String,
        host_path: PathBuf,
        makes: bool,
        stops: Vec<String>,
        starts: Vec<String>,
        down_after_reboot: Vec<String>,
        own_commands: Vec<String>,
        stay_stopped: Vec<String>,
        onlookers: Vec<Onlooker>,
        members: u64,
        bytes: u64,
        needed_bytes: u64,
        free_bytes: Option<u64>,
        replaces_entries: u64,
        replaces_bytes: u64,
        in_place: bool,
        slots: Vec<SnapshotSlot>,
        leaves_out_slots: bool,
        fresh: Option<FreshDatabase>,
        safety: Option<String>,
        level: Level,
        warnings: Vec<String>,
    }
}

/// A replication slot that a restored database is without.
#[derive(Debug, Serialize)]
struct SlotLeftOut<'a> {
    #[serde(flatten)]
    slot: &'a SnapshotSlot,
    /// The command that makes it anew.
    anew: Option<String>,
}

/// The result of a restore.
#[derive(Debug, Serialize)]
pub(crate) struct RestoredObject<'a> {
    id: &'a str,
    archive: &'a str,
    into: &'a str,
    host_path: &'a Path,
    database: Option<&'a str>,
    files: u64,
    raw_bytes: u64,
    downtime_ms: u64,
    restore_ms: u64,
    slots_left_out: Vec<SlotLeftOut<'a>>,
    safety: Option<String>,
    undo: Option<String>,
    next: Vec<String>,
    warnings: &'a [String],
}

impl<'a> RestoredObject<'a> {
    /// Returns what `restore --json` prints.
    pub(crate) fn new(restored: &'a restore::Restored, commands: &Commands) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let slot_left_out = |slot: &'a SnapshotSlot| SlotLeftOut {
            slot,
            anew: slot.anew.as_ref().map(|anew| commands.line(anew)),
        };
        Self {
            id: &restored.plan.id,
            archive: &restored.plan.archive,
            into: &restored.plan.into,
            host_path: &restored.plan.host_path,
            database: restored.plan.database.as_deref(),
            files: restored.files,
            raw_bytes: restored.bytes,
            downtime_ms: restored.downtime.map_or(0, ms),
            restore_ms: ms(restored.elapsed),
            slots_left_out: restored.slots_left_out.iter().map(slot_left_out).collect(),
            safety: restored.safety.as_ref().map(Snapshot::name),
            undo: restored.undo.as_ref().map(|undo| commands.line(undo)),
            next: commands.lines(&restored.next),
            warnings: &restored.plan.warnings,
        }
    }
}

object! {
    /// The plan of a migration.
    PlannedMigration of migrate::MigratePlan {
        id: String,
        direction: Direction,
        title: String,
        database: Option<String>,
        from: String,
        from_path: PathBuf,
        to: String,
        makes: bool,
        resumes: bool,
        file_system: Option<String>,
        bytes: u64,
        entries: u64,
        needed_bytes: u64,
        free_bytes: u64,
        owner: (u32, u32),
        replaces: bool,
        users: Vec<PlannedUser>,
        sharers: Vec<PlannedSharer>,
        stops: Vec<String>,
        starts: Vec<String>,
        onlookers: Vec<Onlooker>,
        down_after_reboot: Vec<String>,
        own_commands: Vec<String>,
        edits: Vec<PlannedEdit>,
        expected_downtime_ms: u64,
        warnings: Vec<String>,
    }
}

/// The plan of a migration, with the commands that do the same by hand.
#[derive(Debug, Serialize)]
pub(crate) struct MigratePlanObject<'a> {
    #[serde(flatten)]
    plan: PlannedMigration<'a>,
    commands: Vec<String>,
}

impl<'a> MigratePlanObject<'a> {
    pub(crate) fn new(plan: &'a migrate::MigratePlan, commands: &Commands) -> Self {
        Self { plan: PlannedMigration::from(plan), commands: commands.lines(&plan.commands) }
    }
}

/// The result of a migration.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub(crate) enum MigrationObject<'a> {
    /// The service runs on the copy.
    Migrated {
        plan: Box<MigratePlanObject<'a>>,
        downtime_ms: Option<u64>,
        elapsed_ms: u64,
        compared_files: u64,
        compared_bytes: u64,
        strict: Option<bool>,
        backups: &'a [PathBuf],
        remove: String,
        back: Option<String>,
    },
    /// It already did.
    Already { title: &'a str, at: &'a str },
}

impl<'a> MigrationObject<'a> {
    /// Returns what `migrate --json` prints.
    pub(crate) fn new(outcome: &'a migrate::Outcome, commands: &Commands) -> Self {
        match outcome {
            migrate::Outcome::Migrated(migrated) => Self::Migrated {
                plan: Box::new(MigratePlanObject::new(&migrated.plan, commands)),
                downtime_ms: migrated.downtime_ms,
                elapsed_ms: migrated.elapsed_ms,
                compared_files: migrated.compared_files,
                compared_bytes: migrated.compared_bytes,
                strict: migrated.strict,
                backups: &migrated.backups,
                remove: commands.line(&migrated.remove),
                back: migrated.back.as_ref().map(|back| commands.line(back)),
            },
            migrate::Outcome::Already { title, at } => Self::Already { title, at },
        }
    }
}

/// Something that differs, with the command that mends it.
#[derive(Debug, Serialize)]
pub(crate) struct DifferenceObject<'a> {
    kind: DifferenceKind,
    severity: Severity,
    object: &'a str,
    before: Option<&'a str>,
    after: Option<&'a str>,
    next: Option<String>,
}

fn differences<'a>(found: &'a [difference::Difference], commands: &Commands) -> Vec<DifferenceObject<'a>> {
    let object = |one: &'a difference::Difference| DifferenceObject {
        kind: one.kind,
        severity: one.severity,
        object: &one.object,
        before: one.before.as_deref(),
        after: one.after.as_deref(),
        next: one.next.as_ref().map(|next| commands.line(next)),
    };
    found.iter().map(object).collect()
}

/// The result of a check.
#[derive(Debug, Serialize)]
pub(crate) struct CheckObject<'a> {
    ok: bool,
    title: &'a str,
    container: Option<&'a str>,
    against: Option<&'a Against>,
    strict: bool,
    differences: Vec<DifferenceObject<'a>>,
    checks: &'a [Checked],
    level: FactsLevel,
    before: Option<FactsSummary>,
    now: FactsSummary,
    unread: &'a [String],
    ms: u64,
}

impl<'a> CheckObject<'a> {
    /// Returns what `check --json` prints.
    pub(crate) fn new(report: &'a check::CheckReport, commands: &Commands) -> Self {
        Self {
            ok: report.ok,
            title: &report.title,
            container: report.container.as_deref(),
            against: report.against.as_ref(),
            strict: report.strict,
            differences: differences(&report.differences, commands),
            checks: &report.checks,
            level: report.level,
            before: report.before,
            now: report.now,
            unread: &report.unread,
            ms: report.ms,
        }
    }
}

object! {
    /// The plan of a restart.
    RestartPlanObject of restart::RestartPlan {
        title: String,
        database: Option<String>,
        snapshot: bool,
        facts: FactsLevel,
        stops: Vec<String>,
        recreate: Option<String>,
        changes: Vec<String>,
        sharers: Vec<PlannedSharer>,
        starts: Vec<String>,
        down_after_reboot: Vec<String>,
        own_commands: Vec<String>,
        stay_stopped: Vec<String>,
        onlookers: Vec<Onlooker>,
    }
}

/// The result of a restart.
#[derive(Debug, Serialize)]
pub(crate) struct RestartObject<'a> {
    ok: bool,
    title: &'a str,
    containers: &'a [String],
    downtime_ms: u64,
    snapshot: Option<&'a str>,
    shutdown: Option<&'a str>,
    clean: Option<bool>,
    strict: bool,
    differences: Vec<DifferenceObject<'a>>,
    checks: &'a [Checked],
    level: FactsLevel,
    before: Option<FactsSummary>,
    now: Option<FactsSummary>,
    unread: &'a [String],
}

impl<'a> RestartObject<'a> {
    /// Returns what `restart --json` prints.
    pub(crate) fn new(report: &'a restart::RestartReport, commands: &Commands) -> Self {
        Self {
            ok: report.ok,
            title: &report.title,
            containers: &report.containers,
            downtime_ms: report.downtime_ms,
            snapshot: report.snapshot.as_deref(),
            shutdown: report.shutdown.as_deref(),
            clean: report.clean,
            strict: report.strict,
            differences: differences(&report.differences, commands),
            checks: &report.checks,
            level: report.level,
            before: report.before,
            now: report.now,
            unread: &report.unread,
        }
    }
}

/// What a verification found, with the drill if there was one.
#[derive(Debug, Serialize)]
pub(crate) struct VerifiedObject<'a> {
    id: &'a SnapshotId,
    ok: bool,
    problems: &'a [Problem],
    notes: &'a [String],
    files: u64,
    raw_bytes: u64,
    pages: u64,
    /// Whether only its stored bytes were read back.
    sealed: bool,
    ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    drill: Option<DrillObject<'a>>,
}

impl<'a> VerifiedObject<'a> {
    /// Returns what `verify --json` prints of a snapshot.
    pub(crate) fn new(report: &'a verify::Report, drill: Option<DrillObject<'a>>) -> Self {
        Self {
            id: &report.id,
            ok: report.ok && drill.as_ref().is_none_or(|drill| drill.ok),
            problems: &report.problems,
            notes: &report.notes,
            files: report.files,
            raw_bytes: report.raw_bytes,
            pages: report.pages,
            sealed: report.sealed,
            ms: report.ms,
            drill,
        }
    }
}

/// A snapshot that `verify --dry-run` would read.
#[derive(Debug, Serialize)]
pub(crate) struct WouldVerifyObject<'a> {
    pub(crate) id: &'a str,
    pub(crate) drill: bool,
}

/// A snapshot that could not be verified at all, as `verify --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct LostObject<'a> {
    id: Option<&'a str>,
    ok: bool,
    problems: [Problem; 1],
}

impl<'a> LostObject<'a> {
    /// Returns what is printed of a snapshot of which at most its name is known.
    pub(crate) fn new(name: Option<&'a str>, what: String) -> Self {
        Self { id: name, ok: false, problems: [Problem { path: None, block: None, what }] }
    }
}

/// What a drill found.
#[derive(Debug, Serialize)]
pub(crate) struct DrillObject<'a> {
    id: &'a SnapshotId,
    ok: bool,
    problems: &'a [String],
    differences: Vec<DifferenceObject<'a>>,
    checks: &'a [Checked],
    unread: &'a [String],
    notes: &'a [String],
    image: Option<&'a str>,
    proof: Option<Proof>,
    files: u64,
    raw_bytes: u64,
    #[serde(flatten)]
    times: DrillTimes,
}

impl<'a> DrillObject<'a> {
    /// Returns what `--drill --json` adds.
    pub(crate) fn new(report: &'a drill::DrillReport, commands: &Commands) -> Self {
        Self {
            id: &report.id,
            ok: report.ok,
            problems: &report.problems,
            differences: differences(&report.differences, commands),
            checks: &report.checks,
            unread: &report.unread,
            notes: &report.notes,
            proof: report.shows(),
            image: report.image.as_deref(),
            files: report.files,
            raw_bytes: report.raw_bytes,
            times: report.times,
        }
    }
}

/// Something that a doctor found.
#[derive(Debug, Serialize)]
pub(crate) struct FindingObject<'a> {
    kind: Kind,
    risk: Risk,
    subject: &'a str,
    container: Option<&'a str>,
    what: &'a str,
    /// What mends it, one a line; empty if nothing does.
    mitigation: Option<String>,
}

impl<'a> FindingObject<'a> {
    /// Returns what `doctor --json` prints of a finding.
    pub(crate) fn new(finding: &'a doctor::Finding, commands: &Commands) -> Self {
        let lines = commands.lines(&finding.mitigation);
        Self {
            kind: finding.kind,
            risk: finding.risk,
            subject: &finding.subject,
            container: finding.container.as_deref(),
            what: &finding.what,
            mitigation: (!lines.is_empty()).then(|| lines.join("\n")),
        }
    }
}

/// A stage that a snapshot kept.
#[derive(Debug, Serialize)]
pub(crate) struct StageObject<'a> {
    source: &'a str,
    volume: &'a str,
    run: &'a str,
    made: Option<DateTime<Utc>>,
    bytes: Option<u64>,
    remove: String,
}

impl<'a> StageObject<'a> {
    /// Returns what `list --stages --json` prints of a stage.
    pub(crate) fn new(stage: &'a stages::KeptStage, commands: &Commands) -> Self {
        Self {
            source: &stage.source,
            volume: &stage.volume,
            run: &stage.run,
            made: stage.made,
            bytes: stage.bytes,
            remove: commands.line(&stage.remove),
        }
    }
}

object! {
    /// A run that was finished, as `recover --json` prints it.
    RunObject of RunInfo {
        run: String,
        verb: String,
        subject: String,
        host: Option<String>,
        pid: u32,
        started: DateTime<Utc>,
    }
}

/// A run that is not finished, as `recover --list --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct UnfinishedObject<'a> {
    #[serde(flatten)]
    run: RunObject<'a>,
    held: bool,
    process: Option<u32>,
    open: &'a [String],
    holds: &'a [String],
}

impl<'a> From<&'a recover::Unfinished> for UnfinishedObject<'a> {
    fn from(unfinished: &'a recover::Unfinished) -> Self {
        let recover::Unfinished { run, held, process, open, holds, .. } = unfinished;
        Self { run: run.into(), held: *held, process: *process, open, holds }
    }
}

/// Returns the milliseconds from the first byte of the archive until the last one is durable.
fn archive_ms(phases: &[PhaseTime]) -> u64 {
    phases
        .iter()
        .filter(|time| matches!(time.phase, Phase::Archive | Phase::Publish))
        .map(|time| time.ms)
        .sum()
}
