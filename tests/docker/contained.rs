//! volsnap in a container, with the engine's socket mounted. Whatever ends its process or its container while the
//! database is held, the database is back within seconds, and the container that guards the run is gone after it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::database::{Postgres, Watched, image};
use crate::program::Ran;
use crate::second_engine::SecondEngine;
use crate::world::{LABEL, docker};

/// From the death of the command until the database answers.
const BACK_LIMIT: Duration = Duration::from_secs(15);
/// After that, until nothing of the run is left.
const TIDY_LIMIT: Duration = Duration::from_secs(30);
const SOCKET: &str = "/var/run/docker.sock:/var/run/docker.sock";
/// Ends every process of volsnap in its container, and leaves the container alone.
const END_ALL: &str =
    "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = volsnap ] && kill -9 ${p#/proc/}; done; true";

/// A container to run volsnap in, beside a database.
struct Box<'p> {
    postgres: &'p Postgres,
    name: String,
    state: String,
    repository: String,
}

impl<'p> Box<'p> {
    /// Starts one with a volume for its state and one for its repository.
    fn start(postgres: &'p Postgres) -> Self {
        let name = |suffix: &str| postgres.world.name(suffix);
        let (state, repository) = (name("state"), name("repository"));
        let new = Self { postgres, name: name("box"), state, repository };
        new.run(&[]);
        new
    }

    fn run(&self, options: &[&str]) {
        let state = format!("{}:/var/lib/volsnap", self.state);
        let repository = format!("{}:/var/backups/volsnap", self.repository);
        run_box(&self.name, &[&["-v", &state, "-v", &repository], options].concat());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["exec", &self.name, "volsnap"]).args(arguments);
        command
    }

    fn volsnap(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    fn snapshot(&self, options: &[&str]) -> Watched {
        Watched::start(self.command(&[&["snapshot", &self.postgres.target()], options].concat()))
    }

    /// Returns the containers that belong to runs of this box.
    fn guards(&self) -> String {
        let filter = format!("volume={}", self.state);
        let guards = ["ps", "-a", "--filter", &filter, "--filter", "label=volsnap.guard"];
        docker(&[&guards[..], &["--format", "{{.Names}} {{.Status}}"]].concat())
    }

    /// Returns what lies in the state directory and is no memory of the data.
    fn left(&self) -> String {
        let find = "find /state -type f -not -path '/state/facts/*' -not -path '/state/repositories/*'; ls /state/runs 2>/dev/null; true";
        let mount = format!("{}:/state:ro", self.state);
        let image = image();
        docker(&["run", "--rm", "--network", "none", "-v", &mount, "--entrypoint", "sh", &image, "-c", find])
    }

    /// The database answers in time, is whole, and nothing of the run is left.
    #[track_caller]
    fn assert_back(&self, ended: Instant, what: &str) {
        self.postgres.await_answer_within(BACK_LIMIT.saturating_sub(ended.elapsed()));
        println!("{what}: the database answers {:.1} s after it", ended.elapsed().as_secs_f64());
        self.postgres.assert_whole();
        self.assert_tidy(what);
    }

    #[track_caller]
    fn assert_tidy(&self, what: &str) {
        let begun = Instant::now();
        while !(self.guards().is_empty() && self.left().is_empty()) {
            let (guards, left) = (self.guards(), self.left());
            assert!(begun.elapsed() < TIDY_LIMIT, "{what}: left: {guards} {left}");
            std::thread::sleep(Duration::from_millis(200));
        }
        self.postgres.assert_no_helper();
    }
}

/// Runs a container that waits, with the program and the engine's socket in it.
fn run_box(name: &str, options: &[&str]) {
    let (label, program) = (format!("{LABEL}={}", std::process::id()), program_mount());
    let fixed = ["run", "-d", "--name", name, "--label", &label, "-v", SOCKET];
    let network: &[&str] = if options.contains(&"--network") { &[] } else { &["--network", "none"] };
    let image = image();
    let command = ["-v", &program, "--entrypoint", "sleep", &image, "infinity"];
    docker(&[&fixed[..], network, options, &command].concat());
}

fn program_mount() -> String {
    format!("{}:/usr/local/bin/volsnap:ro", env!("CARGO_BIN_EXE_volsnap"))
}

/// How a test holds the database: options, the step at which it is held, and what the engine calls that.
const HOLDS: [(&[&str], &str); 2] =
    [(&["--capture", "direct"], "archive"), (&["--capture", "direct", "--quiesce", "pause"], "archive")];

#[tokio::test]
async fn a_process_that_is_killed_in_a_living_container_leaves_nothing_down() {
    let postgres = Postgres::start().await;
    postgres.fill();
    let volsnap = Box::start(&postgres);
    // It works as anywhere, and the guard is gone soon after it.
    let _ = volsnap.volsnap(&["snapshot", &postgres.target()]).expect(0);
    volsnap.assert_tidy("a whole snapshot");
    for (options, step) in HOLDS {
        let mut watched = volsnap.snapshot(options);
        assert!(watched.reach(step), "{}", watched.end().1);
        assert!(volsnap.guards().contains("Up"), "no guard outside");
        docker(&["exec", &volsnap.name, "sh", "-c", END_ALL]);
        let ended = Instant::now();
        let (code, said) = watched.end();
        assert_eq!(code, Some(137), "{said}");
        volsnap.assert_back(ended, &format!("kill -9 of all its processes, {options:?}"));
    }
    let listed = volsnap.volsnap(&["list", "--json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "published by a run that was ended: {listed}");
}

#[tokio::test]
async fn a_container_that_ends_leaves_nothing_down() {
    let postgres = Postgres::start().await;
    postgres.fill();
    let volsnap = Box::start(&postgres);
    let ends: [(&str, &dyn Fn()); 4] = [
        ("docker kill", &|| drop(docker(&["kill", &volsnap.name]))),
        ("kill of the first process, as the kernel does for want of memory", &|| {
            let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &volsnap.name]).parse().unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        }),
        ("docker rm -f", &|| drop(docker(&["rm", "-f", &volsnap.name]))),
        ("recreation", &|| {
            docker(&["rm", "-f", &volsnap.name]);
            volsnap.run(&[]);
        }),
    ];
    for (number, (what, end)) in ends.into_iter().enumerate() {
        let (options, step) = HOLDS[number % HOLDS.len()];
        let mut watched = volsnap.snapshot(options);
        assert!(watched.reach(step), "{}", watched.end().1);
        end();
        let ended = Instant::now();
        let (code, said) = watched.end();
        assert_ne!(code, Some(0), "{said}");
        volsnap.assert_back(ended, what);
        let _ = Command::new("docker").args(["rm", "-f", &volsnap.name]).output();
        volsnap.run(&[]);
    }
    // Whatever was made by those that ended: a later run works as ever.
    let _ = volsnap.volsnap(&["snapshot", &postgres.target()]).expect(0);
    let _ = volsnap.volsnap(&["verify", "--all"]).expect(0);
    volsnap.assert_tidy("a whole snapshot");
}

#[tokio::test]
async fn a_container_that_is_frozen_loses_its_hold_and_does_nothing_more_when_it_is_woken() {
    let postgres = Postgres::start().await;
    postgres.fill();
    let volsnap = Box::start(&postgres);
    let mut watched = volsnap.snapshot(&["--capture", "direct", "--max-downtime", "2s"]);
    assert!(watched.reach("archive"), "{}", watched.end().1);
    docker(&["pause", &volsnap.name]);
    let ended = Instant::now();
    // Its limit, what the guard beside it would have had, and what this one gives that.
    postgres.await_answer_within(Duration::from_secs(2 + 5 + 2 + 1) + BACK_LIMIT);
    println!("a frozen container: the database answers {:.1} s after it", ended.elapsed().as_secs_f64());
    let started = postgres.inspect("{{.State.StartedAt}}");
    docker(&["unpause", &volsnap.name]);
    let (code, said) = watched.end();
    assert_ne!(code, Some(0), "{said}");
    volsnap.assert_tidy("a frozen container");
    postgres.assert_whole();
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started, "it was stopped again");
    assert_eq!(volsnap.volsnap(&["list", "--json"]).json().as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn a_state_directory_that_ends_with_the_container_is_refused_for_whatever_holds_a_service() {
    let postgres = Postgres::start().await;
    let name = postgres.world.name("box");
    run_box(&name, &[]);
    let run =
        |arguments: &[&str]| Ran::of(Command::new("docker").args(["exec", &name, "volsnap"]).args(arguments));
    let target = postgres.target();
    let started = postgres.inspect("{{.State.StartedAt}}");
    for arguments in [
        &["snapshot", &target][..],
        &["snapshot", &target, "--dry-run"],
        &["snapshot", &target, "--quiesce", "pause"],
        &["restart", &target],
    ] {
        let mends =
            ["-v volsnap-state:/var/lib/volsnap", "/var/lib/volsnap lies in that container alone", &name];
        run(arguments).refused(1, &mends);
    }
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
    // A snapshot in the container alone would be gone with it.
    run(&["snapshot", &target, "--quiesce", "online"])
        .refused(1, &["-v volsnap-repository:/var/backups/volsnap", "lies in that container alone", &name]);
    let kept = format!("{}:/var/backups/volsnap", postgres.world.name("kept"));
    docker(&["rm", "-f", &name]);
    run_box(&name, &["-v", &kept]);
    // These hold nothing.
    let _ = run(&["snapshot", &target, "--quiesce", "online"]).expect(0);
    let _ = run(&["verify", "latest"]).expect(0);
    postgres.assert_no_helper();
    // What the message says mends it.
    let state = postgres.world.name("state");
    docker(&["rm", "-f", &name]);
    run_box(&name, &["-v", &format!("{state}:/var/lib/volsnap"), "-v", &kept]);
    let _ = run(&["snapshot", &target]).expect(0);
}

#[tokio::test]
async fn any_mount_serves_for_state_repository_and_targets_and_other_paths_are_named_as_what_they_are() {
    let postgres = Postgres::start().await;
    let name = postgres.world.name("box");
    let shared = tempfile::tempdir().unwrap();
    let shared = shared.path().canonicalize().unwrap();
    for directory in ["kept", "places"] {
        std::fs::create_dir(shared.join(directory)).unwrap();
    }
    let at = |directory: &str, path: &str| format!("{}:{path}", shared.join(directory).display());
    let (kept, places) = (at("kept", "/kept"), at("places", "/places"));
    let variables = ["-e", "VOLSNAP_STATE_DIR=/kept/state", "-e", "VOLSNAP_REPO=/kept/repository"];
    run_box(&name, &[&["-v", &kept, "-v", &places], &variables[..]].concat());
    let run =
        |arguments: &[&str]| Ran::of(Command::new("docker").args(["exec", &name, "volsnap"]).args(arguments));
    let target = postgres.target();
    let _ = run(&["snapshot", &target]).expect(0);
    assert!(shared.join("kept/repository/volsnap.json").exists());
    let _ = run(&["restore", "latest", "--dir", "/places/restored", "-y"]).expect(0);
    assert!(shared.join("places/restored/PG_VERSION").exists(), "not where the host has it");
    let nowhere = run(&["restore", "latest", "--dir", "/nowhere/restored", "-y"]);
    nowhere.refused(2, &["/nowhere/restored is a path of the container", &name, "-v /nowhere/restored:"]);
    run(&["migrate", &target, "/nowhere/moved", "-y"]).refused(2, &["is a path of the container", &name]);
    run(&["snapshot", "path:/places/restored"]).refused(
        2,
        &[
            "no directory /places/restored on the engine's host",
            shared.join("places/restored").to_str().unwrap(),
        ],
    );
    let on_host = format!("path:{}", shared.join("places/restored").display());
    let _ = run(&["snapshot", &on_host]).expect(0);
    let _ = run(&["migrate", &target, "/places/moved", "-y"]).expect(0);
    let mounted = postgres.inspect("{{range .Mounts}}{{.Source}}{{end}}");
    assert_eq!(Path::new(&mounted), shared.join("places/moved"));
    postgres.await_answer();
    postgres.assert_whole();
}

#[tokio::test]
async fn an_engine_that_is_reset_in_the_middle_has_the_guard_start_what_was_stopped() {
    let Some(mut engine) = SecondEngine::of_this_version() else { return };
    let environment =
        ["-e", "POSTGRES_PASSWORD=x", "-e", "POSTGRES_USER=user", "-e", "POSTGRES_DB=memory_db"];
    let start = ["run", "-d", "--name", "db", "-v", "pgv:/var/lib/postgresql/data"];
    engine.docker(&[&start[..], &environment, &[&image()]].concat());
    let db = || "db".to_owned();
    engine.await_answer(db, "create table kept as select generate_series(1, 1000) as n");
    engine.await_answer(db, "create table filler as select md5(n::text) from generate_series(1, 900000) n");
    let socket = format!("{}:/var/run/docker.sock", engine.socket().display());
    let (program, state) = (program_mount(), "state:/var/lib/volsnap");
    let mounts = ["-v", &socket, "-v", &program, "-v", state, "-v", "repository:/var/backups/volsnap"];
    let start = ["run", "-d", "--name", "box", "--network", "none", "--entrypoint", "sleep"];
    engine.docker(&[&start[..], &mounts, &[&image(), "infinity"]].concat());
    // Nothing but the guard starts anything again.
    let snapshot = ["volsnap", "snapshot", "container:db", "--capture", "direct"];
    engine.docker(&[&["exec", "-d", "box"][..], &snapshot].concat());
    let begun = Instant::now();
    while engine.docker(&["inspect", "--format", "{{.State.Status}}", "db"]) != "exited" {
        assert!(begun.elapsed() < Duration::from_secs(90), "it is never stopped");
        std::thread::sleep(Duration::from_millis(20));
    }
    engine.reset();
    assert_eq!(engine.docker(&["inspect", "--format", "{{.State.Running}}", "box"]), "false");
    assert_eq!(engine.await_answer(db, "select count(*) from kept"), "1000");
    let (begun, journals) = (Instant::now(), engine.volume("state").join("journals"));
    let guards = || engine.docker(&["ps", "-aq", "--filter", "label=volsnap.run"]);
    while std::fs::read_dir(&journals).unwrap().next().is_some() || !guards().is_empty() {
        assert!(begun.elapsed() < TIDY_LIMIT, "left: {}", engine.docker(&["ps", "-a"]));
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Removes a project with all that it has.
struct Down<'d> {
    directory: &'d Path,
    project: String,
}

impl Down<'_> {
    /// Runs a line of the page, as it is but for the project's name and the client's.
    fn shell(&self, line: &str) -> Ran {
        let plugin = Command::new("docker").args(["compose", "version"]).output().unwrap().status.success();
        let client = if plugin { "docker compose" } else { "docker-compose" };
        let line = line.replace("docker compose", client).replace("shop", &self.project);
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]).env("COMPOSE_PROJECT_NAME", &self.project);
        Ran::of(shell.current_dir(self.directory))
    }
}

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _ = self.shell("docker compose down -v --timeout 2");
    }
}

#[tokio::test]
async fn the_page_about_containers_can_be_typed_as_it_is() {
    let page = include_str!("../../docs/container.md");
    let between = |from: &str| page.split(from).nth(1).unwrap().split("```").next().unwrap();
    let file = between("```yaml\n")
        .replace("postgres:16", &image())
        .replace("debian:13-slim", &image())
        .replace("/usr/local/bin/volsnap:/usr", &format!("{}:/usr", env!("CARGO_BIN_EXE_volsnap")));
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("docker-compose.yml"), file).unwrap();
    let project = format!("volsnaptestpage{}", std::process::id());
    let down = Down { directory: directory.path(), project };
    let lines: Vec<_> = between("```console\n").lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(lines.len() > 4, "{lines:?}");
    for line in lines {
        let ran = down.shell(line);
        assert_eq!(ran.code(), Some(0), "{line}\n{}{}", ran.stdout(), ran.stderr());
        if line.ends_with("up -d") {
            let ready = "until docker compose exec -T db pg_isready -h 127.0.0.1; do sleep 0.2; done";
            assert_eq!(down.shell(ready).code(), Some(0));
        }
    }
    let snapshots = directory.path().join("backups/snapshots");
    assert!(std::fs::read_dir(snapshots).unwrap().next().is_some(), "where the page says they are");
}

#[tokio::test]
async fn the_container_that_volsnap_runs_in_is_never_stopped() {
    let postgres = Postgres::start().await;
    let (name, state) = (postgres.world.name("box"), postgres.world.name("state"));
    let data = format!("{}:/data:ro", postgres.volume);
    let state = format!("{state}:/var/lib/volsnap");
    let kept = format!("{}:/var/backups/volsnap", postgres.world.name("kept"));
    let run =
        |arguments: &[&str]| Ran::of(Command::new("docker").args(["exec", &name, "volsnap"]).args(arguments));
    // One that only mounts the data is no user of it.
    run_box(&name, &["-v", &state, "-v", &kept, "-v", &data]);
    let _ = run(&["snapshot", &postgres.target()]).expect(0);
    postgres.assert_whole();
    docker(&["rm", "-f", &name]);
    let network = format!("container:{}", postgres.container);
    run_box(&name, &["-v", &state, "-v", &kept, "--network", &network]);
    let started = postgres.inspect("{{.State.StartedAt}}");
    run(&["snapshot", &postgres.target()])
        .refused(1, &["which it would have to stop", &name, "nothing was stopped"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
    // Nor made anew, where the database does not run.
    docker(&["stop", "-t", "60", &postgres.container]);
    let migrated = run(&["migrate", &postgres.target(), "/var/backups/volsnap/moved", "-y"]);
    migrated.refused(1, &["which it would have to stop", &name, "nothing was stopped"]);
    assert!(!migrated.stderr().contains("docker stop"), "{}", migrated.stderr());
}
