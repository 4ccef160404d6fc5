//! The switch: the copy gets to its place, files name it, containers are made anew on it; and the proof that the
//! service runs on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::MigrateRun;
use super::copy::{Hold, marker_files};
use super::plan::PlannedEdit;
use super::prepare::{Database, Prepared};
use crate::agent::calls::{Commit, SwapIn};
use crate::compose::command::{Compose, Spelling};
use crate::compose::configuration::Change;
use crate::compose::edit::{
    EditError, EditOptions, FileEdit, MountChange, Written, edit_back, edit_override,
};
use crate::compose::files::{FilesError, FoundProject};
use crate::compose::replacement::Replacement;
use crate::compose::{Membership, RECREATE_LIMIT, Recreate};
use crate::database;
use crate::database::compare::{ComparisonContext, compare};
use crate::engine::NewMount;
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::facts::Facts;
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::model::source::{Source, User, key_of};
use crate::ops::made_from::{Changes, changes, set_variables};
use crate::ops::sharers::Sharers;
use crate::saga::{Terms, When};
use crate::selector::{is_anonymous, location_of};
use crate::service::identity::{ContainerIdentity, find_recreated};
use crate::service::sharing::{rejoin, shares};
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::recreate::ReplacedContainer;

/// How long the service may take to answer on the copy.
const START_LIMIT: Duration = Duration::from_mins(5);
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
    projects: Vec<Project>,
    /// Every container that is made anew, with the path where it mounts the data.
    containers: Vec<(Container, PathBuf)>,
    /// The ids of those that only share something of these, and that Compose makes anew with them.
    sharers: BTreeSet<String>,
    /// What is worth knowing beforehand.
    pub(super) warnings: Vec<String>,
}

/// A Compose project whose services are made anew.
struct Project {
    recreate: Recreate,
    edits: Vec<FileEdit>,
    /// Containers that must be gone before the new ones are made: Compose would give those the old mount.
    in_the_way: Vec<ContainerIdentity>,
    /// The ids of those that only share something of the others, and that Compose makes anew with them.
    sharers: Vec<String>,
    /// The services of those that it cannot make anew with them.
    left_out: Vec<String>,
}

/// What the switch has done.
pub(super) struct Switched {
    /// What the edited files were before.
    pub(super) backups: Vec<PathBuf>,
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

impl MigrateRun<'_> {
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
        let runner = &self.run.context.compose;
        let spelling =
            Spelling::find(&**runner).await.context(|| format!("make container {} anew", first.name))?;
        let compose = Compose::of(runner, spelling, &first.labels, Some(&self.run.context.address));
        let mut compose = compose.map_err(|error| self.no_files(first, error))?;
        let users: Vec<&Container> = containers.iter().map(|(container, _)| *container).collect();
        // Otherwise the engine makes them anew.
        let (sharers, left_out) =
            if spelling.joins_stopped() { (sharers, &[][..]) } else { (&[][..], sharers) };
        if !spelling.joins_stopped() {
            refuse_sharing(&users)?;
        }
        self.refuse_changed(&compose, &found, &[&users, sharers].concat()).await?;
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
        services.extend(services_of(sharers));
        let recreate = Recreate { compose, services: services.into_iter().collect() };
        let left_out = services_of(left_out);
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

    /// Refuses files that no longer say what the containers were made from: making them anew would change more than the
    /// mount.
    async fn refuse_changed(
        &self,
        compose: &Compose,
        found: &FoundProject,
        containers: &[&Container],
    ) -> Result<()> {
        let asked = compose.configuration().await.context(|| "ask Compose what the files say".to_owned());
        let configuration = asked.map_err(|error| {
            let look = Hint::shell(compose.command(&["config", "--quiet"]));
            error.hint(look.why("shows what it does not understand"))
        })?;
        for container in containers {
            let Some(member) = Membership::of(&container.labels) else { continue };
            let of = (member.service, *container);
            let (what, hint) = match changes(&self.run.context, compose, &configuration, of).await? {
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
            .hint(set_variables(&configuration).unwrap_or(hint)));
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

    /// Puts the copy in its place, edits the files to name it, and has the containers made anew on it, none of them
    /// started. The journal has each of these before it is done.
    pub(super) async fn switch(
        &self,
        saga: &mut Saga,
        prepared: &mut Prepared,
        hold: &mut Hold,
    ) -> Result<Switched> {
        let journal = || "write the journal".to_owned();
        let originals = self.describe(prepared).await?;
        let aside = originals
            .iter()
            .filter(|original| original.identity.service.is_none())
            .map(|original| original.identity.clone())
            .collect();
        let work = Undo::DiscardWork { place: prepared.place.clone(), with_old: true };
        saga.register(When::OnSuccess, work).context(journal)?;
        let remove = Undo::RemoveReplaced { containers: aside };
        saga.register(When::OnSuccess, remove).context(journal)?;

        self.run.phase(Phase::Swap, prepared.plan.to.clone(), None);
        self.run.monitor().step("swap-in");
        let swap = SwapIn {
            run: prepared.place.run.clone(),
            marker_files: marker_files(prepared.database.as_ref()),
            root: None,
        };
        prepared.agent.call(swap).await.context(|| format!("put the copy in {}", prepared.plan.to))?;

        let edits = prepared.switch.projects.iter().flat_map(|project| &project.edits);
        let mut backups = Vec::new();
        for edit in edits {
            let doing = || format!("edit {}", edit.path.display());
            let file = Replacement::of(edit, self.run.id.as_str()).context(doing)?;
            saga.register(When::OnFailure, Undo::RestoreFile { file: file.clone() }).context(journal)?;
            self.run.monitor().step("edit-file");
            file.make(edit).context(doing)?;
            backups.extend(file.backup);
        }
        // It comes after the next one: those that are put back are other containers by then.
        let sharers = prepared.sharers.records.clone();
        if !sharers.is_empty() {
            let rejoin = Undo::Rejoin { sharers: sharers.clone() };
            saga.register(When::OnFailure, rejoin).context(journal)?;
        }
        let back = Undo::PutBackContainers { containers: originals };
        saga.register(When::OnFailure, back).context(journal)?;
        self.make_anew(saga, prepared, hold).await?;
        let joined = rejoin(&*self.run.context.docker, &sharers, self.run.monitor()).await;
        joined.context(|| "make anew who shares the network of what was made anew".to_owned())?;
        self.refuse_wrong_mounts(prepared).await?;
        Ok(Switched { backups })
    }

    /// Describes every container that is about to be replaced.
    async fn describe(&self, prepared: &Prepared) -> Result<Vec<ReplacedContainer>> {
        let mut originals = Vec::new();
        for (container, at) in &prepared.switch.containers {
            let description = self.run.context.docker.inspect_raw(&container.id).await;
            originals.push(ReplacedContainer {
                identity: ContainerIdentity::of(container),
                description: description.context(|| format!("look at container {}", container.name))?,
                destination: at.clone(),
                source: prepared.source.location.clone(),
                database: database::of(container).map(|database| database.name().to_owned()),
            });
        }
        Ok(originals)
    }

    async fn make_anew(&self, saga: &mut Saga, prepared: &Prepared, hold: &mut Hold) -> Result<()> {
        let run = self.run.id.as_str();
        if !prepared.switch.projects.is_empty() {
            let end = Undo::EndProcesses { run: run.to_owned() };
            let end = saga.register(When::Always, end).context(|| "write the journal".to_owned())?;
            for project in &prepared.switch.projects {
                let services = project.recreate.services.join(", ");
                self.run.phase(Phase::Start, format!("Compose makes {services} anew"), None);
                for before in &project.in_the_way {
                    self.run.monitor().step("remove-container");
                    let removed = self.run.context.docker.remove_stopped_container(&before.id).await;
                    removed.context(|| format!("remove container {}", before.name))?;
                }
                self.run.monitor().step("recreate");
                self.run.lease(Terms::of_wait(RECREATE_LIMIT));
                project.recreate.create(run).await.context(|| format!("make {services} anew"))?;
            }
            saga.undo_now(end, self.run.monitor()).await.context(|| "end Compose".to_owned())?;
            self.run.lease(Terms::of_change());
        }
        let docker = &*self.run.context.docker;
        for (container, at) in &prepared.switch.containers {
            if how(container) != How::Engine {
                continue;
            }
            let doing = || format!("make container {} anew", container.name);
            let description = docker.inspect_raw(&container.id).await.context(doing)?;
            self.run.monitor().step("rename-aside");
            let aside = format!("{}-volsnap-{run}", container.name);
            docker.rename_container(&container.id, &aside).await.context(doing)?;
            self.run.monitor().step("create-like");
            let mount = NewMount { destination: at, source: &prepared.place.location };
            let made = docker.clone_container(&description, &container.name, Some(mount)).await;
            hold.held.takes_place(&container.id, made.context(doing)?);
        }
        // The old containers still exist, and must not be started in place of these.
        hold.held.update(saga)
    }

    /// Refuses containers that do not mount the copy where they mounted the data.
    async fn refuse_wrong_mounts(&self, prepared: &Prepared) -> Result<()> {
        let containers =
            self.run.context.docker.containers().await.context(|| "list containers".to_owned())?;
        for (before, at) in &prepared.switch.containers {
            let now = made_anew(before, &containers)?;
            let mount = now.mounts.iter().find(|mount| mount.destination == *at);
            if mount.and_then(location_of).as_ref() != Some(&prepared.place.location) {
                return Err(Error::failed(format!(
                    "container {} does not mount {} at {}",
                    now.name,
                    prepared.plan.to,
                    at.display()
                ))
                .hint(Hint::again(["--override"]).why("writes an override file instead")));
            }
        }
        Ok(())
    }

    /// Starts what was stopped on the copy, once: if one does not come up, the copy is the reason.
    pub(super) async fn start(&self, saga: &mut Saga, prepared: &Prepared, hold: &mut Hold) -> Result<()> {
        if hold.held.stopped.is_empty() {
            return Ok(());
        }
        hold.about_to_start(saga)?;
        let what = format!("start the service on {}", prepared.plan.to);
        let started = hold.held.start_once(self.run, START_LIMIT, &what).await?;
        // What is true of its data is compared before the copy stays.
        for failed in &started.unhealthy {
            self.run.monitor().warning(format!("{failed}, although its database answers; it passed before"));
        }
        Ok(())
    }

    /// Proves that the service runs on the copy, and that what was true of its data still is. Returns whether nothing
    /// was written in between, if that was compared.
    pub(super) async fn prove(
        &self,
        prepared: &Prepared,
        before: Option<&Facts>,
        hold: &Hold,
    ) -> Result<Option<bool>> {
        self.run.monitor().step("confirm");
        let containers =
            self.run.context.docker.containers().await.context(|| "list containers".to_owned())?;
        for (before, _) in prepared.switch.containers.iter().filter(|(before, _)| before.state.running) {
            let now = made_anew(before, &containers)?;
            if !now.state.running {
                return Err(Error::failed(format!(
                    "container {} does not run on {}",
                    now.name, prepared.plan.to
                ))
                .hint(Hint::advice("its log says why it ended")));
            }
        }
        let Some(database) = prepared.running_database() else { return Ok(None) };
        self.confirm_files(prepared, database, hold).await?;
        let Some(before) = before else { return Ok(None) };
        let container = made_anew(&database.container, &containers)?;
        let Some(after) = self.facts(&container, prepared.checks.as_ref()).await? else { return Ok(None) };
        let comparison = compare(
            before,
            &after,
            &ComparisonContext { container: Some(&container.name), ..ComparisonContext::default() },
        );
        if !comparison.ok() {
            let what = comparison.differences.iter().map(|difference| difference.object.clone());
            return Err(Error::failed(format!(
                "what is true of the data differs on {}: {}",
                prepared.plan.to,
                what.collect::<Vec<_>>().join(", ")
            ))
.hint(Hint::advice("find out who writes to it meanwhile, or what the container does at its start, then try again")));
        }
        let location = prepared.place.location.clone();
        let source = Source { key: key_of(&location), location, ..prepared.source.clone() };
        self.run.context.remember(&prepared.engine.id, &source, Some(after), None);
        Ok(Some(comparison.strict))
    }

    /// Reads the files that the database runs on, if this process may: they must be of the same database, and it must
    /// have been started on them.
    async fn confirm_files(&self, prepared: &Prepared, database: &Database, hold: &Hold) -> Result<()> {
        let Some(stopped) = &hold.stopped else { return Ok(()) };
        let path = match &prepared.place.location {
            MountSource::Directory(path) => Some(path.clone()),
            MountSource::Volume(name) => {
                let volume = self
                    .run
                    .context
                    .docker
                    .volume(name)
                    .await
                    .context(|| format!("look at volume {name}"))?;
                volume.map(|volume| volume.mountpoint)
            }
        };
        let Some(path) = path.and_then(|path| self.run.context.seen_here(&path)) else { return Ok(()) };
        let mounted_at = database.files.mounted_at.as_deref();
        let now = match database.files.known.inspect(&path, &database.files.data_directory, mounted_at) {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(%error, "the files are not for this user to read");
                return Ok(());
            }
        };
        if now.identifier != stopped.identifier {
            return Err(Error::failed("the database that runs is not the one that was copied").hint(
                Hint::advice(
                    "find out what else the container mounts, or who has started it, then try again",
                ),
            ));
        }
        if now.proof_digest == stopped.proof_digest {
            return Err(Error::failed(
                "the database answers, but not on the copy: its files are as they were copied",
            )
            .hint(Hint::advice(
                "find out what else the container mounts, or who has started it, then try again",
            )));
        }
        Ok(())
    }

    /// Makes the migration final: from the line in the journal on, nothing is undone.
    pub(super) async fn succeed(&self, saga: &mut Saga, prepared: &mut Prepared, hold: &Hold) -> Result<()> {
        let record = match self.record(prepared)? {
            Some(record) => {
                Some(saga.register(When::OnSuccess, record).context(|| "write the journal".to_owned())?)
            }
            None => None,
        };
        self.run.monitor().step("commit");
        let commit = Commit { run: prepared.place.run.clone() };
        prepared.agent.call(commit).await.context(|| format!("keep the copy in {}", prepared.plan.to))?;
        self.run.monitor().step("succeed");
        saga.succeed().context(|| "write the journal".to_owned())?;
        self.stays.store(true, std::sync::atomic::Ordering::Relaxed);
        self.run.monitor().step("succeeded");
        hold.held.dismiss(self.run, saga).await;
        if let Some(record) = record {
            // If it cannot be written now, the run's end tries again, and so does whoever finishes the run.
            let _ = saga.undo_now(record, self.run.monitor()).await;
        }
        // The helper has done its work; if it cannot be removed now, the run's end tries again.
        let _ = saga.undo_now(prepared.helper, self.run.monitor()).await;
        Ok(())
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

/// Returns the container that took the place of a replaced one, which may still exist.
fn made_anew(before: &Container, containers: &[Container]) -> Result<Container> {
    let others: Vec<Container> = containers.iter().filter(|other| other.id != before.id).cloned().collect();
    let now = find_recreated(&ContainerIdentity::of(before), &others).cloned();
    now.ok_or_else(|| {
        Error::failed(format!("container {} was not made anew", before.name))
            .hint(Hint::advice("find out who removes it, or what Compose says of it, then try again"))
    })
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
