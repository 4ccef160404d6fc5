//! A service of no known database is back once it has run for a moment. One that ends after that, while the run clears
//! up, makes the run fail, whatever it was for.

use std::path::{Path, PathBuf};

use volsnap::model::facts::FactsLevel;
use volsnap::model::manifest::Quiesce;
use volsnap::ops::execute;
use volsnap::ops::migrate::{self, MigrateOptions};
use volsnap::ops::plan::CaptureChoice;
use volsnap::ops::restart::{self, RestartOptions};
use volsnap::ops::restore::{self, Archive, Force, RestoreOptions};
use volsnap::ops::snapshot::{SnapshotOptions, snapshot};
use volsnap::{Error, ErrorKind};

use crate::stage::Stage;
use crate::world::{World, docker};

/// Ends, with an error, as soon as it sees a file.
const SCRIPT: &str = "trap 'exit 0' TERM; ready; while [ ! -e /data/end ]; do sleep 0.02; done; \
    echo it is not what it was; exit 7";

struct Scene {
    // Before the directory that it writes into.
    _world: World,
    directory: tempfile::TempDir,
    container: String,
    volume: String,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let volume = world.name("data");
        let container = world.run_service("service", &["-v", &format!("{volume}:/data")], SCRIPT);
        let scene = Self { _world: world, directory: tempfile::tempdir().unwrap(), container, volume };
        std::fs::write(scene.root().join("row"), "1").unwrap();
        scene
    }

    fn root(&self) -> PathBuf {
        docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &self.volume]).into()
    }

    fn target(&self) -> String {
        format!("volume:{}", self.volume)
    }

    /// Has the service see the file in `root`, and end, when all of the run has been cleared up.
    fn end_at_last(&self, stage: &Stage, root: &Path) {
        let (container, end) = (self.container.clone(), root.join("end"));
        stage.at("look-again", move || {
            std::fs::write(end, "").unwrap();
            docker(&["wait", &container]);
        });
    }

    /// The run says so, and nothing of it is left; then the printed command has the service run once more.
    #[track_caller]
    fn follow(&self, stage: &Stage, error: &Error, root: &Path) {
        let said = error.chain();
        assert_eq!(error.kind(), ErrorKind::NotPutBack, "{said}");
        for word in [&*self.container, "ended with exit code 7 after it was started", "it is not what it was"]
        {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        assert_eq!(error.hint_text().unwrap(), format!("docker start {}", self.container));
        assert!(error.state_text().unwrap().contains("all else is done"), "{:?}", error.state_text());
        stage.volsnap.assert_no_leftovers();
        std::fs::remove_file(root.join("end")).unwrap();
        let printed =
            std::process::Command::new("sh").args(["-c", &error.hint_text().unwrap()]).output().unwrap();
        assert!(printed.status.success(), "{printed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_while_the_run_clears_up_is_not_called_back() {
    let scene = Scene::new().await;
    let stage = Stage::new().await.with_helper_image().await;
    let (target, root) = (scene.target(), scene.root());

    for capture in [CaptureChoice::Direct, CaptureChoice::Staged] {
        scene.end_at_last(&stage, &root);
        let options = SnapshotOptions { capture, ..stage.options_of(&target) };
        let error = snapshot(&stage.host, &options, execute).await.unwrap_err();
        assert!(error.state_text().unwrap().contains("is published"), "{:?}", error.state_text());
        scene.follow(&stage, &error, &root);
    }
    assert_eq!(stage.volsnap.list().len(), 2);

    for taken in [None, Some(stage.options_of(&target))] {
        scene.end_at_last(&stage, &root);
        let options = RestartOptions {
            target: target.parse().unwrap(),
            repository: stage.volsnap.repository(),
            level: FactsLevel::None,
            snapshot: taken,
            recreate: false,
            checks: None,
            stop_timeout: None,
            kills: Vec::new(),
            helper_image: None,
        };
        let error = restart::restart(&stage.host, &options, execute).await.unwrap_err();
        scene.follow(&stage, &error, &root);
    }

    // Frozen, it is never started: when it ends is its own affair, and nobody looks.
    let frozen = SnapshotOptions { quiesce: Quiesce::Pause, ..stage.options_of(&target) };
    stage.at("look-again", || panic!("it was looked at"));
    let whole = snapshot(&stage.host, &frozen, execute).await.unwrap().unwrap();

    scene.end_at_last(&stage, &root);
    let options = RestoreOptions {
        repository: stage.volsnap.repository(),
        archive: Archive::Snapshot(Box::new(whole)),
        destination: restore::Destination::Origin,
        owner: None,
        force: Force::default(),
        safety: false,
        keep_slots: false,
        stop_timeout: None,
        kills: Vec::new(),
        helper_image: None,
    };
    let error = restore::restore(&stage.host, &options, execute).await.unwrap_err();
    scene.follow(&stage, &error, &root);

    let place = scene.directory.path().canonicalize().unwrap().join("moved");
    scene.end_at_last(&stage, &place);
    let options = MigrateOptions {
        target: target.parse().unwrap(),
        destination: migrate::Destination::Directory(place.clone()),
        override_file: false,
        owner: None,
        level: FactsLevel::None,
        stop_timeout: None,
        kills: Vec::new(),
        environment: Default::default(),
        helper_image: None,
    };
    let error = migrate::migrate(&stage.host, &options, execute).await.unwrap_err();
    scene.follow(&stage, &error, &place);
    let mounts = "{{range .Mounts}}{{.Source}}{{end}}";
    assert_eq!(docker(&["inspect", "--format", mounts, &scene.container]), place.to_str().unwrap());
}
