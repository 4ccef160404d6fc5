//! Which commands may be recommended: those that volsnap would carry out as things are now.
//!
//! Each is tried with the checks that the command itself makes before it touches anything, as far as they need no
//! helper. Where it would be refused, what the refusal advises is recommended instead.

use std::time::Duration;

use super::kept::Kept;
use super::rules::target_of;
use crate::compose::Membership;
use crate::compose::files::NamedFiles;
use crate::model::container::{Container, EngineInfo};
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::source::Source;
use crate::ops::Context;
use crate::ops::hold::HoldPlan;
use crate::ops::orchestrated::Purpose;
use crate::ops::preconditions::{refuse_podman, refuse_what_cannot_be_frozen, refuse_what_cannot_be_stopped};
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
    /// Whether the data can be migrated.
    pub(super) migrates: bool,
    /// Whether its containers can be made anew by a restart.
    pub(super) recreates: bool,
}

impl Ways {
    /// Finds out what can be done about data.
    pub(super) async fn of(
        context: &Context,
        world: &EngineInventory,
        engine: &EngineInfo,
        kept: &Kept<'_>,
    ) -> Self {
        let container = kept.data.container;
        let location = match kept.data.location() {
            Ok(location) => location,
            Err(error) => {
                return Self {
                    target: target_of(container).spelling(),
                    snapshot: usable(&error),
                    ..Self::default()
                };
            }
        };
        let typed = Target::at(&location);
        let (target, source) = match named(container, &location, world) {
            Ok(found) => found,
            Err(error) => {
                return Self { target: typed.spelling(), snapshot: usable(&error), ..Self::default() };
            }
        };
        let target = target.spelling();
        let way = Way { context, engine, source: &source };
        let is_whole = source.location == location && !source.shares_its_volume();
        Self {
            snapshot: way.snapshot(&target).await,
            migrates: is_whole && way.has_its_files() && way.is_open(Purpose::Migrate).await,
            recreates: way.is_compose()
                && context.recreates_on(engine).await
                && way.is_open(Purpose::Restart).await,
            target,
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

/// Returns those of an error's hints that mean the same wherever they are printed.
fn usable(error: &Error) -> Vec<Hint> {
    let depends = |hint: &&Hint| matches!(hint, Hint::Again { otherwise, .. } if otherwise.is_empty());
    let hints: Vec<_> = error.hints().iter().filter(|hint| !depends(hint)).cloned().collect();
    if hints.is_empty() { vec![Hint::advice(error.to_string())] } else { hints }
}

/// A source, with those who may refuse to act on it.
struct Way<'a> {
    context: &'a Context,
    engine: &'a EngineInfo,
    source: &'a Source,
}

impl Way<'_> {
    async fn snapshot(&self, target: &str) -> Vec<Hint> {
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
            refuse_podman(self.engine, self.source, Vec::new)?;
        }
        self.context.refuse_orchestrated(self.source, purpose).await?;
        self.held().try_for_each(refuse_what_cannot_be_stopped)?;
        self.context.refuse_in_memory(self.source, purpose).await?;
        self.context.refuse_stranded(self.source).await
    }

    async fn freezes(&self) -> Result<()> {
        self.context.refuse_orchestrated(self.source, Purpose::Freeze(FREEZE)).await?;
        self.held().try_for_each(refuse_what_cannot_be_frozen)
    }

    /// Returns whether its containers could be replaced, or made anew.
    async fn is_open(&self, purpose: Purpose) -> bool {
        let containers: Vec<_> = self.held().cloned().collect();
        if self.stops(purpose).await.is_err() || (purpose == Purpose::Restart && containers.is_empty()) {
            return false;
        }
        let hold = HoldPlan { containers, ..HoldPlan::default() };
        hold.look(self.context).await.is_ok_and(|hold| hold.refuse_the_deaf().is_ok())
    }

    /// Returns whether all that would have to be made anew is Compose's, whose files are there.
    fn is_compose(&self) -> bool {
        self.held().all(|container| NamedFiles::of(&container.labels).is_ok())
    }

    /// Returns whether the files of all who use it are there, as far as they are Compose's: a migration edits them.
    fn has_its_files(&self) -> bool {
        let labels = self.source.users.iter().map(|user| &user.container.labels);
        labels.into_iter().all(|labels| Membership::of(labels).is_none() || NamedFiles::of(labels).is_ok())
    }

    fn held(&self) -> impl Iterator<Item = &Container> {
        self.source.users.iter().filter(|user| user.is_to_be_held()).map(|user| &user.container)
    }
}
