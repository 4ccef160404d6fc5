//! A real PostgreSQL with real rows on a volume of its own, and volsnap run on it as a user would.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use crate::program::Volsnap;
use crate::world::{World, docker};

/// Long enough for anything here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the image with a PostgreSQL in it; `scripts/test` makes sure of it.
pub(crate) fn image() -> String {
    std::env::var("VOLSNAP_TEST_IMAGE").unwrap_or_else(|_| "volsnap-test/postgres:15".to_owned())
}

/// Returns the image in which the database has the user id that it has on Alpine.
pub(crate) fn image_70() -> String {
    std::env::var("VOLSNAP_TEST_IMAGE_70").unwrap_or_else(|_| "volsnap-test/postgres:15-uid70".to_owned())
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

/// Returns the steps that a run told of.
pub(crate) fn steps_of(said: &str) -> Vec<&str> {
    said.split("step=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
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
        Self::start_at("/var/lib/postgresql/data", options).await
    }

    /// Starts one with its volume mounted somewhere else.
    pub(crate) async fn start_at(mounted_at: &str, options: &[&str]) -> Self {
        let postgres = Self::begin(mounted_at, options).await;
        postgres.await_answer();
        postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
        postgres
    }

    /// Starts one of another image, and waits until it answers; it has no table.
    pub(crate) async fn start_image(image: &str) -> Self {
        let postgres = Self::begin_image(image, "/var/lib/postgresql/data", &[]).await;
        postgres.await_answer();
        postgres
    }

    /// Starts one and does not wait until it answers; it has no table yet.
    pub(crate) async fn begin(mounted_at: &str, options: &[&str]) -> Self {
        Self::begin_image(&image(), mounted_at, options).await
    }

    async fn begin_image(image: &str, mounted_at: &str, options: &[&str]) -> Self {
        let world = World::new().await;
        let (container, volume) = (world.name("db"), world.name("data"));
        docker(&["volume", "create", &volume]);
        let mount = format!("{volume}:{mounted_at}");
        let postgres = Self { world, container, volume };
        postgres.run_image(image, &postgres.container, &[&["-v", &mount], options].concat());
        postgres
    }

    /// Runs a container of the database's image.
    pub(crate) fn run(&self, name: &str, options: &[&str]) {
        self.run_image(&image(), name, options);
    }

    fn run_image(&self, image: &str, name: &str, options: &[&str]) {
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
        docker(&[&fixed[..], &user, options, &[image]].concat());
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

    /// Returns the stages of this volume.
    pub(crate) fn stages(&self) -> String {
        docker(&["volume", "ls", "-q", "--filter", &format!("label=volsnap.stage={}", self.volume)])
    }

    /// No helper of a run on this volume is left, and no stage.
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
        assert_eq!(self.stages(), "", "a stage is left");
    }

    /// Returns one field of what the engine says of the container.
    pub(crate) fn inspect(&self, field: &str) -> String {
        docker(&["inspect", "--format", field, &self.container])
    }

    pub(crate) fn target(&self) -> String {
        format!("container:{}", self.container)
    }
}
