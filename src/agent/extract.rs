//! Extracts an archive into an empty directory, whatever the archive says.
//!
//! - **Nothing outside changes.** It walks every name one component at a time from the directory's own handle, and
//!   never follows a symbolic link; it refuses `..` and absolute names, and links to anything that the same archive
//!   did not bring.
//! - **Nothing is overwritten.** It refuses a second member of a name.
//! - **It ends.** It refuses more members or bytes than were announced, and stops before the disk is full: the
//!   database that still runs on it must not be the one to find out.
//! - **What is written is what was there.** It digests each file as it writes it, and the digest of all that it wrote
//!   is that of the file list.
//!
//! Owners, modes, attributes and times of directories come last, from the leaves up, so that no later write touches
//! them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};

use super::archive::Progress;
use super::metadata::Metadata;
use super::swap::PREFIX;
use crate::archive::{
    ArchiveError, DEPTH_MAX, Entry, EntryKind, FileRecord, ListDigest, Origin, Segment, TarReader, shown,
};
use crate::disk::uncached_writer::{BULK_MIN, BulkError, BulkWriter};
use crate::disk::writeback::Writeback;

/// Bytes between two checks of the free space.
const SPACE_STEP: u64 = 16 << 20;
/// Bytes after which what was written is sent to the disk, while writing goes on.
const WRITEBACK_STEP: u64 = 32 << 20;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// What to extract, and how far it may go.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtractOptions {
    /// Who wrote the archive. If volsnap did not, absolute names count as relative ones, as in plain tar.
    pub origin: Origin,
    /// What to remove from the front of each name; a name that does not lie below it is refused.
    pub strip: PathBuf,
    /// What to put before each name instead.
    pub prefix: PathBuf,
    /// The owner of everything, in place of the archive's.
    pub owner: Option<(u32, u32)>,
    /// Whether it may make devices and setuid programs.
    pub allow_devices: bool,
    /// The number of members that were announced.
    pub members: u64,
    /// The bytes of content that were announced, holes included.
    pub bytes: u64,
    /// Bytes of the file system that must stay free.
    pub reserve: u64,
}

/// What was extracted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extracted {
    /// Members of every kind.
    pub members: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of their contents, holes included.
    pub bytes: u64,
    /// The digest of all records, as for a [file list](crate::archive::ListDigest); hexadecimal. Of a foreign archive, for
    /// which there is no list, a hole counts by its length.
    pub digest: String,
    /// What the archive says about the root itself; `None` if it says nothing.
    pub root: Option<FileRecord>,
}

/// Why an archive was not extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// No tree may have this member.
    #[error("refuse `{}`: {why}", shown(.path))]
    Refused {
        /// The member.
        path: Vec<u8>,
        /// Why.
        why: String,
    },
    /// A member could not be written.
    #[error("write `{}`", shown(.path))]
    Write {
        /// The member.
        path: Vec<u8>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk is about to be full.
    #[error("only {free} bytes are left where the data is: stopped before what runs there is short of them")]
    Space {
        /// Bytes left.
        free: u64,
    },
    /// What was written could not be made durable.
    #[error("make what was written durable")]
    Sync(#[source] io::Error),
}

impl From<BulkError> for ExtractError {
    fn from(BulkError { path, source }: BulkError) -> Self {
        Self::Write { path, source }
    }
}

/// Extracts all of `archive` durably into `directory`, which is empty.
///
/// # Errors
/// As for [`ExtractError`]; what was written so far stays, for the caller to remove.
pub fn extract(
    archive: impl BufRead,
    directory: File,
    options: &ExtractOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Extracted, ExtractError> {
    let mut extraction = Extraction::new(directory, options, progress);
    let mut tar = TarReader::new(archive);
    while let Some(entry) = tar.next_entry()? {
        extraction.member(&mut tar, entry)?;
    }
    extraction.finish()
}

struct Extraction<'a> {
    options: &'a ExtractOptions,
    root: File,
    /// The directories from the root to the last one used, each with its name.
    chain: Vec<(OsString, File)>,
    /// Directories that get their metadata at the end, in the order in which they came.
    directories: Vec<(Vec<OsString>, Metadata)>,
    /// Directories that no member had made yet.
    implicit: BTreeSet<Vec<OsString>>,
    digest: ListDigest,
    done: Extracted,
    unlooked: u64,
    unsynced: u64,
    bulk: Option<BulkWriter>,
    writeback: Option<Writeback>,
    told: Instant,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Extraction<'a> {
    fn new(root: File, options: &'a ExtractOptions, progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            options,
            root,
            chain: Vec::new(),
            directories: Vec::new(),
            implicit: BTreeSet::new(),
            digest: ListDigest::default(),
            done: Extracted::default(),
            unlooked: SPACE_STEP,
            unsynced: 0,
            bulk: None,
            writeback: None,
            told: Instant::now(),
            progress,
        }
    }

    fn member<R: BufRead>(&mut self, tar: &mut TarReader<R>, mut entry: Entry) -> Result<(), ExtractError> {
        self.done.members += 1;
        if self.done.members > self.options.members {
            return Err(refused(&entry.path, "the archive has more members than were announced"));
        }
        self.used(&entry, 4096)?;
        let original = entry.clone();
        if let Some((uid, gid)) = self.options.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        let names = self.place(&entry.path)?;
        let digest = match (names, entry.kind) {
            (None, EntryKind::Directory) => None,
            (None, _) => return Err(refused(&entry.path, "it lies beside the data")),
            (Some(names), EntryKind::Directory) => {
                self.directory(names, &entry)?;
                None
            }
            (Some(names), EntryKind::File) => Some(self.file(tar, &names, &entry)?),
            (Some(names), _) => {
                self.other(&names, &entry)?;
                None
            }
        };
        self.digest.push(&FileRecord::new(original, digest));
        self.report_progress(false);
        Ok(())
    }

    /// Returns where a member goes, as names from the root (none for the root itself); `None` for a member above or
    /// beside what is extracted.
    fn place(&self, path: &[u8]) -> Result<Option<Vec<OsString>>, ExtractError> {
        let names = self.names(path)?;
        let strip: Vec<_> = self.options.strip.iter().collect();
        let is_above =
            names.len() < strip.len() && names.iter().zip(&strip).all(|(name, strip)| name == strip);
        if is_above {
            return Ok(None);
        }
        if names.len() < strip.len() || names.iter().zip(&strip).any(|(name, strip)| name != strip) {
            return Ok(None);
        }
        let prefix = self.options.prefix.iter().map(OsStr::to_owned);
        let placed: Vec<_> = prefix.chain(names.into_iter().skip(strip.len())).collect();
        if placed.first().is_some_and(|first| first.as_bytes().starts_with(PREFIX.as_bytes())) {
            return Err(refused(path, "the name is one that volsnap uses itself"));
        }
        if placed.len() > DEPTH_MAX {
            return Err(refused(path, "it lies too deep"));
        }
        Ok(Some(placed))
    }

    fn names(&self, path: &[u8]) -> Result<Vec<OsString>, ExtractError> {
        if path.starts_with(b"/") && self.options.origin == Origin::Volsnap {
            return Err(refused(path, "its name is absolute"));
        }
        if path.is_empty() || path.contains(&0) {
            return Err(refused(path, "it has no usable name"));
        }
        let mut names = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(refused(path, "its name leads out of the directory")),
                name => names.push(OsString::from_vec(name.to_vec())),
            }
        }
        Ok(names)
    }

    fn directory(&mut self, names: Vec<OsString>, entry: &Entry) -> Result<(), ExtractError> {
        let metadata = Metadata::of_entry(entry);
        let Some((name, parents)) = names.split_last() else {
            if self.done.root.replace(metadata.to_record()).is_some() {
                return Err(refused(&entry.path, "it is in the archive twice"));
            }
            return Ok(());
        };
        self.refuse_special(entry)?;
        let parent = self.parent(parents, entry)?;
        match mkdirat(parent, name.as_os_str(), Mode::S_IRWXU) {
            Ok(()) => {}
            Err(Errno::EEXIST) if self.implicit.remove(&names) => {
                self.directories.retain(|(known, _)| *known != names);
            }
            Err(Errno::EEXIST) => return Err(refused(&entry.path, "it is in the archive twice")),
            Err(errno) => return Err(write(&entry.path, errno)),
        }
        self.directories.push((names, metadata));
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        tar: &mut TarReader<R>,
        names: &[OsString],
        entry: &Entry,
    ) -> Result<blake3::Hash, ExtractError> {
        self.refuse_special(entry)?;
        if self.done.bytes.saturating_add(entry.size) > self.options.bytes {
            return Err(refused(&entry.path, "the archive holds more than was announced"));
        }
        let (name, parents) = split(names, entry)?;
        let parent = self.parent(parents, entry)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file: File = match openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => file.into(),
            Err(Errno::EEXIST) => return Err(refused(&entry.path, "it is in the archive twice")),
            Err(errno) => return Err(write(&entry.path, errno)),
        };
        let digest = if entry.extents.is_none() && entry.size >= BULK_MIN {
            self.bulk(tar, file, entry)?
        } else {
            let digest = self.content(tar, &file, entry)?;
            Metadata::of_entry(entry).apply(&file).map_err(|source| write(&entry.path, source))?;
            digest
        };
        self.done.files += 1;
        Ok(digest)
    }

    /// Writes a large file without holes, past the page cache.
    fn bulk<R: BufRead>(
        &mut self,
        tar: &mut TarReader<R>,
        file: File,
        entry: &Entry,
    ) -> Result<blake3::Hash, ExtractError> {
        let mut writer = match self.bulk.take() {
            Some(writer) => writer,
            None => BulkWriter::start().map_err(|source| write(&entry.path, source))?,
        };
        writer.begin(file, &entry.path);
        let mut hasher = blake3::Hasher::new();
        while let Some(segment) = tar.next_segment()? {
            let Segment::Data(bytes) = segment else { continue };
            hasher.update(bytes);
            writer = writer.append(bytes)?;
            self.done.bytes += bytes.len() as u64;
            self.used(entry, bytes.len() as u64)?;
            self.report_progress(false);
        }
        let metadata = Metadata::of_entry(entry);
        self.bulk = Some(writer.end(move |file| metadata.apply(file))?);
        Ok(hasher.finalize())
    }

    fn content<R: BufRead>(
        &mut self,
        tar: &mut TarReader<R>,
        file: &File,
        entry: &Entry,
    ) -> Result<blake3::Hash, ExtractError> {
        let failed = |source| write(&entry.path, source);
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        let mut has_holes = false;
        while let Some(segment) = tar.next_segment()? {
            match segment {
                Segment::Data(bytes) => {
                    hasher.update(bytes);
                    if has_holes { file.write_all_at(bytes, at) } else { (&*file).write_all(bytes) }
                        .map_err(failed)?;
                    at += bytes.len() as u64;
                    self.done.bytes += bytes.len() as u64;
                    self.used(entry, bytes.len() as u64)?;
                    self.cached(bytes.len() as u64).map_err(ExtractError::Sync)?;
                }
                Segment::Hole(length) => {
                    has_holes = true;
                    // A foreign header of half a kilobyte may claim more zeros than anybody can count.
                    match self.options.origin {
                        Origin::Volsnap => digest_zeros(&mut hasher, length),
                        Origin::Foreign => _ = hasher.update(&length.to_le_bytes()),
                    }
                    at += length;
                    self.done.bytes += length;
                }
            }
            self.report_progress(false);
        }
        if has_holes {
            file.set_len(at).map_err(failed)?;
        }
        Ok(hasher.finalize())
    }

    fn other(&mut self, names: &[OsString], entry: &Entry) -> Result<(), ExtractError> {
        self.refuse_special(entry)?;
        let (name, parents) = split(names, entry)?;
        if entry.kind == EntryKind::Hardlink {
            return self.hard_link(name, parents, entry);
        }
        let parent = self.parent(parents, entry)?;
        let made = match entry.kind {
            EntryKind::Symlink => symlinkat(OsStr::from_bytes(&entry.link), parent, name),
            EntryKind::Fifo => mknodat(parent, name, SFlag::S_IFIFO, Mode::S_IRUSR, 0),
            _ => {
                let device = entry.device.unwrap_or(crate::archive::Device { major: 0, minor: 0 });
                let kind = if entry.kind == EntryKind::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                let number = makedev(device.major.into(), device.minor.into());
                mknodat(parent, name, kind, Mode::S_IRUSR, number)
            }
        };
        match made {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(refused(&entry.path, "it is in the archive twice")),
            Err(errno) => return Err(write(&entry.path, errno)),
        }
        Metadata::of_entry(entry)
            .apply_at(parent, name, entry.kind)
            .map_err(|source| write(&entry.path, source))
    }

    /// Gives another name to something that the archive has brought, and to nothing else.
    fn hard_link(&mut self, name: &OsStr, parents: &[OsString], entry: &Entry) -> Result<(), ExtractError> {
        let unknown = || refused(&entry.path, "it is a hard link to what the archive has not brought");
        let target = self.place(&entry.link)?.ok_or_else(unknown)?;
        let (target_name, target_parents) = target.split_last().ok_or_else(unknown)?;
        let target_parent = self.existing(target_parents).ok_or_else(unknown)?;
        let stat = fstatat(&target_parent, target_name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|_| unknown())?;
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR {
            return Err(unknown());
        }
        let parent = self.parent(parents, entry)?;
        match linkat(&target_parent, target_name.as_os_str(), parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(refused(&entry.path, "it is in the archive twice")),
            Err(errno) => Err(write(&entry.path, errno)),
        }
    }

    fn refuse_special(&self, entry: &Entry) -> Result<(), ExtractError> {
        let is_device = matches!(entry.kind, EntryKind::Char | EntryKind::Block);
        let is_setuid = entry.kind == EntryKind::File && entry.mode & 0o6000 != 0;
        let is_capable = entry.xattrs.iter().any(|xattr| xattr.name == b"security.capability");
        match (self.options.allow_devices, is_device, is_setuid || is_capable) {
            (false, true, _) => Err(refused(&entry.path, "it is a device")),
            (false, _, true) => Err(refused(&entry.path, "it is a program that takes on rights (setuid)")),
            _ => Ok(()),
        }
    }

    /// Returns the handle of a directory; makes the directory if no member has made it.
    fn parent(&mut self, names: &[OsString], entry: &Entry) -> Result<&File, ExtractError> {
        let common = self.chain.iter().zip(names).take_while(|((known, _), name)| known == *name).count();
        self.chain.truncate(common);
        for depth in common..names.len() {
            let at = self.chain.last().map_or(&self.root, |(_, directory)| directory);
            let name = &names[depth];
            let opened = match open_directory(at, name) {
                Err(Errno::ENOENT) => {
                    mkdirat(at, name.as_os_str(), Mode::S_IRWXU)
                        .map_err(|errno| write(&entry.path, errno))?;
                    let names = names[..=depth].to_vec();
                    self.implicit.insert(names.clone());
                    self.directories.push((names, implied(entry)));
                    open_directory(at, name)
                }
                opened => opened,
            };
            let directory = opened.map_err(|errno| match errno {
                Errno::ELOOP | Errno::ENOTDIR => {
                    refused(&entry.path, "it lies below what is no directory, or a link")
                }
                errno => write(&entry.path, errno),
            })?;
            self.chain.push((name.clone(), directory));
        }
        Ok(self.chain.last().map_or(&self.root, |(_, directory)| directory))
    }

    /// Returns a handle of an existing directory.
    fn existing(&self, names: &[OsString]) -> Option<File> {
        let mut directory = self.root.try_clone().ok()?;
        for name in names {
            directory = open_directory(&directory, name).ok()?;
        }
        Some(directory)
    }

    /// Records that so much of the disk was used, and checks from time to time how much is left.
    fn used(&mut self, entry: &Entry, bytes: u64) -> Result<(), ExtractError> {
        self.unlooked += bytes;
        if self.unlooked < SPACE_STEP {
            return Ok(());
        }
        self.unlooked = 0;
        let free = free_bytes(&self.root).map_err(|source| write(&entry.path, source))?;
        if free < self.options.reserve { Err(ExtractError::Space { free }) } else { Ok(()) }
    }

    /// Records that so much lies in the page cache, and asks from time to time to write it to the disk, without
    /// waiting for that.
    fn cached(&mut self, bytes: u64) -> io::Result<()> {
        self.unsynced += bytes;
        if self.unsynced < WRITEBACK_STEP {
            return Ok(());
        }
        self.unsynced = 0;
        let writeback = match self.writeback.take() {
            Some(writeback) => writeback,
            None => {
                let root = self.root.try_clone()?;
                Writeback::spawn(move || Ok(nix::unistd::syncfs(&root)?))?
            }
        };
        self.writeback = Some(writeback.kick()?);
        Ok(())
    }

    fn report_progress(&mut self, at_once: bool) {
        if at_once || self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            (self.progress)(Progress {
                members: self.done.members,
                raw_bytes: self.done.bytes,
                stored_bytes: 0,
            });
        }
    }

    fn finish(mut self) -> Result<Extracted, ExtractError> {
        self.report_progress(true);
        if let Some(writer) = self.bulk.take() {
            writer.finish()?;
        }
        self.chain.clear();
        // Go from the leaves up: metadata on something inside touches nothing above it.
        let mut directories = std::mem::take(&mut self.directories);
        directories.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (names, metadata) in &directories {
            let path = || names.join(OsStr::new("/")).into_vec();
            let directory = self.existing(names).ok_or_else(|| write(&path(), io::ErrorKind::NotFound))?;
            metadata.apply(&directory).map_err(|source| write(&path(), source))?;
        }
        if let Some(writeback) = self.writeback.take() {
            writeback.finish().map_err(ExtractError::Sync)?;
        }
        nix::unistd::syncfs(&self.root).map_err(|errno| ExtractError::Sync(errno.into()))?;
        self.done.digest = self.digest.finish();
        Ok(self.done)
    }
}

/// Returns the metadata of a directory that no member describes: it has the owner of its contents and is closed to all
/// others, as databases want it.
fn implied(entry: &Entry) -> Metadata {
    Metadata { uid: entry.uid, gid: entry.gid, mode: 0o700, mtime: entry.mtime, xattrs: Vec::new() }
}

fn split<'n>(names: &'n [OsString], entry: &Entry) -> Result<(&'n OsStr, &'n [OsString]), ExtractError> {
    let (name, parents) =
        names.split_last().ok_or_else(|| refused(&entry.path, "the root itself is no directory"))?;
    Ok((name, parents))
}

fn open_directory(at: &File, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty()).map(File::from)
}

/// Returns how many bytes are free where a directory lies.
///
/// # Errors
/// When the system does not tell.
pub fn free_bytes(directory: &File) -> io::Result<u64> {
    let stat = nix::sys::statvfs::fstatvfs(directory)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn digest_zeros(hasher: &mut blake3::Hasher, mut length: u64) {
    while length > 0 {
        let piece = usize::try_from(length).unwrap_or(ZEROS.len()).min(ZEROS.len());
        hasher.update(&ZEROS[..piece]);
        length -= piece as u64;
    }
}

fn refused(path: &[u8], why: &str) -> ExtractError {
    ExtractError::Refused { path: path.to_vec(), why: why.to_owned() }
}

fn write(path: &[u8], source: impl Into<io::Error>) -> ExtractError {
    ExtractError::Write { path: path.to_vec(), source: source.into() }
}

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
