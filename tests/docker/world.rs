//! What the tests share: a test's own corner of a real engine, emptied when the test ends or panics.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output as Finished};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OnceCell;
use volsnap::engine::bollard::DockerEngine;
use volsnap::engine::{ContainerSpec, Docker, helper};

/// The label on everything the tests make; its value is the process.
pub(crate) const LABEL: &str = "volsnap.test";

/// A connected engine, and names that are removed when this is dropped.
pub(crate) struct World {
    pub(crate) engine: DockerEngine,
    image: String,
    name: String,
}

impl World {
    /// Connects, and makes sure of the test image: a shell and a few tools of this machine.
    pub(crate) async fn new() -> Self {
        static IMAGE: OnceCell<String> = OnceCell::const_new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let engine = DockerEngine::connect(None).await.unwrap();
        let image = IMAGE.get_or_init(|| import_shell(&engine)).await.clone();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { engine, image, name: format!("volsnap-test-{}-{number}-", std::process::id()) }
    }

    /// Returns a name of this test's own.
    pub(crate) fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.name)
    }

    /// Describes a throwaway container that runs a shell script.
    pub(crate) fn spec(&self, suffix: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: self.name(suffix),
            image: self.image.clone(),
            command: ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec(),
            labels: BTreeMap::from([(LABEL.to_owned(), std::process::id().to_string())]),
            ..ContainerSpec::default()
        }
    }

    /// Runs a service, as a user would: `options` are those of `docker run`. A script that says `ready` once its
    /// traps are set is waited for: a signal before that would end it as if it had none.
    pub(crate) fn run_service(&self, suffix: &str, options: &[&str], script: &str) -> String {
        let name = self.name(suffix);
        let label = format!("{LABEL}={}", std::process::id());
        let fixed = ["run", "-d", "--network", "none", "--name", &name, "--label", &label];
        let script = format!("ready() {{ touch /tmp/ready; }}; {script}");
        let command = ["--tmpfs", "/tmp", &self.image, "/bin/sh", "-c", &script];
        docker(&[&fixed, options, &command].concat());
        while script.contains("; ready;")
            && docker(&["exec", &name, "/bin/sh", "-c", "test -e /tmp/ready && cat /tmp/ready || echo no"])
                == "no"
        {}
        name
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (list, remove) in
            [(&["ps", "-aq"][..], &["rm", "-fv"][..]), (&["volume", "ls", "-q"], &["volume", "rm", "-f"])]
        {
            let filter = format!("name={}", self.name);
            let listed = Command::new("docker").args(list).args(["--filter", &filter]).output().unwrap();
            let names = String::from_utf8_lossy(&listed.stdout).into_owned();
            if !names.is_empty() {
                let _ = Command::new("docker").args(remove).args(names.split_whitespace()).output();
            }
        }
    }
}

/// Runs the command-line client, which has to succeed; returns its trimmed output.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let Finished { status, stdout, stderr } = Command::new("docker").args(arguments).output().unwrap();
    assert!(status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).trim().to_owned()
}

/// Makes sure of an image with a shell and a few tools of this machine, and returns its tag.
async fn import_shell(engine: &DockerEngine) -> String {
    // Tools that need no library but libc, as this process does.
    let tools = ["/bin/sh", "/bin/sleep", "/bin/cat", "/bin/dd", "/bin/touch"];
    let tar = helper::pack(&tools.map(|tool| (Path::new(tool), Path::new(tool)))).unwrap();
    let tag = format!("volsnap-test/shell:{}", &blake3::hash(&tar).to_hex()[..16]);
    if engine.image(&tag).await.unwrap().is_none() {
        let labels = BTreeMap::from([(LABEL.to_owned(), "image".to_owned())]);
        engine.import_image(&tag, &labels, tar).await.unwrap();
    }
    tag
}
