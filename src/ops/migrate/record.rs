//! What is remembered of a migration: which directory came from which volume, so that the way back is known, and that a
//! volume is left over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compose::edit::Written;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::model::source::key_of;
use crate::undo::Undo;

/// A migration that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The engine's identifier.
    pub engine: String,
    /// The directory that has the data now.
    pub directory: PathBuf,
    /// The volume that had it, and is kept.
    pub volume: String,
    /// Its labels, by which Compose takes it for its own.
    pub labels: BTreeMap<String, String>,
    /// When the service ran on the directory.
    pub at: DateTime<Utc>,
    /// What was written to compose files, so that it can be undone; nothing if an older volsnap wrote the record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Written>,
}

/// The format of a record. A record that names no format is of format 1, and has the same fields.
const FORMAT: u32 = 2;

/// A migration as it is written.
#[derive(Debug, Serialize)]
struct Stored<'a> {
    format: u32,
    #[serde(flatten)]
    migration: &'a Migration,
}

/// What is remembered of migrations.
#[derive(Debug, Default)]
pub struct Migrations {
    /// Those that are understood.
    pub known: Vec<Migration>,
    /// Those that a later volsnap wrote.
    pub later: Vec<LaterRecord>,
}

/// The record of a migration that only a later volsnap understands.
#[derive(Debug, PartialEq, Eq)]
pub struct LaterRecord {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: u64,
    /// The volume, if the record still names it the same way.
    volume: Option<String>,
}

enum Record {
    Known(Migration),
    Later(LaterRecord),
}

impl Record {
    /// Reads a record of a migration on an engine, or on any; a record that cannot be read counts as none.
    fn read(path: PathBuf, engine: Option<&str>) -> Option<Self> {
        let value: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let format = value.get("format").and_then(Value::as_u64).unwrap_or(1);
        if format <= u64::from(FORMAT) {
            let migration: Migration = serde_json::from_value(value).ok()?;
            let is_of_it = engine.is_none_or(|engine| migration.engine == engine);
            return is_of_it.then_some(Self::Known(migration));
        }
        let may_be_of_it = engine.is_none_or(|engine| text("engine").is_none_or(|other| other == engine));
        let volume = text("volume").map(str::to_owned);
        may_be_of_it.then_some(Self::Later(LaterRecord { path, format, volume }))
    }
}

impl Migrations {
    /// Returns the migrations that are remembered below `state`, of one engine. A record that cannot be read counts as
    /// none.
    #[must_use]
    pub fn read(state: &Path, engine: &str) -> Self {
        Self::read_of(state, Some(engine))
    }

    fn read_of(state: &Path, engine: Option<&str>) -> Self {
        let mut migrations = Self::default();
        let entries = std::fs::read_dir(state.join("migrations")).into_iter().flatten().flatten();
        for record in entries.filter_map(|entry| Record::read(entry.path(), engine)) {
            match record {
                Record::Known(migration) => migrations.known.push(migration),
                Record::Later(later) => migrations.later.push(later),
            }
        }
        migrations
    }

    /// Returns the migrations out of a volume of this name, the last first, whatever the engine: an engine's identifier
    /// may change, but what is left over stays left over.
    ///
    /// # Errors
    /// When only a later volsnap may understand one of them.
    pub fn out_of(state: &Path, volume: &str) -> Result<Vec<Migration>> {
        let Self { known, later } = Self::read_of(state, None);
        let mut found: Vec<_> = known.into_iter().filter(|migration| migration.volume == volume).collect();
        found.sort_by_key(|migration| std::cmp::Reverse(migration.at));
        let may_be_of_it = |later: &&LaterRecord| later.volume.as_ref().is_none_or(|other| other == volume);
        match later.iter().find(may_be_of_it) {
            Some(later) if found.is_empty() => Err(later.refusal()),
            _ => Ok(found),
        }
    }

    /// Returns the migration into a directory.
    ///
    /// # Errors
    /// When only a later volsnap understands the record of it.
    pub(super) fn into_directory(state: &Path, engine: &str, directory: &Path) -> Result<Option<Migration>> {
        match Record::read(place(state, directory), Some(engine)) {
            Some(Record::Known(migration)) if migration.directory == *directory => Ok(Some(migration)),
            Some(Record::Later(later)) => Err(later.refusal()),
            Some(Record::Known(_)) | None => Ok(None),
        }
    }
}

impl LaterRecord {
    fn refusal(&self) -> Error {
        Error::failed(format!("the record of a migration in {} is {}", self.path.display(), self.why())).hint(
            Hint::shell(format!("rm {}", shell_quote(&self.path.to_string_lossy())))
                .why("forgets the migration"),
        )
    }

    /// Returns why this volsnap does not understand it.
    #[must_use]
    pub fn why(&self) -> String {
        format!("of a later volsnap: its format is {}, and this volsnap reads up to {FORMAT}", self.format)
    }
}

impl Migration {
    /// Returns the file below `state` that remembers it.
    #[must_use]
    pub fn file(&self, state: &Path) -> PathBuf {
        place(state, &self.directory)
    }

    /// Returns what remembers it, for whoever finishes the run that did the migration.
    ///
    /// # Errors
    /// Never: everything in it can be written as JSON.
    pub(super) fn remember(&self, state: &Path) -> Result<Undo> {
        let stored = Stored { format: FORMAT, migration: self };
        let record = serde_json::to_value(stored).context(|| "write the record of a migration".to_owned())?;
        Ok(Undo::KeepRecord { path: self.file(state), record: Some(record) })
    }

    /// Returns what forgets the migration into a directory.
    pub(super) fn forget(state: &Path, directory: &Path) -> Undo {
        Undo::KeepRecord { path: place(state, directory), record: None }
    }
}

fn place(state: &Path, directory: &Path) -> PathBuf {
    let key = key_of(&MountSource::Directory(directory.to_owned()));
    state.join("migrations").join(format!("{key}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::undo::keep_record;

    #[test]
    fn a_migration_is_remembered_for_its_engine_until_it_is_undone() {
        let state = tempfile::tempdir().unwrap();
        let migration = Migration {
            engine: "engine".into(),
            directory: "/data/pg".into(),
            volume: "app_pgdata".into(),
            labels: BTreeMap::new(),
            at: DateTime::UNIX_EPOCH,
            edits: Vec::new(),
        };
        let done = |undo: Undo| match undo {
            Undo::KeepRecord { path, record } => keep_record(&path, record.as_ref()).unwrap(),
            other => panic!("{other:?}"),
        };
        // Once by the run, and once more by whoever finishes it.
        done(migration.remember(state.path()).unwrap());
        done(migration.remember(state.path()).unwrap());
        assert_eq!(Migrations::read(state.path(), "engine").known, [migration]);
        assert!(Migrations::read(state.path(), "another").known.is_empty());
        let left = Migrations::out_of(state.path(), "app_pgdata").unwrap();
        assert_eq!(left.len(), 1, "whatever engine it was on");
        assert!(left[0].file(state.path()).exists());
        assert!(Migrations::out_of(state.path(), "app").unwrap().is_empty());
        done(Migration::forget(state.path(), Path::new("/data/other")));
        done(Migration::forget(state.path(), Path::new("/data/pg")));
        assert!(Migrations::read(state.path(), "engine").known.is_empty());
    }

    const ENGINE: &str = "UI7Q:N2VY:EA5F:S3UD:T5C2:HC77:OA67:I5AV:SYQY:TWO4:SI44:5WTX";

    /// Returns a state directory with a record of the migration into `/tmp/fx/pgdir`.
    fn state_with(record: &[u8]) -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        let path = place(state.path(), Path::new("/tmp/fx/pgdir"));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(path, record).unwrap();
        state
    }

    #[test]
    fn a_record_of_every_format_is_read() {
        for format in ["v1", "v2"] {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats");
            let record = std::fs::read(fixtures.join(format).join("migration.json")).unwrap();
            let state = state_with(&record);
            let directory = Path::new("/tmp/fx/pgdir");
            let found = Migrations::into_directory(state.path(), ENGINE, directory).unwrap().unwrap();
            assert_eq!((found.directory.as_path(), found.volume.as_str()), (directory, "shop_pgdata"));
            assert_eq!(found.labels["com.docker.compose.volume"], "pgdata");
            let all = Migrations::read(state.path(), ENGINE);
            assert_eq!(all.known, std::slice::from_ref(&found));
            assert_eq!(Migrations::out_of(state.path(), "shop_pgdata").unwrap(), [found]);
        }
    }

    #[test]
    fn a_record_of_a_later_format_refuses_what_needs_it_and_names_it() {
        let state = state_with(br#"{"format":3,"engine":"e","volume":"app_pgdata","stages":[]}"#);
        let refused = |outcome: Result<Option<Migration>>| {
            let error = outcome.unwrap_err().chain();
            assert!(error.contains("later volsnap") && error.contains("tmp-fx-pgdir"), "{error}");
        };
        let read = |engine: &str| Migrations::read(state.path(), engine);
        refused(Migrations::into_directory(state.path(), "e", Path::new("/tmp/fx/pgdir")));
        refused(Migrations::out_of(state.path(), "app_pgdata").map(|mut found| found.pop()));
        // Whatever does not need the record goes on.
        assert_eq!(Migrations::into_directory(state.path(), "e", Path::new("/data")).unwrap(), None);
        assert_eq!(Migrations::out_of(state.path(), "another").unwrap(), []);
        assert!(read("other").later.is_empty());
        assert!(read("e").known.is_empty());
    }
}
