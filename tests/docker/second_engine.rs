//! A second engine beside the one of the other tests, in namespaces of its own. It has other containers, volumes and
//! networks, and the same files, so that host paths mean the same to it and to volsnap.
//!
//! It is what `docker context` leads to, what Swarm runs on, and, with a directory hidden from it, what an engine is
//! whose socket was forwarded from elsewhere. It is a Docker 26 with Compose 2 of the tree that fixtures/engine26 makes;
//! without the tree, it has this machine's own binaries. Where namespaces are not allowed, the tests say so and check
//! nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::database::{Volsnap, image};
use crate::program::Ran;
use crate::project::Project;
use crate::world::{World, docker};

/// Long enough for anything here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

const NAMESPACES: [&str; 8] =
    ["--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"];

/// Hides a directory if one is named, takes the programs and the configuration of a tree if there is one, and becomes
/// the engine.
const SCRIPT: &str = r#"
mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up || exit 77
[ -z "$2" ] || mount -t tmpfs tmpfs "$2" || exit 77
[ -z "$4" ] || { mount --bind "$4/etc" /etc && mount --bind "$4/usr" /usr && hash -r; } || exit 77
exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --config-file "$1/daemon.json" \
    --host "unix://$1/docker.sock" --cgroup-parent "/volsnap-test-$3"
"#;

/// Returns where the newer engine lies unpacked. `None` without one, which is allowed where it cannot be made or where
/// nobody asked for it.
///
/// # Panics
/// When a machine that could make it is to run all of the tests without it.
fn newer() -> Option<PathBuf> {
    let place = std::env::var_os("VOLSNAP_TEST_ENGINE26").map(PathBuf::from);
    let found = place.map(|place| place.join("tree")).filter(|tree| tree.join("usr/sbin/dockerd").exists());
    if found.is_none() && std::env::var_os("CI").is_some() {
        let allowed = Command::new("unshare").args(NAMESPACES).arg("true").stderr(Stdio::null()).status();
        let can_be_made = nix::unistd::geteuid().is_root() && allowed.is_ok_and(|status| status.success());
        assert!(!can_be_made, "VOLSNAP_TEST_ENGINE26 names no newer engine: fixtures/engine26/build");
    }
    found
}

/// The engine; with it ends whatever runs on it.
pub(crate) struct SecondEngine {
    daemon: Child,
    directory: TempDir,
    /// Where its programs come from; `None` for this machine's own.
    tree: Option<PathBuf>,
}

impl SecondEngine {
    /// Starts a Docker 26, or one of this machine's version where there is none, that sees everything but `hidden` and
    /// has the image of the database; `None` where that is not allowed.
    fn start(hidden: Option<&Path>) -> Option<Self> {
        Self::of(newer(), hidden).inspect(Self::load_postgres)
    }

    /// Starts one of this machine's version that has the image of the database; `None` where that is not allowed.
    pub(crate) fn of_this_version() -> Option<Self> {
        Self::of(None, None).inspect(Self::load_postgres)
    }

    fn load_postgres(&self) {
        let mut saved =
            Command::new("docker").args(["save", &image()]).stdout(Stdio::piped()).spawn().unwrap();
        self.load(saved.stdout.take().unwrap());
        assert!(saved.wait().unwrap().success());
    }

    /// Starts a Docker 26 with the image of a PostgreSQL 17; `None` where there is none.
    pub(crate) fn newer() -> Option<Self> {
        let Some(tree) = newer() else {
            println!("no newer engine here, so nothing is checked: scripts/test makes one as root");
            return None;
        };
        let image = tree.with_file_name("postgres.tar");
        let engine = Self::of(Some(tree), None)?;
        engine.load(std::fs::File::open(image).unwrap());
        Some(engine)
    }

    fn of(tree: Option<PathBuf>, hidden: Option<&Path>) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("daemon.json"), "{}").unwrap();
        let daemon = Self::spawn(directory.path(), tree.as_deref(), hidden);
        let mut engine = Self { daemon, directory, tree };
        engine.await_up().then_some(engine)
    }

    fn spawn(directory: &Path, tree: Option<&Path>, hidden: Option<&Path>) -> Child {
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let nothing = Path::new("");
        Command::new("unshare")
            .args(NAMESPACES)
            .args(["bash", "-c", SCRIPT, "bash"])
            .arg(directory)
            .arg(hidden.unwrap_or(nothing))
            .arg(std::process::id().to_string())
            .arg(tree.unwrap_or(nothing))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Waits until it answers; says why if it does not come up.
    fn await_up(&mut self) -> bool {
        let begun = Instant::now();
        while !self.try_docker(&["version"]).is_some_and(|output| output.status.success()) {
            if self.daemon.try_wait().unwrap().is_some() || begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap();
                assert!(self.tree.is_none(), "the newer engine does not start: {log}");
                println!(
                    "no second engine here, so nothing is checked: {}",
                    log.lines().last().unwrap_or("")
                );
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    }

    /// Kills it with all that runs on it, as a reset of the machine does, and starts it again.
    pub(crate) fn reset(&mut self) {
        // On a busy machine its containerd may come up too late for it, as it would for a service manager.
        let comes_up = (0..3).any(|_| {
            let _ = self.daemon.kill();
            self.daemon.wait().unwrap();
            for left in ["docker.sock", "pid"] {
                let _ = std::fs::remove_file(self.directory.path().join(left));
            }
            self.daemon = Self::spawn(self.directory.path(), self.tree.as_deref(), None);
            self.await_up()
        });
        assert!(comes_up, "it does not come up again");
    }

    /// Returns where it has the files of one of its volumes.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.directory.path().join("data/volumes").join(name).join("_data")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Gives a client, by the directory of its configuration, the Compose that goes with a newer engine: on one,
    /// version 1 makes no container anew.
    pub(crate) fn install_compose(&self, client: &Path) {
        if self.tree.is_none() {
            return;
        }
        let compose = std::env::var_os("VOLSNAP_TEST_COMPOSE2").map(PathBuf::from);
        let compose = compose.filter(|compose| compose.is_file());
        assert!(compose.is_some(), "VOLSNAP_TEST_COMPOSE2 names no Compose");
        std::fs::create_dir_all(client.join("cli-plugins")).unwrap();
        std::os::unix::fs::symlink(compose.unwrap(), client.join("cli-plugins/docker-compose")).unwrap();
    }

    fn load(&self, image: impl Into<Stdio>) {
        let loaded =
            Command::new("docker").args(["--host", &self.address(), "load"]).stdin(image).output().unwrap();
        assert!(loaded.status.success(), "{loaded:?}");
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn try_docker(&self, arguments: &[&str]) -> Option<std::process::Output> {
        Command::new("docker").args(["--host", &self.address()]).args(arguments).output().ok()
    }

    /// Runs docker on it, which has to succeed; returns its trimmed output.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Returns the ids of what runs on it.
    pub(crate) fn running(&self) -> Vec<String> {
        self.docker(&["ps", "-q", "--no-trunc"]).lines().map(str::to_owned).collect()
    }

    /// Returns what a database on it answers over TCP; `None` if it does not.
    pub(crate) fn query(&self, container: &str, sql: &str) -> Option<String> {
        let psql = [
            "exec",
            container,
            "psql",
            "-XAtq",
            "-U",
            "user",
            "-d",
            "memory_db",
            "-h",
            "127.0.0.1",
            "-c",
            sql,
        ];
        let output = self.try_docker(&psql)?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits until a database on it answers this.
    #[track_caller]
    pub(crate) fn await_answer(&self, container: impl Fn() -> String, sql: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.query(&container(), sql) {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "no answer: {}", self.docker(&["ps", "--all"]));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        // With the first process of its namespace ends every other.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[tokio::test]
async fn a_context_leads_everything_to_its_engine_and_only_there() {
    let Some(other) = SecondEngine::start(None) else { return };
    let (world, volsnap) = (World::new().await, Volsnap::new());
    // The same project on both.
    let project = Project::up(&world);
    let (ours, our_service) = (project.containers(), project.service());
    let client = tempfile::tempdir().unwrap();
    other.install_compose(client.path());
    let as_client = |program: &str| {
        let mut command = Command::new(program);
        command.env("DOCKER_CONFIG", client.path()).current_dir(project.directory());
        command
    };
    let compose = |arguments: &[&str]| {
        let plugin = as_client("docker").args(["compose", "version"]).output().unwrap().status.success();
        let words: &[&str] = if plugin { &["docker", "compose"] } else { &["docker-compose"] };
        let mut command = as_client(words[0]);
        command.args(&words[1..]).args(["-p", &project.name]).args(arguments);
        let output = command.env("DOCKER_HOST", other.address()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    compose(&["up", "-d", "--no-deps", "db"]);
    let theirs = || other.running().pop().unwrap();
    other.await_answer(theirs, "create table there as select 1 as n");

    let select = |arguments: &[&str]| {
        let done = as_client("docker").arg("context").args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    select(&["create", "other", "--docker", &format!("host={}", other.address())]);
    select(&["use", "other"]);
    let run = |arguments: &[&str]| {
        let mut command = volsnap.command(arguments);
        Ran::of(command.env_remove("DOCKER_HOST").env("DOCKER_CONFIG", client.path()))
    };
    let target = project.target();
    let before = theirs();
    let _ = run(&["snapshot", &target]).expect(0);
    let started = docker(&["inspect", "--format", "{{.State.StartedAt}}", &our_service]);
    let restarted = run(&["restart", &target, "--recreate"]);
    let _ = restarted.expect(0);
    assert_ne!(theirs(), before, "it was not made anew: {}", restarted.stderr());
    assert_eq!(other.await_answer(theirs, "select n from there"), "1");
    let examined = run(&["doctor", &target]);
    let said = format!("{}{}", examined.stdout(), examined.stderr());
    assert!(said.contains("by the context other"), "{said}");
    // Nothing of ours was touched.
    assert_eq!(project.containers(), ours);
    assert_eq!(docker(&["inspect", "--format", "{{.State.StartedAt}}", &our_service]), started);
    // What an address names beats the context.
    let _ = run(&["snapshot", &target, "--host", "unix:///var/run/docker.sock", "--dry-run"]).expect(0);
    volsnap.assert_no_leftovers();
    compose(&["down", "-v"]);
}

#[tokio::test]
async fn a_service_of_swarm_is_left_to_swarm() {
    let Some(engine) = SecondEngine::start(None) else { return };
    let volsnap = Volsnap::new();
    engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377"]);
    let environment =
        ["-e", "POSTGRES_PASSWORD=x", "-e", "POSTGRES_USER=user", "-e", "POSTGRES_DB=memory_db"];
    let mount = "type=volume,src=pgv,dst=/var/lib/postgresql/data";
    let create =
        ["service", "create", "-d", "--no-resolve-image", "--name", "shop_pg", "--network", "bridge"];
    let labels = ["--container-label", "com.docker.stack.namespace=shop", "--mount", mount];
    engine.docker(&[&create[..], &labels, &environment, &[&image()]].concat());
    let task = || engine.running().pop().unwrap_or_default();
    engine.await_answer(task, "create table kept as select generate_series(1, 1000) as n");
    let before = engine.running();
    let run = |arguments: &[&str]| volsnap.run_with(arguments, &[("DOCKER_HOST", &engine.address())]);

    // By the name of the service in its stack's file, of the service, and of the volume.
    let around = |work: &str| {
        let scale = "docker service scale shop_pg=";
        format!("{scale}0{work}; {scale}1")
    };
    let way = around(" && volsnap snapshot volume:pgv");
    for target in ["pg", "shop_pg", "volume:pgv"] {
        run(&["snapshot", target])
            .refused(1, &["a task of the Swarm service shop_pg", &way, "nothing was stopped"]);
    }
    run(&["restart", "pg"]).refused(1, &[&around("")]);
    let place = volsnap.directory().join("moved");
    run(&["migrate", "pg", place.to_str().unwrap(), "-y"])
        .refused(1, &["Swarm that says what it mounts", "--mount-add"]);
    // These leave the task alone.
    let _ = run(&["snapshot", "pg", "--quiesce", "pause"]).expect(0);
    let _ = run(&["snapshot", "pg", "--quiesce", "online"]).expect(0);
    run(&["restore", "latest", "-y"]).refused(1, &[&around(" && volsnap restore latest -y")]);
    assert_eq!(engine.running(), before);

    // A healthcheck that would have it replaced while it is frozen.
    let health = ["--health-cmd", "true", "--health-interval", "2s", "--health-retries", "2"];
    engine.docker(&[&["service", "update", "--detach=false", "-q"], &health[..], &["shop_pg"]].concat());
    engine.await_answer(task, "select count(*) from kept");
    let frozen = run(&["snapshot", "pg", "--quiesce", "pause"]);
    frozen.refused(1, &["frozen for 30 s", "failed for 4 s", "--max-downtime 2s"]);

    let way = around(" && volsnap snapshot volume:pgv");
    run(&["snapshot", "pg"]).refused(1, &[&way]);
    // The way that is printed, typed as it is: the service is back as it was, and there is a clean snapshot.
    let mut shell = volsnap.shell();
    let ran = Ran::of(shell.env("DOCKER_HOST", engine.address()).args(["-c", &way]));
    let (_, taken) = (ran.expect(0), volsnap.list());
    let clean = taken.iter().any(|snapshot| snapshot["consistency"] == "clean");
    assert!(clean, "{}{} {taken:?}", ran.stdout(), ran.stderr());
    assert_eq!(engine.await_answer(task, "select count(*) from kept"), "1000");
    assert_eq!(engine.running().len(), 1, "one server alone");
    // Of the tasks that have ended nobody speaks.
    let examined = run(&["doctor"]);
    assert_eq!(
        examined.stdout().matches("shop_pg.1.").count(),
        examined.stdout().matches(&name_of(&engine)).count()
    );
    volsnap.assert_no_leftovers();
}

/// Returns the name of the one container that runs.
fn name_of(engine: &SecondEngine) -> String {
    engine.docker(&["ps", "--format", "{{.Names}}"])
}

#[tokio::test]
async fn an_engine_that_does_not_see_our_directories_is_served_by_the_attached_stream() {
    let volsnap = Volsnap::new();
    std::fs::create_dir_all(volsnap.state()).unwrap();
    let Some(engine) = SecondEngine::start(Some(&volsnap.state())) else { return };
    let environment =
        ["-e", "POSTGRES_PASSWORD=x", "-e", "POSTGRES_USER=user", "-e", "POSTGRES_DB=memory_db"];
    let start = ["run", "-d", "--name", "db", "-v", "pgv:/var/lib/postgresql/data"];
    engine.docker(&[&start[..], &environment, &[&image()]].concat());
    let db = || "db".to_owned();
    engine.await_answer(db, "create table kept as select generate_series(1, 1000) as n");
    let run = |arguments: &[&str]| volsnap.run_with(arguments, &[("DOCKER_HOST", &engine.address())]);
    let taken: [&[&str]; 5] = [
        &["snapshot", "db", "--dry-run"],
        &["snapshot", "db", "--capture", "direct"],
        &["snapshot", "db", "--capture", "staged"],
        &["restart", "db"],
        &["restore", "latest", "-y"],
    ];
    for arguments in taken {
        let _ = run(arguments).expect(0);
    }
    assert_eq!(engine.await_answer(db, "select count(*) from kept"), "1000");
    let _ = run(&["verify", "latest"]).expect(0);
    // A directory here is none of the engine's.
    let place = volsnap.state().join("moved");
    let before = engine.docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "db"]);
    run(&["migrate", "db", place.to_str().unwrap(), "-y"])
        .refused(2, &[place.to_str().unwrap(), "the engine"]);
    run(&["restore", "latest", "-y", "--dir", place.to_str().unwrap()])
        .refused(2, &[place.to_str().unwrap(), "the engine"]);
    // Nor is one that it has, too.
    let shared = tempfile::tempdir().unwrap();
    let elsewhere = shared.path().canonicalize().unwrap().join("moved");
    run(&["migrate", "db", elsewhere.to_str().unwrap(), "-y"])
        .refused(2, &["does not see the directories of this machine"]);
    assert_eq!(engine.docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "db"]), before);
    assert!(!place.exists() && !elsewhere.exists());
}
