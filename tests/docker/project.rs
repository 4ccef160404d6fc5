//! The fixture's compose project, made by the real Compose.

use std::path::Path;
use std::process::Command;

use crate::world::{LABEL, World, docker};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/compose/memory-service");

/// A copy of the project in a directory of its own, taken down when this is dropped.
pub(crate) struct Project {
    pub(crate) name: String,
    directory: tempfile::TempDir,
}

impl Project {
    /// Has its database alone up.
    pub(crate) fn up(world: &World) -> Self {
        Self::up_with(world, str::to_owned)
    }

    /// The same, with its compose file edited.
    pub(crate) fn up_with(world: &World, edit: impl FnOnce(&str) -> String) -> Self {
        let project = Self::new(world);
        project.rewrite(edit);
        project.compose(&["up", "-d", "--no-deps", "db"]);
        project
    }

    /// Has all of it up: the database, and the app that writes to it all the while.
    pub(crate) fn up_all(world: &World) -> Self {
        let project = Self::new(world);
        project.compose(&["up", "-d"]);
        project
    }

    /// Has its files, and nothing up yet.
    pub(crate) fn new(world: &World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::copy(format!("{FIXTURE}/compose.yaml"), directory.path().join("compose.yaml")).unwrap();
        // Whoever runs Compose here later, volsnap as well, makes the same of the file.
        let (image, label) = (crate::database::image(), format!("{LABEL}={}", std::process::id()));
        let variables =
            format!("POSTGRES_IMAGE={image}\nVOLSNAP_LABEL={label}\nPOSTGRES_PASSWORD=secret-word\n");
        std::fs::write(directory.path().join(".env"), variables).unwrap();
        Self { name: world.name("project").replace('-', ""), directory }
    }

    /// Runs Compose on it, which has to succeed.
    pub(crate) fn compose(&self, arguments: &[&str]) {
        let plugin = Command::new("docker").args(["compose", "version"]).output().unwrap().status.success();
        let words: &[&str] = if plugin { &["docker", "compose"] } else { &["docker-compose"] };
        let output = Command::new(words[0])
            .args(&words[1..])
            .args(["-p", &self.name])
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until its database answers.
    pub(crate) fn await_answer(&self) {
        let begun = std::time::Instant::now();
        let ready = |container: &str| {
            let ready = ["exec", container, "pg_isready", "-q", "-h", "127.0.0.1"];
            Command::new("docker").args(ready).status().unwrap().success()
        };
        while !ready(&self.service()) {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "it does not answer");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Returns what a person calls its database.
    pub(crate) fn target(&self) -> String {
        format!("service:{}/db", self.name)
    }

    /// Returns what the engine calls one of its volumes.
    pub(crate) fn volume(&self, key: &str) -> String {
        format!("{}_{key}", self.name)
    }

    /// Returns the directory that its compose file is in.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns what its compose file says.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("compose.yaml")).unwrap()
    }

    /// Writes another compose file.
    pub(crate) fn rewrite(&self, edit: impl FnOnce(&str) -> String) {
        self.write("compose.yaml", &edit(&self.text()));
    }

    /// Writes a file beside it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// Returns the sample data of its database.
    pub(crate) fn seed() -> String {
        std::fs::read_to_string(format!("{FIXTURE}/seed.sql")).unwrap()
    }

    /// Returns the containers that run.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.running(&[])
    }

    /// Returns the database's container, by its id: its name changes while another takes its place.
    pub(crate) fn service(&self) -> String {
        self.running(&["--filter", "label=com.docker.compose.service=db"]).pop().unwrap_or_default()
    }

    fn running(&self, filters: &[&str]) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let fixed = ["ps", "-q", "--no-trunc", "--filter", &project];
        docker(&[&fixed, filters].concat()).lines().map(str::to_owned).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        for (list, remove) in [
            (&["ps", "-aq"][..], &["rm", "-fv"][..]),
            (&["volume", "ls", "-q"], &["volume", "rm", "-f"]),
            (&["network", "ls", "-q"], &["network", "rm"]),
        ] {
            let filter = format!("label=com.docker.compose.project={}", self.name);
            let listed = docker(&[list, &["--filter", &filter]].concat());
            if !listed.is_empty() {
                let _ = Command::new("docker").args(remove).args(listed.lines()).output();
            }
        }
    }
}
