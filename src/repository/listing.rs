//! What a repository holds: snapshots, what is incomplete, and what cannot be trusted.
//!
//! A snapshot is listed only if its manifest is whole and is about the files beside it, and if those files have their
//! full length. Everything else is reported, each with its reason, and hides nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;

use super::contents::{Reading, SourceReader, at_once};
use super::error::RepositoryError;
use super::index::{Index, Line};
use super::look;
use super::marks::{Deletion, Marks, Pin, has_mark};
use super::running::{Announced, RunMarker};
use super::sealing::Opened;
use super::tarball::layout::{
    FileKind, FileName, MARKER, MarkKind, SNAPSHOTS, SnapshotNames, is_source_key, source_folder,
};
use crate::model::ids::SnapshotId;
use crate::model::manifest::{Manifest, Verification};
use crate::model::plural::{counted, grouped};
use crate::store::local::LocalStore;
use crate::store::{Key, ObjectKind, ObjectMeta, ObjectReader, Store, StoreAddress, TRIAL};

/// How many sources are listed at a time.
const SOURCES_AT_ONCE: usize = 32;
/// Larger than any manifest; a longer file is none.
const MANIFEST_MAX: u64 = 16 << 20;

/// What a repository holds.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Snapshots, by id: the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What a run is writing, or what a dead run left.
    pub incomplete: Vec<Incomplete>,
    /// What exists but cannot be trusted.
    pub unreadable: Vec<Unreadable>,
    /// What is said of the snapshots; it was read before them.
    pub marks: Marks,
}

/// A published snapshot and where it lies.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it is.
    pub manifest: Manifest,
    /// When and how it was read back, oldest first.
    pub verified: Vec<Verification>,
    /// Whether it is to be deleted.
    pub deletion: Option<Deletion>,
    /// Whether it must stay.
    pub pin: Option<Pin>,
    /// What has opened it, if it is encrypted.
    pub(super) opened: Option<Opened>,
    store: Arc<dyn Store>,
    folder: Key,
}

/// A file of a snapshot that does not exist: it has no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// The source's key.
    pub source: String,
    /// The id that it was meant to have.
    pub id: SnapshotId,
    /// The file.
    pub path: PathBuf,
    /// What it is, in words.
    pub what: &'static str,
    /// Its length.
    pub bytes: u64,
    /// When it was last written to: a moment ago if a run is still writing it.
    pub modified: SystemTime,
}

/// Something that cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file or directory.
    pub path: PathBuf,
    /// Why, in a sentence.
    pub why: String,
    /// The source and id of the snapshot that is lost with it, if any.
    pub snapshot: Option<(String, SnapshotId)>,
    /// The snapshots without which that one cannot be restored, if its manifest says so.
    pub needs: Vec<SnapshotId>,
    /// The source of which it may say that something must stay: nobody may delete anything of it before it can be read.
    pub obstructs: Option<String>,
}

impl Snapshot {
    /// Returns a snapshot whose manifest has just been written.
    pub(super) fn published(manifest: Manifest, store: Arc<dyn Store>, folder: Key) -> Self {
        Self { manifest, verified: Vec::new(), deletion: None, pin: None, opened: None, store, folder }
    }

    /// Returns the snapshot whose archive, file list or manifest is `path`, wherever that lies; the other files lie
    /// beside it.
    ///
    /// # Errors
    /// When no such file exists, its name is not one of a snapshot's, or the snapshot cannot be trusted.
    pub async fn from_file(path: &Path) -> Result<Self, RepositoryError> {
        let path = path.canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                RepositoryError::Unknown { spec: path.display().to_string(), nearest: Vec::new() }
            }
            _ => RepositoryError::io("open", path)(error),
        })?;
        let unreadable = |why: &str| RepositoryError::Unreadable { path: path.clone(), why: why.to_owned() };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let file = FileName::parse(name).ok_or_else(|| {
            unreadable("its name is not that of a snapshot's file, as SOURCE-20261120T203011Z-4f2a91.json")
        })?;
        if file.partial {
            return Err(unreadable("it is incomplete: the run that wrote it did not finish"));
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let (store, folder) = store_of(directory, file.source);
        let found = store.list(&folder).await.map_err(RepositoryError::io("list", directory))?;
        let files = SnapshotFiles::collect(&found, file.source, &file.id);
        if files.manifest.is_none() {
            return Err(unreadable("there is no manifest beside it"));
        }
        let (requests, collected) = (None, None);
        let reader = SnapshotReader {
            store: &store,
            folder: &folder,
            source: file.source,
            id: &file.id,
            requests,
            collected,
            is_encrypted: !folder.is_root() && is_encrypted(&store).await?,
        };
        let mut snapshot =
            reader.read(&files, Known::default(), &mut Vec::new()).await.map_err(|refused| refused.error)?;
        if snapshot.is_in_repository() {
            snapshot.take_marks(&Marks::read(&store, Some(file.source)).await?);
        }
        Ok(snapshot)
    }

    /// Returns whether it lies where a repository has it, not alone somewhere.
    fn is_in_repository(&self) -> bool {
        !self.folder.is_root()
    }

    fn take_marks(&mut self, marks: &Marks) {
        let of = (self.manifest.source.clone(), self.manifest.id.clone());
        self.deletion = marks.deletions.get(&of).cloned();
        self.pin = marks.pins.get(&of).cloned();
    }

    /// Says that a run reads it, and may write others, for as long as what this returns exists. Afterwards nobody deletes
    /// it. `None` if it lies alone somewhere, where nobody deletes anything, or where nothing can be written.
    ///
    /// # Errors
    /// When it is gone, or marked for deletion; when nobody can tell.
    pub async fn announce(
        &self,
        run: &SnapshotId,
        verb: &str,
        writes: Vec<String>,
    ) -> Result<Option<Announced>, RepositoryError> {
        if !self.is_in_repository() {
            return Ok(None);
        }
        let marker = RunMarker::new(run, verb, vec![self.name()], writes);
        let marker = if self.manifest.is_encrypted() { marker.without_host() } else { marker };
        let announced = match Announced::begin(&self.store, &marker).await {
            Ok(announced) => Some(announced),
            Err(error) => {
                // It can be read all the same, and its time of grace protects it for a while.
                tracing::info!(%error, "the repository is not told that {} is read", self.name());
                None
            }
        };
        match self.refuse_marked().await {
            Ok(()) => Ok(announced),
            Err(error) => {
                if let Some(announced) = announced {
                    announced.release().await;
                }
                Err(error)
            }
        }
    }

    /// Refuses it if it is gone, or marked for deletion, by now.
    ///
    /// # Errors
    /// When it is, or nobody can tell.
    pub async fn refuse_marked(&self) -> Result<(), RepositoryError> {
        let Manifest { source, id, .. } = &self.manifest;
        if has_mark(&self.store, source, id, MarkKind::Deletion).await? {
            return Err(RepositoryError::Marked { name: self.name() });
        }
        let manifest = self.names().manifest();
        let found = async { self.store.head(&self.folder.join(&manifest)?).await };
        found.await.map(drop).map_err(RepositoryError::io("look at", self.locate(&manifest)))
    }

    /// Returns the object that holds its archive.
    pub(super) fn archive_object(&self) -> (&Arc<dyn Store>, Result<Key, RepositoryError>) {
        (&self.store, self.key_of(&self.manifest.archive().file))
    }

    /// Returns the object that holds its file list.
    pub(super) fn list_object(&self) -> (&Arc<dyn Store>, Result<Key, RepositoryError>) {
        (&self.store, self.key_of(&self.manifest.file_list().file))
    }

    fn key_of(&self, file: &str) -> Result<Key, RepositoryError> {
        let key = self.folder.join(file);
        key.map_err(|_| RepositoryError::SourceKey { key: self.manifest.source.clone() })
    }

    /// Returns its unambiguous name: `SOURCE/ID`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.manifest.source, self.manifest.id)
    }

    /// Returns where its store is.
    #[must_use]
    pub fn store_address(&self) -> &StoreAddress {
        self.store.address()
    }

    /// Returns where the archive lies, for messages.
    #[must_use]
    pub fn archive_path(&self) -> PathBuf {
        self.locate(&self.manifest.archive().file)
    }

    /// Returns where the manifest lies, for messages.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.locate(&self.names().manifest())
    }

    /// Opens the archive for a synchronous reader. Blocks, as the reader does.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_archive(&self) -> Result<ObjectReader, RepositoryError> {
        self.open(&self.manifest.archive().file)
    }

    /// Opens the file list for a synchronous reader. Blocks, as the reader does.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_file_list(&self) -> Result<ObjectReader, RepositoryError> {
        self.open(&self.manifest.file_list().file)
    }

    /// Writes a verification down beside the manifest. Earlier ones are never changed.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn record_verification(&mut self, verification: Verification) -> Result<(), RepositoryError> {
        let name = self.names().verification(verification.at);
        let stored = async {
            let json = serde_json::to_vec_pretty(&verification)?;
            self.store.put(&self.folder.join(&name)?, json.into()).await
        };
        stored.await.map_err(|source| RepositoryError::write(&self.locate(&name), 0, source))?;
        self.verified.push(verification);
        self.verified.sort_by_key(|verification| verification.at);
        Ok(())
    }

    fn open(&self, file: &str) -> Result<ObjectReader, RepositoryError> {
        let opened = async { self.store.get(&self.folder.join(file)?, None).await };
        ObjectReader::open(opened).map_err(RepositoryError::io("open", self.locate(file)))
    }

    fn names(&self) -> SnapshotNames {
        SnapshotNames::new(&self.manifest.source, &self.manifest.id)
    }

    fn locate(&self, file: &str) -> PathBuf {
        self.store.address().locate(&self.folder).join(file)
    }
}

impl Listing {
    /// Reads what a store holds; of one source only, if it is named. What is said of the snapshots comes first: whoever
    /// finds that one may be deleted then sees all that might need it. If all of it is encrypted, what is not is none of its
    /// snapshots: anybody who can write there can have made it.
    pub(super) async fn read(
        store: &Arc<dyn Store>,
        source: Option<&str>,
        (reading, is_encrypted): (Reading, bool),
    ) -> Result<Self, RepositoryError> {
        let mut marks = Marks::read(store, source).await?;
        let mut listing = Self { unreadable: std::mem::take(&mut marks.unreadable), ..Self::default() };
        let mut folders = Vec::new();
        match source {
            Some(source) => folders.extend(source_folder(source).ok().filter(|_| is_source_key(source))),
            None => {
                for folder in list(store, &SNAPSHOTS).await? {
                    if folder.key.name().starts_with(TRIAL) {
                        continue;
                    }
                    if folder.kind == ObjectKind::Folder && is_source_key(folder.key.name()) {
                        folders.push(folder.key);
                    } else {
                        let why = "it is not the directory of a source".to_owned();
                        listing.unreadable.push(Unreadable::file(store, &folder.key, why));
                    }
                }
            }
        }
        let requests = Semaphore::new(at_once(store));
        let mut sources = Vec::with_capacity(folders.len());
        for folder in &folders {
            sources.push(SourceReader { store, reading, requests: &requests, is_encrypted }.read(folder));
        }
        let mut sources = stream::iter(sources).buffered(SOURCES_AT_ONCE);
        while let Some(source) = sources.next().await {
            let Self { snapshots, incomplete, unreadable, marks: _ } = source?;
            listing.snapshots.extend(snapshots);
            listing.incomplete.extend(incomplete);
            listing.unreadable.extend(unreadable);
        }
        listing
            .snapshots
            .sort_by(|a, b| (&a.manifest.id, &a.manifest.source).cmp(&(&b.manifest.id, &b.manifest.source)));
        listing.incomplete.sort_by(|a, b| a.path.cmp(&b.path));
        listing.unreadable.sort_by(|a, b| a.path.cmp(&b.path));
        for snapshot in &mut listing.snapshots {
            snapshot.take_marks(&marks);
        }
        listing.marks = marks;
        Ok(listing)
    }

    /// Returns the snapshots of which the manifest is gone and a mark is left, by source and id: somebody has begun to
    /// delete them.
    #[must_use]
    pub fn half_deleted(&self) -> Vec<(&str, &SnapshotId, &Deletion)> {
        let of = |snapshot: &Snapshot| (snapshot.manifest.source.clone(), snapshot.manifest.id.clone());
        let whole = self.snapshots.iter().map(of);
        let there: std::collections::BTreeSet<_> =
            whole.chain(self.unreadable.iter().filter_map(|one| one.snapshot.clone())).collect();
        let deletions = self.marks.deletions.iter().filter(|(of, _)| !there.contains(of));
        deletions.map(|((source, id), deletion)| (source.as_str(), id, deletion)).collect()
    }
}

impl Unreadable {
    /// Returns what is said of a file that belongs to no snapshot.
    pub(super) fn file(store: &Arc<dyn Store>, key: &Key, why: String) -> Self {
        let path = store.address().locate(key);
        Self { path, why, snapshot: None, needs: Vec::new(), obstructs: None }
    }
}

/// The files with one id.
#[derive(Debug, Default)]
pub(super) struct SnapshotFiles<'a> {
    pub(super) manifest: Option<&'a ObjectMeta>,
    /// By file name, so that the manifest finds its own among them.
    contents: BTreeMap<&'a str, &'a ObjectMeta>,
    verifications: Vec<&'a ObjectMeta>,
    partial: Vec<&'a ObjectMeta>,
}

/// What an index knows of them.
#[derive(Debug, Default)]
pub(super) struct Known {
    manifest: Option<Manifest>,
    /// The records of verifications, by file name.
    records: BTreeMap<String, String>,
}

impl<'a> SnapshotFiles<'a> {
    /// Picks the files of one snapshot from a folder's files.
    fn collect(found: &'a [ObjectMeta], source: &str, id: &SnapshotId) -> Self {
        let mut files = Self::default();
        for entry in found {
            if let Some(name) = FileName::parse(entry.key.name())
                && (name.source, &name.id) == (source, id)
            {
                files.add(entry, &name);
            }
        }
        files
    }

    pub(super) fn add(&mut self, entry: &'a ObjectMeta, name: &FileName<'_>) {
        match name.kind {
            _ if name.partial => self.partial.push(entry),
            FileKind::Manifest => self.manifest = Some(entry),
            FileKind::Verification => self.verifications.push(entry),
            FileKind::Archive | FileKind::FileList => {
                self.contents.insert(entry.key.name(), entry);
            }
        }
    }

    /// Takes from an index what it knows of these files.
    pub(super) fn known_to(&self, index: &mut Index) -> Known {
        let known = |meta: &&ObjectMeta| Some((meta.key.name().to_owned(), index.text(meta)?.to_owned()));
        let records = self.verifications.iter().filter_map(known).collect();
        Known { manifest: self.manifest.and_then(|meta| index.take_manifest(meta)), records }
    }
}

/// Why a snapshot is none.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: RepositoryError,
    /// What its manifest says it needs; `None` if that cannot be read.
    needs: Option<Vec<SnapshotId>>,
}

impl From<RepositoryError> for Refused {
    fn from(error: RepositoryError) -> Self {
        Self { error, needs: None }
    }
}

/// Returns the store and the folder of a directory: the repository's, where it is the folder of a source in one.
fn store_of(directory: &Path, source: &str) -> (Arc<dyn Store>, Key) {
    let root = directory.parent().filter(|snapshots| snapshots.ends_with(SNAPSHOTS.as_str()));
    let root = root.and_then(Path::parent).filter(|root| root.join(MARKER.as_str()).is_file());
    match (root, source_folder(source)) {
        (Some(root), Ok(folder)) if directory.ends_with(source) => {
            (Arc::new(LocalStore::at(root.to_owned())), folder)
        }
        _ => (Arc::new(LocalStore::at(directory.to_owned())), Key::ROOT),
    }
}

/// Reads the files with one id in one folder.
#[derive(Clone, Copy)]
pub(super) struct SnapshotReader<'a> {
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) folder: &'a Key,
    pub(super) source: &'a str,
    pub(super) id: &'a SnapshotId,
    /// Who may ask the store; anybody, if there is none.
    pub(super) requests: Option<&'a Semaphore>,
    /// Where what was read is collected for an index.
    pub(super) collected: Option<&'a Mutex<Vec<Line>>>,
    /// Whether all that is there is encrypted.
    pub(super) is_encrypted: bool,
}

impl SnapshotReader<'_> {
    /// Returns the snapshot; adds records of verifications that cannot be read to `unreadable`.
    pub(super) async fn read(
        &self,
        files: &SnapshotFiles<'_>,
        known: Known,
        unreadable: &mut Vec<Unreadable>,
    ) -> Result<Snapshot, Refused> {
        let names = SnapshotNames::new(self.source, self.id);
        let manifest = match known.manifest {
            Some(known) => known,
            None => self.manifest(files, &names).await?,
        };
        if (manifest.source.as_str(), &manifest.id) != (self.source, self.id) {
            let why = format!("it is the manifest of {}/{}", manifest.source, manifest.id);
            return Err(self.refuse(&names.manifest(), why).into());
        }
        if self.is_encrypted && !manifest.is_encrypted() {
            let why = "it is not encrypted, and all that volsnap writes to this repository is: somebody else has put it there";
            let error = self.refuse(&names.manifest(), why.to_owned());
            // Nobody has to keep what a stranger says that it needs.
            return Err(Refused { error, needs: Some(Vec::new()) });
        }
        let names = names.encrypted(manifest.is_encrypted());
        if manifest.archive().file != names.archive(manifest.archive().codec)
            || manifest.file_list().file != names.file_list()
        {
            let why = "it is a manifest of files with other names".to_owned();
            return Err(self.refuse(&names.manifest(), why).into());
        }
        let archive = (&manifest.archive().file, manifest.archive().stored_bytes);
        let list = (&manifest.file_list().file, manifest.file_list().stored_bytes);
        for (file, bytes) in [archive, list] {
            let refused = |error| Refused { error, needs: Some(manifest.needs.clone()) };
            self.check_length(files, file, bytes).map_err(refused)?;
        }
        let verified = self.verifications(files, &known.records, unreadable).await?;
        Ok(Snapshot {
            manifest,
            verified,
            deletion: None,
            pin: None,
            opened: None,
            store: Arc::clone(self.store),
            folder: self.folder.clone(),
        })
    }

    /// Returns the manifest that its object holds.
    async fn manifest(
        &self,
        files: &SnapshotFiles<'_>,
        names: &SnapshotNames,
    ) -> Result<Manifest, RepositoryError> {
        let bytes = self.get(&names.manifest(), files.manifest).await?;
        Manifest::from_json(&bytes).map_err(|error| {
            let why = match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            self.refuse(&names.manifest(), why)
        })
    }

    /// Checks that a file that the manifest names exists and has its full length.
    fn check_length(
        &self,
        files: &SnapshotFiles<'_>,
        file: &str,
        expected: u64,
    ) -> Result<(), RepositoryError> {
        match files.contents.get(file) {
            None => Err(self.refuse(file, "its manifest is there, but this file is missing".to_owned())),
            Some(entry) if entry.kind != ObjectKind::Object => {
                Err(self.refuse(file, "it is not a regular file".to_owned()))
            }
            Some(entry) if entry.bytes != expected => {
                let why = format!(
                    "it has {}, and by its manifest {}",
                    counted(entry.bytes, "byte"),
                    grouped(expected)
                );
                Err(self.refuse(file, why))
            }
            Some(_) => Ok(()),
        }
    }

    async fn verifications(
        &self,
        files: &SnapshotFiles<'_>,
        known: &BTreeMap<String, String>,
        unreadable: &mut Vec<Unreadable>,
    ) -> Result<Vec<Verification>, RepositoryError> {
        let mut verified = Vec::new();
        for entry in &files.verifications {
            let file = entry.key.name();
            let text = match known.get(file) {
                Some(text) => Ok(text.clone().into_bytes()),
                None => self.get(file, Some(entry)).await,
            };
            let read = text.and_then(|bytes| {
                serde_json::from_slice(&bytes)
                    .map_err(|error| self.refuse(file, format!("no record of a verification: {error}")))
            });
            match read {
                Ok(verification) => verified.push(verification),
                Err(error) if error.is_disconnected() => return Err(error),
                // The snapshot is as good without the record; but it may be the one that proves it, or condemns it.
                Err(error) => unreadable.push(Unreadable {
                    snapshot: None,
                    obstructs: Some(self.source.to_owned()),
                    ..self.unreadable(files, error)
                }),
            }
        }
        verified.sort_by_key(|verification: &Verification| verification.at);
        Ok(verified)
    }

    /// Returns what exists without a manifest, or only in part.
    pub(super) fn incomplete(&self, files: &SnapshotFiles<'_>) -> Vec<Incomplete> {
        let orphans = files.contents.values().chain(&files.verifications);
        let orphans = orphans.filter(|_| files.manifest.is_none()).map(|entry| (entry, "has no manifest"));
        let partial = files.partial.iter().map(|entry| (entry, "only partly written"));
        let incomplete = |(entry, what): (&&ObjectMeta, _)| Incomplete {
            source: self.source.to_owned(),
            id: self.id.clone(),
            path: self.store.address().locate(&entry.key),
            what,
            bytes: entry.bytes,
            modified: entry.modified,
        };
        partial.chain(orphans).map(incomplete).collect()
    }

    /// Reads a file, of which a list said `meta`.
    async fn get(&self, file: &str, meta: Option<&ObjectMeta>) -> Result<Vec<u8>, RepositoryError> {
        let read = async {
            let _may = match self.requests {
                Some(requests) => requests.acquire().await.ok(),
                None => None,
            };
            self.store.read(&self.folder.join(file)?, MANIFEST_MAX).await
        };
        let bytes = read.await.map_err(RepositoryError::io("read", self.locate(file)))?;
        if let Some((collected, meta)) = self.collected.zip(meta) {
            let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
            collected.extend(Line::new(meta, &bytes));
        }
        Ok(bytes)
    }

    fn refuse(&self, file: &str, why: String) -> RepositoryError {
        RepositoryError::Unreadable { path: self.locate(file), why }
    }

    fn locate(&self, file: &str) -> PathBuf {
        self.store.address().locate(self.folder).join(file)
    }

    /// Returns the entry of a listing for a snapshot that is none. One that may need any other is in the way of those who
    /// delete.
    pub(super) fn unreadable_snapshot(&self, files: &SnapshotFiles<'_>, refused: Refused) -> Unreadable {
        let obstructs = refused.needs.is_none().then(|| self.source.to_owned());
        let needs = refused.needs.unwrap_or_default();
        Unreadable { needs, obstructs, ..self.unreadable(files, refused.error) }
    }

    /// Returns the entry of a listing for an error.
    fn unreadable(&self, files: &SnapshotFiles<'_>, error: RepositoryError) -> Unreadable {
        let (path, why) = match error {
            RepositoryError::Unreadable { path, why } => (path, why),
            RepositoryError::Io { path, source, .. } => (path, format!("it cannot be read: {source}")),
            other => {
                let file = files.manifest.map_or("", |entry| entry.key.name());
                (self.locate(file), other.to_string())
            }
        };
        let snapshot = Some((self.source.to_owned(), self.id.clone()));
        Unreadable { path, why, snapshot, needs: Vec::new(), obstructs: None }
    }
}

/// Returns whether all that is in a repository is encrypted.
async fn is_encrypted(store: &Arc<dyn Store>) -> Result<bool, RepositoryError> {
    let repository = look(store, store.address()).await?;
    Ok(repository.is_some_and(|repository| repository.recipients().is_some()))
}

/// Returns what an entry's name says, or why it does not belong in the folder of that source.
pub(super) fn believable<'a>(entry: &'a ObjectMeta, source: &str) -> Result<FileName<'a>, String> {
    let Some(name) = FileName::parse(entry.key.name()) else {
        return Err("it is not a file of volsnap's".to_owned());
    };
    if name.source == source {
        Ok(name)
    } else {
        Err(format!("it belongs to another source, {}", name.source))
    }
}

/// Returns what lies in a folder; nothing if the folder does not exist.
pub(super) async fn list(store: &Arc<dyn Store>, folder: &Key) -> Result<Vec<ObjectMeta>, RepositoryError> {
    store.list(folder).await.map_err(RepositoryError::io("list", store.address().locate(folder)))
}
