//! A local file that is written while a service is held, and uploaded once it is back.
//!
//! A direct capture writes its archive while the service is away. To a disk of this machine it may; a network would
//! keep the service waiting for as long as it likes. So to a store that is not local a direct capture goes through the
//! spool: what is written is kept in a file, and [`finish`](ObjectWriter::finish), which comes after the service was
//! let go, uploads it. What does not hold anybody is written to the store as it comes.
//!
//! The file has no name, so nothing of it can be left, however the process ends.

use std::fs::{DirBuilder, File};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::bridge::blocking;
use super::{ByteStream, Key, ObjectWriter, Store};
use crate::disk::writeback;

/// Where files are kept until they are uploaded.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
}

impl Spool {
    /// Returns the spool in a directory, which is made when it is needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Begins a new object of a store: by way of a file, unless the store is local.
    ///
    /// # Errors
    /// When the file cannot be created, or, of a local store, the object.
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

    /// Says of an error that it is not the store's: how full that is says nothing of the spool.
    fn failed(&self, error: &io::Error) -> io::Error {
        io::Error::other(format!("keep it in the spool {}: {error}", self.directory.display()))
    }
}

/// An object that is kept in a file until it is finished.
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
            // Nobody who syncs to the same disk is to wait for much of it.
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
