//! Names in the stage: looked up, made and removed relative to handles, without following links.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::agent::tree::{directory_flags, sorted_names};

/// Returns the kind of file that `stat` describes.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Returns what has this name; `None` if nothing has.
pub(super) fn look(directory: &File, name: &CStr) -> nix::Result<Option<FileStat>> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory.
pub(super) fn open_directory(directory: &File, name: &OsStr) -> nix::Result<File> {
    openat(directory, name, directory_flags(), Mode::empty()).map(File::from)
}

/// Opens the directory of the entry at `path`, from the root of the tree.
pub(super) fn open_parent(root: &File, path: &[u8]) -> nix::Result<File> {
    let mut directory = open_directory(root, OsStr::new("."))?;
    let mut names: Vec<_> = path.split(|byte| *byte == b'/').collect();
    names.pop();
    for name in names {
        directory = open_directory(&directory, OsStr::from_bytes(name))?;
    }
    Ok(directory)
}

/// Opens a regular file for reading and writing; `new` if no file has the name.
pub(super) fn open_file(directory: &File, name: &CStr, new: bool) -> nix::Result<File> {
    let new = if new { OFlag::O_CREAT | OFlag::O_EXCL } else { OFlag::empty() };
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    openat(directory, name, flags | new, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

/// Removes what has this name, with all its contents; if nothing has it, that is as good.
pub(super) fn remove(directory: &File, name: &OsStr) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    // It uses a stack of its own: a tree may be deeper than the thread's.
    let mut open = vec![(name.to_owned(), open_directory(directory, name)?, None)];
    while let Some((_, inner, names)) = open.last_mut() {
        if names.is_none() {
            *names = Some(sorted_names(inner)?.into_iter());
        }
        let Some(next) = names.as_mut().and_then(Iterator::next) else {
            let (name, _, _) = open.pop().unwrap_or_else(|| unreachable!("it was the last"));
            let parent = open.last().map_or(directory, |(_, parent, _)| parent);
            unlinkat(parent, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
            continue;
        };
        match unlinkat(&*inner, next.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR | Errno::EPERM) => {
                let name = OsStr::from_bytes(next.to_bytes()).to_owned();
                let directory = open_directory(inner, &name)?;
                open.push((name, directory, None));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
