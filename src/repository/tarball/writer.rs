//! Writes an object that may be big: a thread encrypts, digests and stores what it is fed.
//!
//! A bounded channel feeds the thread, so memory is bounded, and a slow store slows the feeder. The thread is never
//! dropped half-way, whatever happens to the feeder; a writer that is dropped without
//! [`finish`](SnapshotObjectWriter::finish) leaves nothing.

use std::io;
use std::path::PathBuf;
use std::thread;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::crypt::Sealer;
use crate::outside::{Outside, Token};
use crate::repository::RepositoryError;
use crate::store::{Key, ObjectWriter, StoreAddress};

/// Chunks that may wait for the writer; with those of 4 MiB, 16 MiB.
const QUEUE: usize = 4;

/// Writes a new object of a snapshot.
#[derive(Debug)]
pub struct SnapshotObjectWriter {
    feed: mpsc::Sender<Message>,
    outcome: oneshot::Receiver<Result<Outcome, RepositoryError>>,
    path: PathBuf,
    failed: bool,
}

/// An object that is durable under its name, as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// File name in the source's directory.
    pub file: String,
    /// Bytes stored.
    pub bytes: u64,
    /// BLAKE3 of the stored bytes, hexadecimal.
    pub blake3: String,
    /// The same of the bytes before they were encrypted; `None` if they were not encrypted here.
    pub plain_blake3: Option<String>,
}

#[derive(Debug)]
enum Message {
    Data(Bytes, Token),
    Finish(Token),
}

#[derive(Debug)]
enum Outcome {
    Stored(Stored),
    Aborted,
}

impl SnapshotObjectWriter {
    /// Feeds an object that has begun.
    pub(super) fn begin(
        writer: Box<dyn ObjectWriter>,
        store: &StoreAddress,
        key: &Key,
        sealer: Option<Sealer>,
    ) -> Result<Self, RepositoryError> {
        let path = store.locate(key);
        let (feed, messages) = mpsc::channel(QUEUE);
        let (tell, outcome) = oneshot::channel();
        let task = WriterTask {
            writer,
            sealer,
            path: path.clone(),
            file: key.name().to_owned(),
            bytes: 0,
            digest: blake3::Hasher::new(),
        };
        let (runtime, alive) = (Handle::current(), Outside::alive());
        thread::Builder::new()
            .name("volsnap-writer".to_owned())
            .spawn(move || {
                let _alive = alive;
                let (outcome, _busy) = runtime.block_on(task.run(messages));
                // A caller that is gone needs no answer.
                let _ = tell.send(outcome);
            })
            .map_err(|source| RepositoryError::write(&path, 0, source))?;
        Ok(Self { feed, outcome, path, failed: false })
    }

    /// Appends bytes, in chunks of at most 4 MiB so that memory stays bounded. Returns when there is room for more,
    /// not when they are stored. Safe to cancel: the chunk is then not appended.
    ///
    /// # Errors
    /// When an earlier chunk could not be stored; then nothing of the object is left.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), RepositoryError> {
        match self.feed.send(Message::Data(chunk, Outside::busy())).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Waits until everything is durable under the object's name. If this is cancelled, the object may still get its
    /// name; removing first its partial name and then its final one undoes either outcome.
    ///
    /// # Errors
    /// When anything could not be stored; then nothing of the object is left.
    pub async fn finish(mut self) -> Result<Stored, RepositoryError> {
        if self.feed.send(Message::Finish(Outside::busy())).await.is_err() {
            return Err(self.failure().await);
        }
        match (&mut self.outcome).await {
            Ok(Ok(Outcome::Stored(stored))) => Ok(stored),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Outcome::Aborted)) | Err(_) => Err(RepositoryError::WriterFailed { path: self.path }),
        }
    }

    /// Removes what was written and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn abort(self) -> Result<(), RepositoryError> {
        drop(self.feed);
        if self.failed {
            return Ok(());
        }
        match self.outcome.await {
            Ok(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns why the thread has ended.
    async fn failure(&mut self) -> RepositoryError {
        if !self.failed {
            self.failed = true;
            if let Ok(Err(error)) = (&mut self.outcome).await {
                return error;
            }
        }
        RepositoryError::WriterFailed { path: self.path.clone() }
    }
}

/// The thread's end.
struct WriterTask {
    writer: Box<dyn ObjectWriter>,
    sealer: Option<Sealer>,
    path: PathBuf,
    file: String,
    bytes: u64,
    digest: blake3::Hasher,
}

impl WriterTask {
    /// Returns its outcome, and a token to hold until the outcome is reported.
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
    ) -> (Result<Outcome, RepositoryError>, Token) {
        loop {
            match messages.recv().await {
                Some(Message::Data(chunk, busy)) => {
                    if let Err(source) = self.write(chunk).await {
                        let error = RepositoryError::write(&self.path, self.writer.stored(), source);
                        if let Err(left) = self.abort().await {
                            tracing::warn!(error = %left, "a failed write left something");
                        }
                        return (Err(error), busy);
                    }
                }
                Some(Message::Finish(busy)) => return (self.finish().await, busy),
                None => return (self.abort().await, Token::default()),
            }
        }
    }

    async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        let stored = match &mut self.sealer {
            Some(sealer) => sealer.push(&chunk)?,
            None => chunk,
        };
        self.store(stored).await
    }

    async fn store(&mut self, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.writer.write(bytes.clone()).await?;
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    async fn finish(mut self) -> Result<Outcome, RepositoryError> {
        let plain_blake3 = match self.seal_end().await {
            Ok(digest) => digest,
            Err(source) => {
                let error = RepositoryError::write(&self.path, self.writer.stored(), source);
                if let Err(left) = self.abort().await {
                    tracing::warn!(error = %left, "a failed write left something");
                }
                return Err(error);
            }
        };
        let Self { writer, path, file, bytes, digest, .. } = self;
        writer.finish().await.map_err(|source| RepositoryError::write(&path, bytes, source))?;
        let blake3 = digest.finalize().to_hex().to_string();
        Ok(Outcome::Stored(Stored { file, bytes, blake3, plain_blake3 }))
    }

    /// Stores what the encryption ends with; returns the digest of what was encrypted.
    async fn seal_end(&mut self) -> io::Result<Option<String>> {
        let Some(sealer) = self.sealer.take() else { return Ok(None) };
        let (last, digest) = sealer.finish()?;
        self.store(last).await?;
        Ok(Some(digest))
    }

    async fn abort(self) -> Result<Outcome, RepositoryError> {
        self.writer.abort().await.map_err(RepositoryError::io("remove what was written of", self.path))?;
        Ok(Outcome::Aborted)
    }
}
