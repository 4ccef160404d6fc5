//! Whether a service answers: by its healthcheck, else by a query if we know the database, else by whether it goes on
//! running.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Result, ServiceError};
use crate::database::{self, Server};
use crate::engine::Docker;
use crate::model::container::Container;
use crate::model::event::Monitor;

const POLL: Duration = Duration::from_millis(50);
/// How long one question inside a container may take.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(10);

/// How long one wait inside a container lasts before we look at it from outside again.
const AWAIT_LIMIT: Duration = Duration::from_secs(20);

/// After how long somebody is told that a container does not answer yet; then after twice as long, and so on.
const TELL_AFTER: Duration = Duration::from_mins(1);

/// A container without a healthcheck and of no known database is up once it has run this long.
const STABLE: Duration = Duration::from_millis(500);

/// Waits until a container answers: its healthcheck if it has one, else a query if it is a database we know, else it
/// runs and goes on running.
///
/// # Errors
/// When it ends or does not answer before `deadline`.
pub async fn await_ready(
    docker: &dyn Docker,
    container: &Container,
    deadline: Instant,
    monitor: &dyn Monitor,
) -> Result<()> {
    await_ready_of(docker, container, database::server_of(container), deadline, monitor).await
}

/// Like [`await_ready`], for a container that is known to run this server, or none that we know.
///
/// # Errors
/// As for [`await_ready`].
pub(super) async fn await_ready_of(
    docker: &dyn Docker,
    container: &Container,
    server: Option<&dyn Server>,
    deadline: Instant,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.step("await-ready");
    let (begun, mut tell_after) = (Instant::now(), TELL_AFTER);
    loop {
        let Some(now) = docker.container(&container.id).await? else {
            return Err(not_back(&container.name, "was removed while it was starting"));
        };
        if !now.state.running || now.state.restarting {
            return Err(ended(docker, &now).await);
        }
        monitor.goes_on();
        if is_ready(docker, &now, server, begun, deadline).await {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(not_back(&now.name, "runs but does not answer yet"));
        }
        if begun.elapsed() >= tell_after {
            // A recovery may take hours.
            let minutes = begun.elapsed().as_secs() / 60;
            monitor.note(format!(
                "container {} runs and does not answer yet, after {minutes} min; it is waited for",
                now.name
            ));
            tell_after *= 2;
        }
        sleep(POLL).await;
    }
}

async fn is_ready(
    docker: &dyn Docker,
    container: &Container,
    server: Option<&dyn Server>,
    begun: Instant,
    deadline: Instant,
) -> bool {
    if !is_healthy(docker, container).await {
        return false;
    }
    let Some(server) = server else {
        return !container.healthcheck.is_empty() || begun.elapsed() >= STABLE;
    };
    let left = deadline.saturating_duration_since(Instant::now()).min(AWAIT_LIMIT);
    let command = server.await_ready_command(container, left);
    exits_with_0(docker, container, &command, left + ASK_LIMIT).await
}

/// Returns whether the healthcheck passes, or there is none. Its command runs at once: the engine's own next run may be
/// half a minute away, long after the service is back.
async fn is_healthy(docker: &dyn Docker, container: &Container) -> bool {
    container.healthcheck.is_empty()
        || container.state.health.as_deref() == Some("healthy")
        || exits_with_0(docker, container, &container.healthcheck, ASK_LIMIT).await
}

pub(super) async fn exits_with_0(
    docker: &dyn Docker,
    container: &Container,
    command: &[String],
    limit: Duration,
) -> bool {
    match docker.exec(&container.id, command, limit).await {
        Ok(output) => output.exit_code == 0,
        Err(error) => {
            tracing::debug!(%error, "cannot ask whether it is ready");
            false
        }
    }
}

async fn ended(docker: &dyn Docker, container: &Container) -> ServiceError {
    not_back(&container.name, &why_ended(docker, container).await)
}

pub(super) async fn why_ended(docker: &dyn Docker, container: &Container) -> String {
    let log = docker.logs(&container.id, 5).await.unwrap_or_default();
    let reason = format!("ended with exit code {} after it was started", container.state.exit_code);
    let said = log.trim();
    if said.is_empty() { reason } else { format!("{reason}; its log ends: {said}") }
}

pub(super) fn not_back(container: &str, reason: &str) -> ServiceError {
    ServiceError::NotBack { container: container.to_owned(), reason: reason.to_owned() }
}
