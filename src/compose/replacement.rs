//! Replacing a file and putting it back: completely or not at all, with a backup beside it.
//!
//! The backup is durable before the file changes. To put the file back, a rename moves the backup into its
//! place: the same bytes, the same mode and owner. A file that somebody else changed in the meantime is not
//! overwritten.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::edit::FileEdit;

/// Why a file could not be replaced, or put back.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// It has changed since the edit was planned.
    #[error("{} has changed while this ran", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has changed it since.
    #[error("somebody else has changed {} since; its earlier content is in {}", path.display(), backup.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its backup.
        backup: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What volsnap was doing.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file that is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// The file itself, with links resolved.
    pub path: PathBuf,
    /// The backup of its earlier content; none for a file that was not there.
    pub backup: Option<PathBuf>,
    /// BLAKE3 of what is written, hexadecimal; of nothing if the file goes.
    pub written: String,
}

impl Replacement {
    /// Returns the replacement for an edit, in the run of this id. Touches nothing.
    ///
    /// # Errors
    /// When the file cannot be found.
    pub fn of(edit: &FileEdit, run: &str) -> Result<Self, ReplaceError> {
        let written = blake3::hash(edit.after.as_deref().unwrap_or_default().as_bytes());
        let written = written.to_hex().to_string();
        if edit.before.is_none() {
            return Ok(Self { path: edit.path.clone(), backup: None, written });
        }
        let path = edit.path.canonicalize().map_err(failed("find", &edit.path))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".volsnap-{run}.bak"));
        Ok(Self { backup: Some(path.with_file_name(name)), path, written })
    }

    /// Makes the backup, then replaces or removes the file.
    ///
    /// # Errors
    /// When the file has changed since the edit was planned, or cannot be written. Then it is as it was.
    pub fn make(&self, edit: &FileEdit) -> Result<(), ReplaceError> {
        let current = self.current()?;
        if current.as_deref() != edit.before.as_deref().map(str::as_bytes) {
            return Err(ReplaceError::Changed { path: self.path.clone() });
        }
        let after = edit.after.as_deref().map(str::as_bytes);
        let Some(backup) = &self.backup else {
            let file =
                self.temporary().and_then(|file| write_new(file, &self.path, after.unwrap_or_default()));
            return file.map_err(failed("write", &self.path));
        };
        let before = current.unwrap_or_default();
        let write = |path: &Path, bytes: &[u8], is_copy: bool| {
            let file = self.temporary().and_then(|file| write_like(file, &self.path, path, bytes, is_copy));
            file.map_err(failed("write", path))
        };
        write(backup, &before, true)?;
        match after {
            Some(after) => write(&self.path, after, false),
            None => remove(&self.path),
        }
    }

    /// Returns how the names of unfinished files begin.
    fn prefix(&self) -> String {
        format!(".volsnap-{}-", &self.written[..self.written.len().min(16)])
    }

    fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(&self.prefix()).tempfile_in(directory_of(&self.path))
    }

    /// Removes what a killed run was just writing.
    fn remove_unfinished(&self) -> io::Result<()> {
        let prefix = self.prefix();
        for entry in fs::read_dir(directory_of(&self.path))? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Puts the file back as it was. Succeeds if that is already done, or the replacement never began.
    ///
    /// # Errors
    /// When somebody else has changed it since, or it cannot be written.
    pub fn undo(&self) -> Result<(), ReplaceError> {
        if let Err(error) = self.remove_unfinished() {
            tracing::debug!(%error, "an unfinished file may be left");
        }
        let current = self.current()?;
        let is_ours =
            current.as_ref().is_none_or(|bytes| blake3::hash(bytes).to_hex().as_str() == self.written);
        let Some(backup) = &self.backup else {
            return match current {
                Some(_) if is_ours => remove(&self.path),
                // Never written, or another's by now.
                _ => Ok(()),
            };
        };
        let before = match fs::read(backup) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("read", backup)(error)),
        };
        if current.as_deref() == Some(before.as_slice()) {
            return remove(backup);
        }
        if !is_ours {
            return Err(ReplaceError::Foreign { path: self.path.clone(), backup: backup.clone() });
        }
        fs::rename(backup, &self.path).map_err(failed("put back", &self.path))?;
        sync_directory(&self.path).map_err(failed("put back", &self.path))
    }

    fn current(&self) -> Result<Option<Vec<u8>>, ReplaceError> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &self.path)(error)),
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReplaceError + use<> {
    let path = path.to_owned();
    move |source| ReplaceError::Io { doing, path, source }
}

fn remove(path: &Path) -> Result<(), ReplaceError> {
    fs::remove_file(path).and_then(|()| sync_directory(path)).map_err(failed("remove", path))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Writes a file that must not be there yet.
fn write_new(mut file: tempfile::NamedTempFile, path: &Path, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync_directory(path)
}

/// Writes a file with the mode, the owner and the attributes of another one; a copy gets its times as well.
fn write_like(
    mut file: tempfile::NamedTempFile,
    model: &Path,
    path: &Path,
    bytes: &[u8],
    is_copy: bool,
) -> io::Result<()> {
    let metadata = fs::metadata(model)?;
    file.write_all(bytes)?;
    let own = file.as_file().metadata()?;
    if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
        std::os::unix::fs::fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    }
    file.as_file().set_permissions(metadata.permissions())?;
    for name in xattr::list(model)? {
        if let Some(value) = xattr::get(model, &name)? {
            // System attributes that we may not set are as in any file of this directory.
            let set = xattr::set(file.path(), &name, &value);
            if !name.to_string_lossy().starts_with("security.") {
                set?;
            }
        }
    }
    if is_copy {
        let times =
            fs::FileTimes::new().set_modified(metadata.modified()?).set_accessed(metadata.accessed()?);
        file.as_file().set_times(times)?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_directory(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(path: &Path, before: Option<&str>) -> FileEdit {
        FileEdit {
            path: path.to_owned(),
            before: before.map(str::to_owned),
            after: Some("new\n".to_owned()),
            parts: Vec::new(),
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_put_back_as_it_was_any_number_of_times() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compose.yaml");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let edit = edit(&path, Some("old\n"));
        let replacement = Replacement::of(&edit, "r1").unwrap();
        // UndoId, and never made; or killed while it was.
        drop(replacement.temporary().unwrap().keep().unwrap());
        replacement.undo().unwrap();
        assert_eq!(names(directory.path()), ["compose.yaml"]);

        replacement.make(&edit).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(directory.path()), ["compose.yaml", "compose.yaml.volsnap-r1.bak"]);
        assert_eq!(fs::read_to_string(replacement.backup.as_ref().unwrap()).unwrap(), "old\n");

        for _ in 0..2 {
            replacement.undo().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
            assert_eq!(names(directory.path()), ["compose.yaml"]);
        }
    }

    #[test]
    fn a_run_that_died_between_backup_and_file_leaves_the_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compose.yaml");
        fs::write(&path, "old\n").unwrap();
        let replacement = Replacement::of(&edit(&path, Some("old\n")), "r1").unwrap();
        let file = replacement.temporary().unwrap();
        write_like(file, &path, replacement.backup.as_ref().unwrap(), b"old\n", true).unwrap();
        replacement.undo().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
        assert_eq!(names(directory.path()), ["compose.yaml"]);
    }

    #[test]
    fn what_somebody_else_wrote_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compose.yaml");
        fs::write(&path, "old\n").unwrap();
        let edit = edit(&path, Some("old\n"));
        let replacement = Replacement::of(&edit, "r1").unwrap();
        fs::write(&path, "theirs\n").unwrap();
        assert!(matches!(replacement.make(&edit).unwrap_err(), ReplaceError::Changed { .. }));
        assert_eq!(names(directory.path()), ["compose.yaml"]);

        fs::write(&path, "old\n").unwrap();
        replacement.make(&edit).unwrap();
        fs::write(&path, "theirs\n").unwrap();
        assert!(matches!(replacement.undo().unwrap_err(), ReplaceError::Foreign { .. }));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs\n");
        assert_eq!(fs::read_to_string(replacement.backup.unwrap()).unwrap(), "old\n");
    }

    #[test]
    fn a_new_file_goes_again_and_another_ones_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compose.override.yaml");
        let edit = edit(&path, None);
        let replacement = Replacement::of(&edit, "r1").unwrap();
        replacement.undo().unwrap();
        replacement.make(&edit).unwrap();
        assert!(matches!(replacement.make(&edit).unwrap_err(), ReplaceError::Changed { .. }));
        replacement.undo().unwrap();
        replacement.undo().unwrap();
        assert!(names(directory.path()).is_empty());
        fs::write(&path, "theirs\n").unwrap();
        replacement.undo().unwrap();
        assert_eq!(names(directory.path()), ["compose.override.yaml"]);
    }

    #[test]
    fn a_file_that_goes_leaves_its_backup_and_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compose.override.yaml");
        fs::write(&path, "old\n").unwrap();
        let edit = FileEdit { after: None, ..edit(&path, Some("old\n")) };
        let replacement = Replacement::of(&edit, "r1").unwrap();
        replacement.make(&edit).unwrap();
        assert_eq!(names(directory.path()), ["compose.override.yaml.volsnap-r1.bak"]);
        for _ in 0..2 {
            replacement.undo().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
            assert_eq!(names(directory.path()), ["compose.override.yaml"]);
        }
        // Another one by now.
        replacement.make(&edit).unwrap();
        fs::write(&path, "theirs\n").unwrap();
        assert!(matches!(replacement.undo().unwrap_err(), ReplaceError::Foreign { .. }));
    }

    #[test]
    fn behind_a_link_the_file_itself_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("real.yaml"), directory.path().join("compose.yaml"));
        fs::write(&path, "old\n").unwrap();
        std::os::unix::fs::symlink("real.yaml", &link).unwrap();
        let edit = edit(&link, Some("old\n"));
        let replacement = Replacement::of(&edit, "r1").unwrap();
        replacement.make(&edit).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }
}
