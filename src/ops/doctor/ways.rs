//! Which commands may be recommended: those that volsnap would carry out as things are now.
//!
//! Each is tried with the checks that the command itself makes before it touches anything, as far as they need no
//! helper. Where it would be refused, what the refusal advises is recommended instead.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::free_directory;
use super::kept::Kept;
use super::rules::{directory_for, target_of};
use crate::compose::environment::Environment;
use crate::compose::files::NamedFiles;
use crate::model::container::{Container, EngineInfo};
use crate::model::error::{Error, Result};
use crate::model::facts::FactsLevel;
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::source::Source;
use crate::ops::Context;
use crate::ops::hold::HoldPlan;
use crate::ops::migrate::{Destination, MigrateOptions, Rehearsal};
use crate::ops::orchestrated::Purpose;
use crate::ops::preconditions::{refuse_podman, refuse_what_cannot_be_frozen, refuse_what_cannot_be_stopped};
use crate::ops::recreation::{Recreation, refuse_other_volume};
use crate::selector::{self, EngineInventory, Target};

/// For how long a snapshot may freeze what cannot be stopped, where nobody says otherwise.
const FREEZE: Duration = Duration::from_secs(30);

/// What can be done about data now.
#[derive(Debug, Clone, Default)]
pub(super) struct Ways {
    /// The target that means this data and nothing else, for a shell.
    pub(super) target: String,
    /// What takes a snapshot, or leads to one.
    pub(super) snapshot: Vec<Hint>,
    /// A directory that the data could be migrated into, if there is one.
    pub(super) migrate_to: Option<PathBuf>,
    /// Whether the data can be migrated there.
    pub(super) migrate: Trial,
    /// Whether its containers can be made anew by a restart.
    pub(super) recreate: Trial,
}

/// What came of trying a command without its effects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Trial {
    /// volsnap would carry it out.
    Open,
    /// It is no command for this data.
    #[default]
    Closed,
    /// It would be refused: why, and what mends that.
    Refused(Vec<Hint>),
}

impl Trial {
    /// Returns what came of a command, called so: "a migration".
    fn of(command: &str, outcome: Result<()>) -> Self {
        let Err(error) = outcome else { return Self::Open };
        let why = Hint::advice(format!("{command} is refused as things are: {}", error.chain()));
        let mends = error.hints().iter().filter(|hint| is_usable(hint)).cloned();
        Self::Refused(std::iter::once(why).chain(mends).collect())
    }

    /// Returns why it would be refused, and what mends that.
    pub(super) fn refusal(&self) -> &[Hint] {
        match self {
            Self::Refused(hints) => hints,
            Self::Open | Self::Closed => &[],
        }
    }
}

/// The world that commands are tried in.
pub(super) struct Trials<'w> {
    pub(super) context: &'w Context,
    pub(super) world: &'w EngineInventory,
    pub(super) engine: &'w EngineInfo,
    /// The variables of whoever asks; compose files may refer to them.
    pub(super) environment: &'w Environment,
}

impl Trials<'_> {
    /// Finds out what can be done about data.
    pub(super) async fn ways(&self, kept: &Kept<'_>) -> Ways {
        let container = kept.data.container;
        let location = match kept.data.location() {
            Ok(location) => location,
            Err(error) => {
                return Ways {
                    target: target_of(container).spelling(),
                    snapshot: usable(&error),
                    ..Ways::default()
                };
            }
        };
        let typed = Target::at(&location);
        let (target, source) = match named(container, &location, self.world) {
            Ok(found) => found,
            Err(error) => {
                return Ways { target: typed.spelling(), snapshot: usable(&error), ..Ways::default() };
            }
        };
        // Only on the engine's own machine can we find a directory to migrate into.
        let migrate_to = directory_for(container).filter(|_| self.engine.local);
        let migrate_to = migrate_to.and_then(|named| free_directory(&named));
        let is_whole = source.location == location && !source.shares_its_volume();
        let way = Way { trials: self, source: &source, target: &target };
        let migrate = match migrate_to.as_ref().filter(|_| is_whole) {
            Some(directory) => way.migrate(directory).await,
            None => Trial::Closed,
        };
        Ways {
            snapshot: way.snapshot().await,
            recreate: way.recreate().await,
            migrate,
            migrate_to,
            target: target.spelling(),
        }
    }

    /// Returns what takes a snapshot of a volume that no container uses, or leads to one.
    pub(super) async fn snapshot_of(&self, volume: &str) -> Vec<Hint> {
        let target = Target::Volume(volume.to_owned());
        match selector::resolve(&target, self.world) {
            Ok(source) => Way { trials: self, source: &source, target: &target }.snapshot().await,
            Err(error) => usable(&error),
        }
    }

    /// Tries to take a service's data back into the volume of that name, or into the one that it came from.
    pub(super) async fn back(&self, service: &Container, volume: Option<String>) -> Trial {
        let target = target_of(service);
        match selector::resolve(&target, self.world) {
            Ok(source) => {
                let way = Way { trials: self, source: &source, target: &target };
                let options = way.migration(Destination::Back { volume });
                Trial::of("the way back into a volume", way.rehearsal(&options).perform().await)
            }
            Err(error) => Trial::of("the way back into a volume", Err(error)),
        }
    }
}

/// Returns the target that means a volume or directory, the shortest to say first: its service, its container, itself.
fn named(container: &Container, location: &MountSource, world: &EngineInventory) -> Result<(Target, Source)> {
    for target in [target_of(container), Target::Container(container.name.clone())] {
        if let Ok(source) = selector::resolve(&target, world)
            && (source.location == *location || source.database().is_some_and(|own| own.id == container.id))
        {
            return Ok((target, source));
        }
    }
    let target = Target::at(location);
    selector::resolve(&target, world).map(|source| (target, source))
}

/// Returns whether a hint means the same wherever it is printed.
fn is_usable(hint: &Hint) -> bool {
    !matches!(hint, Hint::Again { otherwise, .. } if otherwise.is_empty())
}

/// Returns those of an error's hints that mean the same wherever they are printed.
fn usable(error: &Error) -> Vec<Hint> {
    let hints: Vec<_> = error.hints().iter().filter(|hint| is_usable(hint)).cloned().collect();
    if hints.is_empty() { vec![Hint::advice(error.to_string())] } else { hints }
}

/// A source, with those who may refuse to act on it.
struct Way<'a> {
    trials: &'a Trials<'a>,
    source: &'a Source,
    /// What means it.
    target: &'a Target,
}

impl Way<'_> {
    async fn snapshot(&self) -> Vec<Hint> {
        let spelling = self.target.spelling();
        let target = spelling.as_str();
        let stopping = match self.stops(Purpose::Snapshot).await {
            Ok(()) => return vec![Hint::volsnap(["snapshot", target])],
            Err(error) => error,
        };
        if self.freezes().await.is_ok() {
            let freezing = Hint::volsnap(["snapshot", target, "--quiesce", "pause"]);
            return vec![freezing.why("freezes it for a moment, since it cannot be stopped")];
        }
        usable(&stopping)
    }

    /// Refuses what could not be stopped and brought back.
    async fn stops(&self, purpose: Purpose) -> Result<()> {
        if !self.source.users.is_empty() {
            refuse_podman(self.trials.engine, self.source, Vec::new)?;
        }
        self.trials.context.refuse_orchestrated(self.source, purpose).await?;
        self.held().try_for_each(refuse_what_cannot_be_stopped)?;
        self.trials.context.refuse_in_memory(self.source, purpose).await?;
        self.trials.context.refuse_stranded(self.source).await
    }

    async fn freezes(&self) -> Result<()> {
        self.trials.context.refuse_orchestrated(self.source, Purpose::Freeze(FREEZE)).await?;
        self.held().try_for_each(refuse_what_cannot_be_frozen)
    }

    /// Tries to migrate it into a directory. What no file has a part in leaves it to a snapshot.
    async fn migrate(&self, directory: &Path) -> Trial {
        let options = self.migration(Destination::Directory(directory.to_owned()));
        let rehearsal = self.rehearsal(&options);
        match rehearsal.begin().await {
            Ok(begun) => Trial::of("a migration into a directory", rehearsal.end(&begun).await),
            Err(_) => Trial::Closed,
        }
    }

    fn migration(&self, destination: Destination) -> MigrateOptions {
        MigrateOptions {
            target: self.target.clone(),
            destination,
            override_file: false,
            owner: None,
            level: FactsLevel::Quick,
            stop_timeout: None,
            kills: Vec::new(),
            environment: self.trials.environment.clone(),
            helper_image: None,
        }
    }

    fn rehearsal<'a>(&'a self, options: &'a MigrateOptions) -> Rehearsal<'a> {
        let Trials { context, engine, .. } = *self.trials;
        Rehearsal { context, options, engine, source: self.source, is_trial: true }
    }

    /// Tries to have Compose make its containers anew.
    async fn recreate(&self) -> Trial {
        let containers: Vec<Container> = self.held().cloned().collect();
        let is_compose = containers.iter().all(|one| NamedFiles::of(&one.labels).is_ok());
        if containers.is_empty()
            || !is_compose
            || !self.trials.context.recreates_on(self.trials.engine).await
            || self.stops(Purpose::Restart).await.is_err()
        {
            return Trial::Closed;
        }
        let hold = HoldPlan { containers: containers.clone(), ..HoldPlan::default() };
        if !hold.glance(self.trials.context).await.is_ok_and(|hold| hold.refuse_the_deaf().is_ok()) {
            return Trial::Closed;
        }
        Trial::of("`restart --recreate`", self.refuse_recreation(&containers).await)
    }

    async fn refuse_recreation(&self, containers: &[Container]) -> Result<()> {
        let starts: Vec<&Container> = containers.iter().collect();
        let mend = Hint::advice("mend that first");
        let Recreation { recreate, .. } = Recreation::plan(self.trials.context, &starts, &mend).await?;
        refuse_other_volume(self.source, containers, self.target)?;
        let anew: Vec<&Container> = starts.into_iter().filter(|one| recreate.makes(one)).collect();
        self.trials.context.sharers((&anew, containers), "").await.map(drop)
    }

    fn held(&self) -> impl Iterator<Item = &Container> {
        self.source.users.iter().filter(|user| user.is_to_be_held()).map(|user| &user.container)
    }
}
