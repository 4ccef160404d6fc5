//! Archives that are put together while they are read: of a directory, and of a base backup with the log that lies
//! beside it. A thread writes them into a pipe.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread::JoinHandle;

use crate::agent::archive::{ArchiveOptions, archive_tree};
use crate::agent::tree::Stability;
use crate::archive::{
    ArchiveError, BlockOptions, BlockReader, BlockWriter, Codec, Entry, EntryKind, Origin, Segment,
    TarReader, TarWriter,
};

/// A hole is written from here: the content of a base backup has none to speak of.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a thread writes, to its end: if the thread fails, so does the last read.
struct Assembled {
    pipe: PipeReader,
    thread: Option<JoinHandle<Result<(), ArchiveError>>>,
}

impl Read for Assembled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.pipe.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(thread) = self.thread.take()
        {
            let written = thread.join().map_err(|_| io::Error::other("the thread that archives panicked"))?;
            written.map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

fn assemble(
    write: impl FnOnce(PipeWriter) -> Result<(), ArchiveError> + Send + 'static,
) -> io::Result<Box<dyn Read + Send>> {
    let (pipe, sink) = io::pipe()?;
    let thread = std::thread::Builder::new().name("assemble".to_owned()).spawn(move || write(sink))?;
    Ok(Box::new(Assembled { pipe, thread: Some(thread) }))
}

/// Returns an archive of a directory. Somebody may be writing there: what changes or vanishes meanwhile is no error.
pub(super) fn of_directory(root: &Path) -> io::Result<Box<dyn Read + Send>> {
    let root = root.to_owned();
    let options =
        ArchiveOptions { codec: Codec::None, stability: Stability::Live, ..ArchiveOptions::default() };
    assemble(move |sink| archive_tree(&root, &options, sink, io::sink(), &mut |_| {}).map(drop))
}

/// Returns an archive that has all of `base`, and everything of `log` below `directory`, where it belongs to `owner`:
/// `pg_basebackup` says of a log that it streamed that it is root's (walmethods.c).
pub(super) fn with_log(
    base: &Path,
    log: &Path,
    directory: &Path,
    owner: Option<(u32, u32)>,
) -> io::Result<Box<dyn Read + Send>> {
    let (base, log) = (File::open(base)?, File::open(log)?);
    let directory = directory.as_os_str().as_bytes().to_vec();
    assemble(move |sink| {
        let options = BlockOptions { codec: Codec::None, ..BlockOptions::default() };
        let mut tar = TarWriter::new(BlockWriter::new(sink, &options)?);
        let mut directories = HashSet::new();
        copy(base, &mut tar, |entry| {
            if entry.kind == EntryKind::Directory {
                directories.insert(trimmed(&entry.path).to_vec());
            }
            true
        })?;
        copy(log, &mut tar, |entry| {
            let inner = trimmed(&entry.path).to_vec();
            entry.path = [directory.as_slice(), b"/".as_slice(), inner.as_slice()].concat();
            (entry.uid, entry.gid) = owner.unwrap_or((entry.uid, entry.gid));
            // The base may have these, too.
            let is_known = entry.kind == EntryKind::Directory && directories.contains(&entry.path);
            !is_known && !matches!(inner.as_slice(), b"" | b".")
        })?;
        tar.finish()?.finish().map(drop)
    })
}

/// Returns a member's name without what says nothing.
fn trimmed(name: &[u8]) -> &[u8] {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    name.strip_suffix(b"/").unwrap_or(name)
}

/// Copies the members that `wants` says yes to; it may change what they are called.
fn copy(
    from: File,
    tar: &mut TarWriter<BlockWriter<PipeWriter>>,
    mut wants: impl FnMut(&mut Entry) -> bool,
) -> Result<(), ArchiveError> {
    let mut reader = TarReader::new(BlockReader::open(from, Origin::Foreign)?);
    while let Some(mut entry) = reader.next_entry()? {
        if !wants(&mut entry) {
            continue;
        }
        entry.extents = None;
        tar.append(&entry)?;
        while let Some(segment) = reader.next_segment()? {
            match segment {
                Segment::Data(data) => write_all(tar, data)?,
                Segment::Hole(mut left) => {
                    while left > 0 {
                        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
                        write_all(tar, &ZEROS[..piece])?;
                        left -= piece as u64;
                    }
                }
            }
        }
    }
    Ok(())
}

fn write_all(tar: &mut TarWriter<BlockWriter<PipeWriter>>, mut data: &[u8]) -> Result<(), ArchiveError> {
    while !data.is_empty() {
        let filled = tar.fill(|free| {
            let count = free.len().min(data.len());
            free[..count].copy_from_slice(&data[..count]);
            Ok(count)
        });
        let count = filled.map_err(|source| ArchiveError::Write { what: "archive", source })?;
        data = &data[count..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    /// Makes an archive of a directory with these files, each with its own name in it; a name that ends with a slash is
    /// a directory.
    fn archive(scratch: &TempDir, name: &str, files: &[&str]) -> PathBuf {
        let root = scratch.path().join(name);
        fs::create_dir(&root).unwrap();
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(if file.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
            if !file.ends_with('/') {
                fs::write(&path, file).unwrap();
            }
        }
        let made = scratch.path().join(format!("{name}.tar"));
        io::copy(&mut of_directory(&root).unwrap(), &mut File::create(&made).unwrap()).unwrap();
        made
    }

    /// Returns the members of an archive, with what is in them.
    fn members(archive: impl Read + Send + 'static) -> Result<Vec<(String, String)>, ArchiveError> {
        let mut reader = TarReader::new(BlockReader::open(archive, Origin::Foreign)?);
        let mut members = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            while let Some(segment) = reader.next_segment()? {
                if let Segment::Data(data) = segment {
                    content.extend_from_slice(data);
                }
            }
            members.push((String::from_utf8(entry.path).unwrap(), String::from_utf8(content).unwrap()));
        }
        Ok(members)
    }

    #[test]
    fn the_files_of_a_log_come_to_lie_in_its_directory_and_no_directory_comes_twice() {
        let scratch = TempDir::new().unwrap();
        let base = archive(&scratch, "base", &["PG_VERSION", "pg_wal/archive_status/"]);
        let log = archive(&scratch, "log", &["000000010000000000000002", "archive_status/x.done"]);
        let joined = members(with_log(&base, &log, Path::new("pg_wal"), None).unwrap()).unwrap();
        let directories =
            joined.iter().filter(|(name, _)| name.contains("archive_status") && !name.contains("x."));
        assert_eq!(directories.count(), 1, "{joined:?}");
        for (name, content) in [
            ("PG_VERSION", "PG_VERSION"),
            ("pg_wal/000000010000000000000002", "000000010000000000000002"),
            ("pg_wal/archive_status/x.done", "archive_status/x.done"),
        ] {
            let found = joined.iter().find(|(found, _)| trimmed(found.as_bytes()) == name.as_bytes());
            assert_eq!(found.map(|(_, content)| content.as_str()), Some(content), "{name} in {joined:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_to_its_end_is_no_archive() {
        let scratch = TempDir::new().unwrap();
        let base = archive(&scratch, "base", &["PG_VERSION"]);
        let log = archive(&scratch, "log", &["000000010000000000000002"]);
        let cut = fs::read(&log).unwrap();
        fs::write(&log, &cut[..cut.len() - 1600]).unwrap();
        let joined = with_log(&base, &log, Path::new("pg_wal"), None).unwrap();
        assert!(members(joined).is_err());
    }
}
