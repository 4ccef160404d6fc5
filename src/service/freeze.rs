//! Freezing containers, and letting them go on.
//!
//! A freeze belongs to one run of one container: we did not freeze what was recreated or started anew meanwhile, and
//! leave it alone. The delicate case is a container that is not frozen yet: whoever asked for the freeze may have died,
//! and the engine may still be at work on it. Such a container is watched for longer than a freeze takes. One that
//! ended while it was frozen (the engine was restarted, say) is started.

use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::{Result, ServiceError};
use crate::engine::Docker;
use crate::model::container::Container;
use crate::model::event::Monitor;
use crate::saga::RetryBudget;

/// Longer than the engine takes to freeze a container after its client is gone.
const FREEZE_UNDER_WAY: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// A running container that is about to be frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedContainer {
    /// The full id.
    pub id: String,
    /// The name, for messages.
    pub name: String,
    /// When its run began, as the engine writes it: another value means that somebody has started it again.
    pub started_at: String,
}

impl PausedContainer {
    /// Returns the record of a running container that will be frozen.
    #[must_use]
    pub fn of(container: &Container) -> Self {
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            started_at: container.state.started_at.clone(),
        }
    }
}

/// Freezes all of them together: what one writes after another is frozen would not fit together.
///
/// # Errors
/// When one cannot be frozen, or not all of them are within `limit`: a process that is inside the kernel is frozen only
/// once it leaves it.
pub async fn freeze_all(
    docker: &dyn Docker,
    containers: &[Container],
    limit: Duration,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.step("freeze-containers");
    let freezing = join_all(containers.iter().map(|container| docker.pause(&container.id)));
    let Ok(frozen) = timeout(limit, freezing).await else {
        let names: Vec<_> = containers.iter().map(|container| container.name.as_str()).collect();
        return Err(ServiceError::NotFrozen { containers: names.join(", "), seconds: limit.as_secs() });
    };
    frozen.into_iter().try_for_each(|frozen| Ok(frozen?))
}

/// A container that may yet become frozen.
struct Watched<'a> {
    container: &'a PausedContainer,
    /// How long the engine was reachable and had not frozen it. An engine that does not answer is not at work on the
    /// freeze either, so only the time after an answer counts.
    unfrozen: Duration,
}

/// Unfreezes the containers: first all that are frozen now; then watches the others for a freeze that is still under
/// way.
pub async fn unpause_all(
    docker: &dyn Docker,
    containers: &[PausedContainer],
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Result<()> {
    let begun = Instant::now();
    let watched = |container| Watched { container, unfrozen: Duration::ZERO };
    let mut waiting: Vec<_> = containers.iter().map(watched).collect();
    let mut pause = POLL;
    loop {
        let (mut left, mut first_error) = (Vec::new(), None);
        for mut watched in waiting {
            match unpause(docker, watched.container, monitor).await {
                Ok(Frozen::No) if watched.unfrozen < FREEZE_UNDER_WAY => {
                    watched.unfrozen += pause;
                    left.push(watched);
                }
                Ok(Frozen::No | Frozen::NoMore) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                    left.push(watched);
                }
            }
        }
        waiting = left;
        match first_error {
            Some(error) if begun.elapsed() > budget.0 => return Err(error),
            _ if waiting.is_empty() => return Ok(()),
            _ => {}
        }
        sleep(pause).await;
        // Asking is cheap, and somebody waits for the service.
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// What was found.
enum Frozen {
    /// It runs: either it never was frozen, or its freeze is still to come.
    No,
    /// It was frozen, or its run is over, or it is gone: no freeze of ours can be left.
    NoMore,
}

async fn unpause(docker: &dyn Docker, frozen: &PausedContainer, monitor: &dyn Monitor) -> Result<Frozen> {
    let Some(now) = docker.container(&frozen.id).await? else { return Ok(Frozen::NoMore) };
    if now.state.started_at != frozen.started_at {
        return Ok(Frozen::NoMore);
    }
    if now.state.paused {
        monitor.step("unpause-container");
        docker.unpause(&frozen.id).await?;
        return Ok(Frozen::NoMore);
    }
    if now.state.running || now.state.restarting {
        return Ok(Frozen::No);
    }
    match now.state.status.as_str() {
        "removing" | "dead" => Ok(Frozen::NoMore),
        _ => {
            docker.start(&frozen.id).await.map_err(ServiceError::from)?;
            Ok(Frozen::NoMore)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::engine::{Attached, ContainerSpec, DockerError, DockerErrorKind, Grace, Result as Answer};
    use crate::model::container::{ContainerState, EngineInfo, ExecOutput, Image, Volume};
    use crate::model::event::Silent;

    const BEFORE: &str = "2026-11-20T20:30:11.1Z";

    /// Containers by id; one can become frozen by itself, and the engine can be away for a while.
    #[derive(Debug, Default)]
    struct Containers(Mutex<World>);

    #[derive(Debug, Default)]
    struct World {
        containers: BTreeMap<String, ContainerState>,
        freezes_at: Option<(Instant, String)>,
        away_until: Option<Instant>,
        asked: Vec<String>,
    }

    impl Containers {
        fn of(containers: &[(&str, bool, bool)]) -> Self {
            let state = |running, paused| ContainerState {
                running,
                paused,
                started_at: BEFORE.into(),
                ..ContainerState::default()
            };
            let containers =
                containers.iter().map(|(id, running, paused)| ((*id).to_owned(), state(*running, *paused)));
            Self(Mutex::new(World { containers: containers.collect(), ..World::default() }))
        }

        fn world<T>(&self, act: impl FnOnce(&mut World) -> Answer<T>) -> Answer<T> {
            let mut world = self.0.lock().unwrap();
            if world.away_until.is_some_and(|until| until > Instant::now()) {
                return Err(DockerError {
                    kind: DockerErrorKind::Unreachable,
                    doing: "ask".into(),
                    message: "away".into(),
                });
            }
            if let Some((_, id)) = world.freezes_at.take_if(|(at, _)| *at <= Instant::now()) {
                world.containers.get_mut(&id).unwrap().paused = true;
            }
            act(&mut world)
        }

        /// Unfreezes `db` and `app`; returns what the engine was asked to do.
        async fn unpause(&self) -> Vec<String> {
            let paused = ["db", "app"].map(|id| PausedContainer {
                id: id.into(),
                name: id.into(),
                started_at: BEFORE.into(),
            });
            unpause_all(self, &paused, RetryBudget(Duration::from_secs(20)), &Silent).await.unwrap();
            self.0.lock().unwrap().asked.clone()
        }
    }

    #[async_trait]
    impl Docker for Containers {
        async fn container(&self, id: &str) -> Answer<Option<Container>> {
            self.world(|world| {
                let state = world.containers.get(id).cloned();
                Ok(state.map(|state| Container { id: id.into(), state, ..Container::default() }))
            })
        }
        async fn lower_priority(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
        async fn unpause(&self, id: &str) -> Answer<()> {
            self.world(|world| {
                world.asked.push(format!("unpause {id}"));
                world.containers.get_mut(id).unwrap().paused = false;
                Ok(())
            })
        }
        async fn start(&self, id: &str) -> Answer<()> {
            self.world(|world| {
                world.asked.push(format!("start {id}"));
                world.containers.get_mut(id).unwrap().running = true;
                Ok(())
            })
        }
        async fn inspect_raw(&self, _id: &str) -> Answer<crate::engine::RawInspect> {
            unreachable!()
        }
        async fn clone_container(
            &self,
            _model: &crate::engine::RawInspect,
            _name: &str,
            _mount: Option<crate::engine::NewMount<'_>>,
        ) -> Answer<String> {
            unreachable!()
        }
        async fn rename_container(&self, _id: &str, _name: &str) -> Answer<()> {
            unreachable!()
        }
        async fn remove_stopped_container(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
        async fn engine(&self) -> Answer<EngineInfo> {
            unreachable!()
        }
        async fn containers(&self) -> Answer<Vec<Container>> {
            unreachable!()
        }
        async fn volumes(&self) -> Answer<Vec<Volume>> {
            unreachable!()
        }
        async fn volume(&self, _name: &str) -> Answer<Option<Volume>> {
            unreachable!()
        }
        async fn create_volume(&self, _name: &str, _labels: &BTreeMap<String, String>) -> Answer<()> {
            unreachable!()
        }
        async fn remove_volume(&self, _name: &str) -> Answer<()> {
            unreachable!()
        }
        async fn stop(&self, _id: &str, _signal: Option<&str>, _grace: Grace, _wait: Duration) -> Answer<()> {
            unreachable!()
        }
        async fn pause(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
        async fn exec(&self, _id: &str, _command: &[String], _limit: Duration) -> Answer<ExecOutput> {
            unreachable!()
        }
        async fn processes(&self, _id: &str) -> Answer<Vec<crate::model::container::Process>> {
            unreachable!()
        }
        async fn logs(&self, _id: &str, _lines: u32) -> Answer<String> {
            unreachable!()
        }
        async fn image(&self, _reference: &str) -> Answer<Option<Image>> {
            unreachable!()
        }
        async fn images(&self, _label: &str) -> Answer<Vec<Image>> {
            unreachable!()
        }
        async fn remove_image(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
        async fn import_image(
            &self,
            _tag: &str,
            _labels: &BTreeMap<String, String>,
            _tar: Bytes,
        ) -> Answer<()> {
            unreachable!()
        }
        async fn create_container(&self, _spec: &ContainerSpec) -> Answer<String> {
            unreachable!()
        }
        async fn attach(&self, _id: &str) -> Answer<Attached> {
            unreachable!()
        }
        async fn remove_container(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn what_is_frozen_goes_on_at_once() {
        let docker = Containers::of(&[("db", true, true), ("app", true, true)]);
        let begun = Instant::now();
        assert_eq!(docker.unpause().await, ["unpause db", "unpause app"]);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_freeze_that_comes_late_is_not_missed() {
        let docker = Containers::of(&[("db", true, true), ("app", true, false)]);
        docker.0.lock().unwrap().freezes_at = Some((Instant::now() + Duration::from_secs(1), "app".into()));
        assert_eq!(docker.unpause().await, ["unpause db", "unpause app"]);
    }

    #[tokio::test]
    async fn what_was_never_frozen_is_left_alone() {
        let docker = Containers::of(&[("db", true, false)]);
        assert!(docker.unpause().await.is_empty());
    }

    #[tokio::test]
    async fn what_somebody_has_started_and_frozen_since_is_left_alone() {
        let docker = Containers::of(&[("db", true, true)]);
        docker.0.lock().unwrap().containers.get_mut("db").unwrap().started_at = "later".into();
        assert!(docker.unpause().await.is_empty());
    }

    #[tokio::test]
    async fn what_has_ended_while_it_was_frozen_is_started() {
        let docker = Containers::of(&[("db", false, false)]);
        assert_eq!(docker.unpause().await, ["start db"]);
    }

    #[tokio::test]
    async fn an_engine_that_is_away_is_waited_for() {
        let docker = Containers::of(&[("db", true, true)]);
        docker.0.lock().unwrap().away_until = Some(Instant::now() + Duration::from_secs(1));
        assert_eq!(docker.unpause().await, ["unpause db"]);
    }

    #[tokio::test]
    async fn an_engine_that_was_away_is_watched_for_as_long_as_any_other() {
        let docker = Containers::of(&[("db", true, false)]);
        let back = Instant::now() + Duration::from_millis(3500);
        docker.0.lock().unwrap().away_until = Some(back);
        docker.0.lock().unwrap().freezes_at = Some((back + Duration::from_millis(1500), "db".into()));
        assert_eq!(docker.unpause().await, ["unpause db"]);
    }
}
