//! Proves that a copy equals its source, by a second reading of both.
//!
//! It shares nothing with the passes that made the copy: it has a walk of its own, knows neither their hashes nor
//! their records, and compares contents by their bytes. Only the meaning of a glob, and what the times of a file prove
//! (`times`), are the same. If it finds no difference in a tree that stands still, the copy has the root and every
//! name of the source that is neither a socket nor left out, and no other names. For each of them it has the type,
//! owner (or the requested one), mode, time of modification, attributes, link target, device number, the other names
//! of the same file, the size and every byte. If both file systems report a hole, it trusts the zeros; a hole on one
//! side equals zeros on the other.
//!
//! While the source is being written to, differences are expected, and a comparison proves nothing yet. But for each
//! file with equal bytes it remembers the state of both files, provided that any later write would change that state:
//! the source's file was sent to the disk before it was read, and both are older than the granularity of the clock. A
//! later comparison trusts the contents of just these files, as long as both are unchanged. So the comparison that
//! runs while all writers are held takes a walk and the files that changed, whatever the size of the tree; and what it
//! finds equal is equal.

mod contents;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use globset::GlobSet;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use serde::{Deserialize, Serialize};

use self::contents::{FileJob, Task, work};

use super::sync::{self, PROGRESS_INTERVAL};
use super::times::{SLACK, Synced};
use super::{StageError, device, open_directory};
use crate::agent::archive::Progress;
use crate::agent::calls::StageCompare;
use crate::agent::tree::{Stability, Stamp, exclude_set};
use crate::archive::shown;
use crate::model::plural::{counted, grouped};

/// How many differences to report.
const TOLD: usize = 20;
/// How many ranges may wait, each with two open files.
const QUEUE: usize = 128;
/// Threads while the database runs on the same processors.
const LIVE_THREADS: usize = 2;
/// The most threads while it is held.
const HELD_THREADS: usize = 8;
/// The unit of `st_blocks`.
const SECTOR: u64 = 512;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareStats {
    /// Names of the source, the root among them.
    pub entries: u64,
    /// Regular files among them, each once however many names it has.
    pub files: u64,
    /// Bytes of content compared in this call, holes included.
    pub bytes: u64,
    /// Files whose contents were proved equal before and have not been touched since.
    pub skipped_files: u64,
    /// Some of the differences: which name, and what differs.
    pub differences: Vec<String>,
    /// How many differences there are.
    pub different: u64,
}

/// A source, a copy of it, and what is known of the two.
#[derive(Debug)]
pub struct Comparison {
    source: PathBuf,
    copy: PathBuf,
    slack: Duration,
    /// The states of two files with equal bytes, by the source's file.
    proofs: HashMap<(u64, u64), Stamps>,
}

/// The states of a file of the source and its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamps {
    source: Stamp,
    copy: Stamp,
}

impl Comparison {
    /// Compares the tree at `copy` with that at `source`.
    #[must_use]
    pub fn of(source: &Path, copy: &Path) -> Self {
        Self::new(source, copy, SLACK)
    }

    pub(super) fn new(source: &Path, copy: &Path, slack: Duration) -> Self {
        Self { source: source.to_owned(), copy: copy.to_owned(), slack, proofs: HashMap::new() }
    }

    /// Compares everything except contents that are known to be equal.
    ///
    /// # Errors
    /// When either cannot be read. Differences are no error.
    pub fn compare(
        &mut self,
        call: &StageCompare,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CompareStats, StageError> {
        let open = |path, side| open_directory(path).map_err(|source| unreadable(b".", side, source));
        let (source, copy) = (open(&self.source, Side::Source)?, open(&self.copy, Side::Copy)?);
        let exclude = exclude_set(&call.exclude)?;
        let shared = Shared {
            stability: call.stability,
            synced: self.sync(&source, &copy, call, progress)?,
            ..Shared::default()
        };
        let counts = compare_all(&shared, &self.proofs, (exclude, call.owner), (source, copy), progress)?;
        for stamps in lock(&shared.proved).drain(..) {
            self.proofs.insert(stamps.source.inode, stamps);
        }
        let differences = std::mem::take(&mut *lock(&shared.differences));
        Ok(CompareStats {
            entries: counts.entries,
            files: counts.files,
            bytes: shared.compared.into_inner(),
            skipped_files: counts.skipped,
            differences: differences.told,
            different: differences.count,
        })
    }

    /// Sends all dirty data of the source to the disk; without that, equal contents prove nothing later. Returns since
    /// when source and copy are clean. Only this process writes to the copy, and not through a mapping.
    fn sync(
        &self,
        source: &File,
        copy: &File,
        call: &StageCompare,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<(Synced, Synced)>, StageError> {
        if call.stability.is_held() {
            return Ok(None);
        }
        let copy = device(copy).map_err(|source| unreadable(b".", Side::Copy, source))?;
        let copy = Synced::now(copy, self.slack);
        Ok(sync::source(source, self.slack, progress)?.map(|source| (source, copy)))
    }
}

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Copy,
}

fn unreadable(path: &[u8], side: Side, source: impl Into<io::Error>) -> StageError {
    let side = match side {
        Side::Source => "source",
        Side::Copy => "stage",
    };
    StageError::Compare { path: path.to_vec(), side, source: source.into() }
}

/// What the walk and the threads share.
#[derive(Debug, Default)]
struct Shared {
    stability: Stability,
    synced: Option<(Synced, Synced)>,
    members: AtomicU64,
    /// Bytes compared.
    compared: AtomicU64,
    /// Bytes that need no comparison.
    known: AtomicU64,
    proved: Mutex<Vec<Stamps>>,
    differences: Mutex<Differences>,
    failure: Mutex<Option<StageError>>,
    gave_up: AtomicBool,
}

#[derive(Debug, Default)]
struct Differences {
    told: Vec<String>,
    count: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn differs(&self, path: &[u8], what: &str) {
        let mut differences = lock(&self.differences);
        differences.count += 1;
        if differences.told.len() < TOLD {
            differences.told.push(format!("{}: {what}", shown(path)));
        }
    }

    /// Records that something changed during the comparison; that is a difference only if all writers are held.
    fn moved(&self, path: &[u8]) {
        if self.stability.is_held() {
            self.differs(path, "changed while it was compared");
        }
    }

    fn fail(&self, error: StageError) {
        lock(&self.failure).get_or_insert(error);
        self.gave_up.store(true, Ordering::Relaxed);
    }

    fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    fn progress(&self) -> Progress {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let raw_bytes = load(&self.compared) + load(&self.known);
        Progress { members: load(&self.members), raw_bytes, stored_bytes: 0 }
    }
}

/// Walks through both trees in one thread, compares contents in others, and reports their progress in this one.
fn compare_all(
    shared: &Shared,
    proofs: &HashMap<(u64, u64), Stamps>,
    (exclude, owner): (GlobSet, Option<(u32, u32)>),
    (source, copy): (File, File),
    progress: &mut dyn FnMut(Progress),
) -> Result<Counts, StageError> {
    let (tasks, queue) = mpsc::sync_channel(QUEUE);
    let (working, end) = mpsc::channel::<()>();
    let outcome = std::thread::scope(|scope| {
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for _ in 0..threads_for(shared.stability) {
            let (queue, working) = (Arc::clone(&queue), working.clone());
            threads.push(scope.spawn(move || {
                let _working = working;
                work(shared, &queue);
            }));
        }
        // Once no thread is left to take a range, handing over the next one fails.
        drop(queue);
        let walking = scope.spawn(move || {
            let _working = working;
            let mut walk = Walk {
                shared,
                proofs,
                tasks,
                exclude,
                owner,
                open: Vec::new(),
                links: HashMap::new(),
                linked_copies: HashMap::new(),
                counts: Counts::default(),
            };
            walk.run(&source, &copy).map(|()| walk.counts)
        });
        while end.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            progress(shared.progress());
        }
        let died = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        let walked = walking.join().map_err(|_| StageError::WorkerDied).flatten();
        if died > 0 { Err(StageError::WorkerDied) } else { walked }
    });
    match lock(&shared.failure).take() {
        Some(failure) => Err(failure),
        None => outcome,
    }
}

fn threads_for(stability: Stability) -> usize {
    let processors = std::thread::available_parallelism().map_or(LIVE_THREADS, usize::from);
    match stability {
        Stability::Live => LIVE_THREADS,
        Stability::Held => processors.clamp(LIVE_THREADS, HELD_THREADS),
    }
}

/// What the walk has seen.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    entries: u64,
    files: u64,
    skipped: u64,
}

/// A directory of both trees, and the names in either that are still to be compared.
struct Pair {
    path: Vec<u8>,
    source: Rc<File>,
    copy: Rc<File>,
    names: std::vec::IntoIter<CString>,
}

/// A name in a directory of both trees.
struct Place<'p> {
    path: &'p [u8],
    name: &'p CStr,
    source: &'p File,
    copy: &'p File,
}

/// A file that has several names.
struct Linked {
    /// The matching file of the other tree.
    is: (u64, u64),
    first_name: Vec<u8>,
}

struct Walk<'a> {
    shared: &'a Shared,
    proofs: &'a HashMap<(u64, u64), Stamps>,
    tasks: SyncSender<Task>,
    exclude: GlobSet,
    owner: Option<(u32, u32)>,
    open: Vec<Pair>,
    /// For a file of the source with several names, its file in the copy.
    links: HashMap<(u64, u64), Linked>,
    /// For a file of the copy with several names, its file in the source.
    linked_copies: HashMap<(u64, u64), Linked>,
    counts: Counts,
}

impl Walk<'_> {
    fn run(&mut self, source: &File, copy: &File) -> Result<(), StageError> {
        self.visit(&Place { path: b".", name: c".", source, copy })?;
        while let Some(pair) = self.open.last_mut() {
            if self.shared.gave_up() {
                break;
            }
            let Some(name) = pair.names.next() else {
                self.open.pop();
                continue;
            };
            let path = match pair.path.as_slice() {
                b"." => name.to_bytes().to_vec(),
                directory => [directory, b"/", name.to_bytes()].concat(),
            };
            let (source, copy) = (Rc::clone(&pair.source), Rc::clone(&pair.copy));
            self.visit(&Place { path: &path, name: &name, source: &source, copy: &copy })?;
        }
        Ok(())
    }

    /// Compares what both trees have under one name.
    fn visit(&mut self, place: &Place<'_>) -> Result<(), StageError> {
        self.shared.members.fetch_add(1, Ordering::Relaxed);
        let left_out = place.path != b"." && self.exclude.is_match(Path::new(OsStr::from_bytes(place.path)));
        let source = if left_out { None } else { look(place, Side::Source)? };
        // No archive and no copy holds a socket.
        let source = source.filter(|stat| format(stat) != SFlag::S_IFSOCK);
        let copy = look(place, Side::Copy)?;
        self.counts.entries += u64::from(source.is_some());
        match (source, copy) {
            (Some(source), Some(copy)) if format(&source) == format(&copy) => {
                self.compare(place, &source, &copy)
            }
            (Some(source), Some(copy)) => {
                let what = format!("a {}, and in the copy a {}", kind(&source), kind(&copy));
                self.shared.differs(place.path, &what);
                Ok(())
            }
            (Some(source), None) => {
                self.shared.differs(place.path, &format!("the {} is missing in the copy", kind(&source)));
                Ok(())
            }
            (None, Some(copy)) => {
                let what = format!("a {} in the copy, and nothing in the source", kind(&copy));
                self.shared.differs(place.path, &what);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn compare(&mut self, place: &Place<'_>, source: &FileStat, copy: &FileStat) -> Result<(), StageError> {
        let mut what = Vec::new();
        let owner = self.owner.unwrap_or((source.st_uid, source.st_gid));
        if owner != (copy.st_uid, copy.st_gid) {
            let (uid, gid) = owner;
            what.push(format!("owner {uid}:{gid}, in the copy {}:{}", copy.st_uid, copy.st_gid));
        }
        let modes = (source.st_mode & 0o7777, copy.st_mode & 0o7777);
        if modes.0 != modes.1 {
            what.push(format!("mode {:04o}, in the copy {:04o}", modes.0, modes.1));
        }
        if (source.st_mtime, source.st_mtime_nsec) != (copy.st_mtime, copy.st_mtime_nsec) {
            what.push(format!(
                "time of modification {}.{:09}, in the copy {}.{:09}",
                source.st_mtime, source.st_mtime_nsec, copy.st_mtime, copy.st_mtime_nsec
            ));
        }
        if matches!(format(source), SFlag::S_IFCHR | SFlag::S_IFBLK) && source.st_rdev != copy.st_rdev {
            let number = |stat: &FileStat| format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
            what.push(format!("device {}, in the copy {}", number(source), number(copy)));
        }
        self.compare_attributes(place, &mut what)?;
        let is_first = self.compare_links(place, source, copy, &mut what);
        match format(source) {
            SFlag::S_IFDIR => self.enter(place, source)?,
            SFlag::S_IFLNK => self.compare_targets(place, &mut what)?,
            SFlag::S_IFREG if is_first => self.compare_files(place, source, copy, &mut what)?,
            _ => {}
        }
        if !what.is_empty() {
            self.shared.differs(place.path, &what.join("; "));
        }
        Ok(())
    }

    /// Compares the extended attributes, except the security label, which the system gives according to the place.
    fn compare_attributes(&self, place: &Place<'_>, what: &mut Vec<String>) -> Result<(), StageError> {
        let Some(source) = self.read(place, Side::Source, attributes(place.source, place.name))? else {
            return Ok(());
        };
        let Some(copy) = self.read(place, Side::Copy, attributes(place.copy, place.name))? else {
            return Ok(());
        };
        for name in source.keys().chain(copy.keys().filter(|name| !source.contains_key(*name))) {
            if source.get(name) != copy.get(name) {
                what.push(format!("attribute {}", shown(name.as_bytes())));
            }
        }
        Ok(())
    }

    fn compare_targets(&self, place: &Place<'_>, what: &mut Vec<String>) -> Result<(), StageError> {
        let target = |directory: &File| readlinkat(directory, place.name).map_err(io::Error::from);
        let source = self.read(place, Side::Source, target(place.source))?;
        let copy = self.read(place, Side::Copy, target(place.copy))?;
        if let (Some(source), Some(copy)) = (source, copy)
            && source != copy
        {
            let (source, copy) = (shown(source.as_bytes()).to_string(), shown(copy.as_bytes()).to_string());
            what.push(format!("a link to {source}, in the copy to {copy}"));
        }
        Ok(())
    }

    /// Returns what was read; `None` if it has vanished or become something else.
    fn read<T>(&self, place: &Place<'_>, side: Side, read: io::Result<T>) -> Result<Option<T>, StageError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if is_gone(&error) => {
                self.shared.moved(place.path);
                Ok(None)
            }
            Err(error) => Err(unreadable(place.path, side, error)),
        }
    }

    /// Compares which names are one file; returns whether this is the first name of it.
    fn compare_links(
        &mut self,
        place: &Place<'_>,
        source: &FileStat,
        copy: &FileStat,
        what: &mut Vec<String>,
    ) -> bool {
        let is_single = source.st_nlink == 1 && copy.st_nlink == 1;
        if is_single || format(source) == SFlag::S_IFDIR {
            return true;
        }
        let (source, copy) = (inode(source), inode(copy));
        let linked = |is| Linked { is, first_name: place.path.to_vec() };
        let mut is_first = true;
        match self.links.get(&source) {
            Some(linked) => {
                is_first = false;
                if linked.is != copy {
                    what.push(format!(
                        "the same file as `{}`, in the copy another",
                        shown(&linked.first_name)
                    ));
                }
            }
            None => drop(self.links.insert(source, linked(copy))),
        }
        match self.linked_copies.get(&copy) {
            Some(linked) if linked.is != source => {
                what.push(format!("another file than `{}`, in the copy the same", shown(&linked.first_name)));
            }
            Some(_) => {}
            None => drop(self.linked_copies.insert(copy, linked(source))),
        }
        is_first
    }

    /// Opens a directory of both trees; its contents come next.
    fn enter(&mut self, place: &Place<'_>, seen: &FileStat) -> Result<(), StageError> {
        let source = self.read(place, Side::Source, directory(place.source, place.name))?;
        let copy = self.read(place, Side::Copy, directory(place.copy, place.name))?;
        let (Some((source, mut names)), Some((copy, copied))) = (source, copy) else { return Ok(()) };
        let now = fstat(&source).map_err(|errno| unreadable(place.path, Side::Source, errno))?;
        if Stamp::new(&now) != Stamp::new(seen) {
            self.shared.moved(place.path);
        }
        names.extend(copied);
        names.sort_unstable();
        names.dedup();
        let (source, copy) = (Rc::new(source), Rc::new(copy));
        self.open.push(Pair { path: place.path.to_vec(), source, copy, names: names.into_iter() });
        Ok(())
    }

    /// Submits the contents of two files for comparison, unless they are known to be equal.
    fn compare_files(
        &mut self,
        place: &Place<'_>,
        source: &FileStat,
        copy: &FileStat,
        what: &mut Vec<String>,
    ) -> Result<(), StageError> {
        self.counts.files += 1;
        if source.st_size != copy.st_size {
            let size = counted(source.st_size.unsigned_abs(), "byte");
            what.push(format!("{size}, in the copy {}", grouped(copy.st_size.unsigned_abs())));
            return Ok(());
        }
        let stamps = Stamps { source: Stamp::new(source), copy: Stamp::new(copy) };
        if self.proofs.get(&stamps.source.inode) == Some(&stamps) {
            self.counts.skipped += 1;
            self.shared.known.fetch_add(source.st_size.unsigned_abs(), Ordering::Relaxed);
            return Ok(());
        }
        let source_file = self.read(place, Side::Source, file(place.source, place.name))?;
        let copy_file = self.read(place, Side::Copy, file(place.copy, place.name))?;
        let (Some((source_file, source_now)), Some((copy_file, copy_now))) = (source_file, copy_file) else {
            return Ok(());
        };
        let now = Stamps { source: Stamp::new(&source_now), copy: Stamp::new(&copy_now) };
        if now != stamps {
            self.shared.moved(place.path);
        }
        // If the opened files are not the ones that the walk saw, the next comparison looks at them.
        if now.source.inode != stamps.source.inode || now.source.size != now.copy.size {
            return Ok(());
        }
        let is_sparse = is_sparse(&source_now) && is_sparse(&copy_now);
        self.submit(FileJob::new(place.path, source_file, copy_file, now, is_sparse))
    }

    fn submit(&self, job: FileJob) -> Result<(), StageError> {
        job.tasks().try_for_each(|task| self.tasks.send(task).map_err(|_| StageError::WorkerDied))
    }
}

fn inode(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn format(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn kind(stat: &FileStat) -> &'static str {
    match format(stat) {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFLNK => "symbolic link",
        SFlag::S_IFIFO => "pipe",
        SFlag::S_IFCHR => "character device",
        SFlag::S_IFBLK => "block device",
        _ => "socket",
    }
}

fn is_sparse(stat: &FileStat) -> bool {
    stat.st_blocks.unsigned_abs() * SECTOR < stat.st_size.unsigned_abs()
}

/// Returns whether a listed name no longer exists or is something else.
fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::ENOENT, Errno::ELOOP, Errno::ENOTDIR, Errno::EINVAL];
    gone.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Returns what has this name; `None` if nothing has.
fn look(place: &Place<'_>, side: Side) -> Result<Option<FileStat>, StageError> {
    let directory = match side {
        Side::Source => place.source,
        Side::Copy => place.copy,
    };
    match fstatat(directory, place.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(unreadable(place.path, side, errno)),
    }
}

/// Opens a directory, and reads its names.
fn directory(parent: &File, name: &CStr) -> io::Result<(File, Vec<CString>)> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = File::from(openat(parent, name, flags, Mode::empty())?);
    let mut names = Vec::new();
    for entry in Dir::openat(&directory, c".", flags, Mode::empty())?.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok((directory, names))
}

/// Opens a regular file, and looks at it.
fn file(parent: &File, name: &CStr) -> io::Result<(File, FileStat)> {
    // Without O_NONBLOCK, opening a pipe put in the file's place would wait.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(openat(parent, name, flags, Mode::empty())?);
    let stat = fstat(&file)?;
    if format(&stat) == SFlag::S_IFREG { Ok((file, stat)) } else { Err(Errno::ENOENT.into()) }
}

/// Reads the extended attributes of a name, without following it.
fn attributes(parent: &File, name: &CStr) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string());
    let path = path.join(OsStr::from_bytes(name.to_bytes()));
    let mut attributes = BTreeMap::new();
    let names = match xattr::list(&path) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOTSUP as i32) => return Ok(attributes),
        names => names?,
    };
    for name in names.filter(|name| name != "security.selinux") {
        if let Some(value) = xattr::get(&path, &name)? {
            attributes.insert(name, value);
        }
    }
    Ok(attributes)
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
