//! Deletes what is marked for deletion, and what dead runs have left.
//!
//! The manifest goes first: from then on there is no snapshot, and what is left of it is found by its mark, which goes
//! last. All that decides is asked for by its name immediately before, so a stale listing can make a pruner late, never
//! wrong. Two who sweep at once do the same thing twice.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::error::RepositoryError;
use super::listing::list;
use super::marks::{age, deletion_of, exists, has_mark, remove_mark};
use super::tarball::layout::{FileKind, FileName, MarkKind, PARTIAL, SnapshotNames, source_folder};
use crate::model::ids::SnapshotId;
use crate::store::{Key, ObjectMeta, Store};

/// What became of a snapshot that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// It is gone, and so many bytes are free.
    Deleted {
        /// Bytes.
        bytes: u64,
    },
    /// It is not marked any more, its time has not come, or it is pinned.
    Stays,
}

/// Deletes a snapshot that is marked; see [`Repository::sweep`](super::Repository::sweep).
pub(super) async fn sweep(
    store: &Arc<dyn Store>,
    (source, id): (&str, &SnapshotId),
    now: DateTime<Utc>,
    grace: Option<Duration>,
) -> Result<Swept, RepositoryError> {
    let Some(deletion) = deletion_of(store, source, id).await? else { return Ok(Swept::Stays) };
    if now < deletion.due(grace) || has_mark(store, source, id, MarkKind::Pin).await? {
        return Ok(Swept::Stays);
    }
    let files = Files::of(store, source, id).await?;
    delete_manifest(store, source, id).await?;
    let bytes = files.delete().await?;
    remove_mark(store, source, id, MarkKind::Deletion).await?;
    Ok(Swept::Deleted { bytes })
}

/// Deletes what was left of a snapshot; see [`Repository::sweep_incomplete`](super::Repository::sweep_incomplete).
pub(super) async fn sweep_incomplete(
    store: &Arc<dyn Store>,
    (source, id): (&str, &SnapshotId),
    now: DateTime<Utc>,
    untouched: Duration,
) -> Result<Option<u64>, RepositoryError> {
    let files = Files::of(store, source, id).await?;
    let is_old = |file: &ObjectMeta| age(file.modified, now) >= untouched;
    if files.found.is_empty() || !files.found.iter().all(is_old) {
        return Ok(None);
    }
    // What is partly written beside a snapshot is nobody's either; the snapshot itself stays.
    if exists(store, &manifest_key(source, id)?).await? {
        return files.only_partial().delete().await.map(|bytes| Some(bytes).filter(|bytes| *bytes > 0));
    }
    files.delete().await.map(Some)
}

fn manifest_key(source: &str, id: &SnapshotId) -> Result<Key, RepositoryError> {
    let key =
        source_folder(source).and_then(|folder| folder.join(&SnapshotNames::new(source, id).manifest()));
    key.map_err(|_| RepositoryError::SourceKey { key: source.to_owned() })
}

async fn delete_manifest(
    store: &Arc<dyn Store>,
    source: &str,
    id: &SnapshotId,
) -> Result<(), RepositoryError> {
    let key = manifest_key(source, id)?;
    let deleted = store.delete_all_of(&key).await;
    deleted.map_err(RepositoryError::io("delete", store.address().locate(&key)))
}

/// The files of one snapshot.
struct Files<'a> {
    store: &'a Arc<dyn Store>,
    found: Vec<ObjectMeta>,
}

impl<'a> Files<'a> {
    async fn of(store: &'a Arc<dyn Store>, source: &str, id: &SnapshotId) -> Result<Self, RepositoryError> {
        let folder = source_folder(source);
        let folder = folder.map_err(|_| RepositoryError::SourceKey { key: source.to_owned() })?;
        let mut found = list(store, &folder).await?;
        found.retain(|file| {
            FileName::parse(file.key.name()).is_some_and(|name| (name.source, &name.id) == (source, id))
        });
        // The manifest first, should it not be gone yet; what was verified last.
        let rank = |file: &ObjectMeta| match FileName::parse(file.key.name()).map(|name| name.kind) {
            Some(FileKind::Manifest) => 0,
            Some(FileKind::Archive | FileKind::FileList) => 1,
            _ => 2,
        };
        found.sort_by_key(|file| (rank(file), file.key.clone()));
        Ok(Self { store, found })
    }

    fn only_partial(mut self) -> Self {
        self.found.retain(|file| file.key.name().ends_with(PARTIAL));
        self
    }

    /// Deletes all of them; returns their bytes.
    async fn delete(self) -> Result<u64, RepositoryError> {
        let mut bytes = 0;
        for file in &self.found {
            let outcome = match file.key.as_str().strip_suffix(PARTIAL) {
                Some(whole) => match Key::new(whole) {
                    Ok(whole) => self.store.delete_partial(&whole).await,
                    Err(error) => Err(error.into()),
                },
                None => self.store.delete(&file.key).await,
            };
            match outcome {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let path = self.store.address().locate(&file.key);
                    return Err(RepositoryError::io("delete", path)(error));
                }
                _ => bytes += file.bytes,
            }
        }
        Ok(bytes)
    }
}

/// Returns whether a directory lies on a file system that only this machine writes to. One that is not known here is
/// taken for one that others have, too.
pub(super) fn is_local_disk(path: &Path) -> bool {
    // The number's type is another on each machine. ext2 to ext4, XFS, Btrfs, ZFS, F2FS, bcachefs, tmpfs, overlayfs, ReiserFS, JFS.
    const LOCAL: [i128; 10] = [
        0xEF53,
        0x5846_5342,
        0x9123_683E,
        0x2FC1_2FC1,
        0xF2F5_2010,
        0xCA45_1A4E,
        0x0102_1994,
        0x794C_7630,
        0x5265_4973,
        0x3153_464A,
    ];
    nix::sys::statfs::statfs(path).is_ok_and(|found| LOCAL.contains(&i128::from(found.filesystem_type().0)))
}
