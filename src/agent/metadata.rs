//! Owner, mode, times and attributes of a file: reading and setting them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat, futimens};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use xattr::FileExt as _;

use crate::archive::{Entry, EntryKind, FileRecord, Timestamp, Xattr};

/// Everything about a file except its name and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// When it was last modified.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

impl Metadata {
    /// Returns what the archive says about a member.
    #[must_use]
    pub fn of_entry(entry: &Entry) -> Self {
        Self {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        }
    }

    /// Returns what a file list says about a member.
    #[must_use]
    pub fn of_record(record: &FileRecord) -> Self {
        Self {
            uid: record.uid,
            gid: record.gid,
            mode: record.mode,
            mtime: record.mtime,
            xattrs: record.xattrs.clone(),
        }
    }

    /// Returns the metadata of an open file or directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(file: &File) -> io::Result<Self> {
        let stat = fstat(file)?;
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            xattrs: xattrs_of(file)?,
        })
    }

    /// Returns it as a line of a file list: the line of the directory at the root of a tree.
    #[must_use]
    pub fn to_record(&self) -> FileRecord {
        FileRecord {
            path: b".".to_vec(),
            kind: EntryKind::Directory,
            size: 0,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            link: Vec::new(),
            xattrs: self.xattrs.clone(),
            digest: None,
            device: None,
            is_sparse: false,
        }
    }

    /// Sets it on an open file or directory: the times last, because everything else may change them.
    ///
    /// # Errors
    /// When the system refuses any of it.
    pub fn apply(&self, file: &File) -> io::Result<()> {
        // The owner comes first: changing it removes setuid and capabilities.
        fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        fchmod(file, Mode::from_bits_truncate(self.mode))?;
        for name in file.list_xattr().into_iter().flatten() {
            if is_ours(&name) && !self.xattrs.iter().any(|xattr| xattr.name == name.as_bytes()) {
                file.remove_xattr(&name)?;
            }
        }
        for xattr in &self.xattrs {
            file.set_xattr(OsStr::from_bytes(&xattr.name), &xattr.value)?;
        }
        futimens(file, &omitted(), &time(self.mtime))?;
        Ok(())
    }

    /// Sets it on something that must not be opened: a link, a pipe, a device.
    ///
    /// # Errors
    /// When the system refuses any of it.
    pub fn apply_at(&self, directory: &File, name: &OsStr, kind: EntryKind) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        fchownat(directory, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind != EntryKind::Symlink {
            // We have just made it in a directory that nobody else uses: it is no link.
            fchmodat(directory, name, Mode::from_bits_truncate(self.mode), FchmodatFlags::FollowSymlink)?;
        }
        let path = std::path::Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        for xattr in &self.xattrs {
            xattr::set(&path, OsStr::from_bytes(&xattr.name), &xattr.value)?;
        }
        let times = (omitted(), time(self.mtime));
        utimensat(directory, name, &times.0, &times.1, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }
}

/// Attributes that belong to a tree; the system's own (`security.selinux`) stay as they are.
fn is_ours(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

fn xattrs_of(file: &File) -> io::Result<Vec<Xattr>> {
    let names = match file.list_xattr() {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOTSUP as i32) => {
            return Ok(Vec::new());
        }
        names => names?,
    };
    let mut xattrs = Vec::new();
    for name in names {
        if let Some(value) = file.get_xattr(&name)? {
            xattrs.push(Xattr { name: name.into_vec(), value });
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

fn omitted() -> TimeSpec {
    TimeSpec::UTIME_OMIT
}

/// Returns a time in the system's form.
pub(super) fn time(timestamp: Timestamp) -> TimeSpec {
    TimeSpec::new(timestamp.secs, timestamp.nanos.into())
}
