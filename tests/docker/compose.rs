//! A project that the real Compose has made: its files are found by its labels, edited, and put to use.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use volsnap::compose::CONFIG_HASH_LABEL;
use volsnap::compose::command::{Compose, Spelling};
use volsnap::compose::edit::{EditOptions, MountChange, edit};
use volsnap::compose::environment::Environment;
use volsnap::compose::files::FoundProject;
use volsnap::compose::replacement::Replacement;
use volsnap::compose::runner::{Processes, Runner};
use volsnap::engine::Docker;
use volsnap::model::container::Container;
use volsnap::model::location::MountSource;

use crate::world::{LABEL, World, docker};

const LIMIT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(10);

/// A project with a database-like service on a volume, and its engine-made things.
struct Project {
    world: World,
    name: String,
    directory: tempfile::TempDir,
}

impl Project {
    async fn new() -> Self {
        let world = World::new().await;
        let image = world.spec("x", "").image;
        let (name, label) = (world.name("app"), format!("{LABEL}={}", std::process::id()));
        let file = format!(
            "# ours\nservices:\n  db:\n    image: {image}\n    network_mode: none\n    labels: ['{label}']\n    \
             command: [/bin/sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 0.1; done']\n    volumes:\n      \
             - ${{VOL:-data}}:/data   # keep\nvolumes:\n  data:\n    labels: ['{label}']\n"
        );
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("compose.yaml"), file).unwrap();
        fs::write(directory.path().join(".env"), "OTHER=1\n").unwrap();
        Self { world, name, directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("compose.yaml")
    }

    async fn container(&self) -> Container {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let ids = docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        assert_eq!(ids.lines().count(), 1, "{ids}");
        self.world.engine.container(&ids).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_service_is_moved_to_a_directory_and_back_by_its_own_files() {
    let runner: Arc<dyn Runner> = Arc::new(Processes);
    let spelling = Spelling::find(&*runner).await.unwrap();
    let project = Project::new().await;
    let program: &[&str] =
        if spelling == Spelling::Plugin { &["docker", "compose"] } else { &["docker-compose"] };
    let mut up = std::process::Command::new(program[0]);
    up.args(&program[1..]).args(["-p", &project.name, "up", "-d"]).current_dir(project.directory.path());
    let output = up.env_remove("COMPOSE_FILE").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let made = project.container().await;
    let found = FoundProject::of(&made.labels, &Environment::new()).unwrap();
    assert_eq!(found.files.files, [project.file()]);
    assert_eq!(found.files.project, project.name);
    assert_eq!(found.environment_files, [project.directory.path().join(".env")]);
    let created: SystemTime = made.created_at().unwrap().into();
    assert_eq!(found.changed_since(created), Vec::<&Path>::new());
    let compose = Compose::of(&runner, spelling, &made.labels, None).unwrap();
    assert_eq!(
        compose.config_hash("db").await.as_ref(),
        made.labels.get(CONFIG_HASH_LABEL),
        "nothing has changed"
    );

    let volume = MountSource::Volume(made.mounts[0].volume.clone().unwrap());
    let target = tempfile::tempdir().unwrap();
    let directory = MountSource::Directory(target.path().to_owned());
    let change = |from: &MountSource, to: &MountSource| MountChange {
        service: "db".to_owned(),
        destination: "/data".into(),
        from: from.clone(),
        to: to.clone(),
    };
    let options = EditOptions { guards_source: spelling.guards_source() };
    let edits = edit(&found.files, &[change(&volume, &directory)], options).unwrap();
    let [only] = edits.as_slice() else { panic!("{edits:?}") };
    let diff = only.diff();
    let [taken, added] = ['-', '+'].map(|sign| diff.lines().filter(|line| line.starts_with(sign)).count());
    assert_eq!((taken, added), (2, 2), "one line, and the head: {diff}");
    assert!(diff.contains(&format!("+      - {}:/data   # …", target.path().display())), "{diff}");

    let before = fs::read(project.file()).unwrap();
    let replacement = Replacement::of(only, "run").unwrap();
    replacement.make(only).unwrap();
    assert_ne!(compose.config_hash("db").await.as_ref(), made.labels.get(CONFIG_HASH_LABEL));
    // Made anew, and started by nobody yet.
    compose.create(&["db".to_owned()], "run", GRACE, LIMIT).await.unwrap();
    let moved = project.container().await;
    assert_ne!(moved.id, made.id);
    assert!(!moved.state.running);
    assert_eq!((&moved.mounts[0].source, moved.mounts.len()), (&target.path().to_owned(), 1));
    assert!(
        docker(&["volume", "ls", "-q"]).lines().any(|name| Some(name) == made.mounts[0].volume.as_deref())
    );

    // Back by the backup, and up.
    replacement.undo().unwrap();
    assert_eq!(fs::read(project.file()).unwrap(), before);
    compose.up(&["db".to_owned()], "run", GRACE, LIMIT).await.unwrap();
    let back = project.container().await;
    assert!(back.state.running);
    assert_eq!(back.mounts[0].volume, made.mounts[0].volume);
}
