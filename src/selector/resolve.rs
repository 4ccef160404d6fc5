//! From a target to the one source it means, or to the refusal that says what to type instead.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::data::{DatabaseData, ServerOf, is_anonymous, location_of, only_writable, shown, target_of};
use super::names::{Match, describe, matches, nameable};
use super::{Target, suggest};
use crate::database;
use crate::model::container::Container;
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::plural::counted;
use crate::model::quote::printable;
use crate::model::source::{Source, key_of};
use crate::selector::EngineInventory;
use crate::selector::inventory::{Inventory, Place, inventory_of, mounts_on};

/// Returns the volume or directory that the target means, with everything that uses it.
///
/// # Errors
/// A target that is unknown or means several things; data that is in no mount, in another mount than the
/// named one, or in several; two servers on one data directory. The hint is the command to type instead.
pub fn resolve(target: &Target, world: &EngineInventory) -> Result<Source> {
    Resolver { world, server_of: database::server_of }.resolve(target)
}

pub(super) struct Resolver<'w> {
    pub(super) world: &'w EngineInventory,
    pub(super) server_of: ServerOf,
}

/// The database found in a source.
struct DatabaseHere<'w> {
    data: DatabaseData<'w>,
    /// The data directory, relative to the source's root.
    below: PathBuf,
}

impl<'w> Resolver<'w> {
    pub(super) fn resolve(&self, target: &Target) -> Result<Source> {
        let matches = matches(target, self.world);
        let mut located: Vec<_> = matches.iter().map(|one| (one, self.locate(one))).collect();
        if located.is_empty() {
            return Err(suggest::unknown(target, self.world));
        }
        let locations: Vec<_> = located.iter().map(|(_, location)| location.as_ref().ok()).collect();
        // Several names of one source are fine. If none leads anywhere, one reason is enough.
        let agree = locations.windows(2).all(|pair| pair[0] == pair[1]);
        if !agree {
            return Err(self.ambiguous(target, &located));
        }
        let (first, location) = located.swap_remove(0);
        self.source(first, location?)
    }

    /// Returns the volume or directory to which a match leads.
    fn locate(&self, named: &Match<'_>) -> Result<MountSource> {
        match named {
            Match::Service { containers, .. } => self.locate_service(containers),
            Match::Container(container) => self.locate_container(container),
            Match::Volume(volume) => Ok(MountSource::Volume(volume.name.clone())),
            Match::Directory(path) => Ok(MountSource::Directory(path.clone())),
        }
    }

    fn locate_container(&self, container: &Container) -> Result<MountSource> {
        match DatabaseData::of(container, self.world, self.server_of) {
            Some(data) => Ok(self.own_part(&data, data.location()?)),
            None => only_writable(container, self.world),
        }
    }

    /// Returns what a server has for itself: the volume or directory that its data is in, or, where another server has
    /// its data in there too, its own data directory.
    fn own_part(&self, data: &DatabaseData<'_>, location: MountSource) -> MountSource {
        let Some(own) = data.place(self.world) else { return location };
        let whole = Place::of(&location, &self.world.volumes);
        let is_neighbour = |container: &&Container| {
            let other = DatabaseData::of(container, self.world, self.server_of);
            let other = other.and_then(|other| other.place(self.world));
            other.is_some_and(|other| whole.path_to(&other).is_some() && !other.overlaps(&own))
        };
        match own.host_path() {
            Some(path) if nameable(self.world).any(|other| is_neighbour(&other)) => {
                MountSource::Directory(path.to_owned())
            }
            _ => location,
        }
    }

    /// Returns the source that all containers of a scaled service share.
    fn locate_service(&self, containers: &[&Container]) -> Result<MountSource> {
        let mut locations = containers
            .iter()
            .map(|container| self.locate_container(container))
            .collect::<Result<Vec<_>>>()?;
        locations.dedup();
        match <[MountSource; 1]>::try_from(locations) {
            Ok([only]) => Ok(only),
            Err(_) => {
                let targets: Vec<_> =
                    containers.iter().map(|one| Target::Container(one.name.clone())).collect();
                Err(self.choose("the service's containers keep their data in different places", &targets))
            }
        }
    }

    fn ambiguous(&self, target: &Target, located: &[(&Match<'_>, Result<MountSource>)]) -> Error {
        let targets: Vec<_> = located.iter().map(|(named, _)| named.target()).collect();
        self.choose(&format!("\"{target}\" is the name of several things"), &targets)
    }

    fn choose(&self, why: &str, targets: &[Target]) -> Error {
        let names: Vec<_> = targets.iter().map(ToString::to_string).collect();
        let commands: Vec<_> = targets.iter().map(|target| self.world.command_for(target)).collect();
        Error::usage(format!("{why}, name one: {}", names.join(", "))).with_hints(commands)
    }

    fn source(&self, named: &Match<'_>, location: MountSource) -> Result<Source> {
        let world = self.world;
        let inventory = inventory_of(&location, world, self.server_of);
        self.refuse_vain_names(&location, &inventory)?;
        let (here, elsewhere) = self.databases(&location, &inventory)?;
        let mut warnings = Vec::new();
        let servers: BTreeSet<_> = here.iter().map(|one| one.below.clone()).collect();
        if servers.len() > 1 {
            // The whole is meant: nobody has named one of them.
            refuse_two_on_one(&here)?;
            let shown: Vec<_> = servers.iter().map(|server| shown(server)).collect();
            warnings.push(format!(
                "{} has the data of {} ({}): all of them are meant",
                describe(&location),
                counted(servers.len() as u64, "server"),
                shown.join(", ")
            ));
            return Ok(Source {
                servers: servers.into_iter().collect(),
                database_containers: here.iter().map(|one| one.data.container.id.clone()).collect(),
                ..self.plain(named, location, inventory, warnings)
            });
        }
        let here = self.only_database(here, named)?;
        match &here {
            Some(here) => here.data.refuse_split(&location)?,
            None => self.refuse_or_warn_elsewhere(&location, &inventory.place, &elsewhere, &mut warnings)?,
        }
        warnings.extend(anonymous_warning(&location, here.as_ref().map(|here| &here.data)));
        Ok(Source {
            database_container: here.as_ref().map(|here| here.data.container.id.clone()),
            data_directory: here.map(|here| here.below),
            ..self.plain(named, location, inventory, warnings)
        })
    }

    /// Returns the source without the database in it.
    fn plain(
        &self,
        named: &Match<'_>,
        location: MountSource,
        inventory: Inventory,
        warnings: Vec<String>,
    ) -> Source {
        Source {
            host_path: host_path(&location, self.world),
            key: key_of(&location),
            title: named.title(&location),
            users: inventory.users,
            onlookers: inventory.onlookers,
            database_container: None,
            data_directory: None,
            servers: Vec::new(),
            database_containers: Vec::new(),
            held_by: inventory.held_by,
            warnings,
            location,
        }
    }

    /// Refuses to hold what does not even see the source, and to ignore a database that is in it.
    fn refuse_vain_names(&self, location: &MountSource, inventory: &Inventory) -> Result<()> {
        let is_user = |name: &&String| inventory.users.iter().any(|user| user.container.name == **name);
        if let Some(name) = self.world.bystanders.hold.iter().find(|name| !is_user(name)) {
            let message = format!("no container called {} can see {}", printable(name), describe(location));
            return Err(Error::usage(message).hint(without("--hold", name)));
        }
        match self.world.bystanders.ignore.iter().find(is_user) {
            Some(name) => Err(Error::usage(format!(
                "container {} cannot be ignored: its database is in {}, or it has the network of one that uses it",
                printable(name),
                describe(location)
            ))
            .hint(without("--ignore", name))),
            None => Ok(()),
        }
    }

    /// Returns the databases of the users in two groups: those whose data is in the source, and those whose
    /// data is not.
    fn databases(
        &self,
        location: &MountSource,
        inventory: &Inventory,
    ) -> Result<(Vec<DatabaseHere<'w>>, Vec<DatabaseData<'w>>)> {
        let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
        let users: BTreeSet<_> =
            inventory.users.iter().filter(|user| !user.as_sharer).map(|user| &user.container.id).collect();
        for container in self.world.containers.iter().filter(|container| users.contains(&container.id)) {
            let Some(data) = DatabaseData::of(container, self.world, self.server_of) else { continue };
            let place = data.place(self.world);
            match place.as_ref().and_then(|place| inventory.place.path_to(place)) {
                Some(below) => here.push(DatabaseHere { data, below }),
                None if place.is_some_and(|place| place.path_to(&inventory.place).is_some()) => {
                    return Err(self.belongs_elsewhere(location, &data, "is only a part of the data"));
                }
                None => elsewhere.push(data),
            }
        }
        Ok((here, elsewhere))
    }

    /// Returns the one database that lives in the source: the running one, else the named one, else the
    /// newest.
    fn only_database(
        &self,
        mut here: Vec<DatabaseHere<'w>>,
        named: &Match<'_>,
    ) -> Result<Option<DatabaseHere<'w>>> {
        refuse_two_on_one(&here)?;
        here.sort_by_key(|one| {
            let container = one.data.container;
            let is_named = match named {
                Match::Service { containers, .. } => containers.iter().any(|named| named.id == container.id),
                Match::Container(named) => named.id == container.id,
                Match::Volume(_) | Match::Directory(_) => false,
            };
            (container.state.running, is_named, container.created_at())
        });
        Ok(here.pop())
    }

    /// Refuses a source in which a database seems meant to live but does not. If a database merely uses the
    /// source besides its data, says so.
    ///
    /// PostgreSQL up to 17 with a volume at `/var/lib/postgresql` keeps its data in an anonymous
    /// volume below that: a snapshot of the named one would have nothing in it.
    fn refuse_or_warn_elsewhere(
        &self,
        location: &MountSource,
        place: &Place,
        databases: &[DatabaseData<'w>],
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        for data in databases {
            let mounts: Vec<_> = mounts_on(data.container, place, &self.world.volumes)
                .filter(|mount| !mount.read_only)
                .collect();
            let hides = |mount: &&crate::model::container::Mount| {
                data.directory.starts_with(&mount.destination)
                    || mount.destination.starts_with(&data.directory)
            };
            let real = data.mount.and_then(location_of);
            let by_accident = real.as_ref().is_none_or(is_anonymous);
            if mounts.iter().any(|mount| by_accident || hides(mount)) {
                return Err(self.belongs_elsewhere(location, data, "does not hold the data"));
            }
            if let (Some(real), false) = (real, mounts.is_empty()) {
                let name = printable(&data.container.name);
                warnings.push(format!(
                    "{} is used by container {name}, but its data is in {}",
                    describe(location),
                    describe(&real)
                ));
            }
        }
        Ok(())
    }

    /// Returns the refusal of a source in favour of the one where the database's data is.
    fn belongs_elsewhere(&self, location: &MountSource, data: &DatabaseData<'_>, how: &str) -> Error {
        let (name, directory) = (printable(&data.container.name), shown(&data.directory));
        match data.location() {
            Err(nowhere) => nowhere,
            Ok(real) => Error::failed(format!(
                "{} {how} of container {name}: its data directory {directory} lies in {}",
                describe(location),
                target_of(&real)
            ))
            .hint(self.world.command_for(&target_of(&real))),
        }
    }
}

/// Returns the typed command without what one of its options says of a container.
fn without(option: &str, name: &str) -> Hint {
    let pair = format!("{option}={name}");
    Hint::instead(&[&pair], [""; 0])
}

/// Refuses two servers that run on one data directory.
fn refuse_two_on_one(here: &[DatabaseHere<'_>]) -> Result<()> {
    let running: Vec<_> = here.iter().filter(|one| one.data.container.state.running).collect();
    let twin = |one: &&&DatabaseHere<'_>| {
        running
            .iter()
            .any(|other| other.below == one.below && other.data.container.id != one.data.container.id)
    };
    let twins: Vec<_> = running.iter().filter(twin).collect();
    let [one, rest @ ..] = twins.as_slice() else { return Ok(()) };
    let Some(other) = rest.iter().find(|other| other.below == one.below) else { return Ok(()) };
    let [one, other] = [one, other].map(|one| printable(&one.data.container.name));
    let stop = Hint::docker(["stop", "-t", "600", &other]);
    let message =
        format!("containers {one} and {other} run two servers on one data directory, which damages it");
    Err(Error::failed(message).hint(stop))
}

/// Returns where the engine's host has the source.
fn host_path(location: &MountSource, world: &EngineInventory) -> PathBuf {
    match location {
        MountSource::Directory(path) => path.clone(),
        MountSource::Volume(name) => {
            let volume = world.volumes.iter().find(|volume| volume.name == *name);
            volume.map(|volume| volume.mountpoint.clone()).unwrap_or_default()
        }
    }
}

/// Returns the warning for data in a volume without a name: the next container gets a new volume.
fn anonymous_warning(location: &MountSource, data: Option<&DatabaseData<'_>>) -> Option<String> {
    if !is_anonymous(location) {
        return None;
    }
    let lost = "a recreated container starts without it";
    let Some((data, mount)) = data.and_then(|data| Some((data, data.mount?))) else {
        return Some(format!("{} is anonymous: {lost}", describe(location)));
    };
    let above = data.container.mounts.iter().filter(|other| {
        other.destination != mount.destination && mount.destination.starts_with(&other.destination)
    });
    let above =
        above.filter_map(|other| Some((location_of(other)?, other))).find(|(above, _)| !is_anonymous(above));
    let empty = above.map_or_else(String::new, |(above, other)| {
        format!("; {} at {} has none of it", describe(&above), shown(&other.destination))
    });
    let name = printable(&data.container.name);
    Some(format!(
        "the data of container {name} is in the anonymous {} at {}: {lost}{empty}",
        describe(location),
        shown(&mount.destination)
    ))
}
