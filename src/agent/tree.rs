//! Walks a tree, one member at a time, without ever following a symbolic link.
//!
//! Everything is opened relative to the directory where it was found, so no name is resolved twice and no path is too
//! long. The order is fixed: a directory before its contents, names sorted bytewise. Memory holds the names of the
//! open directories, and one entry for each file that has more than one name.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use nix::unistd::{Whence, lseek};
use xattr::FileExt;

use crate::archive::{
    ArchiveError, DEPTH_MAX, Device, Entry, EntryKind, Extent, FileProblem, Limits, Timestamp, Xattr,
};

/// The unit in which the kernel counts a file's disk use, and tar its records.
const SECTOR: u64 = 512;

/// How still the tree is while it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stability {
    /// It may change.
    #[default]
    Live,
    /// Everything that writes is held, so that a change is an error.
    Held,
}

impl Stability {
    /// Returns whether everything that writes is held.
    #[must_use]
    pub fn is_held(self) -> bool {
        self == Self::Held
    }
}

/// What to walk, and how strictly.
#[derive(Debug, Clone, Default)]
pub struct WalkOptions {
    /// Paths to leave out, relative to the root; a directory goes with all its contents.
    pub exclude: GlobSet,
    /// Paths relative to the root that come after everything else, in this order; directories among them keep their
    /// place.
    pub deferred: Vec<PathBuf>,
    /// Whether a change is an error.
    pub stability: Stability,
    /// Whether regular files stay closed until `open_member` opens those that are needed; until then only what their
    /// names tell is known of them.
    pub closed: bool,
}

/// What the walk saw that is not among the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkStats {
    /// Sockets, which no archive holds.
    pub sockets_skipped: u64,
    /// Members that were excluded; a directory counts once.
    pub excluded: u64,
    /// Members that vanished between the listing and the look.
    pub vanished: u64,
}

/// A member of the tree.
#[derive(Debug)]
pub struct TreeMember {
    /// Its metadata.
    pub entry: Entry,
    /// The content of a regular file.
    pub content: Option<OpenFile>,
    /// What the system says about it.
    pub(super) stat: FileStat,
}

/// A file open for reading, and its state when it was opened.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: File,
    stamp: Stamp,
}

impl OpenFile {
    /// Returns what has changed about the file since it was opened.
    ///
    /// # Errors
    /// If it can no longer be looked at.
    pub fn change(&self) -> io::Result<Option<&'static str>> {
        Ok(self.stamp.difference(&Stamp::new(&fstat(&self.file)?)))
    }

    /// Returns its state when it was opened.
    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }
}

/// What changes about a file when it is written to, renamed or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: (u64, u64),
    pub(super) size: i64,
    pub(super) mtime: (i64, i64),
    pub(super) ctime: (i64, i64),
}

impl Stamp {
    pub(super) fn new(stat: &FileStat) -> Self {
        Self {
            inode: inode(stat),
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn difference(&self, now: &Self) -> Option<&'static str> {
        [
            (self.inode != now.inode, "inode"),
            (self.size != now.size, "size"),
            (self.mtime != now.mtime, "modification time"),
            (self.ctime != now.ctime, "change time"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }
}

pub(super) fn inode(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Returns the set of `globs`: `*` and `?` stay within a name, `**` does not.
///
/// # Errors
/// [`ArchiveError::Glob`] for the first one that cannot be understood.
pub fn exclude_set(globs: &[String]) -> Result<GlobSet, ArchiveError> {
    let refused = |glob: &str, error: &globset::Error| ArchiveError::Glob {
        glob: glob.to_owned(),
        what: error.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let built = GlobBuilder::new(glob).literal_separator(true).build();
        set.add(built.map_err(|error| refused(glob, &error))?);
    }
    set.build().map_err(|error| refused(&globs.join(" "), &error))
}

/// Walks a tree.
#[derive(Debug)]
pub struct TreeWalker {
    options: WalkOptions,
    root: Arc<File>,
    open: Vec<OpenDirectory>,
    is_begun: bool,
    /// The first name of each file that has more names to come.
    links: HashMap<(u64, u64), FirstName>,
    postponed: HashSet<Vec<u8>>,
    deferred: std::vec::IntoIter<PathBuf>,
    without_xattrs: Option<u64>,
    stats: WalkStats,
}

#[derive(Debug)]
struct OpenDirectory {
    dir: Arc<File>,
    path: Vec<u8>,
    names: std::vec::IntoIter<CString>,
    stamp: Stamp,
}

#[derive(Debug)]
struct FirstName {
    path: Vec<u8>,
    names_left: nix::libc::nlink_t,
}

/// A directory to look in, a name in it, and the path of both.
struct Place<'a> {
    dir: &'a File,
    name: &'a CStr,
    path: &'a [u8],
}

impl Place<'_> {
    fn error(&self, problem: FileProblem) -> ArchiveError {
        ArchiveError::file(to_path(self.path), problem)
    }

    fn unreadable(&self, source: impl Into<io::Error>) -> ArchiveError {
        ArchiveError::unreadable(to_path(self.path), source)
    }
}

fn to_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

impl TreeWalker {
    /// Opens the directory `root`; only this path may go through a symbolic link.
    ///
    /// # Errors
    /// If it is no directory or cannot be opened.
    pub fn open(root: &Path, options: WalkOptions) -> Result<Self, ArchiveError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(root, flags, Mode::empty()).map_err(|errno| ArchiveError::unreadable(root, errno))?;
        let deferred = options.deferred.clone().into_iter();
        Ok(Self {
            options,
            root: Arc::new(dir.into()),
            open: Vec::new(),
            is_begun: false,
            links: HashMap::new(),
            postponed: HashSet::new(),
            deferred,
            without_xattrs: None,
            stats: WalkStats::default(),
        })
    }

    /// Returns what has been left out so far.
    #[must_use]
    pub fn stats(&self) -> WalkStats {
        self.stats
    }

    /// Returns the next member; `None` once all were returned.
    ///
    /// # Errors
    /// If a member cannot be read; or if it vanished or its directory changed while all writers were held.
    pub fn next_member(&mut self) -> Result<Option<TreeMember>, ArchiveError> {
        if !self.is_begun {
            self.is_begun = true;
            let place = Place { dir: &Arc::clone(&self.root), name: c".", path: b"." };
            return self.visit(&place);
        }
        while let Some(directory) = self.open.last_mut() {
            let Some(name) = directory.names.next() else {
                self.leave_directory()?;
                continue;
            };
            let dir = Arc::clone(&directory.dir);
            let path = join(&directory.path, name.to_bytes());
            if self.options.exclude.is_match(to_path(&path)) {
                self.stats.excluded += 1;
                continue;
            }
            if let Some(member) = self.visit(&Place { dir: &dir, name: &name, path: &path })? {
                return Ok(Some(member));
            }
        }
        self.next_deferred()
    }

    fn next_deferred(&mut self) -> Result<Option<TreeMember>, ArchiveError> {
        while let Some(path) = self.deferred.next() {
            let path = path.into_os_string().into_vec();
            if !self.postponed.remove(&path) {
                continue;
            }
            let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => (&path[..slash], &path[slash + 1..]),
                None => (&b""[..], path.as_slice()),
            };
            let name = CString::new(name).map_err(|error| ArchiveError::unreadable(to_path(&path), error))?;
            let dir = self.open_again(parent)?;
            if let Some(member) = self.visit(&Place { dir: &dir, name: &name, path: &path })? {
                return Ok(Some(member));
            }
        }
        Ok(None)
    }

    /// Opens a directory by its path from the root, again without following links.
    fn open_again(&self, path: &[u8]) -> Result<Arc<File>, ArchiveError> {
        let mut dir = Arc::clone(&self.root);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let opened = openat(&dir, OsStr::from_bytes(name), directory_flags(), Mode::empty());
            dir = Arc::new(opened.map_err(|errno| ArchiveError::unreadable(to_path(path), errno))?.into());
        }
        Ok(dir)
    }

    /// Looks at one name; `None` if it is not a member.
    fn visit(&mut self, place: &Place<'_>) -> Result<Option<TreeMember>, ArchiveError> {
        if place.path.split(|byte| *byte == b'/').count() > DEPTH_MAX {
            return Err(place.error(FileProblem::TooDeep { limit: DEPTH_MAX }));
        }
        let stat = match fstatat(place.dir, place.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) => return self.missing(place, errno),
        };
        let format = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if format == SFlag::S_IFDIR {
            return self.visit_directory(place);
        }
        if self.is_postponed(place.path) {
            return Ok(None);
        }
        match format {
            SFlag::S_IFREG => self.visit_file(place, &stat),
            SFlag::S_IFLNK => self.visit_symlink(place, &stat),
            SFlag::S_IFIFO => self.visit_other(place, &stat, EntryKind::Fifo),
            SFlag::S_IFCHR => self.visit_other(place, &stat, EntryKind::Char),
            SFlag::S_IFBLK => self.visit_other(place, &stat, EntryKind::Block),
            _ => {
                self.stats.sockets_skipped += 1;
                Ok(None)
            }
        }
    }

    /// Returns whether `path` must wait for its turn, and records that it was seen.
    fn is_postponed(&mut self, path: &[u8]) -> bool {
        let waits = !self.open.is_empty()
            && self.options.deferred.iter().any(|deferred| deferred.as_os_str().as_bytes() == path);
        if waits {
            self.postponed.insert(path.to_vec());
        }
        waits
    }

    /// Judges a listed name that no longer exists or is something else.
    fn missing(&mut self, place: &Place<'_>, errno: Errno) -> Result<Option<TreeMember>, ArchiveError> {
        // A symbolic link or a file in its place counts as nothing there.
        let is_gone = matches!(errno, Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR);
        if !is_gone {
            return Err(place.unreadable(errno));
        }
        if self.options.stability.is_held() || place.path == b"." {
            return Err(place.error(FileProblem::Vanished));
        }
        self.stats.vanished += 1;
        Ok(None)
    }

    fn visit_directory(&mut self, place: &Place<'_>) -> Result<Option<TreeMember>, ArchiveError> {
        let dir: File = match openat(place.dir, place.name, directory_flags(), Mode::empty()) {
            Ok(dir) => dir.into(),
            Err(errno) => return self.missing(place, errno),
        };
        let stat = fstat(&dir).map_err(|errno| place.unreadable(errno))?;
        let xattrs = self.xattrs(place, &stat, Some(&dir))?;
        let names = match sorted_names(&dir) {
            Ok(names) => names,
            // It was removed while it was open.
            Err(Errno::ENOENT) => return self.missing(place, Errno::ENOENT),
            Err(errno) => return Err(place.unreadable(errno)),
        };
        self.open.push(OpenDirectory {
            dir: Arc::new(dir),
            path: place.path.to_vec(),
            names: names.into_iter(),
            stamp: Stamp::new(&stat),
        });
        let entry = entry(place.path, &stat, EntryKind::Directory, xattrs);
        Ok(Some(TreeMember { entry, content: None, stat }))
    }

    /// Closes the innermost directory. While writers are held, it must still have the names that were read.
    fn leave_directory(&mut self) -> Result<(), ArchiveError> {
        let Some(directory) = self.open.pop() else { return Ok(()) };
        if !self.options.stability.is_held() {
            return Ok(());
        }
        let path = to_path(&directory.path);
        let stat = fstat(&directory.dir).map_err(|errno| ArchiveError::unreadable(path, errno))?;
        match directory.stamp.difference(&Stamp::new(&stat)) {
            Some(what) => Err(ArchiveError::file(path, FileProblem::Changed { what })),
            None => Ok(()),
        }
    }

    fn visit_file(&mut self, place: &Place<'_>, seen: &FileStat) -> Result<Option<TreeMember>, ArchiveError> {
        if let Some(first) = self.take_link(inode(seen)) {
            let mut entry = entry(place.path, seen, EntryKind::Hardlink, Vec::new());
            entry.link = first;
            return Ok(Some(TreeMember { entry, content: None, stat: *seen }));
        }
        if self.options.closed {
            self.expect_links(place, seen);
            let mut entry = entry(place.path, seen, EntryKind::File, Vec::new());
            entry.size = seen.st_size.unsigned_abs();
            return Ok(Some(TreeMember { entry, content: None, stat: *seen }));
        }
        let Some(mut member) = self.open_file(place, seen)? else { return Ok(None) };
        if let Some(content) = &member.content
            && member.stat.st_blocks.unsigned_abs() * SECTOR < member.entry.size
        {
            member.entry.extents =
                extents(&content.file, member.entry.size).map_err(|errno| place.unreadable(errno))?;
        }
        self.expect_links(place, &member.stat);
        Ok(Some(member))
    }

    /// Opens the file that [`next_member`](Self::next_member) has just returned, and looks at it again; returns
    /// whether it still exists.
    ///
    /// # Errors
    /// If it cannot be read; or if it vanished while all writers were held.
    pub(super) fn open_member(&mut self, member: &mut TreeMember) -> Result<bool, ArchiveError> {
        let path = std::mem::take(&mut member.entry.path);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = CString::new(name).map_err(|error| ArchiveError::unreadable(to_path(&path), error))?;
        let dir = self.open.last().map_or_else(|| Arc::clone(&self.root), |open| Arc::clone(&open.dir));
        let opened = self.open_file(&Place { dir: &dir, name: &name, path: &path }, &member.stat)?;
        member.entry.path = path;
        match opened {
            Some(opened) => *member = opened,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Opens a file, and reads its attributes; `None` if it is no longer what was seen.
    fn open_file(&mut self, place: &Place<'_>, seen: &FileStat) -> Result<Option<TreeMember>, ArchiveError> {
        // Without O_NONBLOCK, opening a pipe put in the file's place would wait.
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file: File = match openat(place.dir, place.name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(errno) => return self.missing(place, errno),
        };
        let stat = fstat(&file).map_err(|errno| place.unreadable(errno))?;
        if inode(&stat) != inode(seen) {
            return self.missing(place, Errno::ENOENT);
        }
        let xattrs = self.xattrs(place, &stat, Some(&file))?;
        let mut entry = entry(place.path, &stat, EntryKind::File, xattrs);
        entry.size = stat.st_size.unsigned_abs();
        let content = Some(OpenFile { file, stamp: Stamp::new(&stat) });
        Ok(Some(TreeMember { entry, content, stat }))
    }

    /// Remembers the first name of a file that has more names.
    fn expect_links(&mut self, place: &Place<'_>, stat: &FileStat) {
        if stat.st_nlink > 1 {
            let first = FirstName { path: place.path.to_vec(), names_left: stat.st_nlink - 1 };
            self.links.insert(inode(stat), first);
        }
    }

    /// Returns the first name of a file that was seen before, and forgets it with the last name.
    fn take_link(&mut self, inode: (u64, u64)) -> Option<Vec<u8>> {
        let first = self.links.get_mut(&inode)?;
        first.names_left -= 1;
        if first.names_left > 0 {
            return Some(first.path.clone());
        }
        self.links.remove(&inode).map(|first| first.path)
    }

    fn visit_symlink(
        &mut self,
        place: &Place<'_>,
        stat: &FileStat,
    ) -> Result<Option<TreeMember>, ArchiveError> {
        let target = match readlinkat(place.dir, place.name) {
            Ok(target) => target,
            // It is no longer a link.
            Err(Errno::EINVAL) => return self.missing(place, Errno::ENOENT),
            Err(errno) => return self.missing(place, errno),
        };
        let member = self.visit_other(place, stat, EntryKind::Symlink)?;
        Ok(member.map(|mut member| {
            member.entry.link = target.into_vec();
            member
        }))
    }

    fn visit_other(
        &mut self,
        place: &Place<'_>,
        stat: &FileStat,
        kind: EntryKind,
    ) -> Result<Option<TreeMember>, ArchiveError> {
        let xattrs = match self.xattrs(place, stat, None) {
            Err(ArchiveError::File { problem: FileProblem::Unreadable { source }, .. })
                if source.raw_os_error() == Some(Errno::ENOENT as i32) =>
            {
                return self.missing(place, Errno::ENOENT);
            }
            xattrs => xattrs?,
        };
        let mut entry = entry(place.path, stat, kind, xattrs);
        if matches!(kind, EntryKind::Char | EntryKind::Block) {
            let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
            entry.device =
                Some(Device { major: number(major(stat.st_rdev)), minor: number(minor(stat.st_rdev)) });
        }
        Ok(Some(TreeMember { entry, content: None, stat: *stat }))
    }

    /// Returns the extended attributes, sorted; none if the file system has none.
    fn xattrs(
        &mut self,
        place: &Place<'_>,
        stat: &FileStat,
        file: Option<&File>,
    ) -> Result<Vec<Xattr>, ArchiveError> {
        if self.without_xattrs == Some(stat.st_dev) {
            return Ok(Vec::new());
        }
        let read = match file {
            Some(file) => read_xattrs(file.list_xattr(), |name| file.get_xattr(name)),
            // A path that follows no link at its end reaches what must not be opened.
            None => {
                let name = OsStr::from_bytes(place.name.to_bytes());
                let path = Path::new("/proc/self/fd").join(place.dir.as_raw_fd().to_string()).join(name);
                read_xattrs(xattr::list(&path), |name| xattr::get(&path, name))
            }
        };
        match read {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTSUP as i32) => {
                self.without_xattrs = Some(stat.st_dev);
                Ok(Vec::new())
            }
            read => read.map_err(|error| place.unreadable(error)),
        }
    }
}

pub(super) fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory == b"." { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn entry(path: &[u8], stat: &FileStat, kind: EntryKind, xattrs: Vec<Xattr>) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        size: 0,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        link: Vec::new(),
        xattrs,
        device: None,
        extents: None,
    }
}

/// Reads the names of a directory through a handle of its own, which has its own position in it.
pub(super) fn sorted_names(dir: &File) -> nix::Result<Vec<CString>> {
    let mut listing = Dir::openat(dir, c".", directory_flags(), Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn read_xattrs(
    names: io::Result<xattr::XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Vec<Xattr>> {
    let mut xattrs = Vec::new();
    for name in names? {
        // An attribute that was removed meanwhile does not count.
        if let Some(value) = get(&name)? {
            xattrs.push(Xattr { name: name.into_vec(), value });
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Returns how many bytes an archive has of a file: those outside its holes.
pub(super) fn held_bytes(file: &File, size: u64) -> nix::Result<u64> {
    Ok(extents(file, size)?.map_or(size, |extents| extents.iter().map(|extent| extent.len).sum()))
}

/// Returns where the data of a sparse file lies; `None` if it has no holes.
fn extents(file: &File, size: u64) -> nix::Result<Option<Vec<Extent>>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(data) = seek(file, at, Whence::SeekData)? else { break };
        // A reader of tar finds the data of each extent at the start of a record.
        let start = data / SECTOR * SECTOR;
        let hole = seek(file, data, Whence::SeekHole)?.unwrap_or(size);
        // Beyond the limit of every reader, the rest is stored with its holes.
        let is_last = extents.len() + 1 == Limits::MAX_EXTENTS;
        let end = if is_last { size } else { hole.next_multiple_of(SECTOR).min(size) };
        match extents.last_mut() {
            Some(last) if last.offset + last.len >= start => last.len = end - last.offset,
            _ => extents.push(Extent { offset: start, len: end - start }),
        }
        at = end.max(at + 1);
    }
    let is_dense = matches!(extents.as_slice(), [whole] if whole.len == size);
    Ok((!is_dense).then_some(extents))
}

/// Returns the next position of a kind; `None` if there is none.
pub(super) fn seek(file: &File, from: u64, whence: Whence) -> nix::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
    match lseek(file, from, whence) {
        Ok(place) => Ok(Some(place.unsigned_abs())),
        Err(Errno::ENXIO) => Ok(None),
        // On a file system that knows no holes, data is everywhere.
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekData) => Ok(Some(from.unsigned_abs())),
        Err(Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}
