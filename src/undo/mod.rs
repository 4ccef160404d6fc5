//! Compensations: what puts an effect back, as data. Each is idempotent, so a second run of it (by the guard, by
//! `recover`) does no harm.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};

pub mod archive_old;
pub mod one_time_key;
mod processes;
pub mod recreate;
pub mod restore_old;
pub mod retract_copy;
pub mod swap;

use self::archive_old::ArchiveReplacedData;
use self::one_time_key::AskIdentities;
use self::recreate::ReplacedContainer;
use self::restore_old::SafetySnapshotRef;
use self::retract_copy::MigratedCopy;
use self::swap::HelperTarget;
use crate::agent::client::AgentError;
use crate::clock::Clock;
use crate::compose::replacement::Replacement;
use crate::disk::whole_file::write_json;
use crate::engine::{Docker, DockerErrorKind};
use crate::model::event::Monitor;
use crate::model::hint::Hint;
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::repository::SnapshotObjects;
use crate::saga::{Compensation, Rank, RetryBudget};
use crate::service::freeze::{self, PausedContainer};
use crate::service::identity::ContainerIdentity;
use crate::service::own_command::{OwedCommand, pay};
use crate::service::sharing::Sharer;
use crate::service::start;
use crate::service::start::StoppedContainer;

/// A run with an [`Undo`] for each of its effects.
pub type Saga = crate::saga::Saga<Undo>;
/// Its journal.
pub type Journal = crate::saga::Journal<Undo>;
/// What it could not put back.
pub type Leftovers = crate::saga::Leftovers<Undo>;

/// The result of an undo.
pub type Result<T, E = UndoError> = std::result::Result<T, E>;

/// Why something could not be put back.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::engine::DockerError),
    /// A service is not back.
    #[error(transparent)]
    Service(#[from] crate::service::ServiceError),
    /// The contents of a volume or directory could not be put back.
    #[error("put back what is in {place}")]
    Volume {
        /// Which.
        place: String,
        /// Why.
        source: Box<crate::agent::client::AgentError>,
    },
    /// A file could not be put back.
    #[error(transparent)]
    File(#[from] crate::compose::replacement::ReplaceError),
    /// Whatever has the place of a container could not be stopped.
    #[error("stop what has the place of container {container}")]
    Replacement {
        /// The container to put back.
        container: String,
        /// Why.
        source: crate::engine::DockerError,
    },
    /// What a restore has replaced could not be kept.
    #[error("keep the old data, which lies whole in {} of {place}", .old.display())]
    Safety {
        /// The volume or directory.
        place: String,
        /// Where in it the old data lies.
        old: PathBuf,
        /// Why.
        source: Box<crate::Error>,
    },
    /// What exists of a snapshot could not be removed.
    #[error(transparent)]
    Repository(#[from] crate::repository::RepositoryError),
    /// A file could not be removed.
    #[error("remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A record could not be written.
    #[error("write {path}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A process did not end.
    #[error("end process {pid}")]
    NotEnded {
        /// The process.
        pid: i32,
    },
}

/// What undos act on.
#[derive(Debug, Clone)]
pub struct World {
    /// The engine.
    pub docker: Arc<dyn Docker>,
    /// Tells the time.
    pub clock: Clock,
    /// The state directory, which has the journal and the keys of safety snapshots.
    pub state: PathBuf,
    /// Asks for the identity that the environment names, if anybody can be asked.
    pub identities: Option<Arc<dyn AskIdentities>>,
}

/// What puts an effect back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// Start the containers that were stopped, in this order, and wait until each answers.
    StartContainers {
        /// The containers, in the order of their start.
        containers: Vec<StoppedContainer>,
    },
    /// Run what its owner wants to be run in a container once it is back. Register it before the undo that starts the
    /// container, so that it runs after.
    RunCommand {
        /// The container and the command.
        owed: OwedCommand,
    },
    /// Unfreeze the containers that were frozen.
    Unpause {
        /// The containers.
        containers: Vec<PausedContainer>,
    },
    /// Remove the helper of a run, if the container of that name belongs to that run.
    RemoveHelper {
        /// The container's name.
        name: String,
        /// The run whose helper it is.
        run: String,
    },
    /// Remove the helper of a run whose creation was requested and never answered. The engine may be about to create
    /// it, so this looks for it until that can no longer happen.
    RemoveExpectedHelper {
        /// The container's name.
        name: String,
        /// The run whose helper it would be.
        run: String,
    },
    /// Remove the container that guards a run, if it does not run: one that does removes itself once the run is finished.
    RemoveGuard {
        /// The container's name.
        name: String,
        /// The run that it guards.
        run: String,
    },
    /// Remove the files of a snapshot that was never published. If its manifest exists, so does the snapshot, and
    /// nothing is removed.
    DiscardUnpublished(
        /// Every object that it may have.
        SnapshotObjects,
    ),
    /// Swap the old data of a source back into its place, unless the new was confirmed. Register it after the undo
    /// that starts the users, so that it runs before.
    SwapBack {
        /// The source and the run.
        place: HelperTarget,
        /// The containers that must not run meanwhile.
        users: Vec<StoppedContainer>,
    },
    /// Restore the old data of a source from its safety snapshot, if it was removed for want of room, unless the new
    /// was confirmed.
    #[serde(alias = "bring-back")]
    RestoreOldData {
        /// The source and the run.
        place: HelperTarget,
        /// The snapshot.
        kept: SafetySnapshotRef,
        /// The containers that must not run meanwhile.
        users: Vec<StoppedContainer>,
    },
    /// Remove what a run has made in a source.
    DiscardWork {
        /// The source and the run.
        place: HelperTarget,
        /// Whether it may remove old data that was replaced and is kept nowhere else.
        with_old: bool,
    },
    /// Keep the old data of a source as a safety snapshot, then remove it, if the new was confirmed. Nothing live
    /// depends on it: it runs after all others, and not in a command that somebody waits for.
    #[serde(alias = "keep-old")]
    ArchiveReplaced {
        /// The source and the run.
        place: HelperTarget,
        /// The snapshot.
        safety: ArchiveReplacedData,
    },
    /// Remove a volume, if that run made it.
    RemoveVolume {
        /// The volume's name.
        name: String,
        /// The run that made it.
        run: String,
    },
    /// End the processes that a run has started beside itself. Register it after the undo that starts the users, so
    /// that none of these processes can reverse that.
    EndProcesses {
        /// The run whose mark they carry.
        run: String,
    },
    /// Remove a directory that a run has made for the restored data, if it is still that one: another may have its
    /// name.
    RemoveMadeDirectory {
        /// The directory.
        path: PathBuf,
        /// The device it is on.
        device: u64,
        /// Its inode.
        inode: u64,
    },
    /// Remove a directory that a run has made above another one, unless it holds something by now.
    RemoveEmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Remove a directory of our own with its contents.
    DeleteDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Put back the containers that others have replaced; register it after the undo that starts them.
    PutBackContainers {
        /// The containers.
        containers: Vec<ReplacedContainer>,
    },
    /// Make anew the containers that share something of others, its network above all, and these were made anew.
    /// Register it before the undo that puts those back, so that it runs after.
    Rejoin {
        /// The containers, in the order of their start.
        sharers: Vec<Sharer>,
    },
    /// Remove the containers that were set aside, once others have their places for good.
    RemoveReplaced {
        /// The containers.
        containers: Vec<ContainerIdentity>,
    },
    /// Take a copy that no service will run on out of its place. If a service has run on it, it stays for the user to
    /// examine.
    #[serde(alias = "withdraw")]
    RetractCopy {
        /// The copy.
        copy: MigratedCopy,
    },
    /// Put a file back as it was before it was replaced, unless somebody else has changed it since.
    RestoreFile {
        /// The file and its backup.
        file: Replacement,
    },
    /// Record what the run has done, for the way back; register it before the run has succeeded.
    KeepRecord {
        /// The file.
        path: PathBuf,
        /// What the record should contain; `None` for a record that is now void.
        record: Option<Value>,
    },
}

impl Undo {
    /// Returns the command that a person can type if this could not be done.
    #[must_use]
    pub fn by_hand(&self) -> Option<Hint> {
        match self {
            Self::StartContainers { containers } => {
                let names = containers.iter().map(|container| container.identity.name.as_str());
                Some(Hint::docker(["start"]).and(names))
            }
            Self::Unpause { containers } => {
                let names = containers.iter().map(|container| container.name.as_str());
                Some(Hint::docker(["unpause"]).and(names))
            }
            Self::RunCommand { owed } => {
                let words = owed.command.run.iter().map(String::as_str);
                // With its password it is not printed; the recovery runs it.
                owed.command.is_shown_whole().then(|| Hint::docker(["exec", &owed.container.name]).and(words))
            }
            Self::RestoreFile { file } => {
                let quoted = |path: &Path| crate::model::quote::shell_quote(&path.to_string_lossy());
                let back = |backup: &PathBuf| format!("mv {} {}", quoted(backup), quoted(&file.path));
                file.backup.as_ref().map(|backup| Hint::shell(back(backup)))
            }
            _ => None,
        }
    }
}

impl UndoError {
    /// Returns whether a container was not started because somebody else runs on its data.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Service(crate::service::ServiceError::Taken { .. }))
    }

    /// Returns what to type before it is tried again, if nothing opens what the old data is kept in.
    #[must_use]
    pub fn needed_key(&self) -> Option<&Hint> {
        match self {
            Self::Volume { source, .. } => match &**source {
                AgentError::NoKey(error) => error.hints().first(),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Undo {
    /// Returns the volume or directory that it changes, if it is about one.
    pub(crate) fn location(&self) -> Option<MountSource> {
        match self {
            Self::SwapBack { place, .. }
            | Self::RestoreOldData { place, .. }
            | Self::DiscardWork { place, .. }
            | Self::ArchiveReplaced { place, .. } => Some(place.location.clone()),
            Self::RetractCopy { copy } => Some(copy.place.location.clone()),
            Self::RemoveVolume { name, .. } => Some(MountSource::Volume(name.clone())),
            _ => None,
        }
    }
}

impl Compensation for Undo {
    type World = World;
    type Error = UndoError;

    fn rank(&self) -> Rank {
        match self {
            Self::EndProcesses { .. } => Rank::EndProcesses,
            Self::SwapBack { .. }
            | Self::RestoreOldData { .. }
            | Self::PutBackContainers { .. }
            | Self::Rejoin { .. }
            | Self::RestoreFile { .. } => Rank::Data,
            Self::StartContainers { .. } | Self::Unpause { .. } | Self::RunCommand { .. } => Rank::Service,
            Self::RemoveHelper { .. } | Self::RemoveExpectedHelper { .. } => Rank::Helper,
            Self::DiscardWork { .. } | Self::RetractCopy { .. } => Rank::Work,
            Self::DiscardUnpublished { .. }
            | Self::RemoveVolume { .. }
            | Self::RemoveMadeDirectory { .. }
            | Self::RemoveEmptyDirectory { .. }
            | Self::DeleteDirectory { .. }
            | Self::RemoveReplaced { .. }
            | Self::RemoveGuard { .. }
            | Self::KeepRecord { .. } => Rank::Cleanup,
            Self::ArchiveReplaced { .. } => Rank::Later,
        }
    }

    /// Containers, by id and by name: one that was made anew has another id.
    fn concerns(&self) -> Vec<String> {
        let of = |id: &String, name: &String| [id.clone(), format!("name:{name}")];
        match self {
            Self::StartContainers { containers: users }
            | Self::SwapBack { users, .. }
            | Self::RestoreOldData { users, .. } => {
                users.iter().flat_map(|user| of(&user.identity.id, &user.identity.name)).collect()
            }
            Self::Unpause { containers } => {
                containers.iter().flat_map(|one| of(&one.id, &one.name)).collect()
            }
            Self::PutBackContainers { containers } => {
                containers.iter().flat_map(|one| of(&one.identity.id, &one.identity.name)).collect()
            }
            // One that shares something cannot keep the one that it shares it of from its start: it has no data in its
            // hands, and what it could lose is named by the undo that puts the others back.
            _ => Vec::new(),
        }
    }

    fn step(&self) -> &'static str {
        match self {
            Self::StartContainers { .. } => "start-containers",
            Self::Unpause { .. } => "unpause-containers",
            Self::RunCommand { .. } => "run-command",
            Self::RemoveHelper { .. } | Self::RemoveExpectedHelper { .. } => "remove-helper",
            Self::RemoveGuard { .. } => "remove-guard",
            Self::DiscardUnpublished { .. } => "discard-unpublished",
            Self::SwapBack { .. } => "undo-swap",
            Self::RestoreOldData { .. } => "undo-empty",
            Self::DiscardWork { .. } => "discard-work",
            Self::ArchiveReplaced { .. } => "keep-old",
            Self::RemoveVolume { .. } => "remove-volume",
            Self::EndProcesses { .. } => "end-processes",
            Self::RestoreFile { .. } => "restore-file",
            Self::PutBackContainers { .. } => "put-back-containers",
            Self::Rejoin { .. } => "rejoin",
            Self::RemoveReplaced { .. } => "remove-replaced",
            Self::RetractCopy { .. } => "withdraw",
            Self::KeepRecord { .. } => "keep-record",
            Self::RemoveMadeDirectory { .. }
            | Self::RemoveEmptyDirectory { .. }
            | Self::DeleteDirectory { .. } => "delete-directory",
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::StartContainers { containers } => {
                let names: Vec<_> =
                    containers.iter().map(|container| container.identity.name.as_str()).collect();
                format!("start {}", names.join(", "))
            }
            Self::Unpause { containers } => {
                let names: Vec<_> = containers.iter().map(|container| container.name.as_str()).collect();
                format!("unfreeze {}", names.join(", "))
            }
            Self::RunCommand { owed } => {
                format!("run `{}` in {}", owed.command.title(), owed.container.name)
            }
            Self::RemoveHelper { name, .. } | Self::RemoveExpectedHelper { name, .. } => {
                format!("remove the helper container {name}")
            }
            Self::RemoveGuard { name, .. } => format!("remove the guard container {name} if it does not run"),
            Self::DiscardUnpublished(objects) => {
                format!("remove the unfinished snapshot of {}", objects.manifest_path().display())
            }
            Self::SwapBack { place, .. } => format!("have the old data back in {}", place.describe()),
            Self::RestoreOldData { place, kept, .. } => {
                format!("have the old data back in {} from {}", place.describe(), kept.name)
            }
            Self::DiscardWork { place, .. } => {
                format!("remove {} from {}", place.directory(), place.describe())
            }
            Self::ArchiveReplaced { place, safety } => format!(
                "keep what was replaced in {} as the safety snapshot {}",
                place.describe(),
                safety.name()
            ),
            Self::RemoveVolume { name, .. } => format!("remove the volume {name}"),
            Self::EndProcesses { .. } => "end what it has started beside itself".to_owned(),
            Self::RestoreFile { file } => format!("have {} as it was", file.path.display()),
            Self::PutBackContainers { containers } => {
                format!("have {} back", names_of(containers.iter().map(|one| &one.identity)))
            }
            Self::Rejoin { sharers } => {
                let names = names_of(sharers.iter().map(|one| &one.identity));
                format!("have {names} share what they shared before, as their network")
            }
            Self::RemoveReplaced { containers } => {
                format!("remove what was replaced by {}", names_of(containers.iter()))
            }
            Self::RetractCopy { copy } => format!("take the copy out of {}", copy.place.describe()),
            Self::KeepRecord { path, record: Some(_) } => format!("keep the record {}", path.display()),
            Self::KeepRecord { path, record: None } => format!("remove the record {}", path.display()),
            Self::RemoveMadeDirectory { path, .. }
            | Self::RemoveEmptyDirectory { path }
            | Self::DeleteDirectory { path } => {
                format!("remove {}", path.display())
            }
        }
    }

    async fn run(&self, world: &World, budget: RetryBudget, monitor: &dyn Monitor) -> Result<()> {
        let docker = &*world.docker;
        match self {
            Self::StartContainers { containers } => {
                Ok(start::start_all(docker, containers, budget, monitor).await?)
            }
            Self::Unpause { containers } => {
                Ok(freeze::unpause_all(docker, containers, budget, monitor).await?)
            }
            Self::RunCommand { owed } => Ok(pay(docker, owed, monitor).await?),
            Self::RemoveHelper { name, run } => {
                remove_helper(docker, name, run, Duration::ZERO, budget).await
            }
            Self::RemoveExpectedHelper { name, run } => {
                remove_helper(docker, name, run, CREATION_UNDER_WAY, budget).await
            }
            Self::RemoveGuard { name, run } => Ok(remove_idle_guard(docker, name, run).await?),
            Self::DiscardUnpublished(objects) => {
                objects.discard_unpublished(budget.0.min(DISCARD_LIMIT)).await?;
                Ok(())
            }
            Self::SwapBack { place, users } => swap::swap_back(world, place, users, budget, monitor).await,
            Self::RestoreOldData { place, kept, users } => {
                restore_old::restore(world, place, kept, users, budget, monitor).await
            }
            Self::DiscardWork { place, with_old } => swap::discard(world, place, *with_old, budget).await,
            Self::ArchiveReplaced { place, safety } => {
                archive_old::archive(world, place, safety, budget, monitor).await
            }
            Self::RemoveVolume { name, run } => swap::remove_volume(docker, name, run, budget).await,
            Self::EndProcesses { run } => processes::end(run, budget).await,
            Self::RemoveMadeDirectory { path, device, inode } => remove_made(path, (*device, *inode)),
            Self::RemoveEmptyDirectory { path } => match std::fs::remove_dir(path) {
                // It belongs to somebody else by now.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                outcome => gone(path, outcome),
            },
            Self::DeleteDirectory { path } => gone(path, std::fs::remove_dir_all(path)),
            Self::RestoreFile { file } => Ok(file.undo()?),
            Self::PutBackContainers { containers } => {
                recreate::put_back(docker, containers, budget, monitor).await
            }
            Self::Rejoin { sharers } => recreate::rejoin(docker, sharers, budget, monitor).await,
            Self::RemoveReplaced { containers } => {
                recreate::remove_replaced(docker, containers, budget).await
            }
            Self::RetractCopy { copy } => copy.retract(world, budget, monitor).await,
            Self::KeepRecord { path, record } => keep_record(path, record.as_ref()),
        }
    }
}

/// The longest time to retry removing a helper: nothing live depends on it, so nobody waits long.
const HELPER_BUDGET: Duration = Duration::from_secs(30);

/// How long to wait for a repository that does not answer: services run, and somebody may wait for the command.
const DISCARD_LIMIT: Duration = Duration::from_secs(60);

/// Longer than an engine takes to create a container after its client is gone.
const CREATION_UNDER_WAY: Duration = Duration::from_secs(3);

pub(super) async fn remove_helper(
    docker: &dyn Docker,
    name: &str,
    run: &str,
    expected: Duration,
    budget: RetryBudget,
) -> Result<()> {
    let begun = Instant::now();
    let deadline = begun + budget.0.min(HELPER_BUDGET);
    loop {
        let attempt = async {
            match docker.container(name).await? {
                // Go by its label: the name alone may belong to a later run's helper by now.
                Some(container) if container.labels.get(LABEL_RUN).is_some_and(|label| label == run) => {
                    docker.remove_container(&container.id).await.map(|()| true)
                }
                // Another run has the name: ours can no longer be created.
                Some(_) => Ok(true),
                None => Ok(begun.elapsed() >= expected),
            }
        };
        match attempt.await {
            Ok(true) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Ok(false) | Err(_) => sleep(Duration::from_millis(300)).await,
        }
    }
}

/// Removes a guard that was made and never started.
async fn remove_idle_guard(docker: &dyn Docker, name: &str, run: &str) -> crate::engine::Result<()> {
    match docker.container(name).await? {
        Some(guard) if guard.labels.get(LABEL_RUN).is_some_and(|label| label == run) => {
            match docker.remove_stopped_container(&guard.id).await {
                // It runs, or the engine is about to start it again.
                Err(error) if error.kind == DockerErrorKind::Conflict => Ok(()),
                outcome => outcome,
            }
        }
        _ => Ok(()),
    }
}

fn names_of<'r>(containers: impl Iterator<Item = &'r ContainerIdentity>) -> String {
    containers.map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ")
}

pub(super) fn remove_made(path: &Path, identity: (u64, u64)) -> Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if (metadata.dev(), metadata.ino()) == identity => {
            gone(path, std::fs::remove_dir_all(path))
        }
        Ok(_) => Ok(()),
        Err(error) => gone(path, Err(error)),
    }
}

pub(crate) fn keep_record(path: &Path, record: Option<&Value>) -> Result<()> {
    match record {
        Some(record) => {
            write_json(path, record).map_err(|source| UndoError::Record { path: path.to_owned(), source })
        }
        None => gone(path, std::fs::remove_file(path)),
    }
}

fn gone(path: &Path, outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(UndoError::Remove { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod format_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_format_1_about_an_unpublished_snapshot_is_understood() {
        let line = r#"{"discard-unpublished":{
            "manifest": "/backups/snapshots/db/db-20261120T203011Z-4f2a91.json",
            "files": [
                "/backups/snapshots/db/db-20261120T203011Z-4f2a91.json.partial",
                "/backups/snapshots/db/db-20261120T203011Z-4f2a91.json",
                "/backups/snapshots/db/db-20261120T203011Z-4f2a91.tar.zst.partial",
                "/backups/snapshots/db/db-20261120T203011Z-4f2a91.tar.zst"]}}"#;
        let undo: Undo = serde_json::from_str(line).unwrap();
        let says = "remove the unfinished snapshot of /backups/snapshots/db/db-20261120T203011Z-4f2a91.json";
        assert_eq!(undo.describe(), says);
        // What is now written means the same.
        let again: Undo = serde_json::from_value(serde_json::to_value(&undo).unwrap()).unwrap();
        assert_eq!(again, undo);
    }

    #[test]
    fn a_made_directory_is_removed_and_no_other_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let (made, aside) = (directory.path().join("made"), directory.path().join("aside"));
        std::fs::create_dir(&made).unwrap();
        let metadata = made.metadata().unwrap();
        let identity = (metadata.dev(), metadata.ino());
        std::fs::rename(&made, &aside).unwrap();
        std::fs::create_dir(&made).unwrap();
        std::fs::write(made.join("precious"), "x").unwrap();
        remove_made(&made, identity).unwrap();
        assert!(made.join("precious").exists());
        std::fs::remove_dir_all(&made).unwrap();
        std::fs::rename(&aside, &made).unwrap();
        remove_made(&made, identity).unwrap();
        assert!(!made.exists());
        remove_made(&made, identity).unwrap();
    }
}
