//! What is restored: a snapshot of volsnap, any tar that somebody else made, or a directory that somebody copied.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::assembled;
use super::foreign::{data_archive_in, look_at_directory, look_at_plain};
use crate::agent::feed::SnapshotArchive;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Monitor;
use crate::ops::verify::{check_archive, check_list};
use crate::repository::Snapshot;

/// What is restored.
#[derive(Debug, Clone)]
pub enum Archive {
    /// A snapshot, with its manifest and its file list.
    Snapshot(Box<Snapshot>),
    /// An archive that some other tool made, or one of ours without its manifest.
    Plain(PathBuf),
    /// A directory that somebody has copied.
    Directory(PathBuf),
}

/// What one reading of all of it has shown.
#[derive(Debug, Clone, Default)]
pub(super) struct ArchiveSummary {
    /// Members of every kind.
    pub(super) members: u64,
    /// Bytes of content, holes included.
    pub(super) bytes: u64,
    /// Bytes of content, without holes.
    pub(super) stored: u64,
    /// Whether it has anything beside the root.
    pub(super) has_content: bool,
    /// The digest of all records, if there is a list of them.
    pub(super) digest: Option<String>,
    /// Whether it may make devices, and programs that gain privileges.
    pub(super) has_devices: bool,
    /// Who owns the data.
    pub(super) owner: Option<(u32, u32)>,
    /// The database in it: its name and where it is.
    pub(super) database: Option<(String, PathBuf)>,
    /// The archive of the database's log that is taken along, and where that belongs.
    pub(super) log: Option<(PathBuf, PathBuf)>,
}

impl Archive {
    /// Returns what a path leads to; `None` if it leads to nothing. A directory with the archives of a database's own
    /// backup is the archive of the data in it, which takes the others along.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        if path.is_dir() {
            return Some(data_archive_in(path).map_or_else(|| Self::Directory(path.to_owned()), Self::Plain));
        }
        path.is_file().then(|| Self::Plain(path.to_owned()))
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Snapshot(snapshot) => snapshot.name(),
            Self::Plain(path) | Self::Directory(path) => path.display().to_string(),
        }
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Snapshot(snapshot) => snapshot.archive_path(),
            Self::Plain(path) | Self::Directory(path) => path.clone(),
        }
    }

    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Self::Snapshot(snapshot) => Some(snapshot),
            Self::Plain(_) | Self::Directory(_) => None,
        }
    }

    /// Returns what it holds. A foreign archive is read to its end for that; for a snapshot, its list tells, and the
    /// archive is read when it is [verified](Self::verify) or extracted. `container` is that of the database that it
    /// is for.
    pub(super) fn look(&self, container: Option<&str>, monitor: &dyn Monitor) -> Result<ArchiveSummary> {
        match self {
            Self::Snapshot(snapshot) => {
                let listed = check_list(snapshot, monitor)?;
                let database = snapshot.manifest.evidence.database.as_ref();
                Ok(ArchiveSummary {
                    members: listed.members,
                    has_content: listed.members > 0,
                    bytes: listed.bytes,
                    stored: listed.bytes.min(snapshot.manifest.archive().tar_bytes),
                    digest: Some(listed.digest),
                    has_devices: listed.has_devices && database.is_none(),
                    owner: listed.owner,
                    database: database
                        .map(|inspection| (inspection.engine.clone(), inspection.data_directory.clone())),
                    log: None,
                })
            }
            Self::Plain(path) => look_at_plain(path, container, monitor).map_err(|error| about(path, error)),
            Self::Directory(path) => {
                look_at_directory(path, container, monitor).map_err(|error| about(path, error))
            }
        }
    }

    /// Reads all of it and proves that it is what was stored.
    pub(super) fn verify(&self, monitor: &dyn Monitor) -> Result<()> {
        match self {
            Self::Snapshot(snapshot) => check_archive(snapshot, monitor),
            // It was already read to its end when it was looked at, as far as anything is known of it.
            Self::Plain(_) | Self::Directory(_) => Ok(()),
        }
    }

    /// Opens it for extraction; `known` is what a look has shown.
    pub(super) fn open(&self, known: &ArchiveSummary) -> Result<SnapshotArchive> {
        let open = || format!("open {}", self.name());
        let reader: Box<dyn Read + Send> = match (self, &known.log) {
            (Self::Snapshot(snapshot), _) => snapshot.decrypted(snapshot.open_archive()?)?,
            (Self::Plain(path), Some((log, directory))) => {
                assembled::with_log(path, log, directory, known.owner).context(open)?
            }
            (Self::Plain(path), None) => Box::new(File::open(path).context(open)?),
            (Self::Directory(path), _) => assembled::of_directory(path).context(open)?,
        };
        Ok(SnapshotArchive::of(reader))
    }
}

/// Says which file or directory it is that cannot be restored; what to do about it is said as before.
fn about(path: &Path, error: Error) -> Error {
    let hints = error.hints().to_vec();
    Error::failed(format!("read {}", path.display())).with_source(error).with_hints(hints)
}
