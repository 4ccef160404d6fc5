//! What a migration is refused for, as far as that can be told without an effect and without a helper. A migration asks
//! this first, and whoever would advise one asks it, too.

use std::path::PathBuf;

use super::files::Switch;
use super::record::{Migration, Migrations};
use super::{Destination, MigrateOptions, place};
use crate::database;
use crate::model::container::{Container, EngineInfo, Mount};
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::source::{Source, User};
use crate::ops::Context;
use crate::ops::helper::busy;
use crate::ops::hold::HoldPlan;
use crate::ops::orchestrated::Purpose;
use crate::ops::preconditions::{refuse_podman, refuse_what_cannot_be_stopped};
use crate::ops::sharers::Sharers;
use crate::selector::inventory::inventory;
use crate::selector::{is_anonymous, location_of};
use crate::service::order;

/// A migration that is only thought through.
pub(in crate::ops) struct Rehearsal<'a> {
    pub(in crate::ops) context: &'a Context,
    pub(in crate::ops) options: &'a MigrateOptions,
    pub(in crate::ops) engine: &'a EngineInfo,
    pub(in crate::ops) source: &'a Source,
    /// Whether nothing may be run in a container, nor waited for: it is only tried.
    pub(in crate::ops) is_trial: bool,
}

/// Who takes part in a migration.
pub(super) struct Cast {
    /// The containers that mount the data, each with the path where it mounts it.
    pub(super) users: Vec<(User, PathBuf)>,
    /// The running users, in the order in which they are stopped, with what is known of how they stop.
    pub(super) hold: HoldPlan,
    /// Who shares something of what is made anew.
    pub(super) sharers: Sharers,
}

/// A rehearsal that has come to the files.
pub(in crate::ops) struct Begun {
    cast: Cast,
    to: MountSource,
}

impl Rehearsal<'_> {
    /// Refuses what the migration would be refused for.
    ///
    /// # Errors
    /// As the migration itself has them.
    pub(in crate::ops) async fn perform(&self) -> Result<()> {
        let begun = self.begin().await?;
        self.end(&begun).await
    }

    /// Refuses what has to do with the data, its containers and the place where it would go.
    pub(in crate::ops) async fn begin(&self) -> Result<Begun> {
        self.refuse_source()?;
        let cast = self.cast("").await?;
        Ok(Begun { cast, to: self.destination().await? })
    }

    /// Refuses what has to do with files.
    pub(in crate::ops) async fn end(&self, begun: &Begun) -> Result<()> {
        self.switch(&begun.cast, &begun.to).await.map(drop)
    }

    /// Refuses data that another run is at work on, or that no migration can take from where it is.
    pub(super) fn refuse_source(&self) -> Result<()> {
        if let Some(other) = &self.source.held_by {
            return Err(busy(self.source, &other.container));
        }
        refuse_podman(self.engine, self.source, || {
            let target = self.options.target.spelling();
            vec![
                Hint::volsnap(["snapshot", &target, "--quiesce", "pause"]),
                Hint::volsnap(["restore", "latest", "--dir", "DIR"]).why("then"),
            ]
        })?;
        if !self.engine.local && self.context.own.is_none() {
            return Err(Error::usage(format!(
                "the engine is on another machine, and the directory for {} has to be made there",
                self.source.title
            ))
            .hint(Hint::advice("run volsnap on the engine's machine")));
        }
        Ok(())
    }

    /// Returns who takes part; `run` is the run that does it.
    ///
    /// # Errors
    /// When one of them could not be stopped, made anew or brought back.
    pub(super) async fn cast(&self, run: &str) -> Result<Cast> {
        self.refuse_location()?;
        self.context.refuse_orchestrated(self.source, Purpose::Migrate).await?;
        self.context.refuse_in_memory(self.source, Purpose::Migrate).await?;
        let users = mounting(self.source)?;
        let containers = stops(self.source)?;
        let kills = self.options.kills.clone();
        let hold = HoldPlan { containers, kills, ..HoldPlan::default() };
        let hold = match self.is_trial {
            true => hold.glance(self.context).await?,
            false => hold.look(self.context).await?,
        };
        hold.refuse_the_deaf()?;
        let anew: Vec<&Container> = users.iter().map(|(user, _)| &user.container).collect();
        let sharers = self.context.sharers((&anew, &hold.containers), run).await?;
        self.context.refuse_stranded(self.source).await?;
        Ok(Cast { users, hold, sharers })
    }

    /// Returns where the data would go, if it may go there.
    async fn destination(&self) -> Result<MountSource> {
        match &self.options.destination {
            Destination::Directory(named) => {
                let store = match &self.source.location {
                    MountSource::Volume(volume) => place::store_of(&self.source.host_path, volume),
                    MountSource::Directory(_) => None,
                };
                let found = place::look(named, &self.context.directory, store.as_deref())?;
                Ok(MountSource::Directory(self.context.host_path_to_make(&found.path)?))
            }
            Destination::Back { volume } => {
                let location = MountSource::Volume(self.volume_back(volume.as_deref())?);
                self.refuse_other_users(&location).await?;
                Ok(location)
            }
        }
    }

    /// Returns what would become of files and containers once the data is in another place.
    pub(super) async fn switch(&self, cast: &Cast, to: &MountSource) -> Result<Switch> {
        // If the record is not to be read, the edit is made like any other.
        let written = self.migration().ok().flatten().map(|migration| migration.edits).unwrap_or_default();
        self.plan_switch(&cast.users, (&self.source.location, to), &written, &cast.sharers).await
    }

    /// Refuses data that is not where such a migration begins.
    fn refuse_location(&self) -> Result<()> {
        let source = self.source;
        let target = self.options.target.spelling();
        match (&self.options.destination, &source.location) {
            (Destination::Directory(_), MountSource::Volume(name)) if is_anonymous(&source.location) => {
                Err(Error::usage(format!(
                    "{} has its data in a volume without a name ({}…), which no compose file mentions",
                    source.title,
                    &name[..name.len().min(12)]
                ))
                .hint(
                    Hint::volsnap(["snapshot", &target])
                        .why("then give it a named volume, and restore into that"),
                ))
            }
            (_, MountSource::Directory(_)) if source.shares_its_volume() => Err(Error::usage(format!(
                "{} is a part of what its container mounts, and a migration moves the whole of a mount",
                source.title
            ))
            .hint(Hint::volsnap(["snapshot", &target]))
            .or(Hint::volsnap(["restore", "latest", "--dir", "DIR"]).why("then"))),
            (Destination::Directory(_), MountSource::Directory(directory)) => Err(Error::usage(format!(
                "{} has its data in a directory already: {}",
                source.title,
                directory.display()
            ))
            .hint(Hint::volsnap(["migrate", &target, "--back"]).why("into a volume"))),
            (Destination::Back { .. }, MountSource::Volume(_)) | (Destination::Directory(_), _) => Ok(()),
            (Destination::Back { .. }, MountSource::Directory(_)) => Ok(()),
        }
    }

    /// Returns the volume that the data goes back into.
    pub(super) fn volume_back(&self, named: Option<&str>) -> Result<String> {
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        let hint =
            || Hint::volsnap(["migrate", &self.options.target.spelling(), "--back", "--volume", "NAME"]);
        let migration = self.migration().map_err(|error| error.hint(hint()))?;
        migration.map(|migration| migration.volume).ok_or_else(|| {
            Error::usage(format!("of what volume {} was migrated is not known here", self.source.title))
                .hint(hint())
        })
    }

    /// Returns what is remembered of how the data came where it is.
    pub(super) fn migration(&self) -> Result<Option<Migration>> {
        let MountSource::Directory(directory) = &self.source.location else { return Ok(None) };
        Migrations::into_directory(&self.context.saga.state, &self.engine.id, directory)
    }

    /// Refuses a volume in which somebody else keeps or may write data.
    pub(super) async fn refuse_other_users(&self, location: &MountSource) -> Result<()> {
        let world = self.context.world().await?;
        let inventory = inventory(location, &world);
        // One that only reads disturbs nothing; one that does not run does not write. But a database comes back.
        let is_database = |user: &User| database::of(&user.container).is_some();
        let disturbs = |user: &&User| (user.container.state.running && user.writes) || is_database(user);
        match inventory.users.iter().find(disturbs) {
            Some(user) if is_database(user) => Err(Error::failed(format!(
                "container {} has a database in the volume that the data is to go back into",
                user.container.name
            ))
            .hint(Hint::mounts(&user.container.name))
            .or(Hint::instead(&["--volume="], ["--volume", "NAME"]).why("another volume"))),
            Some(user) => Err(Error::failed(format!(
                "container {} could write to the volume that the data is to go back into",
                user.container.name
            ))
            .hint(Hint::docker(["stop", &user.container.name]).why("and start it afterwards"))
            .or(Hint::again(["--ignore", &user.container.name]).why("if it does not write there"))),
            None => Ok(()),
        }
    }
}

/// Returns the containers to stop, in the order in which they are stopped.
pub(super) fn stops(source: &Source) -> Result<Vec<Container>> {
    let stays = |user: &&User| user.container.state.running && !user.is_passer_by();
    let users: Vec<_> = source.users.iter().filter(stays).cloned().collect();
    let stops: Vec<Container> = order::stop_order(&users).into_iter().cloned().collect();
    stops.iter().try_for_each(refuse_what_cannot_be_stopped)?;
    Ok(stops)
}

/// Returns the containers that mount the data, each with the path where it mounts it.
fn mounting(source: &Source) -> Result<Vec<(User, PathBuf)>> {
    let mut users = Vec::new();
    for user in source.users.iter().filter(|user| !user.as_sharer && !user.is_passer_by()) {
        let container = &user.container;
        let Some(at) = source.mounted_at(container) else {
            return Err(Error::failed(format!(
                "container {} uses {} through a directory above or below it, and would be left with the old data",
                container.name, source.title
            ))
            .hint(Hint::mounts(&container.name))
            .or(Hint::again(["--ignore", &container.name]).why("leaves it alone, with the old data")));
        };
        let is_same = |mount: &&Mount| location_of(mount).as_ref() == Some(&source.location);
        let mounts = container.mounts.iter().filter(is_same);
        if mounts.count() > 1 {
            return Err(Error::failed(format!(
                "container {} mounts {} at more than one place",
                container.name, source.title
            ))
            .hint(Hint::advice("mount it once, and try again")));
        }
        users.push((user.clone(), at));
    }
    Ok(users)
}
