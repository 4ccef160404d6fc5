//! What has to be true after every end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use volsnap::engine::Docker;
use volsnap::engine::memory::postgres::Rows;
use volsnap::model::event::Silent;
use volsnap::model::labels::LABEL_RUN;
use volsnap::ops::verify::verify;
use volsnap::repository::{Repository, Snapshot};

use super::{DATA, KEPT, World};

impl World {
    /// What ran runs, what was stopped stays so, nothing is frozen, and nothing of a run is left.
    pub(crate) async fn assert_in_order(&self, volumes: &[&str], context: &str) {
        self.assert_services(context).await;
        assert_eq!(self.container("old").await.state.status, "exited", "{context}");
        let mut names: Vec<_> =
            self.engine.volumes().await.unwrap().into_iter().map(|one| one.name).collect();
        names.sort();
        assert_eq!(names, volumes, "{context}: volumes");
        assert_eq!(leftovers(&self.engine.directory_of(DATA)), Vec::<PathBuf>::new(), "{context}");
    }

    /// The services are as they were; the data may lie elsewhere by now.
    pub(crate) async fn assert_services(&self, context: &str) {
        assert!(self.answers("db").await, "{context}: the database does not answer");
        for (name, running) in [("db", true), ("app", true), ("old", false)] {
            let state = self.container(name).await.state;
            assert_eq!((state.running, state.paused), (running, false), "{context}: {name}");
        }
        let violations = self.engine.violations();
        assert!(violations.is_empty(), "{context}: {violations:?}");
        let containers = self.engine.containers().await.unwrap();
        let left: Vec<_> =
            containers.iter().filter(|one| one.labels.contains_key(LABEL_RUN)).map(|one| &one.name).collect();
        assert!(left.is_empty(), "{context}: containers left: {left:?}");
        assert_eq!(containers.len(), 3 + usize::from(self.has_sharer), "{context}: {containers:?}");
        if self.has_sharer {
            let (db, side) = (self.container("db").await, self.container("side").await);
            assert!(side.state.running, "{context}: side does not run");
            assert_eq!(side.network_mode, format!("container:{}", db.id), "{context}");
            assert!(side.state.started_at >= db.state.started_at, "{context}: side has a dead network");
        }
        // What is remembered of the data is to stay.
        let remembered =
            ["facts", "migrations", "repositories", "undo-keys"].map(|name| self.state().join(name));
        let is_remembered = |path: &PathBuf| remembered.iter().any(|kept| path.starts_with(kept));
        let left: Vec<_> =
            files_below(&self.state()).into_iter().filter(|path| !is_remembered(path)).collect();
        assert!(left.is_empty(), "{context}: left in the state directory: {left:?}");
    }

    /// Returns the rows of the table that is looked at, as they lie on the volume.
    pub(crate) fn rows(&self, directory: &Path) -> Vec<String> {
        let rows = Rows::read(directory).unwrap_or_else(|error| panic!("no rows in {directory:?}: {error}"));
        rows.tables.get(KEPT.0).cloned().unwrap_or_default()
    }

    /// Returns the snapshots, each of which is whole; there is nothing else in the repository.
    pub(crate) async fn whole_snapshots(&self, context: &str) -> Vec<Snapshot> {
        if !self.repository().exists() {
            return Vec::new();
        }
        let is_record = |path: &PathBuf| path.to_string_lossy().contains(".verified-");
        let files: Vec<_> = files_below(&self.repository().join("snapshots"));
        let files: Vec<_> = files.into_iter().filter(|path| !is_record(path)).collect();
        let Ok(repository) = Repository::open(&self.repository()).await else {
            assert!(files.is_empty(), "{context}: files in what is no repository: {files:?}");
            return Vec::new();
        };
        let listing = repository.snapshots(None).await.unwrap();
        assert!(listing.incomplete.is_empty(), "{context}: {:?}", listing.incomplete);
        assert!(listing.unreadable.is_empty(), "{context}: {:?}", listing.unreadable);
        assert_eq!(files.len(), 3 * listing.snapshots.len(), "{context}: {files:?}");
        for snapshot in &listing.snapshots {
            let report = verify(snapshot.clone(), &self.host.clock, Arc::new(Silent)).await;
            let report = report.unwrap_or_else(|error| panic!("{context}: verify: {}", error.chain()));
            assert!(report.ok, "{context}: {report:?}");
        }
        listing.snapshots
    }
}

/// Returns what runs have left in a source.
pub(crate) fn leftovers(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_string_lossy().contains("volsnap")).collect()
}

pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}
