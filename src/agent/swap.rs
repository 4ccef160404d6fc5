//! Puts a new tree in the place of an old one, so that at every moment it is clear which of the two is there, and the
//! old one can be put back whole.
//!
//! All of it happens in one work directory inside the root, `.volsnap-work-RUN`, on the same file system, so that
//! every move is a rename:
//!
//! ```text
//! .volsnap-work-RUN/
//!   new/        what was extracted, or staged
//!   old/        what was in the root, once it is being swapped
//!   undone/     what a swap back took out of the root
//!   plan        the names that belong to the old tree: from here on the old tree is owed
//!   committed   the plan, renamed: from here on the new tree stays
//!   emptied     the old tree was removed, or a part of it, and is kept elsewhere
//! ```
//!
//! The plan is durable before the first name moves. All of the old tree goes before any of the new one comes. So a
//! name of the plan that is in the root belongs to the old tree exactly if it is not in `old/`, and whatever else is
//! in the root does not. So a swap back needs no memory but the plan, and can be killed at any step and run again.
//!
//! If there is no room for two trees, all of the old one is removed first, and owed from elsewhere: the mark `emptied`
//! is durable before the first of it goes, and is removed when the new tree stays. Whoever comes next starts over what
//! was begun in between.
//!
//! The files that make a directory a database (its *marker files*) go first and come last, either way: a mixture never
//! starts.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use super::metadata::Metadata;
use crate::archive::FileRecord;

/// The start of every work directory's name.
pub const PREFIX: &str = ".volsnap-work-";

/// The new tree within a work directory: the extracted or staged one.
pub const NEW: &str = "new";
pub(super) const OLD: &str = "old";
pub(super) const UNDONE: &str = "undone";
const PLAN: &str = "plan";
const EMPTIED: &str = "emptied";
const PLAN_PARTIAL: &str = "plan.partial";
const COMMITTED: &str = "committed";
/// More than the plan of any directory has.
const PLAN_MAX: u64 = 256 << 20;

/// Returns the name of a run's work directory in the root.
#[must_use]
pub fn work_name(run: &str) -> String {
    format!("{PREFIX}{run}")
}

/// Returns where a run extracts to, relative to the root.
#[must_use]
pub fn new_tree(run: &str) -> PathBuf {
    Path::new(&work_name(run)).join(NEW)
}

/// Returns where a run keeps the old tree, relative to the root.
#[must_use]
pub fn old_tree(run: &str) -> PathBuf {
    Path::new(&work_name(run)).join(OLD)
}

/// What a run's work directory tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapState {
    /// There is none.
    Absent,
    /// Nothing of the root has moved, or all of it has moved back.
    Untouched,
    /// The root may be any part of either tree: the old one is owed.
    Swapped,
    /// The new tree stays; the old one is still kept.
    Committed,
    /// The root may be empty, or any part of either tree: the old one is owed from elsewhere.
    Emptied,
}

/// An effect on the disk, named before it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A directory is made.
    Make(&'static str),
    /// The plan is written, durably.
    WritePlan,
    /// A name is moved.
    Move {
        /// From where: the root is "".
        from: &'static str,
        /// To where.
        to: &'static str,
        /// Which.
        name: OsString,
    },
    /// Owner, mode and times are set.
    Metadata(&'static str),
    /// The names in a directory are made durable.
    Sync(&'static str),
    /// The plan gets another name, or none.
    Mark(&'static str),
    /// A tree is removed, or the work directory.
    Remove,
}

/// Sees each step before it is taken, and may fail it.
pub type Watch<'w> = &'w mut dyn FnMut(&Step) -> io::Result<()>;

/// The format of a plan. A plan that names none has format 1, and the same fields.
const PLAN_FORMAT: u32 = 2;

/// What is owed.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    #[serde(default = "unnumbered")]
    format: u32,
    /// The names in the root that are the old tree.
    old: Vec<Name>,
    /// Those of both trees that go first and come last, in order: the last one comes last of all.
    #[serde(alias = "heads")]
    marker_files: Vec<Name>,
    /// Owner, mode, times and attributes of the root as it was.
    root: FileRecord,
}

fn unnumbered() -> u32 {
    1
}

/// A file name; as text if it is text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

impl Name {
    fn of(name: &OsStr) -> Self {
        match name.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(name.as_bytes().to_vec()),
        }
    }

    fn to_os(&self) -> OsString {
        match self {
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes.clone()),
        }
    }
}

/// The work directory of a run, and the root it is in.
pub struct WorkDir<'w> {
    path: PathBuf,
    root: File,
    work: File,
    watch: Watch<'w>,
}

impl<'w> WorkDir<'w> {
    /// Makes the work directory of a run, with room for the new tree. The root keeps its time of modification.
    ///
    /// # Errors
    /// When one already exists, or it cannot be made.
    pub fn create(root: &Path, run: &str, watch: Watch<'w>) -> io::Result<Self> {
        let root_directory = open_directory(root)?;
        let before = fstat(&root_directory)?;
        let name = work_name(run);
        watch(&Step::Make("work"))?;
        mkdirat(&root_directory, name.as_str(), Mode::S_IRWXU)?;
        set_mtime(&root_directory, TimeSpec::new(before.st_mtime, before.st_mtime_nsec))?;
        let work = directory_in(&root_directory, name.as_ref())?;
        watch(&Step::Make(NEW))?;
        mkdirat(&work, NEW, Mode::S_IRWXU)?;
        Ok(Self { path: root.join(name), root: root_directory, work, watch })
    }

    /// Opens the work directory of a run; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(root: &Path, run: &str, watch: Watch<'w>) -> io::Result<Option<Self>> {
        let name = work_name(run);
        let root_directory = open_directory(root)?;
        match directory_in(&root_directory, name.as_ref()) {
            Ok(work) => Ok(Some(Self { path: root.join(name), root: root_directory, work, watch })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the work directory of a run, with room for the new tree; makes what does not exist.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn open_or_make(root: &Path, run: &str, watch: Watch<'w>) -> io::Result<Self> {
        let name = work_name(run);
        let root_directory = open_directory(root)?;
        watch(&Step::Make("work"))?;
        made(mkdirat(&root_directory, name.as_str(), Mode::S_IRWXU))?;
        let work = directory_in(&root_directory, name.as_ref())?;
        let mut work_dir = Self { path: root.join(name), root: root_directory, work, watch };
        work_dir.make(NEW)?;
        Ok(work_dir)
    }

    /// Returns the directory to extract into.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn new_directory(&self) -> io::Result<File> {
        directory_in(&self.work, NEW.as_ref())
    }

    /// Returns what the work directory tells.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn state(&self) -> io::Result<SwapState> {
        // An emptied root has a plan too, and while it is being committed it has both.
        for (name, state) in
            [(COMMITTED, SwapState::Committed), (EMPTIED, SwapState::Emptied), (PLAN, SwapState::Swapped)]
        {
            if exists(&self.work, name.as_ref())? {
                return Ok(state);
            }
        }
        Ok(SwapState::Untouched)
    }

    /// Removes all that is in the root, and what was begun in its place; then the new tree can be extracted.
    /// `marker_files` go first. Once the mark is set, the old tree is owed from elsewhere until another tree stays.
    ///
    /// # Errors
    /// When any step fails; it may be run again, as often as it takes.
    pub fn empty(&mut self, marker_files: &[PathBuf]) -> io::Result<()> {
        if !matches!(self.state()?, SwapState::Untouched | SwapState::Emptied) {
            return Err(io::Error::other("it was swapped before"));
        }
        (self.watch)(&Step::Mark(EMPTIED))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        File::from(openat(&self.work, EMPTIED, flags, Mode::S_IRUSR | Mode::S_IWUSR)?).sync_all()?;
        self.sync("work")?;
        self.sync("")?;
        let names: Vec<OsString> = marker_files.iter().filter_map(|path| first_name(path)).collect();
        for name in marker_files_first(self.names(&self.root, true)?, &names) {
            (self.watch)(&Step::Remove)?;
            let path = self.path.with_file_name(&name);
            remove_first(&path, marker_files.iter().filter(|head| first_name(head).as_ref() == Some(&name)))?;
            remove_all(&path)?;
        }
        self.sync("")?;
        for name in [PLAN, NEW, OLD, UNDONE] {
            if exists(&self.work, name.as_ref())? {
                (self.watch)(&Step::Remove)?;
                remove_all(&self.path.join(name))?;
            }
        }
        self.make(NEW)?;
        self.sync("work")
    }

    /// Moves the old tree out of the root and the new one in. `marker_files` are the paths, relative to the root,
    /// without which there is no database. The root itself gets the metadata in `root`; `None` leaves it as it is.
    ///
    /// # Errors
    /// When any step fails: then the root has parts of either tree, and [`swap_back`](Self::swap_back) is due.
    pub fn swap_in(&mut self, marker_files: &[PathBuf], root: Option<&FileRecord>) -> io::Result<()> {
        if !matches!(self.state()?, SwapState::Untouched | SwapState::Emptied) {
            return Err(io::Error::other("it was swapped before"));
        }
        let before = Metadata::of_file(&self.root)?;
        let marker_files: Vec<OsString> = marker_files.iter().filter_map(|path| first_name(path)).collect();
        let old = self.names(&self.root, true)?;
        self.make(OLD)?;
        self.write_plan(&Plan {
            format: PLAN_FORMAT,
            old: old.iter().map(|name| Name::of(name)).collect(),
            marker_files: marker_files.iter().map(|head| Name::of(head)).collect(),
            root: before.to_record(),
        })?;
        for name in marker_files_first(old, &marker_files) {
            self.rename("", OLD, &name)?;
        }
        self.sync(OLD)?;
        self.sync("")?;
        if let Some(name) = self.names(&self.root, true)?.first() {
            return Err(io::Error::other(format!("{} was made by somebody meanwhile", name.display())));
        }
        let new = self.names(&self.directory(NEW)?, false)?;
        for name in marker_files_last(new, &marker_files) {
            self.rename(NEW, "", &name)?;
        }
        self.metadata("", root.map(Metadata::of_record).as_ref().unwrap_or(&before))?;
        self.sync("")?;
        self.metadata(OLD, &before)?;
        self.sync(NEW)
    }

    /// Puts the old tree back into the root, whatever a swap has done so far, and whatever somebody has made in the
    /// root since. Does nothing if nothing is owed.
    ///
    /// # Errors
    /// When any step fails; it may be run again, as often as it takes.
    pub fn swap_back(&mut self) -> io::Result<()> {
        if self.state()? != SwapState::Swapped {
            return Ok(());
        }
        let plan = self.read_plan()?;
        let marker_files: Vec<OsString> = plan.marker_files.iter().map(Name::to_os).collect();
        let owed: BTreeSet<OsString> = plan.old.iter().map(Name::to_os).collect();
        self.make(OLD)?;
        self.make(UNDONE)?;
        let (old, undone) = (self.directory(OLD)?, self.directory(UNDONE)?);
        let mut strange = Vec::new();
        for name in self.names(&self.root, true)? {
            if !owed.contains(&name) || exists(&old, &name)? {
                strange.push(name);
            }
        }
        for name in marker_files_first(strange, &marker_files) {
            self.clear_for(&undone, &name)?;
            self.rename("", UNDONE, &name)?;
        }
        self.sync("")?;
        let kept = self.names(&old, false)?;
        for name in marker_files_last(kept, &marker_files) {
            self.rename(OLD, "", &name)?;
        }
        let left: BTreeSet<OsString> = self.names(&self.root, true)?.into_iter().collect();
        if left != owed {
            return Err(io::Error::other(format!(
                "the old data is not whole: {} of {} names are there",
                left.intersection(&owed).count(),
                owed.len()
            )));
        }
        self.metadata("", &Metadata::of_record(&plan.root))?;
        self.sync("")?;
        self.mark_gone(PLAN)
    }

    /// Lets the new tree stay: from here on no swap back removes it.
    ///
    /// # Errors
    /// When nothing was swapped, or the mark cannot be made durable.
    pub fn commit(&mut self) -> io::Result<()> {
        match self.state()? {
            SwapState::Swapped => {}
            SwapState::Committed => return Ok(()),
            SwapState::Emptied if exists(&self.work, PLAN.as_ref())? => {}
            SwapState::Untouched | SwapState::Absent | SwapState::Emptied => {
                return Err(io::Error::other("nothing was swapped"));
            }
        }
        (self.watch)(&Step::Mark(COMMITTED))?;
        renameat(&self.work, PLAN, &self.work, COMMITTED)?;
        self.sync("work")
    }

    /// Removes the work directory with all that is in it; the root keeps its time of modification.
    ///
    /// # Errors
    /// When the old tree is still owed to the root, or is the only copy and `also_kept` does not say that it may go;
    /// when something cannot be removed.
    pub fn discard(mut self, also_kept: bool) -> io::Result<()> {
        match self.state()? {
            SwapState::Swapped | SwapState::Emptied => {
                return Err(io::Error::other("the old data is not back yet"));
            }
            SwapState::Committed if !also_kept => {
                return Err(io::Error::other("the old data in it is kept nowhere else"));
            }
            SwapState::Committed => {
                if exists(&self.work, EMPTIED.as_ref())? {
                    self.mark_gone(EMPTIED)?;
                }
                self.mark_gone(COMMITTED)?;
            }
            SwapState::Untouched | SwapState::Absent => {}
        }
        let before = fstat(&self.root)?;
        (self.watch)(&Step::Remove)?;
        std::fs::remove_dir_all(&self.path)?;
        set_mtime(&self.root, TimeSpec::new(before.st_mtime, before.st_mtime_nsec))?;
        self.sync("")
    }

    fn names(&self, directory: &File, is_root: bool) -> io::Result<Vec<OsString>> {
        let mut names = names_in(directory)?;
        names.retain(|name| !is_root || !name.as_bytes().starts_with(PREFIX.as_bytes()));
        Ok(names)
    }

    fn directory(&self, which: &'static str) -> io::Result<File> {
        match which {
            "" => self.root.try_clone(),
            "work" => self.work.try_clone(),
            name => directory_in(&self.work, name.as_ref()),
        }
    }

    fn make(&mut self, which: &'static str) -> io::Result<()> {
        (self.watch)(&Step::Make(which))?;
        made(mkdirat(&self.work, which, Mode::S_IRWXU))
    }

    fn rename(&mut self, from: &'static str, to: &'static str, name: &OsStr) -> io::Result<()> {
        (self.watch)(&Step::Move { from, to, name: name.to_owned() })?;
        let (source, target) = (self.directory(from)?, self.directory(to)?);
        if exists(&target, name)? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is there already", name.display()),
            ));
        }
        renameat(&source, name, &target, name)
            .map_err(|errno| io::Error::other(format!("move {}: {errno}", name.display())))
    }

    /// Removes what an earlier swap back has put where `name` must go.
    fn clear_for(&self, undone: &File, name: &OsStr) -> io::Result<()> {
        if !exists(undone, name)? {
            return Ok(());
        }
        remove_all(&self.path.join(UNDONE).join(name))
    }

    fn metadata(&mut self, which: &'static str, metadata: &Metadata) -> io::Result<()> {
        (self.watch)(&Step::Metadata(which))?;
        metadata.apply(&self.directory(which)?)
    }

    fn sync(&mut self, which: &'static str) -> io::Result<()> {
        (self.watch)(&Step::Sync(which))?;
        self.directory(which)?.sync_all()
    }

    fn mark_gone(&mut self, name: &'static str) -> io::Result<()> {
        (self.watch)(&Step::Mark("gone"))?;
        unlinkat(&self.work, name, UnlinkatFlags::NoRemoveDir)?;
        self.sync("work")
    }

    fn write_plan(&mut self, plan: &Plan) -> io::Result<()> {
        (self.watch)(&Step::WritePlan)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.work, PLAN_PARTIAL, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        file.write_all(&serde_json::to_vec(plan)?)?;
        file.sync_all()?;
        // The new tree must be there when the plan is: all of it was synced when it was extracted.
        self.sync("work")?;
        self.sync("")?;
        (self.watch)(&Step::Mark(PLAN))?;
        renameat(&self.work, PLAN_PARTIAL, &self.work, PLAN)?;
        self.sync("work")
    }

    fn read_plan(&self) -> io::Result<Plan> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.work, PLAN, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(PLAN_MAX).read_to_end(&mut bytes)?;
        understand_plan(&bytes)
    }
}

fn understand_plan(bytes: &[u8]) -> io::Result<Plan> {
    let failed = |error| io::Error::other(format!("understand the plan: {error}"));
    // A later plan may have more fields: do not guess what it owes.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(failed)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(PLAN_FORMAT) => Err(io::Error::other(format!(
            "the plan of the swap is of a later volsnap (format {found}), which alone can have the old data back"
        ))),
        _ => serde_json::from_value(value).map_err(failed),
    }
}

/// Does something in a root, and puts back the root's time of modification.
pub(super) fn keeping_mtime<T>(root: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let directory = open_directory(root)?;
    let before = fstat(&directory)?;
    let done = work()?;
    set_mtime(&directory, TimeSpec::new(before.st_mtime, before.st_mtime_nsec))?;
    Ok(done)
}

/// Returns the names in a root that begin with [`PREFIX`]: what earlier runs have left there.
///
/// # Errors
/// When the root cannot be read.
pub fn leftovers(root: &Path) -> io::Result<Vec<OsString>> {
    let mut names = names_in(&open_directory(root)?)?;
    names.retain(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
    Ok(names)
}

/// Returns the names in a root on which something else is mounted: these cannot be moved.
///
/// # Errors
/// When the root cannot be read.
pub fn mounted_on(root: &Path) -> io::Result<Vec<OsString>> {
    let root = open_directory(root)?;
    let device = fstat(&root)?.st_dev;
    let mut mounted = Vec::new();
    for name in names_in(&root)? {
        if fstatat(&root, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?.st_dev != device {
            mounted.push(name);
        }
    }
    Ok(mounted)
}

/// Returns the names with the marker files first, in reverse order: what makes a database goes before everything else,
/// and the last of it goes first.
fn marker_files_first(names: Vec<OsString>, marker_files: &[OsString]) -> Vec<OsString> {
    let mut ordered = marker_files_last(names, marker_files);
    ordered.reverse();
    ordered
}

/// Returns the names with the marker files last, in their order.
fn marker_files_last(names: Vec<OsString>, marker_files: &[OsString]) -> Vec<OsString> {
    let rank = |name: &OsString| marker_files.iter().position(|head| head == name).map_or(0, |at| at + 1);
    let mut ordered = names;
    ordered.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
    ordered
}

/// Treats what already exists as made.
fn made(outcome: nix::Result<()>) -> io::Result<()> {
    match outcome {
        Err(Errno::EEXIST) => Ok(()),
        made => Ok(made?),
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}

/// Removes the marker files below a name in the root, before anything else there. It follows no link on the way to
/// them.
fn remove_first<'h>(path: &Path, marker_files: impl Iterator<Item = &'h PathBuf>) -> io::Result<()> {
    for head in marker_files {
        let below: PathBuf = head.components().skip(1).collect();
        let mut at = path.to_owned();
        let is_real = |at: &Path| at.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let mut names = below.components().peekable();
        while let Some(name) = names.next() {
            if !is_real(&at) {
                break;
            }
            at.push(name);
            if names.peek().is_none() && at.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                std::fs::remove_file(&at)?;
            }
        }
    }
    Ok(())
}

fn first_name(path: &Path) -> Option<OsString> {
    path.components().find_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    })
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Opens the root; only its own path may go through a link.
fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(path, flags, Mode::empty())?.into())
}

fn directory_in(directory: &File, name: &OsStr) -> io::Result<File> {
    Ok(openat(directory, name, directory_flags(), Mode::empty())?.into())
}

fn exists(directory: &File, name: &OsStr) -> io::Result<bool> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn set_mtime(file: &File, mtime: TimeSpec) -> io::Result<()> {
    Ok(futimens(file, &TimeSpec::UTIME_OMIT, &mtime)?)
}

fn names_in(directory: &File) -> io::Result<Vec<OsString>> {
    let mut listing = Dir::openat(directory, c".", directory_flags(), Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
