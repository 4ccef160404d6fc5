//! Copies a snapshot from one repository into another, and proves each byte on the way.
//!
//! What is read is digested before it is stored, and compared with what the manifest says, so a damaged archive never
//! becomes a snapshot elsewhere. The manifest is written last, as always. An object that an earlier attempt has stored
//! whole is read back there, and need not be sent again.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Repository;
use super::error::RepositoryError;
use super::listing::Snapshot;
use super::marks::exists;
use super::running::Announced;
use super::tarball::layout::SnapshotNames;
use super::tarball::{PendingSnapshot, SnapshotObjectWriter, Stored};
use crate::crypt::Recipients;
use crate::model::event::{Event, Monitor};
use crate::model::ids::SnapshotId;
use crate::model::manifest::Manifest;
use crate::store::{Key, ObjectReader, Store};

/// Bytes between two reports of progress.
const PROGRESS_STEP: u64 = 16 << 20;
/// Bytes of a piece that is encrypted anew, and how many of them wait.
const PIECE: usize = 1 << 20;
const PIECES: usize = 4;

/// The object of one snapshot that is copied.
struct Object<'a> {
    from: &'a Arc<dyn Store>,
    key: Key,
    file: &'a str,
    bytes: u64,
    blake3: &'a str,
}

impl Repository {
    /// Returns the snapshot that a copy of another repository's would be here, as it is there. Creates nothing.
    ///
    /// # Errors
    /// When its id is taken, or marked for deletion here; [`RepositoryError::Exists`] names what exists. What an earlier
    /// attempt has left is no obstacle.
    pub async fn begin_copy(&self, snapshot: &Snapshot) -> Result<PendingSnapshot, RepositoryError> {
        let pending = self.copy_of(snapshot)?;
        pending.refuse_existing().await?;
        Ok(pending)
    }

    /// Returns what [`begin_copy`](Self::begin_copy) returns, encrypted to these.
    ///
    /// # Errors
    /// As for [`begin_copy`](Self::begin_copy).
    pub async fn begin_encrypted_copy(
        &self,
        snapshot: &Snapshot,
        recipients: &Recipients,
    ) -> Result<PendingSnapshot, RepositoryError> {
        let pending = self.copy_of(snapshot)?.encrypted_to(Some(recipients))?;
        pending.refuse_existing().await?;
        Ok(pending)
    }

    /// Returns the first of these snapshots that another run writes here. Ask after this run has said what it writes: of two
    /// that begin at once, at least one sees the other. A directory of this machine has a [claim](Self::claim_for_copy) for
    /// that, which ends with its run.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn written_by_others(
        &self,
        run: &SnapshotId,
        ours: &Announced,
        names: &[String],
    ) -> Result<Option<String>, RepositoryError> {
        if self.store.capabilities().is_local {
            return Ok(None);
        }
        let (now, runs) = (ours.began(), self.running(ours.began()).await?);
        let is_written = |name: &&String| runs.iter().any(|other| other.also_writes(name, run, now));
        Ok(names.iter().find(is_written).cloned())
    }

    fn copy_of(&self, snapshot: &Snapshot) -> Result<PendingSnapshot, RepositoryError> {
        let manifest = &snapshot.manifest;
        PendingSnapshot::unchecked(
            Arc::clone(&self.store),
            (&manifest.source, &manifest.id),
            manifest.archive().codec,
            manifest.is_encrypted(),
        )
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

    /// Encrypts archive and file list of a snapshot to the recipients of this one; returns what was stored, and the manifest
    /// that goes with it. What is read is compared with what the manifest says, as in any copy.
    ///
    /// # Errors
    /// When anything cannot be read or stored, or is not what the manifest says; when it is encrypted and not opened.
    pub async fn copy_encrypted(
        &self,
        snapshot: &Snapshot,
        monitor: &dyn Monitor,
    ) -> Result<(Stored, Stored, Manifest), RepositoryError> {
        for key in [self.archive_key(), self.list_key()] {
            let removed = self.store().delete_all_of(key).await;
            removed.map_err(RepositoryError::io("replace", self.store().address().locate(key)))?;
        }
        let mut manifest = Manifest { sealed: None, ..snapshot.manifest.clone() };
        let part = snapshot.manifest.parts.first();
        let archive = Content {
            snapshot: snapshot.clone(),
            path: snapshot.archive_path(),
            blake3: part.archive.blake3.clone(),
            plain: snapshot.plain_digests().map(|plain| plain.archive.clone()),
            is_list: false,
        };
        let archive = archive.copy(self.archive_writer().await?, monitor).await?;
        let list = Content {
            snapshot: snapshot.clone(),
            path: snapshot.archive_path().with_file_name(&part.file_list.file),
            blake3: part.file_list.blake3.clone(),
            plain: snapshot.plain_digests().map(|plain| plain.file_list.clone()),
            is_list: true,
        };
        let list = list.copy(self.list_writer().await?, monitor).await?;
        let part = manifest.parts.first_mut();
        part.archive.file.clone_from(&archive.file);
        (part.archive.stored_bytes, part.archive.blake3) = (archive.bytes, archive.blake3.clone());
        part.file_list.file.clone_from(&list.file);
        (part.file_list.stored_bytes, part.file_list.blake3) = (list.bytes, list.blake3.clone());
        Ok((archive, list, manifest))
    }

    async fn copy_object(
        &self,
        object: &Object<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Stored, RepositoryError> {
        let (store, key) = (self.store(), self.object_key(object.file)?);
        let stored = || Stored {
            file: object.file.to_owned(),
            bytes: object.bytes,
            blake3: object.blake3.to_owned(),
            plain_blake3: None,
        };
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

/// What a stored file of a snapshot holds.
struct Content {
    snapshot: Snapshot,
    path: PathBuf,
    /// The digest of the file as it is stored.
    blake3: String,
    /// The digest of what it decrypts to; `None` if it is not encrypted.
    plain: Option<String>,
    is_list: bool,
}

impl Content {
    /// Hands all of it to a writer.
    async fn copy(
        self,
        mut writer: SnapshotObjectWriter,
        monitor: &dyn Monitor,
    ) -> Result<Stored, RepositoryError> {
        let (feed, mut pieces) = mpsc::channel(PIECES);
        let reading = tokio::task::spawn_blocking(move || self.read(&feed));
        let (mut bytes, mut told) = (0, 0);
        while let Some(piece) = pieces.recv().await {
            let piece: Bytes = piece;
            bytes += piece.len() as u64;
            writer.write(piece).await?;
            if bytes - told >= PROGRESS_STEP {
                told = bytes;
                monitor.event(Event::Progress { bytes, files: 0 });
            }
        }
        let read = reading.await.unwrap_or_else(|error| {
            Err(RepositoryError::io("read", "a snapshot")(std::io::Error::other(error)))
        });
        match read {
            Ok(()) => writer.finish().await,
            Err(error) => {
                // What is left of it goes with the run.
                let _ = writer.abort().await;
                Err(error)
            }
        }
    }

    /// Reads all of it, decrypted, and proves that it is what was stored. Blocks.
    fn read(&self, feed: &mpsc::Sender<Bytes>) -> Result<(), RepositoryError> {
        let stored = match self.is_list {
            true => self.snapshot.open_file_list()?,
            false => self.snapshot.open_archive()?,
        };
        let hasher = Arc::new(Mutex::new(blake3::Hasher::new()));
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                let why = format!("it cannot be decrypted: {error}");
                RepositoryError::Unreadable { path: self.path.clone(), why }
            }
            _ => RepositoryError::io("read", self.path.clone())(error),
        };
        let mut content = self.snapshot.decrypted(Digesting { stored, hasher: Arc::clone(&hasher) })?;
        let mut plain = blake3::Hasher::new();
        loop {
            let mut piece = vec![0; PIECE];
            let count = content.read(&mut piece).map_err(failed)?;
            if count == 0 {
                break;
            }
            piece.truncate(count);
            plain.update(&piece);
            if feed.blocking_send(piece.into()).is_err() {
                // Whoever copies has failed, and says why.
                return Ok(());
            }
        }
        let digest = hasher.lock().unwrap_or_else(PoisonError::into_inner).finalize();
        if digest.to_hex().as_str() != self.blake3 {
            let why = "its bytes are not those that its manifest tells of: it is damaged".to_owned();
            return Err(RepositoryError::Unreadable { path: self.path.clone(), why });
        }
        if self.plain.as_deref().is_some_and(|sealed| plain.finalize().to_hex().as_str() != sealed) {
            let why = "what it decrypts to does not have the digest that was sealed".to_owned();
            return Err(RepositoryError::Unreadable { path: self.path.clone(), why });
        }
        Ok(())
    }
}

/// Digests what is read through it.
struct Digesting {
    stored: ObjectReader,
    hasher: Arc<Mutex<blake3::Hasher>>,
}

impl Read for Digesting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stored.read(buffer)?;
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner).update(&buffer[..count]);
        Ok(count)
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
