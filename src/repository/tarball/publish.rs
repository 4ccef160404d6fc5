//! Makes a snapshot, from nothing to published.
//!
//! Archive and file list are durable under their names before the manifest is written, and the manifest makes the
//! snapshot exist. A run that ends earlier leaves files that are no snapshot: they are listed as incomplete, and their
//! paths were known before the files existed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::layout::{FileKind, FileName, MarkKind, SnapshotNames};
use super::writer::{SnapshotObjectWriter, Stored};
use crate::archive::Codec;
use crate::crypt::{Recipients, Sealer};
use crate::model::ids::SnapshotId;
use crate::model::manifest::Manifest;
use crate::repository::marks::{exists, has_mark};
use crate::repository::sealing::seal;
use crate::repository::{RepositoryError, Snapshot, SnapshotObjects};
use crate::store::spool::Spool;
use crate::store::{Key, Store, shield};

/// A snapshot that does not exist yet.
#[derive(Debug)]
pub struct PendingSnapshot {
    store: Arc<dyn Store>,
    source: String,
    id: SnapshotId,
    codec: Codec,
    names: SnapshotNames,
    keys: Keys,
    /// Whom what is written is encrypted to.
    recipients: Option<Recipients>,
    newer: Option<SnapshotId>,
    spool: Option<Spool>,
    published: Arc<AtomicBool>,
}

/// The keys of its objects.
#[derive(Debug)]
struct Keys {
    folder: Key,
    manifest: Key,
    archive: Key,
    list: Key,
}

impl PendingSnapshot {
    /// Makes sure that nothing uses this id; creates nothing.
    pub(in crate::repository) async fn begin(
        store: Arc<dyn Store>,
        (source, id): (&str, &SnapshotId),
        codec: Codec,
        recipients: Option<Recipients>,
    ) -> Result<Self, RepositoryError> {
        let mut pending = Self::unchecked(store, (source, id), codec, recipients.is_some())?;
        pending.recipients = recipients;
        let folder = &pending.keys.folder;
        let found = pending.store.list(folder).await;
        let address = pending.store.address();
        let found = found.map_err(RepositoryError::io("list", address.locate(folder)))?;
        pending.refuse_marked().await?;
        for object in &found {
            let Some(name) = FileName::parse(object.key.name()).filter(|name| name.source == source) else {
                continue;
            };
            if name.id == *id {
                return Err(RepositoryError::Exists { id: id.clone(), path: address.locate(&object.key) });
            }
            if name.kind == FileKind::Manifest && !name.partial && name.id > *id {
                pending.newer = pending.newer.max(Some(name.id));
            }
        }
        Ok(pending)
    }

    /// Returns what [`begin`](Self::begin) would return, for an id that is taken. Its files are called as those of one that
    /// `is_encrypted`, and are written as they come.
    pub(in crate::repository) fn unchecked(
        store: Arc<dyn Store>,
        (source, id): (&str, &SnapshotId),
        codec: Codec,
        is_encrypted: bool,
    ) -> Result<Self, RepositoryError> {
        let names = SnapshotNames::new(source, id).encrypted(is_encrypted);
        let keys = || {
            let folder = names.folder()?;
            let [manifest, archive, list] =
                [names.manifest(), names.archive(codec), names.file_list()].map(|name| folder.join(&name));
            Ok(Keys { manifest: manifest?, archive: archive?, list: list?, folder })
        };
        let keys = keys()
            .map_err(|_: crate::store::KeyError| RepositoryError::SourceKey { key: source.to_owned() })?;
        let (source, id) = (source.to_owned(), id.clone());
        Ok(Self {
            store,
            source,
            id,
            codec,
            names,
            keys,
            recipients: None,
            newer: None,
            spool: None,
            published: Arc::default(),
        })
    }

    /// Holds written bytes in a spool until their writer has finished, unless the store is local: for a run that holds
    /// a service while it writes, and must not hold it for a network.
    #[must_use]
    pub fn spooled(mut self, spool: Spool) -> Self {
        self.spool = Some(spool);
        self
    }

    /// Encrypts to these what is written, whatever the repository says: whoever has been told whom to trust does not ask it.
    ///
    /// # Errors
    /// When the source's key does not fit a file name.
    pub fn encrypted_to(self, recipients: Option<&Recipients>) -> Result<Self, RepositoryError> {
        let named = Self::unchecked(
            Arc::clone(&self.store),
            (&self.source, &self.id),
            self.codec,
            recipients.is_some(),
        )?;
        let (names, keys) = (named.names, named.keys);
        Ok(Self { names, keys, recipients: recipients.cloned(), ..self })
    }

    /// Returns the id of a snapshot of this source that was made earlier and yet has a later id: a clock was or is
    /// wrong, and `latest` will go on meaning that snapshot.
    #[must_use]
    pub fn newer(&self) -> Option<&SnapshotId> {
        self.newer.as_ref()
    }

    /// Refuses an id that is marked for deletion: what is left of its snapshot is still to be deleted.
    pub(in crate::repository) async fn refuse_marked(&self) -> Result<(), RepositoryError> {
        if has_mark(&self.store, &self.source, &self.id, MarkKind::Deletion).await? {
            return Err(RepositoryError::Marked { name: format!("{}/{}", self.source, self.id) });
        }
        Ok(())
    }

    /// Returns its store.
    pub(in crate::repository) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the folder of its source.
    pub(in crate::repository) fn folder(&self) -> &Key {
        &self.keys.folder
    }

    /// Returns the key of its archive.
    pub(in crate::repository) fn archive_key(&self) -> &Key {
        &self.keys.archive
    }

    /// Returns the key of its file list.
    pub(in crate::repository) fn list_key(&self) -> &Key {
        &self.keys.list
    }

    /// Returns its source.
    pub(in crate::repository) fn source(&self) -> &str {
        &self.source
    }

    /// Returns its id.
    pub(in crate::repository) fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// Returns every object that may come into being: they are known before any exists.
    #[must_use]
    pub fn objects(&self) -> SnapshotObjects {
        let Keys { manifest, archive, list, .. } = &self.keys;
        SnapshotObjects {
            store: self.store.address().clone(),
            manifest_key: manifest.clone(),
            keys: vec![manifest.clone(), archive.clone(), list.clone()],
        }
    }

    /// Returns whether it is published. That may become true after its caller stopped waiting for it.
    #[must_use]
    pub fn published(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.published)
    }

    /// Begins the archive.
    ///
    /// # Errors
    /// When it already exists or cannot be created.
    pub async fn archive_writer(&self) -> Result<SnapshotObjectWriter, RepositoryError> {
        self.writer(&self.keys.archive).await
    }

    /// Begins the file list.
    ///
    /// # Errors
    /// When it already exists or cannot be created.
    pub async fn list_writer(&self) -> Result<SnapshotObjectWriter, RepositoryError> {
        self.writer(&self.keys.list).await
    }

    /// Begins an object of its own, of bytes that are stored as they come.
    pub(in crate::repository) async fn object_writer(
        &self,
        key: &Key,
    ) -> Result<SnapshotObjectWriter, RepositoryError> {
        self.begin_object(key, None).await
    }

    async fn writer(&self, key: &Key) -> Result<SnapshotObjectWriter, RepositoryError> {
        let sealer = self.recipients.as_ref().map(Sealer::to).transpose();
        let sealer =
            sealer.map_err(|source| RepositoryError::NotEncrypted { id: self.id.clone(), source })?;
        self.begin_object(key, sealer).await
    }

    async fn begin_object(
        &self,
        key: &Key,
        sealer: Option<Sealer>,
    ) -> Result<SnapshotObjectWriter, RepositoryError> {
        let begun = match &self.spool {
            Some(spool) => spool.create(&self.store, key).await,
            None => self.store.create(key).await,
        };
        let address = self.store.address();
        let writer = begun.map_err(|source| RepositoryError::write(&address.locate(key), 0, source))?;
        SnapshotObjectWriter::begin(writer, address, key, sealer)
    }

    /// Writes the manifest; from that moment the snapshot exists. What the writers returned proves that archive and
    /// list are durable; the manifest must say the same of them.
    ///
    /// Once this has begun, it ends even if nobody waits for it any more: see [`shield`]. Whoever removes the rest of
    /// the snapshot waits until then.
    ///
    /// # Errors
    /// When the archive is empty, or the manifest is not about these files or cannot be stored. Then there is no
    /// snapshot, and [`discard`](Self::discard) removes what exists.
    pub async fn publish(
        &self,
        manifest: Manifest,
        archive: &Stored,
        list: &Stored,
    ) -> Result<Snapshot, RepositoryError> {
        let unpublishable = |why: String| RepositoryError::Unpublishable { id: self.id.clone(), why };
        if let Some(why) = self.mismatch(&manifest, archive, list) {
            return Err(unpublishable(why.to_owned()));
        }
        let stored = match &self.recipients {
            Some(recipients) => seal(&manifest, recipients, (archive, list))
                .map_err(|source| RepositoryError::NotEncrypted { id: self.id.clone(), source })?,
            None => manifest.clone(),
        };
        let json = stored.to_json().map_err(|error| unpublishable(format!("its manifest: {error}")))?;
        self.refuse_lost_needs(&manifest).await?;
        for (key, stored) in [(&self.keys.archive, archive), (&self.keys.list, list)] {
            if !self.is_as_written(key, stored).await? {
                let file = key.name();
                return Err(unpublishable(format!(
                    "{file} is no longer what was written: another run was at it"
                )));
            }
        }
        let (store, key, published) = (&self.store, &self.keys.manifest, self.published());
        let exists = move || published.store(true, Ordering::Release);
        shield::put(Arc::clone(store), key.clone(), json.into(), exists)
            .await
            .map_err(|source| RepositoryError::write(&store.address().locate(key), 0, source))?;
        // Whoever deletes may have begun between the look and the write; he has not seen this one then.
        if let Err(error) = self.refuse_lost_needs(&manifest).await {
            let withdrawn = store.delete(key).await;
            withdrawn.map_err(RepositoryError::io("withdraw", store.address().locate(key)))?;
            self.published.store(false, Ordering::Release);
            return Err(error);
        }
        // Whoever has made it knows all of it.
        let manifest = Manifest { sealed: stored.sealed, ..manifest };
        Ok(Snapshot::published(manifest, Arc::clone(store), self.keys.folder.clone()))
    }

    /// Returns whether an object still has the length that was written. On a disk of this machine others are kept out.
    async fn is_as_written(&self, key: &Key, stored: &Stored) -> Result<bool, RepositoryError> {
        if self.store.capabilities().is_local {
            return Ok(true);
        }
        match self.store.head(key).await {
            Ok(found) => Ok(found.bytes == stored.bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(RepositoryError::io("look at", self.store.address().locate(key))(error)),
        }
    }

    /// Refuses a snapshot that needs one which is gone or marked for deletion. It asks for each by its name: a listing may
    /// be stale.
    async fn refuse_lost_needs(&self, manifest: &Manifest) -> Result<(), RepositoryError> {
        for needed in &manifest.needs {
            let names = SnapshotNames::new(&self.source, needed);
            let key = self.keys.folder.join(&names.manifest());
            let key = key.map_err(|_| RepositoryError::SourceKey { key: self.source.clone() })?;
            if !exists(&self.store, &key).await?
                || has_mark(&self.store, &self.source, needed, MarkKind::Deletion).await?
            {
                return Err(RepositoryError::NeedGone { id: self.id.clone(), needed: needed.clone() });
            }
        }
        Ok(())
    }

    /// Removes everything of it that exists; abort the writers first.
    ///
    /// # Errors
    /// The first failure; everything that can be removed is removed all the same.
    pub async fn discard(&self) -> Result<(), RepositoryError> {
        self.objects().discard_from(&*self.store).await
    }

    /// Returns why the manifest must not be published.
    fn mismatch(&self, manifest: &Manifest, archive: &Stored, list: &Stored) -> Option<&'static str> {
        let (said, listed) = (manifest.archive(), manifest.file_list());
        if archive.bytes == 0 || said.tar_bytes == 0 || manifest.counts().members == 0 {
            return Some("its archive is empty");
        }
        if (&manifest.id, &manifest.source) != (&self.id, &self.source) {
            return Some("its manifest is about another snapshot");
        }
        if said.codec != self.codec
            || said.file != self.names.archive(self.codec)
            || (&said.file, said.stored_bytes, &said.blake3)
                != (&archive.file, archive.bytes, &archive.blake3)
        {
            return Some("its manifest is not about the archive that was written");
        }
        if listed.file != self.names.file_list()
            || (&listed.file, listed.stored_bytes, &listed.blake3) != (&list.file, list.bytes, &list.blake3)
        {
            return Some("its manifest is not about the file list that was written");
        }
        None
    }
}
