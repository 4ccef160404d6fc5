//! Who uses a source, and who can only see it.
//!
//! The engine excludes nobody: any number of containers can mount a volume, and a host directory has as many names as
//! there are mounts above and below it. So this finds containers by where the bytes are on the engine's host, not by
//! names alone. What a container does decides then, before what it mounts:
//!
//! | a container that | is |
//! |---|---|
//! | has its database in the source, or a file open there, or works there | a user |
//! | mounts the source itself, or a part of it | a user |
//! | mounts a directory above it, and is of the project or stack that uses it, with no database elsewhere | a user |
//! | mounts a directory above it (the host's root, the engine's volumes) | an onlooker |
//! | is excluded by its label or by `--ignore`, and has no database there | an onlooker |
//!
//! Pure: it works on what the engine has on record, and on what was asked of its processes.

use std::collections::{BTreeMap, BTreeSet};

use super::data::{DatabaseData, ServerOf};
pub use super::place::Place;
use crate::compose::{VolumeKey, project_of};
use crate::database;
use crate::model::container::{Container, Mount, Volume, owners};
use crate::model::labels::{LABEL_GUARD, LABEL_IGNORE, LABEL_RUN};
use crate::model::location::MountSource;
use crate::model::source::{Onlooker, OtherRun, User};
use crate::selector::EngineInventory;

/// The label with the stack that a container belongs to.
const STACK: &str = "com.docker.stack.namespace";

/// Who uses a source.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Where the source is.
    pub place: Place,
    /// Every container, running or not, that uses it; helpers of volsnap are not among them.
    pub users: Vec<User>,
    /// The running containers that can see it and do not use it.
    pub onlookers: Vec<Onlooker>,
    /// Another run of volsnap whose helper has the source mounted.
    pub held_by: Option<OtherRun>,
}

/// Returns every container that uses the volume or directory, and those that can only see it.
#[must_use]
pub fn inventory(location: &MountSource, world: &EngineInventory) -> Inventory {
    inventory_of(location, world, database::server_of)
}

pub(super) fn inventory_of(
    location: &MountSource,
    world: &EngineInventory,
    server_of: ServerOf,
) -> Inventory {
    Census { world, server_of, place: Place::of(location, &world.volumes) }.take(location)
}

/// A container that reaches a source.
struct Reach<'w> {
    container: &'w Container,
    writes: bool,
    /// Whether what it does there, or what it mounts, makes it a user by itself.
    uses: bool,
    /// Whether it mounts the place itself, or a part of it.
    mounts_it: bool,
    /// Whether its database is there.
    has_database: bool,
    /// Whether its database is somewhere else.
    serves_elsewhere: bool,
}

struct Census<'w> {
    world: &'w EngineInventory,
    server_of: ServerOf,
    place: Place,
}

impl<'w> Census<'w> {
    fn take(self, location: &MountSource) -> Inventory {
        let mut held_by = None;
        let mut reaches = Vec::new();
        // A guard mounts what its command mounts, and works on no data.
        let is_guard = |container: &&Container| container.labels.contains_key(LABEL_GUARD);
        for container in self.world.containers.iter().filter(|one| !is_guard(one)) {
            let Some(reach) = self.reach(container) else { continue };
            match OtherRun::of(container) {
                // A helper that runs says more than one that a dead run left.
                Some(run) => {
                    held_by = held_by.filter(|known: &OtherRun| known.running || !run.running).or(Some(run));
                }
                None => reaches.push(reach),
            }
        }
        let groups = self.groups(location, &reaches);
        let mut users: BTreeMap<&str, User> = BTreeMap::new();
        let mut onlookers = Vec::new();
        for reach in &reaches {
            let container = reach.container;
            if self.is_user(reach, &groups) {
                let user = User {
                    container: container.clone(),
                    writes: reach.writes,
                    from_above: !reach.mounts_it,
                    as_sharer: false,
                };
                users.insert(&container.id, user);
            } else if container.state.running {
                onlookers.push(self.onlooker(reach));
            }
        }
        self.add_sharers(&mut users);
        let containers = &self.world.containers;
        let users: Vec<_> =
            containers.iter().filter_map(|container| users.remove(container.id.as_str())).collect();
        onlookers.retain(|onlooker| users.iter().all(|user| user.container.id != onlooker.id));
        Inventory { place: self.place, users, onlookers, held_by }
    }

    /// Returns how a container reaches the place; `None` if it does not.
    fn reach(&self, container: &'w Container) -> Option<Reach<'w>> {
        let mounts: Vec<_> = mounts_on(container, &self.place, &self.world.volumes).collect();
        if mounts.is_empty() {
            return None;
        }
        let data =
            DatabaseData::of(container, self.world, self.server_of).and_then(|data| data.place(self.world));
        let has_database = data.as_ref().is_some_and(|data| data.overlaps(&self.place));
        let mounts_it = mounts.iter().any(|mount| {
            let mounted = Place::of_mount(mount, &self.world.volumes);
            mounted.is_some_and(|mounted| self.place.path_to(&mounted).is_some())
        });
        Some(Reach {
            container,
            writes: mounts.iter().any(|mount| !mount.read_only),
            uses: has_database || mounts_it || self.has_open(container),
            mounts_it,
            has_database,
            serves_elsewhere: data.is_some() && !has_database,
        })
    }

    /// Returns whether a process of the container has a file open in the place, or works there, as far as it was asked.
    fn has_open(&self, container: &Container) -> bool {
        let open = self.world.open_files.get(&container.id);
        open.into_iter().flatten().any(|path| {
            let innermost = container
                .mounts
                .iter()
                .filter(|mount| path.starts_with(&mount.destination))
                .max_by_key(|mount| mount.destination.components().count());
            let below = |mount: &Mount| Some(path.strip_prefix(&mount.destination).ok()?.to_owned());
            innermost
                .and_then(|mount| Some(Place::of_mount(mount, &self.world.volumes)?.join(&below(mount)?)))
                .is_some_and(|place| self.place.path_to(&place).is_some())
        })
    }

    /// Returns the projects and stacks that use the place.
    fn groups(&self, location: &MountSource, reaches: &[Reach<'w>]) -> BTreeSet<&'w str> {
        let of_users = reaches
            .iter()
            .filter(|reach| reach.uses && (reach.has_database || !self.is_ignored(reach.container)))
            .filter_map(|reach| group_of(reach.container));
        let is_it = |volume: &&Volume| *location == MountSource::Volume(volume.name.clone());
        let volume = self.world.volumes.iter().find(is_it);
        let of_volume = volume.and_then(|volume| {
            let key = VolumeKey::of(&volume.labels).map(|called| called.project);
            key.or_else(|| volume.labels.get(STACK).map(String::as_str))
        });
        of_users.chain(of_volume).collect()
    }

    fn is_user(&self, reach: &Reach<'w>, groups: &BTreeSet<&str>) -> bool {
        let is_of_group = || group_of(reach.container).is_some_and(|group| groups.contains(group));
        if reach.has_database || self.world.bystanders.hold.contains(&reach.container.name) {
            return true;
        }
        !self.is_ignored(reach.container) && (reach.uses || (!reach.serves_elsewhere && is_of_group()))
    }

    fn onlooker(&self, reach: &Reach<'w>) -> Onlooker {
        let container = reach.container;
        Onlooker {
            id: container.id.clone(),
            container: container.name.clone(),
            writes: reach.writes,
            ignored: self.is_ignored(container),
            looked: self.world.open_files.contains_key(&container.id),
        }
    }

    fn is_ignored(&self, container: &Container) -> bool {
        let labelled = container.labels.get(LABEL_IGNORE).is_some_and(|value| value == "true");
        (labelled && !self.world.bystanders.hold.contains(&container.name))
            || self.world.bystanders.ignore.contains(&container.name)
            || self.world.bystanders.own.as_ref() == Some(&container.name)
    }

    /// Adds the containers that share something of a running user, and those that share something of these.
    ///
    /// Leaves those alone that share something of a container that does not run: nobody will stop it, and
    /// without it the engine could not start them again. Leaves those alone, too, that the command names: a label says
    /// what a container has to do with the data, not that it may lose its network.
    fn add_sharers(&self, users: &mut BTreeMap<&'w str, User>) {
        let containers = &self.world.containers;
        loop {
            let found = containers.iter().find(|container| {
                let helper = container.labels.contains_key(LABEL_RUN);
                !helper
                    && !users.contains_key(container.id.as_str())
                    && !self.world.bystanders.ignore.contains(&container.name)
                    && owners(container, containers)
                        .filter_map(|(_, owner)| users.get(owner.id.as_str()))
                        .any(|owner| owner.container.state.running)
            });
            let Some(container) = found else { return };
            users.insert(
                &container.id,
                User { container: container.clone(), writes: false, from_above: false, as_sharer: true },
            );
        }
    }
}

/// Returns the project or stack that a container belongs to.
fn group_of(container: &Container) -> Option<&str> {
    project_of(&container.labels).or_else(|| container.labels.get(STACK).map(String::as_str))
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

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
