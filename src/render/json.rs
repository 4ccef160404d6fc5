//! JSON for programs. Field names are part of the interface: added to, never changed.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use volsnap::model::event::Phase;
use volsnap::model::manifest::PhaseTime;
use volsnap::ops::restore::Restored;
use volsnap::repository::Snapshot;

/// Returns a value as JSON; `null` for what cannot be (no type here is such).
pub(crate) fn value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Returns a snapshot as `snapshot --json` prints it.
pub(crate) fn snapshot(snapshot: &Snapshot) -> Value {
    let manifest = &snapshot.manifest;
    json!({
        "id": manifest.id,
        "source": manifest.source,
        "title": manifest.title,
        "archive": snapshot.archive_path(),
        "quiesce": manifest.method.quiesce,
        "capture": manifest.method.capture,
        "consistency": manifest.consistency,
        "reasons": manifest.evidence.reasons,
        "compression": manifest.archive().codec.to_string(),
        "downtime_ms": manifest.downtime_ms,
        "archive_ms": archive_ms(&manifest.phases),
        "raw_bytes": manifest.counts().raw_bytes,
        "stored_bytes": manifest.archive().stored_bytes,
        "files": manifest.counts().files,
        "blake3": manifest.archive().blake3,
        "started": manifest.times.started,
        "published": manifest.times.published,
        "phases": manifest.phases,
        "tags": manifest.tags,
    })
}

/// Returns a restore as `restore --json` prints it.
pub(crate) fn restored(restored: &Restored) -> Value {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    json!({
        "id": restored.plan.id,
        "archive": restored.plan.archive,
        "into": restored.plan.into,
        "host_path": restored.plan.host_path,
        "database": restored.plan.database,
        "files": restored.files,
        "raw_bytes": restored.bytes,
        "downtime_ms": restored.downtime.map_or(0, ms),
        "restore_ms": ms(restored.elapsed),
        "safety": restored.safety.as_ref().map(volsnap::repository::Snapshot::name),
        "undo": restored.undo,
        "warnings": restored.plan.warnings,
    })
}

/// Returns a snapshot as `list --json` prints it.
pub(crate) fn listed(listed: &Snapshot) -> Value {
    let mut value = snapshot(listed);
    value["verified"] = self::value(&listed.verified.last());
    value
}

/// Returns a snapshot as `show --json` prints it: the manifest, and its verifications. What the first format had is
/// there by its names, also where the manifest has it elsewhere by now.
pub(crate) fn shown(shown: &Snapshot) -> Value {
    let manifest = &shown.manifest;
    let mut value = self::value(manifest);
    value["format_version"] = self::value(&manifest.format_version);
    value["location"] = self::value(manifest.location());
    value["quiesce"] = self::value(&manifest.method.quiesce);
    value["capture"] = self::value(&manifest.method.capture);
    value["archive"] = self::value(manifest.archive());
    value["file_list"] = self::value(manifest.file_list());
    value["counts"] = self::value(manifest.counts());
    value["archive_path"] = self::value(&shown.archive_path());
    value["verified"] = self::value(&shown.verified);
    value
}

/// Returns a snapshot that could not be read at all as `verify --json` prints it.
pub(crate) fn lost(name: Option<&str>, what: &str) -> Value {
    json!({ "id": name, "ok": false, "problems": [{ "path": null, "block": null, "what": what }] })
}

/// Returns the milliseconds from the first byte of the archive to the last one being durable.
fn archive_ms(phases: &[PhaseTime]) -> u64 {
    phases
        .iter()
        .filter(|time| matches!(time.phase, Phase::Archive | Phase::Publish))
        .map(|time| time.ms)
        .sum()
}
