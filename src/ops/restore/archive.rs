//! What is restored: a snapshot of volsnap, or any tar that somebody else made.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crate::agent::feed::SnapshotArchive;
use crate::archive::{BlockReader, EntryKind, Origin, TarReader};
use crate::database;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Event, Monitor, Phase};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;
use crate::ops::verify::{check_archive, check_list};
use crate::repository::Snapshot;

/// Bytes between two reports of progress.
const PROGRESS_STEP: u64 = 16 << 20;

/// What is restored.
#[derive(Debug, Clone)]
pub enum Archive {
    /// A snapshot, with its manifest and its file list.
    Snapshot(Box<Snapshot>),
    /// An archive that some other tool made.
    Plain(PathBuf),
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
}

impl Archive {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Snapshot(snapshot) => snapshot.name(),
            Self::Plain(path) => path.display().to_string(),
        }
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Snapshot(snapshot) => snapshot.archive_path(),
            Self::Plain(path) => path.clone(),
        }
    }

    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Self::Snapshot(snapshot) => Some(snapshot),
            Self::Plain(_) => None,
        }
    }

    /// Returns what it holds. A foreign archive is read to its end for that; for a snapshot, its list tells, and the
    /// archive is read when it is [verified](Self::verify) or extracted.
    pub(super) fn look(&self, monitor: &dyn Monitor) -> Result<ArchiveSummary> {
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
                })
            }
            Self::Plain(path) => {
                let known = look_at_plain(path, monitor).context(|| format!("read {}", path.display()))?;
                if known.has_content { Ok(known) } else { Err(nothing_in(path)) }
            }
        }
    }

    /// Reads all of it and proves that it is what was stored.
    pub(super) fn verify(&self, monitor: &dyn Monitor) -> Result<()> {
        match self {
            Self::Snapshot(snapshot) => check_archive(snapshot, monitor),
            // It was already read to its end when it was looked at.
            Self::Plain(_) => Ok(()),
        }
    }

    /// Opens it for extraction.
    pub(super) fn open(&self) -> Result<SnapshotArchive> {
        let reader: Box<dyn Read + Send> = match self {
            Self::Snapshot(snapshot) => Box::new(snapshot.open_archive()?),
            Self::Plain(path) => Box::new(File::open(path).context(|| format!("open {}", path.display()))?),
        };
        Ok(SnapshotArchive::of(reader))
    }
}

/// Reads a foreign archive to its end: how much it holds, and where the database in it is.
fn look_at_plain(path: &Path, monitor: &dyn Monitor) -> Result<ArchiveSummary> {
    let file = File::open(path).context(|| "open it".to_owned())?;
    monitor.phase(Phase::Verify, path.display().to_string(), None);
    let archive = BlockReader::open(file, Origin::Foreign).context(|| "understand it".to_owned())?;
    let mut tar = TarReader::new(archive);
    let (mut known, mut told) = (ArchiveSummary::default(), 0);
    let mut marker_files: BTreeSet<PathBuf> = BTreeSet::new();
    let (mut owners, names) = (Vec::new(), head_names());
    while let Some(entry) = tar.next_entry().context(|| "read all of it".to_owned())? {
        known.members += 1;
        known.bytes = known.bytes.saturating_add(entry.size);
        known.stored = known.stored.saturating_add(entry.data_len());
        let place = plain(&entry.path);
        known.has_content |= !place.as_os_str().is_empty();
        if entry.kind == EntryKind::File && names.iter().any(|name| place.ends_with(name)) {
            owners.push((place.clone(), (entry.uid, entry.gid)));
            marker_files.insert(place);
        }
        if known.bytes.saturating_sub(told) >= PROGRESS_STEP {
            told = known.bytes;
            monitor.event(Event::Progress { bytes: known.bytes, files: known.members });
        }
    }
    known.database = only_database(&marker_files)?;
    known.owner = known.database.as_ref().and_then(|(_, directory)| {
        owners.iter().find(|(path, _)| path.starts_with(directory)).map(|(_, owner)| *owner)
    });
    Ok(known)
}

/// Refuses an archive that would leave nothing in the place of data.
fn nothing_in(path: &Path) -> Error {
    let list = format!("tar -tvf {}", shell_quote(&path.to_string_lossy()));
    Error::failed(format!("{} is whole, and has nothing in it that could be restored", path.display()))
        .hint(Hint::shell(list).why("what is in it; is it the right file?"))
}

/// Returns the names of files without which there is no database.
fn head_names() -> Vec<PathBuf> {
    database::all()
        .iter()
        .filter_map(|database| database.files())
        .flat_map(|files| files.written_last(Path::new("")))
        .collect()
}

/// Returns the one place that has everything a database must have.
fn only_database(marker_files: &BTreeSet<PathBuf>) -> Result<Option<(String, PathBuf)>> {
    let mut found = BTreeSet::new();
    let known = database::all().iter().filter_map(|database| Some((database.name(), database.files()?)));
    for (engine, files) in known {
        let names = files.written_last(Path::new(""));
        for head in marker_files {
            let Some(directory) = names.iter().find_map(|name| above(head, name)) else { continue };
            if files.written_last(&directory).iter().all(|head| marker_files.contains(head)) {
                found.insert((engine.to_owned(), directory));
            }
        }
    }
    let places: Vec<_> = found.iter().map(|(_, place)| format!("`{}`", place.display())).collect();
    match places.len() {
        0 | 1 => Ok(found.pop_first()),
        _ => Err(Error::failed(format!("it holds several databases: in {}", places.join(", ")))
            .hint(Hint::advice("unpack it, and archive the directory of one of them"))),
    }
}

/// Returns the directory in which `path` is `name`.
fn above(path: &Path, name: &Path) -> Option<PathBuf> {
    let count = name.components().count();
    path.ends_with(name).then(|| path.ancestors().nth(count).map(Path::to_owned)).flatten()
}

/// Returns a member's path without the parts that say nothing.
fn plain(path: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(path))
        .components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .collect()
}
