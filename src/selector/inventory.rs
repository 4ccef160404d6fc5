//! Every container that can reach a source, whatever name or path it mounts.
//!
//! The engine excludes nobody: any number of containers can mount a volume, and a host directory has as
//! many names as there are mounts above and below it. So this finds users by where the bytes are on the
//! engine's host, not by names alone. Pure: it works on what the engine has on record.

use crate::model::container::network_owner;
use crate::model::location::normalize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::container::{Container, Mount, MountKind, Volume};
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::model::source::{OtherRun, User};

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
        let mut paths: Vec<_> = known
            .chain(volume.and_then(bound_device))
            .filter(|path| path.is_absolute())
            .map(normalize)
            .collect();
        paths.sort();
        paths.dedup();
        Self { volume: Some(name.to_owned()), below: PathBuf::new(), paths }
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

/// Returns the directory that a volume of the local driver is a bind of (`type=none,o=bind`).
fn bound_device(volume: &Volume) -> Option<&Path> {
    let options = volume.options.get("o")?;
    let bound = options.split(',').any(|option| matches!(option.trim(), "bind" | "rbind"));
    volume.options.get("device").filter(|_| bound).map(Path::new)
}

/// Who uses a source.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Where the source is.
    pub place: Place,
    /// Every container, running or not, that uses it; helpers of volsnap are not among them.
    pub users: Vec<User>,
    /// Another run of volsnap whose helper has the source mounted.
    pub held_by: Option<OtherRun>,
}

/// Returns every container that uses the volume or directory.
#[must_use]
pub fn inventory(location: &MountSource, containers: &[Container], volumes: &[Volume]) -> Inventory {
    let place = Place::of(location, volumes);
    let mut users: BTreeMap<&str, User> = BTreeMap::new();
    let mut held_by = None;
    for container in containers {
        let mut mounts = mounts_on(container, &place, volumes).peekable();
        if mounts.peek().is_none() {
            continue;
        }
        if let Some(run) = OtherRun::of(container) {
            // A helper that runs says more than one that a dead run left.
            held_by = held_by.filter(|known: &OtherRun| known.running || !run.running).or(Some(run));
            continue;
        }
        let writes = mounts.any(|mount| !mount.read_only);
        users.insert(&container.id, User { container: container.clone(), writes, through_network: false });
    }
    add_network_sharers(&mut users, containers);
    let users = containers.iter().filter_map(|container| users.remove(container.id.as_str())).collect();
    Inventory { place, users, held_by }
}

/// Returns the mounts through which the container reaches the place.
pub fn mounts_on<'c>(
    container: &'c Container,
    place: &'c Place,
    volumes: &'c [Volume],
) -> impl Iterator<Item = &'c Mount> {
    let overlaps =
        |mount: &&Mount| Place::of_mount(mount, volumes).is_some_and(|mounted| mounted.overlaps(place));
    container.mounts.iter().filter(overlaps)
}

/// Adds the containers that share the network of a running user, and those that share the network of these.
///
/// Leaves those alone that share the network of a container that does not run: nobody will stop it, and
/// without it the engine could not start them again.
fn add_network_sharers<'c>(users: &mut BTreeMap<&'c str, User>, containers: &'c [Container]) {
    loop {
        let found = containers.iter().find(|container| {
            let owner = network_owner(container, containers).and_then(|owner| users.get(owner.id.as_str()));
            let helper = container.labels.contains_key(LABEL_RUN);
            !helper
                && !users.contains_key(container.id.as_str())
                && owner.is_some_and(|owner| owner.container.state.running)
        });
        let Some(container) = found else { return };
        users.insert(
            &container.id,
            User { container: container.clone(), writes: false, through_network: true },
        );
    }
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
