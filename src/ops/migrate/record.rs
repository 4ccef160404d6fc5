//! What is remembered of a migration: which directory came of which volume, so that the way back is known, and
//! that a volume is what was left over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::error::Result;
use crate::model::location::MountSource;
use crate::model::source::key_of;
use crate::ops::facts::write_whole;

/// A migration that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The engine's identifier.
    pub engine: String,
    /// The directory that has the data now.
    pub directory: PathBuf,
    /// The volume that had it, and has been kept.
    pub volume: String,
    /// Its labels, with which Compose takes it for its own.
    pub labels: BTreeMap<String, String>,
    /// When the service ran on the directory.
    pub at: DateTime<Utc>,
}

impl Migration {
    /// Returns the migrations that are remembered below `state`, of one engine. What cannot be read is none.
    #[must_use]
    pub fn all(state: &Path, engine: &str) -> Vec<Self> {
        every(state).filter(|migration| migration.engine == engine).collect()
    }

    /// Returns the migrations out of a volume of this name, the last first, of whatever engine: an engine's
    /// identifier may change, and what was left over is left over all the same.
    #[must_use]
    pub fn out_of(state: &Path, volume: &str) -> Vec<Self> {
        let mut found: Vec<_> = every(state).filter(|migration| migration.volume == volume).collect();
        found.sort_by_key(|migration| std::cmp::Reverse(migration.at));
        found
    }

    /// Returns the file below `state` that it is remembered in.
    #[must_use]
    pub fn file(&self, state: &Path) -> PathBuf {
        place(state, &self.directory)
    }

    /// Remembers it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn remember(&self, state: &Path) -> Result<()> {
        write_whole(&place(state, &self.directory), self)
    }

    /// Forgets the migration into a directory.
    pub(super) fn forget(state: &Path, directory: &Path) {
        if let Err(error) = std::fs::remove_file(place(state, directory)) {
            tracing::debug!(%error, "the migration is not forgotten");
        }
    }
}

fn every(state: &Path) -> impl Iterator<Item = Migration> {
    let entries = std::fs::read_dir(state.join("migrations")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| std::fs::read(entry.path()).ok());
    texts.filter_map(|text| serde_json::from_slice(&text).ok())
}

fn place(state: &Path, directory: &Path) -> PathBuf {
    let key = key_of(&MountSource::Directory(directory.to_owned()));
    state.join("migrations").join(format!("{key}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_remembered_for_its_engine_until_it_is_undone() {
        let state = tempfile::tempdir().unwrap();
        let migration = Migration {
            engine: "engine".into(),
            directory: "/data/pg".into(),
            volume: "app_pgdata".into(),
            labels: BTreeMap::new(),
            at: DateTime::UNIX_EPOCH,
        };
        migration.remember(state.path()).unwrap();
        migration.remember(state.path()).unwrap();
        assert_eq!(Migration::all(state.path(), "engine"), [migration]);
        assert!(Migration::all(state.path(), "another").is_empty());
        let left = Migration::out_of(state.path(), "app_pgdata");
        assert_eq!(left.len(), 1, "whatever engine it was on");
        assert!(left[0].file(state.path()).exists() && Migration::out_of(state.path(), "app").is_empty());
        Migration::forget(state.path(), Path::new("/data/other"));
        Migration::forget(state.path(), Path::new("/data/pg"));
        assert!(Migration::all(state.path(), "engine").is_empty());
    }
}
