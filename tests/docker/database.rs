//! A real PostgreSQL with real rows on a volume of its own, and volsnap run on it as a user would.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::world::{World, docker};

/// Long enough for anything here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the image with a PostgreSQL in it; `scripts/test` makes sure of it.
pub(crate) fn image() -> String {
    std::env::var("VOLSNAP_TEST_IMAGE").unwrap_or_else(|_| "volsnap-test/postgres:15".to_owned())
}

/// Directories of a test's own, and the program.
pub(crate) struct Volsnap {
    directory: TempDir,
}

impl Volsnap {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Returns the program in a clean environment, in an empty directory.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let here = self.directory.path().join("here");
        std::fs::create_dir_all(&here).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_volsnap"));
        command
            .env_clear()
            .envs(["PATH", "DOCKER_HOST"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("HOME", self.directory.path())
            .env("VOLSNAP_REPO", self.repository())
            .env("VOLSNAP_STATE_DIR", self.state())
            .current_dir(here)
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        Ran(self.command(arguments).output().unwrap())
    }

    /// Returns what `list --json` has.
    pub(crate) fn list(&self) -> Vec<Value> {
        match self.run(["list", "--json"]).json() {
            Value::Array(rows) => rows,
            other => panic!("not a list: {other}"),
        }
    }

    /// Nothing is listed, and nothing of an unfinished run is left anywhere.
    #[track_caller]
    pub(crate) fn assert_no_snapshot(&self) {
        assert!(self.repository_files().is_empty(), "left: {:?}", self.repository_files());
        self.assert_no_leftovers();
    }

    /// No journal, no run directory, no partial file.
    #[track_caller]
    pub(crate) fn assert_no_leftovers(&self) {
        let runs = files_below(&self.state());
        assert!(runs.is_empty(), "left in the state directory: {runs:?}");
        let partial: Vec<_> = self
            .repository_files()
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("partial"))
            .collect();
        assert!(partial.is_empty(), "left in the repository: {partial:?}");
    }

    /// Returns the files of snapshots in the repository.
    pub(crate) fn repository_files(&self) -> Vec<PathBuf> {
        files_below(&self.repository().join("snapshots"))
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// What came of running volsnap.
#[must_use]
pub(crate) struct Ran(Output);

impl Ran {
    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let stdout = self.expect(0).stdout();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code(), Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
        self
    }

    /// It failed with this code, and its message has all of these.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        self.expect(code);
        let stderr = self.stderr();
        for word in words {
            assert!(stderr.contains(word), "{word:?} is not in the message:\n{stderr}");
        }
    }
}

/// A running volsnap whose steps are watched.
pub(crate) struct Watched {
    pub(crate) child: Child,
    lines: BufReader<std::process::ChildStderr>,
    seen: String,
}

impl Watched {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.arg("-vv").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines, seen: String::new() }
    }

    /// Returns once the step is about to be taken; false when the run ended without it.
    pub(crate) fn reach(&mut self, step: &str) -> bool {
        let wanted = format!("step=\"{step}\"");
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            self.seen.push_str(&line);
            if line.contains(&wanted) {
                return true;
            }
            line.clear();
        }
        false
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for the end; returns the exit code (`None` when a signal ended it) and all it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            self.seen.push_str(&line);
            line.clear();
        }
        (self.child.wait().unwrap().code(), self.seen)
    }
}

/// A database server in a container, on a volume.
pub(crate) struct Postgres {
    pub(crate) world: World,
    pub(crate) container: String,
    pub(crate) volume: String,
}

impl Postgres {
    /// Starts one and waits until it answers; there is a table `kept` with 1000 rows.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with further options of `docker run`.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let world = World::new().await;
        let (container, volume) = (world.name("db"), world.name("data"));
        docker(&["volume", "create", &volume]);
        let mount = format!("{volume}:/var/lib/postgresql/data");
        let postgres = Self { world, container, volume };
        postgres.run(&postgres.container, &[&["-v", &mount], options].concat());
        postgres.await_answer();
        postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
        postgres
    }

    /// Runs a container of the database's image.
    pub(crate) fn run(&self, name: &str, options: &[&str]) {
        let label = format!("{}={}", crate::world::LABEL, std::process::id());
        let fixed = ["run", "-d", "--name", name, "--label", &label, "--network", "none"];
        let user = [
            "-e",
            "POSTGRES_USER=user",
            "-e",
            "POSTGRES_PASSWORD=secret-word",
            "-e",
            "POSTGRES_DB=memory_db",
        ];
        docker(&[&fixed[..], &user, options, &[&image()]].concat());
    }

    /// Runs a query, which has to succeed; returns what it answers.
    pub(crate) fn query(&self, sql: &str) -> String {
        docker(&["exec", &self.container, "psql", "-XAtq", "-U", "user", "memory_db", "-c", sql])
    }

    /// Returns whether it answers a query over TCP.
    pub(crate) fn answers(&self) -> bool {
        let query = ["psql", "-XAtq", "-h", "127.0.0.1", "-U", "user", "memory_db", "-c", "select 1"];
        Command::new("docker")
            .args(["exec", "-e", "PGPASSWORD=secret-word", &self.container])
            .args(query)
            .output()
            .unwrap()
            .status
            .success()
    }

    #[track_caller]
    pub(crate) fn await_answer(&self) {
        self.await_answer_within(PATIENCE);
    }

    #[track_caller]
    pub(crate) fn await_answer_within(&self, limit: Duration) {
        let begun = Instant::now();
        while !self.answers() {
            assert!(begun.elapsed() < limit, "{} does not answer after {limit:?}", self.container);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// It answers, and has its rows.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        assert!(self.answers(), "{} does not answer", self.container);
        assert_eq!(self.query("select count(*), sum(n) from kept"), "1000|500500");
    }

    /// No helper of a run on this volume is left.
    #[track_caller]
    pub(crate) fn assert_no_helper(&self) {
        let filter = format!("volume={}", self.volume);
        let users = docker(&[
            "ps",
            "-a",
            "--filter",
            &filter,
            "--filter",
            "label=volsnap.run",
            "--format",
            "{{.Names}}",
        ]);
        assert_eq!(users, "", "a helper is left");
    }

    /// Returns one field of what the engine says of the container.
    pub(crate) fn inspect(&self, field: &str) -> String {
        docker(&["inspect", "--format", field, &self.container])
    }

    pub(crate) fn target(&self) -> String {
        format!("container:{}", self.container)
    }
}
