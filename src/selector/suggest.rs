//! What to type instead of an unknown name.

use std::collections::BTreeMap;

use super::Target;
use super::names::{Match, all_services, nameable, of_others};
use crate::compose::{Membership, VolumeKey, project_of};
use crate::model::container::{Container, Volume};
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::quote::printable;
use crate::selector::EngineInventory;

/// How alike (Jaro-Winkler) two names must be for volsnap to offer one for the other.
const ALIKE: f64 = 0.8;
/// Nobody would read more.
const MOST: usize = 3;

/// Returns the refusal of a target that names nothing, with the nearest names.
pub(super) fn unknown(target: &Target, world: &EngineInventory) -> Error {
    let nothing = match target {
        Target::Word(word) => format!("no service, container or volume is called \"{}\"", printable(word)),
        Target::Service { project: Some(project), service } => {
            format!("project {} has no service called \"{}\"", printable(project), printable(service))
        }
        Target::Service { project: None, service } => {
            format!("no service is called \"{}\"", printable(service))
        }
        Target::Container(name) => format!("no container is called \"{}\"", printable(name)),
        Target::Volume(name) => format!("no volume is called \"{}\"", printable(name)),
        // A directory always names itself; the engine says whether it exists.
        Target::Directory(path) => format!("there is no directory {}", printable(&path.to_string_lossy())),
    };
    let others: Vec<_> = of_others(target, world).iter().map(Match::target).collect();
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(ToString::to_string).collect();
        let commands = others.iter().take(MOST).map(|target| world.command_for(target));
        let message = format!(
            "{nothing} in the project here ({}); other projects have {}",
            world.current_in_words(),
            names.join(", ")
        );
        return Error::usage(message).with_hints(commands);
    }
    let prefixed = prefixed_volumes(target, world);
    let (said, offered) = if prefixed.is_empty() {
        ("the nearest names are", nearest(target, world))
    } else {
        ("with its project's prefix there is", prefixed)
    };
    if offered.is_empty() {
        return Error::usage(nothing).with_hints(projects_below(world).chain(what_there_is()));
    }
    let names: Vec<_> = offered.iter().map(ToString::to_string).collect();
    let commands: Vec<_> = offered.iter().map(|target| world.command_for(target)).collect();
    Error::usage(format!("{nothing}; {said} {}", names.join(", "))).with_hints(commands)
}

/// Refuses an option whose value names no container, with the nearest names.
///
/// # Errors
/// When there is none of that name.
pub fn refuse_unknown_container(option: &str, name: &str, world: &EngineInventory) -> Result<()> {
    if world.containers.iter().any(|container| container.name == name) {
        return Ok(());
    }
    let nothing = format!("no container is called \"{}\", which {option} names", printable(name));
    let candidates = candidates(world).into_iter().filter_map(|(called, project, target)| match target {
        Target::Container(_) => Some((called, project, target)),
        // A service is called otherwise than its containers.
        Target::Service { project: Some(project_name), service } => {
            let is_of_it = |one: &&Container| {
                Membership::of(&one.labels)
                    .is_some_and(|member| member.project == project_name && member.service == service)
            };
            let container = world.containers.iter().find(is_of_it)?;
            Some((called, project, Target::Container(container.name.clone())))
        }
        _ => None,
    });
    let near = nearest_of(name, candidates.collect(), world);
    let container = |target: &Target| match target {
        Target::Container(name) => Some(name.clone()),
        _ => None,
    };
    let names: Vec<String> = near.iter().filter_map(container).collect();
    if names.is_empty() {
        return Err(Error::usage(nothing).hint(Hint::docker(["ps", "--all"])));
    }
    // What else the option names stays.
    let without = format!("{option}={name}");
    let instead = names.iter().map(|name| Hint::instead(&[&without], [option, name]));
    let message = format!("{nothing}; the nearest names are {}", names.join(", "));
    Err(Error::usage(message).with_hints(instead))
}

/// Returns the commands that show what projects have whose files lie below the user's directory: their names are not
/// those of a project here.
fn projects_below(world: &EngineInventory) -> impl Iterator<Item = Hint> {
    let below = world.projects_below.iter().filter(|_| !world.has_current()).take(MOST);
    below.map(|project| {
        let directory = project.directory.to_string_lossy();
        Hint::docker(["compose", "--project-directory", &directory, "ps", "--all"])
            .why(format!("project {} has its file there", printable(&project.name)))
    })
}

/// Returns the commands that show what a target can name.
pub(super) fn what_there_is() -> [Hint; 2] {
    [Hint::docker(["ps", "--all"]), Hint::docker(["volume", "ls"])]
}

/// Returns the volumes with this name behind a project's: Compose adds that prefix, and an engine told to
/// mount the name without it would make an empty volume.
fn prefixed_volumes(target: &Target, world: &EngineInventory) -> Vec<Target> {
    let (Target::Volume(name) | Target::Word(name)) = target else { return Vec::new() };
    let project = |volume: &&Volume| VolumeKey::of(&volume.labels).map(|called| called.project.to_owned());
    let is_prefixed = |volume: &&Volume| {
        VolumeKey::of(&volume.labels).is_some_and(|called| called.key == name)
            || volume
                .name
                .strip_suffix(name.as_str())
                .is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('_'))
    };
    let mut prefixed: Vec<_> = world.volumes.iter().filter(is_prefixed).collect();
    prefixed.sort_by_key(|volume| !project(volume).is_some_and(|project| world.is_current(&project)));
    prefixed.into_iter().take(MOST).map(|volume| Target::Volume(volume.name.clone())).collect()
}

/// Returns the names most like the target's, of any kind: those that a slip of the finger makes of it first, of these
/// those of the user's own project, then the most alike.
fn nearest(target: &Target, world: &EngineInventory) -> Vec<Target> {
    let wanted = match target {
        Target::Word(name) | Target::Container(name) | Target::Volume(name) => name.to_lowercase(),
        Target::Service { service, .. } => service.to_lowercase(),
        Target::Directory(_) => return Vec::new(),
    };
    nearest_of(&wanted, candidates(world), world)
}

/// Returns what of these has the names most like the wanted one, in the same order.
fn nearest_of(
    wanted: &str,
    candidates: Vec<(&str, Option<&str>, Target)>,
    world: &EngineInventory,
) -> Vec<Target> {
    let wanted = wanted.to_lowercase();
    let mut best: BTreeMap<String, Candidate> = BTreeMap::new();
    for (name, project, target) in candidates {
        let name = name.to_lowercase();
        let candidate = Candidate {
            slips: strsim::osa_distance(&wanted, &name),
            is_ours: project.is_some_and(|project| world.is_current(project)),
            alike: likeness(&wanted, &name),
            target,
        };
        let known = best.entry(candidate.target.spelling());
        known
            .and_modify(|known| {
                if candidate.alike > known.alike {
                    *known = candidate.clone();
                }
            })
            .or_insert(candidate);
    }
    let mut best: Vec<_> =
        best.into_values().filter(|one| one.alike >= ALIKE || (one.slips <= 1 && wanted.len() > 2)).collect();
    // Stable: of equals, the spelling that sorts first.
    best.sort_by(|one, other| {
        let first = |one: &Candidate| (one.slips > 1, !one.is_ours);
        first(one).cmp(&first(other)).then(other.alike.total_cmp(&one.alike))
    });
    best.into_iter().take(MOST).map(|one| one.target).collect()
}

/// A name that may have been meant.
#[derive(Clone)]
struct Candidate {
    /// How many letters are missing, wrong, swapped or too many.
    slips: usize,
    /// Whether it is of the user's own project.
    is_ours: bool,
    alike: f64,
    target: Target,
}

/// Returns how alike two names are, from 0 to 1. A name with the other as a word in it is alike enough to
/// offer, such as `shop-db-1` for `db`.
fn likeness(wanted: &str, name: &str) -> f64 {
    let has_word = name.split(['-', '_', '.']).any(|word| word == wanted);
    let alike = strsim::jaro_winkler(wanted, name);
    if has_word { alike.max(ALIKE) } else { alike }
}

/// Returns every name, the project that has it, and what it names; a volume also by its key in Compose.
fn candidates(world: &EngineInventory) -> Vec<(&str, Option<&str>, Target)> {
    let mut candidates = Vec::new();
    for (project, service) in all_services(world).into_keys() {
        let target = Target::Service { project: Some(project.to_owned()), service: service.to_owned() };
        candidates.push((service, Some(project), target));
    }
    for container in nameable(world) {
        let target = Target::Container(container.name.clone());
        candidates.push((&container.name, project_of(&container.labels), target));
    }
    for volume in &world.volumes {
        let called = VolumeKey::of(&volume.labels);
        let names = [volume.name.as_str()].into_iter().chain(called.map(|called| called.key));
        let project = called.map(|called| called.project);
        candidates.extend(names.map(|name| (name, project, Target::Volume(volume.name.clone()))));
    }
    candidates
}
