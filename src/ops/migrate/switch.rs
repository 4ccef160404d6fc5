//! The switch: the copy gets to its place, files name it, containers are made anew on it; and the proof that the
//! service runs on it.

use std::path::PathBuf;
use std::time::Duration;

use super::MigrateRun;
use super::copy::{Hold, marker_files};
use super::files::{How, how};
use super::prepare::{Database, Prepared};
use crate::agent::calls::{Commit, SwapIn};
use crate::compose::RECREATE_LIMIT;
use crate::compose::replacement::Replacement;
use crate::database;
use crate::database::compare::{ComparisonContext, compare};
use crate::engine::NewMount;
use crate::model::container::{Container, owners};
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::facts::Facts;
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::source::{Source, key_of};
use crate::saga::{Terms, When};
use crate::selector::location_of;
use crate::service::identity::{ContainerIdentity, find_recreated};
use crate::service::sharing::{in_place, owners_first, rejoin};
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::recreate::ReplacedContainer;

/// How long the service may take to answer on the copy.
const START_LIMIT: Duration = Duration::from_mins(5);

/// What the switch has done.
pub(super) struct Switched {
    /// What the edited files were before.
    pub(super) backups: Vec<PathBuf>,
}

impl MigrateRun<'_> {
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
        let replaced = owners_first(prepared.switch.containers.iter().map(|(one, _)| one.clone()).collect());
        for container in replaced.iter().filter(|one| how(one) == How::Engine) {
            let Some(at) = prepared.switch.mounted_at(container) else { continue };
            let doing = || format!("make container {} anew", container.name);
            let mut description = docker.inspect_raw(&container.id).await.context(doing)?;
            let containers = docker.containers().await.context(doing)?;
            // What it shares it shares of those that have been made anew before it.
            for (namespace, owner) in owners(container, &replaced) {
                if let Some(there) = in_place(&ContainerIdentity::of(owner), &containers) {
                    description = description.sharing(namespace, &there.id);
                }
            }
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
            let although = failed.although();
            self.run.monitor().warning(format!("{failed}, although {although}; it passed before"));
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

/// Returns the container that took the place of a replaced one, which may still exist.
fn made_anew(before: &Container, containers: &[Container]) -> Result<Container> {
    let others: Vec<Container> = containers.iter().filter(|other| other.id != before.id).cloned().collect();
    let now = find_recreated(&ContainerIdentity::of(before), &others).cloned();
    now.ok_or_else(|| {
        Error::failed(format!("container {} was not made anew", before.name))
            .hint(Hint::advice("find out who removes it, or what Compose says of it, then try again"))
    })
}
