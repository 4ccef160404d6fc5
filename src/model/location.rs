//! The place of data: a volume, or a directory of the engine's host. Pure data.

use std::path::{Component, Path, PathBuf};

/// What a mount mounts. Naming it never creates it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A volume by name, mounted with `nocopy`.
    Volume(String),
    /// A directory of the engine's host; the engine refuses when it is missing.
    Directory(PathBuf),
}

/// Returns an absolute path without `.` and `..`, by its text alone: the engine's host may be
/// another machine, and nobody can follow its links from here.
#[must_use]
pub fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            // The root's parent is the root: pop keeps it.
            Component::ParentDir => {
                normal.pop();
            }
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => normal.push(component),
        }
    }
    normal
}
