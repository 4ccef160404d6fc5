//! The block codec: cuts a stream into blocks, and compresses and decompresses them in parallel.
//!
//! A pool of threads compresses every block on its own, and one thread writes them in order. So
//!
//! - plain `zstd -dc` and `gzip -dc` read the whole stream: zstd frames and gzip members may follow
//!   each other;
//! - a reader needs no more than one block to begin anywhere: zstd streams end with the table of the
//!   [seekable format], gzip members carry their length in an extra field as BGZF's do;
//! - memory is two blocks (in and out) for each of twice as many blocks as there are threads.
//!
//! [seekable format]: https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md

mod format;
mod ordered;
mod reader;
mod source;
mod writer;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use reader::{BlockReader, Origin};
pub use writer::{BlockStats, BlockWriter};

use super::Codec;

/// How many bytes of the stream are compressed as one block.
pub const BLOCK_SIZE: usize = 4 << 20;

/// More threads than this outrun the pipe that carries their output.
const MAX_THREADS: usize = 16;

/// Returns how many threads compress or decompress by default: one for each processor.
#[must_use]
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// How to compress a stream.
#[derive(Debug, Clone)]
pub struct BlockOptions {
    /// The codec and its level.
    pub codec: Codec,
    /// How many threads compress.
    pub threads: usize,
    /// Ends every wait with [`Cancelled`](super::ArchiveError::Cancelled) once it is true.
    pub cancel: Arc<AtomicBool>,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self { codec: Codec::default(), threads: default_threads(), cancel: Arc::default() }
    }
}

/// A sink that lends its buffer, to save a copy of what is read from a file.
pub trait Fill: Write {
    /// Lends a free buffer of at least one byte to `read`, and keeps as many bytes as it returns.
    ///
    /// # Errors
    /// What `read` returned, or a failure of the sink, an [`ArchiveError`](super::ArchiveError)
    /// inside.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize>;
}

impl Fill for Vec<u8> {
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let filled = self.len();
        self.resize(filled + 64 * 1024, 0);
        let result = read(&mut self[filled..]);
        self.truncate(filled + result.as_ref().unwrap_or(&0));
        result
    }
}

#[cfg(test)]
mod tests;
