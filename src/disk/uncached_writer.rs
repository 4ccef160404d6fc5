//! Writing large files past the page cache, while the caller prepares the next bytes.
//!
//! A restore or an archive writes bytes once, and somebody else reads them later. In the cache they would only push
//! out the data of the running service. If memory is short, or a virtual machine gets it page by page, filling fresh
//! pages takes longer than the disk does (measured: 2.0 GB/s past the cache against 0.5 GB/s through it). Nor can the
//! kernel collect the bytes and write them all at once while a database waits for the sync of its log. If a file
//! system knows no other way, the same bytes go through the cache, and from there to the disk in small steps.
//!
//! The same thread finishes a file after its last byte, so no later write changes the file's times. The buffers on
//! their way bound the memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::disk::writeback;

/// The smallest file for which this is worth it.
pub(crate) const BULK_MIN: u64 = 1 << 20;
/// How many bytes are written at once.
const CHUNK: usize = 2 << 20;
/// How many buffers are on their way.
const DEPTH: usize = 4;
/// The alignment of a direct write in memory and on the disk: no disk in use wants more.
const ALIGN: usize = 4096;

/// A file could not be written.
#[derive(Debug)]
pub(crate) struct BulkError {
    /// Its path, as the caller gave it.
    pub(crate) path: Vec<u8>,
    /// Why.
    pub(crate) source: io::Error,
}

/// Writes one file after the other, each from its beginning to its end.
#[derive(Debug)]
pub(crate) struct BulkWriter {
    tasks: SyncSender<Task>,
    spare: Receiver<Buffer>,
    thread: JoinHandle<Result<(), BulkError>>,
    current: Option<Current>,
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    target: Arc<Target>,
    buffer: Option<Buffer>,
    /// The position of the buffer in the file.
    at: u64,
}

#[derive(Debug)]
struct Target {
    file: File,
    path: Vec<u8>,
}

/// What to do with a file after its last byte.
type Last = Box<dyn FnOnce(&File) -> io::Result<()> + Send>;

enum Task {
    Write { target: Arc<Target>, buffer: Buffer, at: u64 },
    End { target: Arc<Target>, last: Last },
}

impl From<BulkError> for io::Error {
    fn from(error: BulkError) -> Self {
        error.source
    }
}

impl BulkWriter {
    /// Starts the thread that writes.
    pub(crate) fn start() -> io::Result<Self> {
        let (tasks, queue) = sync_channel::<Task>(DEPTH);
        let (give_back, spare) = sync_channel(DEPTH);
        for _ in 0..DEPTH {
            give_back.send(Buffer::new()).map_err(io::Error::other)?;
        }
        let thread = thread::Builder::new().name("volsnap-bulk".to_owned()).spawn(move || {
            for task in queue {
                if let Some(buffer) = task.perform()? {
                    // A writer that is finishing does not take the buffer back.
                    let _ = give_back.send(buffer);
                }
            }
            Ok(())
        })?;
        Ok(Self { tasks, spare, thread, current: None })
    }

    /// Begins a new, empty file; errors call it `path`.
    pub(crate) fn begin(&mut self, file: File, path: &[u8]) {
        // A file that cannot be written past the cache is written through it.
        let _ = set_direct(&file, true);
        let target = Arc::new(Target { file, path: path.to_owned() });
        self.current = Some(Current { target, buffer: None, at: 0 });
    }

    /// Writes more of the file.
    pub(crate) fn append(mut self, mut bytes: &[u8]) -> Result<Self, BulkError> {
        while !bytes.is_empty() {
            let Some(current) = &mut self.current else { return Ok(self) };
            if current.buffer.is_none() {
                match self.spare.recv() {
                    Ok(buffer) => current.buffer = Some(buffer),
                    Err(_) => return Err(self.failure()),
                }
            }
            let Some(buffer) = &mut current.buffer else { return Ok(self) };
            bytes = buffer.fill(bytes);
            if buffer.is_full() {
                self = self.flush()?;
            }
        }
        Ok(self)
    }

    /// Ends the file: does `last` once the last byte is written.
    pub(crate) fn end(
        self,
        last: impl FnOnce(&File) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, BulkError> {
        let mut writer = self.flush()?;
        match writer.current.take() {
            Some(Current { target, .. }) => writer.hand_over(Task::End { target, last: Box::new(last) }),
            None => Ok(writer),
        }
    }

    /// Waits until everything is written.
    pub(crate) fn finish(self) -> Result<(), BulkError> {
        drop(self.tasks);
        joined(self.thread)
    }

    fn flush(mut self) -> Result<Self, BulkError> {
        let Some(current) = &mut self.current else { return Ok(self) };
        let Some(buffer) = current.buffer.take() else { return Ok(self) };
        let at = current.at;
        current.at += buffer.len as u64;
        let target = current.target.clone();
        self.hand_over(Task::Write { target, buffer, at })
    }

    fn hand_over(self, task: Task) -> Result<Self, BulkError> {
        match self.tasks.send(task) {
            Ok(()) => Ok(self),
            Err(_) => Err(self.failure()),
        }
    }

    /// Returns why the thread ended early.
    fn failure(self) -> BulkError {
        let path = self.current.map(|current| current.target.path.clone()).unwrap_or_default();
        let early = || BulkError { path, source: io::Error::other("the writing thread ended early") };
        joined(self.thread).err().unwrap_or_else(early)
    }
}

fn joined(thread: JoinHandle<Result<(), BulkError>>) -> Result<(), BulkError> {
    thread.join().unwrap_or_else(|_| {
        Err(BulkError { path: Vec::new(), source: io::Error::other("the writing thread panicked") })
    })
}

impl Task {
    /// Does the work, and returns the buffer that is free again.
    fn perform(self) -> Result<Option<Buffer>, BulkError> {
        match self {
            Self::Write { target, mut buffer, at } => match write(&target.file, buffer.bytes(), at) {
                Ok(()) => {
                    buffer.len = 0;
                    Ok(Some(buffer))
                }
                Err(source) => Err(BulkError { path: target.path.clone(), source }),
            },
            Self::End { target, last } => match last(&target.file) {
                Ok(()) => Ok(None),
                Err(source) => Err(BulkError { path: target.path.clone(), source }),
            },
        }
    }
}

/// Writes bytes; only the last ones of a file may be no whole number of blocks.
fn write(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let (blocks, rest) = bytes.split_at(bytes.len() / ALIGN * ALIGN);
    let mut written = file.write_all_at(blocks, at);
    if written.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINVAL as i32)) {
        // This file system cannot, or not from here on: a full disk ends a write within a block.
        set_direct(file, false)?;
        written = file.write_all_at(blocks, at);
    }
    written?;
    if !rest.is_empty() {
        set_direct(file, false)?;
        file.write_all_at(rest, at + blocks.len() as u64)?;
    }
    if !is_direct(file) {
        writeback::start(file, at, bytes.len() as u64);
    }
    Ok(())
}

fn is_direct(file: &File) -> bool {
    fcntl(file, FcntlArg::F_GETFL).is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_DIRECT))
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let flags = if direct { OFlag::O_DIRECT } else { OFlag::empty() };
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Memory for direct writes.
#[derive(Debug)]
struct Buffer {
    memory: Vec<u8>,
    /// The beginning of its aligned part.
    start: usize,
    len: usize,
}

impl Buffer {
    fn new() -> Self {
        let memory = vec![0; CHUNK + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, start, len: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    fn is_full(&self) -> bool {
        self.len == CHUNK
    }

    /// Takes as much as there is room for, and returns the rest.
    fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(CHUNK - self.len));
        let begin = self.start + self.len;
        self.memory[begin..begin + taken.len()].copy_from_slice(taken);
        self.len += taken.len();
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use rstest::rstest;

    use super::*;

    /// Sets the time of a file, which a later write would change.
    fn age(file: &File) -> io::Result<()> {
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at * 31 / 7 % 251).unwrap()).collect()
    }

    fn round_trip(directory: &Path, len: usize, piece: usize) {
        let path = directory.join(format!("{len}"));
        let content = content(len);
        let mut writer = BulkWriter::start().unwrap();
        writer.begin(File::create(&path).unwrap(), b"x");
        for piece in content.chunks(piece) {
            writer = writer.append(piece).unwrap();
        }
        writer.end(age).unwrap().finish().unwrap();
        assert!(std::fs::read(&path).unwrap() == content);
        assert_eq!(path.metadata().unwrap().mtime(), 1_000_000_000);
    }

    #[rstest]
    #[case(0)]
    #[case(1)]
    #[case(ALIGN)]
    #[case(CHUNK - 1)]
    #[case(CHUNK)]
    #[case(CHUNK + ALIGN - 1)]
    #[case(DEPTH * CHUNK * 2 + 12_345)]
    fn a_file_of_any_size_has_every_byte_and_what_is_put_on_last(#[case] len: usize) {
        let directory = tempfile::tempdir().unwrap();
        round_trip(directory.path(), len, 100_001);
    }

    #[test]
    fn a_file_system_that_has_only_the_cache_is_written_through_it() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        round_trip(directory.path(), 3 * CHUNK + 77, CHUNK);
    }

    #[test]
    fn a_write_that_fails_is_told_with_the_name_of_its_file() {
        let mut writer = BulkWriter::start().unwrap();
        writer.begin(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap(), b"base/1/2");
        let content = content(CHUNK);
        let error = loop {
            match writer.append(&content) {
                Ok(more) => writer = more,
                Err(error) => break error,
            }
        };
        assert_eq!(error.path, b"base/1/2");
        assert_eq!(error.source.raw_os_error(), Some(Errno::ENOSPC as i32));
    }
}
