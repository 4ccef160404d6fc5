//! Where a repository's objects lie: one interface, with a local directory behind it.
//!
//! An object appears under its name whole and durable, or not at all: it is written under a partial
//! name, synced, renamed without replacing anything, and its folder is synced. Big and small objects
//! go the same way, so there is one order to get right. Nothing that exists is ever overwritten.
//!
//! Names are relative, with `/` between folders, and come from [`layout`](super::layout) alone. All
//! calls block.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::layout::partial;
use crate::disk::uncached_writer::{BULK_MIN, BulkWriter};

/// A place for objects.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Returns how messages call an object.
    fn locate(&self, name: &str) -> PathBuf;

    /// Returns the path of an object that this machine can open as a file.
    fn local_path(&self, name: &str) -> Option<PathBuf>;

    /// Returns the bytes that can still be stored, where that is known.
    ///
    /// # Errors
    /// When the system does not tell.
    fn free_space(&self) -> io::Result<Option<u64>>;

    /// Makes sure of a folder, durably.
    ///
    /// # Errors
    /// When it cannot be made, or is no folder.
    fn make_folder(&self, name: &str) -> io::Result<()>;

    /// Begins a new object.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when it is there or being written; or it cannot be created.
    fn create(&self, name: &str) -> io::Result<Box<dyn ObjectSink>>;

    /// Stores a small new object.
    ///
    /// # Errors
    /// As for [`create`](Self::create) and [`ObjectSink`]; then nothing of it is left.
    fn put_new(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut sink = self.create(name)?;
        match sink.write(contents) {
            Ok(()) => sink.finish(),
            Err(error) => {
                if let Err(left) = sink.abort() {
                    tracing::warn!(name, error = %left, "a failed write left something");
                }
                Err(error)
            }
        }
    }

    /// Returns the contents of a small object.
    ///
    /// # Errors
    /// When it cannot be read, is no plain object, or is longer than `limit`.
    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        self.open(name)?.take(limit + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
        }
        Ok(contents)
    }

    /// Opens an object to read it.
    ///
    /// # Errors
    /// When it cannot be opened or is no plain object.
    fn open(&self, name: &str) -> io::Result<Box<dyn ObjectReader>>;

    /// Returns what lies in a folder, in no order.
    ///
    /// # Errors
    /// When the folder cannot be read; [`io::ErrorKind::NotFound`] when there is none.
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>>;

    /// Deletes an object or a partial one, durably.
    ///
    /// # Errors
    /// When it cannot be deleted; [`io::ErrorKind::NotFound`] when there is none.
    fn delete(&self, name: &str) -> io::Result<()>;
}

/// An object being written.
pub trait ObjectSink: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// When these, or any written before, cannot be stored.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns how many bytes are stored by now: what was written last may still be on its way.
    fn stored(&self) -> u64;

    /// Makes the object durable and gives it its name.
    ///
    /// # Errors
    /// When any of that fails; then nothing bears the name.
    fn finish(self: Box<Self>) -> io::Result<()>;

    /// Removes what was written.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn abort(self: Box<Self>) -> io::Result<()>;
}

/// An object being read, from any position.
pub trait ObjectReader: Read + Seek + Send {}

impl<T: Read + Seek + Send> ObjectReader for T {}

/// Something in a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name in the folder.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes stored.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An object.
    Object,
    /// A folder.
    Folder,
    /// A symbolic link, a device …: nothing volsnap makes, and nothing it follows.
    Foreign,
}

/// One effect on the disk, named before it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A folder is made.
    MakeFolder(PathBuf),
    /// A partial file is created.
    Create(PathBuf),
    /// Bytes are written to it.
    Write(PathBuf),
    /// Its bytes are synced.
    Sync(PathBuf),
    /// It gets this name.
    Rename(PathBuf),
    /// The names in a folder are synced.
    SyncFolder(PathBuf),
    /// A file is removed.
    Remove(PathBuf),
}

/// Sees every effect before it happens, and may fail it: how tests assert the order of effects and
/// what is left after each failure.
pub(super) trait Watch: Send + Sync + fmt::Debug {
    /// Lets the effect happen.
    ///
    /// # Errors
    /// The error the effect is to have.
    fn before(&self, step: Step) -> io::Result<()>;
}

/// Lets everything happen.
#[derive(Debug)]
struct Unwatched;

impl Watch for Unwatched {
    fn before(&self, _step: Step) -> io::Result<()> {
        Ok(())
    }
}

/// A directory of this machine. Its folders are for the owner alone, and so are its files.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    watch: Arc<dyn Watch>,
}

impl Directory {
    /// Returns the storage in a directory that exists.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, watch: Arc::new(Unwatched) }
    }

    /// Returns the storage in a directory, each effect of which `watch` sees first.
    #[cfg(test)]
    pub(super) fn watched(root: PathBuf, watch: Arc<dyn Watch>) -> Self {
        Self { root, watch }
    }

    fn path(&self, name: &str) -> PathBuf {
        // Joining nothing would add a slash.
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }
}

impl Storage for Directory {
    fn locate(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        Some(self.path(name))
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        let stat = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(Some(stat.blocks_available().saturating_mul(stat.fragment_size())))
    }

    fn make_folder(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        // A link is not followed: it would take the snapshots elsewhere.
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.watch.before(Step::MakeFolder(path.clone()))?;
        match DirBuilder::new().mode(0o700).create(&path) {
            // Another run was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        sync_parent(&path, &*self.watch)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn ObjectSink>> {
        let path = self.path(name);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let partial = self.path(&partial(name));
        self.watch.before(Step::Create(partial.clone()))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        let watch = Arc::clone(&self.watch);
        Ok(Box::new(FileSink { file, partial, path, content: Content::Little(Vec::new()), watch }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ObjectReader>> {
        let path = self.path(name);
        // Asked first: opening a FIFO would wait for its other end.
        if !fs::symlink_metadata(&path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(File::open(path)?))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(folder))? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Another run has just renamed or removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let kind = if metadata.is_file() {
                EntryKind::Object
            } else if metadata.is_dir() {
                EntryKind::Folder
            } else {
                EntryKind::Foreign
            };
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                kind,
                bytes: metadata.len(),
                modified: metadata.modified()?,
            });
        }
        Ok(entries)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        self.watch.before(Step::Remove(path.clone()))?;
        fs::remove_file(&path)?;
        sync_parent(&path, &*self.watch)
    }
}

/// A file being written under its partial name.
struct FileSink {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    content: Content,
    watch: Arc<dyn Watch>,
}

/// What was written so far.
enum Content {
    /// Little: it waits for more, or for the end.
    Little(Vec<u8>),
    /// Much: it is on its way past the page cache, so that little is left for the sync at the end, which a
    /// stopped service may be waiting for, and nobody who syncs to the same disk waits for much of it.
    Much(BulkWriter),
    /// Not all of it could be stored.
    Lost,
}

impl FileSink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content = match std::mem::replace(&mut self.content, Content::Lost) {
            Content::Little(mut little) if ((little.len() + bytes.len()) as u64) < BULK_MIN => {
                little.extend_from_slice(bytes);
                Content::Little(little)
            }
            Content::Little(little) => {
                let mut writer = BulkWriter::start()?;
                writer.begin(self.file.try_clone()?, self.partial.as_os_str().as_bytes());
                Content::Much(writer.append(&little)?.append(bytes)?)
            }
            Content::Much(writer) => Content::Much(writer.append(bytes)?),
            Content::Lost => return Err(lost()),
        };
        Ok(())
    }

    /// Makes the bytes durable, then the name.
    fn publish(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.content, Content::Lost) {
            Content::Little(little) => self.file.write_all(&little)?,
            Content::Much(writer) => writer.end(|_| Ok(()))?.finish()?,
            Content::Lost => return Err(lost()),
        }
        self.watch.before(Step::Sync(self.partial.clone()))?;
        self.file.sync_all()?;
        self.watch.before(Step::Rename(self.path.clone()))?;
        rename_new(&self.partial, &self.path)?;
        // A name that may not outlive a power cut is taken back: nobody is to see what is not durable.
        sync_parent(&self.path, &*self.watch).inspect_err(|_| remove_or_warn(&self.path))
    }
}

impl ObjectSink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.watch.before(Step::Write(self.partial.clone()))?;
        self.append(bytes)
    }

    fn stored(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.publish().inspect_err(|_| remove_or_warn(&self.partial))
    }

    fn abort(self: Box<Self>) -> io::Result<()> {
        self.watch.before(Step::Remove(self.partial.clone()))?;
        match fs::remove_file(&self.partial) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

fn lost() -> io::Error {
    io::Error::other("what was written before could not be stored")
}

/// Gives a file its name without ever replacing another.
fn rename_new(partial: &Path, path: &Path) -> io::Result<()> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::errno::Errno;
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        match renameat2(AT_FDCWD, partial, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
            // The file system does not know the flag (NFS): a hard link does the same there.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::ENOTSUP) => {}
            renamed => return Ok(renamed?),
        }
    }
    link_new(partial, path)
}

/// Does the same with a hard link, which never replaces anything either.
fn link_new(partial: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(partial, path)?;
    fs::remove_file(partial).inspect_err(|_| remove_or_warn(path))
}

/// Makes the names in the folder of `path` durable.
fn sync_parent(path: &Path, watch: &dyn Watch) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    watch.before(Step::SyncFolder(folder.to_owned()))?;
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and FUSE file systems have nothing to sync in a directory, and say so.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Removes what a failure left; the failure itself is what is reported.
fn remove_or_warn(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a failed write left");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_give_a_name_replace_nothing() {
        for give_name in [rename_new, link_new] {
            let folder = tempfile::tempdir().unwrap();
            let (partial, path) = (folder.path().join("a.partial"), folder.path().join("a"));
            fs::write(&partial, "new").unwrap();
            give_name(&partial, &path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert!(!partial.exists());

            fs::write(&partial, "newer").unwrap();
            let error = give_name(&partial, &path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"new");
        }
    }

    #[test]
    fn an_object_of_any_size_is_stored_whole() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Directory::new(folder.path().to_owned());
        let chunk: Vec<u8> = (0..300_007u32).map(|at| (at % 251) as u8).collect();
        // Nothing, little, just as much as is little, and much.
        for count in [0, 1, 3, 4, 40] {
            let name = format!("{count}");
            let mut sink = storage.create(&name).unwrap();
            for _ in 0..count {
                sink.write(&chunk).unwrap();
            }
            sink.finish().unwrap();
            assert!(fs::read(folder.path().join(&name)).unwrap() == chunk.repeat(count), "{count}");
        }
    }

    #[test]
    fn what_could_not_be_stored_is_told_until_the_end_and_never_gets_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, path) = (folder.path().join("a.partial"), folder.path().join("a"));
        fs::write(&partial, "").unwrap();
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (content, watch) = (Content::Little(Vec::new()), Arc::new(Unwatched));
        let mut sink = FileSink { file, partial: partial.clone(), path: path.clone(), content, watch };
        let error = loop {
            match sink.write(&[7; 1 << 20]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(sink.write(b"more").is_err());
        assert!(Box::new(sink).finish().is_err());
        assert!(!path.exists() && !partial.exists());
    }
}
