//! Whether a service answers: by a query if we know the database, and by its [healthcheck](super::health). Of any other
//! container it can only be seen whether it is [what it was before](Vitals), else whether it goes on running for some
//! seconds: so it *runs*, and nobody says that it answers.
//!
//! A healthcheck may be wrong. One that fails before the stop is not waited for after it; one that fails although its
//! database answers is waited for some seconds, and told of. One that cannot be run says nothing: where the database
//! answers it is told of at once, and of any other container it is told of once all else that can be seen is well.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::health::{FailedHealthcheck, failing};
use super::vitals::Vitals;
use super::{Result, ServiceError};
use crate::database::{self, Server};
use crate::engine::Docker;
use crate::model::container::Container;
use crate::model::event::Monitor;
use crate::model::own_commands::OwnCommand;

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

/// How long a healthcheck may fail while all else is well: of a container that ran before anybody looked, and of one
/// that was started by us.
const FAILS_WHILE_RUNNING: Duration = Duration::from_secs(10);
const FAILS_AFTER_START: Duration = Duration::from_secs(30);

/// What a container has to show, beside what it answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shows<'v> {
    /// It ran before anybody looked.
    Running,
    /// It was started just now.
    Started {
        /// What was seen of it before, if anything was.
        vitals: Option<&'v Vitals>,
        /// Whether its healthcheck failed then too, or could not be run.
        unhealthy: bool,
        /// What its owner wants to be asked in place of its healthcheck.
        ready: Option<&'v OwnCommand>,
        /// Whether it may run on other data than before: then that it runs does not say that it is back.
        other_data: bool,
    },
}

impl Shows<'_> {
    /// Returns whether its healthcheck counts.
    fn heeds(self, container: &Container) -> bool {
        let is_passed_over =
            matches!(self, Self::Started { unhealthy: true, .. } | Self::Started { ready: Some(_), .. });
        !container.healthcheck.is_empty() && !is_passed_over
    }

    /// Returns whether a healthcheck that has failed for this long, while all else is well, is not waited for any more.
    fn passes_over(self, container: &Container, failed: Duration) -> bool {
        match self {
            Self::Running if container.state.health.as_deref() == Some("unhealthy") => true,
            Self::Running => failed >= FAILS_WHILE_RUNNING,
            Self::Started { .. } => failed >= FAILS_AFTER_START,
        }
    }
}

/// Returns whether something can be asked of a container: the database that it runs, or its healthcheck, unless that is
/// known to fail anyway.
#[must_use]
pub fn can_be_asked(container: &Container, healthcheck_fails: bool) -> bool {
    let has_healthcheck = !container.healthcheck.is_empty() && !healthcheck_fails;
    has_healthcheck || database::server_of(container).is_some()
}

/// Waits until a container that runs answers: a query if it is a database we know, and its healthcheck if it has one,
/// else it goes on running. Returns how its healthcheck fails if nothing else is wrong.
///
/// # Errors
/// When it ends or does not answer before `deadline`.
pub async fn await_ready(
    docker: &dyn Docker,
    container: &Container,
    deadline: Instant,
    monitor: &dyn Monitor,
) -> Result<Option<FailedHealthcheck>> {
    await_ready_of(docker, container, database::server_of(container), Shows::Running, deadline, monitor).await
}

/// What one look at a container has shown.
enum Look {
    Up,
    NotYet,
    /// Only its healthcheck is against it.
    Unhealthy(FailedHealthcheck),
    /// Its healthcheck fails, and nothing else can be asked.
    Unanswered(FailedHealthcheck),
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
) -> Result<Option<FailedHealthcheck>> {
    monitor.step("await-ready");
    let (begun, mut tell_after, mut fails_since) = (Instant::now(), TELL_AFTER, None);
    loop {
        let Some(now) = docker.container(&container.id).await? else {
            return Err(not_back(&container.name, "was removed while it was starting"));
        };
        if !now.state.running || now.state.restarting {
            return Err(ended(docker, &now).await);
        }
        monitor.goes_on();
        let looked = look(docker, &now, server, (shows, begun), deadline).await;
        let is_over = Instant::now() > deadline;
        match looked {
            Look::Up => return Ok(None),
            Look::Unhealthy(failed) => {
                let failed_for = fails_since.get_or_insert_with(Instant::now).elapsed();
                // One that says nothing is not waited for where the database itself has answered.
                let is_answered = failed.answers && !failed.was_run();
                // It may have been cut off because the container has just ended.
                if is_answered && !still_runs(docker, &now).await? {
                    continue;
                }
                if is_over || is_answered || shows.passes_over(&now, failed_for) {
                    return Ok(Some(failed));
                }
            }
            Look::Unanswered(failed) if is_over => {
                return Err(not_back(&now.name, &format!("runs but does not answer yet: {failed}")));
            }
            Look::NotYet if is_over => {
                let reason = match server.is_some() || matches!(shows, Shows::Started { ready: Some(_), .. })
                {
                    true => "runs but does not answer yet",
                    false => "runs, but not as before: another process, or nobody who listens",
                };
                return Err(not_back(&now.name, reason));
            }
            Look::NotYet | Look::Unanswered(_) => fails_since = None,
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
        let is_asked = server.is_some() && fails_since.is_none();
        sleep(if is_asked { POLL } else { LOOK_AGAIN }).await;
    }
}

/// Returns whether a container is still in the run in which it was seen.
async fn still_runs(docker: &dyn Docker, seen: &Container) -> Result<bool> {
    let now = docker.container(&seen.id).await?;
    Ok(now.is_some_and(|now| now.state.running && now.state.started_at == seen.state.started_at))
}

/// Asks a container once whatever it can be asked.
async fn look(
    docker: &dyn Docker,
    container: &Container,
    server: Option<&dyn Server>,
    (shows, begun): (Shows<'_>, Instant),
    deadline: Instant,
) -> Look {
    let heeds = shows.heeds(container);
    let is_up = match (shows, server) {
        (Shows::Started { ready: Some(ready), .. }, _) => {
            // A wait in one piece would show no progress.
            let limit = ready.limit().min(AWAIT_LIMIT);
            exits_with_0(docker, container, &ready.run, limit).await
                && match server {
                    Some(server) => answers(docker, container, server, deadline).await,
                    None => true,
                }
        }
        (_, Some(server)) => answers(docker, container, server, deadline).await,
        (_, None) if heeds => true,
        (_, None) => is_as_before(docker, container, shows, begun).await,
    };
    if !is_up {
        return Look::NotYet;
    }
    let failed = if heeds { failing(docker, container).await } else { None };
    let Some(mut failed) = failed else { return Look::Up };
    failed.answers = server.is_some();
    let is_silent = !failed.was_run();
    match shows {
        // Whoever runs is what there is; what cannot be run would only take its time again.
        Shows::Running if is_silent => Look::Up,
        Shows::Running => Look::Unhealthy(failed),
        // After a stop, it must be seen to be back.
        Shows::Started { .. } if server.is_some() => Look::Unhealthy(failed),
        // Nobody says anything: what else can be seen has to do, but not where other data may be the reason.
        Shows::Started { other_data: false, .. }
            if is_silent && is_as_before(docker, container, shows, begun).await =>
        {
            Look::Unhealthy(failed)
        }
        Shows::Started { .. } => Look::Unanswered(failed),
    }
}

/// Returns whether a container that nobody can ask is up, as far as can be seen.
async fn is_as_before(docker: &dyn Docker, container: &Container, shows: Shows<'_>, begun: Instant) -> bool {
    let ran = begun.elapsed();
    let before = match shows {
        Shows::Running => return ran >= STABLE,
        Shows::Started { vitals, .. } => vitals,
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

/// Has the container wait until its database answers a query, for some seconds; returns whether it does.
async fn answers(docker: &dyn Docker, container: &Container, server: &dyn Server, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now()).min(AWAIT_LIMIT);
    let command = server.await_ready_command(container, left);
    exits_with_0(docker, container, &command, left + ASK_LIMIT).await
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
