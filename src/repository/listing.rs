//! What is in a repository: snapshots, what is incomplete, and what cannot be believed.
//!
//! A snapshot is listed only when its manifest is whole, is about the files it lies beside, and those
//! are there in full length. Whatever else is found is said, each with its reason, and hides nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::RepositoryError;
use super::layout::{FileKind, FileName, SNAPSHOTS, SnapshotNames, is_source_key, source_folder};
use super::storage::{Directory, Entry, EntryKind, ObjectReader, Storage};
use crate::model::ids::SnapshotId;
use crate::model::manifest::{Manifest, Verification};

/// More than any manifest has; a longer file is none.
const MANIFEST_MAX: u64 = 16 << 20;

/// What is in a repository.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Snapshots, by id, so the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What a run is writing, or a dead one left.
    pub incomplete: Vec<Incomplete>,
    /// What is there but cannot be believed.
    pub unreadable: Vec<Unreadable>,
}

/// A published snapshot and where it lies.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it is.
    pub manifest: Manifest,
    /// When and how it was read back, the oldest first.
    pub verified: Vec<Verification>,
    storage: Arc<dyn Storage>,
    folder: String,
}

/// A file of a snapshot that does not exist: it has no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// The source's key.
    pub source: String,
    /// The id it was to have.
    pub id: SnapshotId,
    /// The file.
    pub path: PathBuf,
    /// What it is, in words.
    pub what: &'static str,
    /// Its length.
    pub bytes: u64,
    /// When it was last written to; a moment ago when a run is still at it.
    pub modified: SystemTime,
}

/// Something that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file or directory.
    pub path: PathBuf,
    /// Why, in a sentence.
    pub why: String,
    /// The source and id of the snapshot that is lost with it, if one is.
    pub snapshot: Option<(String, SnapshotId)>,
}

impl Snapshot {
    /// Returns a snapshot whose manifest has just been written.
    pub(super) fn published(manifest: Manifest, storage: Arc<dyn Storage>, folder: String) -> Self {
        Self { manifest, verified: Vec::new(), storage, folder }
    }

    /// Returns the snapshot of which `path` is the archive, the file list or the manifest, wherever
    /// that lies; the other files lie beside it.
    ///
    /// # Errors
    /// When there is no such file, its name is not one of a snapshot's, or the snapshot cannot be believed.
    pub fn from_file(path: &Path) -> Result<Self, RepositoryError> {
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
        let folder = path.parent().unwrap_or(Path::new("/"));
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(folder.to_owned()));
        let entries = storage.list("").map_err(RepositoryError::io("list", folder))?;
        let files = SnapshotFiles::collect(&entries, file.source, &file.id);
        if files.manifest.is_none() {
            return Err(unreadable("there is no manifest beside it"));
        }
        let reader = SnapshotReader { storage: &storage, folder: "", source: file.source, id: &file.id };
        reader.read(&files, &mut Vec::new())
    }

    /// Returns what names it without doubt: `SOURCE/ID`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.manifest.source, self.manifest.id)
    }

    /// Returns where the archive lies.
    #[must_use]
    pub fn archive_path(&self) -> PathBuf {
        self.storage.locate(&self.object(&self.manifest.archive().file))
    }

    /// Returns where the manifest lies.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.storage.locate(&self.object(&self.names().manifest()))
    }

    /// Opens the archive.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_archive(&self) -> Result<Box<dyn ObjectReader>, RepositoryError> {
        self.open(&self.manifest.archive().file)
    }

    /// Opens the file list.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_file_list(&self) -> Result<Box<dyn ObjectReader>, RepositoryError> {
        self.open(&self.manifest.file_list().file)
    }

    /// Writes down a verification beside the manifest. Those that are there are never changed.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn record_verification(&mut self, verification: Verification) -> Result<(), RepositoryError> {
        let name = self.object(&self.names().verification(verification.at));
        let path = self.storage.locate(&name);
        serde_json::to_vec_pretty(&verification)
            .map_err(io::Error::from)
            .and_then(|json| self.storage.put_new(&name, &json))
            .map_err(|source| RepositoryError::write(&path, 0, source))?;
        self.verified.push(verification);
        self.verified.sort_by_key(|verification| verification.at);
        Ok(())
    }

    fn open(&self, file: &str) -> Result<Box<dyn ObjectReader>, RepositoryError> {
        let name = self.object(file);
        self.storage.open(&name).map_err(RepositoryError::io("open", self.storage.locate(&name)))
    }

    fn names(&self) -> SnapshotNames {
        SnapshotNames::new(&self.manifest.source, &self.manifest.id)
    }

    fn object(&self, file: &str) -> String {
        object(&self.folder, file)
    }
}

impl Listing {
    /// Reads what is in a storage; of one source only when it is named.
    pub(super) fn read(storage: &Arc<dyn Storage>, source: Option<&str>) -> Result<Self, RepositoryError> {
        let mut listing = Self::default();
        match source {
            Some(source) if is_source_key(source) => listing.read_source(storage, source)?,
            Some(_) => {}
            None => {
                for folder in list_or_nothing(storage, SNAPSHOTS)? {
                    if folder.kind == EntryKind::Folder && is_source_key(&folder.name) {
                        listing.read_source(storage, &folder.name)?;
                    } else {
                        let path = storage.locate(&object(SNAPSHOTS, &folder.name));
                        listing.unreadable.push(Unreadable {
                            path,
                            why: "it is not the directory of a source".to_owned(),
                            snapshot: None,
                        });
                    }
                }
            }
        }
        listing.snapshots.sort_by(|a, b| a.manifest.id.cmp(&b.manifest.id).then(a.name().cmp(&b.name())));
        listing.incomplete.sort_by(|a, b| a.path.cmp(&b.path));
        listing.unreadable.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    /// Adds what is in a source's folder.
    fn read_source(&mut self, storage: &Arc<dyn Storage>, source: &str) -> Result<(), RepositoryError> {
        let folder = source_folder(source);
        let mut by_id: BTreeMap<SnapshotId, SnapshotFiles<'_>> = BTreeMap::new();
        let entries = list_or_nothing(storage, &folder)?;
        for entry in &entries {
            match believable(entry, source) {
                Ok(name) => by_id.entry(name.id.clone()).or_default().add(entry, &name),
                Err(why) => self.unreadable.push(Unreadable {
                    path: storage.locate(&object(&folder, &entry.name)),
                    why,
                    snapshot: None,
                }),
            }
        }
        for (id, files) in &by_id {
            let reader = SnapshotReader { storage, folder: &folder, source, id };
            if files.manifest.is_some() {
                match reader.read(files, &mut self.unreadable) {
                    Ok(snapshot) => self.snapshots.push(snapshot),
                    Err(error) => self.unreadable.push(reader.unreadable(files, error)),
                }
            }
            self.incomplete.extend(reader.incomplete(files));
        }
        Ok(())
    }
}

/// The files that bear one id.
#[derive(Debug, Default)]
struct SnapshotFiles<'a> {
    manifest: Option<&'a Entry>,
    /// By file name, for the manifest to find its own among them.
    contents: BTreeMap<&'a str, &'a Entry>,
    verifications: Vec<&'a Entry>,
    partial: Vec<&'a Entry>,
}

impl<'a> SnapshotFiles<'a> {
    /// Picks the files of one snapshot from those of a folder.
    fn collect(entries: &'a [Entry], source: &str, id: &SnapshotId) -> Self {
        let mut files = Self::default();
        for entry in entries {
            if let Some(name) = FileName::parse(&entry.name)
                && (name.source, &name.id) == (source, id)
            {
                files.add(entry, &name);
            }
        }
        files
    }

    fn add(&mut self, entry: &'a Entry, name: &FileName<'_>) {
        match name.kind {
            _ if name.partial => self.partial.push(entry),
            FileKind::Manifest => self.manifest = Some(entry),
            FileKind::Verification => self.verifications.push(entry),
            FileKind::Archive | FileKind::FileList => {
                self.contents.insert(&entry.name, entry);
            }
        }
    }
}

/// Reads what bears one id in one folder.
struct SnapshotReader<'a> {
    storage: &'a Arc<dyn Storage>,
    folder: &'a str,
    source: &'a str,
    id: &'a SnapshotId,
}

impl SnapshotReader<'_> {
    /// Returns the snapshot; records of verifications that cannot be read go to `unreadable`.
    fn read(
        &self,
        files: &SnapshotFiles<'_>,
        unreadable: &mut Vec<Unreadable>,
    ) -> Result<Snapshot, RepositoryError> {
        let names = SnapshotNames::new(self.source, self.id);
        let bytes = self.get(&names.manifest())?;
        let manifest = Manifest::from_json(&bytes).map_err(|error| {
            let why = match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            self.refuse(&names.manifest(), why)
        })?;
        if (manifest.source.as_str(), &manifest.id) != (self.source, self.id) {
            let why = format!("it is the manifest of {}/{}", manifest.source, manifest.id);
            return Err(self.refuse(&names.manifest(), why));
        }
        if manifest.archive().file != names.archive(manifest.archive().codec)
            || manifest.file_list().file != names.file_list()
        {
            let why = "it is a manifest of files with other names".to_owned();
            return Err(self.refuse(&names.manifest(), why));
        }
        self.check_length(files, &manifest.archive().file, manifest.archive().stored_bytes)?;
        self.check_length(files, &manifest.file_list().file, manifest.file_list().stored_bytes)?;
        let verified = self.verifications(files, unreadable);
        let storage = Arc::clone(self.storage);
        Ok(Snapshot { manifest, verified, storage, folder: self.folder.to_owned() })
    }

    /// Checks that a file the manifest names is there, whole by its length.
    fn check_length(
        &self,
        files: &SnapshotFiles<'_>,
        file: &str,
        expected: u64,
    ) -> Result<(), RepositoryError> {
        match files.contents.get(file) {
            None => Err(self.refuse(file, "its manifest is there, but this file is missing".to_owned())),
            Some(entry) if entry.kind != EntryKind::Object => {
                Err(self.refuse(file, "it is not a regular file".to_owned()))
            }
            Some(entry) if entry.bytes != expected => {
                let why = format!("it has {} bytes, and by its manifest {expected}", entry.bytes);
                Err(self.refuse(file, why))
            }
            Some(_) => Ok(()),
        }
    }

    fn verifications(
        &self,
        files: &SnapshotFiles<'_>,
        unreadable: &mut Vec<Unreadable>,
    ) -> Vec<Verification> {
        let mut verified = Vec::new();
        for entry in &files.verifications {
            let read = self.get(&entry.name).and_then(|bytes| {
                serde_json::from_slice(&bytes).map_err(|error| {
                    self.refuse(&entry.name, format!("no record of a verification: {error}"))
                })
            });
            match read {
                Ok(verification) => verified.push(verification),
                // The snapshot is as good as without the record.
                Err(error) => unreadable.push(Unreadable { snapshot: None, ..self.unreadable(files, error) }),
            }
        }
        verified.sort_by_key(|verification: &Verification| verification.at);
        verified
    }

    /// Returns what is there without a manifest, or only in part.
    fn incomplete(&self, files: &SnapshotFiles<'_>) -> Vec<Incomplete> {
        let orphans = files.contents.values().chain(&files.verifications);
        let orphans = orphans.filter(|_| files.manifest.is_none()).map(|entry| (entry, "has no manifest"));
        let partial = files.partial.iter().map(|entry| (entry, "only partly written"));
        let incomplete = |(entry, what): (&&Entry, _)| Incomplete {
            source: self.source.to_owned(),
            id: self.id.clone(),
            path: self.storage.locate(&object(self.folder, &entry.name)),
            what,
            bytes: entry.bytes,
            modified: entry.modified,
        };
        partial.chain(orphans).map(incomplete).collect()
    }

    fn get(&self, file: &str) -> Result<Vec<u8>, RepositoryError> {
        let name = object(self.folder, file);
        self.storage
            .read(&name, MANIFEST_MAX)
            .map_err(RepositoryError::io("read", self.storage.locate(&name)))
    }

    fn refuse(&self, file: &str, why: String) -> RepositoryError {
        RepositoryError::Unreadable { path: self.storage.locate(&object(self.folder, file)), why }
    }

    /// Returns the entry of a listing for an error.
    fn unreadable(&self, files: &SnapshotFiles<'_>, error: RepositoryError) -> Unreadable {
        let (path, why) = match error {
            RepositoryError::Unreadable { path, why } => (path, why),
            RepositoryError::Io { path, source, .. } => (path, format!("it cannot be read: {source}")),
            other => {
                let file = files.manifest.map_or("", |entry| &entry.name);
                (self.storage.locate(&object(self.folder, file)), other.to_string())
            }
        };
        Unreadable { path, why, snapshot: Some((self.source.to_owned(), self.id.clone())) }
    }
}

/// Returns what an entry's name says, or why it does not belong in the folder of that source.
fn believable<'a>(entry: &'a Entry, source: &str) -> Result<FileName<'a>, String> {
    let Some(name) = FileName::parse(&entry.name) else {
        return Err("it is not a file of volsnap's".to_owned());
    };
    if name.source == source {
        Ok(name)
    } else {
        Err(format!("it belongs to another source, {}", name.source))
    }
}

/// Returns what lies in a folder; nothing when there is no such folder.
fn list_or_nothing(storage: &Arc<dyn Storage>, folder: &str) -> Result<Vec<Entry>, RepositoryError> {
    match storage.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(RepositoryError::io("list", storage.locate(folder))),
    }
}

fn object(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}
