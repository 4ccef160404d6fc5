//! The making of a snapshot, from nothing to published.
//!
//! Archive and file list are durable under their names before the manifest is written, and the
//! manifest makes the snapshot exist. A run that ends anywhere before leaves files that are no
//! snapshot: they are listed as incomplete, and their paths were known before there were any.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::RepositoryError;
use super::layout::{FileKind, FileName, SnapshotNames, partial};
use super::listing::Snapshot;
use super::storage::Storage;
use super::writer::{ObjectWriter, Stored};
use crate::archive::Codec;
use crate::model::ids::SnapshotId;
use crate::model::manifest::Manifest;

/// A snapshot that does not exist yet.
#[derive(Debug)]
pub struct PendingSnapshot {
    storage: Arc<dyn Storage>,
    source: String,
    id: SnapshotId,
    codec: Codec,
    names: SnapshotNames,
    newer: Option<SnapshotId>,
}

impl PendingSnapshot {
    /// Makes sure of the source's folder and that nothing has this id; creates nothing else.
    pub(super) fn begin(
        storage: Arc<dyn Storage>,
        source: &str,
        id: &SnapshotId,
        codec: Codec,
    ) -> Result<Self, RepositoryError> {
        let names = SnapshotNames::new(source, id);
        let folder = names.folder();
        let path = storage.locate(&folder);
        storage.make_folder(&folder).map_err(RepositoryError::io("make directory", &path))?;
        let entries = storage.list(&folder).map_err(RepositoryError::io("list", &path))?;
        let mut newer = None;
        for entry in &entries {
            let Some(name) = FileName::parse(&entry.name).filter(|name| name.source == source) else {
                continue;
            };
            if name.id == *id {
                let path = path.join(&entry.name);
                return Err(RepositoryError::Exists { id: id.clone(), path });
            }
            if name.kind == FileKind::Manifest && !name.partial && name.id > *id {
                newer = newer.max(Some(name.id));
            }
        }
        Ok(Self { storage, source: source.to_owned(), id: id.clone(), codec, names, newer })
    }

    /// Returns what [`begin`](Self::begin) would for an id that is taken.
    #[cfg(test)]
    pub(super) fn unchecked(storage: Arc<dyn Storage>, source: &str, id: &SnapshotId, codec: Codec) -> Self {
        let names = SnapshotNames::new(source, id);
        Self { storage, source: source.to_owned(), id: id.clone(), codec, names, newer: None }
    }

    /// Returns the id of a snapshot of this source that was made before and yet has a later id: a
    /// clock was or is wrong, and `latest` will go on meaning that one.
    #[must_use]
    pub fn newer(&self) -> Option<&SnapshotId> {
        self.newer.as_ref()
    }

    /// Returns every path that may come into being, in the order in which they must be deleted: the
    /// manifest before what it needs, and each partial name before the whole one, which a writer
    /// that is still at work may be about to turn it into.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.all_names().iter().map(|name| self.storage.locate(name)).collect()
    }

    /// Returns where the manifest will lie: with it the snapshot exists.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.storage.locate(&self.object(&self.names.manifest()))
    }

    /// Begins the archive.
    ///
    /// # Errors
    /// When it is there already or cannot be created.
    pub fn archive_writer(&self) -> Result<ObjectWriter, RepositoryError> {
        ObjectWriter::create(&*self.storage, &self.names.folder(), &self.names.archive(self.codec))
    }

    /// Begins the file list.
    ///
    /// # Errors
    /// When it is there already or cannot be created.
    pub fn list_writer(&self) -> Result<ObjectWriter, RepositoryError> {
        ObjectWriter::create(&*self.storage, &self.names.folder(), &self.names.file_list())
    }

    /// Writes the manifest, from which moment the snapshot exists. What the writers returned proves
    /// that archive and list are durable; the manifest must say the same of them. Blocks.
    ///
    /// # Errors
    /// When the archive is empty, the manifest is not about these files, or cannot be stored. Then
    /// there is no snapshot, and [`discard`](Self::discard) removes what there is.
    pub fn publish(
        &self,
        manifest: Manifest,
        archive: &Stored,
        list: &Stored,
    ) -> Result<Snapshot, RepositoryError> {
        let unpublishable = |why: String| RepositoryError::Unpublishable { id: self.id.clone(), why };
        if let Some(why) = self.mismatch(&manifest, archive, list) {
            return Err(unpublishable(why.to_owned()));
        }
        let json = manifest.to_json().map_err(|error| unpublishable(format!("its manifest: {error}")))?;
        let name = self.names.manifest();
        let path = self.storage.locate(&self.object(&name));
        self.storage
            .put_new(&self.object(&name), json.as_bytes())
            .map_err(|source| RepositoryError::write(&path, 0, source))?;
        Ok(Snapshot::published(manifest, Arc::clone(&self.storage), self.names.folder()))
    }

    /// Removes everything of it, whatever there is; abort the writers first. Blocks.
    ///
    /// # Errors
    /// The first of the failures; what can be removed is removed all the same.
    pub fn discard(&self) -> Result<(), RepositoryError> {
        let mut outcome = Ok(());
        for name in self.all_names() {
            match self.storage.delete(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let path = self.storage.locate(&name);
                    outcome = outcome.and(Err(RepositoryError::io("remove", path)(error)));
                }
                _ => {}
            }
        }
        outcome
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

    /// Returns the names of all objects, in the order of their deletion.
    fn all_names(&self) -> Vec<String> {
        [self.names.manifest(), self.names.archive(self.codec), self.names.file_list()]
            .iter()
            .flat_map(|name| [self.object(&partial(name)), self.object(name)])
            .collect()
    }

    fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.names.folder())
    }
}
