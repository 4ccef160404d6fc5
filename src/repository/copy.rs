//! Copies a snapshot from one repository into another, and proves each byte on the way.
//!
//! What is read is digested before it is stored, and compared with what the manifest says, so a damaged archive never
//! becomes a snapshot elsewhere. The manifest is written last, as always. An object that an earlier attempt has stored
//! whole is read back there, and need not be sent again.

use std::sync::Arc;

use bytes::Bytes;

use super::Repository;
use super::error::RepositoryError;
use super::listing::Snapshot;
use super::marks::exists;
use super::tarball::layout::SnapshotNames;
use super::tarball::{PendingSnapshot, Stored};
use crate::model::event::{Event, Monitor};
use crate::store::{Key, Store};

/// Bytes between two reports of progress.
const PROGRESS_STEP: u64 = 16 << 20;

/// The object of one snapshot that is copied.
struct Object<'a> {
    from: &'a Arc<dyn Store>,
    key: Key,
    file: &'a str,
    bytes: u64,
    blake3: &'a str,
}

impl Repository {
    /// Returns the snapshot that a copy of another repository's would be here. Creates nothing.
    ///
    /// # Errors
    /// When its id is taken, or marked for deletion here; [`RepositoryError::Exists`] names what exists. What an earlier
    /// attempt has left is no obstacle.
    pub async fn begin_copy(&self, snapshot: &Snapshot) -> Result<PendingSnapshot, RepositoryError> {
        let manifest = &snapshot.manifest;
        let pending = PendingSnapshot::unchecked(
            Arc::clone(&self.store),
            &manifest.source,
            &manifest.id,
            manifest.archive().codec,
        )?;
        pending.refuse_existing().await?;
        Ok(pending)
    }
}

impl PendingSnapshot {
    /// Copies archive and file list of a snapshot; [`publish`](Self::publish) with its manifest then makes it exist.
    ///
    /// # Errors
    /// When anything cannot be read or stored, or is not what the manifest says.
    pub async fn copy_objects(
        &self,
        snapshot: &Snapshot,
        monitor: &dyn Monitor,
    ) -> Result<(Stored, Stored), RepositoryError> {
        let manifest = &snapshot.manifest;
        let (archive, list) = (manifest.archive(), manifest.file_list());
        let (from, key) = snapshot.archive_object();
        let object = Object {
            from,
            key: key?,
            file: &archive.file,
            bytes: archive.stored_bytes,
            blake3: &archive.blake3,
        };
        let archive = self.copy_object(&object, monitor).await?;
        let (from, key) = snapshot.list_object();
        let object =
            Object { from, key: key?, file: &list.file, bytes: list.stored_bytes, blake3: &list.blake3 };
        let list = self.copy_object(&object, monitor).await?;
        Ok((archive, list))
    }

    async fn copy_object(
        &self,
        object: &Object<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Stored, RepositoryError> {
        let (store, key) = (self.store(), self.object_key(object.file)?);
        let stored =
            || Stored { file: object.file.to_owned(), bytes: object.bytes, blake3: object.blake3.to_owned() };
        if exists(store, &key).await? {
            // Whole, since it has its name; whether it is the right one, its bytes say.
            if digest_of(store, &key, monitor).await? == (object.bytes, object.blake3.to_owned()) {
                return Ok(stored());
            }
            let removed = store.delete(&key).await;
            removed.map_err(RepositoryError::io("replace", store.address().locate(&key)))?;
        }
        match store.delete_partial(&key).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RepositoryError::io("replace", store.address().locate(&key))(error));
            }
            _ => {}
        }
        let mut writer = self.object_writer(&key).await?;
        let outcome = send(object, monitor, async |chunk| writer.write(chunk).await).await;
        let is_whole = match outcome {
            Ok(digested) => digested == (object.bytes, object.blake3.to_owned()),
            Err(error) => {
                // What is left of it goes with the run.
                let _ = writer.abort().await;
                return Err(error);
            }
        };
        if !is_whole {
            let _ = writer.abort().await;
            let path = object.from.address().locate(&object.key);
            let why = "its bytes are not those that its manifest tells of: it is damaged".to_owned();
            return Err(RepositoryError::Unreadable { path, why });
        }
        writer.finish().await
    }
}

/// Reads an object to its end; returns its length and digest.
async fn digest_of(
    store: &Arc<dyn Store>,
    key: &Key,
    monitor: &dyn Monitor,
) -> Result<(u64, String), RepositoryError> {
    let object = Object { from: store, key: key.clone(), file: "", bytes: 0, blake3: "" };
    send(&object, monitor, async |_| Ok(())).await
}

/// Hands each piece of an object on; returns its length and digest.
async fn send(
    object: &Object<'_>,
    monitor: &dyn Monitor,
    mut to: impl AsyncFnMut(Bytes) -> Result<(), RepositoryError>,
) -> Result<(u64, String), RepositoryError> {
    let path = object.from.address().locate(&object.key);
    let opened = object.from.get(&object.key, None).await;
    let mut stream = opened.map_err(RepositoryError::io("open", path.clone()))?;
    let (mut hasher, mut bytes, mut told) = (blake3::Hasher::new(), 0, 0);
    while let Some(piece) = stream.next().await.map_err(RepositoryError::io("read", path.clone()))? {
        hasher.update(&piece);
        bytes += piece.len() as u64;
        to(piece).await?;
        if bytes - told >= PROGRESS_STEP {
            told = bytes;
            monitor.event(Event::Progress { bytes, files: 0 });
        }
    }
    Ok((bytes, hasher.finalize().to_hex().to_string()))
}

impl PendingSnapshot {
    fn object_key(&self, file: &str) -> Result<Key, RepositoryError> {
        let key = self.folder().join(file);
        key.map_err(|_| RepositoryError::SourceKey { key: file.to_owned() })
    }

    async fn refuse_existing(&self) -> Result<(), RepositoryError> {
        let manifest = self.object_key(&SnapshotNames::new(self.source(), self.id()).manifest())?;
        self.refuse_marked().await?;
        if exists(self.store(), &manifest).await? {
            let path = self.store().address().locate(&manifest);
            return Err(RepositoryError::Exists { id: self.id().clone(), path });
        }
        Ok(())
    }
}
