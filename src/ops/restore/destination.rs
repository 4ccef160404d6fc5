//! What a restore goes into: where the snapshot came from, even if that has moved since, or what the user names.

use std::path::{Path, PathBuf};

use super::{Archive, Destination, RestoreRun};
use crate::compose::Membership;
use crate::model::container::{Container, EngineInfo, MountKind};
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::model::source::{Source, key_of};
use crate::ops::migrate::record::{Migration, Migrations};
use crate::selector::Target;
use crate::selector::inventory::inventory;

/// Where the data of a volume is now.
struct Moved {
    directory: PathBuf,
    /// What is remembered of its migration.
    record: Option<Migration>,
    /// Whether that is of this very engine, or a container of it has the directory.
    is_certain: bool,
}

impl RestoreRun<'_> {
    /// Returns what is restored into, as it is now.
    pub(super) async fn destination(&self, engine: &EngineInfo) -> Result<Source> {
        match &self.options.destination {
            Destination::Target(target) => {
                let command = self.command_to();
                let command = command.each_ref().map(String::as_str);
                let source = self.run.context.resolve_for(&command, target).await?;
                self.refuse_left_over(engine, &source).await?;
                Ok(source)
            }
            Destination::Origin => self.origin(engine).await,
            Destination::NewVolume(name) => {
                let found = self.run.context.docker.volume(name).await;
                if found.context(|| format!("look for volume {name}"))?.is_some() {
                    return Err(Error::usage(format!("there is a volume {name} already")).hint(
                        Hint::instead(&["--new-volume="], ["--to".to_owned(), format!("volume:{name}")])
                            .why("replaces what is in it"),
                    ));
                }
                let new = unused(MountSource::Volume(name.clone()), format!("the new volume {name}"));
                Ok(Source { warnings: self.warn_of_options(name), ..new })
            }
            Destination::Directory(path) => self.directory(path, engine).await,
        }
    }

    /// Returns the source that the snapshot was made of, as it is now: where its data was migrated, if it was.
    async fn origin(&self, engine: &EngineInfo) -> Result<Source> {
        let Some(snapshot) = self.options.archive.snapshot() else {
            return Err(Error::usage("an archive of another tool does not say where it came from")
                .hint(Hint::again(["--to", "TARGET"]))
                .or(Hint::again(["--new-volume", "NAME"]))
                .or(Hint::again(["--dir", "DIR"])));
        };
        let command = self.command_to();
        let command = command.each_ref().map(String::as_str);
        let location = snapshot.manifest.location();
        let found = self.run.context.resolve_for(&command, &Target::at(location)).await;
        let MountSource::Volume(name) = location else { return found };
        match self.moved_to(engine, name, found.as_ref().ok()).await? {
            Some(Moved { directory, record: Some(_), is_certain: true }) => {
                let mut source =
                    self.run.context.resolve_for(&command, &Target::Directory(directory.clone())).await?;
                source.warnings.push(format!(
                    "the data of volume {name} was migrated into {}, and is restored there",
                    directory.display()
                ));
                Ok(source)
            }
            Some(moved) => Err(self.left_over(name, &moved)),
            None => found.map_err(|error| {
                error
                    .hint(Hint::again(["--new-volume", name]).why("makes it, as Compose would"))
                    .or(Hint::again(["--to", "TARGET"]))
            }),
        }
    }

    /// Refuses a volume whose data was migrated: the service would not see what is restored there.
    async fn refuse_left_over(&self, engine: &EngineInfo, source: &Source) -> Result<()> {
        let MountSource::Volume(name) = &source.location else { return Ok(()) };
        match self.moved_to(engine, name, Some(source)).await? {
            Some(moved) => Err(self.left_over(name, &moved)),
            None => Ok(()),
        }
    }

    /// Returns where the data of a volume is now, if it was migrated and the volume is not in use again. The record of
    /// the migration says so, or the service that the snapshot is of; that a container merely mounts the volume means
    /// nothing, but a database that has its data there does.
    async fn moved_to(
        &self,
        engine: &EngineInfo,
        name: &str,
        volume: Option<&Source>,
    ) -> Result<Option<Moved>> {
        let is_database = self.options.archive.snapshot().is_none_or(|snapshot| {
            snapshot.manifest.evidence.database.is_some()
                || snapshot.manifest.environment.data_directory.is_some()
        });
        // Without a database, whoever can write there and runs is the service.
        let serves = volume.is_some_and(|volume| match is_database {
            true => volume.database().is_some(),
            false => volume.running_users().any(|user| user.writes && !user.from_above),
        });
        let remembered = match Migrations::out_of(&self.run.context.saga.state, name) {
            // What only a later volsnap understands need not concern a volume that is in use.
            Err(_) if serves => Vec::new(),
            remembered => remembered?,
        };
        let world = self.run.context.world().await?;
        let is_used = |migration: &Migration| {
            let directory = MountSource::Directory(migration.directory.clone());
            inventory(&directory, &world).users.iter().any(|user| !user.from_above)
        };
        let mut remembered = remembered.into_iter().peekable();
        let last = remembered.peek().cloned();
        if let Some(record) = remembered.find(is_used) {
            let directory = record.directory.clone();
            return Ok(Some(Moved { directory, record: Some(record), is_certain: true }));
        }
        if serves {
            return Ok(None);
        }
        let by_record = last.map(|record| Moved {
            directory: record.directory.clone(),
            is_certain: record.engine == engine.id,
            record: Some(record),
        });
        let by_service = || {
            let directory = self.used_instead(name, &world.containers)?;
            Some(Moved { directory, record: None, is_certain: false })
        };
        Ok(by_record.or_else(by_service))
    }

    fn left_over(&self, name: &str, moved: &Moved) -> Error {
        let forget = moved.record.as_ref().map(|record| {
            let file = record.file(&self.run.context.saga.state);
            Hint::shell(format!("rm {}", shell_quote(&file.to_string_lossy())))
                .why("forgets the migration, where the service is to use the volume again")
        });
        Error::failed(format!(
            "the data of volume {name} was migrated into {}, and its service would not see what is restored into the \
             volume",
            moved.directory.display()
        ))
        .with_hints(self.instead(&moved.directory).into_iter().chain(forget))
    }

    /// Returns the directory that the service of the snapshot has instead of a volume that serves nobody. That is the
    /// state after a migration that is not remembered here.
    fn used_instead(&self, name: &str, containers: &[Container]) -> Option<PathBuf> {
        let manifest = &self.options.archive.snapshot()?.manifest;
        if *manifest.location() != MountSource::Volume(name.to_owned()) {
            return None;
        }
        let (at, service) = (manifest.mounted_at()?, Membership::of(&manifest.environment.labels)?);
        let is_it = |container: &&Container| {
            Membership::of(&container.labels)
                .is_some_and(|member| (member.project, member.service) == (service.project, service.service))
        };
        let mut mounts = containers.iter().filter(is_it).flat_map(|container| &container.mounts);
        let mount = mounts.find(|mount| mount.destination == at && mount.kind == MountKind::Bind)?;
        Some(mount.source.clone())
    }

    /// Returns what to type instead of a restore into a volume whose data has moved.
    fn instead(&self, directory: &Path) -> [Hint; 2] {
        let directory = Target::Directory(directory.to_owned()).spelling();
        let restore = || Hint::volsnap(["restore", &self.options.archive.name()]);
        [
            restore().and(["--to", &directory]).why("where the data is now"),
            restore().and(["--new-volume", "NAME"]).why("a volume that no service uses"),
        ]
    }

    /// Returns the command that a target completes.
    fn command_to(&self) -> [String; 3] {
        ["restore".to_owned(), self.options.archive.name(), "--to".to_owned()]
    }

    async fn directory(&self, path: &Path, engine: &EngineInfo) -> Result<Source> {
        if !engine.local && self.run.context.own.is_none() {
            return Err(Error::usage(
                "the engine is on another machine, whose directories are not reached from here",
            )
            .hint(Hint::instead(&["--dir="], ["--to", "path:DIR"]).why("a directory of that machine")));
        }
        let path = std::path::absolute(path).context(|| format!("find {}", path.display()))?;
        let path = path.canonicalize().unwrap_or(path);
        match path.symlink_metadata() {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(Error::usage(format!("{} is not a directory", path.display())).hint(
                    Hint::instead(&["--dir="], ["--dir", "DIR"]).why("one that is empty, or not there yet"),
                ));
            }
            Ok(_) => {
                let mut entries = std::fs::read_dir(&path).context(|| format!("read {}", path.display()))?;
                if entries.next().is_some() {
                    return Err(Error::usage(format!("{} is not empty", path.display())).hint(
                        Hint::instead(&["--dir="], ["--to".to_owned(), format!("path:{}", path.display())])
                            .why("replaces what is in it"),
                    ));
                }
            }
            Err(_) => {}
        }
        let location = MountSource::Directory(self.run.context.host_path_to_make(&path)?);
        let world = self.run.context.world().await?;
        let inventory = inventory(&location, &world);
        if let Some(user) = inventory.users.iter().find(|user| user.container.state.running) {
            return Err(Error::usage(format!(
                "{} is used by container {}",
                path.display(),
                user.container.name
            ))
            .hint(Hint::instead(&["--dir="], ["--to".to_owned(), format!("path:{}", path.display())])));
        }
        Ok(unused(location, path.display().to_string()))
    }

    /// Refuses an archive that is inside what it would replace.
    pub(super) fn refuse_archive_inside(&self, source: &Source, engine: &EngineInfo) -> Result<()> {
        let archive = self.options.archive.path();
        let archive = archive.canonicalize().unwrap_or(archive);
        let target = source.host_path.canonicalize().unwrap_or_else(|_| source.host_path.clone());
        // A directory would be copied into itself.
        let is_directory = matches!(self.options.archive, Archive::Directory(_));
        let is_inside = self.run.context.host_path(engine, &archive).is_some_and(|archive| {
            archive.starts_with(&target) || is_directory && target.starts_with(&archive)
        });
        if !target.as_os_str().is_empty() && is_inside {
            return Err(Error::usage(format!(
                "the archive {} lies in what it is to replace",
                archive.display()
            ))
            .hint(Hint::advice("copy it elsewhere first")));
        }
        Ok(())
    }
}

/// Returns a source that nobody uses.
fn unused(location: MountSource, title: String) -> Source {
    Source {
        key: key_of(&location),
        host_path: match &location {
            MountSource::Directory(path) => path.clone(),
            MountSource::Volume(_) => PathBuf::new(),
        },
        location,
        title,
        users: Vec::new(),
        onlookers: Vec::new(),
        database_container: None,
        data_directory: None,
        servers: Vec::new(),
        database_containers: Vec::new(),
        held_by: None,
        warnings: Vec::new(),
    }
}
