//! A store that shows each call to an observer, before and after: tests record calls and make them fail.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ByteStream, Capabilities, Claim, Key, ObjectMeta, ObjectWriter, Probed, Store, StoreAddress};

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`Store::free_space`].
    FreeSpace,
    /// [`Store::may_write`].
    MayWrite,
    /// [`Store::prove_writable`].
    ProveWritable,
    /// [`Store::probe`].
    Probe,
    /// [`Store::claim`].
    Claim,
    /// [`Store::create`].
    Create,
    /// [`ObjectWriter::write`].
    Write,
    /// [`ObjectWriter::finish`].
    Finish,
    /// [`ObjectWriter::abort`].
    Abort,
    /// [`Store::get`].
    Get,
    /// [`Store::head`].
    Head,
    /// [`Store::list`].
    List,
    /// [`Store::delete`].
    Delete,
    /// [`Store::delete_partial`].
    DeletePartial,
}

/// One call: its kind, and its object or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its kind.
    pub operation: Operation,
    /// Its object or folder; [`Key::ROOT`] for the store itself.
    pub key: Key,
}

/// Sees every call, and may fail it or make it wait.
#[async_trait]
pub trait Observer: Send + Sync + fmt::Debug {
    /// Lets the call happen.
    ///
    /// # Errors
    /// The error that the call should have; then it does not happen.
    async fn before(&self, call: &Call) -> io::Result<()>;

    /// Lets the call return its result.
    ///
    /// # Errors
    /// The error that the call should have, though it has happened.
    async fn after(&self, call: &Call) -> io::Result<()>;
}

/// A store whose calls an [`Observer`] sees.
#[derive(Debug)]
pub struct ObservedStore<O> {
    inner: Arc<dyn Store>,
    observer: Arc<O>,
}

impl<O: Observer + 'static> ObservedStore<O> {
    /// Returns `inner`, and shows every call to the observer.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, observer: Arc<O>) -> Self {
        Self { inner, observer }
    }

    async fn seen<T>(
        &self,
        operation: Operation,
        key: &Key,
        call: impl Future<Output = io::Result<T>> + Send,
    ) -> io::Result<T> {
        seen(&*self.observer, operation, key, call).await
    }
}

async fn seen<T>(
    observer: &dyn Observer,
    operation: Operation,
    key: &Key,
    call: impl Future<Output = io::Result<T>> + Send,
) -> io::Result<T> {
    let named = Call { operation, key: key.clone() };
    observer.before(&named).await?;
    let done = call.await?;
    observer.after(&named).await?;
    Ok(done)
}

#[async_trait]
impl<O: Observer + 'static> Store for ObservedStore<O> {
    fn address(&self) -> &StoreAddress {
        self.inner.address()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_space(&self) -> io::Result<Option<u64>> {
        self.seen(Operation::FreeSpace, &Key::ROOT, self.inner.free_space()).await
    }

    async fn may_write(&self) -> io::Result<()> {
        self.seen(Operation::MayWrite, &Key::ROOT, self.inner.may_write()).await
    }

    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        self.seen(Operation::ProveWritable, folder, self.inner.prove_writable(folder)).await
    }

    async fn probe(&self, token: &str) -> io::Result<Option<Probed>> {
        self.seen(Operation::Probe, &Key::ROOT, self.inner.probe(token)).await
    }

    fn trust(&self, probed: &Probed) {
        self.inner.trust(probed);
    }

    async fn claim(&self) -> io::Result<Claim> {
        self.seen(Operation::Claim, &Key::ROOT, self.inner.claim()).await
    }

    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>> {
        let inner = self.seen(Operation::Create, key, self.inner.create(key)).await?;
        let observer: Arc<dyn Observer> = Arc::clone(&self.observer) as _;
        Ok(Box::new(ObservedWriter { inner, observer, key: key.clone() }))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        self.seen(Operation::Get, key, self.inner.get(key, range)).await
    }

    async fn head(&self, key: &Key) -> io::Result<ObjectMeta> {
        self.seen(Operation::Head, key, self.inner.head(key)).await
    }

    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>> {
        self.seen(Operation::List, folder, self.inner.list(folder)).await
    }

    async fn delete(&self, key: &Key) -> io::Result<()> {
        self.seen(Operation::Delete, key, self.inner.delete(key)).await
    }

    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        self.seen(Operation::DeletePartial, key, self.inner.delete_partial(key)).await
    }
}

#[derive(Debug)]
struct ObservedWriter {
    inner: Box<dyn ObjectWriter>,
    observer: Arc<dyn Observer>,
    key: Key,
}

#[async_trait]
impl ObjectWriter for ObservedWriter {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let Self { inner, observer, key } = self;
        seen(&**observer, Operation::Write, key, inner.write(bytes)).await
    }

    fn stored(&self) -> u64 {
        self.inner.stored()
    }

    async fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { inner, observer, key } = *self;
        seen(&*observer, Operation::Finish, &key, inner.finish()).await
    }

    async fn abort(self: Box<Self>) -> io::Result<()> {
        let Self { inner, observer, key } = *self;
        seen(&*observer, Operation::Abort, &key, inner.abort()).await
    }
}
