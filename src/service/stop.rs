//! Stops a container: a database in the way that is fast and clean, and never by killing it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::identity::find_recreated;
use super::start::StoppedContainer;
use super::{Result, ServiceError};
use crate::database::{self, Server};
use crate::engine::{Docker, DockerErrorKind, Grace};
use crate::model::container::Container;
use crate::model::event::Monitor;

/// How long a container of no known database may take to stop.
const STOP_LIMIT: Duration = Duration::from_mins(10);
/// After how long a container that must not go on is asked again.
const STOP_AGAIN: Duration = Duration::from_secs(3);
/// How often the engine is asked while a container stops: an engine that answers is progress.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Returns how long a container may take to stop; `limit` is the user's.
#[must_use]
pub fn stop_limit(container: &Container, limit: Option<Duration>) -> Duration {
    limit.unwrap_or_else(|| database::server_of(container).map_or(STOP_LIMIT, Server::stop_timeout))
}

/// Asks a container to stop, and returns once it has.
///
/// # Errors
/// When it has not stopped after its [limit](stop_limit); then it goes on stopping.
pub async fn stop(
    docker: &dyn Docker,
    container: &Container,
    limit: Option<Duration>,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.step("stop-container");
    let wait = stop_limit(container, limit);
    let (signal, grace) = manner(database::server_of(container));
    let stopped = tokio::select! {
        biased;
        stopped = docker.stop(&container.id, signal, grace, wait) => stopped,
        never = look_on(docker, container, monitor) => match never {},
    };
    stopped.map_err(|error| match error.kind {
        DockerErrorKind::TimedOut => ServiceError::NotStopped {
            container: container.name.clone(),
            seconds: wait.as_secs(),
            source: error,
        },
        _ => error.into(),
    })
}

/// Tells each time the engine answers, for ever.
async fn look_on(docker: &dyn Docker, container: &Container, monitor: &dyn Monitor) -> Infallible {
    loop {
        sleep(LOOK_EVERY).await;
        if docker.container(&container.id).await.is_ok() {
            monitor.goes_on();
        }
    }
}

/// Stops those of the containers that run, even if they were recreated meanwhile.
///
/// # Errors
/// When one does not stop.
pub async fn stop_all_again(
    docker: &dyn Docker,
    containers: &[StoppedContainer],
    monitor: &dyn Monitor,
) -> crate::engine::Result<()> {
    let there = docker.containers().await?;
    for stopped in containers {
        let Some(container) = find_recreated(&stopped.identity, &there) else { continue };
        stop_again(docker, container, stopped.server(container), monitor).await?;
    }
    Ok(())
}

/// Stops a container, which runs this server or none that is known, and may have been started on what it must not stay
/// on. It is asked again and again: one that was just started may not be listening to the signal yet.
///
/// # Errors
/// When it does not stop.
pub async fn stop_again(
    docker: &dyn Docker,
    container: &Container,
    server: Option<&dyn Server>,
    monitor: &dyn Monitor,
) -> crate::engine::Result<()> {
    if !container.state.running && !container.state.restarting {
        return Ok(());
    }
    monitor.step("stop-container-again");
    let (signal, grace) = manner(server);
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        match docker.stop(&container.id, signal, grace, STOP_AGAIN).await {
            Err(error) if error.kind == DockerErrorKind::TimedOut && Instant::now() < deadline => {}
            stopped => return stopped,
        }
    }
}

/// Returns the signal that asks a container to stop, and how long the engine waits before it kills it.
fn manner(server: Option<&dyn Server>) -> (Option<&'static str>, Grace) {
    match server {
        Some(server) => (Some(server.stop_signal()), Grace::Unlimited),
        None => (None, Grace::Own),
    }
}
