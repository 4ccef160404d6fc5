//! The directory that data is migrated into. One that cannot be used is refused before anything is touched. One that
//! volsnap makes is known by its inode, so that no other directory is ever removed in its place.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use super::MigrateRun;
use crate::agent::swap::PREFIX;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;
use crate::saga::{UndoId, When};
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::retract_copy::MadeDirectory;

/// Where the system has its own files, and nobody else's data belongs.
const SYSTEM: [&str; 12] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"];
/// What is emptied when the machine starts, or by age.
const EMPTIED: [&str; 2] = ["/tmp", "/var/tmp"];

/// A directory that data may be migrated into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    /// Absolute, without links.
    pub(super) path: PathBuf,
    /// Whether it exists.
    pub(super) exists: bool,
    /// What is worth knowing of it.
    pub(super) warnings: Vec<String>,
}

/// Returns the named directory, as seen from `here`. `store` is where the engine has its own data.
///
/// # Errors
/// When it cannot be used, in words with the next command.
pub(super) fn look(named: &Path, here: &Path, store: Option<&Path>) -> Result<Destination> {
    let absolute = here.join(named);
    let shown = absolute.display();
    if absolute.components().any(|component| matches!(component, Component::ParentDir)) {
        return Err(Error::usage(format!("the directory {shown} has `..` in it"))
            .hint(Hint::advice("write it out in full")));
    }
    if absolute.to_str().is_none() {
        return Err(Error::usage(format!("the directory {shown} is not UTF-8"))
            .hint(Hint::advice("choose another name")));
    }
    let metadata = match absolute.symlink_metadata() {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::failed(format!("look at {shown}")).with_source(error)),
    };
    match &metadata {
        Some(metadata) if metadata.is_symlink() => {
            let target = std::fs::canonicalize(&absolute).unwrap_or_default();
            return Err(Error::usage(format!(
                "{shown} is a symbolic link, which anybody could lead elsewhere later"
            ))
            .hint(Hint::advice(format!(
                "name the directory itself: {}",
                shell_quote(&target.to_string_lossy())
            ))));
        }
        Some(metadata) if !metadata.is_dir() => {
            return Err(Error::usage(format!("{shown} is there and is no directory"))
                .hint(Hint::advice("choose another")));
        }
        _ => {}
    }
    let path = without_links(&absolute)?;
    refuse_system(&path, store)?;
    if metadata.is_some() && is_mount_point(&path) {
        return Err(Error::usage(format!(
            "{} is a mount point: when its disk is not mounted, the service would start on an empty directory",
            path.display()
        ))
        .hint(Hint::advice(format!(
            "name a directory in it, as {}",
            shell_quote(&path.join("data").to_string_lossy())
        ))));
    }
    if metadata.is_some() && has_others(&path) {
        return Err(not_empty(&path.display().to_string()));
    }
    let mut warnings = Vec::new();
    if let Some(emptied) = EMPTIED.iter().find(|emptied| path.starts_with(emptied)) {
        warnings.push(format!("what lies in {emptied} is removed by many systems after a while"));
    }
    // 1 if it refuses, 0 if it only logs (selinuxfs of the kernel).
    if std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1") {
        warnings.push(
            "SELinux is enforcing here: if the service is refused its directory, add :z to the mount in the \
             compose file (volsnap changes no labels)"
                .to_owned(),
        );
    }
    Ok(Destination { path, exists: metadata.is_some(), warnings })
}

/// Returns the path with the links above its last part resolved, as far as it exists.
fn without_links(path: &Path) -> Result<PathBuf> {
    let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    let real = existing.canonicalize().context(|| format!("look at {}", existing.display()))?;
    Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
}

pub(super) fn refuse_system(path: &Path, store: Option<&Path>) -> Result<()> {
    let refused = |why: String| {
        Err(Error::usage(format!("{} {why}", path.display()))
            .hint(Hint::advice("choose a directory of its own, as /srv/db or /data/db-server/db")))
    };
    // A directory right below the root belongs to somebody, such as /home or /var.
    if path.components().count() <= 1 {
        return refused("is the root of the file system".to_owned());
    }
    if let Some(system) = SYSTEM.iter().find(|system| path.starts_with(system)) {
        return refused(format!("lies in {system}, which belongs to the system"));
    }
    if let Some(store) = store.filter(|store| path.starts_with(store)) {
        return refused(format!("lies in {}, where the engine has its own", store.display()));
    }
    Ok(())
}

/// Returns whether something is mounted on a directory; `false` if nobody can look at it.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

/// Returns whether there is anything but what an earlier run began; the helper looks where this process cannot.
fn has_others(path: &Path) -> bool {
    let is_other = |name: &OsStr| !name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
    std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| is_other(&entry.file_name())))
}

pub(super) fn not_empty(shown: &str) -> Error {
    Error::failed(format!("{shown} is not empty"))
        .hint(Hint::advice("choose a directory that is empty or not there yet"))
}

/// Returns where the engine keeps everything, by the place of one of its own volumes.
pub(super) fn store_of(volume: &Path, name: &str) -> Option<PathBuf> {
    let own = volume.strip_prefix("/").ok()?;
    let data = own.parent()?;
    let is_usual = own.file_name()? == "_data" && data.file_name()? == name;
    let volumes = is_usual.then(|| data.parent()).flatten()?;
    Some(Path::new("/").join(volumes.parent()?))
}

/// What was made for a migration, and what removes it if the migration fails.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The directory itself, if it did not exist.
    pub(super) directory: Option<MadeDirectory>,
    /// What removes it.
    pub(super) removals: Vec<UndoId>,
}

impl MigrateRun<'_> {
    /// Makes the directory, and those above it that do not exist. The journal has what removes each before it is made.
    pub(super) fn make_directory(&self, saga: &mut Saga, destination: &Destination) -> Result<Made> {
        let mut made = Made::default();
        if destination.exists {
            return Ok(made);
        }
        let path = &destination.path;
        let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|above| !above.exists()).collect();
        let journal = || "write the journal".to_owned();
        for above in missing.into_iter().rev() {
            let removal = Undo::RemoveEmptyDirectory { path: above.to_owned() };
            // Stays registered: a directory with something in it is not removed.
            saga.register(When::OnFailure, removal).context(journal)?;
            let making = || format!("make the directory {}", above.display());
            DirBuilder::new().mode(0o755).create(above).map_err(|error| needs_root(making(), error))?;
        }
        let making = || format!("make the directory {}", path.display());
        // Under a name of our own first: what removes it must never mistake another for it.
        let ours = path.with_file_name(format!(".volsnap-made-{}", self.run.id));
        let removal = Undo::DeleteDirectory { path: ours.clone() };
        let passing = saga.register(When::Always, removal).context(journal)?;
        self.run.monitor().step("make-directory");
        DirBuilder::new().mode(0o700).create(&ours).map_err(|error| needs_root(making(), error))?;
        let metadata = ours.metadata().context(making)?;
        let directory = MadeDirectory { path: path.clone(), device: metadata.dev(), inode: metadata.ino() };
        let removal = Undo::RemoveMadeDirectory {
            path: directory.path.clone(),
            device: directory.device,
            inode: directory.inode,
        };
        made.removals.push(saga.register(When::OnFailure, removal).context(journal)?);
        std::fs::rename(&ours, path).context(making)?;
        saga.dismiss(passing);
        path.parent()
            .map(File::open)
            .transpose()
            .context(making)?
            .map(|above| above.sync_all())
            .transpose()
            .context(making)?;
        made.directory = Some(directory);
        Ok(made)
    }
}

fn needs_root(doing: String, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = Error::failed(doing).with_source(error);
    if denied {
        error.hint(Hint::advice("run it as root (sudo), or make the directory, empty, before"))
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::root("/", "root of the file system")]
    #[case::system("/etc/postgres", "lies in /etc")]
    #[case::proc("/proc/1", "lies in /proc")]
    #[case::store("/engine/data/volumes/x/_data", "where the engine has its own")]
    #[case::up("/srv/../etc/pg", "has `..` in it")]
    #[case::file("/etc/passwd", "is no directory")]
    fn what_is_no_place_for_data_is_refused(#[case] path: &str, #[case] said: &str) {
        let error = look(Path::new(path), Path::new("/"), Some(Path::new("/engine/data"))).unwrap_err();
        assert!(error.chain().contains(said), "{}", error.chain());
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn a_directory_is_seen_through_the_links_above_it_and_is_none_itself() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, root.path().join("link")).unwrap();
        let found = look(Path::new("link/db/pg"), root.path(), None).unwrap();
        assert_eq!((found.path, found.exists), (real.join("db/pg"), false));
        assert!(found.warnings.iter().any(|warning| warning.contains("/tmp")), "{:?}", found.warnings);
        let error = look(Path::new("link"), root.path(), None).unwrap_err();
        assert!(error.chain().contains("symbolic link"), "{}", error.chain());
        assert!(error.hint_text().unwrap().contains("/real"));
        std::fs::create_dir(real.join(".volsnap-work-20261120T203011Z-4f2a91")).unwrap();
        assert!(look(Path::new("real"), root.path(), None).unwrap().exists);
        std::fs::write(real.join("precious"), "x").unwrap();
        let error = look(Path::new("real"), root.path(), None).unwrap_err();
        assert!(error.chain().contains("is not empty"), "{}", error.chain());
    }

    #[test]
    fn what_is_mounted_somewhere_is_refused_with_a_better_name() {
        let error = look(Path::new("/dev/shm"), Path::new("/"), None);
        assert!(error.is_err());
        assert!(is_mount_point(Path::new("/proc")) && !is_mount_point(Path::new("/etc")));
    }

    #[test]
    fn the_engines_store_is_told_by_a_volume_of_its_own() {
        let store = |path: &str, name: &str| store_of(Path::new(path), name);
        assert_eq!(store("/var/lib/docker/volumes/pg/_data", "pg"), Some("/var/lib/docker".into()));
        assert_eq!(store("/mnt/nfs/pg", "pg"), None);
        assert_eq!(store("/_data", "pg"), None);
    }
}
