//! The helper: the throwaway container that reads the data where it lies, and the image it runs.
//!
//! The image is packed from an executable and the shared libraries that it needs, and imported through the engine: no
//! registry, no network. Its tag is the digest of its content, so each build of volsnap imports it once, and an image
//! that has the tag is the right one. The container sees the source read-only (a restore's may write), may write to a
//! stage if there is one, and keeps only the capabilities that its work takes. The engine removes it when its stdin
//! closes and it exits.

use crate::model::labels::{LABEL_HELPER, LABEL_PID, LABEL_RUN, LABEL_SOURCE};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use super::{ContainerSpec, Docker, DockerError, DockerErrorKind, MountSpec, Result};
use crate::clock::Clock;
use crate::model::container::Image;
use crate::model::location::MountSource;

/// The executable's path in the image.
pub const EXECUTABLE: &str = "/volsnap";
/// Another name of it, for a container that mounts what its users name: a path where none of that lies.
pub const EXECUTABLE_ASIDE: &str = "/.volsnap/volsnap";
/// Where the helper sees the source: a path that no image has.
pub const SOURCE: &str = "/.volsnap/source";
/// Where the helper sees the directory of the FIFO, read-only; it can write to a FIFO all the same.
///
/// The helper's root lacks `DAC_OVERRIDE`: if a FIFO belongs to another user than root, others must be able to write
/// to it (0622), in a directory that only its owner may enter.
pub const PIPE: &str = "/.volsnap/pipe";
/// Where the helper sees the stage, which it may write to.
pub const STAGE: &str = "/.volsnap/stage";
/// The FIFO in the pipe directory.
pub const FIFO: &str = "data";
/// The file in the pipe directory that says on which kernel the command runs.
pub const KERNEL: &str = "kernel";
/// The FIFO in the pipe directory that carries the data to restore.
pub const INPUT: &str = "input";
/// No path is longer.
const PATH_MAX: usize = 4096;
/// The repository of the tag, without the digest.
pub const IMAGE_REPOSITORY: &str = "volsnap-helper";

/// The image of the helper; its tag is known before any call to an engine. Its bytes are only held in memory while an
/// engine that does not have it gets them: they are as many as those of the executable.
#[derive(Debug, Clone)]
pub struct HelperImage {
    tag: String,
    executable: PathBuf,
}

impl HelperImage {
    /// Packs `executable` with the shared libraries that this process has loaded. Those are the right ones if the
    /// executable is our own; `/proc/self/exe` is right even if the file was replaced meanwhile.
    ///
    /// # Errors
    /// When a file cannot be read, or is no executable of this machine.
    pub fn of(executable: &Path) -> io::Result<Self> {
        let tag = tag_of(Root::of(&Self::names(executable))?.write_tar(blake3::Hasher::new())?.finalize());
        Ok(Self { tag, executable: executable.to_owned() })
    }

    /// Returns the names that the executable has in the image.
    fn names(executable: &Path) -> [(&Path, &Path); 2] {
        [EXECUTABLE_ASIDE, EXECUTABLE].map(|name| (executable, Path::new(name)))
    }

    /// Returns the root filesystem, as a tar.
    ///
    /// # Errors
    /// When a file cannot be read, or is another one by now.
    fn tar(&self) -> io::Result<Bytes> {
        let tar = pack(&Self::names(&self.executable))?;
        if tag_of(blake3::hash(&tar)) != self.tag {
            return Err(io::Error::other(
                "the executable, or a library that it needs, has been replaced meanwhile",
            ));
        }
        Ok(tar)
    }

    /// Returns the tag: `volsnap-helper:` and the start of the content's digest.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Makes sure that the engine has the image, and returns its tag.
    ///
    /// Two imports at once do no harm: the content is the same.
    ///
    /// # Errors
    /// When the engine has another operating system or architecture than we do, or the import fails.
    pub async fn ensure(&self, docker: &dyn Docker, clock: &Clock) -> Result<String> {
        if docker.image(&self.tag).await?.is_some() {
            return Ok(self.tag.clone());
        }
        let engine = docker.engine().await?;
        let ours = docker_architecture(std::env::consts::ARCH);
        if engine.os != "linux" || engine.arch != ours {
            return Err(DockerError {
                kind: DockerErrorKind::Other,
                doing: format!("import image {}", self.tag),
                message: format!(
                    "the engine runs {}/{} containers and this volsnap is linux/{ours}; \
                     give an image that holds the right one with --helper-image",
                    engine.os, engine.arch
                ),
            });
        }
        let labels = BTreeMap::from([(LABEL_HELPER.to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
        let tar = self.tar().map_err(|error| DockerError {
            kind: DockerErrorKind::Other,
            doing: format!("import image {}", self.tag),
            message: error.to_string(),
        })?;
        docker.import_image(&self.tag, &labels, tar).await?;
        if let Err(error) = remove_outdated(docker, &self.tag, clock.now()).await {
            tracing::debug!(%error, "images of earlier helpers are left for the next import");
        }
        Ok(self.tag.clone())
    }
}

fn tag_of(digest: blake3::Hash) -> String {
    format!("{IMAGE_REPOSITORY}:{}", &digest.to_hex()[..16])
}

/// Removes what earlier imports left and no container uses: images whose tag has moved on, for example after two
/// imports at once, and images of other builds that are older than a day.
async fn remove_outdated(docker: &dyn Docker, current: &str, now: DateTime<Utc>) -> Result<()> {
    for image in docker.images(LABEL_HELPER).await? {
        if is_outdated(&image, current, now) {
            match docker.remove_image(&image.id).await {
                Err(error) if error.kind != DockerErrorKind::Conflict => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_outdated(image: &Image, current: &str, now: DateTime<Utc>) -> bool {
    let is_old = || {
        DateTime::parse_from_rfc3339(&image.created)
            .is_ok_and(|created| now.signed_duration_since(created) > TimeDelta::days(1))
    };
    let ours = |tag: &String| tag.strip_prefix(IMAGE_REPOSITORY).is_some_and(|rest| rest.starts_with(':'));
    image.tags.iter().all(|tag| ours(tag) && tag != current) && (image.tags.is_empty() || is_old())
}

/// What a helper may do with the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read it.
    Read,
    /// Read it, and make a stage equal to it.
    Stage,
    /// Put other data in its place.
    Replace,
    /// The same, for data with devices.
    ReplaceWithDevices,
}

impl Access {
    /// Returns the capabilities that this takes.
    fn capabilities(self) -> Vec<String> {
        let names: &[&str] = match self {
            // It reads every file and enters every directory, whoever owns it; it changes nothing.
            Self::Read => &["DAC_READ_SEARCH"],
            // The stage must have whatever the source has: any owner, any mode, devices, attributes.
            Self::Stage => {
                &["DAC_READ_SEARCH", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"]
            }
            Self::Replace => &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"],
            Self::ReplaceWithDevices => &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Returns whether the source stays as it is, whatever the helper does.
    fn is_read_only(self) -> bool {
        matches!(self, Self::Read | Self::Stage)
    }
}

/// Describes the helper of one run: `name` runs the agent of `image` beside `source`, with a FIFO in `pipe_directory`
/// if the engine is local, and with the place of a stage if there is one.
pub fn helper_container(
    name: &str,
    image: &str,
    run: &str,
    source: &MountSource,
    access: Access,
    pipe_directory: Option<&Path>,
    stage: Option<&MountSource>,
) -> ContainerSpec {
    let mount = |source: MountSource, destination: &str, read_only| MountSpec {
        source,
        destination: PathBuf::from(destination),
        read_only,
    };
    let mut mounts = vec![mount(source.clone(), SOURCE, access.is_read_only())];
    mounts.extend(pipe_directory.map(|path| mount(MountSource::Directory(path.to_owned()), PIPE, true)));
    mounts.extend(stage.map(|stage| mount(stage.clone(), STAGE, false)));
    ContainerSpec {
        name: name.to_owned(),
        image: image.to_owned(),
        command: vec![EXECUTABLE.to_owned(), "agent".to_owned()],
        labels: BTreeMap::from([
            (LABEL_RUN.to_owned(), run.to_owned()),
            (LABEL_SOURCE.to_owned(), source_key(source)),
            (LABEL_PID.to_owned(), std::process::id().to_string()),
        ]),
        mounts,
        capabilities: access.capabilities(),
        ..ContainerSpec::default()
    }
}

fn source_key(source: &MountSource) -> String {
    match source {
        MountSource::Volume(name) => format!("volume:{name}"),
        MountSource::Directory(path) => format!("path:{}", path.display()),
    }
}

/// Packs executables, each to its path in the image, into the tar of a root filesystem, together with their ELF
/// interpreters, the shared libraries that this process has loaded, and the mount points of the helper (its root is
/// read-only).
///
/// Libraries keep the real path that they have here, where the loader looks even without a cache, together with the
/// symbolic links beside them that lead there. The same files give the same bytes: entries are sorted, times and
/// owners are zero. An executable that is named again becomes a hard link; its first path has to be the first by name.
///
/// # Errors
/// When a file cannot be read, or is no executable of this machine.
pub fn pack(executables: &[(&Path, &Path)]) -> io::Result<Bytes> {
    let root = Root::of(executables)?;
    let tar = Vec::with_capacity(root.size());
    root.write_tar(tar).map(Bytes::from)
}

/// What lies at a path of the image.
enum Entry {
    Directory,
    /// With the content that this file has.
    File(PathBuf, u64),
    Link(PathBuf),
    HardLink(PathBuf),
}

/// A root filesystem under construction; its order puts each directory before its contents.
#[derive(Default)]
struct Root(BTreeMap<PathBuf, Entry>);

impl Root {
    /// Returns the root filesystem of [`pack`].
    fn of(executables: &[(&Path, &Path)]) -> io::Result<Self> {
        let mut root = Self::default();
        root.add_directory(Path::new(SOURCE));
        root.add_directory(Path::new(PIPE));
        root.add_directory(Path::new(STAGE));
        for (index, (executable, destination)) in executables.iter().enumerate() {
            if let Some((_, first)) = executables[..index].iter().find(|(other, _)| other == executable) {
                root.add(destination, Entry::HardLink(first.to_path_buf()));
                continue;
            }
            let interpreter = File::open(executable).and_then(|elf| elf_interpreter(&elf));
            if let Some(interpreter) = interpreter.map_err(|error| naming(executable, &error))? {
                root.add_library(&interpreter)?;
            }
            root.add_file(destination, executable)?;
        }
        let maps = fs::read("/proc/self/maps")?;
        for library in shared_libraries(&maps, &fs::read_link("/proc/self/exe")?) {
            root.add_library(&library)?;
        }
        Ok(root)
    }

    fn add_directory(&mut self, path: &Path) {
        for directory in path.ancestors().filter(|path| path.parent().is_some()) {
            self.0.entry(directory.to_owned()).or_insert(Entry::Directory);
        }
    }

    fn add(&mut self, path: &Path, entry: Entry) {
        path.parent().into_iter().for_each(|parent| self.add_directory(parent));
        self.0.insert(path.to_owned(), entry);
    }

    /// Adds a library or an interpreter at its real path, and the links that lead to it: the one that named it, and
    /// those beside it, one of which has the name that programs ask for.
    fn add_library(&mut self, path: &Path) -> io::Result<()> {
        let real = path.canonicalize().map_err(|error| naming(path, &error))?;
        if path != real {
            self.add(path, Entry::Link(real.clone()));
        }
        if self.0.contains_key(&real) {
            return Ok(());
        }
        for neighbour in fs::read_dir(real.parent().unwrap_or(Path::new("/")))? {
            let neighbour = neighbour?;
            let leads_here = neighbour.file_type()?.is_symlink()
                && neighbour.path().canonicalize().is_ok_and(|target| target == real);
            if leads_here {
                self.add(&neighbour.path(), Entry::Link(real.clone()));
            }
        }
        self.add_file(&real, &real)
    }

    fn add_file(&mut self, path: &Path, content: &Path) -> io::Result<()> {
        let size = fs::metadata(content).map_err(|error| naming(content, &error))?.len();
        self.add(path, Entry::File(content.to_owned(), size));
        Ok(())
    }

    /// Returns more bytes than its tar has.
    fn size(&self) -> usize {
        const OF_HEADERS: u64 = 4096;
        let of = |entry: &Entry| match entry {
            Entry::File(_, size) => size + OF_HEADERS,
            Entry::Directory | Entry::Link(_) | Entry::HardLink(_) => OF_HEADERS,
        };
        usize::try_from(self.0.values().map(of).sum::<u64>() + OF_HEADERS).unwrap_or_default()
    }

    /// Writes it as a tar; returns what it was written to.
    fn write_tar<W: io::Write>(self, into: W) -> io::Result<W> {
        let mut builder = tar::Builder::new(into);
        for (path, entry) in self.0 {
            let path = below_root(&path);
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            header.set_mtime(0);
            match entry {
                Entry::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    builder.append_data(&mut header, path, io::empty())?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    builder.append_link(&mut header, path, target)?;
                }
                Entry::HardLink(target) => {
                    header.set_entry_type(tar::EntryType::Link);
                    builder.append_link(&mut header, path, below_root(&target))?;
                }
                Entry::File(content, size) => {
                    header.set_size(size);
                    let file = File::open(&content).map_err(|error| naming(&content, &error))?;
                    let mut file = Exactly { file: file.take(size), left: size };
                    builder.append_data(&mut header, path, &mut file)?;
                    if file.left > 0 {
                        return Err(naming(&content, &io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
        builder.into_inner()
    }
}

/// A file, as many bytes of it as its entry in the tar has, and how many did not come.
struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Returns a path as the tar has it.
fn below_root(path: &Path) -> PathBuf {
    path.components().filter(|component| matches!(component, Component::Normal(_))).collect()
}

/// Returns the shared libraries in a process's memory map, without its own executable.
fn shared_libraries(maps: &[u8], executable: &Path) -> Vec<PathBuf> {
    let mut libraries: Vec<PathBuf> = maps
        .split(|byte| *byte == b'\n')
        .filter_map(executable_mapping)
        .filter(|path| path != executable)
        .collect();
    libraries.sort();
    libraries.dedup();
    libraries
}

/// Returns the file of one line of a memory map, if it maps code of that file.
fn executable_mapping(line: &[u8]) -> Option<PathBuf> {
    let permissions = line.split(|byte| *byte == b' ').nth(1)?;
    let start = line.iter().position(|byte| *byte == b'/')?;
    // The library was upgraded meanwhile: its successor under the same name does as well.
    let path = line[start..].strip_suffix(b" (deleted)").unwrap_or(&line[start..]);
    permissions.contains(&b'x').then(|| PathBuf::from(OsStr::from_bytes(path)))
}

/// Returns the interpreter that an ELF executable asks for; `None` for a static one.
fn elf_interpreter(elf: &impl FileExt) -> io::Result<Option<PathBuf>> {
    const PT_INTERP: u64 = 3;
    if slice(elf, 0, 6).ok().as_deref() != Some(b"\x7fELF\x02\x01") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a 64-bit little-endian ELF executable"));
    }
    let program_headers = field(elf, 32, 8)?;
    let (size, count) = (field(elf, 54, 2)?, field(elf, 56, 2)?);
    for index in 0..count {
        let header = program_headers.saturating_add(index * size);
        if field(elf, header, 4)? == PT_INTERP {
            let (offset, length) =
                (field(elf, header.saturating_add(8), 8)?, field(elf, header.saturating_add(32), 8)?);
            let name = slice(elf, offset, length)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            return Ok(Some(PathBuf::from(OsStr::from_bytes(name))));
        }
    }
    Ok(None)
}

fn field(elf: &impl FileExt, offset: u64, length: u64) -> io::Result<u64> {
    Ok(slice(elf, offset, length)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn slice(elf: &impl FileExt, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= PATH_MAX);
    let mut bytes = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    elf.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Docker's word for an architecture, from Rust's.
fn docker_architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_executable_that_is_replaced_is_never_imported_under_the_tag_of_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let executable = directory.path().join("cat");
        fs::copy("/bin/cat", &executable).unwrap();
        let image = HelperImage::of(&executable).unwrap();
        assert_eq!(tag_of(blake3::hash(&image.tar().unwrap())), image.tag());
        fs::OpenOptions::new().append(true).open(&executable).unwrap().write_all(b"later").unwrap();
        assert!(image.tar().unwrap_err().to_string().contains("replaced meanwhile"));
    }

    #[test]
    fn the_interpreter_of_our_own_executable_exists() {
        let elf = File::open("/proc/self/exe").unwrap();
        assert!(elf_interpreter(&elf).unwrap().is_none_or(|path| path.exists()));
    }

    #[test]
    fn what_is_no_executable_is_refused_and_never_panics() {
        let elf = fs::read("/proc/self/exe").unwrap();
        let read = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            elf_interpreter(&file)
        };
        assert!(read(b"#!/bin/sh\n").is_err());
        for length in [0, 6, 40, 63] {
            assert!(read(&elf[..length]).is_err());
        }
        let _ = read(&elf[..100]);
        let mut wild = elf[..4096].to_vec();
        wild[32..40].fill(0xff);
        assert!(read(&wild).is_err());
    }

    #[test]
    fn libraries_are_files_with_mapped_code_other_than_the_executable() {
        let maps = b"55d0-55d1 r-xp 00000000 fe:00 12 /opt/my app/volsnap\n\
            7f00-7f01 r--p 00000000 fe:00 13 /usr/lib/locale/locale-archive\n\
            7f02-7f03 r-xp 00000000 fe:00 14 /usr/lib/libc.so.6 (deleted)\n\
            7f02-7f03 r-xp 00001000 fe:00 14 /usr/lib/libc.so.6\n\
            7ffe-7fff r-xp 00000000 00:00 0 [vdso]\n";
        let libraries = shared_libraries(maps, Path::new("/opt/my app/volsnap"));
        assert_eq!(libraries, [PathBuf::from("/usr/lib/libc.so.6")]);
    }

    #[test]
    fn the_same_executable_gives_the_same_tag() {
        let executable = Path::new("/bin/cat");
        let image = HelperImage::of(executable).unwrap();
        assert_eq!(image.tag(), HelperImage::of(executable).unwrap().tag());
        assert_eq!(image.tag().len(), "volsnap-helper:".len() + 16);
    }

    #[test]
    fn only_helpers_of_other_builds_are_outdated_after_a_day_and_untagged_ones_at_once() {
        let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
        let outdated = |tags: &[&str], created: &str| {
            let tags = tags.iter().map(ToString::to_string).collect();
            let image = Image { tags, created: created.to_owned(), ..Image::default() };
            is_outdated(&image, "volsnap-helper:new", now)
        };
        let (old, young) = ("2026-11-20T11:00:00.123456789Z", "2026-11-21T11:00:00Z");
        assert!(outdated(&["volsnap-helper:old"], old) && outdated(&[], young));
        assert!(!outdated(&["volsnap-helper:old"], young) && !outdated(&["volsnap-helper:old"], ""));
        assert!(!outdated(&["volsnap-helper:new"], old) && !outdated(&["mine:kept"], old));
        assert!(!outdated(&["volsnap-helper:old", "mine:kept"], old));
    }

    #[test]
    fn the_root_filesystem_holds_parents_first_and_no_time_or_owner() {
        let tar = pack(&[(Path::new("/bin/cat"), Path::new("/deep/down/cat"))]).unwrap();
        let mut archive = tar::Archive::new(tar.as_ref());
        let mut seen = vec![PathBuf::new()];
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            assert!(seen.contains(&path.parent().unwrap().to_owned()), "{path:?} before its directory");
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
            seen.push(path);
        }
        for wanted in ["deep/down/cat", ".volsnap/source", ".volsnap/pipe", ".volsnap/stage"] {
            assert!(seen.contains(&PathBuf::from(wanted)), "{wanted} is missing");
        }
    }
}
