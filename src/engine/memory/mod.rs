//! An engine in memory: what volsnap asks of Docker, without Docker, for tests.
//!
//! Containers are records; volumes are real directories below a directory of the test. A [program] plays what runs in
//! a container: our own agent is the real one, in a thread; a PostgreSQL is one as far as volsnap asks ([`postgres`]),
//! and its answers come from the files in its data directory, so that wrong data shows. All waiting is in the
//! runtime's time, which a test may make virtual.
//!
//! [`violations`](MemoryDocker::violations) keeps what nobody may ever do to a service: two servers on one data
//! directory, or files taken away from under a running server.
//!
//! | file | holds |
//! |---|---|
//! | `state` | the objects: containers, volumes, images |
//! | `lifecycle` | created, running, paused, exited |
//! | `create` | containers, from what is requested |
//! | `inspect` | a container as the engine's JSON, and back |
//! | [`program`] | what a container runs, and how it behaves |
//! | `agent` | our agent, in a thread |
//! | [`postgres`] | a server, by the files in its data directory |
//! | `control` | its `global/pg_control` |
//! | `probe` | its answers to commands run beside it |
//! | [`compose`] | Compose, on its containers |
//! | `backup` | its base backup, and the proof of one |
//! | `files` | copying trees |

mod agent;
mod backup;
pub mod compose;
mod control;
mod create;
mod files;
mod inspect;
mod lifecycle;
pub mod postgres;
mod probe;
pub mod program;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{
    Attached, ContainerSpec, Docker, DockerError, DockerErrorKind, Grace, NewMount, RawInspect, Result,
};
use crate::clock::Clock;
use crate::model::container::{ApiVersion, Container, EngineInfo, ExecOutput, Image, Process, Volume};
use program::Behaviour;
use state::{Record, State};

/// How long every call takes.
const LATENCY: Duration = Duration::from_millis(1);

/// An engine in memory.
#[derive(Debug, Clone)]
pub struct MemoryDocker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    clock: Clock,
    state: Mutex<State>,
    /// Changes whenever a container's state does.
    changed: watch::Sender<u64>,
}

impl MemoryDocker {
    /// Returns an empty engine whose volumes will lie below `root`, and whose time is that of `clock`.
    #[must_use]
    pub fn new(root: &Path, clock: Clock) -> Self {
        let shared =
            Shared { root: root.to_owned(), clock, state: Mutex::default(), changed: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Adds an image, by a name with a tag; containers of it have `env`.
    pub fn add_image(&self, tag: &str, env: &[&str]) {
        let created = self.timestamp();
        self.state().add_image(tag, env, created);
    }

    /// Says how a shell script behaves if it is the last word of a container's command.
    pub fn teach(&self, script: &str, behaviour: Behaviour) {
        self.state().scripts.insert(script.to_owned(), behaviour);
    }

    /// Creates a container as a user would, volumes included, and fills in what the template leaves out. Returns its
    /// id.
    ///
    /// # Errors
    /// When its name is taken, or its image does not exist.
    pub fn add(&self, template: Container) -> Result<String> {
        self.create_from(template, &BTreeMap::new())
    }

    /// Has the engine be on another machine.
    pub fn pretend_remote(&self) {
        self.state().is_remote = true;
    }

    /// Makes agents that start from now on report this much room where their sources lie.
    pub fn pretend_room(&self, free_bytes: u64) {
        self.state().free_bytes = Some(free_bytes);
    }

    /// Makes the agents of an image say that they speak another protocol, as the agents of another volsnap do.
    pub fn pretend_protocol(&self, image: &str, protocol: u32) {
        self.state().protocols.insert(image.to_owned(), protocol);
    }

    /// Returns everything done to a service that nobody may do.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Returns the name that a container has now.
    #[must_use]
    pub fn name_of(&self, id: &str) -> Option<String> {
        self.state().find(id).map(|record| record.container.name.clone())
    }

    /// Returns where the files of a volume lie.
    #[must_use]
    pub fn directory_of(&self, volume: &str) -> PathBuf {
        self.shared.root.join("volumes").join(volume).join("_data")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere must not hide the state.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a container.
    fn with<T>(&self, doing: &str, id: &str, act: impl FnOnce(&mut Record) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        act(state.find_mut(id).ok_or_else(|| missing(doing, id))?)
    }

    fn tell_changed(&self) {
        self.shared.changed.send_modify(|number| *number += 1);
    }

    fn now(&self) -> DateTime<Utc> {
        self.shared.clock.now()
    }

    /// Returns the time as the engine writes it; never the same twice.
    fn timestamp(&self) -> String {
        let serial = self.state().next_serial();
        let nanoseconds = chrono::TimeDelta::nanoseconds(i64::try_from(serial).unwrap_or_default());
        let now = self.now() + nanoseconds;
        now.to_rfc3339_opts(SecondsFormat::Nanos, true)
    }
}

fn failure(kind: DockerErrorKind, doing: &str, message: impl Into<String>) -> DockerError {
    DockerError { kind, doing: doing.to_owned(), message: message.into() }
}

fn missing(doing: &str, id: &str) -> DockerError {
    failure(DockerErrorKind::NotFound, doing, format!("No such container: {id}"))
}

fn conflict(doing: &str, message: impl Into<String>) -> DockerError {
    failure(DockerErrorKind::Conflict, doing, message)
}

/// Whether an engine could have a container or a volume of this name.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[async_trait]
impl Docker for MemoryDocker {
    async fn engine(&self) -> Result<EngineInfo> {
        sleep(LATENCY).await;
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(EngineInfo {
            id: "memory".to_owned(),
            version: "0".to_owned(),
            api_version: ApiVersion(1, 44),
            os: "linux".to_owned(),
            arch: arch.to_owned(),
            local: !self.state().is_remote,
            podman: false,
        })
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        sleep(LATENCY).await;
        Ok(self.state().containers.iter().map(|record| record.container.clone()).collect())
    }

    async fn container(&self, id: &str) -> Result<Option<Container>> {
        sleep(LATENCY).await;
        Ok(self.state().find(id).map(|record| record.container.clone()))
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        sleep(LATENCY).await;
        Ok(self.state().volumes.values().cloned().collect())
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        sleep(LATENCY).await;
        Ok(self.state().volumes.get(name).cloned())
    }

    async fn create_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()> {
        sleep(LATENCY).await;
        let doing = format!("create volume {name}");
        if !is_name(name) {
            return Err(failure(DockerErrorKind::Other, &doing, "a volume's name has letters and digits"));
        }
        if self.state().volumes.contains_key(name) {
            return Err(conflict(&doing, "there is a volume of that name already"));
        }
        self.make_volume(&doing, name, labels)
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        sleep(LATENCY).await;
        let doing = format!("remove volume {name}");
        let mut state = self.state();
        if let Some(user) = state.users_of(name).next() {
            return Err(conflict(&doing, format!("volume is in use - [{}]", user.container.id)));
        }
        if state.volumes.remove(name).is_none() {
            return Ok(());
        }
        let directory = self.shared.root.join("volumes").join(name);
        std::fs::remove_dir_all(&directory)
            .map_err(|error| failure(DockerErrorKind::Other, &doing, error.to_string()))
    }

    async fn start(&self, id: &str) -> Result<()> {
        sleep(LATENCY).await;
        self.start_container(id)
    }

    async fn stop(&self, id: &str, signal: Option<&str>, grace: Grace, wait: Duration) -> Result<()> {
        sleep(LATENCY).await;
        self.stop_container(id, signal, grace, wait).await
    }

    async fn pause(&self, id: &str) -> Result<()> {
        sleep(LATENCY).await;
        self.pause_container(id)
    }

    async fn unpause(&self, id: &str) -> Result<()> {
        sleep(LATENCY).await;
        self.unpause_container(id)
    }

    async fn lower_priority(&self, id: &str) -> Result<()> {
        sleep(LATENCY).await;
        self.with(&format!("have container {id} give way"), id, |_| Ok(()))
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecOutput> {
        sleep(LATENCY).await;
        self.run_exec(id, command, limit).await
    }

    async fn processes(&self, id: &str) -> Result<Vec<Process>> {
        sleep(LATENCY).await;
        self.with(&format!("list the processes of container {id}"), id, |record| {
            Ok(record.container.processes.clone())
        })
    }

    async fn logs(&self, id: &str, lines: u32) -> Result<String> {
        sleep(LATENCY).await;
        self.with(&format!("read the log of container {id}"), id, |record| {
            let all: Vec<&str> = record.log.lines().collect();
            let first = all.len().saturating_sub(lines as usize);
            Ok(all[first..].iter().map(|line| format!("{line}\n")).collect())
        })
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        sleep(LATENCY).await;
        Ok(self.state().image(reference).map(|image| image.image.clone()))
    }

    async fn images(&self, label: &str) -> Result<Vec<Image>> {
        sleep(LATENCY).await;
        let state = self.state();
        let images = state.images.iter().map(|image| &image.image);
        Ok(images.filter(|image| image.labels.contains_key(label)).cloned().collect())
    }

    async fn remove_image(&self, id: &str) -> Result<()> {
        sleep(LATENCY).await;
        let mut state = self.state();
        if state.containers.iter().any(|record| record.container.image_id == id) {
            return Err(conflict(&format!("remove image {id}"), "image is being used"));
        }
        state.images.retain(|image| image.image.id != id);
        Ok(())
    }

    async fn import_image(&self, tag: &str, labels: &BTreeMap<String, String>, tar: Bytes) -> Result<()> {
        sleep(LATENCY).await;
        let doing = format!("import image {tag}");
        if tar::Archive::new(tar.as_ref())
            .entries()
            .and_then(|mut entries| entries.next().transpose())
            .is_err()
        {
            return Err(failure(DockerErrorKind::Other, &doing, "it is no tar"));
        }
        let created = self.timestamp();
        self.state().import_image(tag, labels, created);
        Ok(())
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String> {
        sleep(LATENCY).await;
        self.create_throwaway(spec)
    }

    async fn inspect_raw(&self, id: &str) -> Result<RawInspect> {
        sleep(LATENCY).await;
        let doing = format!("describe container {id}");
        self.with(&doing, id, |record| Ok(RawInspect(inspect::inspected(&record.container))))
    }

    async fn clone_container(
        &self,
        model: &RawInspect,
        name: &str,
        mount: Option<NewMount<'_>>,
    ) -> Result<String> {
        sleep(LATENCY).await;
        self.create_alike(model, name, mount)
    }

    async fn rename_container(&self, id: &str, name: &str) -> Result<()> {
        sleep(LATENCY).await;
        let doing = format!("rename container {id} to {name}");
        let mut state = self.state();
        if state.containers.iter().any(|record| record.container.name == name) {
            return Err(conflict(&doing, format!("the container name \"/{name}\" is already in use")));
        }
        let record = state.find_mut(id).ok_or_else(|| missing(&doing, id))?;
        name.clone_into(&mut record.container.name);
        Ok(())
    }

    async fn remove_stopped_container(&self, id: &str) -> Result<()> {
        sleep(LATENCY).await;
        let doing = format!("remove container {id}");
        let mut state = self.state();
        match state.find(id) {
            Some(record) if record.container.state.running => {
                Err(conflict(&doing, "cannot remove a running container"))
            }
            Some(record) => {
                let id = record.container.id.clone();
                state.containers.retain(|record| record.container.id != id);
                drop(state);
                self.tell_changed();
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn attach(&self, id: &str) -> Result<Attached> {
        sleep(LATENCY).await;
        self.attach_container(id)
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        sleep(LATENCY).await;
        self.remove_by_force(id).await
    }
}
