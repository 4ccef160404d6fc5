//! A stage that will take the place of another tree: it lies in the work directory of a [swap](crate::agent::swap), in
//! the very root that it will be moved into, so that no byte of it is written twice.
//!
//! A run that died may have left its own stage there, with most of the tree already staged. The next run takes it over
//! by one rename, and [`Stage::open`](super::Stage::open) uses what its state proves. This happens only if the
//! contents are certain: one work directory and no other, of a run that has moved nothing in the root, and that no
//! living run holds.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{names, open_directory, state};
use crate::agent::swap::{
    OLD, PREFIX, Step, SwapState, UNDONE, WorkDir, keeping_mtime, leftovers, work_name,
};

/// The work directory of a run, held against every other run.
#[derive(Debug)]
pub struct StagePlace {
    root: PathBuf,
    run: String,
    path: PathBuf,
    _lock: Option<Flock<File>>,
}

impl StagePlace {
    /// Opens the work directory of `run` in `root`; makes it, or takes over what another run has left. The root keeps
    /// its time of modification.
    ///
    /// # Errors
    /// When there is more than one, or one that cannot be taken over: the error names it. When it cannot be made.
    pub fn open(root: &Path, run: &str) -> io::Result<Self> {
        let ours = OsString::from(work_name(run));
        let others: Vec<_> = leftovers(root)?;
        let there = others.contains(&ours);
        let others: Vec<_> = others.into_iter().filter(|name| *name != ours).collect();
        let lock = match others.as_slice() {
            [] => None,
            [other] if !there => Some(take_up(root, other, &ours)?),
            _ => return Err(refused(&others, "finish or remove what earlier runs have left")),
        };
        let watch = &mut |_: &Step| Ok(());
        keeping_mtime(root, || WorkDir::open_or_make(root, run, watch).map(drop))?;
        let path = root.join(&ours);
        let lock = match lock {
            Some(lock) => lock,
            None => hold(open_directory(&path)?, &ours)?,
        };
        let place = Self { root: root.to_owned(), run: run.to_owned(), path, _lock: lock };
        place.refuse_swapped()?;
        clear(&open_directory(&place.path)?, &ours)?;
        Ok(place)
    }

    /// Refuses to go on once the tree has moved into the root.
    ///
    /// # Errors
    /// When it has, or this cannot be determined.
    pub fn refuse_swapped(&self) -> io::Result<()> {
        let watch = &mut |_: &Step| Ok(());
        let work_dir = WorkDir::open(&self.root, &self.run, watch)?;
        let state = work_dir.map_or(Ok(SwapState::Absent), |work_dir| work_dir.state())?;
        match state {
            SwapState::Untouched => Ok(()),
            state => Err(refused(
                &[work_name(&self.run).into()],
                &format!("its tree is not a stage any more ({state:?})"),
            )),
        }
    }

    /// Returns where the tree will go.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where the stage is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Renames what another run has left, if it can be taken over.
fn take_up(root: &Path, other: &OsStr, ours: &OsStr) -> io::Result<Option<Flock<File>>> {
    let refuse = |why: &str| refused(&[other.to_owned()], why);
    let run = other.to_str().and_then(|name| name.strip_prefix(PREFIX));
    let run = run.ok_or_else(|| refuse("no run has such a name"))?;
    let watch = &mut |_: &Step| Ok(());
    let work_dir = WorkDir::open(root, run, watch).map_err(|error| refuse(&error.to_string()))?;
    let work_dir = work_dir.ok_or_else(|| refuse("it has just gone"))?;
    let directory = open_directory(&root.join(other))?;
    // The lock comes first: from here on what it says stays true.
    let lock = hold(directory.try_clone()?, other)?;
    match work_dir.state()? {
        SwapState::Untouched => {}
        state => return Err(refuse(&format!("what it was doing is not finished ({state:?})"))),
    }
    if !state::is_absent_or_known(&directory) {
        return Err(refuse("its state cannot be read"));
    }
    keeping_mtime(root, || {
        std::fs::rename(root.join(other), root.join(ours))?;
        open_directory(root)?.sync_all()
    })?;
    Ok(lock)
}

/// Holds a work directory for as long as the result lives; without locks, nobody holds it.
fn hold(directory: File, name: &OsStr) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(refused(&[name.to_owned()], "another run is at work in it")),
        Err((_, errno)) => {
            tracing::debug!(%errno, "the work directory cannot be locked");
            Ok(None)
        }
    }
}

/// Removes what a swap back has left: the tree that it took out, and the directory of the old one.
fn clear(directory: &File, name: &OsStr) -> io::Result<()> {
    names::remove(directory, OsStr::new(UNDONE))?;
    match nix::unistd::unlinkat(directory, OLD, nix::unistd::UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ENOTEMPTY) => Err(refused(&[name.to_owned()], "it still has a part of the old data")),
        Err(errno) => Err(errno.into()),
    }
}

fn refused(names: &[OsString], why: &str) -> io::Error {
    let names: Vec<_> = names.iter().map(|name| format!("`{}`", name.display())).collect();
    io::Error::other(format!("the stage cannot lie beside, or in, {}: {why}", names.join(", ")))
}
