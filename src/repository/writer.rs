//! The writer of an object that may be big: a thread that digests and stores what it is fed.
//!
//! The thread is fed through a bounded channel, so memory is bounded and a slow disk slows whoever
//! feeds it. A writer that is dropped without [`finish`](ObjectWriter::finish) leaves nothing.

use std::path::PathBuf;
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::error::RepositoryError;
use super::storage::{ObjectSink, Storage};
use crate::outside::{Outside, Token};

/// Chunks that wait for the writer; with those of 4 MiB, 16 MiB.
const QUEUE: usize = 4;

/// Writes a new object of a repository.
#[derive(Debug)]
pub struct ObjectWriter {
    feed: mpsc::Sender<Message>,
    outcome: oneshot::Receiver<Result<Outcome, RepositoryError>>,
    path: PathBuf,
    failed: bool,
}

/// An object that is durable under its name: what the manifest says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// File name in the source's directory.
    pub file: String,
    /// Bytes stored.
    pub bytes: u64,
    /// BLAKE3 of the stored bytes, hexadecimal.
    pub blake3: String,
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

impl ObjectWriter {
    /// Begins the object `folder/file`.
    pub(super) fn create(storage: &dyn Storage, folder: &str, file: &str) -> Result<Self, RepositoryError> {
        let name = format!("{folder}/{file}");
        let path = storage.locate(&name);
        let sink = storage.create(&name).map_err(|source| RepositoryError::write(&path, 0, source))?;
        let (feed, messages) = mpsc::channel(QUEUE);
        let (tell, outcome) = oneshot::channel();
        let task = WriterTask {
            sink,
            path: path.clone(),
            file: file.to_owned(),
            bytes: 0,
            digest: blake3::Hasher::new(),
        };
        let alive = Outside::alive();
        thread::Builder::new()
            .name("volsnap-writer".to_owned())
            .spawn(move || {
                let _alive = alive;
                let (outcome, _busy) = task.run(messages);
                // Whoever is gone does not need to be told.
                let _ = tell.send(outcome);
            })
            .map_err(|source| RepositoryError::write(&path, 0, source))?;
        Ok(Self { feed, outcome, path, failed: false })
    }

    /// Appends bytes, in chunks of at most 4 MiB for memory to stay bounded. Returns when there is
    /// room for more, not when they are stored. Safe to cancel: the chunk is then not appended.
    ///
    /// # Errors
    /// When an earlier chunk could not be stored; nothing of the object is left then.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), RepositoryError> {
        match self.feed.send(Message::Data(chunk, Outside::busy())).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Waits until everything is durable under the object's name. When this is cancelled, the object
    /// may still get its name; removing its partial name and then the whole one undoes either.
    ///
    /// # Errors
    /// When anything could not be stored; nothing of the object is left then.
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

/// The thread's side.
struct WriterTask {
    sink: Box<dyn ObjectSink>,
    path: PathBuf,
    file: String,
    bytes: u64,
    digest: blake3::Hasher,
}

impl WriterTask {
    /// Returns what came of it, and what is to be held until that is told.
    fn run(mut self, mut messages: mpsc::Receiver<Message>) -> (Result<Outcome, RepositoryError>, Token) {
        loop {
            match messages.blocking_recv() {
                Some(Message::Data(chunk, busy)) => {
                    if let Err(source) = self.sink.write(&chunk) {
                        let error = RepositoryError::write(&self.path, self.sink.stored(), source);
                        if let Err(left) = self.abort() {
                            tracing::warn!(error = %left, "a failed write left something");
                        }
                        return (Err(error), busy);
                    }
                    self.digest.update(&chunk);
                    self.bytes += chunk.len() as u64;
                }
                Some(Message::Finish(busy)) => return (self.finish(), busy),
                None => return (self.abort(), Token::default()),
            }
        }
    }

    fn finish(self) -> Result<Outcome, RepositoryError> {
        let Self { sink, path, file, bytes, digest } = self;
        sink.finish().map_err(|source| RepositoryError::write(&path, bytes, source))?;
        Ok(Outcome::Stored(Stored { file, bytes, blake3: digest.finalize().to_hex().to_string() }))
    }

    fn abort(self) -> Result<Outcome, RepositoryError> {
        self.sink.abort().map_err(RepositoryError::io("remove what was written of", self.path))?;
        Ok(Outcome::Aborted)
    }
}
