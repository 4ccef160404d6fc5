//! Where objects lie: one interface, with a local directory, and later stores elsewhere, behind it.
//!
//! An object appears under its key whole and durable, or not at all, and nothing that exists is ever overwritten: so
//! whoever finds an object may believe that all of it is there. Big and small objects go the same way, so there is one
//! order to get right.
//!
//! Calls are asynchronous. Who drops a call does not learn what became of it. What must not end half-way is therefore
//! stored by a [task of its own](shield::put), which ends whatever becomes of who waits for it. Readers that are
//! synchronous (the archive's) read through [one bridge](ObjectReader).
//!
//! Errors are those of `std::io`. Their kind says what a caller may have to tell apart: `NotFound`, `AlreadyExists`,
//! `StorageFull`.

mod address;
mod bridge;
pub mod failing;
pub mod local;
pub mod memory;
pub mod observed;
pub mod recording;
pub mod shield;
pub mod spool;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

pub use address::{Key, KeyError, StoreAddress};
pub use bridge::{ByteStream, ObjectReader};

use local::LocalStore;

/// What a store promises beyond what every store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether it is a disk of this machine. A service may be held while something is written to one; for a network it
    /// may not: see [`spool`].
    pub is_local: bool,
    /// Whether [`finish`](ObjectWriter::finish) is atomic against others who create the same key: of two, one fails.
    /// Where it is not, keys must be unique by themselves.
    pub never_overwrites: bool,
    /// Whether it knows how much room it has.
    pub knows_free_space: bool,
}

/// A place for objects.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns where it is.
    fn address(&self) -> &StoreAddress;

    /// Returns what it promises.
    fn capabilities(&self) -> Capabilities;

    /// Returns the bytes that can still be stored, where that is known. Of a place that is yet to be made, those of
    /// where it will be made.
    ///
    /// # Errors
    /// When the store does not tell.
    async fn free_space(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Looks whether objects may be stored, and stores none. What it finds is proved by
    /// [`prove_writable`](Self::prove_writable) alone.
    ///
    /// # Errors
    /// When they may not.
    async fn may_write(&self) -> io::Result<()> {
        Ok(())
    }

    /// Finds out by writing whether objects can be stored below a folder. Nothing of the attempt can be left.
    ///
    /// # Errors
    /// When they cannot.
    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        let _ = folder;
        Ok(())
    }

    /// Makes sure that the place itself is there, without which nothing can be created in it, and keeps it from others who set it up at the same time, as long as
    /// the claim is kept. Where a store has no locks, it keeps nobody.
    ///
    /// # Errors
    /// When the place cannot be made.
    async fn claim(&self) -> io::Result<Claim> {
        Ok(Claim::default())
    }

    /// Begins a new object.
    ///
    /// Dropping this call leaves nothing behind.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when it is there or being written; or it cannot be created.
    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>>;

    /// Opens an object to read it, or a range of its bytes.
    ///
    /// # Errors
    /// When it cannot be opened, or is no plain object.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream>;

    /// Returns what bears a key.
    ///
    /// # Errors
    /// When it cannot be looked at; [`io::ErrorKind::NotFound`] when there is nothing.
    async fn head(&self, key: &Key) -> io::Result<ObjectMeta>;

    /// Returns what lies directly in a folder, in no order; nothing when there is no such folder.
    ///
    /// # Errors
    /// When it cannot be read, or is no folder.
    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>>;

    /// Deletes an object, durably.
    ///
    /// # Errors
    /// When it cannot be deleted; [`io::ErrorKind::NotFound`] when there is none.
    async fn delete(&self, key: &Key) -> io::Result<()>;

    /// Deletes what a writer has begun of an object. One that is still at work then cannot finish it.
    ///
    /// # Errors
    /// When it cannot be deleted; [`io::ErrorKind::NotFound`] when there is none.
    async fn delete_partial(&self, key: &Key) -> io::Result<()>;

    /// Stores a small new object. What must not end half-way goes by [`shield::put`].
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

    /// Deletes an object and all that a writer has begun of it, where there is any of it. The partial one goes first:
    /// a writer that is still at work may be about to turn it into the whole one.
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

/// An object that is being written. One that is dropped leaves nothing.
#[async_trait]
pub trait ObjectWriter: Send + fmt::Debug {
    /// Appends bytes.
    ///
    /// # Errors
    /// When these, or any written before, cannot be stored.
    async fn write(&mut self, bytes: Bytes) -> io::Result<()>;

    /// Returns how many bytes are stored by now: what was written last may still be on its way.
    fn stored(&self) -> u64;

    /// Makes the object durable and gives it its key. When this is dropped, the object may still get it:
    /// [`Store::delete_all_of`] undoes either.
    ///
    /// # Errors
    /// When any of that fails; then nothing bears the key.
    async fn finish(self: Box<Self>) -> io::Result<()>;

    /// Removes what was written.
    ///
    /// # Errors
    /// When it cannot be removed.
    async fn abort(self: Box<Self>) -> io::Result<()>;
}

/// What is known of what bears a key.
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
}

/// What bears a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// An object.
    Object,
    /// A folder.
    Folder,
    /// A symbolic link, a device …: nothing volsnap makes, and nothing it follows.
    Foreign,
}

/// A place that is kept from others until this is dropped.
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
    /// The place cannot be one; why, in a fragment.
    Refused(String),
    /// The system refused.
    Io(io::Error),
}

/// Opens the store at an address, and changes nothing there. A local directory need not be there yet.
///
/// # Errors
/// When there is something that is no store, or cannot be looked at.
pub async fn open(address: &StoreAddress) -> Result<Arc<dyn Store>, OpenError> {
    match address.local_path() {
        Some(root) => Ok(Arc::new(LocalStore::open(root).await?)),
        None => Err(OpenError::Refused("only directories so far, no URLs".to_owned())),
    }
}
