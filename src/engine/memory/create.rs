//! Makes containers from what is requested.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::inspect::{container_of, inspected};
use super::program::Program;
use super::state::Record;
use super::{MemoryDocker, conflict, failure, is_name};
use crate::engine::clone::{Likeness, NewMount, differences, likeness};
use crate::engine::{ContainerSpec, DockerErrorKind, Network, RawInspect, Result};
use crate::model::container::{Container, ContainerState, Mount, MountKind, Volume};
use crate::model::location::MountSource;

/// What engines write for a time that never came.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl MemoryDocker {
    pub(super) fn make_volume(
        &self,
        doing: &str,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mountpoint = self.directory_of(name);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&mountpoint)
            .map_err(|error| failure(DockerErrorKind::Other, doing, error.to_string()))?;
        let volume = Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint,
            labels: labels.clone(),
            ..Volume::default()
        };
        self.state().volumes.insert(name.to_owned(), volume);
        Ok(())
    }

    /// Creates a container and its missing volumes.
    pub(super) fn create_from(
        &self,
        mut container: Container,
        volume_labels: &BTreeMap<String, BTreeMap<String, String>>,
    ) -> Result<String> {
        let doing = format!("create container {}", container.name);
        if !is_name(&container.name) {
            return Err(failure(DockerErrorKind::Other, &doing, "invalid container name"));
        }
        let known = self.state().image(&container.image).cloned();
        let Some(known) = known else {
            let message = format!("No such image: {}", container.image);
            return Err(failure(DockerErrorKind::NotFound, &doing, message));
        };
        if self.state().containers.iter().any(|other| other.container.name == container.name) {
            let message = format!("the container name \"/{}\" is already in use", container.name);
            return Err(conflict(&doing, message));
        }
        container.image_id = known.image.id;
        for pair in known.env {
            let name = pair.split('=').next().unwrap_or_default().to_owned() + "=";
            if !container.env.iter().any(|own| own.starts_with(&name)) {
                container.env.push(pair);
            }
        }
        for mount in &mut container.mounts {
            let Some(volume) = &mount.volume else { continue };
            if !self.state().volumes.contains_key(volume) {
                let labels = volume_labels.get(volume).cloned().unwrap_or_default();
                self.make_volume(&doing, volume, &labels)?;
            }
            mount.source = self.directory_of(volume);
        }
        container.created = self.timestamp();
        container.state = ContainerState {
            status: "created".to_owned(),
            started_at: NEVER.to_owned(),
            finished_at: NEVER.to_owned(),
            ..ContainerState::default()
        };
        if container.network_mode.is_empty() {
            "bridge".clone_into(&mut container.network_mode);
        }
        if container.restart_policy.is_empty() {
            "no".clone_into(&mut container.restart_policy);
        }
        let program = Program::of(&container, &self.state().scripts);
        let mut state = self.state();
        container.id = state.next_id();
        let id = container.id.clone();
        state.containers.push(Record {
            container,
            program,
            log: String::new(),
            server: None,
            streams: None,
            hang_up: None,
            stopping: false,
        });
        drop(state);
        self.tell_changed();
        Ok(id)
    }

    pub(super) fn create_throwaway(&self, spec: &ContainerSpec) -> Result<String> {
        let doing = format!("create container {}", spec.name);
        for mount in &spec.mounts {
            self.refuse_missing(&doing, &mount.source, |volume| spec.new_volumes.contains_key(volume))?;
        }
        let mounts = spec
            .mounts
            .iter()
            .map(|mount| mount_of(&mount.source, mount.destination.clone(), mount.read_only));
        let container = Container {
            name: spec.name.clone(),
            image: spec.image.clone(),
            command: spec.command.clone(),
            labels: spec.labels.clone(),
            env: spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            mounts: mounts.collect(),
            network_mode: match &spec.network {
                Network::None => "none".to_owned(),
                Network::Of(id) => format!("container:{id}"),
                Network::Named(name) => name.clone(),
            },
            user: spec.user.map(|(user, group)| format!("{user}:{group}")).unwrap_or_default(),
            auto_remove: !spec.kept,
            restart_policy: if spec.restarts { "always".to_owned() } else { String::new() },
            pid_mode: if spec.host_processes { "host".to_owned() } else { String::new() },
            ..Container::default()
        };
        self.create_from(container, &spec.new_volumes)
    }

    fn refuse_missing(
        &self,
        doing: &str,
        source: &MountSource,
        is_made: impl Fn(&str) -> bool,
    ) -> Result<()> {
        match source {
            MountSource::Volume(name) if !is_made(name) && !self.state().volumes.contains_key(name) => {
                Err(failure(DockerErrorKind::NotFound, doing, format!("no such volume: {name}")))
            }
            MountSource::Directory(path) if !path.exists() => {
                let message = format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    path.display()
                );
                Err(failure(DockerErrorKind::NotFound, doing, message))
            }
            MountSource::Volume(_) | MountSource::Directory(_) => Ok(()),
        }
    }

    pub(super) fn create_alike(
        &self,
        RawInspect(old): &RawInspect,
        name: &str,
        new: Option<NewMount<'_>>,
    ) -> Result<String> {
        let id = old["Id"].as_str().unwrap_or_default();
        let doing = format!("create container {name} like {}", id.get(..12).unwrap_or(id));
        if self.state().find(id).is_some_and(|record| record.container.state.running) {
            return Err(conflict(&doing, "it runs, and two of it must not"));
        }
        if let Some(new) = new {
            self.refuse_missing(&doing, new.source, |_| false)?;
        }
        let image = old["Config"]["Image"].as_str().unwrap_or_default();
        let Likeness { body, .. } =
            likeness(old, new, image).map_err(|message| failure(DockerErrorKind::Other, &doing, message))?;
        let made = self.create_from(container_of(&body, name), &BTreeMap::new())?;
        let inspected = self.with(&doing, &made, |record| Ok(inspected(&record.container)))?;
        let differing = differences(old, &inspected, new);
        if differing.is_empty() {
            return Ok(made);
        }
        self.state().containers.retain(|record| record.container.id != made);
        let message = format!("the engine made it otherwise than the old one: {}", differing.join(", "));
        Err(failure(DockerErrorKind::Other, &doing, message))
    }
}

/// Returns a mount of a container, whose source is filled in when it is created.
pub(super) fn mount_of(source: &MountSource, destination: PathBuf, read_only: bool) -> Mount {
    match source {
        MountSource::Volume(name) => Mount {
            kind: MountKind::Volume,
            volume: Some(name.clone()),
            source: PathBuf::new(),
            destination,
            read_only,
        },
        MountSource::Directory(path) => {
            Mount { kind: MountKind::Bind, volume: None, source: path.clone(), destination, read_only }
        }
    }
}
