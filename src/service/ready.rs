//! Whether a service answers: by its healthcheck, else by a query if we know the database. Of any other container it can
//! only be seen whether it is [what it was before](Vitals), else whether it goes on running for some seconds: so it
//! *runs*, and nobody says that it answers.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::vitals::Vitals;
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

/// A container that was not started by us, and of which nothing is known, is up if it runs for this long.
const STABLE: Duration = Duration::from_millis(500);
/// One that was started by us, if it runs for this long.
const SEVERAL_SECONDS: Duration = Duration::from_secs(3);
/// How long a first process may be another one than before: an entrypoint becomes the server only after it has walked
/// through the data.
const BECOMES_SERVER: Duration = Duration::from_mins(10);
/// How often one is looked at that nobody can ask.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How a container of no known database and without a healthcheck shows that it is up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shows<'v> {
    /// It ran before anybody looked.
    Running,
    /// It was started just now; what was seen of it before, if anything was.
    Started(Option<&'v Vitals>),
}

/// Returns whether something can be asked of a container: its healthcheck, or the database that it runs.
#[must_use]
pub fn can_be_asked(container: &Container) -> bool {
    !container.healthcheck.is_empty() || database::server_of(container).is_some()
}

/// Waits until a container that runs answers: its healthcheck if it has one, else a query if it is a database we know,
/// else it goes on running.
///
/// # Errors
/// When it ends or does not answer before `deadline`.
pub async fn await_ready(
    docker: &dyn Docker,
    container: &Container,
    deadline: Instant,
    monitor: &dyn Monitor,
) -> Result<()> {
    await_ready_of(docker, container, database::server_of(container), Shows::Running, deadline, monitor).await
}

/// Like [`await_ready`], for a container that is known to run this server, or none that we know.
///
/// # Errors
/// As for [`await_ready`].
pub(super) async fn await_ready_of(
    docker: &dyn Docker,
    container: &Container,
    server: Option<&dyn Server>,
    shows: Shows<'_>,
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
        let can_be_asked = server.is_some() || !now.healthcheck.is_empty();
        let is_up = match can_be_asked {
            true => is_ready(docker, &now, server, deadline).await,
            false => is_as_before(docker, &now, shows, begun).await,
        };
        if is_up {
            return Ok(());
        }
        if Instant::now() > deadline {
            let reason = match can_be_asked {
                true => "runs but does not answer yet",
                false => "runs, but not as before: another process, or nobody who listens",
            };
            return Err(not_back(&now.name, reason));
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
        sleep(if can_be_asked { POLL } else { LOOK_AGAIN }).await;
    }
}

/// Returns whether a container that nobody can ask is up, as far as can be seen.
async fn is_as_before(docker: &dyn Docker, container: &Container, shows: Shows<'_>, begun: Instant) -> bool {
    let ran = begun.elapsed();
    let before = match shows {
        Shows::Running => return ran >= STABLE,
        Shows::Started(before) => before,
    };
    if ran < STABLE {
        return false;
    }
    let now = if before.is_some() { Vitals::of(docker, container).await } else { None };
    match (before, now) {
        (Some(before), Some(now)) if !before.ports.is_empty() => !before.ports.is_disjoint(&now.ports),
        (Some(before), Some(now)) if now.process != before.process && ran < BECOMES_SERVER => false,
        _ => ran >= SEVERAL_SECONDS,
    }
}

async fn is_ready(
    docker: &dyn Docker,
    container: &Container,
    server: Option<&dyn Server>,
    deadline: Instant,
) -> bool {
    if !is_healthy(docker, container).await {
        return false;
    }
    let Some(server) = server else { return true };
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
