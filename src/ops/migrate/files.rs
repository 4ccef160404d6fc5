//! What will become of files and containers, found out before anything is touched: which files are edited and how, and who
//! makes which container anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::plan::PlannedEdit;
use super::rehearsal::Rehearsal;
use crate::compose::command::{Compose, Spelling};
use crate::compose::configuration::{Change, Configuration};
use crate::compose::edit::{
    EditError, EditOptions, FileEdit, MountChange, Written, edit_back, edit_override,
};
use crate::compose::files::{FilesError, FoundProject};
use crate::compose::{Membership, Recreate};
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::model::source::User;
use crate::ops::made_from::{Changes, changes, set_variables};
use crate::ops::sharers::Sharers;
use crate::selector::{is_anonymous, location_of};
use crate::service::identity::ContainerIdentity;
use crate::service::sharing::shares;

/// What Compose says of a container that `run` made.
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";

/// How a container is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// By Compose, from its files.
    Compose,
    /// By the engine, like the one before.
    Engine,
    /// Not at all: whoever wants it makes again what `compose run` made.
    Never,
}

/// Returns how a container is made anew.
pub(super) fn how(container: &Container) -> How {
    let one_off = container.labels.get(ONE_OFF_LABEL).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    match Membership::of(&container.labels) {
        Some(_) => How::Compose,
        // What `compose run` made is of no service.
        None if one_off => How::Never,
        None => How::Engine,
    }
}

/// What will become of files and containers.
#[derive(Default)]
pub(super) struct Switch {
    /// The Compose projects.
    pub(super) projects: Vec<Project>,
    /// Every container that is made anew, with the path where it mounts the data.
    pub(super) containers: Vec<(Container, PathBuf)>,
    /// The ids of those that only share something of these, and that Compose makes anew with them.
    sharers: BTreeSet<String>,
    /// What is worth knowing beforehand.
    pub(super) warnings: Vec<String>,
}

/// A Compose project whose services are made anew.
pub(super) struct Project {
    pub(super) recreate: Recreate,
    pub(super) edits: Vec<FileEdit>,
    /// Containers that must be gone before the new ones are made: Compose would give those the old mount.
    pub(super) in_the_way: Vec<ContainerIdentity>,
    /// The ids of those that only share something of the others, and that Compose makes anew with them.
    sharers: Vec<String>,
    /// The services of those that it cannot make anew with them.
    left_out: Vec<String>,
}

impl Switch {
    /// Returns the edits in the form that a person sees.
    pub(super) fn planned_edits(&self) -> Vec<PlannedEdit> {
        let edits = self.projects.iter().flat_map(|project| &project.edits);
        edits
            .map(|edit| PlannedEdit {
                path: edit.path.clone(),
                new: edit.before.is_none(),
                removed: edit.after.is_none(),
                diff: edit.diff(),
            })
            .collect()
    }

    /// Returns where a container that is made anew mounts the data.
    pub(super) fn mounted_at(&self, container: &Container) -> Option<&Path> {
        let found = self.containers.iter().find(|(one, _)| one.id == container.id);
        found.map(|(_, at)| at.as_path())
    }

    /// Returns what is worth keeping of the edits for the way back.
    pub(super) fn written(&self) -> Vec<Written> {
        self.projects.iter().flat_map(|project| &project.edits).filter_map(FileEdit::written).collect()
    }

    /// Returns whether Compose makes this container anew, which shares something of one that it makes anew.
    pub(super) fn makes_sharer(&self, container: &Container) -> bool {
        self.sharers.contains(&container.id)
    }

    /// Returns the commands that do the same by hand, once the files are edited.
    pub(super) fn commands(&self) -> Vec<Hint> {
        let command = |project: &Project, options: &[&str], services: &[String]| {
            let services: Vec<&str> = services.iter().map(String::as_str).collect();
            Hint::shell(
                project.recreate.compose.command(&[&["up", "-d", "--no-deps"], options, &services].concat()),
            )
        };
        let mut commands = Vec::new();
        for project in &self.projects {
            commands.push(command(project, &[], &project.recreate.services));
            if !project.left_out.is_empty() {
                commands.push(command(project, &["--force-recreate"], &project.left_out));
            }
        }
        commands
    }
}

impl Rehearsal<'_> {
    /// Plans the edits of the files, and who makes which container anew. Touches nothing.
    pub(super) async fn plan_switch(
        &self,
        users: &[(User, PathBuf)],
        (from, to): (&MountSource, &MountSource),
        written: &[Written],
        sharers: &Sharers,
    ) -> Result<Switch> {
        let mut switch = Switch::default();
        let mut projects: BTreeMap<&str, Vec<(&Container, &Path)>> = BTreeMap::new();
        for (user, at) in users {
            let container = &user.container;
            match (how(container), Membership::of(&container.labels)) {
                (How::Compose, Some(member)) => {
                    projects.entry(member.project).or_default().push((container, at));
                }
                (How::Never, _) if container.state.running => {
                    return Err(Error::failed(format!(
                        "container {} was made by `compose run` and still runs: it cannot be made again as it is",
                        container.name
                    ))
                    .hint(Hint::docker(["stop", &container.name]).why("if what it does may end")));
                }
                (How::Never, _) => {
                    switch.warnings.push(format!("container {} stays with the old data", container.name));
                    continue;
                }
                _ => {}
            }
            switch.containers.push((container.clone(), at.clone()));
        }
        for (name, containers) in &projects {
            let is_of_it = |one: &&Container| {
                how(one) == How::Compose
                    && Membership::of(&one.labels).is_some_and(|member| member.project == *name)
                    && containers.iter().all(|(container, _)| container.id != one.id)
            };
            let sharers: Vec<&Container> = sharers.containers.iter().filter(is_of_it).collect();
            let project = self.plan_project((containers, &sharers), (from, to), written).await?;
            switch.sharers.extend(project.sharers.iter().cloned());
            if !project.in_the_way.is_empty() {
                switch.warnings.extend(containers.iter().flat_map(|(container, _)| renewed(container, from)));
            }
            switch.projects.push(project);
        }
        Ok(switch)
    }

    async fn plan_project(
        &self,
        (containers, sharers): (&[(&Container, &Path)], &[&Container]),
        (from, to): (&MountSource, &MountSource),
        written: &[Written],
    ) -> Result<Project> {
        let (first, _) = containers[0];
        let found = FoundProject::of(&first.labels, &self.options.environment)
            .map_err(|error| self.no_files(first, error))?;
        let runner = &self.context.compose;
        let spelling =
            Spelling::find(&**runner).await.context(|| format!("make container {} anew", first.name))?;
        let compose = Compose::of(runner, spelling, &first.labels, Some(&self.context.address));
        let mut compose = compose.map_err(|error| self.no_files(first, error))?;
        let users: Vec<&Container> = containers.iter().map(|(container, _)| *container).collect();
        let configuration = self.configuration(&compose).await?;
        // Those of whose services the files say nothing any more the engine makes anew.
        let is_named = |one: &&Container| {
            Membership::of(&one.labels).is_some_and(|member| configuration.has(member.service))
        };
        let named: Vec<&Container> = sharers.iter().copied().filter(is_named).collect();
        // Version 1 cannot; then the engine makes them anew, too.
        let (sharers, left_out) =
            if spelling.joins_stopped() { (named, Vec::new()) } else { (Vec::new(), named) };
        if !spelling.joins_stopped() {
            refuse_sharing(&users)?;
        }
        let asked = [&users[..], &sharers[..]].concat();
        self.refuse_changed(&compose, (&found, &configuration), &asked).await?;
        let mut services = BTreeSet::new();
        let mut changes = Vec::new();
        for (container, at) in containers {
            let Some(member) = Membership::of(&container.labels) else { continue };
            if !services.insert(member.service.to_owned()) {
                return Err(Error::failed(format!(
                    "service {} has more than one container on the same data",
                    member.service
                ))
                .hint(Hint::advice("scale it down to one, and try again")));
            }
            changes.push(MountChange {
                service: member.service.to_owned(),
                destination: (*at).to_owned(),
                from: from.clone(),
                to: to.clone(),
            });
        }
        let options = EditOptions { guards_source: spelling.guards_source() };
        let edits = if self.options.override_file {
            edit_override(&found.files, &changes, options).map(|edit| edit.into_iter().collect())
        } else {
            let here = |edit: &&Written| found.files.texts.contains_key(&edit.path);
            let written: Vec<Written> = written.iter().filter(here).cloned().collect();
            edit_back(&found.files, &changes, &written, options)
        };
        let edits: Vec<FileEdit> = edits.map_err(|error| self.not_edited(first, error))?;
        for edit in &edits {
            compose = match (&edit.before, &edit.after) {
                (None, _) => compose.with_file(edit.path.clone()),
                (_, None) => compose.without_file(&edit.path),
                _ => compose,
            };
        }
        let clings = spelling.clings_to_volumes();
        let in_the_way = containers.iter().filter(|_| clings);
        let in_the_way = in_the_way.map(|(container, _)| ContainerIdentity::of(container)).collect();
        let services_of = |sharers: &[&Container]| -> Vec<String> {
            let members = sharers.iter().filter_map(|sharer| Membership::of(&sharer.labels));
            members.map(|member| member.service.to_owned()).collect()
        };
        services.extend(services_of(&sharers));
        let recreate = Recreate { compose, services: services.into_iter().collect() };
        let left_out = services_of(&left_out);
        let sharers = sharers.iter().map(|sharer| sharer.id.clone()).collect();
        Ok(Project { recreate, edits, in_the_way, sharers, left_out })
    }

    fn no_files(&self, container: &Container, error: FilesError) -> Error {
        let hint = match &error {
            FilesError::NotNamed | FilesError::StandardInput => {
                Hint::docker(["inspect", "--format", "{{json .Config.Labels}}", &container.name])
                    .why("says which project it is of; make it anew from a file that stays, then try again")
            }
            _ => Hint::advice("put the file back where it was, and try again"),
        };
        Error::failed(format!("find the compose files of container {}", container.name))
            .with_source(error)
            .hint(hint)
    }

    fn not_edited(&self, container: &Container, error: EditError) -> Error {
        let hint = match &error {
            EditError::Different(_) | EditError::NoService { .. } | EditError::NoMount { .. } => {
                Hint::mounts(&container.name)
                    .why("what it has: let the compose file say the same of the data, then try again")
            }
            EditError::Unreadable { file, .. } | EditError::Circle { file } => {
                let edit = format!("\"${{EDITOR:-vi}}\" {}", shell_quote(&file.to_string_lossy()));
                Hint::shell(edit).why("mend it, then try again")
            }
            EditError::Missing { .. } => Hint::advice("put the file back where it was, and try again"),
            EditError::Explicit { .. } | EditError::UnusedOverride { .. } => {
                Hint::instead(&["--override"], [""; 0]).why("edits the compose file itself")
            }
            _ if self.options.override_file => {
                Hint::advice("write the mount as SOURCE:TARGET in the compose file, and try again")
            }
            _ => Hint::again(["--override"]).why("writes an override file instead"),
        };
        Error::failed(format!("edit the compose files of container {}", container.name))
            .with_source(error)
            .hint(hint)
    }

    async fn configuration(&self, compose: &Compose) -> Result<Configuration> {
        let asked = compose.configuration().await.context(|| "ask Compose what the files say".to_owned());
        asked.map_err(|error| {
            let look = Hint::shell(compose.command(&["config", "--quiet"]));
            error.hint(look.why("shows what it does not understand"))
        })
    }

    /// Refuses files that no longer say what the containers were made from: making them anew would change more than the
    /// mount.
    async fn refuse_changed(
        &self,
        compose: &Compose,
        (found, configuration): (&FoundProject, &Configuration),
        containers: &[&Container],
    ) -> Result<()> {
        for container in containers {
            let Some(member) = Membership::of(&container.labels) else { continue };
            let of = (member.service, *container);
            let (what, hint) = match changes(self.context, compose, configuration, of).await? {
                Changes::Named(changes) => {
                    let names: Vec<_> = changes.iter().map(ToString::to_string).collect();
                    (names.join(", "), self.as_the_files_say(container, &changes))
                }
                Changes::Unknown if !found.changed_since(created(container)).is_empty() => {
                    ("they have changed since".to_owned(), self.as_the_files_say(container, &[]))
                }
                Changes::None | Changes::Unknown => continue,
            };
            return Err(Error::failed(format!(
                "the compose files say another thing than container {} was made from: {what}",
                container.name
            ))
            .hint(set_variables(configuration).unwrap_or(hint)));
        }
        Ok(())
    }

    /// Returns how container and files come to say the same. What would bring the service up on other data is never
    /// advised; whatever else changes is named and asked about by the restart, which compares the data afterwards.
    fn as_the_files_say(&self, container: &Container, changes: &[Change]) -> Hint {
        let has = |is: fn(&Change) -> bool| changes.iter().any(is);
        if has(|change| matches!(change, Change::Gone)) {
            Hint::advice("have the compose file name the service again, and try again")
        } else if has(|change| matches!(change, Change::Mount(_))) {
            Hint::mounts(&container.name)
                .why("what it has: let the compose file name the data where it is, then try again")
        } else {
            Hint::volsnap(["restart", &self.options.target.spelling(), "--recreate"])
                .why("makes it as they say, and says what that would change; then try again")
        }
    }
}

/// Refuses to have docker-compose 1 make a container anew on the data that shares something of another one: it would
/// silently get a network of its own.
fn refuse_sharing(users: &[&Container]) -> Result<()> {
    for one in users {
        if let Some(other) = users.iter().find(|other| one.id != other.id && shares(one, other)) {
            return Err(Error::failed(format!(
                "docker-compose 1 cannot make container {} anew beside {}, of which it shares the network or the like: \
                 install Compose 2, the plugin `docker compose`",
                one.name, other.name
            ))
            .hint(Hint::advice("install Compose 2, and try again")));
        }
    }
    Ok(())
}

/// Says which unnamed volumes a container loses if it is made anew after it is gone.
fn renewed(container: &Container, data: &MountSource) -> Vec<String> {
    let volumes = container.mounts.iter().filter_map(|mount| Some((location_of(mount)?, &mount.destination)));
    let anonymous = volumes.filter(|(location, _)| location != data && is_anonymous(location));
    let said = |(location, at): (MountSource, &PathBuf)| match location {
        MountSource::Volume(name) => format!(
            "container {} gets a new volume at {}, since docker-compose 1 makes it; the one it has is kept: {name}",
            container.name,
            at.display()
        ),
        MountSource::Directory(_) => String::new(),
    };
    anonymous.map(said).collect()
}

/// Returns when a container was made; the beginning of time if nothing tells.
fn created(container: &Container) -> SystemTime {
    chrono::DateTime::parse_from_rfc3339(&container.created).map_or(SystemTime::UNIX_EPOCH, SystemTime::from)
}
