//! What is examined: the data of every database, and every volume and directory that any other container writes.
//!
//! A store of which little is known is recognised by its program, or by the files that are seen where its data is. What
//! several containers have mounted is examined once, with the one that is most likely its own. Pure, but for the look
//! at a directory of this machine.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use crate::database::{self, Database, Server, stores};
use crate::model::container::{Container, Mount, MountKind};
use crate::model::labels::LABEL_IGNORE;
use crate::model::source::OtherRun;
use crate::selector::inventory::Place;
use crate::selector::{self, DatabaseData, EngineInventory};

/// How many names are looked at in a directory to find out whose it is.
const NAMES: usize = 2000;

/// Who keeps data.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keeper {
    /// A database that can be asked.
    Database(&'static dyn Database, &'static dyn Server),
    /// A store that is known by name.
    Store(&'static stores::Store),
    /// Anything else that writes.
    Program,
}

impl Keeper {
    /// Returns its database, if it is one that can be asked.
    pub(super) fn database(self) -> Option<&'static dyn Database> {
        match self {
            Self::Database(database, _) => Some(database),
            Self::Store(_) | Self::Program => None,
        }
    }

    /// Returns its server, if it is one that can be asked.
    pub(super) fn server(self) -> Option<&'static dyn Server> {
        match self {
            Self::Database(_, server) => Some(server),
            Self::Store(_) | Self::Program => None,
        }
    }

    /// Returns whether it is a store of any kind: what it keeps is nowhere else.
    pub(super) fn is_store(self) -> bool {
        !matches!(self, Self::Program)
    }
}

/// Data that a container keeps.
#[derive(Debug)]
pub(super) struct Kept<'w> {
    pub(super) keeper: Keeper,
    pub(super) data: DatabaseData<'w>,
    /// Whether this is the first data of its container: what is to say of the container is said with it.
    pub(super) speaks_for_container: bool,
}

/// Returns what the chosen containers keep, databases first.
pub(super) fn kept<'w>(
    world: &'w EngineInventory,
    is_chosen: impl Fn(&Container) -> bool,
    is_local: bool,
) -> Vec<Kept<'w>> {
    let mut all = Vec::new();
    let examined = world.containers.iter().filter(|one| OtherRun::of(one).is_none() && is_chosen(one));
    for container in examined {
        match selector::database_data(container, world).zip(of_database(container)) {
            Some((data, keeper)) => {
                let directory = data.directory.clone();
                all.push(Kept { keeper, data, speaks_for_container: false });
                let besides = mounts(container, world).filter(|mount| is_beside(mount, &directory));
                all.extend(besides.map(|mount| of_mount(container, mount, Keeper::Program)));
            }
            None if is_ignored(container) => {}
            None => all.extend(of_others(container, world)),
        }
    }
    all.retain_mut(|one| !is_local || look(one, world) == Look::Something);
    // Whoever is most likely to own what several have mounted comes first.
    all.sort_by_key(|one| {
        let rank = match one.keeper {
            Keeper::Database(..) => 0,
            Keeper::Store(_) => 1,
            Keeper::Program => 2,
        };
        (rank, !one.data.container.state.running)
    });
    let (mut places, mut spoken) = (Vec::new(), BTreeSet::new());
    let is_new = |one: &Kept<'_>, places: &mut Vec<Place>| {
        let place = one.data.mount.and_then(|mount| Place::of_mount(mount, &world.volumes));
        let known = place.as_ref().is_some_and(|place| places.iter().any(|known| known.overlaps(place)));
        places.extend(place);
        // Two servers may have their data in one volume.
        !known || one.keeper.server().is_some()
    };
    all.retain(|one| is_new(one, &mut places));
    for one in &mut all {
        one.speaks_for_container = spoken.insert(one.data.container.id.clone());
    }
    all
}

fn of_database(container: &Container) -> Option<Keeper> {
    let database = database::of(container)?;
    Some(Keeper::Database(database, database.server()?))
}

/// Returns what a container keeps that runs no database that can be asked.
fn of_others<'w>(container: &'w Container, world: &'w EngineInventory) -> Vec<Kept<'w>> {
    let Some(store) = stores::of(container) else {
        return mounts(container, world).map(|mount| of_mount(container, mount, Keeper::Program)).collect();
    };
    let keeper = Keeper::Store(store);
    let innermost = |directory: &Path| {
        let contains = |mount: &&Mount| directory.starts_with(&mount.destination);
        let depth = |mount: &&Mount| mount.destination.components().count();
        container.mounts.iter().filter(contains).max_by_key(depth)
    };
    let usual = store.directories().find_map(|directory| Some((directory, innermost(directory)?)));
    let mut kept: Vec<_> = mounts(container, world).map(|mount| of_mount(container, mount, keeper)).collect();
    match (usual, store.directories().next()) {
        // Memory is no place to write data to, so it is not among these.
        (Some((directory, mount)), _) if is_memory(mount) => {
            kept.insert(0, of_directory(container, directory, Some(mount), keeper));
        }
        (None, Some(directory)) if kept.is_empty() => {
            kept.push(of_directory(container, directory, None, keeper));
        }
        _ => {}
    }
    kept
}

fn is_memory(mount: &Mount) -> bool {
    matches!(mount.kind, MountKind::Tmpfs | MountKind::Other)
}

/// Returns the volumes and directories that a container writes, but for what has the engine's volumes below it: an
/// agent that mounts that keeps no data there.
fn mounts<'w>(container: &'w Container, world: &'w EngineInventory) -> impl Iterator<Item = &'w Mount> {
    let is_above = |mount: &Mount| {
        let mut volumes = world.volumes.iter().filter(|volume| !volume.mountpoint.as_os_str().is_empty());
        mount.kind == MountKind::Bind && volumes.any(|volume| volume.mountpoint.starts_with(&mount.source))
    };
    selector::writable(container).filter(move |mount| !is_memory(mount) && !is_above(mount))
}

/// Returns whether a mount has nothing to do with a data directory.
fn is_beside(mount: &Mount, directory: &Path) -> bool {
    !directory.starts_with(&mount.destination) && !mount.destination.starts_with(directory)
}

fn is_ignored(container: &Container) -> bool {
    container.labels.get(LABEL_IGNORE).is_some_and(|value| value == "true")
}

fn of_mount<'w>(container: &'w Container, mount: &'w Mount, keeper: Keeper) -> Kept<'w> {
    of_directory(container, &mount.destination, Some(mount), keeper)
}

fn of_directory<'w>(
    container: &'w Container,
    directory: &Path,
    mount: Option<&'w Mount>,
    keeper: Keeper,
) -> Kept<'w> {
    let data = DatabaseData { container, directory: directory.to_owned(), mount };
    Kept { keeper, data, speaks_for_container: false }
}

/// What a look at data showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// There is something, or it could not be seen.
    Something,
    /// There is nothing, and nobody who would write it later.
    Nothing,
}

/// Looks at data on this machine: whose files there are, and whether there are any.
fn look(one: &mut Kept<'_>, world: &EngineInventory) -> Look {
    let place = one.data.mount.and_then(|mount| Place::of_mount(mount, &world.volumes));
    let Some(place) = place.filter(|_| !one.keeper.is_store()) else { return Look::Something };
    // What is not ours to see may have anything.
    let Some(names) = place.paths().iter().map(|path| first_names(path)).collect::<Option<Vec<_>>>() else {
        return Look::Something;
    };
    let mut names = names.concat();
    if names.is_empty() && !place.paths().is_empty() {
        return Look::Nothing;
    }
    let store = names.drain(..).find_map(|path| stores::of_file(&path));
    one.keeper = store.map_or(one.keeper, Keeper::Store);
    Look::Something
}

/// Returns the first names in a directory and below it, the nearest first; `None` if it cannot be read.
fn first_names(directory: &Path) -> Option<Vec<PathBuf>> {
    let mut names = Vec::new();
    let mut directories = VecDeque::from([directory.to_owned()]);
    std::fs::read_dir(directory).ok()?;
    while let Some(directory) = directories.pop_front().filter(|_| names.len() < NAMES) {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push_back(entry.path());
            }
            names.push(entry.path());
            if names.len() >= NAMES {
                break;
            }
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Returns who keeps a directory that has these files, mounted by a container of an image that says nothing.
    fn keeper_of(files: &[(&str, &[u8])]) -> Keeper {
        let directory = TempDir::new().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let mount = Mount {
            kind: MountKind::Bind,
            source: directory.path().to_owned(),
            destination: "/data".into(),
            ..Mount::default()
        };
        let container = Container {
            id: "1".to_owned(),
            name: "broker".to_owned(),
            image: "own/image:1".to_owned(),
            command: vec!["/start".to_owned()],
            mounts: vec![mount],
            ..Container::default()
        };
        let world = EngineInventory {
            containers: vec![container],
            volumes: Vec::new(),
            directory: "/".into(),
            compose_project: None,
            directory_project: None,
            projects_below: Vec::new(),
            data_directories: Default::default(),
            open_files: Default::default(),
            bystanders: Default::default(),
            real_directories: Default::default(),
            typed: String::new(),
            command: Vec::new(),
        };
        let kept = kept(&world, |_| true, true);
        let [one] = &kept[..] else { panic!("{kept:?}") };
        one.keeper
    }

    #[test]
    fn a_store_is_known_by_its_files_whatever_starts_it() {
        let name = |files: &[(&str, &[u8])]| match keeper_of(files) {
            Keeper::Store(store) => store.name,
            Keeper::Program => "program",
            Keeper::Database(..) => "database",
        };
        assert_eq!(name(&[("log", b""), ("state/mosquitto.db", b"\0\0")]), "Mosquitto");
        assert_eq!(name(&[("ibdata1", b"")]), "MariaDB or MySQL");
        assert_eq!(name(&[("deep/er/dump.rdb", b"")]), "Redis or Valkey");
        assert_eq!(name(&[("app.db", b"SQLite format 3\0\x10")]), "SQLite");
        assert_eq!(name(&[("app.db", b"mosquitto")]), "program");
    }
}
