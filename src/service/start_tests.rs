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
    async fn import_image(&self, _tag: &str, _labels: &BTreeMap<String, String>, _tar: Bytes) -> Answer<()> {
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
