//! A snapshot as a library call, with an engine that fails and a monitor that acts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use volsnap::Result;
use volsnap::archive::Codec;
use volsnap::clock::Clock;
use volsnap::database::native::MaxRate;
use volsnap::engine::bollard::DockerEngine;
use volsnap::engine::context::DEFAULT_ADDRESS;
use volsnap::engine::failing::FailingDocker;
use volsnap::engine::helper::HelperImage;
use volsnap::model::event::{Event, Monitor};
use volsnap::model::facts::FactsLevel;
use volsnap::model::manifest::Quiesce;
use volsnap::ops::plan::CaptureChoice;
use volsnap::ops::snapshot::{SnapshotOptions, snapshot};
use volsnap::ops::{Context, execute};
use volsnap::repository::Snapshot;
use volsnap::saga::{GuardedBy, RetryBudget, SagaOptions};
use volsnap::signal::Cancel;

use crate::database::{Postgres, Volsnap};
use crate::world::docker;

/// One run: its directories, its engine, and what happens at its steps.
pub(crate) struct Stage {
    pub(crate) volsnap: Volsnap,
    pub(crate) docker: Arc<FailingDocker>,
    pub(crate) host: Context,
    pub(crate) steps: Arc<Steps>,
    /// How writers are held still, and how bytes are taken.
    pub(crate) method: (Quiesce, CaptureChoice),
}

/// The database is frozen, for what changed in the last moment only.
pub(crate) const FROZEN: (Quiesce, CaptureChoice) = (Quiesce::Pause, CaptureChoice::Staged);

/// What a test does when a step begins.
type Act = Box<dyn FnMut(&'static str) + Send>;

/// Records warnings, and has the test act at steps.
#[derive(Default)]
pub(crate) struct Steps {
    act: Mutex<Option<Act>>,
    warnings: Mutex<Vec<String>>,
}

impl Steps {
    /// Returns what was warned of so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap().clone()
    }
}

impl Monitor for Steps {
    fn event(&self, event: Event) {
        if let Event::Warning(warning) = event {
            self.warnings.lock().unwrap().push(warning.text);
        }
    }

    fn step(&self, step: &'static str) {
        // Taken out meanwhile: it may panic, and is then not asked again.
        let act = self.act.lock().unwrap().take();
        if let Some(mut act) = act {
            act(step);
            *self.act.lock().unwrap() = Some(act);
        }
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let volsnap = Volsnap::new();
        let docker = Arc::new(FailingDocker::new(Arc::new(DockerEngine::connect(None).await.unwrap())));
        let steps = Arc::new(Steps::default());
        let host = Context {
            docker: docker.clone(),
            address: std::env::var("DOCKER_HOST").unwrap_or_else(|_| DEFAULT_ADDRESS.to_owned()),
            saga: SagaOptions {
                state: volsnap.state(),
                executable: PathBuf::from(env!("CARGO_BIN_EXE_volsnap")),
                budget: RetryBudget(Duration::from_secs(30)),
                guarded_by: GuardedBy::Process,
            },
            directory: PathBuf::from("/"),
            clock: Clock::system(),
            compose: std::sync::Arc::new(volsnap::compose::runner::Processes),
            machine_file: volsnap::ops::project_file::MACHINE_FILE.into(),
            compose_project: None,
            recipients: volsnap::ops::trust::SaidRecipients::default(),
            identities: None,
            bystanders: volsnap::selector::Bystanders::default(),
            only_plans: false,
            own: None,
            cancel: Cancel::default(),
            monitor: steps.clone(),
        };
        Self { volsnap, docker, host, steps, method: (Quiesce::Stop, CaptureChoice::Auto) }
    }

    /// Returns one that holds and captures so.
    pub(crate) async fn by(method: (Quiesce, CaptureChoice)) -> Self {
        Self { method, ..Self::new().await }
    }

    /// Brings the helper image to the engine: the first run of a build makes calls that no later one makes.
    pub(crate) async fn with_helper_image(self) -> Self {
        let image = HelperImage::of(&self.host.saga.executable).unwrap();
        let engine = DockerEngine::connect(None).await.unwrap();
        image.ensure(&engine, &self.host.clock).await.unwrap();
        self
    }

    /// Has something done whenever a step begins.
    pub(crate) fn at_steps(&self, act: impl FnMut(&'static str) + Send + 'static) {
        *self.steps.act.lock().unwrap() = Some(Box::new(act));
    }

    /// Has something done when this step begins, the first time.
    pub(crate) fn at(&self, step: &'static str, act: impl FnOnce() + Send + 'static) {
        let mut act = Some(act);
        self.at_steps(move |begun| {
            if begun == step
                && let Some(act) = act.take()
            {
                act();
            }
        });
    }

    pub(crate) fn options(&self, postgres: &Postgres) -> SnapshotOptions {
        self.options_of(&postgres.target())
    }

    pub(crate) fn options_of(&self, target: &str) -> SnapshotOptions {
        SnapshotOptions {
            repository: self.volsnap.repository(),
            target: target.parse().unwrap(),
            quiesce: self.method.0,
            capture: self.method.1,
            keep_stage: false,
            codec: Codec::default(),
            stop_timeout: None,
            kills: Vec::new(),
            max_downtime: None,
            max_rate: MaxRate::default(),
            allow_crash_consistent: false,
            facts: FactsLevel::Quick,
            tags: Default::default(),
            exclude: Vec::new(),
            helper_image: None,
        }
    }

    pub(crate) async fn snapshot(&self, postgres: &Postgres) -> Result<Snapshot> {
        Ok(snapshot(&self.host, &self.options(postgres), execute).await?.unwrap())
    }

    /// The database answers, nothing of the run is left, and there are so many whole snapshots.
    #[track_caller]
    pub(crate) fn assert_as_before(&self, postgres: &Postgres, snapshots: usize) {
        postgres.assert_whole();
        self.volsnap.assert_no_leftovers();
        postgres.assert_no_helper();
        let listed = if self.volsnap.repository().exists() { self.volsnap.list().len() } else { 0 };
        let files = self.volsnap.repository_files();
        assert_eq!((listed, files.len()), (snapshots, 3 * snapshots), "{files:?}");
    }
}

/// Makes a container on the database's volume that does not run, and is to stay so.
pub(crate) fn add_stopped_user(postgres: &Postgres) -> String {
    let mount = format!("{}:/view", postgres.volume);
    let name = postgres.world.run_service("stopped", &["-v", &mount], "exit 0");
    docker(&["wait", &name]);
    name
}
