//! One look over a whole source: how much there is, and which databases.
//!
//! The numbers size the free space and the progress; the archive does its own walk. It follows no links, and does not
//! count what vanishes meanwhile: the database may be running.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use globset::GlobSet;

use super::protocol::{FoundDatabase, Survey};
use super::tree;
use crate::archive::DEPTH_MAX;
use crate::database;

/// The unit of `st_blocks`, whatever the file system's block is.
const BLOCK: u64 = 512;

/// Returns what is below `root`. It leaves out whatever `exclude` matches, by its path relative to the root, with all
/// that is below it, and the `placeholders` that are empty files, which it tells.
///
/// A file with several names is an entry for each and a file once, with its bytes.
///
/// # Errors
/// When a directory or an entry cannot be read; the error names it.
pub fn survey(root: &Path, exclude: &GlobSet, placeholders: &[PathBuf]) -> io::Result<Survey> {
    let mut survey = Survey { databases: find_databases(root)?, ..Survey::default() };
    // Only files with several names are here: a million others cost no memory.
    let mut linked = HashSet::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let absolute = root.join(&directory);
        let entries = match fs::read_dir(&absolute) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) && !directory.as_os_str().is_empty() => continue,
            Err(error) => return Err(about("read the directory", &absolute, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| about("read the directory", &absolute, &error))?;
            let path = directory.join(entry.file_name());
            if exclude.is_match(&path) {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() && metadata.len() == 0 && placeholders.contains(&path) => {
                    survey.placeholders.push(path);
                }
                Ok(metadata) => {
                    let absolute = root.join(&path);
                    count(&mut survey, &absolute, &metadata, &mut linked);
                    note_store(&mut survey, &absolute);
                    if survey.too_deep.is_none() && path.components().count() > DEPTH_MAX {
                        survey.too_deep = Some(path.clone());
                    }
                    if metadata.is_dir() {
                        directories.push(path);
                    }
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(about("look at", &root.join(path), &error)),
            }
        }
    }
    Ok(survey)
}

fn count(survey: &mut Survey, path: &Path, metadata: &Metadata, linked: &mut HashSet<(u64, u64)>) {
    survey.entries += 1;
    if !metadata.is_file() || (metadata.nlink() > 1 && !linked.insert((metadata.dev(), metadata.ino()))) {
        return;
    }
    survey.files += 1;
    survey.bytes += metadata.len();
    survey.held_bytes += held(path, metadata);
    survey.disk_bytes += metadata.blocks() * BLOCK;
}

/// Returns the bytes of a file outside its holes. Only one that takes less than its size is asked: it has holes, or its
/// file system compresses it.
fn held(path: &Path, metadata: &Metadata) -> u64 {
    let size = metadata.len();
    if metadata.blocks() * BLOCK >= size {
        return size;
    }
    let file =
        File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path);
    // Whatever cannot be asked may have no holes.
    file.ok().and_then(|file| tree::held_bytes(&file, size).ok()).unwrap_or(size)
}

/// Takes note of the store that a file is of.
fn note_store(survey: &mut Survey, path: &Path) {
    let Some(store) = database::stores::of_file(path) else { return };
    if !survey.stores.iter().any(|name| name == store.name) {
        survey.stores.push(store.name.to_owned());
    }
}

fn find_databases(root: &Path) -> io::Result<Vec<FoundDatabase>> {
    let mut databases = Vec::new();
    let known = database::all().iter().filter_map(|database| Some((database.name(), database.files()?)));
    for (engine, files) in known {
        for data_directory in files.find(root)? {
            let metadata = fs::metadata(root.join(&data_directory))?;
            let owner = (metadata.uid(), metadata.gid());
            databases.push(FoundDatabase { engine: engine.to_owned(), data_directory, owner });
        }
    }
    Ok(databases)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn about(doing: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use globset::{Glob, GlobSetBuilder};
    use tempfile::TempDir;

    use super::*;

    fn globs(patterns: &[&str]) -> GlobSet {
        let mut builder = GlobSetBuilder::new();
        for pattern in patterns {
            builder.add(Glob::new(pattern).unwrap());
        }
        builder.build().unwrap()
    }

    #[test]
    fn hard_links_count_once_and_links_are_not_followed() {
        let root = TempDir::new().unwrap();
        let outside = TempDir::new().unwrap();
        fs::write(outside.path().join("secret"), [0; 999]).unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join("d/a"), [1; 5000]).unwrap();
        fs::hard_link(root.path().join("d/a"), root.path().join("b")).unwrap();
        fs::File::create(root.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        symlink(outside.path(), root.path().join("link")).unwrap();

        let survey = survey(root.path(), &GlobSet::empty(), &[]).unwrap();
        assert_eq!((survey.entries, survey.files), (5, 2));
        assert_eq!(survey.bytes, 5000 + (1 << 30));
        assert_eq!(survey.held_bytes, 5000);
        assert!((5000..1 << 20).contains(&survey.disk_bytes), "{}", survey.disk_bytes);
        assert_eq!(survey.databases, []);
    }

    #[test]
    fn what_is_excluded_is_left_out_with_all_below_it() {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("log/old")).unwrap();
        fs::write(root.path().join("log/old/a"), [0; 10]).unwrap();
        fs::write(root.path().join("keep"), [0; 10]).unwrap();
        fs::write(root.path().join("x.tmp"), [0; 10]).unwrap();
        let survey = survey(root.path(), &globs(&["log", "*.tmp"]), &[]).unwrap();
        assert_eq!((survey.entries, survey.files, survey.bytes), (1, 1, 10));
    }

    #[test]
    fn only_an_empty_file_is_a_placeholder() {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("d")).unwrap();
        for (name, bytes) in [("d/empty", 0), ("d/full", 1), ("other", 0)] {
            fs::write(root.path().join(name), vec![0; bytes]).unwrap();
        }
        let asked = ["d", "d/empty", "d/full", "d/missing"].map(PathBuf::from);
        let survey = survey(root.path(), &GlobSet::empty(), &asked).unwrap();
        assert_eq!(survey.placeholders, [PathBuf::from("d/empty")]);
        assert_eq!((survey.entries, survey.files), (3, 2));
    }

    #[test]
    fn what_lies_deeper_than_a_restore_reaches_is_named() {
        let root = TempDir::new().unwrap();
        let deep = root.path().join("d/".repeat(DEPTH_MAX));
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(survey(root.path(), &GlobSet::empty(), &[]).unwrap().too_deep, None);
        fs::write(deep.join("f"), "").unwrap();
        let found = survey(root.path(), &GlobSet::empty(), &[]).unwrap().too_deep.unwrap();
        assert_eq!(found, PathBuf::from("d/".repeat(DEPTH_MAX) + "f"));
    }

    #[test]
    fn databases_are_found() {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("18/docker/global")).unwrap();
        fs::write(root.path().join("18/docker/PG_VERSION"), "18\n").unwrap();
        fs::write(root.path().join("18/docker/global/pg_control"), [0; 8192]).unwrap();
        let survey = survey(root.path(), &GlobSet::empty(), &[]).unwrap();
        let metadata = fs::metadata(root.path().join("18/docker")).unwrap();
        let owner = (metadata.uid(), metadata.gid());
        let found = FoundDatabase { engine: "postgresql".into(), data_directory: "18/docker".into(), owner };
        assert_eq!(survey.databases, [found]);
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error_that_names_it() {
        let root = TempDir::new().unwrap();
        let missing = root.path().join("missing");
        let error = survey(&missing, &GlobSet::empty(), &[]).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
