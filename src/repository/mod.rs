//! Where snapshots are kept.
//!
//! A snapshot exists when its manifest exists. The manifest is written last, after archive and file
//! list are durable under their names, and is itself durable before anyone is told: partial file,
//! sync, rename that replaces nothing, sync of the folder. So after a failure or a power cut at any
//! moment there is a whole snapshot or none, and the older ones are untouched: nothing in a repository
//! is ever overwritten.
//!
//! Reading trusts nothing: a manifest carries a digest of itself, must be about the files it lies
//! beside, and those must have the length it says. What does not fit is reported with the reason and
//! never listed as a snapshot.
//!
//! Folders are made for the owner alone (0700), and so are files (0600): they hold all of a database.
//! The calls here block, except those of [`ObjectWriter`].

mod error;
pub mod layout;
mod listing;
mod publish;
mod resolve;
pub mod storage;
#[cfg(test)]
mod tests;
mod writer;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

pub use error::RepositoryError;
pub use listing::{Incomplete, Listing, Snapshot, Unreadable};
pub use publish::PendingSnapshot;
pub use storage::ObjectReader;
pub use writer::{ObjectWriter, Stored};

use crate::archive::Codec;
use crate::model::ids::SnapshotId;
use layout::{MARKER, REPOSITORY_FORMAT, SNAPSHOTS, SnapshotNames, is_source_key, partial};
use storage::{Directory, Storage};

/// More than the marker has.
const MARKER_MAX: u64 = 64 << 10;
/// What is written to find out whether anything can be.
const PROBE: [u8; 4096] = [0; 4096];

/// A repository of snapshots.
#[derive(Debug, Clone)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    id: String,
}

/// What the default place of a repository depends on.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Whether the user is root.
    pub is_root: bool,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
}

impl Places {
    /// Returns where a repository is when none is named: `/var/backups/volsnap` for root, else
    /// `volsnap` in the user's data directory; `None` for a user without a home.
    #[must_use]
    pub fn default_repository(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some(PathBuf::from("/var/backups/volsnap"));
        }
        let xdg = self.xdg_data_home.clone().filter(|path| path.is_absolute());
        let data = xdg.or_else(|| Some(self.home.as_ref()?.join(".local/share")))?;
        Some(data.join("volsnap"))
    }
}

/// The contents of `volsnap.json`. Every format version has the version.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format_version: u32,
    #[serde(default)]
    repository_id: String,
}

/// A place for a repository, looked at and not yet touched.
#[derive(Debug, Clone)]
pub struct RepositoryLocation {
    root: PathBuf,
    repository: Option<Repository>,
}

impl RepositoryLocation {
    /// Looks at a place without changing anything there.
    ///
    /// # Errors
    /// When it is neither a repository nor a place for one, or may not be written to.
    pub fn probe(location: &Path) -> Result<Self, RepositoryError> {
        let root = local_root(location)?;
        let repository = match look(&root)? {
            Found::Repository(repository) => Some(repository),
            Found::Empty => None,
        };
        // Only a look: what the permissions promise is proved by writing, later.
        if let Some(existing) = root.ancestors().find(|path| path.exists()) {
            access(existing, AccessFlags::W_OK | AccessFlags::X_OK)
                .map_err(|error| RepositoryError::io("keep snapshots in", &root)(error.into()))?;
        }
        Ok(Self { root, repository })
    }

    /// Returns its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the repository that is there already.
    #[must_use]
    pub fn repository(&self) -> Option<&Repository> {
        self.repository.as_ref()
    }

    /// Returns the bytes that can be stored there, where that is known. Of a directory that is yet to be
    /// made, those of the one it will be made in.
    #[must_use]
    pub fn free_space(&self) -> Option<u64> {
        let existing = self.root.ancestors().find(|path| path.is_dir())?;
        Directory::new(existing.to_owned()).free_space().ok().flatten()
    }

    /// Returns where the archive of a snapshot will lie.
    #[must_use]
    pub fn archive_path(&self, source: &str, id: &SnapshotId, codec: Codec) -> PathBuf {
        let names = SnapshotNames::new(source, id);
        self.root.join(names.folder()).join(names.archive(codec))
    }

    /// Opens the repository for writing, making one where there is none. Finds out by writing whether it
    /// can be written.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open_or_init(&self) -> Result<Repository, RepositoryError> {
        Repository::open_or_init(&self.root)
    }
}

/// What is found at a place.
enum Found {
    Repository(Repository),
    /// Nothing, or an empty directory.
    Empty,
}

impl Repository {
    /// Opens the repository at a place, for reading at least.
    ///
    /// # Errors
    /// When there is none, it was made by a later volsnap, or the place is something else.
    pub fn open(location: &Path) -> Result<Self, RepositoryError> {
        let root = local_root(location)?;
        match look(&root)? {
            Found::Repository(repository) => Ok(repository),
            Found::Empty => Err(RepositoryError::Missing { path: root }),
        }
    }

    /// Opens the repository at a place, for writing; makes one where there is nothing or an empty
    /// directory. Finds out by writing whether it can be written.
    ///
    /// # Errors
    /// As for [`open`](Self::open), or when it cannot be made or written.
    pub fn open_or_init(location: &Path) -> Result<Self, RepositoryError> {
        let root = local_root(location)?;
        let repository = match look(&root)? {
            Found::Repository(repository) => repository,
            Found::Empty => init(&root)?,
        };
        let folder = repository.storage.locate(SNAPSHOTS);
        repository
            .storage
            .make_folder(SNAPSHOTS)
            .map_err(|source| RepositoryError::write(&folder, 0, source))?;
        // The file has no name, so nothing can be left of it.
        tempfile::tempfile_in(&folder)
            .and_then(|mut file| file.write_all(&PROBE))
            .map_err(|source| RepositoryError::write(&folder, 0, source))?;
        Ok(repository)
    }

    /// Returns what tells this repository from others.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns where it is, for messages.
    #[must_use]
    pub fn location(&self) -> PathBuf {
        self.storage.locate("")
    }

    /// Returns its directory, when it is one of this machine.
    #[must_use]
    pub fn local_path(&self) -> Option<PathBuf> {
        self.storage.local_path("")
    }

    /// Returns the bytes that can still be stored, where that is known.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn free_space(&self) -> Result<Option<u64>, RepositoryError> {
        self.storage.free_space().map_err(RepositoryError::io("ask for the free space of", self.location()))
    }

    /// Begins a snapshot. Creates nothing but the source's directory: the files' names are in
    /// [`PendingSnapshot::paths`] before there are any.
    ///
    /// # Errors
    /// When the source's key is not fit for a file name, or something has the id already.
    pub fn begin(
        &self,
        source: &str,
        id: &SnapshotId,
        codec: Codec,
    ) -> Result<PendingSnapshot, RepositoryError> {
        if !is_source_key(source) {
            return Err(RepositoryError::SourceKey { key: source.to_owned() });
        }
        PendingSnapshot::begin(Arc::clone(&self.storage), source, id, codec)
    }

    /// Returns what there is; of one source only when it is named.
    ///
    /// # Errors
    /// When a directory cannot be read. What is wrong with a single file is in the listing.
    pub fn snapshots(&self, source: Option<&str>) -> Result<Listing, RepositoryError> {
        Listing::read(&self.storage, source)
    }

    /// Returns the snapshot that is meant: see [`Listing::resolve`].
    ///
    /// # Errors
    /// When nothing is meant, more than one may be, or what is meant cannot be believed.
    pub fn resolve(&self, spec: &str) -> Result<Snapshot, RepositoryError> {
        self.snapshots(None)?.resolve(spec)
    }
}

/// Returns the absolute path of a place that is a directory of this machine.
fn local_root(location: &Path) -> Result<PathBuf, RepositoryError> {
    let refused = |why: &str| RepositoryError::Refused { path: location.to_owned(), why: why.to_owned() };
    if location.to_string_lossy().contains("://") {
        return Err(refused("only directories so far, no URLs"));
    }
    std::path::absolute(location).map_err(|_| refused("the name is empty"))
}

/// Returns what is at a place, without changing anything.
fn look(root: &Path) -> Result<Found, RepositoryError> {
    let refused = |why: String| RepositoryError::Refused { path: root.to_owned(), why };
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(refused("it is not a directory".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match fs::symlink_metadata(root) {
                Ok(_) => Err(refused("it is a link that leads nowhere".to_owned())),
                Err(_) => Ok(Found::Empty),
            };
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(refused("a part of the path is a file".to_owned()));
        }
        Err(error) => return Err(RepositoryError::io("open repository", root)(error)),
    }
    let root = root.canonicalize().map_err(RepositoryError::io("open repository", root))?;
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(root.clone()));
    // Before the marker is looked for: another run may be making the repository right now.
    let stranger = first_stranger(&root).map_err(RepositoryError::io("list", &root))?;
    let marker = match storage.read(MARKER, MARKER_MAX) {
        Ok(marker) => marker,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match stranger {
                None => Ok(Found::Empty),
                Some(name) => Err(refused(format!(
                    "it is no repository, but not empty either: it has {}",
                    name.display()
                ))),
            };
        }
        Err(error) => return Err(RepositoryError::io("read", root.join(MARKER))(error)),
    };
    let id = check_marker(&root, &marker)?;
    match fs::symlink_metadata(root.join(SNAPSHOTS)) {
        Ok(metadata) if !metadata.is_dir() => {
            Err(refused(format!("{SNAPSHOTS} in it is not a directory; a link is not followed")))
        }
        _ => Ok(Found::Repository(Repository { storage, id })),
    }
}

/// Returns the repository's id, when this volsnap can read what the marker stands for.
fn check_marker(root: &Path, bytes: &[u8]) -> Result<String, RepositoryError> {
    let marker: Marker = serde_json::from_slice(bytes).map_err(|error| RepositoryError::Unreadable {
        path: root.join(MARKER),
        why: format!("it does not say which format the repository has: {error}"),
    })?;
    if marker.format_version > REPOSITORY_FORMAT {
        return Err(RepositoryError::LaterFormat { path: root.to_owned(), found: marker.format_version });
    }
    Ok(marker.repository_id)
}

/// Returns the name of something that a new repository's directory must not have.
fn first_stranger(root: &Path) -> io::Result<Option<std::ffi::OsString>> {
    let harmless = ["lost+found".to_owned(), partial(MARKER)];
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if !harmless.iter().any(|harmless| OsStr::new(harmless) == name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Makes a repository at a place that is vacant.
fn init(root: &Path) -> Result<Repository, RepositoryError> {
    let failed = |source| RepositoryError::write(&root.join(MARKER), 0, source);
    make_root(root).map_err(RepositoryError::io("make directory", root))?;
    // One at a time, as long as the file system has locks: a marker that a dead run left half-written
    // can then be told from one that is being written.
    let directory = File::open(root).map_err(RepositoryError::io("open", root))?;
    if let Err(error) = directory.lock() {
        tracing::debug!(%error, "the repository's directory cannot be locked");
    }
    if let Found::Repository(repository) = look(root)? {
        return Ok(repository);
    }
    let storage = Directory::new(root.to_owned());
    match storage.delete(&partial(MARKER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).map_err(|error| failed(io::Error::other(error)))?;
    let marker = Marker {
        format_version: REPOSITORY_FORMAT,
        repository_id: random.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let json = serde_json::to_string_pretty(&marker).map_err(|error| failed(error.into()))?;
    storage.put_new(MARKER, format!("{json}\n").as_bytes()).map_err(failed)?;
    match look(root)? {
        Found::Repository(repository) => Ok(repository),
        Found::Empty => Err(RepositoryError::Missing { path: root.to_owned() }),
    }
}

/// Makes the directory and those above it, durably.
fn make_root(root: &Path) -> io::Result<()> {
    let missing: Vec<_> = root.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(storage::sync_folder)
}
