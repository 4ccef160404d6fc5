//! Containers that share something of one that is made anew, its network above all: they are made anew with it, or are
//! refused before anything is stopped.

use serde::Serialize;

use super::Context;
use super::outside::refuse_own;
use crate::compose::Membership;
use crate::model::container::{Container, Namespace, owner_of, owners};
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::service::sharing::{Sharer, sharers_of};

/// A container that is made anew because it shares something of one that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedSharer {
    /// Its name.
    pub container: String,
    /// What it shares, and of whom: "network of db".
    pub shares: Vec<String>,
    /// Whether it runs; it is left that way.
    pub running: bool,
    /// Its Compose project and service; `None` for a container that is made anew through the engine.
    pub service: Option<String>,
}

/// Everybody who shares something of what is made anew.
#[derive(Debug, Clone, Default)]
pub(super) struct Sharers {
    /// Owners first.
    pub(super) containers: Vec<Container>,
    /// What the journal has of them.
    pub(super) records: Vec<Sharer>,
    planned: Vec<PlannedSharer>,
}

impl Sharers {
    /// Returns them for the plan; `by_compose` tells whom Compose makes anew.
    pub(super) fn planned(&self, by_compose: impl Fn(&Container) -> bool) -> Vec<PlannedSharer> {
        let with_service = |(container, planned): (&Container, &PlannedSharer)| {
            let member = Membership::of(&container.labels).filter(|_| by_compose(container));
            let service = member.map(|member| format!("service {} of {}", member.service, member.project));
            PlannedSharer { service, ..planned.clone() }
        };
        self.containers.iter().zip(&self.planned).map(with_service).collect()
    }
}

impl Context {
    /// Returns who shares something of those that are made anew, but for those that are made anew anyway. `held` are
    /// those that are stopped for it, `run` is the run that does it.
    ///
    /// # Errors
    /// When one runs that nobody would stop: it would lose what it shares.
    pub(super) async fn sharers(
        &self,
        (anew, held): (&[&Container], &[Container]),
        run: &str,
    ) -> Result<Sharers> {
        let containers = self.docker.containers().await.context(|| "list containers".to_owned())?;
        let shares = |container: &Container| -> Vec<String> {
            let owners = owners(container, &containers);
            owners.map(|(namespace, owner)| format!("{namespace} of {}", owner.name)).collect()
        };
        // The kernel ends it with the one whose processes it is among, before it is made anew.
        let ends = |container: &Container| {
            let owner = owner_of(Namespace::Processes, container, &containers);
            let goes = |owner: &Container| {
                anew.iter().any(|one| one.id == owner.id) || held.iter().any(|one| one.id == owner.id)
            };
            container.state.running && owner.is_some_and(goes)
        };
        let is_ignored = |container: &Container| self.bystanders.ignore.contains(&container.name);
        let stays = |container: &Container| is_ignored(container) && !ends(container);
        let found = sharers_of(anew, &containers, stays);
        let loses = |container: &&Container| {
            let goes = |owner: &Container| anew.iter().copied().chain(&found).any(|one| one.id == owner.id);
            stays(container) && owners(container, &containers).any(|(_, owner)| goes(owner))
        };
        for container in containers.iter().filter(loses) {
            let what = shares(container).join(", ");
            self.monitor.warning(format!("container {} is left alone and loses the {what}", container.name));
        }
        let mut sharers = Sharers::default();
        for container in found {
            refuse_own(self, &container)?;
            let shares = shares(&container);
            let ends = is_ignored(&container) && ends(&container);
            if ends {
                self.monitor.warning(format!(
                    "container {} shares the {}: it ends with that one, and stays down",
                    container.name,
                    shares.join(", ")
                ));
            }
            let is_held = held.iter().any(|held| held.id == container.id);
            if container.state.running && !is_held && !ends {
                return Err(Error::failed(format!(
                    "container {} shares the {}, which does not run and has to be made anew",
                    container.name,
                    shares.join(", ")
                ))
                .hint(Hint::docker(["stop", &container.name]).why("it is made anew, too, and not started"))
                .or(Hint::again(["--ignore", &container.name]).why("leaves it alone")));
            }
            sharers.records.push(Sharer::of(&container, &containers, run));
            sharers.planned.push(PlannedSharer {
                container: container.name.clone(),
                shares,
                running: container.state.running && !ends,
                service: None,
            });
            sharers.containers.push(container);
        }
        Ok(sharers)
    }
}
