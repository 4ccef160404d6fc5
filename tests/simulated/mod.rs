//! A service without an engine: the engine in memory, a PostgreSQL in it with who else uses its data, and virtual time.

pub(crate) mod faults;
pub(crate) mod invariants;
pub(crate) mod log;
pub(crate) mod migrations;
pub(crate) mod restarts;
pub(crate) mod restores;
pub(crate) mod verbs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use volsnap::clock::Clock;
use volsnap::compose::runner::Runner;
use volsnap::crypt::NewKey;
use volsnap::database::{Server as _, postgres::Postgres};
use volsnap::engine::Docker;
use volsnap::engine::failing::{FailingDocker, Mode};
use volsnap::engine::memory::MemoryDocker;
use volsnap::engine::memory::compose::config_hash;
use volsnap::engine::memory::program::Behaviour;
use volsnap::model::container::{Container, Mount, MountKind};
use volsnap::model::event::Silent;
use volsnap::ops::Context;
use volsnap::outside::Outside;
use volsnap::repository::RepositoryLocation;
use volsnap::saga::{GuardedBy, LeaseWatch, RetryBudget, SagaOptions};
use volsnap::signal::Cancel;

/// The volume of the database.
pub(crate) const DATA: &str = "data";
/// The table that has to be there, and its rows.
pub(crate) const KEPT: (&str, [&str; 3]) = ("kept", ["one", "two", "three"]);
/// Where the database has its data.
pub(crate) const PGDATA: &str = "/var/lib/postgresql/data";
/// When everything begins: later than any file that a test can find, so that no file is newer than a container.
pub(crate) const BEGIN: &str = "2100-01-01T00:00:00Z";
/// The image that is named as the helper.
pub(crate) const HELPER: &str = "helper:1";

/// The compose file of the services.
pub(crate) const COMPOSE_FILE: &str = "\
services:
  db:
    image: postgres:15
    volumes:
      - data:/var/lib/postgresql/data   # the shop's
  app:
    image: app:1
    volumes:
      - data:/view
  side:
    image: app:1
    network_mode: 'service:db'
volumes:
  data:
    name: data
";

/// A test's own engine, directories and time.
pub(crate) struct World {
    directory: TempDir,
    /// Where data may be migrated to.
    pub(crate) elsewhere: TempDir,
    pub(crate) engine: MemoryDocker,
    pub(crate) failing: Arc<FailingDocker>,
    pub(crate) host: Context,
    /// Whether a call will fail.
    pub(crate) is_armed: bool,
    /// Whether somebody shares the network of the database.
    pub(crate) has_sharer: bool,
    /// Whether Compose is of version 1.
    pub(crate) has_first_compose: bool,
    /// The lease of the run that is driven.
    pub(crate) lease: LeaseWatch,
    /// The key of the repository, if it is encrypted.
    pub(crate) key: Option<NewKey>,
    outside: Outside,
}

/// Runs a test on virtual time.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(Outside::settle)
        .build()
        .unwrap();
    runtime.block_on(test)
}

/// Returns a directory where no disk has to be waited for, if there is such a place.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

impl World {
    /// Returns one with a running database `db`, a running `app` that can write to its volume too, and `old`, which
    /// has ended long ago.
    pub(crate) async fn new(is_composed: bool) -> Self {
        Self::in_directory(in_memory(), is_composed).await
    }

    /// Returns the same with the engine's volumes on a disk, where the data is not said to be in memory.
    pub(crate) async fn on_disk(is_composed: bool) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::in_directory(TempDir::new_in(program.parent().unwrap()).unwrap(), is_composed).await
    }

    async fn in_directory(directory: TempDir, is_composed: bool) -> Self {
        let outside = Outside::default();
        outside.enter();
        let root = directory.path().join("world");
        std::fs::create_dir(&root).unwrap();
        let clock = Clock::starting_at(BEGIN.parse().unwrap());
        let engine = MemoryDocker::new(&root, clock.clone());
        engine.add_image("postgres:15", &["PG_MAJOR=15", "PGDATA=/var/lib/postgresql/data"]);
        engine.add_image("app:1", &[]);
        engine.add_image(HELPER, &[]);
        engine.teach("old", Behaviour { ends_after: Some(Duration::from_millis(10)), ..Behaviour::OBEDIENT });
        let failing = Arc::new(FailingDocker::new(Arc::new(engine.clone())).with_agents());
        let lease = LeaseWatch::default();
        let host = Context {
            docker: failing.clone(),
            address: "unix:///var/run/docker.sock".to_owned(),
            saga: SagaOptions {
                state: root.join("state"),
                executable: PathBuf::from("/bin/true"),
                budget: RetryBudget::COMMAND,
                guarded_by: GuardedBy::Finder(lease.clone()),
            },
            directory: root.clone(),
            clock,
            compose: engine.compose(),
            machine_file: volsnap::ops::project_file::MACHINE_FILE.into(),
            compose_project: None,
            recipients: volsnap::ops::trust::SaidRecipients::default(),
            identities: None,
            bystanders: volsnap::selector::Bystanders::default(),
            only_plans: false,
            own: None,
            cancel: Cancel::default(),
            monitor: Arc::new(Silent),
        };
        // On a disk: nothing is migrated to below /dev, and a repository here has the room that memory lacks.
        let elsewhere = TempDir::new().unwrap();
        let world = Self {
            directory,
            elsewhere,
            engine,
            failing,
            host,
            is_armed: false,
            has_sharer: false,
            has_first_compose: false,
            lease,
            key: None,
            outside,
        };
        world.populate(is_composed).await;
        world
    }

    async fn populate(&self, is_composed: bool) {
        let on_data = |destination: &str| Mount {
            kind: MountKind::Volume,
            volume: Some(DATA.to_owned()),
            destination: destination.into(),
            ..Mount::default()
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let db = Container {
            name: "db".to_owned(),
            image: "postgres:15".to_owned(),
            command: words(&["docker-entrypoint.sh", "postgres"]),
            env: words(&["POSTGRES_USER=me", "POSTGRES_PASSWORD=secret-word", "POSTGRES_DB=shop"]),
            mounts: vec![on_data(PGDATA)],
            ..Container::default()
        };
        let other = |name: &str| Container {
            name: name.to_owned(),
            image: "app:1".to_owned(),
            command: words(&["sh", "-c", name]),
            mounts: vec![on_data("/view")],
            ..Container::default()
        };
        if is_composed {
            std::fs::create_dir(self.project()).unwrap();
            std::fs::write(self.compose_file(), COMPOSE_FILE).unwrap();
        }
        for mut container in [db, other("app"), other("old")] {
            if is_composed && container.name != "old" {
                container.labels = self.labels(&container.name);
            }
            let id = self.engine.add(container).unwrap();
            self.engine.start(&id).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.engine.insert("db", KEPT.0, &KEPT.1).unwrap();
    }

    /// Makes the repository, encrypted to a key that is not on this machine.
    pub(crate) async fn encrypt(&mut self) {
        let key = NewKey::generate();
        let location = RepositoryLocation::probe(&self.repository()).await.unwrap();
        location.open_or_init_encrypted(&key.recipient, &self.host.clock).await.unwrap();
        self.key = Some(key);
    }

    /// Adds a running `side` that shares the network of the database, perhaps as a service of its project.
    pub(crate) async fn add_sharer(&mut self, is_composed: bool) {
        let labels = if is_composed { self.labels("side") } else { BTreeMap::new() };
        self.add_side(Container { labels, ..Container::default() }).await;
    }

    /// Adds a running `side` that shares the network of the database and mounts its data, too; Compose has not made it.
    pub(crate) async fn add_sharer_with_data(&mut self) {
        let mount = Mount {
            kind: MountKind::Volume,
            volume: Some(DATA.to_owned()),
            destination: "/view".into(),
            ..Mount::default()
        };
        self.add_side(Container { mounts: vec![mount], ..Container::default() }).await;
    }

    async fn add_side(&mut self, like: Container) {
        let side = Container {
            name: "side".to_owned(),
            image: "app:1".to_owned(),
            command: ["sh", "-c", "side"].map(str::to_owned).into(),
            network_mode: format!("container:{}", self.container("db").await.id),
            ..like
        };
        let id = self.engine.add(side).unwrap();
        self.engine.start(&id).await.unwrap();
        self.has_sharer = true;
    }

    /// Returns Compose as it is here.
    fn compose(&self) -> Arc<dyn Runner> {
        if self.has_first_compose { self.engine.first_compose() } else { self.engine.compose() }
    }

    /// Returns the labels of a service's container.
    pub(crate) fn labels(&self, service: &str) -> BTreeMap<String, String> {
        let (directory, file) = (self.project(), self.compose_file());
        let labels = [
            ("project", "shop"),
            ("service", service),
            ("container-number", "1"),
            ("oneoff", "False"),
            ("depends_on", if service == "app" { "db:service_started:false" } else { "" }),
            ("project.working_dir", directory.to_str().unwrap()),
            ("project.config_files", file.to_str().unwrap()),
            ("config-hash", &config_hash(&[COMPOSE_FILE.to_owned()])),
        ];
        labels.map(|(name, value)| (format!("com.docker.compose.{name}"), value.to_owned())).into()
    }

    fn project(&self) -> PathBuf {
        self.root().join("project")
    }

    pub(crate) fn compose_file(&self) -> PathBuf {
        self.project().join("compose.yaml")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("world")
    }

    pub(crate) fn repository(&self) -> PathBuf {
        let elsewhere = self.elsewhere.path().join("repository");
        if elsewhere.exists() { elsewhere } else { self.root().join("repository") }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// Has calls counted from here on, and one of them fail.
    pub(crate) fn arm(&mut self, fault: Option<(usize, Mode)>) {
        self.failing = Arc::new(FailingDocker::new(Arc::new(self.engine.clone())).with_agents());
        if let Some((number, mode)) = fault {
            self.failing.fail_at(number, mode);
        }
        self.is_armed = fault.is_some();
        self.host.docker = self.failing.clone();
        self.host.compose = self.failing.compose(self.compose());
        self.host.cancel = Cancel::default();
    }

    /// Returns a container by its name.
    pub(crate) async fn container(&self, name: &str) -> Container {
        self.engine.container(name).await.unwrap().unwrap_or_else(|| panic!("{name} is gone"))
    }

    /// Returns whether the database answers.
    pub(crate) async fn answers(&self, name: &str) -> bool {
        let container = self.container(name).await;
        let asked = self.engine.exec(name, &Postgres.ready_command(&container), Duration::from_secs(5)).await;
        asked.is_ok_and(|answer| answer.exit_code == 0)
    }

    /// Has what a dropped process would still do come to nothing: its directories are elsewhere meanwhile.
    pub(crate) fn bury(&self, process: impl Sized) {
        let hide = |directory: PathBuf| {
            let hidden = directory.with_file_name("hidden");
            directory
                .exists()
                .then(|| std::fs::rename(&directory, &hidden).unwrap())
                .map(|()| (directory, hidden))
        };
        let hidden = [self.root(), self.elsewhere.path().join("repository")].map(hide);
        drop(process);
        self.outside.await_end();
        for (directory, hidden) in hidden.into_iter().flatten() {
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::rename(hidden, directory).unwrap();
        }
    }
}
