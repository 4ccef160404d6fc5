//! Everything a target may mean: what the engine has on record, and the user's directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;

use super::Target;
use crate::compose::{DirectoryProject, Membership, WORKING_DIR_LABEL, projects_below};
use crate::engine::Docker;
use crate::model::container::{Container, Volume};
use crate::model::error::{Context as _, Result};
use crate::model::hint::Hint;
use crate::model::location::normalize;
use crate::model::orchestrator::without_dead_tasks;
use crate::model::quote::printable;
use crate::model::source::OtherRun;

/// How many containers the engine is asked about at once.
const LOOKS_AT_ONCE: usize = 16;

/// What the user says of containers that the rules would take for something else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bystanders {
    /// Names of those to hold with the users, though they can only see the source.
    pub hold: Vec<String>,
    /// Names of those to leave alone, though they use the source.
    pub ignore: Vec<String>,
    /// The name of the container that we run in ourselves, if we do: it may mount anything that it looks at.
    pub own: Option<String>,
}

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
    /// The projects whose files are in directories below the current one.
    pub projects_below: Vec<DirectoryProject>,
    /// Data directories that running databases themselves name, by container id: they win over the
    /// container's configuration.
    pub data_directories: BTreeMap<String, PathBuf>,
    /// What the processes of containers have open, and where they work, as their container calls it, by container id;
    /// nothing of a container that could not be asked.
    pub open_files: BTreeMap<String, Vec<PathBuf>>,
    /// What the user says of containers by name.
    pub bystanders: Bystanders,
    /// Where the directories of projects really are, and ours, by the names that they have here; those that are the same
    /// need not be in it.
    pub real_directories: BTreeMap<PathBuf, PathBuf>,
    /// The target as it was typed.
    pub typed: String,
    /// The words of our command that hints complete with a target: "snapshot".
    pub command: Vec<String>,
}

impl EngineInventory {
    /// Returns what the engine has on record, seen from `directory` (absolute).
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn of(docker: &dyn Docker, directory: &Path, compose_project: Option<&str>) -> Result<Self> {
        let listed = docker.containers().await.context(|| "list the containers".to_owned())?;
        let mut containers = without_dead_tasks(listed);
        // Both at once: somebody may wait for what is held meanwhile. No container mounts a volume that is made later.
        let ((), volumes) = tokio::join!(look_into(docker, &mut containers), docker.volumes());
        let mut inventory = Self {
            containers,
            volumes: volumes.context(|| "list the volumes".to_owned())?,
            directory: directory.to_owned(),
            compose_project: compose_project.filter(|name| !name.is_empty()).map(str::to_owned),
            directory_project: DirectoryProject::discover(directory),
            projects_below: projects_below(directory),
            data_directories: BTreeMap::new(),
            open_files: BTreeMap::new(),
            bystanders: Bystanders::default(),
            real_directories: BTreeMap::new(),
            typed: String::new(),
            command: vec!["snapshot".to_owned()],
        };
        let of_projects = inventory.containers.iter().filter_map(project_with_directory);
        let of_file = inventory.directory_project.iter().map(|project| project.directory.clone());
        let all = of_projects.map(|(_, directory)| directory).chain(of_file).chain([directory.to_owned()]);
        let real = all.filter_map(|directory| Some((directory.canonicalize().ok()?, directory)));
        inventory.real_directories = real.map(|(real, directory)| (directory, real)).collect();
        Ok(inventory)
    }

    /// Returns the command, to paste, that names this target instead.
    pub(super) fn command_for(&self, target: &Target) -> Hint {
        let by = target.spelling();
        let otherwise = self.command.iter().cloned().chain([by.clone()]).collect();
        Hint::Replaced { word: self.typed.clone(), by, otherwise, why: None }
    }

    /// Returns where a directory really is.
    fn real<'a>(&'a self, directory: &'a Path) -> &'a Path {
        self.real_directories.get(directory).map_or(directory, PathBuf::as_path)
    }

    /// Returns whether a project is known to be the user's own.
    pub(super) fn has_current(&self) -> bool {
        !self.current_projects().is_empty()
    }

    /// Returns the names of the user's own projects.
    pub(super) fn current_in_words(&self) -> String {
        let names: Vec<_> = self.current_projects().into_iter().map(printable).collect();
        names.join(", ")
    }

    /// Returns whether a project's directory is below the user's.
    pub(super) fn is_below(&self, project: &str) -> bool {
        let here = self.real(&self.directory);
        let mut all = self.containers.iter().filter_map(project_with_directory);
        all.any(|(name, directory)| name == project && self.real(&directory).starts_with(here))
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
        let labelled: Vec<_> =
            labelled.iter().map(|(project, directory)| (*project, self.real(directory))).collect();
        let by_file = self.directory_project.as_ref();
        let depth = |directory: &Path| directory.components().count();
        let here = self.real(&self.directory);
        let nearest = labelled
            .iter()
            .filter(|(_, directory)| here.starts_with(directory))
            .max_by_key(|(_, directory)| depth(directory));
        let Some((_, nearest)) = nearest else {
            return by_file.map(|project| project.name.as_str()).into_iter().collect();
        };
        let is_nearer = |project: &&DirectoryProject| depth(self.real(&project.directory)) > depth(nearest);
        if let Some(project) = by_file.filter(is_nearer) {
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

/// Looks what runs in the containers that have data mounted: an entrypoint of any name may have started a server. What
/// cannot be looked into is known by its configuration alone.
async fn look_into(docker: &dyn Docker, containers: &mut [Container]) {
    let to_see = |container: &&mut Container| {
        container.state.running && !container.mounts.is_empty() && OtherRun::of(container).is_none()
    };
    let looks = containers.iter_mut().filter(to_see).map(async |container| {
        match docker.processes(&container.id).await {
            Ok(processes) => container.processes = processes,
            Err(error) => tracing::debug!(%error, "cannot see what runs there"),
        }
    });
    futures_util::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).collect::<Vec<()>>().await;
}

/// Returns a container's project and the directory of that project.
fn project_with_directory(container: &Container) -> Option<(&str, PathBuf)> {
    let directory = Path::new(container.labels.get(WORKING_DIR_LABEL)?);
    let project = Membership::of(&container.labels)?.project;
    directory.is_absolute().then(|| (project, normalize(directory)))
}
