//! What a snapshot of a database's data does not bring back: configuration that is mounted from elsewhere, and tables
//! without a log. It is named when the snapshot is taken, tried and restored.

use std::path::Path;

use crate::model::container::Container;
use crate::model::facts::Facts;
use crate::model::manifest::{Consistency, Manifest};
use crate::selector::configuration::{ConfigurationApart, configuration_apart};

/// How many are named; the rest is counted.
const NAMED: usize = 5;

/// Returns what to say of the configuration that a database has from elsewhere, when its data is saved.
pub(super) fn of_snapshot(container: &Container, data_at: Option<&Path>) -> Option<String> {
    let named = names(&configuration_apart(&container.mounts, data_at))?;
    Some(format!(
        "configuration that is mounted from elsewhere is no part of the snapshot, keep it as well: {named}"
    ))
}

/// Returns what to say of a snapshot that is restored where its container's mounts are not.
pub(super) fn of_restore(manifest: &Manifest) -> Option<String> {
    let named = names(&of_manifest(manifest))?;
    Some(format!("the database had configuration that is not in the snapshot; mount it again: {named}"))
}

/// Returns what to say of a drill: how the copy differed from the service.
pub(super) fn of_drill(manifest: &Manifest) -> Vec<String> {
    let configuration = names(&of_manifest(manifest))
        .map(|named| format!("it ran without the configuration that is mounted from elsewhere: {named}"));
    let facts = manifest.facts.as_ref().map(|facts| &facts.seen);
    configuration.into_iter().chain(emptied(facts, manifest.consistency)).collect()
}

/// Returns what to say of tables without a log: after anything but a clean shutdown, the server empties them.
pub(super) fn emptied(facts: Option<&Facts>, consistency: Consistency) -> Option<String> {
    let unlogged = facts.filter(|_| !consistency.is_at_rest())?.unlogged();
    let named = list(&unlogged)?;
    Some(format!(
        "UNLOGGED tables come back empty, since the data is of a server that had not shut down: {named}"
    ))
}

/// Returns the globs of the engine's placeholders in a directory of this machine: where it mounts a file over nothing,
/// the engine makes an empty file, which is nobody's data.
pub(super) fn placeholders(container: &Container, data_at: Option<&Path>, root: &Path) -> Vec<String> {
    let covered = configuration_apart(&container.mounts, data_at).into_iter().filter_map(|one| one.covers);
    let is_empty = |path: &std::path::PathBuf| {
        root.join(path).symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == 0)
    };
    covered.filter(is_empty).map(|path| globset::escape(&path.to_string_lossy())).collect()
}

fn of_manifest(manifest: &Manifest) -> Vec<ConfigurationApart> {
    configuration_apart(&manifest.environment.mounts, manifest.mounted_at().as_deref())
}

fn names(apart: &[ConfigurationApart]) -> Option<String> {
    let name =
        |one: &ConfigurationApart| format!("{} (at {})", one.source.display(), one.destination.display());
    list(&apart.iter().map(name).collect::<Vec<_>>())
}

fn list(names: &[String]) -> Option<String> {
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let and = if more > 0 { format!(", and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("{named}{and}"))
}
