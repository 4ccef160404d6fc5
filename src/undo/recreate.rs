//! Puts back containers that others have replaced, and makes those anew that shared something of them.
//!
//! Before a container is replaced, all of it is described, so that it can be made again even if it is gone: Compose
//! removes what it replaces. Whatever has its place by then is stopped, as gently as ever, and removed; no volume is
//! removed.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{Result, UndoError};
use crate::database;
use crate::engine::{Docker, NewMount, RawInspect};
use crate::model::container::{Container, Namespace};
use crate::model::event::Monitor;
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::saga::RetryBudget;
use crate::service::identity::ContainerIdentity;
use crate::service::sharing::{self, Sharer, in_place};
use crate::service::stop::stop_again;

/// A container that is about to be replaced, with everything needed to make one like it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedContainer {
    /// Which it was.
    pub identity: ContainerIdentity,
    /// All that the engine said about it.
    pub description: RawInspect,
    /// The path in it where the data is mounted.
    pub destination: PathBuf,
    /// What is mounted there.
    pub source: MountSource,
    /// The name of the database that it ran; `None` if none was known, or if an older volsnap wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
}

/// Puts back the containers that were replaced and starts none of them: the very same ones if they still exist,
/// otherwise ones like them.
pub(super) async fn put_back(
    docker: &dyn Docker,
    containers: &[ReplacedContainer],
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Result<()> {
    let deadline = Instant::now() + budget.0;
    for container in owners_first(containers) {
        let mut pause = Duration::from_millis(200);
        while let Err(error) = container.put_back(docker, containers, monitor).await {
            if Instant::now() + pause > deadline {
                return Err(error);
            }
            tracing::debug!(%error, "not put back yet");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
    Ok(())
}

/// Returns them in an order in which each comes after those of which it shares something.
fn owners_first(containers: &[ReplacedContainer]) -> Vec<&ReplacedContainer> {
    let mut waiting: Vec<_> = containers.iter().collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let shares = |one: &ReplacedContainer, other: &ReplacedContainer| {
            let mut owners =
                Namespace::ALL.into_iter().filter_map(|namespace| one.description.owner(namespace));
            other.identity.id != one.identity.id && owners.any(|owner| owner == other.identity.id)
        };
        let is_free = |one: &&ReplacedContainer| waiting.iter().all(|other| !shares(one, other));
        let first = waiting.iter().position(is_free).unwrap_or(0);
        ordered.push(waiting.remove(first));
    }
    ordered
}

/// Has containers share again what they shared, of whoever has the place of its owner by now.
pub(super) async fn rejoin(
    docker: &dyn Docker,
    sharers: &[Sharer],
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Result<()> {
    // Whom it shares it of waits for it.
    let deadline = Instant::now() + budget.0.min(RetryBudget::SHORT.0);
    let mut pause = Duration::from_millis(200);
    while let Err(error) = sharing::rejoin(docker, sharers, monitor).await {
        if Instant::now() + pause > deadline {
            return Err(error.into());
        }
        tracing::debug!(%error, "not rejoined yet");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    Ok(())
}

impl ReplacedContainer {
    /// Puts it back; `all` are those that were replaced with it.
    async fn put_back(&self, docker: &dyn Docker, all: &[Self], monitor: &dyn Monitor) -> Result<()> {
        let ContainerIdentity { id, name, .. } = &self.identity;
        for other in docker.containers().await?.iter().filter(|other| self.is_replaced_by(other)) {
            monitor.step("remove-replacement");
            let failed = |source| UndoError::Replacement { container: name.clone(), source };
            let server = database::server_by(self.database.as_deref(), other);
            stop_again(docker, other, server, monitor).await.map_err(failed)?;
            docker.remove_stopped_container(&other.id).await?;
        }
        let description = self.sharing_of_those_there(docker, all).await?;
        let still = docker.container(id).await?;
        let stranded = match (&still, &description) {
            // The engine will never start it again; it goes once the like of it is there.
            (Some(still), Some(_)) => Some(still),
            (Some(still), None) if still.name == *name => return Ok(()),
            (Some(_), None) => {
                monitor.step("rename-back");
                return Ok(docker.rename_container(id, name).await?);
            }
            (None, _) => None,
        };
        if let Some(stranded) = stranded.filter(|stranded| stranded.name == *name) {
            monitor.step("set-stranded-aside");
            docker
                .rename_container(
                    &stranded.id,
                    &format!("{name}-volsnap-stranded-{}", &id[..id.len().min(12)]),
                )
                .await?;
        }
        monitor.step("create-again");
        let mount = NewMount { destination: &self.destination, source: &self.source };
        let description = description.as_ref().unwrap_or(&self.description);
        docker.clone_container(description, name, Some(mount)).await?;
        if let Some(stranded) = stranded {
            monitor.step("remove-stranded");
            docker.remove_stopped_container(&stranded.id).await?;
        }
        Ok(())
    }

    /// Returns its description with the owners that there are now of what it shares, if they are others than the ones
    /// that it names: those were replaced, too, and had to be made again.
    async fn sharing_of_those_there(&self, docker: &dyn Docker, all: &[Self]) -> Result<Option<RawInspect>> {
        let mut changed = None;
        for namespace in Namespace::ALL {
            let owner = self.description.owner(namespace);
            let Some(owner) = owner.and_then(|named| all.iter().find(|other| other.identity.id == named))
            else {
                continue;
            };
            let containers = docker.containers().await?;
            if let Some(there) = in_place(&owner.identity, &containers)
                && there.id != owner.identity.id
            {
                let described = changed.as_ref().unwrap_or(&self.description);
                changed = Some(described.sharing(namespace, &there.id));
            }
        }
        Ok(changed)
    }

    /// Returns whether another container has the place of this one, which may exist all the same. A copy of this one
    /// that an earlier attempt made also counts: it mounts the right data, but its id is not known.
    fn is_replaced_by(&self, other: &Container) -> bool {
        other.id != self.identity.id
            && !other.labels.contains_key(LABEL_RUN)
            && (other.name == self.identity.name || self.identity.has_place_of(other))
    }
}

/// Removes the containers that were set aside under another name, now that others have theirs. Nothing live depends on
/// it, so nobody waits long for an engine that is away.
pub(super) async fn remove_replaced(
    docker: &dyn Docker,
    containers: &[ContainerIdentity],
    budget: RetryBudget,
) -> Result<()> {
    let deadline = Instant::now() + budget.0.min(RetryBudget::SHORT.0);
    loop {
        match remove_all_replaced(docker, containers).await {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(300)).await,
            outcome => return outcome,
        }
    }
}

async fn remove_all_replaced(docker: &dyn Docker, containers: &[ContainerIdentity]) -> Result<()> {
    for ContainerIdentity { id, name, .. } in containers {
        if let Some(aside) = docker.container(id).await?
            && aside.name != *name
            && docker.container(name).await?.is_some()
        {
            docker.remove_stopped_container(id).await?;
        }
    }
    Ok(())
}
