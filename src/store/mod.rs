//! Storage of objects: one interface, with a local directory, a [`bucket`], or a folder of another machine's behind it.
//!
//! An object appears under its key complete and durable, or not at all, and nothing ever overwrites an object. So
//! whoever finds an object may believe that all of it is there. Big and small objects go the same way, so there is one
//! order to get right.
//!
//! Calls are asynchronous. Whoever drops a call does not learn how it ended. So a [task of its own](shield::put) stores
//! what must not end half-way; the task ends even if nobody waits for it any more. Synchronous readers (the archive's)
//! read through [one bridge](ObjectReader).
//!
//! Errors are those of `std::io`. Their kind says what a caller may have to tell apart: `NotFound`, `AlreadyExists`,
//! `StorageFull`.

mod address;
mod bridge;
pub mod bucket;
pub mod failing;
pub mod local;
pub mod memory;
pub mod observed;
pub mod recording;
pub mod sftp;
pub mod shield;
pub mod spool;
pub mod surroundings;
mod temporary;
#[cfg(test)]
mod tests;
mod tickets;
pub mod trouble;
pub mod webdav;

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use address::{AddressError, Key, KeyError, StoreAddress, redacted};
pub use bridge::{ByteStream, ObjectReader};

use bucket::BucketStore;
use local::LocalStore;
use sftp::SftpStore;
use surroundings::Process;
use webdav::WebDavStore;

/// What a store promises beyond what every store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether it is a disk of this machine. A run may write to one while it holds a service, but not to a network: see
    /// [`spool`].
    pub is_local: bool,
    /// Whether [`finish`](ObjectWriter::finish) is atomic against others who create the same key: of two, one fails.
    /// Otherwise keys must be unique by themselves.
    pub never_overwrites: bool,
    /// Whether it knows how much room it has.
    pub knows_free_space: bool,
}

/// What a store elsewhere has proved when a repository was made there. It is kept with the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Whether it refuses to create an object that exists, if it is asked to.
    pub conditional_create: bool,
    /// Whether objects may be deleted.
    pub deletes: bool,
    /// Whether it tells of uploads that were never finished.
    pub lists_uploads: bool,
}

/// How the name of an object begins that [`Store::probe`] makes for a moment.
pub const PROBE: &str = "volsnap-probe-";

/// What the object is called that [`Store::prove_writable`] begins in a folder. One that a dead run has left is nothing.
pub const TRIAL: &str = ".writable";

/// A place for objects.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns where it is.
    fn address(&self) -> &StoreAddress;

    /// Returns what it promises.
    fn capabilities(&self) -> Capabilities;

    /// Returns how many bytes the store still has room for, if known. If its place does not exist yet, returns the room
    /// where it will be.
    ///
    /// # Errors
    /// When the store does not tell.
    async fn free_space(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Looks whether the store would take objects, and stores none. Only
    /// [`prove_writable`](Self::prove_writable) proves it.
    ///
    /// # Errors
    /// When it would not.
    async fn may_write(&self) -> io::Result<()> {
        Ok(())
    }

    /// Finds out by writing whether objects can be stored below a folder. The attempt leaves nothing.
    ///
    /// # Errors
    /// When they cannot.
    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        let _ = folder;
        Ok(())
    }

    /// Makes the place itself if it does not exist: nothing can be created before. While the caller keeps the claim, it
    /// keeps out others who set up the place at the same time. A store without locks keeps out nobody.
    ///
    /// # Errors
    /// When the place cannot be made.
    async fn claim(&self) -> io::Result<Claim> {
        Ok(Claim::default())
    }

    /// Finds out by trying what a store elsewhere does, with an object that has `token` in its name and is gone
    /// afterwards; `None` for a store of which all is known.
    ///
    /// # Errors
    /// When it cannot be found out: it would not serve as a store.
    async fn probe(&self, token: &str) -> io::Result<Option<Probed>> {
        let _ = token;
        Ok(None)
    }

    /// Tells the store what it has proved earlier.
    fn trust(&self, probed: &Probed) {
        let _ = probed;
    }

    /// Begins a new object.
    ///
    /// Dropping this call leaves nothing behind.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when it exists or somebody writes it; or it cannot be created.
    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>>;

    /// Opens an object to read it, or a range of its bytes.
    ///
    /// # Errors
    /// When it cannot be opened, or is no plain object.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream>;

    /// Returns what has a key.
    ///
    /// # Errors
    /// When nobody can look at it; [`io::ErrorKind::NotFound`] when there is nothing.
    async fn head(&self, key: &Key) -> io::Result<ObjectMeta>;

    /// Returns what is directly in a folder, in no order; nothing if there is no such folder.
    ///
    /// # Errors
    /// When it cannot be read, or is no folder.
    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>>;

    /// Deletes an object, durably.
    ///
    /// # Errors
    /// When it cannot be deleted; [`io::ErrorKind::NotFound`] when there is none.
    async fn delete(&self, key: &Key) -> io::Result<()>;

    /// Deletes the unfinished object of a writer. A writer that is still at work then cannot finish it.
    ///
    /// # Errors
    /// When it cannot be deleted; [`io::ErrorKind::NotFound`] when there is none.
    async fn delete_partial(&self, key: &Key) -> io::Result<()>;

    /// Stores a small new object. Use [`shield::put`] for one that must not end half-way.
    ///
    /// # Errors
    /// As for [`create`](Self::create) and [`ObjectWriter`]; then nothing of it is left.
    async fn put(&self, key: &Key, contents: Bytes) -> io::Result<()> {
        let mut writer = self.create(key).await?;
        match writer.write(contents).await {
            Ok(()) => writer.finish().await,
            Err(error) => {
                if let Err(left) = writer.abort().await {
                    tracing::warn!(%key, error = %left, "a failed write left something");
                }
                Err(error)
            }
        }
    }

    /// Returns the contents of a small object.
    ///
    /// # Errors
    /// When it cannot be read, is no plain object, or is longer than `limit`.
    async fn read(&self, key: &Key, limit: u64) -> io::Result<Vec<u8>> {
        self.get(key, None).await?.read_to_end(limit).await
    }

    /// Deletes an object and its unfinished part, if they exist. The unfinished part goes first: a writer that is still
    /// at work may be about to turn it into the object.
    ///
    /// # Errors
    /// The first of the failures; what can be deleted is deleted all the same.
    async fn delete_all_of(&self, key: &Key) -> io::Result<()> {
        let missing_is_fine = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        let partial = missing_is_fine(self.delete_partial(key).await);
        let whole = missing_is_fine(self.delete(key).await);
        partial.and(whole)
    }
}

/// An object that is being written. A dropped one leaves nothing.
#[async_trait]
pub trait ObjectWriter: Send + fmt::Debug {
    /// Appends bytes.
    ///
    /// # Errors
    /// When these bytes, or earlier ones, cannot be stored.
    async fn write(&mut self, bytes: Bytes) -> io::Result<()>;

    /// Returns how many bytes are stored by now: the latest may still be on their way.
    fn stored(&self) -> u64;

    /// Makes the object durable and gives it its key. If this is dropped, the object may still get its key:
    /// [`Store::delete_all_of`] undoes either.
    ///
    /// # Errors
    /// When any of that fails; then nothing has the key.
    async fn finish(self: Box<Self>) -> io::Result<()>;

    /// Removes what was written.
    ///
    /// # Errors
    /// When it cannot be removed.
    async fn abort(self: Box<Self>) -> io::Result<()>;
}

/// What is known of the thing with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: Key,
    /// What it is.
    pub kind: ObjectKind,
    /// Bytes stored.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// What the store calls this very content, if it has a name for it: another content has another.
    pub tag: Option<String>,
}

/// The kind of thing that has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// An object.
    Object,
    /// A folder.
    Folder,
    /// A symbolic link, a device …: nothing volsnap makes, and nothing it follows.
    Foreign,
}

/// Keeps others out of a place until it is dropped.
#[derive(Default)]
pub struct Claim(Option<Box<dyn Any + Send>>);

impl Claim {
    /// Returns the claim that dropping `lock` ends.
    #[must_use]
    pub fn new(lock: impl Send + 'static) -> Self {
        Self(Some(Box::new(lock)))
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.0.is_some()).finish()
    }
}

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The place cannot be a store; the fragment says why.
    Refused(String),
    /// The system refused.
    Io(io::Error),
}

/// Opens the store at an address, and changes nothing there. A local directory need not exist yet.
///
/// # Errors
/// When something there is no store, or nobody can look at it.
pub async fn open(address: &StoreAddress) -> Result<Arc<dyn Store>, OpenError> {
    match address {
        StoreAddress::Directory(root) => Ok(Arc::new(LocalStore::open(root).await?)),
        StoreAddress::Url(url) => open_url(url).await,
    }
}

async fn open_url(url: &str) -> Result<Arc<dyn Store>, OpenError> {
    match url.split_once("://").map_or("", |(scheme, _)| scheme) {
        "s3" | "gs" | "az" => Ok(Arc::new(BucketStore::open(url, &Process).await?)),
        "sftp" => Ok(Arc::new(SftpStore::open(url, &Process).await?)),
        "webdavs" | "webdav" => Ok(Arc::new(WebDavStore::open(url, &Process)?)),
        _ => Err(OpenError::Refused(
            "volsnap keeps snapshots in directories, and at s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, \
             az://ACCOUNT/CONTAINER/FOLDER, sftp://USER@HOST/FOLDER and webdavs://HOST/FOLDER, nowhere else"
                .to_owned(),
        )),
    }
}
