//! An object's bytes on their way: asynchronous from the store, with one bridge to synchronous readers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::thread;

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _};
use tokio::runtime::{Handle, RuntimeFlavor};

/// How many bytes of a file are read at once.
const PIECE: usize = 1 << 20;

type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The bytes of an object, or of a range of it.
pub struct ByteStream {
    length: u64,
    source: Source,
}

enum Source {
    /// A file, read where it is. `None` once a read was dropped.
    File(Option<io::Take<File>>),
    Pieces(Pieces),
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").field("length", &self.length).finish_non_exhaustive()
    }
}

impl ByteStream {
    /// Returns the `length` bytes that arrive in pieces.
    #[must_use]
    pub fn new(length: u64, pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self { length, source: Source::Pieces(Box::pin(pieces)) }
    }

    /// Returns bytes that are in memory.
    #[must_use]
    pub fn of_bytes(bytes: Bytes) -> Self {
        Self::new(bytes.len() as u64, futures_util::stream::iter([Ok(bytes)]))
    }

    /// Returns the next `length` bytes of a file.
    #[must_use]
    pub fn of_file(file: File, length: u64) -> Self {
        Self { length, source: Source::File(Some(file.take(length))) }
    }

    /// Returns how many bytes there are in all, as the store said at the request.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read, or an earlier read was dropped.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match &mut self.source {
            Source::Pieces(pieces) => pieces.next().await.transpose(),
            Source::File(file) => {
                let mut taken =
                    file.take().ok_or_else(|| io::Error::other("an earlier read was given up"))?;
                let (taken, read) = blocking(move || {
                    let mut piece = vec![0; PIECE];
                    let read = read_some(&mut taken, &mut piece);
                    Ok((taken, read.map(|count| (count > 0).then(|| piece_of(piece, count)))))
                })
                .await?;
                *file = Some(taken);
                read
            }
        }
    }

    /// Returns all of it.
    ///
    /// # Errors
    /// When it cannot be read, or is longer than `limit`.
    pub async fn read_to_end(mut self, limit: u64) -> io::Result<Vec<u8>> {
        let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes"));
        if self.length > limit {
            return Err(too_long());
        }
        let mut contents = Vec::new();
        while let Some(piece) = self.next().await? {
            if (contents.len() + piece.len()) as u64 > limit {
                return Err(too_long());
            }
            contents.extend_from_slice(&piece);
        }
        Ok(contents)
    }

    /// Returns a synchronous reader.
    #[must_use]
    pub fn into_reader(self) -> ObjectReader {
        let source = match self.source {
            Source::File(file) => ReaderSource::File(file),
            Source::Pieces(pieces) => ReaderSource::Pieces { pieces, current: Bytes::new() },
        };
        ObjectReader { length: self.length, source }
    }
}

fn read_some(file: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn piece_of(mut piece: Vec<u8>, count: usize) -> Bytes {
    piece.truncate(count);
    piece.into()
}

/// Reads an object synchronously.
///
/// It is the bridge from the stores, which are asynchronous, to the readers of archives, which are not. Use it on
/// threads that may block. It reads a file of this machine like any other, and waits for the pieces of a store
/// elsewhere.
pub struct ObjectReader {
    length: u64,
    source: ReaderSource,
}

enum ReaderSource {
    File(Option<io::Take<File>>),
    Pieces { pieces: Pieces, current: Bytes },
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectReader").field("length", &self.length).finish_non_exhaustive()
    }
}

impl ObjectReader {
    /// Returns how many bytes the object has, as the store said when it was opened.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Opens an object on this side of the bridge: waits for `opened`.
    pub(crate) fn open(opened: impl Future<Output = io::Result<ByteStream>> + Send) -> io::Result<Self> {
        Ok(wait(opened)?.into_reader())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            ReaderSource::File(file) => file.as_mut().map_or(Ok(0), |file| file.read(buffer)),
            ReaderSource::Pieces { pieces, current } => {
                while current.is_empty() {
                    match wait(async { pieces.next().await.transpose() })? {
                        Some(piece) => *current = piece,
                        None => return Ok(0),
                    }
                }
                let count = current.len().min(buffer.len());
                current.copy_to_slice(&mut buffer[..count]);
                Ok(count)
            }
        }
    }
}

/// Waits on this thread for a future.
fn wait<T: Send>(future: impl Future<Output = io::Result<T>> + Send) -> io::Result<T> {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            // If this is a thread of the runtime, its other tasks go on elsewhere.
            tokio::task::block_in_place(|| handle.block_on(future))
        }
        // A runtime of one thread must not wait for itself on it.
        Ok(handle) => thread::scope(|scope| {
            let waiting = scope.spawn(|| handle.block_on(future));
            waiting.join().unwrap_or_else(|_| Err(io::Error::other("the waiting thread panicked")))
        }),
        Err(_) => tokio::runtime::Builder::new_current_thread().build()?.block_on(future),
    }
}

/// Does blocking work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
