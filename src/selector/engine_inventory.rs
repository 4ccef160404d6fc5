//! Everything a target may mean: what the engine has on record, and the user's directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Target;
use crate::compose::{DirectoryProject, Membership, WORKING_DIR_LABEL};
use crate::engine::Docker;
use crate::model::container::{Container, Volume};
use crate::model::error::{Context as _, Result};
use crate::model::hint::Hint;
use crate::model::location::normalize;
use crate::model::orchestrator::without_dead_tasks;

/// Everything a target may mean.
#[derive(Debug, Clone)]
pub struct EngineInventory {
    /// Every container, running or not, but for the [dead tasks](without_dead_tasks) of Swarm.
    pub containers: Vec<Container>,
    /// Every volume.
    pub volumes: Vec<Volume>,
    /// The current directory, absolute.
    pub directory: PathBuf,
    /// The project the user named (`COMPOSE_PROJECT_NAME`, `-p`).
    pub compose_project: Option<String>,
    /// The project whose file is in the current directory or above it.
    pub directory_project: Option<DirectoryProject>,
    /// Data directories that running databases themselves name, by container id: they win over the
    /// container's configuration.
    pub data_directories: BTreeMap<String, PathBuf>,
    /// The words of our command that hints complete with a target: "snapshot".
    pub command: Vec<String>,
}

impl EngineInventory {
    /// Returns what the engine has on record, seen from `directory` (absolute).
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn of(docker: &dyn Docker, directory: &Path, compose_project: Option<&str>) -> Result<Self> {
        let containers = docker.containers().await.context(|| "list the containers".to_owned())?;
        Ok(Self {
            containers: without_dead_tasks(containers),
            volumes: docker.volumes().await.context(|| "list the volumes".to_owned())?,
            directory: directory.to_owned(),
            compose_project: compose_project.filter(|name| !name.is_empty()).map(str::to_owned),
            directory_project: DirectoryProject::discover(directory),
            data_directories: BTreeMap::new(),
            command: vec!["snapshot".to_owned()],
        })
    }

    /// Returns the command, to paste, that names this target instead.
    pub(super) fn command_for(&self, target: &Target) -> Hint {
        Hint::volsnap(self.command.iter().cloned()).and([target.spelling()])
    }

    /// Returns whether this is the project of the user's directory.
    pub(super) fn is_current(&self, project: &str) -> bool {
        self.current_projects().contains(&project)
    }

    /// Returns the projects of the user's directory: the one named, else the one whose directory is
    /// nearest, by the labels of its containers or by its file.
    ///
    /// Several if they were made in the same directory under different names, and no file decides.
    fn current_projects(&self) -> Vec<&str> {
        if let Some(named) = &self.compose_project {
            return vec![named];
        }
        let labelled: Vec<_> = self.containers.iter().filter_map(project_with_directory).collect();
        let by_file = self.directory_project.as_ref();
        let depth = |directory: &Path| directory.components().count();
        let nearest = labelled
            .iter()
            .filter(|(_, directory)| self.directory.starts_with(directory))
            .max_by_key(|(_, directory)| depth(directory));
        let Some((_, nearest)) = nearest else {
            return by_file.map(|project| project.name.as_str()).into_iter().collect();
        };
        if let Some(project) = by_file.filter(|project| depth(&project.directory) > depth(nearest)) {
            return vec![&project.name];
        }
        let here: Vec<&str> = labelled
            .iter()
            .filter(|(_, directory)| directory == nearest)
            .map(|(project, _)| *project)
            .collect();
        match by_file.filter(|project| here.contains(&project.name.as_str())) {
            Some(project) => vec![&project.name],
            None => here,
        }
    }
}

/// Returns a container's project and the directory of that project.
fn project_with_directory(container: &Container) -> Option<(&str, PathBuf)> {
    let directory = Path::new(container.labels.get(WORKING_DIR_LABEL)?);
    let project = Membership::of(&container.labels)?.project;
    directory.is_absolute().then(|| (project, normalize(directory)))
}
