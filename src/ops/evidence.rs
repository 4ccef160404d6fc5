//! What the engine and the database's own files say of a hold: that what was stopped is still stopped, ended by itself
//! and completely, and that nobody has started anything meanwhile.

use std::path::{Path, PathBuf};

use super::Context;
use super::preconditions::somebody_at_work;
use crate::agent::calls::{Inspect, Side};
use crate::agent::client::AgentClient;
use crate::database::{self, DataFiles, Database, stores};
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::manifest::{Evidence, StoppedContainer};
use crate::model::source::Source;

/// The files of a database in a source.
#[derive(Debug, Clone)]
pub(super) struct DatabaseFiles {
    /// The database's name.
    pub(super) engine: &'static str,
    pub(super) known: &'static dyn DataFiles,
    /// Relative to the source's root.
    pub(super) data_directory: PathBuf,
    /// Where its container mounts the source.
    pub(super) mounted_at: Option<PathBuf>,
}

impl DatabaseFiles {
    /// Returns the files of the database that a container has in a source; `None` if we know of none there.
    pub(super) fn of(source: &Source, container: &Container) -> Option<Self> {
        let data_directory = source.data_directory.clone()?;
        Self::at(database::of(container)?, data_directory, source.seen_at(container))
    }

    /// Returns the files of a database in a directory; `None` if we know nothing of its files.
    pub(super) fn at(
        database: &'static dyn Database,
        data_directory: PathBuf,
        mounted_at: Option<PathBuf>,
    ) -> Option<Self> {
        Some(Self { engine: database.name(), known: database.files()?, data_directory, mounted_at })
    }

    /// Reads the files in the source.
    pub(super) async fn inspect(&self, agent: &mut AgentClient) -> Result<Inspection> {
        self.inspect_tree(agent, Path::new("")).await
    }

    /// Reads the files in a tree of the source.
    pub(super) async fn inspect_tree(&self, agent: &mut AgentClient, tree: &Path) -> Result<Inspection> {
        let inspection = agent.call(self.inspection(Side::Source, tree)).await;
        inspection.context(|| format!("read the files of {}", self.engine))
    }

    /// Reads the files in the stage, or the copy, of the source.
    pub(super) async fn inspect_stage(&self, agent: &mut AgentClient) -> Result<Inspection> {
        let inspection = agent.call(self.inspection(Side::Stage, Path::new(""))).await;
        inspection.context(|| format!("read the files of {} in the copy", self.engine))
    }

    fn inspection(&self, side: Side, tree: &Path) -> Inspect {
        Inspect {
            engine: self.engine.to_owned(),
            side,
            tree: tree.to_owned(),
            data_directory: self.data_directory.clone(),
            mounted_at: self.mounted_at.clone(),
        }
    }

    /// Returns the files without which there is no database, relative to the root, the last one last.
    pub(super) fn marker_files(&self) -> Vec<PathBuf> {
        self.known.written_last(&self.data_directory)
    }
}

/// Reads how the stopped containers ended, and what the database's own files say; the reasons include why the shutdown
/// is not clean.
///
/// # Errors
/// When somebody has started one of them meanwhile, or the files cannot be read.
pub(super) async fn of_shutdown(
    context: &Context,
    stops: &[Container],
    database: Option<&DatabaseFiles>,
    agent: &mut AgentClient,
) -> Result<Evidence> {
    let mut evidence = Evidence::default();
    for before in stops {
        let now = still_stopped(context, before).await?;
        evidence.reasons.extend(ended_badly(&now));
        evidence.reasons.extend(database::of(&now).and_then(unprovable));
        evidence.stopped.push(StoppedContainer {
            name: now.name,
            exit_code: now.state.exit_code,
            oom_killed: now.state.oom_killed,
        });
    }
    if let Some(database) = database {
        let inspection = database.inspect(agent).await?;
        evidence.reasons.extend(inspection.reasons.iter().cloned());
        evidence.database = Some(inspection);
    }
    Ok(evidence)
}

/// Returns why the shutdown of a database cannot be proved: we know nothing of its files.
fn unprovable(database: &dyn Database) -> Option<String> {
    let is_unknown = database.files().is_none();
    is_unknown.then(|| format!("it is not known how the files of {} prove a clean shutdown", database.name()))
}

/// Returns which of the containers that were down before anything was stopped had not ended cleanly: what they have
/// left behind is what a power loss leaves. It says nothing of a database whose own files tell.
pub(super) fn of_those_down_before(source: &Source, stores: &[String]) -> Vec<String> {
    let down = source.users.iter().filter(|user| user.writes && !user.container.state.running);
    let has_run = down.filter(|user| !matches!(user.container.state.status.as_str(), "created" | ""));
    has_run.filter_map(|user| ended_badly_before(&user.container, !stores.is_empty())).collect()
}

/// A store ends with 0, or with the code of the signal that asked it to end.
fn ended_badly_before(container: &Container, is_store: bool) -> Option<String> {
    let is_store = is_store || stores::of(container).is_some();
    let state = &container.state;
    if let Some(reason) = ended_badly(container) {
        return Some(format!("{reason} before"));
    }
    (is_store && !matches!(state.exit_code, 0 | 130 | 143))
        .then(|| format!("container {} ended with exit code {} before", container.name, state.exit_code))
}

/// Returns why a container did not end cleanly, as far as the engine tells.
pub(super) fn ended_badly(now: &Container) -> Option<String> {
    let is_database = database::of(now).is_some();
    if now.state.oom_killed {
        Some(format!("container {} was killed for want of memory", now.name))
    } else if (is_database && now.state.exit_code != 0) || now.state.exit_code == 137 {
        Some(format!("container {} ended with exit code {}", now.name, now.state.exit_code))
    } else {
        None
    }
}

/// Refuses a container that is no longer frozen, or was not frozen in between.
pub(super) async fn still_frozen(context: &Context, before: &Container) -> Result<()> {
    let now = still_there(context, before).await?;
    if now.state.paused && now.state.started_at == before.state.started_at {
        return Ok(());
    }
    Err(Error::failed(format!(
        "container {} was unfrozen, stopped or started by somebody meanwhile",
        before.name
    ))
    .hint(Hint::advice(
        "find out who does it (a watchdog, an updater, another person), then take the snapshot again",
    )))
}

/// Returns a stopped container as it is now, if it is still stopped and nobody started it in between.
pub(super) async fn still_stopped(context: &Context, before: &Container) -> Result<Container> {
    let now = still_there(context, before).await?;
    if now.state.running || now.state.started_at != before.state.started_at {
        return Err(Error::failed(format!("container {} was started by somebody meanwhile", before.name))
            .hint(somebody_at_work()));
    }
    Ok(now)
}

async fn still_there(context: &Context, before: &Container) -> Result<Container> {
    let now = context.docker.container(&before.id).await;
    now.context(|| format!("look at container {}", before.name))?.ok_or_else(|| {
        Error::failed(format!("container {} was removed by somebody meanwhile", before.name))
            .hint(somebody_at_work())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of which only the name is known.
    #[derive(Debug)]
    struct Nameless;

    impl Database for Nameless {
        fn name(&self) -> &'static str {
            "nameless"
        }
    }

    #[test]
    fn a_database_whose_files_nobody_can_read_is_not_called_clean() {
        let why = unprovable(&Nameless).unwrap();
        assert!(why.contains("the files of nameless"), "{why}");
        let known = database::named("postgresql").unwrap();
        assert_eq!(unprovable(known), None);
    }
}
