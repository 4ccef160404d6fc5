//! A local file that a run writes while it holds a service, and uploads once the service is back.
//!
//! A direct capture writes its archive while the service is down. It may do that to a disk of this machine; a network
//! would keep the service waiting for as long as it likes. So a direct capture to a store that is not local goes through
//! the spool: it writes to a file, and [`finish`](ObjectWriter::finish), which comes after the release of the service,
//! uploads the file. A run that holds nothing writes to the store directly.
//!
//! The file has no name, so it leaves nothing, however the process ends.

use std::fs::{DirBuilder, File};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::bridge::blocking;
use super::local::free_bytes;
use super::{ByteStream, Key, ObjectWriter, Store};
use crate::disk::writeback;

/// The place of files until they are uploaded.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
}

impl Spool {
    /// Returns the spool in a directory, which the first use makes.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Returns where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns how many bytes it has room for, if that is known.
    #[must_use]
    pub fn free_space(&self) -> Option<u64> {
        free_bytes(&self.directory).ok().flatten()
    }

    /// Begins a new object of a store: through a file, unless the store is local.
    ///
    /// # Errors
    /// When the file cannot be created, or the object of a local store.
    pub async fn create(&self, store: &Arc<dyn Store>, key: &Key) -> io::Result<Box<dyn ObjectWriter>> {
        if store.capabilities().is_local {
            return store.create(key).await;
        }
        let directory = self.directory.clone();
        let file = blocking(move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            tempfile::tempfile_in(&directory)
        })
        .await
        .map_err(|error| self.failed(&error))?;
        let (spool, store) = (self.clone(), Arc::clone(store));
        Ok(Box::new(SpooledWriter { spool, store, key: key.clone(), file: Some(file), bytes: 0 }))
    }

    /// Marks an error as the spool's: the room in the store says nothing about the room here.
    fn failed(&self, error: &io::Error) -> io::Error {
        io::Error::other(format!("keep it in the spool {}: {error}", self.directory.display()))
    }
}

/// An object that stays in a file until it is finished.
#[derive(Debug)]
struct SpooledWriter {
    spool: Spool,
    store: Arc<dyn Store>,
    key: Key,
    /// `None` once a write has failed or was dropped.
    file: Option<File>,
    bytes: u64,
}

impl SpooledWriter {
    fn file(&mut self) -> io::Result<File> {
        self.file.take().ok_or_else(|| io::Error::other("what was written before could not be kept"))
    }
}

#[async_trait]
impl ObjectWriter for SpooledWriter {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let (mut file, offset) = (self.file()?, self.bytes);
        let length = bytes.len() as u64;
        let written = blocking(move || {
            file.write_all(&bytes)?;
            // Nobody who syncs to the same disk should wait for much of it.
            writeback::start(&file, offset, length);
            Ok(file)
        });
        self.file = Some(written.await.map_err(|error| self.spool.failed(&error))?);
        self.bytes += length;
        Ok(())
    }

    fn stored(&self) -> u64 {
        self.bytes
    }

    async fn finish(mut self: Box<Self>) -> io::Result<()> {
        let mut file = self.file()?;
        let rewound = blocking(move || file.rewind().map(|()| file));
        let file = rewound.await.map_err(|error| self.spool.failed(&error))?;
        let mut spooled = ByteStream::of_file(file, self.bytes);
        let mut writer = self.store.create(&self.key).await?;
        let copied = async {
            while let Some(piece) = spooled.next().await.map_err(|error| self.spool.failed(&error))? {
                writer.write(piece).await?;
            }
            Ok(())
        };
        match copied.await {
            Ok(()) => writer.finish().await,
            Err(error) => {
                if let Err(left) = writer.abort().await {
                    tracing::warn!(key = %self.key, error = %left, "a failed upload left something");
                }
                Err(error)
            }
        }
    }

    async fn abort(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}
