//! Which of a container's mounts holds its data.

use std::path::{Path, PathBuf};

use super::Target;
use super::names::describe;
use crate::database::{self, Server};
use crate::model::container::{Container, Mount, MountKind};
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::location::normalize;
use crate::model::orchestrator::Orchestrator;
use crate::model::quote::{printable, shell_quote};
use crate::selector::EngineInventory;
use crate::selector::memory::in_memory;
use crate::selector::place::Place;

/// Finds the server that a container runs.
pub(super) type ServerOf = fn(&Container) -> Option<&'static dyn Server>;

/// Where a container keeps its database.
#[derive(Debug)]
pub struct DatabaseData<'w> {
    /// The container.
    pub container: &'w Container,
    /// The data directory inside the container.
    pub directory: PathBuf,
    /// The innermost mount that contains it.
    pub mount: Option<&'w Mount>,
}

/// Returns where a container's database keeps its data, from its configuration or its own words; `None` if
/// the container runs no known database.
#[must_use]
pub fn database_data<'w>(container: &'w Container, world: &EngineInventory) -> Option<DatabaseData<'w>> {
    DatabaseData::of(container, world, database::server_of)
}

impl<'w> DatabaseData<'w> {
    /// Returns where the container's database keeps its data; `None` when it runs no database that
    /// is known, or one whose data directory is not.
    pub(super) fn of(container: &'w Container, world: &EngineInventory, server_of: ServerOf) -> Option<Self> {
        let server = server_of(container)?;
        let said = world.data_directories.get(&container.id).cloned();
        let directory = normalize(&said.or_else(|| server.data_directory(container))?);
        let contains = |mount: &&Mount| directory.starts_with(&mount.destination);
        let depth = |mount: &&Mount| mount.destination.components().count();
        let mount = container.mounts.iter().filter(contains).max_by_key(depth);
        Some(Self { container, directory, mount })
    }

    /// Returns the volume or directory that holds the data.
    ///
    /// # Errors
    /// When the data is in nothing that outlives the container.
    pub fn location(&self) -> Result<MountSource> {
        let (name, directory) = (printable(&self.container.name), shown(&self.directory));
        match self.mount {
            None if in_memory(&self.directory, None, &[]).is_none() => Err(Error::failed(format!(
                "the data of container {name} lies in the container's own layer: nothing is mounted at \
                 {directory}, so the data goes when the container is removed"
            ))
            .hint(rescue(self.container, &self.directory))),
            mount => mount.and_then(location_of).ok_or_else(|| {
                let at = mount.map_or(directory, |mount| shown(&mount.destination));
                Error::failed(format!(
                    "the data of container {name} lies in memory ({at}), and goes when the container stops"
                ))
                .with_hints(self.out_of_memory())
            }),
        }
    }

    /// Returns what saves data in memory: only the database itself can hand it out, while it runs.
    #[must_use]
    pub fn out_of_memory(&self) -> Vec<Hint> {
        let database = database::of(self.container).filter(|_| self.container.state.running);
        let dump = database.and_then(|database| database.advice().dump(self.container));
        vec![dump.unwrap_or_else(|| {
            Hint::advice(format!(
                "have {} write a dump of its data elsewhere while it runs, and put {} on a volume",
                printable(&self.container.name),
                shown(&self.directory)
            ))
        })]
    }

    /// Returns where the data directory is on the engine's host.
    pub(super) fn place(&self, world: &EngineInventory) -> Option<Place> {
        let mount = self.mount?;
        let below = self.directory.strip_prefix(&mount.destination).ok()?;
        Some(Place::of_mount(mount, &world.volumes)?.join(below))
    }

    /// Refuses data of which a part lies in another mount (a tablespace, say): the source alone
    /// would not be a database. Single files, as a configuration, are no part of it.
    pub(super) fn refuse_split(&self, location: &MountSource) -> Result<()> {
        let is_part = |mount: &&Mount| {
            mount.destination != self.directory
                && mount.destination.starts_with(&self.directory)
                && !is_single_file(mount)
        };
        let Some(part) = self.container.mounts.iter().find(is_part) else { return Ok(()) };
        let other = location_of(part).map_or_else(|| "memory".to_owned(), |part| describe(&part));
        Err(Error::failed(format!(
            "{} holds only a part of the data of container {}: {} lies in {other}",
            describe(location),
            printable(&self.container.name),
            shown(&part.destination)
        ))
        .hint(Hint::mounts(&self.container.name)))
    }
}

/// Returns the command that copies data out of a container's own layer. The container has to stop for it, or to freeze
/// where a stop takes the container away, and its layer with it.
fn rescue(container: &Container, directory: &Path) -> Hint {
    let name = shell_quote(&container.name);
    let from = shell_quote(&format!("{}:{}", container.name, directory.display()));
    let copy = format!("docker cp --archive {from} ./rescued-data");
    let state = &container.state;
    if state.running && !state.paused && (container.auto_remove || Orchestrator::of(container).is_some()) {
        Hint::shell(format!("docker pause {name} && {copy}; docker unpause {name}"))
            .why("what is copied recovers as after a power cut")
    } else if state.running && !state.paused {
        // Start again, whether or not the copy worked.
        Hint::shell(format!("docker stop -t 600 {name} && {copy}; docker start {name}"))
    } else {
        Hint::shell(copy)
    }
}

/// Returns the volume or directory in which a container of no known database keeps its data: the only
/// one to which it can write.
///
/// # Errors
/// When there is none, or several.
pub(super) fn only_writable(container: &Container, world: &EngineInventory) -> Result<MountSource> {
    let mut locations: Vec<_> = writable(container).filter_map(location_of).collect();
    locations.sort_by_key(|location| target_of(location).spelling());
    locations.dedup();
    let name = printable(&container.name);
    match locations.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::failed(format!(
            "there is nothing to capture of container {name}: no volume and no directory that it writes to is mounted in it"
        ))
        .hint(Hint::mounts(&container.name))),
        several => {
            let targets: Vec<_> = several.iter().map(target_of).collect();
            let names: Vec<_> = targets.iter().map(ToString::to_string).collect();
            let commands: Vec<_> = targets.iter().map(|target| world.command_for(target)).collect();
            let message = format!("container {name} writes to several places, name one: {}", names.join(", "));
            Err(Error::usage(message).with_hints(commands))
        }
    }
}

/// Returns the mounts of a container that it can write data to: no single files, and nothing of the host's system.
pub fn writable(container: &Container) -> impl Iterator<Item = &Mount> {
    let is_data = |mount: &&Mount| !mount.read_only && !is_single_file(mount) && !is_of_the_system(mount);
    container.mounts.iter().filter(is_data)
}

/// Returns the target that names a volume or directory and nothing else.
pub(super) fn target_of(location: &MountSource) -> Target {
    match location {
        MountSource::Volume(name) => Target::Volume(name.clone()),
        MountSource::Directory(path) => Target::Directory(path.clone()),
    }
}

/// Returns the volume or directory behind a mount; `None` for memory and the like.
#[must_use]
pub fn location_of(mount: &Mount) -> Option<MountSource> {
    match mount.kind {
        MountKind::Volume => mount.volume.clone().map(MountSource::Volume),
        MountKind::Bind => Some(MountSource::Directory(normalize(&mount.source))),
        MountKind::Tmpfs | MountKind::Other => None,
    }
}

/// Returns whether the location is a volume without a name.
#[must_use]
pub fn is_anonymous(location: &MountSource) -> bool {
    let MountSource::Volume(name) = location else { return false };
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Returns whether the name of a bind mount is that of a file or a socket: the host may be another
/// machine, so there is nothing else to look at.
fn is_single_file(mount: &Mount) -> bool {
    const SUFFIXES: [&str; 25] = [
        "sock",
        "conf",
        "cnf",
        "cfg",
        "ini",
        "env",
        "yml",
        "yaml",
        "json",
        "toml",
        "xml",
        "properties",
        "sh",
        "sql",
        "py",
        "js",
        "txt",
        "pem",
        "crt",
        "cert",
        "key",
        "pass",
        "passwd",
        "gz",
        "pid",
    ];
    let has_suffix = |path: &Path| {
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix.to_ascii_lowercase().as_str()))
    };
    // A directory may be called `x.conf`; if the destination agrees, it is a file.
    mount.kind == MountKind::Bind && has_suffix(&mount.source) && has_suffix(&mount.destination)
}

/// Returns whether a mount is a piece of the host's system, not of anybody's data.
pub(super) fn is_of_the_system(mount: &Mount) -> bool {
    const FILES: [&str; 8] =
        ["hostname", "hosts", "localtime", "machine-id", "passwd", "group", "resolv.conf", "timezone"];
    let source = &mount.source;
    let in_etc = FILES.iter().any(|file| *source == Path::new("/etc").join(file));
    let below = ["/proc", "/sys", "/dev", "/run", "/var/run", "/tmp/.X11-unix"];
    mount.kind == MountKind::Bind
        && (source == Path::new("/") || in_etc || below.iter().any(|system| source.starts_with(system)))
}
