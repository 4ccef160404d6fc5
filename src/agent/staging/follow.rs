//! Sends to the disk what another container writes into the stage, while it writes.
//!
//! Left alone, the kernel collects dirty data for many seconds and then writes it all at once. Whoever syncs a log to
//! the same disk meanwhile waits for it: a database at work. In small steps nobody waits for much (a prototype on two
//! cores, under pgbench: longest gaps of 20 to 40 ms instead of 90 ms, in the same total time).
//!
//! All of this is advice to the kernel: what this misses is written later, as it would have been.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::disk::writeback;

/// The time between two looks. At 400 MB/s, 4 MB collect meanwhile.
const INTERVAL: Duration = Duration::from_millis(10);
/// A file that is still being written is sent in pieces of at least this size.
const STEP: u64 = 1 << 20;
/// How many files to follow at once; a backup writes two. A file that was found rather than announced may have been
/// closed before, and nobody says so. So that such files do not fill the table, the one that has not grown for longest
/// makes room.
const FILES_MAX: usize = 16;
/// How much of the kernel's events to read at once.
const EVENTS: usize = 16 << 10;

/// Sends a range of a file to the disk.
type Send = fn(&File, u64, u64);

/// A thread that follows what is written below a directory, until it is dropped.
#[derive(Debug)]
pub struct Follower {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts the thread. It does not follow what is already below `directory`.
    ///
    /// # Errors
    /// When the kernel has no watch for it.
    pub fn start(directory: &Path) -> io::Result<Self> {
        Self::start_with(directory, writeback::start)
    }

    fn start_with(directory: &Path, send: Send) -> io::Result<Self> {
        let mut following = Following::of(directory, send)?;
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let thread = thread::Builder::new().name("volsnap-follow".to_owned()).spawn(move || {
            while !until.load(Ordering::Relaxed) {
                following.look();
                thread::sleep(INTERVAL);
            }
            following.look();
        })?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its remaining work was only advice.
            let _ = thread.join();
        }
    }
}

/// What is being written.
struct Following {
    watch: OwnedFd,
    /// By their number in the watch.
    directories: HashMap<i32, PathBuf>,
    /// Files that are, or may be, open for writing.
    files: HashMap<PathBuf, Followed>,
    send: Send,
}

/// A file that is being written.
struct Followed {
    file: File,
    /// How much of it has been sent.
    sent: u64,
    /// When it was last seen growing.
    grown: Instant,
}

/// An event from the kernel.
enum Tiding {
    Made { path: PathBuf, is_directory: bool },
    Closed(PathBuf),
}

impl Following {
    fn of(directory: &Path, send: Send) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut following = Self { watch, directories: HashMap::new(), files: HashMap::new(), send };
        following.add(directory.to_owned())?;
        Ok(following)
    }

    fn add(&mut self, directory: PathBuf) -> io::Result<()> {
        let flags =
            WatchFlags::CREATE | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        let number = inotify::add_watch(&self.watch, &directory, flags)?;
        self.directories.insert(number, directory);
        Ok(())
    }

    /// Takes in events, and sends what was written since the last look.
    fn look(&mut self) {
        for tiding in self.tidings() {
            match tiding {
                Tiding::Made { path, is_directory: true } => {
                    if let Err(error) = self.add_with_content(&path) {
                        tracing::debug!(%error, "a directory is not followed");
                    }
                }
                Tiding::Made { path, is_directory: false } => self.follow(path),
                Tiding::Closed(path) => {
                    if let Some(mut followed) = self.files.remove(&path) {
                        followed.send(self.send, 1);
                    }
                }
            }
        }
        for followed in self.files.values_mut() {
            followed.send(self.send, STEP);
        }
    }

    fn tidings(&self) -> Vec<Tiding> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut reader = Reader::new(&self.watch, &mut buffer);
        let mut tidings = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => return tidings,
            };
            let (Some(directory), Some(name)) = (self.directories.get(&event.wd()), event.file_name()) else {
                continue;
            };
            use std::os::unix::ffi::OsStrExt as _;
            let path = directory.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            tidings.push(if event.events().contains(ReadFlags::CLOSE_WRITE) {
                Tiding::Closed(path)
            } else {
                Tiding::Made { path, is_directory: event.events().contains(ReadFlags::ISDIR) }
            });
        }
    }

    /// Follows a directory, and what was put into it before that.
    fn add_with_content(&mut self, directory: &Path) -> io::Result<()> {
        self.add(directory.to_owned())?;
        for entry in directory.read_dir()? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.add_with_content(&entry.path())?;
            } else if kind.is_file() {
                self.follow(entry.path());
            }
        }
        Ok(())
    }

    fn follow(&mut self, path: PathBuf) {
        if self.files.contains_key(&path) {
            return;
        }
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        // A file that is already gone needs nothing.
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) else { return };
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            self.make_room();
            self.files.insert(path, Followed { file, sent: 0, grown: Instant::now() });
        }
    }

    /// If the table is full, drops the file that has not grown for longest.
    fn make_room(&mut self) {
        if self.files.len() < FILES_MAX {
            return;
        }
        let stalest = self.files.iter().min_by_key(|(_, followed)| followed.grown);
        if let Some(path) = stalest.map(|(path, _)| path.clone())
            && let Some(mut followed) = self.files.remove(&path)
        {
            followed.send(self.send, 1);
        }
    }
}

impl Followed {
    /// Sends what the file has grown by since the last time, if that is at least `least`.
    fn send(&mut self, send: Send, least: u64) {
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        if size < self.sent.saturating_add(least) {
            return;
        }
        send(&self.file, self.sent, size - self.sent);
        self.sent = size;
        self.grown = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn every_byte_that_is_written_is_sent_once_also_in_directories_made_later() {
        static SENT: AtomicU64 = AtomicU64::new(0);
        let root = tempfile::tempdir().unwrap();
        let follower = Follower::start_with(root.path(), |_, _, length| {
            SENT.fetch_add(length, Ordering::Relaxed);
        });
        let follower = follower.unwrap();
        let inner = root.path().join("base/1");
        std::fs::create_dir_all(&inner).unwrap();
        let mut growing = File::create(inner.join("1259")).unwrap();
        growing.write_all(&vec![1; 3 << 20]).unwrap();
        await_sent(&SENT, 3 << 20);
        // Less than a step waits for the end of the file, or for more data.
        growing.write_all(b"the end").unwrap();
        std::fs::write(root.path().join("PG_VERSION"), "15\n").unwrap();
        await_sent(&SENT, (3 << 20) + 3);
        drop(growing);
        await_sent(&SENT, (3 << 20) + 10);
        drop(follower);
    }

    #[test]
    fn files_that_were_closed_before_they_were_seen_keep_no_other_from_being_followed() {
        static SENT: AtomicU64 = AtomicU64::new(0);
        let root = tempfile::tempdir().unwrap();
        let send = |_: &File, _, length| {
            if length >= STEP {
                SENT.fetch_add(length, Ordering::Relaxed);
            }
        };
        let mut following = Following::of(root.path(), send).unwrap();
        let inner = root.path().join("1");
        std::fs::create_dir(&inner).unwrap();
        for n in 0..FILES_MAX * 5 {
            std::fs::write(inner.join(n.to_string()), "of a template").unwrap();
        }
        // The watch of the inner directory begins only now.
        following.look();
        assert_eq!(following.files.len(), FILES_MAX);
        let mut growing = File::create(inner.join("16384")).unwrap();
        growing.write_all(&vec![1; 3 << 20]).unwrap();
        following.look();
        assert_eq!(SENT.load(Ordering::Relaxed), 3 << 20);
        assert!(following.files.len() <= FILES_MAX);
    }

    fn await_sent(sent: &AtomicU64, bytes: u64) {
        let begun = Instant::now();
        while sent.load(Ordering::Relaxed) < bytes && begun.elapsed() < Duration::from_secs(10) {
            thread::sleep(INTERVAL);
        }
        assert_eq!(sent.load(Ordering::Relaxed), bytes);
    }
}
