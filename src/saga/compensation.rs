//! Compensations: what puts an effect back, as data. Each is idempotent, so that a second run of it
//! (by the guard, by `recover`) harms nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::restart::{self, StoppedContainer};
use super::volume::{self, Workplace};
use super::{Patience, Result, SagaError};
use crate::docker::Docker;
use crate::docker::helper::LABEL_RUN;
use crate::monitor::Monitor;

/// What puts an effect back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compensation {
    /// Start the containers that were stopped, in this order, and wait until each answers.
    StartContainers {
        /// The containers, in the order of their start.
        containers: Vec<StoppedContainer>,
    },
    /// Remove the helper of a run, if the container of that name is that run's.
    RemoveHelper {
        /// The container's name.
        name: String,
        /// The run whose helper it is.
        run: String,
    },
    /// Remove the helper of a run whose creation was asked for and never answered: the engine may be
    /// about to create it, so it is looked for until that is past.
    RemoveExpectedHelper {
        /// The container's name.
        name: String,
        /// The run whose helper it would be.
        run: String,
    },
    /// Remove the files of a snapshot that was never published. With its manifest a snapshot
    /// exists, and then nothing is removed.
    DiscardUnpublished {
        /// The manifest, whose existence makes the snapshot one.
        manifest: PathBuf,
        /// Every other file it may have left.
        files: Vec<PathBuf>,
    },
    /// Have the old data of a source back in its place, unless the new was confirmed. To be registered
    /// after what starts the users, so that it is done before.
    SwapBack {
        /// The source and the run.
        place: Workplace,
        /// The containers that must not run meanwhile.
        users: Vec<StoppedContainer>,
    },
    /// Remove what a run has made in a source.
    DiscardWork {
        /// The source and the run.
        place: Workplace,
        /// Whether old data may go that was replaced and is kept nowhere else.
        with_old: bool,
    },
    /// Remove a volume, if that run has made it.
    RemoveVolume {
        /// The volume's name.
        name: String,
        /// The run that has made it.
        run: String,
    },
    /// Remove a directory of our own and what is in it.
    DeleteDirectory {
        /// The directory.
        path: PathBuf,
    },
}

impl Compensation {
    /// Returns the name of the step, for whoever watches.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::StartContainers { .. } => "start-containers",
            Self::RemoveHelper { .. } | Self::RemoveExpectedHelper { .. } => "remove-helper",
            Self::DiscardUnpublished { .. } => "discard-unpublished",
            Self::SwapBack { .. } => "undo-swap",
            Self::DiscardWork { .. } => "discard-work",
            Self::RemoveVolume { .. } => "remove-volume",
            Self::DeleteDirectory { .. } => "delete-directory",
        }
    }

    /// Returns what it does, in words for a person, as "start db_1".
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::StartContainers { containers } => {
                let names: Vec<_> =
                    containers.iter().map(|container| container.identity.name.as_str()).collect();
                format!("start {}", names.join(", "))
            }
            Self::RemoveHelper { name, .. } | Self::RemoveExpectedHelper { name, .. } => {
                format!("remove the helper container {name}")
            }
            Self::DiscardUnpublished { manifest, .. } => {
                format!("remove the unfinished snapshot of {}", manifest.display())
            }
            Self::SwapBack { place, .. } => format!("have the old data back in {}", place.describe()),
            Self::DiscardWork { place, .. } => {
                format!("remove {} from {}", place.directory(), place.describe())
            }
            Self::RemoveVolume { name, .. } => format!("remove the volume {name}"),
            Self::DeleteDirectory { path } => format!("remove {}", path.display()),
        }
    }

    /// Returns the command a person can type where this could not be done.
    #[must_use]
    pub fn by_hand(&self) -> Option<String> {
        match self {
            Self::StartContainers { containers } => {
                let names: Vec<_> = containers
                    .iter()
                    .map(|container| crate::target::shell_quote(&container.identity.name))
                    .collect();
                Some(format!("docker start {}", names.join(" ")))
            }
            _ => None,
        }
    }

    /// Puts the effect back, trying for as long as `patience` allows.
    ///
    /// # Errors
    /// When it cannot be put back.
    pub async fn run(&self, docker: &dyn Docker, patience: Patience, monitor: &dyn Monitor) -> Result<()> {
        match self {
            Self::StartContainers { containers } => {
                restart::start_all(docker, containers, patience, monitor).await
            }
            Self::RemoveHelper { name, run } => {
                remove_helper(docker, name, run, Duration::ZERO, patience).await
            }
            Self::RemoveExpectedHelper { name, run } => {
                remove_helper(docker, name, run, CREATION_UNDER_WAY, patience).await
            }
            Self::DiscardUnpublished { manifest, files } => discard_unpublished(manifest, files),
            Self::SwapBack { place, users } => {
                volume::swap_back(docker, place, users, patience, monitor).await
            }
            Self::DiscardWork { place, with_old } => {
                volume::discard(docker, place, *with_old, patience, monitor).await
            }
            Self::RemoveVolume { name, run } => volume::remove_volume(docker, name, run, patience).await,
            Self::DeleteDirectory { path } => gone(path, std::fs::remove_dir_all(path)),
        }
    }
}

/// How long a helper's removal is tried at most: nothing live hangs on it, so nobody waits long.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);

/// Longer than an engine takes to create a container after its client is gone.
const CREATION_UNDER_WAY: Duration = Duration::from_secs(3);

pub(super) async fn remove_helper(
    docker: &dyn Docker,
    name: &str,
    run: &str,
    expected: Duration,
    patience: Patience,
) -> Result<()> {
    let begun = Instant::now();
    let deadline = begun + patience.0.min(HELPER_PATIENCE);
    loop {
        let attempt = async {
            match docker.container(name).await? {
                // By its label, since the name alone may belong to a later run's helper by now.
                Some(container) if container.labels.get(LABEL_RUN).is_some_and(|label| label == run) => {
                    docker.remove_container(&container.id).await.map(|()| true)
                }
                // The name is another's: ours cannot be created any more.
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

fn discard_unpublished(manifest: &Path, files: &[PathBuf]) -> Result<()> {
    let published =
        manifest.try_exists().map_err(|source| SagaError::Remove { path: manifest.to_owned(), source })?;
    if published {
        return Ok(());
    }
    for path in files {
        gone(path, std::fs::remove_file(path))?;
    }
    Ok(())
}

fn gone(path: &Path, outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SagaError::Remove { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_an_unpublished_snapshot_are_removed_however_many_there_are() {
        let directory = tempfile::tempdir().unwrap();
        let (manifest, archive) = (directory.path().join("s.json"), directory.path().join("s.tar.zst"));
        let files = [archive.clone(), directory.path().join("never-written")];
        std::fs::write(&archive, "x").unwrap();
        discard_unpublished(&manifest, &files).unwrap();
        assert!(!archive.exists());
        discard_unpublished(&manifest, &files).unwrap();
    }

    #[test]
    fn a_published_snapshot_is_kept_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (manifest, archive) = (directory.path().join("s.json"), directory.path().join("s.tar.zst"));
        std::fs::write(&archive, "x").unwrap();
        std::fs::write(&manifest, "{}").unwrap();
        discard_unpublished(&manifest, std::slice::from_ref(&archive)).unwrap();
        assert!(archive.exists());
    }
}
