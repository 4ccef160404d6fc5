//! A directory of this machine: the home of today's repositories.
//!
//! The store writes an object under a partial name, syncs it, renames it without replacing anything, and syncs its
//! folder. Only the owner may use folders (0700) and files (0600): they hold all of a database. The first object in a
//! folder makes the folder, durably. The store follows no links: they would take the snapshots elsewhere.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use nix::unistd::{AccessFlags, access};

use super::bridge::blocking;
use super::{
    ByteStream, Capabilities, Claim, Key, ObjectKind, ObjectMeta, ObjectWriter, OpenError, Store,
    StoreAddress,
};
use crate::disk::uncached_writer::{BULK_MIN, BulkWriter};

/// The end of the name of a file that is being written.
pub const PARTIAL: &str = ".partial";
/// The bytes that prove whether the directory can be written to.
const PROBE: [u8; 4096] = [0; 4096];

/// Returns an object's name while it is written.
#[must_use]
pub fn partial(name: &str) -> String {
    format!("{name}{PARTIAL}")
}

/// The store in a directory.
#[derive(Debug)]
pub struct LocalStore {
    address: StoreAddress,
    directory: Directory,
}

impl LocalStore {
    /// Returns the store in a directory, which need not exist yet; changes nothing.
    ///
    /// # Errors
    /// When the path is something else, or nobody can look at it.
    pub async fn open(root: &Path) -> Result<Self, OpenError> {
        let root = root.to_owned();
        let looked = blocking(move || Ok(real_root(&root))).await.map_err(OpenError::Io)?;
        Ok(Self::at(looked?))
    }

    /// Returns the store in a directory whose path has no links.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { address: StoreAddress::Directory(root.clone()), directory: Directory::new(root) }
    }

    /// Returns the store in a directory; `watch` sees each effect first.
    #[cfg(test)]
    pub(crate) fn watched(root: PathBuf, watch: Arc<dyn Watch>) -> Self {
        Self { address: StoreAddress::Directory(root.clone()), directory: Directory { root, watch } }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let directory = self.directory.clone();
        blocking(move || work(&directory)).await
    }
}

/// Returns the path of a root without links.
fn real_root(root: &Path) -> Result<PathBuf, OpenError> {
    let refused = |why: &str| Err(OpenError::Refused(why.to_owned()));
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => root.canonicalize().map_err(OpenError::Io),
        Ok(_) => refused("it is not a directory"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(root) {
            Ok(_) => refused("it is a link that leads nowhere"),
            // Where it will be once it is made.
            Err(_) => Ok(root
                .ancestors()
                .find_map(|above| Some(above.canonicalize().ok()?.join(root.strip_prefix(above).ok()?)))
                .unwrap_or_else(|| root.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => refused("a part of the path is a file"),
        Err(error) => Err(OpenError::Io(error)),
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[async_trait]
impl Store for LocalStore {
    fn address(&self) -> &StoreAddress {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { is_local: true, never_overwrites: true, knows_free_space: true }
    }

    async fn free_space(&self) -> io::Result<Option<u64>> {
        self.blocking(Directory::free_space).await
    }

    async fn may_write(&self) -> io::Result<()> {
        self.blocking(|directory| match directory.root.ancestors().find(|path| path.exists()) {
            Some(existing) => Ok(access(existing, AccessFlags::W_OK | AccessFlags::X_OK)?),
            None => Ok(()),
        })
        .await
    }

    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        let folder = folder.clone();
        self.blocking(move |directory| {
            directory.make_folder(&folder)?;
            // The file has no name, so it leaves nothing.
            tempfile::tempfile_in(directory.path(&folder))?.write_all(&PROBE)
        })
        .await
    }

    /// The claim is a lock on the directory, if its file system has locks.
    async fn claim(&self) -> io::Result<Claim> {
        self.blocking(|directory| {
            make_root(&directory.root)?;
            let locked = File::open(&directory.root)?;
            if let Err(error) = locked.lock() {
                tracing::debug!(%error, "the repository's directory cannot be locked");
            }
            Ok(Claim::new(locked))
        })
        .await
    }

    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>> {
        // On this thread, though it blocks for a moment: if the caller is dropped, another thread could create the
        // file after the removal.
        let sink = self.directory.create(key)?;
        Ok(Box::new(FileWriter(Some(sink))))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        let key = key.clone();
        self.blocking(move |directory| directory.get(&key, range)).await
    }

    async fn head(&self, key: &Key) -> io::Result<ObjectMeta> {
        let key = key.clone();
        self.blocking(move |directory| {
            let metadata = fs::symlink_metadata(directory.path(&key))?;
            meta(key, &metadata)
        })
        .await
    }

    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>> {
        let folder = folder.clone();
        self.blocking(move |directory| directory.list(&folder)).await
    }

    async fn delete(&self, key: &Key) -> io::Result<()> {
        let key = key.clone();
        self.blocking(move |directory| directory.delete(&directory.path(&key))).await
    }

    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        let key = key.clone();
        self.blocking(move |directory| directory.delete(&directory.partial(&key))).await
    }
}

/// Writes a file on a thread that may block.
#[derive(Debug)]
struct FileWriter(
    /// `None` once a call was dropped.
    Option<FileSink>,
);

impl FileWriter {
    fn sink(&mut self) -> io::Result<FileSink> {
        self.0.take().ok_or_else(lost)
    }
}

#[async_trait]
impl ObjectWriter for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let mut sink = self.sink()?;
        let (sink, written) = blocking(move || {
            let written = sink.write(&bytes);
            Ok((sink, written))
        })
        .await?;
        self.0 = Some(sink);
        written
    }

    fn stored(&self) -> u64 {
        self.0.as_ref().map_or(0, FileSink::stored)
    }

    async fn finish(mut self: Box<Self>) -> io::Result<()> {
        let sink = self.sink()?;
        blocking(move || sink.finish()).await
    }

    async fn abort(mut self: Box<Self>) -> io::Result<()> {
        let sink = self.sink()?;
        blocking(move || sink.abort()).await
    }
}

/// One effect on the disk, announced before it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
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

/// Sees every effect before it happens, and may fail it. Tests use it to assert the order of effects and
/// what each failure leaves.
pub(crate) trait Watch: Send + Sync + fmt::Debug {
    /// Lets the effect happen.
    ///
    /// # Errors
    /// The error that the effect should have.
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

/// A directory of this machine, whose calls block.
#[derive(Debug, Clone)]
struct Directory {
    root: PathBuf,
    watch: Arc<dyn Watch>,
}

impl Directory {
    fn new(root: PathBuf) -> Self {
        Self { root, watch: Arc::new(Unwatched) }
    }

    fn path(&self, key: &Key) -> PathBuf {
        // Joining nothing would add a slash.
        if key.is_root() { self.root.clone() } else { self.root.join(key.as_str()) }
    }

    fn partial(&self, key: &Key) -> PathBuf {
        self.root.join(partial(key.as_str()))
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        free_bytes(&self.root)
    }

    /// Makes a folder and those above it, durably, if they do not exist.
    fn make_folder(&self, key: &Key) -> io::Result<()> {
        let mut path = self.root.clone();
        for name in key.as_str().split('/').filter(|name| !name.is_empty()) {
            path.push(name);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => continue,
                Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.watch.before(Step::MakeFolder(path.clone()))?;
            match DirBuilder::new().mode(0o700).create(&path) {
                // Another run was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            sync_parent(&path, &*self.watch)?;
        }
        Ok(())
    }

    fn create(&self, key: &Key) -> io::Result<FileSink> {
        let path = self.path(key);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Some((folder, _)) = key.as_str().rsplit_once('/') {
            self.make_folder(&Key::new(folder)?)?;
        }
        let partial = self.partial(key);
        self.watch.before(Step::Create(partial.clone()))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        let watch = Arc::clone(&self.watch);
        Ok(FileSink { file, partial, path, content: Content::Little(Vec::new()), watch, is_over: false })
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        let path = self.path(key);
        // Look first: to open a FIFO would wait for its other end.
        if !fs::symlink_metadata(&path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let Range { start, end } = range.unwrap_or(0..length);
        let (start, end) = (start.min(length), end.min(length));
        if start > 0 {
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(ByteStream::of_file(file, end.saturating_sub(start)))
    }

    fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>> {
        let path = self.path(folder);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() || folder.is_root() => {}
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Another run has just renamed or removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            found.push(meta(folder.join(&entry.file_name().to_string_lossy())?, &metadata)?);
        }
        Ok(found)
    }

    fn delete(&self, path: &Path) -> io::Result<()> {
        self.watch.before(Step::Remove(path.to_owned()))?;
        fs::remove_file(path)?;
        sync_parent(path, &*self.watch)
    }
}

/// Returns how many bytes are free where a directory is or will be.
pub(super) fn free_bytes(directory: &Path) -> io::Result<Option<u64>> {
    let Some(existing) = directory.ancestors().find(|path| path.is_dir()) else { return Ok(None) };
    let stat = nix::sys::statvfs::statvfs(existing)?;
    Ok(Some(stat.blocks_available().saturating_mul(stat.fragment_size())))
}

fn meta(key: Key, metadata: &fs::Metadata) -> io::Result<ObjectMeta> {
    let kind = if metadata.is_file() {
        ObjectKind::Object
    } else if metadata.is_dir() {
        ObjectKind::Folder
    } else {
        ObjectKind::Foreign
    };
    Ok(ObjectMeta { key, kind, bytes: metadata.len(), modified: metadata.modified()?, tag: None })
}

/// Makes the directory and those above it, durably.
fn make_root(root: &Path) -> io::Result<()> {
    let missing: Vec<_> = root.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(sync_folder)
}

/// A file that is being written under its partial name; calls block.
struct FileSink {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    content: Content,
    watch: Arc<dyn Watch>,
    /// Whether it has its name or is gone.
    is_over: bool,
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.is_over {
            remove_or_warn(&self.partial);
        }
    }
}

/// What was written so far.
enum Content {
    /// A little: it waits for more, or for the end.
    Little(Vec<u8>),
    /// Much: it goes past the page cache. So little is left for the sync at the end, for which a stopped service
    /// may wait, and others who sync to the same disk wait for little of it.
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
        // Take back a name that might not outlive a power cut: nobody may see what is not durable.
        sync_parent(&self.path, &*self.watch).inspect_err(|_| remove_or_warn(&self.path))
    }
}

impl FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.watch.before(Step::Write(self.partial.clone()))?;
        self.append(bytes)
    }

    fn stored(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Makes the file durable and gives it its name; a failure leaves nothing.
    fn finish(mut self) -> io::Result<()> {
        self.publish()?;
        self.is_over = true;
        Ok(())
    }

    fn abort(mut self) -> io::Result<()> {
        self.is_over = true;
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

/// Gives a file its name, and never replaces another.
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
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and FUSE file systems cannot sync a directory, and say so.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Removes what a failure left; the caller reports the failure itself.
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
        let directory = Directory::new(folder.path().to_owned());
        let chunk: Vec<u8> = (0..300_007u32).map(|at| (at % 251) as u8).collect();
        // Nothing, a little, exactly the limit, and much.
        for count in [0, 1, 3, 4, 40] {
            let name = format!("{count}");
            let mut sink = directory.create(&Key::new(name.clone()).unwrap()).unwrap();
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
        let mut sink =
            FileSink { file, partial: partial.clone(), path: path.clone(), content, watch, is_over: false };
        let error = loop {
            match sink.write(&[7; 1 << 20]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(sink.write(b"more").is_err());
        assert!(sink.finish().is_err());
        assert!(!path.exists() && !partial.exists());
    }
}
