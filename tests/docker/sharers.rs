//! Containers that share the network of the database, or its memory: they have them again after whatever was done to
//! the database, also where it is another container by then.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::compose2::Compose2;
use crate::database::{Postgres, Volsnap, Watched};
use crate::program::Ran;
use crate::project::Project;
use crate::world::{LABEL, World, docker};

/// One that shares the network, one that shares the memory, and one that shared the network and has ended.
const SHARERS: &str = r#"
  side:
    image: ${POSTGRES_IMAGE}
    network_mode: "service:db"
    stop_signal: SIGTERM
    entrypoint: ["bash", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $$!; done"]
    tmpfs: /var/lib/postgresql/data
    labels: ["${VOLSNAP_LABEL}"]
  views:
    image: ${POSTGRES_IMAGE}
    ipc: "service:db"
    network_mode: none
    stop_signal: SIGTERM
    entrypoint: ["bash", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $$!; done"]
    tmpfs: /var/lib/postgresql/data
    labels: ["${VOLSNAP_LABEL}"]
  ended:
    image: ${POSTGRES_IMAGE}
    network_mode: "service:db"
    entrypoint: ["bash", "-c", "exit 0"]
    tmpfs: /var/lib/postgresql/data
    labels: ["${VOLSNAP_LABEL}"]

volumes:
"#;

const BACK_LIMIT: Duration = Duration::from_secs(30);

/// The fixture's project with these beside its database, and a container of nobody's project on the same network.
struct Scene {
    project: Project,
    postgres: Postgres,
    volsnap: Volsnap,
    /// The second Compose; none for the one that is installed.
    compose: Option<Compose2>,
    data: tempfile::TempDir,
}

impl Scene {
    async fn new(compose: Option<Compose2>) -> Self {
        let (world, volsnap) = (World::new().await, Volsnap::new());
        let project = Project::new(&world);
        let shareable = "  db:\n    ipc: shareable\n";
        project.rewrite(|text| text.replace("\nvolumes:\n", SHARERS).replacen("  db:\n", shareable, 1));
        let services = ["up", "-d", "--no-deps", "db", "side", "views", "ended"];
        match &compose {
            Some(compose) => compose.run(&project, &services, &[]),
            None => project.compose(&services),
        }
        let postgres = Postgres { container: project.service(), volume: project.volume("db_data"), world };
        postgres.await_answer();
        postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
        run_on(&postgres, &format!("container:{}", postgres.container));
        Self { project, postgres, volsnap, compose, data: tempfile::tempdir().unwrap() }
    }

    fn stranger(&self) -> String {
        self.postgres.world.name("stranger")
    }

    fn place(&self) -> PathBuf {
        self.data.path().join("postgres")
    }

    fn run(&self, verb: &str, options: &[&str]) -> Ran {
        let target = self.project.target();
        let arguments = [&[verb, target.as_str()], options].concat();
        match &self.compose {
            Some(compose) => self.volsnap.run_with(&arguments, &[("PATH", &compose.path())]),
            None => self.volsnap.run(arguments),
        }
    }

    /// Returns the container of a service, running or not.
    fn container(&self, service: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project.name);
        let service = format!("label=com.docker.compose.service={service}");
        docker(&["ps", "-aq", "--no-trunc", "--filter", &project, "--filter", &service])
    }

    /// Each has what it shared of the database that there is now, and is in the state that it was in.
    #[track_caller]
    fn assert_shared(&mut self) {
        self.postgres.container = self.project.service();
        self.postgres.assert_whole();
        let of = format!("container:{}", self.postgres.container);
        for container in [self.container("side"), self.stranger()] {
            assert_eq!(docker(&["inspect", "--format", "{{.HostConfig.NetworkMode}}", &container]), of);
            assert!(reaches_database(&container), "{container} has no network");
        }
        let views = self.container("views");
        assert_eq!(docker(&["inspect", "--format", "{{.HostConfig.IpcMode}}", &views]), of);
        let memory = |container: &str| docker(&["exec", container, "stat", "-c", "%d", "/dev/shm"]);
        assert_eq!(memory(&views), memory(&self.postgres.container), "another one's memory");
        let state = "{{.HostConfig.NetworkMode}} {{.State.Running}}";
        assert_eq!(docker(&["inspect", "--format", state, &self.container("ended")]), format!("{of} false"));
        let aside = docker(&["ps", "-aq", "--filter", "name=volsnap-rejoins"]);
        assert_eq!(aside, "", "one lies aside");
        self.volsnap.assert_no_leftovers();
        self.postgres.assert_no_helper();
    }
}

fn run_on(postgres: &Postgres, network: &str) {
    let label = format!("{LABEL}={}", std::process::id());
    let (name, image) = (postgres.world.name("stranger"), crate::database::image());
    let fixed = ["run", "-d", "--name", &name, "--label", &label, "--network", network];
    let idle = ["--stop-signal", "SIGTERM", "--tmpfs", "/var/lib/postgresql/data", "--entrypoint", "bash"];
    let script = "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done";
    docker(&[&fixed[..], &idle, &[&image, "-c", script]].concat());
}

fn reaches_database(container: &str) -> bool {
    let query = ["psql", "-XAtq", "-h", "127.0.0.1", "-U", "user", "memory_db", "-c", "select 1"];
    let mut asked = Command::new("docker");
    asked.args(["exec", "-e", "PGPASSWORD=secret-word", container]).args(query);
    asked.output().unwrap().status.success()
}

/// Returns the sharers of a plan, each with the service that Compose makes anew.
fn planned(plan: &Value) -> Vec<(String, bool)> {
    let sharers = plan["sharers"].as_array().unwrap().iter();
    let mut planned: Vec<_> = sharers
        .map(|one| (one["shares"][0].as_str().unwrap().to_owned(), one["service"].is_string()))
        .map(|(shares, composed)| (shares.split(" of ").next().unwrap().to_owned(), composed))
        .collect();
    planned.sort();
    planned
}

async fn who_shares_something_has_it_after_everything(compose: Option<Compose2>) {
    // Version 1 would give them a network of their own.
    let composed = compose.is_some();
    let mut scene = Scene::new(compose).await;
    scene.assert_shared();
    let _ = scene.run("snapshot", &["--quiet"]).expect(0);
    scene.assert_shared();

    let place = scene.place();
    let plan = scene.run("migrate", &[place.to_str().unwrap(), "--dry-run", "--json"]).json();
    let network = |composed| ("network".to_owned(), composed);
    let mut expected = vec![network(false), network(composed), network(composed)];
    expected.push(("shared memory".to_owned(), composed));
    expected.sort();
    assert_eq!(planned(&plan), expected, "{plan:#}");
    let _ = scene.run("migrate", &[place.to_str().unwrap(), "-y"]).expect(0);
    scene.assert_shared();
    let _ = scene.run("migrate", &["--back", "-y"]).expect(0);
    scene.assert_shared();

    let plan = scene.run("restart", &["--recreate", "--dry-run", "--json"]).json();
    assert_eq!(planned(&plan).len(), 4, "{plan:#}");
    let before = scene.postgres.container.clone();
    let _ = scene.run("restart", &["--recreate", "-y"]).expect(0);
    scene.assert_shared();
    assert_ne!(scene.postgres.container, before);

    // What is done by hand now leaves it so.
    let services = ["up", "-d", "--no-deps", "db", "side", "views"];
    match &scene.compose {
        Some(compose) => compose.run(&scene.project, &services, &[]),
        None => scene.project.compose(&services),
    }
    scene.assert_shared();
}

#[tokio::test]
async fn who_shares_the_network_of_the_database_has_it_whatever_docker_compose_1_does() {
    who_shares_something_has_it_after_everything(None).await;
}

#[tokio::test]
async fn who_shares_the_network_of_the_database_has_it_whatever_compose_2_does() {
    let Some(compose) = Compose2::find() else { return };
    who_shares_something_has_it_after_everything(Some(compose)).await;
}

#[tokio::test]
async fn who_shares_the_network_has_it_again_when_a_migration_is_killed_at_any_step_of_making_it_anew() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let side = postgres.world.name("stranger");
    run_on(&postgres, &format!("container:{}", postgres.container));
    let data = tempfile::tempdir().unwrap();
    let place = data.path().join("postgres");
    for step in ["create-like", "sharer-aside", "sharer-like", "remove-sharer", "start-container", "confirm"]
    {
        let arguments = ["migrate", &postgres.target(), place.to_str().unwrap(), "-y"];
        let mut watched = Watched::start(volsnap.command(arguments));
        assert!(watched.reach(step), "the run ended before {step}");
        watched.signal(Signal::SIGKILL);
        let _ = watched.end();
        postgres.await_answer_within(BACK_LIMIT);
        let begun = Instant::now();
        let is_back = || {
            let journals = std::fs::read_dir(volsnap.state().join("journals"));
            reaches_database(&side) && journals.is_ok_and(|entries| entries.count() == 0)
        };
        while !is_back() {
            assert!(begun.elapsed() < BACK_LIMIT, "{step}: {side} has no network");
            std::thread::sleep(Duration::from_millis(100));
        }
        postgres.assert_whole();
        let of = format!("container:{}", postgres.inspect("{{.Id}}"));
        assert_eq!(docker(&["inspect", "--format", "{{.HostConfig.NetworkMode}}", &side]), of, "{step}");
        // Another test may have one aside meanwhile.
        let aside = format!("name={side}-volsnap-rejoins");
        assert_eq!(docker(&["ps", "-aq", "--filter", &aside]), "", "{step}");
        postgres.assert_no_helper();
    }
}

#[tokio::test]
async fn who_shares_the_processes_of_the_database_is_refused_before_the_stop_and_ends_with_it_if_ignored() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let (name, label) = (postgres.world.name("peeks"), format!("{LABEL}={}", std::process::id()));
    let (pid, image) = (format!("container:{}", postgres.container), crate::database::image());
    let fixed = ["run", "-d", "--name", &name, "--label", &label, "--network", "none", "--pid", &pid];
    let idle = ["--tmpfs", "/var/lib/postgresql/data", "--entrypoint", "sleep", &image, "1000"];
    docker(&[&fixed[..], &idle].concat());
    let (started, data) = (postgres.inspect("{{.State.StartedAt}}"), tempfile::tempdir().unwrap());
    let place = data.path().join("postgres");
    let place = place.to_str().unwrap();
    let words = ["shares the processes of another", &format!("--ignore {name}"), "nothing was stopped"];
    for verb in [&["snapshot"][..], &["restart"], &["migrate", place, "-y"]] {
        let target = postgres.target();
        let arguments = [&[verb[0], &target], &verb[1..]].concat();
        volsnap.run(arguments).refused(1, &words);
    }
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);

    let ran = volsnap.run(["migrate", &postgres.target(), place, "-y", "--ignore", &name]);
    assert!(ran.expect(0).stderr().contains("ends with that one, and stays down"), "{}", ran.stderr());
    postgres.assert_whole();
    docker(&["start", &name]);
    assert!(docker(&["exec", &name, "cat", "/proc/1/comm"]).contains("postgres"));
    docker(&["rm", "-f", &name]);
}
