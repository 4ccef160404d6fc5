//! One pass: a walk through the source, the stage beside it.
//!
//! It compares names directory by directory: it makes what the source has, or makes it the same. When it leaves a
//! directory, it removes what the source does not have, and then sets the directory's own owner, mode and times, which
//! nothing touches afterwards. It hands contents to the [threads](super::work).
//!
//! Every pass decides anew, name by name, which file of the stage stands for which of the source, so nothing depends
//! on how names moved since the last pass. If a file of the stage has several names, the first file of the source
//! found under one of them claims it; another file of the source found under another of these names gets a new file.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, makedev, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};

use super::names::{self, kind};
use super::sync::{self, PROGRESS_INTERVAL};
use super::work::{FileDone, ROOM_PATIENCE, Shared, Workers};
use super::{Record, Stage, StageError, StageStats, TREE};
use crate::agent::archive::Progress;
use crate::agent::calls::{PassKind, StagePass};
use crate::agent::metadata::Metadata;
use crate::agent::tree::{
    Stability, Stamp, TreeMember, TreeWalker, WalkOptions, exclude_set, inode, read_xattrs, sorted_names,
};
use crate::archive::{Device, Entry, EntryKind};

/// Makes one pass.
pub(super) fn run(
    stage: &mut Stage,
    call: &StagePass,
    progress: &mut dyn FnMut(Progress),
) -> Result<StageStats, StageError> {
    let mut begun = Instant::now();
    let mut sync_ms = 0;
    // With content written apart, a database is at work: waiting for the disk would only slow it down.
    if call.kind == PassKind::Live && call.external_dir.is_none() {
        stage.synced = sync::source(&stage.root, stage.slack, progress)?;
        sync_ms = milliseconds(begun);
        begun = Instant::now();
    }
    let content_apart = call.external_dir.as_deref().map(content_of);
    let exclude: Vec<_> = call.exclude.iter().cloned().chain(content_apart).collect();
    let walk = WalkOptions {
        exclude: exclude_set(&exclude)?,
        deferred: Vec::new(),
        stability: call.kind.stability(),
        closed: true,
    };
    let walker = TreeWalker::open(&stage.source, walk)?;
    let directory =
        stage.directory.try_clone().map_err(|source| StageError::Place { what: "directory", source })?;
    let shared =
        Shared::new(stage.hasher.clone(), directory, call.reserve, call.kind.stability(), stage.reflinks);
    stage.passes += 1;
    let mut stats = std::thread::scope(|scope| {
        let mut pass = Pass {
            stability: call.kind.stability(),
            owner: call.owner,
            stage,
            walker,
            workers: Workers::start(scope, &shared),
            shared: &shared,
            open: Vec::new(),
            claims: HashMap::new(),
            firsts: HashMap::new(),
            stats: StageStats::default(),
            told: Instant::now(),
            progress,
        };
        pass.run().inspect_err(|_| shared.give_up())?;
        Ok::<_, StageError>(pass.stats)
    })?;
    stage.reflinks = shared.reflinks();
    if call.external_dir.is_some() {
        // The tree itself has the owner and the mode of the source's, which keep out the right users.
        fchmod(&stage.directory, Mode::from_bits_truncate(0o711))
            .map_err(|errno| StageError::Place { what: "directory", source: errno.into() })?;
    }
    stats.read_bytes = shared.read.load(Ordering::Relaxed);
    stats.written_bytes = shared.written.load(Ordering::Relaxed);
    stats.reflinked_bytes = shared.reflinked.load(Ordering::Relaxed);
    stats.sync_ms = sync_ms;
    stats.duration_ms = milliseconds(begun);
    Ok(stats)
}

/// Returns the glob of everything in a directory.
fn content_of(directory: &Path) -> String {
    if directory.as_os_str().is_empty() {
        return "*".to_owned();
    }
    format!("{}/*", globset::escape(&directory.to_string_lossy()))
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A directory of the stage that the pass is making equal to one of the source.
struct OpenDirectory {
    path: Vec<u8>,
    directory: File,
    /// The metadata that it should get.
    metadata: Metadata,
    /// Names that the source has not shown yet.
    unseen: HashSet<CString>,
}

struct Pass<'a> {
    stability: Stability,
    /// The owner of everything, in place of the source's.
    owner: Option<(u32, u32)>,
    stage: &'a mut Stage,
    walker: TreeWalker,
    workers: Workers,
    shared: &'a Shared,
    /// The directories from the root to the one being filled.
    open: Vec<OpenDirectory>,
    /// For a file of the stage with several names, the file of the source that it stands for.
    claims: HashMap<u64, (u64, u64)>,
    /// The first name of each link, pipe or device that has several.
    firsts: HashMap<(u64, u64), Vec<u8>>,
    stats: StageStats,
    told: Instant,
    progress: &'a mut dyn FnMut(Progress),
}

impl Pass<'_> {
    fn run(&mut self) -> Result<(), StageError> {
        while let Some(mut member) = self.walker.next_member()? {
            self.stats.entries += 1;
            self.give_owner(&mut member.entry);
            self.leave_until(parent(&member.entry.path))?;
            match member.entry.kind {
                EntryKind::Directory => self.directory(&member.entry)?,
                EntryKind::File => self.file(member)?,
                EntryKind::Hardlink => self.hard_link(&member)?,
                _ => self.special(member)?,
            }
            while let Some(done) = self.workers.next_done(Duration::ZERO)? {
                self.done(done);
            }
            self.tell();
        }
        self.leave_until(None)?;
        while self.workers.is_busy() {
            if let Some(done) = self.workers.next_done(PROGRESS_INTERVAL)? {
                self.done(done);
            }
            self.tell();
        }
        let walked = self.walker.stats();
        self.stats.vanished += walked.vanished;
        self.stats.sockets_skipped = walked.sockets_skipped;
        self.stats.excluded = walked.excluded;
        let passes = self.stage.passes;
        self.stage.records.retain(|_, record| record.pass == passes);
        self.stage.records.shrink_to_fit();
        Ok(())
    }

    /// Gives an entry the owner that it should have in the stage.
    fn give_owner(&self, entry: &mut Entry) {
        if let Some(owner) = self.owner {
            (entry.uid, entry.gid) = owner;
        }
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), StageError> {
        let failed = |errno: nix::Error| StageError::write(&entry.path, errno);
        let directory = match self.open.last_mut() {
            None => open_or_make(&self.stage.directory, OsStr::new(TREE)).map_err(failed)?.0,
            Some(parent) => {
                let name = name(&entry.path);
                parent.unseen.remove(&to_c(name));
                let (directory, is_new) = open_or_make(&parent.directory, name).map_err(failed)?;
                if is_new {
                    self.stats.created += 1;
                    self.shared.name().map_err(|source| StageError::write(&entry.path, source))?;
                }
                directory
            }
        };
        let unseen = sorted_names(&directory).map_err(failed)?.into_iter().collect();
        self.open.push(OpenDirectory {
            path: entry.path.clone(),
            directory,
            metadata: Metadata::of_entry(entry),
            unseen,
        });
        Ok(())
    }

    /// Closes the directories within `path`: removes what is gone, and sets their metadata.
    fn leave_until(&mut self, path: Option<&[u8]>) -> Result<(), StageError> {
        while self.open.last().is_some_and(|open| Some(open.path.as_slice()) != path) {
            let Some(open) = self.open.pop() else { break };
            let failed = |source: io::Error| StageError::write(&open.path, source);
            for name in &open.unseen {
                let name = OsStr::from_bytes(name.to_bytes());
                names::remove(&open.directory, name).map_err(failed)?;
                self.stats.removed += 1;
            }
            if Metadata::of_file(&open.directory).map_err(failed)? != open.metadata {
                open.metadata.apply(&open.directory).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Returns the directory being filled.
    fn here(&mut self) -> Result<&mut OpenDirectory, StageError> {
        let source = io::ErrorKind::NotFound.into();
        self.open.last_mut().ok_or(StageError::Place { what: "tree", source })
    }

    fn file(&mut self, mut member: TreeMember) -> Result<(), StageError> {
        self.stats.files += 1;
        let name = to_c(name(&member.entry.path));
        let found = self.look(&member, &name)?;
        let reused = found.filter(|found| self.claim(found, &member.stat));
        if let Some(found) = reused
            && self.is_current(&found, &member)
        {
            self.shared.done.fetch_add(member.entry.size, Ordering::Relaxed);
            self.here()?.unseen.remove(&name);
            return Ok(());
        }
        if !self.walker.open_member(&mut member)? {
            // Leaving the directory removes what the stage has of it.
            self.stats.vanished += 1;
            return Ok(());
        }
        self.give_owner(&mut member.entry);
        let TreeMember { entry, content: Some(content), .. } = member else { return Ok(()) };
        self.stats.reread_files += 1;
        let (dest, number, is_new) = self.dest(&entry, &name, reused.as_ref(), found.is_some())?;
        let known = if is_new { None } else { self.stage.records.remove(&number) };
        if is_new {
            self.stage.records.remove(&number);
        }
        let hashes = known.and_then(|record| record.hashes).map(Vec::from);
        self.submit((entry, content), (dest, number), hashes)
    }

    /// Hands a file to the threads, and takes their finished work while they have no room.
    fn submit(
        &mut self,
        source: (Entry, crate::agent::tree::OpenFile),
        dest: (File, u64),
        hashes: Option<Vec<super::Hash>>,
    ) -> Result<(), StageError> {
        let mut dones = Vec::new();
        let (members, shared, told, progress) =
            (self.stats.entries, self.shared, &mut self.told, &mut *self.progress);
        self.workers.submit(source, dest, hashes, shared, &mut |workers| {
            dones.extend(workers.next_done(ROOM_PATIENCE)?);
            tell(members, shared, told, progress);
            Ok(())
        })?;
        for done in dones {
            self.done(done);
        }
        Ok(())
    }

    /// Returns what has a name in the stage.
    fn look(&mut self, member: &TreeMember, name: &CStr) -> Result<Option<FileStat>, StageError> {
        let here = self.here()?;
        if !here.unseen.contains(name) {
            return Ok(None);
        }
        names::look(&here.directory, name).map_err(|errno| StageError::write(&member.entry.path, errno))
    }

    /// Returns whether `found` in the stage may stand for a file of the source.
    fn claim(&mut self, found: &FileStat, source: &FileStat) -> bool {
        if kind(found) != SFlag::S_IFREG {
            return false;
        }
        found.st_nlink == 1 || *self.claims.entry(found.st_ino).or_insert(inode(source)) == inode(source)
    }

    /// Returns whether nothing can have changed since the stage was made equal to the source.
    fn is_current(&mut self, found: &FileStat, source: &TreeMember) -> bool {
        let TreeMember { entry, stat, .. } = source;
        let Some(record) = self.stage.records.get_mut(&found.st_ino) else { return false };
        let is_current = record.stamp == Some(Stamp::new(stat))
            && found.st_size == stat.st_size
            // An earlier pass may have given it another owner than the source's.
            && (found.st_uid, found.st_gid) == (entry.uid, entry.gid);
        if is_current {
            record.pass = self.stage.passes;
        }
        is_current
    }

    /// Returns the file of the stage to write to, its number, and whether it is new.
    fn dest(
        &mut self,
        entry: &Entry,
        name: &CStr,
        reused: Option<&FileStat>,
        is_taken: bool,
    ) -> Result<(File, u64, bool), StageError> {
        let failed = |source: io::Error| StageError::write(&entry.path, source);
        let here = self.here()?;
        here.unseen.remove(name);
        if let Some(found) = reused {
            let file = names::open_file(&here.directory, name, false);
            return Ok((file.map_err(|errno| failed(errno.into()))?, found.st_ino, false));
        }
        if is_taken {
            names::remove(&here.directory, OsStr::from_bytes(name.to_bytes())).map_err(failed)?;
        }
        self.shared.name().map_err(failed)?;
        self.stats.created += 1;
        let file = names::open_file(&self.here()?.directory, name, true);
        let file = file.map_err(|errno| failed(errno.into()))?;
        let number = nix::sys::stat::fstat(&file).map_err(|errno| failed(errno.into()))?.st_ino;
        Ok((file, number, true))
    }

    fn hard_link(&mut self, member: &TreeMember) -> Result<(), StageError> {
        let entry = &member.entry;
        let failed = |source: io::Error| StageError::write(&entry.path, source);
        let name = to_c(name(&entry.path));
        let found = self.look(member, &name)?;
        let tree = &self.open.first().ok_or(StageError::WorkerDied)?.directory;
        let first_name = to_c(self::name(&entry.link));
        let first = names::open_parent(tree, &entry.link)
            .and_then(|parent| Ok((names::look(&parent, &first_name)?, parent)));
        let (first, first_parent) = match first {
            Ok((Some(first), parent)) if kind(&first) == kind(&member.stat) => (first, parent),
            // Its first name has vanished meanwhile.
            Ok(_) | Err(nix::Error::ENOENT | nix::Error::ENOTDIR) if !self.stability.is_held() => {
                self.stats.vanished += 1;
                return Ok(());
            }
            Ok(_) => return Err(failed(io::ErrorKind::NotFound.into())),
            Err(errno) => return Err(failed(errno.into())),
        };
        self.claims.insert(first.st_ino, inode(&member.stat));
        self.here()?.unseen.remove(&name);
        if found.is_some_and(|found| found.st_ino == first.st_ino) {
            return Ok(());
        }
        self.shared.name().map_err(failed)?;
        self.stats.created += 1;
        let here = self.here()?;
        names::remove(&here.directory, OsStr::from_bytes(name.to_bytes())).map_err(failed)?;
        linkat(&first_parent, first_name.as_c_str(), &here.directory, name.as_c_str(), AtFlags::empty())
            .map_err(|errno| failed(errno.into()))
    }

    /// Makes a link, a pipe or a device, unless one just like it exists.
    fn special(&mut self, mut member: TreeMember) -> Result<(), StageError> {
        if member.stat.st_nlink > 1 {
            if let Some(first) = self.firsts.get(&inode(&member.stat)) {
                member.entry.link.clone_from(first);
                return self.hard_link(&member);
            }
            self.firsts.insert(inode(&member.stat), member.entry.path.clone());
        }
        let member = &member;
        let entry = &member.entry;
        let failed = |source: io::Error| StageError::write(&entry.path, source);
        let name = to_c(name(&entry.path));
        let found = self.look(member, &name)?;
        let here = self.here()?;
        here.unseen.remove(&name);
        if let Some(found) = found {
            if is_like(&here.directory, &name, &found, member).map_err(failed)? {
                return Ok(());
            }
            names::remove(&here.directory, OsStr::from_bytes(name.to_bytes())).map_err(failed)?;
        }
        let name = OsStr::from_bytes(name.to_bytes());
        let mode = Mode::S_IRUSR;
        match entry.kind {
            EntryKind::Symlink => symlinkat(OsStr::from_bytes(&entry.link), &here.directory, name),
            EntryKind::Fifo => mknodat(&here.directory, name, SFlag::S_IFIFO, mode, 0),
            _ => {
                let Device { major, minor } = entry.device.unwrap_or(Device { major: 0, minor: 0 });
                let number = makedev(major.into(), minor.into());
                mknodat(&here.directory, name, kind(&member.stat), mode, number)
            }
        }
        .map_err(|errno| failed(errno.into()))?;
        Metadata::of_entry(entry).apply_at(&here.directory, name, entry.kind).map_err(failed)?;
        self.stats.created += 1;
        self.shared.name().map_err(failed)
    }

    fn done(&mut self, done: FileDone) {
        self.stats.changed_files += u64::from(done.is_written);
        self.stats.unsteady_files += u64::from(done.is_unsteady);
        let Some(Record { stamp, hashes, .. }) = done.record else { return };
        let synced = self.stage.synced;
        let stamp = stamp.filter(|stamp| synced.is_some_and(|synced| synced.proves(stamp)));
        self.stage.records.insert(done.number, Record { stamp, hashes, pass: self.stage.passes });
    }

    fn tell(&mut self) {
        tell(self.stats.entries, self.shared, &mut self.told, self.progress);
    }
}

fn tell(members: u64, shared: &Shared, told: &mut Instant, progress: &mut dyn FnMut(Progress)) {
    if told.elapsed() >= PROGRESS_INTERVAL {
        *told = Instant::now();
        progress(Progress {
            members,
            raw_bytes: shared.done.load(Ordering::Relaxed),
            stored_bytes: shared.written.load(Ordering::Relaxed),
        });
    }
}

/// Returns the directory that an entry lies in; none for the root.
fn parent(path: &[u8]) -> Option<&[u8]> {
    if path == b"." {
        return None;
    }
    Some(path.iter().rposition(|byte| *byte == b'/').map_or(&b"."[..], |slash| &path[..slash]))
}

fn name(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
}

/// Returns a name in the system's form; it comes from the system, so none of its bytes is zero.
fn to_c(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).unwrap_or_default()
}

/// Opens a directory of the stage; makes it if something else, or nothing, has its name. Returns whether it was made.
fn open_or_make(parent: &File, name: &OsStr) -> nix::Result<(File, bool)> {
    use nix::errno::Errno;
    match names::open_directory(parent, name) {
        Ok(directory) => return Ok((directory, false)),
        Err(Errno::ENOENT) => {}
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            nix::unistd::unlinkat(parent, name, nix::unistd::UnlinkatFlags::NoRemoveDir)?;
        }
        Err(errno) => return Err(errno),
    }
    mkdirat(parent, name, Mode::S_IRWXU)?;
    names::open_directory(parent, name).map(|directory| (directory, true))
}

/// Returns whether `found` in the stage is the link, pipe or device that should be there.
fn is_like(directory: &File, name: &CStr, found: &FileStat, member: &TreeMember) -> io::Result<bool> {
    let TreeMember { entry, stat, .. } = member;
    let is_same = kind(found) == kind(stat)
        && (found.st_mode, found.st_uid, found.st_gid) == (stat.st_mode, entry.uid, entry.gid)
        && (found.st_mtime, found.st_mtime_nsec) == (stat.st_mtime, stat.st_mtime_nsec)
        && found.st_rdev == stat.st_rdev
        && found.st_nlink == 1;
    if !is_same {
        return Ok(false);
    }
    if entry.kind == EntryKind::Symlink && readlinkat(directory, name)?.as_bytes() != entry.link {
        return Ok(false);
    }
    let name = OsStr::from_bytes(name.to_bytes());
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    match read_xattrs(xattr::list(&path), |attribute| xattr::get(&path, attribute)) {
        Err(error) if error.raw_os_error() == Some(nix::Error::ENOTSUP as i32) => Ok(entry.xattrs.is_empty()),
        xattrs => Ok(xattrs? == entry.xattrs),
    }
}
