//! A store in memory, for tests and for what need not outlive the process. It can pass for a store that is not local.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{ByteStream, Capabilities, Key, ObjectKind, ObjectMeta, ObjectWriter, Store, StoreAddress};
use crate::clock::Clock;

/// Objects in memory.
#[derive(Debug)]
pub struct MemoryStore {
    address: StoreAddress,
    is_local: bool,
    clock: Clock,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    objects: BTreeMap<Key, (Bytes, SystemTime)>,
    /// Unfinished objects, each by its writer's number.
    partial: BTreeMap<Key, u64>,
    next: u64,
}

impl MemoryStore {
    /// Returns an empty store that passes for a local one.
    #[must_use]
    pub fn local(name: &str) -> Self {
        Self::new(name, true)
    }

    /// Returns an empty store that passes for one behind a network.
    #[must_use]
    pub fn remote(name: &str) -> Self {
        Self::new(name, false)
    }

    /// Returns the same with a clock of its own, which says when an object was written.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    fn new(name: &str, is_local: bool) -> Self {
        let address = StoreAddress::Url(format!("memory://{name}"));
        Self { address, is_local, clock: Clock::system(), contents: Arc::default() }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        locked(&self.contents)
    }
}

fn locked(contents: &Mutex<Contents>) -> MutexGuard<'_, Contents> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for MemoryStore {
    fn address(&self) -> &StoreAddress {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { is_local: self.is_local, never_overwrites: true, knows_free_space: false }
    }

    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>> {
        let mut contents = self.contents();
        if key.is_root() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if contents.objects.contains_key(key) || contents.partial.contains_key(key) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        contents.next += 1;
        let number = contents.next;
        contents.partial.insert(key.clone(), number);
        let (store, clock) = (Arc::clone(&self.contents), self.clock.clone());
        Ok(Box::new(MemoryWriter { store, clock, key: key.clone(), number, bytes: BytesMut::new() }))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        let contents = self.contents();
        let (bytes, _) = contents.objects.get(key).ok_or(io::ErrorKind::NotFound)?;
        let length = bytes.len() as u64;
        let range = range.unwrap_or(0..length);
        let end = usize::try_from(range.end.min(length)).unwrap_or(bytes.len());
        let start = usize::try_from(range.start).unwrap_or(end).min(end);
        Ok(ByteStream::of_bytes(bytes.slice(start..end)))
    }

    async fn head(&self, key: &Key) -> io::Result<ObjectMeta> {
        let contents = self.contents();
        let (bytes, modified) = contents.objects.get(key).ok_or(io::ErrorKind::NotFound)?;
        Ok(object(key.clone(), bytes, *modified))
    }

    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>> {
        let contents = self.contents();
        let prefix = if folder.is_root() { String::new() } else { format!("{folder}/") };
        let mut found = BTreeMap::new();
        for (key, (bytes, modified)) in &contents.objects {
            let Some(rest) = key.as_str().strip_prefix(&prefix) else { continue };
            let meta = match rest.split_once('/') {
                None => object(key.clone(), bytes, *modified),
                Some((name, _)) => {
                    let key = folder.join(name)?;
                    ObjectMeta { key, kind: ObjectKind::Folder, bytes: 0, modified: *modified, tag: None }
                }
            };
            found.insert(meta.key.clone(), meta);
        }
        Ok(found.into_values().collect())
    }

    async fn delete(&self, key: &Key) -> io::Result<()> {
        self.contents().objects.remove(key).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        self.contents().partial.remove(key).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn object(key: Key, bytes: &Bytes, modified: SystemTime) -> ObjectMeta {
    ObjectMeta { key, kind: ObjectKind::Object, bytes: bytes.len() as u64, modified, tag: None }
}

#[derive(Debug)]
struct MemoryWriter {
    store: Arc<Mutex<Contents>>,
    clock: Clock,
    key: Key,
    number: u64,
    bytes: BytesMut,
}

#[async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn stored(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn finish(mut self: Box<Self>) -> io::Result<()> {
        let mut contents = locked(&self.store);
        // Somebody has deleted the unfinished object.
        if contents.partial.get(&self.key) != Some(&self.number) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if contents.objects.contains_key(&self.key) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bytes = std::mem::take(&mut self.bytes).freeze();
        contents.objects.insert(self.key.clone(), (bytes, self.clock.now().into()));
        Ok(())
    }

    async fn abort(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        let mut contents = locked(&self.store);
        if contents.partial.get(&self.key) == Some(&self.number) {
            contents.partial.remove(&self.key);
        }
    }
}
