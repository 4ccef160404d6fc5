//! What is known of a stage, kept for a later run.
//!
//! It is written last, once all of the stage is durable, and removed, durably, before anyone touches the stage again:
//! so if a state exists, the stage is what it was when the state was written. All the same, a run trusts it only if
//! its seal is whole and it describes the same source, and only for those files of the stage that nobody has touched
//! since: for each, the state has the time of change, which cannot be set. Every pass compares names, owners and
//! everything else except contents with the source anyway.
//!
//! ```text
//! a line of JSON (the header), then for each file, all numbers little-endian:
//!   number, size, time of change        of the file in the stage
//!   flags                               1: a stamp follows; 2: hashes follow
//!   device … time of change             of the file in the source
//!   count, hashes                       16 bytes a block
//! and 32 bytes: BLAKE3 of all that
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use super::Record;
use super::blocks::{BlockHasher, Hash, block_count};
use crate::agent::tree::{Stability, Stamp, TreeWalker, WalkOptions};
use crate::archive::{ArchiveError, EntryKind};

/// The name of the state in the stage.
const STATE: &str = "state";
const PARTIAL: &str = "state.partial";
/// The format; a state of any other format counts as none.
const VERSION: u32 = 1;
const HAS_STAMP: u8 = 1;
const HAS_HASHES: u8 = 2;
/// The longest header.
const HEADER_MAX: u64 = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    source: Identity,
    secret: Vec<u8>,
    records: u64,
}

/// The part of the header that every format has.
#[derive(Debug, Deserialize)]
struct Preamble {
    version: u32,
}

/// The source of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    file_system: u64,
    root: u64,
}

impl Identity {
    /// Returns the identity of the tree at `root`. It leaves out the device, which may change with a boot.
    pub(super) fn of(root: &File) -> io::Result<Self> {
        Ok(Self { file_system: fstatvfs(root)?.filesystem_id(), root: fstat(root)?.st_ino })
    }
}

/// A file of the stage, with what shows whether somebody has touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Touch {
    size: i64,
    ctime: (i64, i64),
}

/// Writes what is known of the tree at `tree`; all of the tree is durable by now.
pub(super) fn write(
    directory: &File,
    tree: &Path,
    source: &Identity,
    hasher: &BlockHasher,
    records: &HashMap<u64, Record>,
) -> io::Result<()> {
    let touches = touches(tree).map_err(io::Error::other)?;
    let known = || records.iter().filter_map(|(number, record)| Some((number, record, touches.get(number)?)));
    let header = Header {
        version: VERSION,
        source: source.clone(),
        secret: hasher.secret().to_vec(),
        records: known().count() as u64,
    };
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, PARTIAL, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    let mut out = Sealed { inner: BufWriter::new(file), seal: blake3::Hasher::new() };
    serde_json::to_writer(&mut out, &header)?;
    out.write_all(b"\n")?;
    for (number, record, touch) in known() {
        write_record(&mut out, *number, record, touch)?;
    }
    let seal = out.seal.finalize();
    out.inner.write_all(seal.as_bytes())?;
    out.inner.into_inner()?.sync_all()?;
    renameat(directory, PARTIAL, directory, STATE)?;
    directory.sync_all()
}

fn write_record(out: &mut impl Write, number: u64, record: &Record, touch: &Touch) -> io::Result<()> {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    out.write_all(&number.to_le_bytes())?;
    for value in [touch.size, touch.ctime.0, touch.ctime.1] {
        out.write_all(&value.to_le_bytes())?;
    }
    out.write_all(&[flag(record.stamp.is_some(), HAS_STAMP) | flag(record.hashes.is_some(), HAS_HASHES)])?;
    if let Some(Stamp { inode, size, mtime, ctime }) = record.stamp {
        out.write_all(&inode.0.to_le_bytes())?;
        out.write_all(&inode.1.to_le_bytes())?;
        for value in [size, mtime.0, mtime.1, ctime.0, ctime.1] {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    if let Some(hashes) = &record.hashes {
        out.write_all(&(hashes.len() as u64).to_le_bytes())?;
        for hash in hashes {
            out.write_all(&hash.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Returns whether a state of `source` exists; it does not check whether the state is whole.
pub(super) fn is_of(directory: &File, source: &Identity) -> bool {
    open(directory)
        .and_then(|file| read_header(&mut BufReader::new(file)))
        .is_ok_and(|header| header.version == VERSION && header.source == *source)
}

/// Returns whether the file with the state's name is a state, of whatever format, or does not exist. It checks neither
/// the state's source nor whether it is whole.
pub(super) fn is_absent_or_known(directory: &File) -> bool {
    match open(directory) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(file) => match read_line(&mut BufReader::new(file)) {
            Ok(line) => match serde_json::from_slice(&line) {
                Ok(Preamble { version: VERSION }) => serde_json::from_slice::<Header>(&line).is_ok(),
                preamble => preamble.is_ok(),
            },
            Err(_) => false,
        },
    }
}

/// Returns what is known of the tree at `tree`.
///
/// # Errors
/// When there is no state, or none that can be trusted.
pub(super) fn read(
    directory: &File,
    tree: &Path,
    source: &Identity,
) -> io::Result<(BlockHasher, HashMap<u64, Record>)> {
    let touches = touches(tree).map_err(io::Error::other)?;
    let mut records = HashMap::new();
    let hasher = read_records(open(directory)?, source, |number, touch, record| {
        if touches.get(&number) == Some(&touch) {
            records.insert(number, record);
        }
    })?;
    Ok((hasher, records))
}

/// Reads a state of `source` to its end, and hands out what it says about each file. None of that can be trusted
/// before this returns.
fn read_records(
    file: File,
    source: &Identity,
    mut each: impl FnMut(u64, Touch, Record),
) -> io::Result<BlockHasher> {
    let length = file.metadata()?.len();
    let mut state = Sealed { inner: BufReader::new(file), seal: blake3::Hasher::new() };
    let header = read_header(&mut state)?;
    if header.version != VERSION || header.source != *source {
        return Err(damaged("it is of something else"));
    }
    let secret = header.secret.try_into().map_err(|_| damaged("its secret"))?;
    for _ in 0..header.records {
        let (number, touch, record) = read_record(&mut state, length)?;
        each(number, touch, record);
    }
    let seal = state.seal.finalize();
    let mut stored = [0; blake3::OUT_LEN];
    state.inner.read_exact(&mut stored)?;
    if seal != stored {
        return Err(damaged("its seal"));
    }
    Ok(BlockHasher::new(secret))
}

fn read_header(state: &mut impl BufRead) -> io::Result<Header> {
    Ok(serde_json::from_slice(&read_line(state)?)?)
}

fn read_line(state: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    state.take(HEADER_MAX).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn read_record(state: &mut impl Read, length: u64) -> io::Result<(u64, Touch, Record)> {
    let number = u64::from_le_bytes(take(state)?);
    let touch = Touch { size: integer(state)?, ctime: (integer(state)?, integer(state)?) };
    let [flags] = take(state)?;
    let mut stamp = None;
    if flags & HAS_STAMP != 0 {
        stamp = Some(Stamp {
            inode: (u64::from_le_bytes(take(state)?), u64::from_le_bytes(take(state)?)),
            size: integer(state)?,
            mtime: (integer(state)?, integer(state)?),
            ctime: (integer(state)?, integer(state)?),
        });
    }
    let mut hashes = None;
    if flags & HAS_HASHES != 0 {
        let count = u64::from_le_bytes(take(state)?);
        // A larger count would waste memory and wait for hashes that never come.
        if count > length || count != block_count(touch.size.unsigned_abs()) as u64 {
            return Err(damaged("a count"));
        }
        let hash = |_| Ok(Hash::from_le_bytes(take(state)?));
        hashes = Some((0..count).map(hash).collect::<io::Result<Box<[Hash]>>>()?);
    }
    Ok((number, touch, Record::new(stamp, hashes)))
}

fn take<const N: usize>(state: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    state.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn integer(state: &mut impl Read) -> io::Result<i64> {
    Ok(i64::from_le_bytes(take(state)?))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the state cannot be believed: {what}"))
}

/// Removes the state, durably: what it describes is about to change.
pub(super) fn forget(directory: &File) -> io::Result<()> {
    for name in [PARTIAL, STATE] {
        match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    directory.sync_all()
}

fn open(directory: &File) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(openat(directory, STATE, flags, Mode::empty())?.into())
}

/// Returns the files of a tree, by number.
fn touches(tree: &Path) -> Result<HashMap<u64, Touch>, ArchiveError> {
    let walk = WalkOptions { stability: Stability::Held, closed: true, ..WalkOptions::default() };
    let mut walker = TreeWalker::open(tree, walk)?;
    let mut touches = HashMap::new();
    while let Some(member) = walker.next_member()? {
        if member.entry.kind == EntryKind::File {
            let stat = member.stat;
            let touch = Touch { size: stat.st_size, ctime: (stat.st_ctime, stat.st_ctime_nsec) };
            touches.insert(stat.st_ino, touch);
        }
    }
    Ok(touches)
}

/// Writes or reads, and digests the bytes that pass.
struct Sealed<T> {
    inner: T,
    seal: blake3::Hasher,
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.seal.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: BufRead> Read for Sealed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.seal.update(&buffer[..count]);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Sealed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        let Ok(bytes) = self.inner.fill_buf() else { return };
        self.seal.update(&bytes[..count]);
        self.inner.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const V1: &[u8] = include_bytes!("../../../fixtures/formats/v1/stage-state");

    fn stage_with(state: &[u8]) -> (TempDir, File) {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join(STATE), state).unwrap();
        let opened = File::open(directory.path()).unwrap();
        (directory, opened)
    }

    /// The source of the fixture.
    fn source() -> Identity {
        Identity { file_system: 13_320_691_445_930_123_429, root: 2_532_825 }
    }

    #[test]
    fn a_state_of_format_1_is_read() {
        let (_stage, directory) = stage_with(V1);
        assert!(is_of(&directory, &source()) && is_absent_or_known(&directory));
        assert!(!is_of(&directory, &Identity { root: 7, ..source() }));
        let mut files = Vec::new();
        read_records(open(&directory).unwrap(), &source(), |number, touch, record| {
            let hashes = record.hashes.as_ref().map(|hashes| hashes.len());
            assert!(number > 0 && touch.ctime.0 > 1_795_900_000);
            assert!(record.stamp.is_none_or(|stamp| stamp.size == touch.size));
            files.push((touch.size, hashes));
        })
        .unwrap();
        files.sort_unstable();
        assert_eq!(files, [(0, Some(0)), (1, Some(1)), (6, Some(1)), (9000, Some(1))]);
    }

    #[test]
    fn a_state_of_a_later_format_is_none_and_not_in_the_way() {
        let (stage, directory) = stage_with(b"{\"version\":2,\"trees\":[]}\n\x00\x01");
        assert!(!is_of(&directory, &source()));
        assert!(read(&directory, stage.path(), &source()).is_err());
        // A new stage takes its place.
        assert!(is_absent_or_known(&directory));
    }

    #[test]
    fn what_is_no_state_is_in_the_way() {
        for strange in [&b""[..], b"somebody's\n", b"{\"name\":1}\n", b"{\"version\":1}\n"] {
            let (_stage, directory) = stage_with(strange);
            assert!(!is_absent_or_known(&directory), "{strange:?}");
        }
    }
}
