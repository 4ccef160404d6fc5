//! The threads that copy the contents of files while the walk goes on.
//!
//! The walk opens both files and hands them over; a large file goes in ranges, so that several threads can work on it.
//! Whichever thread finishes the last range sets the metadata and proves that the file did not change meanwhile. The
//! queue bounds the handles, buffers and ranges in flight.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::Whence;
use rustix::io::Errno;

use super::blocks::{Account, BLOCK, BlockCopier, BlockError, BlockHasher, HOLE, Hash, block_count};
use super::{Record, StageError};
use crate::agent::extract::free_bytes;
use crate::agent::metadata::Metadata;
use crate::agent::tree::{OpenFile, Stability, Stamp, seek};
use crate::archive::{Entry, FileProblem};
use crate::disk::writeback;

/// The number of threads: one reads while another hashes and writes. On two cores more do not help; on more cores, the
/// database runs on the others.
const THREADS: usize = 2;
/// Blocks of one file that a thread takes at once.
const RANGE_BLOCKS: usize = 64;
/// How many ranges may wait.
const QUEUE: usize = 32;
/// Bytes between two checks of the free space.
const SPACE_STEP: u64 = 16 << 20;
/// What making a name or sharing a file's content may need.
const NAME_BYTES: u64 = 4096;
/// A live pass that has written this many bytes of a range waits until they are on the disk.
const WAIT_BYTES: usize = 1 << 20;
/// The kernel's read-ahead is told of files from this size on.
const LARGE_FILE: u64 = 1 << 20;
/// How long the walk waits for room in the queue before it looks again.
pub(super) const ROOM_PATIENCE: Duration = Duration::from_millis(1);

/// What the threads and the walk share.
#[derive(Debug)]
pub(super) struct Shared {
    hasher: BlockHasher,
    /// The stage's directory; some of its file system stays free.
    directory: File,
    reserve: u64,
    stability: Stability,
    /// Whether files can be shared with the source, as far as is known.
    reflinks: AtomicBool,
    unlooked: AtomicU64,
    gave_up: AtomicBool,
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) reflinked: AtomicU64,
    /// Bytes of content in the stage, holes included.
    pub(super) done: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        hasher: BlockHasher,
        directory: File,
        reserve: u64,
        stability: Stability,
        reflinks: bool,
    ) -> Self {
        Self {
            hasher,
            directory,
            reserve,
            stability,
            reflinks: AtomicBool::new(reflinks),
            unlooked: AtomicU64::new(SPACE_STEP),
            gave_up: AtomicBool::new(false),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            reflinked: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// Makes the threads drop their remaining work.
    pub(super) fn give_up(&self) {
        self.gave_up.store(true, Ordering::Relaxed);
    }

    /// Returns whether it is still worth trying to share files.
    pub(super) fn reflinks(&self) -> bool {
        self.reflinks.load(Ordering::Relaxed)
    }

    /// Records that a name is about to be made.
    pub(super) fn name(&self) -> io::Result<()> {
        self.used(NAME_BYTES)
    }

    /// Records that so much of the disk is about to be used, and checks from time to time how much is left.
    fn used(&self, bytes: u64) -> io::Result<()> {
        let before = self.unlooked.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes < SPACE_STEP {
            return Ok(());
        }
        self.unlooked.store(0, Ordering::Relaxed);
        let free = free_bytes(&self.directory)?;
        if free < self.reserve { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Account for Shared {
    fn read(&self, read: u64, hole: u64) {
        self.read.fetch_add(read, Ordering::Relaxed);
        self.done.fetch_add(read + hole, Ordering::Relaxed);
    }

    fn write(&self, bytes: u64) -> io::Result<()> {
        self.used(bytes)?;
        self.written.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// A file whose content is to be copied.
#[derive(Debug)]
pub(super) struct FileJob {
    entry: Entry,
    source: OpenFile,
    is_sparse: bool,
    dest: File,
    /// The number of the file in the stage.
    number: u64,
    hashes: Mutex<Vec<Hash>>,
    ranges_left: AtomicUsize,
    before: u64,
    ended_early: AtomicBool,
    changed: AtomicBool,
}

/// A file that was copied.
#[derive(Debug)]
pub(super) struct FileDone {
    /// The number of the file in the stage.
    pub(super) number: u64,
    /// What is known of it now; `None` if it is not known what the stage holds.
    pub(super) record: Option<Record>,
    /// Whether any of the content was written.
    pub(super) is_written: bool,
    /// Whether the source changed meanwhile.
    pub(super) is_unsteady: bool,
}

enum Task {
    Reflink(Arc<FileJob>),
    Copy(Arc<FileJob>, Range<usize>),
}

/// The threads at work.
pub(super) struct Workers {
    tasks: SyncSender<Task>,
    done: Receiver<Result<FileDone, StageError>>,
    in_flight: usize,
}

impl Workers {
    /// Starts the threads; they end when this is dropped.
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>, shared: &'scope Shared) -> Self {
        let (tasks, queue) = mpsc::sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let (sender, done) = mpsc::channel();
        for _ in 0..THREADS {
            let (queue, sender) = (Arc::clone(&queue), sender.clone());
            scope.spawn(move || {
                let mut worker = Worker { shared, buffer: Vec::new() };
                while let Some(task) = next(&queue) {
                    // If a thread died silently, the others would wait for it.
                    let performed = catch_unwind(AssertUnwindSafe(|| worker.perform(task)));
                    let performed = performed.unwrap_or(Err(StageError::WorkerDied));
                    if let Some(done) = performed.transpose() {
                        if done.is_err() {
                            shared.give_up();
                        }
                        if sender.send(done).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        Self { tasks, done, in_flight: 0 }
    }

    /// Has a file copied. `dest` holds what `hashes` say, or nothing is known of it. Calls `meanwhile` while all
    /// threads are busy.
    pub(super) fn submit(
        &mut self,
        (entry, source): (Entry, OpenFile),
        (dest, number): (File, u64),
        hashes: Option<Vec<Hash>>,
        shared: &Shared,
        meanwhile: &mut dyn FnMut(&mut Self) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let job = FileJob::new(entry, source, dest, number);
        // A file with hashes was copied before: sharing it was tried then, and refused.
        if hashes.is_none() && job.entry.size > 0 && shared.reflinks() {
            return self.send(Task::Reflink(Arc::new(job)), meanwhile);
        }
        let job = job.ready_to_copy(hashes)?;
        let blocks = block_count(job.entry.size);
        let job = Arc::new(job);
        for start in (0..blocks.max(1)).step_by(RANGE_BLOCKS) {
            let range = start..blocks.min(start + RANGE_BLOCKS);
            self.send(Task::Copy(Arc::clone(&job), range), meanwhile)?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        mut task: Task,
        meanwhile: &mut dyn FnMut(&mut Self) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let is_last = match &task {
            Task::Reflink(_) => true,
            Task::Copy(job, range) => range.end == block_count(job.entry.size),
        };
        loop {
            match self.tasks.try_send(task) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => {
                    task = back;
                    meanwhile(self)?;
                }
                Err(TrySendError::Disconnected(_)) => return Err(StageError::WorkerDied),
            }
        }
        self.in_flight += usize::from(is_last);
        Ok(())
    }

    /// Returns a finished file, if one is ready or becomes ready within `patience`.
    pub(super) fn next_done(&mut self, patience: Duration) -> Result<Option<FileDone>, StageError> {
        let done = if patience.is_zero() {
            self.done.try_recv().ok()
        } else {
            self.done.recv_timeout(patience).ok()
        };
        // A file can fail before all of it was handed over.
        self.in_flight = self.in_flight.saturating_sub(usize::from(done.is_some()));
        done.transpose()
    }

    /// Returns whether files are still being copied.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }
}

fn next(queue: &Mutex<Receiver<Task>>) -> Option<Task> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl FileJob {
    fn new(entry: Entry, source: OpenFile, dest: File, number: u64) -> Self {
        Self {
            entry,
            source,
            is_sparse: false,
            dest,
            number,
            hashes: Mutex::default(),
            ranges_left: AtomicUsize::new(1),
            before: 0,
            ended_early: AtomicBool::new(false),
            changed: AtomicBool::new(false),
        }
    }

    /// Gives the file of the stage its size, and finds out what it then holds.
    fn ready_to_copy(mut self, hashes: Option<Vec<Hash>>) -> Result<Self, StageError> {
        let size = self.entry.size;
        if hashes.is_none() {
            self.dest.set_len(0).map_err(|source| self.write_error(source))?;
        }
        self.before = self.dest.metadata().map_err(|source| self.write_error(source))?.len();
        if self.before != size {
            self.dest.set_len(size).map_err(|source| self.write_error(source))?;
        }
        let hole = seek(&self.source.file, 0, Whence::SeekHole);
        let hole = hole.map_err(|errno| self.unreadable(errno.into()))?;
        self.is_sparse = hole.is_some_and(|hole| hole < size);
        if size >= LARGE_FILE {
            // This is advice: without it the same bytes come, only later.
            let advice = PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL;
            let _ignored = posix_fadvise(&self.source.file, 0, 0, advice);
        }
        let blocks = block_count(size);
        let mut hashes = hashes.unwrap_or_default();
        hashes.resize(blocks, HOLE);
        self.hashes = Mutex::new(hashes);
        self.ranges_left = AtomicUsize::new(blocks.div_ceil(RANGE_BLOCKS).max(1));
        Ok(self)
    }

    fn hashes(&self) -> MutexGuard<'_, Vec<Hash>> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self, source: io::Error) -> StageError {
        StageError::file(&self.entry.path, FileProblem::Unreadable { source })
    }

    fn write_error(&self, source: io::Error) -> StageError {
        StageError::write(&self.entry.path, source)
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    buffer: Vec<u8>,
}

impl Worker<'_> {
    /// Does one task, and returns the file with its last one.
    fn perform(&mut self, task: Task) -> Result<Option<FileDone>, StageError> {
        if self.shared.gave_up.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match task {
            Task::Reflink(job) => {
                if self.reflink(&job)? {
                    return self.finish(&job, None).map(Some);
                }
                let job = Arc::into_inner(job).ok_or(StageError::WorkerDied)?.ready_to_copy(None)?;
                self.copy(&job, 0..block_count(job.entry.size))?;
                let hashes = std::mem::take(&mut *job.hashes());
                self.finish(&job, Some(hashes)).map(Some)
            }
            Task::Copy(job, range) => {
                self.copy(&job, range)?;
                if job.ranges_left.fetch_sub(1, Ordering::AcqRel) > 1 {
                    return Ok(None);
                }
                let hashes = std::mem::take(&mut *job.hashes());
                self.finish(&job, Some(hashes)).map(Some)
            }
        }
    }

    /// Shares the source's content with the stage; returns whether that is possible.
    fn reflink(&self, job: &FileJob) -> Result<bool, StageError> {
        self.shared.used(NAME_BYTES).map_err(|source| job.write_error(source))?;
        let before = job.dest.metadata().map_err(|source| job.write_error(source))?.len();
        // The clone refuses a file that is longer than the source and would stay so: this empties it first. It
        // empties no other file: the file system leaves alone what both already share. For a file that is written in
        // small pieces that is tens of thousands of extents, and each costs time while the writers are held (xfs,
        // 700 MB in 60 000 of them: 30 ms, and 1.1 s for an emptied file).
        if before > job.entry.size {
            job.dest.set_len(0).map_err(|source| job.write_error(source))?;
        }
        match rustix::fs::ioctl_ficlone(&job.dest, &job.source.file) {
            Ok(()) => {
                job.changed.store(true, Ordering::Relaxed);
                self.shared.reflinked.fetch_add(job.entry.size, Ordering::Relaxed);
                self.shared.done.fetch_add(job.entry.size, Ordering::Relaxed);
                Ok(true)
            }
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(job.write_error(errno.into())),
            Err(errno) => {
                if matches!(errno, Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY) {
                    self.shared.reflinks.store(false, Ordering::Relaxed);
                }
                Ok(false)
            }
        }
    }

    fn copy(&mut self, job: &FileJob, range: Range<usize>) -> Result<(), StageError> {
        if range.is_empty() || job.ended_early.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut hashes = job.hashes()[range.clone()].to_vec();
        let mut copier = BlockCopier {
            hasher: &self.shared.hasher,
            source: &job.source.file,
            size: job.entry.size,
            is_sparse: job.is_sparse,
            dest: &job.dest,
            account: self.shared,
            buffer: &mut self.buffer,
        };
        match copier.copy(range.start, &mut hashes) {
            Ok(()) => {
                let mut all = job.hashes();
                let written = all[range.clone()].iter().zip(&hashes).filter(|(old, new)| old != new).count();
                if written > 0 {
                    job.changed.store(true, Ordering::Relaxed);
                    all[range.clone()].copy_from_slice(&hashes);
                    drop(all);
                    self.write_back(job, &range, written * BLOCK)?;
                }
                Ok(())
            }
            Err(BlockError::Ended(_)) if !self.shared.stability.is_held() => {
                job.ended_early.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(BlockError::Ended(found)) => {
                let problem = FileProblem::Shrank { expected: job.entry.size, found };
                Err(StageError::file(&job.entry.path, problem))
            }
            Err(BlockError::Read(source)) => Err(job.unreadable(source)),
            Err(BlockError::Write(source)) => Err(job.write_error(source)),
        }
    }

    /// Puts on the disk what a live pass wrote before the pass goes on. So whoever syncs to that disk meanwhile never
    /// waits for more than one range per thread. At the speed of memory, some hundred megabytes would be on their way
    /// at any time: half a second for each commit of the database. For small pieces this only starts the writing,
    /// because they do not fill the queue of a disk.
    fn write_back(&self, job: &FileJob, range: &Range<usize>, written: usize) -> Result<(), StageError> {
        if self.shared.stability.is_held() {
            return Ok(());
        }
        if written >= WAIT_BYTES {
            return job.dest.sync_data().map_err(|source| job.write_error(source));
        }
        let offset = |block: usize| (block * BLOCK) as u64;
        writeback::start(&job.dest, offset(range.start), offset(range.end) - offset(range.start));
        Ok(())
    }

    /// Sets the metadata, and proves that what was read is one state of the file.
    fn finish(&self, job: &FileJob, hashes: Option<Vec<Hash>>) -> Result<FileDone, StageError> {
        let metadata = Metadata::of_entry(&job.entry);
        metadata.apply(&job.dest).map_err(|source| job.write_error(source))?;
        let change = job.source.change().map_err(|source| job.unreadable(source))?;
        if let Some(what) = change
            && self.shared.stability.is_held()
        {
            return Err(StageError::file(&job.entry.path, FileProblem::Changed { what }));
        }
        let is_unsteady = change.is_some();
        let stamp: Option<Stamp> = (!is_unsteady).then(|| job.source.stamp());
        let is_known = !job.ended_early.load(Ordering::Relaxed);
        Ok(FileDone {
            number: job.number,
            record: is_known.then(|| Record::new(stamp, hashes.map(Vec::into_boxed_slice))),
            is_written: job.changed.load(Ordering::Relaxed) || job.before != job.entry.size,
            is_unsteady,
        })
    }
}

const _: () = assert!(BLOCK.is_multiple_of(4096), "a block is made of whole pages");
