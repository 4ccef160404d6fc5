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
    /// Whether its healthcheck failed while it ran: it is not waited for.
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
        failed.extend(attempt(docker, &answering, containers, deadline, monitor).await?);
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
        let error = match attempt(docker, stopped, fellows, deadline, monitor).await {
            Ok(None) => return Ok(()),
            Ok(Some(failed)) => {
                let notice =
                    Notice::from(format!("{failed}, although its database answers; it passed before"));
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
    stopped: &StoppedContainer,
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
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::engine::{Attached, ContainerSpec, Result as Answer};
    use crate::model::container::{ContainerState, EngineInfo, ExecOutput, Image, Volume};
    use crate::model::event::Silent;

    const BEFORE: &str = "2026-11-20T20:30:11.1Z";
    const LATER: &str = "2026-11-20T20:40:11.1Z";

    /// One database container that stops by itself when its time has come, and what was asked of it.
    #[derive(Debug)]
    struct OneContainer(Mutex<World>);

    #[derive(Debug)]
    struct World {
        container: Container,
        stops_at: Option<Instant>,
        /// Whether it answers while it runs as it did before.
        answers: bool,
        /// How often it still says that it is not ready.
        not_ready: u32,
        /// The commands that were run in it.
        commands: Vec<Vec<String>>,
        /// Whether the first stop ends only after a second stop request.
        waits_for_sessions: bool,
        /// What its first process is called at each look; the last one stays.
        processes: Vec<&'static str>,
        asked: Vec<&'static str>,
    }

    impl OneContainer {
        fn running() -> Self {
            let state = ContainerState {
                status: "running".into(),
                running: true,
                started_at: BEFORE.into(),
                ..ContainerState::default()
            };
            let container = Container {
                id: "0123456789abcdef".into(),
                name: "db".into(),
                image: "postgres:15".into(),
                command: vec!["docker-entrypoint.sh".into(), "postgres".into()],
                state,
                ..Container::default()
            };
            assert!(database::of(&container).is_some());
            Self(Mutex::new(World {
                container,
                stops_at: None,
                answers: true,
                not_ready: 0,
                commands: Vec::new(),
                processes: Vec::new(),
                waits_for_sessions: false,
                asked: Vec::new(),
            }))
        }

        fn stopping(after: Duration) -> Self {
            let docker = Self::running();
            docker.world(|world| {
                world.stops_at = Some(Instant::now() + after);
                world.answers = false;
            });
            docker
        }

        fn world<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
            let mut world = self.0.lock().unwrap();
            if world.stops_at.is_some_and(|at| at <= Instant::now()) && !world.waits_for_sessions {
                world.stops_at = None;
                world.container.state.running = false;
            }
            act(&mut world)
        }

        /// Brings it back as it was recorded before the stop; returns what the engine was asked to do.
        async fn bring_back(&self) -> Vec<&'static str> {
            let stopped = StoppedContainer::of(&Self::running().world(|world| world.container.clone()));
            start_all(self, &[stopped], RetryBudget(Duration::from_secs(20)), &Silent).await.unwrap();
            assert!(self.world(|world| world.container.state.running), "it is down");
            self.world(|world| world.asked.clone())
        }
    }

    #[async_trait]
    impl Docker for OneContainer {
        async fn engine(&self) -> Answer<EngineInfo> {
            unreachable!()
        }
        async fn containers(&self) -> Answer<Vec<Container>> {
            Ok(self.world(|world| vec![world.container.clone()]))
        }
        async fn container(&self, _id: &str) -> Answer<Option<Container>> {
            Ok(self.world(|world| Some(world.container.clone())))
        }
        async fn volumes(&self) -> Answer<Vec<Volume>> {
            unreachable!()
        }
        async fn create_volume(
            &self,
            _name: &str,
            _labels: &std::collections::BTreeMap<String, String>,
        ) -> Answer<()> {
            unreachable!()
        }
        async fn remove_volume(&self, _name: &str) -> Answer<()> {
            unreachable!()
        }
        async fn volume(&self, _name: &str) -> Answer<Option<Volume>> {
            unreachable!()
        }
        async fn start(&self, _id: &str) -> Answer<()> {
            self.world(|world| {
                world.asked.push("start");
                // For the engine, starting one that runs already is success, though it may be stopping.
                if !world.container.state.running {
                    world.container.state.running = true;
                    world.container.state.started_at = LATER.into();
                }
            });
            Ok(())
        }
        async fn stop(&self, _id: &str, signal: Option<&str>, grace: Grace, _wait: Duration) -> Answer<()> {
            assert_eq!((signal, grace), (Some("SIGINT"), Grace::Unlimited));
            self.world(|world| {
                world.asked.push("stop");
                world.waits_for_sessions = false;
            });
            Ok(())
        }
        async fn pause(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
        async fn unpause(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
        async fn lower_priority(&self, _id: &str) -> Answer<()> {
            unreachable!()
        }
        async fn exec(&self, _id: &str, command: &[String], _limit: Duration) -> Answer<ExecOutput> {
            if command[0] == "cat" {
                let process = self.world(|world| match world.processes.len() {
                    0 => None,
                    1 => Some(world.processes[0]),
                    _ => Some(world.processes.remove(0)),
                });
                let said = |process| format!("Name:\t{process}\nSigBlk:\t0\nSigCgt:\t4000\n").into_bytes();
                let stdout = process.map(said).unwrap_or_default();
                return Ok(ExecOutput { stdout, ..ExecOutput::default() });
            }
            let answers = self.world(|world| {
                world.commands.push(command.to_owned());
                if world.not_ready > 0 {
                    world.not_ready -= 1;
                    return false;
                }
                let state = &world.container.state;
                state.running && (world.answers || state.started_at == LATER)
            });
            Ok(ExecOutput { exit_code: i64::from(!answers), ..ExecOutput::default() })
        }
        async fn processes(&self, _id: &str) -> Answer<Vec<crate::model::container::Process>> {
            unreachable!()
        }
        async fn logs(&self, _id: &str, _lines: u32) -> Answer<String> {
            Ok(String::new())
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
        async fn inspect_raw(&self, _id: &str) -> Answer<crate::engine::RawInspect> {
            unreachable!()
        }
        async fn clone_container(
            &self,
            _model: &crate::engine::RawInspect,
            _name: &str,
            _destination: &std::path::Path,
            _source: &crate::model::location::MountSource,
        ) -> Answer<String> {
            unreachable!()
        }
        async fn rename_container(&self, _id: &str, _name: &str) -> Answer<()> {
            unreachable!()
        }
        async fn remove_stopped_container(&self, _id: &str) -> Answer<()> {
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
    async fn a_stop_that_is_under_way_is_waited_for_and_then_undone() {
        assert_eq!(OneContainer::stopping(Duration::from_secs(1)).bring_back().await, ["start"]);
    }

    #[tokio::test]
    async fn a_stop_that_comes_late_is_not_missed() {
        let docker = OneContainer::stopping(Duration::from_secs(2));
        docker.world(|world| world.answers = true);
        assert_eq!(docker.bring_back().await, ["start"]);
    }

    #[tokio::test]
    async fn a_container_that_was_never_asked_to_stop_is_left_alone() {
        assert!(OneContainer::running().bring_back().await.is_empty());
    }

    #[tokio::test]
    async fn a_container_that_somebody_has_started_since_is_left_alone() {
        let docker = OneContainer::running();
        docker.world(|world| world.container.state.started_at = LATER.into());
        assert!(docker.bring_back().await.is_empty());
    }

    /// Stops the container, gives it an image and a command that no longer say what it runs, and starts it as the
    /// journal has it; returns what was run in it.
    async fn started_from_a_changed_image(line: serde_json::Value) -> Vec<Vec<String>> {
        let docker = OneContainer::running();
        docker.world(|world| {
            world.container.image = "registry.example/shop/db:2".into();
            world.container.command = vec!["/start".into()];
            world.container.state.running = false;
            world.not_ready = 3;
            assert!(database::of(&world.container).is_none());
        });
        let stopped: StoppedContainer = serde_json::from_value(line).unwrap();
        start_all(&docker, &[stopped], RetryBudget(Duration::from_secs(20)), &Silent).await.unwrap();
        docker.world(|world| {
            assert_eq!(world.asked, ["start"]);
            world.commands.clone()
        })
    }

    /// Starts one that nobody can ask, which was called "server" before; returns how long that took.
    async fn started_unasked(processes: &[&'static str]) -> Duration {
        let docker = OneContainer::running();
        let stopped = docker.world(|world| {
            world.container.image = "shop".into();
            world.container.command = vec!["/entry.sh".into(), "server".into()];
            world.container.state.running = false;
            world.processes = processes.to_vec();
            let vitals = Vitals { process: "server".to_owned(), ..Vitals::default() };
            StoppedContainer { vitals: Some(vitals), ..StoppedContainer::of(&world.container) }
        });
        let begun = Instant::now();
        start_once(&docker, &[stopped], begun + Duration::from_mins(1), &Silent).await.unwrap();
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_can_ask_is_waited_for_until_its_entrypoint_has_become_the_server() {
        let at_once = started_unasked(&["server"]).await;
        assert!(at_once >= Duration::from_secs(3), "{at_once:?}: it must go on running for some seconds");
        let walks = [["entry.sh"; 100].as_slice(), &["server"]].concat();
        let later = started_unasked(&walks).await;
        assert!(later > Duration::from_secs(15), "{later:?}: its entrypoint was still at work");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_shows_nothing_must_go_on_running_for_some_seconds() {
        let took = started_unasked(&[]).await;
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
    }

    fn line() -> serde_json::Value {
        let stopped = StoppedContainer::of(&OneContainer::running().world(|world| world.container.clone()));
        serde_json::to_value(stopped).unwrap()
    }

    #[tokio::test]
    async fn a_database_is_waited_for_by_its_own_command_though_its_image_does_not_say_it_any_more() {
        let server = database::named("postgresql").and_then(Database::server).unwrap();
        let commands = started_from_a_changed_image(line()).await;
        // It was asked until it answered. The difference is how long each question may take.
        assert_eq!(commands.len(), 4, "{commands:?}");
        let question = &server.ready_command(&Container::default())[..6];
        for command in &commands {
            assert_eq!(&command[..6], question);
        }
    }

    #[tokio::test]
    async fn a_line_that_does_not_say_the_database_leaves_it_to_the_container() {
        let mut old = line();
        old.as_object_mut().unwrap().remove("database").unwrap();
        assert!(started_from_a_changed_image(old.clone()).await.is_empty(), "nothing says how to ask it");
        // As long as its image says what it runs, it is asked.
        let docker = OneContainer::running();
        docker.world(|world| world.container.state.running = false);
        let stopped: StoppedContainer = serde_json::from_value(old).unwrap();
        start_all(&docker, &[stopped], RetryBudget(Duration::from_secs(20)), &Silent).await.unwrap();
        assert_eq!(docker.world(|world| world.commands.len()), 1);
    }

    #[tokio::test]
    async fn a_database_is_stopped_again_by_its_own_signal_though_its_image_does_not_say_it_any_more() {
        let docker = OneContainer::running();
        let stopped = StoppedContainer::of(&docker.world(|world| world.container.clone()));
        docker.world(|world| world.container.command = vec!["/start".into()]);
        // The engine here takes no other signal, and no grace after which it kills.
        crate::service::stop::stop_all_again(&docker, &[stopped], &Silent).await.unwrap();
        assert_eq!(docker.world(|world| world.asked.clone()), ["stop"]);
    }

    /// Records what it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<crate::model::event::Event>>);

    impl Monitor for Told {
        fn event(&self, event: crate::model::event::Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_for_a_database_is_told_of_and_lets_itself_be_dropped() {
        let docker = OneContainer::running();
        // Like one that recovers.
        docker.world(|world| world.answers = false);
        let (told, container) = (Told::default(), docker.world(|world| world.container.clone()));
        let deadline = Instant::now() + Duration::from_hours(6);
        let waiting = crate::service::ready::await_ready(&docker, &container, deadline, &told);
        let dropped = tokio::time::timeout(Duration::from_mins(10), waiting).await;
        assert!(dropped.is_err());
        let notes = told.0.into_inner().unwrap();
        let after = |minutes: u32| {
            let text =
                format!("container db runs and does not answer yet, after {minutes} min; it is waited for");
            crate::model::event::Event::Note(text.into())
        };
        assert_eq!(notes, [1, 2, 4, 8].map(after));
    }

    /// Nobody comes back within half of this.
    const IMPATIENT: RetryBudget = RetryBudget(Duration::from_secs(2));

    #[tokio::test]
    async fn a_container_that_somebody_has_removed_for_good_is_told_of_and_let_be() {
        let docker = OneContainer::running();
        let stopped = StoppedContainer::of(&docker.world(|world| world.container.clone()));
        docker.world(|world| {
            world.container.id = "fedcba9876543210".into();
            world.container.name = "another".into();
        });
        let (told, begun) = (Told::default(), Instant::now());
        start_all(&docker, &[stopped], IMPATIENT, &told).await.unwrap();
        assert!(begun.elapsed() >= IMPATIENT.0 / 2);
        let told = told.0.into_inner().unwrap();
        assert!(
            matches!(&told[..], [crate::model::event::Event::Warning(said)] if said.text.starts_with("container db was")),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn a_container_that_comes_back_under_its_name_is_started() {
        let docker = std::sync::Arc::new(OneContainer::running());
        let stopped = StoppedContainer::of(&docker.world(|world| world.container.clone()));
        docker.world(|world| {
            world.container.id = "fedcba9876543210".into();
            world.container.name = "another".into();
            world.container.state.running = false;
        });
        let recreated = docker.clone();
        tokio::spawn(async move {
            sleep(IMPATIENT.0 / 4).await;
            recreated.world(|world| world.container.name = "db".into());
        });
        start_all(&*docker, &[stopped], IMPATIENT, &Silent).await.unwrap();
        assert!(docker.world(|world| world.container.state.running));
    }

    #[tokio::test]
    async fn a_stop_that_has_no_end_is_asked_for_once_more() {
        let docker = OneContainer::stopping(Duration::ZERO);
        docker.0.lock().unwrap().waits_for_sessions = true;
        docker.0.lock().unwrap().container.state.running = true;
        assert_eq!(docker.bring_back().await, ["stop", "start"]);
    }
}
