//! Recreating the containers of services with Compose, from the files they were made from.
//!
//! Compose only creates them here; the caller starts them. So a Compose that is ended in the middle leaves no
//! container running that nobody knows of.

use std::sync::Arc;
use std::time::Duration;

use super::Membership;
use super::command::{Compose, ComposeError, Spelling};
use super::files::FilesError;
use super::runner::Runner;
use crate::model::container::Container;

/// How long Compose may take: it may have to fetch an image.
pub const RECREATE_LIMIT: Duration = Duration::from_mins(10);
/// How long a container that somebody started meanwhile may take to stop.
const GRACE: Duration = Duration::from_mins(10);

/// Why volsnap cannot recreate containers.
#[derive(Debug, thiserror::Error)]
pub enum RecreateError {
    /// There is none.
    #[error("there is no container to recreate")]
    None,
    /// Its files cannot be found.
    #[error("find the compose files of container {container}")]
    Files {
        /// Its name.
        container: String,
        /// Why.
        source: FilesError,
    },
    /// Compose failed.
    #[error(transparent)]
    Compose(#[from] ComposeError),
}

/// Compose, and the services whose containers it recreates.
#[derive(Debug, Clone)]
pub struct Recreate {
    /// Compose, on their project.
    pub compose: Compose,
    /// The services.
    pub services: Vec<String>,
}

impl Recreate {
    /// Returns how to recreate the services of these containers that belong to the project of the first one.
    /// Touches nothing.
    ///
    /// # Errors
    /// When the containers are not Compose's, or the files are gone.
    pub async fn of(
        runner: &Arc<dyn Runner>,
        containers: &[&Container],
        address: Option<&str>,
    ) -> Result<Self, RecreateError> {
        Self::by(runner, Spelling::find(&**runner).await?, containers, address)
    }

    fn by(
        runner: &Arc<dyn Runner>,
        spelling: Spelling,
        containers: &[&Container],
        address: Option<&str>,
    ) -> Result<Self, RecreateError> {
        let first = containers.first().ok_or(RecreateError::None)?;
        let compose = Compose::of(runner, spelling, &first.labels, address)
            .map_err(|source| RecreateError::Files { container: first.name.clone(), source })?;
        let project = Membership::of(&first.labels).map(|member| member.project);
        let members = containers.iter().filter_map(|container| Membership::of(&container.labels));
        let mut services: Vec<String> = members
            .filter(|member| Some(member.project) == project)
            .map(|member| member.service.to_owned())
            .collect();
        services.dedup();
        Ok(Self { compose, services })
    }

    /// Returns whether it makes this container anew.
    #[must_use]
    pub fn makes(&self, container: &Container) -> bool {
        Membership::of(&container.labels).is_some_and(|member| {
            member.project == self.compose.project() && self.services.iter().any(|one| one == member.service)
        })
    }

    /// Returns the command that a person would type.
    #[must_use]
    pub fn command(&self) -> String {
        let services: Vec<&str> = self.services.iter().map(String::as_str).collect();
        self.compose.command(&[&["up", "-d", "--force-recreate", "--no-deps"], &services[..]].concat())
    }

    /// Recreates the containers and does not start them. `run` marks Compose's processes.
    ///
    /// # Errors
    /// When Compose fails, with its output.
    pub async fn create(&self, run: &str) -> Result<(), ComposeError> {
        self.compose.create(&self.services, run, GRACE, RECREATE_LIMIT).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::compose::runner::Processes;

    fn runner() -> Arc<dyn Runner> {
        Arc::new(Processes)
    }

    fn container(directory: &Path, project: &str, service: &str, files: &str) -> Container {
        let directory = directory.display().to_string();
        let labels = [
            ("project", project),
            ("service", service),
            ("project.working_dir", &directory),
            ("project.config_files", files),
        ];
        let labels =
            labels.map(|(name, value)| (format!("com.docker.compose.{name}"), value.to_owned())).into();
        Container { name: format!("{project}_{service}_1"), labels, ..Container::default() }
    }

    #[test]
    fn the_project_is_named_as_it_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::write(at.join("compose.yaml"), "").unwrap();
        std::fs::write(at.join("o.yaml"), "").unwrap();
        let other_file = at.join("o.yaml").display().to_string();
        let db = container(at, "app", "db", &format!("compose.yaml,{other_file}"));
        let (web, other) = (container(at, "app", "web", ""), container(at, "other", "db", ""));
        let recreate = Recreate::by(&runner(), Spelling::One, &[&db, &web, &other], None).unwrap();
        assert_eq!(
            recreate.command(),
            format!(
                "docker-compose --project-name app --project-directory {0} --file {0}/compose.yaml --file {0}/o.yaml \
                 up -d --force-recreate --no-deps db web",
                at.display()
            )
        );
    }

    #[test]
    fn what_compose_did_not_make_or_cannot_find_again_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let of = |container: &Container| match Recreate::by(&runner(), Spelling::One, &[container], None)
            .unwrap_err()
        {
            RecreateError::Files { source, .. } => source,
            other => panic!("{other}"),
        };
        assert!(matches!(of(&Container::default()), FilesError::NotCompose));
        assert!(matches!(of(&container(directory.path(), "app", "db", "")), FilesError::NotNamed));
        let gone = of(&container(directory.path(), "app", "db", "compose.yaml"));
        assert!(matches!(gone, FilesError::Gone { .. }), "{gone}");
    }
}
