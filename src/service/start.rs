//! Starts what was stopped, and waits until it answers.
//!
//! The delicate case is a container that still runs as it did when the stop was asked for: the stop may never have been
//! sent, or the signal may be on its way, or the database may be writing its last checkpoint. Starting it then would be
//! answered with "it runs", and a moment later it would be down for good. So such a container is watched until it has
//! either ended (and is started) or gone on answering for longer than a signal can be under way.
//!
//! Nothing is started beside [somebody who has come](super::newcomer) onto its data meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::health::FailedHealthcheck;
use super::newcomer::{HeldData, refuse_newcomer};
use super::ready::{ASK_LIMIT, Shows, await_ready_of, exits_with_0, not_back, why_ended};
use super::vitals::Vitals;
use super::{Result, ServiceError};
use crate::database::{self, Database, Server};
use crate::engine::{Docker, Grace};
use crate::model::container::Container;
use crate::model::event::{Monitor, Notice};
use crate::model::hint::Hint;
use crate::model::own_commands::OwnCommand;
use crate::saga::RetryBudget;
use crate::service::identity::{ContainerIdentity, find_recreated};

/// Longer than the engine takes to deliver a signal and a database to act on it.
const SIGNAL_UNDER_WAY: Duration = Duration::from_secs(3);
/// Longer than it takes until one shows that it stops which nobody can ask; and until one does that has much to write.
const SHOWS_THAT_IT_STOPS: Duration = Duration::from_secs(13);
const STORE_SHOWS_THAT_IT_STOPS: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// After this long without a container, or one in its place, nobody is about to make it again: Compose takes only
/// seconds for that.
const GONE_FOR_GOOD: Duration = Duration::from_secs(30);
/// After this long on our data, somebody who does what our container did stays there: one that only meets trouble at
/// its start has ended by then.
const TAKEN_FOR_GOOD: Duration = Duration::from_secs(10);

/// A container that is about to be stopped, with what is needed to bring it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedContainer {
    /// How it is found again, even if it was recreated meanwhile.
    pub identity: ContainerIdentity,
    /// When its last run began, as the engine writes it: another value means that somebody has
    /// started it again.
    pub started_at: String,
    /// How long it may take to stop, in seconds, before the engine kills it; `None` if it is never killed.
    pub grace_seconds: Option<i64>,
    /// Whether it answered when it was stopped; one that did not is started and not waited for.
    #[serde(default = "yes")]
    pub answered: bool,
    /// The name of the database that it ran; `None` if none was known, or an older volsnap wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The data that it is stopped for; `None` if it has none of it, or an older volsnap wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<HeldData>,
    /// What was seen of it while it ran; `None` if it showed nothing, or can be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vitals: Option<Vitals>,
    /// Whether it keeps data, and so may take long to write it when it stops.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_store: bool,
    /// Whether its healthcheck failed while it ran, or could not be run: it is not waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unhealthy: bool,
    /// What its owner wants to be asked whether it is back; `None` for what is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<OwnCommand>,
}

fn yes() -> bool {
    true
}

impl StoppedContainer {
    /// Returns the record of a running container that will be stopped, and not be killed.
    #[must_use]
    pub fn of(container: &Container) -> Self {
        let database = database::of(container).map(Database::name);
        Self {
            identity: ContainerIdentity::of(container),
            started_at: container.state.started_at.clone(),
            grace_seconds: None,
            answered: true,
            database: database.map(str::to_owned),
            data: None,
            vitals: None,
            is_store: false,
            unhealthy: false,
            ready: None,
        }
    }

    /// Returns the server that it runs, in the container that it is found as now.
    pub(super) fn server(&self, now: &Container) -> Option<&'static dyn Server> {
        database::server_by(self.database.as_deref(), now)
    }
}

/// Starts containers in the given order, each after the one before it answers. It reports one that somebody has removed
/// for good and leaves it: no attempt would ever find it. It does the same with one in whose place another runs by now:
/// the service is not down, and with both of them it would have two servers.
///
/// # Errors
/// When one does not come back; the others are still started.
pub async fn start_all(
    docker: &dyn Docker,
    containers: &[StoppedContainer],
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut first_error = None;
    for container in containers {
        monitor.step("start-container");
        if let Err(error) =
            bring_back(docker, container, containers, Instant::now() + budget.0, monitor).await
        {
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Starts containers in the given order and waits until each answers, once: it does not try one that ends again, since
/// what that was started on is at fault. Returns the healthchecks that fail although their databases answer, and did
/// not fail before.
///
/// # Errors
/// When one ends, or does not answer before `deadline`.
pub async fn start_once(
    docker: &dyn Docker,
    containers: &[StoppedContainer],
    deadline: Instant,
    monitor: &dyn Monitor,
) -> Result<Vec<FailedHealthcheck>> {
    let mut failed = Vec::new();
    for container in containers {
        monitor.step("start-container");
        let answering = StoppedContainer { answered: true, ..container.clone() };
        failed.extend(attempt(docker, (&answering, true), containers, deadline, monitor).await?);
    }
    Ok(failed)
}

/// Returns the containers that were started and have ended since, each with the reason. It looks only at those of no
/// database that we know and without a healthcheck: all that is known of them is that they ran.
///
/// # Errors
/// When the engine does not tell.
pub async fn ended_since(
    docker: &dyn Docker,
    started: &[StoppedContainer],
) -> Result<Vec<(StoppedContainer, ServiceError)>> {
    let containers = docker.containers().await?;
    let mut ended: Vec<(StoppedContainer, ServiceError)> = Vec::new();
    for wanted in started {
        if ended.iter().any(|(known, _)| known.identity == wanted.identity) {
            continue;
        }
        // One that somebody has removed cannot come back.
        let Some(now) = find_recreated(&wanted.identity, &containers) else { continue };
        // One in whose place another runs by now was never started.
        if refuse_newcomer(wanted, now, started, &containers).is_err() {
            continue;
        }
        let has_healthcheck = !now.healthcheck.is_empty() && !wanted.unhealthy;
        let is_unknown = wanted.server(now).is_none() && !has_healthcheck;
        if is_unknown && (!now.state.running || now.state.restarting) {
            let error = ServiceError::EndedSince {
                container: now.name.clone(),
                exit_code: now.state.exit_code,
                reason: why_ended(docker, now).await,
            };
            ended.push((wanted.clone(), error));
        }
    }
    Ok(ended)
}

async fn bring_back(
    docker: &dyn Docker,
    stopped: &StoppedContainer,
    fellows: &[StoppedContainer],
    deadline: Instant,
    monitor: &dyn Monitor,
) -> Result<()> {
    let (mut pause, mut left_since, mut told) = (POLL, None, false);
    let half = deadline.saturating_duration_since(Instant::now()) / 2;
    loop {
        let error = match attempt(docker, (stopped, false), fellows, deadline, monitor).await {
            Ok(None) => return Ok(()),
            Ok(Some(failed)) => {
                let notice =
                    Notice::from(format!("{failed}, although {}; it passed before", failed.although()));
                monitor.warning(notice.hint(Hint::logs(&failed.container)));
                return Ok(());
            }
            Err(error) => error,
        };
        // Only an engine that answers can say so.
        match for_good_after(&error) {
            None => left_since = None,
            Some(patience) if left_since.get_or_insert_with(Instant::now).elapsed() >= patience.min(half) => {
                monitor.warning(left_alone(stopped, &error));
                return Ok(());
            }
            Some(_) => {}
        }
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        if let ServiceError::Taken { by, succeeds: false, .. } = &error
            && !std::mem::replace(&mut told, true)
        {
            let notice = Notice::from(format!("{error}; it is started once {by} has ended"));
            monitor.warning(notice.hint(Hint::logs(by).why("what it does")));
        }
        // An engine that is away tells nothing, and that is no progress.
        if !matches!(&error, ServiceError::Engine(error) if error.is_in_doubt()) {
            monitor.goes_on();
        }
        tracing::debug!(%error, "not back yet");
        sleep(pause).await;
        // Asking is cheap, and somebody waits for the service.
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Returns after how long of the same failure a container is left as it is; `None` for one that is tried on and on.
fn for_good_after(error: &ServiceError) -> Option<Duration> {
    match error {
        ServiceError::Gone { .. } => Some(GONE_FOR_GOOD),
        ServiceError::Taken { succeeds: true, .. } => Some(TAKEN_FOR_GOOD),
        _ => None,
    }
}

/// Returns what to say of a container that is left as it is.
fn left_alone(stopped: &StoppedContainer, error: &ServiceError) -> Notice {
    let name = &stopped.identity.name;
    match error {
        ServiceError::Taken { by, .. } => {
            let filter =
                format!("volume={}", stopped.data.as_ref().map(HeldData::filter).unwrap_or_default());
            let both = Hint::docker(["ps", "--all", "--filter", &filter]).why("shows both");
            Notice::from(format!(
                "container {name} was stopped by volsnap and stays stopped: somebody has started container {by} in its \
                 place, and two servers on the same data would destroy it"
            ))
            .hint(both)
        }
        _ => Notice::from(format!(
            "container {name} was stopped by volsnap and has been removed by somebody since: it is NOT running, and \
             nothing has its place"
        )),
    }
}

/// One attempt: finds it, waits out a stop that may be under way, starts it, waits until it answers. Returns how its
/// healthcheck fails, if its database answers and it did not fail before.
async fn attempt(
    docker: &dyn Docker,
    (stopped, other_data): (&StoppedContainer, bool),
    fellows: &[StoppedContainer],
    deadline: Instant,
    monitor: &dyn Monitor,
) -> Result<Option<FailedHealthcheck>> {
    let mut containers = docker.containers().await?;
    let Some(mut container) = find_recreated(&stopped.identity, &containers).cloned() else {
        return Err(ServiceError::Gone { container: stopped.identity.name.clone() });
    };
    if container.state.running && container.state.started_at == stopped.started_at {
        if !stopped.answered {
            start_unanswered(docker, &container).await?;
            return Ok(None);
        }
        container = match outlast_stop(docker, &container, stopped, deadline).await? {
            Stop::NeverCame => return Ok(None),
            Stop::Ended(container) => *container,
        };
        // It took a while.
        containers = docker.containers().await?;
    }
    if !container.state.running {
        refuse_newcomer(stopped, &container, fellows, &containers)?;
        docker.start(&container.id).await?;
    }
    if !stopped.answered {
        return Ok(None);
    }
    let shows = Shows::Started {
        vitals: stopped.vitals.as_ref(),
        unhealthy: stopped.unhealthy,
        ready: stopped.ready.as_ref(),
        other_data,
    };
    await_ready_of(docker, &container, stopped.server(&container), shows, deadline, monitor).await
}

/// Starts a container again that did not answer before, and still runs: nobody can wait for an answer. Somebody who has
/// come onto its data came while it ran.
async fn start_unanswered(docker: &dyn Docker, container: &Container) -> Result<()> {
    sleep(SIGNAL_UNDER_WAY).await;
    Ok(docker.start(&container.id).await?)
}

enum Stop {
    /// It went on answering: no stop was sent.
    NeverCame,
    /// It ended (or somebody started it anew).
    Ended(Box<Container>),
}

async fn outlast_stop(
    docker: &dyn Docker,
    container: &Container,
    stopped: &StoppedContainer,
    deadline: Instant,
) -> Result<Stop> {
    let server = stopped.server(container);
    let window = match stopped.grace_seconds {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) + SIGNAL_UNDER_WAY,
        None if server.is_some() => SIGNAL_UNDER_WAY,
        None if stopped.is_store => STORE_SHOWS_THAT_IT_STOPS,
        None => SHOWS_THAT_IT_STOPS,
    };
    let (mut answering_since, mut answered, mut hurried) = (Instant::now(), Instant::now(), false);
    loop {
        let Some(now) = docker.container(&container.id).await? else {
            return Err(not_back(&container.name, "was removed"));
        };
        if !now.state.running || now.state.started_at != stopped.started_at {
            return Ok(Stop::Ended(Box::new(now)));
        }
        match server {
            Some(server) if !answers(docker, &now, server).await => {
                if !hurried && answered.elapsed() > SIGNAL_UNDER_WAY {
                    hurried = true;
                    hurry(docker, &now, server).await;
                }
                // After the hurrying, which takes as long as a signal may be under way: in that time nobody saw an
                // answer.
                answering_since = Instant::now();
            }
            None if listens_no_more(docker, &now, stopped.vitals.as_ref()).await => {
                answering_since = Instant::now();
            }
            _ => answered = Instant::now(),
        }
        if answering_since.elapsed() > window {
            return Ok(Stop::NeverCame);
        }
        if Instant::now() > deadline {
            return Err(not_back(&container.name, "is still stopping"));
        }
        sleep(POLL * 2).await;
    }
}

/// Asks once more for the stop that is under way, and for a fast one. Whoever asked first may have died after the
/// engine sent the container's own signal, which may mean waiting for every session.
async fn hurry(docker: &dyn Docker, container: &Container, server: &dyn Server) {
    let stop = docker.stop(&container.id, Some(server.stop_signal()), Grace::Unlimited, SIGNAL_UNDER_WAY);
    if let Err(error) = stop.await {
        tracing::debug!(%error, "still stopping");
    }
}

/// Returns whether nobody listens any more where somebody listened: it is stopping.
async fn listens_no_more(docker: &dyn Docker, container: &Container, before: Option<&Vitals>) -> bool {
    let Some(before) = before.filter(|before| !before.ports.is_empty()) else { return false };
    Vitals::of(docker, container).await.is_some_and(|now| before.ports.is_disjoint(&now.ports))
}

async fn answers(docker: &dyn Docker, container: &Container, server: &dyn Server) -> bool {
    exits_with_0(docker, container, &server.ready_command(container), ASK_LIMIT).await
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
