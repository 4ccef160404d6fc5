//! Compressing: the caller fills blocks, workers compress them, one thread writes them in order.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use zstd::zstd_safe::{self, CCtx, CParameter};

use super::format::{MEMBER_HEADER_LEN, MEMBER_TRAILER_LEN, SeekTable, member_header};
use super::ordered::{Ticket, Workers};
use super::{BLOCK_SIZE, BlockOptions, Fill};
use crate::archive::{ArchiveError, Codec};

/// How often a wait looks whether the run was cancelled.
const PATIENCE: Duration = Duration::from_millis(50);
/// The name of the stream in messages.
const ARCHIVE: &str = "archive";

/// What went through a [`BlockWriter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockStats {
    /// Bytes before compression.
    pub raw_bytes: u64,
    /// Bytes written to the sink.
    pub stored_bytes: u64,
    /// Blocks written.
    pub blocks: u64,
}

/// Compresses what is written to it into a sink, block by block and in parallel.
///
/// If dropped without [`finish`](Self::finish), it leaves a truncated stream and waits for nothing.
pub struct BlockWriter<W> {
    current: Block,
    workers: Workers<Block, Result<Block, ArchiveError>>,
    order: Sender<Step>,
    free: Receiver<Block>,
    unborn: usize,
    done: Receiver<Result<(W, BlockStats), ArchiveError>>,
    cancel: Arc<AtomicBool>,
    raw_bytes: u64,
    stored_bytes: Arc<AtomicU64>,
    failed: bool,
}

/// A block's two buffers; they travel together and are reused.
struct Block {
    raw: Vec<u8>,
    filled: usize,
    packed: Vec<u8>,
}

/// Messages to the writing thread.
enum Step {
    Block(Ticket<Result<Block, ArchiveError>>),
    Finish,
}

impl Block {
    fn new() -> Self {
        Self { raw: vec![0; BLOCK_SIZE], filled: 0, packed: Vec::new() }
    }
}

impl<W: Write + Send + 'static> BlockWriter<W> {
    /// Starts the threads that compress into `sink`.
    ///
    /// # Errors
    /// [`ArchiveError::Threads`] if they cannot be started.
    pub fn new(sink: W, options: &BlockOptions) -> Result<Self, ArchiveError> {
        let codec = options.codec;
        let threads = if codec == Codec::None { 1 } else { options.threads.max(1) };
        let workers = Workers::start(threads, move || {
            let mut packer = Packer::new(codec);
            move |block| packer.pack(block)
        })?;
        let (order, steps) = channel();
        let (recycle, free) = channel();
        let (report, done) = channel();
        let stored_bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&stored_bytes);
        thread::Builder::new()
            .name("block-write".to_owned())
            .spawn(move || {
                let result = write_in_order(sink, codec, &steps, &recycle, &counter);
                // Whoever dropped the writer does not need the outcome.
                let _dropped = report.send(result);
            })
            .map_err(|source| ArchiveError::Threads { source })?;
        Ok(Self {
            current: Block::new(),
            workers,
            order,
            free,
            unborn: 2 * threads,
            done,
            cancel: Arc::clone(&options.cancel),
            raw_bytes: 0,
            stored_bytes,
            failed: false,
        })
    }

    /// Returns how many bytes were taken so far.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Returns a counter of the bytes written to the sink so far; any thread may read it.
    #[must_use]
    pub fn stored_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.stored_bytes)
    }

    /// Compresses the rest, waits until everything is written, and returns the flushed sink.
    ///
    /// # Errors
    /// The failure of the sink or of a worker, or [`ArchiveError::Cancelled`].
    pub fn finish(mut self) -> Result<(W, BlockStats), ArchiveError> {
        self.check_usable()?;
        // A gzip stream needs a member, so even an empty stream is one block.
        if self.current.filled > 0 || self.raw_bytes == 0 {
            let last = std::mem::replace(
                &mut self.current,
                Block { raw: Vec::new(), filled: 0, packed: Vec::new() },
            );
            self.submit(last)?;
        }
        // If the writing thread is gone, it has left its reason in `done`.
        let _gone = self.order.send(Step::Finish);
        self.wait_done()
    }

    /// Returns the free part of the current block, at least one byte.
    fn tail(&mut self) -> Result<&mut [u8], ArchiveError> {
        self.check_usable()?;
        if self.current.filled == BLOCK_SIZE {
            let next = self.next_block();
            let next = next.inspect_err(|_| self.failed = true)?;
            let full = std::mem::replace(&mut self.current, next);
            self.submit(full)?;
        }
        Ok(&mut self.current.raw[self.current.filled..])
    }

    fn advance(&mut self, count: usize) {
        let count = count.min(BLOCK_SIZE - self.current.filled);
        self.current.filled += count;
        self.raw_bytes += count as u64;
    }

    fn check_usable(&self) -> Result<(), ArchiveError> {
        if self.failed { Err(ArchiveError::AfterFailure) } else { Ok(()) }
    }

    fn submit(&mut self, block: Block) -> Result<(), ArchiveError> {
        let ticket = self.workers.submit(block).inspect_err(|_| self.failed = true)?;
        if self.order.send(Step::Block(ticket)).is_err() {
            self.failed = true;
            return Err(self.reason());
        }
        Ok(())
    }

    /// Returns an empty block: a new one while the limit allows it, else one that was written.
    fn next_block(&mut self) -> Result<Block, ArchiveError> {
        if let Ok(block) = self.free.try_recv() {
            return Ok(block);
        }
        if self.unborn > 0 {
            self.unborn -= 1;
            return Ok(Block::new());
        }
        loop {
            match self.free.recv_timeout(PATIENCE) {
                Ok(block) => return Ok(block),
                Err(RecvTimeoutError::Disconnected) => return Err(self.reason()),
                Err(RecvTimeoutError::Timeout) if self.is_cancelled() => {
                    return Err(ArchiveError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Returns why the writing thread ended early.
    fn reason(&self) -> ArchiveError {
        match self.wait_done() {
            Err(error) => error,
            Ok(_) => ArchiveError::AfterFailure,
        }
    }

    fn wait_done(&self) -> Result<(W, BlockStats), ArchiveError> {
        loop {
            match self.done.recv_timeout(PATIENCE) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err(ArchiveError::WorkerDied),
                Err(RecvTimeoutError::Timeout) if self.is_cancelled() => {
                    return Err(ArchiveError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

impl<W: Write + Send + 'static> Write for BlockWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let tail = self.tail()?;
        let count = tail.len().min(bytes.len());
        tail[..count].copy_from_slice(&bytes[..count]);
        self.advance(count);
        Ok(count)
    }

    /// Does nothing: a block is written when it is full, the last one by `finish`.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Send + 'static> Fill for BlockWriter<W> {
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let count = read(self.tail()?)?;
        self.advance(count);
        Ok(count)
    }
}

/// The thread that writes every block in its turn, then the table.
fn write_in_order<W: Write>(
    mut sink: W,
    codec: Codec,
    steps: &Receiver<Step>,
    recycle: &Sender<Block>,
    stored_bytes: &AtomicU64,
) -> Result<(W, BlockStats), ArchiveError> {
    let failed = |source| ArchiveError::writing(ARCHIVE, source);
    let mut stats = BlockStats::default();
    let mut table = SeekTable::default();
    for step in steps {
        let Step::Block(ticket) = step else {
            if let (Codec::Zstd { .. }, Some(frame)) = (codec, table.into_frame()) {
                sink.write_all(&frame).map_err(failed)?;
                stats.stored_bytes += frame.len() as u64;
            }
            sink.flush().map_err(failed)?;
            stored_bytes.store(stats.stored_bytes, Ordering::Relaxed);
            return Ok((sink, stats));
        };
        let mut block = ticket.wait()??;
        let stored = if codec == Codec::None { &block.raw[..block.filled] } else { &block.packed };
        sink.write_all(stored).map_err(failed)?;
        let (packed, raw) = (u32_len(stored.len()), u32_len(block.filled));
        table.push(packed, raw);
        stats.raw_bytes += u64::from(raw);
        stats.stored_bytes += u64::from(packed);
        stats.blocks += 1;
        stored_bytes.store(stats.stored_bytes, Ordering::Relaxed);
        block.filled = 0;
        // The caller may have finished, and then needs no more blocks.
        let _finished = recycle.send(block);
    }
    Err(ArchiveError::Cancelled)
}

/// Returns the length of a block, which is always far below 4 GiB.
fn u32_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// One worker's compressor.
enum Packer {
    Zstd { context: Box<CCtx<'static>>, level: i32 },
    Gzip(libdeflater::Compressor),
    None,
}

impl Packer {
    fn new(codec: Codec) -> Self {
        match codec {
            Codec::Zstd { level } => Self::Zstd { context: Box::new(CCtx::create()), level },
            Codec::Gzip { level } => Self::Gzip(libdeflater::Compressor::new(
                libdeflater::CompressionLvl::new(level).unwrap_or_default(),
            )),
            Codec::None => Self::None,
        }
    }

    fn pack(&mut self, mut block: Block) -> Result<Block, ArchiveError> {
        let raw = &block.raw[..block.filled];
        match self {
            Self::Zstd { context, level } => pack_zstd(context, *level, raw, &mut block.packed)?,
            Self::Gzip(compressor) => pack_gzip(compressor, raw, &mut block.packed)?,
            Self::None => {}
        }
        Ok(block)
    }
}

/// The least effort of zstd.
const LEAST_LEVEL: i32 = 1;
/// How many samples judge a block, and their size.
const SAMPLES: usize = 4;
const SAMPLE_SIZE: usize = 32 * 1024;
/// A saving of less than one part in twenty is not worth more effort.
const WORTHWHILE: usize = 20;

/// Compresses a block at `level`, or at the lowest level if more effort would be wasted.
///
/// Measured on table files full of random bytes, a few in a hundred of which compress: level 3 makes
/// 454 MB/s and saves 2.7 %, level 1 makes 1570 MB/s and saves 2.7 %.
fn pack_zstd(
    context: &mut CCtx<'_>,
    level: i32,
    raw: &[u8],
    packed: &mut Vec<u8>,
) -> Result<(), ArchiveError> {
    if level > LEAST_LEVEL && raw.len() > SAMPLES * SAMPLE_SIZE {
        pack_zstd_at(context, LEAST_LEVEL, &samples(raw), packed)?;
        if !saves_enough(SAMPLES * SAMPLE_SIZE, packed.len()) {
            pack_zstd_at(context, LEAST_LEVEL, raw, packed)?;
            // The samples may have missed what compresses.
            if !saves_enough(raw.len(), packed.len()) {
                return Ok(());
            }
        }
    }
    pack_zstd_at(context, level, raw, packed)
}

fn saves_enough(raw: usize, packed: usize) -> bool {
    packed < raw - raw / WORTHWHILE
}

/// Returns pieces spread evenly over a block.
fn samples(raw: &[u8]) -> Vec<u8> {
    let stride = raw.len() / SAMPLES;
    (0..SAMPLES).flat_map(|index| &raw[index * stride..][..SAMPLE_SIZE]).copied().collect()
}

fn pack_zstd_at(
    context: &mut CCtx<'_>,
    level: i32,
    raw: &[u8],
    packed: &mut Vec<u8>,
) -> Result<(), ArchiveError> {
    let failed = |code| {
        let source = io::Error::other(zstd_safe::get_error_name(code));
        ArchiveError::Write { what: ARCHIVE, source }
    };
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
    // The window is the block: a reader needs no other memory, and the header has only one form.
    context.set_parameter(CParameter::WindowLog(BLOCK_SIZE.ilog2())).map_err(failed)?;
    context.set_parameter(CParameter::ChecksumFlag(true)).map_err(failed)?;
    context.set_parameter(CParameter::ContentSizeFlag(true)).map_err(failed)?;
    packed.clear();
    packed.reserve(zstd_safe::compress_bound(raw.len()));
    context.compress2(packed, raw).map_err(failed)?;
    Ok(())
}

fn pack_gzip(
    compressor: &mut libdeflater::Compressor,
    raw: &[u8],
    packed: &mut Vec<u8>,
) -> Result<(), ArchiveError> {
    let bound = compressor.deflate_compress_bound(raw.len());
    packed.resize(MEMBER_HEADER_LEN + bound + MEMBER_TRAILER_LEN, 0);
    let deflated = compressor
        .deflate_compress(raw, &mut packed[MEMBER_HEADER_LEN..])
        .map_err(|error| ArchiveError::writing(ARCHIVE, io::Error::other(error)))?;
    packed.truncate(MEMBER_HEADER_LEN + deflated);
    packed.extend_from_slice(&libdeflater::crc32(raw).to_le_bytes());
    packed.extend_from_slice(&u32_len(raw.len()).to_le_bytes());
    let header = member_header(u32_len(packed.len()));
    packed[..MEMBER_HEADER_LEN].copy_from_slice(&header);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no level makes smaller.
    fn random(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_the_samples_miss_is_compressed_all_the_same() {
        let mut raw = random(BLOCK_SIZE);
        let stride = BLOCK_SIZE / SAMPLES;
        // Text everywhere but where the samples are taken.
        for index in 0..SAMPLES {
            let text = &mut raw[index * stride + SAMPLE_SIZE..(index + 1) * stride];
            text.iter_mut().enumerate().for_each(|(at, byte)| *byte = b"a row of a table; "[at % 18]);
        }
        let (mut context, mut packed) = (CCtx::create(), Vec::new());
        pack_zstd(&mut context, 3, &raw, &mut packed).unwrap();
        assert!(packed.len() < SAMPLES * SAMPLE_SIZE + BLOCK_SIZE / 50, "{}", packed.len());
        assert_eq!(zstd::bulk::decompress(&packed, BLOCK_SIZE).unwrap(), raw);
    }

    #[test]
    fn what_cannot_be_compressed_hardly_grows() {
        let raw = random(BLOCK_SIZE);
        let (mut context, mut packed) = (CCtx::create(), Vec::new());
        pack_zstd(&mut context, 3, &raw, &mut packed).unwrap();
        assert!(packed.len() < BLOCK_SIZE + BLOCK_SIZE / 1000, "{}", packed.len());
        assert_eq!(zstd::bulk::decompress(&packed, BLOCK_SIZE).unwrap(), raw);
    }

    struct Failing;

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Panicking;

    impl Write for Panicking {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("the panic of this test")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            loop {
                thread::park();
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pump<W: Write + Send + 'static>(sink: W, options: &BlockOptions) -> ArchiveError {
        let mut writer = BlockWriter::new(sink, options).unwrap();
        let chunk = vec![1; BLOCK_SIZE];
        for _ in 0..100 {
            if let Err(error) = writer.write_all(&chunk) {
                return ArchiveError::writing("test", error);
            }
        }
        writer.finish().map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_sink_that_fails_is_an_error_that_says_why() {
        let options = BlockOptions { codec: Codec::None, ..BlockOptions::default() };
        let ArchiveError::Write { what, source } = pump(Failing, &options) else { panic!() };
        assert_eq!((what, source.kind()), (ARCHIVE, io::ErrorKind::StorageFull));
    }

    #[test]
    fn a_sink_that_panics_is_an_error() {
        let options = BlockOptions { codec: Codec::None, ..BlockOptions::default() };
        assert!(matches!(pump(Panicking, &options), ArchiveError::WorkerDied));
    }

    #[test]
    fn a_sink_that_takes_nothing_can_be_cancelled() {
        let options = BlockOptions { codec: Codec::None, threads: 1, ..BlockOptions::default() };
        let cancel = Arc::clone(&options.cancel);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            cancel.store(true, Ordering::Relaxed);
        });
        assert!(matches!(pump(Stuck, &options), ArchiveError::Cancelled));
    }
}
