//! Where the bytes of a source or a mount are on the engine's host, whatever name they have. Pure.

use std::path::{Path, PathBuf};

use crate::model::container::{Mount, MountKind, Volume};
use crate::model::location::{MountSource, normalize};
use crate::selector::memory::bound_directory;

/// Where something is on the engine's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    volume: Option<String>,
    /// The path below the volume's root or the directory.
    below: PathBuf,
    /// Absolute and normal; several if a volume is a bind of another directory. May be empty: of a
    /// volume driver's own storage only the name is known.
    paths: Vec<PathBuf>,
}

impl Place {
    /// Returns where a volume or directory is.
    #[must_use]
    pub fn of(location: &MountSource, volumes: &[Volume]) -> Self {
        match location {
            MountSource::Volume(name) => Self::of_volume(name, None, volumes),
            MountSource::Directory(path) => Self::of_directory(path),
        }
    }

    /// Returns where the data of a mount is; `None` for memory and the like.
    #[must_use]
    pub fn of_mount(mount: &Mount, volumes: &[Volume]) -> Option<Self> {
        match (mount.kind, &mount.volume) {
            (MountKind::Volume, Some(name)) => Some(Self::of_volume(name, Some(&mount.source), volumes)),
            (MountKind::Volume | MountKind::Bind, _) => Some(Self::of_directory(&mount.source)),
            (MountKind::Tmpfs | MountKind::Other, _) => None,
        }
    }

    fn of_directory(path: &Path) -> Self {
        let paths = path.is_absolute().then(|| normalize(path)).into_iter().collect();
        Self { volume: None, below: PathBuf::new(), paths }
    }

    fn of_volume(name: &str, mounted_from: Option<&Path>, volumes: &[Volume]) -> Self {
        let volume = volumes.iter().find(|volume| volume.name == name);
        let known = [volume.map(|volume| volume.mountpoint.as_path()), mounted_from];
        let local = volume.is_none_or(|volume| matches!(volume.driver.as_str(), "local" | ""));
        let known = known.into_iter().flatten().filter(|_| local);
        let bound = volume.and_then(bound_directory);
        let mut paths: Vec<_> =
            known.chain(bound.as_deref()).filter(|path| path.is_absolute()).map(normalize).collect();
        paths.sort();
        paths.dedup();
        Self { volume: Some(name.to_owned()), below: PathBuf::new(), paths }
    }

    /// Returns a path of the place on the engine's host; `None` if a driver's own storage has it.
    #[must_use]
    pub fn host_path(&self) -> Option<&Path> {
        self.paths.first().map(PathBuf::as_path)
    }

    /// Returns its paths on the engine's host.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Returns the place `below` this one.
    #[must_use]
    pub fn join(&self, below: &Path) -> Self {
        Self {
            volume: self.volume.clone(),
            below: self.below.join(below),
            paths: self.paths.iter().map(|path| path.join(below)).collect(),
        }
    }

    /// Returns the path from here to `inner`, "" for the same place; `None` if it is not in here.
    ///
    /// Compared by components: `/data/pg2` is not in `/data/pg`.
    #[must_use]
    pub fn path_to(&self, inner: &Self) -> Option<PathBuf> {
        if self.volume.is_some() && self.volume == inner.volume {
            return inner.below.strip_prefix(&self.below).ok().map(Path::to_owned);
        }
        let pairs = self.paths.iter().flat_map(|path| inner.paths.iter().map(move |inner| (path, inner)));
        pairs.into_iter().find_map(|(path, inner)| inner.strip_prefix(path).ok().map(Path::to_owned))
    }

    /// Returns whether one of the two is, contains or lies inside the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.path_to(other).is_some() || other.path_to(self).is_some()
    }
}
