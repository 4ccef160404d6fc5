//! What a target may name on the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Target;
use crate::compose::{Membership, VolumeKey, project_of};
use crate::model::container::{Container, Volume};
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::model::location::normalize;
use crate::model::orchestrator::{Orchestrator, stack_service};
use crate::model::quote::printable;
use crate::selector::EngineInventory;

/// A thing that a target names.
#[derive(Debug, Clone)]
pub(super) enum Match<'w> {
    /// A Compose service, with all its containers.
    Service { project: &'w str, service: &'w str, containers: Vec<&'w Container> },
    /// A container.
    Container(&'w Container),
    /// A volume.
    Volume(&'w Volume),
    /// A directory of the engine's host; the engine will say whether it exists.
    Directory(PathBuf),
}

impl Match<'_> {
    /// Returns the target that names this and nothing else.
    pub(super) fn target(&self) -> Target {
        match self {
            Self::Service { project, service, .. } => {
                Target::Service { project: Some((*project).to_owned()), service: (*service).to_owned() }
            }
            Self::Container(container) => Target::Container(container.name.clone()),
            Self::Volume(volume) => Target::Volume(volume.name.clone()),
            Self::Directory(path) => Target::Directory(path.clone()),
        }
    }

    /// Returns what a person calls this, as the way to `location`.
    pub(super) fn title(&self, location: &MountSource) -> String {
        let place = describe(location);
        match self {
            Self::Service { project, service, .. } => {
                format!("service {} of {} ({place})", printable(service), printable(project))
            }
            Self::Container(container) => format!("container {} ({place})", printable(&container.name)),
            Self::Volume(_) | Self::Directory(_) => place,
        }
    }
}

/// Returns what a person calls a volume or a directory.
#[must_use]
pub fn describe(location: &MountSource) -> String {
    match location {
        MountSource::Volume(name) => format!("volume {}", printable(name)),
        MountSource::Directory(path) => format!("directory {}", printable(&path.to_string_lossy())),
    }
}

/// Returns everything the target names, services first.
pub(super) fn matches<'w>(target: &Target, world: &'w EngineInventory) -> Vec<Match<'w>> {
    match target {
        Target::Word(word) => by_word(word, world),
        Target::Service { project, service } => services(project.as_deref(), service, world),
        Target::Container(name) => containers(name, world),
        Target::Volume(name) => volume(name, world).into_iter().collect(),
        Target::Directory(path) => vec![Match::Directory(normalize(&world.directory.join(path)))],
    }
}

/// Returns what a bare name means. A service of the user's own project wins over everything else: over its own volume,
/// which it may have left, and over whatever others have of that name. What another project has is never meant.
fn by_word<'w>(word: &str, world: &'w EngineInventory) -> Vec<Match<'w>> {
    let mut matches = services(None, word, world);
    if world.has_current() && !matches.is_empty() {
        return matches;
    }
    let projects: Vec<_> = matches
        .iter()
        .filter_map(|one| match one {
            Match::Service { project, .. } => Some(*project),
            _ => None,
        })
        .collect();
    // A service wins over its own project's volume and container, wherever its data is by now.
    let is_its_own = |labels: &BTreeMap<String, String>| {
        project_of(labels).is_some_and(|project| projects.contains(&project))
    };
    let others = containers(word, world).into_iter().filter(|one| !is_of_others(one, word, world));
    let others = others.chain(volume(word, world)).chain(volumes_by_key(word, world));
    matches.extend(others.filter(|one| match one {
        Match::Container(container) => !is_its_own(&container.labels),
        Match::Volume(volume) => !is_its_own(&volume.labels),
        Match::Service { .. } | Match::Directory(_) => true,
    }));
    matches
}

/// Returns whether a match is a container of another project than the user's, named by its name: an id names nothing
/// else.
fn is_of_others(one: &Match<'_>, word: &str, world: &EngineInventory) -> bool {
    let Match::Container(container) = one else { return false };
    let project = project_of(&container.labels);
    world.has_current() && container.name == word && project.is_some_and(|project| !world.is_current(project))
}

/// Returns what other projects than the user's own have of that name, and a bare name therefore does not mean.
pub(super) fn of_others<'w>(target: &Target, world: &'w EngineInventory) -> Vec<Match<'w>> {
    let (Target::Word(name) | Target::Service { project: None, service: name }) = target else {
        return Vec::new();
    };
    let services = all_services(world).into_iter().filter(|((_, service), _)| service == name);
    let services =
        services.map(|((project, service), containers)| Match::Service { project, service, containers });
    let containers = containers(name, world).into_iter().filter(|one| is_of_others(one, name, world));
    services.chain(containers.filter(|_| matches!(target, Target::Word(_)))).collect()
}

/// Returns the services of that name. Without a project, only those of the user's own; where none is known, those of
/// all projects, and first those that are below the user's directory.
fn services<'w>(project: Option<&str>, service: &str, world: &'w EngineInventory) -> Vec<Match<'w>> {
    let mut all: Vec<_> = all_services(world).into_iter().collect();
    all.retain(|&((owner, name), _)| name == service && project.is_none_or(|project| project == owner));
    if project.is_none() && world.has_current() {
        all.retain(|((owner, _), _)| world.is_current(owner));
    }
    all.sort_by_key(|((owner, _), _)| !world.is_below(owner));
    let service = |((project, service), containers)| Match::Service { project, service, containers };
    all.into_iter().map(service).collect()
}

/// Returns every service there is, by project and name; a stack of Swarm counts as a project.
pub(super) fn all_services(world: &EngineInventory) -> BTreeMap<(&str, &str), Vec<&Container>> {
    let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for container in nameable(world) {
        let of_compose = Membership::of(&container.labels).map(|member| (member.project, member.service));
        if let Some(service) = of_compose.or_else(|| stack_service(container)) {
            services.entry(service).or_default().push(container);
        }
    }
    services
}

/// Returns every container except volsnap's own throwaway ones.
pub(super) fn nameable(world: &EngineInventory) -> impl Iterator<Item = &Container> {
    world.containers.iter().filter(|container| !container.labels.contains_key(LABEL_RUN))
}

/// Returns the container with exactly that name, else those whose id begins with it, and the tasks of the Swarm service
/// of that name: their own names are made up.
fn containers<'w>(name: &str, world: &'w EngineInventory) -> Vec<Match<'w>> {
    if let Some(container) = nameable(world).find(|container| container.name == name) {
        return vec![Match::Container(container)];
    }
    let is_id = name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_meant = |container: &&Container| {
        let by_id = is_id && container.id.starts_with(&name.to_ascii_lowercase());
        by_id || Orchestrator::swarm_service(container) == Some(name)
    };
    nameable(world).filter(is_meant).map(Match::Container).collect()
}

fn volume<'w>(name: &str, world: &'w EngineInventory) -> Option<Match<'w>> {
    world.volumes.iter().find(|volume| volume.name == name).map(Match::Volume)
}

/// Returns the volumes that the current project's file calls `key`.
fn volumes_by_key<'w>(key: &str, world: &'w EngineInventory) -> Vec<Match<'w>> {
    let is_called = |volume: &&Volume| {
        VolumeKey::of(&volume.labels)
            .is_some_and(|called| called.key == key && volume.name != key && world.is_current(called.project))
    };
    world.volumes.iter().filter(is_called).map(Match::Volume).collect()
}
