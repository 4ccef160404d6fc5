//! Compares the contents of files, range by range, in several threads.
//!
//! A range is compared byte by byte. Where both files may be sparse, zeros that both file systems report as holes are
//! trusted. Who has compared the last range of a file judges it: whether it differs, whether it changed meanwhile, and
//! whether the state of both files proves them equal for the next time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, lseek};

use super::{Shared, Side, Stamps, lock, unreadable};
use crate::agent::staging::StageError;
use crate::agent::tree::Stamp;

/// How much of a file a thread takes at once.
const RANGE: u64 = 32 << 20;
/// How much to read of each side at once.
const PIECE: usize = 1 << 20;

/// Two files whose contents are being compared.
#[derive(Debug)]
pub(super) struct FileJob {
    path: Vec<u8>,
    source: File,
    copy: File,
    stamps: Stamps,
    size: u64,
    is_sparse: bool,
    ranges_left: AtomicUsize,
    /// The first byte known to differ.
    differs_at: AtomicU64,
}

/// A range of a file.
pub(super) struct Task {
    job: Arc<FileJob>,
    range: Range<u64>,
}

impl FileJob {
    pub(super) fn new(path: &[u8], source: File, copy: File, stamps: Stamps, is_sparse: bool) -> Self {
        let size = stamps.source.size.unsigned_abs();
        let job = Self {
            path: path.to_vec(),
            source,
            copy,
            stamps,
            size,
            is_sparse,
            ranges_left: AtomicUsize::new(0),
            differs_at: AtomicU64::new(u64::MAX),
        };
        job.ranges_left.store(job.ranges().count(), Ordering::Relaxed);
        if size > PIECE as u64 {
            for file in [&job.source, &job.copy] {
                // This is advice: without it the same bytes come, only later.
                let _ignored = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
            }
        }
        job
    }

    /// Returns its ranges, each to be compared by whoever takes it; an empty file has one empty range.
    pub(super) fn tasks(self) -> impl Iterator<Item = Task> {
        let job = Arc::new(self);
        let (starts, size) = (job.ranges(), job.size);
        starts.map(move |start| Task { job: Arc::clone(&job), range: start..size.min(start + RANGE) })
    }

    /// Returns where each range begins.
    fn ranges(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.size.max(1)).step_by(usize::try_from(RANGE).unwrap_or(usize::MAX))
    }

    /// Returns where, from `at` on, either file may have something other than zeros.
    fn next_data(&self, at: u64) -> io::Result<u64> {
        let next = |file: &File| match lseek(file, i64::try_from(at).unwrap_or(i64::MAX), Whence::SeekData) {
            Ok(data) => Ok(data.unsigned_abs()),
            Err(Errno::ENXIO) => Ok(u64::MAX),
            // On a file system that knows no holes, data is everywhere.
            Err(Errno::EINVAL) => Ok(at),
            Err(errno) => Err(io::Error::from(errno)),
        };
        Ok(next(&self.source)?.min(next(&self.copy)?))
    }
}

/// Compares ranges until none are left.
pub(super) fn work(shared: &Shared, queue: &Mutex<Receiver<Task>>) {
    let mut buffers = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let next = lock(queue).recv();
        let Ok(Task { job, range }) = next else { return };
        if let Err(error) = compare_range(shared, &job, range, &mut buffers) {
            shared.fail(error);
        }
        if job.ranges_left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Err(error) = finish(shared, &job)
        {
            shared.fail(error);
        }
    }
}

fn compare_range(
    shared: &Shared,
    job: &FileJob,
    range: Range<u64>,
    (source, copy): &mut (Vec<u8>, Vec<u8>),
) -> Result<(), StageError> {
    let mut at = range.start;
    // Ranges before a difference are still compared, so that the first one is reported.
    while at < range.end && at < job.differs_at.load(Ordering::Relaxed) && !shared.gave_up() {
        if job.is_sparse {
            let data = job.next_data(at).map_err(|error| unreadable(&job.path, Side::Source, error))?;
            let data = data.clamp(at, range.end);
            shared.compared.fetch_add(data - at, Ordering::Relaxed);
            at = data;
        }
        let length = usize::try_from(range.end - at).unwrap_or(PIECE).min(PIECE);
        let ours = read(&job.source, &mut source[..length], at);
        let ours = ours.map_err(|error| unreadable(&job.path, Side::Source, error))?;
        let theirs = read(&job.copy, &mut copy[..length], at);
        let theirs = theirs.map_err(|error| unreadable(&job.path, Side::Copy, error))?;
        shared.compared.fetch_add(length as u64, Ordering::Relaxed);
        if ours != theirs || ours.len() < length {
            let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
            job.differs_at.fetch_min(at + same as u64, Ordering::Relaxed);
        }
        at += length as u64;
    }
    Ok(())
}

/// Reads until the buffer is full, or the file ends.
fn read<'b>(file: &File, buffer: &'b mut [u8], at: u64) -> io::Result<&'b [u8]> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..done])
}

/// Judges two files once all their ranges are compared.
fn finish(shared: &Shared, job: &FileJob) -> Result<(), StageError> {
    if shared.gave_up() {
        return Ok(());
    }
    let stamp = |file: &File, side| match fstat(file) {
        Ok(stat) => Ok(Stamp::new(&stat)),
        Err(errno) => Err(unreadable(&job.path, side, errno)),
    };
    let now = Stamps { source: stamp(&job.source, Side::Source)?, copy: stamp(&job.copy, Side::Copy)? };
    let differs_at = job.differs_at.load(Ordering::Relaxed);
    if differs_at != u64::MAX {
        shared.differs(&job.path, &format!("content, from byte {differs_at} on"));
    }
    if now != job.stamps {
        shared.moved(&job.path);
    } else if differs_at == u64::MAX
        && let Some((source, copy)) = &shared.synced
        && source.proves(&now.source)
        && copy.proves(&now.copy)
    {
        lock(&shared.proved).push(now);
    }
    Ok(())
}
