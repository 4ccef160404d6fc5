//! What a foreign archive holds, or a directory: nothing is known of it but what is in it. So all of it is looked at
//! before anything is touched, and what cannot become a database is refused with what it is.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use globset::GlobSet;

use super::archive::ArchiveSummary;
use crate::agent::survey::survey;
use crate::archive::{BlockReader, Entry, EntryKind, Format, Origin, TarReader};
use crate::database::{self, DataFiles, NeededLog, dumps};
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Event, Monitor, Phase};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;
use crate::repository::tarball::layout::FileName;

/// Bytes between two reports of progress.
const PROGRESS_STEP: u64 = 16 << 20;
/// How the archive of a log may be compressed.
const COMPRESSED: [&str; 5] = ["", ".gz", ".zst", ".bz2", ".xz"];

/// What the members of an archive say of the databases in it.
struct Contents {
    /// The names of files without which there is no database.
    head_names: Vec<PathBuf>,
    /// Files without which there is no database, with their owners.
    marker_files: Vec<(PathBuf, (u32, u32))>,
    /// Data directories that have files of their log.
    logged: BTreeSet<PathBuf>,
    /// Data directories that say that parts of the data are in further archives.
    mapped: BTreeSet<PathBuf>,
}

/// Reads a foreign archive to its end: how much it holds, and where the database in it is.
pub(super) fn look_at_plain(
    path: &Path,
    container: Option<&str>,
    monitor: &dyn Monitor,
) -> Result<ArchiveSummary> {
    refuse_dump(path, container)?;
    let (mut known, mut contents) = (ArchiveSummary::default(), Contents::new());
    monitor.phase(Phase::Verify, path.display().to_string(), None);
    read(path, &mut known, monitor, |entry| contents.note(entry))?;
    if !known.has_content {
        return Err(nothing_in(path));
    }
    let marker_files = contents.marker_files.iter().map(|(path, _)| path.clone()).collect();
    known.database = only_database(&marker_files)?;
    known.owner = known.database.as_ref().and_then(|(_, directory)| {
        let mut owners = contents.marker_files.iter();
        owners.find(|(path, _)| path.starts_with(directory)).map(|(_, owner)| *owner)
    });
    if let Some((engine, directory)) = known.database.clone()
        && let Some(log) = database::files_of(&engine).and_then(DataFiles::needed_log)
    {
        refuse_map(log, contents.mapped.contains(&directory))?;
        if !contents.logged.contains(&directory) {
            let beside = log_beside(path, log)?;
            monitor.note(format!("the {} in {} is taken along", log.name, beside.display()));
            read_log(&beside, log, &mut known, monitor)?;
            known.log = Some((beside, directory.join(log.directory)));
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if FileName::parse(&name).is_some() {
        monitor.warning(format!(
            "{} is a snapshot's archive without its manifest: it is taken as it is, and nothing is known of it but what \
             is in it",
            path.display()
        ));
    }
    Ok(known)
}

/// Refuses an archive that would leave nothing in the place of data.
fn nothing_in(path: &Path) -> Error {
    let list = format!("tar -tvf {}", shell_quote(&path.to_string_lossy()));
    Error::failed(format!("{} is whole, and has nothing in it that could be restored", path.display()))
        .hint(Hint::shell(list).why("what is in it; is it the right file?"))
}

/// Returns the archive of the data in a directory in which a database's own backup has put its archives; `None` if it is
/// no such directory.
pub(super) fn data_archive_in(directory: &Path) -> Option<PathBuf> {
    all_files().find_map(|files| {
        let log = files.needed_log()?;
        let is_data = files.written_last(directory).iter().any(|file| file.exists());
        let mut named = COMPRESSED.iter().map(|end| directory.join(format!("{}{end}", log.data_archive)));
        named.find(|path| !is_data && path.is_file())
    })
}

/// Refuses a directory that is a dump, if it is known what made it.
fn refuse_dump_directory(path: &Path, container: Option<&str>) -> Result<()> {
    match dumps::recognise_directory(path, container) {
        Some(found) => Err(Error::failed(format!("it is {}", found.what)).hint(found.way)),
        None => Ok(()),
    }
}

/// Looks at a directory that somebody has copied.
pub(super) fn look_at_directory(
    path: &Path,
    container: Option<&str>,
    monitor: &dyn Monitor,
) -> Result<ArchiveSummary> {
    refuse_dump_directory(path, container)?;
    monitor.phase(Phase::Verify, path.display().to_string(), None);
    let survey = survey(path, &GlobSet::empty(), &[]).context(|| "look at all of it".to_owned())?;
    let places: Vec<_> = survey.databases.iter().map(|found| &found.data_directory).collect();
    refuse_several(places.iter().map(|place| place.as_path()))?;
    let mut says = String::new();
    if let Some(found) = survey.databases.first()
        && let Some(files) = database::files_of(&found.engine)
    {
        let directory = path.join(&found.data_directory);
        if let Some(log) = files.needed_log() {
            refuse_map(log, directory.join(log.map).metadata().is_ok_and(|map| map.len() > 0))?;
            refuse_without_log(log, &directory)?;
        }
        let inspection = files.inspect(path, &found.data_directory, None);
        let inspection = inspection.context(|| "look at its database".to_owned())?;
        let state = [vec![inspection.state], inspection.reasons].concat().join("; ");
        says = format!("; the files of its {} {} say: {state}", inspection.engine, inspection.version);
    }
    monitor.warning(format!(
        "{} is a directory that somebody has copied, and nothing proves that nobody wrote meanwhile{says}",
        path.display()
    ));
    let found = survey.databases.into_iter().next();
    Ok(ArchiveSummary {
        // The root is a member, too.
        members: survey.entries + 1,
        has_content: survey.entries > 0,
        bytes: survey.bytes,
        stored: survey.bytes,
        owner: found.as_ref().map(|found| found.owner),
        database: found.map(|found| (found.engine, found.data_directory)),
        ..ArchiveSummary::default()
    })
}

/// Reads an archive to its end and counts what it has; `note` sees each member.
fn read(
    path: &Path,
    known: &mut ArchiveSummary,
    monitor: &dyn Monitor,
    mut note: impl FnMut(&Entry),
) -> Result<()> {
    let file = File::open(path).context(|| format!("open {}", path.display()))?;
    let archive = BlockReader::open(file, Origin::Foreign).context(|| "understand it".to_owned())?;
    let (mut tar, mut told) = (TarReader::new(archive), known.bytes);
    while let Some(entry) = tar.next_entry().context(|| "read all of it".to_owned())? {
        known.members += 1;
        known.bytes = known.bytes.saturating_add(entry.size);
        known.stored = known.stored.saturating_add(entry.data_len());
        known.has_content |= !plain(&entry.path).as_os_str().is_empty();
        note(&entry);
        if known.bytes.saturating_sub(told) >= PROGRESS_STEP {
            told = known.bytes;
            monitor.event(Event::Progress { bytes: known.bytes, files: known.members });
        }
    }
    Ok(())
}

impl Contents {
    fn new() -> Self {
        let head_names = all_files().flat_map(|files| files.written_last(Path::new(""))).collect();
        Self { head_names, marker_files: Vec::new(), logged: BTreeSet::new(), mapped: BTreeSet::new() }
    }

    fn note(&mut self, entry: &Entry) {
        let place = plain(&entry.path);
        if entry.kind == EntryKind::File && self.head_names.iter().any(|name| place.ends_with(name)) {
            self.marker_files.push((place.clone(), (entry.uid, entry.gid)));
        }
        for log in all_files().filter_map(DataFiles::needed_log) {
            // A link leads to where it is, which is looked at once it is unpacked.
            if entry.kind == EntryKind::Symlink && place.ends_with(log.directory) {
                self.logged.extend(place.parent().map(Path::to_owned));
            }
            if entry.kind == EntryKind::File && is_part(log, &place) {
                self.logged.extend(place.ancestors().nth(2).map(Path::to_owned));
            }
            if entry.kind == EntryKind::File && entry.size > 0 && place.ends_with(log.map) {
                self.mapped.extend(place.parent().map(Path::to_owned));
            }
        }
    }
}

/// Returns whether a member is a file of a log in its place.
fn is_part(log: &NeededLog, place: &Path) -> bool {
    let name = place.file_name().and_then(OsStr::to_str);
    name.is_some_and(log.is_part) && place.parent().is_some_and(|parent| parent.ends_with(log.directory))
}

/// Refuses data of which parts are in further archives.
fn refuse_map(log: &NeededLog, is_mapped: bool) -> Result<()> {
    if !is_mapped {
        return Ok(());
    }
    Err(Error::failed(format!(
        "parts of its data are elsewhere ({} says where), and would be missing: no server starts on it",
        log.map
    ))
    .hint(Hint::advice(
        "unpack all of its archives into one directory, as that file says, and restore the directory",
    )))
}

fn without_log(log: &NeededLog) -> Error {
    Error::failed(format!("it has no {}, so no server starts on it", log.name)).hint(Hint::advice(log.way))
}

fn refuse_without_log(log: &NeededLog, data_directory: &Path) -> Result<()> {
    let directory = data_directory.join(log.directory);
    // A link leads to where it is, which is looked at once it is unpacked.
    let is_link = directory.symlink_metadata().is_ok_and(|found| found.is_symlink());
    let mut entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
    match is_link || entries.any(|entry| entry.file_name().to_str().is_some_and(log.is_part)) {
        true => Ok(()),
        false => Err(without_log(log)),
    }
}

/// Returns the archive of the log that lies beside that of the data.
fn log_beside(path: &Path, log: &NeededLog) -> Result<PathBuf> {
    let mut beside = COMPRESSED.iter().map(|end| path.with_file_name(format!("{}{end}", log.archive)));
    beside.find(|path| path.is_file()).ok_or_else(|| without_log(log))
}

fn read_log(path: &Path, log: &NeededLog, known: &mut ArchiveSummary, monitor: &dyn Monitor) -> Result<()> {
    let mut has_part = false;
    read(path, known, monitor, |entry| {
        let place = plain(&entry.path);
        has_part |= entry.kind == EntryKind::File && place.to_str().is_some_and(log.is_part);
    })
    .context(|| format!("read {}", path.display()))?;
    if has_part { Ok(()) } else { Err(without_log(log)) }
}

/// Refuses a file that is no archive, if it is known what it is.
fn refuse_dump(path: &Path, container: Option<&str>) -> Result<()> {
    let open = || File::open(path).context(|| "open it".to_owned());
    let first = |reader: &mut dyn std::io::Read| {
        let mut head = Vec::new();
        // Damage is told of where all of it is read.
        let _ = reader.take(dumps::HEAD as u64).read_to_end(&mut head);
        head
    };
    let stored = first(&mut open()?);
    let compressed = match Format::detect(&stored) {
        Some(Format::Gzip) => Some("gzip -dc"),
        Some(Format::Zstd) => Some("zstd -dc"),
        Some(Format::Bzip2) => Some("bzip2 -dc"),
        Some(Format::Xz) => Some("xz -dc"),
        Some(Format::Tar) | None => None,
    };
    let head = match compressed {
        Some(_) => {
            first(&mut BlockReader::open(open()?, Origin::Foreign).context(|| "understand it".to_owned())?)
        }
        None => stored,
    };
    let name = path.display().to_string();
    match dumps::recognise(&head, &name, compressed, container) {
        Some(found) => Err(Error::failed(format!("it is {}", found.what)).hint(found.way)),
        None => Ok(()),
    }
}

fn all_files() -> impl Iterator<Item = &'static dyn DataFiles> {
    database::all().iter().filter_map(|database| database.files())
}

/// Returns the one place that has everything a database must have.
fn only_database(marker_files: &BTreeSet<PathBuf>) -> Result<Option<(String, PathBuf)>> {
    let mut found = BTreeSet::new();
    let known = database::all().iter().filter_map(|database| Some((database.name(), database.files()?)));
    for (engine, files) in known {
        let names = files.written_last(Path::new(""));
        for head in marker_files {
            let Some(directory) = names.iter().find_map(|name| above(head, name)) else { continue };
            if files.written_last(&directory).iter().all(|head| marker_files.contains(head)) {
                found.insert((engine.to_owned(), directory));
            }
        }
    }
    refuse_several(found.iter().map(|(_, place)| place.as_path()))?;
    Ok(found.pop_first())
}

fn refuse_several<'p>(places: impl Iterator<Item = &'p Path>) -> Result<()> {
    let places: Vec<_> = places.map(|place| format!("`{}`", place.display())).collect();
    if places.len() < 2 {
        return Ok(());
    }
    Err(Error::failed(format!("it holds several databases: in {}", places.join(", ")))
        .hint(Hint::advice("unpack it, and restore the directory of one of them")))
}

/// Returns the directory in which `path` is `name`.
fn above(path: &Path, name: &Path) -> Option<PathBuf> {
    let count = name.components().count();
    path.ends_with(name).then(|| path.ancestors().nth(count).map(Path::to_owned)).flatten()
}

/// Returns a member's path without the parts that say nothing.
fn plain(path: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(path))
        .components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::model::event::Silent;
    use crate::ops::restore::assembled::of_directory;

    const SEGMENT: &str = "000000010000000000000002";
    const DATA: [&str; 2] = ["PG_VERSION", "global/pg_control"];

    /// Makes an archive with these files, each with its own name in it.
    fn archive(scratch: &TempDir, name: &str, files: &[&str]) -> PathBuf {
        let root = scratch.path().join(format!("{name}.d"));
        for file in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), file).unwrap();
        }
        let made = scratch.path().join(name);
        std::io::copy(&mut of_directory(&root).unwrap(), &mut File::create(&made).unwrap()).unwrap();
        made
    }

    #[test]
    fn a_database_without_its_log_is_refused_unless_that_lies_beside_it() {
        let scratch = TempDir::new().unwrap();
        let base = archive(&scratch, "base.tar", &DATA);
        let refused = look_at_plain(&base, None, &Silent).unwrap_err();
        assert!(refused.chain().contains("no write-ahead log"), "{}", refused.chain());
        archive(&scratch, "pg_wal.tar.gz", &["archive_status/x"]);
        assert!(look_at_plain(&base, None, &Silent).is_err(), "an archive of that name has none of it");
        fs::remove_dir_all(scratch.path().join("pg_wal.tar.gz.d")).unwrap();
        let log = archive(&scratch, "pg_wal.tar.gz", &[SEGMENT]);
        let known = look_at_plain(&base, None, &Silent).unwrap();
        assert_eq!(known.log, Some((log, PathBuf::from("pg_wal"))));
        // The root, and a directory; the root of the log, and its file.
        assert_eq!(known.members, 6);
    }

    #[test]
    fn a_database_that_has_its_log_needs_no_other() {
        let scratch = TempDir::new().unwrap();
        let inner = [DATA[0], DATA[1], &format!("pg_wal/{SEGMENT}")].map(|name| format!("a/b/{name}"));
        let whole = archive(&scratch, "x.tar", &inner.each_ref().map(String::as_str));
        let known = look_at_plain(&whole, None, &Silent).unwrap();
        assert_eq!((known.log, known.database.unwrap().1), (None, PathBuf::from("a/b")));
    }

    #[test]
    fn data_of_which_parts_are_in_further_archives_is_refused() {
        let scratch = TempDir::new().unwrap();
        let base = archive(&scratch, "base.tar", &[DATA[0], DATA[1], "tablespace_map", "pg_wal/x"]);
        let refused = look_at_plain(&base, None, &Silent).unwrap_err();
        assert!(refused.chain().contains("parts of its data are elsewhere"), "{}", refused.chain());
    }

    #[test]
    fn a_directory_with_the_archives_of_a_base_backup_is_that_backup() {
        let scratch = TempDir::new().unwrap();
        assert_eq!(data_archive_in(scratch.path()), None);
        let base = archive(&scratch, "base.tar.gz", &DATA);
        assert_eq!(data_archive_in(scratch.path()), Some(base));
        // Data beside which an archive of that name lies is data.
        fs::create_dir(scratch.path().join("global")).unwrap();
        fs::write(scratch.path().join("global/pg_control"), "").unwrap();
        assert_eq!(data_archive_in(scratch.path()), None);
    }

    #[test]
    fn a_dump_that_is_a_directory_is_refused_with_what_reads_it() {
        let scratch = TempDir::new().unwrap();
        fs::write(scratch.path().join("3340.dat.gz"), "").unwrap();
        fs::write(scratch.path().join("toc.dat"), b"no dump").unwrap();
        assert!(look_at_directory(scratch.path(), None, &Silent).is_ok(), "its name alone says nothing");
        fs::write(scratch.path().join("toc.dat"), b"PGDMP\x01\x0e\x00").unwrap();
        let refused = look_at_directory(scratch.path(), Some("shop-db-1"), &Silent).unwrap_err();
        assert!(refused.chain().contains("directory format"), "{}", refused.chain());
        let way = refused.hint_text().unwrap();
        for word in ["tar -C ", " -c . | docker exec -i shop-db-1 sh -c", "pg_restore", "createdb"] {
            assert!(way.contains(word), "{word:?} is not in {way}");
        }
    }

    #[test]
    fn a_compressed_dump_is_named() {
        let scratch = TempDir::new().unwrap();
        let path = scratch.path().join("x.gz");
        let mut gzip =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, b"PGDMP\x01\x0e and more").unwrap();
        gzip.finish().unwrap();
        let refused = look_at_plain(&path, Some("db"), &Silent).unwrap_err();
        assert!(refused.chain().contains("custom format"), "{}", refused.chain());
        assert!(refused.hint_text().unwrap().contains("gzip -dc"), "{:?}", refused.hint_text());
    }
}
