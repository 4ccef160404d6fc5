//! Archives a tree: every file is digested as it is read, and then proved unchanged.
//!
//! One thread walks, reads and digests; it reads files straight into the blocks that the [`BlockWriter`]'s threads
//! compress. A file that cannot be read always fails the archive; a file that changes or vanishes fails it while every
//! writer is held.

use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::tree::{OpenFile, Stability, TreeMember, TreeWalker, WalkOptions, exclude_set};
use crate::archive::{
    ArchiveError, BlockOptions, BlockWriter, Codec, Entry, EntryKind, Extent, FileListWriter, FileProblem,
    FileRecord, TarWriter, default_threads,
};

/// How much to read before digesting it: few system calls, and the data is still in the cache.
const READ_SIZE: usize = 256 * 1024;
/// A hole is digested from here: holes are never read.
static ZEROS: [u8; READ_SIZE] = [0; READ_SIZE];
/// The kernel's read-ahead is told of files from this size on.
const LARGE_FILE: u64 = 1 << 20;

/// How often to report progress: after so much time, or so many bytes.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
const PROGRESS_BYTES: u64 = 16 << 20;

/// How to archive a tree.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// The codec and its level.
    pub codec: Codec,
    /// How many threads compress.
    pub threads: usize,
    /// Globs of paths to leave out, relative to the root.
    pub exclude: Vec<String>,
    /// Paths that come last, relative to the root.
    pub deferred: Vec<PathBuf>,
    /// Whether a change is an error.
    pub stability: Stability,
    /// Ends the work with [`ArchiveError::Cancelled`] once it is true.
    pub cancel: Arc<AtomicBool>,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self {
            codec: Codec::default(),
            threads: default_threads(),
            exclude: Vec::new(),
            deferred: Vec::new(),
            stability: Stability::Held,
            cancel: Arc::default(),
        }
    }
}

/// The progress so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Members archived.
    pub members: u64,
    /// Bytes of file content archived, holes included.
    pub raw_bytes: u64,
    /// Bytes of archive written.
    pub stored_bytes: u64,
}

/// What was archived.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ArchiveStats {
    /// Regular files, each once however many names it has.
    pub files: u64,
    /// Directories, the root among them.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Additional names of files.
    pub hardlinks: u64,
    /// Named pipes and devices.
    pub others: u64,
    /// Sockets, which no archive holds.
    pub sockets_skipped: u64,
    /// Members left out by a glob; a directory counts once.
    pub excluded: u64,
    /// Members that vanished before they were read; none while writers are held.
    pub vanished: u64,
    /// Bytes of file content, holes included.
    pub raw_bytes: u64,
    /// Bytes of tar before compression.
    pub tar_bytes: u64,
    /// Bytes of archive.
    pub stored_bytes: u64,
    /// Blocks of the archive.
    pub blocks: u64,
    /// Bytes of file list.
    pub list_bytes: u64,
    /// Files that changed while they were read; none while writers are held.
    pub changed: Vec<PathBuf>,
}

impl ArchiveStats {
    /// Returns how many members the archive has.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.hardlinks + self.others
    }
}

/// Archives the tree at `root` into `archive_out`, and the list of its members into `list_out`.
///
/// After an error the output is no archive, and a thread that waits for `archive_out` may write to it a moment longer.
///
/// # Errors
/// [`ArchiveError::File`] naming a file that could not be captured as it was; a sink that fails;
/// [`ArchiveError::Cancelled`].
pub fn archive_tree(
    root: &Path,
    options: &ArchiveOptions,
    archive_out: impl Write + Send + 'static,
    list_out: impl Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<ArchiveStats, ArchiveError> {
    let walk = WalkOptions {
        exclude: exclude_set(&options.exclude)?,
        deferred: options.deferred.clone(),
        stability: options.stability,
        closed: false,
    };
    let mut walker = TreeWalker::open(root, walk)?;
    let block_options =
        BlockOptions { codec: options.codec, threads: options.threads, cancel: Arc::clone(&options.cancel) };
    let blocks = BlockWriter::new(archive_out, &block_options)?;
    let mut run = Run {
        options,
        stored_bytes: blocks.stored_bytes(),
        tar: TarWriter::new(blocks),
        list: FileListWriter::new(Counting { sink: list_out, count: 0 })?,
        stats: ArchiveStats::default(),
        members: 0,
        told: (Instant::now(), 0),
        progress,
    };
    while let Some(member) = walker.next_member()? {
        run.append(member)?;
    }
    let skipped = walker.stats();
    run.stats.sockets_skipped = skipped.sockets_skipped;
    run.stats.excluded = skipped.excluded;
    run.stats.vanished = skipped.vanished;
    run.finish()
}

/// An archive under construction.
struct Run<'a, W, L: Write> {
    options: &'a ArchiveOptions,
    tar: TarWriter<BlockWriter<W>>,
    list: FileListWriter<Counting<L>>,
    stats: ArchiveStats,
    members: u64,
    stored_bytes: Arc<AtomicU64>,
    told: (Instant, u64),
    progress: &'a mut dyn FnMut(Progress),
}

impl<W: Write + Send + 'static, L: Write> Run<'_, W, L> {
    fn append(&mut self, member: TreeMember) -> Result<(), ArchiveError> {
        self.tick()?;
        let TreeMember { entry, content, .. } = member;
        self.tar.append(&entry)?;
        let digest = match content {
            Some(file) => Some(self.append_content(&entry, &file)?),
            None => None,
        };
        *match entry.kind {
            EntryKind::File => &mut self.stats.files,
            EntryKind::Directory => &mut self.stats.directories,
            EntryKind::Symlink => &mut self.stats.symlinks,
            EntryKind::Hardlink => &mut self.stats.hardlinks,
            EntryKind::Fifo | EntryKind::Char | EntryKind::Block => &mut self.stats.others,
        } += 1;
        self.members += 1;
        self.list.append(&FileRecord::new(entry, digest))
    }

    /// Streams the content of a file, and returns its digest once the file is proved unchanged.
    fn append_content(&mut self, entry: &Entry, file: &OpenFile) -> Result<blake3::Hash, ArchiveError> {
        if entry.size >= LARGE_FILE {
            // This is advice: without it the same bytes come, only later.
            let _ignored = posix_fadvise(&file.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        let whole = [Extent { offset: 0, len: entry.size }];
        for extent in entry.extents.as_deref().unwrap_or(&whole) {
            self.append_hole(&mut hasher, extent.offset - at)?;
            self.append_data(entry, file, &mut hasher, *extent)?;
            at = extent.offset + extent.len;
        }
        self.append_hole(&mut hasher, entry.size - at)?;
        self.check_unchanged(entry, file)?;
        Ok(hasher.finalize())
    }

    fn append_data(
        &mut self,
        entry: &Entry,
        file: &OpenFile,
        hasher: &mut blake3::Hasher,
        extent: Extent,
    ) -> Result<(), ArchiveError> {
        let Extent { mut offset, mut len } = extent;
        while len > 0 {
            let want = usize::try_from(len).unwrap_or(usize::MAX).min(READ_SIZE);
            let filled = self.tar.fill(|tail| {
                let want = want.min(tail.len());
                let count = read_at(&file.file, &mut tail[..want], offset)?;
                hasher.update(&tail[..count]);
                Ok(count)
            });
            let count = match filled.map_err(io::Error::downcast::<ArchiveError>) {
                Ok(0) => {
                    let problem = FileProblem::Shrank { expected: entry.size, found: offset };
                    return Err(file_error(entry, problem));
                }
                Ok(count) => count as u64,
                Err(Ok(error)) => return Err(error),
                Err(Err(source)) => return Err(file_error(entry, FileProblem::Unreadable { source })),
            };
            offset += count;
            len -= count;
            self.stats.raw_bytes += count;
            self.tick()?;
        }
        Ok(())
    }

    fn append_hole(&mut self, hasher: &mut blake3::Hasher, len: u64) -> Result<(), ArchiveError> {
        let mut left = len;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            hasher.update(&ZEROS[..count]);
            left -= count as u64;
            self.stats.raw_bytes += count as u64;
            self.tick()?;
        }
        Ok(())
    }

    fn check_unchanged(&mut self, entry: &Entry, file: &OpenFile) -> Result<(), ArchiveError> {
        let change = file.change();
        match change.map_err(|source| file_error(entry, FileProblem::Unreadable { source }))? {
            None => {}
            Some(what) if self.options.stability.is_held() => {
                return Err(file_error(entry, FileProblem::Changed { what }));
            }
            Some(_) => self.stats.changed.push(to_path(entry)),
        }
        Ok(())
    }

    /// Checks whether the run is cancelled, and reports progress when that is due.
    fn tick(&mut self) -> Result<(), ArchiveError> {
        if self.options.cancel.load(Ordering::Relaxed) {
            return Err(ArchiveError::Cancelled);
        }
        let (when, bytes) = self.told;
        let now = Instant::now();
        if self.stats.raw_bytes - bytes >= PROGRESS_BYTES || now - when >= PROGRESS_INTERVAL {
            self.told = (now, self.stats.raw_bytes);
            self.report_progress();
        }
        Ok(())
    }

    fn report_progress(&mut self) {
        (self.progress)(Progress {
            members: self.members,
            raw_bytes: self.stats.raw_bytes,
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        });
    }

    fn finish(mut self) -> Result<ArchiveStats, ArchiveError> {
        let list = self.list.finish()?;
        let (_, blocks) = self.tar.finish()?.finish()?;
        self.stats.list_bytes = list.count;
        self.stats.tar_bytes = blocks.raw_bytes;
        self.stats.stored_bytes = blocks.stored_bytes;
        self.stats.blocks = blocks.blocks;
        (self.progress)(Progress {
            members: self.members,
            raw_bytes: self.stats.raw_bytes,
            stored_bytes: blocks.stored_bytes,
        });
        Ok(self.stats)
    }
}

fn to_path(entry: &Entry) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(entry.path.clone()))
}

fn file_error(entry: &Entry, problem: FileProblem) -> ArchiveError {
    ArchiveError::file(&to_path(entry), problem)
}

/// Reads once, and retries if a signal interrupts it.
fn read_at(file: &std::fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A sink that counts what it takes.
struct Counting<W> {
    sink: W,
    count: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
