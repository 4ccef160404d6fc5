//! Stopping the users of a source, and what is refused because it could not be had back.

use std::path::PathBuf;
use std::time::Duration;

use super::Context;
use crate::database;
use crate::engine::{DockerErrorKind, Grace};
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::source::Source;
use crate::selector;
use crate::selector::{EngineInventory, Target};
use crate::service::order;

/// How long a running database may take to say where its data is.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// How long a container of no known database may take to stop.
const STOP_LIMIT: Duration = Duration::from_mins(10);

impl Context {
    /// Returns everything that the engine has.
    pub(super) async fn world(&self) -> Result<EngineInventory> {
        EngineInventory::of(&*self.docker, &self.directory, self.compose_project.as_deref()).await
    }

    /// Resolves a target. A running database is asked where its data is: its configuration may have moved
    /// it, and what it says wins.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Source> {
        self.resolve_for(&["snapshot"], target).await
    }

    /// As [`resolve`](Self::resolve); hints complete `command` with a target.
    pub(super) async fn resolve_for(&self, command: &[&str], target: &Target) -> Result<Source> {
        let mut world = EngineInventory {
            command: command.iter().map(ToString::to_string).collect(),
            ..self.world().await?
        };
        let source = selector::resolve(target, &world)?;
        let Some(container) = source.database().filter(|container| container.state.running) else {
            return Ok(source);
        };
        let Some(profile) = database::profile_of(container) else { return Ok(source) };
        let command = profile.data_directory_command(container);
        let output = self.docker.exec(&container.id, &command, ASK_LIMIT).await;
        let said = output.ok().filter(|output| output.exit_code == 0).map(|output| output.stdout);
        let Some(said) = said.and_then(|said| String::from_utf8(said).ok()) else { return Ok(source) };
        if !said.starts_with('/') {
            return Ok(source);
        }
        world.data_directories.insert(container.id.clone(), PathBuf::from(said.trim_end_matches('\n')));
        selector::resolve(target, &world)
    }

    /// Refuses a source of whose users one could not be started again: it shares the network of a container
    /// that does not run.
    pub(super) async fn refuse_stranded(&self, source: &Source) -> Result<()> {
        let world = self.world().await?;
        match order::stranded(&source.users, &world.containers).first() {
            Some(stranded) => Err(Error::failed(format!(
                "container {} shares the network of one that does not run, so it could not be started again",
                stranded.name
            ))
            .hint(Hint::docker(["stop", &stranded.name]).why("or start the other one first"))),
            None => Ok(()),
        }
    }

    /// Asks a container to stop, a database in the way that is fast and clean, and never kills it.
    pub(super) async fn stop(&self, container: &Container, limit: Option<Duration>) -> Result<()> {
        self.monitor.step("stop-container");
        let (signal, grace, wait) = match database::profile_of(container) {
            Some(profile) => (
                Some(profile.stop_signal()),
                Grace::Unlimited,
                limit.unwrap_or_else(|| profile.stop_timeout()),
            ),
            None => (None, Grace::Own, limit.unwrap_or(STOP_LIMIT)),
        };
        self.docker.stop(&container.id, signal, grace, wait).await.map_err(|error| match error.kind {
            DockerErrorKind::TimedOut => Error::failed(format!(
                "container {} had not stopped after {} s",
                container.name,
                wait.as_secs()
            ))
            .with_source(error)
            .hint(Hint::logs(&container.name)),
            _ => Error::failed(format!("stop container {}", container.name)).with_source(error),
        })
    }

    /// Refuses a container that is not in the run it was prepared in; `again` is the command to type. The
    /// journal tells by that run whether somebody has started the container again, or whether our stop may
    /// still reach it.
    pub(super) async fn refuse_restarted(&self, container: &Container, again: Hint) -> Result<()> {
        let looked = self.docker.container(&container.id).await;
        let now = looked.context(|| format!("look at container {}", container.name))?;
        if now.is_some_and(|now| now.state.running && now.state.started_at == container.state.started_at) {
            return Ok(());
        }
        Err(Error::failed(format!(
            "container {} was stopped or started by somebody meanwhile",
            container.name
        ))
        .hint(again))
    }
}

/// Refuses a container that cannot be stopped and brought back as it was.
pub(super) fn refuse_what_cannot_be_stopped(container: &Container) -> Result<()> {
    let name = &container.name;
    if container.state.paused {
        return Err(Error::failed(format!("container {name} is paused, and a paused one cannot be stopped"))
            .hint(Hint::docker(["unpause", name])));
    }
    if container.auto_remove {
        return Err(Error::failed(format!(
            "container {name} is removed by the engine when it stops (--rm), so it could not be started again"
        ))
        .hint(Hint::advice(format!("stop {name} yourself, or run it without --rm"))));
    }
    Ok(())
}

/// Refuses a container that cannot be frozen.
pub(super) fn refuse_what_cannot_be_frozen(container: &Container) -> Result<()> {
    if container.state.restarting {
        return Err(Error::failed(format!(
            "container {} is between two starts, and only one that runs can be frozen",
            container.name
        ))
        .hint(Hint::logs(&container.name)));
    }
    Ok(())
}
