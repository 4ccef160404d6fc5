//! Stops a container: a database in the way that is fast and clean, any other by its own signal. None is killed, unless
//! somebody has said that it may be.
//!
//! What keeps data is given ten minutes; any other container the grace that its owner wrote. One that has not stopped by
//! then goes on as it is, as far as it does.

use std::convert::Infallible;
use std::str::FromStr as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::identity::find_recreated;
use super::ready::ASK_LIMIT;
use super::start::StoppedContainer;
use super::vitals::Vitals;
use super::{Result, ServiceError};
use crate::database::{self, Server};
use crate::engine::{Docker, DockerErrorKind, Grace};
use crate::model::container::Container;
use crate::model::event::Monitor;
use crate::model::labels::LABEL_KILL;

/// How long a store may take to stop: what it has in memory must go to the disk.
const STORE_LIMIT: Duration = Duration::from_mins(10);
/// How long any other container may take whose owner has not said it.
const OTHER_LIMIT: Duration = Duration::from_mins(1);
/// How long the engine may take to kill one that may be killed.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How long a container that must not go on is asked again and again before it is killed: what it runs on is given up.
const ASK_AGAIN_LIMIT: Duration = Duration::from_mins(1);
/// How long it may take to stop in all.
const STOP_LIMIT: Duration = Duration::from_mins(10);
/// After how long a container that must not go on is asked again.
const STOP_AGAIN: Duration = Duration::from_secs(3);
/// The signal that asks a program to end, unless it says otherwise.
const USUAL_SIGNAL: &str = "SIGTERM";
/// How long a supervisor has known that it is to stop before its server is asked, too.
const HEAD_START: Duration = Duration::from_millis(300);
/// How often the engine is asked while a container stops: an engine that answers is progress.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// The signal, if it is not the container's own.
    signal: Option<&'static str>,
    /// After how long the engine kills it.
    pub(super) grace: Grace,
    /// How long it may take.
    pub limit: Duration,
}

impl Manner {
    /// Returns how a container is stopped; `limit` is the user's.
    #[must_use]
    pub fn of(container: &Container, is_store: bool, may_kill: bool, limit: Option<Duration>) -> Self {
        if let Some(server) = database::server_of(container) {
            let limit = limit.unwrap_or_else(|| server.stop_timeout());
            return Self { signal: Some(server.stop_signal()), grace: Grace::Unlimited, limit };
        }
        let own =
            container.stop_timeout.and_then(|seconds| u32::try_from(seconds).ok()).filter(|own| *own > 0);
        let own = own.map_or(OTHER_LIMIT, |seconds| Duration::from_secs(seconds.into()));
        let patience = if is_store { STORE_LIMIT } else { own };
        let limit = limit.unwrap_or(patience);
        if may_kill {
            let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
            return Self { signal: None, grace: Grace::Seconds(seconds), limit: limit + KILL_LIMIT };
        }
        Self { signal: None, grace: Grace::Unlimited, limit }
    }

    /// Returns after how many seconds the engine kills it; `None` if it never does.
    #[must_use]
    pub fn grace_seconds(&self) -> Option<i64> {
        match self.grace {
            Grace::Seconds(seconds) => Some(seconds.into()),
            Grace::Unlimited | Grace::Own => None,
        }
    }
}

/// Returns whether a container may be killed by its own label.
#[must_use]
pub fn may_be_killed(container: &Container) -> bool {
    container.labels.get(LABEL_KILL).is_some_and(|label| label == "true")
}

/// Returns whether a container cannot stop by itself: its first process does nothing at its stop signal.
#[must_use]
pub fn is_deaf(container: &Container, vitals: &Vitals) -> bool {
    let signal = container.stop_signal.as_deref().unwrap_or("SIGTERM");
    // A signal that we cannot read, such as a real-time one, is left to the engine.
    number_of(signal).is_some_and(|signal| signal != Signal::SIGKILL && !vitals.hears(signal as u32))
}

fn number_of(signal: &str) -> Option<Signal> {
    let upper = signal.to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return Signal::try_from(number).ok();
    }
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full).ok()
}

/// Asks a container to stop, and returns once it has.
///
/// # Errors
/// When it has not stopped in time; then it goes on stopping.
pub async fn stop(
    docker: &dyn Docker,
    container: &Container,
    manner: Manner,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.step("stop-container");
    let Manner { signal, grace, limit } = manner;
    let server = database::server_of(container);
    let signal = signal_of(docker, server, container, signal).await;
    let stopped = tokio::select! {
        biased;
        stopped = docker.stop(&container.id, signal, grace, limit) => stopped,
        never = ask_inside(docker, container, server) => match never {},
        never = look_on(docker, container, monitor) => match never {},
    };
    stopped.map_err(|error| match error.kind {
        DockerErrorKind::TimedOut => ServiceError::NotStopped {
            container: container.name.clone(),
            seconds: limit.as_secs(),
            source: error,
        },
        _ => error.into(),
    })
}

/// Returns the signal that a container is stopped by, if it is not its own: `usual`, or the supervisor's where the
/// server is not the first process.
async fn signal_of(
    docker: &dyn Docker,
    server: Option<&dyn Server>,
    container: &Container,
    usual: Option<&'static str>,
) -> Option<&'static str> {
    match server {
        Some(server) if server.shutdown_command(container).is_some() => {
            supervisor_signal(docker, server, container).await
        }
        _ => usual,
    }
}

/// Returns the signal for a supervisor, if it is not its container's own. A container has the stop signal of its image,
/// which may be meant for the server; a supervisor that handles the usual signal ends by that one.
async fn supervisor_signal(
    docker: &dyn Docker,
    server: &dyn Server,
    container: &Container,
) -> Option<&'static str> {
    let own = number_of(container.stop_signal.as_deref().unwrap_or(USUAL_SIGNAL));
    if own != number_of(server.stop_signal()) {
        return None;
    }
    let vitals = Vitals::of(docker, container).await?;
    vitals.hears(Signal::SIGTERM as u32).then_some(USUAL_SIGNAL)
}

/// Asks a server for a fast shutdown that the engine's signal does not reach, and then waits for ever. The engine has
/// asked its supervisor by then, which starts nothing again.
async fn ask_inside(docker: &dyn Docker, container: &Container, server: Option<&dyn Server>) -> Infallible {
    if let Some(command) = server.and_then(|server| server.shutdown_command(container)) {
        sleep(HEAD_START).await;
        match docker.exec(&container.id, &command, ASK_LIMIT).await {
            Ok(output) if output.exit_code == 0 => {}
            refused => {
                tracing::debug!(container = container.name, ?refused, "cannot ask the server itself to stop");
            }
        }
    }
    std::future::pending().await
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
    let begun = Instant::now();
    let deadline = begun + STOP_LIMIT;
    let signal = signal_of(docker, server, container, server.map(Server::stop_signal)).await;
    loop {
        let grace = match server {
            // It may be a script that hears nothing, and never becomes what it should.
            None if begun.elapsed() > ASK_AGAIN_LIMIT => Grace::Seconds(1),
            _ => Grace::Unlimited,
        };
        let asked = tokio::select! {
            biased;
            asked = docker.stop(&container.id, signal, grace, STOP_AGAIN) => asked,
            never = ask_inside(docker, container, server) => match never {},
        };
        match asked {
            Err(error) if error.kind == DockerErrorKind::TimedOut && Instant::now() < deadline => {}
            stopped => return stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Duration = Duration::from_secs(7);

    fn container(stop_timeout: Option<i64>) -> Container {
        Container { stop_timeout, ..Container::default() }
    }

    #[test]
    fn a_store_has_ten_minutes_and_any_other_what_its_owner_wrote() {
        let of = |container: &Container, is_store| Manner::of(container, is_store, false, None);
        assert_eq!(of(&container(Some(7)), true).limit, STORE_LIMIT);
        assert_eq!(of(&container(Some(7)), false).limit, OWN);
        assert_eq!(of(&container(None), false).limit, OTHER_LIMIT);
        assert_eq!(of(&container(Some(-1)), false).limit, OTHER_LIMIT);
        for is_store in [true, false] {
            assert_eq!(of(&container(Some(7)), is_store).grace, Grace::Unlimited, "nobody is killed");
            let said = Manner::of(&container(Some(7)), is_store, false, Some(Duration::from_secs(90)));
            assert_eq!(said.limit, Duration::from_secs(90));
        }
    }

    #[test]
    fn one_that_may_be_killed_is_killed_once_its_time_is_over() {
        let manner = Manner::of(&container(Some(7)), false, true, None);
        assert_eq!((manner.grace, manner.limit), (Grace::Seconds(7), OWN + KILL_LIMIT));
        assert_eq!(manner.grace_seconds(), Some(7));
    }

    #[test]
    fn a_container_is_deaf_if_its_first_process_does_nothing_at_its_own_signal() {
        let with = |stop_signal: Option<&str>| Container {
            stop_signal: stop_signal.map(str::to_owned),
            ..Container::default()
        };
        let hears_int = Vitals { heard: 1 << 1, ..Vitals::default() };
        assert!(is_deaf(&with(None), &hears_int));
        for signal in ["SIGINT", "int", "2", "SIGKILL", "SIGRTMIN+3"] {
            assert!(!is_deaf(&with(Some(signal)), &hears_int), "{signal}");
        }
    }
}
