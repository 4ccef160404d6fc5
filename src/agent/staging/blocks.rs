//! The content of one file, block by block: a block that the stage already has is not written again.
//!
//! The hashes of a file describe what its file *in the stage* holds: each block's bytes, and where its holes are. A
//! block is written exactly when the source's hash differs. So the hashes may be as old as they like, but are dropped
//! as soon as a write fails half-way.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::Whence;
use twox_hash::XxHash3_128;

use crate::agent::tree::seek;

/// The unit of comparison: 16 bytes of hash for each, 6.4 MB for 100 GB.
pub(super) const BLOCK: usize = 256 * 1024;

/// What a block of the stage holds.
pub(super) type Hash = u128;
/// A block that is nothing but a hole.
pub(super) const HOLE: Hash = 0;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Hashes blocks with a key: whoever writes the data cannot construct two blocks with one hash.
#[derive(Debug, Clone)]
pub(super) struct BlockHasher {
    secret: [u8; Self::SECRET_LENGTH],
}

impl BlockHasher {
    pub(super) const SECRET_LENGTH: usize = 192;

    pub(super) fn new(secret: [u8; Self::SECRET_LENGTH]) -> Self {
        Self { secret }
    }

    /// Returns a hasher whose secret nobody knows.
    pub(super) fn random() -> io::Result<Self> {
        let mut secret = [0; Self::SECRET_LENGTH];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        Ok(Self { secret })
    }

    pub(super) fn secret(&self) -> &[u8; Self::SECRET_LENGTH] {
        &self.secret
    }

    /// Returns the hash of a block that holds `content`; everything outside the `data` ranges is a hole.
    fn hash(&self, content: &[u8], data: &[Range<usize>]) -> Hash {
        let hash = self.digest(content);
        let is_dense = matches!(data, [whole] if *whole == (0..content.len()));
        if is_dense {
            return hash;
        }
        let mut layout = hash.to_le_bytes().to_vec();
        for range in data {
            layout.extend_from_slice(&(range.start as u64).to_le_bytes());
            layout.extend_from_slice(&(range.end as u64).to_le_bytes());
        }
        self.digest(&layout)
    }

    fn digest(&self, bytes: &[u8]) -> Hash {
        match XxHash3_128::oneshot_with_secret(&self.secret, bytes) {
            Ok(hash) => hash.max(HOLE + 1),
            Err(_) => unreachable!("only a shorter secret is refused"),
        }
    }
}

/// Returns how many blocks a file of this size has.
pub(super) fn block_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX)
}

/// Why a block was not copied.
#[derive(Debug)]
pub(super) enum BlockError {
    /// The source cannot be read.
    Read(io::Error),
    /// The source ends here, before the size that it had.
    Ended(u64),
    /// The stage cannot be written.
    Write(io::Error),
}

/// Counts the copying of blocks as it goes on.
pub(super) trait Account {
    /// So many bytes were read, or are a hole that need not be.
    fn read(&self, read: u64, hole: u64);
    /// So many bytes are about to be written.
    fn write(&self, bytes: u64) -> io::Result<()>;
}

/// Copies blocks of one file.
pub(super) struct BlockCopier<'a> {
    pub(super) hasher: &'a BlockHasher,
    pub(super) source: &'a File,
    /// How many bytes of the source count.
    pub(super) size: u64,
    /// Whether the source may have holes.
    pub(super) is_sparse: bool,
    pub(super) dest: &'a File,
    pub(super) account: &'a dyn Account,
    /// Room for one block.
    pub(super) buffer: &'a mut Vec<u8>,
}

impl BlockCopier<'_> {
    /// Makes the stage's blocks from `first` on equal to the source's. `hashes` first describes the old blocks, and
    /// then the new ones.
    pub(super) fn copy(&mut self, first: usize, hashes: &mut [Hash]) -> Result<(), BlockError> {
        let start = first as u64 * BLOCK as u64;
        let end = (start + hashes.len() as u64 * BLOCK as u64).min(self.size);
        self.buffer.resize(BLOCK, 0);
        let mut data = Vec::new();
        let mut next_data = None;
        for (hash, at) in hashes.iter_mut().zip((start..end).step_by(BLOCK)) {
            let length = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
            self.find_data(at, length, &mut data, &mut next_data)?;
            let new = if data.is_empty() { HOLE } else { self.read(at, length, &data)? };
            let read: usize = data.iter().map(ExactSizeIterator::len).sum();
            self.account.read(read as u64, (length - read) as u64);
            if new != *hash {
                self.write(at, length, &data, *hash)?;
                *hash = new;
            }
        }
        Ok(())
    }

    /// Finds the ranges of a block that are data. `next_data` remembers where the next data is, so that a large hole
    /// takes only one look.
    fn find_data(
        &self,
        at: u64,
        length: usize,
        data: &mut Vec<Range<usize>>,
        next_data: &mut Option<u64>,
    ) -> Result<(), BlockError> {
        data.clear();
        if !self.is_sparse {
            data.push(0..length);
            return Ok(());
        }
        let end = at + length as u64;
        let find =
            |from, whence| seek(self.source, from, whence).map_err(|error| BlockError::Read(error.into()));
        let within = |place: u64| usize::try_from(place.clamp(at, end) - at).unwrap_or(length);
        let mut from = at;
        while from < end {
            let next = match *next_data {
                Some(next) if next >= from => next,
                _ => find(from, Whence::SeekData)?.unwrap_or(u64::MAX),
            };
            *next_data = Some(next);
            if next >= end {
                return Ok(());
            }
            let hole = find(next, Whence::SeekHole)?.unwrap_or(self.size);
            if hole > next {
                data.push(within(next)..within(hole));
            }
            // Data that goes on beyond the block starts the next one.
            *next_data = (hole > end).then_some(end);
            from = hole;
        }
        Ok(())
    }

    /// Reads the data of a block, with zeros between, and returns its hash.
    fn read(&mut self, at: u64, length: usize, data: &[Range<usize>]) -> Result<Hash, BlockError> {
        let content = &mut self.buffer[..length];
        let mut done = 0;
        for range in data {
            content[done..range.start].fill(0);
            read_exactly(self.source, &mut content[range.clone()], at + range.start as u64)?;
            done = range.end;
        }
        content[done..].fill(0);
        Ok(self.hasher.hash(content, data))
    }

    fn write(&self, at: u64, length: usize, data: &[Range<usize>], old: Hash) -> Result<(), BlockError> {
        let is_dense = matches!(data, [whole] if *whole == (0..length));
        if old != HOLE && !is_dense {
            punch(self.dest, at, length).map_err(BlockError::Write)?;
        }
        for range in data {
            let bytes = &self.buffer[range.clone()];
            self.account.write(bytes.len() as u64).map_err(BlockError::Write)?;
            self.dest.write_all_at(bytes, at + range.start as u64).map_err(BlockError::Write)?;
        }
        Ok(())
    }
}

fn read_exactly(file: &File, mut buffer: &mut [u8], mut at: u64) -> Result<(), BlockError> {
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => return Err(BlockError::Ended(at)),
            Ok(count) => {
                buffer = &mut buffer[count..];
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BlockError::Read(error)),
        }
    }
    Ok(())
}

/// Makes a block a hole; if the file system has none, fills it with zeros. A whole block is freed, even if the file
/// ends inside it.
fn punch(file: &File, at: u64, length: usize) -> io::Result<()> {
    let offset = i64::try_from(at).map_err(io::Error::other)?;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, offset, BLOCK as i64) {
        Err(Errno::EOPNOTSUPP) => file.write_all_at(&ZEROS[..length], at),
        result => Ok(result?),
    }
}
