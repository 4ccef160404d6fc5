//! Decompressing: finds blocks while it reads the stream, has workers decompress them, and returns them in order.
//!
//! If it cannot tell the blocks of a stream apart beforehand, or a block claims more than [`MAX_BLOCK`], it
//! decompresses the rest as one stream: slower, and with the same bound on memory.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use zstd::zstd_safe::{self, DCtx};

use super::format::{
    self, FrameHeader, MAX_BLOCK, MAX_PACKED, MEMBER_HEADER_LEN, MEMBER_TRAILER_LEN, SEEK_FOOTER_LEN,
    SEEK_TABLE_MAGIC, ZSTD_MAGIC, u32_at,
};
use super::ordered::{Ticket, Workers};
use super::source::Source;
use super::{BLOCK_SIZE, default_threads};
use crate::archive::{ArchiveError, BlockProblem, Format};

/// The largest window a foreign zstd stream may ask for: what `zstd -d` grants too.
const WINDOW_LOG_MAX: u32 = 27;
/// The memory that a foreign xz stream may ask for: more than `xz -9` does.
const XZ_MEMORY_MAX: u64 = 256 << 20;
/// How many bytes of a foreign stream are decompressed at once.
const STREAM_BUFFER: usize = 1 << 20;

/// Who wrote the stream, and so how strict the reader may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// [`BlockWriter`](super::BlockWriter): every block and the seek table must be as it writes them.
    #[default]
    Volsnap,
    /// Any tool.
    Foreign,
}

/// Decompresses an archive stream in parallel.
pub struct BlockReader<R: Read> {
    format: Format,
    state: State<R>,
    out: Vec<u8>,
    out_pos: usize,
    out_len: usize,
    position: u64,
}

enum State<R: Read> {
    Blocks(Box<Blocks<R>>),
    Stream(Box<Stream<R>>),
    Failed,
}

impl<R: Read> BlockReader<R> {
    /// Looks at the first bytes of `source` and starts the threads its format needs.
    ///
    /// Passes an unknown compression through: the tar reader will judge it.
    ///
    /// # Errors
    /// If the source cannot be read, or threads cannot be started.
    pub fn open(source: R, origin: Origin) -> Result<Self, ArchiveError> {
        Self::with_threads(source, origin, default_threads())
    }

    /// Like [`open`](Self::open), with a number of threads.
    ///
    /// # Errors
    /// If the source cannot be read, or threads cannot be started.
    pub fn with_threads(source: R, origin: Origin, threads: usize) -> Result<Self, ArchiveError> {
        let mut source = Source::new(source);
        let prefix = source.peek(Format::DETECT_LEN).map_err(reading)?;
        let format = Format::detect(prefix).unwrap_or(Format::Tar);
        let rest = |source| BufReader::with_capacity(STREAM_BUFFER, Cursor::new(Vec::new()).chain(source));
        let stream = |decoder| State::Stream(Box::new(Stream { decoder, block: 0, offset: 0 }));
        let state = match format {
            Format::Tar => stream(Decoder::Plain(source)),
            Format::Bzip2 => stream(Decoder::Bzip2(bzip2::bufread::MultiBzDecoder::new(rest(source)))),
            Format::Xz => {
                let xz =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, liblzma::stream::CONCATENATED);
                let xz = xz.map_err(|error| reading(error.into()))?;
                stream(Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(rest(source), xz)))
            }
            Format::Zstd | Format::Gzip => {
                State::Blocks(Box::new(Blocks::start(source, format, origin, threads.max(1))?))
            }
        };
        Ok(Self { format, state, out: Vec::new(), out_pos: 0, out_len: 0, position: 0 })
    }

    /// Returns the format of the stream.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns how many decompressed bytes were consumed.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Replaces the spent block with the next one that is not empty.
    fn advance(&mut self) -> Result<(), ArchiveError> {
        self.out_pos = 0;
        self.out_len = 0;
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Failed => Err(ArchiveError::AfterFailure),
            State::Stream(mut stream) => {
                self.out.resize(STREAM_BUFFER, 0);
                self.out_len = stream.read(&mut self.out)?;
                self.state = State::Stream(stream);
                Ok(())
            }
            State::Blocks(mut blocks) => match blocks.next(&mut self.out)? {
                Turn::Raw(len) => {
                    self.out_len = len;
                    self.state = State::Blocks(blocks);
                    Ok(())
                }
                Turn::Stream => {
                    self.state = State::Stream(Box::new(blocks.into_stream()?));
                    self.advance()
                }
            },
        }
    }
}

impl<R: Read> BufRead for BlockReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.out_pos == self.out_len {
            self.advance()?;
        }
        Ok(&self.out[self.out_pos..self.out_len])
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.out_len - self.out_pos);
        self.out_pos += count;
        self.position += count as u64;
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

fn reading(source: io::Error) -> ArchiveError {
    ArchiveError::reading("archive", source)
}

/// A block on its way through a worker, with its two buffers.
#[derive(Default)]
struct Job {
    block: u64,
    offset: u64,
    packed: Vec<u8>,
    content: usize,
    raw: Vec<u8>,
}

impl Job {
    fn error(&self, problem: BlockProblem) -> ArchiveError {
        ArchiveError::Block { block: self.block, offset: self.offset, problem }
    }
}

/// What comes next for the reader.
enum Turn {
    /// A number of bytes of the buffer; 0 at the end of the stream.
    Raw(usize),
    /// All blocks are returned; the rest must be read as a stream.
    Stream,
}

/// How finding blocks ended.
enum Ended {
    No,
    Whole,
    /// The rest is no sequence of blocks; this keeps what was already taken of it.
    Stream(Vec<u8>),
    Failed(Option<ArchiveError>),
}

/// The parallel way.
struct Blocks<R: Read> {
    source: Source<R>,
    format: Format,
    origin: Origin,
    workers: Workers<Job, Result<Job, ArchiveError>>,
    depth: usize,
    in_flight: VecDeque<Ticket<Result<Job, ArchiveError>>>,
    spare: Vec<Job>,
    found: u64,
    offset: u64,
    table: TableCheck,
    ended: Ended,
}

/// The digest of what the seek table must say: no number of blocks costs memory.
#[derive(Default)]
struct TableCheck {
    entries: blake3::Hasher,
    frames: u32,
    seen: bool,
}

impl<R: Read> Blocks<R> {
    fn start(
        source: Source<R>,
        format: Format,
        origin: Origin,
        threads: usize,
    ) -> Result<Self, ArchiveError> {
        let workers = Workers::start(threads, move || {
            let mut unpacker = Unpacker::new(format);
            move |job| unpacker.unpack(job)
        })?;
        Ok(Self {
            source,
            format,
            origin,
            workers,
            depth: 2 * threads,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            found: 0,
            offset: 0,
            table: TableCheck::default(),
            ended: Ended::No,
        })
    }

    /// Keeps the workers busy and swaps the next block's content into `out`.
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Turn, ArchiveError> {
        loop {
            while matches!(self.ended, Ended::No) && self.in_flight.len() < self.depth {
                self.feed();
            }
            let Some(ticket) = self.in_flight.pop_front() else {
                return match &mut self.ended {
                    Ended::Stream(_) => Ok(Turn::Stream),
                    // First all good blocks before it, then the error.
                    Ended::Failed(error) => Err(error.take().unwrap_or(ArchiveError::AfterFailure)),
                    Ended::Whole | Ended::No => Ok(Turn::Raw(0)),
                };
            };
            let mut job = ticket.wait()??;
            std::mem::swap(out, &mut job.raw);
            let len = job.content;
            self.spare.push(job);
            if len > 0 {
                return Ok(Turn::Raw(len));
            }
        }
    }

    /// Finds one block and hands it to a worker, or notes how the stream ended.
    fn feed(&mut self) {
        self.offset = self.source.offset();
        let mut job = self.spare.pop().unwrap_or_default();
        job.packed.clear();
        let found = match self.format {
            Format::Zstd => self.find_frame(&mut job),
            Format::Gzip | Format::Bzip2 | Format::Xz | Format::Tar => self.find_member(&mut job),
        };
        let submitted = found.and_then(|found| match found {
            Found::Block => {
                (job.block, job.offset) = (self.found, self.offset);
                self.found += 1;
                self.in_flight.push_back(self.workers.submit(job)?);
                Ok(())
            }
            Found::Nothing => Ok(()),
            Found::End => {
                self.ended = Ended::Whole;
                Ok(())
            }
            Found::Stream => {
                self.ended = Ended::Stream(job.packed);
                Ok(())
            }
        });
        if let Err(error) = submitted {
            self.ended = Ended::Failed(Some(error));
        }
    }

    fn error(&self, problem: BlockProblem) -> ArchiveError {
        ArchiveError::Block { block: self.found, offset: self.offset, problem }
    }

    /// Takes out the rest of the stream, to read it without the workers.
    fn into_stream(self) -> Result<Stream<R>, ArchiveError> {
        let Ended::Stream(taken) = self.ended else { return Err(ArchiveError::AfterFailure) };
        let rest = BufReader::with_capacity(STREAM_BUFFER, Cursor::new(taken).chain(self.source));
        let decoder = match self.format {
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(rest).map_err(reading)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(reading)?;
                Decoder::Zstd(decoder)
            }
            Format::Gzip | Format::Bzip2 | Format::Xz | Format::Tar => {
                Decoder::Gzip(flate2::bufread::MultiGzDecoder::new(rest))
            }
        };
        Ok(Stream { decoder, block: self.found, offset: self.offset })
    }
}

/// What was at the current place of the stream.
enum Found {
    Block,
    Nothing,
    End,
    Stream,
}

// Zstandard
impl<R: Read> Blocks<R> {
    fn find_frame(&mut self, job: &mut Job) -> Result<Found, ArchiveError> {
        let ours = self.origin == Origin::Volsnap;
        let ahead = self.source.peek(FrameHeader::MAX_LEN).map_err(reading)?;
        if ahead.is_empty() {
            let complete = !ours || self.table.seen;
            return if complete { Ok(Found::End) } else { Err(self.error(BlockProblem::Truncated)) };
        }
        let Some(magic) = u32_at(ahead, 0) else { return Err(self.error(BlockProblem::Truncated)) };
        if self.table.seen {
            return Err(self.error(BlockProblem::TrailingGarbage));
        }
        if format::is_skippable(magic) {
            return self.skip_frame(magic);
        }
        if magic != ZSTD_MAGIC {
            return Err(self.error(BlockProblem::TrailingGarbage));
        }
        let Some(header) = FrameHeader::parse(ahead) else {
            let cut = ahead.len() < FrameHeader::MAX_LEN;
            return Err(self.error(if cut { BlockProblem::Truncated } else { damaged("frame header") }));
        };
        match header.content.map(usize::try_from) {
            Some(Ok(content)) if content <= MAX_BLOCK && (header.ours || !ours) => {
                job.content = content;
                self.take_frame(&header, job)
            }
            _ if ours => Err(self.error(damaged("frame header"))),
            _ => Ok(Found::Stream),
        }
    }

    /// Takes a whole frame; its inner blocks tell its end.
    fn take_frame(&mut self, header: &FrameHeader, job: &mut Job) -> Result<Found, ArchiveError> {
        self.take(header.len, &mut job.packed)?;
        loop {
            let ahead = self.source.peek(3).map_err(reading)?;
            if ahead.len() < 3 {
                return Err(self.error(BlockProblem::Truncated));
            }
            let Some((len, last)) = format::inner_block(ahead) else {
                return Err(self.error(damaged("reserved block type")));
            };
            if job.packed.len() + len > MAX_PACKED {
                return Ok(Found::Stream);
            }
            self.take(len, &mut job.packed)?;
            if last {
                break;
            }
        }
        if header.checksum {
            self.take(4, &mut job.packed)?;
        }
        self.table.push(job);
        Ok(Found::Block)
    }

    /// Skips a skippable frame; checks the seek table among them if it is ours.
    fn skip_frame(&mut self, magic: u32) -> Result<Found, ArchiveError> {
        let mut header = Vec::with_capacity(8);
        self.take(8, &mut header)?;
        let len = u64::from(u32_at(&header, 4).unwrap_or(0));
        if self.origin == Origin::Volsnap {
            let expected = u64::from(self.table.frames) * 8 + SEEK_FOOTER_LEN as u64;
            if magic != SEEK_TABLE_MAGIC || len != expected {
                return Err(self.error(BlockProblem::SeekTable));
            }
        }
        let digest = self.digest_next(len)?;
        if self.origin == Origin::Volsnap {
            if digest != self.table.digest() {
                return Err(self.error(BlockProblem::SeekTable));
            }
            self.table.seen = true;
        }
        Ok(Found::Nothing)
    }

    /// Consumes `len` bytes and returns their digest.
    fn digest_next(&mut self, len: u64) -> Result<blake3::Hash, ArchiveError> {
        let mut hasher = blake3::Hasher::new();
        let mut piece = Vec::new();
        let mut left = len;
        while left > 0 {
            piece.clear();
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(64 * 1024);
            self.take(count, &mut piece)?;
            hasher.update(&piece);
            left -= count as u64;
        }
        Ok(hasher.finalize())
    }

    fn take(&mut self, count: usize, out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let complete = self.source.take_into(count, out).map_err(reading)?;
        if complete { Ok(()) } else { Err(self.error(BlockProblem::Truncated)) }
    }
}

impl TableCheck {
    fn push(&mut self, job: &Job) {
        // Both are bounded by MAX_PACKED.
        let (packed, raw) = (u32::try_from(job.packed.len()), u32::try_from(job.content));
        self.entries.update(&format::seek_entry(packed.unwrap_or(0), raw.unwrap_or(0)));
        self.frames = self.frames.saturating_add(1);
    }

    fn digest(&self) -> blake3::Hash {
        let mut whole = self.entries.clone();
        whole.update(&format::seek_footer(self.frames)).finalize()
    }
}

// Gzip
impl<R: Read> Blocks<R> {
    fn find_member(&mut self, job: &mut Job) -> Result<Found, ArchiveError> {
        let ours = self.origin == Origin::Volsnap;
        let ahead = self.source.peek(MEMBER_HEADER_LEN).map_err(reading)?;
        if ahead.is_empty() {
            return Ok(Found::End);
        }
        let is_cut = ahead.len() < MEMBER_HEADER_LEN;
        let is_gzip = ahead.starts_with(&[0x1f, 0x8b]);
        let smallest = MEMBER_HEADER_LEN + MEMBER_TRAILER_LEN;
        match format::member_len(ahead) {
            Some(len) if (smallest..=MAX_PACKED).contains(&len) => self.take_member(len, job),
            _ if !is_gzip => Err(self.error(BlockProblem::TrailingGarbage)),
            _ if ours && is_cut => Err(self.error(BlockProblem::Truncated)),
            _ if ours => Err(self.error(damaged("member header"))),
            _ => Ok(Found::Stream),
        }
    }

    fn take_member(&mut self, len: usize, job: &mut Job) -> Result<Found, ArchiveError> {
        self.take(len, &mut job.packed)?;
        let content = u32_at(&job.packed, len - 4).unwrap_or(0) as usize;
        if content > MAX_BLOCK {
            return if self.origin == Origin::Volsnap {
                Err(self.error(damaged("member size")))
            } else {
                Ok(Found::Stream)
            };
        }
        job.content = content;
        Ok(Found::Block)
    }
}

fn damaged(what: &str) -> BlockProblem {
    BlockProblem::Corrupt { what: what.to_owned() }
}

/// One worker's decompressor.
enum Unpacker {
    Zstd(DCtx<'static>),
    Gzip(libdeflater::Decompressor),
}

impl Unpacker {
    fn new(format: Format) -> Self {
        match format {
            Format::Zstd => Self::Zstd(DCtx::create()),
            Format::Gzip | Format::Bzip2 | Format::Xz | Format::Tar => {
                Self::Gzip(libdeflater::Decompressor::new())
            }
        }
    }

    fn unpack(&mut self, mut job: Job) -> Result<Job, ArchiveError> {
        // The buffer only grows, so its zeros are written once.
        if job.raw.len() < job.content {
            job.raw.resize(job.content.max(BLOCK_SIZE), 0);
        }
        let raw = &mut job.raw[..job.content];
        let unpacked = match self {
            Self::Zstd(context) => unpack_zstd(context, &job.packed, raw),
            Self::Gzip(decompressor) => unpack_gzip(decompressor, &job.packed, raw),
        };
        match unpacked {
            Ok(len) if len == job.content => Ok(job),
            Ok(_) => Err(job.error(damaged("its content is shorter than it says"))),
            Err(problem) => Err(job.error(problem)),
        }
    }
}

fn unpack_zstd(context: &mut DCtx<'_>, packed: &[u8], raw: &mut [u8]) -> Result<usize, BlockProblem> {
    context.decompress(raw, packed).map_err(|code| zstd_problem(zstd_safe::get_error_name(code)))
}

/// Returns the problem behind an error of zstd, which tells its errors apart by their text.
fn zstd_problem(what: &str) -> BlockProblem {
    if what.contains("checksum") { BlockProblem::Checksum } else { damaged(what) }
}

fn unpack_gzip(
    decompressor: &mut libdeflater::Decompressor,
    packed: &[u8],
    raw: &mut [u8],
) -> Result<usize, BlockProblem> {
    let trailer = packed.len() - MEMBER_TRAILER_LEN;
    let deflated = &packed[MEMBER_HEADER_LEN..trailer];
    let len = decompressor.deflate_decompress(deflated, raw).map_err(|error| damaged(&error.to_string()))?;
    if u32_at(packed, trailer) == Some(libdeflater::crc32(&raw[..len])) {
        Ok(len)
    } else {
        Err(BlockProblem::Checksum)
    }
}

type Rest<R> = BufReader<Chain<Cursor<Vec<u8>>, Source<R>>>;

/// The sequential way.
struct Stream<R: Read> {
    decoder: Decoder<R>,
    block: u64,
    offset: u64,
}

enum Decoder<R: Read> {
    Zstd(zstd::stream::read::Decoder<'static, Rest<R>>),
    Gzip(flate2::bufread::MultiGzDecoder<Rest<R>>),
    Bzip2(bzip2::bufread::MultiBzDecoder<Rest<R>>),
    Xz(liblzma::bufread::XzDecoder<Rest<R>>),
    Plain(Source<R>),
}

impl<R: Read> Stream<R> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, ArchiveError> {
        let result = match &mut self.decoder {
            Decoder::Zstd(decoder) => decoder.read(out),
            Decoder::Gzip(decoder) => decoder.read(out),
            Decoder::Bzip2(decoder) => decoder.read(out),
            Decoder::Xz(decoder) => decoder.read(out),
            Decoder::Plain(source) => return source.read(out).map_err(reading),
        };
        result.map_err(|error| {
            let problem = match error.kind() {
                io::ErrorKind::UnexpectedEof => BlockProblem::Truncated,
                // The decompressors report bad data like this; anything else is a failure of the source.
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                    zstd_problem(&error.to_string())
                }
                _ => return reading(error),
            };
            ArchiveError::Block { block: self.block, offset: self.offset, problem }
        })
    }
}
