//! While the service is held, somebody starts another server on its data. Ours is not started beside it, whoever
//! would: the run, what undoes it, or a later command.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use volsnap::ErrorKind;
use volsnap::engine::Docker;
use volsnap::model::container::Container;
use volsnap::model::event::{Event, Monitor};
use volsnap::ops::recover::recover;
use volsnap::saga::RetryBudget;

use crate::simulated::faults::Scenario;
use crate::simulated::restarts::Restart;
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{KEPT, World, run};

/// What the user was told.
#[derive(Default)]
pub(crate) struct Told(Mutex<Vec<String>>);

impl Monitor for Told {
    fn event(&self, event: Event) {
        if let Event::Warning(notice) = event {
            self.0.lock().unwrap().push(notice.text);
        }
    }
}

impl Told {
    /// Returns all of it.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

impl World {
    /// Has `template` started on the data as soon as the database has ended, and ended after `stays`.
    fn start_meanwhile(&self, template: Container, stays: Option<Duration>) {
        let (engine, begun) = (self.engine.clone(), AtomicBool::new(false));
        self.failing.on_call(move |call| {
            if call.name != "stop" || begun.swap(true, Ordering::Relaxed) {
                return;
            }
            let (engine, template) = (engine.clone(), template.clone());
            tokio::spawn(async move {
                while engine.container("db").await.unwrap().unwrap().state.running {}
                let id = engine.add(template).unwrap();
                engine.start(&id).await.unwrap();
                if let Some(stays) = stays {
                    tokio::time::sleep(stays).await;
                    engine.stop(&id, None, volsnap::engine::Grace::Own, stays).await.unwrap();
                }
            });
        });
    }

    async fn assert_succeeded(&self, context: &str) {
        assert_eq!(self.engine.violations(), Vec::<String>::new(), "{context}");
        let running = ["db", "app", "new"].map(|name| self.container(name));
        let running = futures_util::future::join_all(running).await;
        let running: Vec<_> = running.iter().map(|one| one.state.running).collect();
        assert_eq!(running, [false, true, true], "{context}: db, app, new");
        assert!(self.answers("new").await, "{context}");
        let rows = self.rows(&self.engine.directory_of(crate::simulated::DATA));
        assert_eq!(rows, KEPT.1, "{context}");
        assert!(
            !self.state().join("journals").read_dir().is_ok_and(|mut left| left.next().is_some()),
            "{context}"
        );
    }
}

/// One like `before`, as an orchestrator makes the next.
fn another(before: &Container) -> Container {
    let Container { image, command, env, mounts, .. } = before.clone();
    Container { name: "new".to_owned(), image, command, env, mounts, ..Container::default() }
}

#[test]
fn another_server_on_the_data_is_never_joined_by_ours() {
    for scenario in [&Restart::PLAIN as &dyn Scenario, &TakeSnapshot::STOP_DIRECT, &TakeSnapshot::STOP_STAGED]
    {
        run(async {
            let mut world = World::new(false).await;
            world.arm(None);
            let told = std::sync::Arc::new(Told::default());
            world.host.monitor = told.clone();
            world.start_meanwhile(another(&world.container("db").await), None);
            let error = scenario.act(&world).await.unwrap_err();
            // The service runs, though not by us: nothing waits to be put back.
            assert_eq!(error.kind(), ErrorKind::Failed, "{}", error.chain());
            let said = format!("{}; {}", error.chain(), error.state_text().unwrap_or_default());
            assert!(said.contains("container db is not started, since container new"), "{said}");
            assert!(!said.contains("everything that was stopped runs again"), "{said}");
            let told = told.0.lock().unwrap().join("\n");
            assert!(told.contains("has started container new in its place"), "{told}");
            world.assert_succeeded(&said).await;
        });
    }
}

#[test]
fn nor_is_it_joined_by_whoever_finishes_a_dead_run() {
    run(async {
        let mut world = World::new(false).await;
        world.arm(None);
        let hook = world.engine.clone();
        // It dies with everything stopped.
        let died = {
            let act = Restart::PLAIN.act(&world);
            tokio::pin!(act);
            let stopped = async { while hook.container("db").await.unwrap().unwrap().state.running {} };
            tokio::select! { _ = &mut act => false, () = stopped => true }
        };
        assert!(died);
        let id = world.engine.add(another(&world.container("db").await)).unwrap();
        world.engine.start(&id).await.unwrap();
        recover(&world.host, RetryBudget::COMMAND).await.unwrap();
        world.assert_succeeded("recovered").await;
    });
}

#[test]
fn ours_is_started_once_another_server_has_left_its_data() {
    run(async {
        let mut world = World::new(false).await;
        world.arm(None);
        let told = std::sync::Arc::new(Told::default());
        world.host.monitor = told.clone();
        let mut tool = another(&world.container("app").await);
        tool.image = "helper:1".to_owned();
        tool.command = ["sh", "-c", "redis-server"].map(str::to_owned).into();
        world.start_meanwhile(tool, Some(Duration::from_secs(60)));
        Restart::PLAIN.act(&world).await.unwrap();
        assert!(world.answers("db").await);
        assert!(!world.container("new").await.state.running);
        let told = told.0.lock().unwrap().clone();
        let waits = |text: &&String| text.contains("it is started once new has ended");
        assert_eq!(told.iter().filter(waits).count(), 1, "{told:?}");
    });
}

#[test]
fn one_that_stays_for_ever_leaves_ours_to_be_put_back() {
    run(async {
        let mut world = World::new(false).await;
        world.arm(None);
        let mut tool = another(&world.container("app").await);
        tool.image = "helper:1".to_owned();
        tool.command = ["sh", "-c", "redis-server"].map(str::to_owned).into();
        world.start_meanwhile(tool, None);
        let error = Restart::PLAIN.act(&world).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPutBack, "{}", error.chain());
        let hints: Vec<_> = error.hints().iter().map(ToString::to_string).collect();
        assert!(
            hints.iter().all(|hint| !hint.contains("docker start")),
            "that would be the second: {hints:?}"
        );
        assert!(hints.iter().any(|hint| hint.starts_with("volsnap recover")), "{hints:?}");
        // Once it is gone, the next command puts ours back.
        world.engine.stop("new", None, volsnap::engine::Grace::Own, Duration::from_secs(5)).await.unwrap();
        recover(&world.host, RetryBudget::COMMAND).await.unwrap();
        assert!(world.answers("db").await && world.container("app").await.state.running);
    });
}

#[test]
fn a_program_that_is_no_server_keeps_nobody_down() {
    run(async {
        let mut world = World::new(false).await;
        world.arm(None);
        let mut tool = another(&world.container("app").await);
        tool.image = "helper:1".to_owned();
        tool.command = ["sh", "-c", "tool"].map(str::to_owned).into();
        world.start_meanwhile(tool, None);
        // Whatever becomes of the run: somebody could write while it was at work.
        drop(Restart::PLAIN.act(&world).await);
        assert!(world.answers("db").await && world.container("app").await.state.running);
    });
}
