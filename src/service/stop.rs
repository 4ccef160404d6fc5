//! Stops a container: a database in the way that is fast and clean, and never by killing it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::identity::find_recreated;
use super::ready::ASK_LIMIT;
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
/// The signal that asks a program to end, unless it says otherwise.
const USUAL_SIGNAL: &str = "SIGTERM";
/// How long a supervisor has known that it is to stop before its server is asked, too.
const HEAD_START: Duration = Duration::from_millis(300);
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
    let server = database::server_of(container);
    let (signal, grace) = manner(docker, server, container).await;
    let stopped = tokio::select! {
        biased;
        stopped = docker.stop(&container.id, signal, grace, wait) => stopped,
        never = ask_inside(docker, container, server) => match never {},
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
    let status = ["cat", "/proc/1/status"].map(str::to_owned);
    let said = docker.exec(&container.id, &status, ASK_LIMIT).await.ok()?.stdout;
    let handled = handled_signals(&String::from_utf8_lossy(&said))?;
    (handled >> (number_of(USUAL_SIGNAL)? - 1) & 1 == 1).then_some(USUAL_SIGNAL)
}

/// Returns the signals that a process handles, the first in the lowest bit: `SigCgt` in proc(5).
fn handled_signals(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Returns the number of a signal called `SIGTERM`, `TERM` or `15`; `None` for one of real time.
fn number_of(name: &str) -> Option<u32> {
    let full = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
    let named = full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32);
    let number = named.or_else(|| name.parse().ok())?;
    u32::try_from(number).ok().filter(|number| (1..=64).contains(number))
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
    let (signal, grace) = manner(docker, server, container).await;
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
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

/// Returns the signal that asks a container to stop, and how long the engine waits before it kills it.
async fn manner(
    docker: &dyn Docker,
    server: Option<&dyn Server>,
    container: &Container,
) -> (Option<&'static str>, Grace) {
    match server {
        Some(server) if server.shutdown_command(container).is_some() => {
            (supervisor_signal(docker, server, container).await, Grace::Unlimited)
        }
        Some(server) => (Some(server.stop_signal()), Grace::Unlimited),
        None => (None, Grace::Own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signals_that_a_process_handles_are_read_off_its_status() {
        let status = "Name:\tbash\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000014002\n";
        let handled = handled_signals(status).unwrap();
        let handles = |name| number_of(name).map(|number| handled >> (number - 1) & 1 == 1);
        assert_eq!(handles("SIGTERM"), Some(true));
        assert_eq!(handles("INT"), Some(true));
        assert_eq!(handles("3"), Some(false));
        assert_eq!(handles("SIGRTMIN+3"), None);
        assert_eq!(handled_signals("Name:\tbash\n"), None);
    }
}
