//! What the unfinished runs of this machine may still need of a repository, by their journals.

use std::collections::BTreeMap;
use std::path::Path;

use crate::model::error::{Context as _, Result};
use crate::repository::tarball::layout::FileName;
use crate::undo::{Journal, Undo};

/// What unfinished runs need.
#[derive(Debug, Default)]
pub(in crate::ops) struct OpenRuns {
    /// The snapshots that they put back or write, as `SOURCE/ID`, and the run.
    needed: BTreeMap<String, String>,
    /// Whether there is one of which nobody can tell.
    anything: bool,
}

impl OpenRuns {
    /// Looks at the journals below a state directory.
    pub(in crate::ops) fn look(state: &Path) -> Result<Self> {
        let mut open = Self::default();
        for path in Journal::all(state).context(|| "look for unfinished runs".to_owned())? {
            let Ok(looked) = Journal::look(&path) else {
                open.anything = true;
                continue;
            };
            let Some((journal, _)) = looked else { continue };
            open.anything |= journal.newer_lines() > 0;
            for entry in journal.open_entries() {
                let name = match entry.undo() {
                    Some(Undo::ArchiveReplaced { safety, .. }) => Some(safety.name()),
                    Some(Undo::RestoreOldData { kept, .. }) => Some(kept.name.clone()),
                    Some(Undo::DiscardUnpublished(objects)) => name_of(objects.manifest_key.name()),
                    Some(_) => None,
                    None => {
                        open.anything = true;
                        None
                    }
                };
                open.needed.extend(name.map(|name| (name, journal.info().run.clone())));
            }
        }
        Ok(open)
    }

    /// Returns in words why a snapshot must stay for such a run.
    pub(in crate::ops) fn holds(&self, name: &str, is_safety: bool) -> Option<String> {
        match self.needed.get(name) {
            Some(run) => Some(format!("run {run} is not finished, and may need it")),
            None if self.anything && is_safety => {
                Some("a run is not finished, and nobody can tell whether it needs it".to_owned())
            }
            None => None,
        }
    }

    /// Returns whether such a run may write this snapshot.
    pub(in crate::ops) fn writes(&self, name: &str) -> bool {
        self.anything || self.needed.contains_key(name)
    }
}

/// Returns the name of the snapshot that has a manifest of this file name.
fn name_of(manifest: &str) -> Option<String> {
    FileName::parse(manifest).map(|name| format!("{}/{}", name.source, name.id))
}
