//! The error of this layer: what volsnap was doing to which path, and the next command.

use std::io;
use std::path::{Path, PathBuf};

use crate::crypt::CryptError;
use crate::model::error::{Error, ErrorKind};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::quote::shell_quote;
use crate::repository::tarball::layout::REPOSITORY_FORMAT;
use crate::store::trouble::Failure;

/// A failure of the repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What volsnap was doing: "write", "list".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No space or quota is left.
    #[error("write {}: disk full after {written} bytes", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Bytes that had been written to it.
        written: u64,
        /// The system's words.
        source: io::Error,
    },
    /// The place is no repository and cannot become one.
    #[error("use {} as a repository: {why}", path.display())]
    Refused {
        /// The place.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The place is no repository, and has some in it.
    #[error(
        "use {} as a repository: it is none, and holds those of {}",
        path.display(),
        names(below)
    )]
    Above {
        /// The place.
        path: PathBuf,
        /// Those in it.
        below: Vec<PathBuf>,
    },
    /// No repository exists yet.
    #[error("open repository {}: there is none", path.display())]
    Missing {
        /// The place that was searched.
        path: PathBuf,
    },
    /// A later volsnap made the repository.
    #[error(
        "open repository {}: made by a later volsnap (its format version is {found}, and this volsnap reads up to {REPOSITORY_FORMAT})",
        path.display()
    )]
    LaterFormat {
        /// The repository.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The source cannot be a part of a file name.
    #[error("keep snapshots of source {key:?}: its name is not fit for a file name")]
    SourceKey {
        /// The key.
        key: String,
    },
    /// Something already has that id.
    #[error("begin snapshot {id}: {} is already there", path.display())]
    Exists {
        /// The id.
        id: SnapshotId,
        /// The thing that exists.
        path: PathBuf,
    },
    /// A snapshot must not be published as it is.
    #[error("publish snapshot {id}: {why}")]
    Unpublishable {
        /// The id.
        id: SnapshotId,
        /// Why not.
        why: String,
    },
    /// A snapshot exists, but cannot be trusted.
    #[error("read snapshot {}: {why}", path.display())]
    Unreadable {
        /// The file that shows it.
        path: PathBuf,
        /// What is wrong, in a sentence.
        why: String,
    },
    /// A snapshot is encrypted, and there is no identity.
    #[error("open snapshot {name}: it is encrypted, and no identity was given; it is for {recipients}")]
    Locked {
        /// The snapshot, as `SOURCE/ID`.
        name: String,
        /// Whom it is encrypted to.
        recipients: String,
    },
    /// A snapshot is encrypted to others.
    #[error("open snapshot {name}: no identity that was given opens it; it is for {recipients}")]
    WrongKey {
        /// The snapshot, as `SOURCE/ID`.
        name: String,
        /// Whom it is encrypted to.
        recipients: String,
    },
    /// Something cannot be encrypted.
    #[error("encrypt snapshot {id}")]
    NotEncrypted {
        /// The snapshot.
        id: SnapshotId,
        /// Why.
        source: CryptError,
    },
    /// A specification names no snapshot.
    #[error("find snapshot {spec:?}: {}", unknown(nearest))]
    Unknown {
        /// The specification.
        spec: String,
        /// Names like it.
        nearest: Vec<String>,
    },
    /// A specification names more than one snapshot.
    #[error("find snapshot {spec:?}: it can mean {}", candidates.join(", "))]
    Ambiguous {
        /// The specification.
        spec: String,
        /// What it can mean: each of these specifications means just one.
        candidates: Vec<String>,
    },
    /// A snapshot is about to be deleted.
    #[error("read snapshot {name}: it is marked for deletion")]
    Marked {
        /// The snapshot, as `SOURCE/ID`.
        name: String,
    },
    /// A snapshot that another one needs is gone, or about to be deleted.
    #[error(
        "publish snapshot {id}: {needed}, without which it cannot be restored, is gone or marked for deletion"
    )]
    NeedGone {
        /// The snapshot that is not published.
        id: SnapshotId,
        /// The one that it needs.
        needed: SnapshotId,
    },
    /// An earlier failure of the same writer was reported already.
    #[error("write {}: an earlier write failed", path.display())]
    WriterFailed {
        /// The file.
        path: PathBuf,
    },
}

/// What volsnap was doing when it changed nothing.
const READS: [&str; 4] = ["open repository", "list", "read", "open"];

/// Nobody would read more.
const MOST: usize = 3;

/// Says that nothing has that name, and what is like it.
fn unknown(nearest: &[String]) -> String {
    if nearest.is_empty() {
        "there is none of that name".to_owned()
    } else {
        format!("there is none of that name; the nearest: {}", nearest.join(", "))
    }
}

/// Returns the last parts of places, for those who know what stands before.
fn names(places: &[PathBuf]) -> String {
    let name = |place: &PathBuf| {
        let place = place.to_string_lossy();
        let place = place.split('?').next().unwrap_or_default();
        place.rsplit('/').next().unwrap_or_default().to_owned()
    };
    places.iter().map(name).collect::<Vec<_>>().join(", ")
}

impl RepositoryError {
    /// Returns whether the connection to the server is gone: that says nothing of what is there.
    pub(super) fn is_disconnected(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::ConnectionReset)
    }

    /// Returns a function that wraps the system's error.
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// Returns the error of a write that failed after `written` bytes.
    pub(super) fn write(path: &Path, written: u64, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, written, source }
            }
            _ => Self::Io { doing: "write", path, source },
        }
    }

    /// Returns the next command to type, if one is known.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Missing { path } if is_url(path) => {
                let init = Hint::volsnap(["--repo", &path.to_string_lossy(), "init"]);
                Some(init.why("makes one there"))
            }
            Self::Missing { path } => {
                let snapshot = Hint::volsnap(["--repo", &path.to_string_lossy(), "snapshot", "TARGET"]);
                Some(snapshot.why("makes it, with the first snapshot"))
            }
            Self::Refused { path, .. } if is_url(path) => Some(Hint::advice(
                "name an empty or a new folder, as with --repo s3://BUCKET/FOLDER or --repo sftp://USER@HOST/FOLDER",
            )),
            Self::Refused { .. } => {
                Some(Hint::advice("name an empty or a new directory, as with --repo /var/backups/volsnap"))
            }
            Self::DiskFull { path, .. } => {
                let folder = path.parent().unwrap_or(path);
                let free = Hint::shell(format!("df -h {}", shell_quote(&folder.to_string_lossy())));
                Some(free.why("says what is left"))
            }
            Self::Marked { name } => {
                Some(Hint::volsnap(["undelete", name]).why("keeps it; then type this command again"))
            }
            Self::Locked { .. } | Self::WrongKey { .. } => Some(
                Hint::shell("export VOLSNAP_IDENTITY_FILE=FILE")
                    .why("a file with an identity that it is encrypted to; then type this command again"),
            ),
            Self::Unknown { .. } | Self::Ambiguous { .. } => {
                Some(Hint::volsnap(["list"]).why("says what there is"))
            }
            _ => None,
        }
    }
}

/// Returns whether a place is at a server.
fn is_url(path: &Path) -> bool {
    path.to_string_lossy().contains("://")
}

impl From<RepositoryError> for Error {
    fn from(error: RepositoryError) -> Self {
        let kind = match &error {
            RepositoryError::Refused { .. }
            | RepositoryError::Missing { .. }
            | RepositoryError::Above { .. }
            | RepositoryError::SourceKey { .. }
            | RepositoryError::Marked { .. }
            | RepositoryError::Locked { .. }
            | RepositoryError::WrongKey { .. }
            | RepositoryError::Unknown { .. }
            | RepositoryError::Ambiguous { .. } => ErrorKind::Usage,
            RepositoryError::Unreadable { .. } => ErrorKind::Damaged,
            _ => ErrorKind::Failed,
        };
        let mut wrapped = Self::new(kind, error.to_string());
        if let RepositoryError::Ambiguous { spec, candidates } = &error {
            wrapped = wrapped.with_hints(candidates.iter().take(MOST).map(|candidate| Hint::Replaced {
                word: spec.clone(),
                by: candidate.clone(),
                otherwise: vec!["show".to_owned(), candidate.clone()],
                why: None,
            }));
        }
        if let RepositoryError::Above { below, .. } = &error {
            let list = |place: &PathBuf| Hint::volsnap(["--repo", &place.to_string_lossy(), "list"]);
            wrapped = wrapped.with_hints(below.iter().take(MOST).map(list));
        }
        if let Some(hint) = error.hint() {
            wrapped = wrapped.or(hint);
        }
        if let RepositoryError::Io { doing, source, .. } = &error
            && let Some(failure) = Failure::of(source)
        {
            if READS.contains(doing) {
                wrapped = wrapped.state("nothing was changed there");
            }
            for hint in failure.hints() {
                wrapped = wrapped.or(hint);
            }
        }
        match error {
            RepositoryError::Io { source, .. } | RepositoryError::DiskFull { source, .. } => {
                wrapped.with_source(source)
            }
            RepositoryError::NotEncrypted { source, .. } => wrapped.with_source(source),
            RepositoryError::Locked { .. } | RepositoryError::WrongKey { .. } => {
                wrapped.state("nothing was decrypted, and nothing was written")
            }
            _ => wrapped,
        }
    }
}
