//! With Compose 2, whose program `VOLSNAP_TEST_COMPOSE2` names: what it does otherwise than the Compose that is installed
//! here.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::database::{Postgres, Volsnap};
use crate::program::Ran;
use crate::project::Project;
use crate::world::{World, docker};

const MOUNTED_AT: &str = "/var/lib/postgresql/data";

/// The fixture's project, made by Compose 2 alone.
struct Scene {
    project: Project,
    postgres: Postgres,
    volsnap: Volsnap,
    compose: Compose2,
    data: tempfile::TempDir,
}

/// Compose 2 under the name by which it is found where the plugin is not installed.
pub(crate) struct Compose2 {
    directory: tempfile::TempDir,
}

impl Compose2 {
    /// Returns it; none where nobody has put one, which CI always does.
    pub(crate) fn find() -> Option<Self> {
        let program =
            std::env::var_os("VOLSNAP_TEST_COMPOSE2").filter(|program| Path::new(program).is_file());
        let Some(program) = program else {
            println!("skipped: VOLSNAP_TEST_COMPOSE2 names no Compose 2");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&program, directory.path().join("docker-compose")).unwrap();
        Some(Self { directory })
    }

    pub(crate) fn path(&self) -> String {
        format!("{}:{}", self.directory.path().display(), std::env::var("PATH").unwrap())
    }

    #[track_caller]
    pub(crate) fn run(&self, project: &Project, arguments: &[&str], environment: &[(&str, &str)]) {
        let output = Command::new(self.directory.path().join("docker-compose"))
            .args(["-p", &project.name])
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(project.directory())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Scene {
    /// Has the database up with an `env_file`, and rows in it.
    async fn new(edit: impl FnOnce(&str) -> String, environment: &[(&str, &str)]) -> Option<Self> {
        let compose = Compose2::find()?;
        let (world, volsnap) = (World::new().await, Volsnap::new());
        let project = Project::new(&world);
        project.write("db.env", "FROM_FILE=file-secret\n");
        project.rewrite(edit);
        compose.run(&project, &["up", "-d", "--no-deps", "db"], environment);
        let postgres = Postgres { container: project.service(), volume: project.volume("db_data"), world };
        postgres.await_answer();
        postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
        Some(Self { project, postgres, volsnap, compose, data: tempfile::tempdir().unwrap() })
    }

    fn place(&self) -> PathBuf {
        self.data.path().join("postgres")
    }

    fn run(&self, verb: &str, options: &[&str]) -> Ran {
        let target = self.project.target();
        let arguments = [&[verb, target.as_str()], options].concat();
        self.volsnap.run_with(&arguments, &[("PATH", &self.compose.path())])
    }

    /// Finds the database's container, which may be another one by now; it has its rows.
    #[track_caller]
    fn look(&mut self) {
        self.postgres.container = self.project.service();
        self.postgres.assert_whole();
    }

    fn mounted(&self) -> String {
        let at = format!("{{{{range .Mounts}}}}{{{{if eq .Destination \"{MOUNTED_AT}\"}}}}");
        self.postgres.inspect(&format!("{at}{{{{.Type}}}}{{{{end}}}}{{{{end}}}}"))
    }
}

fn with_env_file(text: &str) -> String {
    text.replacen("    environment:\n", "    env_file: db.env\n    environment:\n", 1)
}

#[tokio::test]
async fn a_service_with_an_env_file_moves_into_a_directory_and_back() {
    let Some(mut scene) = Scene::new(with_env_file, &[]).await else { return };
    let (text, place) = (scene.project.text(), scene.place());
    let ran = scene.run("migrate", &[place.to_str().unwrap(), "-y"]);
    let _ = ran.expect(0);
    scene.look();
    assert_eq!(scene.mounted(), "bind");
    assert!(scene.postgres.inspect("{{.Config.Env}}").contains("FROM_FILE=file-secret"));

    let _ = scene.run("migrate", &["--back", "-y"]).expect(0);
    scene.look();
    assert_eq!(scene.mounted(), "volume");
    assert_eq!(scene.project.text(), text);
}

#[tokio::test]
async fn what_an_env_file_changes_by_now_is_named_and_nothing_is_touched() {
    let Some(mut scene) = Scene::new(with_env_file, &[]).await else { return };
    scene.project.write("db.env", "FROM_FILE=file-secret\nADDED=other-secret\n");
    let (before, place) = (scene.postgres.container.clone(), scene.place());
    let ran = scene.run("migrate", &[place.to_str().unwrap(), "-y"]);
    ran.refused(1, &["another thing than container", "environment ADDED", "--recreate"]);
    assert!(!ran.stderr().contains("other-secret"), "{}", ran.stderr());
    assert!(!place.exists());
    scene.look();
    assert_eq!(scene.postgres.container, before);
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &before]), "true");
}
