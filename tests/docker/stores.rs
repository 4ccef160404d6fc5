//! Stores of which volsnap knows little: MariaDB, Redis and a program that writes to SQLite, as their images start
//! them, while somebody writes to them.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::program::{Ran, Volsnap};
use crate::world::{LABEL, World, docker};

/// Long enough for anything here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Returns the image with MariaDB, Redis and SQLite; `scripts/test` makes sure of it.
fn image() -> String {
    std::env::var("VOLSNAP_TEST_STORES").unwrap_or_else(|_| "volsnap-test/stores:1".to_owned())
}

/// Inserts rows until it is asked to stop, and then one more.
const SQLITE_WRITER: &str = "trap 'stop=1' TERM; \
    sqlite3 /data/app.db 'pragma journal_mode=wal; create table if not exists kept (n integer)' >/dev/null; \
    while [ -z \"$stop\" ]; do \
        [ -e /data/quiet ] || sqlite3 -cmd '.timeout 5000' /data/app.db 'insert into kept values (random())'; \
        sleep 0.02; \
    done; exit 0";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    MariaDb,
    Redis,
    Sqlite,
}

impl Kind {
    fn mounted_at(self) -> &'static str {
        if self == Self::MariaDb { "/var/lib/mysql" } else { "/data" }
    }

    fn command(self) -> Vec<&'static str> {
        match self {
            Self::MariaDb => vec!["mariadbd", "--innodb-log-file-size=4M"],
            Self::Redis => vec!["redis-server", "--save", "3600 1", "--appendonly", "no"],
            Self::Sqlite => vec!["sh", "-c", SQLITE_WRITER],
        }
    }
}

/// A store in a container, on a volume.
struct Store {
    world: World,
    kind: Kind,
    container: String,
    volume: String,
}

impl Store {
    async fn start(kind: Kind, options: &[&str]) -> Self {
        let world = World::new().await;
        let (container, volume) = (world.name("store"), world.name("data"));
        docker(&["volume", "create", &volume]);
        let store = Self { world, kind, container, volume };
        store.run(options, &kind.command());
        store.await_answer();
        if kind == Kind::MariaDb {
            store.ask("create database app; create table app.kept (n int)").unwrap();
        }
        store
    }

    fn run(&self, options: &[&str], command: &[&str]) {
        let label = format!("{LABEL}={}", std::process::id());
        let mount = format!("{}:{}", self.volume, self.kind.mounted_at());
        let image = image();
        let fixed =
            ["run", "-d", "--network", "none", "--name", &self.container, "--label", &label, "-v", &mount];
        docker(&[&fixed, options, &[image.as_str()], command].concat());
    }

    /// Asks it something in its own words; `None` if it does not answer.
    fn ask(&self, what: &str) -> Option<String> {
        ask(&self.container, self.kind, what)
    }

    fn await_answer(&self) {
        let question = match self.kind {
            Kind::MariaDb => "select 1",
            Kind::Redis => "ping",
            Kind::Sqlite => "select count(*) from kept",
        };
        let begun = Instant::now();
        while self.ask(question).is_none() {
            assert!(begun.elapsed() < PATIENCE, "no answer: {}", docker(&["logs", &self.container]));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Returns how many rows, or keys, it has.
    fn count(&self) -> u64 {
        self.await_answer();
        let said = match self.kind {
            Kind::MariaDb => self.ask("select count(*) from app.kept"),
            Kind::Redis => self.ask("dbsize"),
            Kind::Sqlite => self.ask("select count(*) from kept"),
        };
        said.unwrap().trim().parse().unwrap()
    }

    fn state(&self) -> String {
        docker(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", &self.container])
    }

    fn target(&self) -> String {
        format!("container:{}", self.container)
    }

    /// Nothing of ours lies in its volume.
    fn assert_nothing_left(&self) {
        let listed = docker(&["exec", &self.container, "ls", "-A", self.kind.mounted_at()]);
        assert!(!listed.contains("volsnap"), "{listed}");
    }
}

fn ask(container: &str, kind: Kind, what: &str) -> Option<String> {
    let mut command = Command::new("docker");
    command.args(["exec", container]);
    match kind {
        Kind::MariaDb => command.args(["mariadb", "-BNe", what]),
        Kind::Redis => command.arg("redis-cli").args(what.split(' ')),
        Kind::Sqlite => command.args(["sqlite3", "-cmd", ".timeout 5000", "/data/app.db", what]),
    };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_error = !output.status.success() || said.contains("LOADING") || said.contains("refused");
    (!is_error).then_some(said)
}

/// Somebody who writes to a store, and knows what was acknowledged.
struct Load {
    acknowledged: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(store: &Store) -> Self {
        let (acknowledged, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_over) = (acknowledged.clone(), over.clone());
        let (container, kind) = (store.container.clone(), store.kind);
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                let what = match kind {
                    Kind::MariaDb => format!("insert into app.kept values ({number})"),
                    Kind::Redis => format!("set key:{number} {number}"),
                    Kind::Sqlite => "insert into kept values (1)".to_owned(),
                };
                if ask(&container, kind, &what).is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { acknowledged, over, thread: Some(thread) }
    }

    /// Returns how much was acknowledged so far, and at least so much.
    fn wait_for(&self, least: u64) -> u64 {
        let begun = Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < least {
            assert!(begun.elapsed() < PATIENCE, "nobody can write");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.acknowledged.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Snapshot, restore in place, restart, all while somebody writes: what was acknowledged before is there after.
async fn saved_and_restored_under_load(kind: Kind) {
    let store = Store::start(kind, &[]).await;
    let volsnap = Volsnap::new();
    let load = Load::on(&store);
    let acknowledged = load.wait_for(10);
    let ran = volsnap.run(["snapshot", &store.target(), "--json"]);
    let saved = ran.expect(0).json();
    assert_eq!(saved["consistency"], "stopped-and-quiet", "{saved}");
    load.wait_for(acknowledged + 5);

    let ran = volsnap.run(["restore", "latest", "--yes"]);
    ran.expect(0);
    assert!(!ran.stderr().contains("answers"), "nobody was asked: {}", ran.stderr());
    assert_eq!(store.state(), "running 0");
    store.assert_nothing_left();
    let there = store.count();
    assert!(there >= acknowledged, "{there} of {acknowledged}");

    let acknowledged = load.wait_for(acknowledged + 10);
    let before = store.count();
    let _ = acknowledged;
    // Nobody can ask whether the data is what it was; who does not want that is told nothing of it.
    let ran = volsnap.run(["restart", &store.target()]);
    let said = format!("{}{}", ran.expect(6).stdout(), ran.stderr());
    assert!(said.contains("not looked at"), "{said}");
    assert_eq!(store.state(), "running 0");
    volsnap.run(["restart", &store.target(), "--facts", "none"]).expect(0);
    assert_eq!(store.state(), "running 0");
    assert!(store.count() >= before, "{} of {before}", store.count());
    drop(load);
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_mariadb_is_saved_restored_and_restarted_while_somebody_writes() {
    saved_and_restored_under_load(Kind::MariaDb).await;
}

#[tokio::test]
async fn a_redis_is_saved_restored_and_restarted_while_somebody_writes() {
    saved_and_restored_under_load(Kind::Redis).await;
}

#[tokio::test]
async fn a_program_that_writes_to_sqlite_is_saved_restored_and_restarted_while_it_writes() {
    saved_and_restored_under_load(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_mariadb_moves_into_a_directory_and_back_while_somebody_writes() {
    let store = Store::start(Kind::MariaDb, &[]).await;
    let (volsnap, directory) = (Volsnap::new(), tempfile::tempdir().unwrap());
    let place = directory.path().join("data");
    let load = Load::on(&store);
    let acknowledged = load.wait_for(10);
    volsnap.run(["migrate", &store.target(), place.to_str().unwrap(), "-y"]).expect(0);
    assert!(place.join("ibdata1").exists());
    assert!(store.count() >= acknowledged);
    let acknowledged = load.wait_for(acknowledged + 10);
    // Nothing tells that what lies in the old volume is of this database.
    let back = ["migrate", &store.target(), "--back", "-y"];
    volsnap.run(back).refused(1, &["not known to be of this database", "--volume"]);
    volsnap.run([&back[..], &["--volume", &store.world.name("back")]].concat()).expect(0);
    assert!(store.count() >= acknowledged);
    drop(load);
    assert_eq!(store.state(), "running 0");
    store.assert_nothing_left();
}

/// Its entrypoint takes a second for each name in its data, under `set -e`: whatever comes or goes ends it.
#[tokio::test]
async fn an_entrypoint_that_walks_through_the_data_survives_a_restore() {
    let store = Store::start(Kind::Redis, &["--env", "WALK_SECONDS=1"]).await;
    store.ask("set one 1").unwrap();
    let volsnap = Volsnap::new();
    volsnap.run(["snapshot", &store.target()]).expect(0);
    store.await_answer();
    store.ask("set two 2").unwrap();
    // It has been started only now, and its entrypoint may be on its way.
    docker(&["restart", &store.container]);
    let ran: Ran = volsnap.run(["restore", "latest", "--yes"]);
    ran.expect(0);
    assert_eq!(store.state(), "running 0");
    assert_eq!(store.count(), 1);
    store.assert_nothing_left();
    // It was started by us alone, and never died.
    assert!(!ran.stderr().contains("once more"), "{}", ran.stderr());
}

/// Runs a script on a volume with a file; returns the container, which says when it is ready.
fn run_script(world: &World, script: &str, options: &[&str]) -> String {
    let (container, volume) = (world.name("app"), format!("{}:/data", world.name("data")));
    let label = format!("{LABEL}={}", std::process::id());
    let fixed = ["run", "-d", "--network", "none", "--name", &container, "--label", &label, "-v", &volume];
    let image = image();
    let script = format!("{script}; touch /data/ready; while :; do sleep 0.1; done");
    docker(&[&fixed, options, &[image.as_str(), "sh", "-c", &script]].concat());
    let is_ready = || Command::new("docker").args(["exec", &container, "test", "-e", "/data/ready"]).status();
    let begun = Instant::now();
    while !is_ready().unwrap().success() {
        assert!(begun.elapsed() < PATIENCE, "{}", docker(&["logs", &container]));
    }
    container
}

fn started_at(container: &str) -> String {
    docker(&["inspect", "--format", "{{.State.Status}} {{.State.StartedAt}}", container])
}

#[tokio::test]
async fn a_program_that_needs_longer_than_the_engine_grants_writes_all_that_it_has() {
    let world = World::new().await;
    let app = run_script(&world, "trap 'sleep 15; echo all >/data/flushed; exit 0' TERM", &[]);
    let volsnap = Volsnap::new();
    volsnap.run(["snapshot", &format!("container:{app}")]).expect(0);
    let listed = volsnap.run(["show", "latest", "--files"]);
    assert!(listed.expect(0).stdout().contains("flushed"), "{}", listed.stdout());
    assert!(started_at(&app).starts_with("running "));
}

#[tokio::test]
async fn one_that_does_not_stop_in_its_time_goes_on_and_nothing_is_copied() {
    let world = World::new().await;
    let app = run_script(&world, "trap 'echo no' TERM", &["--stop-timeout", "2"]);
    let before = started_at(&app);
    let volsnap = Volsnap::new();
    let ran = volsnap.run(["snapshot", &format!("container:{app}")]);
    ran.refused(1, &["had not stopped after 2 s", "nothing was published"]);
    assert_eq!(started_at(&app), before, "it was never killed");
    volsnap.assert_no_snapshot();
}

#[tokio::test]
async fn one_that_hears_no_signal_is_frozen_for_a_snapshot_and_killed_only_if_somebody_says_so() {
    let world = World::new().await;
    let app = run_script(&world, "true", &["--stop-timeout", "1"]);
    let (target, before) = (format!("container:{app}"), started_at(&app));
    let volsnap = Volsnap::new();
    let planned = volsnap.run(["snapshot", &target, "--dry-run"]);
    assert!(planned.expect(0).stdout().contains("which cannot stop by itself"), "{}", planned.stdout());

    let ran = volsnap.run(["snapshot", &target, "--json"]);
    let saved = ran.expect(0).json();
    assert_eq!(saved["consistency"], "crash-consistent", "{saved}");
    assert!(ran.stderr().contains("cannot stop by itself"), "{}", ran.stderr());
    assert_eq!(started_at(&app), before, "it went on where it was");

    let kill = format!("--kill {app}");
    volsnap.run(["restore", "latest", "--yes"]).refused(1, &["cannot stop by itself", &kill]);
    assert_eq!(started_at(&app), before);
    let ran = volsnap.run(["restore", "latest", "--yes", "--kill", &app]);
    ran.expect(0);
    assert!(started_at(&app).starts_with("running ") && started_at(&app) != before);
}

#[tokio::test]
async fn a_mariadb_that_was_killed_before_is_not_called_quiet() {
    let store = Store::start(Kind::MariaDb, &[]).await;
    docker(&["kill", &store.container]);
    let volsnap = Volsnap::new();
    let ran = volsnap.run(["snapshot", &store.target(), "--json"]);
    let saved = ran.expect(0).json();
    assert_eq!(saved["consistency"], "crash-consistent", "{saved}");
    assert!(ran.stderr().contains("ended with exit code 137 before"), "{}", ran.stderr());
    let shown = volsnap.run(["show", "latest"]);
    assert!(shown.expect(0).stdout().contains("crash-consistent: container"), "{}", shown.stdout());
    assert_eq!(volsnap.list()[0]["consistency"], "crash-consistent");
    assert_eq!(store.state(), "exited 137", "what was down stays down");
}

#[tokio::test]
async fn a_redis_that_never_saves_is_explained_and_a_frozen_one_is_warned_of() {
    let store = Store::start(Kind::Redis, &[]).await;
    store.ask("set one 1").unwrap();
    let volsnap = Volsnap::new();
    let ran = volsnap.run(["snapshot", &store.target()]);
    ran.expect(0);
    assert!(ran.stderr().contains("is empty as yet"), "{}", ran.stderr());
    store.await_answer();
    store.ask("set two 2").unwrap();
    let ran = volsnap.run(["snapshot", &store.target(), "--quiesce", "pause"]);
    ran.expect(0);
    assert!(ran.stderr().contains("in memory only"), "{}", ran.stderr());

    docker(&["rm", "-f", &store.container]);
    docker(&["volume", "rm", &store.volume]);
    docker(&["volume", "create", &store.volume]);
    store.run(&[], &["redis-server", "--save", ""]);
    store.await_answer();
    store.ask("set one 1").unwrap();
    let ran = volsnap.run(["snapshot", &store.target()]);
    ran.refused(1, &["is empty even now that everything is stopped", "in memory alone"]);
    assert_eq!(store.state(), "running 0");
}

/// Runs each printed command, as far as it is one, where it was printed: none is refused. What would take something
/// away is only planned.
pub(crate) fn run_what_is_printed(volsnap: &Volsnap, found: &[serde_json::Value]) {
    let lines = found.iter().filter_map(|finding| finding["mitigation"].as_str()).flat_map(str::lines);
    for line in lines {
        let command = line.split("    #").next().unwrap();
        let plans = ["snapshot", "restore", "restart", "migrate", "verify"];
        match command.split(' ').collect::<Vec<_>>()[..] {
            ["volsnap", "--json", verb, ..] if plans.contains(&verb) => {
                let _ = volsnap.paste(&format!("{command} --dry-run")).expect(0);
            }
            ["volsnap" | "docker", ..] => _ = volsnap.paste(command).expect(0),
            _ => assert!(!command.starts_with("mv "), "{line}"),
        }
    }
}

/// Returns the kinds found of a store, each with its risk.
fn found_of(volsnap: &Volsnap, store: &Store, code: i32) -> (Vec<serde_json::Value>, Vec<String>) {
    let found = crate::doctor::findings(volsnap, &[&store.target()], code);
    let mut kinds = crate::doctor::kinds(&found, &store.container);
    // On which disk a test's directory is, is the machine's affair.
    kinds.retain(|kind| kind != "same-disk medium");
    (found, kinds)
}

async fn examined_like_a_database(kind: Kind, name: &str) {
    let store = Store::start(kind, &["--stop-timeout", "5"]).await;
    let volsnap = Volsnap::new();
    let (found, kinds) = found_of(&volsnap, &store, 3);
    let risks = ["no-restart-policy low", "no-snapshot high", "prune low", "stop-grace high"];
    assert_eq!(kinds, [&["data-location info"], &risks[..]].concat());
    let what = found[0]["what"].as_str().unwrap();
    assert!(what.starts_with(&format!("{name}, running; what it keeps in ")), "{what}");
    run_what_is_printed(&volsnap, &found);

    // What nobody can boot is unpacked, and that is all that is said of it.
    volsnap.run(["snapshot", &store.target()]).expect(0);
    let drilled = volsnap.run(["verify", "latest", "--drill"]);
    assert!(drilled.expect(6).stdout().contains("nothing was booted"), "{}", drilled.stdout());
    let (found, kinds) = found_of(&volsnap, &store, 3);
    assert_eq!(kinds, ["data-location info", "never-drilled low", "prune low", "stop-grace high"]);
    let drill = found.iter().find(|finding| finding["kind"] == "never-drilled").unwrap();
    assert!(drill["what"].as_str().unwrap().contains("nothing has ever run on it"), "{drill}");
    run_what_is_printed(&volsnap, &found);
    assert_eq!(store.state(), "running 0");
}

#[tokio::test]
async fn a_mariadb_is_examined_like_a_database() {
    examined_like_a_database(Kind::MariaDb, "MariaDB or MySQL").await;
}

#[tokio::test]
async fn a_redis_is_examined_like_a_database() {
    examined_like_a_database(Kind::Redis, "Redis or Valkey").await;
}

/// By its files: neither its image nor its program has the name of a store.
#[tokio::test]
async fn a_program_that_writes_to_sqlite_is_examined_like_a_database() {
    examined_like_a_database(Kind::Sqlite, "SQLite").await;
}

#[tokio::test]
async fn what_any_program_writes_is_examined_once_and_what_it_reads_or_nobody_wrote_is_not() {
    let world = World::new().await;
    let app = run_script(&world, "trap 'exit 0' TERM", &["--stop-timeout", "120", "--restart", "always"]);
    let (volsnap, target) = (Volsnap::new(), format!("container:{app}"));
    let found = crate::doctor::findings(&volsnap, &[&target], 0);
    let kinds = crate::doctor::kinds(&found, &app);
    assert_eq!(kinds, ["data-location info", "no-snapshot medium", "prune low"]);
    run_what_is_printed(&volsnap, &found);
    // The same data in another container, and a volume that is empty.
    let label = format!("{LABEL}={}", std::process::id());
    let other = world.name("other");
    let mounts = [format!("{}:/again", world.name("data")), format!("{}:/none", world.name("none"))];
    docker(&["create", "--name", &other, "--label", &label, "-v", &mounts[0], "-v", &mounts[1], &image()]);
    let found = crate::doctor::findings(&volsnap, &[&format!("volume:{}", world.name("data"))], 0);
    assert_eq!(crate::doctor::kinds(&found, &app), kinds);
    assert_eq!(crate::doctor::kinds(&found, &other), Vec::<String>::new());
}

/// A database was dropped and nothing can tell: `check` says what it looked at, and no more.
#[tokio::test]
async fn a_check_of_a_store_says_no_more_than_that_its_files_were_counted() {
    let store = Store::start(Kind::MariaDb, &[]).await;
    let volsnap = Volsnap::new();
    volsnap.run(["snapshot", &store.target()]).expect(0);
    store.await_answer();
    store.ask("drop database app").unwrap();
    let ran = volsnap.run(["check", &store.target()]);
    let said = ran.expect(6).stdout();
    assert!(
        said.contains("its files are not those from before; whether anything is lost cannot be told"),
        "{said}"
    );
    assert!(said.contains("only their number and size were looked at"), "{said}");
    for false_word in ["what it was", "nothing is missing", "explained"] {
        assert!(!said.contains(false_word), "{said}");
    }
}
