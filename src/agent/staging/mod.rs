//! A stage: a copy of a tree that is still being written. Every pass brings it closer to the tree, and after the last
//! pass it equals the tree.
//!
//! The passes before the last are *live*: what they copy is a mixture of moments and proves nothing; it only saves
//! work. The final pass runs while everything that writes is held. It looks at every name, and reads each file again
//! that may have been written to since it was last read (`times` says when that is ruled out); of those files it
//! writes the blocks that differ (`blocks`). So it takes a walk and the files that changed, whatever the size of the
//! tree. After it the stage has every byte, name, owner, mode, time, attribute, link and hole of the source.
//!
//! ```text
//! STAGE/
//!   new/     what the passes make equal to the source
//!   state    what is known of the tree, when it was kept
//! ```
//!
//! STAGE is a scratch volume, or the work directory of a [swap](super::swap) whose new tree this is: then only renames
//! remain once the final pass is over (`place`).
//!
//! The stage is throwaway: a pass that fails may leave it in any state, and nothing is ever written to the source.
//! Every pass compares whatever lies in the stage with the source anew. It trusts the state only about contents, and
//! only as long as nobody has touched the files since (`state`).
//!
//! | room | what |
//! |---|---|
//! | `pass` | the walk that compares names, and what it does about them |
//! | `work` | the threads that copy contents |
//! | `blocks` | the content of one file |
//! | `reflink` | whether contents can be shared instead |
//! | `times` | what the times of a file prove |
//! | `sync` | waiting for the disk |
//! | `state` | what is kept for a later run, or a later pass |
//! | `place` | a stage that will take the place of another tree |
//! | [`compare`] | the proof that it is equal, by other means than those that made it so |
//! | `follow` | what another container writes into the stage |
//! | `clear` | the removal of the tree |

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fchmod, fstat};
use serde::{Deserialize, Serialize};

use super::archive::Progress;
use super::calls::{StageCompare, StagePass};
use super::extract::free_bytes;
use super::metadata::Metadata;
use super::protocol::StageRoom;
use super::survey::survey;
use super::tree::{Stamp, directory_flags};
use crate::archive::{ArchiveError, FileProblem, shown};

mod blocks;
mod clear;
pub mod compare;
mod follow;
mod names;
mod pass;
mod place;
mod reflink;
mod state;
mod sync;
mod times;
mod work;

pub use clear::clear;
pub use compare::CompareStats;
pub use follow::Follower;
pub use place::StagePlace;

use blocks::{BlockHasher, Hash};
use compare::Comparison;
use state::Identity;
use times::{SLACK, Synced, trusts_times};

/// The tree within the stage: a swap takes it for the new tree.
pub use super::swap::NEW as TREE;

/// The result of a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStats {
    /// Names seen, the root among them.
    pub entries: u64,
    /// Regular files among them, each once however many names it has.
    pub files: u64,
    /// Files read, or shared, because they may have changed.
    pub reread_files: u64,
    /// Files that were written to in any part.
    pub changed_files: u64,
    /// Files that changed while they were read; none in the final pass.
    pub unsteady_files: u64,
    /// Names that vanished before the pass looked at them; none in the final pass.
    pub vanished: u64,
    /// Sockets, which no archive holds.
    #[serde(default)]
    pub sockets_skipped: u64,
    /// Names left out on request; a directory counts once.
    #[serde(default)]
    pub excluded: u64,
    /// Names made.
    pub created: u64,
    /// Names removed; a directory with all its contents counts as one.
    pub removed: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes shared with the source instead of being copied.
    pub reflinked_bytes: u64,
    /// How long a live pass first waited until the dirty data of the source was on the disk.
    pub sync_ms: u64,
    /// How long it took, without that wait.
    pub duration_ms: u64,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file of the source could not be staged as it is.
    #[error("stage `{}`", shown(.path))]
    File {
        /// The file, relative to the root of the tree.
        path: Vec<u8>,
        /// What was wrong with it.
        #[source]
        problem: FileProblem,
    },
    /// The source could not be walked.
    #[error(transparent)]
    Walk(ArchiveError),
    /// Something could not be written.
    #[error("write `{}` into the stage", shown(.path))]
    Write {
        /// What, relative to the root of the tree.
        path: Vec<u8>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What would be written does not fit, or would leave less than the reserve.
    #[error("write `{}` into the stage: there is not enough room where the stage lies", shown(.path))]
    Full {
        /// What, relative to the root of the tree.
        path: Vec<u8>,
    },
    /// Dirty data could not be sent to the disk; without that, the times of files prove nothing.
    #[error("send to the disk what was written to the {what}")]
    Sync {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Source and stage cannot be compared.
    #[error("compare `{}` with its copy: read it in the {side}", shown(.path))]
    Compare {
        /// What, relative to the root of the tree.
        path: Vec<u8>,
        /// Which of the two could not be read.
        side: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stage itself cannot be used.
    #[error("use the stage's {what}")]
    Place {
        /// Which part of it.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread died before its work was done.
    #[error("wait for a thread that reads or copies: it died")]
    WorkerDied,
}

impl StageError {
    fn file(path: &[u8], problem: FileProblem) -> Self {
        Self::File { path: path.to_vec(), problem }
    }

    fn write(path: &[u8], source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_vec();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Write { path, source },
        }
    }
}

impl From<ArchiveError> for StageError {
    fn from(error: ArchiveError) -> Self {
        use std::os::unix::ffi::OsStringExt as _;
        match error {
            ArchiveError::File { path, problem } => {
                Self::File { path: path.into_os_string().into_vec(), problem }
            }
            error => Self::Walk(error),
        }
    }
}

/// What is known of a file of the stage.
#[derive(Debug)]
struct Record {
    /// The state of the source's file when the stage was made equal to it, if any later write would show.
    stamp: Option<Stamp>,
    /// What the stage holds; `None` if it is shared with the source.
    hashes: Option<Box<[Hash]>>,
    /// The pass that last saw it.
    pass: u32,
}

impl Record {
    fn new(stamp: Option<Stamp>, hashes: Option<Box<[Hash]>>) -> Self {
        Self { stamp, hashes, pass: 0 }
    }
}

/// A stage, and what is known of it.
#[derive(Debug)]
pub struct Stage {
    directory: File,
    tree: PathBuf,
    source: PathBuf,
    root: File,
    identity: Identity,
    hasher: BlockHasher,
    /// By the file's inode number in the stage.
    records: HashMap<u64, Record>,
    synced: Option<Synced>,
    slack: Duration,
    reflinks: bool,
    passes: u32,
    /// Whether a written state describes the stage as it is.
    is_kept: bool,
    comparison: Option<Comparison>,
}

impl Stage {
    /// Opens the stage at `place` for the tree at `source`; only the path `source` itself may go through a symbolic
    /// link. This takes over what an earlier run has kept of the same source, and removes any other tree.
    ///
    /// # Errors
    /// When either is no directory, or the stage cannot be written to.
    pub fn open(place: &Path, source: &Path) -> Result<Self, StageError> {
        let failed = |source: io::Error| StageError::Place { what: "directory", source };
        let unreadable = |source| StageError::file(b".", FileProblem::Unreadable { source });
        let directory = open_directory(place).map_err(failed)?;
        // It holds data that a database keeps from all others.
        fchmod(&directory, Mode::S_IRWXU).map_err(|errno| failed(errno.into()))?;
        let root = open_directory(source).map_err(unreadable)?;
        let identity = Identity::of(&root).map_err(unreadable)?;
        let tree = place.join(TREE);
        let (hasher, records) = match state::read(&directory, &tree, &identity) {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(%error, "the stage is made anew");
                names::remove(&directory, TREE.as_ref())
                    .map_err(|source| StageError::Place { what: "tree", source })?;
                (BlockHasher::random().map_err(failed)?, HashMap::new())
            }
        };
        state::forget(&directory).map_err(|source| StageError::Place { what: "state", source })?;
        Ok(Self {
            directory,
            tree,
            source: source.to_owned(),
            root,
            identity,
            hasher,
            records,
            synced: None,
            slack: SLACK,
            reflinks: true,
            passes: 0,
            is_kept: false,
            comparison: None,
        })
    }

    /// Returns the tree that this is a stage of.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Makes the stage equal to the source, as far as the source stands still.
    ///
    /// # Errors
    /// [`StageError::Full`] when it does not fit; for the final pass also when anything changes.
    pub fn pass(
        &mut self,
        call: &StagePass,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<StageStats, StageError> {
        if self.is_kept {
            state::forget(&self.directory).map_err(|source| StageError::Place { what: "state", source })?;
            self.is_kept = false;
        }
        pass::run(self, call, progress)
    }

    /// Compares the stage with the source, by other means than those that made it equal: see [`compare`].
    ///
    /// # Errors
    /// When either cannot be read. Differences are no error.
    pub fn compare(
        &mut self,
        call: &StageCompare,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CompareStats, StageError> {
        let Self { comparison, source, tree, slack, .. } = self;
        let comparison = comparison.get_or_insert_with(|| Comparison::new(source, tree, *slack));
        comparison.compare(call, progress)
    }

    /// Makes the stage durable.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn sync(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), StageError> {
        sync::stage(&self.directory, progress)
    }

    /// Returns the metadata of the staged tree's root.
    ///
    /// # Errors
    /// When there is no tree, or its metadata cannot be read.
    pub fn root_metadata(&self) -> Result<Metadata, StageError> {
        names::open_directory(&self.directory, TREE.as_ref())
            .map_err(io::Error::from)
            .and_then(|tree| Metadata::of_file(&tree))
            .map_err(|source| StageError::Place { what: "tree", source })
    }

    /// Makes the stage durable, and leaves what is known of it to a later run. The stage stays open: the next pass
    /// removes that state, durably, before it touches anything.
    ///
    /// # Errors
    /// When the stage cannot be made durable, or the state cannot be written.
    pub fn keep(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), StageError> {
        self.sync(progress)?;
        state::write(&self.directory, &self.tree, &self.identity, &self.hasher, &self.records)
            .map_err(|source| StageError::Place { what: "state", source })?;
        self.is_kept = true;
        Ok(())
    }
}

/// Finds how much room there is for a stage of the tree at `source`, and what the stage can do there.
///
/// # Errors
/// When either cannot be looked at.
pub fn room(place: &Path, source: &Path) -> io::Result<StageRoom> {
    let directory = open_directory(place)?;
    let root = open_directory(source)?;
    let stat = nix::sys::statvfs::fstatvfs(&directory)?;
    let tree = place.join(TREE);
    let staged_bytes =
        if tree.is_dir() { survey(&tree, &globset::GlobSet::empty(), &[])?.disk_bytes } else { 0 };
    Ok(StageRoom {
        free_bytes: free_bytes(&directory)?,
        free_names: (stat.files() > 0).then(|| stat.files_available()),
        staged_bytes,
        warm: state::is_of(&directory, &Identity::of(&root)?),
        reflink: reflink::is_possible(&directory, source),
        trusts_times: trusts_times(&root),
    })
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = directory_flags().difference(OFlag::O_NOFOLLOW);
    Ok(open(path, flags, Mode::empty())?.into())
}

fn device(directory: &File) -> io::Result<u64> {
    Ok(fstat(directory)?.st_dev)
}

#[cfg(test)]
mod tests;
